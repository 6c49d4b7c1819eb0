//! Lines of the platform: one JSON object each on standard error, with the trace that leads from a request or a delivery to its run.

use std::io::Write as _;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::redact::Redactor;
use crate::report::{Event, Level, Reporter};

/// Where lines go. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    least: Level,
    sink: Arc<dyn Fn(&str) + Send + Sync>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    /// Lines of this level and above, to standard error.
    #[must_use]
    pub fn to_standard_error(least: Level) -> Self {
        Self::to(least, |line| {
            // A log that cannot be written is no reason to stop.
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        })
    }

    /// To somewhere else.
    pub fn to(least: Level, sink: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            least,
            sink: Arc::new(sink),
        }
    }

    /// Writes a line. `fields` is an object; its values must hold no secret.
    pub fn line(&self, level: Level, message: &str, fields: Value) {
        if level < self.least {
            return;
        }
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let mut line = Map::new();
        line.insert("at".into(), json!(now));
        line.insert("level".into(), json!(level));
        line.insert("message".into(), json!(message));
        if let Value::Object(fields) = fields {
            line.extend(fields);
        }
        (self.sink)(&Value::Object(line).to_string());
    }

    /// The events of a run as lines, each with these fields (`tenant`, `connection`, `run`, `trace`).
    #[must_use]
    pub fn reporter(&self, fields: Value, redactor: Redactor) -> Arc<dyn Reporter> {
        Arc::new(RunLog {
            log: self.clone(),
            fields,
            redactor,
        })
    }
}

struct RunLog {
    log: Log,
    fields: Value,
    redactor: Redactor,
}

impl Reporter for RunLog {
    fn event(&self, event: &Event) {
        let (level, message) = match event {
            Event::Log { level, message, .. } => (*level, message.as_str()),
            Event::Started { .. } => (Level::Info, "run began"),
            Event::Receipt(_) => (Level::Info, "run ended"),
            Event::DeadLetter { .. } => (Level::Warn, "dead letter"),
            Event::Waiting { .. } => (Level::Info, "waiting"),
            _ => (Level::Debug, "progress"),
        };
        if level < self.log.least {
            return;
        }
        let mut fields = self.fields.clone();
        if !matches!(event, Event::Log { .. })
            && let Ok(text) = serde_json::to_string(event)
            && let Ok(detail) = serde_json::from_str::<Value>(&self.redactor.apply(&text))
        {
            fields["detail"] = detail;
        }
        self.log.line(level, &self.redactor.apply(message), fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::Secret;
    use std::sync::Mutex;

    #[test]
    fn a_line_is_an_object_with_its_trace_and_without_secrets() {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&lines);
        let log = Log::to(Level::Info, move |line| {
            kept.lock().unwrap().push(line.to_owned());
        });
        let redactor = Redactor::new([Secret::new("glpat-12345")]);
        let reporter = log.reporter(json!({"run": "r1", "trace": "abc"}), redactor);
        reporter.event(&Event::Waiting {
            server: "gitlab".into(),
            reason: "token glpat-12345 refused".into(),
            seconds: 1.0,
        });
        reporter.event(&Event::Progress {
            stream: "42/notes".into(),
            done: 1,
            total: None,
        });
        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), 1, "debug lines are left out: {lines:?}");
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["trace"], "abc");
        assert_eq!(line["detail"]["reason"], "token [secret] refused");
    }
}
