//! Keeping credentials out of the host's log.
//!
//! What the SDK logs holds ids and reasons, no payload and no secret. What the host and other libraries log beside it may
//! say more: the message of an HTTP client, the text of a database's error. [`masked`] is the last sieve before the log's
//! end: it knows the credentials of every run under way in this process, of any runtime, and well-known kinds of tokens.

use std::io;

pub use ap_crypto::redact::MaskingWriter;

/// Masks what goes to `writer`: the credentials of all runs under way in this process, in every encoding of
/// [`ap_crypto::redact`], and whatever looks like a token of a well-known kind.
///
/// Nothing has to be told to the runtime. For `tracing-subscriber` give it to `with_writer`; for any other logger give it
/// the place that the logger writes to. It works line by line: see [`MaskingWriter`].
///
/// # Security
/// Only what is written through it is masked: exporters that send fields elsewhere, as those of OpenTelemetry do, need
/// [`Redactor::live`](ap_crypto::redact::Redactor::live) on their values.
///
/// # Examples
/// ```
/// let subscriber = tracing_subscriber::fmt().with_writer(|| ap_runtime::logs::masked(std::io::stderr())).finish();
/// # tracing::subscriber::with_default(subscriber, || tracing::warn!("ready"));
/// ```
#[must_use]
pub fn masked<W: io::Write>(writer: W) -> MaskingWriter<W> {
    MaskingWriter::new(writer)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use ap_crypto::redact::Redactor;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn fields_and_messages_of_a_subscriber_are_masked() {
        let log = Shared::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || masked(writer.clone())).finish();
        let secret = "canary-log-\"4431\"".into();
        let _of_a_run = Redactor::new([("crm", &secret)]).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(answer = ?"canary-log-\"4431\"", "refused: {}", "canary-log-\"4431\"");
            tracing::warn!(url = "postgres://app:hunter2@db.example/x", "no connection");
        });
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(!log.contains("canary") && !log.contains("hunter2"), "{log}");
        assert_eq!((log.matches("‹redacted:crm›").count(), log.lines().count()), (2, 2), "{log}");
        assert!(log.contains("postgres://app:‹redacted:url-password›@db.example/x"), "{log}");
    }
}
