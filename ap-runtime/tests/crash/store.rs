//! Where the host keeps everything, and what can be asked of it without a host.

use std::{path::PathBuf, sync::Arc};

use ap_runtime::{backend::sqlite::SqliteBackend, clock::SystemClock, store::Backend};
use rusqlite::Connection;

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
    pub fn integrity(&self) -> Vec<String> {
        match self {
            Self::Sqlite(path) => {
                let connection = Connection::open(path).unwrap();
                let mut check = connection.prepare("PRAGMA integrity_check").unwrap();
                check.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
            }
        }
    }

    /// How many rows a query without arguments counts. Nobody has the database open.
    pub fn count(&self, query: &str) -> usize {
        match self {
            Self::Sqlite(path) => {
                let connection = Connection::open(path).unwrap();
                let count: i64 = connection.query_one(query, [], |row| row.get(0)).unwrap();
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

const SQLITE: &str = "sqlite:";
