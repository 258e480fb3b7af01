//! One run under one lease: apply events, commit before every outside act, do what the engine asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ap_core::{
    flow::ValidFlow,
    piece::Effect,
    run::{RunStatus, StepError, StepErrorKind, StepPath},
    store::StoreError,
};
use ap_crypto::{subject::SubjectKey, vault::TenantKeys};
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    attempt,
    carry::Carry,
    script,
    under_way::{Done, Ended, UnderWay, next_outcome},
    values::{Conflicts, StepValues},
};
use crate::{
    credentials::CredentialLoader,
    engine::{ActionCall, AttemptOutcome, Command, Event, Reply, RunEnd, RunState},
    journal::{self, RunError},
    kernel::Kernel,
    replies::Outcome,
    store::{Claimed, Lease, RunChange},
    subject::RunKeys,
    wakeup::Hint,
};

/// One run, in the hands of this process.
pub(super) struct Driver {
    pub(super) kernel: Arc<Kernel>,
    pub(super) lease: Lease,
    pub(super) keys: Arc<TenantKeys>,
    /// The key of whom the run is about.
    pub(super) subject: Option<Arc<SubjectKey>>,
    pub(super) flow: Arc<ValidFlow>,
    pub(super) state: RunState,
    next_seq: u64,
    /// What is not durable yet.
    pub(super) carry: Carry,
    pub(super) credentials: CredentialLoader,
    pub(super) signals: Signals,
    /// Attempts under way, in the order in which they began.
    pub(super) under_way: Vec<UnderWay>,
    /// Steps that others have overtaken in the key-value store.
    pub(super) conflicts: BTreeMap<StepPath, Conflicts>,
    /// Whether this process has just accepted the run: nobody can have told it anything before.
    fresh: bool,
    /// Taken up while it waits, and nothing has happened since: see [`LINGER`].
    pub(super) lingers: bool,
}

/// What is known of a run that this process has just accepted.
pub(super) struct Fresh {
    pub(super) flow: Arc<ValidFlow>,
    pub(super) state: RunState,
    pub(super) subject: Option<Arc<SubjectKey>>,
}

/// What a driver is told from outside.
#[derive(Clone, Debug, Default)]
pub(super) struct Signals {
    /// The lease is lost: nothing this driver does counts any more.
    pub(super) lost: CancellationToken,
    /// The process stops: what is known is to be made durable, and the run given back.
    pub(super) stop: CancellationToken,
    /// The run may have signals that no commit has taken: look at the store.
    pub(super) signaled: Arc<Notify>,
}

/// How a driver stopped without error.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The run has ended, and that is durable.
    Ended,
    /// It is in the queue again, with everything that was known of it.
    GivenBack,
    /// Somebody else owns the run now.
    LeaseLost,
    /// It waits, and holds nothing here.
    Parked,
}

impl Driver {
    /// Takes up a run that this process has just accepted: its state is known, nothing is read.
    pub(super) async fn fresh(
        kernel: Arc<Kernel>,
        claimed: Claimed,
        Fresh { flow, state, subject }: Fresh,
        signals: Signals,
    ) -> Result<Self, RunError> {
        let keys = kernel.keyring.tenant(claimed.lease.project.into()).await?;
        Ok(Self { fresh: true, ..Self::new(kernel, claimed, (keys, subject), flow, (state, 1), signals) })
    }

    /// Takes over a run from its journal.
    pub(super) async fn resume(kernel: Arc<Kernel>, claimed: Claimed, signals: Signals) -> Result<Self, RunError> {
        let Lease { project, run, .. } = claimed.lease;
        let keys = kernel.keyring.tenant(project.into()).await?;
        let subject = kernel.subject_of_run(&keys, project, claimed.subject).await?;
        let flow = kernel.flow_version(claimed.version, project).await?;
        let entries = kernel.backend.journal(run, project).await?;
        let resume = kernel.resume_tokens(&keys, (project, run));
        let sealing = RunKeys::new(&keys, subject.as_deref());
        let replayed = journal::replay(&*kernel.backend, sealing, (project, run), &flow, (&entries, resume)).await?;
        let had_owner = claimed.lease.epoch > FIRST_EPOCH;
        let parts = (replayed.state, replayed.next_seq);
        let mut driver = Self::new(kernel, claimed, (keys, subject), flow, parts, signals);
        if !had_owner || driver.state.end().is_some() {
            return Ok(driver);
        }
        let at = driver.kernel.clock.now();
        let parked = driver.state.is_parked();
        driver.lingers = parked;
        let event = if parked { Event::Resumed { at } } else { Event::Recovered { at } };
        let once = driver.state.apply(&driver.flow, &event)?;
        driver.carry.batch.push(&event)?;
        let sealing = RunKeys::new(&driver.keys, driver.subject.as_deref());
        driver.carry.take_in(&driver.kernel, sealing, project, once)?;
        if !parked && driver.state.end().is_none() {
            // Durable at once: a run whose every owner dies must be noticed, however early they die.
            driver.commit(RunChange::Stay).await?;
        }
        Ok(driver)
    }

    fn new(
        kernel: Arc<Kernel>,
        claimed: Claimed,
        (keys, subject): (Arc<TenantKeys>, Option<Arc<SubjectKey>>),
        flow: Arc<ValidFlow>,
        (state, next_seq): (RunState, u64),
        signals: Signals,
    ) -> Self {
        let credentials = CredentialLoader::new(claimed, &flow);
        let (lease, carry, under_way) = (claimed.lease, Carry::default(), Vec::new());
        Self {
            kernel,
            lease,
            keys,
            subject,
            flow,
            state,
            next_seq,
            carry,
            credentials,
            signals,
            under_way,
            conflicts: BTreeMap::new(),
            fresh: false,
            lingers: false,
        }
    }

    /// Runs until the run ends or is let go of.
    ///
    /// # Errors
    /// [`RunError`] if the run cannot be taken further by this process now. Its lease is left to expire.
    pub(super) async fn run(mut self) -> Result<Stopped, RunError> {
        let result = self.drive().await;
        if matches!(&result, Err(error) if !error.is_final()) {
            // What is known already stays known: an outcome that is lost is one that is unknown.
            self.commit(RunChange::Stay).await?;
        }
        result
    }

    async fn drive(&mut self) -> Result<Stopped, RunError> {
        self.credentials.refresh(&self.kernel, &self.keys).await?;
        if self.state.started().is_none() && self.state.end().is_none() {
            let connections = Arc::new(self.credentials.views());
            let started = Event::Started { at: self.kernel.clock.now(), connections };
            if let Some(stopped) = self.record(started).await? {
                return Ok(stopped);
            }
        }
        if !self.fresh
            && self.state.end().is_none()
            && let Some(stopped) = self.take_signals().await?
        {
            return Ok(stopped);
        }
        let mut turns = 0_u32;
        loop {
            turns = turns.wrapping_add(1);
            // Nothing is begun that would be cut short at once: of what acts outside nobody would know whether it did.
            if (turns.is_multiple_of(LOOK_UP) || self.signals.stop.is_cancelled())
                && self.state.end().is_none()
                && let Some(stopped) = self.look_up().await?
            {
                return Ok(stopped);
            }
            let stopped = match self.state.end() {
                Some(end) => return self.end(end.clone()).await,
                None => match self.begin_work().await? {
                    Begun::Again => None,
                    Begun::Nothing => self.happening().await?,
                    Begun::Stopped(stopped) => Some(stopped),
                },
            };
            if let Some(stopped) = stopped {
                return Ok(stopped);
            }
        }
    }

    /// Looks at what has happened besides: steps that are done at once must not keep that out, nor other runs.
    async fn look_up(&mut self) -> Result<Option<Stopped>, RunError> {
        tokio::task::yield_now().await;
        if self.signals.lost.is_cancelled() {
            return Ok(Some(Stopped::LeaseLost));
        }
        if self.signals.stop.is_cancelled() {
            self.drop_unwanted();
            while let Some(done) = next_outcome(&mut self.under_way).now_or_never() {
                let stopped = self.finished(done).await?;
                if stopped.is_some() || self.state.end().is_some() {
                    return Ok(stopped);
                }
                self.drop_unwanted();
            }
            return self.give_back().await.map(Some);
        }
        if self.signals.signaled.notified().now_or_never().is_some() {
            return self.take_signals().await;
        }
        let now = self.kernel.clock.now();
        match self.state.next_timer() {
            _ if self.state.time_left(now).is_zero() => self.record(self.run_timeout()).await,
            Some((until, path)) if until <= now => self.record(Event::WaitOver { at: now, path }).await,
            _ => Ok(None),
        }
    }

    /// Drops attempts that the engine does not want any more; returns what is to be done.
    fn drop_unwanted(&mut self) -> Vec<Command> {
        let outstanding = self.state.outstanding();
        if self.under_way.is_empty() {
            return outstanding;
        }
        let wanted: BTreeSet<(&StepPath, u32)> =
            outstanding.iter().filter_map(|command| Some((command.path()?, attempt_of(command)?))).collect();
        self.under_way.retain(|one| wanted.contains(&(&one.path, one.attempt)));
        drop(wanted);
        outstanding
    }

    /// Does what can be done at once, and begins every attempt that is to be begun; of several effects, all plans are
    /// durable together before the first is performed.
    async fn begin_work(&mut self) -> Result<Begun, RunError> {
        let outstanding = self.drop_unwanted();
        let mut calls = Vec::new();
        let under_way: BTreeSet<StepPath> = self.under_way.iter().map(|one| one.path.clone()).collect();
        for command in outstanding {
            let begun = |path: &StepPath| under_way.contains(path);
            let stopped = match command {
                Command::Evaluate(call) => {
                    if !begun(&call.path) {
                        self.begin_evaluation(call);
                    }
                    continue;
                }
                Command::Enqueue(call) => self.enqueue(call).await?,
                Command::StartChild(call) => self.start_child(call).await?,
                Command::TakeJobs(call) => self.take_jobs(call).await?,
                Command::RunAction(call) if !begun(&call.path) && !self.can_be_planned(&call) => {
                    let error = StepError::new(StepErrorKind::Limit, "the input is too large to be kept");
                    self.refuse((call.path, call.attempt), error).await?
                }
                Command::RunAction(call) if !begun(&call.path) => {
                    calls.push(call);
                    continue;
                }
                Command::RunCode(call) if !begun(&call.path) => match self.begin_code(call).await? {
                    None => continue,
                    stopped => stopped,
                },
                _ => continue,
            };
            return Ok(stopped.map_or(Begun::Again, Begun::Stopped));
        }
        if calls.is_empty() {
            return Ok(Begun::Nothing);
        }
        if let Some(begun) = self.refuse_unbound(&calls).await? {
            return Ok(begun);
        }
        match self.begin_actions(calls).await? {
            Some(stopped) => Ok(Begun::Stopped(stopped)),
            None => Ok(Begun::Nothing),
        }
    }

    /// What the action does outside, if it does anything.
    pub(super) fn effect_of(&self, call: &ActionCall) -> Option<Effect> {
        if script::source_of(&self.flow, call).is_some() {
            return Some(Effect::Once); // it may reach hosts, or it would be no action
        }
        let effect = self.flow.action(&call.step).map_or(Effect::None, |action| action.effect(&call.input));
        (effect != Effect::None).then_some(effect)
    }

    /// Whether the journal can hold the plan of the action, or needs none.
    fn can_be_planned(&self, call: &ActionCall) -> bool {
        call.planned || self.effect_of(call).is_none() || journal::fits(&call.input)
    }

    /// Records that an attempt failed before it began.
    pub(super) async fn refuse(
        &mut self,
        (path, attempt): (StepPath, u32),
        error: StepError,
    ) -> Result<Option<Stopped>, RunError> {
        let entropy = self.kernel.random_u32()?;
        let (at, outcome) = (self.kernel.clock.now(), AttemptOutcome::failed(error, None));
        self.record(Event::AttemptFinished { at, path, attempt, outcome, entropy }).await
    }

    /// Begins actions. If one acts outside, the plan is durable before, with the audit of the credentials it uses.
    async fn begin_actions(&mut self, calls: Vec<ActionCall>) -> Result<Option<Stopped>, RunError> {
        let effects: Vec<Option<Effect>> = calls.iter().map(|call| self.effect_of(call)).collect();
        if effects.iter().any(Option::is_some) {
            for (call, effect) in calls.iter().zip(&effects) {
                let Some(effect) = effect else { continue };
                if !call.planned {
                    let event = Event::EffectPlanned {
                        at: self.kernel.clock.now(),
                        path: call.path.clone(),
                        attempt: call.attempt,
                        input: Arc::clone(&call.input),
                        key: call.key.clone(),
                        repeatable: *effect == Effect::Repeatable || call.send_key,
                    };
                    self.state.apply(&self.flow, &event)?;
                    self.carry.batch.push(&event)?;
                }
                let used = (&call.path, call.attempt, &*call.input);
                self.carry.audit.extend(self.credentials.audit_uses(&self.kernel, &self.keys, used)?);
                if script::source_of(&self.flow, call).is_some() {
                    self.carry.audit.extend(self.credentials.audit_reveals(&self.kernel, &self.keys, used)?);
                }
                // Many plans together may be more than one entry can hold.
                if self.carry.batch.is_due()
                    && let Some(stopped) = self.commit(RunChange::Stay).await?
                {
                    return Ok(Some(stopped));
                }
            }
            // What the ledger has already may have been planned by a successor of ours, if we slept before we read the journal:
            // then our lease is gone, and only the store knows.
            let stopped = if calls.iter().any(|call| call.planned) {
                self.write(RunChange::Stay).await?
            } else {
                self.commit(RunChange::Stay).await?
            };
            if stopped.is_some() {
                return Ok(stopped);
            }
        }
        for (call, effect) in calls.into_iter().zip(effects) {
            let (path, attempt, timeout) = (call.path.clone(), call.attempt, call.timeout);
            let values = script::source_of(&self.flow, &call).map(|_| self.values());
            let outcome = self.action(call, effect.is_some(), values.clone());
            self.begin((path, attempt, timeout), values, outcome);
        }
        Ok(None)
    }

    /// Begins an attempt under its own time limit; one that was overtaken in its store, after a rest.
    pub(super) fn begin(
        &mut self,
        (path, attempt, timeout): (StepPath, u32, Duration),
        values: Option<Arc<StepValues>>,
        outcome: impl Future<Output = AttemptOutcome> + Send + 'static,
    ) {
        let clock = Arc::clone(&self.kernel.clock);
        let rest = self.conflicts.get(&path).map(|conflicts| conflicts.rest);
        let begins = clock.now().saturating_add(rest.unwrap_or_default());
        let until = begins.saturating_add(timeout);
        let bounded = async move {
            if rest.is_some() {
                clock.sleep_until(begins).await;
            }
            tokio::select! {
                biased;
                outcome = outcome => Done::Attempt(outcome),
                // Made only if the attempt is not done at once, as most are that touch nothing outside.
                () = async { clock.sleep_until(until).await } => Done::Attempt(attempt::timed_out(timeout)),
            }
        };
        self.under_way.push(UnderWay { path, attempt, outcome: Box::pin(bounded), values });
    }

    /// Waits for the next thing that happens: an attempt comes back, the run is told something, a time comes.
    ///
    /// An attempt that is done counts, whatever else has happened.
    async fn happening(&mut self) -> Result<Option<Stopped>, RunError> {
        if let Some(stopped) = self.rest().await? {
            return Ok(Some(stopped));
        }
        let now = self.kernel.clock.now();
        let deadline = now.saturating_add(self.state.time_left(now));
        let timer = self.state.next_timer();
        let first = timer.as_ref().map_or(deadline, |(until, _)| (*until).min(deadline));
        let linger = Some(now.saturating_add(LINGER)).filter(|linger| self.lingers && *linger < first);
        let (clock, signals) = (&self.kernel.clock, &self.signals);
        let happened = tokio::select! {
            biased;
            done = next_outcome(&mut self.under_way) => Happened::Outcome(done),
            () = signals.lost.cancelled() => Happened::Lost,
            () = signals.stop.cancelled() => Happened::Stop,
            () = signals.signaled.notified() => Happened::Signaled,
            () = async { clock.sleep_until(linger.unwrap_or(first)).await } => Happened::Time,
        };
        self.lingers = false;
        match (happened, timer) {
            (Happened::Lost, _) => Ok(Some(Stopped::LeaseLost)),
            (Happened::Stop, _) => self.give_back().await.map(Some),
            (Happened::Outcome(done), _) => self.finished(done).await,
            (Happened::Signaled, _) => self.take_signals().await,
            (Happened::Time, _) if linger.is_some() => Ok(None),
            (Happened::Time, Some(timer)) if timer.0 <= deadline => self.time_came(timer).await,
            (Happened::Time, _) => self.record(self.run_timeout()).await,
        }
    }

    /// Records what came of something under way.
    async fn finished(&mut self, Ended { path, attempt, done, values }: Ended) -> Result<Option<Stopped>, RunError> {
        let outcome = match done {
            Done::Attempt(outcome) => self.redacted(outcome),
            Done::Evaluated(results) => return self.evaluated(path, results).await,
        };
        match values {
            Some(values) => self.finished_with_values((path, attempt), outcome, &values).await,
            None => {
                let outcome = self.kept(outcome)?;
                self.attempt_finished((path, attempt), outcome).await
            }
        }
    }

    /// Records how an attempt ended.
    pub(super) async fn attempt_finished(
        &mut self,
        (path, attempt): (StepPath, u32),
        outcome: AttemptOutcome,
    ) -> Result<Option<Stopped>, RunError> {
        let entropy = match &outcome {
            AttemptOutcome::Failed { .. } => self.kernel.random_u32()?,
            AttemptOutcome::Succeeded { .. } => 0,
        };
        let at = self.kernel.clock.now();
        self.record(Event::AttemptFinished { at, path, attempt, outcome, entropy }).await
    }

    /// Applies an event, and commits if that is due before anything else may happen.
    pub(super) async fn record(&mut self, event: Event) -> Result<Option<Stopped>, RunError> {
        let once = self.state.apply(&self.flow, &event)?;
        self.carry.batch.push(&event)?;
        self.absorb(once).await
    }

    /// Takes in what the engine says once; returns the reply, if there is one.
    pub(super) fn take_in(&mut self, once: Vec<Command>) -> Result<Option<Reply>, RunError> {
        let sealing = RunKeys::new(&self.keys, self.subject.as_deref());
        self.carry.take_in(&self.kernel, sealing, self.lease.project, once)
    }

    /// Does what the engine says once, and commits if that is due.
    pub(super) async fn absorb(&mut self, once: Vec<Command>) -> Result<Option<Stopped>, RunError> {
        let reply = self.take_in(once)?;
        if self.state.end().is_some() {
            // The end follows at once and carries everything, a reply included.
            return Ok(None);
        }
        if (reply.is_some() || self.carry.batch.is_due())
            && let Some(stopped) = self.commit(RunChange::Stay).await?
        {
            return Ok(Some(stopped));
        }
        if let Some(reply) = reply {
            self.kernel.replies.publish(self.lease.run, Outcome::Replied(reply));
        }
        Ok(None)
    }

    /// Makes the end durable, then tells whoever waits for it.
    async fn end(&mut self, end: RunEnd) -> Result<Stopped, RunError> {
        self.under_way.clear();
        self.tell_parent()?;
        let change = RunChange::End { status: end.status, at: end.at };
        if let Some(stopped) = self.commit(change).await? {
            return Ok(stopped);
        }
        let outcome = match self.state.reply() {
            Some(reply) => Outcome::Replied(reply.clone()),
            None => Outcome::Ended { end, last_output: self.state.last_output().cloned() },
        };
        self.kernel.replies.publish(self.lease.run, outcome);
        Ok(Stopped::Ended)
    }

    /// The process stops: makes durable what is known, and leaves the run to whoever comes next. What was under way is cut
    /// short, and is as unknown as after a crash.
    pub(super) async fn give_back(&mut self) -> Result<Stopped, RunError> {
        if self.under_way.is_empty() {
            let event = Event::Parked { at: self.kernel.clock.now() };
            self.state.apply(&self.flow, &event)?;
            self.carry.batch.push(&event)?;
        }
        self.under_way.clear();
        Ok(self.commit(RunChange::Release).await?.unwrap_or(Stopped::GivenBack))
    }

    /// Makes everything that waits durable. `Some` if the lease is gone, and nothing was written.
    pub(super) async fn commit(&mut self, change: RunChange) -> Result<Option<Stopped>, RunError> {
        if self.carry.is_empty() && change == RunChange::Stay {
            return Ok(None);
        }
        self.write(change).await
    }

    /// As [`Driver::commit`], and asks whether the lease is still held even if nothing waits.
    async fn write(&mut self, change: RunChange) -> Result<Option<Stopped>, RunError> {
        let has_entry = !self.carry.batch.is_empty();
        let sealing = RunKeys::new(&self.keys, self.subject.as_deref());
        let commit = self.carry.commit(&self.kernel, sealing, (self.lease, self.next_seq), change)?;
        match self.kernel.commit(commit, &self.carry.audit, &self.signals.lost).await {
            Ok(()) => {}
            Err(StoreError::Fenced) => return Ok(Some(Stopped::LeaseLost)),
            Err(error) => return Err(error.into()),
        }
        self.next_seq += u64::from(has_entry);
        for signal in &self.carry.signals {
            self.kernel.wakeup.notify(Hint::Signaled(signal.run));
        }
        if !self.carry.starts.is_empty() {
            self.kernel.wakeup.notify(Hint::Ready);
        }
        self.carry.clear();
        Ok(None)
    }

    fn run_timeout(&self) -> Event {
        let message = format!("the run did not finish within {} s", self.state.timeout().as_secs());
        let error = StepError::new(StepErrorKind::Timeout, message);
        Event::Interrupted { at: self.kernel.clock.now(), status: RunStatus::Timeout, error }
    }
}

/// What beginning work came to.
pub(super) enum Begun {
    /// Something was done at once: look again.
    Again,
    /// Everything that is to be done is under way.
    Nothing,
    Stopped(Stopped),
}

/// What happened next.
enum Happened {
    Lost,
    Outcome(Ended),
    Stop,
    Signaled,
    Time,
}

const fn attempt_of(command: &Command) -> Option<u32> {
    match command {
        Command::Evaluate(_) => Some(0),
        Command::RunAction(call) => Some(call.attempt),
        Command::RunCode(call) => Some(call.attempt),
        _ => None,
    }
}

/// The epoch of a run that nobody held before.
pub(super) const FIRST_EPOCH: u64 = 1;
/// Every so many turns a driver looks at what has happened besides. Unit: turns.
const LOOK_UP: u32 = 32;
/// How long a run that was taken up while it waits is kept before it is let go of again. Its time may have come by the store's
/// clock and not yet by ours: letting go at once would have it claimed at once, over and over, with a longer journal each time.
const LINGER: Duration = Duration::from_secs(30);
