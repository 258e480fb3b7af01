//! [`Script`]: a token that is a JavaScript expression. It is kept as text; what it reads is found in it without running it.

mod batch;
mod lexer;
mod scan;

use std::{fmt, sync::Arc};

pub use self::batch::ScriptBatch;
use self::lexer::Lexer;
pub(super) use self::scan::Read;
use super::{Key, MAX_SCRIPT_BYTES, Path, Reference, TemplateErrorKind};

/// A token that is a JavaScript expression, such as `{{ steps.fetch.output.map(row => row.id) }}`.
///
/// Whoever resolves the template brings its result, see [`Environment::evaluated`](super::Environment::evaluated). The
/// expression finds `trigger`, `steps` and the other names that paths begin with, as plain values; only what it reads by
/// written out members is there, see [`ScriptBatch`].
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    pub(super) pointer: String,
    pub(super) source: Arc<str>,
    pub(super) references: Vec<Arc<Reference>>,
}

impl Script {
    /// Pointer of the string leaf, relative to the template's root.
    #[must_use]
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// The expression, without white space around it.
    #[must_use]
    pub const fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// What it reads, each path once.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.references.iter().map(AsRef::as_ref)
    }
}

/// The beginning of the expression.
impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::parser::excerpt(&self.source))
    }
}

/// Splits what follows `{{` at the `}}` that ends the token: one outside of text, comments and braces.
pub(super) fn split_token(text: &str) -> Option<(&str, &str)> {
    let mut lexer = Lexer::new(text);
    while lexer.next().ok()?.is_some() {}
    let (inner, rest) = text.split_at_checked(lexer.at())?;
    Some((inner, rest.strip_prefix("}}")?))
}

/// What the expression `source` reads, in the order of its text.
pub(super) fn reads(source: &str) -> Result<Vec<Read>, TemplateErrorKind> {
    if source.len() > MAX_SCRIPT_BYTES {
        return Err(TemplateErrorKind::ScriptLength);
    }
    scan::scan(source)
}

/// How many segments of a path belong to what the flow knows by name; members behind them are those of a JSON value, or of
/// JavaScript's own types.
pub(crate) fn owned_segments(path: &Path) -> usize {
    let name = |index: usize| match path.segments.get(index).map(|segment| &segment.key) {
        Some(Key::Name(name)) => name.as_str(),
        Some(Key::Index(_)) | None => "",
    };
    match name(0) {
        "$run" | "variables" => 2,
        "$wait" if matches!(name(2), "approvers" | "parties") => 5,
        "$wait" | "connections" | "steps" => 3,
        _ => 1,
    }
}
