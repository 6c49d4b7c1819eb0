use std::time::Duration;

use chrono::{TimeDelta, Utc};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use super::envelope::samples::note;
use super::{
    BulkReply, BulkScope, Credential, EventState, Fault, FaultRule, ItemRefusal, Options,
    RateLimit, RedactedListing, Route, Server,
};

const SCOPE: &str = "org:acme/source:gitlab/project:42";

struct Reply {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl Reply {
    fn code(&self) -> (u16, &str) {
        (
            self.status.as_u16(),
            self.body["error_code"].as_str().unwrap_or_default(),
        )
    }

    fn event_id(&self) -> &str {
        self.body["event_id"].as_str().expect("an event id")
    }
}

/// Calls a server the way a client does.
struct Peer {
    server: Server,
    http: Client,
}

impl Peer {
    async fn of(options: Options) -> Self {
        Self {
            server: Server::start(options).await.expect("a free port"),
            http: Client::new(),
        }
    }

    async fn full() -> Self {
        Self::of(Options::full("key")).await
    }

    async fn try_send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> reqwest::Result<Reply> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.server.url()))
            .header("authorization", "Bearer key");
        if let Some(body) = body {
            request = request.json(body);
        }
        let reply = request.send().await?;
        let (status, headers) = (reply.status(), reply.headers().clone());
        let text = reply.text().await?;
        Ok(Reply {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
        })
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        self.try_send(Method::POST, path, Some(&body))
            .await
            .expect("a reply")
    }

    async fn get(&self, path: &str) -> Reply {
        self.try_send(Method::GET, path, None)
            .await
            .expect("a reply")
    }

    async fn write(&self, envelope: Value) -> Reply {
        self.post("/v1/experience", envelope).await
    }

    async fn bulk(&self, items: Vec<Value>) -> Reply {
        self.post(
            "/v1/experience/bulk",
            json!({ "items": items, "ordering": "strict_temporal" }),
        )
        .await
    }

    async fn forget(&self, cascade: &str, ids: &[&str]) -> Reply {
        let body = json!({ "scope": SCOPE, "selector": { "memory_ids": ids }, "cascade": cascade });
        self.post("/v1/forget", body).await
    }

    fn fault(&self, rule: FaultRule) {
        self.server.cortex().add_fault(rule);
    }
}

fn hello(key: &str) -> Value {
    note("gl:note:42/7", "hello", key)
}

fn notes(count: usize) -> Vec<Value> {
    (0..count)
        .map(|n| {
            note(
                &format!("gl:note:42/{n}"),
                &format!("text {n}"),
                &format!("k{n}"),
            )
        })
        .collect()
}

#[tokio::test]
async fn a_write_is_accepted_and_its_replay_returns_the_first_id() {
    let peer = Peer::full().await;
    let first = peer.write(hello("k")).await;
    assert_eq!(first.status, 202);
    assert_eq!(first.body["replayed_from_idempotency"], false);
    let mut later = hello("k");
    later["context"]["observed_at"] = json!("2026-05-05T00:00:00Z");
    let replay = peer.write(later).await;
    assert_eq!(replay.event_id(), first.event_id());
    assert_eq!(replay.body["replayed_from_idempotency"], true);
    assert_eq!(
        peer.post("/v1/experience?wait=indexed", hello("k"))
            .await
            .status,
        200
    );
    assert_eq!(
        peer.post("/v1/experience?wait=soon", hello("k"))
            .await
            .code(),
        (422, "INVALID_BODY")
    );
    assert_eq!(peer.server.cortex().events().len(), 1);
}

#[tokio::test]
async fn another_body_under_the_same_key_is_a_conflict_and_a_violation() {
    let peer = Peer::full().await;
    peer.write(hello("k")).await;
    let other = peer.write(note("gl:note:42/7", "bye", "k")).await;
    assert_eq!(other.code(), (409, "IDEMPOTENCY_CONFLICT"));
    assert_eq!(peer.server.cortex().events().len(), 1);
    let violations = peer.server.cortex().invariant_violations();
    assert!(
        violations[0].contains("came again with another body"),
        "{violations:?}"
    );
}

#[tokio::test]
async fn the_same_key_collides_in_sibling_scopes_but_not_under_another_root() {
    let peer = Peer::full().await;
    peer.write(hello("k")).await;
    let mut sibling = hello("k");
    sibling["scope"] = json!("org:acme/source:gitlab/project:43");
    assert_eq!(peer.write(sibling).await.status, 409);
    let mut stranger = hello("k");
    stranger["scope"] = json!("org:other/project:42");
    assert_eq!(peer.write(stranger).await.status, 202);
}

#[tokio::test]
async fn a_key_is_forgotten_after_24_hours() {
    let peer = Peer::full().await;
    peer.write(hello("k")).await;
    let clock = peer.server.cortex().clock().clone();
    clock.advance_seconds(24 * 3600 - 60);
    assert_eq!(
        peer.write(hello("k")).await.body["replayed_from_idempotency"],
        true
    );
    clock.advance_seconds(61);
    assert_eq!(
        peer.get("/v1/experience/status?idempotency_key=k")
            .await
            .body["found"],
        false
    );
    assert_eq!(
        peer.write(hello("k")).await.body["replayed_from_idempotency"],
        false
    );
    let violations = peer.server.cortex().invariant_violations();
    assert!(violations[0].contains("is live twice"), "{violations:?}");
}

#[tokio::test]
async fn edit_and_revert_loses_the_text_where_forgetting_keeps_keys() {
    for releases in [true, false] {
        let mut options = Options::full("key");
        options.forget_releases_keys = releases;
        let peer = Peer::of(options).await;
        let a = peer.write(hello("a")).await;
        peer.write(note("gl:note:42/7", "edited", "b")).await;
        peer.forget("redact_events", &[a.event_id()]).await;
        let again = peer.write(hello("a")).await;
        assert_eq!(again.body["replayed_from_idempotency"], !releases);
        let state = peer
            .server
            .cortex()
            .event(again.event_id())
            .expect("an event")
            .state;
        assert_eq!(state == EventState::Redacted, !releases);
    }
}

#[tokio::test]
async fn capture_hints_need_their_capability_and_do_not_change_a_write() {
    let mut hinted = hello("k");
    hinted["language"] = json!("de");
    assert_eq!(
        Peer::full().await.write(hinted.clone()).await.code(),
        (422, "INVALID_BODY")
    );
    let mut options = Options::full("key");
    options.version_capabilities = Some(vec!["capture_language_v1".to_owned()]);
    let peer = Peer::of(options).await;
    peer.write(hello("k")).await;
    let replay = peer.write(hinted).await;
    assert_eq!(
        replay.body["warnings"],
        json!(["conflicting_hint_on_replay"])
    );
}

#[tokio::test]
async fn a_foreign_actor_without_the_capability_refuses_the_whole_batch() {
    let mut options = Options::free_tier("key", "user:local");
    options.credentials = vec![Credential::static_key("key").without("scope.write.on_behalf_of")];
    let peer = Peer::of(options).await;
    let mut items = notes(3);
    items[1]["observed_actor"] = json!({ "id": "user:17" });
    let reply = peer.bulk(items.clone()).await;
    assert_eq!(reply.code(), (403, "POLICY_DENIED"));
    assert_eq!(
        reply.body["details"]["capability"],
        "scope.write.on_behalf_of"
    );
    assert!(peer.server.cortex().events().is_empty());
    assert_eq!(Peer::full().await.bulk(items).await.status, 202);
}

#[tokio::test]
async fn one_bad_item_is_treated_as_the_server_is_told_to() {
    for (refusal, status, written) in [
        (ItemRefusal::Partial, 207, 2),
        (ItemRefusal::PartialFlag, 202, 2),
        (ItemRefusal::PartialUnnamed, 207, 2),
        (ItemRefusal::WholeNamed, 422, 0),
        (ItemRefusal::WholeUnnamed, 422, 0),
    ] {
        let mut options = Options::full("key");
        options.item_refusal = refusal;
        let peer = Peer::of(options).await;
        peer.fault(FaultRule::on(Route::Bulk, Fault::refuse_item("poison")));
        let mut items = notes(3);
        items[1] = note("gl:note:42/1", "poison", "k1");
        let reply = peer.bulk(items).await;
        assert_eq!(reply.status, status, "{refusal:?}");
        assert_eq!(peer.server.cortex().events().len(), written, "{refusal:?}");
        match refusal {
            ItemRefusal::Partial | ItemRefusal::PartialFlag => {
                assert_eq!(reply.body["failures"][0]["index"], 1);
                assert_eq!(reply.body["results"][1]["index"], 2);
                assert_eq!(reply.body["partial"], true);
            }
            ItemRefusal::PartialUnnamed => {
                assert_eq!(reply.body["failures"][0]["index"], Value::Null);
                assert_eq!(reply.body["results"][1]["index"], Value::Null);
            }
            ItemRefusal::WholeNamed => assert_eq!(reply.body["details"]["index"], 1),
            ItemRefusal::WholeUnnamed => assert_eq!(reply.body["details"], Value::Null),
        }
    }
}

#[tokio::test]
async fn a_batch_has_1_to_1000_items_and_a_known_shape() {
    let peer = Peer::full().await;
    assert_eq!(peer.bulk(notes(1000)).await.body["accepted"], 1000);
    assert_eq!(peer.bulk(notes(1001)).await.code(), (422, "INVALID_BODY"));
    assert_eq!(peer.bulk(Vec::new()).await.code(), (422, "INVALID_BODY"));
    let scoped = json!({ "items": notes(1), "scope": SCOPE });
    assert_eq!(
        peer.post("/v1/experience/bulk", scoped).await.code(),
        (422, "INVALID_BODY")
    );
    let unordered = json!({ "items": notes(1), "ordering": "random" });
    assert_eq!(
        peer.post("/v1/experience/bulk", unordered).await.code(),
        (422, "INVALID_BODY")
    );
}

#[tokio::test]
async fn the_documented_bulk_takes_its_scope_on_top_and_returns_no_ids() {
    let mut options = Options::full("key");
    options.bulk_scope = BulkScope::TopLevel;
    options.bulk_reply = BulkReply::BatchOnly;
    let peer = Peer::of(options).await;
    let mut items = notes(2);
    for item in &mut items {
        item.as_object_mut().expect("an object").remove("scope");
    }
    let reply = peer
        .post(
            "/v1/experience/bulk",
            json!({ "items": items, "scope": SCOPE }),
        )
        .await;
    assert_eq!(
        (reply.status.as_u16(), &reply.body["accepted"]),
        (202, &json!(2))
    );
    assert!(reply.body["batch_id"].is_string() && reply.body["results"].is_null());
    let status = peer.get("/v1/experience/status?idempotency_key=k1").await;
    assert_eq!(status.body["found"], true);
}

#[tokio::test]
async fn a_connection_cut_after_the_write_leaves_the_event_and_the_retry_finds_it() {
    let peer = Peer::full().await;
    peer.fault(FaultRule::on(Route::Experience, Fault::CloseAfterWrite).times(1));
    assert!(
        peer.try_send(Method::POST, "/v1/experience", Some(&hello("k")))
            .await
            .is_err()
    );
    let events = peer.server.cortex().events();
    assert_eq!(events.len(), 1);
    let retry = peer.write(hello("k")).await;
    assert_eq!(retry.event_id(), events[0].event_id);
    assert_eq!(retry.body["replayed_from_idempotency"], true);
}

#[tokio::test]
async fn a_connection_cut_before_the_write_leaves_nothing() {
    let peer = Peer::full().await;
    peer.fault(FaultRule::on(Route::Experience, Fault::CloseBeforeWrite).times(1));
    assert!(
        peer.try_send(Method::POST, "/v1/experience", Some(&hello("k")))
            .await
            .is_err()
    );
    assert!(peer.server.cortex().events().is_empty());
    assert_eq!(peer.write(hello("k")).await.status, 202);
}

#[tokio::test]
async fn a_truncated_body_is_an_error_to_the_client_and_a_write_to_the_server() {
    let peer = Peer::full().await;
    peer.fault(FaultRule::on(Route::Bulk, Fault::TruncatedBody).times(1));
    let body = json!({ "items": notes(20) });
    assert!(
        peer.try_send(Method::POST, "/v1/experience/bulk", Some(&body))
            .await
            .is_err()
    );
    assert_eq!(peer.server.cortex().events().len(), 20);
}

#[tokio::test]
async fn scripted_statuses_strike_when_they_are_due() {
    let peer = Peer::full().await;
    peer.fault(
        FaultRule::on(Route::Experience, Fault::rate_limited(7))
            .after(1)
            .every(2)
            .times(2),
    );
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(peer.write(hello("k")).await.status.as_u16());
    }
    assert_eq!(statuses, [202, 202, 429, 202, 429, 202, 202, 202]);
    peer.fault(FaultRule::on(Route::Experience, Fault::rate_limited(7)).times(1));
    let refused = peer.write(hello("k")).await;
    assert_eq!(refused.headers["retry-after"], "7");
    assert_eq!(
        (refused.code(), &refused.body["retriable"]),
        ((429, "RATE_LIMITED"), &json!(true))
    );
    peer.fault(
        FaultRule::anywhere(Fault::Html {
            status: 500,
            after_write: false,
        })
        .times(1),
    );
    let html = peer.get("/v1/auth/whoami").await;
    assert_eq!((html.status.as_u16(), &html.body), (500, &Value::Null));
    peer.fault(FaultRule::on(Route::Experience, Fault::wait_timeout()).times(1));
    assert_eq!(
        peer.write(note("gl:note:42/8", "x", "k8")).await.code(),
        (408, "WAIT_TIMEOUT")
    );
    assert_eq!(
        peer.server.cortex().events().len(),
        2,
        "the write is durable all the same"
    );
}

#[tokio::test]
async fn receipts_can_lack_ids_and_results_can_be_short() {
    let peer = Peer::full().await;
    peer.fault(FaultRule::anywhere(Fault::ReceiptWithoutEventId).times(1));
    let receipt = peer.write(hello("k")).await;
    assert!(receipt.status == 202 && receipt.body.get("event_id").is_none());
    peer.fault(FaultRule::anywhere(Fault::ShortResults { missing: 1 }).times(1));
    let short = peer.bulk(notes(3)).await;
    assert_eq!(short.body["results"].as_array().map(Vec::len), Some(2));
    assert_eq!(short.body["accepted"], 3);
}

#[tokio::test]
async fn a_write_that_failed_to_index_is_reprocessed_under_its_key() {
    let peer = Peer::full().await;
    peer.fault(
        FaultRule::anywhere(Fault::FailIndexing {
            marker: "hello".to_owned(),
        })
        .times(1),
    );
    peer.write(hello("k")).await;
    assert_eq!(
        peer.get("/v1/experience/status?idempotency_key=k")
            .await
            .body["status"],
        "failed"
    );
    assert_eq!(
        peer.write(hello("k")).await.body["replayed_from_idempotency"],
        false
    );
    assert_eq!(
        peer.get("/v1/experience/status?idempotency_key=k")
            .await
            .body["status"],
        "indexed"
    );
}

#[tokio::test]
async fn forgetting_takes_exactly_this_scope_and_answers_with_a_full_receipt() {
    let peer = Peer::full().await;
    let mine = peer.write(hello("a")).await;
    let mut elsewhere = note("gl:note:43/7", "x", "b");
    elsewhere["scope"] = json!("org:acme/source:gitlab/project:43");
    let other = peer.write(elsewhere).await;
    let receipt = peer
        .forget(
            "redact_events",
            &[mine.event_id(), other.event_id(), "evt_unknown"],
        )
        .await;
    assert_eq!(receipt.status, 200);
    assert_eq!(
        (&receipt.body["requested"], &receipt.body["matched"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(receipt.body["deleted"]["events"], 1);
    assert!(
        receipt.body["audit_id"]
            .as_str()
            .is_some_and(|id| !id.is_empty())
    );
    let again = peer.forget("redact_events", &[mine.event_id()]).await;
    assert_eq!(again.body["deleted"]["events"], 0);
    assert_eq!(peer.server.cortex().live_events().len(), 1);
    assert_eq!(peer.server.cortex().redacted_without_successor().len(), 1);
}

#[tokio::test]
async fn derived_only_keeps_the_event() {
    let peer = Peer::full().await;
    let event = peer.write(hello("a")).await;
    assert_eq!(
        peer.forget("derived_only", &[event.event_id()]).await.body["deleted"]["events"],
        0
    );
    let stored = peer
        .server
        .cortex()
        .event(event.event_id())
        .expect("the event stays");
    assert_eq!(stored.state, EventState::DerivedForgotten);
}

#[tokio::test]
async fn a_misspelt_selector_selects_everything_and_only_the_missing_confirmation_stops_it() {
    let peer = Peer::full().await;
    peer.write(hello("a")).await;
    let forget = |body: Value| peer.post("/v1/forget", body);
    let empty = (422, "EMPTY_SELECTOR_WITHOUT_CONFIRMATION");
    assert_eq!(
        forget(json!({ "scope": SCOPE, "selector": { "event_ids": ["x"] } }))
            .await
            .code(),
        empty
    );
    assert_eq!(
        forget(json!({ "scope": SCOPE, "selector": { "memory_ids": [] } }))
            .await
            .code(),
        empty
    );
    assert_eq!(forget(json!({ "scope": SCOPE })).await.code(), empty);
    assert_eq!(
        forget(json!({ "scope": SCOPE, "memory_ids": ["x"] }))
            .await
            .code(),
        (422, "INVALID_BODY")
    );
    let many: Vec<String> = (0..101).map(|n| format!("evt_{n}")).collect();
    let many = json!({ "scope": SCOPE, "selector": { "memory_ids": many } });
    assert_eq!(forget(many).await.code(), (422, "INVALID_SELECTOR"));
    let both = json!({ "scope": SCOPE, "selector": { "memory_ids": ["x"], "about_entity": "y" } });
    assert_eq!(forget(both).await.code(), (422, "INVALID_SELECTOR"));
    let cascade = json!({ "scope": SCOPE, "selector": { "memory_ids": ["x"] }, "cascade": "none" });
    assert_eq!(forget(cascade).await.code(), (400, "INVALID_CASCADE"));
    let confirmed =
        json!({ "scope": SCOPE, "selector": { "memory_ids": ["x"] }, "confirm_all": true });
    assert_eq!(
        forget(confirmed).await.code(),
        (400, "AMBIGUOUS_SELECTOR_CONFIRM_ALL")
    );
    assert!(peer.server.cortex().invariant_violations().is_empty());
    let all = json!({ "scope": SCOPE, "selector": { "event_ids": ["x"] }, "confirm_all": true, "cascade": "redact_events" });
    assert_eq!(forget(all).await.body["deleted"]["events"], 1);
    assert!(peer.server.cortex().invariant_violations()[0].contains("whole scope"));
}

#[tokio::test]
async fn a_preview_deletes_nothing_and_its_id_stands_for_the_selector() {
    let peer = Peer::full().await;
    let event = peer.write(hello("a")).await;
    let body = json!({ "scope": SCOPE, "selector": { "memory_ids": [event.event_id()] }, "cascade": "redact_events" });
    let preview = peer.post("/v1/forget/preview", body).await;
    assert_eq!(preview.body["estimated_deleted"]["events"], 1);
    assert_eq!(peer.server.cortex().live_events().len(), 1);
    let unknown = json!({ "scope": SCOPE, "from_preview_id": "fpvw_x" });
    assert_eq!(
        peer.post("/v1/forget", unknown).await.code(),
        (422, "UNKNOWN_PREVIEW_ID")
    );
    let known = json!({ "scope": SCOPE, "from_preview_id": preview.body["preview_id"], "cascade": "redact_events" });
    assert_eq!(
        peer.post("/v1/forget", known).await.body["deleted"]["events"],
        1
    );
}

#[tokio::test]
async fn a_free_tier_may_not_redact_or_write_for_others() {
    let peer = Peer::of(Options::free_tier("key", "user:u_1")).await;
    assert_eq!(
        peer.get("/v1/auth/whoami").await.code(),
        (401, "ACTOR_MISMATCH"),
        "the actor is missing"
    );
    peer.server
        .cortex()
        .add_credential(Credential::static_key("other"));
    assert!(peer.server.cortex().change_credential("key", |credential| {
        credential.issuer = super::Issuer::StaticApiKey;
    }));
    let event = peer.write(hello("a")).await;
    let denied = peer.forget("redact_events", &[event.event_id()]).await;
    assert_eq!(denied.code(), (403, "POLICY_DENIED"));
    assert_eq!(
        denied.body["details"]["capability"],
        "forget.cascade.redact_events"
    );
    assert_eq!(
        peer.forget("derived_only", &[event.event_id()])
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_signed_token_speaks_only_for_its_subject() {
    let peer = Peer::of(Options::with(Credential::signed("key", "service:gitlab"))).await;
    let whoami = |actor: &'static str| {
        let url = format!("{}/v1/auth/whoami", peer.server.url());
        let request = peer
            .http
            .get(url)
            .bearer_auth("key")
            .header("x-cortex-actor", actor);
        async move { request.send().await.expect("a reply").status().as_u16() }
    };
    assert_eq!(whoami("service:gitlab").await, 200);
    assert_eq!(whoami("user:local").await, 401);
    let now = peer.server.cortex().clock().now();
    peer.server.cortex().change_credential("key", |credential| {
        credential.expires_at = Some(now + TimeDelta::hours(1));
    });
    assert_eq!(whoami("service:gitlab").await, 200);
    peer.server.cortex().clock().advance_seconds(3601);
    assert_eq!(whoami("service:gitlab").await, 401);
}

#[tokio::test]
async fn a_static_key_reports_its_issuer_and_an_absurd_lifetime() {
    let peer = Peer::full().await;
    let whoami = peer.get("/v1/auth/whoami").await;
    assert_eq!(whoami.body["caller"], "user:local");
    assert_eq!(whoami.body["token"]["iss"], "static-api-key");
    assert_eq!(
        whoami.headers["x-cortex-token-expires-in"],
        "4611686016638011224"
    );
    assert_eq!(whoami.headers["x-cortex-token-expires-at"], "");
    assert!(whoami.headers.contains_key("x-cortex-request-id"));
}

#[tokio::test]
async fn every_event_is_listed_twice_newest_first_and_pages_join() {
    let peer = Peer::full().await;
    peer.bulk(notes(5)).await;
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = peer
            .get(&format!("/v1/events?scope={SCOPE}&limit=3{cursor}"))
            .await;
        let items = page.body["items"].as_array().expect("items").clone();
        assert!(items.len() <= 3);
        ids.extend(
            items
                .iter()
                .map(|item| item["event_id"].as_str().expect("an id").to_owned()),
        );
        if page.body["has_more"] == false {
            break;
        }
        cursor = format!(
            "&cursor={}",
            page.body["next_cursor"].as_str().expect("a cursor")
        );
        peer.write(note("gl:note:42/99", "new", &format!("new{}", ids.len())))
            .await;
    }
    let mut expected: Vec<String> = peer.server.cortex().events()[..5]
        .iter()
        .rev()
        .map(|event| event.event_id.clone())
        .collect();
    expected = expected
        .iter()
        .flat_map(|id| [id.clone(), id.clone()])
        .collect();
    assert_eq!(ids, expected, "new events do not shift the pages");
}

#[tokio::test]
async fn the_label_filter_splits_on_commas_and_takes_any() {
    let peer = Peer::full().await;
    peer.bulk(notes(5)).await;
    let found = peer
        .get(&format!(
            "/v1/events?scope={SCOPE}&labels=gl:note:42/1,gl%3Anote%3A42%2F3,none"
        ))
        .await;
    let items = found.body["items"].as_array().expect("items");
    assert_eq!(items.len(), 4);
    assert!(items[0]["context"]["recorded_at"].is_string());
    assert!(items[0]["idempotency_key"].is_null() && items[0]["source"].is_null());
    let misspelt = peer
        .get(&format!("/v1/events?scope={SCOPE}&label=none&limit=500"))
        .await;
    assert_eq!(
        misspelt.body["items"].as_array().map(Vec::len),
        Some(10),
        "unknown parameters are ignored"
    );
    assert_eq!(
        peer.get(&format!("/v1/events?scope={SCOPE}&limit=501"))
            .await
            .status,
        422
    );
    let other = peer.get("/v1/events?scope=org:acme").await;
    assert_eq!(other.body["items"], json!([]), "exactly this scope");
}

#[tokio::test]
async fn a_redacted_event_is_listed_blank_unless_told_otherwise() {
    let peer = Peer::full().await;
    let event = peer.write(hello("a")).await;
    peer.forget("redact_events", &[event.event_id()]).await;
    let listed = |labels: &'static str| peer.get(labels);
    const ALL: &str = "/v1/events?scope=org:acme/source:gitlab/project:42";
    const LABELLED: &str = "/v1/events?scope=org:acme/source:gitlab/project:42&labels=gitlab";
    let blank = listed(ALL).await;
    assert_eq!(blank.body["items"][0]["content"]["text"], "");
    assert_eq!(blank.body["items"][0]["event_id"], event.event_id());
    assert_eq!(listed(LABELLED).await.body["items"], json!([]));
    peer.server
        .cortex()
        .reconfigure(|options| options.redacted_listing = RedactedListing::KeepsLabels);
    assert_eq!(listed(LABELLED).await.body["items"][0]["redacted"], true);
    peer.server
        .cortex()
        .reconfigure(|options| options.redacted_listing = RedactedListing::Omitted);
    assert_eq!(listed(ALL).await.body["items"], json!([]));
}

#[tokio::test]
async fn strict_predecessors_must_exist_and_lax_ones_are_noticed() {
    let mut orphan = hello("a");
    orphan["context"]["preceded_by"] = json!(["evt_nowhere"]);
    let peer = Peer::full().await;
    assert_eq!(peer.write(orphan.clone()).await.status, 202);
    assert!(peer.server.cortex().invariant_violations()[0].contains("never given out"));
    peer.server
        .cortex()
        .reconfigure(|options| options.strict_preceded_by = true);
    orphan["idempotency_key"] = json!("b");
    assert_eq!(
        peer.write(orphan.clone()).await.code(),
        (422, "INVALID_BODY")
    );
    let known = peer.server.cortex().events()[0].event_id.clone();
    orphan["context"]["preceded_by"] = json!([known]);
    assert_eq!(peer.write(orphan).await.status, 202);
}

#[tokio::test]
async fn two_live_versions_are_a_violation_and_two_observations_are_history() {
    let peer = Peer::full().await;
    let first = peer.write(hello("a")).await;
    peer.write(note("gl:note:42/7", "edited", "b")).await;
    assert_eq!(
        peer.server.cortex().live_by_source_id("gl:note:42/7").len(),
        2
    );
    assert_eq!(peer.server.cortex().invariant_violations().len(), 1);
    peer.forget("derived_only", &[first.event_id()]).await;
    assert!(
        peer.server.cortex().invariant_violations().is_empty(),
        "retired as far as a free tier can"
    );
    for (text, key) in [("failed", "c"), ("passed", "d")] {
        let mut pipeline = note("gl:pipeline:42/1", text, key);
        pipeline["modality"] = json!("observation");
        pipeline["source"]["modality"] = json!("observation");
        assert_eq!(peer.write(pipeline).await.status, 202);
    }
    assert!(peer.server.cortex().invariant_violations().is_empty());
}

#[tokio::test]
async fn scope_types_are_closed_from_server_0_10_on() {
    let mut repo = hello("a");
    repo["scope"] = json!("org:acme/repo:42");
    let peer = Peer::full().await;
    assert_eq!(
        peer.write(repo.clone()).await.code(),
        (422, "UNREGISTERED_SCOPE_TYPE")
    );
    peer.server
        .cortex()
        .reconfigure(|options| options.closed_scope_types = false);
    assert_eq!(peer.write(repo).await.status, 202);
}

#[tokio::test]
async fn the_rate_limit_says_when_to_come_back() {
    let mut options = Options::full("key");
    options.clock = super::Clock::frozen_at(Utc::now());
    options.rate_limit = Some(RateLimit {
        per_minute: 60,
        burst: 2,
    });
    let peer = Peer::of(options).await;
    let first = peer.get("/v1/auth/whoami").await;
    assert_eq!(first.headers["x-ratelimit-remaining"], "1");
    peer.get("/v1/auth/whoami").await;
    let refused = peer.get("/v1/auth/whoami").await;
    assert_eq!(
        (refused.code(), &refused.headers["retry-after"]),
        ((429, "RATE_LIMITED"), &"1".parse().expect("a header"))
    );
    peer.server.cortex().clock().advance_seconds(1);
    assert_eq!(peer.get("/v1/auth/whoami").await.status, 200);
}

#[tokio::test]
async fn bad_requests_get_errors_in_the_contract_s_shape() {
    let peer = Peer::full().await;
    let url = peer.server.url();
    let raw = |body: &'static str, mime: &'static str| {
        let request = peer
            .http
            .post(format!("{url}/v1/experience"))
            .bearer_auth("key");
        let request = request.header("content-type", mime).body(body);
        async move { request.send().await.expect("a reply").status().as_u16() }
    };
    assert_eq!(raw("{", "application/json").await, 400);
    assert_eq!(raw("{}", "text/plain").await, 415);
    assert_eq!(raw("[]", "application/json; charset=utf-8").await, 422);
    assert_eq!(peer.get("/v1/version").await.code(), (404, "NOT_FOUND"));
    let anonymous = peer
        .http
        .get(format!("{url}/v1/auth/whoami"))
        .send()
        .await
        .expect("a reply");
    assert_eq!(anonymous.status(), 401);
    let body: Value = anonymous.json().await.expect("JSON");
    assert_eq!(body["error_code"], "MISSING_TOKEN");
    assert!(body["request_id"].is_string() && body["retriable"] == false);
    let stats = peer.server.stats();
    assert_eq!(stats.routes[&Route::Experience].statuses[&400], 1);
    assert!(stats.connections >= 1 && stats.max_in_flight == 1);
}

#[tokio::test]
async fn a_body_over_32_mib_is_413() {
    let peer = Peer::full().await;
    let mut big = hello("k");
    big["content"]["text"] = json!("x".repeat(33 * 1024 * 1024));
    assert_eq!(peer.write(big).await.status, 413);
}

#[tokio::test]
async fn signup_mints_a_free_token_that_works_for_seven_days() {
    let peer = Peer::full().await;
    let minted = peer.post("/v1/auth/signup", json!({})).await.body;
    let call = || {
        let request = peer
            .http
            .get(format!("{}/v1/auth/whoami", peer.server.url()));
        let request = request.bearer_auth(minted["token"].as_str().expect("a token"));
        request
            .header(
                "x-cortex-actor",
                minted["user_id"].as_str().expect("a user"),
            )
            .send()
    };
    assert_eq!(call().await.expect("a reply").status(), 200);
    peer.server.cortex().clock().advance_seconds(5 * 24 * 3600);
    assert!(
        call().await.expect("a reply").headers()["warning"]
            .to_str()
            .is_ok_and(|text| text.starts_with("199"))
    );
    peer.server.cortex().clock().advance_seconds(2 * 24 * 3600);
    assert_eq!(call().await.expect("a reply").status(), 401);
    peer.server
        .cortex()
        .reconfigure(|options| options.signup = false);
    let refused = peer.post("/v1/auth/signup", json!({})).await;
    assert_eq!(
        (refused.code(), &refused.body["retriable"]),
        ((503, "NOT_CONFIGURED"), &json!(false))
    );
}

#[tokio::test]
async fn the_control_api_does_what_tests_do_in_process() {
    let peer = Peer::full().await;
    let rule = json!({ "route": "bulk", "times": 1, "fault": { "kind": "status", "status": 503, "code": "WAL_UNAVAILABLE" } });
    assert_eq!(
        peer.post("/_sim/faults", json!([rule])).await.body["armed"],
        1
    );
    assert_eq!(
        peer.post("/_sim/faults", json!({ "rote": "bulk" }))
            .await
            .status,
        400
    );
    assert_eq!(peer.bulk(notes(2)).await.code(), (503, "WAL_UNAVAILABLE"));
    assert_eq!(peer.bulk(notes(2)).await.status, 202);
    assert_eq!(
        peer.get("/_sim/events?live=1&limit=1").await.body["total"],
        2
    );
    assert_eq!(
        peer.get("/_sim/stats").await.body["routes"]["bulk"]["statuses"]["503"],
        1
    );
    assert_eq!(
        peer.get("/_sim/violations").await.body["violations"],
        json!([])
    );
    assert_eq!(
        peer.post("/_sim/clock", json!({ "advance_seconds": 60 }))
            .await
            .status,
        200
    );
    let lines = peer
        .http
        .get(format!("{}/_sim/envelopes", peer.server.url()))
        .send()
        .await
        .expect("a reply");
    let lines = lines.text().await.expect("text");
    assert_eq!(lines.lines().count(), 2);
    for line in lines.lines() {
        super::validate_envelope(&serde_json::from_str(line).expect("JSON")).expect("valid");
    }
}

#[tokio::test]
async fn slow_responses_are_slow_and_a_stopped_server_refuses_connections() {
    let peer = Peer::full().await;
    peer.fault(FaultRule::anywhere(Fault::Slow { millis: 50 }).times(1));
    let started = std::time::Instant::now();
    peer.get("/v1/admin/health").await;
    assert!(started.elapsed() >= Duration::from_millis(50));
    let url = peer.server.url();
    peer.server.shutdown().await;
    assert!(Client::new().get(url).send().await.is_err());
}
