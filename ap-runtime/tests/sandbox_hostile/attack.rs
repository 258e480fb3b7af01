//! Steps that mean harm. None may outlive its deadline, escape, or be felt by another project.

use std::cell::Cell;
use std::time::{Duration, Instant};

use ap_core::id::ProjectId;
use ap_runtime::sandbox::{CodeError, CodeLimits, CodeOutput, CodeSandbox, ExpressionRequest, SandboxCapacity};
use serde_json::Value;

use crate::scripts::{CLASSES, DEEP, EXPRESSIONS, MODULES};
use crate::{NOW, request, scripts};

/// How a step must end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
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
    /// By the limit of host calls, or by what the platform says to too many of them.
    Stopped,
    /// In time, whether with a value or an error of the step.
    Anything,
}

use End::{Anything, Gives, Memory, Refused, Stopped, Throws, Timeout};

const DEADLINE: Duration = Duration::from_millis(200);
const LONG_DEADLINE: Duration = Duration::from_secs(5);

/// A debug build on a busy machine.
const SLACK: Duration = Duration::from_millis(500);

/// The longest that a step of another project may take meanwhile, on a busy machine too.
pub(crate) const NEIGHBOUR: Duration = Duration::from_secs(2);

const WELL_MEANING: &str = "export const code = (params) => params.map((x) => x * 2).join();";

/// One thread for those who mean harm, one for their neighbours.
pub(crate) fn capacity() -> SandboxCapacity {
    SandboxCapacity::default().with_threads(2).unwrap().with_threads_per_project(1).unwrap()
}

/// As those of the other tests, with the context.
fn step(body: &str) -> String {
    format!("export const code = async (params, ctx) => {{ {body} }};")
}

/// Scripts of one kind.
pub(crate) enum Class {
    Bodies(&'static str, &'static [scripts::Body]),
    Modules,
    DeepSources,
    DeepParameters,
    Expressions,
    Leftovers,
    Crowd,
}

pub(crate) fn classes() -> Vec<Class> {
    let bodies = CLASSES.iter().map(|(name, bodies)| Class::Bodies(name, bodies));
    let others =
        [Class::Modules, Class::DeepSources, Class::DeepParameters, Class::Expressions, Class::Leftovers, Class::Crowd];
    bodies.chain(others).collect()
}

impl Class {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Bodies(name, _) => name,
            Self::Modules => "modules",
            Self::DeepSources => "deep sources",
            Self::DeepParameters => "deep parameters",
            Self::Expressions => "expressions",
            Self::Leftovers => "leftovers across runs and tenants",
            Self::Crowd => "memory that grows in many at once",
        }
    }

    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Bodies(_, bodies) => bodies.len(),
            Self::Modules => MODULES.len(),
            Self::DeepSources => 2 * DEEP.len(),
            Self::DeepParameters => deep_parameters().len(),
            Self::Expressions => EXPRESSIONS.len(),
            Self::Leftovers => LEFTOVERS.len(),
            Self::Crowd => CROWD,
        }
    }
}

/// The sandbox under attack.
pub(crate) struct Target {
    sandbox: Box<dyn CodeSandbox>,
    /// The slowest step of another project so far.
    slowest: Cell<Duration>,
}

impl Target {
    pub(crate) fn new(sandbox: Box<dyn CodeSandbox>) -> Self {
        Self { sandbox, slowest: Cell::default() }
    }

    /// The slowest step of another project so far, of those that ran beside the scripts.
    pub(crate) fn slowest(&self) -> Duration {
        self.slowest.get()
    }

    /// Runs the scripts of a class; says which of them ended otherwise than expected.
    pub(crate) async fn run(&self, class: &Class) -> Vec<String> {
        let mut surprises = Vec::new();
        match class {
            Class::Bodies(_, bodies) => {
                for (name, body, end) in *bodies {
                    surprises.extend(self.attack(name, &step(body), *end).await);
                }
            }
            Class::Modules => {
                for (name, source, end) in MODULES {
                    surprises.extend(self.attack(name, source, *end).await);
                }
            }
            Class::DeepSources => {
                for opening in DEEP {
                    surprises.extend(self.attack(opening, &opening.repeat(50_000 / opening.len()), Refused).await);
                    let code = format!("export const code = {}", opening.repeat(200_000 / opening.len()));
                    surprises.extend(self.attack(opening, &code, Refused).await);
                }
            }
            Class::DeepParameters => {
                for text in deep_parameters() {
                    let result = self.sandbox.run(request(&step("return 1;"), &text)).await;
                    if !matches!(result, Err(CodeError::InvalidParams { .. } | CodeError::StackExhausted)) {
                        surprises.push(format!("deep parameters: {result:?}"));
                    }
                }
            }
            Class::Expressions => {
                for (text, end) in EXPRESSIONS {
                    surprises.extend(self.evaluate(text, *end).await);
                }
            }
            Class::Leftovers => {
                for (name, spoil, look) in LEFTOVERS {
                    surprises.extend(self.leave(name, spoil, look).await);
                }
            }
            Class::Crowd => surprises.extend(self.crowd().await),
        }
        surprises
    }

    /// Runs one step and checks that a well-meaning one of its project still works. Says so if it ended otherwise than
    /// expected.
    async fn attack(&self, name: &str, source: &str, end: End) -> Option<String> {
        let mut request = request(source, "{}");
        let deadline = match end {
            Timeout | Memory | Refused | Anything => DEADLINE,
            Throws(_) | Gives(_) | Stopped => LONG_DEADLINE, // not what ends these
        };
        request.limits = request.limits.with_timeout(deadline).unwrap();
        if end == Stopped {
            request.limits = request.limits.with_host_calls(500).unwrap();
        }
        let started = Instant::now();
        let result = self.beside_neighbours(self.sandbox.run(request)).await;
        let took = started.elapsed();
        self.still_works(name).await;
        if took > deadline + SLACK {
            return Some(format!("{name} took {took:?}"));
        }
        let as_expected = match (&result, end) {
            (Err(CodeError::Busy | CodeError::Bug { .. }), _) => false,
            (Err(CodeError::Trap { .. }), Anything) => false,
            (_, Anything) => true,
            (Err(CodeError::HostCallLimit { .. } | CodeError::Thrown { .. }), Stopped) => true,
            (Err(CodeError::Timeout { .. }), Timeout | Memory | Refused) => true,
            (Err(CodeError::MemoryLimit { .. }), Memory | Refused) => true,
            (Err(CodeError::Thrown { name, message, stack, .. }), Throws(_) | Refused) => {
                assert!(name.len() <= 200 && message.len() <= 5_000 && stack.len() <= 9_000);
                end == Refused || matches!(end, Throws(expected) if expected == name)
            }
            (Err(_), Refused) => true,
            (Ok(output), Gives(json)) => output.value == serde_json::from_str::<Value>(json).unwrap(),
            _ => false,
        };
        (!as_expected).then(|| format!("{name} should end as {end:?}, but: {result:?}"))
    }

    async fn evaluate(&self, text: &str, end: End) -> Option<String> {
        let request = ExpressionRequest {
            project: ProjectId::from_u128(1),
            expressions: vec![text.into()],
            variables: r#"{"item":{"id":1}}"#.into(),
            now: NOW,
            seed: [1; 32],
            limits: CodeLimits::default().with_timeout(DEADLINE).unwrap(),
        };
        let started = Instant::now();
        let result = self.beside_neighbours(self.sandbox.evaluate(request)).await.unwrap().remove(0);
        let took = started.elapsed();
        self.still_works(text).await;
        if took > DEADLINE + SLACK {
            return Some(format!("{text} took {took:?}"));
        }
        let as_expected = match (&result, end) {
            (Err(CodeError::Timeout { .. }), Timeout | Memory | Refused) => true,
            (Err(CodeError::MemoryLimit { .. }), Memory | Refused) => true,
            (Err(CodeError::Thrown { name, .. }), Throws(expected)) => name == expected,
            (Ok(value), Gives(json)) => *value == serde_json::from_str::<Value>(json).unwrap(),
            (Err(CodeError::Busy | CodeError::Bug { .. }), _) => false,
            (Err(_), Refused) => true,
            _ => false,
        };
        (!as_expected).then(|| format!("{text} should end as {end:?}, but: {result:?}"))
    }

    /// A step spoils what it can, and the next ones, of its project and another, look for it.
    async fn leave(&self, name: &str, spoil: &str, look: &str) -> Vec<String> {
        let mut surprises = Vec::new();
        for project in [1, 2] {
            let left = self.sandbox.run(request(&step(spoil), "{}")).await;
            if let Err(CodeError::Trap { .. } | CodeError::Bug { .. } | CodeError::Busy) = left {
                surprises.push(format!("{name}: {left:?}"));
            }
            let mut request = request(&step(look), "{}");
            request.project = ProjectId::from_u128(project);
            let found = self.sandbox.run(request).await.map(|output| output.value);
            if found != Ok(Value::from("nothing")) {
                surprises.push(format!("{name} was found by project {project}: {found:?}"));
            }
        }
        surprises
    }

    /// Steps of several projects that grow to their limit at the same time, again and again.
    async fn crowd(&self) -> Vec<String> {
        let body = "const all = []; try { for (;;) { all.push(new Uint8Array(65536 * (1 + all.length % 7)).fill(params)); await null; } } catch {}
            return all.every((bytes) => bytes[0] === params && bytes[bytes.length - 1] === params) && all.length > 50;";
        let steps = (0..CROWD).map(|number| {
            let mut request = request(&step(body), &(number % 251).to_string());
            request.project = ProjectId::from_u128(1 + number as u128 % 5);
            self.sandbox.run(request)
        });
        let ended = futures_util::future::join_all(steps).await;
        let wrong = |result: &Result<CodeOutput, CodeError>| match result {
            Ok(output) => output.value != Value::Bool(true),
            Err(error) => !matches!(error, CodeError::MemoryLimit { .. }),
        };
        ended.iter().filter(|result| wrong(result)).map(|result| format!("crowd: {result:?}")).collect()
    }

    /// Steps of another project run all the while.
    async fn beside_neighbours<T>(&self, attack: impl Future<Output = T>) -> T {
        let neighbours = async {
            loop {
                let started = Instant::now();
                let mut request = request(WELL_MEANING, "[1,2]");
                request.project = ProjectId::from_u128(2);
                assert_eq!(self.sandbox.run(request).await.unwrap().value, "2,4");
                self.slowest.set(self.slowest.get().max(started.elapsed()));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            ended = attack => ended,
            () = neighbours => unreachable!("they go on"),
        }
    }

    pub(crate) async fn still_works(&self, after: &str) {
        let next = self.sandbox.run(request(WELL_MEANING, "[1,2]")).await;
        assert_eq!(next.unwrap().value, "2,4", "after {after}");
    }
}

fn deep_parameters() -> [String; 3] {
    ["[".repeat(1 << 20), "{\"a\":".repeat(1 << 18), format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20))]
}

/// Name, what a step does, and what the next one looks for; it returns `nothing` if there is nothing.
const LEFTOVERS: &[(&str, &str, &str)] = &[
    ("globals", "globalThis.left = 'canary';", "return typeof left === 'undefined' ? 'nothing' : left;"),
    ("prototypes", "Object.prototype.left = 'canary';", "return ({}).left ?? 'nothing';"),
    (
        "members of modules",
        "require('crypto').left = require('util').left = Buffer.left = ctx.left = 'canary';",
        "return require('crypto').left ?? require('util').left ?? Buffer.left ?? ctx.left ?? 'nothing';",
    ),
    ("registered symbols", "Symbol.for('left').description.constructor.left = 1;", "return String.left ?? 'nothing';"),
    (
        "bytes in memory",
        "globalThis.kept = Array.from({ length: 40 }, () => new Uint8Array(1 << 20).fill(0xa7));",
        "for (let i = 0; i < 40; i++) if (Uint8Array.prototype.includes.call(Buffer.allocUnsafe(1 << 20), 0xa7)) return 'bytes'; return 'nothing';",
    ),
    (
        "bytes behind a resized buffer",
        "globalThis.kept = new Uint8Array(40 << 20).fill(0x63);",
        "const b = new ArrayBuffer(8, { maxByteLength: 40 << 20 }); b.resize(40 << 20); return new Uint8Array(b).includes(0x63) ? 'bytes' : 'nothing';",
    ),
    (
        "timers and promises",
        "setTimeout(() => { globalThis.left = 'canary'; }, 1); Promise.resolve().then(() => { globalThis.left = 'canary'; }); return 1;",
        "await new Promise((done) => setTimeout(done, 5)); return typeof left === 'undefined' ? 'nothing' : left;",
    ),
    (
        "a step that ran out of memory",
        "globalThis.left = 'canary'; const all = []; for (;;) all.push(new Uint8Array(1 << 20).fill(99));",
        "return typeof left === 'undefined' && !Buffer.allocUnsafe(4 << 20).includes(99) ? 'nothing' : 'something';",
    ),
    (
        "the last error",
        "throw Object.assign(new Error('canary'), { left: 'canary' });",
        "try { null.x; } catch (error) { return error.left ?? (error.message.includes('canary') ? 'message' : 'nothing'); }",
    ),
    (
        "formats and patterns",
        "/(canary)/.exec('canary'); RegExp.prototype.lastIndex = 7; console.group('canary'); console.count('canary');",
        "console.log('x'); return RegExp.$1 ? RegExp.$1 : RegExp.prototype.lastIndex ? 'index' : 'nothing';",
    ),
];

/// Steps at a time: more than there are threads.
const CROWD: usize = 12;
