//! Control words that wait: for time, for somebody outside, for another flow.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    Reader,
    findings::{Member, Members},
};
use crate::{
    expr::Template,
    flow::{DelayStep, StepKind, StepName, SubflowStep, WaitMode, WaitStep},
    time::Timestamp,
};

impl Reader<'_> {
    pub(super) fn delay(&mut self, members: &mut Members<'_>) -> Option<StepKind> {
        let mut settings = self.settings(members)?;
        let (time, until) = (settings.take("delayMs"), settings.take("until"));
        let delay = match (time, until) {
            (Some(time), None) => self.delay_for(&time).map(DelayStep::For),
            (None, Some(until)) => self.delay_until(&until).map(DelayStep::Until),
            (Some(_), Some(until)) => {
                let message = "`delayMs` and `until` are both given";
                self.findings.error(&until.pointer, "member.conflict", message, "keep one of them");
                None
            }
            (None, None) => {
                let fix = "add `delayMs`: milliseconds, or `until`: an RFC 3339 time";
                let message = "nothing says how long to wait";
                self.findings.error(settings.pointer(), "member.required", message, fix);
                None
            }
        };
        self.finish_settings(settings);
        delay.map(StepKind::Delay)
    }

    fn delay_for(&mut self, time: &Member<'_>) -> Option<Template> {
        let (template, literal) = match time.value {
            Value::String(_) => self.literal(time)?,
            other => (Template::compile(&Value::Null).ok()?, Some(other.clone())),
        };
        let Some(literal) = literal else { return Some(template) };
        let literal = Member { value: &literal, pointer: time.pointer.clone() };
        literal.whole(0, MAX_WAIT_MS, "milliseconds", &mut self.findings)?;
        Template::compile(literal.value).ok()
    }

    fn delay_until(&mut self, until: &Member<'_>) -> Option<Template> {
        until.text(&mut self.findings)?;
        let (template, literal) = self.literal(until)?;
        let is_time = |value: &Value| value.as_str().is_some_and(|text| text.parse::<Timestamp>().is_ok());
        if literal.is_some_and(|literal| !is_time(&literal)) {
            let fix = "write one such as `2030-01-02T03:04:05Z`, or a template";
            self.findings.error(&until.pointer, "delay.until", "this is no RFC 3339 time", fix);
            return None;
        }
        Some(template)
    }

    pub(super) fn subflow(&mut self, members: &mut Members<'_>) -> Option<StepKind> {
        let mut settings = self.settings(members)?;
        let flow = settings.require("flow", "the id of a flow, `flow_…`", &mut self.findings);
        let flow = flow.and_then(|flow| {
            flow.text(&mut self.findings)?;
            self.template(&flow)
        });
        let none = Value::Object(Map::new());
        let payload = settings.take("payload").unwrap_or_else(|| Member { value: &none, pointer: String::new() });
        let payload = self.template(&payload);
        let mode = settings.take("mode").and_then(|mode| mode.word(&SUBFLOW_MODES, &mut self.findings));
        self.finish_settings(settings);
        Some(StepKind::Subflow(SubflowStep { flow: flow?, payload: payload?, wait: mode.unwrap_or(true) }))
    }

    pub(super) fn wait(&mut self, members: &mut Members<'_>) -> Option<StepKind> {
        let mut settings = self.settings(members)?;
        let mode = settings.require("mode", "`webhook`, `approval` or `barrier`", &mut self.findings);
        let timeout = settings.take("timeoutMs");
        let timeout = timeout.and_then(|time| time.whole(MIN_WAIT_MS, MAX_WAIT_MS, "milliseconds", &mut self.findings));
        let word = mode.and_then(|mode| mode.word(&WAIT_MODES, &mut self.findings));
        let Some(word) = word else {
            return None; // Which members belong here depends on the mode.
        };
        let mode = match word {
            WaitWord::Webhook => Some(WaitMode::Webhook),
            WaitWord::Approval => self
                .parties(&mut settings, "approvers")
                .map(|(approvers, required)| WaitMode::Approval { approvers, required }),
            WaitWord::Barrier => self
                .parties(&mut settings, "parties")
                .map(|(parties, required)| WaitMode::Barrier { parties, required }),
        };
        self.finish_settings(settings);
        let timeout = Duration::from_millis(timeout.unwrap_or(DEFAULT_WAIT_MS));
        Some(StepKind::Wait(WaitStep { mode: mode?, timeout }))
    }

    /// Reads who is waited for, and how many of them must answer.
    fn parties(&mut self, settings: &mut Members<'_>, name: &'static str) -> Option<(Vec<StepName>, u32)> {
        let list = settings.require(name, "an array of names", &mut self.findings);
        let required = settings.take("required");
        let required = required.map(|required| required.count(1, MAX_PARTIES, "names", &mut self.findings));
        let elements = list?.list(MAX_PARTIES as usize, "names", &mut self.findings);
        let mut names = Vec::new();
        for element in &elements {
            names.extend(self.step_name(element));
        }
        let required = required.unwrap_or_else(|| u32::try_from(elements.len()).ok())?;
        (!names.is_empty()).then_some((names, required))
    }
}

#[derive(Clone, Copy)]
enum WaitWord {
    Approval,
    Barrier,
    Webhook,
}

const DEFAULT_WAIT_MS: u64 = 7 * 86_400_000;
const MAX_PARTIES: u32 = 32;
const MAX_WAIT_MS: u64 = 30 * 86_400_000;
const MIN_WAIT_MS: u64 = 1_000;
/// Whether the step waits for the end of the flow.
const SUBFLOW_MODES: [(&str, bool); 2] = [("sync", true), ("async", false)];
const WAIT_MODES: [(&str, WaitWord); 3] =
    [("webhook", WaitWord::Webhook), ("approval", WaitWord::Approval), ("barrier", WaitWord::Barrier)];
