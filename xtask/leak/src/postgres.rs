//! A schema, and what is said on its channel.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use ap_runtime::{backend::postgres::PostgresBackend, store::Backend, wakeup::Wakeup};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, postgres::PgListener};

use crate::schema::{Schema, variable};

/// A schema of its own, with somebody who listens.
pub struct Database {
    backend: Arc<PostgresBackend>,
    heard: Arc<Mutex<String>>,
    schema: Schema,
}

impl Database {
    pub async fn open() -> Self {
        let schema = Schema::new();
        let backend = Arc::new(PostgresBackend::open(schema.options()).await.unwrap());
        let heard = Arc::new(Mutex::new(String::new()));
        let mut listener = PgListener::connect(&variable("AP_TEST_POSTGRES_URL")).await.unwrap();
        listener.listen(&format!("{}_wakeup", schema.name())).await.unwrap();
        tokio::spawn({
            let heard = Arc::clone(&heard);
            async move {
                while let Ok(notification) = listener.recv().await {
                    heard.lock().unwrap().push_str(&format!("{}\n", notification.payload()));
                }
            }
        });
        Self { backend, heard, schema }
    }

    pub fn backend(&self) -> Arc<dyn Backend> {
        self.backend.clone()
    }

    pub async fn wakeup(&self) -> Arc<dyn Wakeup> {
        self.backend.wakeup().await
    }

    /// Every row of every table as the database writes it as text, which is hexadecimal for bytes, and every message.
    pub async fn kept(&self) -> Vec<(String, Vec<u8>)> {
        let mut connection = PgConnection::connect(&variable("AP_TEST_POSTGRES_URL")).await.unwrap();
        let names = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = $1 ORDER BY 1";
        let names = sqlx::query(names).bind(self.schema.name()).fetch_all(&mut connection).await.unwrap();
        let mut kept = vec![("messages".to_owned(), self.heard.lock().unwrap().clone().into_bytes())];
        for name in names.iter().map(|row| row.get::<String, _>(0)) {
            let rows = format!("SELECT kept::text FROM \"{}\".\"{name}\" AS kept", self.schema.name());
            let rows = sqlx::query(AssertSqlSafe(rows)).fetch_all(&mut connection).await.unwrap();
            let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            kept.push((name, rows.join("\n").into_bytes()));
        }
        connection.close().await.unwrap();
        kept
    }

    /// What is left, with all that the server has on disk: pages, those that were freed included, its log of writes and its
    /// log of events.
    pub async fn close(self) -> Vec<(String, Vec<u8>)> {
        self.backend.close().await;
        let mut kept = self.kept().await;
        let mut connection = PgConnection::connect(&variable("AP_TEST_POSTGRES_URL")).await.unwrap();
        sqlx::raw_sql("CHECKPOINT").execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let cluster = PathBuf::from(variable("AP_TEST_POSTGRES_DATA"));
        let log = cluster.with_extension("log");
        kept.push(("server log".to_owned(), fs::read(&log).unwrap()));
        let mut dump = Command::new("pg_dump");
        dump.args(["--schema", self.schema.name(), "--dbname", &variable("AP_TEST_POSTGRES_URL")]);
        match dump.output() {
            Ok(dump) if dump.status.success() => kept.push(("dump".to_owned(), dump.stdout)),
            failed => println!(
                "NOT SEARCHED: a dump, because `pg_dump` cannot make one ({:?})",
                failed.map(|dump| dump.status)
            ),
        }
        for part in ["base", "pg_wal"] {
            files_under(&cluster.join(part), &mut kept);
        }
        kept
    }
}

fn files_under(directory: &Path, kept: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files_under(&entry.path(), kept);
        } else if let Ok(bytes) = fs::read(entry.path()) {
            // The server removes files by itself.
            kept.push((entry.path().display().to_string(), bytes));
        }
    }
}
