//! What a source lists, collected while it is read, and compared with what the ledger holds.
//!
//! A component hands over ids as pages come, so that it never has to hold them all; they wait here, ids alone, until the list is
//! complete. Then two questions can be answered: what is held and was not listed (the component looks at each and retracts what is
//! gone), and, for `runtime verify`, what differs in either direction.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::ledger::{Store, StoreError};
use crate::report::StreamState;

/// Ids of one run. A hundred bytes each, so that the worst component costs half a gigabyte and no more.
const MOST_IDS: usize = 5_000_000;
/// Their text: ids are at most 4096 bytes, and five million of those would be 20 GB.
const MOST_BYTES: usize = 512 << 20;
/// Held records read from the ledger at a time.
const PAGE: u32 = 5_000;

/// Ids that a source lists, by stream and event type.
#[derive(Debug, Default)]
pub struct Census {
    inner: Mutex<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    kinds: BTreeMap<(String, String), Kind>,
    ids: usize,
    bytes: usize,
}

/// More was listed in one run than is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooManyListed {
    /// By number.
    #[error(
        "limit reached: `listed` allows {MOST_IDS} ids in one run. It cannot be raised; name fewer projects in one connection"
    )]
    Ids,
    /// By their text.
    #[error(
        "limit reached: `listed` allows {} MiB of ids in one run. It cannot be raised; name fewer projects in one connection",
        MOST_BYTES >> 20
    )]
    Bytes,
}

/// The list of one stream and event type.
#[derive(Debug, Default)]
struct Kind {
    wanted: HashSet<String>,
    /// Existing, and left out by a policy of the component.
    left_out: HashSet<String>,
    /// Read to its end.
    complete: bool,
}

impl Kind {
    fn has(&self, id: &str) -> bool {
        self.wanted.contains(id) || self.left_out.contains(id)
    }
}

impl Census {
    /// Adds ids that the source lists.
    pub fn add(
        &self,
        stream: &str,
        event_type: &str,
        ids: Vec<String>,
        wanted: bool,
    ) -> Result<(), TooManyListed> {
        let mut lists = self.lock();
        if lists.ids + ids.len() > MOST_IDS {
            return Err(TooManyListed::Ids);
        }
        // Repetitions are counted, too: whoever lists everything again and again is not reconciling.
        lists.bytes += ids.iter().map(String::len).sum::<usize>();
        if lists.bytes > MOST_BYTES {
            return Err(TooManyListed::Bytes);
        }
        let kind = lists
            .kinds
            .entry((stream.to_owned(), event_type.to_owned()))
            .or_default();
        let before = kind.wanted.len() + kind.left_out.len();
        for id in ids {
            if wanted {
                kind.left_out.remove(&id);
                kind.wanted.insert(id);
            } else if !kind.wanted.contains(&id) {
                kind.left_out.insert(id);
            }
        }
        let after = kind.wanted.len() + kind.left_out.len();
        lists.ids += after.saturating_sub(before);
        Ok(())
    }

    /// The list of this stream and event type has been read to its end.
    pub fn complete(&self, stream: &str, event_type: &str) {
        let kind = (stream.to_owned(), event_type.to_owned());
        self.lock().kinds.entry(kind).or_default().complete = true;
    }

    /// Which of these were not listed.
    #[must_use]
    pub fn unlisted<T>(
        &self,
        stream: &str,
        event_type: &str,
        held: Vec<T>,
        id: impl Fn(&T) -> &str,
    ) -> Vec<T> {
        let lists = self.lock();
        let kind = lists.kinds.get(&(stream.to_owned(), event_type.to_owned()));
        held.into_iter()
            .filter(|record| kind.is_none_or(|kind| !kind.has(id(record))))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lists> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What differs in one stream and event type.
#[derive(Debug, Clone, Serialize)]
pub struct KindComparison {
    /// `42/issues`.
    pub stream: String,
    /// `note`.
    pub event_type: String,
    /// Records that the source lists and that belong into CortexDB.
    pub listed: u64,
    /// Records that the ledger holds as written.
    pub held: u64,
    /// Listed, neither written nor refused.
    pub missing: Vec<String>,
    /// Written, not listed any more.
    pub surplus: Vec<String>,
    /// Listed, not written, and in the ledger as refused for good.
    pub dead_letters: Vec<String>,
}

/// A stream that could not be compared.
#[derive(Debug, Clone, Serialize)]
pub struct NotCompared {
    /// `42/issues`.
    pub stream: String,
    /// The source's or the host's words.
    pub reason: String,
    /// Records that the ledger holds of it.
    pub held: u64,
    /// It should have been compared.
    pub failed: bool,
}

/// What `runtime verify` found.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Nothing is missing, nothing is surplus, and everything could be looked at.
    pub equal: bool,
    /// Every stream and event type that was read to its end.
    pub kinds: Vec<KindComparison>,
    /// The others.
    pub not_compared: Vec<NotCompared>,
}

impl Census {
    /// Compares what was listed in full with what the ledger holds. The end of the census: the lists are used up.
    pub async fn compare(
        &self,
        store: &dyn Store,
        connection: i64,
        streams: &BTreeMap<String, StreamState>,
    ) -> Result<Comparison, StoreError> {
        let lists = std::mem::take(&mut *self.lock());
        let mut kinds = Vec::with_capacity(lists.kinds.len());
        for ((stream, event_type), kind) in lists.kinds {
            if kind.complete && streams.get(&stream) == Some(&StreamState::Complete) {
                kinds.push(compare_kind(store, connection, stream, event_type, &kind).await?);
            }
        }
        let mut not_compared = Vec::new();
        let held = held_by_stream(store, connection).await?;
        for (stream, state) in streams {
            let reason = match state {
                StreamState::Off(words) | StreamState::Failed(words) => words.clone(),
                _ if kinds.iter().any(|kind| kind.stream == *stream) => continue,
                StreamState::Complete => {
                    "the connector did not say what the source lists".to_owned()
                }
                StreamState::Reading => "it was not read to its end".to_owned(),
            };
            not_compared.push(NotCompared {
                reason,
                held: held.get(stream).copied().unwrap_or_default(),
                failed: !matches!(state, StreamState::Off(_)),
                stream: stream.clone(),
            });
        }
        for (stream, held) in held {
            if !streams.contains_key(&stream) {
                not_compared.push(NotCompared {
                    stream,
                    reason: NOT_READ.to_owned(),
                    held,
                    failed: false,
                });
            }
        }
        let equal = kinds
            .iter()
            .all(|kind| kind.missing.is_empty() && kind.surplus.is_empty())
            && not_compared.iter().all(|stream| !stream.failed);
        Ok(Comparison {
            equal,
            kinds,
            not_compared,
        })
    }
}

const NOT_READ: &str = "not read: no longer selected, deleted, or hidden from the token";

async fn compare_kind(
    store: &dyn Store,
    connection: i64,
    stream: String,
    event_type: String,
    kind: &Kind,
) -> Result<KindComparison, StoreError> {
    let dead = store.refused_in_stream(connection, &stream).await?;
    let mut surplus = Vec::new();
    let mut held = HashSet::new();
    let mut after = String::new();
    loop {
        let page = store
            .held(connection, &stream, &event_type, &after, PAGE)
            .await?;
        let Some(last) = page.last() else { break };
        after.clone_from(&last.source_id);
        for record in page {
            // A dead letter is in no database.
            let is_dead = !record.acknowledged && dead.contains(&record.source_id);
            if !kind.has(&record.source_id) && !is_dead {
                surplus.push(record.source_id.clone());
            }
            if record.acknowledged {
                held.insert(record.source_id);
            }
        }
    }
    let left_out = store.left_out_in_stream(connection, &stream).await?;
    let absent = kind
        .wanted
        .iter()
        .filter(|id| !held.contains(*id) && !left_out.contains(*id))
        .cloned();
    let (mut dead_letters, mut missing): (Vec<String>, Vec<String>) =
        absent.partition(|id| dead.contains(id));
    dead_letters.sort_unstable();
    missing.sort_unstable();
    Ok(KindComparison {
        listed: kind.wanted.len() as u64,
        held: held.len() as u64,
        stream,
        event_type,
        missing,
        surplus,
        dead_letters,
    })
}

async fn held_by_stream(
    store: &dyn Store,
    connection: i64,
) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut held: BTreeMap<String, u64> = BTreeMap::new();
    for (stream, count) in store.held_by_stream(connection).await? {
        *held.entry(stream).or_default() += count;
    }
    Ok(held)
}

/// What is held of streams that a run did not read, by what their names have before the first slash (a project): how many records,
/// and of which streams. Whoever selects other projects means no deletion, and a project that vanished may come back.
pub async fn unread(
    store: &dyn Store,
    connection: i64,
    streams: &BTreeMap<String, StreamState>,
) -> Result<BTreeMap<String, (u64, Vec<String>)>, StoreError> {
    let mut unread: BTreeMap<String, (u64, Vec<String>)> = BTreeMap::new();
    for (stream, count) in held_by_stream(store, connection).await? {
        if !streams.contains_key(&stream) {
            let container = stream.split('/').next().unwrap_or_default().to_owned();
            let entry = unread.entry(container).or_default();
            entry.0 += count;
            entry.1.push(stream);
        }
    }
    Ok(unread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Begun, DeadLetter, Settled, SqliteStore};

    #[test]
    fn an_id_that_is_listed_both_ways_is_wanted() {
        let census = Census::default();
        let ids = || vec!["gl:pipeline:42/1".to_owned()];
        census
            .add("42/pipelines", "pipeline", ids(), false)
            .unwrap();
        census.add("42/pipelines", "pipeline", ids(), true).unwrap();
        census
            .add("42/pipelines", "pipeline", ids(), false)
            .unwrap();
        let lists = census.lock();
        let kind = &lists.kinds[&("42/pipelines".to_owned(), "pipeline".to_owned())];
        assert_eq!(
            (kind.wanted.len(), kind.left_out.len(), lists.ids),
            (1, 0, 1)
        );
    }

    #[test]
    fn what_was_never_listed_is_unlisted() {
        let census = Census::default();
        census
            .add("42/issues", "issue", vec!["a".to_owned()], true)
            .unwrap();
        let unlisted = census.unlisted("42/issues", "issue", vec!["a", "b"], |id| id);
        assert_eq!(unlisted, ["b"]);
        let other = census.unlisted("42/issues", "note", vec!["a"], |id| id);
        assert_eq!(other, ["a"]);
    }

    #[tokio::test]
    async fn differences_are_named_and_dead_letters_are_not_among_them() {
        let store = SqliteStore::in_memory().await.unwrap();
        let ttl = std::time::Duration::from_secs(30);
        let lease = store.claim("gitlab", "test", ttl).await.unwrap();
        let begun = ["gl:issue:42/1", "gl:issue:42/2", "gl:issue:42/3"].map(|id| Begun {
            source_id: id.into(),
            record: id.into(),
            event_type: "issue".into(),
            stream: "42/issues".into(),
            root: "".into(),
            appends: false,
            scope: "org:acme".into(),
            digest: "a".into(),
            generation: 1,
            keys: vec![format!("{id}@1").into()],
            preceded_by: Vec::new().into(),
        });
        store.begin(lease, &begun).await.unwrap();
        let settled = ["gl:issue:42/1", "gl:issue:42/2"].map(|id| Settled {
            source_id: id.into(),
            generation: 1,
            event_ids: vec![format!("evt_{id}").into()],
            appends: false,
        });
        let refused = Settled {
            source_id: "gl:issue:42/3".into(),
            generation: 1,
            event_ids: Vec::new(),
            appends: false,
        };
        let letter = DeadLetter {
            source_id: "gl:issue:42/3".to_owned(),
            stream: "42/issues".to_owned(),
            reason: "refused".to_owned(),
            payload: String::new(),
        };
        store.settle(lease, &settled, &[]).await.unwrap();
        store.settle(lease, &[refused], &[letter]).await.unwrap();

        let compare = async |listed: &[&str], state: StreamState| {
            let census = Census::default();
            let ids = listed.iter().map(|id| format!("gl:issue:42/{id}"));
            census
                .add("42/issues", "issue", ids.collect(), true)
                .unwrap();
            census.complete("42/issues", "issue");
            let streams = BTreeMap::from([("42/issues".to_owned(), state)]);
            let connection = lease.connection;
            census.compare(&store, connection, &streams).await.unwrap()
        };
        let same = compare(&["1", "2", "3"], StreamState::Complete).await;
        assert!(same.equal, "{same:?}");
        assert_eq!(same.kinds[0].dead_letters, ["gl:issue:42/3"]);

        // Refused and gone: there is nothing of it in CortexDB.
        let gone = compare(&["1", "2"], StreamState::Complete).await;
        assert!(gone.equal, "{gone:?}");

        let other = compare(&["2", "3", "4"], StreamState::Complete).await;
        assert!(!other.equal);
        assert_eq!(other.kinds[0].missing, ["gl:issue:42/4"]);
        assert_eq!(other.kinds[0].surplus, ["gl:issue:42/1"]);

        let off = compare(&[], StreamState::Off("403".to_owned())).await;
        assert!(off.equal && off.kinds.is_empty(), "{off:?}");
        assert_eq!(off.not_compared[0].held, 2);
        let failed = compare(&["1", "2"], StreamState::Failed("502".to_owned())).await;
        assert!(!failed.equal, "{failed:?}");
    }
}
