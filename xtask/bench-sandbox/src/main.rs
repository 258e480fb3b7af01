//! `cargo xtask bench sandbox`: what code steps and expressions cost, beside a bare instance of the same WebAssembly module and
//! a native QuickJS context, on the same machine in the same run. Contenders take turns, several rounds long.

mod floor;
mod host;
mod kill;
mod report;
mod step;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use self::report::{Line, machine};

/// How long one contender is measured in one round.
const SLICE: Duration = Duration::from_millis(700);
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    ap_runtime::sandbox::process::serve_if_worker();
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, slice) = if quick { (2, SLICE / 4) } else { (ROUNDS, SLICE) };
    println!("{}", machine());
    println!("{rounds} rounds of {slice:.1?} per line; times of one call at a time, microseconds\n");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    let runtime = Arc::new(runtime);
    let (bench, process) = (step::Bench::start(&runtime)?, step::Bench::start_process(&runtime)?);
    let mut lines = contenders(&bench, &process)?;
    for line in &mut lines {
        (line.work)()?; // warm
    }
    for _ in 0..rounds {
        for line in &mut lines {
            let until = Instant::now() + slice;
            while Instant::now() < until {
                let began = Instant::now();
                (line.work)()?;
                line.times.push(began.elapsed());
            }
        }
    }
    report::table(&mut lines);
    let (one, two) = (bench.throughput(1, slice * 3)?, bench.throughput(2, slice * 3)?);
    println!("\nfresh trivial steps per second: {one:.0} on 1 thread, {two:.0} on 2 threads");
    let (one, two) = (process.throughput(1, slice * 3)?, process.throughput(2, slice * 3)?);
    println!("in a worker process: {one:.0} on 1 thread, {two:.0} on 2 threads");
    println!("a live step that waits for its host: {:.0} KiB private (200 of them)", bench.live_memory(200)?);
    println!("\npast a deadline of 50 ms, milliseconds");
    for (name, body) in kill::BODIES {
        println!("{}", kill::overshoot(&bench, name, body, if quick { 10 } else { 60 })?);
    }
    Ok(())
}

fn contenders<'a>(bench: &'a step::Bench, process: &'a step::Bench) -> Result<Vec<Line<'a>>> {
    let instance = floor::Instance::load()?;
    let quickjs = floor::NativeQuickJs;
    Ok(vec![
        Line::new("bare instance, made and dropped", None, move || instance.make()),
        Line::new("native QuickJS, fresh context, trivial", None, move || quickjs.trivial()),
        Line::new("trivial step, fresh", Some((40.0, 150.0)), || bench.run(step::TRIVIAL)),
        Line::new("HMAC and JSON step, fresh", Some((90.0, f64::INFINITY)), || bench.run(step::HMAC)),
        Line::new("step that fetches (answered at once)", None, || bench.run(step::FETCH)),
        Line::new("one expression", Some((30.0, f64::INFINITY)), || bench.evaluate(1)),
        Line::new("ten expressions in one instance", None, || bench.evaluate(10)),
        Line::new("trivial step, compiled anew", None, || bench.run_new()),
        Line::new("1,000 host calls in a step", None, || bench.run(step::CALLS)),
        Line::new("in a worker process: trivial step", None, || process.run(step::TRIVIAL)),
        Line::new("in a worker process: HMAC and JSON step", None, || process.run(step::HMAC)),
        Line::new("in a worker process: step that fetches", None, || process.run(step::FETCH)),
        Line::new("in a worker process: one expression", None, || process.evaluate(1)),
        Line::new("in a worker process: 1,000 host calls", None, || process.run(step::CALLS)),
        Line::new("worker process, started, walled, ended", None, step::worker),
    ])
}
