//! The piece `data-mapper`: puts a new object together from the values of earlier steps.

use std::sync::Arc;

use ap_core::{
    piece::{Action, Piece, Trigger},
    property::{AuthSchema, Property, PropertyKind},
    run::StepError,
};
use serde_json::Value;

use crate::{input, pure::Pure};

/// The piece `data-mapper`.
#[derive(Clone, Copy, Debug)]
pub struct DataMapper;

impl Piece for DataMapper {
    fn name(&self) -> &str {
        "data-mapper"
    }

    fn display_name(&self) -> &str {
        "Data Mapper"
    }

    fn description(&self) -> &str {
        "Puts a new object together from the values of earlier steps."
    }

    fn auth(&self) -> Option<AuthSchema> {
        None
    }

    fn actions(&self) -> Vec<Arc<dyn Action>> {
        vec![Pure::action(
            "map",
            "Map",
            "Resolves the templates of an object; the object comes out.",
            [Property::new("mapping", "Mapping", PropertyKind::Object)
                .describe("The object to put out, with templates for its values.")
                .required()],
            map,
        )]
    }

    fn triggers(&self) -> Vec<Arc<dyn Trigger>> {
        Vec::new()
    }
}

fn map(mut input: Value) -> Result<Value, StepError> {
    input::take(&mut input, "mapping").ok_or_else(|| input::wrong("mapping", "is required"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::run;

    #[tokio::test]
    async fn the_object_comes_out_as_it_is() {
        let mapping = json!({ "a": 1, "b": { "c": [null, "x"] } });
        assert_eq!(run(&DataMapper, "map", json!({ "mapping": mapping })).await, Ok(mapping));
        assert_eq!(run(&DataMapper, "map", json!({ "mapping": {} })).await, Ok(json!({})));
    }

    #[tokio::test]
    async fn anything_but_an_object_is_refused() {
        for wrong in [json!({}), json!({ "mapping": [] }), json!({ "mapping": "{}" }), json!({ "mapping": null })] {
            assert!(run(&DataMapper, "map", wrong).await.is_err());
        }
    }
}
