//! The instance as a whole: lookups, ids, knobs.
//!
//! Everything lives in plain maps behind one mutex. That is slower than it could be and exactly as consistent as a test needs:
//! a request sees one state, and a mutation happens between two requests, never inside one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::access::{Token, Viewer};
use super::clock::{Clock, Micros};
use super::model::{Group, Project, Threads, User};
use super::webhooks::Webhooks;

/// Behaviours of GitLab that a test may want to switch off or sharpen.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// A note touches its parent only if the parent is older than this many seconds. GitLab: 60.
    pub touch_throttle_seconds: i64,
    /// Entries of a project's merge-request list are cached for this long. GitLab: 8 h. Zero switches the cache off.
    pub merge_request_cache_seconds: i64,
    /// `all=true` ignores `page`, as since autumn 2025.
    pub all_commits_page_bug: bool,
    /// Internal notes are invisible to everybody, whatever the role.
    pub hide_internal_notes: bool,
    /// Every nth discussion and note is removed after paging, to force short and empty pages; 0 is never.
    pub hide_every_nth_note: usize,
    /// The version that `/metadata` shows; keyset paging of issues needs 18.3.
    pub version: String,
    /// Plan limit of offset paging for anonymous project lists. GitLab: 50,000.
    pub offset_limit: usize,
    /// Above this many records the totals are dropped from the headers. GitLab: 10,000.
    pub total_limit: usize,
    /// A range whose old side is gone answers an empty list; otherwise 404.
    pub missing_range_is_empty: bool,
    /// Equal `updated_at` of pipelines and equal `released_at` come in another order in every response.
    pub shuffle_ties: bool,
    /// Group hooks need Premium: without it they cannot be managed, and those that are there are not called.
    pub premium: bool,
    /// Project and group hooks that fail are disabled. GitLab.com: on; self-managed: off.
    pub auto_disabling: bool,
    /// Project and group hooks may call this machine and its network. GitLab: off until the admin allows it; here on, because
    /// that is where receivers are.
    pub local_hook_targets: bool,
    /// No hook is called at all.
    pub silent_mode: bool,
    /// How long a receiver may take. GitLab: 10 s.
    pub hook_timeout: Duration,
    /// Zone of the times in webhooks, in minutes east of UTC.
    pub hook_zone_minutes: i32,
    /// How far `webhook-timestamp` is ahead of the machine's clock.
    pub hook_clock_skew_seconds: i64,
    /// Calls of project and group hooks in one minute and top group; the rest is lost. GitLab.com: by plan; self-managed: none.
    pub hook_calls_per_minute: Option<u64>,
    /// If one push creates, updates or removes more branches (or tags) than this, these are in no push hook. GitLab: 3.
    pub push_event_hooks_limit: usize,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            touch_throttle_seconds: 60,
            merge_request_cache_seconds: 8 * 3600,
            all_commits_page_bug: true,
            hide_internal_notes: false,
            hide_every_nth_note: 0,
            version: "18.9.0-ee".to_owned(),
            offset_limit: 50_000,
            total_limit: 10_000,
            missing_range_is_empty: true,
            shuffle_ties: true,
            premium: true,
            auto_disabling: false,
            local_hook_targets: true,
            silent_mode: false,
            hook_timeout: Duration::from_secs(10),
            hook_zone_minutes: 0,
            hook_clock_skew_seconds: 0,
            hook_calls_per_minute: None,
            push_event_hooks_limit: 3,
        }
    }
}

/// An entry of the merge-request list cache.
#[derive(Clone, Debug)]
pub(crate) struct CachedEntry {
    pub(crate) fingerprint: String,
    pub(crate) stored_at: Micros,
    pub(crate) body: Value,
}

/// The next ids to give.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    pub(crate) record: u64,
    pub(crate) note: u64,
    pub(crate) event: u64,
    pub(crate) object: u64,
}

/// A whole GitLab instance.
#[derive(Clone, Debug)]
pub struct World {
    /// The server's time.
    pub clock: Clock,
    /// Switchable behaviours.
    pub knobs: Knobs,
    /// Origin and relative root of `web_url`s, such as `https://gitlab.example.com`.
    pub external_url: String,
    /// Users by id.
    pub users: BTreeMap<u64, User>,
    /// Groups by id.
    pub groups: BTreeMap<u64, Group>,
    /// Projects by id.
    pub projects: BTreeMap<u64, Project>,
    /// Tokens.
    pub tokens: Vec<Token>,
    /// Old full paths of projects that moved, and where they went.
    pub redirects: BTreeMap<String, u64>,
    /// Users who administer the instance.
    pub admins: BTreeSet<u64>,
    pub(crate) webhooks: Webhooks,
    pub(crate) ids: Ids,
    pub(crate) seed: u64,
    pub(crate) merge_request_cache: HashMap<(Viewer, u64), CachedEntry>,
    pub(crate) requests: u64,
}

impl World {
    /// An instance with nothing in it but the ghost user.
    #[must_use]
    pub fn empty(now: Micros) -> Self {
        let ghost = User {
            id: 1,
            username: "ghost".to_owned(),
            name: "Ghost User".to_owned(),
            state: "active".to_owned(),
            bot: false,
        };
        Self {
            clock: Clock::starting_at(now),
            knobs: Knobs::default(),
            external_url: "https://gitlab.example.com".to_owned(),
            users: BTreeMap::from([(1, ghost)]),
            groups: BTreeMap::new(),
            projects: BTreeMap::new(),
            tokens: Vec::new(),
            redirects: BTreeMap::new(),
            admins: BTreeSet::new(),
            webhooks: Webhooks::default(),
            ids: Ids {
                record: 1000,
                note: 2_200_000_000,
                event: 5_000_000,
                object: 0,
            },
            seed: 0,
            merge_request_cache: HashMap::new(),
            requests: 0,
        }
    }

    /// The current simulated time.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.ids.record += 1;
        self.ids.record
    }

    pub(crate) fn next_note_id(&mut self) -> u64 {
        self.ids.note += 1;
        self.ids.note
    }

    pub(crate) fn next_event_id(&mut self) -> u64 {
        self.ids.event += 1;
        self.ids.event
    }

    /// A fresh name of forty hexadecimal digits, for commits and discussions.
    pub(crate) fn next_object(&mut self) -> String {
        self.ids.object += 1;
        digest40(&format!("{}/{}", self.seed, self.ids.object))
    }

    /// The full path of a group.
    #[must_use]
    pub fn group_path(&self, group: u64) -> String {
        let mut parts: Vec<&str> = self
            .ancestors(group)
            .iter()
            .filter_map(|id| Some(self.groups.get(id)?.path.as_str()))
            .collect();
        parts.reverse();
        parts.join("/")
    }

    /// The full path of a project.
    #[must_use]
    pub fn project_path(&self, project: &Project) -> String {
        format!("{}/{}", self.group_path(project.group), project.path)
    }

    /// Finds a project by its current full path; paths are compared without case.
    #[must_use]
    pub fn project_by_path(&self, path: &str) -> Option<&Project> {
        self.projects
            .values()
            .find(|project| self.project_path(project).eq_ignore_ascii_case(path))
    }

    /// Finds a group by its full path.
    #[must_use]
    pub fn group_by_path(&self, path: &str) -> Option<&Group> {
        self.groups
            .values()
            .find(|group| self.group_path(group.id).eq_ignore_ascii_case(path))
    }

    /// The projects of a group: its own, those of its subgroups, and those shared with it, as asked.
    #[must_use]
    pub fn group_projects(&self, group: u64, subgroups: bool, shared: bool) -> Vec<&Project> {
        self.projects
            .values()
            .filter(|project| {
                let own = if subgroups {
                    self.ancestors(project.group).contains(&group)
                } else {
                    project.group == group
                };
                let lent = shared
                    && project.shared_with.iter().any(|&with| {
                        with == group || (subgroups && self.ancestors(with).contains(&group))
                    });
                own || lent
            })
            .collect()
    }

    /// Archived itself, or waiting for its deletion.
    #[must_use]
    pub fn is_archived(&self, project: &Project) -> bool {
        project.archived || project.marked_for_deletion_at.is_some()
    }

    /// The threads of a merge request or an issue.
    #[must_use]
    pub fn threads(&self, target: Target) -> Option<&Threads> {
        let project = self.projects.get(&target.project)?;
        match target.kind {
            Noteable::MergeRequest => project
                .merge_requests
                .get(&target.iid)
                .map(|found| &found.threads),
            Noteable::Issue => project.issues.get(&target.iid).map(|found| &found.threads),
        }
    }

    /// The threads of a merge request or an issue, to be changed directly.
    pub fn threads_mut(&mut self, target: Target) -> Option<&mut Threads> {
        let project = self.projects.get_mut(&target.project)?;
        match target.kind {
            Noteable::MergeRequest => project
                .merge_requests
                .get_mut(&target.iid)
                .map(|found| &mut found.threads),
            Noteable::Issue => project
                .issues
                .get_mut(&target.iid)
                .map(|found| &mut found.threads),
        }
    }
}

/// The two kinds of records that carry threads here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Noteable {
    /// A merge request.
    MergeRequest,
    /// An issue.
    Issue,
}

impl Noteable {
    /// The API's `noteable_type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MergeRequest => "MergeRequest",
            Self::Issue => "Issue",
        }
    }
}

/// Names one merge request or issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Kind.
    pub kind: Noteable,
    /// Project id.
    pub project: u64,
    /// Number within the project.
    pub iid: u64,
}

impl Target {
    /// A merge request.
    #[must_use]
    pub fn merge_request(project: u64, iid: u64) -> Self {
        Self {
            kind: Noteable::MergeRequest,
            project,
            iid,
        }
    }

    /// An issue.
    #[must_use]
    pub fn issue(project: u64, iid: u64) -> Self {
        Self {
            kind: Noteable::Issue,
            project,
            iid,
        }
    }
}

/// Forty hexadecimal digits that depend on nothing but the text.
pub(crate) fn digest40(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(40);
    for byte in &Sha256::digest(text.as_bytes())[..20] {
        let _ = write!(out, "{byte:02x}");
    }
    out
}
