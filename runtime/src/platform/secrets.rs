//! Secrets of tenants at rest: sealed so that neither a copy of the database nor a row in the wrong place gives anything away.
//!
//! Every value has a data key of its own, and the data key is wrapped by the key-encryption key (KEK), which is not in the database: it comes
//! from the environment (`RUNTIME_KEK`) or from the file `kek` of the data folder. Both seals are AES-256-GCM and bound to tenant,
//! connection, field and KEK, so that a row copied to another tenant or field does not open. There may be several KEKs: the first seals,
//! all open. That is how one is replaced while the platform runs: put a new one first, seal everything again, drop the old one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::private_file;
use crate::digest::{hex, sha256_of_parts};
use crate::redact::Secret;
use connector_store::platform::{Page, Platform, PlatformError};

/// Bytes of a KEK and of a data key.
const KEY_BYTES: usize = 32;
/// First part of every sealed value.
const FORM: &str = "v1";
/// Sealed under the KEK in the database, so that a process with another KEK finds out when it starts.
const PROOF_NOTE: &str = "secrets.proof";
/// Rows of one page of the rotation.
const ROTATE_PAGE: u32 = 200;

/// Why a secret could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The KEK cannot be read or made.
    #[error("the key for secrets ({place}): {reason}")]
    Key {
        /// Where it was looked for.
        place: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Sealed under a KEK that is not here.
    #[error(
        "a secret was sealed with the key {0}, which is not among those of this process; add it to RUNTIME_KEK or to the file `kek`, behind the current one"
    )]
    UnknownKey(String),
    /// It does not open: damaged, or moved from another tenant, connection or field.
    #[error(
        "the stored secret `{0}` does not open: it is damaged or belongs elsewhere; set it again"
    )]
    Refused(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] PlatformError),
}

impl SecretError {
    /// Whether the platform is at fault: its keys or its database. What was damaged or moved is set again by its owner.
    #[must_use]
    pub fn is_of_the_platform(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

/// What a sealed value belongs to. It opens nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Id of the tenant.
    pub tenant: &'a str,
    /// Id of the connection.
    pub connection: &'a str,
    /// Name of the field.
    pub field: &'a str,
}

impl Place<'_> {
    /// Each part with its length, so that no two places give the same bytes.
    fn bound_to(&self, kek: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in [FORM, self.tenant, self.connection, self.field, kek] {
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(part.as_bytes());
        }
        bytes
    }
}

struct Kek {
    id: String,
    key: RandomizedNonceKey,
}

impl Kek {
    fn new(bytes: &[u8]) -> Option<Self> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, bytes).ok()?;
        let digest = sha256_of_parts([b"connector-runtime kek".as_slice(), bytes]);
        Some(Self {
            id: hex(&digest, 16),
            key,
        })
    }
}

#[derive(Clone)]
enum Origin {
    Environment,
    File(PathBuf),
}

/// Seals and opens. Shared by everything that handles a tenant's credentials.
pub struct Secrets {
    origin: Origin,
    keys: RwLock<Arc<Vec<Kek>>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

impl Secrets {
    /// The KEKs of `RUNTIME_KEK` (base64, separated by commas), or else of the file, which is made at the first start.
    pub fn open(environment: Option<&str>, file: &Path) -> Result<Self, SecretError> {
        let (origin, keys) = match environment.filter(|text| !text.trim().is_empty()) {
            Some(text) => (
                Origin::Environment,
                parse(text, ',').map_err(|reason| broken("RUNTIME_KEK", reason))?,
            ),
            None => {
                if !file.exists() {
                    private_file::create(file, &format!("{}\n", fresh_key()?))
                        .map_err(|error| broken(&file.display().to_string(), error.to_string()))?;
                }
                (Origin::File(file.to_owned()), read(file)?)
            }
        };
        Ok(Self {
            origin,
            keys: RwLock::new(Arc::new(keys)),
        })
    }

    fn keys(&self) -> Arc<Vec<Kek>> {
        self.keys.read().map_or_else(
            |poisoned| Arc::clone(&poisoned.into_inner()),
            |keys| Arc::clone(&keys),
        )
    }

    /// Another process may have rotated.
    fn reload(&self) -> Result<Arc<Vec<Kek>>, SecretError> {
        if let Origin::File(file) = &self.origin {
            let fresh = Arc::new(read(file)?);
            if let Ok(mut keys) = self.keys.write() {
                *keys = Arc::clone(&fresh);
            }
        }
        Ok(self.keys())
    }

    /// Seals a value for its place, under the first KEK.
    pub fn seal(&self, place: Place<'_>, value: &str) -> Result<String, SecretError> {
        let keys = self.reload()?;
        let kek = keys
            .first()
            .ok_or_else(|| SecretError::UnknownKey("-".into()))?;
        let refused = || SecretError::Refused(place.field.to_owned());
        let bound = place.bound_to(&kek.id);
        let mut data_key = Zeroizing::new(vec![0; KEY_BYTES]);
        aws_lc_rs::rand::fill(&mut data_key).map_err(|_| refused())?;
        let inner = RandomizedNonceKey::new(&AES_256_GCM, &data_key).map_err(|_| refused())?;
        let body = lock(&inner, &bound, value.as_bytes()).ok_or_else(refused)?;
        let wrapped = lock(&kek.key, &bound, &data_key).ok_or_else(refused)?;
        Ok(format!("{FORM}.{}.{wrapped}.{body}", kek.id))
    }

    /// Opens what was sealed for this place.
    pub fn open_value(&self, place: Place<'_>, sealed: &str) -> Result<Secret, SecretError> {
        let refused = || SecretError::Refused(place.field.to_owned());
        let mut parts = sealed.split('.');
        let (Some(FORM), Some(id), Some(wrapped), Some(body), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(refused());
        };
        let mut keys = self.keys();
        if !keys.iter().any(|kek| kek.id == id) {
            keys = self.reload()?;
        }
        let kek = keys
            .iter()
            .find(|kek| kek.id == id)
            .ok_or_else(|| SecretError::UnknownKey(id.escape_debug().to_string()))?;
        let bound = place.bound_to(id);
        let data_key = unlock(&kek.key, &bound, wrapped).ok_or_else(refused)?;
        let inner = RandomizedNonceKey::new(&AES_256_GCM, &data_key).map_err(|_| refused())?;
        let value = unlock(&inner, &bound, body).ok_or_else(refused)?;
        let text = std::str::from_utf8(&value).map_err(|_| refused())?;
        Ok(Secret::new(text))
    }

    /// That this process has the KEK of this database. The first process leaves the proof; one with another KEK is told so before
    /// it seals anything that the others cannot open.
    pub async fn prove(&self, platform: &dyn Platform) -> Result<(), SecretError> {
        let place = Place {
            tenant: "",
            connection: "",
            field: PROOF_NOTE,
        };
        let mine = self.seal(place, PROOF_NOTE)?;
        let kept = platform.set_note(PROOF_NOTE, &mine, false).await?;
        self.open_value(place, &kept).map_err(|_| SecretError::Key {
            place: self.origin(),
            reason: "this database's secrets were sealed with another key; give this process the same RUNTIME_KEK, or the same file `kek`, as the others".into(),
        })?;
        Ok(())
    }

    fn origin(&self) -> String {
        match &self.origin {
            Origin::Environment => "RUNTIME_KEK".into(),
            Origin::File(file) => file.display().to_string(),
        }
    }

    /// Puts a fresh KEK first in the file. With `RUNTIME_KEK` that is for whoever sets the variable.
    pub fn add_key(&self) -> Result<(), SecretError> {
        let Origin::File(file) = &self.origin else {
            return Err(broken(
                "RUNTIME_KEK",
                "the key comes from the environment: put a new one before the old one (base64 of 32 random bytes, separated by a comma), start the processes again, and run this command with --reseal".into(),
            ));
        };
        let old = std::fs::read_to_string(file)
            .map_err(|error| broken(&file.display().to_string(), error.to_string()))?;
        let text = Zeroizing::new(format!("{}\n{old}", fresh_key()?));
        private_file::replace(file, &text)
            .map_err(|error| broken(&file.display().to_string(), error.to_string()))?;
        self.reload().map(|_| ())
    }

    /// Keeps only the first KEK of the file. Refused while anything is sealed with another: seal again first.
    pub async fn drop_old_keys(&self, platform: &dyn Platform) -> Result<usize, SecretError> {
        let Origin::File(file) = &self.origin else {
            return Err(broken(
                "RUNTIME_KEK",
                "the key comes from the environment: remove the old ones there".into(),
            ));
        };
        self.reseal(platform).await?;
        let keys = self.reload()?;
        let text = std::fs::read_to_string(file)
            .map_err(|error| broken(&file.display().to_string(), error.to_string()))?;
        let first = text.lines().find(|line| !line.trim().is_empty());
        private_file::replace(file, &format!("{}\n", first.unwrap_or_default()))
            .map_err(|error| broken(&file.display().to_string(), error.to_string()))?;
        self.reload()?;
        Ok(keys.len().saturating_sub(1))
    }

    /// Seals everything again that is not sealed with the first KEK. Returns how many values; the second time in a row that is none.
    pub async fn reseal(&self, platform: &dyn Platform) -> Result<u64, SecretError> {
        let keys = self.reload()?;
        let current = keys.first().map(|kek| kek.id.clone()).unwrap_or_default();
        let is_current = |sealed: &str| sealed.split('.').nth(1) == Some(current.as_str());
        let proof = Place {
            tenant: "",
            connection: "",
            field: PROOF_NOTE,
        };
        if let Some(kept) = platform.note(PROOF_NOTE).await?
            && !is_current(&kept)
        {
            self.open_value(proof, &kept)?;
            let fresh = self.seal(proof, PROOF_NOTE)?;
            platform.set_note(PROOF_NOTE, &fresh, true).await?;
        }
        let mut page = Page {
            after: None,
            most: ROTATE_PAGE,
        };
        let mut done = 0;
        loop {
            let rows = platform.sealed(&page).await?;
            let Some(last) = rows.last().map(|row| row.0.clone()) else {
                return Ok(done);
            };
            for (connection, tenant, field, was) in &rows {
                if is_current(was) {
                    continue;
                }
                let place = Place {
                    tenant,
                    connection,
                    field,
                };
                let value = self.open_value(place, was)?;
                let now = self.seal(place, value.reveal())?;
                // Where its owner changed it in the meantime, it is sealed with the current KEK already.
                done += u64::from(platform.reseal(connection, field, was, &now).await?);
            }
            page.after = Some(last);
        }
    }
}

fn broken(place: &str, reason: String) -> SecretError {
    SecretError::Key {
        place: place.to_owned(),
        reason,
    }
}

fn read(file: &Path) -> Result<Vec<Kek>, SecretError> {
    let place = file.display().to_string();
    let text = private_file::read(file).map_err(|error| broken(&place, error.to_string()))?;
    parse(&text, '\n').map_err(|reason| broken(&place, reason))
}

fn parse(text: &str, between: char) -> Result<Vec<Kek>, String> {
    let keys: Option<Vec<Kek>> = text
        .split(between)
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let bytes = Zeroizing::new(STANDARD.decode(line).ok()?);
            (bytes.len() == KEY_BYTES).then(|| Kek::new(&bytes))?
        })
        .collect();
    match keys {
        Some(keys) if !keys.is_empty() => Ok(keys),
        _ => Err(format!(
            "every key is the base64 of {KEY_BYTES} random bytes; make one with `head -c 32 /dev/urandom | base64`"
        )),
    }
}

fn fresh_key() -> Result<String, SecretError> {
    let mut bytes = Zeroizing::new(vec![0; KEY_BYTES]);
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| broken("the system", "it has no random numbers".into()))?;
    Ok(STANDARD.encode(&*bytes))
}

fn lock(key: &RandomizedNonceKey, bound: &[u8], value: &[u8]) -> Option<String> {
    let mut bytes = value.to_vec();
    let nonce = key
        .seal_in_place_append_tag(Aad::from(bound), &mut bytes)
        .ok()?;
    let mut all = nonce.as_ref().to_vec();
    all.append(&mut bytes);
    Some(URL_SAFE_NO_PAD.encode(all))
}

fn unlock(key: &RandomizedNonceKey, bound: &[u8], text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
    let (nonce, body) = bytes.split_at_mut_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let value = key.open_in_place(nonce, Aad::from(bound), body).ok()?;
    Some(Zeroizing::new(value.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place<'_> = Place {
        tenant: "t1",
        connection: "c1",
        field: "source_token",
    };

    fn secrets(folder: &Path) -> Secrets {
        Secrets::open(None, &folder.join("kek")).unwrap()
    }

    #[test]
    fn a_sealed_value_opens_in_its_place_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = secrets(folder.path());
        let sealed = secrets.seal(HERE, "glpat-12345").unwrap();
        assert!(!sealed.contains("glpat"), "{sealed}");
        assert_eq!(
            secrets.open_value(HERE, &sealed).unwrap().reveal(),
            "glpat-12345"
        );
        for elsewhere in [
            Place {
                tenant: "t2",
                ..HERE
            },
            Place {
                connection: "c2",
                ..HERE
            },
            Place {
                field: "cortexdb_api_key",
                ..HERE
            },
            Place {
                tenant: "t1c",
                connection: "1",
                ..HERE
            },
        ] {
            assert!(matches!(
                secrets.open_value(elsewhere, &sealed),
                Err(SecretError::Refused(_))
            ));
        }
    }

    #[test]
    fn a_changed_byte_anywhere_is_refused_and_nothing_panics() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = secrets(folder.path());
        let sealed = secrets.seal(HERE, "glpat-12345").unwrap();
        for index in 0..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // The last character of unpadded base64 holds bits that are not used; a decoder that ignored them would be no danger.
            assert!(secrets.open_value(HERE, &changed).is_err(), "{index}");
        }
        for length in 0..sealed.len() {
            assert!(secrets.open_value(HERE, &sealed[..length]).is_err());
        }
    }

    #[test]
    fn the_same_value_never_looks_the_same_twice() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = secrets(folder.path());
        assert_ne!(
            secrets.seal(HERE, "x").unwrap(),
            secrets.seal(HERE, "x").unwrap()
        );
    }

    #[test]
    fn the_key_file_is_private_and_an_open_one_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kek");
        secrets(folder.path());
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let words = Secrets::open(None, &file).unwrap_err().to_string();
        assert!(words.contains("chmod 600"), "{words}");
    }

    #[test]
    fn an_added_key_seals_from_now_on_and_the_old_one_still_opens() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = secrets(folder.path());
        let before = secrets.seal(HERE, "old").unwrap();
        // Another process adds the key.
        Secrets::open(None, &folder.path().join("kek"))
            .unwrap()
            .add_key()
            .unwrap();
        let after = secrets.seal(HERE, "new").unwrap();
        assert_ne!(before.split('.').nth(1), after.split('.').nth(1));
        assert_eq!(secrets.open_value(HERE, &before).unwrap().reveal(), "old");
        assert_eq!(secrets.open_value(HERE, &after).unwrap().reveal(), "new");
    }

    #[test]
    fn keys_of_the_environment_are_read_and_nonsense_is_explained() {
        let key = fresh_key().unwrap();
        let other = fresh_key().unwrap();
        let file = Path::new("/nonexistent/kek");
        let both = Secrets::open(Some(&format!("{other},{key}")), file).unwrap();
        let one = Secrets::open(Some(&key), file).unwrap();
        let sealed = one.seal(HERE, "x").unwrap();
        assert_eq!(both.open_value(HERE, &sealed).unwrap().reveal(), "x");
        let unknown = both.seal(HERE, "x").unwrap();
        assert!(matches!(
            one.open_value(HERE, &unknown),
            Err(SecretError::UnknownKey(_))
        ));
        for nonsense in ["short", "AAAA", &format!("{key},x")] {
            let words = Secrets::open(Some(nonsense), file).unwrap_err().to_string();
            assert!(words.contains("32 random bytes"), "{words}");
            assert!(!words.contains(&key), "a key must not be shown");
        }
        assert!(one.add_key().is_err());
    }
}
