//! Where a host keeps its records, and everything that lies there.

use std::{path::PathBuf, sync::Arc};

use ap_runtime::{backend::sqlite::SqliteBackend, clock::SystemClock, store::Backend, wakeup::Wakeup};
use tempfile::TempDir;

/// A store of its own for each world.
pub enum Storage {
    #[cfg(feature = "postgres")]
    Postgres(crate::postgres::Database),
    Sqlite {
        directory: TempDir,
        backend: Arc<SqliteBackend>,
    },
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
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.backend(),
            Self::Sqlite { backend, .. } => backend.clone(),
        }
    }

    pub async fn wakeup(&self) -> Option<Arc<dyn Wakeup>> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => Some(database.wakeup().await),
            Self::Sqlite { .. } => None,
        }
    }

    /// Every file, or every table and message, by name.
    pub async fn kept(&self) -> Vec<(String, Vec<u8>)> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.kept().await,
            Self::Sqlite { directory, .. } => files_in(directory.path().to_owned()),
        }
    }

    /// Ends in an orderly way, and returns what is left.
    pub async fn close(self) -> Vec<(String, Vec<u8>)> {
        match self {
            #[cfg(feature = "postgres")]
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
