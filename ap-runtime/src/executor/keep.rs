//! What is kept of a run: what its attempts come back with, and how it ends if nothing can be added to it any more.

use ap_core::run::{RunStatus, StepError, StepErrorKind};
use tokio_util::sync::CancellationToken;

use super::{attempt, driver::Driver, worker::Worker};
use crate::{
    engine::AttemptOutcome,
    journal::RunError,
    store::{Lease, RunChange, RunCommit},
    subject::RunKeys,
    wakeup::Hint,
};

impl Driver {
    /// What the run's own payloads are sealed under.
    pub(super) fn sealing(&self) -> RunKeys<'_> {
        RunKeys::new(&self.keys, self.subject.as_deref())
    }

    pub(super) fn redacted(&self, outcome: AttemptOutcome) -> AttemptOutcome {
        attempt::masked(&self.kernel, outcome, &self.credentials.current())
    }

    /// Makes a file of an output that is too large for the journal.
    pub(super) fn kept(&mut self, outcome: AttemptOutcome) -> Result<AttemptOutcome, RunError> {
        let AttemptOutcome::Succeeded { output, console, .. } = outcome else { return Ok(outcome) };
        let ids = (self.lease.project, self.lease.run);
        let bytes = ap_core::json::size_of(&output);
        let spilled = match self.kernel.spill(self.sealing(), ids, bytes, &*output) {
            Ok(spilled) => spilled,
            Err(RunError::Seal(_)) => {
                let error = StepError::new(StepErrorKind::Limit, "the output is too large to be kept");
                return Ok(AttemptOutcome::failed(error, None));
            }
            Err(error) => return Err(error),
        };
        let spilled = spilled.map(|(file, spilled)| {
            self.carry.files.push(file);
            spilled
        });
        Ok(AttemptOutcome::Succeeded { output, spilled, console })
    }
}

impl Worker {
    /// Ends a run whose journal cannot be read: nothing can be appended to it, so only its status changes. The run that may
    /// wait for it is told.
    pub(super) async fn end_broken(&self, lease: Lease, lost: &CancellationToken) {
        let change = RunChange::End { status: RunStatus::InternalError, at: self.kernel.clock.now() };
        let mut commit = RunCommit::new(lease, change);
        match self.kernel.broken_child_ended(lease).await {
            Ok(told) => commit.signals.extend(told),
            Err(RunError::Store(error)) => {
                // Whoever claims the run when its lease has expired ends it.
                tracing::error!(run = %lease.run, %error, "a broken run could not be ended");
                return;
            }
            Err(error) => tracing::error!(run = %lease.run, %error, "nobody can be told of the end of a broken run"),
        }
        let parent = commit.signals.first().map(|signal| signal.run);
        if let Err(error) = self.kernel.commit(commit, &[], lost).await {
            tracing::error!(run = %lease.run, %error, "the status of a broken run could not be written");
            return;
        }
        parent.into_iter().for_each(|parent| self.kernel.wakeup.notify(Hint::Signaled(parent)));
        self.kernel.wakeup.notify(Hint::Ended(lease.run));
    }

    /// Ends a run whose key is destroyed: nothing can be appended to it. Whoever waits for it is about the same subject.
    pub(super) async fn end_erased(&self, lease: Lease, lost: &CancellationToken) {
        let change = RunChange::End { status: RunStatus::Canceled, at: self.kernel.clock.now() };
        match self.kernel.commit(RunCommit::new(lease, change), &[], lost).await {
            Ok(()) => self.kernel.wakeup.notify(Hint::Ended(lease.run)),
            // Whoever claims the run when its lease has expired ends it.
            Err(error) => tracing::error!(run = %lease.run, %error, "an erased run could not be ended"),
        }
    }
}
