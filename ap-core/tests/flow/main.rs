//! Flows by their public API: what parses, what can be published, what is refused and why.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "test support")]

mod control;
mod guide;
mod hostile;
mod limits;
mod options;
mod pace;
mod parse;
mod queue;
mod references;
mod sameness;
mod trigger;
mod valid;
mod waits;

use std::sync::Arc;

use ap_core::{
    flow::{Diagnostics, FlowDefinition, FlowLimits, ValidFlow},
    piece::{
        Action, ActionContext, ActionError, ActionSpec, Effect, Piece, PieceSet, PollOutcome, Trigger, TriggerSpec,
    },
    property::{AuthSchema, Properties, Property, PropertyKind},
};
use async_trait::async_trait;
use serde_json::{Value, json};

/// A flow with these steps, started by a webhook that everyone may call.
fn flow(steps: Value) -> Value {
    let trigger = json!({ "name": "hook", "type": "webhook", "settings": { "authentication": { "type": "NONE" } } });
    json!({ "displayName": "Test", "triggers": [trigger], "steps": steps })
}

/// A flow of one step of this type with these settings.
fn one(kind: &str, settings: Value) -> Value {
    flow(json!([{ "name": "only", "type": kind, "settings": settings }]))
}

fn code(name: &str) -> Value {
    json!({ "name": name, "type": "code", "settings": { "sourceCode": { "code": "export const code = () => 1;" } } })
}

/// A step that reads `template`.
fn reads(name: &str, template: &str) -> Value {
    json!({ "name": name, "type": "respond", "settings": { "body": template } })
}

fn parse(flow: &Value) -> FlowDefinition {
    FlowDefinition::from_value(flow.clone(), &FlowLimits::default()).unwrap_or_else(|found| panic!("{found}"))
}

/// Place and rule of everything that keeps the value from being a flow.
fn parse_errors(flow: &Value) -> Vec<(String, &'static str)> {
    let found = FlowDefinition::from_value(flow.clone(), &FlowLimits::default()).expect_err("is refused");
    brief(&found)
}

fn check(flow: &Value) -> Result<ValidFlow, Diagnostics> {
    ValidFlow::check(parse(flow), &pieces(), &FlowLimits::default())
}

fn valid(flow: &Value) -> ValidFlow {
    check(flow).unwrap_or_else(|found| panic!("{found}"))
}

/// Place and rule of everything that keeps the flow from being published.
fn check_errors(flow: &Value) -> Vec<(String, &'static str)> {
    brief(&check(flow).expect_err("is refused"))
}

fn brief(found: &Diagnostics) -> Vec<(String, &'static str)> {
    for finding in &found.0 {
        assert!(!finding.message.is_empty() && !finding.fix.is_empty(), "{finding:?}");
        assert!(!finding.message.contains('\n') && finding.message.chars().count() < 400, "{finding:?}");
    }
    found.0.iter().map(|finding| (finding.pointer.clone(), finding.rule)).collect()
}

fn at(pointer: &str, rule: &'static str) -> (String, &'static str) {
    (pointer.to_owned(), rule)
}

fn pieces() -> PieceSet {
    PieceSet::new([Arc::new(Http) as Arc<dyn Piece>])
}

/// A piece with the settings of the guide's `http` steps that does nothing.
#[derive(Debug)]
struct Http;

impl Piece for Http {
    fn name(&self) -> &str {
        "http"
    }
    fn display_name(&self) -> &str {
        "HTTP"
    }
    fn description(&self) -> &str {
        "Stands in for the HTTP piece."
    }
    fn auth(&self) -> Option<AuthSchema> {
        None
    }
    fn actions(&self) -> Vec<Arc<dyn Action>> {
        let action = |name| Arc::new(Request::new(name)) as Arc<dyn Action>;
        vec![action("request"), action("download")]
    }
    fn triggers(&self) -> Vec<Arc<dyn Trigger>> {
        let properties = Properties::new([Property::new("url", "URL", PropertyKind::ShortText).required()]);
        let spec = |name| TriggerSpec {
            name,
            display_name: "Poll",
            description: "Finds nothing.",
            properties: properties.clone(),
        };
        vec![Arc::new(Changes(spec("changed"))), Arc::new(Changes(spec("new_item")))]
    }
}

#[derive(Debug)]
struct Changes(TriggerSpec);

#[async_trait]
impl Trigger for Changes {
    fn spec(&self) -> &TriggerSpec {
        &self.0
    }
    async fn poll(&self, _: &ActionContext<'_>, _: Value, _: Option<&Value>) -> Result<PollOutcome, ActionError> {
        Ok(PollOutcome { items: Vec::new(), cursor: None })
    }
}

#[derive(Debug)]
struct Request(ActionSpec);

impl Request {
    fn new(name: &'static str) -> Self {
        let properties = Properties::new([
            Property::new("method", "Method", PropertyKind::StaticDropdown { options: &["GET", "POST"] }),
            Property::new("url", "URL", PropertyKind::ShortText).required(),
            Property::new("headers", "Headers", PropertyKind::Object),
            Property::new("body", "Body", PropertyKind::Json),
        ]);
        Self(ActionSpec { name, display_name: "Request", description: "Does nothing.", properties })
    }
}

#[async_trait]
impl Action for Request {
    fn spec(&self) -> &ActionSpec {
        &self.0
    }
    fn effect(&self, _: &Value) -> Effect {
        Effect::Once
    }
    async fn run(&self, _: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        Ok(input)
    }
}
