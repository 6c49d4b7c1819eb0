//! What changes in GitLab changes in CortexDB, and nothing else does.

use simulators::gitlab::{MergeState, Target};

use crate::setup::Setup;

/// A project with merge requests and one of them that has comments.
fn commented_merge_request(setup: &Setup) -> (u64, u64, u64) {
    let world = setup.gitlab.world();
    for (id, project) in &world.projects {
        for iid in project.merge_requests.keys() {
            let target = Target::merge_request(*id, *iid);
            let visible = world
                .threads(target)
                .into_iter()
                .flat_map(|threads| &threads.discussions)
                .flat_map(|discussion| &discussion.notes)
                .find(|note| !note.system && !note.internal);
            if let Some(note) = visible {
                return (*id, *iid, note.id);
            }
        }
    }
    panic!("the world has no commented merge request");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_merge_request_is_one_new_version_and_the_old_one_is_forgotten() {
    let setup = Setup::tiny(21).await;
    setup.run(&[]).await.expect(0);
    let (project, iid, _) = commented_merge_request(&setup);
    setup
        .gitlab
        .world()
        .edit_merge_request(project, iid, Some("A new title"), None)
        .unwrap();
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 1, "{receipt}");
    assert_eq!(receipt["superseded"], 1, "{receipt}");
    assert!(
        setup
            .text_of(&format!("gl:merge_request:{project}/{iid}"))
            .unwrap()
            .starts_with("A new title\n")
    );
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn edit_and_revert_within_a_day_ends_with_the_first_text_live() {
    let setup = Setup::tiny(22).await;
    setup
        .cortex
        .cortex()
        .reconfigure(|options| options.forget_releases_keys = false);
    setup.run(&[]).await.expect(0);
    let (project, iid, _) = commented_merge_request(&setup);
    let id = format!("gl:merge_request:{project}/{iid}");
    let first = setup.text_of(&id).unwrap();
    let title = first.lines().next().unwrap().to_owned();
    for title in ["Something else", &title] {
        setup
            .gitlab
            .world()
            .edit_merge_request(project, iid, Some(title), None)
            .unwrap();
        setup.run(&[]).await.expect(0);
    }
    assert_eq!(setup.text_of(&id), Some(first));
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_time_without_a_change_writes_nothing() {
    let setup = Setup::tiny(23).await;
    setup.run(&[]).await.expect(0);
    let (project, iid, _) = commented_merge_request(&setup);
    setup
        .gitlab
        .world()
        .bump(Target::merge_request(project, iid))
        .unwrap();
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 0, "{receipt}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_touch_of_a_fresh_record_writes_nothing() {
    let setup = Setup::tiny(34).await;
    let (project, _, _) = commented_merge_request(&setup);
    let arguments = serde_json::json!({"project": project, "title": "Fresh"});
    let made = setup
        .gitlab
        .world()
        .command("new_merge_request", &arguments);
    let iid = made.unwrap().id.parse().unwrap();
    setup.run(&[]).await.expect(0);
    setup.gitlab.advance_clock(120);
    setup
        .gitlab
        .world()
        .bump(Target::merge_request(project, iid))
        .unwrap();
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 0, "{receipt}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_writes_itself_and_not_its_merge_request_again() {
    let setup = Setup::tiny(24).await;
    setup.run(&[]).await.expect(0);
    setup.gitlab.advance_clock(3600);
    let (project, iid, note) = commented_merge_request(&setup);
    setup
        .gitlab
        .world()
        .reply(
            Target::merge_request(project, iid),
            note,
            "And another thing",
        )
        .unwrap();
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 1, "{receipt}");
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_that_does_not_move_its_merge_request_is_found_all_the_same() {
    let setup = Setup::tiny(25).await;
    setup.gitlab.advance_clock(3600);
    let (project, iid, note) = commented_merge_request(&setup);
    // The first comment moves the merge request; the poll sees it; the second comes within GitLab's minute and moves nothing.
    setup
        .gitlab
        .world()
        .reply(Target::merge_request(project, iid), note, "First")
        .unwrap();
    setup.run(&[]).await.expect(0);
    setup.gitlab.advance_clock(20);
    setup
        .gitlab
        .world()
        .reply(Target::merge_request(project, iid), note, "Second, unseen")
        .unwrap();
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_comment_is_replaced_and_its_followers_stay() {
    let setup = Setup::tiny(26).await;
    setup.run(&[]).await.expect(0);
    setup.gitlab.advance_clock(3600);
    let (project, iid, note) = commented_merge_request(&setup);
    setup
        .gitlab
        .world()
        .edit_note(Target::merge_request(project, iid), note, "Edited")
        .unwrap();
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(
        (&receipt["written"], &receipt["superseded"]),
        (&1.into(), &1.into()),
        "{receipt}"
    );
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_is_a_new_version_because_the_state_is_remembered() {
    let setup = Setup::tiny(27).await;
    setup.run(&[]).await.expect(0);
    let (project, iid) = {
        let world = setup.gitlab.world();
        world
            .projects
            .iter()
            .flat_map(|(id, project)| {
                project
                    .merge_requests
                    .iter()
                    .map(move |(iid, merge_request)| (*id, *iid, merge_request.state))
            })
            .find(|(_, _, state)| *state == MergeState::Opened)
            .map(|(id, iid, _)| (id, iid))
            .unwrap()
    };
    setup
        .gitlab
        .world()
        .set_merge_request_state(project, iid, MergeState::Merged)
        .unwrap();
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_with_old_dates_pushed_now_are_found() {
    let setup = Setup::tiny(28).await;
    setup.run(&[]).await.expect(0);
    let (project, branch) = {
        let world = setup.gitlab.world();
        let (id, project) = world
            .projects
            .iter()
            .find(|(_, project)| project.pipelines.len() > 1)
            .unwrap();
        (*id, project.repository.default_branch.clone())
    };
    setup
        .gitlab
        .world()
        .push_commits(project, &branch, 3, 200 * 86_400)
        .unwrap();
    setup
        .gitlab
        .world()
        .push_merge(project, "Merge something very old", 300 * 86_400)
        .unwrap();
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_pipeline_that_passes_later_is_history_not_a_replacement() {
    let setup = Setup::tiny(29).await;
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
        .set_pipeline_status(project, id, "running")
        .unwrap();
    setup.run(&[]).await.expect(0);
    setup
        .gitlab
        .world()
        .set_pipeline_status(project, id, "success")
        .unwrap();
    setup.run(&[]).await.expect(0);
    let versions = setup
        .stored()
        .remove(&format!("gl:pipeline:{project}/{id}"))
        .unwrap();
    let texts: Vec<&str> = versions
        .iter()
        .map(|version| version["content"]["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(
        texts[0].contains("failed") && texts[1].contains("success"),
        "{texts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_with_a_date_in_the_future_does_not_blind_the_next_run() {
    let setup = Setup::tiny(30).await;
    let project = *setup
        .gitlab
        .world()
        .projects
        .iter()
        .find(|(_, project)| !project.releases.is_empty())
        .unwrap()
        .0;
    setup
        .gitlab
        .world()
        .new_release(project, "v2031", "From the future", 5 * 365 * 86_400)
        .unwrap();
    setup.run(&[]).await.expect(0);
    setup.gitlab.advance_clock(60);
    setup
        .gitlab
        .world()
        .new_release(project, "v-now", "Published today", 0)
        .unwrap();
    setup
        .gitlab
        .world()
        .edit_release(project, "v2031", "From the future, edited")
        .unwrap();
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_project_keeps_its_scope() {
    let setup = Setup::tiny(31).await;
    setup.run(&[]).await.expect(0);
    let (project, iid, _) = commented_merge_request(&setup);
    let id = format!("gl:merge_request:{project}/{iid}");
    let before = setup.stored()[&id][0]["scope"].clone();
    setup
        .gitlab
        .world()
        .rename_project(project, "renamed")
        .unwrap();
    setup
        .gitlab
        .world()
        .edit_merge_request(project, iid, Some("After the rename"), None)
        .unwrap();
    setup.run(&[]).await.expect(0);
    assert_eq!(setup.stored()[&id][0]["scope"], before);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_that_becomes_confidential_is_forgotten_with_its_comments() {
    let setup = Setup::tiny(32).await;
    setup.run(&[]).await.expect(0);
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
    assert!(receipt["retracted"].as_u64().unwrap() > 0, "{receipt}");
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_random_changes_are_followed_poll_after_poll() {
    let setup = Setup::tiny(33).await;
    setup.run(&[]).await.expect(0);
    for round in 0..5_u64 {
        setup.gitlab.advance_clock(90);
        // Deletions are seen by the reconcile pass alone, which is not part of a poll.
        let names = [
            "new_merge_request",
            "new_issue",
            "add_note",
            "edit_merge_request",
            "edit_issue",
            "push_commits",
        ];
        for (index, name) in names.into_iter().enumerate() {
            let project = *setup.gitlab.world().projects.keys().nth(index % 2).unwrap();
            let arguments = serde_json::json!({"project": project, "iid": 1, "text": format!("round {round}"), "title": format!("Round {round}")});
            let _ = setup.gitlab.world().command(name, &arguments);
        }
        setup.run(&[]).await.expect(0);
        setup.assert_complete(&setup.membership());
    }
}
