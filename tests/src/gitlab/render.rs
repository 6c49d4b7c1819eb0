//! Rows as JSON, with the complete field set of GitLab 18.
//!
//! Fields that the connector does not use are here on purpose: unknown, deprecated and null fields, a counter that is a string,
//! and a secret in the body of a project are what real bodies consist of.

use serde_json::{Value, json};

use super::access::Viewer;
use super::clock::Micros;
use super::model::{
    Commit, Discussion, Event, Feature, Group, Issue, MergeRequest, MergeState, Milestone, Note,
    NoteKind, Pipeline, Project, Release, Role,
};
use super::world::{Noteable, Target, World, digest40};

fn time(at: Option<Micros>) -> Value {
    at.map_or(Value::Null, |at| Value::String(at.rest()))
}

impl World {
    fn api(&self) -> String {
        format!("{}/api/v4", self.external_url)
    }

    pub(crate) fn project_url(&self, project: &Project) -> String {
        format!("{}/{}", self.external_url, self.project_path(project))
    }

    pub(crate) fn user_json(&self, user: Option<u64>) -> Value {
        let Some(user) = user.and_then(|id| self.users.get(&id)) else {
            return Value::Null;
        };
        json!({
            "id": user.id,
            "username": user.username,
            "public_email": "",
            "name": user.name,
            "state": user.state,
            "locked": false,
            "avatar_url": format!("https://secure.gravatar.com/avatar/{}?s=80&d=identicon", &digest40(&user.username)[..32]),
            "web_url": format!("{}/{}", self.external_url, user.username),
        })
    }

    pub(crate) fn users_json(&self, users: &[u64]) -> Value {
        users
            .iter()
            .map(|&user| self.user_json(Some(user)))
            .collect()
    }

    pub(crate) fn group_json(&self, group: &Group) -> Value {
        let full_path = self.group_path(group.id);
        let mut names: Vec<&str> = self
            .ancestors(group.id)
            .iter()
            .filter_map(|id| Some(self.groups.get(id)?.name.as_str()))
            .collect();
        names.reverse();
        json!({
            "id": group.id,
            "web_url": format!("{}/groups/{full_path}", self.external_url),
            "name": group.name,
            "path": group.path,
            "description": "",
            "visibility": group.visibility.as_str(),
            "share_with_group_lock": false,
            "require_two_factor_authentication": false,
            "two_factor_grace_period": 48,
            "project_creation_level": "developer",
            "auto_devops_enabled": null,
            "subgroup_creation_level": "maintainer",
            "emails_disabled": false,
            "emails_enabled": true,
            "mentions_disabled": null,
            "lfs_enabled": true,
            "archived": false,
            "default_branch": null,
            "default_branch_protection": 2,
            "avatar_url": null,
            "request_access_enabled": true,
            "full_name": names.join(" / "),
            "full_path": full_path,
            "created_at": group.created_at.rest(),
            "parent_id": group.parent,
            "organization_id": 1,
            "shared_runners_setting": "enabled",
            "ldap_cn": null,
            "ldap_access": null,
            "marked_for_deletion_on": null,
            "wiki_access_level": "enabled",
            "shared_with_groups": [],
            "prevent_sharing_groups_outside_hierarchy": false,
        })
    }

    fn access_level(project: &Project, feature: Feature) -> &'static str {
        if project.disabled.contains(&feature) {
            "disabled"
        } else {
            "enabled"
        }
    }

    pub(crate) fn project_json(
        &self,
        viewer: Viewer,
        project: &Project,
        statistics: bool,
    ) -> Value {
        let (path, url, api) = (
            self.project_path(project),
            self.project_url(project),
            self.api(),
        );
        let group = self.groups.get(&project.group);
        let on = |feature| !project.disabled.contains(&feature);
        let level = |feature| Self::access_level(project, feature);
        let open = project.issues.values().filter(|issue| issue.open).count();
        let role = self.role(viewer, project);
        let own = format!("{api}/projects/{}", project.id);
        let mut out = json!({
            "id": project.id,
            "description": project.description,
            "description_html": "",
            "name": project.name,
            "name_with_namespace": format!("{} / {}", group.map_or("", |g| g.name.as_str()), project.name),
            "path": project.path,
            "path_with_namespace": path,
            "created_at": project.created_at.rest(),
            "updated_at": project.updated_at.rest(),
            "tag_list": [],
            "topics": [],
            "ssh_url_to_repo": format!("git@gitlab.example.com:{path}.git"),
            "http_url_to_repo": format!("{url}.git"),
            "web_url": url,
            "readme_url": format!("{url}/-/blob/main/README.md"),
            "forks_count": 0,
            "avatar_url": null,
            "star_count": 1,
            "last_activity_at": project.last_activity_at.rest(),
            "namespace": {
                "id": project.group,
                "name": group.map_or("", |g| g.name.as_str()),
                "path": group.map_or("", |g| g.path.as_str()),
                "kind": "group",
                "full_path": self.group_path(project.group),
                "parent_id": group.and_then(|g| g.parent),
                "avatar_url": null,
                "web_url": format!("{}/groups/{}", self.external_url, self.group_path(project.group)),
            },
            "container_registry_image_prefix": format!("registry.example.com/{path}"),
            "_links": {
                "self": own,
                "issues": format!("{own}/issues"),
                "merge_requests": format!("{own}/merge_requests"),
                "repo_branches": format!("{own}/repository/branches"),
                "labels": format!("{own}/labels"),
                "events": format!("{own}/events"),
                "members": format!("{own}/members"),
                "cluster_agents": format!("{own}/cluster_agents"),
            },
        });
        // In parts, because the macro that builds them is recursive.
        let more = json!({
            "marked_for_deletion_at": project.marked_for_deletion_at.map(|at| at.date().to_string()),
            "marked_for_deletion_on": project.marked_for_deletion_at.map(|at| at.date().to_string()),
            "packages_enabled": true,
            "empty_repo": project.repository.is_empty(),
            "archived": self.is_archived(project),
            "visibility": project.visibility.as_str(),
            "resolve_outdated_diff_discussions": false,
            "repository_object_format": "sha1",
            "issues_enabled": on(Feature::Issues),
            "merge_requests_enabled": on(Feature::MergeRequests),
            "wiki_enabled": true,
            "jobs_enabled": on(Feature::Builds),
            "snippets_enabled": true,
            "container_registry_enabled": true,
            "service_desk_enabled": false,
            "can_create_merge_request_in": true,
            "issues_access_level": level(Feature::Issues),
            "repository_access_level": level(Feature::Repository),
            "merge_requests_access_level": level(Feature::MergeRequests),
            "forking_access_level": "enabled",
            "wiki_access_level": "enabled",
            "builds_access_level": level(Feature::Builds),
            "snippets_access_level": "enabled",
            "pages_access_level": "private",
            "analytics_access_level": "enabled",
            "container_registry_access_level": "enabled",
            "security_and_compliance_access_level": "private",
            "releases_access_level": level(Feature::Releases),
        });
        extend(&mut out, more);
        let more = json!({
            "environments_access_level": "enabled",
            "feature_flags_access_level": "enabled",
            "infrastructure_access_level": "enabled",
            "monitor_access_level": "enabled",
            "model_experiments_access_level": "enabled",
            "model_registry_access_level": "enabled",
            "emails_disabled": false,
            "emails_enabled": true,
            "shared_runners_enabled": true,
            "lfs_enabled": true,
            "creator_id": project.creator,
            "import_url": null,
            "import_type": null,
            "import_status": "none",
            "import_error": null,
            "open_issues_count": open,
        });
        extend(&mut out, more);
        let more = json!({
            "ci_default_git_depth": 20,
            "ci_config_path": "",
            "public_jobs": true,
            "shared_with_groups": project.shared_with.iter().map(|&id| json!({
                "group_id": id,
                "group_name": self.groups.get(&id).map(|g| g.name.clone()),
                "group_full_path": self.group_path(id),
                "group_access_level": 30,
                "expires_at": null,
            })).collect::<Value>(),
            "only_allow_merge_if_pipeline_succeeds": false,
            "allow_merge_on_skipped_pipeline": null,
            "request_access_enabled": true,
            "only_allow_merge_if_all_discussions_are_resolved": false,
            "remove_source_branch_after_merge": true,
            "merge_method": "merge",
            "squash_option": "default_off",
            "enforce_auth_checks_on_uploads": true,
            "printing_merge_request_link_enabled": true,
            "issue_branch_template": null,
            "warn_about_potentially_unwanted_characters": true,
            "requirements_access_level": "enabled",
            "suggestion_commit_message": null,
            "merge_commit_template": null,
            "squash_commit_template": null,
            "autoclose_referenced_issues": true,
            "external_authorization_classification_label": "",
            "requirements_enabled": false,
            "security_and_compliance_enabled": false,
            "compliance_frameworks": [],
            "permissions": {
                "project_access": null,
                "group_access": role.map(|role| json!({ "access_level": role as u8, "notification_level": 3 })),
            },
        });
        extend(&mut out, more);
        if self.sees_code(viewer, project) {
            out["default_branch"] = json!(project.repository.default_branch);
        }
        if role >= Some(Role::Maintainer) {
            out["runners_token"] = json!(format!("sim-runners-secret-{}", project.id));
        }
        if statistics && role >= Some(Role::Reporter) {
            let head: Vec<String> = project
                .repository
                .default_head()
                .cloned()
                .into_iter()
                .collect();
            let commits = project.repository.reachable(&head).len();
            out["statistics"] = json!({
                "commit_count": commits,
                "storage_size": 1_038_090,
                "repository_size": 1_038_090,
                "wiki_size": 0,
                "lfs_objects_size": 0,
                "job_artifacts_size": 0,
                "pipeline_artifacts_size": 0,
                "packages_size": 0,
                "snippets_size": 0,
                "uploads_size": 0,
                "container_registry_size": 0,
            });
        }
        out
    }

    pub(crate) fn project_simple_json(&self, viewer: Viewer, project: &Project) -> Value {
        let full = self.project_json(viewer, project, false);
        pick(
            &full,
            &[
                "id",
                "description",
                "name",
                "name_with_namespace",
                "path",
                "path_with_namespace",
                "created_at",
                "default_branch",
                "tag_list",
                "topics",
                "ssh_url_to_repo",
                "http_url_to_repo",
                "web_url",
                "readme_url",
                "forks_count",
                "avatar_url",
                "star_count",
                "last_activity_at",
                "visibility",
                "namespace",
            ],
        )
    }

    fn milestone_json(&self, project: &Project, milestone: Option<u64>) -> Value {
        let Some(found) = milestone.and_then(|id| project.milestones.get(&id)) else {
            return Value::Null;
        };
        let Milestone {
            id,
            iid,
            title,
            created_at,
        } = found;
        json!({
            "id": id,
            "iid": iid,
            "project_id": project.id,
            "title": title,
            "description": "",
            "state": "active",
            "created_at": created_at.rest(),
            "updated_at": created_at.rest(),
            "due_date": null,
            "start_date": null,
            "expired": false,
            "web_url": format!("{}/-/milestones/{iid}", self.project_url(project)),
        })
    }

    fn labels_json(labels: &std::collections::BTreeSet<String>, details: bool) -> Value {
        if !details {
            return json!(labels);
        }
        let detail = |name: &String| {
            json!({
                "id": name.len(), "name": name, "description": null, "description_html": "", "color": "#6699cc",
                "text_color": "#FFFFFF", "archived": false,
            })
        };
        labels.iter().map(detail).collect()
    }

    fn tasks(text: Option<&String>) -> Value {
        let text = text.map_or("", String::as_str);
        let done = text.matches("- [x]").count();
        json!({ "count": done + text.matches("- [ ]").count(), "completed_count": done })
    }

    pub(crate) fn merge_request_json(
        &self,
        project: &Project,
        found: &MergeRequest,
        label_details: bool,
    ) -> Value {
        let url = self.project_url(project);
        let open = found.state == MergeState::Opened;
        let merged_by = self.user_json(found.merged.and_then(|(_, who)| who));
        let assignee = found.assignees.first().copied();
        let unresolved = found
            .threads
            .discussions
            .iter()
            .any(|d| !d.individual && d.notes.iter().any(|n| n.resolved.is_none()));
        let draft = found.title.starts_with("Draft:");
        let mut out = json!({
            "id": found.id,
            "iid": found.iid,
            "project_id": project.id,
            "title": found.title,
            "description": found.description,
            "state": found.state.as_str(),
            "created_at": found.created_at.rest(),
            "updated_at": found.updated_at.rest(),
            "merged_by": merged_by,
            "merge_user": merged_by,
            "merged_at": time(found.merged.map(|(at, _)| at)),
            "merge_after": null,
            "closed_by": self.user_json(found.closed.and_then(|(_, who)| who)),
            "closed_at": time(found.closed.map(|(at, _)| at)),
            "target_branch": found.target_branch,
            "source_branch": found.source_branch,
            "user_notes_count": found.threads.user_notes(),
            "upvotes": found.upvotes,
            "downvotes": 0,
            "author": self.user_json(found.author),
            "assignees": self.users_json(&found.assignees),
            "assignee": self.user_json(assignee),
            "reviewers": self.users_json(&found.reviewers),
            "source_project_id": found.source_project,
            "target_project_id": project.id,
            "labels": Self::labels_json(&found.labels, label_details),
            "draft": draft,
            "imported": false,
            "imported_from": "none",
        });
        let more = json!({
            "work_in_progress": draft,
            "milestone": self.milestone_json(project, found.milestone),
            "merge_when_pipeline_succeeds": false,
            "merge_status": "can_be_merged",
            "detailed_merge_status": if open { "mergeable" } else { "not_open" },
            "sha": found.sha,
            "merge_commit_sha": found.merge_commit,
            "squash_commit_sha": null,
            "discussion_locked": null,
            "should_remove_source_branch": null,
            "force_remove_source_branch": true,
            "prepared_at": found.sha.as_ref().map(|_| found.created_at.rest()),
            "reference": format!("!{}", found.iid),
            "references": {
                "short": format!("!{}", found.iid),
                "relative": format!("!{}", found.iid),
                "full": format!("{}!{}", self.project_path(project), found.iid),
            },
            "web_url": format!("{url}/-/merge_requests/{}", found.iid),
            "time_stats": { "time_estimate": 0, "total_time_spent": 0, "human_time_estimate": null, "human_total_time_spent": null },
            "squash": false,
            "squash_on_merge": false,
            "task_completion_status": Self::tasks(found.description.as_ref()),
            "has_conflicts": false,
            "blocking_discussions_resolved": !unresolved,
            "approvals_before_merge": null,
        });
        extend(&mut out, more);
        out
    }

    pub(crate) fn merge_request_detail_json(
        &self,
        viewer: Viewer,
        project: &Project,
        found: &MergeRequest,
    ) -> Value {
        let mut out = self.merge_request_json(project, found, false);
        let head = found
            .sha
            .as_ref()
            .and_then(|sha| project.pipelines.values().rev().find(|p| &p.sha == sha));
        let parent = found
            .sha
            .as_ref()
            .and_then(|sha| project.repository.commits.get(sha)?.parents.first());
        out["subscribed"] = json!(false);
        out["changes_count"] = json!(found.sha.as_ref().map(|_| if found.iid.is_multiple_of(50) {
            "1000+"
        } else {
            "3"
        }));
        out["latest_build_started_at"] = time(head.and_then(|p| p.started_at));
        out["latest_build_finished_at"] = time(head.and_then(|p| p.finished_at));
        out["first_deployed_to_production_at"] = Value::Null;
        out["pipeline"] = head.map_or(Value::Null, |p| self.pipeline_json(project, p));
        out["head_pipeline"] = head.map_or(Value::Null, |p| self.pipeline_detail_json(project, p));
        out["diff_refs"] = found.sha.as_ref().map_or(Value::Null, |sha| {
            json!({ "base_sha": parent.unwrap_or(sha), "head_sha": sha, "start_sha": parent.unwrap_or(sha) })
        });
        out["merge_error"] = Value::Null;
        out["first_contribution"] = json!(false);
        out["user"] = json!({ "can_merge": self.role(viewer, project) >= Some(Role::Developer) });
        out
    }

    pub(crate) fn issue_json(
        &self,
        project: &Project,
        found: &Issue,
        label_details: bool,
    ) -> Value {
        let url = self.project_url(project);
        let own = format!(
            "{}/projects/{}/issues/{}",
            self.api(),
            project.id,
            found.iid
        );
        let reference = format!("#{}", found.iid);
        let mut out = json!({
            "id": found.id,
            "iid": found.iid,
            "project_id": project.id,
            "title": found.title,
            "description": found.description,
            "state": if found.open { "opened" } else { "closed" },
            "created_at": found.created_at.rest(),
            "updated_at": found.updated_at.rest(),
            "closed_at": time(found.closed.map(|(at, _)| at)),
            "closed_by": self.user_json(found.closed.and_then(|(_, who)| who)),
            "labels": Self::labels_json(&found.labels, label_details),
            "milestone": self.milestone_json(project, found.milestone),
            "assignees": self.users_json(&found.assignees),
            "author": self.user_json(found.author),
            "type": found.issue_type.to_uppercase(),
            "assignee": self.user_json(found.assignees.first().copied()),
            "user_notes_count": found.threads.user_notes(),
            "merge_requests_count": 0,
            "upvotes": found.upvotes,
            "downvotes": 0,
        });
        let more = json!({
            "start_date": null,
            "due_date": found.due_date,
            "confidential": found.confidential,
            "discussion_locked": null,
            "issue_type": found.issue_type,
            "web_url": format!("{url}/-/issues/{}", found.iid),
            "time_stats": { "time_estimate": 0, "total_time_spent": 0, "human_time_estimate": null, "human_total_time_spent": null },
            "task_completion_status": Self::tasks(found.description.as_ref()),
            "weight": null,
            "blocking_issues_count": 0,
            "has_tasks": true,
            "task_status": "0 of 0 checklist items completed",
            "_links": {
                "self": own,
                "notes": format!("{own}/notes"),
                "award_emoji": format!("{own}/award_emoji"),
                "project": format!("{}/projects/{}", self.api(), project.id),
                "closed_as_duplicate_of": null,
            },
            "references": { "short": reference, "relative": reference, "full": format!("{}{reference}", self.project_path(project)) },
            "severity": "UNKNOWN",
            "moved_to_id": found.moved_to,
            "imported": false,
            "imported_from": "none",
            "service_desk_reply_to": null,
        });
        extend(&mut out, more);
        out
    }

    pub(crate) fn note_json(&self, target: Target, parent_id: u64, note: &Note) -> Value {
        let resolvable =
            !note.system && note.kind != NoteKind::Plain && target.kind == Noteable::MergeRequest;
        let mut out = json!({
            "id": note.id,
            "type": match note.kind {
                NoteKind::Plain => Value::Null,
                NoteKind::Discussion => json!("DiscussionNote"),
                NoteKind::Diff => json!("DiffNote"),
            },
            "body": note.body,
            "author": self.user_json(note.author),
            "created_at": note.created_at.rest(),
            "updated_at": note.updated_at.rest(),
            "system": note.system,
            "noteable_id": parent_id,
            "noteable_type": target.kind.as_str(),
            "project_id": target.project,
            "resolvable": resolvable,
            "confidential": note.internal,
            "internal": note.internal,
            "imported": false,
            "imported_from": "none",
            "noteable_iid": target.iid,
            "commands_changes": {},
        });
        if resolvable {
            out["resolved"] = json!(note.resolved.is_some());
            out["resolved_by"] = self.user_json(note.resolved.map(|(who, _)| who));
            out["resolved_at"] = time(note.resolved.map(|(_, at)| at));
        }
        if let Some(position) = &note.position {
            out["commit_id"] = Value::Null;
            out["suggestions"] = json!([]);
            out["position"] = json!({
                "base_sha": position.base_sha,
                "start_sha": position.base_sha,
                "head_sha": position.head_sha,
                "old_path": position.path,
                "new_path": position.path,
                "position_type": "text",
                "old_line": null,
                "new_line": position.line,
                "line_range": null,
            });
        }
        out
    }

    pub(crate) fn discussion_json(
        &self,
        target: Target,
        parent_id: u64,
        discussion: &Discussion,
        notes: &[&Note],
    ) -> Value {
        json!({
            "id": discussion.id,
            "individual_note": discussion.individual,
            "notes": notes.iter().map(|note| self.note_json(target, parent_id, note)).collect::<Value>(),
        })
    }

    pub(crate) fn commit_json(&self, project: &Project, commit: &Commit, stats: bool) -> Value {
        let committed = commit.committed_at.git(commit.offset_minutes);
        let mut out = json!({
            "id": commit.sha,
            "short_id": commit.sha.get(..8).unwrap_or(&commit.sha),
            "created_at": committed,
            "parent_ids": commit.parents,
            "title": commit.title(),
            "message": commit.message,
            "author_name": commit.author_name,
            "author_email": commit.author_email,
            "authored_date": commit.authored_at.git(commit.offset_minutes),
            "committer_name": commit.committer_name,
            "committer_email": commit.author_email,
            "committed_date": committed,
            "trailers": {},
            "extended_trailers": {},
            "web_url": format!("{}/-/commit/{}", self.project_url(project), commit.sha),
        });
        if stats {
            out["stats"] = json!({ "additions": 5, "deletions": 2, "total": 7 });
        }
        out
    }

    pub(crate) fn pipeline_json(&self, project: &Project, found: &Pipeline) -> Value {
        json!({
            "id": found.id,
            "iid": found.iid,
            "project_id": project.id,
            "sha": found.sha,
            "ref": found.reference,
            "status": found.status,
            "source": found.source,
            "created_at": found.created_at.rest(),
            "updated_at": time(found.updated_at),
            "web_url": format!("{}/-/pipelines/{}", self.project_url(project), found.id),
            "name": found.name,
        })
    }

    pub(crate) fn pipeline_detail_json(&self, project: &Project, found: &Pipeline) -> Value {
        let mut out = self.pipeline_json(project, found);
        out["before_sha"] = json!("0".repeat(40));
        out["tag"] = json!(project.repository.tags.contains_key(&found.reference));
        out["yaml_errors"] = Value::Null;
        out["user"] = self.user_json(found.user);
        out["started_at"] = time(found.started_at);
        out["finished_at"] = time(found.finished_at);
        out["committed_at"] = Value::Null;
        out["duration"] = json!(found.duration);
        out["queued_duration"] = json!(found.started_at.map(|_| 4));
        out["coverage"] = json!(found.coverage);
        out["archived"] = json!(false);
        out["detailed_status"] = json!({
            "icon": format!("status_{}", found.status),
            "text": found.status,
            "label": found.status,
            "group": found.status,
            "tooltip": found.status,
            "has_details": true,
            "details_path": format!("/{}/-/pipelines/{}", self.project_path(project), found.id),
            "illustration": null,
            "favicon": format!("/assets/ci_favicons/favicon_status_{}.png", found.status),
        });
        out
    }

    pub(crate) fn release_json(
        &self,
        viewer: Viewer,
        project: &Project,
        found: &Release,
        html: bool,
    ) -> Value {
        let (url, path) = (self.project_url(project), self.project_path(project));
        let code = self.sees_feature(viewer, project, Feature::Repository);
        let tag = super::call::encode(&found.tag);
        let commit = found
            .sha
            .as_ref()
            .and_then(|sha| project.repository.commits.get(sha))
            .filter(|_| code);
        let links: Vec<Value> = found
            .links
            .iter()
            .enumerate()
            .map(|(index, (name, link))| json!({ "id": index, "name": name, "url": link, "direct_asset_url": link, "link_type": "other" }))
            .collect();
        let formats = ["zip", "tar.gz", "tar.bz2", "tar"];
        let sources: Vec<Value> = formats
            .iter()
            .filter(|_| code)
            .map(|format| json!({ "format": format, "url": format!("{url}/-/archive/{tag}/{}-{tag}.{format}", project.path) }))
            .collect();
        let listing = |kind: &str, state: &str| {
            format!("{url}/-/{kind}?release_tag={tag}&scope=all&state={state}")
        };
        let mut out = json!({
            "name": found.name,
            "tag_name": found.tag,
            "description": found.description,
            "created_at": found.created_at.rest(),
            "released_at": found.released_at.rest(),
            "upcoming_release": found.released_at > self.now(),
            "author": self.user_json(found.author),
            "milestones": [],
            "commit_path": format!("/{path}/-/commit/{}", found.sha.as_deref().unwrap_or_default()),
            "tag_path": format!("/{path}/-/tags/{tag}"),
            "assets": { "count": sources.len() + links.len(), "sources": sources, "links": links },
            "evidences": [],
            "_links": {
                "closed_issues_url": listing("issues", "closed"),
                "closed_merge_requests_url": listing("merge_requests", "closed"),
                "merged_merge_requests_url": listing("merge_requests", "merged"),
                "opened_issues_url": listing("issues", "opened"),
                "opened_merge_requests_url": listing("merge_requests", "opened"),
                "self": format!("{url}/-/releases/{tag}"),
            },
        });
        if let Some(commit) = commit {
            out["commit"] = self.commit_json(project, commit, false);
        }
        if html {
            let text = found.description.as_deref().unwrap_or_default();
            out["description_html"] = json!(format!("<p dir=\"auto\">{text}</p>"));
        }
        out
    }

    pub(crate) fn event_json(&self, project: &Project, event: &Event) -> Value {
        let mut out = json!({
            "id": event.id,
            "project_id": project.id,
            "action_name": event.action,
            "target_id": event.target_id,
            "target_iid": event.target_iid,
            "target_type": event.target_type,
            "author_id": event.author,
            "target_title": event.target_title,
            "created_at": event.created_at.rest(),
            "author": self.user_json(event.author),
            "imported": false,
            "imported_from": "none",
            "author_username": event.author.and_then(|id| self.users.get(&id)).map(|user| user.username.clone()),
        });
        if let Some((branch, from, to, count)) = &event.push {
            out["push_data"] = json!({
                "commit_count": count,
                "action": if from.is_none() { "created" } else { "pushed" },
                "ref_type": "branch",
                "commit_from": from,
                "commit_to": to,
                "ref": branch,
                "commit_title": to.as_ref().and_then(|sha| project.repository.commits.get(sha)).map(Commit::title),
                "ref_count": null,
            });
        }
        if event.action == "commented on" {
            let requests = project
                .merge_requests
                .values()
                .map(|f| (Target::merge_request(project.id, f.iid), f.id, &f.threads));
            let issues = project
                .issues
                .values()
                .map(|f| (Target::issue(project.id, f.iid), f.id, &f.threads));
            let note = requests
                .chain(issues)
                .filter(|(target, _, _)| Some(target.iid) == event.target_iid)
                .find_map(|(target, id, threads)| {
                    let note = threads
                        .notes()
                        .find(|note| Some(note.id) == event.target_id)?;
                    Some(self.note_json(target, id, note))
                });
            out["note"] = note.unwrap_or(Value::Null);
        }
        out
    }
}

/// Adds the fields of one object to another.
pub(crate) fn extend(out: &mut Value, more: Value) {
    if let (Some(out), Value::Object(more)) = (out.as_object_mut(), more) {
        out.extend(more);
    }
}

/// Some fields of an object.
pub(crate) fn pick(full: &Value, names: &[&str]) -> Value {
    let fields = names
        .iter()
        .filter_map(|&name| Some((name.to_owned(), full.get(name)?.clone())));
    Value::Object(fields.collect())
}
