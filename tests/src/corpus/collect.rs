//! The records of a folder: every line of every `.jsonl` file below it, whichever of three forms the line has.
//!
//! A line is a record, an example of the documentation (`heading`, `request`, `body`), or a whole exchange (`method`, `url`,
//! `body`). A body is one value or a list of them. The same record is often both in a list and in the exchange that it was cut
//! from; it is counted once.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;

use super::kind::Kind;

/// Ids of the projects begin here, so that they are not mistaken for ids in records.
const FIRST_PROJECT: u64 = 1_000_000;

/// Where a value was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Below the folder.
    pub(crate) file: String,
    /// Counted from 1.
    pub(crate) line: usize,
    /// In the list that the line holds, counted from 1.
    pub(crate) element: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.file, self.line)?;
        match self.element {
            Some(element) => write!(formatter, " [{element}]"),
            None => Ok(()),
        }
    }
}

/// One record, with the project that it is served in.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) project: u64,
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// What a folder holds.
#[derive(Debug, Default)]
pub(crate) struct Corpus {
    pub(crate) records: Vec<Record>,
    /// Values that are no record of any kind, by file.
    pub(crate) passed_over: BTreeMap<String, usize>,
    /// Records that had been met before.
    pub(crate) repeated: usize,
    known: HashSet<(Kind, Value)>,
}

impl Corpus {
    /// Takes one line of a file.
    pub(crate) fn add_line(&mut self, file: &str, line: usize, value: Value) {
        let (value, source) = unwrap_body(value, file);
        let among_issues = source
            .split(['/', '.', '?'])
            .any(|segment| segment == "issues");
        let mut place = Place {
            file: file.to_owned(),
            line,
            element: None,
        };
        match value {
            Value::Array(values) => {
                for (value, element) in values.into_iter().zip(1..) {
                    place.element = Some(element);
                    self.add(place.clone(), value, among_issues);
                }
            }
            value => self.add(place, value, among_issues),
        }
    }

    fn add(&mut self, place: Place, value: Value, among_issues: bool) {
        let Some(kind) = Kind::of(&value, among_issues) else {
            *self.passed_over.entry(place.file).or_default() += 1;
            return;
        };
        if !self.known.insert((kind, value.clone())) {
            self.repeated += 1;
            return;
        }
        self.records.push(Record {
            kind,
            project: FIRST_PROJECT + self.records.len() as u64,
            place,
            value,
        });
    }
}

/// The body of an example or exchange, and what says where it comes from: the request, or the file.
fn unwrap_body(value: Value, file: &str) -> (Value, String) {
    match value {
        Value::Object(mut fields)
            if ["heading", "method"]
                .iter()
                .any(|key| fields.contains_key(*key)) =>
        {
            let body = fields.remove("body").unwrap_or_default();
            let url = fields.get("url").and_then(Value::as_str).map(str::to_owned);
            (body, url.unwrap_or_else(|| file.to_owned()))
        }
        value => (value, file.to_owned()),
    }
}

/// Reads a folder.
pub(crate) fn collect(folder: &Path) -> io::Result<Corpus> {
    let mut files = Vec::new();
    find_files(folder, &mut files)?;
    // Whole exchanges last, so that a record is named by the file that was made for its kind.
    files.sort_by_key(|file| (file.starts_with(folder.join("http")), file.clone()));
    let mut corpus = Corpus::default();
    for path in files {
        let file = path.strip_prefix(folder).unwrap_or(&path);
        let file = file.to_string_lossy().into_owned();
        for (text, line) in fs::read_to_string(&path)?.lines().zip(1..) {
            if text.trim().is_empty() {
                continue;
            }
            let value = serde_json::from_str(text).map_err(|error| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{file}:{line}: {error}"),
                )
            })?;
            corpus.add_line(&file, line, value);
        }
    }
    Ok(corpus)
}

fn find_files(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find_files(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "jsonl")
        {
            files.push(path);
        }
    }
    Ok(())
}
