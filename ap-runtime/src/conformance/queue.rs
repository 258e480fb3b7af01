//! Rules for queues of jobs.

use std::time::Duration;

use ap_core::store::StoreError;
use futures_util::future::join_all;

use super::{
    Harness,
    sample::{
        END, LEASE, PARK, SECOND, START, TICK, at, audit, change, claim_all, claim_one, hash, job, jobs_of, lease,
        open, published, running, signal, trail,
    },
};
use crate::store::{
    Backend, FlowRecord, HeldJob, HeldJobs, JobEnd, JobRequest, Lease, QueueCounts, RunChange, RunCommit,
};

/// A run that has put these jobs into queue 1 and holds none.
async fn producer(backend: &dyn Backend, flow: &FlowRecord, jobs: impl IntoIterator<Item = u128>) -> Lease {
    let held = running(backend, 1_000, flow).await;
    let jobs = jobs.into_iter().map(|number| job(number, 1)).collect();
    backend.commit(RunCommit { jobs, ..RunCommit::new(held, RunChange::Stay) }, &[]).await.expect("a commit");
    held
}

async fn take(backend: &dyn Backend, request: JobRequest) -> HeldJobs {
    backend.take_jobs(request).await.expect("an answer")
}

/// The numbers of the jobs that the run holds after taking up to `limit`.
async fn take_up_to(backend: &dyn Backend, limit: u32, lease: Lease) -> Vec<u128> {
    numbers(&take(backend, jobs_of(1, limit, lease)).await)
}

fn numbers(held: &HeldJobs) -> Vec<u128> {
    held.jobs.iter().map(|job| job.id.as_u128()).collect()
}

async fn counts(backend: &dyn Backend, flow: &FlowRecord) -> (u64, u64, u64) {
    let QueueCounts { waiting, held, dead } = backend.queue_counts(hash(1), flow.project).await.expect("counts");
    (waiting, held, dead)
}

async fn end_jobs(backend: &dyn Backend, lease: Lease, ends: &[(u128, JobEnd)]) {
    let job_ends = ends.iter().map(|(number, end)| (job(*number, 1).id, *end)).collect();
    backend.commit(RunCommit { job_ends, ..RunCommit::new(lease, RunChange::Stay) }, &[]).await.expect("a commit");
}

/// Jobs are taken in order of id, as many as are wanted, and come back as they were put in.
pub async fn jobs_are_taken_oldest_first(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    producer(backend, &flow, [3, 1, 4, 2]).await;
    let taker = running(backend, 1, &flow).await;
    let expected = [1, 2].map(|number| HeldJob { id: job(number, 1).id, start: START, sealed: job(number, 1).sealed });
    let held = take(backend, jobs_of(1, 2, taker)).await;
    assert_eq!(held, HeldJobs { jobs: expected.into(), waiting: 2 });
    assert_eq!(counts(backend, &flow).await, (2, 2, 0));
    let other = running(backend, 2, &flow).await;
    assert_eq!(take_up_to(backend, 10, other).await, [3, 4]);
    assert_eq!(take(backend, jobs_of(2, 10, other)).await, HeldJobs { jobs: Vec::new(), waiting: 0 });
    assert_eq!(take_up_to(backend, 0, running(backend, 3, &flow).await).await, [0_u128; 0]);
}

/// Asking again returns what the holder has, and takes only what it lacks; another holder or run has jobs of its own.
pub async fn taking_again_returns_the_same_jobs(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    producer(backend, &flow, 1..=9).await;
    let taker = running(backend, 1, &flow).await;
    for _ in 0..3 {
        assert_eq!(take_up_to(backend, 2, taker).await, [1, 2]);
    }
    let second_step = JobRequest { holder: hash(2), ..jobs_of(1, 2, taker) };
    assert_eq!(numbers(&take(backend, second_step).await), [3, 4]);
    assert_eq!(take_up_to(backend, 3, taker).await, [1, 2, 5]);
    assert_eq!(take_up_to(backend, 1, taker).await, [1, 2, 5], "nothing is taken away");
    end_jobs(backend, taker, &[(2, JobEnd::Done)]).await;
    assert_eq!(take_up_to(backend, 3, taker).await, [1, 5, 6]);
    let other = running(backend, 2, &flow).await;
    assert_eq!(take_up_to(backend, 2, other).await, [7, 8]);
    assert_eq!(counts(backend, &flow).await, (1, 7, 0));
}

/// A job that goes back stands where it stood, and others can have it.
pub async fn a_job_that_goes_back_is_taken_first_again(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    producer(backend, &flow, 1..=4).await;
    let (one, two) = (running(backend, 1, &flow).await, running(backend, 2, &flow).await);
    assert_eq!(take_up_to(backend, 3, one).await, [1, 2, 3]);
    end_jobs(backend, one, &[(1, JobEnd::Back), (2, JobEnd::Done), (4, JobEnd::Back)]).await;
    assert_eq!(counts(backend, &flow).await, (2, 1, 0), "one that the run does not hold is passed over");
    assert_eq!(take_up_to(backend, 1, two).await, [1]);
    assert_eq!(take_up_to(backend, 3, one).await, [3, 4]);
}

/// No more jobs of a queue are held at once, over all runs, than a request says.
pub async fn a_queue_holds_no_more_than_its_limit(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    producer(backend, &flow, 1..=9).await;
    let (one, two) = (running(backend, 1, &flow).await, running(backend, 2, &flow).await);
    let request = |lease| JobRequest { max_concurrent: 3, ..jobs_of(1, 2, lease) };
    assert_eq!(numbers(&take(backend, request(one)).await), [1, 2]);
    let held = take(backend, request(two)).await;
    assert_eq!((numbers(&held), held.waiting), (vec![3], 6));
    end_jobs(backend, one, &[(1, JobEnd::Done), (2, JobEnd::Dead)]).await;
    assert_eq!(numbers(&take(backend, request(two)).await), [3, 4]);
    assert_eq!(numbers(&take(backend, request(one)).await), [5]);
    assert_eq!(counts(backend, &flow).await, (4, 3, 1));
    let third = running(backend, 3, &flow).await;
    assert_eq!(numbers(&take(backend, request(third)).await), [0_u128; 0]);
}

/// Jobs of a queue start no closer together than the spacing, over all runs and requests.
pub async fn starts_of_jobs_are_spaced(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    producer(backend, &flow, 1..=9).await;
    let (one, two) = (running(backend, 1, &flow).await, running(backend, 2, &flow).await);
    let starts = async |spacing, limit, lease| {
        let held = take(backend, JobRequest { spacing, ..jobs_of(1, limit, lease) }).await;
        held.jobs.into_iter().map(|job| job.start).collect::<Vec<_>>()
    };
    assert_eq!(starts(5 * SECOND, 2, one).await, [at(0), at(5)]);
    assert_eq!(starts(5 * SECOND, 1, two).await, [at(10)]);
    bench.clock.advance(7 * SECOND);
    assert_eq!(starts(5 * SECOND, 3, one).await, [at(0), at(5), at(15)], "what is held keeps its start");
    bench.clock.advance(13 * SECOND - TICK);
    assert_eq!(starts(5 * SECOND, 2, two).await, [at(10), at(20)]);
    bench.clock.advance(7 * SECOND + TICK);
    assert_eq!(starts(Duration::ZERO, 4, two).await, [at(10), at(20), at(27), at(27)]);
}

/// A job that is done is gone; one that failed for good is a dead letter until it is driven again.
pub async fn a_dead_job_can_be_driven_again(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    producer(backend, &flow, 1..=5).await;
    let taker = running(backend, 1, &flow).await;
    assert_eq!(take_up_to(backend, 4, taker).await, [1, 2, 3, 4]);
    end_jobs(backend, taker, &[(1, JobEnd::Dead), (2, JobEnd::Done), (3, JobEnd::Dead), (4, JobEnd::Dead)]).await;
    assert_eq!(counts(backend, &flow).await, (1, 0, 3));
    let redrive =
        async |limit| backend.redrive(hash(1), flow.project, limit, &[audit(u128::from(limit), flow.project)]).await;
    assert_eq!(redrive(2).await.expect("an answer"), 2);
    assert_eq!(counts(backend, &flow).await, (3, 0, 1));
    assert_eq!(take_up_to(backend, 10, taker).await, [1, 3, 5], "they come before younger jobs");
    assert_eq!(redrive(9).await.expect("an answer"), 1);
    assert_eq!(redrive(8).await.expect("an answer"), 0);
    assert_eq!(trail(backend, flow.project).await, [2, 8, 9]);
    let again = redrive(8).await;
    assert!(matches!(again, Err(StoreError::AlreadyExists { .. })), "{again:?}");
    assert_eq!(take_up_to(backend, 10, taker).await, [1, 3, 4, 5]);
}

/// When a run ends, what it still holds waits again, in its old place.
pub async fn jobs_go_back_when_their_run_ends(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    producer(backend, &flow, 1..=6).await;
    let (one, two) = (running(backend, 1, &flow).await, running(backend, 2, &flow).await);
    assert_eq!(take_up_to(backend, 3, one).await, [1, 2, 3]);
    assert_eq!(take_up_to(backend, 1, two).await, [4]);
    let mut end = RunCommit::new(one, END);
    end.job_ends = vec![(job(2, 1).id, JobEnd::Done)];
    backend.commit(end, &[]).await.expect("a commit");
    assert_eq!(counts(backend, &flow).await, (4, 1, 0));
    assert_eq!(take_up_to(backend, 4, two).await, [1, 3, 4, 5]);
}

/// What a run holds stays with it while it is paused, given back or lost, and whoever claims it has it.
pub async fn jobs_stay_with_a_run_that_goes_on(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let producer = producer(backend, &flow, 1..=3).await;
    change(backend, producer, END).await;
    let held = running(backend, 1, &flow).await;
    assert_eq!(take_up_to(backend, 2, held).await, [1, 2]);
    change(backend, held, RunChange::Release).await;
    let held = claim_one(backend).await;
    change(backend, held, PARK).await;
    assert_eq!(counts(backend, &flow).await, (1, 2, 0));
    backend.signal(signal(1, 1, held), &[]).await.expect("an answer");
    claim_one(backend).await;
    bench.clock.advance(LEASE);
    let held = claim_one(backend).await;
    assert_eq!(take_up_to(backend, 2, held).await, [1, 2]);
    end_jobs(backend, held, &[(1, JobEnd::Done)]).await;
    assert_eq!(counts(backend, &flow).await, (1, 1, 0));
}

/// Only the holder of a run takes jobs for it.
pub async fn taking_jobs_needs_the_lease(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    producer(backend, &flow, 1..=3).await;
    let paused = running(backend, 1, &flow).await;
    change(backend, paused, PARK).await;
    let ended = running(backend, 2, &flow).await;
    change(backend, ended, END).await;
    let held = running(backend, 3, &flow).await;
    for wrong in [paused, ended, Lease { epoch: 2, ..held }, Lease { epoch: 0, ..held }, lease(4, flow.project, 1)] {
        let fenced = backend.take_jobs(jobs_of(1, 2, wrong)).await;
        assert!(matches!(fenced, Err(StoreError::Fenced)), "{wrong:?}: {fenced:?}");
    }
    assert_eq!(counts(backend, &flow).await, (3, 0, 0));
    bench.clock.advance(2 * LEASE);
    assert_eq!(take_up_to(backend, 1, held).await, [1], "an expired lease that nobody claimed is still good");
}

/// A run ends the jobs it holds and no others; one it does not hold is passed over.
pub async fn a_run_ends_its_own_jobs_only(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    producer(backend, &flow, 1..=3).await;
    let (one, two) = (running(backend, 1, &flow).await, running(backend, 2, &flow).await);
    assert_eq!(take_up_to(backend, 1, one).await, [1]);
    assert_eq!(take_up_to(backend, 1, two).await, [2]);
    end_jobs(backend, one, &[(2, JobEnd::Done), (3, JobEnd::Dead), (1, JobEnd::Done), (9, JobEnd::Done)]).await;
    assert_eq!(counts(backend, &flow).await, (1, 1, 0));
    assert_eq!(take_up_to(backend, 2, two).await, [2, 3]);
}

/// However many take at the same time, each job goes to one of them, and the limit holds.
pub async fn concurrent_takes_never_share_a_job(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    producer(backend, &flow, 1..=40).await;
    let mut takers = Vec::new();
    for number in 1..=8 {
        takers.push(running(backend, number, &flow).await);
    }
    let request = |lease| JobRequest { max_concurrent: 20, ..jobs_of(1, 3, lease) };
    let taken = join_all(takers.iter().map(|lease| take(backend, request(*lease)))).await;
    let mut taken: Vec<u128> = taken.iter().flat_map(numbers).collect();
    taken.sort_unstable();
    assert_eq!(taken, (1..=20).collect::<Vec<u128>>());
    assert_eq!(claim_all(backend).await, []);
}
