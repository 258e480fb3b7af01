//! Stand-ins for the world outside: pieces, HTTP and scripts, with every effect written down.

use std::{fmt, sync::Arc, time::Duration};

use ap_auth::principal::Principal;
use ap_core::{
    capability::{HttpClient, HttpError, HttpRequest, HttpResponse, NoWayOut},
    id::ProjectId,
    piece::{Action, ActionContext, ActionError, ActionSpec, Effect, Piece, Trigger},
    property::AuthSchema,
    run::{StepError, StepErrorKind},
};
use ap_crypto::resume::RESUME_PREFIX;
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    history::{Fnv, Observed, Repeats},
    life::Life,
    shared::Shared,
};
use crate::sandbox::{
    CodeError, CodeOutput, CodeRequest, CodeSandbox, CodeUnit, ExpressionRequest, StoreAct, StoreCall, StoreCallError,
    StoreScope,
};

/// What answers the HTTP requests of pieces.
pub(super) type Respond = Arc<dyn Fn(&HttpRequest) -> HttpResponse + Send + Sync>;
/// What stands in for scripts: source and parameters to result, or the message of what is thrown.
pub(super) type Script = Arc<dyn Fn(&str, &Value) -> Result<Value, String> + Send + Sync>;

/// A piece as one worker uses it.
pub(super) struct SimPiece {
    pub(super) inner: Arc<dyn Piece>,
    pub(super) outside: Outside,
}

/// How a worker reaches the world outside.
#[derive(Clone)]
pub(super) struct Outside {
    pub(super) shared: Arc<Shared>,
    pub(super) life: Arc<Life>,
    pub(super) respond: Respond,
}

impl Piece for SimPiece {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn display_name(&self) -> &str {
        self.inner.display_name()
    }

    fn description(&self) -> &str {
        self.inner.description()
    }

    fn auth(&self) -> Option<AuthSchema> {
        self.inner.auth()
    }

    fn actions(&self) -> Vec<Arc<dyn Action>> {
        let wrap = |inner| Arc::new(SimAction { inner, outside: self.outside.clone() }) as Arc<dyn Action>;
        self.inner.actions().into_iter().map(wrap).collect()
    }

    fn triggers(&self) -> Vec<Arc<dyn Trigger>> {
        self.inner.triggers()
    }
}

impl fmt::Debug for SimPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimPiece").field("inner", &self.inner).finish_non_exhaustive()
    }
}

struct SimAction {
    inner: Arc<dyn Action>,
    outside: Outside,
}

#[async_trait]
impl Action for SimAction {
    fn spec(&self) -> &ActionSpec {
        self.inner.spec()
    }

    fn effect(&self, input: &Value) -> Effect {
        self.inner.effect(input)
    }

    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        let Outside { shared, life, respond } = &self.outside;
        let repeats = match self.inner.effect(&input) {
            Effect::None => return self.inner.run(context, input).await,
            _ if context.send_idempotency_key => Repeats::Keyed,
            Effect::Repeatable => Repeats::Harmless,
            _ => Repeats::Never,
        };
        let refused = |_| StepError::new(StepErrorKind::OutcomeTransient, "the simulated peer cannot be reached");
        let aftermath = shared.set_out(life, false).await.map_err(refused)?;
        let (worker, key) = (life.worker, context.idempotency_key.to_owned());
        let mut print = Fnv::default();
        let text = input.to_string();
        print.add(text.as_bytes());
        for token in resume_tokens(&text) {
            // Nobody listens any more once the world is at rest.
            let _ = shared.tokens.send(token.to_owned());
        }
        shared.record(Observed::Performed { worker, key: key.clone(), input: print.0, repeats });
        let http = StubHttp(Arc::clone(respond));
        let nothing = NoWayOut::new("the simulated peer speaks HTTP only");
        let context = ActionContext { http: &http, sql: &nothing, mail: &nothing, objects: &nothing, ..*context };
        let result = self.inner.run(&context, input).await;
        let cut = |_| StepError::new(StepErrorKind::Interrupted, "the simulated peer broke the exchange off");
        shared.come_back(life, aftermath).await.map_err(cut)?;
        shared.record(Observed::Heard { worker, key, succeeded: result.is_ok() });
        result
    }
}

impl fmt::Debug for SimAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimAction").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// Answers by a function; nothing leaves the process.
struct StubHttp(Respond);

#[async_trait]
impl HttpClient for StubHttp {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        Ok((self.0)(&request))
    }
}

impl fmt::Debug for StubHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StubHttp")
    }
}

/// 200 with a small JSON object.
pub(super) fn default_response(_: &HttpRequest) -> HttpResponse {
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    HttpResponse {
        status: 200,
        headers,
        body: Bytes::from(json!({ "id": "simulated" }).to_string()),
        redirected_to: None,
    }
}

/// How long a script takes to count.
const COUNTING: Duration = Duration::from_millis(3);

/// Runs scripts by a function. They have no effects, so they are no points.
pub(super) struct SimSandbox {
    pub(super) life: Arc<Life>,
    pub(super) script: Script,
    /// Whether each adds one to the value [`COUNTER`] besides.
    pub(super) counts: bool,
}

/// The value of the project's key-value store that scripts count in.
pub(super) const COUNTER: &str = "steps that succeeded";

#[async_trait]
impl CodeSandbox for SimSandbox {
    async fn check(&self, _: ProjectId, _: CodeUnit) -> Result<(), CodeError> {
        Ok(())
    }

    async fn run(&self, request: CodeRequest) -> Result<CodeOutput, CodeError> {
        self.life.pass().await;
        let thrown = |message: String| CodeError::Thrown {
            name: "Error".to_owned(),
            message,
            place: None,
            stack: String::new(),
            console: Vec::new(),
        };
        let params = serde_json::from_slice(&request.params).map_err(|error| thrown(error.to_string()))?;
        let value = (self.script)(&request.source, &params).map_err(thrown)?;
        if self.counts {
            let call = |act| StoreCall { scope: StoreScope::Project, key: COUNTER.to_owned(), act };
            let failed = |error: StoreCallError| thrown(error.to_string());
            let read = request.host.store(call(StoreAct::Get)).await.map_err(failed)?;
            // Others may come in between.
            tokio::time::sleep(COUNTING).await;
            let count = read.and_then(|json| json.parse::<u64>().ok()).unwrap_or_default() + 1;
            request.host.store(call(StoreAct::Put(count.to_string()))).await.map_err(failed)?;
        }
        Ok(CodeOutput { value, console: Vec::new(), console_truncated: false, fuel: None })
    }

    /// What stands in for scripts answers for expressions, with their variables as the parameters.
    async fn evaluate(&self, request: ExpressionRequest) -> Result<Vec<Result<Value, CodeError>>, CodeError> {
        self.life.pass().await;
        let thrown = |message: String| CodeError::Thrown {
            name: "Error".to_owned(),
            message,
            place: None,
            stack: String::new(),
            console: Vec::new(),
        };
        let variables = serde_json::from_slice(&request.variables).map_err(|error| thrown(error.to_string()))?;
        let one = |expression: &Arc<str>| (self.script)(expression, &variables).map_err(thrown);
        Ok(request.expressions.iter().map(one).collect())
    }
}

impl fmt::Debug for SimSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimSandbox").field("life", &self.life).finish_non_exhaustive()
    }
}

/// Resume tokens in a text.
fn resume_tokens(text: &str) -> impl Iterator<Item = &str> {
    let is_digit = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    text.match_indices(RESUME_PREFIX).filter_map(move |(at, _)| {
        let found = text.get(at..)?;
        found.get(..found.find(|letter| !is_digit(letter)).unwrap_or(found.len()))
    })
}

/// Who acts for the host in a simulated world.
pub(super) fn operator() -> Principal {
    Principal::service("simulation")
}
