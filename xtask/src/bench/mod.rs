//! `bench <what>`: measures a part of the SDK on this machine. Each benchmark is a crate of its own, so that `xtask` stays
//! light.

use std::{path::Path, process::Command};

/// Builds the benchmark in release mode and runs it; arguments go to it.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    match arguments {
        ["door", rest @ ..] => benchmark("bench-door", rest),
        [other, ..] => Err(format!("there is no benchmark `{other}`; the only one is `door`")),
        [] => Err("name a benchmark: `door`".to_owned()),
    }
}

fn benchmark(package: &str, arguments: &[&str]) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask stands in no workspace")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(root)
        .args(["run", "--release", "--package", package, "--"])
        .args(arguments)
        .status()
        .map_err(|error| format!("cargo does not start: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("benchmark `{package}` failed")) }
}
