//! `runtime serve`: many tenants, two databases, and processes that die.

mod deliveries;
mod failures;
pub(crate) mod house;
mod restores;
mod runs;
mod script;
