//! Pipelines that have come to an end.
//!
//! The list lacks what is worth remembering (duration, coverage, who started it), so each finished pipeline is looked up. One
//! that is still running is counted and left out; it is listed again when it changes. Child pipelines are hidden from the list and
//! need a second walk with a position of their own.

use serde_json::{Map, Value, json};

use super::{End, Stream, child_fault};
use crate::client::{Fault, Listing};
use crate::executor::gather;
use crate::gitlab::Pipeline;
use crate::host::Verdict;
use crate::settings::Settings;
use crate::sorted::SortedMap;
use crate::time::Moment;
use crate::walk::{self, Row, Stamp, TimeWalk};

/// Pipelines that are looked up at the same time, within the limit for the whole run.
const CONCURRENT_DETAILS: usize = 32;

/// How long after its end a pipeline may still get its coverage.
const LATE_SECONDS: i64 = 2 * 86_400;

const POSITION: &str = "updated_after";
const CHILD_POSITION: &str = "child_updated_after";
/// Key of a cursor: whether child pipelines were wanted when the stream was last read to its end.
const CHILDREN: &str = "children";
/// The source of pipelines that another pipeline of the same project started.
const CHILD: &str = "parent_pipeline";

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
    let settings = stream.session.settings;
    let mut cursor = stream.cursor().unwrap_or_default();
    if !covers_statuses(settings, &cursor) {
        stream.start_again("pipeline_statuses has new values");
        cursor = Map::new();
    }
    cursor.insert("statuses".to_owned(), json!(settings.pipeline_statuses));
    if !settings.child_pipelines {
        cursor.remove(CHILDREN);
    }
    let was_read_before = cursor.contains_key(POSITION);
    let met = walk(stream, &mut cursor, POSITION, None).await?;
    // Where there never was a pipeline there is no child of one.
    let may_have_children = met > 0 || was_read_before;
    if settings.child_pipelines {
        if may_have_children {
            match walk(stream, &mut cursor, CHILD_POSITION, Some(CHILD)).await {
                // Before 17.0 GitLab does not know this source, and shows child pipelines nowhere.
                Err(Fault::Refused(refusal)) if refusal.status == 400 => {}
                other => drop(other?),
            }
        }
        if cursor.insert(CHILDREN.to_owned(), Value::Bool(true)) != Some(Value::Bool(true)) {
            stream.set_cursor(&stream.with_floor(Value::Object(cursor)));
        }
    }
    Ok(End::Complete)
}

/// Whether everything that is wanted now was wanted when this cursor was written.
pub(super) fn covers(settings: &Settings, cursor: &Map<String, Value>) -> bool {
    let children = cursor.get(CHILDREN) == Some(&Value::Bool(true));
    covers_statuses(settings, cursor) && (children || !settings.child_pipelines)
}

fn covers_statuses(settings: &Settings, cursor: &Map<String, Value>) -> bool {
    let Some(before) = cursor.get("statuses").and_then(Value::as_array) else {
        return true;
    };
    let wanted = &settings.pipeline_statuses;
    wanted
        .iter()
        .all(|status| before.iter().any(|before| before.as_str() == Some(status)))
}

/// Walks one list from the position that the cursor holds under `key`; answers how many rows it met.
async fn walk(
    stream: &Stream<'_>,
    cursor: &mut Map<String, Value>,
    key: &str,
    source: Option<&str>,
) -> Result<u64, Fault> {
    let position = if cursor.contains_key(key) {
        stream.cursor_time(cursor, key)
    } else {
        None
    };
    let move_to = |cursor: &mut Map<String, Value>, at: &Stamp| {
        cursor.insert(key.to_owned(), json!(at.text));
        stream.set_cursor(&stream.with_floor(Value::Object(cursor.clone())));
    };
    let filter: Vec<(&str, &str)> = source
        .map(|source| ("source", source))
        .into_iter()
        .collect();
    let listing = Listing::new(stream.path("pipelines"), &filter);
    let start = stream.start(position);
    let from_the_beginning = start.is_none();
    let unread = format!("{key}_timeless_unread");
    if from_the_beginning {
        cursor.insert(unread.clone(), Value::Bool(true));
    }
    let goes_on = !from_the_beginning && cursor.contains_key(&unread);
    let mut walk = TimeWalk::<Pipeline>::new(stream.client(), listing.clone(), "id", start);
    let mut met = 0;
    while let Some(mut batch) = walk.next().await? {
        met += batch.rows.len() as u64;
        // An instance that does not know the filter lists everything again.
        batch.rows.retain(|row| {
            source.is_none() || row.source.is_none() || row.source.as_deref() == source
        });
        let rows = batch.rows.len();
        write_page(stream, batch.rows).await?;
        stream.progress(rows, walk.total());
        if let Some(at) = batch.resume {
            let horizon = stream.horizon(walk.started());
            let at = if at.moment < horizon.moment {
                &at
            } else {
                &horizon
            };
            move_to(cursor, at);
        }
    }
    let some_were_not_met = from_the_beginning && walk.total().is_none_or(|total| met < total);
    if some_were_not_met || goes_on {
        write_timeless(stream, listing).await?;
    }
    cursor.remove(&unread);
    move_to(cursor, &stream.horizon(walk.started()));
    Ok(met)
}

/// Very old pipelines have no `updated_at`, so no window of time shows them. They do not change any more: reading them once, sorted by
/// id, is enough.
async fn write_timeless(stream: &Stream<'_>, listing: Listing) -> Result<(), Fault> {
    let listing = listing.with("order_by", "id").with("sort", "asc");
    let mut timeless = SortedMap::default();
    walk::listing(stream.client(), &listing, &mut |rows: Vec<Pipeline>| {
        let old = rows.into_iter().filter(|row| row.updated_at.is_none());
        timeless.extend(old.filter_map(|row| Some((row.id?, row))));
        Ok(())
    })
    .await?;
    let mut timeless = timeless.into_values();
    loop {
        let page: Vec<Pipeline> = timeless.by_ref().take(100).collect();
        if page.is_empty() {
            return Ok(());
        }
        write_page(stream, page).await?;
    }
}

async fn write_page(stream: &Stream<'_>, rows: Vec<Pipeline>) -> Result<(), Fault> {
    let wanted = |pipeline: &Pipeline| {
        let statuses = &stream.session.settings.pipeline_statuses;
        pipeline
            .status
            .as_ref()
            .is_some_and(|status| statuses.contains(status))
    };
    let (finished, rest): (Vec<&Pipeline>, Vec<&Pipeline>) = rows
        .iter()
        .filter(|row| row.id.is_some())
        .partition(|row| wanted(row));
    let unidentified = rows.len() - finished.len() - rest.len();
    let mut unfinished = rest.len();
    let mut deleted = 0;
    stream.list("pipeline", &source_ids(stream, &rest), false)?;
    let ids = worth_a_look(stream, &finished)?;
    drop((finished, rest));
    drop(rows);

    let details = gather(CONCURRENT_DETAILS, ids.iter().map(|id| detail(stream, *id))).await?;
    let mut experiences = Vec::with_capacity(details.len());
    for detail in details {
        match detail {
            None => deleted += 1,
            Some(detail) if wanted(&detail) => {
                experiences.extend(stream.mapper().pipeline(&detail));
            }
            // Started again since it was listed.
            Some(detail) => {
                stream.list("pipeline", &source_ids(stream, &[&detail]), false)?;
                unfinished += 1;
            }
        }
    }
    stream.write(&experiences)?;
    stream.skip("without-id", unidentified as u64);
    stream.skip("pipeline-not-finished", unfinished as u64);
    stream.skip("pipeline-deleted", deleted);
    Ok(())
}

fn source_ids(stream: &Stream<'_>, rows: &[&Pipeline]) -> Vec<String> {
    let ids = rows.iter().filter_map(|row| row.id);
    ids.map(|id| stream.project.source_id("pipeline", &id.to_string()))
        .collect()
}

/// Which of these finished pipelines are looked up. When everything is read again, one that is known has nothing new to say,
/// unless it ended lately: its coverage may have come after it.
fn worth_a_look(stream: &Stream<'_>, finished: &[&Pipeline]) -> Result<Vec<u64>, Fault> {
    if !stream.is_read_again() {
        return Ok(finished.iter().filter_map(|row| row.id).collect());
    }
    let source_ids = source_ids(stream, finished);
    if stream.only_lists() {
        stream.list("pipeline", &source_ids, true)?;
        return Ok(Vec::new());
    }
    let lately = stream.session.now.moment.minus_seconds(LATE_SECONDS);
    let mut listed = Vec::new();
    let mut ids = Vec::new();
    let known = stream.host().known(&source_ids);
    for ((row, source_id), known) in finished.iter().zip(source_ids).zip(known) {
        let updated = row.updated_at().and_then(Moment::parse);
        if known && updated.is_none_or(|updated| updated < lately) {
            listed.push(source_id);
        } else {
            ids.extend(row.id);
        }
    }
    stream.list("pipeline", &listed, true)?;
    Ok(ids)
}

/// Reads one pipeline; `None` if GitLab does not know it.
pub(super) async fn read_one(stream: &Stream<'_>, id: u64) -> Result<Option<Verdict>, Fault> {
    let Some(pipeline) = detail(stream, id).await? else {
        return Ok(None);
    };
    let settings = stream.session.settings;
    if pipeline.source.as_deref() == Some(CHILD) && !settings.child_pipelines {
        return Ok(Some(Verdict::Ignored(
            "pipelines that other pipelines start are not wanted".to_owned(),
        )));
    }
    let status = pipeline.status.clone().unwrap_or_default();
    if !settings.pipeline_statuses.contains(&status) {
        return Ok(Some(Verdict::Ignored(format!(
            "a pipeline that is {status:?} is not recorded"
        ))));
    }
    let experiences: Vec<_> = stream.mapper().pipeline(&pipeline).into_iter().collect();
    stream.write(&experiences)?;
    Ok(Some(Verdict::Handled))
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
