//! Which hooks are made, kept, mended and removed. Each test is a sentence about a call of `connect` or `disconnect`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde_json::{Map, Value, json};

use crate::hooks;
use crate::host::{Failure, HookState, Method, Outcome, Plan, Polled, Request, Response, Target};
use crate::testing::{FakeGitLab, TestHost, context};

const FORBIDDEN: (u16, &str) = (403, "403 Forbidden");

/// GitLab's hooks.
#[derive(Default)]
struct Registry {
    /// By id: the place and the hook.
    hooks: BTreeMap<u64, (String, Value)>,
    /// What a place answers instead of its hooks.
    refusals: BTreeMap<String, (u16, &'static str)>,
    /// Whether tokens may read and not write.
    only_reads: bool,
    /// Before 17.1, hooks have no name.
    nameless: bool,
    /// Since 19.0 they are signed.
    signs: bool,
    /// Places in which no test can be sent for a push.
    without_commits: BTreeSet<String>,
    /// Calls by hook: id and status.
    calls: BTreeMap<u64, Vec<(u64, &'static str)>>,
    /// What was asked for: method, path, body.
    log: Vec<(Method, String, Option<Value>)>,
    resent: Vec<String>,
}

fn answer(status: u16, body: &Value) -> Option<Outcome> {
    Some(Ok(Response {
        status,
        headers: vec![
            ("x-page".to_owned(), "1".to_owned()),
            ("x-next-page".to_owned(), String::new()),
        ],
        body: if status == 204 {
            String::new()
        } else {
            body.to_string()
        },
    }))
}

impl Registry {
    fn answer(&mut self, request: &Request) -> Option<Outcome> {
        let path = request.path.strip_prefix("/api/v4/")?;
        let (place, rest) = path
            .strip_prefix("hooks")
            .map(|rest| ("", rest))
            .or_else(|| path.split_once("/hooks"))?;
        let body: Option<Value> = request
            .body
            .as_ref()
            .map(|body| serde_json::from_str(body).expect("JSON"));
        self.log
            .push((request.method, path.to_owned(), body.clone()));
        if let Some((status, words)) = self.refusals.get(place) {
            return answer(*status, &json!({ "message": words }));
        }
        if self.only_reads && request.method != Method::Get {
            return answer(
                403,
                &json!({"error": "insufficient_scope", "error_description": "too small", "scope": "api"}),
            );
        }
        let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
        let id = parts.first().map(|id| id.parse::<u64>().expect("an id"));
        match (request.method, id, parts.get(1..).unwrap_or_default()) {
            (Method::Get, None, _) => {
                let here = self.hooks.iter().filter(|(_, (at, _))| at == place);
                let shown: Vec<Value> = here.map(|(id, (_, hook))| self.shown(*id, hook)).collect();
                answer(200, &Value::from(shown))
            }
            (Method::Post, None, _) => {
                let id = 7 + self.hooks.keys().next_back().copied().unwrap_or_default();
                let mut hook = json!({"alert_status": "executable", "push_events": true});
                merge(&mut hook, body.expect("a body"));
                let shown = self.shown(id, &hook);
                self.hooks.insert(id, (place.to_owned(), hook));
                answer(201, &shown)
            }
            (Method::Get, Some(id), ["events"]) => {
                let size = request.query.iter().find(|(key, _)| key == "per_page");
                assert_eq!(
                    size.map(|(_, size)| size.as_str()),
                    Some("20"),
                    "GitLab allows no more"
                );
                let calls = self.calls.get(&id).cloned().unwrap_or_default();
                let calls: Vec<Value> = calls
                    .into_iter()
                    .map(|(id, status)| json!({"id": id, "response_status": status, "request_data": {"a": 1}}))
                    .collect();
                answer(200, &Value::from(calls))
            }
            (Method::Post, Some(id), ["events", call, "resend"]) => {
                self.resent.push((*call).to_owned());
                let last = self.calls.entry(id).or_default();
                last.insert(0, (1000 + last.len() as u64, "200"));
                answer(201, &json!({"response_status": 200}))
            }
            (Method::Post, Some(id), ["test", trigger]) => {
                if self.without_commits.contains(place) && *trigger == "push_events" {
                    return answer(
                        422,
                        &json!({"message": "Ensure the project has at least one commit."}),
                    );
                }
                self.hooks.get_mut(&id).expect("there").1["alert_status"] = "executable".into();
                answer(201, &json!({"message": "201 Created"}))
            }
            (Method::Get, Some(id), []) => {
                let shown = self.shown(id, &self.hooks[&id].1);
                answer(200, &shown)
            }
            (Method::Put, Some(id), []) => {
                let (_, hook) = self.hooks.get_mut(&id).expect("there");
                let body = body.expect("a body");
                if body["url"] != hook["url"] && body.get("token").is_none() {
                    hook["token"] = Value::Null;
                }
                merge(hook, body);
                let shown = self.shown(id, &self.hooks[&id].1);
                answer(200, &shown)
            }
            (Method::Delete, Some(id), []) => {
                self.hooks.remove(&id).expect("there");
                answer(204, &Value::Null)
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    /// What GitLab shows of a hook: no secrets.
    fn shown(&self, id: u64, hook: &Value) -> Value {
        let mut shown = hook.clone();
        let fields = shown.as_object_mut().expect("an object");
        let had = |fields: &mut Map<String, Value>, key: &str| {
            fields.remove(key).is_some_and(|value| value.is_string())
        };
        let (token, signed) = (had(fields, "token"), had(fields, "signing_token"));
        if self.signs {
            fields.insert("token_present".to_owned(), token.into());
            fields.insert("signing_token_present".to_owned(), signed.into());
        }
        if self.nameless {
            fields.remove("name");
        }
        fields.insert("id".to_owned(), id.into());
        shown
    }

    fn changes(&self) -> usize {
        let changes = self
            .log
            .iter()
            .filter(|(method, ..)| *method != Method::Get);
        changes.count()
    }
}

fn merge(hook: &mut Value, body: Value) {
    let Value::Object(body) = body else {
        panic!("a hook is an object")
    };
    for (key, value) in body {
        hook[key] = value;
    }
}

/// A GitLab with some projects of the group 5, and its hooks.
fn world(projects: u64) -> (TestHost, Rc<RefCell<Registry>>) {
    let mut gitlab = FakeGitLab::default();
    let mut all = Vec::new();
    for id in 1..=projects {
        let project = json!({
            "id": id, "path_with_namespace": format!("acme/p{id}"), "namespace": {"id": 5, "full_path": "acme"},
            "last_activity_at": format!("2026-11-20T10:{:02}:{:02}Z", id / 60, id % 60),
        });
        gitlab
            .objects
            .insert(format!("/projects/{id}"), project.clone());
        all.push(project);
    }
    gitlab.objects.insert(
        "/groups/acme".to_owned(),
        json!({"id": 5, "full_path": "acme"}),
    );
    gitlab
        .plain
        .insert("/groups/5/projects".to_owned(), all.clone());
    gitlab.plain.insert("/projects".to_owned(), all);
    let registry = Rc::new(RefCell::new(Registry::default()));
    let answering = Rc::clone(&registry);
    let host = TestHost::new(gitlab).handler(move |request| answering.borrow_mut().answer(request));
    (host, registry)
}

fn target() -> Target {
    Target {
        url: "https://hooks.example.com/hooks/c1".to_owned(),
        name: "cortexdb c1".to_owned(),
        secret: "s3cret".to_owned(),
        signing_token: "whsec_AAAA".to_owned(),
        rotated: false,
    }
}

fn connect(host: &TestHost, registry: &RefCell<Registry>, settings: &Value) -> Plan {
    connect_to(host, registry, settings, &target())
}

fn connect_to(
    host: &TestHost,
    registry: &RefCell<Registry>,
    settings: &Value,
    target: &Target,
) -> Plan {
    registry.borrow_mut().log.clear();
    hooks::connect(host, &context(settings, None), target).expect("a plan")
}

fn disconnect(host: &TestHost, settings: &Value) -> Vec<Polled> {
    hooks::disconnect(host, &context(settings, None), &target()).expect("removes")
}

/// The lists that the hooks of a plan are in.
fn lists(plan: &Plan) -> Vec<&str> {
    let ids = plan.hooks.iter().map(|hook| hook.id.rsplit_once('/'));
    ids.map(|id| id.expect("a list and a number").0).collect()
}

fn acme() -> Value {
    json!({"groups": ["acme"]})
}

/// Places that have a hook, with what it tells of.
fn told(registry: &RefCell<Registry>) -> BTreeMap<String, Vec<String>> {
    let registry = registry.borrow();
    let hooks = registry.hooks.values().map(|(place, hook)| {
        let events = hook.as_object().expect("an object").iter();
        let events =
            events.filter(|(key, value)| key.ends_with("_events") && **value == json!(true));
        (place.clone(), events.map(|(key, _)| key.clone()).collect())
    });
    hooks.collect()
}

#[test]
fn a_group_gets_one_hook_that_tells_what_is_wanted_and_nothing_else() {
    let (host, registry) = world(3);
    let plan = connect(&host, &registry, &acme());
    assert_eq!(lists(&plan), ["groups/5/hooks"]);
    assert_eq!(plan.hooks[0].subject, "group acme");
    assert_eq!(plan.hooks[0].message.as_deref(), Some("created"));
    assert!(plan.missed && plan.polled.is_empty(), "{plan:?}");
    let all = [
        "confidential_issues_events",
        "confidential_note_events",
        "issues_events",
        "merge_requests_events",
        "note_events",
        "pipeline_events",
        "project_events",
        "push_events",
        "releases_events",
    ];
    assert_eq!(told(&registry)["groups/5"], all);
    {
        let registry = registry.borrow();
        let (_, hook) = &registry.hooks[&7];
        for (key, value) in [
            ("url", json!("https://hooks.example.com/hooks/c1")),
            ("name", json!("cortexdb c1")),
            ("token", json!("s3cret")),
            ("signing_token", json!("whsec_AAAA")),
            ("enable_ssl_verification", json!(true)),
        ] {
            assert_eq!(hook[key], value, "{key}");
        }
    }

    let plan = connect(&host, &registry, &acme());
    assert!(!plan.missed && plan.hooks[0].message.is_none(), "{plan:?}");
    assert_eq!(
        registry.borrow().changes(),
        0,
        "nothing is changed where everything is as it should be"
    );
}

#[test]
fn kinds_that_are_switched_off_are_not_asked_for() {
    let (host, registry) = world(1);
    connect(
        &host,
        &registry,
        &json!({"projects": [1], "events": "note,release"}),
    );
    let events = [
        "confidential_issues_events",
        "confidential_note_events",
        "note_events",
        "releases_events",
    ];
    assert_eq!(told(&registry)["projects/1"], events);
    // And taken back later.
    let plan = connect(
        &host,
        &registry,
        &json!({"projects": [1], "events": "commit"}),
    );
    assert_eq!(told(&registry)["projects/1"], ["push_events"]);
    assert_eq!(plan.hooks[0].message.as_deref(), Some("changed"));
}

#[test]
fn where_a_group_refuses_its_projects_get_hooks() {
    for refusal in [FORBIDDEN, (404, "404 Not Found")] {
        let (host, registry) = world(3);
        registry
            .borrow_mut()
            .refusals
            .insert("groups/5".to_owned(), refusal);
        registry
            .borrow_mut()
            .refusals
            .insert("projects/2".to_owned(), FORBIDDEN);
        let plan = connect(&host, &registry, &acme());
        assert_eq!(
            told(&registry).into_keys().collect::<Vec<_>>(),
            ["projects/1", "projects/3"]
        );
        assert!(!told(&registry)["projects/1"].contains(&"project_events".to_owned()));
        assert_eq!(plan.polled.len(), 1, "{plan:?}");
        let polled = &plan.polled[0];
        assert_eq!(polled.subject, "everything of project acme/p2");
        assert!(
            polled.reason.contains("Maintainer") && polled.reason.contains("group acme"),
            "{polled:?}"
        );

        // One that refused is not asked again for a day.
        let plan = connect(&host, &registry, &acme());
        assert_eq!(plan.polled.len(), 1, "{plan:?}");
        let asked = registry
            .borrow()
            .log
            .iter()
            .any(|(_, path, _)| path.starts_with("projects/2"));
        assert!(!asked);
    }
}

#[test]
fn a_group_that_gets_its_hook_later_takes_those_of_its_projects_away() {
    let (host, registry) = world(3);
    registry
        .borrow_mut()
        .refusals
        .insert("groups/5".to_owned(), FORBIDDEN);
    connect(&host, &registry, &acme());
    assert_eq!(told(&registry).len(), 3);
    registry.borrow_mut().refusals.clear();
    let plan = connect(&host, &registry, &acme());
    assert_eq!(
        told(&registry).into_keys().collect::<Vec<_>>(),
        ["groups/5"]
    );
    assert_eq!(plan.hooks.len(), 1);
}

#[test]
fn a_group_that_does_not_answer_keeps_its_hook_and_no_others_are_made() {
    let (host, registry) = world(3);
    connect(&host, &registry, &acme());
    registry
        .borrow_mut()
        .refusals
        .insert("groups/5".to_owned(), (500, "500 Internal Server Error"));
    let plan = connect(&host, &registry, &acme());
    assert_eq!(
        told(&registry).into_keys().collect::<Vec<_>>(),
        ["groups/5"]
    );
    assert_eq!(plan.polled.len(), 1, "{plan:?}");
    assert_eq!(
        plan.polled[0].subject,
        "everything of 3 projects (project acme/p1, project acme/p2, project acme/p3)"
    );
    registry.borrow_mut().refusals.clear();
    assert!(connect(&host, &registry, &acme()).polled.is_empty());
}

#[test]
fn the_instance_has_a_hook_only_where_everything_is_read_or_it_is_asked_for() {
    let (host, registry) = world(2);
    connect(&host, &registry, &json!({"projects": [1]}));
    assert_eq!(
        told(&registry).into_keys().collect::<Vec<_>>(),
        ["projects/1"]
    );

    let (host, registry) = world(2);
    let plan = connect(&host, &registry, &json!({}));
    assert_eq!(
        lists(&plan),
        ["hooks", "projects/1/hooks", "projects/2/hooks"]
    );
    let hooks = told(&registry);
    assert_eq!(
        hooks[""],
        ["merge_requests_events", "push_events", "tag_push_events"]
    );
    let rest = [
        "confidential_issues_events",
        "confidential_note_events",
        "issues_events",
        "note_events",
        "pipeline_events",
        "releases_events",
    ];
    assert_eq!(
        hooks["projects/1"], rest,
        "what the instance tells is not told twice"
    );

    let (host, registry) = world(2);
    registry
        .borrow_mut()
        .refusals
        .insert(String::new(), FORBIDDEN);
    let plan = connect(&host, &registry, &json!({}));
    assert!(plan.polled.is_empty(), "{plan:?}");
    assert!(told(&registry)["projects/1"].contains(&"push_events".to_owned()));

    let (host, registry) = world(2);
    let plan = connect(
        &host,
        &registry,
        &json!({"groups": ["acme"], "hooks": "system"}),
    );
    assert_eq!(lists(&plan), ["hooks"]);
    assert_eq!(
        plan.polled[0].subject,
        "issues, comments, pipelines and releases"
    );
}

#[test]
fn what_a_setting_leaves_out_is_polled() {
    let (host, registry) = world(2);
    let plan = connect(
        &host,
        &registry,
        &json!({"groups": ["acme"], "hooks": "project"}),
    );
    assert_eq!(lists(&plan), ["projects/1/hooks", "projects/2/hooks"]);
    let plan = connect(
        &host,
        &registry,
        &json!({"projects": [1], "hooks": "group"}),
    );
    assert!(plan.hooks.is_empty(), "{plan:?}");
    assert_eq!(plan.polled[0].subject, "everything of project acme/p1");
    connect(&host, &registry, &acme());
    let plan = connect(
        &host,
        &registry,
        &json!({"groups": ["acme"], "hooks": "off"}),
    );
    assert_eq!(plan.polled[0].subject, "everything");
    assert!(told(&registry).is_empty());
}

#[test]
fn a_token_that_may_only_read_makes_none_and_says_so() {
    let (host, registry) = world(2);
    registry.borrow_mut().only_reads = true;
    let plan = connect(&host, &registry, &acme());
    assert!(plan.hooks.is_empty());
    assert_eq!(plan.polled.len(), 1, "{plan:?}");
    assert!(plan.polled[0].reason.contains("scope api"), "{plan:?}");
    assert_eq!(
        plan.polled[0].subject,
        "everything of 2 projects (project acme/p1, project acme/p2)"
    );
}

#[test]
fn what_differs_is_changed_with_the_secret_and_surplus_ones_go() {
    let (host, registry) = world(1);
    let only = json!({"projects": [1]});
    connect(&host, &registry, &only);
    {
        let mut registry = registry.borrow_mut();
        let (place, hook) = registry.hooks[&7].clone();
        registry.hooks.insert(8, (place.clone(), hook));
        let theirs =
            json!({"name": "ci", "url": "https://hooks.example.com/hooks/c1", "push_events": true});
        registry.hooks.insert(9, (place, theirs));
        let (_, ours) = registry.hooks.get_mut(&7).expect("there");
        ours["url"] = "https://old.example.com".into();
        ours["wiki_page_events"] = true.into();
        ours["push_events_branch_filter"] = "main".into();
    }
    let plan = connect(&host, &registry, &only);
    {
        let registry = registry.borrow();
        assert_eq!(
            registry.hooks.keys().copied().collect::<Vec<_>>(),
            [8, 9],
            "the right one is kept, another's is not touched"
        );
    }
    assert!(
        plan.hooks[0]
            .message
            .as_deref()
            .is_some_and(|done| done.contains("one too many")),
        "{plan:?}"
    );

    let (_, hook) = registry.borrow_mut().hooks.remove(&9).expect("there");
    assert_eq!(hook["url"], "https://hooks.example.com/hooks/c1");
    {
        let mut registry = registry.borrow_mut();
        let (_, ours) = registry.hooks.get_mut(&8).expect("there");
        ours["url"] = "https://old.example.com".into();
        ours["wiki_page_events"] = true.into();
        ours["push_events_branch_filter"] = "main".into();
    }
    let plan = connect(&host, &registry, &only);
    assert!(plan.missed, "calls went elsewhere");
    let registry = registry.borrow();
    let hook = &registry.hooks[&8].1;
    assert_eq!(
        (&hook["token"], &hook["url"]),
        (
            &json!("s3cret"),
            &json!("https://hooks.example.com/hooks/c1")
        )
    );
    assert_eq!(
        (
            &hook["wiki_page_events"],
            &hook["push_events_branch_filter"]
        ),
        (&json!(false), &json!(""))
    );
}

#[test]
fn a_new_secret_is_told_to_every_hook() {
    let (host, registry) = world(2);
    let both = json!({"projects": [1, 2]});
    connect(&host, &registry, &both);
    let rotated = Target {
        secret: "another".to_owned(),
        rotated: true,
        ..target()
    };
    let plan = connect_to(&host, &registry, &both, &rotated);
    assert!(plan.missed);
    let registry = registry.borrow();
    assert!(
        registry
            .hooks
            .values()
            .all(|(_, hook)| hook["token"] == "another")
    );
    assert_eq!(registry.hooks.len(), 2);
}

#[test]
fn hooks_without_names_are_known_by_their_address() {
    let (host, registry) = world(1);
    registry.borrow_mut().nameless = true;
    let only = json!({"projects": [1]});
    connect(&host, &registry, &only);
    connect(&host, &registry, &only);
    assert_eq!(registry.borrow().hooks.len(), 1);
    assert_eq!(registry.borrow().changes(), 0);
}

#[test]
fn a_hook_that_was_made_before_gitlab_could_sign_gets_its_token() {
    let (host, registry) = world(1);
    let only = json!({"projects": [1]});
    connect(&host, &registry, &only);
    registry.borrow_mut().signs = true;
    registry.borrow_mut().hooks.get_mut(&7).expect("there").1["signing_token"] = Value::Null;
    let plan = connect(&host, &registry, &only);
    assert!(!plan.missed, "its calls carried the secret");
    assert_eq!(registry.borrow().hooks[&7].1["signing_token"], "whsec_AAAA");
    connect(&host, &registry, &only);
    assert_eq!(registry.borrow().changes(), 0);
}

#[test]
fn what_an_older_gitlab_cannot_tell_is_polled() {
    let (host, registry) = world(1);
    let only = json!({"projects": [1]});
    connect(&host, &registry, &only);
    registry
        .borrow_mut()
        .hooks
        .get_mut(&7)
        .expect("there")
        .1
        .as_object_mut()
        .expect("an object")
        .remove("releases_events");
    let plan = connect(&host, &registry, &only);
    assert_eq!(plan.polled[0].subject, "releases of project acme/p1");
    assert!(!plan.hooks[0].events.contains(&"releases_events".to_owned()));
    assert_eq!(registry.borrow().changes(), 0, "it is no use to ask again");
}

#[test]
fn a_hook_that_was_switched_off_is_revived_by_a_test() {
    for without_commits in [false, true] {
        let (host, registry) = world(1);
        connect(&host, &registry, &acme());
        {
            let mut registry = registry.borrow_mut();
            registry.hooks.get_mut(&7).expect("there").1["alert_status"] =
                "temporarily_disabled".into();
            if without_commits {
                registry.without_commits.insert("groups/5".to_owned());
            }
        }
        let plan = connect(&host, &registry, &acme());
        assert_eq!(plan.hooks[0].message.as_deref(), Some("revived"));
        assert_eq!(plan.hooks[0].state, HookState::Active);
        assert!(plan.missed);
    }
    let (host, registry) = world(1);
    connect(
        &host,
        &registry,
        &json!({"projects": [1], "events": "commit"}),
    );
    {
        let mut registry = registry.borrow_mut();
        registry.hooks.get_mut(&7).expect("there").1["alert_status"] = "disabled".into();
        registry.without_commits.insert("projects/1".to_owned());
    }
    let plan = connect(
        &host,
        &registry,
        &json!({"projects": [1], "events": "commit"}),
    );
    assert_eq!(plan.hooks[0].state, HookState::Disabled);
    assert!(
        plan.hooks[0]
            .message
            .as_deref()
            .is_some_and(|why| why.contains("at least one commit")),
        "{plan:?}"
    );
}

#[test]
fn calls_that_failed_are_sent_again_once_and_a_few_at_a_time() {
    let (host, registry) = world(1);
    connect(&host, &registry, &acme());
    let calls = vec![
        (20, "200"),
        (19, "internal error"),
        (18, "500"),
        (17, "201"),
        (16, "503"),
        (15, "404"),
        (14, "502"),
        (13, "302"),
    ];
    registry.borrow_mut().calls.insert(7, calls);
    let plan = connect(&host, &registry, &acme());
    assert!(plan.missed);
    assert_eq!(registry.borrow().resent, ["14", "15", "16", "18"]);
    assert_eq!(plan.hooks[0].message.as_deref(), Some("resent 4"));
    assert_eq!(plan.hooks[0].state, HookState::Active);

    let plan = connect(&host, &registry, &acme());
    assert!(plan.missed, "one was left");
    assert_eq!(registry.borrow().resent[4..], ["19"]);
    assert_eq!(plan.hooks[0].message.as_deref(), Some("resent 1"));

    let plan = connect(&host, &registry, &acme());
    assert!(!plan.missed, "{plan:?}");
    assert_eq!(registry.borrow().resent.len(), 5);

    registry.borrow_mut().calls.insert(7, vec![(3000, "500")]);
    let plan = connect(&host, &registry, &acme());
    assert_eq!(plan.hooks[0].state, HookState::Failing);
}

#[test]
fn of_thousands_of_projects_the_most_active_get_their_hooks_first() {
    let (host, registry) = world(450);
    registry
        .borrow_mut()
        .refusals
        .insert("groups/5".to_owned(), FORBIDDEN);
    for (call, hooks) in [(1, 200), (2, 400), (3, 450)] {
        let plan = connect(&host, &registry, &acme());
        assert_eq!(plan.hooks.len(), hooks, "call {call}");
        assert_eq!(told(&registry).len(), hooks, "call {call}");
        assert_eq!(
            plan.polled.len(),
            usize::from(hooks < 450),
            "{:?}",
            plan.polled
        );
        if call == 1 {
            assert!(
                told(&registry).contains_key("projects/450"),
                "the most active one"
            );
            assert!(
                plan.polled[0]
                    .subject
                    .starts_with("everything of 250 projects"),
                "{:?}",
                plan.polled
            );
        }
    }
}

#[test]
fn of_thousands_of_projects_that_refuse_each_is_asked_once_a_day() {
    let (host, registry) = world(450);
    let refused = (1..=450).map(|id| format!("projects/{id}"));
    let refused = refused.chain(std::iter::once("groups/5".to_owned()));
    let refused = refused.map(|place| (place, FORBIDDEN));
    registry.borrow_mut().refusals.extend(refused);
    for asked in [200, 200, 50, 0] {
        let plan = connect(&host, &registry, &acme());
        assert!(plan.hooks.is_empty());
        let registry = registry.borrow();
        let projects = registry
            .log
            .iter()
            .filter(|(_, path, _)| path.starts_with("projects/"));
        assert_eq!(projects.count(), asked);
    }
}

#[test]
fn projects_that_are_no_longer_selected_lose_their_hooks() {
    let (host, registry) = world(3);
    connect(&host, &registry, &json!({"projects": [1, 2, 3]}));
    registry
        .borrow_mut()
        .refusals
        .insert("projects/3".to_owned(), FORBIDDEN);
    connect(&host, &registry, &json!({"projects": [1]}));
    assert_eq!(
        told(&registry).into_keys().collect::<Vec<_>>(),
        ["projects/1", "projects/3"]
    );
    assert!(host.logged("cannot be removed"));
    // It is tried again.
    registry.borrow_mut().refusals.clear();
    connect(&host, &registry, &json!({"projects": [1]}));
    assert_eq!(
        told(&registry).into_keys().collect::<Vec<_>>(),
        ["projects/1"]
    );
}

#[test]
fn disconnecting_removes_our_hooks_and_no_others() {
    for forgotten in [false, true] {
        let (host, registry) = world(3);
        connect(&host, &registry, &json!({"projects": [1, 2]}));
        let theirs = json!({"name": "ci", "url": "https://ci.example.com", "push_events": true});
        registry
            .borrow_mut()
            .hooks
            .insert(99, ("projects/1".to_owned(), theirs));
        if forgotten {
            host.state.borrow_mut().clear();
        }
        assert_eq!(disconnect(&host, &json!({"projects": [1, 2]})), []);
        assert_eq!(
            registry.borrow().hooks.keys().copied().collect::<Vec<_>>(),
            [99]
        );
    }
    let (host, registry) = world(3);
    connect(&host, &registry, &json!({"projects": [1, 2]}));
    registry
        .borrow_mut()
        .refusals
        .insert("projects/2".to_owned(), FORBIDDEN);
    // Whatever is selected by now, what was made is removed.
    let left = disconnect(&host, &json!({"projects": [3]}));
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(
        left[0].subject.contains("project 2") && left[0].reason.contains("403"),
        "{left:?}"
    );
    assert_eq!(
        told(&registry).into_keys().collect::<Vec<_>>(),
        ["projects/2"]
    );
}

#[test]
fn a_refused_token_and_a_selection_that_does_not_exist_are_failures() {
    let (host, registry) = world(1);
    registry
        .borrow_mut()
        .refusals
        .insert("groups/5".to_owned(), (401, "401 Unauthorized"));
    let failure = hooks::connect(&host, &context(&acme(), None), &target());
    assert!(matches!(failure, Err(Failure::Standing(_))), "{failure:?}");
    let nowhere = context(&json!({"projects": [77]}), None);
    let failure = hooks::connect(&host, &nowhere, &target());
    assert!(
        matches!(failure, Err(Failure::Configuration(_))),
        "{failure:?}"
    );
}

#[test]
fn what_was_made_before_the_token_was_refused_is_remembered() {
    let (host, registry) = world(2);
    registry
        .borrow_mut()
        .refusals
        .insert("projects/1".to_owned(), (401, "401 Unauthorized"));
    connect(&host, &registry, &json!({"projects": [2]}));
    let both = context(&json!({"projects": [2, 1]}), None);
    let failure = hooks::connect(&host, &both, &target());
    assert!(matches!(failure, Err(Failure::Standing(_))), "{failure:?}");
    let memory = host.cursor("hooks").expect("remembered");
    assert_eq!(memory["places"], json!(["projects/2"]));
}

#[test]
fn what_is_only_in_the_way_for_now_is_tried_again_and_a_role_that_is_missing_after_a_day() {
    let (host, registry) = world(1);
    let only = json!({"projects": [1]});
    let refuse = |status, words| {
        let refusal = (status, words);
        registry
            .borrow_mut()
            .refusals
            .insert("projects/1".to_owned(), refusal);
    };
    refuse(
        422,
        "Url is blocked: Requests to the local network are not allowed",
    );
    let plan = connect(&host, &registry, &only);
    assert!(plan.polled[0].reason.contains("local network"), "{plan:?}");
    refuse(403, "403 Forbidden");
    connect(&host, &registry, &only);
    registry.borrow_mut().refusals.clear();
    assert!(connect(&host, &registry, &only).hooks.is_empty());
    host.gitlab.borrow_mut().date = Some("Mon, 23 Nov 2026 10:00:01 GMT".to_owned());
    assert_eq!(connect(&host, &registry, &only).hooks.len(), 1);
}

#[test]
fn a_memory_that_somebody_edited_is_read_as_far_as_it_makes_sense() {
    for memory in [
        "",
        "[]",
        "5",
        "{\"places\": 5}",
        "{\"places\": [\"../x\", 7, \"projects/1\"], \"refused\": [], \"resent\": {\"a\": \"b\"}}",
    ] {
        let (host, registry) = world(2);
        host.state
            .borrow_mut()
            .insert("hooks".to_owned(), memory.to_owned());
        let plan = connect(&host, &registry, &json!({"projects": [2]}));
        assert_eq!(lists(&plan), ["projects/2/hooks"], "{memory}");
    }
}
