//! The compiler's child is ended at each of its limits, and what is told names the rule, what was measured, the limit and what to do.
//!
//! The child is the built program, under the limits that it always sets for itself; only their numbers are small here, because compiling
//! until the real ones are reached would take a minute and two gigabytes.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::Path;
use std::time::{Duration, Instant};

use connector_runtime::sandbox::compiler::{Allowance, Compiled, compile_with};

/// Keeps every rule that is counted beforehand, and takes minutes to compile: many functions, each of them as bad as it may be.
fn bomb() -> Vec<u8> {
    let function = format!(
        "(func {}{}{})",
        "(local i32)".repeat(1900),
        "(loop ".repeat(1000),
        ")".repeat(1000)
    );
    component(&function.repeat(100))
}

fn component(functions: &str) -> Vec<u8> {
    wat::parse_str(format!("(component (core module {functions}))")).unwrap()
}

async fn compile(bytes: &[u8], allowance: Allowance) -> Compiled {
    compile_with(Path::new(env!("CARGO_BIN_EXE_runtime")), bytes, allowance)
        .await
        .unwrap()
}

/// What is told of a file that is refused.
fn refusal(compiled: &Compiled) -> String {
    assert!(compiled.code.is_none());
    let broken: Vec<_> = compiled
        .findings
        .iter()
        .filter(|finding| !finding.ok)
        .collect();
    assert_eq!(broken.len(), 1, "{:?}", compiled.findings);
    broken[0].refusal()
}

fn assert_words(words: &str, parts: &[&str]) {
    for part in parts {
        assert!(words.contains(part), "`{part}` is not in: {words}");
    }
}

#[tokio::test]
async fn a_bomb_that_no_rule_counts_is_ended_at_the_limit_on_computing() {
    let started = Instant::now();
    let allowance = Allowance {
        cpu_seconds: 1,
        ..Allowance::default()
    };
    let compiled = compile(&bomb(), allowance).await;
    assert!(!compiled.by_the_machine);
    let words = refusal(&compiled);
    assert_words(
        &words,
        &[
            "`compile_time`:",
            "more than 1 s measured",
            "1 s allowed",
            "make its functions smaller",
        ],
    );
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_bomb_that_no_rule_counts_is_ended_at_the_limit_on_memory() {
    let allowance = Allowance {
        memory_bytes: 64 << 20,
        ..Allowance::default()
    };
    let words = refusal(&compile(&bomb(), allowance).await);
    assert_words(
        &words,
        &[
            "`compile_memory`:",
            "more than 64 MiB measured",
            "64 MiB allowed",
            "make its functions smaller",
        ],
    );
}

#[tokio::test]
async fn a_bomb_that_no_rule_counts_is_ended_by_the_clock_and_its_process_with_it() {
    // A number that no other child has, to know it by.
    let memory_bytes = Allowance::default().memory_bytes + 4096;
    let allowance = Allowance {
        memory_bytes,
        wall: Duration::from_millis(700),
        ..Allowance::default()
    };
    let compiled = compile(&bomb(), allowance).await;
    assert!(compiled.by_the_machine);
    let words = refusal(&compiled);
    assert_words(
        &words,
        &[
            "`compile_time_in_all`:",
            "more than 700 ms measured",
            "700 ms allowed",
            "try again",
        ],
    );
    let started = Instant::now();
    while runs(&memory_bytes.to_string()) {
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "the child goes on"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether there is a process with this argument.
fn runs(argument: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().any(|entry| {
        let words = std::fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        words
            .split(|byte| *byte == 0)
            .any(|word| word == argument.as_bytes())
    })
}

/// The same three numbers let through what is no bomb: it was the bomb that reached them.
#[tokio::test]
async fn ordinary_code_is_compiled_within_the_same_limits() {
    let allowance = Allowance {
        memory_bytes: 64 << 20,
        cpu_seconds: 1,
        wall: Duration::from_secs(30),
    };
    let compiled = compile(&component("(func (loop))"), allowance).await;
    assert!(compiled.code.is_some(), "{:?}", compiled.findings);
    for rule in ["compile_time", "compile_memory", "code_size"] {
        assert!(
            compiled.findings.iter().any(|finding| finding.rule == rule),
            "{rule}: {:?}",
            compiled.findings
        );
    }
}
