//! Defects that must be caught, each by the promise it breaks.

use ap_runtime::sim::{Explore, Mutant};

use super::flows;

/// Plays at most this many seeds for one defect.
const SEEDS: u64 = 300;

/// Plays seeds until one breaks a promise; returns which promises were broken.
#[track_caller]
fn caught(mutant: Mutant, world: fn() -> Explore) -> Vec<&'static str> {
    let (defective, sound) = (world().mutant(mutant).prepare().unwrap(), world().prepare().unwrap());
    for seed in 0..SEEDS {
        let report = defective.run_seed(seed).unwrap();
        if let Some(failure) = report.failures().first() {
            println!("{mutant:?}: seed {seed}, {}", failure.plan);
            // The seed is innocent: it is the defect that breaks the promise.
            sound.run_seed(seed).unwrap().assert_clean();
            return failure.violations.iter().map(|violation| violation.invariant).collect();
        }
    }
    panic!("{mutant:?} was not caught by {SEEDS} seeds");
}

macro_rules! caught {
    ($($name:ident: $mutant:ident in $world:ident by $($promise:literal)|+;)+) => {
        $(
            #[test]
            fn $name() {
                let broken = caught(Mutant::$mutant, flows::$world);
                assert!(broken.iter().any(|promise| matches!(*promise, $($promise)|+)), "caught by {broken:?} only");
            }
        )+

        /// Every defect has a test above.
        #[test]
        fn every_defect_is_tried() {
            let tried = [$(Mutant::$mutant),+];
            for mutant in Mutant::ALL {
                assert!(tried.contains(mutant), "{mutant:?} is not tried");
            }
        }
    };
}

caught! {
    an_acknowledgement_before_the_commit: AckBeforeCommit in effects by "acknowledged" | "effects" | "audit" | "journal";
    a_dropped_audit_record: AuditDropped in effects by "audit";
    a_claim_that_keeps_the_epoch: ClaimKeepsEpoch in effects by "epochs";
    a_run_claimed_twice: ClaimedTwice in effects by "epochs";
    a_delivery_taken_for_a_new_one: DedupeDropped in effects by "one run";
    an_end_that_is_not_written: EndNotWritten in effects by "terminal";
    an_entry_that_is_not_written: EntryDropped in effects by "journal" | "acknowledged";
    an_ignored_epoch: EpochIgnored in effects by "epochs";
    a_heartbeat_that_resurrects: HeartbeatResurrects in effects by "epochs";
    a_payload_in_clear: InClear in effects by "clear";
    a_reordered_journal: JournalReordered in effects by "journal";
    a_skipped_sync: SyncSkipped in effects by "acknowledged" | "audit" | "effects" | "epochs" | "journal";
    a_run_that_goes_on_after_its_end: TerminalReopened in effects by "terminal";
    a_gate_that_is_ignored: GateIgnored in gated by "gates";
    a_job_that_is_not_done_when_it_is: JobEndDropped in queues by "jobs" | "ends" | "effects";
    a_lost_job: JobLost in queues by "jobs";
    a_job_handed_out_twice: JobTwice in shared_queue by "jobs";
    a_resume_that_came_too_early: ResumeLost in loop_parallel_wait by "signals";
    a_signal_delivered_twice: SignalTwice in loop_parallel_wait by "signals";
    a_subflow_started_twice: SubflowTwice in subflows by "family";
    a_tick_handed_out_twice: TickTwice in scheduled by "ticks";
    a_timer_that_fires_early: TimerEarly in loop_parallel_wait by "timers";
    a_lost_timer: TimerLost in loop_parallel_wait by "ends" | "timers";
    a_conflict_that_is_ignored: ConflictIgnored in counted by "values";
    a_lost_value: ValueLost in counted by "values";
    a_torn_commit: TornCommit in effects by "journal" | "acknowledged";
}
