//! What came out of a run: the envelopes, the events, and how it ended.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cortex::validate_envelope;

/// What was written of one source.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// The texts of its envelopes, in order.
    pub(crate) text: String,
    /// What CortexDB would have against them.
    pub(crate) defects: Vec<String>,
}

/// What came out of a run.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    /// By source id.
    pub(crate) sources: BTreeMap<String, Source>,
    /// Reasons, by source id.
    pub(crate) dead_letters: BTreeMap<String, String>,
    /// Streams that failed or are off, with the reason.
    pub(crate) streams: BTreeMap<String, String>,
    /// Records left out, by policy.
    pub(crate) skipped: BTreeMap<String, u64>,
    /// What went wrong beyond single records.
    pub(crate) troubles: Vec<String>,
}

impl Observed {
    /// Takes the file of envelopes.
    pub(crate) fn read_envelopes(&mut self, lines: &str) {
        for (line, number) in lines.lines().zip(1..) {
            let envelope: Value = match serde_json::from_str(line) {
                Ok(envelope) => envelope,
                Err(error) => {
                    self.troubles.push(format!(
                        "line {number} of the envelopes is no JSON: {error}"
                    ));
                    continue;
                }
            };
            let text = |pointer: &str| envelope.pointer(pointer).and_then(Value::as_str);
            let Some(source_id) = text("/source/source_id") else {
                self.troubles
                    .push(format!("line {number} of the envelopes has no source id"));
                continue;
            };
            let source = self.sources.entry(source_id.to_owned()).or_default();
            source.text += text("/content/text").unwrap_or_default();
            if let Err(defects) = validate_envelope(&envelope) {
                source.defects.extend(defects);
            }
        }
    }

    /// Takes the events of the run, one a line.
    pub(crate) fn read_events(&mut self, lines: &str) {
        let mut ended = false;
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let Ok(event) = serde_json::from_str::<Value>(line) else {
                self.troubles
                    .push(format!("the runtime printed what is no event: {line}"));
                continue;
            };
            let text = |field: &str| event.get(field).and_then(Value::as_str).unwrap_or_default();
            match text("event") {
                "dead_letter" => {
                    self.dead_letters
                        .insert(text("source_id").to_owned(), text("reason").to_owned());
                }
                "receipt" => {
                    ended = true;
                    self.read_receipt(&event);
                }
                _ => {}
            }
        }
        if !ended {
            self.troubles
                .push("the runtime ended without a receipt".to_owned());
        }
    }

    fn read_receipt(&mut self, receipt: &Value) {
        let fields = |field: &str| receipt.get(field).and_then(Value::as_object);
        for (policy, count) in fields("skipped").into_iter().flatten() {
            let count = count.as_u64().unwrap_or_default();
            self.skipped.insert(policy.clone(), count);
        }
        for (group, word) in [("streams_off", "off"), ("streams_failed", "failed")] {
            for (stream, words) in fields(group).into_iter().flatten() {
                let words = words.as_str().unwrap_or_default();
                self.streams
                    .insert(stream.clone(), format!("stream {word}: {words}"));
            }
        }
        let text = |field: &str| receipt.get(field).and_then(Value::as_str);
        let outcome = text("outcome").unwrap_or("nothing");
        if !matches!(outcome, "complete" | "complete_with_dead_letters") {
            let reason: String = text("reason")
                .unwrap_or("no reason")
                .chars()
                .take(500)
                .collect();
            self.troubles
                .push(format!("the run ended as {outcome}: {reason}"));
        }
        let said = receipt.get("dead_lettered").and_then(Value::as_u64);
        let seen = self.dead_letters.len() as u64;
        if said != Some(seen) {
            self.troubles.push(format!(
                "the receipt counts {} dead letters, {seen} were reported",
                said.unwrap_or_default()
            ));
        }
    }
}
