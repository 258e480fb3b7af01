//! From a JSON value to nodes: finding tokens in strings, keeping pointers, counting against the limits.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::{Map, Value};

use super::{
    Literal, MAX_ERRORS, MAX_NESTING, MAX_POINTER_BYTES, MAX_SCRIPTS_PER_TEMPLATE, MAX_STRING_BYTES,
    MAX_TOKENS_PER_STRING, MAX_TOKENS_PER_TEMPLATE, Node, Part, Path, Reference, Script, TemplateError,
    TemplateErrorKind, Token, owned_segments,
    parser::{self, ParsedToken},
    resolve::{VALUE_BYTES, value_bytes},
    script::{self, Read, split_token},
};
use crate::json::push_pointer;

/// Compiles `value`.
pub(super) fn compile(value: &Value) -> Result<Compiled, Vec<TemplateError>> {
    let mut compiler = Compiler::default();
    let root = compiler.node(value, 0);
    if compiler.errors.is_empty() { Ok((root, compiler.references, compiler.scripts)) } else { Err(compiler.errors) }
}

/// The root, every reference, every script.
type Compiled = (Node, Vec<Arc<Reference>>, Vec<Arc<Script>>);

#[derive(Default)]
struct Compiler {
    /// Where the compiler stands, relative to the root.
    pointer: String,
    errors: Vec<TemplateError>,
    references: Vec<Arc<Reference>>,
    scripts: Vec<Arc<Script>>,
    /// Tokens seen so far in the whole value.
    tokens: usize,
}

impl Compiler {
    /// Compiles a value that stands inside `depth` arrays and objects. After an error the node is of no use.
    fn node(&mut self, value: &Value, depth: usize) -> Node {
        match value {
            Value::Array(_) | Value::Object(_) if depth == MAX_NESTING => self.fail(TemplateErrorKind::Nesting),
            Value::Array(items) => {
                let node = |(index, item): (usize, &Value)| self.below(&index.to_string(), item, depth);
                array(items.iter().enumerate().map(node).collect())
            }
            Value::Object(members) => {
                let node = |(key, member): (&String, &Value)| (key.clone(), self.below(key, member, depth));
                object(members.iter().map(node).collect())
            }
            Value::String(text) => self.string(text),
            Value::Null | Value::Bool(_) | Value::Number(_) => literal(value.clone()),
        }
    }

    fn below(&mut self, segment: &str, value: &Value, depth: usize) -> Node {
        if self.errors.len() == MAX_ERRORS {
            return literal(Value::Null);
        }
        let before = self.pointer.len();
        push_pointer(&mut self.pointer, segment);
        let node = self.node(value, depth + 1);
        self.pointer.truncate(before);
        node
    }

    fn string(&mut self, text: &str) -> Node {
        let Some((before, after)) = text.split_once("{{") else {
            return literal(Value::String(text.to_owned()));
        };
        if text.len() > MAX_STRING_BYTES {
            return self.fail(TemplateErrorKind::StringLength);
        }
        if self.pointer.len() > MAX_POINTER_BYTES {
            return self.fail(TemplateErrorKind::Pointer);
        }
        let mut leaf = Leaf::default();
        if before.is_empty()
            && let Some((inner, "")) = split_token(after)
        {
            return self.token(inner, &mut leaf).map_or_else(|kind| self.fail(kind), Operand::into_node);
        }
        match self.mixed(before, after, &mut leaf) {
            Ok(()) => leaf.into_node(),
            Err(kind) => self.fail(kind),
        }
    }

    /// Compiles text with tokens: `before` the first `{{`, and what comes `after` it. An `Err` ends the string; what a
    /// token alone has wrong is noted and the rest read on.
    fn mixed(&mut self, before: &str, after: &str, leaf: &mut Leaf) -> Result<(), TemplateErrorKind> {
        leaf.text(before);
        let mut after = after;
        while self.errors.len() < MAX_ERRORS {
            let (inner, rest) = split_token(after).ok_or(TemplateErrorKind::Unclosed)?;
            match self.token(inner, leaf) {
                Ok(operand) => leaf.operand(operand),
                Err(count @ (TemplateErrorKind::ScriptCount | TemplateErrorKind::TokenCount)) => return Err(count),
                Err(kind) => drop(self.fail(kind)),
            }
            let Some((between, next)) = rest.split_once("{{") else {
                leaf.text(rest);
                break;
            };
            leaf.text(between);
            after = next;
        }
        Ok(())
    }

    fn token(&mut self, inner: &str, leaf: &mut Leaf) -> Result<Operand, TemplateErrorKind> {
        leaf.tokens += 1;
        self.tokens += 1;
        if leaf.tokens > MAX_TOKENS_PER_STRING || self.tokens > MAX_TOKENS_PER_TEMPLATE {
            return Err(TemplateErrorKind::TokenCount);
        }
        let ParsedToken { paths, default } = match parser::parse_token(inner) {
            Err(TemplateErrorKind::Escape | TemplateErrorKind::Expression { .. }) => return self.script(inner, leaf),
            parsed => parsed?,
        };
        if paths.is_empty() {
            return Ok(Operand::Literal(default.unwrap_or_default()));
        }
        let (last, has_default) = (paths.len(), default.is_some());
        let reference = |(number, path): (usize, Path)| {
            let optional = number < last || has_default || path.has_optional();
            let pointer = self.pointer.clone();
            self.reference(Reference { pointer, path, optional, in_script: false }, leaf)
        };
        Ok(Operand::Token(Token::Path { paths: (1..).zip(paths).map(reference).collect(), default }))
    }

    fn script(&mut self, inner: &str, leaf: &mut Leaf) -> Result<Operand, TemplateErrorKind> {
        let source = inner.trim();
        if let Some(seen) = leaf.scripts.get(source) {
            return Ok(Operand::Token(Token::Script(Arc::clone(seen))));
        }
        if self.scripts.len() == MAX_SCRIPTS_PER_TEMPLATE {
            return Err(TemplateErrorKind::ScriptCount);
        }
        let mut references = Vec::new();
        for read in script::reads(source)? {
            let optional = is_optional(&read);
            let pointer = self.pointer.clone();
            let reference = Reference { pointer, path: read.path, optional, in_script: true };
            references.push(self.reference(reference, leaf));
        }
        let mut seen = HashSet::new();
        references.retain(|reference| seen.insert(Arc::clone(reference)));
        let script = Arc::new(Script { pointer: self.pointer.clone(), source: source.into(), references });
        leaf.scripts.insert(Arc::clone(&script.source), Arc::clone(&script));
        self.scripts.push(Arc::clone(&script));
        Ok(Operand::Token(Token::Script(script)))
    }

    /// The one shared copy of a reference of this leaf.
    fn reference(&mut self, reference: Reference, leaf: &mut Leaf) -> Arc<Reference> {
        if let Some(seen) = leaf.seen.get(&reference) {
            return Arc::clone(seen);
        }
        let fresh = Arc::new(reference);
        leaf.seen.insert(Arc::clone(&fresh));
        self.references.push(Arc::clone(&fresh));
        fresh
    }

    /// Notes an error at the current place; one with too long a pointer is noted at the nearest ancestor that fits.
    fn fail(&mut self, kind: TemplateErrorKind) -> Node {
        if self.errors.len() < MAX_ERRORS {
            let mut pointer = self.pointer.as_str();
            while pointer.len() > MAX_POINTER_BYTES {
                pointer = pointer.rsplit_once('/').map_or("", |(ancestor, _)| ancestor);
            }
            self.errors.push(TemplateError { pointer: pointer.to_owned(), kind });
        }
        literal(Value::Null)
    }
}

/// Whether the script itself says what happens if the step has no such member: `?.` on it, or `??` or `||` right behind it.
fn is_optional(read: &Read) -> bool {
    let owned = owned_segments(&read.path);
    let asked = read.path.segments.iter().take(owned + 1).skip(2).any(|segment| segment.optional);
    asked || (read.guarded && read.path.segments.len() <= owned)
}

/// One token: something to resolve, or a literal.
enum Operand {
    Literal(Value),
    Token(Token),
}

impl Operand {
    fn into_node(self) -> Node {
        match self {
            Self::Literal(value) => literal(value),
            Self::Token(token) => Node::Token(token),
        }
    }
}

/// One string being compiled.
#[derive(Default)]
struct Leaf {
    parts: Vec<Part>,
    seen: HashSet<Arc<Reference>>,
    scripts: HashMap<Arc<str>, Arc<Script>>,
    tokens: usize,
}

impl Leaf {
    fn operand(&mut self, operand: Operand) {
        match operand {
            Operand::Literal(Value::Null) => {}
            Operand::Literal(Value::String(text)) => self.text(&text),
            Operand::Literal(other) => self.text(&other.to_string()),
            Operand::Token(token) => self.parts.push(Part::Token(token)),
        }
    }

    fn text(&mut self, text: &str) {
        match self.parts.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Text(before)) => before.push_str(text),
            _ => self.parts.push(Part::Text(text.to_owned())),
        }
    }

    fn into_node(self) -> Node {
        match self.parts.as_slice() {
            [] => literal(Value::String(String::new())),
            [Part::Text(text)] => literal(Value::String(text.clone())),
            _ => Node::Text(self.parts),
        }
    }
}

fn literal(value: Value) -> Node {
    let bytes = value_bytes(&value);
    Node::Literal(Literal { value, bytes })
}

/// One literal if every item is, so that resolving does not walk it.
fn array(nodes: Vec<Node>) -> Node {
    if !nodes.iter().all(|node| matches!(node, Node::Literal(_))) {
        return Node::Array(nodes);
    }
    let mut bytes = VALUE_BYTES;
    let value = nodes.into_iter().filter_map(|node| literal_value(node, &mut bytes)).collect();
    Node::Literal(Literal { value, bytes })
}

/// One literal if every member is.
fn object(members: Vec<(String, Node)>) -> Node {
    if !members.iter().all(|(_, node)| matches!(node, Node::Literal(_))) {
        return Node::Object(members);
    }
    let mut bytes = VALUE_BYTES + members.iter().map(|(key, _)| key.len()).sum::<usize>();
    let value = |(key, node)| Some((key, literal_value(node, &mut bytes)?));
    let value = Value::Object(members.into_iter().filter_map(value).collect::<Map<_, _>>());
    Node::Literal(Literal { value, bytes })
}

fn literal_value(node: Node, bytes: &mut usize) -> Option<Value> {
    match node {
        Node::Literal(literal) => {
            *bytes += literal.bytes;
            Some(literal.value)
        }
        Node::Array(_) | Node::Object(_) | Node::Text(_) | Node::Token(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use serde_json::json;

    use super::super::{MAX_SCRIPT_BYTES, Template};
    use super::*;

    fn errors(value: &Value) -> Vec<(String, &'static str)> {
        let errors = Template::compile(value).expect_err("malformed");
        errors.iter().map(|error| (error.pointer().to_owned(), error.rule())).collect()
    }

    fn references(value: &Value) -> Vec<(String, String, bool)> {
        let template = Template::compile(value).expect("template");
        template.references().map(|r| (r.pointer.clone(), r.path.to_string(), r.optional)).collect()
    }

    #[test]
    fn what_holds_no_token_is_one_literal() {
        let value = json!({"a": [1, {"b": "}} { x", "{{key}}": null}], "c": true});
        let template = Template::compile(&value).expect("template");
        assert_eq!(template.as_literal(), Some(&value));
        assert_eq!(template.references().count(), 0);
        let Node::Literal(literal) = template.root else { panic!("not a literal") };
        assert_eq!(literal.bytes, value_bytes(&value));
    }

    #[test]
    fn literal_tokens_fold_away() {
        for (text, value) in [
            ("{{'{{'}}", json!("{{")),
            ("a {{'{{'}}b}} c", json!("a {{b}} c")),
            ("{{ \"}}\" }}", json!("}}")),
            ("{{7}}", json!(7)),
            ("{{null}}", Value::Null),
            ("{{null}}{{''}}", json!("")),
            ("{{true}} {{1.5}}{{null}}", json!("true 1.5")),
            ("{{[]}}", json!([])),
            ("{{{}}}", json!({})),
        ] {
            let template = Template::compile(&json!(text)).expect(text);
            assert_eq!(template.as_literal(), Some(&value), "{text}");
        }
    }

    #[test]
    fn a_path_alone_is_told_from_text_and_defaults() {
        let of = |text: &str| Template::compile(&json!(text)).expect("template");
        assert_eq!(of("{{ a.b }}").as_path().map(ToString::to_string).as_deref(), Some("a.b"));
        assert!(of("{{a}}").is_token() && of("{{a ?? 1}}").is_token());
        for text in [" {{a}}", "{{a}} ", "{{a}}{{b}}", "{{a ?? 1}}", "{{a ?? b}}", "{{1}}", "a"] {
            assert_eq!(of(text).as_path(), None, "{text}");
        }
        assert!(!of("{{a}}{{b}}").is_token() && !of(" {{a}}").is_token());
    }

    #[test]
    fn references_name_leaf_path_and_whether_a_value_may_be_missing() {
        let value = json!({"x/y~": ["{{a.b}} {{a.b}} {{a?.b}}", {"k": "{{c ?? d}}"}], "z": "{{e ?? 1}}"});
        let expected = [
            ("/x~1y~0/0", "a.b", false),
            ("/x~1y~0/0", "a?.b", true),
            ("/x~1y~0/1/k", "c", true),
            ("/x~1y~0/1/k", "d", false),
            ("/z", "e", true),
        ];
        let expected: Vec<_> = expected.map(|(at, path, optional)| (at.to_owned(), path.to_owned(), optional)).into();
        assert_eq!(references(&value), expected);
    }

    #[test]
    fn every_malformed_token_is_reported_at_its_leaf() {
        let value = json!({"a": "{{}} {{x + 1)}} {{ok}}", "b": ["fine", "{{open"], "c": "{{a {{b}} }}"});
        let expected = [
            ("/a", "template.empty"),
            ("/a", "template.expression"),
            ("/b/1", "template.unclosed"),
            ("/c", "template.nested"),
        ];
        assert_eq!(errors(&value), expected.map(|(at, rule)| (at.to_owned(), rule)).to_vec());
    }

    #[test]
    fn an_error_becomes_a_diagnostic_of_the_flow() {
        let errors = Template::compile(&json!({"a": "{{f(]}}"})).expect_err("malformed");
        let diagnostic = errors.first().expect("one").to_diagnostic("/steps/0/settings");
        assert_eq!((diagnostic.pointer.as_str(), diagnostic.rule), ("/steps/0/settings/a", "template.expression"));
        assert!(diagnostic.message.contains("`f(]`") && diagnostic.fix.contains("`code` step"));
    }

    #[test]
    fn quotes_and_braces_inside_a_token_do_not_end_it() {
        assert_eq!(references(&json!("{\"a\":{{x['}}']}}}")), [(String::new(), "x['}}']".to_owned(), false)]);
        let of = |text: &str| Template::compile(&json!(text)).expect("template");
        assert!(of("{{ a.map(x => ({b: {c: 1}})) }}").is_token() && of("{{{a}}}").is_token());
        assert_eq!(errors(&json!("{{ it's }}")), [(String::new(), "template.unclosed")]);
    }

    #[test]
    fn a_template_string_has_at_most_64_kib() {
        let of = |bytes: usize| json!(format!("{{{{a}}}}{}", "x".repeat(bytes - 5)));
        assert!(Template::compile(&of(MAX_STRING_BYTES - 1)).is_ok());
        assert!(Template::compile(&of(MAX_STRING_BYTES)).is_ok());
        assert_eq!(errors(&of(MAX_STRING_BYTES + 1)), [(String::new(), "template.length")]);
        assert!(Template::compile(&json!("x".repeat(MAX_STRING_BYTES * 3))).is_ok(), "plain text is no template");
    }

    #[test]
    fn a_string_has_at_most_1000_tokens_and_a_template_10000() {
        let string = |tokens: usize| json!("{{a}}".repeat(tokens));
        assert!(Template::compile(&string(MAX_TOKENS_PER_STRING - 1)).is_ok());
        assert!(Template::compile(&string(MAX_TOKENS_PER_STRING)).is_ok());
        assert_eq!(errors(&string(MAX_TOKENS_PER_STRING + 1)), [(String::new(), "template.tokens")]);
        let list = |tokens: usize| Value::Array(vec![json!("{{a}}"); tokens]);
        assert!(Template::compile(&list(MAX_TOKENS_PER_TEMPLATE - 1)).is_ok());
        assert!(Template::compile(&list(MAX_TOKENS_PER_TEMPLATE)).is_ok());
        assert_eq!(errors(&list(MAX_TOKENS_PER_TEMPLATE + 1)), [("/10000".to_owned(), "template.tokens")]);
    }

    #[test]
    fn a_template_nests_at_most_64_deep() {
        let of = |depth: usize| (0..depth).fold(json!("{{a}}"), |inner, _| json!([inner]));
        assert!(Template::compile(&of(MAX_NESTING - 1)).is_ok());
        assert!(Template::compile(&of(MAX_NESTING)).is_ok());
        assert_eq!(errors(&of(MAX_NESTING + 1)), [("/0".repeat(MAX_NESTING), "template.nesting")]);
    }

    #[test]
    fn a_template_leaf_has_a_pointer_of_at_most_1024_bytes() {
        let of = |bytes: usize, text: &str| json!({"k": {"x".repeat(bytes - 3): text}});
        assert!(Template::compile(&of(MAX_POINTER_BYTES - 1, "{{a}}")).is_ok());
        assert!(Template::compile(&of(MAX_POINTER_BYTES, "{{a}}")).is_ok());
        assert_eq!(errors(&of(MAX_POINTER_BYTES + 1, "{{a}}")), [("/k".to_owned(), "template.pointer")]);
        assert!(Template::compile(&of(MAX_POINTER_BYTES + 1, "plain")).is_ok());
    }

    #[test]
    fn at_most_100_errors_are_reported() {
        assert_eq!(errors(&Value::Array(vec![json!("{{}}"); MAX_ERRORS - 1])).len(), MAX_ERRORS - 1);
        assert_eq!(errors(&Value::Array(vec![json!("{{}}"); MAX_ERRORS])).len(), MAX_ERRORS);
        assert_eq!(errors(&Value::Array(vec![json!("{{}}"); MAX_ERRORS + 1])).len(), MAX_ERRORS);
        assert_eq!(errors(&json!("{{}}".repeat(MAX_ERRORS + 1))).len(), MAX_ERRORS);
    }

    #[test]
    fn a_token_that_is_no_path_is_a_script_as_it_is_written() {
        for text in
            ["a + 1", "a.b - c", "'x'.length", "`a${b}`", "a['\\x41']", "{a: 1}", "0x10", "a // }}\n", "f(a, '}}')"]
        {
            for template in [format!("{{{{{text}}}}}"), format!("{{{{ {text}\n}}}}"), format!("<{{{{{text}}}}}>")] {
                let template = Template::compile(&json!([template])).expect(text);
                let scripts: Vec<_> = template.scripts().map(|script| (script.pointer(), &**script.source())).collect();
                assert_eq!(scripts, [("/0", text.trim())], "{text}");
            }
        }
        let twice = Template::compile(&json!("{{a + 1}}{{a.x}}{{a + 1}}{{b + 1}}")).expect("template");
        assert_eq!(twice.scripts().count(), 2);
    }

    #[test]
    fn references_of_scripts_stand_among_those_of_paths() {
        let template = Template::compile(&json!({"k": "{{item.a}} {{item.a + steps.x?.output.y}}"})).expect("template");
        let found: Vec<_> = template.references().map(|r| (r.path.to_string(), r.optional, r.in_script)).collect();
        let of = |path: &str, optional, in_script| (path.to_owned(), optional, in_script);
        let expected = [of("item.a", false, false), of("item.a", false, true), of("steps.x?.output.y", true, true)];
        assert_eq!(found, expected);
        let optional = |text: &str| Template::compile(&json!(text)).expect(text).references().all(|r| r.optional);
        assert!(optional("{{(steps.x.output ?? 1) + 1}}") && optional("{{[steps.x.output?.id]}}"));
        assert!(!optional("{{(steps.x.output.id ?? 1) + 1}}") && !optional("{{[steps?.x.output]}}"));
    }

    #[test]
    fn scripts_have_at_most_8_kib_and_256_stand_in_a_template() {
        let of = |bytes: usize| json!(format!("{{{{1+{}}}}}", "1".repeat(bytes - 2)));
        assert!(Template::compile(&of(MAX_SCRIPT_BYTES - 1)).is_ok());
        assert!(Template::compile(&of(MAX_SCRIPT_BYTES)).is_ok());
        assert_eq!(errors(&of(MAX_SCRIPT_BYTES + 1)), [(String::new(), "template.script_length")]);
        let of = |scripts: usize| json!((0..scripts).map(|n| format!("{{{{{n}+1}}}}")).collect::<String>());
        assert!(Template::compile(&of(MAX_SCRIPTS_PER_TEMPLATE - 1)).is_ok());
        assert!(Template::compile(&of(MAX_SCRIPTS_PER_TEMPLATE)).is_ok());
        assert_eq!(errors(&of(MAX_SCRIPTS_PER_TEMPLATE + 1)), [(String::new(), "template.scripts")]);
    }

    #[test]
    fn hostile_strings_take_linear_time() {
        let fill = |unit: &str| unit.repeat((MAX_STRING_BYTES - 16) / unit.len());
        let started = Instant::now();
        for unit in [
            "{{",
            "}}",
            "[",
            "?.",
            "{{a",
            "{{'",
            "'",
            "\\",
            "{",
            "a.",
            "a??",
            "a['",
            "{{}}",
            "\\u",
            " ",
            "é",
            "/",
            "/*",
            "`",
            "${",
            "`${",
            "(a=>",
            "a=>",
            "(a=(",
            "){",
            "(){",
            "function(",
            "const ",
            "a?b=>",
            "/a",
            "//",
            "item.",
            "{{/",
            "(",
        ] {
            let script = unit.repeat((MAX_SCRIPT_BYTES - 16) / unit.len());
            drop(Template::compile(&json!(format!("{{{{+{script}}}}}"))));
            for text in [fill(unit), format!("{{{{{}}}}}", fill(unit)), format!("{{{{a{}}}}}", fill(unit))] {
                drop(Template::compile(&json!(text)));
            }
        }
        assert!(
            started.elapsed() < Duration::from_secs(24),
            "136 strings of up to 64 KiB took {:?}",
            started.elapsed()
        );
    }

    proptest! {
        #[test]
        fn every_script_comes_back_as_it_was_written(
            expression in r#"[a-z]{1,4}(\.[a-z]{1,4}| \+ [0-9]|\[[a-z]\]|\('\}\}'\)| \? \{a: \{\}\} : 1){1,4}"#,
            around in "[^{}]{0,5}",
        ) {
            let text = format!("{around}{{{{ {expression} }}}}{around}");
            let template = Template::compile(&json!(text)).expect("template");
            let sources: Vec<_> = template.scripts().map(|script| script.source().to_string()).collect();
            let is_path = parser::parse_token(&expression).is_ok();
            let expected = if is_path { vec![] } else { vec![expression] };
            prop_assert_eq!(sources, expected);
        }

        #[test]
        fn no_string_makes_compile_panic(text in any::<String>()) {
            drop(Template::compile(&json!(text)));
        }

        #[test]
        fn no_token_like_string_makes_compile_panic(text in r#"(\{\{|\}\}|[a-c.?\[\]'"\\ u0-9{}`é-]){0,40}"#) {
            drop(Template::compile(&json!(text)));
        }

        #[test]
        fn a_string_without_braces_is_returned_unchanged(text in any::<String>()) {
            prop_assume!(!text.contains("{{"));
            let value = json!(text);
            let template = Template::compile(&value).expect("literal");
            prop_assert_eq!(template.as_literal(), Some(&value));
        }

        #[test]
        fn a_quoted_string_token_is_its_text(text in any::<String>()) {
            let quoted = serde_json::to_string(&text).expect("json");
            let template = Template::compile(&json!(format!("{{{{ {quoted} }}}}"))).expect("literal");
            prop_assert_eq!(template.as_literal(), Some(&json!(text)));
        }
    }
}
