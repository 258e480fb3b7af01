//! Rules for what a restart finds and does.

use ap_core::{
    id::{FlowVersionId, RunId},
    run::RunStatus,
    store::{PageRequest, Precondition, StoreError},
};

use super::{
    Harness,
    sample::{
        LEASE, START, accept, accept_once, audit, claim_up_to, connection, entry, key, open, published, running, worker,
    },
};
use crate::store::{Accepted, Lease, RunChange, RunCommit};

const END: RunChange = RunChange::End { status: RunStatus::Failed, at: START };

/// Whatever was answered with `Ok` before the end is there after it.
pub async fn a_restart_keeps_everything_acknowledged(harness: &impl Harness) {
    let mut bench = open(harness).await;
    let before = bench.backend;
    let flow = published(&*before, 1).await;
    let project = flow.project;
    before.write_connection(connection(1, project), Precondition::Absent, &[audit(1, project)]).await.expect("written");
    before.insert_key(key(50, project.into()), &[]).await.expect("written");
    before.append_audit(&[audit(2, project)]).await.expect("written");
    before.accept(accept_once(1, &flow, 5), &[audit(3, project)]).await.expect("accepted");
    let lease = running(&*before, 2, &flow).await;
    before.commit(RunCommit::new(lease, END).with_entries(vec![entry(1)]), &[]).await.expect("ended");

    let after = harness.restart(&mut bench.guard).await;
    assert_eq!(after.flow(flow.id, project).await.expect("the flow"), flow);
    assert!(after.project(project).await.is_ok());
    assert!(after.flow_version(FlowVersionId::from_u128(1), project).await.is_ok());
    assert_eq!(after.connection(connection(1, project).name, project).await.expect("it"), connection(1, project));
    assert_eq!(after.keys(project.into()).await.expect("keys").len(), 2);
    let trail = after.audit(project.into(), &PageRequest::default()).await.expect("a page");
    assert_eq!(trail.items, [audit(1, project), audit(2, project), audit(3, project)]);
    assert_eq!(after.run(RunId::from_u128(1), project).await.expect("the run").status, RunStatus::Queued);
    assert_eq!(after.run(lease.run, project).await.expect("the run").status, RunStatus::Failed);
    assert_eq!(after.journal(lease.run, project).await.expect("the journal"), [entry(0), entry(1)]);
    let again = after.accept(accept_once(3, &flow, 5), &[]).await.expect("an answer");
    assert_eq!(again, Accepted::Duplicate(RunId::from_u128(1)));
}

/// Runs of the process that ended are claimable: at once, where no other process can hold a lease; else when it expires.
pub async fn a_restart_frees_runs_without_waiting(harness: &impl Harness) {
    let mut bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let lease = running(&*bench.backend, 1, &flow).await;
    bench.backend.accept(accept(2, &flow), &[]).await.expect("a queued run");
    let after = harness.restart(&mut bench.guard).await;
    if !harness.one_process() {
        bench.clock.advance(LEASE);
    }
    let claimed = after.claim(claim_up_to(10)).await.expect("an answer");
    let ids: Vec<u128> = claimed.iter().map(|claimed| claimed.lease.run.as_u128()).collect();
    assert_eq!(ids, [1, 2]);
    assert!(claimed.iter().all(|claimed| claimed.lease.project == lease.project));
    assert!(claimed[0].lease.epoch > lease.epoch);
}

/// A write under a lease of the former process is refused: once somebody claims the run, and before, where no other process
/// can hold a lease.
pub async fn a_restart_fences_the_former_holder(harness: &impl Harness) {
    let mut bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let zombie = running(&*bench.backend, 1, &flow).await;
    let after = harness.restart(&mut bench.guard).await;
    let commit = |lease| RunCommit::new(lease, END).with_entries(vec![entry(1)]);
    if harness.one_process() {
        let fenced = after.commit(commit(zombie), &[]).await;
        assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    }
    bench.clock.advance(LEASE);
    let [claimed] = after.claim(claim_up_to(1)).await.expect("an answer")[..] else { unreachable!("one run waits") };
    let fenced = after.commit(commit(zombie), &[]).await;
    assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    assert_eq!(after.heartbeat(&worker(), &[zombie], LEASE).await.expect("an answer").lost, [zombie]);
    after.commit(commit(claimed.lease), &[]).await.expect("the new holder writes");
}

/// What has ended stays ended.
pub async fn a_restart_leaves_ended_runs_alone(harness: &impl Harness) {
    let mut bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let lease: Lease = running(&*bench.backend, 1, &flow).await;
    bench.backend.commit(RunCommit::new(lease, END), &[]).await.expect("ended");
    let before = bench.backend.run(lease.run, flow.project).await.expect("the run");
    let after = harness.restart(&mut bench.guard).await;
    assert_eq!(after.run(lease.run, flow.project).await.expect("the run"), before);
    assert_eq!(after.claim(claim_up_to(10)).await.expect("an answer"), []);
}
