//! What `bench engine`, `bench fairness` and `bench-parked` have in common: a runtime with tenants and flows on one of the
//! backends, and requests for them.
//!
//! Runs are started by handing requests to the webhook door inside the process: what a run costs from its acceptance to its
//! reply, without sockets and HTTP.
#![forbid(unsafe_code)]

pub mod engine;
pub mod fairness;
pub mod flows;
pub mod load;
pub mod options;
pub mod piece;
pub mod postgres_floor;
pub mod seed;
pub mod weight;
pub mod worker;
pub mod world;
