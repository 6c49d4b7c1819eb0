//! Webhooks, with a receiver of their own.

mod faults;
mod managing;
mod results;
mod sending;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::gitlab::server::lock;
use crate::gitlab::wire::{self, Request};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const SIGNING: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[derive(Default)]
struct Inbox {
    got: Vec<Request>,
    broken: usize,
    status: u16,
    wait: Duration,
}

/// A receiver that keeps what it gets.
struct Receiver {
    url: String,
    inbox: Arc<Mutex<Inbox>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(stream: TcpStream, inbox: Arc<Mutex<Inbox>>) {
    let (reader, mut writer) = stream.into_split();
    let request = wire::read(&mut BufReader::new(reader)).await;
    let (status, wait) = {
        let mut inbox = lock(&inbox);
        match request {
            Ok(Some(request)) => inbox.got.push(request),
            _ => inbox.broken += 1,
        }
        (inbox.status, inbox.wait)
    };
    tokio::time::sleep(wait).await;
    let reply = Reply::text(status, "text/plain", "seen");
    let _ = wire::write(&mut writer, &reply, false, true, Default::default()).await;
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let inbox = Arc::new(Mutex::new(Inbox {
            status: 200,
            ..Inbox::default()
        }));
        let shared = Arc::clone(&inbox);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receive(stream, Arc::clone(&shared)));
            }
        });
        Self { url, inbox, task }
    }

    fn answer_with(&self, status: u16) {
        lock(&self.inbox).status = status;
    }

    /// What came since the last call.
    fn take(&self) -> Vec<Request> {
        std::mem::take(&mut lock(&self.inbox).got)
    }
}

fn events(got: &[Request]) -> Vec<String> {
    let mut out: Vec<String> = got
        .iter()
        .map(|request| request.header("x-gitlab-event").unwrap_or("").to_owned())
        .collect();
    out.sort();
    out
}

fn content(request: &Request) -> Value {
    serde_json::from_slice(&request.body).expect("JSON")
}

/// A change that must not have been refused.
trait Made {
    fn check(self);
}

impl Made for () {
    fn check(self) {}
}

impl Made for Done {
    fn check(self) {
        self.expect("a change that is possible");
    }
}

/// A server and a receiver.
struct Stage {
    server: Server,
    receiver: Receiver,
    project: u64,
}

impl Stage {
    async fn new(version: &str) -> Self {
        let mut world = tiny();
        version.clone_into(&mut world.knobs.version);
        let project = first_project(&world);
        Self {
            server: Server::start(world, Options::default())
                .await
                .expect("a server"),
            receiver: Receiver::start().await,
            project,
        }
    }

    async fn call(&self, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = reqwest::Client::new()
            .request(method, format!("{}/api/v4{path}", self.server.url()))
            .header("PRIVATE-TOKEN", token);
        if !body.is_null() {
            request = request.json(&body);
        }
        let reply = request.send().await.expect("an answer");
        let status = reply.status().as_u16();
        let text = reply.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Makes a hook with every flag on, and changed as told.
    async fn hook(&self, place: &str, more: Value) -> u64 {
        let mut body = json!({ "url": self.receiver.url, "token": "s3cret" });
        for (_, flag, _, _) in Trigger::ALL {
            body[*flag] = json!(true);
        }
        render::extend(&mut body, more);
        let (status, made) = self.call("POST", place, ADMIN_TOKEN, body).await;
        assert_eq!(status, 201, "{made}");
        made["id"].as_u64().expect("an id")
    }

    async fn project_hook(&self, more: Value) -> u64 {
        self.hook(&format!("/projects/{}/hooks", self.project), more)
            .await
    }

    async fn settle(&self) -> Vec<Request> {
        assert!(self.server.webhooks_settled(PATIENCE).await);
        self.receiver.take()
    }

    /// Changes the world and returns what the receiver got for it.
    async fn after<M: Made>(&self, change: impl FnOnce(&mut World) -> M) -> Vec<Request> {
        change(&mut self.server.world()).check();
        self.settle().await
    }

    fn target(&self) -> Target {
        let world = self.server.world();
        let iid = *world.projects[&self.project]
            .merge_requests
            .keys()
            .next()
            .expect("one");
        Target::merge_request(self.project, iid)
    }

    fn issue(&self) -> Target {
        let world = self.server.world();
        let issues = &world.projects[&self.project].issues;
        let found = issues
            .values()
            .find(|found| found.open && !found.confidential && found.issue_type == "issue");
        Target::issue(self.project, found.expect("a public issue").iid)
    }
}
