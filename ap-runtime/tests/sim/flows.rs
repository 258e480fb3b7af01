//! The flows that are explored.

use ap_core::connection::{Connection, ConnectionValue, FieldValue};
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

/// The flow of the quickstart example: signed webhook, script, HTTP request with a credential, script, reply.
pub(crate) fn quickstart() -> Explore {
    let flow = json!({
        "displayName": "New contact",
        "triggers": [{ "name": "new_contact", "type": "webhook", "settings": {
            "authentication": { "type": "HMAC_SHA256", "headerName": "X-Signature", "prefix": "sha256=",
                "secret": "{{connections.webhook_signing}}" },
            "dedupeKey": "X-Delivery-Id",
        } }],
        "steps": [
            { "name": "check_contact", "type": "code", "settings": {
                "sourceCode": { "code": "export const code = ({ contact }) => contact" },
                "input": { "contact": "{{trigger.body}}" } } },
            { "name": "create_contact", "type": "http", "settings": {
                "method": "POST", "url": "{{connections.crm.url}}",
                "headers": { "Authorization": "Bearer {{connections.crm.token}}" },
                "body": "{{steps.check_contact.output}}" },
              "timeout": 30_000, "retry": { "maxAttempts": 3, "backoff": { "initialMs": 200 } }, "idempotencyKey": true },
            { "name": "log_result", "type": "code", "settings": {
                "sourceCode": { "code": "export const code = ({ contact }) => contact" },
                "input": { "contact": "{{steps.check_contact.output}}", "response": "{{steps.create_contact.output}}" } } },
            { "name": "answer", "type": "respond", "settings": {
                "status": 201, "body": { "contact": "{{steps.create_contact.output.body.id}}" } } },
        ],
    });
    let fields = [
        ("url".to_owned(), FieldValue::Clear("https://crm.example/contacts".to_owned())),
        ("token".to_owned(), FieldValue::Secret("crm-token-that-nobody-sees".into())),
    ];
    let crm = ConnectionValue::CustomAuth { fields: fields.into() };
    let signing = ConnectionValue::SecretText { secret: "signing-secret-that-nobody-sees".into() };
    explore(&flow)
        .pieces(ap_pieces::standard())
        .connection(Connection::new("crm", crm, vec![], vec![]).unwrap())
        .connection(Connection::new("webhook_signing", signing, vec![], vec![]).unwrap())
        .script(|_, params| Ok(params["contact"].clone()))
        .payload(json!({ "email": "ada.lovelace@example.com" }))
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

/// Scripts that count in the key-value store, alone and side by side, between effects.
pub(crate) fn counted() -> Explore {
    let count = |name: &str| {
        json!({ "name": name, "type": "code", "settings": { "sourceCode": { "code": "export const code = p => p" } },
            "retry": { "maxAttempts": 5 } })
    };
    let branch = |name: &str| json!({ "name": format!("with_{name}"), "steps": [count(name)] });
    with(&webhook(&json!([
        count("first"),
        { "name": "put", "type": "peer.put", "settings": { "value": 1 } },
        { "name": "both", "type": "parallel", "settings": { "branches": [branch("one"), branch("other")] } },
        { "name": "answer", "type": "respond", "settings": { "status": 200, "body": { "ok": true } } },
    ])))
    .deliveries(3)
    .scripts_count()
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

/// Expressions: before effects, in what is repeated, and in a condition.
pub(crate) fn expressions() -> Explore {
    let flow = webhook(&json!([
        { "name": "put", "type": "peer.put", "settings": { "value": "{{trigger.body.email + '!'}}" } },
        { "name": "each", "type": "loop", "settings": { "items": "{{trigger.body.items.slice(1)}}", "concurrency": 2, "steps": [
            { "name": "act", "type": "peer.act", "settings": { "value": "{{[item, index]}}" }, "onError": "continue" },
        ] } },
        { "name": "side", "type": "branch", "settings": { "condition": "{{trigger.body.items.length > 2}}", "ifTrue": [
            { "name": "keyed", "type": "peer.act", "settings": { "value": "{{steps.put.output + 1}}" }, "idempotencyKey": true,
              "retry": { "maxAttempts": 3 } },
        ] } },
        { "name": "answer", "type": "respond", "settings": { "status": 201, "body": "{{({ id: $run.id })}}" } },
    ]));
    with(&flow).script(|source, variables| match source {
        "trigger.body.items.slice(1)" => Ok(json!([variables["trigger"]["body"]["items"][1], 7])),
        _ => Ok(variables.clone()),
    })
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
                { "name": "pause", "type": "delay", "settings": { "delayMs": 20_000 } },
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

/// Started by a schedule.
pub(crate) fn scheduled() -> Explore {
    let flow = json!({
        "displayName": "Simulated scheduled flow",
        "triggers": [{ "name": "tick", "type": "schedule", "settings": { "cronExpression": "* * * * *", "timezone": "UTC" } }],
        "steps": [{ "name": "act", "type": "peer.act", "settings": { "value": 1 }, "onError": "continue" }],
    });
    with(&flow).lifetime(std::time::Duration::from_secs(150))
}

/// Two runs that work off one queue.
pub(crate) fn shared_queue() -> Explore {
    queues().deliveries(2)
}

/// Several runs of a loop at once.
pub(crate) fn busy() -> Explore {
    looped().deliveries(3)
}

/// One worker that owns its store.
pub(crate) fn alone() -> Explore {
    effects().workers(1).deliveries(2)
}
