//! Dead letters that wait.
//!
//! Whatever version of a record is stored takes the record's dead letter away: it is mended. A letter about a newer version would go with
//! it if an older one was still on its way; so it waits until nothing of its record is.

use std::collections::{HashSet, VecDeque};

use super::printable;
use crate::cortexdb::envelope::{Record, check_source_id};
use crate::ledger::DeadLetter;

/// The id under which a letter is kept: the record's own, so that the letter goes when the record is stored or gone. What no record can be
/// called by is only there to be read.
pub(super) fn id_to_keep(source_id: &str) -> String {
    match check_source_id(source_id) {
        Ok(()) => source_id.to_owned(),
        Err(_) => printable(source_id),
    }
}

/// Dead letters by page, in the order of the pages.
#[derive(Debug, Default)]
pub(super) struct Letters {
    pages: VecDeque<(u64, Vec<DeadLetter>)>,
}

impl Letters {
    pub(super) fn add(&mut self, page: u64, letters: Vec<DeadLetter>) {
        self.pages.push_back((page, letters));
    }

    /// Takes those out that are about older versions than these records, which come after them.
    pub(super) fn outdated_by(&mut self, records: &[Record]) -> Vec<DeadLetter> {
        if self.pages.is_empty() {
            return Vec::new();
        }
        let newer: HashSet<&str> = records.iter().map(|one| &*one.source_id).collect();
        let pages = self.pages.iter_mut();
        pages
            .flat_map(|(_, letters)| {
                letters.extract_if(.., |letter| newer.contains(letter.source_id.as_str()))
            })
            .collect()
    }

    /// The next page of which no record is on its way.
    pub(super) fn next(
        &mut self,
        is_on_its_way: impl Fn(&str) -> bool,
    ) -> Option<(u64, Vec<DeadLetter>)> {
        let (_, letters) = self.pages.front()?;
        if letters.iter().any(|one| is_on_its_way(&one.source_id)) {
            return None;
        }
        self.pages.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cortexdb::envelope::{Mapped, Modality};
    use crate::cortexdb::labels::Labels;

    fn letter(id: &str) -> DeadLetter {
        DeadLetter {
            source_id: id.into(),
            stream: "42/issues".into(),
            reason: "blank".into(),
            payload: String::new(),
        }
    }

    fn record(id: &str) -> Record {
        Record {
            source_id: id.into(),
            event_type: "note".into(),
            modality: Modality::Conversation,
            content: "text".into(),
            observed_at: "2026-11-22T10:00:00Z".into(),
            recorded_at: None,
            author: None,
            labels: Labels::default(),
            preceded_by: vec![],
            thread: None,
            mapped: Mapped::default(),
        }
    }

    fn ids(letters: &[DeadLetter]) -> Vec<&str> {
        letters.iter().map(|one| one.source_id.as_str()).collect()
    }

    #[test]
    fn a_letter_is_kept_under_the_id_of_its_record_whatever_characters_that_has() {
        let long = format!("gl:release:42/{}", "v".repeat(1000));
        for id in [r#"gl:release:42/it's "1"\2"#, "gl:release:42/版本", &long] {
            assert_eq!(id_to_keep(id), id);
        }
        assert_eq!(id_to_keep("gl:note:42/\u{1b}"), "gl:note:42/\\u{1b}");
        assert!(id_to_keep(&"gl:note:42/1".repeat(1000)).len() <= 512);
    }

    #[test]
    fn a_letter_waits_for_the_older_version_of_its_record() {
        let mut letters = Letters::default();
        letters.add(1, vec![letter("a"), letter("b")]);
        letters.add(2, vec![letter("c")]);
        assert!(letters.next(|id| id == "b").is_none());
        let (page, first) = letters.next(|id| id == "c").unwrap();
        assert_eq!((page, ids(&first)), (1, vec!["a", "b"]));
        assert!(letters.next(|id| id == "c").is_none());
        assert_eq!(letters.next(|_| false).unwrap().0, 2);
        assert!(letters.next(|_| false).is_none());
    }

    #[test]
    fn a_letter_is_outdated_by_what_comes_after_it() {
        let mut letters = Letters::default();
        letters.add(1, vec![letter("a"), letter("b")]);
        let outdated = letters.outdated_by(&[record("b"), record("c")]);
        assert_eq!(ids(&outdated), ["b"]);
        let (page, left) = letters.next(|_| false).unwrap();
        assert_eq!((page, ids(&left)), (1, vec!["a"]));
    }
}
