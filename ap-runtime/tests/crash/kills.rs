//! A process that is killed again and again under load.

use std::time::Duration;

use crate::{
    child::Child,
    rng::{Rng, setting},
    world::World,
};

/// Kills that find requests in flight, unless `AP_KILLS` says otherwise.
const KILLS: u64 = 50;

/// Set `AP_KILLS` and `AP_SEED` for a longer or another run. The seed fixes what is sent and when it is meant to be
/// interrupted; where a kill lands is up to the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_stuck_when_the_process_is_killed_under_load() {
    let (kills, seed) = (setting("AP_KILLS", KILLS), setting("AP_SEED", 1));
    let world = World::on_sqlite(seed).await;
    let survived = kill_again_and_again(&world, kills).await;
    let verdict = world.verdict().await;
    println!(
        "kill loop: seed {seed}, {} kills under load, {} at start-up; {verdict}; {:.1} s",
        survived.under_load,
        survived.at_start,
        world.age().as_secs_f64()
    );
    verdict.assert(&format!("AP_SEED={seed} AP_KILLS={kills}"));
    verdict.assert_put_to_the_test(kills);
}

/// How often the process was killed.
#[derive(Default)]
struct Survived {
    under_load: u64,
    at_start: u64,
}

async fn kill_again_and_again(world: &World, kills: u64) -> Survived {
    let mut rng = Rng::new(world.seed ^ 0x6b69_6c6c);
    let mut survived = Survived::default();
    while survived.under_load < kills {
        let mut child = Child::start(&world.start(None));
        if rng.below(8) == 0 {
            // While it opens the database and takes up what the last one left behind.
            tokio::time::sleep(Duration::from_millis(rng.below(80))).await;
            child.kill().await;
            survived.at_start += 1;
            continue;
        }
        world.load.send_to(&[child.ready().await.expect("the process ended by itself before it served")]);
        if survived.under_load % 4 == 0 {
            // A run whose process dies ten times in the same step is given up: that is not what is looked for here.
            world.load.acknowledged_more(20).await;
        }
        tokio::time::sleep(Duration::from_millis(20 + rng.below(330))).await;
        let in_flight = world.load.in_flight();
        child.kill().await;
        world.load.send_to(&[]);
        survived.under_load += u64::from(in_flight > 0);
    }
    survived
}
