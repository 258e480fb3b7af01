//! The indexes agree with the runs, whatever happened to them.

use std::{sync::Arc, time::Duration};

use ap_core::{
    id::{FlowId, FlowVersionId, ProjectId, RunId, SignalId},
    run::RunStatus,
    store::{LookupHash, Precondition, Revision, Sealed},
    time::Timestamp,
};
use bytes::Bytes;
use proptest::prelude::*;

use super::{MemoryBackend, State, claim::Place};
use crate::{
    conformance::{ManualClock, block_on},
    store::{
        Accept, ClaimRequest, Debounce, FlowRecord, FlowStore, FlowWrite, Gate, JournalEntry, Lease, Pace, RunChange,
        RunCommit, RunControl, RunRecord, RunStore, SignalRecord, SystemStore, TriggerChange,
    },
};

const PROJECTS: u128 = 2;
const LEASE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a few hundred steps in a test")]
enum Step {
    Accept { project: u128, control: RunControl, leased: bool },
    Advance(Duration),
    Claim { limit: u32, per_project: u32, total: u32 },
    Commit { nth: usize, change: RunChange },
    Crash,
    Reopen { nth: usize },
    Signal { nth: usize },
}

fn control() -> impl Strategy<Value = RunControl> {
    let key = |number| LookupHash([number; 32]);
    let gate = (1..4_u32, 0..2_u8, any::<bool>()).prop_map(move |(limit, of, skip)| Gate { key: key(of), limit, skip });
    let pace = move |of| {
        (1..4_u32, 1..10_u64).prop_map(move |(limit, secs)| Pace {
            key: key(of),
            limit,
            period: Duration::from_secs(secs),
        })
    };
    let debounce = (0..4_u64, 0..9_u64).prop_map(move |(delay, wait)| Debounce {
        key: key(4),
        delay: Duration::from_secs(delay),
        max_wait: Duration::from_secs(wait),
    });
    let parts = (
        -2..2_i16,
        proptest::option::of(gate),
        proptest::option::weighted(0.3, pace(2)),
        proptest::option::weighted(0.2, pace(3)),
        proptest::option::weighted(0.3, debounce),
    );
    parts.prop_map(|(priority, gate, throttle, rate_limit, debounce)| RunControl {
        priority,
        gate,
        throttle,
        rate_limit,
        debounce,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let change = prop_oneof![
        3 => prop_oneof![Just(RunStatus::Succeeded), Just(RunStatus::Failed)]
            .prop_map(|status| RunChange::End { status, at: Timestamp::EPOCH }),
        2 => proptest::option::of(0..20_i64)
            .prop_map(|due| RunChange::Park { due: due.map(|due| Timestamp::from_millis(due * 1_000)) }),
        1 => Just(RunChange::Release),
        1 => Just(RunChange::Stay),
    ];
    let nth = 0..40_usize;
    prop_oneof![
        5 => (0..PROJECTS, control(), any::<bool>())
            .prop_map(|(project, control, leased)| Step::Accept { project, control, leased }),
        3 => (0..4_000_u64).prop_map(|millis| Step::Advance(Duration::from_millis(millis))),
        4 => (0..4_u32, 0..4_u32, 0..6_u32)
            .prop_map(|(limit, per_project, total)| Step::Claim { limit, per_project, total }),
        6 => (nth.clone(), change).prop_map(|(nth, change)| Step::Commit { nth, change }),
        1 => Just(Step::Crash),
        1 => nth.clone().prop_map(|nth| Step::Reopen { nth }),
        2 => nth.prop_map(|nth| Step::Signal { nth }),
    ]
}

fn sealed() -> Sealed {
    Sealed::from_bytes(Bytes::from_static(b"sealed"))
}

fn flow(project: u128) -> FlowRecord {
    FlowRecord {
        id: FlowId::from_u128(1),
        project: ProjectId::from_u128(project),
        created: Timestamp::EPOCH,
        updated: Timestamp::EPOCH,
        revision: Revision::FIRST,
        enabled: true,
        published: Some(FlowVersionId::from_u128(1)),
        draft: None,
        webhook: LookupHash([u8::try_from(project).unwrap_or(0); 32]),
        generation: 1,
        sealed: sealed(),
    }
}

fn acceptance(number: u128, project: u128, created: Timestamp) -> Accept {
    Accept {
        run: RunRecord {
            id: RunId::from_u128(number),
            project: ProjectId::from_u128(project),
            flow: FlowId::from_u128(1),
            version: FlowVersionId::from_u128(1),
            parent: None,
            status: RunStatus::Queued,
            created,
            finished: None,
            subject: None,
        },
        generation: 1,
        dedupe: None,
        subject_key: None,
        control: RunControl::default(),
        entry: JournalEntry { seq: 0, sealed: sealed() },
        lease: None,
    }
}

/// A backend with a published flow in each project.
async fn backend(clock: &Arc<ManualClock>) -> MemoryBackend {
    let backend = MemoryBackend::new(Arc::clone(clock) as _);
    for project in 0..PROJECTS {
        let record = crate::store::ProjectRecord {
            id: ProjectId::from_u128(project),
            created: Timestamp::EPOCH,
            share: crate::store::ProjectShare::default(),
            sealed: sealed(),
        };
        backend.lock().projects.insert(record.id, record);
        let (flow, precondition) = (flow(project), Precondition::Absent);
        let write = FlowWrite { flow, precondition, versions: Vec::new(), trigger: TriggerChange::Keep };
        backend.write_flow(write, &[]).await.expect("a flow");
    }
    backend
}

/// Compares every index with what the runs say.
fn check(state: &mut State, now: Timestamp) {
    state.pass_timers(now);
    let mut places = 0;
    for (key, run) in &state.runs {
        assert_eq!(run.place, run.placed(now), "{key:?}");
        assert!(state.schedule.has(*key, run), "{key:?} is not where it should be: {:?}", run.place);
        places += usize::from(run.place != Place::Out);
        assert_eq!(state.live.contains(key), !run.record.status.is_terminal(), "{key:?}");
    }
    let running = state.runs.values().filter(|run| run.record.status == RunStatus::Running).count();
    assert_eq!(state.schedule.sizes(), (places, running));
    let gates: Vec<_> = state.gates.keys().copied().collect();
    for gate in gates {
        let at_gate = |past| {
            let runs = state.live.iter().filter(|key| key.0 == gate.0).filter_map(|key| state.runs.get(key));
            runs.filter(|run| run.gate.is_some_and(|of| of.key == gate.1) && run.past_gate == past).count()
        };
        let (past, before) = (at_gate(true), at_gate(false));
        assert_eq!(state.gate_sizes(gate), (past, before));
        assert!(before == 0 || state.next_to_pass(gate).is_none(), "somebody waits before an open gate");
    }
}

async fn perform(backend: &MemoryBackend, clock: &ManualClock, step: Step, number: u128) {
    let nth_run = |nth: usize| {
        let state = backend.lock();
        let run = state.runs.values().nth(nth % state.runs.len().max(1));
        run.map(|run| Lease { project: run.record.project, run: run.record.id, epoch: run.epoch })
    };
    match step {
        Step::Accept { project, control, leased } => {
            let accept = acceptance(number, project, crate::clock::Clock::now(clock));
            let accept = Accept { control, lease: leased.then_some(LEASE), ..accept };
            backend.accept(accept, &[]).await.expect("an answer");
        }
        Step::Advance(by) => clock.advance(by),
        Step::Claim { limit, per_project, total } => {
            let running = |state: &State| state.schedule.sizes().1;
            let before = running(&backend.lock());
            let request = ClaimRequest { limit, lease: LEASE, per_project, total };
            let claimed = backend.claim(request).await.expect("an answer");
            assert!(claimed.len() <= limit as usize);
            assert!(running(&backend.lock()) <= before.max(total as usize), "over the total");
        }
        Step::Commit { nth, change } => {
            // Fenced unless somebody runs it, which is as it should be.
            let Some(lease) = nth_run(nth) else { return };
            let _ = backend.commit(RunCommit::new(lease, change), &[]).await;
        }
        Step::Crash => backend.crash(),
        Step::Reopen { nth } => {
            let Some(lease) = nth_run(nth) else { return };
            let seq = backend.journal(lease.run, lease.project).await.expect("a journal").len() as u64;
            let _ = backend.reopen(lease.run, lease.project, JournalEntry { seq, sealed: sealed() }, &[], &[]).await;
        }
        Step::Signal { nth } => {
            let Some(Lease { project, run, .. }) = nth_run(nth) else { return };
            let slot = LookupHash([u8::try_from(number % 200).unwrap_or(0); 32]);
            let id = SignalId::from_u128(number);
            let signal = SignalRecord { id, project, run, slot, at: Timestamp::EPOCH, sealed: sealed() };
            backend.signal(signal, &[]).await.expect("an answer");
        }
    }
}

proptest! {
    #[test]
    fn indexes_follow_the_runs(steps in proptest::collection::vec(step(), 1..80)) {
        block_on(async {
            let clock = Arc::new(ManualClock::at(Timestamp::EPOCH));
            let backend = backend(&clock).await;
            for (number, step) in (1..).zip(steps) {
                perform(&backend, &clock, step, number).await;
                check(&mut backend.lock(), crate::clock::Clock::now(&*clock));
            }
        });
    }
}

/// With looking at every run this would be ten thousand million looks.
#[test]
fn a_claim_does_not_look_at_every_run() {
    block_on(async {
        let clock = Arc::new(ManualClock::at(Timestamp::EPOCH));
        let backend = backend(&clock).await;
        for number in 0..100_000_u128 {
            backend.accept(acceptance(number, number % PROJECTS, Timestamp::EPOCH), &[]).await.expect("an answer");
        }
        let request = ClaimRequest { limit: 1, lease: LEASE, per_project: u32::MAX, total: u32::MAX };
        let mut ended = 0;
        while let [claimed] = backend.claim(request).await.expect("an answer")[..] {
            let change = RunChange::End { status: RunStatus::Succeeded, at: Timestamp::EPOCH };
            backend.commit(RunCommit::new(claimed.lease, change), &[]).await.expect("ended");
            ended += 1;
        }
        assert_eq!(ended, 100_000);
    });
}
