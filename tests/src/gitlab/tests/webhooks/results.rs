//! What becomes of deliveries, and of hooks whose deliveries fail.

use super::*;

#[tokio::test]
async fn a_failed_delivery_is_not_repeated_and_a_redirect_counts_as_delivered() {
    let stage = Stage::new("18.9.0-ee").await;
    stage.project_hook(json!({})).await;
    let target = stage.target();
    for (status, success) in [(500, false), (404, false), (302, true), (200, true)] {
        stage.receiver.answer_with(status);
        let got = stage.after(|world| world.add_note(target, "hello")).await;
        assert_eq!(got.len(), 1);
        let sent = stage.server.world().deliveries().pop().expect("one");
        assert_eq!((sent.status, sent.is_success()), (Some(status), success));
    }
    stage.server.world().knobs.hook_timeout = Duration::from_millis(50);
    lock(&stage.receiver.inbox).wait = Duration::from_secs(2);
    stage.after(|world| world.add_note(target, "hello")).await;
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
            .after(|world| world.add_note(target, "hello"))
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
    let edit =
        |world: &mut World| world.edit_merge_request(target.project, target.iid, Some("x"), None);
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
    let edit =
        |world: &mut World| world.edit_merge_request(target.project, target.iid, Some("x"), None);
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
    let first = stage.after(|world| world.add_note(target, "hello")).await;
    stage.receiver.answer_with(503);
    stage.after(|world| world.add_note(target, "again")).await;
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
    let got = stage.after(|world| world.add_note(target, "hello")).await;
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
    let got = stage.after(|world| world.add_note(target, "hello")).await;
    assert_eq!(got[0].path, "/hook/there");
}
