//! Who may do what: principals, permissions, roles, the authorizer and its proofs, and the audit trail's events.
//!
//! Everything here is pure: no store, no clock, no network. A host says who acts ([`principal::Principal`], with the
//! roles it grants them); [`authorizer::Authorizer`] decides, denying by default; what it allows is carried out by
//! whoever holds the [`authorizer::Authorized`] proof, and is written down as an [`audit::AuditEvent`].
//!
//! | Module | What it holds |
//! | --- | --- |
//! | [`principal`] | who acts and from where, with the roles the host granted |
//! | [`permission`], [`role`] | what can be allowed; the built-in Admin, Editor and Viewer |
//! | [`authorizer`] | the decision with its reason; the proof of a permission |
//! | [`audit`] | events with the seven facts of guide §3.4, safe to print |
#![forbid(unsafe_code)]

pub mod audit;
pub mod authorizer;
pub mod permission;
pub mod principal;
pub mod role;
