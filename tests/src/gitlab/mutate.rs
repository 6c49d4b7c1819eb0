//! What people do to merge requests, issues and comments, by GitLab's own rules.
//!
//! The rules that matter to an incremental reader are about `updated_at`: a comment touches its parent, but only if the parent
//! has been quiet for sixty seconds; resolving a thread and deleting a comment touch nothing. A simulator that bumped
//! everything on every change would hide the loss of comments. Webhooks tell of less than one would think: not of deletions, not of
//! resolved threads, not of a bare `updated_at`.

use serde::Serialize;

use super::clock::{Micros, SECOND};
use super::generate::comment;
use super::model::{
    Discussion, Event, Issue, MergeRequest, MergeState, Note, NoteKind, Project, Threads,
};
use super::world::{Noteable, Target, World};

/// One change that was made, for a log or a test's message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mutation {
    /// The mutation's name, as in `/_sim/mutate/<name>`.
    pub name: &'static str,
    /// Project id; 0 if it concerns none.
    pub project: u64,
    /// What was changed: an iid, note id, sha, tag, path …
    pub id: String,
    /// One more fact, for people.
    pub detail: String,
}

impl Mutation {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers pass numbers and fresh strings alike"
    )]
    pub(crate) fn new(
        name: &'static str,
        project: u64,
        id: impl ToString,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            name,
            project,
            id: id.to_string(),
            detail: detail.into(),
        }
    }
}

/// Why a mutation was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// What a mutation answers.
pub type Done = Result<Mutation, Refused>;

pub(crate) fn refused<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(why.into()))
}

impl World {
    /// A person to blame for changes: the first human user.
    pub(crate) fn somebody(&self) -> u64 {
        self.users
            .values()
            .find(|user| !user.bot && user.id > 1)
            .map_or(1, |user| user.id)
    }

    pub(crate) fn project_mut(&mut self, project: u64) -> Result<&mut Project, Refused> {
        self.projects
            .get_mut(&project)
            .ok_or_else(|| Refused(format!("no project {project}")))
    }

    /// A merge request, to be changed directly.
    ///
    /// # Errors
    /// If there is none.
    pub fn merge_request_mut(
        &mut self,
        project: u64,
        iid: u64,
    ) -> Result<&mut MergeRequest, Refused> {
        let found = self.project_mut(project)?.merge_requests.get_mut(&iid);
        found.ok_or_else(|| Refused(format!("no merge request {project}!{iid}")))
    }

    /// An issue, to be changed directly.
    ///
    /// # Errors
    /// If there is none.
    pub fn issue_mut(&mut self, project: u64, iid: u64) -> Result<&mut Issue, Refused> {
        let found = self.project_mut(project)?.issues.get_mut(&iid);
        found.ok_or_else(|| Refused(format!("no issue {project}#{iid}")))
    }

    fn updated_at_mut(&mut self, target: Target) -> Option<&mut Micros> {
        let project = self.projects.get_mut(&target.project)?;
        match target.kind {
            Noteable::MergeRequest => project
                .merge_requests
                .get_mut(&target.iid)
                .map(|found| &mut found.updated_at),
            Noteable::Issue => project
                .issues
                .get_mut(&target.iid)
                .map(|found| &mut found.updated_at),
        }
    }

    fn title_of(&self, target: Target) -> String {
        let Some(project) = self.projects.get(&target.project) else {
            return String::new();
        };
        match target.kind {
            Noteable::MergeRequest => project
                .merge_requests
                .get(&target.iid)
                .map(|found| found.title.clone()),
            Noteable::Issue => project
                .issues
                .get(&target.iid)
                .map(|found| found.title.clone()),
        }
        .unwrap_or_default()
    }

    /// `touch` with the throttle: bumps the parent only if it has been quiet for long enough.
    fn touch(&mut self, target: Target) {
        let now = self.now();
        let quiet = self.knobs.touch_throttle_seconds * SECOND;
        if let Some(updated_at) = self
            .updated_at_mut(target)
            .filter(|at| now.0 - at.0 > quiet)
        {
            *updated_at = now;
        }
    }

    /// Adds a row to the feed, and refreshes the project's activity, at most once an hour.
    pub(crate) fn record(&mut self, project: u64, event: Event) {
        let now = self.now();
        let id = self.next_event_id();
        if let Some(found) = self.projects.get_mut(&project) {
            if now.0 - found.last_activity_at.0 > 3600 * SECOND {
                found.last_activity_at = now;
            }
            found.events.push(Event { id, ..event });
        }
    }

    fn record_on(&mut self, target: Target, action: &str) {
        let (title, author, now) = (self.title_of(target), self.somebody(), self.now());
        let event = Event {
            id: 0,
            action: action.to_owned(),
            target_type: Some(target.kind.as_str().to_owned()),
            target_id: None,
            target_iid: Some(target.iid),
            target_title: Some(title),
            author: Some(author),
            created_at: now,
            push: None,
        };
        self.record(target.project, event);
    }

    // ---- merge requests -----------------------------------------------------------------------------------------

    /// Opens a merge request and returns its iid in `Mutation::id`.
    ///
    /// # Errors
    /// If the project does not exist.
    pub fn new_merge_request(
        &mut self,
        project: u64,
        title: &str,
        description: Option<&str>,
    ) -> Done {
        let (now, author) = (self.now(), self.somebody());
        let id = self.next_id();
        let found = self.project_mut(project)?;
        found.last_iid.merge_request += 1;
        let iid = found.last_iid.merge_request;
        let sha = found.repository.default_head().cloned();
        let merge_request = MergeRequest {
            id,
            iid,
            title: title.to_owned(),
            description: description.map(str::to_owned),
            state: MergeState::Opened,
            created_at: now,
            updated_at: now,
            merged: None,
            closed: None,
            source_branch: format!("topic-{iid}"),
            target_branch: found.repository.default_branch.clone(),
            source_project: Some(project),
            author: Some(author),
            assignees: Vec::new(),
            reviewers: Vec::new(),
            labels: Default::default(),
            milestone: None,
            sha,
            merge_commit: None,
            upvotes: 0,
            threads: Threads::default(),
        };
        found.merge_requests.insert(iid, merge_request);
        let target = Target::merge_request(project, iid);
        self.record_on(target, "opened");
        self.announce_change(target, "open", None);
        Ok(Mutation::new("new_merge_request", project, iid, title))
    }

    /// Changes title and description; `None` leaves a field alone.
    ///
    /// # Errors
    /// If there is no such merge request.
    pub fn edit_merge_request(
        &mut self,
        project: u64,
        iid: u64,
        title: Option<&str>,
        description: Option<&str>,
    ) -> Done {
        let now = self.now();
        let target = Target::merge_request(project, iid);
        let before = self.snapshot(target);
        let found = self.merge_request_mut(project, iid)?;
        if let Some(title) = title {
            title.clone_into(&mut found.title);
        }
        if let Some(description) = description {
            found.description = Some(description.to_owned());
        }
        found.updated_at = now;
        let title = found.title.clone();
        self.announce_change(target, "update", before.as_ref());
        Ok(Mutation::new("edit_merge_request", project, iid, title))
    }

    /// Merges, closes or reopens. Merging adds a merge commit to the target branch.
    ///
    /// # Errors
    /// If there is no such merge request.
    pub fn set_merge_request_state(&mut self, project: u64, iid: u64, state: MergeState) -> Done {
        let (now, who) = (self.now(), self.somebody());
        let target = Target::merge_request(project, iid);
        let before = self.snapshot(target);
        let title = self.merge_request_mut(project, iid)?.title.clone();
        let merge_commit = if state == MergeState::Merged {
            self.push_merge(
                project,
                &format!("Merge branch 'topic-{iid}' into 'main'\n\n{title}\n"),
                3600,
            )
            .ok()
        } else {
            None
        };
        let found = self.merge_request_mut(project, iid)?;
        found.state = state;
        found.updated_at = now;
        found.merged = (state == MergeState::Merged).then_some((now, Some(who)));
        found.closed = (state == MergeState::Closed).then_some((now, Some(who)));
        found.merge_commit = merge_commit.map(|made| made.id);
        let action = match state {
            MergeState::Merged => "accepted",
            MergeState::Closed => "closed",
            MergeState::Opened | MergeState::Locked => "reopened",
        };
        self.record_on(target, action);
        let action = match state {
            MergeState::Merged => "merge",
            MergeState::Closed => "close",
            MergeState::Opened => "reopen",
            MergeState::Locked => "update",
        };
        self.announce_change(target, action, before.as_ref());
        Ok(Mutation::new(
            "set_merge_request_state",
            project,
            iid,
            state.as_str(),
        ))
    }

    /// Deletes a merge request: 404 from now on, a gap in the iids, and no trace anywhere else.
    ///
    /// # Errors
    /// If there is no such merge request.
    pub fn delete_merge_request(&mut self, project: u64, iid: u64) -> Done {
        match self.project_mut(project)?.merge_requests.remove(&iid) {
            Some(gone) => Ok(Mutation::new(
                "delete_merge_request",
                project,
                iid,
                gone.title,
            )),
            None => refused(format!("no merge request {project}!{iid}")),
        }
    }

    // ---- issues -------------------------------------------------------------------------------------------------

    /// Opens an issue and returns its iid in `Mutation::id`.
    ///
    /// # Errors
    /// If the project does not exist.
    pub fn new_issue(
        &mut self,
        project: u64,
        title: &str,
        description: Option<&str>,
        confidential: bool,
    ) -> Done {
        let (now, author) = (self.now(), self.somebody());
        let id = self.next_id();
        let found = self.project_mut(project)?;
        found.last_iid.issue += 1;
        let iid = found.last_iid.issue;
        let issue = Issue {
            id,
            iid,
            title: title.to_owned(),
            description: description.map(str::to_owned),
            open: true,
            created_at: now,
            updated_at: now,
            closed: None,
            author: Some(author),
            assignees: Vec::new(),
            labels: Default::default(),
            milestone: None,
            confidential,
            issue_type: "issue".to_owned(),
            due_date: None,
            moved_to: None,
            upvotes: 0,
            threads: Threads::default(),
        };
        found.issues.insert(iid, issue);
        let target = Target::issue(project, iid);
        self.record_on(target, "opened");
        self.announce_change(target, "open", None);
        Ok(Mutation::new("new_issue", project, iid, title))
    }

    /// Changes title and description; `None` leaves a field alone.
    ///
    /// # Errors
    /// If there is no such issue.
    pub fn edit_issue(
        &mut self,
        project: u64,
        iid: u64,
        title: Option<&str>,
        description: Option<&str>,
    ) -> Done {
        let now = self.now();
        let target = Target::issue(project, iid);
        let before = self.snapshot(target);
        let found = self.issue_mut(project, iid)?;
        if let Some(title) = title {
            title.clone_into(&mut found.title);
        }
        if let Some(description) = description {
            found.description = Some(description.to_owned());
        }
        found.updated_at = now;
        let title = found.title.clone();
        self.announce_change(target, "update", before.as_ref());
        Ok(Mutation::new("edit_issue", project, iid, title))
    }

    /// Closes or reopens an issue.
    ///
    /// # Errors
    /// If there is no such issue.
    pub fn set_issue_open(&mut self, project: u64, iid: u64, open: bool) -> Done {
        let (now, who) = (self.now(), self.somebody());
        let target = Target::issue(project, iid);
        let before = self.snapshot(target);
        let found = self.issue_mut(project, iid)?;
        found.open = open;
        found.closed = (!open).then_some((now, Some(who)));
        found.updated_at = now;
        let action = if open { "reopened" } else { "closed" };
        self.record_on(target, action);
        let event = if open { "reopen" } else { "close" };
        self.announce_change(target, event, before.as_ref());
        Ok(Mutation::new("set_issue_open", project, iid, action))
    }

    /// Makes an issue confidential, or public again.
    ///
    /// # Errors
    /// If there is no such issue.
    pub fn set_confidential(&mut self, project: u64, iid: u64, confidential: bool) -> Done {
        let now = self.now();
        let target = Target::issue(project, iid);
        let before = self.snapshot(target);
        let found = self.issue_mut(project, iid)?;
        found.confidential = confidential;
        found.updated_at = now;
        self.announce_change(target, "update", before.as_ref());
        Ok(Mutation::new(
            "set_confidential",
            project,
            iid,
            confidential.to_string(),
        ))
    }

    /// Deletes an issue.
    ///
    /// # Errors
    /// If there is no such issue.
    pub fn delete_issue(&mut self, project: u64, iid: u64) -> Done {
        match self.project_mut(project)?.issues.remove(&iid) {
            Some(gone) => Ok(Mutation::new("delete_issue", project, iid, gone.title)),
            None => refused(format!("no issue {project}#{iid}")),
        }
    }

    /// Moves an issue: a new one with a new id in the other project, notes copied with their old times and new ids, and the
    /// old one closed with `moved_to_id`.
    ///
    /// # Errors
    /// If there is no such issue, or no such project.
    pub fn move_issue(&mut self, project: u64, iid: u64, to: u64) -> Done {
        let (now, who) = (self.now(), self.somebody());
        self.project_mut(to)?;
        let before = self.snapshot(Target::issue(project, iid));
        let mut copy = self.issue_mut(project, iid)?.clone();
        copy.id = self.next_id();
        for discussion in &mut copy.threads.discussions {
            discussion.id = self.next_object();
            for note in &mut discussion.notes {
                note.id = self.next_note_id();
            }
        }
        let target = self.project_mut(to)?;
        target.last_iid.issue += 1;
        copy.iid = target.last_iid.issue;
        copy.milestone = None;
        let (new_id, new_iid) = (copy.id, copy.iid);
        target.issues.insert(copy.iid, copy);
        self.announce_change(Target::issue(to, new_iid), "open", None);
        self.add_system_note(
            Target::issue(to, new_iid),
            "moved from another project",
            true,
        )?;
        let old = self.issue_mut(project, iid)?;
        old.open = false;
        old.closed = Some((now, Some(who)));
        old.moved_to = Some(new_id);
        old.updated_at = now;
        self.announce_change(Target::issue(project, iid), "close", before.as_ref());
        Ok(Mutation::new(
            "move_issue",
            project,
            iid,
            format!("{to}#{new_iid}"),
        ))
    }

    // ---- both ---------------------------------------------------------------------------------------------------

    /// Adds a label.
    ///
    /// # Errors
    /// If there is no such merge request or issue.
    pub fn add_label(&mut self, target: Target, label: &str) -> Done {
        let before = self.snapshot(target);
        match target.kind {
            Noteable::MergeRequest => {
                self.merge_request_mut(target.project, target.iid)?
                    .labels
                    .insert(label.to_owned());
            }
            Noteable::Issue => {
                self.issue_mut(target.project, target.iid)?
                    .labels
                    .insert(label.to_owned());
            }
        }
        self.bump(target)?;
        self.announce_change(target, "update", before.as_ref());
        Ok(Mutation::new(
            "add_label",
            target.project,
            target.iid,
            label,
        ))
    }

    /// Sets `updated_at` to now and changes nothing else; no webhook tells of it.
    ///
    /// # Errors
    /// If there is no such merge request or issue.
    pub fn bump(&mut self, target: Target) -> Done {
        let now = self.now();
        match self.updated_at_mut(target) {
            Some(updated_at) => *updated_at = now,
            None => {
                return refused(format!(
                    "no {} {}/{}",
                    target.kind.as_str(),
                    target.project,
                    target.iid
                ));
            }
        }
        Ok(Mutation::new(
            "bump",
            target.project,
            target.iid,
            target.kind.as_str(),
        ))
    }

    /// A bulk edit: up to `count` merge requests of a project get one label and one and the same timestamp.
    ///
    /// # Errors
    /// If the project does not exist.
    pub fn bulk_edit(&mut self, project: u64, count: usize, label: &str) -> Done {
        let now = self.now();
        let requests = &self.project_mut(project)?.merge_requests;
        let some: Vec<u64> = requests.keys().copied().take(count).collect();
        for &iid in &some {
            let target = Target::merge_request(project, iid);
            let before = self.snapshot(target);
            let found = self.merge_request_mut(project, iid)?;
            found.labels.insert(label.to_owned());
            found.updated_at = now;
            self.announce_change(target, "update", before.as_ref());
        }
        Ok(Mutation::new("bulk_edit", project, some.len(), label))
    }

    // ---- comments -----------------------------------------------------------------------------------------------

    fn note(&mut self, body: &str, kind: NoteKind, system: bool) -> Note {
        let (id, now, author) = (self.next_note_id(), self.now(), self.somebody());
        Note {
            id,
            kind,
            body: body.to_owned(),
            author: Some(author),
            created_at: now,
            updated_at: now,
            system,
            internal: false,
            hidden: false,
            resolved: None,
            position: None,
        }
    }

    fn append(&mut self, target: Target, note: Note, individual: bool) -> Result<String, Refused> {
        let id = self.next_object();
        let discussion = Discussion {
            id: id.clone(),
            individual,
            notes: vec![note],
        };
        match self.threads_mut(target) {
            Some(threads) => threads.discussions.push(discussion),
            None => {
                return refused(format!(
                    "no {} {}/{}",
                    target.kind.as_str(),
                    target.project,
                    target.iid
                ));
            }
        }
        Ok(id)
    }

    fn add(&mut self, name: &'static str, target: Target, note: Note, individual: bool) -> Done {
        let (id, title) = (note.id, self.title_of(target));
        let event = (!note.system).then(|| comment(target.iid, &title, &note));
        let discussion = self.append(target, note, individual)?;
        if let Some(event) = event {
            self.record(target.project, event);
        }
        self.touch(target);
        self.announce_note(target, id, "create");
        Ok(Mutation::new(
            name,
            target.project,
            id,
            format!("discussion {discussion}"),
        ))
    }

    /// Writes a stand-alone comment; its id is `Mutation::id`.
    ///
    /// # Errors
    /// If there is no such merge request or issue.
    pub fn add_note(&mut self, target: Target, body: &str) -> Done {
        let note = self.note(body, NoteKind::Plain, false);
        self.add("add_note", target, note, true)
    }

    /// Writes an internal comment.
    ///
    /// # Errors
    /// If there is no such merge request or issue.
    pub fn add_internal_note(&mut self, target: Target, body: &str) -> Done {
        let note = Note {
            internal: true,
            ..self.note(body, NoteKind::Plain, false)
        };
        self.add("add_internal_note", target, note, true)
    }

    /// Starts a thread that can be resolved and replied to.
    ///
    /// # Errors
    /// If there is no such merge request or issue.
    pub fn start_thread(&mut self, target: Target, body: &str) -> Done {
        let note = self.note(body, NoteKind::Discussion, false);
        self.add("start_thread", target, note, false)
    }

    /// Writes a system note. Cross references and the like do not touch the parent.
    ///
    /// # Errors
    /// If there is no such merge request or issue.
    pub fn add_system_note(&mut self, target: Target, body: &str, touches: bool) -> Done {
        let note = self.note(body, NoteKind::Plain, true);
        if touches {
            return self.add("add_system_note", target, note, true);
        }
        let id = note.id;
        self.append(target, note, true)?;
        Ok(Mutation::new("add_system_note", target.project, id, body))
    }

    /// Replies in the discussion that holds the note `to`. Replying to a stand-alone comment turns it into a thread.
    ///
    /// # Errors
    /// If there is no such note.
    pub fn reply(&mut self, target: Target, to: u64, body: &str) -> Done {
        let fresh = self.note(body, NoteKind::Discussion, false);
        let Some(threads) = self.threads_mut(target) else {
            return refused("no such parent");
        };
        let holds = |d: &&mut Discussion| d.notes.iter().any(|note| note.id == to);
        let Some(discussion) = threads.discussions.iter_mut().find(holds) else {
            return refused(format!("no note {to}"));
        };
        let first = &mut discussion.notes[0];
        if discussion.individual {
            discussion.individual = false;
            first.kind = NoteKind::Discussion;
        }
        let note = Note {
            kind: first.kind,
            position: first.position.clone(),
            internal: first.internal,
            ..fresh
        };
        discussion.notes.push(note.clone());
        let title = self.title_of(target);
        self.record(target.project, comment(target.iid, &title, &note));
        self.touch(target);
        self.announce_note(target, note.id, "create");
        Ok(Mutation::new(
            "reply",
            target.project,
            note.id,
            format!("to {to}"),
        ))
    }

    /// Edits the text of a comment.
    ///
    /// # Errors
    /// If there is no such note.
    pub fn edit_note(&mut self, target: Target, note: u64, body: &str) -> Done {
        let now = self.now();
        match self
            .threads_mut(target)
            .and_then(|threads| threads.note_mut(note))
        {
            Some(found) => {
                body.clone_into(&mut found.body);
                found.updated_at = now;
            }
            None => return refused(format!("no note {note}")),
        }
        self.touch(target);
        self.announce_note(target, note, "update");
        Ok(Mutation::new(
            "edit_note",
            target.project,
            note,
            format!("of {} {}", target.kind.as_str(), target.iid),
        ))
    }

    /// Deletes a comment: nothing is touched, no webhook tells of it, and its row in the feed goes, too.
    ///
    /// # Errors
    /// If there is no such note.
    pub fn delete_note(&mut self, target: Target, note: u64) -> Done {
        let Some(threads) = self.threads_mut(target) else {
            return refused("no such parent");
        };
        let before = threads.notes().count();
        for discussion in &mut threads.discussions {
            discussion.notes.retain(|found| found.id != note);
        }
        threads
            .discussions
            .retain(|discussion| !discussion.notes.is_empty());
        if threads.notes().count() == before {
            return refused(format!("no note {note}"));
        }
        let is_row =
            |event: &Event| event.action == "commented on" && event.target_id == Some(note);
        self.project_mut(target.project)?
            .events
            .retain(|event| !is_row(event));
        Ok(Mutation::new(
            "delete_note",
            target.project,
            note,
            format!("of {} {}", target.kind.as_str(), target.iid),
        ))
    }

    /// Resolves or reopens the whole thread that holds `note`: its notes change, its parent does not, unless this was the last
    /// open thread of a merge request, which leaves a system note.
    ///
    /// # Errors
    /// If there is no such note, or it is not in a thread.
    pub fn resolve_thread(&mut self, target: Target, note: u64, resolved: bool) -> Done {
        let (now, who) = (self.now(), self.somebody());
        let Some(threads) = self.threads_mut(target) else {
            return refused("no such parent");
        };
        let holds = |d: &&mut Discussion| d.notes.iter().any(|found| found.id == note);
        let Some(discussion) = threads.discussions.iter_mut().find(holds) else {
            return refused(format!("no note {note}"));
        };
        if discussion.individual {
            return refused(format!("note {note} is not in a thread"));
        }
        for found in &mut discussion.notes {
            found.resolved = resolved.then_some((who, now));
            found.updated_at = now;
        }
        let all_resolved = threads
            .discussions
            .iter()
            .all(|d| d.individual || d.notes.iter().all(|n| n.resolved.is_some()));
        if resolved && all_resolved && target.kind == Noteable::MergeRequest {
            self.add_system_note(target, "resolved all threads", true)?;
        }
        Ok(Mutation::new(
            "resolve_thread",
            target.project,
            note,
            resolved.to_string(),
        ))
    }
}
