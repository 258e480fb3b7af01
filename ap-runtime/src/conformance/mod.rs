//! A public suite for backends: what every seam of [`crate::store`] promises, one rule per function.
//!
//! Implement [`Harness`] for a backend and write `ap_runtime::backend_conformance!(MyHarness);` in a test file: it makes
//! one `#[test]` per rule. A rule's name is the sentence that was broken when it fails. Every time in the suite comes
//! from a [`ManualClock`], so no rule waits.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "test support: a failed expectation is a failed rule"
)]

mod record;
mod recovery;
mod run;
mod sample;
mod system;
mod tenancy;

use std::{future::Future, sync::Arc};

use ap_core::time::Timestamp;
use async_trait::async_trait;
use tokio::sync::watch;

pub use self::{record::*, recovery::*, run::*, system::*, tenancy::*};
use crate::{clock::Clock, store::Backend};

/// Gives each rule an empty backend and cleans up after it.
#[async_trait]
pub trait Harness: Sync {
    /// What keeps the data: a temporary directory, a database schema. Dropped when the rule ends.
    type Guard: Send + Sync;

    /// Opens an empty backend whose leases and deliveries expire by `clock`.
    async fn open_empty(&self, clock: Arc<ManualClock>) -> (Self::Guard, Arc<dyn Backend>);

    /// Ends the backend as `kill -9` would, and opens what is left by the same clock. A backend that keeps nothing on disk
    /// does to its data what a restart would.
    async fn restart(&self, guard: &mut Self::Guard) -> Arc<dyn Backend>;

    /// Whether the backend belongs to one process at a time. Then a restart knows that every lease is over, and frees runs and
    /// triggers at once. Else others may hold leases, and they are waited for. Default: it does.
    fn one_process(&self) -> bool {
        true
    }
}

/// A clock that stands still until it is told otherwise.
#[derive(Debug)]
pub struct ManualClock(watch::Sender<Timestamp>);

impl ManualClock {
    /// A clock that reads `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self(watch::Sender::new(now))
    }

    /// Moves it forward.
    pub fn advance(&self, by: std::time::Duration) {
        self.0.send_modify(|now| *now = now.saturating_add(by));
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.borrow()
    }

    async fn sleep_until(&self, at: Timestamp) {
        // The sender lives as long as `self`, so the channel cannot close meanwhile.
        let _ = self.0.subscribe().wait_for(|now| *now >= at).await;
    }
}

/// Runs a rule to its end on a runtime of its own.
///
/// # Panics
/// If the runtime cannot be made, or the rule is broken.
pub fn block_on<F: Future>(rule: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(rule)
}

/// Runs a backend through every rule, one `#[test]` per rule.
///
/// # Examples
/// See `tests/conformance.rs` of this crate.
#[macro_export]
macro_rules! backend_conformance {
    ($harness:expr) => {
        $crate::__conformance_tests! { $harness;
            // record
            a_project_and_its_key_are_created_together,
            keys_are_unique_in_the_whole_table,
            a_flow_of_a_missing_project_is_refused,
            flow_preconditions_hold,
            a_flow_and_its_versions_are_written_together,
            a_locked_version_never_changes,
            version_numbers_are_unique_within_a_flow,
            webhook_hashes_are_unique_over_all_projects,
            connection_preconditions_hold,
            connection_names_are_unique_within_a_project,
            deleting_a_connection_needs_its_revision,
            pages_cover_each_record_once,
            sealed_bytes_come_back_unchanged,
            audit_ids_are_unique_within_a_scope,
            a_refused_write_leaves_no_audit_record,
            a_dropped_write_leaves_old_or_new,
            // tenancy
            reads_hide_other_projects,
            listings_hide_other_projects,
            writes_do_not_reach_other_projects,
            equal_ids_in_two_projects_are_two_records,
            audit_trails_and_keys_stay_in_their_scope,
            an_acceptance_cannot_use_the_flow_of_another_project,
            dedupe_keys_are_per_project,
            a_lease_is_worthless_in_another_project,
            // run
            an_accepted_run_can_be_read_at_once,
            a_commit_appends_and_ends,
            a_commit_that_stays_keeps_the_lease,
            a_commit_may_carry_nothing,
            a_released_run_can_be_claimed,
            a_commit_after_the_end_is_fenced,
            a_commit_under_a_wrong_epoch_is_fenced,
            a_commit_after_another_claim_is_fenced,
            a_sequence_number_is_used_once,
            a_refused_commit_changes_nothing,
            a_run_ends_in_a_terminal_status_only,
            a_dropped_commit_leaves_old_or_new,
            // system
            a_route_follows_its_flow,
            a_duplicate_delivery_gets_the_first_run,
            an_expired_key_is_a_new_delivery,
            a_stale_route_accepts_nothing,
            a_duplicate_is_one_even_on_a_stale_route,
            a_run_id_is_accepted_once,
            a_new_run_has_the_status_of_its_lease,
            concurrent_deliveries_of_one_key_make_one_run,
            claims_come_oldest_first_and_respect_the_limit,
            a_live_lease_is_not_claimed,
            an_expired_lease_is_claimed_with_a_new_epoch,
            an_expired_lease_is_good_until_somebody_claims,
            concurrent_claims_never_share_a_run,
            a_heartbeat_extends_and_reports_the_lost,
            a_sweep_forgets_what_has_expired,
            // recovery
            a_restart_keeps_everything_acknowledged,
            a_restart_frees_runs_without_waiting,
            a_restart_fences_the_former_holder,
            a_restart_leaves_ended_runs_alone
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ($harness:expr; $($rule:ident),+ $(,)?) => {$(
        #[test]
        fn $rule() {
            $crate::conformance::block_on($crate::conformance::$rule(&$harness));
        }
    )+};
}
