//! Acceptance: how a run comes to be, and what bounds it.

use std::time::Duration;

use ap_core::{
    id::{FlowId, FlowVersionId, ProjectId, RunId},
    store::LookupHash,
    time::Timestamp,
};

use ap_crypto::subject::WrappedSubjectKey;

use super::{JournalEntry, RunRecord};

/// Where a webhook token leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The project.
    pub project: ProjectId,
    /// The flow.
    pub flow: FlowId,
    /// Its published version, if any.
    pub published: Option<FlowVersionId>,
    /// Whether its trigger may start runs.
    pub enabled: bool,
    /// Its generation; accept checks it again.
    pub generation: u64,
}

/// A request to start a run: accept, dedupe, flow control and run creation are one transaction.
#[derive(Clone, Debug)]
pub struct Accept {
    /// The run to create; its status is `QUEUED`, and the store makes it `RUNNING` if it leases it.
    pub run: RunRecord,
    /// The flow's generation the caller decided on; a different stored one refuses the acceptance.
    pub generation: u64,
    /// Keyed hash of the delivery's id, and when it may be forgotten.
    pub dedupe: Option<Dedupe>,
    /// The key that the run names, to be added with it if the project does not have it yet.
    pub subject_key: Option<WrappedSubjectKey>,
    /// When and beside which others it may run.
    pub control: RunControl,
    /// The first journal entry.
    pub entry: JournalEntry,
    /// How long the new run is leased to the caller (epoch 1), if nothing in `control` keeps it from running at once; `None`
    /// leaves it to whoever claims it.
    pub lease: Option<Duration>,
}

/// When and beside which others a new run may run. Keys are unique within the project. `default()` sets no bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunControl {
    /// Higher is claimed first within the project.
    pub priority: i16,
    /// Bounds how many runs of a key are under way.
    pub gate: Option<Gate>,
    /// Bounds how many runs of a key start in a period; more start later.
    pub throttle: Option<Pace>,
    /// Bounds how many runs of a key are accepted in a period; more are refused.
    pub rate_limit: Option<Pace>,
    /// Puts the run off, and replaces one of the same key that is put off.
    pub debounce: Option<Debounce>,
}

/// At most `limit` runs of `key` are past the gate at once: from when they may be claimed until they end, paused or not.
///
/// The others wait before it, and pass by priority, time of acceptance and id as soon as others end. Where their limits differ,
/// the next one's own counts, and those behind it wait for it; a new run goes by its own alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Keyed hash.
    pub key: LookupHash,
    /// Runs past the gate.
    pub limit: u32,
    /// Whether a run that would have to wait is not created at all.
    pub skip: bool,
}

/// At most `limit` per `period`, by the generic cell rate algorithm: a burst of `limit`, then one every `period / limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Keyed hash.
    pub key: LookupHash,
    /// Per period.
    pub limit: u32,
    /// The period.
    pub period: Duration,
}

impl Pace {
    /// Time between two at the sustained rate, at least a microsecond.
    #[must_use]
    pub fn interval(&self) -> Duration {
        (self.period / self.limit.max(1)).max(Duration::from_micros(1))
    }

    /// Given when the next one would be due at the sustained rate (`None` at first): when one that comes `now` may start, and
    /// what to remember if it does.
    #[must_use]
    pub fn next(&self, remembered: Option<Timestamp>, now: Timestamp) -> (Timestamp, Timestamp) {
        let due = remembered.map_or(now, |due| due.max(now));
        let burst = self.interval().saturating_mul(self.limit.saturating_sub(1));
        let start = Timestamp::from_micros(
            due.as_micros().saturating_sub(i64::try_from(burst.as_micros()).unwrap_or(i64::MAX)),
        );
        (start.max(now), due.saturating_add(self.interval()))
    }
}

/// Waits for quiet: the run is queued and not claimable until `delay` has passed. A run of the same key that still waits like
/// this is ended as `CANCELED` in the same transaction, without a journal entry, and the new one waits at most until `max_wait`
/// after the first of the series by the store's clock.
///
/// The new run takes the place of the one it replaces: at its gate, if the key is the same, and in the throttle, of which it
/// takes no more: it is just not due before the other was. Once the time has come the series is over, claimed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debounce {
    /// Keyed hash.
    pub key: LookupHash,
    /// How long it must have been quiet.
    pub delay: Duration,
    /// How long a series may go on.
    pub max_wait: Duration,
}

/// Identity of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dedupe {
    /// Keyed hash over flow, trigger and delivery id; unique within the project.
    pub key: LookupHash,
    /// From when on the same key is a new delivery.
    pub expires: Timestamp,
}

/// What became of an [`Accept`]. Looked at in this order: duplicate, stale, rate limit, gate. Neither rate limit nor throttle
/// counts a run that was not created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The run exists now.
    Created {
        /// Whether it is leased to the caller; else whoever claims it runs it.
        leased: bool,
    },
    /// This delivery was accepted before, as this run; nothing was written.
    Duplicate(RunId),
    /// Too many for the rate limit; nothing was written.
    Limited {
        /// When one would be accepted.
        retry: Timestamp,
    },
    /// The gate is full and asked to skip then; nothing was written.
    Skipped,
    /// The flow was disabled, republished or given another token meanwhile; nothing was written.
    Stale,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_pace_lets_no_more_through_than_a_burst_and_its_rate(
            limit in 1..20_u32,
            period_ms in 1..100_000_u64,
            gaps in proptest::collection::vec(0..20_000_000_i64, 1..100),
        ) {
            let pace = Pace { key: LookupHash([0; 32]), limit, period: Duration::from_millis(period_ms) };
            let (mut remembered, mut now, mut starts) = (None, 0, Vec::new());
            for gap in gaps {
                now += gap;
                let (start, next) = pace.next(remembered, Timestamp::from_micros(now));
                prop_assert!(start >= Timestamp::from_micros(now));
                (remembered, starts) = (Some(next), [starts, vec![start]].concat());
            }
            prop_assert!(starts.is_sorted());
            // After a burst of `limit` the next one comes no sooner than an interval after the first of them. Each time is cut
            // to whole microseconds.
            let cut = Duration::from_micros(u64::from(limit));
            for window in starts.windows(limit as usize + 1) {
                let (first, last) = (window.first().copied(), window.last().copied());
                let earliest = first.map(|first| first.saturating_add(pace.interval()).saturating_sub(cut));
                prop_assert!(last >= earliest, "{last:?} before {earliest:?}");
            }
        }
    }

    #[test]
    fn a_pace_starts_a_burst_at_once_and_the_next_an_interval_later() {
        for limit in [1, 2, 7] {
            let pace = Pace { key: LookupHash([0; 32]), limit, period: Duration::from_secs(70) };
            let (now, mut remembered) = (Timestamp::EPOCH, None);
            for _ in 0..limit {
                let (start, next) = pace.next(remembered, now);
                (remembered, _) = (Some(next), assert_eq!(start, now, "limit {limit}"));
            }
            let (start, next) = pace.next(remembered, now);
            assert_eq!(start, now.saturating_add(pace.interval()));
            // Refused ones are not remembered; when the time has come, one passes.
            assert_eq!(pace.next(remembered, start), (start, next));
        }
    }

    #[test]
    fn a_pace_copes_with_nonsense() {
        let pace = Pace { key: LookupHash([0; 32]), limit: 0, period: Duration::ZERO };
        assert_eq!(pace.interval(), Duration::from_micros(1));
        let forever = Pace { limit: u32::MAX, period: Duration::MAX, ..pace };
        let latest = Timestamp::from_micros(i64::MAX);
        assert_eq!(forever.next(Some(latest), latest), (latest, latest));
    }
}
