//! A worker process: told what to do by lines of JSON, one answer each.

use std::{io::Write, sync::Arc};

use anyhow::{Context, Result};
use ap_runtime::config::WorkerOptions;
use bench_base::floor::BareWriter;
use serde::{Deserialize, Serialize};

use crate::{
    flows::Flow,
    load::{self, Amount, Floor, Measured, Task},
    postgres_floor::BareConnections,
    world::{Place, Tenant, World},
};

/// What a worker is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Create so many tenants, each with every [`Flow`].
    Tenants(usize),
    /// Execute runs of this flow.
    Runs(Flow, Vec<Tenant>, Amount),
    /// Make bare commits of rows of these sizes.
    Commits(Vec<usize>, Amount),
    /// End in order.
    Close,
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It is ready, or has ended.
    Done,
    /// The new tenants.
    Tenants(Vec<Tenant>),
    /// What came out.
    Measured(Measured),
}

/// Works until it is told to end, or its input ends.
///
/// # Errors
/// At the first thing that goes wrong.
pub fn run(place: &str) -> Result<()> {
    let place: Place = serde_json::from_str(place)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work(&place))
}

async fn work(place: &Place) -> Result<()> {
    let world = World::open(place, WorkerOptions::default()).await?;
    let mut floor = None;
    say(&Answer::Done)?;
    // Blocks this thread between orders; the runtime has others.
    for line in std::io::stdin().lines() {
        match serde_json::from_str(&line?)? {
            Order::Tenants(count) => {
                let sources = Flow::ALL.map(Flow::source);
                let mut tenants = Vec::new();
                for _ in 0..count {
                    tenants.push(world.tenant(&sources).await?);
                }
                say(&Answer::Tenants(tenants))?;
            }
            Order::Runs(flow, tenants, amount) => {
                let index = Flow::ALL.iter().position(|one| *one == flow).context("there is no such flow")?;
                let paths = tenants.iter().map(|tenant| tenant.path(index)).collect::<Result<_>>()?;
                let task = Task::Run { door: world.door(), paths: Arc::new(paths) };
                say(&Answer::Measured(load::measure(task, amount).await?))?;
            }
            Order::Commits(rows, amount) => {
                let floor = match &floor {
                    Some(floor) => Floor::clone(floor),
                    None => floor.insert(open_floor(place).await?).clone(),
                };
                let task = Task::Commits { floor, rows: Arc::new(rows) };
                say(&Answer::Measured(load::measure(task, amount).await?))?;
            }
            Order::Close => break,
        }
    }
    world.close().await;
    say(&Answer::Done)
}

async fn open_floor(place: &Place) -> Result<Floor> {
    Ok(match place {
        Place::Memory => anyhow::bail!("memory has no floor"),
        Place::Sqlite(path) => Floor::Sqlite(BareWriter::open(&path.with_extension("floor"))?),
        Place::Postgres { url, schema } => Floor::Postgres(BareConnections::open(url, schema).await?),
    })
}

fn say(answer: &Answer) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(answer)?)?;
    out.flush()?;
    Ok(())
}
