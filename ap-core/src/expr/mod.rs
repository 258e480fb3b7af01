//! `{{ … }}` templates: compiled once, resolved in Rust against an [`Environment`].
//!
//! Every string leaf of a JSON value may hold tokens; object keys never do.
//!
//! * A string that is exactly one token takes the token's JSON value, of whatever type. White space beside the braces
//!   makes it mixed text; white space inside them means nothing.
//! * In mixed text a string is inserted raw, null as nothing, and everything else as compact JSON.
//! * What was inserted is never read as a template again.
//! * A token is a member path, or several joined by `??`, the last of which may be a literal:
//!   `{{ steps.fetch.output.name ?? trigger.body.name ?? 'nobody' }}`. Literals are strings in single or double quotes,
//!   numbers, `true`, `false`, `null`, `[]` and `{}`. `??` passes over what is missing or null.
//! * Any other token is a JavaScript expression, a [`Script`]: `{{ steps.fetch.output.map(row => row.id) }}`. Whoever
//!   resolves the template has it evaluated before; what it reads is known without that, like what paths read.
//! * A token ends at the first `}}` that stands in no string, template literal, comment, regular expression or braces of
//!   its own.
//! * In paths only own members of JSON values exist. A missing member is an error that names it, unless `?.` stands right behind
//!   it (`steps.maybe?.output`: the whole path is null) or it is the last and `?.` stands right before it
//!   (`trigger.body?.note`).
//! * A name after a dot may hold `-` (`trigger.headers.x-user-id`), so subtraction takes white space: `index - 1`.
//! * `{{'{{'}}` is a literal `{{`. A `}}` outside a token is plain text.
//!
//! Compiling and resolving take time linear in the text and the values read, whatever the input.

mod compile;
mod error;
mod parser;
mod path;
mod resolve;
mod script;

use std::{borrow::Cow, sync::Arc};

use serde_json::Value;

pub(crate) use self::script::owned_segments;
pub use self::{
    error::{ResolveError, TemplateError, TemplateErrorKind},
    path::{Key, Path, Segment},
    script::{Script, ScriptBatch},
};

/// A JSON value whose string leaves may hold `{{ … }}` tokens, compiled.
///
/// # Examples
/// ```
/// use {ap_core::expr::{Environment, Lookup, Path, Template}, serde_json::json, std::borrow::Cow};
///
/// struct Trigger(serde_json::Value);
///
/// impl Environment for Trigger {
///     fn lookup<'a>(&'a self, path: &Path) -> Lookup<'a> {
///         match path.to_string().starts_with("trigger.") {
///             true => Lookup::Found { value: Cow::Borrowed(&self.0), consumed: 1 },
///             false => Lookup::Missing { at: 0 },
///         }
///     }
/// }
///
/// let template = Template::compile(&json!({"id": "{{trigger.id}}", "hello": "Hi {{trigger.name ?? 'you'}}!"}))?;
/// let resolved = template.resolve(&Trigger(json!({"id": 7})));
/// assert_eq!(resolved, Ok(json!({"id": 7, "hello": "Hi you!"})));
/// # Ok::<(), Vec<ap_core::expr::TemplateError>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    root: Node,
    references: Vec<Arc<Reference>>,
    scripts: Vec<Arc<Script>>,
}

/// One use of a path in a template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Pointer of the string leaf, relative to the template's root.
    pub pointer: String,
    /// The path.
    pub path: Path,
    /// Whether a missing value is allowed: `?.` somewhere in it, or a `??` behind it. In a script JavaScript decides what
    /// comes of it: there this says that `?.`, `??` or `||` stands where it helps if the last step member is absent.
    pub optional: bool,
    /// Whether a script reads it. Then members of JavaScript's own, such as `length`, may stand at the end of the path.
    pub in_script: bool,
}

/// What paths are resolved against.
pub trait Environment {
    /// Resolves the beginning of `path`, as many segments as the environment owns.
    ///
    /// The template itself walks the rest of the path through the value and applies `?.` and `??`; an environment
    /// that owns several segments, such as `steps.name.output`, ignores `optional` on them.
    fn lookup<'a>(&'a self, path: &Path) -> Lookup<'a>;

    /// The result of a script. Unless the environment says otherwise, scripts are not evaluated for it.
    fn evaluated<'a>(&'a self, script: &Script) -> Evaluated<'a> {
        let _ = script;
        Evaluated::Failed { message: Cow::Borrowed("JavaScript is not evaluated here") }
    }
}

/// What evaluating a [`Script`] came to.
#[derive(Debug)]
pub enum Evaluated<'a> {
    /// It could not be evaluated, or threw.
    Failed {
        /// Why, for the flow's author.
        message: Cow<'a, str>,
    },
    /// It gave `undefined`, or something that JSON has no form for.
    Undefined,
    /// It gave a value.
    Value(Cow<'a, Value>),
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

impl Template {
    /// Compiles a value. A string without `{{` is a literal of any length.
    ///
    /// # Errors
    /// Every malformed token and every limit passed, at most [`MAX_ERRORS`] of them.
    pub fn compile(value: &Value) -> Result<Self, Vec<TemplateError>> {
        let (root, references, scripts) = compile::compile(value)?;
        Ok(Self { root, references, scripts })
    }

    /// Resolves every token against `environment`. Literal parts are cloned as they are.
    ///
    /// # Errors
    /// The first path, in the order of the template, that leads to nothing, or script that has no result; or the limit the
    /// result passed: [`MAX_RESOLVED_BYTES`] or [`MAX_RESOLVED_DEPTH`].
    pub fn resolve(&self, environment: &dyn Environment) -> Result<Value, ResolveError> {
        resolve::resolve(&self.root, environment)
    }

    /// Every path the template reads, in scripts, too, with the pointer of its leaf relative to the template's root: each once per leaf
    /// and `optional`, in the order of the template.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.references.iter().map(AsRef::as_ref)
    }

    /// Every script of the template, each once per leaf, in the order of the template.
    pub fn scripts(&self) -> impl Iterator<Item = &Arc<Script>> {
        self.scripts.iter()
    }

    /// The value, if nothing is to be resolved. Escaped braces are already replaced in it.
    #[must_use]
    pub fn as_literal(&self) -> Option<&Value> {
        match &self.root {
            Node::Literal(literal) => Some(&literal.value),
            Node::Array(_) | Node::Object(_) | Node::Text(_) | Node::Token(_) => None,
        }
    }

    /// The single path, if the whole template is exactly one `{{path}}` token without `??`.
    #[must_use]
    pub fn as_path(&self) -> Option<&Path> {
        match &self.root {
            Node::Token(Token::Path { paths, default: None }) => match paths.as_slice() {
                [only] => Some(&only.path),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the whole template is exactly one token, a script or paths with or without `??`, so that the result keeps its JSON type.
    #[must_use]
    pub fn is_token(&self) -> bool {
        matches!(self.root, Node::Token(_))
    }
}

/// A compiled value. Whatever holds no token is one literal, however large.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Array(Vec<Node>),
    Literal(Literal),
    Object(Vec<(String, Node)>),
    /// At least one token among text, in a string.
    Text(Vec<Part>),
    /// A string that is one token.
    Token(Token),
}

#[derive(Clone, Debug, PartialEq)]
struct Literal {
    value: Value,
    /// What the value counts against [`MAX_RESOLVED_BYTES`].
    bytes: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Token(Token),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// Paths to try in order, at least one; what stands for the last if it is missing or null.
    Path {
        paths: Vec<Arc<Reference>>,
        default: Option<Value>,
    },
    Script(Arc<Script>),
}

/// Most that the scripts of one step read together, see [`ScriptBatch`]. Unit: as for [`MAX_RESOLVED_BYTES`].
pub const MAX_ENVIRONMENT_BYTES: usize = 8 << 20;
/// Most errors reported by one [`Template::compile`].
pub const MAX_ERRORS: usize = 100;
/// Longest array index in a path. Unit: decimal digits.
pub const MAX_INDEX_DIGITS: usize = 15;
/// Deepest nesting of arrays and objects in a template; a scalar has depth 0.
pub const MAX_NESTING: usize = 64;
/// Most segments of a path, the root included.
pub const MAX_PATH_SEGMENTS: usize = 64;
/// Longest RFC 6901 pointer of a string with `{{`, so that references stay small. Unit: bytes.
pub const MAX_POINTER_BYTES: usize = 1024;
/// Largest result of [`Template::resolve`]. Unit: bytes of keys and strings, and 8 for every value.
pub const MAX_RESOLVED_BYTES: usize = 16 << 20;
/// Deepest nesting of arrays and objects in a result; a scalar has depth 0. Deep values would not parse back from a
/// record.
pub const MAX_RESOLVED_DEPTH: usize = 100;
/// Longest script. Unit: bytes.
pub const MAX_SCRIPT_BYTES: usize = 8 << 10;
/// Most scripts in one template.
pub const MAX_SCRIPTS_PER_TEMPLATE: usize = 256;
/// Longest string with `{{`. Unit: bytes.
pub const MAX_STRING_BYTES: usize = 64 << 10;
/// Most tokens in one string.
pub const MAX_TOKENS_PER_STRING: usize = 1000;
/// Most tokens in one template.
pub const MAX_TOKENS_PER_TEMPLATE: usize = 10_000;
