//! What `kill -9` costs: the request in flight is sent again and no more, and no cursor was saved ahead of a record.

use std::collections::BTreeSet;
use std::time::Duration;

use simulators::cortex::{self, Fault as CortexFault, FaultRule, Route};
use simulators::gitlab::{self, Size, World};

use crate::setup::{KEY, Setup};

/// Most records in one request.
const MOST_ITEMS: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_the_request_in_flight_is_sent_again_and_nothing_else() {
    let mut sent_again_at_all = 0;
    // How many requests there are depends on how the pages meet, so the last rounds may find that it is over.
    'rounds: for round in 0..8_u64 {
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
        // Answered, so that it is known what it wrote; the program waits before it asks again.
        let struck = || cortex.requests().into_iter().find(|it| it.faulted);
        while struck().is_none() {
            if child.try_wait().unwrap().is_some() {
                assert!(round >= 3, "it ended after {round} batches");
                break 'rounds;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        child.kill().await.unwrap();
        cortex.clear_faults();
        setup.assert_no_cursor_is_ahead();
        let in_flight = struck().unwrap().items;
        let before = cortex.replayed_events().len();
        setup.run(&[]).await.expect(0);
        setup.assert_complete(&setup.membership());
        let again = cortex.replayed_events().len() - before;
        assert!(
            again <= in_flight && again <= MOST_ITEMS,
            "{again} records were sent again, {in_flight} were in flight"
        );
        sent_again_at_all += again;
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
