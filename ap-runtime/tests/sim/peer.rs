//! A piece that acts on a peer that is not there.

use std::sync::Arc;

use ap_core::{
    piece::{Action, ActionContext, ActionError, ActionSpec, Effect, Piece, Trigger},
    property::{AuthSchema, Properties, Property, PropertyKind},
};
use async_trait::async_trait;
use serde_json::Value;

/// `peer.act` acts outside once, `peer.put` repeatably, `peer.pure` not at all; each returns its value.
#[derive(Debug)]
pub(crate) struct PeerPiece;

#[derive(Debug)]
struct PeerAction {
    spec: ActionSpec,
    effect: Effect,
}

impl Piece for PeerPiece {
    fn name(&self) -> &str {
        "peer"
    }
    fn display_name(&self) -> &str {
        "Peer"
    }
    fn description(&self) -> &str {
        "Acts on a peer."
    }
    fn auth(&self) -> Option<AuthSchema> {
        None
    }
    fn actions(&self) -> Vec<Arc<dyn Action>> {
        let action = |(name, effect)| {
            let properties = Properties::new([Property::new("value", "Value", PropertyKind::Json)]);
            let spec = ActionSpec { name, display_name: name, description: "Returns its value.", properties };
            Arc::new(PeerAction { spec, effect }) as Arc<dyn Action>
        };
        [("act", Effect::Once), ("put", Effect::Repeatable), ("pure", Effect::None)].into_iter().map(action).collect()
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
    async fn run(&self, _: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        Ok(input.get("value").cloned().unwrap_or_default())
    }
}

pub(crate) fn piece() -> Arc<dyn Piece> {
    Arc::new(PeerPiece)
}
