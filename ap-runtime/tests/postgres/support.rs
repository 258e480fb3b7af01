//! A schema of its own for each test, in the database that `cargo xtask test` starts.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use ap_runtime::{
    backend::postgres::{PostgresBackend, PostgresOptions},
    clock::Clock,
};

/// The value of a variable that `cargo xtask test` sets.
pub fn variable(name: &str) -> String {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => value,
        _ => panic!(
            "`{name}` is not set: run `cargo xtask test`, which starts PostgreSQL and Redis, or put \
             `cargo xtask services` before the command"
        ),
    }
}

/// A schema that is dropped with everything in it.
pub struct Schema(String);

impl Schema {
    /// A name that no other test has.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    /// Options with few connections.
    pub fn options(&self) -> PostgresOptions {
        let options = PostgresOptions::from_url(&variable("AP_TEST_POSTGRES_URL")).expect("a URL");
        options.with_schema(&self.0).with_writers(2).with_readers(2)
    }

    /// A backend by `clock`.
    pub async fn open(&self, clock: Arc<dyn Clock>) -> PostgresBackend {
        PostgresBackend::open(self.options().with_clock(clock)).await.expect("a database")
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let text = format!("DROP SCHEMA IF EXISTS \"{}\" CASCADE", self.0);
        // On a thread of its own, because this may run inside a runtime.
        let dropping = std::thread::spawn(move || run(&[&text]));
        if dropping.join().is_err() {
            eprintln!("schema `{}` stays", self.0);
        }
    }
}

/// Runs statements on a connection of their own.
pub fn run(statements: &[&str]) {
    use sqlx::Connection;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let url = variable("AP_TEST_POSTGRES_URL");
        let mut connection = sqlx::PgConnection::connect(&url).await.expect("a connection");
        for statement in statements {
            let text = sqlx::AssertSqlSafe((*statement).to_owned());
            sqlx::raw_sql(text).execute(&mut connection).await.expect("a statement");
        }
        connection.close().await.expect("closed");
    });
}
