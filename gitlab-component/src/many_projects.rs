//! A group of thirty projects: what is asked of GitLab, and that nothing is missed by asking less.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::{Value, json};

use crate::host::{Failure, HttpError, Mode, RunContext, StreamState};
use crate::testing::{FakeGitLab, Row, TestHost, context, micros};

const PROJECTS: std::ops::Range<u64> = 101..131;
const LONG_AGO: &str = "2026-11-01T00:00:00Z";

/// Thirty projects with one issue and one merge request each, in which nothing has happened for weeks.
fn group() -> FakeGitLab {
    let mut gitlab = FakeGitLab::default();
    gitlab.objects.insert(
        "/groups/5".to_owned(),
        json!({"id": 5, "full_path": "acme"}),
    );
    for id in PROJECTS {
        for list in ["merge_requests", "issues", "pipelines"] {
            gitlab
                .lists
                .insert(format!("/projects/{id}/{list}"), Vec::new());
        }
        gitlab
            .plain
            .insert(format!("/projects/{id}/releases"), Vec::new());
        gitlab
            .commits
            .insert(format!("/projects/{id}"), vec![format!("{id:040x}")]);
        put(&mut gitlab, id, "issues", 1, "2026-10-01T00:00:00Z", 0);
        put(
            &mut gitlab,
            id,
            "merge_requests",
            1,
            "2026-10-01T00:00:00Z",
            0,
        );
        active(&mut gitlab, id, LONG_AGO);
    }
    gitlab
}

fn put(gitlab: &mut FakeGitLab, project: u64, list: &str, iid: u64, updated: &str, comments: u64) {
    let id = project * 1000 + iid;
    let rows = gitlab
        .lists
        .get_mut(&format!("/projects/{project}/{list}"))
        .expect("a list");
    rows.retain(|row| row.id != id);
    rows.push(Row {
        id,
        updated: micros(updated),
        body: json!({"iid": iid, "title": format!("{list} {iid} of {updated}"), "user_notes_count": comments}),
    });
}

/// Sets when something last happened in a project.
fn active(gitlab: &mut FakeGitLab, id: u64, at: &str) {
    let project = json!({
        "id": id, "path_with_namespace": format!("acme/p{id}"), "default_branch": "main", "last_activity_at": at, "updated_at": LONG_AGO,
    });
    let projects = gitlab
        .plain
        .entry("/groups/5/projects".to_owned())
        .or_default();
    projects.retain(|other| other["id"] != id);
    projects.push(project.clone());
    gitlab.objects.insert(format!("/projects/{id}"), project);
}

/// Runs at a time of the day; answers the paths that were asked for.
fn poll(host: &TestHost, time: &str) -> Vec<String> {
    poll_with(host, time, &json!({"groups": [5]})).expect("reads")
}

fn poll_with(host: &TestHost, time: &str, settings: &Value) -> Result<Vec<String>, Failure> {
    host.gitlab.borrow_mut().date = Some(format!("Sun, 22 Nov 2026 {time} GMT"));
    host.sync_with(&RunContext {
        now: format!("2026-11-22T{time}Z"),
        ..context(settings, None)
    })?;
    let requests = host.requests.borrow();
    Ok(requests
        .iter()
        .map(|request| request.path["/api/v4".len()..].to_owned())
        .collect())
}

fn about<'p>(paths: &'p [String], what: &str) -> Vec<&'p str> {
    let paths = paths.iter().map(String::as_str);
    paths.filter(|path| path.ends_with(what)).collect()
}

#[test]
fn an_idle_poll_asks_the_group_and_no_project() {
    let host = TestHost::new(group());
    let first = poll(&host, "10:00:00");
    assert!(
        first.len() > 30 * 5,
        "everything is read once: {}",
        first.len()
    );
    assert_eq!(host.written_ids().len(), 30 * 3);
    let mut second = poll(&host, "10:05:00");
    second.sort();
    assert_eq!(
        second,
        [
            "/groups/5",
            "/groups/5/issues",
            "/groups/5/merge_requests",
            "/groups/5/projects"
        ]
    );
    assert_eq!(host.written_ids(), Vec::<String>::new());
    for stream in ["115/issues", "115/commits", "115/pipelines", "115/releases"] {
        assert_eq!(host.status(stream), Some(StreamState::Complete), "{stream}");
    }
}

#[test]
fn what_changes_in_any_project_is_found_in_the_list_of_the_group() {
    let host = TestHost::new(group());
    poll(&host, "10:00:00");
    {
        let mut gitlab = host.gitlab.borrow_mut();
        put(&mut gitlab, 107, "issues", 1, "2026-11-22T10:01:00Z", 0);
        put(
            &mut gitlab,
            120,
            "merge_requests",
            2,
            "2026-11-22T10:02:00Z",
            1,
        );
        let note = json!({"id": 9, "body": "words", "created_at": "2026-11-22T10:02:00Z"});
        gitlab.plain.insert(
            "/projects/120/merge_requests/2/discussions".to_owned(),
            vec![json!({"id": "d", "notes": [note]})],
        );
    }
    let paths = poll(&host, "10:05:00");
    let mut written = host.written_ids();
    written.sort();
    assert_eq!(
        written,
        ["gl:issue:107/1", "gl:merge_request:120/2", "gl:note:120/9"]
    );
    assert_eq!(paths.len(), 5, "{paths:?}");
    for project in PROJECTS {
        let cursor = host.cursor(&format!("{project}/issues")).expect("a cursor");
        assert_eq!(cursor["updated_after"], "2026-11-22T10:03:00Z");
    }
}

#[test]
fn a_new_project_with_much_to_read_does_not_hold_up_what_was_read_before() {
    let host = TestHost::new(group());
    poll_with(&host, "10:00:00", &json!({"projects": [102, 103]})).expect("reads");
    {
        let mut gitlab = host.gitlab.borrow_mut();
        for iid in 1..=500 {
            put(&mut gitlab, 101, "issues", iid, "2026-10-01T00:00:00Z", 1);
            gitlab.plain.insert(
                format!("/projects/101/issues/{iid}/discussions"),
                Vec::new(),
            );
        }
        put(&mut gitlab, 103, "issues", 2, "2026-11-22T10:01:00Z", 0);
    }
    let paths = poll_with(&host, "10:05:00", &json!({"projects": [101, 102, 103]})).expect("reads");
    let first = about(&paths, "/discussions").len();
    assert!(first >= 500, "{first}");
    let place = |project: &str| {
        let asked = |path: &String| path.starts_with(project) && path.ends_with("/issues");
        paths.iter().position(asked).expect("is asked")
    };
    assert!(place("/projects/103") < place("/projects/101"), "{paths:?}");
    assert!(place("/projects/102") < place("/projects/101"), "{paths:?}");
}

#[test]
fn hundreds_of_changes_at_once_are_read_from_the_group_page_by_page() {
    let host = TestHost::new(group());
    poll(&host, "10:00:00");
    for project in PROJECTS {
        for iid in 2..14 {
            let at = format!("2026-11-22T10:{:02}:{:02}Z", iid, project % 60);
            put(
                &mut host.gitlab.borrow_mut(),
                project,
                "issues",
                iid,
                &at,
                0,
            );
        }
    }
    let paths = poll(&host, "10:30:00");
    let written: std::collections::BTreeSet<_> = host.written_ids().into_iter().collect();
    assert_eq!(written.len(), 30 * 12);
    assert_eq!(about(&paths, "/groups/5/issues").len(), 4, "{paths:?}");
    assert_eq!(paths.len(), 7, "{paths:?}");
}

#[test]
fn a_group_that_refuses_its_list_is_read_project_by_project_for_a_day() {
    let host = TestHost::new(group());
    poll(&host, "10:00:00");
    let refusal = (404, json!({"message": "404 Not found"}).to_string());
    host.gitlab
        .borrow_mut()
        .refusals
        .insert("/groups/5/issues".to_owned(), refusal);
    put(
        &mut host.gitlab.borrow_mut(),
        107,
        "issues",
        1,
        "2026-11-22T10:01:00Z",
        0,
    );
    let paths = poll(&host, "10:05:00");
    assert_eq!(host.written_ids(), ["gl:issue:107/1"]);
    assert_eq!(about(&paths, "/issues").len(), 1 + 30);
    assert!(host.logged("one by one"));
    let paths = poll(&host, "10:10:00");
    assert_eq!(about(&paths, "/groups/5/issues").len(), 0);
    assert_eq!(about(&paths, "/issues").len(), 30);
    assert_eq!(
        about(&paths, "/merge_requests"),
        ["/groups/5/merge_requests"]
    );
}

/// A host whose GitLab can be made unable to answer for what ends in some path.
fn with_outage() -> (TestHost, Rc<RefCell<&'static str>>) {
    let broken = Rc::new(RefCell::new("nothing"));
    let ending = Rc::clone(&broken);
    let host = TestHost::new(group()).handler(move |request| {
        let is_broken = request.path.ends_with(*ending.borrow());
        is_broken.then(|| Err(HttpError::Unavailable("502 for ten minutes".to_owned())))
    });
    (host, broken)
}

#[test]
fn an_outage_of_gitlab_is_no_refusal_of_the_groups_list() {
    let (host, broken) = with_outage();
    poll(&host, "10:00:00");
    *broken.borrow_mut() = "/issues";
    let failure = poll_with(&host, "10:05:00", &json!({"groups": [5]})).expect_err("fails");
    assert!(matches!(failure, Failure::Unavailable(_)), "{failure:?}");
    *broken.borrow_mut() = "nothing";
    put(
        &mut host.gitlab.borrow_mut(),
        107,
        "issues",
        1,
        "2026-11-22T10:01:00Z",
        0,
    );
    let paths = poll(&host, "10:10:00");
    assert_eq!(about(&paths, "/issues"), ["/groups/5/issues"]);
    assert_eq!(host.written_ids(), ["gl:issue:107/1"]);
}

#[test]
fn a_groups_list_that_alone_does_not_answer_is_not_asked_for_again_for_a_day() {
    let (host, broken) = with_outage();
    poll(&host, "10:00:00");
    *broken.borrow_mut() = "/groups/5/issues";
    assert_eq!(about(&poll(&host, "10:05:00"), "/issues").len(), 1 + 30);
    let paths = poll(&host, "10:10:00");
    assert_eq!(about(&paths, "/groups/5/issues").len(), 0);
    assert_eq!(about(&paths, "/issues").len(), 30);
}

#[test]
fn comments_of_one_project_that_fail_hold_its_cursor_and_no_other() {
    let host = TestHost::new(group());
    poll(&host, "10:00:00");
    let before = host.cursor("107/issues");
    for project in [106, 107] {
        put(
            &mut host.gitlab.borrow_mut(),
            project,
            "issues",
            1,
            "2026-11-22T10:01:00Z",
            1,
        );
    }
    let empty = Vec::new();
    host.gitlab
        .borrow_mut()
        .plain
        .insert("/projects/106/issues/1/discussions".to_owned(), empty);
    let refusal = (403, json!({"message": "403 Forbidden"}).to_string());
    host.gitlab
        .borrow_mut()
        .refusals
        .insert("/projects/107/issues/1/discussions".to_owned(), refusal);
    let failure = poll_with(&host, "10:05:00", &json!({"groups": [5]})).expect_err("fails");
    assert!(
        matches!(&failure, Failure::Unavailable(words) if words.contains("107/issues") && !words.contains("106/issues")),
        "{failure:?}"
    );
    assert_eq!(host.cursor("107/issues"), before);
    let moved = host.cursor("106/issues").expect("a cursor");
    assert_eq!(moved["updated_after"], "2026-11-22T10:03:00Z");
    assert!(matches!(
        host.status("107/issues"),
        Some(StreamState::Failed(_))
    ));
    assert_eq!(host.status("106/issues"), Some(StreamState::Complete));
}

#[test]
fn a_project_is_asked_again_for_an_hour_after_its_last_activity() {
    let host = TestHost::new(group());
    poll(&host, "09:00:00");
    active(&mut host.gitlab.borrow_mut(), 107, "2026-11-22T09:10:00Z");
    // Pushed after the activity, which GitLab does not show within the hour.
    host.gitlab.borrow_mut().commits.insert(
        "/projects/107".to_owned(),
        vec!["a".repeat(40), format!("{:040x}", 107)],
    );
    let paths = poll(&host, "09:15:00");
    assert_eq!(
        host.written_ids(),
        [format!("gl:commit:107/{}", "a".repeat(40))]
    );
    assert!(
        paths
            .iter()
            .all(|path| path.starts_with("/groups/5") || path.starts_with("/projects/107/")),
        "{paths:?}"
    );
    for (time, asked) in [("09:20:00", true), ("09:25:00", true)] {
        let paths = poll(&host, time);
        assert_eq!(
            !about(&paths, "/projects/107/pipelines").is_empty(),
            asked,
            "{time}"
        );
    }
}

#[test]
fn a_pipeline_that_is_no_activity_is_found_by_the_sweep() {
    let host = TestHost::new(group());
    poll(&host, "09:00:00");
    put(
        &mut host.gitlab.borrow_mut(),
        107,
        "pipelines",
        7,
        "2026-11-22T09:01:00Z",
        0,
    );
    host.gitlab
        .borrow_mut()
        .lists
        .get_mut("/projects/107/pipelines")
        .expect("a list")[0]
        .body["status"] = "success".into();
    let id = 107_007;
    host.gitlab.borrow_mut().objects.insert(
        format!("/projects/107/pipelines/{id}"),
        json!({"id": id, "status": "success", "ref": "main", "updated_at": "2026-11-22T09:01:00Z", "created_at": "2026-11-22T09:00:30Z"}),
    );
    assert!(about(&poll(&host, "09:20:00"), "/pipelines").is_empty());
    poll(&host, "10:01:00");
    assert_eq!(host.written_ids(), [format!("gl:pipeline:107/{id}")]);
    // Every project was asked once since nine, but not all in the same run.
    let early = about(&poll(&host, "10:40:00"), "/pipelines").len();
    assert!((1..30).contains(&early), "{early}");
}

#[test]
fn pipelines_that_are_wanted_now_are_read_in_quiet_projects_too() {
    let host = TestHost::new(group());
    let with = |settings: Value| {
        let mut all = json!({"groups": [5]});
        for (key, value) in settings.as_object().expect("settings") {
            all[key] = value.clone();
        }
        all
    };
    let few = with(json!({"child_pipelines": false, "pipeline_statuses": ["success"]}));
    poll_with(&host, "10:00:00", &few).expect("reads");
    let asked = |time: &str, settings: &Value| {
        let paths = poll_with(&host, time, settings).expect("reads");
        about(&paths, "/pipelines").len()
    };
    assert_eq!(asked("10:01:00", &few), 0);
    let failed = with(json!({"child_pipelines": false, "pipeline_statuses": ["failed"]}));
    assert_eq!(asked("10:02:00", &failed), 30);
    assert_eq!(asked("10:03:00", &failed), 0);
    let children = with(json!({"pipeline_statuses": ["failed"]}));
    assert_eq!(asked("10:04:00", &children), 30 * 2, "and the children");
    assert_eq!(asked("10:05:00", &children), 0);
}

#[test]
fn a_sweep_of_nothing_asks_every_time() {
    let host = TestHost::new(group());
    poll(&host, "10:00:00");
    let settings = json!({"groups": [5], "sweep_minutes": 0});
    let paths = poll_with(&host, "10:05:00", &settings).expect("reads");
    assert_eq!(about(&paths, "/releases").len(), 30);
}

#[test]
fn a_feature_that_is_off_is_not_asked_for_in_a_quiet_project_and_still_shown() {
    let mut gitlab = group();
    let refusal = (403, json!({"message": "403 Forbidden"}).to_string());
    for project in PROJECTS {
        let paths =
            ["pipelines", "merge_requests"].map(|list| format!("/projects/{project}/{list}"));
        for path in paths {
            gitlab.refusals.insert(path, refusal.clone());
        }
    }
    let host = TestHost::new(gitlab);
    poll(&host, "10:00:00");
    let mut second = poll(&host, "10:05:00");
    second.sort();
    assert_eq!(
        second,
        ["/groups/5", "/groups/5/issues", "/groups/5/projects"]
    );
    for stream in ["107/pipelines", "107/merge_requests"] {
        assert!(
            matches!(host.status(stream), Some(StreamState::Off(_))),
            "{stream}"
        );
    }
    // Switched on: the project's settings changed.
    host.gitlab.borrow_mut().refusals.clear();
    for project in &mut host
        .gitlab
        .borrow_mut()
        .plain
        .get_mut("/groups/5/projects")
        .expect("projects")[..]
    {
        project["updated_at"] = "2026-11-22T10:06:00Z".into();
    }
    poll(&host, "10:10:00");
    assert_eq!(host.written_ids().len(), 30, "the merge requests");
    assert_eq!(host.status("107/pipelines"), Some(StreamState::Complete));
}

#[test]
fn a_reconcile_pass_and_a_since_ask_every_project() {
    let host = TestHost::new(group());
    poll(&host, "10:00:00");
    host.sync_as(Mode::Reconcile, &json!({"groups": [5]}))
        .expect("reads");
    let requests = host.requests.borrow();
    let asked = requests
        .iter()
        .filter(|request| request.path.ends_with("/pipelines"));
    assert!(asked.count() >= 30);
}

#[test]
fn what_was_deleted_in_one_of_many_projects_is_forgotten_by_a_reconcile_pass() {
    let host = TestHost::new(group());
    poll(&host, "10:00:00");
    for list in ["/projects/107/issues", "/projects/108/merge_requests"] {
        let mut gitlab = host.gitlab.borrow_mut();
        gitlab.lists.get_mut(list).expect("a list").clear();
    }
    poll(&host, "10:05:00");
    assert!(host.retracted().is_empty(), "the group's lists do not tell");
    host.sync_as(Mode::Reconcile, &json!({"groups": [5]}))
        .expect("reads");
    assert_eq!(
        host.retracted(),
        ["gl:issue:107/1", "gl:merge_request:108/1"]
    );
}

#[test]
fn a_pass_over_many_projects_that_goes_on_asks_the_group_for_what_it_has_compared_before() {
    let host = TestHost::new(group());
    poll(&host, "10:00:00");
    let compared = PROJECTS.flat_map(|id| {
        let streams = crate::streams::STREAMS.iter();
        streams.map(move |stream| format!("{id}/{stream}"))
    });
    host.sync_with(&RunContext {
        mode: Mode::Reconcile,
        compared: compared.filter(|name| name != "107/issues").collect(),
        ..context(&json!({"groups": [5]}), None)
    })
    .expect("reads");
    let requests = host.requests.borrow();
    let issues = requests
        .iter()
        .filter(|request| request.path.ends_with("/issues"));
    let asked: Vec<&str> = issues
        .map(|request| &request.path["/api/v4".len()..])
        .collect();
    assert_eq!(
        asked,
        [
            "/groups/5/issues",
            "/projects/107/issues",
            "/projects/107/issues"
        ]
    );
}

#[test]
fn a_named_project_that_was_read_and_is_gone_fails_the_run_and_not_the_others() {
    let mut gitlab = group();
    let found = gitlab.objects["/projects/107"].clone();
    gitlab
        .objects
        .insert("/projects/acme%2Fp107".to_owned(), found);
    let host = TestHost::new(gitlab);
    let settings = json!({"projects": ["acme/p107", 108, 109]});
    poll_with(&host, "10:00:00", &settings).expect("reads");
    for path in ["/projects/acme%2Fp107", "/projects/107", "/projects/108"] {
        host.gitlab.borrow_mut().objects.remove(path);
    }
    put(
        &mut host.gitlab.borrow_mut(),
        109,
        "issues",
        1,
        "2026-11-22T10:01:00Z",
        0,
    );
    let failure = poll_with(&host, "10:05:00", &settings).expect_err("incomplete");
    assert!(
        matches!(&failure, Failure::Unavailable(words)
            if words.contains("acme/p107") && words.contains("project 108") && words.contains("read before")),
        "{failure:?}"
    );
    assert_eq!(host.written_ids(), ["gl:issue:109/1"]);
    // A name that was never read is still a mistake of whoever typed it.
    let failure =
        poll_with(&host, "10:06:00", &json!({"projects": [109, 999]})).expect_err("unknown");
    assert!(matches!(failure, Failure::Configuration(_)), "{failure:?}");
}

#[test]
fn what_is_switched_off_holds_its_cursor_while_the_group_is_read() {
    let host = TestHost::new(group());
    poll(&host, "10:00:00");
    let before = ["issues", "merge_requests"].map(|list| host.cursor(&format!("107/{list}")));
    // Changed, and then switched off: neither is in the group's list.
    {
        let mut gitlab = host.gitlab.borrow_mut();
        for project in gitlab
            .plain
            .get_mut("/groups/5/projects")
            .expect("projects")
        {
            if project["id"] == 107 {
                project["issues_enabled"] = false.into();
                project["merge_requests_enabled"] = false.into();
            }
        }
        let hidden = gitlab.lists.remove("/projects/107/issues").expect("issues");
        gitlab.lists.insert("hidden".to_owned(), hidden);
        let refusal = (403, json!({"message": "403 Forbidden"}).to_string());
        gitlab
            .refusals
            .insert("/projects/107/merge_requests".to_owned(), refusal);
    }
    poll(&host, "10:20:00");
    let after = ["issues", "merge_requests"].map(|list| host.cursor(&format!("107/{list}")));
    for (before, after) in before.into_iter().zip(after) {
        let time = |cursor: Option<Value>| cursor.expect("a cursor")["updated_after"].clone();
        assert_eq!(time(before), time(after));
    }
    assert!(matches!(
        host.status("107/issues"),
        Some(StreamState::Off(_))
    ));
    assert!(matches!(
        host.status("107/merge_requests"),
        Some(StreamState::Off(_))
    ));
}

/// Makes GitLab hide the merge requests of project 107, as it does from a Guest of a private project.
fn hide_merge_requests(gitlab: &mut FakeGitLab) {
    let list = "/projects/107/merge_requests";
    let hidden = gitlab.lists.remove(list).expect("merge requests");
    gitlab.lists.insert("hidden".to_owned(), hidden);
    let refusal = (403, json!({"message": "403 Forbidden"}).to_string());
    gitlab.refusals.insert(list.to_owned(), refusal);
}

#[test]
fn merge_requests_that_a_role_hides_hold_their_cursor_while_the_group_is_read() {
    let host = TestHost::new(group());
    poll(&host, "10:00:00");
    let before = host.cursor("107/merge_requests").expect("a cursor");
    {
        let mut gitlab = host.gitlab.borrow_mut();
        hide_merge_requests(&mut gitlab);
        let projects = gitlab.plain.get_mut("/groups/5/projects");
        for project in projects.expect("projects") {
            if project["id"] == 107 {
                project["default_branch"] = Value::Null;
            }
        }
    }
    let paths = poll(&host, "10:20:00");
    assert_eq!(
        about(&paths, "/merge_requests"),
        ["/groups/5/merge_requests", "/projects/107/merge_requests"]
    );
    let after = host.cursor("107/merge_requests").expect("a cursor");
    assert_eq!(before["updated_after"], after["updated_after"]);
    let status = host.status("107/merge_requests");
    assert!(matches!(status, Some(StreamState::Off(_))), "{status:?}");
}

#[test]
fn what_is_known_to_be_off_is_not_taken_from_the_group() {
    let host = TestHost::new(group());
    poll(&host, "10:00:00");
    let before = host.cursor("107/merge_requests").expect("a cursor");
    hide_merge_requests(&mut host.gitlab.borrow_mut());
    let since = "2026-11-22T10:00:00Z";
    host.sync_since(&json!({"groups": [5]}), Some(since))
        .expect("reads each by itself");
    for time in ["10:20:00", "10:40:00"] {
        poll(&host, time);
        let status = host.status("107/merge_requests");
        assert!(matches!(status, Some(StreamState::Off(_))), "{status:?}");
        let after = host.cursor("107/merge_requests").expect("a cursor");
        assert_eq!(before["updated_after"], after["updated_after"], "{time}");
    }
}
