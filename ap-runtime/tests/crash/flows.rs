//! What the killed process executes: flows, and the piece that acts on the peer.

use std::{net::SocketAddr, sync::Arc};

use ap_core::{
    piece::{Action, ActionContext, ActionError, ActionSpec, Effect, Piece, Trigger},
    property::{AuthSchema, Properties, Property, PropertyKind},
    run::{StepError, StepErrorKind},
};
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::wire::{self, Message};

/// A kind of flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Acts under a key, then responds with the peer's answer.
    Keyed,
    /// Responds, and acts under a key only then.
    Late,
    /// Acts twice in a loop, by an action that is repeatable by itself, then responds.
    Looped,
    /// Acts without a key, then responds.
    Once,
    /// Responds, and does nothing else.
    Plain,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Keyed, Self::Late, Self::Looped, Self::Once, Self::Plain];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Keyed => "keyed",
            Self::Late => "late",
            Self::Looped => "looped",
            Self::Once => "once",
            Self::Plain => "plain",
        }
    }

    /// The kind of a delivery, by its id.
    pub fn of(delivery: &str) -> Self {
        let name = delivery.split('-').next().unwrap_or_default();
        Self::ALL.into_iter().find(|kind| kind.name() == name).unwrap_or_else(|| panic!("`{delivery}` is none of ours"))
    }

    /// What a delivery has the peer do.
    pub fn labels(self, delivery: &str) -> Vec<String> {
        let label = |part: &str| format!("{delivery}/{part}");
        match self {
            Self::Keyed | Self::Late | Self::Once => vec![label("act")],
            Self::Looped => vec![label("x"), label("y")],
            Self::Plain => vec![],
        }
    }

    pub fn source(self) -> Value {
        let label = "{{trigger.body.id}}/act";
        let keyed =
            json!({ "name": "act", "type": "peer.act", "settings": { "label": label }, "idempotencyKey": true });
        let unkeyed = json!({ "name": "act", "type": "peer.act", "settings": { "label": label } });
        let each = json!({ "name": "each", "type": "loop", "settings": {
            "items": "{{trigger.body.items}}",
            "steps": [{ "name": "put", "type": "peer.put", "settings": { "label": "{{trigger.body.id}}/{{item}}" } }],
        } });
        let respond = |body: Value| json!({ "name": "reply", "type": "respond", "settings": { "body": body } });
        let answered = respond(json!({ "id": "{{trigger.body.id}}", "answer": "{{steps.act.output.answer}}" }));
        let plain = respond(json!({ "id": "{{trigger.body.id}}" }));
        let steps = match self {
            Self::Keyed => json!([keyed, answered]),
            Self::Late => json!([plain, keyed]),
            Self::Looped => json!([each, plain]),
            Self::Once => json!([unkeyed, answered]),
            Self::Plain => json!([plain]),
        };
        let settings = json!({ "authentication": { "type": "NONE" } });
        let trigger = json!({ "name": "hook", "type": "webhook", "settings": settings });
        json!({ "displayName": self.name(), "triggers": [trigger], "steps": steps })
    }
}

/// `peer.act` acts once; `peer.put` may be repeated, because it always sends its key.
#[derive(Debug)]
pub struct PeerPiece(pub SocketAddr);

#[derive(Debug)]
struct PeerAction {
    spec: ActionSpec,
    effect: Effect,
    peer: SocketAddr,
}

impl Piece for PeerPiece {
    fn name(&self) -> &str {
        "peer"
    }
    fn display_name(&self) -> &str {
        "Peer"
    }
    fn description(&self) -> &str {
        "Acts on the service of the test."
    }
    fn auth(&self) -> Option<AuthSchema> {
        None
    }
    fn actions(&self) -> Vec<Arc<dyn Action>> {
        [("act", Effect::Once), ("put", Effect::Repeatable)]
            .into_iter()
            .map(|(name, effect)| {
                let properties = Properties::new([Property::new("label", "Label", PropertyKind::Json).required()]);
                let spec = ActionSpec { name, display_name: name, description: "Acts and returns.", properties };
                Arc::new(PeerAction { spec, effect, peer: self.0 }) as Arc<dyn Action>
            })
            .collect()
    }
    fn triggers(&self) -> Vec<Arc<dyn Trigger>> {
        Vec::new()
    }
}

#[async_trait]
impl Action for PeerAction {
    fn spec(&self) -> &ActionSpec {
        &self.spec
    }
    fn effect(&self, _: &Value) -> Effect {
        self.effect
    }
    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        let label = input["label"].as_str().unwrap_or_default();
        let request = Message::new("POST /act HTTP/1.1", label);
        let keyed = context.send_idempotency_key || self.effect == Effect::Repeatable;
        let request = if keyed { request.with("idempotency-key", context.idempotency_key) } else { request };
        let failed = |message: String| StepError::new(StepErrorKind::Connection, message);
        let response = wire::exchange(self.peer, &request).await.map_err(|error| failed(error.to_string()))?;
        Ok(serde_json::from_slice(&response.body).map_err(|error| failed(error.to_string()))?)
    }
}
