//! [`ScriptBatch`]: expressions that are evaluated together, and what they read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Map, Value};

use super::{
    super::{Environment, Key, Lookup, MAX_ENVIRONMENT_BYTES, Path, Segment, resolve::value_bytes},
    Script,
};

/// Expressions that are evaluated together.
///
/// Their variables are what they read and nothing else: of each written out path the value it leads to, or the array or
/// scalar on the way there, inside objects that have no other member. A path that leads to nothing leaves its last member
/// out, so that JavaScript finds `undefined` there. `connections.x` as a whole is text and `connections.x.field` a member:
/// expressions that read one and expressions that read the other are not of the same batch.
#[derive(Clone, Debug, PartialEq)]
pub struct ScriptBatch {
    /// The expressions, each once.
    pub scripts: Vec<Arc<str>>,
    /// Their variables, an object; `None` if that would be larger than [`MAX_ENVIRONMENT_BYTES`] for all batches together.
    pub variables: Option<Value>,
}

impl ScriptBatch {
    /// The batches of `scripts`, in their order. What they read is copied from `environment`.
    pub fn of<'s>(scripts: impl IntoIterator<Item = &'s Script>, environment: &dyn Environment) -> Vec<Self> {
        let mut building: Vec<Building> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut bytes_left = MAX_ENVIRONMENT_BYTES;
        for script in scripts {
            if !seen.insert(script.source()) {
                continue;
            }
            let fits = building.last().is_some_and(|batch| !batch.disagrees(script));
            if !fits {
                building.push(Building::default());
            }
            let Some(batch) = building.last_mut() else { continue };
            if !batch.too_large && !batch.read(script, environment, &mut bytes_left) {
                // What was read for others of the batch stays theirs.
                if batch.scripts.is_empty() {
                    batch.too_large = true;
                } else {
                    building.push(Building { too_large: true, ..Building::default() });
                }
            }
            if let Some(batch) = building.last_mut() {
                batch.scripts.push(Arc::clone(script.source()));
                if batch.too_large {
                    building.push(Building::default());
                }
            }
        }
        building.retain(|batch| !batch.scripts.is_empty());
        building.into_iter().map(Building::finish).collect()
    }
}

/// A batch to which more may be added.
#[derive(Default)]
struct Building {
    scripts: Vec<Arc<str>>,
    variables: BTreeMap<String, Tree>,
    /// Connections that are read as a whole, and those that are read by a field.
    whole: BTreeSet<String>,
    by_field: BTreeSet<String>,
    too_large: bool,
}

/// What is read of a value.
enum Tree {
    /// These members of an object.
    Members(BTreeMap<String, Tree>),
    Whole(Value),
}

impl Building {
    fn disagrees(&self, script: &Script) -> bool {
        connections(script).any(|(name, whole)| {
            let others = if whole { &self.by_field } else { &self.whole };
            others.contains(name)
        })
    }

    /// Adds what the script reads. Returns whether there was room for it.
    fn read(&mut self, script: &Script, environment: &dyn Environment, bytes_left: &mut usize) -> bool {
        for (name, whole) in connections(script) {
            let names = if whole { &mut self.whole } else { &mut self.by_field };
            names.insert(name.to_owned());
        }
        script.references().all(|reference| self.read_path(&reference.path, environment, bytes_left))
    }

    fn read_path(&mut self, path: &Path, environment: &dyn Environment, bytes_left: &mut usize) -> bool {
        match environment.lookup(path) {
            Lookup::Found { value, consumed } => {
                let (mut found, mut depth) = (&*value, consumed.min(path.segments.len()));
                while let (Value::Object(members), Some(segment)) = (found, path.segments.get(depth)) {
                    let Some(member) = members.get(&name_of(segment)) else {
                        return self.insert(path, depth, None, bytes_left);
                    };
                    (found, depth) = (member, depth + 1);
                }
                self.insert(path, depth, Some(found), bytes_left)
            }
            Lookup::Missing { at } => self.insert(path, at.min(path.segments.len()), None, bytes_left),
        }
    }

    /// Puts a value where the first `depth` segments lead, or just the objects that lead there. Returns whether there was room.
    fn insert(&mut self, path: &Path, depth: usize, value: Option<&Value>, bytes_left: &mut usize) -> bool {
        let mut members = &mut self.variables;
        let mut segments = path.segments.iter().take(depth).peekable();
        while let Some(segment) = segments.next() {
            let name = name_of(segment);
            if let (None, Some(value)) = (segments.peek(), value) {
                let known = members.get(&name).is_some_and(|tree| matches!(tree, Tree::Whole(_)));
                if !known {
                    let Some(left) = bytes_left.checked_sub(name.len() + value_bytes(value)) else { return false };
                    *bytes_left = left;
                    members.insert(name, Tree::Whole(value.clone()));
                }
                return true;
            }
            match members.entry(name).or_insert_with(|| Tree::Members(BTreeMap::new())) {
                Tree::Members(inner) => members = inner,
                // All of it is there already.
                Tree::Whole(_) => return true,
            }
        }
        true
    }

    fn finish(self) -> ScriptBatch {
        let variables = (!self.too_large).then(|| object(self.variables));
        ScriptBatch { scripts: self.scripts, variables }
    }
}

/// The connections a script reads, and whether as a whole.
fn connections(script: &Script) -> impl Iterator<Item = (&str, bool)> {
    script.references().filter_map(|reference| match reference.path.segments.as_slice() {
        [root, Segment { key: Key::Name(name), .. }, rest @ ..] if root.key == Key::Name("connections".to_owned()) => {
            Some((name.as_str(), rest.is_empty()))
        }
        _ => None,
    })
}

fn name_of(segment: &Segment) -> String {
    match &segment.key {
        Key::Index(index) => index.to_string(),
        Key::Name(name) => name.clone(),
    }
}

fn object(members: BTreeMap<String, Tree>) -> Value {
    let value = |tree| match tree {
        Tree::Members(members) => object(members),
        Tree::Whole(value) => value,
    };
    Value::Object(members.into_iter().map(|(name, tree)| (name, value(tree))).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use serde_json::json;

    use super::{super::super::Template, *};

    /// Owns the first segment, `steps.name.output` and `connections.name.field`, as the engine does.
    struct Roots(Value);

    impl Environment for Roots {
        fn lookup<'a>(&'a self, path: &Path) -> Lookup<'a> {
            let names: Vec<_> = path.segments.iter().map(name_of).collect();
            let pointer = |count: usize| format!("/{}", names[..count].join("/"));
            let found = |count: usize| match self.0.pointer(&pointer(count)) {
                Some(value) => Lookup::Found { value: Cow::Borrowed(value), consumed: count },
                None => Lookup::Missing { at: count - 1 },
            };
            match names[0].as_str() {
                "steps" if self.0.pointer(&pointer(2)).is_none() => Lookup::Missing { at: 1 },
                "steps" => found(3.min(names.len())),
                "connections" if names.len() == 2 => Lookup::Found { value: Cow::Owned(json!("whole")), consumed: 2 },
                "connections" => found(3),
                _ => found(1),
            }
        }
    }

    fn batches(scripts: &[&str], roots: &Value) -> Vec<(Vec<String>, Option<Value>)> {
        let value: Value = scripts.iter().map(|script| json!(format!("{{{{{script}}}}}"))).collect();
        let template = Template::compile(&value).expect("template");
        let found = ScriptBatch::of(template.scripts().map(AsRef::as_ref), &Roots(roots.clone()));
        let text = |batch: ScriptBatch| (batch.scripts.iter().map(ToString::to_string).collect(), batch.variables);
        found.into_iter().map(text).collect()
    }

    fn variables(script: &str, roots: &Value) -> Value {
        batches(&[script], roots).remove(0).1.expect("small")
    }

    #[test]
    fn only_what_is_read_is_passed() {
        let roots = json!({
            "trigger": { "body": { "a": { "x": 1, "y": 2 }, "list": [{ "k": 1 }], "s": "text" }, "secret": 9 },
            "steps": { "fetch": { "output": { "rows": [1], "more": 2 }, "status": "SUCCEEDED" } },
            "item": { "id": 7, "other": 8 },
        });
        for (script, expected) in [
            ("trigger.body.a.x + 1", json!({ "trigger": { "body": { "a": { "x": 1 } } } })),
            ("trigger.body.a.x + f(trigger.body.a)", json!({ "trigger": { "body": { "a": { "x": 1, "y": 2 } } } })),
            ("f(trigger.body.a) + trigger.body.a.x", json!({ "trigger": { "body": { "a": { "x": 1, "y": 2 } } } })),
            ("trigger.body.list[0].k + 1", json!({ "trigger": { "body": { "list": [{ "k": 1 }] } } })),
            ("trigger.body.s.length + 1", json!({ "trigger": { "body": { "s": "text" } } })),
            ("trigger.body.none.x ?? 1 + 1", json!({ "trigger": { "body": {} } })),
            ("trigger.none?.x + 1", json!({ "trigger": {} })),
            ("steps.fetch.output.rows.map(r => r)", json!({ "steps": { "fetch": { "output": { "rows": [1] } } } })),
            ("steps.maybe?.output + 1", json!({ "steps": {} })),
            ("steps.fetch.error?.message + 1", json!({ "steps": { "fetch": {} } })),
            ("[item.id]", json!({ "item": { "id": 7 } })),
            ("[index]", json!({})),
            ("1 + 1", json!({})),
        ] {
            assert_eq!(variables(script, &roots), expected, "{script}");
        }
    }

    #[test]
    fn equal_scripts_are_one_and_the_others_share_their_variables() {
        let roots = json!({ "trigger": { "a": 1, "b": 2 } });
        let found = batches(&["trigger.a + 1", "trigger.b + 1", "trigger.a + 1"], &roots);
        let texts = vec!["trigger.a + 1".to_owned(), "trigger.b + 1".to_owned()];
        assert_eq!(found, [(texts, Some(json!({ "trigger": { "a": 1, "b": 2 } })))]);
    }

    #[test]
    fn a_connection_is_text_in_one_batch_and_an_object_in_the_next() {
        let roots = json!({ "connections": { "crm": { "token": "t" }, "erp": { "token": "u" } } });
        let found = batches(
            &["connections.crm + 1", "connections.erp.token + 1", "connections.crm.token + 2", "connections.erp + 2"],
            &roots,
        );
        let of =
            |script: &str| found.iter().find(|(scripts, _)| scripts.contains(&script.to_owned())).unwrap().1.clone();
        assert_eq!(
            of("connections.crm + 1"),
            Some(json!({ "connections": { "crm": "whole", "erp": { "token": "u" } } }))
        );
        assert_eq!(
            of("connections.crm.token + 2"),
            Some(json!({ "connections": { "crm": { "token": "t" }, "erp": "whole" } }))
        );
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn what_is_read_is_bounded_and_counted_once() {
        let large = "x".repeat(MAX_ENVIRONMENT_BYTES / 2);
        let roots = json!({ "trigger": { "a": large, "b": large, "c": 1 } });
        let found = batches(&["trigger.a + 1", "trigger.a + 2", "trigger.b + 1", "trigger.c + 1"], &roots);
        let sizes: Vec<_> = found.iter().map(|(scripts, variables)| (scripts.len(), variables.is_some())).collect();
        assert_eq!(sizes, [(2, true), (1, false), (1, true)]);
    }
}
