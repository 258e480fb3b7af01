//! What cannot be seen from outside: failed commits, panics, full queues, settings, plans of statements.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use ap_core::{id::ProjectId, store::StoreError};

use super::{
    accept, claim, commit, gate, project, queue, run, subject, system, trigger,
    writer::{Failure, Operation, Transaction},
    *,
};
use crate::{
    clock::SystemClock,
    store::{ClaimRequest, RunFilter, SystemStore},
};

/// Runs one statement.
struct Statement(&'static str);

impl Operation for Statement {
    type Output = ();

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        transaction.run(self.0, ())?;
        Ok(())
    }
}

/// Fails at its first application only, after it has written.
struct Flaky(AtomicBool);

impl Operation for Flaky {
    type Output = ();

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        transaction.run(INSERT, ())?;
        if self.0.swap(true, Ordering::Relaxed) { Ok(()) } else { Err(rusqlite::Error::QueryReturnedNoRows.into()) }
    }
}

/// Refuses after it has written.
struct Late;

impl Operation for Late {
    type Output = ();

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        transaction.run(INSERT, ())?;
        Err(Failure::Undone(StoreError::Fenced))
    }
}

/// Panics after it has written.
struct Panics;

impl Operation for Panics {
    type Output = ();

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        transaction.run(INSERT, ())?;
        panic!("as the test wants it");
    }
}

/// Says that it is there, and holds the writer up until it is told to go on.
struct Hold(mpsc::Sender<()>, Mutex<mpsc::Receiver<()>>);

impl Operation for Hold {
    type Output = ();

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, _transaction: &Transaction<'_>) -> Result<(), Failure> {
        self.0.send(()).expect("the test waits");
        // An error means that the test has let go.
        let _ = self.1.lock().expect("one thread").recv();
        Ok(())
    }
}

const INSERT: &str = "INSERT INTO child (parent) VALUES (1)";

async fn backend(directory: &tempfile::TempDir) -> Arc<SqliteBackend> {
    let backend = SqliteBackend::open(directory.path().join("a.db"), Arc::new(SystemClock)).await.expect("a database");
    for statement in [
        "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
        "CREATE TABLE child (parent INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO parent (id) VALUES (1)",
    ] {
        backend.writer.write(Statement(statement)).await.expect("a table");
    }
    Arc::new(backend)
}

async fn children(backend: &SqliteBackend) -> i64 {
    let count = |open: &_| connect::row(open, "SELECT count(*) FROM child", (), |columns| columns.int());
    backend.readers.read(count).await.expect("a query").expect("a row")
}

/// Holds the writer up; it goes on when what is returned is dropped.
async fn held_up(backend: &Arc<SqliteBackend>) -> mpsc::Sender<()> {
    let ((there, arrived), (go, wait)) = (mpsc::channel(), mpsc::channel());
    let writer = Arc::clone(backend);
    tokio::spawn(async move { writer.writer.write(Hold(there, Mutex::new(wait))).await });
    while arrived.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
    go
}

/// Hands everything over while the writer is held up, so that one batch has it all.
async fn in_one_batch<T>(backend: &Arc<SqliteBackend>, calls: Vec<impl Future<Output = T>>) -> Vec<T> {
    let go = held_up(backend).await;
    let mut calls = Box::pin(futures_util::future::join_all(calls));
    assert!(futures_util::poll!(&mut calls).is_pending(), "the writer is held up");
    drop(go);
    calls.await
}

#[tokio::test]
async fn after_a_failed_commit_nobody_is_acknowledged_and_work_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = backend(&directory).await;
    // A deferred foreign key is checked by COMMIT itself, so this makes the commit of the whole batch fail.
    let statements = [INSERT, "INSERT INTO child (parent) VALUES (2)"];
    let calls = statements.map(|sql| backend.writer.write(Statement(sql))).into_iter().collect();
    for answer in in_one_batch(&backend, calls).await {
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    }
    assert_eq!(children(&backend).await, 0);
    backend.writer.write(Statement(INSERT)).await.expect("a new connection");
    assert_eq!(children(&backend).await, 1);
}

#[tokio::test]
async fn a_repeated_operation_is_applied_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = backend(&directory).await;
    let go = held_up(&backend).await;
    let flaky = backend.writer.write(Flaky(AtomicBool::new(false)));
    let other = backend.writer.write(Statement(INSERT));
    let mut both = Box::pin(futures_util::future::join(flaky, other));
    assert!(futures_util::poll!(&mut both).is_pending());
    drop(go);
    let (flaky, other) = both.await;
    flaky.expect("the second application");
    other.expect("not its fault");
    assert_eq!(children(&backend).await, 2);
}

#[tokio::test]
async fn an_operation_that_fails_late_leaves_nothing_and_fails_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = backend(&directory).await;
    let go = held_up(&backend).await;
    let (late, panics, other) =
        (backend.writer.write(Late), backend.writer.write(Panics), backend.writer.write(Statement(INSERT)));
    let mut all = Box::pin(futures_util::future::join3(late, panics, other));
    assert!(futures_util::poll!(&mut all).is_pending());
    drop(go);
    let (late, panics, other) = all.await;
    assert!(matches!(late, Err(StoreError::Fenced)), "{late:?}");
    assert!(matches!(panics, Err(StoreError::Backend(_))), "{panics:?}");
    other.expect("not its fault");
    assert_eq!(children(&backend).await, 1);
    backend.writer.write(Statement(INSERT)).await.expect("the thread lives");
}

#[tokio::test]
async fn a_full_queue_refuses_deliveries_and_delays_the_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = backend(&directory).await;
    let go = held_up(&backend).await;
    let calls = (0..5_000).map(|_| backend.writer.write_if_room(Statement(INSERT)));
    let mut calls = Box::pin(tokio::task::unconstrained(futures_util::future::join_all(calls)));
    assert!(futures_util::poll!(&mut calls).is_pending());
    let patient = (0..100).map(|_| backend.writer.write(Statement(INSERT)));
    let mut patient = Box::pin(futures_util::future::join_all(patient));
    assert!(futures_util::poll!(&mut patient).is_pending());
    drop(go);
    let answers = calls.await;
    let refused = answers.iter().filter(|answer| matches!(answer, Err(StoreError::Unavailable(_)))).count();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 4_096);
    assert_eq!(refused, 5_000 - 4_096);
    assert!(patient.await.iter().all(Result::is_ok));
    assert_eq!(children(&backend).await, 4_196);
}

#[tokio::test]
async fn a_dropped_call_is_carried_out() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = backend(&directory).await;
    let go = held_up(&backend).await;
    let mut call = Box::pin(backend.writer.write(Statement(INSERT)));
    assert!(futures_util::poll!(&mut call).is_pending());
    drop(call);
    drop(go);
    backend.writer.write(Statement(INSERT)).await.expect("a write");
    assert_eq!(children(&backend).await, 2);
}

#[tokio::test]
async fn closing_twice_at_once_waits_for_the_lock() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = backend(&directory).await;
    let go = held_up(&backend).await;
    let mut closing = Box::pin(futures_util::future::join(backend.close(), backend.close()));
    assert!(futures_util::poll!(&mut closing).is_pending());
    drop(go);
    closing.await;
    FileLock::acquire(&backend.path).expect("the lock is free");
}

#[tokio::test]
async fn readers_cannot_write() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = backend(&directory).await;
    let refused = backend.readers.read(|open| open.execute(INSERT, ())).await;
    assert!(matches!(refused, Err(StoreError::Backend(_))), "{refused:?}");
    assert_eq!(children(&backend).await, 0);
}

#[tokio::test]
async fn a_reader_that_panics_is_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = backend(&directory).await;
    for _ in 0..10 {
        let lost: Result<(), _> = backend.readers.read(|_| panic!("as the test wants it")).await;
        assert!(matches!(lost, Err(StoreError::Unavailable(_))), "{lost:?}");
    }
    assert_eq!(children(&backend).await, 0);
}

#[tokio::test]
async fn the_settings_hold() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = backend(&directory).await;
    let number = |open: &rusqlite::Connection, pragma: &str| {
        open.query_row(pragma, (), |row| row.get::<_, i64>(0)).unwrap_or_else(|error| panic!("{pragma}: {error}"))
    };
    let writer = connect::writer(&backend.path).expect("a connection");
    let reader = connect::reader(&backend.path).expect("a connection");
    for (open, pragma, value) in [
        (&writer, "PRAGMA synchronous", 2),
        (&writer, "PRAGMA foreign_keys", 1),
        (&writer, "PRAGMA journal_size_limit", 64 * 1024 * 1024),
        (&reader, "PRAGMA query_only", 1),
    ] {
        assert_eq!(number(open, pragma), value, "{pragma}");
    }
    for open in [&writer, &reader] {
        for (pragma, value) in
            [("PRAGMA trusted_schema", 0), ("PRAGMA cell_size_check", 1), ("PRAGMA busy_timeout", 5_000)]
        {
            assert_eq!(number(open, pragma), value, "{pragma}");
        }
        let mode: String = open.query_row("PRAGMA journal_mode", (), |row| row.get(0)).expect("a mode");
        assert_eq!(mode, "wal");
    }
}

#[tokio::test]
async fn tables_of_a_newer_or_changed_release_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    for (number, change) in [
        "INSERT INTO ap_migrations (version, description, success, checksum, execution_time) \
         VALUES (99, 'later', 1, x'00', 0)",
        "UPDATE ap_migrations SET checksum = x'00'",
        "UPDATE ap_migrations SET success = 0 WHERE version = 2",
    ]
    .into_iter()
    .enumerate()
    {
        let path = directory.path().join(format!("{number}.db"));
        let first = SqliteBackend::open(&path, Arc::new(SystemClock)).await.expect("a database");
        first.writer.write(Statement(change)).await.expect("a change");
        first.close().await;
        let error = SqliteBackend::open(&path, Arc::new(SystemClock)).await.expect_err("refused");
        assert!(matches!(error, SqliteOpenError::Migration { .. }), "{error:?}");
    }
}

/// Lines of the plan of a statement.
async fn plan(backend: &SqliteBackend, sql: &str) -> Vec<String> {
    explained(backend, format!("EXPLAIN QUERY PLAN {sql}"), 3).await
}

/// A column of what SQLite says of a statement.
async fn explained(backend: &SqliteBackend, explain: String, column: usize) -> Vec<String> {
    let shown = explain.clone();
    let lines = backend.readers.read(move |open| {
        let mut statement = open.prepare(&explain)?;
        // The plan does not depend on the arguments: they stay unbound.
        let mut rows = statement.raw_query();
        let mut lines = Vec::new();
        while let Some(row) = rows.next()? {
            lines.push(row.get(column)?);
        }
        Ok(lines)
    });
    lines.await.unwrap_or_else(|error| panic!("{shown}: {error:?}"))
}

/// A table of its own costs a statement more than all it does: files, caches and pages are set up and thrown away.
#[tokio::test]
async fn what_every_run_executes_makes_no_tables() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = backend(&directory).await;
    for sql in [
        accept::OPEN_FLOW,
        accept::INSERT_RUN,
        run::APPEND_ENTRY,
        project::INSERT_AUDIT,
        project::INSERT_AUDIT_ID,
        commit::HELD,
        commit::END_RUN,
        commit::PARK,
        run::FORGET_SLOTS,
        queue::HOLDS,
        subject::IS_LIVE,
        subject::INSERT_KEY,
    ] {
        let operations = explained(&backend, format!("EXPLAIN {sql}"), 1).await;
        assert!(operations.len() > 3, "{sql}: {operations:?}");
        let tables =
            operations.iter().filter(|operation| ["OpenEphemeral", "OpenAutoindex"].contains(&operation.as_str()));
        assert_eq!(tables.count(), 0, "{sql}");
    }
}

#[tokio::test]
async fn claims_timers_sweeps_and_recovery_use_their_indexes() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = backend(&directory).await;
    let parent = run::listing(&RunFilter { parent: Some(ap_core::id::RunId::from_u128(1)), ..RunFilter::default() });
    let flow = Some(ap_core::id::FlowId::from_u128(1));
    let of_flow = run::listing(&RunFilter { flow, ..RunFilter::default() });
    let live = run::listing(&RunFilter { flow, live: true, ..RunFilter::default() });
    let all = run::listing(&RunFilter::default());
    let mut slow = Vec::new();
    for (sql, index) in [
        (claim::PASS_TIMERS, "ap_runs_due (due<?)"),
        (claim::RUNNING, "ap_runs_lease"),
        (claim::EXPIRED, "ap_runs_lease (lease<?)"),
        (claim::READY_PROJECT, "ap_runs_ready (project>?)"),
        (claim::READY_LANE, "ap_runs_ready (project=? AND priority<?)"),
        (claim::READY_RUNS, "ap_runs_ready (project=? AND priority=? AND (created,id)>(?,?))"),
        (gate::NEXT, "ap_runs_gate (project=? AND gate=? AND passed=?)"),
        (gate::HOLDERS, "COVERING INDEX ap_runs_gate (project=? AND gate=? AND passed=?)"),
        (accept::WAITING_FOR_QUIET, "ap_runs_debounce (project=? AND debounce=? AND debounce_until>?)"),
        (all, "sqlite_autoindex_ap_runs_1 (project=? AND id>?)"),
        (parent, "ap_runs_parent (project=? AND parent=? AND id>?)"),
        (of_flow, "ap_runs_live (flow=? AND id>?)"),
        (of_flow, "ap_runs_ended (flow=? AND id>?)"),
        (live, "ap_runs_live (flow=? AND id>?)"),
        (run::LIVE, "ap_runs_live (flow=? AND id>?)"),
        (project::AUDIT, "key USING PRIMARY KEY (scope=? AND id>?)"),
        (run::JOURNAL, "sqlite_autoindex_ap_journal_1 (run=?)"),
        (queue::OLDEST, "ap_jobs_queue (project=? AND queue=? AND state=?)"),
        (queue::HOLDS, "ap_jobs_run (project=? AND run=?)"),
        (queue::GIVE_BACK, "ap_jobs_run (project=? AND run=?)"),
        (trigger::DUE_TRIGGERS, "ap_triggers_due (due<?)"),
        (system::NEXT_DUE, "ap_triggers_lease"),
        (system::SWEEP_DELIVERIES, "ap_deliveries_expires (expires<?)"),
        (system::SWEEP_PACES, "ap_paces_due (due<?)"),
        (subject::KEY, "ap_subject_keys_id (project=? AND id=?)"),
        (subject::KEY_OF_SUBJECT, "ap_subject_keys_subject (project=? AND subject=?)"),
        (subject::KEYS, "ap_subject_keys_id (project>?)"),
        (subject::LIVE_RUNS, "ap_runs_subject (project=? AND subject=?)"),
        (subject::COUNT_ENTRIES, "ap_runs_subject (project=? AND subject=?)"),
        (subject::COUNT_FILES, "ap_files_run (project=? AND run=?)"),
        (subject::UNFINISHED, "ap_erasures_unfinished"),
        (connect::RECOVER[0], "ap_runs_lease"),
        (connect::RECOVER[1], "ap_triggers_lease"),
    ] {
        let plan = plan(&backend, sql).await;
        let table = |line: &String| line.starts_with("SCAN ap_") && !line.contains("INDEX");
        // Counting what runs, a handful, and ranking the triggers that are due may sort, and so may live runs of many flows.
        let sorts = plan.iter().any(|line| line.contains("TEMP B-TREE") && !line.contains("LAST"));
        let indexed = plan.iter().any(|line| line.contains(index)) && !plan.iter().any(table);
        if !indexed || (sorts && ![claim::RUNNING, trigger::DUE_TRIGGERS, run::LIVE].contains(&sql)) {
            slow.push((sql, plan));
        }
    }
    assert!(slow.is_empty(), "{slow:#?}");
}

#[tokio::test]
async fn a_claim_reads_no_more_for_more_that_waits() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = backend(&directory).await;
    let mut reads = Vec::new();
    for (from, to) in [(0, 1_000), (1_000, 30_000)] {
        backend.writer.write(Queued { from, to }).await.expect("queued runs");
        let request = ClaimRequest { limit: 5, lease: Duration::from_secs(9), per_project: 1_000, total: 1_000 };
        assert_eq!(backend.claim(request).await.expect("a claim").len(), 5);
        reads.push(backend.writer.write(Steps(request)).await.expect("a claim"));
    }
    assert!(reads[1] <= reads[0] + reads[0] / 2, "steps of the machine: {reads:?}");
}

/// Inserts queued runs in ten projects, and paused ones that wait long.
struct Queued {
    from: i64,
    to: i64,
}

impl Operation for Queued {
    type Output = ();

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        for number in self.from..self.to {
            let project = ProjectId::from_u128(u128::try_from(number % 10).expect("positive"));
            let id = ap_core::id::RunId::from_u128(u128::try_from(number).expect("positive"));
            transaction.run(
                "INSERT INTO ap_runs (project, id, flow, version, status, created, epoch, priority, ready, due) \
                 VALUES (?, ?, ?2, ?2, ?, ?, 0, ?, ?, ?)",
                rusqlite::params![
                    project.as_bytes(),
                    id.as_bytes(),
                    if number % 2 == 0 { "QUEUED" } else { "PAUSED" },
                    number,
                    number % 3,
                    number % 2 == 0,
                    (number % 2 == 1).then_some(i64::MAX),
                ],
            )?;
        }
        Ok(())
    }
}

/// Claims, and tells how many steps SQLite's machine took for the statement that finds the next run of a lane.
struct Steps(ClaimRequest);

impl Operation for Steps {
    type Output = i32;

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<i32, Failure> {
        let statements = [claim::PASS_TIMERS, claim::READY_LANE, claim::READY_RUNS, claim::READY_PROJECT];
        let steps = || -> rusqlite::Result<i32> {
            let mut sum = 0;
            for sql in statements {
                sum += transaction.connection.prepare_cached(sql)?.reset_status(rusqlite::StatementStatus::VmStep);
            }
            Ok(sum)
        };
        steps()?;
        claim::Claim(self.0).apply(transaction)?;
        Ok(steps()?)
    }
}

#[tokio::test]
async fn every_column_with_sealed_values_is_known_to_rotations() {
    let directory = tempfile::tempdir().unwrap();
    let backend = SqliteBackend::open(directory.path().join("a.db"), Arc::new(SystemClock)).await.unwrap();
    let sql = "SELECT m.name || '.' || c.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c \
        WHERE m.type = 'table' AND (c.name LIKE '%sealed%' OR (c.name = 'state' AND c.type = 'BLOB')) ORDER BY 1";
    let read =
        move |open: &rusqlite::Connection| connect::rows(open, sql, (), |columns| Ok(columns.text()?.to_owned()));
    let found = backend.readers.read(read).await.unwrap();
    let mut known: Vec<String> =
        crate::store::CellTable::ALL.map(|table| super::cell::Place::of(table).column()).into();
    // Keys are wrapped, and re-wrapped by a rotation of the root key.
    known.push("ap_keys.sealed".to_owned());
    known.sort();
    assert_eq!(found, known, "a rotation would leave these under the old key");
}
