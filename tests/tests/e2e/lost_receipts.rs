//! What was sent and never acknowledged, more than a day ago: found again, stored once, forgotten where that was due.

use simulators::cortex::{Fault as CortexFault, FaultRule, Route};
use simulators::gitlab::Target;

use crate::faults::not_found_page;
use crate::setup::Setup;

/// Everything that was begun so far was begun a day and an hour ago, for both sides.
async fn a_day_passes(setup: &Setup) {
    setup.cortex.cortex().clock().advance_seconds(25 * 3600);
    setup
        .change_ledger("UPDATE events SET begun_at = begun_at - 25 * 3600")
        .await;
}

/// A run whose writes arrive and whose receipts do not; it gives up.
async fn run_without_receipts(setup: &Setup) {
    let lost = CortexFault::Html {
        status: 502,
        after_write: true,
    };
    setup
        .cortex
        .cortex()
        .add_fault(FaultRule::on(Route::Bulk, lost));
    setup.run(&["--patience", "1s"]).await.expect(1);
    assert!(!setup.cortex.cortex().live_events().is_empty());
    setup.cortex.cortex().clear_faults();
}

fn asked(setup: &Setup, route: Route) -> usize {
    let requests = setup.cortex.cortex().requests();
    requests.iter().filter(|r| r.route == route).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_without_a_receipt_more_than_a_day_ago_is_found_and_not_doubled() {
    let setup = Setup::tiny(301).await;
    run_without_receipts(&setup).await;
    let stored = setup.cortex.cortex().live_events().len();
    a_day_passes(&setup).await;
    setup.run(&[]).await.expect(0);
    assert!(asked(&setup, Route::Status) >= stored);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_begun_time_that_is_unknown_or_in_the_future_counts_as_long_ago() {
    for (seed, sql) in [
        (302, "UPDATE events SET begun_at = NULL"),
        (303, "UPDATE events SET begun_at = begun_at + 90000"),
    ] {
        let setup = Setup::tiny(seed).await;
        run_without_receipts(&setup).await;
        setup.cortex.cortex().clock().advance_seconds(25 * 3600);
        setup.change_ledger(sql).await;
        setup.run(&[]).await.expect(0);
        setup.assert_complete(&setup.membership());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_long_ago_and_never_arrived_is_sent() {
    let setup = Setup::tiny(304).await;
    setup
        .cortex
        .cortex()
        .add_fault(FaultRule::on(Route::Bulk, CortexFault::CloseBeforeWrite));
    setup.run(&["--patience", "1s"]).await.expect(1);
    assert!(setup.cortex.cortex().live_events().is_empty());
    setup.cortex.cortex().clear_faults();
    a_day_passes(&setup).await;
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn within_the_day_a_repeat_under_the_same_key_needs_no_question() {
    let setup = Setup::tiny(305).await;
    run_without_receipts(&setup).await;
    let before = asked(&setup, Route::Status);
    setup.run(&[]).await.expect(0);
    assert_eq!(asked(&setup, Route::Status), before);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_listing_it_is_sent_again_and_said() {
    let setup = Setup::tiny(306).await;
    run_without_receipts(&setup).await;
    a_day_passes(&setup).await;
    setup.cortex.cortex().add_fault(FaultRule::on(
        Route::Events,
        CortexFault::status(403, "POLICY_DENIED"),
    ));
    let ran = setup.run(&[]).await.expect(0);
    assert!(ran.stdout.contains("cannot be found out"), "{}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_without_a_receipt_that_was_replaced_meanwhile_is_forgotten_even_after_a_day() {
    let setup = Setup::tiny(307).await;
    setup.run(&[]).await.expect(0);
    let (project, iid) = first_public_issue(&setup);
    let edit = |title: &str| {
        setup.gitlab.advance_clock(600);
        let mut world = setup.gitlab.world();
        world.edit_issue(project, iid, Some(title), None).unwrap();
    };
    edit("Sent without a receipt");
    run_without_receipts(&setup).await;
    a_day_passes(&setup).await;
    edit("Changed meanwhile");
    setup.run(&[]).await.expect(0);
    let text = setup.text_of(&format!("gl:issue:{project}/{iid}")).unwrap();
    assert!(text.starts_with("Changed meanwhile"), "{text}");
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_that_became_internal_before_its_receipt_came_is_forgotten() {
    for (seed, after_a_day) in [(308, false), (309, true)] {
        let setup = Setup::tiny(seed).await;
        setup.run(&[]).await.expect(0);
        let (project, iid) = first_public_issue(&setup);
        setup.gitlab.advance_clock(600);
        let target = Target::issue(project, iid);
        let note = {
            let mut world = setup.gitlab.world();
            let id = world.add_note(target, "A slip of the tongue").unwrap().id;
            id.parse::<u64>().unwrap()
        };
        run_without_receipts(&setup).await;
        let id = format!("gl:note:{project}/{note}");
        assert!(setup.stored().contains_key(&id), "{id} did not arrive");
        if after_a_day {
            a_day_passes(&setup).await;
        }
        setup.gitlab.advance_clock(600);
        {
            let mut world = setup.gitlab.world();
            let threads = world.threads_mut(target).unwrap();
            let notes = threads.discussions.iter_mut().flat_map(|d| &mut d.notes);
            notes
                .filter(|n| n.id == note)
                .for_each(|n| n.internal = true);
            world
                .edit_issue(project, iid, Some("Touched"), None)
                .unwrap();
        }
        let receipt = setup.run(&[]).await.expect(0).receipt();
        assert_eq!(receipt["retracted"], 1, "{receipt}");
        assert!(!setup.stored().contains_key(&id), "{id} is still there");
        setup.assert_complete(&setup.membership());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_of_a_proxy_is_not_taken_for_never_stored() {
    let setup = Setup::tiny(313).await;
    run_without_receipts(&setup).await;
    a_day_passes(&setup).await;
    for route in [Route::Status, Route::Events] {
        setup
            .cortex
            .cortex()
            .add_fault(FaultRule::on(route, not_found_page()).times(1));
    }
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

/// A token that may not read events.
fn forbid_reading(setup: &Setup) {
    for route in [Route::Status, Route::Events] {
        let forbidden = CortexFault::policy_denied();
        setup
            .cortex
            .cortex()
            .add_fault(FaultRule::on(route, forbidden));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_not_read_events_sends_again_what_has_no_receipt() {
    let setup = Setup::tiny(310).await;
    run_without_receipts(&setup).await;
    a_day_passes(&setup).await;
    forbid_reading(&setup);
    let ran = setup.run(&[]).await.expect(0);
    assert!(ran.stdout.contains("cannot be found out"), "{}", ran.stdout);
    setup.assert_nothing_is_missing(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_without_a_receipt_does_not_keep_the_others_from_being_forgotten() {
    for (seed, after_a_day) in [(311, false), (312, true)] {
        let setup = Setup::tiny(seed).await;
        setup.run(&[]).await.expect(0);
        let (project, iid) = first_public_issue(&setup);
        let id = format!("gl:issue:{project}/{iid}");
        let edit = |title: &str| {
            setup.gitlab.advance_clock(600);
            let mut world = setup.gitlab.world();
            world.edit_issue(project, iid, Some(title), None).unwrap();
        };
        edit("Sent without a receipt");
        run_without_receipts(&setup).await;
        if after_a_day {
            a_day_passes(&setup).await;
        }
        edit("Changed meanwhile");
        forbid_reading(&setup);
        let ran = setup.run(&[]).await.expect(0);
        assert!(ran.stdout.contains("cannot be found out"), "{}", ran.stdout);
        assert_eq!(ran.receipt()["superseded_pending"], 1, "{}", ran.stdout);
        let texts: Vec<String> = setup.stored()[&id]
            .iter()
            .map(|version| version["content"]["text"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].starts_with("Sent without a receipt"), "{texts:?}");
        setup.cortex.cortex().clear_faults();
        setup.run(&[]).await.expect(0);
        setup.assert_complete(&setup.membership());
    }
}

fn first_public_issue(setup: &Setup) -> (u64, u64) {
    let membership = setup.membership();
    let expected = setup.gitlab.world().expected(&membership);
    expected
        .iter()
        .filter(|record| !record.confidential)
        .find_map(|record| {
            let (project, iid) = record
                .source_id
                .strip_prefix("gl:issue:")?
                .split_once('/')?;
            Some((project.parse().ok()?, iid.parse().ok()?))
        })
        .unwrap()
}
