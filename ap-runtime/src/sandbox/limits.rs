//! What one step may use.

use std::ops::RangeInclusive;
use std::time::Duration;

/// What one step may use. Every limit has a default that suits glue code.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CodeLimits {
    timeout: Duration,
    memory_bytes: usize,
    output_bytes: usize,
    console_bytes: usize,
    source_bytes: usize,
}

/// A limit outside its accepted range.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{name}` must be from {minimum} to {maximum}")]
pub struct CodeLimitError {
    /// Which limit.
    pub name: &'static str,
    /// The least accepted value, with its unit.
    pub minimum: String,
    /// The greatest accepted value, with its unit.
    pub maximum: String,
}

impl CodeLimits {
    /// The longest time a step may compute. See [`with_timeout`](Self::with_timeout).
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The most memory a step may have. See [`with_memory_bytes`](Self::with_memory_bytes).
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// The longest result. See [`with_output_bytes`](Self::with_output_bytes).
    pub fn output_bytes(&self) -> usize {
        self.output_bytes
    }

    /// How much console text is kept. See [`with_console_bytes`](Self::with_console_bytes).
    pub fn console_bytes(&self) -> usize {
        self.console_bytes
    }

    /// The longest source. See [`with_source_bytes`](Self::with_source_bytes).
    pub fn source_bytes(&self) -> usize {
        self.source_bytes
    }

    /// Sets the longest time a step may compute before it ends as [`CodeError::Timeout`](super::CodeError::Timeout).
    ///
    /// * Unit: wall-clock time from the moment a sandbox thread takes the step up; time spent queued does not count.
    /// * Default: 10 s. Accepted: 1 ms to 5 min.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `timeout` is outside the accepted range.
    pub fn with_timeout(mut self, timeout: Duration) -> Result<Self, CodeLimitError> {
        if !TIMEOUT.contains(&timeout) {
            let (minimum, maximum) = (format!("{:?}", TIMEOUT.start()), format!("{:?}", TIMEOUT.end()));
            return Err(CodeLimitError { name: "timeout", minimum, maximum });
        }
        self.timeout = timeout;
        Ok(self)
    }

    /// Sets the most memory a step may have; beyond it allocations fail and the step ends as
    /// [`CodeError::MemoryLimit`](super::CodeError::MemoryLimit), unless it catches the failure and recovers.
    ///
    /// * Unit: bytes of the whole instance, engine included (about 2 MiB), rounded down to pages of 64 KiB.
    /// * Default: 64 MiB. Accepted: 4 MiB to 64 MiB.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `bytes` is outside the accepted range.
    pub fn with_memory_bytes(mut self, bytes: usize) -> Result<Self, CodeLimitError> {
        self.memory_bytes = within("memory_bytes", bytes, MEMORY_BYTES)?;
        Ok(self)
    }

    /// Sets the longest result; a longer one ends the step as
    /// [`CodeError::OutputTooLarge`](super::CodeError::OutputTooLarge).
    ///
    /// * Unit: bytes of JSON text in UTF-8, without white space.
    /// * Default: 1 MiB. Accepted: 16 B to 16 MiB.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `bytes` is outside the accepted range.
    pub fn with_output_bytes(mut self, bytes: usize) -> Result<Self, CodeLimitError> {
        self.output_bytes = within("output_bytes", bytes, OUTPUT_BYTES)?;
        Ok(self)
    }

    /// Sets how much console text is kept. What comes later is dropped; the step runs on.
    ///
    /// * Unit: bytes of UTF-8, and one for each line.
    /// * Default: 64 KiB. Accepted: 0 to 1 MiB.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `bytes` is outside the accepted range.
    pub fn with_console_bytes(mut self, bytes: usize) -> Result<Self, CodeLimitError> {
        self.console_bytes = within("console_bytes", bytes, CONSOLE_BYTES)?;
        Ok(self)
    }

    /// Sets the longest source; a longer one is refused as
    /// [`CodeError::SourceTooLarge`](super::CodeError::SourceTooLarge).
    ///
    /// * Unit: bytes of UTF-8.
    /// * Default: 256 KiB. Accepted: 16 B to 1 MiB.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `bytes` is outside the accepted range.
    pub fn with_source_bytes(mut self, bytes: usize) -> Result<Self, CodeLimitError> {
        self.source_bytes = within("source_bytes", bytes, SOURCE_BYTES)?;
        Ok(self)
    }
}

impl Default for CodeLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            memory_bytes: *MEMORY_BYTES.end(),
            output_bytes: 1 << 20,
            console_bytes: 64 << 10,
            source_bytes: 256 << 10,
        }
    }
}

/// Also used for the sandbox's own sizes.
pub(super) fn within(
    name: &'static str,
    value: usize,
    accepted: RangeInclusive<usize>,
) -> Result<usize, CodeLimitError> {
    if accepted.contains(&value) {
        return Ok(value);
    }
    Err(CodeLimitError { name, minimum: accepted.start().to_string(), maximum: accepted.end().to_string() })
}

const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(300);
const MEMORY_BYTES: RangeInclusive<usize> = (4 << 20)..=(64 << 20);
const OUTPUT_BYTES: RangeInclusive<usize> = 16..=(16 << 20);
const CONSOLE_BYTES: RangeInclusive<usize> = 0..=(1 << 20);
const SOURCE_BYTES: RangeInclusive<usize> = 16..=(1 << 20);

#[cfg(test)]
mod tests {
    use super::*;

    type Setter = fn(CodeLimits, usize) -> Result<CodeLimits, CodeLimitError>;
    type Getter = fn(&CodeLimits) -> usize;

    #[test]
    fn sizes_are_accepted_up_to_both_ends_and_no_further() {
        let cases: [(Setter, Getter, RangeInclusive<usize>); 4] = [
            (CodeLimits::with_memory_bytes, CodeLimits::memory_bytes, MEMORY_BYTES),
            (CodeLimits::with_output_bytes, CodeLimits::output_bytes, OUTPUT_BYTES),
            (CodeLimits::with_console_bytes, CodeLimits::console_bytes, CONSOLE_BYTES),
            (CodeLimits::with_source_bytes, CodeLimits::source_bytes, SOURCE_BYTES),
        ];
        for (set, get, accepted) in cases {
            for end in [*accepted.start(), *accepted.end()] {
                assert_eq!(get(&set(CodeLimits::default(), end).unwrap()), end);
            }
            assert!(set(CodeLimits::default(), accepted.end() + 1).is_err());
            if let Some(below) = accepted.start().checked_sub(1) {
                assert!(set(CodeLimits::default(), below).is_err());
            }
        }
    }

    #[test]
    fn timeouts_are_accepted_up_to_both_ends_and_no_further() {
        let nano = Duration::from_nanos(1);
        for end in [*TIMEOUT.start(), *TIMEOUT.end()] {
            assert_eq!(CodeLimits::default().with_timeout(end).unwrap().timeout(), end);
        }
        assert!(CodeLimits::default().with_timeout(*TIMEOUT.start() - nano).is_err());
        let error = CodeLimits::default().with_timeout(*TIMEOUT.end() + nano).unwrap_err();
        assert_eq!(error.to_string(), "`timeout` must be from 1ms to 300s");
    }
}
