//! Brings the tables of a schema up to date.
//!
//! All that is missing is applied in one transaction under a lock, so that any number of processes may start at once, and a
//! failure leaves everything as it was. Applied migrations are remembered with a hash of their text; an unknown or changed
//! one means that another release wrote the tables, and nothing is touched then.

use ap_core::store::BackendError;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, PgConnection};

use super::{
    error::{PostgresOpenError, described, store_error},
    value::Columns,
};

/// A step forward of the tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migration {
    /// Counts from 1.
    pub(super) version: i64,
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

/// Every migration, in order. A released one is never changed.
pub(super) const ALL: &[Migration] = &[
    Migration { version: 1, name: "records", text: include_str!("migrations/001_records.sql") },
    Migration { version: 3, name: "keys", text: include_str!("migrations/003_keys.sql") },
    Migration { version: 4, name: "connections", text: include_str!("migrations/004_connections.sql") },
    Migration { version: 6, name: "subjects", text: include_str!("migrations/006_subjects.sql") },
    Migration { version: 7, name: "due connections", text: include_str!("migrations/007_due_connections.sql") },
    Migration { version: 8, name: "values", text: include_str!("migrations/008_values.sql") },
];

/// Applies those of `migrations` that `schema` lacks.
pub(super) async fn run(
    connection: &mut PgConnection,
    schema: &str,
    migrations: &[Migration],
) -> Result<(), PostgresOpenError> {
    match apply(connection, schema, migrations).await {
        Ok(()) => execute(connection, "COMMIT".to_owned()).await.map_err(|error| failed(schema, error)),
        Err(error) => {
            // If this fails too, the connection is lost, and the server rolls back.
            let _ = execute(connection, "ROLLBACK".to_owned()).await;
            Err(match error {
                Unapplied::Foreign(what) => {
                    PostgresOpenError::Migration { schema: schema.to_owned(), source: BackendError::new(what) }
                }
                Unapplied::Text(name, error) => PostgresOpenError::Migration {
                    schema: schema.to_owned(),
                    source: BackendError::new(format!("migration `{name}`: {}", described(error))),
                },
                Unapplied::Statement(error) => failed(schema, error),
            })
        }
    }
}

enum Unapplied {
    /// The schema has what this release does not know.
    Foreign(String),
    /// A statement of a migration failed.
    Text(&'static str, sqlx::Error),
    Statement(sqlx::Error),
}

impl From<sqlx::Error> for Unapplied {
    fn from(error: sqlx::Error) -> Self {
        Self::Statement(error)
    }
}

async fn apply(connection: &mut PgConnection, schema: &str, migrations: &[Migration]) -> Result<(), Unapplied> {
    execute(connection, format!("BEGIN; SET LOCAL lock_timeout = {LOCK_MS}; SET LOCAL statement_timeout = {LOCK_MS}"))
        .await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('ap-runtime migrations ' || $1, 0))")
        .bind(schema)
        .execute(&mut *connection)
        .await?;
    // Looked for first: whoever may not create schemas can be given one.
    let known = sqlx::query("SELECT 1 FROM pg_namespace WHERE nspname = $1").bind(schema);
    if known.fetch_optional(&mut *connection).await?.is_none() {
        execute(connection, format!("CREATE SCHEMA \"{schema}\"")).await?;
    }
    execute(connection, format!("SET LOCAL search_path TO \"{schema}\"; {TABLE}")).await?;
    let rows = sqlx::query("SELECT version, checksum FROM ap_migrations ORDER BY version");
    let mut applied = Vec::new();
    for row in &rows.fetch_all(&mut *connection).await? {
        let mut columns = Columns::of(row);
        applied.push((columns.value::<i64>()?, columns.value::<Vec<u8>>()?));
    }
    for (index, (version, checksum)) in applied.iter().enumerate() {
        match migrations.get(index) {
            Some(migration) if migration.version == *version && *checksum == digest(migration) => {}
            Some(migration) if migration.version == *version => {
                return Err(Unapplied::Foreign(format!("migration {version} was applied with another text")));
            }
            _ => return Err(Unapplied::Foreign(format!("migration {version} was applied by a newer release"))),
        }
    }
    for migration in migrations.iter().skip(applied.len()) {
        let text = sqlx::raw_sql(migration.text).execute(&mut *connection).await;
        text.map_err(|error| Unapplied::Text(migration.name, error))?;
        sqlx::query("INSERT INTO ap_migrations (version, name, checksum) VALUES ($1, $2, $3)")
            .bind(migration.version)
            .bind(migration.name)
            .bind(digest(migration))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn digest(migration: &Migration) -> Vec<u8> {
    Sha256::digest(migration.text.as_bytes()).to_vec()
}

async fn execute(connection: &mut PgConnection, text: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(text)).execute(connection).await.map(|_| ())
}

fn failed(schema: &str, error: sqlx::Error) -> PostgresOpenError {
    PostgresOpenError::Store { schema: schema.to_owned(), source: store_error(error) }
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS ap_migrations ( \
    version bigint PRIMARY KEY, name text NOT NULL, checksum bytea NOT NULL, \
    applied timestamptz NOT NULL DEFAULT clock_timestamp())";
/// How long another process may take for its migrations. Unit: milliseconds.
const LOCK_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use ap_core::{
        id::{FlowId, ProjectId, RunId},
        run::RunStatus,
    };
    use sqlx::Connection;

    use super::*;
    use crate::{
        backend::postgres::{PostgresBackend, PostgresOptions},
        store::{ClaimRequest, FlowStore, ProjectStore, RunStore, SystemStore},
    };

    /// For every released version of the tables, rows as that release wrote them.
    const RELEASED: &[&str] = &[
        include_str!("migrations/released/001.sql"),
        include_str!("migrations/released/003.sql"),
        include_str!("migrations/released/004.sql"),
        include_str!("migrations/released/006.sql"),
        include_str!("migrations/released/007.sql"),
        include_str!("migrations/released/008.sql"),
    ];

    struct Schema(String, PostgresOptions);

    impl Schema {
        async fn new(name: &str) -> (Self, PgConnection) {
            let url = std::env::var("AP_TEST_POSTGRES_URL");
            let url = url.expect("`AP_TEST_POSTGRES_URL` is not set: run `cargo xtask test`");
            let name = format!("migrate_{}_{name}", std::process::id());
            let options = PostgresOptions::from_url(&url).expect("a URL").with_schema(&name);
            let mut connection = PgConnection::connect(&url).await.expect("a connection");
            execute(&mut connection, format!("SET search_path TO \"{name}\"")).await.expect("a setting");
            (Self(name, options), connection)
        }

        async fn drop(self, mut connection: PgConnection) {
            execute(&mut connection, format!("DROP SCHEMA \"{}\" CASCADE", self.0)).await.expect("dropped");
        }
    }

    #[tokio::test]
    async fn tables_of_every_release_are_brought_up_to_date_with_what_is_in_them() {
        assert_eq!(RELEASED.len(), ALL.len(), "a release adds the rows it writes");
        for (version, rows) in (1..).zip(RELEASED) {
            let (schema, mut connection) = Schema::new(&format!("from_{version}")).await;
            run(&mut connection, &schema.0, &ALL[..version]).await.expect("the tables of that release");
            execute(&mut connection, (*rows).to_owned()).await.expect("its rows");
            let backend = PostgresBackend::open(schema.1.clone()).await.expect("brought up to date");
            let (project, waiting) = (ProjectId::from_u128(1), RunId::from_u128(1));
            backend.project(project).await.expect("the project");
            backend.flow(FlowId::from_u128(1), project).await.expect("the flow");
            let run = backend.run(waiting, project).await.expect("the run");
            assert_eq!(run.status, RunStatus::Queued);
            assert_eq!(backend.journal(waiting, project).await.expect("the journal").len(), 1);
            let lease = std::time::Duration::from_secs(1);
            let request = ClaimRequest { limit: 10, lease, per_project: 10, total: 10 };
            let claimed = backend.claim(request).await.expect("an answer");
            assert_eq!(claimed.iter().map(|claimed| claimed.lease.run).collect::<Vec<_>>(), [waiting]);
            backend.close().await;
            schema.drop(connection).await;
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_applied_once_and_wholly() {
        let (schema, mut connection) = Schema::new("forward").await;
        let last = ALL.last().expect("there are some").version;
        let next = |text| Migration { version: last + 1, name: "next", text };
        run(&mut connection, &schema.0, ALL).await.expect("the tables");
        let broken = [ALL, &[next("CREATE TABLE ap_next (id bigint); CREATE TABLE ap_next (id bigint)")]].concat();
        let error = run(&mut connection, &schema.0, &broken).await.expect_err("refused");
        assert!(matches!(error, PostgresOpenError::Migration { .. }), "{error:?}");
        let whole = [ALL, &[next("CREATE TABLE ap_next (id bigint)")]].concat();
        for _ in 0..2 {
            run(&mut connection, &schema.0, &whole).await.expect("one step forward");
        }
        let error = run(&mut connection, &schema.0, ALL).await.expect_err("an older release");
        assert!(matches!(error, PostgresOpenError::Migration { .. }), "{error:?}");
        schema.drop(connection).await;
    }
}
