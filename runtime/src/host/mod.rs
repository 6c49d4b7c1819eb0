//! The host: what a component can call, and how it is called.
//!
//! * [`bindings`]: generated from `wit/`.
//! * [`imports`]: `http`, `state`, `writer`, `log`.
//! * `guest_text`: text that comes from a component, bounded and printable before it goes anywhere.
//! * [`connector`]: a loaded connector and its three functions.
//! * `schema`: the schema that a component gives of its settings, and settings that are held to it.
//! * [`hooks`]: what is said between host and connector about webhooks.
//! * [`wasi`]: the empty context of mappers that import WASI.
//! * [`mapper`]: a loaded mapper, and an instance that maps pages.

pub mod bindings;
pub mod connector;
pub(crate) mod guest_text;
pub mod hooks;
pub mod imports;
pub mod mapper;
pub(crate) mod schema;
pub mod wasi;
