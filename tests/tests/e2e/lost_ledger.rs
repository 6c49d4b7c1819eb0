//! The ledger is deleted: what CortexDB holds is found again, and nothing is stored twice.

use simulators::cortex::{
    self, EventIdForm, Fault as CortexFault, FaultRule, ItemIdField, RedactedListing, Route,
    ScopeFilter,
};
use simulators::gitlab::{self, Size, Target, World};

use crate::faults::not_found_page;
use crate::setup::{KEY, Setup};

fn lose_ledger(setup: &Setup) {
    for name in ["connectors.db", "connectors.db-wal", "connectors.db-shm"] {
        let _ = std::fs::remove_file(setup.cortexdb_folder().join(name));
    }
}

fn lose_everything(setup: &Setup) {
    lose_ledger(setup);
    std::fs::remove_file(setup.state_file()).unwrap();
}

fn first_issue(setup: &Setup) -> (u64, u64) {
    let world = setup.gitlab.world();
    world
        .projects
        .iter()
        .flat_map(|(id, project)| {
            project
                .issues
                .iter()
                .filter(|(_, issue)| !issue.confidential)
                .map(move |(iid, _)| (*id, *iid))
        })
        .next()
        .unwrap()
}

fn edit(setup: &Setup, (project, iid): (u64, u64), title: &str) {
    setup.gitlab.advance_clock(600);
    setup
        .gitlab
        .world()
        .edit_issue(project, iid, Some(title), None)
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ledger_and_cursors_everything_is_read_and_nothing_written() {
    let setup = Setup::tiny(201).await;
    setup.run(&[]).await.expect(0);
    lose_everything(&setup);
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 0, "{receipt}");
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_day_and_edits_a_lost_ledger_still_costs_no_double() {
    let setup = Setup::tiny(202).await;
    let issue = first_issue(&setup);
    setup.run(&[]).await.expect(0);
    for title in ["Second", "Third"] {
        edit(&setup, issue, title);
        setup.run(&[]).await.expect(0);
    }
    // The server no longer remembers any key.
    setup.cortex.cortex().clock().advance_seconds(2 * 86_400);
    lose_everything(&setup);
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 0, "{receipt}");
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_found_again_is_forgotten_once_it_is_replaced() {
    let setup = Setup::tiny(203).await;
    let (project, iid) = first_issue(&setup);
    setup.run(&[]).await.expect(0);
    edit(&setup, (project, iid), "Before the loss");
    setup.run(&[]).await.expect(0);
    lose_ledger(&setup);
    edit(&setup, (project, iid), "After the loss");
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 1, "{receipt}");
    assert_eq!(receipt["superseded"], 1, "{receipt}");
    let text = setup.text_of(&format!("gl:issue:{project}/{iid}")).unwrap();
    assert!(text.starts_with("After the loss"), "{text}");
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn however_a_server_lists_events_the_ledger_is_found_again() {
    let variants: [fn(&mut cortex::Options); 5] = [
        |options| options.item_id_field = ItemIdField::Id,
        |options| {
            options.event_ids = EventIdForm::Ulid;
            options.redacted_listing = RedactedListing::Omitted;
        },
        |options| {
            options.redacted_listing = RedactedListing::KeepsLabels;
            options.listing_shows_source = true;
        },
        |options| options.listing_max_page = 7,
        |options| {
            options.listed_twice = false;
            options.scope_filter = ScopeFilter::Subtree;
            options.forget_releases_keys = false;
        },
    ];
    for (index, variant) in variants.into_iter().enumerate() {
        let mut options = cortex::Options::full(KEY);
        variant(&mut options);
        let setup = Setup::with(
            World::generate(211 + index as u64, &Size::tiny()),
            gitlab::Options::default(),
            options,
        )
        .await;
        let issue = first_issue(&setup);
        setup.run(&[]).await.expect(0);
        edit(&setup, issue, "Second");
        setup.run(&[]).await.expect(0);
        lose_everything(&setup);
        let receipt = setup.run(&[]).await.expect(0).receipt();
        assert_eq!(receipt["written"], 0, "variant {index}: {receipt}");
        edit(&setup, issue, "Third");
        let receipt = setup.run(&[]).await.expect(0).receipt();
        assert_eq!(receipt["superseded"], 1, "variant {index}: {receipt}");
        setup.assert_complete(&setup.membership());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_that_share_a_scope_cost_one_listing_and_stay_apart() {
    let mut setup = Setup::tiny(221).await;
    setup.set("CORTEXDB_SCOPE_TEMPLATE", "org:acme/source:gitlab");
    setup.run(&[]).await.expect(0);
    lose_everything(&setup);
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 0, "{receipt}");
    setup.assert_complete(&setup.membership());
    let stats = serde_json::to_value(setup.cortex.stats()).unwrap();
    let events = setup.cortex.cortex().events().len() as u64;
    // The first run asked once, for an empty scope; the second for every page.
    let pages = (2 * events).div_ceil(500);
    let asked = setup
        .cortex
        .cortex()
        .requests()
        .iter()
        .filter(|request| request.route == Route::Events)
        .count() as u64;
    assert_eq!(asked, 1 + pages, "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_is_larger_than_it_may_be_is_not_kept_and_nothing_is_written() {
    let setup = Setup::tiny(227).await;
    setup.run(&[]).await.expect(0);
    let stored = setup.cortex.cortex().live_events().len();
    lose_everything(&setup);
    let ran = setup.run(&["--limit", "listed_bytes=1KiB"]).await.expect(1);
    let reason = ran.receipt()["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.contains("listed_bytes") && reason.contains("--limit"),
        "{reason}"
    );
    assert_eq!(setup.cortex.cortex().live_events().len(), stored);
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 0, "{receipt}");
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_a_pipeline_are_found_again() {
    let setup = Setup::tiny(222).await;
    let project = *setup
        .gitlab
        .world()
        .projects
        .iter()
        .find(|(_, project)| project.pipelines.len() > 1)
        .unwrap()
        .0;
    let id: u64 = setup
        .gitlab
        .world()
        .new_pipeline(project, "failed", "push")
        .unwrap()
        .id
        .parse()
        .unwrap();
    setup.run(&[]).await.expect(0);
    setup
        .gitlab
        .world()
        .set_pipeline_status(project, id, "success")
        .unwrap();
    setup.run(&[]).await.expect(0);
    let source_id = format!("gl:pipeline:{project}/{id}");
    assert_eq!(setup.stored()[&source_id].len(), 2);
    lose_everything(&setup);
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 0, "{receipt}");
    assert_eq!(setup.stored()[&source_id].len(), 2, "history was forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_in_fragments_is_found_again_whole() {
    let setup = Setup::tiny(223).await;
    let (project, iid) = first_issue(&setup);
    let text = "Gro\u{df}e Texte \u{6f22}\u{5b57}\n".repeat(120_000);
    setup
        .gitlab
        .world()
        .edit_issue(project, iid, Some("Large"), Some(&text))
        .unwrap();
    setup.run(&[]).await.expect(0);
    lose_everything(&setup);
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 0, "{receipt}");
    edit(&setup, (project, iid), "Still large");
    setup.run(&[]).await.expect(0);
    let stored = setup.text_of(&format!("gl:issue:{project}/{iid}")).unwrap();
    assert_eq!(stored, format!("Still large\n\n{text}"));
    assert_eq!(
        setup.cortex.cortex().invariant_violations(),
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_that_became_confidential_after_the_loss_is_forgotten_all_the_same() {
    let setup = Setup::tiny(224).await;
    setup.run(&[]).await.expect(0);
    lose_ledger(&setup);
    setup.gitlab.advance_clock(600);
    let (project, iid) = {
        let world = setup.gitlab.world();
        world
            .projects
            .iter()
            .flat_map(|(id, project)| {
                project
                    .issues
                    .iter()
                    .map(move |(iid, issue)| (*id, *iid, issue.confidential))
            })
            .find(|(id, iid, confidential)| {
                !confidential
                    && world
                        .threads(Target::issue(*id, *iid))
                        .is_some_and(|threads| !threads.discussions.is_empty())
            })
            .map(|(id, iid, _)| (id, iid))
            .unwrap()
    };
    setup
        .gitlab
        .world()
        .set_confidential(project, iid, true)
        .unwrap();
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert!(receipt["retracted"].as_u64().unwrap() > 1, "{receipt}");
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_gitlab_in_the_same_scope_is_left_alone() {
    let mut setup = Setup::tiny(225).await;
    setup.set("CORTEXDB_SCOPE_TEMPLATE", "org:acme/source:gitlab");
    setup.run(&[]).await.expect(0);
    let before = setup.cortex.cortex().live_events().len();
    // The same server under another name is another source.
    let other = setup.gitlab.url().replace("127.0.0.1", "localhost");
    setup.set("GITLAB_URL", &other);
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["unchanged"], 0, "{receipt}");
    assert_eq!(receipt["superseded"], 0, "{receipt}");
    let written = usize::try_from(receipt["written"].as_u64().unwrap()).unwrap();
    assert_eq!(setup.cortex.cortex().live_events().len(), before + written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lists_nothing_is_reported_once_and_written_to() {
    for (seed, status) in [(226, 403), (227, 404)] {
        let setup = Setup::tiny(seed).await;
        setup.cortex.cortex().add_fault(FaultRule::on(
            Route::Events,
            CortexFault::status(status, "POLICY_DENIED"),
        ));
        let ran = setup.run(&[]).await.expect(0);
        let warnings = ran
            .events()
            .iter()
            .filter(|event| event["level"] == "warn")
            .filter(|event| {
                event["message"]
                    .as_str()
                    .unwrap()
                    .contains("cannot be listed")
            })
            .count();
        assert_eq!(warnings, 1, "{}", ran.stdout);
        setup.assert_complete(&setup.membership());
        let again = setup.run(&[]).await.expect(0);
        assert!(
            !again.stdout.contains("cannot be listed"),
            "{}",
            again.stdout
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_fails_for_a_while_is_waited_for_and_one_that_goes_on_failing_stops_the_run()
{
    let setup = Setup::tiny(228).await;
    setup.run(&[]).await.expect(0);
    lose_everything(&setup);
    setup
        .cortex
        .cortex()
        .add_fault(FaultRule::on(Route::Events, CortexFault::unavailable()));
    let receipt = setup.run(&["--patience", "1s"]).await.expect(1).receipt();
    assert_eq!(receipt["written"], 0, "{receipt}");
    setup.cortex.cortex().clear_faults();
    setup.cortex.cortex().add_fault(
        FaultRule::on(Route::Events, CortexFault::unavailable())
            .every(2)
            .times(3),
    );
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 0, "{receipt}");
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_of_a_proxy_is_not_taken_for_an_empty_scope() {
    let setup = Setup::tiny(151).await;
    setup.run(&[]).await.expect(0);
    lose_everything(&setup);
    setup
        .cortex
        .cortex()
        .add_fault(FaultRule::on(Route::Events, not_found_page()));
    let listings = || {
        let requests = setup.cortex.cortex().requests();
        let listings = requests.iter().filter(|one| one.route == Route::Events);
        listings.count()
    };
    // It is said, and everything goes on under the keys that CortexDB knows: a server without the route may answer like that for good.
    let ran = setup.run(&[]).await.expect(0);
    assert!(ran.stderr.contains("404") || ran.stdout.contains("404"));
    let asked = listings();
    setup.cortex.cortex().clear_faults();
    setup.run(&[]).await.expect(0);
    assert!(listings() > asked, "the scopes are not taken for empty");
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_lists_nothing() {
    let setup = Setup::tiny(229).await;
    setup.run(&["--dry-run"]).await.expect(0);
    assert!(
        setup
            .cortex
            .cortex()
            .requests()
            .iter()
            .all(|request| request.route != Route::Events)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_after_the_loss_is_forgotten_and_verify_agrees() {
    let setup = Setup::tiny(150).await;
    setup.run(&[]).await.expect(0);
    lose_everything(&setup);
    setup.run(&[]).await.expect(0);
    let component = crate::setup::dist("gitlab.wasm");
    let verify = ["verify", component.to_str().unwrap()];
    setup.runtime(&verify).await.expect(0);
    let (project, iid) = first_issue(&setup);
    setup.gitlab.world().delete_issue(project, iid).unwrap();
    setup.run(&["--reconcile"]).await.expect(0);
    let id = format!("gl:issue:{project}/{iid}");
    assert!(!setup.stored().contains_key(&id));
    setup.assert_complete(&setup.membership());
    setup.runtime(&verify).await.expect(0);
}
