//! The sandbox: what a component is, before and while it runs.
//!
//! * [`inspect`]: what a file imports and exports, read without compiling it.
//! * [`engine`]: one engine configuration, in one function, and the ticker that makes its time limits real.
//! * [`cache`]: compiled components, kept between runs.
//! * [`limits`]: what a run may use.

pub mod cache;
pub mod engine;
pub mod inspect;
pub mod limits;
