//! The bodies of webhooks, shaped after recorded ones.
//!
//! They differ from the REST API in ways that a reader trips over: another form of time, no address of a person, labels as objects,
//! images with absolute links, a release that is flat, a commit comment without a parent. A *test* delivery differs again: times as
//! in REST, and no `action`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Announcement, RefChange};
use crate::gitlab::clock::Micros;
use crate::gitlab::graph::Walk;
use crate::gitlab::model::{
    Commit, Issue, MergeRequest, MergeState, Note, NoteKind, Pipeline, Project, Release, Visibility,
};
use crate::gitlab::render::extend;
use crate::gitlab::world::{Noteable, Target, World};

/// Commits listed in a push; the count has them all.
const COMMITS: usize = 20;

fn no_commit() -> String {
    "0".repeat(40)
}

/// Images that GitLab serves itself get its address, so this text differs from the API's.
fn absolute_images(text: Option<&str>, project_url: &str) -> Value {
    text.map_or(Value::Null, |text| {
        json!(text.replace("](/uploads/", &format!("]({project_url}/uploads/")))
    })
}

impl World {
    /// A time in a body: `2025-08-06 01:23:04 UTC`, or with the offset of an instance elsewhere, or as in REST.
    pub(super) fn hook_time(&self, as_in_rest: bool, at: Micros) -> String {
        if as_in_rest {
            at.rest()
        } else {
            at.hook(self.knobs.hook_zone_minutes)
        }
    }

    fn hook_user(&self, user: Option<u64>) -> Value {
        let Some(user) = user.and_then(|id| self.users.get(&id)) else {
            return Value::Null;
        };
        let full = self.user_json(Some(user.id));
        json!({
            "id": user.id,
            "name": user.name,
            "username": user.username,
            "avatar_url": full["avatar_url"],
            "email": "[REDACTED]",
        })
    }

    fn hook_users(&self, users: &[u64]) -> Value {
        users
            .iter()
            .map(|&user| self.hook_user(Some(user)))
            .collect()
    }

    fn hook_project(&self, project: &Project) -> Value {
        let (path, url) = (self.project_path(project), self.project_url(project));
        let ssh = format!("git@gitlab.example.com:{path}.git");
        json!({
            "id": project.id,
            "name": project.name,
            "description": project.description,
            "web_url": url,
            "avatar_url": null,
            "git_ssh_url": ssh,
            "git_http_url": format!("{url}.git"),
            "namespace": self.groups.get(&project.group).map(|group| group.name.clone()),
            "visibility_level": match project.visibility {
                Visibility::Private => 0,
                Visibility::Internal => 10,
                Visibility::Public => 20,
            },
            "path_with_namespace": path,
            "default_branch": project.repository.default_branch,
            "ci_config_path": "",
            "homepage": url,
            "url": ssh,
            "ssh_url": ssh,
            "http_url": format!("{url}.git"),
        })
    }

    fn hook_repository(&self, project: &Project) -> Value {
        json!({
            "name": project.name,
            "url": format!("git@gitlab.example.com:{}.git", self.project_path(project)),
            "description": project.description,
            "homepage": self.project_url(project),
        })
    }

    pub(super) fn hook_labels(&self, project: u64, labels: &BTreeSet<String>) -> Value {
        let made = self
            .projects
            .get(&project)
            .map_or_else(Micros::default, |found| found.created_at);
        let at = self.hook_time(false, made);
        labels
            .iter()
            .map(|title| {
                json!({
                    "id": title.len(), "title": title, "color": "#6699cc", "project_id": project, "created_at": at, "updated_at": at,
                    "template": false, "description": null, "type": "ProjectLabel", "group_id": null,
                })
            })
            .collect()
    }

    fn hook_commit(&self, project: &Project, commit: &Commit) -> Value {
        json!({
            "id": commit.sha,
            "message": commit.message,
            "title": commit.title(),
            "timestamp": commit.committed_at.git(commit.offset_minutes).replace(".000", ""),
            "url": format!("{}/-/commit/{}", self.project_url(project), commit.sha),
            "author": { "name": commit.author_name, "email": "[REDACTED]" },
        })
    }

    fn commit_or_null(&self, project: &Project, sha: Option<&String>) -> Value {
        sha.and_then(|sha| project.repository.commits.get(sha))
            .map_or(Value::Null, |commit| self.hook_commit(project, commit))
    }

    /// The body of an event as of now; `None` if what it is about is gone. A `test` has times as in REST, and no `action`.
    pub(super) fn body(&self, what: &Announcement, test: bool) -> Option<Value> {
        let mut body = match what {
            Announcement::Push { project, change } => {
                self.push_body(self.projects.get(project)?, change)
            }
            Announcement::RepositoryUpdate { project, changes } => {
                self.repository_update_body(self.projects.get(project)?, changes)
            }
            Announcement::MergeRequest {
                project,
                iid,
                action,
                changes,
                oldrev,
            } => {
                let project = self.projects.get(project)?;
                let found = project.merge_requests.get(iid)?;
                let mut body = self.merge_request_body(project, found, changes, test);
                body["object_attributes"]["action"] = json!(action);
                if let Some(oldrev) = oldrev {
                    body["object_attributes"]["oldrev"] = json!(oldrev);
                }
                body
            }
            Announcement::Issue {
                project,
                iid,
                action,
                changes,
            } => {
                let project = self.projects.get(project)?;
                let mut body = self.issue_body(project, project.issues.get(iid)?, changes);
                body["object_attributes"]["action"] = json!(action);
                body
            }
            Announcement::Note {
                project,
                on,
                iid,
                note,
                action,
            } => {
                let target = Target {
                    kind: *on,
                    project: *project,
                    iid: *iid,
                };
                let mut body = self.note_body(target, *note, test)?;
                if self.is_at_least(16, 11) {
                    body["object_attributes"]["action"] = json!(action);
                }
                body
            }
            Announcement::Pipeline { project, id } => {
                let project = self.projects.get(project)?;
                self.pipeline_body(project, project.pipelines.get(id)?, test)
            }
            Announcement::Release {
                project,
                tag,
                action,
            } => {
                let project = self.projects.get(project)?;
                let mut body = self.release_body(project, project.releases.get(tag)?, test);
                body["action"] = json!(action);
                body
            }
            Announcement::Body { body, .. } => body.clone(),
        };
        if test {
            for place in ["", "/object_attributes"] {
                if let Some(object) = body.pointer_mut(place).and_then(Value::as_object_mut) {
                    object.remove("action");
                }
            }
        }
        Some(body)
    }

    fn push_body(&self, project: &Project, change: &RefChange) -> Value {
        let tag = change.reference.starts_with("refs/tags/");
        let kind = if tag { "tag_push" } else { "push" };
        let mut new = Vec::new();
        if let Some(after) = change.after.as_ref().filter(|_| !tag) {
            let base = change.before.clone().or_else(|| {
                let is_default = change
                    .reference
                    .ends_with(&project.repository.default_branch);
                let head = project.repository.default_head().cloned();
                head.filter(|_| !is_default)
            });
            new = project.repository.log(&Walk {
                from: vec![after.clone()],
                not: base.into_iter().collect(),
                ..Walk::default()
            });
        }
        let total = new.len();
        // The newest, oldest first.
        new.truncate(COMMITS);
        new.reverse();
        let commits: Value = new
            .iter()
            .map(|commit| {
                let mut out = self.hook_commit(project, commit);
                out["added"] = json!([]);
                out["modified"] = json!(["README.md"]);
                out["removed"] = json!([]);
                out
            })
            .collect();
        let user = self.somebody();
        let who = self.hook_user(Some(user));
        json!({
            "object_kind": kind,
            "event_name": kind,
            "before": change.before.clone().unwrap_or_else(no_commit),
            "after": change.after.clone().unwrap_or_else(no_commit),
            "ref": change.reference,
            "ref_protected": change.reference == format!("refs/heads/{}", project.repository.default_branch),
            "checkout_sha": change.after,
            "message": null,
            "user_id": user,
            "user_name": who["name"],
            "user_username": who["username"],
            "user_email": "",
            "user_avatar": who["avatar_url"],
            "project_id": project.id,
            "project": self.hook_project(project),
            "commits": commits,
            "total_commits_count": total,
            "push_options": {},
            "repository": {
                "name": project.name,
                "url": format!("git@gitlab.example.com:{}.git", self.project_path(project)),
                "description": project.description,
                "homepage": self.project_url(project),
                "git_http_url": format!("{}.git", self.project_url(project)),
                "git_ssh_url": format!("git@gitlab.example.com:{}.git", self.project_path(project)),
                "visibility_level": 0,
            },
        })
    }

    fn repository_update_body(&self, project: &Project, changes: &[RefChange]) -> Value {
        let user = self.somebody();
        let who = self.hook_user(Some(user));
        json!({
            "event_name": "repository_update",
            "user_id": user,
            "user_name": who["name"],
            "user_email": "",
            "user_avatar": who["avatar_url"],
            "project_id": project.id,
            "project": self.hook_project(project),
            "changes": changes.iter().map(|change| json!({
                "before": change.before.clone().unwrap_or_else(no_commit),
                "after": change.after.clone().unwrap_or_else(no_commit),
                "ref": change.reference,
            })).collect::<Value>(),
            "refs": changes.iter().map(|change| change.reference.as_str()).collect::<Vec<_>>(),
        })
    }

    fn merge_request_attributes(
        &self,
        project: &Project,
        found: &MergeRequest,
        test: bool,
    ) -> Value {
        let time = |at: Micros| self.hook_time(test, at);
        let draft = found.title.starts_with("Draft:");
        let source = found.source_project.and_then(|id| self.projects.get(&id));
        let merged_by = found.merged.and_then(|(_, who)| who);
        let mut out = json!({
            "assignee_id": found.assignees.first(),
            "assignee_ids": found.assignees,
            "author_id": found.author,
            "blocking_discussions_resolved": true,
            "created_at": time(found.created_at),
            "description": absolute_images(found.description.as_deref(), &self.project_url(project)),
            "detailed_merge_status": if found.state == MergeState::Opened { "mergeable" } else { "not_open" },
            "draft": draft,
            "first_contribution": false,
            "head_pipeline_id": null,
            "human_time_change": null,
            "human_time_estimate": null,
            "human_total_time_spent": null,
            "id": found.id,
            "iid": found.iid,
            "labels": self.hook_labels(project.id, &found.labels),
            "last_commit": self.commit_or_null(project, found.sha.as_ref()),
            "last_edited_at": null,
            "last_edited_by_id": null,
            "merge_commit_sha": found.merge_commit,
            "merge_error": null,
            "merge_params": { "force_remove_source_branch": "1" },
            "merge_status": "can_be_merged",
            "merge_user_id": merged_by,
            "merge_when_pipeline_succeeds": false,
            "milestone_id": found.milestone,
        });
        let more = json!({
            "prepared_at": found.sha.as_ref().map(|_| time(found.created_at)),
            "reviewer_ids": found.reviewers,
            "source": source.map_or(Value::Null, |source| self.hook_project(source)),
            "source_branch": found.source_branch,
            "source_project_id": found.source_project,
            "state": found.state.as_str(),
            "state_id": match found.state {
                MergeState::Opened => 1,
                MergeState::Closed => 2,
                MergeState::Merged => 3,
                MergeState::Locked => 4,
            },
            "target": self.hook_project(project),
            "target_branch": found.target_branch,
            "target_project_id": project.id,
            "time_change": 0,
            "time_estimate": 0,
            "title": found.title,
            "total_time_spent": 0,
            "updated_at": time(found.updated_at),
            "updated_by_id": null,
            "url": format!("{}/-/merge_requests/{}", self.project_url(project), found.iid),
            "work_in_progress": draft,
            "approval_rules": [],
        });
        extend(&mut out, more);
        out
    }

    fn merge_request_body(
        &self,
        project: &Project,
        found: &MergeRequest,
        changes: &Value,
        test: bool,
    ) -> Value {
        let mut out = json!({
            "object_kind": "merge_request",
            "event_type": "merge_request",
            "user": self.hook_user(Some(self.somebody())),
            "project": self.hook_project(project),
            "object_attributes": self.merge_request_attributes(project, found, test),
            "labels": self.hook_labels(project.id, &found.labels),
            "changes": changes,
            "repository": self.hook_repository(project),
        });
        if !found.assignees.is_empty() {
            out["assignees"] = self.hook_users(&found.assignees);
        }
        if !found.reviewers.is_empty() {
            let mut reviewers = self.hook_users(&found.reviewers);
            for reviewer in reviewers.as_array_mut().into_iter().flatten() {
                reviewer["state"] = json!("unreviewed");
                reviewer["re_requested"] = json!(false);
            }
            out["reviewers"] = reviewers;
        }
        out
    }

    fn issue_attributes(&self, project: &Project, found: &Issue, as_in_rest: bool) -> Value {
        let time = |at: Micros| self.hook_time(as_in_rest, at);
        let task = found.issue_type == "task";
        let mut kind = found.issue_type.replace('_', " ");
        if let Some(first) = kind.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        let place = if task { "work_items" } else { "issues" };
        json!({
            "author_id": found.author,
            "closed_at": found.closed.map(|(at, _)| time(at)),
            "confidential": found.confidential,
            "created_at": time(found.created_at),
            "description": absolute_images(found.description.as_deref(), &self.project_url(project)),
            "discussion_locked": null,
            "due_date": found.due_date,
            "id": found.id,
            "iid": found.iid,
            "last_edited_at": null,
            "last_edited_by_id": null,
            "milestone_id": found.milestone,
            "moved_to_id": found.moved_to,
            "duplicated_to_id": null,
            "project_id": project.id,
            "relative_position": null,
            "state_id": if found.open { 1 } else { 2 },
            "time_estimate": 0,
            "title": found.title,
            "updated_at": time(found.updated_at),
            "updated_by_id": null,
            "weight": null,
            "health_status": null,
            "type": kind,
            "url": format!("{}/-/{place}/{}", self.project_url(project), found.iid),
            "total_time_spent": 0,
            "time_change": 0,
            "human_total_time_spent": null,
            "human_time_change": null,
            "human_time_estimate": null,
            "assignee_ids": found.assignees,
            "assignee_id": found.assignees.first(),
            "labels": self.hook_labels(project.id, &found.labels),
            "state": if found.open { "opened" } else { "closed" },
            "severity": "unknown",
            "customer_relations_contacts": [],
        })
    }

    fn issue_body(&self, project: &Project, found: &Issue, changes: &Value) -> Value {
        let kind = if found.issue_type == "task" {
            "work_item"
        } else {
            "issue"
        };
        let event = match (kind, found.confidential) {
            ("issue", true) => "confidential_issue",
            ("work_item", true) => "confidential_work_item",
            _ => kind,
        };
        let mut out = json!({
            "object_kind": kind,
            "event_type": event,
            "user": self.hook_user(Some(self.somebody())),
            "project": self.hook_project(project),
            "object_attributes": self.issue_attributes(project, found, true),
            "labels": self.hook_labels(project.id, &found.labels),
            "changes": changes,
            "repository": self.hook_repository(project),
        });
        if !found.assignees.is_empty() {
            out["assignees"] = self.hook_users(&found.assignees);
        }
        out
    }

    fn note_body(&self, target: Target, id: u64, test: bool) -> Option<Value> {
        let project = self.projects.get(&target.project)?;
        let threads = self.threads(target)?;
        let discussion = threads
            .discussions
            .iter()
            .find(|discussion| discussion.notes.iter().any(|note| note.id == id))?;
        let note: &Note = discussion.notes.iter().find(|note| note.id == id)?;
        let time = |at: Micros| self.hook_time(test, at);
        let url = self.project_url(project);
        let (place, key, parent, confidential) = match target.kind {
            Noteable::MergeRequest => {
                let found = project.merge_requests.get(&target.iid)?;
                let parent = self.merge_request_attributes(project, found, test);
                ("merge_requests", "merge_request", parent, false)
            }
            Noteable::Issue => {
                let found = project.issues.get(&target.iid)?;
                let parent = self.issue_attributes(project, found, test);
                ("issues", "issue", parent, found.confidential)
            }
        };
        let hidden = note.internal || confidential;
        let mut out = json!({
            "object_kind": "note",
            "event_type": if hidden { "confidential_note" } else { "note" },
            "user": self.hook_user(note.author),
            "project_id": project.id,
            "project": self.hook_project(project),
            "object_attributes": {
                "attachment": null,
                "author_id": note.author,
                "change_position": null,
                "commit_id": null,
                "created_at": time(note.created_at),
                "discussion_id": discussion.id,
                "id": note.id,
                "internal": note.internal,
                "line_code": null,
                "note": note.body,
                "noteable_id": parent["id"],
                "noteable_type": target.kind.as_str(),
                "original_position": null,
                "position": note.position.as_ref().map(|position| json!({
                    "base_sha": position.base_sha,
                    "start_sha": position.base_sha,
                    "head_sha": position.head_sha,
                    "old_path": position.path,
                    "new_path": position.path,
                    "position_type": "text",
                    "old_line": null,
                    "new_line": position.line,
                    "line_range": null,
                })),
                "project_id": project.id,
                "resolved_at": note.resolved.map(|(_, at)| time(at)),
                "resolved_by_id": note.resolved.map(|(who, _)| who),
                "resolved_by_push": null,
                "st_diff": null,
                "system": note.system,
                "type": match note.kind {
                    NoteKind::Plain => Value::Null,
                    NoteKind::Discussion => json!("DiscussionNote"),
                    NoteKind::Diff => json!("DiffNote"),
                },
                "updated_at": time(note.updated_at),
                "updated_by_id": null,
                "description": absolute_images(Some(&note.body), &url),
                "url": format!("{url}/-/{place}/{}#note_{}", target.iid, note.id),
            },
            "repository": self.hook_repository(project),
        });
        out[key] = parent;
        Some(out)
    }

    fn pipeline_body(&self, project: &Project, found: &Pipeline, test: bool) -> Value {
        let time = |at: Micros| self.hook_time(test, at);
        let detailed = match found.status.as_str() {
            "success" => "passed",
            "canceled" => "canceled",
            other => other,
        };
        let iid = found
            .reference
            .strip_prefix("refs/merge-requests/")
            .and_then(|rest| rest.split('/').next()?.parse::<u64>().ok());
        let merge_request = iid
            .and_then(|iid| project.merge_requests.get(&iid))
            .map(|found| {
                json!({
                    "id": found.id,
                    "iid": found.iid,
                    "title": found.title,
                    "source_branch": found.source_branch,
                    "source_project_id": found.source_project,
                    "target_branch": found.target_branch,
                    "target_project_id": project.id,
                    "state": found.state.as_str(),
                    "merge_status": "can_be_merged",
                    "detailed_merge_status": "mergeable",
                    "url": format!("{}/-/merge_requests/{}", self.project_url(project), found.iid),
                })
            });
        json!({
            "object_kind": "pipeline",
            "object_attributes": {
                "id": found.id,
                "iid": found.iid,
                "name": found.name,
                "ref": found.reference,
                "tag": project.repository.tags.contains_key(&found.reference),
                "sha": found.sha,
                "before_sha": no_commit(),
                "source": found.source,
                "status": found.status,
                "detailed_status": detailed,
                "stages": ["build", "test"],
                "created_at": time(found.created_at),
                "finished_at": found.finished_at.map(time),
                "duration": found.duration,
                "queued_duration": found.started_at.map(|_| 4),
                "protected_ref": true,
                "variables": [{ "key": "DEPLOY_KEY", "value": "sim-pipeline-secret" }],
                "url": format!("{}/-/pipelines/{}", self.project_url(project), found.id),
            },
            "merge_request": merge_request,
            "user": self.hook_user(found.user),
            "project": self.hook_project(project),
            "commit": self.commit_or_null(project, Some(&found.sha)),
            "builds": [{
                "id": found.id * 10,
                "stage": "test",
                "name": "test",
                "status": found.status,
                "created_at": time(found.created_at),
                "started_at": found.started_at.map(time),
                "finished_at": found.finished_at.map(time),
                "duration": found.duration,
                "queued_duration": 0.4,
                "failure_reason": null,
                "when": "on_success",
                "manual": false,
                "allow_failure": false,
                "user": self.hook_user(found.user),
                "runner": null,
                "artifacts_file": { "filename": null, "size": null },
                "environment": null,
            }],
        })
    }

    pub(crate) fn release_body(&self, project: &Project, found: &Release, test: bool) -> Value {
        let time = |at: Micros| self.hook_time(test, at);
        let url = self.project_url(project);
        let tag = crate::gitlab::call::encode(&found.tag);
        let links: Vec<Value> = found
            .links
            .iter()
            .enumerate()
            .map(|(index, (name, link))| {
                json!({ "id": index, "external": true, "link_type": "other", "name": name, "url": link })
            })
            .collect();
        let sources: Vec<Value> = ["zip", "tar.gz", "tar.bz2", "tar"]
            .iter()
            .map(|format| {
                json!({ "format": format, "url": format!("{url}/-/archive/{tag}/{}-{tag}.{format}", project.path) })
            })
            .collect();
        json!({
            // Releases have an id in hooks only; the API has none.
            "id": found.created_at.0.unsigned_abs() % 100_000_000,
            "created_at": time(found.created_at),
            "description": absolute_images(found.description.as_deref(), &url),
            "name": found.name,
            "released_at": time(found.released_at),
            "tag": found.tag,
            "object_kind": "release",
            "project": self.hook_project(project),
            "url": format!("{url}/-/releases/{tag}"),
            "assets": { "count": links.len() + sources.len(), "links": links, "sources": sources },
            "commit": self.commit_or_null(project, found.sha.as_ref()),
        })
    }

    /// What system hooks are told of a project: `project_create`, `project_rename` …
    pub(crate) fn project_event(
        &self,
        event: &str,
        project: &Project,
        old_path: Option<&str>,
    ) -> Value {
        let owner = self.users.get(&project.creator);
        let mut out = json!({
            "event_name": event,
            "created_at": project.created_at.seconds(),
            "updated_at": project.updated_at.seconds(),
            "name": project.name,
            "path": project.path,
            "path_with_namespace": self.project_path(project),
            "project_id": project.id,
            "project_namespace_id": project.group,
            "owner_name": owner.map(|user| user.name.clone()),
            "owner_email": "",
            "owners": owner.map(|user| json!([{ "name": user.name, "email": "" }])),
            "project_visibility": project.visibility.as_str(),
        });
        if let Some(old_path) = old_path {
            out["old_path_with_namespace"] = json!(old_path);
        }
        out
    }

    pub(crate) fn group_rename_event(&self, group: u64, old_path: &str, old_full: &str) -> Value {
        let found = self.groups.get(&group);
        json!({
            "event_name": "group_rename",
            "created_at": found.map(|group| group.created_at.seconds()),
            "updated_at": self.now().seconds(),
            "name": found.map(|group| group.name.clone()),
            "path": found.map(|group| group.path.clone()),
            "full_path": self.group_path(group),
            "group_id": group,
            "owner_name": null,
            "owner_email": null,
            "old_path": old_path,
            "old_full_path": old_full,
        })
    }

    pub(crate) fn member_event(&self, event: &str, group: u64, user: u64, access: &str) -> Value {
        let (found, who) = (self.groups.get(&group), self.users.get(&user));
        json!({
            "event_name": event,
            "created_at": self.now().seconds(),
            "updated_at": self.now().seconds(),
            "group_access": access,
            "group_id": group,
            "group_name": found.map(|group| group.name.clone()),
            "group_path": found.map(|group| group.path.clone()),
            "group_plan": null,
            "expires_at": null,
            "user_email": "[REDACTED]",
            "user_name": who.map(|user| user.name.clone()),
            "user_username": who.map(|user| user.username.clone()),
            "user_id": user,
        })
    }
}

/// A template with its `{{a.b}}` filled in from a body.
///
/// # Errors
/// If the outcome is not JSON: then GitLab sends nothing.
pub(super) fn fill(template: &str, body: &Value) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((name, tail)) = after.split_once("}}") else {
            return Err("a {{ without }} in the custom webhook template".to_owned());
        };
        let pointer = format!("/{}", name.trim().replace('.', "/"));
        match body.pointer(&pointer) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => {
                let quoted = Value::String(text.clone()).to_string();
                out.push_str(&quoted[1..quoted.len() - 1]);
            }
            Some(value) => out.push_str(&value.to_string()),
        }
        rest = tail;
    }
    out.push_str(rest);
    match serde_json::from_str::<Value>(&out) {
        Ok(_) => Ok(out),
        Err(error) => Err(format!("the custom webhook template made no JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_takes_values_from_the_body_and_must_make_json() {
        let body = json!({ "object_kind": "note", "object_attributes": { "id": 7, "note": "say \"hi\"" } });
        let made = fill(
            "{\"k\":\"{{object_kind}}\",\"i\":{{object_attributes.id}},\"t\":\"{{ object_attributes.note }}\"}",
            &body,
        );
        assert_eq!(
            made.expect("JSON"),
            r#"{"k":"note","i":7,"t":"say \"hi\""}"#
        );
        assert!(fill("{{object_kind}}", &body).is_err());
        assert!(fill("{\"a\": {{nothing}}}", &body).is_err());
    }

    #[test]
    fn uploaded_images_get_an_absolute_link() {
        assert_eq!(
            absolute_images(Some("![x](/uploads/1/a.png) [y](/z)"), "https://g/p"),
            json!("![x](https://g/p/uploads/1/a.png) [y](/z)")
        );
    }
}
