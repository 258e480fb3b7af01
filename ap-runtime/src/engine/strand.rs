//! [`Strand`]: one line of execution. A run has one; parallel branches, iterations and jobs are strands of their own.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ap_core::{
    flow::{StepName, WaitMode},
    id::{JobId, RunId},
    run::{StepError, StepPath},
    time::Timestamp,
};
use serde_json::Value;

use super::{ActionCall, AnswerDecision, ChildCall, CodeCall, Command, EnqueueCall, JobsCall, frame::Frame};

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
    pub(super) pending: Option<Pending>,
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
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) item: Arc<Value>,
    pub(super) attempt: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    At(Timestamp),
    No,
    Now,
}

/// How long a step waits before it asks again for jobs that others hold.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Strand {
    pub(super) const fn new(parent: Option<(StrandId, usize)>, frame: Vec<Frame>) -> Self {
        Self { parent, frames: frame, pending: None }
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
        let wait = |path: &StepPath, until| Some(Command::Wait { path: path.clone(), until });
        match self {
            Self::Action(call) => Some(Command::RunAction(call.clone())),
            Self::Answers(AnswerWait { path, expires, .. }) => wait(path, *expires),
            Self::Child(ChildWait { call, run: None, .. }) => Some(Command::StartChild(call.clone())),
            Self::Child(ChildWait { call, expires, .. }) => wait(&call.path, *expires),
            Self::Code(call) => Some(Command::RunCode(call.clone())),
            Self::Delay { path, until } | Self::JobStart { path, until } => wait(path, *until),
            Self::Enqueue(call) => Some(Command::Enqueue(call.clone())),
            Self::Join(Join { path, work: Work::Jobs(jobs), .. }) => match jobs.ask {
                Ask::Now => Some(Command::TakeJobs(jobs.call.clone())),
                Ask::At(until) => wait(path, until),
                Ask::No => None,
            },
            Self::Join(_) => None,
            Self::Retry { then, until } => wait(then.path(), *until),
        }
    }
}
