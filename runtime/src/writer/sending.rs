//! One batch on its way: frozen in the ledger, sent, and settled with what CortexDB answered.
//!
//! Several batches are prepared and settled side by side, but they are sent one after the other, in the order in which they were begun:
//! what is older arrives first.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};

use super::schedule::Taken;
use super::{WriterError, WriterSettings, printable, report_dead_letter};
use crate::cortexdb::batch::{Batch, BatchBuilder};
use crate::cortexdb::bulk::{Fate, event_ids};
use crate::cortexdb::client::{Client, CortexError};
use crate::cortexdb::envelope::{
    KeyParts, Modality, Record, Version, idempotency_key, instance_mark, write_envelope,
};
use crate::ledger::{Begun, DeadLetter, Lease, Settled, Store};
use crate::lost_receipts::{Unacknowledged, find};
use crate::rebuild::Ours;
use crate::redact::Redactor;
use crate::report::{Counters, Event, Level, Reporter};

/// So long after it was begun a batch is sent without another look at the lease: a quarter of the shortest that there is.
const SOON: Duration = Duration::from_millis(250);
/// What an envelope takes beside its text, about: more is made room for when it comes.
const ENVELOPE_BYTES: usize = 1536;

/// One record with what was decided about it.
pub(super) struct Draft {
    /// The page that it came with.
    pub(super) page: u64,
    /// What it takes of the room in the queue.
    pub(super) bytes: usize,
    pub(super) record: Record,
    pub(super) stream: Arc<str>,
    pub(super) scope: Arc<str>,
    pub(super) digest: Arc<str>,
    pub(super) generation: u64,
    /// Frozen by an earlier attempt; `None` where the predecessors are still to be looked up.
    pub(super) frozen: Option<Vec<String>>,
    /// An earlier attempt began this version so long ago that CortexDB may not recognise its key any more.
    pub(super) begun_long_ago: bool,
    pub(super) known_before: bool,
}

/// What is left of a draft whose envelopes are put down.
struct Sent {
    page: u64,
    bytes: usize,
    source_id: Arc<str>,
    /// The record of the source, where this is a part of one.
    part_of: Option<String>,
    root: String,
    event_type: String,
    stream: Arc<str>,
    scope: Arc<str>,
    digest: Arc<str>,
    generation: u64,
    appends: bool,
    begun_long_ago: bool,
}

impl Sent {
    fn of(draft: Draft) -> Self {
        let record = draft.record;
        Self {
            page: draft.page,
            bytes: draft.bytes,
            root: record.root().to_owned(),
            source_id: record.source_id,
            part_of: record.mapped.part_of,
            event_type: record.event_type,
            stream: draft.stream,
            scope: draft.scope,
            digest: draft.digest,
            generation: draft.generation,
            appends: record.modality == Modality::Observation,
            begun_long_ago: draft.begun_long_ago,
        }
    }

    /// The record of the source.
    fn record(&self) -> &str {
        self.part_of.as_deref().unwrap_or(&self.source_id)
    }
}

/// What envelopes need to know of the run.
#[derive(Clone)]
pub(super) struct Writing {
    pub(super) source_instance: String,
    pub(super) instance_mark: String,
    pub(super) system: String,
    pub(super) with_actor: bool,
}

impl Writing {
    pub(super) fn new(settings: &WriterSettings) -> Self {
        Self {
            source_instance: settings.source_instance.clone(),
            instance_mark: instance_mark(&settings.source_instance),
            system: settings.system.clone(),
            with_actor: settings.with_actor,
        }
    }
}

/// What batches share.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) store: Arc<dyn Store>,
    pub(super) lease: Lease,
    pub(super) writing: Writing,
    pub(super) counters: Arc<Counters>,
    pub(super) reporter: Arc<dyn Reporter>,
    pub(super) redactor: Redactor,
    /// Whether somebody wants a copy of what was stored.
    pub(super) copies: bool,
    /// Where each batch says what CortexDB answered, before the ledger knows.
    pub(super) answers: mpsc::UnboundedSender<Vec<Answered>>,
}

/// CortexDB has answered about a record.
pub(super) struct Answered {
    pub(super) place: u64,
    /// `None`: it is refused.
    pub(super) event_id: Option<String>,
}

impl Context {
    fn ours(&self) -> Ours<'_> {
        Ours {
            system: &self.writing.system,
            source_instance: &self.writing.source_instance,
        }
    }
}

/// The place of a batch among those that are under way.
pub(super) struct Turn {
    /// Completes when the batch before has been answered.
    pub(super) before: Option<oneshot::Receiver<()>>,
    /// Told when this one has been answered.
    pub(super) answered: oneshot::Sender<()>,
}

/// A record whose fate the ledger knows.
pub(super) struct Landed {
    pub(super) place: u64,
    pub(super) page: u64,
    pub(super) bytes: usize,
    /// `None`: it is a dead letter now.
    pub(super) event_id: Option<String>,
    /// It replaces an earlier version.
    pub(super) replaces: bool,
    /// Its envelopes, where somebody wants them.
    pub(super) copies: Vec<String>,
}

/// Freezes, sends and settles a batch. Who follows one of its records need not wait for the ledger to know its event id: should this process end
/// before it does, the record is sent again under the same key and has the same id.
pub(super) async fn send(
    context: Arc<Context>,
    drafts: Vec<Taken<Box<Draft>>>,
    turn: Turn,
) -> Result<Vec<Landed>, WriterError> {
    let contents = drafts.iter().map(|one| one.value.record.content.len());
    let text_bytes: usize = contents.sum();
    let room = text_bytes + text_bytes / 16 + drafts.len() * ENVELOPE_BYTES;
    let mut builder = BatchBuilder::with_capacity(drafts.len(), room);
    let mut counts = Vec::with_capacity(drafts.len());
    let mut taken = Vec::with_capacity(drafts.len());
    for Taken {
        place,
        value: mut draft,
        mut preceded_by,
    } in drafts
    {
        if let Some(frozen) = draft.frozen.take() {
            preceded_by = frozen;
        }
        let writing = &context.writing;
        counts.push(push_envelopes(&mut builder, writing, &draft, &preceded_by));
        taken.push(Taken {
            place,
            value: Sent::of(*draft),
            preceded_by,
        });
    }
    let batch = builder.finish();
    let begun = SystemTime::now();
    freeze(&context, &taken, &counts, &batch).await?;
    let stored = stored_before(&context, &taken, &counts, &batch).await?;
    if let Some(before) = turn.before
        && before.await.is_err()
    {
        // The one before failed, and the run with it.
        return Err(CortexError::Stopped.into());
    }
    confirm_if_late(context.store.as_ref(), context.lease, begun).await?;
    let fates = write_the_rest(&context.client, &batch, stored).await?;
    let _ = turn.answered.send(());
    let _ = context.answers.send(answered(&taken, &counts, &fates));
    settle(&context, &taken, &counts, batch, &fates).await
}

/// Whoever took over while this process was frozen or asleep has taken what was begun for never sent, and has gone on: sent now, it would be
/// an event that no ledger knows. Asked only where there was time enough for that. By the wall clock, because the other one stands still
/// while a machine sleeps.
async fn confirm_if_late(
    store: &dyn Store,
    lease: Lease,
    begun: SystemTime,
) -> Result<(), WriterError> {
    if begun.elapsed().is_ok_and(|since| since < SOON) {
        return Ok(());
    }
    Ok(store.confirm(lease).await?)
}

async fn freeze(
    context: &Context,
    taken: &[Taken<Sent>],
    counts: &[usize],
    batch: &Batch,
) -> Result<(), WriterError> {
    let mut begun = Vec::with_capacity(taken.len());
    let mut start = 0;
    for (one, count) in taken.iter().zip(counts) {
        let sent = &one.value;
        begun.push(Begun {
            source_id: (&*sent.source_id).into(),
            record: sent.record().into(),
            event_type: sent.event_type.as_str().into(),
            stream: (&*sent.stream).into(),
            root: sent.root.as_str().into(),
            appends: sent.appends,
            scope: (&*sent.scope).into(),
            digest: (&*sent.digest).into(),
            generation: sent.generation,
            keys: (start..start + count)
                .map(|index| batch.place(index).key.into())
                .collect(),
            preceded_by: one.preceded_by.as_slice().into(),
        });
        start += count;
    }
    Ok(context.store.begin(context.lease, &begun).await?)
}

fn answered(taken: &[Taken<Sent>], counts: &[usize], mut fates: &[Fate]) -> Vec<Answered> {
    let mut answers = Vec::with_capacity(taken.len());
    for (one, count) in taken.iter().zip(counts) {
        let (own, rest) = fates.split_at(*count);
        fates = rest;
        answers.push(Answered {
            place: one.place,
            event_id: event_ids(own)
                .ok()
                .and_then(|ids| ids.first().map(|id| (*id).to_owned())),
        });
    }
    answers
}

async fn settle(
    context: &Context,
    taken: &[Taken<Sent>],
    counts: &[usize],
    batch: Batch,
    fates: &[Fate],
) -> Result<Vec<Landed>, WriterError> {
    let mut settled = Vec::with_capacity(taken.len());
    let mut landed = Vec::with_capacity(taken.len());
    let mut dead = Vec::new();
    let mut written: BTreeMap<&str, u64> = BTreeMap::new();
    let mut start = 0;
    for (Taken { place, value, .. }, count) in taken.iter().zip(counts) {
        let range = start..start + count;
        start += count;
        let envelopes = || range.clone().map(|index| batch.json(index));
        let mut copies = Vec::new();
        let ids = match event_ids(&fates[range.clone()]) {
            Ok(ids) => {
                *written.entry(&value.event_type).or_default() += 1;
                if context.copies {
                    copies.extend(envelopes().map(str::to_owned));
                }
                ids
            }
            Err(words) => {
                let kept = envelopes().collect::<Vec<_>>().join("\n");
                dead.push(DeadLetter {
                    source_id: value.source_id.to_string(),
                    stream: value.stream.to_string(),
                    reason: printable(&context.redactor.apply(words)),
                    payload: context.redactor.apply(&kept).into_owned(),
                });
                Vec::new()
            }
        };
        landed.push(Landed {
            place: *place,
            page: value.page,
            bytes: value.bytes,
            event_id: ids.first().map(|id| (*id).to_owned()),
            replaces: value.generation > 1,
            copies,
        });
        settled.push(Settled {
            source_id: (&*value.source_id).into(),
            generation: value.generation,
            event_ids: ids.into_iter().map(Cow::Borrowed).collect(),
            appends: value.appends,
        });
    }
    drop(batch);
    context.store.settle(context.lease, &settled, &dead).await?;
    context.counters.update(|totals| {
        for (kind, count) in written {
            *totals.written_by_type.entry(kind.to_owned()).or_default() += count;
        }
    });
    for letter in &dead {
        report_dead_letter(context.reporter.as_ref(), &context.counters, letter);
    }
    Ok(landed)
}

/// Event ids of what an earlier attempt stored without a receipt, too long ago for its key to be trusted; one for each envelope.
async fn stored_before(
    context: &Context,
    taken: &[Taken<Sent>],
    counts: &[usize],
    batch: &Batch,
) -> Result<Vec<Option<String>>, WriterError> {
    let mut stored = vec![None; batch.len()];
    let (mut wanted, mut positions) = (Vec::new(), Vec::new());
    let mut position = 0;
    for (one, count) in taken.iter().zip(counts) {
        let sent = &one.value;
        for fragment in 0..*count {
            if sent.begun_long_ago {
                positions.push(position);
                wanted.push(Unacknowledged {
                    place: batch.place(position),
                    source_id: &sent.source_id,
                    generation: sent.generation,
                    fragment: fragment as u64,
                    digest: Some(&sent.digest),
                });
            }
            position += 1;
        }
    }
    if wanted.is_empty() {
        return Ok(stored);
    }
    let found = find(&context.client, context.ours(), &wanted).await?;
    if let Some(words) = found.not_listed {
        warn_that_receipts_stay_lost(context.reporter.as_ref(), &words);
    }
    for (position, event_id) in positions.into_iter().zip(found.event_ids) {
        stored[position] = event_id;
    }
    Ok(stored)
}

/// Writes what is not stored yet; a fate for every envelope.
async fn write_the_rest(
    client: &Client,
    batch: &Batch,
    stored: Vec<Option<String>>,
) -> Result<Vec<Fate>, CortexError> {
    if stored.iter().all(Option::is_none) {
        return client.write(batch).await;
    }
    let missing = stored.iter().enumerate().filter(|(_, id)| id.is_none());
    let rest = batch.some(missing.map(|(index, _)| index));
    let mut written = client.write(&rest).await?.into_iter();
    Ok(stored
        .into_iter()
        .filter_map(|stored| stored.map(Fate::Stored).or_else(|| written.next()))
        .collect())
}

fn warn_that_receipts_stay_lost(reporter: &dyn Reporter, words: &str) {
    reporter.event(&Event::Log {
        level: Level::Warn,
        message: format!(
            "an earlier run broke off more than a day ago, and whether what it sent last is stored cannot be found out ({words}). It is sent again and may be there twice; a token with `scope.read.events` could tell"
        ),
        fields: BTreeMap::new(),
    });
}

/// Puts down the envelopes of one version, one for each fragment, and says how many they are.
pub(super) fn push_envelopes(
    batch: &mut BatchBuilder,
    writing: &Writing,
    draft: &Draft,
    preceded_by: &[String],
) -> usize {
    let ranges = draft.record.fragment_ranges();
    let fragments = ranges.len();
    for (fragment, range) in ranges.into_iter().enumerate() {
        let key = idempotency_key(KeyParts {
            source_instance: &writing.source_instance,
            scope: &draft.scope,
            source_id: &draft.record.source_id,
            generation: draft.generation,
            fragment,
            digest: &draft.digest,
        });
        batch.push(key, Arc::clone(&draft.scope), |body, key| {
            let version = Version {
                scope: &draft.scope,
                key,
                digest: &draft.digest,
                generation: draft.generation,
                fragment,
                fragments,
                start: range.start,
                end: range.end,
                preceded_by,
                system: &writing.system,
                instance_mark: &writing.instance_mark,
                with_actor: writing.with_actor,
            };
            write_envelope(body, &draft.record, version);
        });
    }
    fragments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{SqliteStore, StoreError};

    #[tokio::test]
    async fn what_was_begun_a_while_ago_is_not_sent_once_another_process_has_taken_over() {
        let store = SqliteStore::in_memory().await.unwrap();
        let ttl = Duration::from_secs(30);
        let lease = store.claim("gitlab", "one", ttl).await.unwrap();
        let late = SystemTime::now() - Duration::from_secs(5);
        confirm_if_late(&store, lease, late).await.unwrap();
        store.release(lease).await.unwrap();
        store.claim("gitlab", "other", ttl).await.unwrap();
        let set_back = SystemTime::now() + Duration::from_secs(5);
        for begun in [late, set_back] {
            let error = confirm_if_late(&store, lease, begun).await.unwrap_err();
            assert!(
                matches!(error, WriterError::Store(StoreError::Fenced)),
                "{error}"
            );
        }
        // In the ordinary case it costs nothing.
        confirm_if_late(&store, lease, SystemTime::now())
            .await
            .unwrap();
    }
}
