//! One run under one lease: apply events, commit before every outside act, do what the engine asks for.

use std::{sync::Arc, time::Duration};

use ap_core::{
    audit::AuditRecord,
    flow::ValidFlow,
    piece::Effect,
    run::{RunStatus, StepError, StepErrorKind, StepPath},
    store::StoreError,
    time::Timestamp,
};
use ap_crypto::vault::TenantKeys;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::attempt;
use crate::{
    credentials::CredentialLoader,
    engine::{ActionCall, AttemptOutcome, Command, Event, RunEnd, RunState},
    journal::{self, Batch, RunError},
    kernel::Kernel,
    replies::Outcome,
    store::{Claimed, Lease, RunChange, RunCommit},
};

/// One run, in the hands of this process.
pub(super) struct Driver {
    kernel: Arc<Kernel>,
    lease: Lease,
    keys: Arc<TenantKeys>,
    flow: Arc<ValidFlow>,
    state: RunState,
    next_seq: u64,
    /// Events applied and not yet durable.
    batch: Batch,
    /// Audit records that go with the batch.
    audit: Vec<AuditRecord>,
    credentials: CredentialLoader,
    deadline: Timestamp,
    signals: Signals,
}

/// What may end a driver from outside.
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
}

impl Driver {
    /// Takes up a run that this process has just accepted: its state is known, nothing is read.
    pub(super) async fn fresh(
        kernel: Arc<Kernel>,
        claimed: Claimed,
        flow: Arc<ValidFlow>,
        state: RunState,
        signals: Signals,
    ) -> Result<Self, RunError> {
        let keys = kernel.keyring.tenant(claimed.lease.project.into()).await?;
        Ok(Self::new(kernel, claimed, keys, flow, (state, 1), signals))
    }

    /// Takes over a run from its journal.
    pub(super) async fn resume(kernel: Arc<Kernel>, claimed: Claimed, signals: Signals) -> Result<Self, RunError> {
        let Lease { project, run, .. } = claimed.lease;
        let keys = kernel.keyring.tenant(project.into()).await?;
        let flow = kernel.flow_version(claimed.version, project).await?;
        let entries = kernel.backend.journal(run, project).await?;
        let replayed = journal::replay(&keys, (project, run), &flow, &entries)?;
        let had_owner = claimed.lease.epoch > FIRST_EPOCH;
        let parts = (replayed.state, replayed.next_seq);
        let mut driver = Self::new(kernel, claimed, keys, flow, parts, signals);
        if had_owner && driver.state.end().is_none() {
            let event = Event::Recovered { at: driver.kernel.clock.now() };
            driver.state.apply(&driver.flow, &event)?;
            driver.batch.push(&event)?;
            if driver.state.end().is_none() {
                // Durable at once: a run whose every owner dies must be noticed, however early they die.
                driver.commit(RunChange::Stay).await?;
            }
        }
        Ok(driver)
    }

    fn new(
        kernel: Arc<Kernel>,
        claimed: Claimed,
        keys: Arc<TenantKeys>,
        flow: Arc<ValidFlow>,
        (state, next_seq): (RunState, u64),
        signals: Signals,
    ) -> Self {
        let deadline = kernel.clock.now().saturating_add(kernel.run_limits.timeout());
        let lease = claimed.lease;
        let credentials = CredentialLoader::new(claimed, &flow);
        Self {
            kernel,
            lease,
            keys,
            flow,
            state,
            next_seq,
            batch: Batch::default(),
            audit: Vec::new(),
            credentials,
            deadline,
            signals,
        }
    }

    /// Runs to the end.
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
        loop {
            let next = match self.state.outstanding() {
                Some(Command::End(end)) => return self.end(end).await,
                Some(Command::RunAction(call)) => self.action(call).await?,
                Some(Command::RunCode(call)) => {
                    let kernel = Arc::clone(&self.kernel);
                    let outcome = self.bounded(call.timeout, attempt::code(&kernel, &call)).await;
                    self.finished(call.path, call.attempt, outcome).await?
                }
                Some(Command::Wait { path, until }) => self.wait(path, until).await?,
                _ => Next::Event(self.interruption(
                    RunStatus::InternalError,
                    StepErrorKind::Internal,
                    "nothing is left to do",
                )),
            };
            let stopped = match next {
                Next::Event(event) => self.record(event).await?,
                Next::Stopped(stopped) => Some(stopped),
            };
            if let Some(stopped) = stopped {
                return Ok(stopped);
            }
        }
    }

    /// Applies an event, and commits if that is due before anything else may happen.
    async fn record(&mut self, event: Event) -> Result<Option<Stopped>, RunError> {
        let commands = self.state.apply(&self.flow, &event)?;
        self.batch.push(&event)?;
        if self.state.end().is_some() {
            // The end follows at once and carries everything, a reply included.
            return Ok(None);
        }
        let reply = commands.into_iter().find_map(|command| match command {
            Command::Reply(reply) => Some(reply),
            _ => None,
        });
        if (reply.is_some() || self.batch.is_due())
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

    /// Performs an action. If it acts outside, the plan is durable before, with the audit of the credentials it uses.
    async fn action(&mut self, call: ActionCall) -> Result<Next, RunError> {
        let effect = self.flow.action(&call.step).map_or(Effect::None, |action| action.effect(&call.input));
        if effect != Effect::None {
            self.credentials.refresh(&self.kernel, &self.keys).await?;
            if !call.planned {
                let event = Event::EffectPlanned {
                    at: self.kernel.clock.now(),
                    path: call.path.clone(),
                    attempt: call.attempt,
                    input: Arc::clone(&call.input),
                    key: call.key.clone(),
                    repeatable: effect == Effect::Repeatable || call.send_key,
                };
                self.state.apply(&self.flow, &event)?;
                self.batch.push(&event)?;
            }
            let uses = self.credentials.audit_uses(&self.kernel, &self.keys, &call)?;
            self.audit.extend(uses);
            if let Some(stopped) = self.commit(RunChange::Stay).await? {
                return Ok(Next::Stopped(stopped));
            }
        }
        let (kernel, flow, credentials) =
            (Arc::clone(&self.kernel), Arc::clone(&self.flow), self.credentials.current());
        let outcome = self.bounded(call.timeout, attempt::action(&kernel, &flow, &call, &credentials)).await;
        self.finished(call.path, call.attempt, outcome).await
    }

    /// Waits for an attempt, for its own time limit, for the run's, and for what may end the driver from outside.
    ///
    /// An attempt that is done counts, whatever else has happened.
    async fn bounded(&self, timeout: Duration, attempt: impl Future<Output = AttemptOutcome>) -> Bounded {
        let step_ends = self.kernel.clock.now().saturating_add(timeout);
        let first = step_ends.min(self.deadline);
        tokio::select! {
            biased;
            outcome = attempt => Bounded::Outcome(outcome),
            () = self.signals.lost.cancelled() => Bounded::LeaseLost,
            () = self.signals.stop.cancelled() => Bounded::Stop,
            () = self.kernel.clock.sleep_until(first) => {
                if first == self.deadline { Bounded::RunTimeout } else { Bounded::Outcome(attempt::timed_out(timeout)) }
            }
        }
    }

    async fn finished(&mut self, path: StepPath, attempt: u32, bounded: Bounded) -> Result<Next, RunError> {
        Ok(match bounded {
            Bounded::LeaseLost => Next::Stopped(Stopped::LeaseLost),
            Bounded::RunTimeout => Next::Event(self.run_timeout()),
            Bounded::Stop => Next::Stopped(self.give_back().await?),
            Bounded::Outcome(outcome) => Next::Event(Event::AttemptFinished {
                at: self.kernel.clock.now(),
                path,
                attempt,
                outcome: self.redacted(outcome),
                entropy: self.kernel.random_u32()?,
            }),
        })
    }

    fn redacted(&self, outcome: AttemptOutcome) -> AttemptOutcome {
        if self.kernel.egress.scrubs() {
            attempt::redact(outcome, self.credentials.current().redactor())
        } else {
            outcome
        }
    }

    /// Waits between two attempts. Like every wait it is one that a crash may interrupt: what led here is durable first.
    async fn wait(&mut self, path: StepPath, until: Timestamp) -> Result<Next, RunError> {
        if let Some(stopped) = self.commit(RunChange::Stay).await? {
            return Ok(Next::Stopped(stopped));
        }
        let due = tokio::select! {
            biased;
            () = self.signals.lost.cancelled() => return Ok(Next::Stopped(Stopped::LeaseLost)),
            () = self.signals.stop.cancelled() => return Ok(Next::Stopped(self.give_back().await?)),
            () = self.kernel.clock.sleep_until(until.min(self.deadline)) => until <= self.deadline,
        };
        Ok(Next::Event(if due { Event::WaitOver { at: self.kernel.clock.now(), path } } else { self.run_timeout() }))
    }

    /// The process stops: makes durable what is known, and leaves the run to whoever comes next.
    async fn give_back(&mut self) -> Result<Stopped, RunError> {
        Ok(self.commit(RunChange::Release).await?.unwrap_or(Stopped::GivenBack))
    }

    /// Makes everything that waits durable. `Some` if the lease is gone, and nothing was written.
    async fn commit(&mut self, change: RunChange) -> Result<Option<Stopped>, RunError> {
        if self.batch.is_empty() && self.audit.is_empty() && change == RunChange::Stay {
            return Ok(None);
        }
        let mut entries = Vec::new();
        if !self.batch.is_empty() {
            let ids = (self.lease.project, self.lease.run);
            entries.push(self.batch.seal(&self.keys, ids, self.next_seq, &*self.kernel.entropy)?);
        }
        let commit = RunCommit::new(self.lease, change).with_entries(entries);
        match self.kernel.commit(commit, &self.audit, &self.signals.lost).await {
            Ok(()) => {}
            Err(StoreError::Fenced) => return Ok(Some(Stopped::LeaseLost)),
            Err(error) => return Err(error.into()),
        }
        if !self.batch.is_empty() {
            self.next_seq += 1;
            self.batch.clear();
        }
        self.audit.clear();
        Ok(None)
    }

    fn run_timeout(&self) -> Event {
        let message = format!("the run did not finish within {} s", self.kernel.run_limits.timeout().as_secs());
        self.interruption(RunStatus::Timeout, StepErrorKind::Timeout, message)
    }

    fn interruption(&self, status: RunStatus, kind: StepErrorKind, message: impl Into<String>) -> Event {
        Event::Interrupted { at: self.kernel.clock.now(), status, error: StepError::new(kind, message) }
    }
}

/// What the loop does next.
enum Next {
    Event(Event),
    Stopped(Stopped),
}

/// How a bounded wait ended.
enum Bounded {
    LeaseLost,
    Outcome(AttemptOutcome),
    RunTimeout,
    Stop,
}

/// The epoch of a run that nobody held before.
pub(super) const FIRST_EPOCH: u64 = 1;
