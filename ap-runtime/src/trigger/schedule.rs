//! [`Schedule`]: when a flow's cron expression fires in its time zone.
//!
//! Expressions have five fields, or six with seconds first; `L`, `W`, `#`, names of months and days, and nicknames such as
//! `@daily` are understood. Time zones are those the program brings with it, so that all workers agree.
//!
//! Where a clock is put forward, a time that is skipped fires once, at the end of the gap, if the expression names hour and
//! minute (`30 2 * * *`), and not at all if it repeats (`*/15 * * * *`). Where a clock is put back, a named time fires once, the
//! first time, and a repeating one fires through both. No two ticks are the same instant.

use std::{cell::Cell, cmp::Ordering, sync::OnceLock, time::Duration};

use ap_core::{
    flow::{CatchUp, Diagnostic, ScheduleSettings, TriggerDefinition},
    time::Timestamp,
};
use croner::{
    CivilDate, CivilDateTime, CivilTime, Cron, CronDateTime, Resolution, Weekday,
    errors::CronError,
    parser::{CronParser, Seconds, Year},
};
use jiff::{
    SignedDuration, ZonedDateTime,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

/// A cron expression in a time zone.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    cron: Cron,
    zone: TimeZone,
    name: String,
}

impl Schedule {
    /// Reads the settings of a trigger.
    ///
    /// # Errors
    /// What is wrong, where, and how to mend it.
    pub(crate) fn new(settings: &ScheduleSettings, trigger: &TriggerDefinition) -> Result<Self, Diagnostic> {
        let name = settings.timezone.as_deref().unwrap_or("UTC").to_owned();
        let expression = settings.cron_expression.as_deref().unwrap_or_default();
        let cron = parse(expression).map_err(|reason| {
            let fix = "write five fields: minute, hour, day, month, day of the week, such as `0 9 * * 1-5`";
            let message = format!("this is no cron expression: {reason}");
            Diagnostic::error(&place(trigger, "cronExpression"), "trigger.schedule.expression", message, fix)
        })?;
        let zone = (name.len() <= MAX_ZONE_NAME).then(|| zones().get(&name).ok()).flatten().ok_or_else(|| {
            let fix = "write a name of the IANA time zone database, such as `Europe/Berlin`, or leave it out for UTC";
            let message = "there is no such time zone";
            Diagnostic::error(&place(trigger, "timezone"), "trigger.schedule.timezone", message, fix)
        })?;
        Ok(Self { cron, zone, name })
    }

    /// As [`Schedule::new`], and it fires some time after `now`.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub(crate) fn checked(
        settings: &ScheduleSettings,
        trigger: &TriggerDefinition,
        now: Timestamp,
    ) -> Result<Self, Diagnostic> {
        let schedule = Self::new(settings, trigger)?;
        if schedule.next(now).is_some() {
            return Ok(schedule);
        }
        let (message, fix) = ("the expression never fires", "name a day that exists: there is no 30th of February");
        Err(Diagnostic::error(&place(trigger, "cronExpression"), "trigger.schedule.never", message, fix))
    }

    /// The name of its time zone.
    pub(crate) fn timezone(&self) -> &str {
        &self.name
    }

    /// The first tick after `after`.
    pub(crate) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let from = self.local(after)?;
        // Whole seconds: where a clock changes, a search must not come back to where it began.
        self.cron.find_next_occurrence(&from, false).ok().map(|found| found.timestamp()).filter(|found| *found > after)
    }

    /// The last tick before `before`.
    fn previous(&self, before: Timestamp) -> Option<Timestamp> {
        let from = self.local(before)?;
        self.cron
            .find_previous_occurrence(&from, false)
            .ok()
            .map(|found| found.timestamp())
            .filter(|found| *found < before)
    }

    /// The ticks from `due`, which is one, to `now`, that make a run, the oldest first.
    ///
    /// One that is not a minute old yet is on time and makes a run under every policy.
    pub(crate) fn ticks(&self, due: Timestamp, now: Timestamp, catch_up: CatchUp) -> Vec<Timestamp> {
        let missed_before = now.saturating_sub(ON_TIME);
        let mut ticks = Vec::new();
        let mut before = now.saturating_add(Duration::from_secs(1));
        while ticks.len() < MAX_CAUGHT_UP {
            let Some(tick) = self.previous(before).filter(|tick| *tick >= due) else { break };
            before = tick;
            if tick > now {
                continue;
            }
            let missed = tick <= missed_before;
            match catch_up {
                CatchUp::All => {}
                CatchUp::One if missed && !ticks.is_empty() => break,
                CatchUp::None if missed => break,
                _ => {}
            }
            ticks.push(tick);
        }
        ticks.reverse();
        ticks
    }

    fn local(&self, at: Timestamp) -> Option<Local> {
        let seconds = jiff::Timestamp::from_microsecond(at.as_micros()).ok()?;
        Some(Local::new(seconds.to_zoned_datetime(self.zone.clone())))
    }
}

/// A moment as the clocks of its time zone show it.
#[derive(Clone, Debug)]
struct Local {
    at: ZonedDateTime,
    /// How many more moments a search that starts here looks at. Without that bound, an expression whose times are all
    /// skipped by the clock would be searched for second by second through thousands of years.
    left: Cell<u32>,
}

impl Local {
    const fn new(at: ZonedDateTime) -> Self {
        Self { at, left: Cell::new(MAX_LOOKED_AT) }
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp::from_micros(self.at.timestamp().as_second().saturating_mul(1_000_000))
    }
}

impl CronDateTime for Local {
    fn to_civil(&self) -> CivilDateTime {
        let local = self.at.datetime();
        let small = |part: i8| u32::try_from(part).unwrap_or_default();
        CivilDateTime::new(
            CivilDate::from_parts_unchecked(i32::from(local.year()), small(local.month()), small(local.day())),
            CivilTime::from_parts_unchecked(small(local.hour()), small(local.minute()), small(local.second())),
        )
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(u32::try_from(self.at.weekday().to_sunday_zero_offset()).unwrap_or_default())
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        self.left.set(self.left.get().checked_sub(1).ok_or(CronError::TimeSearchLimitExceeded)?);
        let local = to_jiff(civil).ok_or(CronError::InvalidDate)?;
        let ambiguous = self.at.time_zone().to_ambiguous_zoned_datetime(local);
        let invalid = |_| CronError::InvalidTime;
        Ok(match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } => {
                Resolution::Single(Self::new(ambiguous.unambiguous().map_err(invalid)?))
            }
            AmbiguousOffset::Fold { .. } => Resolution::Ambiguous(
                Self::new(ambiguous.clone().earlier().map_err(invalid)?),
                Self::new(ambiguous.later().map_err(invalid)?),
            ),
            AmbiguousOffset::Gap { .. } => Resolution::Gap,
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.at.checked_add(SignedDuration::from_secs(seconds)).ok().map(Self::new)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.at.timestamp().cmp(&other.at.timestamp())
    }
}

fn to_jiff(civil: CivilDateTime) -> Option<DateTime> {
    let small = |part: u32| i8::try_from(part).ok();
    let year = i16::try_from(civil.year()).ok()?;
    let (month, day) = (small(civil.month())?, small(civil.day())?);
    DateTime::new(year, month, day, small(civil.hour())?, small(civil.minute())?, small(civil.second())?, 0).ok()
}

fn parse(expression: &str) -> Result<Cron, String> {
    if expression.len() > MAX_EXPRESSION || !expression.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Err(format!("it has at most {MAX_EXPRESSION} visible ASCII characters"));
    }
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    parser.parse(expression.trim()).map_err(|error| error.to_string())
}

/// The time zones the program brings with it.
fn zones() -> &'static TimeZoneDatabase {
    static ZONES: OnceLock<TimeZoneDatabase> = OnceLock::new();
    ZONES.get_or_init(TimeZoneDatabase::bundled)
}

fn place(trigger: &TriggerDefinition, member: &str) -> String {
    format!("{}/settings/{member}", trigger.pointer)
}

/// Until when a tick is on time.
const ON_TIME: Duration = Duration::from_secs(60);
/// Ticks caught up with at most.
const MAX_CAUGHT_UP: usize = 100;
/// Moments that one search looks at: more than any skipped time has seconds, the longest of which was a whole day.
const MAX_LOOKED_AT: u32 = 100_000;
/// Unit: bytes.
const MAX_EXPRESSION: usize = 256;
/// Unit: bytes.
const MAX_ZONE_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use ap_core::flow::{Overlap, StepName, TriggerKind};
    use proptest::prelude::*;

    use super::*;

    fn settings(expression: &str, zone: &str) -> ScheduleSettings {
        ScheduleSettings {
            cron_expression: Some(expression.to_owned()),
            timezone: Some(zone.to_owned()),
            overlap: Overlap::Skip,
            catch_up: CatchUp::One,
        }
    }

    fn checked(expression: &str, zone: &str) -> Result<Schedule, Diagnostic> {
        let pointer = "/triggers/0".to_owned();
        let trigger = TriggerDefinition { name: StepName::new("t").unwrap(), pointer, kind: TriggerKind::Manual };
        Schedule::checked(&settings(expression, zone), &trigger, at("2026-01-01T00:00:00Z"))
    }

    fn berlin(expression: &str) -> Schedule {
        checked(expression, "Europe/Berlin").expect("a schedule")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    /// The ticks after `from` before `until`, as text.
    fn between(schedule: &Schedule, from: &str, until: &str) -> Vec<String> {
        let mut ticks = Vec::new();
        let mut last = at(from);
        while let Some(tick) = schedule.next(last).filter(|tick| *tick < at(until)) {
            ticks.push(tick.to_string());
            last = tick;
        }
        ticks
    }

    #[test]
    fn a_named_time_that_the_clock_skips_fires_once_when_it_goes_on() {
        // 2026-03-29: 02:00 becomes 03:00 at 01:00 UTC.
        let ticks = between(&berlin("30 2 * * *"), "2026-03-28T00:00:00Z", "2026-03-31T00:00:00Z");
        assert_eq!(ticks, ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
    }

    #[test]
    fn a_named_time_that_the_clock_repeats_fires_once() {
        // 2026-10-25: 03:00 becomes 02:00 at 01:00 UTC.
        let ticks = between(&berlin("30 2 * * *"), "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
        assert_eq!(ticks, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn a_repeating_time_fires_through_a_repeated_hour_and_not_in_a_skipped_one() {
        let quarter = berlin("*/30 * * * *");
        let fold = between(&quarter, "2026-10-24T23:59:00Z", "2026-10-25T02:01:00Z");
        let expected = ["00:00", "00:30", "01:00", "01:30", "02:00"].map(|time| format!("2026-10-25T{time}:00Z"));
        assert_eq!(fold, expected);
        let gap = between(&quarter, "2026-03-29T00:29:00Z", "2026-03-29T01:31:00Z");
        assert_eq!(gap, ["00:30", "01:00", "01:30"].map(|time| format!("2026-03-29T{time}:00Z")));
    }

    #[test]
    fn seconds_may_stand_first_and_names_are_understood() {
        let first = |expression| checked(expression, "UTC").expect("a schedule").next(at("2026-05-01T10:00:00.5Z"));
        assert_eq!(first("* * * * * *"), Some(at("2026-05-01T10:00:01Z")));
        assert_eq!(first("@daily"), Some(at("2026-05-02T00:00:00Z")));
        assert_eq!(first("0 9 * jun mon-fri"), Some(at("2026-06-01T09:00:00Z")));
        assert_eq!(first("0 0 L * *"), Some(at("2026-05-31T00:00:00Z")));
        assert_eq!(first("0 0 29 2 *"), Some(at("2028-02-29T00:00:00Z")));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_place() {
        let long = "0,".repeat(128);
        for bad in
            ["", " ", "* * * *", "* * * * * * *", "60 * * * *", "* * 0 * *", "a b c d e", "* * * * * *\n", "é", &long]
        {
            let found = checked(bad, "UTC").expect_err(bad);
            assert_eq!(
                (found.pointer.as_str(), found.rule),
                ("/triggers/0/settings/cronExpression", "trigger.schedule.expression")
            );
        }
        let never = checked("0 0 30 2 *", "UTC").expect_err("no such day");
        assert_eq!(never.rule, "trigger.schedule.never");
        for bad in ["Europe/Nowhere", "", "../../etc/passwd", &"x".repeat(65)] {
            let found = checked("* * * * *", bad).expect_err(bad);
            assert_eq!(
                (found.pointer.as_str(), found.rule),
                ("/triggers/0/settings/timezone", "trigger.schedule.timezone")
            );
        }
        assert_eq!(checked("* * * * *", "europe/berlin").expect("names have no case").timezone(), "europe/berlin");
    }

    #[test]
    fn an_expression_that_meets_skipped_times_only_is_given_up_soon() {
        // Every second of the hour that Berlin's clocks skip, on the day they skip it, every year.
        let never = checked("* * 2 * 3 SUN#L", "Europe/Berlin").expect_err("no such time");
        assert_eq!(never.rule, "trigger.schedule.never");
        // Where no clock skips it, it fires.
        let first = checked("* * 2 * 3 SUN#L", "UTC").expect("a schedule").next(at("2026-01-01T00:00:00Z"));
        assert_eq!(first, Some(at("2026-03-29T02:00:00Z")));
    }

    #[test]
    fn missed_ticks_are_caught_up_with_as_the_flow_says() {
        let minutely = checked("* * * * *", "UTC").expect("a schedule");
        let ticks = |due: &str, now: &str, catch_up| {
            minutely.ticks(at(due), at(now), catch_up).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (due, now) = ("2026-05-01T10:00:00Z", "2026-05-01T10:03:10Z");
        let on_time = ["2026-05-01T10:03:00Z"];
        assert_eq!(ticks(due, now, CatchUp::None), on_time);
        assert_eq!(ticks(due, now, CatchUp::One), on_time, "one run for all of them");
        assert_eq!(ticks(due, now, CatchUp::All).len(), 4);
        assert_eq!(ticks(due, "2026-05-02T10:00:00Z", CatchUp::All).len(), 100);
        // Exactly due, and nothing missed.
        for catch_up in [CatchUp::None, CatchUp::One, CatchUp::All] {
            assert_eq!(ticks(due, due, catch_up), [due]);
        }
        let daily = checked("0 9 * * *", "UTC").expect("a schedule");
        let late = |late: &str, catch_up| daily.ticks(at("2026-05-01T09:00:00Z"), at(late), catch_up).len();
        assert_eq!(late("2026-05-01T09:00:59.9Z", CatchUp::None), 1);
        assert_eq!(late("2026-05-01T09:01:00Z", CatchUp::None), 0);
        assert_eq!(late("2026-05-03T20:00:00Z", CatchUp::One), 1);
        assert_eq!(late("2026-05-03T20:00:00Z", CatchUp::All), 3);
    }

    fn expressions() -> impl Strategy<Value = String> {
        let minute = prop_oneof!["[0-5]?[0-9]", Just("*".to_owned()), Just("*/7".to_owned()), Just("0,30".to_owned())];
        let hour =
            prop_oneof!["[0-9]|1[0-9]|2[0-3]", Just("*".to_owned()), Just("1-3".to_owned()), Just("*/2".to_owned())];
        let day = prop_oneof![Just("*".to_owned()), Just("L".to_owned()), "[1-9]|1[0-9]|2[0-8]"];
        let weekday =
            prop_oneof![Just("*".to_owned()), Just("1-5".to_owned()), Just("SUN".to_owned()), Just("5#2".to_owned())];
        (minute, hour, day, weekday)
            .prop_map(|(minute, hour, day, weekday)| format!("{minute} {hour} {day} * {weekday}"))
    }

    fn zone_names() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "UTC",
            "Europe/Berlin",
            "America/New_York",
            "Australia/Lord_Howe",
            "America/St_Johns",
        ])
    }

    proptest! {
        #[test]
        fn the_next_tick_is_later_and_no_tick_is_between(
            expression in expressions(), zone in zone_names(), start in 1_740_000_000_i64..1_860_000_000,
        ) {
            let Ok(schedule) = checked(&expression, zone) else { return Ok(()) };
            let mut last = Timestamp::from_millis(start * 1_000);
            for _ in 0..40 {
                let Some(tick) = schedule.next(last) else { break };
                prop_assert!(tick > last, "{expression} {zone} {last}");
                // The same tick is found from any moment in between: nodes agree whenever they look.
                let middle = Timestamp::from_micros(last.as_micros().midpoint(tick.as_micros()));
                prop_assert_eq!(schedule.next(middle), Some(tick), "{} {}", expression, zone);
                last = tick;
            }
        }

        #[test]
        fn looking_back_finds_the_ticks_that_looking_ahead_found(
            expression in expressions(), zone in zone_names(), start in 1_740_000_000_i64..1_860_000_000,
        ) {
            let Ok(schedule) = checked(&expression, zone) else { return Ok(()) };
            let mut ahead = Vec::new();
            let mut last = Timestamp::from_millis(start * 1_000);
            while ahead.len() < 40 && let Some(tick) = schedule.next(last) {
                ahead.push(tick);
                last = tick;
            }
            let (Some(first), Some(latest)) = (ahead.first(), ahead.last()) else { return Ok(()) };
            prop_assert_eq!(schedule.ticks(*first, *latest, CatchUp::All), ahead, "{} {}", expression, zone);
        }

        #[test]
        fn no_text_makes_it_panic(expression in "[0-9*/,L#W@?+A-Za-z -]{0,40}", zone in "[A-Za-z/_+0-9-]{0,20}") {
            let _ = checked(&expression, &zone);
        }
    }
}
