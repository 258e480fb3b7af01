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
    let worlds = [flows::effects(), flows::looped().deliveries(3), flows::effects().workers(1).deliveries(2)];
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
