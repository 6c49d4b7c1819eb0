//! A GitLab that is slow or silent: the user is told how, the cursor is held, and the next run heals it.

use std::path::PathBuf;
use std::time::Duration;

use simulators::cortex;
use simulators::gitlab::{self, Fault, Rule, Size, World};
use tokio::net::{TcpSocket, TcpStream};

use crate::setup::{KEY, Ran, Setup};

/// Limits that a test can wait for.
const LIMITS: &str = r#"connect = "400ms", first_byte = "400ms", idle = "400ms", whole = "1200ms""#;

fn limits(setup: &Setup, limits: &str) -> PathBuf {
    let file = setup.home.path().join("limits.toml");
    std::fs::write(&file, format!("[source]\ntimeouts = {{ {limits} }}\n")).unwrap();
    file
}

/// A run with short limits and short patience.
async fn run(setup: &Setup) -> Ran {
    let file = limits(setup, LIMITS);
    let config = file.to_str().unwrap();
    setup.run(&["--config", config, "--patience", "2s"]).await
}

/// A project with issues that the token is a member of.
fn a_project_with_issues(setup: &Setup) -> u64 {
    let members = setup.membership().projects;
    let world = setup.gitlab.world();
    let visible = |id: &u64| {
        let mut issues = world.projects[id].issues.values();
        issues.any(|issue| !issue.confidential)
    };
    members.into_iter().find(visible).unwrap()
}

/// The issues of one project suffer this; the run says so in these words, holds that cursor alone, and is whole once the fault is gone.
async fn one_list_fails_with(seed: u64, fault: Fault, words: &str) {
    let setup = Setup::tiny(seed).await;
    let project = a_project_with_issues(&setup);
    let path = format!("/projects/{project}/issues?");
    setup.gitlab.add_fault(Rule::new(&path, fault));
    let failed = run(&setup).await.expect(1);
    let receipt = failed.receipt();
    let stream = format!("{project}/issues");
    let reason = receipt["streams_failed"][&stream].as_str();
    assert!(
        reason.is_some_and(|reason| reason.contains(words)),
        "{receipt}"
    );
    assert_eq!(receipt["dead_lettered"], 0, "{receipt}");
    let cursors = setup.cursors();
    assert!(!cursors.contains_key(&stream), "{cursors:?}");
    assert!(
        cursors.contains_key(&format!("{project}/commits")),
        "one silent list stopped the others: {cursors:?}"
    );
    setup.gitlab.set_faults(vec![]);
    run(&setup).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_byte_that_never_comes_fails_its_stream_and_heals() {
    let fault = Fault::Latency { ms: 3_600_000 };
    one_list_fails_with(401, fault, "no answer within 400ms").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_fails_its_stream_and_heals() {
    let fault = Fault::Drip {
        bytes: 20,
        ms: 3_600_000,
    };
    one_list_fails_with(402, fault, "the answer stalled for 400ms, after 20 bytes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_for_ever_fails_its_stream_and_heals() {
    let fault = Fault::Drip { bytes: 1, ms: 100 };
    one_list_fails_with(403, fault, "the answer was not complete within 1.2s").await;
}

/// A listener whose queue is full: the kernel lets nobody else in, and nobody answers.
struct Deaf {
    _listener: tokio::net::TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Deaf {
    async fn listen(address: std::net::SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut waiting = Vec::new();
        let patience = Duration::from_millis(300);
        while let Ok(connected) = tokio::time::timeout(patience, TcpStream::connect(address)).await
        {
            waiting.push(connected.unwrap());
            assert!(waiting.len() < 100, "the queue never fills");
        }
        Self {
            _listener: listener,
            _waiting: waiting,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_never_accepted_fails_the_run_and_heals() {
    let mut setup = Setup::tiny(404).await;
    let address = setup.gitlab.address();
    let world = setup.gitlab.shared_world();
    // Its place is taken by one that hears nothing, under the same address.
    let elsewhere = gitlab::Server::start(
        World::generate(404, &Size::tiny()),
        gitlab::Options::default(),
    );
    let gone = std::mem::replace(&mut setup.gitlab, elsewhere.await.unwrap());
    gone.shutdown().await;
    let deaf = Deaf::listen(address).await;
    let failed = run(&setup).await.expect(1);
    let reason = failed.receipt()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("no connection within 400ms"), "{reason}");
    assert_eq!(setup.cortex.stats().events, 0);
    assert!(setup.cursors().is_empty());
    drop(deaf);

    let options = gitlab::Options {
        listen: address,
        ..gitlab::Options::default()
    };
    setup.gitlab = gitlab::Server::start_shared(world, options).await.unwrap();
    run(&setup).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_takes_too_long_is_asked_for_in_smaller_pieces() {
    let silence = Fault::Latency { ms: 3_600_000 };
    for (seed, fault, rows) in [(405, Fault::Timeout, 20), (406, silence, 5)] {
        let setup = Setup::with(
            World::generate(seed, &Size::items(600)),
            gitlab::Options::default(),
            cortex::Options::full(KEY),
        )
        .await;
        let rule = Rule::new("/projects/", fault).over_per_page(rows);
        setup.gitlab.add_fault(rule);
        run(&setup).await.expect(0);
        assert!(setup.gitlab.faults_struck() > 0);
        let smaller = format!("/merge_requests?*per_page={rows}");
        assert!(!setup.gitlab.requests_to(&smaller).is_empty(), "{smaller}");
        setup.assert_complete(&setup.membership());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_cannot_work_are_refused_before_anything_is_read() {
    let setup = Setup::tiny(407).await;
    for (text, words) in [
        (r#"idle = "soon""#, "source.timeouts.idle"),
        (r#"first_byte = "0s""#, "source.timeouts.first_byte is 0"),
        (r#"whole = "5s""#, "is longer than source.timeouts.whole"),
        (
            r#"whole = "18446744073709551615s""#,
            "which is longer than a day",
        ),
        (r#"hole = "5s""#, "hole"),
    ] {
        let file = limits(&setup, text);
        let config = file.to_str().unwrap();
        let refused = setup.run(&["--config", config]).await.expect(2);
        let said = format!("{}{}", refused.stdout, refused.stderr);
        assert!(said.contains(words), "{text}: {said}");
    }
    assert!(setup.gitlab.requests().is_empty());
}
