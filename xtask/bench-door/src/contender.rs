//! What is measured: who answers, what is asked, and what the answer must be.

use serde_json::{Value, json};

/// One way to answer a webhook request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    /// The same HTTP stack, answering at once.
    BareHttp,
    /// The same HTTP stack, answering after as many grouped commits as a run needs.
    BareCommits,
    /// webhook → respond.
    Respond,
    /// webhook → code → respond.
    Code,
}

impl Contender {
    /// In the order in which they take turns.
    pub(crate) const ALL: [Self; 4] = [Self::BareHttp, Self::Respond, Self::BareCommits, Self::Code];

    /// Its name in the report.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BareHttp => "floor: bare HTTP",
            Self::BareCommits => "floor: HTTP + 2 bare grouped commits",
            Self::Respond => "webhook → respond",
            Self::Code => "webhook → code → respond",
        }
    }

    /// Whether its answers are runs.
    pub(crate) const fn makes_runs(self) -> bool {
        matches!(self, Self::Respond | Self::Code)
    }

    /// What it must answer.
    pub(crate) fn reply(self) -> Message {
        match self {
            Self::BareHttp | Self::BareCommits => order(),
            Self::Respond => Message::of(&json!({ "received": NUMBER, "customer": "Ada Lovelace" })),
            Self::Code => Message::of(&json!({ "received": NUMBER, "totalCents": 4_895, "lines": 2 })),
        }
    }
}

/// A JSON body in which the number of the request stands somewhere.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    before: String,
    after: String,
}

impl Message {
    fn of(body: &Value) -> Self {
        let text = body.to_string();
        let (before, after) = text.split_once(&NUMBER.to_string()).unwrap_or((&text, ""));
        Self { before: before.to_owned(), after: after.to_owned() }
    }

    /// Appends the body of request `number`.
    pub(crate) fn write(&self, number: u64, into: &mut Vec<u8>) {
        into.extend_from_slice(self.before.as_bytes());
        into.extend_from_slice(number.to_string().as_bytes());
        into.extend_from_slice(self.after.as_bytes());
    }
}

/// What is sent: a small order, as a shop would send it.
pub(crate) fn order() -> Message {
    Message::of(&json!({
        "event": "order.created",
        "number": NUMBER,
        "customer": { "name": "Ada Lovelace", "email": "ada@example.org", "country": "GB" },
        "items": [
            { "sku": "notebook-a5", "quantity": 3, "unitCents": 1_299 },
            { "sku": "pencil-hb", "quantity": 2, "unitCents": 499 }
        ],
        "note": "Please leave it with the neighbour at number 12 if nobody is at home."
    }))
}

/// The flow webhook → respond.
pub(crate) fn respond_flow() -> Value {
    let body = json!({ "received": "{{trigger.body.number}}", "customer": "{{trigger.body.customer.name}}" });
    flow("Respond", json!([{ "name": "reply", "type": "respond", "settings": { "body": body } }]))
}

/// The flow webhook → code → respond.
pub(crate) fn code_flow() -> Value {
    let script = "export const code = async ({ order }) => ({\n\
                  \x20 received: order.number,\n\
                  \x20 totalCents: order.items.reduce((sum, item) => sum + item.quantity * item.unitCents, 0),\n\
                  \x20 lines: order.items.length,\n\
                  });";
    let settings = json!({ "sourceCode": { "code": script }, "input": { "order": "{{trigger.body}}" } });
    flow(
        "Code",
        json!([
            { "name": "total", "type": "code", "settings": settings },
            { "name": "reply", "type": "respond", "settings": { "body": "{{steps.total.output}}" } }
        ]),
    )
}

fn flow(name: &str, steps: Value) -> Value {
    json!({
        "displayName": name,
        "triggers": [{ "name": "hook", "type": "webhook", "settings": { "authentication": { "type": "NONE" } } }],
        "steps": steps,
    })
}

/// Stands for the number of a request; occurs nowhere else.
const NUMBER: u64 = 987_654_321_987;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_carries_its_number() {
        for contender in Contender::ALL {
            for message in [order(), contender.reply()] {
                let mut text = Vec::new();
                message.write(7, &mut text);
                let value: Value = serde_json::from_slice(&text).unwrap();
                assert!(value["number"] == 7 || value["received"] == 7, "{value}");
            }
        }
    }
}
