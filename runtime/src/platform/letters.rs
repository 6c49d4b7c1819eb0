//! Dead letters of a connection, and what its owner wishes to become of them.
//!
//! Only who holds a connection may write to its ledger, and the API holds none. So a wish is put down and carried out by the next run,
//! which is made due at once: [`wish`] here, [`carry_out`] there. A wish names letters; one that names a letter which is gone has no effect,
//! so that carrying out twice does no harm.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cortexdb::client::Client;
use crate::cortexdb::identity::Identity;
use crate::ledger::{DeadLetter, Lease, Store};
use crate::redact::Redactor;
use crate::run::forgetting;
use crate::writer::WriterError;
use crate::writer::resend::{Answer, Sender};
use connector_store::platform::{Platform, PlatformError};

/// Letters that one wish may name.
pub const MOST_WISHED: u32 = 10_000;
/// Letters that are sent again at a time: each may be large.
const SENT_AT_ONCE: usize = 100;

/// What is to become of letters, by source id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wishes {
    /// To be sent again.
    pub retry: BTreeSet<String>,
    /// To be let go of.
    pub drop: BTreeSet<String>,
}

impl Wishes {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.retry.is_empty() && self.drop.is_empty()
    }
}

/// Why wishes were not carried out.
#[derive(Debug, thiserror::Error)]
pub enum WishError {
    /// The database.
    #[error(transparent)]
    Store(#[from] PlatformError),
    /// CortexDB, or the ledger.
    #[error(transparent)]
    Writer(#[from] WriterError),
}

fn note(connection: &str) -> String {
    format!("letters.{connection}")
}

/// What is wished for now.
pub async fn wishes(platform: &dyn Platform, connection: &str) -> Result<Wishes, PlatformError> {
    let text = platform.note(&note(connection)).await?;
    Ok(text
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default())
}

/// Adds wishes. The later one for the same letter counts.
pub async fn wish(
    platform: &dyn Platform,
    connection: &str,
    more: &Wishes,
) -> Result<Wishes, PlatformError> {
    let mut all = wishes(platform, connection).await?;
    all.retry.retain(|id| !more.drop.contains(id));
    all.drop.retain(|id| !more.retry.contains(id));
    all.retry.extend(more.retry.iter().cloned());
    all.drop.extend(more.drop.iter().cloned());
    let text = serde_json::to_string(&all)?;
    platform.set_note(&note(connection), &text, true).await?;
    Ok(all)
}

/// Does what was wished for, at the beginning of a run that holds the connection. Returns how many letters were stored and dropped.
pub async fn carry_out(
    platform: &dyn Platform,
    connection: &str,
    store: &Arc<dyn Store>,
    lease: Lease,
    cortex: Option<&(Client, Identity)>,
    redactor: &Redactor,
) -> Result<(u64, u64), WishError> {
    let wished = wishes(platform, connection).await?;
    if wished.is_empty() {
        return Ok((0, 0));
    }
    let drop: Vec<&str> = wished.drop.iter().map(String::as_str).collect();
    let dropped = store
        .drop_letters(lease, &drop)
        .await
        .map_err(PlatformError::from)?;
    let mut stored = 0;
    if let Some((client, identity)) = cortex
        && !wished.retry.is_empty()
    {
        let sender = Sender {
            client: client.clone(),
            forgetting: forgetting(Some(identity)),
            store: Arc::clone(store),
            lease,
            redactor: redactor.clone(),
        };
        let retry: Vec<&str> = wished.retry.iter().map(String::as_str).collect();
        for some in retry.chunks(SENT_AT_ONCE) {
            let kept = store.dead_letters(lease.connection, Some(some)).await;
            let kept = kept.map_err(PlatformError::from)?;
            let letters: Vec<DeadLetter> = kept.into_iter().map(|kept| kept.letter).collect();
            let answers = sender.resend(&letters).await?;
            let now = answers
                .iter()
                .filter(|(_, answer)| *answer == Answer::Stored);
            stored += now.count() as u64;
        }
    }
    // Wishes that came in the meantime stay.
    let mut left = wishes(platform, connection).await?;
    left.drop.retain(|id| !wished.drop.contains(id));
    left.retry.retain(|id| !wished.retry.contains(id));
    let text = serde_json::to_string(&left).map_err(PlatformError::from)?;
    platform.set_note(&note(connection), &text, true).await?;
    Ok((stored, dropped))
}
