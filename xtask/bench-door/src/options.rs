//! The command line.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench_base::flags::{number, seconds};

/// What to measure, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Connections, each with one request under way.
    pub(crate) clients: usize,
    /// How often every contender is measured.
    pub(crate) rounds: usize,
    /// How long one measurement takes, after its warm-up.
    pub(crate) slice: Duration,
}

impl Options {
    /// Reads flags such as `--clients 64`.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self::default();
        while let Some(flag) = arguments.next() {
            let value = || arguments.next().with_context(|| format!("`{flag}` needs a value"));
            match flag.as_str() {
                "--clients" => options.clients = number(&flag, &value_of(value)?, 1, 4_096)?,
                "--rounds" => options.rounds = number(&flag, &value_of(value)?, 1, 1_000)?,
                "--seconds" => options.slice = seconds(&flag, &value_of(value)?)?,
                _ => bail!("unknown flag `{flag}`; known are --clients, --rounds and --seconds\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { clients: 64, rounds: 5, slice: Duration::from_secs(3) }
    }
}

fn value_of(value: impl FnOnce() -> Result<String>) -> Result<String> {
    value()
}

const USAGE: &str = "bench door [--clients 64] [--rounds 5] [--seconds 3]
    --clients   connections, each with one request under way
    --rounds    how often each contender is measured; medians are reported
    --seconds   how long one measurement takes";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_are_read_and_bounded() {
        assert_eq!(parse("").unwrap(), Options::default());
        let options = parse("--clients 8 --rounds 2 --seconds 0.5").unwrap();
        assert_eq!(options, Options { clients: 8, rounds: 2, slice: Duration::from_millis(500) });
        for wrong in ["--clients 0", "--clients 4097", "--clients", "--rounds x", "--seconds 0.1", "--frobnicate 1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
