//! The scenario on both stores, and that it fails where it must.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use leak::{
    echo::Echo,
    log,
    memory::{self, Allocator},
    postgres::Database,
    scenario,
    search::Search,
    secrets::Secrets,
    storage::Storage,
    world::World,
};

/// The log belongs to the whole process: a test with a defence off must not write into that of another.
fn alone() -> MutexGuard<'static, ()> {
    static LOG: Mutex<()> = Mutex::new(());
    let guard = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    log::forget();
    guard
}

fn play(test: impl Future<Output = ()>) {
    let _alone = alone();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

#[test]
fn a_credential_appears_nowhere() {
    play(async {
        let report = scenario::play(Storage::sqlite().await, true).await;
        assert!(report.leaks.is_empty(), "{:#?}", report.leaks);
        assert!(report.flows >= 30 && report.masks > 100, "{report:?}");
    });
}

#[test]
fn a_credential_appears_nowhere_in_postgres_either() {
    play(async {
        let report = scenario::play(Storage::Postgres(Database::open().await), true).await;
        assert!(report.leaks.is_empty(), "{:#?}", report.leaks);
    });
}

#[test]
fn nothing_is_left_in_the_memory_of_a_host_that_wipes_what_it_frees() {
    play(async {
        let host = Path::new(env!("CARGO_BIN_EXE_leak-host"));
        let found = memory::search(Allocator::Wiping, host.parent().unwrap()).await.unwrap();
        assert!(found.sandbox == 0 && found.dropped.is_empty(), "{found:#?}");
    });
}

/// The tests above can fail: without the scrubber, every echo shows in the run, and the search finds it there.
#[test]
fn without_the_scrubber_every_echo_is_found() {
    play(async {
        let secrets = Secrets::generate();
        let world = World::open(&secrets, false, Storage::sqlite().await).await;
        for echo in Echo::ALL {
            let seen = world.deliver(echo).await;
            let found = secrets.search().find_in_json(&seen.run);
            for name in ["api", "odd"] {
                assert!(
                    found.iter().any(|what| what.starts_with(name)),
                    "{echo:?}: {name} was not found in {}",
                    seen.run
                );
            }
        }
        for (place, seen) in &world.live_on(&secrets).await.seen {
            let found = secrets.search().find_in_json(&seen.run);
            for name in ["api", "odd"] {
                assert!(
                    found.iter().any(|what| what.starts_with(name)),
                    "{place}: {name} was not found in {}",
                    seen.run
                );
            }
        }
        world.close().await;
    });
}

#[test]
fn the_search_finds_secrets_behind_other_text_and_nothing_in_other_text() {
    let search = Search::new([("odd", "sö/me+secret")]);
    for hay in ["x sö/me+secret", "s%C3%B6%2Fme%2Bsecret", "s\\u00f6\\/me+secret", "73c3b62f6d652b736563726574"] {
        assert_eq!(search.find(hay.as_bytes()).len(), 1, "{hay}");
    }
    assert!(search.find(b"so/me+secret, sme+secret, c8O2L21lK3").is_empty());
}
