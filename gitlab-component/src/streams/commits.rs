//! Commits of the default branch, oldest first.
//!
//! GitLab lists commits newest first, without a total and without a filter for what was pushed since. Dates do not help: a commit
//! that was made last year may be pushed today. So the cursor is the *head* up to which everything is written. What is new is
//! the range `old..new`; where that cannot be had (force push, another default branch) the history is read back to what CortexDB
//! already knows. All pages are pinned to one commit, so that a push meanwhile moves nothing.
//!
//! Oldest first also means that a first reading has to see the end of the history before it writes anything. A short history
//! waits in memory ([`Waiting`]); of a long one the last page is searched, and pages are written from there upwards with a cursor
//! behind each.

use std::cell::Cell;

use serde_json::{Map, Value, json};

use super::{End, Stream};
use crate::client::{Fault, Listing, Sizing, Slice};
use crate::executor::gather;
use crate::gitlab::Commit;
use crate::host::Level;
use crate::time::Moment;

/// Commits on a page, as cursors count them.
const PAGE: u64 = 100;

/// Pages of one project that may wait in memory for the end of the history.
const WAITING_PAGES: u64 = 50;

/// Bytes of all projects' commits that may wait. Where more do, it is cheaper to search the last page: a few requests for one commit each.
const WAITING_BYTES: usize = 1 << 19;

/// Bytes of one project's commits that may wait where what is known is looked for: the last page would bring the whole history again.
const SEARCHING_BYTES: usize = 4 << 20;

/// What the allocator takes for each text beside its bytes, about.
const BLOCK_BYTES: usize = 8;

/// More pages than any repository has. A cursor with a higher number was not written by this connector.
const MOST_PAGES: u64 = 1_000_000;

/// Pages that are fetched at the same time.
const CONCURRENT_PAGES: usize = 4;

/// The cursor: how far the history is written, or is being written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    branch: String,
    /// The newest commit of what is written, or will be when `page` is done.
    head: String,
    /// The page to go on with, counted from the head; the ones above are done. `None` when all is written.
    page: Option<u64>,
    /// Where the range that is being read begins.
    from: Option<String>,
    /// Older commits were left out from the start.
    since: Option<String>,
}

impl Position {
    fn parse(stream: &Stream<'_>, cursor: &Map<String, Value>) -> Option<Self> {
        let text = |key| {
            cursor
                .get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let is_sha =
            |text: &String| text.len() >= 7 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let Some((branch, head)) = text("branch").zip(text("head").filter(is_sha)) else {
            stream.start_again("it names no branch and head");
            return None;
        };
        let page = match cursor.get("page") {
            None | Some(Value::Null) => None,
            Some(page) => match page.as_u64().filter(|page| (1..=MOST_PAGES).contains(page)) {
                Some(page) => Some(page),
                None => {
                    stream.start_again("`page` is not a page");
                    return None;
                }
            },
        };
        Some(Self {
            branch,
            head,
            page,
            from: text("from").filter(is_sha),
            since: text("since"),
        })
    }

    fn save(&self, stream: &Stream<'_>) {
        let mut cursor = json!({ "branch": self.branch, "head": self.head });
        if let Some(page) = self.page {
            cursor["page"] = page.into();
            if let Some(from) = &self.from {
                cursor["from"] = from.as_str().into();
            }
        }
        if let Some(since) = &self.since {
            cursor["since"] = since.as_str().into();
        }
        stream.set_cursor(&cursor);
    }

    /// The list that this position counts its pages in.
    fn listing(&self, stream: &Stream<'_>) -> Listing {
        let reference = match &self.from {
            Some(from) => format!("{from}..{}", self.head),
            None => self.head.clone(),
        };
        let listing = commits(stream, &reference);
        match &self.since {
            Some(since) if self.from.is_none() => listing.with("since", since),
            _ => listing,
        }
    }
}

fn commits(stream: &Stream<'_>, reference: &str) -> Listing {
    Listing::new(
        stream.path("repository/commits"),
        &[("ref_name", reference)],
    )
}

/// Reads what was pushed since the cursor.
pub(crate) async fn read(stream: &Stream<'_>) -> Result<End, Fault> {
    let Some(branch) = stream.project.default_branch.clone() else {
        return Ok(End::Off(
            "no default branch: the repository is empty, or this token may not read code"
                .to_owned(),
        ));
    };
    if stream.project.empty {
        return Ok(End::Off("the repository is empty".to_owned()));
    }
    let before = stream
        .cursor()
        .and_then(|cursor| Position::parse(stream, &cursor));
    let newest: Slice<Commit> = stream
        .client()
        .slice(&commits(stream, &branch), 0, &mut Sizing::single())
        .await?;
    let Some(head) = newest.rows.into_iter().find_map(|commit| commit.id) else {
        return Ok(End::Off(format!(
            "the default branch {branch} has no commits"
        )));
    };

    *stream.head.borrow_mut() = Some(head.clone());

    let wanted_since = stream.session.since.map(|since| since.text.clone());
    let Some(before) = before else {
        let wanted_since = stream.start(None).map(|since| since.text);
        let goal = Position {
            branch,
            head,
            page: None,
            from: None,
            since: wanted_since,
        };
        read_history(stream, &goal, Until::TheEnd, true).await?;
        goal.save(stream);
        return Ok(End::Complete);
    };

    let ends_first_reading = before.page.is_some() && before.from.is_none();
    let goal = Position {
        branch,
        head,
        page: None,
        from: None,
        since: before.since.clone(),
    };
    let resumed = resume(stream, &before).await?;
    let connected =
        resumed && (before.head == goal.head || read_range(stream, &before.head, &goal).await?);
    if !connected {
        let message = format!(
            "{}: {} is not below the head any more; reading back to what is known",
            stream.key, before.head
        );
        stream
            .host()
            .log(Level::Info, &message, &[("stream", &stream.key)]);
        read_history(stream, &goal, Until::Known, true).await?;
    }
    goal.save(stream);
    let is_below_floor = |since: &String| {
        let floor = goal.since.as_deref();
        floor.is_some_and(|floor| is_earlier(since, floor))
    };
    // What has just been read for the first time is not read again, but what it left out is.
    if let Some(since) = wanted_since.filter(|since| !ends_first_reading || is_below_floor(since)) {
        let widens = is_below_floor(&since);
        read_history(
            stream,
            &Position {
                since: Some(since.clone()),
                ..goal.clone()
            },
            Until::TheEnd,
            false,
        )
        .await?;
        if widens {
            // From now on these are wanted, too.
            Position {
                since: Some(since),
                ..goal
            }
            .save(stream);
        }
    }
    Ok(End::Complete)
}

/// Whether the history has been read once, so that what is new since is little.
pub(super) fn was_read(stream: &Stream<'_>) -> bool {
    let position = stream
        .cursor()
        .and_then(|cursor| Position::parse(stream, &cursor));
    position.is_some_and(|position| position.page.is_none())
}

fn is_earlier(one: &str, other: &str) -> bool {
    Moment::parse(one)
        .zip(Moment::parse(other))
        .is_some_and(|(one, other)| one < other)
}

/// Whether the reading of this stream goes back to a time, and not to the first commit.
pub(super) fn is_limited(stream: &Stream<'_>) -> bool {
    stream.start(None).is_some()
}

/// Whether the history that was read is the one that the cursor knows. It is another after a push meanwhile, or when a replica
/// that lags behind answered: then what was not met may only be new.
pub(super) fn is_at_its_cursor(stream: &Stream<'_>) -> bool {
    let cursor = stream.host().state(&stream.key);
    let cursor: Option<Value> = cursor.and_then(|text| serde_json::from_str(&text).ok());
    let head = stream.head.borrow();
    let known = cursor
        .as_ref()
        .and_then(|cursor| cursor.get("head")?.as_str());
    known.is_some() && known == head.as_deref()
}

/// Finishes a history that an earlier run began; `false` if its commits are gone.
async fn resume(stream: &Stream<'_>, position: &Position) -> Result<bool, Fault> {
    let Some(page) = position.page else {
        return Ok(true);
    };
    match write_upwards(stream, position, page, 1, true).await {
        Ok(written) => Ok(written > 0),
        Err(Fault::Refused(refusal)) if refusal.status != 403 => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Writes what `goal` has and `from` has not; `false` if GitLab cannot tell.
async fn read_range(stream: &Stream<'_>, from: &str, goal: &Position) -> Result<bool, Fault> {
    let range = Position {
        from: Some(from.to_owned()),
        ..goal.clone()
    };
    match read_history(stream, &range, Until::TheEnd, true).await {
        Ok(read) => Ok(read > 0),
        Err(Fault::Refused(refusal)) if refusal.status != 403 => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// How far back to read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    TheEnd,
    /// To a page of which every commit is known to CortexDB.
    Known,
}

/// Reads the list of `goal` and writes it oldest first; says how many commits there were. `resumable`: a long history leaves a
/// cursor behind every page.
async fn read_history(
    stream: &Stream<'_>,
    goal: &Position,
    until: Until,
    resumable: bool,
) -> Result<usize, Fault> {
    let listing = goal.listing(stream);
    let mut waiting = Waiting::new(&stream.session.waiting);
    let mut count = 0;
    let mut next_page = 1;
    while waiting.has_room(until) {
        // One page first: most readings find that it is all there is.
        let group = if next_page == 1 { 1 } else { CONCURRENT_PAGES };
        let pages = next_page..next_page + group as u64;
        next_page = pages.end;
        let pages = pages.map(|page| read_page(stream, &listing, page));
        for (rows, more) in gather(CONCURRENT_PAGES, pages).await? {
            let known = until == Until::Known && all_known(stream, &rows);
            if known {
                waiting.write(stream)?;
                return Ok(count);
            }
            count += rows.len();
            stream.progress(rows.len(), None);
            waiting.add(rows);
            if !more {
                waiting.write(stream)?;
                return Ok(count);
            }
        }
    }
    let last = last_page(stream, &listing, waiting.pages).await?;
    if resumable {
        Position {
            page: Some(last),
            ..goal.clone()
        }
        .save(stream);
    }
    count += write_upwards(stream, goal, last, waiting.pages + 1, resumable).await?;
    waiting.write(stream)?;
    Ok(count)
}

/// The newest pages of a history, while its end is looked for.
struct Waiting<'s> {
    /// Bytes of all projects.
    all: &'s Cell<usize>,
    /// Bytes of this one.
    bytes: usize,
    pages: u64,
    /// Newest first.
    rows: Vec<Commit>,
}

impl<'s> Waiting<'s> {
    fn new(all: &'s Cell<usize>) -> Self {
        Self {
            all,
            bytes: 0,
            pages: 0,
            rows: Vec::new(),
        }
    }

    /// Whether more may wait. Of every history as much as is fetched at the same time.
    fn has_room(&self, until: Until) -> bool {
        let has_bytes = match until {
            Until::TheEnd => self.pages <= 1 || self.all.get() <= WAITING_BYTES,
            Until::Known => self.bytes <= SEARCHING_BYTES,
        };
        has_bytes && self.pages < WAITING_PAGES
    }

    fn add(&mut self, page: Vec<Commit>) {
        let bytes = page.iter().map(size).sum::<usize>();
        self.all.set(self.all.get() + bytes);
        self.bytes += bytes;
        self.pages += 1;
        self.rows.extend(page);
    }

    /// Writes them, oldest first.
    fn write(mut self, stream: &Stream<'_>) -> Result<(), Fault> {
        while !self.rows.is_empty() {
            let oldest = self.rows.len().saturating_sub(super::BATCH);
            write_reversed(stream, &self.rows.split_off(oldest))?;
        }
        Ok(())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.bytes);
    }
}

/// Bytes of memory that a commit takes.
fn size(row: &Commit) -> usize {
    let texts = [
        &row.id,
        &row.title,
        &row.message,
        &row.author_name,
        &row.committer_name,
        &row.authored_date,
        &row.committed_date,
        &row.created_at,
    ];
    let texts = texts.into_iter().flatten();
    size_of::<Commit>() + texts.map(|text| text.len() + BLOCK_BYTES).sum::<usize>()
}

/// Writes the pages from the older `from` up to the newer `to`; says how many commits there were.
async fn write_upwards(
    stream: &Stream<'_>,
    goal: &Position,
    from: u64,
    to: u64,
    resumable: bool,
) -> Result<usize, Fault> {
    let listing = goal.listing(stream);
    let mut pages = (to..=from).rev();
    let mut count = 0;
    loop {
        let group: Vec<u64> = pages.by_ref().take(CONCURRENT_PAGES).collect();
        if group.is_empty() {
            return Ok(count);
        }
        let read = gather(
            CONCURRENT_PAGES,
            group.iter().map(|page| read_page(stream, &listing, *page)),
        )
        .await?;
        for (page, (rows, _)) in group.into_iter().zip(read) {
            if rows.is_empty() && count == 0 {
                // The list is not the one that the pages were counted in.
                return Ok(0);
            }
            count += rows.len();
            stream.progress(rows.len(), None);
            write_reversed(stream, &rows)?;
            if resumable && page > 1 {
                Position {
                    page: Some(page - 1),
                    ..goal.clone()
                }
                .save(stream);
            }
        }
    }
}

/// A page of the list, newest first, and whether there is another.
async fn read_page(
    stream: &Stream<'_>,
    listing: &Listing,
    page: u64,
) -> Result<(Vec<Commit>, bool), Fault> {
    let end = page * PAGE;
    let mut offset = end - PAGE;
    let mut sizing = Sizing::default();
    let mut rows = Vec::new();
    loop {
        let slice: Slice<Commit> = stream.client().slice(listing, offset, &mut sizing).await?;
        rows.extend(slice.rows);
        offset += u64::from(slice.page.size);
        if !slice.page.more || offset >= end {
            return Ok((rows, slice.page.more));
        }
    }
}

/// The last page that has commits, by doubling and bisection from one that has.
async fn last_page(stream: &Stream<'_>, listing: &Listing, full: u64) -> Result<u64, Fault> {
    let has_commits = async |page: u64| {
        let slice: Slice<Commit> = stream
            .client()
            .slice(listing, (page - 1) * PAGE, &mut Sizing::single())
            .await?;
        Ok::<_, Fault>(!slice.rows.is_empty())
    };
    let mut low = full;
    let mut high = full * 2;
    while has_commits(high).await? {
        low = high;
        high *= 2;
    }
    while high - low > 1 {
        let middle = low.midpoint(high);
        if has_commits(middle).await? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

fn all_known(stream: &Stream<'_>, rows: &[Commit]) -> bool {
    let ids: Vec<String> = rows
        .iter()
        .filter_map(|row| row.id.as_ref())
        .map(|sha| stream.project.source_id("commit", sha))
        .collect();
    !ids.is_empty() && stream.host().known(&ids).into_iter().all(|known| known)
}

/// Writes what is newest first oldest first.
fn write_reversed(stream: &Stream<'_>, rows: &[Commit]) -> Result<(), Fault> {
    let mapper = stream.mapper();
    let mapped = rows.iter().rev().filter_map(|row| mapper.commit(row));
    let experiences: Vec<_> = mapped.collect();
    stream.skip("without-id", (rows.len() - experiences.len()) as u64);
    stream.write(&experiences)
}
