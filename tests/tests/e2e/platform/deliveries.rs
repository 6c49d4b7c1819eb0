//! Webhook calls of a platform's connections, from the source to CortexDB.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use serde_json::{Value, json};
use simulators::gitlab::{Fault, OWNER_TOKEN, Rule, Size, World};

use super::house::{House, Kind, Process, on_both_databases};
use crate::hooks::{open_merge_request, selection, stored_within};

on_both_databases!(
    a_change_is_told_by_a_hook_and_stored_at_once,
    a_storm_of_calls_during_a_backfill_loses_nothing,
    a_call_is_followed_at_once_while_all_workers_read_for_others,
);

/// A connection whose token may register hooks.
async fn realtime(house: &House, process: &Process) -> String {
    let tenant = house.tenant(process, "acme", json!({})).await;
    let connector = house.upload(process, "gitlab.wasm").await;
    let mut wanted = house.wanted(&connector, "gitlab", json!({"realtime": true}));
    wanted["secrets"]["source_token"] = json!(OWNER_TOKEN);
    house.connect(process, &tenant, wanted).await
}

/// One connection that is called, and beside it a first reading that takes all there is, of this tenant. What the call told is stored soon,
/// and long before that reading has ended.
async fn told_beside_a_backfill(house: &mut House, same_tenant: bool) {
    let process = house.serve_publicly(&["--workers", "1"]).await;
    let caps = json!({"concurrent_runs": 1});
    let acme = house.tenant(&process, "acme", caps.clone()).await;
    let other = house.tenant(&process, "other", caps).await;
    let connector = house.upload(&process, "gitlab.wasm").await;
    let (project, iid) = open_merge_request(&house.setup);
    let small = json!({"realtime": true, "settings": {"projects": [project.to_string()]}});
    let mut called = house.wanted(&connector, "called", small);
    called["secrets"]["source_token"] = json!(OWNER_TOKEN);
    let called = house.connect(&process, &acme, called).await;
    house.wait_for_run(&process, &called, "complete").await;
    let scope = "org:acme/source:again/project:{project_path}";
    let change = json!({"cortexdb": {"scope_template": scope}});
    let reads = house.wanted(&connector, "reads", change);
    let tenant = if same_tenant { &acme } else { &other };
    let reads = house.connect(&process, tenant, reads).await;
    let before = house.written();
    house
        .wait("the first pages", async || {
            (house.written() > before).then_some(())
        })
        .await;
    house
        .setup
        .gitlab
        .world()
        .edit_merge_request(project, iid, Some("Told at once"), None)
        .unwrap();
    let began = Instant::now();
    let path = format!("/connections/{called}/deliveries?state=handled");
    house
        .wait("the call", async || {
            let list = house.call(&process, "GET", &path, Value::Null).await;
            list["items"].get(0).is_some().then_some(())
        })
        .await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}\n{}", house.log());
    let runs = house.runs(&process, &reads).await;
    let ended = runs.iter().any(|run| run["outcome"] == "complete");
    assert!(!ended, "the reading was too short to be in the way");
    house.wait_for_run(&process, &reads, "complete").await;
    process.terminate().await;
}

async fn a_call_is_followed_at_once_while_all_workers_read_for_others(kind: Kind) {
    let world = World::generate(726, &Size::items(10_000));
    let Some(mut house) = House::new(kind, world, Duration::from_millis(200)).await else {
        return;
    };
    told_beside_a_backfill(&mut house, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_makes_a_place_for_the_calls_of_its_tenant() {
    let world = World::generate(727, &Size::items(10_000));
    let mut house = House::new(Kind::Sqlite, world, Duration::from_millis(200))
        .await
        .unwrap();
    told_beside_a_backfill(&mut house, true).await;
}

async fn a_change_is_told_by_a_hook_and_stored_at_once(kind: Kind) {
    let world = World::generate(721, &Size::tiny());
    let Some(mut house) = House::new(kind, world, Duration::ZERO).await else {
        return;
    };
    let process = house.serve_publicly(&[]).await;
    let id = realtime(&house, &process).await;
    house.wait_for_run(&process, &id, "complete").await;
    let shown = house.connection(&process, &id).await;
    let hooks = shown["hook_plan"]["hooks"].as_array();
    assert!(hooks.is_some_and(|hooks| !hooks.is_empty()), "{shown:#}");
    let (project, iid) = open_merge_request(&house.setup);
    let record = format!("gl:merge_request:{project}/{iid}");
    for number in 0..5 {
        let title = format!("Told by hook {number}");
        house
            .setup
            .gitlab
            .world()
            .edit_merge_request(project, iid, Some(&title), None)
            .unwrap();
        let took = stored_within(&house.setup, &record, &title).await;
        assert!(took < Duration::from_secs(5), "{took:?}\n{}", house.log());
    }
    let path = format!("/connections/{id}/deliveries");
    // What it told of is stored a moment before it counts as followed.
    let first = house
        .wait("the last delivery", async || {
            let list = house.call(&process, "GET", &path, Value::Null).await;
            let first = list["items"][0].clone();
            (first["state"] == "handled").then_some(first)
        })
        .await;
    // What was followed can be followed again, and changes nothing.
    let before = house.written();
    let path = format!(
        "/connections/{id}/deliveries/{}",
        first["id"].as_str().unwrap()
    );
    house
        .call(&process, "POST", &format!("{path}/replay"), Value::Null)
        .await;
    house
        .wait("the delivery again", async || {
            let shown = house.call(&process, "GET", &path, Value::Null).await;
            (shown["state"] == "handled").then_some(())
        })
        .await;
    assert_eq!(house.written(), before);
    // How long ago it came does not count as how long it took.
    house
        .wait("the count of deliveries", async || {
            let log = house.log();
            let followed = log
                .lines()
                .filter(|line| line.contains("delivery followed"));
            let followed = followed.count();
            let name = "runtime_delivery_seconds_count{}";
            let measured = house.metric(&process, name).await;
            (measured > 0 && followed == measured + 1).then_some(())
        })
        .await;
    house.setup.assert_complete(&selection(&house.setup));
    // Its hooks go with it.
    house
        .call(
            &process,
            "DELETE",
            &format!("/connections/{id}"),
            Value::Null,
        )
        .await;
    house
        .wait("the end of the hooks", async || {
            house
                .setup
                .gitlab
                .world()
                .webhooks()
                .is_empty()
                .then_some(())
        })
        .await;
    process.terminate().await;
}

async fn a_storm_of_calls_during_a_backfill_loses_nothing(kind: Kind) {
    let world = World::generate(722, &Size::items(1000));
    let Some(mut house) = House::new(kind, world, Duration::from_millis(20)).await else {
        return;
    };
    let process = house.serve_publicly(&[]).await;
    let id = realtime(&house, &process).await;
    house
        .wait("the first pages", async || {
            (house.written() > 100).then_some(())
        })
        .await;
    let storm = house.setup.gitlab.storm(100, Duration::from_secs(5), 7);
    storm.finish().await;
    house
        .setup
        .gitlab
        .webhooks_settled(Duration::from_secs(30))
        .await;
    house
        .wait("the end of the storm and of the backfill", async || {
            let shown = house.connection(&process, &id).await;
            let runs = house.runs(&process, &id).await;
            let complete = runs
                .iter()
                .any(|run| run["kind"] == "sync" && run["outcome"] == "complete");
            (complete && shown["waiting_deliveries"] == 0 && shown["running"] == false)
                .then_some(())
        })
        .await;
    house
        .setup
        .assert_nothing_is_missing(&selection(&house.setup));
    let violations = house.setup.cortex.cortex().invariant_violations();
    assert!(violations.is_empty(), "{violations:?}");
    process.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_that_are_not_wanted_any_more_are_removed_and_come_back_when_they_are() {
    let world = World::generate(724, &Size::tiny());
    let mut house = House::new(Kind::Sqlite, world, Duration::ZERO)
        .await
        .unwrap();
    let process = house.serve_publicly(&[]).await;
    let id = realtime(&house, &process).await;
    let registered = async |wanted: bool| {
        let what = format!("hooks: {wanted}");
        house
            .wait(&what, async || {
                let there = !house.setup.gitlab.world().webhooks().is_empty();
                let shown = house.connection(&process, &id).await;
                let hooks = shown["hook_plan"]["hooks"].as_array();
                let told = hooks.is_some_and(|hooks| !hooks.is_empty());
                (there == wanted && told == wanted).then_some(())
            })
            .await;
    };
    registered(true).await;
    for wanted in [false, true] {
        let change = json!({"config": {"realtime": wanted}});
        house.patch(&process, &id, change).await;
        registered(wanted).await;
    }
    process.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_is_added_is_hooked_at_once() {
    let world = World::generate(726, &Size::tiny());
    let mut house = House::new(Kind::Sqlite, world, Duration::ZERO)
        .await
        .unwrap();
    let process = house.serve_publicly(&[]).await;
    let (project, _) = open_merge_request(&house.setup);
    let tenant = house.tenant(&process, "acme", json!({})).await;
    let connector = house.upload(&process, "gitlab.wasm").await;
    let one = json!({"realtime": true, "settings": {"projects": [project.to_string()]}});
    let mut wanted = house.wanted(&connector, "gitlab", one);
    wanted["secrets"]["source_token"] = json!(OWNER_TOKEN);
    let id = house.connect(&process, &tenant, wanted).await;
    house.wait_for_run(&process, &id, "complete").await;
    let hooks = || house.setup.gitlab.world().webhooks().len();
    assert_eq!(hooks(), 1);
    // All that the token may see.
    let all = json!({"config": {"settings": {"projects": null}}});
    house.patch(&process, &id, all).await;
    house
        .wait("more hooks", async || (hooks() > 1).then_some(()))
        .await;
    process.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_of_a_connect_that_failed_half_way_are_removed_too() {
    let world = World::generate(727, &Size::tiny());
    let mut house = House::new(Kind::Sqlite, world, Duration::ZERO)
        .await
        .unwrap();
    let process = house.serve_publicly(&[]).await;
    let projects: Vec<String> = {
        let world = house.setup.gitlab.world();
        let viewer = world.viewer(OWNER_TOKEN);
        let seen = world
            .projects
            .iter()
            .filter(|(_, project)| world.role(viewer, project).is_some());
        seen.map(|(id, _)| id.to_string()).take(2).collect()
    };
    // The token ends behind the first hook.
    let mut ends = Rule::new("/hooks", Fault::Revoked).after(1);
    ends.method = Some("POST".into());
    house.setup.gitlab.add_fault(ends);
    let tenant = house.tenant(&process, "acme", json!({})).await;
    let connector = house.upload(&process, "gitlab.wasm").await;
    let change = json!({"realtime": true, "settings": {"projects": projects}});
    let mut wanted = house.wanted(&connector, "gitlab", change);
    wanted["secrets"]["source_token"] = json!(OWNER_TOKEN);
    let id = house.connect(&process, &tenant, wanted).await;
    house
        .wait("the first look at the hooks", async || {
            let shown = house.connection(&process, &id).await;
            shown["hook_plan"]["for"].is_string().then_some(())
        })
        .await;
    let there = || house.setup.gitlab.world().webhooks().len();
    assert!(there() > 0, "{}", house.log());
    house.setup.gitlab.set_faults(vec![]);
    let polled = json!({"config": {"realtime": false}});
    house.patch(&process, &id, polled).await;
    house
        .wait("the end of the hooks", async || {
            (there() == 0).then_some(())
        })
        .await;
    process.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_source_can_reach_the_platform_it_is_said_that_everything_is_polled() {
    let world = World::generate(725, &Size::tiny());
    let mut house = House::new(Kind::Sqlite, world, Duration::ZERO)
        .await
        .unwrap();
    let process = house.serve(&[]).await;
    let id = realtime(&house, &process).await;
    house.wait_for_run(&process, &id, "complete").await;
    let shown = house.connection(&process, &id).await;
    let polled = &shown["hook_plan"]["polled"][0];
    assert_eq!(polled["subject"], "everything", "{shown:#}");
    assert!(polled["reason"].as_str().unwrap().contains("--public-url"));
    // Nothing has to be removed, so nothing keeps it.
    let path = format!("/connections/{id}");
    house.call(&process, "DELETE", &path, Value::Null).await;
    house
        .wait("the end of the connection", async || {
            let (status, _) = house.api(&process, "GET", &path, Value::Null).await;
            (status == 404).then_some(())
        })
        .await;
    process.terminate().await;
}

/// Spans that a collector was sent.
type Spans = Arc<Mutex<Vec<Value>>>;

/// A collector of traces; its address.
async fn collector() -> (String, Spans) {
    let spans = Spans::default();
    let take = async |State(spans): State<Spans>, body: String| {
        let body: Value = serde_json::from_str(&body).unwrap();
        let sent = &body["resourceSpans"][0]["scopeSpans"][0]["spans"];
        let sent = sent.as_array().unwrap().clone();
        spans.lock().unwrap().extend(sent);
    };
    let router = Router::new()
        .route("/v1/traces", axum::routing::post(take))
        .with_state(Arc::clone(&spans));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}"), spans)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_leads_from_the_call_to_the_run_that_followed_it() {
    let world = World::generate(723, &Size::tiny());
    let mut house = House::new(Kind::Sqlite, world, Duration::ZERO)
        .await
        .unwrap();
    let (address, spans) = collector().await;
    house.variables = vec![("OTEL_EXPORTER_OTLP_ENDPOINT".into(), address)];
    let process = house.serve_publicly(&[]).await;
    let id = realtime(&house, &process).await;
    house.wait_for_run(&process, &id, "complete").await;
    let (project, iid) = open_merge_request(&house.setup);
    house
        .setup
        .gitlab
        .world()
        .edit_merge_request(project, iid, Some("Traced"), None)
        .unwrap();
    let record = format!("gl:merge_request:{project}/{iid}");
    stored_within(&house.setup, &record, "Traced").await;
    // What is on its way leaves before the process does.
    let path = format!("/connections/{id}/deliveries");
    house
        .wait("the end of the delivery", async || {
            let list = house.call(&process, "GET", &path, Value::Null).await;
            (list["items"][0]["state"] == "handled").then_some(())
        })
        .await;
    let list = house.call(&process, "GET", &path, Value::Null).await;
    let trace = list["items"][0]["trace"].as_str().unwrap().to_owned();
    let runs = house.runs(&process, &id).await;
    assert_eq!(process.terminate().await, 0);
    let spans = spans.lock().unwrap();
    let delivery = spans.iter().find(|span| span["traceId"] == *trace);
    let delivery = delivery.unwrap_or_else(|| panic!("no span of {trace}: {spans:#?}"));
    assert_eq!(delivery["name"], "delivery");
    let link = &delivery["links"][0];
    let run = spans.iter().find(|span| span["spanId"] == link["spanId"]);
    let run = run.unwrap_or_else(|| panic!("no span of {link}: {spans:#?}"));
    assert_eq!(
        (&run["name"], &run["traceId"]),
        (&json!("run"), &link["traceId"])
    );
    let name = |run: &Value| run["id"].as_str().unwrap().replace('-', "");
    assert!(runs.iter().any(|one| run["traceId"] == *name(one)));
}
