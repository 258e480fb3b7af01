//! Rules for the key table, and for the cells that a rotation walks over.

use ap_core::{
    audit::AuditRecord,
    id::{KeyId, PlatformId, ProjectId},
    scope::Scope,
    store::{Entity, Precondition, Sealed, StoreError},
};
use ap_crypto::keyring::{KeyKind, WrappedKey};
use bytes::Bytes;

use super::{
    Harness,
    sample::{
        START, TICK, accept_about, at, audit, claim_one, connection, create_project, file, flow, hash, job, key,
        new_flow, open, project_id, sealed, signal, subject_key, trail, value, version,
    },
};
use crate::store::{
    Backend, CELL_BATCH_BYTES, CellKey, CellTable, ConnectionRecord, FileRecord, ResealedCell, RunChange, RunCommit,
    SealedCell, SharedConnection, Signaled, TriggerChange, ValueChange, ValueExpect, ValueRecord, ValueScope,
    ValueUsage, ValueWrite,
};

/// The whole table is read in order of id, a page at a time.
pub async fn pages_of_keys_cover_each_once(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    for number in [3, 1, 2] {
        backend.insert_key(key(number, project_id(number).into()), &[]).await.expect("a new key");
    }
    let (mut found, mut behind) = (Vec::new(), None);
    loop {
        let page = backend.key_page(behind, 2).await.expect("a page");
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        behind = Some(last.id);
        found.extend(page.iter().map(|key| key.id.as_u128()));
    }
    assert_eq!(found, [1, 2, 3]);
}

/// A key is replaced, with its audit record, while it is the one that was read, and not otherwise.
pub async fn a_key_is_replaced_only_while_it_is_unchanged(harness: &impl Harness) {
    let bench = open(harness).await;
    let (backend, scope) = (&*bench.backend, Scope::from(project_id(1)));
    let first = key(1, scope);
    backend.insert_key(first.clone(), &[]).await.expect("a new key");
    let changes: [WrappedKey; 4] = [
        WrappedKey { kind: KeyKind::Retired, ..first.clone() },
        WrappedKey { parent: KeyId::from_u128(9), ..first.clone() },
        WrappedKey { created: START.saturating_add(TICK), ..first.clone() },
        WrappedKey { wrapped: sealed("another"), ..first.clone() },
    ];
    for stale in &changes {
        let result = backend.replace_key(stale, first.clone(), &[audit(1, scope)]).await;
        assert!(matches!(result, Err(StoreError::Conflict { entity: Entity::Key, .. })), "{stale:?}: {result:?}");
        let result = backend.delete_key(stale, &[audit(1, scope)]).await;
        assert!(matches!(result, Err(StoreError::Conflict { entity: Entity::Key, .. })), "{stale:?}: {result:?}");
    }
    assert_eq!(trail(backend, project_id(1)).await, [] as [u128; 0], "nothing was changed");
    let mut stored = first.clone();
    for (number, next) in (1..).zip(changes) {
        backend.replace_key(&stored, next.clone(), &[audit(number, scope)]).await.expect("replaced");
        assert_eq!(backend.keys(scope).await.expect("keys"), std::slice::from_ref(&next));
        stored = next;
    }
    assert_eq!(trail(backend, project_id(1)).await, [1, 2, 3, 4]);
    let other = WrappedKey { id: KeyId::from_u128(2), ..stored.clone() };
    assert!(matches!(backend.replace_key(&stored, other.clone(), &[]).await, Err(StoreError::Backend(_))));
    let elsewhere = WrappedKey { scope: project_id(2).into(), ..stored.clone() };
    assert!(matches!(backend.replace_key(&stored, elsewhere, &[]).await, Err(StoreError::Backend(_))));
    let result = backend.replace_key(&other, other.clone(), &[]).await;
    assert!(matches!(result, Err(StoreError::NotFound { entity: Entity::Key })), "{result:?}");
}

/// A deleted key is gone.
pub async fn a_deleted_key_is_gone(harness: &impl Harness) {
    let bench = open(harness).await;
    let (backend, scope) = (&*bench.backend, Scope::from(project_id(1)));
    backend.insert_key(key(1, scope), &[]).await.expect("a new key");
    backend.delete_key(&key(1, scope), &[audit(1, scope)]).await.expect("deleted");
    assert_eq!(backend.keys(scope).await.expect("keys"), []);
    assert_eq!(trail(backend, project_id(1)).await, [1]);
    let result = backend.delete_key(&key(1, scope), &[]).await;
    assert!(matches!(result, Err(StoreError::NotFound { entity: Entity::Key })), "{result:?}");
    backend.insert_key(key(1, scope), &[]).await.expect("its id is free again");
}

/// Every sealed value of a project is a cell: each of its table, in order, with what its seal is bound to.
pub async fn every_sealed_value_is_a_cell(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let expected = populate(backend, 1).await;
    populate(backend, 2).await;
    for table in CellTable::ALL {
        let wanted: Vec<SealedCell> = expected.iter().filter(|cell| cell.key.table() == table).cloned().collect();
        assert!(!wanted.is_empty(), "{table:?}");
        assert_eq!(all(backend, table, 1).await, wanted, "{table:?}");
        let count = backend.count_cells(table, KEY, project_id(1).into()).await.expect("a count");
        assert_eq!(count, wanted.len() as u64, "{table:?}");
        assert_eq!(backend.count_cells(table, KEY, project_id(3).into()).await.expect("a count"), 0);
    }
}

/// A cell is replaced while it has the content that was read; the rest of its record stays.
pub async fn a_cell_is_replaced_only_while_it_is_unchanged(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    populate(backend, 1).await;
    let others = populate(backend, 2).await;
    for table in CellTable::ALL {
        let cells = all(backend, table, 1).await;
        let change = |cell: &SealedCell, old: &Sealed| ResealedCell {
            key: cell.key.clone(),
            old: old.clone(),
            new: under_key(),
        };
        let stale: Vec<ResealedCell> = cells.iter().map(|cell| change(cell, &sealed("stale"))).collect();
        assert_eq!(backend.reseal_cells(&stale, project_id(1).into()).await.expect("an answer"), 0, "{table:?}");
        let moved: Vec<ResealedCell> = cells.iter().map(|cell| change(cell, &cell.sealed)).collect();
        assert_eq!(backend.reseal_cells(&moved, project_id(3).into()).await.expect("an answer"), 0, "{table:?}");
        assert_eq!(all(backend, table, 1).await, cells, "{table:?}");

        let [first, rest @ ..] = moved.as_slice() else { unreachable!("no cell in {table:?}") };
        let mut mixed = vec![change(&cells[0], &sealed("stale")), first.clone()];
        mixed.extend_from_slice(rest);
        let replaced = backend.reseal_cells(&mixed, project_id(1).into()).await.expect("an answer");
        assert_eq!(replaced, cells.len() as u64, "{table:?}");
        assert_eq!(all(backend, table, 1).await, [], "{table:?}");
        assert_eq!(backend.count_cells(table, KEY, project_id(1).into()).await.expect("a count"), 0, "{table:?}");
        let listed = backend.cells(table, KeyId::from_u128(1), None, 100, project_id(1).into()).await.expect("cells");
        let keys: Vec<CellKey> = cells.iter().map(|cell| cell.key.clone()).collect();
        assert_eq!(listed.iter().map(|cell| cell.key.clone()).collect::<Vec<_>>(), keys, "{table:?}");
        assert!(listed.iter().all(|cell| cell.sealed == under_key()), "{table:?}");
    }
    for table in CellTable::ALL {
        let untouched: Vec<SealedCell> = others.iter().filter(|cell| cell.key.table() == table).cloned().collect();
        assert_eq!(all(backend, table, 2).await, untouched, "{table:?}");
    }
    // What read the records before goes on with them: no revision moved.
    let project = project_id(1);
    let record = backend.connection(connection(1, project).name, project.into()).await.expect("the connection");
    assert_eq!(record.sealed, under_key());
    let next = ConnectionRecord { revision: record.revision.next(), ..connection(1, project) };
    backend.write_connection(next, Precondition::Revision(record.revision), &[]).await.expect("written");
}

/// Cells are replaced one table at a time.
pub async fn cells_of_several_tables_are_not_replaced_together(harness: &impl Harness) {
    let bench = open(harness).await;
    let cells = populate(&*bench.backend, 1).await;
    let change = |cell: &SealedCell| ResealedCell { key: cell.key.clone(), old: cell.sealed.clone(), new: under_key() };
    let changes: Vec<ResealedCell> = cells.iter().map(change).collect();
    let result = bench.backend.reseal_cells(&changes, project_id(1).into()).await;
    assert!(matches!(result, Err(StoreError::Backend(_))), "{result:?}");
    assert_eq!(bench.backend.reseal_cells(&[], project_id(1).into()).await.expect("nothing to do"), 0);
}

/// One answer holds no more than its limit of bytes, and always something.
pub async fn an_answer_of_cells_is_bounded_by_its_bytes(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let project = create_project(backend, 1).await;
    for number in 1..=3 {
        let sealed = Sealed::from_bytes(Bytes::from(vec![7; CELL_BATCH_BYTES]));
        backend.write_file(FileRecord { sealed, ..file(number, project, None) }, &[]).await.expect("a new file");
    }
    let page = backend.cells(CellTable::Files, KEY, None, 100, project.into()).await.expect("cells");
    assert_eq!(page.len(), 1);
    assert_eq!(all(backend, CellTable::Files, 1).await.len(), 3);
}

/// All cells of a table that are not under [`KEY`], one by one.
async fn all(backend: &dyn Backend, table: CellTable, project: u128) -> Vec<SealedCell> {
    let (mut found, mut behind) = (Vec::new(), None);
    loop {
        let page = backend.cells(table, KEY, behind.take(), 1, project_id(project).into()).await.expect("cells");
        let Some(last) = page.last() else { return found };
        behind = Some(last.key.clone());
        found.extend(page);
    }
}

/// One record of each kind at least, and the cells of them.
async fn populate(backend: &dyn Backend, number: u128) -> Vec<SealedCell> {
    let project = create_project(backend, number).await;
    let flow = flow(number, project);
    let mut write = new_flow(&flow);
    let version = version(number, &flow);
    write.versions.push((version.clone(), Precondition::Absent));
    write.trigger = TriggerChange::Set { due: at(9_000), state: Some(sealed("state")) };
    backend.write_flow(write, &[audit(number, project)]).await.expect("a new flow");
    let connections = [connection(number, project), connection(number + 100, project)];
    for connection in &connections {
        backend.write_connection(connection.clone(), Precondition::Absent, &[]).await.expect("a new connection");
    }
    let shared = share(backend, number, project).await;
    let subject = subject_key(number + 300, number, project);
    let mut start = accept_about(number, &subject, &flow);
    start.lease = None;
    let first = start.entry.clone();
    backend.accept(start, &[audit(number + 100, project)]).await.expect("an answer");
    let lease = claim_one(backend).await;
    let entry = crate::store::JournalEntry { seq: 300, sealed: sealed("entry 300") };
    let mut commit = RunCommit::new(lease, RunChange::Stay).with_entries(vec![entry.clone()]);
    commit.files.push(file(number, project, Some(lease)));
    commit.jobs = vec![job(number, 1), job(number + 100, 2)];
    let own = ValueRecord { scope: ValueScope::Flow(flow.id), ..value(number + 100, 8, project) };
    let values = [value(number, 7, project), own];
    let put = |value: &ValueRecord| ValueChange {
        id: value.id,
        expect: ValueExpect::Absent,
        write: ValueWrite::Put(value.clone()),
    };
    commit.values = values.iter().map(put).collect();
    commit.value_limit = ValueUsage { entries: 2, bytes: 20 };
    backend.commit(commit, &[]).await.expect("a commit");
    let signals = [signal(number, 1, lease), signal(number + 100, 2, lease), signal(number + 200, 3, lease)];
    for signal in &signals {
        assert_eq!(backend.signal(signal.clone(), &[]).await.expect("an answer"), Signaled::Delivered);
    }
    // A signal that was taken has no content any more.
    let mut commit = RunCommit::new(lease, RunChange::Stay);
    commit.taken.push(signals[2].id);
    backend.commit(commit, &[]).await.expect("a commit");

    let cell = |key, sealed: &Sealed| SealedCell { key, sealed: sealed.clone() };
    let mut cells = vec![
        cell(CellKey::Project(project), &sealed("project")),
        cell(CellKey::SubjectKey(subject.id, subject.subject, subject.created), &subject.wrapped),
        cell(CellKey::SharedConnection(shared.connection), &shared.sealed),
        cell(CellKey::Flow(flow.id, flow.revision), &flow.sealed),
        cell(
            CellKey::FlowVersion {
                id: version.id,
                flow: flow.id,
                number: version.number,
                state: version.state,
                revision: version.revision,
            },
            &version.sealed,
        ),
        cell(CellKey::Trigger(flow.id, 0), &sealed("state")),
        cell(CellKey::Journal(lease.run, first.seq), &first.sealed),
        cell(CellKey::Journal(lease.run, entry.seq), &entry.sealed),
        cell(CellKey::File(file(number, project, None).id), &file(number, project, None).sealed),
    ];
    cells.extend(connections.iter().map(|one| cell(CellKey::Connection(one.id, one.revision), &one.sealed)));
    cells.extend(
        [job(number, 1), job(number + 100, 2)].iter().map(|job| cell(CellKey::Job(job.id, job.queue), &job.sealed)),
    );
    cells.extend(values.iter().map(|one| cell(CellKey::Value(one.id, one.scope, one.version), &one.sealed)));
    cells.extend(signals[..2].iter().map(|one| cell(CellKey::Signal(one.run, one.id, one.slot), &one.sealed)));
    cells.extend([number, number + 100].map(|number| {
        let AuditRecord { id, at, outcome, action, body, .. } = audit(number, project);
        cell(CellKey::Audit { id, at, outcome, action }, &body)
    }));
    cells
}

/// A connection of the platform that the project may use.
async fn share(backend: &dyn Backend, number: u128, project: ProjectId) -> SharedConnection {
    let platform = PlatformId::from_u128(1);
    let own = ConnectionRecord { owner: platform.into(), ..connection(number + 500, project) };
    backend.write_connection(own.clone(), Precondition::Absent, &[]).await.expect("a new connection");
    let cells = backend.cells(CellTable::Connections, KEY, None, 100, platform.into()).await.expect("cells");
    assert!(cells.iter().any(|cell| cell.key == CellKey::Connection(own.id, own.revision)), "the platform's own");
    let (name, sealed) = (hash(number + 500), sealed("shared"));
    let shared = SharedConnection { connection: own.id, owner: platform, project, name, sealed };
    backend.share_connection(shared.clone(), &[]).await.expect("shared");
    shared
}

/// Bytes that name [`KEY`] as an envelope does.
fn under_key() -> Sealed {
    let mut bytes = vec![1, 1];
    bytes.extend_from_slice(KEY.as_bytes());
    bytes.extend_from_slice(&[5; 80]);
    Sealed::from_bytes(bytes.into())
}

const KEY: KeyId = KeyId::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
