//! [`Shared`]: what all workers of a world have in common: time, the store, the plan, and the record of what happened.

use std::{
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ap_core::{
    store::{BackendError, StoreError},
    time::Timestamp,
};

use tokio::sync::mpsc;

use super::{
    clock::{Offset, TrueClock},
    dice::Dice,
    fault::{Fault, Plan},
    history::Observed,
    life::Life,
    mutant::MutantStore,
};

/// What all workers of a world have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) truth: TrueClock,
    pub(super) start: Timestamp,
    pub(super) store: MutantStore,
    pub(super) store_clock: Arc<Offset>,
    /// One per worker.
    pub(super) host_clocks: Vec<Arc<Offset>>,
    /// Latencies, and what a torn batch keeps.
    pub(super) dice: Dice,
    pub(super) plan: Plan,
    pub(super) ledger: Mutex<Ledger>,
    /// Resume tokens that reached somebody outside.
    pub(super) tokens: mpsc::UnboundedSender<String>,
}

/// What has happened.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) observed: Vec<(Duration, Observed)>,
    /// Whether points count: the world is set up.
    pub(super) armed: bool,
    pub(super) points: u64,
    out_of_reach: Option<Timestamp>,
    /// How far host clocks were set back altogether.
    pub(super) set_back: Duration,
}

/// What follows once a call was carried out.
#[derive(Debug, Default)]
pub(super) struct Aftermath(Vec<(u64, Fault)>);

impl Shared {
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, observed: Observed) {
        let at = self.truth.now().saturating_since(self.start);
        let mut ledger = self.ledger();
        if ledger.armed {
            ledger.observed.push((at, observed));
        }
    }

    /// Kills a worker.
    pub(super) fn kill(&self, life: &Life) {
        life.kill();
        self.store.crashed();
    }

    /// A reading call reaches the store.
    pub(super) async fn read(&self, life: &Life) -> Result<(), StoreError> {
        life.pass().await;
        if self.is_out_of_reach() { Err(unavailable()) } else { Ok(()) }
    }

    /// A call sets out that changes something: a point. Returns when it is carried out, or not at all if it never is.
    ///
    /// # Errors
    /// The passing failure that the caller is told of instead.
    pub(super) async fn set_out(&self, life: &Life, to_store: bool) -> Result<Aftermath, StoreError> {
        life.pass().await;
        if !self.ledger().armed {
            return Ok(Aftermath::default());
        }
        self.truth.sleep(Duration::from_millis(self.dice.below(LATENCY_MS))).await;
        if life.is_dead() {
            // It was under way when the worker died. It may arrive all the same.
            return if self.dice.one_in(2) { Ok(Aftermath::default()) } else { pending().await };
        }
        let point = {
            let mut ledger = self.ledger();
            ledger.points += 1;
            ledger.points - 1
        };
        let faults = self.plan.faults.get(&point).cloned().unwrap_or_default();
        let mut aftermath = Aftermath::default();
        for fault in faults {
            self.record(Observed::Faulted { point, worker: life.worker, fault });
            match fault {
                Fault::CrashBefore => {
                    self.kill(life);
                    return pending().await;
                }
                Fault::CrashTorn => {
                    self.kill(life);
                    if self.dice.one_in(2) {
                        return pending().await;
                    }
                }
                Fault::FailBefore => return Err(unavailable()),
                Fault::Delay(time) => self.truth.sleep(time).await,
                Fault::SuspendBefore(time) => {
                    life.suspend_until(self.truth.now().saturating_add(time));
                    life.pass().await;
                }
                Fault::HostClock(millis) => self.set_host_clock(life, millis),
                Fault::StoreClock(time) => self.store_clock.jump(micros(time)),
                Fault::Outage(time) => {
                    self.ledger().out_of_reach = Some(self.truth.now().saturating_add(time));
                }
                Fault::CrashAfter | Fault::FailAfter | Fault::SuspendAfter(_) => aftermath.0.push((point, fault)),
            }
        }
        if to_store && self.is_out_of_reach() { Err(unavailable()) } else { Ok(aftermath) }
    }

    /// The answer to a call is on its way back. Returns when the caller has it, or not at all if it never does.
    ///
    /// # Errors
    /// The passing failure that the caller is told of instead.
    pub(super) async fn come_back(&self, life: &Life, aftermath: Aftermath) -> Result<(), StoreError> {
        let mut told = Ok(());
        for (_, fault) in aftermath.0 {
            match fault {
                Fault::CrashAfter => self.kill(life),
                Fault::FailAfter => told = Err(unavailable()),
                Fault::SuspendAfter(time) => life.suspend_until(self.truth.now().saturating_add(time)),
                _ => {}
            }
        }
        life.pass().await;
        told
    }

    fn is_out_of_reach(&self) -> bool {
        self.ledger().out_of_reach.is_some_and(|until| self.truth.now() < until)
    }

    fn set_host_clock(&self, life: &Life, millis: i64) {
        if let Some(offset) = self.host_clocks.get(life.worker) {
            offset.jump(millis.saturating_mul(1_000));
        }
        if millis < 0 {
            self.ledger().set_back += Duration::from_millis(millis.unsigned_abs());
        }
    }
}

/// The failure that is worth another try.
pub(super) fn unavailable() -> StoreError {
    StoreError::Unavailable(BackendError::new("a simulated failure"))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Calls take from no time to one millisecond less than this, so that concurrent ones overtake each other.
const LATENCY_MS: u64 = 4;
