//! What dies, freezes or fills up while connections run: no record is lost, none is doubled, no cap is exceeded.

use std::io::Write as _;
use std::time::{Duration, Instant};

use connector_store::testing::postgres::Server as Postgres;
use serde_json::{Value, json};
use simulators::gitlab::{Size, World};

use super::house::{House, Kind, LEASE, Process, on_both_databases};
use crate::machine::Disk;
use crate::setup::KEY;

on_both_databases!(
    a_killed_worker_is_taken_over_and_its_last_page_is_where_the_other_goes_on,
    a_worker_that_was_frozen_past_its_lease_is_refused_when_it_wakes_up,
    a_process_that_is_told_to_stop_gives_its_connections_to_the_others_at_once,
);

/// Takes the time from what a worker did last to what another did first.
/// Two seconds are allowed; the rest is for a machine on which four such tests run at once.
const TAKEOVER: Duration = LEASE.saturating_add(Duration::from_secs(6));

/// A backfill that takes a while, run by the first of two processes. The first one and the connection.
async fn begun(house: &mut House) -> (Process, String) {
    let first = house.serve(&["--workers", "2"]).await;
    let id = house.connected(&first, json!({})).await;
    house
        .wait("the first pages", async || {
            (house.written() > 200).then_some(())
        })
        .await;
    (first, id)
}

/// Until CortexDB gets something new.
async fn until_written(house: &House, before: usize) -> Duration {
    let began = Instant::now();
    house
        .wait("the takeover", async || {
            (house.written() > before).then_some(())
        })
        .await;
    began.elapsed()
}

async fn house(kind: Kind, seed: u64) -> Option<House> {
    let world = World::generate(seed, &Size::items(3000));
    House::new(kind, world, Duration::from_millis(60)).await
}

async fn complete(house: &House, process: &Process, id: &str) -> Value {
    let run = house.wait_for_run(process, id, "complete").await;
    house.setup.assert_complete(&house.setup.membership());
    run
}

async fn a_killed_worker_is_taken_over_and_its_last_page_is_where_the_other_goes_on(kind: Kind) {
    let Some(mut house) = house(kind, 711).await else {
        return;
    };
    let (first, id) = begun(&mut house).await;
    let second = house.serve(&["--workers", "2"]).await;
    first.kill().await;
    let before = house.written();
    let took = until_written(&house, before).await;
    assert!(
        took < TAKEOVER,
        "taken over after {took:?}, the lease is {LEASE:?}"
    );
    complete(&house, &second, &id).await;
    let interrupted = house.wait_for_run(&second, &id, "interrupted").await;
    assert_eq!(interrupted["kind"], "sync", "{interrupted:#}");
    second.terminate().await;
}

/// Another run, which is asked for and comes to its end.
pub(super) async fn once_more(house: &House, process: &Process, id: &str) {
    let complete = async || {
        let runs = house.runs(process, id).await;
        let complete = runs.iter().filter(|run| run["outcome"] == "complete");
        complete.count()
    };
    let before = complete().await;
    let path = format!("/connections/{id}/run");
    house.call(process, "POST", &path, Value::Null).await;
    house
        .wait("a run after it", async || {
            (complete().await > before).then_some(())
        })
        .await;
}

/// Freezes a process. In the middle of a transaction it would hold SQLite's lock for as long as it is frozen, which is a known gap (57): it
/// goes on and is frozen a little later. PostgreSQL takes its lock away.
async fn freeze(house: &House, process: &Process) {
    loop {
        process.signal("-STOP");
        if house.can_be_written().await {
            return;
        }
        process.signal("-CONT");
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
}

async fn a_worker_that_was_frozen_past_its_lease_is_refused_when_it_wakes_up(kind: Kind) {
    let Some(mut house) = house(kind, 712).await else {
        return;
    };
    let (first, id) = begun(&mut house).await;
    freeze(&house, &first).await;
    let second = house.serve(&["--workers", "2"]).await;
    let before = house.written();
    let took = until_written(&house, before).await;
    assert!(
        took < TAKEOVER + LEASE,
        "taken over after {took:?}, the lease is {LEASE:?}"
    );
    first.signal("-CONT");
    complete(&house, &second, &id).await;
    // It still answers, and it works again.
    let runs = house.runs(&first, &id).await;
    let complete_runs = runs.iter().filter(|run| run["outcome"] == "complete");
    assert_eq!(complete_runs.count(), 1, "{runs:#?}");
    once_more(&house, &first, &id).await;
    house.setup.assert_complete(&house.setup.membership());
    first.terminate().await;
    second.terminate().await;
}

async fn a_process_that_is_told_to_stop_gives_its_connections_to_the_others_at_once(kind: Kind) {
    let Some(mut house) = house(kind, 713).await else {
        return;
    };
    let (first, id) = begun(&mut house).await;
    let second = house.serve(&["--workers", "2"]).await;
    assert_eq!(first.terminate().await, 0);
    let before = house.written();
    let took = until_written(&house, before).await;
    assert!(took < LEASE, "given back and claimed after {took:?}");
    complete(&house, &second, &id).await;
    second.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_restarted_in_the_middle_costs_no_record() {
    // Of its own: others are not to be restarted with it.
    let Some(postgres) = Postgres::begin(true).unwrap() else {
        return;
    };
    let postgres: &'static Postgres = Box::leak(Box::new(postgres));
    let world = World::generate(714, &Size::items(1500));
    let mut house = House::on(postgres, world, Duration::from_millis(60)).await;
    let (first, id) = begun(&mut house).await;
    for _ in 0..2 {
        tokio::task::spawn_blocking(|| postgres.restart_immediate())
            .await
            .unwrap()
            .unwrap();
        let before = house.written();
        until_written(&house, before).await;
    }
    complete(&house, &first, &id).await;
    first.terminate().await;
    postgres.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_costs_no_record_and_the_platform_goes_on_when_there_is_room() {
    let Some(disk) = Disk::mount("size=256m") else {
        println!("nothing may be mounted here");
        return;
    };
    // The first records are stored once there is a batch of them: by then most of this is still to be read.
    let world = World::generate(715, &Size::items(6000));
    let mut house = House::new(Kind::Sqlite, world, Duration::from_millis(60))
        .await
        .unwrap();
    house.data = disk.path().join("data");
    let (process, id) = begun(&mut house).await;
    let filler = disk.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    // First in large pieces, so that it is full before a slow machine has read everything.
    for piece_bytes in [1 << 20, 4096] {
        let piece = vec![0; piece_bytes];
        while file.write_all(&piece).is_ok() {}
    }
    house
        .wait("a run that fails", async || {
            let shown = house.connection(&process, &id).await;
            let failed = shown["failures"].as_u64() > Some(0);
            (failed || house.log().contains("full")).then_some(())
        })
        .await;
    // What is open takes its room although nobody can find it.
    drop(file);
    std::fs::remove_file(filler).unwrap();
    let path = format!("/connections/{id}/run");
    house
        .wait("the platform", async || {
            let (status, _) = house.api(&process, "POST", &path, Value::Null).await;
            (status < 300).then_some(())
        })
        .await;
    complete(&house, &process, &id).await;
    process.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_never_comes_to_an_end_does_not_keep_a_process_from_ending() {
    let world = World::generate(716, &Size::tiny());
    let mut house = House::new(Kind::Sqlite, world, Duration::ZERO)
        .await
        .unwrap();
    let process = house.serve(&[]).await;
    let tenant = house.tenant(&process, "acme", json!({})).await;
    let connector = house.upload(&process, "gitlab.wasm").await;
    let mapper = house.upload(&process, "puppet-mapper.wasm").await;
    let mut wanted = house.wanted(&connector, "gitlab", json!({"on_trap": "skip"}));
    wanted["chain"]["mappers"] =
        json!([{"digest": mapper, "settings": {"rules": [{"has": "", "do": "loop"}]}}]);
    let id = house.connect(&process, &tenant, wanted).await;
    house.wait_for_run(&process, &id, "running").await;
    // Its first page is being mapped.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let began = Instant::now();
    assert_eq!(process.terminate().await, 0);
    // It may compute for five seconds; each of its limits by itself would let it go on for thirty, more than once.
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
    let again = house.serve(&[]).await;
    let interrupted = house.wait_for_run(&again, &id, "interrupted").await;
    assert_eq!(interrupted["kind"], "sync", "{interrupted:#}");
    let letters = format!("/connections/{id}/dead-letters");
    let letters = house.call(&again, "GET", &letters, Value::Null).await;
    assert_eq!(letters["items"], json!([]));
    again.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_platform_that_is_missing_for_a_while_is_not_its_tenants_fault() {
    let world = World::generate(718, &Size::tiny());
    let mut house = House::new(Kind::Sqlite, world, Duration::ZERO)
        .await
        .unwrap();
    let process = house.serve(&[]).await;
    let id = house.connected(&process, json!({})).await;
    house.wait_for_run(&process, &id, "complete").await;
    // Somebody puts another key in the place of the old one; the next secret is sealed with it.
    let file = house.data.join("kek");
    let old = std::fs::read_to_string(&file).unwrap();
    let new = format!("{}=\n", "A".repeat(43));
    std::fs::write(&file, &new).unwrap();
    let token = json!({"secrets": {"cortexdb_api_key": KEY}});
    house.patch(&process, &id, token).await;
    let failed = house.wait_for_run(&process, &id, "failed").await;
    let reason = failed["receipt"]["reason"].as_str().unwrap();
    assert!(
        reason.contains("not among those of this process"),
        "{reason}"
    );
    assert!(house.log().contains("which is no fault of its owner's"));
    let before = house.runs(&process, &id).await.len();
    std::fs::write(&file, format!("{new}{old}")).unwrap();
    let path = format!("/connections/{id}/run");
    house.call(&process, "POST", &path, Value::Null).await;
    house
        .wait("a run with both keys", async || {
            let runs = house.runs(&process, &id).await;
            (runs.len() > before && runs[0]["outcome"] == "complete").then_some(())
        })
        .await;
    let runs = house.runs(&process, &id).await;
    assert!(runs.iter().all(|run| run["outcome"] != "misconfigured"));
    process.terminate().await;
}

/// What moves the clock of a process, where it is installed.
fn faketime() -> Option<String> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    folders.flatten().find_map(|folder| {
        let library = folder.path().join("faketime/libfaketime.so.1");
        library.exists().then(|| library.display().to_string())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_ahead_and_back_costs_no_record() {
    let Some(library) = faketime() else {
        println!("libfaketime is not installed");
        return;
    };
    let world = World::generate(717, &Size::items(3000));
    let mut house = House::new(Kind::Sqlite, world, Duration::from_millis(60))
        .await
        .unwrap();
    let clock = house.setup.home.path().join("clock");
    let set = |offset: &str| std::fs::write(&clock, offset).unwrap();
    set("+0");
    house.variables = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let (first, id) = begun(&mut house).await;
    let second = house.serve(&["--workers", "2"]).await;
    for offset in ["+3h", "-3h", "+0"] {
        set(offset);
        let before = house.written();
        until_written(&house, before).await;
    }
    house.wait_for_run(&second, &id, "complete").await;
    // The one that came to its end may have begun while the clock was wrong.
    once_more(&house, &second, &id).await;
    house.setup.assert_complete(&house.setup.membership());
    assert_eq!(first.terminate().await, 0);
    assert_eq!(second.terminate().await, 0);
}
