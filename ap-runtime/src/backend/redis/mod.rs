//! [`RedisWakeup`]: hints between processes over Redis' publish and subscribe.
//!
//! Redis keeps no record here. What it loses delays something until a worker looks by itself.

mod options;

use std::{fmt, sync::Arc, time::Duration};

use ::redis::{
    Client, RedisError, RedisResult,
    aio::{MultiplexedConnection, PubSub},
};
use ap_core::store::BackendError;
use futures_util::{StreamExt, stream::BoxStream};
use tokio::sync::{broadcast, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::options::{DangerousRedisOptions, RedisOptions, RedisOptionsError};
use super::hint::{Outgoing, PAUSE, Relay, decode};
use crate::wakeup::{Hint, Wakeup};

/// Carries hints to every process that uses the same channel of the same server.
///
/// While the server is gone, hints are lost; it is reached again by itself.
///
/// # Examples
/// ```no_run
/// use ap_runtime::backend::redis::{RedisOptions, RedisWakeup};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let options = RedisOptions::from_url("rediss://:secret@cache.example.com")?;
/// let wakeup = RedisWakeup::start(options).await;
/// wakeup.close().await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RedisWakeup {
    relay: Relay,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl RedisWakeup {
    /// Starts a task that subscribes and one that publishes, and returns once hints are heard, or as soon as the first attempt
    /// to subscribe has failed. Call it inside a tokio runtime with its timer and network enabled; the tasks end when this is
    /// dropped.
    pub async fn start(options: RedisOptions) -> Self {
        let (client, channel) = options.into_parts();
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        let (relay, outgoing, hints) = Relay::new(closing.child_token());
        let (tried, mut first) = watch::channel(false);
        let channel: Arc<str> = channel.into();
        let subscriber = Subscriber { client: client.clone(), channel: Arc::clone(&channel), hints, tried };
        let publisher = Publisher { client, channel, outgoing, connection: None };
        let stop = closing.clone();
        tasks.spawn(async move { stop.run_until_cancelled(subscriber.run()).await });
        let stop = closing.clone();
        tasks.spawn(async move { stop.run_until_cancelled(publisher.run()).await });
        // An error means that the subscriber has ended.
        let _ = first.wait_for(|tried| *tried).await;
        Self { relay, tasks, closing }
    }

    /// Closes the connections; nothing runs on.
    pub async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Wakeup for RedisWakeup {
    fn notify(&self, hint: Hint) {
        self.relay.notify(hint);
    }

    fn listen(&self) -> BoxStream<'static, Hint> {
        self.relay.listen()
    }
}

impl Drop for RedisWakeup {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

impl fmt::Debug for RedisWakeup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisWakeup").field("relay", &self.relay).finish_non_exhaustive()
    }
}

struct Subscriber {
    client: Client,
    channel: Arc<str>,
    hints: broadcast::Sender<Hint>,
    /// Whether the first attempt has been made.
    tried: watch::Sender<bool>,
}

impl Subscriber {
    async fn run(self) {
        loop {
            if let Err(error) = self.subscribe().await {
                tracing::debug!(%error, "hints from Redis are interrupted");
            }
            self.tried.send_replace(true);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Hears hints until the connection is lost. One that is lost without a word is noticed by a question.
    async fn subscribe(&self) -> Result<(), BackendError> {
        let connecting = async {
            let mut connection = self.client.get_async_pubsub().await?;
            connection.subscribe(&*self.channel).await?;
            Ok::<PubSub, RedisError>(connection)
        };
        let (mut sink, mut messages) = in_time(connecting).await?.split();
        // What happened meanwhile was not heard. An error means that nobody listens, here and below.
        let _ = self.hints.send(Hint::Ready);
        self.tried.send_replace(true);
        loop {
            match tokio::time::timeout(QUIET, messages.next()).await {
                Ok(Some(message)) => {
                    let text = String::from_utf8_lossy(message.get_payload_bytes());
                    decode(&text).for_each(|hint| drop(self.hints.send(hint)));
                }
                Ok(None) => return Ok(()),
                Err(_) => {
                    in_time(sink.ping::<::redis::Value>()).await?;
                }
            }
        }
    }
}

struct Publisher {
    client: Client,
    channel: Arc<str>,
    outgoing: Outgoing,
    connection: Option<MultiplexedConnection>,
}

impl Publisher {
    async fn run(mut self) {
        while let Some(message) = self.outgoing.next().await {
            if let Err(error) = self.publish(&message).await {
                tracing::debug!(%error, "hints to Redis were dropped");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn publish(&mut self, message: &str) -> Result<(), BackendError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => in_time(self.client.get_multiplexed_async_connection()).await?,
        };
        let mut command = ::redis::cmd("PUBLISH");
        command.arg(&*self.channel).arg(message);
        in_time(command.query_async::<::redis::Value>(&mut connection)).await?;
        self.connection = Some(connection);
        Ok(())
    }
}

async fn in_time<T>(call: impl Future<Output = RedisResult<T>>) -> Result<T, BackendError> {
    match tokio::time::timeout(TIMEOUT, call).await {
        // Its text may quote what a server said, so only its kind is kept.
        Ok(result) => result.map_err(|error| BackendError::new(format!("Redis: {:?}", error.kind()))),
        Err(_) => Err(BackendError::new("Redis does not answer in time")),
    }
}

/// How long Redis may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long it is quiet before Redis is asked whether it is there.
const QUIET: Duration = Duration::from_secs(15);
