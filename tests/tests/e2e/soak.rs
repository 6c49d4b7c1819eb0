//! The whole system under a seed: faults on both sides, changes while nobody looks, crashes at any moment.
//!
//! Each seed makes a small GitLab and lives through some rounds: faults are drawn for both servers, the program runs and is perhaps
//! killed, people change things, time passes. After every round that was complete CortexDB must hold nothing twice; at the end, with the faults
//! gone, one more run must make it complete. `SOAK_SEEDS` says how many seeds (a few by default, `make soak SEEDS=200` for more);
//! a seed that fails goes into `tests/seeds/soak.txt`.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use simulators::cortex::{self, Fault as CortexFault, FaultRule, Route};
use simulators::gitlab::{self, Fault, Rule, Size, World};

use crate::setup::{KEY, Setup, ran};

const SEEDS_BY_DEFAULT: u64 = 6;
/// Changes that a poll must see. Deletions wait for the reconcile pass.
const CHANGES: [&str; 12] = [
    "new_merge_request",
    "edit_merge_request",
    "set_merge_request_state",
    "new_issue",
    "edit_issue",
    "add_note",
    "start_thread",
    "add_label",
    "push_commits",
    "new_pipeline",
    "new_release",
    "bump",
];

#[derive(Debug, Default)]
struct Tally {
    seeds: u64,
    runs: u64,
    crashes: u64,
    interruptions: u64,
    changes: u64,
    faults: u64,
    checks: u64,
}

fn gitlab_fault(random: &mut SmallRng) -> Rule {
    let faults = [
        Fault::ServerError,
        Fault::BadGateway,
        Fault::Html,
        Fault::BrokenJson,
        Fault::WrongShape,
        Fault::Truncated { keep: 40 },
        Fault::Reset,
        Fault::Timeout,
        Fault::Latency { ms: 80 },
        Fault::RateLimited {
            retry_after: Some(1),
        },
        Fault::Revoked,
    ];
    let paths = [
        "/merge_requests",
        "/discussions",
        "/issues",
        "/pipelines",
        "/commits",
        "/releases",
        "",
    ];
    let fault = faults[random.random_range(0..faults.len())].clone();
    Rule::new(paths[random.random_range(0..paths.len())], fault)
        .after(random.random_range(0..12))
        .with_probability(random.random_range(0.05..0.5))
        .times(random.random_range(1..6))
}

fn cortex_fault(random: &mut SmallRng) -> FaultRule {
    let faults = [
        CortexFault::unavailable(),
        CortexFault::rate_limited(1),
        CortexFault::wait_timeout(),
        CortexFault::expired_token(),
        CortexFault::CloseBeforeWrite,
        CortexFault::CloseAfterWrite,
        CortexFault::TruncatedBody,
        CortexFault::ReceiptWithoutEventId,
        CortexFault::ShortResults { missing: 2 },
        CortexFault::Html {
            status: 502,
            after_write: true,
        },
    ];
    let routes = [
        Route::Bulk,
        Route::Bulk,
        Route::Bulk,
        Route::Forget,
        Route::Status,
    ];
    let fault = faults[random.random_range(0..faults.len())].clone();
    FaultRule::on(routes[random.random_range(0..routes.len())], fault)
        .after(random.random_range(0..4))
        .probability(random.random_range(0.1..0.7))
        .times(random.random_range(1..5))
}

fn change_something(setup: &Setup, random: &mut SmallRng, tally: &mut Tally) {
    for _ in 0..random.random_range(0..12) {
        let mut world = setup.gitlab.world();
        let projects: Vec<u64> = world.projects.keys().copied().collect();
        let arguments = serde_json::json!({
            "project": projects[random.random_range(0..projects.len())],
            "iid": random.random_range(1..6),
            "on": if random.random_bool(0.5) { "issue" } else { "merge_request" },
            "text": format!("Text {}", random.random::<u32>()),
            "title": format!("Title {}", random.random::<u32>()),
        });
        let name = CHANGES[random.random_range(0..CHANGES.len())];
        tally.changes += u64::from(world.command(name, &arguments).is_ok());
    }
}

/// One run that may be cut short; whether it was complete.
async fn run(setup: &Setup, random: &mut SmallRng, tally: &mut Tally) -> bool {
    tally.runs += 1;
    let mut child = setup.start(&["--patience", "2s"]);
    let cut_short = random.random_range(0..4);
    if cut_short > 1 {
        let done = ran(&child.wait_with_output().await.unwrap());
        assert!(
            matches!(done.code, 0 | 1),
            "exit {}:\n{}\n{}",
            done.code,
            done.stdout,
            done.stderr
        );
        assert_eq!(done.receipt()["dead_lettered"], 0, "{}", done.stdout);
        return done.code == 0;
    }
    tokio::time::sleep(Duration::from_millis(random.random_range(20..700))).await;
    if cut_short == 0 {
        tally.crashes += 1;
        child.kill().await.unwrap();
    } else {
        tally.interruptions += 1;
        if let Some(process) = child.id() {
            let _ = std::process::Command::new("kill")
                .args(["-INT", &process.to_string()])
                .status();
        }
        let done = ran(&child.wait_with_output().await.unwrap());
        // -1: before the program had begun to listen, when there is nothing to finish yet.
        assert!(
            matches!(done.code, -1 | 0 | 1 | 130),
            "exit {}:\n{}\n{}",
            done.code,
            done.stdout,
            done.stderr
        );
    }
    false
}

async fn live_through(seed: u64, tally: &mut Tally) {
    let mut random = SmallRng::seed_from_u64(seed);
    let options = gitlab::Options {
        latency: Duration::from_millis(random.random_range(0..8)),
        seed,
        ..gitlab::Options::default()
    };
    let setup = Setup::with(
        World::generate(seed, &Size::tiny()),
        options,
        cortex::Options::full(KEY),
    )
    .await;
    setup
        .cortex
        .cortex()
        .reconfigure(|options| options.forget_releases_keys = seed.is_multiple_of(2));
    for _ in 0..random.random_range(2..6) {
        for _ in 0..random.random_range(0..4) {
            setup.gitlab.add_fault(gitlab_fault(&mut random));
            setup.cortex.cortex().add_fault(cortex_fault(&mut random));
        }
        // A run that was cut short may leave a new version beside the old one, which it had no time to forget.
        if run(&setup, &mut random, tally).await {
            tally.checks += 1;
            assert_eq!(
                setup.cortex.cortex().invariant_violations(),
                Vec::<String>::new()
            );
        }
        tally.faults += setup.gitlab.faults_struck() + setup.cortex.cortex().faults_fired();
        setup.gitlab.set_faults(Vec::new());
        setup.cortex.cortex().clear_faults();
        change_something(&setup, &mut random, tally);
        setup.gitlab.advance_clock(random.random_range(1..5000));
    }
    tally.runs += 1;
    tally.checks += 1;
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
    let again = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(again["written"], 0, "{again}");
    tally.seeds += 1;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_seed_ends_complete_and_nothing_is_ever_stored_twice() {
    let count =
        std::env::var("SOAK_SEEDS").map_or(SEEDS_BY_DEFAULT, |count| count.parse().unwrap());
    let first = std::env::var("SOAK_FIRST").map_or(1, |first| first.parse().unwrap());
    let known = include_str!("../../seeds/soak.txt")
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let mut tally = Tally::default();
    for seed in known.chain(first..first + count) {
        // The last line that is printed before a failure names the seed.
        println!("seed {seed}");
        live_through(seed, &mut tally).await;
    }
    println!("{tally:?}, violations: 0");
}
