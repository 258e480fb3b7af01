//! `{{ … }}` templates: compiled once, resolved in Rust against an [`Environment`].

use std::borrow::Cow;

use serde_json::Value;

/// A JSON value whose string leaves may hold `{{ … }}` tokens, compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    root: Value,
}

impl Template {
    /// Compiles.
    ///
    /// # Errors
    /// Every malformed token.
    pub fn compile(value: &Value) -> Result<Self, Vec<TemplateError>> {
        Ok(Self { root: value.clone() })
    }

    /// Resolves.
    ///
    /// # Errors
    /// The path that is missing.
    pub fn resolve(&self, _environment: &dyn Environment) -> Result<Value, ResolveError> {
        Ok(self.root.clone())
    }

    /// Every path the template reads, with the pointer of its leaf relative to the template's root.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        std::iter::empty()
    }

    /// Whether nothing is to be resolved; the value is then the template itself.
    #[must_use]
    pub fn as_literal(&self) -> Option<&Value> {
        Some(&self.root)
    }

    /// The single path, if the whole template is exactly one `{{path}}` token.
    #[must_use]
    pub fn as_path(&self) -> Option<&Path> {
        None
    }
}

/// One use of a path in a template.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// Pointer of the string leaf, relative to the template's root.
    pub pointer: String,
    /// The path.
    pub path: Path,
    /// Whether a missing value is allowed: `?.` somewhere in it, or a `??` behind it.
    pub optional: bool,
}

/// A member path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Root and members.
    pub segments: Vec<Segment>,
}

/// One member of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Name or index.
    pub key: Key,
    /// Written with `?.`: a missing or null value before it makes the whole path null.
    pub optional: bool,
}

/// Name or index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// `[0]`.
    Index(usize),
    /// `.name` or `['name']`.
    Name(String),
}

/// What paths are resolved against.
pub trait Environment {
    /// Resolves the beginning of `path`, as many segments as the environment owns.
    fn lookup<'a>(&'a self, path: &Path) -> Lookup<'a>;
}

/// The answer of an [`Environment`].
#[derive(Debug)]
pub enum Lookup<'a> {
    /// The value of the first `consumed` segments.
    Found {
        /// The value.
        value: Cow<'a, Value>,
        /// How many segments it stands for.
        consumed: usize,
    },
    /// Segment number `at` does not exist.
    Missing {
        /// Index of the missing segment.
        at: usize,
    },
}

/// Malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template")]
pub struct TemplateError {}

/// Missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("resolve")]
pub struct ResolveError {}
