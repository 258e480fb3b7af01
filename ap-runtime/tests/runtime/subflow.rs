//! `subflow`: flows that start flows.

use std::{sync::atomic::Ordering, time::Duration};

use ap_core::{
    id::{FlowId, RunId, SignalId},
    run::{RunStatus, StepErrorKind},
    store::{LookupHash, PageRequest, Sealed},
};
use ap_runtime::store::{
    ClaimRequest, JournalEntry, RunChange, RunCommit, RunFilter, RunStore, SignalRecord, SystemStore,
};
use serde_json::{Value, json};

use super::support::{World, call, of_flow, output, pure, replays, step};

fn subflow(name: &str, flow: FlowId, settings: Value) -> Value {
    let mut all = json!({ "flow": flow.to_string() });
    for (key, value) in settings.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!({ "name": name, "type": "subflow", "settings": all })
}

async fn child_of(world: &World, parent: RunId) -> RunId {
    for _ in 0..10_000 {
        let filter = RunFilter { parent: Some(parent), ..RunFilter::default() };
        let found = world.admin().runs(filter, &PageRequest::default()).await.unwrap().items;
        if let Some(run) = found.first() {
            return run.id;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("there is no child");
}

#[tokio::test(start_paused = true)]
async fn a_subflow_gives_its_reply_else_its_last_output() {
    let world = World::new(1).await;
    let replying = world
        .publish_manual(json!([
            { "name": "answer", "type": "respond", "settings": { "status": 201, "body": { "got": "{{trigger.x}}" } } },
            pure("later", json!("not this")),
        ]))
        .await;
    let plain = world.publish_manual(json!([pure("a", json!(1)), pure("b", json!("{{trigger.x}}"))])).await;
    let flow = world
        .publish_manual(json!([
            subflow("one", replying, json!({ "payload": { "x": "{{trigger.n}}" } })),
            subflow("two", plain, json!({ "payload": { "x": "{{steps.one.output.got}}" } })),
            pure("after", json!("{{steps.two.output}}")),
        ]))
        .await;
    let run = world.run(flow, json!({ "n": 7 })).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert_eq!((output(&run, "one"), output(&run, "after")), (json!({ "got": 7 }), json!(7)));
    let child = child_of(&world, run.id).await;
    assert_eq!(world.view(child).await.parent, Some(run.id));
    replays(world, run.id).await;
}

#[tokio::test(start_paused = true)]
async fn a_subflow_that_fails_fails_its_step() {
    let world = World::new(2).await;
    let child =
        world.publish_manual(json!([{ "name": "no", "type": "fail", "settings": { "message": "no stock" } }])).await;
    let mut sub = subflow("sub", child, json!({}));
    sub["onError"] =
        json!({ "steps": [pure("rescue", json!("{{steps.sub.error.kind}}: {{steps.sub.error.message}}"))] });
    let flow = world.publish_manual(json!([sub])).await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert_eq!(output(&run, "rescue"), json!("subflow: the other flow ended as FAILED: no stock"));
    replays(world, run.id).await;
}

#[tokio::test(start_paused = true)]
async fn an_async_subflow_is_not_waited_for() {
    let world = World::new(3).await;
    let child = world.publish_manual(json!([call("slow", "act", json!({ "ms": 20_000 }))])).await;
    let flow = world.publish_manual(json!([subflow("sub", child, json!({ "mode": "async" }))])).await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert!(run.finished.unwrap().saturating_since(run.accepted) < Duration::from_secs(1));
    let child = child_of(&world, run.id).await;
    assert_eq!(output(&run, "sub"), json!({ "run": child }));
    assert_eq!(world.ended(child).await.status, RunStatus::Succeeded, "the end of the parent does not end it");
    replays(world, run.id).await;
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_cannot_be_started_fails_the_step() {
    let world = World::new(4).await;
    let disabled = world.publish_manual(json!([pure("a", json!(1))])).await;
    world.admin().set_flow_enabled(disabled, false).await.unwrap();
    let (hooked, _) = world.publish(json!([pure("a", json!(1))])).await;
    let flow = world
        .publish_manual(json!([{ "name": "sub", "type": "subflow", "settings": { "flow": "{{trigger.flow}}" } }]))
        .await;
    for (target, kind) in [
        (json!(disabled), StepErrorKind::Subflow),
        (json!(hooked), StepErrorKind::Subflow),
        (json!(FlowId::from_u128(7)), StepErrorKind::Subflow),
        (json!("flow_nonsense"), StepErrorKind::Input),
        (json!(5), StepErrorKind::Input),
    ] {
        let run = world.run(flow, json!({ "flow": target })).await;
        assert_eq!(run.error.as_ref().map(|error| error.kind), Some(kind), "{target}: {:?}", run.error);
    }
}

#[tokio::test(start_paused = true)]
async fn flows_start_each_other_ten_levels_deep_and_no_deeper() {
    let world = World::new(5).await;
    let flow = world
        .publish_manual(json!([{ "name": "again", "type": "branch", "settings": {
            "condition": [[{ "firstValue": "{{trigger.left}}", "operator": "NUMBER_IS_GREATER_THAN", "secondValue": 0 }]],
            "ifTrue": [{ "name": "sub", "type": "subflow", "settings": {
                "flow": "{{trigger.flow}}", "payload": { "flow": "{{trigger.flow}}", "left": "{{trigger.next[0]}}", "next": "{{trigger.next[1]}}" } } }] } }]))
        .await;
    let payload = |levels: u32| {
        let next = (0..levels).fold(json!([0, []]), |next, level| json!([level, next]));
        json!({ "flow": flow, "left": levels, "next": next })
    };
    let run = world.run(flow, payload(10)).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert_eq!(world.admin().runs(of_flow(flow), &PageRequest::default()).await.unwrap().items.len(), 11);
    let run = world.run(flow, payload(11)).await;
    assert_eq!(run.status, RunStatus::Failed);
    assert!(run.error.unwrap().message.contains("more than 10 levels"));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_parent_ends_those_it_waits_for() {
    let world = World::new(6).await;
    world.peer.hang.store(true, Ordering::SeqCst);
    let grandchild = world.publish_manual(json!([call("hang", "act", json!({}))])).await;
    let child = world.publish_manual(json!([subflow("sub", grandchild, json!({}))])).await;
    let flow = world.publish_manual(json!([subflow("sub", child, json!({}))])).await;
    let run = world.start(flow, json!({})).await;
    world.calls(1).await;
    let child = child_of(&world, run).await;
    let grandchild = child_of(&world, child).await;
    world.admin().cancel_run(run, "enough").await.unwrap();
    for run in [run, child, grandchild] {
        assert_eq!(world.ended(run).await.status, RunStatus::Canceled);
    }
    let audit = world.admin().audit(&PageRequest::first(500)).await.unwrap().items;
    for run in [run, child, grandchild] {
        let canceled = |event: &&ap_auth::audit::AuditEvent| {
            event.action() == "run.cancel" && event.resources().contains(&run.to_string())
        };
        assert_eq!(audit.iter().filter(canceled).count(), 1, "{run}: {audit:?}");
    }
    let world = replays(world, run).await;
    replays(world, grandchild).await;
}

#[tokio::test(start_paused = true)]
async fn a_subflow_that_takes_too_long_is_ended() {
    let world = World::new(7).await;
    let child =
        world.publish_manual(json!([{ "name": "nap", "type": "delay", "settings": { "delayMs": 3_600_000 } }])).await;
    let mut sub = subflow("sub", child, json!({}));
    sub["timeout"] = json!(60_000);
    let flow = world.publish_manual(json!([sub])).await;
    let run = world.start(flow, json!({})).await;
    let view = world.ended(run).await;
    assert_eq!(view.error.map(|error| error.kind), Some(StepErrorKind::Timeout));
    assert!(view.finished.unwrap().saturating_since(view.accepted) < Duration::from_secs(62));
    let child = child_of(&world, run).await;
    let child = world.ended(child).await;
    assert_eq!(child.status, RunStatus::Canceled);
    assert!(child.finished.unwrap().saturating_since(child.accepted) < Duration::from_secs(65));
    replays(world, run).await;
}

#[tokio::test(start_paused = true)]
async fn a_sibling_that_fails_ends_the_subflow_beside_it() {
    let world = World::new(8).await;
    let child =
        world.publish_manual(json!([{ "name": "nap", "type": "delay", "settings": { "delayMs": 3_600_000 } }])).await;
    let both = json!({ "name": "both", "type": "parallel", "onError": "continue", "settings": { "branches": [
        { "name": "a", "steps": [subflow("sub", child, json!({}))] },
        { "name": "b", "steps": [call("bad", "act", json!({ "ms": 1_000, "error": "remote" }))] },
    ] } });
    let flow = world.publish_manual(json!([both, pure("after", json!(1))])).await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    assert_eq!(step(&run, "sub").error.as_ref().map(|error| error.kind), Some(StepErrorKind::Canceled));
    let child = child_of(&world, run.id).await;
    assert_eq!(world.ended(child).await.status, RunStatus::Canceled);
    replays(world, run.id).await;
}

#[tokio::test(start_paused = true)]
async fn two_parents_each_hear_of_their_own() {
    let world = World::new(9).await;
    let child = world
        .publish_manual(json!([{ "name": "nap", "type": "delay", "settings": { "delayMs": "{{trigger.ms}}" } }, pure("out", json!("{{trigger.who}}"))]))
        .await;
    let flow = world
        .publish_manual(json!([subflow(
            "sub",
            child,
            json!({ "payload": { "ms": "{{trigger.ms}}", "who": "{{trigger.who}}" } })
        )]))
        .await;
    let one = world.start(flow, json!({ "ms": 60_000, "who": "one" })).await;
    let two = world.start(flow, json!({ "ms": 30_000, "who": "two" })).await;
    assert_eq!(world.paused(one).await.status, RunStatus::Paused);
    let world = world.crash(10, Duration::ZERO).await;
    for (run, who) in [(one, "one"), (two, "two")] {
        let view = world.ended(run).await;
        assert_eq!((view.status, output(&view, "sub")), (RunStatus::Succeeded, json!(who)), "{:?}", view.error);
    }
}

#[tokio::test(start_paused = true)]
async fn an_output_that_is_too_large_to_be_told_fails_the_step_and_nothing_else() {
    let world = World::new(10).await;
    let child = world
        .publish_manual(json!([{ "name": "each", "type": "loop", "settings": {
            "items": [1, 2, 3, 4, 5, 6], "steps": [pure("copy", json!("{{trigger.text}}"))] } }]))
        .await;
    let flow = world
        .publish_manual(json!([subflow("sub", child, json!({ "payload": { "text": "{{trigger.text}}" } }))]))
        .await;
    let run = world.run(flow, json!({ "text": "x".repeat(2 << 20) })).await;
    let error = run.error.expect("an error");
    assert_eq!(error.kind, StepErrorKind::Subflow);
    assert!(error.message.contains("its output is larger"), "{error}");
    let child = child_of(&world, run.id).await;
    assert_eq!(world.ended(child).await.status, RunStatus::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn side_by_side_subflows_are_each_waited_for() {
    let world = World::new(11).await;
    let child = world.publish_manual(json!([call("act", "act", json!({ "value": "{{trigger.n}}", "ms": 100 }))])).await;
    let each = json!({ "name": "each", "type": "loop", "settings": { "items": [1, 2, 3, 4], "concurrency": 4,
        "steps": [subflow("sub", child, json!({ "payload": { "n": "{{item}}" } }))] } });
    let flow = world.publish_manual(json!([each])).await;
    let run = world.run(flow, json!({})).await;
    assert_eq!(run.status, RunStatus::Succeeded, "{:?}", run.error);
    let outputs: Vec<Value> = (0..4).map(|n| output(&run, &format!("each:{n}/sub"))).collect();
    assert_eq!(outputs, [1, 2, 3, 4].map(Value::from));
    assert_eq!(world.admin().runs(of_flow(child), &PageRequest::default()).await.unwrap().items.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_waited_for_is_replaced_by_no_other() {
    let world = World::new(71).await;
    let child = world
        .publish_flow(json!({
            "triggers": [{ "type": "manual" }],
            "debounce": { "delayMs": 10_000 },
            "steps": [pure("a", json!("{{trigger.n}}"))],
        }))
        .await;
    let flow =
        world.publish_manual(json!([subflow("sub", child, json!({ "payload": { "n": "{{trigger.n}}" } }))])).await;
    let admin = world.admin();
    let first = admin.start_run(flow, json!({ "n": 1 })).await.unwrap();
    let second = admin.start_run(flow, json!({ "n": 2 })).await.unwrap();
    for (run, n) in [(first, 1), (second, 2)] {
        assert_eq!(admin.wait_for_run(run, Duration::from_secs(60)).await.unwrap(), RunStatus::Succeeded);
        assert_eq!(output(&world.view(run).await, "sub"), json!(n));
    }
}

#[tokio::test(start_paused = true)]
async fn a_subflow_whose_journal_is_broken_is_no_longer_waited_for() {
    let world = World::new(12).await;
    let child =
        world.publish_manual(json!([{ "name": "nap", "type": "delay", "settings": { "delayMs": 36_000_000 } }])).await;
    let flow = world.publish_manual(json!([subflow("sub", child, json!({}))])).await;
    let run = world.start(flow, json!({})).await;
    let child = child_of(&world, run).await;
    world.paused(child).await;
    world.paused(run).await;
    // Whoever can write to the store takes the run up and spoils its journal.
    let (backend, project) = (&world.backend, world.project);
    let sealed = Sealed::from_bytes(vec![1; 64].into());
    let signal = SignalRecord {
        id: SignalId::from_u128(1),
        project,
        run: child,
        slot: LookupHash([7; 32]),
        at: world.clock.now(),
        sealed: sealed.clone(),
    };
    backend.signal(signal, &[]).await.unwrap();
    let lease = Duration::from_secs(30);
    let request = ClaimRequest { limit: 1, lease, per_project: u32::MAX, total: u32::MAX };
    let lease = backend.claim(request).await.unwrap()[0].lease;
    assert_eq!(lease.run, child);
    let seq = backend.journal(child, project).await.unwrap().len() as u64;
    let commit = RunCommit::new(lease, RunChange::Release).with_entries(vec![JournalEntry { seq, sealed }]);
    backend.commit(commit, &[]).await.unwrap();
    let view = world.ended(run).await;
    assert_eq!(world.backend.run(child, project).await.unwrap().status, RunStatus::InternalError);
    let error = view.error.expect("an error");
    assert_eq!((view.status, error.kind), (RunStatus::Failed, StepErrorKind::Subflow), "{error}");
    assert!(error.message.contains("INTERNAL_ERROR"), "{error}");
    assert!(view.finished.unwrap().saturating_since(view.accepted) < Duration::from_secs(3_600));
}
