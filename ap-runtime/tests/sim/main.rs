//! Simulation: seeds, explored flows, and defects that must be caught.
#![allow(
    missing_docs,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

mod determinism;
mod explored;
mod flows;
mod mutants;
mod peer;
mod soak;
