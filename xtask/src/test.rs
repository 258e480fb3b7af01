//! `cargo xtask test`: every test of the workspace.
//!
//! PostgreSQL and Redis are found, or installed, and started in private for it ([`crate::services`]), and a certified OAuth
//! provider where Node.js is present; SQLite is bundled, and
//! HTTP peers run inside the tests. One `cargo test` with all features runs unit, integration and documentation tests, the conformance suite (feature
//! `conformance`) and the sandbox's tests (feature `code`): features are additive, so nothing is compiled twice. What
//! that one build cannot show is checked without running anything: that the smaller feature sets compile, and, where its
//! toolchain is installed, that the committed engine of the code sandbox is what its sources build.

use std::time::Instant;

use crate::{sandbox_guest, services::Services, tool};

/// Runs everything; `arguments` go to `cargo test`, say a filter.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let root = tool::root()?;
    let started = Instant::now();
    // They stop when this is dropped, whatever became of the tests.
    let services = Services::start()?.with_provider(&root);
    let mut all = tool::cargo(&root, &["test", "--locked", "--workspace", "--all-features"]);
    tool::run(all.args(arguments).envs(services.variables()))?;
    drop(services);
    sandbox_guest::check_if_possible()?;
    for features in FEATURE_SETS {
        let package = ["check", "--locked", "--package", "ap-runtime", "--no-default-features", "--features", features];
        tool::run(&mut tool::cargo(&root, &package))?;
    }
    println!("xtask test: passed in {} s", started.elapsed().as_secs());
    Ok(())
}

/// Feature sets of `ap-runtime` that the build with all features does not cover: none; the default one, which no
/// build of the workspace has alone because the examples turn `code` on; and each service's and each protocol's alone.
const FEATURE_SETS: [&str; 9] =
    ["", "default", "postgres", "redis", "sql", "mail", "objects", "crypto", "process-isolation"];
