//! Rules for schedules and polls.

use ap_core::{
    id::{FlowId, RunId},
    store::{Entity, Precondition, Revision, StoreError},
    time::Timestamp,
};
use futures_util::future::join_all;

use super::{
    Harness,
    sample::{
        LEASE, SECOND, TICK, accept, accept_leased, accept_once, at, audit, changed_flow, create, create_project,
        entry, flow, hash, new_flow, open, published, ready, sealed, trail, version,
    },
};
use crate::store::{
    Accept, Accepted, Backend, ClaimedTrigger, FlowRecord, FlowWrite, Gate, Pace, TriggerChange, TriggerFire,
};

/// A published flow whose trigger is due `seconds` after the start.
async fn scheduled(backend: &dyn Backend, number: u128, seconds: u64) -> FlowRecord {
    let flow = published(backend, number).await;
    set(backend, &flow, TriggerChange::Set { due: at(seconds), state: None }).await
}

/// Writes the flow's next revision with a change of its trigger.
async fn set(backend: &dyn Backend, flow: &FlowRecord, trigger: TriggerChange) -> FlowRecord {
    let write = FlowWrite { trigger, ..changed_flow(flow, |_| {}) };
    backend.write_flow(write.clone(), &[]).await.expect("written");
    write.flow
}

async fn claim(backend: &dyn Backend, limit: u32) -> Vec<ClaimedTrigger> {
    backend.claim_triggers(limit, u32::MAX, LEASE).await.expect("an answer")
}

async fn claim_one(backend: &dyn Backend) -> ClaimedTrigger {
    let mut claimed = claim(backend, 10).await;
    let Some(trigger) = claimed.pop().filter(|_| claimed.is_empty()) else { unreachable!("one is due: {claimed:?}") };
    trigger
}

/// Fires a claimed trigger without a new state.
fn fire(claimed: &ClaimedTrigger, due: Option<Timestamp>, runs: impl IntoIterator<Item = Accept>) -> TriggerFire {
    let ClaimedTrigger { project, flow, epoch, .. } = *claimed;
    let runs = runs.into_iter().map(|accept| (accept, Vec::new())).collect();
    TriggerFire { project, flow, epoch, due, state: None, runs }
}

async fn fence(backend: &dyn Backend, claimed: &ClaimedTrigger, flow: &FlowRecord) {
    let fenced = backend.fire_trigger(fire(claimed, None, [accept(999, flow)])).await;
    assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    assert!(backend.run(RunId::from_u128(999), flow.project).await.is_err(), "a fenced trigger started a run");
}

const CREATED: Accepted = Accepted::Created { leased: false };

/// A trigger is claimed from the very moment it is due, by one worker, with everything it takes to fire it.
pub async fn a_due_trigger_is_claimed_once(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = scheduled(backend, 1, 10).await;
    bench.clock.advance(10 * SECOND - TICK);
    assert_eq!(claim(backend, 10).await, []);
    bench.clock.advance(TICK);
    assert_eq!(claim(backend, 0).await, []);
    let claimed = claim_one(backend).await;
    let (version, generation) = (flow.published.expect("a version"), flow.generation);
    let expected = ClaimedTrigger {
        project: flow.project,
        flow: flow.id,
        version,
        generation,
        due: at(10),
        epoch: claimed.epoch,
        state: None,
    };
    assert_eq!(claimed, expected);
    assert_eq!(claim(backend, 10).await, []);
}

/// The longest due come first, over all projects, and never more than was asked for.
pub async fn the_longest_due_trigger_is_claimed_first(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    for (number, seconds) in [(1, 30), (2, 10), (3, 40), (4, 20), (5, 100)] {
        scheduled(backend, number, seconds).await;
    }
    bench.clock.advance(50 * SECOND);
    let flows =
        async |limit| claim(backend, limit).await.into_iter().map(|trigger| trigger.flow.as_u128()).collect::<Vec<_>>();
    assert_eq!(flows(2).await, [2, 4]);
    assert_eq!(flows(10).await, [1, 3]);
    assert_eq!(flows(10).await, [0_u128; 0]);
}

/// One project cannot keep the others waiting: the next is of the project with the fewest leased, and one that has as many
/// leased as a project may waits for them.
pub async fn triggers_are_claimed_fairly_between_projects(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let first = scheduled(backend, 1, 0).await;
    for number in 2..=6 {
        let flow = flow(number, first.project);
        let mut write = new_flow(&flow);
        write.versions.push((version(number, &flow), Precondition::Absent));
        write.trigger = TriggerChange::Set { due: at(0), state: None };
        backend.write_flow(write, &[]).await.expect("a new flow");
    }
    scheduled(backend, 50, 30).await;
    bench.clock.advance(40 * SECOND);
    let claim = async |limit, per_project| {
        let claimed = backend.claim_triggers(limit, per_project, LEASE).await.expect("an answer");
        claimed.into_iter().map(|trigger| trigger.flow.as_u128()).collect::<Vec<_>>()
    };
    assert_eq!(claim(2, 9).await, [1, 50], "the longest due of one project, then the other project's");
    assert_eq!(claim(9, 1).await, [0_u128; 0], "each has one");
    assert_eq!(claim(9, 3).await, [2, 3]);
    bench.clock.advance(LEASE);
    assert_eq!(claim(3, 2).await, [1, 2, 50], "a lease that is over does not count");
    assert_eq!(claim(9, 2).await, [0_u128; 0]);
}

/// However many claim at the same time, each trigger goes to one of them.
pub async fn concurrent_claims_never_share_a_trigger(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    for number in 1..=12 {
        scheduled(backend, number, 0).await;
    }
    let claimed = join_all((0..8).map(|_| claim(backend, 3))).await.concat();
    let mut flows: Vec<u128> = claimed.iter().map(|trigger| trigger.flow.as_u128()).collect();
    flows.sort_unstable();
    assert_eq!(flows, (1..=12).collect::<Vec<u128>>());
}

/// Firing creates the runs and moves the trigger on, once.
pub async fn a_trigger_is_fired_once(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = scheduled(backend, 1, 0).await;
    let claimed = claim_one(backend).await;
    let mut firing = fire(&claimed, Some(at(60)), [accept(1, &flow), accept_leased(2, &flow)]);
    firing.runs[0].1 = vec![audit(1, flow.project)];
    let answers = backend.fire_trigger(firing.clone()).await.expect("fired");
    assert_eq!(answers, [CREATED, Accepted::Created { leased: true }]);
    assert_eq!(backend.journal(RunId::from_u128(1), flow.project).await.expect("the journal"), [entry(0)]);
    assert_eq!(trail(backend, flow.project).await, [1]);
    assert_eq!(ready(backend).await, [1]);
    let again = backend.fire_trigger(firing).await;
    assert!(matches!(again, Err(StoreError::Fenced)), "{again:?}");
    fence(backend, &claimed, &flow).await;

    assert_eq!(claim(backend, 10).await, []);
    bench.clock.advance(60 * SECOND);
    let next = claim_one(backend).await;
    assert_eq!(next.due, at(60));
    assert!(next.epoch > claimed.epoch);
    backend.fire_trigger(fire(&next, None, [])).await.expect("fired");
    bench.clock.advance(1_000_000 * SECOND);
    assert_eq!(claim(backend, 10).await, [], "no time, no claim");
}

/// A trigger that was claimed and not fired is claimed again when the lease expires, and the first claim is worthless then.
pub async fn a_lost_trigger_is_claimed_again(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = scheduled(backend, 1, 0).await;
    let lost = claim_one(backend).await;
    bench.clock.advance(LEASE - TICK);
    assert_eq!(claim(backend, 10).await, []);
    bench.clock.advance(TICK);
    let late = claim_one(backend).await;
    assert_eq!((late.due, late.epoch > lost.epoch), (lost.due, true));
    fence(backend, &lost, &flow).await;
    bench.clock.advance(2 * LEASE);
    let answers = backend.fire_trigger(fire(&late, None, [accept(1, &flow)])).await;
    assert_eq!(answers.expect("nobody else has it"), [CREATED]);
    fence(backend, &late, &flow).await;
}

/// A poll goes on from where it stood, with the epoch that was sealed under.
pub async fn a_poll_keeps_where_it_stands(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let flow = set(backend, &flow, TriggerChange::Set { due: at(0), state: Some(sealed("zero")) }).await;
    let first = claim_one(backend).await;
    assert_eq!(first.state, Some((0, sealed("zero"))));
    let firing = TriggerFire { state: Some(sealed("one")), ..fire(&first, Some(at(0)), []) };
    backend.fire_trigger(firing).await.expect("fired");
    let second = claim_one(backend).await;
    assert_eq!(second.state, Some((first.epoch, sealed("one"))));
    backend.fire_trigger(fire(&second, Some(at(0)), [])).await.expect("fired");
    let flow = set(backend, &flow, TriggerChange::Keep).await;
    let flow = set(backend, &flow, TriggerChange::Set { due: at(0), state: None }).await;
    let third = claim_one(backend).await;
    assert_eq!(third.state, second.state, "neither firing nor setting without a state changes it");
    let flow = set(backend, &flow, TriggerChange::Set { due: at(0), state: Some(sealed("two")) }).await;
    let fourth = claim_one(backend).await;
    assert_eq!(fourth.state, Some((third.epoch + 1, sealed("two"))));
    let flow = set(backend, &flow, TriggerChange::Remove).await;
    set(backend, &flow, TriggerChange::Set { due: at(0), state: None }).await;
    assert_eq!(claim_one(backend).await.state, None, "what was removed is forgotten");
}

/// Writing the flow leaves its trigger alone, replaces it or removes it; a claim from before is worthless after the latter two.
pub async fn writing_a_flow_sets_its_trigger(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = scheduled(backend, 1, 0).await;
    let claimed = claim_one(backend).await;
    assert!(claimed.epoch > 0);
    let flow = set(backend, &flow, TriggerChange::Keep).await;
    backend.fire_trigger(fire(&claimed, Some(at(0)), [])).await.expect("it is as it was");

    let claimed = claim_one(backend).await;
    let flow = set(backend, &flow, TriggerChange::Set { due: at(0), state: None }).await;
    fence(backend, &claimed, &flow).await;
    let replaced = claim_one(backend).await;
    assert_eq!(replaced.epoch, claimed.epoch + 2, "one more for the replacement, one more for the claim");

    let flow = set(backend, &flow, TriggerChange::Remove).await;
    fence(backend, &replaced, &flow).await;
    bench.clock.advance(LEASE);
    assert_eq!(claim(backend, 10).await, []);
    assert_eq!(backend.next_due().await.expect("an answer"), None);
    let flow = set(backend, &flow, TriggerChange::Keep).await;
    let flow = set(backend, &flow, TriggerChange::Remove).await;
    let flow = set(backend, &flow, TriggerChange::Set { due: at(0), state: None }).await;
    let later = claim_one(backend).await;
    assert!(later.epoch > replaced.epoch, "or a claim from before the removal could fire");
    fence(backend, &replaced, &flow).await;

    let mut unseen = changed_flow(&flow, |_| {});
    (unseen.precondition, unseen.flow.revision) = (Precondition::Revision(Revision(1)), Revision(2));
    unseen.trigger = TriggerChange::Remove;
    let refused = backend.write_flow(unseen, &[]).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    backend.fire_trigger(fire(&later, None, [])).await.expect("a refused write leaves it alone");
}

/// A flow that is disabled or not published is not looked at, and goes on when it is open again.
pub async fn a_closed_flow_is_left_alone(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let project = create_project(backend, 1).await;
    let mut draft = flow(1, project);
    draft.published = None;
    let set_now = TriggerChange::Set { due: at(0), state: None };
    backend.write_flow(FlowWrite { trigger: set_now, ..new_flow(&draft) }, &[]).await.expect("written");
    assert_eq!(claim(backend, 10).await, []);
    let mut publish = changed_flow(&draft, |flow| (flow.published, flow.enabled) = (Some(version(1, flow).id), false));
    publish.versions = vec![(version(1, &draft), Precondition::Absent)];
    backend.write_flow(publish.clone(), &[]).await.expect("written");
    assert_eq!(claim(backend, 10).await, []);
    let enable = changed_flow(&publish.flow, |flow| flow.enabled = true);
    backend.write_flow(enable.clone(), &[]).await.expect("written");
    let claimed = claim_one(backend).await;
    assert_eq!(Some(claimed.version), enable.flow.published);

    // Disabled while it was claimed: it fires, and its runs are stale.
    let disable = changed_flow(&enable.flow, |flow| (flow.enabled, flow.generation) = (false, 2));
    backend.write_flow(disable, &[]).await.expect("written");
    let answers = backend.fire_trigger(fire(&claimed, Some(at(0)), [accept(1, &enable.flow)])).await;
    assert_eq!(answers.expect("fired"), [Accepted::Stale]);
    assert_eq!(claim(backend, 10).await, []);
}

/// A run that is a duplicate, stale, limited or skipped does not keep the others from being created, nor is it audited.
pub async fn a_refused_run_does_not_stop_a_trigger(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = scheduled(backend, 1, 0).await;
    create(backend, accept_once(1, &flow, 5)).await;
    let claimed = claim_one(backend).await;
    let stale = Accept { generation: 9, ..accept(3, &flow) };
    let gated = |number| {
        let mut accept = accept(number, &flow);
        accept.control.gate = Some(Gate { key: hash(1), limit: 1, skip: true });
        accept
    };
    let limited = |number| {
        let mut accept = accept(number, &flow);
        accept.control.rate_limit = Some(Pace { key: hash(1), limit: 1, period: SECOND });
        accept
    };
    let runs = [
        accept_once(2, &flow, 5),
        stale,
        gated(4),
        gated(5),
        limited(6),
        limited(7),
        accept_once(8, &flow, 6),
        accept_once(9, &flow, 6),
        accept(10, &flow),
    ];
    let mut firing = fire(&claimed, Some(at(9)), runs);
    for (accept, lines) in &mut firing.runs {
        *lines = vec![audit(accept.run.id.as_u128(), flow.project)];
    }
    let answers = backend.fire_trigger(firing).await.expect("fired");
    let expected = [
        Accepted::Duplicate(RunId::from_u128(1)),
        Accepted::Stale,
        CREATED,
        Accepted::Skipped,
        CREATED,
        Accepted::Limited { retry: at(1) },
        CREATED,
        Accepted::Duplicate(RunId::from_u128(8)),
        CREATED,
    ];
    assert_eq!(answers, expected);
    assert_eq!(ready(backend).await, [1, 4, 6, 8, 10]);
    assert_eq!(trail(backend, flow.project).await, [4, 6, 8, 10]);
}

/// Runs, audit records and the trigger's next time are written together or not at all.
pub async fn a_refused_firing_changes_nothing(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = scheduled(backend, 1, 0).await;
    create(backend, accept(1, &flow)).await;
    backend.append_audit(&[audit(9, flow.project)]).await.expect("a record");
    let claimed = claim_one(backend).await;
    let taken = fire(&claimed, Some(at(60)), [accept_once(2, &flow, 5), accept(1, &flow)]);
    let twice = fire(&claimed, Some(at(60)), [accept_once(2, &flow, 5), accept(2, &flow)]);
    let mut audited = fire(&claimed, Some(at(60)), [accept_once(2, &flow, 5), accept(3, &flow)]);
    audited.runs[1].1 = vec![audit(8, flow.project), audit(9, flow.project)];
    for (firing, entity) in [(taken, Entity::Run), (twice, Entity::Run), (audited, Entity::AuditRecord)] {
        let refused = backend.fire_trigger(firing).await;
        assert!(matches!(refused, Err(StoreError::AlreadyExists { entity: e }) if e == entity), "{refused:?}");
        assert!(backend.run(RunId::from_u128(2), flow.project).await.is_err());
        assert_eq!(trail(backend, flow.project).await, [9]);
    }
    let mut foreign = fire(&claimed, Some(at(60)), [accept(2, &flow)]);
    foreign.runs[0].0.run.flow = FlowId::from_u128(9);
    let refused = backend.fire_trigger(foreign).await;
    assert!(matches!(refused, Err(StoreError::Backend(_))), "{refused:?}");
    let answers = backend.fire_trigger(fire(&claimed, None, [accept_once(2, &flow, 5)])).await;
    assert_eq!(answers.expect("it is still claimed, and the delivery is new"), [CREATED]);
}
