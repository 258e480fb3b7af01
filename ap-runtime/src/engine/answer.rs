//! Waiting for somebody outside, and for other runs: answers, approvals, barriers, subflows.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ap_core::{
    flow::{Step, StepName, SubflowStep, ValidFlow, WaitMode, WaitStep},
    id::{FlowId, RunId},
    run::{RunStatus, StepError, StepErrorKind, StepPath, StepStatus},
    store::LookupHash,
    time::Timestamp,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use super::{
    AnswerDecision, ChildCall, Command,
    begin::object,
    join::input_error,
    state::{ApplyError, RunState},
    strand::{AnswerWait, ChildWait, Pending, StrandId},
};

impl RunState {
    pub(super) fn begin_wait(&mut self, id: StrandId, wait: &WaitStep, path: &StepPath, at: Timestamp) {
        let mut pending = AnswerWait {
            path: path.clone(),
            mode: wait.mode.clone(),
            slots: BTreeMap::new(),
            answers: BTreeMap::new(),
            expires: at.saturating_add(wait.timeout),
        };
        for party in parties(&wait.mode) {
            let slot = slot_text(&self.resume.key.slot(path.as_str(), party));
            let name = StepName::new(party).unwrap_or_else(nobody);
            if let Some(answer) = self.answers.get(&slot) {
                pending.answers.insert(name.clone(), answer.clone());
            }
            pending.slots.insert(slot, name);
        }
        self.mark_paused(path);
        self.answers_in(id, pending, at);
    }

    /// Ends the wait if enough have answered, else waits on.
    fn answers_in(&mut self, id: StrandId, wait: AnswerWait, at: Timestamp) {
        match output_of(&wait) {
            Some(output) => {
                self.strands.release(id);
                self.succeed(id, &wait.path.clone(), at, Arc::new(output));
            }
            None => self.strands.hold(id, Pending::Answers(wait)),
        }
    }

    /// Takes in an answer: for the step that waits for it, or to keep until one does.
    pub(super) fn answered(
        &mut self,
        flow: &ValidFlow,
        at: Timestamp,
        slot: &str,
        answer: (AnswerDecision, Arc<Value>),
    ) {
        let waiting = self.strands.iter().find_map(|(id, strand)| match strand.pending() {
            Some(Pending::Answers(wait)) => wait.slots.get(slot).map(|name| (id, wait.clone(), name.clone())),
            _ => None,
        });
        let bytes = ap_core::json::size_of(&answer.1);
        match waiting {
            Some((id, mut wait, name)) => {
                if !self.charge(&wait.path.clone(), at, bytes) {
                    return;
                }
                let answer = self.answers.entry(slot.to_owned()).or_insert(answer).clone();
                wait.answers.entry(name).or_insert(answer);
                self.answers_in(id, wait, at);
                self.advance(flow, at);
            }
            None => match self.log_left.checked_sub(bytes) {
                Some(left) => {
                    self.log_left = left;
                    self.answers.entry(slot.to_owned()).or_insert(answer);
                }
                None => {
                    let error =
                        StepError::new(StepErrorKind::Limit, "answers to the run are larger than its log may be");
                    self.interrupted(at, RunStatus::LogSizeExceeded, &error);
                }
            },
        }
    }

    /// The time of something that a strand waits for has come.
    pub(super) fn wait_over(&mut self, flow: &ValidFlow, at: Timestamp, path: &StepPath) -> Result<(), ApplyError> {
        let timed = |pending: &Pending| pending.until().is_some();
        let Some((id, pending)) = self.take_pending(path, timed) else {
            return Err(ApplyError { reason: "a wait ended that was not under way" });
        };
        match pending {
            Pending::Answers(wait) => {
                let message = format!("nobody answered in time; {} of {} did", wait.answers.len(), wait.slots.len());
                self.fail(flow, id, path, at, StepError::new(StepErrorKind::Timeout, message));
            }
            Pending::Child(wait) => {
                self.once.extend(wait.run.map(|run| Command::CancelChild { run }));
                let error = StepError::new(StepErrorKind::Timeout, "the other flow did not end in time");
                self.fail(flow, id, path, at, error);
            }
            Pending::Delay { until, .. } => {
                self.recoveries = 0;
                self.succeed(id, path, at, Arc::new(json!({ "until": until })));
            }
            Pending::Retry { then, .. } => self.strands.hold(id, *then),
            other => self.queue_time(id, other)?,
        }
        self.advance(flow, at);
        Ok(())
    }

    pub(super) fn begin_subflow(
        &mut self,
        id: StrandId,
        (step, subflow): (&Step, &SubflowStep),
        path: &StepPath,
        at: Timestamp,
        (flow, payload): (Value, Value),
    ) -> Result<(), StepError> {
        let flow = flow.as_str().and_then(|text| text.parse::<FlowId>().ok());
        let flow = flow.ok_or_else(|| input_error("`flow` must be the id of a flow, such as `flow_…`"))?;
        let depth = self.parent().map_or(0, |parent| parent.depth) + 1;
        if depth > MAX_DEPTH {
            let message = format!("flows start each other more than {MAX_DEPTH} levels deep");
            return Err(StepError::new(StepErrorKind::Limit, message));
        }
        let payload = Arc::new(payload);
        if !self.set_input(path, at, &payload) {
            return Ok(());
        }
        let expires = at.saturating_add(step.options.timeout.unwrap_or(LONGEST_WAIT));
        let call = ChildCall { path: path.clone(), flow, payload, waits: subflow.wait, depth };
        self.strands.hold(id, Pending::Child(ChildWait { call, run: None, expires }));
        Ok(())
    }

    pub(super) fn child_started(
        &mut self,
        flow: &ValidFlow,
        at: Timestamp,
        path: &StepPath,
        run: RunId,
    ) -> Result<(), ApplyError> {
        match self.take_pending(path, |pending| matches!(pending, Pending::Child(ChildWait { run: None, .. }))) {
            Some((id, Pending::Child(wait))) => {
                self.recoveries = 0;
                if wait.call.waits {
                    self.mark_paused(path);
                    self.strands.hold(id, Pending::Child(ChildWait { run: Some(run), ..wait }));
                } else {
                    self.succeed(id, path, at, Arc::new(json!({ "run": run })));
                    self.advance(flow, at);
                }
                Ok(())
            }
            _ => Err(ApplyError { reason: "a run was started that nobody asked for" }),
        }
    }

    /// A run that a step waits for has ended. One that nobody waits for any more is ignored.
    pub(super) fn child_ended(
        &mut self,
        flow: &ValidFlow,
        at: Timestamp,
        run: RunId,
        (status, output, error): (RunStatus, &Arc<Value>, Option<&StepError>),
    ) {
        let waits = |pending: &&Pending| matches!(pending, Pending::Child(wait) if wait.run == Some(run));
        let Some(path) = self.strands.pending().find(waits).map(|pending| pending.path().clone()) else { return };
        let Some((id, _)) = self.take_pending(&path, |_| true) else { return };
        if status == RunStatus::Succeeded {
            self.succeed(id, &path, at, Arc::clone(output));
        } else {
            let why = error.map_or_else(String::new, |error| format!(": {}", error.message));
            let message = format!("the other flow ended as {status}{why}");
            let detail = json!({ "run": run, "status": status });
            self.fail(flow, id, &path, at, StepError::new(StepErrorKind::Subflow, message).with_detail(detail));
        }
        self.advance(flow, at);
    }

    /// A run that ends no longer needs the runs it waits for.
    pub(super) fn let_go_of_children(&mut self) {
        let waiting = self.strands.pending().filter_map(|pending| match pending {
            Pending::Child(ChildWait { call, run: Some(run), .. }) if call.waits => Some(*run),
            _ => None,
        });
        self.once.extend(waiting.map(|run| Command::CancelChild { run }).collect::<Vec<_>>());
    }

    /// The slots of every answer that was taken in: each has its answer for good.
    pub(crate) fn answered_slots(&self) -> Vec<LookupHash> {
        self.answers.keys().filter_map(|text| slot_of(text)).collect()
    }

    fn mark_paused(&mut self, path: &StepPath) {
        if let Some(step) = self.steps.get_mut(path) {
            step.status = StepStatus::Paused;
        }
    }
}

/// What came of a wait, if enough have answered.
fn output_of(wait: &AnswerWait) -> Option<Value> {
    let required = |required: &u32| usize::try_from(*required).unwrap_or(usize::MAX);
    match &wait.mode {
        WaitMode::Webhook => wait.answers.values().next().map(|(_, body)| (**body).clone()),
        WaitMode::Barrier { required: count, .. } => (wait.answers.len() >= required(count)).then(|| {
            let parties = wait.answers.iter().map(|(name, (_, body))| (name.to_string(), (**body).clone()));
            object("parties", Value::Object(parties.collect()))
        }),
        WaitMode::Approval { approvers, required: count } => {
            let who = |decision| {
                let said = wait.answers.iter().filter(move |(_, (said, _))| *said == decision);
                said.map(|(name, _)| Value::from(name.as_str())).collect::<Vec<_>>()
            };
            let (approvals, rejections) = (who(AnswerDecision::Approve), who(AnswerDecision::Reject));
            let approved = approvals.len() >= required(count);
            let rejected = rejections.len() > approvers.len().saturating_sub(required(count));
            (approved || rejected).then(|| {
                let answers = wait.answers.iter().map(|(name, (_, body))| (name.to_string(), (**body).clone()));
                let answers = answers.collect::<Map<_, _>>();
                json!({ "approved": approved, "approvals": approvals, "rejections": rejections, "answers": answers })
            })
        }
        _ => None,
    }
}

/// Who may answer a wait; the one caller of a webhook has no name.
pub(super) fn parties(mode: &WaitMode) -> Vec<&str> {
    match mode {
        WaitMode::Approval { approvers: names, .. } | WaitMode::Barrier { parties: names, .. } => {
            names.iter().map(StepName::as_str).collect()
        }
        _ => vec![""],
    }
}

/// The text form of a slot in events.
pub(crate) fn slot_text(slot: &LookupHash) -> String {
    URL_SAFE_NO_PAD.encode(slot.0)
}

/// The slot of a text form.
fn slot_of(text: &str) -> Option<LookupHash> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(LookupHash)
}

/// Stands for the caller of a webhook, who has no name.
#[expect(clippy::expect_used, reason = "the name is a constant that a test checks")]
fn nobody() -> StepName {
    StepName::new("_").expect("a name")
}

/// How deep flows may start each other. Unit: runs above a run.
const MAX_DEPTH: u32 = 10;
/// How long a step waits at most for another run, unless it says otherwise.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_read_back_from_its_text() {
        let slot = LookupHash(std::array::from_fn(|index| index as u8));
        assert_eq!(slot_of(&slot_text(&slot)), Some(slot));
        assert_eq!((slot_of("AAAA"), slot_of("?")), (None, None));
    }

    #[test]
    fn the_caller_without_a_name_has_a_place() {
        assert_eq!(nobody().as_str(), "_");
    }
}
