//! Compiled components, kept between runs.
//!
//! Compiling a connector takes most of a second, loading what was compiled a millisecond. But compiled code is machine code: whoever can
//! put a file into the cache runs whatever they like, outside the sandbox. So only what this installation wrote is ever loaded: the
//! folder and every file must belong to the user and be closed to others, and each file begins with an authentication code under
//! a key that lives beside it. What does not fit is compiled anew, without a word: the cache can be deleted at any time.
//!
//! The name of a file holds the component's digest, the engine's settings with wasmtime's version, ours, and the version of the admission
//! rules: other settings, other file. A file is also the proof that its component was admitted.

use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::rules::RULES_VERSION;

/// A whole block of the hash.
const KEY_BYTES: usize = 64;
const TAG_BYTES: usize = 32;
/// Readable or writable by others.
const OPEN_TO_OTHERS: u32 = 0o077;

/// A folder of compiled components. See the [module](self).
#[derive(Debug)]
pub struct CodeCache {
    folder: PathBuf,
    key: [u8; KEY_BYTES],
}

impl CodeCache {
    /// Opens the user's cache (`$XDG_CACHE_HOME` or `~/.cache`). `None` where there is no safe place for one.
    #[must_use]
    pub fn of_user() -> Option<Self> {
        let base = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
        Self::open(&base.join("connector-runtime")).ok()
    }

    fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        check_private(&std::fs::symlink_metadata(folder)?)?;
        let path = folder.join("key");
        let key = match read_private(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut fresh = [0; KEY_BYTES];
                File::open("/dev/urandom")?.read_exact(&mut fresh)?;
                write_private(&path, &fresh)?;
                read_private(&path)?
            }
            Err(error) => return Err(error),
        };
        let key = <[u8; KEY_BYTES]>::try_from(key)
            .map_err(|_| io::Error::other("the key of the cache is damaged"))?;
        Ok(Self {
            folder: folder.to_owned(),
            key,
        })
    }

    /// The compiled component, if this installation compiled it before with this engine.
    pub fn load(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let name = file_name(engine, digest);
        let bytes = read_private(&self.folder.join(&name)).ok()?;
        let (tag, code) = bytes.split_at_checked(TAG_BYTES)?;
        self.authenticator(&name, code).verify_slice(tag).ok()?;
        trusted(engine, code).ok()
    }

    /// Keeps what our compiler made of a component. Failing to is no failure: it will be compiled again.
    pub fn store(&self, engine: &Engine, digest: &str, code: &[u8]) {
        let name = file_name(engine, digest);
        let mut bytes = self
            .authenticator(&name, code)
            .finalize()
            .into_bytes()
            .to_vec();
        bytes.extend_from_slice(code);
        let _ = write_private(&self.folder.join(&name), &bytes);
    }

    fn authenticator(&self, name: &str, code: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new(&self.key.into());
        mac.update(name.as_bytes());
        mac.update(b"\0");
        mac.update(code);
        mac
    }
}

/// Takes machine code that is our own: from the cache, authenticated, or from the pipe of our compiler.
pub(super) fn trusted(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    #[allow(
        unsafe_code,
        reason = "both callers know that our own compiler made these bytes; wasmtime checks version and settings"
    )]
    unsafe {
        Component::deserialize(engine, code)
    }
}

fn file_name(engine: &Engine, digest: &str) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    RULES_VERSION.hash(&mut hasher);
    let digest = digest.trim_start_matches("sha256:");
    format!("{digest}-{:016x}.cwasm", hasher.finish())
}

fn check_private(metadata: &std::fs::Metadata) -> io::Result<()> {
    let own = std::fs::metadata("/proc/self")?.uid();
    if metadata.uid() != own
        || metadata.mode() & OPEN_TO_OTHERS != 0
        || metadata.file_type().is_symlink()
    {
        return Err(io::Error::other("not private to this user"));
    }
    Ok(())
}

fn read_private(path: &Path) -> io::Result<Vec<u8>> {
    check_private(&std::fs::symlink_metadata(path)?)?;
    std::fs::read(path)
}

/// Through a file of its own, so that two runs at once cannot mix their bytes.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::sandbox::engine::tenant;

    /// An empty component, in bytes.
    const EMPTY: [u8; 8] = *b"\0asm\x0d\0\x01\0";

    fn cache_in(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("cache")
    }

    struct Filled {
        folder: tempfile::TempDir,
        engine: Engine,
    }

    fn filled() -> Filled {
        let folder = tempfile::tempdir().unwrap();
        let engine = tenant().unwrap();
        let code = engine.precompile_component(&EMPTY).unwrap();
        CodeCache::open(&cache_in(&folder))
            .unwrap()
            .store(&engine, "sha256:ab", &code);
        Filled { folder, engine }
    }

    impl Filled {
        fn file(&self) -> PathBuf {
            cache_in(&self.folder).join(file_name(&self.engine, "sha256:ab"))
        }

        fn loads(&self) -> bool {
            CodeCache::open(&cache_in(&self.folder))
                .is_ok_and(|cache| cache.load(&self.engine, "sha256:ab").is_some())
        }
    }

    #[test]
    fn what_this_installation_compiled_is_loaded_again() {
        assert!(filled().loads());
    }

    #[test]
    fn a_changed_byte_is_not_loaded() {
        let filled = filled();
        let mut bytes = std::fs::read(filled.file()).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(filled.file(), bytes).unwrap();
        assert!(!filled.loads());
    }

    #[test]
    fn a_file_of_another_installation_is_not_loaded() {
        let (ours, theirs) = (filled(), filled());
        std::fs::copy(theirs.file(), ours.file()).unwrap();
        assert!(!ours.loads());
    }

    #[test]
    fn a_file_that_others_may_write_is_not_loaded() {
        let filled = filled();
        std::fs::set_permissions(filled.file(), std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!filled.loads());
    }

    #[test]
    fn a_folder_that_others_may_write_is_no_cache() {
        let filled = filled();
        std::fs::set_permissions(
            cache_in(&filled.folder),
            std::fs::Permissions::from_mode(0o777),
        )
        .unwrap();
        assert!(!filled.loads());
    }

    #[test]
    fn a_file_under_the_name_of_another_component_is_not_loaded() {
        let filled = filled();
        let other = cache_in(&filled.folder).join(file_name(&filled.engine, "sha256:cd"));
        std::fs::copy(filled.file(), &other).unwrap();
        let cache = CodeCache::open(&cache_in(&filled.folder)).unwrap();
        assert!(cache.load(&filled.engine, "sha256:cd").is_none());
    }
}
