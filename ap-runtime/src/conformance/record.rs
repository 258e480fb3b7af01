//! Rules for what is written under preconditions, and for the audit trail.

use ap_core::{
    id::{ConnectionId, FlowId, FlowVersionId},
    scope::Scope,
    store::{Entity, Page, PageRequest, Precondition, Revision, Sealed, StoreError},
};
use bytes::Bytes;

use super::{
    Harness,
    sample::{
        START, accept, audit, changed_flow, connection, create_project, drop_after, flow, hash, key, new_flow, open,
        project_id, published, sealed, version,
    },
};
use crate::store::{FlowWrite, ProjectRecord, ProjectShare, RunFilter, TriggerChange, VersionState};

/// A project and its first key exist together or not at all, and neither id can be taken twice.
pub async fn a_project_and_its_key_are_created_together(harness: &impl Harness) {
    let bench = open(harness).await;
    let (one, two) = (project_id(1), project_id(2));
    let record = |id| ProjectRecord { id, created: START, share: ProjectShare::default(), sealed: sealed("name") };
    bench.backend.create_project(record(one), key(9, one.into()), &[audit(1, one)]).await.expect("a new project");
    assert_eq!(bench.backend.project(one).await.expect("the project"), record(one));
    assert_eq!(bench.backend.keys(one.into()).await.expect("its keys"), [key(9, one.into())]);

    let again = bench.backend.create_project(record(one), key(10, one.into()), &[]).await;
    assert!(matches!(again, Err(StoreError::AlreadyExists { entity: Entity::Project })), "{again:?}");
    let taken = bench.backend.create_project(record(two), key(9, two.into()), &[audit(2, two)]).await;
    assert!(matches!(taken, Err(StoreError::AlreadyExists { entity: Entity::Key })), "{taken:?}");
    let foreign = bench.backend.create_project(record(two), key(11, one.into()), &[]).await;
    assert!(matches!(foreign, Err(StoreError::Backend(_))), "{foreign:?}");
    let missing = bench.backend.project(two).await;
    assert!(matches!(missing, Err(StoreError::NotFound { entity: Entity::Project })), "{missing:?}");
    assert_eq!(bench.backend.keys(one.into()).await.expect("its keys").len(), 1);
}

/// A key id is taken once, whatever the scope.
pub async fn keys_are_unique_in_the_whole_table(harness: &impl Harness) {
    let bench = open(harness).await;
    let (one, two) = (Scope::Project(project_id(1)), Scope::Project(project_id(2)));
    bench.backend.insert_key(key(5, one), &[audit(1, one)]).await.expect("a new key");
    bench.backend.insert_key(key(6, one), &[]).await.expect("another key");
    let taken = bench.backend.insert_key(key(5, two), &[audit(1, two)]).await;
    assert!(matches!(taken, Err(StoreError::AlreadyExists { entity: Entity::Key })), "{taken:?}");
    let mut stored = bench.backend.keys(one).await.expect("keys");
    stored.sort_by_key(|key| key.id);
    assert_eq!(stored, [key(5, one), key(6, one)]);
    assert_eq!(bench.backend.keys(two).await.expect("keys"), []);
    assert_eq!(bench.backend.audit(two, &PageRequest::default()).await.expect("a page").items, []);
}

/// Flows and connections belong to a project that exists.
pub async fn a_flow_of_a_missing_project_is_refused(harness: &impl Harness) {
    let bench = open(harness).await;
    let refused = bench.backend.write_flow(new_flow(&flow(1, project_id(1))), &[]).await;
    assert!(matches!(refused, Err(StoreError::NotFound { entity: Entity::Project })), "{refused:?}");
    let refused = bench.backend.write_connection(connection(1, project_id(1)), Precondition::Absent, &[]).await;
    assert!(matches!(refused, Err(StoreError::NotFound { entity: Entity::Project })), "{refused:?}");
}

/// A flow is written only from the revision the writer has seen, and its new revision follows from it.
pub async fn flow_preconditions_hold(harness: &impl Harness) {
    let bench = open(harness).await;
    let first = flow(1, create_project(&*bench.backend, 1).await);
    let early = bench.backend.write_flow(changed_flow(&first, |_| {}), &[]).await;
    assert!(matches!(early, Err(StoreError::NotFound { entity: Entity::Flow })), "{early:?}");
    bench.backend.write_flow(new_flow(&first), &[]).await.expect("a new flow");
    let again = bench.backend.write_flow(new_flow(&first), &[]).await;
    assert!(matches!(again, Err(StoreError::AlreadyExists { entity: Entity::Flow })), "{again:?}");

    let second = changed_flow(&first, |flow| flow.enabled = false);
    bench.backend.write_flow(second.clone(), &[]).await.expect("the next revision");
    let stale = bench.backend.write_flow(changed_flow(&first, |_| {}), &[]).await;
    let current = Revision(2);
    assert!(
        matches!(stale, Err(StoreError::Conflict { entity: Entity::Flow, current: c }) if c == current),
        "{stale:?}"
    );
    let skipped = bench.backend.write_flow(changed_flow(&second.flow, |flow| flow.revision = Revision(9)), &[]).await;
    assert!(matches!(skipped, Err(StoreError::Backend(_))), "{skipped:?}");
    assert_eq!(bench.backend.flow(first.id, first.project).await.expect("the flow"), second.flow);
}

/// A flow and its versions change in one transaction: one failed precondition refuses all of it.
pub async fn a_flow_and_its_versions_are_written_together(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let mut draft = version(2, &flow);
    (draft.number, draft.state) = (2, VersionState::Draft);
    let stale = Precondition::Revision(Revision(4));
    let mut refused = changed_flow(&flow, |flow| flow.draft = Some(draft.id));
    let mut other = version(3, &flow);
    (other.number, other.revision) = (3, Revision(5));
    refused.versions = vec![(draft.clone(), Precondition::Absent), (other, stale)];
    let error = bench.backend.write_flow(refused.clone(), &[audit(1, flow.project)]).await;
    assert!(matches!(error, Err(StoreError::NotFound { entity: Entity::FlowVersion })), "{error:?}");
    assert_eq!(bench.backend.flow(flow.id, flow.project).await.expect("the flow"), flow);
    let gone = bench.backend.flow_version(draft.id, flow.project).await;
    assert!(matches!(gone, Err(StoreError::NotFound { .. })), "{gone:?}");

    refused.versions.truncate(1);
    bench.backend.write_flow(refused.clone(), &[audit(1, flow.project)]).await.expect("both");
    assert_eq!(bench.backend.flow(flow.id, flow.project).await.expect("the flow"), refused.flow);
    assert_eq!(bench.backend.flow_version(draft.id, flow.project).await.expect("the draft"), draft);

    let mut strange = draft.clone();
    strange.flow = FlowId::from_u128(77);
    let mut write = changed_flow(&refused.flow, |_| {});
    write.versions = vec![(strange, Precondition::Absent)];
    let error = bench.backend.write_flow(write, &[]).await;
    assert!(matches!(error, Err(StoreError::Backend(_))), "{error:?}");
}

/// Once locked, a version is the same for ever.
pub async fn a_locked_version_never_changes(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let mut draft = version(2, &flow);
    (draft.number, draft.state) = (2, VersionState::Draft);
    let mut write = changed_flow(&flow, |_| {});
    write.versions = vec![(draft.clone(), Precondition::Absent)];
    bench.backend.write_flow(write.clone(), &[]).await.expect("a draft");

    let mut locked = draft.clone();
    (locked.state, locked.revision) = (VersionState::Locked, Revision(2));
    let mut write = changed_flow(&write.flow, |_| {});
    write.versions = vec![(locked.clone(), Precondition::Revision(Revision(1)))];
    bench.backend.write_flow(write.clone(), &[]).await.expect("a draft can be locked");

    let mut changed = locked.clone();
    (changed.state, changed.revision) = (VersionState::Draft, Revision(3));
    let mut write = changed_flow(&write.flow, |_| {});
    write.versions = vec![(changed, Precondition::Revision(Revision(2)))];
    let error = bench.backend.write_flow(write, &[]).await;
    let current = Revision(2);
    let entity = Entity::FlowVersion;
    assert!(
        matches!(error, Err(StoreError::Conflict { entity: e, current: c }) if (e, c) == (entity, current)),
        "{error:?}"
    );
    assert_eq!(bench.backend.flow_version(draft.id, flow.project).await.expect("the version"), locked);
}

/// No two versions of a flow have the same number; those of two flows may.
pub async fn version_numbers_are_unique_within_a_flow(harness: &impl Harness) {
    let bench = open(harness).await;
    let one = published(&*bench.backend, 1).await;
    let mut write = changed_flow(&one, |_| {});
    write.versions = vec![(version(2, &one), Precondition::Absent)];
    let taken = bench.backend.write_flow(write, &[]).await;
    assert!(matches!(taken, Err(StoreError::AlreadyExists { entity: Entity::FlowVersion })), "{taken:?}");
    let mut write = changed_flow(&one, |_| {});
    let twin = |id| {
        let mut version = version(id, &one);
        version.number = 2;
        (version, Precondition::Absent)
    };
    write.versions = vec![twin(2), twin(3)];
    let taken = bench.backend.write_flow(write, &[]).await;
    assert!(matches!(taken, Err(StoreError::AlreadyExists { entity: Entity::FlowVersion })), "{taken:?}");
    let other = flow(2, one.project);
    let versions = vec![(version(2, &other), Precondition::Absent)];
    let write = FlowWrite { flow: other, precondition: Precondition::Absent, versions, trigger: TriggerChange::Keep };
    bench.backend.write_flow(write, &[]).await.expect("number 1 of another flow");
}

/// A webhook token leads to one flow of one project, and is free again once its flow has another.
pub async fn webhook_hashes_are_unique_over_all_projects(harness: &impl Harness) {
    let bench = open(harness).await;
    let mine = published(&*bench.backend, 1).await;
    let mut theirs = flow(2, create_project(&*bench.backend, 2).await);
    theirs.webhook = mine.webhook;
    let taken = bench.backend.write_flow(new_flow(&theirs), &[]).await;
    assert!(matches!(taken, Err(StoreError::AlreadyExists { entity: Entity::Flow })), "{taken:?}");
    let moved = changed_flow(&mine, |flow| flow.webhook = hash(50));
    bench.backend.write_flow(moved, &[]).await.expect("another token");
    assert_eq!(bench.backend.route(mine.webhook).await.expect("a look-up"), None);
    bench.backend.write_flow(new_flow(&theirs), &[]).await.expect("the old token is free");
    let route = bench.backend.route(theirs.webhook).await.expect("a look-up").expect("a route");
    assert_eq!((route.project, route.flow), (theirs.project, theirs.id));
}

/// A connection is written only from the revision the writer has seen.
pub async fn connection_preconditions_hold(harness: &impl Harness) {
    let bench = open(harness).await;
    let first = connection(1, create_project(&*bench.backend, 1).await);
    let mut second = first.clone();
    (second.revision, second.sealed) = (Revision(2), sealed("new value"));
    let after = Precondition::Revision(Revision::FIRST);
    let early = bench.backend.write_connection(second.clone(), after, &[]).await;
    assert!(matches!(early, Err(StoreError::NotFound { entity: Entity::Connection })), "{early:?}");
    bench.backend.write_connection(first.clone(), Precondition::Absent, &[]).await.expect("a new connection");
    let again = bench.backend.write_connection(first.clone(), Precondition::Absent, &[]).await;
    assert!(matches!(again, Err(StoreError::AlreadyExists { entity: Entity::Connection })), "{again:?}");
    bench.backend.write_connection(second.clone(), after, &[]).await.expect("the next revision");
    let stale = bench.backend.write_connection(second.clone(), after, &[]).await;
    assert!(matches!(stale, Err(StoreError::Conflict { current: Revision(2), .. })), "{stale:?}");
    assert_eq!(bench.backend.connection(first.name, first.owner).await.expect("the connection"), second);
}

/// A name is taken once per project.
pub async fn connection_names_are_unique_within_a_project(harness: &impl Harness) {
    let bench = open(harness).await;
    let one = create_project(&*bench.backend, 1).await;
    let two = create_project(&*bench.backend, 2).await;
    let first = connection(1, one);
    bench.backend.write_connection(first.clone(), Precondition::Absent, &[]).await.expect("a new connection");
    let mut twin = connection(2, one);
    twin.name = first.name;
    let taken = bench.backend.write_connection(twin.clone(), Precondition::Absent, &[]).await;
    assert!(matches!(taken, Err(StoreError::AlreadyExists { entity: Entity::Connection })), "{taken:?}");
    twin.owner = two.into();
    bench.backend.write_connection(twin, Precondition::Absent, &[]).await.expect("the name in another project");
}

/// Only what was seen can be deleted.
pub async fn deleting_a_connection_needs_its_revision(harness: &impl Harness) {
    let bench = open(harness).await;
    let project = create_project(&*bench.backend, 1).await;
    let first = connection(1, project);
    bench.backend.write_connection(first.clone(), Precondition::Absent, &[]).await.expect("a new connection");
    let stale = bench.backend.delete_connection(first.id, project.into(), Revision(2), &[audit(1, project)]).await;
    assert!(matches!(stale, Err(StoreError::Conflict { current: Revision::FIRST, .. })), "{stale:?}");
    bench
        .backend
        .delete_connection(first.id, project.into(), Revision::FIRST, &[audit(2, project)])
        .await
        .expect("deleted");
    let gone = bench.backend.connection(first.name, project.into()).await;
    assert!(matches!(gone, Err(StoreError::NotFound { entity: Entity::Connection })), "{gone:?}");
    let again = bench.backend.delete_connection(first.id, project.into(), Revision::FIRST, &[]).await;
    assert!(matches!(again, Err(StoreError::NotFound { entity: Entity::Connection })), "{again:?}");
    let trail = bench.backend.audit(project.into(), &PageRequest::default()).await.expect("a page");
    assert_eq!(trail.items, [audit(2, project)]);
}

/// Following the cursor of each listing shows each record once, in order of id, whatever the page size.
pub async fn pages_cover_each_record_once(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let project = flow.project;
    let expected: Vec<u128> = (1..=7).collect();
    for number in [5_u128, 2, 7, 3, 6, 4] {
        backend.write_flow(new_flow(&self::flow(number, project)), &[]).await.expect("a flow");
        let mut write = changed_flow(&backend.flow(flow.id, project).await.expect("the flow"), |_| {});
        let mut version = version(number, &flow);
        version.number = u32::try_from(number).expect("a small number");
        write.versions = vec![(version, Precondition::Absent)];
        backend.write_flow(write, &[]).await.expect("a version");
    }
    for number in [3_u128, 1, 7, 2, 5, 4, 6] {
        backend.write_connection(connection(number, project), Precondition::Absent, &[]).await.expect("a connection");
        backend.accept(accept(number, &flow), &[audit(number, project)]).await.expect("a run");
    }
    for limit in [1, 2, 7, 8] {
        let first = PageRequest::first(limit);
        let ids = follow(first, async |page| backend.flows(project, page).await, |row| row.id.as_u128()).await;
        assert_eq!(ids, expected, "flows by {limit}");
        let read = async |page: &PageRequest| backend.flow_versions(flow.id, project, page).await;
        assert_eq!(follow(first, read, |row| row.id.as_u128()).await, expected, "versions by {limit}");
        let read = async |page: &PageRequest| backend.connections(project.into(), page).await;
        assert_eq!(follow(first, read, |row| row.id.as_u128()).await, expected, "connections by {limit}");
        for flow in [None, Some(flow.id)] {
            let read = async |page: &PageRequest| {
                backend.runs(RunFilter { flow, ..RunFilter::default() }, project, page).await
            };
            assert_eq!(follow(first, read, |row| row.id.as_u128()).await, expected, "runs by {limit}");
        }
        let read = async |page: &PageRequest| backend.audit(project.into(), page).await;
        assert_eq!(follow(first, read, |row| row.id.as_u128()).await, expected, "audit by {limit}");
    }
}

async fn follow<T>(
    mut page: PageRequest,
    read: impl AsyncFn(&PageRequest) -> Result<Page<T>, StoreError>,
    id: impl Fn(&T) -> u128,
) -> Vec<u128> {
    let mut ids = Vec::new();
    loop {
        let Page { items, next } = read(&page).await.expect("a page");
        assert!(items.len() <= page.limit() as usize, "a page of {} is too long", items.len());
        ids.extend(items.iter().map(&id));
        match next {
            Some(cursor) => page = page.after(cursor),
            None => return ids,
        }
    }
}

/// Payloads of any bytes and any size come back bit for bit, from every place that keeps them.
pub async fn sealed_bytes_come_back_unchanged(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let all_bytes: Vec<u8> = (0..=u8::MAX).collect();
    let samples = [Vec::new(), vec![0], all_bytes.clone(), all_bytes.repeat(300)];
    let flow = published(backend, 1).await;
    let project = flow.project;
    for (number, bytes) in (10_u128..).zip(samples) {
        let payload = Sealed::from_bytes(Bytes::from(bytes));
        let mut stored = self::flow(number, project);
        stored.sealed = payload.clone();
        let mut of_it = version(number, &stored);
        of_it.sealed = payload.clone();
        let mut write = new_flow(&stored);
        write.versions.push((of_it, Precondition::Absent));
        backend.write_flow(write, &[]).await.expect("a flow");
        assert_eq!(backend.flow(stored.id, project).await.expect("the flow").sealed, payload);
        let version = backend.flow_version(FlowVersionId::from_u128(number), project).await.expect("the version");
        assert_eq!(version.sealed, payload);

        let mut stored = connection(number, project);
        stored.sealed = payload.clone();
        backend.write_connection(stored.clone(), Precondition::Absent, &[]).await.expect("a connection");
        assert_eq!(backend.connection(stored.name, project.into()).await.expect("the connection").sealed, payload);

        let mut line = audit(number, project);
        line.body = payload.clone();
        let mut run = accept(number, &flow);
        run.entry.sealed = payload.clone();
        let id = run.run.id;
        backend.accept(run, &[line]).await.expect("a run");
        assert_eq!(backend.journal(id, project).await.expect("the journal").pop().expect("an entry").sealed, payload);
        let trail = backend.audit(project.into(), &PageRequest::default()).await.expect("a page");
        assert_eq!(trail.items.last().expect("a record").body, payload);
    }
}

/// An audit record is never replaced: a second one of the same id and scope is refused with all that came with it.
pub async fn audit_ids_are_unique_within_a_scope(harness: &impl Harness) {
    let bench = open(harness).await;
    let (one, two) = (project_id(1), project_id(2));
    bench.backend.append_audit(&[audit(1, one), audit(1, two)]).await.expect("one record per scope");
    let again = bench.backend.append_audit(&[audit(2, one), audit(1, one)]).await;
    assert!(matches!(again, Err(StoreError::AlreadyExists { entity: Entity::AuditRecord })), "{again:?}");
    let trail = bench.backend.audit(one.into(), &PageRequest::default()).await.expect("a page");
    assert_eq!(trail.items, [audit(1, one)]);
    bench.backend.append_audit(&[]).await.expect("nothing to do");
}

/// The audit records of a write that did not happen are not there either.
pub async fn a_refused_write_leaves_no_audit_record(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let project = flow.project;
    let line = [audit(1, project)];
    assert!(bench.backend.write_flow(new_flow(&flow), &line).await.is_err());
    let absent = Precondition::Revision(Revision(3));
    let mut stored = connection(1, project);
    stored.revision = Revision(4);
    assert!(bench.backend.write_connection(stored, absent, &line).await.is_err());
    assert!(
        bench.backend.delete_connection(ConnectionId::from_u128(1), project.into(), Revision(1), &line).await.is_err()
    );
    assert!(bench.backend.insert_key(key(1_001, project.into()), &line).await.is_err());
    let mut stale = accept(1, &flow);
    stale.generation = 9;
    bench.backend.accept(stale, &line).await.expect("an answer");
    let trail = bench.backend.audit(project.into(), &PageRequest::default()).await.expect("a page");
    assert_eq!(trail.items, []);
}

/// A write whose future is dropped happens wholly or not at all.
pub async fn a_dropped_write_leaves_old_or_new(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let project = create_project(backend, 1).await;
    for polls in 0..12_usize {
        let number = 100 + polls as u128;
        let stored = flow(number, project);
        let mut write = new_flow(&stored);
        write.versions.push((version(number, &stored), Precondition::Absent));
        drop_after(polls, backend.write_flow(write, &[audit(number, project)])).await;
        // A later write is answered after an earlier one was decided.
        backend.append_audit(&[audit(1_000 + number, project)]).await.expect("a later write");
        let flow_is = backend.flow(stored.id, project).await.is_ok();
        let version_is = backend.flow_version(FlowVersionId::from_u128(number), project).await.is_ok();
        let trail = backend.audit(project.into(), &PageRequest::default()).await.expect("a page");
        let audit_is = trail.items.iter().any(|line| line.id.as_u128() == number);
        assert_eq!((flow_is, version_is), (audit_is, audit_is), "torn after {polls} polls");
    }
}
