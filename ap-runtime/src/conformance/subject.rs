//! Rules for data subjects: their keys, and what an erasure does.

use ap_core::{
    id::KeyId,
    run::RunStatus,
    store::{Entity, StoreError},
};
use ap_crypto::subject::WrappedSubjectKey;

use super::{
    Harness,
    sample::{
        END, LEASE, PARK, START, accept, accept_about, accept_once, at, audit, change, create, entry, file, hash, job,
        jobs_of, lease, open, project_id, published, ready, running, sealed, signal, status, subject_key, trail,
        worker,
    },
};
use crate::store::{
    Accept, Accepted, Backend, ERASE_BATCH, Erasure, FlowRecord, Gate, Lease, RunChange, RunCommit, RunControl,
    RunRecord, Signaled,
};

/// The key that comes with the first run is the subject's from then on.
pub async fn a_subject_has_one_key_that_comes_with_its_first_run(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let key = subject_key(1, 1, flow.project);
    assert_eq!(backend.subject_key(key.subject, flow.project).await.expect("an answer"), None);
    create(backend, accept_about(1, &key, &flow)).await;
    create(backend, accept_about(2, &key, &flow)).await;
    create(backend, Accept { subject_key: None, ..accept_about(3, &key, &flow) }).await;
    assert_eq!(backend.subject_key(key.subject, flow.project).await.expect("an answer"), Some(key.clone()));
    assert_eq!(backend.subject_key_by_id(key.id, flow.project).await.expect("the key"), key);
    for number in [1, 2, 3] {
        let run = backend.run(lease(number, flow.project, 0).run, flow.project).await.expect("the run");
        assert_eq!(run.subject, Some(key.id), "{number}");
    }
    create(backend, accept(4, &flow)).await;
    assert_eq!(backend.run(lease(4, flow.project, 0).run, flow.project).await.expect("the run").subject, None);
    let page = backend.runs(Default::default(), flow.project, &Default::default()).await.expect("a page");
    assert_eq!(page.items.iter().filter(|run| run.subject == Some(key.id)).count(), 3);
    // A run names the key that comes with it, of its own project.
    let other = Accept { subject_key: Some(subject_key(2, 2, flow.project)), ..accept_about(5, &key, &flow) };
    assert!(matches!(backend.accept(other, &[]).await, Err(StoreError::Backend(_))));
    let elsewhere = Accept { subject_key: Some(subject_key(1, 1, project_id(2))), ..accept_about(5, &key, &flow) };
    assert!(matches!(backend.accept(elsewhere, &[]).await, Err(StoreError::Backend(_))));
}

/// A run whose key is not its subject's, or not there any more, is refused and changes nothing.
pub async fn a_run_about_a_subject_needs_its_key_of_that_moment(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let (first, rival) = (subject_key(1, 1, flow.project), subject_key(2, 1, flow.project));
    let unknown = Accept { subject_key: None, ..accept_about(1, &first, &flow) };
    assert!(is_conflict(&backend.accept(unknown, &[audit(1, flow.project)]).await));
    create(backend, accept_about(1, &first, &flow)).await;
    assert!(is_conflict(&backend.accept(accept_about(2, &rival, &flow), &[audit(1, flow.project)]).await));
    backend.erase_subject(first.id, flow.project, START, &[]).await.expect("erased");
    let late = accept_about(2, &first, &flow);
    for late in [Accept { subject_key: None, ..late.clone() }, late] {
        assert!(is_conflict(&backend.accept(late, &[audit(1, flow.project)]).await), "a destroyed key comes back");
    }
    assert_eq!(trail(backend, flow.project).await, [] as [u128; 0]);
    assert!(backend.run(lease(2, flow.project, 0).run, flow.project).await.is_err());
    // The first delivery decides, whatever became of the subject.
    create(backend, accept_once(3, &flow, 5)).await;
    let again = Accept { dedupe: accept_once(4, &flow, 5).dedupe, ..accept_about(4, &rival, &flow) };
    let answer = backend.accept(again, &[]).await.expect("an answer");
    assert_eq!(answer, Accepted::Duplicate(lease(3, flow.project, 0).run));
}

/// What is not created leaves no key behind.
pub async fn a_refused_run_brings_no_key(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let key = subject_key(1, 1, flow.project);
    let gate = Some(Gate { key: hash(9), limit: 1, skip: true });
    let control = RunControl { gate, ..RunControl::default() };
    create(backend, Accept { control, ..accept(1, &flow) }).await;
    let skipped = backend.accept(Accept { control, ..accept_about(2, &key, &flow) }, &[]).await.expect("an answer");
    assert_eq!(skipped, Accepted::Skipped);
    let stale = Accept { generation: 9, ..accept_about(2, &key, &flow) };
    assert_eq!(backend.accept(stale, &[]).await.expect("an answer"), Accepted::Stale);
    assert_eq!(backend.subject_key(key.subject, flow.project).await.expect("an answer"), None);
}

/// An erased key is gone, with its audit record; what it covered is told, once and for all.
pub async fn an_erased_key_is_gone_and_what_it_covered_is_noted(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let project = flow.project;
    let (key, other) = (subject_key(1, 1, project), subject_key(2, 2, project));
    let leased = Accept { lease: Some(LEASE), ..accept_about(1, &key, &flow) };
    create(backend, leased).await;
    let mut commit = RunCommit::new(lease(1, project, 1), END).with_entries(vec![entry(1), entry(2)]);
    commit.files.push(file(1, project, Some(lease(1, project, 1))));
    backend.commit(commit, &[]).await.expect("a commit");
    create(backend, accept_about(2, &key, &flow)).await;
    create(backend, accept_about(3, &other, &flow)).await;

    let erasure = backend.erase_subject(key.id, project, at(7), &[audit(1, project)]).await.expect("erased");
    let expected = Erasure {
        key: key.id,
        project,
        subject: key.subject,
        root: key.root,
        created: key.created,
        at: at(7),
        runs: 2,
        entries: 4,
        files: 1,
        finished: false,
    };
    assert_eq!(erasure, expected);
    assert_eq!(backend.subject_key(key.subject, project).await.expect("an answer"), None);
    assert!(is_gone(&backend.subject_key_by_id(key.id, project).await));
    assert_eq!(trail(backend, project).await, [1]);
    assert!(is_gone(&backend.erase_subject(key.id, project, at(8), &[audit(2, project)]).await));
    assert_eq!(trail(backend, project).await, [1]);

    assert_eq!(backend.unfinished_erasures(10).await.expect("erasures"), std::slice::from_ref(&expected));
    let finished = Erasure { finished: true, ..expected };
    for _ in 0..2 {
        assert_eq!(backend.finish_erasure(key.id, project).await.expect("finished"), finished);
    }
    assert_eq!(backend.unfinished_erasures(10).await.expect("erasures"), []);
    assert_eq!(backend.erasure(key.id, project).await.expect("the erasure"), finished);
    assert_eq!(backend.last_erasure(key.subject, project).await.expect("an answer"), Some(finished));
    assert_eq!(backend.last_erasure(other.subject, project).await.expect("an answer"), None);
    assert_eq!(backend.subject_key_by_id(other.id, project).await.expect("the other's key"), other);
    assert!(is_gone(&backend.erasure(other.id, project).await));
    assert!(is_gone(&backend.finish_erasure(other.id, project).await));
    // The rows stay: what says that there were runs is no data of the subject.
    assert_eq!(backend.journal(lease(1, project, 0).run, project).await.expect("the journal").len(), 3);
}

/// Runs of the subject end, whatever state they are in, and what they held is free for others.
pub async fn an_erasure_ends_the_runs_of_its_subject_and_no_other(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let project = flow.project;
    let (key, other) = (subject_key(1, 1, project), subject_key(2, 2, project));
    let held = paused_queued_and_running(backend, &flow, &key, 10).await;
    let theirs = paused_queued_and_running(backend, &flow, &other, 20).await;
    let ended = running(backend, 30, &flow).await;
    change(backend, ended, END).await;
    // The running one holds a job and the place before a gate, and was told something.
    let gate = Some(Gate { key: hash(9), limit: 1, skip: false });
    let gated = |number, from: Accept| Accept {
        control: RunControl { gate, ..RunControl::default() },
        lease: Some(LEASE),
        ..Accept { run: RunRecord { id: lease(number, project, 0).run, ..from.run.clone() }, ..from }
    };
    create(backend, gated(40, accept_about(40, &key, &flow))).await;
    create(backend, gated(41, accept(41, &flow))).await;
    let holder = lease(40, project, 1);
    let mut commit = RunCommit::new(holder, RunChange::Stay);
    commit.jobs.push(job(1, 1));
    backend.commit(commit, &[]).await.expect("a commit");
    assert_eq!(backend.take_jobs(jobs_of(1, 1, holder)).await.expect("jobs").jobs.len(), 1);
    assert_eq!(backend.signal(signal(1, 1, holder), &[]).await.expect("an answer"), Signaled::Delivered);

    backend.erase_subject(key.id, project, START, &[]).await.expect("erased");
    for lease in held.into_iter().chain([holder]) {
        let run = backend.run(lease.run, project).await.expect("the run");
        assert_eq!(run.status, RunStatus::Canceled, "{lease:?}");
        assert!(run.finished.is_some(), "{lease:?}");
        let late = RunCommit::new(lease, RunChange::Stay).with_entries(vec![entry(9)]);
        assert!(matches!(backend.commit(late, &[]).await, Err(StoreError::Fenced)), "{lease:?}");
        let over = backend.signal(signal(900, 900, lease), &[]).await.expect("an answer");
        assert_eq!(over, Signaled::Over, "{lease:?}");
        assert_eq!(backend.signals(lease.run, project).await.expect("signals"), []);
    }
    let beat = backend.heartbeat(&worker(), &[holder], LEASE).await.expect("an answer");
    assert_eq!(beat.lost, [holder]);
    assert_eq!(status(backend, theirs[0]).await, RunStatus::Paused);
    assert_eq!(status(backend, theirs[2]).await, RunStatus::Running);
    assert_eq!(status(backend, ended).await, RunStatus::Succeeded);
    // The other's queued run, and the one that waited before the gate, are all that can be claimed.
    assert_eq!(ready(backend).await, [21, 41]);
    let next = lease(41, project, 1);
    assert_eq!(backend.take_jobs(jobs_of(1, 1, next)).await.expect("jobs").jobs.len(), 1, "the job went back");
}

/// More runs than one transaction ends are ended by further ones.
pub async fn an_erasure_ends_many_runs_in_batches(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let key = subject_key(1, 1, flow.project);
    let runs = u128::from(ERASE_BATCH) + 3;
    for number in 1..=runs {
        create(backend, accept_about(number, &key, &flow)).await;
    }
    assert!(is_gone(&backend.end_erased_runs(key.id, flow.project).await), "not erased yet");
    let erasure = backend.erase_subject(key.id, flow.project, START, &[]).await.expect("erased");
    assert_eq!(u128::from(erasure.runs), runs);
    assert_eq!(backend.end_erased_runs(key.id, flow.project).await.expect("a number"), 3);
    assert_eq!(backend.end_erased_runs(key.id, flow.project).await.expect("a number"), 0);
    assert_eq!(ready(backend).await, [] as [u128; 0]);
}

/// Whoever asks for another project finds neither key nor erasure.
pub async fn an_erasure_stays_in_its_project(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let (mine, theirs) = (published(backend, 1).await, published(backend, 2).await);
    let (key, same) = (subject_key(1, 1, mine.project), subject_key(1, 1, theirs.project));
    create(backend, accept_about(1, &key, &mine)).await;
    assert!(is_gone(&backend.subject_key_by_id(key.id, theirs.project).await));
    assert_eq!(backend.subject_key(key.subject, theirs.project).await.expect("an answer"), None);
    assert!(is_gone(&backend.erase_subject(key.id, theirs.project, START, &[audit(1, theirs.project)]).await));
    // Equal ids and hashes in two projects are two keys.
    create(backend, accept_about(1, &same, &theirs)).await;
    backend.erase_subject(key.id, mine.project, START, &[]).await.expect("erased");
    assert_eq!(backend.subject_key_by_id(key.id, theirs.project).await.expect("the other's"), same);
    assert_eq!(status(backend, lease(1, theirs.project, 0)).await, RunStatus::Queued);
    assert_eq!(status(backend, lease(1, mine.project, 0)).await, RunStatus::Canceled);
    assert!(is_gone(&backend.erasure(key.id, theirs.project).await));
    assert!(is_gone(&backend.finish_erasure(key.id, theirs.project).await));
    assert!(is_gone(&backend.end_erased_runs(key.id, theirs.project).await));
    assert_eq!(backend.last_erasure(key.subject, theirs.project).await.expect("an answer"), None);
    assert_eq!(trail(backend, theirs.project).await, [] as [u128; 0]);
}

/// A subject that comes back gets a key of its own, and a second erasure.
pub async fn an_erased_subject_can_have_another_key(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    for number in 1..=3 {
        let key = subject_key(number, 1, flow.project);
        create(backend, accept_about(number, &key, &flow)).await;
        assert_eq!(backend.subject_key(key.subject, flow.project).await.expect("an answer"), Some(key.clone()));
        let time = at(u64::try_from(number).expect("small"));
        let erasure = backend.erase_subject(key.id, flow.project, time, &[]).await.expect("erased");
        assert_eq!(erasure.runs, 1);
        assert_eq!(backend.last_erasure(key.subject, flow.project).await.expect("an answer"), Some(erasure));
    }
    assert_eq!(backend.unfinished_erasures(2).await.expect("erasures").len(), 2);
    let keys: Vec<u128> =
        backend.unfinished_erasures(10).await.expect("erasures").iter().map(|one| one.key.as_u128()).collect();
    assert_eq!(keys, [1, 2, 3], "the oldest first");
}

/// What an erasure did stays done over a crash, and what it did not finish is found.
pub async fn an_erasure_survives_a_restart_half_way(harness: &impl Harness) {
    let mut bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let key = subject_key(1, 1, flow.project);
    let held = paused_queued_and_running(&*bench.backend, &flow, &key, 10).await;
    bench.backend.erase_subject(key.id, flow.project, START, &[audit(1, flow.project)]).await.expect("erased");
    bench.backend = harness.restart(&mut bench.guard).await;
    let backend = &*bench.backend;
    assert_eq!(backend.subject_key(key.subject, flow.project).await.expect("an answer"), None);
    for lease in held {
        assert_eq!(status(backend, lease).await, RunStatus::Canceled);
    }
    assert_eq!(ready(backend).await, [] as [u128; 0]);
    assert_eq!(trail(backend, flow.project).await, [1]);
    assert_eq!(backend.unfinished_erasures(10).await.expect("erasures").len(), 1);
    assert!(backend.finish_erasure(key.id, flow.project).await.expect("finished").finished);
    bench.backend = harness.restart(&mut bench.guard).await;
    assert!(bench.backend.erasure(key.id, flow.project).await.expect("the erasure").finished);
}

/// A subflow is about whom its parent is about, and ends with it.
pub async fn a_run_that_a_run_starts_shares_its_key(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let key = subject_key(1, 1, flow.project);
    create(backend, Accept { lease: Some(LEASE), ..accept_about(1, &key, &flow) }).await;
    let parent = lease(1, flow.project, 1);
    let child = Accept { subject_key: None, ..accept_about(2, &key, &flow) };
    let mut commit = RunCommit::new(parent, PARK);
    commit.starts.push((Accept { run: RunRecord { parent: Some(parent.run), ..child.run }, ..child }, Vec::new()));
    backend.commit(commit, &[]).await.expect("a commit");
    let erasure = backend.erase_subject(key.id, flow.project, START, &[]).await.expect("erased");
    assert_eq!(erasure.runs, 2);
    assert_eq!(status(backend, parent).await, RunStatus::Canceled);
    assert_eq!(status(backend, lease(2, flow.project, 0)).await, RunStatus::Canceled);
}

/// All keys of all projects are read a page at a time, and each is replaced while it is the one that was read.
pub async fn subject_keys_are_paged_and_replaced_while_unchanged(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let mut expected = Vec::new();
    for project in [1, 2] {
        let flow = published(backend, project).await;
        for number in 1..=3 {
            let key = subject_key(number, number, flow.project);
            create(backend, accept_about(number, &key, &flow)).await;
            expected.push(key);
        }
    }
    backend.erase_subject(KeyId::from_u128(2), project_id(1), START, &[]).await.expect("erased");
    expected.remove(1);
    let (mut found, mut behind): (Vec<WrappedSubjectKey>, _) = (Vec::new(), None);
    loop {
        let page = backend.subject_key_page(behind, 2).await.expect("a page");
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        behind = Some((last.scope.project().expect("a project"), last.id));
        found.extend(page);
    }
    assert_eq!(found, expected);

    let stored = &expected[0];
    let next = WrappedSubjectKey { root: KeyId::from_u128(9), wrapped: sealed(&"x".repeat(94)), ..stored.clone() };
    let stale = WrappedSubjectKey { wrapped: sealed("stale"), ..stored.clone() };
    assert!(is_conflict(&backend.replace_subject_key(&stale, next.clone()).await));
    backend.replace_subject_key(stored, next.clone()).await.expect("replaced");
    assert_eq!(backend.subject_key_by_id(stored.id, project_id(1)).await.expect("the key"), next);
    assert!(is_conflict(&backend.replace_subject_key(stored, next.clone()).await));
    let other = WrappedSubjectKey { subject: hash(77), ..next.clone() };
    assert!(matches!(backend.replace_subject_key(&next, other).await, Err(StoreError::Backend(_))));
    backend.erase_subject(next.id, project_id(1), START, &[]).await.expect("erased");
    let erasure = backend.erasure(next.id, project_id(1)).await.expect("the erasure");
    assert_eq!(erasure.root, KeyId::from_u128(9), "the last one it was wrapped under");
    assert!(is_gone(&backend.replace_subject_key(&next, next.clone()).await));
}

/// Of an acceptance and an erasure at the same moment, one comes first: a run that was accepted is ended, or none was.
pub async fn an_acceptance_and_an_erasure_never_miss_each_other(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let key = subject_key(1, 1, flow.project);
    create(backend, accept_about(1, &key, &flow)).await;
    let accepts = (2..20).map(|number| backend.accept(accept_about(number, &key, &flow), &[]));
    let (erased, answers) =
        tokio::join!(backend.erase_subject(key.id, flow.project, START, &[]), futures_util::future::join_all(accepts));
    let erasure = erased.expect("erased");
    let created = answers.iter().filter(|answer| matches!(answer, Ok(Accepted::Created { .. }))).count() as u64;
    for answer in &answers {
        assert!(matches!(answer, Ok(Accepted::Created { .. })) || is_conflict(answer), "{answer:?}");
    }
    assert_eq!(erasure.runs, 1 + created);
    assert_eq!(ready(backend).await, [] as [u128; 0]);
    assert_eq!(backend.subject_key(key.subject, flow.project).await.expect("an answer"), None);
}

/// Three runs about the subject, from this number on: one paused, one queued, one running. The epochs are those they have.
async fn paused_queued_and_running(
    backend: &dyn Backend,
    flow: &FlowRecord,
    key: &WrappedSubjectKey,
    first: u128,
) -> [Lease; 3] {
    let project = flow.project;
    for number in [first, first + 2] {
        create(backend, Accept { lease: Some(LEASE), ..accept_about(number, key, flow) }).await;
    }
    change(backend, lease(first, project, 1), PARK).await;
    create(backend, accept_about(first + 1, key, flow)).await;
    [lease(first, project, 1), lease(first + 1, project, 0), lease(first + 2, project, 1)]
}

fn is_conflict<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict { entity: Entity::Subject, .. }))
}

fn is_gone<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::NotFound { entity: Entity::Subject }))
}
