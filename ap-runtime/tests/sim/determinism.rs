//! One seed, one trace.

use super::flows;

#[test]
fn the_same_seed_gives_the_same_trace() {
    let hash = |seed| flows::effects().seed(seed).max_schedules(20).run().unwrap().trace_hash();
    assert_eq!(hash(42), hash(42));
    let prepared = flows::effects().prepare().unwrap();
    let again = flows::effects().prepare().unwrap();
    for seed in 0..20 {
        let (one, other) = (prepared.run_seed(seed).unwrap(), again.run_seed(seed).unwrap());
        assert_eq!(one.trace_hash(), other.trace_hash(), "seed {seed}");
        assert!(one.points() > 0);
    }
}

#[test]
fn different_seeds_give_different_traces() {
    let prepared = flows::effects().prepare().unwrap();
    let mut hashes: Vec<u64> = (0..50).map(|seed| prepared.run_seed(seed).unwrap().trace_hash()).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 50);
}
