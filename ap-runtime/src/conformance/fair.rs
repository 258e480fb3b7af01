//! Rules for whose turn it is: priorities, shares and limits.

use ap_core::{run::RunStatus, store::StoreError};
use futures_util::future::join_all;

use super::{
    Harness,
    sample::{
        END, LEASE, PARK, SECOND, accept, at, audit, change, claim_all, claim_one, claim_up_to, create, lease, numbers,
        open, project_id, published, ready, running, signal, trail,
    },
};
use crate::store::{Backend, ClaimRequest, FlowRecord, ProjectShare, RunChange};

async fn share(backend: &dyn Backend, flow: &FlowRecord, weight: u32, concurrency: Option<u32>) {
    backend.set_share(flow.project, ProjectShare { weight, concurrency }, &[]).await.expect("a share");
}

async fn claim(backend: &dyn Backend, request: ClaimRequest) -> Vec<u128> {
    numbers(&backend.claim(request).await.expect("an answer"))
}

/// A project's share is kept as it was set, within its bounds.
pub async fn a_share_is_kept_within_its_bounds(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let stored = async || backend.project(flow.project).await.expect("the project").share;
    assert_eq!(stored().await, ProjectShare::default());
    for (weight, concurrency) in [(1_000, Some(100_000)), (1, Some(1)), (2, None)] {
        share(backend, &flow, weight, concurrency).await;
        assert_eq!(stored().await, ProjectShare { weight, concurrency });
    }
    for (weight, concurrency) in [(0, None), (1_001, None), (1, Some(0)), (1, Some(100_001))] {
        let wrong = ProjectShare { weight, concurrency };
        let refused = backend.set_share(flow.project, wrong, &[audit(1, flow.project)]).await;
        assert!(matches!(refused, Err(StoreError::Backend(_))), "{wrong:?}: {refused:?}");
    }
    let missing = backend.set_share(project_id(9), ProjectShare::default(), &[audit(1, flow.project)]).await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{missing:?}");
    assert_eq!(stored().await, ProjectShare { weight: 2, concurrency: None });
    backend.set_share(flow.project, ProjectShare::default(), &[audit(2, flow.project)]).await.expect("a share");
    assert_eq!(trail(backend, flow.project).await, [2]);
}

/// Within a project the higher priority comes first, then the older run, then the lower id; also among those that pause or
/// were lost.
pub async fn within_a_project_priority_comes_first(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let wanted = [(1, 0, 5), (2, 0, 4), (3, 7, 9), (4, -7, 1), (5, 7, 9), (6, i16::MAX, 9), (7, i16::MIN, 0)];
    for (number, priority, seconds) in wanted {
        let mut accept = accept(number, &flow);
        (accept.control.priority, accept.run.created) = (priority, at(seconds));
        create(backend, accept).await;
    }
    assert_eq!(claim(backend, claim_up_to(3)).await, [6, 3, 5]);
    assert_eq!(claim(backend, claim_up_to(10)).await, [2, 1, 4, 7]);
    change(backend, lease(3, flow.project, 1), RunChange::Park { due: Some(at(1)) }).await;
    change(backend, lease(1, flow.project, 1), RunChange::Release).await;
    bench.clock.advance(LEASE);
    assert_eq!(ready(backend).await, [6, 3, 5, 2, 1, 4, 7]);
}

/// However much one project has to run, the others are served first.
pub async fn a_backlog_does_not_hold_up_other_projects(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let busy = published(backend, 1).await;
    for number in 1..=200 {
        create(backend, accept(number, &busy)).await;
    }
    for project in 2..=50 {
        let flow = published(backend, project).await;
        for number in 0..2 {
            create(backend, accept(1_000 * project + number, &flow)).await;
        }
    }
    // Everybody gets one before anybody gets a second, and the older run breaks the tie.
    let claimed = claim(backend, claim_up_to(50)).await;
    let mut expected = vec![1];
    expected.extend((2..=50).map(|project| 1_000 * project));
    assert_eq!(claimed, expected);
    let claimed = claim(backend, claim_up_to(1)).await;
    assert_eq!(claimed, [2], "all are even, and this is the oldest");
    let claimed = claim(backend, claim_up_to(49)).await;
    assert_eq!(claimed, (2..=50).map(|project| 1_000 * project + 1).collect::<Vec<u128>>());
    assert_eq!(claim(backend, claim_up_to(3)).await, [3, 4, 5]);
    let late = published(backend, 51).await;
    create(backend, accept(99_000, &late)).await;
    assert_eq!(claim(backend, claim_up_to(1)).await, [99_000], "a newcomer comes before a backlog");
}

/// Two projects that both have enough to run are served in the ratio of their weights, at every moment.
pub async fn projects_are_served_by_weight(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let (light, heavy) = (published(backend, 1).await, published(backend, 2).await);
    share(backend, &heavy, 3, None).await;
    for number in 1..=60 {
        create(backend, accept(number, &light)).await;
        create(backend, accept(1_000 + number, &heavy)).await;
    }
    let mut served = Vec::new();
    // One at a time and several at once come to the same.
    for limit in (1..=40).map(|round| if round % 4 == 0 { 3 } else { 1 }) {
        served.extend(claim(backend, claim_up_to(limit)).await);
    }
    assert_eq!(served.len(), 60);
    let mut lights = 0;
    for (count, number) in (1..).zip(served) {
        lights += u32::from(number < 1_000);
        assert!((lights * 4).abs_diff(count) <= 4, "{lights} of {count}");
    }
    // What ends makes room for its own project: the loads are what counts.
    for number in 1..=5 {
        change(backend, lease(number, light.project, 1), END).await;
    }
    assert!(claim(backend, claim_up_to(5)).await.iter().all(|number| *number < 1_000));
}

/// No more runs of a project are executed than its own limit says, or the default where it has none.
pub async fn a_project_stays_within_its_limit(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let (plain, strict, wide) = (published(backend, 1).await, published(backend, 2).await, published(backend, 3).await);
    share(backend, &strict, 1, Some(1)).await;
    share(backend, &wide, 1, Some(4)).await;
    for (project, flow) in (1..).zip([&plain, &strict, &wide]) {
        for number in 1..=6 {
            create(backend, accept(100 * project + number, flow)).await;
        }
    }
    let request = ClaimRequest { per_project: 2, ..claim_up_to(100) };
    let mut claimed = claim(backend, request).await;
    claimed.sort_unstable();
    assert_eq!(claimed, [101, 102, 201, 301, 302, 303, 304]);
    assert_eq!(claim(backend, request).await, [0_u128; 0]);
    // A run that pauses makes room for another; when it goes on, it waits for room like the others.
    let paused = lease(201, strict.project, 1);
    change(backend, paused, PARK).await;
    assert_eq!(claim(backend, request).await, [202]);
    backend.signal(signal(1, 1, paused), &[]).await.expect("an answer");
    assert_eq!(claim(backend, request).await, [0_u128; 0]);
    change(backend, lease(202, strict.project, 1), END).await;
    assert_eq!(claim(backend, request).await, [201]);
    // One that is leased at its acceptance counts, and a lower limit takes nothing away.
    running(backend, 107, &plain).await;
    change(backend, lease(101, plain.project, 1), END).await;
    assert_eq!(claim(backend, request).await, [0_u128; 0]);
    share(backend, &wide, 1, Some(2)).await;
    change(backend, lease(301, wide.project, 1), END).await;
    assert_eq!(claim(backend, request).await, [0_u128; 0]);
    share(backend, &wide, 1, Some(5)).await;
    assert_eq!(claim(backend, request).await, [305, 306]);
}

/// No more runs are executed over all projects than a claim says.
pub async fn claims_stay_within_the_total(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let (one, two) = (published(backend, 1).await, published(backend, 2).await);
    for number in 1..=4 {
        create(backend, accept(number, &one)).await;
        create(backend, accept(10 + number, &two)).await;
    }
    let request = |total| ClaimRequest { total, ..claim_up_to(100) };
    assert_eq!(claim(backend, request(0)).await, [0_u128; 0]);
    assert_eq!(claim(backend, request(3)).await, [1, 11, 2]);
    assert_eq!(claim(backend, request(3)).await, [0_u128; 0]);
    assert_eq!(claim(backend, request(2)).await, [0_u128; 0]);
    change(backend, lease(1, one.project, 1), END).await;
    // Both projects have one running now, and the older run breaks the tie.
    assert_eq!(claim(backend, request(3)).await, [3]);
    assert_eq!(claim(backend, request(5)).await, [12, 4]);
}

/// A run whose lease has expired counts as running already: no limit keeps it from being taken over.
pub async fn limits_do_not_keep_a_lost_run(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let (one, two) = (published(backend, 1).await, published(backend, 2).await);
    for number in 1..=3 {
        running(backend, number, &one).await;
    }
    create(backend, accept(4, &one)).await;
    create(backend, accept(5, &two)).await;
    bench.clock.advance(LEASE);
    let request = ClaimRequest { per_project: 1, total: 2, ..claim_up_to(100) };
    assert_eq!(claim(backend, request).await, [1, 2, 3]);
    assert_eq!(claim(backend, request).await, [0_u128; 0]);
    bench.clock.advance(LEASE);
    let roomy = ClaimRequest { total: 4, ..request };
    // The idle project comes first; the lost runs add nothing to the load they are.
    assert_eq!(claim(backend, roomy).await, [5, 1, 2, 3]);
    for lease in [1, 2, 3].map(|number| lease(number, one.project, 3)) {
        assert_eq!(backend.run(lease.run, one.project).await.expect("the run").status, RunStatus::Running);
        change(backend, lease, END).await;
    }
    assert_eq!(claim(backend, roomy).await, [4]);
}

/// However many claim at the same time, the limits hold.
pub async fn concurrent_claims_stay_within_the_limits(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let (one, two) = (published(backend, 1).await, published(backend, 2).await);
    for number in 1..=20 {
        create(backend, accept(number, &one)).await;
        create(backend, accept(100 + number, &two)).await;
    }
    let request = ClaimRequest { per_project: 3, total: 5, ..claim_up_to(2) };
    let claims = join_all((0..8).map(|_| claim(backend, request))).await.concat();
    let of_one = claims.iter().filter(|number| **number < 100).count();
    assert!(of_one <= 3 && claims.len() - of_one <= 3, "{claims:?}");
    // Claims that met may have left some to the next one, but never all of it.
    let rest = claim(backend, ClaimRequest { limit: 100, ..request }).await;
    assert_eq!(claims.len() + rest.len(), 5, "{claims:?}, then {rest:?}");
}

/// Queued, paused and lost runs stand in one order: by age, not by how they became ready.
pub async fn ready_runs_of_all_kinds_share_one_order(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    for number in 1..=4 {
        create(backend, accept(number, &flow)).await;
    }
    let held = claim_all(backend).await;
    change(backend, held[3], PARK).await;
    change(backend, held[1], RunChange::Park { due: Some(at(1)) }).await;
    change(backend, held[2], RunChange::Release).await;
    backend.signal(signal(1, 1, held[3]), &[]).await.expect("an answer");
    bench.clock.advance(SECOND);
    assert_eq!(ready(backend).await, [2, 3, 4], "paused, given back, signaled");
    bench.clock.advance(LEASE);
    change(backend, lease(2, flow.project, 2), END).await;
    change(backend, lease(3, flow.project, 2), END).await;
    change(backend, lease(4, flow.project, 2), END).await;
    assert_eq!(claim_one(backend).await, lease(1, flow.project, 2));
}
