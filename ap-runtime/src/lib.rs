#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! | Module | What it holds |
//! | --- | --- |
//! | [`runtime`], [`config`] | [`runtime::Runtime`] and its builder, limits and options |
//! | [`session`] | what a host does in the name of a principal |
//! | [`webhook`] | the door for HTTP requests |
//! | [`rotation`] | replacing keys while everything goes on |
//! | [`resume`] | the door for those whom a run waits for |
//! | [`logs`] | a writer that keeps credentials out of the host's log |
//! | [`store`], [`clock`] | seams: what a backend keeps, where time comes from |
//! | [`backend`] | the backends: memory, SQLite |
//! | [`engine`] | the pure state machine, and a run as its owner sees it |
//! | [`egress`] | the guard before every outgoing connection, and credential placement |
//! | [`secret`] | where secrets come from that connections do not hold |
//! | [`sandbox`] | running a flow author's JavaScript without trusting it |
//! | `conformance` (feature) | what every backend and code sandbox must do, as tests |
//! | `sim` (feature) | exploring crashes, faults and deliveries of a flow |
#![deny(unsafe_code)]

mod accept;
pub mod backend;
pub mod clock;
pub mod config;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod credentials;
mod denials;
pub mod egress;
pub mod engine;
mod executor;
mod flow_cache;
mod flow_control;
mod journal;
mod kernel;
mod learn;
pub mod logs;
mod oauth;
mod records;
mod replies;
pub mod resume;
pub mod rotation;
pub mod runtime;
pub mod sandbox;
pub mod secret;
pub mod session;
mod signal;
#[cfg(feature = "sim")]
pub mod sim;
pub mod store;
pub mod subject;
mod trigger;
pub mod wakeup;
pub mod webhook;
