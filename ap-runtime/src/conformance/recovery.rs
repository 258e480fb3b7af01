//! Rules for what a restart finds and does.

use ap_core::{
    id::{FlowVersionId, RunId},
    run::RunStatus,
    store::{PageRequest, Precondition, StoreError},
};

use super::{
    Harness,
    sample::{
        LEASE, PARK, SECOND, START, accept, accept_once, at, audit, change, changed_flow, claim_all, claim_one,
        claim_up_to, connection, create, entry, file, hash, job, jobs_of, key, lease, open, published, running, sealed,
        signal, worker,
    },
};
use crate::store::{
    Accept, Accepted, ClaimedTrigger, Debounce, FlowWrite, Gate, JobEnd, JobRequest, Lease, Pace, ProjectShare,
    QueueCounts, RunChange, RunCommit, RunControl, RunFilter, Signaled, TriggerChange, TriggerFire,
};

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
    assert_eq!(
        after.connection(connection(1, project).name, project.into()).await.expect("it"),
        connection(1, project)
    );
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

/// Whatever a run waits for, it still waits for it after a restart, and for nothing less.
pub async fn a_restart_keeps_what_runs_wait_for(harness: &impl Harness) {
    let mut bench = open(harness).await;
    let before = &*bench.backend;
    let flow = published(before, 1).await;
    let project = flow.project;
    let share = ProjectShare { weight: 7, concurrency: Some(50) };
    before.set_share(project, share, &[]).await.expect("a share");
    // 1 and 2 pause, 3 was signaled before it paused, 4 is past a gate and 5 before it, 6 is throttled, 7 put off.
    let [until, forever, early] = [1, 2, 3].map(|number| lease(number, project, 1));
    for held in [until, forever, early] {
        running(before, held.run.as_u128(), &flow).await;
    }
    before.signal(signal(1, 1, early), &[]).await.expect("a signal");
    change(before, until, RunChange::Park { due: Some(at(100)) }).await;
    change(before, forever, PARK).await;
    change(before, early, PARK).await;
    let gate = Some(Gate { key: hash(1), limit: 1, skip: false });
    let throttle = Some(Pace { key: hash(1), limit: 1, period: 50 * SECOND });
    let rate_limit = Some(Pace { key: hash(2), limit: 1, period: 1_000 * SECOND });
    let debounce = Some(Debounce { key: hash(1), delay: 60 * SECOND, max_wait: 80 * SECOND });
    let control = |number| match number {
        4 | 5 => RunControl { gate, ..RunControl::default() },
        6 | 10 => RunControl { throttle, rate_limit: rate_limit.filter(|_| number == 10), ..RunControl::default() },
        _ => RunControl { debounce, ..RunControl::default() },
    };
    let wanted = |number| Accept { control: control(number), ..accept(number, &flow) };
    for number in [10, 4, 5, 6, 7] {
        create(before, wanted(number)).await;
    }

    let after = harness.restart(&mut bench.guard).await;
    let after = &*after;
    assert_eq!(after.project(project).await.expect("the project").share, share);
    assert_eq!(after.signals(early.run, project).await.expect("signals"), [signal(1, 1, early)]);
    assert_eq!(after.signal(signal(2, 1, early), &[]).await.expect("an answer"), Signaled::Used);
    let ended = async |lease: Lease| {
        after.commit(RunCommit::new(lease, END), &[]).await.expect("ended");
        lease.run.as_u128()
    };
    let mut order = Vec::new();
    for lease in claim_all(after).await {
        order.push(ended(lease).await);
    }
    assert_eq!(order, [3, 4, 10]);
    assert_eq!(ended(claim_one(after).await).await, 5);
    let limited = Accept { control: control(10), ..accept(11, &flow) };
    assert_eq!(after.accept(limited, &[]).await.expect("an answer"), Accepted::Limited { retry: at(1_000) });
    bench.clock.advance(50 * SECOND);
    assert_eq!(ended(claim_one(after).await).await, 6);
    create(after, wanted(8)).await;
    let replaced = after.run(lease(7, project, 0).run, project).await.expect("the run");
    assert_eq!((replaced.status, replaced.finished), (RunStatus::Canceled, Some(at(50))));
    bench.clock.advance(30 * SECOND);
    assert_eq!(ended(claim_one(after).await).await, 8, "the series goes back to before the restart");
    bench.clock.advance(20 * SECOND);
    assert_eq!(ended(claim_one(after).await).await, 1);
    after.signal(signal(3, 2, forever), &[]).await.expect("a signal");
    assert_eq!(ended(claim_one(after).await).await, 2);
}

/// Jobs stay where they are, with their holders and in their order; files and what started what stay too.
pub async fn a_restart_keeps_jobs_and_files(harness: &impl Harness) {
    let mut bench = open(harness).await;
    let before = &*bench.backend;
    let flow = published(before, 1).await;
    let project = flow.project;
    let held = running(before, 1, &flow).await;
    let mut commit = RunCommit::new(held, RunChange::Stay).with_entries(vec![entry(1)]);
    commit.jobs = (1..=4).map(|number| job(number, 1)).collect();
    commit.files = vec![file(1, project, Some(held))];
    let mut child = accept(2, &flow);
    (child.run.parent, child.control.priority) = (Some(held.run), -3);
    commit.starts = vec![(child.clone(), Vec::new())];
    before.commit(commit, &[]).await.expect("a commit");
    before.write_file(file(2, project, None), &[]).await.expect("written");
    let request = |lease| JobRequest { spacing: 5 * SECOND, ..jobs_of(1, 3, lease) };
    let taken = before.take_jobs(request(held)).await.expect("jobs");
    let ends = vec![(job(1, 1).id, JobEnd::Dead)];
    before.commit(RunCommit { job_ends: ends, ..RunCommit::new(held, RunChange::Stay) }, &[]).await.expect("a commit");

    let after = harness.restart(&mut bench.guard).await;
    let after = &*after;
    let counts = after.queue_counts(hash(1), project).await.expect("counts");
    assert_eq!(counts, QueueCounts { waiting: 1, held: 2, dead: 1 });
    for stored in [file(1, project, Some(held)), file(2, project, None)] {
        assert_eq!(after.file(stored.id, project).await.expect("the file"), stored);
    }
    let children = RunFilter { parent: Some(held.run), ..RunFilter::default() };
    let children = after.runs(children, project, &PageRequest::default()).await.expect("a page");
    assert_eq!(children.items, [child.run]);
    bench.clock.advance(LEASE);
    let claimed = claim_all(after).await;
    assert_eq!((claimed.len(), claimed[0].run), (2, held.run), "by priority, as before");
    let again = after.take_jobs(request(claimed[0])).await.expect("jobs");
    assert_eq!(again.jobs[..2], taken.jobs[1..]);
    assert_eq!(again.jobs[2].id, job(4, 1).id);
    assert_eq!(after.redrive(hash(1), project, 9, &[]).await.expect("an answer"), 1);
}

/// Schedules and polls stay as they are. One that was claimed can be claimed again, and the former claim fires nothing.
pub async fn a_restart_keeps_schedules_and_polls(harness: &impl Harness) {
    let mut bench = open(harness).await;
    let before = &*bench.backend;
    let (one, two) = (published(before, 1).await, published(before, 2).await);
    for (flow, due) in [(&one, START), (&two, at(100))] {
        let trigger = TriggerChange::Set { due, state: Some(sealed("state")) };
        before.write_flow(FlowWrite { trigger, ..changed_flow(flow, |_| {}) }, &[]).await.expect("written");
    }
    let claimed = before.claim_triggers(9, 9, LEASE).await.expect("an answer");
    let [ref zombie] = claimed[..] else { unreachable!("one is due: {claimed:?}") };
    assert_eq!(zombie.flow, one.id);

    let after = harness.restart(&mut bench.guard).await;
    let fire = |claimed: &ClaimedTrigger| TriggerFire {
        project: claimed.project,
        flow: claimed.flow,
        epoch: claimed.epoch,
        due: None,
        state: None,
        runs: vec![(accept(1, &one), Vec::new())],
    };
    let fence = async || {
        let fenced = after.fire_trigger(fire(zombie)).await;
        assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    };
    if harness.one_process() {
        fence().await;
    } else {
        bench.clock.advance(LEASE);
    }
    let claimed = after.claim_triggers(9, 9, LEASE).await.expect("an answer");
    let [ref again] = claimed[..] else { unreachable!("one is due: {claimed:?}") };
    assert_eq!((again.flow, again.due, &again.state), (one.id, START, &Some((0, sealed("state")))));
    fence().await;
    after.fire_trigger(fire(again)).await.expect("fired");
    bench.clock.advance(100 * SECOND);
    let claimed = after.claim_triggers(9, 9, LEASE).await.expect("an answer");
    assert_eq!(claimed.iter().map(|trigger| (trigger.flow, trigger.due)).collect::<Vec<_>>(), [(two.id, at(100))]);
}
