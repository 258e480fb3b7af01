//! [`Stub`]: a piece that acts on nothing but the clock.

use std::{sync::Arc, time::Duration};

use ap_core::{
    piece::{Action, ActionContext, ActionError, ActionSpec, Effect, Piece, Trigger},
    property::{AuthSchema, Properties, Property, PropertyKind},
};
use async_trait::async_trait;
use serde_json::Value;

/// `stub.pure` touches nothing outside; `stub.act` stands for an outside act that must not be repeated, and takes as long as it
/// is told to. Both return their `value`.
#[derive(Debug)]
pub struct Stub;

impl Piece for Stub {
    fn name(&self) -> &str {
        "stub"
    }

    fn display_name(&self) -> &str {
        "Stub"
    }

    fn description(&self) -> &str {
        "Returns what it is given."
    }

    fn auth(&self) -> Option<AuthSchema> {
        None
    }

    fn actions(&self) -> Vec<Arc<dyn Action>> {
        let action = |name, effect| {
            let properties = Properties::new([
                Property::new("value", "Value", PropertyKind::Json).describe("What comes out."),
                Property::new("takesMs", "Takes", PropertyKind::Number { min: Some(0.0), max: None, whole: true })
                    .describe("How long it takes, in milliseconds."),
            ]);
            let spec = ActionSpec { name, display_name: name, description: "Returns its value.", properties };
            Arc::new(StubAction { spec, effect }) as Arc<dyn Action>
        };
        vec![action("pure", Effect::None), action("act", Effect::Once)]
    }

    fn triggers(&self) -> Vec<Arc<dyn Trigger>> {
        Vec::new()
    }
}

#[derive(Debug)]
struct StubAction {
    spec: ActionSpec,
    effect: Effect,
}

#[async_trait]
impl Action for StubAction {
    fn spec(&self) -> &ActionSpec {
        &self.spec
    }

    fn effect(&self, _: &Value) -> Effect {
        self.effect
    }

    async fn run(&self, _: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        if let Some(time) = input.get("takesMs").and_then(Value::as_u64) {
            tokio::time::sleep(Duration::from_millis(time)).await;
        }
        Ok(input.get("value").cloned().unwrap_or_default())
    }
}
