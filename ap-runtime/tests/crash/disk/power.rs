//! The power fails.

use std::time::Duration;

use super::shim::{Calls, Counts, Disk};
use crate::{
    child::{Child, Start},
    host::Acknowledge,
    rng::{Rng, setting},
    verdict::Verdict,
    world::World,
};

/// Power failures that find requests in flight, unless `AP_CRASHES` says otherwise.
const CRASHES: u64 = 16;

/// Set `AP_CRASHES` and `AP_SEED` for a longer or another run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_stuck_when_the_power_fails_under_load() {
    let (crashes, seed) = (setting("AP_CRASHES", CRASHES), setting("AP_SEED", 1));
    let world = World::on_sqlite(seed).await;
    let disk = world.disk();
    fail_again_and_again(&world, &disk, crashes).await;
    let verdict = world.verdict().await;
    let Counts { writes, syncs, taken_back, .. } = disk.counts();
    println!(
        "power failures: seed {seed}, {crashes} under load, {writes} writes, {syncs} syncs, {taken_back} sectors taken back; \
         {verdict}; {:.1} s",
        world.age().as_secs_f64()
    );
    verdict.assert(&format!("AP_SEED={seed} AP_CRASHES={crashes}"));
    verdict.assert_put_to_the_test(crashes);
    assert!(writes > crashes && syncs > crashes && taken_back > crashes, "the disk was hardly used");
}

/// The sync of every commit is skipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_does_nothing_is_found_out() {
    let world = World::on_sqlite(setting("AP_SEED", 1)).await;
    let disk = world.disk();
    disk.lie();
    let verdict = of_a_few_failures(&world, &world.start(Some(&disk))).await;
    println!("without syncs: {verdict}");
    assert!(verdict.lost() > 0, "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_before_its_commit_is_found_out() {
    let world = World::on_sqlite(setting("AP_SEED", 1)).await;
    let disk = world.disk();
    let start = Start { acknowledge: Acknowledge::Early, ..world.start(Some(&disk)) };
    let verdict = of_a_few_failures(&world, &start).await;
    println!("acknowledged early: {verdict}");
    assert!(verdict.lost() > 0, "{verdict}");
}

/// Without a crash the host that acknowledges too early loses nothing: it is the crash that finds it out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_before_its_commit_is_kept_without_a_crash() {
    let world = World::on_sqlite(setting("AP_SEED", 1)).await;
    let start = Start { acknowledge: Acknowledge::Early, ..world.start(None) };
    let mut child = Child::start(&start);
    world.load.send_to(&[child.ready().await.expect("it serves")]);
    world.load.acknowledged(50).await;
    world.load.send_to(&[]);
    child.close().await;
    let verdict = world.verdict().await;
    verdict.assert("without a crash");
}

/// The verdict after a few power failures, each with deliveries on their way.
async fn of_a_few_failures(world: &World, start: &Start<'_>) -> Verdict {
    for _ in 0..4 {
        let mut child = Child::start(start);
        world.load.send_to(&[child.ready().await.expect("it serves")]);
        world.load.acknowledged_after_now(10).await;
        child.power_off().await;
        world.load.send_to(&[]);
    }
    world.verdict().await
}

async fn fail_again_and_again(world: &World, disk: &Disk, crashes: u64) {
    let mut rng = Rng::new(world.seed ^ 0x706f_7765);
    let mut under_load = 0;
    while under_load < crashes {
        // Every other time some of the sectors that nobody synced are written.
        disk.tear(if rng.below(2) == 0 { rng.next() } else { 0 });
        disk.power_off_in(0, Calls::Both);
        if rng.below(8) == 0 {
            // While it opens the database: one of the first calls.
            disk.power_off_in(1 + rng.below(12), Calls::Both);
        }
        let mut child = Child::start(&world.start(Some(disk)));
        let Some(door) = child.ready().await else {
            child.powerless().await;
            continue;
        };
        world.load.send_to(&[door]);
        if under_load.is_multiple_of(4) {
            // A run whose process dies ten times in the same step is given up: that is not what is looked for here.
            world.load.acknowledged_more(20).await;
        }
        if rng.below(3) == 0 {
            tokio::time::sleep(Duration::from_millis(20 + rng.below(330))).await;
            under_load += u64::from(world.load.in_flight() > 0);
            child.power_off().await;
        } else {
            // As a sync begins everything it is for is lost; as a write begins, some of what it belongs to.
            let (calls, most) = if rng.below(2) == 0 { (Calls::Syncs, 60) } else { (Calls::Both, 400) };
            disk.power_off_in(1 + rng.below(most), calls);
            child.powerless().await;
            under_load += u64::from(world.load.in_flight() > 0);
        }
        world.load.send_to(&[]);
    }
}
