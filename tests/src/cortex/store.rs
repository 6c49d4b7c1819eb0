//! What was written: events in order of arrival, the idempotency keys that are still remembered, and the scopes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde_json::Value;

use super::reply::ApiError;
use super::{EventIdForm, Options, envelope};

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventState {
    /// Stored and readable.
    Live,
    /// Forgotten with `derived_only`: the event stays, what was derived from it is gone.
    DerivedForgotten,
    /// Forgotten with `redact_events`: the payload is blanked, the id stays.
    Redacted,
}

/// How far the server got with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexState {
    /// Durable.
    Captured,
    /// Durable and readable.
    Indexed,
    /// Durable, and indexing failed: the same write again reprocesses it.
    Failed,
}

impl IndexState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::Indexed => "indexed",
            Self::Failed => "failed",
        }
    }
}

/// One accepted event. The log keeps what the client sent, whatever was forgotten since.
#[derive(Debug, Clone)]
pub struct Event {
    /// The server's id.
    pub event_id: String,
    /// Position in the order of arrival, from 0.
    pub seq: usize,
    /// Position in the write-ahead log.
    pub wal_offset: u64,
    /// Full scope.
    pub scope: String,
    /// Modality of the envelope.
    pub modality: String,
    /// `source.source_id`.
    pub source_id: Option<String>,
    /// `source.fragments[0].fragment_id`.
    pub fragment_id: Option<String>,
    /// `source.fragments[0].byte_range`, as (start, end).
    pub byte_range: Option<(u64, u64)>,
    /// `source.source_fingerprint`.
    pub source_fingerprint: Option<String>,
    /// `context.labels`.
    pub labels: Vec<String>,
    /// `context.preceded_by`.
    pub preceded_by: Vec<String>,
    /// `context.observed_at`, else the time of arrival.
    pub observed_at: DateTime<Utc>,
    /// Time of arrival on the server's clock.
    pub recorded_at: DateTime<Utc>,
    /// Time of arrival on the wall's clock.
    pub wall_time: DateTime<Utc>,
    /// Who wrote it.
    pub caller: String,
    /// The idempotency key that it came under.
    pub idempotency_key: Option<String>,
    /// What became of it.
    pub state: EventState,
    /// How far the server got with it.
    pub index_state: IndexState,
    json: Arc<str>,
}

impl Event {
    /// The envelope as it was accepted.
    pub fn envelope(&self) -> Value {
        serde_json::from_str(&self.json).unwrap_or_default()
    }

    /// The envelope as one line of JSON.
    pub fn envelope_json(&self) -> &str {
        &self.json
    }

    /// Whether it is stored and not forgotten in any way.
    pub fn is_live(&self) -> bool {
        self.state == EventState::Live
    }
}

/// A key that is still remembered.
struct Key {
    root: String,
    identity: [u8; 32],
    hints: [u8; 32],
    event: usize,
    expires_at: DateTime<Utc>,
}

/// An envelope that passed every check that needs no store, with the digests that idempotency compares.
pub(crate) struct Prepared {
    pub(crate) envelope: Value,
    pub(crate) json: String,
    pub(crate) identity: [u8; 32],
    pub(crate) hints: [u8; 32],
    pub(crate) fail_indexing: bool,
}

impl Prepared {
    pub(crate) fn new(envelope: Value, fail_indexing: bool) -> Self {
        let json = envelope.to_string();
        let (identity, hints) = (envelope::identity(&envelope), envelope::hints(&envelope));
        Self {
            envelope,
            json,
            identity,
            hints,
            fail_indexing,
        }
    }

    fn text(&self, field: &str) -> &str {
        self.envelope[field].as_str().unwrap_or_default()
    }

    fn key(&self) -> Option<&str> {
        self.envelope["idempotency_key"].as_str()
    }

    fn root(&self) -> &str {
        self.text("scope").split('/').next().unwrap_or_default()
    }
}

/// Receipt of one write.
#[derive(Debug)]
pub(crate) struct Receipt {
    pub(crate) event: usize,
    pub(crate) replayed: bool,
    pub(crate) hint_conflict: bool,
    pub(crate) new_scope: bool,
}

/// The store of one server.
pub(crate) struct Store {
    pub(crate) events: Vec<Event>,
    pub(crate) by_id: HashMap<String, usize>,
    pub(crate) by_label: HashMap<String, Vec<usize>>,
    pub(crate) by_source: HashMap<String, Vec<usize>>,
    pub(crate) scopes: BTreeMap<String, Vec<usize>>,
    pub(crate) previews: HashMap<String, Value>,
    /// Sentences about what the client did wrong, noticed while it did it.
    pub(crate) noticed: Vec<String>,
    /// Positions of the events that were sent again under a key that was remembered.
    pub(crate) replayed: Vec<usize>,
    keys: HashMap<(String, String), Vec<Key>>,
    wal: u64,
    rng: SmallRng,
}

impl Store {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            events: Vec::new(),
            by_id: HashMap::new(),
            by_label: HashMap::new(),
            by_source: HashMap::new(),
            scopes: BTreeMap::new(),
            previews: HashMap::new(),
            noticed: Vec::new(),
            replayed: Vec::new(),
            keys: HashMap::new(),
            wal: 0,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    pub(crate) fn random_hex(&mut self, digits: usize) -> String {
        (0..digits)
            .map(|_| char::from(b"0123456789abcdef"[self.rng.random_range(0..16)]))
            .collect()
    }

    /// Whether the write would be taken now: no conflict, and under the strict switch no unknown predecessor.
    pub(crate) fn admits(
        &mut self,
        write: &Prepared,
        caller: &str,
        options: &Options,
    ) -> Result<(), ApiError> {
        if let Some(key) = self.remembered(write, caller, options) {
            return if key.identity == write.identity {
                Ok(())
            } else {
                let first = self.events[key.event].event_id.clone();
                Err(self.conflict(write, &first))
            };
        }
        if options.strict_preceded_by
            && let Some(unknown) = self.unknown_predecessors(&write.envelope).first()
        {
            return Err(ApiError::invalid_body(format!(
                "context.preceded_by: {unknown} is unknown"
            )));
        }
        Ok(())
    }

    fn conflict(&mut self, write: &Prepared, first: &str) -> ApiError {
        let key = write.key().unwrap_or_default();
        let source = write.envelope["source"]["source_id"]
            .as_str()
            .unwrap_or("no source id");
        self.noticed.push(format!(
            "key {key} ({source}) came again with another body than {first}"
        ));
        ApiError::new(
            409,
            "IDEMPOTENCY_CONFLICT",
            "the key was used with another body",
        )
    }

    fn remembered(&self, write: &Prepared, caller: &str, options: &Options) -> Option<&Key> {
        let now = options.clock.now();
        let keys = self
            .keys
            .get(&(caller.to_owned(), write.key()?.to_owned()))?;
        keys.iter()
            .find(|key| key.root == write.root() && key.expires_at > now)
    }

    /// Takes the write or replays it.
    pub(crate) fn take(
        &mut self,
        write: &Prepared,
        caller: &str,
        options: &Options,
    ) -> Result<Receipt, ApiError> {
        self.admits(write, caller, options)?;
        let indexed = match (write.fail_indexing, options.status_reaches_indexed) {
            (true, _) => IndexState::Failed,
            (false, true) => IndexState::Indexed,
            (false, false) => IndexState::Captured,
        };
        if let Some(key) = self.remembered(write, caller, options) {
            let (event, hint_conflict) = (key.event, key.hints != write.hints);
            let reprocessed = self.events[event].index_state == IndexState::Failed;
            if reprocessed {
                self.events[event].index_state = indexed;
            }
            if !reprocessed {
                self.replayed.push(event);
            }
            return Ok(Receipt {
                event,
                replayed: !reprocessed,
                hint_conflict,
                new_scope: false,
            });
        }
        Ok(self.append(write, caller, options, indexed))
    }

    fn append(
        &mut self,
        write: &Prepared,
        caller: &str,
        options: &Options,
        index: IndexState,
    ) -> Receipt {
        let now = options.clock.now();
        let seq = self.events.len();
        let event_id = self.event_id(options.event_ids, now);
        for unknown in self.unknown_predecessors(&write.envelope) {
            let id = write.envelope["source"]["source_id"]
                .as_str()
                .unwrap_or("no source id");
            self.noticed.push(format!(
                "{event_id} ({id}) is preceded by {unknown}, which was never given out"
            ));
        }
        let event = describe(write, caller, event_id, seq, self.wal, now, index);
        self.wal += write.json.len() as u64 + 16;
        self.by_id.insert(event.event_id.clone(), seq);
        for label in &event.labels {
            let positions = self.by_label.entry(label.clone()).or_default();
            if positions.last() != Some(&seq) {
                positions.push(seq);
            }
        }
        if let Some(source_id) = &event.source_id {
            self.by_source
                .entry(source_id.clone())
                .or_default()
                .push(seq);
        }
        let scope = self.scopes.entry(event.scope.clone()).or_default();
        let new_scope = scope.is_empty();
        scope.push(seq);
        if let Some(key) = write.key() {
            let ttl = TimeDelta::from_std(options.key_ttl).unwrap_or(TimeDelta::MAX);
            let root = write.root().to_owned();
            let keys = self
                .keys
                .entry((caller.to_owned(), key.to_owned()))
                .or_default();
            keys.retain(|key| key.root != root);
            keys.push(Key {
                root,
                identity: write.identity,
                hints: write.hints,
                event: seq,
                expires_at: now
                    .checked_add_signed(ttl)
                    .unwrap_or(DateTime::<Utc>::MAX_UTC),
            });
        }
        self.events.push(event);
        Receipt {
            event: seq,
            replayed: false,
            hint_conflict: false,
            new_scope,
        }
    }

    /// The event that a key of this caller leads to, as long as the key is remembered.
    pub(crate) fn by_key(&self, caller: &str, key: &str, now: DateTime<Utc>) -> Option<&Event> {
        let keys = self.keys.get(&(caller.to_owned(), key.to_owned()))?;
        let newest = keys
            .iter()
            .filter(|key| key.expires_at > now)
            .map(|key| key.event)
            .max()?;
        self.events.get(newest)
    }

    /// Blanks an event; true if it was not blank before.
    pub(crate) fn redact(&mut self, seq: usize, release_keys: bool) -> bool {
        let event = &mut self.events[seq];
        let fresh = event.state != EventState::Redacted;
        event.state = EventState::Redacted;
        if release_keys && let Some(key) = event.idempotency_key.clone() {
            let name = (event.caller.clone(), key);
            if let Some(keys) = self.keys.get_mut(&name) {
                keys.retain(|key| key.event != seq);
            }
        }
        fresh
    }

    fn unknown_predecessors(&self, envelope: &Value) -> Vec<String> {
        strings(&envelope["context"]["preceded_by"])
            .into_iter()
            .filter(|id| !self.by_id.contains_key(id))
            .collect()
    }

    fn event_id(&mut self, form: EventIdForm, now: DateTime<Utc>) -> String {
        match form {
            EventIdForm::Uuid => {
                let hex = self.random_hex(30);
                let (a, rest) = hex.split_at(8);
                let (b, rest) = rest.split_at(4);
                let (c, rest) = rest.split_at(3);
                let (d, e) = rest.split_at(3);
                format!("evt_{a}-{b}-4{c}-8{d}-{e}")
            }
            EventIdForm::Ulid => {
                const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
                let millis = now.timestamp_millis().unsigned_abs();
                let time = (0..10).rev().map(|digit| (millis >> (5 * digit)) & 31);
                let time: Vec<u64> = time.collect();
                let random = (0..16).map(|_| self.rng.random_range(0..32_u64));
                let digits = time.into_iter().chain(random);
                let ulid: String = digits
                    .map(|digit| char::from(ALPHABET[usize::try_from(digit).unwrap_or_default()]))
                    .collect();
                format!("evt_{ulid}")
            }
        }
    }
}

fn describe(
    write: &Prepared,
    caller: &str,
    event_id: String,
    seq: usize,
    wal_offset: u64,
    now: DateTime<Utc>,
    index_state: IndexState,
) -> Event {
    let source = &write.envelope["source"];
    let fragment = &source["fragments"][0];
    let range = &fragment["byte_range"];
    let context = &write.envelope["context"];
    let owned = |value: &Value| value.as_str().map(str::to_owned);
    let observed_at = context["observed_at"]
        .as_str()
        .and_then(|text| text.parse().ok());
    Event {
        event_id,
        seq,
        wal_offset,
        scope: write.text("scope").to_owned(),
        modality: write.text("modality").to_owned(),
        source_id: owned(&source["source_id"]),
        fragment_id: owned(&fragment["fragment_id"]),
        byte_range: range["start"].as_u64().zip(range["end"].as_u64()),
        source_fingerprint: owned(&source["source_fingerprint"]),
        labels: strings(&context["labels"]),
        preceded_by: strings(&context["preceded_by"]),
        observed_at: observed_at.unwrap_or(now),
        recorded_at: now,
        wall_time: Utc::now(),
        caller: caller.to_owned(),
        idempotency_key: write.key().map(str::to_owned),
        state: EventState::Live,
        index_state,
        json: write.json.as_str().into(),
    }
}

pub(crate) fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().map_or(&[][..], Vec::as_slice);
    items
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
