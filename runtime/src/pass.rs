//! A pass that compares everything, over as many runs as it takes.
//!
//! A pass over a large source takes hours, and meanwhile deliveries come, other tenants wait, and processes are told to stop. So what an
//! interrupted run of a pass has compared is kept, stream by stream, and the run that comes next compares the others. Of those that were compared it
//! reads what is new. A pass that failed by itself begins again; what a run has compared whose process died is not kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::digest::fingerprint;
use crate::ledger::{Lease, Store, StoreError};
use crate::report::StreamState;

/// A pass that has rested for so long begins again: nobody remembers it.
const MOST_REST: Duration = Duration::from_secs(24 * 60 * 60);

/// The part of a pass that one run does.
pub(crate) struct Pass {
    store: Arc<dyn Store>,
    lease: Lease,
    mark: String,
    /// Streams that earlier runs have compared, by name.
    pub(crate) compared: BTreeSet<String>,
}

impl Pass {
    /// Goes on with the pass that was interrupted, if it compares the same: this text tells passes apart.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        lease: Lease,
        compares: &str,
        from_the_beginning: bool,
    ) -> Result<Self, StoreError> {
        let mark = fingerprint(compares.as_bytes());
        if from_the_beginning {
            store.end_pass(lease).await?;
        }
        let compared = store.go_on_with_pass(lease, &mark, MOST_REST).await?;
        Ok(Self {
            store,
            lease,
            mark,
            compared: compared.into_iter().collect(),
        })
    }

    /// Keeps what this run has compared. Whether that was anything new.
    pub(crate) async fn add(
        &self,
        streams: &BTreeMap<String, StreamState>,
    ) -> Result<bool, StoreError> {
        let new: Vec<&str> = streams
            .iter()
            .filter(|(_, state)| matches!(state, StreamState::Complete | StreamState::Off(_)))
            .map(|(stream, _)| stream.as_str())
            .filter(|stream| !self.compared.contains(*stream))
            .collect();
        // Where nothing is new, that there was a run is kept all the same.
        let known = self.compared.first().map(String::as_str);
        let kept: Vec<&str> = new.iter().copied().chain(known).collect();
        self.store
            .add_to_pass(self.lease, &self.mark, &kept)
            .await?;
        Ok(!new.is_empty())
    }

    /// It has come to its end, or failed.
    pub(crate) async fn end(self) -> Result<(), StoreError> {
        self.store.end_pass(self.lease).await
    }
}
