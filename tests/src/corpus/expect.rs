//! What must become of a record: which source ids, with which text, or left out by which policy.

use std::collections::BTreeSet;

use serde_json::Value;

use super::collect::Record;
use super::kind::Kind;
use super::world::notes;

/// What must become of a record, or of one comment of a discussion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Written, with these texts (name of the field, value) in it, word for word.
    Written {
        source_id: String,
        texts: Vec<(&'static str, String)>,
    },
    /// Left out by this policy.
    Skipped(&'static str),
    /// Nothing that a source id could be made of.
    Unnamed,
}

/// What must become of a record. A discussion has one fate for each of its comments.
pub(crate) fn fates(record: &Record) -> Vec<Fate> {
    match record.kind {
        Kind::Discussion => {
            let mut seen = BTreeSet::new();
            notes(&record.value)
                .iter()
                .filter(|note| scalar(note, "id").is_none_or(|id| seen.insert(id)))
                .map(|note| fate(record, Kind::Note, note))
                .collect()
        }
        kind => vec![fate(record, kind, &record.value)],
    }
}

fn fate(record: &Record, kind: Kind, value: &Value) -> Fate {
    let (id, texts): (_, &[&'static str]) = match kind {
        Kind::MergeRequest | Kind::Issue => ("iid", &["title", "description"]),
        Kind::Note | Kind::Discussion => ("id", &["body"]),
        Kind::Commit => ("id", &["title", "message"]),
        Kind::Pipeline => ("id", &["name", "ref", "sha", "status"]),
        Kind::Release => ("tag_name", &["name", "tag_name", "description"]),
    };
    let texts: Vec<_> = texts
        .iter()
        .filter_map(|field| Some((*field, value.get(field)?.as_str()?.to_owned())))
        .filter(|(_, text)| !text.trim().is_empty())
        .filter(|(field, title)| {
            !(kind == Kind::Commit && *field == "title" && is_shortened(title, value))
        })
        .collect();
    if kind == Kind::Note && value.get("system") == Some(&Value::Bool(true)) {
        return Fate::Skipped("system-note");
    }
    match scalar(value, id) {
        None => Fate::Unnamed,
        Some(_) if kind == Kind::Note && texts.is_empty() => Fate::Skipped("blank-comment"),
        Some(id) => Fate::Written {
            source_id: format!("gl:{kind}:{}/{id}", record.project),
            texts,
        },
    }
}

/// GitLab shortens the title of a commit with an ellipsis where the first line of the message is long.
fn is_shortened(title: &str, commit: &Value) -> bool {
    let start = title.trim_end_matches(['.', '…']).trim();
    start.len() < title.len()
        && commit
            .get("message")
            .and_then(Value::as_str)
            .is_some_and(|message| message.trim_start().starts_with(start))
}

fn scalar(value: &Value, field: &str) -> Option<String> {
    match value.get(field)? {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
