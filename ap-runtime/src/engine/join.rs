//! Steps that wait for strands: `parallel`, loops with concurrency, `queue.process`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ap_core::{
    flow::{JoinPolicy, LoopStep, ParallelStep, ProcessStep, RetryPolicy, Step, StepKind, ValidFlow},
    id::JobId,
    run::{StepError, StepErrorKind, StepPath, StepStatus},
    time::Timestamp,
};
use serde_json::{Map, Value, json};

use super::{
    Command, JobsCall, TakenJob,
    begin::object,
    environment::status_text,
    failure::retry_delay,
    frame::{Frame, Items, Iteration, List, Nested, Place, Then},
    state::{ApplyError, EffectState, RunState},
    strand::{ASK_AGAIN, Ask, Job, Jobs, Join, Pending, Strand, StrandId, Work},
};
use crate::store::JobEnd;

impl RunState {
    pub(super) fn begin_parallel(&mut self, id: StrandId, step: &Step, parallel: &ParallelStep, path: &StepPath) {
        let work = Work::Branches { count: parallel.branches.len() };
        let limit = usize::try_from(parallel.max_concurrency).unwrap_or(usize::MAX);
        self.begin_join(id, step, path, (work, limit, parallel.on_failure == JoinPolicy::Collect));
    }

    pub(super) fn begin_iterations(
        &mut self,
        id: StrandId,
        (step, inner): (&Step, &LoopStep),
        path: &StepPath,
        items: Arc<Vec<Value>>,
    ) {
        let limit = usize::try_from(inner.concurrency).unwrap_or(usize::MAX);
        self.begin_join(id, step, path, (Work::Items(items), limit, false));
    }

    pub(super) fn begin_process(&mut self, id: StrandId, step: &Step, process: &ProcessStep, path: &StepPath) {
        let call = JobsCall {
            path: path.clone(),
            queue: process.queue.clone(),
            max_concurrent: process.max_concurrent,
            spacing: process.delay_between_jobs,
        };
        let limit = usize::try_from(process.max_concurrent).unwrap_or(usize::MAX);
        let jobs = Jobs { call, max_retries: process.max_retries, jobs: Vec::new(), ask: Ask::Now, in_vain: 0 };
        self.begin_join(id, step, path, (Work::Jobs(jobs), limit, false));
    }

    fn begin_join(&mut self, id: StrandId, step: &Step, path: &StepPath, (work, limit, collect): (Work, usize, bool)) {
        let join = Join {
            owner: step.name.clone(),
            path: path.clone(),
            work,
            limit: limit.max(1),
            next: 0,
            running: BTreeMap::new(),
            failed: BTreeMap::new(),
            collect,
        };
        self.strands.hold(id, Pending::Join(join));
        self.start_more(id);
    }

    /// Starts branches or iterations as long as there are any and room for them. Jobs are started as they are taken.
    fn start_more(&mut self, id: StrandId) {
        loop {
            let Some(join) = self.join_mut(id) else { return };
            let total = match &join.work {
                Work::Branches { count } => *count,
                Work::Items(items) => items.len(),
                Work::Jobs(_) => return,
            };
            if join.next >= total || join.running.len() >= join.limit {
                return;
            }
            let number = join.next;
            join.next += 1;
            self.start_branch(id, number);
        }
    }

    fn start_branch(&mut self, id: StrandId, number: usize) -> Option<StrandId> {
        let join = self.join_mut(id)?;
        let (place, iteration) = match &join.work {
            Work::Branches { .. } => (number, None),
            Work::Items(items) => (0, Some(Iteration { items: Items::List(Arc::clone(items)), index: number })),
            Work::Jobs(jobs) => {
                let item = Arc::clone(&jobs.jobs.get(number)?.item);
                (0, Some(Iteration { items: Items::Job(item), index: number }))
            }
        };
        let (owner, path) = (join.owner.clone(), join.path.clone());
        let nested = Nested { owner, path, place: Place::List(place), iteration, then: Then::EndStrand };
        let strand = self.strands.begin(Some((id, number)), vec![Frame::new(List::Nested(nested))]);
        self.join_mut(id)?.running.insert(number, strand);
        Some(strand)
    }

    fn join_mut(&mut self, id: StrandId) -> Option<&mut Join> {
        match self.strands.pending_mut(id)? {
            Pending::Join(join) => Some(join),
            _ => None,
        }
    }

    /// A strand came to the end of its list.
    pub(super) fn strand_ended(&mut self, flow: &ValidFlow, id: StrandId, at: Timestamp) {
        let Some((above, number)) = self.strands.remove(id).and_then(|strand| strand.parent) else { return };
        let Some(join) = self.join_mut(above) else { return };
        join.running.remove(&number);
        if let Work::Jobs(jobs) = &mut join.work {
            jobs.ask = Ask::Now;
            if let Some(job) = jobs.jobs.get(number).and_then(|job| job.id) {
                self.once.push(Command::EndJob { job, end: JobEnd::Done });
            }
        }
        self.join_on(flow, above, at);
    }

    /// A strand failed, and the step that waits for it takes that as one failed branch or job.
    pub(super) fn strand_failed(&mut self, flow: &ValidFlow, id: StrandId, at: Timestamp, error: StepError) {
        self.stop_below(id, at);
        let entropy = self.entropy;
        let Some((above, number)) = self.strands.remove(id).and_then(|strand| strand.parent) else { return };
        let Some(path) = self.join_mut(above).map(|join| join.path.clone()) else { return };
        let again = error.kind.is_retryable() && !self.is_uncertain(&path, number);
        let Some(join) = self.join_mut(above) else { return };
        join.running.remove(&number);
        if let Work::Jobs(jobs) = &mut join.work {
            let max_retries = jobs.max_retries;
            let Some(job) = jobs.jobs.get_mut(number) else { return };
            if again && job.attempt <= max_retries {
                let wait = retry_delay(&RetryPolicy::default(), job.attempt, None, entropy);
                job.attempt += 1;
                return self.start_job(above, number, &path, at.saturating_add(wait), at);
            }
            let job = job.id;
            jobs.ask = Ask::Now;
            self.once.extend(job.map(|job| Command::EndJob { job, end: JobEnd::Dead }));
        }
        if let Some(join) = self.join_mut(above) {
            join.failed.insert(number, error);
        }
        self.join_on(flow, above, at);
    }

    /// Goes on with a join after something in it ended.
    fn join_on(&mut self, flow: &ValidFlow, id: StrandId, at: Timestamp) {
        self.start_more(id);
        let Some(join) = self.join_mut(id) else { return };
        let idle = match &join.work {
            Work::Jobs(jobs) => jobs.ask == Ask::No,
            Work::Branches { .. } | Work::Items(_) => true,
        };
        if !idle || !join.running.is_empty() {
            return;
        }
        let join = join.clone();
        self.strands.release(id);
        let output = match &join.work {
            Work::Branches { .. } => self.parallel_output(flow, &join),
            Work::Items(items) => self.loop_output(flow, join.owner.as_str(), &join.path, items.len()),
            Work::Jobs(jobs) => {
                let mut output = self.loop_output(flow, join.owner.as_str(), &join.path, jobs.jobs.len());
                if let Value::Object(members) = &mut output {
                    let ended = jobs.jobs.iter().filter(|job| job.id.is_some()).count();
                    members.insert("processed".to_owned(), Value::from(ended - join.failed.len()));
                    members.insert("failed".to_owned(), Value::from(join.failed.len()));
                }
                output
            }
        };
        self.succeed(id, &join.path, at, Arc::new(output));
    }

    /// Jobs that the step at `path` has been given and holds, or has ended.
    pub(crate) fn known_jobs(&self, path: &StepPath) -> BTreeSet<JobId> {
        let waiting = self.strands.waiting_at(path).and_then(|id| self.strands.get(id));
        match waiting.and_then(Strand::pending) {
            Some(Pending::Join(Join { work: Work::Jobs(jobs), .. })) => {
                jobs.jobs.iter().filter_map(|job| job.id).collect()
            }
            _ => BTreeSet::new(),
        }
    }

    pub(super) fn jobs_taken(
        &mut self,
        flow: &ValidFlow,
        at: Timestamp,
        path: &StepPath,
        (taken, more): (&[TakenJob], bool),
    ) -> Result<(), ApplyError> {
        let asked = self.strands.waiting_at(path);
        let Some((id, join)) = asked.and_then(|id| Some((id, self.join_mut(id)?))) else {
            return Err(ApplyError { reason: "jobs were taken that nobody asked for" });
        };
        let Work::Jobs(jobs) = &mut join.work else {
            return Err(ApplyError { reason: "jobs were taken that nobody asked for" });
        };
        let known: BTreeSet<JobId> = jobs.jobs.iter().filter_map(|job| job.id).collect();
        let first = jobs.jobs.len();
        let new = taken.iter().filter(|new| !known.contains(&new.id)).collect::<Vec<_>>();
        jobs.jobs.extend(new.iter().map(|new| Job { id: Some(new.id), item: Arc::clone(&new.data), attempt: 1 }));
        // Whoever gets nothing asks again when one of its own ends, or after a while if all are held by others.
        jobs.ask = match (more, new.is_empty() && join.running.is_empty()) {
            (true, true) => {
                let (first, doublings) = ASK_AGAIN;
                let wait = first.saturating_mul(2_u32.saturating_pow(jobs.in_vain.min(doublings)));
                jobs.in_vain = jobs.in_vain.saturating_add(1);
                Ask::At(at.saturating_add(wait))
            }
            _ => {
                jobs.in_vain = 0;
                Ask::No
            }
        };
        let bytes = new.iter().map(|new| ap_core::json::size_of(&new.data)).sum();
        let starts: Vec<Timestamp> = new.iter().map(|new| new.start).collect();
        if !self.charge(path, at, bytes) {
            return Ok(());
        }
        for (number, start) in (first..).zip(starts) {
            self.start_job(id, number, path, start, at);
        }
        self.join_on(flow, id, at);
        self.advance(flow, at);
        Ok(())
    }

    /// Whether a job may have acted without anybody knowing: doing it again could double that.
    fn is_uncertain(&self, path: &StepPath, number: usize) -> bool {
        let job = path.in_iteration(number, "");
        let inside = self.steps.range(job.clone()..).take_while(|(path, _)| path.as_str().starts_with(job.as_str()));
        let mut effects = inside.filter_map(|(_, step)| step.effect.as_ref());
        effects.any(|effect| effect.state == EffectState::Unknown && !effect.repeatable)
    }

    /// What becomes of the jobs a step holds that is stopped: those that may have acted become dead letters, others go back.
    pub(super) fn let_go_of_jobs(&mut self, id: StrandId) {
        let Some(Pending::Join(join)) = self.strands.get(id).and_then(Strand::pending) else { return };
        let Work::Jobs(jobs) = &join.work else { return };
        let ends: Vec<Command> = join
            .running
            .keys()
            .filter_map(|number| {
                let job = jobs.jobs.get(*number)?.id?;
                let end = if self.is_uncertain(&join.path, *number) { JobEnd::Dead } else { JobEnd::Back };
                Some(Command::EndJob { job, end })
            })
            .collect();
        self.once.extend(ends);
    }

    /// The run had ended, and goes on: the jobs it held were given back with the end. It asks for jobs anew.
    pub(super) fn ask_anew(&mut self, id: StrandId) {
        let Some(Join { work: Work::Jobs(jobs), running, .. }) = self.join_mut(id) else { return };
        jobs.ask = Ask::Now;
        let gone = std::mem::take(running);
        for number in gone.keys() {
            if let Some(job) = jobs.jobs.get_mut(*number) {
                job.id = None;
            }
        }
        gone.values().for_each(|strand| self.forget(*strand));
    }

    /// Starts a job now or, if its turn has not come, then.
    fn start_job(&mut self, id: StrandId, number: usize, path: &StepPath, start: Timestamp, at: Timestamp) {
        let Some(strand) = self.start_branch(id, number) else { return };
        if start > at {
            self.strands.hold(strand, Pending::JobStart { path: path.in_iteration(number, ""), until: start });
        }
    }

    /// `{ branches: { name: { status, output, error? } } }`, the output being that of the branch's last step.
    fn parallel_output(&self, flow: &ValidFlow, join: &Join) -> Value {
        let Some(StepKind::Parallel(parallel)) = flow.step(join.owner.as_str()).map(|step| &step.kind) else {
            return Value::Null;
        };
        let branches = parallel.branches.iter().enumerate().map(|(number, branch)| {
            let mut member = Map::new();
            let status = if join.failed.contains_key(&number) { StepStatus::Failed } else { StepStatus::Succeeded };
            member.insert("status".to_owned(), Value::from(status_text(status)));
            let last = branch
                .steps
                .iter()
                .rev()
                .find_map(|step| self.steps.get(&join.path.beside(step.name.as_str()))?.output.as_deref());
            member.insert("output".to_owned(), last.cloned().unwrap_or_default());
            if let Some(error) = join.failed.get(&number) {
                member.insert("error".to_owned(), json!({ "kind": error.kind, "message": error.message }));
            }
            (branch.name.to_string(), Value::Object(member))
        });
        object("branches", Value::Object(branches.collect()))
    }

    /// `{ iterations: [ { stepName: { output, status } } ] }`, with the steps directly in the body.
    pub(super) fn loop_output(&self, flow: &ValidFlow, owner: &str, path: &StepPath, count: usize) -> Value {
        let body = flow.step(owner).and_then(|step| step.nested(0)).unwrap_or_default();
        let iterations = (0..count).map(|iteration| {
            let steps = body.iter().filter_map(|step| {
                let state = self.steps.get(&path.in_iteration(iteration, step.name.as_str()))?;
                let output = state.output.as_deref().cloned().unwrap_or_default();
                let mut member = Map::new();
                member.insert("output".to_owned(), output);
                member.insert("status".to_owned(), Value::from(status_text(state.status)));
                Some((step.name.to_string(), Value::Object(member)))
            });
            Value::Object(steps.collect())
        });
        object("iterations", Value::Array(iterations.collect()))
    }

    /// A queue's waiting time is over, or a job's turn has come.
    pub(super) fn queue_time(&mut self, id: StrandId, pending: Pending) -> Result<(), ApplyError> {
        match pending {
            // The strand goes on by itself now that nothing keeps it.
            Pending::JobStart { .. } => Ok(()),
            Pending::Join(mut join) => {
                if let Work::Jobs(jobs) = &mut join.work {
                    jobs.ask = Ask::Now;
                }
                self.strands.hold(id, Pending::Join(join));
                Ok(())
            }
            _ => Err(ApplyError { reason: "a wait ended that was not under way" }),
        }
    }

    pub(super) fn enqueued(&mut self, flow: &ValidFlow, at: Timestamp, path: &StepPath) -> Result<(), ApplyError> {
        match self.take_pending(path, |pending| matches!(pending, Pending::Enqueue(_))) {
            Some((id, Pending::Enqueue(call))) => {
                self.recoveries = 0;
                self.succeed(id, path, at, Arc::new(json!({ "queue": call.queue, "jobs": call.jobs.len() })));
                self.advance(flow, at);
                Ok(())
            }
            _ => Err(ApplyError { reason: "jobs were put into a queue that nobody asked for" }),
        }
    }
}

/// The error of a step whose settings resolve to something impossible.
pub(super) fn input_error(message: impl Into<String>) -> StepError {
    StepError::new(StepErrorKind::Input, message)
}
