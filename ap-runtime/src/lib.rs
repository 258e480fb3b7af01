//! Durable, credential-blind workflow automation inside your own backend.
//!
//! | Module | What it holds |
//! | --- | --- |
//! | [`store`], [`clock`] | seams: what a backend keeps, where time comes from |
//! | [`backend`] | the backends: memory, SQLite |
//! | [`sandbox`] | running JavaScript steps without trusting them |
#![deny(unsafe_code)]

pub mod backend;
pub mod clock;
pub mod sandbox;
pub mod store;
