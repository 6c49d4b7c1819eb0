//! Records that are looked at by themselves, because GitLab said that something happened to them.
//!
//! What is read is read as the streams read it: the same lists with the same filters, only for certain numbers, and the same
//! functions behind them. So a record comes out with the same bytes, whichever way it was met. No cursor of a list is moved,
//! because nothing is known about the other records of it; commits move their own, which is a place and not a time.

use std::cell::RefCell;

use futures_util::future::FutureExt;

use super::reconcile::{self, Fate};
use super::threads::{self, Announced, Commented};
use super::{End, Session, Stream, commits, pipelines, releases};
use crate::client::{Fault, Listing, Sizing, Slice};
use crate::executor::side_by_side;
use crate::hooks::payload::Said;
use crate::host::{Failure, Held, Verdict};
use crate::mapping::Project;
use crate::sorted::{SortedMap, SortedSet};
use crate::time::Moment;

/// Numbers in one request. GitLab answers them on one page.
const AT_ONCE: usize = 100;

/// Threads that are read at the same time, within the limit for the whole run.
const CONCURRENT: usize = 32;

/// How long a replica of GitLab's database is given to catch up with what GitLab has just told.
pub(super) const LAG_MS: u32 = 1_000;

/// What came of one record, or why it could not be read.
pub(crate) type Found = Result<Verdict, Fault>;

/// What is known of a merge request or an issue before it is read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Mention {
    /// Comments on it that were told of.
    pub(crate) notes: SortedSet<u64>,
    /// When it is said to have changed last.
    pub(crate) updated: Option<Moment>,
}

/// Merge requests or issues by their numbers, with everything that was said about them.
pub(crate) async fn threads<T: Commented>(
    session: &Session<'_>,
    project: &Project,
    mentions: &SortedMap<u64, Mention>,
) -> Result<SortedMap<u64, Found>, Failure> {
    if !T::enabled(project) {
        let off = format!(
            "{} are switched off in {} or hidden from this token",
            T::LIST,
            project.path
        );
        let ignored = |iid: &u64| (*iid, Ok(Verdict::Ignored(off.clone())));
        return Ok(mentions.keys().map(ignored).collect());
    }
    let stream = Stream::new(session, project, T::LIST);
    let found = RefCell::new(SortedMap::default());
    let iids: Vec<u64> = mentions.keys().copied().collect();
    let pages = iids.chunks(AT_ONCE).map(|page| {
        let (stream, found) = (&stream, &found);
        async move {
            match page_of::<T>(stream, mentions, page, found).await {
                Ok(()) => Ok(()),
                Err(Fault::Stop(failure)) => Err(failure),
                Err(fault) => {
                    let mut found = found.borrow_mut();
                    for iid in page {
                        found.entry(*iid).or_insert_with(|| Err(fault.clone()));
                    }
                    Ok(())
                }
            }
        }
        .boxed_local()
    });
    side_by_side(CONCURRENT, pages).await?;
    Ok(found.into_inner())
}

/// Reads up to a hundred of them. An error is one of the list.
async fn page_of<T: Commented>(
    stream: &Stream<'_>,
    mentions: &SortedMap<u64, Mention>,
    page: &[u64],
    found: &RefCell<SortedMap<u64, Found>>,
) -> Result<(), Fault> {
    let mut rows = list::<T>(stream, page, 0).await?;
    let is_late = |iid: &u64, rows: &SortedMap<u64, T>| {
        let told = mentions.get(iid).and_then(|mention| mention.updated);
        rows.get(iid).is_none_or(|row| {
            let shown = row.updated_at().and_then(Moment::parse);
            told.zip(shown).is_some_and(|(told, shown)| shown < told)
        })
    };
    let late: Vec<u64> = page
        .iter()
        .copied()
        .filter(|iid| is_late(iid, &rows))
        .collect();
    if !late.is_empty() {
        rows.extend(list::<T>(stream, &late, LAG_MS).await?);
    }
    let still_late: SortedSet<u64> = late.into_iter().filter(|iid| is_late(iid, &rows)).collect();
    let readings = page.iter().map(|iid| {
        let row = rows.remove(iid);
        let late = still_late.contains(iid);
        async move {
            let one = match row {
                Some(row) => thread(stream, *iid, row, mentions.get(iid), late).await,
                None => unlisted::<T>(stream, *iid).await,
            };
            if let Err(fault @ Fault::Stop(_)) = one {
                return Err(fault);
            }
            found.borrow_mut().insert(*iid, one);
            Ok(())
        }
        .boxed_local()
    });
    side_by_side(CONCURRENT, readings).await
}

/// The rows of the stream's own list with these numbers.
async fn list<T: Commented>(
    stream: &Stream<'_>,
    iids: &[u64],
    delay_ms: u32,
) -> Result<SortedMap<u64, T>, Fault> {
    let mut listing = Listing::new(stream.path(T::LIST), T::QUERY).after_ms(delay_ms);
    for iid in iids {
        listing = listing.and("iids[]", &iid.to_string());
    }
    let mut sizing = Sizing::default();
    let mut rows = SortedMap::default();
    let mut offset = 0;
    loop {
        let slice: Slice<T> = stream.client().slice(&listing, offset, &mut sizing).await?;
        // A server that does not know the filter lists everything; what was not asked for is not looked at.
        let asked = slice.rows.into_iter().filter_map(|row| {
            let iid = row.iid()?;
            iids.contains(&iid).then_some((iid, row))
        });
        rows.extend(asked);
        offset += u64::from(slice.page.size);
        if !slice.page.more || offset >= iids.len() as u64 {
            return Ok(rows);
        }
    }
}

/// Writes one of them with its comments.
async fn thread<T: Commented>(
    stream: &Stream<'_>,
    iid: u64,
    row: T,
    mention: Option<&Mention>,
    late: bool,
) -> Found {
    let updated = row.updated_at().and_then(Moment::parse);
    if let (Some(floor), Some(updated)) = (stream.floor(), updated)
        && updated < floor.moment
    {
        return Ok(Verdict::Ignored(format!(
            "it has not changed since {}, where the reading began",
            floor.text
        )));
    }
    let notes = mention.map(|mention| mention.notes.clone());
    let notes = notes.filter(|notes| !notes.is_empty());
    let announced: Announced = notes.map(|notes| (iid, notes)).into_iter().collect();
    let unmet = threads::write_page(stream, vec![row], &announced).await?;
    let root = stream.project.source_id(T::EVENT_TYPE, &iid.to_string());
    for note in unmet.into_values().flatten() {
        let id = stream.project.source_id("note", &note.to_string());
        if let Verdict::Poll(reason) = gone(stream, "note", id, Some(root.clone())).await? {
            return Ok(Verdict::Poll(reason));
        }
    }
    Ok(if late {
        not_yet(&root)
    } else {
        Verdict::Handled
    })
}

/// The verdict where a second look has not shown what a call told of a record.
pub(super) fn not_yet(source_id: &str) -> Verdict {
    Verdict::Poll(format!(
        "GitLab does not show yet what it told of {source_id}"
    ))
}

/// One that the list does not have.
async fn unlisted<T: Commented>(stream: &Stream<'_>, iid: u64) -> Found {
    let id = stream.project.source_id(T::EVENT_TYPE, &iid.to_string());
    gone(stream, T::EVENT_TYPE, id, None).await
}

/// What to do about a record that GitLab told of and does not show. What is held is forgotten with the care of a reconcile pass.
async fn gone(stream: &Stream<'_>, kind: &str, source_id: String, root: Option<String>) -> Found {
    let held = Held { source_id, root };
    stream.write_nothing()?;
    let is_held = stream.host().held(std::slice::from_ref(&held.source_id));
    if is_held.first() == Some(&true) {
        let settled = reconcile::settle_page(stream, kind, std::slice::from_ref(&held)).await?;
        return Ok(match (settled.off, settled.kept.into_iter().next()) {
            (Some(off), _) => Verdict::Ignored(off),
            (None, Some((id, why))) => {
                Verdict::Poll(format!("{id} is not listed, and kept: {why}"))
            }
            (None, None) => Verdict::Handled,
        });
    }
    let id = &held.source_id;
    Ok(match reconcile::look_at(stream, kind, &held).await? {
        Fate::Gone => Verdict::Poll(format!(
            "GitLab does not know {id}: it is gone again, or not to be seen yet"
        )),
        Fate::Exists => Verdict::Ignored(format!("{id} is in none of the lists that are read")),
        Fate::Hidden => Verdict::Ignored(format!("{id} is confidential")),
        Fate::Unclear(words) => Verdict::Ignored(format!("{id}: {words}")),
    })
}

/// One pipeline. `ended`: GitLab told of an end that is recorded.
pub(crate) async fn pipeline(
    session: &Session<'_>,
    project: &Project,
    id: u64,
    ended: bool,
) -> Found {
    let stream = Stream::new(session, project, "pipelines");
    match pipelines::read_one(&stream, id, ended).await? {
        Some(verdict) => Ok(verdict),
        None => {
            let id = project.source_id("pipeline", &id.to_string());
            gone(&stream, "pipeline", id, None).await
        }
    }
}

/// The release of a tag.
pub(crate) async fn release(
    session: &Session<'_>,
    project: &Project,
    tag: &str,
    said: Said,
) -> Found {
    let stream = Stream::new(session, project, "releases");
    if let Some(verdict) = releases::read_one(&stream, tag, said == Said::Deleted).await? {
        return Ok(verdict);
    }
    let id = project.source_id("release", tag);
    let held = stream.host().held(std::slice::from_ref(&id));
    if said == Said::Tag && held.first() != Some(&true) {
        return Ok(Verdict::Ignored(format!(
            "the tag {tag} of {} has no release",
            project.path
        )));
    }
    gone(&stream, "release", id, None).await
}

/// What was pushed to the branch that is read. Before the history has been read once this is no small thing, and left to a run.
pub(crate) async fn commits(session: &Session<'_>, project: &Project) -> Found {
    let stream = Stream::new(session, project, "commits");
    if !commits::was_read(&stream) {
        return Ok(Verdict::Poll(format!(
            "the history of {} has not been read for the first time",
            project.path
        )));
    }
    Ok(match commits::read(&stream).await? {
        End::Complete => Verdict::Handled,
        End::Off(words) => Verdict::Ignored(words),
    })
}
