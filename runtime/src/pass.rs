//! A pass that compares everything, over as many runs as it takes.
//!
//! A pass over a large source takes hours, and meanwhile deliveries come, other tenants wait, and processes end. So what a pass has
//! compared is kept, stream by stream, and the run that comes next goes on with the other streams. A deletion is found once in a pass, whichever run
//! comes to its stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::digest::fingerprint;
use crate::ledger::{Lease, Store, StoreError};
use crate::report::StreamState;

/// A pass in which nothing was compared for so long begins again: nobody remembers it.
const MOST_REST: Duration = Duration::from_secs(24 * 60 * 60);

/// The part of a pass that one run does.
pub(crate) struct Pass {
    store: Arc<dyn Store>,
    lease: Lease,
    mark: String,
    /// Streams that earlier runs have compared, by name.
    pub(crate) compared: Vec<String>,
}

impl Pass {
    /// Goes on with the pass that broke off, if it compares the same: these texts tell passes apart.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        lease: Lease,
        compares: &[&String],
        from_the_beginning: bool,
    ) -> Result<Self, StoreError> {
        let mark = fingerprint(format!("{compares:?}").as_bytes());
        if from_the_beginning {
            store.end_pass(lease).await?;
        }
        let compared = store.go_on_with_pass(lease, &mark, MOST_REST).await?;
        Ok(Self {
            store,
            lease,
            mark,
            compared,
        })
    }

    /// Keeps what this run has compared. Whether that was anything.
    pub(crate) async fn add(
        &self,
        streams: &BTreeMap<String, StreamState>,
    ) -> Result<bool, StoreError> {
        let compared: Vec<&str> = streams
            .iter()
            .filter(|(_, state)| matches!(state, StreamState::Complete | StreamState::Off(_)))
            .map(|(stream, _)| stream.as_str())
            .collect();
        if compared.is_empty() {
            return Ok(false);
        }
        let (lease, mark) = (self.lease, &self.mark);
        self.store.add_to_pass(lease, mark, &compared).await?;
        Ok(true)
    }

    /// The last run of a pass has come to its end. Adds the streams of the earlier ones, so that it can be said what no run has read.
    pub(crate) async fn end(
        self,
        streams: &mut BTreeMap<String, StreamState>,
    ) -> Result<(), StoreError> {
        for stream in self.compared {
            streams.entry(stream).or_insert(StreamState::Complete);
        }
        self.store.end_pass(self.lease).await
    }
}
