//! Rules for runs that pause, end, and are opened again, and for what happens by time.

use ap_core::{
    id::{FlowId, SignalId},
    run::RunStatus,
    store::{Entity, PageRequest, StoreError},
};

use super::{
    Harness,
    sample::{
        END, LEASE, PARK, SECOND, START, TICK, accept, at, audit, change, changed_flow, claim_one, claim_up_to, create,
        entry, hash, lease, open, published, ready, running, signal, status, trail, worker,
    },
};
use crate::store::{Debounce, RunChange, RunCommit, RunFilter, Signaled, TriggerChange};

/// A paused run holds no lease, and no time but its own makes it claimable.
pub async fn a_paused_run_is_held_by_nobody(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let held = running(backend, 1, &flow).await;
    backend.commit(RunCommit::new(held, PARK).with_entries(vec![entry(1)]), &[]).await.expect("a commit");
    let run = backend.run(held.run, flow.project).await.expect("the run");
    assert_eq!((run.status, run.finished), (RunStatus::Paused, None));
    let fenced = backend.commit(RunCommit::new(held, END), &[]).await;
    assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    assert_eq!(backend.heartbeat(&worker(), &[held], LEASE).await.expect("an answer").lost, [held]);
    bench.clock.advance(1_000_000 * LEASE);
    assert_eq!(ready(backend).await, [0_u128; 0]);
    assert_eq!(backend.journal(held.run, flow.project).await.expect("the journal"), [entry(0), entry(1)]);
}

/// A paused run goes on from the very moment it is due, under a new epoch.
pub async fn a_paused_run_goes_on_when_it_is_due(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let held = running(backend, 1, &flow).await;
    change(backend, held, RunChange::Park { due: Some(at(100)) }).await;
    bench.clock.advance(100 * SECOND - TICK);
    assert_eq!(ready(backend).await, [0_u128; 0]);
    bench.clock.advance(TICK);
    assert_eq!(claim_one(backend).await, lease(1, flow.project, 2));
    assert_eq!(status(backend, held).await, RunStatus::Running);
    assert_eq!(ready(backend).await, [0_u128; 0]);
    // Its time is over with the claim: the next pause has its own, and one in the past is over at once.
    change(backend, lease(1, flow.project, 2), PARK).await;
    assert_eq!(ready(backend).await, [0_u128; 0]);
    let again = running(backend, 2, &flow).await;
    change(backend, again, RunChange::Park { due: Some(START) }).await;
    assert_eq!(claim_one(backend).await, lease(2, flow.project, 2));
}

/// A run that failed can be opened again: it is queued, with one more entry and everything it had.
pub async fn a_failed_run_can_be_opened_again(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let statuses = [
        RunStatus::Canceled,
        RunStatus::Failed,
        RunStatus::InternalError,
        RunStatus::MemoryLimitExceeded,
        RunStatus::QuotaExceeded,
        RunStatus::Timeout,
    ];
    for (number, ended) in (1..).zip(statuses) {
        let held = running(backend, number, &flow).await;
        backend.signal(signal(1, 1, held), &[]).await.expect("an answer");
        change(backend, held, RunChange::End { status: ended, at: START }).await;
        backend.reopen(held.run, flow.project, entry(1), &[], &[audit(number, flow.project)]).await.expect("opened");
        let run = backend.run(held.run, flow.project).await.expect("the run");
        assert_eq!((run.status, run.finished), (RunStatus::Queued, None), "{ended}");
        assert_eq!(backend.journal(held.run, flow.project).await.expect("the journal"), [entry(0), entry(1)]);
        let again = claim_one(backend).await;
        assert!(again.epoch > held.epoch);
        let fenced = backend.commit(RunCommit::new(held, END), &[]).await;
        assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
        // What it was told before is forgotten, and may be said again.
        assert_eq!(backend.signals(held.run, flow.project).await.expect("signals"), []);
        assert_eq!(backend.signal(signal(2, 1, held), &[]).await.expect("an answer"), Signaled::Delivered);
        change(backend, again, END).await;
    }
    assert_eq!(trail(backend, flow.project).await, [1, 2, 3, 4, 5, 6]);
}

/// A slot that the caller says is used stays used, and no other one, until the run ends again.
pub async fn a_run_is_opened_again_with_the_slots_it_used(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let held = running(backend, 1, &flow).await;
    for slot in 1..=2 {
        backend.signal(signal(slot, slot, held), &[]).await.expect("an answer");
    }
    let taken = vec![SignalId::from_u128(1), SignalId::from_u128(2)];
    let failed = RunChange::End { status: RunStatus::Failed, at: START };
    backend.commit(RunCommit { taken, ..RunCommit::new(held, failed) }, &[]).await.expect("ended");
    let used = [hash(1), hash(3), hash(1)];
    backend.reopen(held.run, flow.project, entry(1), &used, &[]).await.expect("opened");
    assert_eq!(backend.signals(held.run, flow.project).await.expect("signals"), []);
    let say = async |number, slot| backend.signal(signal(number, slot, held), &[]).await.expect("an answer");
    assert_eq!(say(11, 1).await, Signaled::Used);
    assert_eq!(say(12, 2).await, Signaled::Delivered);
    assert_eq!(say(13, 3).await, Signaled::Used);
    let again = claim_one(backend).await;
    change(backend, again, failed).await;
    backend.reopen(held.run, flow.project, entry(2), &[], &[]).await.expect("opened");
    assert_eq!(say(14, 1).await, Signaled::Delivered);
}

/// What did well, has not ended or is unknown is not opened, nor with an entry that is not the next.
pub async fn only_a_failed_run_is_opened_again(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let refuse = async |number, seq| {
        let run = lease(number, flow.project, 0).run;
        backend.reopen(run, flow.project, entry(seq), &[], &[audit(1, flow.project)]).await
    };
    for (number, ended) in [(1, RunStatus::Succeeded), (2, RunStatus::LogSizeExceeded), (3, RunStatus::Failed)] {
        let held = running(backend, number, &flow).await;
        let commit = RunCommit::new(held, RunChange::End { status: ended, at: START });
        backend.commit(commit.with_entries(vec![entry(1)]), &[]).await.expect("ended");
    }
    let paused = running(backend, 4, &flow).await;
    change(backend, paused, PARK).await;
    running(backend, 5, &flow).await;
    create(backend, accept(6, &flow)).await;
    for (number, seq) in [(1, 2), (2, 2), (3, 1), (3, 3), (3, 0), (4, 1), (5, 1), (6, 1)] {
        let refused = refuse(number, seq).await;
        let conflict = matches!(refused, Err(StoreError::Conflict { entity: Entity::Run, .. }));
        assert!(conflict, "run {number}, entry {seq}: {refused:?}");
    }
    let missing = refuse(7, 1).await;
    assert!(matches!(missing, Err(StoreError::NotFound { entity: Entity::Run })), "{missing:?}");
    assert_eq!(trail(backend, flow.project).await, [0_u128; 0]);
    assert_eq!(backend.journal(lease(3, flow.project, 0).run, flow.project).await.expect("the journal").len(), 2);
    refuse(3, 2).await.expect("this one is the next");
}

/// A listing holds what its filter says and nothing else, page by page.
pub async fn a_listing_of_runs_follows_its_filter(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let parent = running(backend, 1, &flow).await;
    for number in 2..=6 {
        let mut child = accept(number, &flow);
        child.run.parent = (number % 2 == 0).then_some(parent.run);
        create(backend, child).await;
    }
    for claimed in backend.claim(claim_up_to(3)).await.expect("an answer") {
        change(backend, claimed.lease, END).await;
    }
    let list = async |filter| {
        let mut found = Vec::new();
        let mut page = PageRequest::first(2);
        loop {
            let runs = backend.runs(filter, flow.project, &page).await.expect("a page");
            found.extend(runs.items.into_iter().map(|run| run.id.as_u128()));
            let Some(next) = runs.next else { break found };
            page = page.after(next);
        }
    };
    let all = RunFilter::default();
    assert_eq!(list(all).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(list(RunFilter { flow: Some(flow.id), ..all }).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(list(RunFilter { flow: Some(FlowId::from_u128(9)), ..all }).await, [0_u128; 0]);
    assert_eq!(list(RunFilter { parent: Some(parent.run), ..all }).await, [2, 4, 6]);
    assert_eq!(list(RunFilter { live: true, ..all }).await, [1, 5, 6]);
    assert_eq!(list(RunFilter { live: true, parent: Some(parent.run), flow: Some(flow.id) }).await, [6]);
    assert_eq!(list(RunFilter { parent: Some(lease(2, flow.project, 0).run), ..all }).await, [0_u128; 0]);
}

/// The next thing to happen by time is the earliest of all that will; what is ready already, or waits for something else, is
/// none.
pub async fn the_next_due_is_the_earliest_of_all(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let next = async || backend.next_due().await.expect("an answer");
    assert_eq!(next().await, None);
    create(backend, accept(1, &flow)).await;
    assert_eq!(next().await, None, "a run that is ready waits for no time");
    let held = claim_one(backend).await;
    assert_eq!(next().await, Some(START.saturating_add(LEASE)), "a lease expires");

    let mut write = changed_flow(&flow, |_| {});
    write.trigger = TriggerChange::Set { due: at(20), state: None };
    backend.write_flow(write.clone(), &[]).await.expect("written");
    assert_eq!(next().await, Some(at(20)), "a trigger");
    let mut waiting = accept(2, &flow);
    waiting.control.debounce = Some(Debounce { key: hash(1), delay: 10 * SECOND, max_wait: 10 * SECOND });
    create(backend, waiting).await;
    assert_eq!(next().await, Some(at(10)), "a run that is put off");
    change(backend, held, RunChange::Park { due: Some(at(8)) }).await;
    assert_eq!(next().await, Some(at(8)), "a pause");
    backend.signal(signal(1, 1, held), &[]).await.expect("an answer");
    assert_eq!(next().await, Some(at(10)), "one that is signaled is ready");

    bench.clock.advance(10 * SECOND);
    assert_eq!(next().await, Some(at(20)), "what has come is over");
    backend.write_flow(changed_flow(&write.flow, |flow| flow.enabled = false), &[]).await.expect("written");
    assert_eq!(next().await, None, "a disabled flow has no trigger");
}
