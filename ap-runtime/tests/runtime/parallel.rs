//! `parallel` and loops with concurrency: steps side by side.

use std::sync::atomic::Ordering;

use ap_core::run::{RunStatus, StepErrorKind, StepStatus};
use serde_json::{Value, json};

use super::support::{World, call, output, pure, replays, step};

fn parallel(name: &str, branches: &[(&str, Value)], settings: Value) -> Value {
    let branches: Vec<Value> = branches.iter().map(|(name, steps)| json!({ "name": name, "steps": steps })).collect();
    let mut all = json!({ "branches": branches });
    for (key, value) in settings.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!({ "name": name, "type": "parallel", "settings": all })
}

fn slow(name: &str, ms: u64) -> Value {
    call(name, "act", json!({ "value": name, "ms": ms }))
}

#[tokio::test(start_paused = true)]
async fn branches_run_side_by_side_and_outputs_stand_in_their_order() {
    let world = World::new(1).await;
    let branches = [("a", json!([slow("one", 900)])), ("b", json!([slow("two", 100), slow("three", 100)]))];
    let flow = world
        .publish_manual(json!([
            parallel("both", &branches, json!({})),
            pure("after", json!("{{steps.both.output.branches.b.output}}")),
        ]))
        .await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert_eq!(world.peer.done.lock().unwrap()[..3], [json!("two"), json!("three"), json!("one")]);
    let branches = output(&run, "both")["branches"].clone();
    assert_eq!(branches.as_object().unwrap().keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(branches["a"], json!({ "status": "SUCCEEDED", "output": "one" }));
    assert_eq!(output(&run, "after"), json!("three"));
    let took = run.finished.unwrap().saturating_since(run.accepted).as_millis();
    assert!((900..1_000).contains(&took), "side by side, not one after the other: {took} ms");
    replays(world, run.id).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_branches_run_at_once_than_allowed() {
    for (limit, most) in [(1, 1), (2, 2), (5, 4)] {
        let world = World::new(2).await;
        let names = ["a", "b", "c", "d"];
        let branches = names.map(|name| (name, json!([slow(&format!("{name}1"), 50), slow(&format!("{name}2"), 50)])));
        let flow = world.publish_manual(json!([parallel("all", &branches, json!({ "maxConcurrency": limit }))])).await;
        let run = world.run(flow, json!({})).await;
        assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
        assert_eq!(world.peer.most.load(Ordering::SeqCst), most, "limit {limit}");
        assert_eq!(world.peer.calls.lock().unwrap().len(), 8);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_branch_stops_the_others_and_what_they_did_is_unknown() {
    let world = World::new(3).await;
    let failing = call("bad", "act", json!({ "error": "remote", "ms": 100 }));
    let branches = [
        ("a", json!([slow("hangs", 10_000), slow("never", 1)])),
        ("b", json!([failing])),
        ("c", json!([pure("done", json!(1))])),
    ];
    let mut fails = parallel("all", &branches, json!({}));
    fails["onError"] = json!("continue");
    let flow = world.publish_manual(json!([fails, pure("after", json!("{{steps.all.error.kind}}"))])).await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert_eq!(output(&run, "after"), json!("remote"));
    let hangs = step(&run, "hangs");
    assert_eq!(hangs.status, StepStatus::Failed);
    assert_eq!(hangs.error.as_ref().map(|error| error.kind), Some(StepErrorKind::Canceled));
    assert_eq!(hangs.effect.as_ref().map(|effect| effect.state), Some("unknown"));
    assert_eq!(step(&run, "bad").effect.as_ref().map(|effect| effect.state), Some("committed"));
    assert_eq!(step(&run, "done").status, StepStatus::Succeeded);
    assert!(run.steps.iter().all(|step| step.path.as_str() != "never"));
    assert!(world.peer.done.lock().unwrap().is_empty() || !world.peer.done.lock().unwrap().contains(&json!("hangs")));
    let took = run.finished.unwrap().saturating_since(run.accepted).as_millis();
    assert!(took < 1_000, "nobody waits for what was stopped: {took} ms");
    replays(world, run.id).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_branch_that_nobody_handles_fails_the_run_and_marks_every_step() {
    let world = World::new(4).await;
    let failing = call("bad", "act", json!({ "error": "remote", "ms": 100 }));
    let branches = [("a", json!([slow("hangs", 10_000)])), ("b", json!([failing]))];
    let flow = world.publish_manual(json!([parallel("all", &branches, json!({}))])).await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(
        (run.status, run.error.as_ref().map(|error| error.kind)),
        (RunStatus::Failed, Some(StepErrorKind::Remote))
    );
    assert!(run.steps.iter().all(|step| step.status == StepStatus::Failed), "{:?}", run.steps);
    assert_eq!(step(&run, "hangs").effect.as_ref().map(|effect| effect.state), Some("unknown"));
    replays(world, run.id).await;
}

#[tokio::test(start_paused = true)]
async fn collect_lets_the_others_finish_and_tells_what_became_of_each() {
    let world = World::new(5).await;
    let failing = call("bad", "act", json!({ "error": "remote" }));
    let branches = [
        ("a", json!([slow("good", 500), slow("better", 500)])),
        ("b", json!([pure("first", json!(7)), failing, pure("never", json!(1))])),
        ("c", json!([])),
    ];
    let flow = world.publish_manual(json!([parallel("all", &branches, json!({ "onFailure": "collect" }))])).await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    let branches = output(&run, "all")["branches"].clone();
    assert_eq!(branches["a"], json!({ "status": "SUCCEEDED", "output": "better" }));
    assert_eq!(branches["b"]["status"], json!("FAILED"));
    assert_eq!(branches["b"]["output"], json!(7));
    assert_eq!(branches["b"]["error"], json!({ "kind": "remote", "message": "as told" }));
    assert_eq!(branches["c"], json!({ "status": "SUCCEEDED", "output": null }));
    assert_eq!(step(&run, "all").status, StepStatus::Succeeded);
    replays(world, run.id).await;
}

#[tokio::test(start_paused = true)]
async fn iterations_side_by_side_keep_item_index_and_order() {
    let world = World::new(6).await;
    let steps = json!([
        call("wait", "act", json!({ "value": { "i": "{{index}}", "x": "{{item.x}}" }, "ms": "{{item.ms}}" })),
        pure("double", json!("{{index}}-{{item.x}}-{{steps.wait.output.x}}")),
    ]);
    let each = json!({ "name": "each", "type": "loop",
        "settings": { "items": "{{trigger.items}}", "steps": steps, "concurrency": 3 } });
    let flow = world.publish_manual(json!([each])).await;
    let items: Vec<Value> = (0..7_u32).map(|n| json!({ "x": n, "ms": 1_000 - n * 130 })).collect();
    let run = world.run(flow, json!({ "items": items })).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert_eq!(world.peer.most.load(Ordering::SeqCst), 3);
    let done = world.peer.done.lock().unwrap().clone();
    let order: Vec<u64> = done.iter().filter_map(|value| value["i"].as_u64()).collect();
    assert_ne!(order, [0, 1, 2, 3, 4, 5, 6], "they end in another order");
    for (index, iteration) in output(&run, "each")["iterations"].as_array().unwrap().iter().enumerate() {
        assert_eq!(iteration["double"]["output"], json!(format!("{index}-{index}-{index}")));
    }
    replays(world, run.id).await;
}

#[tokio::test(start_paused = true)]
async fn parallel_in_a_loop_in_parallel_keeps_everything_apart() {
    let world = World::new(7).await;
    let inner = parallel(
        "inner",
        &[
            ("x", json!([call("left", "act", json!({ "value": "l{{index}}{{item}}", "ms": 30 }))])),
            ("y", json!([call("right", "act", json!({ "value": "r{{index}}{{item}}", "ms": 20 }))])),
        ],
        json!({}),
    );
    let each = json!({ "name": "each", "type": "loop", "settings": { "items": ["a", "b", "c"], "concurrency": 2,
        "steps": [inner, pure("joined", json!("{{steps.inner.output.branches.x.output}}{{steps.inner.output.branches.y.output}}"))] } });
    let outer = parallel("outer", &[("p", json!([each])), ("q", json!([slow("beside", 10)]))], json!({}));
    let flow = world.publish_manual(json!([outer])).await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    let iterations = output(&run, "each")["iterations"].clone();
    for (index, item) in ["a", "b", "c"].iter().enumerate() {
        assert_eq!(iterations[index]["joined"]["output"], json!(format!("l{index}{item}r{index}{item}")));
    }
    assert_eq!(world.peer.most.load(Ordering::SeqCst), 5);
    replays(world, run.id).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_iteration_stops_the_ones_beside_it() {
    let world = World::new(8).await;
    let steps =
        json!([call("act", "act", json!({ "value": "{{item}}", "ms": "{{item.ms}}", "error": "{{item.error}}" }))]);
    let each = json!({ "name": "each", "type": "loop",
        "settings": { "items": "{{trigger.items}}", "steps": steps, "concurrency": 3 } });
    let flow = world.publish_manual(json!([each])).await;
    let items = json!([{ "ms": 9_000, "error": null }, { "ms": 10, "error": "remote" }, { "ms": 9_000, "error": null }, { "ms": 1, "error": null }]);
    let run = world.run(flow, json!({ "items": items })).await;
    assert_eq!(run.status, RunStatus::Failed);
    let states: Vec<_> = (0..3).map(|n| step(&run, &format!("each:{n}/act")).effect.as_ref().unwrap().state).collect();
    assert_eq!(states, ["unknown", "committed", "unknown"]);
    assert!(run.steps.iter().all(|step| step.path.as_str() != "each:3/act"), "the fourth never began");
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_branches_repeats_only_what_is_repeatable() {
    let world = World::new(9).await;
    world.peer.hang_from.store(1, Ordering::SeqCst);
    let branches =
        [("a", json!([slow("done", 1)])), ("b", json!([call("again", "put", json!({ "value": 1, "ms": 5 }))]))];
    let mut both = parallel("both", &branches, json!({}));
    both["settings"]["branches"][0]["steps"].as_array_mut().unwrap().push(call("more", "put", json!({ "value": 2 })));
    let flow = world.publish_manual(json!([both])).await;
    let run = world.start(flow, json!({})).await;
    world.calls(3).await;
    world.peer.hang_from.store(u32::MAX, Ordering::SeqCst);
    let world = world.crash(10, std::time::Duration::ZERO).await;
    let view = world.ended(run).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    let calls = world.peer.calls.lock().unwrap().clone();
    let count = |name: &str| calls.iter().filter(|key| key.ends_with(name)).count();
    assert_eq!((count("/done"), count("/again"), count("/more")), (1, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn each_step_side_by_side_has_its_own_time_limit() {
    let world = World::new(10).await;
    let mut short = call("short", "put", json!({ "ms": 60_000 }));
    short["timeout"] = json!(100);
    short["onError"] = json!("continue");
    let mut long = call("long", "put", json!({ "value": "in time", "ms": 900 }));
    long["timeout"] = json!(1_000);
    let flow = world
        .publish_manual(json!([parallel("both", &[("a", json!([short])), ("b", json!([long]))], json!({}))]))
        .await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert_eq!(step(&run, "short").error.as_ref().map(|error| error.kind), Some(StepErrorKind::Timeout));
    assert_eq!(output(&run, "long"), json!("in time"));
    let took = step(&run, "short").finished.unwrap().saturating_since(step(&run, "short").started);
    assert_eq!(took.as_millis(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_stops_the_run_leaves_no_step_half_done() {
    let world = World::new(11).await;
    let stop =
        json!({ "name": "answer", "type": "respond", "settings": { "status": 200, "body": "enough", "stop": true } });
    let branches = [("a", json!([slow("hangs", 10_000)])), ("b", json!([slow("first", 10), stop]))];
    let flow = world.publish_manual(json!([parallel("both", &branches, json!({})), pure("never", json!(1))])).await;
    let run = world.run(flow, json!({})).await;
    assert_eq!((run.status, run.error), (RunStatus::Succeeded, None));
    let statuses: Vec<_> = run.steps.iter().map(|step| (step.path.as_str(), step.status)).collect();
    assert_eq!(
        statuses,
        [
            ("both", StepStatus::Succeeded),
            ("hangs", StepStatus::Failed),
            ("first", StepStatus::Succeeded),
            ("answer", StepStatus::Succeeded)
        ]
    );
}
