//! What is sent to whom, and how it looks on the wire.

use super::*;

#[tokio::test]
async fn a_comment_arrives_with_the_headers_and_the_body_of_gitlab() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.project_hook(json!({})).await;
    let target = stage.target();
    let got = stage
        .after(|world| world.start_thread(target, "What about ![x](/uploads/1/x.png)?"))
        .await;
    assert_eq!(got.len(), 1);
    let request = &got[0];
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("POST", "/hook")
    );
    for (name, value) in [
        ("content-type", "application/json"),
        ("user-agent", "GitLab/18.9.0-ee"),
        ("x-gitlab-event", "Note Hook"),
        ("x-gitlab-instance", "https://gitlab.example.com"),
        ("x-gitlab-token", "s3cret"),
    ] {
        assert_eq!(request.header(name), Some(value));
    }
    for name in [
        "x-gitlab-webhook-uuid",
        "x-gitlab-event-uuid",
        "idempotency-key",
    ] {
        assert_eq!(request.header(name).map(str::len), Some(36), "{name}");
    }
    assert_eq!(request.header("webhook-id"), None);
    let body = content(request);
    assert_eq!(body["object_kind"], "note");
    assert_eq!(body["event_type"], "note");
    assert_eq!(body["user"]["email"], "[REDACTED]");
    assert_eq!(body["project_id"], stage.project);
    let note = &body["object_attributes"];
    assert_eq!(note["action"], "create");
    assert_eq!(note["noteable_type"], "MergeRequest");
    assert_eq!(note["created_at"], "2026-02-13 12:00:00 UTC");
    assert_eq!(body["merge_request"]["iid"], target.iid);
    assert_eq!(note["noteable_id"], body["merge_request"]["id"]);
    assert_eq!(note["note"], "What about ![x](/uploads/1/x.png)?");
    assert!(
        note["description"]
            .as_str()
            .is_some_and(|text| text.contains("](https://gitlab.example.com/acme/"))
    );
    stage.server.world().knobs.hook_zone_minutes = -420;
    let got = stage.after(|world| world.add_note(target, "later")).await;
    assert_eq!(
        content(&got[0])["object_attributes"]["created_at"],
        "2026-02-13 05:00:00 -0700"
    );
}

#[tokio::test]
async fn only_new_and_edited_comments_are_told_of() {
    let stage = Stage::new("18.9.0-ee").await;
    let target = stage.target();
    let note: u64 = {
        let mut world = stage.server.world();
        world
            .start_thread(target, "one")
            .expect("made")
            .id
            .parse()
            .expect("an id")
    };
    stage.project_hook(json!({})).await;
    let got = stage
        .after(|world| {
            world.resolve_thread(target, note, true).expect("resolved");
            world
                .add_system_note(target, "changed the milestone", true)
                .expect("made");
            world.bump(target).expect("bumped");
        })
        .await;
    assert_eq!(events(&got), [""; 0]);
    let got = stage
        .after(|world| world.edit_note(target, note, "two"))
        .await;
    assert_eq!(content(&got[0])["object_attributes"]["action"], "update");
    let got = stage.after(|world| world.delete_note(target, note)).await;
    assert_eq!(events(&got), [""; 0]);
    let got = stage
        .after(|world| world.delete_merge_request(target.project, target.iid))
        .await;
    assert_eq!(events(&got), [""; 0]);
}

#[tokio::test]
async fn confidential_things_go_to_the_hooks_that_ask_for_them() {
    let stage = Stage::new("18.9.0-ee").await;
    stage
        .project_hook(
            json!({ "confidential_issues_events": false, "confidential_note_events": false }),
        )
        .await;
    let issue = stage.issue();
    let got = stage
        .after(|world| {
            world
                .set_confidential(issue.project, issue.iid, true)
                .expect("changed");
            world
                .add_note(issue, "on a confidential issue")
                .expect("made");
            world
                .new_issue(issue.project, "secret", None, true)
                .expect("made");
        })
        .await;
    assert_eq!(events(&got), [""; 0]);
    stage.project_hook(json!({})).await;
    let got = stage.after(|world| world.add_note(issue, "again")).await;
    assert_eq!(events(&got), ["Confidential Note Hook"]);
    assert_eq!(content(&got[0])["event_type"], "confidential_note");
    let got = stage
        .after(|world| world.edit_issue(issue.project, issue.iid, Some("x"), None))
        .await;
    assert_eq!(events(&got), ["Confidential Issue Hook"]);
    assert_eq!(content(&got[0])["event_type"], "confidential_issue");
    let target = stage.target();
    let got = stage
        .after(|world| world.add_internal_note(target, "between us"))
        .await;
    assert_eq!(events(&got), ["Confidential Note Hook"]);
    assert_eq!(content(&got[0])["object_attributes"]["internal"], true);
    // Public again: both hooks are told.
    let got = stage
        .after(|world| world.set_confidential(issue.project, issue.iid, false))
        .await;
    assert_eq!(events(&got), ["Issue Hook", "Issue Hook"]);
}

#[tokio::test]
async fn an_issue_shows_what_changed_and_a_task_calls_itself_a_work_item() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.project_hook(json!({})).await;
    let issue = stage.issue();
    let got = stage
        .after(|world| world.edit_issue(issue.project, issue.iid, Some("Renamed"), None))
        .await;
    let body = content(&got[0]);
    assert_eq!(
        (&body["object_kind"], &body["object_attributes"]["action"]),
        (&json!("issue"), &json!("update"))
    );
    assert_eq!(body["changes"]["title"]["current"], "Renamed");
    assert_eq!(
        body["object_attributes"]["updated_at"],
        "2026-02-13T12:00:00.000Z"
    );
    let got = stage
        .after(|world| world.set_issue_open(issue.project, issue.iid, false))
        .await;
    let body = content(&got[0]);
    assert_eq!(body["object_attributes"]["action"], "close");
    assert_eq!(
        body["changes"]["state_id"],
        json!({ "previous": 1, "current": 2 })
    );
    let got = stage
        .after(|world| {
            world
                .issue_mut(issue.project, issue.iid)
                .expect("there")
                .issue_type = "task".to_owned();
            world
                .edit_issue(issue.project, issue.iid, None, Some("do it"))
                .expect("edited");
        })
        .await;
    let body = content(&got[0]);
    assert_eq!(got[0].header("x-gitlab-event"), Some("Issue Hook"));
    assert_eq!(body["object_kind"], "work_item");
    assert_eq!(body["object_attributes"]["type"], "Task");
}

#[tokio::test]
async fn a_merge_tells_of_the_request_and_of_the_push() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.project_hook(json!({})).await;
    let project = stage.project;
    let got = stage
        .after(|world| world.new_merge_request(project, "Fresh", None))
        .await;
    let body = content(&got[0]);
    assert_eq!(body["object_attributes"]["action"], "open");
    assert_eq!(
        body["changes"]["title"],
        json!({ "previous": null, "current": "Fresh" })
    );
    let iid = body["object_attributes"]["iid"].as_u64().expect("an iid");
    let got = stage
        .after(|world| world.set_merge_request_state(project, iid, MergeState::Merged))
        .await;
    assert_eq!(events(&got), ["Merge Request Hook", "Push Hook"]);
    let merge = got
        .iter()
        .map(content)
        .find(|body| body["object_kind"] == "merge_request");
    let merge = merge.expect("a merge request");
    assert_eq!(merge["object_attributes"]["action"], "merge");
    assert_eq!(
        merge["object_attributes"]["created_at"],
        "2026-02-13 12:00:00 UTC"
    );
    let got = stage
        .after(|world| {
            world
                .set_merge_request_state(project, iid, MergeState::Opened)
                .expect("reopened");
            world
                .push_commits(project, &format!("topic-{iid}"), 1, 0)
                .expect("pushed");
        })
        .await;
    let old = got
        .iter()
        .map(content)
        .find(|body| body["object_attributes"]["oldrev"].is_string());
    assert_eq!(
        old.expect("an update by push")["object_attributes"]["action"],
        "update"
    );
}

#[tokio::test]
async fn a_push_lists_its_twenty_newest_commits_and_counts_them_all() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.project_hook(json!({})).await;
    let project = stage.project;
    let got = stage
        .after(|world| world.push_commits(project, "main", 25, 0))
        .await;
    let body = content(&got[0]);
    let commits = body["commits"].as_array().expect("a list");
    assert_eq!(
        (commits.len(), &body["total_commits_count"]),
        (20, &json!(25))
    );
    assert_eq!(commits[19]["id"], body["after"]);
    assert_eq!(commits[19]["timestamp"], "2026-02-13T12:59:59+01:00");
    // A new branch: what is not on the default branch.
    let got = stage
        .after(|world| world.push_commits(project, "side", 2, 0))
        .await;
    let body = content(&got[0]);
    assert_eq!(body["before"], "0".repeat(40));
    assert_eq!(body["total_commits_count"], 2);
    let got = stage
        .after(|world| world.push_refs(project, &[], &["refs/heads/side".to_owned()]))
        .await;
    let body = content(&got[0]);
    assert_eq!(
        (&body["after"], &body["checkout_sha"]),
        (&json!("0".repeat(40)), &Value::Null)
    );
}

#[tokio::test]
async fn more_than_three_branches_of_one_push_are_told_of_by_repository_update_only() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.hook("/hooks", json!({})).await;
    stage.project_hook(json!({})).await;
    let project = stage.project;
    let names = |count: usize, kind: &str| -> Vec<String> {
        (0..count)
            .map(|index| format!("refs/{kind}/{count}-{index}"))
            .collect()
    };
    let made = [names(4, "heads"), names(2, "tags")].concat();
    let got = stage
        .after(|world| world.push_refs(project, &made, &[]))
        .await;
    assert_eq!(
        events(&got),
        [
            "System Hook",
            "System Hook",
            "System Hook",
            "Tag Push Hook",
            "Tag Push Hook"
        ]
    );
    let update = got
        .iter()
        .map(content)
        .find(|body| body["event_name"] == "repository_update");
    let update = update.expect("it");
    assert_eq!(update["changes"].as_array().map(Vec::len), Some(6));
    assert_eq!(update.get("object_kind"), None);
    let got = stage
        .after(|world| world.push_refs(project, &names(3, "heads"), &[]))
        .await;
    assert_eq!(
        events(&got)
            .iter()
            .filter(|event| *event == "Push Hook")
            .count(),
        3
    );
}

#[tokio::test]
async fn system_hooks_are_told_of_projects_but_not_of_issues_comments_pipelines_or_releases() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.hook("/hooks", json!({})).await;
    let (project, target) = (stage.project, stage.target());
    let got = stage
        .after(|world| {
            world.new_issue(project, "one", None, false).expect("made");
            world.add_note(target, "two").expect("made");
            world
                .new_pipeline(project, "success", "push")
                .expect("made");
            let group = world.projects[&project].group;
            let old = world.project_path(&world.projects[&project]);
            world.rename_project(project, "renamed").expect("renamed");
            assert!(world.project_by_path(&old).is_none());
            world.set_archived(project, true).expect("archived");
            world.rename_group(group, "renamed-group").expect("renamed");
            world.add_project(group, "fresh").expect("made");
            world.delete_project(project).expect("deleted");
        })
        .await;
    let mut names: Vec<String> = got
        .iter()
        .map(|request| {
            assert_eq!(request.header("x-gitlab-event"), Some("System Hook"));
            content(request)["event_name"]
                .as_str()
                .expect("a name")
                .to_owned()
        })
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "group_rename",
            "project_create",
            "project_destroy",
            "project_rename",
            "project_update"
        ]
    );
    let renamed = got
        .iter()
        .map(content)
        .find(|body| body["event_name"] == "project_rename");
    let renamed = renamed.expect("it");
    assert!(renamed["old_path_with_namespace"].is_string());
    assert_eq!(
        renamed["created_at"].as_str().map(str::len),
        Some("2012-07-21T07:30:54Z".len())
    );
}

#[tokio::test]
async fn a_pipeline_is_told_of_when_its_status_changes_and_has_no_update_time() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.project_hook(json!({})).await;
    let project = stage.project;
    let got = stage
        .after(|world| world.new_pipeline(project, "running", "push"))
        .await;
    assert_eq!(events(&got), ["Pipeline Hook"]);
    let id = content(&got[0])["object_attributes"]["id"]
        .as_u64()
        .expect("an id");
    let got = stage
        .after(|world| world.set_pipeline_status(project, id, "running"))
        .await;
    assert_eq!(events(&got), [""; 0]);
    let got = stage
        .after(|world| world.set_pipeline_status(project, id, "success"))
        .await;
    let pipeline = &content(&got[0])["object_attributes"];
    assert_eq!(pipeline["status"], "success");
    assert_eq!(pipeline["finished_at"], "2026-02-13 12:00:00 UTC");
    for name in ["updated_at", "started_at", "coverage"] {
        assert_eq!(pipeline.get(name), None, "{name}");
    }
    let blocked = stage
        .after(|world| {
            let user = world
                .users
                .values()
                .find(|user| user.state == "blocked")
                .expect("one")
                .id;
            let found = world.projects.get_mut(&project).expect("it");
            found.pipelines.get_mut(&id).expect("it").user = Some(user);
            world
                .set_pipeline_status(project, id, "failed")
                .expect("changed");
        })
        .await;
    assert_eq!(events(&blocked), [""; 0]);
}

#[tokio::test]
async fn a_release_is_flat_and_a_deleted_one_is_still_described() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.project_hook(json!({})).await;
    let project = stage.project;
    let got = stage
        .after(|world| world.new_release(project, "v99", "Notes", 0))
        .await;
    assert_eq!(events(&got), ["Release Hook", "Tag Push Hook"]);
    let release = |got: &[Request]| {
        let found = got
            .iter()
            .map(content)
            .find(|body| body["object_kind"] == "release");
        found.expect("a release")
    };
    let body = release(&got);
    assert_eq!(
        (&body["action"], &body["tag"], &body["description"]),
        (&json!("create"), &json!("v99"), &json!("Notes"))
    );
    assert_eq!(body.get("object_attributes"), None);
    let got = stage
        .after(|world| world.edit_release(project, "v99", "Better"))
        .await;
    assert_eq!(release(&got)["action"], "update");
    let got = stage
        .after(|world| world.delete_release(project, "v99"))
        .await;
    let body = release(&got);
    assert_eq!(
        (&body["action"], &body["description"]),
        (&json!("delete"), &json!("Better"))
    );
}

#[tokio::test]
async fn group_hooks_are_told_of_everything_below_and_both_hooks_call_with_keys_of_their_own() {
    let stage = Stage::new("18.9.0-ee").await;
    let (acme, partners) = {
        let world = stage.server.world();
        let top = world.top_groups();
        (top[0], top[1])
    };
    stage
        .hook(&format!("/groups/{acme}/hooks"), json!({}))
        .await;
    stage
        .hook(&format!("/groups/{partners}/hooks"), json!({}))
        .await;
    stage.project_hook(json!({})).await;
    let target = stage.target();
    let got = stage.after(|world| world.add_note(target, "hello")).await;
    assert_eq!(events(&got), ["Note Hook", "Note Hook"]);
    assert_ne!(
        got[0].header("idempotency-key"),
        got[1].header("idempotency-key")
    );
    let core = stage
        .server
        .world()
        .group_by_path("acme/platform/core")
        .expect("it")
        .id;
    let got = stage.after(|world| world.add_project(core, "fresh")).await;
    assert_eq!(events(&got), ["Project Hook"]);
    assert_eq!(content(&got[0])["event_name"], "project_create");
    // A licence that ran out: the hook stays, and is not called.
    stage.server.world().knobs.premium = false;
    let got = stage.after(|world| world.add_note(target, "hello")).await;
    assert_eq!(got.len(), 1);
}

#[tokio::test]
async fn two_quick_edits_may_both_show_the_second() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.project_hook(json!({})).await;
    let target = stage.target();
    let got = stage
        .after(|world| {
            let edit = |title| (target.project, target.iid, Some(title), None);
            for (project, iid, title, text) in [edit("first"), edit("second")] {
                world
                    .edit_merge_request(project, iid, title, text)
                    .expect("edited");
            }
        })
        .await;
    let titles: Vec<Value> = got
        .iter()
        .map(|request| content(request)["object_attributes"]["title"].clone())
        .collect();
    assert_eq!(titles, ["second", "second"]);
    // And what is gone when the body is built is not told of.
    let got = stage
        .after(|world| {
            world
                .edit_merge_request(target.project, target.iid, Some("third"), None)
                .expect("edited");
            world
                .delete_merge_request(target.project, target.iid)
                .expect("deleted");
        })
        .await;
    assert_eq!(got.len(), 0);
    assert_eq!(stage.server.world().webhook_counts().lost, 1);
}

#[tokio::test]
async fn from_19_on_deliveries_are_signed() {
    let stage = Stage::new("19.0.0-ee").await;
    stage
        .project_hook(json!({ "signing_token": SIGNING }))
        .await;
    let target = stage.target();
    let got = stage.after(|world| world.add_note(target, "hello")).await;
    let header = |name: &str| got[0].header(name).expect("a header");
    assert_eq!(header("webhook-id"), header("idempotency-key"));
    let timestamp: i64 = header("webhook-timestamp").parse().expect("seconds");
    assert!((timestamp - Micros::real_now().unix()).abs() < 60);
    assert!(verify(
        SIGNING,
        header("webhook-id"),
        timestamp,
        &got[0].body,
        header("webhook-signature")
    ));
    assert_eq!(header("x-gitlab-token"), "s3cret");
}

#[tokio::test]
async fn a_branch_filter_holds_for_pushes_only() {
    let stage = Stage::new("18.9.0-ee").await;
    stage
        .project_hook(json!({ "push_events_branch_filter": "release/*" }))
        .await;
    let project = stage.project;
    let got = stage
        .after(|world| world.push_commits(project, "main", 1, 0))
        .await;
    assert_eq!(got.len(), 0);
    let got = stage
        .after(|world| world.push_commits(project, "release/1", 1, 0))
        .await;
    assert_eq!(events(&got), ["Push Hook"]);
    let got = stage
        .after(|world| world.push_refs(project, &["refs/tags/t".to_owned()], &[]))
        .await;
    assert_eq!(events(&got), ["Tag Push Hook"]);
}
