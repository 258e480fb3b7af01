//! A process that is killed again and again under load loses nothing, doubles nothing, and leaves nothing stuck.
//!
//! `kill -9` takes a process, not the machine: what this proves is the order of commits and acknowledgements, not that a
//! disk keeps what it was told to keep.
#![cfg(feature = "sqlite")]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod child;
mod flows;
mod host;
mod load;
mod peer;
mod rng;
mod verdict;
mod wire;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use self::{
    child::Child,
    host::Host,
    load::Load,
    peer::Peer,
    rng::{Rng, setting},
    verdict::Verdict,
};

/// Kills that find requests in flight, unless `AP_KILLS` says otherwise.
const KILLS: u64 = 50;
/// Longest time all that was accepted may take to end after the last restart.
const QUIET: Duration = Duration::from_secs(120);

/// Set `AP_KILLS` and `AP_SEED` for a longer or another run. The seed fixes what is sent and when it is meant to be
/// interrupted; where a kill lands is up to the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_stuck_when_the_process_is_killed_under_load() {
    let (kills, seed) = (setting("AP_KILLS", KILLS), setting("AP_SEED", 1));
    let began = Instant::now();
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("flows.db");
    let peer = Peer::start(seed).await;
    let setup = host::set_up(&database, &peer).await;
    let load = Load::start(&setup, seed);

    let survived = kill_again_and_again(&database, &peer, &load, kills, seed).await;
    let after_the_kill = verdict::integrity(&database);

    let host = Host::open(&database, peer.address()).await;
    load.send_to(Some(host.serve().await));
    let left = load.drain(QUIET).await;

    let mut verdict = Verdict::of(&host, &setup, &load, &peer, QUIET).await;
    host.close().await;
    verdict.add_database(&database, after_the_kill);
    verdict.add_left_unacknowledged(left);

    println!(
        "kill loop: seed {seed}, {} kills under load, {} at start-up; {verdict}; {:.1} s",
        survived.under_load,
        survived.at_start,
        began.elapsed().as_secs_f64()
    );
    verdict.assert(seed, kills);
}

/// How often the process was killed.
#[derive(Default)]
struct Survived {
    under_load: u64,
    at_start: u64,
}

async fn kill_again_and_again(database: &Path, peer: &Peer, load: &Load, kills: u64, seed: u64) -> Survived {
    let mut rng = Rng::new(seed ^ 0x6b69_6c6c);
    let mut survived = Survived::default();
    while survived.under_load < kills {
        let mut child = Child::start(database, peer.address());
        if rng.below(8) == 0 {
            // While it opens the database and takes up what the last one left behind.
            tokio::time::sleep(Duration::from_millis(rng.below(80))).await;
            child.kill().await;
            survived.at_start += 1;
            continue;
        }
        load.send_to(Some(child.ready().await));
        tokio::time::sleep(Duration::from_millis(20 + rng.below(330))).await;
        let in_flight = load.in_flight();
        child.kill().await;
        load.send_to(None);
        survived.under_load += u64::from(in_flight > 0);
    }
    survived
}
