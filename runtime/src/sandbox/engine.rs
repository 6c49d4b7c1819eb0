//! The engine: one configuration in one function, and the ticker behind its time limits.
//!
//! Component-model async is not even compiled in, and concurrency support is off: HTTP is a completion queue, so nothing needs them, and most of the engine's
//! security advisories of the last year were in that code. Epochs are on: a component that does not give control back is
//! interrupted within one tick.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wasmtime::{Config, Engine, OptLevel};

/// How often the engine looks whether a component has used up its time. Shorter costs more, longer makes limits coarser.
pub const TICK: Duration = Duration::from_millis(10);

/// The engine for components of the first party, which the user chose and runs on an own machine.
pub fn first_party() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .concurrency_support(false)
        .wasm_gc(false)
        .wasm_function_references(false)
        .wasm_exceptions(false)
        .wasm_memory64(false)
        .wasm_threads(false)
        .wasm_tail_call(false)
        .wasm_relaxed_simd(false)
        .max_wasm_stack(512 << 10)
        .async_stack_size(2 << 20);
    Engine::new(&config)
}

/// A thread that advances the engine's epoch every [`TICK`]. Without it no time limit works, so whoever runs components holds one.
#[derive(Debug)]
pub struct Ticker {
    stop: Arc<AtomicBool>,
}

impl Ticker {
    /// Starts ticking.
    pub fn start(engine: &Engine) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (engine, stopped) = (engine.weak(), Arc::clone(&stop));
        std::thread::Builder::new()
            .name("epoch-ticker".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    std::thread::sleep(TICK);
                    match engine.upgrade() {
                        Some(engine) => engine.increment_epoch(),
                        None => return,
                    }
                }
            })?;
        Ok(Self { stop })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
