//! Replaying any prefix of any journal gives the state the live run had there.

use std::sync::Arc;

use ap_core::{
    flow::{FlowDefinition, FlowLimits, ValidFlow},
    id::{JobId, KeyId, ProjectId, RunId},
    piece::{Piece, PieceSet},
    run::{RunStatus, StepError, StepErrorKind},
    time::Timestamp,
};
use ap_crypto::keyring::Keyring;
use ap_runtime::{
    backend::memory::MemoryBackend,
    clock::SystemClock,
    engine::{
        AnswerDecision, AttemptOutcome, Command, EngineLimits, Event, ResumeTokens, RunState, ScriptResult, Signal,
        TakenJob,
    },
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::support::{FakePiece, Peer, SeededEntropy, root_key};

const RUN: RunId = RunId::from_u128(1);
const LIMITS: EngineLimits =
    EngineLimits { step_executions: 300, log_bytes: 40_000, timeout_ms: 300_000, spill_bytes: 1 << 20 };

/// What resume tokens are made from: the same for every replay.
pub(crate) fn resume() -> Arc<ResumeTokens> {
    let project = ProjectId::from_u128(1);
    let ring = Keyring::new(root_key(), Arc::new(MemoryBackend::new(Arc::new(SystemClock))));
    let entropy = SeededEntropy::new(1);
    let created = ring.create_tenant_key(project.into(), KeyId::from_u128(1), Timestamp::EPOCH, &entropy);
    let key = created.unwrap().1.resume_key(RUN);
    Arc::new(ResumeTokens { project, key, base: Some("https://host.example/resume".into()) })
}

/// A random list of steps. Names are given by position, so they are unique and every reference can be optional.
fn steps(depth: u32) -> BoxedStrategy<Vec<Value>> {
    let leaf = prop_oneof![
        Just(json!({ "type": "code", "settings": { "sourceCode": { "code": "export const code = p => p" } } })),
        (0..3_usize, 1..4_u32, any::<bool>()).prop_map(|(kind, attempts, carry_on)| {
            let action = ["fake.act", "fake.put", "fake.pure"][kind];
            let mut step = json!({
                "type": action,
                "settings": { "value": "{{trigger.body}}" },
                "retry": { "maxAttempts": attempts },
            });
            if carry_on {
                step["onError"] = json!("continue");
            }
            step
        }),
        Just(json!({ "type": "respond", "settings": { "status": 201, "body": { "id": "{{$run.id}}" } } })),
        Just(json!({ "type": "fake.pure", "skip": true, "settings": { "value": 1 } })),
        Just(json!({ "type": "fail", "settings": { "message": "enough" } })),
        (0..20_000_u32).prop_map(|wait| json!({ "type": "delay", "settings": { "delayMs": wait } })),
        any::<bool>().prop_map(|carry_on| {
            let settings =
                json!({ "value": ["{{trigger.body.a + 1}}", "n {{trigger.flag ? 1 : 2}} {{trigger.body.a + 1}}"] });
            let mut step = json!({ "type": "fake.pure", "settings": settings });
            if carry_on {
                step["onError"] = json!("continue");
            }
            step
        }),
        Just(json!({ "type": "wait", "settings": { "mode": "webhook" } })),
        Just(json!({ "type": "wait", "onError": "continue",
            "settings": { "mode": "approval", "approvers": ["ann", "bob", "cy"], "required": 2, "timeoutMs": 9000 } })),
        Just(json!({ "type": "queue.enqueue", "settings": { "queueName": "q", "data": "{{trigger.items}}" } })),
        any::<bool>().prop_map(|sync| json!({ "type": "subflow", "onError": "continue",
            "settings": { "flow": "flow_00000000000000000000000007", "mode": if sync { "sync" } else { "async" } } })),
    ];
    if depth == 0 {
        return prop::collection::vec(leaf, 0..3).boxed();
    }
    let inner = steps(depth - 1);
    let nested = prop_oneof![
        3 => leaf.clone(),
        1 => (inner.clone(), any::<bool>(), 1..4_u32).prop_map(|(steps, carry_on, concurrency)| {
            let settings = json!({ "items": "{{trigger.items}}", "steps": steps, "concurrency": concurrency });
            let mut step = json!({ "type": "loop", "settings": settings });
            if carry_on {
                step["onError"] = json!("continue");
            }
            step
        }),
        1 => (inner.clone(), inner.clone()).prop_map(|(yes, no)| {
            json!({ "type": "branch", "settings": { "condition": "{{!trigger.flag}}", "ifTrue": yes, "ifFalse": no } })
        }),
        1 => (inner.clone(), inner.clone(), inner.clone(), any::<bool>()).prop_map(|(one, two, rest, all)| {
            json!({ "type": "router", "settings": {
                "mode": if all { "allMatch" } else { "firstMatch" },
                "branches": [
                    { "name": "a", "condition": "{{trigger.flag}}", "steps": one },
                    { "name": "b", "condition": "{{trigger.flag}}", "steps": two },
                ],
                "fallback": rest,
            } })
        }),
        2 => (inner.clone(), inner.clone(), inner.clone(), 1..4_u32, any::<bool>()).prop_map(|(one, two, three, limit, all)| {
            json!({ "type": "parallel", "settings": {
                "branches": [{ "name": "x", "steps": one }, { "name": "y", "steps": two }, { "name": "z", "steps": three }],
                "maxConcurrency": limit,
                "onFailure": if all { "collect" } else { "failFast" },
            } })
        }),
        1 => (inner.clone(), 0..3_u32).prop_map(|(steps, retries)| {
            json!({ "type": "queue.process", "settings": {
                "queueName": "q", "maxConcurrent": 2, "maxRetries": retries, "steps": steps } })
        }),
        1 => inner.prop_map(|steps| {
            json!({ "type": "fake.act", "settings": { "value": 1 }, "onError": { "steps": steps } })
        }),
    ];
    prop::collection::vec(nested, 0..4).boxed()
}

fn number(steps: &mut [Value], next: &mut u32) {
    for step in steps {
        step["name"] = json!(format!("s{next}"));
        *next += 1;
        for list in ["steps", "ifTrue", "ifFalse", "fallback"] {
            if let Some(inner) = step["settings"].get_mut(list).and_then(Value::as_array_mut) {
                number(inner, next);
            }
        }
        if let Some(branches) = step["settings"].get_mut("branches").and_then(Value::as_array_mut) {
            for branch in branches {
                number(branch["steps"].as_array_mut().unwrap(), next);
            }
        }
        if let Some(handler) = step.pointer_mut("/onError/steps").and_then(Value::as_array_mut) {
            number(handler, next);
        }
    }
}

pub(crate) fn flow_of(mut steps: Vec<Value>) -> ValidFlow {
    number(&mut steps, &mut 1);
    let source = json!({ "displayName": "Random", "triggers": [{ "name": "t", "type": "manual" }], "steps": steps });
    let pieces = PieceSet::new([Arc::new(FakePiece(Arc::new(Peer::default()))) as Arc<dyn Piece>]);
    let definition = FlowDefinition::parse_slice(source.to_string().as_bytes(), &FlowLimits::widest()).unwrap();
    ValidFlow::check(definition, &pieces, &FlowLimits::widest()).unwrap()
}

/// Plays the outside world: answers whatever the engine asks for, as the dice fall.
fn answer(state: &RunState, dice: &SeededEntropy, at: Timestamp) -> Event {
    let outstanding = state.outstanding();
    let command = &outstanding[(dice.next() % outstanding.len() as u64) as usize];
    let outcome = || match dice.next() % 4 {
        0 => {
            let kinds = [StepErrorKind::OutcomeTransient, StepErrorKind::Remote, StepErrorKind::Script];
            let kind = kinds[(dice.next() % 3) as usize];
            AttemptOutcome::failed(StepError::new(kind, "dice"), None)
        }
        _ => AttemptOutcome::succeeded(json!({ "n": dice.next() % 10, "f": f64::from_bits(dice.next() >> 2) })),
    };
    let entropy = dice.next() as u32;
    let interrupt = dice.one_in(40);
    match command {
        _ if interrupt => {
            let error = StepError::new(StepErrorKind::Timeout, "dice");
            Event::Interrupted { at, status: RunStatus::Timeout, error }
        }
        Command::RunAction(call) if !call.planned && !dice.one_in(3) => Event::EffectPlanned {
            at,
            path: call.path.clone(),
            attempt: call.attempt,
            input: Arc::clone(&call.input),
            key: call.key.clone(),
            repeatable: dice.one_in(2),
        },
        _ if dice.one_in(10) => Event::Recovered { at },
        Command::RunAction(call) => {
            Event::AttemptFinished { at, path: call.path.clone(), attempt: call.attempt, outcome: outcome(), entropy }
        }
        Command::RunCode(call) => {
            Event::AttemptFinished { at, path: call.path.clone(), attempt: call.attempt, outcome: outcome(), entropy }
        }
        Command::Wait { path, .. } if dice.one_in(2) => Event::WaitOver { at, path: path.clone() },
        Command::Wait { path, .. } => {
            let party = ["", "ann", "bob", "cy"][(dice.next() % 4) as usize];
            let slot = resume().key.slot(path.as_str(), party);
            let decisions = [AnswerDecision::Answer, AnswerDecision::Approve, AnswerDecision::Reject];
            let decision = decisions[(dice.next() % 3) as usize];
            let slot = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, slot.0);
            Event::Signaled { at, slot, content: Signal::Answered { decision, body: Arc::new(json!("body")) } }
        }
        Command::Evaluate(call) => {
            let result = |_| match dice.next() % 6 {
                0 => ScriptResult::Failed(StepError::new(StepErrorKind::Script, "dice")),
                1 => ScriptResult::Undefined,
                number => ScriptResult::Value(json!(number)),
            };
            let results = Arc::new(call.scripts().map(result).collect());
            Event::Evaluated { at, path: call.path.clone(), results, spilled: None }
        }
        Command::Enqueue(call) => Event::Enqueued { at, path: call.path.clone() },
        Command::StartChild(call) => {
            Event::ChildStarted { at, path: call.path.clone(), run: RunId::from_u128(u128::from(dice.next())) }
        }
        Command::TakeJobs(call) => {
            let job =
                |_| TakenJob { id: JobId::from_u128(u128::from(dice.next())), start: at, data: Arc::new(json!(1)) };
            let jobs = (0..dice.next() % 3).map(job).collect();
            Event::JobsTaken { at, path: call.path.clone(), jobs, more: dice.one_in(3) }
        }
        other => panic!("nothing to answer: {other:?}"),
    }
}

/// Runs a flow to its end; returns the journal and the state after each event.
fn play(flow: &ValidFlow, trigger: Value, seed: u64) -> (Vec<Event>, Vec<RunState>) {
    let dice = SeededEntropy::new(seed);
    let mut now = Timestamp::from_millis(1_000);
    let first = Event::Accepted { at: now, trigger: Arc::new(trigger), limits: LIMITS, parent: None };
    let mut state = RunState::accepted(RUN, &first, resume()).unwrap();
    let (mut events, mut states) = (vec![first], vec![state.clone()]);
    let mut next = Event::Started { at: now, connections: Arc::default() };
    loop {
        state.apply(flow, &next).unwrap();
        events.push(next);
        states.push(state.clone());
        if state.end().is_some() {
            return (events, states);
        }
        assert!(events.len() < 2_000, "the run does not end");
        now = now.saturating_add(std::time::Duration::from_millis(dice.next() % 5_000));
        assert!(!state.outstanding().is_empty(), "a live run has something to do");
        next = answer(&state, &dice, now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_prefix_of_any_journal_rebuilds_its_state(
        steps in steps(2),
        items in 0..3_usize,
        flag: bool,
        seed: u64,
    ) {
        let flow = flow_of(steps);
        let trigger = json!({ "body": { "a": 1 }, "items": vec![json!({ "x": 1 }); items], "flag": flag });
        let (events, states) = play(&flow, trigger, seed);
        let stored = serde_json::to_string(&events).unwrap();
        let read: Vec<Event> = serde_json::from_str(&stored).unwrap();
        prop_assert_eq!(&read, &events);
        let mut replayed = RunState::accepted(RUN, &read[0], resume()).unwrap();
        prop_assert_eq!(&replayed, &states[0]);
        for (event, expected) in read.iter().zip(&states).skip(1) {
            replayed.apply(&flow, event).unwrap();
            prop_assert_eq!(&replayed, expected);
        }
    }

    #[test]
    fn a_journal_with_a_hole_never_passes_for_the_whole(steps in steps(2), seed: u64, hole in any::<prop::sample::Index>()) {
        let flow = flow_of(steps);
        let (mut events, states) = play(&flow, json!({ "body": 1, "items": [1, 2], "flag": true }), seed);
        let matters = |event: &Event| matches!(event, Event::AttemptFinished { .. } | Event::Started { .. });
        let holes: Vec<usize> = (1..events.len() - 1).filter(|index| matters(&events[*index])).collect();
        prop_assume!(!holes.is_empty());
        events.remove(holes[hole.index(holes.len())]);
        let mut state = RunState::accepted(RUN, &events[0], resume()).unwrap();
        let applied = events.iter().skip(1).try_for_each(|event| state.apply(&flow, event).map(|_| ()));
        prop_assert!(applied.is_err() || Some(&state) != states.last());
    }
}
