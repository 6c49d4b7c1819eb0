//! What tests need of a store: a PostgreSQL of their own.
//!
//! Here and not beside the tests because the tests of other crates, which drive the built program, need it too (feature `testing`).

pub mod postgres;
