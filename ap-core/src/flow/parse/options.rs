//! Options: how a step is carried out, in our spelling, the guide's and the reference product's.

use std::time::Duration;

use serde_json::Value;

use super::{
    Reader,
    findings::{Member, Members},
};
use crate::flow::{IdempotencyKey, OnError, RetryPolicy, StepOptions};

/// Which options have a meaning for a kind of step.
pub(super) struct Applicable {
    names: &'static [&'static str],
    /// Longest `timeout`. Unit: milliseconds.
    max_timeout_ms: u64,
}

impl Applicable {
    const fn of(names: &'static [&'static str]) -> Self {
        Self { names, max_timeout_ms: MAX_TIMEOUT_MS }
    }
}

impl Reader<'_> {
    /// Reads the options of the step `members`, from beside its `settings` and from inside. What is wrong is reported
    /// and replaced by its default.
    pub(super) fn options(&mut self, members: &mut Members<'_>, applicable: &Applicable, level: usize) -> StepOptions {
        let [handling, failure, key, on_error, retry, timeout, skip] =
            ["errorHandlingOptions", "failureHandling", "idempotencyKey", "onError", "retry", "timeout", "skip"]
                .map(|name| self.option(members, name, applicable));
        let (goes_on, retries) = handling.map(|handling| self.error_handling(&handling)).unwrap_or_default();
        StepOptions {
            on_error: self.on_error(on_error.as_ref(), goes_on, level),
            retry: self.retry(retry.as_ref(), failure.as_ref(), retries),
            skip: skip.and_then(|skip| skip.flag(&mut self.findings)).unwrap_or(false),
            timeout: timeout
                .and_then(|timeout| timeout.whole(1, applicable.max_timeout_ms, "milliseconds", &mut self.findings))
                .map(Duration::from_millis),
            idempotency_key: key.and_then(|key| self.idempotency_key(&key)),
        }
    }

    fn option<'v>(
        &mut self,
        members: &mut Members<'v>,
        name: &'static str,
        applicable: &Applicable,
    ) -> Option<Member<'v>> {
        let beside = members.take(name);
        let inside = match members.map().get("settings").and_then(|settings| settings.get(name)) {
            Some(value) if PIECE_OPTIONS.contains(&name) => {
                Some(Member { value, pointer: format!("{}/settings/{name}", members.pointer()) })
            }
            _ => None,
        };
        if let (Some(beside), Some(_)) = (&beside, &inside) {
            self.conflict(beside, &format!("`{name}` is given twice, here and in `settings`"));
        }
        let option = beside.or(inside)?;
        if applicable.names.contains(&name) {
            return Some(option);
        }
        let message = format!("`{name}` means nothing for this type of step");
        self.findings.error(&option.pointer, "option.inapplicable", message, "remove it");
        None
    }

    fn conflict(&mut self, option: &Member<'_>, message: &str) {
        self.findings.error(&option.pointer, "option.conflict", message, "keep one of them");
    }

    /// `errorHandlingOptions` of the reference product: whether the run goes on, and whether the step is retried.
    fn error_handling(&mut self, handling: &Member<'_>) -> (bool, bool) {
        let Some(mut members) = handling.members(&mut self.findings) else { return (false, false) };
        let [goes_on, retries] = ["continueOnFailure", "retryOnFailure"].map(|name| {
            let option = members.take(name);
            option.is_some_and(|option| match option.value {
                Value::Object(_) => {
                    let Some(mut inner) = option.members(&mut self.findings) else { return false };
                    let value = inner.take("value");
                    inner.finish(&mut self.findings);
                    value.and_then(|value| value.flag(&mut self.findings)).unwrap_or(false)
                }
                _ => option.flag(&mut self.findings).unwrap_or(false),
            })
        });
        members.finish(&mut self.findings);
        (goes_on, retries)
    }

    fn on_error(&mut self, option: Option<&Member<'_>>, goes_on: bool, level: usize) -> OnError {
        let Some(option) = option else { return if goes_on { OnError::Continue } else { OnError::Fail } };
        if goes_on {
            self.conflict(option, "`onError` and `errorHandlingOptions` are both given");
        }
        match option.value {
            Value::String(word) if word == "continue" => OnError::Continue,
            Value::String(word) if word == "fail" => OnError::Fail,
            Value::Object(_) => self.on_error_object(option, level),
            _ => {
                self.findings.wrong_type(option, "`\"continue\"`, `\"fail\"` or `{\"steps\": […]}`");
                OnError::Fail
            }
        }
    }

    fn on_error_object(&mut self, option: &Member<'_>, level: usize) -> OnError {
        let Some(mut members) = option.members(&mut self.findings) else { return OnError::Fail };
        let (goes_on, steps) = (members.take("continue"), members.take("steps"));
        members.finish(&mut self.findings);
        match (goes_on, steps) {
            (Some(goes_on), None) => match goes_on.flag(&mut self.findings) {
                Some(true) => OnError::Continue,
                Some(false) | None => OnError::Fail,
            },
            (None, Some(steps)) => OnError::Steps(self.step_list(&steps, level + 1)),
            (Some(_), Some(steps)) => {
                self.conflict(&steps, "`continue` and `steps` exclude each other");
                OnError::Fail
            }
            (None, None) => {
                let fix = "write `\"onError\": \"continue\"`, or remove it";
                self.findings.error(&option.pointer, "member.required", "this says nothing", fix);
                OnError::Fail
            }
        }
    }

    fn retry(&mut self, retry: Option<&Member<'_>>, failure: Option<&Member<'_>>, on_failure: bool) -> RetryPolicy {
        match (retry, failure) {
            (Some(retry), Some(_)) => self.conflict(retry, "`retry` and `failureHandling` are both given"),
            (Some(option), None) | (None, Some(option)) if on_failure => {
                self.conflict(option, "`errorHandlingOptions` asks for retries, too");
            }
            _ => {}
        }
        match (retry, failure) {
            (Some(retry), _) => self.own_retry(retry).unwrap_or_default(),
            (None, Some(failure)) => self.failure_handling(failure).unwrap_or_default(),
            (None, None) if on_failure => RetryPolicy {
                max_attempts: REFERENCE_ATTEMPTS,
                initial_delay: REFERENCE_DELAY,
                ..RetryPolicy::default()
            },
            (None, None) => RetryPolicy::default(),
        }
    }

    /// `retry`: our own spelling.
    fn own_retry(&mut self, retry: &Member<'_>) -> Option<RetryPolicy> {
        let mut members = retry.members(&mut self.findings)?;
        let mut policy = RetryPolicy::default();
        if let Some(attempts) = members.require("maxAttempts", "attempts in all, 1 to 20", &mut self.findings) {
            let attempts = attempts.whole(1, MAX_ATTEMPTS, "attempts", &mut self.findings)?;
            policy.max_attempts = u32::try_from(attempts).ok()?;
        }
        if let Some(backoff) = members.take("backoff") {
            self.backoff(&backoff, &mut policy);
        }
        members.finish(&mut self.findings);
        Some(policy)
    }

    fn backoff(&mut self, backoff: &Member<'_>, policy: &mut RetryPolicy) {
        let Some(mut members) = backoff.members(&mut self.findings) else { return };
        let fixed = members.take("type").is_some_and(|kind| match kind.text(&mut self.findings) {
            Some("exponential") | None => false,
            Some("fixed") => true,
            Some(_) => {
                let message = "this is no kind of backoff";
                self.findings.error(&kind.pointer, "option.range", message, "write `exponential` or `fixed`");
                false
            }
        });
        let (initial, alias) = (members.take("initialMs"), members.take("initialDelay"));
        if let (Some(_), Some(alias)) = (&initial, &alias) {
            self.conflict(alias, "`initialMs` and `initialDelay` mean the same");
        }
        if let Some(initial) = initial.or(alias) {
            let wait = initial.whole(0, MAX_INITIAL_MS, "milliseconds", &mut self.findings);
            policy.initial_delay = wait.map_or(policy.initial_delay, Duration::from_millis);
        }
        if let Some(longest) = members.take("maxMs") {
            let wait = longest.whole(0, MAX_DELAY_MS, "milliseconds", &mut self.findings);
            policy.max_delay = wait.map_or(policy.max_delay, Duration::from_millis);
        }
        if let Some(multiplier) = members.take("multiplier") {
            if fixed {
                self.conflict(&multiplier, "a fixed backoff does not grow");
            } else if !multiplier.value.is_number() {
                self.findings.wrong_type(&multiplier, "a number, 1 to 10");
            } else if let Some(growth) = multiplier.value.as_f64().filter(|growth| (1.0..=10.0).contains(growth)) {
                policy.multiplier = growth;
            } else {
                let message = "the multiplier is not from 1 to 10";
                self.findings.error(&multiplier.pointer, "option.range", message, "write a number from 1 to 10");
            }
        }
        if fixed {
            policy.multiplier = 1.0;
        }
        members.finish(&mut self.findings);
    }

    /// `failureHandling`: the guide's spelling (§7.1). `retries` come after the first attempt; `retryDelay` is the first
    /// wait, which grows as guide §6.1 says.
    fn failure_handling(&mut self, failure: &Member<'_>) -> Option<RetryPolicy> {
        let mut members = failure.members(&mut self.findings)?;
        let mut policy = RetryPolicy::default();
        if let Some(retries) = members.require("retries", "additional attempts, 0 to 19", &mut self.findings) {
            let retries = retries.whole(0, MAX_ATTEMPTS - 1, "additional attempts", &mut self.findings)?;
            policy.max_attempts = u32::try_from(retries + 1).ok()?;
        }
        if let Some(delay) = members.take("retryDelay") {
            let wait = delay.whole(0, MAX_INITIAL_MS, "milliseconds", &mut self.findings)?;
            policy.initial_delay = Duration::from_millis(wait);
        }
        members.finish(&mut self.findings);
        Some(policy)
    }

    fn idempotency_key(&mut self, key: &Member<'_>) -> Option<IdempotencyKey> {
        match key.value {
            Value::Bool(true) => Some(IdempotencyKey::Stable),
            Value::Bool(false) => None,
            Value::String(text) => {
                let template = self.template(key)?;
                let literal = template.as_literal().is_some();
                if literal && (text.is_empty() || text.chars().nth(MAX_KEY_CHARS).is_some()) {
                    let message = format!("a key has 1 to {MAX_KEY_CHARS} characters");
                    self.findings.error(&key.pointer, "option.range", message, "write `true` for the step's own key");
                }
                Some(IdempotencyKey::Template(template))
            }
            _ => {
                self.findings.wrong_type(key, "`true`, or a template for the key");
                None
            }
        }
    }
}

/// Options that may stand inside `settings`, as in the guide. No piece can have properties of these names.
pub(in crate::flow) const PIECE_OPTIONS: [&str; 6] =
    ["errorHandlingOptions", "failureHandling", "idempotencyKey", "onError", "retry", "timeout"];

pub(super) const PIECE: Applicable = Applicable::of(&[
    "errorHandlingOptions",
    "failureHandling",
    "idempotencyKey",
    "onError",
    "retry",
    "skip",
    "timeout",
]);
pub(super) const CODE: Applicable =
    Applicable::of(&["errorHandlingOptions", "failureHandling", "onError", "retry", "skip", "timeout"]);
/// Steps that run at once or run others: nothing to retry, to time or to key.
pub(super) const CONTROL: Applicable = Applicable::of(&["onError", "skip"]);
/// A step that ends the run.
pub(super) const END: Applicable = Applicable::of(&["skip"]);
/// A step that waits for another flow, which may itself wait for long.
pub(super) const SUBFLOW: Applicable =
    Applicable { names: &["onError", "skip", "timeout"], max_timeout_ms: MAX_SUBFLOW_TIMEOUT_MS };

const MAX_ATTEMPTS: u64 = 20;
const MAX_INITIAL_MS: u64 = 3_600_000;
const MAX_DELAY_MS: u64 = 86_400_000;
const MAX_TIMEOUT_MS: u64 = 300_000;
/// 30 days: as long as a wait may take, and what holds for a step that does not say.
const MAX_SUBFLOW_TIMEOUT_MS: u64 = 30 * 86_400_000;
const MAX_KEY_CHARS: usize = 255;
/// The reference product's retry on failure: 4 attempts, waits of 4, 8 and 16 s.
const REFERENCE_ATTEMPTS: u32 = 4;
const REFERENCE_DELAY: Duration = Duration::from_secs(4);
