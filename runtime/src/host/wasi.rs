//! The empty WASI context: for mappers whose toolchain imports WASI whatever they do.
//!
//! There are no files, no environment, no arguments, no sockets and no names to look up; what is printed goes nowhere. Clocks stand still and
//! random numbers are the same for everybody, because a mapper has to make the same of the same page, and because a language that seeds
//! its hash tables at the start would otherwise be impure through no fault of its author.

use std::time::Duration;

use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::random::Deterministic;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView};

use super::imports::HostState;

/// Random bytes that one call may ask for.
const MAX_RANDOM_BYTES: u64 = 64 << 10;

/// Begins of the packages that the context answers. HTTP is not among them.
pub const PACKAGES: [&str; 6] = [
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

struct Still;

impl HostWallClock for Still {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for Still {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        0
    }
}

/// What one instance has of it.
pub struct EmptyContext {
    context: WasiCtx,
    table: ResourceTable,
}

impl Default for EmptyContext {
    fn default() -> Self {
        let bytes = || Deterministic::new((0..=255).collect());
        let mut context = WasiCtx::builder();
        context
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(MAX_RANDOM_BYTES)
            .secure_random(bytes())
            .insecure_random(bytes())
            .insecure_random_seed(0)
            .wall_clock(Still)
            .monotonic_clock(Still);
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        Self {
            context: context.build(),
            table,
        }
    }
}

/// Resources that one instance may hold: the host keeps each.
const MAX_RESOURCES: usize = 1000;

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let EmptyContext { context, table } = self.wasi.get_or_insert_default().as_mut();
        WasiCtxView {
            ctx: context,
            table,
        }
    }
}

/// Lets a mapper import WASI.
pub(super) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)
}
