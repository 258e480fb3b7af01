//! OAuth 2.0 connections against a provider that rotates refresh tokens, punishes reuse, and misbehaves on demand.
#![allow(
    missing_docs,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
#![cfg(feature = "http")]

mod authorization;
mod certified;
#[cfg(feature = "postgres")]
mod processes;
mod provider;
mod renewal;
mod rotation;
mod world;
