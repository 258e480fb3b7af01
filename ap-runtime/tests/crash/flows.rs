//! What the killed process executes: flows, and the piece that acts on the peer.

use std::{net::SocketAddr, sync::Arc};

use ap_core::{
    id::{FlowId, ProjectId},
    piece::{Action, ActionContext, ActionError, ActionSpec, Effect, Piece, Trigger},
    property::{AuthSchema, Properties, Property, PropertyKind},
    run::{StepError, StepErrorKind},
};
use ap_runtime::sandbox::{
    CodeError, CodeOutput, CodeRequest, CodeSandbox, CodeUnit, ExpressionRequest, StoreAct, StoreCall, StoreCallError,
    StoreScope,
};
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::wire::{self, Message};

/// A kind of flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Has another flow act under a key, and waits for it.
    Caller,
    /// Adds one to a value of the key-value store, then responds.
    Counted,
    /// Waits for time to pass, then acts under a key.
    Delayed,
    /// Acts under a key by the piece `http`, then responds with the peer's answer.
    Fetched,
    /// Acts under a key, then responds with the peer's answer.
    Keyed,
    /// Responds, and acts under a key only then.
    Late,
    /// Acts twice in a loop, by an action that is repeatable by itself, then responds.
    Looped,
    /// Acts without a key, then responds.
    Once,
    /// Acts twice side by side under keys, then responds.
    Parallel,
    /// Responds, and does nothing else.
    Plain,
    /// Acts without a key by the piece `http`, then responds with the peer's answer.
    Posted,
    /// Puts two jobs into a queue and works off what is in it, by an action that is repeatable by itself.
    Queued,
    /// Is refused by the peer, then loses the peer's answer, then acts under a key, then responds with the answer.
    Retried,
    /// Sends the peer a token under a key, waits for the answer, then responds with it.
    Waiting,
}

/// What flows refer to.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    pub peer: SocketAddr,
    /// The flow that `Kind::Caller` calls.
    pub called: FlowId,
}

impl Kind {
    pub const ALL: [Self; 14] = [
        Self::Caller,
        Self::Counted,
        Self::Delayed,
        Self::Fetched,
        Self::Keyed,
        Self::Late,
        Self::Looped,
        Self::Once,
        Self::Parallel,
        Self::Plain,
        Self::Posted,
        Self::Queued,
        Self::Retried,
        Self::Waiting,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Counted => "counted",
            Self::Delayed => "delayed",
            Self::Fetched => "fetched",
            Self::Keyed => "keyed",
            Self::Late => "late",
            Self::Looped => "looped",
            Self::Once => "once",
            Self::Parallel => "parallel",
            Self::Plain => "plain",
            Self::Posted => "posted",
            Self::Queued => "queued",
            Self::Retried => "retried",
            Self::Waiting => "waiting",
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
            Self::Counted | Self::Plain => vec![],
            Self::Looped | Self::Parallel | Self::Queued => vec![label("x"), label("y")],
            _ => vec![label("act")],
        }
    }

    /// Whether a crash can hide what became of its effect.
    pub const fn is_unkeyed(self) -> bool {
        matches!(self, Self::Once | Self::Posted)
    }

    /// How many runs a delivery starts beside its own.
    pub const fn calls(self) -> usize {
        if matches!(self, Self::Caller) { 1 } else { 0 }
    }

    /// The answer to a synchronous caller, but for the peer's answer.
    pub fn reply(self, delivery: &str, answer: &Value) -> Value {
        match self {
            Self::Fetched | Self::Keyed | Self::Once | Self::Posted | Self::Retried => {
                json!({ "id": delivery, "answer": answer })
            }
            Self::Waiting => json!({ "id": delivery, "answer": format!("{delivery}/act") }),
            _ => json!({ "id": delivery }),
        }
    }

    pub fn source(self, places: &Places) -> Value {
        let label = "{{trigger.body.id}}/act";
        let act = |keyed: bool| json!({ "name": "act", "type": "peer.act", "settings": { "label": label }, "idempotencyKey": keyed });
        let http = |path: &str, keyed: bool| {
            let settings = json!({ "method": "POST", "url": format!("http://{}{path}", places.peer), "body": label });
            json!({ "name": "act", "type": "http.request", "settings": settings, "idempotencyKey": keyed })
        };
        let put = |name: &str, label: &str| json!({ "name": name, "type": "peer.put", "settings": { "label": label } });
        let step =
            |name: &str, kind: &str, settings: Value| json!({ "name": name, "type": kind, "settings": settings });
        let plain = step("reply", "respond", json!({ "body": { "id": "{{trigger.body.id}}" } }));
        let with = |answer: &str| {
            step("reply", "respond", json!({ "body": { "id": "{{trigger.body.id}}", "answer": answer } }))
        };
        let (told, received) = ("{{steps.act.output.answer}}", "{{steps.act.output.body.answer}}");
        let steps = match self {
            Self::Caller => {
                let payload = json!({ "id": "{{trigger.body.id}}" });
                json!([
                    step("call", "subflow", json!({ "flow": places.called.to_string(), "payload": payload })),
                    plain
                ])
            }
            Self::Counted => {
                let count = step("count", "code", json!({ "sourceCode": { "code": "count" } }));
                json!([count, plain])
            }
            Self::Delayed => json!([step("pause", "delay", json!({ "delayMs": 30 })), act(true), plain]),
            Self::Fetched => json!([http("/act", true), with(received)]),
            Self::Keyed => json!([act(true), with(told)]),
            Self::Late => json!([plain, act(true)]),
            Self::Looped => {
                let each = json!([put("put", "{{trigger.body.id}}/{{item}}")]);
                json!([step("each", "loop", json!({ "items": "{{trigger.body.items}}", "steps": each })), plain])
            }
            Self::Once => json!([act(false), with(told)]),
            Self::Parallel => {
                let side = |name: &str| json!({ "name": format!("side_{name}"), "steps": [put(&format!("put_{name}"), &format!("{{{{trigger.body.id}}}}/{name}"))] });
                json!([step("both", "parallel", json!({ "branches": [side("x"), side("y")] })), plain])
            }
            Self::Plain => json!([plain]),
            Self::Posted => json!([http("/act", false), with(received)]),
            Self::Queued => {
                let jobs = json!(["{{trigger.body.id}}/x", "{{trigger.body.id}}/y"]);
                let work = json!({ "queueName": "work", "maxConcurrent": 4, "steps": [put("put", "{{item}}")] });
                json!([
                    step("fill", "queue.enqueue", json!({ "queueName": "work", "data": jobs })),
                    step("work", "queue.process", work),
                    plain
                ])
            }
            Self::Retried => {
                let mut act = http("/flaky", true);
                act["retry"] = json!({ "maxAttempts": 5, "backoff": { "type": "fixed", "initialMs": 10 } });
                json!([act, with(received)])
            }
            Self::Waiting => {
                let mut ask = act(true);
                ask["settings"]["token"] = "{{$wait.hold.token}}".into();
                let hold = step("hold", "wait", json!({ "mode": "webhook", "timeoutMs": 600_000 }));
                json!([ask, hold, with("{{steps.hold.output.label}}")])
            }
        };
        let settings = json!({ "authentication": { "type": "NONE" } });
        let trigger = json!({ "name": "hook", "type": "webhook", "settings": settings });
        json!({ "displayName": self.name(), "triggers": [trigger], "steps": steps })
    }
}

/// Stands in for a script that counts: reads a value of the key-value store, and writes one more.
#[derive(Debug)]
pub struct CountingSandbox;

/// The value it counts in.
pub const COUNTER: &str = "counter";

#[async_trait]
impl CodeSandbox for CountingSandbox {
    async fn check(&self, _: ProjectId, _: CodeUnit) -> Result<(), CodeError> {
        Ok(())
    }

    async fn run(&self, request: CodeRequest) -> Result<CodeOutput, CodeError> {
        let failed = |error: StoreCallError| CodeError::Thrown {
            name: "Error".to_owned(),
            message: error.to_string(),
            place: None,
            stack: String::new(),
            console: Vec::new(),
        };
        let call = |act| StoreCall { scope: StoreScope::Project, key: COUNTER.to_owned(), act };
        let read = request.host.store(call(StoreAct::Get)).await.map_err(failed)?;
        let count = read.map_or(0, |json| json.parse::<u64>().unwrap()) + 1;
        request.host.store(call(StoreAct::Put(count.to_string()))).await.map_err(failed)?;
        Ok(CodeOutput { value: count.into(), console: Vec::new(), console_truncated: false, fuel: None })
    }

    async fn evaluate(&self, request: ExpressionRequest) -> Result<Vec<Result<Value, CodeError>>, CodeError> {
        Ok(request.expressions.iter().map(|_| Err(CodeError::NoValue)).collect())
    }
}

/// The flow that `Kind::Caller` calls.
pub fn called() -> Value {
    let settings = json!({ "label": "{{trigger.id}}/act" });
    let act = json!({ "name": "act", "type": "peer.act", "settings": settings, "idempotencyKey": true });
    json!({ "displayName": "called", "triggers": [{ "name": "start", "type": "manual" }], "steps": [act] })
}

/// The delivery a run is of, by what its trigger delivered.
pub fn delivery_of(trigger: &Value) -> &str {
    let id = trigger["headers"]["webhook-id"].as_str().or_else(|| trigger["id"].as_str());
    id.unwrap_or_default()
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
                let properties = Properties::new([
                    Property::new("label", "Label", PropertyKind::Json).required(),
                    Property::new("token", "Token", PropertyKind::Json),
                ]);
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
        let request = match input["token"].as_str() {
            Some(token) => request.with("x-token", token),
            None => request,
        };
        let failed = |message: String| StepError::new(StepErrorKind::Connection, message);
        let response = wire::exchange(self.peer, &request).await.map_err(|error| failed(error.to_string()))?;
        Ok(serde_json::from_slice(&response.body).map_err(|error| failed(error.to_string()))?)
    }
}
