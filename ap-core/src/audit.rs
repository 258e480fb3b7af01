//! [`AuditRecord`]: how an audit event is stored.
//!
//! The event itself (who, what, when, from where, on what, with which result) belongs to `ap-auth`; stores see only the
//! clear fields a listing needs and the sealed rest. Every mutating store method takes the records of the change and
//! commits them with it, or neither.

use serde::{Deserialize, Serialize};

use crate::{id::AuditId, scope::Scope, store::Sealed, time::Timestamp};

/// One line of the audit trail, as stores keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its id; listings are in this order, which is the order of time.
    pub id: AuditId,
    /// Whose trail it belongs to.
    pub scope: Scope,
    /// When it happened.
    pub at: Timestamp,
    /// What was done: a stable dotted name such as `flow.publish`.
    pub action: String,
    /// Whether it succeeded, failed or was refused.
    pub outcome: AuditOutcome,
    /// Everything else, sealed under the key of `scope`.
    pub body: Sealed,
}

/// How the audited action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AuditOutcome {
    /// The authorizer, or the door, refused it.
    Denied,
    /// It was allowed, and failed.
    Failure,
    /// It was done.
    Success,
}
