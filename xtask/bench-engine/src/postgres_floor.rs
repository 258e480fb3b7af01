//! The floor of PostgreSQL: as many connections as the backend writes through, each inserting all rows that wait for it with
//! one statement, which is one commit.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use sqlx::{
    AssertSqlSafe, Connection, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::sync::{mpsc, oneshot};

/// The way to the bare connections.
#[derive(Clone, Debug)]
pub struct BareConnections {
    queues: Arc<Vec<mpsc::Sender<Row>>>,
    next: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Row {
    payload: Vec<u8>,
    durable: oneshot::Sender<()>,
}

impl BareConnections {
    /// Connects; the table `schema.rows` is made unless it is there.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn open(url: &str, schema: &str) -> Result<Self> {
        let mut queues = Vec::new();
        for number in 0..CONNECTIONS {
            // Without TLS on this machine, as the backend.
            let options = PgConnectOptions::from_str(url)?.ssl_mode(PgSslMode::Disable);
            let mut connection = PgConnection::connect_with(&options).await?;
            if number == 0 {
                let table = format!("{schema}.rows");
                let create = format!(
                    "CREATE TABLE IF NOT EXISTS {table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
                     payload bytea NOT NULL)"
                );
                sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await?;
            }
            let (queue, incoming) = mpsc::channel(4_096);
            let insert = format!("INSERT INTO {schema}.rows (payload) SELECT unnest($1::bytea[])");
            tokio::spawn(write(connection, insert, incoming));
            queues.push(queue);
        }
        Ok(Self { queues: Arc::new(queues), next: Arc::default() })
    }

    /// Returns once a row of `bytes` bytes is durable.
    ///
    /// # Errors
    /// If the commit failed.
    pub async fn write(&self, bytes: usize) -> Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len().max(1);
        let queue = self.queues.get(number).context("there is no connection")?;
        let (durable, answer) = oneshot::channel();
        queue.send(Row { payload: vec![0x5a; bytes], durable }).await.ok().context("the writer has ended")?;
        answer.await.context("the commit failed")
    }
}

async fn write(mut connection: PgConnection, insert: String, mut incoming: mpsc::Receiver<Row>) {
    let mut batch = Vec::new();
    while incoming.recv_many(&mut batch, MAX_GROUP).await > 0 {
        let (payloads, waiting): (Vec<_>, Vec<_>) = batch.drain(..).map(|row| (row.payload, row.durable)).unzip();
        let query = sqlx::query(AssertSqlSafe(insert.clone())).bind(payloads);
        if query.execute(&mut connection).await.is_err() {
            // Whoever waits sees its answer dropped, and the benchmark fails.
            return;
        }
        for durable in waiting {
            // A client that has gone needs no answer.
            let _ = durable.send(());
        }
    }
}

/// Connections that write, as many as the backend has for runs by default.
const CONNECTIONS: usize = 3;
/// Rows in one commit at most, as in the backend.
const MAX_GROUP: usize = 256;
