//! A template: compiled, what its scripts read collected, and resolved against a fixed world.
#![no_main]

use std::{borrow::Cow, sync::LazyLock};

use ap_core::expr::{
    Environment, Evaluated, Key, Lookup, MAX_ENVIRONMENT_BYTES, Path, Script, ScriptBatch, Template,
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

/// `trigger`, `steps` and the like, as one JSON object.
struct World(Value);

static WORLD: LazyLock<World> = LazyLock::new(|| {
    World(json!({
        "trigger": { "body": { "items": [1, "two", null, { "k": [] }], "name": "n", "a-b": true } },
        "steps": { "fetch": { "output": { "status": 200, "text": "{{trigger}}" } } },
        "item": "x",
        "index": 0,
    }))
});

impl Environment for World {
    fn lookup<'a>(&'a self, path: &Path) -> Lookup<'a> {
        match path.segments.first().map(|segment| &segment.key) {
            Some(Key::Name(name)) => match self.0.get(name) {
                Some(value) => Lookup::Found { value: Cow::Borrowed(value), consumed: 1 },
                None => Lookup::Missing { at: 0 },
            },
            _ => Lookup::Missing { at: 0 },
        }
    }

    /// Every script gives its own text.
    fn evaluated<'a>(&'a self, script: &Script) -> Evaluated<'a> {
        Evaluated::Value(Cow::Owned(Value::from(&**script.source())))
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let value = json!({ "whole": text, "mixed": format!("<{text}>") });
    let template = match Template::compile(&value) {
        Ok(template) => template,
        Err(errors) => {
            assert!(!errors.is_empty() && errors.iter().all(|error| error.pointer().starts_with('/')));
            return;
        }
    };
    let first = template.resolve(&*WORLD);
    assert_eq!(first, template.resolve(&*WORLD));
    let batches = ScriptBatch::of(template.scripts().map(AsRef::as_ref), &*WORLD);
    for script in template.scripts() {
        assert!(text.contains(&**script.source()));
        assert_eq!(batches.iter().filter(|batch| batch.scripts.contains(script.source())).count(), 1);
        // Written as a token of its own it is the same script again.
        let again = Template::compile(&json!(format!("{{{{ {}\n}}}}", script.source()))).expect("a script");
        assert!(again.scripts().all(|found| found.source() == script.source()) && again.is_token());
    }
    for batch in batches {
        let variables = batch.variables.expect("a small world");
        assert!(variables.is_object() && variables.to_string().len() < MAX_ENVIRONMENT_BYTES);
    }
    if !text.contains("{{") {
        assert_eq!(first, Ok(value));
    }
});
