//! From a change of the world to the hooks that want to know of it.
//!
//! What an event is about is kept as ids, not as a body: GitLab builds bodies later, in the background, so two quick edits may both
//! show the second one, and a record that is gone by then makes no delivery. Only what can never be looked up again, such as a
//! deleted release, is kept as a body.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{HookOwner, Job, Trigger, Webhook};
use crate::gitlab::clock::Micros;
use crate::gitlab::model::MergeState;
use crate::gitlab::world::{Noteable, Target, World};

/// One reference that a push moved, made or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefChange {
    /// `refs/heads/…` or `refs/tags/…`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Where it was; absent if it is new.
    #[serde(default)]
    pub before: Option<String>,
    /// Where it is; absent if it is gone.
    #[serde(default)]
    pub after: Option<String>,
}

/// An event, by what it is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Announcement {
    /// A branch or a tag was pushed.
    Push {
        /// Project id.
        project: u64,
        /// What moved.
        change: RefChange,
    },
    /// All that one push moved: system hooks only.
    RepositoryUpdate {
        /// Project id.
        project: u64,
        /// What moved.
        changes: Vec<RefChange>,
    },
    /// A merge request.
    MergeRequest {
        /// Project id.
        project: u64,
        /// Number within the project.
        iid: u64,
        /// `open`, `update`, `merge`, `close`, `reopen` …
        #[serde(default = "update")]
        action: String,
        /// The body's `changes`.
        #[serde(default = "nothing")]
        changes: Value,
        /// The head before a push to the source branch.
        #[serde(default)]
        oldrev: Option<String>,
    },
    /// An issue or a task.
    Issue {
        /// Project id.
        project: u64,
        /// Number within the project.
        iid: u64,
        /// `open`, `update`, `close`, `reopen`.
        #[serde(default = "update")]
        action: String,
        /// The body's `changes`.
        #[serde(default = "nothing")]
        changes: Value,
    },
    /// A comment.
    Note {
        /// Project id.
        project: u64,
        /// What it is on.
        on: Noteable,
        /// Number of what it is on.
        iid: u64,
        /// Its id.
        note: u64,
        /// `create` or `update`.
        #[serde(default = "update")]
        action: String,
    },
    /// A pipeline, in whatever status it is when the body is built.
    Pipeline {
        /// Project id.
        project: u64,
        /// Pipeline id.
        id: u64,
    },
    /// A release.
    Release {
        /// Project id.
        project: u64,
        /// Its tag.
        tag: String,
        /// `create`, `update`.
        #[serde(default = "update")]
        action: String,
    },
    /// A body that was made beforehand.
    Body {
        /// Which hooks get it.
        trigger: Trigger,
        /// Project id.
        #[serde(default)]
        project: Option<u64>,
        /// Group id.
        #[serde(default)]
        group: Option<u64>,
        /// The body.
        body: Value,
    },
}

fn update() -> String {
    "update".to_owned()
}

fn nothing() -> Value {
    json!({})
}

/// What `changes` is computed from.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    id: u64,
    author: Option<u64>,
    title: String,
    description: Option<String>,
    state: u8,
    labels: BTreeSet<String>,
    confidential: bool,
    created_at: Micros,
    updated_at: Micros,
    closed_at: Option<Micros>,
}

/// Whether a branch is one that a hook wants to know of.
fn wants_branch(hook: &Webhook, branch: &str) -> bool {
    let filter = &hook.push_events_branch_filter;
    if filter.is_empty() || hook.branch_filter_strategy == "all_branches" {
        return true;
    }
    let Some((first, rest)) = filter.split_once('*') else {
        return filter == branch;
    };
    let Some(mut left) = branch.strip_prefix(first) else {
        return false;
    };
    let last = rest.rsplit('*').next().unwrap_or_default();
    let between = rest.len() - last.len();
    for part in rest[..between].split('*') {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

impl World {
    pub(crate) fn snapshot(&self, target: Target) -> Option<Snapshot> {
        let project = self.projects.get(&target.project)?;
        match target.kind {
            Noteable::MergeRequest => {
                project
                    .merge_requests
                    .get(&target.iid)
                    .map(|found| Snapshot {
                        id: found.id,
                        author: found.author,
                        title: found.title.clone(),
                        description: found.description.clone(),
                        state: match found.state {
                            MergeState::Opened => 1,
                            MergeState::Closed => 2,
                            MergeState::Merged => 3,
                            MergeState::Locked => 4,
                        },
                        labels: found.labels.clone(),
                        confidential: false,
                        created_at: found.created_at,
                        updated_at: found.updated_at,
                        closed_at: None,
                    })
            }
            Noteable::Issue => project.issues.get(&target.iid).map(|found| Snapshot {
                id: found.id,
                author: found.author,
                title: found.title.clone(),
                description: found.description.clone(),
                state: if found.open { 1 } else { 2 },
                labels: found.labels.clone(),
                confidential: found.confidential,
                created_at: found.created_at,
                updated_at: found.updated_at,
                closed_at: found.closed.map(|(at, _)| at),
            }),
        }
    }

    /// The body's `changes`; without a `before` the record is new.
    fn changes(&self, target: Target, before: Option<&Snapshot>, after: &Snapshot) -> Value {
        let time = |at: Micros| self.hook_time(target.kind == Noteable::Issue, at);
        let mut out = Map::new();
        let mut add = |name: &str, previous: Value, current: Value| {
            if previous != current {
                let change = json!({ "previous": previous, "current": current });
                out.insert(name.to_owned(), change);
            }
        };
        let Some(before) = before else {
            add("author_id", Value::Null, json!(after.author));
            add("created_at", Value::Null, json!(time(after.created_at)));
            add("description", Value::Null, json!(after.description));
            add("id", Value::Null, json!(after.id));
            add("iid", Value::Null, json!(target.iid));
            add("project_id", Value::Null, json!(target.project));
            add("title", Value::Null, json!(after.title));
            add("updated_at", Value::Null, json!(time(after.updated_at)));
            return Value::Object(out);
        };
        let closed = |of: &Snapshot| json!(of.closed_at.map(time));
        let labels = |of: &Snapshot| self.hook_labels(target.project, &of.labels);
        add("title", json!(before.title), json!(after.title));
        add(
            "description",
            json!(before.description),
            json!(after.description),
        );
        add("state_id", json!(before.state), json!(after.state));
        add(
            "confidential",
            json!(before.confidential),
            json!(after.confidential),
        );
        add("labels", labels(before), labels(after));
        add("closed_at", closed(before), closed(after));
        add(
            "updated_at",
            json!(time(before.updated_at)),
            json!(time(after.updated_at)),
        );
        Value::Object(out)
    }

    /// Announces what became of a merge request or an issue since `before`; without one it is new.
    pub(crate) fn announce_change(
        &mut self,
        target: Target,
        action: &str,
        before: Option<&Snapshot>,
    ) {
        if self.webhooks.hooks.is_empty() {
            return;
        }
        let Some(after) = self.snapshot(target) else {
            return;
        };
        let (project, iid, action) = (target.project, target.iid, action.to_owned());
        let changes = self.changes(target, before, &after);
        self.announce(match target.kind {
            Noteable::MergeRequest => Announcement::MergeRequest {
                project,
                iid,
                action,
                changes,
                oldrev: None,
            },
            Noteable::Issue => Announcement::Issue {
                project,
                iid,
                action,
                changes,
            },
        });
    }

    pub(crate) fn announce_note(&mut self, target: Target, note: u64, action: &str) {
        self.announce(Announcement::Note {
            project: target.project,
            on: target.kind,
            iid: target.iid,
            note,
            action: action.to_owned(),
        });
    }

    /// Announces one push. More than three branches, or tags, that were created, or updated, or removed at once are announced by
    /// `repository_update` only.
    pub(crate) fn announce_push(&mut self, project: u64, changes: Vec<RefChange>) {
        if self.webhooks.hooks.is_empty() {
            return;
        }
        let kind = |change: &RefChange| {
            (
                change.reference.starts_with("refs/tags/"),
                change.before.is_none(),
                change.after.is_none(),
            )
        };
        for change in &changes {
            let alike = changes.iter().filter(|other| kind(other) == kind(change));
            if alike.count() <= self.knobs.push_event_hooks_limit {
                self.announce(Announcement::Push {
                    project,
                    change: change.clone(),
                });
            }
        }
        self.announce(Announcement::RepositoryUpdate { project, changes });
    }

    /// Announces what system hooks are always told.
    pub(crate) fn announce_lifecycle(&mut self, body: Value) {
        self.announce(Announcement::Body {
            trigger: Trigger::Lifecycle,
            project: None,
            group: None,
            body,
        });
    }

    fn trigger_of(&self, what: &Announcement) -> Option<Trigger> {
        Some(match what {
            Announcement::Push { change, .. } if change.reference.starts_with("refs/tags/") => {
                Trigger::TagPush
            }
            Announcement::Push { .. } => Trigger::Push,
            Announcement::RepositoryUpdate { .. } => Trigger::RepositoryUpdate,
            Announcement::MergeRequest { .. } => Trigger::MergeRequest,
            Announcement::Issue { project, iid, .. } => {
                let issue = self.projects.get(project)?.issues.get(iid)?;
                if issue.confidential {
                    Trigger::ConfidentialIssue
                } else {
                    Trigger::Issue
                }
            }
            &Announcement::Note {
                project,
                on,
                iid,
                note,
                ..
            } => {
                let target = Target {
                    kind: on,
                    project,
                    iid,
                };
                let found = self
                    .threads(target)?
                    .notes()
                    .find(|found| found.id == note)?;
                let parent = on == Noteable::Issue
                    && self.projects.get(&project)?.issues.get(&iid)?.confidential;
                if found.system {
                    return None;
                }
                if found.internal || parent {
                    Trigger::ConfidentialNote
                } else {
                    Trigger::Note
                }
            }
            Announcement::Pipeline { project, id } => {
                let user = self.projects.get(project)?.pipelines.get(id)?.user?;
                if self.users.get(&user)?.state != "active" {
                    return None;
                }
                Trigger::Pipeline
            }
            Announcement::Release { .. } => Trigger::Release,
            Announcement::Body { trigger, .. } => *trigger,
        })
    }

    fn listeners(&self, trigger: Trigger, what: &Announcement) -> Vec<u64> {
        let (project, group) = match what {
            Announcement::Push { project, .. }
            | Announcement::RepositoryUpdate { project, .. }
            | Announcement::MergeRequest { project, .. }
            | Announcement::Issue { project, .. }
            | Announcement::Note { project, .. }
            | Announcement::Pipeline { project, .. }
            | Announcement::Release { project, .. } => (Some(*project), None),
            Announcement::Body { project, group, .. } => (*project, *group),
        };
        let group = group.or_else(|| Some(self.projects.get(&project?)?.group));
        let groups = group.map(|id| self.ancestors(id)).unwrap_or_default();
        let branch = match what {
            Announcement::Push { change, .. } => change.reference.strip_prefix("refs/heads/"),
            _ => None,
        };
        let listens = |hook: &&Webhook| {
            let place = match hook.owner {
                HookOwner::System => true,
                HookOwner::Group(id) => self.knobs.premium && groups.contains(&id),
                HookOwner::Project(id) => project == Some(id),
            };
            let told = trigger == Trigger::Lifecycle || hook.triggers.contains(&trigger);
            place
                && told
                && trigger.exists_for(hook.owner)
                && branch.is_none_or(|branch| wants_branch(hook, branch))
        };
        let hooks = self.webhooks.hooks.values();
        hooks.filter(listens).map(|hook| hook.id).collect()
    }

    /// Tells the hooks that want to know of an event, whether or not it happened, and returns how many there are. This is what
    /// mutations do; a test may do it for a record that it changed by hand, or did not change at all.
    pub fn announce(&mut self, what: Announcement) -> usize {
        if self.webhooks.hooks.is_empty() {
            return 0;
        }
        let Some(trigger) = self.trigger_of(&what) else {
            return 0;
        };
        let listeners = self.listeners(trigger, &what);
        let what = Arc::new(what);
        let (now, limit, seed) = (self.now(), self.knobs.hook_calls_per_minute, self.seed);
        let mut queued = 0;
        for hook in listeners {
            self.webhooks.counts.events += 1;
            let top = match self.webhooks.hooks.get(&hook).map(|hook| hook.owner) {
                Some(HookOwner::Group(id)) => self.ancestors(id).last().copied(),
                Some(HookOwner::Project(id)) => self
                    .projects
                    .get(&id)
                    .and_then(|project| self.ancestors(project.group).last().copied()),
                Some(HookOwner::System) | None => None,
            };
            let fits = top.is_none_or(|top| self.webhooks.fits(top, limit, now));
            if self.knobs.silent_mode || !fits {
                self.webhooks.counts.lost += 1;
                continue;
            }
            let key = self.webhooks.uuid(seed);
            self.webhooks.queue.push_back(Job {
                hook,
                trigger,
                what: Arc::clone(&what),
                key,
                test: false,
                again: None,
                queued: Instant::now(),
            });
            queued += 1;
        }
        if queued > 0 {
            self.webhooks.wake.notify_one();
        }
        queued
    }

    /// An event of a random kind about a random record that exists, for storms.
    #[must_use]
    pub fn random_announcement(&self, seed: u64) -> Option<Announcement> {
        let mut rng = SmallRng::seed_from_u64(seed);
        for _ in 0..20 {
            let project = self.projects.values().choose(&mut rng)?;
            let id = project.id;
            let found = match rng.random_range(0..6) {
                0 => project.merge_requests.keys().choose(&mut rng).map(|&iid| {
                    Announcement::MergeRequest {
                        project: id,
                        iid,
                        action: update(),
                        changes: nothing(),
                        oldrev: None,
                    }
                }),
                1 => project
                    .issues
                    .keys()
                    .choose(&mut rng)
                    .map(|&iid| Announcement::Issue {
                        project: id,
                        iid,
                        action: update(),
                        changes: nothing(),
                    }),
                2 => project
                    .merge_requests
                    .values()
                    .choose(&mut rng)
                    .and_then(|found| {
                        let notes = found.threads.notes().filter(|note| !note.system);
                        let note = notes.choose(&mut rng)?;
                        Some(Announcement::Note {
                            project: id,
                            on: Noteable::MergeRequest,
                            iid: found.iid,
                            note: note.id,
                            action: update(),
                        })
                    }),
                3 => project.pipelines.keys().choose(&mut rng).map(|&pipeline| {
                    Announcement::Pipeline {
                        project: id,
                        id: pipeline,
                    }
                }),
                4 => project
                    .releases
                    .keys()
                    .choose(&mut rng)
                    .map(|tag| Announcement::Release {
                        project: id,
                        tag: tag.clone(),
                        action: update(),
                    }),
                _ => project
                    .repository
                    .default_head()
                    .map(|head| Announcement::Push {
                        project: id,
                        change: RefChange {
                            reference: format!("refs/heads/{}", project.repository.default_branch),
                            before: project
                                .repository
                                .commits
                                .get(head)
                                .and_then(|commit| commit.parents.first().cloned()),
                            after: Some(head.clone()),
                        },
                    }),
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_filter_is_a_wildcard_over_the_whole_name() {
        let world = World::empty(Micros::default());
        let mut hook = Webhook {
            id: 1,
            owner: HookOwner::Project(1),
            url: String::new(),
            name: None,
            description: None,
            token: None,
            signing_token: None,
            triggers: BTreeSet::new(),
            enable_ssl_verification: true,
            push_events_branch_filter: String::new(),
            branch_filter_strategy: "wildcard".to_owned(),
            custom_webhook_template: None,
            custom_headers: Vec::new(),
            url_variables: Vec::new(),
            created_at: world.now(),
            failures: 0,
            disabled_until: None,
        };
        let mut wants = |filter: &str, branch: &str| {
            filter.clone_into(&mut hook.push_events_branch_filter);
            wants_branch(&hook, branch)
        };
        assert!(wants("", "anything"));
        assert!(wants("main", "main"));
        assert!(!wants("main", "main2"));
        assert!(wants("*-stable", "1-stable"));
        assert!(!wants("*-stable", "1-stable-2"));
        assert!(wants("rel/*/v*", "rel/a/v1"));
        assert!(!wants("rel/*/v*", "rel/a/w1"));
        assert!(wants("*", "anything"));
    }
}
