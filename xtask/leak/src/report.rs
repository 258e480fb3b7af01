//! [`Report`]: what was searched, and what was found there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::search::Search;

/// What a scenario did, what was searched after it, and what was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Flows that were published.
    pub flows: usize,
    /// Runs that ended.
    pub runs: usize,
    /// Requests that carried the right credentials.
    pub verified: usize,
    /// Masks in what runs show.
    pub masks: usize,
    /// Searched places, and how many bytes they hold.
    pub places: BTreeMap<String, u64>,
    /// What was found, and where.
    pub leaks: BTreeSet<String>,
}

impl Report {
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
            "{backend}: {} flows, {} runs, {} requests with credentials, {} masks in what runs show",
            self.flows, self.runs, self.verified, self.masks
        );
        for (place, bytes) in &self.places {
            let hits = self.leaks.iter().filter(|leak| leak.contains(&format!("in {place} ("))).count();
            println!("  {hits:>4} hits in {bytes:>12} bytes of {place}");
        }
        for leak in &self.leaks {
            println!("  LEAK {leak}");
        }
    }
}
