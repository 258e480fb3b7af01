//! A piece that does what it likes with what its peer says: an action that turns it round, and a trigger that is polled, and puts what its API says into its items, their keys, its cursor and its errors.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use ap_core::{
    capability::{HttpRequest, SqlStatement},
    piece::{Action, ActionContext, ActionError, ActionSpec, Effect, Piece, PollOutcome, Trigger, TriggerSpec},
    property::{AuthSchema, Properties, Property, PropertyKind},
    run::{StepError, StepErrorKind},
};
use async_trait::async_trait;
use serde_json::{Value, json};

/// The piece. Its items hold this payload, and its polls are counted when they are over.
#[derive(Clone, Debug)]
pub struct Items(pub String, pub Arc<AtomicUsize>);

impl Piece for Items {
    fn name(&self) -> &str {
        "canary"
    }
    fn display_name(&self) -> &str {
        "Canary"
    }
    fn description(&self) -> &str {
        "Polls an API that gives credentials back."
    }
    fn auth(&self) -> Option<AuthSchema> {
        None
    }
    fn actions(&self) -> Vec<Arc<dyn Action>> {
        let names = ["url", "token", "connection", "query"];
        let properties = Properties::new(names.map(|name| Property::new(name, name, PropertyKind::Json)));
        let spec = ActionSpec {
            name: "backwards",
            display_name: "Backwards",
            description: "Turns an answer round.",
            properties,
        };
        vec![Arc::new(Backwards { spec })]
    }
    fn triggers(&self) -> Vec<Arc<dyn Trigger>> {
        let properties = ["url", "token", "key"].map(|name| Property::new(name, name, PropertyKind::Json));
        let properties = Properties::new(properties);
        let spec = TriggerSpec { name: "items", display_name: "Items", description: "New items.", properties };
        vec![Arc::new(Polled { spec, payload: self.0.clone(), polls: Arc::clone(&self.1) })]
    }
}

/// Hands on what it is told in a form that nobody searches for: only its own input was searched.
#[derive(Debug)]
struct Backwards {
    spec: ActionSpec,
}

#[async_trait]
impl Action for Backwards {
    fn spec(&self) -> &ActionSpec {
        &self.spec
    }

    fn effect(&self, _: &Value) -> Effect {
        Effect::Repeatable
    }

    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        let text = |name: &str| input[name].as_str().unwrap().to_owned();
        if input.get("query").is_some() {
            let rows = context.sql.query(SqlStatement::new(text("connection"), text("query"))).await;
            let rows = rows.map_err(|error| StepError::new(StepErrorKind::Remote, error.to_string()))?;
            let said = rows.first().and_then(|row| row.get("said")).and_then(Value::as_str).unwrap_or_default();
            return Ok(said.chars().rev().collect::<String>().into());
        }
        let mut request = HttpRequest::new("POST", text("url"));
        request.headers.push(("authorization".to_owned(), format!("Bearer {}", text("token"))));
        let failed = |said: String| ActionError::from(StepError::new(StepErrorKind::Remote, said));
        let response = context.http.send(request).await.map_err(|error| failed(error.to_string()))?;
        Ok(String::from_utf8_lossy(&response.body).chars().rev().collect::<String>().into())
    }
}

#[derive(Debug)]
struct Polled {
    spec: TriggerSpec,
    payload: String,
    polls: Arc<AtomicUsize>,
}

#[async_trait]
impl Trigger for Polled {
    fn spec(&self) -> &TriggerSpec {
        &self.spec
    }

    /// One item the first time, an error after that.
    async fn poll(
        &self,
        context: &ActionContext<'_>,
        input: Value,
        cursor: Option<&Value>,
    ) -> Result<PollOutcome, ActionError> {
        let text = |name: &str| input[name].as_str().unwrap().to_owned();
        let mut request = HttpRequest::new("POST", text("url"));
        request.headers.push(("authorization".to_owned(), format!("Bearer {}", text("token"))));
        request.headers.push(("content-type".to_owned(), "application/json".to_owned()));
        request.body = Some(json!({ "auth": { "key": input["key"] } }).to_string().into());
        let failed = |said: String| ActionError::from(StepError::new(StepErrorKind::Remote, said));
        let response = context.http.send(request).await.map_err(|error| failed(error.to_string()))?;
        let said = format!("{} {}", self.payload, String::from_utf8_lossy(&response.body));
        self.polls.fetch_add(1, Ordering::SeqCst);
        match cursor {
            None => Ok(PollOutcome {
                items: vec![(Some(said.clone()), json!({ "said": said }))],
                cursor: Some(json!(said)),
            }),
            Some(cursor) => Err(failed(format!("{said}, at {cursor}"))),
        }
    }
}
