//! The cursors: a small JSON file that belongs to the user, or rows of the platform's database.
//!
//! The file can be read, edited and deleted, and is obeyed: a deleted cursor means that everything is read again (and, thanks to the ledger,
//! written not at all). That is why cursors of `runtime run` do not live in the database. The file is replaced atomically and durably (temporary file,
//! fsync, rename, fsync of the directory), mode 0600. A file that does not parse is set aside under another name, never deleted.
//!
//! One process at a time: a lock file beside it is held for the whole run.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use connector_store::platform::{Platform, PlatformError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ledger::{Lease, StoreError};
use crate::report::Counters;

const VERSION: u32 = 1;

/// Why the cursors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// Another process runs on this state.
    #[error(
        "another `runtime run` is using {0}; wait for it, stop it, or give this one its own --state-file"
    )]
    Locked(PathBuf),
    /// The file or its directory cannot be read or written.
    #[error(
        "cannot use the state file {path}: {source}. Check the directory and its permissions, or pass --state-file"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file was written by a later version.
    #[error(
        "the state file {path} has version {found}, this runtime knows {VERSION}; update the runtime or pass another --state-file"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The platform's database, or a lost lease.
    #[error(transparent)]
    Database(#[from] PlatformError),
}

impl CursorError {
    /// Whether the connection was lost to another process.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        matches!(
            self,
            Self::Database(PlatformError::Store(StoreError::Fenced))
        )
    }
}

/// Where the cursors of a run are kept.
pub enum CursorHome {
    /// In the user's file.
    File(Cursors),
    /// In the platform's database.
    Database(DatabaseCursors),
}

impl CursorHome {
    /// All cursors of this connection, values as the guest wrote them.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, String> {
        match self {
            Self::File(cursors) => cursors.all(),
            Self::Database(cursors) => cursors.known.clone(),
        }
    }

    /// Moves cursors and makes them durable, all together. `None` removes one.
    pub async fn apply(
        &mut self,
        changes: Vec<(String, Option<String>)>,
    ) -> Result<(), CursorError> {
        match self {
            Self::File(cursors) => cursors.apply(changes),
            Self::Database(cursors) => cursors.apply(changes).await,
        }
    }
}

/// The cursors of one connection of a platform, under a lease.
pub struct DatabaseCursors {
    platform: Arc<dyn Platform>,
    lease: Lease,
    run: Option<(String, Arc<Counters>)>,
    known: BTreeMap<String, String>,
}

impl DatabaseCursors {
    /// Reads them. With `run`, its numbers are kept with each move.
    pub async fn open(
        platform: Arc<dyn Platform>,
        lease: Lease,
        run: Option<(String, Arc<Counters>)>,
    ) -> Result<Self, CursorError> {
        let known = platform.cursors(lease.connection).await?;
        Ok(Self {
            platform,
            lease,
            run,
            known,
        })
    }

    async fn apply(&mut self, changes: Vec<(String, Option<String>)>) -> Result<(), CursorError> {
        if changes.is_empty() {
            return Ok(());
        }
        // A key that was set twice has its last value, once.
        let changes: BTreeMap<String, Option<String>> = changes.into_iter().collect();
        let changes: Vec<(String, Option<String>)> = changes.into_iter().collect();
        let usage = self.run.as_ref().map(|(_, counters)| counters.usage());
        let run = self.run.as_ref().map(|(run, _)| run.as_str());
        self.platform
            .move_cursors(self.lease, &changes, run.zip(usage.as_ref()))
            .await?;
        for (key, value) in changes {
            match value {
                Some(value) => self.known.insert(key, value),
                None => self.known.remove(&key),
            };
        }
        Ok(())
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    #[serde(default)]
    version: u32,
    #[serde(default)]
    connections: BTreeMap<String, Connection>,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Connection {
    #[serde(default)]
    updated_at: String,
    #[serde(default)]
    streams: BTreeMap<String, Value>,
}

/// The lock beside a state file: whoever holds it is the only process of ours that writes cursors and ledger. Free again when it is
/// dropped, and when the process dies.
#[derive(Debug)]
pub struct StateLock(File);

/// Takes the lock of a state file, whether that file exists or not.
pub fn lock(path: &Path) -> Result<StateLock, CursorError> {
    let failed = |source: io::Error| CursorError::Io {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let lock = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(suffixed(path, ".lock"))
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(CursorError::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    Ok(StateLock(lock))
}

/// The cursors of one connection, and the file that holds them.
#[derive(Debug)]
pub struct Cursors {
    path: PathBuf,
    connection: String,
    document: Document,
    /// Held for as long as this lives. `None` when only looking.
    _lock: Option<File>,
    /// Where an unreadable file was put, for the user to be told.
    set_aside: Option<PathBuf>,
}

impl Cursors {
    /// Takes the lock and reads the file. A missing file is an empty one.
    pub fn open(path: &Path, connection: &str) -> Result<Self, CursorError> {
        let lock = lock(path)?;
        let mut cursors = Self {
            path: path.to_owned(),
            connection: connection.to_owned(),
            document: Document::default(),
            _lock: Some(lock.0),
            set_aside: None,
        };
        cursors.reload()?;
        // Finding out now that the directory is read-only is better than after the first page.
        cursors.save()?;
        Ok(cursors)
    }

    /// Reads the file without taking the lock, for looking only.
    pub fn peek(path: &Path, connection: &str) -> Result<Self, CursorError> {
        let mut cursors = Self {
            path: path.to_owned(),
            connection: connection.to_owned(),
            document: Document::default(),
            _lock: None,
            set_aside: None,
        };
        if let Some(document) = cursors.read()? {
            cursors.document = document;
        }
        Ok(cursors)
    }

    /// Reads the file again: the user may have edited it between two cycles.
    pub fn reload(&mut self) -> Result<(), CursorError> {
        match self.read()? {
            Some(document) => self.document = document,
            None => {
                let aside = (1..)
                    .map(|n| suffixed(&self.path, &format!(".corrupt-{n}")))
                    .find(|candidate| !candidate.exists())
                    .unwrap_or_else(|| suffixed(&self.path, ".corrupt"));
                std::fs::rename(&self.path, &aside).map_err(|source| self.failed(source))?;
                self.set_aside = Some(aside);
                self.document = Document::default();
            }
        }
        Ok(())
    }

    /// `None`: there is a file, and it does not parse.
    fn read(&self) -> Result<Option<Document>, CursorError> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some(Document::default()));
            }
            Err(error) => return Err(self.failed(error)),
        };
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(Some(Document::default()));
        }
        let Ok(document) = serde_json::from_slice::<Document>(&text) else {
            return Ok(None);
        };
        if document.version > VERSION {
            return Err(CursorError::Newer {
                path: self.path.clone(),
                found: document.version,
            });
        }
        Ok(Some(document))
    }

    /// Where an unreadable state file was put, once.
    pub fn take_set_aside(&mut self) -> Option<PathBuf> {
        self.set_aside.take()
    }

    /// All cursors of this connection, values as the guest wrote them.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, String> {
        self.document
            .connections
            .get(&self.connection)
            .map(|connection| {
                connection
                    .streams
                    .iter()
                    .map(|(key, value)| (key.clone(), to_guest(value)))
                    .collect()
            })
            .unwrap_or_default()
    }

    /// The cursors of every connection as they stand in the file, for `runtime status`.
    #[must_use]
    pub fn every_connection(&self) -> BTreeMap<String, BTreeMap<String, Value>> {
        self.document
            .connections
            .iter()
            .map(|(name, connection)| (name.clone(), connection.streams.clone()))
            .collect()
    }

    /// Moves cursors and makes them durable, all together. `None` removes one.
    pub fn apply(
        &mut self,
        changes: impl IntoIterator<Item = (String, Option<String>)>,
    ) -> Result<(), CursorError> {
        let connection = self
            .document
            .connections
            .entry(self.connection.clone())
            .or_default();
        let mut changed = false;
        for (key, value) in changes {
            changed = true;
            match value {
                Some(value) => connection.streams.insert(key, from_guest(value)),
                None => connection.streams.remove(&key),
            };
        }
        if !changed {
            return Ok(());
        }
        connection.updated_at =
            chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        self.save()
    }

    fn save(&mut self) -> Result<(), CursorError> {
        self.document.version = VERSION;
        self.write_file().map_err(|source| self.failed(source))
    }

    fn write_file(&self) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(&self.document)?;
        text.push(b'\n');
        let temporary = suffixed(&self.path, ".tmp");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        if let Some(parent) = self
            .path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> CursorError {
        CursorError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// JSON stands in the file as JSON, so that a person can read and edit it; anything else as a string.
fn from_guest(value: String) -> Value {
    match serde_json::from_str::<Value>(&value) {
        Ok(json @ (Value::Object(_) | Value::Array(_))) => json,
        _ => Value::String(value),
    }
}

fn to_guest(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, value: &str) -> [(String, Option<String>); 1] {
        [(key.to_owned(), Some(value.to_owned()))]
    }

    #[test]
    fn a_cursor_is_readable_json_in_a_private_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/connectors-state.json");
        let mut cursors = Cursors::open(&path, "gitlab").unwrap();
        cursors
            .apply(change(
                "42/issues",
                r#"{"updated_after":"2026-01-01T00:00:00Z"}"#,
            ))
            .unwrap();
        let file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            file.pointer("/connections/gitlab/streams/42~1issues/updated_after")
                .unwrap(),
            "2026-01-01T00:00:00Z"
        );
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn what_the_user_edits_is_what_the_guest_gets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.json");
        std::fs::write(
            &path,
            r#"{"connections":{"gitlab":{"streams":{"42/issues":"2026-05-05"}}}}"#,
        )
        .unwrap();
        let cursors = Cursors::open(&path, "gitlab").unwrap();
        assert_eq!(cursors.all()["42/issues"], "2026-05-05");
    }

    #[test]
    fn the_second_process_on_one_state_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.json");
        let _first = Cursors::open(&path, "gitlab").unwrap();
        assert!(matches!(
            Cursors::open(&path, "gitlab"),
            Err(CursorError::Locked(_))
        ));
    }

    #[test]
    fn a_corrupt_file_is_set_aside_and_never_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.json");
        std::fs::write(&path, "{half").unwrap();
        let mut cursors = Cursors::open(&path, "gitlab").unwrap();
        let aside = cursors.take_set_aside().unwrap();
        assert_eq!(std::fs::read_to_string(aside).unwrap(), "{half");
        assert!(cursors.all().is_empty());
    }

    #[test]
    fn other_connections_in_the_file_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.json");
        Cursors::open(&path, "one")
            .unwrap()
            .apply(change("a", "1"))
            .unwrap();
        Cursors::open(&path, "two")
            .unwrap()
            .apply(change("b", "2"))
            .unwrap();
        assert_eq!(Cursors::open(&path, "one").unwrap().all()["a"], "1");
    }
}
