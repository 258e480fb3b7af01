//! `cargo xtask sandbox-guest`: builds the engine of the code sandbox from its sources, or compares what that gives with what is
//! committed. The builder is a package of its own, outside the workspace.

use std::process::{Command, Stdio};

use crate::tool;

/// Runs the builder; `--check` makes it compare and write nothing.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let root = tool::root()?;
    // The compiler of WebAssembly in there is the one that the workspace's build script has.
    let package =
        ["run", "--locked", "--manifest-path", "xtask/build-engine/Cargo.toml", "--target-dir", "target", "--"];
    tool::run(tool::cargo(&root, &package).args(arguments))
}

/// Compares, if this machine has what the committed engine was built with; says so if it has not.
pub(crate) fn check_if_possible() -> Result<(), String> {
    if let Some(missing) = TOOLS.into_iter().find(|tool| !has(tool)) {
        println!(
            "xtask test: `{missing}` {VERSION} is not here, so the engine of the code sandbox was not built again to compare"
        );
        return Ok(());
    }
    run(&["--check"])
}

/// Whether the tool is on the path, in the version whose output is committed.
fn has(tool: &str) -> bool {
    let said = Command::new(tool).arg("--version").stdin(Stdio::null()).output();
    said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains(VERSION))
}

const TOOLS: [&str; 2] = ["clang-19", "wasm-ld-19"];
const VERSION: &str = "19.1.7";
