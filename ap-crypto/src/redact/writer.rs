//! [`MaskingWriter`]: a log without the secrets of whatever is under way in this process.

use std::{fmt, io};

use super::{Redactor, stream::Held};

/// Passes on what is written to it, line by line, with the secrets of [`Redactor::live`] masked.
///
/// A line is masked as a whole, whatever parts it is written in, when its end comes or the writer is dropped. Flushing does
/// not cut a line. What is longer than 64 KiB without an end of line is passed on piece by piece, as by
/// [`Redactor::stream`], except that no more than 32 KiB are held back: a longer spelling of a secret may be cut there.
///
/// # Security
/// A secret is masked while a redactor for it exists, which is while a run may use it: a line that is written later shows
/// it. A secret with line ends in it is found as a whole in one call of `write`, else line by line, those of 16 bytes and
/// more. Errors of the inner writer are given to whoever writes next; what could not be written is lost.
pub struct MaskingWriter<W: io::Write> {
    inner: W,
    held: Held,
}

impl<W: io::Write> MaskingWriter<W> {
    /// Masks what goes to `inner`.
    #[must_use]
    pub fn new(inner: W) -> Self {
        Self { inner, held: Held::default() }
    }

    fn pass_on(&mut self, masked: &[u8]) -> io::Result<()> {
        if masked.is_empty() { Ok(()) } else { self.inner.write_all(masked) }
    }
}

impl<W: io::Write> io::Write for MaskingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.take_in(bytes);
        let lines = self.held.end_of_lines();
        if lines > 0 {
            let masked = self.held.give_out(lines, &Redactor::live());
            self.pass_on(&masked)?;
        } else if self.held.len() >= MAX_LINE_BYTES {
            let redactor = Redactor::live();
            let hold = redactor.held_back_bytes().min(MAX_LINE_BYTES / 2);
            let masked = self.held.give_out_all_but(hold, &redactor);
            self.pass_on(&masked)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: io::Write> Drop for MaskingWriter<W> {
    fn drop(&mut self) {
        if self.held.len() > 0 {
            let masked = self.held.give_out(self.held.len(), &Redactor::live());
            // Nobody is left to be told.
            let _ = self.pass_on(&masked);
        }
    }
}

impl<W: io::Write> fmt::Debug for MaskingWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MaskingWriter({} bytes held back)", self.held.len())
    }
}

/// How long a line may be that is masked as a whole.
const MAX_LINE_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn written(chunks: &[&[u8]]) -> String {
        let mut out = Vec::new();
        let mut writer = MaskingWriter::new(&mut out);
        for chunk in chunks {
            writer.write_all(chunk).unwrap();
            writer.flush().unwrap();
        }
        drop(writer);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn secrets_of_every_redactor_are_masked_while_it_exists() {
        let (one, two) = ("canary-one-7391".into(), "canary-two-7391".into());
        let first = Redactor::new([("one", &one)]).unwrap();
        let second = Redactor::new([("two", &two)]).unwrap();
        let line: &[u8] = b"a canary-one-7391 b canary-two-7391 c 63616e6172792d74776f2d37333931\n";
        assert_eq!(written(&[line]), "a ‹redacted:one› b ‹redacted:two› c ‹redacted:two›\n");
        let shared = first.with_token_shapes();
        drop(first);
        assert_eq!(written(&[line]), "a ‹redacted:one› b ‹redacted:two› c ‹redacted:two›\n");
        drop((shared, second));
        assert_eq!(written(&[line]).as_bytes(), line);
    }

    #[test]
    fn a_secret_in_parts_is_masked_when_its_line_ends() {
        let secret = "canary-parts-5512".into();
        let _redactor = Redactor::new([("api", &secret)]).unwrap();
        let mut out = Vec::new();
        let mut writer = MaskingWriter::new(&mut out);
        for part in ["first\nkey=canary-", "parts", "-5512", " rest"] {
            writer.write_all(part.as_bytes()).unwrap();
        }
        assert_eq!(format!("{writer:?}"), "MaskingWriter(26 bytes held back)");
        writer.write_all(b"\nlast canary-parts-5512").unwrap();
        drop(writer);
        assert_eq!(String::from_utf8(out).unwrap(), "first\nkey=‹redacted:api› rest\nlast ‹redacted:api›");
    }

    #[test]
    fn tokens_and_overlapping_secrets_of_several_runs_are_masked() {
        let (one, two) = ("canary-abcdefgh-1".into(), "abcdefgh-1-canary".into());
        let _redactors = [("one", &one), ("two", &two)].map(|secret| Redactor::new([secret]).unwrap());
        let token = format!("{}p_{}", "gh", "Ab1".repeat(12));
        let text = format!("canary-abcdefgh-1-canary, {token}\n");
        assert_eq!(written(&[text.as_bytes()]), "‹redacted:one›, ‹redacted:github-token›\n");
    }

    #[test]
    fn endless_lines_are_passed_on_with_secrets_masked() {
        let secret = "canary-endless-8846".into();
        let _redactor = Redactor::new([("api", &secret)]).unwrap();
        let filler = "x ".repeat(50_000);
        let text = format!("{filler}canary-endless-8846 {filler}canary-endless-8846");
        let mut out = Vec::new();
        let mut writer = MaskingWriter::new(&mut out);
        let mut most = 0;
        for chunk in text.as_bytes().chunks(777) {
            writer.write_all(chunk).unwrap();
            most = most.max(writer.held.len());
        }
        drop(writer);
        assert!(most < MAX_LINE_BYTES + 777, "{most}");
        assert!(out == format!("{filler}‹redacted:api› {filler}‹redacted:api›").as_bytes());
    }

    #[test]
    fn errors_of_the_inner_writer_come_through() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::StorageFull.into())
            }
        }
        let mut writer = MaskingWriter::new(Full);
        assert!(writer.write_all(b"no line yet").is_ok());
        assert!(writer.write_all(b"\n").is_err() && writer.flush().is_err());
    }
}
