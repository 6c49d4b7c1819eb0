//! Scripted misbehaviour.
//!
//! A rule says where, when and what. Rules are asked in order; delays add up, and the first other fault that is due wins.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reply::{ApiError, Body, Reply};
use super::{ItemRefusal, Route};

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// An error in the API's own shape.
    Status {
        /// HTTP status.
        status: u16,
        /// `error_code`.
        code: String,
        /// `retriable`; by status when absent.
        #[serde(default)]
        retriable: Option<bool>,
        /// `Retry-After` in seconds.
        #[serde(default)]
        retry_after: Option<u64>,
        /// Do the work first and then lie about it.
        #[serde(default)]
        after_write: bool,
    },
    /// A proxy's error page.
    Html {
        /// HTTP status.
        status: u16,
        /// Do the work first.
        #[serde(default)]
        after_write: bool,
    },
    /// The connection closes without a byte; nothing was done.
    CloseBeforeWrite,
    /// The connection closes without a byte, after the write was applied: what idempotency exists for.
    CloseAfterWrite,
    /// The answer comes late.
    Slow {
        /// Delay in milliseconds.
        millis: u64,
    },
    /// The write is applied and the receipt does not say under which id.
    ReceiptWithoutEventId,
    /// The write is applied and `results[]` is shorter than the items.
    ShortResults {
        /// How many entries are missing at the end.
        missing: usize,
    },
    /// The write is applied and the connection dies in the middle of the body.
    TruncatedBody,
    /// Items with the marker in their text or source id are refused for good.
    RefuseItem {
        /// What to look for; empty matches every item.
        marker: String,
        /// HTTP status, when a single write or a whole batch is refused.
        #[serde(default = "unprocessable")]
        status: u16,
        /// `error_code`.
        #[serde(default = "invalid_envelope")]
        code: String,
        /// What this does to a batch; the server's own setting when absent.
        #[serde(default)]
        refusal: Option<ItemRefusal>,
    },
    /// Items with the marker are captured, then fail to index: status says `failed`, and the same write again reprocesses.
    FailIndexing {
        /// What to look for.
        marker: String,
    },
}

fn unprocessable() -> u16 {
    422
}

fn invalid_envelope() -> String {
    "INVALID_ENVELOPE".to_owned()
}

impl Fault {
    /// An error in the API's own shape, retriable by its status.
    pub fn status(status: u16, code: &str) -> Self {
        let code = code.to_owned();
        Self::Status {
            status,
            code,
            retriable: None,
            retry_after: None,
            after_write: false,
        }
    }

    /// 429 with `Retry-After`.
    pub fn rate_limited(retry_after: u64) -> Self {
        Self::Status {
            status: 429,
            code: "RATE_LIMITED".to_owned(),
            retriable: None,
            retry_after: Some(retry_after),
            after_write: false,
        }
    }

    /// 503 `WAL_UNAVAILABLE`.
    pub fn unavailable() -> Self {
        Self::status(503, "WAL_UNAVAILABLE")
    }

    /// 401 `EXPIRED_TOKEN`.
    pub fn expired_token() -> Self {
        Self::status(401, "EXPIRED_TOKEN")
    }

    /// 402.
    pub fn payment_required() -> Self {
        Self::status(402, "QUOTA_EXHAUSTED")
    }

    /// 403 `POLICY_DENIED`.
    pub fn policy_denied() -> Self {
        Self::status(403, "POLICY_DENIED")
    }

    /// 408 `WAIT_TIMEOUT`: the write is durable all the same.
    pub fn wait_timeout() -> Self {
        Self::Status {
            status: 408,
            code: "WAIT_TIMEOUT".to_owned(),
            retriable: None,
            retry_after: None,
            after_write: true,
        }
    }

    /// 422 for items with this marker.
    pub fn refuse_item(marker: &str) -> Self {
        Self::RefuseItem {
            marker: marker.to_owned(),
            status: unprocessable(),
            code: invalid_envelope(),
            refusal: None,
        }
    }

    fn marker(&self) -> Option<&str> {
        match self {
            Self::RefuseItem { marker, .. } | Self::FailIndexing { marker } => Some(marker),
            _ => None,
        }
    }
}

/// Where and when a fault happens. Without conditions it always does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Only on this route; on every route when absent.
    #[serde(default)]
    pub route: Option<Route>,
    /// Let so many matching requests (for item faults: items) pass first.
    #[serde(default)]
    pub after: u64,
    /// Then only every nth.
    #[serde(default)]
    pub every: Option<u64>,
    /// Then only with this probability, decided by the server's seed.
    #[serde(default)]
    pub probability: Option<f64>,
    /// At most so many times.
    #[serde(default)]
    pub times: Option<u64>,
    /// What happens.
    pub fault: Fault,
}

impl FaultRule {
    /// On one route, always.
    pub fn on(route: Route, fault: Fault) -> Self {
        Self {
            route: Some(route),
            ..Self::anywhere(fault)
        }
    }

    /// On every route, always.
    pub fn anywhere(fault: Fault) -> Self {
        Self {
            route: None,
            after: 0,
            every: None,
            probability: None,
            times: None,
            fault,
        }
    }

    /// At most so many times.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Not before so many have passed.
    #[must_use]
    pub fn after(mut self, passed: u64) -> Self {
        self.after = passed;
        self
    }

    /// Only every nth.
    #[must_use]
    pub fn every(mut self, nth: u64) -> Self {
        self.every = Some(nth);
        self
    }

    /// Only with this probability.
    #[must_use]
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = Some(probability);
        self
    }
}

struct Armed {
    rule: FaultRule,
    seen: u64,
    fired: u64,
}

impl Armed {
    /// Counts one match and decides whether the fault is due.
    fn due(&mut self, rng: &mut SmallRng) -> bool {
        self.seen += 1;
        let Some(past) = self.seen.checked_sub(self.rule.after + 1) else {
            return false;
        };
        let turn = self
            .rule
            .every
            .is_none_or(|nth| (past + 1).is_multiple_of(nth.max(1)));
        let left = self.rule.times.is_none_or(|times| self.fired < times);
        turn && left
            && self
                .rule
                .probability
                .is_none_or(|p| rng.random_bool(p.clamp(0.0, 1.0)))
    }
}

/// The armed rules of a server.
pub(crate) struct Faults {
    armed: Vec<Armed>,
    rng: SmallRng,
}

/// What will go wrong with one request.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) delay: Duration,
    pub(crate) fault: Option<Fault>,
}

/// What will go wrong with one item.
pub(crate) enum ItemFault {
    Refuse {
        error: ApiError,
        refusal: Option<ItemRefusal>,
    },
    FailIndexing,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            armed: Vec::new(),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    pub(crate) fn add(&mut self, rule: FaultRule) {
        self.armed.push(Armed {
            rule,
            seen: 0,
            fired: 0,
        });
    }

    pub(crate) fn clear(&mut self) {
        self.armed.clear();
    }

    pub(crate) fn fired(&self) -> u64 {
        self.armed.iter().map(|armed| armed.fired).sum()
    }

    /// The faults of one request, delays included.
    pub(crate) fn plan(&mut self, route: Route) -> Plan {
        let mut plan = Plan::default();
        for armed in &mut self.armed {
            let here = armed.rule.route.is_none_or(|only| only == route);
            if !here || armed.rule.fault.marker().is_some() || !armed.due(&mut self.rng) {
                continue;
            }
            match &armed.rule.fault {
                Fault::Slow { millis } => {
                    plan.delay += Duration::from_millis(*millis);
                    armed.fired += 1;
                }
                fault if plan.fault.is_none() => {
                    plan.fault = Some(fault.clone());
                    armed.fired += 1;
                }
                _ => {}
            }
        }
        plan
    }

    /// Whether any rule looks at items at all.
    pub(crate) fn watch_items(&self) -> bool {
        self.armed
            .iter()
            .any(|armed| armed.rule.fault.marker().is_some())
    }

    /// The fault of one item.
    pub(crate) fn item(&mut self, route: Route, envelope: &Value) -> Option<ItemFault> {
        let text = envelope["content"]["text"].as_str().unwrap_or_default();
        let source_id = envelope["source"]["source_id"].as_str().unwrap_or_default();
        for armed in &mut self.armed {
            let Some(marker) = armed.rule.fault.marker() else {
                continue;
            };
            let here = armed.rule.route.is_none_or(|only| only == route);
            let marked = text.contains(marker) || source_id.contains(marker);
            if !here || !marked || !armed.due(&mut self.rng) {
                continue;
            }
            armed.fired += 1;
            return Some(match &armed.rule.fault {
                Fault::RefuseItem {
                    status,
                    code,
                    refusal,
                    ..
                } => ItemFault::Refuse {
                    error: ApiError::new(*status, code, "the item was refused"),
                    refusal: *refusal,
                },
                _ => ItemFault::FailIndexing,
            });
        }
        None
    }
}

/// What is left of a request's fault once the request is answered.
pub(crate) enum Ending {
    Whole,
    Cut,
    Truncated,
}

impl Fault {
    /// The reply to give instead of doing any work, if the fault strikes before it. `None` inside means no reply at all.
    pub(crate) fn before(&self) -> Option<Result<Reply, ApiError>> {
        match self {
            Self::Status {
                after_write: false, ..
            } => self.error().map(Err),
            Self::Html {
                status,
                after_write: false,
            } => Some(Ok(Reply::html(*status))),
            Self::CloseBeforeWrite => Some(Ok(Reply::html(502))),
            _ => None,
        }
    }

    /// Spoils a reply after the work was done.
    pub(crate) fn after(&self, reply: Reply) -> Result<Reply, ApiError> {
        match self {
            Self::Status {
                after_write: true, ..
            } => match self.error() {
                Some(error) => Err(error),
                None => Ok(reply),
            },
            Self::Html {
                status,
                after_write: true,
            } => Ok(Reply::html(*status)),
            Self::ReceiptWithoutEventId => Ok(spoil(reply, |body| {
                if let Some(body) = body.as_object_mut() {
                    body.remove("event_id");
                }
                for result in body
                    .get_mut("results")
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten()
                {
                    if let Some(result) = result.as_object_mut() {
                        result.remove("event_id");
                    }
                }
            })),
            Self::ShortResults { missing } => Ok(spoil(reply, |body| {
                if let Some(results) = body.get_mut("results").and_then(Value::as_array_mut) {
                    results.truncate(results.len().saturating_sub(*missing));
                }
            })),
            _ => Ok(reply),
        }
    }

    /// How the connection ends.
    pub(crate) fn ending(&self) -> Ending {
        match self {
            Self::CloseBeforeWrite | Self::CloseAfterWrite => Ending::Cut,
            Self::TruncatedBody => Ending::Truncated,
            _ => Ending::Whole,
        }
    }

    fn error(&self) -> Option<ApiError> {
        let Self::Status {
            status,
            code,
            retriable,
            retry_after,
            ..
        } = self
        else {
            return None;
        };
        let mut error = ApiError::new(*status, code, "a scripted fault");
        error.retriable = retriable.unwrap_or(error.retriable);
        error.retry_after = *retry_after;
        Some(error)
    }
}

fn spoil(mut reply: Reply, change: impl FnOnce(&mut Value)) -> Reply {
    if let Body::Json(body) = &mut reply.body
        && body.is_object()
    {
        change(body);
    }
    reply
}
