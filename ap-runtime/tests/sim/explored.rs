//! Flows whose every point is explored.

use super::flows;

/// Every crash point, each with no, an early and a late duplicate of the delivery.
#[test]
fn the_quickstart_survives_every_fault_at_every_point() {
    let report = flows::quickstart().max_schedules(250).run().unwrap();
    println!("{report}");
    assert!(report.is_exhaustive());
    report.assert_clean();
}

#[test]
fn effects_survive_every_fault_at_every_point() {
    let report = flows::effects().max_schedules(300).run().unwrap();
    println!("{report}");
    assert!(report.is_exhaustive());
    report.assert_clean();
}

#[test]
fn counting_scripts_survive_every_fault_at_every_point() {
    let report = flows::counted().max_schedules(600).run().unwrap();
    println!("{report}");
    report.assert_clean();
}

#[test]
fn expressions_survive_every_fault_at_every_point() {
    let report = flows::expressions().max_schedules(600).run().unwrap();
    println!("{report}");
    assert!(report.is_exhaustive());
    report.assert_clean();
}

#[test]
fn loop_parallel_and_wait_survive_every_fault_at_every_point() {
    let report = flows::loop_parallel_wait().max_schedules(1_200).run().unwrap();
    println!("{report}");
    assert!(report.is_exhaustive());
    report.assert_clean();
}

#[test]
fn subflows_survive_every_fault_at_every_point() {
    let report = flows::subflows().max_schedules(600).run().unwrap();
    println!("{report}");
    report.assert_clean();
}

/// The store's clock was ahead of the worker's: a run was let go of and claimed again at once, over and over.
#[test]
fn a_store_whose_clock_is_ahead_keeps_nobody_busy() {
    let report = flows::queues().prepare().unwrap().run_seed(43).unwrap();
    assert!(report.points() < 500, "{} points", report.points());
    report.assert_clean();
}

#[test]
fn queues_survive_every_fault_at_every_point() {
    let report = flows::queues().max_schedules(600).run().unwrap();
    println!("{report}");
    report.assert_clean();
}

#[test]
fn a_gate_survives_every_fault() {
    let report = flows::gated().max_schedules(100).run().unwrap();
    println!("{report}");
    report.assert_clean();
}

#[test]
fn a_schedule_survives_every_fault() {
    let report = flows::scheduled().max_schedules(60).run().unwrap();
    println!("{report}");
    report.assert_clean();
}
