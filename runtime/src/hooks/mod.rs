//! Webhooks: calls of a source, from the socket to the connector.
//!
//! A call is a hint that something changed, sent once, by somebody who does not wait: whoever answers must be quick, and whoever answers
//! 2xx has promised not to lose it. So a call is proved, written down durably, and only then answered; what it points at is read later, by the
//! connector, in a run like any other. A call that never comes costs nothing but time: the next sync finds what it would have told.
//!
//! * [`proof`]: whether a call comes from the source.
//! * [`ingest`]: the route, and the one commit that many calls share.
//! * [`inbox`]: stored calls, on their way to the connector and to their fates.
//! * [`listen`]: sockets, with bounds on how many and how slow.
//! * [`pace`]: when a watching run syncs, and when it interrupts a sync.
//!
//! * [`watch`]: one connection that polls and is called.
//!
//! `runtime run --listen` has one connection, `runtime serve` many: both are a [`ingest::Reception`].

pub mod inbox;
pub mod ingest;
pub mod listen;
pub mod pace;
pub mod proof;
pub mod watch;
