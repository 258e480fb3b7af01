//! What only the SQLite backend promises: one process per file, clear errors, durability of a torn process.
#![cfg(feature = "sqlite")]
#![expect(clippy::expect_used, reason = "test support: what fails here is the test")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ap_core::{
    id::{FlowId, FlowVersionId, KeyId, ProjectId, RunId},
    run::RunStatus,
    store::{LookupHash, PageRequest, Precondition, Revision, Sealed, StoreError},
    time::Timestamp,
};
use ap_crypto::{
    keyring::{KeyKind, KeyStore, WrappedKey},
    subject::WrappedSubjectKey,
};
use ap_runtime::{
    backend::sqlite::{SqliteBackend, SqliteOpenError},
    clock::SystemClock,
    store::{
        Accept, Accepted, AuditStore, ClaimRequest, ConnectionStore, Dedupe, FlowRecord, FlowStore, FlowWrite,
        JournalEntry, Lease, ProjectRecord, ProjectShare, ProjectStore, RunChange, RunCommit, RunControl, RunFilter,
        RunRecord, RunStore, SubjectStore, SystemStore, TriggerChange,
    },
};
use bytes::Bytes;

const PROJECT: ProjectId = ProjectId::from_u128(1);
const FLOW: FlowId = FlowId::from_u128(1);
const VERSION: FlowVersionId = FlowVersionId::from_u128(1);
const AT: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn sealed() -> Sealed {
    Sealed::from_bytes(Bytes::from_static(b"ciphertext"))
}

async fn open(path: impl AsRef<Path>) -> Result<SqliteBackend, SqliteOpenError> {
    SqliteBackend::open(path, Arc::new(SystemClock)).await
}

/// Creates the project and a flow that accepts deliveries.
async fn publish(backend: &SqliteBackend) {
    let (id, parent) = (KeyId::from_u128(2), KeyId::from_u128(1));
    let key = WrappedKey { id, scope: PROJECT.into(), kind: KeyKind::Data, parent, created: AT, wrapped: sealed() };
    let project = ProjectRecord { id: PROJECT, created: AT, share: ProjectShare::default(), sealed: sealed() };
    backend.create_project(project, key, &[]).await.expect("a project");
    let flow = FlowRecord {
        id: FLOW,
        project: PROJECT,
        created: AT,
        updated: AT,
        revision: Revision::FIRST,
        enabled: true,
        published: Some(VERSION),
        draft: None,
        webhook: LookupHash([1; 32]),
        generation: 1,
        sealed: sealed(),
    };
    let write =
        FlowWrite { flow, precondition: Precondition::Absent, versions: Vec::new(), trigger: TriggerChange::Keep };
    backend.write_flow(write, &[]).await.expect("a flow");
}

fn accept(run: u128, key: Option<u8>) -> Accept {
    let expires = Timestamp::from_micros(i64::MAX);
    Accept {
        run: RunRecord {
            id: RunId::from_u128(run),
            project: PROJECT,
            flow: FLOW,
            version: VERSION,
            parent: None,
            status: RunStatus::Queued,
            created: AT,
            finished: None,
            subject: None,
        },
        generation: 1,
        dedupe: key.map(|key| Dedupe { key: LookupHash([key; 32]), expires }),
        subject_key: None,
        control: RunControl::default(),
        entry: JournalEntry { seq: 0, sealed: sealed() },
        lease: Some(Duration::from_secs(30)),
    }
}

/// Polls all of `calls` before any other task of this thread runs.
async fn at_once<F: Future>(calls: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    tokio::task::unconstrained(futures_util::future::join_all(calls)).await
}

fn lease(run: u128) -> Lease {
    Lease { project: PROJECT, run: RunId::from_u128(run), epoch: 1 }
}

fn end(run: u128, seq: u64) -> RunCommit {
    let change = RunChange::End { status: RunStatus::Succeeded, at: AT };
    RunCommit::new(lease(run), change).with_entries(vec![JournalEntry { seq, sealed: sealed() }])
}

#[tokio::test]
async fn a_database_in_use_is_refused_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    let first = open(&path).await.expect("a database");
    let error = open(&path).await.expect_err("in use");
    assert!(matches!(error, SqliteOpenError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains("a.db.lock"), "{error}");
    first.close().await;
    open(&path).await.expect("free again").close().await;
}

#[cfg(unix)]
#[tokio::test]
async fn another_name_of_the_same_file_is_refused_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    let first = open(&path).await.expect("a database");
    let link = directory.path().join("b.db");
    std::os::unix::fs::symlink(&path, &link).expect("a link");
    assert!(matches!(open(&link).await, Err(SqliteOpenError::InUse { .. })));
    drop(first);
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    let backend = open(directory.path().join("a.db")).await.expect("a database");
    publish(&backend).await;
    for name in ["a.db", "a.db-wal", "a.db-shm", "a.db.lock"] {
        let mode = fs::metadata(directory.path().join(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_backend_that_is_dropped_frees_its_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    let first = open(&path).await.expect("a database");
    publish(&first).await;
    drop(first);
    let second = loop {
        match open(&path).await {
            Err(SqliteOpenError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(2)).await,
            result => break result.expect("a database"),
        }
    };
    second.flow(FLOW, PROJECT).await.expect("what was written");
}

#[tokio::test]
async fn opening_again_migrates_nothing_and_keeps_everything() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    let first = open(&path).await.expect("a database");
    publish(&first).await;
    first.close().await;
    for _ in 0..2 {
        let again = open(&path).await.expect("a database");
        again.flow(FLOW, PROJECT).await.expect("the flow");
        again.close().await;
    }
}

#[tokio::test]
async fn a_file_of_another_kind_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notes.db");
    fs::write(&path, "These are my notes, and no database at all.\n".repeat(100)).expect("a file");
    let error = open(&path).await.expect_err("no database");
    assert!(matches!(error, SqliteOpenError::NotADatabase { .. }), "{error:?}");
    assert!(error.to_string().contains("notes.db"), "{error}");
    let kept = fs::read_to_string(&path).expect("the file");
    assert!(kept.starts_with("These are my notes"), "the file was changed");
}

#[tokio::test]
async fn a_damaged_database_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    open(&path).await.expect("a database").close().await;
    let mut bytes = fs::read(&path).expect("the file");
    // Keep the header; overwrite the root page of the schema.
    bytes[100..4096].fill(0xa5);
    fs::write(&path, bytes).expect("damage");
    let error = open(&path).await.expect_err("damaged");
    assert!(matches!(error, SqliteOpenError::NotADatabase { .. }), "{error:?}");
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let error = open(directory.path().join("no/such/a.db")).await.expect_err("no directory");
    assert!(matches!(error, SqliteOpenError::Io { .. }), "{error:?}");
    assert!(error.to_string().contains("a.db"), "{error}");
}

#[tokio::test]
async fn a_bad_operation_fails_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = Arc::new(open(directory.path().join("a.db")).await.expect("a database"));
    publish(&backend).await;
    backend.accept(accept(50, None), &[]).await.expect("run 50 exists");
    // All are polled before the task that writes runs, so they share its next batch. One breaks a constraint, two are
    // refused, and the others must neither fail nor happen twice.
    let mut work: Vec<_> = (1..=100_u128).map(|run| accept(run, None)).collect();
    work.push(accept(200, Some(1)));
    work.push(accept(201, Some(1)));
    let mut stale = accept(202, None);
    stale.generation = 9;
    work.push(stale);
    let calls = work.iter().map(|accept| backend.accept(accept.clone(), &[]));
    let answers = at_once(calls).await;
    for (accept, answer) in work.iter().zip(answers) {
        match accept.run.id.as_u128() {
            50 => assert!(matches!(answer, Err(StoreError::AlreadyExists { .. })), "{answer:?}"),
            201 => assert_eq!(answer.expect("an answer"), Accepted::Duplicate(RunId::from_u128(200))),
            202 => assert_eq!(answer.expect("an answer"), Accepted::Stale),
            run => assert_eq!(answer.expect("an answer"), Accepted::Created { leased: true }, "{run}"),
        }
    }
    let page = backend.runs(RunFilter::default(), PROJECT, &PageRequest::first(500)).await.expect("a page");
    assert_eq!(page.items.len(), 101);
}

#[tokio::test]
async fn a_number_sqlite_cannot_hold_fails_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = open(directory.path().join("a.db")).await.expect("a database");
    publish(&backend).await;
    let mut huge = accept(1, None);
    huge.generation = u64::MAX;
    let work = [huge, accept(2, None)];
    let answers = futures_util::future::join_all(work.map(|accept| backend.accept(accept, &[]))).await;
    let [bad, good] = &answers[..] else { unreachable!("two answers") };
    assert!(matches!(bad, Err(StoreError::Backend(_))), "{bad:?}");
    assert!(matches!(good, Ok(Accepted::Created { .. })), "{good:?}");
}

#[tokio::test]
async fn closing_completes_what_was_handed_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    let backend = Arc::new(open(&path).await.expect("a database"));
    publish(&backend).await;
    let calls = (0..1_000_u128).map(|run| backend.accept(accept(run, None), &[])).collect::<Vec<_>>();
    let (answers, ()) = futures_util::future::join(futures_util::future::join_all(calls), backend.close()).await;
    assert!(answers.iter().all(Result::is_ok));
    let after = backend.accept(accept(2_000, None), &[]).await;
    assert!(matches!(after, Err(StoreError::Unavailable(_))), "{after:?}");
    assert!(matches!(backend.run(RunId::from_u128(1), PROJECT).await, Err(StoreError::Unavailable(_))));
    backend.close().await;
    assert!(!directory.path().join("a.db-wal").exists(), "the log was not folded in");
    let again = open(&path).await.expect("a database");
    let claimed = again
        .claim(ClaimRequest { limit: 2_000, lease: Duration::from_secs(1), per_project: 2_000, total: 2_000 })
        .await
        .expect("an answer");
    assert_eq!(claimed.len(), 1_000);
}

/// Copies the files of a database again and again while it is written: each copy is what the next process may find after
/// this one died at that moment, with a commit cut off in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_process_loses_nothing_acknowledged() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    let backend = Arc::new(open(&path).await.expect("a database"));
    publish(&backend).await;
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..8).map(|_| AtomicU64::new(0)).collect());
    let mut clients = Vec::new();
    for client in 0..8_usize {
        let (backend, stop, acknowledged) = (Arc::clone(&backend), Arc::clone(&stop), Arc::clone(&acknowledged));
        clients.push(tokio::spawn(async move {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                let run = run_number(client, count);
                backend.accept(accept(run, None), &[]).await.expect("accepted");
                backend.commit(end(run, 1), &[]).await.expect("ended");
                count += 1;
                acknowledged[client].store(count, Ordering::SeqCst);
            }
        }));
    }
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        let before: Vec<u64> = acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        let copy = tempfile::tempdir().expect("a directory");
        copy_files(&path, copy.path());
        let found = open(copy.path().join("a.db")).await.expect("what a crash leaves");
        for (client, count) in before.iter().enumerate() {
            for number in 0..*count {
                let run = RunId::from_u128(run_number(client, number));
                let stored = found.run(run, PROJECT).await.expect("an acknowledged run");
                assert_eq!(stored.status, RunStatus::Succeeded, "client {client} run {number}");
                assert_eq!(found.journal(run, PROJECT).await.expect("its journal").len(), 2);
            }
        }
        found.close().await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client");
    }
    assert!(acknowledged.iter().all(|count| count.load(Ordering::SeqCst) > 0));
}

fn run_number(client: usize, count: u64) -> u128 {
    (client as u128 + 1) << 64 | u128::from(count)
}

/// Both files as they were at one moment: the database only changes when the log is folded into it, so if it is the same
/// before and after the log was read, the two belong together.
fn copy_files(path: &Path, to: &Path) {
    let log = PathBuf::from(format!("{}-wal", path.display()));
    loop {
        let database = fs::read(path).expect("the database");
        let frames = fs::read(&log).expect("the log");
        if fs::read(path).expect("the database") == database {
            fs::write(to.join("a.db"), database).expect("a copy");
            fs::write(to.join("a.db-wal"), frames).expect("a copy");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_from_many_threads_make_one_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = Arc::new(open(directory.path().join("a.db")).await.expect("a database"));
    publish(&backend).await;
    for round in 0..10_u8 {
        let calls = (0..16_u128).map(|number| {
            let backend = Arc::clone(&backend);
            let run = u128::from(round) << 64 | number;
            tokio::spawn(async move { (run, backend.accept(accept(run, Some(round)), &[]).await.expect("an answer")) })
        });
        let answers = futures_util::future::join_all(calls.collect::<Vec<_>>()).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("a task")).collect();
        let created: Vec<u128> =
            answers.iter().filter(|(_, a)| matches!(a, Accepted::Created { .. })).map(|(run, _)| *run).collect();
        let [winner] = created[..] else { unreachable!("one run: {created:?}") };
        let duplicate = Accepted::Duplicate(RunId::from_u128(winner));
        assert!(answers.iter().all(|(run, answer)| *run == winner || *answer == duplicate), "{answers:?}");
    }
}

#[tokio::test]
async fn a_backend_can_be_opened_from_a_spawned_task() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    let backend = tokio::spawn(async move { open(path).await }).await.expect("a task").expect("a database");
    assert!(format!("{backend:?}").contains("a.db"));
}

/// The exact tables and rows of the first release, as it left them when it was killed.
#[tokio::test]
async fn a_database_of_the_first_release_goes_forward() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    let old = rusqlite::Connection::open(&path).expect("a database");
    old.execute_batch(include_str!("fixtures/sqlite_v1.sql")).expect("the tables of the first release");
    drop(old);
    for opened in 0..2 {
        let backend = open(&path).await.expect("a database that goes forward");
        let project = backend.project(PROJECT).await.expect("the project");
        assert_eq!(project.share, ProjectShare::default());
        backend.flow(FLOW, PROJECT).await.expect("the flow");
        backend.flow_version(VERSION, PROJECT).await.expect("the version");
        backend.connection(LookupHash([3; 32]), PROJECT.into()).await.expect("the connection");
        assert_eq!(backend.keys(PROJECT.into()).await.expect("keys").len(), 1);
        assert_eq!(backend.audit(PROJECT.into(), &PageRequest::default()).await.expect("a page").items.len(), 4);
        let runs = backend.runs(RunFilter::default(), PROJECT, &PageRequest::default()).await.expect("a page").items;
        let statuses: Vec<RunStatus> = runs.iter().map(|run| run.status).collect();
        assert_eq!(statuses, [RunStatus::Succeeded, RunStatus::Queued, RunStatus::Queued], "opened {opened} times");
        for (run, entries) in [(1, 2), (2, 2), (3, 1)] {
            let journal = backend.journal(RunId::from_u128(run), PROJECT).await.expect("a journal");
            assert_eq!(journal.len(), entries, "run {run}");
        }
        let again = backend.accept(accept(9, Some(2)), &[]).await.expect("an answer");
        assert_eq!(again, Accepted::Duplicate(RunId::from_u128(2)));
        let late = backend.commit(end(2, 2), &[]).await;
        assert!(matches!(late, Err(StoreError::Fenced)), "the process that held it is gone: {late:?}");
        backend.close().await;
    }
    let backend = open(&path).await.expect("a database");
    let request = ClaimRequest { limit: 9, lease: Duration::from_secs(9), per_project: 9, total: 9 };
    let claimed = backend.claim(request).await.expect("a claim");
    let ids: Vec<u128> = claimed.iter().map(|claimed| claimed.lease.run.as_u128()).collect();
    assert_eq!(ids, [2, 3]);
}

/// Bytes that are in no other key: those of this number, of the wrapping of this number.
fn wrapped(number: u128, wrapping: u8) -> Vec<u8> {
    let mut state = number << 8 | u128::from(wrapping) | 1 << 7;
    let byte = || {
        state = state.wrapping_mul(0xda94_2042_e4dd_58b5_2360_ed05_1fc6_5da5).wrapping_add(0x1234_5678_9abc_def1);
        (state >> 96) as u8
    };
    std::iter::repeat_with(byte).take(212).collect()
}

fn subject_key(number: u128, wrapping: u8) -> WrappedSubjectKey {
    let mut subject = [0; 32];
    subject[16..].copy_from_slice(&number.to_be_bytes());
    WrappedSubjectKey {
        id: KeyId::from_u128(number),
        scope: PROJECT.into(),
        subject: LookupHash(subject),
        root: KeyId::from_u128(u128::from(wrapping)),
        created: AT,
        wrapped: Sealed::from_bytes(wrapped(number, wrapping).into()),
    }
}

async fn accept_about(backend: &SqliteBackend, number: u128) {
    let plain = accept(number, None);
    let run = RunRecord { subject: Some(KeyId::from_u128(number)), ..plain.run };
    let accepted = backend.accept(Accept { run, subject_key: Some(subject_key(number, 1)), ..plain }, &[]).await;
    assert!(matches!(accepted, Ok(Accepted::Created { .. })), "{accepted:?}");
}

/// In which of the files any piece of the key is.
fn found(directory: &Path, key: &[u8]) -> Vec<String> {
    let mut files = Vec::new();
    for file in fs::read_dir(directory).expect("the directory") {
        let file = file.expect("a file");
        if pieces_in_file(&file.path(), std::slice::from_ref(&key.to_vec())) > 0 {
            files.push(file.file_name().to_string_lossy().into_owned());
        }
    }
    files
}

/// How many pieces of these keys are in the files.
fn pieces_in(directory: &Path, keys: &[Vec<u8>]) -> usize {
    let files = fs::read_dir(directory).expect("the directory");
    files.map(|file| pieces_in_file(&file.expect("a file").path(), keys)).sum()
}

fn pieces_in_file(path: &Path, keys: &[Vec<u8>]) -> usize {
    let pieces: std::collections::HashSet<&[u8]> = keys.iter().flat_map(|key| key.chunks_exact(16)).collect();
    let bytes = fs::read(path).expect("its bytes");
    bytes.windows(16).filter(|window| pieces.contains(window)).count()
}

/// Keys are made, wrapped again and destroyed in any order, among other writes: of a destroyed one nothing is left in database
/// or log, in none of its wrappings.
#[tokio::test]
async fn a_destroyed_subject_key_is_in_no_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    let backend = open(&path).await.expect("a database");
    publish(&backend).await;
    for number in 1..=120 {
        accept_about(&backend, number).await;
        if number % 3 == 0 {
            let again = subject_key(number, 2);
            backend.replace_subject_key(&subject_key(number, 1), again).await.expect("wrapped again");
        }
        if number % 7 == 0 {
            backend.commit(end(number, 1), &[]).await.expect("ended");
        }
    }
    let (mut gone, mut kept) = (Vec::new(), Vec::new());
    for number in 1..=120_u128 {
        let last = if number % 3 == 0 { 2 } else { 1 };
        if number % 5 >= 2 && number <= 115 {
            kept.push(wrapped(number, last));
            continue;
        }
        gone.extend((1..=last).map(|wrapping| wrapped(number, wrapping)));
        if number % 50 == 1 {
            assert!(!found(directory.path(), &wrapped(number, last)).is_empty(), "it was never there");
        }
        backend.erase_subject(KeyId::from_u128(number), PROJECT, AT, &[]).await.expect("destroyed");
        if number % 2 == 0 {
            accept_about(&backend, 1_000 + number).await;
        }
    }
    for erasure in backend.unfinished_erasures(1_000).await.expect("erasures") {
        assert!(backend.finish_erasure(erasure.key, PROJECT).await.expect("finished").finished);
    }
    assert_eq!(pieces_in(directory.path(), &gone), 0, "a destroyed key is still there");
    assert!(pieces_in(directory.path(), &kept) >= kept.len() * 13, "a key that was not destroyed is gone");
    let log = fs::metadata(directory.path().join("a.db-wal")).expect("the log").len();
    assert!(log < 64 << 10, "the log was not truncated: {log} bytes");
    backend.close().await;
    assert_eq!(pieces_in(directory.path(), &gone), 0);
}

/// A process that dies between the destruction and its end leaves the key in the log at most, and the next one sees to that.
#[tokio::test]
async fn a_destruction_that_was_cut_off_is_finished_by_the_next_process() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    let backend = open(&path).await.expect("a database");
    publish(&backend).await;
    accept_about(&backend, 1).await;
    accept_about(&backend, 2).await;
    backend.erase_subject(KeyId::from_u128(1), PROJECT, AT, &[]).await.expect("destroyed");
    assert!(!found(directory.path(), &wrapped(1, 1)).is_empty(), "this test shows nothing");

    let copy = tempfile::tempdir().expect("a directory");
    copy_files(&path, copy.path());
    let next = open(copy.path().join("a.db")).await.expect("what a crash leaves");
    assert!(matches!(next.subject_key_by_id(KeyId::from_u128(1), PROJECT).await, Err(StoreError::NotFound { .. })));
    let unfinished = next.unfinished_erasures(10).await.expect("erasures");
    assert_eq!(unfinished.iter().map(|one| one.key.as_u128()).collect::<Vec<_>>(), [1]);
    assert_eq!(next.run(RunId::from_u128(1), PROJECT).await.expect("the run").status, RunStatus::Canceled);
    next.finish_erasure(KeyId::from_u128(1), PROJECT).await.expect("finished");
    assert_eq!(found(copy.path(), &wrapped(1, 1)), [] as [&str; 0]);
    assert_eq!(found(copy.path(), &wrapped(2, 1)), ["a.db"]);
    assert_eq!(next.subject_key_by_id(KeyId::from_u128(2), PROJECT).await.expect("the other"), subject_key(2, 1));
    next.close().await;
}
