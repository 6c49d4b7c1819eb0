//! A bounded run of every target: each input of the corpus as it is, then changed here and there, then bytes at random.
//!
//! No coverage leads it and it ends in seconds. It is there so that what libFuzzer once found stays found, with the ordinary compiler.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::Path;

use fuzz_targets::TARGETS;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// Records of real GitLab servers, where they lie beside the repository: each line of each `shared/data/gitlab/<kind>/*.jsonl`.
fn recorded() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/gitlab");
    let Ok(kinds) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = kinds
        .filter_map(|kind| std::fs::read_dir(kind.unwrap().path()).ok())
        .flatten()
        .map(|file| file.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "jsonl")
        })
        .collect();
    files.sort();
    let lines: Vec<Vec<u8>> = files
        .iter()
        .flat_map(|file| {
            let text = std::fs::read_to_string(file).unwrap();
            text.lines()
                .map(|line| line.as_bytes().to_vec())
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(!lines.is_empty(), "recorded traffic without a line");
    lines
}

/// What is done to an input.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Cut(Index),
    Remove(Index),
    Insert(Index, Vec<u8>),
    Twice(Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(place, byte)| Change::Set(place, byte)),
        any::<Index>().prop_map(Change::Cut),
        any::<Index>().prop_map(Change::Remove),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(place, bytes)| Change::Insert(place, bytes)),
        (any::<Index>(), any::<Index>()).prop_map(|(one, other)| Change::Twice(one, other)),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        let at = |place: &Index| place.index(bytes.len());
        match change {
            Change::Set(place, byte) => {
                let place = at(place);
                bytes[place] = *byte;
            }
            Change::Cut(place) => bytes.truncate(at(place)),
            Change::Remove(place) => {
                let place = at(place);
                bytes.remove(place);
            }
            Change::Insert(place, more) => {
                let place = at(place);
                bytes.splice(place..place, more.iter().copied());
            }
            Change::Twice(one, other) => {
                let (start, end) = (at(one).min(at(other)), at(one).max(at(other)));
                bytes.extend_from_within(start..end);
            }
        }
    }
    bytes
}

fn run(name: &str, more: Vec<Vec<u8>>, cases: u32) {
    let (_, target) = *TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let seeds = [corpus(name), more].concat();
    assert!(!seeds.is_empty());
    seeds.iter().for_each(|seed| target(seed));
    let from_seeds = (
        prop::sample::select(seeds),
        prop::collection::vec(change(), 1..8),
    )
        .prop_map(|(seed, changes)| changed(seed, &changes));
    let random = prop::collection::vec(any::<u8>(), 0..512);
    let inputs = prop_oneof![3 => from_seeds, 1 => random];
    let config = Config {
        cases,
        // What is found belongs into the corpus, where libFuzzer starts from it, too.
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&inputs, |bytes| {
            target(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn no_file_breaks_the_scan_of_components() {
    run("inspect", Vec::new(), 4000);
}

#[test]
fn every_record_is_refused_or_written_within_the_limits() {
    run("envelope", Vec::new(), 2000);
}

#[test]
fn no_state_file_is_lost_and_each_can_be_gone_on_with() {
    run("state_file", Vec::new(), 300);
}

#[test]
fn the_host_accepts_whatever_is_made_of_gitlabs_json() {
    run("mapping", recorded(), 3000);
}

#[test]
fn every_body_of_a_webhook_gets_its_verdict() {
    run("delivery", Vec::new(), 2000);
}
