//! Every rule of the suites, on everything that is behind a seam.

use std::sync::Arc;

use ap_core::time::Timestamp;
use ap_runtime::{
    backend::memory::MemoryBackend,
    clock::{Clock, SystemClock, TokioClock},
    conformance::{Harness, ManualClock, WakeupHarness},
    store::Backend,
    wakeup::{LocalWakeup, Wakeup},
};
use async_trait::async_trait;

struct Memory;

#[async_trait]
impl Harness for Memory {
    type Guard = Arc<MemoryBackend>;

    async fn open_empty(&self, clock: Arc<ManualClock>) -> (Self::Guard, Arc<dyn Backend>) {
        let backend = Arc::new(MemoryBackend::new(clock));
        (Arc::clone(&backend), backend)
    }

    async fn restart(&self, guard: &mut Self::Guard) -> Arc<dyn Backend> {
        guard.crash();
        Arc::clone(guard) as Arc<dyn Backend>
    }
}

mod memory {
    ap_runtime::backend_conformance!(super::Memory);
}

struct Local;

#[async_trait]
impl WakeupHarness for Local {
    type Guard = ();

    async fn open(&self) -> ((), [Arc<dyn Wakeup>; 2]) {
        let wakeup = Arc::new(LocalWakeup::default());
        ((), [Arc::clone(&wakeup) as Arc<dyn Wakeup>, wakeup])
    }
}

mod local_wakeup {
    ap_runtime::wakeup_conformance!(super::Local);
}

mod system_clock {
    use super::*;

    ap_runtime::clock_conformance!(|| Arc::new(SystemClock) as Arc<dyn Clock>);
}

mod tokio_clock {
    use super::*;

    ap_runtime::clock_conformance!(|| Arc::new(TokioClock::starting_at(Timestamp::EPOCH)) as Arc<dyn Clock>);
}

mod system_entropy {
    ap_runtime::entropy_conformance!(ap_crypto::entropy::SystemEntropy);
}

#[cfg(feature = "sqlite")]
mod sqlite {
    #![expect(clippy::expect_used, reason = "a harness that cannot open is a failed test")]

    use ap_runtime::backend::sqlite::SqliteBackend;
    use tempfile::TempDir;

    use super::*;

    struct Sqlite;

    /// The databases so far; the last one is in use. They stay open, as a killed process never closes its database.
    struct Guard {
        opened: Vec<(Arc<SqliteBackend>, TempDir)>,
        clock: Arc<ManualClock>,
    }

    impl Guard {
        async fn open(&mut self, directory: TempDir) -> Arc<dyn Backend> {
            let path = directory.path().join("ap.db");
            let backend = Arc::new(SqliteBackend::open(path, Arc::clone(&self.clock) as _).await.expect("a database"));
            self.opened.push((Arc::clone(&backend), directory));
            backend
        }
    }

    #[async_trait]
    impl Harness for Sqlite {
        type Guard = Guard;

        async fn open_empty(&self, clock: Arc<ManualClock>) -> (Guard, Arc<dyn Backend>) {
            let mut guard = Guard { opened: Vec::new(), clock };
            let backend = guard.open(tempfile::tempdir().expect("a directory")).await;
            (guard, backend)
        }

        /// Takes database and log as they lie on the disk, without the other process closing them.
        async fn restart(&self, guard: &mut Guard) -> Arc<dyn Backend> {
            let copy = tempfile::tempdir().expect("a directory");
            let (_, from) = guard.opened.last().expect("a database");
            for name in ["ap.db", "ap.db-wal"] {
                std::fs::copy(from.path().join(name), copy.path().join(name)).expect("a copy");
            }
            guard.open(copy).await
        }
    }

    ap_runtime::backend_conformance!(Sqlite);
}

#[cfg(feature = "postgres")]
#[path = "postgres/support.rs"]
#[expect(clippy::expect_used, clippy::panic, dead_code, reason = "test support, shared with other tests")]
mod postgres_support;

#[cfg(feature = "postgres")]
mod postgres {
    use super::{postgres_support::Schema, *};

    struct Postgres;

    /// A killed process does not close its connections in order, so the backends stay as they are.
    struct Guard {
        opened: Vec<Arc<dyn Backend>>,
        clock: Arc<ManualClock>,
        schema: Schema,
    }

    impl Guard {
        async fn open(&mut self) -> Arc<dyn Backend> {
            let backend = Arc::new(self.schema.open(Arc::clone(&self.clock) as _).await);
            self.opened.push(Arc::clone(&backend) as _);
            backend
        }
    }

    #[async_trait]
    impl Harness for Postgres {
        type Guard = Guard;

        async fn open_empty(&self, clock: Arc<ManualClock>) -> (Guard, Arc<dyn Backend>) {
            let mut guard = Guard { opened: Vec::new(), clock, schema: Schema::new() };
            let backend = guard.open().await;
            (guard, backend)
        }

        async fn restart(&self, guard: &mut Guard) -> Arc<dyn Backend> {
            guard.open().await
        }

        fn one_process(&self) -> bool {
            false
        }
    }

    ap_runtime::backend_conformance!(Postgres);
}

#[cfg(feature = "postgres")]
mod postgres_wakeup {
    #![expect(clippy::expect_used, reason = "a harness that cannot open is a failed test")]

    use ap_runtime::{backend::postgres::PostgresBackend, conformance::WakeupHarness, wakeup::Wakeup};

    use super::{postgres_support::Schema, *};

    struct Postgres;

    #[async_trait]
    impl WakeupHarness for Postgres {
        type Guard = ([PostgresBackend; 2], Schema);

        async fn open(&self) -> (Self::Guard, [Arc<dyn Wakeup>; 2]) {
            let schema = Schema::new();
            let one = PostgresBackend::open(schema.options()).await.expect("a database");
            let two = PostgresBackend::open(schema.options()).await.expect("a database");
            let ends = [one.wakeup().await, two.wakeup().await];
            (([one, two], schema), ends)
        }
    }

    ap_runtime::wakeup_conformance!(Postgres);
}

#[cfg(feature = "redis")]
mod redis_wakeup {
    #![expect(clippy::expect_used, clippy::panic, reason = "a harness that cannot open is a failed test")]

    use std::sync::atomic::{AtomicU32, Ordering};

    use ap_runtime::{
        backend::redis::{RedisOptions, RedisWakeup},
        conformance::WakeupHarness,
        wakeup::Wakeup,
    };

    use super::*;

    struct Redis;

    #[async_trait]
    impl WakeupHarness for Redis {
        type Guard = ();

        async fn open(&self) -> ((), [Arc<dyn Wakeup>; 2]) {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let Ok(url) = std::env::var("AP_TEST_REDIS_URL") else {
                panic!("`AP_TEST_REDIS_URL` is not set: run `cargo xtask test`, which starts Redis");
            };
            let channel = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let open = || async {
                let options = RedisOptions::from_url(&url).expect("a URL").with_channel(&channel);
                Arc::new(RedisWakeup::start(options).await) as Arc<dyn Wakeup>
            };
            ((), [open().await, open().await])
        }
    }

    ap_runtime::wakeup_conformance!(Redis);
}
