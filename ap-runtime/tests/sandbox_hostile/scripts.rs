//! The scripts: name, body of the step's function, end.

use crate::attack::End::{self, Anything, Gives, Memory, Refused, Stopped, Throws, Timeout};

/// Name, body of the step's function, end.
pub(crate) type Body = (&'static str, &'static str, End);

/// What the scripts of a class have in common, and the scripts.
pub(crate) const CLASSES: &[(&str, &[Body])] = &[
    ("loops", LOOPS),
    ("prototype games", PROTOTYPES),
    ("constructor chains", CONSTRUCTORS),
    ("getters, proxies and thenables", ACCESSORS),
    ("symbol tricks", SYMBOLS),
    ("error-stack games", STACKS),
    ("pattern and JSON bombs", PATTERNS),
    ("allocation bombs", ALLOCATIONS),
    ("deep recursion", RECURSION),
    ("promise storms", PROMISES),
    ("timer storms", TIMERS),
    ("host-call storms", CALLS),
    ("output bombs", OUTPUTS),
    ("memory-grow races", GROWTH),
    ("encodings and odd input", INPUTS),
];

/// Loops without end.
const LOOPS: &[Body] = &[
    ("loop in the body", "while (true) {}", Timeout),
    ("loop that catches everything", "while (true) { try { while (true) {} } catch {} finally { continue } }", Timeout),
    ("endless generator", "function* g() { while (true) yield 1; } return [...g()].length;", Memory),
    (
        "endless iteration",
        "for (const x of { [Symbol.iterator]: () => ({ next: () => ({ done: false }) }) });",
        Timeout,
    ),
    ("waiting for a clock that stands still", "const end = Date.now() + 1000; while (Date.now() < end);", Timeout),
    ("search in a C loop", "const s = 'x'.repeat(5e6); while (true) s.indexOf('yx');", Timeout),
    ("one long search", "return 'x'.repeat(5e6).indexOf('x'.repeat(2e6) + 'y');", Timeout),
    ("a long sort", "const a = Array.from({ length: 3e6 }, (_, i) => -i); return a.sort().length;", Timeout),
    (
        "a comparator that lies",
        "const a = new Array(1e5).fill(0); while (true) a.sort(() => Math.random() - 0.5);",
        Timeout,
    ),
    ("an array-like of length 2^53", "return Array.prototype.indexOf.call({ length: 2 ** 53 - 1 }, 1);", Timeout),
    ("joining an array-like", "return Array.prototype.join.call({ length: 2 ** 53 - 1 }, 'x');", Refused),
    ("squaring BigInts", "let n = 3n; while (true) n *= n;", Refused),
    ("a long power", "return String(7n ** 5000000n).length;", Timeout),
    ("loop in a finally", "try { return 1; } finally { for (;;); }", Timeout),
    (
        "loop in a generator that is closed",
        "function* g() { try { yield 1; } finally { for (;;); } } for (const x of g()) break; return 1;",
        Timeout,
    ),
    ("loop in an async generator", "async function* g() { for (;;) yield 1; } for await (const x of g());", Timeout),
    ("loop in a static block", "class A { static { for (;;); } } return 1;", Timeout),
    ("loop in a reviver", r#"return JSON.parse("[1]", () => { for (;;); });"#, Timeout),
    (
        "loop in Symbol.species",
        "class A extends Array { static get [Symbol.species]() { for (;;); } } return new A(1).map((x) => x);",
        Timeout,
    ),
    ("filling an array-like", "return Array.prototype.fill.call({ length: 2 ** 53 - 1 }, 0);", Refused),
    ("reversing an array-like", "return Array.prototype.reverse.call({ length: 2 ** 53 - 2 });", Refused),
];

/// Replaced, poisoned and exchanged prototypes.
const PROTOTYPES: &[Body] = &[
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
    (
        "a prototype that is a proxy",
        r#"Object.setPrototypeOf(Object.prototype, null); Array.prototype.__proto__ = new Proxy({}, { get() { throw new RangeError("mine"); } }); return [].missing;"#,
        Throws("RangeError"),
    ),
    ("a cycle of prototypes", "const a = {}, b = Object.create(a); Object.setPrototypeOf(a, b);", Throws("TypeError")),
    (
        "a chain of a million prototypes",
        "let o = {}; for (let i = 0; i < 1e6; i++) o = Object.create(o); return o.missing === undefined;",
        Anything,
    ),
    (
        "setters on Object.prototype",
        "const seen = []; for (const key of ['run', 'step', 'id', 'then', 'code', 'default', 'name', 'message', 'stack', 'toJSON']) Object.defineProperty(Object.prototype, key, { set(v) { seen.push(key + typeof v); }, get() { return undefined; }, configurable: true }); return seen.length;",
        Gives("0"),
    ),
    (
        "toJSON for everything",
        "Object.prototype.toJSON = function () { return 'mine'; }; return { a: 1 };",
        Gives("\"mine\""),
    ),
    (
        "toJSON that exchanges the result",
        "const o = { toJSON() { delete o.toJSON; return { get a() { Object.prototype.b = 1; return 2; } }; } }; return o;",
        Gives("{\"a\":2}"),
    ),
    (
        "getters for the indices of arrays",
        "Object.defineProperty(Array.prototype, '0', { get() { throw new RangeError('mine'); }, set(v) { throw new RangeError('mine'); }, configurable: true }); console.log('x', { a: [1] }); return [1].length;",
        Anything,
    ),
    (
        "a frozen world",
        "for (const key of Object.getOwnPropertyNames(globalThis)) { try { Object.freeze(globalThis[key]); Object.freeze(globalThis[key].prototype); } catch {} } Object.freeze(globalThis); return 1;",
        Gives("1"),
    ),
    (
        "a global that is sealed and emptied",
        "for (const key of Reflect.ownKeys(globalThis)) { try { delete globalThis[key]; } catch {} } return 1;",
        Gives("1"),
    ),
    (
        "class fields named __proto__",
        "class A { __proto__ = null; ['__proto__'] = 1; } return Object.keys(new A()).length;",
        Gives("1"),
    ),
];

/// Climbing by constructors, `Function`, `eval` and `import()`.
const CONSTRUCTORS: &[Body] = &[
    ("the global of a Function", "return typeof Function('return this')().process;", Gives("\"object\"")),
    (
        "the constructor's constructor",
        "return typeof (async () => {}).constructor('return import(\"os\")');",
        Gives("\"function\""),
    ),
    ("importing a built-in module", "await import('os');", Throws("Error")),
    ("importing from Function", "await Function('return import(\"std\")')();", Throws("Error")),
    ("importing a URL", "await import('data:text/javascript,export default 1');", Throws("Error")),
    (
        "climbing from console",
        "return typeof console.log.constructor('return globalThis')().console;",
        Gives("\"object\""),
    ),
    ("callers of a function", "function f() { return f.caller; } return f();", Refused),
    ("requiring a proxy", "require(new Proxy({}, { get() { throw new RangeError('mine'); } }));", Throws("RangeError")),
    (
        "climbing from the context",
        "return Object.keys(ctx.constructor.constructor('return process.env')());",
        Gives("[]"),
    ),
    (
        "climbing from an error",
        "try { require('fs'); } catch (error) { return typeof error.constructor.constructor('return this')().Deno; }",
        Gives("\"undefined\""),
    ),
    (
        "climbing from a thrown RangeError",
        "const f = () => f(); try { f(); } catch (error) { return typeof error.constructor.constructor('return process')().binding; }",
        Gives("\"undefined\""),
    ),
    (
        "climbing from a response",
        "return fetch('https://a.example').catch((error) => typeof error.constructor.constructor('return process')().mainModule);",
        Gives("\"undefined\""),
    ),
    (
        "generators of functions",
        "const of = (f) => Object.getPrototypeOf(f).constructor; return [of(function* () {})('yield 1')().next().value, typeof of(async function* () {})('yield 1')().next];",
        Gives("[1,\"function\"]"),
    ),
    ("indirect eval", "(0, eval)('var left = 1'); return typeof left;", Anything),
    ("eval in a parameter", "return ((a = eval('1 + 1')) => a)();", Gives("2")),
    ("importing a path", "await import('/etc/hostname');", Throws("Error")),
    ("importing the step itself", "await import('step.mjs');", Anything),
    ("importing the platform", "await import('ap:platform');", Throws("Error")),
    (
        "importing what toString says",
        "await import({ toString() { throw new RangeError('mine'); } });",
        Throws("RangeError"),
    ),
    ("a flood of imports", "for (let i = 0; ; i++) await import('x' + i).catch(() => {});", Anything),
    (
        "new.target of a proxy",
        "return Reflect.construct(Function, ['return typeof Deno'], new Proxy(function () {}, {}))();",
        Gives("\"undefined\""),
    ),
];

/// Values that act when the host reads them.
const ACCESSORS: &[Body] = &[
    ("a getter that loops in the result", "return { get a() { while (true); } };", Timeout),
    ("a thrown value with a message that loops", "throw { get message() { while (true); } };", Timeout),
    ("a thenable that loops", "return { then() { while (true); } };", Timeout),
    ("a thenable that answers twice", "return { then(yes, no) { yes(1); no(2); yes(3); } };", Gives("1")),
    ("recursion through a proxy", "const p = new Proxy({}, { get: (t, k, r) => r[k] }); return p.x;", Refused),
    (
        "a console value that loops",
        "console.log({ [Symbol.for('nodejs.util.inspect.custom')]() { while (true); } });",
        Timeout,
    ),
    ("a cycle as the result", "const o = {}; o.o = o; return o;", Throws("TypeError")),
    (
        "a proxy as the result",
        "return new Proxy({ a: 1 }, { ownKeys: () => ['a', 'b'], getOwnPropertyDescriptor: () => ({ enumerable: true, configurable: true, value: 7 }), get: () => 7 });",
        Anything,
    ),
    (
        "a revoked proxy as the result",
        "const { proxy, revoke } = Proxy.revocable({}, {}); revoke(); return proxy;",
        Throws("TypeError"),
    ),
    (
        "a proxy that revokes itself",
        "const r = Proxy.revocable({}, { get() { r.revoke(); return 1; }, ownKeys() { r.revoke(); return ['a']; } }); return r.proxy;",
        Refused,
    ),
    (
        "a getter that changes its neighbours",
        "const o = { get a() { delete o.b; o.c = 1; return 1; }, b: 2 }; return o;",
        Anything,
    ),
    ("a thenable without end", "const again = () => ({ then(yes) { yes(again()); } }); return again();", Timeout),
    (
        "a thenable that throws late",
        "return { then(yes, no) { queueMicrotask(() => no(new RangeError('mine'))); } };",
        Throws("RangeError"),
    ),
    (
        "a thrown proxy",
        "throw new Proxy(new Error('x'), { get() { throw 1; }, getPrototypeOf() { throw 2; } });",
        Refused,
    ),
    (
        "a result of ten million getters",
        "return Array.from({ length: 1e5 }, () => ({ get a() { return [1, 2, 3]; } }));",
        Refused,
    ),
    (
        "headers of a proxy",
        "await fetch('https://a.example', { headers: new Proxy({}, { ownKeys() { throw new RangeError('mine'); } }) });",
        Throws("RangeError"),
    ),
    (
        "a body whose toString loops",
        "await fetch('https://a.example', { method: 'POST', body: { toString() { for (;;); } } });",
        Timeout,
    ),
    ("a URL whose toString loops", "new URL({ toString() { for (;;); } });", Timeout),
];

/// Well-known symbols that lie.
const SYMBOLS: &[Body] = &[
    ("Symbol.toPrimitive that loops", "return `${{ [Symbol.toPrimitive]() { for (;;); } }}`;", Timeout),
    (
        "Symbol.hasInstance for errors",
        "Object.defineProperty(Error, Symbol.hasInstance, { value: () => { for (;;); } }); throw new TypeError('mine');",
        Anything,
    ),
    (
        "Symbol.toStringTag that throws",
        "Object.defineProperty(Object.prototype, Symbol.toStringTag, { get() { throw new RangeError('mine'); } }); console.log({}); return 1;",
        Anything,
    ),
    (
        "Symbol.iterator without end",
        "Array.prototype[Symbol.iterator] = function* () { for (;;) yield 1; }; return [...[1]].length;",
        Anything,
    ),
    (
        "Symbol.asyncIterator without end",
        "for await (const x of { [Symbol.asyncIterator]: () => ({ next: async () => ({ done: false }) }) });",
        Timeout,
    ),
    (
        "Symbol.isConcatSpreadable of 2^53",
        "return [].concat({ [Symbol.isConcatSpreadable]: true, length: 2 ** 53 - 1 });",
        Refused,
    ),
    (
        "Symbol.species of a number",
        "class A extends Array { static get [Symbol.species]() { return Number; } } return typeof new A(1, 2).map((x) => x);",
        Anything,
    ),
    ("Symbol.match of a loop", "return 'x'.match({ [Symbol.match]() { for (;;); } });", Timeout),
    (
        "Symbol.unscopables",
        "Object.prototype[Symbol.unscopables] = new Proxy({}, { get() { for (;;); } }); return Function('with ({ a: 1 }) { return a; }')();",
        Anything,
    ),
    ("registered symbols without end", "for (let i = 0; ; i++) Symbol.for('s' + i);", Anything),
    ("a symbol as the result", "return Symbol('s');", Gives("null")),
    (
        "inspection by a symbol",
        "console.log({ [Symbol.for('nodejs.util.inspect.custom')]() { return { [Symbol.for('nodejs.util.inspect.custom')]() { throw 1; } }; } }); return 1;",
        Gives("1"),
    ),
];

/// Stacks and messages that want to lead the host astray.
const STACKS: &[Body] = &[
    ("a stack trace hook", "Error.prepareStackTrace = () => { while (true); }; null.x;", Timeout),
    ("a thrown value with a huge message", "throw new Error('x'.repeat(2e6));", Throws("Error")),
    (
        "a stack that names another place",
        "const error = new Error('x'); error.stack = '    at code (step.mjs:4294967295:4294967295)'; throw error;",
        Throws("Error"),
    ),
    (
        "a stack with a number too large",
        "const error = new Error('x'); error.stack = '    at code (step.mjs:99999999999999999999:1)'; throw error;",
        Throws("Error"),
    ),
    (
        "a stack of a million lines",
        r#"const error = new Error('x'); error.stack = 'at step.mjs:1:1\n'.repeat(1e5); throw error;"#,
        Throws("Error"),
    ),
    (
        "a stack that is a getter",
        "const error = new Error('x'); Object.defineProperty(error, 'stack', { get() { for (;;); } }); throw error;",
        Anything,
    ),
    (
        "a stack of half characters",
        r#"const error = new Error('\ud800'.repeat(1e4)); error.stack = '\udfff'.repeat(1e5); error.name = '\ud800'; throw error;"#,
        Refused,
    ),
    (
        "call sites",
        "Error.prepareStackTrace = (_, sites) => sites; const sites = new Error('x').stack; return Array.isArray(sites) ? sites.every((site) => site.getThis?.() === undefined) : true;",
        Gives("true"),
    ),
    (
        "a stack trace limit without end",
        "Error.stackTraceLimit = Infinity; const f = (n) => n ? f(n - 1) : new Error('x').stack.length; return f(500) > 0;",
        Anything,
    ),
    (
        "a stack trace limit that loops",
        "Object.defineProperty(Error, 'stackTraceLimit', { get() { for (;;); } }); return typeof new Error('x').stack;",
        Anything,
    ),
    (
        "causes without end",
        "let error = new Error('x'); for (let i = 0; i < 1e5; i++) error = new Error('x', { cause: error }); console.log(error); throw error;",
        Anything,
    ),
    (
        "an error of a million errors",
        "throw new AggregateError(Array.from({ length: 1e5 }, () => new Error('x')), 'many');",
        Anything,
    ),
    ("a name with line breaks", r#"const error = new Error('a\nb'); error.name = 'A\nB'; throw error;"#, Refused),
];

/// Regular expressions and JSON that explode.
const PATTERNS: &[Body] = &[
    ("nested quantifiers", "return /^(a+)+$/.test('a'.repeat(40) + '!');", Timeout),
    ("alternation in a quantifier", "return /^(?:a|a|aa)+$/.test('a'.repeat(60) + '!');", Timeout),
    ("back-references", r"return /^(a*)*\1*\1*$/.test('a'.repeat(100) + '!');", Timeout),
    ("a deep JSON text", "return JSON.parse('['.repeat(1e6));", Refused),
    ("a deep pattern", "return new RegExp('('.repeat(2e5) + ')'.repeat(2e5)).test('');", Refused),
    ("lookbehinds in a quantifier", "return /(?<=(a+)+)$/.test('a'.repeat(30) + '!');", Anything),
    ("a replacement that explodes", "let s = 'a'; for (;;) s = s.replace(/a/g, '$&$&$&$&');", Refused),
    ("a split of everything", "return 'a'.repeat(5e6).split('').length;", Anything),
    (
        "a class of a million ranges",
        r#"return new RegExp('[' + Array.from({ length: 1e5 }, (_, i) => String.fromCharCode(i % 55000)).join('').replace(/[\]\[\\^-]/g, '') + ']', 'u').test('x');"#,
        Anything,
    ),
    ("quantifiers of 2^32", "return /a{4294967295}/.test('a');", Anything),
    (
        "groups named without end",
        "return new RegExp(Array.from({ length: 1e4 }, (_, i) => `(?<g${i}>a)?`).join('')).test('b');",
        Anything,
    ),
    (
        "a JSON text with a million keys",
        r#"return Object.keys(JSON.parse('{' + Array.from({ length: 3e5 }, (_, i) => `"k${i}":${i}`).join() + '}')).length;"#,
        Anything,
    ),
    ("a JSON number of a million digits", "return JSON.parse('1'.repeat(1e6)) === Infinity;", Anything),
    (
        "JSON that indents without end",
        "let o = {}; for (let i = 0; i < 500; i++) o = { o }; return JSON.stringify(o, null, 10).length;",
        Anything,
    ),
    (
        "a replacer that grows",
        "return JSON.stringify({ a: 1 }, function (key, value) { return { ...value, b: {} }; });",
        Refused,
    ),
];

/// More memory than there is.
const ALLOCATIONS: &[Body] = &[
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
    ("a map without end", "const m = new Map(); for (let i = 0; ; i++) m.set(i, {});", Memory),
    ("spreading an array-like", "return Math.max.apply(null, { length: 2 ** 31 });", Throws("RangeError")),
    ("padding", "return 'x'.padEnd(2 ** 31, 'y');", Refused),
    ("typed arrays without end", "const all = []; for (;;) all.push(new Float64Array(1e5).fill(1));", Memory),
    (
        "strings that share nothing",
        "const all = []; for (let i = 0; ; i++) all.push(('x' + i).repeat(1e4).toUpperCase());",
        Memory,
    ),
    ("buffers of the platform", "const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1));", Memory),
    ("a clone of everything", "let o = { a: [1] }; for (;;) o = structuredClone({ a: o, b: o });", Refused),
    ("weak references without end", "const all = []; for (;;) all.push(new WeakRef({}));", Memory),
    ("a BigInt of a gigabit", "return (1n << 1073741823n).toString(16).length;", Refused),
    (
        "random bytes without end",
        "const all = []; for (;;) all.push(crypto.getRandomValues(new Uint8Array(65536)));",
        Anything,
    ),
    ("a table of functions", "const all = []; for (let i = 0; ; i++) all.push(Function('return ' + i));", Anything),
];

/// Deeper than the stack.
const RECURSION: &[Body] = &[
    ("recursion", "const f = (n) => f(n + 1) + 1; return f(0);", Throws("RangeError")),
    ("recursion that retries", "const f = () => { try { f(); } finally { f(); } }; f();", Timeout),
    ("recursion through toString", "const o = { toString() { return `${o}`; } }; return `${o}`;", Throws("RangeError")),
    ("recursion through toJSON", "const o = { toJSON: () => ({ o }) }; return o;", Refused),
    ("a deep source for eval", "return eval('('.repeat(1e6));", Refused),
    ("deep brackets for eval", "return eval('['.repeat(1e6) + ']'.repeat(1e6));", Refused),
    ("a deep template", "return eval('`${'.repeat(1e5));", Refused),
    ("flattening a deep array", "let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return a.flat(Infinity);", Refused),
    ("recursion through a getter", "const o = { get a() { return this.a; } }; return o.a;", Throws("RangeError")),
    (
        "recursion through bound functions",
        "let f = () => 1; for (let i = 0; i < 1e5; i++) f = f.bind(null); return f();",
        Refused,
    ),
    (
        "recursion through proxies of proxies",
        "let p = {}; for (let i = 0; i < 1e5; i++) p = new Proxy(p, {}); return p.x;",
        Anything,
    ),
    ("recursion through await", "const f = async () => await f(); await f();", Refused),
    ("recursion through sort", "const f = () => [2, 1].sort(f); return f();", Throws("RangeError")),
    ("recursion through replace", "const f = () => 'a'.replace(/a/, f); return f();", Throws("RangeError")),
    ("recursion through a constructor", "class A { constructor() { new A(); } } new A();", Throws("RangeError")),
    (
        "recursion through console",
        "const o = {}; let p = o; for (let i = 0; i < 1e5; i++) p = p.a = {}; console.dir(o, { depth: Infinity }); return 1;",
        Anything,
    ),
    (
        "recursion through structuredClone",
        "let o = {}; for (let i = 0; i < 1e5; i++) o = { o }; structuredClone(o); return 1;",
        Anything,
    ),
];

/// Promises without end.
const PROMISES: &[Body] = &[
    ("flood of microtasks", "const again = () => Promise.resolve().then(again); await again();", Timeout),
    (
        "flood by queueMicrotask",
        "const again = () => queueMicrotask(again); again(); await new Promise(() => {});",
        Timeout,
    ),
    ("promises without end", "const all = []; while (true) all.push(new Promise(() => {}));", Memory),
    ("a promise that never settles", "await new Promise(() => {});", Refused),
    ("weak references", "new FinalizationRegistry(() => { while (true); }).register({}, 1); return 1;", Gives("1")),
    (
        "promises that wait for one another",
        "let p; p = new Promise((yes) => setTimeout(() => yes(p), 1)); await p;",
        Throws("TypeError"),
    ),
    (
        "a chain of a million",
        "let p = Promise.resolve(); for (let i = 0; i < 3e5; i++) p = p.then(() => i); return p;",
        Anything,
    ),
    (
        "all of a million",
        "return (await Promise.all(Array.from({ length: 2e5 }, async (_, i) => i))).length;",
        Anything,
    ),
    ("races without end", "const never = new Promise(() => {}); for (;;) await Promise.race([never, 1]);", Anything),
    ("rejections without end", "for (;;) Promise.reject(new Error('x'));", Anything),
    ("a finally that begins again", "const again = () => Promise.resolve().finally(again); await again();", Timeout),
    (
        "the end of an awaited loop",
        "for await (const x of (function* () { for (;;) yield Promise.resolve(1); })());",
        Timeout,
    ),
];

/// Timers without end.
const TIMERS: &[Body] = &[
    (
        "timers that begin two more",
        "const again = () => { setTimeout(again, 0); setTimeout(again, 0); }; again(); await new Promise(() => {});",
        Stopped,
    ),
    ("timers at once", "for (;;) setTimeout(() => {}, 1e6);", Stopped),
    ("an interval that never ends", "setInterval(() => {}, 1); await new Promise(() => {});", Stopped),
    ("an interval that loops", "setInterval(() => { for (;;); }, 1); await new Promise(() => {});", Timeout),
    ("timers begun and cleared", "for (;;) clearTimeout(setTimeout(() => {}, 1000));", Stopped),
    (
        "immediates without end",
        "const again = () => setImmediate(again); again(); await new Promise(() => {});",
        Stopped,
    ),
    ("sleeping for a month", "await new Promise((done) => setTimeout(done, 2147483647));", Timeout),
    (
        "a delay that is no number",
        "await new Promise((done) => setTimeout(done, { valueOf() { for (;;); } }));",
        Timeout,
    ),
];

/// Calls of the host without end.
const CALLS: &[Body] = &[
    ("random bytes one by one", "for (;;) crypto.getRandomValues(new Uint8Array(1));", Stopped),
    ("hashes", "for (;;) require('crypto').createHash('sha256').update('x').digest();", Stopped),
    ("URLs", "for (;;) new URL('https://a.example/');", Stopped),
    ("requests at once", "const all = []; for (;;) all.push(fetch('https://a.example/').catch(() => {}));", Stopped),
    ("requests one by one", "for (;;) await fetch('https://a.example/').catch(() => {});", Stopped),
    (
        "requests that are aborted",
        "for (;;) { const stop = new AbortController(); fetch('https://a.example/', { signal: stop.signal }).catch(() => {}); stop.abort(); }",
        Stopped,
    ),
    ("derivations that cost much", "for (;;) require('crypto').pbkdf2Sync('x', 'y', 1e4, 64, 'sha512');", Anything),
    (
        "a derivation that costs too much",
        "return require('crypto').scryptSync('x', 'y', 64, { N: 2 ** 24, r: 64, p: 64, maxmem: 2 ** 40 });",
        Refused,
    ),
    (
        "hashing a lot",
        "const data = Buffer.alloc(1 << 20); for (;;) require('crypto').createHash('sha512').update(data).digest();",
        Anything,
    ),
];

/// Results and lines without end.
const OUTPUTS: &[Body] = &[
    ("a sparse array as the result", "const a = []; a[4294967294] = 1; return a;", Refused),
    ("a long result", "return 'x'.repeat(2e6);", Refused),
    ("a wide result", "return new Array(1e6).fill(0);", Refused),
    ("a huge console line", "console.log('x'.repeat(2e6)); return 1;", Gives("1")),
    ("console lines without end", "while (true) console.log('again');", Timeout),
    ("a result of a million empty objects", "return Array.from({ length: 4e5 }, () => ({}));", Refused),
    (
        "a result that shares everything",
        "let a = ['x'.repeat(100)]; for (let i = 0; i < 40; i++) a = [a, a]; return a;",
        Refused,
    ),
    (
        "a result that grows while it is read",
        "const all = []; all.push({ toJSON() { all.push(this); return 'x'.repeat(1e5); } }); return all;",
        Anything,
    ),
    ("a result of escapes", r#"return '\u0000'.repeat(3e5);"#, Refused),
    (
        "console objects without end",
        "for (let i = 0; i < 1e6; i++) console.log({ i, a: [i, { b: i }] }); return 1;",
        Anything,
    ),
    ("a table of a million rows", "console.table(Array.from({ length: 1e4 }, (_, i) => ({ i }))); return 1;", Anything),
    (
        "groups without end",
        "for (let i = 0; i < 1e5; i++) console.group('x'); console.log('deep'); return 1;",
        Anything,
    ),
    (
        "a console format bomb",
        "console.log('%s'.repeat(1e5), ...Array.from({ length: 1e5 }, () => 'x'.repeat(100))); return 1;",
        Anything,
    ),
];

/// Memory that grows, shrinks or moves while somebody looks at it.
const GROWTH: &[Body] = &[
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
    (
        "growing while arguments are read",
        "const grow = { toString() { globalThis.kept = Array.from({ length: 40 }, () => new Uint8Array(1 << 20)); return 'https://a.example/'; } }; return new URL('/x', grow).href;",
        Anything,
    ),
    (
        "shrinking while random bytes are drawn",
        "const b = new ArrayBuffer(65536, { maxByteLength: 1 << 20 }), a = new Uint8Array(b); Object.defineProperty(a, 'byteLength', { get() { b.resize(0); return 65536; } }); crypto.getRandomValues(a); return b.byteLength;",
        Anything,
    ),
    (
        "detaching while hashing",
        "const b = new ArrayBuffer(64), a = new Uint8Array(b); const h = require('crypto').createHash('sha256'); Object.defineProperty(a, 'buffer', { get() { b.transfer(); return b; } }); h.update(a); return h.digest('hex').length;",
        Anything,
    ),
    (
        "detaching the key of an hmac",
        "const b = new ArrayBuffer(64), key = Buffer.from(b); b.transfer(); return require('crypto').createHmac('sha256', key).update('x').digest('hex').length;",
        Anything,
    ),
    (
        "resizing while encoding",
        "const b = new ArrayBuffer(8, { maxByteLength: 1 << 24 }); const a = new Uint8Array(b); return new TextEncoder().encodeInto({ toString() { b.resize(1 << 24); b.resize(1); return 'x'.repeat(100); } }, a).written;",
        Anything,
    ),
    (
        "resizing while sorting bytes",
        "const b = new ArrayBuffer(1 << 16, { maxByteLength: 1 << 20 }), a = new Uint8Array(b); a.sort(() => { b.resize(b.byteLength > 16 ? 8 : 1 << 20); return 1; }); return a.length >= 0;",
        Gives("true"),
    ),
    (
        "resizing while copying",
        "const b = new ArrayBuffer(1 << 16, { maxByteLength: 1 << 20 }), a = new Uint8Array(b); a.copyWithin(0, { valueOf() { b.resize(16); return 1000; } }, 60000); return a.length;",
        Anything,
    ),
    (
        "resizing while setting",
        "const b = new ArrayBuffer(64, { maxByteLength: 128 }), a = new Uint8Array(b); a.set({ length: 64, get 0() { b.resize(0); return 1; }, 63: 7 }); return a.length;",
        Anything,
    ),
    (
        "growing through every page",
        "let n = 0; try { const all = []; for (;; n++) all.push(new Uint8Array(65536).fill(n)); } catch {} return n > 0;",
        Anything,
    ),
    (
        "growing and giving back",
        "for (let i = 0; i < 200; i++) { let all = Array.from({ length: 30 }, () => new Uint8Array(1 << 20).fill(i)); all = null; } return 1;",
        Anything,
    ),
    (
        "a view beyond its buffer",
        "const b = new ArrayBuffer(64, { maxByteLength: 128 }), d = new DataView(b, 60, 4); b.resize(62); return d.getUint32(0);",
        Throws("TypeError"),
    ),
    (
        "an atomic wait",
        "return typeof Atomics === 'undefined' ? 'none' : Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Infinity);",
        Anything,
    ),
];

/// Bytes that are no text, and text that is no base64.
const INPUTS: &[Body] = &[
    ("bad base64", "return atob('*');", Refused),
    ("half characters to the host", r#"return new URL('https://a.example/\ud800').href.length > 0;"#, Anything),
    ("a zero in a header", r#"await fetch('https://a.example/', { headers: { a: 'b\0c' } });"#, Throws("TypeError")),
    (
        "a method with a line break",
        r#"await fetch('https://a.example/', { method: 'GET / HTTP/1.1\r\nX: y' });"#,
        Throws("TypeError"),
    ),
    (
        "malformed UTF-8",
        "return new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array([0xff, 0xfe]));",
        Throws("TypeError"),
    ),
    ("a URL of a million characters", "return new URL('https://a.example/' + 'a'.repeat(1e6)).href.length;", Anything),
    (
        "hosts that are numbers",
        "return [new URL('http://0x7f.1/').host, new URL('http://2130706433/').host];",
        Anything,
    ),
];

/// What a parser may recurse into.
pub(crate) const DEEP: &[&str] = &[
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
pub(crate) const MODULES: &[Body] = &[
    ("loop at the top level", "while (true) {} export const code = () => 1;", Timeout),
    ("top level that never settles", "await new Promise(() => {}); export const code = () => 1;", Refused),
    ("top level that throws", "throw new TypeError('no'); export const code = () => 1;", Throws("TypeError")),
    ("code that is not a function", "export const code = { call: 1 };", Refused),
    ("an export that fails to exist", "export { code }; let code;", Refused),
    ("a zero in the source", "export const code = () => 1;\0while (true) {}", Refused),
    ("nothing but a shebang", "#!/bin/sh", Refused),
];

/// Expressions that mean harm; the end is that of the expression.
pub(crate) const EXPRESSIONS: &[(&str, End)] = &[
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
