//! What the benchmarks of this repository share. Each is a program of its own; `cargo xtask bench` starts them.
#![forbid(unsafe_code)]

pub mod environment;
pub mod flags;
pub mod floor;
pub mod statistics;

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Where cargo builds to: beside this program, hence on the same disk.
///
/// # Errors
/// If the program is in no directory.
pub fn target_directory() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    program.ancestors().nth(2).map(ToOwned::to_owned).context("this program is in no directory")
}
