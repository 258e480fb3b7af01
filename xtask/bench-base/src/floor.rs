//! The floor of SQLite: commits, grouped as the SDK groups them, by a thread that does nothing else.
//!
//! Same driver, same settings (`journal_mode=WAL`, `synchronous=FULL`, the same checkpoints), one table, one insert per row
//! and one commit for all that wait: about the least a durable group commit can cost through SQLite.

use std::{path::Path, thread};

use anyhow::{Context, Result};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

/// The way to the bare writer.
#[derive(Clone, Debug)]
pub struct BareWriter {
    queue: mpsc::Sender<Row>,
}

#[derive(Debug)]
struct Row {
    payload: Vec<u8>,
    durable: oneshot::Sender<()>,
}

impl BareWriter {
    /// Creates the database and starts the thread that writes. It ends with the last clone of this.
    ///
    /// # Errors
    /// If the database cannot be created.
    pub fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 67108864; \
             PRAGMA wal_autocheckpoint = 4000; PRAGMA cache_size = -32768; \
             CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT",
        )?;
        let (queue, incoming) = mpsc::channel(4_096);
        thread::Builder::new().name("bare-writer".to_owned()).spawn(move || write(&connection, incoming))?;
        Ok(Self { queue })
    }

    /// Returns once a row of `bytes` bytes is durable.
    ///
    /// # Errors
    /// If the commit failed.
    pub async fn write(&self, bytes: usize) -> Result<()> {
        let (durable, answer) = oneshot::channel();
        self.queue.send(Row { payload: vec![0x5a; bytes], durable }).await.ok().context("the writer has ended")?;
        answer.await.context("the commit failed")
    }
}

fn write(connection: &Connection, mut incoming: mpsc::Receiver<Row>) {
    let mut answered = 0;
    while let Some(first) = incoming.blocking_recv() {
        let batch = gather(first, &mut incoming, answered);
        answered = batch.len();
        if commit(connection, batch).is_err() {
            // Whoever waits sees its answer dropped, and the benchmark fails.
            return;
        }
    }
}

/// Takes what has queued, and lets whoever the last commit woke hand over its next row, as the backend does.
fn gather(first: Row, incoming: &mut mpsc::Receiver<Row>, answered: usize) -> Vec<Row> {
    let (mut batch, mut idle) = (vec![first], 0);
    while batch.len() < MAX_GROUP && idle < GATHER_ROUNDS {
        match incoming.try_recv() {
            Ok(row) => {
                batch.push(row);
                idle = 0;
            }
            Err(_) if batch.len() >= answered => break,
            Err(_) => {
                idle += 1;
                thread::yield_now();
            }
        }
    }
    batch
}

fn commit(connection: &Connection, batch: Vec<Row>) -> rusqlite::Result<()> {
    let execute = |sql: &str| connection.prepare_cached(sql)?.execute(()).map(drop);
    execute("BEGIN IMMEDIATE")?;
    for row in &batch {
        connection.prepare_cached("INSERT INTO rows (payload) VALUES (?)")?.execute([&row.payload])?;
    }
    execute("COMMIT")?;
    for row in batch {
        // A client that has gone needs no answer.
        let _ = row.durable.send(());
    }
    Ok(())
}

/// Rows in one commit at most, as in the backend.
const MAX_GROUP: usize = 512;
/// How often in a row the thread lets others run without getting anything before it commits, as in the backend.
const GATHER_ROUNDS: usize = 64;
