//! [`Bounded`]: what a server sends, judged by what each message announces, before anybody makes room for it.
//!
//! The client library puts a whole message into memory before it hands out any of it, and keeps what a server says beside.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Bounds;

/// How much a server may send, and whether it sent more. Clones share the verdict.
#[derive(Clone, Debug)]
pub(super) struct Allowance {
    /// Unit: bytes, of one message with its head.
    message: u64,
    /// Unit: bytes, of everything.
    total: u64,
    exceeded: Arc<AtomicBool>,
}

impl Allowance {
    /// What a result within `bounds` can take at most. A value has a length of 4 bytes before it, where the bounds count the
    /// name of its column, of one byte or more; a row has 7 bytes before it.
    pub(super) fn of(bounds: Bounds) -> Self {
        let number = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let rows = number(bounds.max_rows).saturating_mul(7);
        let values = number(bounds.max_bytes).saturating_mul(5);
        Self {
            message: number(bounds.max_bytes).saturating_add(BESIDE_MESSAGE_BYTES),
            total: values.saturating_add(rows).saturating_add(BESIDE_BYTES),
            exceeded: Arc::default(),
        }
    }

    /// Whether the server sent more.
    pub(super) fn is_exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }
}

/// A stream from a server, from its first message on.
#[derive(Debug)]
pub(super) struct Bounded<S> {
    stream: S,
    allowance: Allowance,
    /// The kind and length of a message, as far as they have come.
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// How much of the message is still to come.
    rest: u64,
}

impl<S> Bounded<S> {
    pub(super) const fn new(stream: S, allowance: Allowance) -> Self {
        Self { stream, allowance, head: [0; HEAD_BYTES], head_bytes: 0, rest: 0 }
    }

    /// Whether what came is within the allowance.
    fn admits(&mut self, mut bytes: &[u8]) -> bool {
        let Some(left) = self.allowance.total.checked_sub(bytes.len() as u64) else { return false };
        self.allowance.total = left;
        while let Some((first, behind)) = bytes.split_first() {
            if self.rest > 0 {
                let skipped = usize::try_from(self.rest).unwrap_or(usize::MAX).min(bytes.len());
                self.rest -= skipped as u64;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            if let Some(slot) = self.head.get_mut(self.head_bytes) {
                *slot = *first;
            }
            self.head_bytes += 1;
            bytes = behind;
            if self.head_bytes == HEAD_BYTES {
                let [_, length @ ..] = self.head;
                // It counts itself, and not the kind. One that cannot be is for the client to refuse.
                let length = u64::from(u32::from_be_bytes(length));
                if length.saturating_add(1) > self.allowance.message {
                    return false;
                }
                (self.head_bytes, self.rest) = (0, length.saturating_sub(4));
            }
        }
        true
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if self.admits(buf.filled().get(before..).unwrap_or_default()) {
            return Poll::Ready(Ok(()));
        }
        buf.set_filled(before);
        self.allowance.exceeded.store(true, Ordering::Relaxed);
        Poll::Ready(Err(io::Error::other("more than was asked for")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The kind of a message, and its length.
const HEAD_BYTES: usize = 5;
/// What a message has beside values: the lengths of 1,600 columns, or the words of an error.
const BESIDE_MESSAGE_BYTES: u64 = 64 << 10;
/// What a server says beside rows: its settings, notices, the columns.
const BESIDE_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    fn allowance(message: u64, total: u64) -> Allowance {
        Allowance { message, total, exceeded: Arc::default() }
    }

    fn message(kind: u8, body: usize) -> Vec<u8> {
        let length = u32::try_from(body + 4).expect("short").to_be_bytes();
        [&[kind], &length[..], &vec![0xff; body]].concat()
    }

    /// Whether all of `sent` comes through, in pieces of `piece` bytes.
    fn comes_through(sent: &[u8], piece: usize, allowance: &Allowance) -> bool {
        let mut bounded = Bounded::new(tokio::io::empty(), allowance.clone());
        sent.chunks(piece).all(|piece| bounded.admits(piece))
    }

    #[test]
    fn messages_are_judged_by_what_they_announce() {
        for piece in [1, 3, 5, 1_000] {
            let sent = |body| [message(b'S', 3), message(b'D', body)].concat();
            assert!(comes_through(&sent(94), piece, &allowance(99, 1_000)), "{piece}");
            assert!(!comes_through(&sent(95), piece, &allowance(99, 1_000)), "{piece}");
            // Nothing of it has to come.
            assert!(!comes_through(&[b'D', 0x7f, 0xff, 0xff, 0xff], piece, &allowance(99, 1_000)), "{piece}");
        }
        let many = message(b'S', 5).repeat(10);
        assert!(comes_through(&many, 7, &allowance(99, 100)));
        assert!(!comes_through(&many, 7, &allowance(99, 99)));
    }

    #[test]
    fn a_result_within_its_bounds_is_allowed() {
        let bounds = Bounds { max_rows: 2, max_bytes: 100, timeout: Duration::ZERO };
        let Allowance { message, total, .. } = Allowance::of(bounds);
        assert_eq!((message, total), (100 + (64 << 10), 500 + 14 + (1 << 20)));
        let none = Bounds { max_rows: usize::MAX, max_bytes: usize::MAX, timeout: Duration::ZERO };
        assert_eq!(Allowance::of(none).total, u64::MAX);
    }

    #[tokio::test]
    async fn what_is_too_large_is_not_read_and_known() {
        let allowance = allowance(8, 1_000);
        let sent = [message(b'S', 3), message(b'D', 4)].concat();
        let mut bounded = Bounded::new(sent.as_slice(), allowance.clone());
        let mut read = Vec::new();
        assert!(bounded.read_to_end(&mut read).await.is_err() && read.is_empty());
        assert!(allowance.is_exceeded());
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes: Vec<u8>, piece in 1_usize..20, message in 0_u64..100) {
            let allowance = allowance(message, 1_000);
            prop_assert_eq!(comes_through(&bytes, piece, &allowance), comes_through(&bytes, 1_000, &allowance));
        }
    }
}
