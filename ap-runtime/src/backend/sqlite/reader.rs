//! [`Readers`]: threads that read, each with a connection of its own that cannot write.
//!
//! They see what is committed. A read waits for a free thread; a connection that failed is replaced.

use std::{
    fmt, panic,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use ap_core::store::StoreError;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::{connect, error::store_error, writer::closed};

/// The way to the threads that read.
pub(super) struct Readers {
    queue: mpsc::Sender<Message>,
    /// Closes once every thread has closed its connection.
    ended: watch::Receiver<()>,
}

impl Readers {
    /// Starts the threads; each connects to the database at `path` when it is first needed.
    pub(super) fn start(path: &Path) -> std::io::Result<Self> {
        let (queue, incoming) = mpsc::channel(QUEUE_READS);
        let incoming = Arc::new(Mutex::new(incoming));
        let (end, ended) = watch::channel(());
        let end = Arc::new(end);
        for number in 0..READERS {
            let (incoming, end, path) = (Arc::clone(&incoming), Arc::clone(&end), path.to_owned());
            let body = move || {
                work(&incoming, path);
                drop(end);
            };
            thread::Builder::new().name(format!("ap-sqlite-reader-{number}")).spawn(body)?;
        }
        Ok(Self { queue, ended })
    }

    /// Runs `read` on a free thread.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = move |connection: &Connection| {
            let result = read(connection);
            let failed = result.is_err();
            // An error means that the caller no longer waits.
            let _ = reply.send(result);
            !failed
        };
        self.queue.send(Message::Read(Box::new(job))).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?.map_err(store_error)
    }

    /// Completes the reads that wait and closes the connections.
    pub(super) async fn close(&self) {
        // An error means that the threads take nothing any more, which is what we want.
        let _ = self.queue.send(Message::Close).await;
        // Nothing is ever sent: this waits for the threads to drop their end.
        let _ = self.ended.clone().changed().await;
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").field("free", &self.queue.capacity()).finish_non_exhaustive()
    }
}

enum Message {
    Read(Job),
    Close,
}

/// Returns whether the connection is as good as before.
type Job = Box<dyn FnOnce(&Connection) -> bool + Send>;

fn work(incoming: &Mutex<mpsc::Receiver<Message>>, path: PathBuf) {
    let mut connection = None;
    while let Some(job) = next(incoming) {
        let open = match connection.take() {
            Some(open) => open,
            None => match connect::reader(&path) {
                Ok(open) => open,
                Err(error) => {
                    // The caller sees its answer dropped: not available now.
                    tracing::warn!(%error, "a reader could not connect to SQLite");
                    continue;
                }
            },
        };
        // What a panic leaves behind is the connection, which is dropped then.
        if let Ok(true) = panic::catch_unwind(panic::AssertUnwindSafe(|| job(&open))) {
            connection = Some(open);
        }
    }
}

fn next(incoming: &Mutex<mpsc::Receiver<Message>>) -> Option<Job> {
    let mut incoming = incoming.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        match incoming.blocking_recv()? {
            Message::Read(job) => return Some(job),
            // What was sent before stays in the queue and is received.
            Message::Close => incoming.close(),
        }
    }
}

/// Connections that read.
const READERS: usize = 4;
/// Reads that wait at most; more wait for room.
const QUEUE_READS: usize = 1_024;
