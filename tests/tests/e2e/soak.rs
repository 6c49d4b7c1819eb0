//! The whole system under a seed: faults on both sides, changes and deletions while nobody looks and while the program reads, crashes at
//! any moment, and files that are lost.
//!
//! Each seed makes a small GitLab and lives through some rounds: faults are drawn for both servers, the program polls or reconciles and is
//! perhaps killed, people change and delete things, the ledger or the cursors are lost, time passes. After every round no cursor may
//! stand behind a record that is not stored, and after every complete one nothing may be live twice. At the end, with the faults gone, a poll must
//! leave nothing missing, and a reconcile pass nothing different from GitLab: no record too few, too many or twice, each text whole, each comment
//! behind the one that it follows. `SOAK_SEEDS` says how many seeds (a few by default, `make soak SEEDS=200` for more), `SOAK_FIRST`
//! which is the first, `SOAK_JOBS` how many live at once; a seed that fails goes into `tests/seeds/soak.txt`. `SOAK_ONLY` lives through one
//! seed alone, and `SOAK_TRACE` prints what happens in it.

mod changes;
mod servers;

use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use simulators::cortex;
use simulators::gitlab::{self, Size, World};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::changes::{Done, People, trace};
use self::servers::{cortex_fault, gitlab_fault};
use crate::setup::{KEY, Setup, dist, ran};

const SEEDS_BY_DEFAULT: u64 = 6;
const JOBS_BY_DEFAULT: usize = 2;
/// Force pushes are drawn, and the comparison at the end is with what GitLab shows then.
const SETTINGS: [&str; 2] = ["--set", "forget_unreachable_commits=true"];

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    seeds: u64,
    runs: u64,
    passes: u64,
    faults: u64,
    crashes: u64,
    interruptions: u64,
    changes: u64,
    deletions: u64,
    losses: u64,
    checks: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.runs += other.runs;
        self.passes += other.passes;
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.interruptions += other.interruptions;
        self.changes += other.changes;
        self.deletions += other.deletions;
        self.losses += other.losses;
        self.checks += other.checks;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} seeds, {} runs ({} of them reconciling), {} faults injected, {} crashes, {} interruptions, {} changes, {} deletions, \
             {} losses of ledger or cursors, {} invariants checked",
            self.seeds,
            self.runs,
            self.passes,
            self.faults,
            self.crashes,
            self.interruptions,
            self.changes,
            self.deletions,
            self.losses,
            self.checks
        )
    }
}

impl Tally {
    fn count(&mut self, done: Done) {
        self.changes += u64::from(done == Done::Changed);
        self.deletions += u64::from(done == Done::Deleted);
    }
}

/// One user's world under a seed.
struct Life {
    setup: Setup,
    random: SmallRng,
    people: People,
    tally: Tally,
}

impl Life {
    async fn begin(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let options = gitlab::Options {
            latency: Duration::from_millis(random.random_range(0..8)),
            seed,
            ..gitlab::Options::default()
        };
        let world = World::generate(seed, &Size::tiny());
        let setup = Setup::with(world, options, cortex::Options::full(KEY)).await;
        let cortex = setup.cortex.cortex();
        cortex.reconfigure(|options| options.forget_releases_keys = seed.is_multiple_of(2));
        let people = People::new(random.random_bool(0.4));
        Self {
            setup,
            random,
            people,
            tally: Tally::default(),
        }
    }

    async fn round(&mut self) {
        for _ in 0..self.random.random_range(0..4) {
            self.setup.gitlab.add_fault(gitlab_fault(&mut self.random));
            let cortex = self.setup.cortex.cortex();
            cortex.add_fault(cortex_fault(&mut self.random));
        }
        if self.random.random_bool(0.3) {
            self.change_while_it_reads();
        }
        let complete = self.run().await;
        self.setup.gitlab.clear_hooks();
        self.tally.faults +=
            self.setup.gitlab.faults_struck() + self.setup.cortex.cortex().faults_fired();
        self.setup.gitlab.set_faults(Vec::new());
        self.setup.cortex.cortex().clear_faults();
        self.tally.checks += 1;
        if trace() {
            self.leave_evidence();
        }
        self.setup.assert_no_cursor_is_ahead();
        // A run that was cut short may leave a new version beside the old one, which it had no time to forget.
        if complete {
            self.assert_nothing_is_doubled();
        }
        self.change_something();
        self.lose_something();
        let seconds = self.random.random_range(1..5000);
        self.setup.gitlab.advance_clock(seconds);
    }

    /// What GitLab was asked in this round, and a copy of the files, so that they can be looked at when the life is over.
    fn leave_evidence(&self) {
        for entry in self.setup.gitlab.requests() {
            println!("{entry:?}");
        }
        self.setup.gitlab.clear_log();
        let copy = std::env::temp_dir().join("soak-trace");
        let _ = std::fs::create_dir_all(&copy);
        for file in std::fs::read_dir(self.setup.cortexdb_folder())
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = std::fs::copy(file.path(), copy.join(file.file_name()));
        }
        println!("the files are in {}", copy.display());
    }

    fn assert_nothing_is_doubled(&mut self) {
        self.tally.checks += 1;
        let violations = self.setup.cortex.cortex().invariant_violations();
        assert_eq!(violations, Vec::<String>::new());
    }

    fn change_something(&mut self) {
        let mut world = self.setup.gitlab.world();
        for _ in 0..self.random.random_range(0..16) {
            let done = self.people.act(&mut world, &mut self.random);
            self.tally.count(done);
        }
    }

    /// A few changes between two requests of the run. Of records only: what else changes is drawn between the runs.
    fn change_while_it_reads(&mut self) {
        let seed = self.random.random();
        let nth = self.random.random_range(1..60);
        self.tally.changes += 3;
        self.setup
            .gitlab
            .on_request("/projects/", nth, move |world| {
                world.mutate_some(seed, 3);
            });
    }

    /// The user deletes a file, or a disk spoils it.
    fn lose_something(&mut self) {
        let state = self.setup.state_file();
        let what = self.random.random_range(0..10);
        match what {
            0 if !self.people.rename => {
                for name in ["connectors.db", "connectors.db-wal", "connectors.db-shm"] {
                    let _ = std::fs::remove_file(self.setup.cortexdb_folder().join(name));
                }
            }
            1 => drop(std::fs::remove_file(state)),
            2 if state.exists() => std::fs::write(state, "{\"connections\": {\"gitl").unwrap(),
            _ => return,
        }
        if trace() {
            println!("  lost: {what}");
        }
        self.tally.losses += 1;
    }

    /// One run that may be cut short; whether it was complete.
    async fn run(&mut self) -> bool {
        self.tally.runs += 1;
        let mut arguments = vec!["--patience", "2s"];
        arguments.extend(SETTINGS);
        if self.random.random_bool(0.25) {
            self.tally.passes += 1;
            arguments.push("--reconcile");
        }
        let mut child = self.setup.start(&arguments);
        let cut_short = self.random.random_range(0..4);
        if cut_short > 1 {
            let done = ran(&child.wait_with_output().await.unwrap());
            if trace() {
                println!("{arguments:?}: exit {}\n{}", done.code, done.stdout);
            }
            assert!(
                matches!(done.code, 0 | 1),
                "exit {}:\n{}\n{}",
                done.code,
                done.stdout,
                done.stderr
            );
            self.tally.checks += 1;
            assert_eq!(done.receipt()["dead_lettered"], 0, "{}", done.stdout);
            return done.code == 0;
        }
        let moment = Duration::from_millis(self.random.random_range(20..900));
        tokio::time::sleep(moment).await;
        if trace() {
            println!("{arguments:?}: cut short after {moment:?}, {cut_short}");
        }
        if cut_short == 0 {
            self.tally.crashes += 1;
            child.kill().await.unwrap();
            return false;
        }
        self.tally.interruptions += 1;
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
        false
    }

    /// Nobody changes anything and no server fails any more: everything must come right.
    async fn end(&mut self) {
        let setup = &self.setup;
        self.people.come_to_rest(&mut setup.gitlab.world());
        let selection = setup.membership();
        setup.run(&SETTINGS).await.expect(0);
        setup.assert_nothing_is_missing(&selection);

        let reconcile = [&["--reconcile"][..], &SETTINGS].concat();
        let reconciled = setup.run(&reconcile).await;
        if trace() {
            println!("at the end: {}", reconciled.stdout);
        }
        reconciled.expect(0);
        setup.assert_complete(&selection);

        let component = dist("gitlab.wasm");
        let verify = [&["verify", component.to_str().unwrap()][..], &SETTINGS].concat();
        let verified = setup.runtime(&verify).await.expect(0);
        assert!(verified.stdout.ends_with("equal\n"), "{}", verified.stdout);

        let again = setup.run(&reconcile).await.expect(0).receipt();
        let quiet = (&again["written"], &again["retracted"]);
        assert_eq!(quiet, (&0.into(), &0.into()), "{again}");
        let poll = setup.run(&SETTINGS).await.expect(0).receipt();
        assert_eq!(poll["written"], 0, "{poll}");

        self.tally.seeds += 1;
        self.tally.runs += 4;
        self.tally.passes += 2;
        self.tally.checks += 5;
    }
}

async fn live_through(seed: u64) -> Tally {
    let mut life = Life::begin(seed).await;
    for _ in 0..life.random.random_range(2..6) {
        life.round().await;
    }
    life.end().await;
    life.tally
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_seed_ends_complete_and_nothing_is_ever_stored_twice() {
    let count = number("SOAK_SEEDS", SEEDS_BY_DEFAULT);
    let first = number("SOAK_FIRST", 1);
    let jobs = number("SOAK_JOBS", JOBS_BY_DEFAULT as u64) as usize;
    let known = include_str!("../../seeds/soak.txt")
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let turns = Arc::new(Semaphore::new(jobs));
    let mut lives = JoinSet::new();
    let only: Option<u64> = std::env::var("SOAK_ONLY")
        .ok()
        .map(|text| text.parse().unwrap());
    let seeds = known
        .chain(first..first + count)
        .filter(|seed| only.is_none_or(|only| only == *seed));
    for seed in seeds {
        let turns = Arc::clone(&turns);
        lives.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            // A life of its own, so that one seed that fails does not hide what the others find.
            (seed, tokio::spawn(live_through(seed)).await)
        });
    }
    let mut tally = Tally::default();
    let mut failed = Vec::new();
    while let Some(life) = lives.join_next().await {
        match life.unwrap() {
            (_, Ok(lived)) => tally += lived,
            (seed, Err(error)) => {
                let panic = error.into_panic();
                let words = panic.downcast_ref::<String>().cloned();
                println!("seed {seed} failed: {}", words.unwrap_or_default());
                failed.push(seed);
            }
        }
    }
    failed.sort_unstable();
    println!("{tally}, {} violations", failed.len());
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}
