//! Which projects are read first.
//!
//! Requests go to the project that is read first, and the others get what it leaves. A project that was read to its end before has
//! little that is new, and must not wait for hours behind the first reading of a large one; so whoever is least behind comes first.

use std::cmp::Reverse;

use super::{STREAMS, Session, Stream};
use crate::mapping::Project;
use crate::sorted::sorted_by_key;
use crate::time::Moment;
use crate::walk::Stamp;

/// The projects, those first whose cursors are nearest to now, and those without any in the order in which they were selected.
pub(crate) fn least_behind_first<'p>(
    session: &Session<'_>,
    projects: &'p [Project],
) -> Vec<&'p Project> {
    sorted_by_key(projects, |project| Reverse(read_up_to(session, project)))
}

/// Up to when all streams were read whose cursors say a time; `None` if there is no such cursor.
fn read_up_to(session: &Session<'_>, project: &Project) -> Option<Moment> {
    STREAMS
        .into_iter()
        .filter_map(|name| {
            let cursor = Stream::new(session, project, name).peek()?;
            let time = cursor.get("updated_after")?.as_str()?;
            Stamp::parse(time).map(|stamp| stamp.moment)
        })
        .min()
}
