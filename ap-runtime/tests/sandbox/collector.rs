//! Garbage and the objects of the snapshot, which no collection walks and no reference count keeps: what they refer to lives, what
//! looks like them is not changed with them, and what nobody refers to goes.
//!
//! Each script gives what it gives in Node.js; see `the_scripts_answer_in_node_as_here`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{run, run_body};

/// `churn` makes garbage in rings, enough for several collections each time.
const CHURN: &str = "const churn = (rounds = 30000) => {
  for (let i = 0; i < rounds; i++) {
    const ring = { i, list: [i] };
    ring.self = ring;
    ring.list.push(() => ring);
  }
};
";

/// Scripts, and what they return.
fn scripts() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        (
            "what a prototype refers to",
            "Array.prototype.extra = { of: Array.prototype, list: [1, [2]] };
             Array.prototype.extra.self = Array.prototype.extra;
             churn();
             const seen = [].extra;
             return [seen.self === seen, seen.of === Array.prototype, seen.list];",
            json!([true, true, [1, [2]]]),
        ),
        (
            "a chain through functions, closures and maps that begins at a global",
            "const kept = new Map([['a', { deep: [new Set([{ x: 1 }])] }]]);
             globalThis.keep = () => [...kept.get('a').deep[0]];
             Math.abs.more = { keep: globalThis.keep };
             delete globalThis.keep;
             churn();
             return [Math.abs.more.keep(), typeof globalThis.keep];",
            json!([[{"x": 1}], "undefined"]),
        ),
        (
            "members of a prototype that are exchanged",
            "const { trim } = String.prototype;
             let calls = 0;
             String.prototype.trim = function () { calls++; return trim.call(this) + '!'; };
             churn();
             const during = ' a '.trim();
             String.prototype.trim = trim;
             churn();
             return [during, ' b '.trim(), calls];",
            json!(["a!", "b", 1]),
        ),
        (
            "globals that are deleted and overwritten",
            "const [M, J, P] = [Map, JSON, Promise];
             delete globalThis.Map;
             globalThis.JSON = null;
             Promise = undefined;
             Array.prototype.map = Object.keys = 5;
             churn();
             return [typeof Map, J.stringify([...new M([[1, 2]])]), await P.resolve(3), await (async () => 4)()];",
            json!(["undefined", "[[1,2]]", 3, 4]),
        ),
        (
            "everything overwritten",
            "const { stringify } = JSON, own = Reflect.ownKeys, describe = Object.getOwnPropertyDescriptor, define = Object.defineProperty;
             const names = ['Array', 'String', 'Number', 'Map', 'Set', 'Date', 'RegExp', 'Symbol', 'Error'];
             let count = 0;
             for (let n = 0; n < names.length; n++) {
               const target = globalThis[names[n]].prototype, keys = own(target);
               for (let k = 0; k < keys.length; k++) {
                 const found = describe(target, keys[k]);
                 if (!found.configurable || typeof found.value !== 'function') continue;
                 const ring = () => ring;
                 ring.ring = { ring };
                 define(target, keys[k], { value: ring });
                 count++;
               }
             }
             churn();
             const again = [].push;
             return stringify({ many: count > 100, ring: again === again.ring.ring() });",
            json!(r#"{"many":true,"ring":true}"#),
        ),
        (
            "objects of the same form as a changed one of the snapshot",
            "const one = () => 1, before = Object.keys(one);
             Array.isArray.mark = 1; Math.max.mark = 2; Object.prototype.toString.mark = 3; one.mark = 4;
             const two = () => 2, three = function () {}, four = class {};
             churn();
             const own = (of) => Object.getOwnPropertyNames(of).sort().join();
             return [before, own(two), own(three), own(four), own(one), own(Array.isArray), own(Math.min), two.mark ?? null];",
            json!([
                [],
                "length,name",
                "length,name,prototype",
                "length,name,prototype",
                "length,mark,name",
                "length,mark,name",
                "length,name",
                null
            ]),
        ),
        (
            "members of objects of the snapshot that go, in between and at the end",
            "const keys = () => Object.getOwnPropertyNames(Math).filter((key) => /^(a|s)/.test(key)).sort().join();
             const before = keys();
             delete Math.abs; delete Math.sqrt; Math.added = { math: Math };
             churn();
             const during = keys();
             delete Math.added; Math.abs = (x) => x < 0 ? -x : x;
             churn();
             return [before.includes('abs') && before.includes('sqrt'), during.includes('added'), /\\babs\\b|sqrt/.test(during), Math.abs(-3), Math.added ?? null, Math.sin(0)];",
            json!([true, true, false, 3, null, 0]),
        ),
        (
            "texts of the snapshot that are appended to",
            "let out = [];
             for (const text of [Array.name, JSON[Symbol.toStringTag], 'length', typeof 1, String(null), Object.keys({ constructor: 1 })[0], new TypeError('m').name]) {
               let mine = text, other = text;
               for (let i = 0; i < 40; i++) mine += 'x';
               other += 'y';
               out.push(text, other, mine.length - text.length);
             }
             churn();
             return [out.join(), Array.name, [].length, typeof 2, new TypeError('n').name, 'constructor' in {}];",
            json!([
                "Array,Arrayy,40,JSON,JSONy,40,length,lengthy,40,number,numbery,40,null,nully,40,constructor,constructory,40,TypeError,TypeErrory,40",
                "Array",
                0,
                "number",
                "TypeError",
                true
            ]),
        ),
        (
            "weak maps with keys of the snapshot",
            "const weak = new WeakMap(), set = new WeakSet([Math, Array.prototype]);
             weak.set(Array.prototype, { value: [1] }).set(Math, { weak });
             let own = {};
             weak.set(own, { own });
             churn();
             return [weak.get([].__proto__).value, weak.get(Math).weak === weak, weak.get(own).own === own, set.has(Math), set.has(JSON), weak.delete(Math), weak.has(Math)];",
            json!([[1], true, true, true, false, true, false]),
        ),
        (
            "weak references to what is kept",
            "const held = { ring: null }; held.ring = held;
             const refs = [new WeakRef(held), new WeakRef(Array.prototype), new WeakRef(globalThis)];
             churn(); await 0; churn();
             return [refs[0].deref() === held, refs[1].deref() === Array.prototype, refs[2].deref() === globalThis];",
            json!([true, true, true]),
        ),
        (
            "prototypes exchanged, of objects of the snapshot too",
            "const base = { hello() { return 'hello ' + this.tag; }, tag: 'base' };
             base.self = base;
             Object.setPrototypeOf(Math, base);
             Object.setPrototypeOf(Array.prototype, Object.create(Object.prototype, { tag: { value: 'list' } }));
             churn();
             const seen = [Math.hello(), [].tag, Math.self === base];
             Object.setPrototypeOf(Math, Object.prototype); Object.setPrototypeOf(Array.prototype, Object.prototype);
             churn();
             return [...seen, typeof Math.hello, typeof [].tag];",
            json!(["hello base", "list", true, "undefined", "undefined"]),
        ),
        (
            "accessors on objects of the snapshot",
            "let stored = null;
             Object.defineProperty(JSON, 'live', { configurable: true, get: () => stored, set: (value) => { stored = { value, json: JSON }; } });
             JSON.live = 1;
             churn();
             const first = JSON.live.value;
             Object.defineProperty(JSON, 'live', { get: () => 'second' });
             churn();
             return [first, JSON.live, JSON.stringify({ a: JSON.live })];",
            json!([1, "second", r#"{"a":"second"}"#]),
        ),
        (
            "functions that wait in rings",
            "const waiting = [];
             const results = [];
             const wait = async (n) => { const ring = { n }; ring.ring = ring; await new Promise((go) => waiting.push(go)); return ring.ring.n; };
             for (let i = 0; i < 100; i++) results.push(wait(i));
             churn();
             waiting.forEach((go) => go());
             churn();
             function* numbers() { const ring = {}; ring.ring = ring; for (let i = 0; i < 3; i++) { churn(10000); yield ring.ring === ring && i; } }
             return [(await Promise.all(results)).reduce((a, b) => a + b), [...numbers()]];",
            json!([4950, [0, 1, 2]]),
        ),
        (
            "names and symbols that come and go",
            "for (let i = 0; i < 200000; i++) { const at = { ['name' + i]: i }; delete at['name' + i]; Symbol('s' + i); }
             const kept = Symbol.for('kept');
             Array.prototype[kept] = 1; Map.prototype.lateName = 2;
             churn();
             return [[][Symbol.for('kept')], new Map().lateName, Object.keys(Map.prototype), 'name7' in {}];",
            json!([1, 2, ["lateName"], false]),
        ),
        (
            "a long walk of changes, each compared with what a model says",
            "let state = 12345;
             const draw = (below) => { state = (Math.imul(state, 1103515245) + 12345) >>> 0; return (state >>> 8) % below; };
             const targets = [Array.prototype, Math, JSON, Map, Set.prototype, Object, String.prototype, Promise, Reflect, Date, RegExp.prototype, Error, parseInt, globalThis, Symbol, Number.prototype, [], {}, () => 1];
             const model = targets.map(() => new Map());
             const make = (n) => [() => ({ n }), () => [n, [n]], () => { const f = () => f.n; f.n = n; return f; }, () => { const r = { n }; r.r = r; return r; }, () => 'text' + n, () => new Map([[n, { n }]]), () => BigInt(n) << 70n, () => Symbol('s' + n)][n % 8]();
             let wrong = 0, checks = 0;
             for (let i = 0; i < 30000; i++) {
               const at = draw(targets.length), target = targets[at], known = model[at], key = 'walk' + draw(12);
               switch (draw(6)) {
                 case 0: case 1: { const value = make(draw(1000)); target[key] = value; known.set(key, { value, text: typeof value }); break; }
                 case 2: delete target[key]; known.delete(key); break;
                 case 3: { const value = make(draw(1000)); Object.defineProperty(target, key, { value, writable: true, configurable: true, enumerable: draw(2) === 0 }); known.set(key, { value, text: typeof value }); break; }
                 case 4: { const from = targets[draw(targets.length)], ring = { from, target }; ring.ring = [ring]; break; }
                 default: if (draw(400) === 0) churn(20000);
               }
               const probe = 'walk' + draw(12), own = Object.getOwnPropertyDescriptor(target, probe), expected = known.get(probe);
               checks++;
               if (expected === undefined ? own !== undefined : own === undefined || own.value !== expected.value || typeof own.value !== expected.text) wrong++;
               if (typeof own?.value === 'function' && own.value() !== own.value.n) wrong++;
               if (own?.value?.r && own.value.r !== own.value) wrong++;
             }
             for (let at = 0; at < targets.length; at++)
               if (Object.getOwnPropertyNames(targets[at]).filter((name) => /^walk/.test(name)).sort().join() !== [...model[at].keys()].sort().join()) wrong++;
             return [wrong, checks, [3, 1, 2].sort(), JSON.stringify({ a: [1] }), new Set([1, 1]).size, 'a-b'.split('-'), parseInt('7')];",
            json!([0, 30000, [1, 2, 3], r#"{"a":[1]}"#, 1, ["a", "b"], 7]),
        ),
    ]
}

#[tokio::test]
async fn what_the_snapshot_refers_to_lives() {
    for (name, body, expected) in scripts() {
        let output = run(&format!("{CHURN}export const code = async (params) => {{ {body} }};")).await;
        assert_eq!(output.map(|output| output.value), Ok(expected), "{name}");
    }
}

/// What the scripts expect is the language's, not the engine's. Skipped where there is no Node.js.
#[test]
fn the_scripts_answer_in_node_as_here() {
    let Ok(mut node) =
        Command::new("node").arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    else {
        return;
    };
    // They change what all share, so each has globals of its own.
    let mut program = String::from("const vm = require('vm'); const out = []; (async () => {\n");
    for (_, body, _) in scripts() {
        let script = format!("'use strict'; {CHURN}(async () => {{ {body} }})().then((value) => text(value))");
        let script = Value::String(script);
        program += &format!(
            "out.push(JSON.parse(await vm.runInContext({script}, vm.createContext({{ text: JSON.stringify }}))));\n"
        );
    }
    program += "console.log(JSON.stringify(out)); })();";
    node.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
    let said = node.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let answers: Vec<Value> = serde_json::from_slice(&said.stdout).unwrap();
    for ((name, _, expected), answer) in scripts().into_iter().zip(answers) {
        assert_eq!(answer, expected, "{name}");
    }
}

/// Garbage of many kinds, in all far more than a step's memory, part of it tied to objects of the snapshot.
#[tokio::test]
async fn garbage_goes_also_where_it_refers_to_the_snapshot() {
    for body in [
        "for (let i = 0; i < 300000; i++) { const a = { i, to: [Math, Array.prototype, globalThis] }; a.a = a; }",
        "for (let i = 0; i < 200000; i++) { const f = () => f; f.proto = Object.create(Map.prototype, { f: { value: f } }); }",
        "const weak = new WeakMap(); for (let i = 0; i < 150000; i++) { const key = {}; weak.set(key, [key, new Array(20)]); }",
        "for (let i = 0; i < 2000; i++) { Array.prototype.extra = new Array(5000).fill({}); }",
        "for (let i = 0; i < 3000; i++) { const u = new Uint8Array(100000); u.ring = u; }",
        "for (let i = 0; i < 100000; i++) { const e = new Error('x' + i); e.cause = e; }",
        "for (let i = 0; i < 40000; i++) { const h = new Headers({ a: String(i) }); h.ring = h; const b = Buffer.from('text' + i); b.ring = b; }",
        "for (let i = 0; i < 40000; i++) { const p = new Promise(() => {}); p.ring = p; p.then(() => p); }",
        "for (let i = 0; i < 60000; i++) { class A extends Array { static ring = A; #x = [A]; } new A(); }",
        "for (let i = 0; i < 100000; i++) { const g = (function* () { yield g; })(); g.next(); }",
        "for (let i = 0; i < 400; i++) { globalThis['g' + i % 7] = new Map(Array.from({ length: 500 }, (_, n) => [n, { n }])); }",
    ] {
        let output = run_body(&format!("{body} return 'done';")).await;
        assert_eq!(output.map(|output| output.value), Ok(json!("done")), "{body}");
    }
}

/// Whether and when a registry hears is the engine's matter; of what lives it must not hear.
#[tokio::test]
async fn registries_hear_of_garbage_only() {
    let body = "const heard = new Set(), refs = [];
         const registry = new FinalizationRegistry((name) => heard.add(name));
         const held = {}; held.ring = held;
         registry.register(held, 'held'); registry.register(Array.prototype, 'prototype'); registry.register(parseInt, 'function');
         Array.prototype.kept = { list: [] }; registry.register(Array.prototype.kept, 'kept');
         for (let i = 0; i < 200; i++) { const ring = { i }; ring.ring = ring; registry.register(ring, 'garbage'); refs.push(new WeakRef(ring)); }
         churn(100000); await 0; await 0; churn(100000); await 0;
         return [heard.has('garbage'), ['held', 'prototype', 'function', 'kept'].some((name) => heard.has(name)),
           refs.some((ref) => ref.deref() === undefined), held.ring === held && [].kept.list.length];";
    let output = run(&format!("{CHURN}export const code = async (params) => {{ {body} }};")).await;
    assert_eq!(output.map(|output| output.value), Ok(json!([true, false, true, 0])));
}
