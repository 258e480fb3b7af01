//! Worker processes as such: how they end, what replaces them, what they cannot have.

use std::fs;
use std::future::pending;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ap_core::capability::{HttpError, HttpRequest, HttpResponse};
use ap_core::id::ProjectId;
use ap_runtime::sandbox::process::{Landlock, ProcessOptions, ProcessSandbox};
use ap_runtime::sandbox::{
    CodeError, CodeHost, CodeLimits, CodeRequest, CodeSandbox as _, ExpressionRequest, Metering, NoCodeHost,
    SandboxCapacity, SandboxMode, SandboxStartError, StoreCall, StoreCallError, WasmSandbox,
};
use async_trait::async_trait;
use futures_util::future::{join, join_all};
use secrecy::SecretString;
use tokio::time::timeout;

use crate::{NOW, options, request, step};

const FOREVER: &str = "while (true) {}";
const WAITS: &str = "await new Promise((done) => setTimeout(done, 60000));";

fn sandbox(workers: usize) -> ProcessSandbox {
    ProcessSandbox::start(options().with_workers(workers).unwrap()).unwrap()
}

fn patient(body: &str) -> CodeRequest {
    let mut request = request(&step(body), "{}");
    let (limits, long) = (CodeLimits::default(), Duration::from_secs(120));
    request.limits = limits.with_timeout(long).unwrap().with_cpu_time(long).unwrap();
    request
}

fn kill(signal: &str, process: u32) {
    let done = Command::new("kill").args([signal, &process.to_string()]).status().unwrap();
    assert!(done.success());
}

/// Whether the process computes and waits no more. Without a parent that cares, its entry may stay.
fn has_ended(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| stat.contains(") Z ")) || is_gone(process)
}

/// Whether nothing is left of the process, not even what a parent has to take away.
fn is_gone(process: u32) -> bool {
    !Path::new(&format!("/proc/{process}")).exists()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_killed_worker_ends_the_steps_it_held_and_is_replaced() {
    let sandbox = sandbox(2);
    let ids = sandbox.process_ids();
    assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
    // Two projects of one worker, and one of the other.
    let of = |project: u128, body: &str| CodeRequest { project: ProjectId::from_u128(project), ..patient(body) };
    let mut computes = sandbox.run(of(1, FOREVER));
    let mut waits = sandbox.run(of(3, WAITS));
    let mut elsewhere = sandbox.run(of(2, WAITS));
    for step in [&mut computes, &mut waits, &mut elsewhere] {
        assert!(timeout(Duration::from_millis(300), step).await.is_err());
    }
    // Which is which: numbers of projects name workers in turn.
    let held = ids[1];
    kill("-9", held);
    for step in [computes, waits] {
        let error = timeout(Duration::from_secs(10), step).await.unwrap().unwrap_err();
        assert!(error.is_retryable(), "{error}");
        assert!(matches!(&error, CodeError::WorkerLost { how } if how.starts_with("signal 9 killed it")), "{error}");
    }
    assert!(is_gone(held), "a zombie is left");
    assert!(timeout(Duration::from_millis(100), &mut elsewhere).await.is_err(), "the other worker goes on");
    assert_eq!(sandbox.run(of(1, "return 1;")).await.unwrap().value, 1);
    let now = sandbox.process_ids();
    assert!(now.contains(&ids[0]) && !now.contains(&held), "{now:?}");
}

#[tokio::test]
async fn a_worker_that_ends_again_and_again_is_replaced_later_and_others_are_unharmed() {
    let sandbox = sandbox(2);
    let good = || CodeRequest { project: ProjectId::from_u128(2), ..request(&step("return 1;"), "{}") };
    let (mut deaths, began) = (0, Instant::now());
    let other = sandbox.process_ids()[0];
    let mut last = 0;
    while began.elapsed() < Duration::from_millis(2_500) {
        for process in sandbox.process_ids() {
            if process == other || process == last {
                continue;
            }
            kill("-9", process);
            eventually("it ends", || has_ended(process)).await;
            (deaths, last) = (deaths + 1, process);
        }
        assert_eq!(sandbox.run(good()).await.unwrap().value, 1);
    }
    // At once, then after 0.1, 0.2, 0.4, 0.8 seconds.
    assert!((2..=7).contains(&deaths), "{deaths}");
}

#[tokio::test]
async fn a_worker_that_does_not_answer_is_stopped_when_the_time_of_its_step_is_up() {
    let grace = Duration::from_millis(200);
    let sandbox = ProcessSandbox::start(options().with_workers(1).unwrap().with_grace(grace).unwrap()).unwrap();
    let held = sandbox.process_ids()[0];
    let limit = Duration::from_millis(700);
    let mut request = patient(FOREVER);
    request.limits = request.limits.with_timeout(limit).unwrap();
    let mut step = sandbox.run(request);
    assert!(timeout(Duration::from_millis(300), &mut step).await.is_err());
    kill("-STOP", held);
    assert_eq!(timeout(Duration::from_secs(10), step).await.unwrap(), Err(CodeError::Timeout { limit }));
    eventually("it is gone", || is_gone(held)).await;
    assert_eq!(sandbox.run(patient("return 1;")).await.unwrap().value, 1);
}

#[tokio::test]
async fn expressions_survive_the_death_of_their_worker() {
    let sandbox = sandbox(1);
    let held = sandbox.process_ids()[0];
    let expressions = vec!["(() => { let n = 0; for (let i = 0; i < 2e7; i++) n++; return n; })()".into()];
    let (variables, limits) = ("{}".into(), CodeLimits::default().with_timeout(Duration::from_secs(120)).unwrap());
    let project = ProjectId::from_u128(1);
    let request = ExpressionRequest { project, expressions, variables, now: NOW, seed: [1; 32], limits };
    let mut evaluation = sandbox.evaluate(request);
    assert!(timeout(Duration::from_millis(50), &mut evaluation).await.is_err());
    kill("-9", held);
    assert_eq!(evaluation.await.unwrap(), [Ok(20_000_000.into())]);
    assert_ne!(sandbox.process_ids(), [held]);
}

#[tokio::test]
async fn steps_that_nobody_waits_for_give_up_their_places() {
    let capacity = SandboxCapacity::default().with_live_steps(4).unwrap().with_threads(1).unwrap();
    let sandbox = ProcessSandbox::start(options().with_workers(1).unwrap().with_capacity(capacity)).unwrap();
    for _ in 0..20 {
        // Waiting ones and computing ones, more than there are places for.
        assert!(timeout(Duration::from_millis(20), sandbox.run(patient(WAITS))).await.is_err());
        assert!(timeout(Duration::from_millis(20), sandbox.run(patient(FOREVER))).await.is_err());
    }
    let one = timeout(Duration::from_secs(20), sandbox.run(patient("return 1;"))).await.unwrap();
    assert_eq!(one.unwrap().value, 1);
}

#[tokio::test]
async fn a_step_that_was_given_up_between_two_turns_has_no_other() {
    let capacity = SandboxCapacity::default().with_live_steps(4).unwrap().with_threads(1).unwrap();
    let sandbox = ProcessSandbox::start(options().with_workers(1).unwrap().with_capacity(capacity)).unwrap();
    let held = sandbox.process_ids();
    let mut waits = sandbox.run(patient(&format!("await new Promise((done) => setTimeout(done, 300)); {FOREVER}")));
    assert!(timeout(Duration::from_millis(150), &mut waits).await.is_err());
    // Its time comes while the one thread is busy: it is queued.
    let computes = patient(FOREVER);
    let mut computes = sandbox.run(CodeRequest { project: ProjectId::from_u128(3), ..computes });
    let both = join(&mut waits, &mut computes);
    assert!(timeout(Duration::from_millis(600), both).await.is_err());
    drop(waits);
    drop(computes);
    let one = timeout(Duration::from_secs(20), sandbox.run(patient("return 1;"))).await.unwrap();
    assert_eq!((one.unwrap().value, sandbox.process_ids()), (1.into(), held));
}

#[tokio::test]
async fn a_worker_survives_that_everybody_gives_up_at_once() {
    const STEPS: usize = 1_024;
    let capacity = SandboxCapacity::default().with_live_steps(4 * STEPS).unwrap().with_queue(4 * STEPS).unwrap();
    let sandbox = ProcessSandbox::start(options().with_workers(1).unwrap().with_capacity(capacity)).unwrap();
    let held = sandbox.process_ids();
    for stands_still in [false, true] {
        let host = Arc::new(Keeper::default());
        let mut request = patient("await fetch('https://a.example/');");
        request.host = Arc::<Keeper>::clone(&host);
        let mut waiting = join_all((0..STEPS).map(|_| sandbox.run(request.clone())));
        let until = Instant::now() + Duration::from_secs(60);
        while host.0.load(Ordering::SeqCst) < STEPS {
            assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
            assert!(Instant::now() < until, "{:?}", host.0);
        }
        if stands_still {
            kill("-STOP", held[0]);
        }
        drop(waiting);
        if stands_still {
            tokio::time::sleep(Duration::from_millis(300)).await;
            kill("-CONT", held[0]);
        }
        let one = timeout(Duration::from_secs(20), sandbox.run(patient("return 1;"))).await.unwrap();
        assert_eq!((one.unwrap().value, sandbox.process_ids()), (1.into(), held.clone()));
    }
}

#[tokio::test]
async fn a_worker_that_keeps_what_it_was_told_to_forget_is_replaced() {
    let grace = Duration::from_millis(100);
    let sandbox = ProcessSandbox::start(options().with_workers(1).unwrap().with_grace(grace).unwrap()).unwrap();
    let held = sandbox.process_ids()[0];
    let mut waits = sandbox.run(patient(WAITS));
    assert!(timeout(Duration::from_millis(500), &mut waits).await.is_err());
    kill("-STOP", held);
    drop(waits);
    // Without anybody asking for anything.
    eventually("it is gone", || is_gone(held)).await;
    assert_eq!(sandbox.run(patient("return 1;")).await.unwrap().value, 1);
}

#[tokio::test]
async fn a_dropped_sandbox_leaves_nothing() {
    let sandbox = sandbox(3);
    let ids = sandbox.process_ids();
    assert!(timeout(Duration::from_millis(50), sandbox.run(patient(FOREVER))).await.is_err());
    let began = Instant::now();
    drop(sandbox);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(ids.len() == 3 && ids.into_iter().all(is_gone));
}

#[tokio::test]
async fn both_sandboxes_give_the_same_output_and_fuel() {
    let [here, there] = [true, false].map(|here| -> Arc<dyn ap_runtime::sandbox::CodeSandbox> {
        if here {
            Arc::new(WasmSandbox::start(SandboxCapacity::default().with_threads(1).unwrap()).unwrap())
        } else {
            Arc::new(sandbox(1))
        }
    });
    for body in [
        "return [Math.random(), Date.now(), new Date().toISOString()];",
        "const c = require('crypto'); console.log(c.randomUUID()); return c.createHmac('sha256', 'k').update('d').digest('hex');",
        "await new Promise((done) => setTimeout(done, 1)); return new URL('../b?c=d', 'https://a.example/x/y').href;",
        "const list = Array.from({ length: 300 }, (_, i) => (i * 7919) % 300); return list.sort((a, b) => a - b);",
    ] {
        let mut request = request(&step(body), r#"{"a":1}"#);
        request.limits = CodeLimits::default().with_metering(Metering::Fuel(1_000_000_000)).unwrap();
        let (one, other) = (here.run(request.clone()).await.unwrap(), there.run(request).await.unwrap());
        assert!(one.fuel.is_some_and(|fuel| fuel > 1_000), "{body}");
        assert_eq!(one, other, "{body}");
    }
}

#[test]
fn a_host_that_is_not_prepared_is_told_so() {
    // The program of these tests never called `serve_if_worker`.
    let error = ProcessSandbox::start(ProcessOptions::default()).unwrap_err();
    assert!(
        matches!(error, SandboxStartError::NotPrepared) && error.to_string().contains("serve_if_worker"),
        "{error}"
    );
    let error = SandboxMode::Process.start(SandboxCapacity::default()).unwrap_err();
    assert!(matches!(error, SandboxStartError::NotPrepared), "{error}");
}

#[test]
fn a_program_that_is_no_worker_is_refused_in_time() {
    for (program, told) in [("/bin/false", "ended before it was ready"), ("/usr/bin/yes", "did not report in time")] {
        let options = options().with_program(program).with_start_timeout(Duration::from_millis(500)).unwrap();
        let began = Instant::now();
        let error = ProcessSandbox::start(options).unwrap_err().to_string();
        assert!(error.contains(told) && error.contains("serve_if_worker"), "{program}: {error}");
        assert!(began.elapsed() < Duration::from_secs(5), "{program}");
    }
    let error = ProcessSandbox::start(options().with_program("/does/not/exist")).unwrap_err();
    assert!(matches!(error, SandboxStartError::Worker { .. }), "{error}");
}

#[test]
fn a_worker_that_no_host_started_says_so_and_ends() {
    let argument = concat!("ap-code-worker/", env!("CARGO_PKG_VERSION"));
    let program = env!("CARGO_BIN_EXE_ap-code-worker");
    for (arguments, told) in
        [(&[argument][..], "not for use by hand"), (&[], "started by hosts"), (&[argument, "x"], "started by hosts")]
    {
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && printed.contains(told), "{arguments:?}: {printed}");
    }
    // A variable makes no worker.
    let output = Command::new(program).env("AP_CODE_WORKER", argument).stdin(Stdio::null()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("started by hosts"));
}

#[test]
fn options_are_accepted_up_to_both_ends_and_no_further() {
    for (workers, accepted) in [(0, false), (1, true), (64, true), (65, false)] {
        assert_eq!(options().with_workers(workers).is_ok(), accepted, "{workers}");
    }
    for (millis, accepted) in [(99, false), (100, true), (60_000, true), (60_001, false)] {
        let time = Duration::from_millis(millis);
        assert_eq!(options().with_grace(time).is_ok(), accepted, "{millis}");
        assert_eq!(options().with_start_timeout(time).is_ok(), accepted, "{millis}");
    }
}

#[tokio::test]
async fn walls_are_reported() {
    let sandbox = sandbox(2);
    let walls = sandbox.walls();
    assert_eq!((walls.len(), walls[0]), (2, walls[1]));
    assert!(walls[0].capabilities_dropped);
    // Kernels list what they enforce, where that can be read; 6.12 knows all of Landlock.
    if fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|list| list.contains("landlock")) {
        assert_ne!(walls[0].landlock, Landlock::Absent);
    }
    for process in sandbox.process_ids() {
        // Readable for root alone.
        match fs::read(format!("/proc/{process}/environ")) {
            Ok(environment) => assert!(environment.is_empty(), "{} bytes", environment.len()),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
        }
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let of =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        assert_eq!((of("NoNewPrivs:"), of("Seccomp:"), of("CapEff:")), ("1".into(), "2".into(), "0".repeat(16)));
        let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
        for name in ["Max core file size", "Max file size", "Max open files", "Max processes"] {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            assert!(line.split_whitespace().take(2).all(|limit| limit == "0"), "{name}: {line}");
        }
    }
}

/// Gives a secret for a placeholder, and counts the requests, which it never answers.
#[derive(Debug, Default)]
struct Keeper(AtomicUsize);

const PLACEHOLDER: &str = "apcred_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// Not in one piece in the program itself.
fn secret() -> String {
    ["not-to-be", "found-in", "a-worker"].join("/")
}

#[async_trait]
impl CodeHost for Keeper {
    async fn fetch(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        pending().await
    }

    fn key(&self, placeholder: &str) -> Option<Result<SecretString, HttpError>> {
        (placeholder == PLACEHOLDER).then(|| Ok(SecretString::from(secret())))
    }

    fn mentions(&self, bytes: &[u8]) -> bool {
        bytes.windows(PLACEHOLDER.len()).any(|window| window == PLACEHOLDER.as_bytes())
    }

    fn placeholders(&self) -> Vec<String> {
        vec![PLACEHOLDER.to_owned()]
    }

    async fn store(&self, call: StoreCall) -> Result<Option<String>, StoreCallError> {
        NoCodeHost.store(call).await
    }

    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

/// Takes its time to give a key, as a vault across a network may.
#[derive(Debug)]
struct Slow;

#[async_trait]
impl CodeHost for Slow {
    async fn fetch(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        pending().await
    }

    fn key(&self, _: &str) -> Option<Result<SecretString, HttpError>> {
        std::thread::sleep(Duration::from_millis(800));
        Some(Ok(SecretString::from(secret())))
    }

    fn mentions(&self, _: &[u8]) -> bool {
        false
    }

    fn placeholders(&self) -> Vec<String> {
        vec![PLACEHOLDER.to_owned()]
    }

    async fn store(&self, call: StoreCall) -> Result<Option<String>, StoreCallError> {
        NoCodeHost.store(call).await
    }

    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

#[tokio::test]
async fn the_time_that_its_host_takes_is_not_held_against_a_worker() {
    let grace = Duration::from_millis(200);
    let sandbox = ProcessSandbox::start(options().with_workers(1).unwrap().with_grace(grace).unwrap()).unwrap();
    let held = sandbox.process_ids();
    let limit = Duration::from_millis(300);
    let body = format!("while (true) require('crypto').createHmac('sha256', '{PLACEHOLDER}').update('d').digest();");
    let mut request = request(&step(&body), "{}");
    request.host = Arc::new(Slow);
    request.limits = request.limits.with_timeout(limit).unwrap();
    // From the cache the second time.
    for _ in 0..2 {
        assert_eq!(sandbox.run(request.clone()).await, Err(CodeError::Timeout { limit }));
    }
    assert_eq!(sandbox.process_ids(), held);
}

/// Whether `wanted` stands in the memory of a process; `None` if that cannot be read.
fn memory_contains(process: u32, wanted: &[&[u8]]) -> Option<Vec<bool>> {
    use std::io::{Read as _, Seek as _, SeekFrom};

    let mut memory = fs::File::open(format!("/proc/{process}/mem")).ok()?;
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).ok()?;
    let mut found = vec![false; wanted.len()];
    let mut chunk = vec![0; 4 << 20];
    for line in
        maps.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|rights| rights.starts_with("rw")))
    {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        let (mut at, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        while at < end {
            memory.seek(SeekFrom::Start(at)).ok()?;
            let most = chunk.len().min(usize::try_from(end - at).ok()?);
            let Ok(read @ 1..) = memory.read(chunk.get_mut(..most)?) else { break };
            for (wanted, found) in wanted.iter().zip(&mut found) {
                *found |= chunk.get(..read)?.windows(wanted.len()).any(|window| window == *wanted);
            }
            at += read as u64;
        }
    }
    Some(found)
}

#[tokio::test]
async fn no_secret_is_in_the_memory_of_a_worker() {
    let capacity = SandboxCapacity::default().with_threads(1).unwrap().with_live_steps(1).unwrap();
    let sandbox = ProcessSandbox::start(options().with_workers(1).unwrap().with_capacity(capacity)).unwrap();
    let process = sandbox.process_ids()[0];
    let seed: [u8; 32] = std::array::from_fn(|index| (index as u8).wrapping_mul(37) ^ 0x5a);
    let body = format!(
        "const mac = require('crypto').createHmac('sha256', '{PLACEHOLDER}').update('d').digest('hex');
         globalThis.kept = mac + params.shown; await fetch('https://a.example/');"
    );
    let mut request = request(&step(&body), r#"{"shown":"this-is-the-steps-own"}"#);
    (request.seed, request.host) = (seed, Arc::new(Keeper::default()));
    request.limits = request.limits.with_timeout(Duration::from_secs(60)).unwrap();
    let mut step = sandbox.run(request);
    assert!(timeout(Duration::from_secs(1), &mut step).await.is_err(), "it waits");
    let (secret, path) = (secret(), std::env::var("PATH").unwrap());
    let wanted = [&b"this-is-the-steps-own"[..], secret.as_bytes(), &seed[..], path.as_bytes()];
    match memory_contains(process, &wanted) {
        Some(found) => assert_eq!(found, [true, false, false, false]),
        // Not even the user that runs it may look into a worker: only root may.
        None => assert!(fs::read(format!("/proc/{process}/environ")).is_err()),
    }
}

/// A host that has a worker, says which, and waits to be killed.
#[test]
#[ignore = "started by `workers_end_with_a_host_that_is_killed_and_get_none_of_its_files`"]
fn host() {
    let sandbox = sandbox(1);
    println!("worker {}", sandbox.process_ids()[0]);
    std::thread::sleep(Duration::from_secs(60));
}

#[tokio::test]
async fn workers_end_with_a_host_that_is_killed_and_get_none_of_its_files() {
    use std::io::{BufRead as _, BufReader};

    // A file that children of the host inherit, as careless libraries have them.
    let script = "exec 7</proc/version; exec \"$0\" --exact workers::host --ignored --nocapture";
    let mut host = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(host.stdout.take().unwrap()).lines();
    let worker =
        lines.map_while(Result::ok).find_map(|line| line.rsplit_once("worker ").and_then(|(_, id)| id.parse().ok()));
    let worker: u32 = worker.unwrap();
    let open = |process: u32| {
        let listed = fs::read_dir(format!("/proc/{process}/fd")).ok()?;
        Some(listed.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect::<Vec<_>>())
    };
    let version = Path::new("/proc/version").to_owned();
    assert!(open(host.id()).unwrap().contains(&version), "the host has it");
    if let Some(open) = open(worker) {
        assert!(!open.contains(&version), "{open:?}");
    }
    host.kill().unwrap();
    host.wait().unwrap();
    eventually("the worker ends", || has_ended(worker)).await;
}
