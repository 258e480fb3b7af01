//! Where the host keeps everything, and what can be asked of it without a host.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ap_runtime::{backend::sqlite::SqliteBackend, clock::SystemClock, store::Backend};
use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

/// A place that outlives the processes.
#[derive(Clone, Debug)]
pub enum Store {
    /// One process at a time.
    Sqlite(PathBuf),
}

/// A backend that was opened.
#[derive(Clone, Debug)]
pub enum Opened {
    Sqlite(Arc<SqliteBackend>),
}

impl Store {
    /// As another process is told.
    pub fn address(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("{SQLITE}{}", path.display()),
        }
    }

    pub fn parse(address: &str) -> Self {
        match address.strip_prefix(SQLITE) {
            Some(path) => Self::Sqlite(path.into()),
            None => panic!("`{address}` is no store"),
        }
    }

    pub async fn open(&self) -> Opened {
        match self {
            Self::Sqlite(path) => {
                Opened::Sqlite(Arc::new(SqliteBackend::open(path, Arc::new(SystemClock)).await.unwrap()))
            }
        }
    }

    /// What the database says about itself; a whole one says `ok` and nothing else. Nobody has it open.
    pub async fn integrity(&self) -> Vec<String> {
        match self {
            Self::Sqlite(path) => {
                let mut connection = connect(path).await;
                let lines = sqlx::query_scalar("PRAGMA integrity_check").fetch_all(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                lines
            }
        }
    }

    /// How many rows a query without arguments counts. Nobody has the database open.
    pub async fn count(&self, query: &'static str) -> usize {
        match self {
            Self::Sqlite(path) => {
                let mut connection = connect(path).await;
                let count: i64 = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                usize::try_from(count).unwrap()
            }
        }
    }
}

impl Opened {
    pub fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Self::Sqlite(backend) => backend.clone(),
        }
    }

    pub async fn close(&self) {
        match self {
            Self::Sqlite(backend) => backend.close().await,
        }
    }
}

async fn connect(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

const SQLITE: &str = "sqlite:";
