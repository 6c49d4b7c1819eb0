//! `--watch` outlives what is down when it starts.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use simulators::cortex::{self, Fault as CortexFault, FaultRule};
use simulators::gitlab::{self, Fault, Rule, Size, World};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use crate::setup::{KEY, Setup};

const WATCH: [&str; 5] = ["--watch", "--interval", "1", "--patience", "1s"];

/// A program that watches, and its receipts.
struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watching {
    fn start(setup: &Setup) -> Self {
        let mut child = setup.start(&WATCH);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The outcome of the next cycle.
    async fn outcome(&mut self) -> String {
        loop {
            let line = self.lines.next_line().await.unwrap();
            let line = line.expect("watching ended");
            crate::secrets::assert_none_in(&line);
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            if event["event"] == "receipt" {
                return event["outcome"].as_str().unwrap().to_owned();
            }
        }
    }

    async fn stop(mut self) -> Option<i32> {
        let process = self.child.id().unwrap().to_string();
        let killed = std::process::Command::new("kill")
            .args(["-TERM", &process])
            .status();
        assert!(killed.unwrap().success());
        while self.lines.next_line().await.unwrap().is_some() {}
        self.child.wait().await.unwrap().code()
    }

    /// Fails until the world is mended, and then completes.
    async fn expect_healing(mut self, mend: impl AsyncFnOnce()) {
        for _ in 0..2 {
            assert_eq!(self.outcome().await, "failed");
        }
        mend().await;
        let mut outcome = self.outcome().await;
        for _ in 0..3 {
            if outcome == "complete" {
                break;
            }
            outcome = self.outcome().await;
        }
        assert_eq!(outcome, "complete");
        assert_eq!(self.stop().await, Some(0));
    }
}

/// An address where nobody listens yet.
fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cortexdb_that_is_not_there_at_the_start_is_waited_for() {
    let mut setup = Setup::tiny(321).await;
    let address = closed_port();
    setup.set("CORTEXDB_URL", &format!("http://{address}"));
    let watching = Watching::start(&setup);
    watching
        .expect_healing(async || {
            let options = cortex::Options {
                listen: address,
                ..cortex::Options::full(KEY)
            };
            setup.cortex = cortex::Server::start(options).await.unwrap();
        })
        .await;
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cortexdb_that_refuses_everything_at_the_start_is_waited_for() {
    let setup = Setup::tiny(322).await;
    setup
        .cortex
        .cortex()
        .add_fault(FaultRule::anywhere(CortexFault::unavailable()));
    let watching = Watching::start(&setup);
    watching
        .expect_healing(async || setup.cortex.cortex().clear_faults())
        .await;
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gitlab_that_is_not_there_at_the_start_is_waited_for() {
    let mut setup = Setup::tiny(323).await;
    let address = closed_port();
    setup.set("GITLAB_URL", &format!("http://{address}"));
    let watching = Watching::start(&setup);
    watching
        .expect_healing(async || {
            let options = gitlab::Options {
                listen: address,
                ..gitlab::Options::default()
            };
            let world = World::generate(323, &Size::tiny());
            setup.gitlab = gitlab::Server::start(world, options).await.unwrap();
        })
        .await;
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gitlab_that_fails_everything_at_the_start_is_waited_for() {
    let setup = Setup::tiny(324).await;
    setup
        .gitlab
        .add_fault(Rule::new("/api/v4/", Fault::BadGateway));
    let watching = Watching::start(&setup);
    watching
        .expect_healing(async || setup.gitlab.set_faults(vec![]))
        .await;
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_exist_ends_the_watch_at_its_first_cycle() {
    let mut setup = Setup::tiny(325).await;
    setup.set("GITLAB_PROJECT_IDS", "no/such/project");
    let ended = setup.run(&WATCH).await.expect(2);
    assert_eq!(ended.receipt()["outcome"], "misconfigured");
}
