//! A record as text that people compare: for the trial of a mapper on a terminal and for the dry run of the platform.

use std::fmt::Write as _;

use crate::cortexdb::envelope::RawRecord;

/// An experience as people compare it: the marks first, then the text.
#[must_use]
pub fn as_text(record: &RawRecord) -> String {
    let mut text = String::new();
    if let Some(author) = &record.author {
        let _ = writeln!(text, "author {author}");
    }
    if let Some(below) = &record.mapped.scope_below {
        let _ = writeln!(text, "scope …/{below}");
    }
    for label in &record.labels {
        let _ = writeln!(text, "label {label}");
    }
    for (name, value) in &record.attributes {
        let _ = writeln!(text, "{name} = {value}");
    }
    for id in &record.preceded_by {
        let _ = writeln!(text, "preceded by {id}");
    }
    if let Some(thread) = &record.thread {
        let _ = writeln!(text, "thread {}, turn {}", thread.root, thread.turn);
    }
    text.push_str(&record.content);
    text.push('\n');
    text
}
