//! The load of one process: clients in a closed loop, each with one run, or as many bare commits, under way.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use ap_runtime::webhook::WebhookDoor;
use bench_base::floor::BareWriter;
use serde::{Deserialize, Serialize};

use crate::{flows, postgres_floor::BareConnections, world};

/// What one client does over and over.
#[derive(Clone, Debug)]
pub enum Task {
    /// Hands a request to the door and waits for the reply.
    Run {
        /// The door.
        door: WebhookDoor,
        /// Paths of webhooks; clients are dealt out over them.
        paths: Arc<Vec<String>>,
    },
    /// Waits for one grouped commit after the other.
    Commits {
        /// Who commits.
        floor: Floor,
        /// Bytes of the row of each commit.
        rows: Arc<Vec<usize>>,
    },
}

/// A bare writer.
#[derive(Clone, Debug)]
pub enum Floor {
    /// Through SQLite.
    Sqlite(BareWriter),
    /// Through PostgreSQL.
    Postgres(BareConnections),
}

impl Floor {
    async fn write(&self, bytes: usize) -> Result<()> {
        match self {
            Self::Sqlite(writer) => writer.write(bytes).await,
            Self::Postgres(connections) => connections.write(bytes).await,
        }
    }
}

/// How much, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Clients of this process.
    pub clients: usize,
    /// What counts starts after this.
    pub warm_up: Duration,
    /// How long it counts.
    pub duration: Duration,
}

/// What one measurement brought.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Rounds of clients that ended while it counted, in microseconds each.
    pub latencies: Vec<u32>,
    /// Processor time that this process used meanwhile.
    pub cpu: Duration,
}

/// Measures.
///
/// # Errors
/// At the first answer that is not the right one.
pub async fn measure(task: Task, amount: Amount) -> Result<Measured> {
    let start = Instant::now();
    let (from, until) = (start + amount.warm_up, start + amount.warm_up + amount.duration);
    let clients: Vec<_> =
        (0..amount.clients).map(|client| tokio::spawn(client_loop(task.clone(), client, from, until))).collect();
    tokio::time::sleep_until(from.into()).await;
    let before = cpu_time()?;
    tokio::time::sleep_until(until.into()).await;
    let mut measured = Measured { cpu: cpu_time()?.saturating_sub(before), ..Measured::default() };
    for client in clients {
        measured.latencies.extend(client.await.context("a client failed")??);
    }
    Ok(measured)
}

async fn client_loop(task: Task, client: usize, from: Instant, until: Instant) -> Result<Vec<u32>> {
    let mut latencies = Vec::new();
    for round in 0_u64.. {
        let start = Instant::now();
        if start >= until {
            break;
        }
        match &task {
            Task::Run { door, paths } => {
                let path = paths.get(client % paths.len().max(1)).context("there is no webhook")?;
                world::run_to_its_end(door, path, flows::order(client as u64 * 1_000_000_000 + round)).await?;
            }
            Task::Commits { floor, rows } => {
                for bytes in rows.iter() {
                    floor.write(*bytes).await?;
                }
            }
        }
        let end = Instant::now();
        if (from..until).contains(&end) {
            latencies.push(u32::try_from((end - start).as_micros()).unwrap_or(u32::MAX));
        }
    }
    Ok(latencies)
}

/// Processor time of this process, its threads included.
fn cpu_time() -> Result<Duration> {
    let status = fs::read_to_string("/proc/self/stat").context("processor time is only known on Linux")?;
    let fields = status.rsplit_once(')').context("no status")?.1.split_whitespace();
    // Counted from the state, which follows the name: user and system time, in ticks of 10 ms.
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}
