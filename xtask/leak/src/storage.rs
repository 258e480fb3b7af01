//! Where a host keeps its records, and everything that lies there.

use std::{path::PathBuf, sync::Arc};

use ap_runtime::{backend::sqlite::SqliteBackend, clock::SystemClock, store::Backend, wakeup::Wakeup};
use tempfile::TempDir;

/// A store of its own for each world.
pub enum Storage {
    Postgres(crate::postgres::Database),
    Sqlite { directory: TempDir, backend: Arc<SqliteBackend> },
}

impl Storage {
    pub async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("flows.db");
        let backend = Arc::new(SqliteBackend::open(&file, Arc::new(SystemClock)).await.unwrap());
        Self::Sqlite { directory, backend }
    }

    pub fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Self::Postgres(database) => database.backend(),
            Self::Sqlite { backend, .. } => backend.clone(),
        }
    }

    pub async fn wakeup(&self) -> Option<Arc<dyn Wakeup>> {
        match self {
            Self::Postgres(database) => Some(database.wakeup().await),
            Self::Sqlite { .. } => None,
        }
    }

    /// Every file, or every table and message, by name.
    pub async fn kept(&self) -> Vec<(String, Vec<u8>)> {
        match self {
            Self::Postgres(database) => database.kept().await,
            Self::Sqlite { directory, .. } => files_in(directory.path().to_owned()),
        }
    }

    /// Whether `kept` is all that there is to search while a run is parked.
    pub fn is_whole(&self, kept: &[(String, Vec<u8>)]) -> bool {
        let used =
            ["messages", "ap_files", "ap_jobs", "ap_journal", "ap_signals", "ap_triggers", "ap_values", "ap_audit"];
        let filled = |wanted: &dyn Fn(&str) -> bool| kept.iter().any(|(name, bytes)| wanted(name) && !bytes.is_empty());
        match self {
            Self::Postgres(_) => used.iter().all(|used| filled(&|name| name == *used)),
            Self::Sqlite { .. } => filled(&|name| name.ends_with("-wal")),
        }
    }

    /// Ends in an orderly way, and returns what is left.
    pub async fn close(self) -> Vec<(String, Vec<u8>)> {
        match self {
            Self::Postgres(database) => database.close().await,
            Self::Sqlite { directory, backend } => {
                backend.close().await;
                files_in(directory.path().to_owned())
            }
        }
    }
}

fn files_in(directory: PathBuf) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}
