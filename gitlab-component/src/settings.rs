//! What the user may choose.
//!
//! The host checks settings against [`SCHEMA`] before a run, but they also come from environment variables and from people who
//! type. So they are read tolerantly where the meaning is clear (`"42"` is the id 42, `a, b` a list), and everything else is
//! refused with the name of what is wrong, before anything is written.

use std::fmt;

use serde_json::{Map, Value};

use crate::sorted::SortedSet;

/// JSON Schema of the settings, as the component publishes it.
pub const SCHEMA: &str = include_str!("settings.schema.json");

/// The kinds of record, as settings, source ids and labels name them.
pub(crate) const EVENT_TYPES: [&str; 6] = [
    "merge_request",
    "issue",
    "note",
    "commit",
    "pipeline",
    "release",
];

const PIPELINE_STATUSES: [&str; 13] = [
    "created",
    "waiting_for_resource",
    "preparing",
    "waiting_for_callback",
    "pending",
    "running",
    "canceling",
    "success",
    "failed",
    "canceled",
    "skipped",
    "manual",
    "scheduled",
];

const FINISHED: [&str; 4] = ["success", "failed", "canceled", "skipped"];

/// Between two looks at a project without listed activity.
const SWEEP_MINUTES: u32 = 60;
/// A week.
const MOST_MINUTES: u32 = 10_080;

/// A project or group, as the user named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    Id(u64),
    Path(String),
}

impl Name {
    /// As a segment of an API path.
    pub(crate) fn segment(&self) -> String {
        match self {
            Self::Id(id) => id.to_string(),
            Self::Path(path) => percent_encode(path),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(formatter, "{id}"),
            Self::Path(path) => formatter.write_str(path),
        }
    }
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) projects: Vec<Name>,
    pub(crate) groups: Vec<Name>,
    pub(crate) events: Events,
    pub(crate) include_confidential: bool,
    /// Sorted, without repetition.
    pub(crate) pipeline_statuses: Vec<String>,
    pub(crate) child_pipelines: bool,
    /// Commits that a force push took out of the default branch are forgotten by the reconcile pass.
    pub(crate) forget_unreachable_commits: bool,
    /// Where there are many projects, each is looked at this often although GitLab lists no activity in it.
    pub(crate) sweep_minutes: u32,
    /// Where webhooks are registered.
    pub(crate) hooks: Hooks,
}

/// Where webhooks are registered, for a connection that has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hooks {
    /// In the groups where possible, otherwise in the projects; of the instance where nothing is named.
    Auto,
    System,
    Group,
    Project,
    Off,
}

/// Which kinds of record to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one switch for each kind of record"
)]
pub(crate) struct Events {
    pub(crate) merge_request: bool,
    pub(crate) issue: bool,
    pub(crate) note: bool,
    pub(crate) commit: bool,
    pub(crate) pipeline: bool,
    pub(crate) release: bool,
}

impl Settings {
    /// Reads the settings of a run; the error says what to change.
    pub(crate) fn parse(json: &str) -> Result<Self, String> {
        let json = if json.trim().is_empty() { "{}" } else { json };
        let value: Value = serde_json::from_str(json)
            .map_err(|error| format!("The settings are not valid JSON: {error}."))?;
        let Value::Object(settings) = value else {
            return Err("The settings must be a JSON object.".to_owned());
        };
        const KNOWN: [&str; 9] = [
            "projects",
            "groups",
            "events",
            "include_confidential",
            "pipeline_statuses",
            "child_pipelines",
            "forget_unreachable_commits",
            "sweep_minutes",
            "hooks",
        ];
        if let Some(unknown) = settings.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return Err(format!(
                "Unknown setting `{unknown}`. The settings are {}.",
                KNOWN.join(", ")
            ));
        }
        Ok(Self {
            projects: names(&settings, "projects", "acme/widget")?,
            groups: names(&settings, "groups", "acme/team")?,
            events: events(&settings)?,
            include_confidential: flag(&settings, "include_confidential", false)?,
            pipeline_statuses: statuses(&settings)?,
            child_pipelines: flag(&settings, "child_pipelines", true)?,
            forget_unreachable_commits: flag(&settings, "forget_unreachable_commits", false)?,
            sweep_minutes: minutes(&settings, "sweep_minutes", SWEEP_MINUTES)?,
            hooks: hooks(&settings)?,
        })
    }
}

/// The texts of a list; a single text is split at its commas, as environment variables are.
fn list(settings: &Map<String, Value>, key: &str) -> Result<Option<Vec<String>>, String> {
    let items = match settings.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.split(',').map(str::to_owned).collect(),
        Some(Value::Number(number)) => vec![number.to_string()],
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(text.clone()),
                Value::Number(number) if number.is_u64() => Ok(number.to_string()),
                other => Err(format!(
                    "`{key}` holds {other}; only texts and numbers are allowed."
                )),
            })
            .collect::<Result<Vec<_>, _>>()?,
        Some(other) => return Err(format!("`{key}` must be a list, not {other}.")),
    };
    let items = items
        .into_iter()
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty());
    Ok(Some(items.collect()))
}

fn names(settings: &Map<String, Value>, key: &str, example: &str) -> Result<Vec<Name>, String> {
    let mut names = Vec::new();
    for item in list(settings, key)?.unwrap_or_default() {
        if !is_id_or_path(&item) {
            return Err(format!(
                "`{key}` holds `{item}`, which is not a path. Give the numeric id or the full path, like {example}."
            ));
        }
        let name = match item.parse() {
            Ok(id) => Name::Id(id),
            Err(_) => Name::Path(item.trim_matches('/').to_owned()),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether this can name something in GitLab. An address or a path with empty parts cannot.
fn is_id_or_path(item: &str) -> bool {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "?#%\\".contains(c);
    let mut parts = item.trim_matches('/').split('/');
    item.len() <= 1024
        && !item.contains(forbidden)
        && !item.contains("://")
        && parts.all(|part| !matches!(part, "" | "." | ".."))
}

fn events(settings: &Map<String, Value>) -> Result<Events, String> {
    let chosen =
        list(settings, "events")?.unwrap_or_else(|| EVENT_TYPES.map(str::to_owned).to_vec());
    if let Some(unknown) = chosen
        .iter()
        .find(|event| !EVENT_TYPES.contains(&event.as_str()))
    {
        return Err(format!(
            "Unknown event `{unknown}` in `events` (GITLAB_EVENTS). The events are {}.",
            EVENT_TYPES.join(", ")
        ));
    }
    if chosen.is_empty() {
        return Err(format!(
            "`events` (GITLAB_EVENTS) is empty, so there is nothing to read. Name some of {}, or leave it out for all.",
            EVENT_TYPES.join(", ")
        ));
    }
    let has = |event: &str| chosen.iter().any(|chosen| chosen == event);
    Ok(Events {
        merge_request: has("merge_request"),
        issue: has("issue"),
        note: has("note"),
        commit: has("commit"),
        pipeline: has("pipeline"),
        release: has("release"),
    })
}

fn statuses(settings: &Map<String, Value>) -> Result<Vec<String>, String> {
    let statuses = list(settings, "pipeline_statuses")?
        .unwrap_or_else(|| FINISHED.map(str::to_owned).to_vec());
    if let Some(unknown) = statuses
        .iter()
        .find(|status| !PIPELINE_STATUSES.contains(&status.as_str()))
    {
        return Err(format!(
            "Unknown status `{unknown}` in `pipeline_statuses`. GitLab's are {}.",
            PIPELINE_STATUSES.join(", ")
        ));
    }
    Ok(SortedSet::from_iter(statuses).into_iter().collect())
}

fn minutes(settings: &Map<String, Value>, key: &str, default: u32) -> Result<u32, String> {
    let number = match settings.get(key) {
        None | Some(Value::Null) => return Ok(default),
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(_) => None,
    };
    number
        .filter(|minutes| *minutes <= u64::from(MOST_MINUTES))
        .and_then(|minutes| u32::try_from(minutes).ok())
        .ok_or_else(|| {
            format!(
                "`{key}` is {}; it must be a whole number of minutes from 0 to {MOST_MINUTES}.",
                settings[key]
            )
        })
}

fn hooks(settings: &Map<String, Value>) -> Result<Hooks, String> {
    let chosen = match settings.get("hooks") {
        None | Some(Value::Null) => return Ok(Hooks::Auto),
        Some(Value::String(text)) => text.trim().to_ascii_lowercase(),
        Some(other) => other.to_string(),
    };
    Ok(match chosen.as_str() {
        "auto" | "" => Hooks::Auto,
        "system" => Hooks::System,
        "group" => Hooks::Group,
        "project" => Hooks::Project,
        "off" => Hooks::Off,
        _ => {
            return Err(format!(
                "`hooks` (GITLAB_HOOKS) is {chosen}; it must be auto, system, group, project or off."
            ));
        }
    })
}

fn flag(settings: &Map<String, Value>, key: &str, default: bool) -> Result<bool, String> {
    match settings.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(Value::String(text)) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" | "" => Ok(false),
            _ => Err(format!("`{key}` is `{text}`; it must be true or false.")),
        },
        Some(other) => Err(format!("`{key}` is {other}; it must be true or false.")),
    }
}

/// Encodes everything but the unreserved characters of RFC 3986, the slash too.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                encoded.push('%');
                encoded.push(char::from(HEX[usize::from(byte >> 4)]));
                encoded.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_settings_mean_everything_but_what_is_confidential() {
        let settings = Settings::parse("{}").expect("valid");
        assert!(settings.projects.is_empty() && settings.groups.is_empty());
        assert!(settings.events.note && settings.events.release && !settings.include_confidential);
        assert_eq!(
            settings.pipeline_statuses,
            ["canceled", "failed", "skipped", "success"]
        );
        assert_eq!(Settings::parse(""), Ok(settings));
    }

    #[test]
    fn ids_and_paths_come_as_numbers_texts_or_one_text_with_commas() {
        let settings = Settings::parse(
            r#"{"projects": [42, "43", "/acme/widget/", 42], "groups": "acme, 7,"}"#,
        )
        .expect("valid");
        assert_eq!(
            settings.projects,
            [
                Name::Id(42),
                Name::Id(43),
                Name::Path("acme/widget".to_owned())
            ]
        );
        assert_eq!(
            settings.groups,
            [Name::Path("acme".to_owned()), Name::Id(7)]
        );
        assert_eq!(settings.projects[2].segment(), "acme%2Fwidget");
    }

    #[test]
    fn what_is_wrong_is_named_together_with_what_would_be_right() {
        for (json, words) in [
            (
                r#"{"events": ["merge_requests"]}"#,
                ["`merge_requests`", "merge_request, issue, note"],
            ),
            (r#"{"events": []}"#, ["GITLAB_EVENTS", "nothing to read"]),
            (r#"{"project": [1]}"#, ["`project`", "projects, groups"]),
            (
                r#"{"projects": ["https://gitlab.com/acme/widget"]}"#,
                ["https://gitlab.com/acme/widget", "full path"],
            ),
            (
                r#"{"projects": ["acme/../secret"]}"#,
                ["acme/../secret", "full path"],
            ),
            (
                r#"{"groups": ["acme//team", "/"]}"#,
                ["acme//team", "acme/team"],
            ),
            (r#"{"projects": [1.5]}"#, ["1.5", "numbers"]),
            (
                r#"{"pipeline_statuses": ["passed"]}"#,
                ["`passed`", "success, failed"],
            ),
            (
                r#"{"include_confidential": "maybe"}"#,
                ["maybe", "true or false"],
            ),
            ("[1]", ["JSON object", ""]),
            ("{", ["not valid JSON", ""]),
        ] {
            let error = Settings::parse(json).expect_err(json);
            assert!(
                words.iter().all(|word| error.contains(word)),
                "{json}: {error}"
            );
        }
    }

    #[test]
    fn the_schema_is_json_and_names_every_setting_and_every_choice() {
        let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
        let properties = schema["properties"].as_object().expect("an object");
        let defaults: Map<String, Value> = properties
            .iter()
            .filter_map(|(key, property)| Some((key.clone(), property.get("default")?.clone())))
            .collect();
        assert_eq!(
            Settings::parse(&Value::Object(defaults).to_string()),
            Settings::parse("{}")
        );
        assert_eq!(
            schema["properties"]["events"]["items"]["enum"],
            Value::from(EVENT_TYPES.to_vec())
        );
        assert_eq!(
            schema["properties"]["pipeline_statuses"]["items"]["enum"],
            Value::from(PIPELINE_STATUSES.to_vec())
        );
    }
}
