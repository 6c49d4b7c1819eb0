//! What is told of a component that was stopped.
//!
//! "wasm trap: unreachable" helps nobody. Whoever wrote the component needs the panic's own words and the names of its functions; whoever
//! runs it needs the limit and how to raise it; both need to know which stream it was at. All of it comes from the component, so it is
//! cleaned and bounded before it is kept.

use serde::{Deserialize, Serialize};
use wasmtime::{Trap, WasmBacktrace};

use super::limits::{Limit, LimitReached, Limits};
use crate::census::TooManyListed;

/// Frames that are kept, from the innermost.
const MAX_FRAMES: usize = 16;
/// Frames that fit into one line of text.
const SHOWN_FRAMES: usize = 6;
const MAX_FRAME_BYTES: usize = 200;

/// Why a call into a component ended without a result.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrapReport {
    /// `limit`, `panic`, a trap of WebAssembly (`memory_out_of_bounds`), `interface` (it broke the rules of calls), `host_defect`.
    pub kind: String,
    /// What happened, in words.
    pub message: String,
    /// The limit that was reached.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limit: Option<String>,
    /// What the component's panic hook logged.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub panic: Option<String>,
    /// The component's own functions, innermost first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub backtrace: Vec<String>,
    /// The stream that it reported last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stream: Option<String>,
    /// Records of it that were read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub done: Option<u64>,
    /// The request to the source that it submitted last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request: Option<String>,
}

impl std::fmt::Display for TrapReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        if let Some(panic) = &self.panic {
            write!(f, ": {panic}")?;
        }
        match (&self.stream, self.done) {
            (Some(stream), Some(done)) => write!(f, ". It was at {stream}, {done} records read")?,
            (Some(stream), None) => write!(f, ". It was at {stream}")?,
            _ => {}
        }
        if let Some(request) = &self.request {
            write!(f, ", last asked for {request}")?;
        }
        if !self.backtrace.is_empty() {
            let shown = self.backtrace.len().min(SHOWN_FRAMES);
            write!(f, " (in {})", self.backtrace[..shown].join(" <- "))?;
        }
        Ok(())
    }
}

/// The host panicked while it did something for a component.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the host panicked while the component ran; please report this as a defect of the runtime")]
pub struct HostDefect;

impl HostDefect {
    /// What is told of it.
    #[must_use]
    pub fn report(self) -> TrapReport {
        TrapReport {
            kind: "host_defect".into(),
            message: self.to_string(),
            ..TrapReport::default()
        }
    }
}

/// Reads what wasmtime says. Where it was and what it said last is added by whoever knows it.
#[must_use]
pub fn read(error: &wasmtime::Error, limits: &Limits) -> TrapReport {
    let mut report = TrapReport {
        backtrace: backtrace(error),
        ..TrapReport::default()
    };
    if let Some(reached) = limit_of(error, limits) {
        report.kind = "limit".into();
        report.limit = Some(reached.limit.spec().name.into());
        report.message = reached.to_string();
        return report;
    }
    if let Some(reached) = error.downcast_ref::<TooManyListed>() {
        report.kind = "limit".into();
        report.limit = Some("listed".into());
        report.message = reached.to_string();
        return report;
    }
    if let Some(defect) = error.downcast_ref::<HostDefect>() {
        return TrapReport {
            backtrace: report.backtrace,
            ..defect.report()
        };
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => {
            report.kind = "limit".into();
            report.limit = Some("stack".into());
            report.message = format!(
                "limit reached: `stack` allows {} KiB. It cannot be raised; recurse less deeply",
                super::engine::STACK_BYTES >> 10
            );
        }
        Some(trap) => {
            report.kind = snake_case(&format!("{trap:?}"));
            report.message = format!("it trapped: {trap}");
        }
        None => {
            report.kind = "interface".into();
            report.message = words(error);
        }
    }
    report
}

/// Ours by type; the engine's own by its words, because it has no types for them.
fn limit_of(error: &wasmtime::Error, limits: &Limits) -> Option<LimitReached> {
    if let Some(reached) = error.downcast_ref::<LimitReached>() {
        return Some(reached.clone());
    }
    let text = words(error);
    let limit = [
        (
            "allocated for hostcalls has been exhausted",
            Limit::HostcallBytes,
        ),
        ("store handle limit exceeded", Limit::Handles),
        ("instance count too high", Limit::Instances),
        ("memory count too high", Limit::Memories),
        ("table count too high", Limit::Tables),
    ]
    .into_iter()
    .find_map(|(words, limit)| text.contains(words).then_some(limit))?;
    Some(LimitReached {
        limit,
        allowed: limits.get(limit)?,
    })
}

fn words(error: &wasmtime::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if !text.starts_with("error while executing") && !words.contains(&text) {
            words.push(text);
        }
    }
    words.join(": ")
}

fn backtrace(error: &wasmtime::Error) -> Vec<String> {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else {
        return Vec::new();
    };
    let named: Vec<String> = backtrace
        .frames()
        .iter()
        .filter_map(wasmtime::FrameInfo::func_name)
        .take(MAX_FRAMES)
        .map(bounded)
        .collect();
    if !named.is_empty() {
        return named;
    }
    // Trampolines have no names; where nothing has one, the numbers are better than nothing.
    backtrace
        .frames()
        .iter()
        .take(MAX_FRAMES)
        .map(|frame| format!("function {}", frame.func_index()))
        .collect()
}

fn bounded(name: &str) -> String {
    let mut kept = String::new();
    for character in name.chars() {
        if kept.len() >= MAX_FRAME_BYTES {
            kept.push('…');
            break;
        }
        kept.push(if character.is_control() {
            '\u{fffd}'
        } else {
            character
        });
    }
    kept
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_known_by_its_type_and_the_engines_own_by_their_words() {
        let limits = Limits::default();
        let ours = wasmtime::Error::from(LimitReached {
            limit: Limit::Requests,
            allowed: 5,
        });
        assert_eq!(read(&ours, &limits).limit.as_deref(), Some("requests"));
        let engine =
            wasmtime::Error::msg("cannot allocate another handle: store handle limit exceeded");
        let report = read(&engine, &limits);
        assert_eq!(report.limit.as_deref(), Some("handles"));
        assert!(report.message.contains("--limit handles="), "{report}");
    }

    #[test]
    fn an_unknown_error_keeps_its_words() {
        let report = read(&wasmtime::Error::msg("odd"), &Limits::default());
        assert_eq!(
            (report.kind.as_str(), report.message.as_str()),
            ("interface", "odd")
        );
    }

    #[test]
    fn names_of_functions_are_bounded_and_printable() {
        let name = bounded(&format!("\u{1b}[2J{}", "x".repeat(10_000)));
        assert!(name.len() < 300 && !name.contains('\u{1b}'));
    }
}
