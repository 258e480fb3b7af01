//! Rules for what a commit does beyond its own run: runs it starts, and the whole of it or nothing.

use ap_core::{
    id::{FlowId, FlowVersionId, RunId},
    run::RunStatus,
    store::{Entity, PageRequest, StoreError},
};

use super::{
    Harness,
    sample::{
        END, LEASE, PARK, SECOND, START, accept, accept_leased, accept_once, at, audit, change, changed_flow,
        claim_all, create, entry, file, hash, job, lease, open, published, ready, running, signal, status, trail,
    },
};
use crate::store::{
    Accept, Backend, FlowRecord, Gate, JobEnd, Lease, Pace, QueueCounts, RunChange, RunCommit, RunFilter,
};

/// A commit that starts these runs.
fn starting(lease: Lease, starts: impl IntoIterator<Item = Accept>) -> RunCommit {
    let starts = starts.into_iter().map(|mut start| {
        start.run.parent = Some(lease.run);
        (start, Vec::new())
    });
    RunCommit { starts: starts.collect(), ..RunCommit::new(lease, RunChange::Stay) }
}

/// The runs that a commit starts are there with it: queued, with their first entry and their audit records.
pub async fn a_commit_starts_runs(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let parent = running(backend, 1, &flow).await;
    let mut commit = starting(parent, [accept(2, &flow), accept(3, &flow)]).with_entries(vec![entry(1)]);
    commit.starts[0].1 = vec![audit(2, flow.project)];
    commit.starts[1].1 = vec![audit(3, flow.project)];
    commit.change = PARK;
    backend.commit(commit.clone(), &[audit(1, flow.project)]).await.expect("a commit");
    for (start, _) in &commit.starts {
        assert_eq!(backend.run(start.run.id, flow.project).await.expect("the run"), start.run);
        assert_eq!(backend.journal(start.run.id, flow.project).await.expect("the journal"), [entry(0)]);
    }
    assert_eq!(trail(backend, flow.project).await, [1, 2, 3]);
    assert_eq!(status(backend, parent).await, RunStatus::Paused);
    let children = RunFilter { parent: Some(parent.run), ..RunFilter::default() };
    let page = backend.runs(children, flow.project, &PageRequest::default()).await.expect("a page");
    assert_eq!(page.items.len(), 2);

    // A child tells its parent in the commit that ends it.
    let child = claim_all(backend).await[0];
    let commit = RunCommit { signals: vec![signal(1, 1, parent)], ..RunCommit::new(child, END) };
    backend.commit(commit, &[]).await.expect("a commit");
    assert_eq!(claim_all(backend).await, [lease(1, flow.project, 2)]);
    assert_eq!(backend.signals(parent.run, flow.project).await.expect("signals"), [signal(1, 1, parent)]);
}

/// A start goes by its flow as it is: another generation or version, or a flow that is disabled, refuses the whole commit.
pub async fn a_stale_start_refuses_the_commit(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let parent = running(backend, 1, &flow).await;
    let other = paused(backend, 2, &flow).await;
    let mut generation = accept(3, &flow);
    generation.generation = 2;
    let mut version = accept(3, &flow);
    version.run.version = FlowVersionId::from_u128(9);
    let mut missing = accept(3, &flow);
    missing.run.flow = FlowId::from_u128(9);
    for stale in [generation, version, missing] {
        let starts = starting(parent, [accept(4, &flow), stale]).starts;
        refuse(backend, RunCommit { starts, ..full_commit(parent, other, &flow) }, other, Entity::Flow).await;
    }
    let disabled = changed_flow(&flow, |flow| flow.enabled = false);
    backend.write_flow(disabled, &[]).await.expect("disabled");
    refuse(backend, full_commit(parent, other, &flow), other, Entity::Flow).await;
}

/// One id that is taken refuses the whole commit, whatever it is the id of.
pub async fn a_taken_id_refuses_the_commit(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let project = flow.project;
    let parent = running(backend, 1, &flow).await;
    let other = paused(backend, 2, &flow).await;
    let full = || full_commit(parent, other, &flow);
    let mut before = RunCommit::new(parent, RunChange::Stay);
    (before.jobs, before.files) = (vec![job(9, 9)], vec![file(9, project, Some(parent))]);
    backend.commit(before, &[]).await.expect("a commit");
    backend.append_audit(&[audit(99, project)]).await.expect("a record");

    refuse(backend, RunCommit { entries: vec![entry(0)], ..full() }, other, Entity::JournalEntry).await;
    refuse(backend, RunCommit { jobs: vec![job(8, 1), job(9, 1)], ..full() }, other, Entity::Job).await;
    refuse(backend, RunCommit { jobs: vec![job(8, 1), job(8, 2)], ..full() }, other, Entity::Job).await;
    let files = [8, 9].map(|number| file(number, project, Some(parent))).into();
    refuse(backend, RunCommit { files, ..full() }, other, Entity::File).await;
    let starts = starting(parent, [accept(4, &flow), accept(2, &flow)]).starts;
    refuse(backend, RunCommit { starts, ..full() }, other, Entity::Run).await;
    let starts = starting(parent, [accept(4, &flow), accept(4, &flow)]).starts;
    refuse(backend, RunCommit { starts, ..full() }, other, Entity::Run).await;
    let mut audited = full();
    audited.starts[0].1 = vec![audit(98, project), audit(99, project)];
    refuse(backend, audited, other, Entity::AuditRecord).await;
    let zombie = Lease { epoch: 7, ..parent };
    let fenced = backend.commit(full_commit(zombie, other, &flow), &[audit(1, project)]).await;
    assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    // Nothing of them is left, so all of it can still happen.
    backend.commit(full(), &[audit(1, project)]).await.expect("a commit");
    assert_eq!(trail(backend, project).await, [1, 50, 99]);
    assert_eq!(claim_all(backend).await, [lease(2, project, 2), lease(3, project, 1)]);
}

/// What a commit writes belongs to its run or to its project, and its starts wait for a worker.
pub async fn a_commit_stays_in_its_project(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let (flow, theirs) = (published(backend, 1).await, published(backend, 2).await);
    let parent = running(backend, 1, &flow).await;
    let victim = paused(backend, 2, &theirs).await;
    let stay = || RunCommit::new(parent, RunChange::Stay);
    let wrong = [
        RunCommit { files: vec![file(1, flow.project, None)], ..stay() },
        RunCommit { files: vec![file(1, theirs.project, Some(parent))], ..stay() },
        RunCommit { files: vec![file(1, flow.project, Some(lease(3, flow.project, 1)))], ..stay() },
        RunCommit { signals: vec![signal(1, 1, victim)], ..stay() },
        starting(parent, [accept(3, &theirs)]),
        starting(parent, [accept_once(3, &flow, 1)]),
        starting(parent, [accept_leased(3, &flow)]),
    ];
    for commit in wrong {
        let refused = backend.commit(commit.clone(), &[audit(1, flow.project)]).await;
        assert!(matches!(refused, Err(StoreError::Backend(_))), "{commit:?}: {refused:?}");
    }
    assert_eq!(trail(backend, flow.project).await, [0_u128; 0]);
    assert_eq!(backend.signals(victim.run, theirs.project).await.expect("signals"), []);
    assert_eq!(ready(backend).await, [0_u128; 0]);
}

/// A start is patient: where a delivery would be refused for the rate limit or skipped at the gate, it waits.
pub async fn a_start_waits_where_a_delivery_is_refused(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let parent = running(backend, 1, &flow).await;
    let paced = |number| {
        let mut start = accept(number, &flow);
        start.control.rate_limit = Some(Pace { key: hash(1), limit: 1, period: 5 * SECOND });
        start
    };
    let gated = |number| {
        let mut start = accept(number, &flow);
        start.control.gate = Some(Gate { key: hash(1), limit: 1, skip: true });
        start
    };
    let starts = [paced(2), paced(3), paced(4), gated(5), gated(6)];
    backend.commit(starting(parent, starts), &[]).await.expect("a commit");
    assert_eq!(ready(backend).await, [2, 5]);
    change(backend, lease(5, flow.project, 1), END).await;
    assert_eq!(ready(backend).await, [6]);
    for number in [3, 4] {
        bench.clock.advance(5 * SECOND);
        assert_eq!(ready(backend).await, [number]);
    }
    assert_eq!(LEASE, 30 * SECOND, "none of them was lost meanwhile");
}

/// When the end of a run makes room at a gate, what it starts stands in line with the others.
pub async fn a_start_does_not_push_in(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let gated = |number, seconds| {
        let mut accept = accept(number, &flow);
        accept.run.created = at(seconds);
        accept.control.gate = Some(Gate { key: hash(1), limit: 1, skip: false });
        accept
    };
    create(backend, gated(1, 1)).await;
    create(backend, gated(2, 3)).await;
    let parent = claim_all(backend).await[0];
    let commit = RunCommit { change: END, ..starting(parent, [gated(3, 2), gated(4, 4)]) };
    backend.commit(commit, &[]).await.expect("a commit");
    for number in [3, 2, 4] {
        assert_eq!(ready(backend).await, [number]);
        change(backend, lease(number, flow.project, 1), END).await;
    }
}

async fn paused(backend: &dyn Backend, number: u128, flow: &FlowRecord) -> Lease {
    let held = running(backend, number, flow).await;
    change(backend, held, PARK).await;
    held
}

/// A commit that does some of everything: it starts run 3 and wakes `other`.
fn full_commit(parent: Lease, other: Lease, flow: &FlowRecord) -> RunCommit {
    let mut commit = starting(parent, [accept(3, flow)]).with_entries(vec![entry(1)]);
    commit.starts[0].1 = vec![audit(50, flow.project)];
    commit.files = vec![file(1, flow.project, Some(parent))];
    commit.jobs = vec![job(1, 1), job(2, 2)];
    commit.signals = vec![signal(1, 1, other)];
    commit.job_ends = vec![(job(9, 9).id, JobEnd::Dead)];
    commit.change = RunChange::End { status: RunStatus::Failed, at: START };
    commit
}

/// Makes a commit that must be refused, and looks for what it may have left behind.
async fn refuse(backend: &dyn Backend, commit: RunCommit, other: Lease, wanted: Entity) {
    let lease = commit.lease;
    let project = lease.project;
    let trail_before = trail(backend, project).await;
    let journal = backend.journal(lease.run, project).await.expect("the journal");
    let refused = backend.commit(commit, &[audit(1, project)]).await;
    let as_wanted = match &refused {
        Err(StoreError::AlreadyExists { entity } | StoreError::Conflict { entity, .. }) => *entity == wanted,
        _ => false,
    };
    assert!(as_wanted, "{wanted}: {refused:?}");
    assert_eq!(status(backend, lease).await, RunStatus::Running);
    assert_eq!(backend.journal(lease.run, project).await.expect("the journal"), journal);
    assert_eq!(trail(backend, project).await, trail_before);
    assert_eq!(backend.signals(other.run, project).await.expect("signals"), []);
    for number in [1, 2] {
        let counts = backend.queue_counts(hash(number), project).await.expect("counts");
        assert_eq!(counts, QueueCounts::default());
    }
    for number in [1, 8] {
        let missing = backend.file(file(number, project, None).id, project).await;
        assert!(matches!(missing, Err(StoreError::NotFound { entity: Entity::File })), "{missing:?}");
    }
    for number in [3, 4] {
        assert!(backend.run(RunId::from_u128(number), project).await.is_err(), "run {number} exists");
    }
    assert_eq!(ready(backend).await, [0_u128; 0]);
}
