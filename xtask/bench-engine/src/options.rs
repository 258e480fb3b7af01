//! The command lines.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench_base::flags::{number, numbers, seconds};

/// Which backends are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backends {
    /// The memory backend.
    pub memory: bool,
    /// SQLite.
    pub sqlite: bool,
    /// PostgreSQL, at the URL that the environment names.
    pub postgres: bool,
}

/// What `bench engine` measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// On what.
    pub backends: Backends,
    /// Clients over all processes.
    pub clients: Vec<usize>,
    /// Worker processes; SQLite always has one.
    pub workers: Vec<usize>,
    /// Runs that are stored before.
    pub stored: Vec<usize>,
    /// How often everything is measured.
    pub rounds: usize,
    /// How long one measurement takes, after its warm-up.
    pub slice: Duration,
    /// Runs that are parked to be weighed; 0: none.
    pub parked: usize,
}

impl EngineOptions {
    /// Reads flags such as `--stored 1000,100000`.
    ///
    /// # Errors
    /// For a flag or value that is none.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            backends: Backends { memory: false, sqlite: true, postgres: true },
            clients: vec![1, 8, 64],
            workers: vec![1, 2, 4],
            stored: vec![1_000, 100_000, 1_000_000],
            rounds: 3,
            slice: Duration::from_secs(2),
            parked: 20_000,
        };
        each(arguments, ENGINE_USAGE, |flag, value| {
            match flag {
                "--quick" => {
                    options.clients = vec![64];
                    options.workers = vec![1];
                    options.stored = vec![1_000];
                    options.rounds = 1;
                    options.slice = Duration::from_secs(1);
                    options.parked = 2_000;
                }
                "--backend" => options.backends = backends(&value()?, false)?,
                "--clients" => options.clients = numbers(flag, &value()?, 1, 1_024)?,
                "--workers" => options.workers = numbers(flag, &value()?, 1, 16)?,
                "--stored" => options.stored = numbers(flag, &value()?, 0, 10_000_000)?,
                "--rounds" => options.rounds = number(flag, &value()?, 1, 1_000)?,
                "--seconds" => options.slice = seconds(flag, &value()?)?,
                "--parked" => options.parked = number(flag, &value()?, 0, 1_000_000)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        options.stored.sort_unstable();
        Ok(options)
    }
}

/// What `bench fairness` measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FairnessOptions {
    /// On what.
    pub backends: Backends,
    /// How often everything is measured.
    pub rounds: usize,
    /// How long each of the two phases takes, after its warm-up.
    pub slice: Duration,
}

impl FairnessOptions {
    /// Reads flags such as `--rounds 5`.
    ///
    /// # Errors
    /// For a flag or value that is none.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let backends_by_default = Backends { memory: true, sqlite: true, postgres: true };
        let mut options = Self { backends: backends_by_default, rounds: 3, slice: Duration::from_secs(6) };
        each(arguments, FAIRNESS_USAGE, |flag, value| {
            match flag {
                "--quick" => {
                    options.rounds = 1;
                    options.slice = Duration::from_secs(4);
                }
                "--backend" => options.backends = backends(&value()?, true)?,
                "--rounds" => options.rounds = number(flag, &value()?, 1, 100)?,
                "--seconds" => options.slice = seconds(flag, &value()?)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(options)
    }
}

/// Calls `take` for each flag, with what reads its value.
fn each(
    mut arguments: impl Iterator<Item = String>,
    usage: &str,
    mut take: impl FnMut(&str, &mut dyn FnMut() -> Result<String>) -> Result<bool>,
) -> Result<()> {
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("`{flag}` needs a value"));
        if !take(&flag, &mut value)? {
            bail!("unknown flag `{flag}`\n{usage}");
        }
    }
    Ok(())
}

fn backends(text: &str, memory: bool) -> Result<Backends> {
    let none = Backends { memory: false, sqlite: false, postgres: false };
    Ok(match text {
        "memory" if memory => Backends { memory: true, ..none },
        "sqlite" => Backends { sqlite: true, ..none },
        "postgres" => Backends { postgres: true, ..none },
        "both" => Backends { sqlite: true, postgres: true, ..none },
        _ => bail!("`--backend` takes sqlite, postgres or both{}", if memory { ", or memory" } else { "" }),
    })
}

const ENGINE_USAGE: &str = "bench engine [--quick] [--backend both] [--clients 1,8,64] [--workers 1,2,4] \
[--stored 1000,100000,1000000] [--rounds 3] [--seconds 2] [--parked 20000]
    --quick     one round of 1 s: 64 clients, one worker, 1,000 stored runs
    --backend   sqlite, postgres or both
    --clients   clients over all worker processes, each with one run under way
    --workers   worker processes (PostgreSQL; SQLite has one)
    --stored    runs in the database before
    --rounds    how often everything is measured; medians are reported
    --seconds   how long one measurement takes
    --parked    runs that are parked to be weighed";

const FAIRNESS_USAGE: &str = "bench fairness [--quick] [--backend sqlite] [--rounds 3] [--seconds 6]
    --quick     one round of 4 s
    --backend   memory, sqlite, postgres or both (SQLite and PostgreSQL); default: all three
    --rounds    how often everything is measured; medians are reported
    --seconds   how long each phase takes, the quiet one and the noisy one";

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> impl Iterator<Item = String> {
        line.split_whitespace().map(str::to_owned)
    }

    #[test]
    fn flags_are_read_and_bounded() {
        let options = EngineOptions::parse(words("--quick --backend sqlite --stored 2000,1000 --seconds 0.5")).unwrap();
        assert!(options.backends.sqlite && !options.backends.postgres);
        assert_eq!((options.stored, options.rounds), (vec![1_000, 2_000], 1));
        assert_eq!(options.slice, Duration::from_millis(500));
        for wrong in ["--clients 0", "--workers 17", "--stored x", "--backend memory", "--rounds", "--frobnicate"] {
            assert!(EngineOptions::parse(words(wrong)).is_err(), "{wrong}");
        }
        assert!(FairnessOptions::parse(words("--backend memory")).unwrap().backends.memory);
        assert!(FairnessOptions::parse(words("--backend oracle")).is_err());
    }
}
