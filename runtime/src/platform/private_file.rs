//! Files that hold secrets: made for this user alone, replaced whole, and refused where others could have read them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Makes a folder that only this user can enter.
pub fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a new file with mode 0600; one that is there is an error.
pub fn create(path: &Path, text: &str) -> io::Result<()> {
    create_bytes(path, text.as_bytes())
}

fn create_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Puts a file in the place of another, whole or not at all.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    replace_bytes(path, text.as_bytes())
}

/// The same for what is no text.
pub fn replace_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension(format!("new-{}", uuid::Uuid::new_v4().simple()));
    create_bytes(&beside, bytes)?;
    put(&beside, path)
}

/// Gives a file its name, for good.
pub fn put(beside: &Path, path: &Path) -> io::Result<()> {
    std::fs::rename(beside, path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

/// Reads a file that only this user can read.
pub fn read(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    if file.metadata()?.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "others than you may read it, so it may be known; `chmod 600 {}`, and replace what is in it if it was open for long",
            path.display()
        )));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_stays_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        create(&path, "one").unwrap();
        assert!(create(&path, "two").is_err());
        replace(&path, "three").unwrap();
        assert_eq!(read(&path).unwrap(), "three");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
