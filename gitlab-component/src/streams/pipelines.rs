//! Pipelines that have come to an end.
//!
//! The list lacks what is worth remembering (duration, coverage, who started it), so each finished pipeline is looked up. One
//! that is still running is counted and left out; it is listed again when it changes. Child pipelines are hidden from the list and
//! need a second walk with a position of their own.

use serde_json::{Map, Value, json};

use super::single::{LAG_MS, not_yet};
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
    let met_some = walk(stream, &mut cursor, POSITION, None).await?;
    // Where there never was a pipeline there is no child of one.
    let may_have_children = met_some || was_read_before;
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

/// Walks one list from the position that the cursor holds under `key`; answers whether it met any row.
async fn walk(
    stream: &Stream<'_>,
    cursor: &mut Map<String, Value>,
    key: &str,
    source: Option<&str>,
) -> Result<bool, Fault> {
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
    let mut met_some = false;
    let mut settled = 0;
    while let Some(mut batch) = walk.next().await? {
        met_some = true;
        let horizon = stream.horizon(walk.started());
        settled += batch
            .rows
            .iter()
            .filter(|row| is_settled(row, &horizon))
            .count() as u64;
        // An instance that does not know the filter lists everything again.
        batch.rows.retain(|row| {
            source.is_none() || row.source.is_none() || row.source.as_deref() == source
        });
        let rows = batch.rows.len();
        write_page(stream, batch.rows).await?;
        stream.progress(rows, walk.total());
        if let Some(at) = batch.resume {
            let at = if at.moment < horizon.moment {
                &at
            } else {
                &horizon
            };
            move_to(cursor, at);
        }
    }
    let some_may_be_unmet = from_the_beginning && walk.total().is_none_or(|total| settled < total);
    if some_may_be_unmet || goes_on {
        write_timeless(stream, listing).await?;
    }
    cursor.remove(&unread);
    move_to(cursor, &stream.horizon(walk.started()));
    Ok(met_some)
}

/// Whether a row surely is one of those that were there at the first answer, and was not met before. One that changes during the walk
/// is met again, with a time behind the horizon, and one that is made then was not among them; to tell them from what ended shortly
/// before, all ids would have to be kept. So that is not counted either: at most the list is read once more, in pages of ids.
fn is_settled(row: &Pipeline, horizon: &Stamp) -> bool {
    let updated = row.updated_at().and_then(Moment::parse);
    updated.is_none_or(|updated| updated <= horizon.moment)
}

/// Very old pipelines have no `updated_at`, so no window of time shows them. They do not change any more: reading them once, sorted by
/// id, is enough. The newest come first: what is made meanwhile then moves the others to pages that are still to come.
async fn write_timeless(stream: &Stream<'_>, listing: Listing) -> Result<(), Fault> {
    let listing = listing.with("order_by", "id").with("sort", "desc");
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
    let wanted = |pipeline: &Pipeline| is_wanted(stream.session.settings, pipeline);
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

    let details = gather(
        CONCURRENT_DETAILS,
        ids.iter().map(|id| detail(stream, *id, 0)),
    )
    .await?;
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

/// Whether it has come to an end that is recorded.
fn is_wanted(settings: &Settings, pipeline: &Pipeline) -> bool {
    let status = pipeline.status.as_ref();
    status.is_some_and(|status| settings.pipeline_statuses.contains(status))
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

/// Reads one pipeline; `None` if GitLab does not know it. `ended`: GitLab told of an end that is recorded.
pub(super) async fn read_one(
    stream: &Stream<'_>,
    id: u64,
    ended: bool,
) -> Result<Option<Verdict>, Fault> {
    let Some(mut pipeline) = detail(stream, id, 0).await? else {
        return Ok(None);
    };
    let settings = stream.session.settings;
    if pipeline.source.as_deref() == Some(CHILD) && !settings.child_pipelines {
        return Ok(Some(Verdict::Ignored(
            "pipelines that other pipelines start are not wanted".to_owned(),
        )));
    }
    if ended && !is_wanted(settings, &pipeline) {
        match detail(stream, id, LAG_MS).await? {
            Some(later) => pipeline = later,
            None => return Ok(None),
        }
    }
    if !is_wanted(settings, &pipeline) {
        return Ok(Some(if ended {
            not_yet(&stream.project.source_id("pipeline", &id.to_string()))
        } else {
            let status = pipeline.status.unwrap_or_default();
            Verdict::Ignored(format!("a pipeline that is {status:?} is not recorded"))
        }));
    }
    let experiences: Vec<_> = stream.mapper().pipeline(&pipeline).into_iter().collect();
    stream.write(&experiences)?;
    Ok(Some(Verdict::Handled))
}

/// A pipeline in full, asked for after a while; `None` if it was deleted since it was listed.
async fn detail(stream: &Stream<'_>, id: u64, delay_ms: u32) -> Result<Option<Pipeline>, Fault> {
    let path = stream.path(&format!("pipelines/{id}"));
    let answer = stream
        .client()
        .object_after::<Pipeline>(&path, &[], delay_ms);
    match answer.await {
        Ok(detail) => Ok(Some(Pipeline {
            id: Some(id),
            ..detail
        })),
        Err(Fault::Refused(refusal)) if refusal.status == 404 => Ok(None),
        Err(fault) => Err(child_fault(fault, &format!("pipeline {id}"))),
    }
}
