//! Moments as Optuna writes them: ISO-8601 with an offset, in UTC.
//!
//! In memory a moment is a number of milliseconds since 1970 (UTC).

use std::time::{SystemTime, UNIX_EPOCH};

const DAY_MS: i64 = 86_400_000;

/// Now. Before 1970, or after the year 9999, the nearest end of that range.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX).min(253_402_300_799_999)
}

/// `2026-11-25T00:06:09.123000+00:00`, for the years 0 to 9999.
pub(crate) fn format(ms: i64) -> String {
    let (year, month, day) = civil(ms.div_euclid(DAY_MS));
    let rest = ms.rem_euclid(DAY_MS);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}000+00:00",
        rest / 3_600_000,
        rest / 60_000 % 60,
        rest / 1000 % 60,
        rest % 1000
    )
}

/// What Python's `datetime.isoformat` writes, with or without a fraction; UTC
/// where no offset is given.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let mut parts = date.split('-');
    let (year, month, day) =
        (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let rest = rest.strip_prefix(['T', ' '])?;
    let end = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at_checked(end)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut millis = 0;
    for place in 0..3 {
        millis = millis * 10
            + fraction.as_bytes().get(place).map_or(0, |digit| i64::from(digit.wrapping_sub(b'0')));
    }
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let offset = match zone.split_at_checked(1) {
        None | Some(("Z", "")) => 0,
        Some((sign, offset)) => seconds(offset)? * if sign == "-" { -1 } else { 1 },
    };
    Some(days(year, month, day) * DAY_MS + (seconds(clock)? - offset) * 1000 + millis)
}

/// `HH:MM` or `HH:MM:SS`, as seconds.
fn seconds(clock: &str) -> Option<i64> {
    let mut parts = clock.split(':');
    let (hours, minutes) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let seconds = parts.next().map_or(Some(0), |seconds| digits(seconds, 2))?;
    let valid = parts.next().is_none() && hours < 24 && minutes < 60 && seconds < 60;
    valid.then_some(hours * 3600 + minutes * 60 + seconds)
}

fn digits(text: &str, length: usize) -> Option<i64> {
    let valid = text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
    if valid { text.parse().ok() } else { None }
}

/// Days since 1970 of a date of the Gregorian calendar; months from March, so
/// that the leap day comes last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date of a number of days since 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{format, parse};

    #[test]
    fn known_moments() {
        assert_eq!(format(0), "1970-01-01T00:00:00.000000+00:00");
        assert_eq!(parse("2000-02-29T12:34:56.789012+00:00"), Some(951_827_696_789));
        assert_eq!(parse("2000-02-29T14:34:56.789+02:00"), Some(951_827_696_789));
        assert_eq!(parse("2000-02-29T12:34:56"), Some(951_827_696_000));
        assert_eq!(parse("2000-02-29 12:04:56Z"), Some(951_825_896_000));
        for bad in [
            "",
            "2000-02-29",
            "2000-13-01T00:00:00",
            "2000-02-29T25:00:00",
            "2000-02-29T00:00:00.",
            "äää",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ms in -62_167_219_200_000i64..253_402_300_800_000) {
            prop_assert_eq!(parse(&format(ms)), Some(ms));
        }

        #[test]
        fn no_text_panics(text in "[-0-9T:.+Zä ]{0,40}") {
            parse(&text);
        }
    }
}
