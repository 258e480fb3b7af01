//! [`Findings`] collects diagnostics; [`Members`] reads an object member by member and reports what it did not know.

use serde_json::{Map, Value};

use crate::{
    flow::diagnostic::{Diagnostic, Diagnostics, MAX_DIAGNOSTICS},
    json::pointer_escape,
    nearest::nearest_match,
};

/// Diagnostics in the order in which they were found, at most [`MAX_DIAGNOSTICS`] of each kind.
#[derive(Debug, Default)]
pub(super) struct Findings {
    errors: Vec<Diagnostic>,
    deferred: Vec<Diagnostic>,
}

impl Findings {
    /// Reports something that keeps the text from being a flow.
    pub(super) fn error(
        &mut self,
        pointer: &str,
        rule: &'static str,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.push(Diagnostic::error(pointer, rule, message, fix));
    }

    /// Keeps a finished error.
    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        if !self.is_full() {
            self.errors.push(clip(diagnostic));
        }
    }

    /// Keeps an error that lets the flow be kept as a draft and bars it from being published.
    pub(super) fn defer(&mut self, diagnostic: Diagnostic) {
        if self.deferred.len() < MAX_DIAGNOSTICS {
            self.deferred.push(clip(diagnostic));
        }
    }

    /// A member has another JSON type than `expected`.
    pub(super) fn wrong_type(&mut self, member: &Member<'_>, expected: &str) {
        let found = type_name(member.value);
        self.error(&member.pointer, "member.type", format!("this is {found}"), format!("write {expected}"));
    }

    /// Whether reading on would find nothing more that is kept.
    pub(super) fn is_full(&self) -> bool {
        self.errors.len() >= MAX_DIAGNOSTICS
    }

    /// The deferred findings, if there is no error.
    pub(super) fn finish(self) -> Result<Vec<Diagnostic>, Diagnostics> {
        if self.errors.is_empty() {
            return Ok(self.deferred);
        }
        let mut all = self.errors;
        all.extend(self.deferred);
        all.truncate(MAX_DIAGNOSTICS);
        Err(Diagnostics(all))
    }
}

/// One member of an object, or one element of an array, with its place.
#[derive(Clone, Debug)]
pub(super) struct Member<'v> {
    pub(super) value: &'v Value,
    pub(super) pointer: String,
}

impl<'v> Member<'v> {
    /// The elements of an array.
    pub(super) fn elements(&self) -> Option<impl Iterator<Item = Member<'v>> + use<'v>> {
        let pointer = self.pointer.clone();
        let place = move |(index, value)| Member { value, pointer: format!("{pointer}/{index}") };
        Some(self.value.as_array()?.iter().enumerate().map(place))
    }

    /// Text, or an error that says what was `expected`.
    pub(super) fn text(&self, findings: &mut Findings) -> Option<&'v str> {
        let text = self.value.as_str();
        if text.is_none() {
            findings.wrong_type(self, "text");
        }
        text
    }

    /// `true` or `false`, or an error.
    pub(super) fn flag(&self, findings: &mut Findings) -> Option<bool> {
        let flag = self.value.as_bool();
        if flag.is_none() {
            findings.wrong_type(self, "`true` or `false`");
        }
        flag
    }

    /// A whole number of `min` to `max`, or an error of the rule `option.range`.
    pub(super) fn whole(&self, min: u64, max: u64, unit: &str, findings: &mut Findings) -> Option<u64> {
        if !self.value.is_number() {
            findings.wrong_type(self, &format!("a whole number of {unit}, {min} to {max}"));
            return None;
        }
        let number = self.value.as_u64().filter(|number| (min..=max).contains(number));
        if number.is_none() {
            let message = format!("this is no whole number of {unit} from {min} to {max}");
            findings.error(&self.pointer, "option.range", message, format!("write a number from {min} to {max}"));
        }
        number
    }

    /// An object, or an error.
    pub(super) fn members(&self, findings: &mut Findings) -> Option<Members<'v>> {
        match self.value {
            Value::Object(map) => Some(Members { map, pointer: self.pointer.clone(), known: Vec::new() }),
            _ => {
                findings.wrong_type(self, "an object");
                None
            }
        }
    }
}

/// An object that is read member by member.
#[derive(Debug)]
pub(super) struct Members<'v> {
    map: &'v Map<String, Value>,
    pointer: String,
    known: Vec<&'static str>,
}

impl<'v> Members<'v> {
    /// The place of the object.
    pub(super) fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Reads a member that may be absent.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Member<'v>> {
        self.known.push(name);
        let value = self.map.get(name)?;
        Some(Member { value, pointer: format!("{}/{name}", self.pointer) })
    }

    /// Reads a member that must be there.
    pub(super) fn require(&mut self, name: &'static str, what: &str, findings: &mut Findings) -> Option<Member<'v>> {
        let member = self.take(name);
        if member.is_none() {
            let message = format!("`{name}` is missing");
            findings.error(&self.pointer, "member.required", message, format!("add `{name}`: {what}"));
        }
        member
    }

    /// Marks a member as known that is read elsewhere.
    pub(super) fn note(&mut self, name: &'static str) {
        self.known.push(name);
    }

    /// Whether a member of this name is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// The object itself.
    pub(super) const fn map(&self) -> &'v Map<String, Value> {
        self.map
    }

    /// Reports every member that nobody asked for.
    pub(super) fn finish(self, findings: &mut Findings) {
        for name in self.map.keys().filter(|name| !self.known.contains(&name.as_str())) {
            if findings.is_full() {
                return;
            }
            let fix = match nearest_match(name, self.known.iter().copied()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("remove it; known here: {}", self.known.join(", ")),
            };
            let pointer = format!("{}/{}", self.pointer, pointer_escape(name));
            findings.error(&pointer, "member.unknown", format!("`{}` is not known here", shorten(name)), fix);
        }
    }
}

/// A name from the flow, fit for a one-line message.
pub(in crate::flow) fn shorten(name: &str) -> String {
    let mut short: String =
        name.chars().take(MAX_NAME_CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if name.chars().nth(MAX_NAME_CHARS).is_some() {
        short.push('…');
    }
    short
}

/// The JSON type of a value, with its article.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Shortens a pointer through oversized member names to its nearest short ancestor, so that many findings under one huge
/// name stay small.
pub(in crate::flow) fn clip(mut diagnostic: Diagnostic) -> Diagnostic {
    while diagnostic.pointer.len() > MAX_POINTER_BYTES {
        let parent = diagnostic.pointer.rfind('/').unwrap_or(0);
        diagnostic.pointer.truncate(parent);
    }
    diagnostic
}

const MAX_NAME_CHARS: usize = 60;
const MAX_POINTER_BYTES: usize = 1_024;
