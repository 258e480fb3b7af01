//! `cargo xtask bench engine` and `cargo xtask bench fairness`.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use bench_engine::{
    engine, fairness,
    options::{EngineOptions, FairnessOptions},
    worker,
};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("engine") => engine::run(&EngineOptions::parse(arguments)?),
        Some("fairness") => fairness::run(&FairnessOptions::parse(arguments)?),
        Some(engine::WORKER) => worker::run(&arguments.next().context("a worker needs a place")?),
        _ => bail!("say `engine` or `fairness`"),
    }
}
