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
    run::{StepError, StepErrorKind},
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
    runtime::{Runtime, RuntimeBuilder},
    sandbox::{CodeError, CodeOutput, CodeRequest, CodeSandbox},
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

/// `fake.act` acts outside once, `fake.put` repeatably, `fake.pure` not at all; each returns its input.
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
                let properties = Properties::new([Property::new("value", "Value", PropertyKind::Json)]);
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
        if self.peer.hang.load(Ordering::SeqCst) || number >= self.peer.hang_from.load(Ordering::SeqCst) {
            self.peer.released.notified().await;
        }
        let failing = self.peer.fail_first.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if failing.is_ok() {
            return Err(StepError::new(StepErrorKind::OutcomeTransient, "the peer is not in the mood").into());
        }
        Ok(input.get("value").cloned().unwrap_or_default())
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
    async fn run(&self, _: CodeRequest) -> Result<CodeOutput, CodeError> {
        panic!("on purpose")
    }
}

#[async_trait]
impl CodeSandbox for FakeSandbox {
    async fn run(&self, request: CodeRequest) -> Result<CodeOutput, CodeError> {
        if request.source.contains("throw") {
            let (name, message) = ("Error".to_owned(), "thrown on purpose".to_owned());
            return Err(CodeError::Thrown { name, message, stack: String::new(), console: vec![] });
        }
        let params: Value = serde_json::from_slice(&request.params).unwrap();
        Ok(CodeOutput { value: json!({ "params": params }), console: vec![], console_truncated: false })
    }
}

/// A runtime in a world of its own.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) backend: Arc<MemoryBackend>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) project: ProjectId,
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
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp::from_millis(START)));
        let backend = Arc::new(MemoryBackend::new(Arc::clone(&clock)));
        let peer = Arc::new(Peer::default());
        let runtime = builder(backend.clone(), clock, seed, &peer).build().await.unwrap();
        let project = admin_session(&runtime, None).create_project("Test").await.unwrap();
        Self { runtime, backend, peer, project }
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
