//! Connections of a platform, from the API to CortexDB.

use std::time::Duration;

use serde_json::{Value, json};
use simulators::cortex;
use simulators::gitlab::{self, Size, World};

use super::house::{House, Kind, on_both_databases};
use crate::setup::KEY;

on_both_databases!(
    a_connection_that_is_created_is_backfilled_and_kept_up,
    caps_of_tenants_are_never_exceeded,
    a_deleted_connection_is_forgotten_and_another_takes_its_name,
    a_connection_is_not_moved_to_another_source_or_cortexdb,
);

async fn a_connection_that_is_created_is_backfilled_and_kept_up(kind: Kind) {
    let world = World::generate(701, &Size::tiny());
    let Some(mut house) = House::new(kind, world, Duration::ZERO).await else {
        return;
    };
    let process = house.serve(&[]).await;
    let id = house
        .connected(&process, json!({"run": {"interval": "5s"}}))
        .await;
    let run = house.wait_for_run(&process, &id, "complete").await;
    assert!(run["usage"]["records"].as_u64().unwrap() > 0, "{run:#}");
    let selection = house.setup.membership();
    house.setup.assert_complete(&selection);
    // What changes is found by the schedule.
    house.setup.gitlab.world().mutate_some(1, 5);
    let before = house.runs(&process, &id).await.len();
    house
        .wait("another run", async || {
            (house.runs(&process, &id).await.len() > before + 1).then_some(())
        })
        .await;
    house
        .setup
        .assert_nothing_is_missing(&house.setup.membership());
    let shown = house.connection(&process, &id).await;
    assert_eq!(shown["secrets"]["source_token"], json!({"set": true}));
    assert_eq!(shown["failures"], 0);
    assert_eq!(process.terminate().await, 0);
}

/// The times of a run, as the database wrote them.
fn span(run: &Value) -> (String, String) {
    let text = |name: &str| run[name].as_str().unwrap_or("9999").to_owned();
    (text("started_at"), text("ended_at"))
}

async fn caps_of_tenants_are_never_exceeded(kind: Kind) {
    const TENANTS: usize = 20;
    const EACH: usize = 10;
    // By the number of the tenant: how many runs at once, and what says so. A run of theirs may take 64 MiB.
    const CAPS: [usize; 4] = [1, 2, 3, 2];
    let caps = |number: usize| match CAPS[number % 4] {
        3 => json!({"concurrent_runs": 9, "memory_bytes": 200 << 20}),
        most => json!({"concurrent_runs": most}),
    };
    let world = World::generate(702, &Size::tiny());
    let Some(mut house) = House::new(kind, world, Duration::from_millis(10)).await else {
        return;
    };
    let first = house.serve(&["--workers", "8"]).await;
    let second = house.serve(&["--workers", "8"]).await;
    let connector = house.upload(&first, "gitlab.wasm").await;
    let mut connections = Vec::new();
    for number in 0..TENANTS {
        let name = format!("tenant-{number}");
        let tenant = house.tenant(&first, &name, caps(number)).await;
        for one in 0..EACH {
            let scope = format!("org:acme-{number}-{one}/source:gitlab/project:{{project_path}}");
            let change =
                json!({"cortexdb": {"scope_template": scope}, "limits": {"memory": "64MiB"}});
            let wanted = house.wanted(&connector, &format!("c{one}"), change);
            connections.push((number, house.connect(&first, &tenant, wanted).await));
        }
    }
    let mut spans: Vec<Vec<(String, String)>> = vec![Vec::new(); TENANTS];
    for (number, id) in &connections {
        house.wait_for_run(&second, id, "complete").await;
        let runs = house.runs(&second, id).await;
        // The end of one that lost its lease on a slow machine is written down later than it was.
        let ended = runs.iter().filter(|run| run["outcome"] != "interrupted");
        spans[*number].extend(ended.map(span));
    }
    for (number, spans) in spans.iter().enumerate() {
        let most = spans
            .iter()
            .map(|(at, _)| {
                let live = spans.iter().filter(|(start, end)| start <= at && at < end);
                live.count()
            })
            .max();
        let cap = CAPS[number % 4];
        assert!(
            most <= Some(cap),
            "tenant {number}: {most:?} at once, {cap} allowed"
        );
    }
    // Both have worked.
    let log = house.log();
    assert!(log.contains("run ended"), "{log}");
    first.terminate().await;
    second.terminate().await;
}

async fn a_deleted_connection_is_forgotten_and_another_takes_its_name(kind: Kind) {
    let world = World::generate(703, &Size::tiny());
    let Some(mut house) = House::new(kind, world, Duration::ZERO).await else {
        return;
    };
    let process = house.serve(&[]).await;
    let tenant = house.tenant(&process, "acme", json!({})).await;
    let connector = house.upload(&process, "gitlab.wasm").await;
    let wanted = house.wanted(&connector, "gitlab", json!({}));
    let id = house.connect(&process, &tenant, wanted.clone()).await;
    house.wait_for_run(&process, &id, "complete").await;
    house
        .call(
            &process,
            "DELETE",
            &format!("/connections/{id}"),
            Value::Null,
        )
        .await;
    house
        .wait("the end of the connection", async || {
            let path = format!("/connections/{id}");
            let (status, _) = house.api(&process, "GET", &path, Value::Null).await;
            (status == 404).then_some(())
        })
        .await;
    let written = house.written();
    let again = house.connect(&process, &tenant, wanted).await;
    let run = house.wait_for_run(&process, &again, "complete").await;
    assert_ne!(id, again);
    // CortexDB still holds what the first one wrote; the second one finds it there.
    house.setup.assert_complete(&house.setup.membership());
    assert_eq!(house.written(), written, "{run:#}");
    process.terminate().await;
}

async fn a_connection_is_not_moved_to_another_source_or_cortexdb(kind: Kind) {
    let world = World::generate(705, &Size::tiny());
    let Some(mut house) = House::new(kind, world, Duration::ZERO).await else {
        return;
    };
    let process = house.serve(&[]).await;
    let nobody = "http://127.0.0.1:9";
    let id = house
        .connected(
            &process,
            json!({"source": {"url": nobody}, "run": {"patience": "1s"}}),
        )
        .await;
    house.wait_for_run(&process, &id, "failed").await;
    // What never worked is corrected.
    let source = &house.setup.variables["GITLAB_URL"];
    let moved = |url: &str| json!({"config": {"source": {"url": url}}, "secrets": {"source_token": gitlab::TOKEN}});
    house.patch(&process, &id, moved(source)).await;
    house.wait_for_run(&process, &id, "complete").await;
    house.setup.assert_complete(&house.setup.membership());
    let (status, refused) = house.try_to_patch(&process, &id, moved(nobody)).await;
    assert_eq!(status, 422, "{refused}");
    assert!(refused.contains("config.source.url"), "{refused}");
    // A key of another tenant of CortexDB, which only a run finds out.
    let written = house.written();
    let another = |options: &mut cortex::Options| options.tenant_id = "tenant_of_others".into();
    house.setup.cortex.cortex().reconfigure(another);
    let key = json!({"secrets": {"cortexdb_api_key": KEY}});
    house.patch(&process, &id, key).await;
    let refused = house.wait_for_run(&process, &id, "misconfigured").await;
    let reason = refused["receipt"]["reason"].as_str().unwrap();
    assert!(reason.contains("tenant_of_others"), "{reason}");
    assert_eq!(house.written(), written);
    process.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tenants_may_do_is_taken_over_by_a_running_platform() {
    let world = World::generate(704, &Size::tiny());
    let mut house = House::new(Kind::Sqlite, world, Duration::ZERO)
        .await
        .unwrap();
    let process = house.serve(&[]).await;
    let tenant = house.tenant(&process, "acme", json!({})).await;
    let connector = house.upload(&process, "gitlab.wasm").await;
    let path = format!("/connections?tenant={tenant}");
    let file = house.setup.home.path().join("serve.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let logged = async |words: &str| {
        house
            .wait(words, async || house.log().contains(words).then_some(()))
            .await;
    };
    // A mistake changes nothing.
    std::fs::write(&file, "lease = 7").unwrap();
    process.signal("-HUP");
    logged("the configuration was not reloaded").await;
    let wanted = house.wanted(&connector, "first", json!({"limits": {"memory": "100MiB"}}));
    house.call(&process, "POST", &path, wanted).await;
    let limits = "[tenants.limits]\nmemory = \"64MiB\"\n";
    std::fs::write(&file, format!("workers = 3\n{before}{limits}")).unwrap();
    process.signal("-HUP");
    logged("configuration reloaded").await;
    assert!(house.log().contains("\"needs_a_restart\":[\"workers\"]"));
    let wanted = house.wanted(
        &connector,
        "second",
        json!({"limits": {"memory": "100MiB"}}),
    );
    let (status, refused) = house.api(&process, "POST", &path, wanted).await;
    assert_eq!(status, 422, "{refused:#}");
    let words = refused.to_string();
    assert!(
        words.contains("100 MiB") && words.contains("64 MiB"),
        "{words}"
    );
    assert_eq!(process.terminate().await, 0);
}
