//! `cargo xtask soak <what>`: the tests that crash things, for as long as wanted. Each is a test that CI runs for a few
//! seconds; this runs it longer, with its figures shown.

use std::{path::Path, process::Command};

use crate::{services::Services, tool};

/// `kill`, `disk`, `sim` or `rotate`, and its options.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let (what, options) = match arguments {
        ["kill", rest @ ..] => (kill as fn(&Path, &Options) -> Result<(), String>, Options::parse(rest, KILL)?),
        ["disk", rest @ ..] => (disk as _, Options::parse(rest, DISK)?),
        ["sim", rest @ ..] => (sim as _, Options::parse(rest, SIM)?),
        ["rotate", rest @ ..] => (rotate as _, Options::parse(rest, ROTATE)?),
        ["--help" | "-h"] => {
            print!("{HELP}");
            return Ok(());
        }
        [other, ..] => {
            return Err(format!("there is nothing to soak by the name of `{other}`: `kill`, `disk`, `sim`, `rotate`"));
        }
        [] => return Err("name what to soak: `kill`, `disk`, `sim` or `rotate`; `--help` tells more".to_owned()),
    };
    what(&tool::root()?, &options)
}

/// Real processes under load, killed at random.
fn kill(root: &Path, options: &Options) -> Result<(), String> {
    let backend = options.text("--backend", "sqlite");
    let (test, services) = match backend {
        "sqlite" => (KILLS_ON_SQLITE, None),
        "postgres" => (KILLS_ON_POSTGRES, Some(Services::start()?)),
        other => return Err(format!("there is no backend `{other}` to soak: `sqlite`, `postgres`")),
    };
    let mut command = crash_tests(root, options, &["--exact", test]);
    command
        .env("AP_KILLS", options.number("--kills", 200)?)
        .env("AP_WORKERS", options.number("--workers", 3)?)
        .env("AP_SEED", options.number("--seed", 1)?)
        .envs(services.iter().flat_map(Services::variables));
    tool::run(&mut command)
}

/// A disk that fails, that forgets what was not synced, and that lies.
fn disk(root: &Path, options: &Options) -> Result<(), String> {
    let mut command = crash_tests(root, options, &["disk::"]);
    command
        .env("AP_CRASHES", options.number("--crashes", 300)?)
        .env("AP_FAULTS", options.number("--faults", 300)?)
        .env("AP_ROUNDS", "3")
        .env("AP_SEED", options.number("--seed", 1)?);
    tool::run(&mut command)
}

/// Simulated systems, a seed each.
fn sim(root: &Path, options: &Options) -> Result<(), String> {
    let mut command = cargo_test(root, options, &["--features", "sim", "--test", "sim"]);
    command.args(["--exact", "soak::seeds", "--nocapture"]);
    command.env("AP_SEEDS", options.number("--seeds", 10_000)?).env("AP_SEED", options.number("--seed", 1)?);
    tool::run(&mut command)
}

/// A tenant's key, replaced under readers by processes that are killed.
fn rotate(root: &Path, options: &Options) -> Result<(), String> {
    let backend = options.text("--backend", "sqlite");
    let (test, services) = match backend {
        "sqlite" => (ROTATION_ON_SQLITE, None),
        "postgres" => (ROTATION_ON_POSTGRES, Some(Services::start()?)),
        other => return Err(format!("there is no backend `{other}` to soak: `sqlite`, `postgres`")),
    };
    let mut command = crash_tests(root, options, &["--exact", test]);
    command
        .env("AP_RECORDS", options.number("--records", 100_000)?)
        .env("AP_KILLS", options.number("--kills", 20)?)
        .env("AP_WORKERS", options.number("--workers", 3)?)
        .env("AP_SEED", options.number("--seed", 1)?)
        .envs(services.iter().flat_map(Services::variables));
    tool::run(&mut command)
}

/// One test after the other, so that none takes the machine from another.
fn crash_tests(root: &Path, options: &Options, filters: &[&str]) -> Command {
    let mut command = cargo_test(root, options, &["--all-features", "--test", "crash"]);
    command.args(["--nocapture", "--test-threads", "1"]).args(filters);
    command
}

fn cargo_test(root: &Path, options: &Options, what: &[&str]) -> Command {
    let mut command = tool::cargo(root, &["test", "--locked", "--package", "ap-runtime"]);
    command.args(options.flag("--release").then_some("--release")).args(what).arg("--");
    command
}

/// Options of one command, as they were given.
#[derive(Debug)]
struct Options<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Options<'a> {
    /// Every option of `known` takes a value, but `--release`.
    fn parse(arguments: &[&'a str], known: &[&str]) -> Result<Self, String> {
        let mut options = Vec::new();
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            if *name == "--release" {
                options.push((*name, ""));
            } else if known.contains(name) {
                options.push((*name, *rest.next().ok_or_else(|| format!("`{name}` takes a value"))?));
            } else {
                return Err(format!("there is no option `{name}` here: {}, --release", known.join(", ")));
            }
        }
        Ok(Self(options))
    }

    fn text(&self, name: &str, default: &'a str) -> &'a str {
        self.0.iter().rev().find(|(given, _)| *given == name).map_or(default, |(_, value)| value)
    }

    fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|(given, _)| *given == name)
    }

    /// A whole number from 1 on, as text.
    fn number(&self, name: &str, default: u64) -> Result<String, String> {
        let default = default.to_string();
        let text = self.0.iter().rev().find(|(given, _)| *given == name).map_or(default.as_str(), |(_, value)| value);
        match text.parse::<u64>() {
            Ok(number) if number > 0 => Ok(text.to_owned()),
            _ => Err(format!("`{name}` takes a whole number from 1 on, and got `{text}`")),
        }
    }
}

const KILLS_ON_SQLITE: &str = "kills::nothing_is_lost_doubled_or_stuck_when_the_process_is_killed_under_load";
const KILLS_ON_POSTGRES: &str =
    "kills::nothing_is_lost_doubled_or_stuck_when_one_of_several_processes_is_killed_under_load";

const ROTATION_ON_SQLITE: &str = "rotation::a_key_is_replaced_under_readers_by_a_process_that_is_killed";
const ROTATION_ON_POSTGRES: &str = "rotation::a_key_is_replaced_under_readers_by_several_processes_that_are_killed";

const KILL: &[&str] = &["--kills", "--backend", "--workers", "--seed"];
const DISK: &[&str] = &["--crashes", "--faults", "--seed"];
const SIM: &[&str] = &["--seeds", "--seed"];
const ROTATE: &[&str] = &["--records", "--kills", "--backend", "--workers", "--seed"];

const HELP: &str = "\
Usage: cargo xtask soak <what> [options]

  kill   processes under load, killed at random: one on SQLite, three on a private PostgreSQL. The parent is the service
         they act on, and counts. Fails unless acknowledged runs lost, duplicate runs, duplicate keyed effects and stuck
         runs are all 0.
           --kills N (200)  --backend sqlite|postgres (sqlite)  --workers N (3; PostgreSQL)  --seed N (1)
  disk   a process on SQLite whose power fails, which takes back what was not synced, wholly or in part; whose n-th
         write or sync fails, for n = 1, 2, … N; and two faults that this has to find: a sync that does nothing, an
         acknowledgement before its commit. Linux only; needs a C compiler.
           --crashes N (300)  --faults N (300)  --seed N (1)
  sim    simulated systems: crashes, faults, late and duplicate deliveries, clock jumps, two workers. Prints the hash of
         all traces: the same seeds have the same hash.
           --seeds N (10000)  --seed N (1: the first)

  rotate a project's key is replaced again and again under eight readers, by processes that are killed at random: one on
         SQLite, which also writes, three on a private PostgreSQL. Fails unless failed reads and values left on an old key
         are both 0.
           --records N (100000: sealed values)  --kills N (20)  --backend sqlite|postgres (sqlite)
           --workers N (3; PostgreSQL)  --seed N (1)

  --release runs it optimised. A failure prints what repeats it.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let options = Options::parse(&["--kills", "7", "--release", "--kills", "8"], KILL).expect("known options");
        assert_eq!(options.number("--kills", 1).expect("a number"), "8");
        assert_eq!(options.number("--seed", 5).expect("the default"), "5");
        assert!(options.flag("--release"));
        assert_eq!(options.text("--backend", "sqlite"), "sqlite");
        assert!(Options::parse(&["--kill", "7"], KILL).expect_err("unknown").contains("--kills, --backend"));
        assert!(Options::parse(&["--kills"], KILL).expect_err("no value").contains("takes a value"));
        for bad in ["0", "-1", "many", ""] {
            let options = Options::parse(&["--seed", bad], SIM).expect("a known option");
            assert!(options.number("--seed", 1).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_there_is_to_soak_is_told() {
        assert!(run(&[]).expect_err("nothing").contains("`kill`, `disk`, `sim` or `rotate`"));
        assert!(run(&["rope"]).expect_err("unknown").contains("rope"));
        assert!(run(&["kill", "--backend", "paper"]).expect_err("unknown").contains("paper"));
    }
}
