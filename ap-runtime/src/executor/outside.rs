//! What a run does to others: runs it starts, jobs it queues and takes, signals it takes in.

use std::sync::Arc;

use ap_auth::{
    audit::AuditEvent,
    principal::{Actor, Identity},
};
use ap_core::{
    flow::TriggerKind,
    id::JobId,
    run::{RunStatus, StepError, StepErrorKind},
    store::{Entity, StoreError},
};
use ap_crypto::error::VaultError;
use serde_json::Value;

use super::{
    attempt,
    driver::{Driver, Stopped},
};
use crate::{
    accept::RunStart,
    engine::{ChildCall, EnqueueCall, Event, JobsCall, ParentStep, Signal, TakenJob, slot_text},
    executor::Submission,
    flow_control::{Origin, control_of},
    journal::{self, RunError},
    kernel::Kernel,
    records,
    replies::Outcome,
    store::{JobEnd, JobRequest, Lease, NewJob, RunChange, SignalRecord},
    subject::{RunKeys, RunSubject, subject_of},
};

impl Driver {
    /// Reads what the run was told and takes it in.
    pub(super) async fn take_signals(&mut self) -> Result<Option<Stopped>, RunError> {
        let (project, run) = (self.lease.project, self.lease.run);
        let told = match self.kernel.backend.signals(run, project).await {
            Ok(told) => told,
            Err(error) if error.is_retryable() => {
                // The next heartbeat says again that there are some. What is under way must not be broken off for it.
                tracing::warn!(%run, %error, "what the run was told cannot be read now");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        for record in told {
            if self.state.end().is_some() {
                return Ok(None);
            }
            if !self.carry.known.insert(record.id) {
                continue;
            }
            self.carry.taken.push(record.id);
            let content = match self.kernel.open_signal(self.sealing(), &record) {
                Ok(content) => content,
                Err(error) => {
                    // It was altered in the store: it says nothing, and must not keep the run from going on.
                    tracing::error!(%run, signal = %record.id, %error, "a signal cannot be opened and is dropped");
                    continue;
                }
            };
            // What it was taken up for has happened: if it waits on, it waits elsewhere.
            self.lingers = false;
            let content = self.without_credentials(content);
            let event = Event::Signaled { at: self.kernel.clock.now(), slot: slot_text(&record.slot), content };
            if let Some(stopped) = self.record(event).await? {
                return Ok(Some(stopped));
            }
        }
        Ok(None)
    }

    /// Whoever tells a run something may know a credential of it: what is told becomes an output like any other.
    fn without_credentials(&self, content: Signal) -> Signal {
        let credentials = self.credentials.current();
        let redactor = credentials.redactor();
        if !self.kernel.egress.scrubs() {
            return content;
        }
        let clean = |value: Arc<Value>| match redactor.is_empty() {
            true => value,
            false => Arc::new(redactor.redact_json(Arc::unwrap_or_clone(value))),
        };
        let shown = redactor.with_token_shapes();
        match content {
            Signal::Answered { decision, body } => Signal::Answered { decision, body: clean(body) },
            Signal::Canceled { reason } => Signal::Canceled { reason: shown.redact_str(&reason).into_owned() },
            Signal::ChildEnded { run, status, output, error } => {
                let error = error.map(|error| attempt::redact_error(error, redactor));
                Signal::ChildEnded { run, status, output: clean(output), error }
            }
        }
    }

    /// As [`Driver::without_credentials`], for a job: another run may have queued it.
    fn job_without_credentials(&self, data: Value) -> Value {
        let credentials = self.credentials.current();
        let redactor = credentials.redactor();
        let stays = !self.kernel.egress.scrubs() || redactor.is_empty();
        if stays { data } else { redactor.redact_json(data) }
    }

    /// Creates the run of a `subflow` step, together with the event that says so.
    pub(super) async fn start_child(&mut self, call: ChildCall) -> Result<Option<Stopped>, RunError> {
        if !journal::fits(&call.payload) {
            let error = StepError::new(StepErrorKind::Limit, "the payload is too large to be kept");
            return self.refuse((call.path, 1), error).await;
        }
        for _ in 0..STALE_RETRIES {
            let submission = match self.child(&call).await? {
                Ok(submission) => submission,
                Err(error) => return self.refuse_child(call, error).await,
            };
            let run = submission.accept.run.id;
            let event = Event::ChildStarted { at: self.kernel.clock.now(), path: call.path.clone(), run };
            // What follows from the event, such as the end of a job, is written with it. If nothing is, nothing has changed.
            let mut state = self.state.clone();
            let once = state.apply(&self.flow, &event)?;
            let mark = self.carry.mark();
            self.carry.batch.push(&event)?;
            self.carry.starts.push((submission.accept, submission.audit));
            let sealing = RunKeys::new(&self.keys, self.subject.as_deref());
            let reply = self.carry.take_in(&self.kernel, sealing, self.lease.project, once)?;
            match self.commit(RunChange::Stay).await {
                Ok(None) => {}
                Ok(stopped) => return Ok(stopped),
                // The flow was changed in this instant: nothing was written. Look again.
                Err(RunError::Store(StoreError::Conflict { entity: Entity::Flow, .. })) => {
                    self.carry.rewind(&mark);
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.state = state;
            // The end follows at once, and gives the reply.
            if let Some(reply) = reply.filter(|_| self.state.end().is_none()) {
                self.kernel.replies.publish(self.lease.run, Outcome::Replied(reply));
            }
            return Ok(None);
        }
        self.refuse_child(call, "the other flow is being changed again and again".to_owned()).await
    }

    async fn refuse_child(&mut self, call: ChildCall, message: String) -> Result<Option<Stopped>, RunError> {
        self.refuse((call.path, 1), StepError::new(StepErrorKind::Subflow, message)).await
    }

    /// The run to be created, or why it cannot be.
    async fn child(&mut self, call: &ChildCall) -> Result<Result<Submission, String>, RunError> {
        let project = self.lease.project;
        let flow = match self.kernel.backend.flow(call.flow, project).await {
            Ok(flow) => flow,
            Err(StoreError::NotFound { .. }) => return Ok(Err(format!("there is no flow `{}`", call.flow))),
            Err(error) => return Err(error.into()),
        };
        let (true, Some(version)) = (flow.enabled, flow.published) else {
            return Ok(Err(format!("the flow `{}` has no published version that is enabled", call.flow)));
        };
        let valid = match self.kernel.flow_version(version, project).await {
            Ok(valid) => valid,
            Err(RunError::Flow(_)) => return Ok(Err(format!("the flow `{}` cannot be executed here", call.flow))),
            Err(error) => return Err(error),
        };
        if !matches!(valid.trigger().kind, TriggerKind::Manual) {
            return Ok(Err(format!("the flow `{}` is not started by others: its trigger is not `manual`", call.flow)));
        }
        // The other flow's bounds hold; what it would refuse starts later.
        let mut control = match control_of(&valid, flow.id, &self.keys, &call.payload, Origin::Poll) {
            Ok(control) => control,
            Err(error) => return Ok(Err(format!("the bounds of the flow `{}` do not fit: {error}", call.flow))),
        };
        if call.waits {
            // Another run would replace it, and nobody would tell this one.
            control.debounce = None;
        }
        // What a run starts holds the same data. What its own flow says cannot be held to: this run has the data, too.
        if self.subject.is_none() {
            match subject_of(&valid, &call.payload, Origin::Caller) {
                Ok(None) => {}
                Ok(Some(_)) => {
                    return Ok(Err(format!(
                        "the flow `{}` names a data subject, and this run is about none: name the same one in its flow",
                        call.flow
                    )));
                }
                Err(reason) => {
                    return Ok(Err(format!("the data subject of the flow `{}` cannot be told: {reason}", call.flow)));
                }
            }
        }
        let start = RunStart {
            subject: self.subject.clone().map(RunSubject::known),
            project,
            flow: flow.id,
            version,
            generation: flow.generation,
            dedupe: None,
            parent: Some(ParentStep {
                run: self.lease.run,
                path: call.path.clone(),
                waits: call.waits,
                depth: call.depth,
            }),
            control,
            payload: Arc::clone(&call.payload),
        };
        let parent = self.lease.run;
        let (_, submission) = self.kernel.prepare_run(start, valid, &self.keys, |at| {
            AuditEvent::by(&Actor::new(Identity::Engine), "run.start", project.into(), at).with_resource(parent)
        })?;
        Ok(Ok(submission))
    }

    /// Puts jobs into a queue: they exist from the commit on that says the step succeeded.
    pub(super) async fn enqueue(&mut self, call: EnqueueCall) -> Result<Option<Stopped>, RunError> {
        if !call.jobs.iter().all(journal::fits) {
            let error = StepError::new(StepErrorKind::Limit, "a job is too large to be kept");
            return self.refuse((call.path, 1), error).await;
        }
        let at = self.kernel.clock.now();
        let queue = records::queue_hash(&self.keys, &call.queue);
        let (mut last, mut jobs): (Option<JobId>, Vec<NewJob>) = (None, Vec::with_capacity(call.jobs.len()));
        for data in call.jobs.iter() {
            // Jobs are taken in order of id: each must be greater than the one before.
            let id = next_job_id(last, JobId::from_parts(at, self.kernel.id_entropy()?));
            last = Some(id);
            let plain = zeroize::Zeroizing::new(serde_json::to_vec(data).map_err(RunError::Encoding)?);
            let key = records::job_key(id, &queue);
            let context = records::job(&key, self.lease.project);
            let sealed = self.keys.seal(&context, &plain, &*self.kernel.entropy).map_err(RunError::Seal)?;
            jobs.push(NewJob { id, queue, sealed });
        }
        // All or none: a commit of some without the event would have them queued again.
        self.carry.jobs.extend(jobs);
        self.record(Event::Enqueued { at, path: call.path }).await
    }

    /// Takes jobs of a queue. What is taken stays the run's until a commit ends it, so a crash before the event is journalled
    /// loses nothing: asking again gives the same jobs.
    pub(super) async fn take_jobs(&mut self, call: JobsCall) -> Result<Option<Stopped>, RunError> {
        // Ends of earlier jobs must be written first, or they would count as held.
        if let Some(stopped) = self.commit(RunChange::Stay).await? {
            return Ok(Some(stopped));
        }
        let queue = records::queue_hash(&self.keys, &call.queue);
        let request = JobRequest {
            lease: self.lease,
            queue,
            holder: self.keys.lookup_hash("job-holder", &[self.lease.run.as_bytes(), call.path.as_str().as_bytes()]),
            limit: call.max_concurrent,
            max_concurrent: call.max_concurrent,
            spacing: call.spacing,
        };
        let held = match self.kernel.backend.take_jobs(request).await {
            Ok(held) => held,
            Err(StoreError::Fenced) => return Ok(Some(Stopped::LeaseLost)),
            Err(error) => return Err(error.into()),
        };
        // What the step has been given before is not written down again with every job that ends.
        let known = self.state.known_jobs(&call.path);
        let (mut jobs, mut bytes, mut more) = (Vec::new(), 0_usize, held.waiting > 0);
        for job in held.jobs.into_iter().filter(|job| !known.contains(&job.id)) {
            let key = records::job_key(job.id, &queue);
            let context = records::job(&key, self.lease.project);
            let plain = match self.keys.open(&context, &job.sealed) {
                Ok(plain) => plain,
                Err(error @ VaultError::Unopenable) => {
                    // It was altered in the store: it must not keep those behind it from being done.
                    let (run, job) = (self.lease.run, job.id);
                    tracing::error!(%run, %job, %error, "a job cannot be opened and becomes a dead letter");
                    self.carry.job_ends.push((job, JobEnd::Dead));
                    continue;
                }
                Err(error) => return Err(RunError::Vault(error)),
            };
            bytes = bytes.saturating_add(plain.len());
            if bytes > journal::MAX_VALUE_BYTES && !jobs.is_empty() {
                // The others are held all the same, and told of when the step asks again.
                more = true;
                break;
            }
            let data: Value = serde_json::from_slice(&plain).map_err(RunError::Encoding)?;
            jobs.push(TakenJob { id: job.id, start: job.start, data: Arc::new(self.job_without_credentials(data)) });
        }
        self.record(Event::JobsTaken { at: self.kernel.clock.now(), path: call.path, jobs, more }).await
    }

    /// What the run that waits for the end of this one is told with it.
    pub(super) fn tell_parent(&mut self) -> Result<(), RunError> {
        let Some(parent) = self.state.parent().filter(|parent| parent.waits) else { return Ok(()) };
        let Some(end) = self.state.end() else { return Ok(()) };
        let output = match self.state.reply() {
            Some(reply) => Arc::clone(&reply.body),
            None => self.state.last_output().cloned().unwrap_or_default(),
        };
        let run = self.lease.run;
        let content = match ap_core::json::check_stored(&output) {
            Ok(()) => Signal::ChildEnded { run, status: end.status, output, error: end.error.clone() },
            Err(limit) => {
                let error = StepError::new(StepErrorKind::Limit, format!("its output {limit}"));
                Signal::ChildEnded { run, status: RunStatus::Failed, output: Arc::default(), error: Some(error) }
            }
        };
        let ids = (self.lease.project, parent.run);
        let slot = records::child_slot(&self.keys, run);
        let signal = self.kernel.seal_signal(self.sealing(), ids, slot, &content)?;
        self.carry.signals.push(signal);
        Ok(())
    }
}

impl Kernel {
    /// What the run that started a broken one is told of its end; whether it waits for that, only the journal says.
    pub(super) async fn broken_child_ended(&self, lease: Lease) -> Result<Option<SignalRecord>, RunError> {
        let Lease { project, run, .. } = lease;
        let record = self.backend.run(run, project).await?;
        let Some(parent) = record.parent else { return Ok(None) };
        let keys = self.keyring.tenant(project.into()).await?;
        let subject = self.subject_of_run(&keys, project, record.subject).await?;
        let status = RunStatus::InternalError;
        let error = Some(StepError::new(StepErrorKind::Internal, "it could not be continued"));
        let content = Signal::ChildEnded { run, status, output: Arc::default(), error };
        let sealing = RunKeys::new(&keys, subject.as_deref());
        self.seal_signal(sealing, (project, parent), records::child_slot(&keys, run), &content).map(Some)
    }
}

/// `fresh`, or the id right behind `last` if that is greater.
fn next_job_id(last: Option<JobId>, fresh: JobId) -> JobId {
    match last {
        Some(last) if last >= fresh => JobId::from_u128(last.as_u128() + 1),
        _ => fresh,
    }
}

/// How often a flow is looked at again that was changed while a run of it was to be started.
const STALE_RETRIES: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_ids_rise_whatever_the_entropy_says() {
        let id = JobId::from_u128;
        assert_eq!(next_job_id(None, id(7)), id(7));
        assert_eq!(next_job_id(Some(id(5)), id(7)), id(7));
        assert_eq!(next_job_id(Some(id(9)), id(7)), id(10));
    }
}
