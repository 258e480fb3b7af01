//! What a failure means: another attempt, a handler, a branch that failed, the end.

use std::time::Duration;

use ap_core::{
    flow::{OnError, RetryPolicy, ValidFlow},
    run::{RunStatus, StepError, StepErrorKind, StepPath, StepStatus},
    time::Timestamp,
};

use super::{
    Command, RunEnd,
    frame::{Frame, List, Nested, Place, Then},
    state::{EffectState, RunState},
    strand::{ChildWait, Pending, Strand, StrandId, Work},
};

/// Who takes a failure.
enum Taker {
    /// The step at this path goes on or handles it: the strand, and how many of its frames are left.
    Step {
        strand: StrandId,
        depth: usize,
        path: StepPath,
    },
    /// The step that waits for this strand takes it as one failed branch, iteration or job.
    Join {
        strand: StrandId,
    },
    Nobody,
}

impl RunState {
    /// An attempt failed: tries again if the step's policy says so.
    pub(super) fn attempt_failed(
        &mut self,
        flow: &ValidFlow,
        at: Timestamp,
        (id, pending): (StrandId, Pending),
        error: &StepError,
        retry_after: Option<Duration>,
    ) {
        let path = pending.path().clone();
        let attempt = pending.attempt();
        let error = self.settle_failure(&path, error);
        let policy = self.current_step(flow, id).map(|step| step.options.retry).unwrap_or_default();
        if !error.kind.is_retryable() || attempt >= policy.max_attempts {
            return self.fail(flow, id, &path, at, error);
        }
        let wait = retry_delay(&policy, attempt, retry_after, self.entropy);
        if let Some(step) = self.steps.get_mut(&path) {
            step.error = Some(error);
            step.attempts = attempt + 1;
        }
        let then = Box::new(pending.next_attempt());
        self.strands.hold(id, Pending::Retry { until: at.saturating_add(wait), then });
    }

    /// What a failure says of the effect: an attempt that broke off may have acted. Where acting twice would be harm, its
    /// outcome is unknown, and no policy tries it again.
    fn settle_failure(&mut self, path: &StepPath, error: &StepError) -> StepError {
        let broke_off = matches!(error.kind, StepErrorKind::Interrupted | StepErrorKind::Timeout);
        let once = self.steps.get(path).and_then(|step| step.effect.as_ref()).is_some_and(|effect| !effect.repeatable);
        if broke_off && once {
            self.settle_effect(path, EffectState::Unknown);
            return StepError { kind: StepErrorKind::OutcomeUnknown, ..error.clone() };
        }
        self.settle_effect(path, EffectState::Committed);
        error.clone()
    }

    /// Records that the step at `path`, which a strand stands at, failed, and gives the failure to whoever takes it. If
    /// nobody does, the run ends where it stands, so that it can be tried again from there.
    pub(super) fn fail(&mut self, flow: &ValidFlow, id: StrandId, path: &StepPath, at: Timestamp, error: StepError) {
        let (taker, failed) = self.taker(flow, id, path);
        for path in &failed {
            self.mark_failed(path, at, &error);
        }
        match taker {
            Taker::Nobody => {
                let status = match error.kind {
                    StepErrorKind::MemoryLimit => RunStatus::MemoryLimitExceeded,
                    StepErrorKind::Internal => RunStatus::InternalError,
                    _ => RunStatus::Failed,
                };
                self.stop_all(at);
                self.finish(RunEnd { status, at, failed_step: Some(path.clone()), error: Some(error) });
            }
            Taker::Join { strand } => self.strand_failed(flow, strand, at, error),
            Taker::Step { strand, depth, path } => {
                self.stop_below(strand, at);
                self.strands.release(strand);
                let Some(frames) = self.strands.frames_mut(strand) else { return };
                frames.truncate(depth);
                let step = flow.step(path.step_name());
                if step.is_some_and(|step| !step.handler().is_empty()) {
                    let Some(owner) = step.map(|step| step.name.clone()) else { return };
                    let then = Then::Handled;
                    let nested = Nested { owner, path, place: Place::Handler, iteration: None, then };
                    frames.push(Frame::new(List::Nested(nested)));
                } else {
                    self.proceed(strand, path);
                }
            }
        }
    }

    /// Walks outwards from the failed step. Also returns every step that fails with it.
    fn taker(&self, flow: &ValidFlow, id: StrandId, path: &StepPath) -> (Taker, Vec<StepPath>) {
        let (mut strand_id, mut path) = (id, path.clone());
        let mut failed = vec![path.clone()];
        let Some(mut strand) = self.strands.get(id) else { return (Taker::Nobody, failed) };
        let mut depth = strand.frames.len();
        loop {
            // `path` stands in the frame number `depth - 1`.
            let takes = flow.step(path.step_name()).is_some_and(|step| step.options.on_error != OnError::Fail);
            if takes {
                return (Taker::Step { strand: strand_id, depth, path }, failed);
            }
            // Outwards, past the step whose handler this list is: it does not handle what its own handler did.
            loop {
                let frame = depth.checked_sub(1).and_then(|last| strand.frames.get(last));
                let Some(nested) = frame.and_then(Frame::nested) else { return (Taker::Nobody, failed) };
                path = nested.path.clone();
                let in_handler = nested.place == Place::Handler;
                if !in_handler {
                    failed.push(path.clone());
                }
                depth -= 1;
                if depth == 0 {
                    let Some((above, _)) = strand.parent else { return (Taker::Nobody, failed) };
                    if self.takes_as_branch(above) {
                        failed.pop();
                        return (Taker::Join { strand: strand_id }, failed);
                    }
                    let Some(next) = self.strands.get(above) else { return (Taker::Nobody, failed) };
                    (strand_id, strand) = (above, next);
                    depth = strand.frames.len();
                }
                if !in_handler {
                    break;
                }
            }
        }
    }

    /// Whether the step a strand waits with collects failures of its branches, or retries jobs.
    fn takes_as_branch(&self, id: StrandId) -> bool {
        match self.strands.get(id).and_then(Strand::pending) {
            Some(Pending::Join(join)) => join.collect || matches!(join.work, Work::Jobs(_)),
            _ => false,
        }
    }

    fn mark_failed(&mut self, path: &StepPath, at: Timestamp, error: &StepError) {
        if let Some(step) = self.steps.get_mut(path) {
            step.status = StepStatus::Failed;
            step.finished = Some(at);
            step.error = Some(error.clone());
        }
    }

    /// Stops every strand below `id`: what it was doing is canceled.
    pub(super) fn stop_below(&mut self, id: StrandId, at: Timestamp) {
        let children = self.children(id);
        for child in &children {
            self.stop_below(*child, at);
            self.stop_pending(*child, at);
        }
        self.let_go_of_jobs(id);
        children.into_iter().for_each(|child| drop(self.strands.remove(child)));
    }

    /// The strands that a strand waits for.
    fn children(&self, id: StrandId) -> Vec<StrandId> {
        match self.strands.get(id).and_then(Strand::pending) {
            Some(Pending::Join(join)) => join.running.values().copied().collect(),
            _ => Vec::new(),
        }
    }

    /// Removes a strand and every one below it.
    pub(super) fn forget(&mut self, id: StrandId) {
        self.children(id).into_iter().for_each(|child| self.forget(child));
        self.strands.remove(id);
    }

    /// Stops what a strand was doing: a run it waits for is canceled with it.
    fn stop_pending(&mut self, id: StrandId, at: Timestamp) {
        let error = StepError::new(StepErrorKind::Canceled, "it was stopped because something beside it failed");
        self.mark_stopped(id, at, &error);
        if let Some(Pending::Child(ChildWait { call, run: Some(run), .. })) =
            self.strands.get(id).and_then(Strand::pending)
            && call.waits
        {
            let run = *run;
            self.once.push(Command::CancelChild { run });
        }
    }

    /// Marks what a strand was doing as failed: the step it stands at, and those around it within the strand.
    pub(super) fn mark_stopped(&mut self, id: StrandId, at: Timestamp, error: &StepError) {
        let Some(strand) = self.strands.get(id) else { return };
        let within = strand.frames.iter().skip(1).filter_map(Frame::nested).map(|nested| nested.path.clone());
        let paths: Vec<StepPath> = within.chain(strand.pending().map(|pending| pending.path().clone())).collect();
        for path in paths {
            let Some(step) = self.steps.get_mut(&path) else { continue };
            if matches!(step.status, StepStatus::Failed | StepStatus::Succeeded) {
                continue;
            }
            step.status = StepStatus::Failed;
            step.finished = Some(at);
            step.error = Some(error.clone());
            if let Some(effect) = step.effect.as_mut().filter(|effect| effect.state == EffectState::Planned) {
                effect.state = EffectState::Unknown;
            }
        }
    }
}

/// How long to wait after attempt number `attempt`; see [`RetryPolicy`].
pub(super) fn retry_delay(policy: &RetryPolicy, attempt: u32, retry_after: Option<Duration>, entropy: u32) -> Duration {
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let grown = policy.initial_delay.as_secs_f64() * policy.multiplier.powi(exponent);
    let capped = grown.min(policy.max_delay.as_secs_f64());
    // Half the delay is fixed, the other half is scaled by the entropy: spread without collapsing to zero.
    let jittered = capped * (0.5 + 0.5 * f64::from(entropy) / f64::from(u32::MAX));
    let own = Duration::try_from_secs_f64(jittered).unwrap_or(policy.max_delay);
    own.max(retry_after.unwrap_or_default().min(policy.max_delay))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_respect_the_peer() {
        let policy = RetryPolicy {
            max_attempts: 10,
            initial_delay: Duration::from_secs(1),
            multiplier: 2.0,
            max_delay: Duration::from_secs(5),
        };
        let whole = |attempt| retry_delay(&policy, attempt, None, u32::MAX);
        assert_eq!([whole(1), whole(2), whole(3), whole(4)].map(|wait| wait.as_secs()), [1, 2, 4, 5]);
        assert_eq!(retry_delay(&policy, 1, None, 0), Duration::from_millis(500));
        assert_eq!(retry_delay(&policy, 1, Some(Duration::from_secs(3)), 0), Duration::from_secs(3));
        assert_eq!(retry_delay(&policy, 1, Some(Duration::from_secs(3_600)), 0), Duration::from_secs(5));
        assert_eq!(retry_delay(&policy, u32::MAX, None, u32::MAX), Duration::from_secs(5));
    }
}
