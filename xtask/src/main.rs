//! Chores of this repository: `cargo xtask help` lists them.
//!
//! Standard library only, so that the first `cargo xtask` of a fresh clone starts within seconds.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command-line tool")]

mod bench;
mod check_add;
mod leak;
mod oauth;
mod sandbox_guest;
mod services;
mod soak;
mod test;
mod tool;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["bench", rest @ ..] => bench::run(rest),
        ["check-add", rest @ ..] => check_add::run(rest),
        ["help" | "--help" | "-h"] | [] => {
            print!("{HELP}");
            Ok(())
        }
        ["leak", rest @ ..] => leak::run(rest),
        ["oauth", rest @ ..] => oauth::run(rest),
        ["sandbox-guest", rest @ ..] => sandbox_guest::run(rest),
        ["services", rest @ ..] => services::run(rest),
        ["soak", rest @ ..] => soak::run(rest),
        ["test", rest @ ..] => test::run(rest),
        [other, ..] => Err(format!("there is no command `{other}`; `cargo xtask help` lists them")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("xtask: {reason}");
            ExitCode::FAILURE
        }
    }
}

const HELP: &str = "\
Usage: cargo xtask <command>

  test [arguments]   runs every test of the workspace, beside a private PostgreSQL and a private Redis; arguments go to
                     `cargo test`
  services [command] starts the services that tests need, and runs the command with the variables that lead to them;
                     without a command prints the variables and keeps the services up until Ctrl-C
  bench door [options]
                     measures the webhook door beside two floors; see `--help`
  bench engine [options]
                     measures durable execution on SQLite and a private PostgreSQL beside the floor of each
  bench fairness [options]
                     measures what forty-nine tenants feel of a fiftieth that sends a hundred times as much
  bench sandbox [--quick]
                     measures code steps and expressions beside a bare WebAssembly instance and a native QuickJS
  bench vault [options]
                     measures sealing, opening and redaction beside the bare cipher
  soak kill|disk|sim [options]
                     crashes processes, disks and simulated systems for as long as wanted; see `soak --help`
  leak [sqlite|postgres|memory]
                     runs flows whose peers give every credential back, and searches stores, logs, replies and memory
  oauth [arguments]  runs the tests of OAuth 2.0 connections, also against a certified provider (needs Node.js, else it
                     says that those did not run); arguments go to the tests
  leak defences [name]
                     takes one defence away after the other, in a copy of the sources: the search must fail each time
  check-add [set]    builds a crate outside the workspace that depends on `ap-runtime`, and prints its number of crates
                     and its check time: default features (at most 175 crates, else it fails), then with feature
                     `code`; with the argument `default` or `code` only that
  sandbox-guest [--check]
                     builds the engine of the code sandbox from its sources, with `clang-19` and `lld-19`; with `--check`
                     compares it with the committed one instead. `test` does that too where the two are installed
  help               prints this
";
