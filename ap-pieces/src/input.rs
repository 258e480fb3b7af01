//! Reading an input that was checked against its properties, and keeping outputs within their limit.

use ap_core::run::{StepError, StepErrorKind};
use serde_json::Value;

/// Largest text a piece makes. Unit: bytes.
pub(crate) const MAX_OUTPUT_BYTES: usize = 10 << 20;

/// The text of a property; empty if it was left out.
pub(crate) fn text<'a>(input: &'a Value, name: &str) -> &'a str {
    input.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The value of a checkbox; false if it was left out.
pub(crate) fn flag(input: &Value, name: &str) -> bool {
    input.get(name).and_then(Value::as_bool).unwrap_or_default()
}

/// The items of an array; none if it was left out.
pub(crate) fn items<'a>(input: &'a Value, name: &str) -> &'a [Value] {
    input.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Takes the value of a property out of the input.
pub(crate) fn take(input: &mut Value, name: &str) -> Option<Value> {
    input.as_object_mut().and_then(|members| members.remove(name))
}

/// An error that names the property at fault.
pub(crate) fn wrong(name: &str, problem: impl std::fmt::Display) -> StepError {
    StepError::new(StepErrorKind::Input, format!("property `{name}` {problem}"))
}

/// Refuses an output of more than [`MAX_OUTPUT_BYTES`].
pub(crate) fn check_size(bytes: usize) -> Result<(), StepError> {
    if bytes <= MAX_OUTPUT_BYTES {
        Ok(())
    } else {
        Err(StepError::new(StepErrorKind::Input, format!("the result would be larger than {MAX_OUTPUT_BYTES} bytes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_limited_one_below_at_and_above() {
        assert!(check_size(MAX_OUTPUT_BYTES - 1).is_ok());
        assert!(check_size(MAX_OUTPUT_BYTES).is_ok());
        assert_eq!(check_size(MAX_OUTPUT_BYTES + 1).expect_err("too large").kind, StepErrorKind::Input);
    }
}
