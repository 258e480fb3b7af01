//! Why a template does not compile or resolve.

use std::{fmt, sync::Arc};

use super::{
    MAX_INDEX_DIGITS, MAX_NESTING, MAX_PATH_SEGMENTS, MAX_POINTER_BYTES, MAX_RESOLVED_BYTES, MAX_RESOLVED_DEPTH,
    MAX_SCRIPT_BYTES, MAX_SCRIPTS_PER_TEMPLATE, MAX_STRING_BYTES, MAX_TOKENS_PER_STRING, MAX_TOKENS_PER_TEMPLATE,
    parser::excerpt,
};
use crate::flow::Diagnostic;

/// A flaw of a template: the place, the rule it breaks and the mend. For the flow's author.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct TemplateError {
    /// RFC 6901 pointer of the string, relative to the compiled value.
    pub pointer: String,
    /// What is wrong there.
    pub kind: TemplateErrorKind,
}

/// What is wrong in a template. [`Display`](fmt::Display) is the message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TemplateErrorKind {
    /// `{{ }}` holds nothing.
    Empty,
    /// A string literal holds an escape that JSON does not know, or half a surrogate pair.
    Escape,
    /// The token is neither a member path nor a JavaScript expression.
    Expression {
        /// The beginning of the token.
        excerpt: String,
        /// Why not.
        problem: &'static str,
    },
    /// An array index has more than [`MAX_INDEX_DIGITS`] digits.
    Index,
    /// The value nests deeper than [`MAX_NESTING`].
    Nesting,
    /// `{{` stands inside a token.
    NestedToken,
    /// A path breaks off: a name or a `]` is missing.
    Path {
        /// What should have followed.
        expected: &'static str,
    },
    /// A path has more than [`MAX_PATH_SEGMENTS`] segments.
    PathDepth,
    /// A template's pointer is longer than [`MAX_POINTER_BYTES`]; the error's pointer names an ancestor.
    Pointer,
    /// The template holds more than [`MAX_SCRIPTS_PER_TEMPLATE`] scripts.
    ScriptCount,
    /// A script is longer than [`MAX_SCRIPT_BYTES`].
    ScriptLength,
    /// A string with `{{` is longer than [`MAX_STRING_BYTES`].
    StringLength,
    /// A string holds more than [`MAX_TOKENS_PER_STRING`] tokens, or the template [`MAX_TOKENS_PER_TEMPLATE`].
    TokenCount,
    /// `{{` without `}}`.
    Unclosed,
}

/// Why a template did not resolve. For the flow's author.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// A path leads to nothing, and neither `?.` nor `??` allows that.
    #[error("`{path}` is missing: there is no `{missing}`")]
    Missing {
        /// Pointer of the string leaf, relative to the template's root.
        pointer: String,
        /// The whole path, in canonical text.
        path: String,
        /// The path up to and including the missing segment.
        missing: String,
        /// Number of the missing segment, the root being 0.
        segment: usize,
    },
    /// A script could not be evaluated, or threw.
    #[error("`{}` failed: {message}", excerpt(script))]
    Script {
        /// Pointer of the string leaf, relative to the template's root.
        pointer: String,
        /// The script.
        script: Arc<str>,
        /// What went wrong.
        message: String,
    },
    /// The result would nest deeper than [`MAX_RESOLVED_DEPTH`].
    #[error("the resolved value nests deeper than {MAX_RESOLVED_DEPTH} levels")]
    TooDeep {
        /// Pointer of the string leaf whose value passed the limit.
        pointer: String,
    },
    /// The result would be larger than [`MAX_RESOLVED_BYTES`].
    #[error("the resolved value is larger than {MAX_RESOLVED_BYTES} bytes")]
    TooLarge {
        /// Pointer of the string leaf whose value passed the limit; empty if literal text did.
        pointer: String,
    },
    /// A script gave `undefined`, or something that JSON has no form for.
    #[error("`{}` gives no value", excerpt(script))]
    Undefined {
        /// Pointer of the string leaf, relative to the template's root.
        pointer: String,
        /// The script.
        script: Arc<str>,
    },
}

impl TemplateError {
    /// RFC 6901 pointer of the string, relative to the compiled value.
    #[must_use]
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Stable id of the rule, such as `template.unclosed`.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        self.kind.rule()
    }

    /// What to do.
    #[must_use]
    pub fn fix(&self) -> String {
        self.kind.fix()
    }

    /// The same finding about a flow in which the compiled value stands at `base`.
    #[must_use]
    pub fn to_diagnostic(&self, base: &str) -> Diagnostic {
        Diagnostic::error(&format!("{base}{}", self.pointer), self.rule(), self.to_string(), self.fix())
    }
}

impl TemplateErrorKind {
    /// Stable id of the rule, such as `template.unclosed`.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Empty => "template.empty",
            Self::Escape => "template.escape",
            Self::Expression { .. } => "template.expression",
            Self::Index => "template.index",
            Self::Nesting => "template.nesting",
            Self::NestedToken => "template.nested",
            Self::Path { .. } => "template.path",
            Self::PathDepth => "template.path_depth",
            Self::Pointer => "template.pointer",
            Self::ScriptCount => "template.scripts",
            Self::ScriptLength => "template.script_length",
            Self::StringLength => "template.length",
            Self::TokenCount => "template.tokens",
            Self::Unclosed => "template.unclosed",
        }
    }

    fn fix(&self) -> String {
        match self {
            Self::Empty => "write a path between the braces, or `{{'{{'}}` for the braces themselves".to_owned(),
            Self::Escape => r#"use only \\ \/ \' \" \b \f \n \r \t and \u with four hex digits"#.to_owned(),
            Self::Expression { .. } => {
                "write a member path such as `steps.fetch.output.id`, or one JavaScript expression; what takes statements \
                 belongs into a `code` step"
                    .to_owned()
            }
            Self::Index => format!("use an index of at most {MAX_INDEX_DIGITS} digits"),
            Self::Nesting => format!("nest objects and arrays at most {MAX_NESTING} deep"),
            Self::NestedToken => "close the first token before the next begins; tokens do not nest".to_owned(),
            Self::Path { expected } => format!("complete the path with {expected}"),
            Self::PathDepth => format!("use at most {MAX_PATH_SEGMENTS} segments, or split the path over two steps"),
            Self::Pointer => "shorten the keys of the objects around it".to_owned(),
            Self::ScriptCount => "compute several values in one `code` step".to_owned(),
            Self::ScriptLength => "compute the value in a `code` step".to_owned(),
            Self::StringLength => "split the text, or build it in a `code` step".to_owned(),
            Self::TokenCount => "split the value, or build it in a `code` step".to_owned(),
            Self::Unclosed => {
                "add `}}` and close every quote and brace before it, or write `{{'{{'}}` for the braces themselves"
                    .to_owned()
            }
        }
    }
}

impl ResolveError {
    /// RFC 6901 pointer of the string leaf, relative to the template's root.
    #[must_use]
    pub fn pointer(&self) -> &str {
        match self {
            Self::Missing { pointer, .. }
            | Self::Script { pointer, .. }
            | Self::TooDeep { pointer }
            | Self::TooLarge { pointer }
            | Self::Undefined { pointer, .. } => pointer,
        }
    }

    /// What to do.
    #[must_use]
    pub fn fix(&self) -> String {
        match self {
            Self::Missing { path, missing, .. } if missing.ends_with(".length") => {
                format!("write `({path})`: a path reads members of JSON alone, and brackets make it JavaScript")
            }
            Self::Missing { path, .. } => format!("write `{path} ?? default`, or `a?.b` in it, if it may be missing"),
            Self::Script { .. } => "mend the expression, or move it into a `code` step, which logs".to_owned(),
            Self::TooDeep { .. } => "flatten the value in a `code` step".to_owned(),
            Self::TooLarge { .. } => "pass on only the members that are needed".to_owned(),
            Self::Undefined { .. } => "write `(…) ?? null` if it may give nothing".to_owned(),
        }
    }
}

impl fmt::Display for TemplateErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("`{{ }}` holds no path"),
            Self::Escape => f.write_str("a string literal in a token holds an unknown escape"),
            Self::Expression { excerpt, problem } => {
                write!(f, "`{excerpt}` is neither a path nor an expression: {problem}")
            }
            Self::Index => write!(f, "an array index has more than {MAX_INDEX_DIGITS} digits"),
            Self::Nesting => write!(f, "the value nests deeper than {MAX_NESTING} levels"),
            Self::NestedToken => f.write_str("`{{` stands inside another `{{ }}`"),
            Self::Path { expected } => write!(f, "the path breaks off: {expected} is missing"),
            Self::PathDepth => write!(f, "a path has more than {MAX_PATH_SEGMENTS} segments"),
            Self::Pointer => write!(f, "the keys that lead to a template are longer than {MAX_POINTER_BYTES} bytes"),
            Self::ScriptCount => write!(f, "more than {MAX_SCRIPTS_PER_TEMPLATE} JavaScript expressions in one value"),
            Self::ScriptLength => write!(f, "a JavaScript expression is longer than {MAX_SCRIPT_BYTES} bytes"),
            Self::StringLength => write!(f, "a text with `{{{{` is longer than {MAX_STRING_BYTES} bytes"),
            Self::TokenCount => write!(
                f,
                "more than {MAX_TOKENS_PER_STRING} tokens in one text, or {MAX_TOKENS_PER_TEMPLATE} in one value"
            ),
            Self::Unclosed => f.write_str("`{{` has no matching `}}`"),
        }
    }
}
