//! From nodes and an environment to a JSON value, counting what is copied before it is copied.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    sync::Arc,
};

use serde_json::{Map, Value};

use super::{
    Environment, Evaluated, Literal, Lookup, MAX_RESOLVED_BYTES, MAX_RESOLVED_DEPTH, Node, Part, Reference,
    ResolveError, Script, Token, path::Walk,
};

/// Resolves `root`.
pub(super) fn resolve(root: &Node, environment: &dyn Environment) -> Result<Value, ResolveError> {
    Resolver { environment, bytes_left: MAX_RESOLVED_BYTES }.node(root, 0)
}

/// What a value counts against the limit: its keys and strings, and [`VALUE_BYTES`] for every value in it.
pub(super) fn value_bytes(value: &Value) -> usize {
    VALUE_BYTES
        + match value {
            Value::Array(items) => items.iter().map(value_bytes).sum(),
            Value::Object(members) => members.iter().map(|(key, member)| key.len() + value_bytes(member)).sum(),
            Value::String(text) => text.len(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

struct Resolver<'e> {
    environment: &'e dyn Environment,
    bytes_left: usize,
}

impl<'e> Resolver<'e> {
    /// Resolves a node that stands inside `depth` arrays and objects.
    fn node(&mut self, node: &'e Node, depth: usize) -> Result<Value, ResolveError> {
        match node {
            Node::Array(items) => {
                self.spend(VALUE_BYTES, "")?;
                items.iter().map(|item| self.node(item, depth + 1)).collect()
            }
            Node::Literal(Literal { value, bytes }) => {
                self.spend(*bytes, "")?;
                Ok(value.clone())
            }
            Node::Object(members) => {
                self.spend(VALUE_BYTES, "")?;
                let mut object = Map::new();
                for (key, member) in members {
                    self.spend(key.len(), "")?;
                    object.insert(key.clone(), self.node(member, depth + 1)?);
                }
                Ok(Value::Object(object))
            }
            Node::Text(parts) => self.text(parts).map(Value::String),
            Node::Token(token) => {
                let value = self.token(token)?;
                self.measure(&value, depth, token)?;
                Ok(value.into_owned())
            }
        }
    }

    fn text(&mut self, parts: &'e [Part]) -> Result<String, ResolveError> {
        self.spend(VALUE_BYTES, "")?;
        let mut text = String::new();
        for part in parts {
            match part {
                Part::Text(literal) => {
                    self.spend(literal.len(), "")?;
                    text.push_str(literal);
                }
                Part::Token(token) => {
                    let value = self.token(token)?;
                    let mut out = Bounded { text: &mut text, bytes_left: self.bytes_left };
                    let written = match &*value {
                        Value::Null => Ok(()),
                        Value::String(raw) => out.write_str(raw),
                        other => write!(out, "{other}"),
                    };
                    self.bytes_left = out.bytes_left;
                    written.map_err(|fmt::Error| ResolveError::TooLarge { pointer: pointer(token) })?;
                }
            }
        }
        Ok(text)
    }

    /// The value of a token, borrowed where the environment lends it.
    fn token(&self, token: &'e Token) -> Result<Cow<'e, Value>, ResolveError> {
        let (paths, default) = match token {
            Token::Path { paths, default } => (paths, default),
            Token::Script(script) => return self.script(script),
        };
        let mut missing = None;
        for reference in paths {
            match self.path(reference) {
                Ok(value) if !value.is_null() => return Ok(value),
                Ok(_) => missing = None,
                Err(error) => missing = Some((reference, error)),
            }
        }
        match (default, missing) {
            (Some(default), _) => Ok(Cow::Borrowed(default)),
            (None, None) => Ok(Cow::Owned(Value::Null)),
            (None, Some((reference, at))) => Err(missing_error(reference, at)),
        }
    }

    fn script(&self, script: &Script) -> Result<Cow<'e, Value>, ResolveError> {
        let (pointer, source) = (script.pointer.clone(), || Arc::clone(&script.source));
        match self.environment.evaluated(script) {
            Evaluated::Failed { message } => {
                Err(ResolveError::Script { pointer, script: source(), message: message.into_owned() })
            }
            Evaluated::Undefined => Err(ResolveError::Undefined { pointer, script: source() }),
            Evaluated::Value(value) => Ok(value),
        }
    }

    /// The value of a path, or the number of its missing segment.
    fn path(&self, reference: &'e Reference) -> Result<Cow<'e, Value>, usize> {
        let path = &reference.path;
        let end = |walk: Walk<'_>| match walk {
            Walk::Found(found) => Ok(Cow::Owned(found.clone())),
            Walk::Missing { at } => Err(at),
            Walk::Null => Ok(Cow::Owned(Value::Null)),
        };
        match self.environment.lookup(path) {
            Lookup::Missing { at } => end(path.missing(at)),
            Lookup::Found { value, consumed } if consumed >= path.segments.len() => Ok(value),
            Lookup::Found { value: Cow::Owned(value), consumed } => end(path.walk(&value, consumed)),
            Lookup::Found { value: Cow::Borrowed(value), consumed } => match path.walk(value, consumed) {
                Walk::Found(found) => Ok(Cow::Borrowed(found)),
                other => end(other),
            },
        }
    }

    /// Counts a value before it is copied.
    fn measure(&mut self, value: &Value, depth: usize, token: &Token) -> Result<(), ResolveError> {
        match measure(value, MAX_RESOLVED_DEPTH.saturating_sub(depth), &mut self.bytes_left) {
            Ok(()) => Ok(()),
            Err(Over::Bytes) => Err(ResolveError::TooLarge { pointer: pointer(token) }),
            Err(Over::Depth) => Err(ResolveError::TooDeep { pointer: pointer(token) }),
        }
    }

    fn spend(&mut self, bytes: usize, pointer: &str) -> Result<(), ResolveError> {
        spend(&mut self.bytes_left, bytes).map_err(|_| ResolveError::TooLarge { pointer: pointer.to_owned() })
    }
}

/// Text that refuses to grow beyond a budget.
struct Bounded<'t> {
    text: &'t mut String,
    bytes_left: usize,
}

impl fmt::Write for Bounded<'_> {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        spend(&mut self.bytes_left, more.len()).map_err(|_| fmt::Error)?;
        self.text.push_str(more);
        Ok(())
    }
}

/// The limit that was passed.
enum Over {
    Bytes,
    Depth,
}

/// Walks a value no deeper and no further than the limits allow.
fn measure(value: &Value, depth_left: usize, bytes_left: &mut usize) -> Result<(), Over> {
    spend(bytes_left, VALUE_BYTES)?;
    match value {
        Value::Array(_) | Value::Object(_) if depth_left == 0 => Err(Over::Depth),
        Value::Array(items) => items.iter().try_for_each(|item| measure(item, depth_left - 1, bytes_left)),
        Value::Object(members) => members.iter().try_for_each(|(key, member)| {
            spend(bytes_left, key.len())?;
            measure(member, depth_left - 1, bytes_left)
        }),
        Value::String(text) => spend(bytes_left, text.len()),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn spend(bytes_left: &mut usize, bytes: usize) -> Result<(), Over> {
    *bytes_left = bytes_left.checked_sub(bytes).ok_or(Over::Bytes)?;
    Ok(())
}

fn missing_error(reference: &Reference, segment: usize) -> ResolveError {
    ResolveError::Missing {
        pointer: reference.pointer.clone(),
        path: reference.path.to_string(),
        missing: reference.path.prefix(segment + 1),
        segment,
    }
}

fn pointer(token: &Token) -> String {
    match token {
        Token::Path { paths, .. } => paths.first().map_or_else(String::new, |reference| reference.pointer.clone()),
        Token::Script(script) => script.pointer.clone(),
    }
}

/// What every value counts, beside its text. Unit: bytes.
pub(super) const VALUE_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::{Key, Path, Template};
    use super::*;

    /// Owns the first segment and lends or gives the value below it.
    struct Roots {
        value: Value,
        owned: bool,
    }

    impl Environment for Roots {
        fn lookup<'a>(&'a self, path: &Path) -> Lookup<'a> {
            let Some(Key::Name(name)) = path.segments.first().map(|segment| &segment.key) else {
                return Lookup::Missing { at: 0 };
            };
            match self.value.get(name) {
                Some(value) if self.owned => Lookup::Found { value: Cow::Owned(value.clone()), consumed: 1 },
                Some(value) => Lookup::Found { value: Cow::Borrowed(value), consumed: 1 },
                None => Lookup::Missing { at: 0 },
            }
        }
    }

    /// Owns `steps.name.output`, as the engine does, and knows of no step.
    struct NoSteps;

    impl Environment for NoSteps {
        fn lookup<'a>(&'a self, _path: &Path) -> Lookup<'a> {
            Lookup::Missing { at: 1 }
        }
    }

    /// Knows results of scripts alone, by their source.
    struct Results(Value);

    impl Environment for Results {
        fn lookup<'a>(&'a self, _path: &Path) -> Lookup<'a> {
            Lookup::Missing { at: 0 }
        }

        fn evaluated<'a>(&'a self, script: &Script) -> Evaluated<'a> {
            match self.0.get(&**script.source()) {
                Some(Value::String(text)) if text == "throws" => {
                    Evaluated::Failed { message: Cow::Borrowed("no luck") }
                }
                Some(value) => Evaluated::Value(Cow::Borrowed(value)),
                None => Evaluated::Undefined,
            }
        }
    }

    #[test]
    fn a_result_keeps_its_type_alone_and_is_text_among_text() {
        let results = Results(json!({ "a + 1": 2, "[a]": [1, null], "f()": "throws" }));
        let of = |text: Value| Template::compile(&text).expect("template").resolve(&results);
        assert_eq!(of(json!({ "k": ["{{ a + 1 }}", "{{[a]}}"] })), Ok(json!({ "k": [2, [1, null]] })));
        assert_eq!(of(json!("<{{a + 1}}|{{[a]}}>")), Ok(json!("<2|[1,null]>")));
        let error = of(json!({ "k": "{{ f() }}" })).expect_err("thrown");
        assert_eq!((error.pointer(), error.to_string().as_str()), ("/k", "`f()` failed: no luck"));
        let error = of(json!(["{{ g() }}"])).expect_err("undefined");
        assert_eq!((error.pointer(), error.to_string().as_str()), ("/0", "`g()` gives no value"));
        let nobody = Template::compile(&json!("{{g()}}")).expect("template").resolve(&NoSteps);
        assert!(matches!(nobody, Err(ResolveError::Script { .. })));
    }

    fn resolve(template: &Value, value: &Value) -> Result<Value, ResolveError> {
        let template = Template::compile(template).expect("template");
        let lent = template.resolve(&Roots { value: value.clone(), owned: false });
        let given = template.resolve(&Roots { value: value.clone(), owned: true });
        assert_eq!(lent, given, "an owned value resolves like a borrowed one");
        lent
    }

    fn missing(template: &str, value: &Value) -> (String, usize) {
        match resolve(&json!(template), value) {
            Err(ResolveError::Missing { missing, segment, .. }) => (missing, segment),
            other => panic!("{template}: {other:?}"),
        }
    }

    #[test]
    fn a_token_alone_keeps_its_type() {
        let value = json!({"a": {"list": [1, {"x": null}], "n": 1.5, "t": "text", "z": null}});
        for (template, expected) in [
            ("{{a.list}}", json!([1, {"x": null}])),
            ("{{ a.n }}", json!(1.5)),
            ("{{a.t}}", json!("text")),
            ("{{a.z}}", Value::Null),
            ("{{a.list[1].x}}", Value::Null),
        ] {
            assert_eq!(resolve(&json!(template), &value), Ok(expected), "{template}");
        }
    }

    #[test]
    fn mixed_text_is_stringified() {
        let value = json!({"a": {"list": [1, "x"], "t": "te\"xt", "z": null, "b": false}});
        let text = json!(" {{a.list}}|{{a.t}}|{{a.z}}|{{a.b}}|{{a.none ?? 'd'}}}} ");
        assert_eq!(resolve(&text, &value), Ok(json!(" [1,\"x\"]|te\"xt||false|d}} ")));
    }

    #[test]
    fn objects_resolve_leaf_by_leaf_and_keys_never() {
        let template = json!({"{{k}}": ["{{a}}", {"x": "n{{a}}", "literal": [1, 2]}]});
        assert_eq!(resolve(&template, &json!({"a": 7})), Ok(json!({"{{k}}": [7, {"x": "n7", "literal": [1, 2]}]})));
    }

    #[test]
    fn inserted_values_are_never_templates() {
        let value = json!({"a": "{{b}}", "b": "secret"});
        assert_eq!(resolve(&json!("{{a}}"), &value), Ok(json!("{{b}}")));
        assert_eq!(resolve(&json!("x{{a}}"), &value), Ok(json!("x{{b}}")));
        assert_eq!(resolve(&json!("{{'{{'}}{{b}}}}"), &value), Ok(json!("{{secret}}")));
    }

    #[test]
    fn a_missing_value_names_leaf_path_and_segment() {
        let error = resolve(&json!({"k": ["{{ a.b['c d'].e }}"]}), &json!({"a": {"b": {}}})).expect_err("missing");
        assert_eq!(error.pointer(), "/k/0");
        assert_eq!(error.to_string(), "`a.b['c d'].e` is missing: there is no `a.b['c d']`");
        assert!(error.fix().contains("??") && error.fix().contains("?."));
        let error = resolve(&json!("{{a.length}}"), &json!({"a": []})).expect_err("missing");
        assert!(error.fix().contains("`(a.length)`"), "{}", error.fix());
        let value = json!({"a": {"n": null, "s": "x"}});
        assert_eq!(missing("{{a.n.x}}", &value), ("a.n.x".to_owned(), 2));
        assert_eq!(missing("x{{a.s.length}}", &value), ("a.s.length".to_owned(), 2));
        assert_eq!(missing("{{b}}", &value), ("b".to_owned(), 0));
        assert_eq!(missing("{{b ?? c.d}}", &value), ("c".to_owned(), 0));
        assert_eq!(missing("{{a?.x.y}}", &value), ("a?.x.y".to_owned(), 2));
    }

    #[test]
    fn optional_paths_and_defaults_allow_what_is_missing() {
        let value = json!({"a": {"n": null, "f": false, "e": ""}});
        for (template, expected) in [
            ("{{a?.x}}", Value::Null),
            ("{{b?.x.y}}", Value::Null),
            ("{{a.n?.x.y}}", Value::Null),
            ("{{b ?? 1}}", json!(1)),
            ("{{a.n ?? 1}}", json!(1)),
            ("{{a.x.y ?? null}}", Value::Null),
            ("{{a.f ?? 1}}", json!(false)),
            ("{{a.e ?? 1}}", json!("")),
            ("{{b ?? a.n ?? 'x'}}", json!("x")),
            ("{{b ?? a.f ?? 'x'}}", json!(false)),
            ("{{b ?? a.n}}", Value::Null),
            ("{{a.n ?? b?.c}}", Value::Null),
            ("-{{b?.c}}-", json!("--")),
        ] {
            assert_eq!(resolve(&json!(template), &value), Ok(expected), "{template}");
        }
    }

    #[test]
    fn a_step_that_did_not_run_is_null_behind_an_optional_member() {
        let of = |text: &str| Template::compile(&json!(text)).expect("template").resolve(&NoSteps);
        assert_eq!(of("{{steps.x?.output}}"), Ok(Value::Null));
        assert_eq!(of("{{steps.x?.output.id}}"), Ok(Value::Null));
        assert_eq!(of("{{steps.x.output ?? 3}}"), Ok(json!(3)));
        assert!(matches!(of("{{steps.x.output}}"), Err(ResolveError::Missing { segment: 1, .. })));
    }

    #[test]
    fn a_result_has_at_most_16_mib() {
        let half = MAX_RESOLVED_BYTES / 2;
        let of = |bytes: usize| {
            let value = json!({"a": "x".repeat(half), "b": "x".repeat(bytes - half)});
            (resolve(&json!(["{{a}}", {"k": "{{b}}"}]), &value), resolve(&json!("{{a}}{{b}}"), &value))
        };
        let (list, text) = of(MAX_RESOLVED_BYTES - 4 * VALUE_BYTES - 1);
        assert!(list.is_ok() && text.is_ok());
        let (list, text) = of(MAX_RESOLVED_BYTES - 4 * VALUE_BYTES);
        assert_eq!(list.expect_err("the key is one byte more"), ResolveError::TooLarge { pointer: "/1/k".to_owned() });
        assert!(text.is_ok());
        assert!(of(MAX_RESOLVED_BYTES - VALUE_BYTES).1.is_ok());
        assert_eq!(of(MAX_RESOLVED_BYTES - VALUE_BYTES + 1).1, Err(ResolveError::TooLarge { pointer: String::new() }));
    }

    #[test]
    fn a_repeated_value_is_refused_before_it_is_copied() {
        let value = json!({"a": "\u{1}".repeat(1 << 20)});
        let list = json!(vec!["{{a}}"; 1000]);
        assert_eq!(resolve(&list, &value), Err(ResolveError::TooLarge { pointer: "/15".to_owned() }));
        let text = json!("x{{a}}".repeat(1000));
        assert_eq!(resolve(&text, &value), Err(ResolveError::TooLarge { pointer: String::new() }));
    }

    #[test]
    fn a_result_nests_at_most_100_deep() {
        let nested = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!([inner]));
        let of = |depth: usize| resolve(&json!({"x": ["{{a}}"]}), &json!({"a": nested(depth - 2)}));
        assert!(of(MAX_RESOLVED_DEPTH - 1).is_ok());
        assert!(of(MAX_RESOLVED_DEPTH).is_ok());
        assert_eq!(of(MAX_RESOLVED_DEPTH + 1), Err(ResolveError::TooDeep { pointer: "/x/0".to_owned() }));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_token_alone_resolves_to_the_very_value(value in any_json()) {
            let roots = json!({"a": {"b": [value.clone()]}});
            prop_assert_eq!(resolve(&json!("{{ a.b[0] }}"), &roots), Ok(value.clone()));
            prop_assert_eq!(resolve(&json!({"k": ["{{a.b}}"]}), &roots), Ok(json!({"k": [[value]]})));
        }

        #[test]
        fn a_literal_resolves_to_itself(value in any_json()) {
            let plain = value.to_string();
            prop_assume!(!plain.contains("{{"));
            prop_assert_eq!(resolve(&value, &json!({})), Ok(value.clone()));
        }
    }
}
