//! What goes wrong between GitLab and a receiver, and what somebody else may send in GitLab's name.

use std::time::Duration;

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::Webhooks;

/// A delivery that is not what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forgery {
    /// Another token and a signature by another key: whoever guesses the address.
    WrongSecret,
    /// Neither token nor signature.
    NoSecret,
    /// The right token, but no signature: a downgrade.
    NoSignature,
    /// Rightly signed, an hour ago: a replay.
    Stale,
    /// The headers of a true delivery over a changed body: only a signature tells.
    Altered,
    /// Rightly signed by the right hook, about a project that does not exist here.
    Foreign,
}

impl Forgery {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::WrongSecret,
        Self::NoSecret,
        Self::NoSignature,
        Self::Stale,
        Self::Altered,
        Self::Foreign,
    ];
}

/// What goes wrong with every delivery. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookFaults {
    /// Seed of what is decided by chance.
    pub seed: u64,
    /// Each delivery is sent so many times more, with the same key.
    pub duplicate: u32,
    /// This share of the events, from 0 to 1, is never sent.
    pub drop_share: f64,
    /// Each event waits so long before its body is built.
    pub delay_ms: u64,
    /// And up to so long more, by chance: this is what mixes the order.
    pub jitter_ms: u64,
    /// The body is cut to so many bytes, under a `Content-Length` that fits; the signature is that of the whole.
    pub truncate: Option<usize>,
    /// The body ends after so many bytes, under the full `Content-Length`; then the connection closes.
    pub break_off: Option<usize>,
    /// After each true delivery, one of each of these.
    pub forge: Vec<Forgery>,
    /// Replaces every body, as `custom_webhook_template` does for one hook: `{{object_attributes.id}}` stands for a value.
    pub template: Option<String>,
}

/// What the faults do to one event.
#[derive(Clone, Debug)]
pub(super) struct Fate {
    pub(super) wait: Duration,
    pub(super) dropped: bool,
    pub(super) copies: u32,
    pub(super) forge: Vec<Forgery>,
}

impl Webhooks {
    pub(super) fn fate(&mut self) -> Fate {
        let faults = &self.faults;
        let jitter = match faults.jitter_ms {
            0 => 0,
            most => self.rng.random_range(0..=most),
        };
        let share = faults.drop_share.clamp(0.0, 1.0);
        Fate {
            wait: Duration::from_millis(faults.delay_ms.saturating_add(jitter)),
            dropped: share > 0.0 && self.rng.random_bool(share),
            copies: faults.duplicate.saturating_add(1),
            forge: faults.forge.clone(),
        }
    }
}
