//! What a script reads: its free names, and the members behind them that are written out.
//!
//! Names are told apart as the language does it: a parameter of a function, and what is declared in a block, hides what
//! is outside of the same name; keys of objects and members behind a dot are no names. The rules need no grammar of
//! statements, so three things are taken for wider than they are: a name that is declared anywhere in a block is that
//! block's from its beginning on, one in the head of a `for` is that of the whole loop, and the value of a computed key in
//! a pattern counts as part of the pattern. Text is never searched: what a string, a comment or a regular expression
//! says reads nothing.

use std::collections::{HashMap, HashSet};

use super::{
    super::{Key, MAX_INDEX_DIGITS, MAX_PATH_SEGMENTS, Path, Segment, TemplateErrorKind, parser::excerpt},
    lexer::{Bracket, Kind, Lexer, Token},
};

/// One place where a script reads something from outside.
#[derive(Debug, PartialEq)]
pub(in crate::expr) struct Read {
    /// As far as it is written out; a method that is called on it does not belong to it.
    pub(in crate::expr) path: Path,
    /// Whether `??` or `||` stands right behind it.
    pub(in crate::expr) guarded: bool,
}

/// Finds what `source` reads, in the order of the text.
pub(super) fn scan(source: &str) -> Result<Vec<Read>, TemplateErrorKind> {
    let refuse = |problem| TemplateErrorKind::Expression { excerpt: excerpt(source), problem };
    let tokens = tokens(source)?;
    if tokens.list.is_empty() {
        return Err(TemplateErrorKind::Empty);
    }
    if !tokens.matched {
        return Err(refuse("a bracket has no partner"));
    }
    let mut depth = 0_usize;
    for (index, token) in tokens.list.iter().enumerate() {
        match token.kind {
            Kind::Open(Bracket::Brace) if tokens.is(index + 1, "{") => return Err(TemplateErrorKind::NestedToken),
            Kind::Open(_) => depth += 1,
            Kind::Close(_) => depth = depth.saturating_sub(1),
            Kind::Op if tokens.text(index) == ";" && depth == 0 => {
                return Err(refuse("it is more than one expression"));
            }
            Kind::Op if tokens.text(index) == "\\" => return Err(refuse("a name holds an escape")),
            _ => {}
        }
    }
    let scopes = Scopes::find(&tokens);
    Ok(Walk { tokens: &tokens, scopes, frames: Vec::new(), bound: HashMap::new(), reads: Vec::new() }.run())
}

/// The tokens of a script, with the partner of every bracket.
struct Tokens<'a> {
    source: &'a str,
    list: Vec<Token>,
    partner: Vec<usize>,
    matched: bool,
}

fn tokens(source: &str) -> Result<Tokens<'_>, TemplateErrorKind> {
    let mut lexer = Lexer::new(source);
    let (mut list, mut partner, mut open) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(token) = lexer.next().map_err(|_| TemplateErrorKind::Unclosed)? {
        let index = list.len();
        list.push(token);
        partner.push(index);
        match token.kind {
            Kind::Open(_) => open.push(index),
            Kind::Close(_) => {
                if let Some(opened) = open.pop() {
                    set(&mut partner, opened, index);
                    set(&mut partner, index, opened);
                }
            }
            _ => {}
        }
    }
    // The lexer also stops before a `}}` that closes nothing.
    let matched = lexer.is_matched() && lexer.at() == source.len();
    Ok(Tokens { source, list, partner, matched })
}

fn set(list: &mut [usize], index: usize, value: usize) {
    if let Some(slot) = list.get_mut(index) {
        *slot = value;
    }
}

impl<'a> Tokens<'a> {
    fn kind(&self, index: usize) -> Option<Kind> {
        self.list.get(index).map(|token| token.kind)
    }

    fn text(&self, index: usize) -> &'a str {
        self.list.get(index).map_or("", |token| token.text(self.source))
    }

    /// Whether the token is this sign or bracket.
    fn is(&self, index: usize, sign: &str) -> bool {
        matches!(self.kind(index), Some(Kind::Op | Kind::Open(_) | Kind::Close(_))) && self.text(index) == sign
    }

    fn opens(&self, index: usize, bracket: Bracket) -> bool {
        self.kind(index) == Some(Kind::Open(bracket))
    }

    fn closes(&self, index: usize, bracket: Bracket) -> bool {
        self.kind(index) == Some(Kind::Close(bracket))
    }

    fn partner(&self, index: usize) -> usize {
        self.partner.get(index).copied().unwrap_or(index)
    }

    /// A name that is no word of the language.
    fn name(&self, index: usize) -> Option<&'a str> {
        let name = (self.kind(index)? == Kind::Name).then(|| self.text(index))?;
        (!WORDS.contains(&name)).then_some(name)
    }

    fn word(&self, index: usize) -> &'a str {
        if self.kind(index) == Some(Kind::Name) { self.text(index) } else { "" }
    }

    fn before(&self, index: usize) -> Option<usize> {
        index.checked_sub(1)
    }
}

/// A part of the text in which names are bound.
#[derive(Debug, Default)]
struct Scope<'a> {
    names: Vec<&'a str>,
    /// The bracket with which it ends; `None` if it ends with the expression it is.
    end: Option<usize>,
}

/// Where names are bound, by the token with which that begins.
struct Scopes<'a> {
    functions: HashMap<usize, Scope<'a>>,
    /// What is declared in a block, by its `{`.
    blocks: HashMap<usize, Vec<&'a str>>,
    /// Names of methods and functions: no reads.
    named: HashSet<usize>,
}

impl<'a> Scopes<'a> {
    fn find(tokens: &Tokens<'a>) -> Self {
        let mut scopes = Self { functions: HashMap::new(), blocks: HashMap::new(), named: HashSet::new() };
        let mut open: Vec<usize> = Vec::new();
        for index in 0..tokens.list.len() {
            match tokens.kind(index) {
                Some(Kind::Open(_)) => open.push(index),
                Some(Kind::Close(bracket)) => {
                    open.pop();
                    if bracket == Bracket::Paren && tokens.opens(index + 1, Bracket::Brace) {
                        scopes.head(tokens, index);
                    }
                }
                Some(Kind::Op) if tokens.is(index, "=>") => scopes.arrow(tokens, index),
                Some(Kind::Name) => scopes.declaration(tokens, index, open.last().copied()),
                _ => {}
            }
        }
        scopes
    }

    fn arrow(&mut self, tokens: &Tokens<'a>, arrow: usize) {
        let Some(before) = tokens.before(arrow) else { return };
        if let Some(name) = tokens.name(before) {
            self.functions.insert(before, Scope { names: vec![name], end: None });
        } else if tokens.closes(before, Bracket::Paren) {
            let head = tokens.partner(before);
            self.functions.insert(head, Scope { names: pattern(tokens, head + 1, before), end: None });
        }
    }

    /// `head ( … ) {`: a function, a method, a `catch`, or a statement that binds nothing here.
    fn head(&mut self, tokens: &Tokens<'a>, close: usize) {
        let head = tokens.partner(close);
        let Some(before) = tokens.before(head) else { return };
        let mut names = match tokens.word(before) {
            "if" | "while" | "for" | "switch" | "with" => return,
            _ => pattern(tokens, head + 1, close),
        };
        if tokens.word(before) != "catch"
            && tokens.word(before) != "function"
            && tokens.kind(before) == Some(Kind::Name)
        {
            self.named.insert(before);
            names.push(tokens.text(before));
        }
        self.functions.insert(head, Scope { names, end: Some(tokens.partner(close + 1)) });
    }

    fn declaration(&mut self, tokens: &Tokens<'a>, index: usize, around: Option<usize>) {
        if tokens.before(index).is_some_and(|before| tokens.is(before, ".") || tokens.is(before, "?.")) {
            return;
        }
        let Some(around) = around else { return };
        let names = match tokens.word(index) {
            "const" | "let" | "var" => {
                let end = tokens.partner(around);
                pattern(tokens, index + 1, end)
            }
            "class" | "function" => {
                let name = index + 1 + usize::from(tokens.is(index + 1, "*"));
                tokens.name(name).into_iter().collect()
            }
            _ => return,
        };
        if names.is_empty() {
            return;
        }
        if tokens.opens(around, Bracket::Brace) {
            self.blocks.entry(around).or_default().extend(names);
        } else if tokens.opens(around, Bracket::Paren)
            && tokens.before(around).is_some_and(|before| tokens.word(before) == "for")
        {
            let body = tokens.partner(around) + 1;
            let end = tokens.opens(body, Bracket::Brace).then(|| tokens.partner(body));
            let scope = self.functions.entry(around).or_default();
            scope.names.extend(names);
            scope.end = end;
        }
    }
}

/// The names that a list of parameters or declarations binds, from token number `from` up to `end`.
fn pattern<'a>(tokens: &Tokens<'a>, from: usize, end: usize) -> Vec<&'a str> {
    let mut names = Vec::new();
    let mut index = from;
    while index < end {
        if tokens.is(index, "=") || matches!(tokens.word(index), "of" | "in") {
            index = behind_value(tokens, index + 1, end);
            continue;
        }
        if tokens.is(index, ";") || (index > from && matches!(tokens.word(index), "const" | "let" | "var")) {
            break;
        }
        if let Some(name) = tokens.name(index)
            && !tokens.is(index + 1, ":")
        {
            names.push(name);
        }
        // No pattern holds one: what stands in it binds nothing here.
        index = if tokens.opens(index, Bracket::Paren) { tokens.partner(index).max(index) + 1 } else { index + 1 };
    }
    names
}

/// The end of a default value: the next comma, closing bracket, or end of a statement on the same level.
fn behind_value(tokens: &Tokens<'_>, from: usize, end: usize) -> usize {
    let mut index = from;
    while index < end {
        match tokens.kind(index) {
            Some(Kind::Open(_)) => index = tokens.partner(index).max(index),
            Some(Kind::Close(_)) => return index,
            Some(Kind::Op) if tokens.is(index, ",") || tokens.is(index, ";") => return index,
            Some(Kind::Name) if matches!(tokens.word(index), "const" | "let" | "var") => return index,
            _ => {}
        }
        index += 1;
    }
    index
}

/// What is open where the walk stands.
enum Open<'a> {
    Bracket {
        kind: Bracket,
        names: Vec<&'a str>,
    },
    /// A scope, and how many `?` in it wait for their `:`.
    Scope {
        scope: Scope<'a>,
        asked: usize,
    },
}

struct Walk<'t, 'a> {
    tokens: &'t Tokens<'a>,
    scopes: Scopes<'a>,
    frames: Vec<Open<'a>>,
    /// How often each name is bound where the walk stands.
    bound: HashMap<&'a str, usize>,
    reads: Vec<Read>,
}

impl<'a> Walk<'_, 'a> {
    fn run(mut self) -> Vec<Read> {
        for index in 0..self.tokens.list.len() {
            if let Some(scope) = self.scopes.functions.remove(&index) {
                self.bind(&scope.names);
                self.frames.push(Open::Scope { scope, asked: 0 });
            }
            match self.tokens.kind(index) {
                Some(Kind::Open(kind)) => {
                    let names = self.scopes.blocks.remove(&index).unwrap_or_default();
                    self.bind(&names);
                    self.frames.push(Open::Bracket { kind, names });
                }
                Some(Kind::Close(_)) => self.close(index),
                Some(Kind::Op) => self.operator(index),
                Some(Kind::Name) => self.name(index),
                _ => {}
            }
        }
        self.reads
    }

    fn bind(&mut self, names: &[&'a str]) {
        names.iter().for_each(|name| *self.bound.entry(name).or_default() += 1);
    }

    fn pop(&mut self) -> Option<Open<'a>> {
        let frame = self.frames.pop()?;
        let names = match &frame {
            Open::Bracket { names, .. } => names,
            Open::Scope { scope, .. } => &scope.names,
        };
        for name in names {
            if let Some(count) = self.bound.get_mut(name) {
                *count = count.saturating_sub(1);
            }
        }
        Some(frame)
    }

    fn close(&mut self, index: usize) {
        while let Some(Open::Scope { .. }) = self.pop() {}
        while let Some(Open::Scope { scope: Scope { end: Some(end), .. }, .. }) = self.frames.last() {
            if *end != index {
                break;
            }
            self.pop();
        }
    }

    /// A sign may end the expression that is the body of a function.
    fn operator(&mut self, index: usize) {
        match self.tokens.text(index) {
            "," | ";" => {
                while let Some(Open::Scope { scope: Scope { end: None, .. }, .. }) = self.frames.last() {
                    self.pop();
                }
            }
            "?" => {
                if let Some(Open::Scope { asked, .. }) = self.frames.last_mut() {
                    *asked += 1;
                }
            }
            ":" => {
                while let Some(Open::Scope { scope: Scope { end: None, .. }, asked }) = self.frames.last_mut() {
                    if *asked > 0 {
                        *asked -= 1;
                        break;
                    }
                    self.pop();
                }
            }
            _ => {}
        }
    }

    fn name(&mut self, index: usize) {
        let tokens = self.tokens;
        let Some(name) = tokens.name(index) else { return };
        let before = |sign| tokens.before(index).is_some_and(|before| tokens.is(before, sign));
        let is_member = before(".") || before("?.") || before("#");
        let in_braces = matches!(self.frames.last(), Some(Open::Bracket { kind: Bracket::Brace, .. }));
        let is_key =
            in_braces && tokens.is(index + 1, ":") && (before("{") || before(",") || before(";") || before("}"));
        let is_jump = tokens.before(index).is_some_and(|word| matches!(tokens.word(word), "break" | "continue"));
        if is_member || is_key || is_jump || self.scopes.named.contains(&index) {
            return;
        }
        if self.bound.get(name).is_some_and(|count| *count > 0) || CONTEXTUAL.contains(&name) {
            return;
        }
        let is_root = ROOTS.contains(&name);
        let is_asked = tokens.before(index).is_some_and(|word| tokens.word(word) == "typeof");
        if !is_root && (is_asked || GLOBALS.contains(&name)) {
            return;
        }
        let read = if is_root { self.path(index, name) } else { Read { path: root(name), guarded: false } };
        self.reads.push(read);
    }

    /// The members that are written out behind the name.
    fn path(&self, index: usize, name: &str) -> Read {
        let tokens = self.tokens;
        let mut path = root(name);
        let mut at = index + 1;
        while path.segments.len() < MAX_PATH_SEGMENTS {
            let optional = tokens.is(at, "?.");
            let dotted = optional || tokens.is(at, ".");
            let key_at = at + usize::from(dotted);
            let (key, behind) = if dotted && tokens.kind(key_at) == Some(Kind::Name) {
                (Key::Name(tokens.text(key_at).to_owned()), key_at + 1)
            } else if (optional || !dotted) && tokens.opens(key_at, Bracket::Square) {
                let literal = (tokens.partner(key_at) == key_at + 2).then(|| self.literal_key(key_at + 1)).flatten();
                let Some(key) = literal else { break };
                (key, key_at + 3)
            } else {
                break;
            };
            // What is called is a method, also `a.b?.(…)`, and what a template literal is handed to.
            let called = if tokens.is(behind, "?.") { behind + 1 } else { behind };
            if tokens.opens(called, Bracket::Paren) || tokens.kind(behind) == Some(Kind::Quasi) {
                break;
            }
            path.segments.push(Segment { key, optional });
            at = behind;
        }
        Read { path, guarded: tokens.is(at, "??") || tokens.is(at, "||") }
    }

    fn literal_key(&self, index: usize) -> Option<Key> {
        let text = self.tokens.text(index);
        match self.tokens.kind(index)? {
            Kind::Text => {
                let inner = text.get(1..text.len().checked_sub(1)?)?;
                (!inner.contains('\\')).then(|| Key::Name(inner.to_owned()))
            }
            Kind::Number if text.len() <= MAX_INDEX_DIGITS && text.bytes().all(|digit| digit.is_ascii_digit()) => {
                let canonical = text == "0" || !text.starts_with('0');
                if canonical { text.parse().ok().map(Key::Index) } else { None }
            }
            _ => None,
        }
    }
}

fn root(name: &str) -> Path {
    Path { segments: vec![Segment { key: Key::Name(name.to_owned()), optional: false }] }
}

/// What a template can read.
const ROOTS: [&str; 9] = ["$now", "$run", "$wait", "connections", "index", "item", "steps", "trigger", "variables"];
/// Words that are names elsewhere; none is something that a script could read.
const CONTEXTUAL: [&str; 7] = ["async", "get", "let", "of", "set", "static", "target"];
/// Words of the language.
const WORDS: [&str; 38] = [
    "await",
    "break",
    "case",
    "catch",
    "class",
    "const",
    "continue",
    "debugger",
    "default",
    "delete",
    "do",
    "else",
    "enum",
    "export",
    "extends",
    "false",
    "finally",
    "for",
    "function",
    "if",
    "import",
    "in",
    "instanceof",
    "new",
    "null",
    "return",
    "super",
    "switch",
    "this",
    "throw",
    "true",
    "try",
    "typeof",
    "var",
    "void",
    "while",
    "with",
    "yield",
];
/// What an expression finds without its being passed: the language's own globals, and those that a sandbox gives it.
const GLOBALS: [&str; 79] = [
    "AggregateError",
    "Array",
    "ArrayBuffer",
    "Atomics",
    "BigInt",
    "BigInt64Array",
    "BigUint64Array",
    "Boolean",
    "Buffer",
    "DOMException",
    "DataView",
    "Date",
    "Error",
    "EvalError",
    "FinalizationRegistry",
    "Float16Array",
    "Float32Array",
    "Float64Array",
    "Function",
    "Infinity",
    "Int16Array",
    "Int32Array",
    "Int8Array",
    "Intl",
    "Iterator",
    "JSON",
    "Map",
    "Math",
    "NaN",
    "Number",
    "Object",
    "Promise",
    "Proxy",
    "RangeError",
    "ReferenceError",
    "Reflect",
    "RegExp",
    "Set",
    "SharedArrayBuffer",
    "String",
    "Symbol",
    "SyntaxError",
    "TextDecoder",
    "TextEncoder",
    "TypeError",
    "URIError",
    "URL",
    "URLSearchParams",
    "Uint16Array",
    "Uint32Array",
    "Uint8Array",
    "Uint8ClampedArray",
    "WeakMap",
    "WeakRef",
    "WeakSet",
    "arguments",
    "atob",
    "btoa",
    "console",
    "crypto",
    "decodeURI",
    "decodeURIComponent",
    "encodeURI",
    "encodeURIComponent",
    "escape",
    "eval",
    "globalThis",
    "isFinite",
    "isNaN",
    "parseFloat",
    "parseInt",
    "performance",
    "queueMicrotask",
    "require",
    "setTimeout",
    "structuredClone",
    "undefined",
    "unescape",
    "clearTimeout",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reads(source: &str) -> Vec<String> {
        scan(source).expect(source).into_iter().map(|read| read.path.to_string()).collect()
    }

    fn rule(source: &str) -> &'static str {
        scan(source).expect_err(source).rule()
    }

    #[test]
    fn paths_are_read_as_far_as_they_are_written_out() {
        for (source, expected) in [
            ("steps.fetch.output.map(row => row.id)", vec!["steps.fetch.output"]),
            ("steps['fetch']['output'][0].id + 1", vec!["steps.fetch.output[0].id"]),
            ("steps.fetch?.output?.[0]?.id > 1", vec!["steps.fetch?.output?.[0]?.id"]),
            ("trigger.body[item.key]", vec!["trigger.body", "item.key"]),
            ("steps[trigger.name]", vec!["steps", "trigger.name"]),
            ("trigger.body.name?.trim()", vec!["trigger.body.name"]),
            ("trigger.body.f?.(1)", vec!["trigger.body"]),
            ("trigger.body.tag`x`", vec!["trigger.body"]),
            ("$now.slice(0, 10) + $run.id", vec!["$now", "$run.id"]),
            ("`a${item.b}c${`${index}`}`", vec!["item.b", "index"]),
            ("Object.keys(steps)", vec!["steps"]),
            ("{ ...trigger.body, x: item }", vec!["trigger.body", "item"]),
            ("({ item, index: 1 })", vec!["item"]),
            ("trigger . body\n. a", vec!["trigger.body.a"]),
            ("trigger.body['a\\x62']", vec!["trigger.body"]),
            ("trigger.body[01] + trigger.body[1e1]", vec!["trigger.body", "trigger.body"]),
            ("-variables.X", vec!["variables.X"]),
        ] {
            assert_eq!(reads(source), expected, "{source}");
        }
    }

    #[test]
    fn text_and_members_read_nothing() {
        for source in [
            "'steps.a.output' + 1",
            "`trigger.body`",
            "/steps.a/.source",
            "1 /* item */ // index",
            "Math.item + Math?.index",
            "({ item: 1, 'index': 2 })",
            "({ steps() { return 1 } })",
            "typeof nothing",
            "new Date(0).toISOString()",
            "[1, 2].map(Number).filter(Boolean)",
        ] {
            assert_eq!(reads(source), Vec::<String>::new(), "{source}");
        }
    }

    #[test]
    fn a_bound_name_hides_what_is_outside() {
        for (source, expected) in [
            ("trigger.list.map(item => item.id)", vec!["trigger.list"]),
            ("trigger.list.map((item, index) => item.id + index)", vec!["trigger.list"]),
            ("trigger.list.map(({ item, a: [index = item] }) => item + index)", vec!["trigger.list"]),
            ("trigger.list.map(item => item.id).includes(item)", vec!["trigger.list", "item"]),
            ("[item => item, item]", vec!["item"]),
            ("a1 ? item => item.x : item.y".replace("a1", "1").as_str(), vec!["item.y"]),
            ("x => item => x ? item : item.z", vec![]),
            ("(x = item.a) => x", vec!["item.a"]),
            ("({ item: other }) => item", vec!["item"]),
            ("function (item) { return item.x }", vec![]),
            ("(function f(x) { return f(item) })(1)", vec!["item"]),
            ("(() => { const item = 1, y = index; return item + y })()", vec!["index"]),
            (
                "(() => { for (const item of trigger.a) { f(item) } function f() {} return item })()",
                vec!["trigger.a", "item"],
            ),
            ("(() => { try { index } catch (index) { return index } })()", vec!["index"]),
            ("(() => { let { item } = trigger; return item })()", vec!["trigger"]),
            ("(() => { var f = x => x; return item; })()", vec!["item"]),
            ("({ m(item) { return item }, n: item })", vec!["item"]),
            ("async item => await item", vec![]),
            ("(a, b => b, item)".replace("a,", "1,").as_str(), vec!["item"]),
        ] {
            assert_eq!(reads(source), expected, "{source}");
        }
    }

    #[test]
    fn what_is_not_known_is_read_all_the_same() {
        assert_eq!(reads("triger.body.a + step.x"), ["triger", "step"]);
        assert_eq!(reads("x => y"), ["y"]);
    }

    #[test]
    fn a_default_behind_is_seen() {
        let guarded = |source| scan(source).unwrap().into_iter().map(|read| read.guarded).collect::<Vec<_>>();
        assert_eq!(guarded("(steps.a.output ?? 1) + (item || index)"), [true, true, false]);
    }

    #[test]
    fn what_is_no_expression_names_its_rule() {
        for (source, expected) in [
            ("", "template.empty"),
            (" // nothing", "template.empty"),
            ("a)", "template.expression"),
            ("(a", "template.expression"),
            ("[a)", "template.expression"),
            ("a; b", "template.expression"),
            ("st\\u0065ps", "template.expression"),
            ("a {{ b }}", "template.nested"),
            ("'a", "template.unclosed"),
            ("a }} b", "template.expression"),
        ] {
            assert_eq!(rule(source), expected, "{source}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_scan_panic(text in any::<String>()) {
            drop(scan(&text));
        }

        #[test]
        fn no_script_like_text_makes_the_scan_panic(
            text in r#"(=>|\?\.|\.\.\.|item|steps|const |for |function |catch |[(){}\[\]`'"/:;,=?. ab1\n]){0,60}"#,
        ) {
            drop(scan(&text));
        }

        #[test]
        fn what_is_read_stands_in_the_text(text in r#"[a-z$.\[\]'0-9 +()]{0,40}"#) {
            for read in scan(&text).unwrap_or_default() {
                let Some(Key::Name(root)) = read.path.segments.first().map(|segment| &segment.key) else { panic!("no name") };
                prop_assert!(text.contains(root.as_str()));
            }
        }
    }
}
