//! Releases. They have no id and no visible time of change, but the list can be filtered by it.

use serde_json::json;

use super::{End, Stream};
use crate::client::{Fault, Listing};
use crate::gitlab::Release;
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

/// Reads the release of one tag; whether there is one.
pub(super) async fn read_one(stream: &Stream<'_>, tag: &str) -> Result<bool, Fault> {
    let path = stream.path(&format!("releases/{}", percent_encode(tag)));
    let release: Release = match stream.client().object(&path, &[]).await {
        Ok(release) => release,
        Err(Fault::Refused(refusal)) if refusal.status == 404 => return Ok(false),
        Err(fault) => return Err(fault),
    };
    let experiences: Vec<_> = stream.mapper().release(&release).into_iter().collect();
    stream.write(&experiences)?;
    Ok(true)
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
