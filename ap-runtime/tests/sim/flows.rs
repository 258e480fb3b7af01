//! The flows that are explored.

use ap_runtime::sim::{Explore, explore};
use serde_json::{Value, json};

use super::peer;

fn webhook(steps: &Value) -> Value {
    json!({
        "displayName": "Simulated contact flow",
        "triggers": [{ "name": "hook", "type": "webhook", "settings": { "authentication": { "type": "NONE" } } }],
        "steps": steps,
    })
}

fn with(flow: &Value) -> Explore {
    explore(flow).pieces([peer::piece()]).payload(json!({ "email": "ada.lovelace@example.com", "items": [1, 2, 3] }))
}

/// Effects of each kind, a retry, a script and a reply.
pub(crate) fn effects() -> Explore {
    with(&webhook(&json!([
        { "name": "put", "type": "peer.put", "settings": { "value": "{{trigger.body.email}}" } },
        { "name": "look", "type": "code", "settings": {
            "sourceCode": { "code": "export const code = p => p" }, "input": { "put": "{{steps.put.output}}" } } },
        { "name": "act", "type": "peer.act", "settings": { "value": "{{steps.look.output}}" },
          "retry": { "maxAttempts": 3 }, "onError": "continue" },
        { "name": "keyed", "type": "peer.act", "settings": { "value": 3 }, "idempotencyKey": true,
          "retry": { "maxAttempts": 3 } },
        { "name": "answer", "type": "respond", "settings": { "status": 201, "body": { "id": "{{$run.id}}" } } },
    ])))
}

/// A loop with an effect in each iteration.
pub(crate) fn looped() -> Explore {
    with(&webhook(&json!([
        { "name": "each", "type": "loop", "settings": { "items": "{{trigger.body.items}}", "steps": [
            { "name": "act", "type": "peer.act", "settings": { "value": "{{item}}" }, "onError": "continue" },
            { "name": "put", "type": "peer.put", "settings": { "value": "{{index}}" }, "retry": { "maxAttempts": 2 } },
        ] } },
    ])))
}

/// A loop whose iterations overlap, branches side by side, a delay, and a wait for somebody outside, who may answer before
/// the run waits for it.
pub(crate) fn loop_parallel_wait() -> Explore {
    with(&webhook(&json!([
        { "name": "each", "type": "loop", "settings": { "items": "{{trigger.body.items}}", "concurrency": 2, "steps": [
            { "name": "put", "type": "peer.put", "settings": { "value": "{{item}}" } },
        ] } },
        { "name": "both", "type": "parallel", "settings": { "onFailure": "collect", "branches": [
            { "name": "ask", "steps": [
                { "name": "send", "type": "peer.put", "settings": { "value": "{{$wait.answered.token}}" } },
                { "name": "pause", "type": "delay", "settings": { "delayMs": 5000 } },
                { "name": "answered", "type": "wait", "settings": { "mode": "webhook", "timeoutMs": 600_000 } },
            ] },
            { "name": "act", "steps": [
                { "name": "act", "type": "peer.act", "settings": { "value": 1 }, "onError": "continue" },
            ] },
        ] } },
        { "name": "done", "type": "respond", "settings": { "status": 200, "body": { "ok": true } } },
    ])))
}

/// A run that starts another one, waits for its end, and starts one it does not wait for.
pub(crate) fn subflows() -> Explore {
    let child = json!({
        "displayName": "Simulated child flow",
        "triggers": [{ "name": "by_hand", "type": "manual" }],
        "steps": [{ "name": "put", "type": "peer.put", "settings": { "value": "{{trigger.n}}" } }],
    });
    let flow = webhook(&json!([
        { "name": "wait_for", "type": "subflow", "settings": { "flow": "sim:child", "payload": { "n": 1 } } },
        { "name": "go_on", "type": "subflow", "settings": { "flow": "sim:child", "payload": { "n": 2 }, "mode": "async" } },
        { "name": "act", "type": "peer.act", "settings": { "value": "{{steps.wait_for.output}}" }, "onError": "continue" },
    ]));
    with(&flow).subflow("child", &child)
}

/// Jobs put into a queue, and worked off.
pub(crate) fn queues() -> Explore {
    with(&webhook(&json!([
        { "name": "fill", "type": "queue.enqueue", "settings": { "queueName": "jobs", "data": "{{trigger.body.items}}" } },
        { "name": "work", "type": "queue.process", "settings": { "queueName": "jobs", "maxConcurrent": 2, "maxRetries": 2,
          "steps": [{ "name": "put", "type": "peer.put", "settings": { "value": "{{item}}" } }] } },
    ])))
}

/// One run at a time.
pub(crate) fn gated() -> Explore {
    let mut flow = webhook(&json!([
        { "name": "put", "type": "peer.put", "settings": { "value": 1 } },
        { "name": "pause", "type": "delay", "settings": { "delayMs": 2000 } },
        { "name": "act", "type": "peer.act", "settings": { "value": 2 }, "onError": "continue" },
    ]));
    flow["concurrency"] = json!({ "limit": 1 });
    with(&flow).deliveries(4)
}
