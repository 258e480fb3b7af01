//! `cargo xtask leak [sqlite|postgres|memory]`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command-line tool")]

use anyhow::{Context, Result, bail};
use leak::{
    log,
    memory::{self, Allocator},
    postgres::Database,
    scenario,
    storage::Storage,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (sqlite, postgres, memory) = match arguments.as_slice() {
        [] => (true, true, true),
        ["sqlite"] => (true, false, false),
        ["postgres"] => (false, true, false),
        ["memory"] => (false, false, true),
        _ => bail!("usage: leak [sqlite|postgres|memory]; without an argument all three"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut leaks = 0;
    if sqlite {
        let report = runtime.block_on(async { scenario::play(Storage::sqlite().await, true).await });
        report.print("SQLite");
        leaks += report.leaks.len();
    }
    if postgres {
        log::forget();
        let report = runtime.block_on(async { scenario::play(Storage::Postgres(Database::open().await), true).await });
        report.print("PostgreSQL");
        leaks += report.leaks.len();
    }
    let programs = std::env::current_exe()?;
    let programs = programs.parent().context("no directory")?;
    let allocators: &[Allocator] = if memory { &[Allocator::Wiping, Allocator::Ordinary] } else { &[] };
    for &allocator in allocators {
        let found = runtime.block_on(memory::search(allocator, programs))?;
        found.print(allocator);
        leaks += found.sandbox;
        if allocator == Allocator::Wiping {
            leaks += found.dropped.values().sum::<usize>();
        }
    }
    if leaks > 0 {
        bail!("{leaks} leaks");
    }
    println!("no credential was found");
    Ok(())
}
