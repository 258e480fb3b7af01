//! [`Redactor`]: finds live secrets in whatever leaves a run, and puts `‹redacted:name›` in their place.
//!
//! A secret is found as itself; in hex (lower or upper case); in base64 of either alphabet at each of the three
//! alignments, so also inside a longer encoded text such as `user:password`; in UTF-16 of either byte order; and in each
//! of these forms again behind up to two layers of escapes: percent encoding (RFC 3986), with `+` for space too, JSON
//! strings (RFC 8259) and character references of HTML. Each line of a multi-line secret that has 16 bytes or more counts
//! as a secret.
//!
//! Time is linear in the text, whatever the text and the secrets are. On ordinary text a filter decides, which looks at
//! a few bytes in each handful (see `matcher`); what makes it work too much is left to an automaton (see `automaton`).
//!
//! [`Redactor::with_token_shapes`] also masks what looks like a token of a well-known kind (see `shape`).
//!
//! # Security
//!
//! This is the second line: the first is that nothing but egress ever holds a secret. It catches what peers and
//! libraries do to a value by accident. Not found: parts of a secret, its hashes, compressed or encrypted text, base64
//! broken into lines or made twice, hex with separators or in mixed case, quoted-printable, UTF-16 of a secret of three
//! characters, and whatever code does to hide it.
//!
//! The forms, and whatever is made of them to search for them, are wiped when the redactor is dropped.

mod automaton;
mod form;
mod live;
mod matcher;
mod shape;
mod stream;
mod view;
mod writer;

use std::{
    borrow::Cow,
    cmp::Reverse,
    fmt,
    sync::{Arc, LazyLock},
};

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use self::{
    form::{Form, push_forms},
    live::Secrets,
    matcher::Matcher,
    shape::{MARKERS, MAX_SHAPE_BYTES, find_shapes},
    view::{ESCAPES, View, islands},
};
pub use self::{stream::RedactStream, writer::MaskingWriter};

/// Shortest secret that can be redacted; shorter ones would mask ordinary text. Unit: bytes.
pub const MIN_SECRET_BYTES: usize = 8;

/// Masks a set of secrets. Built once per run; without secrets it costs nothing.
///
/// # Examples
/// ```
/// use ap_crypto::redact::Redactor;
///
/// let redactor = Redactor::new([("crm", &"s3cr3t/t0ken".into())])?;
/// assert_eq!(redactor.redact_str("?key=s3cr3t%2Ft0ken&page=2"), "?key=‹redacted:crm›&page=2");
/// # Ok::<(), ap_crypto::redact::RedactError>(())
/// ```
#[derive(Clone, Default)]
pub struct Redactor {
    /// Usually of one run; none without secrets.
    secrets: Vec<Arc<Secrets>>,
    shapes: bool,
}

impl Redactor {
    /// Prepares to mask `secrets`, each with the name to show: that of its connection.
    ///
    /// Characters of a name other than letters, digits, `_`, `-` and `.` are shown as `_`.
    ///
    /// # Errors
    /// [`RedactError::TooShort`] for a secret under [`MIN_SECRET_BYTES`]; [`RedactError::TooMany`] if the secrets do not
    /// fit one automaton (a hundred megabytes).
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a SecretString)>) -> Result<Self, RedactError> {
        let (mut markers, mut forms) = (Vec::new(), Vec::new());
        for (name, secret) in secrets {
            if secret.expose_secret().len() < MIN_SECRET_BYTES {
                return Err(RedactError::TooShort { name: name.to_owned() });
            }
            push_forms(secret.expose_secret(), markers.len(), &mut forms);
            markers.push(marker_of(name));
        }
        if forms.is_empty() {
            return Ok(Self::default());
        }
        if forms.iter().map(|form| form.bytes.len()).sum::<usize>() >= MAX_FORM_BYTES {
            return Err(RedactError::TooMany);
        }
        Ok(Self { secrets: vec![Secrets::new(markers, Matcher::new(forms))], shapes: false })
    }

    /// The same, which also masks `secrets`: those that came into being later, such as signatures made with one.
    ///
    /// # Errors
    /// As [`Redactor::new`].
    pub fn with_secrets<'a>(
        &self,
        secrets: impl IntoIterator<Item = (&'a str, &'a SecretString)>,
    ) -> Result<Self, RedactError> {
        let more = Self::new(secrets)?;
        Ok(Self { secrets: self.secrets.iter().cloned().chain(more.secrets).collect(), shapes: self.shapes })
    }

    /// Masks nothing but what looks like a token, whoever's it is: see [`Redactor::with_token_shapes`].
    #[must_use]
    pub fn token_shapes() -> &'static Self {
        static SHAPES: LazyLock<Redactor> = LazyLock::new(|| Redactor { secrets: Vec::new(), shapes: true });
        &SHAPES
    }

    /// The same, which also masks what looks like a token although it is not among the secrets.
    ///
    /// Access keys and tokens of AWS, GitHub, GitLab, Google, npm, PyPI, SendGrid, Slack, Stripe, Twilio and model providers,
    /// signed and encrypted JWTs, private keys in PEM, passwords in URLs, and what follows `Bearer` and `Basic`. The marker
    /// names the rule, as in `‹redacted:github-token›`. Placeholders are left alone.
    ///
    /// For texts that people read: log lines, errors, audit details. Data that a flow goes on with may carry a token on
    /// purpose, such as one it was just issued.
    #[must_use]
    pub fn with_token_shapes(&self) -> Self {
        Self { secrets: self.secrets.clone(), shapes: true }
    }

    /// Masks the secrets of every redactor that exists in this process at this moment, and what looks like a token.
    ///
    /// Whoever opens a credential builds a redactor for it first, so these are the secrets of all runs under way. For logs;
    /// what it masks must not be shown to a tenant, who would learn whether a text is a secret of another one. Do not keep
    /// it: the secrets are wiped when their last redactor is dropped.
    #[must_use]
    pub fn live() -> Self {
        Self { secrets: live::all(), shapes: true }
    }

    /// Whether there is nothing to mask.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.secrets.is_empty() && !self.shapes
    }

    /// Whether `bytes` hold a secret in any form.
    #[must_use]
    pub fn contains(&self, bytes: &[u8]) -> bool {
        !self.scan(bytes, &mut |_| false)
    }

    /// `bytes` with every secret masked. Borrowed if there is none.
    #[must_use]
    pub fn redact_bytes<'b>(&self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        let regions = self.regions(bytes);
        if regions.is_empty() {
            return Cow::Borrowed(bytes);
        }
        let mut out = Vec::with_capacity(bytes.len());
        let mut done = 0;
        for Region { start, end, name } in regions {
            out.extend_from_slice(bytes.get(done..start).unwrap_or_default());
            out.extend_from_slice(self.marker(name).as_bytes());
            done = end;
        }
        out.extend_from_slice(bytes.get(done..).unwrap_or_default());
        Cow::Owned(out)
    }

    /// `text` with every secret masked. Borrowed if there is none.
    #[must_use]
    pub fn redact_str<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.redact_bytes(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            Cow::Owned(bytes) => {
                // A form in UTF-16 may begin inside a character of UTF-8: then the rest of that one is replaced.
                let text = String::from_utf8(bytes);
                Cow::Owned(text.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
            }
        }
    }

    /// `text`, the rest of which was cut off, without the beginning of a secret at its end.
    ///
    /// Fewer than four bytes of one are left: they say too little, and other texts end so as well. Behind escapes it is not looked
    /// for.
    #[must_use]
    pub fn without_begun<'t>(&self, text: &'t str) -> &'t str {
        let begun = self.secrets.iter().map(|secrets| secrets.matcher.begun_at_end(text.as_bytes())).max().unwrap_or(0);
        // A form in UTF-16 may begin inside a character.
        text.get(..text.floor_char_boundary(text.len() - begun)).unwrap_or_default()
    }

    /// `value` with every secret masked in texts and member names; a number that shows a secret becomes a text.
    ///
    /// Member names that become equal are told apart by a number.
    #[must_use]
    pub fn redact_json(&self, mut value: Value) -> Value {
        if !self.is_empty() {
            self.mask_json(&mut value);
        }
        value
    }

    /// Starts masking a body that arrives in chunks.
    #[must_use]
    pub fn stream(&self) -> RedactStream<'_> {
        RedactStream::new(self)
    }

    /// How much of a stream may be held back at any time, at most twice this. Unit: bytes.
    ///
    /// Twelve times the longest form: what two layers of escapes make of a byte.
    #[must_use]
    pub fn held_back_bytes(&self) -> usize {
        // Two more for the base64 digits at the ends.
        let longest = self.secrets.iter().map(|secrets| (secrets.matcher.longest() + 2) * ESCAPED_BYTES).max();
        longest.unwrap_or(0).max(if self.shapes { MAX_SHAPE_BYTES } else { 0 })
    }

    fn mask_json(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(masked) = self.redact_str(text) {
                    *text = masked;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.mask_json(item)),
            Value::Object(members) => {
                if members.keys().any(|name| self.contains(name.as_bytes())) {
                    let mut masked = Map::new();
                    for (name, value) in std::mem::take(members) {
                        let name = free_name(&masked, self.redact_str(&name).into_owned());
                        masked.insert(name, value);
                    }
                    *members = masked;
                }
                members.values_mut().for_each(|value| self.mask_json(value));
            }
            Value::Number(number) => {
                // Up to seven digits are shorter than any secret.
                if number.as_u64().is_none_or(|number| number >= 10_000_000)
                    && let Cow::Owned(masked) = self.redact_str(&number.to_string())
                {
                    *value = Value::String(masked);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// Those of the secrets, then those of the shapes.
    fn marker(&self, mut name: usize) -> &str {
        for secrets in &self.secrets {
            match secrets.markers.get(name) {
                Some(marker) => return marker,
                None => name -= secrets.markers.len(),
            }
        }
        MARKERS.get(name).map_or("‹redacted›", String::as_str)
    }

    /// Everything to mask in `text`: disjoint, ascending. Secrets that overlap make one region.
    fn regions(&self, text: &[u8]) -> Vec<Region> {
        let mut found: Vec<Region> = Vec::new();
        self.scan(text, &mut |region| {
            match found.last_mut() {
                // Repetitive secrets match at every offset: joining at once keeps the list short.
                Some(last) if last.name == region.name && last.start <= region.start && region.start < last.end => {
                    last.end = last.end.max(region.end);
                }
                _ => found.push(region),
            }
            true
        });
        let shapes: usize = self.secrets.iter().map(|secrets| secrets.markers.len()).sum();
        found.sort_unstable_by_key(|region| (region.start, Reverse(region.end), region.name));
        found.dedup_by(|later, earlier| {
            let overlap = later.start < earlier.end;
            if overlap {
                earlier.end = earlier.end.max(later.end);
                // Of a secret and a shape around it, the secret has the better name.
                if earlier.name >= shapes && later.name < shapes {
                    earlier.name = later.name;
                }
            }
            overlap
        });
        found
    }

    /// Reports every match until `report` returns `false`; returns whether it never did.
    fn scan(&self, text: &[u8], report: &mut dyn FnMut(Region) -> bool) -> bool {
        let mut first = 0;
        let told = self.secrets.iter().all(|secrets| {
            let named = first;
            first += secrets.markers.len();
            scan_layers(&secrets.matcher, text, LAYERS, &mut |region| {
                report(Region { name: named + region.name, ..region })
            })
        });
        let mut shape = |range: std::ops::Range<usize>, rule| {
            report(Region { start: range.start, end: range.end, name: first + rule })
        };
        told && (!self.shapes || find_shapes(text, &mut shape))
    }
}

/// Reports every match in `text` and behind up to `layers` of escapes.
fn scan_layers(matcher: &Matcher, text: &[u8], layers: u8, report: &mut dyn FnMut(Region) -> bool) -> bool {
    if text.len() < MIN_SECRET_BYTES {
        return true;
    }
    let told = matcher.scan(text, &mut |end, form| report(Region::of(form, end, text)));
    let Some(layers) = layers.checked_sub(1).filter(|_| told) else { return told };
    let islands = islands(text, matcher.longest() + LONGEST_ESCAPES);
    (0..ESCAPES.len())
        .filter_map(|kind| View::new(text, &islands, kind))
        .all(|view| scan_layers(matcher, &view.bytes, layers, &mut |region| report(region.behind(&view))))
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secrets: usize = self.secrets.iter().map(|secrets| secrets.markers.len()).sum();
        write!(f, "Redactor({secrets} secrets)")
    }
}

/// Why secrets cannot be masked. The caller must not go on without a redactor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedactError {
    /// The secrets are too many or too long for one automaton.
    #[error("too many secrets to redact at once")]
    TooMany,
    /// The secret could not be told from ordinary text.
    #[error("a secret of `{name}` is shorter than {MIN_SECRET_BYTES} bytes and cannot be redacted")]
    TooShort {
        /// The name given with it.
        name: String,
    },
}

/// Where something was found, and which marker takes its place.
#[derive(Clone, Copy, Debug)]
struct Region {
    start: usize,
    end: usize,
    name: usize,
}

impl Region {
    /// Where `form` ends in `text`, with the digits of base64 that hold some of its bits.
    fn of(form: &Form, end: usize, text: &[u8]) -> Self {
        let start = end.saturating_sub(form.bytes.len());
        let is_digit =
            |at: usize| text.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte));
        let before = form.shares_digit_before && start.checked_sub(1).is_some_and(is_digit);
        let after = form.shares_digit_after && is_digit(end);
        Self { start: start - usize::from(before), end: end + usize::from(after), name: form.name }
    }

    /// The same in the text that `view` was made of.
    fn behind(self, view: &View) -> Self {
        Self { start: view.source(self.start), end: view.source(self.end), ..self }
    }
}

/// Nothing in a marker needs an escape in JSON, in HTML text or in a log line.
fn marker_of(name: &str) -> String {
    let plain = |char: char| if char.is_ascii_alphanumeric() || "_-.".contains(char) { char } else { '_' };
    format!("‹redacted:{}›", name.chars().map(plain).collect::<String>())
}

fn free_name(taken: &Map<String, Value>, name: String) -> String {
    if !taken.contains_key(&name) {
        return name;
    }
    (2_u64..).map(|number| format!("{name}#{number}")).find(|name| !taken.contains_key(name)).unwrap_or(name)
}

/// How many layers of escapes are undone.
const LAYERS: u8 = 2;
/// Plain bytes at either end of a match that make an escape once others are undone, as `u0041` in `%5Cu0041`, and the base64
/// digits that share bits. Generously.
const LONGEST_ESCAPES: usize = 32;
/// All forms together. An automaton over them takes some ten times as much.
const MAX_FORM_BYTES: usize = 100 << 20;
/// Longest escaped spelling of one byte that a stream waits for: `\u005cu0041`.
const ESCAPED_BYTES: usize = 12;

#[cfg(test)]
mod tests;
