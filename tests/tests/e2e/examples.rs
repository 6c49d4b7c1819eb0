//! The examples and the golden components in the host: mappers in three languages, one that imports WASI, a second connector, and what was
//! built for the interface as it was published.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::get;
use serde_json::json;

use crate::mappers::puppet;
use crate::setup::{Setup, dist};

fn mapper(name: &str) -> String {
    dist("mappers").join(name).to_str().unwrap().to_owned()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden/0.1.0")
        .join(name)
}

fn project_with_issues(setup: &Setup) -> u64 {
    let world = setup.gitlab.world();
    let found = world
        .projects
        .iter()
        .find(|(_, project)| !project.issues.is_empty());
    *found.unwrap().0
}

/// Does something in GitLab; answers the number of what it made.
fn act(setup: &Setup, name: &str, arguments: &serde_json::Value) -> String {
    setup.gitlab.world().command(name, arguments).unwrap().id
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_rust_masks_secrets_and_addresses() {
    let setup = Setup::tiny(951).await;
    let project = project_with_issues(&setup);
    let text = "The token is glpat-abcdefghij0123456789, ask ada@example.org";
    let issue = json!({"project": project, "title": "Leak", "text": text});
    let iid = act(&setup, "new_issue", &issue);
    setup
        .run(&["--mapper", &mapper("rust.wasm")])
        .await
        .expect(0);
    let stored = setup.text_of(&format!("gl:issue:{project}/{iid}")).unwrap();
    assert!(
        !stored.contains("glpat-abc") && !stored.contains("ada@example.org"),
        "{stored}"
    );
    assert!(stored.contains("[masked]"), "{stored}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_javascript_drops_comments_that_say_nothing() {
    let setup = Setup::tiny(952).await;
    let project = project_with_issues(&setup);
    let iid = act(
        &setup,
        "new_issue",
        &json!({"project": project, "title": "Question", "text": "Why?"}),
    );
    let iid: u64 = iid.parse().unwrap();
    let comment = |text: &str| {
        let place = json!({"project": project, "iid": iid, "on": "issue", "text": text});
        act(&setup, "start_thread", &place)
    };
    let (kept, dropped) = (comment("Because of the retries."), comment(":+1:"));
    let receipt = setup
        .run(&["--mapper", &mapper("javascript.wasm")])
        .await
        .expect(0)
        .receipt();
    let stored = setup.stored();
    assert!(
        stored.contains_key(&format!("gl:note:{project}/{kept}")),
        "{receipt}"
    );
    assert!(
        !stored.contains_key(&format!("gl:note:{project}/{dropped}")),
        "{receipt}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_python_splits_release_notes_into_entries() {
    let setup = Setup::tiny(953).await;
    let project = project_with_issues(&setup);
    let text = "## Added\n- Retries with jitter\n- A dashboard\n\n## Fixed\n- The clock";
    let release = json!({"project": project, "tag": "v9.9.9", "title": "Nine", "text": text});
    act(&setup, "new_release", &release);
    setup
        .run(&["--mapper", &mapper("python.wasm")])
        .await
        .expect(0);
    let id = format!("gl:release:{project}/v9.9.9");
    let parts: Vec<String> = setup
        .stored()
        .into_keys()
        .filter(|held| held.starts_with(&id))
        .collect();
    assert!(parts.len() >= 3, "{parts:?}");
    assert!(
        parts
            .iter()
            .filter(|held| held.starts_with(&format!("{id}~")))
            .count()
            >= 3,
        "{parts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapper_that_imports_wasi_runs_with_nothing_behind_it() {
    let setup = Setup::tiny(954).await;
    let project = project_with_issues(&setup);
    let issue = json!({"project": project, "title": "Untidy", "text": "one   \n\n\n\ntwo"});
    let iid = act(&setup, "new_issue", &issue);
    let wasi = mapper("wasi.wasm");
    let report = setup
        .runtime(&["mapper", "check", &wasi, "--json"])
        .await
        .expect(0);
    assert!(report.stdout.contains("wasi:"), "{}", report.stdout);
    setup.run(&["--mapper", &wasi]).await.expect(0);
    let stored = setup.text_of(&format!("gl:issue:{project}/{iid}")).unwrap();
    assert!(stored.contains("one\n\ntwo"), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_three_languages_need_no_wasi() {
    let setup = Setup::tiny(955).await;
    for name in ["rust.wasm", "javascript.wasm", "python.wasm"] {
        let report = setup
            .runtime(&["mapper", "check", &mapper(name), "--json"])
            .await
            .expect(0);
        let report: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
        let imports = report["imports"].as_array().unwrap();
        let ours = |import: &serde_json::Value| {
            import.as_str().unwrap().starts_with("cortexdb:connector/")
        };
        assert!(imports.iter().all(ours), "{name}: {imports:?}");
    }
}

const FEED: &str = r#"<?xml version="1.0"?><rss version="2.0"><channel><title>News</title>
<item><guid>a</guid><title>First</title><link>https://example.org/a</link><description>&lt;p&gt;Hello&lt;/p&gt;</description><pubDate>Fri, 20 Nov 2026 10:00:00 GMT</pubDate></item>
<item><guid>b</guid><title>Second</title><link>https://example.org/b</link><description>World</description><pubDate>Sat, 21 Nov 2026 10:00:00 GMT</pubDate></item>
</channel></rss>"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connector_in_another_language_runs_on_the_host_as_it_is() {
    let mut setup = Setup::tiny(956).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&asked);
    let url = serve(Router::new().route(
        "/feed.xml",
        get(move |headers: HeaderMap| async move {
            seen.fetch_add(1, Ordering::SeqCst);
            if headers
                .get(header::IF_NONE_MATCH)
                .is_some_and(|tag| tag == "\"1\"")
            {
                return (StatusCode::NOT_MODIFIED, [(header::ETAG, "\"1\"")], "").into_response();
            }
            let kind = (header::CONTENT_TYPE, "application/rss+xml");
            (StatusCode::OK, [(header::ETAG, "\"1\""), kind], FEED).into_response()
        }),
    ))
    .await;
    setup.set("FEED_URL", &url).set("FEED_PATHS", "/feed.xml");
    let feed = dist("feed.wasm");
    let run = ["run", feed.to_str().unwrap(), "--json"];
    let receipt = setup.runtime(&run).await.expect(0).receipt();
    assert_eq!(receipt["written"], 2, "{receipt}");
    let texts: Vec<String> = setup
        .stored()
        .keys()
        .filter_map(|id| setup.text_of(id))
        .collect();
    assert!(
        texts
            .iter()
            .any(|text| text.contains("Hello") && !text.contains("<p>")),
        "{texts:?}"
    );
    let again = setup.runtime(&run).await.expect(0).receipt();
    assert_eq!(again["written"], 0, "{again}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_the_next_page_does_not_make_any_more_does_not_stay() {
    let mut setup = Setup::tiny(960).await;
    let feed = |text: &'static str| {
        let kind = [(header::CONTENT_TYPE, "application/rss+xml")];
        get(move || async move { (kind, FEED.replace("Hello", text)) })
    };
    let router = Router::new()
        .route("/first.xml", feed("SPLIT-THIS"))
        .route("/second.xml", feed("whole again"));
    let url = serve(router).await;
    setup
        .set("FEED_URL", &url)
        .set("FEED_PATHS", "/first.xml,/second.xml");
    let rules = json!([{"has": "SPLIT-THIS", "do": {"split_into": ["a", "b"]}}]);
    let mapper = puppet(&setup, "rules", &rules);
    // Both pages are handed over one right after the other.
    let feed = dist("feed.wasm");
    let mut run = vec!["run", feed.to_str().unwrap()];
    run.extend(mapper.iter().map(String::as_str));
    setup.runtime(&run).await.expect(0);
    let ids: Vec<String> = setup.stored().into_keys().collect();
    assert!(
        ids.len() == 2 && ids.iter().all(|id| !id.contains('~')),
        "{ids:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_built_for_the_published_interface_keeps_running() {
    let mut setup = Setup::tiny(957).await;
    let url =
        serve(Router::new().route("/lines", get(|| async { "1 first line\n2 second line\n" })))
            .await;
    setup
        .set("GOLDEN_URL", &url)
        .set("GOLDEN_TOKEN", "golden-token-0123456789");
    let connector = golden("connector.wasm");
    let run = ["run", connector.to_str().unwrap(), "--json"];
    let receipt = setup.runtime(&run).await.expect(0).receipt();
    assert_eq!(receipt["written"], 2, "{receipt}");
    let again = setup.runtime(&run).await.expect(0).receipt();
    assert_eq!(again["unchanged"], 2, "{again}");
    let check = setup
        .runtime(&["check", connector.to_str().unwrap()])
        .await
        .expect(0);
    assert!(check.stdout.contains("2 lines"), "{}", check.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapper_built_for_the_published_interface_keeps_running() {
    let setup = Setup::tiny(958).await;
    let path = golden("mapper.wasm");
    let receipt = setup
        .run(&["--mapper", path.to_str().unwrap()])
        .await
        .receipt();
    let mapped = &receipt["mappers"][0];
    assert!(mapped["given"].as_u64().unwrap() > 10, "{receipt}");
    assert_eq!(mapped["refused"], 0, "{receipt}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_project_has_what_it_needs_to_build() {
    let setup = Setup::tiny(959).await;
    for (language, source) in [
        ("rust", "src/lib.rs"),
        ("javascript", "mapper.js"),
        ("python", "app.py"),
    ] {
        let name = format!("my-{language}");
        setup
            .runtime(&["mapper", "new", "--lang", language, &name])
            .await
            .expect(0);
        let folder = setup.home.path().join(&name);
        for file in [
            source,
            "README.md",
            "Makefile",
            "wit/transform.wit",
            "wit/worlds.wit",
        ] {
            let text = std::fs::read_to_string(folder.join(file)).unwrap();
            assert!(!text.contains("{{name}}"), "{file}");
        }
        let again = setup
            .runtime(&["mapper", "new", "--lang", language, &name])
            .await
            .expect(2);
        assert!(
            again.stderr.contains("nothing was written"),
            "{}",
            again.stderr
        );
    }
    setup
        .runtime(&["mapper", "new", "--lang", "rust", "../Evil"])
        .await
        .expect(2);
}
