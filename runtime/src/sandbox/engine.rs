//! The engines: each one configuration in one function, and the ticker behind their time limits.
//!
//! Component-model async is not even compiled in, and concurrency support is off: HTTP is a completion queue, so nothing needs them, and
//! most of the engine's security advisories of the last year were in that code, in the garbage collector and in exceptions. Epochs are on: a
//! component that does not give control back is interrupted within one tick.
//!
//! `runtime run` uses [`tenant`] for every component, `gitlab.wasm` included: nothing tells a file that came with the host from one that did
//! not. `make bench` compares both engines. See `docs/decisions/015-one-engine-in-run.md`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wasmtime::{Config, Engine, OptLevel};

/// How often the engine looks whether a component has used up its time. Shorter costs more, longer makes limits coarser.
pub const TICK: Duration = Duration::from_millis(10);

/// The stack of a component. Rust's own stack lies in linear memory and is 1 MiB; this one holds what the compiler keeps beside it. Not to
/// be configured: it is a property of the engine, and recursion that needs more is a defect.
pub const STACK_BYTES: usize = 512 << 10;

/// The engine for code that nobody vouches for.
///
/// Off: asynchronous components, the collector and function references, exceptions, 64-bit memories, threads, tail calls, relaxed SIMD.
/// On: several memories, because composed components need them (and wasmtime 48 panics while compiling such a component where they are off).
pub fn tenant() -> wasmtime::Result<Engine> {
    let mut config = config();
    config.wasm_tail_call(false).wasm_relaxed_simd(false);
    Engine::new(&config)
}

/// The engine for components that ship with the host: the same, and the language features whose code generation is as old and as plain as
/// the rest (tail calls, relaxed SIMD).
pub fn first_party() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

/// What both have. `make bench` takes the epochs away to see what they cost; nothing that is run goes without them.
#[must_use]
pub fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .concurrency_support(false)
        .wasm_multi_memory(true)
        .wasm_gc(false)
        .wasm_function_references(false)
        .wasm_exceptions(false)
        .wasm_memory64(false)
        .wasm_threads(false)
        .max_wasm_stack(STACK_BYTES)
        .async_stack_size(4 * STACK_BYTES)
        // Tables for debuggers, and for offsets within functions. Reports name functions, which needs neither, and a third of the compiled
        // code would have to be authenticated and copied at each start.
        .generate_address_map(false)
        .native_unwind_info(false);
    config
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

/// An engine for code that nobody vouches for, and its ticker. Components of one process may share one: it ticks once for all of them.
pub struct LiveEngine {
    engine: Engine,
    _ticker: Ticker,
}

impl LiveEngine {
    /// See [`tenant`].
    pub fn tenant() -> wasmtime::Result<Arc<Self>> {
        let engine = tenant()?;
        let ticker = Ticker::start(&engine)?;
        Ok(Arc::new(Self {
            engine,
            _ticker: ticker,
        }))
    }

    /// The engine itself.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use wasmtime::{Instance, Module, Store, Trap};

    use super::*;

    /// `(module (func (export "f") (loop (br 0))))`
    const ENDLESS: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x05\x01\x01f\0\0\x0a\x09\x01\x07\0\x03\x40\x0c\0\x0b\x0b";
    /// `(module (func return_call 0))`
    const TAIL_CALL: &[u8] =
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a\x06\x01\x04\0\x12\0\x0b";

    /// Runs an endless loop that may go on for three ticks. `None`: nothing stopped it.
    fn endless(engine: &Engine, patience: Duration) -> Option<Trap> {
        let (done, wait) = mpsc::channel();
        let engine = engine.clone();
        std::thread::spawn(move || {
            let module = Module::new(&engine, ENDLESS).unwrap();
            let mut store = Store::new(&engine, ());
            store.set_epoch_deadline(3);
            let instance = Instance::new(&mut store, &module, &[]).unwrap();
            let looping = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
            let error = looping.call(&mut store, ()).unwrap_err();
            let _ = done.send(*error.downcast_ref::<Trap>().unwrap());
        });
        wait.recv_timeout(patience).ok()
    }

    #[test]
    fn the_ticker_ticks_so_an_endless_loop_ends() {
        let engine = tenant().unwrap();
        let _ticker = Ticker::start(&engine).unwrap();
        assert_eq!(
            endless(&engine, Duration::from_secs(30)),
            Some(Trap::Interrupt)
        );
    }

    #[test]
    fn without_a_ticker_nothing_stops_it_so_the_test_above_proves_something() {
        let engine = tenant().unwrap();
        drop(Ticker::start(&engine).unwrap());
        std::thread::sleep(TICK * 10);
        assert_eq!(endless(&engine, TICK * 30), None);
        // Lets the thread of this test end.
        for _ in 0..5 {
            engine.increment_epoch();
        }
    }

    #[test]
    fn what_first_party_code_may_use_a_tenants_may_not() {
        assert!(Module::new(&first_party().unwrap(), TAIL_CALL).is_ok());
        let refused = Module::new(&tenant().unwrap(), TAIL_CALL).unwrap_err();
        assert!(format!("{refused:#}").contains("tail call"), "{refused:#}");
    }

    #[test]
    fn both_engines_validate_no_more_than_the_rules_say() {
        use super::super::rules::features;
        use wasmparser::WasmFeatures;
        for off in [
            WasmFeatures::CM_ASYNC,
            WasmFeatures::GC,
            WasmFeatures::EXCEPTIONS,
            WasmFeatures::MEMORY64,
            WasmFeatures::THREADS,
            WasmFeatures::TAIL_CALL,
        ] {
            assert!(!features().intersects(off));
        }
        assert!(features().contains(WasmFeatures::MULTI_MEMORY));
    }
}
