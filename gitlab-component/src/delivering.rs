//! Calls of GitLab's, and what becomes of the records that they point at. Each test is a sentence about a delivery.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::gitlab::tests::any_json;
use crate::host::{Experience, Failure, HttpError, Outcome, Response, RunContext, Verdict};
use crate::testing::{Call, FakeGitLab, TestHost, context, project};

fn all() -> Value {
    json!({"projects": [42]})
}

fn note(id: u64, body: &str) -> Value {
    json!({"id": id, "body": body, "created_at": "2026-11-20T10:00:00.000Z", "author": {"id": 7, "username": "ada"}})
}

/// A merge request and an issue with comments, a finished pipeline, a release and some commits.
fn world() -> FakeGitLab {
    let mut gitlab = FakeGitLab::with_project();
    gitlab.add(
        "merge_requests",
        17,
        "2026-11-20T10:00:00Z",
        json!({"title": "Add retry", "user_notes_count": 2, "labels": [{"name": "bug"}]}),
    );
    gitlab.add(
        "issues",
        3,
        "2026-11-20T11:00:00Z",
        json!({"title": "It fails", "user_notes_count": 1}),
    );
    gitlab.plain.insert(
        "/projects/42/merge_requests/17/discussions".to_owned(),
        vec![json!({"id": "d1", "notes": [note(102, "Why?"), note(104, "Because.")]})],
    );
    gitlab.plain.insert(
        "/projects/42/issues/3/discussions".to_owned(),
        vec![json!({"id": "d2", "notes": [note(105, "Same here")]})],
    );
    add_pipeline(&mut gitlab, 8, "success");
    add_release(
        &mut gitlab,
        json!({"tag_name": "v1.0", "created_at": "2026-11-20T10:00:00Z", "description": "First"}),
    );
    gitlab.commits.insert("/projects/42".to_owned(), history(3));
    gitlab
}

fn add_pipeline(gitlab: &mut FakeGitLab, id: u64, status: &str) {
    let row = json!({"status": status});
    gitlab.add("pipelines", id, "2026-11-20T10:00:00Z", row);
    gitlab.objects.insert(
        format!("/projects/42/pipelines/{}", 1000 + id),
        json!({"id": 1000 + id, "status": status, "duration": 90, "updated_at": "2026-11-20T10:00:00.000Z"}),
    );
}

fn add_release(gitlab: &mut FakeGitLab, release: Value) {
    let tag = release["tag_name"].as_str().expect("a tag").to_owned();
    let path = format!("/projects/42/releases/{tag}");
    gitlab.objects.insert(path, release.clone());
    let list = "/projects/42/releases".to_owned();
    gitlab.plain.entry(list).or_default().push(release);
}

/// Shas of a history of `count` commits, newest first.
fn history(count: usize) -> Vec<String> {
    let numbers = (1..=count).rev();
    numbers.map(|number| format!("{number:040x}")).collect()
}

fn merge_request_call(iid: u64) -> Value {
    json!({"object_kind": "merge_request", "project": {"id": 42},
        "object_attributes": {"id": 1000 + iid, "iid": iid, "target_project_id": 42, "title": "forged", "action": "update"}})
}

fn issue_call(iid: u64) -> Value {
    json!({"object_kind": "issue", "project": {"id": 42}, "object_attributes": {"id": 1000 + iid, "iid": iid, "title": "forged"}})
}

fn note_call(id: u64, kind: &str, parent: &str, iid: u64) -> Value {
    json!({"object_kind": "note", "project_id": 42, "project": {"id": 42},
        "object_attributes": {"id": id, "note": "forged", "noteable_type": kind, "noteable_id": 1000 + iid}, parent: {"iid": iid}})
}

fn pipeline_call(id: u64) -> Value {
    pipeline_call_of(id, "failed")
}

fn pipeline_call_of(id: u64, status: &str) -> Value {
    json!({"object_kind": "pipeline", "project": {"id": 42}, "object_attributes": {"id": id, "status": status}})
}

fn release_call(tag: &str, action: &str) -> Value {
    json!({"object_kind": "release", "project": {"id": 42}, "id": 1, "tag": tag, "action": action})
}

fn push_call(branch: &str) -> Value {
    json!({"object_kind": "push", "event_name": "push", "project_id": 42, "ref": format!("refs/heads/{branch}"),
        "after": "f".repeat(40), "project": {"id": 42}})
}

/// What was written, by stream and source id.
fn by_id(host: &TestHost) -> BTreeMap<(String, String), Experience> {
    let calls = host.calls.borrow();
    let mut written = BTreeMap::new();
    for call in calls.iter() {
        if let Call::Write(stream, batch) = call {
            for experience in batch {
                let key = (stream.clone(), experience.source_id.clone());
                written.insert(key, experience.clone());
            }
        }
    }
    written
}

fn is_ignored(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Ignored(_))
}

fn is_poll(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Poll(_))
}

#[test]
fn a_delivery_writes_what_a_poll_writes() {
    let polled = TestHost::new(world());
    polled.sync(&all()).expect("reads");
    let told = TestHost::new(world());
    // Where commits were read up to before.
    let cursor = json!({"branch": "main", "head": history(3)[2]});
    let commits = "42/commits".to_owned();
    told.state.borrow_mut().insert(commits, cursor.to_string());
    let verdicts = told
        .deliver(
            &all(),
            &[
                merge_request_call(17),
                note_call(105, "Issue", "issue", 3),
                pipeline_call(1008),
                release_call("v1.0", "create"),
                push_call("main"),
            ],
        )
        .expect("reads");
    assert_eq!(verdicts, vec![Verdict::Handled; 5]);
    let mut expected = by_id(&polled);
    let first = format!("gl:commit:42/{}", history(3)[2]);
    expected.remove(&("42/commits".to_owned(), first));
    assert_eq!(by_id(&told), expected);
    assert_eq!(told.cursor("42/commits"), polled.cursor("42/commits"));
    for list in ["merge_requests", "issues", "pipelines", "releases"] {
        let stream = format!("42/{list}");
        assert_eq!(told.cursor(&stream), None, "{list}: a hint moves no cursor");
        assert_eq!(
            told.status(&stream),
            None,
            "{list}: it is not read to its end"
        );
    }
}

#[test]
fn equal_targets_of_a_batch_are_read_once_and_lists_are_asked_for_many() {
    let mut gitlab = world();
    for iid in 100..160 {
        gitlab.add(
            "merge_requests",
            iid,
            "2026-11-20T10:00:00Z",
            json!({"title": "Quiet", "user_notes_count": 0}),
        );
    }
    let host = TestHost::new(gitlab);
    let mut batch: Vec<Value> = (100..160).map(merge_request_call).collect();
    batch.extend((0..40).map(|_| merge_request_call(17)));
    batch.extend((0..20).map(|_| pipeline_call(1008)));
    let verdicts = host.deliver(&all(), &batch).expect("reads");
    assert_eq!(verdicts, vec![Verdict::Handled; 120]);
    // The project, the list, the discussions of the one that has some, and the pipeline.
    assert_eq!(host.requests.borrow().len(), 4);
    assert_eq!(host.written_ids().len(), 61 + 2 + 1);
}

#[test]
fn nothing_that_a_delivery_says_is_written() {
    let host = TestHost::new(world());
    let bodies = [
        merge_request_call(17),
        issue_call(3),
        note_call(105, "Issue", "issue", 3),
        pipeline_call(1008),
    ];
    host.deliver(&all(), &bodies).expect("reads");
    for experience in host.written() {
        assert!(
            !format!("{experience:?}").contains("forged"),
            "{experience:?}"
        );
        assert!(!experience.content.contains("failed"), "{experience:?}");
    }
}

#[test]
fn a_comment_is_read_although_its_parent_is_said_to_have_none() {
    let mut gitlab = world();
    gitlab.add(
        "issues",
        4,
        "2026-11-20T12:00:00Z",
        json!({"title": "Quiet", "user_notes_count": 0}),
    );
    let path = "/projects/42/issues/4/discussions";
    gitlab.plain.insert(
        path.to_owned(),
        vec![json!({"id": "d", "notes": [note(300, "First!")]})],
    );
    let host = TestHost::new(gitlab);
    let verdicts = host.deliver(&all(), &[note_call(300, "Issue", "issue", 4)]);
    assert_eq!(verdicts, Ok(vec![Verdict::Handled]));
    assert_eq!(host.written_ids(), ["gl:issue:42/4", "gl:note:42/300"]);
}

#[test]
fn a_comment_that_is_not_there_yet_is_looked_for_again_and_then_left_to_a_poll() {
    let host = TestHost::new(world());
    let verdicts = host
        .deliver(&all(), &[note_call(999, "Issue", "issue", 3)])
        .expect("reads");
    assert!(is_poll(&verdicts[0]), "{verdicts:?}");
    let requests = host.requests.borrow();
    let discussions = requests
        .iter()
        .filter(|request| request.path.ends_with("/discussions"));
    assert_eq!(discussions.count(), 2);
}

#[test]
fn a_comment_that_is_gone_is_forgotten() {
    let host = TestHost::new(world());
    host.sync(&all()).expect("reads");
    host.gitlab
        .borrow_mut()
        .plain
        .insert("/projects/42/issues/3/discussions".to_owned(), Vec::new());
    let verdicts = host.deliver(&all(), &[note_call(105, "Issue", "issue", 3)]);
    assert_eq!(verdicts, Ok(vec![Verdict::Handled]));
    assert_eq!(host.retracted(), ["gl:note:42/105"]);
}

#[test]
fn what_gitlab_does_not_show_yet_is_asked_for_again_after_a_second() {
    let mut call = merge_request_call(17);
    call["object_attributes"]["updated_at"] = "2026-11-20 10:00:05 UTC".into();
    let host = TestHost::new(world()).hook(|gitlab, request| {
        if request.delay_ms > 0 {
            let rows = gitlab.lists.get_mut("/projects/42/merge_requests");
            rows.expect("there")[0].updated += 5_000_000;
        }
    });
    let verdicts = host.deliver(&all(), std::slice::from_ref(&call));
    assert_eq!(verdicts, Ok(vec![Verdict::Handled]));
    assert_eq!(host.written()[0].observed_at, "2026-11-20T10:00:05Z");

    let host = TestHost::new(world());
    let verdicts = host.deliver(&all(), &[call]).expect("reads");
    assert!(is_poll(&verdicts[0]), "{verdicts:?}");
}

#[test]
fn a_record_that_is_gone_is_forgotten_if_the_project_is_still_to_be_seen() {
    for (gone, call) in [
        ("merge_requests", merge_request_call(17)),
        ("issues", issue_call(3)),
        ("pipelines", pipeline_call(1008)),
        ("releases", release_call("v1.0", "delete")),
    ] {
        let host = TestHost::new(world());
        host.sync(&all()).expect("reads");
        {
            let mut gitlab = host.gitlab.borrow_mut();
            let list = format!("/projects/42/{gone}");
            if let Some(rows) = gitlab.lists.get_mut(&list) {
                rows.clear();
            }
            gitlab
                .plain
                .insert("/projects/42/releases".to_owned(), Vec::new());
            gitlab.objects.retain(|path, _| path == "/projects/42");
        }
        let verdicts = host.deliver(&all(), std::slice::from_ref(&call));
        assert_eq!(verdicts, Ok(vec![Verdict::Handled]), "{gone}");
        assert_eq!(host.retracted().len(), 1, "{gone}");

        // The same with a project that is not to be seen.
        let host = TestHost::new(world());
        host.sync(&all()).expect("reads");
        host.gitlab.borrow_mut().objects.clear();
        host.gitlab.borrow_mut().lists.clear();
        let verdicts = host.deliver(&all(), &[call]).expect("reads");
        assert!(is_poll(&verdicts[0]), "{gone}: {verdicts:?}");
        assert!(host.retracted().is_empty(), "{gone}");
    }
}

#[test]
fn a_feature_that_was_switched_off_is_no_deletion() {
    let host = TestHost::new(world());
    host.sync(&all()).expect("reads");
    {
        let mut gitlab = host.gitlab.borrow_mut();
        gitlab
            .lists
            .insert("/projects/42/issues".to_owned(), Vec::new());
        let mut project = project();
        project["issues_enabled"] = false.into();
        gitlab.objects.insert("/projects/42".to_owned(), project);
        let refused = (403, json!({"message": "403 Forbidden"}).to_string());
        let list = "/projects/42/merge_requests".to_owned();
        gitlab.refusals.insert(list, refused);
    }
    let calls = [issue_call(3), merge_request_call(17)];
    let verdicts = host.deliver(&all(), &calls).expect("reads");
    assert!(verdicts.iter().all(is_ignored), "{verdicts:?}");
    assert!(host.retracted().is_empty());
}

#[test]
fn what_became_confidential_is_forgotten() {
    let host = TestHost::new(world());
    host.sync(&all()).expect("reads");
    let mut gitlab = host.gitlab.borrow_mut();
    let rows = gitlab.lists.get_mut("/projects/42/issues").expect("there");
    rows[0].body["confidential"] = true.into();
    drop(gitlab);
    let verdicts = host.deliver(&all(), &[issue_call(3)]);
    assert_eq!(verdicts, Ok(vec![Verdict::Handled]));
    assert_eq!(host.retracted(), ["gl:issue:42/3"]);
    assert!(host.written().is_empty());
}

#[test]
fn a_push_counts_if_it_is_to_the_branch_that_is_read() {
    let host = TestHost::new(world());
    let verdicts = host.deliver(&all(), &[push_call("main")]).expect("reads");
    assert!(
        is_poll(&verdicts[0]),
        "not before a first reading: {verdicts:?}"
    );
    host.sync(&all()).expect("reads");
    host.gitlab
        .borrow_mut()
        .commits
        .insert("/projects/42".to_owned(), history(5));
    let repository = |references: &[&str]| {
        let changes: Vec<_> = references.iter().map(|name| json!({"ref": name})).collect();
        json!({"event_name": "repository_update", "project_id": 42, "changes": changes})
    };
    let verdicts = host
        .deliver(
            &all(),
            &[
                push_call("feature"),
                repository(&["refs/tags/v1"]),
                repository(&["refs/heads/feature"]),
            ],
        )
        .expect("reads");
    assert!(verdicts.iter().all(is_ignored), "{verdicts:?}");
    assert!(host.written().is_empty());

    let both = repository(&["refs/heads/feature", "refs/heads/main"]);
    let verdicts = host.deliver(&all(), &[both, push_call("feature"), push_call("main")]);
    let verdicts = verdicts.expect("reads");
    assert_eq!(verdicts[0], Verdict::Handled);
    assert!(is_ignored(&verdicts[1]));
    assert_eq!(verdicts[2], Verdict::Handled);
    assert_eq!(host.written_ids().len(), 2);
    assert_eq!(
        host.cursor("42/commits").expect("a cursor")["head"],
        history(5)[0].as_str()
    );
}

#[test]
fn a_tag_is_a_hint_at_its_release() {
    let host = TestHost::new(world());
    let tag = |name: &str| json!({"object_kind": "tag_push", "project_id": 42, "ref": format!("refs/tags/{name}")});
    let verdicts = host.deliver(&all(), &[tag("v1.0"), tag("nightly"), tag("../../x")]);
    let verdicts = verdicts.expect("reads");
    assert_eq!(verdicts[0], Verdict::Handled);
    assert!(
        is_ignored(&verdicts[1]) && is_ignored(&verdicts[2]),
        "{verdicts:?}"
    );
    assert_eq!(host.written_ids(), ["gl:release:42/v1.0"]);
}

#[test]
fn a_pipeline_that_runs_is_not_written() {
    let mut gitlab = world();
    add_pipeline(&mut gitlab, 9, "running");
    let host = TestHost::new(gitlab);
    let call = pipeline_call_of(1009, "running");
    let verdicts = host.deliver(&all(), &[call]).expect("reads");
    assert!(is_ignored(&verdicts[0]), "{verdicts:?}");
    assert!(host.written().is_empty());
    assert_eq!(host.requests.borrow().len(), 2, "no second look");
}

#[test]
fn a_pipeline_that_is_said_to_have_ended_and_still_runs_is_asked_for_again_after_a_second() {
    let running = || {
        let mut gitlab = world();
        add_pipeline(&mut gitlab, 9, "running");
        gitlab
    };
    // In which order two calls come says nothing.
    let calls = ["success", "running"].map(|status| pipeline_call_of(1009, status));
    let host = TestHost::new(running()).hook(|gitlab, request| {
        if request.delay_ms > 0 {
            add_pipeline(gitlab, 9, "success");
        }
    });
    let verdicts = host.deliver(&all(), &calls);
    assert_eq!(verdicts, Ok(vec![Verdict::Handled; 2]));
    assert_eq!(host.written_ids(), ["gl:pipeline:42/1009"]);

    let host = TestHost::new(running());
    let verdicts = host.deliver(&all(), &calls).expect("reads");
    assert!(verdicts.iter().all(is_poll), "{verdicts:?}");
    assert!(host.written().is_empty());
    assert_eq!(host.requests.borrow().len(), 3);
}

#[test]
fn a_release_that_is_said_to_be_deleted_and_still_shows_is_asked_for_again_after_a_second() {
    let call = release_call("v1.0", "delete");
    let remove = |gitlab: &mut FakeGitLab| {
        gitlab.objects.remove("/projects/42/releases/v1.0");
        let list = gitlab.plain.get_mut("/projects/42/releases");
        list.expect("there").clear();
    };
    let host = TestHost::new(world()).hook(move |gitlab, request| {
        if request.delay_ms > 0 {
            remove(gitlab);
        }
    });
    host.sync(&all()).expect("reads");
    let verdicts = host.deliver(&all(), std::slice::from_ref(&call));
    assert_eq!(verdicts, Ok(vec![Verdict::Handled]));
    assert_eq!(host.retracted(), ["gl:release:42/v1.0"]);

    let host = TestHost::new(world());
    host.sync(&all()).expect("reads");
    let verdicts = host.deliver(&all(), &[call]).expect("reads");
    assert!(is_poll(&verdicts[0]), "{verdicts:?}");
    assert!(host.retracted().is_empty(), "it may have been made again");
}

#[test]
fn kinds_that_nobody_wants_cost_no_request() {
    let host = TestHost::new(world());
    let kinds = [
        "deployment",
        "build",
        "wiki_page",
        "emoji",
        "feature_flag",
        "milestone",
        "access_token",
        "vulnerability",
        "user_create",
        "user_add_to_team",
        "key_create",
        "group_create",
        "group_destroy",
        "subgroup_create",
        "something_new",
    ];
    let mut batch: Vec<Value> = kinds
        .iter()
        .map(|kind| json!({"object_kind": kind, "project_id": 42, "project": {"id": 42}, "object_attributes": {"id": 1, "iid": 1}}))
        .collect();
    batch.push(note_call(1, "Commit", "commit", 1));
    batch.push(note_call(1, "Snippet", "snippet", 1));
    let verdicts = host.deliver(&all(), &batch).expect("reads");
    assert!(verdicts.iter().all(is_ignored), "{verdicts:?}");
    assert!(host.requests.borrow().is_empty());
}

#[test]
fn kinds_that_are_switched_off_cost_no_request() {
    let host = TestHost::new(world());
    let settings = json!({"projects": [42], "events": "issue"});
    let batch = [
        merge_request_call(17),
        note_call(105, "Issue", "issue", 3),
        pipeline_call(1008),
        release_call("v1.0", "create"),
        push_call("main"),
    ];
    let verdicts = host.deliver(&settings, &batch).expect("reads");
    assert!(verdicts.iter().all(is_ignored), "{verdicts:?}");
    assert!(host.requests.borrow().is_empty());
}

#[test]
fn projects_that_are_not_selected_are_left_alone() {
    let mut gitlab = world();
    gitlab.objects.insert(
        "/groups/5".to_owned(),
        json!({"id": 5, "full_path": "acme"}),
    );
    gitlab.objects.insert(
        "/groups/6".to_owned(),
        json!({"id": 6, "full_path": "acme/tea"}),
    );
    gitlab.plain.insert("/projects".to_owned(), vec![project()]);
    let host = TestHost::new(gitlab);
    for (settings, selected) in [
        (json!({"projects": ["acme/team/widget"]}), true),
        (json!({"projects": ["Acme/Team/Widget"]}), true),
        (json!({"groups": ["acme"]}), true),
        (json!({"groups": ["acme/team"]}), true),
        (json!({"groups": [5]}), true),
        (json!({}), true),
        (json!({"projects": [43]}), false),
        (json!({"groups": ["acme/tea"]}), false),
        (json!({"groups": [6]}), false),
        (json!({"groups": ["acme/team/widget"]}), false),
    ] {
        let verdicts = host
            .deliver(&settings, &[merge_request_call(17)])
            .expect("reads");
        assert_eq!(
            verdicts[0] == Verdict::Handled,
            selected,
            "{settings}: {verdicts:?}"
        );
        assert_eq!(host.written().is_empty(), !selected, "{settings}");
    }
    host.gitlab
        .borrow_mut()
        .plain
        .insert("/projects".to_owned(), Vec::new());
    let verdicts = host
        .deliver(&json!({}), &[merge_request_call(17)])
        .expect("reads");
    assert!(is_ignored(&verdicts[0]), "no member: {verdicts:?}");
}

#[test]
fn a_project_that_is_created_moved_or_destroyed_is_left_to_a_poll_if_it_is_ours() {
    let host = TestHost::new(world());
    let call = |kind: &str, id: u64| json!({"event_name": kind, "project_id": id});
    let kinds = [
        "project_create",
        "project_update",
        "project_rename",
        "project_transfer",
        "project_destroy",
    ];
    let ours: Vec<_> = kinds.iter().map(|kind| call(kind, 42)).collect();
    let verdicts = host.deliver(&all(), &ours).expect("reads");
    assert!(verdicts.iter().all(is_poll), "{verdicts:?}");
    let others: Vec<_> = kinds.iter().map(|kind| call(kind, 77)).collect();
    let verdicts = host.deliver(&all(), &others).expect("reads");
    assert!(verdicts.iter().all(is_ignored), "{verdicts:?}");

    host.sync(&all()).expect("reads");
    host.gitlab.borrow_mut().objects.clear();
    let verdicts = host
        .deliver(&all(), &[call("project_destroy", 42)])
        .expect("reads");
    assert!(is_poll(&verdicts[0]), "{verdicts:?}");
    assert!(
        host.retracted().is_empty(),
        "nothing is forgotten on a hint"
    );
}

#[test]
fn a_body_that_cannot_be_read_is_left_to_a_poll_or_ignored() {
    let host = TestHost::new(world());
    let whole = merge_request_call(17).to_string();
    let cut = whole[..whole.len() / 2].to_owned();
    let test = |header: &'static str, body: &str| (Some(header), body.to_owned());
    let calls = [
        test("Merge Request Hook", &cut),
        test("System Hook", "<html>"),
        test("Issue Hook", r#"{"text": "a template of the user's"}"#),
        test("Note Hook", "[]"),
        test("Job Hook", &cut),
        test("Emoji Hook", "{}"),
        (None, "hello".to_owned()),
        (None, "{}".to_owned()),
        (None, String::new()),
    ];
    let verdicts = host.deliver_texts(&all(), &calls).expect("reads");
    assert!(verdicts[..4].iter().all(is_poll), "{verdicts:?}");
    assert!(verdicts[4..].iter().all(is_ignored), "{verdicts:?}");
    assert!(host.requests.borrow().is_empty());
}

#[test]
fn a_record_with_trouble_of_its_own_does_not_keep_the_others() {
    let host = TestHost::new(world()).handler(|request| {
        let broken = request.path.ends_with("/issues/3/discussions");
        broken.then(|| Err(HttpError::Unavailable("500 for ten minutes".to_owned())))
    });
    let calls = [issue_call(3), merge_request_call(17), pipeline_call(1008)];
    let verdicts = host.deliver(&all(), &calls).expect("the others");
    assert!(is_poll(&verdicts[0]), "{verdicts:?}");
    assert_eq!(verdicts[1..], [Verdict::Handled, Verdict::Handled]);
    assert!(host.written_ids().contains(&"gl:note:42/104".to_owned()));
}

#[test]
fn where_gitlab_is_down_all_come_again() {
    let down = |_: &_| -> Option<Outcome> { Some(Err(HttpError::Unavailable("503".to_owned()))) };
    let host = TestHost::new(world()).handler(down);
    let failure = host.deliver(&all(), &[merge_request_call(17)]);
    assert_eq!(failure, Err(Failure::Unavailable("503".to_owned())));

    let refused = |_: &_| -> Option<Outcome> {
        Some(Ok(Response {
            status: 401,
            headers: Vec::new(),
            body: json!({"message": "401 Unauthorized"}).to_string(),
        }))
    };
    let host = TestHost::new(world()).handler(refused);
    let failure = host.deliver(&all(), &[merge_request_call(17)]);
    assert!(matches!(failure, Err(Failure::Standing(_))), "{failure:?}");
}

#[test]
fn what_is_older_than_the_first_reading_is_not_read() {
    let host = TestHost::new(world());
    host.sync_since(&all(), Some("2026-11-21T00:00:00Z"))
        .expect("reads");
    let verdicts = host.deliver(&all(), &[issue_call(3)]).expect("reads");
    assert!(is_ignored(&verdicts[0]), "{verdicts:?}");
    assert!(host.written().is_empty());
}

/// A user, a time, a text, as GitLab's rows have them.
fn any_user() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        (1_u64..99, "[a-z]{1,8}").prop_map(|(id, name)| json!({"id": id, "username": name})),
    ]
}

fn any_note(id: u64) -> impl Strategy<Value = Value> {
    (any_user(), "\\PC{0,30}", any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        move |(author, body, system, internal, resolved)| {
            json!({"id": id, "author": author, "body": body, "system": system, "internal": internal, "resolved": resolved,
                "created_at": "2026-11-20T09:00:00.000Z"})
        },
    )
}

fn any_discussions() -> impl Strategy<Value = Vec<Value>> {
    let sizes = prop::collection::vec(1_u64..4, 0..5);
    sizes.prop_flat_map(|sizes| {
        let mut next = 500;
        let discussions: Vec<_> = sizes
            .into_iter()
            .map(|size| {
                let first = next;
                next += size;
                let notes: Vec<_> = (first..next).map(any_note).collect();
                notes.prop_map(move |notes| json!({"id": format!("d{first}"), "notes": notes}))
            })
            .collect();
        discussions
    })
}

fn any_row() -> impl Strategy<Value = Value> {
    let people = prop::collection::vec(any_user(), 0..3).boxed();
    let text = prop::option::of("\\PC{0,40}");
    (
        (text.clone(), text, any_user(), people.clone(), people),
        prop::collection::vec("[a-z]{1,6}".prop_map(|name| json!({"name": name})), 0..4),
        prop::sample::select(vec!["opened", "closed", "merged"]),
        any::<bool>(),
    )
        .prop_map(|((title, text, author, assignees, reviewers), labels, state, confidential)| {
            json!({"title": title, "description": text, "author": author, "assignees": assignees, "reviewers": reviewers,
                "labels": labels, "state": state, "confidential": confidential, "user_notes_count": 9,
                "created_at": "2026-11-19T10:00:00.000Z"})
        })
}

/// Of a tag `v1`. Times are those before a run that begins at nine, and those between it and a call at ten.
fn any_release() -> impl Strategy<Value = Value> {
    let created = prop::sample::select(vec!["2026-11-20T10:00:00Z", "2026-11-22T09:30:00Z"]);
    let released = prop::sample::select(vec![
        Value::Null,
        json!("2026-11-19T10:00:00Z"),
        json!("2027-01-01T00:00:00Z"),
    ]);
    let text = prop::option::of("\\PC{0,40}");
    (created, released, text.clone(), text, any_user()).prop_map(
        |(created, released, name, description, author)| {
            json!({"tag_name": "v1", "created_at": created, "released_at": released, "name": name, "description": description,
                "author": author})
        },
    )
}

/// What only the detail of a pipeline has.
fn any_pipeline() -> impl Strategy<Value = Value> {
    let number = prop::option::of(0_u32..9_999);
    let time = prop::sample::select(vec![Value::Null, json!("2026-11-20T09:59:00.000Z")]);
    (number.clone(), number, time.clone(), time, any_user()).prop_map(
        |(duration, coverage, created, finished, user)| {
            json!({"status": "success", "duration": duration, "coverage": coverage.map(|percent| percent.to_string()),
                "created_at": created, "finished_at": finished, "updated_at": "2026-11-20T10:00:00.000Z", "user": user})
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever a record looks like, it comes out with the same bytes, in the same stream, whether it was polled or told of later.
    #[test]
    fn hook_and_poll_write_the_same_bytes(
        row in any_row(),
        release in any_release(),
        pipeline in any_pipeline(),
        discussions in any_discussions(),
        list in prop::sample::select(vec!["merge_requests", "issues"]),
        include_confidential in any::<bool>(),
        told_by_note in any::<bool>(),
    ) {
        let mut gitlab = FakeGitLab::with_project();
        gitlab.add(list, 17, "2026-11-20T10:00:00Z", row);
        let path = format!("/projects/42/{list}/17/discussions");
        gitlab.plain.insert(path, discussions.clone());
        add_release(&mut gitlab, release);
        add_pipeline(&mut gitlab, 8, "success");
        gitlab.objects.insert("/projects/42/pipelines/1008".to_owned(), pipeline);
        let settings = json!({"projects": [42], "include_confidential": include_confidential});
        let mut again = FakeGitLab::with_project();
        again.lists.clone_from(&gitlab.lists);
        again.plain.clone_from(&gitlab.plain);
        again.objects.clone_from(&gitlab.objects);
        let (polled, told) = (TestHost::new(gitlab), TestHost::new(again));
        let nine = RunContext { now: "2026-11-22T09:00:00Z".to_owned(), ..context(&settings, None) };
        polled.sync_with(&nine).expect("reads");
        let call = match (list, told_by_note && !discussions.is_empty()) {
            ("issues", false) => issue_call(17),
            ("issues", true) => note_call(500, "Issue", "issue", 17),
            (_, false) => merge_request_call(17),
            (_, true) => note_call(500, "MergeRequest", "merge_request", 17),
        };
        let verdicts = told.deliver(&settings, &[call, pipeline_call(1008), release_call("v1", "create")]);
        prop_assert_eq!(verdicts, Ok(vec![Verdict::Handled; 3]));
        prop_assert_eq!(by_id(&told), by_id(&polled));
        prop_assert_eq!(told.retracted(), polled.retracted());
    }

    /// Any body, with any header or none: one verdict each, and no failure.
    #[test]
    fn every_body_gets_one_verdict(
        bodies in prop::collection::vec((any_delivery(), any::<u16>(), 0_usize..8), 0..12),
        noise in prop::collection::vec("\\PC{0,60}", 0..4),
    ) {
        let headers = [
            None, Some("System Hook"), Some("Merge Request Hook"), Some("Note Hook"), Some("Release Hook"), Some("Job Hook"),
            Some(""), Some("Something Else"),
        ];
        let mut calls: Vec<(Option<&str>, String)> = Vec::new();
        for (body, cut, header) in &bodies {
            let mut body = body.to_string();
            if cut % 4 == 0 {
                let at = usize::from(*cut) % (body.len() + 1);
                let at = (0..=at).rev().find(|at| body.is_char_boundary(*at)).unwrap_or_default();
                body.truncate(at);
            }
            calls.push((headers[*header], body));
        }
        calls.extend(noise.into_iter().map(|text| (None, text)));
        let host = TestHost::new(world());
        let verdicts = host.deliver_texts(&all(), &calls);
        prop_assert_eq!(verdicts.map(|verdicts| verdicts.len()), Ok(calls.len()));
        prop_assert!(host.retracted().is_empty());
    }
}

/// Bodies that have the shape of a call here and there, and anything in between.
fn any_delivery() -> impl Strategy<Value = Value> {
    let kinds = prop::sample::select(vec![
        "push",
        "tag_push",
        "repository_update",
        "merge_request",
        "issue",
        "work_item",
        "note",
        "pipeline",
        "release",
        "project_destroy",
        "group_rename",
        "deployment",
    ]);
    let fields = prop::collection::hash_map(
        prop::sample::select(vec![
            "project",
            "project_id",
            "object_attributes",
            "merge_request",
            "issue",
            "tag",
            "ref",
            "changes",
            "event_name",
        ]),
        prop_oneof![
            any_json(),
            Just(json!({"id": 42})),
            Just(json!(42)),
            Just(
                json!({"id": u64::MAX, "iid": 0, "noteable_type": "Issue", "target_project_id": 42})
            ),
            Just(json!({"id": 1008, "iid": 17, "noteable_type": "MergeRequest"})),
            "\\PC{0,12}".prop_map(Value::from),
            Just(json!("refs/heads/main")),
            Just(json!([{"ref": "refs/heads/main"}, 5])),
        ],
        0..9,
    );
    prop_oneof![
        1 => any_json(),
        4 => (kinds, fields).prop_map(|(kind, fields)| {
            let mut body = json!({"object_kind": kind});
            for (key, value) in fields {
                body[key] = value;
            }
            body
        }),
    ]
}
