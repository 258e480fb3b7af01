//! The second floor: commits, grouped as the SDK groups them, by a writer that does nothing else.
//!
//! Same driver, same settings (`journal_mode=WAL`, `synchronous=FULL`), a thread of its own, one table, one prepared insert
//! per row: about the least a durable group commit can cost through SQLite.

use std::{path::Path, thread};

use anyhow::{Context, Result};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

/// The way to the bare writer.
#[derive(Clone, Debug)]
pub(crate) struct BareWriter {
    queue: mpsc::Sender<Row>,
}

struct Row {
    payload: Vec<u8>,
    durable: oneshot::Sender<()>,
}

impl BareWriter {
    /// Creates the database and starts the writer.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
             CREATE TABLE rows (id INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT",
        )?;
        let (queue, incoming) = mpsc::channel(4_096);
        thread::spawn(move || write(&connection, incoming));
        Ok(Self { queue })
    }

    /// Returns once a row of `bytes` bytes is durable.
    pub(crate) async fn write(&self, bytes: usize) -> Result<()> {
        let (durable, answer) = oneshot::channel();
        self.queue.send(Row { payload: vec![0x5a; bytes], durable }).await.ok().context("the writer has ended")?;
        answer.await.context("the commit failed")
    }
}

fn write(connection: &Connection, mut incoming: mpsc::Receiver<Row>) {
    let mut batch = Vec::new();
    while incoming.blocking_recv_many(&mut batch, MAX_GROUP) > 0 {
        if commit(connection, &mut batch).is_err() {
            // Whoever waits sees its answer dropped, and the benchmark fails.
            return;
        }
    }
}

fn commit(connection: &Connection, batch: &mut Vec<Row>) -> rusqlite::Result<()> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
    let mut insert = connection.prepare_cached("INSERT INTO rows (payload) VALUES (?)")?;
    for row in &*batch {
        insert.execute([&row.payload])?;
    }
    connection.prepare_cached("COMMIT")?.execute(())?;
    for row in batch.drain(..) {
        // A client that has gone needs no answer.
        let _ = row.durable.send(());
    }
    Ok(())
}

/// Rows in one commit at most, as in the backend.
const MAX_GROUP: usize = 512;
