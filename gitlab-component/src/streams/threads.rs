//! Merge requests and issues, with the discussions below them.
//!
//! Both are walked by `updated_at`. A comment touches its parent, so the discussions of every parent that the walk meets are
//! read in full: GitLab has no list of changed comments. Parents are written before their comments, because a comment refers
//! to what it answers.

use std::cell::{Cell, RefCell};

use futures_util::future::FutureExt;
use serde_json::{Map, Value, json};

use super::{End, Stream, child_fault};
use crate::client::{Fault, Listing, Refusal, Sizing, Slice};
use crate::executor::side_by_side;
use crate::gitlab::{Discussion, Issue, MergeRequest};
use crate::host::Experience;
use crate::json::AnyObject;
use crate::mapping::{self, Mapper, Parent, Project};
use crate::settings::Settings;
use crate::sorted::{SortedMap, SortedSet};
use crate::walk::{Row, Stamp, TimeWalk};

/// Parents whose discussions are read at the same time, within the limit for the whole run.
const CONCURRENT_DISCUSSIONS: usize = 32;

/// Comments that are collected before they are handed over.
const NOTES_AT_ONCE: usize = 250;

/// How often the discussions of one parent are read again when their number changes meanwhile.
const DISCUSSION_PASSES: u8 = 3;

/// A record that people comment on.
pub(crate) trait Commented: Row {
    /// Name of the list in the API, and of the stream.
    const LIST: &'static str;
    const EVENT_TYPE: &'static str;
    /// Filters of the list besides time and order.
    const QUERY: &'static [(&'static str, &'static str)];

    fn iid(&self) -> Option<u64>;
    fn project_id(&self) -> Option<u64>;
    /// Whether this token's user may use them in the project.
    fn enabled(project: &Project) -> bool;
    /// Whether the list of a group is sure to have this project's rows: it leaves out without a word what this token may not see.
    fn shown_in_groups(project: &Project) -> bool;
    fn confidential(&self) -> bool;
    /// `None` where GitLab does not say.
    fn comments(&self) -> Option<u64>;
    fn map(&self, mapper: Mapper<'_>) -> Option<Experience>;
    /// Whether these settings want the records themselves, not only their comments.
    fn wanted(settings: &Settings) -> bool;
}

impl Row for MergeRequest {
    fn id(&self) -> Option<u64> {
        self.id.or(self.iid)
    }

    fn updated_at(&self) -> Option<&str> {
        self.updated_at.as_deref()
    }
}

impl Commented for MergeRequest {
    const LIST: &'static str = "merge_requests";
    const EVENT_TYPE: &'static str = "merge_request";
    // Label details are not wanted for themselves: they keep GitLab from answering out of a cache that is up to eight hours old
    // and has an old number of comments.
    const QUERY: &'static [(&'static str, &'static str)] = &[
        ("scope", "all"),
        ("state", "all"),
        ("with_labels_details", "true"),
    ];

    fn iid(&self) -> Option<u64> {
        self.iid
    }

    fn project_id(&self) -> Option<u64> {
        self.project_id
    }

    fn enabled(project: &Project) -> bool {
        project.merge_requests
    }

    // A role that is not shown the code of a private project is not shown its merge requests either.
    fn shown_in_groups(project: &Project) -> bool {
        Self::enabled(project) && project.default_branch.is_some()
    }

    fn confidential(&self) -> bool {
        false
    }

    fn comments(&self) -> Option<u64> {
        self.user_notes_count
    }

    fn map(&self, mapper: Mapper<'_>) -> Option<Experience> {
        mapper.merge_request(self)
    }

    fn wanted(settings: &Settings) -> bool {
        settings.events.merge_request
    }
}

impl Row for Issue {
    fn id(&self) -> Option<u64> {
        self.id.or(self.iid)
    }

    fn updated_at(&self) -> Option<&str> {
        self.updated_at.as_deref()
    }
}

impl Commented for Issue {
    const LIST: &'static str = "issues";
    const EVENT_TYPE: &'static str = "issue";
    const QUERY: &'static [(&'static str, &'static str)] = &[("scope", "all"), ("state", "all")];

    fn iid(&self) -> Option<u64> {
        self.iid
    }

    fn project_id(&self) -> Option<u64> {
        self.project_id
    }

    fn enabled(project: &Project) -> bool {
        project.issues
    }

    fn shown_in_groups(project: &Project) -> bool {
        Self::enabled(project)
    }

    fn confidential(&self) -> bool {
        self.confidential == Some(true)
    }

    fn comments(&self) -> Option<u64> {
        self.user_notes_count
    }

    fn map(&self, mapper: Mapper<'_>) -> Option<Experience> {
        mapper.issue(self)
    }

    fn wanted(settings: &Settings) -> bool {
        settings.events.issue
    }
}

/// Reads what changed since the cursor.
pub(crate) async fn read<T: Commented>(stream: &Stream<'_>) -> Result<End, Fault> {
    // GitLab answers an empty list for issues that are switched off. To move the cursor over it would hide every issue that is there
    // once they are switched on.
    if T::EVENT_TYPE == Issue::EVENT_TYPE && !T::enabled(stream.project) {
        return Ok(End::Off(
            "issues are switched off or hidden from this token; what was stored stays".to_owned(),
        ));
    }
    let settings = stream.session.settings;
    let position = stream.cursor().and_then(|cursor| {
        position::<T>(settings, &cursor)
            .inspect_err(|reason| stream.start_again(reason))
            .ok()
    });
    let start = stream.start(position);

    let listing = Listing::new(stream.path(T::LIST), T::QUERY);
    let mut walk = TimeWalk::<T>::new(stream.client(), listing, "created_at", start);
    while let Some(batch) = walk.next().await? {
        let rows = batch.rows.len();
        write_page(stream, batch.rows, &Announced::default()).await?;
        stream.progress(rows, walk.total());
        if let Some(at) = batch.resume {
            let horizon = stream.horizon(walk.started());
            let at = if at.moment < horizon.moment {
                &at
            } else {
                &horizon
            };
            stream.set_cursor(&cursor::<T>(stream, at));
        }
    }
    stream.set_cursor(&cursor::<T>(stream, &stream.horizon(walk.started())));
    Ok(End::Complete)
}

/// The cursor of a stream that has been read up to a time.
pub(super) fn cursor<T: Commented>(stream: &Stream<'_>, at: &Stamp) -> Value {
    let settings = stream.session.settings;
    stream.with_floor(json!({
        "updated_after": at.text,
        "records": T::wanted(settings),
        "notes": settings.events.note,
        "confidential": settings.include_confidential,
    }))
}

/// The time of a cursor, if what was read up to there is what is wanted now; or why everything has to be read.
pub(super) fn position<T: Commented>(
    settings: &Settings,
    cursor: &Map<String, Value>,
) -> Result<Stamp, &'static str> {
    let had = |key: &str, missing: bool| {
        cursor
            .get(key)
            .map_or(missing, |value| value == &Value::Bool(true))
    };
    if T::wanted(settings) && !had("records", true) {
        return Err("the records themselves were left out so far");
    }
    if settings.events.note && !had("notes", true) {
        return Err("comments were left out so far");
    }
    // In both directions: what may no longer be kept has to be found before it can be forgotten.
    if settings.include_confidential != had("confidential", settings.include_confidential) {
        return Err("include_confidential was changed");
    }
    let time = cursor.get("updated_after").and_then(Value::as_str);
    time.and_then(Stamp::parse)
        .ok_or("`updated_after` is not a time")
}

/// Comments that are known to exist, by the iid of their parent, whatever GitLab says about its number of comments.
pub(super) type Announced = SortedMap<u64, SortedSet<u64>>;

/// Writes a page of parents, and then everything that was said about them. Answers which of the announced comments were not met.
pub(super) async fn write_page<T: Commented>(
    stream: &Stream<'_>,
    rows: Vec<T>,
    announced: &Announced,
) -> Result<Announced, Fault> {
    let settings = stream.session.settings;
    let mapper = stream.mapper();
    let mut experiences = Vec::new();
    let mut hidden = Vec::new();
    let mut parents = Vec::new();
    let mut unidentified = 0;
    for row in &rows {
        let Some(iid) = row.iid() else {
            unidentified += 1;
            continue;
        };
        let source_id = stream.project.source_id(T::EVENT_TYPE, &iid.to_string());
        if row.confidential() && !settings.include_confidential {
            hidden.push(source_id);
            continue;
        }
        if T::wanted(settings) {
            experiences.extend(row.map(mapper));
        }
        let talked = announced.contains_key(&iid);
        if settings.events.note && (row.comments() != Some(0) || talked) {
            parents.push((
                iid,
                row.comments().unwrap_or_default(),
                Parent {
                    source_id,
                    confidential: row.confidential(),
                },
            ));
        }
    }
    drop(rows);
    stream.write(&experiences)?;
    drop(experiences);
    stream.skip("without-id", unidentified);
    stream.skip("confidential-issue", hidden.len() as u64);
    stream.retract(&hidden, "became confidential")?;

    let notes = Notes::new(stream, announced);
    let readings = parents
        .iter()
        .map(|(iid, comments, parent)| notes.read::<T>(*iid, *comments, parent).boxed_local());
    side_by_side(CONCURRENT_DISCUSSIONS, readings).await?;
    notes.flush()?;
    Ok(notes.unmet.into_inner())
}

/// The comments of one page of parents, on their way to the host.
struct Notes<'s> {
    stream: &'s Stream<'s>,
    announced: &'s Announced,
    /// Those of the announced that were not met.
    unmet: RefCell<Announced>,
    experiences: RefCell<Vec<Experience>>,
    /// Source ids of comments that must not be kept.
    hidden: RefCell<Vec<String>>,
    system: Cell<u64>,
    internal: Cell<u64>,
    blank: Cell<u64>,
}

impl<'s> Notes<'s> {
    fn new(stream: &'s Stream<'s>, announced: &'s Announced) -> Self {
        Self {
            stream,
            announced,
            unmet: RefCell::default(),
            experiences: RefCell::default(),
            hidden: RefCell::default(),
            system: Cell::default(),
            internal: Cell::default(),
            blank: Cell::default(),
        }
    }

    /// Reads all discussions of one parent that is said to have so many comments. The number may be hours old, but a list without any
    /// is asked for again before it is believed: what is missed now is not seen before the parent changes or a reconcile pass comes.
    async fn read<T: Commented>(
        &self,
        iid: u64,
        comments: u64,
        parent: &Parent,
    ) -> Result<(), Fault> {
        let listing = Listing::new(
            self.stream.path(&format!("{}/{iid}/discussions", T::LIST)),
            &[],
        );
        let announced = self.announced.get(&iid);
        let mut seen = SortedSet::default();
        let mut sizing = Sizing::default();
        for pass in 0..DISCUSSION_PASSES {
            let mut offset = 0;
            let mut total = None;
            loop {
                let slice: Slice<Discussion> = match self
                    .stream
                    .client()
                    .slice(&listing, offset, &mut sizing)
                    .await
                {
                    Ok(slice) => slice,
                    Err(Fault::Refused(refusal)) if refusal.status == 404 => {
                        return self.missing::<T>(iid, parent, &refusal).await;
                    }
                    Err(fault) => {
                        return Err(child_fault(
                            fault,
                            &format!("comments of {}", parent.source_id),
                        ));
                    }
                };
                total = total.or(slice.page.total);
                for discussion in &slice.rows {
                    self.add(discussion, parent, &mut seen);
                }
                if self.experiences.borrow().len() >= NOTES_AT_ONCE
                    || self.bytes() >= super::BATCH_BYTES
                {
                    self.flush()?;
                }
                if !slice.page.more {
                    let mut unmet = announced.cloned().unwrap_or_default();
                    unmet.retain(|id| !seen.contains(id));
                    let missing = comments > 0 && seen.is_empty() || !unmet.is_empty();
                    let doubtful = pass == 0 && missing;
                    if !doubtful && (offset == 0 || slice.page.total == total) {
                        if !unmet.is_empty() {
                            self.unmet.borrow_mut().insert(iid, unmet);
                        }
                        return Ok(());
                    }
                    break;
                }
                offset += u64::from(slice.page.size);
            }
        }
        Err(Fault::Unavailable(format!(
            "the discussions of {} are being changed faster than they can be read; a later run goes on there",
            parent.source_id
        )))
    }

    /// No discussions: either the parent was deleted since it was listed, or something is wrong and its comments are unread.
    async fn missing<T: Commented>(
        &self,
        iid: u64,
        parent: &Parent,
        refusal: &Refusal,
    ) -> Result<(), Fault> {
        let exists = |path: String| async move {
            match self.stream.client().object::<AnyObject>(&path, &[]).await {
                Ok(_) => Ok(true),
                Err(Fault::Refused(refusal)) if refusal.status == 404 => Ok(false),
                Err(fault) => Err(child_fault(fault, &parent.source_id)),
            }
        };
        let parent_path = self.stream.path(&format!("{}/{iid}", T::LIST));
        if exists(parent_path).await?
            || !exists(format!("/projects/{}", self.stream.project.id)).await?
        {
            let what = format!("comments of {}: {refusal}", parent.source_id);
            return Err(Fault::Unavailable(what));
        }
        self.stream.skip("parent-deleted", 1);
        Ok(())
    }

    fn bytes(&self) -> usize {
        let experiences = self.experiences.borrow();
        experiences
            .iter()
            .map(|experience| experience.content.len())
            .sum()
    }

    /// The comments of one discussion, in order. Each answers the one before it, the first one the parent.
    fn add(&self, discussion: &Discussion, parent: &Parent, seen: &mut SortedSet<u64>) {
        let mapper = self.stream.mapper();
        let count = |counter: &Cell<u64>| counter.set(counter.get() + 1);
        let mut before = parent.source_id.clone();
        for note in discussion.notes.iter().flatten() {
            let Some(id) = note.id else {
                self.stream.skip("without-id", 1);
                continue;
            };
            let first_time = seen.insert(id);
            if note.system == Some(true) {
                if first_time {
                    count(&self.system);
                }
            } else if mapping::is_internal(note)
                && !self.stream.session.settings.include_confidential
            {
                if first_time {
                    count(&self.internal);
                    self.hidden
                        .borrow_mut()
                        .push(self.stream.project.source_id("note", &id.to_string()));
                }
            } else if let Some(experience) =
                mapper.note(note, discussion.id.as_deref(), parent, &before)
            {
                before.clone_from(&experience.source_id);
                if first_time {
                    self.experiences.borrow_mut().push(experience);
                }
            } else if first_time {
                count(&self.blank);
            }
        }
    }

    fn flush(&self) -> Result<(), Fault> {
        self.stream.write(&self.experiences.take())?;
        self.stream.skip("system-note", self.system.take());
        self.stream.skip("internal-note", self.internal.take());
        self.stream.skip("blank-comment", self.blank.take());
        // Most internal comments were never public, so only those that may be in CortexDB are worth a retraction.
        let hidden = self.hidden.take();
        if hidden.is_empty() {
            return Ok(());
        }
        let held = self.stream.host().held(&hidden);
        let held: Vec<_> = hidden
            .into_iter()
            .zip(held)
            .filter_map(|(id, held)| held.then_some(id))
            .collect();
        self.stream.retract(&held, "became internal")
    }
}
