//! What happens to repositories, pipelines, releases and projects.
//!
//! These are the changes that a reader by timestamps cannot see: commits whose dates lie in the past, branches that were
//! rewritten, finished pipelines that run again, projects that moved, lost a feature or went away.

use super::clock::Micros;
use super::model::{Commit, Event, Feature, MergeState, Pipeline, Release, Role};
use super::mutate::{Done, Mutation, Refused, refused};
use super::webhooks::{Announcement, HookOwner, RefChange, Trigger};
use super::world::World;

impl World {
    // ---- repository ---------------------------------------------------------------------------------------------

    fn new_commit(&mut self, parents: Vec<String>, message: &str, at: Micros) -> Commit {
        let sha = self.next_object();
        let author = self.somebody();
        let name = self
            .users
            .get(&author)
            .map_or("Somebody", |user| user.name.as_str())
            .to_owned();
        Commit {
            sha,
            parents,
            message: message.to_owned(),
            author_email: format!("user{author}@example.com"),
            author_name: name.clone(),
            authored_at: at,
            committer_name: name,
            committed_at: at,
            offset_minutes: 60,
        }
    }

    fn record_push(
        &mut self,
        project: u64,
        branch: &str,
        from: Option<String>,
        to: Option<String>,
        count: usize,
    ) {
        let (author, now) = (self.somebody(), self.now());
        let action = if from.is_none() {
            "pushed new"
        } else {
            "pushed to"
        };
        let event = Event {
            id: 0,
            action: action.to_owned(),
            target_type: None,
            target_id: None,
            target_iid: None,
            target_title: None,
            author: Some(author),
            created_at: now,
            push: Some((branch.to_owned(), from, to, count)),
        };
        self.record(project, event);
    }

    /// What follows a push to one branch: a row in the feed, hooks, and the merge requests of that branch.
    fn pushed(&mut self, project: u64, branch: &str, from: Option<String>, to: &str, count: usize) {
        self.record_push(project, branch, from.clone(), Some(to.to_owned()), count);
        let change = RefChange {
            reference: format!("refs/heads/{branch}"),
            before: from,
            after: Some(to.to_owned()),
        };
        self.announce_push(project, vec![change]);
        let now = self.now();
        let Some(found) = self.projects.get_mut(&project) else {
            return;
        };
        let mut refreshed = Vec::new();
        for request in found.merge_requests.values_mut().filter(|request| {
            request.state == MergeState::Opened
                && request.source_branch == branch
                && request.source_project == Some(project)
        }) {
            let oldrev = request.sha.replace(to.to_owned());
            request.updated_at = now;
            refreshed.push((request.iid, oldrev));
        }
        for (iid, oldrev) in refreshed {
            self.announce(Announcement::MergeRequest {
                project,
                iid,
                action: "update".to_owned(),
                changes: serde_json::json!({}),
                oldrev,
            });
        }
    }

    /// Makes branches (`refs/heads/…`) and tags (`refs/tags/…`) at the head of the default branch, and removes others, all in one
    /// push. `Mutation::id` is the number of references.
    ///
    /// # Errors
    /// If the project does not exist or has no commits, a name is neither, or a reference to be removed does not exist.
    pub fn push_refs(&mut self, project: u64, made: &[String], removed: &[String]) -> Done {
        let repository = &mut self.project_mut(project)?.repository;
        let Some(head) = repository.default_head().cloned() else {
            return refused("an empty repository");
        };
        let is_ref =
            |name: &&String| name.starts_with("refs/heads/") || name.starts_with("refs/tags/");
        if let Some(name) = made.iter().find(|name| !is_ref(name)) {
            return refused(format!("{name}: neither refs/heads/… nor refs/tags/…"));
        }
        let known = |name: &&String| {
            let branch = name
                .strip_prefix("refs/heads/")
                .map(|name| repository.branches.contains_key(name));
            branch.or_else(|| {
                name.strip_prefix("refs/tags/")
                    .map(|name| repository.tags.contains_key(name))
            }) == Some(true)
        };
        if let Some(name) = removed.iter().find(|name| !known(name)) {
            return refused(format!("no {name}"));
        }
        let mut changes = Vec::new();
        for (reference, remove) in made
            .iter()
            .map(|name| (name, false))
            .chain(removed.iter().map(|name| (name, true)))
        {
            let list = if reference.starts_with("refs/tags/") {
                &mut repository.tags
            } else {
                &mut repository.branches
            };
            let name = reference.splitn(3, '/').last().unwrap_or_default();
            let before = if remove {
                list.remove(name)
            } else {
                list.insert(name.to_owned(), head.clone())
            };
            changes.push(RefChange {
                reference: reference.clone(),
                before,
                after: (!remove).then(|| head.clone()),
            });
        }
        let count = changes.len();
        self.announce_push(project, changes);
        Ok(Mutation::new("push_refs", project, count, ""))
    }

    /// Pushes `count` commits to a branch (creating it from the default branch), dated `age_seconds` before now: with a large
    /// age, commits arrive whose committer dates lie before everything that a reader has already seen. `Mutation::id` is the
    /// new head.
    ///
    /// # Errors
    /// If the project does not exist.
    pub fn push_commits(
        &mut self,
        project: u64,
        branch: &str,
        count: usize,
        age_seconds: i64,
    ) -> Done {
        let now = self.now();
        let repository = &mut self.project_mut(project)?.repository;
        repository.exists = true;
        let before = repository.branches.get(branch).cloned();
        let mut head = before
            .clone()
            .or_else(|| repository.default_head().cloned());
        for index in 0..count.max(1) {
            let step = i64::try_from(count - index.min(count)).unwrap_or(0);
            let at = now.plus_seconds(-age_seconds - step);
            let commit = self.new_commit(
                head.into_iter().collect(),
                &format!("Pushed change {} of {count}\n", index + 1),
                at,
            );
            head = Some(commit.sha.clone());
            self.project_mut(project)?
                .repository
                .commits
                .insert(commit.sha.clone(), commit);
        }
        let Some(head) = head else {
            return refused("nothing to push");
        };
        self.project_mut(project)?
            .repository
            .branches
            .insert(branch.to_owned(), head.clone());
        self.pushed(project, branch, before, &head, count.max(1));
        Ok(Mutation::new(
            "push_commits",
            project,
            head,
            format!("{count} to {branch}, {age_seconds} s old"),
        ))
    }

    /// Merges an old side branch into the default branch: two side commits dated `age_seconds` ago and forked a few commits
    /// back, and a merge commit dated now, whose sha is `Mutation::id`.
    ///
    /// # Errors
    /// If the project does not exist or has no commits.
    pub fn push_merge(&mut self, project: u64, message: &str, age_seconds: i64) -> Done {
        let now = self.now();
        let repository = &self.project_mut(project)?.repository;
        let branch = repository.default_branch.clone();
        let Some(head) = repository.default_head().cloned() else {
            return refused("an empty repository");
        };
        let mut fork = head.clone();
        for _ in 0..3 {
            let parent = repository
                .commits
                .get(&fork)
                .and_then(|commit| commit.parents.first());
            fork = parent.unwrap_or(&fork).clone();
        }
        let first = self.new_commit(
            vec![fork],
            "Side change 1\n",
            now.plus_seconds(-age_seconds - 60),
        );
        let second = self.new_commit(
            vec![first.sha.clone()],
            "Side change 2\n",
            now.plus_seconds(-age_seconds),
        );
        let merge = self.new_commit(vec![head.clone(), second.sha.clone()], message, now);
        let sha = merge.sha.clone();
        let repository = &mut self.project_mut(project)?.repository;
        for commit in [first, second, merge] {
            repository.commits.insert(commit.sha.clone(), commit);
        }
        repository.branches.insert(branch.clone(), sha.clone());
        self.pushed(project, &branch, Some(head), &sha, 3);
        Ok(Mutation::new(
            "push_merge",
            project,
            sha,
            format!("side branch {age_seconds} s old"),
        ))
    }

    /// Force-pushes a branch: its last `drop` commits (first parents) are replaced by `add` new ones. The old head stays
    /// fetchable by sha until `Repository::collect_garbage`.
    ///
    /// # Errors
    /// If there is no such branch.
    pub fn force_push(&mut self, project: u64, branch: &str, drop: usize, add: usize) -> Done {
        let now = self.now();
        let repository = &mut self.project_mut(project)?.repository;
        let Some(old) = repository.branches.get(branch).cloned() else {
            return refused(format!("no branch {branch}"));
        };
        repository.hidden.push(old.clone());
        let mut head = Some(old.clone());
        for _ in 0..drop {
            head = head.and_then(|sha| repository.commits.get(&sha)?.parents.first().cloned());
        }
        for index in 0..add.max(1) {
            let commit = self.new_commit(
                head.into_iter().collect(),
                &format!("Rewritten change {}\n", index + 1),
                now,
            );
            head = Some(commit.sha.clone());
            self.project_mut(project)?
                .repository
                .commits
                .insert(commit.sha.clone(), commit);
        }
        let Some(head) = head else {
            return refused("nothing to push");
        };
        self.project_mut(project)?
            .repository
            .branches
            .insert(branch.to_owned(), head.clone());
        self.pushed(project, branch, Some(old), &head, add.max(1));
        Ok(Mutation::new(
            "force_push",
            project,
            head,
            format!("{branch}: -{drop} +{add}"),
        ))
    }

    // ---- pipelines ----------------------------------------------------------------------------------------------

    /// Starts a pipeline on the default branch; its id is `Mutation::id`.
    ///
    /// # Errors
    /// If the project does not exist.
    pub fn new_pipeline(&mut self, project: u64, status: &str, source: &str) -> Done {
        let (now, user, id) = (self.now(), self.somebody(), self.next_id());
        let found = self.project_mut(project)?;
        found.last_iid.pipeline += 1;
        let pipeline = Pipeline {
            id,
            iid: found.last_iid.pipeline,
            sha: found
                .repository
                .default_head()
                .cloned()
                .unwrap_or_else(|| "0".repeat(40)),
            reference: found.repository.default_branch.clone(),
            status: "created".to_owned(),
            source: source.to_owned(),
            name: None,
            created_at: now,
            updated_at: Some(now),
            started_at: None,
            finished_at: None,
            duration: None,
            coverage: None,
            user: Some(user),
        };
        found.pipelines.insert(id, pipeline);
        self.set_pipeline_status(project, id, status)?;
        Ok(Mutation::new("new_pipeline", project, id, status))
    }

    /// Moves a pipeline to another status. A terminal one gets `finished_at`, duration and, on success, coverage; going back
    /// to `running` (a retried job) takes them away again.
    ///
    /// # Errors
    /// If there is no such pipeline.
    pub fn set_pipeline_status(&mut self, project: u64, id: u64, status: &str) -> Done {
        let now = self.now();
        let Some(found) = self.project_mut(project)?.pipelines.get_mut(&id) else {
            return refused(format!("no pipeline {id}"));
        };
        let moved = found.status != status;
        status.clone_into(&mut found.status);
        found.updated_at = Some(now);
        if status == "running" {
            found.started_at = found.started_at.or(Some(now));
        }
        let done = found.is_terminal() && status != "skipped";
        found.finished_at = done.then_some(now);
        let seconds = (now.0 - found.created_at.0) / super::clock::SECOND;
        found.duration = done.then(|| u64::try_from(seconds).unwrap_or(0));
        found.coverage = (status == "success").then(|| "87.65".to_owned());
        if moved {
            self.announce(Announcement::Pipeline { project, id });
        }
        Ok(Mutation::new("set_pipeline_status", project, id, status))
    }

    /// Deletes a pipeline, as retention does.
    ///
    /// # Errors
    /// If there is no such pipeline.
    pub fn delete_pipeline(&mut self, project: u64, id: u64) -> Done {
        match self.project_mut(project)?.pipelines.remove(&id) {
            Some(gone) => Ok(Mutation::new("delete_pipeline", project, id, gone.status)),
            None => refused(format!("no pipeline {id}")),
        }
    }

    // ---- releases -----------------------------------------------------------------------------------------------

    /// Publishes a release `released_in_seconds` from now: negative is in the past, positive is upcoming.
    ///
    /// # Errors
    /// If the project does not exist, or has this tag released already.
    pub fn new_release(
        &mut self,
        project: u64,
        tag: &str,
        description: &str,
        released_in_seconds: i64,
    ) -> Done {
        let (now, author) = (self.now(), self.somebody());
        let found = self.project_mut(project)?;
        if found.releases.contains_key(tag) {
            return refused(format!("release {tag} exists"));
        }
        let sha = found.repository.default_head().cloned();
        let mut fresh_tag = None;
        if let Some(sha) = &sha
            && found
                .repository
                .tags
                .insert(tag.to_owned(), sha.clone())
                .is_none()
        {
            fresh_tag = Some(RefChange {
                reference: format!("refs/tags/{tag}"),
                before: None,
                after: Some(sha.clone()),
            });
        }
        let release = Release {
            tag: tag.to_owned(),
            name: format!("Release {tag}"),
            description: Some(description.to_owned()),
            created_at: now,
            updated_at: now,
            released_at: now.plus_seconds(released_in_seconds),
            author: Some(author),
            sha,
            links: Vec::new(),
        };
        found.releases.insert(tag.to_owned(), release);
        found.updated_at = now; // releases touch their project
        if let Some(change) = fresh_tag {
            self.announce_push(project, vec![change]);
        }
        self.announce_release(project, tag, "create");
        Ok(Mutation::new(
            "new_release",
            project,
            tag,
            format!("released in {released_in_seconds} s"),
        ))
    }

    /// Edits the text of a release: no JSON field shows when.
    ///
    /// # Errors
    /// If there is no such release.
    pub fn edit_release(&mut self, project: u64, tag: &str, description: &str) -> Done {
        let now = self.now();
        let found = self.project_mut(project)?;
        found.updated_at = now;
        let Some(release) = found.releases.get_mut(tag) else {
            return refused(format!("no release {tag}"));
        };
        release.description = Some(description.to_owned());
        release.updated_at = now;
        self.announce_release(project, tag, "update");
        Ok(Mutation::new("edit_release", project, tag, ""))
    }

    /// Deletes a release; its tag stays.
    ///
    /// # Errors
    /// If there is no such release.
    pub fn delete_release(&mut self, project: u64, tag: &str) -> Done {
        let Some(gone) = self.project_mut(project)?.releases.remove(tag) else {
            return refused(format!("no release {tag}"));
        };
        let mut body = self.release_body(&self.projects[&project], &gone, false);
        body["action"] = serde_json::json!("delete");
        self.announce(Announcement::Body {
            trigger: Trigger::Release,
            project: Some(project),
            group: None,
            body,
        });
        Ok(Mutation::new("delete_release", project, tag, gone.name))
    }

    fn announce_release(&mut self, project: u64, tag: &str, action: &str) {
        self.announce(Announcement::Release {
            project,
            tag: tag.to_owned(),
            action: action.to_owned(),
        });
    }

    // ---- projects -----------------------------------------------------------------------------------------------

    /// Leaves a redirect from the project's present path, unless the path is claimed again later.
    fn leave_redirect(&mut self, project: u64) -> Result<String, Refused> {
        let found = self
            .projects
            .get(&project)
            .ok_or_else(|| Refused(format!("no project {project}")))?;
        let old = self.project_path(found);
        self.redirects.insert(old.to_lowercase(), project);
        Ok(old)
    }

    /// Tells system hooks, and on creation and destruction also the hooks of the groups, what became of a project.
    fn announce_project(&mut self, event: &str, project: u64, old_path: Option<&str>) {
        let Some(found) = self.projects.get(&project) else {
            return;
        };
        let (body, group) = (self.project_event(event, found, old_path), found.group);
        self.announce_lifecycle(body.clone());
        if matches!(event, "project_create" | "project_destroy") {
            self.announce(Announcement::Body {
                trigger: Trigger::Project,
                project: None,
                group: Some(group),
                body,
            });
        }
    }

    /// Renames a project's path; the old path redirects.
    ///
    /// # Errors
    /// If the project does not exist.
    pub fn rename_project(&mut self, project: u64, path: &str) -> Done {
        let old = self.leave_redirect(project)?;
        let now = self.now();
        let found = self.project_mut(project)?;
        path.clone_into(&mut found.path);
        path.clone_into(&mut found.name);
        found.updated_at = now;
        self.forget_claimed_redirects();
        self.announce_project("project_rename", project, Some(&old));
        Ok(Mutation::new("rename_project", project, path, old))
    }

    /// Moves a project to another group; the id stays and the old path redirects.
    ///
    /// # Errors
    /// If the project or the group does not exist.
    pub fn transfer_project(&mut self, project: u64, group: u64) -> Done {
        if !self.groups.contains_key(&group) {
            return refused(format!("no group {group}"));
        }
        let old = self.leave_redirect(project)?;
        let now = self.now();
        let found = self.project_mut(project)?;
        found.group = group;
        found.updated_at = now;
        self.forget_claimed_redirects();
        self.announce_project("project_transfer", project, Some(&old));
        Ok(Mutation::new("transfer_project", project, group, old))
    }

    /// Renames a group's path. The old paths of its projects redirect; its own does not, because groups never do. System hooks
    /// are told of the group, and not of the projects whose paths changed with it.
    ///
    /// # Errors
    /// If the group does not exist.
    pub fn rename_group(&mut self, group: u64, path: &str) -> Done {
        let old_full = self.group_path(group);
        let inside: Vec<u64> = self
            .group_projects(group, true, false)
            .iter()
            .map(|project| project.id)
            .collect();
        for project in inside {
            self.leave_redirect(project)?;
        }
        let Some(found) = self.groups.get_mut(&group) else {
            return refused(format!("no group {group}"));
        };
        let old = std::mem::replace(&mut found.path, path.to_owned());
        self.forget_claimed_redirects();
        let body = self.group_rename_event(group, &old, &old_full);
        self.announce_lifecycle(body);
        Ok(Mutation::new("rename_group", 0, group, old))
    }

    fn forget_claimed_redirects(&mut self) {
        let taken: Vec<String> = self
            .projects
            .values()
            .map(|p| self.project_path(p).to_lowercase())
            .collect();
        self.redirects.retain(|path, _| !taken.contains(path));
    }

    /// Switches a feature on or off.
    ///
    /// # Errors
    /// If the project does not exist.
    pub fn set_feature(&mut self, project: u64, feature: Feature, on: bool) -> Done {
        let now = self.now();
        let found = self.project_mut(project)?;
        if on {
            found.disabled.remove(&feature);
        } else {
            found.disabled.insert(feature);
        }
        found.updated_at = now;
        self.announce_project("project_update", project, None);
        Ok(Mutation::new(
            "set_feature",
            project,
            format!("{feature:?}"),
            on.to_string(),
        ))
    }

    /// Archives a project, or brings it back.
    ///
    /// # Errors
    /// If the project does not exist.
    pub fn set_archived(&mut self, project: u64, archived: bool) -> Done {
        self.project_mut(project)?.archived = archived;
        self.announce_project("project_update", project, None);
        Ok(Mutation::new(
            "set_archived",
            project,
            project,
            archived.to_string(),
        ))
    }

    /// Adds an empty project with a repository and no commits to a group; its id is `Mutation::id`.
    ///
    /// # Errors
    /// If the group does not exist or the path is taken.
    pub fn add_project(&mut self, group: u64, path: &str) -> Done {
        if !self.groups.contains_key(&group) {
            return refused(format!("no group {group}"));
        }
        let full = format!("{}/{path}", self.group_path(group));
        if self.project_by_path(&full).is_some() {
            return refused(format!("{full} exists"));
        }
        let Some(mut project) = self.projects.values().next().cloned() else {
            return refused("no project to copy the settings of");
        };
        let (now, id) = (self.now(), self.next_id());
        project.id = id;
        path.clone_into(&mut project.path);
        path.clone_into(&mut project.name);
        project.group = group;
        project.archived = false;
        project.marked_for_deletion_at = None;
        (
            project.created_at,
            project.updated_at,
            project.last_activity_at,
        ) = (now, now, now);
        project.merge_requests.clear();
        project.issues.clear();
        project.pipelines.clear();
        project.releases.clear();
        project.events.clear();
        project.milestones.clear();
        project.disabled.clear();
        project.shared_with.clear();
        project.last_iid = Default::default();
        project.repository = super::model::Repository {
            exists: true,
            default_branch: "main".to_owned(),
            ..Default::default()
        };
        self.projects.insert(id, project);
        self.forget_claimed_redirects();
        self.announce_project("project_create", id, None);
        Ok(Mutation::new("add_project", id, id, full))
    }

    /// Marks a project for deletion: archived in effect and renamed to `<path>-deletion_scheduled-<id>`.
    ///
    /// # Errors
    /// If the project does not exist.
    pub fn mark_for_deletion(&mut self, project: u64) -> Done {
        let old = self.leave_redirect(project)?;
        let now = self.now();
        let found = self.project_mut(project)?;
        found.marked_for_deletion_at = Some(now);
        found.path = format!("{}-deletion_scheduled-{project}", found.path);
        found.name = format!("{}-deletion_scheduled-{project}", found.name);
        found.updated_at = now;
        self.announce_project("project_rename", project, Some(&old));
        Ok(Mutation::new("mark_for_deletion", project, project, old))
    }

    /// Deletes a project with everything in it.
    ///
    /// # Errors
    /// If the project does not exist.
    pub fn delete_project(&mut self, project: u64) -> Done {
        self.announce_project("project_destroy", project, None);
        match self.projects.remove(&project) {
            Some(gone) => {
                self.redirects.retain(|_, id| *id != project);
                let of_it = HookOwner::Project(project);
                self.webhooks.hooks.retain(|_, hook| hook.owner != of_it);
                Ok(Mutation::new("delete_project", project, project, gone.path))
            }
            None => refused(format!("no project {project}")),
        }
    }

    // ---- access -------------------------------------------------------------------------------------------------

    /// Revokes a token.
    ///
    /// # Errors
    /// If there is no such token.
    pub fn revoke_token(&mut self, value: &str) -> Done {
        match self.tokens.iter_mut().find(|token| token.value == value) {
            Some(token) => {
                token.revoked = true;
                Ok(Mutation::new("revoke_token", 0, &token.name, ""))
            }
            None => refused("no such token"),
        }
    }

    /// Gives the user of a token a role in a group, or takes membership away.
    ///
    /// # Errors
    /// If the token or the group does not exist.
    pub fn set_group_role(&mut self, token: &str, group: u64, role: Option<Role>) -> Done {
        let Some(user) = self
            .tokens
            .iter()
            .find(|found| found.value == token)
            .map(|found| found.user)
        else {
            return refused("no such token");
        };
        let Some(found) = self.groups.get_mut(&group) else {
            return refused(format!("no group {group}"));
        };
        let before = match role {
            Some(role) => found.members.insert(user, role),
            None => found.members.remove(&user),
        };
        let event = match (before, role) {
            (None, Some(_)) => "user_add_to_group",
            (Some(_), Some(_)) => "user_update_for_group",
            (_, None) => "user_remove_from_group",
        };
        let access = role.or(before).map(|role| format!("{role:?}"));
        let body = self.member_event(event, group, user, &access.unwrap_or_default());
        self.announce_lifecycle(body.clone());
        self.announce(Announcement::Body {
            trigger: Trigger::Member,
            project: None,
            group: Some(group),
            body,
        });
        Ok(Mutation::new(
            "set_group_role",
            0,
            group,
            format!("{role:?}"),
        ))
    }
}
