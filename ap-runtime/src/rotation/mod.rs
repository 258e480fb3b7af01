//! Rotation: replacing the root key and the keys of tenants while everything goes on.
//!
//! **A tenant's key.** A new key is added and seals from then on, in this process at once. Every cell that is still under
//! another key is sealed anew, in batches, each replaced only while it is unchanged. Once a whole pass has found nothing left,
//! and the [grace](RotationOptions::grace) is over, the old key is retired: nobody opens anything with it any more. Where a
//! rotation stands is what the key table and the cells say, so whoever calls again after a crash goes on, in any process.
//! Until the old key is retired the rotation can be [turned back](crate::session::KeyAdmin::turn_back).
//!
//! Keys of data subjects are cells like any other here: they are sealed under their tenant's key, and what is sealed under one of
//! them is sealed under the tenant's besides.
//!
//! **The root key.** Every stored key, those of data subjects included, is opened under the root key it names and wrapped again under the one the runtime was
//! built with. Nothing else is touched: look-ups that come before the tenant is known have a key of their own, which is
//! stored wrapped like the others.
//!
//! **Other processes** read a tenant's keys again when they meet a value under a key they do not know, and every
//! half-minute at the latest. A retired key stays in the table, wrapped, for [`RETIRED_KEPT`]: what a process that stood still
//! wrote under it late is found by the next rotation, or by [`KeyAdmin::rotate`](crate::session::KeyAdmin::rotate) of that tenant,
//! and saved. Then it is deleted.

mod root;
mod tenant;

use std::{collections::BTreeMap, time::Duration};

use ap_auth::audit::AuditEvent;
use ap_core::id::KeyId;

pub(crate) use self::{
    root::{root_status, rotate_root},
    tenant::{rotate_tenant, status, turn_back, unfinished},
};
use crate::config::LimitError;

/// How long a retired key is kept, wrapped. Unit: time; 7 days.
pub const RETIRED_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// How a rotation goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationOptions {
    batch: u32,
    grace: Duration,
}

impl RotationOptions {
    /// How many cells are replaced in one transaction.
    #[must_use]
    pub const fn batch(&self) -> u32 {
        self.batch
    }

    /// How long the old key still opens after the new one was added, and after the last cell was replaced.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        self.grace
    }

    /// Sets how many cells are replaced in one transaction.
    ///
    /// * Unit: cells; a batch ends earlier once it holds 8 MiB. Default: 256. Accepted: 1 to 10,000.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_batch(mut self, cells: u32) -> Result<Self, LimitError> {
        self.batch = crate::config::number("rotation batch", u64::from(cells), 1, 10_000, "cells").map(|_| cells)?;
        Ok(self)
    }

    /// Sets how long the old key still opens, for those who have read a value and not opened it yet, and for processes that
    /// have not noticed the new key.
    ///
    /// * Default: 2 min, more than twice what another process may take to notice. Accepted: 1 s to 24 h. A few seconds are enough
    ///   on a backend of one process.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_grace(mut self, grace: Duration) -> Result<Self, LimitError> {
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(86_400));
        self.grace = crate::config::in_range("rotation grace", grace, least, most)?;
        Ok(self)
    }
}

impl Default for RotationOptions {
    fn default() -> Self {
        Self { batch: 256, grace: Duration::from_secs(120) }
    }
}

/// What a rotation of a tenant's key did, in this call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RotationReport {
    /// The key that everything is under now.
    pub key: KeyId,
    /// Cells that were sealed anew.
    pub resealed: u64,
    /// Cells that no key opens, and did not before: they were altered in the store, or moved. They are left as they are, and the
    /// log (target `ap_crypto`) names each. A retired key that one of them names is not deleted.
    pub damaged: u64,
    /// Keys that were retired.
    pub retired: u32,
    /// Keys that had been retired long enough and were deleted.
    pub deleted: u32,
}

/// Where a tenant's key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyStatus {
    /// The key that new values are sealed under.
    pub current: KeyId,
    /// Older keys that still open: more than none means that a rotation is under way, or was cut off.
    pub older: u32,
    /// Retired keys that are kept for a while.
    pub retired: u32,
    /// Cells under another key than the current one. Counting looks at every cell of the tenant.
    pub remaining: u64,
}

/// Which root keys the stored keys are wrapped under.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RootStatus {
    /// The root key that this runtime was built with.
    pub root: KeyId,
    /// How many stored keys are wrapped under it.
    pub wrapped: u64,
    /// How many are wrapped under others, by the id of those.
    pub others: BTreeMap<KeyId, u64>,
}

/// What a rotation writes down, given its stage and the key it is about.
pub(crate) type Events<'e> = &'e (dyn Fn(&'static str, Option<KeyId>) -> AuditEvent + Send + Sync);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_hold_at_their_edges() {
        let options = RotationOptions::default();
        assert!(options.with_batch(0).is_err());
        assert!(options.with_batch(1).is_ok());
        assert!(options.with_batch(10_000).is_ok());
        assert!(options.with_batch(10_001).is_err());
        assert!(options.with_grace(Duration::from_millis(999)).is_err());
        assert!(options.with_grace(Duration::from_secs(1)).is_ok());
        assert!(options.with_grace(Duration::from_secs(86_400)).is_ok());
        assert!(options.with_grace(Duration::from_millis(86_400_001)).is_err());
    }
}
