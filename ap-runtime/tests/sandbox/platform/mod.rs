//! The JavaScript platform of code steps: `engine-js/prelude`, in the real sandbox.

mod host;
mod node;
mod step;
mod tampering;
mod vectors;

use serde_json::Value;

use super::{SANDBOX, request};

/// Runs `body` as the body of a step's function, and returns its result.
#[track_caller]
fn evaluate(body: &str) -> impl Future<Output = Value> {
    let source = format!("export const code = async (params, ctx) => {{ {body} }};");
    async move { SANDBOX.run(request(&source, "{}")).await.unwrap_or_else(|error| panic!("{error}: {source}")).value }
}
