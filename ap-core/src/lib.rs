//! The model of the `ap-runtime` workflow SDK: flows, runs, connections, pieces and the records stores keep.
//!
//! This crate performs no I/O and knows no clock and no random source: ids, times and entropy are handed in. A piece
//! author needs this crate alone; a host needs `ap-runtime`, which re-exports nothing and builds on the types here.
//!
//! | Module | What it holds |
//! | --- | --- |
//! | [`id`], [`time`] | typed ids (UUIDv7, prefixed text form), [`time::Timestamp`] |
//! | [`scope`], [`store`], [`audit`] | tenancy, what every store seam shares, audit records |
//! | [`json`], [`nearest`] | parsing JSON from outside under limits; "did you mean" |
//! | [`flow`] | the flow definition, its diagnostics, [`flow::ValidFlow`] |
//! | [`expr`] | `{{ … }}` templates and the path resolver |
//! | [`run`] | run and step statuses, step errors |
//! | [`connection`], [`sensitive`] | credentials, always in types that neither print nor serialise |
//! | [`piece`], [`property`], [`capability`] | what a piece author implements, declares and may use |
#![forbid(unsafe_code)]

pub mod audit;
pub mod capability;
pub mod connection;
pub mod expr;
pub mod flow;
pub mod id;
pub mod json;
pub mod nearest;
pub mod piece;
pub mod property;
pub mod run;
pub mod scope;
pub mod sensitive;
pub mod store;
pub mod time;
