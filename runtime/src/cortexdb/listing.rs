//! Reading back what a scope holds: `GET /v1/events`, every page of it.
//!
//! The listing is the only memory of what was written once the ledger is lost, and servers differ in how they show it: the id is
//! called `event_id` or `id`, every event may come twice, a forgotten event is left out, or blanked, or a tombstone with its labels.
//! Taking a forgotten event for a stored one would lose its record; taking a stored one for forgotten would store it twice. So what
//! a listed event proves is decided here, once, by what it shows: a mark of redaction, or its text.

use std::collections::{HashMap, HashSet};

use http::Method;
use serde_json::Value;

use super::bulk::{event_id, query_value};
use super::client::{Client, CortexError};
use crate::sandbox::limits::{Limit, LimitReached};

/// Events asked for at a time: the documented maximum.
const PAGE: usize = 500;
/// What an event, a label or a cursor takes beside its text, about.
const OVERHEAD_BYTES: usize = 32;
/// What a server may put in the place of a text that was forgotten.
const PLACEHOLDERS: [&str; 2] = ["[redacted]", "[forgotten]"];

/// What a listed event shows of its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shown {
    /// No content field at all: the listing may not show contents, or this one is gone.
    Nothing,
    /// A content without text.
    Blank,
    /// A text.
    Text,
}

/// One event as the listing shows it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its id.
    pub event_id: String,
    /// `context.labels`.
    pub labels: Vec<String>,
    /// `source.source_id`, where the listing shows the descriptor.
    pub source_id: Option<String>,
    /// Its modality.
    pub modality: Option<String>,
    /// Whether it says of itself that it was forgotten.
    pub marked_forgotten: bool,
    /// What is left of its text.
    pub shown: Shown,
}

impl Listed {
    /// What it takes in memory, about; its id is kept twice.
    fn bytes(&self) -> usize {
        let other = self.source_id.iter().chain(&self.modality);
        let texts = self
            .labels
            .iter()
            .chain(other)
            .map(|text| text.len() + OVERHEAD_BYTES);
        texts.sum::<usize>() + 2 * (self.event_id.len() + OVERHEAD_BYTES) + size_of::<Self>()
    }
}

impl Client {
    /// Every event of exactly this scope, once each, in the order of the listing (newest first).
    pub async fn events_of(&self, scope: &str) -> Result<Vec<Listed>, CortexError> {
        self.events_with(scope, &[]).await
    }

    /// The same for events that carry any of these labels; none means all. A server may list more than was asked for.
    pub async fn events_with(
        &self,
        scope: &str,
        labels: &[&str],
    ) -> Result<Vec<Listed>, CortexError> {
        let mut events = Events::default();
        let mut page = Some(PAGE);
        let mut cursor: Option<String> = None;
        let mut cursors_seen = HashSet::new();
        loop {
            let mut path = format!("/v1/events?scope={}", query_value(scope));
            if !labels.is_empty() {
                path.push_str(&format!("&labels={}", query_value(&labels.join(","))));
            }
            if let Some(page) = page {
                path.push_str(&format!("&limit={page}"));
            }
            if let Some(cursor) = &cursor {
                path.push_str(&format!("&cursor={}", query_value(cursor)));
            }
            let answer = match (self.call(Method::GET, &path, None).await, page) {
                (Ok(answer), _) => answer,
                // Long texts make large pages.
                (Err(CortexError::TooLarge(_)), Some(most)) if most > 1 => {
                    page = Some(most / 2);
                    continue;
                }
                // A server with another maximum: its own default will do.
                (Err(CortexError::Refused(refusal)), Some(_))
                    if matches!(refusal.status, 400 | 422) && cursor.is_none() =>
                {
                    page = None;
                    continue;
                }
                (Err(error), _) => return Err(error),
            };
            let next = events.take(scope, &answer)?;
            events.bytes += OVERHEAD_BYTES + next.as_ref().map_or(0, String::len);
            if let Some(allowed) = self.most_listed.filter(|most| events.bytes as u64 > *most) {
                let limit = Limit::ListedBytes;
                let reached = LimitReached { limit, allowed };
                return Err(unreadable(scope, &reached.to_string()));
            }
            match next {
                None => return Ok(events.list),
                Some(next) if cursors_seen.insert(next.clone()) => cursor = Some(next),
                Some(_) => {
                    return Err(unreadable(
                        scope,
                        "its cursor leads back to an earlier page",
                    ));
                }
            }
        }
    }
}

fn unreadable(scope: &str, reason: &str) -> CortexError {
    CortexError::Standing(format!(
        "the events of `{scope}` cannot be listed ({reason}), so that it is unknown what is stored there. Nothing was written"
    ))
}

/// The pages put together.
#[derive(Default)]
struct Events {
    list: Vec<Listed>,
    position: HashMap<String, usize>,
    /// What all of it takes, about: the server is somebody else's, and may list without end.
    bytes: usize,
}

impl Events {
    /// Takes a page; returns the cursor of the next.
    fn take(&mut self, scope: &str, page: &Value) -> Result<Option<String>, CortexError> {
        let items = page
            .get("items")
            .and_then(Value::as_array)
            .ok_or_else(|| unreadable(scope, "the reply has no `items`"))?;
        for item in items {
            // Some servers mean everything below the scope, too.
            let elsewhere = item
                .get("scope")
                .and_then(Value::as_str)
                .is_some_and(|other| other != scope);
            if !elsewhere {
                self.add(scope, item)?;
            }
        }
        let next = page
            .get("next_cursor")
            .and_then(Value::as_str)
            .filter(|cursor| !cursor.is_empty());
        match (page.get("has_more").and_then(Value::as_bool), next) {
            (Some(true), None) => Err(unreadable(scope, "there is more, and no cursor to it")),
            (Some(false), _) => Ok(None),
            (_, next) => Ok(next.map(str::to_owned)),
        }
    }

    fn add(&mut self, scope: &str, item: &Value) -> Result<(), CortexError> {
        let (marked_forgotten, shown) = (is_marked_forgotten(item), shown(item));
        let Some(event_id) = event_id(item) else {
            if marked_forgotten || shown != Shown::Text {
                return Ok(());
            }
            return Err(unreadable(scope, "an event has no id"));
        };
        if let Some(&at) = self.position.get(&event_id) {
            // The second copy of the same event: what either of them shows is shown.
            let first = &mut self.list[at];
            first.marked_forgotten |= marked_forgotten;
            first.shown = first.shown.max(shown);
            return Ok(());
        }
        self.position.insert(event_id.clone(), self.list.len());
        let listed = Listed {
            event_id,
            labels: labels(item),
            source_id: item
                .pointer("/source/source_id")
                .and_then(Value::as_str)
                .map(str::to_owned),
            modality: item
                .get("modality")
                .and_then(Value::as_str)
                .map(str::to_owned),
            marked_forgotten,
            shown,
        };
        self.bytes += listed.bytes();
        self.list.push(listed);
        Ok(())
    }
}

fn labels(item: &Value) -> Vec<String> {
    item.pointer("/context/labels")
        .or_else(|| item.get("labels"))
        .and_then(Value::as_array)
        .map(|labels| {
            labels
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        })
        .unwrap_or_default()
}

fn is_marked_forgotten(item: &Value) -> bool {
    const MARKS: [&str; 4] = ["redacted", "forgotten", "erased", "deleted"];
    let flag = |name: &str| item.get(name).and_then(Value::as_bool) == Some(true);
    let time = |name: &str| item.get(format!("{name}_at")).is_some_and(Value::is_string);
    let word = ["state", "status"]
        .iter()
        .filter_map(|name| item.get(name).and_then(Value::as_str))
        .any(|word| MARKS.contains(&word.to_ascii_lowercase().as_str()));
    word || MARKS.iter().any(|name| flag(name) || time(name))
}

fn shown(item: &Value) -> Shown {
    let content = item
        .get("content")
        .or_else(|| item.get("text"))
        .filter(|content| !content.is_null());
    match content {
        None => Shown::Nothing,
        Some(content) if holds_text(content) => Shown::Text,
        Some(_) => Shown::Blank,
    }
}

/// Whether there is a text anywhere in a content, whatever its form; the names of its kind and role are none.
fn holds_text(content: &Value) -> bool {
    match content {
        Value::String(text) => {
            let text = text.trim();
            !text.is_empty()
                && !PLACEHOLDERS
                    .iter()
                    .any(|placeholder| text.eq_ignore_ascii_case(placeholder))
        }
        Value::Array(parts) => parts.iter().any(holds_text),
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            !matches!(name.as_str(), "kind" | "role" | "type") && holds_text(value)
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn item(id: &str) -> Value {
        json!({"event_id": id, "scope": "org:a", "modality": "document", "content": {"kind": "message", "role": "system", "text": "words"}, "context": {"labels": ["gl:issue:42/1"]}})
    }

    fn read(pages: &[Value]) -> Vec<Listed> {
        let mut events = Events::default();
        for page in pages {
            events.take("org:a", page).unwrap();
        }
        events.list
    }

    #[test]
    fn an_event_that_is_listed_twice_even_across_pages_counts_once() {
        let pages = [
            json!({"items": [item("evt_1"), item("evt_1"), item("evt_2")], "has_more": true, "next_cursor": "c"}),
            json!({"items": [item("evt_2"), item("evt_3")], "has_more": false}),
        ];
        let ids: Vec<_> = read(&pages)
            .into_iter()
            .map(|event| event.event_id)
            .collect();
        assert_eq!(ids, ["evt_1", "evt_2", "evt_3"]);
    }

    #[test]
    fn every_form_of_a_forgotten_event_is_told_from_a_stored_one() {
        let mut blank = item("a");
        blank["content"]["text"] = json!(" ");
        let mut placeholder = item("b");
        placeholder["content"]["text"] = json!("[REDACTED]");
        let mut marked = item("c");
        marked["redacted"] = json!(true);
        let mut dated = item("d");
        dated["forgotten_at"] = json!("2026-11-22T10:00:00Z");
        let mut named = item("e");
        named["state"] = json!("Redacted");
        let page = json!({"items": [blank, placeholder, marked, dated, named, item("f")]});
        let alive: Vec<_> = read(&[page])
            .into_iter()
            .filter(|event| event.shown == Shown::Text && !event.marked_forgotten)
            .map(|event| event.event_id)
            .collect();
        assert_eq!(alive, ["f"]);
    }

    #[test]
    fn what_lies_below_the_scope_is_left_out() {
        let mut below = item("evt_2");
        below["scope"] = json!("org:a/project:b");
        let list = read(&[json!({"items": [item("evt_1"), below]})]);
        assert_eq!(list.len(), 1);
    }

    #[test]
    fn a_listing_that_breaks_off_is_no_empty_scope() {
        let mut events = Events::default();
        for broken in [
            json!({}),
            json!({"items": [], "has_more": true}),
            json!({"items": [{"content": {"text": "no id"}}]}),
        ] {
            assert!(events.take("org:a", &broken).is_err(), "{broken}");
        }
    }
}
