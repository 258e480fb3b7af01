//! What the pieces over databases, mail, object stores and keys have in common.

#[cfg(any(feature = "database", feature = "email", feature = "storage"))]
use std::time::Duration;

use ap_core::{
    capability::ExchangeError,
    run::{StepError, StepErrorKind},
};
#[cfg(any(feature = "database", feature = "email", feature = "storage"))]
use ap_core::{
    piece::ActionContext,
    property::{Property, PropertyKind},
};
#[cfg(any(feature = "database", feature = "email", feature = "storage"))]
use serde_json::Value;
use serde_json::json;

/// A failed exchange as the flow sees it; the peer's code is in the detail.
pub(crate) fn step_error(error: &ExchangeError) -> StepError {
    let kind = match error {
        ExchangeError::Credential { .. } => StepErrorKind::Connection,
        ExchangeError::Interrupted { .. } => StepErrorKind::Interrupted,
        ExchangeError::InvalidRequest { .. } => StepErrorKind::Input,
        ExchangeError::Refused { .. } => StepErrorKind::Refused,
        ExchangeError::Rejected { transient: true, .. } | ExchangeError::Unreachable { .. } => {
            StepErrorKind::OutcomeTransient
        }
        ExchangeError::Rejected { .. } => StepErrorKind::Remote,
        ExchangeError::Timeout { .. } => StepErrorKind::Timeout,
        ExchangeError::TooLarge { .. } => StepErrorKind::Limit,
        _ => StepErrorKind::Internal,
    };
    let detail = match error {
        ExchangeError::Rejected { code, .. } => Some(json!({ "code": code })),
        _ => None,
    };
    StepError { kind, message: error.to_string(), detail }
}

/// The required property `connection`.
#[cfg(any(feature = "database", feature = "email", feature = "storage"))]
pub(crate) fn connection(description: &'static str) -> Property {
    Property::new("connection", "Connection", PropertyKind::Connection).describe(description).required()
}

/// The property `timeout`.
#[cfg(any(feature = "database", feature = "email", feature = "storage"))]
pub(crate) fn timeout() -> Property {
    Property::new("timeout", "Timeout", PropertyKind::whole(1, 600_000))
        .describe("Longest time for the exchange. Unit: milliseconds. Never longer than the step's own limit.")
}

/// What `timeout` comes to.
#[cfg(any(feature = "database", feature = "email", feature = "storage"))]
pub(crate) fn time_limit(context: &ActionContext<'_>, input: &Value) -> Duration {
    let given = input.get("timeout").and_then(Value::as_u64).map(Duration::from_millis);
    given.unwrap_or(context.timeout).min(context.timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_keep_their_meaning() {
        let reason = || "why".to_owned();
        let rejected = |transient| ExchangeError::Rejected { code: "42".to_owned(), reason: reason(), transient };
        for (error, kind) in [
            (ExchangeError::Credential { reason: reason() }, StepErrorKind::Connection),
            (ExchangeError::Interrupted { reason: reason() }, StepErrorKind::Interrupted),
            (ExchangeError::InvalidRequest { reason: reason() }, StepErrorKind::Input),
            (ExchangeError::Refused { reason: reason() }, StepErrorKind::Refused),
            (rejected(true), StepErrorKind::OutcomeTransient),
            (rejected(false), StepErrorKind::Remote),
            (ExchangeError::Timeout { limit: Duration::from_secs(1) }, StepErrorKind::Timeout),
            (ExchangeError::TooLarge { what: "it", limit: 1 }, StepErrorKind::Limit),
            (ExchangeError::Unreachable { reason: reason() }, StepErrorKind::OutcomeTransient),
        ] {
            let step = step_error(&error);
            assert_eq!((step.kind, step.message), (kind, error.to_string()));
        }
        assert_eq!(step_error(&rejected(false)).detail, Some(json!({ "code": "42" })));
    }
}
