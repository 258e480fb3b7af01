//! Frames between a host and its worker processes: how they are written, read and carried.
//!
//! What comes from a worker was written by whoever broke into it, perhaps: lengths are bounded, memory is taken for what has
//! arrived and not for what was announced, and nothing here can panic.

use std::io::{self, ErrorKind, Read as _};
use std::os::unix::net::UnixStream;
use std::str;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// A frame under construction: its length, its kind, what it says.
pub(super) struct Frame(Vec<u8>);

/// Reads what a frame says, front to back.
pub(super) struct Fields<'a>(&'a [u8]);

/// A frame that does not say what it should.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Malformed;

/// One end of a connection.
pub(super) struct Wire {
    stream: UnixStream,
    /// Arrived and not yet taken: `ahead[taken..]`.
    ahead: Vec<u8>,
    taken: usize,
}

/// Why nothing more goes through a wire.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("the connection was closed")]
    Closed,
    #[error("no answer came in time")]
    Late,
    #[error("it announced a message of {0} bytes")]
    TooLong(usize),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Frame {
    pub(super) fn new(kind: u8) -> Self {
        Self(vec![0, 0, 0, 0, kind])
    }

    pub(super) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A number of bytes or things. One that is too large is cut, and refused by whoever reads it.
    pub(super) fn size(self, value: usize) -> Self {
        self.u32(u32::try_from(value).unwrap_or(u32::MAX))
    }

    pub(super) fn bytes(mut self, value: &[u8]) -> Self {
        self = self.size(value.len());
        self.0.extend_from_slice(value);
        self
    }

    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len().saturating_sub(HEAD_BYTES)).unwrap_or(u32::MAX);
        if let Some(head) = self.0.first_chunk_mut() {
            *head = length.to_le_bytes();
        }
        self.0
    }

    /// What arrives at the other end.
    #[cfg(test)]
    pub(super) fn payload(self) -> Vec<u8> {
        self.into_bytes().split_off(HEAD_BYTES)
    }
}

impl<'a> Fields<'a> {
    pub(super) fn new(frame: &'a [u8]) -> Self {
        Self(frame)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn size(&mut self) -> Result<usize, Malformed> {
        Ok(self.u32()? as usize)
    }

    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*array)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.size()?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Text of at most `most` bytes.
    pub(super) fn text(&mut self, most: usize) -> Result<&'a str, Malformed> {
        let bytes = self.bytes()?;
        if bytes.len() > most { Err(Malformed) } else { str::from_utf8(bytes).map_err(|_| Malformed) }
    }

    /// Nothing more may follow.
    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, ahead: Vec::new(), taken: 0 }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends a frame; `until` bounds how long that may take.
    pub(super) fn send(&mut self, frame: Frame, until: Option<Instant>) -> Result<(), WireError> {
        let bytes = frame.into_bytes();
        let mut rest = &bytes[..];
        // Most frames find room. Whether this one does is not for its length to say: those before it may lie there unread.
        let flags = if until.is_some() { SendFlags::NOSIGNAL | SendFlags::DONTWAIT } else { SendFlags::NOSIGNAL };
        while !rest.is_empty() {
            let sent = match (send(&self.stream, rest, flags), until) {
                (Err(Errno::AGAIN), Some(until)) => self.send_once_there_is_room(rest, until)?,
                (Err(Errno::INTR), _) => 0,
                (sent, _) => sent.map_err(io::Error::from)?,
            };
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends some of it, so little that there is one wait.
    fn send_once_there_is_room(&self, bytes: &[u8], until: Instant) -> Result<usize, WireError> {
        self.stream.set_write_timeout(Some(left(until)?))?;
        match send(&self.stream, bytes.get(..PIECE_BYTES).unwrap_or(bytes), SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN) => Err(WireError::Late),
            Err(Errno::INTR) => Ok(0),
            sent => Ok(sent.map_err(io::Error::from)?),
        }
    }

    /// The next frame, its kind first, of at most `most` bytes.
    pub(super) fn receive(&mut self, most: usize, until: Option<Instant>) -> Result<Vec<u8>, WireError> {
        while self.ahead.len() - self.taken < HEAD_BYTES {
            self.read_ahead(until)?;
        }
        let waiting = self.ahead.get(self.taken..).unwrap_or_default();
        let (head, waiting) = waiting.split_first_chunk().ok_or(WireError::Closed)?;
        let length = u32::from_le_bytes(*head) as usize;
        if length == 0 || length > most {
            return Err(WireError::TooLong(length));
        }
        let here = waiting.get(..length).unwrap_or(waiting);
        let mut frame = here.to_vec();
        self.taken += HEAD_BYTES + frame.len();
        while frame.len() < length {
            self.prepare(until)?;
            let read = (&self.stream).take((length - frame.len()) as u64).read_chunk(&mut frame)?;
            if read == 0 {
                return Err(WireError::Closed);
            }
        }
        Ok(frame)
    }

    fn read_ahead(&mut self, until: Option<Instant>) -> Result<(), WireError> {
        self.ahead.drain(..self.taken);
        self.taken = 0;
        self.prepare(until)?;
        match (&self.stream).take(AHEAD_BYTES).read_chunk(&mut self.ahead)? {
            0 => Err(WireError::Closed),
            _ => Ok(()),
        }
    }

    fn prepare(&self, until: Option<Instant>) -> Result<(), WireError> {
        if let Some(until) = until {
            self.stream.set_read_timeout(Some(left(until)?))?;
        }
        Ok(())
    }
}

/// Reads what is there, and appends it.
trait ReadChunk {
    fn read_chunk(self, into: &mut Vec<u8>) -> Result<usize, WireError>;
}

impl ReadChunk for io::Take<&UnixStream> {
    fn read_chunk(mut self, into: &mut Vec<u8>) -> Result<usize, WireError> {
        let before = into.len();
        let chunk = usize::try_from(self.limit()).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        into.resize(before + chunk, 0);
        let read = loop {
            match self.read(into.get_mut(before..).unwrap_or_default()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    break Err(WireError::Late);
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break Ok(0),
                read => break read.map_err(WireError::from),
            }
        };
        into.truncate(before + read.as_ref().copied().unwrap_or_default());
        read
    }
}

/// The time that is left, which must be some.
fn left(until: Instant) -> Result<Duration, WireError> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(WireError::Late) } else { Ok(left.max(Duration::from_millis(1))) }
}

const HEAD_BYTES: usize = 4;
/// Read at a time while a frame begins; most are smaller.
const AHEAD_BYTES: u64 = 16 << 10;
/// Most that memory is taken for before it has arrived.
const CHUNK_BYTES: usize = 256 << 10;
/// What a socket takes whole or not at all: less than it buffers in one piece.
const PIECE_BYTES: usize = 4 << 10;
