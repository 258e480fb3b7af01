//! What one step may use.

use std::ops::RangeInclusive;
use std::time::Duration;

/// What one step may use. Every limit has a default that suits glue code.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CodeLimits {
    timeout: Duration,
    cpu_time: Duration,
    metering: Metering,
    host_calls: usize,
    memory_bytes: usize,
    output_bytes: usize,
    console_bytes: usize,
    source_bytes: usize,
}

/// How a step's computing is measured.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Metering {
    /// By the clock alone: [`CodeLimits::with_cpu_time`] ends a step that computes for too long. The fastest.
    #[default]
    Clock,
    /// By fuel as well: about one unit for each WebAssembly instruction. The same step with the same parameters consumes the
    /// same fuel in every run and on every machine, and ends as [`CodeError::FuelExhausted`](super::CodeError::FuelExhausted)
    /// when this much is used up. Computing takes about a third longer. Accepted: 1 to 10^15; about 3·10^9 are a second.
    Fuel(u64),
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

    /// How long a step may keep a thread busy. See [`with_cpu_time`](Self::with_cpu_time).
    pub fn cpu_time(&self) -> Duration {
        self.cpu_time
    }

    /// How computing is measured. See [`with_metering`](Self::with_metering).
    pub fn metering(&self) -> Metering {
        self.metering
    }

    /// How often a step may call its host. See [`with_host_calls`](Self::with_host_calls).
    pub fn host_calls(&self) -> usize {
        self.host_calls
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

    /// Sets the longest time a step may take before it ends as [`CodeError::Timeout`](super::CodeError::Timeout).
    ///
    /// * Unit: wall-clock time from the moment a sandbox thread first takes the step up; what it waits for counts, time spent
    ///   queued before does not.
    /// * Default: 10 s. Accepted: 1 ms to 10 min.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `timeout` is outside the accepted range.
    pub fn with_timeout(mut self, timeout: Duration) -> Result<Self, CodeLimitError> {
        self.timeout = duration_within("timeout", timeout, TIMEOUT)?;
        Ok(self)
    }

    /// Sets how long a step may keep a thread busy before it ends as [`CodeError::CpuTime`](super::CodeError::CpuTime).
    ///
    /// * Unit: wall-clock time on a sandbox thread, all its turns together; time spent waiting for the host does not count.
    /// * Default: 10 s. Accepted: 1 ms to 5 min.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `cpu_time` is outside the accepted range.
    pub fn with_cpu_time(mut self, cpu_time: Duration) -> Result<Self, CodeLimitError> {
        self.cpu_time = duration_within("cpu_time", cpu_time, CPU_TIME)?;
        Ok(self)
    }

    /// Sets how computing is measured. Default: [`Metering::Clock`].
    ///
    /// # Errors
    /// [`CodeLimitError`] if the fuel is outside the accepted range.
    pub fn with_metering(mut self, metering: Metering) -> Result<Self, CodeLimitError> {
        if let Metering::Fuel(fuel) = metering
            && !FUEL.contains(&fuel)
        {
            let (minimum, maximum) = (FUEL.start().to_string(), FUEL.end().to_string());
            return Err(CodeLimitError { name: "fuel", minimum, maximum });
        }
        self.metering = metering;
        Ok(self)
    }

    /// Sets how often a step may call its host: each cryptographic operation, timer, request and URL that is read (that of a
    /// request, too) counts as one. One more ends the step as [`CodeError::HostCallLimit`](super::CodeError::HostCallLimit).
    ///
    /// * Default: 10,000. Accepted: 0 to 1,000,000. At most 256 may be under way at a time.
    ///
    /// # Errors
    /// [`CodeLimitError`] if `calls` is outside the accepted range.
    pub fn with_host_calls(mut self, calls: usize) -> Result<Self, CodeLimitError> {
        self.host_calls = within("host_calls", calls, HOST_CALLS)?;
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
            cpu_time: Duration::from_secs(10),
            metering: Metering::Clock,
            host_calls: 10_000,
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

fn duration_within(
    name: &'static str,
    value: Duration,
    accepted: RangeInclusive<Duration>,
) -> Result<Duration, CodeLimitError> {
    if accepted.contains(&value) {
        return Ok(value);
    }
    let (minimum, maximum) = (format!("{:?}", accepted.start()), format!("{:?}", accepted.end()));
    Err(CodeLimitError { name, minimum, maximum })
}

const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(600);
const CPU_TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(300);
const FUEL: RangeInclusive<u64> = 1..=1_000_000_000_000_000;
const HOST_CALLS: RangeInclusive<usize> = 0..=1_000_000;
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
        let cases: [(Setter, Getter, RangeInclusive<usize>); 5] = [
            (CodeLimits::with_host_calls, CodeLimits::host_calls, HOST_CALLS),
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
    fn durations_are_accepted_up_to_both_ends_and_no_further() {
        type Set = fn(CodeLimits, Duration) -> Result<CodeLimits, CodeLimitError>;
        type Get = fn(&CodeLimits) -> Duration;
        let nano = Duration::from_nanos(1);
        let cases: [(Set, Get, RangeInclusive<Duration>, &str); 2] = [
            (CodeLimits::with_timeout, CodeLimits::timeout, TIMEOUT, "`timeout` must be from 1ms to 600s"),
            (CodeLimits::with_cpu_time, CodeLimits::cpu_time, CPU_TIME, "`cpu_time` must be from 1ms to 300s"),
        ];
        for (set, get, accepted, message) in cases {
            for end in [*accepted.start(), *accepted.end()] {
                assert_eq!(get(&set(CodeLimits::default(), end).unwrap()), end);
            }
            assert!(set(CodeLimits::default(), *accepted.start() - nano).is_err());
            assert_eq!(set(CodeLimits::default(), *accepted.end() + nano).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn fuel_is_accepted_up_to_both_ends_and_no_further() {
        for end in [*FUEL.start(), *FUEL.end()] {
            let limits = CodeLimits::default().with_metering(Metering::Fuel(end)).unwrap();
            assert_eq!(limits.metering(), Metering::Fuel(end));
        }
        for beyond in [0, FUEL.end() + 1] {
            assert!(CodeLimits::default().with_metering(Metering::Fuel(beyond)).is_err());
        }
    }
}
