//! Processes that die under load lose nothing, double nothing, and leave nothing stuck.
//!
//! `kills` ends them by `kill -9`: that takes a process, not the machine, and proves the order of commits and
//! acknowledgements. `disk` takes the machine: what was not synced is gone, and calls fail.
#![cfg(all(feature = "http", feature = "postgres", feature = "sqlite", target_os = "linux"))]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod answers;
mod child;
mod disk;
mod flows;
mod host;
mod kills;
mod load;
mod peer;
mod rng;
mod rotation;
mod store;
mod verdict;
mod wire;
mod world;
