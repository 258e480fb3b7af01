//! [`PostgresWakeup`]: hints over LISTEN and NOTIFY.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use ap_core::id::RunId;
use futures_util::stream::BoxStream;
use sqlx::{Connection, PgConnection, postgres::PgListener};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::link::Connector;
use crate::{
    backend::hint::{decode, encode},
    wakeup::{Hint, Wakeup, heard},
};

/// Carries hints to every process on the same schema.
pub(super) struct PostgresWakeup {
    outgoing: mpsc::Sender<Hint>,
    incoming: broadcast::Sender<Hint>,
}

impl PostgresWakeup {
    /// Starts the two tasks, and returns once hints are heard, or as soon as the first attempt to listen has failed.
    pub(super) async fn start(
        connector: &Arc<Connector>,
        channel: String,
        tasks: &TaskTracker,
        closing: &CancellationToken,
    ) -> Self {
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let incoming = broadcast::Sender::new(QUEUE);
        let (listening, mut tried) = watch::channel(false);
        let listener =
            Listener { connector: Arc::clone(connector), channel: channel.clone(), hints: incoming.clone(), listening };
        let notifier = Notifier { connector: Arc::clone(connector), channel, queue, connection: None };
        let stop = closing.clone();
        tasks.spawn(async move { stop.run_until_cancelled(listener.run()).await });
        let stop = closing.clone();
        tasks.spawn(async move { stop.run_until_cancelled(notifier.run()).await });
        // An error means that the listener has ended.
        let _ = tried.wait_for(|tried| *tried).await;
        Self { outgoing, incoming }
    }
}

impl Wakeup for PostgresWakeup {
    fn notify(&self, hint: Hint) {
        // Those in this process need no server to hear of it; they may hear of it twice.
        let _ = self.incoming.send(hint);
        if self.outgoing.try_send(hint).is_err() {
            tracing::debug!("a hint was dropped");
        }
    }

    fn listen(&self) -> BoxStream<'static, Hint> {
        heard(self.incoming.subscribe())
    }
}

impl fmt::Debug for PostgresWakeup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresWakeup").finish_non_exhaustive()
    }
}

struct Listener {
    connector: Arc<Connector>,
    channel: String,
    hints: broadcast::Sender<Hint>,
    /// Whether the first attempt has been made.
    listening: watch::Sender<bool>,
}

impl Listener {
    async fn run(self) {
        loop {
            if let Err(error) = self.listen().await {
                tracing::debug!(%error, "hints from PostgreSQL are interrupted");
            }
            self.listening.send_replace(true);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn listen(&self) -> sqlx::Result<()> {
        let connecting = async {
            let pool = sqlx::postgres::PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(self.connector.timeout())
                .connect_lazy_with(self.connector.options().clone());
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.ignore_pool_close_event(true);
            listener.listen(&self.channel).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        let connecting = tokio::time::timeout(self.connector.timeout(), connecting);
        let mut listener = connecting.await.unwrap_or_else(|_| Err(super::link::timed_out("connecting")))?;
        // What happened meanwhile was not heard.
        let _ = self.hints.send(Hint::Ready);
        self.listening.send_replace(true);
        while let Some(notification) = listener.try_recv().await? {
            // An error means that nobody listens.
            decode(notification.payload()).for_each(|hint| drop(self.hints.send(hint)));
        }
        Ok(())
    }
}

struct Notifier {
    connector: Arc<Connector>,
    channel: String,
    queue: mpsc::Receiver<Hint>,
    connection: Option<PgConnection>,
}

impl Notifier {
    async fn run(mut self) {
        while let Some(first) = self.queue.recv().await {
            let mut hints = BTreeSet::from([key(first)]);
            while hints.len() < AT_ONCE
                && let Ok(hint) = self.queue.try_recv()
            {
                hints.insert(key(hint));
            }
            let hints: Vec<Hint> = hints.into_iter().map(hint).collect();
            if let Err(error) = self.send(&encode(&hints)).await {
                tracing::debug!(%error, "hints to PostgreSQL were dropped");
                tokio::time::sleep(PAUSE).await;
            }
        }
        if let Some(connection) = self.connection {
            // An error means that it was cut off.
            let _ = connection.close().await;
        }
    }

    async fn send(&mut self, payload: &str) -> sqlx::Result<()> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let mut connection = self.connector.connect().await?;
                // A hint need not survive the server.
                sqlx::raw_sql("SET synchronous_commit = off").execute(&mut connection).await?;
                connection
            }
        };
        let sending =
            sqlx::query("SELECT pg_notify($1, $2)").bind(&self.channel).bind(payload).execute(&mut connection);
        let sent = tokio::time::timeout(self.connector.timeout(), sending).await;
        sent.unwrap_or_else(|_| Err(super::link::timed_out("a hint")))?;
        self.connection = Some(connection);
        Ok(())
    }
}

/// Hints in an order, so that equal ones are sent once.
const fn key(hint: Hint) -> (u8, u128) {
    match hint {
        Hint::Ended(run) => (0, run.as_u128()),
        Hint::Ready => (1, 0),
        Hint::Signaled(run) => (2, run.as_u128()),
    }
}

const fn hint((kind, run): (u8, u128)) -> Hint {
    match kind {
        0 => Hint::Ended(RunId::from_u128(run)),
        1 => Hint::Ready,
        _ => Hint::Signaled(RunId::from_u128(run)),
    }
}

/// Hints that wait to be sent, or for a slow listener, at most.
const QUEUE: usize = 4_096;
/// Hints in one notification, whose payload may have 8,000 bytes.
const AT_ONCE: usize = 200;
/// How long an attempt is put off that follows a failed one.
const PAUSE: Duration = Duration::from_millis(500);
