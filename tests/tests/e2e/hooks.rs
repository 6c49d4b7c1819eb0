//! Webhooks of one connection: `run --watch --listen`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::Value;
use simulators::cortex;
use simulators::gitlab::{self, MergeState, OWNER_TOKEN, Selection, Size, World};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::sync::mpsc;

use crate::setup::{KEY, Setup, dist};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "a-webhook-secret-of-the-users";

/// A program that watches and listens.
struct Listening {
    child: Child,
    /// Read all the time: a program whose pipe is full stands still.
    lines: mpsc::UnboundedReceiver<String>,
    address: String,
}

impl Listening {
    /// With an address of its own, a poll once an hour, and these flags.
    async fn start(setup: &Setup, address: &str, flags: &[&str]) -> Self {
        Self::polling(setup, "1h", address, flags).await
    }

    async fn polling(setup: &Setup, interval: &str, address: &str, flags: &[&str]) -> Self {
        let mut all = vec!["--watch", "--interval", interval, "--listen", address];
        all.extend(flags);
        let mut child = setup.start(&all);
        let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
        let (line, lines) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(next) = told.next_line().await.unwrap() {
                let _ = line.send(next);
            }
        });
        let mut started = Self {
            child,
            lines,
            address: String::new(),
        };
        let event = started.expect(|event| event["event"] == "listening").await;
        started.address = event["address"].as_str().unwrap().to_owned();
        started
    }

    /// The next event of this kind.
    async fn expect(&mut self, is: impl Fn(&Value) -> bool) -> Value {
        let next = async {
            loop {
                let line = self.lines.recv().await.expect("watching ended");
                crate::secrets::assert_none_in(&line);
                assert!(!line.contains(SECRET), "{line}");
                let event: Value = serde_json::from_str(&line).unwrap();
                if is(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next)
            .await
            .expect("no such event")
    }

    async fn receipt(&mut self, kind: &str) -> Value {
        self.expect(|event| event["event"] == "receipt" && event["kind"] == kind)
            .await
    }

    async fn stop(mut self) -> Option<i32> {
        let process = self.child.id().unwrap().to_string();
        let killed = std::process::Command::new("kill")
            .args(["-TERM", &process])
            .status();
        assert!(killed.unwrap().success());
        while self.lines.recv().await.is_some() {}
        self.child.wait().await.unwrap().code()
    }

    /// Status and answer of a call.
    async fn call(&self, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let mut text = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("\r\n{body}"));
        self.say(&text).await
    }

    async fn say(&self, text: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer[9..12].parse().unwrap();
        (status, answer)
    }
}

/// An address where nobody listens yet.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// A world whose token may register hooks.
async fn owned(seed: u64) -> Setup {
    let mut setup = Setup::tiny(seed).await;
    setup.set("GITLAB_TOKEN", OWNER_TOKEN);
    setup
}

pub(crate) fn selection(setup: &Setup) -> Selection {
    let world = setup.gitlab.world();
    let viewer = world.viewer(OWNER_TOKEN);
    let projects: Vec<u64> = world
        .projects
        .iter()
        .filter(|(_, project)| world.role(viewer, project).is_some())
        .map(|(id, _)| *id)
        .collect();
    drop(world);
    Selection::projects(&projects, OWNER_TOKEN)
}

/// A merge request that can be changed.
pub(crate) fn open_merge_request(setup: &Setup) -> (u64, u64) {
    let world = setup.gitlab.world();
    let viewer = world.viewer(OWNER_TOKEN);
    world
        .projects
        .iter()
        .filter(|(_, project)| world.role(viewer, project).is_some())
        .flat_map(|(id, project)| project.merge_requests.values().map(move |one| (*id, one)))
        .find(|(_, one)| one.state == MergeState::Opened)
        .map(|(project, one)| (project, one.iid))
        .expect("an open merge request")
}

/// Waits until a record's text begins with these words; how long that took.
pub(crate) async fn stored_within(setup: &Setup, id: &str, words: &str) -> Duration {
    let begun = Instant::now();
    loop {
        if setup
            .text_of(id)
            .is_some_and(|text| text.starts_with(words))
        {
            return begun.elapsed();
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{id} never became `{words}`: {:?}",
            setup.text_of(id)
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn payload(project: u64, iid: u64) -> String {
    serde_json::json!({
        "object_kind": "merge_request",
        "project": {"id": project},
        "object_attributes": {"iid": iid, "action": "update"},
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_stored_within_two_seconds_and_no_poll_is_needed() {
    let setup = owned(901).await;
    let address = free_address().to_string();
    let url = format!("http://{address}");
    let mut listening = Listening::start(&setup, &address, &["--public-url", &url]).await;
    let plan = listening.expect(|event| event["event"] == "hooks").await;
    assert!(!plan["hooks"].as_array().unwrap().is_empty(), "{plan}");
    let receipt = listening.receipt("sync").await;
    assert_eq!(receipt["outcome"], "complete", "{receipt}");
    let (project, iid) = open_merge_request(&setup);
    let id = format!("gl:merge_request:{project}/{iid}");
    let mut took = Vec::new();
    for number in 0..20 {
        let title = format!("Title number {number} of a hook");
        setup
            .gitlab
            .world()
            .edit_merge_request(project, iid, Some(&title), None)
            .unwrap();
        took.push(stored_within(&setup, &id, &title).await);
    }
    took.sort();
    println!(
        "from change to receipt: median {:?}, most {:?}",
        took[10], took[19]
    );
    assert!(took[18] < Duration::from_secs(2), "{took:?}");
    let receipt = listening.receipt("deliveries").await;
    assert_eq!(receipt["outcome"], "complete", "{receipt}");
    assert_eq!(listening.stop().await, Some(0));
    setup.assert_complete(&selection(&setup));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_public_url_nothing_is_registered_and_the_users_own_hook_works() {
    let mut setup = owned(902).await;
    setup.set("GITLAB_WEBHOOK_SECRET", SECRET);
    let mut listening = Listening::start(&setup, "127.0.0.1:0", &[]).await;
    listening.receipt("sync").await;
    assert!(setup.gitlab.world().webhooks().is_empty());
    let (project, iid) = open_merge_request(&setup);
    setup
        .gitlab
        .world()
        .edit_merge_request(project, iid, Some("By hand"), None)
        .unwrap();
    let body = payload(project, iid);
    let event = ("x-gitlab-event", "Merge Request Hook");
    let proof = ("x-gitlab-token", SECRET);
    for (path, headers, status) in [
        ("/hooks/gitlab", &[event][..], 401),
        ("/hooks/gitlab", &[event, ("x-gitlab-token", "wrong")], 401),
        ("/hooks/other", &[event, proof], 404),
        ("/hooks/gitlab", &[event, proof], 202),
    ] {
        let (found, answer) = listening.call(path, headers, &body).await;
        assert_eq!(found, status, "{path} {headers:?}: {answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }
    stored_within(
        &setup,
        &format!("gl:merge_request:{project}/{iid}"),
        "By hand",
    )
    .await;
    let (health, _) = listening
        .say("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert_eq!(health, 200);
    let receipt = listening.receipt("deliveries").await;
    assert_eq!(receipt["deliveries"]["handled"], 1, "{receipt}");
    assert_eq!(listening.stop().await, Some(0));
    setup.assert_complete(&selection(&setup));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_before_a_crash_is_read_after_it() {
    let mut setup = owned(903).await;
    setup.set("GITLAB_WEBHOOK_SECRET", SECRET);
    let mut listening = Listening::start(&setup, "127.0.0.1:0", &[]).await;
    listening.receipt("sync").await;
    let (project, iid) = open_merge_request(&setup);
    setup
        .gitlab
        .world()
        .edit_merge_request(project, iid, Some("Before the crash"), None)
        .unwrap();
    let headers = [
        ("x-gitlab-event", "Merge Request Hook"),
        ("x-gitlab-token", SECRET),
        ("idempotency-key", "one"),
    ];
    let (status, _) = listening
        .call("/hooks/gitlab", &headers, &payload(project, iid))
        .await;
    assert_eq!(status, 202);
    listening.child.kill().await.unwrap();
    let mut listening = Listening::start(&setup, "127.0.0.1:0", &[]).await;
    let id = format!("gl:merge_request:{project}/{iid}");
    stored_within(&setup, &id, "Before the crash").await;
    listening.receipt("sync").await;
    assert_eq!(listening.stop().await, Some(0));
    setup.assert_complete(&selection(&setup));
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_that_were_registered_are_listed_and_removed() {
    let setup = owned(904).await;
    let address = free_address().to_string();
    let url = format!("http://{address}");
    let mut listening = Listening::start(&setup, &address, &["--public-url", &url]).await;
    listening.receipt("sync").await;
    assert_eq!(listening.stop().await, Some(0));
    let hooks = setup.gitlab.world().webhooks().len();
    assert!(hooks > 0);
    let listed = setup.runtime(&["hooks", "list", "--json"]).await.expect(0);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let shown = listed["connections"][0]["plan"]["hooks"]
        .as_array()
        .unwrap();
    assert_eq!(shown.len(), hooks, "{listed}");
    let component = dist("gitlab.wasm");
    setup
        .runtime(&["hooks", "remove", component.to_str().unwrap()])
        .await
        .expect(0);
    assert!(setup.gitlab.world().webhooks().is_empty());
    // A second time there is nothing to do, which is no failure.
    setup
        .runtime(&["hooks", "remove", component.to_str().unwrap()])
        .await
        .expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn listening_without_watching_is_a_mistake_that_is_named() {
    let setup = owned(905).await;
    let ran = setup.run(&["--listen", "127.0.0.1:0"]).await.expect(2);
    assert!(ran.stderr.contains("--watch"), "{}", ran.stderr);
    let ran = setup
        .run(&["--watch", "--public-url", "https://x.example"])
        .await
        .expect(2);
    assert!(ran.stderr.contains("--listen"), "{}", ran.stderr);
    let ran = setup
        .run(&["--watch", "--listen", "256.0.0.1:1"])
        .await
        .expect(2);
    assert!(ran.stderr.contains("cannot listen on"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_deliveries_loses_and_doubles_nothing_and_lets_a_sync_through() {
    let setup = owned(906).await;
    let address = free_address().to_string();
    let url = format!("http://{address}");
    let flags = ["--public-url", &url];
    let mut listening = Listening::polling(&setup, "2s", &address, &flags).await;
    listening.receipt("sync").await;
    let storm = setup.gitlab.storm(50, Duration::from_secs(5), 1);
    let (project, iid) = open_merge_request(&setup);
    let id = format!("gl:merge_request:{project}/{iid}");
    setup
        .gitlab
        .world()
        .edit_merge_request(project, iid, Some("In the storm"), None)
        .unwrap();
    stored_within(&setup, &id, "In the storm").await;
    listening.receipt("sync").await;
    storm.finish().await;
    assert!(setup.gitlab.webhooks_settled(PATIENCE).await);
    assert_eq!(listening.stop().await, Some(0));
    setup.assert_complete(&selection(&setup));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_compares_everything_gives_way_to_deliveries_and_goes_on() {
    let slow = gitlab::Options {
        latency: Duration::from_millis(250),
        ..gitlab::Options::default()
    };
    let size = Size {
        projects: 6,
        ..Size::tiny()
    };
    let world = World::generate(907, &size);
    let mut setup = Setup::with(world, slow, cortex::Options::full(KEY)).await;
    setup.set("GITLAB_TOKEN", OWNER_TOKEN);
    setup.run(&[]).await.expect(0);
    let (project, iid) = open_merge_request(&setup);
    let gone = delete_merge_request_beside(&setup, project, iid);
    let id = format!("gl:merge_request:{project}/{iid}");
    let edit = |title: &str| {
        let mut world = setup.gitlab.world();
        world
            .edit_merge_request(project, iid, Some(title), None)
            .unwrap();
    };

    let address = free_address().to_string();
    let url = format!("http://{address}");
    let flags = ["--reconcile", "--public-url", &url];
    let mut listening = Listening::start(&setup, &address, &flags).await;
    // Each change is stored while the pass goes on: its receipt has not come.
    let changing = async {
        for number in 0_u32.. {
            let title = format!("Title number {number} during the pass");
            edit(&title);
            stored_within(&setup, &id, &title).await;
        }
    };
    let mut interrupted = 0_usize;
    let comparing = async {
        loop {
            let receipt = listening.receipt("sync").await;
            if receipt["reconciled"] == true {
                break;
            }
            assert_eq!(receipt["outcome"], "interrupted", "{receipt}");
            interrupted += 1;
        }
    };
    tokio::select! {
        () = comparing => {}
        () = changing => {}
    }
    println!("interrupted {interrupted} times");
    assert!(interrupted > 0, "the pass was too short for this test");
    let last = "The last title";
    edit(last);
    stored_within(&setup, &id, last).await;
    assert_eq!(listening.stop().await, Some(0));
    assert!(!setup.stored().contains_key(&gone), "{gone}");
    setup.assert_complete(&selection(&setup));
}

/// Deletes another merge request than this one; its source id.
fn delete_merge_request_beside(setup: &Setup, project: u64, iid: u64) -> String {
    let mut world = setup.gitlab.world();
    let others = world.projects[&project].merge_requests.keys().copied();
    let other = others.into_iter().find(|other| *other != iid).unwrap();
    world.delete_merge_request(project, other).unwrap();
    format!("gl:merge_request:{project}/{other}")
}
