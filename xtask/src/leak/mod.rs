//! `cargo xtask leak`: builds a host whose peers give every credential back, and searches everything it leaves behind.

mod defences;

use crate::{services::Services, tool};

/// Builds and runs it beside a private PostgreSQL; arguments go to it.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let root = tool::root()?;
    if let ["defences", wanted @ ..] = arguments {
        return defences::run(&root, wanted);
    }
    tool::run(&mut tool::cargo(&root, &["build", "--locked", "--package", "leak"]))?;
    let services = Services::start()?;
    let mut leak = tool::cargo(&root, &["run", "--locked", "--package", "leak", "--"]);
    tool::run(leak.args(arguments).envs(services.variables()))
}
