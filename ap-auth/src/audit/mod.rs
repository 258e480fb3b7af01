//! The audit trail: what an event says, and how it travels to and from its sealed record.
//!
//! An event is built from the proof (or the denial) that decided it, sealed by the runtime under the key of its scope,
//! and committed by the store together with the change it tells of.

mod event;
mod text;

pub use event::{AuditBodyError, AuditEvent, Detail, SafeText};
