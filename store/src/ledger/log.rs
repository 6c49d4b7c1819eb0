//! The write-ahead log of an SQLite ledger, and how it gets to the disk.
//!
//! To sync it takes as long as the disk likes, and whoever writes to it meanwhile may have to wait. A platform has many runs on one ledger, each of
//! which has to know that what it is about to send is on the disk. So they share: one sync is for all that was written before it began.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use super::StoreError;

#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// How many have asked for a sync so far.
    asked: AtomicU64,
    /// How many of them have had it. Locked while there is one.
    served: Mutex<u64>,
}

impl Log {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            asked: AtomicU64::new(0),
            served: Mutex::new(0),
        }
    }

    /// Everything that was committed before this was called is on the disk once it answers.
    pub(super) async fn sync(&self) -> Result<(), StoreError> {
        let synced = self.share(async || {
            let path = self.path.clone();
            let synced = tokio::task::spawn_blocking(move || sync_file(&path));
            synced.await.unwrap_or_else(|error| Err(error.into()))
        });
        synced.await.map_err(|error| StoreError::Unusable {
            path: self.path.display().to_string(),
            reason: error.to_string(),
        })
    }

    async fn share<E>(&self, sync: impl AsyncFnOnce() -> Result<(), E>) -> Result<(), E> {
        let mine = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut served = self.served.lock().await;
        if *served >= mine {
            return Ok(());
        }
        let all = self.asked.load(Ordering::SeqCst);
        sync().await?;
        *served = all;
        Ok(())
    }
}

fn sync_file(path: &Path) -> std::io::Result<()> {
    match std::fs::File::open(path) {
        Ok(file) => file.sync_data(),
        // It has been folded into the ledger, which synced both.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn whoever_asks_during_a_sync_shares_the_next_one() {
        let log = Log::new(PathBuf::new());
        let syncs = AtomicU64::new(0);
        let sync = async || {
            let slowly = async || {
                syncs.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok::<_, ()>(())
            };
            log.share(slowly).await
        };
        let (a, b, c, d, e) = tokio::join!(sync(), sync(), sync(), sync(), sync());
        assert_eq!([a, b, c, d, e], [Ok(()); 5]);
        // The first had begun before the others asked.
        assert_eq!(syncs.load(Ordering::SeqCst), 2);
        sync().await.unwrap();
        assert_eq!(syncs.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_sync_that_fails_is_nobodys() {
        let log = Log::new(PathBuf::new());
        let fails = async || Err("no space");
        let (first, second) = tokio::join!(log.share(fails), log.share(fails));
        assert_eq!([first, second], [Err("no space"); 2]);
        assert_eq!(log.share(async || Ok::<_, ()>(())).await, Ok(()));
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_synced_is_named() {
        let error = Log::new("/dev/null".into()).sync().await.unwrap_err();
        assert!(error.to_string().contains("/dev/null"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        Log::new(folder.path().join("gone")).sync().await.unwrap();
    }
}
