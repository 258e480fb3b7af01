//! [`Relay`]: what the wake-ups between processes share. Hints travel as text, a letter and an id each, with spaces between.

use std::{collections::BTreeSet, fmt, time::Duration};

use ap_core::id::RunId;
use futures_util::stream::BoxStream;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::wakeup::{Hint, Wakeup, heard};

/// Hands hints to a task that sends them, and out what another task receives. Both tasks end with it.
pub(crate) struct Relay {
    outgoing: mpsc::Sender<Hint>,
    incoming: broadcast::Sender<Hint>,
    _stop: DropGuard,
}

impl Relay {
    /// A relay, what its sending task takes, and what its receiving task puts in; both end when `stop` is cancelled.
    pub(crate) fn new(stop: CancellationToken) -> (Self, Outgoing, broadcast::Sender<Hint>) {
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let incoming = broadcast::Sender::new(QUEUE);
        (Self { outgoing, incoming: incoming.clone(), _stop: stop.drop_guard() }, Outgoing(queue), incoming)
    }
}

impl Wakeup for Relay {
    fn notify(&self, hint: Hint) {
        // Those in this process need no server to hear of it; they may hear of it twice. An error means that nobody listens.
        let _ = self.incoming.send(hint);
        if self.outgoing.try_send(hint).is_err() {
            tracing::debug!("a hint was dropped");
        }
    }

    fn listen(&self) -> BoxStream<'static, Hint> {
        heard(self.incoming.subscribe())
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("free", &self.outgoing.capacity()).finish_non_exhaustive()
    }
}

/// Hints that wait to be sent.
pub(crate) struct Outgoing(mpsc::Receiver<Hint>);

impl Outgoing {
    /// What waits, as one message; equal hints once. `None` when there will be no more.
    pub(crate) async fn next(&mut self) -> Option<String> {
        let mut hints = BTreeSet::from([key(self.0.recv().await?)]);
        while hints.len() < AT_ONCE
            && let Ok(hint) = self.0.try_recv()
        {
            hints.insert(key(hint));
        }
        let hints: Vec<Hint> = hints.into_iter().map(hint).collect();
        Some(encode(&hints))
    }
}

/// Hints in an order.
const fn key(hint: Hint) -> (u8, u128) {
    match hint {
        Hint::Ended(run) => (0, run.as_u128()),
        Hint::Ready => (1, 0),
        Hint::Signaled(run) => (2, run.as_u128()),
    }
}

const fn hint((kind, run): (u8, u128)) -> Hint {
    match kind {
        0 => Hint::Ended(RunId::from_u128(run)),
        1 => Hint::Ready,
        _ => Hint::Signaled(RunId::from_u128(run)),
    }
}

/// Writes hints down.
fn encode(hints: &[Hint]) -> String {
    let one = |hint: &Hint| match hint {
        Hint::Ended(run) => format!("e{:032x}", run.as_u128()),
        Hint::Ready => "r".to_owned(),
        Hint::Signaled(run) => format!("s{:032x}", run.as_u128()),
    };
    hints.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Reads hints. What is not understood, say from a newer release, is worth a look at everything.
pub(crate) fn decode(text: &str) -> impl Iterator<Item = Hint> {
    text.split_ascii_whitespace().take(MOST).map(|word| {
        let run = || {
            let digits = word.get(1..).filter(|digits| digits.len() == 32)?;
            u128::from_str_radix(digits, 16).ok().map(RunId::from_u128)
        };
        match word.as_bytes().first() {
            Some(b'e') => run().map_or(Hint::Ready, Hint::Ended),
            Some(b's') => run().map_or(Hint::Ready, Hint::Signaled),
            _ => Hint::Ready,
        }
    })
}

/// How long an attempt to reach a server is put off that follows a failed one.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);
/// Hints that wait to be sent, or for a slow listener, at most.
const QUEUE: usize = 4_096;
/// Hints in one message, which PostgreSQL allows 8,000 bytes.
const AT_ONCE: usize = 200;
/// Hints read from one message.
const MOST: usize = 1_024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hints_come_back(runs: Vec<(u8, u128)>) {
            let hint = |(kind, run): (u8, u128)| match kind % 3 {
                0 => Hint::Ended(RunId::from_u128(run)),
                1 => Hint::Signaled(RunId::from_u128(run)),
                _ => Hint::Ready,
            };
            let hints: Vec<Hint> = runs.into_iter().map(hint).collect();
            prop_assert_eq!(decode(&encode(&hints)).collect::<Vec<_>>(), hints);
        }

        #[test]
        fn any_text_is_read(text in "\\PC{0,200}") {
            decode(&text).for_each(drop);
        }
    }

    #[test]
    fn what_is_not_understood_is_worth_a_look() {
        for text in ["x", "e", "e12", "sé", "e+0000000000000000000000000000001"] {
            assert_eq!(decode(text).collect::<Vec<_>>(), [Hint::Ready], "{text}");
        }
        assert_eq!(decode("  ").count(), 0);
    }
}
