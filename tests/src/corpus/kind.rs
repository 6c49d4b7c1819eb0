//! What a JSON value is a record of, judged by its fields.
//!
//! Folders of recorded traffic also hold error bodies, hook bodies, counts and objects of other kinds, and the documentation
//! shows several kinds under one heading. Only an issue needs a hint from where it was found: milestones and epics look alike.

use std::fmt;

use serde_json::Value;

/// A kind of record that the connector reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    MergeRequest,
    Issue,
    Note,
    Discussion,
    Commit,
    Pipeline,
    Release,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::MergeRequest,
        Self::Issue,
        Self::Note,
        Self::Discussion,
        Self::Commit,
        Self::Pipeline,
        Self::Release,
    ];

    /// As source ids name it; a discussion has no source id of its own.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::MergeRequest => "merge_request",
            Self::Issue => "issue",
            Self::Note => "note",
            Self::Discussion => "discussion",
            Self::Commit => "commit",
            Self::Pipeline => "pipeline",
            Self::Release => "release",
        }
    }

    /// What the value is a record of. `among_issues`: it was found where issues are listed or shown.
    pub(crate) fn of(value: &Value, among_issues: bool) -> Option<Self> {
        let has = |field: &str| value.get(field).is_some_and(|value| !value.is_null());
        let has_any = |fields: &[&str]| fields.iter().any(|field| value.get(field).is_some());
        let text = |field: &str| value.get(field).and_then(Value::as_str);
        let branches = has_any(&["source_branch", "target_branch"]);
        if value.get("notes").is_some_and(Value::is_array) || has("individual_note") {
            Some(Self::Discussion)
        } else if has("iid") && (branches || is_short_merge_request(value)) {
            Some(Self::MergeRequest)
        } else if has("tag_name") {
            Some(Self::Release)
        } else if has("short_id")
            || (text("id").is_some_and(is_sha) && has_any(&["message", "title"]))
        {
            Some(Self::Commit)
        } else if ["id", "ref", "sha", "status"].into_iter().all(has)
            // Jobs, statuses of commits, and deployments.
            && !has_any(&["stage", "allow_failure", "environment"])
        {
            Some(Self::Pipeline)
        } else if text("body").is_some() && has_any(&["noteable_type", "noteable_id", "author"]) {
            Some(Self::Note)
        } else if among_issues && has("iid") && has("title") {
            Some(Self::Issue)
        } else {
            None
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.word())
    }
}

/// `view=simple` leaves the branches out; the address still says what it is.
fn is_short_merge_request(value: &Value) -> bool {
    value.get("title").is_some()
        && value
            .get("web_url")
            .and_then(Value::as_str)
            .is_some_and(|url| url.contains("/merge_requests/"))
}

fn is_sha(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
