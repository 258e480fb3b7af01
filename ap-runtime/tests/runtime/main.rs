//! Tests of the runtime by its public API, in one binary.
#![allow(
    missing_docs,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod determinism;
mod door;
mod engine;
mod execution;
mod flow_control;
mod operations;
mod polls;
mod replay;
mod schedules;
mod support;
mod tenancy;
