//! `runtime serve`: many tenants, two databases, and processes that die.

mod failures;
pub(crate) mod house;
mod runs;
