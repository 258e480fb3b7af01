//! Steps that mean harm. None may outlive its deadline, escape, or be felt by the next step.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ap_core::id::ProjectId;
use ap_runtime::sandbox::{CodeError, CodeLimits, CodeSandbox, ExpressionRequest, SandboxCapacity};
use serde_json::Value;
use tokio::sync::Mutex;

use super::{request, step};

/// One thread and one attack at a time, so that an attack is measured alone and its successor runs where it ran.
static TARGET: LazyLock<Mutex<Box<dyn CodeSandbox>>> =
    LazyLock::new(|| Mutex::new(crate::start(SandboxCapacity::default().with_threads(1).unwrap())));

/// How a step must end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// At its deadline.
    Timeout,
    /// For want of memory; a slow machine may reach the deadline first.
    Memory,
    /// With an error of JavaScript's own.
    Throws(&'static str),
    /// Without a result that could be used.
    Refused,
    /// With this JSON.
    Gives(&'static str),
}

use End::{Gives, Memory, Refused, Throws, Timeout};

const DEADLINE: Duration = Duration::from_millis(200);
const LONG_DEADLINE: Duration = Duration::from_secs(5);

const WELL_MEANING: &str = "export const code = (params) => params.map((x) => x * 2).join();";

/// A debug build on a busy machine.
const SLACK: Duration = Duration::from_millis(500);

/// Name, body of the step's function, end.
const BODIES: &[(&str, &str, End)] = &[
    ("loop in the body", "while (true) {}", Timeout),
    ("loop that catches everything", "while (true) { try { while (true) {} } catch {} finally { continue } }", Timeout),
    ("flood of microtasks", "const again = () => Promise.resolve().then(again); await again();", Timeout),
    (
        "flood by queueMicrotask",
        "const again = () => queueMicrotask(again); again(); await new Promise(() => {});",
        Timeout,
    ),
    ("endless generator", "function* g() { while (true) yield 1; } return [...g()].length;", Memory),
    (
        "endless iteration",
        "for (const x of { [Symbol.iterator]: () => ({ next: () => ({ done: false }) }) });",
        Timeout,
    ),
    ("waiting for a clock that stands still", "const end = Date.now() + 1000; while (Date.now() < end);", Timeout),
    ("nested quantifiers", "return /^(a+)+$/.test('a'.repeat(40) + '!');", Timeout),
    ("alternation in a quantifier", "return /^(?:a|a|aa)+$/.test('a'.repeat(60) + '!');", Timeout),
    ("back-references", r"return /^(a*)*\1*\1*$/.test('a'.repeat(100) + '!');", Timeout),
    ("search in a C loop", "const s = 'x'.repeat(5e6); while (true) s.indexOf('yx');", Timeout),
    ("one long search", "return 'x'.repeat(5e6).indexOf('x'.repeat(2e6) + 'y');", Timeout),
    ("squaring BigInts", "let n = 3n; while (true) n *= n;", Refused),
    ("a long power", "return String(7n ** 5000000n).length;", Timeout),
    ("arrays without end", "const all = []; while (true) all.push(new Array(1e6).fill(all));", Memory),
    ("half a gigabyte", "return new ArrayBuffer(5e8);", Memory),
    ("one huge array buffer", "return new ArrayBuffer(2 ** 31);", Throws("RangeError")),
    ("array buffers without end", "const all = []; while (true) all.push(new ArrayBuffer(1 << 20));", Memory),
    ("doubling a string", "let s = 'x'; while (true) s += s;", Refused),
    (
        "catching refused allocations",
        "const all = []; while (true) { try { while (true) all.push(new ArrayBuffer(1 << 20)); } catch {} }",
        Timeout,
    ),
    ("objects without end", "let o = null; while (true) o = { o, a: 1, b: [1] };", Memory),
    ("closures without end", "let f = null; while (true) { const g = f; f = () => g; }", Memory),
    ("promises without end", "const all = []; while (true) all.push(new Promise(() => {}));", Memory),
    ("a map without end", "const m = new Map(); for (let i = 0; ; i++) m.set(i, {});", Memory),
    ("recursion", "const f = (n) => f(n + 1) + 1; return f(0);", Throws("RangeError")),
    ("recursion that retries", "const f = () => { try { f(); } finally { f(); } }; f();", Timeout),
    ("recursion through toString", "const o = { toString() { return `${o}`; } }; return `${o}`;", Throws("RangeError")),
    ("recursion through a proxy", "const p = new Proxy({}, { get: (t, k, r) => r[k] }); return p.x;", Refused),
    ("recursion through toJSON", "const o = { toJSON: () => ({ o }) }; return o;", Refused),
    ("a deep JSON text", "return JSON.parse('['.repeat(1e6));", Refused),
    ("a deep source for eval", "return eval('('.repeat(1e6));", Refused),
    ("deep brackets for eval", "return eval('['.repeat(1e6) + ']'.repeat(1e6));", Refused),
    ("a deep pattern", "return new RegExp('('.repeat(2e5) + ')'.repeat(2e5)).test('');", Refused),
    ("a deep template", "return eval('`${'.repeat(1e5));", Refused),
    ("flattening a deep array", "let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return a.flat(Infinity);", Refused),
    ("a long sort", "const a = Array.from({ length: 3e6 }, (_, i) => -i); return a.sort().length;", Timeout),
    (
        "a comparator that lies",
        "const a = new Array(1e5).fill(0); while (true) a.sort(() => Math.random() - 0.5);",
        Timeout,
    ),
    ("an array-like of length 2^53", "return Array.prototype.indexOf.call({ length: 2 ** 53 - 1 }, 1);", Timeout),
    ("joining an array-like", "return Array.prototype.join.call({ length: 2 ** 53 - 1 }, 'x');", Refused),
    ("spreading an array-like", "return Math.max.apply(null, { length: 2 ** 31 });", Throws("RangeError")),
    ("padding", "return 'x'.padEnd(2 ** 31, 'y');", Refused),
    ("a sparse array as the result", "const a = []; a[4294967294] = 1; return a;", Refused),
    ("a long result", "return 'x'.repeat(2e6);", Refused),
    ("a wide result", "return new Array(1e6).fill(0);", Refused),
    ("a cycle as the result", "const o = {}; o.o = o; return o;", Throws("TypeError")),
    ("a getter that loops in the result", "return { get a() { while (true); } };", Timeout),
    ("a thrown value with a message that loops", "throw { get message() { while (true); } };", Timeout),
    ("a thrown value with a huge message", "throw new Error('x'.repeat(2e6));", Throws("Error")),
    ("a thenable that loops", "return { then() { while (true); } };", Timeout),
    ("a thenable that answers twice", "return { then(yes, no) { yes(1); no(2); yes(3); } };", Gives("1")),
    ("a promise that never settles", "await new Promise(() => {});", Refused),
    ("a huge console line", "console.log('x'.repeat(2e6)); return 1;", Gives("1")),
    ("console lines without end", "while (true) console.log('again');", Timeout),
    (
        "a console value that loops",
        "console.log({ [Symbol.for('nodejs.util.inspect.custom')]() { while (true); } });",
        Timeout,
    ),
    (
        "replaced prototypes",
        "Object.prototype.then = Array.prototype.push = Function.prototype.call = null; Object.freeze(Object.prototype); return 1;",
        Gives("1"),
    ),
    ("a then for everything", "Object.prototype.then = function (yes) { yes('mine'); }; return {};", Gives("\"mine\"")),
    (
        "replaced built-ins",
        "globalThis.JSON = globalThis.Promise = globalThis.Error = undefined; return [1];",
        Gives("[1]"),
    ),
    ("the global of a Function", "return typeof Function('return this')().process;", Gives("\"object\"")),
    (
        "the constructor's constructor",
        "return typeof (async () => {}).constructor('return import(\"os\")');",
        Gives("\"function\""),
    ),
    ("importing a built-in module", "await import('os');", Throws("Error")),
    ("importing from Function", "await Function('return import(\"std\")')();", Throws("Error")),
    ("importing a URL", "await import('data:text/javascript,export default 1');", Throws("Error")),
    ("requiring a proxy", "require(new Proxy({}, { get() { throw new RangeError('mine'); } }));", Throws("RangeError")),
    (
        "climbing from console",
        "return typeof console.log.constructor('return globalThis')().console;",
        Gives("\"object\""),
    ),
    ("callers of a function", "function f() { return f.caller; } return f();", Refused),
    ("a stack trace hook", "Error.prepareStackTrace = () => { while (true); }; null.x;", Timeout),
    ("weak references", "new FinalizationRegistry(() => { while (true); }).register({}, 1); return 1;", Gives("1")),
    (
        "typed array over a resized buffer",
        "const b = new ArrayBuffer(8, { maxByteLength: 1 << 20 }); const a = new Uint32Array(b); b.resize(0); a[1] = 1; return a.length;",
        Gives("0"),
    ),
    (
        "sorting while shrinking",
        "const a = Array.from({ length: 1000 }, (_, i) => i); a.sort(() => { a.length = 0; return 1; }); return a.length >= 0;",
        Gives("true"),
    ),
    (
        "detaching while filling",
        "const b = new ArrayBuffer(1024); new Uint8Array(b).fill({ valueOf() { b.transfer(); return 7; } }); return b.byteLength;",
        Refused,
    ),
    ("bad base64", "return atob('*');", Refused),
];

/// What a parser may recurse into.
const DEEP: &[&str] = &[
    "(",
    "[",
    "{",
    "!",
    "-",
    "`${",
    "a=>",
    "if(1)",
    "new ",
    "x?",
    "()=>{",
    "class{[",
    "a.b(",
    "async()=>",
    "/*",
    "[{a:",
];

/// Name, whole module, end.
const MODULES: &[(&str, &str, End)] = &[
    ("loop at the top level", "while (true) {} export const code = () => 1;", Timeout),
    ("top level that never settles", "await new Promise(() => {}); export const code = () => 1;", Refused),
    ("top level that throws", "throw new TypeError('no'); export const code = () => 1;", Throws("TypeError")),
    ("code that is not a function", "export const code = { call: 1 };", Refused),
    ("an export that fails to exist", "export { code }; let code;", Refused),
    ("a zero in the source", "export const code = () => 1;\0while (true) {}", Refused),
    ("nothing but a shebang", "#!/bin/sh", Refused),
];

/// Expressions that mean harm; the end is that of the expression.
const EXPRESSIONS: &[(&str, End)] = &[
    ("(() => { for (;;); })()", Timeout),
    ("(function f() { return f() + 1; })()", Throws("RangeError")),
    ("/^(a+)+$/.test('a'.repeat(40) + '!')", Timeout),
    ("'x'.repeat(2 ** 30)", Refused),
    ("Array(1e9).fill(0)", Memory),
    ("[...Array(3e6).keys()].sort((a, b) => b - a).length", Timeout),
    ("9n ** 9999999n", Timeout),
    ("item.constructor.constructor('return this')() === globalThis", Gives("true")),
    ("constructor.constructor('return process')().env", Gives("{}")),
    ("Object.getPrototypeOf(item).polluted = 1, ({}).polluted", Gives("1")),
    ("({}).polluted ?? 'clean'", Gives("\"clean\"")),
    ("eval('1 + 1')", Gives("2")),
    ("Function('return 7')()", Gives("7")),
    ("import('fs')", Gives("{}")),
    ("require('fs')", Refused),
    ("fetch('https://api.example')", Gives("{}")),
    ("setTimeout(() => 1, 10)", Refused),
    ("crypto.randomUUID()", Refused),
    ("console.log('x')", Refused),
    ("globalThis.item = 2, item", Gives("2")),
    ("item.id", Gives("1")),
    ("new Promise(() => {})", Gives("{}")),
    ("(async () => 1)()", Gives("{}")),
    ("({ toJSON() { for (;;); } })", Timeout),
    ("({ get a() { throw new TypeError('mine') } })", Throws("TypeError")),
    ("new Proxy({}, { ownKeys() { throw new SyntaxError('mine') } })", Throws("SyntaxError")),
    ("JSON.parse('['.repeat(100000))", Refused),
    ("Array(200).fill().reduce((inner) => [inner], 1)", Refused),
    ("Symbol.iterator", Refused),
    ("(() => { throw { toString() { for (;;); } } })()", Refused),
    ("WebAssembly", Throws("ReferenceError")),
    ("SharedArrayBuffer", Throws("ReferenceError")),
    ("arguments", Refused),
    ("new.target", Refused),
    ("await 1", Refused),
    ("yield", Refused),
    ("this", Gives(r#"{"item":{"id":1}}"#)),
];

#[tokio::test]
async fn every_hostile_expression_is_contained() {
    let mut surprises = Vec::new();
    for (text, end) in EXPRESSIONS {
        let sandbox = TARGET.lock().await;
        let request = ExpressionRequest {
            project: ProjectId::from_u128(1),
            expressions: vec![(*text).into()],
            variables: r#"{"item":{"id":1}}"#.into(),
            now: crate::NOW,
            seed: [1; 32],
            limits: CodeLimits::default().with_timeout(DEADLINE).unwrap(),
        };
        let started = Instant::now();
        let result = sandbox.evaluate(request).await.unwrap().remove(0);
        assert!(started.elapsed() < DEADLINE + SLACK, "{text} took {:?}", started.elapsed());
        let as_expected = match (&result, end) {
            (Err(CodeError::Timeout { .. }), Timeout | Memory | Refused) => true,
            (Err(CodeError::MemoryLimit { .. }), Memory | Refused) => true,
            (Err(CodeError::Thrown { name, .. }), Throws(expected)) => name == expected,
            (Ok(value), Gives(json)) => *value == serde_json::from_str::<Value>(json).unwrap(),
            (Err(CodeError::Busy | CodeError::Bug { .. }), _) => false,
            (Err(_), Refused) => true,
            _ => false,
        };
        if !as_expected {
            surprises.push(format!("{text} should end as {end:?}, but: {result:?}"));
        }
        let next = sandbox.run(crate::request(WELL_MEANING, "[1,2]")).await;
        assert_eq!(next.unwrap().value, "2,4", "after {text}");
    }
    assert!(surprises.is_empty(), "{surprises:#?}");
}

/// Storms of calls to the host; each ends with its own limit.
#[tokio::test]
async fn storms_of_host_calls_end_with_their_limit() {
    let storms = [
        "for (;;) crypto.getRandomValues(new Uint8Array(1));",
        "for (;;) require('crypto').createHash('sha256').update('x').digest();",
        "for (;;) new URL('https://a.example/');",
        "for (;;) { setTimeout(() => {}, 1e6); }",
        "const all = []; for (;;) all.push(fetch('https://a.example/').catch(() => {}));",
        "const again = () => { setTimeout(again, 0); setTimeout(again, 0); }; again(); await new Promise(() => {});",
    ];
    for body in storms {
        let mut request = request(&step(body), "{}");
        request.limits = request.limits.with_host_calls(2_000).unwrap().with_timeout(LONG_DEADLINE).unwrap();
        let result = TARGET.lock().await.run(request).await;
        let ended = match &result {
            Err(CodeError::HostCallLimit { .. }) => true,
            // What the platform itself says to too many timers.
            Err(CodeError::Thrown { .. }) => true,
            _ => false,
        };
        assert!(ended, "{body}: {result:?}");
    }
}

#[tokio::test]
async fn every_hostile_body_is_contained() {
    let mut surprises = Vec::new();
    for (name, body, end) in BODIES {
        surprises.extend(attack(name, &step(body), *end).await);
    }
    assert!(surprises.is_empty(), "{surprises:#?}");
}

#[tokio::test]
async fn every_hostile_module_is_contained() {
    let mut surprises = Vec::new();
    for (name, source, end) in MODULES {
        surprises.extend(attack(name, source, *end).await);
    }
    assert!(surprises.is_empty(), "{surprises:#?}");
}

#[tokio::test]
async fn deep_sources_are_contained() {
    let mut surprises = Vec::new();
    for opening in DEEP {
        surprises.extend(attack(opening, &opening.repeat(50_000 / opening.len()), Refused).await);
        let code = format!("export const code = {}", opening.repeat(200_000 / opening.len()));
        surprises.extend(attack(opening, &code, Refused).await);
    }
    assert!(surprises.is_empty(), "{surprises:#?}");
}

#[tokio::test]
async fn deep_parameters_are_contained() {
    for text in
        ["[".repeat(1 << 20), "{\"a\":".repeat(1 << 18), format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20))]
    {
        let result = TARGET.lock().await.run(request(&step("return 1;"), &text)).await;
        assert!(matches!(result, Err(CodeError::InvalidParams { .. } | CodeError::StackExhausted)), "{result:?}");
    }
}

/// Runs one step and checks that a well-meaning one still works. Says so if it ended otherwise than expected.
async fn attack(name: &str, source: &str, end: End) -> Option<String> {
    let mut request = request(source, "{}");
    let deadline = match end {
        Timeout | Memory | Refused => DEADLINE,
        Throws(_) | Gives(_) => LONG_DEADLINE, // not what ends these
    };
    request.limits = request.limits.with_timeout(deadline).unwrap();
    let sandbox = TARGET.lock().await;
    let started = Instant::now();
    let result = sandbox.run(request).await;
    let took = started.elapsed();
    assert!(took < deadline + SLACK, "{name} took {took:?}");

    let as_expected = match (&result, end) {
        (Err(CodeError::Timeout { .. }), Timeout | Memory | Refused) => true,
        (Err(CodeError::MemoryLimit { .. }), Memory | Refused) => true,
        (Err(CodeError::Thrown { name, message, stack, .. }), Throws(_) | Refused) => {
            assert!(name.len() <= 200 && message.len() <= 5_000 && stack.len() <= 9_000);
            end == Refused || matches!(end, Throws(expected) if expected == name)
        }
        (Err(CodeError::Busy | CodeError::Bug { .. }), _) => false,
        (Err(_), Refused) => true,
        (Ok(output), Gives(json)) => output.value == serde_json::from_str::<Value>(json).unwrap(),
        _ => false,
    };
    let next = sandbox.run(crate::request(WELL_MEANING, "[1,2]")).await;
    assert_eq!(next.unwrap().value, "2,4", "after {name}");
    (!as_expected).then(|| format!("{name} should end as {end:?}, but: {result:?}"))
}
