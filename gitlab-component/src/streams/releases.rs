//! Releases. They have no id and no visible time of change, but the list can be filtered by it.

use serde_json::json;

use super::single::{LAG_MS, not_yet};
use super::{End, Stream};
use crate::client::{Fault, Listing};
use crate::gitlab::Release;
use crate::host::Verdict;
use crate::settings::percent_encode;
use crate::sorted::SortedSet;
use crate::time::Moment;
use crate::walk::{self, Stamp, is_ahead};

/// Reads what changed since the cursor.
pub(crate) async fn read(stream: &Stream<'_>) -> Result<End, Fault> {
    let position = stream
        .cursor()
        .and_then(|cursor| stream.cursor_time(&cursor, "updated_after"));
    let position = stream.start(position);
    let mut started = list(stream, position.as_ref()).await?;
    if is_ahead(position.as_ref(), started) {
        stream.start_again("it lies in the future");
        started = list(stream, None).await?;
    }
    let cursor = json!({ "updated_after": stream.horizon(started).text });
    stream.set_cursor(&stream.with_floor(cursor));
    Ok(End::Complete)
}

/// Reads the release of one tag; `None` if there is none. `deleted`: GitLab told that there is none any more.
pub(super) async fn read_one(
    stream: &Stream<'_>,
    tag: &str,
    deleted: bool,
) -> Result<Option<Verdict>, Fault> {
    let mut shown = detail(stream, tag, 0).await?;
    if deleted && shown.is_some() {
        shown = detail(stream, tag, LAG_MS).await?;
    }
    let Some(release) = shown else {
        return Ok(None);
    };
    // What is still there after that may have been made again.
    let experiences: Vec<_> = stream.mapper().release(&release).into_iter().collect();
    stream.write(&experiences)?;
    Ok(Some(if deleted {
        not_yet(&stream.project.source_id("release", tag))
    } else {
        Verdict::Handled
    }))
}

/// The release of a tag, asked for after a while; `None` if there is none.
async fn detail(stream: &Stream<'_>, tag: &str, delay_ms: u32) -> Result<Option<Release>, Fault> {
    let path = stream.path(&format!("releases/{}", percent_encode(tag)));
    match stream.client().object_after(&path, &[], delay_ms).await {
        Ok(release) => Ok(Some(release)),
        Err(Fault::Refused(refusal)) if refusal.status == 404 => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Writes the releases that were changed after a time; answers GitLab's clock at the first answer.
async fn list(stream: &Stream<'_>, after: Option<&Stamp>) -> Result<Option<Moment>, Fault> {
    let mut listing = Listing::new(
        stream.path("releases"),
        &[("order_by", "created_at"), ("sort", "asc")],
    );
    if let Some(after) = after {
        listing = listing.with("updated_after", &after.text);
    }
    let mut seen = SortedSet::default();
    walk::listing(stream.client(), &listing, &mut |rows: Vec<Release>| {
        let mapper = stream.mapper();
        let mut experiences = Vec::with_capacity(rows.len());
        let mut untagged = 0;
        for row in &rows {
            match mapper.release(row) {
                Some(experience) if seen.insert(experience.source_id.clone()) => {
                    experiences.push(experience);
                }
                Some(_) => {}
                None => untagged += 1,
            }
        }
        stream.write(&experiences)?;
        stream.skip("without-id", untagged);
        stream.progress(rows.len(), None);
        Ok(())
    })
    .await
}
