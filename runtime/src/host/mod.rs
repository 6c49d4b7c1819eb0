//! The host: what a component can call, and how it is called.
//!
//! * [`bindings`]: generated from `wit/`.
//! * [`imports`]: `http`, `state`, `writer`, `log`.
//! * [`connector`]: a loaded connector and its three functions.

pub mod bindings;
pub mod connector;
pub mod imports;
