//! Parsing JSON from outside under limits, and RFC 6901 pointers.

use std::{borrow::Cow, cell::RefCell, fmt};

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::flow::Diagnostic;

/// What [`parse`] accepts.
///
/// # Examples
/// ```
/// use ap_core::json::{JsonError, JsonLimits, parse};
/// let refused = parse(br#"{"a": {"b": 1, "b": 2}}"#, &JsonLimits::flow());
/// assert!(matches!(refused, Err(JsonError::DuplicateKey { pointer, .. }) if pointer == "/a/b"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonLimits {
    max_bytes: usize,
    max_depth: usize,
    max_values: usize,
    duplicate_keys: DuplicateKeys,
}

/// What a key that stands twice in one object means. RFC 8259 §4 leaves it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicateKeys {
    /// The last value counts, as in JavaScript.
    LastWins,
    /// An error, since two readers could understand the text differently.
    Refuse,
}

/// A depth outside the range [`JsonLimits::with_max_depth`] accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deepest nesting of JSON must be 1 to {MAX_DEPTH}, not {0}")]
pub struct DepthRangeError(pub usize);

/// Why a text was not accepted as JSON. For its sender.
///
/// Lines and columns count from 1, columns in bytes. Pointers follow RFC 6901 and name at most 1 KiB of whole segments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Arrays and objects nest too deep.
    #[error("line {line}, column {column}: JSON nests deeper than {limit} levels")]
    Depth {
        /// The array or object that is one too deep.
        pointer: String,
        /// Line of it.
        line: usize,
        /// Column of it.
        column: usize,
        /// The limit.
        limit: usize,
    },
    /// A key stands twice in one object.
    #[error("line {line}, column {column}: the key at `{pointer}` stands twice")]
    DuplicateKey {
        /// The member.
        pointer: String,
        /// Line of the second.
        line: usize,
        /// Column of the second.
        column: usize,
    },
    /// A key that `serde_json` gives a meaning of its own: [`RESERVED_KEYS`].
    #[error("line {line}, column {column}: the key at `{pointer}` is reserved: none begins with `{RESERVED_KEYS}`")]
    ReservedKey {
        /// The member.
        pointer: String,
        /// Line of it.
        line: usize,
        /// Column of it.
        column: usize,
    },
    /// The text is too long.
    #[error("the text is larger than {limit} bytes")]
    Size {
        /// The limit.
        limit: usize,
    },
    /// The text is not JSON (RFC 8259) in UTF-8.
    #[error("line {line}, column {column}: {reason}")]
    Syntax {
        /// The innermost array, object or member that was begun.
        pointer: String,
        /// Line of the flaw.
        line: usize,
        /// Column of the flaw.
        column: usize,
        /// What is wrong; holds nothing of the text.
        reason: String,
    },
    /// Arrays and objects hold too many values together.
    #[error("line {line}, column {column}: JSON holds more than {limit} values")]
    Values {
        /// The value that is one too many.
        pointer: String,
        /// Line of it.
        line: usize,
        /// Column of it.
        column: usize,
        /// The limit.
        limit: usize,
    },
}

/// Parses one JSON text, checking every limit on the way, before anything beyond it is built.
///
/// Numbers become what `serde_json` makes of them: `u64` or `i64` where they fit, else `f64`. White space may surround
/// the text; a byte order mark may not.
///
/// # Errors
/// [`JsonError`]: the first flaw.
///
/// # Security
/// Time and memory are linear in `bytes`; the stack is bounded by the depth limit.
pub fn parse(bytes: &[u8], limits: &JsonLimits) -> Result<Value, JsonError> {
    if bytes.len() > limits.max_bytes {
        return Err(JsonError::Size { limit: limits.max_bytes });
    }
    let progress = RefCell::new(Progress { values_left: limits.max_values, path: Vec::new(), violation: None });
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = ValueSeed { limits, progress: &progress, depth: 0 };
    let parsed = seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    parsed.map_err(|error| progress.into_inner().into_error(&error, limits))
}

/// Escapes one pointer segment (RFC 6901 §3): `~` as `~0`, `/` as `~1`.
#[must_use]
pub fn pointer_escape(segment: &str) -> Cow<'_, str> {
    if segment.contains(['~', '/']) {
        Cow::Owned(segment.replace('~', "~0").replace('/', "~1"))
    } else {
        Cow::Borrowed(segment)
    }
}

/// Appends one segment, a key or an index in decimal, to a pointer.
pub fn push_pointer(pointer: &mut String, segment: &str) {
    pointer.push('/');
    pointer.push_str(&pointer_escape(segment));
}

impl JsonLimits {
    /// For a flow: 1 MiB, 64 levels, 100,000 values, duplicate keys refused.
    #[must_use]
    pub const fn flow() -> Self {
        Self { max_bytes: 1 << 20, max_depth: 64, max_values: 100_000, duplicate_keys: DuplicateKeys::Refuse }
    }

    /// For the body of a request or response: 10 MiB, 64 levels, 1,000,000 values, the last of duplicate keys wins.
    #[must_use]
    pub const fn payload() -> Self {
        Self { max_bytes: 10 << 20, max_depth: 64, max_values: 1_000_000, duplicate_keys: DuplicateKeys::LastWins }
    }

    /// For a text whose size is bounded already: [`MAX_DEPTH`] levels, the last of duplicate keys wins.
    #[must_use]
    pub const fn deep() -> Self {
        Self {
            max_bytes: usize::MAX,
            max_depth: MAX_DEPTH,
            max_values: usize::MAX,
            duplicate_keys: DuplicateKeys::LastWins,
        }
    }

    /// Sets the longest text. Unit: bytes.
    #[must_use]
    pub const fn with_max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Sets the deepest nesting of arrays and objects; a scalar has depth 0. Default: 64. Accepted: 1 to [`MAX_DEPTH`].
    ///
    /// # Errors
    /// [`DepthRangeError`] outside the accepted range.
    pub const fn with_max_depth(mut self, max_depth: usize) -> Result<Self, DepthRangeError> {
        if max_depth == 0 || max_depth > MAX_DEPTH {
            return Err(DepthRangeError(max_depth));
        }
        self.max_depth = max_depth;
        Ok(self)
    }

    /// Sets how many values arrays and objects may hold together, themselves included.
    #[must_use]
    pub const fn with_max_values(mut self, max_values: usize) -> Self {
        self.max_values = max_values;
        self
    }

    /// Sets what a key that stands twice means.
    #[must_use]
    pub const fn with_duplicate_keys(mut self, duplicate_keys: DuplicateKeys) -> Self {
        self.duplicate_keys = duplicate_keys;
        self
    }

    /// Longest text. Unit: bytes.
    #[must_use]
    pub const fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Deepest nesting of arrays and objects.
    #[must_use]
    pub const fn max_depth(&self) -> usize {
        self.max_depth
    }
}

impl JsonError {
    /// Where in the value, as an RFC 6901 pointer; empty for the whole text.
    #[must_use]
    pub fn pointer(&self) -> &str {
        match self {
            Self::Depth { pointer, .. }
            | Self::DuplicateKey { pointer, .. }
            | Self::ReservedKey { pointer, .. }
            | Self::Syntax { pointer, .. }
            | Self::Values { pointer, .. } => pointer,
            Self::Size { .. } => "",
        }
    }

    /// Stable id of the rule, such as `json.depth`.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Depth { .. } => "json.depth",
            Self::DuplicateKey { .. } => "json.duplicate",
            Self::ReservedKey { .. } => "json.reserved",
            Self::Size { .. } => "json.size",
            Self::Syntax { .. } => "json.syntax",
            Self::Values { .. } => "json.values",
        }
    }

    /// What to do.
    #[must_use]
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Depth { .. } => "nest arrays and objects less deep",
            Self::DuplicateKey { .. } => "keep one of the two members",
            Self::ReservedKey { .. } => "give the member another name",
            Self::Size { .. } => "send less, or split it",
            Self::Syntax { .. } => "write JSON (RFC 8259) in UTF-8",
            Self::Values { .. } => "send fewer values, or split them",
        }
    }

    /// The same finding as a diagnostic.
    #[must_use]
    pub fn to_diagnostic(&self) -> Diagnostic {
        Diagnostic::error(self.pointer(), self.rule(), self.to_string(), self.fix())
    }
}

/// What the nested visitors share.
struct Progress {
    values_left: usize,
    /// Segments from the flaw outwards, gathered while an error travels up.
    path: Vec<String>,
    violation: Option<Violation>,
}

#[derive(Clone, Copy)]
enum Violation {
    Depth,
    DuplicateKey,
    ReservedKey,
    Values,
}

impl Progress {
    fn into_error(self, error: &serde_json::Error, limits: &JsonLimits) -> JsonError {
        let (line, column) = (error.line(), error.column());
        let mut pointer = String::new();
        for segment in self.path.iter().rev() {
            if pointer.len() + segment.len() >= MAX_POINTER_BYTES {
                break;
            }
            push_pointer(&mut pointer, segment);
        }
        match self.violation {
            Some(Violation::Depth) => JsonError::Depth { pointer, line, column, limit: limits.max_depth },
            Some(Violation::DuplicateKey) => JsonError::DuplicateKey { pointer, line, column },
            Some(Violation::ReservedKey) => JsonError::ReservedKey { pointer, line, column },
            Some(Violation::Values) => JsonError::Values { pointer, line, column, limit: limits.max_values },
            None => {
                let text = error.to_string();
                let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason).to_owned();
                JsonError::Syntax { pointer, line, column, reason }
            }
        }
    }
}

/// Builds one value that stands inside `depth` arrays and objects.
#[derive(Clone, Copy)]
struct ValueSeed<'p> {
    limits: &'p JsonLimits,
    progress: &'p RefCell<Progress>,
    depth: usize,
}

impl ValueSeed<'_> {
    /// The seed of what stands inside this value.
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == self.limits.max_depth {
            return Err(self.violation(Violation::Depth));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn violation<E: serde::de::Error>(self, violation: Violation) -> E {
        self.progress.borrow_mut().violation = Some(violation);
        E::custom("limit")
    }

    /// Notes where an error that travels up came through.
    fn through<E>(self, segment: String, error: E) -> E {
        self.progress.borrow_mut().path.push(segment);
        error
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.progress.borrow().values_left.checked_sub(1);
        let Some(left) = left else {
            return Err(self.violation(Violation::Values));
        };
        self.progress.borrow_mut().values_left = left;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut array = Vec::new();
        loop {
            match items.next_element_seed(inner) {
                Ok(Some(item)) => array.push(item),
                Ok(None) => return Ok(Value::Array(array)),
                Err(error) => return Err(self.through(array.len().to_string(), error)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if self.limits.duplicate_keys == DuplicateKeys::Refuse && object.contains_key(&key) {
                return Err(self.through(key, self.violation(Violation::DuplicateKey)));
            }
            if key.starts_with(RESERVED_KEYS) {
                return Err(self.through(key, self.violation(Violation::ReservedKey)));
            }
            match members.next_value_seed(inner) {
                Ok(value) => drop(object.insert(key, value)),
                Err(error) => return Err(self.through(key, error)),
            }
        }
        Ok(Value::Object(object))
    }
}

/// How the keys begin by which `serde_json` tells itself of numbers and of JSON text, in the features `arbitrary_precision` and
/// `raw_value`. It takes them from outside as well: an object with such a key would be another value once it is written and read
/// back, or could not be read at all, and whether a host has these features is not ours to say. No such object is accepted. With
/// `arbitrary_precision`, numbers are such objects: a host cannot have that one.
pub const RESERVED_KEYS: &str = "$serde_json::private::";
/// Deepest nesting that [`JsonLimits`] can allow.
pub const MAX_DEPTH: usize = 100;
/// Longest pointer in an error. Unit: bytes, before escaping.
const MAX_POINTER_BYTES: usize = 1024;

/// Whether `value` can be kept: stored as JSON text and read back.
///
/// At most [`MAX_STORED_DEPTH`] levels and [`MAX_STORED_BYTES`], and none of [`RESERVED_KEYS`].
///
/// # Errors
/// Says which limit is exceeded, as the end of a sentence.
pub fn check_stored(value: &Value) -> Result<(), StoredLimit> {
    check_depth(value)?;
    if size_of(value) > MAX_STORED_BYTES { Err(StoredLimit::Size) } else { Ok(()) }
}

/// As [`check_stored`], whatever its size.
///
/// # Errors
/// As the end of a sentence.
pub fn check_depth(value: &Value) -> Result<(), StoredLimit> {
    check_levels(value, MAX_STORED_DEPTH)
}

/// As [`check_stored`], for the output of a step: one that is large is kept as a file, up to [`MAX_OUTPUT_BYTES`].
///
/// # Errors
/// Says which limit is exceeded, as the end of a sentence.
pub fn check_output(value: &Value) -> Result<(), StoredLimit> {
    check_depth(value)?;
    if size_of(value) > MAX_OUTPUT_BYTES { Err(StoredLimit::Output) } else { Ok(()) }
}

/// Largest output of a step, by [`size_of`]. Unit: bytes.
pub const MAX_OUTPUT_BYTES: u64 = 48 << 20;
/// Deepest nesting of arrays and objects in a value that is kept: deeper ones could be written and not be read back.
pub const MAX_STORED_DEPTH: usize = 100;
/// Largest value that is kept, by [`size_of`]. Unit: bytes. Escaping can make JSON text six times as large.
pub const MAX_STORED_BYTES: u64 = 10 << 20;

/// Why a value cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredLimit {
    /// Too deep.
    #[error("is nested deeper than {MAX_STORED_DEPTH} levels")]
    Depth,
    /// Too large for an output.
    #[error("is larger than {MAX_OUTPUT_BYTES} bytes")]
    Output,
    /// One of [`RESERVED_KEYS`].
    #[error("has a member whose name begins with `{RESERVED_KEYS}`, which is reserved")]
    ReservedKey,
    /// Too large.
    #[error("is larger than {MAX_STORED_BYTES} bytes")]
    Size,
}

/// Roughly the bytes of the JSON text of `value`, escapes not counted. The value must not nest deeper than
/// [`MAX_STORED_DEPTH`] by much: it is walked recursively.
#[must_use]
pub fn size_of(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text.len() as u64 + 2,
        Value::Array(items) => items.iter().map(|item| size_of(item) + 1).sum::<u64>() + 2,
        Value::Object(members) => {
            members.iter().map(|(key, member)| key.len() as u64 + size_of(member) + 4).sum::<u64>() + 2
        }
    }
}

/// Whether arrays and objects in `value` nest no deeper than `levels`, with no reserved key. Looks no deeper than that.
fn check_levels(value: &Value, levels: usize) -> Result<(), StoredLimit> {
    match (value, levels.checked_sub(1)) {
        (Value::Array(_) | Value::Object(_), None) => Err(StoredLimit::Depth),
        (Value::Array(items), Some(left)) => items.iter().try_for_each(|item| check_levels(item, left)),
        (Value::Object(members), Some(left)) => members.iter().try_for_each(|(key, member)| {
            if key.starts_with(RESERVED_KEYS) { Err(StoredLimit::ReservedKey) } else { check_levels(member, left) }
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// `serde_json` reads them as JSON text or as a number wherever its features are on: what was checked is not what is stored.
    #[test]
    fn keys_that_the_reader_gives_a_meaning_are_refused() {
        for name in ["RawValue", "Number"] {
            let text = format!(r#"{{"a":[{{"\u0024serde_json::private::{name}":"[1"}}]}}"#);
            let error = parse(text.as_bytes(), &JsonLimits::payload()).unwrap_err();
            assert!(
                matches!(&error, JsonError::ReservedKey { pointer, .. } if pointer.starts_with("/a/0/$")),
                "{error}"
            );
            let value = json!({"a": [{format!("{RESERVED_KEYS}{name}"): "[1"}]});
            for checked in [check_stored(&value), check_depth(&value), check_output(&value)] {
                assert_eq!(checked, Err(StoredLimit::ReservedKey));
            }
        }
        let near = json!({"$serde_json": {"private": 1}, "serde_json::private::RawValue": 1});
        assert_eq!(parse(near.to_string().as_bytes(), &JsonLimits::payload()), Ok(near));
    }

    #[test]
    fn a_number_survives_being_written_and_read_again() {
        // Found by fuzzing: read to the nearest float but one, and written out, it came back as another number.
        let digits = "6".repeat(45);
        let number = parse(digits.as_bytes(), &JsonLimits::payload()).expect("a number");
        assert_eq!(parse(number.to_string().as_bytes(), &JsonLimits::payload()), Ok(number));
    }

    fn flow(text: &str) -> Result<Value, JsonError> {
        parse(text.as_bytes(), &JsonLimits::flow())
    }

    fn nested(depth: usize) -> String {
        format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn every_kind_of_value_parses() {
        let text = r#" {"a": [null, true, -1, 18446744073709551615, 1.50, 1e3, "\u00e9\ud83d\ude00"], "b": {}} "#;
        assert_eq!(flow(text), serde_json::from_str(text).map_err(|_| unreachable!()));
    }

    #[test]
    fn duplicate_keys_are_refused_or_the_last_wins() {
        let text = "{\"a/b\":\n [{\"x\": 1, \"y\": 2, \"x\": 3}]}";
        let refused = flow(text).expect_err("duplicate");
        assert!(
            matches!(&refused, JsonError::DuplicateKey { pointer, line: 2, .. } if pointer == "/a~1b/0/x"),
            "{refused}"
        );
        assert_eq!(parse(text.as_bytes(), &JsonLimits::payload()), Ok(json!({"a/b": [{"x": 3, "y": 2}]})));
    }

    #[test]
    fn escaped_spellings_of_a_key_are_duplicates() {
        assert!(matches!(flow(r#"{"a": 1, "\u0061": 2}"#), Err(JsonError::DuplicateKey { .. })));
    }

    #[test]
    fn syntax_errors_name_line_column_and_pointer() {
        let error = flow("{\"a\": [1,\n 2 3]}").expect_err("syntax");
        let JsonError::Syntax { pointer, line, column, reason } = &error else { panic!("{error:?}") };
        assert_eq!((pointer.as_str(), *line, *column), ("/a/2", 2, 4));
        assert_eq!(reason, "expected `,` or `]`");
        assert_eq!(error.to_string(), "line 2, column 4: expected `,` or `]`");
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "NaN",
            "Infinity",
            "-",
            "01",
            "1 2",
            "'a'",
            "\u{feff}1",
            "\"\\ud800\"",
            "1e999",
            "//",
            "tru",
        ] {
            assert!(matches!(flow(text), Err(JsonError::Syntax { .. })), "{text}");
        }
        assert!(matches!(parse(b"\"\xff\"", &JsonLimits::flow()), Err(JsonError::Syntax { .. })));
    }

    #[test]
    fn nesting_stops_at_the_limit() {
        assert!(flow(&nested(63)).is_ok());
        assert!(flow(&nested(64)).is_ok());
        let error = flow(&nested(65)).expect_err("too deep");
        assert_eq!(error, JsonError::Depth { pointer: "/0".repeat(64), line: 1, column: 65, limit: 64 });
        assert!(matches!(flow(&"[{\"a\":".repeat(100_000)), Err(JsonError::Depth { .. })));
    }

    #[test]
    fn the_depth_limit_is_1_to_100() {
        assert_eq!(JsonLimits::flow().with_max_depth(0), Err(DepthRangeError(0)));
        assert_eq!(JsonLimits::flow().with_max_depth(101), Err(DepthRangeError(101)));
        for depth in [1, 99, 100] {
            let limits = JsonLimits::flow().with_max_depth(depth).expect("accepted");
            assert!(parse(nested(depth).as_bytes(), &limits).is_ok());
            assert!(matches!(parse(nested(depth + 1).as_bytes(), &limits), Err(JsonError::Depth { .. })));
        }
    }

    #[test]
    fn size_stops_at_the_limit() {
        let of = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
        assert!(flow(&of((1 << 20) - 1)).is_ok());
        assert!(flow(&of(1 << 20)).is_ok());
        assert_eq!(flow(&of((1 << 20) + 1)), Err(JsonError::Size { limit: 1 << 20 }));
        let ten = JsonLimits::payload().max_bytes();
        assert!(parse(of(ten).as_bytes(), &JsonLimits::payload()).is_ok());
        assert_eq!(parse(of(ten + 1).as_bytes(), &JsonLimits::payload()), Err(JsonError::Size { limit: ten }));
    }

    #[test]
    fn values_stop_at_the_limit() {
        let limits = JsonLimits::payload().with_max_values(4);
        assert!(parse(b"[1,{}]", &limits).is_ok());
        assert!(parse(b"[1,[2]]", &limits).is_ok());
        let error = parse(b"[1,[2,3]]", &limits).expect_err("too many");
        assert!(matches!(error, JsonError::Values { pointer, limit: 4, .. } if pointer == "/1/1"));
    }

    #[test]
    fn the_pointer_of_an_error_stays_short() {
        let text = format!("{{\"a\": {{\"{}\": x", "k".repeat(5000));
        assert_eq!(flow(&text).expect_err("syntax").pointer(), "/a");
    }

    #[test]
    fn an_error_becomes_a_diagnostic() {
        let diagnostic = flow("{\"a\":1,\"a\":2}").expect_err("duplicate").to_diagnostic();
        assert_eq!((diagnostic.pointer.as_str(), diagnostic.rule), ("/a", "json.duplicate"));
    }

    #[test]
    fn pointer_segments_are_escaped() {
        let mut pointer = String::from("/x");
        push_pointer(&mut pointer, "a/b~c");
        push_pointer(&mut pointer, "");
        assert_eq!(pointer, "/x/a~1b~0c/");
        assert!(matches!(pointer_escape("plain"), Cow::Borrowed("plain")));
    }

    proptest! {
        #[test]
        fn no_bytes_make_parse_panic(bytes in any::<Vec<u8>>()) {
            drop(parse(&bytes, &JsonLimits::flow()));
        }

        #[test]
        fn agrees_with_serde_json(text in r#"[\[\]{}",:0-9a-c. \\-]{0,24}"#) {
            let ours = parse(text.as_bytes(), &JsonLimits::payload()).ok();
            prop_assert_eq!(ours, serde_json::from_str::<Value>(&text).ok());
        }

        #[test]
        fn pointers_find_what_they_name(keys in prop::collection::vec(any::<String>(), 0..5)) {
            let mut pointer = String::new();
            keys.iter().for_each(|key| push_pointer(&mut pointer, key));
            let value = keys.iter().rev().fold(json!(7), |inner, key| json!({key: inner}));
            prop_assert_eq!(value.pointer(&pointer), Some(&json!(7)));
        }
    }

    #[test]
    fn depth_is_counted_in_levels_of_arrays_and_objects() {
        let value = serde_json::json!([{ "a": [1] }]);
        assert_eq!(check_levels(&value, 2), Err(StoredLimit::Depth));
        assert_eq!(check_levels(&value, 3), Ok(()));
        assert_eq!(check_levels(&json!(1), 0), Ok(()));
        assert_eq!(check_levels(&json!([]), 0), Err(StoredLimit::Depth));
    }

    #[test]
    fn values_are_kept_up_to_the_limits() {
        let nested = |levels| (0..levels).fold(serde_json::json!(1), |inner, _| serde_json::json!([inner]));
        assert_eq!(check_stored(&nested(MAX_STORED_DEPTH)), Ok(()));
        assert_eq!(check_stored(&nested(MAX_STORED_DEPTH + 1)), Err(StoredLimit::Depth));
        let text = |bytes: u64| Value::from("x".repeat(usize::try_from(bytes).expect("fits")));
        assert_eq!(check_stored(&text(MAX_STORED_BYTES - 2)), Ok(()));
        assert_eq!(check_stored(&text(MAX_STORED_BYTES - 1)), Err(StoredLimit::Size));
    }
}
