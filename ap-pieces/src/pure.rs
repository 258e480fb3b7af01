//! [`Pure`]: an action that computes its output from its input and touches nothing else.

use std::{fmt, sync::Arc};

use ap_core::{
    piece::{Action, ActionContext, ActionError, ActionSpec, Effect},
    property::{Properties, Property},
    run::StepError,
};
use async_trait::async_trait;
use serde_json::Value;

/// An action without effect: a specification and a function.
pub(crate) struct Pure {
    spec: ActionSpec,
    compute: Compute,
}

type Compute = fn(Value) -> Result<Value, StepError>;

impl Pure {
    /// An action ready to be listed by its piece.
    pub(crate) fn action<const N: usize>(
        name: &'static str,
        display_name: &'static str,
        description: &'static str,
        properties: [Property; N],
        compute: Compute,
    ) -> Arc<dyn Action> {
        let spec = ActionSpec { name, display_name, description, properties: Properties::new(properties) };
        Arc::new(Self { spec, compute })
    }
}

impl fmt::Debug for Pure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pure").field(&self.spec.name).finish()
    }
}

#[async_trait]
impl Action for Pure {
    fn spec(&self) -> &ActionSpec {
        &self.spec
    }

    fn effect(&self, _input: &Value) -> Effect {
        Effect::None
    }

    async fn run(&self, _context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        Ok((self.compute)(input)?)
    }
}
