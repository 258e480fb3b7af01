//! Testing one step by itself.

use std::collections::BTreeMap;

use ap_auth::{principal::Principal, role::Role};
use ap_core::{
    id::{FlowId, UserId},
    run::StepErrorKind,
    store::PageRequest,
};
use ap_runtime::{
    engine::StepSample,
    session::{SessionError, StepSource},
};
use serde_json::{Value, json};

use super::support::{World, call, of_flow, pure};

fn sample(trigger: Value, outputs: &[(&str, Value)]) -> StepSample {
    let outputs = outputs.iter().map(|(name, output)| ((*name).to_owned(), output.clone())).collect::<BTreeMap<_, _>>();
    StepSample { trigger, outputs, item: None }
}

async fn flow(world: &World) -> FlowId {
    world
        .publish_manual(json!([
            pure("before", json!(1)),
            call("act", "act", json!({ "value": "{{trigger.x}}-{{steps.before.output}}" })),
            { "name": "script", "type": "code", "settings": { "sourceCode": { "code": "export const code = p => p" }, "input": { "a": "{{steps.act.output}}" } } },
            { "name": "choose", "type": "branch", "settings": { "condition": "{{trigger.flag}}", "ifTrue": [pure("yes", json!(1))] } },
            { "name": "each", "type": "loop", "settings": { "items": "{{trigger.items}}", "steps": [
                call("inner", "act", json!({ "value": "{{index}}:{{item.y}}" })) ] } },
            { "name": "route", "type": "router", "settings": { "branches": [{ "name": "a", "condition": "{{trigger.flag}}", "steps": [pure("in_a", json!(1))] }] } },
            { "name": "nap", "type": "delay", "settings": { "delayMs": 5 } },
        ]))
        .await
}

#[tokio::test(start_paused = true)]
async fn a_step_is_carried_out_once_with_sample_data() {
    let world = World::new(1).await;
    let flow = flow(&world).await;
    let admin = world.admin();
    let given = sample(json!({ "x": "t", "flag": true }), &[("before", json!(7)), ("act", json!("from act"))]);
    let tested = admin.test_step(flow, StepSource::Draft, "act", given.clone()).await.unwrap();
    assert_eq!((tested.output, tested.error), (Some(json!("t-7")), None));
    assert_eq!(tested.input, Some(json!({ "value": "t-7" })));
    let tested = admin.test_step(flow, StepSource::Published, "script", given.clone()).await.unwrap();
    assert_eq!(tested.output, Some(json!({ "params": { "a": "from act" } })));
    let tested = admin.test_step(flow, StepSource::Published, "choose", given.clone()).await.unwrap();
    assert_eq!(tested.output, Some(json!({ "branch": true })));
    let tested = admin.test_step(flow, StepSource::Published, "route", given.clone()).await.unwrap();
    assert_eq!(tested.output.unwrap()["branches"][0]["evaluation"], json!(true));
    let within = StepSample { item: Some((json!({ "y": "z" }), 3)), ..given };
    let tested = admin.test_step(flow, StepSource::Published, "inner", within).await.unwrap();
    assert_eq!(tested.output, Some(json!("3:z")));
    let calls = world.peer.calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 2, "nothing else of the flow ran");
    assert!(admin.runs(of_flow(flow), &PageRequest::default()).await.unwrap().items.is_empty(), "there is no run");
    let audit = admin.audit(&PageRequest::default()).await.unwrap().items;
    let tests: Vec<_> = audit.iter().filter(|event| event.action() == "step.test").collect();
    assert_eq!(tests.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_a_step_fails_with_is_told_and_nothing_is_tried_again() {
    let world = World::new(2).await;
    let mut risky = call("risky", "act", json!({ "error": "outcome_transient" }));
    risky["retry"] = json!({ "maxAttempts": 5 });
    let mut slow = call("slow", "act", json!({ "ms": 60_000 }));
    slow["timeout"] = json!(100);
    let flow = world
        .publish_manual(json!([risky, slow, { "name": "bad", "type": "code", "settings": { "sourceCode": { "code": "throw" } } },
            pure("reads", json!("{{trigger.missing}}")), { "name": "nap", "type": "delay", "settings": { "delayMs": 5 } }]))
        .await;
    let admin = world.admin();
    for (step, kind) in [
        ("risky", StepErrorKind::OutcomeTransient),
        ("slow", StepErrorKind::Timeout),
        ("bad", StepErrorKind::Script),
        ("reads", StepErrorKind::Input),
        ("nap", StepErrorKind::Input),
        ("nowhere", StepErrorKind::Input),
    ] {
        let tested = admin.test_step(flow, StepSource::Draft, step, sample(json!({}), &[])).await.unwrap();
        assert_eq!((tested.output, tested.error.map(|error| error.kind)), (None, Some(kind)), "{step}");
    }
    assert_eq!(world.peer.calls.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_text_that_is_not_kept_needs_the_right_to_write() {
    let world = World::new(3).await;
    let flow = flow(&world).await;
    let text =
        json!({ "triggers": [{ "name": "t", "type": "manual" }], "steps": [pure("new", json!("{{trigger.n}}"))] })
            .to_string();
    let tested = world
        .admin()
        .test_step(flow, StepSource::Text(text.as_bytes()), "new", sample(json!({ "n": 5 }), &[]))
        .await
        .unwrap();
    assert_eq!(tested.output, Some(json!(5)));
    let broken = world.admin().test_step(flow, StepSource::Text(b"{}"), "new", sample(json!({}), &[])).await;
    assert!(matches!(broken, Err(SessionError::InvalidFlow(_))), "{broken:?}");
    let viewer = Principal::user(UserId::from_u128(2)).with_role(world.project, Role::Viewer);
    let viewer = world.runtime.session(viewer).project(world.project).unwrap();
    let denied = viewer.test_step(flow, StepSource::Draft, "before", sample(json!({}), &[])).await;
    assert!(matches!(denied, Err(SessionError::Denied(_))), "{denied:?}");
    let large = sample(json!("x".repeat(6 << 20)), &[("before", json!("y".repeat(6 << 20)))]);
    let refused = world.admin().test_step(flow, StepSource::Draft, "before", large).await;
    assert!(matches!(refused, Err(SessionError::InvalidArgument { .. })), "{refused:?}");
}
