//! Hostile guests: one program for each thing that a component could do to us, run by the released program against both simulators.
//!
//! `guests/<behaviour>.wat` is the program, `guests/<behaviour>.expected` what is told of it; a program without its report fails. Beside
//! the report each is held to what all are held to: the program ends by itself, in bounded memory and time, nothing outside of the
//! connection's scope is stored, and no secret is shown. `make hostile` prints the table; `HOSTILE_UPDATE=1` writes the reports anew.

mod assemble;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use simulators::gitlab::{Fault, Rule};
use tokio::io::AsyncReadExt as _;

use crate::setup::{Ran, Setup};

/// No guest makes the program larger than its memory limit and what the program itself needs.
const MOST_PEAK_KIB: u64 = 700 << 10;
const MOST_TIME: Duration = Duration::from_secs(60);
const LARGE_ANSWER_BYTES: usize = 30 << 20;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All programs, by name.
fn guests() -> Vec<PathBuf> {
    let files = std::fs::read_dir(root().join("guests")).unwrap();
    let mut guests: Vec<PathBuf> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wat"))
        .collect();
    guests.sort();
    guests
}

/// Words after `;; run:`, in the guest's header.
fn arguments(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix(";; run:"))
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect()
}

/// The largest answer that a component may have, at an address that no other guest asks for.
fn large_answer() -> Rule {
    let fault = Fault::Status {
        status: 200,
        body: "x".repeat(LARGE_ANSWER_BYTES),
        content_type: None,
        retry_after: None,
    };
    Rule::new("/api/v4/large", fault)
}

struct Measured {
    ran: Ran,
    peak_kib: u64,
    time: Duration,
}

/// Runs to the end, looking at the process's memory from time to time.
async fn measure(setup: &Setup, arguments: &[&str]) -> Measured {
    let started = Instant::now();
    let mut child = setup.spawn(arguments);
    let status = PathBuf::from(format!("/proc/{}/status", child.id().unwrap()));
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = tokio::spawn(async move {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let _ = tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
        (out, err)
    });
    let mut peak_kib = 0;
    let exit = loop {
        if let Some(exit) = child.try_wait().unwrap() {
            break exit;
        }
        assert!(
            started.elapsed() < MOST_TIME,
            "it did not end: {arguments:?}"
        );
        peak_kib = peak_kib.max(highest_memory(&status));
        tokio::time::sleep(Duration::from_millis(4)).await;
    };
    let (stdout, stderr) = read.await.unwrap();
    Measured {
        ran: Ran::new(exit.code().unwrap_or(-1), &stdout, &stderr),
        peak_kib,
        time: started.elapsed(),
    }
}

fn highest_memory(status: &Path) -> u64 {
    let status = std::fs::read_to_string(status).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.map(|line| line.trim().trim_end_matches("kB").trim());
    kib.and_then(|kib| kib.parse().ok()).unwrap_or_default()
}

/// What is told of a guest, without what changes from run to run.
fn report(setup: &Setup, ran: &Ran) -> String {
    let receipt = ran
        .events()
        .into_iter()
        .rfind(|event| event["event"] == "receipt");
    let mut report = format!("exit {}\n", ran.code);
    let mut line = |name: &str, value: &Value| {
        let text = match value {
            Value::Null => return,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        writeln!(report, "{name}: {}", steady(setup, &text)).unwrap();
    };
    let Some(receipt) = receipt else {
        let words = ran.stderr.trim_end();
        line(
            "error",
            &words.strip_prefix("error: ").unwrap_or(words).into(),
        );
        return report;
    };
    let trap = &receipt["trap"];
    line("outcome", &receipt["outcome"]);
    line("kind", &trap["kind"]);
    line("limit", &trap["limit"]);
    line("message", &trap["message"]);
    line("panic", &trap["panic"]);
    line("stream", &trap["stream"]);
    line("request", &trap["request"]);
    line("in", &trap["backtrace"][0]);
    if trap.is_null() {
        line("reason", &receipt["reason"]);
    }
    for name in ["written", "dead_lettered"] {
        if receipt[name] != 0 {
            line(name, &receipt[name]);
        }
    }
    let cursors = setup.cursors();
    if !cursors.is_empty() && cursors.len() < 10 {
        let saved: Vec<&str> = cursors.keys().map(String::as_str).collect();
        line("cursors", &saved.join(", ").into());
    }
    for event in ran.events() {
        if event["event"] == "dead_letter" {
            line("dead letter", &event["reason"]);
        }
        if event["level"] == "warn" {
            line("warning", &event["message"]);
        }
    }
    report
}

/// Addresses of the simulators and of the machine's folders differ.
fn steady(setup: &Setup, text: &str) -> String {
    text.replace(&setup.gitlab.url(), "<gitlab>")
        .replace(&setup.cortex.url(), "<cortexdb>")
        .replace(setup.home.path().to_str().unwrap(), "<home>")
}

/// Whatever a guest does, all that it stored lies below the connection's scope.
fn assert_nothing_left_its_scope(setup: &Setup, name: &str) {
    for event in setup.cortex.cortex().live_events() {
        let envelope = event.envelope();
        let scope = envelope["scope"].as_str().unwrap();
        assert!(
            scope.starts_with("org:acme/source:gitlab/project:") && scope.split('/').count() == 3,
            "{name} wrote to {scope}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_guest_ends_as_its_report_says() {
    let update = std::env::var_os("HOSTILE_UPDATE").is_some();
    let only = std::env::var("HOSTILE_ONLY").unwrap_or_default();
    let mut failures = String::new();
    println!(
        "{:<42}{:<30}{:<34}{:>8}{:>10}",
        "guest", "limit or rule", "outcome", "peak", "time"
    );
    for guest in guests() {
        let name = guest.file_stem().unwrap().to_str().unwrap();
        if !name.contains(&only) {
            continue;
        }
        let text = std::fs::read_to_string(&guest).unwrap();
        let setup = Setup::tiny(900).await;
        setup.gitlab.add_fault(large_answer());
        let wasm = setup.home.path().join(format!("{name}.wasm"));
        std::fs::write(&wasm, assemble::assemble(root(), &text)).unwrap();
        let arguments = arguments(&text);
        let mut all = vec!["run", wasm.to_str().unwrap(), "--json"];
        all.extend(arguments.iter().map(String::as_str));
        let measured = measure(&setup, &all).await;
        let ran = measured.ran;
        assert_nothing_left_its_scope(&setup, name);
        assert!(
            measured.peak_kib < MOST_PEAK_KIB,
            "{name}: {} KiB",
            measured.peak_kib
        );
        assert!(
            !ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'),
            "{name} moved the terminal's cursor"
        );
        let report = report(&setup, &ran);
        show(name, &report, measured.peak_kib, measured.time);
        let expected = guest.with_extension("expected");
        if update {
            std::fs::write(&expected, &report).unwrap();
            continue;
        }
        let wanted = std::fs::read_to_string(&expected).unwrap_or_else(|_| {
            "no report: run with HOSTILE_UPDATE=1 and read what it writes".into()
        });
        if wanted != report {
            writeln!(failures, "{name}\n--- expected\n{wanted}--- told\n{report}").unwrap();
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

fn show(name: &str, report: &str, peak_kib: u64, time: Duration) {
    let field = |name: &str| {
        report
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let quoted = |before: &str| {
        let words = field("error")?.split(before).nth(1)?;
        words.split('`').next()
    };
    let rule = quoted("the rule `").or_else(|| quoted("limit reached: `"));
    let limit = field("limit").or(rule).unwrap_or("-");
    let outcome = field("outcome").unwrap_or("refused");
    let kind = field("kind").filter(|kind| *kind != "limit");
    let outcome = kind.map_or_else(|| outcome.to_owned(), |kind| format!("{outcome}: {kind}"));
    println!(
        "{name:<42}{limit:<30}{outcome:<34}{:>4} MiB{:>8.2} s",
        peak_kib >> 10,
        time.as_secs_f64()
    );
}

/// The text of one guest, as a file in the setup's home.
fn assembled(setup: &Setup, name: &str) -> String {
    let text = root().join("guests").join(name).with_extension("wat");
    let wasm = setup.home.path().join(format!("{name}.wasm"));
    let text = std::fs::read_to_string(text).unwrap();
    std::fs::write(&wasm, assemble::assemble(root(), &text)).unwrap();
    wasm.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_panics_fails_its_cycle_and_the_next_one_runs() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let setup = Setup::tiny(901).await;
    let wasm = assembled(&setup, "writes-and-then-panics");
    let mut child = setup.spawn(&["run", &wasm, "--json", "--watch", "--interval", "1s"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut traps = 0;
    while traps < 2 {
        let line = tokio::time::timeout(MOST_TIME, lines.next_line()).await;
        let line = line.unwrap().unwrap().expect("the program ended");
        crate::secrets::assert_none_in(&line);
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["event"] == "receipt" {
            assert_eq!(event["outcome"], "failed", "{line}");
            assert_eq!(event["trap"]["kind"], "panic", "{line}");
            traps += 1;
        }
    }
    child.kill().await.unwrap();
    assert_eq!(setup.stored().len(), 1);
}

/// Ctrl-C is a request to a component, and one that does not listen is ended by the limit on computing without a wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_ignores_ctrl_c_is_ended_and_a_second_ctrl_c_ends_it_at_once() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    for name in [
        "loops-in-sync",
        "loops-and-asks-now-and-then",
        "sleeps-in-the-host",
    ] {
        for (limit, interruptions) in [("cpu_between_waits=2s", 1), ("cpu_between_waits=1h", 2)] {
            let setup = Setup::tiny(904).await;
            let wasm = assembled(&setup, name);
            let mut child = setup.spawn(&[
                "run", &wasm, "--json", "--limit", "cpu=2h", "--limit", limit,
            ]);
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let begun = lines.next_line().await.unwrap().unwrap();
            assert!(begun.contains("started"), "{begun}");
            // It is compiled and begins to loop or to sleep.
            tokio::time::sleep(Duration::from_millis(700)).await;
            let started = Instant::now();
            for _ in 0..interruptions {
                let process = child.id().unwrap().to_string();
                let sent = std::process::Command::new("kill")
                    .args(["-INT", &process])
                    .status();
                assert!(sent.unwrap().success());
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            let ended = tokio::time::timeout(Duration::from_secs(30), child.wait()).await;
            let code = ended.expect(name).unwrap().code();
            assert_eq!(code, Some(130), "{name} after {:?}", started.elapsed());
            if interruptions == 2 {
                assert!(started.elapsed() < Duration::from_secs(5), "{name}");
            }
        }
    }
}

/// What the guest logs is all that it has: the memory into which the host puts every answer. That it holds the source's own words shows
/// that it was looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_says_all_that_it_can_see_says_the_sources_words_and_no_secret() {
    let setup = Setup::tiny(905).await;
    let wasm = assembled(&setup, "says-all-that-it-can-see");
    let ran = setup.runtime(&["run", &wasm, "--json"]).await.expect(0);
    let said: Vec<String> = ran
        .events()
        .iter()
        .filter(|event| event["event"] == "log")
        .map(|event| event["message"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        said.iter().any(|line| line.contains("\"username\":")),
        "{said:?}"
    );
    let all: usize = said.iter().map(|line| line.chars().count()).sum();
    assert!(all > 200_000, "only {all} bytes of its memory");
    // What it logs is searched for secrets by the host: one that it had would have left this.
    assert!(!ran.stdout.contains("[secret]"), "{}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receipt_shows_what_was_used_and_allowed() {
    let setup = Setup::tiny(902).await;
    let receipt = setup
        .run(&["--limit", "requests=100000"])
        .await
        .expect(0)
        .receipt();
    let limits = &receipt["limits"];
    assert_eq!(limits["requests"]["allowed"], 100_000);
    assert!(limits["requests"]["used"].as_u64().unwrap() > 0, "{limits}");
    assert!(
        limits["memory"]["used"].as_u64().unwrap() > 1 << 16,
        "{limits}"
    );
    assert_eq!(limits["experiences"]["allowed"], Value::Null);
    assert_eq!(limits["handles"]["used"], Value::Null);
    let text = setup
        .runtime(&[
            "run",
            crate::setup::dist("gitlab.wasm").to_str().unwrap(),
            "--verbose",
        ])
        .await
        .expect(0);
    assert!(text.stdout.contains("of 256 MiB"), "{}", text.stdout);
    let refused = setup.run(&["--limit", "memory=lots"]).await.expect(2);
    assert!(refused.stderr.contains("256MiB"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_shows_each_rule_and_fails_where_one_is_broken() {
    let mut setup = Setup::tiny(903).await;
    // What compiling took is known only to who does it.
    setup.compiles_itself();
    let bomb = assembled(&setup, "is-a-compile-bomb-of-locals");
    let ran = setup.runtime(&["inspect", &bomb, "--json"]).await.expect(1);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let rules = report["admission"].as_array().unwrap();
    let broken: Vec<&Value> = rules.iter().filter(|rule| rule["ok"] == false).collect();
    assert_eq!(broken.len(), 1, "{rules:?}");
    assert_eq!(broken[0]["rule"], "function_locals");
    assert_eq!(broken[0]["measured"], 6000);
    assert_eq!(broken[0]["limit"], 2000);
    let text = setup.runtime(&["inspect", &bomb]).await.expect(1);
    assert!(text.stdout.contains("REFUSED"), "{}", text.stdout);
    let fine = crate::setup::dist("gitlab.wasm");
    let ran = setup
        .runtime(&["inspect", fine.to_str().unwrap()])
        .await
        .expect(0);
    assert!(ran.stdout.contains("compile_memory"), "{}", ran.stdout);
}
