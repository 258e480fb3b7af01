//! Rules for signals: what a run is told from outside.

use ap_core::{
    id::{RunId, SignalId},
    run::RunStatus,
    store::{Entity, StoreError},
};
use futures_util::future::{join, join_all};

use super::{
    Harness,
    sample::{
        END, LEASE, PARK, SECOND, START, accept, audit, change, claim_all, claim_one, create, entry, hash, lease, open,
        published, ready, running, signal, status, trail, worker,
    },
};
use crate::store::{Debounce, Lease, RunChange, RunCommit, Signaled};

/// A signal is there, as it was sent, until a commit takes it in.
pub async fn a_signal_is_kept_until_a_commit_takes_it(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let held = running(backend, 1, &flow).await;
    let sent = backend.signal(signal(1, 1, held), &[audit(1, flow.project)]).await.expect("an answer");
    assert_eq!(sent, Signaled::Delivered);
    assert_eq!(backend.signals(held.run, flow.project).await.expect("signals"), [signal(1, 1, held)]);
    assert_eq!(trail(backend, flow.project).await, [1]);
    backend.signal(signal(2, 2, held), &[]).await.expect("an answer");

    let mut commit = RunCommit::new(held, RunChange::Stay).with_entries(vec![entry(1)]);
    // One that is not there is passed over.
    commit.taken = vec![SignalId::from_u128(1), SignalId::from_u128(9)];
    backend.commit(commit, &[]).await.expect("a commit");
    assert_eq!(backend.signals(held.run, flow.project).await.expect("signals"), [signal(2, 2, held)]);
    assert_eq!(backend.signals(RunId::from_u128(9), flow.project).await.expect("signals"), []);
}

/// Signals come in order of id, whenever they arrived.
pub async fn signals_come_in_order_of_id(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let held = running(&*bench.backend, 1, &flow).await;
    for number in [3, 1, 2] {
        bench.backend.signal(signal(number, number, held), &[]).await.expect("an answer");
    }
    let signals = bench.backend.signals(held.run, flow.project).await.expect("signals");
    assert_eq!(signals, [1, 2, 3].map(|number| signal(number, number, held)));
}

/// A slot is used up by its first signal, taken in or not, whoever holds the run.
pub async fn a_slot_takes_one_signal(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let first = running(backend, 1, &flow).await;
    let used = async |number| {
        let answer = backend.signal(signal(number, 1, first), &[audit(1, flow.project)]).await.expect("an answer");
        assert_eq!(answer, Signaled::Used);
    };
    backend.signal(signal(1, 1, first), &[]).await.expect("an answer");
    used(2).await;
    assert_eq!(backend.signals(first.run, flow.project).await.expect("signals"), [signal(1, 1, first)]);
    let taken = |lease, change| RunCommit { taken: vec![SignalId::from_u128(1)], ..RunCommit::new(lease, change) };
    backend.commit(taken(first, RunChange::Release), &[]).await.expect("a commit");
    used(3).await;
    let second = claim_one(backend).await;
    used(4).await;
    change(backend, second, PARK).await;
    used(5).await;
    assert_eq!(backend.signals(first.run, flow.project).await.expect("signals"), []);
    assert_eq!(trail(backend, flow.project).await, [0_u128; 0]);
    assert_eq!(ready(backend).await, [0_u128; 0], "a refused signal wakes nobody");
    assert_eq!(backend.signal(signal(6, 2, first), &[]).await.expect("an answer"), Signaled::Delivered);
}

/// Two signals of one run cannot have the same id; those of two runs can.
pub async fn a_signal_id_is_used_once_in_a_run(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let (one, two) = (running(&*bench.backend, 1, &flow).await, running(&*bench.backend, 2, &flow).await);
    bench.backend.signal(signal(1, 1, one), &[]).await.expect("an answer");
    let taken = bench.backend.signal(signal(1, 2, one), &[audit(1, flow.project)]).await;
    assert!(matches!(taken, Err(StoreError::AlreadyExists { entity: Entity::Signal })), "{taken:?}");
    assert_eq!(bench.backend.signal(signal(1, 1, two), &[]).await.expect("an answer"), Signaled::Delivered);
    assert_eq!(bench.backend.signals(one.run, flow.project).await.expect("signals"), [signal(1, 1, one)]);
    assert_eq!(trail(&*bench.backend, flow.project).await, [0_u128; 0]);
}

/// Nothing is kept for a run that has ended or never was.
pub async fn a_signal_after_the_end_is_over(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let ended = running(backend, 1, &flow).await;
    backend.signal(signal(1, 1, ended), &[]).await.expect("an answer");
    change(backend, ended, END).await;
    assert_eq!(backend.signals(ended.run, flow.project).await.expect("signals"), []);
    for (number, to) in [(1, ended), (2, ended), (3, lease(2, flow.project, 1))] {
        let answer = backend.signal(signal(number, number, to), &[audit(1, flow.project)]).await.expect("an answer");
        assert_eq!(answer, Signaled::Over, "{to:?}");
        assert_eq!(backend.signals(to.run, flow.project).await.expect("signals"), []);
    }
    assert_eq!(trail(backend, flow.project).await, [0_u128; 0]);
    assert_eq!(ready(backend).await, [0_u128; 0]);
}

/// A paused run can be claimed as soon as it is signaled, long before its time.
pub async fn a_signal_wakes_a_paused_run(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    for (number, due) in [(1, None), (2, Some(START.saturating_add(100 * SECOND)))] {
        let held = running(backend, number, &flow).await;
        change(backend, held, RunChange::Park { due }).await;
        assert_eq!(ready(backend).await, [0_u128; 0]);
        backend.signal(signal(number, 1, held), &[]).await.expect("an answer");
        assert_eq!(claim_one(backend).await, lease(number, flow.project, 2));
        assert_eq!(status(backend, held).await, RunStatus::Running);
    }
}

/// A signal that comes before the pause is persisted ends the pause at once.
pub async fn an_early_signal_is_not_lost(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let held = running(backend, 1, &flow).await;
    backend.signal(signal(1, 1, held), &[]).await.expect("an answer");
    change(backend, held, PARK).await;
    assert_eq!(status(backend, held).await, RunStatus::Paused);
    let again = claim_one(backend).await;
    assert_eq!(backend.signals(held.run, flow.project).await.expect("signals"), [signal(1, 1, held)]);
    // Once it is taken, in the very commit that pauses, it wakes nobody.
    let commit = RunCommit { taken: vec![SignalId::from_u128(1)], ..RunCommit::new(again, PARK) };
    backend.commit(commit, &[]).await.expect("a commit");
    assert_eq!(ready(backend).await, [0_u128; 0]);
}

/// Whichever comes first, a signal and a pause at the same time end in a run that can be claimed.
pub async fn a_signal_and_a_pause_never_miss_each_other(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let mut held = Vec::new();
    for number in 1..=16 {
        held.push(running(backend, number, &flow).await);
    }
    let both = held.iter().map(|held| async {
        let park = backend.commit(RunCommit::new(*held, PARK), &[]);
        let (parked, signaled) = if held.run.as_u128() % 2 == 0 {
            join(park, backend.signal(signal(1, 1, *held), &[])).await
        } else {
            let (signaled, parked) = join(backend.signal(signal(1, 1, *held), &[]), park).await;
            (parked, signaled)
        };
        parked.expect("a commit");
        assert_eq!(signaled.expect("an answer"), Signaled::Delivered);
    });
    join_all(both).await;
    let mut claimed = ready(backend).await;
    claimed.sort_unstable();
    assert_eq!(claimed, (1..=16).collect::<Vec<u128>>());
}

/// Of many signals for one slot at the same time one is delivered.
pub async fn concurrent_signals_of_one_slot_deliver_one(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let held = running(&*bench.backend, 1, &flow).await;
    let answers = join_all((1..=16).map(|number| bench.backend.signal(signal(number, 1, held), &[]))).await;
    let answers: Vec<Signaled> = answers.into_iter().map(|answer| answer.expect("an answer")).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == Signaled::Delivered).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| **answer == Signaled::Used).count(), 15, "{answers:?}");
    assert_eq!(bench.backend.signals(held.run, flow.project).await.expect("signals").len(), 1);
}

/// A run that waits to begin keeps its signals, and begins no sooner for them.
pub async fn a_signal_does_not_start_a_queued_run(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let mut waiting = accept(1, &flow);
    waiting.control.debounce = Some(Debounce { key: hash(1), delay: SECOND, max_wait: SECOND });
    create(backend, waiting).await;
    let queued = lease(1, flow.project, 1);
    assert_eq!(backend.signal(signal(1, 1, queued), &[]).await.expect("an answer"), Signaled::Delivered);
    assert_eq!(ready(backend).await, [0_u128; 0]);
    bench.clock.advance(SECOND);
    assert_eq!(claim_one(backend).await, queued);
    assert_eq!(backend.signals(queued.run, flow.project).await.expect("signals"), [signal(1, 1, queued)]);
}

/// A commit may signal other runs; what is over or used is dropped, and does not keep the rest from happening.
pub async fn a_commit_signals_other_runs(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let [sender, paused, used, ended] = [1, 2, 3, 4].map(|number| lease(number, flow.project, 1));
    for number in 1..=4 {
        running(backend, number, &flow).await;
    }
    change(backend, paused, PARK).await;
    backend.signal(signal(1, 1, used), &[]).await.expect("an answer");
    change(backend, ended, END).await;

    let mut commit = RunCommit::new(sender, RunChange::Stay).with_entries(vec![entry(1)]);
    commit.signals = [(10, 1, paused), (11, 1, paused), (12, 1, used), (13, 2, used), (14, 1, ended), (15, 1, sender)]
        .map(|(number, slot, to)| signal(number, slot, to))
        .into();
    backend.commit(commit, &[]).await.expect("a commit");
    let signals = async |to: Lease| backend.signals(to.run, to.project).await.expect("signals");
    assert_eq!(signals(paused).await, [signal(10, 1, paused)], "of two for one slot the first is taken");
    assert_eq!(signals(used).await, [signal(1, 1, used), signal(13, 2, used)]);
    assert_eq!(signals(ended).await, []);
    assert_eq!(signals(sender).await, [signal(15, 1, sender)]);
    assert_eq!(claim_one(backend).await, lease(2, flow.project, 2));
    assert_eq!(backend.journal(sender.run, flow.project).await.expect("the journal").len(), 2);
}

/// A heartbeat names the held runs that have signals, and only those.
pub async fn a_heartbeat_names_the_signaled(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let mut held = Vec::new();
    for number in 1..=4 {
        held.push(running(backend, number, &flow).await);
    }
    for (number, to) in [(1, held[1]), (2, held[2]), (3, held[3])] {
        backend.signal(signal(number, 1, to), &[]).await.expect("an answer");
    }
    let commit = RunCommit { taken: vec![SignalId::from_u128(2)], ..RunCommit::new(held[2], RunChange::Stay) };
    backend.commit(commit, &[]).await.expect("a commit");
    change(backend, held[3], RunChange::Release).await;
    let beat = backend.heartbeat(&worker(), &held, LEASE).await.expect("an answer");
    assert_eq!((beat.lost, beat.signaled), (vec![held[3]], vec![held[1]]));
    assert_eq!(claim_all(backend).await, [lease(4, flow.project, 2)]);
}
