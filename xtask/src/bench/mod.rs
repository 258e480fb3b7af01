//! `bench <what>`: measures a part of the SDK on this machine. Benchmarks are crates of their own, so that `xtask` stays
//! light.

use crate::{services::Services, tool};

/// Builds the benchmark in release mode and runs it; arguments go to it.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    match arguments {
        ["door", rest @ ..] => benchmark("bench-door", &[], rest),
        ["sandbox", rest @ ..] => sandbox(rest),
        ["vault", rest @ ..] => benchmark("bench-vault", &[], rest),
        [what @ ("engine" | "fairness"), rest @ ..] => {
            let services = if needs_postgres(rest) { Some(Services::start()?) } else { None };
            let variables = services.iter().flat_map(Services::variables).collect::<Vec<_>>();
            let arguments: Vec<&str> = std::iter::once(*what).chain(rest.iter().copied()).collect();
            benchmark("bench-engine", &variables, &arguments)
        }
        [other, ..] => Err(format!(
            "there is no benchmark `{other}`; there are `door`, `engine`, `fairness`, `sandbox` and `vault`"
        )),
        [] => Err("name a benchmark: `door`, `engine`, `fairness`, `sandbox` or `vault`".to_owned()),
    }
}

/// Whether the arguments let PostgreSQL be measured.
fn needs_postgres(arguments: &[&str]) -> bool {
    let backend = arguments.iter().position(|argument| *argument == "--backend");
    let backend = backend.and_then(|position| arguments.get(position + 1));
    backend.is_none_or(|backend| !["memory", "sqlite"].contains(backend))
}

fn benchmark(package: &str, variables: &[(String, String)], arguments: &[&str]) -> Result<(), String> {
    let root = tool::root()?;
    // All its programs: one may start another.
    tool::run(&mut tool::cargo(&root, &["build", "--release", "--package", package]))?;
    let run = ["run", "--release", "--package", package, "--"];
    let variables = variables.iter().map(|(name, value)| (name, value));
    tool::run(tool::cargo(&root, &run).args(arguments).envs(variables))
}

/// As [`benchmark`]; its package stands outside the workspace and shares its directory of outputs.
fn sandbox(arguments: &[&str]) -> Result<(), String> {
    let root = tool::root()?;
    let run = [
        "run",
        "--release",
        "--locked",
        "--manifest-path",
        "xtask/bench-sandbox/Cargo.toml",
        "--target-dir",
        "target",
        "--",
    ];
    tool::run(tool::cargo(&root, &run).args(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_started_only_where_they_are_measured() {
        assert!(needs_postgres(&[]));
        assert!(needs_postgres(&["--quick", "--backend", "both"]));
        assert!(!needs_postgres(&["--backend", "sqlite", "--quick"]));
        assert!(!needs_postgres(&["--backend", "memory"]));
    }
}
