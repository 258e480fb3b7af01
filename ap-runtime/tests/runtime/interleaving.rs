//! What a flow of pure steps comes to does not depend on the order in which its steps come back.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use ap_core::{
    flow::ValidFlow,
    id::RunId,
    run::{RunStatus, StepStatus},
    time::Timestamp,
};
use ap_runtime::engine::{AttemptOutcome, Command, EngineLimits, Event, RunState};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    replay::{flow_of, resume},
    support::SeededEntropy,
};

const LIMITS: EngineLimits =
    EngineLimits { step_executions: 20_000, log_bytes: 1 << 30, timeout_ms: 300_000, spill_bytes: 1 << 30 };

/// Every step execution with what became of it, times left out.
type Outcome = (RunStatus, BTreeMap<String, (StepStatus, Option<Value>, Option<String>)>);

fn steps(depth: u32) -> BoxedStrategy<Vec<Value>> {
    let leaf = prop_oneof![
        // It gets what the step before came to, and `item` and `index`.
        3 => Just(json!({ "type": "code", "settings": { "sourceCode": { "code": "export const code = p => p" } } })),
        2 => Just(json!({ "type": "fake.pure", "settings": { "value": "{{trigger.body}}" } })),
        1 => (0..4_000_u32).prop_map(|ms| json!({ "type": "delay", "onError": "continue", "settings": { "delayMs": ms } })),
    ];
    if depth == 0 {
        return prop::collection::vec(leaf, 1..4).boxed();
    }
    let inner = steps(depth - 1);
    let nested = prop_oneof![
        2 => leaf,
        2 => (inner.clone(), 1..5_u32).prop_map(|(steps, concurrency)| {
            json!({ "type": "loop", "settings": { "items": "{{trigger.items}}", "steps": steps, "concurrency": concurrency } })
        }),
        2 => (inner.clone(), inner.clone(), inner.clone(), 1..4_u32, any::<bool>()).prop_map(|(one, two, three, limit, all)| {
            json!({ "type": "parallel", "settings": {
                "branches": [{ "name": "x", "steps": one }, { "name": "y", "steps": two }, { "name": "z", "steps": three }],
                "maxConcurrency": limit, "onFailure": if all { "collect" } else { "failFast" } } })
        }),
        1 => (inner.clone(), inner).prop_map(|(yes, no)| {
            json!({ "type": "branch", "settings": { "condition": "{{trigger.flag}}", "ifTrue": yes, "ifFalse": no } })
        }),
    ];
    prop::collection::vec(nested, 1..4).boxed()
}

fn answer(command: &Command, at: Timestamp) -> Event {
    let finished = |path: &ap_core::run::StepPath, attempt, output: Value| Event::AttemptFinished {
        at,
        path: path.clone(),
        attempt,
        outcome: AttemptOutcome::succeeded(output),
        entropy: 0,
    };
    match command {
        Command::RunAction(call) => finished(&call.path, call.attempt, json!({ "of": *call.input })),
        Command::RunCode(call) => {
            let mut given = (*call.params).clone();
            given.as_object_mut().unwrap().remove("trigger");
            // A short digest of everything it was given, so that outputs do not grow without bound.
            let text = given.to_string();
            let digest = text.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
            finished(&call.path, call.attempt, json!({ "digest": digest, "index": given.get("index") }))
        }
        Command::Wait { path, .. } => Event::WaitOver { at, path: path.clone() },
        other => panic!("nothing to answer: {other:?}"),
    }
}

fn play(flow: &ValidFlow, trigger: &Value, mut pick: impl FnMut(usize) -> usize) -> Outcome {
    let at = Timestamp::from_millis(1_000);
    let first = Event::Accepted { at, trigger: Arc::new(trigger.clone()), limits: LIMITS, parent: None };
    let mut state = RunState::accepted(RunId::from_u128(1), &first, resume()).unwrap();
    state.apply(flow, &Event::Started { at, connections: Arc::default() }).unwrap();
    while state.end().is_none() {
        let outstanding = state.outstanding();
        let event = answer(&outstanding[pick(outstanding.len())], at);
        state.apply(flow, &event).unwrap();
    }
    let steps = state.order().iter().map(|path| {
        let step = state.step(path).unwrap();
        let error = step.error.as_ref().map(|error| error.message.clone());
        (path.to_string(), (step.status, step.output.as_deref().cloned(), error))
    });
    (state.end().unwrap().status, steps.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_outcomes_comes_to_the_same(steps in steps(2), items in 0..4_usize, flag: bool, seed: u64) {
        let flow = flow_of(steps);
        let items: Vec<Value> = (0..items).map(|n| json!({ "n": n })).collect();
        let trigger = json!({ "body": { "a": 1 }, "items": items, "flag": flag });
        let first = play(&flow, &trigger, |_| 0);
        prop_assert_eq!(first.0, RunStatus::Succeeded);
        let last = play(&flow, &trigger, |count| count - 1);
        prop_assert_eq!(&first, &last);
        let dice = SeededEntropy::new(seed);
        for _ in 0..3 {
            let shuffled = play(&flow, &trigger, |count| (dice.next() % count as u64) as usize);
            prop_assert_eq!(&first, &shuffled);
        }
    }
}

/// How long the engine takes for so many iterations. Unit: seconds.
fn seconds(items: usize, concurrency: u32) -> f64 {
    let body = json!([{ "type": "fake.pure", "settings": { "value": "{{index}}" } }]);
    let flow = flow_of(vec![
        json!({ "type": "loop", "settings": { "items": "{{trigger.items}}", "steps": body, "concurrency": concurrency } }),
    ]);
    let trigger = json!({ "items": vec![0; items] });
    let begun = Instant::now();
    let (status, steps) = play(&flow, &trigger, |_| 0);
    assert_eq!((status, steps.len()), (RunStatus::Succeeded, items + 1));
    begun.elapsed().as_secs_f64()
}

#[test]
fn ten_times_the_iterations_take_about_ten_times_as_long() {
    for concurrency in [1, 50] {
        // Whatever else the machine does only adds: the least of several counts.
        let least = |items| (0..3).map(|_| seconds(items, concurrency)).fold(f64::INFINITY, f64::min);
        let (few, many) = (least(1_000), least(10_000));
        // Quadratic work would be a hundred times as long.
        assert!(many < few * 40.0, "{few} s for 1,000 and {many} s for 10,000 at {concurrency} at once");
    }
}
