//! Servers that misbehave: nothing is lost, nothing is doubled, and the user is told.

use simulators::cortex::{Fault as CortexFault, FaultRule, Route};
use simulators::gitlab::{Fault, Feature, Rule, Target};

use crate::setup::Setup;

#[tokio::test(flavor = "multi_thread")]
async fn passing_failures_of_gitlab_cost_a_retry_and_nothing_else() {
    let faults = [
        Fault::ServerError,
        Fault::BadGateway,
        Fault::Html,
        Fault::BrokenJson,
        Fault::Truncated { keep: 100 },
        Fault::Reset,
        Fault::RateLimited {
            retry_after: Some(1),
        },
        Fault::TooManyRequests {
            retry_after: Some(1),
        },
        Fault::WrongShape,
    ];
    for (index, fault) in faults.into_iter().enumerate() {
        let setup = Setup::tiny(81 + index as u64).await;
        for path in [
            "/merge_requests",
            "/discussions",
            "/pipelines",
            "/commits",
            "/releases",
            "/issues",
        ] {
            setup
                .gitlab
                .add_fault(Rule::new(path, fault.clone()).after(1).times(1));
        }
        setup.run(&[]).await.expect(0);
        assert!(setup.gitlab.faults_struck() > 0, "{fault:?} never struck");
        setup.assert_complete(&setup.membership());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_that_fail_for_good_hold_their_stream_and_heal_in_the_next_run() {
    let setup = Setup::tiny(91).await;
    setup
        .gitlab
        .add_fault(Rule::new("/discussions", Fault::ServerError));
    let failed = setup.run(&["--patience", "1s"]).await.expect(1);
    assert!(
        !failed.receipt()["streams_failed"]
            .as_object()
            .unwrap()
            .is_empty(),
        "{}",
        failed.stdout
    );
    assert!(
        setup.stored().keys().any(|id| id.starts_with("gl:commit:")),
        "one bad endpoint stopped the others"
    );
    setup.gitlab.set_faults(vec![]);
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feature_that_is_off_is_shown_and_read_once_it_is_on() {
    let setup = Setup::tiny(92).await;
    let project = *setup
        .gitlab
        .world()
        .projects
        .iter()
        .find(|(_, project)| project.pipelines.len() > 1)
        .unwrap()
        .0;
    setup
        .gitlab
        .world()
        .set_feature(project, Feature::Builds, false)
        .unwrap();
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert!(
        receipt["streams_off"][format!("{project}/pipelines")].is_string(),
        "{receipt}"
    );
    setup
        .gitlab
        .world()
        .set_feature(project, Feature::Builds, true)
        .unwrap();
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_revoked_in_the_middle_stops_the_run_and_holds_the_cursors() {
    let setup = Setup::tiny(93).await;
    setup
        .gitlab
        .add_fault(Rule::new("/discussions", Fault::Revoked).after(3));
    let stopped = setup.run(&[]).await.expect(1);
    assert!(
        stopped.receipt()["reason"]
            .as_str()
            .unwrap()
            .to_lowercase()
            .contains("revoked"),
        "{}",
        stopped.stdout
    );
    setup.gitlab.set_faults(vec![]);
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_failures_of_cortexdb_cost_a_retry_and_no_double() {
    let faults = [
        CortexFault::unavailable(),
        CortexFault::rate_limited(1),
        CortexFault::CloseBeforeWrite,
        CortexFault::CloseAfterWrite,
        CortexFault::TruncatedBody,
        CortexFault::ReceiptWithoutEventId,
        CortexFault::ShortResults { missing: 3 },
        CortexFault::wait_timeout(),
        CortexFault::Html {
            status: 502,
            after_write: true,
        },
    ];
    for (index, fault) in faults.into_iter().enumerate() {
        let setup = Setup::tiny(101 + index as u64).await;
        setup
            .cortex
            .cortex()
            .add_fault(FaultRule::on(Route::Bulk, fault.clone()).every(2).times(4));
        setup.run(&[]).await.expect(0);
        assert!(
            setup.cortex.cortex().faults_fired() > 0,
            "{fault:?} never fired"
        );
        setup.assert_complete(&setup.membership());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_record_is_dead_lettered_alone_and_the_run_says_so() {
    let setup = Setup::tiny(111).await;
    let project = *setup
        .gitlab
        .world()
        .projects
        .iter()
        .find(|(_, project)| !project.issues.is_empty())
        .unwrap()
        .0;
    let iid = setup
        .gitlab
        .world()
        .command(
            "new_issue",
            &serde_json::json!({"project": project, "title": "POISON-MARKER"}),
        )
        .unwrap()
        .id;
    setup.cortex.cortex().add_fault(FaultRule::on(
        Route::Bulk,
        CortexFault::refuse_item("POISON-MARKER"),
    ));
    let ran = setup.run(&[]).await.expect(3);
    let letters: Vec<_> = ran
        .events()
        .into_iter()
        .filter(|event| event["event"] == "dead_letter")
        .collect();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["source_id"], format!("gl:issue:{project}/{iid}"));
    let membership = setup.membership();
    let expected = setup.gitlab.world().expected(&membership).len();
    assert_eq!(setup.stored().len(), expected - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_cortexdb_dead_letters_nothing_and_heals() {
    let setup = Setup::tiny(112).await;
    setup
        .cortex
        .cortex()
        .add_fault(FaultRule::on(Route::Bulk, CortexFault::unavailable()));
    for _ in 0..3 {
        let receipt = setup.run(&["--patience", "1s"]).await.expect(1).receipt();
        assert_eq!(receipt["dead_lettered"], 0, "{receipt}");
    }
    setup.cortex.cortex().clear_faults();
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_cortexdb_token_stops_the_run_and_dead_letters_nothing() {
    let setup = Setup::tiny(113).await;
    setup
        .cortex
        .cortex()
        .add_fault(FaultRule::on(Route::Bulk, CortexFault::expired_token()).after(1));
    let receipt = setup.run(&[]).await.expect(1).receipt();
    assert_eq!(receipt["dead_lettered"], 0, "{receipt}");
    setup.cortex.cortex().clear_faults();
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cortexdb_that_answers_only_a_count_is_asked_for_each_event_id() {
    let setup = Setup::tiny(114).await;
    setup
        .cortex
        .cortex()
        .reconfigure(|options| options.bulk_reply = simulators::cortex::BulkReply::BatchOnly);
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_waited_out_whoever_tells_of_it_and_costs_no_patience() {
    use simulators::gitlab::RateLimitHeaders;
    for told in [
        RateLimitHeaders::Always,
        RateLimitHeaders::WithRefusals,
        RateLimitHeaders::Never,
    ] {
        let setup = Setup::with(
            simulators::gitlab::World::generate(115, &simulators::gitlab::Size::tiny()),
            simulators::gitlab::Options {
                rate_limit: Some(60),
                rate_window: std::time::Duration::from_secs(3),
                rate_limit_headers: told,
                ..simulators::gitlab::Options::default()
            },
            simulators::cortex::Options::full(crate::setup::KEY),
        )
        .await;
        // Less than one window.
        setup.run(&["--patience", "1s"]).await.expect(0);
        setup.assert_complete(&setup.membership());
    }
}

/// Refused, with these words, and nothing written.
fn refusal(status: u16, code: &str) -> CortexFault {
    CortexFault::status(status, code)
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_that_are_not_found_once_hold_their_stream_and_are_read_in_the_next_run() {
    let setup = Setup::tiny(121).await;
    setup
        .gitlab
        .add_fault(Rule::new("/discussions", Fault::NotFound).after(2).times(1));
    let receipt = setup.run(&[]).await.expect(1).receipt();
    assert_eq!(
        receipt["streams_failed"].as_object().unwrap().len(),
        1,
        "{receipt}"
    );
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_request_deleted_while_it_is_read_is_counted_and_fails_nothing() {
    let setup = Setup::tiny(122).await;
    setup.gitlab.on_request("/discussions", 1, |world| {
        let project = *world
            .projects
            .iter()
            .find(|(_, p)| p.merge_requests.len() > 1)
            .unwrap()
            .0;
        let iids: Vec<u64> = world.projects[&project]
            .merge_requests
            .keys()
            .copied()
            .collect();
        for iid in iids {
            let _ = world.delete_merge_request(project, iid);
        }
    });
    setup.run(&[]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_breaks_off_with_404_is_no_feature_that_is_off() {
    let setup = Setup::with(
        simulators::gitlab::World::generate(123, &simulators::gitlab::Size::items(1500)),
        simulators::gitlab::Options::default(),
        simulators::cortex::Options::full(crate::setup::KEY),
    )
    .await;
    setup
        .gitlab
        .add_fault(Rule::new("/merge_requests?*updated_after", Fault::NotFound).times(1));
    let receipt = setup.run(&[]).await.expect(1).receipt();
    assert_eq!(receipt["streams_off"], serde_json::json!({}), "{receipt}");
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_always_times_out_ends_with_the_patience() {
    let setup = Setup::tiny(124).await;
    setup
        .cortex
        .cortex()
        .add_fault(FaultRule::on(Route::Bulk, refusal(408, "WAIT_TIMEOUT")));
    setup.run(&["--patience", "1s"]).await.expect(1);
    let stats = setup.cortex.stats();
    let writes = stats.routes[&Route::Bulk].requests;
    // After each of them it is asked once of each record whether it was stored.
    let membership = setup.membership();
    let records = setup.gitlab.world().expected(&membership).len() as u64;
    assert!(
        writes < 10 && stats.requests < writes * (records + 1) + 20,
        "{records} records: {stats:?}"
    );
    setup.cortex.cortex().clear_faults();
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_answers_in_front_of_cortexdb_dead_letters_nothing() {
    for status in [400, 404, 421, 426, 460, 502] {
        let setup = Setup::tiny(125).await;
        let html = CortexFault::Html {
            status,
            after_write: false,
        };
        setup
            .cortex
            .cortex()
            .add_fault(FaultRule::on(Route::Bulk, html));
        let receipt = setup.run(&["--patience", "1s"]).await.expect(1).receipt();
        assert_eq!(receipt["dead_lettered"], 0, "{receipt}");
        setup.cortex.cortex().clear_faults();
        setup.run(&[]).await.expect(0);
        setup.assert_complete(&setup.membership());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_wants_a_password_stops_the_run_and_dead_letters_nothing() {
    let setup = Setup::tiny(136).await;
    let html = CortexFault::Html {
        status: 407,
        after_write: false,
    };
    setup
        .cortex
        .cortex()
        .add_fault(FaultRule::on(Route::Bulk, html));
    let receipt = setup.run(&[]).await.expect(2).receipt();
    assert_eq!(receipt["dead_lettered"], 0, "{receipt}");
    let reason = receipt["reason"].as_str().unwrap();
    assert!(reason.contains("proxy"), "{reason}");
    setup.cortex.cortex().clear_faults();
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

/// The page of an ingress that has no server behind it.
pub(crate) fn not_found_page() -> CortexFault {
    CortexFault::Html {
        status: 404,
        after_write: false,
    }
}

/// A new issue with a comment.
fn new_issue(setup: &Setup) -> Target {
    let mut world = setup.gitlab.world();
    let mut projects = world.projects.iter();
    let (&project, _) = projects.find(|(_, p)| !p.issues.is_empty()).unwrap();
    let issue = serde_json::json!({"project": project, "title": "Soon confidential"});
    let iid = world.command("new_issue", &issue).unwrap().id;
    let target = Target::issue(project, iid.parse().unwrap());
    world.add_note(target, "A comment").unwrap();
    target
}

fn make_confidential(setup: &Setup, issue: Target) {
    setup.gitlab.advance_clock(600);
    let mut world = setup.gitlab.world();
    world
        .set_confidential(issue.project, issue.iid, true)
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_of_a_proxy_is_not_taken_for_forgotten() {
    let setup = Setup::tiny(137).await;
    let issue = new_issue(&setup);
    setup.run(&[]).await.expect(0);
    make_confidential(&setup, issue);
    setup
        .cortex
        .cortex()
        .add_fault(FaultRule::on(Route::Forget, not_found_page()));
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_ne!(receipt["superseded_pending"], 0, "{receipt}");
    setup.cortex.cortex().clear_faults();
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_events_that_are_not_found_together_each_is_tried_alone() {
    let setup = Setup::tiny(138).await;
    let issue = new_issue(&setup);
    setup.run(&[]).await.expect(0);
    make_confidential(&setup, issue);
    setup
        .cortex
        .cortex()
        .add_fault(FaultRule::on(Route::Forget, refusal(404, "NOT_FOUND")).times(1));
    setup.run(&[]).await.expect(0);
    assert_eq!(setup.cortex.cortex().faults_fired(), 1);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_that_cannot_be_forgotten_blocks_nothing() {
    let setup = Setup::tiny(126).await;
    setup.run(&[]).await.expect(0);
    let (project, iid) = {
        let world = setup.gitlab.world();
        let (id, project) = world
            .projects
            .iter()
            .find(|(_, p)| !p.merge_requests.is_empty())
            .unwrap();
        (*id, *project.merge_requests.keys().next().unwrap())
    };
    setup.cortex.cortex().add_fault(FaultRule::on(
        Route::Forget,
        refusal(422, "INVALID_SELECTOR"),
    ));
    for title in ["Second", "Third"] {
        setup.gitlab.advance_clock(300);
        setup
            .gitlab
            .world()
            .edit_merge_request(project, iid, Some(title), None)
            .unwrap();
        let receipt = setup.run(&[]).await.expect(0).receipt();
        assert_eq!(receipt["written"], 1, "{receipt}");
        assert!(
            receipt["superseded_pending"].as_u64().unwrap() > 0,
            "{receipt}"
        );
    }
    setup.cortex.cortex().clear_faults();
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_old_versions_that_cannot_be_forgotten_do_not_keep_the_next_one() {
    let setup = Setup::tiny(135).await;
    setup.run(&[]).await.expect(0);
    let (project, iid) = {
        let world = setup.gitlab.world();
        let mut projects = world.projects.iter();
        let (id, project) = projects
            .find(|(_, p)| !p.merge_requests.is_empty())
            .unwrap();
        (*id, *project.merge_requests.keys().next().unwrap())
    };
    // CortexDB refuses whatever is asked about a scope that is none.
    setup
        .change_ledger(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000)
             INSERT INTO events (connection, source_id, generation, fragment, scope, key, event_id, state)
             SELECT (SELECT id FROM connections), 'gl:note:0/' || n, 1, 0, 'no scope', 'k' || n, 'evt_' || n, 'obsolete' FROM numbers",
        )
        .await;
    for title in ["Second", "Third"] {
        setup.gitlab.advance_clock(300);
        setup
            .gitlab
            .world()
            .edit_merge_request(project, iid, Some(title), None)
            .unwrap();
        let receipt = setup.run(&[]).await.expect(0).receipt();
        assert_eq!(receipt["superseded_pending"], 1000, "{receipt}");
    }
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_record_that_the_reply_does_not_number_is_found_and_dead_lettered_alone() {
    use simulators::cortex::{BulkReply, ItemRefusal};
    for (seed, reply) in [(127, BulkReply::Results), (128, BulkReply::BatchOnly)] {
        let setup = Setup::tiny(seed).await;
        let project = *setup.gitlab.world().projects.keys().next().unwrap();
        let new = |title: &str| {
            let body = serde_json::json!({"project": project, "title": title});
            let mut world = setup.gitlab.world();
            world.command("new_issue", &body).unwrap().id
        };
        let iids = [new("POISON-MARKER one"), new("POISON-MARKER two")];
        setup.cortex.cortex().reconfigure(|options| {
            options.item_refusal = ItemRefusal::PartialUnnamed;
            options.bulk_reply = reply;
        });
        setup.cortex.cortex().add_fault(FaultRule::on(
            Route::Bulk,
            CortexFault::refuse_item("POISON-MARKER"),
        ));
        let membership = setup.membership();
        let refused: std::collections::BTreeSet<String> = iids
            .iter()
            .map(|iid| format!("gl:issue:{project}/{iid}"))
            .filter(|id| {
                let expected = setup.gitlab.world().expected(&membership);
                expected.iter().any(|record| record.source_id == *id)
            })
            .collect();
        let ran = setup.run(&["--patience", "5s"]).await.expect(3);
        let letters: Vec<_> = ran
            .events()
            .into_iter()
            .filter(|event| event["event"] == "dead_letter")
            .collect();
        let named = letters
            .iter()
            .map(|letter| letter["source_id"].as_str().unwrap().to_owned());
        assert_eq!(named.collect::<std::collections::BTreeSet<_>>(), refused);
        assert!(
            letters[0]["reason"]
                .as_str()
                .unwrap()
                .contains("the item was refused"),
            "{letters:?}"
        );
        let expected = setup.gitlab.world().expected(&membership).len();
        assert_eq!(setup.stored().len(), expected - refused.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_only_counts_is_resolved_sixteen_keys_at_a_time() {
    let setup = Setup::with(
        simulators::gitlab::World::generate(129, &simulators::gitlab::Size::items(600)),
        simulators::gitlab::Options::default(),
        simulators::cortex::Options {
            latency: std::time::Duration::from_millis(40),
            bulk_reply: simulators::cortex::BulkReply::BatchOnly,
            ..simulators::cortex::Options::full(crate::setup::KEY)
        },
    )
    .await;
    let started = std::time::Instant::now();
    setup.run(&[]).await.expect(0);
    let asked = setup.cortex.cortex().requests();
    let asked = asked.iter().filter(|r| r.route == Route::Status).count();
    assert!(asked >= 500, "{asked}");
    // One after the other would take this long for the questions alone.
    let in_a_row = std::time::Duration::from_millis(40) * u32::try_from(asked).unwrap();
    assert!(started.elapsed() < in_a_row / 2, "{:?}", started.elapsed());
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_with_a_comma_or_an_endless_tag_is_stored_and_found_again() {
    let setup = Setup::tiny(130).await;
    let project = *setup.gitlab.world().projects.keys().next().unwrap();
    let tags = ["v1,v2".to_owned(), "release/".repeat(60)];
    for tag in &tags {
        let tag = tag.trim_end_matches('/');
        let mut world = setup.gitlab.world();
        world.new_release(project, tag, "Words", -60).unwrap();
    }
    setup.cortex.cortex().reconfigure(|options| {
        options.listing_shows_source = true;
    });
    setup.run(&[]).await.expect(0);
    let stored = setup.stored();
    for tag in &tags {
        let id = format!("gl:release:{project}/{}", tag.trim_end_matches('/'));
        let labels = stored[&id][0]["context"]["labels"].as_array().unwrap();
        assert!(
            labels
                .iter()
                .filter_map(serde_json::Value::as_str)
                .all(|label| label.len() <= 256 && !label.contains(',')),
            "{labels:?}"
        );
    }
    for name in ["connectors.db", "connectors.db-wal", "connectors.db-shm"] {
        let _ = std::fs::remove_file(setup.cortexdb_folder().join(name));
    }
    std::fs::remove_file(setup.state_file()).unwrap();
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 0, "{receipt}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_that_is_too_small_in_mid_run_stops_it_and_names_the_scope() {
    let setup = Setup::tiny(131).await;
    setup
        .gitlab
        .add_fault(Rule::new("/discussions", Fault::InsufficientScope).after(3));
    let stopped = setup.run(&[]).await.expect(1);
    let receipt = stopped.receipt();
    let reason = receipt["reason"].as_str().unwrap();
    assert!(reason.contains("scope read_api"), "{reason}");
    assert_eq!(receipt["dead_lettered"], 0, "{receipt}");
    setup.assert_no_cursor_is_ahead();
    setup.gitlab.set_faults(vec![]);
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_feature_that_is_refused_is_off_by_itself_and_read_once_it_is_not() {
    let lists = [
        ("merge_requests", "/merge_requests?"),
        ("issues", "/issues?"),
        ("pipelines", "/pipelines?"),
        ("releases", "/releases?"),
    ];
    for (index, fault) in [Fault::Forbidden, Fault::NotFound].into_iter().enumerate() {
        let setup = Setup::tiny(132 + index as u64).await;
        let project = setup.membership().projects[0];
        for (_, path) in lists {
            let path = format!("/projects/{project}{path}");
            setup.gitlab.add_fault(Rule::new(&path, fault.clone()));
        }
        let receipt = setup.run(&[]).await.expect(0).receipt();
        for (stream, _) in lists {
            let stream = format!("{project}/{stream}");
            assert!(receipt["streams_off"][&stream].is_string(), "{receipt}");
            assert!(!setup.cursors().contains_key(&stream), "{stream}");
        }
        assert!(setup.cursors().contains_key(&format!("{project}/commits")));
        setup.gitlab.set_faults(vec![]);
        setup.run(&[]).await.expect(0);
        setup.assert_complete(&setup.membership());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn issues_that_were_off_at_the_first_run_are_read_once_they_are_on() {
    let setup = Setup::tiny(134).await;
    let members = setup.membership().projects;
    let project = {
        let world = setup.gitlab.world();
        let with_issues = |id: &&u64| !world.projects[id].issues.is_empty();
        *members.iter().find(with_issues).unwrap()
    };
    let switch = |on| {
        let mut world = setup.gitlab.world();
        world.set_feature(project, Feature::Issues, on).unwrap();
    };
    switch(false);
    let receipt = setup.run(&[]).await.expect(0).receipt();
    // GitLab answers an empty list, which is no sign that there are none.
    let stream = format!("{project}/issues");
    assert!(receipt["streams_off"][&stream].is_string(), "{receipt}");
    switch(true);
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}
