//! Durable, credential-blind workflow automation inside your own backend.
//!
//! | Module | What it holds |
//! | --- | --- |
//! | [`store`], [`clock`] | seams: what a backend keeps, where time comes from |
//! | [`backend`] | the backends: memory, SQLite |
//! | `conformance` (feature) | what every backend must do, as tests |
#![deny(unsafe_code)]

pub mod backend;
pub mod clock;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod store;
