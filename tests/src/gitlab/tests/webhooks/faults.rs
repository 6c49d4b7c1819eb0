//! Deliveries that go wrong or are forged, storms, and the control API.

use super::*;

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
    let got = stage.after(|world| world.add_note(target, "hello")).await;
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
    let got = stage.after(|world| world.add_note(target, "hello")).await;
    assert_eq!(got[0].body.len(), 30);

    fault(WebhookFaults {
        break_off: Some(30),
        ..none()
    });
    let got = stage.after(|world| world.add_note(target, "hello")).await;
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
    let got = stage.after(|world| world.add_note(target, "hello")).await;
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
    let got = stage.after(|world| world.add_note(target, "hello")).await;
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
