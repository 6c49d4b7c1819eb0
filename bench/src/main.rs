//! What runs inside of one process: the connector in the sandbox against the same crate without, compiling and loading.
//!
//! `connector-bench dist/gitlab.wasm 10000 5`: component, records, repetitions. Prints one JSON object.
//!
//! Two readings are timed. *Whole*: every answer is parsed, mapped and handed to a host that throws it away. *Parse and build*:
//! a run that only lists, as `runtime verify` makes one: everything is parsed and mapped, but only ids cross the border to
//! the host. Both are answered from memory, in the same order. The second is timed without epochs, too, which are a check at every
//! function and every turn of a loop.

mod canned;
mod guest;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use canned::{Answers, Canned, Source};
use connector_runtime::sandbox::compiler::{Allowance, compile_with};
use connector_runtime::sandbox::engine;
use gitlab_component::host::{Mode, RunContext};
use gitlab_component::sorted::SortedSet;
use guest::Guest;
use serde_json::{Value, json};
use simulators::gitlab::{Options, Server, Size, World};
use wasmtime::Engine;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn context(settings: &str, mode: Mode) -> RunContext {
    RunContext {
        settings: settings.to_owned(),
        now: "2026-02-13T12:00:00Z".to_owned(),
        since: None,
        mode,
        compared: SortedSet::default(),
    }
}

fn record(address: std::net::SocketAddr, context: &RunContext) -> Outcome<Answers> {
    let host = Canned::new(Source::Recording(address, std::cell::RefCell::default()));
    gitlab_component::sync(&host, context).map_err(|failure| format!("recording: {failure:?}"))?;
    Ok(host.recorded())
}

fn native(answers: &Arc<Answers>, context: &RunContext) -> Outcome<(usize, usize, Duration)> {
    let host = Canned::new(Source::Replay(Arc::clone(answers)));
    let started = computing_time()?;
    gitlab_component::sync(&host, context).map_err(|failure| format!("native: {failure:?}"))?;
    let elapsed = computing_time()?.saturating_sub(started);
    Ok((host.records.get(), host.bytes.get(), elapsed))
}

/// What this thread has computed so far. Neither side waits for anything, so it is their whole time, without that of neighbours on the
/// machine.
fn computing_time() -> std::io::Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    #[allow(
        unsafe_code,
        reason = "the pointer is to a local of the type that the call fills"
    )]
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    if done != 0 {
        return Err(std::io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).map_err(std::io::Error::other)?;
    let nanos = u32::try_from(time.tv_nsec).map_err(std::io::Error::other)?;
    Ok(Duration::new(seconds, nanos))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Native and guest by turns, and each compared with the one beside it, so that a neighbour on the machine (who shares its cores' caches and
/// units, too) disturbs both alike.
async fn compare(
    guest: &Guest,
    answers: &Arc<Answers>,
    context: &RunContext,
    rounds: usize,
) -> Outcome<Value> {
    let (mut natives, mut guests, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut records, mut bytes) = (0, 0);
    for round in 0..=rounds {
        let (native_records, read, native_time) = native(answers, context)?;
        let verify = context.mode == Mode::Verify;
        let (guest_records, guest_time) = guest.sync(answers, context, verify).await?;
        if native_records != guest_records {
            return Err(format!("native {native_records} records, guest {guest_records}").into());
        }
        (records, bytes) = (native_records, read);
        // The first round warms caches and is not counted.
        if round > 0 {
            let (native, guest) = (native_time.as_secs_f64(), guest_time.as_secs_f64());
            natives.push(native);
            guests.push(guest);
            ratios.push(native / guest);
        }
    }
    Ok(json!({
        "records": records,
        "bytes": bytes,
        "native_s": median(natives),
        "guest_s": median(guests),
        "ratio": median(ratios),
    }))
}

/// As `runtime` compiles what it has not seen before: in a child, whose start is part of it. The middle one of five times.
async fn cold_compile(component: &Path, bytes: &[u8]) -> Outcome<f64> {
    let program = component.with_file_name("runtime");
    let mut times = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        let compiled = compile_with(&program, bytes, Allowance::default()).await?;
        times.push(began.elapsed().as_secs_f64());
        if compiled.code.is_none() {
            return Err(format!("it does not compile: {:?}", compiled.findings).into());
        }
    }
    Ok(median(times))
}

/// The tenant's engine and the first party's, by turns.
async fn compare_engines(
    guests: [&Guest; 2],
    answers: &Arc<Answers>,
    context: &RunContext,
    rounds: usize,
) -> Outcome<Value> {
    let mut times = [Vec::new(), Vec::new()];
    let mut records = 0;
    for round in 0..=rounds {
        for (guest, times) in guests.iter().zip(&mut times) {
            let (read, time) = guest.sync(answers, context, false).await?;
            records = read;
            if round > 0 {
                times.push(time.as_secs_f64());
            }
        }
    }
    let [tenant, first_party] = times.map(median);
    Ok(json!({
        "records": records,
        "tenant_s": tenant,
        "first_party_s": first_party,
        "tenant_compile_s": guests[0].compile.as_secs_f64(),
        "first_party_compile_s": guests[1].compile.as_secs_f64(),
    }))
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or("dist/gitlab.wasm".into());
    let items: usize = arguments.next().unwrap_or("10000".into()).parse()?;
    let rounds: usize = arguments.next().unwrap_or("5".into()).parse()?;

    let world = World::generate(7, &Size::items(items));
    let settings = json!({ "groups": [world.top_groups()[0]] }).to_string();
    let server = Server::start(world, Options::default()).await?;
    let address = server.address();
    let (whole, listing) = (
        context(&settings, Mode::Poll),
        context(&settings, Mode::Verify),
    );
    let contexts = (whole.clone(), listing.clone());
    // The native connector blocks its thread while it waits.
    let recorded = tokio::task::spawn_blocking(move || {
        let recorded = record(address, &contexts.0).and_then(|mut answers| {
            answers.extend(record(address, &contexts.1)?);
            Ok(answers)
        });
        recorded.map_err(|error| error.to_string())
    });
    let answers = Arc::new(recorded.await??);
    server.shutdown().await;

    let bytes = std::fs::read(&path)?;
    // The engine of `runtime run`, and the one with less switched off: what hardening costs.
    let first_party = Guest::new(engine::first_party()?, &bytes)?;
    let guest = Guest::new(engine::tenant()?, &bytes)?;
    let mut without_epochs = engine::config();
    without_epochs.epoch_interruption(false);
    let unbounded = Guest::new(Engine::new(&without_epochs)?, &bytes)?;
    let result = json!({
        "compile_s": cold_compile(Path::new(&path), &bytes).await?,
        "load_s": if guest.loads.is_empty() { Value::Null } else { json!(median(guest.loads.iter().map(Duration::as_secs_f64).collect())) },
        "engines": compare_engines([&guest, &first_party], &answers, &whole, rounds).await?,
        "whole": compare(&guest, &answers, &whole, rounds).await?,
        "parse_and_build": compare(&guest, &answers, &listing, rounds).await?,
        "parse_and_build_without_epochs": compare(&unbounded, &answers, &listing, rounds).await?,
    });
    writeln!(std::io::stdout(), "{result}")?;
    Ok(())
}
