//! Dates, times and intervals: PostgreSQL counts from 2000-01-01, in days and microseconds.

use std::fmt::Write;

/// RFC 3339; `infinity` and `-infinity` as they are. Years beyond 9999 and before 1 have no such form.
pub(super) fn timestamp(micros: i64, zoned: bool) -> Option<String> {
    if let Some(infinite) = infinity(micros, i64::MIN, i64::MAX) {
        return Some(infinite);
    }
    let days = i32::try_from(micros.div_euclid(DAY_MICROS)).ok()?;
    let mut text = date(days)?;
    text.push('T');
    text.push_str(&time_of_day(micros.rem_euclid(DAY_MICROS))?);
    if zoned {
        text.push('Z');
    }
    Some(text)
}

/// `YYYY-MM-DD`.
pub(super) fn date(days: i32) -> Option<String> {
    if let Some(infinite) = infinity(days, i32::MIN, i32::MAX) {
        return Some(infinite);
    }
    let (year, month, day) = civil(i64::from(days) + DAYS_TO_2000);
    (1..=9_999).contains(&year).then(|| format!("{year:04}-{month:02}-{day:02}"))
}

/// `HH:MM:SS`, with as many digits of a second as needed.
pub(super) fn time_of_day(micros: i64) -> Option<String> {
    // 24:00:00 is a time of PostgreSQL's.
    if !(0..=DAY_MICROS).contains(&micros) {
        return None;
    }
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    push_fraction(fraction, &mut text);
    Some(text)
}

/// As [`time_of_day`], with the offset from UTC.
pub(super) fn time_with_zone(bytes: &[u8]) -> Option<String> {
    let (micros, west) = bytes.split_first_chunk::<8>()?;
    let west = i32::from_be_bytes(west.try_into().ok()?);
    let mut text = time_of_day(i64::from_be_bytes(*micros))?;
    let (sign, offset) = if west > 0 { ('-', west) } else { ('+', west.checked_neg()?) };
    let _ = write!(text, "{sign}{:02}:{:02}", offset / 3_600, offset / 60 % 60);
    if offset % 60 != 0 {
        let _ = write!(text, ":{:02}", offset % 60);
    }
    Some(text)
}

/// ISO 8601, each part with its own sign, as PostgreSQL's `iso_8601` style: `P1Y2M-3DT4H5M6.7S`.
pub(super) fn interval(bytes: &[u8]) -> Option<String> {
    let (micros, rest) = bytes.split_first_chunk::<8>()?;
    let (days, months) = rest.split_first_chunk::<4>()?;
    let micros = i64::from_be_bytes(*micros);
    let (days, months) = (i32::from_be_bytes(*days), i32::from_be_bytes(months.try_into().ok()?));
    let mut text = String::from("P");
    let mut part = |amount: i64, unit: char| {
        if amount != 0 {
            let _ = write!(text, "{amount}{unit}");
        }
    };
    part(i64::from(months / 12), 'Y');
    part(i64::from(months % 12), 'M');
    part(i64::from(days), 'D');
    if micros != 0 {
        text.push('T');
        let (minutes, rest) = (micros / 60_000_000, micros % 60_000_000);
        let mut part = |amount: i64, unit: char| {
            if amount != 0 {
                let _ = write!(text, "{amount}{unit}");
            }
        };
        part(minutes / 60, 'H');
        part(minutes % 60, 'M');
        if rest != 0 {
            let _ = write!(text, "{}{}", if rest < 0 { "-" } else { "" }, rest.abs() / 1_000_000);
            push_fraction(rest.abs() % 1_000_000, &mut text);
            text.push('S');
        }
    }
    if text == "P" {
        text.push_str("T0S");
    }
    Some(text)
}

fn infinity<T: PartialEq>(value: T, least: T, most: T) -> Option<String> {
    if value == most { Some("infinity".to_owned()) } else { (value == least).then(|| "-infinity".to_owned()) }
}

fn push_fraction(micros: i64, text: &mut String) {
    if micros != 0 {
        let digits = format!("{micros:06}");
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
}

/// Year, month and day of a day counted from 1970-01-01 in the Gregorian calendar.
const fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

const DAY_MICROS: i64 = 86_400_000_000;
const DAYS_TO_2000: i64 = 10_957;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (micros, expected) in [
            (0, Some("2000-01-01T00:00:00Z")),
            (-1, Some("1999-12-31T23:59:59.999999Z")),
            (820_638_245_500_000, Some("2026-01-02T03:04:05.5Z")),
            (i64::MAX, Some("infinity")),
            (i64::MIN, Some("-infinity")),
            (i64::MAX - 1, None),
        ] {
            assert_eq!(timestamp(micros, true).as_deref(), expected, "{micros}");
        }
        assert_eq!(timestamp(1_500, false).as_deref(), Some("2000-01-01T00:00:00.0015"));
        for (days, expected) in [
            (0, Some("2000-01-01")),
            (59, Some("2000-02-29")),
            (-730_119, Some("0001-01-01")),
            (-730_120, None),
            (2_921_939, Some("9999-12-31")),
            (2_921_940, None),
            (i32::MAX, Some("infinity")),
        ] {
            assert_eq!(date(days).as_deref(), expected, "{days}");
        }
    }

    #[test]
    fn intervals_keep_their_parts() {
        let text = |months: i32, days: i32, micros: i64| {
            interval(&[&micros.to_be_bytes()[..], &days.to_be_bytes(), &months.to_be_bytes()].concat())
        };
        for (months, days, micros, expected) in [
            (0, 0, 0, "PT0S"),
            (14, 3, 14_706_700_000, "P1Y2M3DT4H5M6.7S"),
            (-1, 0, 0, "P-1M"),
            (0, -3, -1_500_000, "P-3DT-1.5S"),
            (0, 0, 3_600_000_000, "PT1H"),
            (0, 0, -500_000, "PT-0.5S"),
        ] {
            assert_eq!(text(months, days, micros).as_deref(), Some(expected));
        }
        assert_eq!(interval(b"short"), None);
    }

    #[test]
    fn zones_are_east_of_utc() {
        let text = |west: i32| time_with_zone(&[&3_600_000_000_i64.to_be_bytes()[..], &west.to_be_bytes()].concat());
        assert_eq!(text(0).as_deref(), Some("01:00:00+00:00"));
        assert_eq!(text(-19_800).as_deref(), Some("01:00:00+05:30"));
        assert_eq!(text(18_000).as_deref(), Some("01:00:00-05:00"));
        assert_eq!(text(i32::MIN), None);
    }
}
