//! Steps that take the platform apart. They harm themselves; the host's functions stay out of reach.

use serde_json::json;

use super::evaluate;

/// Walks everything a step can reach, and looks for the engine's functions under the names of those of the host.
#[tokio::test]
async fn no_host_function_is_reachable() {
    let found = evaluate(
        r"
        const EventEmitter = require('events'), known = new Set([Function.prototype.call, Iterator.prototype.take]);
        const todo = [globalThis, ctx, require, new URL('https://a.example/?x').searchParams, new Headers({ a: 'b' }), setTimeout(() => {}, 1),
            new AbortController(), new Request('https://a.example', { method: 'POST', body: 'x' }).body, (async () => {})(), new Response('x'),
            require('crypto').createHash('sha1'), EventEmitter.on(new EventEmitter(), 'x'), new TextDecoder(), new URLSearchParams().entries()];
        for (const name of ['crypto', 'buffer', 'util', 'url', 'path', 'events', 'assert', 'querystring', 'string_decoder', 'timers',
            'timers/promises', 'process', '@ap/mask', 'perf_hooks', 'console']) todo.push(require(name));
        try { Buffer.from(5); } catch (error) { todo.push(error); }
        Error.prepareStackTrace = (_, sites) => sites;
        try { Buffer.from(5); } catch (error) { todo.push(error.stack); for (const site of error.stack) todo.push(site.getFunction?.()); }
        Error.prepareStackTrace = undefined;
        const seen = new Set(), found = [];
        while (todo.length > 0) {
            const value = todo.pop();
            if ((typeof value !== 'object' && typeof value !== 'function') || value === null || seen.has(value)) continue;
            seen.add(value);
            if (typeof value === 'function' && !known.has(value) && ['call', 'start', 'take', 'encode', 'decode', 'write'].includes(value.name)
                && Function.prototype.toString.call(value).includes('[native code]') && !Object.hasOwn(value, 'prototype')) found.push(value.name);
            todo.push(Object.getPrototypeOf(value));
            for (const key of Reflect.ownKeys(value)) {
                const { value: own, get, set } = Object.getOwnPropertyDescriptor(value, key);
                todo.push(own, get, set);
            }
        }
        // Methods of the platform's own classes have these names, too; they are not the engine's.
        const own = [TextEncoder.prototype.encode, TextDecoder.prototype.decode, Buffer.prototype.write, require('querystring').encode,
            require('querystring').decode, require('string_decoder').StringDecoder.prototype.write, process.stdout.write];
        return [seen.size > 500, found.length - own.filter((method) => ['encode', 'decode', 'write'].includes(method.name)
            && Function.prototype.toString.call(method).includes('[native code]')).length];",
    )
    .await;
    assert_eq!(found[0], json!(true), "{found}");
    assert!(found[1].as_i64().is_some_and(|count| count <= 1), "{found}"); // stderr.write is another `write` of ours
}

/// Replaces every method of the built-in prototypes, and notes the functions that reach the replacements.
const REPLACE_EVERYTHING: &str = r"
    let leaked = 0, mine = 0;
    const kinds = [Array, String, Map, Set, RegExp, Uint8Array, Object.getPrototypeOf(Uint8Array), ArrayBuffer, Number, Function, Date, Error, DataView];
    for (let c = 0; c < kinds.length; c++) {
        const prototype = kinds[c].prototype, keys = Reflect.ownKeys(prototype);
        for (let i = 0; i < keys.length; i++) {
            const descriptor = Object.getOwnPropertyDescriptor(prototype, keys[i]);
            // The engine joins template literals with `String.prototype.concat`: whoever replaces that breaks his own messages.
            if (keys[i] === 'constructor' || keys[i] === 'concat' || typeof descriptor.value !== 'function' || !descriptor.writable) continue;
            prototype[keys[i]] = function () {
                mine++;
                for (let j = 0; j < arguments.length; j++) if (typeof arguments[j] === 'function') leaked++;
                throw new Error('replaced');
            };
        }
    }
    JSON.stringify = JSON.parse = Object.keys = Reflect.apply = Math.min = undefined;
";

#[tokio::test]
async fn the_platform_works_on_replaced_prototypes() {
    for (use_it, expected) in [
        (
            "const hash = createHash('sha1'); hash.update('abc'); return hash.digest('hex');",
            json!("a9993e364706816aba3e25717850c26c9cd0d89d"),
        ),
        (
            "const hmac = createHmac('sha256', 'Jefe'); hmac.update('what do ya want for nothing?'); return hmac.digest('base64');",
            json!("W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM="),
        ),
        ("return randomUUID().length;", json!(36)),
        ("const bytes = from('aGk=', 'base64'); return bytes.length;", json!(2)),
        ("await new Promise((resolve) => timeout(resolve, 1)); return 'waited';", json!("waited")),
        ("log('a line', 1, { a: 1 }); return 'logged';", json!("logged")),
        ("return decoder.decode(Uint8Array.of(0xc3, 0xa9));", json!("é")),
    ] {
        let value = evaluate(&format!(
            "const {{ createHash, createHmac, randomUUID }} = require('crypto'), {{ from }} = Buffer, {{ log }} = console, timeout = setTimeout,
                 decoder = new TextDecoder();
             {REPLACE_EVERYTHING}
             const result = await (async () => {{ {use_it} }})();
             return [result, leaked];"
        ))
        .await;
        assert_eq!(value, json!([expected, 0]), "{use_it}");
    }
}

#[tokio::test]
async fn hostile_values_are_printed_or_said_not_to_be() {
    let value = evaluate(
        "const revoked = Proxy.revocable({}, {}); revoked.revoke();
         let deep = {}; for (let i = 0; i < 3e3; i++) deep = { deep };
         for (const value of [new Proxy({}, { get() { throw new Error('no'); }, ownKeys() { throw new Error('no'); } }), revoked.proxy, deep,
             { get a() { throw new Error('no'); } }, { [Symbol.for('nodejs.util.inspect.custom')]() { throw new Error('no'); } },
             { [Symbol.toStringTag]: { toString() { throw new Error('no'); } } }, Object.create(null), new (class { constructor() { this.constructor = 1; } }),
             Object.assign(new Error('x'), { name: Symbol('n') }), Object.defineProperty(() => {}, 'name', { value: 1 }), new Proxy(class {}, {}), Symbol('s'), 1n])
             console.log(value, '%s', value);
         const sparse = []; sparse[4294967290] = 1;
         const wide = Array.from({ length: 1e3 }, () => Array.from({ length: 20 }, () => ({})));
         const { inspect } = require('util');
         return [inspect(sparse), inspect(deep, { depth: null }).length < 1e5, inspect(wide, { maxArrayLength: null, depth: 9 }).length < 4e6];",
    )
    .await;
    assert_eq!(value, json!(["[ <4294967290 empty items>, 1 ]", true, true]));
}

#[tokio::test]
async fn views_that_lie_about_themselves_are_read_as_they_are() {
    let value = evaluate(
        "const { createHash } = require('crypto');
         const bytes = new Uint8Array([1, 2, 3]);
         Object.defineProperty(bytes, 'length', { value: 1e9 }); Object.defineProperty(bytes, 'buffer', { get() { throw 1; } });
         Object.defineProperty(bytes, 'byteLength', { value: 1e9 });
         class Evil extends Uint8Array { static get [Symbol.species]() { return function () { return { evil: 1 }; }; } }
         const evil = new Evil(4), detached = new Uint8Array(8); detached.buffer.transfer();
         const shrinking = new ArrayBuffer(8, { maxByteLength: 64 }), view = Buffer.from(shrinking);
         let written; try { written = view.writeUInt32LE({ valueOf() { shrinking.resize(0); return 1; } }, 0); } catch (error) { written = error.name; }
         return [createHash('md5').update(bytes).digest('hex'), new TextDecoder().decode(bytes).length, createHash('md5').update(evil).digest('hex').length,
             Buffer.concat([evil]).length, new TextDecoder().decode(detached), Buffer.concat([detached]).length, typeof written];",
    )
    .await;
    assert_eq!(value, json!(["5289df737df57326fcdd22597afb1fac", 3, 32, 4, "", 0, "string"]));
}

#[tokio::test]
async fn replaced_globals_are_the_steps_own_matter() {
    let value = evaluate(
        "const { Buffer: Kept } = require('buffer');
         globalThis.Buffer = globalThis.URL = globalThis.TextDecoder = globalThis.Promise = globalThis.Map = globalThis.Uint8Array = undefined;
         crypto.subtle = 1;
         return [Kept.from('a').toString('hex'), require('crypto').createHash('md5').digest('hex').length, new (require('url').URL)('https://a.example/?a=b').searchParams.get('a')];",
    )
    .await;
    assert_eq!(value, json!(["61", 32, "b"]));
}
