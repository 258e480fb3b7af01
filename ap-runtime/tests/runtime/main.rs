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

mod answer;
mod connections;
mod determinism;
mod door;
mod engine;
mod execution;
mod expressions;
mod flow_control;
mod handler;
mod interleaving;
#[cfg(feature = "code")]
mod javascript;
mod operations;
mod parallel;
mod pause;
mod polls;
mod queue;
mod replay;
mod retry;
mod rotation;
mod router;
mod schedules;
#[cfg(feature = "code")]
mod script_keys;
mod secret_rotation;
mod spill;
mod store;
#[cfg(feature = "code")]
mod store_scripts;
mod subflow;
mod subject;
mod support;
mod tenancy;
mod trial;
