//! Public suites for the seams: what each promises, one rule per function.
//!
//! | Seam | Suite | It takes |
//! | --- | --- | --- |
//! | [`crate::store::Backend`] | [`backend_conformance!`](crate::backend_conformance) | a [`Harness`] |
//! | [`crate::wakeup::Wakeup`] | [`wakeup_conformance!`](crate::wakeup_conformance) | a [`WakeupHarness`] |
//! | [`crate::clock::Clock`] | [`clock_conformance!`](crate::clock_conformance) | a closure that makes one |
//! | [`crate::sandbox::CodeSandbox`] | [`sandbox_conformance!`](crate::sandbox_conformance) | a [`SandboxHarness`] |
//! | [`ap_crypto::entropy::Entropy`] | [`entropy_conformance!`](crate::entropy_conformance) | the source itself |
//!
//! Turn on the feature `conformance` for your tests and write the macro's line in a test file, in a module of its own if the
//! file has several: it makes one `#[test]` per rule. A rule's name is the sentence that was broken when it fails. Time in
//! the suite for backends comes from a [`ManualClock`], so no rule of it waits.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test support: a failed expectation is a failed rule"
)]

mod cell;
mod clock;
mod connection;
mod control;
mod entropy;
mod fair;
mod file;
mod pause;
mod queue;
mod record;
mod recovery;
mod run;
mod sample;
mod sandbox;
mod signal;
mod subflow;
mod subject;
mod system;
mod tenancy;
mod trigger;
mod value;
mod wakeup;
mod worker;

use std::{future::Future, sync::Arc};

use ap_core::time::Timestamp;
use async_trait::async_trait;
use tokio::sync::watch;

pub use self::{
    cell::*, clock::*, connection::*, control::*, entropy::*, fair::*, file::*, pause::*, queue::*, record::*,
    recovery::*, run::*, sandbox::*, signal::*, subflow::*, subject::*, system::*, tenancy::*, trigger::*, value::*,
    wakeup::*, worker::*,
};
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(rule)
}

/// Runs a backend through every rule, one `#[test]` per rule.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use ap_runtime::{backend::memory::MemoryBackend, conformance::{Harness, ManualClock}, store::Backend};
///
/// struct Memory;
///
/// #[async_trait::async_trait]
/// impl Harness for Memory {
///     type Guard = Arc<MemoryBackend>;
///
///     async fn open_empty(&self, clock: Arc<ManualClock>) -> (Self::Guard, Arc<dyn Backend>) {
///         let backend = Arc::new(MemoryBackend::new(clock));
///         (Arc::clone(&backend), backend)
///     }
///
///     async fn restart(&self, guard: &mut Self::Guard) -> Arc<dyn Backend> {
///         guard.crash();
///         Arc::clone(guard) as Arc<dyn Backend>
///     }
/// }
///
/// ap_runtime::backend_conformance!(Memory);
/// ```
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
            // cell
            pages_of_keys_cover_each_once,
            a_key_is_replaced_only_while_it_is_unchanged,
            a_deleted_key_is_gone,
            every_sealed_value_is_a_cell,
            a_cell_is_replaced_only_while_it_is_unchanged,
            cells_of_several_tables_are_not_replaced_together,
            an_answer_of_cells_is_bounded_by_its_bytes,
            // tenancy
            reads_hide_other_projects,
            listings_hide_other_projects,
            writes_do_not_reach_other_projects,
            equal_ids_in_two_projects_are_two_records,
            audit_trails_and_keys_stay_in_their_scope,
            an_acceptance_cannot_use_the_flow_of_another_project,
            dedupe_keys_are_per_project,
            a_lease_is_worthless_in_another_project,
            signals_jobs_and_files_stay_in_their_project,
            equal_ids_of_signals_jobs_and_files_are_two_records,
            keys_of_flow_control_are_per_project,
            a_claimed_trigger_is_worthless_in_another_project,
            // connection
            a_connection_is_leased_by_one_at_a_time,
            a_lease_on_a_connection_ends_by_time_or_with_a_write,
            a_released_connection_rests_as_long_as_it_is_told,
            a_replaced_holder_cannot_write_under_its_lease,
            a_lease_needs_the_revision_it_was_seen_at,
            a_connection_is_due_from_its_time_on,
            a_connection_of_the_platform_shows_where_it_was_shared,
            shared_names_are_unique_within_a_project,
            a_deleted_connection_is_taken_from_every_project,
            equal_ids_of_a_project_and_the_platform_are_two_connections,
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
            // signal
            a_signal_is_kept_until_a_commit_takes_it,
            signals_come_in_order_of_id,
            a_slot_takes_one_signal,
            a_signal_id_is_used_once_in_a_run,
            a_signal_after_the_end_is_over,
            a_signal_wakes_a_paused_run,
            an_early_signal_is_not_lost,
            a_signal_and_a_pause_never_miss_each_other,
            concurrent_signals_of_one_slot_deliver_one,
            a_signal_does_not_start_a_queued_run,
            a_commit_signals_other_runs,
            a_heartbeat_names_the_signaled,
            // pause
            a_paused_run_is_held_by_nobody,
            a_paused_run_goes_on_when_it_is_due,
            a_failed_run_can_be_opened_again,
            a_run_is_opened_again_with_the_slots_it_used,
            only_a_failed_run_is_opened_again,
            a_listing_of_runs_follows_its_filter,
            the_next_due_is_the_earliest_of_all,
            // control
            a_gate_lets_no_more_pass_than_its_limit,
            a_run_stays_past_its_gate_until_it_ends,
            runs_pass_a_gate_in_order,
            a_gate_goes_by_the_limit_of_the_next_run,
            a_full_gate_skips_who_asks_for_it,
            a_gate_holds_under_concurrency,
            a_throttle_spaces_what_exceeds_it,
            a_rate_limit_refuses_what_exceeds_it,
            a_rate_limit_counts_created_runs_only,
            a_debounced_run_waits_for_quiet,
            a_debounced_run_is_replaced_by_a_newer,
            a_debounce_ends_at_its_longest_wait,
            a_newer_run_takes_the_place_of_the_replaced,
            a_replaced_run_leaves_its_gate,
            concurrent_debounced_runs_leave_one,
            a_sweep_forgets_paces_that_have_passed,
            control_goes_by_the_clock_of_the_store,
            // fair
            a_share_is_kept_within_its_bounds,
            within_a_project_priority_comes_first,
            a_backlog_does_not_hold_up_other_projects,
            projects_are_served_by_weight,
            a_project_stays_within_its_limit,
            claims_stay_within_the_total,
            limits_do_not_keep_a_lost_run,
            concurrent_claims_stay_within_the_limits,
            ready_runs_of_all_kinds_share_one_order,
            // subflow
            a_commit_starts_runs,
            a_stale_start_refuses_the_commit,
            a_taken_id_refuses_the_commit,
            a_commit_stays_in_its_project,
            a_start_waits_where_a_delivery_is_refused,
            a_start_does_not_push_in,
            // queue
            jobs_are_taken_oldest_first,
            taking_again_returns_the_same_jobs,
            a_job_that_goes_back_is_taken_first_again,
            a_queue_holds_no_more_than_its_limit,
            starts_of_jobs_are_spaced,
            a_dead_job_can_be_driven_again,
            jobs_go_back_when_their_run_ends,
            jobs_stay_with_a_run_that_goes_on,
            taking_jobs_needs_the_lease,
            a_run_ends_its_own_jobs_only,
            concurrent_takes_never_share_a_job,
            // subject
            a_subject_has_one_key_that_comes_with_its_first_run,
            a_run_about_a_subject_needs_its_key_of_that_moment,
            a_refused_run_brings_no_key,
            an_erased_key_is_gone_and_what_it_covered_is_noted,
            an_erasure_ends_the_runs_of_its_subject_and_no_other,
            an_erasure_ends_many_runs_in_batches,
            an_erasure_stays_in_its_project,
            an_erased_subject_can_have_another_key,
            an_erasure_survives_a_restart_half_way,
            a_run_that_a_run_starts_shares_its_key,
            subject_keys_are_paged_and_replaced_while_unchanged,
            an_acceptance_and_an_erasure_never_miss_each_other,
            // file
            a_file_is_kept_until_it_is_deleted,
            a_commit_brings_its_files,
            // value
            a_value_is_kept_until_it_is_deleted,
            values_are_changed_while_they_are_as_expected,
            a_change_of_values_is_of_its_own_values,
            values_stay_in_their_project,
            values_stay_within_their_limit,
            a_commit_brings_its_values,
            of_concurrent_writers_of_a_value_one_wins,
            a_restart_keeps_values,
            // trigger
            a_due_trigger_is_claimed_once,
            the_longest_due_trigger_is_claimed_first,
            triggers_are_claimed_fairly_between_projects,
            concurrent_claims_never_share_a_trigger,
            a_trigger_is_fired_once,
            a_lost_trigger_is_claimed_again,
            a_poll_keeps_where_it_stands,
            writing_a_flow_sets_its_trigger,
            a_closed_flow_is_left_alone,
            a_refused_run_does_not_stop_a_trigger,
            a_refused_firing_changes_nothing,
            // worker
            a_worker_is_known_until_it_retires,
            a_silent_worker_is_forgotten,
            // recovery
            a_restart_keeps_everything_acknowledged,
            a_restart_frees_runs_without_waiting,
            a_restart_fences_the_former_holder,
            a_restart_leaves_ended_runs_alone,
            a_restart_keeps_what_runs_wait_for,
            a_restart_keeps_jobs_and_files,
            a_restart_keeps_schedules_and_polls
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
