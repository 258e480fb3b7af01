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

mod echo;
mod log;
mod peer;
mod search;
mod secrets;
mod world;

use std::collections::BTreeSet;

use self::{echo::Echo, search::Search, secrets::Secrets, world::World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_appears_nowhere() {
    log::capture();
    let secrets = Secrets::generate();
    let search = secrets.search();
    let world = World::open(&secrets, true).await;
    let mut leaks = BTreeSet::new();

    for echo in Echo::ALL {
        let seen = world.deliver(echo).await;
        for (place, text) in seen.texts() {
            leaks.extend(search.find(text.as_bytes()).into_iter().map(|what| format!("{what}, {echo:?}, {place}")));
        }
        leaks.extend(search.find_in_json(&seen.run).into_iter().map(|what| format!("{what}, {echo:?}, strings")));
        leaks.extend(search.find(&seen.body).into_iter().map(|what| format!("{what}, {echo:?}, response body")));
        if echo.stays_text() {
            let run = seen.run.to_string();
            assert!(run.contains("‹redacted:api›") && run.contains("‹redacted:odd›"), "{echo:?} was not masked: {run}");
        }
    }
    assert_eq!(world.peer.verified(), 2 * Echo::ALL.len(), "the peer did not get the credentials");
    let errors = world.be_refused(&secrets).await;

    for (place, text) in world.texts().await.into_iter().chain([("errors", errors)]) {
        leaks.extend(search.find(text.as_bytes()).into_iter().map(|what| format!("{what}, {place}")));
    }
    let open = world.files();
    assert!(open.iter().any(|(name, bytes)| name.ends_with("-wal") && !bytes.is_empty()), "there is no log to search");
    for (name, bytes) in open.into_iter().chain(world.close().await) {
        leaks.extend(search.find(&bytes).into_iter().map(|what| format!("{what}, file {name}")));
    }
    tracing::trace!("the least of all events");
    let log = log::captured();
    for known in ["an outgoing request was refused", "the least of all events"] {
        assert!(log.contains(known), "the log was not captured: `{known}` is missing");
    }
    leaks.extend(search.find(log.as_bytes()).into_iter().map(|what| format!("{what}, log")));
    assert!(leaks.is_empty(), "{leaks:#?}");
}

/// The test above can fail: without the scrubber, every echo shows in the run, and the search finds it there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_scrubber_every_echo_is_found() {
    log::capture();
    let secrets = Secrets::generate();
    let world = World::open(&secrets, false).await;
    for echo in Echo::ALL {
        let seen = world.deliver(echo).await;
        let found = secrets.search().find_in_json(&seen.run);
        for name in ["api", "odd"] {
            assert!(found.iter().any(|what| what.starts_with(name)), "{echo:?}: {name} was not found in {}", seen.run);
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
