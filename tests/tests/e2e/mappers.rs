//! Mappers in a run: what they change, drop, split and break, and what becomes of it in CortexDB.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use simulators::gitlab::Target;

use crate::setup::{Setup, dist};

/// The arguments of a run through the puppet, with these rules.
pub fn puppet(setup: &Setup, name: &str, rules: &Value) -> Vec<String> {
    let file = setup.home.path().join(format!("{name}.json"));
    std::fs::write(&file, json!({ "rules": rules }).to_string()).unwrap();
    let mapper = dist("puppet-mapper.wasm");
    [
        "--mapper",
        mapper.to_str().unwrap(),
        "--mapper-config",
        file.to_str().unwrap(),
    ]
    .map(str::to_owned)
    .to_vec()
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// A project with issues, and a new issue in it with this text; its source id.
fn new_issue(setup: &Setup, text: &str) -> String {
    let mut world = setup.gitlab.world();
    let project = *world
        .projects
        .iter()
        .find(|(_, project)| !project.issues.is_empty())
        .unwrap()
        .0;
    let issue = json!({"project": project, "title": "For the mapper", "text": text});
    let iid = world.command("new_issue", &issue).unwrap().id;
    format!("gl:issue:{project}/{iid}")
}

/// What CortexDB holds now, by source id.
fn ids(setup: &Setup) -> BTreeSet<String> {
    setup.stored().keys().cloned().collect()
}

fn text_of(setup: &Setup, id: &str) -> String {
    setup.text_of(id).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapper_changes_drops_and_splits_and_a_second_run_writes_nothing() {
    let setup = Setup::tiny(901).await;
    let changed = new_issue(&setup, "ADD-TO-THIS");
    let dropped = new_issue(&setup, "DROP-THIS");
    let split = new_issue(&setup, "SPLIT-THIS");
    let arguments = puppet(
        &setup,
        "rules",
        &json!([
            {"has": "ADD-TO-THIS", "do": {"add": " and more"}},
            {"has": "DROP-THIS", "do": "drop"},
            {"has": "SPLIT-THIS", "do": {"split_into": ["one", "two"]}},
        ]),
    );
    let receipt = setup.run(&words(&arguments)).await.expect(0).receipt();
    assert!(text_of(&setup, &changed).ends_with(" and more"));
    let held = ids(&setup);
    assert!(!held.contains(&dropped) && !held.contains(&split));
    assert!(held.contains(&format!("{split}~one")) && held.contains(&format!("{split}~two")));
    assert_eq!(receipt["skipped"]["dropped-by-mapper"], 1);
    assert_eq!(receipt["mappers"][0]["name"], "puppet");
    assert_eq!(receipt["mappers"][0]["dropped"], 1);

    let again = setup.run(&words(&arguments)).await.expect(0).receipt();
    assert_eq!(again["written"], 0, "{again}");
    let mut reconcile = words(&arguments);
    reconcile.push("--reconcile");
    let quiet = setup.run(&reconcile).await.expect(0).receipt();
    assert_eq!(
        (&quiet["written"], &quiet["retracted"]),
        (&json!(0), &json!(0)),
        "{quiet}"
    );
    assert_eq!(ids(&setup), held);
    let component = dist("gitlab.wasm");
    let verified = setup
        .runtime(&["verify", component.to_str().unwrap()])
        .await
        .expect(0);
    assert!(verified.stdout.ends_with("equal\n"), "{}", verified.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_rewrites_what_it_changes_and_gitlab_is_not_asked() {
    let setup = Setup::tiny(902).await;
    let marked = new_issue(&setup, "MARK");
    let split = new_issue(&setup, "SPLIT-THIS");
    let first = puppet(
        &setup,
        "first",
        &json!([{"has": "SPLIT-THIS", "do": {"split_into": ["a", "b"]}}]),
    );
    setup.run(&words(&first)).await.expect(0);
    let asked = setup.gitlab.requests().len();

    let second = puppet(
        &setup,
        "second",
        &json!([
            {"has": "MARK", "do": {"add": " (mapped again)"}},
            {"has": "SPLIT-THIS", "do": {"split_into": ["b", "c"]}},
        ]),
    );
    let mut remap = words(&second);
    remap.push("--remap");
    let receipt = setup.run(&remap).await.expect(0).receipt();
    assert_eq!(setup.gitlab.requests().len(), asked);
    assert_eq!(receipt["source_requests"], 0);
    assert_eq!(receipt["written"], 2, "{receipt}");
    assert!(text_of(&setup, &marked).ends_with(" (mapped again)"));
    let held = ids(&setup);
    assert!(!held.contains(&format!("{split}~a")), "{held:?}");
    assert!(held.contains(&format!("{split}~b")) && held.contains(&format!("{split}~c")));
    let quiet = setup.run(&remap).await.expect(0).receipt();
    assert_eq!(quiet["written"], 0, "{quiet}");

    // Without a mapper everything is as GitLab has it, at the next reconcile pass.
    let plain = setup.run(&["--reconcile"]).await.expect(0).receipt();
    assert_eq!(plain["written"], 2, "{plain}");
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_asked_again_is_named_when_nothing_was_recorded() {
    let setup = Setup::tiny(903).await;
    setup.run(&[]).await.expect(0);
    let arguments = puppet(&setup, "rules", &json!([]));
    let mut remap = words(&arguments);
    remap.push("--remap");
    let refused = setup.run(&remap).await.expect(2).receipt();
    assert!(
        refused["reason"].as_str().unwrap().contains("--reconcile"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_without_recording_is_not_mapped_again_from_an_older_text() {
    let setup = Setup::tiny(916).await;
    let id = new_issue(&setup, "the old text");
    let arguments = puppet(&setup, "rules", &json!([{"has": "", "do": {"add": "!"}}]));
    setup.run(&words(&arguments)).await.expect(0);
    setup.gitlab.advance_clock(600);
    let (project, iid) = id.rsplit_once(':').unwrap().1.split_once('/').unwrap();
    let (project, iid) = (project.parse().unwrap(), iid.parse().unwrap());
    setup
        .gitlab
        .world()
        .edit_issue(project, iid, None, Some("the new text"))
        .unwrap();
    setup.run(&[]).await.expect(0);
    assert!(text_of(&setup, &id).contains("the new text"));
    let mut remap = words(&arguments);
    remap.push("--remap");
    let ran = setup.run(&remap).await.expect(0);
    assert!(ran.stdout.contains("--reconcile"), "{}", ran.stdout);
    assert!(text_of(&setup, &id).contains("the new text"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mapper_refuses_is_a_dead_letter_with_its_words_until_it_takes_it() {
    let setup = Setup::tiny(904).await;
    let id = new_issue(&setup, "REFUSE-THIS");
    let refusing = puppet(
        &setup,
        "refusing",
        &json!([{"has": "REFUSE-THIS", "do": {"refuse": "no names here"}}]),
    );
    let receipt = setup.run(&words(&refusing)).await.expect(3).receipt();
    assert_eq!(receipt["dead_lettered"], 1);
    let letters = setup
        .runtime(&["dead-letters", "list", "--json"])
        .await
        .expect(0)
        .stdout;
    assert!(
        letters.contains(&id) && letters.contains("no names here") && letters.contains("puppet"),
        "{letters}"
    );
    let taking = puppet(&setup, "taking", &json!([]));
    let mut remap = words(&taking);
    remap.push("--remap");
    setup.run(&remap).await.expect(0);
    assert!(ids(&setup).contains(&id));
    let letters = setup
        .runtime(&["dead-letters", "list", "--json"])
        .await
        .expect(0)
        .stdout;
    assert!(!letters.contains(&id), "{letters}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapper_cannot_take_another_records_place_nor_leave_its_scope_nor_change_the_time() {
    let setup = Setup::tiny(905).await;
    let thief = new_issue(&setup, "STEAL");
    let escaping = new_issue(&setup, "ESCAPE");
    let backdated = new_issue(&setup, "BACKDATE");
    let moved = new_issue(&setup, "MOVE");
    let arguments = puppet(
        &setup,
        "rules",
        &json!([
            {"has": "STEAL", "do": {"steal": moved}},
            {"has": "ESCAPE", "do": {"move": "../org:other"}},
            {"has": "BACKDATE", "do": "backdate"},
            {"has": "MOVE", "do": {"move": "team:security"}},
        ]),
    );
    let receipt = setup.run(&words(&arguments)).await.expect(3).receipt();
    assert_eq!(receipt["dead_lettered"], 3, "{receipt}");
    let stored = setup.stored();
    for id in [&thief, &escaping, &backdated] {
        assert!(!stored.contains_key(id), "{id}");
    }
    let scope = stored[&moved][0]["scope"].as_str().unwrap();
    assert!(scope.ends_with("/team:security"), "{scope}");
    assert!(text_of(&setup, &moved).contains("MOVE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapper_that_panics_ends_the_run_at_a_named_record_or_loses_that_record_only() {
    for action in [json!({"panic": "out of ideas"}), json!("loop")] {
        let setup = Setup::tiny(906).await;
        let id = new_issue(&setup, "TRAP-HERE");
        let mut arguments = puppet(
            &setup,
            "rules",
            &json!([{"has": "TRAP-HERE", "do": action}]),
        );
        arguments.extend(["--limit", "cpu_between_waits=300ms"].map(str::to_owned));
        let failed = setup.run(&words(&arguments)).await.expect(1).receipt();
        let reason = failed["reason"].as_str().unwrap();
        assert!(
            reason.contains(&id) && reason.contains("puppet"),
            "{reason}"
        );

        arguments.extend(["--mapper-trap", "skip"].map(str::to_owned));
        let receipt = setup.run(&words(&arguments)).await.expect(3).receipt();
        assert_eq!(receipt["dead_lettered"], 1, "{receipt}");
        let mut expected = ids(&setup);
        expected.insert(id);
        let selection = setup.membership();
        let wanted: BTreeSet<String> = setup
            .gitlab
            .world()
            .expected(&selection)
            .into_iter()
            .map(|record| record.source_id)
            .collect();
        assert_eq!(expected, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapper_that_remembers_is_refused_before_anything_is_written() {
    let setup = Setup::tiny(907).await;
    let arguments = puppet(&setup, "rules", &json!([{"has": "", "do": "count"}]));
    let failed = setup.run(&words(&arguments)).await.expect(1).receipt();
    assert!(
        failed["reason"].as_str().unwrap().contains("not pure"),
        "{failed}"
    );
    assert!(ids(&setup).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_a_dropped_comment_follows_what_came_before_it() {
    let setup = Setup::tiny(908).await;
    let id = new_issue(&setup, "A question");
    let (project, iid) = id.rsplit_once(':').unwrap().1.split_once('/').unwrap();
    let target = Target::issue(project.parse().unwrap(), iid.parse().unwrap());
    let place = json!({"project": target.project, "iid": target.iid, "on": "issue"});
    let say = |name: &str, note: Option<u64>, text: &str| {
        let mut arguments = place.clone();
        arguments["text"] = json!(text);
        arguments["note"] = json!(note.unwrap_or_default());
        let id = setup.gitlab.world().command(name, &arguments).unwrap().id;
        id.parse::<u64>().unwrap()
    };
    let first = say("start_thread", None, "first");
    say("reply", Some(first), "BOT says hello");
    let last = say("reply", Some(first), "last");
    let arguments = puppet(&setup, "rules", &json!([{"has": "BOT", "do": "drop"}]));
    setup.run(&words(&arguments)).await.expect(0);
    let event = |note: u64| {
        let events = setup
            .cortex
            .cortex()
            .live_by_source_id(&format!("gl:note:{project}/{note}"));
        events.into_iter().next().unwrap()
    };
    let before = json!([event(first).event_id]);
    assert_eq!(event(last).envelope()["context"]["preceded_by"], before);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_a_comment_that_is_taken_up_again_follows_it() {
    let setup = Setup::tiny(915).await;
    let id = new_issue(&setup, "A question");
    let (project, iid) = id.rsplit_once(':').unwrap().1.split_once('/').unwrap();
    let target = Target::issue(project.parse().unwrap(), iid.parse().unwrap());
    let number = |id: String| id.parse::<u64>().unwrap();
    let (first, bot) = {
        let mut world = setup.gitlab.world();
        let first = number(world.start_thread(target, "first").unwrap().id);
        let bot = world.reply(target, first, "BOT says hello").unwrap().id;
        (first, number(bot))
    };
    let arguments = puppet(&setup, "rules", &json!([{"has": "BOT", "do": "drop"}]));
    setup.run(&words(&arguments)).await.expect(0);
    setup.gitlab.advance_clock(600);
    let last = {
        let mut world = setup.gitlab.world();
        world.edit_note(target, bot, "Ada says hello").unwrap();
        number(world.reply(target, first, "last").unwrap().id)
    };
    setup.run(&words(&arguments)).await.expect(0);
    let event = |note: u64| {
        let events = setup
            .cortex
            .cortex()
            .live_by_source_id(&format!("gl:note:{project}/{note}"));
        events.into_iter().next().unwrap()
    };
    let before = json!([event(bot).event_id]);
    assert_eq!(event(last).envelope()["context"]["preceded_by"], before);
}

#[tokio::test(flavor = "multi_thread")]
async fn mappers_map_in_the_order_in_which_they_are_named_each_with_its_settings() {
    let setup = Setup::tiny(909).await;
    let id = new_issue(&setup, "START");
    let mut arguments = puppet(
        &setup,
        "one",
        &json!([{"has": "START", "do": {"add": " one"}}]),
    );
    arguments.extend(puppet(
        &setup,
        "two",
        &json!([{"has": " one", "do": {"add": " two"}}]),
    ));
    setup.run(&words(&arguments)).await.expect(0);
    assert!(text_of(&setup, &id).ends_with(" one two"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mapper_split_is_forgotten_with_its_record() {
    let setup = Setup::tiny(910).await;
    let id = new_issue(&setup, "SPLIT-THIS");
    let arguments = puppet(
        &setup,
        "rules",
        &json!([{"has": "SPLIT-THIS", "do": {"split_into": ["a", "b"]}}]),
    );
    setup.run(&words(&arguments)).await.expect(0);
    let (project, iid) = id.rsplit_once(':').unwrap().1.split_once('/').unwrap();
    let issue =
        json!({"project": project.parse::<u64>().unwrap(), "iid": iid.parse::<u64>().unwrap()});
    setup
        .gitlab
        .world()
        .command("delete_issue", &issue)
        .unwrap();
    // Also where the ledger was lost meanwhile.
    for name in ["connectors.db", "connectors.db-wal", "connectors.db-shm"] {
        let _ = std::fs::remove_file(setup.cortexdb_folder().join(name));
    }
    let mut reconcile = words(&arguments);
    reconcile.push("--reconcile");
    let receipt = setup.run(&reconcile).await.expect(0).receipt();
    assert!(
        !ids(&setup).iter().any(|held| held.starts_with(&id)),
        "{receipt}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_that_a_mapper_takes_out_of_its_thread_is_forgotten_with_its_issue() {
    let setup = Setup::tiny(914).await;
    let id = new_issue(&setup, "A question");
    let (project, iid) = id.rsplit_once(':').unwrap().1.split_once('/').unwrap();
    let (project, iid) = (project.parse().unwrap(), iid.parse().unwrap());
    let note = {
        let mut world = setup.gitlab.world();
        let note = world.add_note(Target::issue(project, iid), "LOSE-THREAD");
        format!("gl:note:{project}/{}", note.unwrap().id)
    };
    let arguments = puppet(
        &setup,
        "rules",
        &json!([{"has": "LOSE-THREAD", "do": "lose_thread"}]),
    );
    setup.run(&words(&arguments)).await.expect(0);
    assert!(ids(&setup).contains(&note));
    setup.gitlab.advance_clock(600);
    setup
        .gitlab
        .world()
        .set_confidential(project, iid, true)
        .unwrap();
    let receipt = setup.run(&words(&arguments)).await.expect(0).receipt();
    let held = ids(&setup);
    assert!(!held.contains(&id) && !held.contains(&note), "{receipt}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_settings_and_wrong_files_are_named_before_anything_is_read() {
    let setup = Setup::tiny(911).await;
    let mut arguments = puppet(&setup, "rules", &json!("none"));
    let refused = setup.run(&words(&arguments)).await.expect(2);
    assert!(
        refused.stderr.contains("/rules") && refused.stderr.contains("puppet"),
        "{}",
        refused.stderr
    );
    arguments[1] = dist("gitlab.wasm").to_str().unwrap().to_owned();
    let refused = setup.run(&words(&arguments)).await.expect(2);
    assert!(
        refused.stderr.contains("--mapper wants a mapper"),
        "{}",
        refused.stderr
    );
    let orphan = setup.run(&["--mapper-config", "x.json"]).await.expect(2);
    assert!(
        orphan.stderr.contains("no mapper before it"),
        "{}",
        orphan.stderr
    );
    assert_eq!(setup.gitlab.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_shows_what_a_mapper_makes_of_what_was_recorded() {
    let setup = Setup::tiny(912).await;
    let changed = new_issue(&setup, "ADD-TO-THIS");
    let arguments = puppet(
        &setup,
        "rules",
        &json!([{"has": "ADD-TO-THIS", "do": {"add": "!"}}]),
    );
    setup.run(&words(&arguments)).await.expect(0);
    let mapper = dist("puppet-mapper.wasm");
    let mapper = mapper.to_str().unwrap();
    let config = arguments[3].as_str();
    let shown = setup
        .runtime(&["mapper", "test", mapper, "--recorded", "--config", config])
        .await
        .expect(0);
    assert!(
        shown.stdout.contains(&format!("{changed} changed")),
        "{}",
        shown.stdout
    );
    assert!(
        shown.stdout.contains("+ ") && shown.stdout.contains("records/s"),
        "{}",
        shown.stdout
    );
    let lines = setup
        .runtime(&["mapper", "test", mapper, "--recorded", "--json"])
        .await
        .expect(0);
    let unchanged = lines
        .events()
        .into_iter()
        .filter(|line| line["result"] == "unchanged");
    assert!(unchanged.count() > 10);
    let checked = setup.runtime(&["mapper", "check", mapper]).await.expect(0);
    assert!(
        checked.stdout.contains("puppet 1.0.0"),
        "{}",
        checked.stdout
    );
    let connector = dist("gitlab.wasm");
    setup
        .runtime(&["mapper", "check", connector.to_str().unwrap()])
        .await
        .expect(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_without_anything_recorded_uses_experiences_of_its_own() {
    let setup = Setup::tiny(913).await;
    let mapper = dist("puppet-mapper.wasm");
    let mapper = mapper.to_str().unwrap();
    let config = setup.home.path().join("rules.json");
    let rules = json!({"rules": [{"has": "Why not", "do": {"refuse": "because"}}, {"has": "Pipeline", "do": "drop"}]});
    std::fs::write(&config, rules.to_string()).unwrap();
    let config = config.to_str().unwrap();
    let shown = setup
        .runtime(&["mapper", "test", mapper, "--config", config])
        .await
        .expect(3);
    assert!(
        shown
            .stdout
            .contains("refused: the mapper puppet refuses it: because"),
        "{}",
        shown.stdout
    );
    assert!(
        shown.stdout.contains("gl:pipeline:42/900 dropped"),
        "{}",
        shown.stdout
    );
    let input = setup.home.path().join("bad.jsonl");
    std::fs::write(&input, "{\"source_id\": 1}").unwrap();
    let input = input.to_str().unwrap();
    let refused = setup
        .runtime(&["mapper", "test", mapper, "--input", input])
        .await
        .expect(2);
    assert!(refused.stderr.contains("line 1"), "{}", refused.stderr);
}
