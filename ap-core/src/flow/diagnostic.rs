//! [`Diagnostic`]: one finding about a flow, with its place, its rule and its mend.

use std::fmt;

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The flow cannot be published.
    Error,
    /// The flow works; the author should look.
    Warning,
}

/// One finding about a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// RFC 6901 pointer into the flow's JSON; empty for the whole document.
    pub pointer: String,
    /// Stable id of the rule, such as `step.name.duplicate`.
    pub rule: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong: one line, no value of the flow beyond names.
    pub message: String,
    /// What to do.
    pub fix: String,
}

impl Diagnostic {
    /// A finding that keeps the flow from being published.
    pub fn error(pointer: &str, rule: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { pointer: pointer.to_owned(), rule, severity: Severity::Error, message: message.into(), fix: fix.into() }
    }

    /// A finding to look at.
    pub fn warning(pointer: &str, rule: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(pointer, rule, message, fix) }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.pointer.is_empty() { "flow" } else { &self.pointer };
        write!(f, "{place}: {} ({}); {}", self.message, self.rule, self.fix)
    }
}

/// The findings that made a flow invalid: at least one error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// Most findings of one kind that are kept for one flow.
pub(super) const MAX_DIAGNOSTICS: usize = 100;
