//! `runtime dead-letters`: what was refused for good, and what to do about it.
//!
//! Looking touches nothing and needs no lock. Whatever changes the ledger takes the lock of the state file first, as a run does, so that
//! the two never write at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::args::{
    Chosen, DropArguments, LetterArguments, LetterCommand, RetryArguments, ShowArguments,
};
use super::prepare::quiet_reporter;
use super::{USAGE, complain, escaped, say};
use crate::config::{Surroundings, cortex_settings, default_state_file, ledger_file};
use crate::cursors;
use crate::ledger::{ConnectionRow, DeadLetter, KeptLetter, Lease, SqliteStore, Store};
use crate::redact::Redactor;
use crate::run::{Circumstances, LEASE, connect_to, destination, forgetting, keep_lease, owner};
use crate::writer::printable;
use crate::writer::resend::{Answer, Sender};

/// Of a reason, in the table.
const REASON_WIDTH: usize = 100;

/// Why a command failed: the words for the user and the exit code.
struct Failure(String, u8);

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure(error.to_string(), 1)
}

fn misused(error: impl std::fmt::Display) -> Failure {
    Failure(error.to_string(), USAGE)
}

pub(super) async fn dead_letters(command: LetterCommand) -> u8 {
    let done = match command {
        LetterCommand::List(arguments) => list(arguments).await,
        LetterCommand::Show(arguments) => show(arguments).await,
        LetterCommand::Retry(arguments) => retry(*arguments).await,
        LetterCommand::Drop(arguments) => drop_letters(arguments).await,
    };
    done.unwrap_or_else(|Failure(words, code)| {
        complain(&words);
        code
    })
}

fn state_file(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    match named {
        Some(path) => Ok(path),
        None => default_state_file(&Surroundings::of_this_process()).map_err(misused),
    }
}

/// Every connection with its letters (or the one letter asked for); connections without any are left out.
async fn read(
    store: &SqliteStore,
    source_id: Option<&str>,
) -> Result<Vec<(ConnectionRow, Vec<KeptLetter>)>, Failure> {
    let mut found = Vec::new();
    for connection in store.connections().await.map_err(failed)? {
        let letters = store
            .dead_letters(connection.id, source_id.as_ref().map(std::slice::from_ref))
            .await
            .map_err(failed)?;
        if !letters.is_empty() {
            found.push((connection, letters));
        }
    }
    Ok(found)
}

async fn look(
    state_file: &Path,
    source_id: Option<&str>,
) -> Result<Vec<(ConnectionRow, Vec<KeptLetter>)>, Failure> {
    match SqliteStore::open_read_only(&ledger_file(state_file))
        .await
        .map_err(failed)?
    {
        None => Ok(Vec::new()),
        Some(store) => {
            let found = read(&store, source_id).await;
            store.close().await;
            found
        }
    }
}

fn describe(connection: &ConnectionRow, kept: &KeptLetter) -> Value {
    json!({
        "connection": connection.name,
        "source_id": kept.letter.source_id,
        "stream": kept.letter.stream,
        "reason": kept.letter.reason,
        "first_seen": kept.first_seen,
        "last_seen": kept.last_seen,
        "attempts": kept.attempts,
    })
}

async fn list(arguments: LetterArguments) -> Result<u8, Failure> {
    let state_file = state_file(arguments.state_file)?;
    let found = look(&state_file, None).await?;
    if arguments.json {
        let letters: Vec<Value> = found
            .iter()
            .flat_map(|(connection, letters)| letters.iter().map(|kept| describe(connection, kept)))
            .collect();
        say(
            &json!({ "state_file": state_file.display().to_string(), "dead_letters": letters })
                .to_string(),
        );
        return Ok(0);
    }
    if found.is_empty() {
        say("no dead letters");
    }
    for (connection, letters) in &found {
        say(&connection.name);
        for line in table(letters) {
            say(&format!("  {line}"));
        }
    }
    Ok(0)
}

fn table(letters: &[KeptLetter]) -> Vec<String> {
    let mut rows = vec![
        [
            "record",
            "stream",
            "first seen",
            "last seen",
            "times",
            "reason",
        ]
        .map(str::to_owned),
    ];
    rows.extend(letters.iter().map(|kept| {
        let reason: String = printable(&kept.letter.reason);
        [
            escaped(&kept.letter.source_id),
            kept.letter.stream.clone(),
            kept.first_seen.clone(),
            kept.last_seen.clone(),
            kept.attempts.to_string(),
            reason.chars().take(REASON_WIDTH).collect(),
        ]
    }));
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..5).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells: Vec<String> = row[..5]
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            format!("{}  {}", cells.join("  "), row[5])
        })
        .collect()
}

fn no_such(source_id: &str) -> Failure {
    Failure(
        format!("there is no dead letter of `{}`", printable(source_id)),
        1,
    )
}

async fn show(arguments: ShowArguments) -> Result<u8, Failure> {
    let state_file = state_file(arguments.common.state_file)?;
    let found = look(&state_file, Some(&arguments.source_id)).await?;
    if found.is_empty() {
        return Err(no_such(&arguments.source_id));
    }
    for (connection, letters) in &found {
        for kept in letters {
            let payload = &kept.letter.payload;
            let envelopes: Option<Vec<Value>> = payload
                .lines()
                .map(|line| serde_json::from_str(line).ok().filter(Value::is_object))
                .collect();
            let envelopes = envelopes.filter(|list| !list.is_empty());
            if arguments.common.json {
                let mut object = describe(connection, kept);
                object["envelopes"] = json!(envelopes);
                object["text"] = json!(envelopes.is_none().then_some(payload));
                say(&object.to_string());
                continue;
            }
            say(&escaped(&kept.letter.source_id));
            say(&format!("  connection  {}", connection.name));
            say(&format!("  stream      {}", kept.letter.stream));
            say(&format!("  reason      {}", escaped(&kept.letter.reason)));
            say(&format!(
                "  refused     {} times, first {}, last {}",
                kept.attempts, kept.first_seen, kept.last_seen
            ));
            match envelopes {
                Some(envelopes) => {
                    for envelope in envelopes {
                        say(&serde_json::to_string_pretty(&envelope).unwrap_or_default());
                    }
                }
                None => say(&escaped(payload)),
            }
        }
    }
    Ok(0)
}

/// Opens the ledger for writing, with the lock held; `None` where there is none.
async fn open(
    state_file: &Path,
) -> Result<Option<(cursors::StateLock, Arc<SqliteStore>)>, Failure> {
    let path = ledger_file(state_file);
    if !path.exists() {
        return Ok(None);
    }
    let lock = cursors::lock(state_file).map_err(failed)?;
    let store = SqliteStore::open(&path).await.map_err(failed)?;
    Ok(Some((lock, Arc::new(store))))
}

async fn claim(
    store: &SqliteStore,
    connection: &ConnectionRow,
    state_file: &Path,
) -> Result<Lease, Failure> {
    store
        .claim(&connection.name, &owner(state_file), LEASE)
        .await
        .map_err(failed)
}

fn refuse_unknown(chosen: &Chosen) -> Result<(), Failure> {
    match &chosen.source_id {
        Some(source_id) => Err(no_such(source_id)),
        None => Ok(()),
    }
}

async fn drop_letters(arguments: DropArguments) -> Result<u8, Failure> {
    let state_file = state_file(arguments.common.state_file)?;
    let mut dropped = 0;
    if let Some((_lock, store)) = open(&state_file).await? {
        for (connection, letters) in read(&store, arguments.chosen.source_id.as_deref()).await? {
            let lease = claim(&store, &connection, &state_file).await?;
            let ids: Vec<&str> = letters
                .iter()
                .map(|k| k.letter.source_id.as_str())
                .collect();
            let done = store.drop_letters(lease, &ids).await;
            store.release(lease).await.map_err(failed)?;
            dropped += done.map_err(failed)?;
        }
        store.close().await;
    }
    if dropped == 0 {
        refuse_unknown(&arguments.chosen)?;
    }
    if arguments.common.json {
        say(&json!({ "dropped": dropped }).to_string());
    } else {
        say(&format!("{dropped} dropped"));
    }
    Ok(0)
}

async fn retry(arguments: RetryArguments) -> Result<u8, Failure> {
    let (cortex, state_file, patience) =
        cortex_settings(&arguments.flags(), &Surroundings::of_this_process()).map_err(misused)?;
    let redactor = Redactor::new(cortex.key.clone());
    let around = Circumstances::new(
        quiet_reporter(),
        redactor.clone(),
        &CancellationToken::new(),
    );
    let Some((_lock, store)) = open(&state_file).await? else {
        refuse_unknown(&arguments.chosen)?;
        return Ok(tell(&[], arguments.common.json));
    };
    let found = read(&store, arguments.chosen.source_id.as_deref()).await?;
    if found.is_empty() {
        refuse_unknown(&arguments.chosen)?;
        return Ok(tell(&[], arguments.common.json));
    }
    let safe = |error: &dyn std::fmt::Display| failed(redactor.apply(&error.to_string()));
    let (client, identity) = connect_to(&cortex, patience, &around)
        .await
        .map_err(|error| safe(&error))?
        .ok_or_else(|| misused("no CortexDB key: set CORTEXDB_API_KEY"))?;
    let here = destination(&cortex.url, Some(&identity));
    let mut answers: Vec<(String, Answer)> = Vec::new();
    for (connection, letters) in found {
        let letters: Vec<DeadLetter> = letters.into_iter().map(|kept| kept.letter).collect();
        if !connection.name.ends_with(&here) {
            let reason = format!(
                "it belongs to the connection `{}`; set CORTEXDB_URL and the key to those of that one",
                connection.name
            );
            answers.extend(
                letters
                    .into_iter()
                    .map(|letter| (letter.source_id, Answer::NotSent(reason.clone()))),
            );
            continue;
        }
        let lease = claim(&store, &connection, &state_file).await?;
        let dynamic: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
        let renewing = keep_lease(Arc::clone(&dynamic), lease, &around);
        let sender = Sender {
            client: client.clone(),
            forgetting: forgetting(Some(&identity)),
            store: dynamic,
            lease,
            redactor: redactor.clone(),
        };
        let sent = sender.resend(&letters).await;
        renewing.abort();
        let released = store.release(lease).await;
        answers.extend(sent.map_err(|error| safe(&error))?);
        released.map_err(failed)?;
    }
    store.close().await;
    for (_, answer) in &mut answers {
        if let Answer::Refused(words) = answer {
            *words = redactor.apply(words).into_owned();
        }
    }
    Ok(tell(&answers, arguments.common.json))
}

/// Says what became of each letter; the exit code.
fn tell(answers: &[(String, Answer)], as_json: bool) -> u8 {
    let stored = answers
        .iter()
        .filter(|(_, answer)| *answer == Answer::Stored)
        .count();
    let word = |answer: &Answer| match answer {
        Answer::Stored => ("stored", None),
        Answer::Refused(words) => ("refused", Some(words.clone())),
        Answer::NotSent(words) => ("not_sent", Some(words.clone())),
    };
    if as_json {
        let list: Vec<Value> = answers
            .iter()
            .map(|(source_id, answer)| {
                let (outcome, reason) = word(answer);
                json!({ "source_id": source_id, "outcome": outcome, "reason": reason })
            })
            .collect();
        say(
            &json!({ "stored": stored, "failed": answers.len() - stored, "letters": list })
                .to_string(),
        );
    } else {
        for (source_id, answer) in answers {
            let (outcome, reason) = word(answer);
            let reason = reason
                .map(|r| format!(": {}", printable(&r)))
                .unwrap_or_default();
            say(&format!(
                "{}  {}{reason}",
                escaped(source_id),
                outcome.replace('_', " ")
            ));
        }
        say(&format!(
            "{stored} stored, {} failed",
            answers.len() - stored
        ));
    }
    u8::from(stored < answers.len())
}
