//! What a record of GitLab means to CortexDB. Pure: the same record gives the same experience, always.
//!
//! The host recognises a change by the bytes of content, labels and attributes. So whatever moves without the record having
//! changed stays out: comment counts, votes, merge checks, times, addresses. And every record must come out with a text and
//! a valid time, however little of it is there, because what CortexDB refuses is a dead letter that somebody has to look at.

use std::borrow::Cow;

use crate::gitlab::{Commit, Issue, Label, MergeRequest, Milestone, Note, Pipeline, Release, User};
use crate::host::{Experience, Modality, Origin, Thread};
use crate::sorted::SortedSet;
use crate::text::{is_blank, is_printable_ascii};
use crate::time::{Moment, rfc3339};

/// Labels and attributes of one record, together. CortexDB takes 64; the rest is for marks of the host.
const MARKS: usize = 58;

/// Bytes of one label, and of one attribute with its key and the sign between them.
const MARK_BYTES: usize = 256;

/// A project that is being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Project {
    pub(crate) id: u64,
    pub(crate) path: String,
    /// Full path of the group or user that it belongs to.
    pub(crate) group: String,
    pub(crate) default_branch: Option<String>,
    pub(crate) empty: bool,
    /// When something last happened in it, at most an hour too early; `None` where GitLab does not say.
    pub(crate) last_activity: Option<Moment>,
    /// When its settings or releases last changed.
    pub(crate) updated: Option<Moment>,
    /// Whether this token's user may use issues.
    pub(crate) issues: bool,
    /// And merge requests.
    pub(crate) merge_requests: bool,
}

impl Project {
    /// What GitLab says about a project; `None` without an id.
    pub(crate) fn new(project: crate::gitlab::Project) -> Option<Self> {
        let id = project.id?;
        let path = project
            .path_with_namespace
            .filter(|path| !path.is_empty())
            .unwrap_or_else(|| id.to_string());
        let group = project.namespace.and_then(|namespace| namespace.full_path);
        let group = group.or_else(|| path.rsplit_once('/').map(|(group, _)| group.to_owned()));
        Some(Self {
            id,
            group: group.unwrap_or_else(|| path.clone()),
            path,
            default_branch: project.default_branch.filter(|branch| !branch.is_empty()),
            empty: project.empty_repo == Some(true),
            last_activity: project.last_activity_at.as_deref().and_then(Moment::parse),
            updated: project.updated_at.as_deref().and_then(Moment::parse),
            issues: project.issues_enabled != Some(false),
            merge_requests: project.merge_requests_enabled != Some(false),
        })
    }

    /// The origin of everything in this project.
    pub(crate) fn origin(&self) -> Origin {
        Origin {
            id: format!("project/{}", self.id),
            variables: vec![
                ("project_path", self.path.clone()),
                ("project_id", self.id.to_string()),
                ("group_path", self.group.clone()),
            ],
        }
    }

    /// `gl:<event type>:<project id>/<id>`.
    pub(crate) fn source_id(&self, event_type: &str, id: &str) -> String {
        ["gl:", event_type, ":", &self.id.to_string(), "/", id].concat()
    }
}

/// Maps the records of one project.
#[derive(Clone, Copy)]
pub(crate) struct Mapper<'a> {
    pub(crate) project: &'a Project,
    /// For records that have no time at all, and to tell what lies in the future.
    pub(crate) now: &'a str,
}

/// What a comment belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) source_id: String,
    pub(crate) confidential: bool,
}

impl Mapper<'_> {
    /// A merge request; `None` without an iid.
    pub(crate) fn merge_request(&self, row: &MergeRequest) -> Option<Experience> {
        let iid = row.iid?.to_string();
        let mut marks = self.marks("merge_request");
        marks.author(row.author.as_deref());
        marks.people(
            "assignee",
            assignees(&row.assignees, row.assignee.as_deref()),
        );
        marks.people(
            "reviewer",
            row.reviewers.iter().flatten().map(|user| &**user),
        );
        marks.milestone(row.milestone.as_deref());
        marks.titles(&row.labels);
        marks.text("state", row.state.as_deref());
        marks.flag("draft", row.draft.or(row.work_in_progress));
        marks.text("source_branch", row.source_branch.as_deref());
        marks.text("target_branch", row.target_branch.as_deref());
        let content = titled(row.title.as_deref(), row.description.as_deref(), || {
            format!("(untitled merge request !{iid})")
        });
        let times = self.times([&row.updated_at, &row.created_at], &row.created_at);
        Some(self.experience(
            "merge_request",
            &iid,
            Modality::Document,
            content,
            times,
            row.author.as_deref(),
            marks,
        ))
    }

    /// An issue; `None` without an iid.
    pub(crate) fn issue(&self, row: &Issue) -> Option<Experience> {
        let iid = row.iid?.to_string();
        let mut marks = self.marks("issue");
        if row.confidential == Some(true) {
            marks.fixed.push("confidential".to_owned());
        }
        marks.author(row.author.as_deref());
        marks.people(
            "assignee",
            assignees(&row.assignees, row.assignee.as_deref()),
        );
        marks.milestone(row.milestone.as_deref());
        marks.titles(&row.labels);
        marks.text("state", row.state.as_deref());
        let kind = row
            .issue_type
            .clone()
            .or_else(|| row.kind.as_ref().map(|kind| kind.to_ascii_lowercase()));
        marks.text("type", kind.as_deref());
        marks.number("weight", row.weight);
        marks.number("moved_to", row.moved_to_id);
        let content = titled(row.title.as_deref(), row.description.as_deref(), || {
            format!("(untitled issue #{iid})")
        });
        let times = self.times([&row.updated_at, &row.created_at], &row.created_at);
        Some(self.experience(
            "issue",
            &iid,
            Modality::Document,
            content,
            times,
            row.author.as_deref(),
            marks,
        ))
    }

    /// A comment; `None` without an id or a text. `before` is the source id of what it answers.
    pub(crate) fn note(
        &self,
        note: &Note,
        discussion: Option<&str>,
        parent: &Parent,
        before: &str,
    ) -> Option<Experience> {
        let id = note.id?.to_string();
        let content = note.body.clone().filter(|body| !is_blank(body))?;
        let mut marks = self.marks("note");
        if parent.confidential || is_internal(note) {
            marks.fixed.push("confidential".to_owned());
        }
        marks.author(note.author.as_deref());
        marks.text("parent", Some(&parent.source_id));
        marks.text("discussion", discussion);
        // A reply turns a single comment into a `DiscussionNote` that can be resolved: that says something about the reply, not
        // about this comment, and must not rewrite it.
        let kind = note.kind.as_deref().filter(|kind| kind.contains("Diff"));
        marks.text("note_type", kind);
        if note.resolved == Some(true) {
            marks.flag("resolved", note.resolved);
        }
        if let Some(position) = &note.position {
            marks.text(
                "path",
                position
                    .new_path
                    .as_deref()
                    .or(position.old_path.as_deref()),
            );
            marks.number("line", position.new_line.or(position.old_line));
        }
        let times = self.times([&note.created_at, &None], &None);
        let mut experience = self.experience(
            "note",
            &id,
            Modality::Conversation,
            content,
            times,
            note.author.as_deref(),
            marks,
        );
        experience.preceded_by.push(before.to_owned());
        let turn = note
            .created_at
            .as_deref()
            .and_then(Moment::parse)
            .map_or(0, Moment::unix_seconds_clamped);
        experience.thread = Some(Thread {
            root: parent.source_id.clone(),
            turn,
        });
        Some(experience)
    }

    /// A commit; `None` without a sha. Authors of commits are names, not GitLab users.
    pub(crate) fn commit(&self, row: &Commit) -> Option<Experience> {
        let sha = row.id.clone().filter(|sha| !is_blank(sha))?;
        let mut marks = self.marks("commit");
        marks.text("sha", Some(&sha));
        marks.text("author", row.author_name.as_deref());
        if row.committer_name != row.author_name {
            marks.text("committer", row.committer_name.as_deref());
        }
        let title = row.title.as_deref().filter(|title| !is_blank(title));
        let message = row.message.as_deref().filter(|message| !is_blank(message));
        let content = match (title, message) {
            // GitLab shortens long titles with an ellipsis; the message is whole.
            (Some(title), Some(message))
                if message
                    .trim_start()
                    .starts_with(title.trim_end_matches(['.', '…']).trim()) =>
            {
                message.to_owned()
            }
            (Some(title), Some(message)) => format!("{title}\n\n{message}"),
            (Some(text), None) | (None, Some(text)) => text.to_owned(),
            (None, None) => format!(
                "(commit {} without a message)",
                sha.chars().take(8).collect::<String>()
            ),
        };
        let times = self.times([&row.committed_date, &row.created_at], &row.created_at);
        let times = if times.dated {
            times
        } else {
            self.times([&row.authored_date, &None], &None)
        };
        Some(self.experience(
            "commit",
            &sha,
            Modality::Document,
            content,
            times,
            None,
            marks,
        ))
    }

    /// A pipeline, as its detail shows it; `None` without an id.
    pub(crate) fn pipeline(&self, row: &Pipeline) -> Option<Experience> {
        let id = row.id?.to_string();
        let duration = row.duration.map(|seconds| seconds.max(0.0));
        let coverage = row
            .coverage
            .as_deref()
            .filter(|coverage| !is_blank(coverage));
        let mut marks = self.marks("pipeline");
        marks.author(row.user.as_deref());
        marks.text("status", row.status.as_deref());
        marks.text("ref", row.reference.as_deref());
        marks.text("sha", row.sha.as_deref());
        marks.text("source", row.source.as_deref());
        marks.text("name", row.name.as_deref());
        marks.seconds("duration", duration);
        marks.seconds("queued_duration", row.queued_duration);
        marks.text("coverage", coverage);

        let mut lines = vec![format!(
            "Pipeline #{id} {}{}",
            row.status.as_deref().unwrap_or("of unknown status"),
            row.reference
                .as_ref()
                .map_or(String::new(), |reference| format!(" on {reference}")),
        )];
        let mut line = |name: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !is_blank(value)) {
                lines.push(format!("{name}: {value}"));
            }
        };
        line("name", row.name.clone());
        line("ref", row.reference.clone());
        line("sha", row.sha.clone());
        line("source", row.source.clone());
        line("duration", duration.map(readable_seconds));
        line("queued", row.queued_duration.map(readable_seconds));
        line("coverage", coverage.map(|percent| format!("{percent} %")));
        let times = self.times([&row.finished_at, &row.updated_at], &row.created_at);
        let times = if times.dated {
            times
        } else {
            self.times([&row.created_at, &None], &None)
        };
        let content = lines.join("\n");
        Some(self.experience(
            "pipeline",
            &id,
            Modality::Observation,
            content,
            times,
            row.user.as_deref(),
            marks,
        ))
    }

    /// A release; `None` without a tag.
    pub(crate) fn release(&self, row: &Release) -> Option<Experience> {
        let tag = row.tag_name.clone().filter(|tag| !is_blank(tag))?;
        let name = row
            .name
            .as_deref()
            .filter(|name| !is_blank(name) && *name != tag);
        let mut marks = self.marks("release");
        marks.author(row.author.as_deref());
        for milestone in row.milestones.iter().flatten() {
            marks.milestone(Some(milestone));
        }
        marks.text("tag", Some(&tag));
        marks.text("name", name);
        marks.text(
            "sha",
            row.commit.as_ref().and_then(|commit| commit.id.as_deref()),
        );
        let title = name.map_or_else(|| tag.clone(), |name| format!("{name} ({tag})"));
        let content = titled(Some(&title), row.description.as_deref(), String::new);
        // A release may be announced for a later day; it was observed no later than now. When it was made is GitLab's own time, and
        // lies ahead only of a run that began before: it is part of the version in every run.
        let future = |time: &str| Moment::parse(time) > Moment::parse(self.now);
        let released = row.released_at.clone().filter(|time| !future(time));
        let times = self.times([&released, &row.created_at], &row.created_at);
        Some(self.experience(
            "release",
            &tag,
            Modality::Document,
            content,
            times,
            row.author.as_deref(),
            marks,
        ))
    }

    fn marks(&self, event_type: &str) -> Marks {
        Marks {
            fixed: vec![
                "gitlab".to_owned(),
                event_type.to_owned(),
                ["project:", &self.project.id.to_string()].concat(),
            ],
            open: Vec::new(),
            attributes: Vec::new(),
        }
    }

    /// The first of the times that is one, and when the record was first stored. The second is part of a version, so it is always
    /// given: if it were left out while both are equal, the first touch of a record would look like a change.
    fn times(&self, observed: [&Option<String>; 2], recorded: &Option<String>) -> Times {
        let valid = |time: &Option<String>| time.as_deref().and_then(rfc3339);
        let observed = observed.into_iter().find_map(valid);
        Times {
            dated: observed.is_some(),
            observed: observed.unwrap_or_else(|| self.now.to_owned()),
            recorded: valid(recorded),
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one record, each of its own type"
    )]
    fn experience(
        &self,
        event_type: &'static str,
        id: &str,
        modality: Modality,
        content: String,
        times: Times,
        author: Option<&User>,
        mut marks: Marks,
    ) -> Experience {
        if matches!(event_type, "merge_request" | "issue") {
            marks.text("iid", Some(id));
        }
        let (labels, attributes) = marks.finish();
        Experience {
            // No id has white space at its ends; one that claims to would be refused for it.
            source_id: self.project.source_id(event_type, id.trim()),
            event_type,
            modality,
            content,
            observed_at: times.observed,
            recorded_at: times.recorded,
            author: author
                .and_then(|user| user.id)
                .map(|id| ["user:", &id.to_string()].concat()),
            labels,
            attributes,
            preceded_by: Vec::new(),
            thread: None,
        }
    }
}

/// Whether only people with a larger role may read this comment.
pub(crate) fn is_internal(note: &Note) -> bool {
    note.internal == Some(true) || note.confidential == Some(true)
}

struct Times {
    /// Whether GitLab gave a time at all.
    dated: bool,
    observed: String,
    recorded: Option<String>,
}

/// `title`, an empty line, `text`; the title alone where there is no text.
fn titled(title: Option<&str>, text: Option<&str>, untitled: impl FnOnce() -> String) -> String {
    let untitled = match title.filter(|title| !is_blank(title)) {
        Some(_) => String::new(),
        None => untitled(),
    };
    let title = title.filter(|_| untitled.is_empty()).unwrap_or(&untitled);
    match text.filter(|text| !is_blank(text)) {
        Some(text) => [title, "\n\n", text].concat(),
        None => title.to_owned(),
    }
}

fn assignees<'a>(
    several: &'a [Option<Box<User>>],
    only: Option<&'a User>,
) -> impl Iterator<Item = &'a User> {
    let only = only.filter(|_| several.iter().flatten().next().is_none());
    several.iter().flatten().map(|user| &**user).chain(only)
}

/// `1512 s (25 min 12 s)`.
fn readable_seconds(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, which is what is wanted"
    )]
    let whole = seconds.max(0.0) as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{seconds} s"),
        (0, minutes, rest) => format!("{seconds} s ({minutes} min {rest} s)"),
        (hours, minutes, rest) => format!("{seconds} s ({hours} h {minutes} min {rest} s)"),
    }
}

/// Labels and attributes in the making.
struct Marks {
    fixed: Vec<String>,
    /// Labels whose number the source decides.
    open: Vec<String>,
    attributes: Vec<(&'static str, String)>,
}

impl Marks {
    fn author(&mut self, author: Option<&User>) {
        if let Some(username) = author.and_then(|user| user.username.as_deref()) {
            self.fixed.extend(label("user", username));
        }
    }

    fn people<'a>(&mut self, role: &str, people: impl Iterator<Item = &'a User>) {
        let labels = people.filter_map(|user| label(role, user.username.as_deref()?));
        self.add_sorted(labels);
    }

    fn milestone(&mut self, milestone: Option<&Milestone>) {
        if let Some(title) = milestone.and_then(|milestone| milestone.title.as_deref()) {
            self.open.extend(label("milestone", title));
        }
    }

    fn titles(&mut self, labels: &[Label]) {
        let labels = labels
            .iter()
            .filter_map(|title| label("label", title.0.as_deref()?));
        self.add_sorted(labels);
    }

    /// GitLab's own order of people and labels is not promised.
    fn add_sorted(&mut self, labels: impl Iterator<Item = String>) {
        self.open.extend(labels.collect::<SortedSet<_>>());
    }

    fn text(&mut self, key: &'static str, value: Option<&str>) {
        let value = value.map(printable).unwrap_or_default();
        if !value.is_empty() {
            self.attributes
                .push((key, bounded(value.into_owned(), MARK_BYTES - key.len() - 1)));
        }
    }

    fn flag(&mut self, key: &'static str, value: Option<bool>) {
        self.text(key, value.map(|value| if value { "true" } else { "false" }));
    }

    fn number(&mut self, key: &'static str, value: Option<u64>) {
        self.text(key, value.map(|value| value.to_string()).as_deref());
    }

    fn seconds(&mut self, key: &'static str, value: Option<f64>) {
        self.text(key, value.map(|value| value.to_string()).as_deref());
    }

    fn finish(self) -> (Vec<String>, Vec<(&'static str, String)>) {
        let Self {
            fixed: mut labels,
            mut open,
            mut attributes,
        } = self;
        let room = MARKS.saturating_sub(labels.len() + attributes.len());
        if open.len() > room {
            let kept = room.saturating_sub(1);
            attributes.push(("labels_omitted", (open.len() - kept).to_string()));
            open.truncate(kept);
        }
        labels.append(&mut open);
        (labels, attributes)
    }
}

/// `key:value`, or nothing when the value is blank.
fn label(key: &str, value: &str) -> Option<String> {
    let value = printable(value);
    (!value.is_empty()).then(|| bounded([key, ":", &value].concat(), MARK_BYTES))
}

/// Control characters have no place in a label, and white space none at its ends.
fn printable(text: &str) -> Cow<'_, str> {
    // Nearly every text.
    if is_printable_ascii(text.as_bytes()) {
        return Cow::Borrowed(text.trim_ascii());
    }
    Cow::Owned(text.replace(char::is_control, " ").trim().to_owned())
}

/// At most `limit` bytes. A longer text ends in a digest of the whole, so that two long texts stay two.
fn bounded(text: String, limit: usize) -> String {
    if text.len() <= limit {
        return text;
    }
    let digest = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let kept = text.floor_char_boundary(limit - 9);
    format!(
        "{}~{:08x}",
        &text[..kept],
        (digest ^ (digest >> 32)) & 0xffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::gitlab::{
        Discussion,
        tests::{any_json, read},
    };
    use crate::json;
    use crate::testing::{NOW, assert_is_acceptable};

    fn project() -> Project {
        let project = read(&crate::testing::project());
        Project::new(project).expect("an id")
    }

    fn with_mapper<T>(map: impl FnOnce(Mapper<'_>) -> T) -> T {
        map(Mapper {
            project: &project(),
            now: NOW,
        })
    }

    fn merge_request() -> Value {
        json!({
            "id": 9001, "iid": 17, "project_id": 42, "title": "Add retry with back-off", "description": "Closes #3\r\n\r\n* done",
            "state": "merged", "draft": false, "created_at": "2026-11-01T09:00:00.123Z", "updated_at": "2026-11-20T12:00:00.456+02:00",
            "source_branch": "retry", "target_branch": "main", "author": {"id": 7, "username": "ada"},
            "assignees": [{"id": 9, "username": "zoe"}, {"id": 8, "username": "bob"}], "reviewers": [{"username": "eve"}, null],
            "labels": ["type::bug", {"name": "a,b"}, "  ", "type::bug"], "milestone": {"title": "18.9"},
            "user_notes_count": 4, "upvotes": 3, "merge_status": "can_be_merged", "web_url": "https://gitlab.com/x/-/17",
        })
    }

    #[test]
    fn a_merge_request_is_a_document_of_title_and_description() {
        let experience =
            with_mapper(|mapper| mapper.merge_request(&read(&merge_request()))).expect("mapped");
        insta::assert_debug_snapshot!(experience);
    }

    #[test]
    fn what_moves_without_a_change_does_not_show() {
        let before =
            with_mapper(|mapper| mapper.merge_request(&read(&merge_request()))).expect("mapped");
        let mut moved = merge_request();
        for (key, value) in [
            ("user_notes_count", json!(5)),
            ("upvotes", json!(9)),
            ("merge_status", json!("unchecked")),
            ("sha", json!("abc")),
            ("web_url", json!("https://gitlab.com/new/-/17")),
            ("labels", json!(["a,b", "type::bug"])),
            (
                "assignees",
                json!([{"username": "bob"}, {"username": "zoe"}]),
            ),
            ("detailed_merge_status", json!("checking")),
        ] {
            moved[key] = value;
        }
        let after = with_mapper(|mapper| mapper.merge_request(&read(&moved))).expect("mapped");
        assert_eq!(after, before);
    }

    #[test]
    fn an_issue_says_whether_it_is_confidential_and_where_it_went() {
        let experience = with_mapper(|mapper| {
            mapper.issue(&read(&json!({
                "iid": 3, "title": "It fails", "description": null, "state": "closed", "type": "INCIDENT", "confidential": true,
                "created_at": "2017-09-15 16:50:55 UTC", "author": {"id": 7}, "assignee": {"username": "bob"},
                "moved_to_id": 5005, "weight": 0,
            })))
        });
        insta::assert_debug_snapshot!(experience.expect("mapped"));
    }

    #[test]
    fn a_comment_is_a_turn_in_the_thread_of_its_parent() {
        let note: Note = read(&json!({
            "id": 2_147_483_650_u64, "type": "DiffNote", "body": "Why not `?` here", "author": {"id": 7, "username": "ada"},
            "created_at": "2026-11-20T10:00:00.000Z", "resolvable": true, "resolved": false,
            "position": {"old_path": "src/a.rs", "new_path": "src/b.rs", "old_line": null, "new_line": 12},
        }));
        let parent = Parent {
            source_id: "gl:merge_request:42/17".to_owned(),
            confidential: false,
        };
        let experience = with_mapper(|mapper| {
            mapper.note(&note, Some("6a9c"), &parent, "gl:note:42/2147483649")
        });
        insta::assert_debug_snapshot!(experience.expect("mapped"));
    }

    #[test]
    fn a_commit_is_its_message_whether_the_title_was_cut_or_not() {
        let commit = |title: &str, message: Value| {
            with_mapper(|mapper| {
                mapper.commit(&read(&json!({
                    "id": "dd9b6c54c0788301c86bdf058a8e91e3594a0a17", "title": title, "message": message, "author_name": "Ada",
                    "committer_name": "GitLab", "committed_date": "2021-04-27T07:18:37.000+02:00",
                    "created_at": "2021-04-27T07:18:37.000+02:00",
                })))
            })
            .expect("mapped")
        };
        insta::assert_debug_snapshot!(commit(
            "Fix it",
            json!("Fix it\n\nBecause it was broken.\n")
        ));
        assert_eq!(
            commit("A very long…", json!("A very long title\n\nText")).content,
            "A very long title\n\nText"
        );
        assert_eq!(
            commit("Title", json!("Only the body")).content,
            "Title\n\nOnly the body"
        );
        assert_eq!(commit("Title", Value::Null).content, "Title");
        assert_eq!(
            commit("", json!(" ")).content,
            "(commit dd9b6c54 without a message)"
        );
    }

    #[test]
    fn a_pipeline_is_an_observation_in_readable_lines() {
        let experience = with_mapper(|mapper| {
            mapper.pipeline(&read(&json!({
                "id": 1_078_343_570, "iid": 36229, "sha": "694ed6e", "ref": "refs/merge-requests/5394/head", "status": "success",
                "source": "merge_request_event", "created_at": "2023-11-20T07:17:08.753Z", "updated_at": "2023-11-21T01:54:29.757Z",
                "finished_at": "2023-11-21T01:54:29.748Z", "duration": 1512, "queued_duration": 1.5, "coverage": "68.49",
                "user": {"id": 9, "username": "sun.lei"}, "name": null,
            })))
        });
        insta::assert_debug_snapshot!(experience.expect("mapped"));
        assert_eq!(readable_seconds(59.0), "59 s");
        assert_eq!(readable_seconds(3_725.0), "3725 s (1 h 2 min 5 s)");
        assert_eq!(readable_seconds(-1.0), "-1 s");
    }

    #[test]
    fn a_release_is_a_document_and_the_future_does_it_no_harm() {
        let release = json!({
            "tag_name": "v2.0", "name": "Two", "description": "Notes", "created_at": "2026-11-19T10:00:00Z",
            "released_at": "2027-01-01T00:00:00Z", "author": {"id": 7, "username": "ada"}, "commit": {"id": "abc1234"},
            "milestones": [{"title": "18.9"}],
        });
        let experience = with_mapper(|mapper| mapper.release(&read(&release))).expect("mapped");
        insta::assert_debug_snapshot!(experience);
        let mut plain = release;
        plain["name"] = "v2.0".into();
        plain["description"] = Value::Null;
        plain["released_at"] = "2026-11-20T10:00:00Z".into();
        let experience = with_mapper(|mapper| mapper.release(&read(&plain))).expect("mapped");
        assert_eq!(experience.content, "v2.0");
        assert_eq!(experience.observed_at, "2026-11-20T10:00:00Z");
    }

    #[test]
    fn a_release_that_was_made_after_the_run_began_is_the_same_in_a_later_run() {
        let map = |now, released: Value| {
            let release = json!({"tag_name": "v2.0", "created_at": "2026-11-22T10:00:30Z", "released_at": released});
            let project = project();
            let mapper = Mapper {
                project: &project,
                now,
            };
            mapper.release(&read(&release)).expect("mapped")
        };
        for released in ["2026-11-22T10:00:30Z", "2027-01-01T00:00:00Z"] {
            let before = map("2026-11-22T10:00:00Z", released.into());
            assert_eq!(before.recorded_at.as_deref(), Some("2026-11-22T10:00:30Z"));
            assert_eq!(before.observed_at, "2026-11-22T10:00:30Z");
            assert_eq!(map("2026-11-22T10:05:00Z", released.into()), before);
        }
        assert_eq!(
            map("2026-11-22T10:00:00Z", Value::Null),
            map("2026-11-22T10:05:00Z", Value::Null)
        );
        // A day that was announced and has come: another time of what happened, which is no change.
        let announced = map("2027-01-02T00:00:00Z", "2027-01-01T00:00:00Z".into());
        assert_eq!(announced.observed_at, "2027-01-01T00:00:00Z");
        assert_eq!(
            announced.recorded_at.as_deref(),
            Some("2026-11-22T10:00:30Z")
        );
    }

    #[test]
    fn a_record_with_nothing_but_its_id_still_has_a_text_and_a_time() {
        with_mapper(|mapper| {
            let bare = [
                mapper.merge_request(&read(&json!({"iid": 17}))),
                mapper.issue(&read(
                    &json!({"iid": 3, "title": " ", "updated_at": "soon"}),
                )),
                mapper.commit(&read(&json!({"id": "dd9b6c54"}))),
                mapper.pipeline(&read(&json!({"id": 1}))),
                mapper.release(&read(&json!({"tag_name": "v1"}))),
            ];
            let texts: Vec<_> = bare
                .into_iter()
                .map(|experience| {
                    let experience = experience.expect("mapped");
                    assert_is_acceptable(&experience);
                    assert_eq!(experience.observed_at, NOW);
                    experience.content
                })
                .collect();
            assert_eq!(
                texts,
                [
                    "(untitled merge request !17)",
                    "(untitled issue #3)",
                    "(commit dd9b6c54 without a message)",
                    "Pipeline #1 of unknown status",
                    "v1"
                ]
            );
        });
    }

    #[test]
    fn more_labels_than_fit_are_counted_and_long_ones_stay_distinct() {
        let long = "é".repeat(200);
        let labels: Vec<String> = (0..80)
            .map(|n| format!("{n:02}"))
            .chain([format!("{long}a"), format!("{long}b")])
            .collect();
        let experience =
            with_mapper(|mapper| mapper.issue(&read(&json!({"iid": 1, "labels": labels}))))
                .expect("mapped");
        assert_is_acceptable(&experience);
        assert_eq!(experience.labels.len() + experience.attributes.len(), MARKS);
        let shown = experience
            .labels
            .iter()
            .filter(|label| label.starts_with("label:"))
            .count();
        let omitted = experience
            .attributes
            .iter()
            .find(|(key, _)| *key == "labels_omitted")
            .expect("counted");
        assert_eq!(shown + omitted.1.parse::<usize>().expect("a number"), 82);

        let (a, b) = (
            bounded(format!("label:{long}a"), 256),
            bounded(format!("label:{long}b"), 256),
        );
        assert!(a.len() <= 256 && b.len() <= 256 && a != b, "{a} {b}");
    }

    #[test]
    fn a_project_without_a_namespace_is_in_the_group_of_its_path() {
        let project =
            Project::new(read(&json!({"id": 1, "path_with_namespace": "a/b/c"}))).expect("an id");
        assert_eq!(project.group, "a/b");
        let project = Project::new(read(&json!({"id": 1}))).expect("an id");
        assert_eq!((project.path.as_str(), project.group.as_str()), ("1", "1"));
        assert_eq!(Project::new(read(&json!({}))), None);
    }

    /// Maps a value as every kind of record; answers how many came out.
    fn map_all(value: &Value) -> usize {
        fn row<T: json::Read>(value: &Value) -> Option<T> {
            json::from_str(&value.to_string()).ok()
        }
        with_mapper(|mapper| {
            let parent = Parent {
                source_id: "gl:issue:42/1".to_owned(),
                confidential: false,
            };
            let mut mapped = vec![
                row(value).and_then(|row| mapper.merge_request(&row)),
                row(value).and_then(|row| mapper.issue(&row)),
                row(value).and_then(|row| mapper.commit(&row)),
                row(value).and_then(|row| mapper.pipeline(&row)),
                row(value).and_then(|row| mapper.release(&row)),
                row(value).and_then(|row| mapper.note(&row, None, &parent, "gl:issue:42/1")),
            ];
            if let Some(discussion) = row::<Discussion>(value) {
                let id = discussion.id.as_deref();
                mapped.extend(
                    discussion
                        .notes
                        .iter()
                        .flatten()
                        .map(|note| mapper.note(note, id, &parent, "gl:issue:42/1")),
                );
            }
            mapped
                .into_iter()
                .flatten()
                .inspect(assert_is_acceptable)
                .count()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

        #[test]
        fn no_json_makes_the_mapping_panic_or_break_the_contract(value in any_json()) {
            map_all(&value);
        }

        #[test]
        fn labels_keep_to_their_limits(
            titles in prop::collection::vec("\\PC{0,9}|é{100,130}|[\\x00-\\x20]{0,3}", 0..90),
            people in prop::collection::vec("[a-z.-]{0,9}|z{240,260}", 0..90),
            branch in "\\PC{0,90}",
        ) {
            let people: Vec<_> = people.into_iter().map(|name| json!({"username": name})).collect();
            let row = json!({"iid": 1, "labels": titles, "assignees": people, "source_branch": branch});
            prop_assert_eq!(map_all(&row), 2);
        }
    }

    /// Needs the recorded answers of real GitLab instances: `GITLAB_CORPUS` is the folder that has `merge_requests/`, `issues/`, …
    #[test]
    fn every_recorded_record_is_mapped() {
        let Some(corpus) = std::env::var_os("GITLAB_CORPUS") else {
            return;
        };
        let corpus = std::path::PathBuf::from(corpus);
        let mut counts = Vec::new();
        for kind in [
            "merge_requests",
            "issues",
            "notes",
            "discussions",
            "commits",
            "pipelines",
            "releases",
        ] {
            let mut count = 0;
            for file in std::fs::read_dir(corpus.join(kind)).expect("a folder of the corpus") {
                let path = file.expect("a file").path();
                for line in std::fs::read_to_string(&path).expect("text").lines() {
                    let value: Value = serde_json::from_str(line).expect("JSON");
                    assert!(maps_as(kind, &value), "{}: {line}", path.display());
                    map_all(&value);
                    count += 1;
                }
            }
            counts.push((kind, count));
        }
        for file in
            std::fs::read_dir(corpus.join("doc-examples/rest")).expect("documentation examples")
        {
            let path = file.expect("a file").path();
            for line in std::fs::read_to_string(&path).expect("text").lines() {
                let example: Value = serde_json::from_str(line).expect("JSON");
                let body = &example["body"];
                body.as_array()
                    .into_iter()
                    .flatten()
                    .chain([body])
                    .for_each(|value| {
                        map_all(value);
                    });
            }
        }
        assert!(counts.iter().all(|(_, count)| *count > 0), "{counts:?}");
    }

    /// Whether a record comes out as what it is; comments may be blank.
    fn maps_as(kind: &str, value: &Value) -> bool {
        with_mapper(|mapper| match kind {
            "merge_requests" => mapper.merge_request(&read(value)).is_some(),
            "issues" => mapper.issue(&read(value)).is_some(),
            "commits" => mapper.commit(&read(value)).is_some(),
            "pipelines" => mapper.pipeline(&read(value)).is_some(),
            "releases" => mapper.release(&read(value)).is_some(),
            "notes" => read::<Note>(value).id.is_some(),
            _ => read::<Discussion>(value)
                .notes
                .iter()
                .flatten()
                .all(|note| note.id.is_some()),
        })
    }
}
