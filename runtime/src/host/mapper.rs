//! A loaded mapper: code that rewrites experiences and reaches nothing but the log.
//!
//! A tenant writes it, in any language, and nobody trusts it. It is admitted, compiled and limited like a connector, in an instance and a
//! memory of its own. It is pure by contract, and that is checked: a sample goes through two fresh instances, which must agree. What it may
//! not change is not its business to keep but the host's to check; that is in [`crate::mappers`].

use std::path::Path;
use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::{HasSelf, Linker};

use super::bindings::mapper::exports::cortexdb::connector::transform as wit;
use super::bindings::mapper::{Mapper as World, MapperPre};
use super::connector::{
    CallFailure, LoadError, bounded, check_component_name, interfaces, new_store,
};
use super::guest_text::{MAX_NAME_BYTES, MAX_WORDS_BYTES, check_name, clean};
use super::imports::{Access, HostState, experience, raw_record};
use super::schema::{check_settings, read_schema};
use crate::cortexdb::envelope::RawRecord;
use crate::redact::Redactor;
use crate::sandbox::admission::{Admitted, ComponentFile, Report, admit};
use crate::sandbox::cache::CodeCache;
use crate::sandbox::engine::LiveEngine;
use crate::sandbox::inspect::World as Kind;
use crate::sandbox::limits::Limit;
use crate::sandbox::trap::TrapReport;

/// Pages that one instance maps before a fresh one takes its place: some language runtimes leak a little with every call.
const PAGES_PER_INSTANCE: u32 = 1000;

/// What a mapper says of itself, checked.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// JSON Schema of its settings.
    pub settings_schema: serde_json::Value,
}

/// A mapper, compiled and described, with its settings.
pub struct Mapper {
    engine: Arc<LiveEngine>,
    pre: MapperPre<HostState>,
    /// What it says of itself.
    pub description: Description,
    /// Its settings, checked against its schema.
    pub settings: String,
    /// SHA-256 of the file.
    pub digest: String,
}

impl std::fmt::Debug for Mapper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapper")
            .field("name", &self.description.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// One answer for each experience: what takes its place, or why it could not be mapped.
pub type Answers = Vec<Result<Vec<RawRecord>, String>>;

impl Mapper {
    /// Admits, links and describes a mapper, and checks its settings. What was looked at on the way is in `report`, also where it is
    /// refused.
    pub async fn load(
        path: &Path,
        settings: &serde_json::Value,
        access: Access,
        report: &mut Report,
    ) -> Result<Self, LoadError> {
        let engine = LiveEngine::tenant()
            .map_err(|error| LoadError::Invalid(format!("{}: {error:#}", path.display())))?;
        Self::load_into(&engine, path.into(), settings, access, report).await
    }

    /// The same into an engine that others of this process use, too.
    pub async fn load_into(
        engine: &Arc<LiveEngine>,
        file: ComponentFile<'_>,
        settings: &serde_json::Value,
        access: Access,
        report: &mut Report,
    ) -> Result<Self, LoadError> {
        let mut mapper = Self::without_settings(engine, file, access, report).await?;
        check_settings(
            &format!("mapper {}", mapper.description.name),
            &mapper.description.settings_schema,
            settings,
        )
        .map_err(|words| {
            LoadError::Settings(format!(
                "{words}. Correct the file of --mapper-config; `runtime mapper check` shows the schema"
            ))
        })?;
        mapper.settings = settings.to_string();
        Ok(mapper)
    }

    /// The same before anybody has said how it is to be set: for the admission of a file that will be used later.
    pub async fn without_settings(
        engine: &Arc<LiveEngine>,
        file: ComponentFile<'_>,
        access: Access,
        report: &mut Report,
    ) -> Result<Self, LoadError> {
        let live = Arc::clone(engine);
        let engine = live.engine();
        let invalid = |error: wasmtime::Error| LoadError::Invalid(format!("{file}: {error:#}"));
        let cache = CodeCache::of_user();
        let Admitted { world, component } =
            admit(engine, file, &access.limits, cache.as_ref(), report).await?;
        if world != Kind::Mapper {
            return Err(LoadError::NotAMapper(file.to_string()));
        }
        let digest = report
            .inspection
            .as_ref()
            .map(|inspection| inspection.digest.clone())
            .unwrap_or_default();
        let mut linker = Linker::new(engine);
        World::add_to_linker::<_, HasSelf<HostState>>(&mut linker, |state| state)
            .map_err(invalid)?;
        let imports_wasi = report.inspection.as_ref().is_some_and(|inspection| {
            inspection
                .imports
                .iter()
                .any(|name| name.starts_with("wasi:"))
        });
        if imports_wasi {
            super::wasi::add_to_linker(&mut linker).map_err(invalid)?;
        }
        let linked = linker.instantiate_pre(&component).and_then(MapperPre::new);
        report.findings.push(interfaces(&linked));
        let pre = linked.map_err(invalid)?;
        let mut store = new_store(engine, access);
        let question = async |store: &mut Store<HostState>| {
            let instance = pre.instantiate_async(&mut *store).await?;
            instance
                .cortexdb_connector_transform()
                .call_describe(store)
                .await
        };
        let said = bounded(&mut store, Limit::DescribeTime, question)
            .await
            .map_err(|failure| LoadError::Describe(failure.to_string()))?;
        let description = read_description(said).map_err(LoadError::Describe)?;
        Ok(Self {
            engine: live,
            pre,
            description,
            settings: "{}".to_owned(),
            digest,
        })
    }

    /// A fresh instance, which maps nothing yet. The component's `start` runs with the first page.
    #[must_use]
    pub fn instance(self: &Arc<Self>, access: Access) -> Instance {
        Instance {
            mapper: Arc::clone(self),
            store: new_store(self.engine.engine(), access),
            world: None,
            pages: 0,
        }
    }
}

/// A mapper at work. After a failure it must not be used again: drop it.
pub struct Instance {
    mapper: Arc<Mapper>,
    store: Store<HostState>,
    world: Option<World>,
    pages: u32,
}

impl Instance {
    /// Maps a page. An answer for each experience, or why the mapper was stopped.
    pub async fn apply(&mut self, batch: &[RawRecord]) -> Result<Answers, Box<TrapReport>> {
        self.pages += 1;
        let mapper = Arc::clone(&self.mapper);
        let world = &mut self.world;
        let experiences: Vec<_> = batch.iter().map(experience).collect();
        // Each page may take as long as one page may take.
        self.store.data_mut().meter.resume(true);
        let question = async |store: &mut Store<HostState>| {
            let instance = match world {
                Some(instance) => instance,
                None => world.insert(mapper.pre.instantiate_async(&mut *store).await?),
            };
            instance
                .cortexdb_connector_transform()
                .call_apply(&mut *store, &mapper.settings, &experiences)
                .await
        };
        let answered = bounded(&mut self.store, Limit::MapTime, question).await;
        self.store.data_mut().meter.wait();
        let answers = answered.map_err(|failure| match failure {
            CallFailure::Trapped(report) => report,
            other => Box::new(TrapReport {
                kind: "contract".into(),
                message: other.to_string(),
                ..TrapReport::default()
            }),
        })?;
        if answers.len() != batch.len() {
            return Err(Box::new(TrapReport {
                kind: "contract".into(),
                message: format!(
                    "it gave {} answers for {} experiences; `apply` must give one for each, in the same order",
                    answers.len(),
                    batch.len()
                ),
                ..TrapReport::default()
            }));
        }
        let state = self.store.data();
        Ok(answers
            .into_iter()
            .map(|answer| match answer {
                Ok(experiences) => Ok(experiences.into_iter().map(raw_record).collect()),
                Err(words) => Err(state.clean(&words, MAX_WORDS_BYTES)),
            })
            .collect())
    }

    /// What it has used so far: milliseconds of computing, bytes of memory at most.
    #[must_use]
    pub fn used(&self) -> (u64, u64) {
        let meter = &self.store.data().meter;
        (meter.computed_ms(), meter.used(Limit::Memory))
    }

    /// Whether a fresh instance should take its place.
    #[must_use]
    pub fn is_worn(&self) -> bool {
        self.pages >= PAGES_PER_INSTANCE
    }
}

fn read_description(said: wit::MapperDescription) -> Result<Description, String> {
    check_component_name(&said.name)?;
    check_name("the version", &said.version)?;
    let settings_schema = read_schema(&said.settings_schema)?;
    Ok(Description {
        name: said.name,
        version: said.version,
        summary: clean(&said.summary, MAX_NAME_BYTES, &Redactor::default()),
        settings_schema,
    })
}
