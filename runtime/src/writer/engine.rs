//! The writer's task: one group of work after the other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::time::Duration;

use reqwest::Method;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::waves::waves;
use super::{
    Forgetting, Origin, Page, Target, Work, WriterError, WriterSettings, report_dead_letter,
};
use crate::cortexdb::bulk::{Fate, Item, MAX_BYTES, MAX_ITEMS, Place};
use crate::cortexdb::client::{Client, CortexError};
use crate::cortexdb::envelope::{
    KeyParts, Modality, Record, Version, envelope_json, idempotency_key,
};
use crate::cursors::Cursors;
use crate::ledger::{Begun, DeadLetter, Entry, Obsolete, Settled, Status};
use crate::lost_receipts::{Unacknowledged, find, key_may_be_forgotten};
use crate::rebuild::{Memory, Ours, recall};
use crate::report::{Event, Level};

/// How long a small group waits for company. Long enough that pages arriving together share a request, short enough that nobody
/// notices: a webhook's record must be stored within two seconds.
const LINGER: Duration = Duration::from_millis(100);
/// Cursors of one group.
const MAX_CURSORS: usize = 10_000;
/// The most ids that one forget request takes.
const FORGET_IDS: usize = 100;
/// Obsolete events read from the ledger at a time.
const FORGET_BATCH: u32 = 1000;

/// One record of a group with what was decided about it.
struct Draft {
    record: Record,
    stream: String,
    scope: String,
    digest: String,
    generation: u64,
    /// Frozen by an earlier attempt; `None` where the predecessors are still to be looked up.
    frozen: Option<Vec<String>>,
    /// An earlier attempt began this version so long ago that CortexDB may not recognise its key any more.
    begun_long_ago: bool,
    known_before: bool,
}

#[derive(Default)]
struct Group {
    pages: Vec<Page>,
    cursors: Vec<(String, Option<String>)>,
    retract: Option<(String, Vec<String>, String)>,
    flush: Option<oneshot::Sender<()>>,
    records: usize,
    bytes: usize,
}

impl Group {
    /// Adds work; true when the group is complete and must be processed before anything else is added.
    fn add(&mut self, work: Work) -> bool {
        match work {
            Work::Page(page) => {
                self.records += page.records.len();
                self.bytes += page
                    .records
                    .iter()
                    .map(|record| record.content.len())
                    .sum::<usize>();
                self.pages.push(page);
                self.records >= MAX_ITEMS || self.bytes >= MAX_BYTES
            }
            Work::Cursor { key, value, .. } => {
                self.cursors.push((key, value));
                // Its room in the queue is free again, so it must not wait here for long either.
                self.cursors.len() >= MAX_CURSORS
            }
            Work::Retract {
                stream,
                source_ids,
                reason,
                ..
            } => {
                self.retract = Some((stream, source_ids, reason));
                true
            }
            Work::Flush(done) => {
                self.flush = Some(done);
                true
            }
        }
    }
}

pub(super) struct Engine {
    settings: WriterSettings,
    origins: HashMap<String, BTreeMap<String, String>>,
    scopes: HashMap<String, String>,
    /// Scopes whose events the ledger knows.
    known_scopes: HashSet<String>,
    said_that_a_scope_is_not_listed: bool,
    out: Option<BufWriter<File>>,
    /// Dry runs write nothing to the ledger, so that a record listed twice is recognised here.
    seen_in_dry_run: HashMap<String, String>,
    said_that_old_versions_stay: bool,
    /// Rows of events that CortexDB would not forget in this run.
    refused_to_forget: HashSet<i64>,
}

impl Engine {
    pub(super) fn new(settings: WriterSettings) -> Self {
        Self {
            settings,
            origins: HashMap::new(),
            scopes: HashMap::new(),
            known_scopes: HashSet::new(),
            said_that_a_scope_is_not_listed: false,
            out: None,
            seen_in_dry_run: HashMap::new(),
            said_that_old_versions_stay: false,
            refused_to_forget: HashSet::new(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut work: mpsc::UnboundedReceiver<Work>,
    ) -> Result<Cursors, WriterError> {
        self.open_out()?;
        self.origins = self
            .settings
            .store
            .origins(self.settings.lease.connection)
            .await?;
        if !self.is_dry_run() {
            self.known_scopes = self
                .settings
                .store
                .known_scopes(self.settings.lease.connection)
                .await?;
        }
        // What an earlier run left to be forgotten: an outage, or a crash between writing and forgetting.
        self.forget_obsolete().await?;
        while let Some(first) = work.recv().await {
            let group = collect(first, &mut work).await;
            self.process(group).await?;
        }
        if let Some(out) = &mut self.out {
            out.flush()
                .map_err(|source| out_error(&self.settings, source))?;
        }
        Ok(self.settings.cursors)
    }

    fn open_out(&mut self) -> Result<(), WriterError> {
        if let Some(path) = &self.settings.out {
            // Every cycle of a watching run adds to the file; whoever starts the first one empties it.
            let file = File::options()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|source| out_error(&self.settings, source))?;
            self.out = Some(BufWriter::new(file));
        }
        Ok(())
    }

    async fn process(&mut self, group: Group) -> Result<(), WriterError> {
        let mut dead = Vec::new();
        let mut part: Vec<(String, String, Record)> = Vec::new();
        let mut members: HashMap<String, String> = HashMap::new();
        for page in group.pages {
            dead.extend(page.dead);
            let scope = self.scope_of(&page.origin).await?;
            for record in page.records {
                let digest = record.digest();
                match members.get(&record.source_id) {
                    Some(same) if *same == digest => {
                        self.settings
                            .counters
                            .update(|totals| totals.unchanged += 1);
                        continue;
                    }
                    // The record changed while it was being read: the first version is settled before the second begins.
                    Some(_) => {
                        self.write(std::mem::take(&mut part)).await?;
                        members.clear();
                    }
                    None => {}
                }
                members.insert(record.source_id.clone(), digest);
                part.push((page.stream.clone(), scope.clone(), record));
            }
        }
        self.write(part).await?;
        self.bury(dead).await?;
        if let Some((stream, source_ids, reason)) = group.retract {
            self.retract(&stream, &source_ids, &reason).await?;
        }
        self.forget_obsolete().await?;
        if !self.is_dry_run() {
            self.settings.cursors.apply(group.cursors)?;
        }
        if let Some(done) = group.flush {
            let _ = done.send(());
        }
        let totals = self.settings.counters.update(|totals| totals.clone());
        self.settings.reporter.event(&Event::Written {
            written: totals.written_by_type.values().sum(),
            unchanged: totals.unchanged,
        });
        Ok(())
    }

    fn is_dry_run(&self) -> bool {
        matches!(self.settings.target, Target::Nowhere)
    }

    async fn scope_of(&mut self, origin: &Origin) -> Result<String, WriterError> {
        if let Some(scope) = self.scopes.get(&origin.id) {
            return Ok(scope.clone());
        }
        let pinned = match self.origins.get(&origin.id) {
            Some(pinned) => pinned.clone(),
            None => {
                if !self.is_dry_run() {
                    self.settings
                        .store
                        .pin_origin(self.settings.lease, &origin.id, &origin.variables)
                        .await?;
                }
                self.origins
                    .insert(origin.id.clone(), origin.variables.clone());
                origin.variables.clone()
            }
        };
        let mut variables = pinned;
        variables.extend(self.settings.host_variables.clone());
        let scope = self.settings.template.fill(&variables)?;
        self.recall(&scope).await?;
        self.scopes.insert(origin.id.clone(), scope.clone());
        Ok(scope)
    }

    /// Before the first write into a scope that the ledger does not know: what CortexDB holds there is taken over.
    async fn recall(&mut self, scope: &str) -> Result<(), WriterError> {
        let Target::CortexDb { client, .. } = &self.settings.target else {
            return Ok(());
        };
        if self.known_scopes.contains(scope) {
            return Ok(());
        }
        let found = match recall(client, ours(&self.settings), scope).await? {
            Memory::Entries(found) => found,
            Memory::NotListed(words) => {
                self.warn_that_a_scope_is_not_listed(scope, &words);
                Vec::new()
            }
        };
        self.settings
            .store
            .rebuild(self.settings.lease, scope, &found)
            .await?;
        self.known_scopes.insert(scope.to_owned());
        if !found.is_empty() {
            self.say(
                Level::Info,
                format!(
                    "{scope}: the ledger did not know this scope; {} records were found in CortexDB and taken over",
                    found.len()
                ),
            );
        }
        Ok(())
    }

    fn warn_that_a_scope_is_not_listed(&mut self, scope: &str, words: &str) {
        if std::mem::replace(&mut self.said_that_a_scope_is_not_listed, true) {
            return;
        }
        self.say(
            Level::Warn,
            format!(
                "{scope}: what CortexDB already holds cannot be listed ({words}). Nothing is wrong if this connection is new. If its ledger connectors.db was lost, records are now written a second time: delete it again and run with a token that has `scope.read.events`"
            ),
        );
    }

    async fn write(&mut self, part: Vec<(String, String, Record)>) -> Result<(), WriterError> {
        if part.is_empty() {
            return Ok(());
        }
        let wanted: HashSet<&str> = part
            .iter()
            .flat_map(|(_, _, record)| {
                std::iter::once(&record.source_id).chain(&record.preceded_by)
            })
            .map(String::as_str)
            .collect();
        let wanted: Vec<&str> = wanted.into_iter().collect();
        let entries = self
            .settings
            .store
            .entries(self.settings.lease.connection, &wanted)
            .await?;
        let mut drafts = Vec::new();
        for (stream, scope, record) in part {
            drafts.extend(self.decide(stream, scope, record, &entries));
        }
        if self.is_dry_run() {
            return self.describe(&drafts);
        }
        let nodes: Vec<(&str, &[String])> = drafts
            .iter()
            .map(|draft| {
                (
                    draft.record.source_id.as_str(),
                    draft.record.preceded_by.as_slice(),
                )
            })
            .collect();
        let mut event_ids: HashMap<String, String> = entries
            .into_iter()
            .filter(|(_, entry)| entry.status != Status::Retracted)
            .filter_map(|(id, entry)| Some((id, entry.event_id?)))
            .collect();
        for wave in waves(&nodes) {
            let wave: Vec<&Draft> = wave.into_iter().map(|index| &drafts[index]).collect();
            let written =
                send_wave(&mut self.settings, self.out.as_mut(), &wave, &event_ids).await?;
            event_ids.extend(written);
        }
        Ok(())
    }

    /// New, changed, or nothing to do.
    fn decide(
        &self,
        stream: String,
        scope: String,
        record: Record,
        entries: &HashMap<String, Entry>,
    ) -> Option<Draft> {
        let digest = record.digest();
        let entry = entries.get(&record.source_id);
        let same = entry.filter(|entry| entry.digest == digest && entry.scope == scope);
        let mut begun_long_ago = false;
        let (generation, frozen) = match (same, entry) {
            (Some(same), _) if same.status == Status::Live => {
                self.settings
                    .counters
                    .update(|totals| totals.unchanged += 1);
                return None;
            }
            (Some(same), _) if same.status == Status::Dead => {
                self.settings
                    .counters
                    .update(|totals| totals.dead_lettered += 1);
                return None;
            }
            (Some(same), _) if same.status == Status::Dropped => {
                self.settings.counters.update(|totals| {
                    *totals
                        .skipped
                        .entry("dropped-dead-letter".to_owned())
                        .or_default() += 1;
                });
                return None;
            }
            // Begun, and no receipt: the same bytes under the same key.
            (Some(same), _) if same.status == Status::Begun => {
                begun_long_ago = key_may_be_forgotten(same.begun_ago);
                (same.generation, Some(same.preceded_by.clone()))
            }
            (_, Some(older)) => (older.generation + 1, None),
            (_, None) => (1, None),
        };
        Some(Draft {
            stream,
            scope,
            digest,
            generation,
            frozen,
            begun_long_ago,
            known_before: entry.is_some(),
            record,
        })
    }

    fn describe(&mut self, drafts: &[Draft]) -> Result<(), WriterError> {
        for draft in drafts {
            let id = &draft.record.source_id;
            if self
                .seen_in_dry_run
                .insert(id.clone(), draft.digest.clone())
                .as_ref()
                == Some(&draft.digest)
            {
                continue;
            }
            self.settings.counters.update(|totals| {
                *totals
                    .written_by_type
                    .entry(draft.record.event_type.clone())
                    .or_default() += 1;
            });
            self.settings.reporter.event(&Event::WouldWrite {
                source_id: id.clone(),
                change: if draft.known_before { "changed" } else { "new" },
                scope: draft.scope.clone(),
                title: super::printable(
                    &draft
                        .record
                        .content
                        .lines()
                        .next()
                        .unwrap_or_default()
                        .chars()
                        .take(120)
                        .collect::<String>(),
                ),
            });
            let preceded_by = draft.frozen.clone().unwrap_or_default();
            for item in items_of(&self.settings, draft, &preceded_by) {
                copy_out(self.out.as_mut(), &self.settings, &item)?;
            }
        }
        Ok(())
    }

    async fn bury(&mut self, dead: Vec<DeadLetter>) -> Result<(), WriterError> {
        if dead.is_empty() {
            return Ok(());
        }
        if !self.is_dry_run() {
            self.settings
                .store
                .settle(self.settings.lease, &[], &dead)
                .await?;
        }
        for letter in &dead {
            report_dead_letter(
                self.settings.reporter.as_ref(),
                &self.settings.counters,
                letter,
            );
        }
        Ok(())
    }

    async fn retract(
        &mut self,
        stream: &str,
        source_ids: &[String],
        reason: &str,
    ) -> Result<(), WriterError> {
        if self.is_dry_run() {
            return self.say_what_would_be_forgotten(source_ids, reason).await;
        }
        let records = self
            .settings
            .store
            .retract(self.settings.lease, source_ids)
            .await?;
        if records > 0 {
            self.settings
                .counters
                .update(|totals| totals.retracted += records);
            self.say(
                Level::Info,
                format!(
                    "{stream}: forgetting {records} records ({})",
                    super::printable(reason)
                ),
            );
        }
        Ok(())
    }

    async fn say_what_would_be_forgotten(
        &self,
        source_ids: &[String],
        reason: &str,
    ) -> Result<(), WriterError> {
        let wanted: Vec<&str> = source_ids.iter().map(String::as_str).collect();
        let connection = self.settings.lease.connection;
        let entries = self.settings.store.entries(connection, &wanted).await?;
        let held = |id: &&String| {
            entries
                .get(*id)
                .is_some_and(|entry| entry.status != Status::Retracted)
        };
        for id in source_ids.iter().filter(held) {
            let reason = super::printable(reason);
            self.say(Level::Info, format!("would forget {id} ({reason})"));
        }
        Ok(())
    }

    fn say(&self, level: Level, message: String) {
        self.settings.reporter.event(&Event::Log {
            level,
            message,
            fields: BTreeMap::new(),
        });
    }

    /// Forgets what has a successor or is gone. Replaced versions are forgotten only after the new one is acknowledged, so
    /// that a record is never missing.
    async fn forget_obsolete(&mut self) -> Result<(), WriterError> {
        loop {
            let Target::CortexDb { client, forgetting } = &self.settings.target else {
                return Ok(());
            };
            let (client, forgetting) = (client.clone(), *forgetting);
            let connection = self.settings.lease.connection;
            if forgetting == Forgetting::NotPermitted {
                return self.old_versions_stay().await;
            }
            let batch = self
                .settings
                .store
                .obsolete(connection, FORGET_BATCH)
                .await?;
            let batch: Vec<Obsolete> = batch
                .into_iter()
                .filter(|event| !self.refused_to_forget.contains(&event.row))
                .collect();
            if batch.is_empty() {
                let stuck = self.refused_to_forget.len() as u64;
                self.settings.counters.update(|totals| {
                    totals.superseded_pending = totals.superseded_pending.max(stuck);
                });
                return Ok(());
            }
            match forget(&client, forgetting, Some(ours(&self.settings)), &batch).await {
                Ok(Forgotten { rows, not_listed }) => {
                    if let Some(words) = not_listed {
                        warn_that_receipts_stay_lost(&self.settings, &words);
                    }
                    let left = batch
                        .iter()
                        .map(|event| event.row)
                        .filter(|row| !rows.contains(row));
                    let refused: Vec<i64> = left.collect();
                    if !refused.is_empty() {
                        self.say(
                            Level::Warn,
                            format!("CortexDB refuses to forget {} old versions; they stay beside the new ones, and the next run tries again", refused.len()),
                        );
                        self.refused_to_forget.extend(refused);
                    }
                    let rows: Vec<i64> = rows.into_iter().collect();
                    if forgetting == Forgetting::Redact {
                        self.settings
                            .store
                            .forgotten(self.settings.lease, &rows)
                            .await?;
                        self.settings
                            .counters
                            .update(|totals| totals.superseded += rows.len() as u64);
                    } else {
                        self.settings.store.kept(self.settings.lease, &rows).await?;
                        self.settings
                            .counters
                            .update(|totals| totals.superseded_pending += rows.len() as u64);
                        self.say_once_that_old_versions_stay("the token may not redact (`forget.cascade.redact_events`): what was derived from old versions is forgotten, their text stays");
                    }
                }
                Err(CortexError::Forbidden(words)) => {
                    let lesser = match forgetting {
                        Forgetting::Redact => Forgetting::DerivedOnly,
                        _ => Forgetting::NotPermitted,
                    };
                    self.say(
                        Level::Debug,
                        format!("forgetting is not permitted: {words}"),
                    );
                    self.settings.target = Target::CortexDb {
                        client,
                        forgetting: lesser,
                    };
                }
                Err(other) => return Err(other.into()),
            }
        }
    }

    async fn old_versions_stay(&mut self) -> Result<(), WriterError> {
        let count = self
            .settings
            .store
            .count_obsolete(self.settings.lease.connection)
            .await?;
        self.settings
            .counters
            .update(|totals| totals.superseded_pending = count);
        if count > 0 {
            self.say_once_that_old_versions_stay("the token may not forget (`forget.cascade.redact_events` or `forget.cascade.derived_only`): old versions stay beside the new ones until a token that may runs this connection");
        }
        Ok(())
    }

    fn say_once_that_old_versions_stay(&mut self, message: &str) {
        if !std::mem::replace(&mut self.said_that_old_versions_stay, true) {
            self.say(Level::Warn, message.to_owned());
        }
    }
}

async fn collect(first: Work, work: &mut mpsc::UnboundedReceiver<Work>) -> Group {
    let mut group = Group::default();
    let mut complete = group.add(first);
    let until = Instant::now() + LINGER;
    while !complete {
        match tokio::time::timeout_at(until, work.recv()).await {
            Ok(Some(next)) => complete = group.add(next),
            Ok(None) | Err(_) => break,
        }
    }
    group
}

/// Writes one wave: freeze, send, settle. Returns the event ids that later waves may refer to.
async fn send_wave(
    settings: &mut WriterSettings,
    mut out: Option<&mut BufWriter<File>>,
    wave: &[&Draft],
    event_ids: &HashMap<String, String>,
) -> Result<Vec<(String, String)>, WriterError> {
    let Target::CortexDb { client, .. } = &settings.target else {
        return Ok(Vec::new());
    };
    let client = client.clone();
    let predecessors: Vec<Vec<String>> = wave
        .iter()
        .map(|draft| {
            draft.frozen.clone().unwrap_or_else(|| {
                draft
                    .record
                    .preceded_by
                    .iter()
                    .filter_map(|id| event_ids.get(id).cloned())
                    .collect()
            })
        })
        .collect();
    let items: Vec<Vec<Item>> = wave
        .iter()
        .zip(&predecessors)
        .map(|(draft, before)| items_of(settings, draft, before))
        .collect();
    let begun: Vec<Begun> = wave
        .iter()
        .zip(&predecessors)
        .zip(&items)
        .map(|((draft, preceded_by), items)| Begun {
            source_id: draft.record.source_id.clone(),
            event_type: draft.record.event_type.clone(),
            stream: draft.stream.clone(),
            root: draft
                .record
                .thread
                .as_ref()
                .map(|thread| thread.root.clone())
                .unwrap_or_default(),
            appends: appends(draft),
            scope: draft.scope.clone(),
            digest: draft.digest.clone(),
            generation: draft.generation,
            keys: items.iter().map(|item| item.key.clone()).collect(),
            preceded_by: preceded_by.clone(),
        })
        .collect();
    settings.store.begin(settings.lease, &begun).await?;
    let counts: Vec<usize> = items.iter().map(Vec::len).collect();
    let stored = stored_before(settings, &client, wave, &items).await?;
    let flat: Vec<Item> = items.into_iter().flatten().collect();
    let fates = write_the_rest(&client, &flat, stored).await?;
    let mut settled = Vec::with_capacity(wave.len());
    let mut dead = Vec::new();
    let mut written = Vec::new();
    let mut start = 0;
    for (draft, count) in wave.iter().zip(counts) {
        let fates = &fates[start..start + count];
        let items = &flat[start..start + count];
        start += count;
        let mut ids = Vec::with_capacity(count);
        let mut refusal = None;
        for fate in fates {
            match fate {
                Fate::Stored(id) => ids.push(id.clone()),
                Fate::Refused(words) => refusal = Some(words),
            }
        }
        if let Some(words) = refusal {
            ids.clear();
            dead.push(DeadLetter {
                source_id: draft.record.source_id.clone(),
                stream: draft.stream.clone(),
                reason: super::printable(&settings.redactor.apply(words)),
                payload: settings.redactor.apply(&envelopes(items)).into_owned(),
            });
        } else {
            written.push((draft.record.source_id.clone(), ids[0].clone()));
            settings.counters.update(|totals| {
                *totals
                    .written_by_type
                    .entry(draft.record.event_type.clone())
                    .or_default() += 1;
            });
            for item in items {
                copy_out(out.as_deref_mut(), settings, item)?;
            }
        }
        settled.push(Settled {
            source_id: draft.record.source_id.clone(),
            generation: draft.generation,
            event_ids: ids,
            appends: appends(draft),
        });
    }
    settings
        .store
        .settle(settings.lease, &settled, &dead)
        .await?;
    for letter in &dead {
        report_dead_letter(settings.reporter.as_ref(), &settings.counters, letter);
    }
    Ok(written)
}

/// Event ids of what an earlier attempt stored without a receipt, too long ago for its key to be trusted; one for each item.
async fn stored_before(
    settings: &WriterSettings,
    client: &Client,
    wave: &[&Draft],
    items: &[Vec<Item>],
) -> Result<Vec<Option<String>>, WriterError> {
    let mut stored = vec![None; items.iter().map(Vec::len).sum()];
    let (mut wanted, mut positions) = (Vec::new(), Vec::new());
    let mut position = 0;
    for (draft, items) in wave.iter().zip(items) {
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
    let found = find(client, ours(settings), &wanted).await?;
    if let Some(words) = found.not_listed {
        warn_that_receipts_stay_lost(settings, &words);
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

fn ours(settings: &WriterSettings) -> Ours<'_> {
    Ours {
        system: &settings.system,
        source_instance: &settings.source_instance,
    }
}

fn warn_that_receipts_stay_lost(settings: &WriterSettings, words: &str) {
    settings.reporter.event(&Event::Log {
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
fn items_of(settings: &WriterSettings, draft: &Draft, preceded_by: &[String]) -> Vec<Item> {
    let ranges = draft.record.fragment_ranges();
    let fragments = ranges.len();
    ranges
        .into_iter()
        .enumerate()
        .map(|(fragment, range)| {
            let key = idempotency_key(KeyParts {
                source_instance: &settings.source_instance,
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
                    system: &settings.system,
                    source_instance: &settings.source_instance,
                    with_actor: settings.with_actor,
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

/// What came of forgetting.
pub(super) struct Forgotten {
    /// Rows of the events that CortexDB has let go of, or never had.
    pub(super) rows: HashSet<i64>,
    /// See [`crate::lost_receipts::Found`].
    pub(super) not_listed: Option<String>,
}

/// Forgets these events. One that CortexDB refuses does not keep the others. Without `ours`, what can only be found in a listing is
/// left for another time.
pub(super) async fn forget(
    client: &Client,
    forgetting: Forgetting,
    ours: Option<Ours<'_>>,
    batch: &[Obsolete],
) -> Result<Forgotten, CortexError> {
    let (with_receipt, without): (Vec<&Obsolete>, Vec<&Obsolete>) =
        batch.iter().partition(|event| event.event_id.is_some());
    let (old, young): (Vec<&Obsolete>, Vec<&Obsolete>) = without
        .into_iter()
        .partition(|event| key_may_be_forgotten(event.begun_ago));
    let mut known: Vec<(&Obsolete, Option<String>)> = with_receipt
        .into_iter()
        .map(|event| (event, event.event_id.clone()))
        .collect();
    // Sent, and no receipt: the key tells whether it arrived.
    let places: Vec<Place<'_>> = young.iter().map(|event| place(event)).collect();
    known.extend(young.into_iter().zip(client.statuses(&places).await?));
    let mut not_listed = None;
    if let Some(ours) = ours
        && !old.is_empty()
    {
        let wanted: Vec<Unacknowledged<'_>> = old
            .iter()
            .map(|event| Unacknowledged {
                place: place(event),
                source_id: &event.source_id,
                generation: event.generation,
                fragment: event.fragment,
                digest: None,
            })
            .collect();
        let found = find(client, ours, &wanted).await?;
        not_listed = found.not_listed;
        known.extend(old.into_iter().zip(found.event_ids));
    }
    let mut done = HashSet::new();
    let mut by_scope: BTreeMap<&str, Vec<(i64, String)>> = BTreeMap::new();
    for (event, id) in known {
        match id {
            Some(id) => by_scope
                .entry(&event.scope)
                .or_default()
                .push((event.row, id)),
            None => {
                done.insert(event.row);
            }
        }
    }
    for (scope, events) in by_scope {
        for events in events.chunks(FORGET_IDS) {
            if forget_together(client, forgetting, scope, events).await? {
                done.extend(events.iter().map(|(row, _)| *row));
                continue;
            }
            for event in events {
                if forget_together(client, forgetting, scope, std::slice::from_ref(event)).await? {
                    done.insert(event.0);
                }
            }
        }
    }
    Ok(Forgotten {
        rows: done,
        not_listed,
    })
}

fn place(event: &Obsolete) -> Place<'_> {
    Place {
        key: &event.key,
        scope: &event.scope,
    }
}

/// One request; whether CortexDB took it.
async fn forget_together(
    client: &Client,
    forgetting: Forgetting,
    scope: &str,
    events: &[(i64, String)],
) -> Result<bool, CortexError> {
    let ids: Vec<&str> = events.iter().map(|(_, id)| id.as_str()).collect();
    let cascade = if forgetting == Forgetting::Redact {
        "redact_events"
    } else {
        "derived_only"
    };
    let body = serde_json::json!({
        "scope": scope,
        "selector": { "memory_ids": ids },
        "cascade": cascade,
        "audit_note": "replaced by a newer version, or gone from the source",
    });
    match client
        .call(Method::POST, "/v1/forget", Some(body.to_string()))
        .await
    {
        Ok(_) => Ok(true),
        // Already gone.
        Err(CortexError::Refused(refusal)) if refusal.status == 404 => Ok(true),
        Err(CortexError::Refused(_) | CortexError::Misconfigured(_)) => Ok(false),
        Err(other) => Err(other),
    }
}

fn copy_out(
    out: Option<&mut BufWriter<File>>,
    settings: &WriterSettings,
    item: &Item,
) -> Result<(), WriterError> {
    if let Some(out) = out {
        writeln!(out, "{}", item.json).map_err(|source| out_error(settings, source))?;
    }
    Ok(())
}

fn out_error(settings: &WriterSettings, source: std::io::Error) -> WriterError {
    WriterError::Out {
        path: settings.out.clone().unwrap_or_default(),
        source,
    }
}
