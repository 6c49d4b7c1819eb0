//! The API against the embedded store, request by request.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, Response, StatusCode};
use futures_util::stream;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::config::Surroundings;
use crate::cortexdb::client::DEFAULT_URL;
use crate::hooks::ingest::Reception as _;
use crate::ledger::{SqliteStore, Store};
use crate::platform::Ground;
use crate::platform::components::Components;
use crate::platform::dashboard;
use crate::platform::keys::{self, Scope};
use crate::platform::log::Log;
use crate::platform::made_for::{MadeFor, hold_to};
use crate::platform::metrics::Metrics;
use crate::platform::reception::PlatformReception;
use crate::platform::secrets::Secrets;
use crate::platform::server::router;
use crate::platform::settings::{ServeConfig, ServeFlags};
use crate::platform::traces::Traces;
use crate::report::Level;
use connector_store::platform::{
    Caps, Component, ConnectionChange, DeliveryState, NewDelivery, Page, Platform, Release, Tenant,
};

const CONNECTOR: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const MAPPER: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

/// Long before a body that does not come is given up.
const SOON: Duration = Duration::from_secs(20);

struct Api {
    ground: Ground,
    router: Router,
    lines: Arc<Mutex<Vec<String>>>,
    operator: String,
    acme: Tenant,
    acme_key: String,
    other: Tenant,
    other_key: String,
    _folder: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
    text: String,
}

impl Answer {
    fn etag(&self) -> String {
        self.headers["etag"].to_str().unwrap().to_owned()
    }

    /// That it is a problem of this kind, complete.
    fn is(&self, status: u16, kind: &str) -> &Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let named = self.body["type"].as_str().unwrap();
        assert!(named.ends_with(&format!("#{kind}")), "{}", self.text);
        assert_eq!(self.body["status"], status);
        for field in ["title", "detail"] {
            assert!(!self.body[field].as_str().unwrap().is_empty());
        }
        let instance = self.body["instance"].as_str().unwrap();
        assert_eq!(
            instance,
            format!(
                "urn:trace:{}",
                self.headers["x-request-id"].to_str().unwrap()
            )
        );
        self
    }

    fn names(&self, field: &str) -> &Self {
        assert_eq!(self.body["errors"][0]["field"], field, "{}", self.text);
        self
    }

    fn ok(&self, status: u16) -> &Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }
}

fn component(digest: &str, world: &str, description: Value) -> Component {
    Component {
        digest: digest.to_owned(),
        tenant: None,
        name: world.to_owned(),
        version: "0.1.0".into(),
        world: world.to_owned(),
        admitted: true,
        report: json!({"admission": []}),
        description,
        bytes: 1,
        created_at: String::new(),
    }
}

impl Api {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let flags = ServeFlags {
            data: Some(folder.path().to_owned()),
            public_url: Some("https://hooks.example.com".into()),
            ..ServeFlags::default()
        };
        let config = ServeConfig::new(&flags, &Surroundings::default()).unwrap();
        let store = Arc::new(SqliteStore::in_memory().await.unwrap());
        let ledger: Arc<dyn Store> = store.clone();
        let platform: Arc<dyn Platform> = store;
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&lines);
        let ground = Ground {
            secrets: Arc::new(Secrets::open(None, &folder.path().join("kek")).unwrap()),
            components: Arc::new(Components::new().unwrap()),
            live_pages: dashboard::live_pages(),
            traces: Traces::default(),
            rules: Arc::new(RwLock::new(Arc::new(config.rules.clone()))),
            config: Arc::new(config),
            metrics: Arc::new(Metrics::new(2)),
            log: Log::to(Level::Trace, move |line| {
                kept.lock().unwrap().push(line.to_owned());
            }),
            stop: CancellationToken::new(),
            platform: Arc::clone(&platform),
            ledger,
        };
        let description = json!({
            "name": "gitlab", "version": "0.1.0", "summary": "", "event_types": ["note"],
            "settings_schema": {"type": "object", "properties": {"projects": {"type": "array"}}, "additionalProperties": false},
            "default_url": "https://gitlab.com", "authentication": ["bearer"],
            "permissions": [["read_api", "reading"]], "scope_variables": ["project_path"],
            "default_scope_template": "org:<org>/source:gitlab/project:{project_path}",
            "hooks": {"proofs": [{"header": "x-gitlab-token"}], "id_headers": [], "headers": []},
        });
        let mapper = json!({"name": "drop-bots", "version": "1", "summary": "",
            "settings_schema": {"type": "object", "properties": {"bots": {"type": "array"}}}});
        for row in [
            component(CONNECTOR, "connector", description),
            component(MAPPER, "mapper", mapper),
        ] {
            platform.put_component(&row, b"x").await.unwrap();
        }
        let acme = platform
            .create_tenant("acme", &Caps::default())
            .await
            .unwrap();
        let other = platform
            .create_tenant("other", &Caps::default())
            .await
            .unwrap();
        let make = async |tenant: Option<&str>, scopes: &[Scope]| {
            let made = keys::create(platform.as_ref(), tenant, "test", scopes, None).await;
            made.unwrap().1.reveal().to_owned()
        };
        Self {
            operator: make(None, &[Scope::Admin]).await,
            acme_key: make(Some(&acme.id), &[Scope::Admin]).await,
            other_key: make(Some(&other.id), &[Scope::Admin]).await,
            router: router(&ground).0,
            ground,
            lines,
            acme,
            other,
            _folder: folder,
        }
    }

    async fn key(&self, tenant: &str, scopes: &[Scope]) -> String {
        let platform = self.ground.platform.as_ref();
        let made = keys::create(platform, Some(tenant), "test", scopes, None).await;
        made.unwrap().1.reveal().to_owned()
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    async fn ask(&self, key: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.ask_with(key, method, path, body, &[]).await
    }

    async fn ask_with(
        &self,
        key: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(format!("/api/v1{path}"));
        if !key.is_empty() {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap()).await
    }

    async fn connection(&self, name: &str) -> String {
        let answer = self
            .ask(
                &self.acme_key,
                "POST",
                "/connections",
                Some(new_connection(name)),
            )
            .await;
        answer.ok(201);
        answer.body["id"].as_str().unwrap().to_owned()
    }
}

/// Another connector than the one that new connections have.
async fn upload(api: &Api, digest: &str, name: &str, default_url: &str) {
    let platform = api.ground.platform.as_ref();
    let known = platform.component(None, CONNECTOR).await.unwrap();
    let mut description = known.description;
    description["name"] = json!(name);
    description["default_url"] = json!(default_url);
    let row = component(digest, "connector", description);
    platform.put_component(&row, b"y").await.unwrap();
}

/// How far a run came that has reached both servers.
#[derive(Clone, Copy, PartialEq)]
enum Came {
    NoFurther,
    /// It asked the source for hooks, which the connector remembers beside its cursors.
    ToHooks,
    ToTheEndOfAStream,
}

/// As a run does that reaches both servers: first holds it to them.
async fn run(api: &Api, id: &str, came: Came) {
    let (platform, ledger) = (api.ground.platform.as_ref(), api.ground.ledger.as_ref());
    let minute = Duration::from_secs(60);
    let claim = platform.claim_due("here", minute, 9).await.unwrap();
    let claim = claim.unwrap();
    assert_eq!(claim.connection.id, id);
    let now = json!({"connector": "gitlab", "source": "https://gitlab.com", "cortexdb": DEFAULT_URL, "tenant": "t"});
    let now: MadeFor = serde_json::from_value(now).unwrap();
    let another = hold_to(platform, ledger, claim.lease, id, &now).await;
    assert_eq!(another.unwrap(), None);
    if came != Came::NoFurther {
        let hooks = ("hooks".to_owned(), Some("1".to_owned()));
        let moved = platform.move_cursors(claim.lease, &[hooks], None).await;
        moved.unwrap();
    }
    if came == Came::ToTheEndOfAStream {
        let end = crate::ledger::StreamEnd {
            stream: "42/issues",
            state: "complete",
            detail: "",
        };
        ledger.end_streams(claim.lease, &[end]).await.unwrap();
    }
    let release = Release {
        outcome: "complete".into(),
        receipt: json!({}),
        due_in: Some(Duration::ZERO),
        failures: 0,
        park: None,
    };
    let released = platform.release_run(claim.lease, &claim.run, &release);
    released.await.unwrap();
}

fn new_connection(name: &str) -> Value {
    json!({
        "name": name,
        "chain": {"connector": CONNECTOR, "mappers": [{"digest": MAPPER, "settings": {"bots": ["x"]}}]},
        "config": {
            "settings": {"projects": ["a/b"]},
            "cortexdb": {"scope_template": "org:acme/project:{project_path}"},
            "realtime": true,
        },
        "secrets": {"source_token": "glpat-SECRET", "cortexdb_api_key": "ck-SECRET"},
    })
}

/// Every operation of the document, with its path filled in.
fn operations() -> Vec<(String, String)> {
    let document = serde_json::to_value(super::document()).unwrap();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation.get("responses").is_some() {
                let path = path.trim_start_matches("/api/v1");
                found.push((method.to_uppercase(), path.to_owned()));
            }
        }
    }
    assert!(found.len() > 30, "{found:?}");
    found
}

fn filled(path: &str, connection: &str, tenant: &str) -> String {
    path.replace("{connection}", connection)
        .replace("{tenant}", tenant)
        .replace("{digest}", CONNECTOR)
        .replace("{key}", "0")
        .replace("{run}", "0")
        .replace("{delivery}", "0")
}

/// What each operation with a body is given, so that only the key can be wrong.
fn body_of(method: &str, path: &str) -> Option<Value> {
    Some(match (method, path) {
        ("POST", "/tenants") => json!({"name": "new"}),
        ("PATCH", "/tenants/{tenant}") => json!({"name": "renamed"}),
        ("POST", "/keys") => json!({"name": "k", "scopes": ["read"]}),
        ("POST", "/connections") => new_connection("theirs"),
        ("PATCH", "/connections/{connection}") => json!({"name": "renamed"}),
        ("PUT", "/connections/{connection}/chain") => json!({"connector": CONNECTOR}),
        ("POST", "/connections/{connection}/chain/rollback") => json!({}),
        ("POST", "/connections/{connection}/chain/dry-run") => {
            json!({"chain": {"connector": CONNECTOR}})
        }
        ("POST", "/connections/{connection}/deliveries/replay") => {
            json!({"since": "2026-01-01T00:00:00Z"})
        }
        (
            "POST",
            "/connections/{connection}/dead-letters/retry"
            | "/connections/{connection}/dead-letters/drop",
        ) => {
            json!({"all": true})
        }
        _ => return None,
    })
}

#[tokio::test]
async fn every_route_refuses_a_wrong_key_in_the_same_words() {
    let api = Api::new().await;
    let connection = api.connection("c").await;
    let (id, secret) = {
        let rest = api.acme_key.strip_prefix("cr_").unwrap();
        rest.split_once('_').unwrap()
    };
    let wrong = format!("cr_{id}_{}", secret.chars().rev().collect::<String>());
    let unknown = format!("cr_{}_{secret}", "0".repeat(32));
    let mut words = std::collections::BTreeSet::new();
    for (method, path) in operations() {
        let filled = filled(&path, &connection, &api.acme.id);
        for key in ["", "nonsense", &wrong, &unknown] {
            let answer = api
                .ask(key, &method, &filled, body_of(&method, &path))
                .await;
            answer.is(401, "unauthorized");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
            words.insert(answer.body["detail"].to_string());
        }
    }
    assert_eq!(words.len(), 1, "{words:?}");
}

#[tokio::test]
async fn what_belongs_to_another_tenant_does_not_exist() {
    let api = Api::new().await;
    let connection = api.connection("c").await;
    for (method, path) in operations() {
        let is_theirs = path.contains("{connection}") || path.contains("{tenant}");
        if !is_theirs {
            continue;
        }
        let mut filled = filled(&path, &connection, &api.acme.id);
        if path.ends_with("/dead-letter") {
            filled.push_str("?source_id=x");
        }
        let body = body_of(&method, &path);
        let headers = [("if-match", "*")];
        let answer = api
            .ask_with(&api.other_key, &method, &filled, body, &headers)
            .await;
        answer.is(404, "not-found");
    }
    for path in ["/keys", "/components", "/connections", "/audit"] {
        let named = format!("{path}?tenant={}", api.acme.id);
        let answer = api.ask(&api.other_key, "GET", &named, None).await;
        answer.is(404, "not-found");
        let answer = api.ask(&api.other_key, "GET", path, None).await;
        answer.ok(200);
        assert!(!answer.text.contains(&connection), "{}", answer.text);
    }
    // What the other tenant did not touch is as it was.
    let answer = api
        .ask(
            &api.acme_key,
            "GET",
            &format!("/connections/{connection}"),
            None,
        )
        .await;
    assert_eq!(answer.body["name"], "c");
    assert_eq!(answer.body["state"], "active");
}

#[tokio::test]
async fn a_key_without_the_scope_changes_nothing() {
    let api = Api::new().await;
    let connection = api.connection("c").await;
    let reader = api.key(&api.acme.id, &[Scope::Read]).await;
    for (method, path) in operations() {
        if method == "GET" && !path.starts_with("/keys") && !path.starts_with("/tenants") {
            continue;
        }
        let filled = filled(&path, &connection, &api.acme.id);
        let headers = [("if-match", "*")];
        let body = body_of(&method, &path);
        let answer = api
            .ask_with(&reader, &method, &filled, body, &headers)
            .await;
        match path.as_str() {
            "/tenants/{tenant}" | "/tenants/{tenant}/usage" if method == "GET" => {
                answer.ok(200);
            }
            // For operators only: it does not exist.
            "/tenants" | "/tenants/{tenant}" => {
                answer.is(404, "not-found");
            }
            _ => {
                answer.is(403, "forbidden");
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_field_and_a_bad_body_are_named() {
    let api = Api::new().await;
    let connection = api.connection("c").await;
    for (method, path) in operations() {
        let Some(mut body) = body_of(&method, &path) else {
            continue;
        };
        let filled = filled(&path, &connection, &api.acme.id);
        let key = if path.starts_with("/tenants") {
            &api.operator
        } else {
            &api.acme_key
        };
        body["colour"] = json!("blue");
        let headers = [("if-match", "*")];
        let answer = api
            .ask_with(key, &method, &filled, Some(body), &headers)
            .await;
        answer.is(422, "invalid");
        assert!(answer.text.contains("colour"), "{}", answer.text);
        let send = async |kind: &str, text: &'static str| {
            let request = Request::builder()
                .method(Method::from_bytes(method.as_bytes()).unwrap())
                .uri(format!("/api/v1{filled}"))
                .header("authorization", format!("Bearer {key}"))
                .header("content-type", kind)
                .header("if-match", "*");
            api.send(request.body(Body::from(text)).unwrap()).await
        };
        send("application/json", "{").await.is(400, "bad-request");
        send("text/plain", "{}")
            .await
            .is(415, "unsupported-media-type");
    }
    let large = json!({"name": "x".repeat(300 << 10), "scopes": ["read"]});
    let answer = api.ask(&api.acme_key, "POST", "/keys", Some(large)).await;
    answer.is(413, "too-large");
    for (body, field) in [
        (json!({"name": "", "scopes": ["read"]}), "name"),
        (json!({"name": "x", "scopes": []}), "scopes"),
        (json!({"name": "x", "scopes": ["fly"]}), "scopes[0]"),
        (json!({"name": 7, "scopes": ["read"]}), "name"),
        (
            json!({"name": "x", "scopes": ["read"], "expires_in": "soon"}),
            "expires_in",
        ),
    ] {
        let answer = api.ask(&api.acme_key, "POST", "/keys", Some(body)).await;
        answer.is(422, "invalid").names(field);
    }
    for query in ["?limit=0", "?limit=201", "?limit=many", "?colour=blue"] {
        let answer = api
            .ask(&api.acme_key, "GET", &format!("/connections{query}"), None)
            .await;
        answer.is(422, "invalid");
    }
}

#[tokio::test]
async fn a_secret_goes_in_and_never_comes_out() {
    let api = Api::new().await;
    let id = api.connection("c").await;
    let path = format!("/connections/{id}");
    let read = api.ask(&api.acme_key, "GET", &path, None).await;
    assert_eq!(read.body["secrets"]["source_token"], json!({"set": true}));
    assert_eq!(
        read.body["secrets"]["webhook_signing_token"],
        json!({"set": true}),
        "made with the other"
    );
    assert_eq!(
        read.body["secrets"]["webhook_secret"],
        json!({"set": true}),
        "made here, because realtime is on"
    );
    assert_eq!(
        read.body["hook_url"],
        format!("https://hooks.example.com/hooks/{id}")
    );
    let change = json!({"secrets": {"source_token": "glpat-OTHERSECRET"}});
    let headers = [("if-match", "*")];
    api.ask_with(&api.acme_key, "PATCH", &path, Some(change), &headers)
        .await
        .ok(200);
    for path in [path.as_str(), "/connections", "/audit"] {
        let answer = api.ask(&api.operator, "GET", path, None).await;
        assert!(!answer.text.contains("SECRET"), "{path}: {}", answer.text);
        assert!(!answer.text.contains("v1."), "{path}: {}", answer.text);
    }
    let stored = api.ground.platform.connection(None, &id).await.unwrap();
    assert!(!format!("{stored:?}").contains("SECRET"));
    assert!(!api.lines.lock().unwrap().join("\n").contains("SECRET"));
    // A bad one is refused without being repeated.
    let bad = json!({"secrets": {"source_token": "two words of SECRET"}});
    let answer = api
        .ask_with(&api.acme_key, "PATCH", &path, Some(bad), &headers)
        .await;
    answer.is(422, "invalid").names("secrets.source_token");
    assert!(!answer.text.contains("SECRET"), "{}", answer.text);
}

#[tokio::test]
async fn what_could_not_run_is_not_created() {
    let api = Api::new().await;
    for (change, field) in [
        (
            json!({"chain": {"connector": "sha256:00"}}),
            "chain.connector",
        ),
        (json!({"chain": {"connector": MAPPER}}), "chain.connector"),
        (
            json!({"chain": {"mappers": [{"digest": CONNECTOR}]}}),
            "chain.mappers[0].digest",
        ),
        (
            json!({"chain": {"mappers": [{"digest": MAPPER, "settings": {"bots": 7}}]}}),
            "chain.mappers[0].settings",
        ),
        (
            json!({"config": {"settings": {"projcts": []}}}),
            "config.settings",
        ),
        (
            json!({"config": {"source": {"url": "http://169.254.169.254/"}}}),
            "config.source.url",
        ),
        (
            json!({"config": {"source": {"allowed_networks": ["10.0.0.0/8"]}}}),
            "config.source.allowed_networks",
        ),
        (
            json!({"config": {"cortexdb": {"url": "http://localhost."}}}),
            "",
        ),
        (
            json!({"config": {"cortexdb": {"url": "http://127.0.0.1"}}}),
            "config.cortexdb.url",
        ),
        (
            json!({"config": {"run": {"interval": "1s"}}}),
            "config.run.interval",
        ),
        (
            json!({"secrets": {"source_token": null}}),
            "secrets.source_token",
        ),
        (json!({"name": " x"}), "name"),
    ] {
        let mut body = new_connection("c");
        super::connections::merge(&mut body, &change);
        let answer = api
            .ask(&api.acme_key, "POST", "/connections", Some(body))
            .await;
        if field.is_empty() {
            // A name is judged when it is resolved, before each dial.
            answer.ok(201);
        } else {
            answer.is(422, "invalid").names(field);
        }
    }
}

#[tokio::test]
async fn a_secret_is_not_sent_to_another_server_than_it_was_given_for() {
    let api = Api::new().await;
    let path = format!("/connections/{}", api.connection("c").await);
    let change = async |body: Value| {
        let headers = [("if-match", "*")];
        api.ask_with(&api.acme_key, "PATCH", &path, Some(body), &headers)
            .await
    };
    for (server, secret) in [("source", "source_token"), ("cortexdb", "cortexdb_api_key")] {
        let moved = json!({"config": {server: {"url": "https://elsewhere.example"}}});
        let refused = change(moved.clone()).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(refused.text.contains(secret), "{}", refused.text);
        let mut given_again = moved;
        given_again["secrets"] = json!({secret: "given-for-elsewhere"});
        change(given_again).await.ok(200);
    }
}

#[tokio::test]
async fn a_connection_stays_with_the_servers_that_it_remembers_something_of() {
    const FEED: &str = "sha256:3333333333333333333333333333333333333333333333333333333333333333";
    let api = Api::new().await;
    upload(&api, FEED, "feed", "https://gitlab.com").await;
    let id = api.connection("c").await;
    let path = format!("/connections/{id}");
    let change = async |body: Value| {
        let headers = [("if-match", "*")];
        api.ask_with(&api.acme_key, "PATCH", &path, Some(body), &headers)
            .await
    };
    let moved = |server: &str, url: &str| {
        json!({"config": {server: {"url": url}},
            "secrets": {"source_token": "another", "cortexdb_api_key": "another"}})
    };
    // What was wrong and never worked is corrected, also after a run that reached CortexDB and nothing else.
    change(moved("source", "https://wrong.example"))
        .await
        .ok(200);
    change(moved("source", "https://gitlab.com")).await.ok(200);
    run(&api, &id, Came::NoFurther).await;
    change(moved("source", "https://wrong.example"))
        .await
        .ok(200);
    change(moved("source", "https://gitlab.com")).await.ok(200);
    // With hooks at the source it is held to that, and still to no CortexDB.
    run(&api, &id, Came::ToHooks).await;
    change(moved("source", "https://wrong.example"))
        .await
        .is(422, "invalid");
    for url in ["https://wrong.example", DEFAULT_URL] {
        change(moved("cortexdb", url)).await.ok(200);
    }
    run(&api, &id, Came::ToTheEndOfAStream).await;
    for server in ["source", "cortexdb"] {
        let refused = change(moved(server, "https://elsewhere.example")).await;
        refused
            .is(422, "invalid")
            .names(&format!("config.{server}.url"));
        for words in [
            "https://gitlab.com",
            "https://elsewhere.example",
            "create another",
        ] {
            assert!(refused.text.contains(words), "{}", refused.text);
        }
    }
    // The same servers in other words, and other tokens for them.
    change(moved("source", "https://gitlab.com/")).await.ok(200);
    change(json!({"config": {"run": {"interval": "5m"}}}))
        .await
        .ok(200);
    change(json!({"secrets": {"cortexdb_api_key": "renewed"}}))
        .await
        .ok(200);
    let chain = format!("{path}/chain");
    let feed = json!({"connector": FEED});
    api.ask(&api.acme_key, "PUT", &chain, Some(feed))
        .await
        .is(422, "invalid")
        .names("chain.connector");
    // In a run the same holds.
    let platform = api.ground.platform.as_ref();
    let minute = Duration::from_secs(60);
    let claim = platform
        .claim_due("here", minute, 9)
        .await
        .unwrap()
        .unwrap();
    let now = json!({"connector": "gitlab", "source": "https://gitlab.com", "cortexdb": DEFAULT_URL, "tenant": "another"});
    let now: MadeFor = serde_json::from_value(now).unwrap();
    let ledger = api.ground.ledger.as_ref();
    let words = hold_to(platform, ledger, claim.lease, &id, &now).await;
    let words = words.unwrap().unwrap();
    assert!(words.contains("its tenant another"), "{words}");
}

#[tokio::test]
async fn a_configuration_does_not_grow_patch_by_patch() {
    let api = Api::new().await;
    let path = format!("/connections/{}", api.connection("c").await);
    let project = "x".repeat(200 << 10);
    for (name, status) in [("projects", 200), ("more", 422)] {
        let patch = json!({"config": {"settings": {name: [project]}}});
        let headers = [("if-match", "*")];
        let answer = api
            .ask_with(&api.acme_key, "PATCH", &path, Some(patch), &headers)
            .await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
        assert_eq!(
            answer.text.contains("the whole configuration"),
            status == 422
        );
    }
}

#[tokio::test]
async fn a_change_needs_the_version_that_was_read() {
    let api = Api::new().await;
    let path = format!("/connections/{}", api.connection("c").await);
    let read = api.ask(&api.acme_key, "GET", &path, None).await;
    let etag = read.etag();
    let patch = json!({"config": {"run": {"interval": "5m"}}});
    let change = async |body: &Value, etag: &str| {
        let headers = [("if-match", etag)];
        api.ask_with(&api.acme_key, "PATCH", &path, Some(body.clone()), &headers)
            .await
    };
    api.ask(&api.acme_key, "PATCH", &path, Some(patch.clone()))
        .await
        .is(428, "precondition-required");
    let changed = change(&patch, &etag).await;
    changed.ok(200);
    assert_ne!(changed.etag(), etag);
    assert_eq!(changed.body["config"]["run"]["interval"], "5m");
    assert_eq!(
        changed.body["config"]["settings"]["projects"],
        json!(["a/b"])
    );
    change(&patch, &etag).await.is(412, "changed-meanwhile");
    change(&patch, "nonsense").await.is(400, "bad-request");
    let back = json!({"config": {"run": {"interval": null}}});
    let changed = change(&back, &changed.etag()).await;
    assert_eq!(changed.body["config"]["run"], json!({}));
    let path = format!("/tenants/{}", api.acme.id);
    let patch = json!({"caps": {"connections": 1}});
    api.ask(&api.operator, "PATCH", &path, Some(patch.clone()))
        .await
        .is(428, "precondition-required");
    let stale = [("if-match", "\"99\"")];
    api.ask_with(&api.operator, "PATCH", &path, Some(patch), &stale)
        .await
        .is(412, "changed-meanwhile");
}

#[tokio::test]
async fn the_same_idempotency_key_creates_once() {
    let api = Api::new().await;
    let headers = [("idempotency-key", "k1")];
    let create = async |key: &str, body: Value| {
        api.ask_with(key, "POST", "/connections", Some(body), &headers)
            .await
    };
    let first = create(&api.acme_key, new_connection("c")).await;
    first.ok(201);
    let again = create(&api.acme_key, new_connection("c")).await;
    again.ok(201);
    assert_eq!(again.body, first.body);
    assert_eq!(again.headers["idempotent-replayed"], "true");
    create(&api.acme_key, new_connection("d"))
        .await
        .is(422, "invalid");
    // Another tenant's key of that name is another key.
    create(&api.other_key, new_connection("c")).await.ok(201);
    // A failure lets go of the key.
    let headers = [("idempotency-key", "k2")];
    for _ in 0..2 {
        let taken = api
            .ask_with(
                &api.acme_key,
                "POST",
                "/connections",
                Some(new_connection("c")),
                &headers,
            )
            .await;
        taken.is(409, "conflict");
    }
    // A repeated answer holds no secret.
    let body = json!({"name": "k", "scopes": ["read"]});
    let headers = [("idempotency-key", "k3")];
    let made = api
        .ask_with(&api.acme_key, "POST", "/keys", Some(body.clone()), &headers)
        .await;
    assert!(made.body["secret"].is_string());
    let again = api
        .ask_with(&api.acme_key, "POST", "/keys", Some(body), &headers)
        .await;
    assert_eq!(again.body["id"], made.body["id"]);
    assert!(again.body.get("secret").is_none(), "{}", again.text);
}

#[tokio::test]
async fn caps_are_refused_with_the_numbers() {
    let api = Api::new().await;
    let caps = json!({"caps": {"connections": 1, "memory_bytes": 300 << 20}});
    let headers = [("if-match", "*")];
    let path = format!("/tenants/{}", api.acme.id);
    api.ask_with(&api.operator, "PATCH", &path, Some(caps), &headers)
        .await
        .ok(200);
    let answer = api
        .ask(
            &api.acme_key,
            "POST",
            "/connections",
            Some(new_connection("c")),
        )
        .await;
    answer.is(422, "invalid").names("config.limits.memory");
    assert!(
        answer.text.contains("512 MiB") && answer.text.contains("300 MiB"),
        "{}",
        answer.text
    );
    let mut small = new_connection("c");
    small["config"]["limits"] = json!({"memory": "128MiB"});
    api.ask(&api.acme_key, "POST", "/connections", Some(small.clone()))
        .await
        .ok(201);
    small["name"] = json!("d");
    let answer = api
        .ask(&api.acme_key, "POST", "/connections", Some(small))
        .await;
    answer.is(409, "conflict");
    assert!(answer.text.contains('1'), "{}", answer.text);
}

#[tokio::test]
async fn a_connection_is_paused_resumed_run_and_taken_down() {
    let api = Api::new().await;
    let id = api.connection("c").await;
    let act = async |verb: &str| {
        let path = format!("/connections/{id}/{verb}");
        api.ask(&api.acme_key, "POST", &path, None).await
    };
    assert_eq!(act("pause").await.body["state"], "paused");
    act("run").await.is(409, "conflict");
    assert_eq!(act("resume").await.body["state"], "active");
    act("run").await.ok(200);
    let path = format!("/connections/{id}");
    let leaving = api.ask(&api.acme_key, "DELETE", &path, None).await;
    leaving.ok(202);
    assert_eq!(leaving.body["state"], "leaving");
    act("resume").await.is(409, "conflict");
    let forced = format!("{path}?force=true");
    api.ask(&api.acme_key, "DELETE", &forced, None)
        .await
        .ok(204);
    api.ask(&api.acme_key, "GET", &path, None)
        .await
        .is(404, "not-found");
    let log = api.ask(&api.acme_key, "GET", "/audit", None).await;
    let actions: Vec<&str> = log.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "connection.delete",
            "connection.leave",
            "connection.run",
            "connection.resume",
            "connection.pause",
            "connection.create"
        ]
    );
}

#[tokio::test]
async fn a_chain_is_promoted_and_rolled_back() {
    let api = Api::new().await;
    let id = api.connection("c").await;
    let path = format!("/connections/{id}/chain");
    let bare = json!({"connector": CONNECTOR, "mappers": []});
    let promoted = api.ask(&api.acme_key, "PUT", &path, Some(bare)).await;
    assert_eq!(promoted.body["number"], 2, "{}", promoted.text);
    let back = format!("{path}/rollback");
    let rolled = api.ask(&api.acme_key, "POST", &back, Some(json!({}))).await;
    assert_eq!(
        rolled.body["chain"]["mappers"][0]["digest"], MAPPER,
        "{}",
        rolled.text
    );
    let unknown = api
        .ask(&api.acme_key, "POST", &back, Some(json!({"number": 77})))
        .await;
    unknown.is(422, "invalid").names("number");
    // Whoever got no answer and asks again does not get back what was taken away.
    let again = api.ask(&api.acme_key, "POST", &back, Some(json!({}))).await;
    again.is(422, "invalid").names("number");
    let versions = api.ask(&api.acme_key, "GET", &path, None).await;
    assert_eq!(versions.body["items"].as_array().unwrap().len(), 3);
    // Only where the connection is what was read, if that is wanted.
    let bare = json!({"connector": CONNECTOR, "mappers": []});
    for (method, path, body) in [("PUT", &path, bare), ("POST", &back, json!({"number": 2}))] {
        let seen = api.ground.platform.connection(None, &id).await.unwrap();
        for (version, status) in [
            (seen.version - 1, 412),
            (seen.version, 200),
            (seen.version, 412),
        ] {
            let headers = [("if-match", &*format!("\"{version}\""))];
            let body = Some(body.clone());
            let answer = api.ask_with(&api.acme_key, method, path, body, &headers);
            answer.await.ok(status);
        }
    }
    let dry = api
        .ask(
            &api.acme_key,
            "POST",
            &format!("{path}/dry-run"),
            Some(json!({"chain": {"connector": CONNECTOR}})),
        )
        .await;
    dry.is(409, "conflict");
    assert!(dry.text.contains("keep_recorded"), "{}", dry.text);
}

#[tokio::test]
async fn a_tenant_that_tries_a_chain_keeps_no_other_from_it() {
    let api = Api::new().await;
    let id = api.connection("c").await;
    let theirs = new_connection("c");
    let theirs = api
        .ask(&api.other_key, "POST", "/connections", Some(theirs))
        .await;
    let theirs = theirs.body["id"].as_str().unwrap().to_owned();
    let dry_run = async |key: &str, id: &str| {
        let path = format!("/connections/{id}/chain/dry-run");
        let body = json!({"chain": {"connector": CONNECTOR}});
        api.ask(key, "POST", &path, Some(body)).await
    };
    let places = [(); 2].map(|()| api.ground.components.trial_of(&api.acme.id).unwrap());
    let busy = dry_run(&api.acme_key, &id).await;
    busy.is(503, "unavailable");
    assert!(busy.headers.contains_key("retry-after"));
    // Nothing is recorded there: it had its turn.
    dry_run(&api.other_key, &theirs).await.is(409, "conflict");
    let check = format!("/connections/{id}/check");
    api.ask(&api.acme_key, "POST", &check, None)
        .await
        .is(503, "unavailable");
    drop(places);
    dry_run(&api.acme_key, &id).await.is(409, "conflict");
}

#[tokio::test]
async fn a_chain_does_not_take_the_token_to_another_server() {
    const FEED: &str = "sha256:3333333333333333333333333333333333333333333333333333333333333333";
    let api = Api::new().await;
    upload(&api, FEED, "gitlab", "https://elsewhere.example").await;
    let id = api.connection("c").await;
    let path = format!("/connections/{id}");
    let chain = format!("{path}/chain");
    let feed = json!({"connector": FEED});
    let promote = async || {
        api.ask(&api.acme_key, "PUT", &chain, Some(feed.clone()))
            .await
    };
    let refused = promote().await;
    refused.is(422, "invalid").names("chain.connector");
    for origin in ["https://gitlab.com", "https://elsewhere.example"] {
        assert!(refused.text.contains(origin), "{}", refused.text);
    }
    // With an address of its own, the token goes there whatever the connector prefers.
    let named = json!({"config": {"source": {"url": "https://gitlab.com"}}, "secrets": {"source_token": "again"}});
    let headers = [("if-match", "*")];
    let change = api.ask_with(&api.acme_key, "PATCH", &path, Some(named), &headers);
    change.await.ok(200);
    promote().await.ok(200);
    // Back without one: the token was sent again for this connector's.
    let unnamed =
        json!({"config": {"source": {"url": null}}, "secrets": {"source_token": "elsewhere"}});
    let change = api.ask_with(&api.acme_key, "PATCH", &path, Some(unnamed), &headers);
    change.await.ok(200);
    let back = format!("{chain}/rollback");
    let refused = api.ask(&api.acme_key, "POST", &back, Some(json!({}))).await;
    refused.is(422, "invalid").names("chain.connector");
}

#[tokio::test]
async fn deliveries_are_listed_shown_and_replayed() {
    let api = Api::new().await;
    let id = api.connection("c").await;
    let row = api.ground.platform.connection(None, &id).await.unwrap();
    let delivery = |key: &str, body: &[u8]| NewDelivery {
        connection: row.ledger,
        key: key.into(),
        headers: json!({"x-gitlab-event": "Note Hook"}),
        body: body.to_vec(),
        trace: "0".repeat(32),
    };
    let stored = api
        .ground
        .platform
        .receive(&[delivery("a", b"{}"), delivery("b", &[0xff, 0xfe])])
        .await
        .unwrap();
    let path = format!("/connections/{id}/deliveries");
    let list = api
        .ask(&api.acme_key, "GET", &format!("{path}?state=waiting"), None)
        .await;
    assert_eq!(
        list.body["items"].as_array().unwrap().len(),
        2,
        "{}",
        list.text
    );
    let none = api
        .ask(&api.acme_key, "GET", &format!("{path}?state=handled"), None)
        .await;
    assert_eq!(none.body["items"], json!([]));
    let first = api
        .ask(&api.acme_key, "GET", &format!("{path}?limit=1"), None)
        .await;
    let next = first.body["next"].as_str().unwrap();
    let second = api
        .ask(
            &api.acme_key,
            "GET",
            &format!("{path}?limit=1&after={next}"),
            None,
        )
        .await;
    assert_ne!(first.body["items"][0]["id"], second.body["items"][0]["id"]);
    api.ask(&api.acme_key, "GET", &format!("{path}?state=lost"), None)
        .await
        .is(422, "invalid")
        .names("state");
    api.ask(&api.acme_key, "GET", &format!("{path}?since=today"), None)
        .await
        .is(422, "invalid")
        .names("since");
    let one = api
        .ask(
            &api.acme_key,
            "GET",
            &format!("{path}/{}", stored[0].0),
            None,
        )
        .await;
    assert_eq!(one.body["body"], "{}");
    let binary = api
        .ask(
            &api.acme_key,
            "GET",
            &format!("{path}/{}", stored[1].0),
            None,
        )
        .await;
    assert_eq!(binary.body["body_base64"], "//4=");
    let replay = format!("{path}/{}/replay", stored[0].0);
    let replayed = api.ask(&api.acme_key, "POST", &replay, None).await;
    assert_eq!(replayed.body["replayed"], 1, "{}", replayed.text);
    let missing = format!("{path}/{}/replay", uuid::Uuid::now_v7());
    api.ask(&api.acme_key, "POST", &missing, None)
        .await
        .is(404, "not-found");
    let range = format!("{path}/replay");
    api.ask(&api.acme_key, "POST", &range, Some(json!({})))
        .await
        .is(422, "invalid")
        .names("since");
    let all = json!({"since": "2020-01-01T00:00:00+01:00"});
    let replayed = api.ask(&api.acme_key, "POST", &range, Some(all)).await;
    assert_eq!(replayed.body["replayed"], 2, "{}", replayed.text);
    assert_eq!(
        DeliveryState::parse("waiting"),
        Some(DeliveryState::Waiting)
    );
}

#[tokio::test]
async fn a_component_that_is_none_is_refused_with_its_report() {
    let api = Api::new().await;
    let upload = async |kind: &str, bytes: &'static [u8]| {
        let request = Request::builder()
            .method("POST")
            .uri("/api/v1/components")
            .header("authorization", format!("Bearer {}", api.acme_key))
            .header("content-type", kind);
        api.send(request.body(Body::from(bytes)).unwrap()).await
    };
    let refused = upload("application/wasm", b"no wasm").await;
    refused.is(422, "component-refused");
    assert!(
        refused.body["report"]["admission"].is_array(),
        "{}",
        refused.text
    );
    upload("application/json", b"{}")
        .await
        .is(415, "unsupported-media-type");
    let used = format!("/components/{CONNECTOR}");
    api.ask(&api.acme_key, "GET", &used, None).await.ok(200);
    // The operator's is not the tenant's to remove.
    api.ask(&api.acme_key, "DELETE", &used, None)
        .await
        .is(404, "not-found");
    api.connection("c").await;
    api.ask(&api.operator, "DELETE", &used, None)
        .await
        .is(409, "conflict");
}

#[tokio::test]
async fn a_tenant_that_uploads_slowly_keeps_neither_another_nor_the_operator_from_it() {
    let api = Api::new().await;
    let upload = async |key: &str, body: Body| {
        let request = Request::builder()
            .method("POST")
            .uri("/api/v1/components")
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/wasm");
        api.send(request.body(body).unwrap()).await
    };
    let slow = || Body::from_stream(stream::pending::<Result<Vec<u8>, Infallible>>());
    let components = &api.ground.components;
    let own = [(); 2].map(|()| components.upload_of(Some(&api.acme.id)).unwrap());
    let begun = Instant::now();
    let busy = upload(&api.acme_key, slow()).await;
    busy.is(503, "unavailable");
    assert!(busy.text.contains("of this tenant"), "{}", busy.text);
    assert!(busy.headers.contains_key("retry-after"));
    assert!(begun.elapsed() < SOON, "its body was waited for");
    // It had its turn.
    let refused = upload(&api.other_key, Body::from("no wasm")).await;
    refused.is(422, "component-refused");
    let others: Vec<_> = (0..)
        .map_while(|number: usize| components.upload_of(Some(&(number / 2).to_string())).ok())
        .collect();
    let busy = upload(&api.other_key, slow()).await;
    busy.is(503, "unavailable");
    assert!(!busy.text.contains("of this tenant"), "{}", busy.text);
    let refused = upload(&api.operator, Body::from("no wasm")).await;
    refused.is(422, "component-refused");
    drop((own, others));
    let refused = upload(&api.acme_key, Body::from("no wasm")).await;
    refused.is(422, "component-refused");
}

#[tokio::test]
async fn an_upload_has_its_place_before_its_body_has_come() {
    let api = Api::new().await;
    let uploading: Vec<_> = (0..2)
        .map(|_| {
            let request = Request::builder()
                .method("POST")
                .uri("/api/v1/components")
                .header("authorization", format!("Bearer {}", api.acme_key))
                .header("content-type", "application/wasm");
            let body = Body::from_stream(stream::pending::<Result<Vec<u8>, Infallible>>());
            let request = request.body(body).unwrap();
            tokio::spawn(api.router.clone().oneshot(request))
        })
        .collect();
    let begun = Instant::now();
    while api.ground.components.upload_of(Some(&api.acme.id)).is_ok() {
        assert!(begun.elapsed() < SOON, "they take no places");
        tokio::task::yield_now().await;
    }
    assert!(uploading.iter().all(|upload| !upload.is_finished()));
}

#[tokio::test]
async fn keys_end_when_they_are_revoked() {
    let api = Api::new().await;
    let body = json!({"name": "k", "scopes": ["read"]});
    let made = api.ask(&api.acme_key, "POST", "/keys", Some(body)).await;
    let key = made.body["secret"].as_str().unwrap();
    let list = api.ask(key, "GET", "/connections", None).await;
    list.ok(200);
    let path = format!("/keys/{}", made.body["id"].as_str().unwrap());
    // Another tenant cannot end it.
    let _ = api.ask(&api.other_key, "DELETE", &path, None).await;
    api.ask(key, "GET", "/connections", None).await.ok(200);
    api.ask(&api.acme_key, "DELETE", &path, None).await.ok(204);
    api.ask(key, "GET", "/connections", None)
        .await
        .is(401, "unauthorized");
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems_too() {
    let api = Api::new().await;
    api.ask("", "GET", "/nothing", None)
        .await
        .is(404, "no-route");
    let answer = api
        .ask(&api.acme_key, "PUT", "/connections", Some(json!({})))
        .await;
    answer.is(405, "method-not-allowed");
    assert!(answer.headers.contains_key("allow"));
}

#[tokio::test]
async fn an_operator_acts_for_a_tenant_that_is_named() {
    let api = Api::new().await;
    let body = new_connection("c");
    api.ask(&api.operator, "POST", "/connections", Some(body.clone()))
        .await
        .is(422, "invalid")
        .names("tenant");
    let path = format!("/connections?tenant={}", api.other.id);
    let made = api
        .ask(&api.operator, "POST", &path, Some(body.clone()))
        .await;
    made.ok(201);
    assert_eq!(made.body["tenant"], api.other.id);
    api.ask(
        &api.operator,
        "POST",
        "/connections?tenant=nobody",
        Some(body),
    )
    .await
    .is(404, "not-found");
    let all = api.ask(&api.operator, "GET", "/connections", None).await;
    assert_eq!(all.body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_wish_for_a_letter_that_is_not_there_is_refused() {
    let api = Api::new().await;
    let path = format!(
        "/connections/{}/dead-letters/retry",
        api.connection("c").await
    );
    let one = json!({"source_ids": ["gl:note:1/1"]});
    api.ask(&api.acme_key, "POST", &path, Some(one))
        .await
        .is(422, "invalid");
    let both = json!({"source_ids": ["x"], "all": true});
    api.ask(&api.acme_key, "POST", &path, Some(both))
        .await
        .is(422, "invalid");
    let all = json!({"all": true});
    let none = api.ask(&api.acme_key, "POST", &path, Some(all)).await;
    none.ok(202);
    assert_eq!(none.body["letters"], 0);
}

#[tokio::test]
async fn health_metrics_and_the_description_need_no_key() {
    let api = Api::new().await;
    for (path, words) in [
        ("/healthz", "ok"),
        ("/readyz", "ready"),
        ("/metrics", ""),
        ("/api/openapi.json", "\"openapi\":\"3.1.0\""),
        ("/api/docs", "/api/v1/connections"),
    ] {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let answer = api.send(request).await;
        answer.ok(200);
        assert!(answer.text.contains(words), "{path}: {}", answer.text);
    }
    let request = Request::builder()
        .uri("/metrics")
        .body(Body::empty())
        .unwrap();
    let answer = api.send(request).await;
    assert!(
        answer
            .text
            .contains("runtime_http_requests_total{route=\"/healthz\",status=\"2xx\"} 1")
    );
    assert!(!answer.text.contains(&api.acme.id));
}

/// The document is part of the contract: a change of it is a change of the API, and is looked at.
#[test]
fn the_description_is_what_was_agreed() {
    insta::assert_snapshot!(super::document().to_pretty_json().unwrap());
}

#[tokio::test]
async fn calls_with_a_secret_that_was_replaced_are_taken_for_a_while_by_every_process() {
    let api = Api::new().await;
    let id = api.connection("c").await;
    let path = format!("/connections/{id}");
    let set = async |secret: Value| {
        let change = Some(json!({"secrets": {"webhook_secret": secret}}));
        let headers = [("if-match", "*")];
        let answer = api
            .ask_with(&api.acme_key, "PATCH", &path, change, &headers)
            .await;
        answer.ok(200);
        assert!(!answer.text.contains("before"), "{}", answer.text);
    };
    // A process that has never heard of this connection.
    let taken = async || {
        let reception = PlatformReception::new(api.ground.clone());
        let endpoint = reception.endpoint(&id).await.unwrap().unwrap();
        let secrets = endpoint.secrets.secrets.iter();
        secrets
            .map(|secret| secret.reveal().to_owned())
            .collect::<Vec<_>>()
    };
    set(json!("first-secret-0123456789")).await;
    set(json!("second-secret-0123456789")).await;
    // Behind them is the one that was made with the connection.
    assert_eq!(
        taken().await[..2],
        ["second-secret-0123456789", "first-secret-0123456789"]
    );
    set(json!("second-secret-0123456789")).await;
    assert_eq!(taken().await.len(), 3, "the same again is no change");
    set(json!("third-secret-0123456789")).await;
    assert_eq!(
        taken().await[..3],
        [
            "third-secret-0123456789",
            "second-secret-0123456789",
            "first-secret-0123456789"
        ]
    );
    // With hooks, one that is taken away is another one.
    set(Value::Null).await;
    let now = taken().await;
    assert!(!now[0].contains("-secret-"), "{now:?}");
    assert_eq!(now[1], "third-secret-0123456789");
    // What was taken away is not taken any more.
    let change = Some(json!({"config": {"realtime": false}}));
    let headers = [("if-match", "*")];
    api.ask_with(&api.acme_key, "PATCH", &path, change, &headers)
        .await
        .ok(200);
    set(Value::Null).await;
    assert!(
        taken()
            .await
            .iter()
            .all(|secret| !secret.contains("-secret-"))
    );
}

#[tokio::test]
async fn hooks_have_both_of_their_secrets_whichever_is_taken_away() {
    let api = Api::new().await;
    let id = api.connection("c").await;
    let path = format!("/connections/{id}");
    let fields = ["webhook_secret", "webhook_signing_token"];
    let sealed = async || {
        let row = api.ground.platform.connection(None, &id).await.unwrap();
        fields.map(|field| row.sealed.get(field).cloned())
    };
    let before = sealed().await;
    let headers = [("if-match", "*")];
    let take_away = json!({"secrets": {"webhook_secret": null, "webhook_signing_token": null}});
    let answer = api
        .ask_with(
            &api.acme_key,
            "PATCH",
            &path,
            Some(take_away.clone()),
            &headers,
        )
        .await;
    answer.ok(200);
    let after = sealed().await;
    for (before, after) in before.iter().zip(&after) {
        assert!(after.is_some() && after != before, "{before:?} {after:?}");
    }
    // Without hooks nothing needs them.
    let mut polled = take_away;
    polled["config"] = json!({"realtime": false});
    api.ask_with(&api.acme_key, "PATCH", &path, Some(polled), &headers)
        .await
        .ok(200);
    assert_eq!(sealed().await, [None, None]);
}

#[tokio::test]
async fn a_rotated_key_opens_everything_and_rotating_twice_does_nothing() {
    let api = Api::new().await;
    for name in ["a", "b", "c"] {
        api.connection(name).await;
    }
    let platform = api.ground.platform.as_ref();
    let secrets = &api.ground.secrets;
    secrets.prove(platform).await.unwrap();
    secrets.add_key().unwrap();
    assert_eq!(secrets.reseal(platform).await.unwrap(), 12);
    assert_eq!(secrets.reseal(platform).await.unwrap(), 0);
    assert_eq!(secrets.drop_old_keys(platform).await.unwrap(), 1);
    let page = Page {
        after: None,
        most: 10,
    };
    for connection in platform.connections(None, &page).await.unwrap() {
        let opened = crate::platform::connection::OpenedSecrets::of(&connection, secrets).unwrap();
        assert_eq!(opened.all().count(), 4);
    }
    secrets.prove(platform).await.unwrap();
    // Another installation's key opens nothing here, and says so at the start.
    let folder = tempfile::tempdir().unwrap();
    let foreign = Secrets::open(None, &folder.path().join("kek")).unwrap();
    let words = foreign.prove(platform).await.unwrap_err().to_string();
    assert!(words.contains("another key"), "{words}");
}

#[tokio::test]
async fn a_call_is_not_told_that_its_connection_is_gone_while_the_key_is_missing() {
    let api = Api::new().await;
    let id = api.connection("c").await;
    let folder = tempfile::tempdir().unwrap();
    let foreign = Secrets::open(None, &folder.path().join("kek")).unwrap();
    let ground = Ground {
        secrets: Arc::new(foreign),
        ..api.ground.clone()
    };
    let reception = PlatformReception::new(ground);
    let words = reception.endpoint(&id).await.unwrap_err().to_string();
    assert!(words.contains("not among those of this process"), "{words}");
    let unknown = reception.endpoint("nothing").await.unwrap();
    assert!(unknown.is_none());
    // What its owner can mend is as if it were not there.
    let damaged = std::collections::BTreeMap::from([("webhook_secret".into(), "damaged".into())]);
    let change = ConnectionChange {
        sealed: Some(damaged),
        ..ConnectionChange::default()
    };
    let platform = api.ground.platform.as_ref();
    platform
        .update_connection(None, &id, None, &change)
        .await
        .unwrap();
    let reception = PlatformReception::new(api.ground.clone());
    assert!(reception.endpoint(&id).await.unwrap().is_none());
}

/// What the dashboard answers to a browser.
impl Api {
    async fn browse(&self, method: &str, path: &str, cookie: &str, form: &str) -> Answer {
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path)
            .header("cookie", cookie)
            .header("content-type", "application/x-www-form-urlencoded");
        self.send(request.body(Body::from(form.to_owned())).unwrap())
            .await
    }

    /// The stream that tells a page of changes, without reading it: it does not end.
    async fn live_page(&self, cookie: &str) -> Response<Body> {
        let request = Request::builder().uri("/events").header("cookie", cookie);
        let request = request.body(Body::empty()).unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn log_in(&self, key: &str) -> String {
        let answer = self
            .browse("POST", "/login", "", &format!("key={key}"))
            .await;
        answer.ok(303);
        let cookie = answer.headers["set-cookie"].to_str().unwrap();
        assert!(
            cookie.contains("HttpOnly")
                && cookie.contains("SameSite=Lax")
                && cookie.contains("Secure")
        );
        assert!(!cookie.contains(key));
        cookie.split(';').next().unwrap().to_owned()
    }
}

fn csrf_of(page: &str) -> &str {
    let (_, rest) = page.split_once("name=\"csrf\" value=\"").unwrap();
    rest.split('"').next().unwrap()
}

#[tokio::test]
async fn the_dashboard_shows_a_tenant_its_own_and_nothing_else() {
    let api = Api::new().await;
    let id = api.connection("<script>c</script>").await;
    for path in ["/", "/components", &format!("/connections/{id}")] {
        let answer = api.browse("GET", path, "", "").await;
        answer.ok(303);
        assert_eq!(answer.headers["location"], "/login");
    }
    api.browse("POST", "/login", "", "key=cr_nonsense")
        .await
        .ok(401);
    let cookie = api.log_in(&api.acme_key).await;
    for path in ["/", "/components", &format!("/connections/{id}")] {
        let page = api.browse("GET", path, &cookie, "").await;
        page.ok(200);
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'self'") && !policy.contains("unsafe"));
        assert!(!page.text.contains("<script>c"), "{}", page.text);
        assert!(!page.text.contains("SECRET"), "{}", page.text);
        for outside in ["http://", "https://cdn", "style=", "onclick="] {
            assert!(!page.text.contains(outside), "{path}: {outside}");
        }
    }
    let theirs = api.log_in(&api.other_key).await;
    let page = api
        .browse("GET", &format!("/connections/{id}"), &theirs, "")
        .await;
    page.ok(404);
    let page = api.browse("GET", "/", &theirs, "").await;
    assert!(!page.text.contains(&id));
    // Another value than the one that was sealed is no session.
    let forged = cookie.replace("v1.", "v2.");
    api.browse("GET", "/", &forged, "").await.ok(303);
}

#[tokio::test]
async fn a_tenant_with_many_open_pages_leaves_others_and_the_operator_theirs() {
    let api = Api::new().await;
    let acme = api.log_in(&api.acme_key).await;
    let mut pages = Vec::new();
    for _ in 0..8 {
        let page = api.live_page(&acme).await;
        assert_eq!(page.status(), 200);
        assert_eq!(page.headers()["content-type"], "text/event-stream");
        pages.push(page);
    }
    let refused = api.browse("GET", "/events", &acme, "").await;
    refused.is(503, "unavailable");
    assert!(refused.headers.contains_key("retry-after"));
    for key in [&api.other_key, &api.operator] {
        let cookie = api.log_in(key).await;
        assert_eq!(api.live_page(&cookie).await.status(), 200);
    }
    // Whoever closes a page has its place for another one.
    pages.pop();
    assert_eq!(api.live_page(&acme).await.status(), 200);
}

#[tokio::test]
async fn a_form_needs_its_token_and_ends_with_its_key() {
    let api = Api::new().await;
    let id = api.connection("c").await;
    let cookie = api.log_in(&api.acme_key).await;
    let path = format!("/connections/{id}");
    let page = api.browse("GET", &path, &cookie, "").await;
    let token = csrf_of(&page.text).to_owned();
    api.browse("POST", &path, &cookie, "csrf=wrong&action=pause")
        .await
        .ok(403);
    let state = async || {
        let read = api.ask(&api.acme_key, "GET", &path, None).await;
        read.body["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(state().await, "active");
    let form = format!("csrf={token}&action=pause");
    api.browse("POST", &path, &cookie, &form).await.ok(303);
    assert_eq!(state().await, "paused");
    let nonsense = format!("csrf={token}&action=explode");
    api.browse("POST", &path, &cookie, &nonsense).await.ok(422);
    // A reader's session looks and does not touch.
    let reader = api.key(&api.acme.id, &[Scope::Read]).await;
    let cookie = api.log_in(&reader).await;
    let page = api.browse("GET", &path, &cookie, "").await;
    assert!(!page.text.contains("value=\"resume\""));
    let form = format!("csrf={}&action=resume", csrf_of(&page.text));
    api.browse("POST", &path, &cookie, &form).await.ok(403);
    assert_eq!(state().await, "paused");
    let id = reader
        .strip_prefix("cr_")
        .unwrap()
        .split('_')
        .next()
        .unwrap();
    let platform = api.ground.platform.as_ref();
    platform.revoke_key(Some(&api.acme.id), id).await.unwrap();
    api.browse("GET", &path, &cookie, "").await.ok(303);
}
