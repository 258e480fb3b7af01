//! `bench-parked <runs> [sqlite] [postgres]`: what a parked run leaves in the database and in memory.
//!
//! A program of its own, because its allocator counts every byte that is allocated and not yet freed.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::{alloc::System, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use ap_runtime::config::WorkerOptions;
use bench_base::target_directory;
use bench_engine::{
    engine::POSTGRES_URL,
    flows,
    world::{self, Place, World},
};
use cap::Cap;
use http::StatusCode;
use rusqlite::{Connection, OpenFlags};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let runs = arguments.next().context("how many runs are to be parked?")?.parse()?;
    let directory = tempfile::Builder::new().prefix("bench-parked-").tempdir_in(target_directory()?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for backend in arguments {
        match (backend.as_str(), std::env::var(POSTGRES_URL)) {
            ("sqlite", _) => {
                for (number, (name, flow)) in
                    [("delay", flows::delayed()), ("wait", flows::waiting())].iter().enumerate()
                {
                    let place = Place::Sqlite(directory.path().join(format!("parked-{number}.db")));
                    runtime.block_on(weigh(&place, name, flow, runs))?;
                }
            }
            ("postgres", Ok(url)) => {
                for (name, flow) in [("delay", flows::delayed()), ("wait", flows::waiting())] {
                    let schema = format!("bench_parked_{name}");
                    drop_schema(&runtime, &url, &schema)?;
                    let place = Place::Postgres { url: url.clone(), schema: schema.clone() };
                    let weighed = runtime.block_on(weigh(&place, name, &flow, runs));
                    drop_schema(&runtime, &url, &schema)?;
                    weighed?;
                }
            }
            ("postgres", Err(_)) => println!("PostgreSQL is left out: `{POSTGRES_URL}` is not set."),
            (other, _) => anyhow::bail!("there is no backend `{other}` that keeps anything"),
        }
    }
    Ok(())
}

fn drop_schema(runtime: &tokio::runtime::Runtime, url: &str, schema: &str) -> Result<()> {
    runtime.block_on(async {
        let mut connection = PgConnection::connect(url).await?;
        let sql = format!("SET client_min_messages = warning; DROP SCHEMA IF EXISTS {schema} CASCADE");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    })
}

async fn weigh(place: &Place, name: &str, flow: &serde_json::Value, runs: usize) -> Result<()> {
    let world = World::open(place, WorkerOptions::default()).await?;
    let tenant = world.tenant(std::slice::from_ref(flow)).await?;
    let path = format!("/{}", tenant.hooks.first().context("there is no webhook")?);
    // The first ones fill caches and pools.
    let warm_up = runs.min(2_000);
    park(&world, place, &path, 0, warm_up).await?;
    let (stored, memory) = (Stored::of(place).await?, ALLOCATOR.allocated());
    park(&world, place, &path, warm_up, runs).await?;
    let (more_stored, more_memory) = (Stored::of(place).await?, ALLOCATOR.allocated());
    let per_run = |before: u64, after: u64| (after as f64 - before as f64) / runs as f64;
    let bytes = per_run(stored.bytes, more_stored.bytes);
    println!(
        "{}: {runs} runs parked at a `{name}`: {bytes:.0} bytes each in the database, {:.1} in memory; the aim of at most \
         {STORED_AIM:.0} stored is {}",
        place.name(),
        per_run(memory as u64, more_memory as u64),
        if bytes <= STORED_AIM { "reached" } else { "missed" }
    );
    for ((table, before), (_, after)) in stored.parts.iter().zip(&more_stored.parts) {
        if after > before {
            println!("    {:>6.0}  {table}", per_run(*before, *after));
        }
    }
    world.close().await;
    Ok(())
}

/// Starts runs and waits until all are parked.
async fn park(world: &World, place: &Place, path: &str, there: usize, more: usize) -> Result<()> {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (door, path) = (world.door(), path.to_owned());
            tokio::spawn(async move {
                for number in (client..more).step_by(CLIENTS) {
                    let body = format!("{{\"number\":{number}}}").into_bytes();
                    let answer = world::ask(&door, &path, body).await?;
                    ensure!(answer.status() == StatusCode::ACCEPTED, "the door answered {}", answer.status());
                }
                Ok(())
            })
        })
        .collect();
    for client in clients {
        client.await??;
    }
    for _ in 0..PATIENCE {
        if Stored::parked(place).await? == there + more {
            // Whatever is done after the last commit.
            tokio::time::sleep(Duration::from_millis(300)).await;
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("the runs are not parked")
}

/// What a database holds.
struct Stored {
    bytes: u64,
    /// By table and index.
    parts: Vec<(String, u64)>,
}

impl Stored {
    async fn of(place: &Place) -> Result<Self> {
        match place {
            Place::Memory => anyhow::bail!("memory keeps nothing"),
            Place::Sqlite(path) => Self::sqlite(path),
            Place::Postgres { url, schema } => Self::postgres(url, schema).await,
        }
    }

    fn sqlite(path: &Path) -> Result<Self> {
        let connection = open(path)?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?;
        let sql = "SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY name";
        let mut statement = connection.prepare(sql)?;
        let parts =
            statement.query_map((), |row| Ok((row.get(0)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or_default())));
        let parts: Vec<(String, u64)> = parts?.collect::<rusqlite::Result<_>>()?;
        Ok(Self { bytes: parts.iter().map(|(_, bytes)| bytes).sum(), parts })
    }

    async fn postgres(url: &str, schema: &str) -> Result<Self> {
        let mut connection = PgConnection::connect(url).await?;
        let vacuum = format!("SET search_path = {schema}; VACUUM ap_runs, ap_journal, ap_audit");
        for statement in vacuum.split(';') {
            sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await?;
        }
        let sql = "SELECT relname::text, pg_relation_size(oid) FROM pg_class WHERE relnamespace = $1::text::regnamespace \
            AND relkind IN ('r', 'i') ORDER BY relname";
        let rows = sqlx::query(sql).bind(schema).fetch_all(&mut connection).await?;
        let mut parts = Vec::new();
        for row in rows {
            parts.push((row.try_get(0)?, u64::try_from(row.try_get::<i64, _>(1)?)?));
        }
        connection.close().await?;
        Ok(Self { bytes: parts.iter().map(|(_, bytes)| bytes).sum(), parts })
    }

    /// How many runs are parked.
    async fn parked(place: &Place) -> Result<usize> {
        let count: i64 = match place {
            Place::Memory => anyhow::bail!("memory keeps nothing"),
            Place::Sqlite(path) => {
                open(path)?.query_row("SELECT count(*) FROM ap_runs WHERE status = 'PAUSED'", (), |row| row.get(0))?
            }
            Place::Postgres { url, schema } => {
                let mut connection = PgConnection::connect(url).await?;
                let sql = format!("SELECT count(*) FROM {schema}.ap_runs WHERE status = 'PAUSED'");
                sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut connection).await?.try_get(0)?
            }
        };
        Ok(usize::try_from(count)?)
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// Clients that start runs.
const CLIENTS: usize = 64;
/// How often it is looked whether all are parked, ten times a second.
const PATIENCE: usize = 600;
/// The bytes that a parked run should take at most.
const STORED_AIM: f64 = 1_024.0;
