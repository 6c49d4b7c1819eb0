//! What is gone in GitLab is forgotten, by a pass that looks twice; and the comparison that changes nothing.

use serde_json::{Value, json};
use simulators::cortex;
use simulators::gitlab::{
    self, EventType, Expected, Feature, Selection, Size, TOKEN, Target, World,
};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::setup::{KEY, Ran, Setup, dist};

async fn verify(setup: &Setup, arguments: &[&str]) -> Ran {
    let component = dist("gitlab.wasm");
    let mut all = vec!["verify", component.to_str().unwrap()];
    all.extend(arguments);
    setup.runtime(&all).await
}

fn report(ran: &Ran) -> Value {
    serde_json::from_str(ran.stdout.trim()).unwrap()
}

/// Every id under this name, over all kinds.
fn named(report: &Value, what: &str) -> Vec<String> {
    let kinds = report["kinds"].as_array().unwrap();
    let ids = kinds.iter().flat_map(|kind| kind[what].as_array().unwrap());
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// A visible comment: its parent and its id.
fn a_note(setup: &Setup, in_a_thread: bool) -> (Target, u64) {
    let world = setup.gitlab.world();
    for (project, found) in &world.projects {
        let requests = found
            .merge_requests
            .keys()
            .map(|iid| Target::merge_request(*project, *iid));
        let issues = found.issues.values().filter(|issue| !issue.confidential);
        let issues = issues.map(|issue| Target::issue(*project, issue.iid));
        for target in requests.chain(issues) {
            for discussion in &world.threads(target).unwrap().discussions {
                let fits = !in_a_thread
                    || (!discussion.individual
                        && discussion.notes.iter().all(|note| note.resolved.is_none()));
                let note = discussion
                    .notes
                    .iter()
                    .find(|note| !note.system && !note.internal);
                if let Some(note) = note.filter(|_| fits) {
                    return (target, note.id);
                }
            }
        }
    }
    panic!("the world has no such comment");
}

/// A project that the token is a member of and that has a pipeline and a release.
fn a_full_project(setup: &Setup) -> u64 {
    let members = setup.membership().projects;
    let world = setup.gitlab.world();
    let full = world.projects.iter().find(|(id, project)| {
        let terminal = project
            .pipelines
            .values()
            .any(|pipeline| pipeline.is_terminal());
        let issue = project.issues.values().any(|issue| !issue.confidential);
        members.contains(id)
            && terminal
            && issue
            && !project.releases.is_empty()
            && !project.merge_requests.is_empty()
    });
    *full.unwrap().0
}

/// Deletes one record of each kind; answers their source ids.
fn delete_one_of_each_kind(setup: &Setup) -> Vec<String> {
    let project = a_full_project(setup);
    let (target, note) = a_note(setup, false);
    let mut world = setup.gitlab.world();
    world.delete_note(target, note).unwrap();
    let found = &world.projects[&project];
    let avoid = |iid: &u64| *iid != target.iid;
    let request = found.merge_requests.keys().copied().find(avoid).unwrap();
    let issues = found.issues.values().filter(|issue| !issue.confidential);
    let issue = issues.map(|issue| issue.iid).find(avoid).unwrap();
    let finished = |pipeline: &&gitlab::Pipeline| pipeline.is_terminal();
    let pipeline = found.pipelines.values().find(finished).unwrap().id;
    let release = found.releases.keys().next().unwrap().clone();
    world.delete_merge_request(project, request).unwrap();
    world.delete_issue(project, issue).unwrap();
    world.delete_pipeline(project, pipeline).unwrap();
    world.delete_release(project, &release).unwrap();
    vec![
        format!("gl:note:{}/{note}", target.project),
        format!("gl:merge_request:{project}/{request}"),
        format!("gl:issue:{project}/{issue}"),
        format!("gl:pipeline:{project}/{pipeline}"),
        format!("gl:release:{project}/{release}"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_records_of_every_kind_are_forgotten_by_a_reconcile_and_not_before() {
    let setup = Setup::tiny(101).await;
    setup.run(&[]).await.expect(0);
    let gone = delete_one_of_each_kind(&setup);
    setup.run(&[]).await.expect(0);
    let stored = setup.stored();
    assert!(gone.iter().all(|id| stored.contains_key(id)), "{gone:?}");

    let cursors = setup.cursors();
    let receipt = setup.run(&["--reconcile"]).await.expect(0).receipt();
    assert_eq!(receipt["reconciled"], true, "{receipt}");
    assert!(receipt["retracted"].as_u64().unwrap() >= 5, "{receipt}");
    assert_eq!(
        setup.cursors().keys().collect::<Vec<_>>(),
        cursors.keys().collect::<Vec<_>>()
    );
    setup.assert_complete(&setup.membership());

    let receipt = setup.run(&["--reconcile"]).await.expect(0).receipt();
    assert_eq!(
        (&receipt["written"], &receipt["retracted"]),
        (&0.into(), &0.into()),
        "{receipt}"
    );
    let status = setup.runtime(&["status", "--json"]).await.expect(0);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert!(
        status["connections"][0]["last_reconcile"].is_string(),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_in_a_group_of_many_projects_is_forgotten() {
    let world = World::generate(108, &Size::small_projects(24));
    let group = world.top_groups()[0];
    let mut setup = Setup::with(
        world,
        gitlab::Options::default(),
        cortex::Options::full(KEY),
    )
    .await;
    setup.set("GITLAB_GROUP_IDS", &group.to_string());
    let selection = Selection::groups(&[group], TOKEN);
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&selection);
    let records = setup.gitlab.world().expected(&selection);
    let first_of = |kind| {
        records
            .iter()
            .find(|record| record.event_type == kind)
            .unwrap()
    };
    let (request, issue) = (
        first_of(EventType::MergeRequest),
        first_of(EventType::Issue),
    );
    let iid = |record: &Expected| {
        record
            .source_id
            .rsplit('/')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    {
        let mut world = setup.gitlab.world();
        world
            .delete_merge_request(request.project_id, iid(request))
            .unwrap();
        world.delete_issue(issue.project_id, iid(issue)).unwrap();
    }
    // The lists of the group, which such a poll reads, tell of no deletion.
    setup.run(&[]).await.expect(0);
    assert!(setup.stored().contains_key(&request.source_id));
    let receipt = setup.run(&["--reconcile"]).await.expect(0).receipt();
    assert_eq!(receipt["reconciled"], true, "{receipt}");
    setup.assert_complete(&selection);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_be_forgotten_and_forgets_nothing() {
    let setup = Setup::tiny(102).await;
    setup.run(&[]).await.expect(0);
    let gone = delete_one_of_each_kind(&setup);
    let ran = setup.run(&["--reconcile", "--dry-run"]).await.expect(0);
    let stored = setup.stored();
    for id in gone {
        assert!(
            ran.stdout.contains(&format!("would forget {id} ")),
            "{id}\n{}",
            ran.stdout
        );
        assert!(stored.contains_key(&id), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_was_resolved_without_a_trace_is_updated() {
    let setup = Setup::tiny(103).await;
    let (target, note) = a_note(&setup, true);
    // A second open thread, so that resolving the first one leaves no system note that would move the parent.
    setup
        .gitlab
        .world()
        .start_thread(target, "Still open")
        .unwrap();
    setup.run(&[]).await.expect(0);
    setup.gitlab.advance_clock(3600);
    setup.run(&[]).await.expect(0);
    setup
        .gitlab
        .world()
        .resolve_thread(target, note, true)
        .unwrap();
    let id = format!("gl:note:{}/{note}", target.project);
    let resolved = |setup: &Setup| {
        let latest = setup.stored()[&id].last().unwrap().clone();
        latest["context"]["labels"]
            .as_array()
            .unwrap()
            .contains(&json!("resolved=true"))
    };
    setup.run(&[]).await.expect(0);
    assert!(!resolved(&setup), "a poll sees it: the test proves nothing");
    setup.run(&["--reconcile"]).await.expect(0);
    assert!(resolved(&setup));
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reconcile_everything_is_as_in_gitlab_whatever_happened_meanwhile() {
    for seed in 0..4_u64 {
        let mut setup = Setup::tiny(110 + seed).await;
        let file = setup.home.path().join("connection.toml");
        std::fs::write(&file, "[settings]\nforget_unreachable_commits = true\n").unwrap();
        let config = file.to_str().unwrap().to_owned();
        setup.set("GITLAB_EVENTS", "");
        setup.run(&["--config", &config]).await.expect(0);
        for round in 0..3_u64 {
            setup.gitlab.advance_clock(1800);
            let mutations = setup.gitlab.world().mutate_some(1000 * seed + round, 60);
            let project = a_full_project(&setup);
            {
                let mut world = setup.gitlab.world();
                let branch = world.projects[&project].repository.default_branch.clone();
                world.force_push(project, &branch, 2, 1).unwrap();
                let pipeline = *world.projects[&project].pipelines.keys().next().unwrap();
                world.delete_pipeline(project, pipeline).unwrap();
                let release = world.projects[&project]
                    .releases
                    .keys()
                    .next()
                    .unwrap()
                    .clone();
                let text = "A release for the next round";
                world
                    .new_release(project, &format!("r{seed}.{round}"), text, 0)
                    .unwrap();
                world.delete_release(project, &release).unwrap();
                world.new_pipeline(project, "success", "push").unwrap();
            }
            let receipt = setup
                .run(&["--config", &config, "--reconcile"])
                .await
                .expect(0)
                .receipt();
            assert_eq!(receipt["reconciled"], true, "{receipt}\n{mutations:?}");
            setup.assert_complete(&setup.membership());
            let verified = verify(&setup, &["--config", &config]).await.expect(0);
            assert!(verified.stdout.ends_with("equal\n"), "{}", verified.stdout);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_were_force_pushed_away_stay_unless_the_user_says_otherwise() {
    let setup = Setup::tiny(120).await;
    setup.run(&[]).await.expect(0);
    let project = a_full_project(&setup);
    let (branch, head) = {
        let world = setup.gitlab.world();
        let repository = &world.projects[&project].repository;
        (
            repository.default_branch.clone(),
            repository.default_head().unwrap().clone(),
        )
    };
    setup
        .gitlab
        .world()
        .force_push(project, &branch, 1, 1)
        .unwrap();
    setup.run(&["--reconcile"]).await.expect(0);
    let id = format!("gl:commit:{project}/{head}");
    assert!(setup.stored().contains_key(&id));
    verify(&setup, &[]).await.expect(0);
    setup
        .run(&["--reconcile", "--set", "forget_unreachable_commits=true"])
        .await
        .expect(0);
    assert!(!setup.stored().contains_key(&id));
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_vanished_is_reported_and_kept() {
    let setup = Setup::tiny(121).await;
    setup.run(&[]).await.expect(0);
    let before = setup.stored().len();
    let project = a_full_project(&setup);
    setup.gitlab.world().delete_project(project).unwrap();
    let ran = setup.run(&["--reconcile"]).await.expect(0);
    let receipt = ran.receipt();
    assert_eq!(receipt["retracted"], 0, "{receipt}");
    assert_eq!(setup.stored().len(), before);
    let warning = format!("{project}: ");
    let warned = ran.events().into_iter().any(|event| {
        let message = event["message"].as_str().unwrap_or_default();
        message.starts_with(&warning) && message.contains("records are held")
    });
    assert!(warned, "{}", ran.stdout);
    let verified = verify(&setup, &[]).await.expect(0);
    assert!(
        verified
            .stdout
            .contains(&format!("not compared: {project}/")),
        "{}",
        verified.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_becomes_invisible_during_the_pass_loses_nothing() {
    let setup = Setup::tiny(122).await;
    setup.run(&[]).await.expect(0);
    delete_one_of_each_kind(&setup);
    let before = setup.stored().len();
    // Every record that is asked for by itself, and every project, answers 404 as soon as the first list has been read again.
    setup.gitlab.on_request("/releases", 2, |world| {
        let groups: Vec<u64> = world.groups.keys().copied().collect();
        for group in groups {
            world.set_group_role(TOKEN, group, None).unwrap();
        }
        for project in world.projects.values_mut() {
            project.visibility = gitlab::Visibility::Private;
            project.members.clear();
        }
    });
    let ran = setup.run(&["--reconcile"]).await.expect(1);
    let receipt = ran.receipt();
    assert_eq!(
        (&receipt["retracted"], &receipt["reconciled"]),
        (&0.into(), &false.into()),
        "{receipt}"
    );
    assert_eq!(setup.stored().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_revoked_during_the_pass_deletes_nothing() {
    let setup = Setup::tiny(123).await;
    setup.run(&[]).await.expect(0);
    delete_one_of_each_kind(&setup);
    let before = setup.stored().len();
    setup.gitlab.on_request("/pipelines", 3, |world| {
        world.revoke_token(TOKEN).unwrap();
    });
    let receipt = setup.run(&["--reconcile"]).await.expect(1).receipt();
    assert_eq!(receipt["retracted"], 0, "{receipt}");
    assert_eq!(setup.stored().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feature_that_was_switched_off_keeps_what_is_stored() {
    let setup = Setup::tiny(124).await;
    setup.run(&[]).await.expect(0);
    let before = setup.stored().len();
    let project = a_full_project(&setup);
    for feature in [
        Feature::Issues,
        Feature::MergeRequests,
        Feature::Builds,
        Feature::Releases,
    ] {
        setup
            .gitlab
            .world()
            .set_feature(project, feature, false)
            .unwrap();
    }
    let receipt = setup.run(&["--reconcile"]).await.expect(0).receipt();
    assert_eq!(receipt["retracted"], 0, "{receipt}");
    assert!(
        receipt["streams_off"]
            .get(format!("{project}/issues"))
            .is_some(),
        "{receipt}"
    );
    assert_eq!(setup.stored().len(), before);
    verify(&setup, &[]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_what_is_missing_and_what_is_surplus_and_writes_nothing() {
    let setup = Setup::tiny(125).await;
    let never = verify(&setup, &["--json"]).await.expect(1);
    assert!(
        !named(&report(&never), "missing").is_empty(),
        "{}",
        never.stdout
    );
    assert!(!setup.state_file().exists(), "verify wrote a state file");

    setup.run(&[]).await.expect(0);
    let equal = verify(&setup, &["--json"]).await.expect(0);
    assert_eq!(report(&equal)["equal"], true);
    let files = || std::fs::read(setup.state_file()).unwrap();
    let (before, cursors) = (setup.stored(), files());

    let gone = delete_one_of_each_kind(&setup);
    let project = a_full_project(&setup);
    let new = setup
        .gitlab
        .world()
        .new_issue(project, "New", None, false)
        .unwrap()
        .id;
    setup
        .gitlab
        .world()
        .new_issue(project, "Secret", None, true)
        .unwrap();
    setup
        .gitlab
        .world()
        .new_pipeline(project, "running", "push")
        .unwrap();
    let different = verify(&setup, &["--json"]).await.expect(1);
    let report = report(&different);
    assert_eq!(
        named(&report, "missing"),
        [format!("gl:issue:{project}/{new}")]
    );
    let surplus = named(&report, "surplus");
    assert!(
        gone.iter().all(|id| surplus.contains(id)),
        "{surplus:?}\n{gone:?}"
    );
    let table = verify(&setup, &[]).await.expect(1).stdout;
    assert!(
        table.contains(&format!("missing in CortexDB: gl:issue:{project}/{new}")),
        "{table}"
    );
    assert!(table.contains("DIFFERENT"), "{table}");
    assert_eq!((setup.stored(), files()), (before, cursors));

    setup.run(&["--reconcile"]).await.expect(0);
    verify(&setup, &[]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_cannot_be_asked_without_a_configuration_and_fails_when_gitlab_does() {
    let mut setup = Setup::tiny(126).await;
    setup.run(&[]).await.expect(0);
    setup.set("GITLAB_PROJECT_IDS", "999999");
    verify(&setup, &[]).await.expect(2);
    setup.set("GITLAB_PROJECT_IDS", "");
    setup.gitlab.world().revoke_token(TOKEN).unwrap();
    verify(&setup, &[]).await.expect(1);
    setup.set("GITLAB_TOKEN", "");
    verify(&setup, &[]).await.expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_reconciles_when_it_is_due_and_a_restart_does_not_repeat_it() {
    let setup = Setup::tiny(127).await;
    let passes = async |arguments: &[&str]| {
        let mut child = setup.start(&[&["--watch", "--interval", "1"], arguments].concat());
        // Three cycles, however long they take: the component is compiled first, and the machine may be busy.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut receipts, mut done) = (0, 0);
        while receipts < 3 {
            let line = lines.next_line().await.unwrap().unwrap();
            crate::secrets::assert_none_in(&line);
            let event: Value = serde_json::from_str(&line).unwrap();
            receipts += usize::from(event["event"] == "receipt");
            done += usize::from(event["reconciled"] == true);
        }
        child.kill().await.unwrap();
        done
    };
    assert_eq!(
        passes(&[]).await,
        1,
        "the first run reads everything anyway"
    );
    assert_eq!(passes(&[]).await, 0, "not again within a day");
    assert!(passes(&["--reconcile-every", "1"]).await >= 2);
    delete_one_of_each_kind(&setup);
    assert_eq!(passes(&["--reconcile-every", "0"]).await, 0);
    assert_eq!(passes(&["--reconcile", "--reconcile-every", "0"]).await, 1);
    setup.assert_complete(&setup.membership());
}
