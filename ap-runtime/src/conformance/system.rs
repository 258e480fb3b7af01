//! Rules for acceptance, claims, leases and sweeping.

use std::{collections::BTreeSet, time::Duration};

use ap_core::{
    id::{FlowId, FlowVersionId, RunId},
    run::RunStatus,
    store::{Entity, PageRequest, StoreError},
    time::Timestamp,
};
use futures_util::future::join_all;

use super::{
    Harness,
    sample::{
        LEASE, accept, accept_leased, accept_once, audit, changed_flow, claim_up_to, entry, hash, numbers, open,
        published, running, worker,
    },
};
use crate::store::{Accepted, Claimed, Lease, Route, RunChange, RunCommit, RunFilter};

const HOUR: Duration = Duration::from_secs(3_600);

/// A route says what is stored of its flow now; an unknown token leads nowhere.
pub async fn a_route_follows_its_flow(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let route = |generation, enabled, published| {
        Some(Route { project: flow.project, flow: flow.id, published, enabled, generation })
    };
    let version = Some(FlowVersionId::from_u128(1));
    assert_eq!(bench.backend.route(flow.webhook).await.expect("a look-up"), route(1, true, version));
    assert_eq!(bench.backend.route(hash(99)).await.expect("a look-up"), None);
    let write = changed_flow(&flow, |flow| {
        (flow.enabled, flow.published, flow.generation) = (false, None, 2);
    });
    bench.backend.write_flow(write, &[]).await.expect("disabled");
    assert_eq!(bench.backend.route(flow.webhook).await.expect("a look-up"), route(2, false, None));
}

/// The second delivery with an id is answered with the run of the first, and writes nothing.
pub async fn a_duplicate_delivery_gets_the_first_run(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let first = bench.backend.accept(accept_once(1, &flow, 5), &[]).await.expect("an answer");
    assert_eq!(first, Accepted::Created { leased: false });
    let second = bench.backend.accept(accept_once(2, &flow, 5), &[audit(1, flow.project)]).await.expect("an answer");
    assert_eq!(second, Accepted::Duplicate(RunId::from_u128(1)));
    let missing = bench.backend.run(RunId::from_u128(2), flow.project).await;
    assert!(matches!(missing, Err(StoreError::NotFound { entity: Entity::Run })), "{missing:?}");
    let trail = bench.backend.audit(flow.project.into(), &PageRequest::default()).await.expect("a page");
    assert_eq!(trail.items, []);
    let other = bench.backend.accept(accept_once(3, &flow, 6), &[]).await.expect("an answer");
    assert_eq!(other, Accepted::Created { leased: false });
    let without = bench.backend.accept(accept(4, &flow), &[]).await.expect("an answer");
    assert_eq!(without, Accepted::Created { leased: false });
}

/// From the moment it expires, a delivery id is as good as never seen, swept or not.
pub async fn an_expired_key_is_a_new_delivery(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    bench.backend.accept(accept_once(1, &flow, 5), &[]).await.expect("an answer");
    bench.clock.advance(HOUR - Duration::from_micros(1));
    let just_before = bench.backend.accept(accept_once(2, &flow, 5), &[]).await.expect("an answer");
    assert_eq!(just_before, Accepted::Duplicate(RunId::from_u128(1)));
    bench.clock.advance(Duration::from_micros(1));
    let mut third = accept_once(3, &flow, 5);
    third.dedupe.as_mut().expect("a key").expires = Timestamp::from_micros(i64::MAX);
    assert_eq!(bench.backend.accept(third, &[]).await.expect("an answer"), Accepted::Created { leased: false });
    let fourth = bench.backend.accept(accept_once(4, &flow, 5), &[]).await.expect("an answer");
    assert_eq!(fourth, Accepted::Duplicate(RunId::from_u128(3)));
}

/// Acceptance looks again: a disabled flow, another generation or another version than the published one starts nothing.
pub async fn a_stale_route_accepts_nothing(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let mut generation = accept_once(1, &flow, 5);
    generation.generation = 2;
    let mut version = accept(1, &flow);
    version.run.version = FlowVersionId::from_u128(2);
    let mut missing = accept(1, &flow);
    missing.run.flow = FlowId::from_u128(2);
    for stale in [generation, version, missing] {
        let answer = bench.backend.accept(stale.clone(), &[audit(1, flow.project)]).await.expect("an answer");
        assert_eq!(answer, Accepted::Stale, "{stale:?}");
    }
    let disabled = changed_flow(&flow, |flow| flow.enabled = false);
    bench.backend.write_flow(disabled.clone(), &[]).await.expect("disabled");
    let answer = bench.backend.accept(accept_once(1, &flow, 5), &[]).await.expect("an answer");
    assert_eq!(answer, Accepted::Stale);
    let enabled = changed_flow(&disabled.flow, |flow| (flow.enabled, flow.published) = (true, None));
    bench.backend.write_flow(enabled.clone(), &[]).await.expect("not published");
    let answer = bench.backend.accept(accept(1, &flow), &[]).await.expect("an answer");
    assert_eq!(answer, Accepted::Stale);
    let page = PageRequest::default();
    assert_eq!(bench.backend.runs(RunFilter::default(), flow.project, &page).await.expect("a page").items, []);
    assert_eq!(bench.backend.audit(flow.project.into(), &page).await.expect("a page").items, []);

    let open = changed_flow(&enabled.flow, |next| next.published = flow.published);
    bench.backend.write_flow(open, &[]).await.expect("published again");
    let answer = bench.backend.accept(accept_once(1, &flow, 5), &[]).await.expect("an answer");
    assert_eq!(answer, Accepted::Created { leased: false }, "a stale delivery must not use up its id");
}

/// A delivery that was accepted stays accepted, whatever became of its flow.
pub async fn a_duplicate_is_one_even_on_a_stale_route(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    bench.backend.accept(accept_once(1, &flow, 5), &[]).await.expect("an answer");
    bench.backend.write_flow(changed_flow(&flow, |flow| flow.enabled = false), &[]).await.expect("disabled");
    let answer = bench.backend.accept(accept_once(2, &flow, 5), &[]).await.expect("an answer");
    assert_eq!(answer, Accepted::Duplicate(RunId::from_u128(1)));
}

/// A run is created once, and a refused acceptance uses up no delivery id.
pub async fn a_run_id_is_accepted_once(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    bench.backend.accept(accept(1, &flow), &[]).await.expect("an answer");
    let again = bench.backend.accept(accept_once(1, &flow, 5), &[]).await;
    assert!(matches!(again, Err(StoreError::AlreadyExists { entity: Entity::Run })), "{again:?}");
    let next = bench.backend.accept(accept_once(2, &flow, 5), &[]).await.expect("an answer");
    assert_eq!(next, Accepted::Created { leased: false });
}

/// A leased run is `RUNNING`, an unleased one `QUEUED`; that is the store's to say, and a run that is not new is refused.
pub async fn a_new_run_has_the_status_of_its_lease(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    running(&*bench.backend, 1, &flow).await;
    bench.backend.accept(accept(2, &flow), &[]).await.expect("a run");
    for (number, status) in [(1, RunStatus::Running), (2, RunStatus::Queued)] {
        let run = bench.backend.run(RunId::from_u128(number), flow.project).await.expect("the run");
        assert_eq!(run.status, status);
    }
    let mut begun = accept_leased(3, &flow);
    begun.run.status = RunStatus::Running;
    let mut ended = accept(3, &flow);
    ended.run.status = RunStatus::Succeeded;
    let mut finished = accept(3, &flow);
    finished.run.finished = Some(finished.run.created);
    for wrong in [begun, ended, finished] {
        let refused = bench.backend.accept(wrong, &[]).await;
        assert!(matches!(refused, Err(StoreError::Backend(_))), "{refused:?}");
    }
}

/// Of many deliveries of one id at the same time one makes a run, and the others are told which.
pub async fn concurrent_deliveries_of_one_key_make_one_run(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let mut wanted: Vec<_> = (1..=24).map(|number| accept_once(number, &flow, 5)).collect();
    // Between them, deliveries of other ids and without one.
    wanted.extend((25..=32).map(|number| accept(number, &flow)));
    wanted.extend((33..=40).map(|number| accept_once(number, &flow, number)));
    let answers = join_all(wanted.iter().map(|accept| bench.backend.accept(accept.clone(), &[]))).await;
    let answers: Vec<Accepted> = answers.into_iter().map(|answer| answer.expect("an answer")).collect();
    let (same, others) = answers.split_at(24);
    let winner = same.iter().position(|answer| *answer == Accepted::Created { leased: false }).expect("a winner");
    let first = RunId::from_u128(winner as u128 + 1);
    let losers = same.iter().filter(|answer| **answer == Accepted::Duplicate(first)).count();
    assert_eq!(losers, 23, "{same:?}");
    assert!(others.iter().all(|answer| *answer == Accepted::Created { leased: false }), "{others:?}");
    let page = bench.backend.runs(RunFilter::default(), flow.project, &PageRequest::default()).await.expect("a page");
    assert_eq!(page.items.len(), 17);
}

/// What waits longest is handed out first, queued or expired, and never more than was asked for.
pub async fn claims_come_oldest_first_and_respect_the_limit(harness: &impl Harness) {
    let bench = open(harness).await;
    let one = published(&*bench.backend, 1).await;
    let two = published(&*bench.backend, 2).await;
    for (number, flow) in [(5, &one), (2, &two), (4, &one)] {
        bench.backend.accept(accept(number, flow), &[]).await.expect("a run");
    }
    for (number, flow) in [(3, &one), (1, &two)] {
        running(&*bench.backend, number, flow).await;
    }
    assert_eq!(bench.backend.claim(claim_up_to(0)).await.expect("an answer"), []);
    bench.clock.advance(LEASE);
    let first = bench.backend.claim(claim_up_to(2)).await.expect("an answer");
    assert_eq!(numbers(&first), [1, 2]);
    assert_eq!((first[0].lease.project, first[0].flow), (two.project, two.id));
    assert_eq!((first[0].lease.epoch, first[1].lease.epoch), (2, 1));
    assert_eq!(numbers(&bench.backend.claim(claim_up_to(2)).await.expect("an answer")), [3, 4]);
    assert_eq!(numbers(&bench.backend.claim(claim_up_to(2)).await.expect("an answer")), [5]);
    assert_eq!(bench.backend.claim(claim_up_to(2)).await.expect("an answer"), []);
    let run = bench.backend.run(RunId::from_u128(5), one.project).await.expect("the run");
    assert_eq!(run.status, RunStatus::Running);
}

/// A run stays with its holder until the very moment the lease expires by the store's clock.
pub async fn a_live_lease_is_not_claimed(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    running(&*bench.backend, 1, &flow).await;
    bench.clock.advance(LEASE - Duration::from_micros(1));
    assert_eq!(bench.backend.claim(claim_up_to(10)).await.expect("an answer"), []);
    bench.clock.advance(Duration::from_micros(1));
    assert_eq!(numbers(&bench.backend.claim(claim_up_to(10)).await.expect("an answer")), [1]);
}

/// Every change of owner raises the epoch.
pub async fn an_expired_lease_is_claimed_with_a_new_epoch(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let first = running(&*bench.backend, 1, &flow).await;
    for epoch in 2..5 {
        bench.clock.advance(LEASE);
        let claimed = bench.backend.claim(claim_up_to(10)).await.expect("an answer");
        let lease = Lease { epoch, ..first };
        assert_eq!(claimed, [Claimed { lease, flow: flow.id, version: FlowVersionId::from_u128(1), subject: None }]);
    }
}

/// A holder that was late may go on as long as nobody else has claimed its run.
pub async fn an_expired_lease_is_good_until_somebody_claims(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let lease = running(&*bench.backend, 1, &flow).await;
    bench.clock.advance(2 * LEASE);
    let commit = RunCommit::new(lease, RunChange::Stay).with_entries(vec![entry(1)]);
    bench.backend.commit(commit, &[]).await.expect("nobody else has it");
    assert_eq!(bench.backend.heartbeat(&worker(), &[lease], LEASE).await.expect("an answer").lost, []);
    assert_eq!(bench.backend.claim(claim_up_to(10)).await.expect("an answer"), []);
}

/// However many claim at the same time, each run goes to one of them.
pub async fn concurrent_claims_never_share_a_run(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    for number in 1..=20 {
        bench.backend.accept(accept(number, &flow), &[]).await.expect("a run");
    }
    let claims = join_all((0..8).map(|_| bench.backend.claim(claim_up_to(5)))).await;
    let claimed: Vec<u128> = claims.into_iter().flat_map(|claimed| numbers(&claimed.expect("an answer"))).collect();
    assert_eq!(claimed.len(), 20, "{claimed:?}");
    assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>(), (1..=20).collect());
}

/// A heartbeat keeps what is held, for longer, and names what is not held any more.
pub async fn a_heartbeat_extends_and_reports_the_lost(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    let mut held = Vec::new();
    for number in 1..=70 {
        held.push(running(&*bench.backend, number, &flow).await);
    }
    let lost = [Lease { epoch: 9, ..held[0] }, Lease { run: RunId::from_u128(999), ..held[0] }];
    let mut asked = held.clone();
    asked.insert(3, lost[0]);
    asked.push(lost[1]);
    bench.clock.advance(LEASE / 2);
    assert_eq!(bench.backend.heartbeat(&worker(), &asked, LEASE).await.expect("an answer").lost, lost);
    bench.clock.advance(LEASE / 2);
    assert_eq!(bench.backend.claim(claim_up_to(10)).await.expect("an answer"), []);
    bench.clock.advance(LEASE / 2);
    assert_eq!(bench.backend.claim(claim_up_to(100)).await.expect("an answer").len(), 70);
    assert_eq!(bench.backend.heartbeat(&worker(), &held, LEASE).await.expect("an answer").lost, held);
    assert_eq!(bench.backend.heartbeat(&worker(), &[], LEASE).await.expect("an answer").lost, []);
}

/// A sweep forgets expired deliveries, as many as it may, and no live one.
pub async fn a_sweep_forgets_what_has_expired(harness: &impl Harness) {
    let bench = open(harness).await;
    let flow = published(&*bench.backend, 1).await;
    for number in 1..=5 {
        bench.backend.accept(accept_once(number, &flow, number), &[]).await.expect("a run");
    }
    let mut late = accept_once(6, &flow, 6);
    late.dedupe.as_mut().expect("a key").expires = Timestamp::from_micros(i64::MAX);
    bench.backend.accept(late, &[]).await.expect("a run");
    assert_eq!(bench.backend.sweep(10).await.expect("an answer"), 0);
    bench.clock.advance(HOUR);
    assert_eq!(bench.backend.sweep(2).await.expect("an answer"), 2);
    assert_eq!(bench.backend.sweep(10).await.expect("an answer"), 3);
    assert_eq!(bench.backend.sweep(10).await.expect("an answer"), 0);
    let duplicate = bench.backend.accept(accept_once(7, &flow, 6), &[]).await.expect("an answer");
    assert_eq!(duplicate, Accepted::Duplicate(RunId::from_u128(6)));
    assert!(bench.backend.run(RunId::from_u128(1), flow.project).await.is_ok(), "runs outlive their deliveries");
}
