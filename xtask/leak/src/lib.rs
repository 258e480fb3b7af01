//! `cargo xtask leak`: a credential used by a flow appears nowhere but in the request it was made for, whatever its peer
//! does with it.
//!
//! The forms it is searched in are written here on their own, so that a form the redactor forgot is not forgotten twice.
//! That the search finds something shows in the same scenario without one of the defences (`cargo xtask leak defences`).
#![forbid(unsafe_code)]
#![allow(
    missing_docs,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a scenario: an expectation that fails ends it"
)]

mod asked;
pub mod catalogue;
pub mod durable;
pub mod echo;
pub mod items;
pub mod log;
pub mod memory;
pub mod peer;
pub mod postgres;
pub mod protocols;
pub mod report;
pub mod scenario;
#[path = "../../../ap-runtime/tests/postgres/support.rs"]
#[expect(dead_code, reason = "shared with the tests of the backend")]
mod schema;
pub mod search;
pub mod secrets;
pub mod storage;
pub mod world;
