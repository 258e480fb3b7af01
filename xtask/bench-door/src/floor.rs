//! The second floor: commits, grouped as the SDK groups them, by a writer that does nothing else.
//!
//! Same driver, same settings (`journal_mode=WAL`, `synchronous=FULL`), one table, one multi-row insert per commit, and
//! `BEGIN`, insert and `COMMIT` handed over in one go: about the least a durable group commit can cost through SQLite.

use std::path::Path;

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use sqlx::{
    Arguments, AssertSqlSafe, ConnectOptions, Connection, Executor, SqliteConnection,
    sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
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
    /// Creates the database and starts the writer on the current tokio runtime.
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .statement_cache_capacity(MAX_GROUP)
            .disable_statement_logging();
        let mut connection = SqliteConnection::connect_with(&options).await?;
        connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT").await?;
        let (queue, incoming) = mpsc::channel(4_096);
        tokio::spawn(write(connection, incoming));
        Ok(Self { queue })
    }

    /// Returns once a row of `bytes` bytes is durable.
    pub(crate) async fn write(&self, bytes: usize) -> Result<()> {
        let (durable, answer) = oneshot::channel();
        self.queue.send(Row { payload: vec![0x5a; bytes], durable }).await.ok().context("the writer has ended")?;
        answer.await.context("the commit failed")
    }
}

async fn write(mut connection: SqliteConnection, mut incoming: mpsc::Receiver<Row>) {
    let mut batch = Vec::new();
    while incoming.recv_many(&mut batch, MAX_GROUP).await > 0 {
        if commit(&mut connection, &mut batch).await.is_err() {
            // Whoever waits sees its answer dropped, and the benchmark fails.
            return;
        }
    }
}

async fn commit(connection: &mut SqliteConnection, batch: &mut Vec<Row>) -> sqlx::Result<()> {
    let mut sql = "BEGIN IMMEDIATE;\nINSERT INTO rows (payload) VALUES ".to_owned();
    let mut arguments = SqliteArguments::default();
    let mut waiting = Vec::with_capacity(batch.len());
    for (index, row) in batch.drain(..).enumerate() {
        sql.push_str(if index == 0 { "(?)" } else { ",(?)" });
        arguments.add(row.payload).map_err(sqlx::Error::Encode)?;
        waiting.push(row.durable);
    }
    sql.push_str(";\nCOMMIT");
    let mut results = connection.fetch_many(sqlx::query_with(AssertSqlSafe(sql), arguments));
    while results.try_next().await?.is_some() {}
    drop(results);
    for durable in waiting {
        // A client that has gone needs no answer.
        let _ = durable.send(());
    }
    Ok(())
}

/// Rows in one commit at most, as in the backend.
const MAX_GROUP: usize = 512;
