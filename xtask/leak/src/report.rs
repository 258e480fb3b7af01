//! [`Report`]: what was searched, and what was found there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{catalogue::Entry, protocols::Protocol, search::Search};

/// What a scenario did, what was searched after it, and what was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Flows that were published.
    pub flows: usize,
    /// Runs that ended.
    pub runs: usize,
    /// HTTP requests that carried the right credentials.
    pub verified: usize,
    /// What was done over each protocol.
    pub protocols: BTreeMap<Protocol, Tally>,
    /// Masks in what runs show.
    pub masks: usize,
    /// Searched places, and how many bytes they hold.
    pub places: BTreeMap<String, u64>,
    /// What was found, and where.
    pub leaks: BTreeSet<String>,
}

/// What was done over one protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Flows of the catalogue.
    pub flows: usize,
    /// Exchanges with the right credentials.
    pub exchanges: usize,
    /// Masks in what their runs show.
    pub masks: usize,
}

impl Report {
    /// Counts a flow of the catalogue.
    pub fn count(&mut self, entry: &Entry, masks: usize) {
        let tally = self.protocols.entry(entry.protocol).or_default();
        *tally =
            Tally { flows: tally.flows + 1, exchanges: tally.exchanges + entry.requests, masks: tally.masks + masks };
        self.masks += masks;
    }

    /// Searches `bytes`, which belong to `place`; `detail` says where in it.
    pub fn search(&mut self, place: &str, detail: &str, search: &Search, bytes: &[u8]) {
        *self.places.entry(place.to_owned()).or_default() += bytes.len() as u64;
        self.leaks.extend(search.find(bytes).into_iter().map(|what| format!("{what} in {place} ({detail})")));
    }

    /// Searches every string of `value` by itself.
    pub fn search_json(&mut self, place: &str, detail: &str, search: &Search, value: &Value) {
        let found = search.find_in_json(value);
        self.leaks.extend(found.into_iter().map(|what| format!("{what} in a string of {place} ({detail})")));
    }

    /// Prints it for people.
    pub fn print(&self, backend: &str) {
        println!(
            "{backend}: {} flows, {} runs, {} HTTP requests with credentials, {} masks in what runs show",
            self.flows, self.runs, self.verified, self.masks
        );
        for (protocol, Tally { flows, exchanges, masks }) in &self.protocols {
            println!(
                "  {flows:>4} flows over {}: {exchanges} exchanges with credentials, {masks} masks",
                protocol.name()
            );
        }
        for (place, bytes) in &self.places {
            let hits = self.leaks.iter().filter(|leak| leak.contains(&format!("in {place} ("))).count();
            println!("  {hits:>4} hits in {bytes:>12} bytes of {place}");
        }
        for leak in &self.leaks {
            println!("  LEAK {leak}");
        }
    }
}
