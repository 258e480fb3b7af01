//! Where the host keeps everything, and what can be asked of it without a host.

use std::{path::PathBuf, sync::Arc};

use ap_runtime::{
    backend::{
        postgres::{PostgresBackend, PostgresOptions},
        sqlite::SqliteBackend,
    },
    clock::SystemClock,
    store::Backend,
    wakeup::Wakeup,
};
use rusqlite::Connection;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// A place that outlives the processes.
#[derive(Clone, Debug)]
pub enum Store {
    /// A schema of the database that `AP_TEST_POSTGRES_URL` names; any number of processes.
    Postgres(String),
    /// A file; one process at a time.
    Sqlite(PathBuf),
}

/// A backend that was opened.
#[derive(Clone, Debug)]
pub enum Opened {
    Postgres(Arc<PostgresBackend>),
    Sqlite(Arc<SqliteBackend>),
}

impl Store {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "PostgreSQL",
            Self::Sqlite(_) => "SQLite",
        }
    }

    /// As another process is told.
    pub fn address(&self) -> String {
        match self {
            Self::Postgres(schema) => format!("{POSTGRES}{schema}"),
            Self::Sqlite(path) => format!("{SQLITE}{}", path.display()),
        }
    }

    pub fn parse(address: &str) -> Self {
        match (address.strip_prefix(POSTGRES), address.strip_prefix(SQLITE)) {
            (Some(schema), _) => Self::Postgres(schema.to_owned()),
            (_, Some(path)) => Self::Sqlite(path.into()),
            _ => panic!("`{address}` is no store"),
        }
    }

    pub async fn open(&self) -> Opened {
        match self {
            Self::Postgres(schema) => {
                let options = PostgresOptions::from_url(&url()).unwrap().with_schema(schema);
                let options = options.with_writers(2).with_readers(2);
                Opened::Postgres(Arc::new(PostgresBackend::open(options).await.unwrap()))
            }
            Self::Sqlite(path) => {
                Opened::Sqlite(Arc::new(SqliteBackend::open(path, Arc::new(SystemClock)).await.unwrap()))
            }
        }
    }

    /// What the database says about itself; a whole one says `ok` and nothing else. Nobody has it open.
    pub fn integrity(&self) -> Vec<String> {
        match self {
            // Its processes were not the ones that were killed.
            Self::Postgres(_) => vec!["ok".to_owned()],
            Self::Sqlite(path) => {
                let connection = Connection::open(path).unwrap();
                let mut check = connection.prepare("PRAGMA integrity_check").unwrap();
                check.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
            }
        }
    }

    /// How many rows a table has. Nobody has the database open.
    pub async fn rows(&self, table: &str) -> usize {
        let count: i64 = match self {
            Self::Postgres(schema) => {
                let mut connection = PgConnection::connect(&url()).await.unwrap();
                let query = AssertSqlSafe(format!("SELECT count(*) FROM {schema}.{table}"));
                sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
            }
            Self::Sqlite(path) => {
                let connection = Connection::open(path).unwrap();
                connection.query_one(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
            }
        };
        usize::try_from(count).unwrap()
    }

    /// Leaves nothing behind in a database that is not ours alone.
    pub async fn remove(&self) {
        if let Self::Postgres(schema) = self {
            let mut connection = PgConnection::connect(&url()).await.unwrap();
            let drop = AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"));
            sqlx::raw_sql(drop).execute(&mut connection).await.unwrap();
        }
    }
}

impl Opened {
    pub fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Self::Postgres(backend) => backend.clone(),
            Self::Sqlite(backend) => backend.clone(),
        }
    }

    /// What tells other processes that there is work.
    pub async fn wakeup(&self) -> Option<Arc<dyn Wakeup>> {
        match self {
            Self::Postgres(backend) => Some(backend.wakeup().await),
            Self::Sqlite(_) => None,
        }
    }

    pub async fn close(&self) {
        match self {
            Self::Postgres(backend) => backend.close().await,
            Self::Sqlite(backend) => backend.close().await,
        }
    }
}

fn url() -> String {
    std::env::var(URL).unwrap_or_else(|_| {
        panic!("`{URL}` is not set: `cargo xtask test` and `cargo xtask soak` start a PostgreSQL and set it")
    })
}

const URL: &str = "AP_TEST_POSTGRES_URL";
const POSTGRES: &str = "postgres:";
const SQLITE: &str = "sqlite:";
