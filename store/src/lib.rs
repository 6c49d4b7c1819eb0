//! Durable memory: what must survive the process, and who may write it.
//!
//! A crate of its own so that its tests need no WebAssembly engine, and a change of the host does not build it again.

pub mod ledger;
pub mod platform;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
