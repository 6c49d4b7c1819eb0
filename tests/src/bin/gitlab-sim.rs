//! Serves a generated GitLab until it is told to stop.
//!
//! Prints exactly one line, `gitlab-sim listening on http://…`, once it accepts connections; scripts wait for it. Everything
//! else happens over the control API under `/_sim/`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use simulators::gitlab::{Micros, Options, Server, Size, TOKEN, Token, WebhookFaults, World};

const TOKENS: &str = "\
Tokens:
  sim-token           read_api, sees everything (Maintainer)
  sim-api-token       api, the same user: may manage hooks of projects
  sim-owner-token     api, Owner of every group: may manage hooks of groups, too
  sim-admin-token     api, administrator: may manage system hooks, too
  sim-reporter-token, sim-guest-token, sim-stranger-token   read_api, sees less
  sim-oauth-token     Bearer only
  sim-narrow-token    read_user only
  sim-revoked-token, sim-expired-token   refused

Control, beside /api/v4:
  GET    /_sim/world, /_sim/stats, /_sim/requests, /_sim/expected
  POST   /_sim/mutate/NAME        change something: {\"project\": 1, …}
  GET    /_sim/webhooks           hooks, their state, what became of the events
  GET    /_sim/webhooks/deliveries?hook=1&last=100
  POST   /_sim/webhooks/fire      {\"kind\": \"merge_request\", \"project\": 1, \"iid\": 1}; also issue, note, pipeline, release, push
  POST   /_sim/webhooks/storm     {\"per_second\": 100, \"ms\": 1000, \"seed\": 0}
  POST   /_sim/webhooks/faults    as --hook-faults; DELETE heals
  POST   /_sim/knobs              {\"version\": \"19.1.0-ee\", \"premium\": true, \"auto_disabling\": false, \"silent_mode\": false, …}
  POST   /_sim/clock              {\"advance_seconds\": 60}";

/// A GitLab in memory, for tests and demonstrations.
#[derive(Debug, Parser)]
#[command(version, after_help = TOKENS)]
struct Arguments {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Seed of the generated history.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// tiny, demo, a number of records, or `projects:N` for N small projects.
    #[arg(long, default_value = "demo", value_parser = size)]
    size: Size,
    /// An additional token that sees everything, with scope read_api.
    #[arg(long)]
    token: Option<String>,
    /// Milliseconds added to every answer.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// Compress answers for clients that take it, as GitLab's nginx does.
    #[arg(long)]
    gzip: bool,
    /// Requests per minute and token; no limit by default.
    #[arg(long)]
    rate_limit: Option<u64>,
    /// Origin shown in Link headers, such as http://gitlab.internal.invalid.
    #[arg(long)]
    link_host: Option<String>,
    /// Relative root, such as /gitlab.
    #[arg(long, default_value = "")]
    root: String,
    /// Version of GitLab; webhooks are signed from 19.0 on.
    #[arg(long, default_value = "18.9.0-ee")]
    gitlab_version: String,
    /// Without Premium: no group hooks.
    #[arg(long)]
    free: bool,
    /// Disable hooks that keep failing, as GitLab.com does.
    #[arg(long)]
    auto_disable_hooks: bool,
    /// Refuse hooks to this machine and its network, as a fresh GitLab does.
    #[arg(long)]
    no_local_hooks: bool,
    /// Call no hooks at all.
    #[arg(long)]
    silent: bool,
    /// Seconds that a hook's receiver may take.
    #[arg(long, default_value_t = 10)]
    hook_timeout: u64,
    /// What goes wrong with webhooks, as JSON: {"duplicate": 1, "drop_share": 0.1, "delay_ms": 0, "jitter_ms": 500, "truncate": 100,
    /// "break_off": 100, "forge": ["wrong_secret", "no_secret", "no_signature", "stale", "altered", "foreign"], "template": "…",
    /// "seed": 1}, each of them optional.
    #[arg(long, value_parser = webhook_faults)]
    hook_faults: Option<WebhookFaults>,
    /// Start the server's clock at a fixed instant of February 2026 instead of now.
    #[arg(long)]
    fixed_clock: bool,
}

fn webhook_faults(text: &str) -> Result<WebhookFaults, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn size(text: &str) -> Result<Size, String> {
    match text {
        "tiny" => Ok(Size::tiny()),
        "demo" => Ok(Size::demo()),
        number => {
            let (of, number) = match number.strip_prefix("projects:") {
                Some(number) => (Size::small_projects as fn(usize) -> Size, number),
                None => (Size::items as fn(usize) -> Size, number),
            };
            match number.parse() {
                Ok(count) if count > 0 => Ok(of(count)),
                _ => Err("expected tiny, demo, a number of records, or projects:N".to_owned()),
            }
        }
    }
}

async fn stopped() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

async fn run(arguments: Arguments) -> std::io::Result<()> {
    let mut world = if arguments.fixed_clock {
        World::generate(arguments.seed, &arguments.size)
    } else {
        World::generate_at(arguments.seed, &arguments.size, Micros::real_now())
    };
    if let Some(value) = &arguments.token {
        let user = world
            .tokens
            .iter()
            .find(|token| token.value == TOKEN)
            .map_or(1, |token| token.user);
        world
            .tokens
            .push(Token::personal(value, user, &["read_api"]));
    }
    let knobs = &mut world.knobs;
    knobs.version = arguments.gitlab_version;
    knobs.premium = !arguments.free;
    knobs.auto_disabling = arguments.auto_disable_hooks;
    knobs.local_hook_targets = !arguments.no_local_hooks;
    knobs.silent_mode = arguments.silent;
    knobs.hook_timeout = Duration::from_secs(arguments.hook_timeout);
    if let Some(faults) = arguments.hook_faults {
        world.set_webhook_faults(faults);
    }
    let link_origin = arguments.link_host.map(|host| {
        if host.contains("://") {
            host
        } else {
            format!("http://{host}")
        }
    });
    let options = Options {
        listen: arguments.listen,
        root: arguments.root.trim_end_matches('/').to_owned(),
        link_origin,
        gzip: arguments.gzip,
        latency: Duration::from_millis(arguments.latency_ms),
        rate_limit: arguments.rate_limit,
        seed: arguments.seed,
        ..Options::default()
    };
    let server = Server::start(world, options).await?;
    let mut out = std::io::stdout();
    writeln!(out, "gitlab-sim listening on http://{}", server.address())?;
    out.flush()?;
    stopped().await;
    server.shutdown().await;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "gitlab-sim: {error}");
            ExitCode::FAILURE
        }
    }
}
