//! Scripted misbehaviour.
//!
//! A rule says which requests it is about, which of those it spoils, and how. Rules are plain data, so that the same script
//! works from a test and over the control API.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::reply::Reply;
use super::wire::Delivery;

/// What goes wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// Any status with any body; JSON unless said otherwise.
    Status {
        /// Status code.
        status: u16,
        /// Body.
        #[serde(default)]
        body: String,
        /// Content type.
        #[serde(default)]
        content_type: Option<String>,
        /// `Retry-After` in seconds.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// 429 of Rack::Attack: plain text.
    RateLimited {
        /// `Retry-After` in seconds.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// 429 of the application limiter: JSON.
    TooManyRequests {
        /// `Retry-After` in seconds; older versions send none.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// 500 with GitLab's JSON.
    ServerError,
    /// 502 with an HTML page.
    BadGateway,
    /// 408 with a message that is an object: the SQL of a large list was cancelled.
    Timeout,
    /// 200 with an HTML page.
    Html,
    /// 200 with JSON of the wrong shape: an object for a list, a list for an object.
    WrongShape,
    /// 200 with JSON that ends in the middle, under a `Content-Length` that fits.
    BrokenJson,
    /// The body ends after so many bytes, under the full `Content-Length`; then the connection closes.
    Truncated {
        /// Bytes sent.
        keep: usize,
    },
    /// The connection is reset before the answer.
    Reset,
    /// The answer starts late.
    Latency {
        /// Milliseconds.
        ms: u64,
    },
    /// The body comes in small pieces.
    Drip {
        /// Bytes in a piece.
        bytes: usize,
        /// Milliseconds after each piece.
        ms: u64,
    },
    /// 401: the token was revoked.
    Revoked,
    /// 401: the token expired.
    Expired,
    /// 401 without a reason.
    Unauthorized,
    /// 403: the scope is too small.
    InsufficientScope,
    /// 403: also what a blocked address gets.
    Forbidden,
    /// 404 as for something that was never there.
    NotFound,
}

/// Which requests are spoiled, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// `GET` …; any if absent.
    #[serde(default)]
    pub method: Option<String>,
    /// A part of the path and query, where `*` stands for anything: `/merge_requests?*page=2`. Empty is any.
    #[serde(default)]
    pub path: String,
    /// Only pages for which more rows than this are asked.
    #[serde(default)]
    pub over_per_page: Option<u64>,
    /// Spare the first so many matching requests.
    #[serde(default)]
    pub after: u64,
    /// Of the rest, spoil every nth; 1 is every one.
    #[serde(default = "one")]
    pub every: u64,
    /// Of those, spoil this share, decided by the seed.
    #[serde(default = "always")]
    pub probability: f64,
    /// Spoil so many and stop; absent is forever.
    #[serde(default)]
    pub times: Option<u64>,
    /// How.
    pub fault: Fault,
}

fn one() -> u64 {
    1
}

fn always() -> f64 {
    1.0
}

impl Rule {
    /// Spoils every request whose path and query contain `path`.
    #[must_use]
    pub fn new(path: &str, fault: Fault) -> Self {
        Self {
            method: None,
            path: path.to_owned(),
            over_per_page: None,
            after: 0,
            every: 1,
            probability: 1.0,
            times: None,
            fault,
        }
    }

    /// Spoils only pages of more than `rows` rows, as a database does that takes too long for them.
    #[must_use]
    pub fn over_per_page(mut self, rows: u64) -> Self {
        self.over_per_page = Some(rows);
        self
    }

    /// Spares the first `count` matching requests.
    #[must_use]
    pub fn after(mut self, count: u64) -> Self {
        self.after = count;
        self
    }

    /// Spoils only every nth.
    #[must_use]
    pub fn every(mut self, nth: u64) -> Self {
        self.every = nth.max(1);
        self
    }

    /// Spoils a share of them.
    #[must_use]
    pub fn with_probability(mut self, share: f64) -> Self {
        self.probability = share;
        self
    }

    /// Stops after so many.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.times = Some(count);
        self
    }
}

/// Whether `text` contains the parts of `pattern` (split at `*`) one after the other.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = text;
    for part in pattern.split('*') {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// The page size that a request asks for; a request without one is for no page.
fn per_page(target: &str) -> Option<u64> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let asked = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("per_page="));
    asked.and_then(|size| size.parse().ok())
}

struct Armed {
    rule: Rule,
    seen: u64,
    done: u64,
}

/// What a request will suffer.
#[derive(Default)]
pub(crate) struct Plan {
    /// An answer that replaces the true one.
    pub(crate) reply: Option<Reply>,
    pub(crate) delivery: Delivery,
    wrong_shape: bool,
    broken_json: bool,
}

impl Plan {
    fn add(&mut self, fault: &Fault) {
        let reply = match *fault {
            Fault::Status {
                status,
                ref body,
                ref content_type,
                retry_after,
            } => {
                let kind = match content_type.as_deref() {
                    None | Some("application/json") => "application/json",
                    Some("text/plain") => "text/plain",
                    Some(_) => "text/html; charset=utf-8",
                };
                let reply = Reply::text(status, kind, body.clone());
                retry_after.map_or(reply.clone(), |seconds| {
                    reply.with("retry-after", seconds.to_string())
                })
            }
            Fault::RateLimited { retry_after } => Reply::retry_later(retry_after),
            Fault::TooManyRequests { retry_after } => Reply::too_many_requests(retry_after),
            Fault::ServerError => Reply::server_error(),
            Fault::BadGateway => Reply::bad_gateway(),
            Fault::Timeout => {
                Reply::json(408, &json!({ "message": { "error": "Request timed out" } }))
            }
            Fault::Html => Reply::html_page(),
            Fault::Revoked => Reply::revoked(),
            Fault::Expired => Reply::expired(),
            Fault::Unauthorized => Reply::unauthorized(),
            Fault::InsufficientScope => Reply::insufficient_scope(),
            Fault::Forbidden => Reply::forbidden(),
            Fault::NotFound => Reply::missing(),
            Fault::WrongShape => return self.wrong_shape = true,
            Fault::BrokenJson => return self.broken_json = true,
            Fault::Truncated { keep } => return self.delivery.keep = Some(keep),
            Fault::Reset => return self.delivery.reset = true,
            Fault::Latency { ms } => return self.delivery.wait += Duration::from_millis(ms),
            Fault::Drip { bytes, ms } => {
                return self.delivery.drip = Some((bytes, Duration::from_millis(ms)));
            }
        };
        self.reply.get_or_insert(reply);
    }

    /// Spoils the body of a true answer.
    pub(crate) fn spoil(&self, reply: &mut Reply) {
        if self.reply.is_some() {
            return;
        }
        if self.wrong_shape {
            let list =
                serde_json::from_slice::<Value>(&reply.body).is_ok_and(|value| value.is_array());
            reply.body = if list {
                b"{\"items\":null,\"total\":\"many\"}".to_vec()
            } else {
                b"[]".to_vec()
            };
        }
        if self.broken_json {
            reply.body.truncate(reply.body.len() / 2);
        }
    }
}

/// All rules, and how often each has struck.
pub(crate) struct Faults {
    armed: Vec<Armed>,
    rng: SmallRng,
}

impl Faults {
    pub(crate) fn new(seed: u64, rules: Vec<Rule>) -> Self {
        let mut faults = Self {
            armed: Vec::new(),
            rng: SmallRng::seed_from_u64(seed),
        };
        faults.set(rules);
        faults
    }

    pub(crate) fn set(&mut self, rules: Vec<Rule>) {
        self.armed = rules
            .into_iter()
            .map(|rule| Armed {
                rule,
                seen: 0,
                done: 0,
            })
            .collect();
    }

    pub(crate) fn add(&mut self, rule: Rule) {
        self.armed.push(Armed {
            rule,
            seen: 0,
            done: 0,
        });
    }

    /// How often the rules have struck, together.
    pub(crate) fn struck(&self) -> u64 {
        self.armed.iter().map(|armed| armed.done).sum()
    }

    pub(crate) fn plan(&mut self, method: &str, target: &str) -> Plan {
        let mut plan = Plan::default();
        for armed in &mut self.armed {
            let rule = &armed.rule;
            let other = rule
                .method
                .as_ref()
                .is_some_and(|wanted| !wanted.eq_ignore_ascii_case(method));
            let small = rule
                .over_per_page
                .is_some_and(|rows| per_page(target).is_none_or(|asked| asked <= rows));
            if other || small || !matches(&rule.path, target) {
                continue;
            }
            armed.seen += 1;
            let due = armed.seen > rule.after
                && (armed.seen - rule.after - 1).is_multiple_of(rule.every.max(1));
            let left = rule.times.is_none_or(|times| armed.done < times);
            if due
                && left
                && (rule.probability >= 1.0
                    || self.rng.random_bool(rule.probability.clamp(0.0, 1.0)))
            {
                armed.done += 1;
                plan.add(&rule.fault);
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_and_an_empty_pattern_for_everything() {
        assert!(matches("", "/api/v4/user"));
        assert!(matches(
            "/merge_requests?*page=2",
            "/api/v4/projects/1/merge_requests?state=all&page=2"
        ));
        assert!(!matches("page=2*page=2", "/x?page=2"));
    }

    #[test]
    fn rules_count_the_requests_that_they_are_about() {
        let rule = Rule::new("/issues", Fault::ServerError)
            .after(1)
            .every(2)
            .times(2);
        let mut faults = Faults::new(1, vec![rule]);
        let struck: Vec<bool> = (0..8)
            .map(|_| faults.plan("GET", "/issues").reply.is_some())
            .collect();
        assert_eq!(
            struck,
            [false, true, false, true, false, false, false, false]
        );
        assert!(faults.plan("GET", "/user").reply.is_none());
        assert_eq!(faults.struck(), 2);
    }

    #[test]
    fn a_rule_about_large_pages_spares_small_ones() {
        let rule = Rule::new("/issues", Fault::Timeout).over_per_page(20);
        let mut faults = Faults::new(1, vec![rule]);
        let mut struck = |target| faults.plan("GET", target).reply.is_some();
        assert!(struck("/issues?state=all&per_page=100"));
        assert!(!struck("/issues?per_page=20&page=6"));
        assert!(!struck("/issues"));
    }

    #[test]
    fn the_control_api_reads_rules_as_json() {
        let rule: Rule = serde_json::from_str(
            r#"{"path":"/notes","times":3,"fault":{"kind":"rate_limited","retry_after":2}}"#,
        )
        .expect("a rule");
        assert_eq!((rule.every, rule.times), (1, Some(3)));
        assert!(matches!(
            rule.fault,
            Fault::RateLimited {
                retry_after: Some(2)
            }
        ));
    }
}
