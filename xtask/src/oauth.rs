//! `cargo xtask oauth`: the tests of OAuth 2.0 connections, also against a certified provider.

use crate::{services::Services, tool};

/// Runs them; `arguments` go to the tests. `cargo xtask test` runs them as well, among all others.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let root = tool::root()?;
    let services = Services::start()?.with_provider(&root);
    let test = ["test", "--locked", "--package", "ap-runtime", "--all-features", "--test", "oauth"];
    tool::run(tool::cargo(&root, &test).arg("--").args(arguments).envs(services.variables()))
}
