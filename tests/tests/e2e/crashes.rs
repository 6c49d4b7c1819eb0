//! What `kill -9` costs: at most one page of each stream is sent again, and no cursor was saved ahead of a record.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use simulators::cortex::{self, Fault as CortexFault, FaultRule, Route};
use simulators::gitlab::{self, Size, World};

use crate::setup::{KEY, Setup};

/// GitLab's largest page.
const PAGE: usize = 100;

/// The records that were sent again since `from`, by stream; comments count for the merge request or issue that they are read with.
fn sent_again(setup: &Setup, from: usize) -> BTreeMap<String, BTreeSet<String>> {
    let selection = setup.membership();
    let expected = setup.gitlab.world().expected(&selection);
    let parents: BTreeMap<&str, &str> = expected
        .iter()
        .filter_map(|record| Some((record.source_id.as_str(), record.parent.as_deref()?)))
        .collect();
    let mut again: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in &setup.cortex.cortex().replayed_events()[from..] {
        let id = event.source_id.as_deref().unwrap();
        let id = parents.get(id).copied().unwrap_or(id);
        let (stream, _) = id.split_once('/').unwrap();
        again.entry(stream.into()).or_default().insert(id.into());
    }
    again
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_at_most_one_page_of_each_stream_is_sent_again() {
    let mut sent_again_at_all = 0;
    for round in 0..8_u64 {
        let options = gitlab::Options {
            latency: Duration::from_millis(5),
            ..gitlab::Options::default()
        };
        let setup = Setup::with(
            World::generate(431 + round, &Size::items(1200)),
            options,
            cortex::Options::full(KEY),
        )
        .await;
        let cortex = setup.cortex.cortex();
        // The worst moment: the write is applied, and the program dies before it hears of it.
        let rule = FaultRule::on(Route::Bulk, CortexFault::CloseAfterWrite);
        cortex.add_fault(rule.after(round).times(1));
        let mut child = setup.start(&[]);
        while cortex.faults_fired() == 0 {
            assert!(
                child.try_wait().unwrap().is_none(),
                "it ended after {round} batches"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        child.kill().await.unwrap();
        cortex.clear_faults();
        setup.assert_no_cursor_is_ahead();
        let before = cortex.replayed_events().len();
        setup.run(&[]).await.expect(0);
        setup.assert_complete(&setup.membership());
        for (stream, records) in sent_again(&setup, before) {
            sent_again_at_all += records.len();
            assert!(
                records.len() <= PAGE,
                "{} records of {stream} were sent again",
                records.len()
            );
        }
    }
    assert!(
        sent_again_at_all > 0,
        "no kill fell between a write and its receipt"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_it_is_killed_no_cursor_is_ahead_of_what_is_stored() {
    for round in 0..10_u64 {
        let options = gitlab::Options {
            latency: Duration::from_millis(10),
            ..gitlab::Options::default()
        };
        let setup = Setup::with(
            World::generate(451 + round, &Size::items(1200)),
            options,
            cortex::Options::full(KEY),
        )
        .await;
        let mut child = setup.start(&[]);
        // By what it has done and not by the clock: a busy machine is slow.
        let enough = 40 + 110 * round as usize;
        while setup.cortex.stats().events < enough && child.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        child.kill().await.unwrap();
        setup.assert_no_cursor_is_ahead();
        setup.run(&[]).await.expect(0);
        setup.assert_complete(&setup.membership());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_version_has_the_same_key_whoever_reads_it() {
    let mut setup = Setup::tiny(471).await;
    setup.run(&[]).await.expect(0);
    let keys = |server: &cortex::Server| -> BTreeSet<String> {
        let events = server.cortex().events().into_iter();
        events.map(|event| event.idempotency_key.unwrap()).collect()
    };
    let first = keys(&setup.cortex);
    // Another database and no memory, read by a pass that compares instead of a poll.
    let other = cortex::Server::start(cortex::Options::full(KEY))
        .await
        .unwrap();
    setup.set("CORTEXDB_URL", &other.url());
    setup.run(&["--reconcile"]).await.expect(0);
    assert_eq!(keys(&other), first);
}
