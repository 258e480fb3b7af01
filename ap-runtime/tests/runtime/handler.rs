//! `onError`: steps that handle a failure, and where a failure goes that nobody handles.

use ap_core::run::{RunStatus, StepErrorKind, StepStatus};
use serde_json::{Value, json};

use super::support::{World, call, output, pure, replays, step};

fn handled(mut step: Value, steps: Value) -> Value {
    step["onError"] = json!({ "steps": steps });
    step
}

fn bad(name: &str) -> Value {
    call(name, "act", json!({ "error": "remote" }))
}

#[tokio::test(start_paused = true)]
async fn a_handler_sees_the_error_and_the_run_goes_on_behind_the_step() {
    let world = World::new(1).await;
    let handler = json!([pure("seen", json!("{{steps.bad.error.kind}}: {{steps.bad.error.message}}"))]);
    let flow = world
        .publish_manual(json!([
            handled(bad("bad"), handler),
            pure("after", json!({ "status": "{{steps.bad.status}}", "said": "{{steps.seen?.output ?? 'nothing'}}" })),
        ]))
        .await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert_eq!(output(&run, "seen"), json!("remote: as told"));
    assert_eq!(output(&run, "after"), json!({ "status": "FAILED", "said": "remote: as told" }));
    replays(world, run.id).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_does_not_run_without_a_failure() {
    let world = World::new(2).await;
    let good = call("good", "act", json!({ "value": 1 }));
    let flow =
        world.publish_manual(json!([handled(good, json!([pure("never", json!(1))])), pure("after", json!(2))])).await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.steps.iter().map(|step| step.path.as_str()).collect::<Vec<_>>(), ["good", "after"]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_handler_fails_the_list_around_and_the_step_keeps_its_own_error() {
    let world = World::new(3).await;
    let worse = json!({ "name": "worse", "type": "fail", "settings": { "message": "worse" } });
    let flow = world.publish_manual(json!([handled(bad("bad"), json!([worse])), pure("never", json!(1))])).await;
    let run = world.run(flow, json!({})).await;
    let error = run.error.clone().expect("an error");
    assert_eq!((run.status, error.kind, error.message.as_str()), (RunStatus::Failed, StepErrorKind::Explicit, "worse"));
    assert_eq!(step(&run, "bad").error.as_ref().map(|error| error.kind), Some(StepErrorKind::Remote));
    assert!(run.steps.iter().all(|step| step.path.as_str() != "never"));
    replays(world, run.id).await;
}

#[tokio::test(start_paused = true)]
async fn the_handler_of_a_step_around_takes_what_a_handler_fails_with() {
    let world = World::new(4).await;
    let worse = json!({ "name": "worse", "type": "fail", "settings": { "message": "worse" } });
    let inner = handled(bad("bad"), json!([worse]));
    let branch = json!({ "name": "choose", "type": "branch",
        "settings": { "condition": true, "ifTrue": [inner, pure("never", json!(1))] } });
    let flow = world
        .publish_manual(json!([handled(branch, json!([pure("rescue", json!("{{steps.choose.error.message}}"))]))]))
        .await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert_eq!(output(&run, "rescue"), json!("worse"));
    assert!(run.steps.iter().all(|step| step.path.as_str() != "never"));
}

#[tokio::test(start_paused = true)]
async fn a_handler_in_a_loop_belongs_to_its_iteration() {
    for concurrency in [1, 3] {
        let world = World::new(5).await;
        let risky = call("risky", "act", json!({ "value": "{{item.v}}", "error": "{{item.error}}" }));
        let handler = json!([pure("rescue", json!("{{index}} {{item.v}} {{steps.risky.error.kind}}"))]);
        let steps = json!([handled(risky, handler), pure("tail", json!("{{item.v}}"))]);
        let each = json!({ "name": "each", "type": "loop",
            "settings": { "items": "{{trigger.items}}", "steps": steps, "concurrency": concurrency } });
        let flow = world.publish_manual(json!([each])).await;
        let items =
            json!([{ "v": "a", "error": null }, { "v": "b", "error": "remote" }, { "v": "c", "error": "script" }]);
        let run = world.run(flow, json!({ "items": items })).await;
        assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
        assert_eq!(output(&run, "each:1/rescue"), json!("1 b remote"));
        assert_eq!(output(&run, "each:2/rescue"), json!("2 c script"));
        assert!(run.steps.iter().all(|step| step.path.as_str() != "each:0/rescue"));
        assert_eq!(output(&run, "each")["iterations"][2]["tail"]["output"], json!("c"));
        replays(world, run.id).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_of_a_loop_runs_once_and_stops_what_was_beside() {
    for concurrency in [1, 2] {
        let world = World::new(6).await;
        let steps = json!([call(
            "act",
            "act",
            json!({ "value": "{{index}}", "ms": "{{item.ms}}", "error": "{{item.error}}" })
        )]);
        let each = json!({ "name": "each", "type": "loop",
            "settings": { "items": "{{trigger.items}}", "steps": steps, "concurrency": concurrency } });
        let flow = world
            .publish_manual(json!([
                handled(each, json!([pure("rescue", json!("{{steps.each.error.kind}}"))])),
                pure("after", json!("{{steps.each.status}}"))
            ]))
            .await;
        let items = json!([{ "ms": 5, "error": "remote" }, { "ms": 5_000, "error": null }]);
        let run = world.run(flow, json!({ "items": items })).await;
        assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
        assert_eq!((output(&run, "rescue"), output(&run, "after")), (json!("remote"), json!("FAILED")));
        assert!(run.finished.unwrap().saturating_since(run.accepted).as_millis() < 1_000);
        replays(world, run.id).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_of_a_parallel_sees_the_first_failure() {
    let world = World::new(7).await;
    let both = json!({ "name": "both", "type": "parallel", "settings": { "branches": [
        { "name": "a", "steps": [call("late", "act", json!({ "ms": 500, "error": "script" }))] },
        { "name": "b", "steps": [call("early", "act", json!({ "ms": 100, "error": "remote" }))] },
    ] } });
    let flow =
        world.publish_manual(json!([handled(both, json!([pure("rescue", json!("{{steps.both.error.kind}}"))]))])).await;
    let run = world.run(flow, json!({})).await;
    assert_eq!((run.status, output(&run, "rescue")), (RunStatus::Succeeded, json!("remote")));
}

#[tokio::test(start_paused = true)]
async fn a_handler_runs_after_the_last_attempt_only() {
    let world = World::new(8).await;
    let mut risky = call("risky", "act", json!({ "error": "outcome_transient" }));
    risky["retry"] = json!({ "maxAttempts": 3, "backoff": { "initialMs": 10 } });
    let flow = world.publish_manual(json!([handled(risky, json!([pure("rescue", json!(1))]))])).await;
    let run = world.run(flow, json!({})).await;
    assert_eq!((run.status, step(&run, "risky").attempts), (RunStatus::Succeeded, 3));
    assert_eq!(step(&run, "rescue").status, StepStatus::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn skipped_steps_of_every_kind_are_passed_over() {
    let world = World::new(9).await;
    let kinds = json!([
        { "name": "s1", "type": "loop", "skip": true, "settings": { "items": [1], "steps": [pure("i1", json!(1))] } },
        { "name": "s2", "type": "parallel", "skip": true, "settings": { "branches": [{ "name": "a", "steps": [pure("i2", json!(1))] }] } },
        { "name": "s3", "type": "delay", "skip": true, "settings": { "delayMs": 1_000_000 } },
        { "name": "s4", "type": "wait", "skip": true, "settings": { "mode": "webhook" } },
        { "name": "s5", "type": "queue.process", "skip": true, "settings": { "queueName": "q", "steps": [pure("i3", json!(1))] } },
        { "name": "s6", "type": "fail", "skip": true, "settings": { "message": "no" } },
        pure("last", json!(1)),
    ]);
    let flow = world.publish_manual(kinds).await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert!(run.steps[..6].iter().all(|step| step.status == StepStatus::Skipped && step.attempts == 0));
    assert_eq!(run.steps.len(), 7);
}
