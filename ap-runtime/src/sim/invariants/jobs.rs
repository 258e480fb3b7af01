//! A job of a queue is neither lost nor done twice.

use std::collections::{BTreeMap, BTreeSet};

use super::Invariant;
use crate::{
    sim::history::{Call, History},
    store::{JobEnd, RunChange},
};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "jobs",
    promise: "a job is held by one run at a time and no more of them at once than the queue allows, one that is done is never \
              handed out again, and none is lost",
    source: "guide §6.2, queues; the contract of `store::QueueStore`",
    check,
};

fn check(history: &History, violations: &mut Vec<String>) {
    let (mut added, mut over) = (BTreeMap::new(), BTreeMap::new());
    let mut held: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for call in history.calls() {
        match call {
            Call::TakeJobs { request, answer: Ok(jobs), .. } => {
                let run = request.lease.run;
                for job in jobs {
                    if over.contains_key(job) {
                        violations.push(format!("{job} was handed out after its end"));
                    }
                    if held.iter().any(|(other, jobs)| *other != run && jobs.contains(job)) {
                        violations.push(format!("{job} is held by two runs"));
                    }
                }
                held.entry(run).or_default().extend(jobs.iter().copied());
                let all: usize = held.values().map(BTreeSet::len).sum();
                if added.values().all(|queue| *queue == request.queue.0) && all > request.max_concurrent as usize {
                    violations.push(format!("{all} jobs of a queue for {} are held at once", request.max_concurrent));
                }
            }
            Call::Commit { commit, answer: Ok(()), .. } => {
                added.extend(commit.jobs.iter().map(|(job, queue)| (*job, queue.0)));
                let run = commit.lease.run;
                for (job, end) in &commit.job_ends {
                    if held.get_mut(&run).is_some_and(|jobs| jobs.remove(job)) && over.insert(*job, *end).is_some() {
                        violations.push(format!("{job} ended twice"));
                    }
                }
                if matches!(commit.change, RunChange::End { .. }) {
                    held.remove(&run);
                }
            }
            _ => {}
        }
    }
    for (queue, counts) in &history.queues {
        let added = added.values().filter(|of| *of == queue).count() as u64;
        let done = over.values().filter(|end| **end == JobEnd::Done).count() as u64;
        let left = counts.waiting + counts.held + counts.dead;
        if history.queues.len() == 1 && added != done + left {
            violations.push(format!("of {added} jobs {done} are done and {left} are left"));
        }
    }
}
