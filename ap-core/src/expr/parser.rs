//! The grammar inside `{{ … }}`: member paths and literals joined by `??`.
//!
//! ```text
//! token   = operand *( "??" operand )
//! operand = path / string / number / "true" / "false" / "null" / "[]" / "{}"
//! path    = root *( "." name / "?." name / [ "?." ] "[" ( string / digits ) "]" )
//! ```
//!
//! White space may stand between any two of these. `root` is a JavaScript identifier; `name` may also hold `-` and begin
//! with a digit. A string is single- or double-quoted with JSON's escapes and `\'`.

use serde_json::Value;

use super::{Key, MAX_INDEX_DIGITS, MAX_PATH_SEGMENTS, Path, Segment, TemplateErrorKind};

/// A parsed token: paths to try in order, then a default.
#[derive(Debug, PartialEq)]
pub(super) struct ParsedToken {
    /// The paths, in the order in which they are tried.
    pub(super) paths: Vec<Path>,
    /// What stands for a path that is missing or null; `None` if the last path must exist.
    pub(super) default: Option<Value>,
}

/// Parses what stands between `{{` and `}}`.
pub(super) fn parse_token(inner: &str) -> Result<ParsedToken, TemplateErrorKind> {
    let mut parser = Parser { source: inner, rest: inner };
    parser.skip_space();
    if parser.rest.is_empty() {
        return Err(TemplateErrorKind::Empty);
    }
    let mut token = ParsedToken { paths: Vec::new(), default: None };
    loop {
        let operand = parser.operand()?;
        parser.skip_space();
        let more = parser.eat("??");
        match operand {
            // Behind a literal that is not null nothing is ever read.
            _ if token.default.is_some() => {}
            Operand::Literal(Value::Null) if more => {}
            Operand::Literal(value) => token.default = Some(value),
            Operand::Path(path) => token.paths.push(path),
        }
        if !more {
            break;
        }
        parser.skip_space();
    }
    if parser.rest.is_empty() { Ok(token) } else { Err(parser.unexpected()) }
}

/// Parses one path with nothing but white space around it.
pub(super) fn parse_path(text: &str) -> Result<Path, TemplateErrorKind> {
    let mut token = parse_token(text)?;
    match (token.paths.pop(), token.paths.is_empty(), token.default) {
        (Some(path), true, None) => Ok(path),
        _ => Err(no_path(text)),
    }
}

/// Whether a name after a dot may hold `next`.
pub(super) fn is_member_char(next: char) -> bool {
    is_root_char(next) || next == '-'
}

fn is_root_char(next: char) -> bool {
    next.is_alphanumeric() || next == '_' || next == '$'
}

enum Operand {
    Literal(Value),
    Path(Path),
}

struct Parser<'a> {
    source: &'a str,
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn operand(&mut self) -> Result<Operand, TemplateErrorKind> {
        match self.rest.chars().next() {
            Some('\'' | '"') => Ok(Operand::Literal(Value::String(self.string()?))),
            Some('-' | '0'..='9') => self.number(),
            Some('[') => self.empty("[", "]", Value::Array(Vec::new())),
            Some('{') => self.empty("{", "}", Value::Object(serde_json::Map::new())),
            Some(next) if is_root_char(next) => match self.take_while(is_root_char) {
                "null" => Ok(Operand::Literal(Value::Null)),
                "true" => Ok(Operand::Literal(Value::Bool(true))),
                "false" => Ok(Operand::Literal(Value::Bool(false))),
                root => Ok(Operand::Path(self.path(root)?)),
            },
            Some(_) => Err(self.unexpected()),
            None => Err(TemplateErrorKind::Path { expected: "a path or a default after `??`" }),
        }
    }

    fn path(&mut self, root: &str) -> Result<Path, TemplateErrorKind> {
        let mut segments = vec![Segment { key: Key::Name(root.to_owned()), optional: false }];
        loop {
            self.skip_space();
            let optional = self.eat("?.");
            let dotted = optional || self.eat(".");
            self.skip_space();
            let key = if (optional || !dotted) && self.eat("[") {
                self.bracket()?
            } else if dotted {
                self.name()?
            } else {
                return Ok(Path { segments });
            };
            if segments.len() == MAX_PATH_SEGMENTS {
                return Err(TemplateErrorKind::PathDepth);
            }
            segments.push(Segment { key, optional });
        }
    }

    fn name(&mut self) -> Result<Key, TemplateErrorKind> {
        match self.take_while(is_member_char) {
            "" if self.rest.is_empty() || self.rest.starts_with('.') || self.rest.starts_with('?') => {
                Err(TemplateErrorKind::Path { expected: "a name after `.`" })
            }
            "" => Err(self.unexpected()),
            name => Ok(Key::Name(name.to_owned())),
        }
    }

    fn bracket(&mut self) -> Result<Key, TemplateErrorKind> {
        self.skip_space();
        let key = match self.rest.chars().next() {
            Some('\'' | '"') => Key::Name(self.string()?),
            Some('0'..='9') => {
                let digits = self.take_while(|next| next.is_ascii_digit());
                if digits.len() > MAX_INDEX_DIGITS {
                    return Err(TemplateErrorKind::Index);
                }
                Key::Index(digits.parse().map_err(|_| TemplateErrorKind::Index)?)
            }
            Some(_) => return Err(self.unexpected()),
            None => return Err(TemplateErrorKind::Path { expected: "an index or a quoted name after `[`" }),
        };
        self.skip_space();
        match self.eat("]") {
            true => Ok(key),
            false if self.rest.is_empty() => Err(TemplateErrorKind::Path { expected: "`]`" }),
            false => Err(self.unexpected()),
        }
    }

    fn empty(&mut self, open: &str, close: &str, value: Value) -> Result<Operand, TemplateErrorKind> {
        let before = self.rest;
        self.eat(open);
        self.skip_space();
        if self.eat(close) {
            return Ok(Operand::Literal(value));
        }
        self.rest = before;
        Err(self.unexpected())
    }

    fn number(&mut self) -> Result<Operand, TemplateErrorKind> {
        let text = self.take_while(|next| next.is_ascii_digit() || matches!(next, '+' | '-' | '.' | 'e' | 'E'));
        let number = serde_json::from_str::<serde_json::Number>(text).map_err(|_| self.unexpected())?;
        Ok(Operand::Literal(Value::Number(number)))
    }

    /// Reads a quoted string; the scanner has made sure that it is closed, `FromStr` of a path has not.
    fn string(&mut self) -> Result<String, TemplateErrorKind> {
        let mut chars = self.rest.chars();
        let quote = chars.next();
        let mut text = String::new();
        while let Some(next) = chars.next() {
            if Some(next) == quote {
                self.rest = chars.as_str();
                return Ok(text);
            }
            text.push(if next == '\\' { escape(&mut chars)? } else { next });
        }
        Err(TemplateErrorKind::Unclosed)
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn eat(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|next| !accept(next)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }

    /// What to say of text that no rule of the grammar expects here.
    fn unexpected(&self) -> TemplateErrorKind {
        if self.rest.starts_with("{{") {
            return TemplateErrorKind::NestedToken;
        }
        no_path(self.source)
    }
}

/// Reads what follows a backslash.
fn escape(chars: &mut std::str::Chars<'_>) -> Result<char, TemplateErrorKind> {
    match chars.next() {
        Some(plain @ ('\'' | '"' | '\\' | '/')) => Ok(plain),
        Some('b') => Ok('\u{8}'),
        Some('f') => Ok('\u{c}'),
        Some('n') => Ok('\n'),
        Some('r') => Ok('\r'),
        Some('t') => Ok('\t'),
        Some('u') => {
            let first = hex4(chars)?;
            let units = match first {
                0xD800..=0xDBFF if chars.next() == Some('\\') && chars.next() == Some('u') => vec![first, hex4(chars)?],
                _ => vec![first],
            };
            let mut decoded = char::decode_utf16(units);
            decoded.next().and_then(Result::ok).ok_or(TemplateErrorKind::Escape)
        }
        _ => Err(TemplateErrorKind::Escape),
    }
}

fn hex4(chars: &mut std::str::Chars<'_>) -> Result<u16, TemplateErrorKind> {
    let mut unit = 0;
    for _ in 0..4 {
        let digit = chars.next().and_then(|next| next.to_digit(16)).ok_or(TemplateErrorKind::Escape)?;
        unit = (unit << 4) | digit;
    }
    u16::try_from(unit).map_err(|_| TemplateErrorKind::Escape)
}

fn no_path(source: &str) -> TemplateErrorKind {
    TemplateErrorKind::Expression { excerpt: excerpt(source), problem: "it is no member path" }
}

/// The beginning of a token, for a message.
pub(super) fn excerpt(token: &str) -> String {
    let token = token.trim_ascii();
    let mut text: String =
        token.chars().take(MAX_EXCERPT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.len() < token.len() {
        text.push('…');
    }
    text
}

/// Longest part of a token shown in a message. Unit: characters.
const MAX_EXCERPT_CHARS: usize = 60;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn path(text: &str) -> String {
        parse_path(text).map(|path| path.to_string()).expect("a path")
    }

    fn rule(text: &str) -> &'static str {
        parse_token(text).expect_err("malformed").rule()
    }

    #[test]
    fn paths_of_every_form_parse() {
        for (text, canonical) in [
            ("item", "item"),
            ("$now", "$now"),
            ("$run.id", "$run.id"),
            ("trigger.headers.x-user-id", "trigger.headers.x-user-id"),
            ("a['b'][\"c\"][0]", "a.b.c[0]"),
            ("a?.b?.[0]?.['c d']", "a?.b?.[0]?.['c d']"),
            (" a\n.b [ 3 ] ", "a.b[3]"),
            ("a.b.0", "a.b.0"),
            ("größe.länge", "größe.länge"),
            ("a['it\\'s']", "a['it\\'s']"),
            ("a['\\u00e9\\ud83d\\ude00']", "a['é😀']"),
            ("a['']", "a['']"),
            ("nullable.truex", "nullable.truex"),
        ] {
            assert_eq!(path(text), canonical, "{text}");
        }
    }

    #[test]
    fn defaults_parse() {
        for (text, default) in [
            ("a ?? 'x'", Some(json!("x"))),
            ("a??\"x\"", Some(json!("x"))),
            ("a ?? -1.5e3", Some(json!(-1500.0))),
            ("a ?? 7", Some(json!(7))),
            ("a ?? true", Some(json!(true))),
            ("a ?? null", Some(Value::Null)),
            ("a ?? []", Some(json!([]))),
            ("a ?? { }", Some(json!({}))),
            ("a ?? b ?? 'x'", Some(json!("x"))),
            ("a ?? null ?? b", None),
            ("a ?? 1 ?? b", Some(json!(1))),
            ("a ?? 1 ?? 2", Some(json!(1))),
        ] {
            assert_eq!(parse_token(text).expect(text).default, default, "{text}");
        }
    }

    #[test]
    fn what_javascript_computes_is_no_path() {
        for text in [
            "steps.a.output.map(r => r.id)",
            "a + 1",
            "a > 5",
            "a.b - c",
            "a ? b : c",
            "a[b]",
            "a[-1]",
            "a['x' + y]",
            "a && b",
            "!a",
            "(a)",
            "[1]",
            "{a: 1}",
            "`x`",
            "a b",
            "'x'.length",
            "true.x",
            "1-2",
            "1e999",
            "0x10",
            "a?.(b)",
            "a || 'x'",
            "Math.max(1,2)",
        ] {
            assert_eq!(rule(text), "template.expression", "{text}");
        }
    }

    #[test]
    fn broken_tokens_name_their_rule() {
        for (text, expected) in [
            ("", "template.empty"),
            (" \t\n", "template.empty"),
            ("a.", "template.path"),
            ("a..b", "template.path"),
            ("a?.", "template.path"),
            ("a[", "template.path"),
            ("a[0", "template.path"),
            ("a ??", "template.path"),
            ("a['\\x']", "template.escape"),
            ("a['\\u12']", "template.escape"),
            ("a['\\ud800']", "template.escape"),
            ("a['\\ud800\\u0041']", "template.escape"),
            ("a {{ b }}", "template.nested"),
            ("{{ b }}", "template.nested"),
            ("a['b", "template.unclosed"),
        ] {
            assert_eq!(rule(text), expected, "{text}");
        }
    }

    #[test]
    fn an_index_has_at_most_fifteen_digits() {
        assert_eq!(path("a[999999999999999]"), "a[999999999999999]");
        assert_eq!(path("a[99999999999999]"), "a[99999999999999]");
        assert_eq!(rule("a[1000000000000000]"), "template.index");
    }

    #[test]
    fn a_path_has_at_most_64_segments() {
        let of = |segments: usize| vec!["a"; segments].join(".");
        assert_eq!(parse_path(&of(MAX_PATH_SEGMENTS - 1)).expect("below").segments.len(), 63);
        assert_eq!(parse_path(&of(MAX_PATH_SEGMENTS)).expect("at").segments.len(), 64);
        assert_eq!(rule(&of(MAX_PATH_SEGMENTS + 1)), "template.path_depth");
    }

    #[test]
    fn an_excerpt_is_short_and_one_line() {
        let TemplateErrorKind::Expression { excerpt, .. } =
            parse_token(&format!("a\n+ {}", "é".repeat(500))).expect_err("js")
        else {
            panic!("another kind")
        };
        assert_eq!(excerpt.chars().count(), MAX_EXCERPT_CHARS + 1);
        assert!(excerpt.starts_with("a + é") && excerpt.ends_with('…'));
    }
}
