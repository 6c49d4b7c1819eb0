//! Types and traits generated from `wit/`, version 0.1.0 of the package.
//!
//! The world is the one with hooks, although a connector need not have them: the interfaces are looked up one by one
//! ([`super::connector`]), so that both share one set of types.
//!
//! One module for each published version: when 0.2 comes, this one stays, and old components keep running.

#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "connector-with-hooks",
    imports: {
        "cortexdb:connector/http.next": async | trappable,
        "cortexdb:connector/state.set": async | trappable,
        "cortexdb:connector/writer.write": async | trappable,
        "cortexdb:connector/writer.retract": async | trappable,
        "cortexdb:connector/writer.known": async | trappable,
        "cortexdb:connector/writer.held": async | trappable,
        "cortexdb:connector/writer.unlisted": async | trappable,
        default: trappable,
    },
    exports: { default: async },
});

/// World `mapper`, with the types of the connector's.
pub mod mapper {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "mapper",
        with: {
            "cortexdb:connector/types": super::cortexdb::connector::types,
            "cortexdb:connector/log": super::cortexdb::connector::log,
        },
        imports: { default: trappable },
        exports: { default: async },
    });
}
