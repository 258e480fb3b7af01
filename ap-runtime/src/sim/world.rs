//! [`play`]: one schedule, from one seed and one plan.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ap_auth::role::Role;
use ap_core::{
    flow::StepKind,
    id::RunId,
    piece::Piece,
    run::StepPath,
    store::{Entity, LookupHash, PageRequest, StoreError},
};
use ap_crypto::provider::MemoryKeyProvider;
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use secrecy::ExposeSecret;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    SimError,
    backend::SimBackend,
    clock::{HostClock, Offset, StoreClock, TrueClock},
    dice::Dice,
    fault::Plan,
    history::{Call, FinalRun, Fnv, History, Observed, Wait},
    life::Life,
    mutant::MutantStore,
    peer::{COUNTER, Outside, SimPiece, SimSandbox, operator},
    scenario::{Delivery, SET_UP, Scenario, Setup, root_key},
    shared::{Ledger, Shared},
    wakeup::SimWakeup,
};
use crate::{
    backend::memory::MemoryBackend,
    config::WorkerOptions,
    egress::Egress,
    engine::{AttemptOutcome, Command, Event, ResumeTokens, RunState},
    journal::{self, RunError},
    records,
    runtime::Runtime,
    store::{Backend, JournalEntry, KeyValueStore, QueueStore, RunFilter, RunRecord, RunStore, ValueScope},
    subject::RunKeys,
    wakeup::LocalWakeup,
};

/// What one schedule came to.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) history: History,
    /// How many points it had.
    pub(super) points: u64,
}

/// Plays one schedule. One seed and one plan are one schedule, down to the last bit.
pub(super) fn play(scenario: &Scenario, setup: &Setup, seed: u64, plan: Plan) -> Result<Played, SimError> {
    paused()?.block_on(async {
        let world = World::new(scenario, setup, seed, plan);
        for worker in 0..scenario.workers {
            world.start(worker, 0).await?;
        }
        world.shared.ledger().armed = true;
        let rested = world.run().await;
        world.judge(rested).await
    })
}

/// A tokio runtime of one thread whose time moves only when nothing else does.
pub(super) fn paused() -> Result<tokio::runtime::Runtime, SimError> {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().map_err(SimError::Runtime)
}

struct World<'a> {
    scenario: &'a Scenario,
    setup: &'a Setup,
    seed: u64,
    shared: Arc<Shared>,
    slots: Vec<Mutex<Option<Slot>>>,
    hints: Arc<LocalWakeup>,
    tokens: tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>,
    /// Arrivals, downtimes, and who is asked.
    dice: Dice,
}

/// A worker that runs.
#[derive(Clone)]
struct Slot {
    life: Arc<Life>,
    runtime: Runtime,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, setup: &'a Setup, seed: u64, plan: Plan) -> Self {
        let dice = Dice::new(seed, WORLD);
        let start = SET_UP.saturating_add(Duration::from_millis(3_600_000 + dice.below(30 * 86_400_000)));
        let truth = TrueClock::starting_at(start);
        let store_clock = Arc::new(Offset::default());
        let inner = Arc::new(MemoryBackend::new(Arc::new(StoreClock { truth, offset: Arc::clone(&store_clock) })));
        inner.restore(&setup.snapshot);
        let host_clocks: Vec<Arc<Offset>> = (0..scenario.workers).map(|_| Arc::default()).collect();
        for offset in &host_clocks {
            // Host clocks are up to a second off either way.
            offset.jump(i64::try_from(dice.below(2_000_000)).unwrap_or_default() - 1_000_000);
        }
        let (sent, tokens) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            truth,
            start,
            store: MutantStore::new(inner, scenario.mutant, scenario.canaries(setup)),
            store_clock,
            host_clocks,
            dice: Dice::new(seed, STORE),
            plan,
            ledger: Mutex::new(Ledger::default()),
            tokens: sent,
        });
        let slots = (0..scenario.workers).map(|_| Mutex::new(None)).collect();
        let (hints, tokens) = (Arc::default(), tokio::sync::Mutex::new(tokens));
        Self { scenario, setup, seed, shared, slots, hints, tokens, dice }
    }

    /// Starts a worker; tries again as long as the store is out of reach.
    async fn start(&self, worker: usize, incarnation: u64) -> Result<(), SimError> {
        let shared = &self.shared;
        let life = Life::new(worker, incarnation, shared.truth);
        let offset = shared.host_clocks.get(worker).cloned().unwrap_or_default();
        let store_clock = StoreClock { truth: shared.truth, offset: Arc::clone(&shared.store_clock) };
        let outside = Outside {
            shared: Arc::clone(shared),
            life: Arc::clone(&life),
            respond: Arc::clone(&self.scenario.respond),
        };
        let purpose = WORKERS + (worker as u64) * 1_000 + incarnation;
        loop {
            let backend: Arc<dyn Backend> = Arc::new(SimBackend {
                shared: Arc::clone(shared),
                life: Arc::clone(&life),
                store_clock: Arc::new(StoreClock { truth: store_clock.truth, offset: Arc::clone(&store_clock.offset) }),
            });
            let wrap = |inner: &Arc<dyn Piece>| {
                Arc::new(SimPiece { inner: Arc::clone(inner), outside: outside.clone() }) as Arc<dyn Piece>
            };
            let built = Runtime::builder(backend, MemoryKeyProvider::new(root_key()?))
                .clock(Arc::new(HostClock {
                    truth: shared.truth,
                    offset: Arc::clone(&offset),
                    life: Arc::clone(&life),
                }))
                .entropy(Arc::new(Dice::new(self.seed, purpose)))
                .pieces(self.scenario.pieces.iter().map(wrap))
                .sandbox(SimSandbox {
                    life: Arc::clone(&life),
                    script: Arc::clone(&self.scenario.script),
                    counts: self.scenario.counts,
                })
                .egress(Egress::none())
                .worker(WorkerOptions::default().with_lease(self.scenario.lease)?)
                .wakeup(Arc::new(SimWakeup {
                    shared: Arc::clone(shared),
                    life: Arc::clone(&life),
                    hints: Arc::clone(&self.hints),
                }))
                .build()
                .await;
            match built {
                Ok(runtime) => {
                    shared.record(Observed::Started { worker, incarnation });
                    *self.slot(worker) = Some(Slot { life, runtime });
                    return Ok(());
                }
                Err(_) if shared.ledger().armed => shared.truth.sleep(RETRY).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Delivers everything and waits until all is over. Returns whether it ever was.
    async fn run(&self) -> bool {
        let copies = self.setup.deliveries.iter().enumerate().flat_map(|(number, delivery)| {
            let arrival = Duration::from_millis(self.dice.below(LATEST_ARRIVAL_MS));
            let again = self.shared.plan.duplicates.iter().map(move |late| arrival + *late);
            std::iter::once(arrival).chain(again).map(move |at| self.send(number, delivery, at))
        });
        let senders: Vec<_> = copies.collect();
        let done = CancellationToken::new();
        let supervisors = join_all((0..self.slots.len()).map(|worker| self.supervise(worker, &done)));
        let work = async {
            join_all(senders).await;
            self.shared.truth.sleep_until(self.shared.start.saturating_add(self.scenario.lifetime)).await;
            while !self.is_at_rest().await {
                self.shared.truth.sleep(LOOK_AGAIN).await;
            }
        };
        tokio::select! {
            biased;
            () = work => true,
            _ = supervisors => false,
            () = self.answer_all() => false,
            () = self.shared.truth.sleep(self.scenario.horizon) => false,
        }
    }

    /// Starts a worker again, some time after it died.
    async fn supervise(&self, worker: usize, done: &CancellationToken) -> Result<(), SimError> {
        let mut incarnation = 0;
        loop {
            let Some(life) = self.slot(worker).as_ref().map(|slot| Arc::clone(&slot.life)) else { return Ok(()) };
            tokio::select! {
                biased;
                () = done.cancelled() => return Ok(()),
                () = life.died() => {}
            }
            drop(self.slot(worker).take());
            let longest = u64::try_from(self.scenario.lease.as_millis()).unwrap_or(u64::MAX);
            self.shared.truth.sleep(Duration::from_millis(10 + self.dice.below(longest))).await;
            if self.slots.len() == 1 {
                // The store belongs to one process at a time: the next one knows that the last one is gone.
                self.shared.store.inner.crash();
            }
            incarnation += 1;
            self.start(worker, incarnation).await?;
        }
    }

    /// A sender: sends until it is told that its delivery is taken in.
    async fn send(&self, number: usize, delivery: &Delivery, at: Duration) {
        let truth = self.shared.truth;
        truth.sleep(at).await;
        loop {
            if let Some(slot) = self.any_slot() {
                let accepted = tokio::select! {
                    biased;
                    accepted = self.request(&slot.runtime, delivery) => accepted,
                    () = slot.life.died() => None,
                    () = truth.sleep(SENDER_TIMEOUT) => None,
                };
                if let Some(run) = accepted.filter(|_| !slot.life.is_dead()) {
                    let identity = delivery.identity.clone();
                    self.shared.record(Observed::Acknowledged { delivery: number, identity, run });
                    return;
                }
            }
            truth.sleep(RETRY + Duration::from_millis(self.dice.below(400))).await;
        }
    }

    async fn request(&self, runtime: &Runtime, delivery: &Delivery) -> Option<RunId> {
        match &self.setup.token {
            Some(token) => runtime.webhooks().accept_verified(token.expose_secret(), &delivery.payload).await,
            None => {
                let operator = operator().with_role(self.setup.project, Role::Admin);
                let session = runtime.session(operator).project(self.setup.project).ok()?;
                session.start_run(self.setup.flow, delivery.payload.clone()).await.ok()
            }
        }
    }

    /// Those a run waits for: each uses the tokens it gets, at once or late, once or twice.
    async fn answer_all(&self) {
        let mut tokens = self.tokens.lock().await;
        let mut seen = BTreeSet::new();
        let mut answers = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                token = tokens.recv() => {
                    let Some(token) = token else { return };
                    if seen.insert(token.clone()) {
                        for _ in 0..1 + u64::from(self.dice.one_in(3)) {
                            let longest = u64::try_from(self.scenario.lease.as_millis()).unwrap_or(u64::MAX);
                            let after = self.dice.below(if self.dice.one_in(2) { 20 } else { longest * 3 });
                            answers.push(self.answer(token.clone(), Duration::from_millis(after)));
                        }
                    }
                }
                Some(()) = answers.next(), if !answers.is_empty() => {}
            }
        }
    }

    /// Uses a token until somebody says what became of it.
    async fn answer(&self, token: String, after: Duration) {
        let mut print = Fnv::default();
        print.add(token.as_bytes());
        self.shared.truth.sleep(after).await;
        loop {
            let body = http_body_util::Full::new(bytes::Bytes::from_static(br#"{"answer":42}"#));
            let request = http::Request::post(format!("/{token}")).body(body);
            if let (Some(slot), Ok(request)) = (self.any_slot(), request) {
                let status = tokio::select! {
                    biased;
                    response = async { slot.runtime.resumes().handle(request).await } => Some(response.status()),
                    () = slot.life.died() => None,
                    () = self.shared.truth.sleep(SENDER_TIMEOUT) => None,
                };
                let status = status.filter(|_| !slot.life.is_dead());
                if let Some(status) = status.filter(|status| !status.is_server_error()) {
                    let taken = status == http::StatusCode::OK;
                    self.shared.record(Observed::Answered { token: print.0, taken });
                    return;
                }
            }
            self.shared.truth.sleep(RETRY + Duration::from_millis(self.dice.below(400))).await;
        }
    }

    fn any_slot(&self) -> Option<Slot> {
        let worker = usize::try_from(self.dice.below(self.slots.len() as u64)).unwrap_or_default();
        self.slot(worker).clone()
    }

    async fn is_at_rest(&self) -> bool {
        self.all_runs().await.is_ok_and(|runs| runs.iter().all(|run| run.status.is_terminal()))
    }

    async fn all_runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
        let mut all = Vec::new();
        loop {
            let found = self.shared.store.inner.runs(RunFilter::default(), self.setup.project, &page).await?;
            all.extend(found.items);
            match found.next {
                Some(next) => page = page.after(next),
                None => return Ok(all),
            }
        }
    }

    /// Puts together what is to be judged.
    async fn judge(&self, rested: bool) -> Result<Played, SimError> {
        let mut history = History { rested, deliveries: self.setup.deliveries.len(), ..History::default() };
        let points = {
            let mut ledger = self.shared.ledger();
            ledger.armed = false;
            history.observed = std::mem::take(&mut ledger.observed);
            history.set_back = ledger.set_back;
            ledger.points
        };
        for record in self.all_runs().await? {
            let entries = self.shared.store.journal(record.id, record.project).await?;
            let seqs = entries.iter().map(|entry| entry.seq).collect();
            let mut waits = Vec::new();
            let replayed = self.replay(&record, &entries, &mut waits).await.map_err(|error| error.to_string());
            history.runs.insert(record.id, FinalRun { record, seqs, replayed, waits });
        }
        let queues: BTreeSet<[u8; 32]> = history
            .calls()
            .filter_map(|call| match call {
                Call::Commit { commit, .. } => Some(commit.jobs.iter().map(|(_, queue)| queue.0)),
                _ => None,
            })
            .flatten()
            .collect();
        for queue in queues {
            let counts = self.shared.store.inner.queue_counts(LookupHash(queue), self.setup.project).await?;
            history.queues.insert(queue, counts);
        }
        let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
        loop {
            let audit = crate::store::AuditStore::audit(&*self.shared.store.inner, self.setup.project.into(), &page);
            let found = audit.await?;
            history.audit.extend(found.items.iter().map(|record| record.id));
            match found.next {
                Some(next) => page = page.after(next),
                None => break,
            }
        }
        if self.scenario.counts {
            history.counted = Some((self.steps_that_counted(&history), self.counter().await?));
        }
        history.clear = self.shared.store.clear().into_iter().collect();
        Ok(Played { history, points })
    }

    /// Scripts that succeeded.
    fn steps_that_counted(&self, history: &History) -> u64 {
        let counted = history.runs.values().map(|run| {
            let (Some(flow), Ok((events, _))) = (self.setup.flows.get(&run.record.version), &run.replayed) else {
                return 0;
            };
            let is_script =
                |path: &StepPath| flow.step(path.step_name()).is_some_and(|step| matches!(step.kind, StepKind::Code(_)));
            let counts = |event: &&Event| {
                matches!(event, Event::AttemptFinished { path, outcome: AttemptOutcome::Succeeded { .. }, .. } if is_script(path))
            };
            events.iter().filter(counts).count() as u64
        });
        counted.sum()
    }

    /// What they have counted.
    async fn counter(&self) -> Result<u64, StoreError> {
        let id = records::value_id(&self.setup.keys, ValueScope::Project, COUNTER);
        match self.shared.store.inner.value(id, self.setup.project).await {
            Ok(record) => {
                // One that does not open counts nothing, which is not what was promised.
                let json = records::open_value(&self.setup.keys, &record, COUNTER).unwrap_or_default();
                Ok(json.parse().unwrap_or_default())
            }
            Err(StoreError::NotFound { .. }) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Rebuilds a run, and notes the waits on the way.
    async fn replay(
        &self,
        record: &RunRecord,
        entries: &[JournalEntry],
        waits: &mut Vec<Wait>,
    ) -> Result<(Vec<Event>, RunState), RunError> {
        let (tenant, ids) = (&self.setup.keys, (record.project, record.id));
        let keys = RunKeys::new(tenant, None);
        let store: &dyn Backend = &*self.shared.store.inner;
        let tokens = Arc::new(ResumeTokens { project: record.project, key: tenant.resume_key(record.id), base: None });
        let unknown = || StoreError::NotFound { entity: Entity::FlowVersion };
        let flow = self.setup.flows.get(&record.version).ok_or_else(unknown)?;
        let state = journal::replay(store, keys, ids, flow, (entries, Arc::clone(&tokens))).await?.state;
        let mut events = Vec::new();
        for entry in entries {
            events.extend(journal::open(keys, ids, entry)?);
        }
        let mut replaying: Option<RunState> = None;
        for event in &mut events {
            journal::unspill(store, keys, record.project, event).await?;
            let Some(state) = &mut replaying else {
                replaying = Some(RunState::accepted(record.id, event, Arc::clone(&tokens))?);
                continue;
            };
            if let Event::WaitOver { at, path } = event {
                waits.extend(state.outstanding().into_iter().filter_map(|command| match command {
                    Command::Wait { path: waiting, until } if waiting == *path => {
                        Some(Wait { path: path.clone(), until, over: *at })
                    }
                    _ => None,
                }));
            }
            state.apply(flow, event)?;
        }
        Ok((events, state))
    }

    fn slot(&self, worker: usize) -> MutexGuard<'_, Option<Slot>> {
        #[expect(clippy::indexing_slicing, reason = "workers are counted from 0, one slot each")]
        self.slots[worker].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Purposes of dice.
const WORLD: u64 = 1;
const STORE: u64 = 2;
const WORKERS: u64 = 1_000;
/// Deliveries come within this time. Unit: milliseconds.
const LATEST_ARRIVAL_MS: u64 = 200;
/// How long a sender waits for an answer.
const SENDER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a sender waits before it tries again, at least.
const RETRY: Duration = Duration::from_millis(100);
/// How often the world is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
