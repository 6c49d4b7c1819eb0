//! Points in time, read tolerantly and written strictly.
//!
//! GitLab prints times in at least four ways (contract of the API, not of one version): RFC 3339 with milliseconds, with an
//! offset, `2017-09-15 16:50:55 UTC`, and bare dates. CortexDB takes RFC 3339 and nothing else. A guest has no clock and needs
//! no calendar beyond this, so a hundred lines stand in for a date library that would weigh more than all of the mapping.

use std::fmt;
use std::ops::Range;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
/// From the first moment of the year 0 to the last of 9999.
const YEARS: Range<i64> = -719_528 * DAY..2_932_897 * DAY;

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(i64);

impl Moment {
    /// Reads RFC 3339, `YYYY-MM-DD HH:MM:SS[.f] (UTC|±hhmm|±hh:mm)` or `YYYY-MM-DD`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Parts::parse(text.trim()).map(|parts| parts.moment)
    }

    /// Reads the `Date` header of HTTP: `Sun, 06 Nov 1994 08:49:37 GMT`.
    pub(crate) fn parse_http_date(text: &str) -> Option<Self> {
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let mut words = text.split_once(", ")?.1.split(' ');
        let day = words.next()?.parse().ok()?;
        let name = words.next()?;
        let month = MONTHS.iter().zip(1..).find(|(month, _)| **month == name)?.1;
        let year = words.next()?.parse().ok()?;
        let mut clock = words
            .next()?
            .split(':')
            .map(|part| part.parse::<i64>().ok());
        let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
        (words.next()? == "GMT").then_some(())?;
        let midnight = midnight(year, month, day)?;
        time_of_day(hour, minute, second).map(|time| Self(midnight + time))
    }

    #[cfg(test)]
    pub(crate) fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// This much earlier.
    pub(crate) fn minus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_sub(seconds * SECOND))
    }

    /// One millisecond later: the next time that GitLab's API can print.
    pub(crate) fn next_millisecond(self) -> Self {
        Self(self.0.saturating_add(1_000))
    }

    /// Whole seconds since 1970, for places that have 32 bits: earlier is 0, later than 2106 is the largest number.
    pub(crate) fn unix_seconds_clamped(self) -> u32 {
        let seconds = self.0.div_euclid(SECOND);
        u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
    }

    /// Whole days from this moment to a later one.
    pub(crate) fn days_until(self, later: Self) -> i64 {
        later.0.saturating_sub(self.0).div_euclid(DAY)
    }
}

impl fmt::Display for Moment {
    /// RFC 3339 in UTC, with as many digits of the second as there are (0, 3 or 6).
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.0.div_euclid(DAY);
        let time = self.0.rem_euclid(DAY);
        let (year, month, day) = date_of(days);
        let (seconds, micros) = (time / SECOND, time % SECOND);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(
            formatter,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        )?;
        match micros {
            0 => {}
            whole if whole % 1_000 == 0 => write!(formatter, ".{:03}", whole / 1_000)?,
            _ => write!(formatter, ".{micros:06}")?,
        }
        formatter.write_str("Z")
    }
}

/// The same time as valid RFC 3339: untouched where it already is, so that an offset stays what it was.
pub(crate) fn rfc3339(text: &str) -> Option<String> {
    let text = text.trim();
    let parts = Parts::parse(text)?;
    Some(if parts.strict {
        text.to_owned()
    } else {
        parts.moment.to_string()
    })
}

struct Parts {
    moment: Moment,
    /// Whether the text is RFC 3339 to the letter.
    strict: bool,
}

impl Parts {
    fn parse(text: &str) -> Option<Self> {
        let (date, rest) = text.as_bytes().split_first_chunk()?;
        let midnight = parse_date(date)?;
        let Some((clock, rest)) = rest.split_first_chunk() else {
            return rest.is_empty().then_some(Self {
                moment: Moment(midnight),
                strict: false,
            });
        };
        let [separator, h1, h2, b':', m1, m2, b':', s1, s2] = *clock else {
            return None;
        };
        if !matches!(separator, b'T' | b't' | b' ') {
            return None;
        }
        let (hour, minute, second) = (number([h1, h2])?, number([m1, m2])?, number([s1, s2])?);
        let time = time_of_day(hour, minute, second)?;

        let (micros, fraction_length, rest) = match rest {
            [b'.', rest @ ..] => fraction(rest)?,
            _ => (0, 0, rest),
        };
        let offset = Offset::parse(rest.strip_prefix(b" ").unwrap_or(rest))?;
        let moment = Moment((midnight + time + micros).checked_sub(offset.seconds * SECOND)?);
        let in_range = YEARS.contains(&moment.0);
        in_range.then_some(Self {
            moment,
            strict: separator == b'T'
                && second < 60
                && fraction_length <= 9
                && offset.strict
                && !rest.starts_with(b" "),
        })
    }
}

struct Offset {
    seconds: i64,
    strict: bool,
}

impl Offset {
    fn parse(text: &[u8]) -> Option<Self> {
        let (sign, hours, minutes, strict) = match *text {
            [b'Z'] => return Some(Self::utc(true)),
            [b'z'] | [b'U', b'T', b'C'] | [b'G', b'M', b'T'] => return Some(Self::utc(false)),
            [sign, h1, h2, b':', m1, m2] => (sign, [h1, h2], [m1, m2], true),
            [sign, h1, h2, m1, m2] => (sign, [h1, h2], [m1, m2], false),
            _ => return None,
        };
        let sign = match sign {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let (hours, minutes) = (number(hours)?, number(minutes)?);
        (hours < 24 && minutes < 60).then_some(Self {
            seconds: sign * (hours * 3600 + minutes * 60),
            strict,
        })
    }

    fn utc(strict: bool) -> Self {
        Self { seconds: 0, strict }
    }
}

/// Microseconds from 1970 to the start of `YYYY-MM-DD`.
fn parse_date(text: &[u8; 10]) -> Option<i64> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *text else {
        return None;
    };
    midnight(
        number([y1, y2, y3, y4])?,
        number([m1, m2])?,
        number([d1, d2])?,
    )
}

/// What the digits at the beginning of a text are in millionths, how many they are, and what follows them.
fn fraction(text: &[u8]) -> Option<(i64, usize, &[u8])> {
    // As GitLab prints it.
    if let [a, b, c, rest @ ..] = text
        && let Some(thousandths) = number([*a, *b, *c])
        && !rest.first().is_some_and(u8::is_ascii_digit)
    {
        return Some((thousandths * 1_000, 3, rest));
    }
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(length);
    let mut kept = [b'0'; 6];
    kept.iter_mut()
        .zip(digits)
        .for_each(|(kept, digit)| *kept = *digit);
    (length > 0).then_some((number(kept)?, length, rest))
}

/// Of few enough digits that nothing can overflow.
fn number<const DIGITS: usize>(digits: [u8; DIGITS]) -> Option<i64> {
    let values = digits.map(|digit| i64::from(digit) - i64::from(b'0'));
    let valid = digits.iter().all(u8::is_ascii_digit);
    valid.then(|| values.iter().fold(0, |number, digit| number * 10 + digit))
}

/// Second 60 is a leap second and counts as the first of the next minute.
fn time_of_day(hour: i64, minute: i64, second: i64) -> Option<i64> {
    let valid = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..=60).contains(&second);
    valid.then_some((hour * 3600 + minute * 60 + second) * SECOND)
}

fn midnight(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(0..=9999).contains(&year) || !(1..=length).contains(&day) {
        return None;
    }
    // Days from the civil calendar: years start in March, so that the leap day is the last of a year.
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some((era * 146_097 + day_of_era - 719_468) * DAY)
}

/// Year, month and day of a number of days since 1970.
fn date_of(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fraction_has_any_number_of_digits_and_six_of_them_count() {
        for (fraction, micros) in [
            ("5", 500_000),
            ("12", 120_000),
            ("123", 123_000),
            ("1234", 123_400),
            ("123456", 123_456),
            ("1234569", 123_456),
            ("123456789012345678901", 123_456),
        ] {
            for (offset, seconds) in [
                ("Z", 0),
                (" UTC", 0),
                ("+02:00", -7200),
                ("-0130", 5400),
                (" +0200", -7200),
            ] {
                let text = format!("1970-01-01T00:00:00.{fraction}{offset}");
                let expected = Moment(micros + seconds * SECOND);
                assert_eq!(Moment::parse(&text), Some(expected), "{text}");
            }
            for offset in [
                "", "UTZ", "+2:00", "+02:0", "+02:000", "*02:00", "Z Z", ":00",
            ] {
                let text = format!("1970-01-01T00:00:00.{fraction}{offset}");
                assert_eq!(Moment::parse(&text), None, "{text}");
            }
        }
        assert_eq!(Moment::parse("1970-01-01T00:00:00.Z"), None);
    }

    #[test]
    fn every_form_that_gitlab_prints_is_read() {
        let expected = Moment::parse("2017-09-15T16:50:55Z").expect("plain");
        for form in [
            "2017-09-15T16:50:55.000Z",
            "2017-09-15 16:50:55 UTC",
            "2017-09-15 16:50:55.000 UTC",
            "2017-09-15 09:50:55 -0700",
            "2017-09-15T18:50:55.000+02:00",
            "2017-09-15T18:50:55+0200",
            "2017-09-15t16:50:55z",
        ] {
            assert_eq!(Moment::parse(form), Some(expected), "{form}");
        }
        assert_eq!(
            Moment::parse("2017-09-15")
                .map(|m| m.to_string())
                .as_deref(),
            Some("2017-09-15T00:00:00Z")
        );
        assert_eq!(
            Moment::parse_http_date("Fri, 15 Sep 2017 16:50:55 GMT"),
            Some(expected)
        );
    }

    #[test]
    fn what_is_valid_already_keeps_its_offset_and_the_rest_becomes_utc() {
        assert_eq!(
            rfc3339("2021-09-20T11:50:22.001+02:00").as_deref(),
            Some("2021-09-20T11:50:22.001+02:00")
        );
        assert_eq!(
            rfc3339("2017-09-15 16:50:55 UTC").as_deref(),
            Some("2017-09-15T16:50:55Z")
        );
        assert_eq!(
            rfc3339("2026-07-28 15:09:25 -0700").as_deref(),
            Some("2026-07-28T22:09:25Z")
        );
        assert_eq!(
            rfc3339("2016-12-31T23:59:60Z").as_deref(),
            Some("2017-01-01T00:00:00Z")
        );
        assert_eq!(
            rfc3339("2019-03-31"),
            Some("2019-03-31T00:00:00Z".to_owned())
        );
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "soon",
            "2017-02-29T00:00:00Z",
            "2017-13-01T00:00:00Z",
            "2017-09-15T24:00:00Z",
            "2017-09-15T16:50:55",
            "2017-09-15T16:50:55.Z",
            "2017-09-15T16:50:55+2:00",
            "0000-01-01T00:00:00+23:00",
            "2017-09-1é",
            "９017-09-15",
        ] {
            assert_eq!(Moment::parse(text), None, "{text}");
        }
        assert_eq!(
            Moment::parse_http_date("Fri, 01 Nov 2019 13-36-03 GMT"),
            None
        );
    }

    #[test]
    fn a_moment_outside_of_32_bits_is_clamped() {
        assert_eq!(
            Moment::parse("1960-01-01T00:00:00Z").map(Moment::unix_seconds_clamped),
            Some(0)
        );
        assert_eq!(
            Moment::parse("2970-01-01T00:00:00Z").map(Moment::unix_seconds_clamped),
            Some(u32::MAX)
        );
        assert_eq!(
            Moment::parse("1970-01-02T00:00:00.5Z").map(Moment::unix_seconds_clamped),
            Some(86_400)
        );
    }

    proptest! {
        #[test]
        fn printing_and_reading_are_inverse(micros in -62_000_000_000_000_000_i64..253_000_000_000_000_000) {
            let moment = Moment(micros);
            prop_assert_eq!(Moment::parse(&moment.to_string()), Some(moment));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,40}") {
            let _ = (Moment::parse(&text), Moment::parse_http_date(&text), rfc3339(&text));
        }
    }
}
