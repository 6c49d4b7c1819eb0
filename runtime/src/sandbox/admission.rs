//! From a file to a component that may run, or a refusal that names the rule.
//!
//! In the order of cost and danger: the size before the file is read, the imports before anything is validated, the rules and the compiler
//! in a [child process](super::compiler), and what the compiled component asks for against the limits before it is instantiated. What was
//! admitted once is found again in the [cache](super::cache) under the digest of the file and the version of the rules: the entry is the
//! proof, and nothing but the imports is looked at again.

use std::borrow::Cow;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use wasmtime::Engine;
use wasmtime::component::Component;

use super::cache::{CodeCache, trusted};
use super::compiler;
use super::inspect::{InspectError, Inspection, World, inspect};
use super::limits::{Limit, Limits, Unit};
use super::rules::{Finding, MAX_FILE_BYTES};

/// wasmtime counts memory in pages of WebAssembly.
const PAGE_BYTES: u64 = 64 << 10;

/// Why a file is not admitted.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The file cannot be read.
    #[error("cannot read the component {path}: {reason}")]
    Unreadable {
        /// Its path.
        path: String,
        /// Why.
        reason: std::io::Error,
    },
    /// It is no component of ours, or wants something it may not have.
    #[error(transparent)]
    Imports(#[from] InspectError),
    /// It breaks a rule.
    #[error("{}", .0.refusal())]
    Rule(Finding),
    /// The child process was ended by this machine: the system killed it, or the clock did.
    #[error("{}", .0.refusal())]
    Machine(Finding),
    /// The child process could not be started.
    #[error("the component cannot be compiled: the compiler's process does not start: {0}")]
    NoCompiler(std::io::Error),
    /// The engine does not take it although every rule is kept.
    #[error("the component cannot be loaded: {0}")]
    Engine(String),
}

impl Refusal {
    /// Whether this machine is at fault and not the file: another time it may be admitted.
    #[must_use]
    pub fn is_of_the_machine(&self) -> bool {
        matches!(self, Self::Machine(_) | Self::NoCompiler(_))
    }
}

/// Where a component comes from.
#[derive(Debug, Clone, Copy)]
pub enum ComponentFile<'a> {
    /// A file.
    Path(&'a Path),
    /// Its bytes, read before.
    Bytes(&'a [u8]),
}

impl<'a> From<&'a Path> for ComponentFile<'a> {
    fn from(path: &'a Path) -> Self {
        Self::Path(path)
    }
}

impl<'a> From<&'a PathBuf> for ComponentFile<'a> {
    fn from(path: &'a PathBuf) -> Self {
        Self::Path(path)
    }
}

impl<'a> From<&'a [u8]> for ComponentFile<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl std::fmt::Display for ComponentFile<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Bytes(_) => f.write_str("the component"),
        }
    }
}

/// Everything that is known of a file once it was looked at.
#[derive(Debug, Default)]
pub struct Report {
    /// What it is; absent where it is not even readable.
    pub inspection: Option<Inspection>,
    /// Each rule that was applied.
    pub findings: Vec<Finding>,
    /// It was admitted before: the rules and the compiler were not asked again.
    pub from_cache: bool,
}

/// A component that may run.
pub struct Admitted {
    /// Which world it belongs to.
    pub world: World,
    /// Compiled.
    pub component: Component,
}

/// Admits a file for this engine and these limits. What was looked at until the end or the refusal is in `report`.
pub async fn admit(
    engine: &Engine,
    file: ComponentFile<'_>,
    limits: &Limits,
    cache: Option<&CodeCache>,
    report: &mut Report,
) -> Result<Admitted, Refusal> {
    let bytes = match file {
        ComponentFile::Path(path) => Cow::Owned(read(path, report)?),
        ComponentFile::Bytes(bytes) => {
            measure(bytes.len() as u64, report)?;
            Cow::Borrowed(bytes)
        }
    };
    let inspection = inspect(&bytes)?;
    let world = inspection.admit();
    report.findings.push(Finding::judged(
        "imports",
        world
            .as_ref()
            .map(|_| format!("{} of the world's", inspection.imports.len()))
            .map_err(ToString::to_string),
    ));
    let digest = inspection.digest.clone();
    report.inspection = Some(inspection);
    let world = world?;
    let component = match cache.and_then(|cache| cache.load(engine, &digest)) {
        Some(component) => {
            report.from_cache = true;
            component
        }
        None => {
            let compiled = compiler::compile(&bytes)
                .await
                .map_err(Refusal::NoCompiler)?;
            report.findings.extend(compiled.findings);
            let Some(code) = compiled.code else {
                return Err(match refused(report) {
                    Refusal::Rule(finding) if compiled.by_the_machine => Refusal::Machine(finding),
                    refusal => refusal,
                });
            };
            let component =
                trusted(engine, &code).map_err(|error| Refusal::Engine(format!("{error:#}")))?;
            if let Some(cache) = cache {
                cache.store(engine, &digest, &code);
            }
            component
        }
    };
    ask(&component, limits, report)?;
    Ok(Admitted { world, component })
}

/// Reads no more than may be there.
fn read(path: &Path, report: &mut Report) -> Result<Vec<u8>, Refusal> {
    let unreadable = |reason| Refusal::Unreadable {
        path: path.display().to_string(),
        reason,
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let told = file.metadata().map_err(unreadable)?.len();
    let mut size = told;
    if told <= MAX_FILE_BYTES {
        file.take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        size = bytes.len() as u64;
    }
    measure(size, report)?;
    Ok(bytes)
}

fn measure(size: u64, report: &mut Report) -> Result<(), Refusal> {
    let finding = Finding::measured(
        "file_size",
        Unit::Bytes,
        size,
        MAX_FILE_BYTES,
        "Build with optimisation for size, and strip debug information",
    );
    let ok = finding.ok;
    report.findings.push(finding);
    if ok { Ok(()) } else { Err(refused(report)) }
}

/// What the component needs from its first moment on.
fn ask(component: &Component, limits: &Limits, report: &mut Report) -> Result<(), Refusal> {
    let Some(needs) = component.resources_required() else {
        report.findings.push(Finding::judged(
            "resources",
            Err("what it needs cannot be told, because it imports a core module or a component; compose it first".into()),
        ));
        return Err(refused(report));
    };
    let rows = [
        (Limit::Memories, u64::from(needs.num_memories)),
        (
            Limit::Memory,
            needs
                .max_initial_memory_size
                .unwrap_or(0)
                .saturating_mul(PAGE_BYTES),
        ),
        (Limit::Tables, u64::from(needs.num_tables)),
        (
            Limit::TableElements,
            needs.max_initial_table_size.unwrap_or(0),
        ),
    ];
    for (limit, measured) in rows {
        let spec = limit.spec();
        let finding = Finding::measured(
            spec.name,
            spec.unit,
            measured,
            limits.get(limit).unwrap_or(u64::MAX),
            &format!(
                "It needs that much before it begins. Build it with less, or raise the limit with `--limit {}=...`",
                spec.name
            ),
        );
        let ok = finding.ok;
        report.findings.push(finding);
        if !ok {
            return Err(refused(report));
        }
    }
    Ok(())
}

fn refused(report: &Report) -> Refusal {
    report
        .findings
        .iter()
        .find(|finding| !finding.ok)
        .cloned()
        .map_or_else(
            || Refusal::Engine("the compiler gave no code".into()),
            Refusal::Rule,
        )
}
