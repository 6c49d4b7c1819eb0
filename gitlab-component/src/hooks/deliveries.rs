//! From calls of GitLab's to records that are read.
//!
//! Calls that point at the same record are served by one reading, records of one list by one request. What a call says about a record is
//! not looked at: the record is read as it is now, by the code that the streams use, so that a call and a poll write the same bytes.
//! The only state that is kept is what is written, and a call that comes twice, late or in the wrong order does no harm.

use std::cell::RefCell;
use std::fmt;

use futures_util::future::{FutureExt, LocalBoxFuture};

use super::payload::{self, Hint, Record, Said, Told};
use crate::client::{Client, Fault};
use crate::executor::side_by_side;
use crate::gitlab;
use crate::host::{Delivery, Failure, Verdict};
use crate::json::AnyObject;
use crate::mapping::Project;
use crate::selection::{self, Place};
use crate::settings::{Events, Name, Settings};
use crate::sorted::{SortedMap, SortedSet};
use crate::streams::Session;
use crate::streams::single::{self, Found, Mention};

/// Readings at the same time, within the limit for requests.
const CONCURRENT: usize = 32;

/// What is read at once. The order is the one in which the readings begin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    MergeRequest(u64),
    Issue(u64),
    Commits,
    Pipeline(u64),
    Release(String),
}

impl fmt::Display for Item {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MergeRequest(iid) => write!(formatter, "merge request !{iid}"),
            Self::Issue(iid) => write!(formatter, "issue #{iid}"),
            Self::Commits => formatter.write_str("the commits"),
            Self::Pipeline(id) => write!(formatter, "pipeline {id}"),
            Self::Release(tag) => write!(formatter, "the release {tag}"),
        }
    }
}

/// What is wanted of one project, and what is known about each before.
#[derive(Default)]
struct Wanted {
    merge_requests: SortedMap<u64, Mention>,
    issues: SortedMap<u64, Mention>,
    /// And whether some call told that it has come to an end that is recorded.
    pipelines: SortedMap<u64, bool>,
    releases: SortedMap<String, Said>,
    commits: bool,
}

/// Verdicts for a batch, in its order.
pub(crate) async fn handle(
    session: &Session<'_>,
    batch: &[Delivery],
) -> Result<Vec<Verdict>, Failure> {
    let hints: Vec<Hint> = batch
        .iter()
        .map(|delivery| hint(session, delivery))
        .collect();
    let ids: SortedSet<u64> = hints
        .iter()
        .filter_map(|hint| match hint {
            Hint::Record(project, _) | Hint::Project(project, _) => Some(*project),
            Hint::Poll(_) | Hint::Ignored(_) => None,
        })
        .collect();
    let ids: Vec<u64> = ids.into_iter().collect();
    let places = selection::locate(session.client, session.settings, &ids)
        .await
        .map_err(selection::failure)?;
    let places: SortedMap<u64, Result<Place, Fault>> = ids.into_iter().zip(places).collect();

    let mut wanted: SortedMap<u64, Wanted> = SortedMap::default();
    for hint in &hints {
        if let Hint::Record(id, record) = hint
            && let Some(Ok(Place::Selected(project))) = places.get(id)
        {
            let wanted = wanted.entry(*id).or_default();
            wanted.add(session.settings, project, record);
        }
    }
    let found: RefCell<SortedMap<(u64, Item), Found>> = RefCell::default();
    let mut readings = Vec::new();
    for (id, wanted) in &wanted {
        if let Some(Ok(Place::Selected(project))) = places.get(id) {
            readings.extend(wanted.readings(session, project, &found));
        }
    }
    side_by_side(CONCURRENT, readings).await?;
    let found = found.into_inner();
    let faults = found
        .values()
        .filter_map(|found| found.as_ref().err())
        .chain(places.values().filter_map(|place| place.as_ref().err()));
    is_their_own(session.client, faults).await?;
    Ok(hints
        .into_iter()
        .map(|hint| verdict(session, hint, &places, &found))
        .collect())
}

/// What a call points at, if this connection reads such records.
fn hint(session: &Session<'_>, delivery: &Delivery) -> Hint {
    let header = delivery
        .headers
        .iter()
        .find(|(name, _)| name == super::EVENT_HEADER)
        .map(|(_, value)| value.as_str());
    match payload::read(header, &delivery.body) {
        Hint::Record(_, record) if !is_wanted(session.settings.events, &record) => {
            Hint::Ignored("this kind of record is left out by `events`".to_owned())
        }
        hint => hint,
    }
}

fn is_wanted(events: Events, record: &Record) -> bool {
    let thread = |itself: bool, told: &Told| events.note || itself && told.note.is_none();
    match record {
        Record::MergeRequest(_, told) => thread(events.merge_request, told),
        Record::Issue(_, told) => thread(events.issue, told),
        Record::Pipeline(..) => events.pipeline,
        Record::Release(..) => events.release,
        Record::Commits(_) => events.commit,
    }
}

/// Whether a push was to the branch that is read.
fn is_read(project: &Project, branches: &[String]) -> bool {
    branches.is_empty()
        || project
            .default_branch
            .as_ref()
            .is_none_or(|read| branches.contains(read))
}

impl Wanted {
    fn add(&mut self, settings: &Settings, project: &Project, record: &Record) {
        let mention = |mentions: &mut SortedMap<u64, Mention>, iid: u64, told: &Told| {
            let mention = mentions.entry(iid).or_default();
            mention.notes.extend(told.note);
            mention.updated = mention.updated.max(told.updated);
        };
        match record {
            Record::MergeRequest(iid, told) => mention(&mut self.merge_requests, *iid, told),
            Record::Issue(iid, told) => mention(&mut self.issues, *iid, told),
            Record::Pipeline(id, status) => {
                let mut told = status.iter();
                *self.pipelines.entry(*id).or_default() |=
                    told.any(|status| settings.pipeline_statuses.contains(status));
            }
            Record::Release(tag, said) => {
                let before = self.releases.entry(tag.clone()).or_default();
                *before = (*before).max(*said);
            }
            Record::Commits(branches) => self.commits |= is_read(project, branches),
        }
    }

    /// One for each list or record. An error is one that ends the call.
    fn readings<'a>(
        &'a self,
        session: &'a Session<'a>,
        project: &'a Project,
        found: &'a RefCell<SortedMap<(u64, Item), Found>>,
    ) -> Vec<LocalBoxFuture<'a, Result<(), Failure>>> {
        let keep = move |item: Item, one: Found| match one {
            Err(Fault::Stop(failure)) => Err(failure),
            one => {
                found.borrow_mut().insert((project.id, item), one);
                Ok(())
            }
        };
        let keep_all = move |all: SortedMap<u64, Found>, item: fn(u64) -> Item| {
            all.into_iter()
                .try_for_each(|(iid, one)| keep(item(iid), one))
        };
        let mut readings: Vec<LocalBoxFuture<'a, Result<(), Failure>>> = Vec::new();
        if !self.merge_requests.is_empty() {
            let reading = async move {
                let all =
                    single::threads::<gitlab::MergeRequest>(session, project, &self.merge_requests)
                        .await?;
                keep_all(all, Item::MergeRequest)
            };
            readings.push(reading.boxed_local());
        }
        if !self.issues.is_empty() {
            let reading = async move {
                let all = single::threads::<gitlab::Issue>(session, project, &self.issues).await?;
                keep_all(all, Item::Issue)
            };
            readings.push(reading.boxed_local());
        }
        if self.commits {
            let reading =
                async move { keep(Item::Commits, single::commits(session, project).await) };
            readings.push(reading.boxed_local());
        }
        for (id, ended) in &self.pipelines {
            let reading = async move {
                let one = single::pipeline(session, project, *id, *ended).await;
                keep(Item::Pipeline(*id), one)
            };
            readings.push(reading.boxed_local());
        }
        for (tag, said) in &self.releases {
            let reading = async move {
                let one = single::release(session, project, tag, *said).await;
                keep(Item::Release(tag.clone()), one)
            };
            readings.push(reading.boxed_local());
        }
        readings
    }
}

/// A record that cannot be read while GitLab answers otherwise is this record's own trouble. Where GitLab answers nothing, the
/// whole batch comes again.
async fn is_their_own(
    client: &Client<'_>,
    faults: impl Iterator<Item = &Fault>,
) -> Result<(), Failure> {
    let mut unanswered = faults.filter_map(|fault| match fault {
        Fault::Unavailable(reason) => Some(reason),
        _ => None,
    });
    let Some(reason) = unanswered.next() else {
        return Ok(());
    };
    match client.object::<AnyObject>("/version", &[]).await {
        Ok(_) | Err(Fault::Refused(_)) => Ok(()),
        Err(Fault::Stop(failure)) => Err(failure),
        Err(Fault::TooMuch(_) | Fault::Unavailable(_)) => Err(Failure::Unavailable(reason.clone())),
    }
}

fn verdict(
    session: &Session<'_>,
    hint: Hint,
    places: &SortedMap<u64, Result<Place, Fault>>,
    found: &SortedMap<(u64, Item), Found>,
) -> Verdict {
    let (id, hint) = match hint {
        Hint::Poll(reason) => return Verdict::Poll(reason),
        Hint::Ignored(reason) => return Verdict::Ignored(reason),
        Hint::Record(id, record) => (id, Ok(record)),
        Hint::Project(id, what) => (id, Err(what)),
    };
    let was_read = || selection::was_read(session.client, &Name::Id(id));
    let place = match places.get(&id) {
        Some(Ok(place)) => place,
        Some(Err(fault)) => return trouble(fault, &format!("project {id}")),
        None => return Verdict::Poll(format!("project {id} was not looked at")),
    };
    match (hint, place) {
        (Ok(Record::Commits(branches)), Place::Selected(project))
            if !is_read(project, &branches) =>
        {
            Verdict::Ignored("not the branch that is read".to_owned())
        }
        (Ok(record), Place::Selected(project)) => {
            let item = match record {
                Record::MergeRequest(iid, _) => Item::MergeRequest(iid),
                Record::Issue(iid, _) => Item::Issue(iid),
                Record::Commits(_) => Item::Commits,
                Record::Pipeline(id, _) => Item::Pipeline(id),
                Record::Release(tag, _) => Item::Release(tag),
            };
            let what = format!("{item} of {}", project.path);
            match found.get(&(id, item)) {
                Some(Ok(verdict)) => verdict.clone(),
                Some(Err(fault)) => trouble(fault, &what),
                None => Verdict::Poll(format!("{what} was not read")),
            }
        }
        (Err(what), Place::Selected(project)) => {
            Verdict::Poll(format!("{what} of {}", project.path))
        }
        (Err(what), _) if was_read() => Verdict::Poll(format!("{what} of project {id}")),
        (Ok(_), Place::Invisible(words)) if was_read() => Verdict::Poll(format!(
            "project {id} was read before and is not to be seen any more: {words}"
        )),
        (_, Place::Invisible(words)) => Verdict::Ignored(format!("project {id}: {words}")),
        (_, Place::Elsewhere) => Verdict::Ignored(format!(
            "project {id} is not one that this connection reads"
        )),
    }
}

/// What a record's own trouble means. A refusal is a feature that is off, as it is for the stream.
fn trouble(fault: &Fault, what: &str) -> Verdict {
    match fault {
        Fault::Refused(refusal) if matches!(refusal.status, 403 | 404) => {
            Verdict::Ignored(format!("{what}: {refusal}"))
        }
        Fault::Refused(refusal) => Verdict::Poll(format!("{what}: {refusal}")),
        Fault::TooMuch(reason) | Fault::Unavailable(reason) => {
            Verdict::Poll(format!("{what}: {reason}"))
        }
        Fault::Stop(_) => Verdict::Poll(format!("{what}: the run was stopped")),
    }
}
