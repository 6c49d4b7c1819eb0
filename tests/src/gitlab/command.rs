//! Mutations by name with JSON arguments, for the control API.

use serde_json::Value;

use super::model::{Feature, MergeState, Role};
use super::mutate::{Done, Refused, refused};
use super::world::{Target, World};

/// The arguments of a command; what is absent is chosen.
struct Arguments<'a>(&'a Value);

impl Arguments<'_> {
    fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_u64()
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    fn flag(&self, name: &str, default: bool) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(default)
    }

    fn count(&self, name: &str, default: usize) -> usize {
        self.number(name)
            .and_then(|number| usize::try_from(number).ok())
            .unwrap_or(default)
    }

    fn seconds(&self, name: &str, default: i64) -> i64 {
        self.0.get(name).and_then(Value::as_i64).unwrap_or(default)
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Refused> {
        match self.0.get(name) {
            None => Ok(None),
            Some(value) => match serde_json::from_value(value.clone()) {
                Ok(value) => Ok(Some(value)),
                Err(error) => refused(format!("{name}: {error}")),
            },
        }
    }
}

fn need<T>(value: Option<T>, name: &str) -> Result<T, Refused> {
    value.ok_or_else(|| Refused(format!("argument {name} is missing")))
}

/// The names that [`World::command`] understands.
pub const COMMANDS: &[&str] = &[
    "new_merge_request",
    "edit_merge_request",
    "set_merge_request_state",
    "delete_merge_request",
    "new_issue",
    "edit_issue",
    "set_issue_open",
    "set_confidential",
    "delete_issue",
    "move_issue",
    "add_label",
    "bump",
    "bulk_edit",
    "add_note",
    "add_internal_note",
    "start_thread",
    "add_system_note",
    "reply",
    "edit_note",
    "delete_note",
    "resolve_thread",
    "push_commits",
    "push_merge",
    "force_push",
    "push_refs",
    "collect_garbage",
    "new_pipeline",
    "set_pipeline_status",
    "delete_pipeline",
    "new_release",
    "edit_release",
    "delete_release",
    "rename_project",
    "rename_group",
    "transfer_project",
    "set_feature",
    "set_archived",
    "add_project",
    "mark_for_deletion",
    "delete_project",
    "revoke_token",
    "set_group_role",
];

impl World {
    /// Makes the change of this name. `project` defaults to the first project; `iid` names a merge request or, with
    /// `"on": "issue"`, an issue, and defaults to the first one.
    ///
    /// # Errors
    /// If the name is unknown, an argument is missing, or its subject does not exist.
    pub fn command(&mut self, name: &str, arguments: &Value) -> Done {
        let args = Arguments(arguments);
        let first = self.projects.keys().next().copied();
        let project = need(args.number("project").or(first), "project")?;
        let on_issue = args.text("on") == Some("issue")
            || name.contains("issue")
            || name == "set_confidential";
        let iid = args.number("iid").or_else(|| {
            let found = self.projects.get(&project)?;
            if on_issue {
                found.issues.keys().next().copied()
            } else {
                found.merge_requests.keys().next().copied()
            }
        });
        let iid = iid.unwrap_or(0);
        let target = if on_issue {
            Target::issue(project, iid)
        } else {
            Target::merge_request(project, iid)
        };
        let text = args
            .text("text")
            .unwrap_or("A change made by the simulator.");
        let branch = args.text("branch").unwrap_or("main");
        let some_note = self.threads(target).and_then(|threads| {
            threads
                .notes()
                .find(|note| !note.system)
                .map(|note| note.id)
        });
        let note = args.number("note").or(some_note).unwrap_or(0);
        match name {
            "new_merge_request" => self.new_merge_request(
                project,
                args.text("title").unwrap_or("A new merge request"),
                Some(text),
            ),
            "edit_merge_request" => {
                self.edit_merge_request(project, iid, args.text("title"), Some(text))
            }
            "set_merge_request_state" => {
                let state = args.parse("state")?.unwrap_or(MergeState::Merged);
                self.set_merge_request_state(project, iid, state)
            }
            "delete_merge_request" => self.delete_merge_request(project, iid),
            "new_issue" => {
                let title = args.text("title").unwrap_or("A new issue");
                self.new_issue(project, title, Some(text), args.flag("confidential", false))
            }
            "edit_issue" => self.edit_issue(project, iid, args.text("title"), Some(text)),
            "set_issue_open" => self.set_issue_open(project, iid, args.flag("open", false)),
            "set_confidential" => {
                self.set_confidential(project, iid, args.flag("confidential", true))
            }
            "delete_issue" => self.delete_issue(project, iid),
            "move_issue" => self.move_issue(project, iid, need(args.number("to"), "to")?),
            "add_label" => self.add_label(target, args.text("label").unwrap_or("simulated")),
            "bump" => self.bump(target),
            "bulk_edit" => self.bulk_edit(
                project,
                args.count("count", 50),
                args.text("label").unwrap_or("bulk"),
            ),
            "add_note" => self.add_note(target, text),
            "add_internal_note" => self.add_internal_note(target, text),
            "start_thread" => self.start_thread(target, text),
            "add_system_note" => self.add_system_note(target, text, args.flag("touches", true)),
            "reply" => self.reply(target, note, text),
            "edit_note" => self.edit_note(target, note, text),
            "delete_note" => self.delete_note(target, note),
            "resolve_thread" => self.resolve_thread(target, note, args.flag("resolved", true)),
            "push_commits" => self.push_commits(
                project,
                branch,
                args.count("count", 1),
                args.seconds("age_seconds", 0),
            ),
            "push_merge" => self.push_merge(project, text, args.seconds("age_seconds", 86_400)),
            "force_push" => {
                self.force_push(project, branch, args.count("drop", 1), args.count("add", 1))
            }
            "push_refs" => self.push_refs(
                project,
                &args.parse::<Vec<String>>("made")?.unwrap_or_default(),
                &args.parse::<Vec<String>>("removed")?.unwrap_or_default(),
            ),
            "collect_garbage" => {
                self.project_mut(project)?.repository.collect_garbage();
                Ok(super::mutate::Mutation::new(
                    "collect_garbage",
                    project,
                    project,
                    "",
                ))
            }
            "new_pipeline" => self.new_pipeline(
                project,
                args.text("status").unwrap_or("success"),
                args.text("source").unwrap_or("push"),
            ),
            "set_pipeline_status" => {
                let last = self
                    .projects
                    .get(&project)
                    .and_then(|found| found.pipelines.keys().last().copied());
                let id = need(args.number("id").or(last), "id")?;
                self.set_pipeline_status(project, id, args.text("status").unwrap_or("running"))
            }
            "delete_pipeline" => self.delete_pipeline(project, need(args.number("id"), "id")?),
            "new_release" => {
                let tag = need(args.text("tag"), "tag")?;
                self.new_release(project, tag, text, args.seconds("released_in_seconds", 0))
            }
            "edit_release" => self.edit_release(project, need(args.text("tag"), "tag")?, text),
            "delete_release" => self.delete_release(project, need(args.text("tag"), "tag")?),
            "rename_project" => self.rename_project(project, need(args.text("path"), "path")?),
            "rename_group" => self.rename_group(
                need(args.number("group"), "group")?,
                need(args.text("path"), "path")?,
            ),
            "transfer_project" => {
                self.transfer_project(project, need(args.number("group"), "group")?)
            }
            "set_feature" => {
                let feature: Feature = need(args.parse("feature")?, "feature")?;
                self.set_feature(project, feature, args.flag("on", false))
            }
            "set_archived" => self.set_archived(project, args.flag("archived", true)),
            "add_project" => {
                let group = args
                    .number("group")
                    .or_else(|| self.top_groups().first().copied());
                self.add_project(
                    need(group, "group")?,
                    args.text("path").unwrap_or("new-project"),
                )
            }
            "mark_for_deletion" => self.mark_for_deletion(project),
            "delete_project" => self.delete_project(project),
            "revoke_token" => self.revoke_token(need(args.text("token"), "token")?),
            "set_group_role" => {
                let role: Option<Role> = args.parse("role")?;
                self.set_group_role(
                    need(args.text("token"), "token")?,
                    need(args.number("group"), "group")?,
                    role,
                )
            }
            _ => refused(format!(
                "no mutation {name}; there are {}",
                COMMANDS.join(", ")
            )),
        }
    }
}
