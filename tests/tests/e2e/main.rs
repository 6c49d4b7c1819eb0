//! End to end: the released `dist/runtime` runs the built `dist/gitlab.wasm` against both simulators.
//!
//! Nothing is mocked between the two servers: the tests see what a user sees (exit codes, output, files) and what the servers see
//! (requests, events). Build first: `make build`.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test may fail where it stands, and shares its setup between files"
)]

mod backfill;
mod change;
mod command_line;
mod compiled;
mod component;
mod crashes;
mod dead_letters;
mod economy;
mod egress;
mod examples;
mod faults;
mod hooks;
mod hostile;
mod lost_ledger;
mod lost_receipts;
mod machine;
mod mappers;
mod moved_projects;
mod platform;
mod reconcile;
mod secrets;
mod setup;
mod soak;
mod state;
mod timeouts;
mod watch;
