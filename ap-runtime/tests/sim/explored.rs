//! Flows whose every point is explored.

use super::flows;

#[test]
fn effects_survive_every_fault_at_every_point() {
    let report = flows::effects().max_schedules(10_000).run().unwrap();
    println!("{report}");
    assert!(report.is_exhaustive());
    report.assert_clean();
}
