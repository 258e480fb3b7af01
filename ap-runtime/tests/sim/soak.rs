//! Seeds, a few by default, many with `AP_SEEDS`.

use std::env;

use super::flows;

fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("`{name}` is a number")))
}

/// `AP_SEED` is the first seed, `AP_SEEDS` how many there are.
#[test]
fn seeds() {
    let (first, count) = (number("AP_SEED", 1), number("AP_SEEDS", 100));
    let worlds = [
        flows::effects(),
        flows::busy(),
        flows::alone(),
        flows::loop_parallel_wait(),
        flows::subflows(),
        flows::queues(),
        flows::shared_queue(),
        flows::gated(),
        flows::scheduled(),
    ];
    let worlds = worlds.map(|world| world.prepare().unwrap());
    let (mut points, mut faults, mut hash) = (0, 0, 0_u64);
    for seed in first..first + count {
        let report = worlds[(seed % worlds.len() as u64) as usize].run_seed(seed).unwrap();
        report.assert_clean();
        points += report.points();
        faults += report.faults();
        hash = hash.rotate_left(5) ^ report.trace_hash();
    }
    println!("sim: seeds={count} points={points} faults={faults} violations=0 hash={hash:016x}");
}

/// A worker claimed a run for the first time and slept until another one had taken it over and planned an effect; awake, it
/// read the journal, took the plan for its own and performed it, too.
#[test]
fn a_worker_that_slept_performs_nothing_that_its_successor_planned() {
    flows::gated().prepare().unwrap().run_seed(8_737).unwrap().assert_clean();
}
