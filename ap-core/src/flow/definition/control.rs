//! What the control words mean.

use std::{sync::Arc, time::Duration};

use super::{Step, StepName};
use crate::{expr::Template, flow::BranchCondition};

/// `branch` (guide §7.3).
#[derive(Clone, Debug, PartialEq)]
pub struct BranchStep {
    /// Decides.
    pub condition: BranchCondition,
    /// Steps for a true condition.
    pub if_true: Vec<Step>,
    /// Steps for a false condition.
    pub if_false: Vec<Step>,
}

/// `code` (guide §7.1).
#[derive(Clone, Debug, PartialEq)]
pub struct CodeStep {
    /// The script: an ES module that exports `code`.
    pub source: Arc<str>,
    /// What it is written in.
    pub language: CodeLanguage,
    /// What the script gets as `params`. `None`: the documented default, see [`ValidFlow`](crate::flow::ValidFlow).
    pub input: Option<Template>,
}

/// What a script is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CodeLanguage {
    /// `javascript`. The default.
    #[default]
    JavaScript,
    /// `typescript`: types are removed, not checked. The default beside `sourceCode.packageJson`, which marks a step of the
    /// reference product.
    TypeScript,
}

/// `fail`.
#[derive(Clone, Debug, PartialEq)]
pub struct FailStep {
    /// The message of the error the run ends with.
    pub message: Template,
}

/// `delay`: waits for time to pass. A wait that is long holds neither memory nor a worker.
///
/// ```json
/// { "delayMs": 60000 }
/// { "until": "{{trigger.body.at}}" }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum DelayStep {
    /// `delayMs`: must resolve to a whole number of milliseconds, 0 to 30 days.
    For(Template),
    /// `until`: must resolve to an RFC 3339 time; one that has passed is no wait. At most 30 days ahead.
    Until(Template),
}

/// `queue.enqueue` (guide §6.2): puts jobs into a queue of the project. The jobs exist if and only if the step succeeded.
///
/// ```json
/// { "queueName": "api-requests", "data": "{{trigger.body.items}}" }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct EnqueueStep {
    /// The queue: 1 to 128 visible ASCII characters.
    pub queue: String,
    /// An array makes a job of each element, at most 10,000; anything else is one job.
    pub data: Template,
}

/// `queue.process` (guide §6.2): works off the jobs of a queue, each with `item` and `index`, until it is empty.
///
/// ```json
/// { "queueName": "api-requests", "maxConcurrent": 5, "delayBetweenJobs": 1000, "maxRetries": 3,
///   "action": { "type": "http", "method": "POST", "url": "{{item.url}}", "body": "{{item.data}}" } }
/// ```
///
/// `maxConcurrent` and `delayBetweenJobs` hold for the queue over all runs and machines. Jobs are taken first in, first out.
/// A job that fails is tried again; one that fails for good becomes a dead letter and does not fail the step. `steps` may
/// stand for `action`. The settings of the action may stand in it without `settings`, as in the guide. `mode` may say
/// `FIFO`, and `settings` may hold the numbers, as in the guide's queue configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessStep {
    /// The queue.
    pub queue: String,
    /// Jobs of the queue under way at once. Default: 1. Accepted: 1 to 1,000.
    pub max_concurrent: u32,
    /// Least time between the starts of two jobs of the queue. Default: 0. Accepted: 0 to 1 h.
    pub delay_between_jobs: Duration,
    /// How often a failed job is tried again. Default: 0. Accepted: 0 to 19.
    pub max_retries: u32,
    /// What is done with a job.
    pub steps: Vec<Step>,
}

/// `loop` (guide §7.2).
#[derive(Clone, Debug, PartialEq)]
pub struct LoopStep {
    /// Must resolve to an array.
    pub items: Template,
    /// Steps of one iteration.
    pub steps: Vec<Step>,
    /// `concurrency`: iterations side by side. Results come in the order of the items all the same. Default: 1.
    /// Accepted: 1 to 100.
    pub concurrency: u32,
}

/// `parallel`: runs several lists of steps side by side and goes on when all are done.
///
/// ```json
/// { "branches": [{ "name": "crm", "steps": [ … ] }, { "name": "mail", "steps": [ … ] }],
///   "maxConcurrency": 4, "onFailure": "failFast" }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ParallelStep {
    /// What runs side by side: 1 to 100 branches.
    pub branches: Vec<ParallelBranch>,
    /// How many of them at once. Default: all. Accepted: 1 to 100.
    pub max_concurrency: u32,
    /// What a failed branch means.
    pub on_failure: JoinPolicy,
}

/// One branch of a [`ParallelStep`].
#[derive(Clone, Debug, PartialEq)]
pub struct ParallelBranch {
    /// Its name, unique within the step; `branch_1`, `branch_2`, … if it gave none.
    pub name: StepName,
    /// Its steps.
    pub steps: Vec<Step>,
}

/// What a failed branch of a [`ParallelStep`] means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinPolicy {
    /// `collect`: the others go on, and the step succeeds with what became of each.
    Collect,
    /// `failFast` (default): the others are stopped, and the step fails.
    #[default]
    FailFast,
}

/// `router`: runs the lists of steps whose conditions hold, in order.
///
/// ```json
/// { "mode": "firstMatch",
///   "branches": [{ "name": "big", "condition": { … }, "steps": [ … ] }],
///   "fallback": [ … ] }
/// ```
///
/// The reference product's `executionType` (`EXECUTE_FIRST_MATCH`, `EXECUTE_ALL_MATCH`) may stand for `mode`.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterStep {
    /// How many of the branches.
    pub mode: RouterMode,
    /// 1 to 100 branches.
    pub branches: Vec<RouterBranch>,
    /// Runs if no condition holds.
    pub fallback: Vec<Step>,
}

/// One branch of a [`RouterStep`].
#[derive(Clone, Debug, PartialEq)]
pub struct RouterBranch {
    /// Its name, unique within the step; `branch_1`, `branch_2`, … if it gave none.
    pub name: String,
    /// Whether it runs.
    pub condition: BranchCondition,
    /// Its steps.
    pub steps: Vec<Step>,
}

/// How many branches of a [`RouterStep`] run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouterMode {
    /// `allMatch`: every branch whose condition holds, one after the other; conditions are judged when the step begins.
    All,
    /// `firstMatch` (default): the first branch whose condition holds.
    #[default]
    First,
}

/// `subflow`: runs the published version of another flow of the project, whose trigger is `manual`.
///
/// ```json
/// { "flow": "flow_…", "payload": { … }, "mode": "sync" }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SubflowStep {
    /// The flow's id as text.
    pub flow: Template,
    /// What its trigger delivers. Default: `{}`.
    pub payload: Template,
    /// `mode`: `sync` (default) waits for its end and takes its reply, or its last output; `async` goes on at once.
    pub wait: bool,
}

/// `wait`: waits for somebody outside, holding neither memory nor a worker.
///
/// ```json
/// { "mode": "webhook", "timeoutMs": 604800000 }
/// { "mode": "approval", "approvers": ["ann", "bob", "cy"], "required": 2 }
/// { "mode": "barrier", "parties": ["crm", "erp"], "required": 2 }
/// ```
///
/// Who is waited for answers with a token: `$wait.name.token` (webhook), `$wait.name.parties.x.token` (barrier),
/// `$wait.name.approvers.x.approve` and `.reject` (approval); beside each `…url` is the same as an address if the host has
/// said where its resume door is. Tokens may be read before the step begins, by the steps that send them; an answer that
/// comes before the step begins is kept. A token works once, for its party, until it expires:
/// `timeoutMs` after a template read it. So let the steps that send it stand close before the `wait`, not before a long delay.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitStep {
    /// Whom it waits for.
    pub mode: WaitMode,
    /// How long it waits, and how long its tokens work. Default: 7 days. Accepted: 1 s to 30 days. A wait that is over
    /// fails with kind `timeout`.
    pub timeout: Duration,
}

/// Whom a [`WaitStep`] waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitMode {
    /// N of M people. Output: `{approved, approvals: [..], rejections: [..]}`; rejected as soon as N cannot be reached.
    Approval {
        /// Names, 1 to 32, unique.
        approvers: Vec<StepName>,
        /// How many must approve. Default: all.
        required: u32,
    },
    /// Several callers. Output: `{parties: {name: body}}`.
    Barrier {
        /// Names, 1 to 32, unique.
        parties: Vec<StepName>,
        /// How many must answer. Default: all.
        required: u32,
    },
    /// One caller. Output: the body it sent.
    Webhook,
}

/// `respond`: answers the synchronous caller and goes on, or ends the run.
#[derive(Clone, Debug, PartialEq)]
pub struct RespondStep {
    /// Status code, 200 by default; must resolve to 200 to 599.
    pub status: Template,
    /// Object of header values.
    pub headers: Template,
    /// The body: JSON, or text for a string with a `content-type` header other than JSON.
    pub body: Template,
    /// Whether the run ends here. Default: it goes on.
    pub stop: bool,
}
