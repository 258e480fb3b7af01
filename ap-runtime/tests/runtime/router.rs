//! `router`: which lists of steps run.

use ap_core::run::RunStatus;
use serde_json::{Value, json};

use super::support::{World, output, pure, replays};

fn router(mode: &str) -> Value {
    let branch = |name: &str| json!({ "name": name, "condition": format!("{{{{trigger.{name}}}}}"), "steps": [pure(&format!("in_{name}"), json!(name))] });
    json!([
        { "name": "route", "type": "router", "settings": {
            "mode": mode, "branches": [branch("a"), branch("b"), branch("c")], "fallback": [pure("other", json!(0))] } },
        pure("after", json!("{{steps.route.output.branches[1].evaluation}}")),
    ])
}

async fn taken(mode: &str, flags: [bool; 3]) -> (Vec<String>, Value) {
    let world = World::new(1).await;
    let flow = world.publish_manual(router(mode)).await;
    let run = world.run(flow, json!({ "a": flags[0], "b": flags[1], "c": flags[2] })).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    let names = run.steps.iter().map(|step| step.path.as_str().to_owned()).collect();
    let judged = output(&run, "route")["branches"].clone();
    replays(world, run.id).await;
    (names, judged)
}

#[tokio::test(start_paused = true)]
async fn first_match_takes_one_and_looks_no_further() {
    let (names, judged) = taken("firstMatch", [false, true, true]).await;
    assert_eq!(names, ["route", "in_b", "after"]);
    assert_eq!(
        judged,
        json!([
            { "branchName": "a", "branchIndex": 1, "evaluation": false },
            { "branchName": "b", "branchIndex": 2, "evaluation": true },
            { "branchName": "c", "branchIndex": 3, "evaluation": false },
        ])
    );
}

#[tokio::test(start_paused = true)]
async fn all_match_takes_every_one_in_order() {
    assert_eq!(taken("allMatch", [true, false, true]).await.0, ["route", "in_a", "in_c", "after"]);
    assert_eq!(taken("allMatch", [true, true, true]).await.0, ["route", "in_a", "in_b", "in_c", "after"]);
}

#[tokio::test(start_paused = true)]
async fn the_fallback_runs_if_nothing_matches() {
    for mode in ["firstMatch", "allMatch"] {
        let (names, judged) = taken(mode, [false; 3]).await;
        assert_eq!(names, ["route", "other", "after"], "{mode}");
        assert!(judged.as_array().unwrap().iter().all(|one| one["evaluation"] == json!(false)));
    }
}

#[tokio::test(start_paused = true)]
async fn all_match_judges_before_any_branch_runs_and_a_failure_ends_the_rest() {
    let world = World::new(2).await;
    let fails = json!({ "name": "fails", "type": "fail", "settings": { "message": "no" } });
    let flow = world
        .publish_manual(json!([
            { "name": "route", "type": "router", "onError": "continue", "settings": { "mode": "allMatch", "branches": [
                { "name": "a", "condition": true, "steps": [fails] },
                { "name": "b", "condition": true, "steps": [pure("never", json!(1))] },
            ] } },
            pure("after", json!("{{steps.route.error.message}}")),
        ]))
        .await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert_eq!(run.steps.iter().map(|step| step.path.as_str()).collect::<Vec<_>>(), ["route", "fails", "after"]);
    assert_eq!(output(&run, "after"), json!("no"));
}

#[tokio::test(start_paused = true)]
async fn without_a_fallback_nothing_runs() {
    let world = World::new(3).await;
    let flow = world
        .publish_manual(json!([{ "name": "route", "type": "router", "settings": {
            "branches": [{ "name": "a", "condition": "{{trigger.a}}", "steps": [pure("in_a", json!(1))] }] } }]))
        .await;
    let run = world.run(flow, json!({ "a": false })).await;
    assert_eq!((run.status, run.steps.len()), (RunStatus::Succeeded, 1));
}
