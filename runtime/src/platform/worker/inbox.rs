//! Deliveries on their way through a run: what the connector is given, and what becomes of each afterwards.

use std::time::Duration;

use crate::host::hooks::{Delivery as Given, Verdict};
use crate::run::Answer;
use connector_store::platform::{Delivery, DeliveryState, DeliveryVerdict};

/// Attempts after which a delivery is left to the poll.
const MOST_ATTEMPTS: u32 = 10;
/// The first pause before deliveries of a run that failed are tried again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

/// What the connector is given of a stored delivery.
pub(super) fn given(delivery: &Delivery, body: &[u8]) -> Given {
    let headers = delivery.headers.as_object().into_iter().flatten();
    Given {
        id: delivery.key.clone(),
        received_at: delivery.received_at.clone(),
        headers: headers
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
        body: String::from_utf8_lossy(body).into_owned(),
    }
}

/// The fates of a batch after an attempt.
pub(super) struct Fates {
    /// One for each delivery.
    pub(super) verdicts: Vec<DeliveryVerdict>,
    /// When those that still wait are tried again.
    pub(super) retry_in: Duration,
    /// A sync is to follow: something could not be followed to a record.
    pub(super) poll: bool,
}

/// `reason` is why the run failed, where it did.
pub(super) fn fates(batch: &[Delivery], answer: &Answer, reason: Option<&str>) -> Fates {
    let mut poll = false;
    let verdicts = batch.iter().enumerate().map(|(place, delivery)| {
        let verdict = match answer {
            Answer::Verdicts(verdicts) => verdicts.get(place),
            _ => None,
        };
        let (state, why) = match verdict {
            Some(Verdict::Handled) => (DeliveryState::Handled, None),
            Some(Verdict::Ignored(words)) => (DeliveryState::Ignored, Some(words.clone())),
            Some(Verdict::Poll(words)) => (DeliveryState::Polled, Some(words.clone())),
            None if delivery.attempts + 1 >= MOST_ATTEMPTS => {
                (DeliveryState::Failed, reason.map(str::to_owned))
            }
            None => (DeliveryState::Waiting, reason.map(str::to_owned)),
        };
        poll |= matches!(state, DeliveryState::Polled | DeliveryState::Failed);
        DeliveryVerdict {
            id: delivery.id.clone(),
            state,
            reason: why,
        }
    });
    let verdicts = verdicts.collect();
    let attempts = batch.iter().map(|delivery| delivery.attempts).max();
    Fates {
        verdicts,
        retry_in: FIRST_PAUSE
            .saturating_mul(1 << attempts.unwrap_or(0).min(12))
            .min(LONGEST_PAUSE),
        poll,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn delivery(id: &str, attempts: u32) -> Delivery {
        Delivery {
            id: id.into(),
            connection: 1,
            key: format!("key-{id}"),
            headers: json!({"x-gitlab-event": "Push Hook", "broken": 1}),
            bytes: 2,
            trace: String::new(),
            state: DeliveryState::Waiting,
            reason: None,
            attempts,
            received_at: "2026-11-23T00:00:00.000Z".into(),
            settled_at: None,
        }
    }

    #[test]
    fn the_connector_gets_the_key_the_texts_of_headers_and_readable_bytes() {
        let given = given(&delivery("a", 0), b"{\xff}");
        assert_eq!(given.id, "key-a");
        assert_eq!(
            given.headers,
            [("x-gitlab-event".to_owned(), "Push Hook".to_owned())]
        );
        assert_eq!(given.body, "{\u{fffd}}");
    }

    #[test]
    fn what_was_answered_is_settled_and_what_cannot_be_followed_calls_for_a_sync() {
        let batch = [delivery("a", 0), delivery("b", 0), delivery("c", 0)];
        let answer = Answer::Verdicts(vec![
            Verdict::Handled,
            Verdict::Ignored("wiki".into()),
            Verdict::Poll("cut short".into()),
        ]);
        let fates = fates(&batch, &answer, None);
        let states: Vec<_> = fates.verdicts.iter().map(|one| one.state).collect();
        assert_eq!(
            states,
            [
                DeliveryState::Handled,
                DeliveryState::Ignored,
                DeliveryState::Polled
            ]
        );
        assert!(fates.poll);
    }

    #[test]
    fn after_a_failure_deliveries_wait_longer_and_longer_and_are_left_to_the_poll_at_last() {
        let batch = [delivery("a", 0), delivery("b", MOST_ATTEMPTS - 1)];
        let after = fates(&batch, &Answer::Nothing, Some("GitLab is down"));
        assert_eq!(after.verdicts[0].state, DeliveryState::Waiting);
        assert_eq!(after.verdicts[1].state, DeliveryState::Failed);
        assert_eq!(after.verdicts[1].reason.as_deref(), Some("GitLab is down"));
        assert!(after.poll);
        let first = fates(&batch[..1], &Answer::Nothing, None);
        assert!(!first.poll && first.retry_in < after.retry_in);
        assert_eq!(after.retry_in, LONGEST_PAUSE);
    }
}
