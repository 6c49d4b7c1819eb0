//! `POST /hooks/{connection}`: from a call to a delivery that survives a power failure, and only then the answer.
//!
//! Each durable commit costs milliseconds, however much is in it. So calls do not commit for themselves: they stand in a queue, and one loop
//! takes whatever has come meanwhile and commits it at once. The busier it is, the more calls share a commit.
//!
//! Whoever calls may be anybody. Before a call is proved it can cost this process one place of [`CALLS`], a share of [`BODIES_KIB`] and
//! [`WHOLE`]; a shared secret is judged before the body is read. What cannot be taken is refused with 503 and a time to come back: a
//! source that was told 2xx never sends again, and one that was told anything else may.
//!
//! Where many share a process, each owner's calls have a small part of the places and of the room ([`CALLS_OF_ONE`], [`BODIES_OF_ONE_KIB`]): slow
//! bodies to the hooks of one take nothing from another.
//!
//! Answers say nothing: a connection that does not exist is 404, a call that proves nothing is 401, both empty.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Router, http};
use connector_store::platform::{NewDelivery, PlatformError};
use futures_util::StreamExt as _;
use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc, oneshot};

use super::proof::{Early, HookSecrets};
use crate::host::hooks::HooksDescription;

/// The largest body: GitLab sends no larger one.
pub const MAX_BODY_BYTES: usize = 25 << 20;
/// The most of all bodies that are being read or wait to be stored, in KiB.
const BODIES_KIB: usize = 256 << 10;
/// Calls at the same time.
const CALLS: usize = 512;
/// Of those, the calls of one owner.
const CALLS_OF_ONE: usize = CALLS / 16;
/// The bodies of one owner, in KiB: room for one of the largest size.
const BODIES_OF_ONE_KIB: usize = BODIES_KIB / 8;
/// Owners whose shares are remembered before those that nobody uses are let go.
const MOST_SHARES: usize = 1024;
/// How long a call waits for a place before it is refused: bursts pass. Sources wait ten seconds for an answer.
const FOR_A_PLACE: Duration = Duration::from_secs(3);
/// Calls that wait to be stored.
const QUEUE: usize = 1024;
/// Calls of one commit.
const GROUP: usize = 256;
/// Without a piece of the body.
const IDLE: Duration = Duration::from_secs(10);
/// For the whole body.
const WHOLE: Duration = Duration::from_secs(30);
/// When whoever was refused for want of room may come back, in seconds.
const COME_BACK: &str = "5";
/// Longest name of a call, as the store takes it.
const MAX_KEY_BYTES: usize = 256;
/// Longest value of a header that the connector is given.
const MAX_HEADER_BYTES: usize = 1024;
/// Longest name of a connection in a path.
const MAX_NAME_BYTES: usize = 128;
/// A call without a name is the same call if its bytes come again within this time.
const UNNAMED_WITHIN: Duration = Duration::from_secs(60);

/// What must be known of a connection to take its calls.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Row of the ledger.
    pub connection: i64,
    /// Whose it is, where several share this process.
    pub owner: Option<String>,
    /// It has so many deliveries to follow that it takes no more for now.
    pub full: bool,
    /// What the connector says of its webhooks.
    pub hooks: HooksDescription,
    /// What calls are proved with.
    pub secrets: HookSecrets,
}

/// Who takes calls: one connection of `runtime run`, or a platform with many.
#[async_trait]
pub trait Reception: Send + Sync {
    /// The connection of this name in the path. `None`: there is none that takes calls.
    async fn endpoint(&self, name: &str) -> Result<Option<Arc<Endpoint>>, PlatformError>;
    /// The same, for a call that proved nothing by what was known: as it is now. `None`: there is none, or it does not change.
    async fn renewed(&self, _name: &str) -> Result<Option<Arc<Endpoint>>, PlatformError> {
        Ok(None)
    }
    /// Stores deliveries durably, as [`connector_store::platform::Platform::receive`].
    async fn receive(
        &self,
        deliveries: &[NewDelivery],
    ) -> Result<Vec<(String, bool)>, PlatformError>;
    /// New deliveries were stored. Must be quick.
    fn arrived(&self);
    /// Something failed that the caller is not told. The words hold no secret.
    fn failed(&self, words: &str);
}

/// What became of a call that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    Yes,
    /// The connection is gone.
    Gone,
    Failed,
}

struct Call {
    delivery: NewDelivery,
    /// Given back when it is stored.
    _room: Taken,
    answer: oneshot::Sender<Stored>,
}

/// Places for calls and room for their bodies.
struct Room {
    calls: Semaphore,
    bodies: Arc<Semaphore>,
}

impl Room {
    async fn place(&self) -> Result<SemaphorePermit<'_>, Refused> {
        match tokio::time::timeout(FOR_A_PLACE, self.calls.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(Refused::Busy),
        }
    }

    fn new(calls: usize, bodies_kib: usize) -> Self {
        Self {
            calls: Semaphore::new(calls),
            bodies: Arc::new(Semaphore::new(bodies_kib)),
        }
    }
}

/// Room that the bytes of a body take: of everybody's, and of its owner's share.
#[derive(Default)]
struct Taken {
    kib: usize,
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Taken {
    /// Takes what is missing to so much.
    fn grow(&mut self, kib: usize, rooms: &[&Room]) -> Result<(), Refused> {
        let Some(more) = kib.checked_sub(self.kib).filter(|more| *more > 0) else {
            return Ok(());
        };
        let permits = u32::try_from(more).map_err(|_| Refused::TooLarge)?;
        for room in rooms {
            let permit = Arc::clone(&room.bodies).try_acquire_many_owned(permits);
            self._permits.push(permit.map_err(|_| Refused::Busy)?);
        }
        self.kib = kib;
        Ok(())
    }
}

/// Takes calls. Cheap to clone.
#[derive(Clone)]
pub struct Ingest {
    reception: Arc<dyn Reception>,
    queue: mpsc::Sender<Call>,
    room: Arc<Room>,
    shares: Arc<Mutex<HashMap<String, Arc<Room>>>>,
}

impl Ingest {
    /// Starts the loop that stores; it ends when the last clone is gone and everything is stored.
    #[must_use]
    pub fn start(reception: Arc<dyn Reception>) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, calls) = mpsc::channel(QUEUE);
        let storing = tokio::spawn(store(Arc::clone(&reception), calls));
        let ingest = Self {
            reception,
            queue,
            room: Arc::new(Room::new(CALLS, BODIES_KIB)),
            shares: Arc::default(),
        };
        (ingest, storing)
    }

    /// The route.
    pub fn router(self) -> Router {
        Router::new()
            .route("/hooks/{connection}", post(take))
            .with_state(self)
    }

    /// What a call that proved nothing may be judged by once more: its secret may be newer than what is known.
    async fn renewed(&self, name: &str) -> Result<Option<Arc<Endpoint>>, Refused> {
        let renewed = self.reception.renewed(name).await;
        renewed.map_err(|error| self.cannot_judge(&error))
    }

    /// What is known of the connection cannot be told now.
    fn cannot_judge(&self, error: &PlatformError) -> Refused {
        let words = format!("a webhook call was refused: {error}");
        self.reception.failed(&words);
        Refused::Busy
    }

    fn share_of(&self, owner: &str) -> Arc<Room> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(owner) {
            return Arc::clone(share);
        }
        if shares.len() >= MOST_SHARES {
            shares.retain(|_, share| Arc::strong_count(share) > 1);
        }
        let share = Arc::new(Room::new(CALLS_OF_ONE, BODIES_OF_ONE_KIB));
        shares.insert(owner.to_owned(), Arc::clone(&share));
        share
    }

    async fn take(&self, name: &str, headers: &HeaderMap, body: Body) -> Result<(), Refused> {
        if name.len() > MAX_NAME_BYTES {
            return Err(Refused::Unknown);
        }
        let endpoint = self.reception.endpoint(name).await;
        let endpoint = endpoint.map_err(|error| self.cannot_judge(&error))?;
        let endpoint = endpoint.ok_or(Refused::Unknown)?;
        if endpoint.full {
            return Err(Refused::Busy);
        }
        // Whoever waits for a place of its owner's keeps none from others.
        let share = endpoint.owner.as_deref().map(|owner| self.share_of(owner));
        let _share = match &share {
            Some(share) => Some(share.place().await?),
            None => None,
        };
        let _place = self.room.place().await?;
        let judge = |endpoint: &Endpoint| {
            let proofs = &endpoint.hooks.proofs;
            endpoint.secrets.before_the_body(proofs, headers)
        };
        let mut endpoint = endpoint;
        let mut early = judge(&endpoint);
        if early == Early::Refused
            && let Some(renewed) = self.renewed(name).await?
        {
            endpoint = renewed;
            early = judge(&endpoint);
        }
        if early == Early::Refused {
            return Err(Refused::Unproven);
        }
        let rooms: Vec<&Room> = [Some(&self.room), share.as_ref()]
            .into_iter()
            .flatten()
            .map(AsRef::as_ref)
            .collect();
        let (body, room) = tokio::time::timeout(WHOLE, read(headers, body, &rooms))
            .await
            .map_err(|_| Refused::Slow)??;
        let now = SystemTime::now();
        if early == Early::Signed && !endpoint.secrets.is_signed(headers, &body, now) {
            let renewed = self.renewed(name).await?;
            endpoint = renewed.ok_or(Refused::Unproven)?;
            if !endpoint.secrets.is_signed(headers, &body, now) {
                return Err(Refused::Unproven);
            }
        }
        let (answer, stored) = oneshot::channel();
        let call = Call {
            delivery: NewDelivery {
                connection: endpoint.connection,
                key: key_of(&endpoint.hooks.id_headers, headers, &body, now),
                headers: wanted(&endpoint.hooks.headers, headers),
                body,
                trace: format!("{:032x}", fastrand::u128(1..)),
            },
            _room: room,
            answer,
        };
        self.queue.try_send(call).map_err(|_| Refused::Busy)?;
        match stored.await {
            Ok(Stored::Yes) => Ok(()),
            Ok(Stored::Gone) => Err(Refused::Unknown),
            Ok(Stored::Failed) | Err(_) => Err(Refused::Busy),
        }
    }
}

/// Reads a body, and takes room for it as it comes.
async fn read(
    headers: &HeaderMap,
    body: Body,
    rooms: &[&Room],
) -> Result<(Vec<u8>, Taken), Refused> {
    let told = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if told.is_some_and(|told| told > MAX_BODY_BYTES as u64) {
        return Err(Refused::TooLarge);
    }
    let mut bytes = Vec::new();
    let mut taken = Taken::default();
    let mut pieces = body.into_data_stream();
    loop {
        let piece = tokio::time::timeout(IDLE, pieces.next())
            .await
            .map_err(|_| Refused::Slow)?;
        let Some(piece) = piece else {
            return Ok((bytes, taken));
        };
        let piece = piece.map_err(|_| Refused::Broken)?;
        let size = bytes.len() + piece.len();
        if size > MAX_BODY_BYTES {
            return Err(Refused::TooLarge);
        }
        taken.grow(size.div_ceil(1024), rooms)?;
        bytes.extend_from_slice(&piece);
    }
}

/// Why a call is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Unknown,
    Unproven,
    TooLarge,
    Slow,
    Broken,
    Busy,
}

impl Refused {
    fn status(self) -> StatusCode {
        match self {
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::Unproven => StatusCode::UNAUTHORIZED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

async fn take(
    State(ingest): State<Ingest>,
    Path(name): Path<String>,
    request: http::Request<Body>,
) -> Response {
    let (parts, body) = request.into_parts();
    let Err(refused) = ingest.take(&name, &parts.headers, body).await else {
        return StatusCode::ACCEPTED.into_response();
    };
    let mut response = refused.status().into_response();
    let headers = response.headers_mut();
    if refused == Refused::Busy {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(COME_BACK));
    }
    // The rest of the body, if there is one, is not read: the connection cannot be used again.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Stores what has come, again and again.
async fn store(reception: Arc<dyn Reception>, mut queue: mpsc::Receiver<Call>) {
    let mut calls = Vec::with_capacity(GROUP);
    while queue.recv_many(&mut calls, GROUP).await > 0 {
        let (mut group, mut answers) = (Vec::new(), Vec::new());
        for call in calls.drain(..) {
            group.push(call.delivery);
            answers.push((call.answer, call._room));
        }
        match reception.receive(&group).await {
            Ok(ids) => {
                if ids.iter().any(|(_, is_new)| *is_new) {
                    reception.arrived();
                }
                let mut ids = ids.into_iter();
                for (answer, _room) in answers {
                    let fate = match ids.next() {
                        Some((id, _)) if id.is_empty() => Stored::Gone,
                        Some(_) => Stored::Yes,
                        None => Stored::Failed,
                    };
                    let _ = answer.send(fate);
                }
            }
            Err(error) => {
                reception.failed(&format!(
                    "{} webhook calls could not be stored and were refused: {error}",
                    answers.len()
                ));
                for (answer, _room) in answers {
                    let _ = answer.send(Stored::Failed);
                }
            }
        }
    }
}

/// What names a call. A source that gives it no name may send the same bytes about another change (a custom template may say no more than
/// that something happened), so bytes name a call only within a minute.
fn key_of(id_headers: &[String], headers: &HeaderMap, body: &[u8], now: SystemTime) -> String {
    let named = id_headers
        .iter()
        .filter_map(|name| headers.get(name.as_str()))
        .map(HeaderValue::as_bytes)
        .find(|value| !value.is_empty());
    match named {
        Some(value) => match std::str::from_utf8(value) {
            Ok(text) if text.len() <= MAX_KEY_BYTES && is_printable(text) => text.to_owned(),
            _ => crate::digest::fingerprint(value),
        },
        None => {
            let minute = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
                / UNNAMED_WITHIN.as_secs();
            format!("{}@{minute}", crate::digest::fingerprint(body))
        }
    }
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

/// Those of the wanted headers that are there, bounded.
fn wanted(names: &[String], headers: &HeaderMap) -> Value {
    let mut found = Map::new();
    for name in names {
        if let Some(value) = headers.get(name.as_str()) {
            let bytes = value.as_bytes();
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_HEADER_BYTES)]);
            found.insert(name.clone(), Value::String(text.into_owned()));
        }
    }
    Value::Object(found)
}

#[cfg(test)]
mod tests;
