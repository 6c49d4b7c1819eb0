//! What dies, freezes or fills up while connections run: no record is lost, none is doubled, no cap is exceeded.

use std::time::{Duration, Instant};

use connector_store::testing::postgres::Server as Postgres;
use serde_json::{Value, json};
use simulators::gitlab::{Size, World};

use super::house::{House, Kind, LEASE, Process, on_both_databases};

on_both_databases!(
    a_killed_worker_is_taken_over_and_its_last_page_is_where_the_other_goes_on,
    a_process_that_is_told_to_stop_gives_its_connections_to_the_others_at_once,
);

/// Takes the time from what a worker did last to what another did first.
/// Two seconds are allowed; the rest is for a machine on which four such tests run at once.
const TAKEOVER: Duration = LEASE.saturating_add(Duration::from_secs(6));

/// A backfill that takes a while, run by the first of two processes. The first one and the connection.
async fn begun(house: &mut House) -> (Process, String) {
    let first = house.serve(&["--workers", "2"]).await;
    let tenant = house.tenant(&first, "acme", json!({})).await;
    let connector = house.upload(&first, "gitlab.wasm").await;
    let wanted = house.wanted(&connector, "gitlab", json!({}));
    let id = house.connect(&first, &tenant, wanted).await;
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
    let world = World::generate(seed, &Size::items(1500));
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

/// Frozen in the middle of a transaction it holds a lock, which PostgreSQL takes away after ten seconds and SQLite never.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_frozen_past_its_lease_is_refused_when_it_wakes_up() {
    let Some(mut house) = house(Kind::Postgres, 712).await else {
        return;
    };
    let (first, id) = begun(&mut house).await;
    first.signal("-STOP");
    let second = house.serve(&["--workers", "2"]).await;
    let before = house.written();
    let took = until_written(&house, before).await;
    assert!(
        took < TAKEOVER + Duration::from_secs(10),
        "taken over after {took:?}, the lease is {LEASE:?}"
    );
    first.signal("-CONT");
    complete(&house, &second, &id).await;
    // It still answers, and it works again.
    let runs = house.runs(&first, &id).await;
    let complete_runs = runs.iter().filter(|run| run["outcome"] == "complete");
    assert_eq!(complete_runs.count(), 1, "{runs:#?}");
    let path = format!("/connections/{id}/run");
    house.call(&first, "POST", &path, Value::Null).await;
    house
        .wait("a run after it", async || {
            let runs = house.runs(&first, &id).await;
            (runs
                .iter()
                .filter(|run| run["outcome"] == "complete")
                .count()
                > 1)
            .then_some(())
        })
        .await;
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
