//! The component in an engine of the product's, with its epochs, on a host that answers from memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use connector_runtime::host::bindings::ConnectorWithHooks;
use connector_runtime::host::bindings::cortexdb::connector::{http, log, state, types, writer};
use connector_runtime::host::bindings::exports::cortexdb::connector::source;
use connector_runtime::sandbox::cache::CodeCache;
use connector_runtime::sandbox::engine::Ticker;
use connector_runtime::sandbox::limits::{Limit, Limits};
use connector_runtime::sandbox::meter::Meter;
use gitlab_component::host::RunContext;
use wasmtime::component::{Component, HasSelf, InstancePre, Linker};
use wasmtime::{Engine, Store, UpdateDeadline};

use crate::canned::{Answers, key};
use crate::computing_time;

struct Canned {
    meter: Meter,
    answers: Arc<Answers>,
    waiting: VecDeque<(u64, Result<http::Response, http::HttpError>)>,
    tickets: u64,
    records: usize,
}

impl types::Host for Canned {}

impl http::Host for Canned {
    fn submit(&mut self, request: http::Request) -> wasmtime::Result<u64> {
        self.tickets += 1;
        let key = key(&request.path, &request.query);
        let answer = match self.answers.get(&key) {
            Some(response) => Ok(http::Response {
                status: response.status,
                headers: response.headers.clone(),
                body: http::Body::Text(response.body.clone()),
            }),
            None => Err(http::HttpError::Unavailable(format!(
                "{key} was not recorded"
            ))),
        };
        self.waiting.push_back((self.tickets, answer));
        Ok(self.tickets)
    }

    async fn next(
        &mut self,
    ) -> wasmtime::Result<Option<(u64, Result<http::Response, http::HttpError>)>> {
        Ok(self.waiting.pop_front())
    }
}

impl state::Host for Canned {
    fn get(&mut self, _: String) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }

    fn list(&mut self, _: String) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    async fn set(&mut self, _: String, _: Option<String>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl writer::Host for Canned {
    async fn write(
        &mut self,
        _: String,
        _: types::Origin,
        batch: Vec<types::Experience>,
    ) -> wasmtime::Result<Result<(), writer::WriteError>> {
        self.records += batch.len();
        Ok(Ok(()))
    }

    fn skip(&mut self, _: String, _: String, _: u64) -> wasmtime::Result<()> {
        Ok(())
    }

    async fn retract(
        &mut self,
        _: String,
        _: Vec<String>,
        _: String,
    ) -> wasmtime::Result<Result<(), writer::WriteError>> {
        Ok(Ok(()))
    }

    async fn held(&mut self, source_ids: Vec<String>) -> wasmtime::Result<Vec<bool>> {
        Ok(vec![false; source_ids.len()])
    }

    async fn known(&mut self, source_ids: Vec<String>) -> wasmtime::Result<Vec<bool>> {
        Ok(vec![false; source_ids.len()])
    }

    fn listed(
        &mut self,
        _: String,
        _: String,
        source_ids: Vec<String>,
        _: bool,
    ) -> wasmtime::Result<Result<(), writer::WriteError>> {
        self.records += source_ids.len();
        Ok(Ok(()))
    }

    async fn unlisted(
        &mut self,
        _: String,
        _: String,
        _: Option<String>,
    ) -> wasmtime::Result<Result<Vec<writer::HeldRecord>, writer::WriteError>> {
        Ok(Ok(Vec::new()))
    }
}

impl log::Host for Canned {
    fn log(&mut self, _: log::Level, _: String, _: Vec<(String, String)>) -> wasmtime::Result<()> {
        Ok(())
    }

    fn progress(&mut self, _: String, _: u64, _: Option<u64>) -> wasmtime::Result<()> {
        Ok(())
    }

    fn stream_status(&mut self, _: String, _: log::StreamState) -> wasmtime::Result<()> {
        Ok(())
    }
}

/// A compiled component.
pub(crate) struct Guest {
    engine: Engine,
    pre: InstancePre<Canned>,
    source: source::GuestIndices,
    _ticker: Ticker,
    /// Time to compile it.
    pub(crate) compile: Duration,
    /// Times to take it from the cache of compiled components; empty where there is no cache.
    pub(crate) loads: Vec<Duration>,
}

impl Guest {
    pub(crate) fn new(engine: Engine, bytes: &[u8]) -> wasmtime::Result<Self> {
        let started = Instant::now();
        let component = Component::new(&engine, bytes)?;
        let compile = started.elapsed();
        let loads = CodeCache::of_user().map_or_else(Vec::new, |cache| {
            if let Ok(code) = component.serialize() {
                cache.store(&engine, "sha256:bench", &code);
            }
            (0..21)
                .filter_map(|_| {
                    let started = Instant::now();
                    let loaded = cache.load(&engine, "sha256:bench")?;
                    let took = started.elapsed();
                    // Letting go of it is no part of loading.
                    drop(loaded);
                    Some(took)
                })
                .collect()
        });
        let mut linker = Linker::new(&engine);
        ConnectorWithHooks::add_to_linker::<_, HasSelf<Canned>>(&mut linker, |state| state)?;
        let pre = linker.instantiate_pre(&component)?;
        let source = source::GuestIndices::new(&pre)?;
        let ticker = Ticker::start(&engine)?;
        Ok(Self {
            engine,
            pre,
            source,
            _ticker: ticker,
            compile,
            loads,
        })
    }

    /// One run in a fresh instance; answers the number of records and the time of the call alone.
    pub(crate) async fn sync(
        &self,
        answers: &Arc<Answers>,
        context: &RunContext,
        verify: bool,
    ) -> wasmtime::Result<(usize, Duration)> {
        let limits = Limits::default();
        let state = Canned {
            meter: Meter::new(limits),
            answers: Arc::clone(answers),
            waiting: VecDeque::new(),
            tickets: 0,
            records: 0,
        };
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(limits.size(Limit::HostcallBytes));
        store.set_max_component_handles(limits.size(Limit::Handles));
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        let instance = self.pre.instantiate_async(&mut store).await?;
        let context = source::RunContext {
            kind: source::RunKind::Backfill,
            settings: context.settings.clone(),
            now: context.now.clone(),
            since: None,
            options: if verify {
                vec![("verify".to_owned(), "true".to_owned())]
            } else {
                Vec::new()
            },
        };
        let started = computing_time()?;
        let source = self.source.load(&mut store, &instance)?;
        let answer = source.call_sync(&mut store, &context).await?;
        let elapsed = computing_time()?.saturating_sub(started);
        match answer {
            Ok(()) => Ok((store.data().records, elapsed)),
            Err(failure) => Err(wasmtime::Error::msg(format!("{failure:?}"))),
        }
    }
}
