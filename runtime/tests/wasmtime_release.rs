//! The sandbox is wasmtime's, so an old wasmtime is a hole. The locked version is the newest patch of its line that this machine knows of,
//! or `docs/decisions/008-wasmtime-48.md` names the newer one and says why it is not taken.
//!
//! What the machine knows is cargo's copy of the registry's index, below `$CARGO_HOME/registry/index`. Nothing is asked over a network
//! here; `make deny` fetches the newest copy where there is one.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

const DECISION: &str = "docs/decisions/008-wasmtime-48.md";

/// `48.0.8`, in the order of age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version([u64; 3]);

impl Version {
    /// `None` for what is no release: `49.0.0-rc.1`.
    fn parse(text: &str) -> Option<Self> {
        let parts: Result<Vec<u64>, _> = text.split('.').map(str::parse).collect();
        Some(Self(parts.ok()?.try_into().ok()?))
    }

    /// wasmtime gets its security fixes by major version.
    fn line(self) -> u64 {
        self.0[0]
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// Whether staying at `locked` is right. `newest`: of its line; `None` where the machine knows no index.
fn judge(locked: Version, newest: Option<Version>, decision: &str) -> Result<(), String> {
    if !decision.starts_with(&format!("# 008 wasmtime {locked}\n")) {
        return Err(format!(
            "Cargo.lock has wasmtime {locked}, and {DECISION} is about another version: say there what was chosen and why"
        ));
    }
    let Some(newer) = newest.filter(|newest| *newest > locked) else {
        return Ok(());
    };
    let begin = format!("**Not {newer}**: ");
    let reason = decision.lines().find_map(|line| line.strip_prefix(&begin));
    if reason.is_some_and(|reason| !reason.trim().is_empty()) {
        return Ok(());
    }
    Err(format!(
        "wasmtime {newer} is out and {locked} is locked: `cargo update -p wasmtime --precise {newer}`, or say why not in {DECISION}, in a line that begins with `{begin}`"
    ))
}

/// The version in a `Cargo.lock`.
fn locked(lock: &str) -> Version {
    let lock: toml::Table = toml::from_str(lock).unwrap();
    let packages = lock["package"].as_array().unwrap();
    let mut versions = packages
        .iter()
        .filter(|package| package["name"].as_str() == Some("wasmtime"))
        .map(|package| Version::parse(package["version"].as_str().unwrap()).unwrap());
    let version = versions.next().expect("Cargo.lock has no wasmtime");
    assert_eq!(
        versions.next(),
        None,
        "Cargo.lock has more than one wasmtime"
    );
    version
}

/// The newest release of a line in a file of cargo's index: lines of JSON between zeros, behind a header.
fn newest_in(file: &[u8], line: u64) -> Option<Version> {
    file.split(|byte| *byte == 0)
        .filter_map(|entry| serde_json::from_slice::<Value>(entry).ok())
        .filter(|entry| entry["yanked"] == false)
        .filter_map(|entry| Version::parse(entry["vers"].as_str()?))
        .filter(|version| version.line() == line)
        .max()
}

/// Every copy of an index that has wasmtime.
fn index_files() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || std::env::home_dir().unwrap_or_default().join(".cargo"),
        PathBuf::from,
    );
    let Ok(registries) = std::fs::read_dir(home.join("registry/index")) else {
        return Vec::new();
    };
    registries
        .map(|registry| registry.unwrap().path().join(".cache/wa/sm/wasmtime"))
        .filter(|file| file.exists())
        .collect()
}

#[test]
fn wasmtime_is_the_newest_patch_of_its_line_or_the_decision_says_why_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let locked = locked(&std::fs::read_to_string(root.join("Cargo.lock")).unwrap());
    let decision = std::fs::read_to_string(root.join(DECISION)).unwrap();
    let files = index_files();
    if files.is_empty() {
        // Past the harness, which shows nothing of a test that passes.
        let words =
            format!("no registry's index is on this machine: only {DECISION} was looked at");
        writeln!(std::io::stderr(), "{words}").unwrap();
    }
    let newest = files
        .iter()
        .map(|file| {
            newest_in(&std::fs::read(file).unwrap(), locked.line()).unwrap_or_else(|| {
                panic!(
                    "{} has no wasmtime {}: has cargo changed the form of its index?",
                    file.display(),
                    locked.line()
                )
            })
        })
        .max();
    judge(locked, newest, &decision).unwrap();
}

#[test]
fn a_newer_patch_is_an_error_until_the_decision_says_why_it_is_not_taken() {
    let [old, new] = ["48.0.8", "48.0.10"].map(|text| Version::parse(text).unwrap());
    let silent = "# 008 wasmtime 48.0.8\n\nThe newest.\n";
    assert_eq!(judge(old, Some(old), silent), Ok(()));
    assert_eq!(judge(old, None, silent), Ok(()));
    let words = judge(old, Some(new), silent).unwrap_err();
    assert!(
        words.contains("48.0.10 is out") && words.contains("--precise 48.0.10"),
        "{words}"
    );
    let explained = format!("{silent}\n**Not 48.0.10**: it does not build.\n");
    assert_eq!(judge(old, Some(new), &explained), Ok(()));
    let empty = format!("{silent}\n**Not 48.0.10**: \n");
    assert!(judge(old, Some(new), &empty).is_err());
    // What was said of one patch does not excuse the next.
    let later = Version::parse("48.0.11");
    assert!(judge(old, later, &explained).is_err());
}

#[test]
fn without_an_index_the_decision_must_be_about_what_is_locked() {
    let locked = Version::parse("48.0.9").unwrap();
    assert!(judge(locked, None, "# 008 wasmtime 48.0.8\n").is_err());
    assert_eq!(judge(locked, None, "# 008 wasmtime 48.0.9\n"), Ok(()));
}

#[test]
fn an_index_is_read_without_what_was_withdrawn_tried_out_or_is_of_another_line() {
    let entry = |version: &str, yanked: bool| {
        format!("{version}\0{{\"name\":\"wasmtime\",\"vers\":\"{version}\",\"yanked\":{yanked}}}\0")
    };
    let file = [
        "\u{3}\u{2}\0\0\0etag: x\0".to_owned(),
        entry("48.0.9", false),
        entry("48.0.11", true),
        entry("48.0.10", false),
        entry("49.0.1", false),
        entry("48.0.12-rc.1", false),
    ]
    .concat();
    assert_eq!(newest_in(file.as_bytes(), 48), Version::parse("48.0.10"));
    assert_eq!(newest_in(file.as_bytes(), 47), None);
}
