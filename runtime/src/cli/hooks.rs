//! `runtime hooks`: what `run --listen --public-url` registered in the source.

use std::sync::Arc;

use connector_store::platform::Platform;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::args::{HooksCommand, HooksRemoveArguments, StatusArguments};
use super::prepare::{prepare, quiet_reporter};
use super::reporters::plan_lines;
use super::run::listen_for_signals;
use super::{USAGE, complain, say};
use crate::config::{Surroundings, default_state_file, hooks_plan, ledger_file};
use crate::hooks::watch::{Identity, notes, public_url};
use crate::host::hooks::HookPlan;
use crate::ledger::{SqliteStore, Store};
use crate::report::Outcome;
use crate::run::{
    Answer, Circumstances, RunOptions, Standing, Task, redactor_for, row_of, run_again,
};

pub(super) async fn hooks(command: HooksCommand) -> u8 {
    let end = match command {
        HooksCommand::List(arguments) => list(arguments).await,
        HooksCommand::Remove(arguments) => remove(*arguments).await,
    };
    end.unwrap_or_else(|(code, words)| {
        complain(&words);
        code
    })
}

type Failure = (u8, String);

fn misused(error: &dyn std::error::Error) -> Failure {
    (USAGE, error.to_string())
}

fn failed(error: &dyn std::error::Error) -> Failure {
    (1, error.to_string())
}

/// The last plan of a connection and when it was made.
pub(super) async fn kept_plan(
    platform: &dyn Platform,
    connection: &str,
) -> Option<(String, HookPlan)> {
    let kept = platform.note(&notes::plan(connection)).await.ok()??;
    let mut kept: Value = serde_json::from_str(&kept).ok()?;
    let plan = serde_json::from_value(kept.get_mut("plan")?.take()).ok()?;
    Some((kept.get("at")?.as_str()?.to_owned(), plan))
}

async fn list(arguments: StatusArguments) -> Result<u8, Failure> {
    let state_file = match arguments.state_file {
        Some(path) => path,
        None => {
            default_state_file(&Surroundings::of_this_process()).map_err(|error| misused(&error))?
        }
    };
    let store = SqliteStore::open_read_only(&ledger_file(&state_file))
        .await
        .map_err(|error| failed(&error))?;
    let mut found = Vec::new();
    if let Some(store) = &store {
        let rows = Store::connections(store)
            .await
            .map_err(|error| failed(&error))?;
        for row in rows {
            if let Some((at, plan)) = kept_plan(store, &row.name).await {
                found.push((row.name, at, plan));
            }
        }
    }
    if arguments.json {
        let list: Vec<Value> = found
            .iter()
            .map(|(name, at, plan)| json!({"connection": name, "at": at, "plan": plan}))
            .collect();
        say(&json!({ "connections": list }).to_string());
        return Ok(0);
    }
    if found.is_empty() {
        say(
            "no hooks were registered; `runtime run --watch --listen ADDRESS --public-url URL` does that",
        );
    }
    for (name, at, plan) in found {
        say(&format!("{name} (as of {at})"));
        for line in plan_lines(&plan) {
            say(&line);
        }
    }
    Ok(0)
}

async fn remove(arguments: HooksRemoveArguments) -> Result<u8, Failure> {
    let reporter = quiet_reporter();
    let stop = CancellationToken::new();
    listen_for_signals(stop.clone(), Arc::clone(&reporter));
    let flags = arguments.flags();
    let (connector, plan) = match prepare(&arguments.component, &flags, false, &reporter).await {
        Ok(prepared) => prepared,
        Err(code) => return Ok(code),
    };
    if connector.hooks().is_none() {
        return Err((
            USAGE,
            format!(
                "{} does not understand webhooks, so it registered none",
                connector.description.name
            ),
        ));
    }
    // Whether it listens now or not, the target has an address.
    let hooks = hooks_plan(
        &connector.description,
        &flags,
        Some("none"),
        arguments.public_url.as_deref(),
        &Surroundings::of_this_process(),
    )
    .map_err(|error| misused(&error))?;
    let store = SqliteStore::open(&ledger_file(&plan.state_file))
        .await
        .map_err(|error| failed(&error))?;
    let mut standing = Standing::with_ledger(store.clone());
    let around = Circumstances::new(Arc::clone(&reporter), redactor_for(&plan), &stop);
    let (row, name) = row_of(&connector, &plan, &mut standing, &around)
        .await
        .map_err(|error| {
            let receipt = around.receipt_of(&error);
            (
                receipt.outcome.exit_code(),
                receipt.reason.unwrap_or_default(),
            )
        })?;
    let secret = hooks.as_ref().and_then(|hooks| hooks.secret.as_ref());
    let token = hooks
        .as_ref()
        .and_then(|hooks| hooks.signing_token.as_ref());
    let identity = Identity::of(&store, row, name.clone(), secret, token)
        .await
        .map_err(|error| failed(&error))?;
    let url = hooks
        .as_ref()
        .and_then(|hooks| hooks.public_url.as_ref())
        .map(|url| public_url(url, &connector.description.name))
        .unwrap_or_default();
    let target = identity
        .target(&store, url)
        .await
        .map_err(|error| failed(&error))?;
    let around = Circumstances::new(Arc::clone(&reporter), redactor_for(&plan), &stop);
    let (receipt, answer) = run_again(
        &connector,
        &plan,
        &RunOptions::default(),
        Some(Task::Disconnect(target)),
        &mut standing,
        &around,
    )
    .await;
    let Answer::Left(left) = answer else {
        // The reporter has said why.
        return Ok(receipt.outcome.exit_code().max(1));
    };
    if receipt.outcome != Outcome::Complete {
        return Ok(receipt.outcome.exit_code());
    }
    let gone = HookPlan {
        polled: left,
        ..HookPlan::default()
    };
    let kept = json!({
        "at": chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        "plan": gone,
    });
    store
        .set_note(&notes::plan(&name), &kept.to_string(), true)
        .await
        .map_err(|error| failed(&error))?;
    store.close().await;
    if arguments.json {
        say(&json!({ "left": gone.polled }).to_string());
    } else if gone.polled.is_empty() {
        say("every hook of this connection is removed");
    } else {
        say("these could not be removed:");
        for line in plan_lines(&gone) {
            say(&line);
        }
    }
    Ok(u8::from(!gone.polled.is_empty()))
}
