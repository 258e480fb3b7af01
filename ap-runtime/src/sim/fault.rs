//! [`Fault`]: what can go wrong at a point, and [`Plan`]: what does, in one schedule.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::dice::Dice;

/// What goes wrong at one point of a schedule. A point is a write to the store, or a call of an action that acts outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The worker dies before it happens.
    CrashBefore,
    /// It happens, and the worker dies before it hears of that.
    CrashAfter,
    /// The worker dies while the calls it has under way are being carried out: some of them happen.
    CrashTorn,
    /// It does not happen, and the worker is told of a passing failure.
    FailBefore,
    /// It happens, and the worker is told of a passing failure.
    FailAfter,
    /// It happens after this time.
    Delay(Duration),
    /// The worker is suspended for this time before it happens, and then goes on.
    SuspendBefore(Duration),
    /// The worker is suspended for this time after it happened, and then goes on.
    SuspendAfter(Duration),
    /// The clock of the worker's machine is set forward (positive) or back. Unit: milliseconds.
    HostClock(i64),
    /// The store's clock goes forward.
    StoreClock(Duration),
    /// The store answers nobody for this time.
    Outage(Duration),
}

impl Fault {
    /// Faults of which every one is tried at every point of a small flow. `long` is longer than a lease.
    pub(super) fn each(long: Duration) -> [Self; 7] {
        [
            Self::CrashBefore,
            Self::CrashAfter,
            Self::CrashTorn,
            Self::FailBefore,
            Self::FailAfter,
            Self::SuspendBefore(long),
            Self::SuspendAfter(long),
        ]
    }

    fn throw(dice: &Dice, lease: Duration) -> Self {
        let millis = |most: u64| Duration::from_millis(1 + dice.below(most));
        let lease_millis = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX).max(1);
        match dice.below(16) {
            0..=2 => Self::CrashBefore,
            3..=5 => Self::CrashAfter,
            6 => Self::CrashTorn,
            7 => Self::FailBefore,
            8 => Self::FailAfter,
            9 => Self::Delay(millis(lease_millis * 2)),
            10 | 11 => Self::SuspendBefore(lease + millis(lease_millis)),
            12 => Self::SuspendAfter(lease + millis(lease_millis)),
            13 => {
                let jump = i64::try_from(1 + dice.below(lease_millis * 4)).unwrap_or(i64::MAX);
                Self::HostClock(if dice.one_in(2) { jump } else { -jump })
            }
            14 => Self::StoreClock(millis(lease_millis * 2)),
            _ => Self::Outage(millis(lease_millis)),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CrashBefore => f.write_str("crash before"),
            Self::CrashAfter => f.write_str("crash after"),
            Self::CrashTorn => f.write_str("crash in the middle of a batch"),
            Self::FailBefore => f.write_str("failure, not written"),
            Self::FailAfter => f.write_str("failure, written all the same"),
            Self::Delay(time) => write!(f, "delayed by {} ms", time.as_millis()),
            Self::SuspendBefore(time) => write!(f, "worker suspended for {} ms before", time.as_millis()),
            Self::SuspendAfter(time) => write!(f, "worker suspended for {} ms after", time.as_millis()),
            Self::HostClock(millis) => write!(f, "the worker's clock set by {millis} ms"),
            Self::StoreClock(time) => write!(f, "the store's clock {} ms ahead", time.as_millis()),
            Self::Outage(time) => write!(f, "the store out of reach for {} ms", time.as_millis()),
        }
    }
}

/// What goes wrong in one schedule, and how deliveries come. The rest follows from the seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By the number of the point, counted from 0.
    pub(super) faults: BTreeMap<u64, Vec<Fault>>,
    /// How long after its first copy each further copy of each delivery is sent, unless the sender has reason to earlier.
    pub(super) duplicates: Vec<Duration>,
}

impl Plan {
    /// One fault at one point.
    pub(super) fn single(point: u64, fault: Fault, duplicates: Vec<Duration>) -> Self {
        Self { faults: [(point, vec![fault])].into(), duplicates }
    }

    /// Between no and six faults at points below `points`, as the dice fall.
    pub(super) fn throw(dice: &Dice, points: u64, duplicates: u32, lease: Duration) -> Self {
        let mut plan = Self::default();
        for _ in 0..dice.below(7) {
            plan.faults.entry(dice.below(points)).or_default().push(Fault::throw(dice, lease));
        }
        let lease_millis = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        for _ in 0..dice.below(u64::from(duplicates) + 1) {
            // Next to the first copy, or long after it.
            let late = if dice.one_in(2) { dice.below(5) } else { dice.below(lease_millis.saturating_mul(4)) };
            plan.duplicates.push(Duration::from_millis(late));
        }
        plan
    }

    /// The faults with their points, in order.
    pub fn faults(&self) -> impl Iterator<Item = (u64, Fault)> {
        self.faults.iter().flat_map(|(point, faults)| faults.iter().map(|fault| (*point, *fault)))
    }

    pub(super) fn fault_count(&self) -> usize {
        self.faults.values().map(Vec::len).sum()
    }

    /// Plans that leave out one thing of this one.
    pub(super) fn smaller(&self) -> Vec<Self> {
        let mut smaller = Vec::new();
        for (point, faults) in &self.faults {
            for index in 0..faults.len() {
                let mut plan = self.clone();
                let mut left = faults.clone();
                left.remove(index);
                if left.is_empty() {
                    plan.faults.remove(point);
                } else {
                    plan.faults.insert(*point, left);
                }
                smaller.push(plan);
            }
        }
        for index in 0..self.duplicates.len() {
            let mut plan = self.clone();
            plan.duplicates.remove(index);
            smaller.push(plan);
        }
        smaller
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.faults().map(|(point, fault)| format!("point {point}: {fault}")).collect();
        parts.extend(self.duplicates.iter().map(|late| format!("each delivery again after {} ms", late.as_millis())));
        if parts.is_empty() { f.write_str("no faults") } else { f.write_str(&parts.join("; ")) }
    }
}
