//! The command line.

use std::time::Duration;

use anyhow::{Context, Result, bail};

/// For how long to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// How often every contender is measured.
    pub(crate) rounds: usize,
    /// How long one measurement takes.
    pub(crate) slice: Duration,
}

impl Options {
    /// Reads flags such as `--rounds 5`.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self::default();
        while let Some(flag) = arguments.next() {
            let value = arguments.next().with_context(|| format!("`{flag}` needs a value\n{USAGE}"))?;
            let number = |min: f64, max: f64| {
                let number = value.parse::<f64>().ok().filter(|number| (min..=max).contains(number));
                number.with_context(|| format!("`{flag}` takes a number from {min} to {max}, not `{value}`"))
            };
            match flag.as_str() {
                "--rounds" => options.rounds = number(1.0, 1_000.0)? as usize,
                "--seconds" => options.slice = Duration::from_secs_f64(number(0.01, 60.0)?),
                _ => bail!("unknown flag `{flag}`; known are --rounds and --seconds\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { rounds: 5, slice: Duration::from_millis(300) }
    }
}

const USAGE: &str = "bench vault [--rounds 5] [--seconds 0.3]
    --rounds    how often each line is measured; medians are reported
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
        let options = parse("--rounds 2 --seconds 0.5").unwrap();
        assert_eq!(options, Options { rounds: 2, slice: Duration::from_millis(500) });
        for wrong in ["--rounds", "--rounds 0", "--rounds x", "--seconds 0", "--seconds 61", "--what 1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
