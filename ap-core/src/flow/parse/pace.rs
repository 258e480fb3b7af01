//! Flow control: when and how many runs are started.

use std::time::Duration;

use super::{
    Reader,
    findings::{Member, Members},
};
use crate::{
    expr::Template,
    flow::{ConcurrencyControl, DebounceControl, FlowControl, PaceControl},
};

impl Reader<'_> {
    /// Reads flow control from the top of the flow. What is wrong is reported and left out.
    pub(super) fn control(&mut self, document: &mut Members<'_>) -> FlowControl {
        let [concurrency, throttle, rate, debounce, priority, subject] =
            ["concurrency", "throttle", "rateLimit", "debounce", "priority", "subject"].map(|name| document.take(name));
        FlowControl {
            concurrency: concurrency.and_then(|given| self.concurrency(&given)),
            throttle: throttle.and_then(|given| self.pace(&given)),
            rate_limit: rate.and_then(|given| self.pace(&given)),
            debounce: debounce.and_then(|given| self.debounce(&given)),
            priority: priority.and_then(|given| self.priority(&given)).unwrap_or_default(),
            subject: subject.and_then(|given| self.key_template(&given)),
        }
    }

    fn concurrency(&mut self, given: &Member<'_>) -> Option<ConcurrencyControl> {
        let mut members = given.members(&mut self.findings)?;
        let limit = members.require("limit", "runs at once, 1 to 10,000", &mut self.findings);
        let limit = limit.and_then(|limit| limit.count(1, MAX_RUNS, "runs", &mut self.findings));
        let key = self.control_key(&mut members);
        members.finish(&mut self.findings);
        Some(ConcurrencyControl { limit: limit?, key })
    }

    fn pace(&mut self, given: &Member<'_>) -> Option<PaceControl> {
        let mut members = given.members(&mut self.findings)?;
        let limit = members.require("limit", "runs per period, 1 to 1,000,000", &mut self.findings);
        let limit = limit.and_then(|limit| limit.count(1, MAX_RUNS_PER_PERIOD, "runs", &mut self.findings));
        let period = members.require("periodMs", "the period in milliseconds, 1 to 86,400,000", &mut self.findings);
        let period = period.and_then(|period| period.whole(1, DAY_MS, "milliseconds", &mut self.findings));
        let key = self.control_key(&mut members);
        members.finish(&mut self.findings);
        Some(PaceControl { limit: limit?, period: Duration::from_millis(period?), key })
    }

    fn debounce(&mut self, given: &Member<'_>) -> Option<DebounceControl> {
        let mut members = given.members(&mut self.findings)?;
        let delay = members.require("delayMs", "the quiet in milliseconds, 1 to 86,400,000", &mut self.findings);
        let delay = delay.and_then(|delay| delay.whole(1, DAY_MS, "milliseconds", &mut self.findings));
        let longest = members.take("maxWaitMs");
        let longest = longest.map(|time| time.whole(delay.unwrap_or(1), WEEK_MS, "milliseconds", &mut self.findings));
        let key = self.control_key(&mut members);
        members.finish(&mut self.findings);
        let delay = delay?;
        let longest = longest.unwrap_or_else(|| Some(delay.saturating_mul(10).min(WEEK_MS)))?;
        Some(DebounceControl { delay: Duration::from_millis(delay), max_wait: Duration::from_millis(longest), key })
    }

    fn control_key(&mut self, members: &mut Members<'_>) -> Option<Template> {
        let key = members.take("key")?;
        self.key_template(&key)
    }

    fn key_template(&mut self, given: &Member<'_>) -> Option<Template> {
        given.text(&mut self.findings)?;
        self.template(given)
    }

    fn priority(&mut self, given: &Member<'_>) -> Option<i16> {
        if !given.value.is_number() {
            self.findings.wrong_type(given, "a whole number, -100 to 100");
            return None;
        }
        let number = given.value.as_i64().and_then(|number| i16::try_from(number).ok());
        let number = number.filter(|number| (-MAX_PRIORITY..=MAX_PRIORITY).contains(number));
        if number.is_none() {
            let (message, fix) = ("this is no whole number from -100 to 100", "write a number from -100 to 100");
            self.findings.error(&given.pointer, "option.range", message, fix);
        }
        number
    }
}

const DAY_MS: u64 = 86_400_000;
const MAX_PRIORITY: i16 = 100;
const MAX_RUNS: u32 = 10_000;
const MAX_RUNS_PER_PERIOD: u32 = 1_000_000;
const WEEK_MS: u64 = 7 * DAY_MS;
