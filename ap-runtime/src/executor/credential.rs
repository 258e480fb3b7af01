//! What a run does with its connections: looks them up again, refuses what they are not for, shows them to scripts.

use std::{future::Future, sync::Arc, time::Duration};

use super::{
    attempt,
    driver::{Begun, Driver, Stopped},
    script,
    values::StepValues,
};
use crate::{
    credentials::piece_of,
    engine::{ActionCall, AttemptOutcome, CodeCall},
    journal::RunError,
    store::RunChange,
};

impl Driver {
    /// Looks the connections up again: again and again if something is under way, which must not be broken off because the
    /// store is out of reach.
    async fn refresh_credentials(&mut self) -> Result<(), RunError> {
        loop {
            match self.credentials.refresh(&self.kernel, &self.keys).await {
                Err(RunError::Store(error))
                    if error.is_retryable()
                        && !self.under_way.is_empty()
                        && !self.signals.lost.is_cancelled()
                        && !self.signals.stop.is_cancelled() =>
                {
                    tracing::warn!(run = %self.lease.run, %error, "connections are looked up again");
                }
                done => return done,
            }
            let until = self.kernel.clock.now().saturating_add(LOOK_UP_AGAIN);
            tokio::select! {
                biased;
                () = self.signals.lost.cancelled() => {}
                () = self.signals.stop.cancelled() => {}
                () = self.kernel.clock.sleep_until(until) => {}
            }
        }
    }

    /// Looks the connections up before calls that act outside, and refuses the first one that names a connection which is not
    /// for its piece: nothing was planned or sent, and the audit says so.
    pub(super) async fn refuse_unbound(&mut self, calls: &[ActionCall]) -> Result<Option<Begun>, RunError> {
        let outside: Vec<&ActionCall> = calls.iter().filter(|call| self.effect_of(call).is_some()).collect();
        if outside.is_empty() {
            return Ok(None);
        }
        self.refresh_credentials().await?;
        for call in outside {
            let Some(piece) = piece_of(&self.flow, call.step.as_str()) else { continue };
            let run = self.lease.run;
            let denied = self.credentials.denied((&self.kernel, &self.keys), (piece, &call.input), |event| {
                event.with_resource(run).with_detail("step", call.path.as_str())
            })?;
            if let Some((error, audit)) = denied {
                self.carry.audit.push(audit);
                let stopped = self.refuse((call.path.clone(), call.attempt), error).await?;
                return Ok(Some(stopped.map_or(Begun::Again, Begun::Stopped)));
            }
        }
        Ok(None)
    }

    /// Carries an action out. Before one that acts outside, the connections it uses are made ready.
    pub(super) fn action(
        &self,
        call: ActionCall,
        outside: bool,
        values: Option<Arc<StepValues>>,
    ) -> impl Future<Output = AttemptOutcome> + Send + use<> {
        let (kernel, flow, keys) = (Arc::clone(&self.kernel), Arc::clone(&self.flow), Arc::clone(&self.keys));
        let mut loader = self.credentials.clone();
        let place = (self.lease.project, self.lease.run);
        async move {
            if !outside {
                return attempt::action(&kernel, &flow, (&call, place, values), &loader.current()).await;
            }
            // What the audit says.
            let step = call.step.as_str();
            let (named, ready) = if script::source_of(&flow, &call).is_some() {
                let named = loader.named(step, &call.input);
                (named, loader.ready_for_script(&kernel, &keys, (step, &call.input)).await)
            } else {
                let piece = piece_of(&flow, step).unwrap_or_default();
                let named = loader.named_for(piece, step, &call.input);
                (named, loader.ready(&kernel, &keys, (piece, &call.input)).await)
            };
            match ready {
                Ok(credentials) => {
                    let credentials = Arc::new(credentials.limited_to(named));
                    let outcome = attempt::action(&kernel, &flow, (&call, place, values), &credentials).await;
                    // The driver does not know tokens that were got for this attempt.
                    attempt::masked(&kernel, outcome, &credentials)
                }
                Err(failed) => AttemptOutcome::failed(failed.error, failed.retry_after),
            }
        }
    }

    /// Begins a script. What it may use of connections, and what it is shown, is in the audit before.
    pub(super) async fn begin_code(&mut self, call: CodeCall) -> Result<Option<Stopped>, RunError> {
        let uses = !self.credentials.named(call.path.step_name(), &call.params).is_empty();
        if uses {
            self.refresh_credentials().await?;
            let used = (&call.path, call.attempt, &*call.params);
            self.carry.audit.extend(self.credentials.audit_uses(&self.kernel, &self.keys, used)?);
            self.carry.audit.extend(self.credentials.audit_reveals(&self.kernel, &self.keys, used)?);
            if let Some(stopped) = self.commit(RunChange::Stay).await? {
                return Ok(Some(stopped));
            }
        }
        let (path, attempt, timeout) = (call.path.clone(), call.attempt, call.timeout);
        let (kernel, keys) = (Arc::clone(&self.kernel), Arc::clone(&self.keys));
        let mut loader = self.credentials.clone();
        let (place, values) = ((self.lease.project, self.lease.run), self.values());
        let store = Some(Arc::clone(&values));
        let outcome = async move {
            // What the audit says.
            let named = loader.named(call.path.step_name(), &call.params);
            let ready = if uses {
                loader.ready_to_reveal(&kernel, &keys, (call.path.step_name(), &call.params)).await
            } else {
                Ok(loader.current())
            };
            match ready {
                Ok(credentials) => {
                    let credentials = Arc::new(credentials.limited_to(named));
                    let outcome = script::run(&kernel, &call, (place, None, store), &credentials).await;
                    if uses { attempt::masked(&kernel, outcome, &credentials) } else { outcome }
                }
                Err(failed) => AttemptOutcome::failed(failed.error, failed.retry_after),
            }
        };
        self.begin((path, attempt, timeout), Some(values), outcome);
        Ok(None)
    }
}

/// How long a driver rests that could not look something up.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(1);
