//! Webhooks: what is sent to whom, how it looks on the wire, and what becomes of hooks that fail.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::gitlab::server::lock;
use crate::gitlab::wire::{self, Request};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const SIGNING: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[derive(Default)]
struct Inbox {
    got: Vec<Request>,
    broken: usize,
    status: u16,
    wait: Duration,
}

/// A receiver that keeps what it gets.
struct Receiver {
    url: String,
    inbox: Arc<Mutex<Inbox>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(stream: TcpStream, inbox: Arc<Mutex<Inbox>>) {
    let (reader, mut writer) = stream.into_split();
    let request = wire::read(&mut BufReader::new(reader)).await;
    let (status, wait) = {
        let mut inbox = lock(&inbox);
        match request {
            Ok(Some(request)) => inbox.got.push(request),
            _ => inbox.broken += 1,
        }
        (inbox.status, inbox.wait)
    };
    tokio::time::sleep(wait).await;
    let reply = Reply::text(status, "text/plain", "seen");
    let _ = wire::write(&mut writer, &reply, false, true, Default::default()).await;
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let inbox = Arc::new(Mutex::new(Inbox {
            status: 200,
            ..Inbox::default()
        }));
        let shared = Arc::clone(&inbox);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receive(stream, Arc::clone(&shared)));
            }
        });
        Self { url, inbox, task }
    }

    fn answer_with(&self, status: u16) {
        lock(&self.inbox).status = status;
    }

    /// What came since the last call.
    fn take(&self) -> Vec<Request> {
        std::mem::take(&mut lock(&self.inbox).got)
    }
}

fn events(got: &[Request]) -> Vec<String> {
    let mut out: Vec<String> = got
        .iter()
        .map(|request| request.header("x-gitlab-event").unwrap_or("").to_owned())
        .collect();
    out.sort();
    out
}

fn content(request: &Request) -> Value {
    serde_json::from_slice(&request.body).expect("JSON")
}

/// A server and a receiver.
struct Stage {
    server: Server,
    receiver: Receiver,
    project: u64,
}

impl Stage {
    async fn new(version: &str) -> Self {
        let mut world = tiny();
        version.clone_into(&mut world.knobs.version);
        let project = first_project(&world);
        Self {
            server: Server::start(world, Options::default())
                .await
                .expect("a server"),
            receiver: Receiver::start().await,
            project,
        }
    }

    async fn call(&self, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = reqwest::Client::new()
            .request(method, format!("{}/api/v4{path}", self.server.url()))
            .header("PRIVATE-TOKEN", token);
        if !body.is_null() {
            request = request.json(&body);
        }
        let reply = request.send().await.expect("an answer");
        let status = reply.status().as_u16();
        let text = reply.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Makes a hook with every flag on, and changed as told.
    async fn hook(&self, place: &str, more: Value) -> u64 {
        let mut body = json!({ "url": self.receiver.url, "token": "s3cret" });
        for (_, flag, _, _) in crate::gitlab::webhooks::Trigger::ALL {
            body[*flag] = json!(true);
        }
        crate::gitlab::render::extend(&mut body, more);
        let (status, made) = self.call("POST", place, ADMIN_TOKEN, body).await;
        assert_eq!(status, 201, "{made}");
        made["id"].as_u64().expect("an id")
    }

    async fn project_hook(&self, more: Value) -> u64 {
        self.hook(&format!("/projects/{}/hooks", self.project), more)
            .await
    }

    async fn settle(&self) -> Vec<Request> {
        assert!(self.server.webhooks_settled(PATIENCE).await);
        self.receiver.take()
    }

    /// Changes the world and returns what the receiver got for it.
    async fn after(&self, change: impl FnOnce(&mut World)) -> Vec<Request> {
        change(&mut self.server.world());
        self.settle().await
    }

    fn target(&self) -> Target {
        let world = self.server.world();
        let iid = *world.projects[&self.project]
            .merge_requests
            .keys()
            .next()
            .expect("one");
        Target::merge_request(self.project, iid)
    }

    fn issue(&self) -> Target {
        let world = self.server.world();
        let issues = &world.projects[&self.project].issues;
        let found = issues
            .values()
            .find(|found| !found.confidential && found.issue_type == "issue");
        Target::issue(self.project, found.expect("a public issue").iid)
    }
}

// ---- managing ---------------------------------------------------------------------------------------------------

#[tokio::test]
async fn hooks_need_the_role_the_scope_and_for_groups_premium() {
    let stage = Stage::new("18.9.0-ee").await;
    let body = json!({ "url": "http://hooks.test/" });
    let place = format!("/projects/{}/hooks", stage.project);
    let group = format!("/groups/{}/hooks", stage.server.world().top_groups()[0]);
    for (path, token, status) in [
        (place.as_str(), TOKEN, 403),          // read_api
        (place.as_str(), API_TOKEN, 201),      // Maintainer
        (place.as_str(), STRANGER_TOKEN, 403), // read_api comes first
        (group.as_str(), API_TOKEN, 403),      // Maintainer is not enough
        (group.as_str(), OWNER_TOKEN, 201),
        ("/hooks", OWNER_TOKEN, 403),
        ("/hooks", ADMIN_TOKEN, 201),
        ("/projects/999999/hooks", ADMIN_TOKEN, 404),
    ] {
        let (got, answer) = stage.call("POST", path, token, body.clone()).await;
        assert_eq!(got, status, "{path} {token}: {answer}");
    }
    let (_, answer) = stage.call("POST", &place, TOKEN, body.clone()).await;
    assert_eq!(answer["error"], "insufficient_scope");
    // Reading needs the role, and read_api is enough.
    assert_eq!(stage.call("GET", &place, TOKEN, Value::Null).await.0, 200);
    assert_eq!(
        stage
            .call("GET", &place, REPORTER_TOKEN, Value::Null)
            .await
            .0,
        403
    );
    assert_eq!(
        stage
            .call("GET", &place, STRANGER_TOKEN, Value::Null)
            .await
            .0,
        404
    );
    stage.server.world().knobs.premium = false;
    let (status, answer) = stage.call("POST", &group, OWNER_TOKEN, body).await;
    assert_eq!((status, answer), (404, json!({ "error": "404 Not Found" })));
}

#[tokio::test]
async fn a_hook_made_over_the_api_is_told_of_pushes_only_and_never_shows_its_token() {
    let stage = Stage::new("19.1.0-ee").await;
    let place = format!("/projects/{}/hooks", stage.project);
    let body = json!({ "url": "http://hooks.test/", "token": "s3cret", "signing_token": SIGNING, "name": "A" });
    let (_, made) = stage.call("POST", &place, OWNER_TOKEN, body).await;
    let flags = made.as_object().expect("an object");
    let on: Vec<&String> = flags
        .iter()
        .filter(|(name, value)| name.ends_with("_events") && **value == json!(true))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(on, ["push_events"]);
    assert_eq!(made["token_present"], true);
    assert_eq!(made["signing_token_present"], true);
    assert_eq!(made["name"], "A");
    assert_eq!(made["alert_status"], "executable");
    let text = made.to_string();
    assert!(
        !text.contains("s3cret") && !text.contains("whsec_"),
        "{text}"
    );

    let (_, system) = stage
        .call(
            "POST",
            "/hooks",
            ADMIN_TOKEN,
            json!({ "url": "http://hooks.test/" }),
        )
        .await;
    assert_eq!(system["repository_update_events"], true);
    assert_eq!(system["push_events"], false);
    assert_eq!(system.get("note_events"), None);
}

#[tokio::test]
async fn another_url_without_the_token_forgets_the_token() {
    let stage = Stage::new("19.1.0-ee").await;
    let id = stage
        .project_hook(json!({ "custom_headers": [{ "key": "X-A", "value": "b" }] }))
        .await;
    let place = format!("/projects/{}/hooks/{id}", stage.project);
    let put = async |body: Value| stage.call("PUT", &place, OWNER_TOKEN, body).await.1;
    let same = put(json!({ "url": stage.receiver.url, "note_events": false })).await;
    assert_eq!(same["token_present"], true);
    assert_eq!(same["note_events"], false);
    assert_eq!(same["custom_headers"], json!([{ "key": "X-A" }]));
    let other = put(json!({ "url": "http://other.test/" })).await;
    assert_eq!(other["token_present"], false);
    assert_eq!(other["custom_headers"], json!([]));
    let again = put(json!({ "url": "http://third.test/", "token": "new" })).await;
    assert_eq!(again["token_present"], true);
}

#[tokio::test]
async fn what_a_version_does_not_know_it_ignores_without_a_word() {
    let stage = Stage::new("17.0.0-ee").await;
    let body = json!({ "url": stage.receiver.url, "name": "A", "token": "t", "signing_token": SIGNING, "note_events": true });
    let place = format!("/projects/{}/hooks", stage.project);
    let (status, made) = stage.call("POST", &place, OWNER_TOKEN, body).await;
    assert_eq!(status, 201);
    for name in ["name", "token_present", "signing_token_present"] {
        assert_eq!(made.get(name), None);
    }
    let target = stage.target();
    let got = stage
        .after(|world| drop(world.add_note(target, "hello")))
        .await;
    for name in [
        "idempotency-key",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    ] {
        assert_eq!(got[0].header(name), None, "{name}");
    }
    assert_eq!(got[0].header("x-gitlab-token"), Some("t"));
    "17.4.0-ee".clone_into(&mut stage.server.world().knobs.version);
    let got = stage
        .after(|world| drop(world.add_note(target, "hello")))
        .await;
    assert!(got[0].header("idempotency-key").is_some());
    assert_eq!(got[0].header("webhook-id"), None);
}

#[tokio::test]
async fn bad_attributes_are_refused_and_so_is_one_hook_too_many() {
    let stage = Stage::new("19.1.0-ee").await;
    let place = format!("/projects/{}/hooks", stage.project);
    let long = "x".repeat(256);
    for (body, status, error) in [
        (json!({}), 400, "url is missing"),
        (
            json!({ "url": "ftp://hooks.test/" }),
            422,
            "Invalid url given",
        ),
        (json!({ "url": "http://" }), 422, "Invalid url given"),
        (
            json!({ "url": "http://a.test/", "name": long }),
            422,
            "Name is too long (maximum is 255 characters)",
        ),
        (
            json!({ "url": "http://a.test/", "note_events": "maybe" }),
            400,
            "note_events is invalid",
        ),
        (
            json!({ "url": "http://a.test/", "signing_token": "whsec_short" }),
            422,
            "Signing token is invalid",
        ),
    ] {
        let (got, answer) = stage.call("POST", &place, OWNER_TOKEN, body.clone()).await;
        assert_eq!((got, &answer["error"]), (status, &json!(error)), "{body}");
    }
    for _ in 0..100 {
        let body = json!({ "url": "http://a.test/" });
        assert_eq!(stage.call("POST", &place, OWNER_TOKEN, body).await.0, 201);
    }
    let body = json!({ "url": "http://a.test/" });
    let (status, answer) = stage.call("POST", &place, OWNER_TOKEN, body).await;
    assert_eq!(status, 422);
    assert_eq!(
        answer["error"],
        "Maximum number of project hooks (100) exceeded"
    );
    stage.server.world().knobs.local_hook_targets = false;
    let body = json!({ "url": stage.receiver.url });
    let group = format!("/groups/{}/hooks", stage.server.world().top_groups()[0]);
    assert_eq!(
        stage
            .call("POST", &group, OWNER_TOKEN, body.clone())
            .await
            .0,
        422
    );
    // System hooks may call the local network all the same.
    assert_eq!(stage.call("POST", "/hooks", ADMIN_TOKEN, body).await.0, 201);
}

#[tokio::test]
async fn the_list_is_paged_and_a_deleted_hook_is_gone() {
    let stage = Stage::new("18.9.0-ee").await;
    let first = stage.project_hook(json!({})).await;
    let second = stage.project_hook(json!({})).await;
    let place = format!("/projects/{}/hooks", stage.project);
    let (_, page) = stage
        .call(
            "GET",
            &format!("{place}?per_page=1&page=2"),
            OWNER_TOKEN,
            Value::Null,
        )
        .await;
    assert_eq!(ids(&page, "id"), [second]);
    let one = format!("{place}/{first}");
    assert_eq!(
        stage.call("DELETE", &one, OWNER_TOKEN, Value::Null).await.0,
        204
    );
    assert_eq!(
        stage.call("GET", &one, OWNER_TOKEN, Value::Null).await.0,
        404
    );
    // A hook is found in its own place only.
    let elsewhere = format!("/hooks/{second}");
    assert_eq!(
        stage
            .call("GET", &elsewhere, ADMIN_TOKEN, Value::Null)
            .await
            .0,
        404
    );
    let target = stage.target();
    let got = stage
        .after(|world| drop(world.add_note(target, "hello")))
        .await;
    assert_eq!(got.len(), 1);
}

// ---- what is sent -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_comment_arrives_with_the_headers_and_the_body_of_gitlab() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.project_hook(json!({})).await;
    let target = stage.target();
    let got = stage
        .after(|world| drop(world.start_thread(target, "What about ![x](/uploads/1/x.png)?")))
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
    let got = stage
        .after(|world| drop(world.add_note(target, "later")))
        .await;
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
        .after(|world| drop(world.edit_note(target, note, "two")))
        .await;
    assert_eq!(content(&got[0])["object_attributes"]["action"], "update");
    let got = stage
        .after(|world| drop(world.delete_note(target, note)))
        .await;
    assert_eq!(events(&got), [""; 0]);
    let got = stage
        .after(|world| drop(world.delete_merge_request(target.project, target.iid)))
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
    let got = stage
        .after(|world| drop(world.add_note(issue, "again")))
        .await;
    assert_eq!(events(&got), ["Confidential Note Hook"]);
    assert_eq!(content(&got[0])["event_type"], "confidential_note");
    let got = stage
        .after(|world| drop(world.edit_issue(issue.project, issue.iid, Some("x"), None)))
        .await;
    assert_eq!(events(&got), ["Confidential Issue Hook"]);
    assert_eq!(content(&got[0])["event_type"], "confidential_issue");
    let target = stage.target();
    let got = stage
        .after(|world| drop(world.add_internal_note(target, "between us")))
        .await;
    assert_eq!(events(&got), ["Confidential Note Hook"]);
    assert_eq!(content(&got[0])["object_attributes"]["internal"], true);
    // Public again: both hooks are told.
    let got = stage
        .after(|world| drop(world.set_confidential(issue.project, issue.iid, false)))
        .await;
    assert_eq!(events(&got), ["Issue Hook", "Issue Hook"]);
}

#[tokio::test]
async fn an_issue_shows_what_changed_and_a_task_calls_itself_a_work_item() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.project_hook(json!({})).await;
    let issue = stage.issue();
    let got = stage
        .after(|world| drop(world.edit_issue(issue.project, issue.iid, Some("Renamed"), None)))
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
        .after(|world| drop(world.set_issue_open(issue.project, issue.iid, false)))
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
        .after(|world| drop(world.new_merge_request(project, "Fresh", None)))
        .await;
    let body = content(&got[0]);
    assert_eq!(body["object_attributes"]["action"], "open");
    assert_eq!(
        body["changes"]["title"],
        json!({ "previous": null, "current": "Fresh" })
    );
    let iid = body["object_attributes"]["iid"].as_u64().expect("an iid");
    let got = stage
        .after(|world| drop(world.set_merge_request_state(project, iid, MergeState::Merged)))
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
        .after(|world| drop(world.push_commits(project, "main", 25, 0)))
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
        .after(|world| drop(world.push_commits(project, "side", 2, 0)))
        .await;
    let body = content(&got[0]);
    assert_eq!(body["before"], "0".repeat(40));
    assert_eq!(body["total_commits_count"], 2);
    let got = stage
        .after(|world| drop(world.push_refs(project, &[], &["refs/heads/side".to_owned()])))
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
        .after(|world| drop(world.push_refs(project, &made, &[])))
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
        .after(|world| drop(world.push_refs(project, &names(3, "heads"), &[])))
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
        .after(|world| drop(world.new_pipeline(project, "running", "push")))
        .await;
    assert_eq!(events(&got), ["Pipeline Hook"]);
    let id = content(&got[0])["object_attributes"]["id"]
        .as_u64()
        .expect("an id");
    let got = stage
        .after(|world| drop(world.set_pipeline_status(project, id, "running")))
        .await;
    assert_eq!(events(&got), [""; 0]);
    let got = stage
        .after(|world| drop(world.set_pipeline_status(project, id, "success")))
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
        .after(|world| drop(world.new_release(project, "v99", "Notes", 0)))
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
        .after(|world| drop(world.edit_release(project, "v99", "Better")))
        .await;
    assert_eq!(release(&got)["action"], "update");
    let got = stage
        .after(|world| drop(world.delete_release(project, "v99")))
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
    let got = stage
        .after(|world| drop(world.add_note(target, "hello")))
        .await;
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
    let got = stage
        .after(|world| drop(world.add_project(core, "fresh")))
        .await;
    assert_eq!(events(&got), ["Project Hook"]);
    assert_eq!(content(&got[0])["event_name"], "project_create");
    // A licence that ran out: the hook stays, and is not called.
    stage.server.world().knobs.premium = false;
    let got = stage
        .after(|world| drop(world.add_note(target, "hello")))
        .await;
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
    let got = stage
        .after(|world| drop(world.add_note(target, "hello")))
        .await;
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
        .after(|world| drop(world.push_commits(project, "main", 1, 0)))
        .await;
    assert_eq!(got.len(), 0);
    let got = stage
        .after(|world| drop(world.push_commits(project, "release/1", 1, 0)))
        .await;
    assert_eq!(events(&got), ["Push Hook"]);
    let got = stage
        .after(|world| drop(world.push_refs(project, &["refs/tags/t".to_owned()], &[])))
        .await;
    assert_eq!(events(&got), ["Tag Push Hook"]);
}

// ---- what becomes of it -----------------------------------------------------------------------------------------

#[tokio::test]
async fn a_failed_delivery_is_not_repeated_and_a_redirect_counts_as_delivered() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.project_hook(json!({})).await;
    let target = stage.target();
    for (status, success) in [(500, false), (404, false), (302, true), (200, true)] {
        stage.receiver.answer_with(status);
        let got = stage
            .after(|world| drop(world.add_note(target, "hello")))
            .await;
        assert_eq!(got.len(), 1);
        let sent = stage.server.world().deliveries().pop().expect("one");
        assert_eq!((sent.status, sent.is_success()), (Some(status), success));
    }
    stage.server.world().knobs.hook_timeout = Duration::from_millis(50);
    lock(&stage.receiver.inbox).wait = Duration::from_secs(2);
    stage
        .after(|world| drop(world.add_note(target, "hello")))
        .await;
    let sent = stage.server.world().deliveries().pop().expect("one");
    assert_eq!(
        (sent.status, sent.response_body.as_str()),
        (None, "Net::ReadTimeout")
    );
    let counts = stage.server.world().webhook_counts();
    assert_eq!((counts.events, counts.delivered, counts.failed), (5, 2, 3));
}

#[tokio::test]
async fn the_fourth_failure_disables_for_a_minute_each_further_one_for_twice_as_long_and_a_test_revives()
 {
    let stage = Stage::new("18.9.0-ee").await;
    stage.server.world().knobs.auto_disabling = true;
    let id = stage.project_hook(json!({})).await;
    let place = format!("/projects/{}/hooks/{id}", stage.project);
    let status = async || {
        let (_, hook) = stage.call("GET", &place, OWNER_TOKEN, Value::Null).await;
        (hook["alert_status"].clone(), hook["disabled_until"].clone())
    };
    let target = stage.target();
    let tell = async || {
        stage
            .after(|world| drop(world.add_note(target, "hello")))
            .await
            .len()
    };
    stage.receiver.answer_with(500);
    for _ in 0..3 {
        assert_eq!(tell().await, 1);
    }
    assert_eq!(status().await, (json!("executable"), Value::Null));
    assert_eq!(tell().await, 1);
    assert_eq!(
        status().await,
        (
            json!("temporarily_disabled"),
            json!("2026-02-13T12:01:00.000Z")
        )
    );
    // What happens meanwhile is lost.
    assert_eq!(tell().await, 0);
    stage.server.advance_clock(61);
    assert_eq!(status().await.0, "executable");
    assert_eq!(tell().await, 1);
    assert_eq!(
        status().await,
        (
            json!("temporarily_disabled"),
            json!("2026-02-13T12:03:01.000Z")
        )
    );
    stage.receiver.answer_with(204);
    let (code, answer) = stage
        .call(
            "POST",
            &format!("{place}/test/note_events"),
            OWNER_TOKEN,
            Value::Null,
        )
        .await;
    assert_eq!((code, answer), (201, json!({ "message": "201 Created" })));
    stage.receiver.take();
    assert_eq!(status().await, (json!("executable"), Value::Null));
    assert_eq!(tell().await, 1);
}

#[test]
fn forty_failures_disable_for_good_and_no_pause_is_longer_than_a_day() {
    let mut world = World::empty(EPOCH);
    world.clock.freeze_at(EPOCH);
    let mut hook = Webhook {
        id: 1,
        owner: HookOwner::Project(1),
        url: "http://hooks.test/".to_owned(),
        name: None,
        description: None,
        token: None,
        signing_token: None,
        triggers: Default::default(),
        enable_ssl_verification: true,
        push_events_branch_filter: String::new(),
        branch_filter_strategy: "wildcard".to_owned(),
        custom_webhook_template: None,
        custom_headers: Vec::new(),
        url_variables: Vec::new(),
        created_at: EPOCH,
        failures: 0,
        disabled_until: None,
    };
    let pauses: Vec<i64> = (1..40)
        .map(|_| {
            hook.count(false, EPOCH);
            hook.disabled_until
                .map_or(0, |until| until.unix() - EPOCH.unix())
        })
        .collect();
    assert_eq!(pauses[..8], [0, 0, 0, 60, 120, 240, 480, 960]);
    assert_eq!(pauses.iter().max(), Some(&86_400));
    hook.count(false, EPOCH);
    assert_eq!(
        hook.alert_status(EPOCH.plus_seconds(100 * 86_400)),
        "disabled"
    );
    hook.count(true, EPOCH);
    assert_eq!(hook.alert_status(EPOCH), "executable");
}

#[tokio::test]
async fn a_self_managed_instance_disables_nothing_unless_told_and_system_hooks_never() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.hook("/hooks", json!({})).await;
    stage.project_hook(json!({})).await;
    stage.receiver.answer_with(500);
    let target = stage.target();
    let edit = |world: &mut World| {
        drop(world.edit_merge_request(target.project, target.iid, Some("x"), None))
    };
    for _ in 0..6 {
        assert_eq!(stage.after(edit).await.len(), 2);
    }
    stage.server.world().knobs.auto_disabling = true;
    for _ in 0..4 {
        assert_eq!(stage.after(edit).await.len(), 2);
    }
    assert_eq!(events(&stage.after(edit).await), ["System Hook"]);
}

#[tokio::test]
async fn silent_mode_and_the_limit_of_a_plan_lose_events() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.hook("/hooks", json!({})).await;
    stage.project_hook(json!({})).await;
    let target = stage.target();
    let edit = |world: &mut World| {
        drop(world.edit_merge_request(target.project, target.iid, Some("x"), None))
    };
    stage.server.world().knobs.silent_mode = true;
    assert_eq!(stage.after(edit).await.len(), 0);
    stage.server.world().knobs.silent_mode = false;
    stage.server.world().knobs.hook_calls_per_minute = Some(1);
    assert_eq!(
        events(&stage.after(edit).await),
        ["Merge Request Hook", "System Hook"]
    );
    // System hooks are exempt.
    assert_eq!(events(&stage.after(edit).await), ["System Hook"]);
    stage.server.advance_clock(60);
    assert_eq!(stage.after(edit).await.len(), 2);
}

#[tokio::test]
async fn the_log_shows_deliveries_for_seven_days_and_sends_them_again_under_the_same_key() {
    let stage = Stage::new("19.0.0-ee").await;
    let id = stage
        .project_hook(json!({ "signing_token": SIGNING }))
        .await;
    let target = stage.target();
    let first = stage
        .after(|world| drop(world.add_note(target, "hello")))
        .await;
    stage.receiver.answer_with(503);
    stage
        .after(|world| drop(world.add_note(target, "again")))
        .await;
    let place = format!("/projects/{}/hooks/{id}/events", stage.project);
    let get = async |query: &str| {
        stage
            .call("GET", &format!("{place}{query}"), OWNER_TOKEN, Value::Null)
            .await
    };
    let (_, all) = get("").await;
    let statuses: Vec<&Value> = all
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| &event["response_status"])
        .collect();
    assert_eq!(statuses, ["503", "200"]);
    let event = &all[1];
    assert_eq!(event["trigger"], "note_hooks");
    assert_eq!(event["request_headers"]["X-Gitlab-Token"], "[REDACTED]");
    assert_eq!(event["request_data"]["object_kind"], "note");
    assert_eq!(event["response_body"], "seen");
    for (query, count) in [
        ("?status=successful", 1),
        ("?status=server_failure", 1),
        ("?status=client_failure", 0),
        ("?status=503", 1),
        ("?per_page=1&page=2", 1),
    ] {
        assert_eq!(
            get(query).await.1.as_array().map(Vec::len),
            Some(count),
            "{query}"
        );
    }
    assert_eq!(get("?per_page=21").await.0, 400);
    assert_eq!(get("?status=odd").await.0, 400);

    stage.receiver.answer_with(200);
    let again = format!("{place}/{}/resend", event["id"]);
    let (status, answer) = stage.call("POST", &again, OWNER_TOKEN, Value::Null).await;
    assert_eq!((status, answer), (201, json!({ "response_status": 200 })));
    let got = stage.receiver.take();
    assert_eq!(got[0].body, first[0].body);
    assert_eq!(
        got[0].header("idempotency-key"),
        first[0].header("idempotency-key")
    );
    assert_eq!(got[0].header("webhook-id"), first[0].header("webhook-id"));
    for _ in 0..4 {
        assert_eq!(
            stage.call("POST", &again, OWNER_TOKEN, Value::Null).await.0,
            201
        );
    }
    assert_eq!(
        stage.call("POST", &again, OWNER_TOKEN, Value::Null).await.0,
        429
    );
    stage.server.advance_clock(8 * 86_400);
    assert_eq!(get("").await.1, json!([]));
    // System hooks have no log.
    let system = stage.hook("/hooks", json!({})).await;
    assert_eq!(
        stage
            .call(
                "GET",
                &format!("/hooks/{system}/events"),
                ADMIN_TOKEN,
                Value::Null
            )
            .await
            .0,
        404
    );
}

#[tokio::test]
async fn a_test_looks_unlike_the_real_thing_and_needs_something_to_show() {
    let stage = Stage::new("18.9.0-ee").await;
    let id = stage.project_hook(json!({})).await;
    let place = format!("/projects/{}/hooks/{id}/test", stage.project);
    let try_it = async |trigger: &str| {
        stage
            .call(
                "POST",
                &format!("{place}/{trigger}"),
                OWNER_TOKEN,
                Value::Null,
            )
            .await
    };
    assert_eq!(try_it("merge_requests_events").await.0, 201);
    let body = content(&stage.receiver.take()[0]);
    assert_eq!(body["object_attributes"].get("action"), None);
    assert!(
        body["object_attributes"]["created_at"]
            .as_str()
            .is_some_and(|at| at.ends_with('Z'))
    );
    assert_eq!(
        try_it("nothing_events").await,
        (
            400,
            json!({ "error": "trigger does not have a valid value" })
        )
    );
    stage
        .server
        .world()
        .projects
        .get_mut(&stage.project)
        .expect("it")
        .releases
        .clear();
    assert_eq!(
        try_it("releases_events").await,
        (
            422,
            json!({ "message": "Ensure the project has releases." })
        )
    );
    stage.receiver.answer_with(500);
    assert_eq!(
        try_it("push_events").await,
        (422, json!({ "message": "seen" }))
    );
    for _ in 0..2 {
        try_it("push_events").await;
    }
    assert_eq!(try_it("push_events").await.0, 429);

    let system = stage.hook("/hooks", json!({})).await;
    let (status, body) = stage
        .call(
            "POST",
            &format!("/hooks/{system}"),
            ADMIN_TOKEN,
            Value::Null,
        )
        .await;
    assert_eq!(
        (status, &body["event_name"]),
        (201, &json!("project_create"))
    );
}

#[tokio::test]
async fn custom_headers_url_variables_and_templates_are_used() {
    let stage = Stage::new("18.9.0-ee").await;
    let id = stage
        .project_hook(json!({
            "url": format!("{}/{{place}}", stage.receiver.url),
            "url_variables": [{ "key": "place", "value": "here" }],
            "custom_headers": [{ "key": "X-Extra", "value": "more" }],
            "custom_webhook_template": "{\"what\":\"{{object_kind}}\"}",
        }))
        .await;
    let target = stage.target();
    let got = stage
        .after(|world| drop(world.add_note(target, "hello")))
        .await;
    assert_eq!(got[0].path, "/hook/here");
    assert_eq!(got[0].header("x-extra"), Some("more"));
    assert_eq!(content(&got[0]), json!({ "what": "note" }));
    let variable = format!("/projects/{}/hooks/{id}/url_variables/place", stage.project);
    assert_eq!(
        stage
            .call("PUT", &variable, OWNER_TOKEN, json!({ "value": "there" }))
            .await
            .0,
        204
    );
    let got = stage
        .after(|world| drop(world.add_note(target, "hello")))
        .await;
    assert_eq!(got[0].path, "/hook/there");
}

// ---- faults -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn deliveries_can_be_doubled_dropped_cut_and_mixed() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.project_hook(json!({})).await;
    let target = stage.target();
    let fault = |faults: WebhookFaults| stage.server.set_webhook_faults(faults);
    let none = WebhookFaults::default;
    fault(WebhookFaults {
        duplicate: 1,
        ..none()
    });
    let got = stage
        .after(|world| drop(world.add_note(target, "hello")))
        .await;
    assert_eq!(got.len(), 2);
    assert_eq!(
        got[0].header("idempotency-key"),
        got[1].header("idempotency-key")
    );

    fault(WebhookFaults {
        drop_share: 0.5,
        seed: 3,
        ..none()
    });
    let many = |world: &mut World| {
        for index in 0..40 {
            world
                .add_note(target, &format!("number {index}"))
                .expect("made");
        }
    };
    let got = stage.after(many).await;
    assert!((8..32).contains(&got.len()), "{}", got.len());
    let dropped = stage.server.world().webhook_counts().dropped;
    assert_eq!(usize::try_from(dropped).expect("small") + got.len(), 40);

    fault(WebhookFaults {
        jitter_ms: 200,
        seed: 3,
        ..none()
    });
    let notes: Vec<u64> = stage
        .after(many)
        .await
        .iter()
        .map(|request| {
            content(request)["object_attributes"]["id"]
                .as_u64()
                .expect("an id")
        })
        .collect();
    assert_eq!(notes.len(), 40);
    assert!(!notes.is_sorted(), "in order");

    fault(WebhookFaults {
        truncate: Some(30),
        ..none()
    });
    let got = stage
        .after(|world| drop(world.add_note(target, "hello")))
        .await;
    assert_eq!(got[0].body.len(), 30);

    fault(WebhookFaults {
        break_off: Some(30),
        ..none()
    });
    let got = stage
        .after(|world| drop(world.add_note(target, "hello")))
        .await;
    assert_eq!(got.len(), 0);
    assert_eq!(
        stage.server.world().deliveries().pop().expect("one").status,
        None
    );
    assert_eq!(lock(&stage.receiver.inbox).broken, 1);

    fault(WebhookFaults {
        template: Some("{\"k\": \"{{object_kind}}\"}".to_owned()),
        ..none()
    });
    let got = stage
        .after(|world| drop(world.add_note(target, "hello")))
        .await;
    assert_eq!(content(&got[0]), json!({ "k": "note" }));
}

#[tokio::test]
async fn forged_deliveries_come_beside_the_true_one_and_disable_nothing() {
    let stage = Stage::new("19.0.0-ee").await;
    stage.server.world().knobs.auto_disabling = true;
    stage
        .project_hook(json!({ "signing_token": SIGNING }))
        .await;
    stage.server.set_webhook_faults(WebhookFaults {
        forge: Forgery::ALL.to_vec(),
        ..WebhookFaults::default()
    });
    let target = stage.target();
    let got = stage
        .after(|world| drop(world.add_note(target, "hello")))
        .await;
    let seen: Vec<(bool, Option<bool>, bool)> = got
        .iter()
        .map(|request| {
            let timestamp: i64 = request
                .header("webhook-timestamp")
                .expect("it")
                .parse()
                .expect("seconds");
            let id = request.header("webhook-id").expect("it");
            let signed = request
                .header("webhook-signature")
                .map(|signature| verify(SIGNING, id, timestamp, &request.body, signature));
            let fresh = (timestamp - Micros::real_now().unix()).abs() < 300;
            (
                request.header("x-gitlab-token") == Some("s3cret"),
                signed,
                fresh,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (true, Some(true), true),   // the true one
            (false, Some(false), true), // wrong secret
            (false, None, true),        // no secret
            (true, None, true),         // no signature
            (true, Some(true), false),  // stale
            (true, Some(false), true),  // altered
            (true, Some(true), true),   // foreign
        ]
    );
    assert_eq!(
        content(&got[6])["project"]["path_with_namespace"],
        "elsewhere/foreign"
    );
    let counts = stage.server.world().webhook_counts();
    assert_eq!((counts.delivered, counts.forged), (1, 6));
}

#[tokio::test]
async fn a_storm_brings_random_events_at_its_rate() {
    let stage = Stage::new("18.9.0-ee").await;
    let group = stage.server.world().top_groups()[0];
    stage
        .hook(&format!("/groups/{group}/hooks"), json!({}))
        .await;
    let queued = stage
        .server
        .storm(200, Duration::from_millis(500), 5)
        .finish()
        .await;
    assert!((50..=100).contains(&queued), "{queued}");
    let got = stage.settle().await;
    assert_eq!(got.len(), queued);
    let mut kinds = events(&got);
    kinds.dedup();
    assert!(kinds.len() >= 4, "{kinds:?}");
}

#[tokio::test]
async fn the_control_api_does_what_the_methods_do() {
    let stage = Stage::new("18.9.0-ee").await;
    let id = stage.project_hook(json!({})).await;
    let sim = async |method: &str, path: &str, body: Value| {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let request =
            reqwest::Client::new().request(method, format!("{}/_sim/{path}", stage.server.url()));
        let reply = request.json(&body).send().await.expect("an answer");
        let status = reply.status().as_u16();
        (status, reply.json::<Value>().await.unwrap_or(Value::Null))
    };
    let target = stage.target();
    let fire = json!({ "kind": "merge_request", "project": target.project, "iid": target.iid, "action": "approved" });
    assert_eq!(
        sim("POST", "webhooks/fire", fire).await,
        (200, json!({ "queued": 1 }))
    );
    let got = stage.settle().await;
    assert_eq!(content(&got[0])["object_attributes"]["action"], "approved");
    let (_, list) = sim("GET", "webhooks", Value::Null).await;
    assert_eq!(
        (&list["hooks"][0]["id"], &list["counts"]["delivered"]),
        (&json!(id), &json!(1))
    );
    assert!(!list.to_string().contains("s3cret"));
    let (_, sent) = sim(
        "GET",
        &format!("webhooks/deliveries?hook={id}"),
        Value::Null,
    )
    .await;
    assert_eq!(
        (&sent[0]["status"], &sent[0]["trigger"]),
        (&json!(200), &json!("merge_request"))
    );
    assert!(sent[0]["latency_ms"].is_number());
    assert!(!sent.to_string().contains("s3cret"));
    assert_eq!(
        sim("POST", "webhooks/faults", json!({ "duplicate": 2 }))
            .await
            .0,
        200
    );
    assert_eq!(
        sim("POST", "webhooks/faults", json!({ "duplicates": 2 }))
            .await
            .0,
        400
    );
    sim(
        "POST",
        "mutate/add_note",
        json!({ "project": target.project, "iid": target.iid }),
    )
    .await;
    assert_eq!(stage.settle().await.len(), 3);
    assert_eq!(sim("DELETE", "webhooks/faults", Value::Null).await.0, 200);
    assert_eq!(
        sim(
            "POST",
            "knobs",
            json!({ "version": "19.1.0-ee", "silent_mode": true })
        )
        .await
        .0,
        200
    );
    assert_eq!(sim("POST", "knobs", json!({ "no_such": 1 })).await.0, 400);
    assert!(stage.server.world().is_at_least(19, 1) && stage.server.world().knobs.silent_mode);
    assert_eq!(
        sim(
            "POST",
            "webhooks/storm",
            json!({ "per_second": 10, "ms": 50 })
        )
        .await
        .0,
        200
    );
}
