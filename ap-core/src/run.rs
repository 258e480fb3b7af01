//! Statuses of runs and steps, step paths, and what a failed step reports.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where a run stands. Names and wire spelling are the reference product's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum RunStatus {
    /// Ended by a request.
    Canceled,
    /// Ended because a step failed and nothing handled it.
    Failed,
    /// Ended by a fault of the SDK or its storage, not of the flow.
    InternalError,
    /// Ended because its log outgrew the limit.
    LogSizeExceeded,
    /// Ended because a step outgrew its memory limit.
    MemoryLimitExceeded,
    /// Waiting for time or an outside event; holds no memory and no worker.
    Paused,
    /// Accepted, and not claimed by a worker yet.
    Queued,
    /// Ended by a quota of the project.
    QuotaExceeded,
    /// A worker holds it.
    Running,
    /// Every step ended well, or its failure was handled.
    Succeeded,
    /// Ended because it ran longer than allowed.
    Timeout,
}

impl RunStatus {
    /// Whether nothing will happen to the run any more.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Paused | Self::Queued | Self::Running)
    }

    /// The wire spelling.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Canceled => "CANCELED",
            Self::Failed => "FAILED",
            Self::InternalError => "INTERNAL_ERROR",
            Self::LogSizeExceeded => "LOG_SIZE_EXCEEDED",
            Self::MemoryLimitExceeded => "MEMORY_LIMIT_EXCEEDED",
            Self::Paused => "PAUSED",
            Self::Queued => "QUEUED",
            Self::QuotaExceeded => "QUOTA_EXCEEDED",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Timeout => "TIMEOUT",
        }
    }

    const ALL: [Self; 11] = [
        Self::Canceled,
        Self::Failed,
        Self::InternalError,
        Self::LogSizeExceeded,
        Self::MemoryLimitExceeded,
        Self::Paused,
        Self::Queued,
        Self::QuotaExceeded,
        Self::Running,
        Self::Succeeded,
        Self::Timeout,
    ];
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no run status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a run status")]
pub struct RunStatusError;

impl FromStr for RunStatus {
    type Err = RunStatusError;

    fn from_str(text: &str) -> Result<Self, RunStatusError> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(RunStatusError)
    }
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum StepStatus {
    /// Its last attempt failed.
    Failed,
    /// It waits for time to pass, for somebody outside, or for another run.
    Paused,
    /// It is being executed, or waits for its next attempt.
    Running,
    /// It was passed over because the flow says `skip`.
    Skipped,
    /// It ended well.
    Succeeded,
}

/// One execution of a step inside a run: the step's name, qualified by the loop iterations around it.
///
/// Text form as in the reference product: `loop_1:3/approval` is the step `approval` in the fourth iteration (they count
/// from 0) of `loop_1`. Stable for the life of a run, hence the base of idempotency keys. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepPath(Arc<str>);

impl StepPath {
    /// A step at the top level of the flow.
    #[must_use]
    pub fn top(name: &str) -> Self {
        Self(name.into())
    }

    /// The step `name` inside iteration `index` of the loop at `self`.
    #[must_use]
    pub fn in_iteration(&self, index: usize, name: &str) -> Self {
        Self(format!("{}:{index}/{name}", self.0).into())
    }

    /// The step `name` in the same iteration as this one.
    #[must_use]
    pub fn beside(&self, name: &str) -> Self {
        match self.0.rsplit_once('/') {
            Some((around, _)) => Self(format!("{around}/{name}").into()),
            None => Self::top(name),
        }
    }

    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The step's own name, without the iterations around it.
    #[must_use]
    pub fn step_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for StepPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a step failed, as the flow and its author see it. Never contains a credential: it is redacted before it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepError {
    /// What kind of failure it was; flows and hosts may branch on it.
    pub kind: StepErrorKind,
    /// One line for people.
    pub message: String,
    /// More for the author where there is more: the status and body of a response, the stack of a script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Value>,
}

impl StepError {
    /// A failure of this kind, without detail.
    pub fn new(kind: StepErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), detail: None }
    }

    /// Adds detail.
    #[must_use]
    pub fn with_detail(self, detail: Value) -> Self {
        Self { detail: Some(detail), ..self }
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StepError {}

/// Kinds of step failures, alphabetical; the wire spelling is `snake_case`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepErrorKind {
    /// It was stopped: the run was canceled, or something beside it failed.
    Canceled,
    /// The connection a step names is missing, of another type, or not allowed where it is used.
    Connection,
    /// A `fail` step ended the run on purpose.
    Explicit,
    /// A template could not be resolved, or a resolved value has the wrong type.
    Input,
    /// A fault of the SDK or its storage.
    Internal,
    /// The exchange with the outside broke off after it may have begun: whether the other side acted is not known. For an
    /// effect that must not happen twice the step reports [`StepErrorKind::OutcomeUnknown`] instead.
    Interrupted,
    /// A limit on size or count was exceeded.
    Limit,
    /// A script outgrew its memory limit.
    MemoryLimit,
    /// The outside world refused or could not be reached, and trying again may help.
    OutcomeTransient,
    /// A crash hid whether the effect happened; see the run's effects ledger.
    OutcomeUnknown,
    /// The egress guard refused the address.
    Refused,
    /// The remote service answered with an error that a retry will not mend, such as HTTP 400 or 404; what a retry may
    /// mend (408, 425, 429, 5xx) is [`StepErrorKind::OutcomeTransient`].
    Remote,
    /// The script of a code step threw.
    Script,
    /// Others changed what a script had read of its store, each time it was run. Nothing of it happened.
    StoreBusy,
    /// Others changed what a script had read of its store, and it had sent requests by then, which must not be sent twice: they
    /// happened, and what it would have stored did not.
    StoreConflict,
    /// The run that a `subflow` step waited for did not succeed.
    Subflow,
    /// The attempt took longer than the step allows.
    Timeout,
}

impl StepErrorKind {
    /// Whether the `retry` policy of a step applies to this kind.
    ///
    /// Failures that a second attempt would only repeat are not retried: wrong input, a missing connection, a refused
    /// address, an exceeded limit, an explicit `fail`, an answer that says the request itself is at fault. An unknown
    /// outcome is never retried by policy, since the effect may have happened.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Interrupted | Self::OutcomeTransient | Self::Script | Self::StoreBusy | Self::Timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_round_trip_in_both_spellings() {
        for status in RunStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
            assert_eq!(serde_json::to_value(status).ok(), Some(Value::from(status.as_str())));
        }
    }

    #[test]
    fn only_what_another_attempt_may_mend_is_retried() {
        use StepErrorKind as Kind;
        for kind in [Kind::Interrupted, Kind::OutcomeTransient, Kind::Script, Kind::StoreBusy, Kind::Timeout] {
            assert!(kind.is_retryable(), "{kind:?}");
        }
        for kind in [
            Kind::Canceled,
            Kind::Connection,
            Kind::Explicit,
            Kind::Input,
            Kind::Internal,
            Kind::Limit,
            Kind::MemoryLimit,
            Kind::OutcomeUnknown,
            Kind::Refused,
            Kind::Remote,
            Kind::StoreConflict,
            Kind::Subflow,
        ] {
            assert!(!kind.is_retryable(), "{kind:?}");
        }
    }

    #[test]
    fn paths_name_the_iteration() {
        let inner = StepPath::top("loop_1").in_iteration(3, "approval");
        assert_eq!(inner.as_str(), "loop_1:3/approval");
        assert_eq!(inner.step_name(), "approval");
        assert_eq!(inner.in_iteration(0, "x").as_str(), "loop_1:3/approval:0/x");
        assert_eq!(inner.beside("x").as_str(), "loop_1:3/x");
        assert_eq!(StepPath::top("a").beside("x").as_str(), "x");
    }
}
