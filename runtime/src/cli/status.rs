//! `runtime status`: what the cursors and the ledger say, without touching either.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::args::StatusArguments;
use super::hooks::kept_plan;
use super::reporters::plan_lines;
use super::{USAGE, complain, escaped, say};
use crate::config::{Surroundings, default_state_file, ledger_file};
use crate::cursors::Cursors;
use crate::host::hooks::HookPlan;
use crate::ledger::{ConnectionRow, SqliteStore, Store, StreamRow};

pub(super) async fn status(arguments: StatusArguments) -> u8 {
    let state_file = match arguments.state_file {
        Some(path) => path,
        None => match default_state_file(&Surroundings::of_this_process()) {
            Ok(path) => path,
            Err(error) => {
                complain(&error.to_string());
                return USAGE;
            }
        },
    };
    match read(&state_file).await {
        Ok(connections) if arguments.json => {
            let list: Vec<Value> = connections.iter().map(Connection::to_json).collect();
            say(
                &json!({ "state_file": state_file.display().to_string(), "connections": list })
                    .to_string(),
            );
            0
        }
        Ok(connections) => {
            if connections.is_empty() {
                say(&format!(
                    "no connection has run with {} yet",
                    state_file.display()
                ));
            }
            for connection in &connections {
                connection.show();
            }
            0
        }
        Err(error) => {
            complain(&error);
            1
        }
    }
}

/// With more streams, the complete ones are only counted.
const MOST_STREAMS: usize = 60;

struct Connection {
    name: String,
    ledger: Option<ConnectionRow>,
    streams: Vec<StreamRow>,
    cursors: BTreeMap<String, Value>,
    /// What was hooked when the source was last asked, and when that was.
    hooks: Option<(String, HookPlan)>,
}

async fn read(state_file: &Path) -> Result<Vec<Connection>, String> {
    let mut cursors = Cursors::peek(state_file, "")
        .map_err(|error| error.to_string())?
        .every_connection();
    let mut connections = Vec::new();
    if let Some(store) = SqliteStore::open_read_only(&ledger_file(state_file))
        .await
        .map_err(|error| error.to_string())?
    {
        for row in Store::connections(&store)
            .await
            .map_err(|error| error.to_string())?
        {
            connections.push(Connection {
                name: row.name.clone(),
                streams: store
                    .streams(row.id)
                    .await
                    .map_err(|error| error.to_string())?,
                cursors: cursors.remove(&row.name).unwrap_or_default(),
                hooks: kept_plan(&store, &row.name).await,
                ledger: Some(row),
            });
        }
        store.close().await;
    }
    connections.extend(cursors.into_iter().map(|(name, cursors)| Connection {
        name,
        ledger: None,
        streams: Vec::new(),
        cursors,
        hooks: None,
    }));
    Ok(connections)
}

impl Connection {
    /// Every stream that has a cursor or a state, with both.
    fn rows(&self) -> BTreeMap<&str, (Option<&StreamRow>, Option<&Value>)> {
        let mut rows: BTreeMap<&str, (Option<&StreamRow>, Option<&Value>)> = BTreeMap::new();
        for stream in &self.streams {
            rows.entry(&stream.stream).or_default().0 = Some(stream);
        }
        for (key, cursor) in &self.cursors {
            rows.entry(key).or_default().1 = Some(cursor);
        }
        rows
    }

    fn to_json(&self) -> Value {
        let last_run = self
            .ledger
            .as_ref()
            .and_then(|ledger| ledger.last_run.as_ref());
        let streams: Vec<Value> = self
            .rows()
            .into_iter()
            .map(|(stream, (state, cursor))| {
                json!({
                    "stream": stream,
                    "state": state.map(|state| &state.state),
                    "reason": state.map(|state| &state.detail).filter(|detail| !detail.is_empty()),
                    "at": state.map(|state| &state.at),
                    "complete_at": state.and_then(|state| state.complete_at.as_ref()),
                    "lag_seconds": state.and_then(lag_seconds),
                    "cursor": cursor,
                })
            })
            .collect();
        json!({
            "connection": self.name,
            "records": self.ledger.as_ref().map(|ledger| &ledger.live),
            "dead_letters": self.ledger.as_ref().map_or(0, |ledger| ledger.dead_letters),
            "old_versions_to_forget": self.ledger.as_ref().map_or(0, |ledger| ledger.obsolete),
            "last_run": last_run.map(|(at, receipt)| json!({
                "ended_at": at,
                "receipt": serde_json::from_str::<Value>(receipt).unwrap_or(Value::Null),
            })),
            "lag_seconds": self.lag_seconds(),
            "last_reconcile": self.ledger.as_ref().and_then(|ledger| ledger.last_reconcile.as_ref()),
            "hooks": self.hooks.as_ref().map(|(at, plan)| json!({"at": at, "plan": plan})),
            "streams": streams,
        })
    }

    fn show(&self) {
        say(&self.name);
        if let Some(ledger) = &self.ledger {
            let records: Vec<String> = ledger
                .live
                .iter()
                .map(|(kind, count)| format!("{kind} {count}"))
                .collect();
            say(&format!(
                "  records       {}",
                if records.is_empty() {
                    "none".to_owned()
                } else {
                    records.join(", ")
                }
            ));
            say(&format!("  dead letters  {}", ledger.dead_letters));
            if ledger.obsolete > 0 {
                say(&format!("  to forget     {} old versions", ledger.obsolete));
            }
            if let Some((at, receipt)) = &ledger.last_run {
                let receipt: Value = serde_json::from_str(receipt).unwrap_or(Value::Null);
                let outcome = receipt
                    .get("outcome")
                    .and_then(Value::as_str)
                    .unwrap_or("unknown")
                    .replace('_', " ");
                let reason = receipt
                    .get("reason")
                    .and_then(Value::as_str)
                    .map(|reason| format!(": {reason}"))
                    .unwrap_or_default();
                let line = format!("  last run      {at}, {outcome}{reason}");
                say(&escaped(&line));
            }
        }
        if let Some(ledger) = &self.ledger {
            let at = ledger.last_reconcile.as_deref().unwrap_or("never");
            say(&format!("  reconciled    {at}"));
        }
        if let Some(lag) = self.lag_seconds() {
            say(&format!("  behind        {}", duration(lag)));
        }
        if let Some((at, plan)) = &self.hooks {
            say(&format!("  hooks         as of {at}"));
            for line in plan_lines(plan) {
                say(&line);
            }
        }
        self.show_streams();
    }

    /// How long ago the stream was read to its end that has waited longest; what is off does not wait.
    fn lag_seconds(&self) -> Option<u64> {
        let waiting = self.streams.iter().filter(|stream| stream.state != "off");
        waiting.filter_map(lag_seconds).max()
    }

    fn show_streams(&self) {
        let mut rows = self.rows();
        if self.ledger.is_some() {
            // What else a connector keeps beside its cursors is in the JSON.
            rows.retain(|_, (state, _)| state.is_some());
        }
        let is_complete =
            |state: Option<&StreamRow>| state.is_some_and(|state| state.state == "complete");
        let mut complete = 0;
        if rows.len() > MOST_STREAMS {
            let before = rows.len();
            rows.retain(|_, (state, _)| !is_complete(*state));
            complete = before - rows.len();
        }
        let width = rows.keys().map(|stream| stream.len()).max().unwrap_or(0);
        let width = width.max("stream".len());
        if !rows.is_empty() {
            say(&format!(
                "  {:<width$}  state     behind   cursor or reason",
                "stream"
            ));
        }
        for (stream, (state, cursor)) in rows {
            let word = state.map_or("-", |state| state.state.as_str());
            let lag = state.and_then(lag_seconds).map_or("-".to_owned(), duration);
            let detail = state
                .map(|state| state.detail.as_str())
                .filter(|detail| !detail.is_empty());
            let text = match (detail, cursor) {
                (Some(detail), _) => detail.to_owned(),
                (None, Some(cursor)) => cursor
                    .as_str()
                    .map_or_else(|| cursor.to_string(), str::to_owned),
                (None, None) => String::new(),
            };
            let line = format!("  {stream:<width$}  {word:<8}  {lag:<7}  {text}");
            say(escaped(&line).trim_end());
        }
        if complete > 0 {
            say(&format!(
                "  and {complete} streams that are complete (--json shows them)"
            ));
        }
    }
}

/// How long ago the stream was last read to its end; `None` if it never was.
fn lag_seconds(stream: &StreamRow) -> Option<u64> {
    let at = chrono::DateTime::parse_from_rfc3339(stream.complete_at.as_deref()?).ok()?;
    let lag = chrono::Utc::now().signed_duration_since(at).num_seconds();
    Some(u64::try_from(lag).unwrap_or(0))
}

/// The largest unit and the one below it are enough to see whether something is wrong.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, minutes) => format!("{hours}h{:02}m", minutes % 60),
        (days, hours, _) => format!("{days}d{:02}h", hours % 24),
    }
}
