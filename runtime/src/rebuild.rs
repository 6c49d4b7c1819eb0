//! A lost ledger, rebuilt from what CortexDB holds.
//!
//! Without its ledger a run knows nothing: it would write every record again, beside the version that is already there, and would never
//! forget that one. But every event carries what the ledger knew of it as labels: the source id, `digest=`, `generation=`, `fragment=`
//! and the source. So before the first write into a scope that the ledger does not know, the scope is listed and the ledger's rows
//! are put together again. A scope that was never written costs one empty listing, once; that is the price for not having to guess
//! whether a ledger is new or lost.
//!
//! Two mistakes are possible, and they cost differently: a forgotten event that is taken for a stored one loses its record, a stored
//! one that is taken for forgotten is doubled. An event counts as stored when it shows a text and no mark of redaction. Where a listing shows no
//! content of any event, missing content proves nothing, and only marks count. A forgotten event still tells one thing, its generation: it is counted on
//! from there, because some servers remember the key of a forgotten event for a day and would answer with its id.
//!
//! What cannot be rebuilt: which values a renamed project was pinned to, streams, dead letters, and frozen predecessors. A version of which
//! not every fragment is there is therefore not completed but replaced by the next generation.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::cortexdb::client::{Client, CortexError};
use crate::cortexdb::envelope::{PART_OF, check_source_id, instance_mark, is_event_type};
use crate::cortexdb::labels::{decode_label, id_of_label};
use crate::cortexdb::listing::{Listed, Shown};
use crate::ledger::{EventState, RebuiltEntry, RebuiltEvent, Status};

const DIGEST_DIGITS: usize = 32;
/// Where two events claim the same place, the older one is put this far behind; no text has so many fragments.
const ASIDE: u64 = 1 << 20;

/// Whose events are looked for.
#[derive(Debug, Clone, Copy)]
pub struct Ours<'a> {
    /// The label `source:<system>`.
    pub system: &'a str,
    /// The canonical URL of the source; events of another one with the same ids are left alone.
    pub source_instance: &'a str,
}

/// What a scope gives back to the ledger.
#[derive(Debug)]
pub enum Memory {
    /// The rows; none where nothing of ours was ever written.
    Entries(Vec<RebuiltEntry>),
    /// The server or the token permits no listing, with the server's words.
    NotListed(String),
    /// Nobody answers for the server, with somebody's words: another time it may be listed.
    NotAnswered(String),
}

/// Lists a scope and puts the rows of the ledger together again.
pub async fn recall(client: &Client, ours: Ours<'_>, scope: &str) -> Result<Memory, CortexError> {
    match client.events_of(scope).await {
        Ok(listed) => Ok(Memory::Entries(entries(ours, scope, &listed))),
        Err(CortexError::Forbidden(words)) => Ok(Memory::NotListed(words)),
        Err(CortexError::Refused(refusal)) if refusal.is_of_no_route() => {
            Ok(Memory::NotAnswered(refusal.to_string()))
        }
        Err(CortexError::Refused(refusal)) if matches!(refusal.status, 404 | 405) => {
            Ok(Memory::NotListed(refusal.to_string()))
        }
        Err(other) => Err(other),
    }
}

/// What the host's labels say of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks<'a> {
    pub(crate) digest: &'a str,
    pub(crate) generation: u64,
    pub(crate) fragment: u64,
    fragments: u64,
}

/// One event of ours, read.
struct Piece<'a> {
    source_id: Cow<'a, str>,
    event_id: &'a str,
    marks: Marks<'a>,
    root: String,
    /// The record of which a mapper made this a part.
    part_of: Option<String>,
    /// Old versions stay.
    appends: bool,
    /// Position in the listing: the smaller, the newer.
    age: usize,
    stored: bool,
}

/// The events of one generation and digest.
struct Version<'a> {
    digest: &'a str,
    generation: u64,
    fragments: u64,
    /// The newest event of each fragment, and its doubles.
    present: BTreeMap<u64, (&'a str, Vec<&'a str>)>,
}

impl Version<'_> {
    fn is_complete(&self) -> bool {
        self.present.len() as u64 == self.fragments
    }

    fn first_event(&self) -> Option<String> {
        self.present.get(&0).map(|(newest, _)| (*newest).to_owned())
    }
}

/// Events of ours with their place in the listing, and whether they are stored.
pub(crate) fn mine<'a>(ours: Ours<'_>, listed: &'a [Listed]) -> Vec<(usize, &'a Listed, bool)> {
    let contents_are_shown = listed.iter().any(|event| event.shown != Shown::Nothing);
    let mark = format!("instance={}", instance_mark(ours.source_instance));
    let system = format!("source:{}", ours.system);
    let is_ours = |event: &Listed| {
        event.labels.contains(&system)
            && event
                .labels
                .iter()
                .filter(|label| label.starts_with("instance="))
                .all(|label| *label == mark)
    };
    let is_stored = |event: &Listed| {
        !event.marked_forgotten
            && match event.shown {
                Shown::Text => true,
                Shown::Blank => false,
                Shown::Nothing => !contents_are_shown,
            }
    };
    listed
        .iter()
        .enumerate()
        .filter(|(_, event)| is_ours(event))
        .map(|(age, event)| (age, event, is_stored(event)))
        .collect()
}

fn entries(ours: Ours<'_>, scope: &str, listed: &[Listed]) -> Vec<RebuiltEntry> {
    let mine = mine(ours, listed);
    let prefix = common_prefix(&mine);
    let mut records: BTreeMap<String, Vec<Piece<'_>>> = BTreeMap::new();
    for (age, event, stored) in mine {
        if let Some(piece) = piece(event, age, stored, prefix) {
            let pieces = records.entry(piece.source_id.clone().into_owned());
            pieces.or_default().push(piece);
        }
    }
    records
        .into_values()
        .map(|pieces| entry(scope, &pieces))
        .collect()
}

/// The first part of a label that has the form of a source id.
fn system_of(label: &str) -> Option<&str> {
    let mut parts = label.splitn(3, ':');
    let (system, event_type, _) = (parts.next()?, parts.next()?, parts.next()?);
    let is_name = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
    };
    (is_name(system) && is_event_type(event_type) && check_source_id(label).is_ok())
        .then_some(system)
}

/// A user's label may look like a source id (`label:priority::high`). Ours is sent first; where a server sorts labels, it is the one
/// whose system most events have.
fn common_prefix<'a>(mine: &[(usize, &'a Listed, bool)]) -> Option<&'a str> {
    let mut votes: HashMap<&str, usize> = HashMap::new();
    for (_, event, _) in mine {
        let systems: BTreeSet<&str> = event.labels.iter().filter_map(|l| system_of(l)).collect();
        for system in systems {
            *votes.entry(system).or_default() += 1;
        }
    }
    votes
        .into_iter()
        .max_by_key(|(system, votes)| (*votes, std::cmp::Reverse(*system)))
        .map(|(system, _)| system)
}

/// Reads the labels of the host, which come after the component's.
pub(crate) fn marks(labels: &[String]) -> Option<Marks<'_>> {
    let digest = value(labels, "digest").filter(|digest| {
        digest.len() == DIGEST_DIGITS && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
    })?;
    let generation = value(labels, "generation")?
        .parse()
        .ok()
        .filter(|&n| n > 0)?;
    let (fragment, fragments) = match value(labels, "fragment") {
        None => (0, 1),
        Some(text) => {
            let (fragment, fragments) = text.split_once('/')?;
            (fragment.parse().ok()?, fragments.parse().ok()?)
        }
    };
    if fragment >= fragments || fragments >= ASIDE {
        return None;
    }
    Some(Marks {
        digest,
        generation,
        fragment,
        fragments,
    })
}

fn value<'a>(labels: &'a [String], name: &str) -> Option<&'a str> {
    labels
        .iter()
        .rev()
        .find_map(|label| label.strip_prefix(name)?.strip_prefix('='))
}

/// The descriptor tells the source id as it is; a label may be a shortened form of it.
fn source_id<'a>(event: &'a Listed, prefix: Option<&str>) -> Option<Cow<'a, str>> {
    if let Some(id) = &event.source_id
        && system_of(id).is_some()
    {
        return Some(Cow::Borrowed(id));
    }
    let mut labels = event.labels.iter().map(String::as_str);
    let first = labels.clone().next().filter(|l| system_of(l).is_some());
    let label =
        first.or_else(|| labels.find(|label| prefix.is_some() && system_of(label) == prefix))?;
    id_of_label(label)
}

fn piece<'a>(
    event: &'a Listed,
    age: usize,
    stored: bool,
    prefix: Option<&str>,
) -> Option<Piece<'a>> {
    Some(Piece {
        source_id: source_id(event, prefix)?,
        event_id: &event.event_id,
        marks: marks(&event.labels)?,
        root: value(&event.labels, "parent")
            .map(decode_label)
            .filter(|root| check_source_id(root).is_ok())
            .unwrap_or_default(),
        part_of: value(&event.labels, PART_OF)
            .map(decode_label)
            .filter(|record| check_source_id(record).is_ok()),
        // Unknown counts as history, of which nothing may be forgotten.
        appends: event.modality.as_deref().is_none_or(|m| m == "observation"),
        age,
        stored,
    })
}

/// Versions with something stored, newest first.
fn versions<'a>(pieces: &[Piece<'a>]) -> Vec<Version<'a>> {
    let mut stored: Vec<&Piece<'a>> = pieces.iter().filter(|piece| piece.stored).collect();
    stored.sort_by_key(|piece| (std::cmp::Reverse(piece.marks.generation), piece.age));
    let mut versions: Vec<Version<'a>> = Vec::new();
    for piece in stored {
        let same = versions.iter_mut().find(|version| {
            (version.generation, version.digest, version.fragments)
                == (
                    piece.marks.generation,
                    piece.marks.digest,
                    piece.marks.fragments,
                )
        });
        let version = match same {
            Some(version) => version,
            None => {
                versions.push(Version {
                    digest: piece.marks.digest,
                    generation: piece.marks.generation,
                    fragments: piece.marks.fragments,
                    present: BTreeMap::new(),
                });
                let last = versions.len() - 1;
                &mut versions[last]
            }
        };
        version
            .present
            .entry(piece.marks.fragment)
            .and_modify(|(_, doubles)| doubles.push(piece.event_id))
            .or_insert_with(|| (piece.event_id, Vec::new()));
    }
    versions
}

fn entry(scope: &str, pieces: &[Piece<'_>]) -> RebuiltEntry {
    let versions = versions(pieces);
    let highest = pieces.iter().map(|p| p.marks.generation).max().unwrap_or(1);
    let appends = pieces.iter().any(|piece| piece.appends);
    let complete = versions.iter().position(Version::is_complete);
    let current = versions
        .first()
        .filter(|version| version.generation == highest && version.is_complete());
    // A higher generation that is gone: the record was taken back, and whatever is left of it is to follow. It may be read again.
    let retracted = versions.first().is_none_or(|v| v.generation < highest);
    let status = match (current, retracted) {
        (Some(_), _) => Status::Live,
        (None, true) => Status::Retracted,
        (None, false) => Status::Begun,
    };
    let mut places = BTreeSet::new();
    let mut events = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        // Older than the newest complete version: replaced. What is incomplete above it waits for the next generation.
        let replaced = retracted || complete.is_some_and(|complete| index > complete);
        let broken = appends && !version.is_complete();
        let state = if broken || (replaced && !appends) {
            EventState::Obsolete
        } else {
            EventState::Live
        };
        let mut add = |fragment: u64, event_id: &str, state| {
            let mut place = fragment;
            while !places.insert((version.generation, place)) {
                place += ASIDE;
            }
            events.push(RebuiltEvent {
                generation: version.generation,
                fragment: place,
                event_id: event_id.to_owned(),
                state,
            });
        };
        for (fragment, (newest, doubles)) in &version.present {
            add(*fragment, newest, state);
            for double in doubles {
                add(*fragment, double, EventState::Obsolete);
            }
        }
    }
    let first = &pieces[0];
    let part_of = pieces.iter().find_map(|piece| piece.part_of.clone());
    RebuiltEntry {
        source_id: first.source_id.clone().into_owned(),
        record: part_of.unwrap_or_else(|| first.source_id.clone().into_owned()),
        event_type: first
            .source_id
            .split(':')
            .nth(1)
            .unwrap_or_default()
            .to_owned(),
        root: pieces
            .iter()
            .map(|piece| &piece.root)
            .find(|root| !root.is_empty())
            .cloned()
            .unwrap_or_default(),
        scope: scope.to_owned(),
        // An empty digest is equal to none: the next reading begins a new generation.
        digest: current.map_or_else(String::new, |version| version.digest.to_owned()),
        generation: highest,
        status,
        event_id: complete
            .filter(|_| status != Status::Retracted)
            .and_then(|complete| versions[complete].first_event()),
        events,
    }
}

#[cfg(test)]
mod tests;
