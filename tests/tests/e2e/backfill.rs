//! The first run, and the runs after it.

use simulators::cortex;
use simulators::gitlab::{self, Fault, Rule, Selection, Size, TOKEN, World};

use crate::setup::{KEY, Setup};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_run_stores_every_visible_record_once_and_whole() {
    let mut setup = Setup::tiny(1).await;
    setup.compiles_itself();
    let receipt = setup.run(&[]).await.expect(0).receipt();
    setup.assert_complete(&setup.membership());
    assert_eq!(
        receipt["written"].as_u64().unwrap() as usize,
        setup.cortex.cortex().live_events().len()
    );
    assert_eq!(receipt["outcome"], "complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_writes_nothing() {
    let setup = Setup::tiny(2).await;
    setup.run(&[]).await.expect(0);
    let writes_before = setup.cortex.stats().events;
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 0);
    assert_eq!(setup.cortex.stats().events, writes_before);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_with_ties_unborn_times_and_hundreds_of_records_is_complete_at_the_first_run() {
    for seed in [11, 12] {
        let world = World::generate(seed, &Size::items(1500));
        let setup = Setup::with(
            world,
            gitlab::Options::default(),
            cortex::Options::full(KEY),
        )
        .await;
        setup.run(&[]).await.expect(0);
        setup.assert_complete(&setup.membership());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_read_with_its_subgroups_by_id_or_by_path() {
    for by_path in [false, true] {
        let mut setup = Setup::tiny(3).await;
        let (group, path) = {
            let world = setup.gitlab.world();
            let group = world.top_groups()[0];
            (group, world.group_path(group))
        };
        setup.set(
            "GITLAB_GROUP_IDS",
            &if by_path { path } else { group.to_string() },
        );
        setup.run(&[]).await.expect(0);
        setup.assert_complete(&Selection::groups(&[group], TOKEN));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_read_by_id_and_by_path_and_only_once() {
    let mut setup = Setup::tiny(4).await;
    let (project, path) = {
        let world = setup.gitlab.world();
        let (id, project) = world.projects.iter().next().unwrap();
        (*id, world.project_path(project))
    };
    setup.set("GITLAB_PROJECT_IDS", &format!("{project},{path}"));
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&Selection::projects(&[project], TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn confidential_records_stay_out_unless_asked_for_and_are_labelled_then() {
    let mut setup = Setup::tiny(5).await;
    let receipt = setup.run(&[]).await.expect(0).receipt();
    setup.assert_complete(&setup.membership());
    assert!(
        receipt["skipped"]["confidential-issue"]
            .as_u64()
            .unwrap_or(0)
            > 0,
        "{receipt}"
    );
    setup.set("GITLAB_INCLUDE_CONFIDENTIAL", "true");
    setup.run(&[]).await.expect(0);
    let mut selection = setup.membership();
    selection.include_confidential = true;
    setup.assert_complete(&selection);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_name_another_host_are_followed_on_the_configured_one() {
    let options = gitlab::Options {
        link_origin: Some("http://gitlab.internal.invalid".into()),
        root: "/gitlab".into(),
        ..gitlab::Options::default()
    };
    let setup = Setup::with(
        World::generate(6, &Size::items(600)),
        options,
        cortex::Options::full(KEY),
    )
    .await;
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

/// The bytes that GitLab sent for a first reading of 600 records, which was complete.
async fn bytes_of_a_first_reading(gzip: bool, faults: Vec<Rule>) -> usize {
    let count = faults.len();
    let options = gitlab::Options {
        gzip,
        faults,
        ..gitlab::Options::default()
    };
    let world = World::generate(7, &Size::items(600));
    let setup = Setup::with(world, options, cortex::Options::full(KEY)).await;
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
    assert!(count == 0 || setup.gitlab.faults_struck() > 0);
    let requests = setup.gitlab.requests();
    requests.iter().map(|request| request.bytes).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_answers_are_asked_for_and_read_like_plain_ones() {
    let plain = bytes_of_a_first_reading(false, vec![]).await;
    let compressed = bytes_of_a_first_reading(true, vec![]).await;
    assert!(compressed * 3 < plain, "{compressed} bytes of {plain}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_compressed_answer_costs_a_retry_and_nothing_else() {
    for fault in [
        Fault::Truncated { keep: 300 },
        Fault::BrokenJson,
        Fault::Reset,
        Fault::Drip { bytes: 50, ms: 1 },
    ] {
        let rule = Rule::new("per_page", fault).after(1).every(3).times(5);
        bytes_of_a_first_reading(true, vec![rule]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oauth_token_is_sent_where_gitlab_takes_it() {
    let mut setup = Setup::tiny(7).await;
    setup.set("GITLAB_TOKEN", gitlab::OAUTH_TOKEN);
    setup.run(&[]).await.expect(0);
    assert!(!setup.stored().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_free_tier_token_can_be_used_and_is_never_asked_for_more_than_it_may() {
    let setup = Setup::with(
        World::generate(8, &Size::tiny()),
        gitlab::Options::default(),
        cortex::Options::free_tier(KEY, "user:local"),
    )
    .await;
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_over_a_mebibyte_are_stored_in_fragments_without_losing_a_byte() {
    let setup = Setup::tiny(9).await;
    let text = "Gro\u{df}e Texte \u{6f22}\u{5b57}\n".repeat(120_000);
    let (project, iid) = {
        let mut world = setup.gitlab.world();
        let project = *world
            .projects
            .iter()
            .find(|(_, project)| !project.merge_requests.is_empty())
            .unwrap()
            .0;
        let iid = *world.projects[&project]
            .merge_requests
            .keys()
            .next()
            .unwrap();
        world
            .edit_merge_request(project, iid, Some("Large"), Some(&text))
            .unwrap();
        (project, iid)
    };
    setup.run(&[]).await.expect(0);
    let stored = setup
        .text_of(&format!("gl:merge_request:{project}/{iid}"))
        .unwrap();
    assert_eq!(stored, format!("Large\n\n{text}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn four_hundred_days_of_history_are_read_at_the_first_run() {
    let setup = Setup::tiny(13).await;
    let selection = setup.membership();
    let days = {
        let world = setup.gitlab.world();
        let now = world.now();
        let born = world.expected(&selection).into_iter();
        let oldest = born.map(|record| record.created_at).min().unwrap();
        (now.0 - oldest.0) / gitlab::DAY
    };
    assert!(days >= 380, "the world is only {days} days old");
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&selection);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_records_changed_in_the_same_millisecond_are_followed() {
    let size = Size {
        projects: 1,
        merge_requests: 2_500,
        issues: 1,
        discussions: 0,
        commits: 3,
        pipelines: 1,
        releases: 1,
        huge_texts: 0,
        oddities: false,
    };
    let setup = Setup::with(
        World::generate(14, &size),
        gitlab::Options::default(),
        cortex::Options::full(KEY),
    )
    .await;
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
    setup.gitlab.advance_clock(3600);
    let project = *setup.gitlab.world().projects.keys().next().unwrap();
    let edited = setup.gitlab.world().bulk_edit(project, 2_500, "bulk");
    edited.unwrap();
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 2_500, "{receipt}");
    setup.assert_complete(&setup.membership());
    let again = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(again["written"], 0, "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_edited_while_it_is_read_ends_with_its_last_text() {
    let setup = Setup::tiny(15).await;
    for (nth, path) in [
        (1, "/discussions"),
        (3, "/merge_requests?"),
        (2, "/issues?"),
    ] {
        setup.gitlab.on_request(path, nth, |world| {
            for id in world.projects.keys().copied().collect::<Vec<_>>() {
                let iids: Vec<u64> = world.projects[&id].merge_requests.keys().copied().collect();
                for iid in iids {
                    let text = "Edited while it was read";
                    let _ = world.edit_merge_request(id, iid, Some(text), Some(text));
                }
            }
        });
    }
    setup.run(&[]).await.expect(0);
    setup.assert_nothing_is_missing(&setup.membership());
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}
