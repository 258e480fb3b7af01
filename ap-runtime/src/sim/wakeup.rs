//! [`SimWakeup`]: hints between the workers of a world. Some are lost, as a contract of theirs allows.

use std::sync::Arc;

use futures_util::stream::BoxStream;

use super::{life::Life, shared::Shared};
use crate::wakeup::{Hint, LocalWakeup, Wakeup};

/// Hints of one worker.
#[derive(Debug)]
pub(super) struct SimWakeup {
    pub(super) shared: Arc<Shared>,
    pub(super) life: Arc<Life>,
    pub(super) hints: Arc<LocalWakeup>,
}

impl Wakeup for SimWakeup {
    fn notify(&self, hint: Hint) {
        if !self.life.is_dead() && !self.shared.dice.one_in(LOST) {
            self.hints.notify(hint);
        }
    }

    fn listen(&self) -> BoxStream<'static, Hint> {
        self.hints.listen()
    }
}

/// One hint in this many is lost.
const LOST: u64 = 5;
