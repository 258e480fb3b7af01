//! `bench fairness`: does one busy tenant slow all others down?
//!
//! Fifty tenants share one process that executes `SLOTS` runs at once; each run acts outside once, which takes `ACT_MS`
//! milliseconds. So the process can end `SLOTS / ACT` runs per second, whatever its store and processors do. In the quiet phase
//! forty-nine tenants send requests, together at half of that. In the noisy phase they do the same, and the fiftieth sends a
//! hundred times as many as each of them: alone as many as the process can end at all.
//!
//! The load is open: each tenant sends at fixed intervals, whether or not earlier runs have ended, and a run's time counts from
//! when it was due to be sent to its reply. The noisy tenant has at most `NOISY_CALLERS` callers, and turns others away.
#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ap_runtime::{config::WorkerOptions, webhook::WebhookDoor};
use bench_base::{
    environment::Environment,
    statistics::{jain, median, percentile},
    target_directory,
};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use crate::{
    engine::POSTGRES_URL,
    flows,
    options::FairnessOptions,
    world::{self, Place, Tenant, World},
};

/// Measures and prints.
///
/// # Errors
/// At the first thing that goes wrong, or if the aim is missed.
pub fn run(options: &FairnessOptions) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("bench-fairness-").tempdir_in(target_directory()?)?;
    println!("{}", Environment::of(directory.path())?);
    println!(
        "{TENANTS} tenants; {SLOTS} runs at once, each acts for {ACT_MS} ms: {:.0} runs/s at most\n\
         {} of them send {RATE:.2} requests/s each, one sends {:.0}; {} rounds of {:.1?} per phase\n",
        1e3 / ACT_MS as f64 * SLOTS as f64,
        TENANTS - 1,
        RATE * NOISE,
        options.rounds,
        options.slice
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut missed = Vec::new();
    for kind in kinds(options) {
        let mut rounds = Vec::new();
        for round in 0..options.rounds {
            let place = match kind {
                Kind::Memory => Place::Memory,
                Kind::Sqlite => Place::Sqlite(directory.path().join(format!("fairness-{round}.db"))),
                Kind::Postgres => match std::env::var(POSTGRES_URL) {
                    Ok(url) => {
                        Place::Postgres { url, schema: format!("bench_fairness_{}_{round}", std::process::id()) }
                    }
                    Err(_) => {
                        println!("PostgreSQL is left out: `{POSTGRES_URL}` is not set.");
                        break;
                    }
                },
            };
            rounds.push(runtime.block_on(measure(&place, options.slice))?);
        }
        if !rounds.is_empty() && !report(kind, &rounds) {
            missed.push(kind);
        }
    }
    ensure!(missed.is_empty(), "the aim is missed on {missed:?}");
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Memory,
    Sqlite,
    Postgres,
}

fn kinds(options: &FairnessOptions) -> Vec<Kind> {
    let wanted = options.backends;
    let kinds = [(wanted.memory, Kind::Memory), (wanted.sqlite, Kind::Sqlite), (wanted.postgres, Kind::Postgres)];
    kinds.into_iter().filter(|(wanted, _)| *wanted).map(|(_, kind)| kind).collect()
}

/// Both phases, one after the other, on a database of their own.
struct Round {
    quiet: Phase,
    noisy: Phase,
}

/// What came of one phase.
#[derive(Default)]
struct Phase {
    /// Latencies of the quiet tenants, ascending, in microseconds.
    latencies: Vec<u32>,
    /// Runs per second of each quiet tenant, as a share of what it sent.
    served: Vec<f64>,
    /// Runs per second of the noisy tenant.
    noisy: f64,
    /// Requests of the noisy tenant that were not sent, because all its callers were waiting.
    turned_away: u64,
}

impl Phase {
    fn milliseconds(&self, percent: usize) -> f64 {
        f64::from(percentile(&self.latencies, percent)) / 1e3
    }
}

fn report(kind: Kind, rounds: &[Round]) -> bool {
    let over = |figure: &dyn Fn(&Round) -> f64| median(rounds.iter().map(figure));
    let slower = over(&|round| round.noisy.milliseconds(99) / round.quiet.milliseconds(99));
    let reached = slower <= AIM;
    println!("{kind:?}");
    println!(
        "  others, quiet:  p50 {:.1} ms, p99 {:.1} ms",
        over(&|round| round.quiet.milliseconds(50)),
        over(&|round| round.quiet.milliseconds(99))
    );
    println!(
        "  others, noisy:  p50 {:.1} ms, p99 {:.1} ms: {:+.0} %; the aim of at most {:+.0} % is {}",
        over(&|round| round.noisy.milliseconds(50)),
        over(&|round| round.noisy.milliseconds(99)),
        (slower - 1.0) * 100.0,
        (AIM - 1.0) * 100.0,
        if reached { "reached" } else { "missed" }
    );
    println!(
        "  Jain's index of the others' throughput: {:.4} quiet, {:.4} noisy",
        over(&|round| jain(&round.quiet.served)),
        over(&|round| jain(&round.noisy.served))
    );
    println!(
        "  the noisy tenant: {:.0} runs/s of {:.0} wanted ({:.0} requests turned away by itself)\n",
        over(&|round| round.noisy.noisy),
        RATE * NOISE,
        over(&|round| round.noisy.turned_away as f64)
    );
    reached
}

async fn measure(place: &Place, slice: Duration) -> Result<Round> {
    let world = World::open(place, WorkerOptions::default().with_concurrency(SLOTS)?).await?;
    let flow = flows::lasting(ACT_MS);
    let mut tenants = Vec::new();
    for _ in 0..TENANTS {
        tenants.push(world.tenant(std::slice::from_ref(&flow)).await?);
    }
    let (noisy, others) = tenants.split_first().context("there are no tenants")?;
    let quiet = phase(&world.door(), others, None, slice).await?;
    let noisy = phase(&world.door(), others, Some(noisy), slice).await?;
    world.close().await;
    Ok(Round { quiet, noisy })
}

async fn phase(door: &WebhookDoor, others: &[Tenant], noisy: Option<&Tenant>, slice: Duration) -> Result<Phase> {
    let start = Instant::now();
    let window = Window { from: start + WARM_UP, until: start + WARM_UP + slice };
    let interval = Duration::from_secs_f64(1.0 / RATE);
    let mut senders = JoinSet::new();
    for (number, tenant) in others.iter().enumerate() {
        let sender = Sender {
            door: door.clone(),
            path: tenant.path(0)?,
            interval,
            // Spread over the interval.
            first: start + interval.mul_f64(number as f64 / others.len() as f64),
            callers: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        };
        senders.spawn(sender.send(window));
    }
    let turned_away = Arc::new(AtomicU64::new(0));
    let noise = noisy.map(|tenant| {
        let path = tenant.path(0)?;
        let callers = Arc::new(Semaphore::new(NOISY_CALLERS));
        let sender = Sender { door: door.clone(), path, interval: interval.div_f64(NOISE), first: start, callers };
        let turned_away = Arc::clone(&turned_away);
        anyhow::Ok(tokio::spawn(async move {
            let sent = sender.send(window).await?;
            turned_away.store(sent.turned_away, Ordering::Relaxed);
            anyhow::Ok(sent.latencies.len())
        }))
    });
    let mut phase = Phase::default();
    while let Some(sent) = senders.join_next().await {
        let sent = sent??;
        phase.served.push(sent.latencies.len() as f64 / (RATE * slice.as_secs_f64()));
        phase.latencies.extend(sent.latencies);
    }
    phase.latencies.sort_unstable();
    if let Some(noise) = noise {
        phase.noisy = noise?.await?? as f64 / slice.as_secs_f64();
        phase.turned_away = turned_away.load(Ordering::Relaxed);
    }
    Ok(phase)
}

/// Which part of a phase counts.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: Instant,
    until: Instant,
}

/// One tenant's requests.
struct Sender {
    door: WebhookDoor,
    path: String,
    interval: Duration,
    first: Instant,
    callers: Arc<Semaphore>,
}

#[derive(Default)]
struct Sent {
    /// Of the requests that were due while it counted; of those of the noisy tenant, that were answered meanwhile.
    latencies: Vec<u32>,
    turned_away: u64,
}

impl Sender {
    async fn send(self, window: Window) -> Result<Sent> {
        let mut sent = Sent::default();
        let mut requests = JoinSet::new();
        let bounded = self.callers.available_permits() < Semaphore::MAX_PERMITS;
        for round in 0_u32.. {
            let due = self.first + self.interval.saturating_mul(round);
            if due >= window.until {
                break;
            }
            tokio::time::sleep_until(due).await;
            let Ok(caller) = Arc::clone(&self.callers).try_acquire_owned() else {
                sent.turned_away += 1;
                continue;
            };
            let (door, path) = (self.door.clone(), self.path.clone());
            requests.spawn(async move {
                let answered = world::run_to_its_end(&door, &path, flows::order(u64::from(round))).await;
                drop(caller);
                (due, Instant::now(), answered)
            });
        }
        let mut collect = |(due, end, answered): (Instant, Instant, Result<()>)| {
            answered?;
            let counts = if bounded { (window.from..window.until).contains(&end) } else { due >= window.from };
            if counts {
                sent.latencies.push(u32::try_from((end - due).as_micros()).unwrap_or(u32::MAX));
            }
            anyhow::Ok(())
        };
        while let Some(request) = requests.try_join_next() {
            collect(request?)?;
        }
        if bounded {
            // What still waits in the queue is nobody's any more.
            requests.abort_all();
            return Ok(sent);
        }
        while let Some(request) = requests.join_next().await {
            collect(request?)?;
        }
        Ok(sent)
    }
}

/// Tenants, the noisy one included.
const TENANTS: usize = 50;
/// Runs that the process executes at once.
const SLOTS: u32 = 16;
/// How long each run acts, in milliseconds.
const ACT_MS: u64 = 50;
/// Requests per second of each quiet tenant.
const RATE: f64 = 3.2;
/// How many times as many the noisy one sends.
const NOISE: f64 = 100.0;
/// Requests of the noisy tenant that wait for their replies at most.
const NOISY_CALLERS: usize = 1_000;
/// How long a phase warms up: by then the noisy tenant has filled the process.
const WARM_UP: Duration = Duration::from_secs(2);
/// How many times as long the others may take.
const AIM: f64 = 1.2;
