//! A defect of the host's that panics while a component runs costs that run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;
use wasmtime::{Caller, Func, Instance, Module};

use super::super::bindings::cortexdb::connector::log::{Host as _, Level};
use super::*;
use crate::report::{Counters, Event, Reporter};
use crate::sandbox::engine::tenant;
use crate::sandbox::limits::Limits;

/// Panics the first time that it is told of anything.
#[derive(Default)]
struct Defective(AtomicBool);

impl Reporter for Defective {
    fn event(&self, _: &Event) {
        assert!(
            self.0.swap(true, Ordering::SeqCst),
            "this panic is part of a test"
        );
    }
}

/// Runs a guest that logs a line, in a store like that of every component.
async fn log_a_line(engine: &Engine, reporter: &Arc<Defective>) -> Result<(), CallFailure> {
    let access = Access {
        source: None,
        writer: None,
        census: Arc::default(),
        reporter: Arc::clone(reporter) as Arc<dyn Reporter>,
        counters: Arc::new(Counters::default()),
        redactor: Redactor::default(),
        limits: Limits::default(),
        stop: CancellationToken::new(),
    };
    let call = async |store: &mut Store<HostState>| {
        let wasm = r#"(module (import "" "" (func $log)) (func (export "run") (call $log)))"#;
        let module = Module::new(store.engine(), wat::parse_str(wasm).unwrap())?;
        let log = Func::wrap(&mut *store, |mut caller: Caller<'_, HostState>| {
            caller
                .data_mut()
                .log(Level::Info, "a line".into(), Vec::new())
        });
        let instance = Instance::new_async(&mut *store, &module, &[log.into()]).await?;
        let run = instance.get_typed_func::<(), ()>(&mut *store, "run")?;
        run.call_async(store, ()).await
    };
    bounded(&mut new_store(engine, access), Limit::RunTime, call).await
}

#[tokio::test]
async fn a_panic_of_the_hosts_in_a_call_is_reported_as_its_defect_and_the_next_run_goes_on() {
    let engine = tenant().unwrap();
    let reporter = Arc::new(Defective::default());
    let Err(CallFailure::Trapped(report)) = log_a_line(&engine, &reporter).await else {
        panic!("the host's panic was not reported");
    };
    assert_eq!(report.kind, "host_defect");
    assert!(
        report
            .message
            .contains("report this as a defect of the runtime"),
        "{report}"
    );
    assert!(log_a_line(&engine, &reporter).await.is_ok());
}
