//! Sending: in the background, in parallel, once.
//!
//! A task takes events from the queue; each becomes a task of its own that waits for a free worker, builds the body from the world as
//! it is then, sends it and writes down what came back. Nothing is sent twice unless a fault or a person asks for it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use super::faults::Forgery;
use super::payload::fill;
use super::post::{Outcome, post};
use super::{Announcement, HookOwner, Job, Sent, Trigger, signature};
use crate::gitlab::clock::Micros;
use crate::gitlab::reply::Reply;
use crate::gitlab::server::lock;
use crate::gitlab::world::World;

/// Deliveries on their way at once, as with a few Sidekiq processes.
const WORKERS: usize = 64;
/// Bodies above this are not sent.
const BODY_LIMIT: usize = 25 << 20;
/// A signing key that is nobody's.
const WRONG_KEY: &str = "whsec_d3JvbmctLXdyb25nLS13cm9uZy0td3JvbmctLXdyb24=";

/// A request of the API that is answered when a delivery was.
#[derive(Clone, Debug)]
pub(crate) enum Errand {
    /// `…/test/:trigger`.
    Test(Job),
    /// `…/events/:id/resend`.
    Resend(Job),
    /// `POST /hooks/:id`: answered with the body, whatever the receiver said.
    SystemTest(Job, Value),
}

/// A delivery ready to be sent.
struct Parcel {
    hook: u64,
    trigger: Trigger,
    url: String,
    headers: Vec<(String, String)>,
    /// As it is logged: without secrets.
    shown: Vec<(String, String)>,
    body: String,
    /// What is sent of the body, if a fault cuts it.
    sent: Vec<u8>,
    break_off: Option<usize>,
    /// Why it will not be sent after all.
    refused: Option<String>,
    key: String,
    at: Micros,
    queued: Instant,
    forged: Option<Forgery>,
    timeout: Duration,
}

/// Counts a job as on its way until it is dropped, also with the server.
struct Flight(Arc<Mutex<World>>);

impl Drop for Flight {
    fn drop(&mut self) {
        let mut world = lock(&self.0);
        world.webhooks.in_flight = world.webhooks.in_flight.saturating_sub(1);
    }
}

/// Delivers until it is dropped.
pub(crate) async fn run(world: Arc<Mutex<World>>) {
    let wake = Arc::clone(&lock(&world).webhooks.wake);
    let workers = Arc::new(Semaphore::new(WORKERS));
    let mut tasks = JoinSet::new();
    loop {
        let jobs: Vec<Job> = {
            let webhooks = &mut lock(&world).webhooks;
            webhooks.in_flight += webhooks.queue.len();
            webhooks.queue.drain(..).collect()
        };
        for job in jobs {
            let flight = Flight(Arc::clone(&world));
            tasks.spawn(carry(flight, job, Arc::clone(&workers)));
        }
        tokio::select! {
            () = wake.notified() => {}
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn carry(flight: Flight, job: Job, workers: Arc<Semaphore>) {
    let world = &flight.0;
    let fate = lock(world).webhooks.fate();
    if fate.dropped {
        lock(world).webhooks.counts.dropped += 1;
        return;
    }
    tokio::time::sleep(fate.wait).await;
    let Ok(_worker) = workers.acquire().await else {
        return;
    };
    for _ in 0..fate.copies {
        if deliver(world, &job, None).await.is_none() {
            lock(world).webhooks.counts.lost += 1;
        }
    }
    for forgery in fate.forge {
        deliver(world, &job, Some(forgery)).await;
    }
}

/// Sends one delivery and writes it down; `None` if there was nothing to send, or nobody to send it to.
async fn deliver(world: &Mutex<World>, job: &Job, forgery: Option<Forgery>) -> Option<Sent> {
    let parcel = lock(world).pack(job, forgery)?;
    let started = Instant::now();
    let outcome = match &parcel.refused {
        Some(why) => Err(why.clone()),
        None => {
            post(
                &parcel.url,
                &parcel.headers,
                &parcel.sent,
                parcel.break_off,
                parcel.timeout,
            )
            .await
        }
    };
    Some(lock(world).settle(parcel, outcome, started.elapsed()))
}

/// Sends what an API request asked for, and answers it.
pub(crate) async fn run_errand(world: &Arc<Mutex<World>>, errand: Errand) -> Reply {
    let job = match &errand {
        Errand::Test(job) | Errand::Resend(job) | Errand::SystemTest(job, _) => job,
    };
    let sent = deliver(world, job, None).await;
    if let Errand::SystemTest(_, body) = errand {
        return Reply::json(201, &body);
    }
    let Some(sent) = sent else {
        return Reply::message(422, "The webhook could not be executed");
    };
    match (errand, sent.status) {
        (Errand::Resend(_), Some(status)) => {
            Reply::json(201, &json!({ "response_status": status }))
        }
        (_, Some(status)) if (200..300).contains(&status) => Reply::message(201, "201 Created"),
        _ => Reply::message(422, &sent.response_body),
    }
}

fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    match host.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// Whether a URL names this machine or its network by address or as `localhost`.
pub(crate) fn is_local(url: &str) -> bool {
    let host = host_of(url);
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(four)) => {
            four.is_loopback() || four.is_private() || four.is_link_local() || four.is_unspecified()
        }
        Ok(std::net::IpAddr::V6(six)) => {
            six.is_loopback() || six.is_unspecified() || six.is_unique_local()
        }
        Err(_) => false,
    }
}

/// The same body about a project that is nobody's.
fn make_foreign(body: &mut Value) {
    const NOWHERE: u64 = 999_999_999;
    for pointer in [
        "/project/id",
        "/project_id",
        "/object_attributes/project_id",
    ] {
        if let Some(place) = body.pointer_mut(pointer) {
            *place = json!(NOWHERE);
        }
    }
    for pointer in ["/project/path_with_namespace", "/path_with_namespace"] {
        if let Some(place) = body.pointer_mut(pointer) {
            *place = json!("elsewhere/foreign");
        }
    }
}

fn alter(body: &mut Value) {
    for pointer in [
        "/object_attributes/title",
        "/object_attributes/note",
        "/description",
        "/checkout_sha",
    ] {
        if let Some(place) = body.pointer_mut(pointer) {
            *place = json!("Altered on its way");
        }
    }
    if let Some(object) = body.as_object_mut() {
        object.insert("altered".to_owned(), json!(true));
    }
}

impl World {
    /// Builds a delivery as of now.
    fn pack(&mut self, job: &Job, forgery: Option<Forgery>) -> Option<Parcel> {
        let (now, seed) = (self.now(), self.seed);
        let hook = self.webhooks.hooks.get(&job.hook)?.clone();
        let asked = job.test || job.again.is_some();
        let disabled = self.knobs.auto_disabling && hook.alert_status(now) != "executable";
        if (disabled && !asked) || self.knobs.silent_mode {
            return None;
        }
        let mut refused = None;
        let mut value = match &job.again {
            Some(text) => serde_json::from_str(text).unwrap_or(Value::Null),
            None => self.body(&job.what, job.test)?,
        };
        if forgery == Some(Forgery::Foreign) {
            make_foreign(&mut value);
        }
        let faults = self.webhooks.faults.clone();
        let template = faults
            .template
            .as_ref()
            .or(hook.custom_webhook_template.as_ref());
        let text = match (template, &job.again) {
            (_, Some(text)) => text.clone(),
            (None, None) => value.to_string(),
            (Some(template), None) => fill(template, &value).unwrap_or_else(|why| {
                refused = Some(why);
                String::new()
            }),
        };
        let url = hook.target();
        if text.len() > BODY_LIMIT {
            refused = Some("Gitlab::Json::LimitedEncoder::LimitExceeded".to_owned());
        }
        if !self.knobs.local_hook_targets && hook.owner != HookOwner::System && is_local(&url) {
            refused = Some(format!(
                "URL is blocked: Requests to the local network are not allowed ({url})"
            ));
        }

        let signed_body = text;
        let body = if forgery == Some(Forgery::Altered) {
            alter(&mut value);
            value.to_string()
        } else {
            signed_body.clone()
        };
        let mut headers = Vec::new();
        let mut add = |name: &str, value: String| headers.push((name.to_owned(), value));
        let event = match hook.owner {
            HookOwner::System => "System Hook",
            HookOwner::Group(_) | HookOwner::Project(_) => job.trigger.header(),
        };
        add("Content-Type", "application/json".to_owned());
        add("User-Agent", format!("GitLab/{}", self.knobs.version));
        add("X-Gitlab-Event", event.to_owned());
        add("X-Gitlab-Webhook-UUID", self.webhooks.uuid(seed));
        add("X-Gitlab-Instance", self.external_url.clone());
        add("X-Gitlab-Event-UUID", self.webhooks.uuid(seed));
        if self.is_at_least(17, 4) {
            add("Idempotency-Key", job.key.clone());
        }
        let token = match forgery {
            Some(Forgery::WrongSecret) => Some("not-the-token".to_owned()),
            Some(Forgery::NoSecret) => None,
            _ => hook.token.clone(),
        };
        if let Some(token) = token {
            add("X-Gitlab-Token", token);
        }
        if self.is_at_least(16, 11) {
            for (name, value) in &hook.custom_headers {
                add(name, value.clone());
            }
        }
        if self.is_at_least(19, 0) {
            // By the machine's clock, which is the one that a receiver compares with.
            let stale = if forgery == Some(Forgery::Stale) {
                3600
            } else {
                0
            };
            let timestamp = Micros::real_now().unix() + self.knobs.hook_clock_skew_seconds - stale;
            add("webhook-id", job.key.clone());
            add("webhook-timestamp", timestamp.to_string());
            let key = match forgery {
                Some(Forgery::WrongSecret) => Some(WRONG_KEY),
                Some(Forgery::NoSecret | Forgery::NoSignature) => None,
                _ => hook.signing_token.as_deref(),
            };
            if let Some(signature) =
                key.and_then(|key| signature(key, &job.key, timestamp, signed_body.as_bytes()))
            {
                add("webhook-signature", signature);
            }
        }
        let hide = |(name, value): &(String, String)| {
            let secret =
                name == "X-Gitlab-Token" || hook.custom_headers.iter().any(|(key, _)| key == name);
            let value = if secret { "[REDACTED]" } else { value };
            (name.clone(), value.to_owned())
        };
        let mut sent = body.clone().into_bytes();
        if let Some(keep) = faults.truncate {
            sent.truncate(keep);
        }
        Some(Parcel {
            hook: hook.id,
            trigger: job.trigger,
            url,
            shown: headers.iter().map(hide).collect(),
            headers,
            body,
            sent,
            break_off: faults.break_off,
            refused,
            key: job.key.clone(),
            at: now,
            queued: job.queued,
            forged: forgery,
            timeout: self.knobs.hook_timeout,
        })
    }

    /// Writes down what became of a delivery.
    fn settle(&mut self, parcel: Parcel, outcome: Result<Outcome, String>, took: Duration) -> Sent {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (status, response_headers, response_body) = match outcome {
            Ok(outcome) => (Some(outcome.status), outcome.headers, outcome.body),
            Err(why) => (None, Vec::new(), why),
        };
        let sent = Sent {
            id: self.webhooks.next_sent(),
            hook: parcel.hook,
            trigger: parcel.trigger,
            url: parcel.url,
            at: parcel.at,
            request_headers: parcel.shown,
            request_data: parcel.body,
            status,
            response_headers,
            response_body,
            latency_ms: millis(took),
            since_event_ms: millis(parcel.queued.elapsed()),
            key: parcel.key,
            forged: parcel.forged,
        };
        let (now, counts) = (
            self.now(),
            self.knobs.auto_disabling && sent.forged.is_none(),
        );
        if let Some(hook) = self
            .webhooks
            .hooks
            .get_mut(&sent.hook)
            .filter(|hook| counts && hook.owner != HookOwner::System)
        {
            hook.count(sent.is_success(), now);
        }
        self.webhooks.remember(sent.clone());
        sent
    }
}

/// Many events of random kinds about records that did not change.
#[derive(Debug)]
pub struct Storm {
    task: JoinHandle<usize>,
}

impl Storm {
    pub(crate) fn start(
        world: Arc<Mutex<World>>,
        per_second: u32,
        lasting: Duration,
        seed: u64,
    ) -> Self {
        let task = tokio::spawn(async move {
            let (started, mut announced, mut queued) = (Instant::now(), 0_u64, 0);
            let mut tick = tokio::time::interval(Duration::from_millis(10));
            loop {
                tick.tick().await;
                let elapsed = started.elapsed().min(lasting);
                let due = elapsed.as_secs_f64() * f64::from(per_second);
                let mut world = lock(&world);
                while u32::try_from(announced).map_or(f64::MAX, f64::from) < due {
                    announced += 1;
                    let what =
                        world.random_announcement(seed ^ announced.wrapping_mul(0x9e37_79b9));
                    queued += what.map_or(0, |what: Announcement| world.announce(what));
                }
                if elapsed == lasting {
                    return queued;
                }
            }
        });
        Self { task }
    }

    /// Waits for its end and tells how many deliveries it queued.
    pub async fn finish(self) -> usize {
        self.task.await.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_network_is_known_by_its_addresses() {
        for url in [
            "http://localhost/x",
            "http://127.0.0.1:80",
            "http://[::1]:1/",
            "http://10.1.2.3/",
            "http://user@192.168.0.1/",
        ] {
            assert!(is_local(url), "{url}");
        }
        for url in [
            "http://hooks.test/",
            "https://8.8.8.8/localhost",
            "http://[2001:db8::1]/",
        ] {
            assert!(!is_local(url), "{url}");
        }
    }
}
