//! A credential used by a flow appears nowhere but in the request it was made for, whatever its peer does with it.
//!
//! The forms it is searched in are written here on their own, so that a form the redactor forgot is not forgotten twice.
//! That the search finds something shows in the same scenario with scrubbing switched off.
#![cfg(all(feature = "sqlite", feature = "http"))]
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

mod durable;
mod echo;
mod items;
mod log;
mod peer;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
#[path = "../postgres/support.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod schema;
mod search;
mod secrets;
mod storage;
mod world;

use std::collections::BTreeSet;

use self::{echo::Echo, search::Search, secrets::Secrets, storage::Storage, world::World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_appears_nowhere() {
    appears_nowhere(Storage::sqlite().await, |kept| {
        kept.iter().any(|(name, bytes)| name.ends_with("-wal") && !bytes.is_empty())
    })
    .await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_appears_nowhere_in_postgres_either() {
    appears_nowhere(Storage::Postgres(postgres::Database::open().await), |kept| {
        let used = ["messages", "ap_files", "ap_jobs", "ap_journal", "ap_signals", "ap_triggers", "ap_audit"];
        used.iter().all(|used| kept.iter().any(|(name, bytes)| name == used && !bytes.is_empty()))
    })
    .await;
}

/// `is_whole` says whether what is kept while a run is parked is all that there is to search.
async fn appears_nowhere(storage: Storage, is_whole: impl Fn(&[(String, Vec<u8>)]) -> bool) {
    log::capture();
    let secrets = Secrets::generate();
    let search = secrets.search();
    let world = World::open(&secrets, true, storage).await;
    let mut leaks = BTreeSet::new();

    for echo in Echo::ALL {
        let seen = world.deliver(echo).await;
        for (place, text) in seen.texts() {
            leaks.extend(search.find(text.as_bytes()).into_iter().map(|what| format!("{what}, {echo:?}, {place}")));
        }
        leaks.extend(search.find_in_json(&seen.run).into_iter().map(|what| format!("{what}, {echo:?}, strings")));
        leaks.extend(search.find(&seen.body).into_iter().map(|what| format!("{what}, {echo:?}, response body")));
        let run = seen.run.to_string();
        assert!(!run.contains("apcred_"), "a placeholder is shown without its name: {run}");
        assert!(run.contains("connection `api`"), "the stray request was not refused for its origin: {run}");
        if echo.stays_text() {
            assert!(run.contains("‹redacted:api›") && run.contains("‹redacted:odd›"), "{echo:?} was not masked: {run}");
        }
    }
    assert_eq!(world.peer.verified(), 2 * Echo::ALL.len(), "the peer did not get the credentials");
    let errors = world.be_refused(&secrets).await;
    let durable = world.live_on(&secrets).await;
    // A run may show what came in, and nothing else may; and nobody is shown a token.
    let tokens = world.tokens.lock().unwrap().clone();
    assert_eq!(tokens.len(), 2, "there are no tokens to search for");
    let shown = Search::new(tokens.iter().map(|token| ("resume token", token.as_str()))).and(secrets.search());
    let strict = secrets.search_all(&tokens);
    for (place, seen) in &durable.seen {
        for (how, text) in seen.texts() {
            leaks.extend(shown.find(text.as_bytes()).into_iter().map(|what| format!("{what}, {place}, {how}")));
        }
        leaks.extend(shown.find_in_json(&seen.run).into_iter().map(|what| format!("{what}, {place}, strings")));
        let text = seen.run.to_string();
        assert!(text.contains("‹redacted:api›") && text.contains("‹redacted:odd›"), "{place} was not masked: {text}");
    }

    for (place, text) in world.texts().await.into_iter().chain([("errors", errors), ("answers", durable.answers)]) {
        leaks.extend(strict.find(text.as_bytes()).into_iter().map(|what| format!("{what}, {place}")));
    }
    assert!(is_whole(&durable.kept), "there is not all to search that there should be");
    let clear = Search::new([("a word that is kept in clear", "connection.use")]);
    assert!(durable.kept.iter().any(|(_, bytes)| !clear.find(bytes).is_empty()), "nothing is found in what is kept");
    for (name, bytes) in durable.kept.into_iter().chain(world.close().await) {
        leaks.extend(strict.find(&bytes).into_iter().map(|what| format!("{what}, kept in {name}")));
    }
    tracing::trace!("the least of all events");
    let log = log::captured();
    for known in ["an outgoing request was refused", "a poll failed", "the least of all events"] {
        assert!(log.contains(known), "the log was not captured: `{known}` is missing");
    }
    leaks.extend(strict.find(log.as_bytes()).into_iter().map(|what| format!("{what}, log")));
    assert!(leaks.is_empty(), "{leaks:#?}");
}

/// The test above can fail: without the scrubber, every echo shows in the run, and the search finds it there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_scrubber_every_echo_is_found() {
    log::capture();
    let secrets = Secrets::generate();
    let world = World::open(&secrets, false, Storage::sqlite().await).await;
    for echo in Echo::ALL {
        let seen = world.deliver(echo).await;
        let found = secrets.search().find_in_json(&seen.run);
        if !echo.arrives() {
            assert!(seen.run.to_string().contains("compressed"), "{echo:?} was not refused: {}", seen.run);
            continue;
        }
        for name in ["api", "odd"] {
            assert!(found.iter().any(|what| what.starts_with(name)), "{echo:?}: {name} was not found in {}", seen.run);
        }
    }
    for (place, seen) in &world.live_on(&secrets).await.seen {
        let found = secrets.search().find_in_json(&seen.run);
        for name in ["api", "odd"] {
            assert!(found.iter().any(|what| what.starts_with(name)), "{place}: {name} was not found in {}", seen.run);
        }
    }
    world.close().await;
}

#[test]
fn the_search_finds_secrets_behind_other_text_and_nothing_in_other_text() {
    let search = Search::new([("odd", "sö/me+secret")]);
    for hay in ["x sö/me+secret", "s%C3%B6%2Fme%2Bsecret", "s\\u00f6\\/me+secret", "73c3b62f6d652b736563726574"] {
        assert_eq!(search.find(hay.as_bytes()).len(), 1, "{hay}");
    }
    assert!(search.find(b"so/me+secret, sme+secret, c8O2L21lK3").is_empty());
}
