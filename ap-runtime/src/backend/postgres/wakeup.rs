//! Hints over LISTEN and NOTIFY.

use std::sync::Arc;

use sqlx::{
    Connection, PgConnection,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::sync::{broadcast, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::link::{Connector, timed_out};
use crate::{
    backend::hint::{Outgoing, PAUSE, Relay, decode},
    wakeup::Hint,
};

/// Starts a task that listens and one that notifies, and returns once hints are heard, or as soon as the first attempt to
/// listen has failed. The tasks end with the relay, or when `closing` is cancelled.
pub(super) async fn start(
    connector: &Arc<Connector>,
    channel: String,
    tasks: &TaskTracker,
    closing: &CancellationToken,
) -> Relay {
    let stop = closing.child_token();
    let (relay, outgoing, hints) = Relay::new(stop.clone());
    let (tried, mut first) = watch::channel(false);
    let listener = Listener { connector: Arc::clone(connector), channel: channel.clone(), hints, tried };
    let notifier = Notifier { connector: Arc::clone(connector), channel, outgoing, connection: None };
    let stopped = stop.clone();
    tasks.spawn(async move { stopped.run_until_cancelled(listener.run()).await });
    tasks.spawn(async move { stop.run_until_cancelled(notifier.run()).await });
    // An error means that the listener has ended.
    let _ = first.wait_for(|tried| *tried).await;
    relay
}

struct Listener {
    connector: Arc<Connector>,
    channel: String,
    hints: broadcast::Sender<Hint>,
    /// Whether the first attempt has been made.
    tried: watch::Sender<bool>,
}

impl Listener {
    async fn run(self) {
        loop {
            if let Err(error) = self.listen().await {
                tracing::debug!(%error, "hints from PostgreSQL are interrupted");
            }
            self.tried.send_replace(true);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn listen(&self) -> sqlx::Result<()> {
        let connecting = async {
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(self.connector.timeout())
                .connect_lazy_with(self.connector.options().clone());
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.ignore_pool_close_event(true);
            listener.listen(&self.channel).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        let connecting = tokio::time::timeout(self.connector.timeout(), connecting);
        let mut listener = connecting.await.unwrap_or_else(|_| Err(timed_out("connecting")))?;
        // What happened meanwhile was not heard. An error means that nobody listens, here and below.
        let _ = self.hints.send(Hint::Ready);
        self.tried.send_replace(true);
        while let Some(notification) = listener.try_recv().await? {
            decode(notification.payload()).for_each(|hint| drop(self.hints.send(hint)));
        }
        Ok(())
    }
}

struct Notifier {
    connector: Arc<Connector>,
    channel: String,
    outgoing: Outgoing,
    connection: Option<PgConnection>,
}

impl Notifier {
    async fn run(mut self) {
        while let Some(message) = self.outgoing.next().await {
            if let Err(error) = self.send(&message).await {
                tracing::debug!(%error, "hints to PostgreSQL were dropped");
                tokio::time::sleep(PAUSE).await;
            }
        }
        if let Some(connection) = self.connection {
            // An error means that it was cut off.
            let _ = connection.close().await;
        }
    }

    async fn send(&mut self, message: &str) -> sqlx::Result<()> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let mut connection = self.connector.connect().await?;
                // A hint need not survive the server.
                sqlx::raw_sql("SET synchronous_commit = off").execute(&mut connection).await?;
                connection
            }
        };
        let query = sqlx::query("SELECT pg_notify($1, $2)").bind(&self.channel).bind(message);
        let sent = tokio::time::timeout(self.connector.timeout(), query.execute(&mut connection)).await;
        sent.unwrap_or_else(|_| Err(timed_out("a hint")))?;
        self.connection = Some(connection);
        Ok(())
    }
}
