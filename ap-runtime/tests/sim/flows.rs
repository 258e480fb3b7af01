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
