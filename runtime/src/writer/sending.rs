//! One batch on its way: frozen in the ledger, sent, and settled with what CortexDB answered.
//!
//! Several batches are prepared and settled side by side, but they are sent one after the other, in the order in which they were begun:
//! what is older arrives first.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::schedule::Taken;
use super::{WriterError, printable, report_dead_letter};
use crate::cortexdb::bulk::{Fate, Item};
use crate::cortexdb::client::{Client, CortexError};
use crate::cortexdb::envelope::{
    KeyParts, Modality, Record, Version, envelope_json, idempotency_key,
};
use crate::ledger::{Begun, DeadLetter, Lease, Settled, Store};
use crate::lost_receipts::{Unacknowledged, find};
use crate::rebuild::Ours;
use crate::redact::Redactor;
use crate::report::{Counters, Event, Level, Reporter};

/// One record with what was decided about it.
pub(super) struct Draft {
    /// The page that it came with.
    pub(super) page: u64,
    pub(super) record: Record,
    pub(super) stream: String,
    pub(super) scope: String,
    pub(super) digest: String,
    pub(super) generation: u64,
    /// Frozen by an earlier attempt; `None` where the predecessors are still to be looked up.
    pub(super) frozen: Option<Vec<String>>,
    /// An earlier attempt began this version so long ago that CortexDB may not recognise its key any more.
    pub(super) begun_long_ago: bool,
    pub(super) known_before: bool,
}

/// What envelopes need to know of the run.
#[derive(Clone)]
pub(super) struct Writing {
    pub(super) source_instance: String,
    pub(super) system: String,
    pub(super) with_actor: bool,
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

/// A record that has its fate.
pub(super) struct Landed {
    pub(super) place: u64,
    pub(super) page: u64,
    /// `None`: it is a dead letter now.
    pub(super) event_id: Option<String>,
    /// It replaces an earlier version.
    pub(super) replaces: bool,
    /// Its envelopes, where somebody wants them.
    pub(super) copies: Vec<String>,
}

/// Freezes, sends and settles a batch.
pub(super) async fn send(
    context: Arc<Context>,
    batch: Vec<Taken<Draft>>,
    turn: Turn,
) -> Result<Vec<Landed>, WriterError> {
    let predecessors: Vec<Vec<String>> = batch
        .iter()
        .map(|taken| {
            let frozen = taken.value.frozen.clone();
            frozen.unwrap_or_else(|| taken.preceded_by.clone())
        })
        .collect();
    let items: Vec<Vec<Item>> = batch
        .iter()
        .zip(&predecessors)
        .map(|(taken, before)| items_of(&context.writing, &taken.value, before))
        .collect();
    let begun: Vec<Begun> = batch
        .iter()
        .zip(predecessors)
        .zip(&items)
        .map(|((taken, preceded_by), items)| begun(&taken.value, preceded_by, items))
        .collect();
    context.store.begin(context.lease, &begun).await?;
    drop(begun);
    let counts: Vec<usize> = items.iter().map(Vec::len).collect();
    let stored = stored_before(&context, &batch, &items).await?;
    let flat: Vec<Item> = items.into_iter().flatten().collect();
    if let Some(before) = turn.before
        && before.await.is_err()
    {
        // The one before failed, and the run with it.
        return Err(CortexError::Stopped.into());
    }
    let fates = write_the_rest(&context.client, &flat, stored).await?;
    let _ = turn.answered.send(());
    settle(&context, batch, &counts, &flat, &fates).await
}

fn begun(draft: &Draft, preceded_by: Vec<String>, items: &[Item]) -> Begun {
    Begun {
        source_id: draft.record.source_id.clone(),
        record: draft.record.record().to_owned(),
        event_type: draft.record.event_type.clone(),
        stream: draft.stream.clone(),
        root: draft.record.root().to_owned(),
        appends: appends(draft),
        scope: draft.scope.clone(),
        digest: draft.digest.clone(),
        generation: draft.generation,
        keys: items.iter().map(|item| item.key.clone()).collect(),
        preceded_by,
    }
}

async fn settle(
    context: &Context,
    batch: Vec<Taken<Draft>>,
    counts: &[usize],
    items: &[Item],
    fates: &[Fate],
) -> Result<Vec<Landed>, WriterError> {
    let mut settled = Vec::with_capacity(batch.len());
    let mut landed = Vec::with_capacity(batch.len());
    let mut dead = Vec::new();
    let mut written: BTreeMap<String, u64> = BTreeMap::new();
    let mut start = 0;
    for (Taken { place, value, .. }, count) in batch.into_iter().zip(counts) {
        let fates = &fates[start..start + count];
        let items = &items[start..start + count];
        start += count;
        let mut ids = Vec::with_capacity(*count);
        let mut refusal = None;
        for fate in fates {
            match fate {
                Fate::Stored(id) => ids.push(id.clone()),
                Fate::Refused(words) => refusal = Some(words),
            }
        }
        let mut copies = Vec::new();
        if let Some(words) = refusal {
            ids.clear();
            dead.push(DeadLetter {
                source_id: value.record.source_id.clone(),
                stream: value.stream.clone(),
                reason: printable(&context.redactor.apply(words)),
                payload: context.redactor.apply(&envelopes(items)).into_owned(),
            });
        } else {
            let kind = written.entry(value.record.event_type.clone());
            *kind.or_default() += 1;
            if context.copies {
                copies.extend(items.iter().map(|item| item.json.clone()));
            }
        }
        landed.push(Landed {
            place,
            page: value.page,
            event_id: ids.first().cloned(),
            replaces: value.generation > 1,
            copies,
        });
        settled.push(Settled {
            source_id: value.record.source_id.clone(),
            generation: value.generation,
            event_ids: ids,
            appends: appends(&value),
        });
    }
    context.store.settle(context.lease, &settled, &dead).await?;
    context.counters.update(|totals| {
        for (kind, count) in written {
            *totals.written_by_type.entry(kind).or_default() += count;
        }
    });
    for letter in &dead {
        report_dead_letter(context.reporter.as_ref(), &context.counters, letter);
    }
    Ok(landed)
}

/// Event ids of what an earlier attempt stored without a receipt, too long ago for its key to be trusted; one for each item.
async fn stored_before(
    context: &Context,
    batch: &[Taken<Draft>],
    items: &[Vec<Item>],
) -> Result<Vec<Option<String>>, WriterError> {
    let mut stored = vec![None; items.iter().map(Vec::len).sum()];
    let (mut wanted, mut positions) = (Vec::new(), Vec::new());
    let mut position = 0;
    for (taken, items) in batch.iter().zip(items) {
        let draft = &taken.value;
        for (fragment, item) in (0..).zip(items) {
            if draft.begun_long_ago {
                positions.push(position);
                wanted.push(Unacknowledged {
                    place: item.place(),
                    source_id: &draft.record.source_id,
                    generation: draft.generation,
                    fragment,
                    digest: Some(&draft.digest),
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

/// Writes what is not stored yet; a fate for every item.
async fn write_the_rest(
    client: &Client,
    items: &[Item],
    stored: Vec<Option<String>>,
) -> Result<Vec<Fate>, CortexError> {
    if stored.iter().all(Option::is_none) {
        return client.write(items).await;
    }
    let rest: Vec<Item> = items
        .iter()
        .zip(&stored)
        .filter(|(_, stored)| stored.is_none())
        .map(|(item, _)| item.clone())
        .collect();
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

/// The envelopes of a version as they are kept: one a line.
fn envelopes(items: &[Item]) -> String {
    let lines: Vec<&str> = items.iter().map(|item| item.json.as_str()).collect();
    lines.join("\n")
}

fn appends(draft: &Draft) -> bool {
    draft.record.modality == Modality::Observation
}

/// The envelopes of one version, one for each fragment.
pub(super) fn items_of(writing: &Writing, draft: &Draft, preceded_by: &[String]) -> Vec<Item> {
    let ranges = draft.record.fragment_ranges();
    let fragments = ranges.len();
    ranges
        .into_iter()
        .enumerate()
        .map(|(fragment, range)| {
            let key = idempotency_key(KeyParts {
                source_instance: &writing.source_instance,
                scope: &draft.scope,
                source_id: &draft.record.source_id,
                generation: draft.generation,
                fragment,
                digest: &draft.digest,
            });
            let json = envelope_json(
                &draft.record,
                Version {
                    scope: &draft.scope,
                    key: &key,
                    digest: &draft.digest,
                    generation: draft.generation,
                    fragment,
                    fragments,
                    start: range.start,
                    end: range.end,
                    preceded_by,
                    system: &writing.system,
                    source_instance: &writing.source_instance,
                    with_actor: writing.with_actor,
                },
            );
            Item {
                json,
                key,
                scope: draft.scope.clone(),
            }
        })
        .collect()
}
