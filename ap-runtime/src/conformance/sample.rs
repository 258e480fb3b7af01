//! Records for the rules: small numbers in, whole records out.

use std::{pin::pin, sync::Arc, time::Duration};

use ap_core::{
    audit::{AuditOutcome, AuditRecord},
    id::{
        AuditId, ConnectionId, FileId, FlowId, FlowVersionId, JobId, KeyId, ProjectId, RunId, SignalId, ValueId,
        WorkerId,
    },
    run::RunStatus,
    scope::Scope,
    store::{LookupHash, PageRequest, Precondition, Revision, Sealed},
    time::Timestamp,
};
use ap_crypto::{
    keyring::{KeyKind, WrappedKey},
    subject::WrappedSubjectKey,
};
use bytes::Bytes;

use super::{Harness, ManualClock};
use crate::store::{
    Accept, Accepted, Backend, ClaimRequest, Claimed, ConnectionRecord, Dedupe, FileRecord, FlowRecord,
    FlowVersionRecord, FlowWrite, JobRequest, JournalEntry, Lease, NewJob, ProjectRecord, ProjectShare, RunChange,
    RunCommit, RunControl, RunRecord, SignalRecord, TriggerChange, ValueRecord, ValueScope, VersionState, WorkerRecord,
};

/// When the clock of every rule starts.
pub(super) const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);
/// How long leases are, unless a rule says otherwise.
pub(super) const LEASE: Duration = Duration::from_secs(30);
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// The least time by which two timestamps differ.
pub(super) const TICK: Duration = Duration::from_micros(1);
pub(super) const END: RunChange = RunChange::End { status: RunStatus::Succeeded, at: START };
/// A pause that no time ends.
pub(super) const PARK: RunChange = RunChange::Park { due: None };

/// An empty backend and its clock.
pub(super) struct Bench<G> {
    pub(super) guard: G,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) clock: Arc<ManualClock>,
}

pub(super) async fn open<H: Harness>(harness: &H) -> Bench<H::Guard> {
    let clock = Arc::new(ManualClock::at(START));
    let (guard, backend) = harness.open_empty(Arc::clone(&clock)).await;
    Bench { guard, backend, clock }
}

/// Polls `future` up to `polls` times, letting other tasks run in between, and drops it.
pub(super) async fn drop_after(polls: usize, future: impl Future) {
    let mut yields = pin!(async {
        for _ in 0..polls {
            tokio::task::yield_now().await;
        }
    });
    let future = pin!(future);
    futures_util::future::select(future, yields.as_mut()).await;
}

pub(super) fn project_id(number: u128) -> ProjectId {
    ProjectId::from_u128(number)
}

pub(super) fn sealed(text: &str) -> Sealed {
    Sealed::from_bytes(Bytes::copy_from_slice(text.as_bytes()))
}

pub(super) fn hash(number: u128) -> LookupHash {
    let mut bytes = [7; 32];
    bytes.iter_mut().zip(number.to_be_bytes()).for_each(|(slot, byte)| *slot = byte);
    LookupHash(bytes)
}

pub(super) fn key(number: u128, scope: Scope) -> WrappedKey {
    let (id, parent) = (KeyId::from_u128(number), KeyId::from_u128(1));
    WrappedKey { id, scope, kind: KeyKind::Data, parent, created: START, wrapped: sealed("key") }
}

pub(super) fn audit(number: u128, scope: impl Into<Scope>) -> AuditRecord {
    AuditRecord {
        id: AuditId::from_u128(number),
        scope: scope.into(),
        at: START,
        action: "test.write".to_owned(),
        outcome: AuditOutcome::Success,
        body: sealed("audit"),
    }
}

pub(super) async fn create_project(backend: &dyn Backend, number: u128) -> ProjectId {
    let id = project_id(number);
    let project = ProjectRecord { id, created: START, share: ProjectShare::default(), sealed: sealed("project") };
    backend.create_project(project, key(1_000 + number, id.into()), &[]).await.expect("a new project");
    id
}

/// A flow with a published version of the same number, open for deliveries.
pub(super) fn flow(number: u128, project: ProjectId) -> FlowRecord {
    FlowRecord {
        id: FlowId::from_u128(number),
        project,
        created: START,
        updated: START,
        revision: Revision::FIRST,
        enabled: true,
        published: Some(FlowVersionId::from_u128(number)),
        draft: None,
        webhook: hash(number),
        generation: 1,
        sealed: sealed("flow"),
    }
}

/// A locked version, the first of the flow of the same number.
pub(super) fn version(number: u128, flow: &FlowRecord) -> FlowVersionRecord {
    FlowVersionRecord {
        id: FlowVersionId::from_u128(number),
        project: flow.project,
        flow: flow.id,
        number: 1,
        state: VersionState::Locked,
        created: START,
        revision: Revision::FIRST,
        sealed: sealed("version"),
    }
}

pub(super) fn new_flow(flow: &FlowRecord) -> FlowWrite {
    FlowWrite {
        flow: flow.clone(),
        precondition: Precondition::Absent,
        versions: Vec::new(),
        trigger: TriggerChange::Keep,
    }
}

/// The write that follows `flow`, with one field changed by `change`.
pub(super) fn changed_flow(flow: &FlowRecord, change: impl FnOnce(&mut FlowRecord)) -> FlowWrite {
    let mut next = flow.clone();
    next.revision = flow.revision.next();
    change(&mut next);
    FlowWrite {
        flow: next,
        precondition: Precondition::Revision(flow.revision),
        versions: Vec::new(),
        trigger: TriggerChange::Keep,
    }
}

/// Creates the project and the flow of this number; webhook hash and version have the same number.
pub(super) async fn published(backend: &dyn Backend, number: u128) -> FlowRecord {
    let project = create_project(backend, number).await;
    let flow = flow(number, project);
    let mut write = new_flow(&flow);
    write.versions.push((version(number, &flow), Precondition::Absent));
    backend.write_flow(write, &[]).await.expect("a new flow");
    flow
}

pub(super) fn connection(number: u128, project: ProjectId) -> ConnectionRecord {
    ConnectionRecord {
        id: ConnectionId::from_u128(number),
        owner: project.into(),
        name: hash(number),
        created: START,
        updated: START,
        due: None,
        revision: Revision::FIRST,
        sealed: sealed("connection"),
    }
}

/// A request to start the run of this number, unleased, without a delivery id; run `n` is accepted `n` microseconds in.
pub(super) fn accept(number: u128, flow: &FlowRecord) -> Accept {
    let created = Timestamp::from_micros(START.as_micros() + i64::try_from(number).expect("a small number"));
    Accept {
        run: RunRecord {
            id: RunId::from_u128(number),
            project: flow.project,
            flow: flow.id,
            version: flow.published.expect("a published flow"),
            parent: None,
            status: RunStatus::Queued,
            created,
            finished: None,
            subject: None,
        },
        generation: flow.generation,
        dedupe: None,
        subject_key: None,
        control: RunControl::default(),
        entry: entry(0),
        lease: None,
    }
}

/// The same, leased to the caller.
pub(super) fn accept_leased(number: u128, flow: &FlowRecord) -> Accept {
    Accept { lease: Some(LEASE), ..accept(number, flow) }
}

/// The same, with a delivery id that is kept for an hour.
pub(super) fn accept_once(number: u128, flow: &FlowRecord, key: u128) -> Accept {
    let expires = START.saturating_add(Duration::from_secs(3_600));
    Accept { dedupe: Some(Dedupe { key: hash(key), expires }), ..accept(number, flow) }
}

/// Accepts the run of this number, leased, and returns the lease.
pub(super) async fn running(backend: &dyn Backend, number: u128, flow: &FlowRecord) -> Lease {
    let accepted = backend.accept(accept_leased(number, flow), &[]).await.expect("an acceptance");
    assert_eq!(accepted, Accepted::Created { leased: true });
    Lease { project: flow.project, run: RunId::from_u128(number), epoch: 1 }
}

pub(super) fn entry(seq: u64) -> JournalEntry {
    JournalEntry { seq, sealed: sealed(&format!("entry {seq}")) }
}

/// A request for up to `limit` runs, without limits on how many are executed.
pub(super) fn claim_up_to(limit: u32) -> ClaimRequest {
    ClaimRequest { limit, lease: LEASE, per_project: u32::MAX, total: u32::MAX }
}

/// A worker that says nothing much of itself.
pub(super) fn worker() -> WorkerRecord {
    WorkerRecord {
        id: WorkerId::from_u128(1),
        name: "worker".to_owned(),
        started: START,
        seen: START,
        capacity: 100,
        running: 0,
        draining: false,
    }
}

/// `seconds` after the start of the rule's clock.
pub(super) fn at(seconds: u64) -> Timestamp {
    START.saturating_add(Duration::from_secs(seconds))
}

/// Accepts a run that must be created; whether it is leased is not looked at.
pub(super) async fn create(backend: &dyn Backend, accept: Accept) {
    let answer = backend.accept(accept, &[]).await.expect("an answer");
    assert!(matches!(answer, Accepted::Created { .. }), "{answer:?}");
}

/// Claims whatever is ready, without limits.
pub(super) async fn claim_all(backend: &dyn Backend) -> Vec<Lease> {
    let claimed = backend.claim(claim_up_to(1_000)).await.expect("an answer");
    claimed.into_iter().map(|claimed| claimed.lease).collect()
}

/// Claims the one run that is ready.
pub(super) async fn claim_one(backend: &dyn Backend) -> Lease {
    let claimed = claim_all(backend).await;
    let [lease] = claimed[..] else { unreachable!("one run is ready, not {claimed:?}") };
    lease
}

/// The numbers of runs that a claim handed over.
pub(super) fn numbers(claimed: &[Claimed]) -> Vec<u128> {
    claimed.iter().map(|claimed| claimed.lease.run.as_u128()).collect()
}

/// Claims whatever is ready; the runs' numbers.
pub(super) async fn ready(backend: &dyn Backend) -> Vec<u128> {
    claim_all(backend).await.into_iter().map(|lease| lease.run.as_u128()).collect()
}

/// Does `change` to the run, and nothing else.
pub(super) async fn change(backend: &dyn Backend, lease: Lease, change: RunChange) {
    backend.commit(RunCommit::new(lease, change), &[]).await.expect("a commit");
}

pub(super) async fn status(backend: &dyn Backend, lease: Lease) -> RunStatus {
    backend.run(lease.run, lease.project).await.expect("the run").status
}

/// The lease of the run of this number, were it claimed `epoch` times.
pub(super) fn lease(number: u128, project: ProjectId, epoch: u64) -> Lease {
    Lease { project, run: RunId::from_u128(number), epoch }
}

/// The numbers of the audit records of a project.
pub(super) async fn trail(backend: &dyn Backend, project: ProjectId) -> Vec<u128> {
    let page = backend.audit(project.into(), &PageRequest::default()).await.expect("a page");
    page.items.into_iter().map(|record| record.id.as_u128()).collect()
}

/// The signal of this number to the run of the lease.
pub(super) fn signal(number: u128, slot: u128, to: Lease) -> SignalRecord {
    SignalRecord {
        id: SignalId::from_u128(number),
        project: to.project,
        run: to.run,
        slot: hash(slot),
        at: START,
        sealed: sealed(&format!("signal {number}")),
    }
}

pub(super) fn job(number: u128, queue: u128) -> NewJob {
    NewJob { id: JobId::from_u128(number), queue: hash(queue), sealed: sealed(&format!("job {number}")) }
}

/// A request for up to `limit` jobs of a queue, without other limits.
pub(super) fn jobs_of(queue: u128, limit: u32, lease: Lease) -> JobRequest {
    let (max_concurrent, spacing) = (u32::MAX, Duration::ZERO);
    JobRequest { lease, queue: hash(queue), holder: hash(1), limit, max_concurrent, spacing }
}

/// The file of this number; of the run, if a lease is given.
pub(super) fn file(number: u128, project: ProjectId, run: Option<Lease>) -> FileRecord {
    FileRecord {
        id: FileId::from_u128(number),
        project,
        run: run.map(|lease| lease.run),
        created: START,
        sealed: sealed(&format!("file {number}")),
    }
}

/// The key of this number, of the subject of this number.
pub(super) fn subject_key(number: u128, subject: u128, project: ProjectId) -> WrappedSubjectKey {
    WrappedSubjectKey {
        id: KeyId::from_u128(number),
        scope: project.into(),
        subject: hash(subject),
        root: KeyId::from_u128(1),
        created: START,
        wrapped: sealed(&format!("key {number:0>90}")),
    }
}

/// The run of this number, about the subject of the key.
pub(super) fn accept_about(number: u128, key: &WrappedSubjectKey, flow: &FlowRecord) -> Accept {
    let plain = accept(number, flow);
    let run = RunRecord { subject: Some(key.id), ..plain.run };
    Accept { run, subject_key: Some(key.clone()), ..plain }
}

/// The value of this number, of the whole project, in this version; it counts for ten bytes.
pub(super) fn value(number: u128, version: u64, project: ProjectId) -> ValueRecord {
    ValueRecord {
        id: ValueId::from_u128(number),
        project,
        scope: ValueScope::Project,
        version,
        updated: START,
        bytes: 10,
        sealed: sealed(&format!("value {number} {version}")),
    }
}
