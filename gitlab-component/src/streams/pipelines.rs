//! Pipelines that have come to an end.
//!
//! The list lacks what is worth remembering (duration, coverage, who started it), so each finished pipeline is looked up. One
//! that is still running is counted and left out; it is listed again when it changes. Child pipelines are hidden from the list and
//! need a second walk with a position of its own.

use serde_json::{Map, Value, json};

use super::{End, Stream, child_fault};
use crate::client::{Fault, Listing};
use crate::executor::gather;
use crate::gitlab::Pipeline;
use crate::walk::{Row, Stamp, TimeWalk};

/// Pipelines that are looked up at the same time, within the limit for the whole run.
const CONCURRENT_DETAILS: usize = 16;

const POSITION: &str = "updated_after";
const CHILD_POSITION: &str = "child_updated_after";

impl Row for Pipeline {
    fn id(&self) -> Option<u64> {
        self.id
    }

    fn updated_at(&self) -> Option<&str> {
        self.updated_at.as_deref()
    }
}

/// Reads what changed since the cursor.
pub(crate) async fn read(stream: &Stream<'_>) -> Result<End, Fault> {
    let mut cursor = stream
        .cursor()
        .filter(|cursor| covers(stream, cursor))
        .unwrap_or_default();
    cursor.insert(
        "statuses".to_owned(),
        json!(stream.session.settings.pipeline_statuses),
    );
    walk(stream, &mut cursor, POSITION, &[]).await?;
    if stream.session.settings.child_pipelines {
        walk(
            stream,
            &mut cursor,
            CHILD_POSITION,
            &[("source", "parent_pipeline")],
        )
        .await?;
    }
    Ok(End::Complete)
}

/// Whether everything that is wanted now was wanted when this cursor was written.
fn covers(stream: &Stream<'_>, cursor: &Map<String, Value>) -> bool {
    let Some(before) = cursor.get("statuses").and_then(Value::as_array) else {
        return true;
    };
    let wanted = &stream.session.settings.pipeline_statuses;
    let covered = wanted
        .iter()
        .all(|status| before.iter().any(|before| before.as_str() == Some(status)));
    if !covered {
        stream.start_again("pipeline_statuses has new values");
    }
    covered
}

/// Walks one list from the position that the cursor holds under `key`.
async fn walk(
    stream: &Stream<'_>,
    cursor: &mut Map<String, Value>,
    key: &str,
    filter: &[(&str, &str)],
) -> Result<(), Fault> {
    let position = if cursor.contains_key(key) {
        stream.cursor_time(cursor, key)
    } else {
        None
    };
    let mut move_to = |at: &Stamp| {
        cursor.insert(key.to_owned(), json!(at.text));
        stream.set_cursor(&Value::Object(cursor.clone()));
    };
    let listing = Listing::new(stream.path("pipelines"), filter);
    let mut walk =
        TimeWalk::<Pipeline>::new(stream.client(), listing, "id", stream.start(position));
    while let Some(batch) = walk.next().await? {
        let rows = batch.rows.len();
        write_page(stream, &batch.rows).await?;
        stream.progress(rows, walk.total());
        if let Some(at) = batch.resume {
            let horizon = stream.horizon(walk.started());
            move_to(if at.moment < horizon.moment {
                &at
            } else {
                &horizon
            });
        }
    }
    move_to(&stream.horizon(walk.started()));
    Ok(())
}

async fn write_page(stream: &Stream<'_>, rows: &[Pipeline]) -> Result<(), Fault> {
    let wanted = |pipeline: &Pipeline| {
        let statuses = &stream.session.settings.pipeline_statuses;
        pipeline
            .status
            .as_ref()
            .is_some_and(|status| statuses.contains(status))
    };
    let ids: Vec<u64> = rows
        .iter()
        .filter(|row| wanted(row))
        .filter_map(|row| row.id)
        .collect();
    let unidentified = rows.iter().filter(|row| row.id.is_none()).count();
    let mut unfinished = rows.len() - unidentified - ids.len();
    let mut deleted = 0;

    let details = gather(CONCURRENT_DETAILS, ids.iter().map(|id| detail(stream, *id))).await?;
    let mut experiences = Vec::with_capacity(details.len());
    for detail in details {
        match detail {
            None => deleted += 1,
            Some(detail) if wanted(&detail) => {
                experiences.extend(stream.mapper().pipeline(&detail));
            }
            // Started again since it was listed.
            Some(_) => unfinished += 1,
        }
    }
    stream.write(&experiences)?;
    stream.skip("without-id", unidentified as u64);
    stream.skip("pipeline-not-finished", unfinished as u64);
    stream.skip("pipeline-deleted", deleted);
    Ok(())
}

/// A pipeline in full; `None` if it was deleted since it was listed.
async fn detail(stream: &Stream<'_>, id: u64) -> Result<Option<Pipeline>, Fault> {
    let path = stream.path(&format!("pipelines/{id}"));
    match stream.client().object::<Pipeline>(&path, &[]).await {
        Ok(detail) => Ok(Some(Pipeline {
            id: Some(id),
            ..detail
        })),
        Err(Fault::Refused(refusal)) if refusal.status == 404 => Ok(None),
        Err(fault) => Err(child_fault(fault, &format!("pipeline {id}"))),
    }
}
