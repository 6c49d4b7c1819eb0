//! `runtime dead-letters`: what was refused can be seen, sent again and dropped.

use serde_json::{Value, json};
use simulators::cortex::{Fault as CortexFault, FaultRule, Route};

use crate::setup::{Ran, Setup};

/// A run in which CortexDB refuses one new issue; its source id.
async fn poisoned(seed: u64, text: &str) -> (Setup, String) {
    let setup = Setup::tiny(seed).await;
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
            &json!({"project": project, "title": "POISON-MARKER", "text": text}),
        )
        .unwrap()
        .id;
    setup.cortex.cortex().add_fault(FaultRule::on(
        Route::Bulk,
        CortexFault::refuse_item("POISON-MARKER"),
    ));
    setup.run(&[]).await.expect(3);
    (setup, format!("gl:issue:{project}/{iid}"))
}

fn json_of(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
}

async fn listed(setup: &Setup) -> Vec<Value> {
    let ran = setup
        .runtime(&["dead-letters", "list", "--json"])
        .await
        .expect(0);
    json_of(&ran)["dead_letters"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_record_is_listed_shown_and_stored_once_the_server_is_mended() {
    let (setup, id) = poisoned(301, "short").await;
    let letters = listed(&setup).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["source_id"], id.as_str());
    assert_eq!(letters[0]["attempts"], 1);
    let table = setup.runtime(&["dead-letters", "list"]).await.expect(0);
    assert!(
        table.stdout.contains(&id) && table.stdout.contains("INVALID_ENVELOPE"),
        "{}",
        table.stdout
    );
    let shown = setup
        .runtime(&["dead-letters", "show", &id])
        .await
        .expect(0);
    assert!(shown.stdout.contains("POISON-MARKER"), "{}", shown.stdout);

    let refused = setup
        .runtime(&["dead-letters", "retry", &id, "--json"])
        .await
        .expect(1);
    assert_eq!(json_of(&refused)["letters"][0]["outcome"], "refused");
    assert_eq!(listed(&setup).await[0]["attempts"], 2);

    setup.cortex.cortex().clear_faults();
    let stored = setup
        .runtime(&["dead-letters", "retry", "--all"])
        .await
        .expect(0);
    assert!(
        stored.stdout.contains("1 stored, 0 failed"),
        "{}",
        stored.stdout
    );
    assert!(listed(&setup).await.is_empty());
    setup.assert_complete(&setup.membership());
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 0, "{receipt}");
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_in_fragments_is_sent_again_whole() {
    let text = "Gro\u{df}e Texte \u{6f22}\u{5b57}\n".repeat(120_000);
    let (setup, id) = poisoned(302, &text).await;
    setup.cortex.cortex().clear_faults();
    setup
        .runtime(&["dead-letters", "retry", &id])
        .await
        .expect(0);
    // The refused fragment, which is the first, arrived last.
    let mut fragments = setup.cortex.cortex().live_by_source_id(&id);
    fragments.sort_by_key(|event| event.byte_range);
    let stored: String = fragments
        .iter()
        .map(|event| {
            event.envelope()["content"]["text"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(stored, format!("POISON-MARKER\n\n{text}"));
    assert_eq!(
        setup.cortex.cortex().invariant_violations(),
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_change_that_is_sent_again_replaces_the_version_before_it() {
    let setup = Setup::tiny(303).await;
    setup.run(&[]).await.expect(0);
    let (project, iid) = {
        let world = setup.gitlab.world();
        let (id, project) = world
            .projects
            .iter()
            .find(|(_, project)| !project.merge_requests.is_empty())
            .unwrap();
        (*id, *project.merge_requests.keys().next().unwrap())
    };
    setup.gitlab.advance_clock(600);
    setup
        .gitlab
        .world()
        .edit_merge_request(project, iid, Some("POISON-MARKER"), None)
        .unwrap();
    setup.cortex.cortex().add_fault(FaultRule::on(
        Route::Bulk,
        CortexFault::refuse_item("POISON-MARKER"),
    ));
    setup.run(&[]).await.expect(3);
    setup.cortex.cortex().clear_faults();
    setup
        .runtime(&["dead-letters", "retry", "--all"])
        .await
        .expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_record_stays_out_until_it_changes() {
    let (setup, id) = poisoned(304, "short").await;
    setup
        .runtime(&["dead-letters", "drop", &id])
        .await
        .expect(0);
    assert!(listed(&setup).await.is_empty());
    setup.cortex.cortex().clear_faults();
    std::fs::remove_file(setup.state_file()).unwrap();
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["skipped"]["dropped-dead-letter"], 1, "{receipt}");
    assert!(!setup.stored().contains_key(&id));

    let (project, iid) = id.rsplit_once(':').unwrap().1.split_once('/').unwrap();
    setup.gitlab.advance_clock(600);
    setup
        .gitlab
        .world()
        .edit_issue(
            project.parse().unwrap(),
            iid.parse().unwrap(),
            Some("Better now"),
            None,
        )
        .unwrap();
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said_with_an_exit_code() {
    let setup = Setup::tiny(305).await;
    let none = setup.runtime(&["dead-letters", "list"]).await.expect(0);
    assert!(none.stdout.contains("no dead letters"));
    for command in ["show", "retry", "drop"] {
        let unknown = setup
            .runtime(&["dead-letters", command, "gl:issue:1/1"])
            .await
            .expect(1);
        assert!(
            unknown.stderr.contains("gl:issue:1/1"),
            "{}",
            unknown.stderr
        );
    }
    setup.runtime(&["dead-letters", "retry"]).await.expect(2);
    setup
        .runtime(&["dead-letters", "drop", "gl:issue:1/1", "--all"])
        .await
        .expect(2);
    setup
        .runtime(&["dead-letters", "retry", "--all"])
        .await
        .expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_another_cortexdb_are_not_sent_to_this_one() {
    let (mut setup, _) = poisoned(306, "short").await;
    setup.cortex.cortex().clear_faults();
    let elsewhere = setup.cortex.url().replace("127.0.0.1", "localhost");
    setup.set("CORTEXDB_URL", &elsewhere);
    let ran = setup
        .runtime(&["dead-letters", "retry", "--all", "--json"])
        .await
        .expect(1);
    assert_eq!(json_of(&ran)["letters"][0]["outcome"], "not_sent");
    assert_eq!(listed(&setup).await.len(), 1);
}
