//! What the GitLab of the corpus answers: for each record a project that holds nothing else.
//!
//! One record a project keeps the records apart: ids repeat in recordings of different servers, and what one record does to the
//! connector must not hide what another one does.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::collect::Record;
use super::kind::Kind;

/// The iid of the merge request or issue that a recorded comment is served under.
const PARENT_IID: u64 = 1;

/// The list that the parent of a comment is served in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parent {
    MergeRequest,
    Issue,
}

impl Parent {
    /// The parent of a recorded note or discussion, by what it says itself. Comments on commits, snippets and epics go under
    /// an issue: the connector does not read them where they were, but their shape is a comment's.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        let noteable = |note: &Value| {
            note.get("noteable_type").and_then(Value::as_str) == Some("MergeRequest")
        };
        let is_of_merge_request = match record.kind {
            Kind::Note => noteable(&record.value),
            Kind::Discussion => notes(&record.value).iter().any(noteable),
            _ => return None,
        };
        Some(if is_of_merge_request {
            Self::MergeRequest
        } else {
            Self::Issue
        })
    }

    fn list(self) -> &'static str {
        match self {
            Self::MergeRequest => "merge_requests",
            Self::Issue => "issues",
        }
    }

    pub(crate) fn source_id(self, project: u64) -> String {
        let kind = match self {
            Self::MergeRequest => Kind::MergeRequest,
            Self::Issue => Kind::Issue,
        };
        format!("gl:{kind}:{project}/{PARENT_IID}")
    }
}

/// The notes of a discussion.
pub(crate) fn notes(discussion: &Value) -> &[Value] {
    discussion
        .get("notes")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The project of a record, as project lists show it.
pub(crate) fn project(record: &Record) -> Value {
    json!({
        "id": record.project,
        "path_with_namespace": format!("corpus/{}-{}", record.kind, record.project),
        "namespace": {"full_path": "corpus"},
        "default_branch": "main",
        "empty_repo": false,
    })
}

/// One keyset page of all projects.
pub(crate) fn projects(records: &[Record], id_after: u64, per_page: usize) -> &[Record] {
    let start = records.partition_point(|record| record.project <= id_after);
    let end = records.len().min(start + per_page.clamp(1, 100));
    &records[start..end]
}

/// The answer to a request below the project of the record; `None` is 404.
pub(crate) fn answer(record: &Record, path: &[&str]) -> Option<Value> {
    let only = |kind: Kind| {
        let rows = (record.kind == kind).then_some(&record.value);
        Value::from_iter(rows.cloned())
    };
    let parent = Parent::of(record);
    match path {
        [] => Some(project(record)),
        [list @ ("merge_requests" | "issues")] => match parent {
            Some(parent) if parent.list() == *list => Some(json!([comment_parent(record)])),
            Some(_) => Some(json!([])),
            None if *list == "issues" => Some(only(Kind::Issue)),
            None => Some(only(Kind::MergeRequest)),
        },
        // What a recorded merge request or issue says of its comments does not matter: they are not on record with it.
        ["merge_requests" | "issues", _, "discussions"] => Some(match record.kind {
            Kind::Note => json!([{
                "id": discussion_id(record),
                "individual_note": true,
                "notes": [record.value],
            }]),
            Kind::Discussion => json!([record.value]),
            _ => json!([]),
        }),
        ["repository", "commits"] => Some(only(Kind::Commit)),
        ["pipelines"] => Some(only(Kind::Pipeline)),
        ["pipelines", _] if record.kind == Kind::Pipeline => Some(record.value.clone()),
        ["releases"] => Some(only(Kind::Release)),
        _ => None,
    }
}

fn comment_parent(record: &Record) -> Value {
    json!({
        "id": record.project,
        "iid": PARENT_IID,
        "project_id": record.project,
        "title": "Parent of a recorded comment",
        "state": "opened",
        "created_at": "2026-01-01T00:00:00.000Z",
        "updated_at": "2026-01-01T00:00:00.000Z",
        "user_notes_count": 1,
    })
}

/// 40 hex digits, as GitLab makes them.
fn discussion_id(record: &Record) -> String {
    let digest = Sha256::digest(record.project.to_be_bytes());
    digest[..20]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
