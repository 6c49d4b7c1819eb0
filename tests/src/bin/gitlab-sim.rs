//! Serves a generated GitLab until it is told to stop.
//!
//! Prints exactly one line, `gitlab-sim listening on http://…`, once it accepts connections; scripts wait for it. Everything
//! else happens over the control API under `/_sim/`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use simulators::gitlab::{Micros, Options, Server, Size, TOKEN, Token, World};

/// A GitLab in memory, for tests and demonstrations.
#[derive(Debug, Parser)]
#[command(version)]
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
    /// Requests per minute and token; no limit by default.
    #[arg(long)]
    rate_limit: Option<u64>,
    /// Origin shown in Link headers, such as http://gitlab.internal.invalid.
    #[arg(long)]
    link_host: Option<String>,
    /// Relative root, such as /gitlab.
    #[arg(long, default_value = "")]
    root: String,
    /// Start the server's clock at a fixed instant of February 2026 instead of now.
    #[arg(long)]
    fixed_clock: bool,
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
