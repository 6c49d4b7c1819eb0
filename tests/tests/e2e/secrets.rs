//! No run of any test shows or keeps a secret.
//!
//! [`crate::setup`] calls this for what every run says, and for every file that a test's runs leave behind: the state file, the ledger
//! with its log, dead letters in it, `--out`, compiled code where it is kept with them. So each test of this suite, hostile guests and broken servers included, is
//! also a test of this.

use std::path::{Path, PathBuf};

use memchr::memmem;
use simulators::gitlab::{OWNER_TOKEN, TOKEN};

use crate::setup::KEY;

/// What must not be anywhere: the tokens of both servers, and what the simulated GitLab answers only to who may not see it.
const SECRETS: [&str; 4] = [TOKEN, OWNER_TOKEN, KEY, "sim-runners-secret"];

/// Which secret is in these bytes.
fn in_bytes(bytes: &[u8]) -> Option<&'static str> {
    SECRETS
        .into_iter()
        .find(|secret| memmem::find(bytes, secret.as_bytes()).is_some())
}

/// The first file below `folder` that holds a secret. `state.json` is the user's own: `cortexdb init` writes the key into it.
fn in_folder(folder: &Path) -> Option<(PathBuf, &'static str)> {
    // A folder that a test has closed to everybody, or a file that is gone by now, holds nothing that could be read.
    let entries = std::fs::read_dir(folder).ok()?;
    entries.flatten().find_map(|entry| {
        let path = entry.path();
        if entry.file_type().ok()?.is_dir() {
            return in_folder(&path);
        }
        if entry.file_name() == "state.json" {
            return None;
        }
        let secret = in_bytes(&std::fs::read(&path).ok()?)?;
        Some((path, secret))
    })
}

/// For everything that a run says.
#[track_caller]
pub fn assert_none_in(text: &str) {
    if let Some(secret) = in_bytes(text.as_bytes()) {
        panic!("the secret {secret} is shown:\n{text}");
    }
}

/// For everything that runs have kept.
#[track_caller]
pub fn assert_none_below(folder: &Path) {
    if let Some((path, secret)) = in_folder(folder) {
        panic!("{} holds the secret {secret}", path.display());
    }
}

#[test]
fn a_secret_is_found_in_text_and_in_a_file_however_deep_and_not_in_the_users_own() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("a/b");
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(folder.path().join("state.json"), KEY).unwrap();
    assert_eq!(in_folder(folder.path()), None);
    let file = deep.join("connectors.db-wal");
    std::fs::write(&file, format!("\0\u{1}{TOKEN}\0")).unwrap();
    assert_eq!(in_folder(folder.path()), Some((file, TOKEN)));
    assert_eq!(in_bytes(b"nothing"), None);
    assert_eq!(in_bytes(format!("a {KEY} b").as_bytes()), Some(KEY));
}
