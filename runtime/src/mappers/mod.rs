//! Mappers at work: from the records of a connector to what is written.
//!
//! Pages go through the mappers in the order in which they are named, each in a sandbox of its own. What comes back is held to the
//! [`rules`]; what a mapper cannot map becomes a dead letter with the mapper's words, and the rest of the page goes on. A mapper that traps
//! has its page tried record by record in fresh instances, so that the record at fault can be named; then the run ends, or that record
//! becomes a dead letter, as the connection says.

pub mod rules;
pub mod text;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::cortexdb::envelope::RawRecord;
use crate::digest::{hex, sha256_of_parts};
use crate::host::imports::Access;
use crate::host::mapper::{Answers, Instance, Mapper};
use crate::redact::Redactor;
use crate::report::{Counters, MapperUse, Reporter};
use crate::sandbox::limits::Limits;
use crate::sandbox::trap::TrapReport;

/// Records of a page that are handed to a mapper at a time, and their bytes.
const RECORDS_AT_ONCE: usize = 250;
const BYTES_AT_ONCE: usize = 4 << 20;
/// What a mapper may make of one page, about. A connector hands over no more than half of it in one call; several mappers that each split
/// what the one before has split would otherwise fill any memory.
const MADE_BYTES: usize = 128 << 20;
/// Records of the first page that are mapped twice.
const SAMPLE: usize = 4;

/// What becomes of a run when a mapper is stopped at a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTrap {
    /// The run ends, and names the record.
    #[default]
    Fail,
    /// The record becomes a dead letter, and the run goes on.
    Skip,
}

impl std::str::FromStr for OnTrap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fail" => Ok(Self::Fail),
            "skip" => Ok(Self::Skip),
            _ => Err(format!("`{text}` is neither `fail` nor `skip`")),
        }
    }
}

/// A mapper that ended a run.
#[derive(Debug, thiserror::Error)]
pub enum MapperError {
    /// It was stopped.
    #[error(
        "the mapper {mapper} was stopped at {record}: {report}. Mend it, or let such records become dead letters with --mapper-trap skip"
    )]
    Stopped {
        /// Its name.
        mapper: String,
        /// The record that it was given.
        record: String,
        /// What stopped it.
        report: Box<TrapReport>,
    },
    /// Its answers depend on more than what it is given.
    #[error(
        "the mapper {mapper} is not pure: asked again, it made something else of {record}. It may use nothing but the page and its settings: no random numbers, no time, no order of a hash map, no memory of earlier pages"
    )]
    NotPure {
        /// Its name.
        mapper: String,
        /// The first record that differed.
        record: String,
    },
}

/// A chain of mappers.
#[derive(Debug, Default)]
pub struct Chain {
    mappers: Vec<Arc<Mapper>>,
    on_trap: OnTrap,
}

/// What a mapper may use beside its limits.
#[derive(Clone)]
pub struct Surroundings {
    /// Its limits.
    pub limits: Limits,
    /// What it logs goes here.
    pub reporter: Arc<dyn Reporter>,
    /// Removes secrets from that.
    pub redactor: Redactor,
    /// The run is to end.
    pub stop: CancellationToken,
}

impl Surroundings {
    fn access(&self) -> Access {
        Access {
            redactor: self.redactor.clone(),
            stop: self.stop.clone(),
            ..Access::nothing_but_the_log(self.limits, Arc::clone(&self.reporter))
        }
    }
}

impl Chain {
    /// Mappers in the order in which they map.
    #[must_use]
    pub fn new(mappers: Vec<Mapper>, on_trap: OnTrap) -> Self {
        Self {
            mappers: mappers.into_iter().map(Arc::new).collect(),
            on_trap,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mappers.is_empty()
    }

    /// Names the chain: which files, in which order, with which settings. Empty for none.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        if self.mappers.is_empty() {
            return String::new();
        }
        let parts = self
            .mappers
            .iter()
            .flat_map(|mapper| [mapper.digest.as_bytes(), mapper.settings.as_bytes()]);
        hex(&sha256_of_parts(parts), 32)
    }
}

/// What became of one record of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// As it was given.
    pub source_id: String,
    /// Its kind.
    pub event_type: String,
    /// The record that opened its thread; empty where there is none.
    pub root: String,
    /// Source ids of what came directly before it.
    pub preceded_by: Vec<String>,
    /// Source ids of what takes its place.
    pub made: Vec<String>,
}

/// A page after the mappers.
#[derive(Debug, Default)]
pub struct MappedPage {
    /// To be written.
    pub records: Vec<RawRecord>,
    /// What could not be mapped, as it was given, and why.
    pub dead: Vec<(RawRecord, String)>,
    /// What became of each record that could be mapped.
    pub outcomes: Vec<Outcome>,
}

/// One record of the source on its way through the chain.
struct Passing {
    given: RawRecord,
    now: Vec<RawRecord>,
    refused: Option<String>,
}

impl Passing {
    fn new(given: RawRecord) -> Self {
        let mut now = given.clone();
        now.mapped.root = Some(root_of(&given).to_owned());
        Self {
            given,
            now: vec![now],
            refused: None,
        }
    }
}

fn root_of(record: &RawRecord) -> &str {
    let thread = record.thread.as_ref();
    thread.map_or("", |thread| thread.root.as_str())
}

/// A chain in one run.
pub struct Session {
    chain: Arc<Chain>,
    counters: Arc<Counters>,
    workers: Vec<Worker>,
}

impl Session {
    /// Begins a run.
    #[must_use]
    pub fn new(chain: Arc<Chain>, surroundings: &Surroundings, counters: Arc<Counters>) -> Self {
        let workers = chain
            .mappers
            .iter()
            .map(|mapper| Worker::new(mapper, surroundings))
            .collect();
        for mapper in &chain.mappers {
            counters.update(|totals| {
                totals.mappers.push(MapperUse {
                    name: mapper.description.name.clone(),
                    version: mapper.description.version.clone(),
                    digest: mapper.digest.clone(),
                    ..MapperUse::default()
                });
            });
        }
        Self {
            chain,
            counters,
            workers,
        }
    }

    /// Maps a page.
    pub async fn apply(&mut self, batch: Vec<RawRecord>) -> Result<MappedPage, MapperError> {
        let mut passing: Vec<Passing> = batch.into_iter().map(Passing::new).collect();
        for index in 0..self.workers.len() {
            self.pass(index, &mut passing).await?;
        }
        let mut page = MappedPage::default();
        for one in passing {
            if let Some(words) = one.refused {
                page.dead.push((one.given, words));
                continue;
            }
            page.outcomes.push(Outcome {
                made: one.now.iter().map(|made| made.source_id.clone()).collect(),
                root: root_of(&one.given).to_owned(),
                preceded_by: one.given.preceded_by,
                event_type: one.given.event_type,
                source_id: one.given.source_id,
            });
            page.records.extend(one.now);
        }
        Ok(page)
    }

    /// Sends what is on its way through one mapper.
    async fn pass(&mut self, index: usize, passing: &mut [Passing]) -> Result<(), MapperError> {
        let on_trap = self.chain.on_trap;
        let worker = &mut self.workers[index];
        let waiting: Vec<(usize, RawRecord)> = passing
            .iter_mut()
            .enumerate()
            .flat_map(|(place, one)| {
                std::mem::take(&mut one.now)
                    .into_iter()
                    .map(move |record| (place, record))
            })
            .collect();
        let mut usage = MapperUse::default();
        let mut made_bytes = 0;
        let mut rest = waiting.as_slice();
        while !rest.is_empty() {
            let (group, behind) = rest.split_at(group_size(rest));
            rest = behind;
            let records: Vec<RawRecord> = group.iter().map(|(_, record)| record.clone()).collect();
            worker
                .check_purity(&records[..records.len().min(SAMPLE)])
                .await?;
            let answers = worker.answers(&records, on_trap).await?;
            for ((place, given), answer) in group.iter().zip(answers) {
                usage.given += 1;
                let one = &mut passing[*place];
                let made = answer
                    .and_then(|made| rules::check(&one.given.source_id, given, made))
                    .and_then(|made| {
                        rules::check_number(one.now.len() + made.len())?;
                        made_bytes += made.iter().map(RawRecord::size).sum::<usize>();
                        rules::check_size(made_bytes, MADE_BYTES)?;
                        Ok(made)
                    });
                match made {
                    Ok(made) => {
                        usage.made += made.len() as u64;
                        usage.dropped += u64::from(made.is_empty());
                        one.now.extend(made);
                    }
                    Err(words) => {
                        usage.refused += 1;
                        let name = &worker.mapper.description.name;
                        one.refused
                            .get_or_insert(format!("the mapper {name} refuses it: {words}"));
                    }
                }
            }
        }
        // What was refused in part is refused whole.
        for one in passing.iter_mut().filter(|one| one.refused.is_some()) {
            one.now.clear();
        }
        worker.settle(&mut usage);
        self.counters.update(|totals| {
            if let Some(total) = totals.mappers.get_mut(index) {
                total.add(&usage);
            }
        });
        Ok(())
    }
}

/// How many of these go to the mapper at a time.
fn group_size(records: &[(usize, RawRecord)]) -> usize {
    let mut bytes = 0;
    let fitting = records
        .iter()
        .take(RECORDS_AT_ONCE)
        .take_while(|(_, record)| {
            bytes += record.content.len();
            bytes <= BYTES_AT_ONCE
        });
    fitting.count().max(1)
}

/// One mapper of a run, with the instance that is at work.
struct Worker {
    mapper: Arc<Mapper>,
    surroundings: Surroundings,
    instance: Option<Instance>,
    checked: bool,
    /// Used by instances that are gone.
    cpu_ms: u64,
    memory: u64,
}

impl Worker {
    fn new(mapper: &Arc<Mapper>, surroundings: &Surroundings) -> Self {
        Self {
            mapper: Arc::clone(mapper),
            surroundings: surroundings.clone(),
            instance: None,
            checked: false,
            cpu_ms: 0,
            memory: 0,
        }
    }

    fn fresh(&self) -> Instance {
        self.mapper.instance(self.surroundings.access())
    }

    fn retire(&mut self) {
        if let Some(instance) = self.instance.take() {
            let (cpu_ms, memory) = instance.used();
            self.cpu_ms += cpu_ms;
            self.memory = self.memory.max(memory);
        }
    }

    /// An instance that was stopped is not used again.
    async fn apply(&mut self, records: &[RawRecord]) -> Result<Answers, Box<TrapReport>> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.fresh(),
        };
        let answers = instance.apply(records).await;
        self.instance = Some(instance);
        if answers.is_err() || self.instance.as_ref().is_some_and(Instance::is_worn) {
            self.retire();
        }
        answers
    }

    /// Once a run: a sample goes through two fresh instances, and through the second of them once more; all must agree, or the mapper
    /// guesses or remembers. What stops them is seen again with the page.
    async fn check_purity(&mut self, sample: &[RawRecord]) -> Result<(), MapperError> {
        if std::mem::replace(&mut self.checked, true) {
            return Ok(());
        }
        let mut used = self.fresh();
        // One after the other: an endless one costs its time once.
        let Ok(first) = self.fresh().apply(sample).await else {
            return Ok(());
        };
        let Ok(second) = used.apply(sample).await else {
            return Ok(());
        };
        let Ok(again) = used.apply(sample).await else {
            return Ok(());
        };
        let differs =
            |index: &usize| first[*index] != second[*index] || second[*index] != again[*index];
        match (0..sample.len()).find(differs).map(|index| &sample[index]) {
            None => Ok(()),
            Some(record) => Err(MapperError::NotPure {
                mapper: self.mapper.description.name.clone(),
                record: record.source_id.escape_debug().to_string(),
            }),
        }
    }

    /// Answers for a group; where the mapper is stopped, record by record.
    async fn answers(
        &mut self,
        records: &[RawRecord],
        on_trap: OnTrap,
    ) -> Result<Answers, MapperError> {
        let together = match self.apply(records).await {
            Ok(answers) => return Ok(answers),
            Err(report) => report,
        };
        let mut answers = Vec::with_capacity(records.len());
        for record in records {
            let alone = if records.len() == 1 {
                Err(together.clone())
            } else {
                self.apply(std::slice::from_ref(record)).await
            };
            match alone {
                Ok(mut answer) => answers.extend(answer.pop()),
                // A record that a run had no time for as it ended is not one that cannot be mapped.
                Err(report) if on_trap == OnTrap::Fail || self.surroundings.stop.is_cancelled() => {
                    return Err(MapperError::Stopped {
                        mapper: self.mapper.description.name.clone(),
                        record: record.source_id.escape_debug().to_string(),
                        report,
                    });
                }
                Err(report) => answers.push(Err(format!("it was stopped: {report}"))),
            }
        }
        Ok(answers)
    }

    fn settle(&self, usage: &mut MapperUse) {
        let (cpu_ms, memory) = self.instance.as_ref().map_or((0, 0), Instance::used);
        usage.cpu_ms = self.cpu_ms + cpu_ms;
        usage.memory_bytes = self.memory.max(memory);
    }
}
