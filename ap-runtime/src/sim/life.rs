//! [`Life`]: whether a worker lives, sleeps or is dead, and the gate all of its acts pass.

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
};

use ap_core::time::Timestamp;
use tokio_util::sync::CancellationToken;

use super::clock::TrueClock;

/// One incarnation of a worker.
///
/// A worker reaches the world through its seams alone. So it is killed by closing them: whatever it awaits there never
/// comes, which is all that anybody outside can see of `SIGKILL`. What it computes meanwhile reaches nobody.
#[derive(Debug)]
pub(super) struct Life {
    /// Which worker.
    pub(super) worker: usize,
    /// How often it was started before.
    pub(super) incarnation: u64,
    state: Mutex<State>,
    died: CancellationToken,
    clock: TrueClock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Alive,
    AsleepUntil(Timestamp),
    Dead,
}

impl Life {
    pub(super) fn new(worker: usize, incarnation: u64, clock: TrueClock) -> Arc<Self> {
        let (state, died) = (Mutex::new(State::Alive), CancellationToken::new());
        Arc::new(Self { worker, incarnation, state, died, clock })
    }

    /// Nothing the worker does from now on reaches anybody.
    pub(super) fn kill(&self) {
        self.set(State::Dead);
        self.died.cancel();
    }

    /// Suspends the worker, as a long pause of its machine does; it goes on afterwards and knows nothing of it.
    pub(super) fn suspend_until(&self, until: Timestamp) {
        if self.state() != State::Dead {
            self.set(State::AsleepUntil(until));
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state() == State::Dead
    }

    /// Returns once the worker is dead.
    pub(super) async fn died(&self) {
        self.died.cancelled().await;
    }

    /// Every act of the worker goes through here: at once if it lives, later if it sleeps, never if it is dead.
    pub(super) async fn pass(&self) {
        loop {
            match self.state() {
                State::Alive => return,
                State::Dead => return pending().await,
                State::AsleepUntil(until) if until <= self.clock.now() => self.set(State::Alive),
                State::AsleepUntil(until) => self.clock.sleep_until(until).await,
            }
        }
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}
