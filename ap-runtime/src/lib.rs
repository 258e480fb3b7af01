//! Durable, credential-blind workflow automation inside your own backend.
//!
//! | Module | What it holds |
//! | --- | --- |
//! | [`store`], [`clock`] | seams: what a backend keeps, where time comes from |
//! | [`egress`] | the only way out: address guard, credentials put in place, answers scrubbed |
//! | [`backend`] | the backends: memory, SQLite |
#![deny(unsafe_code)]

pub mod backend;
pub mod clock;
pub mod egress;
pub mod store;
