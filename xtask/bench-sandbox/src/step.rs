//! Steps and expressions, through the sandbox's public API.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ap_core::{id::ProjectId, time::Timestamp};
use ap_runtime::sandbox::process::{ProcessOptions, ProcessSandbox};
use ap_runtime::sandbox::{
    CodeLanguage, CodeLimits, CodeRequest, CodeSandbox, ExpressionRequest, SandboxCapacity, WasmSandbox,
};
use futures_util::future::join_all;
use tokio::runtime::Runtime;

use crate::host::Echo;

/// Adds one.
pub const TRIVIAL: &str = "export const code = async (params) => ({ n: params.n + 1 });";
/// What webhooks are signed with.
pub const HMAC: &str = "const crypto = require('crypto');
export const code = async (params) => {
  const text = JSON.stringify({ id: params.id, items: params.items });
  const mac = crypto.createHmac('sha256', params.secret).update(text).digest('hex');
  console.log('signed', params.id);
  return { text: Buffer.from(text).toString('base64'), mac };
};";
/// Asks once.
pub const FETCH: &str = "export const code = async () => {
  const response = await fetch('https://api.example/');
  return (await response.json()).echo;
};";
/// Asks the host a thousand times, which has next to nothing to do for it.
pub const CALLS: &str = "const crypto = require('crypto');
export const code = () => { for (let i = 0; i < 1000; i++) crypto.timingSafeEqual(Buffer.of(1), Buffer.of(1)); };";
/// Waits for longer than it is measured.
const WAITS: &str = "export const code = () => new Promise((done) => setTimeout(done, 60000));";
const PARAMS: &str = r#"{"n":41,"id":"abc","secret":"s3cr3t","items":[1,2,3,{"a":"b"}]}"#;

/// A sandbox, and the runtime its callers are on.
pub struct Bench {
    runtime: Arc<Runtime>,
    sandbox: Arc<dyn CodeSandbox>,
    anew: AtomicU64,
}

impl Bench {
    /// In this process.
    pub fn start(runtime: &Arc<Runtime>) -> Result<Self> {
        let sandbox = Arc::new(WasmSandbox::start(capacity()?)?);
        Ok(Self { runtime: Arc::clone(runtime), sandbox, anew: AtomicU64::new(0) })
    }

    /// In a worker process.
    pub fn start_process(runtime: &Arc<Runtime>) -> Result<Self> {
        let sandbox = Arc::new(start_worker()?);
        Ok(Self { runtime: Arc::clone(runtime), sandbox, anew: AtomicU64::new(0) })
    }

    pub fn run(&self, source: &str) -> Result<()> {
        self.runtime.block_on(self.sandbox.run(request(source, 1)))?;
        Ok(())
    }

    /// A step whose source was not seen before.
    pub fn run_new(&self) -> Result<()> {
        let number = self.anew.fetch_add(1, Ordering::Relaxed);
        self.run(&format!("{TRIVIAL} // {number}"))
    }

    pub fn evaluate(&self, count: usize) -> Result<()> {
        let expressions = (0..count).map(|number| format!("item.price * {number} + 1").into()).collect();
        let request = ExpressionRequest {
            project: ProjectId::from_u128(1),
            expressions,
            variables: r#"{"item":{"price":20}}"#.into(),
            now: NOW,
            seed: [1; 32],
            limits: CodeLimits::default(),
        };
        let results = self.runtime.block_on(self.sandbox.evaluate(request))?;
        ensure!(results.len() == count && results.iter().all(Result::is_ok), "an expression failed");
        Ok(())
    }

    /// How a step with a deadline ends, and when.
    pub fn until_deadline(&self, source: &str, limit: Duration) -> Result<Duration> {
        let mut request = request(source, 1);
        request.limits = request.limits.with_timeout(limit)?;
        let began = Instant::now();
        let ended = self.runtime.block_on(self.sandbox.run(request));
        let took = began.elapsed();
        ensure!(ended.is_err(), "a step that should not end gave a result");
        Ok(took)
    }

    /// Trivial steps per second with `threads` of the sandbox's threads at work.
    pub fn throughput(&self, threads: usize, slice: Duration) -> Result<f64> {
        let (began, until) = (Instant::now(), Instant::now() + slice);
        // Two callers for each thread, so that none waits for its next step.
        let callers = (0..2 * threads).map(|caller| {
            let sandbox = Arc::clone(&self.sandbox);
            self.runtime.spawn(async move {
                let mut done = 0_u64;
                while Instant::now() < until {
                    // One project runs on one thread, two on two.
                    sandbox.run(request(TRIVIAL, (caller % threads) as u128 + 1)).await?;
                    done += 1;
                }
                Ok::<_, anyhow::Error>(done)
            })
        });
        let counts = self.runtime.block_on(join_all(callers));
        let mut all = 0;
        for count in counts {
            all += count??;
        }
        Ok(all as f64 / began.elapsed().as_secs_f64())
    }

    /// Private memory of one of `steps` that have started and wait. Unit: KiB.
    pub fn live_memory(&self, steps: usize) -> Result<f64> {
        let before = private_kib()?;
        let waiting: Vec<_> = (0..steps)
            .map(|step| {
                let sandbox = Arc::clone(&self.sandbox);
                let mut request = request(WAITS, step as u128);
                self.runtime.spawn(async move {
                    request.limits = request.limits.with_timeout(Duration::from_secs(120))?;
                    sandbox.run(request).await?;
                    Ok::<_, anyhow::Error>(())
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs(2));
        ensure!(waiting.iter().all(|step| !step.is_finished()), "a step did not wait");
        let each = (private_kib()? - before) / steps as f64;
        for step in waiting {
            step.abort();
        }
        Ok(each)
    }
}

/// Starts a worker process, sees it walled in, and ends it.
pub fn worker() -> Result<()> {
    start_worker().map(drop)
}

fn start_worker() -> Result<ProcessSandbox> {
    Ok(ProcessSandbox::start(ProcessOptions::default().with_workers(1)?.with_capacity(capacity()?))?)
}

fn capacity() -> Result<SandboxCapacity> {
    Ok(SandboxCapacity::default().with_live_steps(1_000)?.with_threads(2)?.with_threads_per_project(2)?)
}

fn request(source: &str, project: u128) -> CodeRequest {
    CodeRequest {
        project: ProjectId::from_u128(project),
        source: source.into(),
        language: CodeLanguage::JavaScript,
        params: PARAMS.into(),
        context: "{}".into(),
        now: NOW,
        seed: [1; 32],
        limits: CodeLimits::default(),
        host: Arc::new(Echo),
    }
}

/// Memory that is this process's alone.
fn private_kib() -> Result<f64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let of = |name: &str| {
        let line = rollup.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    Ok(of("Private_Dirty:").context("no Private_Dirty")? + of("Private_Clean:").context("no Private_Clean")?)
}

/// 2026-01-01T00:00:00Z.
const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);
