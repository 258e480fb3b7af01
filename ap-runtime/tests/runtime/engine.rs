//! What flows mean, step by step, through a whole runtime.

use ap_core::run::{RunStatus, StepErrorKind, StepStatus};
use ap_runtime::config::RunLimits;
use serde_json::{Value, json};

use super::support::World;

fn code(name: &str, input: Value) -> Value {
    json!({ "name": name, "type": "code", "settings": { "sourceCode": { "code": "export const code = p => p" }, "input": input } })
}

fn pure(name: &str, value: Value) -> Value {
    json!({ "name": name, "type": "fake.pure", "settings": { "value": value } })
}

#[tokio::test(start_paused = true)]
async fn outputs_flow_into_later_steps_with_their_types() {
    let world = World::new(1).await;
    let (flow, _) = world
        .publish(json!([
            pure("first", json!({ "n": "{{trigger.body.n}}", "text": "n is {{trigger.body.n}}" })),
            code(
                "second",
                json!({ "got": "{{steps.first.output.n}}", "missing": "{{steps.first.output.x ?? 'none'}}" })
            ),
        ]))
        .await;
    let run = world.run(flow, json!({ "body": { "n": 41 } })).await;
    assert_eq!(run.status, RunStatus::Succeeded);
    assert_eq!(run.steps[0].output, Some(json!({ "n": 41, "text": "n is 41" })));
    assert_eq!(run.steps[1].output, Some(json!({ "params": { "got": 41, "missing": "none" } })));
}

#[tokio::test(start_paused = true)]
async fn a_missing_value_fails_the_step_and_names_the_path() {
    let world = World::new(1).await;
    let (flow, _) = world.publish(json!([pure("first", json!("{{trigger.body.nope}}"))])).await;
    let run = world.run(flow, json!({ "body": {} })).await;
    assert_eq!(run.status, RunStatus::Failed);
    let error = run.error.expect("an error");
    assert_eq!(error.kind, StepErrorKind::Input);
    assert!(error.message.contains("trigger.body.nope"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn loops_give_item_and_index_and_collect_outputs() {
    let world = World::new(1).await;
    let (flow, _) = world
        .publish(json!([
            { "name": "each", "type": "loop", "settings": {
                "items": "{{trigger.body}}",
                "steps": [pure("inner", json!({ "item": "{{item}}", "index": "{{index}}" }))],
            } },
            pure("after", json!("{{steps.each.output.iterations[1].inner.output.item}}")),
        ]))
        .await;
    let run = world.run(flow, json!({ "body": ["a", "b"] })).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    let paths: Vec<&str> = run.steps.iter().map(|step| step.path.as_str()).collect();
    assert_eq!(paths, ["each", "each:0/inner", "each:1/inner", "after"]);
    assert_eq!(run.steps[2].output, Some(json!({ "item": "b", "index": 1 })));
    assert_eq!(run.steps[3].output, Some(json!("b")));
}

#[tokio::test(start_paused = true)]
async fn an_empty_loop_runs_nothing_and_a_loop_over_no_list_fails() {
    let world = World::new(1).await;
    let (flow, _) = world
        .publish(json!([{ "name": "each", "type": "loop", "settings": { "items": "{{trigger.body}}", "steps": [pure("inner", json!(1))] } }]))
        .await;
    assert_eq!(world.run(flow, json!({ "body": [] })).await.steps.len(), 1);
    let run = world.run(flow, json!({ "body": "text" })).await;
    assert!(run.error.expect("an error").message.contains("must be a list"));
}

#[tokio::test(start_paused = true)]
async fn branches_take_one_side() {
    let world = World::new(1).await;
    let (flow, _) = world
        .publish(json!([{ "name": "choose", "type": "branch", "settings": {
            "condition": "{{trigger.body.flag}}",
            "ifTrue": [pure("yes", json!(1))],
            "ifFalse": [pure("no", json!(2))],
        } }]))
        .await;
    for (flag, taken) in [(true, "yes"), (false, "no")] {
        let run = world.run(flow, json!({ "body": { "flag": flag } })).await;
        assert_eq!(run.steps[1].path.as_str(), taken);
        assert_eq!(run.steps[0].output, Some(json!({ "branch": flag })));
    }
}

#[tokio::test(start_paused = true)]
async fn continue_on_error_goes_on_and_shows_the_error() {
    let world = World::new(1).await;
    let (flow, _) = world
        .publish(json!([
            { "name": "bad", "type": "code", "onError": "continue", "settings": { "sourceCode": { "code": "throw" } } },
            pure("after", json!({ "message": "{{steps.bad.error.message}}", "status": "{{steps.bad.status}}" })),
        ]))
        .await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert_eq!(run.steps[0].status, StepStatus::Failed);
    assert_eq!(run.steps[1].output, Some(json!({ "message": "Error: thrown on purpose", "status": "FAILED" })));
}

#[tokio::test(start_paused = true)]
async fn a_failing_loop_that_continues_lets_the_run_go_on() {
    let world = World::new(1).await;
    let (flow, _) = world
        .publish(json!([
            { "name": "each", "type": "loop", "onError": "continue", "settings": {
                "items": "{{trigger.body}}",
                "steps": [{ "name": "bad", "type": "fail", "settings": { "message": "no {{item}}" } }],
            } },
            pure("after", json!("{{steps.each.error.message}}")),
        ]))
        .await;
    let run = world.run(flow, json!({ "body": ["x", "y"] })).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert_eq!(run.steps.last().and_then(|step| step.output.clone()), Some(json!("no x")));
}

#[tokio::test(start_paused = true)]
async fn skipped_steps_are_passed_over() {
    let world = World::new(1).await;
    let mut skipped = pure("first", json!("{{trigger.none}}"));
    skipped["skip"] = json!(true);
    let (flow, _) = world.publish(json!([skipped, pure("second", json!(1))])).await;
    let run = world.run(flow, json!({})).await;
    assert_eq!((run.status, run.steps[0].status), (RunStatus::Succeeded, StepStatus::Skipped));
}

#[tokio::test(start_paused = true)]
async fn retries_wait_and_use_the_same_key() {
    let world = World::new(1).await;
    let (flow, _) = world
        .publish(json!([{ "name": "act", "type": "fake.act", "settings": { "value": 1 },
            "retry": { "maxAttempts": 3 } }]))
        .await;
    world.peer.fail_first.store(2, std::sync::atomic::Ordering::SeqCst);
    let run = world.run(flow, json!({})).await;
    assert_eq!((run.status, run.steps[0].attempts), (RunStatus::Succeeded, 3));
    let calls = world.peer.calls.lock().unwrap().clone();
    assert_eq!(calls, vec![format!("{}/act", run.id); 3]);
    let waited = run.finished.expect("ended").saturating_since(run.accepted);
    assert!((1_500..=3_100).contains(&waited.as_millis()), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn an_exhausted_retry_fails_the_run() {
    let world = World::new(1).await;
    let (flow, _) = world
        .publish(
            json!([{ "name": "act", "type": "fake.act", "settings": { "value": 1 }, "retry": { "maxAttempts": 2 } }]),
        )
        .await;
    world.peer.fail_first.store(5, std::sync::atomic::Ordering::SeqCst);
    let run = world.run(flow, json!({})).await;
    assert_eq!((run.status, run.steps[0].attempts), (RunStatus::Failed, 2));
    assert_eq!(world.peer.calls.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_hangs_times_out_and_a_run_too() {
    let world = World::new(1).await;
    world.peer.hang.store(true, std::sync::atomic::Ordering::SeqCst);
    let (flow, _) =
        world.publish(json!([{ "name": "act", "type": "fake.put", "settings": { "value": 1 }, "timeout": 50 }])).await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Failed);
    assert_eq!(run.error.map(|error| error.kind), Some(StepErrorKind::Timeout));

    let (flow, _) = world
        .publish(json!([{ "name": "act", "type": "fake.put", "settings": { "value": 1 }, "timeout": 300_000,
            "retry": { "maxAttempts": 20 } }]))
        .await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_fail_step_ends_the_run_with_its_message() {
    let world = World::new(1).await;
    let (flow, _) = world
        .publish(
            json!([{ "name": "stop", "type": "fail", "settings": { "message": "no stock for {{trigger.body}}" } }]),
        )
        .await;
    let run = world.run(flow, json!({ "body": "tea" })).await;
    let error = run.error.expect("an error");
    assert_eq!(
        (run.status, error.kind, error.message.as_str()),
        (RunStatus::Failed, StepErrorKind::Explicit, "no stock for tea")
    );
}

#[tokio::test(start_paused = true)]
async fn scripts_without_input_get_the_documented_parameters() {
    let world = World::new(1).await;
    let source = json!({ "code": "export const code = p => p" });
    let (flow, _) = world
        .publish(json!([
            { "name": "call", "type": "fake.act", "settings": { "value": { "body": 1 } } },
            { "name": "log", "type": "code", "settings": { "sourceCode": source } },
        ]))
        .await;
    let run = world.run(flow, json!({ "body": "b" })).await;
    let params = &run.steps[1].output.as_ref().expect("output")["params"];
    assert_eq!(params["request"], json!({ "body": "b" }));
    assert_eq!(params["response"], json!({ "body": 1 }));
    assert_eq!(params["input"], json!({ "value": { "body": 1 } }));
    assert_eq!(params.get("item"), None);
}

#[tokio::test(start_paused = true)]
async fn a_loop_may_not_execute_more_steps_than_allowed() {
    let world = World::new(1).await;
    let (flow, _) = world
        .publish(json!([{ "name": "each", "type": "loop", "settings": { "items": "{{trigger.body}}", "steps": [pure("inner", json!(1))] } }]))
        .await;
    let run = world.run(flow, json!({ "body": vec![0; 9_999] })).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    let run = world.run(flow, json!({ "body": vec![0; 10_000] })).await;
    assert_eq!((run.status, run.error.map(|error| error.kind)), (RunStatus::Failed, Some(StepErrorKind::Limit)));
}

#[tokio::test(start_paused = true)]
async fn an_effect_that_broke_off_is_not_tried_again_unless_that_is_harmless() {
    let world = World::new(1).await;
    world.peer.hang.store(true, std::sync::atomic::Ordering::SeqCst);
    for (action, calls, kind, effect) in [
        ("fake.act", 1, StepErrorKind::OutcomeUnknown, "unknown"),
        ("fake.put", 3, StepErrorKind::Timeout, "committed"),
    ] {
        world.peer.calls.lock().unwrap().clear();
        let step = json!({ "name": "act", "type": action, "settings": { "value": 1 }, "timeout": 50, "retry": { "maxAttempts": 3 } });
        let (flow, _) = world.publish(json!([step])).await;
        let run = world.run(flow, json!({})).await;
        assert_eq!(run.error.map(|error| error.kind), Some(kind), "{action}");
        assert_eq!(world.peer.calls.lock().unwrap().len(), calls, "{action}");
        assert_eq!(run.steps[0].effect.as_ref().map(|line| line.state), Some(effect), "{action}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_run_holds_is_bounded_by_its_log() {
    let limits = RunLimits::default().with_log_bytes(5 << 20).unwrap();
    let world = World::with(1, |builder| builder.run_limits(limits)).await;
    let script = json!({ "code": "export const code = p => p" });
    let step = json!({ "name": "inner", "type": "code", "settings": { "sourceCode": script } });
    let (flow, _) = world
        .publish(json!([{ "name": "each", "type": "loop", "onError": "continue",
            "settings": { "items": "{{trigger.body}}", "steps": [step] } }]))
        .await;
    // Each iteration is given the whole trigger: 100 KiB times 2,000 is far more than 5 MiB.
    let run = world.run(flow, json!({ "body": vec!["x".repeat(50); 2_000] })).await;
    assert_eq!(run.status, RunStatus::LogSizeExceeded);
    assert_eq!(run.error.map(|error| error.kind), Some(StepErrorKind::Limit));
}
