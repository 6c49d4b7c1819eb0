//! Runs that compare everything: what is forgotten, what is kept, and what a run that verifies leaves alone.

use serde_json::{Value, json};

use crate::host::{Failure, Mode, RunContext, StreamState};
use crate::testing::{Call, FakeGitLab, TestHost, context};

const ISSUES: &str = "/projects/42/issues";
const DISCUSSIONS: &str = "/projects/42/issues/3/discussions";

fn settings() -> Value {
    json!({"projects": [42]})
}

fn note(id: u64, body: &str) -> Value {
    json!({"id": id, "body": body, "created_at": "2026-11-20T10:00:00.000Z"})
}

/// One record of each kind, and one more that is to be deleted.
fn full() -> FakeGitLab {
    let mut gitlab = FakeGitLab::with_project();
    for (list, id) in [("merge_requests", 17), ("merge_requests", 18)] {
        let body = json!({"title": "Add retry", "user_notes_count": 0});
        gitlab.add(list, id, "2026-11-10T10:00:00Z", body);
    }
    for id in [3, 4] {
        let body = json!({"title": "It fails", "user_notes_count": 2});
        gitlab.add("issues", id, "2026-11-10T10:00:00Z", body);
        let first = id * 10;
        gitlab.plain.insert(
            format!("{ISSUES}/{id}/discussions"),
            vec![json!({"id": "d", "notes": [note(first, "Why?"), note(first + 1, "Because.")]})],
        );
    }
    for id in [8, 9] {
        let body = json!({"status": "success"});
        gitlab.add("pipelines", id, "2026-11-10T10:00:00Z", body.clone());
        let detail = format!("/projects/42/pipelines/{}", 1000 + id);
        gitlab.objects.insert(detail, body);
    }
    let release = |tag: &str| json!({"tag_name": tag, "created_at": "2026-11-10T10:00:00Z"});
    gitlab.plain.insert(
        "/projects/42/releases".to_owned(),
        vec![release("v1"), release("v2/rc")],
    );
    let commits = (1..=4).rev().map(|number| format!("{number:040x}"));
    gitlab
        .commits
        .insert("/projects/42".to_owned(), commits.collect());
    gitlab
}

fn polled() -> TestHost {
    let host = TestHost::new(full());
    host.sync(&settings()).expect("reads");
    host
}

/// Deletes one record of each kind, without a trace.
fn delete_some(gitlab: &mut FakeGitLab) {
    for (list, id) in [
        ("merge_requests", 1018),
        ("issues", 1004),
        ("pipelines", 1009),
    ] {
        let rows = gitlab.lists.get_mut(&format!("/projects/42/{list}"));
        rows.expect("a list").retain(|row| row.id != id);
    }
    gitlab.plain.remove(&format!("{ISSUES}/4/discussions"));
    gitlab.objects.remove("/projects/42/pipelines/1009");
    let releases = gitlab.plain.get_mut("/projects/42/releases");
    releases.expect("a list").pop();
    delete_note(gitlab);
}

fn delete_note(gitlab: &mut FakeGitLab) {
    gitlab.plain.insert(
        DISCUSSIONS.to_owned(),
        vec![json!({"id": "d", "notes": [note(31, "Because.")]})],
    );
}

#[test]
fn what_was_deleted_is_forgotten_by_a_reconcile_and_by_nothing_else() {
    let host = polled();
    delete_some(&mut host.gitlab.borrow_mut());
    host.sync(&settings()).expect("polls");
    assert!(host.retracted().is_empty());

    let cursors = host.state.borrow().clone();
    host.sync_as(Mode::Reconcile, &settings())
        .expect("reconciles");
    assert_eq!(
        host.retracted(),
        [
            "gl:issue:42/4",
            "gl:merge_request:42/18",
            "gl:note:42/30",
            "gl:pipeline:42/1009",
            "gl:release:42/v2/rc",
        ],
        "comments of the issue go with it"
    );
    assert_eq!(*host.state.borrow(), cursors, "no cursor was moved back");
    let asked = host
        .requests
        .borrow()
        .iter()
        .any(|request| request.path.ends_with("/releases/v2%2Frc"));
    assert!(asked, "each record is asked for by itself");

    host.sync_as(Mode::Reconcile, &settings())
        .expect("reconciles");
    assert!(host.retracted().is_empty(), "once is enough");
}

#[test]
fn a_pass_that_goes_on_reads_of_what_it_has_compared_before_only_what_is_new() {
    let host = polled();
    delete_some(&mut host.gitlab.borrow_mut());
    let body = json!({"title": "New", "user_notes_count": 0});
    let now = "2026-11-22T09:59:00Z";
    host.gitlab.borrow_mut().add("issues", 6, now, body);
    let goes_on = RunContext {
        mode: Mode::Reconcile,
        compared: ["42/issues", "42/commits"]
            .map(str::to_owned)
            .into_iter()
            .collect(),
        ..context(&settings(), None)
    };
    host.sync_with(&goes_on).expect("reconciles");
    assert_eq!(
        host.retracted(),
        [
            "gl:merge_request:42/18",
            "gl:pipeline:42/1009",
            "gl:release:42/v2/rc",
        ]
    );
    assert!(host.written_ids().contains(&"gl:issue:42/6".to_owned()));
    let requests = host.requests.borrow();
    let lists = requests
        .iter()
        .filter(|request| request.path.ends_with("/issues"));
    assert_eq!(lists.count(), 1);
    for stream in ["42/issues", "42/releases"] {
        assert_eq!(host.status(stream), Some(StreamState::Complete), "{stream}");
    }
}

#[test]
fn changes_that_move_nothing_are_written_by_a_reconcile() {
    let host = polled();
    let mut resolved = note(30, "Why?");
    resolved["resolved"] = true.into();
    host.gitlab.borrow_mut().plain.insert(
        DISCUSSIONS.to_owned(),
        vec![json!({"id": "d", "notes": [resolved, note(31, "Because.")]})],
    );
    let body = json!({"title": "Imported", "user_notes_count": 0});
    let long_ago = "2020-01-01T10:00:00Z";
    host.gitlab.borrow_mut().add("issues", 5, long_ago, body);
    host.sync(&settings()).expect("polls");
    assert!(host.written().is_empty());
    host.sync_as(Mode::Reconcile, &settings())
        .expect("reconciles");
    assert!(host.written_ids().contains(&"gl:issue:42/5".to_owned()));
    let written = host.written();
    let note = written
        .iter()
        .find(|record| record.source_id == "gl:note:42/30");
    let resolved = ("resolved", "true".to_owned());
    assert!(note.expect("written").attributes.contains(&resolved));
}

#[test]
fn a_first_run_that_reconciles_reads_everything_once() {
    let host = TestHost::new(full());
    host.sync_as(Mode::Reconcile, &settings()).expect("reads");
    let lists = host
        .requests
        .borrow()
        .iter()
        .filter(|request| request.path.ends_with("/issues"))
        .count();
    assert_eq!(lists, 1);
    assert!(
        host.state.borrow().contains_key("42/issues"),
        "the cursor follows"
    );
}

#[test]
fn finished_pipelines_that_are_known_are_not_looked_up_again() {
    let host = polled();
    host.sync_as(Mode::Reconcile, &settings())
        .expect("reconciles");
    let requests = host.requests.borrow();
    assert!(
        !requests
            .iter()
            .any(|request| request.path.contains("/pipelines/"))
    );
}

#[test]
fn a_pipeline_that_runs_again_is_kept() {
    let host = polled();
    for row in host
        .gitlab
        .borrow_mut()
        .lists
        .get_mut("/projects/42/pipelines")
        .expect("a list")
    {
        row.body["status"] = "running".into();
    }
    host.sync_as(Mode::Reconcile, &settings())
        .expect("reconciles");
    assert!(host.retracted().is_empty());
}

#[test]
fn a_record_that_is_there_though_it_was_not_listed_is_kept() {
    let host = polled();
    delete_some(&mut host.gitlab.borrow_mut());
    let issue = json!({"iid": 4});
    let path = format!("{ISSUES}/4");
    host.gitlab.borrow_mut().objects.insert(path.clone(), issue);
    host.gitlab.borrow_mut().refusals.insert(
        "/projects/42/merge_requests/18".to_owned(),
        (403, json!({"message": "403 Forbidden"}).to_string()),
    );
    host.sync_as(Mode::Reconcile, &settings())
        .expect("reconciles");
    assert!(!host.retracted().contains(&"gl:issue:42/4".to_owned()));
    assert!(
        !host
            .retracted()
            .contains(&"gl:merge_request:42/18".to_owned())
    );
    assert!(host.logged("whether they are gone cannot be told"));

    let confidential = json!({"iid": 4, "confidential": true});
    host.gitlab.borrow_mut().objects.insert(path, confidential);
    host.sync_as(Mode::Reconcile, &settings())
        .expect("reconciles");
    assert!(host.retracted().contains(&"gl:issue:42/4".to_owned()));
}

#[test]
fn a_project_that_cannot_be_seen_any_more_loses_nothing() {
    let host = polled();
    delete_some(&mut host.gitlab.borrow_mut());
    let host = host.hook(|gitlab, request| {
        // Gone in the moment in which the first record is asked for by itself.
        if request.path.ends_with("/issues/4") || request.path.ends_with("/merge_requests/18") {
            gitlab.objects.remove("/projects/42");
        }
    });
    let failure = host.sync_as(Mode::Reconcile, &settings());
    assert!(
        matches!(failure, Err(Failure::Unavailable(_))),
        "{failure:?}"
    );
    let seen: Vec<String> = host.retracted();
    assert!(
        !seen
            .iter()
            .any(|id| id.contains(":issue:") || id.contains(":merge_request:")),
        "{seen:?}"
    );
    let Some(StreamState::Failed(reason)) = host.status("42/issues") else {
        panic!("the stream did not fail")
    };
    assert!(reason.contains("nothing of it is forgotten"), "{reason}");
}

#[test]
fn a_refused_token_and_a_list_that_fails_lose_nothing() {
    for status in [401, 403, 500] {
        let host = polled();
        let gitlab = &host.gitlab;
        delete_some(&mut gitlab.borrow_mut());
        for list in ["merge_requests", "issues", "pipelines", "releases"] {
            gitlab.borrow_mut().refusals.insert(
                format!("/projects/42/{list}"),
                (status, json!({"message": "no"}).to_string()),
            );
        }
        let _ = host.sync_as(Mode::Reconcile, &settings());
        assert!(host.retracted().is_empty(), "{status}");
    }
}

#[test]
fn a_refusal_in_the_middle_of_the_second_reading_is_a_failure_and_no_feature_that_is_off() {
    let mut gitlab = full();
    for id in 100..250 {
        let updated = format!("2026-11-10T11:{:02}:{:02}Z", id / 60, id % 60);
        let body = json!({"title": "One of many", "user_notes_count": 0});
        gitlab.add("issues", id, &updated, body);
    }
    let mut asked = 0;
    let host = TestHost::new(gitlab).handler(move |call| {
        let list = call.path.ends_with(ISSUES);
        asked += u32::from(list);
        // Two pages of the first run, one of the poll, and two of the second reading.
        (list && asked == 5).then(|| {
            Ok(crate::host::Response {
                status: 403,
                headers: Vec::new(),
                body: json!({"message": "403 Forbidden"}).to_string(),
            })
        })
    });
    host.sync(&settings()).expect("reads");
    let failure = host.sync_as(Mode::Reconcile, &settings());
    assert!(
        matches!(failure, Err(Failure::Unavailable(_))),
        "{failure:?}"
    );
    let status = host.status("42/issues");
    assert!(matches!(status, Some(StreamState::Failed(_))), "{status:?}");
    assert!(host.retracted().is_empty());
}

#[test]
fn issues_that_are_switched_off_answer_with_an_empty_list_and_are_kept() {
    let host = polled();
    let mut gitlab = host.gitlab.borrow_mut();
    gitlab.lists.insert(ISSUES.to_owned(), Vec::new());
    gitlab.objects.get_mut("/projects/42").expect("the project")["issues_enabled"] = false.into();
    drop(gitlab);
    host.sync_as(Mode::Reconcile, &settings())
        .expect("reconciles");
    assert!(host.retracted().is_empty());
    assert!(matches!(
        host.status("42/issues"),
        Some(StreamState::Off(_))
    ));
}

#[test]
fn issues_that_are_switched_on_later_are_read_from_the_beginning() {
    let mut gitlab = full();
    let issues = gitlab.lists.insert(ISSUES.to_owned(), Vec::new());
    let issues = issues.expect("issues");
    gitlab.objects.get_mut("/projects/42").expect("the project")["issues_enabled"] = false.into();
    let host = TestHost::new(gitlab);
    host.sync(&settings()).expect("reads");
    assert!(matches!(
        host.status("42/issues"),
        Some(StreamState::Off(_))
    ));
    assert!(!host.state.borrow().contains_key("42/issues"));

    let mut gitlab = host.gitlab.borrow_mut();
    gitlab.lists.insert(ISSUES.to_owned(), issues);
    gitlab.objects.get_mut("/projects/42").expect("the project")["issues_enabled"] = true.into();
    drop(gitlab);
    host.sync(&settings()).expect("polls");
    assert!(host.written_ids().contains(&"gl:issue:42/3".to_owned()));
}

#[test]
fn a_list_in_the_place_of_an_object_is_asked_for_again() {
    let mut wrong = true;
    let host = TestHost::new(full()).handler(move |call| {
        let detail = call.path.contains("/pipelines/");
        let response = (detail && std::mem::take(&mut wrong)).then(|| crate::host::Response {
            status: 200,
            headers: Vec::new(),
            body: "[]".to_owned(),
        })?;
        Some(Ok(response))
    });
    host.sync(&settings()).expect("reads");
    for id in [1008, 1009] {
        let id = format!("gl:pipeline:42/{id}");
        assert!(host.written_ids().contains(&id), "{id}");
    }
}

#[test]
fn a_smaller_role_hides_what_is_confidential_and_deletes_nothing() {
    let settings = json!({"projects": [42], "include_confidential": true});
    let host = TestHost::new(full());
    host.sync(&settings).expect("reads");
    let mut gitlab = host.gitlab.borrow_mut();
    delete_some(&mut gitlab);
    gitlab.objects.get_mut("/projects/42").expect("the project")["permissions"] =
        json!({"project_access": null, "group_access": {"access_level": 10}});
    drop(gitlab);
    host.sync_as(Mode::Reconcile, &settings)
        .expect("reconciles");
    assert!(
        !host
            .retracted()
            .iter()
            .any(|id| id.contains(":issue:") || id.contains(":note:"))
    );
    assert!(host.logged("may be hidden and not gone"));
    assert!(host.retracted().contains(&"gl:release:42/v2/rc".to_owned()));
}

#[test]
fn commits_stay_when_they_drop_out_of_the_branch_unless_the_user_says_otherwise() {
    let host = polled();
    let mut gitlab = host.gitlab.borrow_mut();
    let log = gitlab.commits.get_mut("/projects/42").expect("a history");
    log[0] = "f".repeat(40);
    drop(gitlab);
    host.sync_as(Mode::Reconcile, &settings())
        .expect("reconciles");
    assert!(host.retracted().is_empty());
    let forget = json!({"projects": [42], "forget_unreachable_commits": true});
    host.sync_as(Mode::Reconcile, &forget).expect("reconciles");
    assert_eq!(host.retracted(), [format!("gl:commit:42/{:040x}", 4)]);
}

#[test]
fn a_history_that_lags_behind_the_cursor_takes_no_commit_away() {
    let mut asked = 0;
    let host = polled().hook(move |gitlab, request| {
        asked += usize::from(request.path.ends_with("/commits"));
        let log = gitlab.commits.get_mut("/projects/42").expect("a history");
        // The poll sees the newest commit; the second reading is answered by a replica that does not know it yet.
        if asked == 2 && log.len() == 4 {
            log.remove(0);
        }
    });
    let forget = json!({"projects": [42], "forget_unreachable_commits": true});
    host.sync_as(Mode::Reconcile, &forget).expect("reconciles");
    assert!(host.retracted().is_empty());
    assert_eq!(host.gitlab.borrow().commits["/projects/42"].len(), 3);
}

#[test]
fn what_the_user_left_out_of_the_first_run_stays_out() {
    let mut gitlab = full();
    let body = json!({"title": "Old", "user_notes_count": 0});
    gitlab.add("issues", 5, "2020-01-01T10:00:00Z", body);
    let host = TestHost::new(gitlab);
    host.sync_since(&settings(), Some("2026-01-01T00:00:00Z"))
        .expect("reads");
    host.sync(&settings()).expect("polls");
    host.sync_as(Mode::Reconcile, &settings())
        .expect("reconciles");
    assert!(!host.written_ids().contains(&"gl:issue:42/5".to_owned()));
    host.sync_since(&settings(), Some("2019-01-01T00:00:00Z"))
        .expect("reads");
    assert!(host.written_ids().contains(&"gl:issue:42/5".to_owned()));
    host.sync_as(Mode::Reconcile, &settings())
        .expect("reconciles");
    assert!(host.written_ids().contains(&"gl:issue:42/5".to_owned()));
}

#[test]
fn verifying_lists_everything_and_writes_nothing() {
    let host = polled();
    delete_some(&mut host.gitlab.borrow_mut());
    let body = json!({"title": "New", "user_notes_count": 0});
    let now = "2026-11-22T09:59:00Z";
    host.gitlab.borrow_mut().add("issues", 6, now, body);
    host.sync_as(Mode::Verify, &settings()).expect("verifies");
    let changes = host.calls.borrow().iter().any(|call| {
        matches!(
            call,
            Call::Write(..) | Call::Retract(..) | Call::SetState(..)
        )
    });
    assert!(!changes);
    let listed = host.listed.borrow();
    for (id, wanted) in [
        ("gl:issue:42/6", Some(true)),
        ("gl:issue:42/4", None),
        ("gl:note:42/31", Some(true)),
        ("gl:note:42/30", None),
        ("gl:pipeline:42/1008", Some(true)),
        ("gl:release:42/v1", Some(true)),
        ("gl:merge_request:42/17", Some(true)),
    ] {
        assert_eq!(listed.get(id).copied(), wanted, "{id}");
    }
    assert!(
        !host
            .requests
            .borrow()
            .iter()
            .any(|request| request.path.ends_with("/pipelines/1008"))
    );
}
