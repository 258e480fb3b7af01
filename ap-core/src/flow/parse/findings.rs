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

    /// As [`Member::whole`], for small numbers.
    pub(super) fn count(&self, min: u32, max: u32, unit: &str, findings: &mut Findings) -> Option<u32> {
        self.whole(min.into(), max.into(), unit, findings).and_then(|number| u32::try_from(number).ok())
    }

    /// One of `words`, or an error of the rule `option.range`.
    pub(super) fn word<T: Copy>(&self, words: &[(&'static str, T)], findings: &mut Findings) -> Option<T> {
        let text = self.text(findings)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let fix = match nearest_match(text, words.iter().map(|(word, _)| *word)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("write one of {}", words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ")),
            };
            findings.error(&self.pointer, "option.range", format!("`{}` has no meaning here", shorten(text)), fix);
        }
        found
    }

    /// The elements of an array of 1 to `max`, or an error and none.
    pub(super) fn list(&self, max: usize, what: &str, findings: &mut Findings) -> Vec<Member<'v>> {
        let Some(elements) = self.elements() else {
            findings.wrong_type(self, &format!("an array of {what}"));
            return Vec::new();
        };
        let elements: Vec<_> = elements.take(max + 1).collect();
        if !(1..=max).contains(&elements.len()) {
            let message = format!("these are not 1 to {max} {what}");
            findings.error(&self.pointer, "option.range", message, format!("write 1 to {max} {what}"));
            return Vec::new();
        }
        elements
    }

    /// An object, or an error.
    pub(super) fn members(&self, findings: &mut Findings) -> Option<Members<'v>> {
        match self.value {
            Value::Object(map) => {
                Some(Members { map, pointer: self.pointer.clone(), known: Vec::new(), scattered: None })
            }
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
    /// What stands for `settings`, whose members are then members of this object.
    scattered: Option<&'v Value>,
}

impl<'v> Members<'v> {
    /// The place of the object.
    pub(super) fn pointer(&self) -> &str {
        &self.pointer
    }

    /// The same object, some members of which are its `settings`.
    pub(super) fn with_settings<'s>(self, scattered: Option<&'s Value>) -> Members<'s>
    where
        'v: 's,
    {
        Members { scattered, ..self }
    }

    /// Reads a member that may be absent.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Member<'v>> {
        if let Some(value) = self.scattered.filter(|_| name == "settings") {
            return Some(Member { value, pointer: self.pointer.clone() });
        }
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
        self.map.contains_key(name) || (name == "settings" && self.scattered.is_some())
    }

    /// The object itself.
    pub(super) const fn map(&self) -> &'v Map<String, Value> {
        self.map
    }

    /// Reports every member that nobody asked for.
    pub(super) fn finish(self, findings: &mut Findings) {
        let elsewhere = |name: &str| self.scattered.is_some_and(|settings| settings.get(name).is_some());
        let unknown = |name: &&String| !self.known.contains(&name.as_str()) && !elsewhere(name);
        for name in self.map.keys().filter(unknown) {
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
