//! Egress by every protocol, against peers that are real or misbehave.
#![cfg(all(feature = "http", feature = "mail", feature = "objects", feature = "sql"))]
#![expect(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod certificate;
mod flow;
mod http;
mod mail;
mod objects;
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
mod support;
