//! The flows that are executed, and what their webhooks receive.

use serde_json::{Value, json};

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Flow {
    /// webhook → three pure steps → respond: two commits.
    Pure,
    /// webhook → pure step → outside act → respond: three commits.
    Effect,
}

impl Flow {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Pure, Self::Effect];

    /// Its name in the report.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pure => "webhook → 3 pure → respond",
            Self::Effect => "webhook → pure → act → respond",
        }
    }

    /// How many steps a run executes.
    #[must_use]
    pub const fn steps(self) -> usize {
        match self {
            Self::Pure => 4,
            Self::Effect => 3,
        }
    }

    /// How many commits a run needs: acceptance, each outside act, end.
    #[must_use]
    pub const fn commits(self) -> usize {
        match self {
            Self::Pure => 2,
            Self::Effect => 3,
        }
    }

    /// Its definition.
    #[must_use]
    pub fn source(self) -> Value {
        let first = json!({ "name": "customer", "type": "stub.pure", "settings": { "value": "{{trigger.body.customer.name}}" } });
        let reply = json!({ "name": "reply", "type": "respond", "settings": {
            "body": { "received": "{{trigger.body.number}}", "customer": "{{steps.customer.output}}" } } });
        let steps = match self {
            Self::Pure => vec![
                first,
                json!({ "name": "items", "type": "stub.pure", "settings": { "value": "{{trigger.body.items}}" } }),
                json!({ "name": "number", "type": "stub.pure", "settings": { "value": "{{trigger.body.number}}" } }),
                reply,
            ],
            Self::Effect => vec![
                first,
                json!({ "name": "act", "type": "stub.act", "settings": { "value": "{{steps.customer.output}}" } }),
                reply,
            ],
        };
        definition(self.name(), &Value::Array(steps))
    }
}

/// webhook → outside act of this many milliseconds → respond.
#[must_use]
pub fn lasting(milliseconds: u64) -> Value {
    let act = json!({ "name": "act", "type": "stub.act", "settings": { "value": "done", "takesMs": milliseconds } });
    let reply =
        json!({ "name": "reply", "type": "respond", "settings": { "body": { "done": "{{steps.act.output}}" } } });
    definition("Lasting", &json!([act, reply]))
}

/// webhook → a day's delay → respond.
#[must_use]
pub fn delayed() -> Value {
    parked(&json!({ "name": "pause", "type": "delay", "settings": { "delayMs": 86_400_000 } }))
}

/// webhook → wait for somebody → respond.
#[must_use]
pub fn waiting() -> Value {
    parked(&json!({ "name": "pause", "type": "wait", "settings": { "mode": "webhook" } }))
}

fn parked(pause: &Value) -> Value {
    let reply =
        json!({ "name": "reply", "type": "respond", "settings": { "body": { "number": "{{trigger.body.number}}" } } });
    definition("Parked", &json!([pause, reply]))
}

fn definition(name: &str, steps: &Value) -> Value {
    json!({
        "displayName": name,
        "triggers": [{ "name": "hook", "type": "webhook", "settings": { "authentication": { "type": "NONE" } } }],
        "steps": steps,
    })
}

/// What is sent: a small order, as a shop would send it.
#[must_use]
pub fn order(number: u64) -> Vec<u8> {
    let order = json!({
        "event": "order.created",
        "number": number,
        "customer": { "name": "Ada Lovelace", "email": "ada@example.org", "country": "GB" },
        "items": [
            { "sku": "notebook-a5", "quantity": 3, "unitCents": 1_299 },
            { "sku": "pencil-hb", "quantity": 2, "unitCents": 499 }
        ],
        "note": "Please leave it with the neighbour at number 12 if nobody is at home."
    });
    order.to_string().into_bytes()
}
