//! The way to the source: one origin, the token added by the host, patience and politeness.
//!
//! A component names a path. Everything that decides where bytes go and whose token travels with them is here: the base URL is fixed by
//! configuration, redirects are followed on the same origin only, and the token is added last. Passing failures are repeated here, so
//! that a connector's author never writes a retry loop, and the source's rate limit is kept for all requests of a run together.
//!
//! * [`client`]: one request, from first attempt to final answer.
//! * [`budget`]: when the next request may start.
//! * [`request`]: what a component may ask for.

pub mod budget;
pub mod client;
pub mod request;
mod starts;
