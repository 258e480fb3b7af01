//! `bench engine`: durable runs and steps per second beside the store's own floor, on the same machine, in the same run.
//!
//! Runs are executed by worker processes, which also hold the clients: each hands a request to the webhook door, in the
//! process, and waits for the reply, over and over. The floor is the same number of clients in the same processes, each
//! waiting for as many grouped commits as a run needs, of rows as large as the run's, one after the other. Floor and runs take
//! turns; shares are taken within rounds, and what is reported are medians over rounds.
#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use ap_runtime::config::WorkerOptions;
use bench_base::{
    environment::Environment,
    statistics::{median, percentile},
    target_directory,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    flows::Flow,
    load::{self, Amount, Measured, Task},
    options::EngineOptions,
    seed, weight,
    worker::{Answer, Order},
    world::{Place, Tenant, World},
};

/// Measures and prints.
///
/// # Errors
/// At the first thing that goes wrong.
pub fn run(options: &EngineOptions) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("bench-engine-").tempdir_in(target_directory()?)?;
    println!("{}", Environment::of(directory.path())?);
    println!("{} rounds of {:.1?} per figure; clients and workers on the same cores\n", options.rounds, options.slice);
    let rows = Flow::ALL.iter().map(|flow| calibrate(directory.path(), *flow)).collect::<Result<Vec<_>>>()?;
    for (flow, rows) in Flow::ALL.iter().zip(&rows) {
        println!("{}: {} steps, {} commits; they write rows of {rows:?} bytes", flow.name(), flow.steps(), rows.len());
    }
    let mut report = Report::default();
    if options.backends.sqlite {
        let place = Place::Sqlite(directory.path().join("engine.db"));
        measure(&place, options, &rows, &mut report)?;
    }
    if options.backends.postgres {
        match std::env::var(POSTGRES_URL) {
            Ok(url) => {
                let place = Place::Postgres { url, schema: SCHEMA.to_owned() };
                block_on(drop_schema(&place))??;
                let measured = measure(&place, options, &rows, &mut report);
                block_on(drop_schema(&place))??;
                measured?;
            }
            Err(_) => println!("\nPostgreSQL is left out: `{POSTGRES_URL}` is not set."),
        }
    }
    report.conclude();
    if options.parked > 0 {
        weigh_parked(options)?;
    }
    Ok(())
}

/// The program of its own that parks runs and weighs them.
fn weigh_parked(options: &EngineOptions) -> Result<()> {
    let program = std::env::current_exe()?.with_file_name("bench-parked");
    println!();
    let mut command = Command::new(program);
    command.arg(options.parked.to_string());
    if options.backends.sqlite {
        command.arg("sqlite");
    }
    if options.backends.postgres {
        command.arg("postgres");
    }
    let status = command.status().context("`bench-parked` does not start; build the whole package")?;
    ensure!(status.success(), "`bench-parked` failed");
    Ok(())
}

/// What the rows of a run weigh.
fn calibrate(directory: &Path, flow: Flow) -> Result<Vec<usize>> {
    let database = directory.join("calibrate.db");
    block_on(async {
        let world = World::open(&Place::Sqlite(database.clone()), WorkerOptions::default()).await?;
        let tenant = world.tenant(&[flow.source()]).await?;
        let task = Task::Run { door: world.door(), paths: vec![tenant.path(0)?].into() };
        let (warm_up, duration) = (Duration::ZERO, Duration::from_millis(200));
        load::measure(task, Amount { clients: 4, warm_up, duration }).await?;
        world.close().await;
        anyhow::Ok(())
    })??;
    let rows = weight::row_bytes(&database, flow)?;
    std::fs::remove_file(&database)?;
    Ok(rows)
}

async fn drop_schema(place: &Place) -> Result<()> {
    if let Place::Postgres { url, schema } = place {
        let mut connection = PgConnection::connect(url).await?;
        let sql = format!("SET client_min_messages = warning; DROP SCHEMA IF EXISTS {schema} CASCADE");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
        connection.close().await?;
    }
    Ok(())
}

fn measure(place: &Place, options: &EngineOptions, rows: &[Vec<usize>], report: &mut Report) -> Result<()> {
    let tenants = prepare(place)?;
    println!("\n{HEAD}");
    for stored in &options.stored {
        match place {
            Place::Memory => bail!("memory keeps nothing"),
            Place::Sqlite(path) => seed::sqlite(path, &tenants, *stored)?,
            Place::Postgres { url, schema } => block_on(seed::postgres(url, schema, &tenants, *stored))??,
        }
        let workers = match place {
            Place::Postgres { .. } => options.workers.as_slice(),
            _ => &[1],
        };
        for workers in workers {
            let mut pool = Workers::start(place, *workers)?;
            for clients in options.clients.iter().filter(|clients| **clients >= *workers) {
                for (flow, rows) in Flow::ALL.iter().zip(rows) {
                    let mut line = Line::new(*flow);
                    for _ in 0..options.rounds {
                        let amount = |clients| Amount { clients, warm_up: WARM_UP, duration: options.slice };
                        let floor = pool.measure(*clients, |clients| Order::Commits(rows.clone(), amount(clients)))?;
                        let run = |clients| Order::Runs(*flow, tenants.clone(), amount(clients));
                        line.add(&floor, &pool.measure(*clients, run)?, options.slice);
                    }
                    let case = Case { place: place.name(), workers: *workers, clients: *clients, flow: *flow };
                    println!("{}", line.text(&case, *stored));
                    report.add(case, *stored, &line);
                }
            }
            pool.close()?;
        }
    }
    Ok(())
}

/// Creates the tenants, and runs that seeding can copy.
fn prepare(place: &Place) -> Result<Vec<Tenant>> {
    let mut workers = Workers::start(place, 1)?;
    let Some(Answer::Tenants(tenants)) = workers.tell(&[Order::Tenants(TENANTS)])?.pop() else {
        bail!("a worker does not do as it is told")
    };
    let (warm_up, duration) = (Duration::ZERO, Duration::from_millis(300));
    let amount = Amount { clients: TENANTS, warm_up, duration };
    workers.tell(&[Order::Runs(Flow::Pure, tenants.clone(), amount)])?;
    workers.close()?;
    Ok(tenants)
}

/// Worker processes.
struct Workers(Vec<Worker>);

struct Worker {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Workers {
    fn start(place: &Place, count: usize) -> Result<Self> {
        let place = serde_json::to_string(place)?;
        let mut workers = Vec::new();
        for _ in 0..count {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(WORKER).arg(&place).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut process = command.spawn().context("a worker could not be started")?;
            let input = process.stdin.take().context("a worker has no input")?;
            let output = BufReader::new(process.stdout.take().context("a worker has no output")?);
            let mut worker = Worker { process, input, output };
            worker.hear()?;
            workers.push(worker);
        }
        Ok(Self(workers))
    }

    /// Gives each worker its order, then hears them all.
    fn tell(&mut self, orders: &[Order]) -> Result<Vec<Answer>> {
        for (worker, order) in self.0.iter_mut().zip(orders) {
            writeln!(worker.input, "{}", serde_json::to_string(order)?)?;
        }
        self.0.iter_mut().zip(orders).map(|(worker, _)| worker.hear()).collect()
    }

    /// Has all workers do the same, with their part of the clients.
    fn measure(&mut self, clients: usize, order: impl Fn(usize) -> Order) -> Result<Measured> {
        let count = self.0.len();
        let part = |number| (clients + count - 1 - number) / count;
        let orders: Vec<Order> = (0..count).map(|number| order(part(number))).collect();
        let mut all = Measured::default();
        for answer in self.tell(&orders)? {
            let Answer::Measured(one) = answer else { bail!("a worker does not do as it is told") };
            all.latencies.extend(one.latencies);
            all.cpu += one.cpu;
        }
        all.latencies.sort_unstable();
        Ok(all)
    }

    fn close(mut self) -> Result<()> {
        self.tell(&vec![Order::Close; self.0.len()])?;
        for mut worker in self.0.drain(..) {
            let status = worker.process.wait()?;
            ensure!(status.success(), "a worker failed: {status}");
        }
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            // It may be gone already.
            let _ = worker.process.kill();
            let _ = worker.process.wait();
        }
    }
}

impl Worker {
    fn hear(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).context("a worker has ended")
    }
}

/// Where, how and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    place: &'static str,
    workers: usize,
    clients: usize,
    flow: Flow,
}

/// The figures of one line, one of each per round.
struct Line {
    flow: Flow,
    floors: Vec<f64>,
    rates: Vec<f64>,
    /// Processor time per run, in microseconds, of floor and runs.
    cpu: (Vec<f64>, Vec<f64>),
    latencies: Vec<u32>,
}

impl Line {
    const fn new(flow: Flow) -> Self {
        Self { flow, floors: Vec::new(), rates: Vec::new(), cpu: (Vec::new(), Vec::new()), latencies: Vec::new() }
    }

    fn add(&mut self, floor: &Measured, runs: &Measured, slice: Duration) {
        let rate = |measured: &Measured| measured.latencies.len() as f64 / slice.as_secs_f64();
        let cpu = |measured: &Measured| measured.cpu.as_secs_f64() * 1e6 / measured.latencies.len().max(1) as f64;
        self.floors.push(rate(floor));
        self.rates.push(rate(runs));
        self.cpu.0.push(cpu(floor));
        self.cpu.1.push(cpu(runs));
        self.latencies.extend(&runs.latencies);
        self.latencies.sort_unstable();
    }

    fn rate(&self) -> f64 {
        median(self.rates.iter().copied())
    }

    fn share(&self) -> f64 {
        median(self.rates.iter().zip(&self.floors).map(|(rate, floor)| rate / floor))
    }

    fn text(&self, case: &Case, stored: usize) -> String {
        let milliseconds = |percent| f64::from(percentile(&self.latencies, percent)) / 1e3;
        let (floor_cpu, cpu) = (median(self.cpu.0.iter().copied()), median(self.cpu.1.iter().copied()));
        format!(
            "{:<11}{stored:>9}{:>4}{:>5}  {:<30}{:>8.0}{:>9.0}{:>8.2}{:>8.2}{cpu:>9.0}{:>9.0}{floor_cpu:>9.0}{:>7.0} %",
            case.place,
            case.workers,
            case.clients,
            self.flow.name(),
            self.rate(),
            self.rate() * self.flow.steps() as f64,
            milliseconds(50),
            milliseconds(99),
            median(self.floors.iter().copied()),
            self.share() * 100.0
        )
    }
}

/// Everything, for the conclusion.
#[derive(Default)]
struct Report {
    /// By case, then by stored runs: rate and share.
    lines: BTreeMap<Case, BTreeMap<usize, (f64, f64)>>,
}

impl Report {
    fn add(&mut self, case: Case, stored: usize, line: &Line) {
        self.lines.entry(case).or_default().insert(stored, (line.rate(), line.share()));
    }

    fn conclude(&self) {
        println!();
        let places: std::collections::BTreeSet<_> = self.lines.keys().map(|case| case.place).collect();
        for place in places {
            let lines = || self.lines.iter().filter(move |(case, _)| case.place == place);
            let shares = lines().flat_map(|(case, line)| line.values().map(|(_, share)| (*share, *case)));
            if let Some((share, case)) = shares.min_by(|(one, _), (other, _)| one.total_cmp(other)) {
                let verdict = if share >= AIM { "reached" } else { "missed" };
                println!(
                    "{place}: at least {:.0} % of its floor ({}, {} clients, {} workers); the aim of {:.0} % is {verdict}.",
                    share * 100.0,
                    case.flow.name(),
                    case.clients,
                    case.workers,
                    AIM * 100.0
                );
            }
            let slower = lines().filter_map(|(case, line)| {
                let (few, many) = (line.first_key_value()?, line.last_key_value()?);
                (few.0 != many.0).then_some((few.1.0 / many.1.0, *case, *few.0, *many.0))
            });
            if let Some((factor, case, few, many)) = slower.max_by(|one, other| one.0.total_cmp(&other.0)) {
                let verdict = if factor <= FLAT { "reached" } else { "missed" };
                println!(
                    "{place}: with {many} stored runs at most {factor:.2} times slower than with {few} ({}, {} clients, {} \
                     workers); the aim of {FLAT} is {verdict}.",
                    case.flow.name(),
                    case.clients,
                    case.workers
                );
            }
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(future))
}

/// The argument that makes this program a worker.
pub const WORKER: &str = "worker";
/// Where PostgreSQL is found.
pub const POSTGRES_URL: &str = "AP_TEST_POSTGRES_URL";
/// The schema that is made, and dropped at the end.
const SCHEMA: &str = "bench_engine";
/// Projects, over which the clients are dealt out.
const TENANTS: usize = 8;
/// How long each measurement warms up.
const WARM_UP: Duration = Duration::from_millis(300);
/// The share of the floor that runs should reach.
const AIM: f64 = 0.6;
/// How many times slower the largest database may be than the smallest.
const FLAT: f64 = 1.3;
const HEAD: &str = "              stored  wk   cl  flow                            runs/s  steps/s  p50 ms  p99 ms   CPU µs  floor/s   CPU µs  share";
