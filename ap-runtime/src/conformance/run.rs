//! Rules for runs, their journals and the fence.

use ap_core::{
    id::{FlowVersionId, RunId},
    run::RunStatus,
    store::{Entity, PageRequest, StoreError},
};

use super::{
    Harness,
    sample::{
        END, LEASE, START, accept, accept_leased, audit, claim_up_to, drop_after, entry, open, published, running,
        worker,
    },
};
use crate::store::{Accepted, Claimed, Lease, RunChange, RunCommit, RunRecord};

fn commit(lease: Lease, seqs: impl IntoIterator<Item = u64>, change: RunChange) -> RunCommit {
    RunCommit::new(lease, change).with_entries(seqs.into_iter().map(entry).collect())
}

/// Once accepted, the run, its first entry and its audit record are there.
pub async fn an_accepted_run_can_be_read_at_once(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let wanted = accept_leased(3, &flow);
    let accepted = bench.backend.accept(wanted.clone(), &[audit(1, flow.project)]).await.expect("an answer");
    assert_eq!(accepted, Accepted::Created { leased: true });
    let stored = RunRecord { status: RunStatus::Running, ..wanted.run.clone() };
    assert_eq!(bench.backend.run(wanted.run.id, flow.project).await.expect("the run"), stored);
    assert_eq!(bench.backend.journal(wanted.run.id, flow.project).await.expect("the journal"), [entry(0)]);
    let trail = bench.backend.audit(flow.project.into(), &PageRequest::default()).await.expect("a page");
    assert_eq!(trail.items, [audit(1, flow.project)]);
}

/// A commit appends its entries in order, changes the run and writes its audit records.
pub async fn a_commit_appends_and_ends(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let lease = running(&*bench.backend, 1, &flow).await;
    let lines = [audit(1, flow.project), audit(2, flow.project)];
    bench.backend.commit(commit(lease, [1, 2], RunChange::Stay), &[]).await.expect("a commit");
    bench.backend.commit(commit(lease, [3], END), &lines).await.expect("the end");
    let run = bench.backend.run(lease.run, flow.project).await.expect("the run");
    assert_eq!((run.status, run.finished), (RunStatus::Succeeded, Some(START)));
    let journal = bench.backend.journal(lease.run, flow.project).await.expect("the journal");
    assert_eq!(journal, [entry(0), entry(1), entry(2), entry(3)]);
    let trail = bench.backend.audit(flow.project.into(), &PageRequest::default()).await.expect("a page");
    assert_eq!(trail.items, lines);
    assert_eq!(bench.backend.claim(claim_up_to(10)).await.expect("an answer"), []);
}

/// `Stay` keeps status and lease as they are.
pub async fn a_commit_that_stays_keeps_the_lease(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let lease = running(&*bench.backend, 1, &flow).await;
    bench.backend.commit(commit(lease, [1], RunChange::Stay), &[]).await.expect("a commit");
    let run = bench.backend.run(lease.run, flow.project).await.expect("the run");
    assert_eq!((run.status, run.finished), (RunStatus::Running, None));
    assert_eq!(bench.backend.claim(claim_up_to(10)).await.expect("an answer"), []);
    assert_eq!(bench.backend.heartbeat(&worker(), &[lease], LEASE).await.expect("an answer").lost, []);
}

/// A commit without entries checks the fence all the same, and carries its audit records.
pub async fn a_commit_may_carry_nothing(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let lease = running(&*bench.backend, 1, &flow).await;
    let line = [audit(1, flow.project)];
    bench.backend.commit(commit(lease, [], RunChange::Stay), &line).await.expect("a commit");
    let zombie = Lease { epoch: 0, ..lease };
    let fenced = bench.backend.commit(commit(zombie, [], RunChange::Stay), &[audit(2, flow.project)]).await;
    assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    let trail = bench.backend.audit(flow.project.into(), &PageRequest::default()).await.expect("a page");
    assert_eq!(trail.items, line);
}

/// A run that is given back goes to the next claim at once, and the former holder is fenced off.
pub async fn a_released_run_can_be_claimed(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let lease = running(&*bench.backend, 1, &flow).await;
    bench.backend.commit(commit(lease, [1], RunChange::Release), &[]).await.expect("given back");
    assert_eq!(bench.backend.run(lease.run, flow.project).await.expect("the run").status, RunStatus::Queued);
    let fenced = bench.backend.commit(commit(lease, [2], RunChange::Stay), &[]).await;
    assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    let claimed = bench.backend.claim(claim_up_to(10)).await.expect("an answer");
    let version = FlowVersionId::from_u128(1);
    assert_eq!(claimed, [Claimed { lease: Lease { epoch: 2, ..lease }, flow: flow.id, version, subject: None }]);
}

/// Nothing is written to a run that has ended.
pub async fn a_commit_after_the_end_is_fenced(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let lease = running(&*bench.backend, 1, &flow).await;
    bench.backend.commit(commit(lease, [1], END), &[]).await.expect("the end");
    for change in [RunChange::Stay, RunChange::Release, END] {
        let fenced = bench.backend.commit(commit(lease, [2], change), &[audit(1, flow.project)]).await;
        assert!(matches!(fenced, Err(StoreError::Fenced)), "{change:?}: {fenced:?}");
    }
    assert_eq!(bench.backend.heartbeat(&worker(), &[lease], LEASE).await.expect("an answer").lost, [lease]);
    assert_eq!(bench.backend.journal(lease.run, flow.project).await.expect("the journal").len(), 2);
}

/// Only the stored epoch may write, neither an older nor a newer one; a queued run has no holder.
pub async fn a_commit_under_a_wrong_epoch_is_fenced(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let lease = running(&*bench.backend, 1, &flow).await;
    bench.backend.accept(accept(2, &flow), &[]).await.expect("a queued run");
    let queued = Lease { run: RunId::from_u128(2), epoch: 0, ..lease };
    let missing = Lease { run: RunId::from_u128(3), ..lease };
    for wrong in [Lease { epoch: 0, ..lease }, Lease { epoch: 2, ..lease }, queued, missing] {
        let fenced = bench.backend.commit(commit(wrong, [1], END), &[]).await;
        assert!(matches!(fenced, Err(StoreError::Fenced)), "{wrong:?}: {fenced:?}");
    }
    bench.backend.commit(commit(lease, [1], END), &[]).await.expect("the right epoch");
}

/// A zombie's write is refused once somebody else has claimed its run.
pub async fn a_commit_after_another_claim_is_fenced(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let zombie = running(&*bench.backend, 1, &flow).await;
    bench.clock.advance(LEASE);
    let claimed = bench.backend.claim(claim_up_to(1)).await.expect("an answer");
    let [Claimed { lease, .. }] = claimed[..] else { unreachable!("one run: {claimed:?}") };
    let fenced = bench.backend.commit(commit(zombie, [1], END), &[]).await;
    assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    bench.backend.commit(commit(lease, [1], END), &[]).await.expect("the new holder writes");
}

/// A sequence number of a run is never used again; the fence is checked before that.
pub async fn a_sequence_number_is_used_once(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let lease = running(&*bench.backend, 1, &flow).await;
    let used = bench.backend.commit(commit(lease, [0], RunChange::Stay), &[]).await;
    assert!(matches!(used, Err(StoreError::AlreadyExists { entity: Entity::JournalEntry })), "{used:?}");
    let zombie = Lease { epoch: 7, ..lease };
    let fenced = bench.backend.commit(commit(zombie, [0], RunChange::Stay), &[]).await;
    assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    let falling = bench.backend.commit(commit(lease, [2, 1], RunChange::Stay), &[]).await;
    assert!(matches!(falling, Err(StoreError::Backend(_))), "{falling:?}");
    assert_eq!(bench.backend.journal(lease.run, flow.project).await.expect("the journal"), [entry(0)]);
}

/// Entries, change and audit records of a commit happen together: a refused one leaves no trace of any.
pub async fn a_refused_commit_changes_nothing(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let lease = running(&*bench.backend, 1, &flow).await;
    bench.backend.append_audit(&[audit(5, flow.project)]).await.expect("a record");
    let before = bench.backend.run(lease.run, flow.project).await.expect("the run");
    bench.backend.commit(commit(lease, [4], RunChange::Stay), &[]).await.expect("entry 4");
    // Its last entry exists; its last audit record exists.
    for (seqs, lines) in [
        (vec![1, 2, 4], vec![audit(1, flow.project)]),
        (vec![1, 2], vec![audit(1, flow.project), audit(5, flow.project)]),
    ] {
        let refused = bench.backend.commit(commit(lease, seqs, END), &lines).await;
        assert!(matches!(refused, Err(StoreError::AlreadyExists { .. })), "{refused:?}");
        assert_eq!(bench.backend.run(lease.run, flow.project).await.expect("the run"), before);
        let journal = bench.backend.journal(lease.run, flow.project).await.expect("the journal");
        assert_eq!(journal, [entry(0), entry(4)]);
        let trail = bench.backend.audit(flow.project.into(), &PageRequest::default()).await.expect("a page");
        assert_eq!(trail.items, [audit(5, flow.project)]);
    }
    bench.backend.commit(commit(lease, [5], END), &[]).await.expect("the lease is still good");
}

/// A run does not end in a status that is no end.
pub async fn a_run_ends_in_a_terminal_status_only(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let lease = running(&*bench.backend, 1, &flow).await;
    for status in [RunStatus::Queued, RunStatus::Running, RunStatus::Paused] {
        let refused = bench.backend.commit(commit(lease, [1], RunChange::End { status, at: START }), &[]).await;
        assert!(matches!(refused, Err(StoreError::Backend(_))), "{refused:?}");
    }
    let run = bench.backend.run(lease.run, flow.project).await.expect("the run");
    assert_eq!((run.status, run.finished), (RunStatus::Running, None));
}

/// A commit whose future is dropped happens wholly or not at all.
pub async fn a_dropped_commit_leaves_old_or_new(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    for polls in 0..12_usize {
        let number = 100 + polls as u128;
        let lease = running(backend, number, &flow).await;
        let line = [audit(number, flow.project)];
        drop_after(polls, backend.commit(commit(lease, [1, 2], END), &line)).await;
        // A later write is answered after an earlier one was decided.
        backend.append_audit(&[audit(1_000 + number, flow.project)]).await.expect("a later write");
        let ended = backend.run(lease.run, flow.project).await.expect("the run").status.is_terminal();
        let entries = backend.journal(lease.run, flow.project).await.expect("the journal").len();
        let trail = backend.audit(flow.project.into(), &PageRequest::default()).await.expect("a page");
        let audited = trail.items.iter().any(|line| line.id.as_u128() == number);
        let whole = if ended { (3, true) } else { (1, false) };
        assert_eq!((entries, audited), whole, "torn after {polls} polls");
    }
}
