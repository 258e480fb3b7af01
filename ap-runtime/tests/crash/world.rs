//! Everything around the processes that die.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{
    child::Start,
    disk::shim::Disk,
    host::{self, Acknowledge, Host, Setup},
    load::Load,
    peer::Peer,
    store::Store,
    verdict::Verdict,
};

/// A store with flows in it, the service they act on, and those who send deliveries.
#[derive(Debug)]
pub struct World {
    pub store: Store,
    pub load: Load,
    pub seed: u64,
    peer: Peer,
    setup: Setup,
    directory: TempDir,
    began: Instant,
}

impl World {
    /// One on SQLite.
    pub async fn on_sqlite(seed: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // A directory of its own, so that all of it can be on a disk of its own.
        std::fs::create_dir(directory.path().join("data")).unwrap();
        let store = Store::Sqlite(directory.path().join("data").join("flows.db"));
        Self::on(store, directory, seed).await
    }

    /// One on PostgreSQL.
    pub async fn on_postgres(seed: u64) -> Self {
        let store = Store::Postgres(format!("crash_{}", std::process::id()));
        Self::on(store, tempfile::tempdir().unwrap(), seed).await
    }

    async fn on(store: Store, directory: TempDir, seed: u64) -> Self {
        let (peer, asked) = Peer::start(seed).await;
        let setup = host::set_up(&store, &peer).await;
        let load = Load::start(&setup, asked, seed);
        Self { store, load, seed, peer, setup, directory, began: Instant::now() }
    }

    /// A disk for what the processes write.
    pub fn disk(&self) -> Disk {
        let Store::Sqlite(database) = &self.store else { panic!("its disk is another process's") };
        Disk::new(database.parent().unwrap(), self.directory.path().join("disk"))
    }

    /// How to start a process on it.
    pub fn start<'a>(&'a self, disk: Option<&'a Disk>) -> Start<'a> {
        Start { store: &self.store, peer: self.peer.address(), disk, acknowledge: Acknowledge::Committed }
    }

    /// Once no process is left: serves what is under way to its end, and looks at everything.
    pub async fn verdict(&self) -> Verdict {
        let before = self.store.integrity();
        let host = Host::open(&self.store, self.peer.address()).await;
        self.load.send_to(&[host.serve(Acknowledge::Committed).await]);
        let left = self.load.drain(QUIET).await;
        let mut verdict = Verdict::of(&host, &self.setup, &self.load, &self.peer, QUIET).await;
        host.close().await;
        verdict.add_database(&self.store, before).await;
        verdict.add_left_unacknowledged(left);
        self.store.remove().await;
        verdict
    }

    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Longest time all that was accepted may take to end after the last restart.
const QUIET: Duration = Duration::from_secs(120);
