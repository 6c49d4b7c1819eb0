//! The two rate limiters: Rack::Attack over all requests of a token, and the application's over single endpoints.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::clock::Micros;
use super::reply::Reply;

/// A limit on one endpoint, outside the `RateLimit-*` headers.
#[derive(Clone, Debug)]
pub struct EndpointLimit {
    /// Class of the endpoint, such as `projects/:id`.
    pub class: String,
    /// Requests in one window.
    pub limit: u64,
    /// Whether the refusal carries `Retry-After`; old versions send none.
    pub retry_after: bool,
}

/// Which answers have the headers `RateLimit-*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateLimitHeaders {
    /// All, as from GitLab 18.9 on.
    #[default]
    Always,
    /// Refusals alone, as on self-managed instances before that.
    WithRefusals,
    /// None, as where a proxy limits.
    Never,
}

/// Fixed windows, counted in real time: clients wait in real time, too.
pub(crate) struct Throttle {
    limit: Option<u64>,
    window: Duration,
    told: RateLimitHeaders,
    endpoints: Vec<EndpointLimit>,
    counters: HashMap<String, (Instant, u64)>,
}

impl Throttle {
    pub(crate) fn new(
        limit: Option<u64>,
        window: Duration,
        told: RateLimitHeaders,
        endpoints: Vec<EndpointLimit>,
    ) -> Self {
        Self {
            limit,
            window,
            told,
            endpoints,
            counters: HashMap::new(),
        }
    }

    fn count(&mut self, key: String) -> (u64, Duration) {
        let now = Instant::now();
        let counter = self.counters.entry(key).or_insert((now, 0));
        if now.duration_since(counter.0) >= self.window {
            *counter = (now, 0);
        }
        counter.1 += 1;
        (
            counter.1,
            self.window.saturating_sub(now.duration_since(counter.0)),
        )
    }

    /// Counts a request. Gives the headers of the answer, and the refusal if there is one.
    pub(crate) fn admit(
        &mut self,
        who: &str,
        class: &str,
        now: Micros,
    ) -> (Vec<(String, String)>, Option<Reply>) {
        let mut headers = Vec::new();
        let mut refusal = None;
        if let Some(limit) = self.limit {
            let (observed, left) = self.count(who.to_owned());
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            let reset = now.plus_seconds(i64::try_from(seconds).unwrap_or(0));
            let mut add = |name: &str, value: String| headers.push((name.to_owned(), value));
            add("ratelimit-name", "throttle_authenticated_api".to_owned());
            // Shown per minute, whatever the window.
            let per_minute = limit.saturating_mul(60) / self.window.as_secs().max(1);
            add("ratelimit-limit", per_minute.to_string());
            add("ratelimit-observed", observed.to_string());
            add(
                "ratelimit-remaining",
                limit.saturating_sub(observed).to_string(),
            );
            add("ratelimit-reset", reset.unix().to_string());
            if observed > limit {
                add("ratelimit-resettime", reset.http_date());
                refusal = Some(Reply::retry_later(Some(seconds.max(1))));
            }
            let is_told = match self.told {
                RateLimitHeaders::Always => true,
                RateLimitHeaders::WithRefusals => refusal.is_some(),
                RateLimitHeaders::Never => false,
            };
            if !is_told {
                headers.clear();
            }
        }
        if refusal.is_none() {
            let found = self
                .endpoints
                .iter()
                .find(|endpoint| endpoint.class == class)
                .cloned();
            if let Some(endpoint) = found {
                let (observed, _) = self.count(format!("{who} {class}"));
                if observed > endpoint.limit {
                    let seconds = self.window.as_secs().max(1);
                    refusal = Some(Reply::too_many_requests(
                        endpoint.retry_after.then_some(seconds),
                    ));
                }
            }
        }
        (headers, refusal)
    }
}
