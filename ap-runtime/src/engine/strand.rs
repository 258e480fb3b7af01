//! [`Strand`]: one line of execution. A run has one; parallel branches, iterations and jobs are strands of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ap_core::{
    flow::{StepName, WaitMode},
    id::{JobId, RunId},
    run::{StepError, StepPath},
    time::Timestamp,
};
use serde_json::Value;

use super::{
    ActionCall, AnswerDecision, ChildCall, CodeCall, Command, EnqueueCall, EvaluateCall, JobsCall, frame::Frame,
};

/// Names a strand within its run; the first one is [`FIRST`].
pub(super) type StrandId = u32;

/// The strand a run begins with.
pub(super) const FIRST: StrandId = 0;

/// One line of execution.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Strand {
    /// The strand that waits for this one to end, and as what.
    pub(super) parent: Option<(StrandId, usize)>,
    pub(super) frames: Vec<Frame>,
    /// Changed by [`Strands`] alone, which looks strands up by it.
    pending: Option<Pending>,
}

/// The strands of a run, to be found by what they wait for without looking at each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Strands {
    all: BTreeMap<StrandId, Strand>,
    next: StrandId,
    /// Those that wait for nothing.
    ready: BTreeSet<StrandId>,
    /// Those that wait, by the step execution they wait with.
    waiting: BTreeMap<StepPath, StrandId>,
}

impl Strands {
    /// Adds a strand that waits for nothing.
    pub(super) fn begin(&mut self, parent: Option<(StrandId, usize)>, frames: Vec<Frame>) -> StrandId {
        let id = self.next;
        self.next += 1;
        self.all.insert(id, Strand { parent, frames, pending: None });
        self.ready.insert(id);
        id
    }

    pub(super) fn get(&self, id: StrandId) -> Option<&Strand> {
        self.all.get(&id)
    }

    pub(super) fn frames_mut(&mut self, id: StrandId) -> Option<&mut Vec<Frame>> {
        self.all.get_mut(&id).map(|strand| &mut strand.frames)
    }

    /// What a strand waits for. Its step execution must stay the same.
    pub(super) fn pending_mut(&mut self, id: StrandId) -> Option<&mut Pending> {
        self.all.get_mut(&id)?.pending.as_mut()
    }

    pub(super) fn remove(&mut self, id: StrandId) -> Option<Strand> {
        self.release(id);
        self.ready.remove(&id);
        self.all.remove(&id)
    }

    /// From now on the strand waits for `pending`.
    pub(super) fn hold(&mut self, id: StrandId, pending: Pending) {
        self.release(id);
        if let Some(strand) = self.all.get_mut(&id) {
            self.ready.remove(&id);
            self.waiting.insert(pending.path().clone(), id);
            strand.pending = Some(pending);
        }
    }

    /// From now on the strand waits for nothing; returns what it waited for.
    pub(super) fn release(&mut self, id: StrandId) -> Option<Pending> {
        let pending = self.all.get_mut(&id)?.pending.take()?;
        self.waiting.remove(pending.path());
        self.ready.insert(id);
        Some(pending)
    }

    /// The first strand that waits for nothing.
    pub(super) fn first_ready(&self) -> Option<StrandId> {
        self.ready.first().copied()
    }

    /// The strand that waits with this step execution.
    pub(super) fn waiting_at(&self, path: &StepPath) -> Option<StrandId> {
        self.waiting.get(path).copied()
    }

    /// Every strand, in the order in which they began.
    pub(super) fn iter(&self) -> impl Iterator<Item = (StrandId, &Strand)> {
        self.all.iter().map(|(id, strand)| (*id, strand))
    }

    /// What strands wait for, in their order.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.all.values().filter_map(|strand| strand.pending.as_ref())
    }

    /// As [`Strands::pending`]; step executions must stay the same.
    pub(super) fn all_pending_mut(&mut self) -> impl Iterator<Item = &mut Pending> {
        self.all.values_mut().filter_map(|strand| strand.pending.as_mut())
    }
}

/// The one thing a strand waits for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Pending {
    Action(ActionCall),
    Answers(AnswerWait),
    Child(ChildWait),
    Code(CodeCall),
    Delay {
        path: StepPath,
        until: Timestamp,
    },
    Enqueue(EnqueueCall),
    /// The step has not begun.
    Evaluate(EvaluateCall),
    Join(Join),
    /// A job whose turn has not come, or that is to be tried again.
    JobStart {
        path: StepPath,
        until: Timestamp,
    },
    Retry {
        until: Timestamp,
        then: Box<Pending>,
    },
}

/// A `wait` step that waits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AnswerWait {
    pub(super) path: StepPath,
    pub(super) mode: WaitMode,
    /// Who may answer, by slot.
    pub(super) slots: BTreeMap<String, StepName>,
    pub(super) answers: BTreeMap<StepName, (AnswerDecision, Arc<Value>)>,
    pub(super) expires: Timestamp,
}

/// A `subflow` step whose run is to be started, or to end.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ChildWait {
    pub(super) call: ChildCall,
    pub(super) run: Option<RunId>,
    pub(super) expires: Timestamp,
}

/// A step that waits for strands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Join {
    pub(super) owner: StepName,
    pub(super) path: StepPath,
    pub(super) work: Work,
    /// How many may run at once.
    pub(super) limit: usize,
    /// The next one to start.
    pub(super) next: usize,
    pub(super) running: BTreeMap<usize, StrandId>,
    pub(super) failed: BTreeMap<usize, StepError>,
    /// Whether a failure leaves the others alone.
    pub(super) collect: bool,
}

/// What the strands of a [`Join`] do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Work {
    /// The branches of a `parallel`.
    Branches { count: usize },
    /// The iterations of a `loop`.
    Items(Arc<Vec<Value>>),
    /// The jobs of a queue.
    Jobs(Jobs),
}

/// What a `queue.process` step knows of its jobs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Jobs {
    pub(super) call: JobsCall,
    pub(super) max_retries: u32,
    /// Every job taken so far.
    pub(super) jobs: Vec<Job>,
    /// Whether to ask the queue for more: now, later, or not before a job ends.
    pub(super) ask: Ask,
    /// How often in a row it asked in vain.
    pub(super) in_vain: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Job {
    /// `None` once the run does not hold it any more, though it is not done: it was given back.
    pub(super) id: Option<JobId>,
    pub(super) item: Arc<Value>,
    pub(super) attempt: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    At(Timestamp),
    No,
    Now,
}

/// How long a step waits before it asks again for jobs that others hold, and how often that doubles while it asks in vain. Runs
/// that wait longer are let go of, so that asking neither fills their journal nor uses up their time.
pub(super) const ASK_AGAIN: (Duration, u32) = (Duration::from_secs(1), 5);

impl Strand {
    pub(super) const fn pending(&self) -> Option<&Pending> {
        self.pending.as_ref()
    }
}

impl Pending {
    pub(super) fn path(&self) -> &StepPath {
        match self {
            Self::Action(call) => &call.path,
            Self::Answers(wait) => &wait.path,
            Self::Child(wait) => &wait.call.path,
            Self::Code(call) => &call.path,
            Self::Enqueue(call) => &call.path,
            Self::Evaluate(call) => &call.path,
            Self::Join(join) => &join.path,
            Self::Delay { path, .. } | Self::JobStart { path, .. } => path,
            Self::Retry { then, .. } => then.path(),
        }
    }

    /// The attempt under way; a wait is none.
    pub(super) const fn attempt(&self) -> u32 {
        match self {
            Self::Action(call) => call.attempt,
            Self::Code(call) => call.attempt,
            Self::Child(ChildWait { run: None, .. }) => 1,
            _ => 0,
        }
    }

    pub(super) fn next_attempt(self) -> Self {
        match self {
            Self::Action(call) => Self::Action(ActionCall { attempt: call.attempt + 1, planned: false, ..call }),
            Self::Code(call) => Self::Code(CodeCall { attempt: call.attempt + 1, ..call }),
            other => other,
        }
    }

    /// What is to be done outside.
    pub(super) fn command(&self) -> Option<Command> {
        match (self, self.until()) {
            (_, Some(until)) => Some(Command::Wait { path: self.path().clone(), until }),
            (Self::Action(call), _) => Some(Command::RunAction(call.clone())),
            (Self::Child(ChildWait { call, run: None, .. }), _) => Some(Command::StartChild(call.clone())),
            (Self::Code(call), _) => Some(Command::RunCode(call.clone())),
            (Self::Enqueue(call), _) => Some(Command::Enqueue(call.clone())),
            (Self::Evaluate(call), _) => Some(Command::Evaluate(call.clone())),
            (Self::Join(Join { work: Work::Jobs(Jobs { call, ask: Ask::Now, .. }), .. }), _) => {
                Some(Command::TakeJobs(call.clone()))
            }
            _ => None,
        }
    }

    /// When the time comes that it waits for, if that is all that is to be done.
    pub(super) const fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Answers(AnswerWait { expires: until, .. })
            | Self::Child(ChildWait { run: Some(_), expires: until, .. })
            | Self::Delay { until, .. }
            | Self::JobStart { until, .. }
            | Self::Join(Join { work: Work::Jobs(Jobs { ask: Ask::At(until), .. }), .. })
            | Self::Retry { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Whether it waits for strands alone.
    pub(super) const fn is_for_strands(&self) -> bool {
        match self {
            Self::Join(Join { work: Work::Jobs(jobs), .. }) => matches!(jobs.ask, Ask::No),
            Self::Join(_) => true,
            _ => false,
        }
    }
}
