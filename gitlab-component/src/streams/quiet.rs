//! Projects in which nothing has happened.
//!
//! Asking five hundred projects for commits, pipelines and releases takes two thousand requests, nearly all of them for nothing. The list
//! of projects, which every run reads anyway, says when something last happened in each. But it says so late and not always: GitLab
//! refreshes `last_activity_at` at most once an hour, and a pipeline that no push started is no activity. So a stream is left alone
//! only if it was read at least an hour after the last activity, and only for so long: in every project each stream is read
//! again after the *sweep*, at the latest.
//!
//! Nor is anything left alone that the settings want now and did not want when it was read.
//!
//! With few projects nothing is gained, and everything is asked every time.

use serde_json::Value;

use super::Stream;
use super::pipelines::covers;
use crate::host::{Mode, StreamState};
use crate::time::Moment;

/// Selections from this size on count as many projects.
pub(crate) const MANY_PROJECTS: usize = 20;

/// An hour, for which GitLab may not refresh the time of the last activity, and ten minutes for jobs that wait and clocks that differ.
const ACTIVITY_LAG_SECONDS: i64 = 70 * 60;

/// What moves a project itself is seen at once; this is for clocks that differ.
const UPDATE_LAG_SECONDS: i64 = 10 * 60;

/// Streams whose changes may leave no trace in their project. Groups list them for all their projects at once.
const THREADS: [&str; 2] = ["/merge_requests", "/issues"];

/// Key of a cursor: GitLab's clock when the run began that read the stream to its end.
const READ_AT: &str = "read_at";
/// Key of a cursor: why the stream is off, in GitLab's words.
pub(super) const OFF: &str = "off";

/// The state in which a stream is left because nothing can have happened since it was read; `None` if it has to be read.
pub(super) fn left_alone(stream: &Stream<'_>) -> Option<StreamState> {
    let session = stream.session;
    if !session.many || stream.mode() != Mode::Poll || session.since.is_some() {
        return None;
    }
    let cursor = stream.peek()?;
    let read_at = cursor
        .get(READ_AT)
        .and_then(Value::as_str)
        .and_then(Moment::parse)?;
    let project = stream.project;
    let seen = |happened: Moment, lag| read_at.minus_seconds(lag) >= happened;
    let quiet = seen(project.last_activity?, ACTIVITY_LAG_SECONDS)
        && project
            .updated
            .is_none_or(|updated| seen(updated, UPDATE_LAG_SECONDS));
    let clock = session.clock();
    // A time that has not come yet was not written by this connector.
    let lately = clock.minus_seconds(sweep_seconds(stream)) < read_at && read_at <= clock;
    let state = match cursor.get(OFF).and_then(Value::as_str) {
        Some(words) => StreamState::Off(words.to_owned()),
        // Not every edit and not every comment is an activity.
        None if THREADS.iter().any(|list| stream.key.ends_with(list)) => return None,
        // What nobody wanted before was not read, however quiet the project is.
        None if stream.key.ends_with("/pipelines") && !covers(session.settings, &cursor) => {
            return None;
        }
        None => StreamState::Complete,
    };
    (quiet && lately).then_some(state)
}

/// The sweep of this project: at most what the user wants, and earlier for some, so that not all are due in the same run.
fn sweep_seconds(stream: &Stream<'_>) -> i64 {
    let longest = i64::from(stream.session.settings.sweep_minutes) * 60;
    // Consecutive ids end up far apart: the fractional parts of multiples of the golden ratio.
    let phase = (stream.project.id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48).cast_signed();
    longest / 2 + longest / 2 * phase / 0xFFFF
}

/// Notes in the cursor that the stream was read in this run, and if it is off, why.
pub(super) fn remember(stream: &Stream<'_>, off: Option<&str>) {
    let session = stream.session;
    if !session.many || session.mode == Mode::Verify {
        return;
    }
    let mut cursor = stream.peek().unwrap_or_default();
    cursor.remove(OFF);
    if let Some(words) = off {
        cursor.insert(OFF.to_owned(), words.into());
    }
    cursor.insert(READ_AT.to_owned(), session.clock().to_string().into());
    stream
        .host()
        .set_state(&stream.key, &Value::Object(cursor).to_string());
}

/// Whether a cursor says where to go on, and not only that there is nothing to go on with.
pub(super) fn is_position(cursor: &serde_json::Map<String, Value>) -> bool {
    !cursor.contains_key(OFF) || cursor.keys().any(|key| key != OFF && key != READ_AT)
}
