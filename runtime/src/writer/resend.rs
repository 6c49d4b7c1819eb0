//! Sending dead letters again.
//!
//! A cursor has moved past a record that was refused, so no run will read it again: what was kept of it must be sent itself. The
//! envelopes are sent as they were, under the same keys, and the ledger follows the discipline of every write: the version becomes
//! begun again before it is sent, and live together with what it replaces becoming obsolete. A crash in between leaves the letter
//! where it was.
//!
//! Not every letter can be sent. What the host itself refused (a blank text) never had an envelope, and where a secret was blacked out
//! of the kept text, the text no longer is what its fingerprint says. Those stay, and the answer says why.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use super::forgetting::forget;
use super::{Forgetting, WriterError};
use crate::cortexdb::batch::BatchBuilder;
use crate::cortexdb::bulk::event_ids;
use crate::cortexdb::client::Client;
use crate::digest::fingerprint;
use crate::ledger::{DeadLetter, Entry, Lease, Settled, Status, Store};
use crate::redact::Redactor;

/// Letters sent at a time; each may be a text in many fragments.
const AT_ONCE: usize = 100;
/// Replaced versions forgotten at a time.
const FORGET_BATCH: u32 = 1000;

/// What became of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Stored; the letter is gone.
    Stored,
    /// Refused again, with the server's words.
    Refused(String),
    /// Not sent, because it cannot be.
    NotSent(String),
}

/// What is needed to send letters of one connection.
pub struct Sender {
    /// Connected and identified.
    pub client: Client,
    /// What the token may do about replaced versions.
    pub forgetting: Forgetting,
    /// The ledger.
    pub store: Arc<dyn Store>,
    /// The right to write to it.
    pub lease: Lease,
    /// Removes secrets from what is kept.
    pub redactor: Redactor,
}

/// A letter that can be sent.
struct Version<'a> {
    letter: &'a DeadLetter,
    envelopes: Vec<Envelope>,
    generation: u64,
    digest: String,
    appends: bool,
}

/// As it was kept.
struct Envelope {
    json: String,
    key: String,
    scope: String,
}

impl Sender {
    /// Sends letters and returns an answer for each, in order. An error means that the rest were not sent; their letters stay.
    pub async fn resend(
        &self,
        letters: &[DeadLetter],
    ) -> Result<Vec<(String, Answer)>, WriterError> {
        let mut answers = Vec::with_capacity(letters.len());
        for letters in letters.chunks(AT_ONCE) {
            answers.extend(self.resend_some(letters).await?);
        }
        self.forget_replaced().await?;
        Ok(answers)
    }

    async fn resend_some(
        &self,
        letters: &[DeadLetter],
    ) -> Result<Vec<(String, Answer)>, WriterError> {
        let ids: Vec<&str> = letters.iter().map(|l| l.source_id.as_str()).collect();
        let entries = self.store.entries(self.lease.connection, &ids).await?;
        let read: Vec<Result<Version<'_>, String>> = letters
            .iter()
            .map(|letter| {
                let version = read(letter)?;
                agrees(&version, entries.get(&letter.source_id))?;
                Ok(version)
            })
            .collect();
        let sendable: Vec<&Version<'_>> = read.iter().flatten().collect();
        let fates = self.send(&sendable).await?;
        let mut fates = fates.into_iter();
        Ok(letters
            .iter()
            .zip(&read)
            .map(|(letter, read)| {
                let answer = match read {
                    Ok(_) => fates
                        .next()
                        .unwrap_or_else(|| Answer::NotSent("it has no fate".to_owned())),
                    Err(reason) => Answer::NotSent(reason.clone()),
                };
                (letter.source_id.clone(), answer)
            })
            .collect())
    }

    async fn send(&self, versions: &[&Version<'_>]) -> Result<Vec<Answer>, WriterError> {
        if versions.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<&str> = versions
            .iter()
            .map(|version| version.letter.source_id.as_str())
            .collect();
        self.store.revive(self.lease, &ids).await?;
        let envelopes = || versions.iter().flat_map(|version| &version.envelopes);
        let bytes = envelopes().map(|one| one.json.len() + 1).sum();
        let mut batch = BatchBuilder::with_capacity(envelopes().count(), bytes);
        for Envelope { json, key, scope } in envelopes() {
            batch.push(key.clone(), scope.as_str().into(), |body, _| {
                body.extend_from_slice(json.as_bytes());
            });
        }
        let fates = self.client.write(&batch.finish()).await?;
        let mut fates = fates.as_slice();
        let (mut answers, mut settled, mut dead) = (Vec::new(), Vec::new(), Vec::new());
        for version in versions {
            let (own, rest) = fates.split_at(version.envelopes.len().min(fates.len()));
            fates = rest;
            let event_ids = match event_ids(own) {
                Ok(ids) => {
                    answers.push(Answer::Stored);
                    ids.into_iter().map(Cow::Borrowed).collect()
                }
                Err(words) => {
                    dead.push(DeadLetter {
                        reason: self.redactor.apply(words).into_owned(),
                        ..version.letter.clone()
                    });
                    answers.push(Answer::Refused(words.to_owned()));
                    Vec::new()
                }
            };
            settled.push(Settled {
                source_id: version.letter.source_id.as_str().into(),
                generation: version.generation,
                event_ids,
                appends: version.appends,
            });
        }
        self.store.settle(self.lease, &settled, &dead).await?;
        Ok(answers)
    }

    /// Forgets what the letters replaced, where the token may. Where it may not, or it fails, the next run sees to it.
    async fn forget_replaced(&self) -> Result<(), WriterError> {
        if self.forgetting != Forgetting::Redact {
            return Ok(());
        }
        let mut after = 0;
        loop {
            let batch = self
                .store
                .obsolete(self.lease.connection, after, FORGET_BATCH)
                .await?;
            let Some(last) = batch.last() else {
                return Ok(());
            };
            after = last.row;
            let done = forget(&self.client, |_| self.forgetting, None, &batch).await;
            let rows: Vec<i64> = done.rows.into_iter().collect();
            self.store.forgotten(self.lease, &rows).await?;
            if done.failure.is_some() || rows.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Whether the letter is about the version that the ledger holds as refused.
fn agrees(version: &Version<'_>, entry: Option<&Entry>) -> Result<(), String> {
    let refused = entry.filter(|entry| matches!(entry.status, Status::Dead | Status::Begun));
    let same = refused.is_some_and(|entry| {
        (entry.generation, &entry.digest) == (version.generation, &version.digest)
    });
    if same {
        Ok(())
    } else {
        Err("the ledger has gone on to another version of this record; drop the letter".to_owned())
    }
}

/// Reads the kept envelopes. The error says why they cannot be sent.
fn read(letter: &DeadLetter) -> Result<Version<'_>, String> {
    let without_envelope = || {
        "it was refused before it had an envelope. It is tried again when the source lists it again (`run --since`)".to_owned()
    };
    let mut envelopes = Vec::new();
    let mut first: Option<Value> = None;
    for line in letter.payload.lines() {
        let envelope: Value = serde_json::from_str(line).map_err(|_| without_envelope())?;
        let text = |pointer: &str| {
            envelope
                .pointer(pointer)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .ok_or_else(without_envelope)
        };
        if text("/source/source_id")? != letter.source_id {
            return Err(without_envelope());
        }
        if text("/source/fragments/0/content_fingerprint")?
            != fingerprint(text("/content/text")?.as_bytes())
        {
            return Err("a secret was blacked out of the kept text, so that it is not the text any more. It is tried again when the record changes in the source".to_owned());
        }
        envelopes.push(Envelope {
            json: line.to_owned(),
            key: text("/idempotency_key")?,
            scope: text("/scope")?,
        });
        first.get_or_insert(envelope);
    }
    let first = first.ok_or_else(without_envelope)?;
    let fragments: usize = label(&first, "fragment")
        .and_then(|fragment| fragment.split_once('/')?.1.parse().ok())
        .unwrap_or(1);
    if fragments != envelopes.len() {
        return Err(format!(
            "{} of its {fragments} fragments were kept. It is tried again when the record changes in the source",
            envelopes.len()
        ));
    }
    Ok(Version {
        letter,
        envelopes,
        generation: label(&first, "generation")
            .and_then(|generation| generation.parse().ok())
            .ok_or_else(without_envelope)?,
        digest: label(&first, "digest")
            .ok_or_else(without_envelope)?
            .to_owned(),
        appends: first.get("modality").and_then(Value::as_str) == Some("observation"),
    })
}

/// The value of one of the host's labels, which come last.
fn label<'a>(envelope: &'a Value, name: &str) -> Option<&'a str> {
    envelope
        .pointer("/context/labels")?
        .as_array()?
        .iter()
        .rev()
        .filter_map(Value::as_str)
        .find_map(|label| label.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn letter(payload: &str) -> DeadLetter {
        DeadLetter {
            source_id: "gl:issue:42/1".into(),
            stream: "42/issues".into(),
            reason: "422".into(),
            payload: payload.into(),
        }
    }

    fn envelope(text: &str, fragment: Option<&str>) -> String {
        let mut labels = vec!["gl:issue:42/1", "digest=abc", "generation=2"];
        labels.extend(fragment);
        json!({
            "scope": "org:acme", "modality": "document", "idempotency_key": "k",
            "content": {"kind": "message", "text": text},
            "context": {"labels": labels},
            "source": {"source_id": "gl:issue:42/1", "fragments": [{"content_fingerprint": fingerprint(text.as_bytes())}]},
        })
        .to_string()
    }

    #[test]
    fn an_envelope_is_sent_as_it_was_kept() {
        let kept = letter(&envelope("words", None));
        let version = read(&kept).unwrap();
        assert_eq!((version.generation, version.digest.as_str()), (2, "abc"));
        assert_eq!(version.envelopes[0].json, kept.payload);
        assert!(!version.appends);
    }

    #[test]
    fn a_bare_text_a_missing_fragment_and_a_blacked_out_text_are_not_sent() {
        let torn = envelope("words", Some("fragment=0/2"));
        let black = envelope("my key is hunter22", None).replace("hunter22", "[secret]");
        for (payload, words) in [
            (" \n", "before it had an envelope"),
            ("just words", "before it had an envelope"),
            (torn.as_str(), "1 of its 2 fragments"),
            (black.as_str(), "secret"),
        ] {
            let kept = letter(payload);
            let reason = read(&kept).err().unwrap();
            assert!(reason.contains(words), "{reason}");
        }
    }

    #[test]
    fn a_letter_about_an_older_version_is_not_sent() {
        let kept = letter(&envelope("words", None));
        let version = read(&kept).unwrap();
        let entry = |generation, status| Entry {
            digest: "abc".into(),
            generation,
            scope: "org:acme".into(),
            status,
            event_id: None,
            preceded_by: vec![],
            begun_ago: None,
        };
        assert!(agrees(&version, Some(&entry(2, Status::Dead))).is_ok());
        assert!(agrees(&version, Some(&entry(2, Status::Begun))).is_ok());
        assert!(agrees(&version, Some(&entry(3, Status::Begun))).is_err());
        assert!(agrees(&version, Some(&entry(2, Status::Live))).is_err());
        assert!(agrees(&version, None).is_err());
    }
}
