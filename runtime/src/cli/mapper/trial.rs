//! `runtime mapper test`: what a mapper makes of experiences, before anybody runs it.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};

use super::super::args::MapperTestArguments;
use super::super::prepare::quiet_reporter;
use super::super::{USAGE, complain, say};
use super::{load, settings_of};
use crate::config::{Surroundings as Environment, default_state_file, ledger_file};
use crate::cortexdb::envelope::RawRecord;
use crate::ledger::{SqliteStore, Store as _};
use crate::mappers::text::as_text;
use crate::mappers::{Chain, MappedPage, OnTrap, Session, Surroundings};
use crate::recorded;
use crate::redact::Redactor;
use crate::report::{Counters, MapperUse};
use crate::sandbox::admission::Report;
use crate::sandbox::limits::{Limit, Limits, Unit};

/// Experiences that are mapped at a time, as a connector would hand them over.
const PAGE: usize = 250;

pub(super) async fn test(arguments: MapperTestArguments) -> u8 {
    match try_out(&arguments).await {
        Ok(code) => code,
        Err((code, words)) => {
            complain(&words);
            code
        }
    }
}

async fn try_out(arguments: &MapperTestArguments) -> Result<u8, (u8, String)> {
    let settings = settings_of(arguments.config.as_deref())
        .map_err(|code| (code, "the mapper was not tried".to_owned()))?;
    let mut limits = Limits::default();
    for (name, value) in &arguments.limits {
        limits
            .set(name, value)
            .map_err(|words| (USAGE, format!("--limit: {words}")))?;
    }
    let before = experiences(arguments).await?;
    if before.is_empty() {
        return Err((USAGE, "there is nothing to map".to_owned()));
    }
    let mapper = load(&arguments.mapper, &settings, limits, &mut Report::default())
        .await
        .map_err(|error| (1, error.to_string()))?;
    let counters = Arc::new(Counters::default());
    let surroundings = Surroundings {
        limits,
        reporter: quiet_reporter(),
        redactor: Redactor::default(),
        stop: tokio_util::sync::CancellationToken::new(),
    };
    let chain = Arc::new(Chain::new(vec![mapper], OnTrap::Skip));
    let mut session = Session::new(chain, &surroundings, Arc::clone(&counters));
    let mut seconds = 0.0;
    let mut shown = Shown::new(arguments.json);
    for page in before.chunks(PAGE) {
        let begun = Instant::now();
        let mapped = session
            .apply(page.to_vec())
            .await
            .map_err(|error| (1, error.to_string()))?;
        seconds += begun.elapsed().as_secs_f64();
        shown.page(page, &mapped);
    }
    let usage = counters.update(|totals| totals.mappers.first().cloned().unwrap_or_default());
    shown.end(&usage, seconds, &limits);
    Ok(if usage.refused > 0 { 3 } else { 0 })
}

/// Experiences of every kind that `gitlab.wasm` writes.
const SAMPLE: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/templates/mapper/sample.jsonl"
));

async fn experiences(arguments: &MapperTestArguments) -> Result<Vec<RawRecord>, (u8, String)> {
    if let Some(path) = &arguments.input {
        let text = std::fs::read_to_string(path)
            .map_err(|error| (USAGE, format!("cannot read {}: {error}", path.display())))?;
        return read_lines(&text, path).map_err(|words| (USAGE, words));
    }
    match read_recorded(arguments).await {
        Ok(records) => Ok(records),
        Err(words) if arguments.recorded => Err((1, words)),
        Err(_) => {
            if !arguments.json {
                say(
                    "nothing was recorded; these are seven experiences of our own (--input takes yours)",
                );
            }
            read_lines(SAMPLE, Path::new("sample.jsonl")).map_err(|words| (1, words))
        }
    }
}

fn read_lines(text: &str, path: &Path) -> Result<Vec<RawRecord>, String> {
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| {
                format!(
                    "{}, line {}: {error}. Each line is one experience: {{\"source_id\": \"gl:note:42/1\", \"event_type\": \"note\", \"modality\": \"conversation\", \"content\": \"…\", \"observed_at\": \"2026-11-22T10:00:00Z\", …}}",
                    path.display(),
                    number + 1
                )
            })
        })
        .collect()
}

/// What was recorded last, up to the wanted number, of every connection of the state.
async fn read_recorded(arguments: &MapperTestArguments) -> Result<Vec<RawRecord>, String> {
    let state_file = match &arguments.state_file {
        Some(path) => path.clone(),
        None => default_state_file(&Environment::of_this_process())
            .map_err(|error| error.to_string())?,
    };
    let path = ledger_file(&state_file);
    let nothing = || {
        format!(
            "{} holds no recorded experiences. They are recorded by runs with a mapper, or with `keep = true` under `[recorded]` in the configuration file; or pass --input",
            path.display()
        )
    };
    let store = SqliteStore::open_read_only(&path)
        .await
        .map_err(|error| error.to_string())?
        .ok_or_else(nothing)?;
    let mut records = Vec::new();
    for connection in store
        .connections()
        .await
        .map_err(|error| error.to_string())?
    {
        let left = arguments.most.saturating_sub(records.len());
        let page = store
            .recorded(connection.id, 0, u32::try_from(left).unwrap_or(u32::MAX))
            .await
            .map_err(|error| error.to_string())?;
        for (_, kept) in page {
            records.push(recorded::read(&kept)?);
        }
    }
    if records.is_empty() {
        return Err(nothing());
    }
    Ok(records)
}

/// What the trial shows, as text or as one JSON object a line.
struct Shown {
    json: bool,
    colours: bool,
    unchanged: u64,
    changed: u64,
}

impl Shown {
    fn new(json: bool) -> Self {
        Self {
            json,
            colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            unchanged: 0,
            changed: 0,
        }
    }

    fn page(&mut self, before: &[RawRecord], mapped: &MappedPage) {
        let mut after = mapped.records.iter();
        for record in before {
            if let Some((_, words)) = mapped
                .dead
                .iter()
                .find(|(dead, _)| dead.source_id == record.source_id)
            {
                self.refused(record, words);
                continue;
            }
            let outcome = mapped
                .outcomes
                .iter()
                .find(|one| one.source_id == record.source_id);
            let count = outcome.map_or(0, |outcome| outcome.made.len());
            let made: Vec<&RawRecord> = after.by_ref().take(count).collect();
            self.mapped(record, &made);
        }
    }

    fn refused(&mut self, record: &RawRecord, words: &str) {
        if self.json {
            return say(
                &json!({"source_id": record.source_id, "result": "refused", "reason": words})
                    .to_string(),
            );
        }
        self.heading(&record.source_id, &format!("refused: {words}"), "31");
    }

    fn mapped(&mut self, record: &RawRecord, made: &[&RawRecord]) {
        let same = made.len() == 1 && as_text(made[0]) == as_text(record);
        if same {
            self.unchanged += 1;
        } else {
            self.changed += 1;
        }
        let result = match made.len() {
            _ if same => "unchanged",
            0 => "dropped",
            1 => "changed",
            _ => "split",
        };
        if self.json {
            let after: Vec<Value> = made.iter().map(|one| json!(one)).collect();
            say(&json!({"source_id": record.source_id, "result": result, "before": record, "after": after}).to_string());
            return;
        }
        match made {
            _ if same => {}
            [] => self.heading(&record.source_id, "dropped", "33"),
            [one] => {
                self.heading(&record.source_id, "changed", "36");
                self.difference(&as_text(record), &as_text(one));
            }
            many => {
                self.heading(
                    &record.source_id,
                    &format!("split into {}", many.len()),
                    "36",
                );
                for one in many {
                    self.heading(&one.source_id, "made", "32");
                    self.difference("", &as_text(one));
                }
            }
        }
    }

    fn heading(&self, source_id: &str, what: &str, colour: &str) {
        let id = source_id.escape_debug();
        if self.colours {
            say(&format!(
                "\u{1b}[1m{id}\u{1b}[0m \u{1b}[{colour}m{what}\u{1b}[0m"
            ));
        } else {
            say(&format!("{id} {what}"));
        }
    }

    fn difference(&self, before: &str, after: &str) {
        let diff = TextDiff::from_lines(before, after);
        for group in diff.grouped_ops(1) {
            for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
                let (sign, colour) = match change.tag() {
                    ChangeTag::Delete => ('-', "31"),
                    ChangeTag::Insert => ('+', "32"),
                    ChangeTag::Equal => (' ', "0"),
                };
                let line: String = printable(change.value().trim_end_matches('\n'));
                if self.colours {
                    say(&format!("  \u{1b}[{colour}m{sign} {line}\u{1b}[0m"));
                } else {
                    say(&format!("  {sign} {line}"));
                }
            }
        }
    }

    fn end(&self, usage: &MapperUse, seconds: f64, limits: &Limits) {
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = usage.given as f64 / seconds.max(1e-9);
        let allowed = |limit: Limit, unit: Unit| {
            limits
                .get(limit)
                .map_or_else(|| "unlimited".to_owned(), |amount| unit.show(amount))
        };
        if self.json {
            let totals = json!({"summary": usage, "seconds": seconds, "records_per_second": rate,
                "allowed": {"memory": limits.get(Limit::Memory), "cpu_between_waits": limits.get(Limit::CpuBetweenWaits), "map_time": limits.get(Limit::MapTime)}});
            return say(&totals.to_string());
        }
        say(&format!(
            "{} {}: {} given, {} made; {} unchanged, {} changed, {} of them dropped, {} refused",
            usage.name,
            usage.version,
            usage.given,
            usage.made,
            self.unchanged,
            self.changed,
            usage.dropped,
            usage.refused
        ));
        say(&format!(
            "{:.3} s ({rate:.0} records/s), computing {} ms of {} for a page, memory {} of {}",
            seconds,
            usage.cpu_ms,
            allowed(Limit::CpuBetweenWaits, Unit::Time),
            Unit::Bytes.show(usage.memory_bytes),
            allowed(Limit::Memory, Unit::Bytes)
        ));
    }
}

/// Text of a record goes to a terminal: what would command it is shown instead of obeyed.
fn printable(line: &str) -> String {
    line.chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}
