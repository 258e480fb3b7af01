//! `Retry-After` (RFC 9110 §10.2.3): a number of seconds, or a date in one of the three forms of §5.6.7.

use std::time::Duration;

use ap_core::time::Timestamp;

/// How long to wait from `now`; `None` if the value is neither form. Waits are cut at [`MAX_WAIT`]; dates in the past are
/// no wait.
pub(super) fn parse(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim_matches([' ', '\t']);
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that no integer holds are longer than any limit.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        parse_date(value, now)?.saturating_since(now)
    };
    Some(wait.min(MAX_WAIT))
}

/// Reads an HTTP-date: IMF-fixdate, or the obsolete RFC 850 and asctime forms, which recipients must still accept.
fn parse_date(value: &str, now: Timestamp) -> Option<Timestamp> {
    if value.len() > MAX_DATE_LEN {
        return None;
    }
    let parts: Vec<&str> = value.split_ascii_whitespace().collect();
    match *parts.as_slice() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        [weekday, day, month, year, time, "GMT"] if weekday.ends_with(',') => build(year, month, day, time),
        // Sun Nov  6 08:49:37 1994
        [_, month, day, time, year] => build(year, month, day, time),
        // Sunday, 06-Nov-94 08:49:37 GMT
        [weekday, date, time, "GMT"] if weekday.ends_with(',') => {
            let mut fields = date.splitn(3, '-');
            let (day, month, year) = (fields.next()?, fields.next()?, fields.next()?);
            let year: u16 = digits(year, 2)?.parse().ok()?;
            let this_century = build(&(2000 + year).to_string(), month, day, time)?;
            // More than 50 years ahead means the century before.
            if this_century > now.saturating_add(FIFTY_YEARS) {
                build(&(1900 + year).to_string(), month, day, time)
            } else {
                Some(this_century)
            }
        }
        _ => None,
    }
}

/// The parts as a timestamp, by way of RFC 3339, whose parser knows the calendar.
fn build(year: &str, month: &str, day: &str, time: &str) -> Option<Timestamp> {
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let day: u8 = if day.len() == 1 { digits(day, 1)? } else { digits(day, 2)? }.parse().ok()?;
    let mut clock = time.splitn(3, ':');
    let (hour, minute, second) = (clock.next()?, clock.next()?, clock.next()?);
    let (year, hour, minute, second) = (digits(year, 4)?, digits(hour, 2)?, digits(minute, 2)?, digits(second, 2)?);
    format!("{year}-{month:02}-{day:02}T{hour}:{minute}:{second}Z").parse().ok()
}

fn digits(text: &str, count: usize) -> Option<&str> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const MAX_DATE_LEN: usize = 40;
/// Longest wait: the longest delay a retry policy accepts.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
const FIFTY_YEARS: Duration = Duration::from_secs(50 * 365 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::NOW;

    fn seconds(value: &str) -> Option<u64> {
        parse(value, NOW).map(|wait| wait.as_secs())
    }

    #[test]
    fn seconds_are_taken_up_to_a_day() {
        assert_eq!(seconds("0"), Some(0));
        assert_eq!(seconds(" 120\t"), Some(120));
        assert_eq!(seconds("86399"), Some(86_399));
        assert_eq!(seconds("86400"), Some(86_400));
        assert_eq!(seconds("86401"), Some(86_400));
        assert_eq!(seconds("99999999999999999999999999"), Some(86_400));
    }

    #[test]
    fn dates_are_counted_from_now() {
        // Now is Friday, 2026-01-02T03:04:05Z.
        for date in ["Fri, 02 Jan 2026 03:05:05 GMT", "Friday, 02-Jan-26 03:05:05 GMT", "Fri Jan  2 03:05:05 2026"] {
            assert_eq!(seconds(date), Some(60), "{date}");
        }
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        assert_eq!(seconds("Fri, 02 Jan 2099 03:05:05 GMT"), Some(86_400));
    }

    #[test]
    fn two_digit_years_are_at_most_fifty_ahead() {
        let year = |value| parse_date(value, NOW).map(|date| date.to_string()[..4].to_owned());
        assert_eq!(year("Sunday, 06-Nov-94 08:49:37 GMT").as_deref(), Some("1994"));
        assert_eq!(year("Sunday, 06-Nov-75 08:49:37 GMT").as_deref(), Some("2075"));
    }

    #[test]
    fn anything_else_is_no_wait() {
        for wrong in [
            "",
            "-1",
            "1.5",
            "+5",
            "soon",
            "Fri, 32 Jan 2026 03:05:05 GMT",
            "Fri, 29 Feb 2026 03:05:05 GMT",
            "Fri, 02 Foo 2026 03:05:05 GMT",
            "Fri, 02 Jan 2026 25:05:05 GMT",
            "Fri, 02 Jan 2026 03:05:05 PST",
            "Fri, 02 Jan 2026 03:05 GMT",
            "Fri, 2 2 2026 03:05:05 GMT",
            "2026-01-02T03:05:05Z",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(value in "\\PC{0,60}", date in "[A-Z][a-z]{2}, [0-9é]{0,3} [A-Z][a-z]{2} [0-9]{0,5} [0-9:]{0,9} GMT") {
            let _ = parse(&value, NOW);
            let _ = parse(&date, NOW);
        }
    }
}
