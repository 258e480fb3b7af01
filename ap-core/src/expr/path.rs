//! [`Path`]: root and members, its canonical text, and reading own members of a JSON value.

use std::{borrow::Cow, fmt, str::FromStr};

use serde_json::Value;

use super::{TemplateError, parser};

/// A member path such as `steps.fetch.output.items[0]?.id`: a root name, then members.
///
/// [`Display`](fmt::Display) writes the canonical text: `.name` where the name allows it, `['name']` elsewhere, no
/// white space. [`FromStr`] reads it back.
///
/// # Examples
/// ```
/// use ap_core::expr::Path;
/// let path: Path = "steps . fetch['output'] ?. [0]['a b']".parse()?;
/// assert_eq!(path.to_string(), "steps.fetch.output?.[0]['a b']");
/// # Ok::<(), ap_core::expr::TemplateError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Root and members. Never empty when parsed; the first is a [`Key::Name`] and never optional.
    pub segments: Vec<Segment>,
}

/// One member of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Name or index.
    pub key: Key,
    /// Written with `?.`: a missing or null value before it makes the whole path null, and so does its own absence
    /// when it is the last.
    pub optional: bool,
}

/// Name or index.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// `[0]`. At most [`MAX_INDEX_DIGITS`](super::MAX_INDEX_DIGITS) digits.
    Index(usize),
    /// `.name` or `['name']`.
    Name(String),
}

impl Path {
    /// Whether `?.` stands somewhere in it.
    #[must_use]
    pub fn has_optional(&self) -> bool {
        self.segments.iter().any(|segment| segment.optional)
    }

    /// The canonical text of the first `count` segments.
    #[must_use]
    pub fn prefix(&self, count: usize) -> String {
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        let _ = write_segments(&mut text, self.segments.iter().take(count));
        text
    }

    /// The member of `value` that the segments from number `from` on lead to.
    ///
    /// Only own JSON members exist: the keys of an object and the elements of an array. `length`, `constructor` and
    /// `__proto__` are members of nothing that does not carry them as keys.
    pub(super) fn walk<'a>(&self, value: &'a Value, from: usize) -> Walk<'a> {
        let mut current = value;
        for (at, segment) in self.segments.iter().enumerate().skip(from) {
            if segment.optional && current.is_null() {
                return Walk::Null;
            }
            match own_member(current, &segment.key) {
                Some(member) => current = member,
                None => return self.missing(at),
            }
        }
        Walk::Found(current)
    }

    /// What the path is when segment number `at` does not exist.
    pub(super) fn missing<'a>(&self, at: usize) -> Walk<'a> {
        let at = at.min(self.segments.len().saturating_sub(1));
        let optional = |index: usize| self.segments.get(index).is_some_and(|segment| segment.optional);
        let last = at + 1 == self.segments.len();
        if optional(at + 1) || (last && optional(at)) { Walk::Null } else { self.absent(at) }
    }

    /// A member that `?.` reached and that is not there is null; a plain member of that null is what is missing.
    fn absent<'a>(&self, at: usize) -> Walk<'a> {
        let guarded = self.segments.get(at).is_some_and(|segment| segment.optional);
        Walk::Missing { at: if guarded { at + 1 } else { at } }
    }
}

/// Where a walk ended.
pub(super) enum Walk<'a> {
    /// At a value.
    Found(&'a Value),
    /// Before segment number `at`, which does not exist.
    Missing { at: usize },
    /// Cut short by `?.`.
    Null,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_segments(f, self.segments.iter())
    }
}

impl FromStr for Path {
    type Err = TemplateError;

    /// Reads one path, with nothing but white space around it.
    fn from_str(text: &str) -> Result<Self, TemplateError> {
        parser::parse_path(text).map_err(|kind| TemplateError { pointer: String::new(), kind })
    }
}

/// Reads an own member: JavaScript's `Object.hasOwn` over JSON, so `['0']` reads an array and `[0]` an object's `"0"`.
fn own_member<'a>(value: &'a Value, key: &Key) -> Option<&'a Value> {
    match (value, key) {
        (Value::Array(items), Key::Index(index)) => items.get(*index),
        (Value::Array(items), Key::Name(name)) => items.get(canonical_index(name)?),
        (Value::Object(members), Key::Index(index)) => members.get(&index.to_string()),
        (Value::Object(members), Key::Name(name)) => members.get(name),
        (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_), _) => None,
    }
}

/// The index that `name` spells without sign or leading zero.
fn canonical_index(name: &str) -> Option<usize> {
    let plain = name == "0" || (!name.starts_with('0') && name.bytes().all(|digit| digit.is_ascii_digit()));
    if plain { name.parse().ok() } else { None }
}

fn write_segments<'a>(out: &mut dyn fmt::Write, segments: impl Iterator<Item = &'a Segment>) -> fmt::Result {
    for (at, segment) in segments.enumerate() {
        if segment.optional {
            out.write_str("?.")?;
        }
        match &segment.key {
            Key::Index(index) => write!(out, "[{index}]")?,
            Key::Name(name) if at == 0 => out.write_str(name)?,
            Key::Name(name) if is_dot_name(name) => {
                write!(out, "{}{name}", if segment.optional { "" } else { "." })?;
            }
            Key::Name(name) => write!(out, "['{}']", quoted(name))?,
        }
    }
    Ok(())
}

fn is_dot_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(parser::is_member_char)
}

/// Escapes for a single-quoted string literal.
fn quoted(name: &str) -> Cow<'_, str> {
    if !name.contains(|next: char| next == '\'' || next == '\\' || next.is_control()) {
        return Cow::Borrowed(name);
    }
    let mut text = String::with_capacity(name.len() + 8);
    for next in name.chars() {
        match next {
            '\'' | '\\' => text.extend(['\\', next]),
            _ if next.is_control() => text.push_str(&format!("\\u{:04x}", u32::from(next))),
            _ => text.push(next),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn found(path: &str, value: &Value) -> Option<Value> {
        let path: Path = path.parse().expect("path");
        match path.walk(value, 1) {
            Walk::Found(found) => Some(found.clone()),
            Walk::Null => Some(Value::Null),
            Walk::Missing { .. } => None,
        }
    }

    #[test]
    fn only_own_members_exist() {
        let value = json!({"a": [1, 2], "s": "text", "0": "zero", "n": null});
        for absent in ["r.__proto__", "r.constructor", "r.a.length", "r.s.length", "r.s[0]", "r.a[2]", "r.a['01']"] {
            assert_eq!(found(absent, &value), None, "{absent}");
        }
        assert_eq!(found("r.a[1]", &value), Some(json!(2)));
        assert_eq!(found("r.a['1']", &value), Some(json!(2)));
        assert_eq!(found("r[0]", &value), Some(json!("zero")));
        assert_eq!(found("r.__proto__", &json!({"__proto__": 1})), Some(json!(1)));
    }

    #[test]
    fn optional_members_guard_the_value_before_and_themselves() {
        let value = json!({"a": {"n": null}});
        assert_eq!(found("r.a?.x", &value), Some(Value::Null));
        assert_eq!(found("r.x?.y", &value), Some(Value::Null));
        assert_eq!(found("r.x?.y.z", &value), Some(Value::Null), "the whole path is cut short");
        assert_eq!(found("r.a.n?.y.z", &value), Some(Value::Null));
        assert_eq!(found("r.a.n.y", &value), None);
        assert_eq!(found("r?.a.x", &value), None, "only the neighbours of `?.` are guarded");
    }

    #[test]
    fn a_plain_member_of_an_absent_optional_one_is_missing() {
        let path: Path = "r.a?.x.y".parse().expect("path");
        assert!(matches!(path.walk(&json!({"a": {}}), 1), Walk::Missing { at: 3 }));
    }

    #[test]
    fn a_prefix_ends_before_the_given_segment() {
        let path: Path = "a.b?.['c d'][7]".parse().expect("path");
        assert_eq!(path.prefix(3), "a.b?.['c d']");
        assert_eq!(path.prefix(99), path.to_string());
    }

    proptest! {
        #[test]
        fn canonical_text_reads_back(
            root in "[a-z_$][a-zA-Z0-9_$]{0,8}",
            members in prop::collection::vec((any::<bool>(), prop_oneof![
                any::<u32>().prop_map(|index| Key::Index(index as usize)),
                any::<String>().prop_map(Key::Name),
                "[a-zA-Z0-9_$-]{1,8}".prop_map(Key::Name),
            ]), 0..20),
        ) {
            prop_assume!(!["true", "false", "null"].contains(&root.as_str()));
            let head = Segment { key: Key::Name(root), optional: false };
            let tail = members.into_iter().map(|(optional, key)| Segment { key, optional });
            let path = Path { segments: std::iter::once(head).chain(tail).collect() };
            prop_assert_eq!(path.to_string().parse::<Path>().expect("canonical text"), path);
        }
    }
}
