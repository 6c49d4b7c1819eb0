//! The sandbox: what a component is, before and while it runs.
//!
//! * [`admission`]: from a file to a component that may run, or a refusal that names the rule.
//! * [`inspect`]: what a file imports and exports, read without compiling it.
//! * [`rules`]: what a component must be to be compiled.
//! * [`compiler`]: the child process that compiles.
//! * [`cache`]: compiled components, kept between runs.
//! * [`engine`]: the engines, each in one function, and the ticker that makes their time limits real.
//! * [`limits`]: what a run may use, in one table.
//! * [`meter`]: what it has used.
//! * [`trap`]: what is told of a component that was stopped.

pub mod admission;
pub mod cache;
pub mod compiler;
pub mod engine;
pub mod inspect;
pub mod limits;
pub mod meter;
pub mod rules;
pub mod trap;
