//! Writing many envelopes so that each one gets a fate: an event id, or a refusal for good.
//!
//! The bulk route answers in several shapes (results for each item, a 207 with failures, or only a count), and a reply may be lost after
//! the write was applied. The rules here make all of them safe:
//!
//! | what comes back | what is done |
//! |---|---|
//! | an event id for an item | the item is written |
//! | nothing about an item | its status is asked by key; unknown means: send again, same body |
//! | a refusal that does not say of which item | the status of each key tells what is stored; the rest is halved until the poison item stands alone |
//! | a refusal of the whole request, bad data | halve it until the poison item stands alone; the others go through |
//! | 409 | another body holds the key: the status names the event that is stored; where none is, the same body is sent again a few times |
//! | a refusal of an item that the server calls retriable | send it again, same body |
//! | 413 | halve it |
//! | 408 | durable already: ask the status |

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use serde_json::Value;

use super::batch::Batch;
use super::client::{BULK_ROUTE, Client, CortexError, Refusal, is_scope_policy};

/// What one request may carry: the documented 1000 items, and 8 MiB so that a slow line still gets an answer within the timeout.
pub const MAX_ITEMS: usize = 1000;
/// See [`MAX_ITEMS`].
pub const MAX_BYTES: usize = 8 << 20;

/// Status requests in flight at a time: enough that a reply of a thousand items without ids costs seconds, few enough for a limit of
/// 300 requests a minute not to turn into a wall of refusals.
const STATUS_AT_ONCE: usize = 16;

/// Conflicts of an item under whose key nothing is stored, after which it is refused for good. One at work on the same key, or an attempt that
/// failed within the server, is over before that.
const MOST_CONFLICTS: u8 = 4;

/// What became of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Stored under this event id, now or by an earlier attempt.
    Stored(String),
    /// Refused for good, with the server's words.
    Refused(String),
}

/// Names an item on the server.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its idempotency key.
    pub key: &'a str,
    /// Its scope.
    pub scope: &'a str,
}

/// The event ids of the fragments of one version, or why one of them is refused.
pub fn event_ids(fates: &[Fate]) -> Result<Vec<&str>, &str> {
    let mut refusal = None;
    let mut ids = Vec::with_capacity(fates.len());
    for fate in fates {
        match fate {
            Fate::Stored(id) => ids.push(id.as_str()),
            Fate::Refused(words) => refusal = Some(words.as_str()),
        }
    }
    refusal.map_or(Ok(ids), Err)
}

enum Reply {
    Stored(String),
    BadData(String),
    Conflict,
    TryAgain,
    /// The scope template does not suit the server: nothing of this run can be written.
    Misconfigured(String),
    /// The permission does not suffice.
    Standing(String),
    Silent,
}

/// A reply to a request of many items, read.
struct Replies {
    /// One for each item.
    of_items: Vec<Reply>,
    /// Some item is refused for good, and nothing says which.
    refuses_an_unnamed_item: bool,
}

impl Client {
    /// Writes a batch in order and returns a fate for each envelope. An error means that nobody knows about the rest: hold the
    /// cursor; the same items under the same keys can be sent again later.
    pub async fn write(&self, batch: &Batch) -> Result<Vec<Fate>, CortexError> {
        let mut progress = Progress::of(batch);
        // A stack of pieces; the first to be sent is on top, so that order is kept.
        let mut pieces: Vec<Vec<usize>> = split_to_limits(batch);
        pieces.reverse();
        let mut attempts = self.attempts();
        while let Some(piece) = pieces.pop() {
            match self.send(batch, &piece).await {
                Ok(replies) => {
                    let unnamed = replies.refuses_an_unnamed_item;
                    let again = self
                        .settle(batch, &piece, replies.of_items, &mut progress)
                        .await?;
                    if again.is_empty() {
                        attempts = self.attempts();
                        continue;
                    }
                    if unnamed {
                        // Each round is smaller than the one before, so this ends without a wait.
                        pieces.extend(halves(&again).into_iter().rev());
                        continue;
                    }
                    let reason = format!(
                        "{} of {} items are not written yet",
                        again.len(),
                        piece.len()
                    );
                    self.wait_before_retry(&mut attempts, reason, None).await?;
                    pieces.push(again);
                }
                // Durable already, or not there at all: the status of each key tells.
                Err(CortexError::Refused(refusal)) if refusal.status == 408 => {
                    let silent = piece.iter().map(|_| Reply::Silent).collect();
                    let again = self.settle(batch, &piece, silent, &mut progress).await?;
                    if !again.is_empty() {
                        self.wait_before_retry(&mut attempts, refusal.to_string(), None)
                            .await?;
                        pieces.push(again);
                    }
                }
                Err(CortexError::Refused(refusal)) if refusal.status == 409 && piece.len() == 1 => {
                    let again = self
                        .settle(batch, &piece, vec![Reply::Conflict], &mut progress)
                        .await?;
                    if again.is_empty() {
                        attempts = self.attempts();
                        continue;
                    }
                    self.wait_before_retry(&mut attempts, refusal.to_string(), None)
                        .await?;
                    pieces.push(again);
                }
                Err(CortexError::Refused(refusal)) => {
                    self.divide(&piece, &refusal, &mut pieces, &mut progress)?;
                }
                Err(other) => return Err(other),
            }
        }
        Ok(progress
            .fates
            .into_iter()
            .map(|fate| fate.unwrap_or_else(|| Fate::Refused("no fate was recorded".into())))
            .collect())
    }

    async fn send(&self, batch: &Batch, piece: &[usize]) -> Result<Replies, CortexError> {
        let body = batch.body(piece);
        let reply = self.call(Method::POST, BULK_ROUTE, Some(body)).await?;
        Ok(read_replies(&reply, piece.len()))
    }

    /// Records what the replies say; returns the items that must be sent again.
    async fn settle(
        &self,
        batch: &Batch,
        piece: &[usize],
        replies: Vec<Reply>,
        progress: &mut Progress,
    ) -> Result<Vec<usize>, CortexError> {
        let unclear: Vec<usize> = piece
            .iter()
            .zip(&replies)
            .filter(|(_, reply)| matches!(reply, Reply::Silent | Reply::Conflict))
            .map(|(&index, _)| index)
            .collect();
        // What speaks about the whole run ends it before anything is asked.
        for (&index, reply) in piece.iter().zip(&replies) {
            match reply {
                Reply::Misconfigured(words) => {
                    return Err(CortexError::Misconfigured(format!(
                        "CortexDB does not accept the scope `{}`: {words}. Change the scope template",
                        batch.place(index).scope
                    )));
                }
                Reply::Standing(words) => return Err(CortexError::Standing(words.clone())),
                _ => {}
            }
        }
        let places: Vec<Place<'_>> = unclear.iter().map(|&index| batch.place(index)).collect();
        let mut stored = self.statuses(&places).await?.into_iter();
        let mut again = Vec::new();
        for (&index, reply) in piece.iter().zip(replies) {
            let place = batch.place(index);
            match reply {
                Reply::Stored(event_id) => progress.fates[index] = Some(Fate::Stored(event_id)),
                Reply::BadData(words) => progress.fates[index] = Some(Fate::Refused(words)),
                Reply::Conflict => match progress.conflict(index, place, stored.next().flatten()) {
                    Some(fate) => progress.fates[index] = Some(fate),
                    None => again.push(index),
                },
                Reply::Silent => match stored.next().flatten() {
                    Some(event_id) => progress.fates[index] = Some(Fate::Stored(event_id)),
                    None => again.push(index),
                },
                Reply::TryAgain | Reply::Misconfigured(_) | Reply::Standing(_) => again.push(index),
            }
        }
        Ok(again)
    }

    fn divide(
        &self,
        piece: &[usize],
        refusal: &Refusal,
        pieces: &mut Vec<Vec<usize>>,
        progress: &mut Progress,
    ) -> Result<(), CortexError> {
        if matches!(refusal.status, 404 | 405) {
            return Err(CortexError::Misconfigured(format!(
                "{} has no bulk route (POST /v1/experience/bulk answers {refusal}). Check CORTEXDB_URL, or update the server",
                self.url()
            )));
        }
        if let [index] = piece {
            progress.fates[*index] = Some(Fate::Refused(refusal.to_string()));
            return Ok(());
        }
        // Where the server names the item, it is set apart at once; its word is checked by sending the item alone.
        let parts = match refusal.index {
            Some(at) if at < piece.len() => [&piece[..at], &piece[at..=at], &piece[at + 1..]]
                .into_iter()
                .filter(|part| !part.is_empty())
                .map(<[usize]>::to_vec)
                .collect(),
            _ => halves(piece),
        };
        pieces.extend(parts.into_iter().rev());
        Ok(())
    }

    /// The events that are stored under these keys, in order; `None` where there is none.
    pub async fn statuses(&self, places: &[Place<'_>]) -> Result<Vec<Option<String>>, CortexError> {
        // Owned futures first: a closure over borrowed items would not be general enough for a task that moves between threads.
        let asked: Vec<_> = places.iter().map(|&place| self.status(place)).collect();
        stream::iter(asked)
            .buffered(STATUS_AT_ONCE)
            .try_collect()
            .await
    }

    /// The event that is stored under a key, if there is one.
    pub async fn status(&self, place: Place<'_>) -> Result<Option<String>, CortexError> {
        let path = format!(
            "/v1/experience/status?idempotency_key={}&scope={}",
            query_value(place.key),
            query_value(place.scope)
        );
        match self.call(Method::GET, &path, None).await {
            Ok(answer) => {
                let found = answer
                    .get("found")
                    .and_then(Value::as_bool)
                    .unwrap_or(false);
                let failed = answer.get("status").and_then(Value::as_str) == Some("failed");
                Ok(event_id(&answer).filter(|_| found && !failed))
            }
            Err(CortexError::Refused(refusal)) if refusal.status == 404 => Ok(None),
            Err(other) => Err(other),
        }
    }
}

/// What is known of the items of a batch so far.
struct Progress {
    fates: Vec<Option<Fate>>,
    /// Of each item, the conflicts under whose key nothing was stored.
    conflicts: Vec<u8>,
}

impl Progress {
    fn of(batch: &Batch) -> Self {
        Self {
            fates: vec![None; batch.len()],
            conflicts: vec![0; batch.len()],
        }
    }

    /// Another body holds this key, and the status names the event that is stored under it. `None`: there is none, and the same body may go
    /// again.
    fn conflict(&mut self, index: usize, place: Place<'_>, stored: Option<String>) -> Option<Fate> {
        if let Some(event_id) = stored {
            return Some(Fate::Stored(event_id));
        }
        self.conflicts[index] += 1;
        (self.conflicts[index] >= MOST_CONFLICTS).then(|| {
            Fate::Refused(format!(
                "409 IDEMPOTENCY_CONFLICT for key {}, and no event is stored under it",
                place.key
            ))
        })
    }
}

/// Two halves of a piece, or the piece alone where it is a single item.
fn halves(piece: &[usize]) -> Vec<Vec<usize>> {
    let (first, second) = piece.split_at(piece.len() / 2);
    [first, second]
        .into_iter()
        .filter(|half| !half.is_empty())
        .map(<[usize]>::to_vec)
        .collect()
}

/// Percent-encodes everything that is not unreserved, for one query value.
pub(crate) fn query_value(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn split_to_limits(batch: &Batch) -> Vec<Vec<usize>> {
    let mut pieces: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for index in 0..batch.len() {
        let full = pieces
            .last()
            .is_none_or(|piece| piece.len() >= MAX_ITEMS || bytes + batch.bytes(index) > MAX_BYTES);
        if full {
            pieces.push(Vec::new());
            bytes = 0;
        }
        bytes += batch.bytes(index) + 1;
        if let Some(piece) = pieces.last_mut() {
            piece.push(index);
        }
    }
    pieces
}

/// The id of an event, under either of its names.
pub(super) fn event_id(value: &Value) -> Option<String> {
    ["event_id", "id"]
        .iter()
        .find_map(|name| value.get(name))
        .and_then(Value::as_str)
        .filter(|id| !id.is_empty())
        .map(str::to_owned)
}

fn read_replies(reply: &Value, count: usize) -> Replies {
    let mut replies: Vec<Reply> = (0..count).map(|_| Reply::Silent).collect();
    let mut refuses_an_unnamed_item = false;
    for list in ["results", "failures", "errors"] {
        let entries = reply
            .get(list)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        for (position, entry) in entries.iter().enumerate() {
            let named = entry
                .get("index")
                .and_then(Value::as_u64)
                .and_then(|index| usize::try_from(index).ok());
            let index = match (named, list) {
                (Some(index), _) => index,
                // Without numbers the place counts, and only where nobody is left out: an id given to the wrong record would be
                // forgotten in its stead one day.
                (None, "results") if entries.len() == count => position,
                (None, "results") => continue,
                // Nobody else can be meant.
                (None, _) if count == 1 => 0,
                (None, _) => {
                    let passing = matches!(read_entry(entry), Reply::TryAgain | Reply::Stored(_));
                    refuses_an_unnamed_item |= !passing;
                    continue;
                }
            };
            if index < count {
                replies[index] = read_entry(entry);
            }
        }
    }
    Replies {
        of_items: replies,
        refuses_an_unnamed_item,
    }
}

/// An outage never dead-letters anything: only codes that speak about the data, or the server's own `retriable: false`, are final.
fn read_entry(entry: &Value) -> Reply {
    let code = entry
        .get("error_code")
        .or_else(|| entry.get("code"))
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_ascii_uppercase();
    let words = ["error", "message"]
        .iter()
        .find_map(|name| entry.get(name))
        .map(|words| {
            words
                .as_str()
                .map_or_else(|| words.to_string(), str::to_owned)
        })
        .unwrap_or_default();
    let said = format!("{code} {words}").trim().to_owned();
    if code.is_empty()
        && let Some(id) = event_id(entry)
    {
        return Reply::Stored(id);
    }
    if said.is_empty() {
        return Reply::Silent;
    }
    let retriable = entry.get("retriable").and_then(Value::as_bool);
    match code.as_str() {
        _ if is_scope_policy(&code) => Reply::Misconfigured(said),
        "POLICY_DENIED" | "NOT_A_MEMBER" | "EXPIRED_TOKEN" | "TOKEN_EXPIRED" | "REVOKED_TOKEN" => {
            Reply::Standing(said)
        }
        _ if retriable == Some(true) => Reply::TryAgain,
        "IDEMPOTENCY_CONFLICT" => Reply::Conflict,
        "INVALID_BODY" | "INVALID_ENVELOPE" | "PAYLOAD_TOO_LARGE" | "BODY_TOO_LARGE"
        | "CONTENT_TOO_LARGE" => Reply::BadData(said),
        _ if retriable == Some(false) => Reply::BadData(said),
        _ => Reply::TryAgain,
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::BatchBuilder;
    use super::super::client::Endpoint;
    use super::*;
    use crate::egress::Policy;
    use crate::http_client;
    use crate::patience::Patience;
    use crate::redact::{Redactor, Secret};
    use serde_json::json;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    struct Unheard;

    impl crate::report::Reporter for Unheard {
        fn event(&self, _: &crate::report::Event) {}
    }

    fn batch(items: usize, bytes: usize) -> Batch {
        let mut builder = BatchBuilder::with_capacity(items, items * bytes);
        for _ in 0..items {
            let json = "x".repeat(bytes);
            builder.push("k".into(), "org:a".into(), |body, _| {
                body.extend_from_slice(json.as_bytes());
            });
        }
        builder.finish()
    }

    fn of_items(reply: &Value, count: usize) -> Vec<Reply> {
        read_replies(reply, count).of_items
    }

    #[test]
    fn a_request_holds_at_most_a_thousand_items_and_eight_mebibytes() {
        assert_eq!(
            split_to_limits(&batch(2500, 10))
                .iter()
                .map(Vec::len)
                .collect::<Vec<_>>(),
            [1000, 1000, 500]
        );
        assert_eq!(
            split_to_limits(&batch(5, 3 << 20))
                .iter()
                .map(Vec::len)
                .collect::<Vec<_>>(),
            [2, 2, 1]
        );
    }

    #[test]
    fn an_item_that_the_reply_does_not_mention_is_not_taken_as_written() {
        let replies = of_items(
            &json!({"accepted": 2, "results": [{"index": 1, "event_id": "evt_1"}]}),
            2,
        );
        assert!(matches!(replies[0], Reply::Silent));
        assert!(matches!(&replies[1], Reply::Stored(id) if id == "evt_1"));
    }

    #[test]
    fn an_unknown_item_error_is_tried_again_and_not_dead_lettered() {
        let replies = of_items(
            &json!({"partial": true, "failures": [{"index": 0, "error_code": "SHARD_MOVING", "error": "later"}]}),
            1,
        );
        assert!(matches!(replies[0], Reply::TryAgain));
    }

    #[test]
    fn an_item_that_the_server_calls_retriable_is_tried_again_whatever_its_code_says() {
        let of = |code: &str, retriable: bool| {
            let failure =
                json!({"index": 0, "error_code": code, "error": "later", "retriable": retriable});
            of_items(&json!({"failures": [failure]}), 1).remove(0)
        };
        for code in ["IDEMPOTENCY_CONFLICT", "INVALID_ENVELOPE", "BODY_TOO_LARGE"] {
            assert!(matches!(of(code, true), Reply::TryAgain), "{code}");
            assert!(!matches!(of(code, false), Reply::TryAgain), "{code}");
        }
        // What speaks about the run and not about the item is no item's to repeat.
        assert!(matches!(of("POLICY_DENIED", true), Reply::Standing(_)));
    }

    #[test]
    fn a_conflict_under_whose_key_nothing_is_stored_is_refused_only_after_a_few_times() {
        let batch = batch(2, 1);
        let mut progress = Progress::of(&batch);
        let mut conflict = |index: usize, stored: Option<&str>| {
            progress.conflict(index, batch.place(index), stored.map(str::to_owned))
        };
        for _ in 1..MOST_CONFLICTS {
            assert_eq!(conflict(0, None), None);
        }
        assert!(matches!(conflict(0, None), Some(Fate::Refused(_))));
        assert_eq!(conflict(1, None), None);
        assert_eq!(conflict(1, Some("e")), Some(Fate::Stored("e".into())));
    }

    /// A client of a server that gives these answers, one after the other and the last one for ever, and how often each route was asked.
    async fn answered_with(
        bulk: &'static [(u16, &'static str)],
        status: &'static str,
    ) -> (Client, Arc<Mutex<[usize; 2]>>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/", listener.local_addr().unwrap());
        let asked: Arc<Mutex<[usize; 2]>> = Arc::default();
        let counts = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 8192];
                let length = stream.read(&mut request).await.unwrap();
                let is_bulk = request[..length].starts_with(b"POST");
                let (code, body) = {
                    let mut counts = counts.lock().unwrap();
                    counts[usize::from(!is_bulk)] += 1;
                    match is_bulk {
                        true => bulk[(counts[0] - 1).min(bulk.len() - 1)],
                        false => (200, status),
                    }
                };
                let head = format!(
                    "HTTP/1.1 {code} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(body.as_bytes()).await;
            }
        });
        let url = url::Url::parse(&base).unwrap();
        let egress = Arc::new(Policy::users_word(&url));
        let http = http_client::build(&url, None, Duration::from_secs(5), &egress).unwrap();
        let endpoint = Endpoint {
            url: base.trim_end_matches('/').to_owned(),
            key: Secret::new("cx-0123456789"),
            actor: None,
        };
        let client = Client::new(
            http,
            endpoint,
            Redactor::default(),
            Arc::new(Patience::new(Some(Duration::from_secs(60)))),
            Arc::default(),
            Arc::new(Unheard),
            CancellationToken::new(),
        );
        (client, asked)
    }

    const CONFLICT: &str =
        r#"{"error_code": "IDEMPOTENCY_CONFLICT", "message": "another body", "retriable": false}"#;
    const STORED: (u16, &str) = (202, r#"{"results": [{"index": 0, "event_id": "evt_1"}]}"#);

    #[tokio::test]
    async fn a_conflict_with_nothing_stored_is_sent_again_and_refused_when_it_stays() {
        let (client, asked) =
            answered_with(&[(409, CONFLICT), STORED], r#"{"found": false}"#).await;
        let fates = client.write(&batch(1, 9)).await.unwrap();
        assert_eq!(fates, [Fate::Stored("evt_1".into())]);
        assert_eq!(*asked.lock().unwrap(), [2, 1]);
        let (client, asked) = answered_with(&[(409, CONFLICT)], r#"{"found": false}"#).await;
        let fates = client.write(&batch(1, 9)).await.unwrap();
        assert!(matches!(&fates[..], [Fate::Refused(words)] if words.starts_with("409")));
        assert_eq!(*asked.lock().unwrap(), [usize::from(MOST_CONFLICTS); 2]);
        let status = r#"{"found": true, "event_id": "evt_2", "status": "captured"}"#;
        let (client, _) = answered_with(&[(409, CONFLICT)], status).await;
        let fates = client.write(&batch(1, 9)).await.unwrap();
        assert_eq!(fates, [Fate::Stored("evt_2".into())]);
    }

    #[tokio::test]
    async fn a_refusal_that_the_server_calls_retriable_passes_whatever_its_status() {
        for (status, code) in [
            (409, "IDEMPOTENCY_CONFLICT"),
            (422, "INVALID_BODY"),
            (423, "LOCKED"),
        ] {
            let body =
                format!(r#"{{"error_code": "{code}", "message": "later", "retriable": true}}"#);
            let bulk: &'static [_] = Vec::from([(status, &*body.leak()), STORED]).leak();
            let (client, asked) = answered_with(bulk, r#"{"found": false}"#).await;
            let fates = client.write(&batch(1, 9)).await.unwrap();
            assert_eq!(fates, [Fate::Stored("evt_1".into())], "{code}");
            assert_eq!(*asked.lock().unwrap(), [2, 0], "{code}");
        }
        let bulk: &[_] = &[(
            403,
            r#"{"error_code": "POLICY_DENIED", "message": "no", "retriable": true}"#,
        )];
        let (client, _) = answered_with(bulk, "{}").await;
        let error = client.write(&batch(1, 9)).await.unwrap_err();
        assert!(matches!(error, CortexError::Forbidden(_)), "{error}");
    }

    #[test]
    fn an_invalid_envelope_is_final() {
        let replies = of_items(
            &json!({"failures": [{"index": 0, "error_code": "invalid_envelope", "error": "blank"}]}),
            1,
        );
        assert!(matches!(&replies[0], Reply::BadData(words) if words == "INVALID_ENVELOPE blank"));
    }

    #[test]
    fn receipts_may_call_the_event_id_id() {
        let replies = of_items(&json!({"results": [{"id": "evt_9"}]}), 1);
        assert!(matches!(&replies[0], Reply::Stored(id) if id == "evt_9"));
    }

    #[test]
    fn a_refusal_without_a_number_accuses_nobody_but_an_item_that_stands_alone() {
        let reply = json!({"results": [{"event_id": "evt_1"}], "failures": [{"error_code": "INVALID_ENVELOPE", "error": "blank"}]});
        let many = read_replies(&reply, 2);
        assert!(many.refuses_an_unnamed_item);
        assert!(many.of_items.iter().all(|r| matches!(r, Reply::Silent)));
        let alone = of_items(&json!({"failures": reply["failures"]}), 1);
        assert!(matches!(&alone[0], Reply::BadData(words) if words == "INVALID_ENVELOPE blank"));
    }

    #[test]
    fn an_unnamed_item_that_is_to_be_tried_again_is_no_reason_to_halve() {
        let reply = json!({"partial": true, "failures": [{"error_code": "SHARD_MOVING", "error": "later"}]});
        assert!(!read_replies(&reply, 2).refuses_an_unnamed_item);
    }

    #[test]
    fn halving_ends_with_single_items_in_their_order() {
        let mut pieces = vec![(0..5).collect::<Vec<usize>>()];
        let mut alone = Vec::new();
        while let Some(piece) = pieces.pop() {
            if let [index] = piece[..] {
                alone.push(index);
            } else {
                pieces.extend(halves(&piece).into_iter().rev());
            }
        }
        assert_eq!(alone, [0, 1, 2, 3, 4]);
    }
}
