//! A CortexDB v1 server that remembers everything and can be told to misbehave.
//!
//! The product writes to a closed-source server, so the tests write to this one. It follows the published contract, not
//! our client: closed envelopes, idempotency with a time to live, forget with its dangers, listings that show every event
//! twice. Where the sources of the contract disagree, [`Options`] has a switch and the default is a reading that at
//! least one measured server shows. Faults are scripted by rule ([`FaultRule`]) and always include the worst one: the
//! connection that dies *after* the write was applied.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use simulators::cortex::{Fault, FaultRule, Options, Route, Server};
//!
//! let server = Server::start(Options::full("secret")).await?;
//! server.cortex().add_fault(FaultRule::on(Route::Bulk, Fault::CloseAfterWrite).times(1));
//! // ... point the product at server.url() ...
//! assert!(server.cortex().invariant_violations().is_empty());
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! | module | concern |
//! |---|---|
//! | `envelope` | is this envelope one that the server takes? |
//! | `store` | events, keys, scopes: what was written |
//! | `write`, `forget`, `listing`, `identity` | the routes |
//! | `fault`, `limit` | scripted misbehaviour, rate limits |
//! | `journal`, `invariants` | what tests ask afterwards |
//! | `server`, `wire`, `control` | HTTP, connections that can be cut, the control API of the binary |

mod answer;
mod clock;
mod control;
mod envelope;
mod fault;
mod forget;
mod identity;
mod invariants;
mod journal;
mod limit;
mod listing;
mod options;
mod reply;
mod route;
mod server;
mod store;
mod wire;
mod write;

#[cfg(test)]
mod tests;

pub use answer::Cortex;
pub use clock::Clock;
pub use envelope::{
    BUILTIN_SCOPE_TYPES, MAX_CONTENT_BYTES, MAX_DESCRIPTOR_BYTES, MAX_KEY_BYTES, Policy,
    validate_envelope,
};
pub use fault::{Fault, FaultRule};
pub use identity::{Credential, Issuer};
pub use journal::{RequestRecord, RouteStats, Stats};
pub use limit::RateLimit;
pub use options::{
    BulkReply, BulkScope, EventIdForm, ItemIdField, ItemRefusal, Options, OrderingValues,
    RedactedListing, ScopeFilter,
};
pub use route::Route;
pub use server::Server;
pub use store::{Event, EventState, IndexState};
