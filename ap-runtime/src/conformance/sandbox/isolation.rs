//! What a step can reach: nothing of other steps, and nothing of its host.

use futures_util::future::join_all;
use serde_json::json;

use super::{Bench, OTHER_PROJECT, PROJECT, SandboxHarness};

/// Whatever a step does to globals and prototypes, the next step, of the same project or another, finds them as they were.
pub async fn nothing_stays_for_the_next_step(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let spoil = r#"
        globalThis.left = 'behind';
        Object.prototype.polluted = 'yes';
        Object.prototype.then = undefined;
        Array.prototype.map = () => 'spoiled';
        Array.prototype[Symbol.iterator] = null;
        JSON.parse = JSON.stringify = () => { throw new Error('spoiled'); };
        console.log = null;
        Promise.prototype.then = null;
        Function.prototype.call = Function.prototype.apply = null;
        Math.random = () => 4;
        Date.now = () => 0;
        Symbol.for('left').description;
        delete globalThis.console;
        Object.freeze(Object.prototype);
        return 'done';
    "#;
    let look = r#"
        console.log('still here');
        return [typeof left, ({}).polluted === undefined, [1].map((x) => x + 1), [...[3]], JSON.parse('[2]'), typeof console,
            Math.random() === 4, Date.now() === 0, Object.isFrozen(Object.prototype), Object.keys(globalThis).includes('left'),
            await (async () => (() => 5).call(null))()];
    "#;
    for round in 0..10 {
        assert!(bench.run_step(spoil).await.is_ok(), "a step may spoil its own world");
        for project in [PROJECT, OTHER_PROJECT] {
            let mut request = bench.step(look);
            request.project = project;
            let output = bench.run(request).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
            let clean = json!(["undefined", true, [2], [3], [2], "object", false, false, false, false, 5]);
            assert_eq!((output.value, output.console.len()), (clean, 1), "round {round}");
        }
    }
}

/// Steps that run at the same time, and wait in between, do not see one another.
pub async fn steps_at_the_same_time_do_not_meet(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let body = r#"
        const before = typeof globalThis.mine;
        globalThis.mine = params;
        for (let turn = 0; turn < 3; turn++) await new Promise((done) => setTimeout(done, 1));
        return [before, globalThis.mine];
    "#;
    let steps = (0..24_u128).map(|number| {
        let mut request = bench.step(body);
        request.project = if number.is_multiple_of(2) { PROJECT } else { OTHER_PROJECT };
        request.params = number.to_string().into();
        bench.run(request)
    });
    for (number, output) in (0..).zip(join_all(steps).await) {
        assert_eq!(output.map(|output| output.value), Ok(json!(["undefined", number])));
    }
}

/// The same module begins anew in every step, also where its compiled form is kept.
pub async fn modules_are_fresh_for_every_step(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let source = "let count = 0; const seen = []; export const code = (params) => { seen.push(params); return [++count, seen]; };";
    for number in 0..3 {
        for project in [PROJECT, OTHER_PROJECT, PROJECT] {
            let mut request = bench.request(source);
            (request.project, request.params) = (project, number.to_string().into());
            assert_eq!(bench.run(request).await.map(|output| output.value), Ok(json!([1, [number]])));
        }
    }
}

/// A step finds no files, processes, threads, environment, sockets or modules of the program around it.
pub async fn nothing_of_the_host_is_in_reach(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    // Each way gives something of the host, or fails.
    let ways = [
        "require('fs').readFileSync('/proc/self/environ')",
        "require('node:fs/promises').readFile('/etc/hostname')",
        "(await import('fs')).readdirSync('/')",
        "(await import('node:child_process')).execSync('id')",
        "require('child_process').exec('id')",
        "require('os').hostname()",
        "require('net').connect(80, 'a.example')",
        "require('http').get('http://a.example/')",
        "new (require('worker_threads').Worker)('1', { eval: true })",
        "require('vm').runInThisContext('1')",
        "require('module').createRequire('/')('fs')",
        "process.binding('fs')",
        "process.mainModule.require('fs')",
        "process.kill(process.pid, 0)",
        "Object.keys(process.env)[0].length",
        "Deno.readTextFileSync('/etc/hostname')",
        "Deno.env.toObject()",
        "Bun.file('/etc/hostname').text()",
        "(await import('file:///etc/hostname')).default",
        "(await import('data:text/javascript,export default 1')).default",
        "(await import('https://a.example/x.js')).default",
        "std.open('/etc/hostname', 'r')",
        "os.getenv('HOME')",
        "new WebSocket('ws://a.example/')",
        "new XMLHttpRequest()",
        "importScripts('x')",
        "(await fetch('http://127.0.0.1/')).status",
        "(await fetch('file:///etc/hostname')).text()",
        "Function('return process')().binding('fs')",
        "(await Function('return import(\"fs\")')()).readFileSync('/etc/hostname')",
        "console.log.constructor('return process')().mainModule.require('fs')",
        "(async () => {}).constructor('return import(\"fs\")')().then((fs) => fs.readdirSync('/'))",
        "new Worker('data:text/javascript,1')",
        "new BroadcastChannel('x').postMessage(1)",
        "localStorage.setItem('a', 'b') ?? 1",
        "navigator.userAgent",
    ];
    for way in ways {
        let body = format!(
            "try {{ const got = await ({way}); return got === undefined ? 'nothing' : 'got ' + String(got); }} catch {{ return 'nothing'; }}"
        );
        match bench.run_step(&body).await {
            Ok(output) => assert_eq!(output.value, json!("nothing"), "{way}"),
            Err(error) => panic!("{way} must be an exception that a step can catch, and is: {error}"),
        }
    }
    bench.still_works("steps that looked around").await;
}
