//! Going from step to step: what each kind of step does to the state.

use std::{sync::Arc, time::Duration};

use ap_core::{
    expr::Template,
    flow::{
        BranchStep, CodeStep, DelayStep, EnqueueStep, FailStep, IdempotencyKey, LoopStep, RespondStep, RouterMode,
        RouterStep, Step, StepKind, ValidFlow,
    },
    json::{self, size_of},
    run::{RunStatus, StepError, StepErrorKind, StepPath, StepStatus},
    time::Timestamp,
};
use serde_json::{Map, Value, json};

use super::{
    ActionCall, CodeCall, EnqueueCall, Reply, RunEnd,
    environment::Scope,
    evaluate::Results,
    frame::{Frame, Items, Iteration, List, Nested, Place, Then},
    join::input_error,
    state::{RunState, StepState},
    strand::{FIRST, Pending, StrandId},
};

/// Longest time of one attempt of an action, unless the step says otherwise.
const ACTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time of one attempt of a script, unless the step says otherwise.
const CODE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest delay.
const LONGEST_DELAY: Duration = Duration::from_secs(30 * 86_400);
/// Most jobs that one step puts into a queue.
const MAX_JOBS: usize = 10_000;

impl RunState {
    /// Executes steps until every strand waits for the outside or the run ends.
    pub(super) fn advance(&mut self, flow: &ValidFlow, at: Timestamp) {
        while self.end.is_none() {
            let Some(id) = self.strands.first_ready() else { return };
            match self.strands.get(id).and_then(|strand| strand.frames.last()).map(|frame| frame.current(flow)) {
                Some(Some(step)) => self.begin(flow, id, step, at),
                Some(None) => self.leave_list(flow, id, at),
                None if id == FIRST => {
                    self.finish(RunEnd { status: RunStatus::Succeeded, at, failed_step: None, error: None });
                }
                None => self.strand_ended(flow, id, at),
            }
        }
    }

    fn begin(&mut self, flow: &ValidFlow, id: StrandId, step: &Step, at: Timestamp) {
        let path = self.path_of(id, step.name.as_str());
        let status = if step.options.skip { StepStatus::Skipped } else { StepStatus::Running };
        let mut begun = begun(status, at);
        if step.options.skip {
            begun.finished = Some(at);
            begun.attempts = 0;
        }
        // A step that is tried again keeps its place.
        if self.steps.insert(path.clone(), begun).is_none() {
            self.order.push(path.clone());
        }
        if step.options.skip {
            return self.proceed(id, path);
        }
        let Some(left) = self.executions_left.checked_sub(1) else {
            let error = StepError::new(StepErrorKind::Limit, "the run has executed as many steps as it may");
            return self.end_failed(&path, at, error);
        };
        self.executions_left = left;
        if let Some(call) = self.evaluation(flow, id, step, (&path, at)) {
            return self.strands.hold(id, Pending::Evaluate(call));
        }
        let moment = Moment { flow, id, at, now: at, results: &Results::default() };
        if let Err(error) = self.begin_kind(&moment, step, &path) {
            self.fail(flow, id, &path, at, error);
        }
    }

    /// Begins a step whose expressions are evaluated.
    pub(super) fn begin_kind(&mut self, moment: &Moment<'_>, step: &Step, path: &StepPath) -> Result<(), StepError> {
        let Moment { id, at, .. } = *moment;
        match &step.kind {
            StepKind::Branch(branch) => self.begin_branch(moment, step, branch, path),
            StepKind::Code(code) => self.begin_code(moment, step, code, path),
            StepKind::Delay(delay) => self.begin_delay(moment, delay, path),
            StepKind::Enqueue(enqueue) => self.begin_enqueue(moment, enqueue, path),
            StepKind::Fail(fail) => self.begin_fail(moment, fail),
            StepKind::Loop(inner) => self.begin_loop(moment, step, inner, path),
            StepKind::Parallel(parallel) => {
                self.begin_parallel(id, step, parallel, path);
                Ok(())
            }
            StepKind::Piece(_) => self.begin_action(moment, step, path),
            StepKind::Process(process) => {
                self.begin_process(id, step, process, path);
                Ok(())
            }
            StepKind::Respond(respond) => self.begin_respond(moment, respond, path),
            StepKind::Router(router) => self.begin_router(moment, step, router, path),
            StepKind::Subflow(subflow) => {
                let target = self.resolve(moment, &subflow.flow)?;
                let payload = self.resolve(moment, &subflow.payload)?;
                self.begin_subflow(id, (step, subflow), path, at, (target, payload))
            }
            StepKind::Wait(wait) => {
                self.begin_wait(id, wait, path, at);
                Ok(())
            }
            _ => Err(StepError::new(StepErrorKind::Internal, "this kind of step cannot be executed")),
        }
    }

    fn enter(
        &mut self,
        id: StrandId,
        step: &Step,
        path: &StepPath,
        (list, iteration, then): (usize, Option<Iteration>, Then),
    ) {
        let (owner, path) = (step.name.clone(), path.clone());
        let nested = Nested { owner, path, place: Place::List(list), iteration, then };
        if let Some(frames) = self.strands.frames_mut(id) {
            frames.push(Frame::new(List::Nested(nested)));
        }
    }

    fn begin_branch(
        &mut self,
        moment: &Moment<'_>,
        step: &Step,
        branch: &BranchStep,
        path: &StepPath,
    ) -> Result<(), StepError> {
        let side = branch.condition.evaluate(&self.scope(moment)).map_err(|error| moment.results.undecided(&error))?;
        let then = Then::Succeed { rest: Vec::new(), output: Arc::new(json!({ "branch": side })) };
        self.enter(moment.id, step, path, (usize::from(!side), None, then));
        Ok(())
    }

    fn begin_router(
        &mut self,
        moment: &Moment<'_>,
        step: &Step,
        router: &RouterStep,
        path: &StepPath,
    ) -> Result<(), StepError> {
        let (mut chosen, mut judged) = (Vec::new(), Vec::new());
        for (number, branch) in router.branches.iter().enumerate() {
            let settled = router.mode == RouterMode::First && !chosen.is_empty();
            let holds = !settled
                && branch.condition.evaluate(&self.scope(moment)).map_err(|error| moment.results.undecided(&error))?;
            if holds {
                chosen.push(number);
            }
            judged.push(json!({ "branchName": branch.name, "branchIndex": number + 1, "evaluation": holds }));
        }
        if chosen.is_empty() {
            chosen.push(router.branches.len());
        }
        let output = Arc::new(object("branches", Value::Array(judged)));
        let first = chosen.remove(0);
        self.enter(moment.id, step, path, (first, None, Then::Succeed { rest: chosen, output }));
        Ok(())
    }

    fn begin_loop(
        &mut self,
        moment: &Moment<'_>,
        step: &Step,
        inner: &LoopStep,
        path: &StepPath,
    ) -> Result<(), StepError> {
        let items = match self.resolve(moment, &inner.items)? {
            Value::Array(items) => Arc::new(items),
            other => return Err(input_error(format!("`items` must be a list, and is {}", kind_of(&other)))),
        };
        if items.is_empty() {
            let output = self.loop_output(moment.flow, step.name.as_str(), path, 0);
            self.succeed(moment.id, path, moment.at, Arc::new(output));
        } else if inner.concurrency > 1 {
            self.begin_iterations(moment.id, (step, inner), path, items);
        } else {
            let iteration = Iteration { items: Items::List(items), index: 0 };
            self.enter(moment.id, step, path, (0, Some(iteration), Then::NextIteration));
        }
        Ok(())
    }

    fn begin_fail(&self, moment: &Moment<'_>, fail: &FailStep) -> Result<(), StepError> {
        let message = match self.resolve(moment, &fail.message)? {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Err(StepError::new(StepErrorKind::Explicit, message))
    }

    fn begin_delay(&mut self, moment: &Moment<'_>, delay: &DelayStep, path: &StepPath) -> Result<(), StepError> {
        let at = moment.at;
        let until = match delay {
            DelayStep::For(template) => {
                let millis = match self.resolve(moment, template)? {
                    Value::String(text) => text.trim().parse().ok(),
                    other => other.as_u64(),
                };
                let wait = millis.map(Duration::from_millis).filter(|wait| *wait <= LONGEST_DELAY);
                at.saturating_add(
                    wait.ok_or_else(|| input_error("`delayMs` must be whole milliseconds, at most 30 days"))?,
                )
            }
            DelayStep::Until(template) => {
                let value = self.resolve(moment, template)?;
                let until = value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
                let until = until.ok_or_else(|| input_error("`until` must be an RFC 3339 time"))?;
                if until > at.saturating_add(LONGEST_DELAY) {
                    return Err(input_error("`until` must be at most 30 days ahead"));
                }
                until
            }
        };
        if until <= at {
            self.succeed(moment.id, path, at, Arc::new(json!({ "until": until })));
        } else {
            if let Some(step) = self.steps.get_mut(path) {
                step.status = StepStatus::Paused;
            }
            self.strands.hold(moment.id, Pending::Delay { path: path.clone(), until });
        }
        Ok(())
    }

    fn begin_enqueue(&mut self, moment: &Moment<'_>, enqueue: &EnqueueStep, path: &StepPath) -> Result<(), StepError> {
        let jobs = match self.resolve(moment, &enqueue.data)? {
            Value::Array(jobs) => jobs,
            one => vec![one],
        };
        if jobs.len() > MAX_JOBS {
            return Err(StepError::new(StepErrorKind::Limit, format!("`data` has more than {MAX_JOBS} jobs")));
        }
        let jobs = Arc::new(jobs);
        let bytes = jobs.iter().map(size_of).sum();
        if !self.charge(path, moment.at, bytes) {
            return Ok(());
        }
        let call = EnqueueCall { path: path.clone(), queue: enqueue.queue.clone(), jobs };
        self.strands.hold(moment.id, Pending::Enqueue(call));
        Ok(())
    }

    fn begin_respond(&mut self, moment: &Moment<'_>, respond: &RespondStep, path: &StepPath) -> Result<(), StepError> {
        let at = moment.at;
        let reply = Reply {
            status: reply_status(&self.resolve(moment, &respond.status)?)?,
            headers: reply_headers(self.resolve(moment, &respond.headers)?)?,
            body: Arc::new(self.resolve(moment, &respond.body)?),
        };
        let mut output = Map::new();
        output.insert("status".to_owned(), Value::from(reply.status));
        output.insert("body".to_owned(), (*reply.body).clone());
        self.set_reply(reply);
        self.succeed(moment.id, path, at, Arc::new(Value::Object(output)));
        if respond.stop && self.end.is_none() {
            self.close_around(moment.id, at);
            self.stop_all(at);
            self.finish(RunEnd { status: RunStatus::Succeeded, at, failed_step: None, error: None });
        }
        Ok(())
    }

    /// The run ends well in the middle: so do the steps around.
    fn close_around(&mut self, id: StrandId, at: Timestamp) {
        let around: Vec<StepPath> =
            self.frames_outwards(id).filter_map(Frame::nested).map(|nested| nested.path.clone()).collect();
        for path in around {
            if let Some(step) = self.steps.get_mut(&path).filter(|step| step.status != StepStatus::Failed) {
                step.status = StepStatus::Succeeded;
                step.finished = Some(at);
            }
        }
    }

    fn begin_code(
        &mut self,
        moment: &Moment<'_>,
        step: &Step,
        code: &CodeStep,
        path: &StepPath,
    ) -> Result<(), StepError> {
        let params = Arc::new(match &code.input {
            Some(input) => self.resolve(moment, input)?,
            None => self.default_params(moment.flow, moment.id),
        });
        if !self.set_input(path, moment.at, &params) {
            return Ok(());
        }
        if moment.flow.definition().allowed_hosts().is_some() {
            return self.begin_outside_code(moment, step, path, params);
        }
        let call = CodeCall {
            path: path.clone(),
            attempt: 1,
            source: Arc::clone(&code.source),
            language: code.language,
            params,
            timeout: step.options.timeout.unwrap_or(CODE_TIMEOUT),
        };
        self.strands.hold(moment.id, Pending::Code(call));
        Ok(())
    }

    /// A script that may reach hosts acts outside like an action, and is planned like one.
    fn begin_outside_code(
        &mut self,
        moment: &Moment<'_>,
        step: &Step,
        path: &StepPath,
        params: Arc<Value>,
    ) -> Result<(), StepError> {
        let call = ActionCall {
            path: path.clone(),
            step: step.name.clone(),
            attempt: 1,
            input: params,
            key: self.idempotency_key(moment, step, path)?,
            send_key: step.options.idempotency_key.is_some(),
            planned: false,
            timeout: step.options.timeout.unwrap_or(CODE_TIMEOUT),
        };
        self.strands.hold(moment.id, Pending::Action(call));
        Ok(())
    }

    fn idempotency_key(&self, moment: &Moment<'_>, step: &Step, path: &StepPath) -> Result<String, StepError> {
        match &step.options.idempotency_key {
            Some(IdempotencyKey::Template(template)) => own_key(self.resolve(moment, template)?),
            Some(IdempotencyKey::Stable) | None => Ok(format!("{}/{path}", self.run())),
        }
    }

    fn begin_action(&mut self, moment: &Moment<'_>, step: &Step, path: &StepPath) -> Result<(), StepError> {
        let (StepKind::Piece(piece), Some(action)) = (&step.kind, moment.flow.action(&step.name)) else {
            return Err(StepError::new(StepErrorKind::Internal, "the step's action is not known"));
        };
        let input = Arc::new(action.spec().properties.validate(self.resolve(moment, &piece.input)?)?);
        let key = self.idempotency_key(moment, step, path)?;
        if !self.set_input(path, moment.at, &input) {
            return Ok(());
        }
        let call = ActionCall {
            path: path.clone(),
            step: step.name.clone(),
            attempt: 1,
            input,
            key,
            send_key: step.options.idempotency_key.is_some(),
            planned: false,
            timeout: step.options.timeout.unwrap_or(ACTION_TIMEOUT),
        };
        self.strands.hold(moment.id, Pending::Action(call));
        Ok(())
    }

    /// A strand's innermost list is done: on to the next iteration or list, or behind the step it belongs to.
    fn leave_list(&mut self, flow: &ValidFlow, id: StrandId, at: Timestamp) {
        let Some(frames) = self.strands.frames_mut(id) else { return };
        let Some(frame) = frames.last_mut() else { return };
        if let List::Nested(nested) = &mut frame.list {
            match (&mut nested.then, &mut nested.iteration) {
                (Then::NextIteration, Some(Iteration { items: Items::List(items), index }))
                    if *index + 1 < items.len() =>
                {
                    *index += 1;
                    return frame.restart();
                }
                (Then::Succeed { rest, .. }, _) if !rest.is_empty() => {
                    nested.place = Place::List(rest.remove(0));
                    return frame.restart();
                }
                _ => {}
            }
        }
        let Some(Frame { list: List::Nested(nested), .. }) = frames.pop() else { return };
        match nested.then {
            Then::EndStrand => {}
            Then::Handled => self.proceed(id, nested.path),
            Then::NextIteration => {
                let count = match nested.iteration.map(|iteration| iteration.items) {
                    Some(Items::List(items)) => items.len(),
                    _ => 0,
                };
                let output = self.loop_output(flow, nested.owner.as_str(), &nested.path, count);
                self.succeed(id, &nested.path, at, Arc::new(output));
            }
            Then::Succeed { output, .. } => self.succeed(id, &nested.path, at, output),
        }
    }

    /// What a script without `input` gets as `params`; see [`ValidFlow`].
    fn default_params(&self, flow: &ValidFlow, id: StrandId) -> Value {
        let mut params = Map::new();
        params.insert("request".to_owned(), (**self.trigger()).clone());
        params.insert("trigger".to_owned(), (**self.trigger()).clone());
        if let Some((_, iteration)) = self.frames_outwards(id).find_map(Frame::iteration) {
            params.insert("item".to_owned(), iteration.item().cloned().unwrap_or_default());
            params.insert("index".to_owned(), Value::from(iteration.index));
        }
        let frame = self.strands.get(id).and_then(|strand| strand.frames.last());
        let previous = frame.and_then(|frame| frame.previous.as_ref());
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

    fn scope<'a>(&'a self, moment: &Moment<'a>) -> Scope<'a> {
        Scope { state: self, flow: moment.flow, strand: moment.id, now: moment.now, results: moment.results }
    }

    fn resolve(&self, moment: &Moment<'_>, template: &Template) -> Result<Value, StepError> {
        let value = template.resolve(&self.scope(moment)).map_err(|error| moment.results.unresolved(&error))?;
        // A template may put a deep value into a deep place: what is written down must be read back.
        json::check_depth(&value)
            .map_err(|limit| StepError::new(StepErrorKind::Limit, format!("what a setting resolves to {limit}")))?;
        Ok(value)
    }

    /// Keeps the input of a step. Returns whether the run goes on.
    pub(super) fn set_input(&mut self, path: &StepPath, at: Timestamp, input: &Arc<Value>) -> bool {
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
        self.stop_all(at);
        self.finish(RunEnd { status: RunStatus::Failed, at, failed_step: Some(path.clone()), error: Some(error) });
    }
}

/// A step execution that has just begun.
pub(super) const fn begun(status: StepStatus, at: Timestamp) -> StepState {
    StepState {
        status,
        started: at,
        finished: None,
        attempts: 1,
        input: None,
        output: None,
        error: None,
        console: vec![],
        effect: None,
    }
}

/// Where and when a step begins.
pub(super) struct Moment<'a> {
    pub(super) flow: &'a ValidFlow,
    pub(super) id: StrandId,
    pub(super) at: Timestamp,
    /// What templates take for the time: when their expressions were evaluated, they saw the same.
    pub(super) now: Timestamp,
    pub(super) results: &'a Results<'a>,
}

/// An object with one member. `json!` would copy the value.
pub(super) fn object(name: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(name.to_owned(), value)]))
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
