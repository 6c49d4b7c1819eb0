//! The cursors as the component sees them: those that are durable and those on their way, and how much room they take.
//!
//! The sum is kept beside them, because it is asked for with every `state.set` and there may be half a million cursors.

use std::collections::BTreeMap;

/// Cursors by key.
#[derive(Debug, Default)]
pub(super) struct OpenCursors {
    values: BTreeMap<String, String>,
    bytes: u64,
}

impl OpenCursors {
    pub(super) fn new(values: BTreeMap<String, String>) -> Self {
        let bytes = values.iter().map(|(key, value)| size(key, value)).sum();
        Self { values, bytes }
    }

    /// How many there would be with this one set, and how many bytes.
    pub(super) fn with(&self, key: &str, value: Option<&str>) -> (u64, u64) {
        let before = self.values.get(key).map(|old| size(key, old));
        let after = value.map(|new| size(key, new));
        let count =
            self.values.len() as u64 + u64::from(after.is_some()) - u64::from(before.is_some());
        (count, self.bytes + after.unwrap_or(0) - before.unwrap_or(0))
    }

    pub(super) fn set(&mut self, key: &str, value: Option<&str>) {
        self.bytes = self.with(key, value).1;
        match value {
            Some(value) => self.values.insert(key.to_owned(), value.to_owned()),
            None => self.values.remove(key),
        };
    }

    pub(super) fn get(&self, key: &str) -> Option<String> {
        self.values.get(key).cloned()
    }

    pub(super) fn starting_with(&self, prefix: &str) -> Vec<(String, String)> {
        self.values
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

fn size(key: &str, value: &str) -> u64 {
    (key.len() + value.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_that_of_what_is_there() {
        let mut cursors = OpenCursors::new(BTreeMap::from([("a".into(), "123".into())]));
        assert_eq!(cursors.with("b", Some("1")), (2, 6));
        cursors.set("b", Some("1"));
        assert_eq!(cursors.with("a", Some("1")), (2, 4));
        cursors.set("a", None);
        assert_eq!(cursors.with("a", None), (1, 2));
        assert_eq!(cursors.get("b").as_deref(), Some("1"));
    }

    #[test]
    fn a_prefix_finds_its_own_only() {
        let names = ["4/a", "42/a", "42/b", "5/a"];
        let cursors = OpenCursors::new(
            names
                .iter()
                .map(|name| ((*name).to_owned(), String::new()))
                .collect(),
        );
        let found: Vec<String> = cursors
            .starting_with("42/")
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(found, ["42/a", "42/b"]);
        assert_eq!(cursors.starting_with("").len(), 4);
    }
}
