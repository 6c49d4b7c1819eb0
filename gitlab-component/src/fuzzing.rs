//! The way in for the fuzz targets, with the feature `fuzzing` only: the mapping is private, because what it takes are GitLab's objects and
//! nobody else has those.

use serde::de::DeserializeOwned;

use crate::gitlab::Discussion;
use crate::host::Experience;
use crate::mapping::{Mapper, Parent, Project};

const THREAD: &str = "gl:issue:42/1";

/// Reads one JSON text as every kind of record, and maps what it can be read as.
#[must_use]
pub fn map_every_kind(json: &[u8]) -> Vec<Experience> {
    fn row<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
        serde_json::from_slice(json).ok()
    }
    let project = row(json).and_then(Project::new).or_else(|| {
        row(br#"{"id":42,"path_with_namespace":"acme/widget"}"#).and_then(Project::new)
    });
    let Some(project) = project else {
        return vec![];
    };
    let mapper = Mapper {
        project: &project,
        now: "2026-11-22T00:00:00Z",
    };
    let parent = Parent {
        source_id: THREAD.to_owned(),
        confidential: false,
    };
    let mut mapped = vec![
        row(json).and_then(|row| mapper.merge_request(&row)),
        row(json).and_then(|row| mapper.issue(&row)),
        row(json).and_then(|row| mapper.commit(&row)),
        row(json).and_then(|row| mapper.pipeline(&row)),
        row(json).and_then(|row| mapper.release(&row)),
        row(json).and_then(|row| mapper.note(&row, None, &parent, THREAD)),
    ];
    if let Some(discussion) = row::<Discussion>(json) {
        let id = discussion.id.as_deref();
        let notes = discussion.notes.iter().flatten();
        mapped.extend(notes.map(|note| mapper.note(note, id, &parent, THREAD)));
    }
    mapped.into_iter().flatten().collect()
}
