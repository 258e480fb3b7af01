//! [`Role`]: a named set of permissions.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::permission::Permission;

/// A built-in role, as in the reference product, narrower in three points: only an Admin deletes (guide §3.2), only an
/// Admin reads the audit trail, and nobody, not even an Admin, reads a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum Role {
    /// Everything in its scope. The only role that means something in a platform.
    Admin,
    /// Makes and publishes flows, writes connections, starts, cancels and retries runs, redrives queues, changes the key-value
    /// store.
    Editor,
    /// Looks at flows, runs, queues, the key-value store and the names of connections.
    Viewer,
}

impl Role {
    /// Every built-in role, the mightiest first.
    pub const ALL: [Self; 3] = [Self::Admin, Self::Editor, Self::Viewer];

    /// The wire spelling.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "ADMIN",
            Self::Editor => "EDITOR",
            Self::Viewer => "VIEWER",
        }
    }

    /// Whether the role holds `permission` in the scope it was granted in.
    #[must_use]
    pub const fn allows(self, permission: Permission) -> bool {
        // Listed by permission, without a catch-all: a new permission does not compile until somebody decides who has it.
        match permission {
            Permission::ConnectionRead
            | Permission::FlowRead
            | Permission::ProjectRead
            | Permission::QueueRead
            | Permission::RunRead
            | Permission::StoreRead => matches!(self, Self::Admin | Self::Editor | Self::Viewer),
            Permission::ConnectionWrite
            | Permission::FlowPublish
            | Permission::FlowWrite
            | Permission::QueueRedrive
            | Permission::RunCancel
            | Permission::RunRetry
            | Permission::RunStart
            | Permission::StepTest
            | Permission::StoreWrite => matches!(self, Self::Admin | Self::Editor),
            Permission::AuditRead
            | Permission::ConnectionDelete
            | Permission::ConnectionProvision
            | Permission::ConnectionReveal
            | Permission::FlowDelete
            | Permission::KeyRotate
            | Permission::PlatformAuditRead
            | Permission::ProjectCreate
            | Permission::ProjectShare
            | Permission::ProjectWrite
            | Permission::SubjectErase
            | Permission::WorkerRead => matches!(self, Self::Admin),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_spelling_is_pinned() {
        for (role, text) in Role::ALL.into_iter().zip(["ADMIN", "EDITOR", "VIEWER"]) {
            assert_eq!(role.as_str(), text);
            assert_eq!(serde_json::to_value(role).expect("text"), text);
        }
    }

    #[test]
    fn a_lesser_role_has_nothing_a_mightier_lacks() {
        for pair in Role::ALL.windows(2) {
            for permission in Permission::ALL {
                assert!(pair[0].allows(*permission) || !pair[1].allows(*permission), "{permission}");
            }
        }
    }
}
