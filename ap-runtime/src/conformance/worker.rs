//! Rules for workers and what they report.

use std::time::Duration;

use ap_core::{id::WorkerId, time::Timestamp};

use super::{
    Harness,
    sample::{LEASE, SECOND, TICK, at, open, worker},
};
use crate::store::WorkerRecord;

fn named(number: u128) -> WorkerRecord {
    let id = WorkerId::from_u128(number);
    WorkerRecord { id, name: format!("worker {number}"), started: at(1), capacity: 7, ..worker() }
}

/// What a worker says of itself is kept, with the time of the store's clock, until it retires.
pub async fn a_worker_is_known_until_it_retires(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let beat = async |worker: &WorkerRecord| {
        backend.heartbeat(worker, &[], LEASE).await.expect("an answer");
    };
    assert_eq!(backend.workers(LEASE).await.expect("workers"), []);
    beat(&named(2)).await;
    beat(&WorkerRecord { seen: Timestamp::EPOCH, ..named(1) }).await;
    assert_eq!(backend.workers(LEASE).await.expect("workers"), [named(1), named(2)]);
    bench.clock.advance(SECOND);
    let busy = WorkerRecord { running: 5, draining: true, ..named(2) };
    beat(&busy).await;
    let seen = WorkerRecord { seen: at(1), ..busy };
    assert_eq!(backend.workers(LEASE).await.expect("workers"), [named(1), seen.clone()]);
    backend.retire(named(1).id).await.expect("retired");
    backend.retire(named(1).id).await.expect("once more is no error");
    assert_eq!(backend.workers(LEASE).await.expect("workers"), [seen]);
}

/// A worker that no longer reports is not listed beyond the time asked for, and forgotten after a day.
pub async fn a_silent_worker_is_forgotten(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let day = Duration::from_secs(24 * 60 * 60);
    backend.heartbeat(&named(1), &[], LEASE).await.expect("an answer");
    bench.clock.advance(LEASE);
    backend.heartbeat(&named(2), &[], LEASE).await.expect("an answer");
    let ids = async |within| {
        let workers = backend.workers(within).await.expect("workers");
        workers.into_iter().map(|worker| worker.id.as_u128()).collect::<Vec<_>>()
    };
    assert_eq!(ids(LEASE).await, [1, 2]);
    assert_eq!(ids(LEASE - TICK).await, [2]);
    assert_eq!(ids(Duration::ZERO).await, [2]);
    bench.clock.advance(day - LEASE);
    assert_eq!(ids(10 * day).await, [1, 2]);
    bench.clock.advance(TICK);
    assert_eq!(ids(10 * day).await, [2]);
    assert_eq!(backend.workers(10 * day).await.expect("workers")[0].started, at(1));
}
