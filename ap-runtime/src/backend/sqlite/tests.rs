#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;

    use super::{
        writer::{Failure, Operation, Transaction},
        *,
    };
    use crate::clock::SystemClock;

    /// Runs one statement.
    struct Statement(&'static str);

    #[async_trait]
    impl Operation for Statement {
        type Output = ();

        fn bytes(&self) -> usize {
            0
        }

        async fn finish(&self, transaction: &mut Transaction<'_>, _changes: &[u64]) -> Result<(), Failure> {
            transaction.run(&mut Script::new(self.0)).await
        }
    }

    /// Fails at its first application only.
    struct Flaky(AtomicBool);

    #[async_trait]
    impl Operation for Flaky {
        type Output = ();

        fn bytes(&self) -> usize {
            0
        }

        async fn finish(&self, transaction: &mut Transaction<'_>, _changes: &[u64]) -> Result<(), Failure> {
            transaction.run(&mut Script::new("INSERT INTO child (parent) VALUES (1)")).await?;
            if self.0.swap(true, Ordering::Relaxed) { Ok(()) } else { Err(sqlx::Error::WorkerCrashed.into()) }
        }
    }

    async fn backend(directory: &tempfile::TempDir) -> SqliteBackend {
        let backend =
            SqliteBackend::open(directory.path().join("a.db"), Arc::new(SystemClock)).await.expect("a database");
        for statement in [
            "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
            "CREATE TABLE child (parent INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
            "INSERT INTO parent (id) VALUES (1)",
        ] {
            backend.writer.write(Statement(statement)).await.expect("a table");
        }
        backend
    }

    async fn children(backend: &SqliteBackend) -> i64 {
        let row = backend.row(Script::new("SELECT count(*) FROM child")).await.expect("a query").expect("a row");
        script::Columns::of(&row).int().expect("a number")
    }

    #[tokio::test]
    async fn after_a_failed_commit_nobody_is_acknowledged_and_work_goes_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let backend = backend(&directory).await;
        // A deferred foreign key is checked by COMMIT itself, so this makes the commit of the whole batch fail.
        let good = backend.writer.write(Statement("INSERT INTO child (parent) VALUES (1)"));
        let bad = backend.writer.write(Statement("INSERT INTO child (parent) VALUES (2)"));
        let (good, bad) = futures_util::future::join(good, bad).await;
        assert!(matches!(good, Err(StoreError::Unavailable(_))), "{good:?}");
        assert!(matches!(bad, Err(StoreError::Unavailable(_))), "{bad:?}");
        assert_eq!(children(&backend).await, 0);
        backend.writer.write(Statement("INSERT INTO child (parent) VALUES (1)")).await.expect("a new connection");
        assert_eq!(children(&backend).await, 1);
    }

    #[tokio::test]
    async fn a_repeated_operation_is_applied_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let backend = backend(&directory).await;
        let flaky = backend.writer.write(Flaky(AtomicBool::new(false)));
        let other = backend.writer.write(Statement("INSERT INTO child (parent) VALUES (1)"));
        let (flaky, other) = futures_util::future::join(flaky, other).await;
        flaky.expect("the second application");
        other.expect("not its fault");
        assert_eq!(children(&backend).await, 2);
    }

    #[tokio::test]
    async fn readers_cannot_write() {
        let directory = tempfile::tempdir().expect("a directory");
        let backend = backend(&directory).await;
        let refused = backend.rows(Script::new("INSERT INTO child (parent) VALUES (1)")).await;
        assert!(matches!(refused, Err(StoreError::Backend(_))), "{refused:?}");
        assert_eq!(children(&backend).await, 0);
    }

    #[tokio::test]
    async fn the_settings_hold() {
        let directory = tempfile::tempdir().expect("a directory");
        let backend = backend(&directory).await;
        let mut connection =
            SqliteConnection::connect_with(&writer_options(&backend.path)).await.expect("a connection");
        for (pragma, value) in [
            ("PRAGMA synchronous", 2),
            ("PRAGMA foreign_keys", 1),
            ("PRAGMA trusted_schema", 0),
            ("PRAGMA cell_size_check", 1),
            ("PRAGMA busy_timeout", 5_000),
        ] {
            let row = Script::new(pragma).row(&mut connection).await.expect(pragma).expect(pragma);
            assert_eq!(script::Columns::of(&row).int().expect(pragma), value, "{pragma}");
        }
        let row = Script::new("PRAGMA journal_mode").row(&mut connection).await.expect("a query").expect("a row");
        assert_eq!(script::Columns::of(&row).text().expect("a mode"), "wal");
    }

    #[tokio::test]
    async fn tables_of_a_newer_or_changed_release_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        for change in [
            "INSERT INTO ap_migrations (version, description, success, checksum, execution_time) \
             VALUES (99, 'later', 1, x'00', 0)",
            "UPDATE ap_migrations SET checksum = x'00'",
        ] {
            let path = directory.path().join(format!("{}.db", change.len()));
            let first = SqliteBackend::open(&path, Arc::new(SystemClock)).await.expect("a database");
            first.writer.write(Statement(change)).await.expect("a change");
            first.close().await;
            let error = SqliteBackend::open(&path, Arc::new(SystemClock)).await.expect_err("refused");
            assert!(matches!(error, SqliteOpenError::Migration { .. }), "{error:?}");
        }
    }

    #[tokio::test]
    async fn claims_sweeps_and_recovery_use_their_indexes() {
        let directory = tempfile::tempdir().expect("a directory");
        let backend = backend(&directory).await;
        for query in [
            "EXPLAIN QUERY PLAN SELECT id FROM ap_runs WHERE finished IS NULL AND status = 'QUEUED' AND lease IS NULL \
             ORDER BY created, id, project LIMIT 5",
            "EXPLAIN QUERY PLAN SELECT id FROM ap_runs WHERE finished IS NULL AND status = 'RUNNING' AND lease <= 5",
            "EXPLAIN QUERY PLAN SELECT id FROM ap_runs WHERE finished IS NULL",
            "EXPLAIN QUERY PLAN SELECT key FROM ap_deliveries WHERE expires <= 5 ORDER BY expires LIMIT 5",
        ] {
            let rows = backend.rows(Script::new(query)).await.expect("a plan");
            let plan: Vec<String> = rows.iter().map(|row| sqlx::Row::get::<String, _>(row, 3)).collect();
            let indexed =
                plan.iter().any(|line| line.contains("ap_runs_active") || line.contains("ap_deliveries_expires"));
            assert!(indexed, "{query}: {plan:?}");
            let sorts_queue = query.contains("QUEUED") && plan.iter().any(|line| line.contains("TEMP B-TREE"));
            assert!(!sorts_queue, "{query}: {plan:?}");
        }
    }
}
