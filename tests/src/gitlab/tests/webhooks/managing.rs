//! Managing hooks: who may, what is kept, what is refused.

use super::*;

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
    let got = stage.after(|world| world.add_note(target, "hello")).await;
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
    let got = stage.after(|world| world.add_note(target, "hello")).await;
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
    let got = stage.after(|world| world.add_note(target, "hello")).await;
    assert_eq!(got.len(), 1);
}
