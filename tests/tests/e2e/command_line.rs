//! What a user types and what comes back.

use serde_json::json;
use simulators::cortex::{self, Fault as CortexFault, FaultRule, Route, validate_envelope};
use simulators::gitlab::{
    self, EXPIRED_TOKEN, Fault, NARROW_TOKEN, REVOKED_TOKEN, Rule, STRANGER_TOKEN, Size, World,
};

use crate::setup::{KEY, Setup, dist};

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_writes_nothing_and_says_what_it_would() {
    let setup = Setup::tiny(41).await;
    let ran = setup.run(&["--dry-run"]).await.expect(0);
    assert_eq!(setup.cortex.stats().events, 0);
    assert!(!setup.state_file().exists(), "a dry run left a state file");
    let would = ran
        .events()
        .into_iter()
        .filter(|event| event["event"] == "would_write")
        .count();
    let membership = setup.membership();
    let expected = setup.gitlab.world().expected(&membership).len();
    assert_eq!(would, expected);
    setup.run(&[]).await.expect(0);
    let again = setup.run(&["--dry-run"]).await.expect(0);
    assert_eq!(again.receipt()["written"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn out_gives_a_line_for_every_envelope_and_each_one_validates() {
    let setup = Setup::tiny(42).await;
    let out = setup.home.path().join("out.jsonl");
    let receipt = setup
        .run(&["--out", out.to_str().unwrap()])
        .await
        .expect(0)
        .receipt();
    let text = std::fs::read_to_string(out).unwrap();
    assert_eq!(
        text.lines().count() as u64,
        receipt["written"].as_u64().unwrap()
    );
    for line in text.lines() {
        let envelope = serde_json::from_str(line).unwrap();
        validate_envelope(&envelope).unwrap_or_else(|errors| panic!("{errors:?}\n{line}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_gets_plain_lines_and_a_receipt() {
    let setup = Setup::tiny(43).await;
    let ran = setup
        .runtime(&["run", dist("gitlab.wasm").to_str().unwrap()])
        .await
        .expect(0);
    assert!(ran.stdout.starts_with("complete ("), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("written") && ran.stdout.contains("requests"),
        "{}",
        ran.stdout
    );
    assert!(
        !ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'),
        "escape sequences in a pipe"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_servers_are_shown_and_command_no_terminal() {
    let setup = Setup::tiny(66).await;
    let gone = Fault::Status {
        status: 503,
        body: "\u{1b}[2J\u{1b}]0;owned\u{7}gone\r\ncomplete".to_owned(),
        content_type: Some("text/plain".to_owned()),
        retry_after: None,
    };
    setup
        .gitlab
        .add_fault(Rule::new("/merge_requests", gone).times(1));
    let expired = CortexFault::status(401, "EXPIRED\u{1b}[31m\u{9b}2J\nCOMPLETE");
    setup
        .cortex
        .cortex()
        .add_fault(FaultRule::on(Route::Bulk, expired));
    let component = dist("gitlab.wasm");
    let ran = setup
        .runtime(&["run", component.to_str().unwrap(), "-v"])
        .await
        .expect(1);
    let commands = |c: char| c.is_control() && c != '\n';
    for said in [&ran.stdout, &ran.stderr] {
        assert!(!said.contains(commands), "{said:?}");
    }
    let line = |words: &str| ran.stderr.lines().any(|line| line.contains(words));
    assert!(
        line(r"503 \u{1b}[2J\u{1b}]0;owned\u{7}gone complete"),
        "{}",
        ran.stderr
    );
    assert!(
        line(r"401 EXPIRED\u{1b}[31M\u{9b}2J COMPLETE"),
        "{}",
        ran.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_says_nothing_when_all_is_well() {
    let setup = Setup::tiny(44).await;
    let ran = setup
        .runtime(&["run", dist("gitlab.wasm").to_str().unwrap(), "-q"])
        .await
        .expect(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_is_an_error_before_any_write() {
    for token in [
        "glpat-unknown-token",
        REVOKED_TOKEN,
        EXPIRED_TOKEN,
        NARROW_TOKEN,
    ] {
        let mut setup = Setup::tiny(45).await;
        setup.set("GITLAB_TOKEN", token);
        let ran = setup.run(&[]).await;
        assert_eq!(ran.code, 1, "{token}: {}", ran.stderr);
        assert_eq!(setup.cortex.stats().events, 0);
        assert!(setup.cursors().is_empty(), "{token} moved a cursor");
        assert!(!ran.stderr.contains(token) && !ran.stdout.contains(token));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_group_or_project_is_named_before_any_write() {
    for (variable, value) in [
        ("GITLAB_GROUP_IDS", "acme/nowhere"),
        ("GITLAB_GROUP_IDS", "999999"),
        ("GITLAB_PROJECT_IDS", "acme/nothing"),
    ] {
        let mut setup = Setup::tiny(46).await;
        setup.set(variable, value);
        let ran = setup.run(&[]).await.expect(2);
        assert!(
            ran.receipt()["reason"].as_str().unwrap().contains(value),
            "{}",
            ran.stdout
        );
        assert_eq!(setup.cortex.stats().events, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_a_member_of_nothing_is_an_error_and_not_an_empty_success() {
    let mut setup = Setup::tiny(47).await;
    setup.set("GITLAB_TOKEN", STRANGER_TOKEN);
    let ran = setup.run(&[]).await;
    assert_eq!(ran.code, 2, "{}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_event_a_bad_template_and_a_bad_since_are_refused_before_anything_is_read() {
    let setup = Setup::tiny(48).await;
    for arguments in [
        &["--events", "merge_request,wiki"][..],
        &["--scope-template", "org:acme/project:{entity.project}"],
        &["--scope-template", "acme"],
        &["--since", "yesterday"],
        &["--set", "colour=blue"],
        &["--url", "ftp://gitlab.example"],
    ] {
        let ran = setup.run(arguments).await;
        assert_eq!(ran.code, 2, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(setup.cortex.stats().events, 0);
    }
    assert!(
        setup.gitlab.requests().is_empty(),
        "{:?}",
        setup.gitlab.requests()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_organisation_the_error_says_what_to_set() {
    let setup = Setup::tiny(49).await;
    setup.initialise(&json!({"token": KEY, "user_id": "user:local"}));
    let ran = setup.run(&[]).await.expect(2);
    assert!(
        ran.stderr.contains("CORTEXDB_SCOPE_TEMPLATE"),
        "{}",
        ran.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_alone_is_enough() {
    let mut setup = Setup::tiny(50).await;
    std::fs::remove_file(setup.cortexdb_folder().join("state.json")).unwrap();
    setup.set("CORTEXDB_API_KEY", KEY).set(
        "CORTEXDB_SCOPE",
        "org:acme/source:{source}/project:{project_id}/{actor}",
    );
    setup.run(&[]).await.expect(0);
    let scope = setup.stored().into_values().next().unwrap()[0]["scope"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        scope.starts_with("org:acme/source:gitlab/project:") && scope.ends_with("/user:local"),
        "{scope}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_cortexdb_key_is_an_error_before_gitlab_is_read() {
    let setup = Setup::with(
        World::generate(51, &Size::tiny()),
        gitlab::Options::default(),
        cortex::Options::full("another-key-entirely"),
    )
    .await;
    let ran = setup.run(&[]).await.expect(1);
    assert!(
        ran.receipt()["reason"]
            .as_str()
            .unwrap()
            .contains("CORTEXDB_API_KEY"),
        "{}",
        ran.stdout
    );
    assert!(setup.gitlab.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_no_problem_in_a_good_connection_and_names_what_is_off() {
    let setup = Setup::tiny(52).await;
    let ran = setup
        .runtime(&["check", dist("gitlab.wasm").to_str().unwrap()])
        .await
        .expect(0);
    assert!(ran.stdout.contains("no problem found"), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("403 Forbidden"),
        "features that are off are not named:\n{}",
        ran.stdout
    );
    assert_eq!(setup.cortex.stats().events, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_each_bad_thing() {
    let mut setup = Setup::tiny(53).await;
    setup.set("GITLAB_PROJECT_IDS", "acme/nothing-here");
    let ran = setup
        .runtime(&["check", dist("gitlab.wasm").to_str().unwrap()])
        .await
        .expect(1);
    assert!(ran.stdout.contains("acme/nothing-here"), "{}", ran.stdout);
    setup.set("GITLAB_TOKEN", "glpat-wrong-token");
    let ran = setup
        .runtime(&["check", dist("gitlab.wasm").to_str().unwrap(), "--json"])
        .await
        .expect(1);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(
        report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|finding| finding["severity"] == "problem"),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_streams_and_records() {
    let setup = Setup::tiny(54).await;
    setup.run(&[]).await.expect(0);
    let ran = setup.runtime(&["status", "--json"]).await.expect(0);
    let status: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let connection = &status["connections"][0];
    assert_eq!(connection["last_run"]["receipt"]["outcome"], "complete");
    assert!(connection["records"]["note"].as_u64().unwrap() > 0);
    assert!(
        connection["streams"]
            .as_array()
            .unwrap()
            .iter()
            .any(|stream| stream["state"] == "off"),
        "{status}"
    );
    assert!(connection["lag_seconds"].as_u64().unwrap() < 60, "{status}");
    for stream in connection["streams"].as_array().unwrap() {
        let (complete, off) = (stream["state"] == "complete", stream["state"] == "off");
        assert_eq!(stream["lag_seconds"].is_u64(), complete && !off, "{stream}");
    }
    let plain = setup.runtime(&["status"]).await.expect(0);
    for words in ["/merge_requests", "behind", "dead letters  0", "last run"] {
        assert!(plain.stdout.contains(words), "{}", plain.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_shows_what_a_component_is_and_refuses_what_is_none() {
    let setup = Setup::tiny(55).await;
    let ran = setup
        .runtime(&["inspect", dist("gitlab.wasm").to_str().unwrap(), "--json"])
        .await
        .expect(0);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&report["world"], &report["name"]),
        (&json!("connector"), &json!("gitlab"))
    );
    assert!(report["digest"].as_str().unwrap().starts_with("sha256:"));
    let text = setup.home.path().join("no.wasm");
    std::fs::write(&text, "no component").unwrap();
    setup
        .runtime(&["inspect", text.to_str().unwrap()])
        .await
        .expect(1);
    setup.runtime(&["inspect", "/nowhere.wasm"]).await.expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_written_anywhere_holds_a_secret() {
    let setup = Setup::tiny(56).await;
    let out = setup.home.path().join("out.jsonl");
    // `Setup` looks into all that this leaves behind, as it does in every test.
    setup
        .run(&["--out", out.to_str().unwrap(), "-v"])
        .await
        .expect(0);
    assert!(std::fs::metadata(out).unwrap().len() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn since_leaves_out_what_is_older_at_first_and_reads_it_when_it_is_moved_back() {
    let setup = Setup::tiny(57).await;
    let month_ago = setup.gitlab.world().now().plus_seconds(-30 * 86_400).rest();
    setup.run(&["--since", &month_ago]).await.expect(0);
    let membership = setup.membership();
    let all = setup.gitlab.world().expected(&membership).len();
    let recent = setup.stored();
    assert!(
        !recent.is_empty() && recent.len() < all,
        "{} of {all}",
        recent.len()
    );
    for (id, versions) in &recent {
        let observed = versions[0]["context"]["observed_at"].as_str().unwrap();
        let is_old = id.contains(":merge_request:") && observed < month_ago.as_str();
        assert!(
            !is_old,
            "{id} was last updated at {observed}, before {month_ago}"
        );
    }
    setup
        .run(&["--since", "2000-01-01T00:00:00Z"])
        .await
        .expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_tenant_is_refused_before_anything_is_read() {
    let mut setup = Setup::tiny(58).await;
    setup.set("CORTEXDB_TENANT_ID", "somebody-else");
    let ran = setup.run(&[]).await.expect(2);
    assert!(
        ran.receipt()["reason"]
            .as_str()
            .unwrap()
            .contains("somebody-else")
    );
    assert!(setup.gitlab.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_per_group_holds_the_projects_of_that_group() {
    let setup = Setup::tiny(59).await;
    setup
        .run(&[
            "--scope-template",
            "org:acme/source:gitlab/team:{group_path}",
        ])
        .await
        .expect(0);
    setup.assert_complete(&setup.membership());
    let scopes: std::collections::BTreeSet<String> = setup
        .stored()
        .into_values()
        .map(|versions| versions[0]["scope"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        scopes.iter().any(|scope| scope.contains("__")),
        "{scopes:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_scope_type_stops_the_run_and_dead_letters_nothing() {
    let setup = Setup::tiny(60).await;
    let ran = setup
        .run(&[
            "--scope-template",
            "org:acme/galaxy:far/project:{project_id}",
        ])
        .await
        .expect(2);
    let receipt = ran.receipt();
    assert_eq!(receipt["dead_lettered"], 0, "{receipt}");
    assert!(
        receipt["reason"]
            .as_str()
            .unwrap()
            .contains("scope template"),
        "{receipt}"
    );
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}
