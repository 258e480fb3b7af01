//! [`Redactor`]: finds live secrets in whatever leaves a run, and puts `‹redacted:name›` in their place.
//!
//! A secret is found as itself; in hex (lower or upper case); in base64 of either alphabet at each of the three
//! alignments, so also inside a longer encoded text such as `user:password`; in UTF-16 of either byte order; and in each
//! of these forms again behind up to two layers of escapes: percent encoding (RFC 3986), with `+` for space too, and
//! JSON strings (RFC 8259). Each line of a multi-line secret that has 16 bytes or more counts as a secret.
//!
//! # Security
//!
//! This is the second line: the first is that nothing but egress ever holds a secret. It catches what peers and
//! libraries do to a value by accident. Not found: parts of a secret, its hashes, compressed or encrypted text, base64
//! broken into lines or made twice, hex with separators or in mixed case, HTML entities, quoted-printable, and whatever
//! code does to hide it.
//!
//! The forms are wiped when the redactor is dropped. The search automaton holds a copy of the first 32 bytes of each
//! form, which its crate does not wipe.

mod form;
mod stream;
mod view;

use std::{borrow::Cow, cmp::Reverse, collections::BTreeMap, fmt};

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

pub use self::stream::RedactStream;
use self::{
    form::{Form, push_forms},
    view::{UNESCAPES, View},
};

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
#[derive(Default)]
pub struct Redactor {
    markers: Vec<String>,
    forms: Vec<Form>,
    /// Over the beginnings of the forms, in their order. Absent without secrets.
    beginnings: Option<AhoCorasick>,
}

impl Redactor {
    /// Prepares to mask `secrets`, each with the name to show: that of its connection.
    ///
    /// Characters of a name other than letters, digits, `_`, `-` and `.` are shown as `_`.
    ///
    /// # Errors
    /// [`RedactError::TooShort`] for a secret under [`MIN_SECRET_BYTES`]; [`RedactError::TooMany`] if the secrets do not
    /// fit one automaton (millions of bytes).
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
        // The first of equal forms stays, so the name shown does not depend on chance.
        forms.sort_by(|one, other| one.bytes.cmp(&other.bytes));
        forms.dedup_by(|later, first| later.bytes == first.bytes);
        let beginnings = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(forms.iter().map(|form| form.bytes.get(..BEGINNING_BYTES).unwrap_or(&form.bytes)))
            .map_err(|_| RedactError::TooMany)?;
        Ok(Self { markers, forms, beginnings: Some(beginnings) })
    }

    /// Whether there is nothing to mask.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.beginnings.is_none()
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

    /// `value` with every secret masked in texts and member names; a number that shows a secret becomes a text.
    ///
    /// Member names that become equal are told apart by a number.
    #[must_use]
    pub fn redact_json(&self, value: Value) -> Value {
        if self.is_empty() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.redact_string(text)),
            Value::Array(items) => Value::Array(items.into_iter().map(|item| self.redact_json(item)).collect()),
            Value::Object(members) => {
                let mut redacted = Map::new();
                for (name, value) in members {
                    let name = free_name(&redacted, self.redact_string(name));
                    redacted.insert(name, self.redact_json(value));
                }
                Value::Object(redacted)
            }
            Value::Number(number) => match self.redact_str(&number.to_string()) {
                Cow::Borrowed(_) => Value::Number(number),
                Cow::Owned(text) => Value::String(text),
            },
            other @ (Value::Null | Value::Bool(_)) => other,
        }
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
        self.forms.iter().map(|form| (form.bytes.len() + 2) * ESCAPED_BYTES).max().unwrap_or(0)
    }

    fn redact_string(&self, text: String) -> String {
        match self.redact_str(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(redacted) => redacted,
        }
    }

    fn marker(&self, name: usize) -> &str {
        self.markers.get(name).map_or("‹redacted›", String::as_str)
    }

    /// Everything to mask in `text`: disjoint, ascending. Secrets that overlap make one region.
    fn regions(&self, text: &[u8]) -> Vec<Region> {
        let mut found: Vec<Region> = Vec::new();
        // Repetitive secrets match at every offset: joining at once, name by name, keeps the list short.
        let mut last_of_name = vec![usize::MAX; self.markers.len()];
        self.scan(text, &mut |region| {
            let Some(index) = last_of_name.get_mut(region.name) else { return true };
            match found.get_mut(*index) {
                Some(last) if last.start <= region.start && region.start < last.end => {
                    last.end = last.end.max(region.end);
                }
                _ => {
                    *index = found.len();
                    found.push(region);
                }
            }
            true
        });
        found.sort_by_key(|region| (region.start, Reverse(region.end), region.name));
        found.dedup_by(|later, earlier| {
            let overlap = later.start < earlier.end;
            if overlap {
                earlier.end = earlier.end.max(later.end);
            }
            overlap
        });
        found
    }

    /// Reports every match until `report` returns `false`; returns whether it never did.
    fn scan(&self, text: &[u8], report: &mut dyn FnMut(Region) -> bool) -> bool {
        let Some(beginnings) = &self.beginnings else { return true };
        self.scan_view(beginnings, text, report)
            && UNESCAPES.iter().filter_map(|unescape| unescape(text)).all(|outer| {
                self.scan_view(beginnings, &outer.bytes, &mut |region| report(region.behind(&outer)))
                    && UNESCAPES.iter().filter_map(|unescape| unescape(&outer.bytes)).all(|inner| {
                        let mut report = |region: Region| report(region.behind(&inner).behind(&outer));
                        self.scan_view(beginnings, &inner.bytes, &mut report)
                    })
            })
    }

    fn scan_view(&self, beginnings: &AhoCorasick, text: &[u8], report: &mut dyn FnMut(Region) -> bool) -> bool {
        // Form → start of its last match, and a period the form is known to have.
        let mut last: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        beginnings.find_overlapping_iter(Input::new(text)).all(|found| {
            let index = found.pattern().as_usize();
            let Some(form) = self.forms.get(index) else { return true };
            let (start, end) = (found.start(), found.start() + form.bytes.len());
            // A match one period behind the last one repeats it but for its end: repetitive secrets cost no square.
            let repeats =
                last.get(&index).filter(|(at, period)| *period > 0 && start.checked_sub(*at) == Some(*period));
            let compared = repeats.map_or(0, |(_, period)| form.bytes.len().saturating_sub(*period));
            if text.get(start + compared..end) != form.bytes.get(compared..) {
                return true;
            }
            last.entry(index)
                .and_modify(|(at, period)| {
                    let distance = start - *at;
                    if *period != distance && distance < form.bytes.len() {
                        // Both matches agree where they overlap, so the form repeats itself at this distance.
                        *period = distance;
                    }
                    *at = start;
                })
                .or_insert((start, 0));
            let is_digit =
                |at: usize| text.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte));
            let before = form.shares_digit_before && start.checked_sub(1).is_some_and(is_digit);
            let after = form.shares_digit_after && is_digit(end);
            report(Region { start: start - usize::from(before), end: end + usize::from(after), name: form.name })
        })
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} secrets)", self.markers.len())
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

/// How much of a form the automaton knows; the rest is compared where that much was found.
const BEGINNING_BYTES: usize = 32;
/// Longest escaped spelling of one byte that a stream waits for: `\u005cu0041`.
const ESCAPED_BYTES: usize = 12;

#[cfg(test)]
mod tests;
