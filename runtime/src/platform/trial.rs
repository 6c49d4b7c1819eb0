//! A chain tried on recorded records: what would change, and nothing is written.
//!
//! The records are those that the connector handed over, before any mapper. They go through the chain of now and through the candidate, in
//! the same sandbox with the same limits as in a run, and what people would read is compared line by line.
//!
//! There are few places for it, which all tenants share: a tenant has two at a time, and keeps each for a minute at most.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use similar::TextDiff;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::Ground;
use super::api::problem::Problem;
use super::components::Silent;
use super::connection::ConnectionConfig;
use super::places::Place;
use super::settings::set_limits;
use crate::cortexdb::envelope::RawRecord;
use crate::mappers::text::as_text;
use crate::mappers::{MappedPage, OnTrap, Session, Surroundings};
use crate::recorded;
use crate::redact::Redactor;
use crate::report::{Counters, MapperUse};
use connector_store::platform::{Chain, Connection};

/// A trial takes no longer; its mappers may, record by record.
const LONGEST: Duration = Duration::from_secs(60);
/// Records that are mapped at a time.
const PAGE: usize = 250;
/// Of one difference in the answer.
const MAX_DIFF_BYTES: usize = 16 << 10;
/// Of each text, as much is compared, and for no longer: what is left then is shown as replaced.
const MAX_COMPARED_BYTES: usize = 256 << 10;
const DIFF_TIME: Duration = Duration::from_millis(100);
/// Records as they were before they were compressed, all together.
const MAX_READ_BYTES: usize = 64 << 20;
/// Lines around a change.
const CONTEXT: usize = 2;

/// What the candidate is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// What the current chain makes of the same records.
    #[default]
    Current,
    /// The records as the connector handed them over.
    Recorded,
}

/// What a trial has shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct Trial {
    /// Records that were tried.
    pub records: usize,
    /// Of them with the same result.
    pub unchanged: usize,
    /// Of them with another.
    pub changed: usize,
    /// Of them that the candidate leaves out and the other side does not.
    pub dropped: usize,
    /// Of them that the candidate cannot map: they would become dead letters.
    pub refused: usize,
    /// Those that are not the same, one by one.
    pub differences: Vec<Difference>,
    /// What the candidate's mappers used.
    #[schema(value_type = Vec<Object>)]
    pub usage: Vec<MapperUse>,
}

/// One record with another result.
#[derive(Debug, Serialize, ToSchema)]
pub struct Difference {
    /// Of the record.
    pub source_id: String,
    /// `changed`, `dropped`, `split`, `refused` or `added` (left out before).
    pub result: &'static str,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A unified diff of what people would read.
    pub diff: String,
}

/// What becomes of one record.
struct Fate {
    texts: Vec<String>,
    refused: Option<String>,
}

/// Tries the mappers of a chain.
pub async fn try_chain(
    ground: &Ground,
    connection: &Connection,
    config: &ConnectionConfig,
    candidate: &Chain,
    against: Against,
    most: u32,
) -> Result<Trial, Problem> {
    let place = ground.components.trial_of(&connection.tenant)?;
    let job = Job {
        ground: ground.clone(),
        ledger: connection.ledger,
        current: connection.chain.clone(),
        config: config.clone(),
        candidate: candidate.clone(),
        against,
        most,
        stop: ground.stop.child_token(),
    };
    apart(place, LONGEST, async move { job.run().await }).await
}

/// Works on a thread of its own, because it computes and others answer webhooks, and for no longer than it may.
async fn apart<T: Send + 'static>(
    place: Place,
    longest: Duration,
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let handle = tokio::runtime::Handle::current();
    let ended = tokio::task::spawn_blocking(move || {
        // Of what takes too long nothing is left when the place is free again.
        let _place = place;
        handle.block_on(tokio::time::timeout(longest, work))
    });
    let ended = ended
        .await
        .map_err(|error| Problem::internal(format!("a trial ended: {error}")))?;
    ended.unwrap_or_else(|_| {
        Err(Problem::invalid(
            "most",
            format!(
                "the trial takes longer than {} s and was given up; try fewer records, lower `config.limits.map_time`, or make the mappers faster",
                longest.as_secs()
            ),
        ))
    })
}

/// All that a trial needs.
struct Job {
    ground: Ground,
    ledger: i64,
    current: Chain,
    config: ConnectionConfig,
    candidate: Chain,
    against: Against,
    most: u32,
    /// The process is to end.
    stop: CancellationToken,
}

impl Job {
    async fn run(&self) -> Result<Trial, Problem> {
        let records = read_some(&self.ground, self.ledger, self.most).await?;
        if records.is_empty() {
            return Err(Problem::conflict(
                "no records are kept of this connection; let it run, with `config.keep_recorded` not switched off",
            ));
        }
        let (before, _) = match self.against {
            Against::Current => self.map(&self.current, &records).await?,
            Against::Recorded => (records.iter().map(as_it_is).collect(), Vec::new()),
        };
        let (after, usage) = self.map(&self.candidate, &records).await?;
        let mut trial = Trial {
            records: records.len(),
            unchanged: 0,
            changed: 0,
            dropped: 0,
            refused: 0,
            differences: Vec::new(),
            usage,
        };
        for ((record, before), after) in records.iter().zip(before).zip(after) {
            trial.compare(&record.source_id, &before, after);
            // Where the time is looked at.
            tokio::task::yield_now().await;
        }
        Ok(trial)
    }

    async fn map(
        &self,
        chain: &Chain,
        records: &[RawRecord],
    ) -> Result<(Vec<Fate>, Vec<MapperUse>), Problem> {
        if chain.mappers.is_empty() {
            return Ok((records.iter().map(as_it_is).collect(), Vec::new()));
        }
        let ground = &self.ground;
        let limits = set_limits(ground.rules().limits, "config.limits", &self.config.limits)
            .map_err(|error| Problem::invalid("config.limits", error.to_string()))?;
        let platform = ground.platform.as_ref();
        let loaded = ground
            .components
            .chain(platform, &chain.mappers, limits, OnTrap::Skip)
            .await?;
        let counters = Arc::new(Counters::default());
        let surroundings = Surroundings {
            limits,
            reporter: Arc::new(Silent),
            redactor: Redactor::default(),
            stop: self.stop.clone(),
        };
        let mut session = Session::new(Arc::new(loaded), &surroundings, Arc::clone(&counters));
        let mut fates = Vec::with_capacity(records.len());
        for page in records.chunks(PAGE) {
            let mapped = session.apply(page.to_vec()).await.map_err(|error| {
                if self.stop.is_cancelled() {
                    return Problem::unavailable("the process ends; try again");
                }
                Problem::invalid("chain.mappers", error.to_string())
            })?;
            fates.extend(fates_of(page, &mapped));
        }
        let usage = counters.update(|totals| totals.mappers.clone());
        Ok((fates, usage))
    }
}

/// Records one after the other, as many as are asked for and as fit: what is small when compressed may be large.
async fn read_some(ground: &Ground, ledger: i64, most: u32) -> Result<Vec<RawRecord>, Problem> {
    let mut records = Vec::new();
    let (mut after, mut bytes) = (0, 0);
    while records.len() < most as usize && bytes < MAX_READ_BYTES {
        let kept = ground.ledger.recorded(ledger, after, 1).await?;
        let Some((row, one)) = kept.first() else {
            break;
        };
        let record = recorded::read(one).map_err(Problem::conflict)?;
        bytes += record.content.len();
        after = *row;
        records.push(record);
    }
    Ok(records)
}

impl Trial {
    fn compare(&mut self, source_id: &str, before: &Fate, after: Fate) {
        let result = if after.refused.is_some() {
            self.refused += 1;
            "refused"
        } else if before.texts == after.texts {
            self.unchanged += 1;
            return;
        } else if after.texts.is_empty() {
            self.dropped += 1;
            "dropped"
        } else if before.texts.is_empty() {
            self.changed += 1;
            "added"
        } else {
            self.changed += 1;
            if after.texts.len() > before.texts.len() {
                "split"
            } else {
                "changed"
            }
        };
        self.differences.push(Difference {
            source_id: source_id.to_owned(),
            result,
            diff: diff(&before.texts.join("\n"), &after.texts.join("\n")),
            reason: after.refused,
        });
    }
}

fn as_it_is(record: &RawRecord) -> Fate {
    Fate {
        texts: vec![as_text(record)],
        refused: None,
    }
}

/// What takes long to compare is compared in part.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_COMPARED_BYTES)]
}

fn diff(before: &str, after: &str) -> String {
    let diff = TextDiff::configure()
        .timeout(DIFF_TIME)
        .diff_lines(cut(before), cut(after));
    let mut text = diff.unified_diff().context_radius(CONTEXT).to_string();
    if text.len() > MAX_DIFF_BYTES {
        text.truncate(text.floor_char_boundary(MAX_DIFF_BYTES));
        text.push_str("\n… (cut)\n");
    }
    text
}

/// What was made comes in the order of what was given.
fn fates_of(page: &[RawRecord], mapped: &MappedPage) -> Vec<Fate> {
    let mut made = mapped.records.iter();
    page.iter()
        .map(|record| {
            let dead = mapped.dead.iter();
            if let Some((_, words)) = dead
                .into_iter()
                .find(|(dead, _)| dead.source_id == record.source_id)
            {
                return Fate {
                    texts: Vec::new(),
                    refused: Some(words.clone()),
                };
            }
            let outcome = mapped
                .outcomes
                .iter()
                .find(|one| one.source_id == record.source_id);
            let count = outcome.map_or(0, |outcome| outcome.made.len());
            Fate {
                texts: made.by_ref().take(count).map(as_text).collect(),
                refused: None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::components::Components;

    #[tokio::test]
    async fn a_trial_that_takes_too_long_is_given_up_and_leaves_its_place() {
        let components = Components::new().unwrap();
        // It computes, as a mapper does, and is asked for nothing but to stop now and then.
        let endless = async {
            loop {
                std::thread::sleep(Duration::from_millis(1));
                tokio::task::yield_now().await;
            }
        };
        let place = components.trial_of("acme").unwrap();
        let ended = apart::<()>(place, Duration::from_millis(50), endless).await;
        let problem = ended.unwrap_err();
        assert_eq!(problem.0.status, 422);
        assert!(problem.0.detail.contains("fewer records"));
        assert!(components.trial_of("acme").is_ok());
    }

    #[tokio::test]
    async fn a_trial_takes_no_thread_that_answers_others() {
        let components = Components::new().unwrap();
        let (told, asked) = std::sync::mpsc::channel();
        // It waits for what only this thread can tell it.
        let work = async move { Ok(asked.recv_timeout(Duration::from_secs(10)).is_ok()) };
        let place = components.trial_of("acme").unwrap();
        let trial = apart(place, LONGEST, work);
        let (answer, ()) = tokio::join!(trial, async { told.send(()).unwrap() });
        assert!(answer.unwrap());
    }

    fn fate(texts: &[&str]) -> Fate {
        Fate {
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
            refused: None,
        }
    }

    #[test]
    fn each_record_counts_once_and_only_differences_are_shown() {
        let mut trial = Trial {
            records: 5,
            unchanged: 0,
            changed: 0,
            dropped: 0,
            refused: 0,
            differences: Vec::new(),
            usage: Vec::new(),
        };
        trial.compare("same", &fate(&["a\n"]), fate(&["a\n"]));
        trial.compare("changed", &fate(&["a\n"]), fate(&["b\n"]));
        trial.compare("dropped", &fate(&["a\n"]), fate(&[]));
        trial.compare("added", &fate(&[]), fate(&["a\n"]));
        trial.compare(
            "refused",
            &fate(&["a\n"]),
            Fate {
                texts: vec![],
                refused: Some("no".into()),
            },
        );
        assert_eq!(
            (trial.unchanged, trial.changed, trial.dropped, trial.refused),
            (1, 2, 1, 1)
        );
        let results: Vec<_> = trial.differences.iter().map(|one| one.result).collect();
        assert_eq!(results, ["changed", "dropped", "added", "refused"]);
        assert!(trial.differences[0].diff.contains("-a\n+b"));
    }

    #[test]
    fn a_long_difference_is_cut_between_characters() {
        let text = diff("", &"ä\n".repeat(MAX_DIFF_BYTES));
        assert!(text.len() < MAX_DIFF_BYTES + 100 && text.ends_with("(cut)\n"));
    }
}
