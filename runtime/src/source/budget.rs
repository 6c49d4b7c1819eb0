//! When the next request to the source may start.
//!
//! A source's rate limit belongs to the token, not to a request: one refusal speaks for all requests in flight. So all requests of a
//! run ask here first. There are three ways to learn of a limit, and each has its budget:
//!
//! * *Headers* (`RateLimit-Limit`, `-Remaining`, `-Reset`) tell before anything is refused. Requests that are under way and may not be
//!   counted yet are subtracted, the last tenth is spread over the time that is left, and one percent is left to others who use
//!   the same token.
//! * *A refusal without such headers* (429). Everything waits for as long as it says. One may have any reason; if the next minutes bring
//!   another, then from there on no more requests start within a minute than went well in the minute before it, and only a long time
//!   without a refusal raises that number again. It never falls below what GitLab's own limits allow. GitLab before 18.9 sends its headers
//!   with refusals alone: their limit, which is one by the minute, holds from the first refusal on.
//! * *A refusal of one endpoint*: GitLab limits some of them by themselves and then answers with JSON. That is believed once: only
//!   this endpoint waits. If another one is refused meanwhile, it was not about the endpoint.
//!
//! Limits count by the minute, GitLab's documentation says; where a limit counts by the hour, what is learned is only too careful. What a window
//! allows is not its `RateLimit-Limit`, which GitLab converts to a minute, but what was used of it and what is left.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::starts::Starts;
use crate::cortexdb::client::retry_after;

/// Spreading starts when less than this share of the limit is left.
const SPREAD_BELOW: f64 = 0.1;
/// One request in so many is left to other users of the token.
const RESERVE: u64 = 100;
/// Without a hint, a refusal waits this long, twice as long at the next one if nothing went well in between.
const FIRST_UNHINTED_WAIT: Duration = Duration::from_secs(5);
/// The same where the hint is to come back at once: less than a second was left, or somebody's clock is wrong.
const FIRST_WAIT_AFTER_NO_WAIT: Duration = Duration::from_secs(1);
/// Waits from this length on are said.
const WORTH_A_WORD: Duration = Duration::from_secs(5);
/// GitLab's limits count minutes.
const WINDOW: Duration = Duration::from_secs(60);
/// Refusals that are this far apart have nothing to do with each other.
const MEMORY: Duration = Duration::from_secs(180);
/// Who says to come back so soon does not count by the minute.
const SHORTEST_WAIT_OF_A_WINDOW: Duration = Duration::from_secs(10);
/// The least that is learned. GitLab's lowest limit on what is read here is 400 a minute; a server or proxy that refuses for another
/// reason must not slow a run down to nothing.
const LEAST_LEARNED: usize = 300;
/// Minutes without a refusal after which a learned limit is tried to be a tenth higher.
const CALM_WINDOWS: u32 = 10;

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Budget {
    state: Mutex<State>,
    answered: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Requests that have taken their turn and are not answered yet.
    under_way: u64,
    all: Limit,
    /// Limits of single endpoints, by class.
    endpoints: HashMap<String, Limit>,
    announced: Option<Announced>,
    /// Whether answers that were no refusals have announced anything.
    announces: bool,
    unhinted_refusals: u32,
    /// The end of the wait that was last spoken of.
    told: Option<Instant>,
}

/// What the source's headers say about the present window.
#[derive(Debug, Clone, Copy)]
struct Announced {
    limit: u64,
    remaining: u64,
    /// On the source's clock, Unix seconds: names the window.
    reset: u64,
    /// On ours, rather too late than too early.
    ends: Instant,
    /// While the last tenth is spread: the next turn.
    next: Option<Instant>,
}

/// A limit that the source does not announce.
#[derive(Debug, Default)]
struct Limit {
    /// Nothing starts before.
    not_before: Option<Instant>,
    /// Starts of the last minute.
    started: Starts,
    /// Most starts within a minute, once it was learned.
    most: Option<usize>,
    /// When `most` was last changed; `None` where a refusal told it.
    since: Option<Instant>,
    /// The last refusal that may have been about a limit by the minute.
    refused_at: Option<Instant>,
    /// The last answer that was no refusal.
    answered_at: Option<Instant>,
}

/// What is known of a limit that was just met.
#[derive(Debug, Clone, Copy)]
enum Knowledge {
    /// Every answer says what is left, so nothing has to be learned.
    Announced,
    /// Only the refusal says it: so many within a minute.
    Told(usize),
    /// Nothing says it, so that it has to be counted. The requests without an answer will hardly have a better one.
    Counted { under_way: usize },
}

/// What headers say of a window.
#[derive(Debug, Clone, Copy)]
struct Said {
    /// Requests in the window.
    limit: u64,
    /// Requests in a minute.
    by_the_minute: u64,
    remaining: u64,
    /// Unix seconds.
    reset: u64,
}

/// A request that has its turn. Dropped when it is answered.
#[derive(Debug)]
pub struct Turn<'b>(&'b Budget);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.under_way = state.under_way.saturating_sub(1);
        drop(state);
        self.0.answered.notify_waiters();
    }
}

/// What stands between a request and its turn.
#[derive(Debug, PartialEq, Eq)]
enum Wait {
    Until(Instant),
    /// For one of those under way, whose answer says what is left; not longer than to the end of the window.
    ForAnAnswer(Instant),
}

impl Budget {
    /// Waits for the turn of a request to an endpoint of this class. Of a wait that somebody might take for standing still, `tell` is
    /// told once, whoever waits.
    pub async fn turn(&self, class: &str, tell: impl Fn(Duration)) -> Turn<'_> {
        loop {
            let answered = self.answered.notified();
            let now = Instant::now();
            let wait = self.lock().take(class, now);
            match wait {
                None => return Turn(self),
                Some(Wait::Until(at)) => {
                    if self.lock().is_news(at, now) {
                        tell(at - now);
                    }
                    tokio::time::sleep_until(at).await;
                }
                Some(Wait::ForAnAnswer(ends)) => {
                    let _ = tokio::time::timeout_at(ends, answered).await;
                }
            }
        }
    }

    /// Learns from an answer that is no 429.
    pub fn learn(&self, class: &str, headers: &HeaderMap) {
        self.lock().learn(class, headers, Instant::now());
    }

    /// Whether an endpoint of this class has answered anything but a 429 since then.
    #[must_use]
    pub fn has_answered_since(&self, class: &str, since: std::time::Instant) -> bool {
        let state = self.lock();
        let limit = state.endpoints.get(class);
        limit.is_some_and(|limit| limit.answered_at > Some(Instant::from_std(since)))
    }

    /// A 429. Returns for how long whoever got it has to wait.
    pub fn refused(&self, class: &str, headers: &HeaderMap, body: &[u8]) -> Duration {
        self.lock().refused(class, headers, body, Instant::now())
    }

    /// Requests left by the source's own count.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        Some(self.lock().announced?.remaining)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether this wait is worth a word and nobody has said it.
    fn is_news(&mut self, at: Instant, now: Instant) -> bool {
        let news = at > now + WORTH_A_WORD && self.told.is_none_or(|told| at > told);
        if news {
            self.told = Some(at);
        }
        news
    }

    /// Takes a turn, or says what to wait for.
    fn take(&mut self, class: &str, now: Instant) -> Option<Wait> {
        let endpoint = self.endpoints.get(class).and_then(|limit| limit.opens(now));
        if let Some(at) = endpoint.max(self.all.opens(now)) {
            return Some(Wait::Until(at));
        }
        if let Some(announced) = &mut self.announced
            && now < announced.ends
        {
            let reserve = announced.limit.div_ceil(RESERVE);
            let sure = announced
                .remaining
                .saturating_sub(self.under_way)
                .saturating_sub(reserve);
            if sure == 0 {
                // A server that only counts down to nothing must not be waited for by a request that it would answer.
                return Some(if self.under_way > 0 {
                    Wait::ForAnAnswer(announced.ends)
                } else {
                    Wait::Until(announced.ends)
                });
            }
            if let Some(next) = announced.next
                && next > now
            {
                return Some(Wait::Until(next));
            }
            #[allow(clippy::cast_precision_loss, reason = "a rate limit is small")]
            let scarce = (announced.remaining as f64) < announced.limit as f64 * SPREAD_BELOW;
            announced.next = scarce.then(|| {
                let shares = u32::try_from(sure).unwrap_or(u32::MAX);
                now + announced.ends.saturating_duration_since(now) / shares
            });
        }
        self.under_way += 1;
        self.all.start(now);
        self.endpoints
            .entry(class.to_owned())
            .or_default()
            .start(now);
        None
    }

    fn learn(&mut self, class: &str, headers: &HeaderMap, now: Instant) {
        self.unhinted_refusals = 0;
        let endpoint = self.endpoints.entry(class.to_owned()).or_default();
        endpoint.answered_at = Some(now);
        if let Some(said) = said(headers) {
            if !self.announces {
                self.announces = true;
                self.all.forget_what_was_told();
            }
            self.believe(said, headers, now);
        }
    }

    fn believe(&mut self, said: Said, headers: &HeaderMap, now: Instant) {
        let Said {
            limit,
            remaining,
            reset,
            ..
        } = said;
        let ends = now + until_reset(headers, reset);
        match &mut self.announced {
            // Answers overtake each other; within a window the smallest number is the newest.
            Some(known) if known.reset == reset => {
                known.remaining = known.remaining.min(remaining);
                known.ends = known.ends.min(ends);
            }
            // A window that is over says nothing of the next: the source's clock may have been set back, or one answer have named a time far off.
            Some(known) if known.reset > reset && now < known.ends => {}
            known => {
                *known = Some(Announced {
                    limit,
                    remaining,
                    reset,
                    ends,
                    next: None,
                });
            }
        }
    }

    fn refused(&mut self, class: &str, headers: &HeaderMap, body: &[u8], now: Instant) -> Duration {
        let said = said(headers);
        if let Some(said) = said {
            self.believe(said, headers, now);
        }
        let under_way = usize::try_from(self.under_way).unwrap_or(usize::MAX);
        let knowledge = match said {
            Some(_) if self.announces => Knowledge::Announced,
            Some(said) => Knowledge::Told(
                usize::try_from(said.by_the_minute - said.by_the_minute.div_ceil(RESERVE))
                    .unwrap_or(usize::MAX),
            ),
            None => Knowledge::Counted { under_way },
        };
        let about_the_endpoint = said.is_none() && is_json_object(body);
        let others_wait = self
            .endpoints
            .iter()
            .any(|(other, limit)| other != class && limit.not_before > Some(now));
        let limit = if about_the_endpoint && !others_wait {
            self.endpoints.entry(class.to_owned()).or_default()
        } else {
            &mut self.all
        };
        let hint =
            retry_after(headers).or_else(|| said.map(|said| until_reset(headers, said.reset)));
        let wait = match (hint, limit.not_before) {
            (Some(hint), _) if !hint.is_zero() => hint,
            // Those that were under way together are refused together, which is one refusal.
            (_, Some(at)) if at > now => at - now,
            (hint, _) => {
                let first = hint.map_or(FIRST_UNHINTED_WAIT, |_| FIRST_WAIT_AFTER_NO_WAIT);
                self.unhinted_refusals = (self.unhinted_refusals + 1).min(8);
                (first * 2_u32.pow(self.unhinted_refusals - 1)).min(WINDOW)
            }
        };
        limit.refuse(now, wait, knowledge);
        wait
    }
}

impl Limit {
    /// When the next request may start, if not now.
    fn opens(&self, now: Instant) -> Option<Instant> {
        let full = self.most.and_then(|most| {
            let first = self.started.before_the_last(most.checked_sub(1)?)?;
            Some(first + WINDOW)
        });
        self.not_before.max(full).filter(|at| *at > now)
    }

    fn start(&mut self, now: Instant) {
        if let Some(until) = now.checked_sub(WINDOW) {
            self.started.forget(until);
        }
        self.started.add(now);
        if let (Some(most), Some(since)) = (self.most, self.since)
            && now > since + WINDOW * CALM_WINDOWS
        {
            self.most = Some(most + most.div_ceil(10));
            self.since = Some(now);
        }
    }

    fn refuse(&mut self, now: Instant, wait: Duration, knowledge: Knowledge) {
        let repeated = self.not_before.is_some_and(|at| at > now);
        self.not_before = self.not_before.max(Some(now + wait));
        // Those that were under way at the first refusal are refused for the same reason.
        if repeated {
            return;
        }
        match knowledge {
            Knowledge::Announced => {}
            Knowledge::Told(most) => {
                self.most = Some(most.max(1));
                self.since = None;
                // The source counts from new when the wait is over.
                self.started.clear();
            }
            Knowledge::Counted { under_way } if wait >= SHORTEST_WAIT_OF_A_WINDOW => {
                self.count(now, under_way);
            }
            Knowledge::Counted { .. } => {}
        }
    }

    /// Every answer says what is left, which is more exact: a limit by the hour allows more in some minutes.
    fn forget_what_was_told(&mut self) {
        if self.since.is_none() {
            self.most = None;
        }
    }

    fn count(&mut self, now: Instant, under_way: usize) {
        let before = self.refused_at.replace(now);
        if before.is_some_and(|before| before + MEMORY >= now) {
            let lately = now
                .checked_sub(WINDOW)
                .map_or(self.started.count(), |at| self.started.later_than(at));
            let counted = lately.saturating_sub(under_way).max(LEAST_LEARNED);
            self.most = Some(self.most.map_or(counted, |most| most.min(counted)));
            self.since = Some(now);
        }
        // The source counts from new when the wait is over.
        self.started.clear();
    }
}

/// What the source announces, where it says all of limit, remaining and reset.
fn said(headers: &HeaderMap) -> Option<Said> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let by_the_minute = number("ratelimit-limit")?;
    let remaining = number("ratelimit-remaining")?;
    let observed = number("ratelimit-observed");
    Some(Said {
        limit: observed.map_or(by_the_minute, |observed| observed.saturating_add(remaining)),
        by_the_minute,
        remaining,
        reset: number("ratelimit-reset")?,
    })
}

fn is_json_object(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{")
}

/// Time until a Unix second on the *source's* clock, which its `Date` header shows. Both are whole seconds, the date cut off, so
/// this is up to a second too long and never too short.
fn until_reset(headers: &HeaderMap, reset: u64) -> Duration {
    let now = headers
        .get("date")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| chrono::DateTime::parse_from_rfc2822(value).ok())
        .map_or_else(|| chrono::Utc::now().timestamp(), |date| date.timestamp());
    let now = u64::try_from(now).unwrap_or(0);
    Duration::from_secs(reset.saturating_sub(now).clamp(0, 3600))
}

/// The class of an endpoint: its path with what names a single thing replaced.
#[must_use]
pub fn class_of(path: &str) -> String {
    let names_one_thing = |part: &str| {
        part.contains('%')
            || (!part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
            || (part.len() >= 20 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let parts = path
        .split('/')
        .map(|part| if names_one_thing(part) { ":id" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: &str = "/issues";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn said(remaining: u64, reset: u64, date: &str) -> HeaderMap {
        headers(&[
            ("date", date),
            ("ratelimit-limit", "600"),
            ("ratelimit-remaining", &remaining.to_string()),
            ("ratelimit-reset", &reset.to_string()),
        ])
    }

    /// When a request of the class gets its turn, on a clock that only waiting moves.
    fn turn(state: &mut State, class: &str, mut now: Instant) -> Instant {
        loop {
            match state.take(class, now) {
                None => return now,
                Some(Wait::Until(at)) => now = at,
                Some(Wait::ForAnAnswer(_)) => panic!("nothing is under way"),
            }
        }
    }

    /// Which answers have headers that say what is left.
    #[derive(Clone, Copy, PartialEq)]
    enum Announces {
        Always,
        /// As GitLab before 18.9.
        WithRefusals,
        Never,
    }

    /// A source that allows so many requests in each minute of its clock; counts what it refuses.
    struct Source {
        allows: usize,
        begins: Instant,
        announces: Announces,
        counted: Vec<usize>,
        refused: usize,
    }

    impl Source {
        fn new(allows: usize, begins: Instant, announces: Announces) -> Self {
            Self {
                allows,
                begins,
                announces,
                counted: Vec::new(),
                refused: 0,
            }
        }

        /// Answers, and lets the budget learn; false if it refuses.
        fn answer(&mut self, state: &mut State, now: Instant) -> bool {
            let second = now.duration_since(self.begins).as_secs();
            let minute = usize::try_from(second / 60).unwrap();
            self.counted.resize(self.counted.len().max(minute + 1), 0);
            let good = self.counted[minute] < self.allows;
            if good {
                self.counted[minute] += 1;
            } else {
                self.refused += 1;
            }
            let start = 1_795_341_600;
            let date = chrono::DateTime::from_timestamp(i64::try_from(start + second).unwrap(), 0);
            let mut headers = headers(&[("date", &date.unwrap().to_rfc2822())]);
            let reset = start + (second / 60 + 1) * 60;
            if self.announces == Announces::Always
                || !good && self.announces == Announces::WithRefusals
            {
                let left = self.allows - self.counted[minute];
                for (name, value) in [
                    ("ratelimit-limit", self.allows as u64),
                    ("ratelimit-remaining", left as u64),
                    ("ratelimit-reset", reset),
                ] {
                    headers.insert(name, value.into());
                }
            }
            if good {
                state.learn(CLASS, &headers, now);
            } else {
                headers.insert("retry-after", (60 - second % 60).into());
                state.refused(CLASS, &headers, b"Retry later\n", now);
            }
            state.under_way -= 1;
            good
        }
    }

    /// Asks for five minutes, always with so many requests under way.
    fn ask(source: &mut Source, under_way: usize) {
        let mut state = State::default();
        let mut now = source.begins + Duration::from_millis(100);
        let mut waiting = 0;
        while now < source.begins + WINDOW * 5 {
            while waiting < under_way {
                match state.take(CLASS, now) {
                    None => waiting += 1,
                    Some(Wait::Until(at)) if waiting == 0 => now = at,
                    Some(_) => break,
                }
            }
            now += Duration::from_millis(20);
            source.answer(&mut state, now);
            waiting -= 1;
        }
    }

    #[test]
    fn an_announced_limit_is_used_up_and_never_met() {
        let mut source = Source::new(600, Instant::now(), Announces::Always);
        ask(&mut source, 32);
        assert_eq!(source.refused, 0);
        for minute in &source.counted[..5] {
            assert!(*minute >= 570, "{:?}", source.counted);
        }
    }

    #[test]
    fn a_limit_that_is_not_announced_is_met_twice_and_then_used_up() {
        let mut source = Source::new(600, Instant::now(), Announces::Never);
        ask(&mut source, 1);
        assert_eq!(source.refused, 2);
        for minute in &source.counted[..5] {
            assert!(*minute >= 570, "{:?}", source.counted);
        }
        // Those that are under way when it is met are refused together.
        let mut source = Source::new(600, Instant::now(), Announces::Never);
        ask(&mut source, 32);
        assert!(source.refused <= 64, "{}", source.refused);
        assert!(
            source.counted[1..5].iter().all(|minute| *minute >= 560),
            "{:?}",
            source.counted
        );
    }

    #[test]
    fn a_limit_that_only_refusals_tell_is_met_once_and_then_used_up() {
        for under_way in [1, 32] {
            let mut source = Source::new(600, Instant::now(), Announces::WithRefusals);
            ask(&mut source, under_way);
            assert!(
                source.refused <= under_way,
                "{} of {under_way}",
                source.refused
            );
            assert!(
                source.counted[..5].iter().all(|minute| *minute >= 570),
                "{:?}",
                source.counted
            );
        }
    }

    #[test]
    fn of_a_limit_by_the_hour_the_last_tenth_of_the_hour_is_spread_and_not_of_a_minute() {
        let mut state = State::default();
        let now = Instant::now();
        let hour = |observed: u64| {
            headers(&[
                ("date", "Sun, 22 Nov 2026 10:00:00 GMT"),
                // GitLab's 7,200 an hour, by the minute.
                ("ratelimit-limit", "120"),
                ("ratelimit-observed", &observed.to_string()),
                ("ratelimit-remaining", &(7200 - observed).to_string()),
                ("ratelimit-reset", "1795345200"),
            ])
        };
        state.learn(CLASS, &hour(6400), now);
        assert_eq!(
            [turn(&mut state, CLASS, now), turn(&mut state, CLASS, now)],
            [now; 2]
        );
        state.learn(CLASS, &hour(6500), now);
        turn(&mut state, CLASS, now);
        assert!(turn(&mut state, CLASS, now) > now, "it is scarce");
        state.under_way = 0;
        state.learn(CLASS, &hour(7128), now);
        assert!(
            matches!(state.take(CLASS, now), Some(Wait::Until(_))),
            "a hundredth is left to others"
        );
    }

    #[test]
    fn a_run_that_begins_with_a_refusal_believes_the_answers_after_it() {
        let mut state = State::default();
        let now = Instant::now();
        let mut refusal = said(0, 1_795_341_601, "Sun, 22 Nov 2026 10:00:00 GMT");
        refusal.insert("ratelimit-limit", 10.into());
        state.refused(CLASS, &refusal, b"Retry later\n", now);
        assert_eq!(state.all.most, Some(9));
        let now = turn(&mut state, CLASS, now);
        state.learn(
            CLASS,
            &said(590, 1_795_341_661, "Sun, 22 Nov 2026 10:00:01 GMT"),
            now,
        );
        for _ in 0..100 {
            assert_eq!(turn(&mut state, CLASS, now), now);
        }
    }

    #[test]
    fn refusals_for_whatever_reason_do_not_slow_a_run_down_to_nothing() {
        let mut state = State::default();
        let mut now = Instant::now();
        for wait in ["1", "30", "30", "60"] {
            for _ in 0..3 {
                now = turn(&mut state, CLASS, now);
                state.under_way -= 1;
            }
            state.refused(CLASS, &headers(&[("retry-after", wait)]), b"", now);
        }
        let start = turn(&mut state, CLASS, now);
        for _ in 0..200 {
            state.under_way -= 1;
            now = turn(&mut state, CLASS, start);
        }
        assert_eq!(now, start);
    }

    #[test]
    fn a_long_wait_is_said_once_and_a_short_one_never() {
        let mut state = State::default();
        let now = Instant::now();
        let in_seconds = |seconds| now + Duration::from_secs(seconds);
        assert!(!state.is_news(in_seconds(3), now));
        assert!(state.is_news(in_seconds(30), now));
        assert!(!state.is_news(in_seconds(30), now));
        assert!(state.is_news(in_seconds(90), in_seconds(31)));
    }

    #[test]
    fn a_refusal_makes_everybody_wait() {
        let mut state = State::default();
        let now = Instant::now();
        state.refused(
            CLASS,
            &headers(&[("retry-after", "30")]),
            b"Retry later\n",
            now,
        );
        assert_eq!(
            turn(&mut state, "/other", now),
            now + Duration::from_secs(30)
        );
    }

    #[test]
    fn a_refusal_of_one_endpoint_makes_only_that_one_wait_until_another_is_refused() {
        let mut state = State::default();
        let now = Instant::now();
        let hint = headers(&[("retry-after", "60")]);
        let body = br#"{"message":{"error":"This endpoint has been requested too many times. Try again later."}}"#;
        state.refused("/projects/:id", &hint, body, now);
        assert_eq!(turn(&mut state, "/issues", now), now);
        assert_eq!(turn(&mut state, "/projects/:id", now), now + WINDOW);
        state.refused("/issues", &hint, body, now);
        assert_eq!(turn(&mut state, "/other", now), now + WINDOW);
    }

    /// How many seconds are waited after each of so many refusals with these headers, the next when the wait is over.
    fn waits(state: &mut State, hints: &HeaderMap, count: usize) -> Vec<u64> {
        let mut now = Instant::now();
        let refusals = 0..count;
        refusals
            .map(|_| {
                let wait = state.refused(CLASS, hints, b"", now);
                now += wait;
                wait.as_secs()
            })
            .collect()
    }

    #[test]
    fn a_refusal_without_a_hint_waits_longer_each_time_but_never_over_a_minute() {
        let mut state = State::default();
        assert_eq!(waits(&mut state, &headers(&[]), 6), [5, 10, 20, 40, 60, 60]);
        state.learn(CLASS, &headers(&[]), Instant::now());
        assert_eq!(
            waits(&mut State::default(), &headers(&[]), 2),
            [5, 10],
            "something went well"
        );
    }

    #[test]
    fn to_be_asked_back_at_once_is_no_hint() {
        for value in ["0", "Sun, 22 Nov 2020 10:00:00 GMT"] {
            let hints = headers(&[("retry-after", value)]);
            assert_eq!(
                waits(&mut State::default(), &hints, 8),
                [1, 2, 4, 8, 16, 32, 60, 60]
            );
        }
    }

    #[test]
    fn those_that_are_refused_together_wait_together() {
        let mut state = State::default();
        let now = Instant::now();
        for milliseconds in 0..11 {
            let now = now + Duration::from_millis(milliseconds);
            state.refused(CLASS, &headers(&[]), b"<html>", now);
        }
        assert_eq!(turn(&mut state, CLASS, now), now + FIRST_UNHINTED_WAIT);
    }

    #[test]
    fn what_is_left_is_spread_over_the_time_that_is_left() {
        let mut state = State::default();
        let start = Instant::now();
        state.learn(
            CLASS,
            &said(16, 1_795_341_610, "Sun, 22 Nov 2026 10:00:00 GMT"),
            start,
        );
        let mut turns = Vec::new();
        for left in (6..16).rev() {
            let at = turn(&mut state, CLASS, turns.last().copied().unwrap_or(start));
            state.under_way -= 1;
            state.learn(
                CLASS,
                &said(left, 1_795_341_610, "Sun, 22 Nov 2026 10:00:00 GMT"),
                start,
            );
            turns.push(at);
        }
        let span = turns[9] - start;
        assert!(
            (Duration::from_secs(8)..=Duration::from_secs(10)).contains(&span),
            "{span:?}"
        );
        assert_eq!(
            turn(&mut state, CLASS, turns[9]),
            start + Duration::from_secs(10)
        );
    }

    #[test]
    fn answers_that_overtake_each_other_do_not_raise_what_is_left() {
        let mut state = State::default();
        let now = Instant::now();
        for remaining in [300, 100, 200] {
            state.learn(
                CLASS,
                &said(remaining, 1_795_341_610, "Sun, 22 Nov 2026 10:00:00 GMT"),
                now,
            );
        }
        state.learn(
            CLASS,
            &said(599, 1_795_341_550, "Sun, 22 Nov 2026 10:00:00 GMT"),
            now,
        );
        assert_eq!(state.announced.unwrap().remaining, 100);
        state.learn(
            CLASS,
            &said(599, 1_795_341_670, "Sun, 22 Nov 2026 10:00:00 GMT"),
            now,
        );
        assert_eq!(state.announced.unwrap().remaining, 599);
    }

    #[test]
    fn a_window_far_off_that_one_answer_named_is_forgotten_when_its_time_is_over() {
        let mut state = State::default();
        let now = Instant::now();
        let date = "Sun, 22 Nov 2026 10:00:00 GMT";
        state.learn(CLASS, &said(599, u64::MAX, date), now);
        let later = now + Duration::from_secs(3600);
        state.learn(CLASS, &said(7, 1_795_341_660, date), later - WINDOW);
        assert_eq!(state.announced.unwrap().remaining, 599);
        state.learn(CLASS, &said(7, 1_795_341_660, date), later);
        assert_eq!(state.announced.unwrap().remaining, 7);
    }

    #[test]
    fn nothing_is_slowed_down_while_there_is_plenty() {
        let mut state = State::default();
        let now = Instant::now();
        state.learn(
            CLASS,
            &said(500, 1_795_341_660, "Sun, 22 Nov 2026 10:00:00 GMT"),
            now,
        );
        for _ in 0..100 {
            assert_eq!(turn(&mut state, CLASS, now), now);
        }
    }

    #[test]
    fn endpoints_are_told_apart_by_what_they_are_and_not_by_what_they_name() {
        for (path, class) in [
            ("/api/v4/projects/42", "/api/v4/projects/:id"),
            (
                "/api/v4/projects/acme%2Fwidget/issues/7/discussions",
                "/api/v4/projects/:id/issues/:id/discussions",
            ),
            (
                "/api/v4/projects/42/repository/commits/0123456789abcdef0123456789abcdef01234567",
                "/api/v4/projects/:id/repository/commits/:id",
            ),
            ("/api/v4/merge_requests", "/api/v4/merge_requests"),
        ] {
            assert_eq!(class_of(path), class);
        }
    }

    #[tokio::test]
    async fn who_waits_for_an_answer_that_does_not_come_goes_on_in_the_next_window() {
        let budget = Budget::default();
        budget.learn(
            CLASS,
            &said(7, 1_795_341_601, "Sun, 22 Nov 2026 10:00:00 GMT"),
        );
        let _slow = budget.turn(CLASS, |_| ()).await;
        let next = tokio::time::timeout(WINDOW, budget.turn(CLASS, |_| ())).await;
        assert!(next.is_ok(), "the window lasts a second");
    }

    #[tokio::test]
    async fn whoever_waits_for_an_answer_goes_on_with_it() {
        let budget = Budget::default();
        budget.learn(
            CLASS,
            &said(8, 1_795_341_660, "Sun, 22 Nov 2026 10:00:00 GMT"),
        );
        let first = budget.turn(CLASS, |_| ()).await;
        budget.lock().announced.as_mut().unwrap().next = None;
        let _second = budget.turn(CLASS, |_| ()).await;
        let begun = Instant::now();
        let third = async {
            let _third = budget.turn(CLASS, |_| ()).await;
            begun.elapsed()
        };
        let answer = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            budget.learn(
                CLASS,
                &said(500, 1_795_341_720, "Sun, 22 Nov 2026 10:00:00 GMT"),
            );
            drop(first);
        };
        let (waited, ()) = tokio::join!(third, answer);
        assert!(waited < Duration::from_secs(30), "{waited:?}");
    }
}
