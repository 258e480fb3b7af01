//! What only PostgreSQL does: several processes on one schema, outages, TLS, hints.
#![cfg(feature = "postgres")]
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod outage;
mod proxy;
mod records;
mod several;
#[expect(dead_code, reason = "shared with other tests")]
mod support;
mod tls;
