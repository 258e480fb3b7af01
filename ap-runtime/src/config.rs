//! Limits and options, in groups that are each valid alone.

use std::{sync::Arc, time::Duration};

use crate::{engine::EngineLimits, store::ValueUsage};

/// A value outside its accepted range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// The value is too small or too large.
    #[error("`{name}` must be from {min} to {max} {unit}")]
    OutOfRange {
        /// Which limit.
        name: &'static str,
        /// Smallest accepted value.
        min: u64,
        /// Largest accepted value.
        max: u64,
        /// Unit of the bounds.
        unit: &'static str,
    },
}

/// What one run may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLimits {
    timeout: Duration,
    step_executions: u32,
    log_bytes: u64,
    spill_bytes: u64,
}

impl RunLimits {
    /// Longest time a run may execute before it ends as `TIMEOUT`.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How many steps a run may execute, every loop iteration counted.
    #[must_use]
    pub const fn step_executions(&self) -> u32 {
        self.step_executions
    }

    /// Largest log of a run before it ends as `LOG_SIZE_EXCEEDED`.
    #[must_use]
    pub const fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// Largest sum of a run's outputs that are kept as files before it ends as `LOG_SIZE_EXCEEDED`.
    #[must_use]
    pub const fn spill_bytes(&self) -> u64 {
        self.spill_bytes
    }

    /// Sets how large outputs of a run may be together that are kept as files, because each is larger than 256 KiB. They
    /// count little against the run's log; while the run is executed they are in memory.
    ///
    /// * Unit: bytes, roughly those of their JSON. Default: 256 MiB. Accepted: 1 MiB to 16 GiB.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_spill_bytes(mut self, bytes: u64) -> Result<Self, LimitError> {
        self.spill_bytes = number("run files", bytes, 1 << 20, 16 << 30, "bytes")?;
        Ok(self)
    }

    /// Sets the longest time a run may execute.
    ///
    /// * Unit: wall-clock time on the runtime's clock while somebody executes the run; pauses do not count.
    /// * Default: 5 min. Accepted: 1 s to 24 h. Source: guide §6.3, `AP_MAX_FLOW_DURATION`.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_timeout(mut self, timeout: Duration) -> Result<Self, LimitError> {
        self.timeout = in_range("run timeout", timeout, Duration::from_secs(1), Duration::from_secs(86_400))?;
        Ok(self)
    }

    /// Sets how many steps a run may execute.
    ///
    /// * Unit: step executions. Default: 10,000. Accepted: 1 to 1,000,000.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_step_executions(mut self, count: u32) -> Result<Self, LimitError> {
        self.step_executions = number("step executions", u64::from(count), 1, 1_000_000, "steps").map(|_| count)?;
        Ok(self)
    }

    /// Sets the largest log of a run: what its trigger delivered, and inputs, outputs and errors of all its steps.
    ///
    /// * Unit: bytes, roughly those of their JSON. It bounds the journal and the memory a run takes. Default: 50 MiB (the reference product's log budget). Accepted: 64 KiB to 1 GiB.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_log_bytes(mut self, bytes: u64) -> Result<Self, LimitError> {
        self.log_bytes = number("run log", bytes, 64 << 10, 1 << 30, "bytes")?;
        Ok(self)
    }
}

impl RunLimits {
    pub(crate) fn engine(&self) -> EngineLimits {
        EngineLimits {
            step_executions: self.step_executions,
            log_bytes: self.log_bytes,
            spill_bytes: self.spill_bytes,
            timeout_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Default for RunLimits {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(300), step_executions: 10_000, log_bytes: 50 << 20, spill_bytes: 256 << 20 }
    }
}

/// What the key-value store of a project may hold, and what one step may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueLimits {
    entries: u64,
    bytes: u64,
    step_operations: u32,
    step_bytes: u32,
}

impl ValueLimits {
    /// Longest key. Unit: characters; 128 (reference product).
    pub const KEY_CHARACTERS: usize = 128;
    /// Largest value. Unit: bytes of its JSON in UTF-8; 512 KiB (reference product).
    pub const VALUE_BYTES: usize = 512 << 10;

    /// How many values a project may have.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// How large the keys and values of a project may be together.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How often one attempt of a step may call its store.
    #[must_use]
    pub const fn step_operations(&self) -> u32 {
        self.step_operations
    }

    /// How much one attempt of a step may read from its store and write to it.
    #[must_use]
    pub const fn step_bytes(&self) -> u32 {
        self.step_bytes
    }

    /// Sets how many values a project may have, all its flows together.
    ///
    /// * Default: 10,000. Accepted: 0 (no value can be stored) to 1,000,000.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_entries(mut self, entries: u64) -> Result<Self, LimitError> {
        self.entries = number("stored values", entries, 0, 1_000_000, "values")?;
        Ok(self)
    }

    /// Sets how large the keys and values of a project may be together.
    ///
    /// * Unit: bytes of keys and JSON in UTF-8, before they are sealed. Default: 64 MiB. Accepted: 1 KiB to 16 GiB.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_bytes(mut self, bytes: u64) -> Result<Self, LimitError> {
        self.bytes = number("bytes of stored values", bytes, 1 << 10, 16 << 30, "bytes")?;
        Ok(self)
    }

    /// Sets how often one attempt of a step may call its store.
    ///
    /// * Unit: calls of `get`, `put` and `delete`. Default: 1,000. Accepted: 1 to 10,000.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_step_operations(mut self, operations: u32) -> Result<Self, LimitError> {
        number("store operations of a step", u64::from(operations), 1, 10_000, "operations")?;
        self.step_operations = operations;
        Ok(self)
    }

    /// Sets how much one attempt of a step may read from its store and write to it. It bounds the memory that a step takes beside
    /// its sandbox, and the commit that carries what it wrote.
    ///
    /// * Unit: bytes of keys and JSON, each `get` that looks into the store and each `put` counted. Default: 8 MiB. Accepted:
    ///   1 KiB to 16 MiB.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_step_bytes(mut self, bytes: u32) -> Result<Self, LimitError> {
        number("store bytes of a step", u64::from(bytes), 1 << 10, 16 << 20, "bytes")?;
        self.step_bytes = bytes;
        Ok(self)
    }
}

impl ValueLimits {
    pub(crate) const fn of_project(&self) -> ValueUsage {
        ValueUsage { entries: self.entries, bytes: self.bytes }
    }
}

impl Default for ValueLimits {
    fn default() -> Self {
        Self { entries: 10_000, bytes: 64 << 20, step_operations: 1_000, step_bytes: 8 << 20 }
    }
}

/// How this process executes runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerOptions {
    name: Arc<str>,
    concurrency: u32,
    lease: Duration,
    project_concurrency: u32,
    total_concurrency: u32,
}

impl WorkerOptions {
    /// How many runs are executed at once.
    #[must_use]
    pub const fn concurrency(&self) -> u32 {
        self.concurrency
    }

    /// How long a run is leased to this process between two heartbeats.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        self.lease
    }

    /// What the host calls this worker; empty if it did not say.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many runs of one project are executed at once over all workers, unless its share says otherwise.
    #[must_use]
    pub const fn project_concurrency(&self) -> u32 {
        self.project_concurrency
    }

    /// How many runs are executed at once over all workers and projects.
    #[must_use]
    pub const fn total_concurrency(&self) -> u32 {
        self.total_concurrency
    }

    /// Names this worker, such as after its host; the list of workers shows it.
    ///
    /// * Unit: bytes. Default: empty. Accepted: 1 to 128, no control characters.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_name(mut self, name: &str) -> Result<Self, LimitError> {
        let bytes = if name.contains(char::is_control) { 0 } else { name.len() as u64 };
        number("worker name", bytes, 1, 128, "bytes without control characters")?;
        self.name = name.into();
        Ok(self)
    }

    /// Sets how many runs of one project are executed at once over all workers, unless the project's share says otherwise.
    /// Paused runs do not count.
    ///
    /// * Unit: runs. Default: 100. Accepted: 1 to 100,000.
    /// * Give every worker the same. A process that takes up a run in the moment it accepts it counts its own part of the
    ///   limit only, so several workers may exceed the default for a moment, by less than as much again. A limit set as a
    ///   project's share is never exceeded.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_project_concurrency(mut self, runs: u32) -> Result<Self, LimitError> {
        self.project_concurrency = number("project concurrency", u64::from(runs), 1, 100_000, "runs").map(|_| runs)?;
        Ok(self)
    }

    /// Sets how many runs are executed at once over all workers and projects.
    ///
    /// * Unit: runs. Default: as many as the workers take. Accepted: 1 to 1,000,000. Give every worker the same.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_total_concurrency(mut self, runs: u32) -> Result<Self, LimitError> {
        self.total_concurrency = number("total concurrency", u64::from(runs), 1, 1_000_000, "runs").map(|_| runs)?;
        Ok(self)
    }

    /// Sets how many runs this process executes at once; more are accepted and queued.
    ///
    /// * Unit: runs. Default: 100 (guide §6.3, `AP_MAX_CONCURRENT_FLOWS`). Accepted: 1 to 100,000.
    /// * An eighth of them is kept for projects that have next to nothing under way here, so that one busy project does not
    ///   make all others wait.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_concurrency(mut self, runs: u32) -> Result<Self, LimitError> {
        self.concurrency = number("concurrency", u64::from(runs), 1, 100_000, "runs").map(|_| runs)?;
        Ok(self)
    }

    /// Sets the lease.
    ///
    /// * Unit: time on the store's clock. Default: 30 s; heartbeats come three times per lease. Accepted: 1 s to 10 min.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_lease(mut self, lease: Duration) -> Result<Self, LimitError> {
        self.lease = in_range("lease", lease, Duration::from_secs(1), Duration::from_secs(600))?;
        Ok(self)
    }
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            name: Arc::from(""),
            concurrency: 100,
            lease: Duration::from_secs(30),
            project_concurrency: 100,
            total_concurrency: u32::MAX,
        }
    }
}

/// How the webhook door behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebhookOptions {
    body_bytes: usize,
    reply_timeout: Duration,
    dedupe_window: Duration,
}

impl WebhookOptions {
    /// Largest request body.
    #[must_use]
    pub const fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// How long a synchronous caller is kept waiting before it is answered 408.
    #[must_use]
    pub const fn reply_timeout(&self) -> Duration {
        self.reply_timeout
    }

    /// How long a delivery is remembered.
    #[must_use]
    pub const fn dedupe_window(&self) -> Duration {
        self.dedupe_window
    }

    /// Sets the largest request body; larger ones are answered 413 without being read further.
    ///
    /// * Unit: bytes. Default: 1 MiB (guide §6.6). Accepted: 1 B to 25 MiB.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_body_bytes(mut self, bytes: usize) -> Result<Self, LimitError> {
        number("webhook body", bytes as u64, 1, 25 << 20, "bytes")?;
        self.body_bytes = bytes;
        Ok(self)
    }

    /// Sets how long a synchronous caller is kept waiting. The run goes on after that.
    ///
    /// * Default: 30 s (reference product, `AP_WEBHOOK_TIMEOUT_SECONDS`). Accepted: 1 s to 15 min.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_reply_timeout(mut self, timeout: Duration) -> Result<Self, LimitError> {
        self.reply_timeout = in_range("reply timeout", timeout, Duration::from_secs(1), Duration::from_secs(900))?;
        Ok(self)
    }

    /// Sets how long a delivery is remembered: within it, the same delivery id gives the same run.
    ///
    /// * Default: 24 h. Accepted: 1 min to 30 days.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_dedupe_window(mut self, window: Duration) -> Result<Self, LimitError> {
        self.dedupe_window =
            in_range("dedupe window", window, Duration::from_secs(60), Duration::from_secs(30 * 86_400))?;
        Ok(self)
    }
}

impl Default for WebhookOptions {
    fn default() -> Self {
        Self { body_bytes: 1 << 20, reply_timeout: Duration::from_secs(30), dedupe_window: Duration::from_secs(86_400) }
    }
}

pub(crate) fn in_range(
    name: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
) -> Result<Duration, LimitError> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(LimitError::OutOfRange { name, min: min.as_secs(), max: max.as_secs(), unit: "seconds" })
    }
}

pub(crate) fn number(
    name: &'static str,
    value: u64,
    min: u64,
    max: u64,
    unit: &'static str,
) -> Result<u64, LimitError> {
    if (min..=max).contains(&value) { Ok(value) } else { Err(LimitError::OutOfRange { name, min, max, unit }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_at_their_edges() {
        let run = RunLimits::default();
        assert!(run.with_timeout(Duration::from_millis(999)).is_err());
        assert!(run.with_timeout(Duration::from_secs(1)).is_ok());
        assert!(run.with_timeout(Duration::from_secs(86_400)).is_ok());
        assert!(run.with_timeout(Duration::from_millis(86_400_001)).is_err());
        assert!(run.with_step_executions(0).is_err());
        assert!(run.with_step_executions(1_000_001).is_err());
        assert!(run.with_log_bytes((64 << 10) - 1).is_err());
        let values = ValueLimits::default();
        assert!(values.with_entries(0).is_ok() && values.with_entries(1_000_000).is_ok());
        assert!(values.with_entries(1_000_001).is_err());
        assert!(values.with_bytes(1 << 10).is_ok() && values.with_bytes(16 << 30).is_ok());
        assert!(values.with_bytes((1 << 10) - 1).is_err() && values.with_bytes((16 << 30) + 1).is_err());
        assert!(values.with_step_operations(1).is_ok() && values.with_step_operations(10_000).is_ok());
        assert!(values.with_step_operations(0).is_err() && values.with_step_operations(10_001).is_err());
        assert!(values.with_step_bytes(1 << 10).is_ok() && values.with_step_bytes(16 << 20).is_ok());
        assert!(values.with_step_bytes((1 << 10) - 1).is_err() && values.with_step_bytes((16 << 20) + 1).is_err());
        let worker = WorkerOptions::default;
        assert!(worker().with_concurrency(0).is_err());
        assert!(worker().with_concurrency(100_000).is_ok());
        assert!(worker().with_lease(Duration::from_secs(601)).is_err());
        assert!(worker().with_project_concurrency(0).is_err());
        assert!(worker().with_project_concurrency(100_000).is_ok());
        assert!(worker().with_project_concurrency(100_001).is_err());
        assert!(worker().with_total_concurrency(0).is_err());
        assert!(worker().with_total_concurrency(1_000_000).is_ok());
        assert!(worker().with_total_concurrency(1_000_001).is_err());
        assert!(worker().with_name("").is_err());
        assert!(worker().with_name(&"n".repeat(128)).is_ok());
        assert!(worker().with_name(&"n".repeat(129)).is_err());
        assert!(worker().with_name("a\nb").is_err());
        let webhook = WebhookOptions::default();
        assert!(webhook.with_body_bytes(0).is_err());
        assert!(webhook.with_body_bytes(25 << 20).is_ok());
        assert!(webhook.with_body_bytes((25 << 20) + 1).is_err());
        let error = webhook.with_reply_timeout(Duration::ZERO).expect_err("zero");
        assert_eq!(error.to_string(), "`reply timeout` must be from 1 to 900 seconds");
    }
}
