//! The records of a GitLab instance, as its database would hold them.
//!
//! Nothing here knows about HTTP or JSON: rendering and visibility are decided per request, because the same row looks
//! different to a guest and to a maintainer. All fields are public so that a test can build any state, even one that the
//! mutations would refuse.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::clock::Micros;

/// A user account.
#[derive(Clone, Debug)]
pub struct User {
    /// Instance-wide id.
    pub id: u64,
    /// Login name.
    pub username: String,
    /// Display name.
    pub name: String,
    /// `active`, `blocked` or `deactivated`.
    pub state: String,
    /// Whether this account belongs to a project or group token.
    pub bot: bool,
}

/// Access levels, with GitLab's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// 10: sees issues, not the code of private projects, no internal notes.
    Guest = 10,
    /// 15: sees confidential issues and internal notes.
    Planner = 15,
    /// 20: sees everything there is to read.
    Reporter = 20,
    /// 30.
    Developer = 30,
    /// 40.
    Maintainer = 40,
    /// 50.
    Owner = 50,
}

/// Who may see a group or project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Members only.
    Private,
    /// Every signed-in user.
    Internal,
    /// Everybody.
    Public,
}

impl Visibility {
    /// The API's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Internal => "internal",
            Self::Public => "public",
        }
    }
}

/// A group or subgroup.
#[derive(Clone, Debug)]
pub struct Group {
    /// Instance-wide id.
    pub id: u64,
    /// Last path segment.
    pub path: String,
    /// Display name.
    pub name: String,
    /// The group that holds this one.
    pub parent: Option<u64>,
    /// Who may see it.
    pub visibility: Visibility,
    /// Creation time.
    pub created_at: Micros,
    /// Direct members.
    pub members: BTreeMap<u64, Role>,
}

/// A project's feature that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Off: lists answer `[]`, items 404.
    Issues,
    /// Off: 403.
    MergeRequests,
    /// CI/CD. Off: 403.
    Builds,
    /// Off: 404 "Repository Not Found".
    Repository,
    /// Off: 403.
    Releases,
}

/// A milestone of a project.
#[derive(Clone, Debug)]
pub struct Milestone {
    /// Instance-wide id.
    pub id: u64,
    /// Number within the project.
    pub iid: u64,
    /// Title.
    pub title: String,
    /// Creation time.
    pub created_at: Micros,
}

/// A project with everything in it.
#[derive(Clone, Debug)]
pub struct Project {
    /// Instance-wide id; never changes.
    pub id: u64,
    /// Last path segment.
    pub path: String,
    /// Display name.
    pub name: String,
    /// Description.
    pub description: Option<String>,
    /// The group that holds it.
    pub group: u64,
    /// Groups that it is shared with.
    pub shared_with: BTreeSet<u64>,
    /// Who may see it.
    pub visibility: Visibility,
    /// Archived by its owner.
    pub archived: bool,
    /// Set when the project waits for its deletion.
    pub marked_for_deletion_at: Option<Micros>,
    /// Features switched off.
    pub disabled: BTreeSet<Feature>,
    /// Direct members.
    pub members: BTreeMap<u64, Role>,
    /// Creation time.
    pub created_at: Micros,
    /// Bumped by settings and releases.
    pub updated_at: Micros,
    /// Refreshed at most once an hour.
    pub last_activity_at: Micros,
    /// The user who created it.
    pub creator: u64,
    /// Merge requests by iid.
    pub merge_requests: BTreeMap<u64, MergeRequest>,
    /// Issues by iid.
    pub issues: BTreeMap<u64, Issue>,
    /// Pipelines by id.
    pub pipelines: BTreeMap<u64, Pipeline>,
    /// Releases by tag.
    pub releases: BTreeMap<String, Release>,
    /// Milestones by id.
    pub milestones: BTreeMap<u64, Milestone>,
    /// The Git repository.
    pub repository: Repository,
    /// The activity feed, oldest first.
    pub events: Vec<Event>,
    /// The highest iids ever given: merge requests, issues, pipelines. A deleted record leaves a gap.
    pub last_iid: LastIid,
}

/// The highest iids that a project has given out.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastIid {
    /// Merge requests.
    pub merge_request: u64,
    /// Issues.
    pub issue: u64,
    /// Pipelines.
    pub pipeline: u64,
}

/// The threads of a merge request or an issue.
#[derive(Clone, Debug, Default)]
pub struct Threads {
    /// In order of creation.
    pub discussions: Vec<Discussion>,
}

impl Threads {
    /// Every note, in no promised order.
    pub fn notes(&self) -> impl Iterator<Item = &Note> {
        self.discussions
            .iter()
            .flat_map(|discussion| discussion.notes.iter())
    }

    /// How many notes of people there are: what `user_notes_count` shows.
    #[must_use]
    pub fn user_notes(&self) -> usize {
        self.notes().filter(|note| !note.system).count()
    }

    /// Finds a note by id.
    pub fn note_mut(&mut self, id: u64) -> Option<&mut Note> {
        self.discussions
            .iter_mut()
            .flat_map(|d| d.notes.iter_mut())
            .find(|note| note.id == id)
    }
}

/// A thread, or a single comment.
#[derive(Clone, Debug)]
pub struct Discussion {
    /// Forty hexadecimal digits.
    pub id: String,
    /// A stand-alone comment or a system note.
    pub individual: bool,
    /// Oldest first.
    pub notes: Vec<Note>,
}

/// The kind of a note, as its `type` field shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// `null`: a plain comment or a system note.
    Plain,
    /// `DiscussionNote`: part of a thread.
    Discussion,
    /// `DiffNote`: part of a thread on a line of code.
    Diff,
}

/// A comment or a system note.
#[derive(Clone, Debug)]
pub struct Note {
    /// Instance-wide id, above 2^31 as on large instances.
    pub id: u64,
    /// Kind.
    pub kind: NoteKind,
    /// Markdown.
    pub body: String,
    /// `None` for the rare note whose author is gone without a ghost.
    pub author: Option<u64>,
    /// Creation time.
    pub created_at: Micros,
    /// Last edit or resolution.
    pub updated_at: Micros,
    /// Written by GitLab itself.
    pub system: bool,
    /// Readable by members with the Planner role and above only.
    pub internal: bool,
    /// A cross reference to something that no token may see: removed after paging.
    pub hidden: bool,
    /// Who resolved it, and when.
    pub resolved: Option<(u64, Micros)>,
    /// The line that a diff note talks about.
    pub position: Option<Position>,
}

/// Where a diff note sits.
#[derive(Clone, Debug)]
pub struct Position {
    /// File path.
    pub path: String,
    /// Line in the new version.
    pub line: u64,
    /// Merge base.
    pub base_sha: String,
    /// Head of the merge request when the note was written.
    pub head_sha: String,
}

/// State of a merge request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MergeState {
    /// Open.
    Opened,
    /// Closed without merging.
    Closed,
    /// Merged.
    Merged,
    /// Being merged.
    Locked,
}

impl MergeState {
    /// The API's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed => "closed",
            Self::Merged => "merged",
            Self::Locked => "locked",
        }
    }
}

/// A merge request.
#[derive(Clone, Debug)]
pub struct MergeRequest {
    /// Instance-wide id.
    pub id: u64,
    /// Number within the project.
    pub iid: u64,
    /// Title.
    pub title: String,
    /// Markdown; may be missing.
    pub description: Option<String>,
    /// State.
    pub state: MergeState,
    /// Creation time.
    pub created_at: Micros,
    /// Bumped by the rules of GitLab's throttled touch.
    pub updated_at: Micros,
    /// When and by whom it was merged.
    pub merged: Option<(Micros, Option<u64>)>,
    /// When and by whom it was closed.
    pub closed: Option<(Micros, Option<u64>)>,
    /// Source branch.
    pub source_branch: String,
    /// Target branch.
    pub target_branch: String,
    /// `None` if the fork is gone.
    pub source_project: Option<u64>,
    /// Author; `None` in the rare case of a user deleted without a ghost.
    pub author: Option<u64>,
    /// Assignees.
    pub assignees: Vec<u64>,
    /// Reviewers.
    pub reviewers: Vec<u64>,
    /// Label titles.
    pub labels: BTreeSet<String>,
    /// Milestone id.
    pub milestone: Option<u64>,
    /// Head commit; `None` while the diff is being prepared.
    pub sha: Option<String>,
    /// The merge commit.
    pub merge_commit: Option<String>,
    /// Shows in `user_notes_count`, `upvotes`.
    pub upvotes: u64,
    /// Threads.
    pub threads: Threads,
}

/// An issue.
#[derive(Clone, Debug)]
pub struct Issue {
    /// Instance-wide id.
    pub id: u64,
    /// Number within the project.
    pub iid: u64,
    /// Title.
    pub title: String,
    /// Markdown; may be missing.
    pub description: Option<String>,
    /// Whether it is open.
    pub open: bool,
    /// Creation time.
    pub created_at: Micros,
    /// Last update.
    pub updated_at: Micros,
    /// When and by whom it was closed.
    pub closed: Option<(Micros, Option<u64>)>,
    /// Author.
    pub author: Option<u64>,
    /// Assignees.
    pub assignees: Vec<u64>,
    /// Label titles.
    pub labels: BTreeSet<String>,
    /// Milestone id.
    pub milestone: Option<u64>,
    /// Readable by Planner and above, by its author and its assignees only.
    pub confidential: bool,
    /// `issue`, `incident`, `test_case` or `task`.
    pub issue_type: String,
    /// `YYYY-MM-DD`.
    pub due_date: Option<String>,
    /// The id of the issue that this one was moved to.
    pub moved_to: Option<u64>,
    /// Upvotes.
    pub upvotes: u64,
    /// Threads.
    pub threads: Threads,
}

/// A commit.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Forty hexadecimal digits.
    pub sha: String,
    /// First parent first.
    pub parents: Vec<String>,
    /// Title, blank line, body.
    pub message: String,
    /// Author's name.
    pub author_name: String,
    /// Author's address.
    pub author_email: String,
    /// When it was written.
    pub authored_at: Micros,
    /// Committer's name.
    pub committer_name: String,
    /// When it was committed: what `since` and `until` compare.
    pub committed_at: Micros,
    /// Zone of both dates, in minutes east of UTC.
    pub offset_minutes: i32,
}

impl Commit {
    /// The first line of the message.
    #[must_use]
    pub fn title(&self) -> &str {
        self.message.lines().next().unwrap_or_default()
    }
}

/// A Git repository.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    /// Whether it was ever created on disk; `false` answers 404.
    pub exists: bool,
    /// Name of the default branch, also when the repository is empty.
    pub default_branch: String,
    /// Every commit object, reachable or not.
    pub commits: HashMap<String, Commit>,
    /// Heads of the branches.
    pub branches: BTreeMap<String, String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Merge-request heads and keep-around references: only `all=true` shows them.
    pub hidden: Vec<String>,
}

/// A pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Instance-wide id.
    pub id: u64,
    /// Number within the project.
    pub iid: u64,
    /// Commit.
    pub sha: String,
    /// Branch, tag or `refs/merge-requests/<iid>/head`.
    pub reference: String,
    /// One of GitLab's thirteen statuses.
    pub status: String,
    /// `push`, `schedule`, `merge_request_event`, `parent_pipeline` …
    pub source: String,
    /// Name given in `workflow:name`.
    pub name: Option<String>,
    /// Creation time.
    pub created_at: Micros,
    /// Last change; old rows may have none.
    pub updated_at: Option<Micros>,
    /// When its first job started.
    pub started_at: Option<Micros>,
    /// When it finished; changes when a job is retried.
    pub finished_at: Option<Micros>,
    /// Seconds of work.
    pub duration: Option<u64>,
    /// A decimal as text, such as `98.29`.
    pub coverage: Option<String>,
    /// Who started it.
    pub user: Option<u64>,
}

impl Pipeline {
    /// Whether the status is final: success, failed, canceled or skipped.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(
            self.status.as_str(),
            "success" | "failed" | "canceled" | "skipped"
        )
    }
}

/// A release.
#[derive(Clone, Debug)]
pub struct Release {
    /// Its key within the project.
    pub tag: String,
    /// Title; GitLab shows the tag if it is missing.
    pub name: String,
    /// Markdown.
    pub description: Option<String>,
    /// Creation time.
    pub created_at: Micros,
    /// Not exposed in JSON, but `updated_after` filters by it.
    pub updated_at: Micros,
    /// May lie in the past or in the future.
    pub released_at: Micros,
    /// Author.
    pub author: Option<u64>,
    /// Tagged commit.
    pub sha: Option<String>,
    /// Titles and addresses of asset links.
    pub links: Vec<(String, String)>,
}

/// A row of the activity feed.
#[derive(Clone, Debug)]
pub struct Event {
    /// Instance-wide id, rising.
    pub id: u64,
    /// `opened`, `closed`, `accepted`, `commented on`, `pushed to`, `pushed new` …
    pub action: String,
    /// `MergeRequest`, `Issue`, `Note`, `DiffNote`, `DiscussionNote`; nothing for pushes.
    pub target_type: Option<String>,
    /// Id of the target.
    pub target_id: Option<u64>,
    /// Iid of the target, or of the note's parent.
    pub target_iid: Option<u64>,
    /// Title of the target.
    pub target_title: Option<String>,
    /// Who did it.
    pub author: Option<u64>,
    /// When.
    pub created_at: Micros,
    /// Branch, old head, new head, number of commits.
    pub push: Option<(String, Option<String>, Option<String>, usize)>,
}
