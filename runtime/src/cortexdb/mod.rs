//! CortexDB as the runtime sees it: who we are there, how a batch is written so that nothing is lost, how a version is forgotten.
//!
//! * [`envelope`]: the wire form and its rules.
//! * [`labels`]: labels as they are sent, and what is read back from them.
//! * [`client`]: one authenticated connection, with retries and the classes of failure.
//! * [`identity`]: `whoami`, and what the token may do.
//! * [`batch`]: envelopes that are written together.
//! * [`bulk`]: writing many envelopes; every item gets a fate.
//! * [`listing`]: what a scope holds.

pub mod batch;
pub mod bulk;
pub mod client;
pub mod envelope;
pub mod identity;
pub mod labels;
pub mod listing;
