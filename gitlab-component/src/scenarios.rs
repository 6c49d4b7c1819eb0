//! Whole runs against a GitLab that misbehaves. Each test is a sentence about what a run does.

use serde_json::{Value, json};

use crate::host::{
    Failure, Level, Modality, Outcome, Request, Response, Severity, StreamState, Thread,
};
use crate::testing::{Call, FakeGitLab, NOW, Row, TestHost, context, micros, project};

const OVERLAPPED_NOW: &str = "2026-11-22T09:58:00Z";
/// The same where an answer has no `Date`.
const OVERLAPPED_BY_OWN_CLOCK: &str = "2026-11-22T09:50:00Z";

fn only(event: &str) -> Value {
    json!({"projects": [42], "events": event})
}

fn refusal(status: u16, words: &str) -> (u16, String) {
    (status, json!({ "message": words }).to_string())
}

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Outcome {
    let headers = headers
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    Ok(Response {
        status,
        headers,
        body: body.to_owned(),
    })
}

fn asked<'r>(request: &'r Request, key: &str) -> Option<&'r str> {
    request
        .query
        .iter()
        .find(|(name, _)| name == key)
        .map(|(_, value)| value.as_str())
}

fn note(id: u64, body: &str) -> Value {
    json!({"id": id, "body": body, "created_at": "2026-11-20T10:00:00.000Z", "author": {"id": 7, "username": "ada"}})
}

/// An issue and a merge request, each with a discussion.
fn with_discussions() -> FakeGitLab {
    let mut gitlab = FakeGitLab::with_project();
    gitlab.add(
        "merge_requests",
        17,
        "2026-11-20T10:00:00Z",
        json!({"title": "Add retry", "user_notes_count": 2}),
    );
    gitlab.add(
        "issues",
        3,
        "2026-11-20T11:00:00Z",
        json!({"title": "It fails", "user_notes_count": 1}),
    );
    gitlab.add(
        "issues",
        4,
        "2026-11-20T12:00:00Z",
        json!({"title": "Quiet", "user_notes_count": 0}),
    );
    let mut system = note(101, "changed the description");
    system["system"] = true.into();
    gitlab.plain.insert(
        "/projects/42/merge_requests/17/discussions".to_owned(),
        vec![
            json!({"id": "d0", "individual_note": true, "notes": [system]}),
            json!({"id": "d1", "notes": [note(102, "Why?"), note(103, "   "), note(104, "Because.")]}),
        ],
    );
    gitlab.plain.insert(
        "/projects/42/issues/3/discussions".to_owned(),
        vec![json!({"id": "d2", "notes": [note(105, "Same here")]})],
    );
    gitlab
}

/// Shas of a history of `count` commits, newest first.
fn history(count: usize) -> Vec<String> {
    (1..=count)
        .rev()
        .map(|number| format!("{number:040x}"))
        .collect()
}

fn with_commits(count: usize) -> FakeGitLab {
    let mut gitlab = FakeGitLab::with_project();
    gitlab
        .commits
        .insert("/projects/42".to_owned(), history(count));
    gitlab
}

/// The numbers of the commits that were written, in order.
fn written_commits(host: &TestHost) -> Vec<usize> {
    let number = |id: String| {
        usize::from_str_radix(id.rsplit_once('/').expect("an id").1, 16).expect("a number")
    };
    host.written_ids().into_iter().map(number).collect()
}

#[test]
fn a_first_run_reads_everything_and_leaves_a_cursor_for_each_stream() {
    let mut gitlab = with_discussions();
    gitlab.commits.insert("/projects/42".to_owned(), history(2));
    gitlab.add(
        "pipelines",
        8,
        "2026-11-20T10:00:00Z",
        json!({"status": "success"}),
    );
    gitlab.objects.insert(
        "/projects/42/pipelines/1008".to_owned(),
        json!({"id": 1008, "status": "success", "duration": 90}),
    );
    gitlab.plain.insert(
        "/projects/42/releases".to_owned(),
        vec![json!({"tag_name": "v1.0", "created_at": "2026-11-20T10:00:00Z"})],
    );
    let host = TestHost::new(gitlab);
    assert_eq!(
        host.sync(&json!({"projects": ["acme/team/widget", 42]}))
            .expect_err("the path is unknown"),
        {
            Failure::Configuration(
            "project acme/team/widget: GitLab answers \"404 Not found\". Check the id or path in `projects` \
             (GITLAB_PROJECT_IDS). GitLab answers 404 also for what the token may not see: the token's user needs at least the \
             role Reporter in the project."
                .to_owned(),
        )
        }
    );
    assert!(host.written().is_empty());

    host.gitlab
        .borrow_mut()
        .objects
        .insert("/projects/acme%2Fteam%2Fwidget".to_owned(), project());
    host.sync(&json!({"projects": ["acme/team/widget", 42]}))
        .expect("reads");
    let mut ids = host.written_ids();
    ids.sort();
    assert_eq!(
        ids,
        [
            "gl:commit:42/0000000000000000000000000000000000000001",
            "gl:commit:42/0000000000000000000000000000000000000002",
            "gl:issue:42/3",
            "gl:issue:42/4",
            "gl:merge_request:42/17",
            "gl:note:42/102",
            "gl:note:42/104",
            "gl:note:42/105",
            "gl:pipeline:42/1008",
            "gl:release:42/v1.0",
        ]
    );
    for stream in [
        "merge_requests",
        "issues",
        "commits",
        "pipelines",
        "releases",
    ] {
        assert_eq!(
            host.status(&format!("42/{stream}")),
            Some(StreamState::Complete),
            "{stream}"
        );
    }
    let records = json!({"updated_after": OVERLAPPED_NOW, "records": true, "notes": true, "confidential": false});
    assert_eq!(host.cursor("42/merge_requests"), Some(records.clone()));
    assert_eq!(host.cursor("42/issues"), Some(records));
    assert_eq!(
        host.cursor("42/commits"),
        Some(json!({"branch": "main", "head": history(2)[0]}))
    );
    let statuses = json!(["canceled", "failed", "skipped", "success"]);
    assert_eq!(
        host.cursor("42/pipelines"),
        Some(json!({
            "statuses": statuses,
            "updated_after": OVERLAPPED_NOW,
            "child_updated_after": OVERLAPPED_NOW,
            "children": true,
        }))
    );
    assert_eq!(
        host.cursor("42/releases"),
        Some(json!({"updated_after": OVERLAPPED_NOW}))
    );
    assert!(host.most_in_flight.get() <= 16);

    host.sync(&json!({"projects": [42]})).expect("reads again");
    assert_eq!(
        host.written_ids(),
        Vec::<String>::new(),
        "nothing has changed"
    );
}

#[test]
fn comments_follow_their_parent_and_each_other() {
    let host = TestHost::new(with_discussions());
    host.sync(&only("merge_request,issue,note")).expect("reads");
    let written = host.written();
    let place = |id: &str| {
        written
            .iter()
            .position(|experience| experience.source_id == id)
            .expect("written")
    };
    assert!(place("gl:merge_request:42/17") < place("gl:note:42/102"));
    let last = &written[place("gl:note:42/104")];
    assert_eq!(last.modality, Modality::Conversation);
    assert_eq!(
        last.preceded_by,
        ["gl:note:42/102"],
        "the blank one is stepped over"
    );
    let root = "gl:merge_request:42/17".to_owned();
    assert_eq!(
        last.thread,
        Some(Thread {
            root: root.clone(),
            turn: 1_763_632_800 + 365 * 86_400
        })
    );
    assert_eq!(written[place("gl:note:42/102")].preceded_by, [root]);
    assert_eq!(
        (host.skipped("system-note"), host.skipped("blank-comment")),
        (1, 1)
    );
    let quiet = host
        .requests
        .borrow()
        .iter()
        .any(|request| request.path.contains("/issues/4/"));
    assert!(!quiet, "no comments, no request");
}

#[test]
fn comments_can_be_read_without_their_parents() {
    let host = TestHost::new(with_discussions());
    host.sync(&only("note")).expect("reads");
    let mut ids = host.written_ids();
    ids.sort();
    assert_eq!(ids, ["gl:note:42/102", "gl:note:42/104", "gl:note:42/105"]);

    host.sync(&only("merge_request,note")).expect("reads");
    assert!(host.logged("the records themselves were left out so far"));
    assert!(
        host.written_ids()
            .contains(&"gl:merge_request:42/17".to_owned())
    );
}

#[test]
fn comments_that_are_wanted_later_are_read_from_the_beginning() {
    let host = TestHost::new(with_discussions());
    host.sync(&only("issue")).expect("reads");
    assert_eq!(host.written_ids(), ["gl:issue:42/3", "gl:issue:42/4"]);
    host.sync(&only("issue,note")).expect("reads");
    assert!(host.written_ids().contains(&"gl:note:42/105".to_owned()));
}

#[test]
fn a_new_comment_is_found_although_its_parent_was_touched_before_the_last_run() {
    let mut gitlab = FakeGitLab::with_project();
    gitlab.add(
        "issues",
        3,
        "2026-11-22T09:59:30Z",
        json!({"title": "Lively", "user_notes_count": 1}),
    );
    let path = "/projects/42/issues/3/discussions";
    gitlab.plain.insert(
        path.to_owned(),
        vec![json!({"id": "a", "notes": [note(1, "first")]})],
    );
    let host = TestHost::new(gitlab);
    host.sync(&only("issue,note")).expect("reads");
    // Within a minute GitLab does not touch the issue again.
    host.gitlab
        .borrow_mut()
        .plain
        .get_mut(path)
        .expect("there")
        .push(json!({"id": "b", "notes": [note(2, "second")]}));
    host.sync(&only("issue,note")).expect("reads");
    assert!(host.written_ids().contains(&"gl:note:42/2".to_owned()));
}

#[test]
fn an_empty_list_of_discussions_is_not_believed_where_there_are_comments() {
    let mut gitlab = FakeGitLab::with_project();
    gitlab.add(
        "issues",
        3,
        "2026-11-20T10:00:00Z",
        json!({"title": "Lively", "user_notes_count": 1}),
    );
    let path = "/projects/42/issues/3/discussions";
    gitlab.plain.insert(
        path.to_owned(),
        vec![json!({"id": "a", "notes": [note(1, "first")]})],
    );
    let asked_before = std::cell::Cell::new(false);
    let host = TestHost::new(gitlab).handler(move |request| {
        (request.path.ends_with(path) && !asked_before.replace(true))
            .then(|| answer(200, &[], "[]"))
    });
    host.sync(&only("issue,note")).expect("reads");
    assert_eq!(host.written_ids(), ["gl:issue:42/3", "gl:note:42/1"]);

    // Comments that are gone since the number was counted are no reason to ask for ever.
    host.gitlab
        .borrow_mut()
        .plain
        .insert(path.to_owned(), Vec::new());
    host.sync(&json!({"projects": [42], "events": "issue,note"}))
        .expect("reads");
}

#[test]
fn what_is_confidential_is_left_out_counted_and_forgotten() {
    let mut gitlab = with_discussions();
    gitlab.add(
        "issues",
        5,
        "2026-11-20T13:00:00Z",
        json!({"title": "Secret", "confidential": true, "user_notes_count": 1}),
    );
    let secret = "/projects/42/issues/5/discussions";
    gitlab.plain.insert(
        secret.to_owned(),
        vec![json!({"id": "s", "notes": [note(201, "psst")]})],
    );
    let mut internal = note(106, "Between us");
    internal["internal"] = true.into();
    let discussions = gitlab
        .plain
        .get_mut("/projects/42/issues/3/discussions")
        .expect("there");
    discussions.push(json!({"id": "d3", "notes": [internal]}));
    let host = TestHost::new(gitlab);
    // Sent by a run that broke off before the receipt came: held, and not known.
    let begun = ("42/issues".to_owned(), Some("gl:issue:42/3".to_owned()));
    host.held
        .borrow_mut()
        .insert("gl:note:42/106".to_owned(), begun);

    host.sync(&only("issue,note")).expect("reads");
    let ids = host.written_ids();
    assert!(
        !ids.iter()
            .any(|id| ["gl:issue:42/5", "gl:note:42/201", "gl:note:42/106"].contains(&id.as_str()))
    );
    assert_eq!(
        (
            host.skipped("confidential-issue"),
            host.skipped("internal-note")
        ),
        (1, 1)
    );
    let retract = |id: &str, reason: &str| {
        Call::Retract(
            "42/issues".to_owned(),
            vec![id.to_owned()],
            reason.to_owned(),
        )
    };
    assert!(
        host.calls
            .borrow()
            .contains(&retract("gl:issue:42/5", "became confidential"))
    );
    assert!(
        host.calls
            .borrow()
            .contains(&retract("gl:note:42/106", "became internal"))
    );

    let everything =
        json!({"projects": [42], "events": "issue,note", "include_confidential": true});
    host.sync(&everything).expect("reads");
    let written = host.written();
    for id in ["gl:issue:42/5", "gl:note:42/201", "gl:note:42/106"] {
        let experience = written
            .iter()
            .find(|experience| experience.source_id == id)
            .expect("written now");
        assert!(
            experience.labels.contains(&"confidential".to_owned()),
            "{id}"
        );
    }

    host.sync(&only("issue,note")).expect("reads");
    assert!(
        host.calls
            .borrow()
            .contains(&retract("gl:issue:42/5", "became confidential")),
        "hidden again"
    );
    assert!(
        host.calls
            .borrow()
            .contains(&retract("gl:note:42/106", "became internal")),
        "hidden again"
    );
}

#[test]
fn a_parent_that_is_deleted_before_its_comments_are_read_is_no_failure() {
    let mut gitlab = with_discussions();
    gitlab.plain.remove("/projects/42/issues/3/discussions");
    let host = TestHost::new(gitlab);
    host.sync(&only("issue,note")).expect("reads");
    assert_eq!(host.status("42/issues"), Some(StreamState::Complete));
}

#[test]
fn discussions_that_shift_while_they_are_read_are_read_again() {
    let mut gitlab = FakeGitLab::with_project();
    gitlab.add(
        "issues",
        3,
        "2026-11-20T10:00:00Z",
        json!({"title": "Long", "user_notes_count": 250}),
    );
    let path = "/projects/42/issues/3/discussions";
    let discussions = (1..=250)
        .map(|id| json!({"id": format!("d{id}"), "notes": [note(id, "x")]}))
        .collect();
    gitlab.plain.insert(path.to_owned(), discussions);
    let mut pages = 0;
    let host = TestHost::new(gitlab).hook(move |gitlab, request| {
        if request.path.ends_with("/discussions") {
            pages += 1;
            if pages == 2 {
                gitlab.plain.get_mut(path).expect("there").drain(..3);
            }
        }
    });
    host.sync(&only("issue,note")).expect("reads");
    let ids = host.written_ids();
    assert!((4..=250).all(|id| ids.contains(&format!("gl:note:42/{id}"))));
    assert_eq!(ids.len(), 251, "each once");
}

#[test]
fn a_cursor_that_makes_no_sense_means_reading_all_again() {
    for garbage in [
        "",
        "nonsense",
        "[]",
        "{}",
        r#"{"updated_after": 5}"#,
        r#"{"updated_after":"2999-01-01T00:00:00Z"}"#,
    ] {
        let host = TestHost::new(with_discussions());
        for stream in [
            "merge_requests",
            "issues",
            "commits",
            "pipelines",
            "releases",
        ] {
            host.state
                .borrow_mut()
                .insert(format!("42/{stream}"), garbage.to_owned());
        }
        host.gitlab
            .borrow_mut()
            .commits
            .insert("/projects/42".to_owned(), history(3));
        host.gitlab.borrow_mut().plain.insert(
            "/projects/42/releases".to_owned(),
            vec![json!({"tag_name": "v1", "created_at": "2026-11-20T10:00:00Z"})],
        );
        host.sync(&json!({"projects": [42]})).expect("reads");
        assert_eq!(
            host.written_ids().len(),
            10,
            "{garbage}: {:?}",
            host.written_ids()
        );
        assert!(
            host.calls
                .borrow()
                .iter()
                .any(|call| matches!(call, Call::Log(Level::Warn, _))),
            "{garbage}"
        );
    }
    for garbage in [
        r#"{"branch":"main","head":"0000001","page":0}"#,
        r#"{"branch":"main","head":"0000001","page":18446744073709551615}"#,
        r#"{"branch":"main","head":"0000001","page":900}"#,
        r#"{"branch":"main","head":"not a sha"}"#,
        r#"{"branch":7}"#,
    ] {
        let host = TestHost::new(with_commits(120));
        host.state
            .borrow_mut()
            .insert("42/commits".to_owned(), garbage.to_owned());
        host.sync(&only("commit")).expect("reads");
        assert_eq!(
            written_commits(&host),
            (1..=120).collect::<Vec<_>>(),
            "{garbage}"
        );
    }
}

#[test]
fn since_reads_again_from_an_earlier_time_and_limits_a_first_run() {
    let host = TestHost::new(with_discussions());
    host.sync_since(&only("issue"), Some("2026-11-20T11:30:00Z"))
        .expect("reads");
    assert_eq!(host.written_ids(), ["gl:issue:42/4"]);
    host.sync_since(&only("issue"), Some("2026-11-20T00:00:00Z"))
        .expect("reads");
    assert_eq!(host.written_ids(), ["gl:issue:42/3", "gl:issue:42/4"]);
    let failure = host
        .sync_since(&only("issue"), Some("yesterday"))
        .expect_err("no time");
    assert!(matches!(failure, Failure::Configuration(words) if words.contains("yesterday")));
}

#[test]
fn what_must_be_forgotten_is_found_however_late_the_user_reads_again_from() {
    let mut gitlab = with_discussions();
    let secret = json!({"title": "Secret", "confidential": true, "user_notes_count": 0});
    gitlab.add("issues", 5, "2026-11-20T09:00:00Z", secret);
    let host = TestHost::new(gitlab);
    let everything = json!({"projects": [42], "events": "issue", "include_confidential": true});
    host.sync(&everything).expect("reads");
    assert!(host.written_ids().contains(&"gl:issue:42/5".to_owned()));
    host.sync_since(&only("issue"), Some("2026-11-20T11:30:00Z"))
        .expect("reads");
    assert_eq!(host.retracted(), ["gl:issue:42/5"]);
    let cursor = host.cursor("42/issues").expect("a cursor");
    assert_eq!(cursor.get("since"), None, "everything was read");
}

#[test]
fn what_a_first_run_left_out_stays_out_when_the_settings_change() {
    let host = TestHost::new(with_discussions());
    host.sync_since(&only("issue"), Some("2026-11-20T11:30:00Z"))
        .expect("reads");
    let with_confidential =
        json!({"projects": [42], "events": "issue", "include_confidential": true});
    host.sync(&with_confidential).expect("reads");
    assert_eq!(host.written_ids(), ["gl:issue:42/4"]);
    host.sync_since(&only("issue"), Some("2026-11-20T11:00:00Z"))
        .expect("reads");
    assert_eq!(
        host.written_ids(),
        ["gl:issue:42/3", "gl:issue:42/4"],
        "the user wants more now"
    );
    let cursor = host.cursor("42/issues").expect("a cursor");
    assert_eq!(cursor["since"], "2026-11-20T11:00:00Z");
}

#[test]
fn child_pipelines_are_left_out_from_where_the_first_run_left_out_the_others() {
    let host = TestHost::new(FakeGitLab::with_project());
    host.sync_since(&only("pipeline"), Some("2026-11-20T00:00:00Z"))
        .expect("reads");
    host.sync(&only("pipeline")).expect("reads");
    let requests = host.requests.borrow();
    let of_children = requests
        .iter()
        .find(|request| asked(request, "source") == Some("parent_pipeline"))
        .expect("asked for");
    assert_eq!(
        asked(of_children, "updated_after"),
        Some("2026-11-20T00:00:00Z")
    );
}

#[test]
fn a_run_that_is_stopped_goes_on_at_the_page_it_had_reached() {
    let mut gitlab = FakeGitLab::with_project();
    for id in 0..450 {
        let minute = format!("2026-11-20T{:02}:{:02}:00Z", id / 60, id % 60);
        gitlab.add("issues", id, &minute, json!({"title": "t"}));
    }
    let host = TestHost::new(gitlab);
    host.interrupt_after.set(Some(3));
    assert_eq!(host.sync(&only("issue")), Err(Failure::Interrupted));
    assert_eq!(
        host.written().len(),
        199,
        "two pages, the second of which starts with the last row of the first"
    );
    let reached = host.cursor("42/issues").expect("a cursor")["updated_after"].clone();
    assert_eq!(reached, "2026-11-20T03:18:00Z");
    host.interrupt_after.set(None);
    host.sync(&only("issue")).expect("reads");
    assert_eq!(
        host.written().len(),
        252,
        "the rest, and the last row once more"
    );
}

#[test]
fn a_feature_that_is_off_is_a_state_and_no_failure() {
    let mut gitlab = with_discussions();
    gitlab.refusals.insert(
        "/projects/42/pipelines".to_owned(),
        refusal(403, "403 Forbidden"),
    );
    gitlab.refusals.insert(
        "/projects/42/repository/commits".to_owned(),
        refusal(404, "404 Repository Not Found"),
    );
    let host = TestHost::new(gitlab);
    host.sync(&json!({"projects": [42]}))
        .expect("reads the rest");
    assert_eq!(
        host.status("42/pipelines"),
        Some(StreamState::Off("403 Forbidden".to_owned()))
    );
    assert_eq!(
        host.status("42/commits"),
        Some(StreamState::Off("404 Repository Not Found".to_owned()))
    );
    assert_eq!(
        (host.cursor("42/pipelines"), host.cursor("42/commits")),
        (None, None)
    );
}

#[test]
fn a_project_that_disappears_during_the_run_is_a_failure_and_not_a_feature_that_is_off() {
    let mut gitlab = with_discussions();
    gitlab.refusals.insert(
        "/projects/42/issues".to_owned(),
        refusal(404, "404 Project Not Found"),
    );
    let mut first = true;
    let host = TestHost::new(gitlab).handler(move |request| {
        if request.path != "/api/v4/projects/42" || std::mem::take(&mut first) {
            return None;
        }
        Some(answer(404, &[], r#"{"message":"404 Project Not Found"}"#))
    });
    let failure = host.sync(&only("issue")).expect_err("incomplete");
    assert!(matches!(failure, Failure::Unavailable(words) if words.contains("42/issues")));
    assert!(
        matches!(host.status("42/issues"), Some(StreamState::Failed(reason)) if reason.contains("no longer be seen"))
    );
}

#[test]
fn one_stream_that_fails_holds_its_cursor_and_does_not_stop_the_others() {
    let host = TestHost::new(with_discussions()).handler(|request| {
        (request.path.ends_with("/merge_requests")).then(|| {
            Err(crate::host::HttpError::Unavailable(
                "502 for 10 minutes".to_owned(),
            ))
        })
    });
    let failure = host
        .sync(&json!({"projects": [42]}))
        .expect_err("incomplete");
    assert!(
        matches!(&failure, Failure::Unavailable(words) if words.contains("42/merge_requests") && words.contains("502"))
    );
    assert!(matches!(
        host.status("42/merge_requests"),
        Some(StreamState::Failed(_))
    ));
    assert_eq!(host.cursor("42/merge_requests"), None);
    assert_eq!(host.status("42/issues"), Some(StreamState::Complete));
}

#[test]
fn a_token_that_is_refused_stops_everything() {
    let body = r#"{"error":"invalid_token","error_description":"Token was revoked. You have to re-authorize from the user."}"#;
    let host = TestHost::new(with_discussions()).handler(move |request| {
        request
            .path
            .contains("discussions")
            .then(|| answer(401, &[], body))
    });
    let failure = host.sync(&json!({"projects": [42]})).expect_err("refused");
    assert!(
        matches!(&failure, Failure::Standing(words) if words.contains("Token was revoked")),
        "{failure:?}"
    );
}

#[test]
fn an_answer_of_another_shape_is_asked_for_again_after_a_while() {
    let mut wrong = 2;
    let host = TestHost::new(with_discussions()).handler(move |request| {
        let hit = request.path.ends_with("/issues") && wrong > 0;
        wrong -= i32::from(hit);
        hit.then(|| answer(200, &[], r#"{"message":"maintenance"}"#))
    });
    host.sync(&only("issue")).expect("reads");
    assert_eq!(host.written_ids().len(), 2);
    let delays: Vec<u32> = host
        .requests
        .borrow()
        .iter()
        .filter(|request| request.path.ends_with("/issues"))
        .map(|request| request.delay_ms)
        .collect();
    assert_eq!(delays, [0, 1_000, 5_000]);

    let host = TestHost::new(with_discussions()).handler(|request| {
        request
            .path
            .ends_with("/issues")
            .then(|| answer(200, &[], "7"))
    });
    assert!(matches!(
        host.sync(&only("issue")),
        Err(Failure::Unavailable(_))
    ));
}

#[test]
fn pipelines_are_looked_up_when_they_are_finished_and_counted_when_not() {
    let mut gitlab = FakeGitLab::with_project();
    for (id, listed, now) in [
        (1, "success", Some("success")),
        (2, "running", None),
        (3, "failed", Some("running")),
        (4, "failed", None),
    ] {
        gitlab.add(
            "pipelines",
            id,
            "2026-11-20T10:00:00Z",
            json!({"status": listed}),
        );
        if let Some(now) = now {
            gitlab.objects.insert(
                format!("/projects/42/pipelines/{}", 1000 + id),
                json!({"status": now, "duration": 61.5}),
            );
        }
    }
    let host = TestHost::new(gitlab);
    host.sync(&only("pipeline")).expect("reads");
    assert_eq!(host.written_ids(), ["gl:pipeline:42/1001"]);
    assert_eq!(
        (
            host.skipped("pipeline-not-finished"),
            host.skipped("pipeline-deleted")
        ),
        (2, 1)
    );

    host.sync(&json!({"projects": [42], "events": "pipeline", "pipeline_statuses": ["running", "success"]})).expect("reads");
    assert!(host.logged("pipeline_statuses has new values"));
}

/// Finished pipelines, the first of which have no `updated_at`.
fn with_pipelines(timeless: u64, count: u64) -> FakeGitLab {
    let mut gitlab = FakeGitLab::with_project();
    for id in 1..=count {
        let mut row = json!({"status": "success"});
        if id <= timeless {
            row["updated_at"] = Value::Null;
        }
        let at = format!("2026-11-20T10:{:02}:{:02}Z", id / 60, id % 60);
        gitlab.add("pipelines", id, &at, row);
        gitlab.objects.insert(
            format!("/projects/42/pipelines/{}", 1000 + id),
            json!({"id": 1000 + id, "status": "success", "created_at": "2026-11-20T10:00:00Z"}),
        );
    }
    gitlab
}

#[test]
fn pipelines_without_a_time_are_found_although_one_goes_and_one_comes_meanwhile() {
    let mut lists = 0;
    let host = TestHost::new(with_pipelines(130, 250)).hook(move |gitlab, request| {
        let is_by_id = asked(request, "order_by") == Some("id");
        lists += u64::from(is_by_id);
        if is_by_id && lists == 2 {
            // One on a page that was read, whichever end it began at, and as many new ones.
            let rows = gitlab.lists.get_mut("/projects/42/pipelines");
            rows.expect("there")
                .retain(|row| ![1005, 1245].contains(&row.id));
            for id in [251, 252] {
                gitlab.add("pipelines", id, "2026-11-22T10:00:01Z", json!({}));
            }
        }
    });
    host.sync(&only("pipeline")).expect("reads");
    let written = host.written_ids();
    for id in (1..=130).filter(|id| *id != 5) {
        let id = format!("gl:pipeline:42/{}", 1000 + id);
        assert!(written.contains(&id), "{id}");
    }
}

#[test]
fn pipelines_without_a_time_are_found_although_as_many_are_met_twice() {
    let mut lists = 0;
    let host = TestHost::new(with_pipelines(3, 123)).hook(move |gitlab, request| {
        lists += u64::from(request.path.ends_with("/pipelines"));
        if lists == 2 {
            lists += 1;
            let rows = gitlab.lists.get_mut("/projects/42/pipelines");
            for row in &mut rows.expect("there")[10..13] {
                row.updated = micros("2026-11-22T10:00:01Z");
            }
        }
    });
    host.sync(&only("pipeline")).expect("reads");
    let written: std::collections::BTreeSet<_> = host.written_ids().into_iter().collect();
    assert_eq!(host.written_ids().len(), 123 + 3, "three are met twice");
    assert_eq!(written.len(), 123);
}

#[test]
fn child_pipelines_have_a_walk_and_a_position_of_their_own() {
    let mut gitlab = FakeGitLab::with_project();
    gitlab.objects.insert(
        "/projects/42/pipelines/1001".to_owned(),
        json!({"status": "success"}),
    );
    let host = TestHost::new(gitlab).handler(|request| {
        (asked(request, "source") == Some("parent_pipeline")).then(|| {
            answer(
                200,
                &[],
                r#"[{"id": 1001, "status": "success", "updated_at": "2026-11-20T10:00:00Z"}]"#,
            )
        })
    });
    host.sync(&json!({"projects": [42], "events": "pipeline", "child_pipelines": false}))
        .expect("reads");
    assert!(host.written().is_empty());
    host.sync(&only("pipeline")).expect("reads");
    assert_eq!(host.written_ids(), ["gl:pipeline:42/1001"]);
    assert_eq!(
        host.cursor("42/pipelines").expect("a cursor")["child_updated_after"],
        OVERLAPPED_NOW
    );
}

#[test]
fn commits_come_oldest_first_and_then_only_the_new_ones() {
    let host = TestHost::new(with_commits(250));
    host.sync(&only("commit")).expect("reads");
    assert_eq!(written_commits(&host), (1..=250).collect::<Vec<_>>());
    host.gitlab
        .borrow_mut()
        .commits
        .insert("/projects/42".to_owned(), history(253));
    host.sync(&only("commit")).expect("reads");
    assert_eq!(written_commits(&host), [251, 252, 253]);
    host.sync(&only("commit")).expect("reads");
    assert!(host.written().is_empty());
    assert_eq!(host.requests.borrow().len(), 2, "the project and its head");
}

#[test]
fn a_long_history_is_read_from_its_last_page_and_goes_on_where_it_was_stopped() {
    let host = TestHost::new(with_commits(7_777));
    host.interrupt_after.set(Some(80));
    assert_eq!(host.sync(&only("commit")), Err(Failure::Interrupted));
    let first = written_commits(&host);
    assert!(!first.is_empty() && first.iter().copied().eq(1..=first.len()));
    let cursor = host.cursor("42/commits").expect("a cursor");
    assert_eq!(cursor["page"], 78 - first.len().div_ceil(100));

    host.interrupt_after.set(None);
    host.gitlab
        .borrow_mut()
        .commits
        .insert("/projects/42".to_owned(), history(7_780));
    host.sync(&only("commit")).expect("reads");
    let second = written_commits(&host);
    let start = *second.first().expect("some");
    assert!(start <= first.len() + 1);
    assert_eq!(second, (start..=7_780).collect::<Vec<_>>());
    assert_eq!(
        host.cursor("42/commits"),
        Some(json!({"branch": "main", "head": history(7_780)[0]}))
    );
}

#[test]
fn a_history_that_was_stopped_is_read_from_an_earlier_time_where_the_user_wants_that_now() {
    let host = TestHost::new(with_commits(7_777));
    host.interrupt_after.set(Some(80));
    let stopped = host.sync_since(&only("commit"), Some("2026-06-01T00:00:00Z"));
    assert_eq!(stopped, Err(Failure::Interrupted));
    let cursor = host.cursor("42/commits").expect("a cursor");
    assert!(cursor["page"].is_u64(), "{cursor}");

    host.interrupt_after.set(None);
    let earlier = "2025-01-01T00:00:00Z";
    host.sync_since(&only("commit"), Some(earlier))
        .expect("reads");
    let requests = host.requests.borrow();
    let wanted = requests
        .iter()
        .filter(|request| asked(request, "since") == Some(earlier));
    assert!(wanted.count() >= 78, "the whole list");
    let cursor = host.cursor("42/commits").expect("a cursor");
    assert_eq!(
        (&cursor["since"], cursor.get("page")),
        (&json!(earlier), None)
    );
}

#[test]
fn a_history_that_ends_with_a_full_page_is_read_whole() {
    for count in [100, 101, 200, 5_200, 5_300, 5_301] {
        let host = TestHost::new(with_commits(count));
        host.sync(&only("commit")).expect("reads");
        assert_eq!(
            written_commits(&host),
            (1..=count).collect::<Vec<_>>(),
            "{count}"
        );
    }
}

/// How often it was asked for one commit alone: for the head, and where a last page is searched.
fn searches(host: &TestHost) -> usize {
    let requests = host.requests.borrow();
    let single = requests.iter().filter(|request| {
        request.path.ends_with("/repository/commits") && asked(request, "per_page") == Some("1")
    });
    single.count()
}

#[test]
fn a_history_waits_in_memory_for_its_end_as_long_as_its_texts_are_small() {
    for (message_bytes, expected) in [(100, 1..=1), (3_000, 4..=8)] {
        let mut gitlab = with_commits(950);
        let messages = ("/projects/42".to_owned(), message_bytes);
        gitlab.message_bytes.extend([messages]);
        let host = TestHost::new(gitlab);
        host.sync(&only("commit")).expect("reads");
        assert_eq!(written_commits(&host), (1..=950).collect::<Vec<_>>());
        let searches = searches(&host);
        assert!(expected.contains(&searches), "{message_bytes}: {searches}");
    }
}

/// Projects from 42 on, each with so many commits with messages of so many bytes.
fn with_histories(histories: &[(usize, usize)]) -> (FakeGitLab, Value) {
    let mut gitlab = FakeGitLab::with_project();
    for (id, (count, message_bytes)) in (42..).zip(histories) {
        let mut project = project();
        project["id"] = id.into();
        project["path_with_namespace"] = format!("acme/team/{id}").into();
        let path = format!("/projects/{id}");
        gitlab.commits.insert(path.clone(), history(*count));
        gitlab.message_bytes.insert(path.clone(), *message_bytes);
        gitlab.objects.insert(path, project);
    }
    let ids: Vec<usize> = (42..42 + histories.len()).collect();
    (gitlab, json!({"projects": ids, "events": "commit"}))
}

#[test]
fn histories_that_wait_at_the_same_time_share_the_room() {
    let (gitlab, settings) = with_histories(&[(700, 1_000); 8]);
    let host = TestHost::new(gitlab);
    host.sync(&settings).expect("reads");
    assert_eq!(host.written_ids().len(), 8 * 700);
    assert!(
        searches(&host) > 8,
        "one for each head, and some last pages"
    );
}

#[test]
fn a_history_that_is_written_gives_its_room_to_the_next() {
    let mut histories = vec![(1, 60_000); 24];
    histories.push((900, 20));
    let (gitlab, settings) = with_histories(&histories);
    let host = TestHost::new(gitlab);
    host.sync(&settings).expect("reads");
    assert_eq!(host.written_ids().len(), 24 + 900);
    assert_eq!(searches(&host), 25, "one for each head");
}

#[test]
fn after_a_force_push_history_is_read_back_to_what_is_known() {
    let host = TestHost::new(with_commits(450));
    host.sync(&only("commit")).expect("reads");
    // The last 30 are replaced by 10 others.
    let mut rewritten: Vec<String> = (1..=10)
        .rev()
        .map(|number| format!("{:040x}", 0xa000 + number))
        .collect();
    rewritten.extend(history(420));
    host.gitlab
        .borrow_mut()
        .commits
        .insert("/projects/42".to_owned(), rewritten);
    host.sync(&only("commit")).expect("reads");
    let written = written_commits(&host);
    assert!(
        written.ends_with(&(0xa001..=0xa00a).collect::<Vec<_>>()),
        "{written:?}"
    );
    assert!(written.len() <= 100, "one page, not the whole history");
    assert!(host.logged("not below the head any more"));
}

#[test]
fn another_default_branch_is_read_back_to_what_is_known() {
    let host = TestHost::new(with_commits(120));
    host.state.borrow_mut().insert(
        "42/commits".to_owned(),
        json!({"branch": "master", "head": history(50)[0]}).to_string(),
    );
    let known = history(50)
        .into_iter()
        .map(|sha| format!("gl:commit:42/{sha}"));
    host.known.borrow_mut().extend(known);
    host.sync(&only("commit")).expect("reads");
    assert_eq!(
        host.cursor("42/commits"),
        Some(json!({"branch": "main", "head": history(120)[0]}))
    );
    assert!((51..=120).all(|number| written_commits(&host).contains(&number)));
}

#[test]
fn repositories_without_commits_are_off() {
    for (key, value) in [
        ("default_branch", Value::Null),
        ("empty_repo", true.into()),
        ("path", "with a branch but no commits".into()),
    ] {
        let mut gitlab = FakeGitLab::with_project();
        let mut project = project();
        project[key] = value;
        gitlab.objects.insert("/projects/42".to_owned(), project);
        let host = TestHost::new(gitlab);
        host.sync(&only("commit"))
            .expect("nothing to read is no failure");
        assert!(
            matches!(host.status("42/commits"), Some(StreamState::Off(_))),
            "{key}"
        );
    }
}

#[test]
fn a_renamed_project_is_read_by_the_id_it_has_moved_to() {
    let host = TestHost::new(with_discussions()).handler(|request| {
        (request.path == "/api/v4/projects/acme%2Fold").then(|| {
            let location = "http://internal.example/api/v4/projects/42?license=true";
            answer(
                301,
                &[("location", location)],
                "This resource has been moved permanently to …",
            )
        })
    });
    host.sync(&json!({"projects": ["acme/old"], "events": ["issue"]}))
        .expect("reads");
    assert_eq!(host.written_ids().len(), 2);
}

#[test]
fn groups_are_resolved_to_their_projects_and_nothing_to_read_is_said() {
    let mut gitlab = with_discussions();
    gitlab.objects.insert(
        "/groups/acme%2Fteam".to_owned(),
        json!({"id": 5, "full_path": "acme/team"}),
    );
    gitlab
        .plain
        .insert("/groups/5/projects".to_owned(), vec![project(), project()]);
    let host = TestHost::new(gitlab);
    host.sync(&json!({"groups": ["acme/team"], "events": ["issue"]}))
        .expect("reads");
    assert_eq!(host.written_ids().len(), 2);
    let listing = host
        .requests
        .borrow()
        .iter()
        .find(|request| request.path.ends_with("/groups/5/projects"))
        .cloned();
    let listing = listing.expect("listed");
    assert_eq!(
        (
            asked(&listing, "include_subgroups"),
            asked(&listing, "with_shared")
        ),
        (Some("true"), Some("false"))
    );

    host.gitlab
        .borrow_mut()
        .plain
        .insert("/groups/5/projects".to_owned(), Vec::new());
    let failure = host
        .sync(&json!({"groups": ["acme/team"]}))
        .expect_err("empty");
    assert!(
        matches!(&failure, Failure::Configuration(words) if words.contains("nothing to read")),
        "{failure:?}"
    );
    let failure = host
        .sync(&json!({"groups": ["acme/gone", 9]}))
        .expect_err("unknown");
    assert!(
        matches!(&failure, Failure::Configuration(words)
            if words.contains("acme/gone") && words.contains("group 9") && words.contains("GITLAB_GROUP_IDS")),
        "{failure:?}"
    );
}

#[test]
fn without_names_every_membership_is_read_through_keyset_pages() {
    let host = TestHost::new(with_discussions()).handler(|request| {
        if request.path != "/api/v4/projects" {
            return None;
        }
        assert_eq!((asked(request, "membership"), asked(request, "pagination")), (Some("true"), Some("keyset")));
        let next = "<https://other.example/api/v4/projects?id_after=42&membership=true&pagination=keyset&per_page=100>; rel=\"next\"";
        Some(match asked(request, "id_after") {
            None => answer(200, &[("link", next)], &json!([project()]).to_string()),
            Some(_) => answer(200, &[], "[]"),
        })
    });
    host.sync(&json!({"events": ["issue"]})).expect("reads");
    assert_eq!(host.written_ids().len(), 2);

    let host = TestHost::new(FakeGitLab::default())
        .handler(|request| (request.path == "/api/v4/projects").then(|| answer(200, &[], "[]")));
    let failure = host.sync(&json!({})).expect_err("no membership");
    assert!(
        matches!(&failure, Failure::Configuration(words) if words.contains("nothing to read")),
        "{failure:?}"
    );
}

#[test]
fn memberships_are_read_to_the_end_where_a_proxy_removes_the_links() {
    let page = |after: u64| -> Vec<Value> {
        let ids = (after + 1..=250).take(100);
        let row = |id| json!({"id": id, "path_with_namespace": format!("acme/p{id}"), "issues_enabled": false});
        ids.map(row).collect()
    };
    let host = TestHost::new(FakeGitLab::default()).handler(move |request| {
        assert_eq!(request.path, "/api/v4/projects");
        let after = asked(request, "id_after").map_or(0, |id| id.parse().expect("an id"));
        Some(answer(200, &[], &Value::from(page(after)).to_string()))
    });
    host.sync(&json!({"events": ["issue"]})).expect("reads");
    assert_eq!(host.requests.borrow().len(), 3);
    assert!(host.status("250/issues").is_some());

    let nameless = Value::from(vec![json!({}); 100]).to_string();
    let host =
        TestHost::new(FakeGitLab::default()).handler(move |_| Some(answer(200, &[], &nameless)));
    let failure = host.sync(&json!({})).expect_err("cannot go on");
    assert!(
        matches!(&failure, Failure::Unavailable(words) if words.contains("Link")),
        "{failure:?}"
    );
}

#[test]
fn never_more_than_thirty_two_requests_are_in_flight() {
    let mut gitlab = FakeGitLab::with_project();
    for id in 1..=300 {
        gitlab.add(
            "issues",
            id,
            "2026-11-20T10:00:00Z",
            json!({"title": "t", "user_notes_count": 1}),
        );
        gitlab.plain.insert(
            format!("/projects/42/issues/{id}/discussions"),
            vec![json!({"id": "d", "notes": [note(id, "x")]})],
        );
    }
    let host = TestHost::new(gitlab);
    host.sync(&json!({"projects": [42]})).expect("reads");
    assert_eq!(host.most_in_flight.get(), 32);
    assert_eq!(host.written_ids().len(), 600);
}

#[test]
fn without_a_date_header_the_hosts_clock_is_used_and_trusted_less() {
    let mut gitlab = with_discussions();
    gitlab.hide_date = true;
    let host = TestHost::new(gitlab);
    host.sync(&only("issue")).expect("reads");
    assert_eq!(NOW, "2026-11-22T10:00:00Z");
    assert_eq!(
        host.cursor("42/issues").expect("a cursor")["updated_after"],
        OVERLAPPED_BY_OWN_CLOCK
    );
}

#[test]
fn records_without_an_id_are_counted() {
    let mut gitlab = FakeGitLab::with_project();
    let row = Row {
        id: 1,
        updated: micros("2026-11-20T10:00:00Z"),
        body: json!({"title": "nameless"}),
    };
    gitlab
        .lists
        .get_mut("/projects/42/issues")
        .expect("there")
        .push(row);
    let host = TestHost::new(gitlab);
    host.sync(&only("issue")).expect("reads");
    assert_eq!(host.skipped("without-id"), 1);
}

#[test]
fn check_says_what_is_wrong_and_what_to_do() {
    let mut gitlab = with_discussions();
    let token = json!({"name": "sync", "active": true, "scopes": ["read_user"], "expires_at": "2026-12-01"});
    gitlab
        .objects
        .insert("/personal_access_tokens/self".to_owned(), token);
    gitlab
        .objects
        .insert("/version".to_owned(), json!({"version": "14.10.5"}));
    gitlab.refusals.insert(
        "/projects/42/pipelines".to_owned(),
        refusal(403, "403 Forbidden"),
    );
    let host = TestHost::new(gitlab);
    let settings = json!({"projects": [42, "acme/gone"], "groups": [9]});
    let findings = crate::check(&host, &context(&settings, None)).expect("asked");
    let lines: Vec<_> = findings
        .iter()
        .map(|finding| {
            let mark = match finding.severity {
                Severity::Ok => "ok",
                Severity::Notice => "notice",
                Severity::Problem => "problem",
            };
            assert_eq!(
                finding.remedy.is_some(),
                finding.severity == Severity::Problem || finding.message.contains("expires")
            );
            format!("{mark}: {}: {}", finding.subject, finding.message)
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    problem: token: The token "sync" has the scopes read_user, which do not include read_api.
    notice: token: The token expires on 2026-12-01, in 8 days.
    ok: GitLab: Version 14.10.5.
    ok: project 42: Found, id 42.
    problem: project acme/gone: GitLab answers "404 Not found".
    problem: group 9: GitLab answers "404 Not found".
    notice: project acme/team/widget: CI/CD: off, or not for this token's user (GitLab answers "403 Forbidden"). It is left out until that changes.
    "#);
    assert!(host.written().is_empty());
}

#[test]
fn check_takes_a_refused_token_for_a_finding_and_an_oauth_token_for_a_token() {
    let host = TestHost::new(FakeGitLab::default())
        .handler(|_| Some(answer(401, &[], r#"{"message":"401 Unauthorized"}"#)));
    let findings = crate::check(&host, &context(&json!({}), None)).expect("asked");
    assert_eq!(findings.len(), 1);
    assert_eq!(
        (findings[0].severity, findings[0].subject.as_str()),
        (Severity::Problem, "token")
    );

    let mut gitlab = with_discussions();
    gitlab.refusals.insert(
        "/personal_access_tokens/self".to_owned(),
        refusal(400, "400 Bad request"),
    );
    gitlab
        .objects
        .insert("/user".to_owned(), json!({"id": 1, "username": "ada"}));
    let host = TestHost::new(gitlab);
    let findings = crate::check(&host, &context(&json!({"projects": [42]}), None)).expect("asked");
    assert!(findings[0].message.contains("ada"));
}
