//! `runtime serve`: the platform, until it is told to stop.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{USAGE, complain, say};
use crate::config::Surroundings;
use crate::platform::Ground;
use crate::platform::log::Log;
use crate::platform::server::{ground, serve as listen};
use crate::platform::settings::{Role, ServeConfig, ServeFlags};
use crate::platform::worker;
use crate::report::Level;

/// What is being answered may go on for so long after the end was asked for.
const GRACE: Duration = Duration::from_secs(30);

/// Where the platform is and what it does; the same for `serve` and `admin`.
#[derive(Debug, Clone, Args)]
pub(super) struct PlatformArguments {
    /// Configuration file (TOML); flags and environment beat it
    #[arg(long, value_name = "FILE.toml", global = true)]
    config: Option<PathBuf>,
    /// Folder of everything that is kept [env: RUNTIME_DATA] [default: ~/.local/share/connector-runtime]
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    /// PostgreSQL instead of SQLite in the data folder [env: RUNTIME_DATABASE]
    #[arg(long, value_name = "postgres://…", global = true)]
    database: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ServeArguments {
    #[command(flatten)]
    platform: PlatformArguments,
    /// Where to listen [env: RUNTIME_LISTEN] [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// As sources reach this platform; without it no webhooks are registered [env: RUNTIME_PUBLIC_URL]
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// What this process does: api, worker, hooks, separated by commas [env: RUNTIME_ROLE] [default: all]
    #[arg(long, value_name = "ROLES")]
    role: Option<String>,
    /// Runs at the same time in this process, beside a few for webhook calls alone [default: 4]
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// Also log every request
    #[arg(short, long)]
    verbose: bool,
}

impl PlatformArguments {
    pub(super) fn flags(&self) -> ServeFlags {
        ServeFlags {
            config: self.config.clone(),
            data: self.data.clone(),
            database: self.database.clone(),
            ..ServeFlags::default()
        }
    }
}

pub(super) async fn serve(arguments: ServeArguments) -> u8 {
    let flags = ServeFlags {
        listen: arguments.listen,
        public_url: arguments.public_url,
        roles: arguments.role,
        workers: arguments.workers,
        ..arguments.platform.flags()
    };
    let config = match ServeConfig::new(&flags, &Surroundings::of_this_process()) {
        Ok(config) => config,
        Err(error) => {
            complain(&error.to_string());
            return USAGE;
        }
    };
    let least = if arguments.verbose {
        Level::Debug
    } else {
        Level::Info
    };
    let log = Log::to_standard_error(least);
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone(), log.clone());
    // From here on a reload that comes too early is none, instead of the end.
    let hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => {
            complain(&format!("signals cannot be received: {error}"));
            return 1;
        }
    };
    let ground = match ground(config, log.clone(), stop.clone()).await {
        Ok(ground) => ground,
        Err(error) => {
            complain(&error.to_string());
            return 1;
        }
    };
    let serving = match listen(&ground).await {
        Ok(serving) => serving,
        Err(error) => {
            complain(&error.to_string());
            return 1;
        }
    };
    reload_on_signal(hangups, ground.clone(), flags);
    let working = ground
        .config
        .is(Role::Worker)
        .then(|| worker::start(ground.clone()));
    let working = match working.transpose() {
        Ok(working) => working,
        Err(error) => {
            complain(&format!("the workers cannot be started: {error}"));
            return 1;
        }
    };
    say(&format!("listening on http://{}", serving.address));
    log.line(
        Level::Info,
        "serving",
        json!({"address": serving.address.to_string(), "data": ground.config.data, "public_url": ground.config.public_url}),
    );
    stop.cancelled().await;
    if tokio::time::timeout(GRACE, serving.ended()).await.is_err() {
        log.line(
            Level::Warn,
            "some requests were cut off",
            json!({"grace_seconds": GRACE.as_secs()}),
        );
    }
    // Not bounded: whoever cannot wait for the pages in hand signals a second time.
    if let Some(working) = working {
        working.ended().await;
    }
    ground.traces.flush().await;
    log.line(Level::Info, "stopped", json!({}));
    0
}

/// With each `SIGHUP` what tenants may do is read again, and holds for what begins after it. A configuration that is wrong changes nothing.
fn reload_on_signal(mut hangups: Signal, ground: Ground, flags: ServeFlags) {
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            let config = match ServeConfig::new(&flags, &Surroundings::of_this_process()) {
                Ok(config) => config,
                Err(error) => {
                    let reason = json!({"reason": error.to_string()});
                    let words = "the configuration was not reloaded; everything is as it was";
                    ground.log.line(Level::Error, words, reason);
                    continue;
                }
            };
            let restart = ground.config.need_a_restart(&config);
            ground.set_rules(config.rules);
            let fields = json!({"taken_over": ["tenants"], "needs_a_restart": restart});
            let audited = ground
                .platform
                .audit(None, "signal", "configuration.reload", "tenants", &fields)
                .await;
            if let Err(error) = audited {
                let reason = json!({"reason": error.to_string()});
                let words = "the reload is not in the log of changes";
                ground.log.line(Level::Warn, words, reason);
            }
            ground
                .log
                .line(Level::Info, "configuration reloaded", fields);
        }
    });
}

/// The first signal ends everything in order, the second one at once.
fn stop_on_signals(stop: CancellationToken, log: Log) {
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) else {
            return;
        };
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if stop.is_cancelled() {
                std::process::exit(130);
            }
            log.line(Level::Info, "stopping", json!({}));
            stop.cancel();
        }
    });
}
