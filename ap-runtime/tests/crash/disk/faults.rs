//! The disk refuses calls.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::shim::{Calls, Counts, Failure};
use crate::{
    child::Child,
    rng::{Rng, setting},
    world::World,
};

/// How many calls fail in turn, the first to the last, unless `AP_FAULTS` says otherwise.
const FAULTS: u64 = 24;
/// How often every call of a start fails, each time in another way, unless `AP_ROUNDS` says otherwise.
const ROUNDS: u64 = 1;
const FAILURES: [Failure; 3] = [Failure::Half, Failure::Io, Failure::NoSpace];
/// After how many faults the power fails too.
const FAULTS_PER_CRASH: u64 = 6;
/// How long a disk that is away is away.
const AWAY: Duration = Duration::from_millis(200);
/// Longest time after a fault until the process serves as before.
const RECOVERY: Duration = Duration::from_secs(20);

/// While it serves, the n-th call fails, for n = 1, 2, …: nobody is acknowledged for what was not committed, and the
/// process goes on by itself. Now and then the power fails too, right behind a fault.
///
/// Set `AP_FAULTS` and `AP_SEED` for a longer or another run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fails_is_survived_without_a_restart() {
    let (faults, seed) = (setting("AP_FAULTS", FAULTS), setting("AP_SEED", 1));
    let world = World::on_sqlite(seed).await;
    let disk = world.disk();
    let mut rng = Rng::new(seed ^ 0x6469_736b);
    let mut worst = Duration::ZERO;
    let mut nth = 1;
    while nth <= faults {
        let mut child = Child::start(&world.start(Some(&disk)));
        world.load.send_to(&[child.ready().await.expect("the disk is well")]);
        for crash in (0..FAULTS_PER_CRASH).map(|fault| fault + 1 == FAULTS_PER_CRASH) {
            let failed = disk.counts().failed;
            let calls = [Calls::Writes, Calls::Syncs, Calls::Both][rng.below(3) as usize];
            let failure = FAILURES[rng.below(3) as usize];
            // Every fourth time the disk is away until it comes back.
            let away = rng.below(4) == 0;
            disk.fail(nth, calls, failure, if away { u64::MAX } else { 1 + rng.below(3) });
            wait_until(|| disk.counts().failed > failed, &format!("call {nth} of {calls:?} is never made")).await;
            if away {
                tokio::time::sleep(AWAY).await;
            }
            if crash {
                break;
            }
            disk.heal();
            let began = Instant::now();
            let sent = world.load.acknowledged_after_now(20);
            let recovered = tokio::time::timeout(RECOVERY, sent).await;
            assert!(recovered.is_ok(), "AP_SEED={seed}: {failure:?} at call {nth} of {calls:?} stopped the process");
            worst = worst.max(began.elapsed());
            nth += 1;
        }
        disk.tear(if rng.below(2) == 0 { rng.next() } else { 0 });
        disk.power_off_in(1 + rng.below(10), Calls::Both);
        child.powerless().await;
        disk.heal();
        world.load.send_to(&[]);
    }
    let verdict = world.verdict().await;
    let Counts { failed, .. } = disk.counts();
    println!(
        "disk faults: seed {seed}, {failed} calls failed, served again after {:.2} s at most; {verdict}; {:.1} s",
        worst.as_secs_f64(),
        world.age().as_secs_f64()
    );
    verdict.assert(&format!("AP_SEED={seed} AP_FAULTS={faults}"));
}

/// While it starts, the n-th call fails, for every n there is: it serves all the same, or it ends and says why, and the
/// next start serves.
///
/// Set `AP_ROUNDS` (3: every way to fail) and `AP_SEED` for a longer or another run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fails_at_the_start_leaves_a_database_that_opens() {
    let (rounds, seed) = (setting("AP_ROUNDS", ROUNDS), setting("AP_SEED", 1));
    let world = World::on_sqlite(seed).await;
    let disk = world.disk();
    let start = world.start(Some(&disk));
    serve_until_the_power_fails(&world, Child::start(&start)).await;
    let mut failures = 0;
    for round in 0..rounds {
        for nth in 1.. {
            let failure = FAILURES[(nth + round) as usize % FAILURES.len()];
            let failed = disk.counts().failed;
            disk.fail(nth, Calls::Both, failure, 1);
            let mut child = Child::start(&start);
            let serves = child.ready().await;
            disk.heal();
            match serves {
                Some(door) => serve_at(&world, child, door).await,
                None => {
                    failures += 1;
                    assert!(!child.end().await.success(), "it did not serve, and said that all is well");
                    serve_until_the_power_fails(&world, Child::start(&start)).await;
                }
            }
            if disk.counts().failed == failed {
                assert!(nth > 1, "no call is made at the start");
                break;
            }
        }
    }
    let verdict = world.verdict().await;
    println!("disk faults at the start: {failures} starts failed; {verdict}; {:.1} s", world.age().as_secs_f64());
    verdict.assert(&format!("AP_SEED={seed} AP_ROUNDS={rounds}"));
    assert!(failures > 0, "no start failed");
}

/// Leaves something to recover.
async fn serve_until_the_power_fails(world: &World, mut child: Child) {
    let door = child.ready().await.expect("the disk is well");
    serve_at(world, child, door).await;
}

async fn serve_at(world: &World, child: Child, door: SocketAddr) {
    world.load.send_to(&[door]);
    world.load.acknowledged_after_now(3).await;
    child.power_off().await;
    world.load.send_to(&[]);
}

async fn wait_until(holds: impl Fn() -> bool, otherwise: &str) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < RECOVERY, "{otherwise}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
