//! Where the program may go: what `source.allowed_networks` refuses is refused before anything is asked, and the token leaves for no
//! other host.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::setup::{Ran, Setup, dist};

fn configuration(setup: &Setup, networks: &str) -> PathBuf {
    let file = setup.home.path().join("egress.toml");
    std::fs::write(
        &file,
        format!("[source]\nallowed_networks = [{networks}]\n"),
    )
    .unwrap();
    file
}

async fn run(setup: &Setup, networks: &str) -> Ran {
    let file = configuration(setup, networks);
    setup.run(&["--config", file.to_str().unwrap()]).await
}

fn reason(ran: &Ran) -> String {
    ran.receipt()["reason"].as_str().unwrap().to_owned()
}

fn nothing_was_asked(setup: &Setup) {
    assert!(setup.gitlab.requests().is_empty());
    assert_eq!(setup.cortex.stats().events, 0);
    assert!(setup.cursors().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_public_addresses_only_a_gitlab_on_this_machine_is_refused_before_any_request() {
    let mut setup = Setup::tiny(501).await;
    let refused = run(&setup, "").await.expect(2);
    let words = reason(&refused);
    assert!(
        words.contains("127.0.0.1 is a loopback address") && words.contains("`allowed_networks`"),
        "{words}"
    );
    nothing_was_asked(&setup);
    // Other spellings of it, and a name for it.
    let port = setup.gitlab.address().port();
    for host in ["2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "localhost"] {
        setup.set("GITLAB_URL", &format!("http://{host}:{port}"));
        let refused = run(&setup, r#""10.0.0.0/8""#).await.expect(2);
        let words = reason(&refused);
        assert!(words.contains("a loopback address"), "{host}: {words}");
        nothing_was_asked(&setup);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_named_can_be_read() {
    let mut setup = Setup::tiny(502).await;
    // Names are allowed by what they lead to; no proxy is asked.
    let port = setup.gitlab.address().port();
    setup.set("GITLAB_URL", &format!("http://localhost:{port}"));
    setup.set("ALL_PROXY", "http://127.0.0.1:1");
    let ran = run(&setup, r#""127.0.0.0/8""#).await.expect(0);
    setup.assert_complete(&setup.membership());
    let warning = |ran: &Ran| {
        let events = ran.events();
        let warned = events.iter().find(|event| event["level"] == "warn");
        warned.map(|event| event["message"].as_str().unwrap().to_owned())
    };
    let words = warning(&ran).expect("no word of the proxy");
    assert!(
        words.contains("ALL_PROXY is set and not used")
            && words.contains("`source.allowed_networks`"),
        "{words}"
    );
    // On the user's own word a proxy counts, though not for this machine; nothing is to be told.
    assert_eq!(warning(&setup.run(&[]).await.expect(0)), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_the_address_that_may_not_be_reached_and_the_proxy_that_is_not_used() {
    let mut setup = Setup::tiny(503).await;
    setup.set("https_proxy", "http://127.0.0.1:1");
    let file = configuration(&setup, "");
    let component = dist("gitlab.wasm");
    let arguments = [
        "check",
        component.to_str().unwrap(),
        "--config",
        file.to_str().unwrap(),
    ];
    let checked = setup.runtime(&arguments).await.expect(1);
    for words in [
        "127.0.0.1 is a loopback address",
        "https_proxy is set and not used",
    ] {
        assert!(checked.stdout.contains(words), "{}", checked.stdout);
    }
    assert!(setup.gitlab.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_none_is_an_error_before_anything_is_asked() {
    let setup = Setup::tiny(504).await;
    let refused = run(&setup, r#""gitlab.example.com""#).await.expect(2);
    assert!(
        refused.stderr.contains("source.allowed_networks") && refused.stderr.contains("10.0.0.0/8"),
        "{}",
        refused.stderr
    );
    nothing_was_asked(&setup);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gitlab_that_redirects_everything_to_another_host_gets_the_token_no_further() {
    let mut setup = Setup::tiny(505).await;
    let thief = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let elsewhere = thief.local_addr().unwrap();
    let caught = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&caught);
    tokio::spawn(async move {
        while thief.accept().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let redirecting = TcpListener::bind("127.0.0.1:0").await.unwrap();
    setup.set(
        "GITLAB_URL",
        &format!("http://{}", redirecting.local_addr().unwrap()),
    );
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = redirecting.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let mut request = [0; 8192];
            let _ = stream.read(&mut request).await;
            let answer = format!(
                "HTTP/1.1 302 Found\r\nlocation: http://{elsewhere}/api/v4/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let failed = setup.run(&["--patience", "2s"]).await;
    assert_ne!(failed.code, 0, "{}", failed.stdout);
    failed.expect(1);
    assert!(asked.load(Ordering::SeqCst) > 0);
    assert_eq!(caught.load(Ordering::SeqCst), 0);
    assert_eq!(setup.cortex.stats().events, 0);
}
