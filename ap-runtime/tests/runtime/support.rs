//! A runtime on the memory backend with fake pieces, a fake sandbox, paused time and seeded entropy.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ap_auth::{principal::Principal, role::Role};
use ap_core::{
    id::{ProjectId, UserId},
    piece::{Action, ActionContext, ActionError, ActionSpec, Effect, Piece, PollOutcome, Trigger, TriggerSpec},
    property::{AuthSchema, Properties, Property, PropertyKind},
    run::{RunStatus, StepError, StepErrorKind},
    time::Timestamp,
};
use ap_crypto::{
    entropy::{Entropy, EntropyError},
    key::RootKey,
    provider::MemoryKeyProvider,
};
use ap_runtime::{
    backend::memory::MemoryBackend,
    clock::{Clock, TokioClock},
    engine::{RunView, StepView},
    runtime::{Runtime, RuntimeBuilder},
    sandbox::{CodeError, CodeOutput, CodeRequest, CodeSandbox, CodeUnit, ExpressionRequest},
    session::{ProjectSession, Session},
};
use async_trait::async_trait;
use serde_json::{Value, json};

/// SplitMix64: the same seed gives the same bytes.
#[derive(Debug)]
pub(crate) struct SeededEntropy(Mutex<u64>);

impl SeededEntropy {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl SeededEntropy {
    /// True once in `count` times.
    pub(crate) fn one_in(&self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// Counts calls per idempotency key, as a peer that honours keys would, and can be told to misbehave.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) fail_first: AtomicU32,
    pub(crate) hang: std::sync::atomic::AtomicBool,
    /// Calls from this number on hang, counted from 0.
    pub(crate) hang_from: AtomicU32,
    /// What a poll finds, with keys.
    pub(crate) items: Mutex<Vec<(Option<String>, Value)>>,
    /// Polls so far: input and cursor.
    pub(crate) polls: Mutex<Vec<(Value, Option<Value>)>>,
    /// Every call: its key, its value, when it began.
    pub(crate) log: Mutex<Vec<(String, Value, Timestamp)>>,
    /// Values of the calls that came back, in that order.
    pub(crate) done: Mutex<Vec<Value>>,
    running: AtomicU32,
    /// Most calls at once.
    pub(crate) most: AtomicU32,
    released: tokio::sync::Notify,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            calls: Mutex::default(),
            fail_first: AtomicU32::new(0),
            hang: std::sync::atomic::AtomicBool::new(false),
            hang_from: AtomicU32::new(u32::MAX),
            items: Mutex::default(),
            polls: Mutex::default(),
            log: Mutex::default(),
            done: Mutex::default(),
            running: AtomicU32::new(0),
            most: AtomicU32::new(0),
            released: tokio::sync::Notify::new(),
        }
    }
}

impl Peer {
    /// Lets hanging calls, and all later ones, come back.
    pub(crate) fn release(&self) {
        self.hang.store(false, Ordering::SeqCst);
        self.released.notify_waiters();
    }
}

/// Counts a call as running until it is dropped, back or not.
struct Running<'a>(&'a AtomicU32);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// `fake.act` acts outside once, `fake.put` repeatably, `fake.pure` not at all; each returns its `value` after `ms`, or fails
/// with the error kind `error`.
#[derive(Debug)]
pub(crate) struct FakePiece(pub(crate) Arc<Peer>);

#[derive(Debug)]
struct FakeAction {
    spec: ActionSpec,
    effect: Effect,
    peer: Arc<Peer>,
}

impl Piece for FakePiece {
    fn name(&self) -> &str {
        "fake"
    }
    fn display_name(&self) -> &str {
        "Fake"
    }
    fn description(&self) -> &str {
        "Acts on a peer inside the test."
    }
    fn auth(&self) -> Option<AuthSchema> {
        None
    }
    fn actions(&self) -> Vec<Arc<dyn Action>> {
        [("act", Effect::Once), ("put", Effect::Repeatable), ("pure", Effect::None)]
            .into_iter()
            .map(|(name, effect)| {
                let names = ["value", "ms", "error", "retryAfterMs"];
                let properties = Properties::new(names.map(|name| Property::new(name, name, PropertyKind::Json)));
                let spec = ActionSpec { name, display_name: name, description: "Returns its value.", properties };
                Arc::new(FakeAction { spec, effect, peer: Arc::clone(&self.0) }) as Arc<dyn Action>
            })
            .collect()
    }
    fn triggers(&self) -> Vec<Arc<dyn Trigger>> {
        let properties = Properties::new([Property::new("secret", "Secret", PropertyKind::Json)]);
        let spec = TriggerSpec { name: "items", display_name: "Items", description: "New items.", properties };
        vec![Arc::new(FakeTrigger { spec, peer: Arc::clone(&self.0) })]
    }
}

#[async_trait]
impl Action for FakeAction {
    fn spec(&self) -> &ActionSpec {
        &self.spec
    }
    fn effect(&self, _: &Value) -> Effect {
        self.effect
    }
    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        let number = {
            let mut calls = self.peer.calls.lock().unwrap();
            calls.push(context.idempotency_key.to_owned());
            calls.len() as u32 - 1
        };
        let value = input.get("value").cloned().unwrap_or_default();
        self.peer.log.lock().unwrap().push((context.idempotency_key.to_owned(), value.clone(), context.now));
        let running = self.peer.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.peer.most.fetch_max(running, Ordering::SeqCst);
        let _running = Running(&self.peer.running);
        if let Some(ms) = input.get("ms").and_then(Value::as_u64) {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        if self.peer.hang.load(Ordering::SeqCst) || number >= self.peer.hang_from.load(Ordering::SeqCst) {
            self.peer.released.notified().await;
        }
        let failing = self.peer.fail_first.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if failing.is_ok() {
            return Err(StepError::new(StepErrorKind::OutcomeTransient, "the peer is not in the mood").into());
        }
        if let Some(kind) = input.get("error").filter(|kind| !kind.is_null()) {
            let kind: StepErrorKind = serde_json::from_value(kind.clone()).unwrap();
            let retry_after = input.get("retryAfterMs").and_then(Value::as_u64).map(Duration::from_millis);
            return Err(ActionError { error: StepError::new(kind, "as told"), retry_after });
        }
        self.peer.done.lock().unwrap().push(value.clone());
        Ok(value)
    }
}

/// Gives the peer's items from the cursor on: `(key, value)`, the cursor being how many were given.
#[derive(Debug)]
struct FakeTrigger {
    spec: TriggerSpec,
    peer: Arc<Peer>,
}

#[async_trait]
impl Trigger for FakeTrigger {
    fn spec(&self) -> &TriggerSpec {
        &self.spec
    }
    async fn poll(
        &self,
        _: &ActionContext<'_>,
        input: Value,
        cursor: Option<&Value>,
    ) -> Result<PollOutcome, ActionError> {
        self.peer.polls.lock().unwrap().push((input, cursor.cloned()));
        if self.peer.hang.load(Ordering::SeqCst) {
            self.peer.released.notified().await;
        }
        if self.peer.fail_first.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(StepError::new(StepErrorKind::OutcomeTransient, "the peer is not in the mood").into());
        }
        let items = self.peer.items.lock().unwrap().clone();
        let seen = cursor.and_then(Value::as_u64).unwrap_or_default() as usize;
        Ok(PollOutcome { cursor: Some(json!(items.len())), items: items.into_iter().skip(seen).collect() })
    }
}

/// Returns the parameters, or throws if the source says so.
#[derive(Debug)]
pub(crate) struct FakeSandbox;

/// Panics in the middle of a script, as a defect of a sandbox would.
#[derive(Debug)]
pub(crate) struct PanickingSandbox;

#[async_trait]
impl CodeSandbox for PanickingSandbox {
    async fn check(&self, _: ProjectId, _: CodeUnit) -> Result<(), CodeError> {
        Ok(())
    }

    async fn run(&self, _: CodeRequest) -> Result<CodeOutput, CodeError> {
        panic!("on purpose")
    }

    async fn evaluate(&self, _: ExpressionRequest) -> Result<Vec<Result<Value, CodeError>>, CodeError> {
        panic!("on purpose")
    }
}

#[async_trait]
impl CodeSandbox for FakeSandbox {
    async fn check(&self, _: ProjectId, _: CodeUnit) -> Result<(), CodeError> {
        Ok(())
    }

    async fn run(&self, request: CodeRequest) -> Result<CodeOutput, CodeError> {
        if request.source.contains("throw") {
            let (name, message) = ("Error".to_owned(), "thrown on purpose".to_owned());
            return Err(CodeError::Thrown { name, message, place: None, stack: String::new(), console: vec![] });
        }
        let params: Value = serde_json::from_slice(&request.params).unwrap();
        Ok(CodeOutput { value: json!({ "params": params }), console: vec![], console_truncated: false, fuel: None })
    }

    async fn evaluate(&self, request: ExpressionRequest) -> Result<Vec<Result<Value, CodeError>>, CodeError> {
        Ok(request.expressions.iter().map(|expression| Ok(json!({ "expression": **expression }))).collect())
    }
}

/// A runtime in a world of its own.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) backend: Arc<MemoryBackend>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) project: ProjectId,
    pub(crate) clock: Arc<dyn Clock>,
}

pub(crate) const START: i64 = 1_750_000_000_000;

pub(crate) fn root_key() -> RootKey {
    RootKey::from_slice(&std::array::from_fn::<u8, 32, _>(|index| index as u8)).unwrap()
}

pub(crate) fn builder(
    backend: Arc<MemoryBackend>,
    clock: Arc<dyn Clock>,
    seed: u64,
    peer: &Arc<Peer>,
) -> RuntimeBuilder {
    Runtime::builder(backend, MemoryKeyProvider::new(root_key()))
        .clock(clock)
        .entropy(Arc::new(SeededEntropy::new(seed)))
        .pieces([Arc::new(FakePiece(Arc::clone(peer))) as Arc<dyn Piece>])
        .sandbox(FakeSandbox)
}

impl World {
    /// Needs a tokio runtime with paused time.
    pub(crate) async fn new(seed: u64) -> Self {
        Self::with(seed, |builder| builder).await
    }

    /// A world whose runtime is set up otherwise.
    pub(crate) async fn with(seed: u64, options: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp::from_millis(START)));
        let backend = Arc::new(MemoryBackend::new(Arc::clone(&clock)));
        let peer = Arc::new(Peer::default());
        let runtime = options(builder(backend.clone(), Arc::clone(&clock), seed, &peer)).build().await.unwrap();
        let project = admin_session(&runtime, None).create_project("Test").await.unwrap();
        Self { runtime, backend, peer, project, clock }
    }

    pub(crate) fn admin(&self) -> ProjectSession {
        admin_session(&self.runtime, Some(self.project)).project(self.project).unwrap()
    }

    /// Publishes a flow with these steps behind an open webhook; returns flow and webhook path.
    pub(crate) async fn publish(&self, steps: Value) -> (ap_core::id::FlowId, String) {
        self.publish_with(json!({ "authentication": { "type": "NONE" } }), steps).await
    }

    pub(crate) async fn publish_with(&self, trigger: Value, steps: Value) -> (ap_core::id::FlowId, String) {
        use secrecy::ExposeSecret;
        let source = json!({
            "displayName": "Test",
            "triggers": [{ "name": "hook", "type": "webhook", "settings": trigger }],
            "steps": steps,
        });
        let admin = self.admin();
        let flow = admin.create_flow(source.to_string().as_bytes()).await.unwrap();
        admin.publish_flow(flow.id).await.unwrap();
        let token = admin.webhook_token(flow.id).await.unwrap();
        (flow.id, format!("/hooks/{}", token.expose_secret()))
    }

    /// Publishes a flow with these steps that others start.
    pub(crate) async fn publish_manual(&self, steps: Value) -> ap_core::id::FlowId {
        let source = json!({ "displayName": "Test", "triggers": [{ "name": "t", "type": "manual" }], "steps": steps });
        self.publish_flow(source).await
    }

    /// Publishes a whole flow.
    pub(crate) async fn publish_flow(&self, source: Value) -> ap_core::id::FlowId {
        let admin = self.admin();
        let flow = admin.create_flow(source.to_string().as_bytes()).await.unwrap();
        admin.publish_flow(flow.id).await.unwrap();
        flow.id
    }

    /// What triggers delivered to the runs of a flow, the oldest first.
    pub(crate) async fn triggers(&self, flow: ap_core::id::FlowId) -> Vec<Value> {
        let admin = self.admin();
        let runs = admin.runs(of_flow(flow), &ap_core::store::PageRequest::first(500)).await.unwrap().items;
        let mut triggers = Vec::new();
        for run in runs {
            triggers.push(admin.run(run.id).await.unwrap().trigger);
        }
        triggers
    }

    /// A second worker on the same store, which hears nothing of the first one.
    pub(crate) async fn another_worker(&self, clock: Arc<dyn Clock>, seed: u64) -> Runtime {
        builder(self.backend.clone(), clock, seed, &self.peer).build().await.unwrap()
    }

    /// Starts a run by hand.
    pub(crate) async fn start(&self, flow: ap_core::id::FlowId, payload: Value) -> ap_core::id::RunId {
        self.admin().start_run(flow, payload).await.unwrap()
    }

    pub(crate) async fn view(&self, run: ap_core::id::RunId) -> ap_runtime::engine::RunView {
        self.admin().run(run).await.unwrap()
    }

    /// Waits for the end of a run.
    pub(crate) async fn ended(&self, run: ap_core::id::RunId) -> ap_runtime::engine::RunView {
        let mut wait = Duration::from_millis(10);
        while !self.admin().wait_for_run(run, Duration::ZERO).await.unwrap().is_terminal() {
            assert!(wait < Duration::from_secs(90 * 86_400), "the run does not end: {:?}", self.view(run).await);
            tokio::time::sleep(wait).await;
            wait = wait * 5 / 4;
        }
        self.view(run).await
    }

    /// Waits until so many calls have reached the peer.
    pub(crate) async fn calls(&self, count: usize) {
        for _ in 0..100_000 {
            if self.peer.calls.lock().unwrap().len() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the peer was called only {} times", self.peer.calls.lock().unwrap().len());
    }

    /// Waits until a run is let go of.
    pub(crate) async fn paused(&self, run: ap_core::id::RunId) -> ap_runtime::engine::RunView {
        for _ in 0..100_000 {
            let view = self.view(run).await;
            if view.status == RunStatus::Paused {
                return view;
            }
            assert!(!view.status.is_terminal(), "it ended: {:?}", view.error);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it does not pause");
    }

    /// Stops this runtime the hard way, and starts another on the same store, `later` than now.
    pub(crate) async fn crash(self, seed: u64, later: Duration) -> Self {
        let Self { runtime, backend, peer, project, clock } = self;
        let now = clock.now().saturating_add(later);
        backend.crash();
        runtime.shutdown(Duration::ZERO).await;
        drop(runtime);
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(now));
        let runtime = builder(backend.clone(), Arc::clone(&clock), seed, &peer).build().await.unwrap();
        Self { runtime, backend, peer, project, clock }
    }

    /// Starts a run by hand and waits for its end.
    pub(crate) async fn run(&self, flow: ap_core::id::FlowId, payload: Value) -> ap_runtime::engine::RunView {
        let admin = self.admin();
        let run = admin.start_run(flow, payload).await.unwrap();
        admin.wait_for_run(run, Duration::from_secs(600)).await.unwrap();
        admin.run(run).await.unwrap()
    }
}

pub(crate) fn admin_session(runtime: &Runtime, project: Option<ProjectId>) -> Session {
    let principal = Principal::user(UserId::from_u128(1)).with_role(runtime.platform(), Role::Admin);
    runtime.session(match project {
        Some(project) => principal.with_role(project, Role::Admin),
        None => principal,
    })
}

/// The runs of one flow.
pub(crate) fn of_flow(flow: ap_core::id::FlowId) -> ap_runtime::store::RunFilter {
    ap_runtime::store::RunFilter { flow: Some(flow), ..ap_runtime::store::RunFilter::default() }
}

/// A step that calls the peer: `action` is `act`, `put` or `pure`.
pub(crate) fn call(name: &str, action: &str, settings: Value) -> Value {
    json!({ "name": name, "type": format!("fake.{action}"), "settings": settings })
}

/// A step that returns a value.
pub(crate) fn pure(name: &str, value: Value) -> Value {
    call(name, "pure", json!({ "value": value }))
}

/// The step execution at `path`.
#[track_caller]
pub(crate) fn step<'a>(view: &'a RunView, path: &str) -> &'a StepView {
    let found = view.steps.iter().find(|step| step.path.as_str() == path);
    found.unwrap_or_else(|| {
        panic!("no step `{path}` in {:?}", view.steps.iter().map(|step| step.path.as_str()).collect::<Vec<_>>())
    })
}

/// The output of the step execution at `path`.
#[track_caller]
pub(crate) fn output(view: &RunView, path: &str) -> Value {
    step(view, path).output.clone().unwrap_or_else(|| panic!("`{path}` has no output: {:?}", step(view, path)))
}

/// A run looks the same from its journal, whoever replays it: before and after a crash.
pub(crate) async fn replays(world: World, run: ap_core::id::RunId) -> World {
    let before = world.view(run).await;
    let world = world.crash(991, Duration::ZERO).await;
    assert_eq!(world.view(run).await, before);
    world
}
