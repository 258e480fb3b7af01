//! The whole scenario: everything a host does, with peers that give every credential back, and a search of everything.

use crate::{
    echo::Echo, log, protocols::Protocol, report::Report, search::Search, secrets::Secrets, storage::Storage,
    world::World,
};

/// Plays the scenario on `storage` and searches whatever could hold a credential. With `scrub` off, responses are not
/// searched for credentials before flows get them.
pub async fn play(storage: Storage, scrub: bool) -> Report {
    log::capture();
    let secrets = Secrets::generate();
    let search = secrets.search();
    let world = World::open(&secrets, scrub, storage).await;
    let mut report = Report::default();

    for echo in Echo::ALL {
        let seen = world.deliver(echo).await;
        let detail = format!("{echo:?}");
        for (_, text) in seen.texts() {
            report.search("runs", &detail, &search, text.as_bytes());
        }
        report.search_json("runs", &detail, &search, &seen.run);
        report.search("replies", &detail, &search, &seen.body);
        let run = seen.run.to_string();
        assert!(!run.contains("apcred_"), "a placeholder is shown without its name: {run}");
        assert!(run.contains("connection `api`"), "the stray request was not refused for its origin: {run}");
        if echo.stays_text() && scrub {
            assert!(run.contains("‹redacted:api›") && run.contains("‹redacted:odd›"), "{echo:?} was not masked: {run}");
        }
        report.masks += run.matches("‹redacted:").count();
    }
    assert_eq!(world.peer.verified(), 2 * Echo::ALL.len(), "the peer did not get the credentials");
    let catalogue = world.run_catalogue().await;
    // Signatures are no longer than their requests, and searched for wherever credentials are.
    let made = world.peers.made();
    assert!(made.len() > 30, "{} signatures were made", made.len());
    let made = || Search::new(made.iter().map(|made| ("signature", made.as_str())));
    let (search, beginnings) = (search.and(made()), secrets.beginnings());
    let mut unmasked = Vec::new();
    for (entry, seen) in catalogue {
        let detail = format!("{}: {}", entry.protocol.name(), entry.name);
        for (_, text) in seen.texts() {
            report.search("runs", &detail, &search, text.as_bytes());
            if entry.protocol != Protocol::Http {
                report.search("beginnings in runs", &detail, &beginnings, text.as_bytes());
            }
        }
        report.search_json("runs", &detail, &search, &seen.run);
        let text = seen.run.to_string();
        assert!(!text.contains("apcred_"), "{detail}: a placeholder is shown: {text}");
        let masks = text.matches("‹redacted:").count();
        if scrub && entry.masked && masks == 0 {
            unmasked.push(detail);
        }
        report.count(&entry, masks);
    }
    assert!(unmasked.is_empty(), "nothing was masked: {unmasked:#?}");
    let errors = world.be_refused(&secrets).await;
    let durable = world.live_on(&secrets).await;
    // A run may show what came in, and nothing else may; and nobody is shown a token.
    let tokens = world.tokens.lock().unwrap().clone();
    assert_eq!(tokens.len(), 2, "there are no tokens to search for");
    let shown = Search::new(tokens.iter().map(|token| ("resume token", token.as_str()))).and(secrets.search());
    let strict = secrets.search_all(&tokens).and(made());
    for (place, seen) in &durable.seen {
        for (_, text) in seen.texts() {
            report.search("runs", place, &shown, text.as_bytes());
        }
        report.search_json("runs", place, &shown, &seen.run);
        let text = seen.run.to_string();
        if scrub {
            assert!(
                text.contains("‹redacted:api›") && text.contains("‹redacted:odd›"),
                "{place} was not masked: {text}"
            );
        }
        report.masks += text.matches("‹redacted:").count();
    }

    for (place, text) in world.texts().await {
        report.search(place, "", &strict, text.as_bytes());
    }
    report.search("errors", "connections that were refused", &strict, errors.as_bytes());
    report.search("replies", "answers to a wait", &strict, durable.answers.as_bytes());
    assert!(world.storage.is_whole(&durable.kept), "there is not all to search that there should be");
    let clear = Search::new([("a word that is kept in clear", "connection.use")]);
    assert!(durable.kept.iter().any(|(_, bytes)| !clear.find(bytes).is_empty()), "nothing is found in what is kept");
    (report.flows, report.runs) = world.counts().await;
    report.verified = world.peer.verified();
    for (name, bytes) in durable.kept {
        report.search("what is stored while runs wait", &name, &strict, &bytes);
    }
    for (name, bytes) in world.close().await {
        report.search("what is stored at the end", &name, &strict, &bytes);
    }
    tracing::trace!("the least of all events");
    let log = log::captured();
    for known in ["an outgoing request was refused", "a poll failed", "the least of all events"] {
        assert!(log.contains(known), "the log was not captured: `{known}` is missing");
    }
    report.search("the log, at every level", "", &strict, log.as_bytes());
    report
}
