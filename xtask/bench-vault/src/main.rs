//! `cargo xtask bench vault`: what sealing, opening and redaction cost, beside floors on the same machine in the same run:
//! the bare cipher, a copy and a search for one byte.
//!
//! The contenders take turns, several rounds long; the table has medians over rounds, and the shares of the floors are taken
//! within rounds. One thread, no disk. On Linux, time is what the thread had of a processor, so that other work on the machine
//! counts less.
#![expect(clippy::print_stdout, reason = "a command-line tool")]

mod contender;
mod options;
mod report;
mod text;
mod vault;

use std::time::{Duration, Instant};

use anyhow::Result;

use self::{
    contender::{Contender, contenders},
    options::Options,
    report::Report,
};

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    println!("{}", report::machine());
    println!("{} rounds of {:.1?} per line, one thread\n", options.rounds, options.slice);
    let mut contenders = contenders()?;
    for contender in &mut contenders {
        measure(contender, options.slice / 10);
    }
    let mut report = Report::default();
    for _ in 0..options.rounds {
        report.add_round(contenders.iter_mut().map(|contender| measure(contender, options.slice)).collect());
    }
    println!("{}", report.table(&contenders));
    for verdict in report.verdicts(&contenders) {
        println!("{verdict}");
    }
    Ok(())
}

/// Repeats the work for `slice`; how long once takes. Unit: nanoseconds.
fn measure(contender: &mut Contender, slice: Duration) -> f64 {
    let (mut times, began, worked) = (0_u32, Instant::now(), time_on_processor());
    loop {
        // So that asking for the time does not count.
        for _ in 0..contender.batch {
            (contender.work)();
        }
        times += contender.batch;
        let took = began.elapsed();
        if took >= slice {
            let worked = worked.and_then(|before| time_on_processor()?.checked_sub(before));
            return worked.unwrap_or(took).as_secs_f64() * 1e9 / f64::from(times);
        }
    }
}

/// How long this thread has run so far; `None` where the system does not say.
fn time_on_processor() -> Option<Duration> {
    let figures = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(figures.split(' ').next()?.parse().ok()?))
}
