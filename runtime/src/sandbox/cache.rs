//! Compiled components, kept between runs.
//!
//! Compiling a connector takes most of a second, loading what was compiled a millisecond. But compiled code is machine code: whoever can
//! put a file into the cache runs whatever they like, outside the sandbox. So only what this installation wrote is ever loaded: the
//! folder and every file must belong to the user and be closed to others, and each file ends with an authentication code under
//! a key that lives beside it. What does not fit is compiled anew, without a word: the cache can be deleted at any time.
//!
//! Checking must not cost what loading saves, so the code is AES-GCM's (GMAC), which processors have instructions for; HMAC-SHA-256 took two milliseconds.
//! A file has a key of its own, made of the installation's and a salt; its parts are authenticated in order, two halves side by side, and
//! their codes together with the file's name. The code is then mapped from the file and not copied, which would cost a millisecond. The file is opened once, and
//! judged, checked and mapped by that one handle, so no other file can take its place in between. Its bytes can be changed by this user alone, who also holds the key;
//! this program never does so, but puts a new file in the place of the old one.
//!
//! A platform sees components without end, and each leaves its code here. So the files together take no more than a gibibyte: those that were not
//! used for longest go. Code that is mapped stays until it is let go of.
//!
//! The name of a file holds the component's digest, the engine's settings with wasmtime's version, ours, and the version of the admission
//! rules: other settings, other file. A file is also the proof that its component was admitted.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::rules::RULES_VERSION;

const KEY_BYTES: usize = 64;
const SALT_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// What follows the code in a file: the salt of its key, and the authentication code.
const SEAL_BYTES: usize = SALT_BYTES + TAG_BYTES;
/// What the key of the installation is used for here.
const PURPOSE: &[u8] = b"connector-runtime 2026-12-02 authentication of compiled components";
/// What is read and authenticated at a time: stays in the processor's own memory.
const PART_BYTES: usize = 64 << 10;
/// The number under which the codes of all parts are authenticated. Parts are numbered from zero.
const WHOLE: u32 = u32::MAX;
/// What all files may take.
const MOST_BYTES: u64 = 1 << 30;
/// The time of a file's last use is exact to this. What another process is writing is younger.
const USE_IS_EXACT_TO: Duration = Duration::from_secs(60 * 60);
/// Readable or writable by others.
const OPEN_TO_OTHERS: u32 = 0o077;

/// A folder of compiled components. See the [module](self).
#[derive(Debug)]
pub struct CodeCache {
    folder: PathBuf,
    key: hmac::Key,
}

/// The key of one file.
struct FileKey(LessSafeKey);

type Salt = [u8; SALT_BYTES];
type Tag = [u8; TAG_BYTES];

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
                aws_lc_rs::rand::fill(&mut fresh)
                    .map_err(|_| io::Error::other("there is no randomness"))?;
                write_private(&path, &fresh)?;
                read_private(&path)?
            }
            Err(error) => return Err(error),
        };
        if key.len() != KEY_BYTES {
            return Err(io::Error::other("the key of the cache is damaged"));
        }
        Ok(Self {
            folder: folder.to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
        })
    }

    /// The compiled component, if this installation compiled it before with this engine.
    pub fn load(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let name = file_name(engine, digest);
        let file = open_private(&self.folder.join(&name)).ok()?;
        let metadata = file.metadata().ok()?;
        let length = metadata.len().checked_sub(SEAL_BYTES as u64)?;
        let mut seal = [0; SEAL_BYTES];
        file.read_exact_at(&mut seal, length).ok()?;
        let (salt, tag) = seal.split_first_chunk()?;
        let key = self.key_of_file(salt)?;
        let parts = key.parts_of_file(&file, usize::try_from(length).ok()?)?;
        verify_slices_are_equal(&key.whole(&name, &parts)?, tag).ok()?;
        if is_older(&metadata, USE_IS_EXACT_TO) {
            let _ = file.set_modified(SystemTime::now());
        }
        match trusted_file(engine, &file) {
            Ok(component) => Some(component),
            Err(_) => self.copied(engine, &name),
        }
    }

    /// Where files may not be executed (`noexec`), their contents in memory may.
    fn copied(&self, engine: &Engine, name: &str) -> Option<Component> {
        let bytes = read_private(&self.folder.join(name)).ok()?;
        let (code, seal) = bytes.split_last_chunk::<SEAL_BYTES>()?;
        let (salt, tag) = seal.split_first_chunk()?;
        verify_slices_are_equal(&self.tag(name, salt, code)?, tag).ok()?;
        trusted(engine, code).ok()
    }

    /// Keeps what our compiler made of a component. Failing to is no failure: it will be compiled again.
    pub fn store(&self, engine: &Engine, digest: &str, code: &[u8]) {
        let name = file_name(engine, digest);
        let mut salt = [0; SALT_BYTES];
        if aws_lc_rs::rand::fill(&mut salt).is_err() {
            return;
        }
        let Some(tag) = self.tag(&name, &salt, code) else {
            return;
        };
        // Behind the code, which has to begin on a page.
        let bytes = [code, &salt, &tag].concat();
        let _ = write_private(&self.folder.join(&name), &bytes);
        let _ = self.trim(MOST_BYTES);
    }

    /// Removes what was not used for longest, until the rest takes no more than so many bytes.
    fn trim(&self, most_bytes: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.folder)?.flatten() {
            let path = entry.path();
            // Another process may have taken it away.
            let Ok(metadata) = std::fs::symlink_metadata(&path) else {
                continue;
            };
            let is_being_written = path
                .extension()
                .is_none_or(|extension| extension != "cwasm")
                && !is_older(&metadata, USE_IS_EXACT_TO);
            if path.file_name() != Some("key".as_ref()) && !metadata.is_dir() && !is_being_written {
                files.push((metadata.modified()?, metadata.len(), path));
            }
        }
        files.sort_unstable_by(|one, other| other.cmp(one));
        let mut kept = 0;
        for (_, bytes, path) in files {
            kept += bytes;
            if kept > most_bytes {
                let _ = std::fs::remove_file(path);
            }
        }
        Ok(())
    }

    /// No two files have the same, so that in none a number is used twice for different contents.
    fn key_of_file(&self, salt: &Salt) -> Option<FileKey> {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(PURPOSE);
        context.update(salt);
        let key = UnboundKey::new(&AES_256_GCM, context.sign().as_ref()).ok()?;
        Some(FileKey(LessSafeKey::new(key)))
    }

    fn tag(&self, name: &str, salt: &Salt, code: &[u8]) -> Option<Tag> {
        let key = self.key_of_file(salt)?;
        let parts = (0..).zip(code.chunks(PART_BYTES));
        let parts: Option<Vec<_>> = parts.map(|(number, part)| key.tag(number, part)).collect();
        key.whole(name, &parts?)
    }
}

impl FileKey {
    /// Authenticates without encrypting: what GCM calls additional data. Each number stands for one text only.
    fn tag(&self, number: u32, text: &[u8]) -> Option<Tag> {
        let mut nonce = [0; NONCE_LEN];
        nonce[..size_of::<u32>()].copy_from_slice(&number.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(text), &mut []);
        sealed.ok()?.as_ref().try_into().ok()
    }

    /// A file is good under its own name only.
    fn whole(&self, name: &str, parts: &[Tag]) -> Option<Tag> {
        self.tag(
            WHOLE,
            &[name.as_bytes(), b"\0", parts.as_flattened()].concat(),
        )
    }

    /// The codes of the file's parts, of which two are read at a time.
    fn parts_of_file(&self, file: &File, length: usize) -> Option<Vec<Tag>> {
        let count = length.div_ceil(PART_BYTES);
        let middle = count / 2;
        let second = || self.parts_in(file, length, middle..count);
        thread::scope(|scope| {
            let beside = thread::Builder::new().spawn_scoped(scope, second);
            let first = self.parts_in(file, length, 0..middle);
            // Where there may be no more threads, one after the other.
            let second = match beside {
                Ok(beside) => beside.join().ok()?,
                Err(_) => second(),
            };
            Some([first?, second?].concat())
        })
    }

    fn parts_in(&self, file: &File, length: usize, numbers: Range<usize>) -> Option<Vec<Tag>> {
        let mut buffer = vec![0; PART_BYTES];
        let tags = numbers.map(|number| {
            let start = number * PART_BYTES;
            let part = &mut buffer[..PART_BYTES.min(length - start)];
            file.read_exact_at(part, start as u64).ok()?;
            self.tag(u32::try_from(number).ok()?, part)
        });
        tags.collect()
    }
}

/// Maps machine code that is our own: authenticated, and only this user can write to it.
fn trusted_file(engine: &Engine, file: &File) -> wasmtime::Result<Component> {
    // wasmtime takes a path; this one leads to the open file, whatever its name is now.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    #[allow(
        unsafe_code,
        reason = "the caller has authenticated what is in this file; wasmtime checks version and settings"
    )]
    unsafe {
        Component::deserialize_file(engine, path)
    }
}

/// Takes machine code that is our own, from the cache or from the pipe of our compiler.
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

fn is_older(metadata: &Metadata, age: Duration) -> bool {
    let since = metadata
        .modified()
        .map(|at| at.elapsed().unwrap_or_default());
    since.is_ok_and(|since| since > age)
}

fn check_private(metadata: &Metadata) -> io::Result<()> {
    let own = std::fs::metadata("/proc/self")?.uid();
    if metadata.uid() != own
        || metadata.mode() & OPEN_TO_OTHERS != 0
        || metadata.file_type().is_symlink()
    {
        return Err(io::Error::other("not private to this user"));
    }
    Ok(())
}

/// Judges the file that was opened, not the one that had this name a moment before.
fn open_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    check_private(&metadata)?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a file"));
    }
    Ok(file)
}

fn read_private(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_private(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
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
        for place in [0, bytes.len() / 2, bytes.len() - 1] {
            bytes[place] ^= 1;
            std::fs::write(filled.file(), &bytes).unwrap();
            assert!(!filled.loads(), "byte {place}");
            bytes[place] ^= 1;
        }
        std::fs::write(filled.file(), &bytes).unwrap();
        assert!(filled.loads());
    }

    #[test]
    fn a_file_of_another_installation_is_not_loaded() {
        let (ours, theirs) = (filled(), filled());
        std::fs::copy(theirs.file(), ours.file()).unwrap();
        assert!(!ours.loads());
    }

    #[test]
    fn where_files_may_not_be_executed_they_are_checked_and_copied() {
        let filled = filled();
        let cache = CodeCache::open(&cache_in(&filled.folder)).unwrap();
        let name = file_name(&filled.engine, "sha256:ab");
        assert!(cache.copied(&filled.engine, &name).is_some());
        let mut bytes = std::fs::read(filled.file()).unwrap();
        bytes[0] ^= 1;
        std::fs::write(filled.file(), bytes).unwrap();
        assert!(cache.copied(&filled.engine, &name).is_none());
    }

    #[test]
    fn a_file_of_many_parts_is_authenticated_as_what_was_stored_was() {
        let filled = filled();
        let cache = CodeCache::open(&cache_in(&filled.folder)).unwrap();
        let key = cache.key_of_file(&[7; SALT_BYTES]).unwrap();
        let parts_of_a_file = |code: &[u8]| {
            let path = filled.folder.path().join("code");
            std::fs::write(&path, code).unwrap();
            let file = File::open(path).unwrap();
            key.whole("name", &key.parts_of_file(&file, code.len()).unwrap())
        };
        for length in [0, 1, PART_BYTES - 1, PART_BYTES, 5 * PART_BYTES + 1] {
            let code: Vec<u8> = (0..=250).cycle().take(length).collect();
            let tag = cache.tag("name", &[7; SALT_BYTES], &code).unwrap();
            assert_eq!(parts_of_a_file(&code), Some(tag), "{length} bytes");
        }
    }

    #[test]
    fn parts_that_changed_places_or_are_missing_are_not_what_was_stored() {
        let filled = filled();
        let cache = CodeCache::open(&cache_in(&filled.folder)).unwrap();
        let tag = |code: &[u8]| cache.tag("name", &[7; SALT_BYTES], code).unwrap();
        let parts = [1, 2, 3].map(|byte| vec![byte; PART_BYTES]);
        let [a, b, c] = parts.each_ref().map(Vec::as_slice);
        let stored = tag(&[a, b, c].concat());
        let others: [&[&[u8]]; 5] = [&[b, a, c], &[a, c, b], &[a, b], &[b, c], &[a, b, c, c]];
        for other in others {
            assert_ne!(tag(&other.concat()), stored);
        }
        let code = [a, b, c].concat();
        assert_ne!(cache.tag("other", &[7; SALT_BYTES], &code), Some(stored));
        assert_ne!(cache.tag("name", &[8; SALT_BYTES], &code), Some(stored));
    }

    #[test]
    fn a_file_that_others_may_write_is_not_loaded() {
        let filled = filled();
        std::fs::set_permissions(filled.file(), std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!filled.loads());
    }

    #[test]
    fn a_file_that_is_reached_through_a_link_is_not_loaded() {
        let filled = filled();
        let elsewhere = filled.folder.path().join("elsewhere");
        std::fs::rename(filled.file(), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, filled.file()).unwrap();
        assert!(!filled.loads());
    }

    #[test]
    fn a_file_that_was_cut_short_is_not_loaded() {
        let filled = filled();
        for length in [0, SEAL_BYTES - 1, SEAL_BYTES, SEAL_BYTES + 1, PART_BYTES] {
            let bytes = std::fs::read(filled.file()).unwrap();
            std::fs::write(filled.file(), &bytes[..length.min(bytes.len())]).unwrap();
            assert!(!filled.loads(), "{length} bytes");
        }
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

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_what_is_used_stays() {
        let filled = filled();
        let cache = CodeCache::open(&cache_in(&filled.folder)).unwrap();
        let size = std::fs::metadata(filled.file()).unwrap().len();
        let hours_ago = |hours| SystemTime::now() - hours * USE_IS_EXACT_TO;
        let path = |name: &str| cache_in(&filled.folder).join(name);
        let put = |name: &str, hours| {
            std::fs::copy(filled.file(), path(name)).unwrap();
            let file = File::options().write(true).open(path(name)).unwrap();
            file.set_modified(hours_ago(hours)).unwrap();
        };
        let there = || {
            let all = [
                "five.cwasm",
                "four.cwasm",
                "three.tmp-7",
                "now.tmp-8",
                "key",
            ];
            all.map(|name| path(name).exists())
        };
        put("five.cwasm", 5);
        put("four.cwasm", 4);
        put("three.tmp-7", 3);
        put("now.tmp-8", 0);
        let used = File::options().write(true).open(filled.file()).unwrap();
        used.set_modified(hours_ago(6)).unwrap();
        assert!(filled.loads(), "that is a use");

        cache.trim(4 * size).unwrap();
        assert_eq!(there(), [true; 5]);
        cache.trim(3 * size).unwrap();
        assert_eq!(there(), [false, true, true, true, true]);
        cache.trim(size).unwrap();
        assert_eq!(there(), [false, false, false, true, true]);
        assert!(filled.loads());
    }
}
