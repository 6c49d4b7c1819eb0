//! Dead letters of a connection, and what its owner wishes to become of them.
//!
//! Only who holds a connection may write to its ledger, and the API holds none. So a wish is put down and carried out by the next run,
//! which is made due at once: [`wish`] here, [`carry_out`] there. A wish names letters; one that names a letter which is gone has no effect,
//! so that carrying out twice does no harm.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cortexdb::client::Client;
use crate::cortexdb::identity::Identity;
use crate::ledger::{DeadLetter, Lease, Store};
use crate::redact::Redactor;
use crate::run::forgetting;
use crate::writer::WriterError;
use crate::writer::resend::{Answer, Sender};
use connector_store::platform::{Platform, PlatformError};

/// Letters that one wish may name.
pub const MOST_WISHED: u32 = 10_000;
/// Letters that are sent again at a time: each may be large.
const SENT_AT_ONCE: usize = 100;

/// What is to become of letters, by source id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wishes {
    /// To be sent again.
    pub retry: BTreeSet<String>,
    /// To be let go of.
    pub drop: BTreeSet<String>,
}

impl Wishes {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.retry.is_empty() && self.drop.is_empty()
    }
}

/// Why wishes were not carried out.
#[derive(Debug, thiserror::Error)]
pub enum WishError {
    /// The database.
    #[error(transparent)]
    Store(#[from] PlatformError),
    /// CortexDB, or the ledger.
    #[error(transparent)]
    Writer(#[from] WriterError),
}

fn note(connection: &str) -> String {
    format!("letters.{connection}")
}

fn read(text: Option<&str>) -> Wishes {
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// What is wished for now.
pub async fn wishes(platform: &dyn Platform, connection: &str) -> Result<Wishes, PlatformError> {
    let text = platform.note(&note(connection)).await?;
    Ok(read(text.as_deref()))
}

/// Changes what is wished for, in one step: others wish at the same time, and a run carries out.
async fn change(
    platform: &dyn Platform,
    connection: &str,
    change: impl Fn(&mut Wishes),
) -> Result<Wishes, PlatformError> {
    let note = note(connection);
    loop {
        let was = platform.note(&note).await?;
        let mut all = read(was.as_deref());
        change(&mut all);
        let now = serde_json::to_string(&all)?;
        if was.as_deref() == Some(now.as_str())
            || platform.change_note(&note, was.as_deref(), &now).await?
        {
            return Ok(all);
        }
    }
}

/// Adds wishes. The later one for the same letter counts.
pub async fn wish(
    platform: &dyn Platform,
    connection: &str,
    more: &Wishes,
) -> Result<Wishes, PlatformError> {
    change(platform, connection, |all| {
        all.retry.retain(|id| !more.drop.contains(id));
        all.drop.retain(|id| !more.retry.contains(id));
        all.retry.extend(more.retry.iter().cloned());
        all.drop.extend(more.drop.iter().cloned());
    })
    .await
}

/// Lets go of wishes that were carried out; those that came in the meantime stay.
async fn done(
    platform: &dyn Platform,
    connection: &str,
    carried_out: &Wishes,
) -> Result<Wishes, PlatformError> {
    change(platform, connection, |all| {
        all.drop.retain(|id| !carried_out.drop.contains(id));
        all.retry.retain(|id| !carried_out.retry.contains(id));
    })
    .await
}

/// Does what was wished for, at the beginning of a run that holds the connection. Returns how many letters were stored and dropped.
pub async fn carry_out(
    platform: &dyn Platform,
    connection: &str,
    store: &Arc<dyn Store>,
    lease: Lease,
    cortex: Option<&(Client, Identity)>,
    redactor: &Redactor,
) -> Result<(u64, u64), WishError> {
    let wished = wishes(platform, connection).await?;
    if wished.is_empty() {
        return Ok((0, 0));
    }
    let drop: Vec<&str> = wished.drop.iter().map(String::as_str).collect();
    let dropped = store
        .drop_letters(lease, &drop)
        .await
        .map_err(PlatformError::from)?;
    let mut stored = 0;
    if let Some((client, identity)) = cortex
        && !wished.retry.is_empty()
    {
        let sender = Sender {
            client: client.clone(),
            forgetting: forgetting(Some(identity)),
            store: Arc::clone(store),
            lease,
            redactor: redactor.clone(),
        };
        let retry: Vec<&str> = wished.retry.iter().map(String::as_str).collect();
        for some in retry.chunks(SENT_AT_ONCE) {
            let kept = store.dead_letters(lease.connection, Some(some)).await;
            let kept = kept.map_err(PlatformError::from)?;
            let letters: Vec<DeadLetter> = kept.into_iter().map(|kept| kept.letter).collect();
            let answers = sender.resend(&letters).await?;
            let now = answers
                .iter()
                .filter(|(_, answer)| *answer == Answer::Stored);
            stored += now.count() as u64;
        }
    }
    done(platform, connection, &wished).await?;
    Ok((stored, dropped))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::SqliteStore;

    fn retry(ids: &[String]) -> Wishes {
        Wishes {
            retry: ids.iter().cloned().collect(),
            drop: BTreeSet::new(),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn wishes_at_the_same_time_are_all_kept_while_others_are_carried_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("platform.db");
        let first = retry(&(0..20).map(|n| format!("first/{n}")).collect::<Vec<_>>());
        let mut tasks = tokio::task::JoinSet::new();
        // Each in a process of its own, as it were.
        for owner in 0..4 {
            let store = SqliteStore::open(&file).await.unwrap();
            if owner == 0 {
                wish(&store, "c", &first).await.unwrap();
            }
            let first = first.clone();
            tasks.spawn(async move {
                for number in 0..20 {
                    let more = retry(&[format!("{owner}/{number}")]);
                    wish(&store, "c", &more).await.unwrap();
                    if owner == 3 {
                        done(&store, "c", &first).await.unwrap();
                    }
                }
            });
        }
        tasks.join_all().await;
        let store = SqliteStore::open(&file).await.unwrap();
        let all = wishes(&store, "c").await.unwrap();
        assert_eq!(all.retry.len(), 80, "{all:?}");
        assert!(all.retry.is_disjoint(&first.retry));
    }

    #[tokio::test]
    async fn the_later_wish_for_the_same_letter_counts() {
        let store = SqliteStore::in_memory().await.unwrap();
        let one = retry(&["gl:note:1/1".to_owned()]);
        wish(&store, "c", &one).await.unwrap();
        let drop = Wishes {
            drop: one.retry.clone(),
            retry: BTreeSet::new(),
        };
        assert_eq!(wish(&store, "c", &drop).await.unwrap(), drop);
        // The retry was carried out; the wish to drop came since.
        assert_eq!(done(&store, "c", &one).await.unwrap(), drop);
    }
}
