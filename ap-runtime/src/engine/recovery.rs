//! New owners, second tries, and ends that come from outside.

use ap_core::{
    flow::ValidFlow,
    run::{RunStatus, StepError, StepErrorKind, StepPath, StepStatus},
    time::Timestamp,
};

use super::{
    RunEnd,
    frame::{Frame, Place},
    state::{ApplyError, EffectState, RunState},
    strand::{Pending, StrandId},
};

impl RunState {
    /// Another owner took over: what was being performed and must not happen twice has an unknown outcome.
    pub(super) fn recovered(&mut self, flow: &ValidFlow, at: Timestamp) {
        self.recoveries += 1;
        if self.recoveries > MAX_RECOVERIES {
            let message = format!("the process stopped {MAX_RECOVERIES} times while it executed the same step");
            let error = StepError::new(StepErrorKind::Internal, message);
            return self.interrupted(at, RunStatus::InternalError, &error);
        }
        let message = "the process stopped while this step was acting, and whether it acted is unknown";
        self.fail_unknown(flow, at, message);
    }

    /// Fails every step that may have acted and must not act twice.
    fn fail_unknown(&mut self, flow: &ValidFlow, at: Timestamp, message: &str) {
        for path in self.unknown_effects() {
            if self.end.is_some() {
                return;
            }
            let Some((id, _)) = self.take_pending(&path, |pending| matches!(pending, Pending::Action(_))) else {
                continue;
            };
            self.settle_effect(&path, EffectState::Unknown);
            self.fail(flow, id, &path, at, StepError::new(StepErrorKind::OutcomeUnknown, message));
        }
        self.advance(flow, at);
    }

    /// Calls that the ledger has as begun, and that must not be repeated.
    fn unknown_effects(&self) -> Vec<StepPath> {
        let planned = self.strands.pending().filter_map(|pending| match pending {
            Pending::Action(call) if call.planned => Some(&call.path),
            _ => None,
        });
        let once = |path: &&StepPath| {
            self.steps.get(*path).and_then(|step| step.effect.as_ref()).is_some_and(|effect| !effect.repeatable)
        };
        planned.filter(once).cloned().collect()
    }

    /// Something outside the flow ends the run.
    pub(super) fn interrupted(&mut self, at: Timestamp, status: RunStatus, error: &StepError) {
        let failed_step = self.strands.pending().next().map(|pending| pending.path().clone());
        let ids: Vec<StrandId> = self.strands.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.mark_stopped(id, at, error);
        }
        self.finish(RunEnd { status, at, failed_step, error: Some(error.clone()) });
    }

    /// The run ends: whatever else was under way is stopped.
    pub(super) fn stop_all(&mut self, at: Timestamp) {
        let error = StepError::new(StepErrorKind::Canceled, "it was stopped because the run ended");
        let ids: Vec<StrandId> = self.strands.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.mark_stopped(id, at, &error);
        }
    }

    /// Goes on after the end, from where every strand stood: what failed begins anew, what was stopped goes on.
    pub(super) fn retried(&mut self, flow: &ValidFlow, at: Timestamp) -> Result<(), ApplyError> {
        let ended = self.end.take().map(|end| end.status);
        let again = [
            RunStatus::Canceled,
            RunStatus::Failed,
            RunStatus::InternalError,
            RunStatus::MemoryLimitExceeded,
            RunStatus::QuotaExceeded,
            RunStatus::Timeout,
        ];
        // Without an end of its own it was ended by the store: replaced before it began, or because it could not be continued.
        if ended.is_some_and(|status| !again.contains(&status)) {
            return Err(ApplyError { reason: "a run was tried again that had not failed" });
        }
        self.recoveries = 0;
        self.executions_left = self.limits.step_executions;
        let mut open = Vec::new();
        for (_, strand) in self.strands.iter() {
            let around = strand.frames.iter().filter_map(Frame::nested).filter(|nested| nested.place != Place::Handler);
            open.extend(around.map(|nested| nested.path.clone()));
            open.extend(strand.pending().map(|pending| pending.path().clone()));
        }
        for pending in self.strands.all_pending_mut() {
            // The run it waited for was canceled with it.
            if let Pending::Child(wait) = pending {
                wait.run = None;
            }
        }
        let ids: Vec<StrandId> = self.strands.iter().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.ask_anew(id));
        for path in open {
            if let Some(step) = self.steps.get_mut(&path).filter(|step| step.status == StepStatus::Failed) {
                step.status = StepStatus::Running;
                step.finished = None;
                step.error = None;
            }
        }
        self.fail_unknown(flow, at, "the run ended while this step was acting, and whether it acted is unknown");
        Ok(())
    }
}

/// A run whose owners keep dying is given up, so that it cannot take the process down for ever.
const MAX_RECOVERIES: u32 = 10;
