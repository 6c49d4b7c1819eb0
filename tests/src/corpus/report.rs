//! The verdict on every record, and the table that shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use super::collect::{Corpus, Record};
use super::expect::{Fate, fates};
use super::kind::Kind;
use super::observe::Observed;
use super::world::Parent;

/// Reasons that are shown without `--verbose`.
const SHOWN_REASONS: usize = 50;

/// What became of the records of one kind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Row {
    read: usize,
    mapped: usize,
    skipped: usize,
    refused: usize,
}

/// What became of a corpus.
#[derive(Debug, Default)]
pub struct Report {
    rows: BTreeMap<Kind, Row>,
    refusals: Vec<String>,
    troubles: Vec<String>,
    skipped: BTreeMap<String, u64>,
    passed_over: BTreeMap<String, usize>,
    repeated: usize,
    envelopes: usize,
}

impl Report {
    /// Compares what came out of the run with what the corpus asks for.
    pub(crate) fn new(corpus: &Corpus, observed: Observed) -> Self {
        let mut report = Self {
            rows: Kind::ALL.map(|kind| (kind, Row::default())).into(),
            passed_over: corpus.passed_over.clone(),
            repeated: corpus.repeated,
            envelopes: observed.sources.len(),
            ..Self::default()
        };
        let mut asked = Asked::default();
        for record in &corpus.records {
            let fates = fates(record);
            asked.add(record, &fates);
            report.judge(record, &fates, &observed);
        }
        report.troubles = asked.troubles(&observed);
        for (kind, row) in &report.rows {
            if row.read == 0 {
                report.troubles.push(format!("no {kind} was read"));
            }
        }
        report.troubles.extend(observed.troubles);
        report.skipped = observed.skipped;
        report
    }

    fn judge(&mut self, record: &Record, fates: &[Fate], observed: &Observed) {
        let reasons: Vec<String> = fates
            .iter()
            .flat_map(|fate| objections(fate, record, observed))
            .collect();
        let row = self.rows.entry(record.kind).or_default();
        row.read += 1;
        if !reasons.is_empty() {
            row.refused += 1;
        } else if fates
            .iter()
            .any(|fate| matches!(fate, Fate::Written { .. }))
        {
            row.mapped += 1;
        } else {
            row.skipped += 1;
        }
        let lines = reasons
            .iter()
            .map(|reason| format!("{}: {}: {reason}", record.place, record.kind));
        self.refusals.extend(lines);
    }

    /// Whether every record came out as it must.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.refusals.is_empty() && self.troubles.is_empty()
    }

    /// Writes the table, and the reasons where there are any.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn print(&self, out: &mut dyn Write, verbose: bool) -> io::Result<()> {
        let (kind, read, mapped, skipped, refused) =
            ("kind", "read", "mapped", "skipped", "refused");
        writeln!(
            out,
            "{kind:<14}{read:>7}{mapped:>9}{skipped:>10}{refused:>10}"
        )?;
        let mut total = Row::default();
        for (kind, row) in &self.rows {
            line(out, kind.word(), *row)?;
            total.read += row.read;
            total.mapped += row.mapped;
            total.skipped += row.skipped;
            total.refused += row.refused;
        }
        line(out, "total", total)?;
        writeln!(out)?;
        writeln!(out, "written: {} sources", self.envelopes)?;
        writeln!(out, "left out by policy: {}", counts(&self.skipped))?;
        writeln!(out, "met before: {}", self.repeated)?;
        let passed_over: usize = self.passed_over.values().sum();
        let hint = if verbose {
            ""
        } else {
            " (--verbose lists them by file)"
        };
        writeln!(out, "passed over as no record: {passed_over}{hint}")?;
        if verbose {
            for (file, count) in &self.passed_over {
                writeln!(out, "{count:>7}  {file}")?;
            }
        }
        let most = if verbose { usize::MAX } else { SHOWN_REASONS };
        list(out, "refused", &self.refusals, most)?;
        list(out, "wrong with the run", &self.troubles, most)
    }
}

/// What all records together ask for.
#[derive(Default)]
struct Asked {
    source_ids: BTreeSet<String>,
    /// What comments are served under: nobody's record, but written all the same.
    parents: BTreeSet<String>,
    /// Records to be left out, by policy.
    skipped: BTreeMap<String, u64>,
}

impl Asked {
    fn add(&mut self, record: &Record, fates: &[Fate]) {
        for fate in fates {
            match fate {
                Fate::Written { source_id, .. } => {
                    self.source_ids.insert(source_id.clone());
                }
                Fate::Skipped(policy) => {
                    *self.skipped.entry((*policy).to_owned()).or_default() += 1;
                }
                Fate::Unnamed => {}
            }
        }
        let parent = Parent::of(record);
        self.parents
            .extend(parent.map(|parent| parent.source_id(record.project)));
    }

    /// What is wrong and cannot be laid at the door of one record.
    fn troubles(&self, observed: &Observed) -> Vec<String> {
        let mut troubles = Vec::new();
        for (source_id, source) in &observed.sources {
            if self.parents.contains(source_id) {
                let defects = source.defects.iter();
                troubles.extend(defects.map(|defect| format!("{source_id}: {defect}")));
            } else if !self.source_ids.contains(source_id) {
                troubles.push(format!(
                    "{source_id} was written, and no record asks for it"
                ));
            }
        }
        for (source_id, reason) in &observed.dead_letters {
            if !self.source_ids.contains(source_id) {
                troubles.push(format!("{source_id}: dead letter: {reason}"));
            }
        }
        if observed.skipped != self.skipped {
            troubles.push(format!(
                "left out by policy: {}; the records ask for: {}",
                counts(&observed.skipped),
                counts(&self.skipped)
            ));
        }
        troubles
    }
}

/// What speaks against a record having met its fate.
fn objections(fate: &Fate, record: &Record, observed: &Observed) -> Vec<String> {
    let (source_id, texts) = match fate {
        // Whether as many were left out as should be is a matter of the whole run.
        Fate::Skipped(_) => return Vec::new(),
        Fate::Unnamed => return vec!["no id, so no source id".to_owned()],
        Fate::Written { source_id, texts } => (source_id, texts),
    };
    let Some(source) = observed.sources.get(source_id) else {
        let reason = observed
            .dead_letters
            .get(source_id)
            .map(|reason| format!("dead letter: {reason}"))
            .or_else(|| stream_words(record, observed))
            .unwrap_or_else(|| "not seen".to_owned());
        return vec![format!("{source_id}: {reason}")];
    };
    let lost = texts
        .iter()
        .filter(|(_, text)| !source.text.contains(text.as_str()))
        .map(|(field, _)| format!("text lost: `{field}`"));
    let defects = source
        .defects
        .iter()
        .map(|defect| format!("invalid envelope: {defect}"));
    lost.chain(defects)
        .map(|reason| format!("{source_id}: {reason}"))
        .collect()
}

/// What the stream says that the record should have come by.
fn stream_words(record: &Record, observed: &Observed) -> Option<String> {
    let stream = match (record.kind, Parent::of(record)) {
        (Kind::MergeRequest, _) | (_, Some(Parent::MergeRequest)) => "merge_requests",
        (Kind::Issue, _) | (_, Some(Parent::Issue)) => "issues",
        (Kind::Commit, _) => "commits",
        (Kind::Pipeline, _) => "pipelines",
        _ => "releases",
    };
    observed
        .streams
        .get(&format!("{}/{stream}", record.project))
        .cloned()
}

fn line(out: &mut dyn Write, word: &str, row: Row) -> io::Result<()> {
    let Row {
        read,
        mapped,
        skipped,
        refused,
    } = row;
    writeln!(
        out,
        "{word:<14}{read:>7}{mapped:>9}{skipped:>10}{refused:>10}"
    )
}

fn list(out: &mut dyn Write, title: &str, lines: &[String], most: usize) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title}:")?;
    for line in lines.iter().take(most) {
        // Recordings hold anything, and this goes to a terminal.
        writeln!(out, "  {}", line.replace(char::is_control, "\u{fffd}"))?;
    }
    if lines.len() > most {
        writeln!(
            out,
            "  and {} more (--verbose shows all)",
            lines.len() - most
        )?;
    }
    Ok(())
}

/// `system-note 3, blank-comment 1`.
fn counts(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return "nothing".to_owned();
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(policy, count)| format!("{policy} {count}"))
        .collect();
    counts.join(", ")
}
