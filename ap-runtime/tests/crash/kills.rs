//! A process that is killed again and again under load.

use std::{net::SocketAddr, time::Duration};

use crate::{
    child::Child,
    rng::{Rng, setting},
    world::World,
};

/// Kills that find requests in flight, unless `AP_KILLS` says otherwise.
const KILLS: u64 = 50;

/// On PostgreSQL, unless `AP_KILLS` says otherwise.
const KILLS_ON_POSTGRES: u64 = 20;
/// Processes side by side, unless `AP_WORKERS` says otherwise.
const WORKERS: u64 = 3;

/// Set `AP_KILLS` and `AP_SEED` for a longer or another run. The seed fixes what is sent and when it is meant to be
/// interrupted; where a kill lands is up to the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_stuck_when_the_process_is_killed_under_load() {
    let (kills, seed) = (setting("AP_KILLS", KILLS), setting("AP_SEED", 1));
    let world = World::on_sqlite(seed).await;
    survive(&world, 1, kills).await;
}

/// Set `AP_WORKERS` too for another number of processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_stuck_when_one_of_several_processes_is_killed_under_load() {
    let (kills, seed) = (setting("AP_KILLS", KILLS_ON_POSTGRES), setting("AP_SEED", 1));
    let world = World::on_postgres(seed).await;
    let workers = usize::try_from(setting("AP_WORKERS", WORKERS)).unwrap();
    survive(&world, workers, kills).await;
}

async fn survive(world: &World, workers: usize, kills: u64) {
    let seed = world.seed;
    let survived = kill_again_and_again(world, workers, kills).await;
    let verdict = world.verdict().await;
    println!(
        "kill loop on {}: seed {seed}, {workers} at work, {} kills under load, {} at start-up; {verdict}; {:.1} s",
        world.store.name(),
        survived.under_load,
        survived.at_start,
        world.age().as_secs_f64()
    );
    verdict.assert(&format!("AP_SEED={seed} AP_KILLS={kills}"));
    verdict.assert_put_to_the_test(kills);
}

/// How often processes were killed.
#[derive(Default)]
struct Survived {
    under_load: u64,
    at_start: u64,
}

/// Processes side by side, each with its door.
struct Workers<'a> {
    world: &'a World,
    serving: Vec<(Child, SocketAddr)>,
}

impl Workers<'_> {
    async fn start(&mut self) {
        let mut child = Child::start(&self.world.start(None));
        let door = child.ready().await.expect("the process ended by itself before it served");
        self.serving.push((child, door));
        self.announce();
    }

    async fn kill(&mut self, which: usize) {
        let (child, _) = self.serving.swap_remove(which);
        child.kill().await;
        self.announce();
    }

    fn announce(&self) {
        let doors: Vec<SocketAddr> = self.serving.iter().map(|(_, door)| *door).collect();
        self.world.load.send_to(&doors);
    }
}

async fn kill_again_and_again(world: &World, workers: usize, kills: u64) -> Survived {
    let mut rng = Rng::new(world.seed ^ 0x6b69_6c6c);
    let mut survived = Survived::default();
    let mut running = Workers { world, serving: Vec::new() };
    while survived.under_load < kills {
        if rng.below(8) == 0 {
            // While it opens the database and takes up what another left behind.
            let child = Child::start(&world.start(None));
            tokio::time::sleep(Duration::from_millis(rng.below(80))).await;
            child.kill().await;
            survived.at_start += 1;
        }
        while running.serving.len() < workers {
            running.start().await;
        }
        if survived.under_load.is_multiple_of(4) {
            // A run whose process dies ten times in the same step is given up: that is not what is looked for here.
            world.load.acknowledged_more(20).await;
        }
        tokio::time::sleep(Duration::from_millis(20 + rng.below(330))).await;
        // Now and then all of them at once.
        let victims = if rng.below(8) == 0 { workers } else { 1 };
        for _ in 0..victims {
            survived.under_load += u64::from(world.load.in_flight() > 0);
            running.kill(rng.below(running.serving.len() as u64) as usize).await;
        }
    }
    while !running.serving.is_empty() {
        running.kill(0).await;
    }
    survived
}
