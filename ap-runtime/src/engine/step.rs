//! Going from step to step: what each kind of step does to the state.

use std::{sync::Arc, time::Duration};

use ap_core::{
    expr::{ResolveError, Template},
    flow::{BranchStep, CodeStep, FailStep, IdempotencyKey, LoopStep, RespondStep, Step, StepKind, ValidFlow},
    json::size_of,
    run::{StepError, StepErrorKind, StepPath, StepStatus},
    time::Timestamp,
};
use serde_json::{Map, Value, json};

use super::{
    ActionCall, CodeCall, Reply, RunEnd,
    environment::{Scope, status_text},
    frame::{self, Frame, List},
    state::{Pending, RunState, StepState},
};

/// Longest time of one attempt of an action, unless the step says otherwise.
const ACTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time of one attempt of a script, unless the step says otherwise.
const CODE_TIMEOUT: Duration = Duration::from_secs(10);

impl RunState {
    /// Executes steps until one waits for the outside or the run ends.
    pub(super) fn advance(&mut self, flow: &ValidFlow, at: Timestamp) {
        while self.pending.is_none() && self.end().is_none() {
            match self.frames.last().map(|frame| frame.current(flow)) {
                Some(Some(step)) => self.begin(flow, step, at),
                Some(None) => self.leave_list(flow, at),
                None => self.finish(RunEnd {
                    status: ap_core::run::RunStatus::Succeeded,
                    at,
                    failed_step: None,
                    error: None,
                }),
            }
        }
    }

    fn begin(&mut self, flow: &ValidFlow, step: &Step, at: Timestamp) {
        let path = frame::path_of(&self.frames, &step.name);
        self.order.push(path.clone());
        let status = if step.options.skip { StepStatus::Skipped } else { StepStatus::Running };
        let finished = step.options.skip.then_some(at);
        let attempts = u32::from(!step.options.skip);
        self.steps.insert(
            path.clone(),
            StepState {
                status,
                started: at,
                finished,
                attempts,
                input: None,
                output: None,
                error: None,
                console: vec![],
                effect: None,
            },
        );
        if step.options.skip {
            return self.proceed(path);
        }
        let Some(left) = self.executions_left.checked_sub(1) else {
            let error = StepError::new(StepErrorKind::Limit, "the run has executed as many steps as it may");
            return self.end_failed(&path, at, error);
        };
        self.executions_left = left;
        let begun = match &step.kind {
            StepKind::Branch(branch) => self.begin_branch(step, branch, &path, at),
            StepKind::Code(code) => self.begin_code(flow, step, code, &path, at),
            StepKind::Fail(fail) => self.begin_fail(fail, at),
            StepKind::Loop(inner) => self.begin_loop(flow, step, inner, &path, at),
            StepKind::Piece(_) => self.begin_action(flow, step, &path, at),
            StepKind::Respond(respond) => self.begin_respond(respond, &path, at),
            _ => Err(StepError::new(StepErrorKind::Internal, "this kind of step cannot be executed")),
        };
        if let Err(error) = begun {
            self.fail(flow, &path, at, error);
        }
    }

    fn begin_branch(
        &mut self,
        step: &Step,
        branch: &BranchStep,
        path: &StepPath,
        at: Timestamp,
    ) -> Result<(), StepError> {
        let side = branch
            .condition
            .evaluate(&Scope { state: self, now: at })
            .map_err(|error| StepError::new(StepErrorKind::Input, error.to_string()))?;
        self.frames.push(Frame::new(List::Branch { owner: step.name.clone(), path: path.clone(), side }));
        Ok(())
    }

    fn begin_loop(
        &mut self,
        flow: &ValidFlow,
        step: &Step,
        inner: &LoopStep,
        path: &StepPath,
        at: Timestamp,
    ) -> Result<(), StepError> {
        let items = match self.resolve(&inner.items, at)? {
            Value::Array(items) => Arc::new(items),
            other => {
                let message = format!("`items` must be a list, and is {}", kind_of(&other));
                return Err(StepError::new(StepErrorKind::Input, message));
            }
        };
        if items.is_empty() {
            let output = self.loop_output(flow, step.name.as_str(), path, 0);
            self.succeed(path, at, Arc::new(output));
            return Ok(());
        }
        let iteration = 0;
        self.frames.push(Frame::new(List::Body { owner: step.name.clone(), path: path.clone(), items, iteration }));
        Ok(())
    }

    fn begin_fail(&self, fail: &FailStep, at: Timestamp) -> Result<(), StepError> {
        let message = match self.resolve(&fail.message, at)? {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Err(StepError::new(StepErrorKind::Explicit, message))
    }

    fn begin_respond(&mut self, respond: &RespondStep, path: &StepPath, at: Timestamp) -> Result<(), StepError> {
        let reply = Reply {
            status: reply_status(&self.resolve(&respond.status, at)?)?,
            headers: reply_headers(self.resolve(&respond.headers, at)?)?,
            body: Arc::new(self.resolve(&respond.body, at)?),
        };
        let output = Arc::new(json!({ "status": reply.status, "body": *reply.body }));
        self.set_reply(reply);
        self.succeed(path, at, output);
        if respond.stop && self.end().is_none() {
            self.finish(RunEnd { status: ap_core::run::RunStatus::Succeeded, at, failed_step: None, error: None });
        }
        Ok(())
    }

    fn begin_code(
        &mut self,
        flow: &ValidFlow,
        step: &Step,
        code: &CodeStep,
        path: &StepPath,
        at: Timestamp,
    ) -> Result<(), StepError> {
        let params = Arc::new(match &code.input {
            Some(input) => self.resolve(input, at)?,
            None => self.default_params(flow),
        });
        if !self.set_input(path, at, &params) {
            return Ok(());
        }
        self.pending = Some(Pending::Code(CodeCall {
            path: path.clone(),
            attempt: 1,
            source: Arc::clone(&code.source),
            params,
            timeout: step.options.timeout.unwrap_or(CODE_TIMEOUT),
        }));
        Ok(())
    }

    fn begin_action(&mut self, flow: &ValidFlow, step: &Step, path: &StepPath, at: Timestamp) -> Result<(), StepError> {
        let (StepKind::Piece(piece), Some(action)) = (&step.kind, flow.action(&step.name)) else {
            return Err(StepError::new(StepErrorKind::Internal, "the step's action is not known"));
        };
        let input = Arc::new(action.spec().properties.validate(self.resolve(&piece.input, at)?)?);
        let key = match &step.options.idempotency_key {
            Some(IdempotencyKey::Template(template)) => own_key(self.resolve(template, at)?)?,
            Some(IdempotencyKey::Stable) | None => format!("{}/{path}", self.run()),
        };
        if !self.set_input(path, at, &input) {
            return Ok(());
        }
        self.pending = Some(Pending::Action(ActionCall {
            path: path.clone(),
            step: step.name.clone(),
            attempt: 1,
            input,
            key,
            send_key: step.options.idempotency_key.is_some(),
            planned: false,
            timeout: step.options.timeout.unwrap_or(ACTION_TIMEOUT),
        }));
        Ok(())
    }

    /// The innermost list is done: on to the next iteration, or behind the step it belongs to.
    fn leave_list(&mut self, flow: &ValidFlow, at: Timestamp) {
        if let Some(Frame { list: List::Body { items, iteration, .. }, index, previous }) = self.frames.last_mut()
            && *iteration + 1 < items.len()
        {
            *iteration += 1;
            *index = 0;
            *previous = None;
            return;
        }
        let Some(frame) = self.frames.pop() else { return };
        match frame.list {
            List::Top => {}
            List::Branch { path, side, .. } => self.succeed(&path, at, Arc::new(json!({ "branch": side }))),
            List::Body { owner, path, items, .. } => {
                let output = self.loop_output(flow, owner.as_str(), &path, items.len());
                self.succeed(&path, at, Arc::new(output));
            }
        }
    }

    /// `{ iterations: [ { stepName: { output, status } } ] }`, with the steps directly in the body.
    fn loop_output(&self, flow: &ValidFlow, owner: &str, path: &StepPath, count: usize) -> Value {
        let body = match flow.step(owner).map(|step| &step.kind) {
            Some(StepKind::Loop(inner)) => inner.steps.as_slice(),
            _ => &[],
        };
        let iterations = (0..count).map(|iteration| {
            let steps = body.iter().filter_map(|step| {
                let state = self.steps.get(&path.in_iteration(iteration, step.name.as_str()))?;
                let output = state.output.as_deref().cloned().unwrap_or_default();
                Some((step.name.to_string(), json!({ "output": output, "status": status_text(state.status) })))
            });
            Value::Object(steps.collect())
        });
        json!({ "iterations": iterations.collect::<Vec<_>>() })
    }

    /// What a script without `input` gets as `params`; see [`ValidFlow`].
    fn default_params(&self, flow: &ValidFlow) -> Value {
        let mut params = Map::new();
        params.insert("request".to_owned(), (**self.trigger()).clone());
        params.insert("trigger".to_owned(), (**self.trigger()).clone());
        if let Some((item, index)) = frame::item(&self.frames) {
            params.insert("item".to_owned(), item.clone());
            params.insert("index".to_owned(), Value::from(index));
        }
        let previous = self.frames.last().and_then(|frame| frame.previous.as_ref());
        let state = previous.and_then(|path| self.steps.get(path));
        let output = state.and_then(|state| state.output.as_deref().cloned()).unwrap_or_default();
        params.insert("response".to_owned(), output);
        let given = state.and_then(|state| state.input.as_deref());
        let acts = previous
            .and_then(|path| flow.step(path.step_name()))
            .is_some_and(|step| matches!(step.kind, StepKind::Piece(_)));
        let input = match given {
            Some(Value::Object(settings)) if acts && settings.contains_key("body") => settings.get("body").cloned(),
            other => other.cloned(),
        };
        params.insert("input".to_owned(), input.unwrap_or_default());
        Value::Object(params)
    }

    fn resolve(&self, template: &Template, at: Timestamp) -> Result<Value, StepError> {
        template
            .resolve(&Scope { state: self, now: at })
            .map_err(|error: ResolveError| StepError::new(StepErrorKind::Input, error.to_string()))
    }

    /// Keeps the input of a step. Returns whether the run goes on.
    fn set_input(&mut self, path: &StepPath, at: Timestamp, input: &Arc<Value>) -> bool {
        if let Some(step) = self.steps.get_mut(path) {
            step.input = Some(Arc::clone(input));
        }
        self.charge(path, at, size_of(input))
    }

    /// Ends the run as failed whatever the steps around say.
    fn end_failed(&mut self, path: &StepPath, at: Timestamp, error: StepError) {
        if let Some(step) = self.steps.get_mut(path) {
            step.status = StepStatus::Failed;
            step.finished = Some(at);
            step.error = Some(error.clone());
        }
        let status = ap_core::run::RunStatus::Failed;
        self.finish(RunEnd { status, at, failed_step: Some(path.clone()), error: Some(error) });
    }
}

fn own_key(value: Value) -> Result<String, StepError> {
    let refuse = || StepError::new(StepErrorKind::Input, "`idempotencyKey` must be 1 to 255 visible ASCII characters");
    let text = match value {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        _ => return Err(refuse()),
    };
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if visible && (1..=255).contains(&text.len()) { Ok(text) } else { Err(refuse()) }
}

fn reply_status(value: &Value) -> Result<u16, StepError> {
    let number = match value {
        Value::String(text) => text.parse::<u64>().ok(),
        other => other.as_u64(),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|status| (200..=599).contains(status))
        .ok_or_else(|| StepError::new(StepErrorKind::Input, "`status` must be a number from 200 to 599"))
}

fn reply_headers(value: Value) -> Result<Vec<(String, String)>, StepError> {
    let refuse = |message: String| Err(StepError::new(StepErrorKind::Input, message));
    let Value::Object(headers) = value else { return refuse("`headers` must be an object".to_owned()) };
    let mut checked = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            _ => return refuse(format!("header `{name}` must be text")),
        };
        let lower = name.to_ascii_lowercase();
        let parses =
            http::HeaderName::from_bytes(lower.as_bytes()).is_ok() && http::HeaderValue::from_str(&text).is_ok();
        if !parses || RESERVED_REPLY_HEADERS.contains(&lower.as_str()) {
            return refuse(format!("header `{name}` cannot be set, or has characters a header may not have"));
        }
        checked.push((lower, text));
    }
    Ok(checked)
}

/// Framing belongs to the HTTP server; cookies, security policy and the like belong to the origin, which is the host's.
const RESERVED_REPLY_HEADERS: [&str; 18] = [
    "access-control-allow-credentials",
    "alt-svc",
    "clear-site-data",
    "connection",
    "content-length",
    "content-security-policy",
    "content-security-policy-report-only",
    "keep-alive",
    "nel",
    "proxy-authenticate",
    "report-to",
    "service-worker-allowed",
    "set-cookie",
    "strict-transport-security",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-content-type-options",
];

const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
