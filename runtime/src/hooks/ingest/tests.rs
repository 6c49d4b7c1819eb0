//! The route over real sockets, with a store that tells what it was given.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::hooks::listen;
use crate::host::hooks::Proof;
use crate::redact::Secret;

#[derive(Default)]
struct Desk {
    stored: Mutex<Vec<NewDelivery>>,
    commits: AtomicUsize,
    arrivals: AtomicUsize,
    broken: AtomicBool,
    slow: AtomicBool,
}

#[async_trait]
impl Reception for Desk {
    async fn endpoint(&self, name: &str) -> Result<Option<Arc<Endpoint>>, PlatformError> {
        let endpoint = Endpoint {
            connection: 7,
            owner: name.split_once('-').map(|(owner, _)| owner.to_owned()),
            full: name == "full-gitlab",
            hooks: HooksDescription {
                proofs: vec![
                    Proof::StandardWebhooks,
                    Proof::Header("x-gitlab-token".into()),
                ],
                id_headers: vec!["webhook-id".into(), "idempotency-key".into()],
                headers: vec!["x-gitlab-event".into()],
            },
            secrets: HookSecrets {
                secrets: vec![Secret::new("shared-secret")],
                signing_tokens: vec![Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
            },
        };
        Ok(["gitlab", "loud-gitlab", "quiet-gitlab", "full-gitlab"]
            .contains(&name)
            .then(|| Arc::new(endpoint)))
    }

    /// One connection's secret has just been replaced.
    async fn renewed(&self, name: &str) -> Result<Option<Arc<Endpoint>>, PlatformError> {
        let Some(endpoint) = self.endpoint(name).await? else {
            return Ok(None);
        };
        let mut endpoint = (*endpoint).clone();
        if name == "quiet-gitlab" {
            endpoint.secrets.secrets = vec![Secret::new("newer-secret")];
        }
        Ok(Some(Arc::new(endpoint)))
    }

    async fn receive(
        &self,
        deliveries: &[NewDelivery],
    ) -> Result<Vec<(String, bool)>, PlatformError> {
        if self.slow.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if self.broken.load(Ordering::SeqCst) {
            return Err(PlatformError::Missing("disk"));
        }
        self.commits.fetch_add(1, Ordering::SeqCst);
        let mut stored = self.stored.lock().unwrap();
        let answers = deliveries.iter().map(|one| {
            let is_new = !stored.iter().any(|other| other.key == one.key);
            if is_new {
                stored.push(one.clone());
            }
            (one.key.clone(), is_new)
        });
        Ok(answers.collect())
    }

    fn arrived(&self) {
        self.arrivals.fetch_add(1, Ordering::SeqCst);
    }

    fn failed(&self, _words: &str) {}
}

struct Server {
    desk: Arc<Desk>,
    address: String,
    stop: CancellationToken,
}

impl Server {
    async fn start() -> Self {
        let desk = Arc::new(Desk::default());
        let (ingest, _) = Ingest::start(Arc::clone(&desk) as Arc<dyn Reception>);
        let (listener, address) = listen::bind("127.0.0.1:0").await.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(listen::serve(listener, ingest.router(), stop.clone()));
        Self {
            desk,
            address: address.to_string(),
            stop,
        }
    }

    /// Sends these bytes and reads until the other side has nothing more to say.
    async fn say(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let _ = stream.write_all(text.as_bytes()).await;
        let mut answer = Vec::new();
        let _ =
            tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn call(&self, path: &str, headers: &str, body: &str) -> String {
        self.say(&format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
            body.len()
        ))
        .await
    }

    fn keys(&self) -> Vec<String> {
        let stored = self.desk.stored.lock().unwrap();
        stored.iter().map(|one| one.key.clone()).collect()
    }
}

const PROOF: &str = "x-gitlab-token: shared-secret\r\n";

fn status(answer: &str) -> &str {
    answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .unwrap_or("none")
}

#[tokio::test]
async fn a_proved_call_is_stored_before_it_is_answered_with_nothing() {
    let server = Server::start().await;
    let headers =
        format!("{PROOF}idempotency-key: one\r\nx-gitlab-event: Note Hook\r\nx-other: a\r\n");
    let answer = server.call("/hooks/gitlab", &headers, "{}").await;
    assert_eq!(status(&answer), "202", "{answer}");
    assert!(answer.contains("content-length: 0"), "{answer}");
    let stored = server.desk.stored.lock().unwrap().clone();
    assert_eq!(stored.len(), 1);
    assert_eq!((stored[0].connection, stored[0].key.as_str()), (7, "one"));
    assert_eq!(stored[0].body, b"{}");
    assert_eq!(
        stored[0].headers,
        serde_json::json!({"x-gitlab-event": "Note Hook"})
    );
    assert_eq!(stored[0].trace.len(), 32);
    assert_eq!(server.desk.arrivals.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_same_call_again_is_taken_and_wakes_nobody() {
    let server = Server::start().await;
    let headers = format!("{PROOF}idempotency-key: one\r\n");
    for _ in 0..2 {
        let answer = server.call("/hooks/gitlab", &headers, "{}").await;
        assert_eq!(status(&answer), "202");
    }
    assert_eq!(server.keys(), ["one"]);
    assert_eq!(server.desk.arrivals.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_proves_nothing_is_refused_without_a_word() {
    let server = Server::start().await;
    for headers in [
        "",
        "x-gitlab-token: other\r\n",
        "x-gitlab-token: shared-secret\r\nwebhook-id: a\r\nwebhook-timestamp: 1614265330\r\nwebhook-signature: v1,AAAA\r\n",
    ] {
        let answer = server.call("/hooks/gitlab", headers, "{}").await;
        assert_eq!(status(&answer), "401", "{headers}: {answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }
    for path in ["/hooks/other", "/hooks/", "/hooks", "/", "/hooks/gitlab/x"] {
        let answer = server.call(path, PROOF, "{}").await;
        assert_eq!(status(&answer), "404", "{path}: {answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }
    assert!(server.keys().is_empty());
}

#[tokio::test]
async fn a_secret_that_was_replaced_a_moment_ago_is_taken() {
    let server = Server::start().await;
    let newer = "x-gitlab-token: newer-secret\r\n";
    let answer = server.call("/hooks/quiet-gitlab", newer, "{}").await;
    assert_eq!(status(&answer), "202", "{answer}");
    let answer = server.call("/hooks/gitlab", newer, "{}").await;
    assert_eq!(status(&answer), "401", "{answer}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_told_or_untold() {
    let server = Server::start().await;
    let told = format!(
        "POST /hooks/gitlab HTTP/1.1\r\nhost: x\r\n{PROOF}content-length: {}\r\n\r\n",
        MAX_BODY_BYTES + 1
    );
    assert_eq!(status(&server.say(&told).await), "413");
    let mut untold = format!(
        "POST /hooks/gitlab HTTP/1.1\r\nhost: x\r\n{PROOF}transfer-encoding: chunked\r\n\r\n"
    );
    let piece = "x".repeat(1 << 20);
    for _ in 0..26 {
        untold.push_str(&format!("{:x}\r\n{piece}\r\n", piece.len()));
    }
    untold.push_str("0\r\n\r\n");
    let answer = server.say(&untold).await;
    // Whoever still sends may find the connection closed before it reads the answer.
    assert!(
        ["413", "none"].contains(&status(&answer)),
        "{}",
        status(&answer)
    );
    assert!(server.keys().is_empty());
}

#[tokio::test]
async fn other_methods_are_not_allowed() {
    let server = Server::start().await;
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        let answer = server
            .say(&format!(
                "{method} /hooks/gitlab HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            ))
            .await;
        assert_eq!(status(&answer), "405", "{method}: {answer}");
    }
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_with_a_time_to_come_back() {
    let server = Server::start().await;
    server.desk.broken.store(true, Ordering::SeqCst);
    let answer = server.call("/hooks/gitlab", PROOF, "{}").await;
    assert_eq!(status(&answer), "503", "{answer}");
    assert!(answer.contains("retry-after: 5"), "{answer}");
    server.desk.broken.store(false, Ordering::SeqCst);
    let answer = server.call("/hooks/full-gitlab", PROOF, "{}").await;
    assert_eq!(status(&answer), "503", "its inbox is full: {answer}");
    assert!(server.keys().is_empty());
}

#[tokio::test]
async fn calls_that_come_together_share_a_commit() {
    let server = Arc::new(Server::start().await);
    server.desk.slow.store(true, Ordering::SeqCst);
    let calls = (0..40).map(|number| {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let headers = format!("{PROOF}idempotency-key: call-{number}\r\n");
            let answer = server.call("/hooks/gitlab", &headers, "{}").await;
            status(&answer).to_owned()
        })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), "202");
    }
    assert_eq!(server.keys().len(), 40);
    let commits = server.desk.commits.load(Ordering::SeqCst);
    assert!(commits < 20, "{commits} commits for 40 calls");
}

#[tokio::test]
async fn what_is_being_answered_when_the_end_comes_is_answered() {
    let server = Server::start().await;
    server.desk.slow.store(true, Ordering::SeqCst);
    let stop = server.stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.cancel();
    });
    let answer = server.call("/hooks/gitlab", PROOF, "{}").await;
    assert_eq!(status(&answer), "202", "{answer}");
    assert!(TcpStream::connect(&server.address).await.is_err());
}

/// A call whose body does not come to its end.
async fn half_a_call(server: &Server, path: &str, told: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{PROOF}content-length: {told}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // Whoever is refused meanwhile finds the connection closed.
    let _ = stream.write_all(&vec![b'x'; sent]).await;
    stream
}

/// Asks until the answer is this one.
async fn until_answered(server: &Server, path: &str, wanted: &str) {
    for _ in 0..200 {
        if status(&server.call(path, PROOF, "{}").await) == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{path} is never answered with {wanted}");
}

#[tokio::test]
async fn slow_calls_to_one_owner_take_no_place_of_another() {
    let server = Server::start().await;
    let mut held = Vec::new();
    for _ in 0..CALLS_OF_ONE {
        held.push(half_a_call(&server, "/hooks/loud-gitlab", 10, 1).await);
    }
    until_answered(&server, "/hooks/loud-gitlab", "503").await;
    let answer = server.call("/hooks/quiet-gitlab", PROOF, "{}").await;
    assert_eq!(status(&answer), "202", "{answer}");
    drop(held);
    until_answered(&server, "/hooks/loud-gitlab", "202").await;
}

#[tokio::test]
async fn large_bodies_to_one_owner_take_no_room_of_another() {
    let server = Server::start().await;
    let large = MAX_BODY_BYTES;
    // There is room for one of them; the other is closed, with an answer or while it is still being sent.
    let (mut one, mut other) = tokio::join!(
        half_a_call(&server, "/hooks/loud-gitlab", large, large - 1),
        half_a_call(&server, "/hooks/loud-gitlab", large, large - 1)
    );
    let (mut from_one, mut from_other) = ([0; 12], [0; 12]);
    let (read, answer) = tokio::select! {
        read = one.read(&mut from_one) => (read, from_one),
        read = other.read(&mut from_other) => (read, from_other),
    };
    if matches!(read, Ok(12)) {
        assert_eq!(&answer, b"HTTP/1.1 503");
    }
    let body = "x".repeat(large / 2);
    let answer = server.call("/hooks/quiet-gitlab", PROOF, &body).await;
    assert_eq!(status(&answer), "202", "{answer}");
}

#[tokio::test]
async fn whoever_sends_its_body_drop_by_drop_is_cut_off() {
    let server = Server::start().await;
    let began = tokio::time::Instant::now();
    let mut stream = half_a_call(&server, "/hooks/gitlab", 1000, 0).await;
    let (mut reads, mut writes) = stream.split();
    let dripping = async {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            if writes.write_all(b"x").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut answer = [0; 12];
    tokio::select! {
        () = dripping => {}
        read = reads.read_exact(&mut answer) => { read.unwrap(); }
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert!(began.elapsed() <= WHOLE + IDLE, "{:?}", began.elapsed());
    assert!(server.keys().is_empty());
}

#[test]
fn a_call_is_named_by_the_first_header_that_is_there_or_by_its_bytes_for_a_minute() {
    let names = ["webhook-id".to_owned(), "idempotency-key".to_owned()];
    let mut headers = HeaderMap::new();
    headers.insert("idempotency-key", HeaderValue::from_static("second"));
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    assert_eq!(key_of(&names, &headers, b"{}", at(0)), "second");
    headers.insert("webhook-id", HeaderValue::from_static("first"));
    assert_eq!(key_of(&names, &headers, b"{}", at(0)), "first");
    headers.insert("webhook-id", "x".repeat(5000).parse().unwrap());
    let long = key_of(&names, &headers, b"{}", at(0));
    assert!(
        long.starts_with("sha256:") && long.len() <= MAX_KEY_BYTES,
        "{long}"
    );
    let unnamed = |body: &[u8], seconds| key_of(&names, &HeaderMap::new(), body, at(seconds));
    assert_eq!(unnamed(b"{}", 0), unnamed(b"{}", 59));
    assert_ne!(unnamed(b"{}", 0), unnamed(b"{}", 60));
    assert_ne!(unnamed(b"{}", 0), unnamed(b"[]", 0));
    assert!(unnamed(b"{}", u64::from(u32::MAX)).len() <= MAX_KEY_BYTES);
}
