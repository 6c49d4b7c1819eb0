//! From stored deliveries to the connector, and from its verdicts to their fates.
//!
//! Deliveries are handed over in batches, and a batch that fails comes again. One delivery that the connector cannot live with must not
//! take the others along for ever: what has failed twice is handed over alone. After [`MOST_ATTEMPTS`] a delivery is given up and a sync asked
//! for, which finds whatever it pointed at.

use std::time::Duration;

use connector_store::ledger::Lease;
use connector_store::platform::{
    Delivery as Row, DeliveryState, DeliveryVerdict, Platform, PlatformError,
};

use crate::host::hooks::{BATCH_BYTES, BATCH_DELIVERIES, Delivery, Verdict};
use crate::report::Outcome;
use crate::run::{Answer, Ended};

/// After so many a delivery is left to the sync.
pub const MOST_ATTEMPTS: u32 = 10;
/// What has failed this often is tried alone.
const ALONE_AFTER: u32 = 2;
/// Before the second attempt; doubled with each.
const FIRST_DELAY: Duration = Duration::from_secs(5);
const LONGEST_DELAY: Duration = Duration::from_secs(600);
/// The words that are kept with a delivery.
const MAX_REASON_CHARS: usize = 2000;

/// Deliveries that are handed over together.
#[derive(Debug, Default)]
pub struct Batch {
    rows: Vec<Row>,
    deliveries: Vec<Delivery>,
}

impl Batch {
    /// The next deliveries of a connection. Empty: none is due.
    pub async fn next(platform: &dyn Platform, connection: i64) -> Result<Self, PlatformError> {
        let waiting = platform
            .waiting(connection, BATCH_DELIVERIES, BATCH_BYTES)
            .await?;
        Ok(Self::of(waiting))
    }

    fn of(waiting: Vec<(Row, Vec<u8>)>) -> Self {
        let failed = |row: &Row| row.attempts >= ALONE_AFTER;
        let some_are_fresh = waiting.iter().any(|(row, _)| !failed(row));
        let chosen = waiting.into_iter();
        let chosen: Vec<(Row, Vec<u8>)> = if some_are_fresh {
            chosen.filter(|(row, _)| !failed(row)).collect()
        } else {
            chosen.take(1).collect()
        };
        let mut batch = Self::default();
        for (row, body) in chosen {
            batch.deliveries.push(Delivery {
                id: row.key.clone(),
                received_at: row.received_at.clone(),
                headers: row
                    .headers
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                    .collect(),
                body: String::from_utf8(body)
                    .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
            });
            batch.rows.push(row);
        }
        batch
    }

    /// The deliveries as they are stored.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// What the connector gets. Leaves the rows for [`Self::settle`].
    pub fn take_deliveries(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }

    /// Writes down what became of them, under the lease of the run that tried.
    pub async fn settle(
        &self,
        platform: &dyn Platform,
        lease: Lease,
        ended: &Ended,
    ) -> Result<Settled, PlatformError> {
        let (verdicts, settled) = self.fates(ended);
        if !verdicts.is_empty() {
            let retry_in = settled.retry_in.unwrap_or(FIRST_DELAY);
            platform
                .settle_deliveries(lease, &verdicts, retry_in)
                .await?;
        }
        Ok(settled)
    }

    /// Leaves all of them to the next sync: the connector does not understand webhooks.
    pub async fn leave_to_poll(
        &self,
        platform: &dyn Platform,
        lease: Lease,
    ) -> Result<(), PlatformError> {
        let verdicts: Vec<DeliveryVerdict> = self
            .rows
            .iter()
            .map(|row| DeliveryVerdict {
                id: row.id.clone(),
                state: DeliveryState::Polled,
                reason: Some("this connector does not understand webhooks".into()),
            })
            .collect();
        platform
            .settle_deliveries(lease, &verdicts, FIRST_DELAY)
            .await
    }

    fn fates(&self, ended: &Ended) -> (Vec<DeliveryVerdict>, Settled) {
        let mut settled = Settled::default();
        let fate = |row: &Row, state: DeliveryState, reason: Option<&str>| DeliveryVerdict {
            id: row.id.clone(),
            state,
            reason: reason.map(|words| words.chars().take(MAX_REASON_CHARS).collect()),
        };
        if let Answer::Verdicts(verdicts) = &ended.answer
            && verdicts.len() == self.rows.len()
            && matches!(
                ended.outcome,
                Outcome::Complete | Outcome::CompleteWithDeadLetters
            )
        {
            let fates = self.rows.iter().zip(verdicts).map(|(row, verdict)| {
                let (state, reason) = match verdict {
                    Verdict::Handled => (DeliveryState::Handled, None),
                    Verdict::Ignored(words) => (DeliveryState::Ignored, Some(words.as_str())),
                    Verdict::Poll(words) => (DeliveryState::Polled, Some(words.as_str())),
                };
                settled.wants_sync |= state == DeliveryState::Polled;
                fate(row, state, reason)
            });
            return (fates.collect(), settled);
        }
        // Whoever stopped the run has nothing against the deliveries.
        if ended.outcome == Outcome::Interrupted {
            return (Vec::new(), settled);
        }
        let reason = ended.reason.as_deref().unwrap_or("it failed");
        let mut fates = Vec::new();
        for row in &self.rows {
            let attempts = row.attempts + 1;
            if attempts >= MOST_ATTEMPTS {
                settled.given_up += 1;
                settled.wants_sync = true;
                fates.push(fate(row, DeliveryState::Failed, Some(reason)));
            } else {
                let delay = delay_after(attempts);
                settled.retry_in = Some(settled.retry_in.unwrap_or(delay).max(delay));
                fates.push(fate(row, DeliveryState::Waiting, Some(reason)));
            }
        }
        (fates, settled)
    }
}

/// What follows from the fates of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settled {
    /// A sync is to follow soon.
    pub wants_sync: bool,
    /// Some are tried again after this time.
    pub retry_in: Option<Duration>,
    /// So many will not be tried again.
    pub given_up: u64,
}

/// 5 s, 10 s, 20 s, ... 10 min.
fn delay_after(attempts: u32) -> Duration {
    let factor = 2_u32.saturating_pow(attempts.saturating_sub(1).min(16));
    FIRST_DELAY.saturating_mul(factor).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, attempts: u32) -> (Row, Vec<u8>) {
        let row = Row {
            id: id.into(),
            connection: 1,
            key: format!("key-{id}"),
            headers: serde_json::json!({"x-gitlab-event": "Note Hook", "odd": 7}),
            bytes: 2,
            trace: String::new(),
            state: DeliveryState::Waiting,
            reason: None,
            attempts,
            replayed: false,
            received_at: "2026-11-22T10:00:00.000Z".into(),
            settled_at: None,
        };
        (row, b"{\xff}".to_vec())
    }

    fn ended(outcome: Outcome, answer: Answer) -> Ended {
        Ended {
            outcome,
            reason: Some("the source is away".into()),
            comparison: None,
            answer,
        }
    }

    fn ids(batch: &Batch) -> Vec<&str> {
        batch.rows.iter().map(|row| row.id.as_str()).collect()
    }

    #[test]
    fn what_has_failed_twice_is_handed_over_alone_and_after_the_others() {
        let waiting = vec![row("a", 2), row("b", 0), row("c", 1)];
        assert_eq!(ids(&Batch::of(waiting)), ["b", "c"]);
        assert_eq!(ids(&Batch::of(vec![row("a", 2), row("d", 5)])), ["a"]);
        assert!(Batch::of(vec![]).is_empty());
    }

    #[test]
    fn a_body_that_is_no_text_is_handed_over_all_the_same() {
        let mut batch = Batch::of(vec![row("a", 0)]);
        let delivery = &batch.take_deliveries()[0];
        assert_eq!(delivery.body, "{\u{fffd}}");
        assert_eq!(delivery.id, "key-a");
        assert_eq!(
            delivery.headers,
            [("x-gitlab-event".to_owned(), "Note Hook".to_owned())]
        );
    }

    #[test]
    fn each_verdict_is_a_fate_and_one_that_asks_for_it_brings_a_sync() {
        let batch = Batch::of(vec![row("a", 0), row("b", 0), row("c", 0)]);
        let verdicts = vec![
            Verdict::Handled,
            Verdict::Ignored("a wiki page".into()),
            Verdict::Poll("cut short".into()),
        ];
        let (fates, settled) = batch.fates(&ended(Outcome::Complete, Answer::Verdicts(verdicts)));
        let states: Vec<_> = fates.iter().map(|fate| fate.state).collect();
        assert_eq!(
            states,
            [
                DeliveryState::Handled,
                DeliveryState::Ignored,
                DeliveryState::Polled
            ]
        );
        assert_eq!(fates[2].reason.as_deref(), Some("cut short"));
        assert!(settled.wants_sync && settled.retry_in.is_none());
    }

    #[test]
    fn a_failure_counts_and_waits_longer_each_time_until_it_is_left_to_the_sync() {
        let batch = Batch::of(vec![row("a", 0), row("b", 1)]);
        let (fates, settled) = batch.fates(&ended(Outcome::Failed, Answer::Nothing));
        assert!(
            fates
                .iter()
                .all(|fate| fate.state == DeliveryState::Waiting)
        );
        assert_eq!(settled.retry_in, Some(Duration::from_secs(10)));
        let batch = Batch::of(vec![row("a", MOST_ATTEMPTS - 1)]);
        let (fates, settled) = batch.fates(&ended(Outcome::Failed, Answer::Nothing));
        assert_eq!(fates[0].state, DeliveryState::Failed);
        assert_eq!(fates[0].reason.as_deref(), Some("the source is away"));
        assert!(settled.wants_sync);
        assert_eq!(settled.given_up, 1);
        assert_eq!(delay_after(1), FIRST_DELAY);
        assert_eq!(delay_after(u32::MAX), LONGEST_DELAY);
    }

    #[test]
    fn a_run_that_was_stopped_is_no_attempt() {
        let batch = Batch::of(vec![row("a", 0)]);
        let (fates, _) = batch.fates(&ended(Outcome::Interrupted, Answer::Nothing));
        assert!(fates.is_empty());
    }
}
