//! How values are written into both databases, so that both answer with the same: times as milliseconds, lists and objects as JSON, and
//! no text with a zero character, which PostgreSQL refuses.

use std::borrow::Cow;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::PlatformError;

/// A new id. Ids of one process sort in the order in which they were made.
pub(super) fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Milliseconds since 1970 as RFC 3339.
pub(super) fn time(milliseconds: i64) -> String {
    DateTime::from_timestamp_millis(milliseconds)
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// RFC 3339 as milliseconds since 1970.
pub(super) fn parse_time(text: &str) -> Result<i64, PlatformError> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.timestamp_millis())
        .map_err(|_| {
            PlatformError::Invalid(format!(
                "{text:?} is no time; write it as in 2026-11-23T08:30:00Z"
            ))
        })
}

/// At most a hundred years, so that no sum of two overflows.
pub(super) fn milliseconds(duration: Duration) -> i64 {
    const MOST: i64 = 100 * 365 * 86_400_000;
    i64::try_from(duration.as_millis()).map_or(MOST, |one| one.min(MOST))
}

/// As the databases keep it.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The reverse of [`signed`].
pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// The reverse of a count that was widened.
pub(super) fn count(value: i64) -> u32 {
    u32::try_from(value.max(0)).unwrap_or(u32::MAX)
}

/// A text that both databases take.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// As JSON text.
pub(super) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String, PlatformError> {
    Ok(serde_json::to_string(value)?)
}

/// The reverse of [`to_json`].
pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, PlatformError> {
    Ok(serde_json::from_str(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_utc_with_milliseconds_and_read_in_any_zone() {
        assert_eq!(time(1_763_863_807_042), "2025-11-23T02:10:07.042Z");
        let elsewhere = parse_time("2025-11-23T03:10:07.042+01:00").unwrap();
        assert_eq!(elsewhere, 1_763_863_807_042);
        let error = parse_time("yesterday").unwrap_err().to_string();
        assert!(error.contains("yesterday"), "{error}");
    }

    #[test]
    fn ids_sort_in_the_order_in_which_they_were_made() {
        let ids: Vec<String> = (0..1000).map(|_| new_id()).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn the_longest_duration_does_not_overflow() {
        assert!(milliseconds(Duration::MAX).checked_mul(2).is_some());
    }
}
