//! Rules of isolation: nothing of one project is visible from another, not even that it exists.

use ap_core::{
    id::{AuditId, ConnectionId, FlowId, FlowVersionId, PlatformId, RunId},
    run::RunStatus,
    scope::Scope,
    store::{Entity, PageRequest, Precondition, Revision, StoreError},
};

use super::{
    Harness,
    sample::{
        LEASE, SECOND, START, accept, accept_once, at, audit, change, changed_flow, claim_all, connection, create,
        create_project, entry, file, flow, hash, job, jobs_of, key, new_flow, open, project_id, published, running,
        sealed, signal, trail, version, worker,
    },
};
use crate::store::{
    Accept, Accepted, Debounce, FlowWrite, Gate, JobEnd, JobRequest, Lease, Pace, QueueCounts, RunChange, RunCommit,
    RunControl, RunFilter, Signaled, TriggerChange, TriggerFire,
};

/// Every read by id answers `NotFound` for a record of another project.
pub async fn reads_hide_other_projects(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let other = create_project(backend, 2).await;
    backend.write_connection(connection(1, flow.project), Precondition::Absent, &[]).await.expect("a connection");
    backend.accept(accept(1, &flow), &[]).await.expect("a run");
    let run = RunId::from_u128(1);
    for project in [other, project_id(3)] {
        assert!(not_found(backend.flow(flow.id, project).await, Entity::Flow));
        assert!(not_found(backend.flow_version(FlowVersionId::from_u128(1), project).await, Entity::FlowVersion));
        assert!(not_found(backend.connection(hash(1), project.into()).await, Entity::Connection));
        assert!(not_found(backend.run(run, project).await, Entity::Run));
        assert!(not_found(backend.journal(run, project).await, Entity::Run));
    }
    assert!(not_found(backend.project(project_id(3)).await, Entity::Project));
    assert!(backend.run(run, flow.project).await.is_ok());
    assert!(backend.flow(flow.id, flow.project).await.is_ok());
    assert!(backend.flow_version(FlowVersionId::from_u128(1), flow.project).await.is_ok());
    assert!(backend.connection(hash(1), flow.project.into()).await.is_ok());
    assert!(backend.journal(run, flow.project).await.is_ok());
}

/// Every listing is empty for another project, also when asked for a flow it does not own.
pub async fn listings_hide_other_projects(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let other = create_project(backend, 2).await;
    backend.write_connection(connection(1, flow.project), Precondition::Absent, &[]).await.expect("a connection");
    backend.accept(accept(1, &flow), &[audit(1, flow.project)]).await.expect("a run");
    let page = PageRequest::default();
    let of_flow = RunFilter { flow: Some(flow.id), ..RunFilter::default() };
    assert_eq!(backend.flows(other, &page).await.expect("a page").items, []);
    assert_eq!(backend.flow_versions(flow.id, other, &page).await.expect("a page").items, []);
    assert_eq!(backend.connections(other.into(), &page).await.expect("a page").items, []);
    assert_eq!(backend.runs(RunFilter::default(), other, &page).await.expect("a page").items, []);
    assert_eq!(backend.runs(of_flow, other, &page).await.expect("a page").items, []);
    assert_eq!(backend.audit(other.into(), &page).await.expect("a page").items, []);
    assert_eq!(backend.flows(flow.project, &page).await.expect("a page").items.len(), 1);
    assert_eq!(backend.runs(of_flow, flow.project, &page).await.expect("a page").items.len(), 1);
}

/// A write that names a record of another project finds nothing, and leaves it as it was.
pub async fn writes_do_not_reach_other_projects(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let theirs = published(backend, 1).await;
    let stored = connection(1, theirs.project);
    backend.write_connection(stored.clone(), Precondition::Absent, &[]).await.expect("a connection");
    let mine = create_project(backend, 2).await;

    let attack = changed_flow(&theirs, |flow| {
        flow.project = mine;
        flow.webhook = hash(99);
    });
    assert!(not_found(backend.write_flow(attack, &[]).await, Entity::Flow));
    let own = flow(7, mine);
    backend.write_flow(new_flow(&own), &[]).await.expect("a flow of mine");
    let mut attack = changed_flow(&own, |_| {});
    let mut of_theirs = version(1, &own);
    of_theirs.revision = Revision(2);
    attack.versions = vec![(of_theirs, Precondition::Revision(Revision::FIRST))];
    assert!(not_found(backend.write_flow(attack, &[]).await, Entity::FlowVersion));

    let mut attack = stored.clone();
    (attack.owner, attack.revision) = (mine.into(), Revision(2));
    let seen = Precondition::Revision(Revision::FIRST);
    assert!(not_found(backend.write_connection(attack, seen, &[]).await, Entity::Connection));
    assert!(not_found(
        backend.delete_connection(stored.id, mine.into(), Revision::FIRST, &[]).await,
        Entity::Connection
    ));

    assert_eq!(backend.flow(theirs.id, theirs.project).await.expect("their flow"), theirs);
    assert_eq!(backend.connection(stored.name, theirs.project.into()).await.expect("their connection"), stored);
}

/// An id that another project happens to use is free, and the two records have nothing to do with each other.
pub async fn equal_ids_in_two_projects_are_two_records(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let theirs = published(backend, 1).await;
    let project = create_project(backend, 2).await;
    backend.write_connection(connection(1, theirs.project), Precondition::Absent, &[]).await.expect("theirs");
    backend.accept(accept(1, &theirs), &[]).await.expect("their run");

    let mut mine = flow(1, project);
    (mine.webhook, mine.sealed) = (hash(2), sealed("mine"));
    let mut write = new_flow(&mine);
    write.versions.push((version(1, &mine), Precondition::Absent));
    backend.write_flow(write, &[]).await.expect("the id is free here");
    let mut stored = connection(1, project);
    stored.sealed = sealed("mine");
    backend.write_connection(stored.clone(), Precondition::Absent, &[]).await.expect("the id and name are free here");
    let mut run = accept(1, &mine);
    run.entry.sealed = sealed("mine");
    assert_eq!(backend.accept(run, &[]).await.expect("an answer"), Accepted::Created { leased: false });

    assert_eq!(backend.flow(FlowId::from_u128(1), theirs.project).await.expect("their flow"), theirs);
    assert_eq!(backend.flow(FlowId::from_u128(1), project).await.expect("my flow"), mine);
    backend
        .delete_connection(ConnectionId::from_u128(1), project.into(), Revision::FIRST, &[])
        .await
        .expect("mine is deleted");
    assert!(backend.connection(hash(1), theirs.project.into()).await.is_ok());
    let journal = backend.journal(RunId::from_u128(1), theirs.project).await.expect("their journal");
    assert_eq!(journal, [entry(0)]);
}

/// Audit trails and keys are found under their own scope only; a platform and a project of the same number differ.
pub async fn audit_trails_and_keys_stay_in_their_scope(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let platform = Scope::Platform(PlatformId::from_u128(1));
    let project = Scope::Project(project_id(1));
    backend.append_audit(&[audit(1, platform), audit(2, project)]).await.expect("two records");
    backend.insert_key(key(1, platform), &[]).await.expect("a key");
    backend.insert_key(key(2, project), &[]).await.expect("a key");
    let page = PageRequest::default();
    assert_eq!(backend.audit(platform, &page).await.expect("a page").items, [audit(1, platform)]);
    assert_eq!(backend.audit(project, &page).await.expect("a page").items, [audit(2, project)]);
    assert_eq!(backend.audit(project_id(2).into(), &page).await.expect("a page").items, []);
    assert_eq!(backend.keys(platform).await.expect("keys"), [key(1, platform)]);
    assert_eq!(backend.keys(project).await.expect("keys"), [key(2, project)]);
    assert_eq!(backend.keys(project_id(2).into()).await.expect("keys"), []);
}

/// A run cannot be created in one project from a flow of another.
pub async fn an_acceptance_cannot_use_the_flow_of_another_project(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let theirs = published(backend, 1).await;
    let mine = create_project(backend, 2).await;
    let mut attack = accept_once(1, &theirs, 1);
    attack.run.project = mine;
    assert_eq!(backend.accept(attack, &[audit(1, mine)]).await.expect("an answer"), Accepted::Stale);
    assert!(not_found(backend.run(RunId::from_u128(1), mine).await, Entity::Run));
    let trail = backend.audit(mine.into(), &PageRequest::default()).await.expect("a page");
    assert!(trail.items.iter().all(|line| line.id != AuditId::from_u128(1)));
}

/// The same delivery id in two projects is two deliveries.
pub async fn dedupe_keys_are_per_project(harness: &impl Harness) {
    let bench = open(harness).await;
    let one = published(&*bench.backend, 1).await;
    let two = published(&*bench.backend, 2).await;
    let first = bench.backend.accept(accept_once(1, &one, 5), &[]).await;
    let second = bench.backend.accept(accept_once(2, &two, 5), &[]).await;
    assert_eq!(
        (first.expect("an answer"), second.expect("an answer")),
        (Accepted::Created { leased: false }, Accepted::Created { leased: false })
    );
}

/// A lease names its project; under another it is neither a right to write nor held.
pub async fn a_lease_is_worthless_in_another_project(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let held = running(backend, 1, &flow).await;
    let stolen = Lease { project: create_project(backend, 2).await, ..held };
    let commit = RunCommit::new(stolen, RunChange::Stay).with_entries(vec![entry(1)]);
    let fenced = backend.commit(commit, &[]).await;
    assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    assert_eq!(backend.heartbeat(&worker(), &[stolen, held], LEASE).await.expect("an answer").lost, [stolen]);
    assert_eq!(backend.journal(held.run, flow.project).await.expect("the journal"), [entry(0)]);
}

/// What a run is told, holds and stores exists in its own project only.
pub async fn signals_jobs_and_files_stay_in_their_project(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let mine = create_project(backend, 2).await;
    let held = running(backend, 1, &flow).await;
    backend.signal(signal(1, 1, held), &[]).await.expect("a signal");
    let mut commit = RunCommit::new(held, RunChange::Stay);
    commit.jobs = vec![job(1, 1), job(2, 1)];
    commit.files = vec![file(1, flow.project, Some(held))];
    backend.commit(commit, &[]).await.expect("a commit");
    let taken = backend.take_jobs(jobs_of(1, 1, held)).await.expect("jobs");
    let dead = vec![(taken.jobs[0].id, JobEnd::Dead)];
    backend.commit(RunCommit { job_ends: dead, ..RunCommit::new(held, RunChange::Stay) }, &[]).await.expect("a commit");
    let ended = running(backend, 2, &flow).await;
    change(backend, ended, RunChange::End { status: RunStatus::Failed, at: START }).await;

    let stolen = Lease { project: mine, ..held };
    let line = [audit(1, mine)];
    assert_eq!(backend.signals(held.run, mine).await.expect("signals"), []);
    assert_eq!(backend.signal(signal(2, 2, stolen), &line).await.expect("an answer"), Signaled::Over);
    assert!(not_found(backend.reopen(ended.run, mine, entry(1), &[], &line).await, Entity::Run));
    let fenced = backend.take_jobs(jobs_of(1, 1, stolen)).await;
    assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    assert_eq!(backend.queue_counts(hash(1), mine).await.expect("counts"), QueueCounts::default());
    assert_eq!(backend.redrive(hash(1), mine, 9, &[]).await.expect("an answer"), 0);
    assert!(not_found(backend.file(file(1, mine, None).id, mine).await, Entity::File));
    assert!(not_found(backend.delete_file(file(1, mine, None).id, mine, &line).await, Entity::File));
    let parent = RunFilter { parent: Some(held.run), ..RunFilter::default() };
    assert_eq!(backend.runs(parent, mine, &PageRequest::default()).await.expect("a page").items, []);
    assert_eq!(trail(backend, mine).await, [0_u128; 0]);

    assert_eq!(backend.signals(held.run, flow.project).await.expect("signals"), [signal(1, 1, held)]);
    let counts = backend.queue_counts(hash(1), flow.project).await.expect("counts");
    assert_eq!(counts, QueueCounts { waiting: 1, held: 0, dead: 1 });
    assert!(backend.file(file(1, mine, None).id, flow.project).await.is_ok());
    assert_eq!(backend.run(ended.run, flow.project).await.expect("the run").status, RunStatus::Failed);
}

/// Two projects that use the same ids for signals, jobs and files have nothing to do with each other.
pub async fn equal_ids_of_signals_jobs_and_files_are_two_records(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let (theirs, mine) = (published(backend, 1).await, published(backend, 2).await);
    let (of_theirs, of_mine) = (running(backend, 1, &theirs).await, running(backend, 1, &mine).await);
    for held in [of_theirs, of_mine] {
        assert_eq!(backend.signal(signal(1, 1, held), &[]).await.expect("an answer"), Signaled::Delivered);
        let mut commit = RunCommit::new(held, RunChange::Stay).with_entries(vec![entry(1)]);
        (commit.jobs, commit.files) = (vec![job(1, 1)], vec![file(1, held.project, Some(held))]);
        backend.commit(commit, &[]).await.expect("the ids are free here");
        backend.write_file(file(2, held.project, None), &[]).await.expect("the id is free here");
    }
    let taken = backend.take_jobs(jobs_of(1, 9, of_mine)).await.expect("jobs");
    assert_eq!((taken.jobs.len(), taken.waiting), (1, 0));
    let mut commit = RunCommit::new(of_mine, RunChange::End { status: RunStatus::Failed, at: START });
    (commit.taken, commit.job_ends) = (vec![signal(1, 1, of_mine).id], vec![(job(1, 1).id, JobEnd::Done)]);
    backend.commit(commit, &[]).await.expect("a commit");
    backend.delete_file(file(1, mine.project, None).id, mine.project, &[]).await.expect("mine is deleted");
    backend.delete_file(file(2, mine.project, None).id, mine.project, &[]).await.expect("mine is deleted");
    backend.reopen(of_mine.run, mine.project, entry(2), &[], &[]).await.expect("mine is opened again");

    assert_eq!(backend.signals(of_theirs.run, theirs.project).await.expect("signals"), [signal(1, 1, of_theirs)]);
    let counts = backend.queue_counts(hash(1), theirs.project).await.expect("counts");
    assert_eq!(counts, QueueCounts { waiting: 1, held: 0, dead: 0 });
    assert_eq!(backend.take_jobs(jobs_of(1, 9, of_theirs)).await.expect("jobs").jobs.len(), 1);
    for number in [1, 2] {
        assert!(backend.file(file(number, theirs.project, None).id, theirs.project).await.is_ok());
    }
    assert_eq!(backend.run(of_theirs.run, theirs.project).await.expect("the run").status, RunStatus::Running);
    assert_eq!(backend.journal(of_theirs.run, theirs.project).await.expect("the journal"), [entry(0), entry(1)]);
}

/// The same key of a gate, throttle, rate limit, debounce or queue in two projects is two keys.
pub async fn keys_of_flow_control_are_per_project(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let (one, two) = (published(backend, 1).await, published(backend, 2).await);
    let pace = Some(Pace { key: hash(1), limit: 1, period: SECOND });
    let debounce = Some(Debounce { key: hash(1), delay: SECOND, max_wait: SECOND });
    let controls = [
        RunControl { gate: Some(Gate { key: hash(1), limit: 1, skip: true }), ..RunControl::default() },
        RunControl { throttle: pace, ..RunControl::default() },
        RunControl { rate_limit: Some(Pace { key: hash(2), limit: 1, period: SECOND }), ..RunControl::default() },
        RunControl { debounce, ..RunControl::default() },
    ];
    for (number, control) in (1..).zip(controls) {
        for flow in [&one, &two] {
            create(backend, Accept { control, ..accept(number, flow) }).await;
        }
    }
    assert_eq!(claim_all(backend).await.len(), 6, "all but the two that wait for quiet");
    bench.clock.advance(SECOND);
    assert_eq!(claim_all(backend).await.len(), 2, "neither was replaced");
    for flow in [&one, &two] {
        let held = running(backend, 9, flow).await;
        backend
            .commit(RunCommit { jobs: vec![job(1, 1)], ..RunCommit::new(held, RunChange::Stay) }, &[])
            .await
            .expect("ok");
        let request = JobRequest { max_concurrent: 1, spacing: SECOND, ..jobs_of(1, 1, held) };
        let taken = backend.take_jobs(request).await.expect("jobs");
        assert_eq!(taken.jobs[0].start, at(1), "nobody else took one");
    }
}

/// A claimed schedule is worth nothing in another project, and is found under its own.
pub async fn a_claimed_trigger_is_worthless_in_another_project(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let theirs = published(backend, 1).await;
    let mine = published(backend, 2).await;
    let trigger = TriggerChange::Set { due: START, state: None };
    backend.write_flow(FlowWrite { trigger, ..changed_flow(&theirs, |_| {}) }, &[]).await.expect("written");
    let claimed = backend.claim_triggers(9, 9, LEASE).await.expect("an answer");
    assert_eq!((claimed.len(), claimed[0].project), (1, theirs.project));
    let fire = |project, flow| TriggerFire {
        project,
        flow,
        epoch: claimed[0].epoch,
        due: None,
        state: Some(sealed("mine")),
        runs: Vec::new(),
    };
    for (project, flow) in [(mine.project, theirs.id), (mine.project, mine.id), (theirs.project, mine.id)] {
        let fenced = backend.fire_trigger(fire(project, flow)).await;
        assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    }
    backend.fire_trigger(fire(theirs.project, theirs.id)).await.expect("it is theirs");
}

fn not_found<T>(result: Result<T, StoreError>, entity: Entity) -> bool {
    matches!(result, Err(StoreError::NotFound { entity: missing }) if missing == entity)
}
