//! Leases on connections, and connections of the platform.

use ap_core::{
    id::{ConnectionId, PlatformId, ProjectId},
    scope::Scope,
    store::{Entity, PageRequest, Precondition, Revision, StoreError},
};

use super::{
    Harness,
    sample::{LEASE, SECOND, START, TICK, audit, connection, create_project, hash, open, project_id, sealed},
};
use crate::store::{ConnectionRecord, SharedConnection};

const PLATFORM: PlatformId = PlatformId::from_u128(1);

fn of_platform(number: u128) -> ConnectionRecord {
    ConnectionRecord { owner: PLATFORM.into(), ..connection(number, project_id(0)) }
}

fn shared(number: u128, project: ProjectId, name: u128) -> SharedConnection {
    SharedConnection {
        connection: ConnectionId::from_u128(number),
        owner: PLATFORM,
        project,
        name: hash(name),
        sealed: sealed("shared"),
    }
}

fn next(record: &ConnectionRecord) -> (ConnectionRecord, Precondition) {
    let next = ConnectionRecord { revision: record.revision.next(), ..record.clone() };
    (next, Precondition::Revision(record.revision))
}

/// Of many who want to renew a connection, one may.
pub async fn a_connection_is_leased_by_one_at_a_time(harness: &impl Harness) {
    let bench = open(harness).await;
    let record = connection(1, create_project(&*bench.backend, 1).await);
    bench.backend.write_connection(record.clone(), Precondition::Absent, &[]).await.expect("a new connection");
    let asked = (0..8).map(|_| bench.backend.lease_connection(record.id, record.owner, record.revision, LEASE));
    let answers = futures_util::future::join_all(asked).await;
    let taken: Vec<_> = answers.into_iter().filter_map(|answer| answer.expect("an answer")).collect();
    assert_eq!(taken, [1]);
    assert_eq!(bench.backend.connection(record.name, record.owner).await.expect("it"), record, "a lease is no write");
}

/// Whoever comes after the end of a lease gets one of a greater epoch, and so does whoever comes after a write.
pub async fn a_lease_on_a_connection_ends_by_time_or_with_a_write(harness: &impl Harness) {
    let bench = open(harness).await;
    let record = connection(1, create_project(&*bench.backend, 1).await);
    bench.backend.write_connection(record.clone(), Precondition::Absent, &[]).await.expect("a new connection");
    let lease = async |revision| bench.backend.lease_connection(record.id, record.owner, revision, LEASE).await;
    assert_eq!(lease(Revision::FIRST).await.expect("an answer"), Some(1));
    bench.clock.advance(LEASE - TICK);
    assert_eq!(lease(Revision::FIRST).await.expect("an answer"), None);
    bench.clock.advance(TICK);
    assert_eq!(lease(Revision::FIRST).await.expect("an answer"), Some(2));
    let (second, seen) = next(&record);
    bench.backend.write_connection(second, seen, &[]).await.expect("the next revision");
    assert_eq!(lease(Revision(2)).await.expect("an answer"), Some(3));
}

/// A holder may end its lease at once, or say for how long nobody is to try again; one that was replaced says nothing.
pub async fn a_released_connection_rests_as_long_as_it_is_told(harness: &impl Harness) {
    let bench = open(harness).await;
    let record = connection(1, create_project(&*bench.backend, 1).await);
    bench.backend.write_connection(record.clone(), Precondition::Absent, &[]).await.expect("a new connection");
    let lease = async || bench.backend.lease_connection(record.id, record.owner, record.revision, LEASE).await;
    let release = async |epoch, rest| bench.backend.release_connection(record.id, record.owner, epoch, rest).await;
    assert_eq!(lease().await.expect("an answer"), Some(1));
    release(1, std::time::Duration::ZERO).await.expect("released");
    assert_eq!(lease().await.expect("an answer"), Some(2));
    release(1, std::time::Duration::ZERO).await.expect("nothing");
    assert_eq!(lease().await.expect("an answer"), None, "a replaced holder ended the lease of another");
    release(2, 5 * SECOND).await.expect("released");
    bench.clock.advance(5 * SECOND - TICK);
    assert_eq!(lease().await.expect("an answer"), None);
    bench.clock.advance(TICK);
    assert_eq!(lease().await.expect("an answer"), Some(3));
}

/// What only the holder of the last lease may say is refused to all others; then nothing is written.
pub async fn a_replaced_holder_cannot_write_under_its_lease(harness: &impl Harness) {
    let bench = open(harness).await;
    let project = create_project(&*bench.backend, 1).await;
    let record = connection(1, project);
    bench.backend.write_connection(record.clone(), Precondition::Absent, &[]).await.expect("a new connection");
    let lease = async || bench.backend.lease_connection(record.id, record.owner, record.revision, LEASE).await;
    assert_eq!(lease().await.expect("an answer"), Some(1));
    bench.clock.advance(LEASE);
    assert_eq!(lease().await.expect("an answer"), Some(2));
    let (second, _) = next(&record);
    let write = async |epoch, line| {
        let under = (record.revision, epoch);
        bench.backend.write_leased_connection(second.clone(), under, &[audit(line, project)]).await
    };
    let late = write(1, 1).await;
    assert!(matches!(late, Err(StoreError::Fenced)), "{late:?}");
    assert_eq!(bench.backend.connection(record.name, record.owner).await.expect("it"), record);
    write(2, 1).await.expect("the holder's, and the number of its line is free");
    let again = write(2, 2).await;
    let conflict = StoreError::Conflict { entity: Entity::Connection, current: Revision(2) };
    assert_eq!(format!("{again:?}"), format!("{:?}", Err::<(), _>(conflict)));
}

/// Whoever has seen an old revision gets no lease: the tokens are new already.
pub async fn a_lease_needs_the_revision_it_was_seen_at(harness: &impl Harness) {
    let bench = open(harness).await;
    let record = connection(1, create_project(&*bench.backend, 1).await);
    let lease = async |revision| bench.backend.lease_connection(record.id, record.owner, revision, LEASE).await;
    let missing = lease(Revision::FIRST).await;
    assert!(matches!(missing, Err(StoreError::NotFound { entity: Entity::Connection })), "{missing:?}");
    bench.backend.write_connection(record.clone(), Precondition::Absent, &[]).await.expect("a new connection");
    let (second, seen) = next(&record);
    bench.backend.write_connection(second, seen, &[]).await.expect("the next revision");
    let stale = lease(Revision::FIRST).await;
    assert!(matches!(stale, Err(StoreError::Conflict { current: Revision(2), .. })), "{stale:?}");
    assert_eq!(lease(Revision(2)).await.expect("an answer"), Some(1));
}

/// A connection is due from its time on, whoever it belongs to, until it is written again; those that have been so longest come
/// first.
pub async fn a_connection_is_due_from_its_time_on(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &bench.backend;
    let project = create_project(&**backend, 1).await;
    let at = |seconds: u32| Some(START.saturating_add(seconds * SECOND));
    let records = [
        ConnectionRecord { due: at(20), ..connection(1, project) },
        ConnectionRecord { due: at(10), ..of_platform(2) },
        ConnectionRecord { due: None, ..connection(3, project) },
    ];
    for record in &records {
        backend.write_connection(record.clone(), Precondition::Absent, &[]).await.expect("a new connection");
        assert_eq!(backend.connection(record.name, record.owner).await.expect("it"), *record, "kept as it was");
    }
    let due = async |limit| backend.due_connections(limit).await.expect("an answer");
    bench.clock.advance(10 * SECOND - TICK);
    assert_eq!(due(10).await, []);
    bench.clock.advance(TICK);
    assert_eq!(due(10).await, [records[1].clone()]);
    bench.clock.advance(10 * SECOND);
    assert_eq!(due(10).await, [records[1].clone(), records[0].clone()]);
    assert_eq!(due(1).await, [records[1].clone()]);
    let (mut second, seen) = next(&records[1]);
    second.due = at(3_600);
    backend.write_connection(second.clone(), seen, &[]).await.expect("the next revision");
    assert_eq!(due(10).await, [records[0].clone()]);
    bench.clock.advance(3_600 * SECOND);
    let (mut third, seen) = next(&second);
    third.due = None;
    backend.write_connection(third, seen, &[]).await.expect("the next revision");
    assert_eq!(due(10).await, [records[0].clone()]);
    let owner = records[0].owner;
    backend.delete_connection(records[0].id, owner, Revision::FIRST, &[]).await.expect("deleted");
    assert_eq!(due(10).await, []);
}

/// A project sees what it was given, and no other project does.
pub async fn a_connection_of_the_platform_shows_where_it_was_shared(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &bench.backend;
    let (one, two) = (create_project(&**backend, 1).await, create_project(&**backend, 2).await);
    let early = backend.share_connection(shared(1, one, 9), &[]).await;
    assert!(matches!(early, Err(StoreError::NotFound { entity: Entity::Connection })), "{early:?}");
    for number in 1..=3 {
        backend.write_connection(of_platform(number), Precondition::Absent, &[]).await.expect("the platform's");
        backend.share_connection(shared(number, one, 10 + number), &[]).await.expect("shared");
    }
    let nowhere = backend.share_connection(shared(1, project_id(9), 9), &[]).await;
    assert!(matches!(nowhere, Err(StoreError::NotFound { entity: Entity::Project })), "{nowhere:?}");
    assert_eq!(backend.shared_connection(hash(12), one).await.expect("given"), (shared(2, one, 12), of_platform(2)));
    assert!(backend.shared_connection(hash(12), two).await.is_err());
    assert!(backend.connection(hash(2), one.into()).await.is_err(), "a shared one is no own one");
    let first = backend.shared_connections(one, &PageRequest::first(2)).await.expect("a page");
    let rest = backend.shared_connections(one, &PageRequest::first(2).after(first.next.expect("more"))).await;
    let seen: Vec<_> = first.items.into_iter().chain(rest.expect("a page").items).map(|(of, _)| of).collect();
    assert_eq!(seen, [shared(1, one, 11), shared(2, one, 12), shared(3, one, 13)]);
    assert_eq!(backend.shared_connections(two, &PageRequest::default()).await.expect("a page").items, []);
    backend.unshare_connection(ConnectionId::from_u128(2), one, &[]).await.expect("taken back");
    assert!(backend.shared_connection(hash(12), one).await.is_err());
    assert!(backend.unshare_connection(ConnectionId::from_u128(2), one, &[]).await.is_err());
}

/// Under one name a project was given one connection; giving the same again replaces what says so.
pub async fn shared_names_are_unique_within_a_project(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &bench.backend;
    let (one, two) = (create_project(&**backend, 1).await, create_project(&**backend, 2).await);
    for number in 1..=2 {
        backend.write_connection(of_platform(number), Precondition::Absent, &[]).await.expect("the platform's");
    }
    backend.share_connection(shared(1, one, 9), &[]).await.expect("shared");
    let taken = backend.share_connection(shared(2, one, 9), &[audit(1, one)]).await;
    assert!(matches!(taken, Err(StoreError::AlreadyExists { entity: Entity::Connection })), "{taken:?}");
    backend.share_connection(shared(2, two, 9), &[audit(1, one)]).await.expect("the name in another project");
    backend.share_connection(shared(1, one, 8), &[]).await.expect("the same again, by another name");
    assert!(backend.shared_connection(hash(9), one).await.is_err());
    assert!(backend.shared_connection(hash(8), one).await.is_ok());
}

/// With a connection of the platform goes what says who may use it.
pub async fn a_deleted_connection_is_taken_from_every_project(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &bench.backend;
    let project = create_project(&**backend, 1).await;
    backend.write_connection(of_platform(1), Precondition::Absent, &[]).await.expect("the platform's");
    backend.share_connection(shared(1, project, 9), &[]).await.expect("shared");
    let owner = Scope::Platform(PLATFORM);
    backend.delete_connection(ConnectionId::from_u128(1), owner, Revision::FIRST, &[]).await.expect("deleted");
    assert!(backend.shared_connection(hash(9), project).await.is_err());
    backend.write_connection(of_platform(1), Precondition::Absent, &[]).await.expect("a new one of the same id");
    assert!(backend.shared_connection(hash(9), project).await.is_err(), "an old share gives a new connection away");
}

/// Id and name are its owner's: what a project and the platform have by the same are two.
pub async fn equal_ids_of_a_project_and_the_platform_are_two_connections(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &bench.backend;
    // The project has the number of the platform.
    let project = create_project(&**backend, 1).await;
    backend.write_connection(connection(1, project), Precondition::Absent, &[]).await.expect("the project's");
    backend.write_connection(of_platform(1), Precondition::Absent, &[]).await.expect("the platform's");
    let platform = Scope::Platform(PLATFORM);
    assert_eq!(backend.connection(hash(1), platform).await.expect("it"), of_platform(1));
    assert_eq!(backend.connections(platform, &PageRequest::default()).await.expect("a page").items, [of_platform(1)]);
    backend.delete_connection(ConnectionId::from_u128(1), platform, Revision::FIRST, &[]).await.expect("deleted");
    assert_eq!(backend.connection(hash(1), project.into()).await.expect("it"), connection(1, project));
}
