//! A mapper that does what a test tells it to do: its settings are rules, and the first whose words are in a text decides about it.
#![cfg(target_family = "wasm")]

use std::cell::Cell;

use serde::Deserialize;

#[allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "mapper" });

    use super::Puppet;

    export!(Puppet with_types_in self);
}

use bindings::cortexdb::connector::log;
use bindings::exports::cortexdb::connector::transform::{Experience, Guest, MapperDescription};

struct Puppet;

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    rules: Vec<Rule>,
    /// Give so many answers fewer.
    #[serde(default)]
    swallow: usize,
}

#[derive(Deserialize)]
struct Rule {
    /// The text has these words.
    has: String,
    r#do: Action,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Drop,
    /// Add these words at the end.
    Add(String),
    /// One experience for each line, all under the record's own id.
    SplitLines,
    /// One experience for each line, under these names.
    SplitInto(Vec<String>),
    /// An error with these words.
    Refuse(String),
    Panic(String),
    Loop,
    /// Take memory until there is none.
    Bomb,
    /// Claim to be this record.
    Steal(String),
    /// To another place.
    Move(String),
    /// A time that is not the host's.
    Backdate,
    /// Out of its thread.
    LoseThread,
    /// Another answer with every call.
    Count,
}

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

impl Guest for Puppet {
    fn describe() -> MapperDescription {
        MapperDescription {
            name: "puppet".to_owned(),
            version: "1.0.0".to_owned(),
            summary: "Does what a test tells it to do.".to_owned(),
            settings_schema: r#"{"type": "object", "properties": {"rules": {"type": "array"}, "swallow": {"type": "integer"}}, "additionalProperties": false}"#
                .to_owned(),
        }
    }

    fn apply(settings: String, batch: Vec<Experience>) -> Vec<Result<Vec<Experience>, String>> {
        let settings: Settings = match serde_json::from_str(&settings) {
            Ok(settings) => settings,
            Err(error) => return batch.iter().map(|_| Err(error.to_string())).collect(),
        };
        CALLS.set(CALLS.get() + 1);
        let mut answers: Vec<_> = batch
            .into_iter()
            .map(|experience| answer(&settings, experience))
            .collect();
        answers.truncate(answers.len() - settings.swallow.min(answers.len()));
        answers
    }
}

fn answer(settings: &Settings, mut experience: Experience) -> Result<Vec<Experience>, String> {
    let rule = settings
        .rules
        .iter()
        .find(|rule| experience.content.contains(&rule.has));
    let Some(rule) = rule else {
        return Ok(vec![experience]);
    };
    match &rule.r#do {
        Action::Drop => return Ok(Vec::new()),
        Action::Add(words) => experience.content.push_str(words),
        Action::SplitLines => {
            let lines = experience
                .content
                .lines()
                .filter(|line| !line.trim().is_empty());
            return Ok(lines
                .map(|line| Experience {
                    content: line.to_owned(),
                    ..experience.clone()
                })
                .collect());
        }
        Action::SplitInto(names) => {
            return Ok(names
                .iter()
                .map(|name| Experience {
                    source_id: format!("{}~{name}", experience.source_id),
                    content: format!("{name} of {}", experience.source_id),
                    ..experience.clone()
                })
                .collect());
        }
        Action::Refuse(words) => return Err(words.clone()),
        Action::Panic(words) => {
            log::log(log::Level::Error, words, &[]);
            std::process::abort();
        }
        Action::Loop => loop {
            std::hint::black_box(0);
        },
        Action::Bomb => loop {
            std::mem::forget(std::hint::black_box(vec![1_u8; 1 << 20]));
        },
        Action::Steal(id) => experience.source_id = id.clone(),
        Action::Move(place) => experience
            .attributes
            .push(("scope-below".to_owned(), place.clone())),
        Action::Backdate => experience.observed_at = "2001-01-01T00:00:00Z".to_owned(),
        Action::LoseThread => experience.thread = None,
        Action::Count => experience.content.push_str(&CALLS.get().to_string()),
    }
    Ok(vec![experience])
}
