//! Rules for key-value stores.

use ap_core::{
    id::{FlowId, ProjectId},
    store::{Entity, PageRequest, Sealed, StoreError},
};
use bytes::Bytes;

use super::{
    Harness,
    sample::{
        END, audit, change, claim_one, create_project, entry, lease, open, project_id, published, running, sealed,
        trail, value,
    },
};
use crate::store::{
    Backend, Lease, RunChange, RunCommit, ValueChange, ValueExpect, ValueRecord, ValueScope, ValueUsage, ValueWrite,
};

/// Values come back bit for bit, one by one and page by page of their scope, until they are deleted.
pub async fn a_value_is_kept_until_it_is_deleted(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let project = create_project(backend, 1).await;
    let mut large = value(1, 1, project);
    large.sealed = Sealed::from_bytes(Bytes::from((0..=u8::MAX).cycle().take(600_000).collect::<Vec<u8>>()));
    large.bytes = 600_000;
    let mut values = vec![large.clone()];
    values.extend((2..=5).map(|number| value(number, 1, project)));
    let own = ValueScope::Flow(FlowId::from_u128(7));
    values.extend((6..=8).map(|number| ValueRecord { scope: own, ..value(number, 1, project) }));
    // Together, and none of them twice.
    let changes: Vec<ValueChange> = values.iter().map(|value| put(value, ValueExpect::Absent)).collect();
    backend.change_values(&changes, project, ROOM, &[audit(1, project)]).await.expect("written");
    for stored in &values {
        assert_eq!(backend.value(stored.id, project).await.expect("the value"), *stored);
    }
    assert_eq!(pages(backend, ValueScope::Project, project).await, values[..5]);
    assert_eq!(pages(backend, own, project).await, values[5..]);
    assert_eq!(pages(backend, ValueScope::Flow(FlowId::from_u128(8)), project).await, []);
    assert_eq!(usage(backend, project).await, (8, 600_000 + 7 * 10));

    let gone = [delete(&large, ValueExpect::Version(1)), delete(&value(99, 1, project), ValueExpect::Anything)];
    backend.change_values(&gone, project, ROOM, &[audit(2, project)]).await.expect("deleted");
    let result = backend.value(large.id, project).await;
    assert!(matches!(result, Err(StoreError::NotFound { entity: Entity::Value })), "{result:?}");
    assert_eq!(usage(backend, project).await, (7, 70));
    assert_eq!(trail(backend, project).await, [1, 2]);
    let homeless = backend.change_values(&[put(&value(1, 1, project_id(9)), ABSENT)], project_id(9), ROOM, &[]).await;
    assert!(matches!(homeless, Err(StoreError::NotFound { entity: Entity::Project })), "{homeless:?}");
}

/// A change happens while what it expects holds, and changes with it that expect nothing; else none of them does.
pub async fn values_are_changed_while_they_are_as_expected(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let project = create_project(backend, 1).await;
    let (first, other) = (value(1, 10, project), value(2, 10, project));
    let write = async |changes: &[ValueChange]| backend.change_values(changes, project, ROOM, &[]).await;
    write(&[put(&first, ABSENT), put(&other, ANYTHING)]).await.expect("written");

    let next = value(1, 11, project);
    for stale in [
        put(&next, ABSENT),
        put(&next, ValueExpect::Version(9)),
        delete(&next, ValueExpect::Version(11)),
        delete(&value(3, 1, project), ValueExpect::Version(1)),
        keep(&first, ABSENT),
        keep(&first, ValueExpect::Version(11)),
        keep(&value(3, 1, project), ValueExpect::Version(1)),
    ] {
        let changes = [put(&value(2, 11, project), ANYTHING), stale.clone(), put(&value(4, 1, project), ABSENT)];
        let result = write(&changes).await;
        assert!(matches!(result, Err(StoreError::Conflict { entity: Entity::Value, .. })), "{stale:?}: {result:?}");
    }
    assert_eq!(pages(backend, ValueScope::Project, project).await, [first.clone(), other.clone()]);

    write(&[put(&next, ValueExpect::Version(10)), keep(&other, ValueExpect::Version(10))]).await.expect("as expected");
    write(&[put(&value(2, 12, project), ANYTHING), keep(&value(3, 1, project), ABSENT)]).await.expect("as expected");
    // One that was deleted and made anew is another one.
    write(&[delete(&next, ANYTHING)]).await.expect("deleted");
    write(&[put(&value(1, 13, project), ABSENT)]).await.expect("made anew");
    let result = write(&[put(&first, ValueExpect::Version(11))]).await;
    assert!(matches!(result, Err(StoreError::Conflict { entity: Entity::Value, .. })), "{result:?}");
    assert_eq!(usage(backend, project).await, (2, 20));
}

/// Who breaks the contract writes nothing: values of others, one twice, a version out of range.
pub async fn a_change_of_values_is_of_its_own_values(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let (ours, theirs) = (create_project(backend, 1).await, create_project(backend, 2).await);
    let twice = [put(&value(1, 1, ours), ABSENT), delete(&value(1, 1, ours), ANYTHING)];
    let result = backend.change_values(&twice, ours, ROOM, &[]).await;
    assert!(matches!(result, Err(StoreError::AlreadyExists { entity: Entity::Value })), "{result:?}");
    for wrong in [
        put(&value(1, 1, theirs), ABSENT),
        put(&value(1, 1 << 63, ours), ABSENT),
        ValueChange { id: value(2, 1, ours).id, ..put(&value(1, 1, ours), ABSENT) },
    ] {
        let result = backend.change_values(std::slice::from_ref(&wrong), ours, ROOM, &[]).await;
        assert!(matches!(result, Err(StoreError::Backend(_))), "{wrong:?}: {result:?}");
    }
    assert_eq!((usage(backend, ours).await, usage(backend, theirs).await), ((0, 0), (0, 0)));
}

/// Values are their project's: equal ids in two projects are two values, and what one has counts for nobody else.
pub async fn values_stay_in_their_project(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let (ours, theirs) = (create_project(backend, 1).await, create_project(backend, 2).await);
    let (own, other) = (value(1, 1, ours), ValueRecord { sealed: sealed("theirs"), ..value(1, 2, theirs) });
    backend.change_values(&[put(&own, ABSENT)], ours, ROOM, &[]).await.expect("written");
    let hidden = backend.value(own.id, theirs).await;
    assert!(matches!(hidden, Err(StoreError::NotFound { entity: Entity::Value })), "{hidden:?}");
    assert_eq!(pages(backend, ValueScope::Project, theirs).await, []);
    assert_eq!(usage(backend, theirs).await, (0, 0));
    backend.change_values(&[put(&other, ABSENT)], theirs, ROOM, &[]).await.expect("written");
    backend.change_values(&[delete(&own, ANYTHING)], ours, ROOM, &[]).await.expect("deleted");
    assert_eq!(backend.value(other.id, theirs).await.expect("the value"), other);
}

/// A project has no more values and bytes than its limit, counted over all changes of a call; what makes less is never refused.
pub async fn values_stay_within_their_limit(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let project = create_project(backend, 1).await;
    let sized = |number, version, bytes| ValueRecord { bytes, ..value(number, version, project) };
    let refused = async |changes: &[ValueChange], entries, bytes| match backend
        .change_values(changes, project, ValueUsage { entries, bytes }, &[audit(1, project)])
        .await
    {
        Ok(()) => panic!("it was written"),
        Err(StoreError::LimitExceeded { entity: Entity::Value }) => {}
        Err(error) => panic!("{error:?}"),
    };
    let written = async |changes: &[ValueChange], entries, bytes| {
        let limit = ValueUsage { entries, bytes };
        backend.change_values(changes, project, limit, &[]).await.expect("written");
    };
    refused(&[put(&sized(1, 1, 10), ANYTHING)], 0, 100).await;
    refused(&[put(&sized(1, 1, 10), ANYTHING)], 1, 9).await;
    written(&[put(&sized(1, 1, 10), ANYTHING)], 1, 10).await;
    // Another value, more bytes in one, and two that each would do.
    refused(&[put(&sized(2, 1, 1), ANYTHING)], 1, 100).await;
    refused(&[put(&sized(1, 2, 11), ANYTHING)], 5, 10).await;
    refused(&[put(&sized(2, 1, 5), ANYTHING), put(&sized(3, 1, 6), ANYTHING)], 5, 20).await;
    // One goes and another comes.
    written(&[delete(&sized(1, 1, 10), ANYTHING), put(&sized(2, 1, 10), ANYTHING)], 1, 10).await;
    // The limit was lowered: what makes less is written, and what stays the same.
    written(&[put(&sized(2, 2, 10), ANYTHING)], 0, 0).await;
    written(&[put(&sized(2, 3, 9), ANYTHING)], 0, 0).await;
    refused(&[put(&sized(2, 4, 10), ANYTHING)], 0, 0).await;
    written(&[delete(&sized(2, 3, 9), ANYTHING)], 0, 0).await;
    assert_eq!(usage(backend, project).await, (0, 0));
    assert_eq!(trail(backend, project).await, [] as [u128; 0]);
}

/// What a run does to values happens with its commit or not at all.
pub async fn a_commit_brings_its_values(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let held = running(backend, 1, &flow).await;
    let first = value(1, 1, flow.project);
    let commit = with_values(held, 1, vec![put(&first, ABSENT), put(&value(2, 1, flow.project), ANYTHING)]);
    backend.commit(commit.clone(), &[audit(1, flow.project)]).await.expect("a commit");
    // Tried again, because its answer was lost: it meets its own entry, not its own values.
    let again = backend.commit(commit.clone(), &[]).await;
    assert!(matches!(again, Err(StoreError::AlreadyExists { entity: Entity::JournalEntry })), "{again:?}");
    assert_eq!(backend.value(first.id, flow.project).await.expect("the value"), first);

    let stale = with_values(held, 2, vec![put(&value(3, 1, flow.project), ABSENT), keep(&first, ABSENT)]);
    let result = backend.commit(stale, &[audit(2, flow.project)]).await;
    assert!(matches!(result, Err(StoreError::Conflict { entity: Entity::Value, .. })), "{result:?}");
    let much = RunCommit {
        value_limit: ValueUsage { entries: 2, bytes: 1_000 },
        ..with_values(held, 2, vec![put(&value(3, 1, flow.project), ABSENT)])
    };
    let result = backend.commit(much, &[audit(2, flow.project)]).await;
    assert!(matches!(result, Err(StoreError::LimitExceeded { entity: Entity::Value })), "{result:?}");
    let zombie = with_values(lease(1, flow.project, 2), 2, vec![put(&value(1, 9, flow.project), ANYTHING)]);
    assert!(matches!(backend.commit(zombie, &[]).await, Err(StoreError::Fenced)));
    let foreign = with_values(held, 2, vec![put(&value(1, 9, project_id(2)), ANYTHING)]);
    assert!(matches!(backend.commit(foreign, &[]).await, Err(StoreError::Backend(_))));

    assert_eq!(usage(backend, flow.project).await, (2, 20));
    assert_eq!(backend.journal(held.run, flow.project).await.expect("the journal").len(), 2);
    assert_eq!(trail(backend, flow.project).await, [1]);
    backend.commit(with_values(held, 2, vec![delete(&first, ValueExpect::Version(1))]), &[]).await.expect("a commit");
    change(backend, held, END).await;
    assert_eq!(usage(backend, flow.project).await, (1, 10));
}

/// Of several that have read the same, one writes; the others are told.
pub async fn of_concurrent_writers_of_a_value_one_wins(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let project = flow.project;
    let mut held = Vec::new();
    for number in 1..=6 {
        held.push(running(backend, number, &flow).await);
    }
    let mut seen = ABSENT;
    for round in 1..=3_u64 {
        let write = |index: usize, lease: &Lease| {
            let version = 100 * round + index as u64;
            let changes = vec![put(&value(1, version, project), seen)];
            let (lease, by_hand) = (*lease, index >= 4);
            async move {
                if by_hand {
                    return backend.change_values(&changes, project, ROOM, &[]).await;
                }
                backend.commit(with_values(lease, round, changes), &[]).await
            }
        };
        let results = futures_util::future::join_all(held.iter().enumerate().map(|(at, lease)| write(at, lease))).await;
        let won: Vec<usize> = (0..).zip(&results).filter(|(_, result)| result.is_ok()).map(|(at, _)| at).collect();
        assert_eq!(won.len(), 1, "{results:?}");
        for lost in results.into_iter().filter_map(Result::err) {
            assert!(matches!(lost, StoreError::Conflict { entity: Entity::Value, .. }), "{lost:?}");
        }
        let stored = backend.value(value(1, 0, project).id, project).await.expect("the value");
        assert_eq!(stored.version, 100 * round + won[0] as u64);
        seen = ValueExpect::Version(stored.version);
        // Whoever lost has nothing in its journal.
        for (at, lease) in held.iter().enumerate() {
            let entries = backend.journal(lease.run, project).await.expect("the journal");
            let has = entries.iter().any(|entry| entry.seq == round);
            assert_eq!(has, won.contains(&at) && at < 4, "run {at} in round {round}");
        }
    }
    assert_eq!(usage(backend, project).await, (1, 10));
}

/// A restart keeps values, and what counts for the limit.
pub async fn a_restart_keeps_values(harness: &impl Harness) {
    let mut bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let held = running(backend, 1, &flow).await;
    let first = value(1, 1, flow.project);
    backend.commit(with_values(held, 1, vec![put(&first, ABSENT)]), &[]).await.expect("a commit");
    drop(bench.backend);
    let backend = harness.restart(&mut bench.guard).await;
    assert_eq!(backend.value(first.id, flow.project).await.expect("the value"), first);
    assert_eq!(usage(&*backend, flow.project).await, (1, 10));
    bench.clock.advance(super::sample::LEASE);
    let again = claim_one(&*backend).await;
    backend.commit(with_values(again, 2, vec![delete(&first, ValueExpect::Version(1))]), &[]).await.expect("a commit");
    assert_eq!(usage(&*backend, flow.project).await, (0, 0));
}

fn put(value: &ValueRecord, expect: ValueExpect) -> ValueChange {
    ValueChange { id: value.id, expect, write: ValueWrite::Put(value.clone()) }
}

const fn delete(value: &ValueRecord, expect: ValueExpect) -> ValueChange {
    ValueChange { id: value.id, expect, write: ValueWrite::Delete }
}

const fn keep(value: &ValueRecord, expect: ValueExpect) -> ValueChange {
    ValueChange { id: value.id, expect, write: ValueWrite::Keep }
}

fn with_values(lease: Lease, seq: u64, values: Vec<ValueChange>) -> RunCommit {
    let commit = RunCommit::new(lease, RunChange::Stay).with_entries(vec![entry(seq)]);
    RunCommit { values, value_limit: ROOM, ..commit }
}

async fn usage(backend: &dyn Backend, project: ProjectId) -> (u64, u64) {
    let ValueUsage { entries, bytes } = backend.value_usage(project).await.expect("an answer");
    (entries, bytes)
}

async fn pages(backend: &dyn Backend, scope: ValueScope, project: ProjectId) -> Vec<ValueRecord> {
    let (mut page, mut found) = (PageRequest::first(2), Vec::new());
    loop {
        let next = backend.values(scope, project, &page).await.expect("a page");
        found.extend(next.items);
        match next.next {
            Some(cursor) => page = page.after(cursor),
            None => return found,
        }
    }
}

const ABSENT: ValueExpect = ValueExpect::Absent;
const ANYTHING: ValueExpect = ValueExpect::Anything;
const ROOM: ValueUsage = ValueUsage { entries: 1_000, bytes: 1 << 30 };
