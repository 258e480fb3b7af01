//! [`Permission`]: what can be allowed or denied, and one marker type for each, to name it in a proof.

use std::{fmt, str::FromStr};

use ap_core::{
    id::{PlatformId, ProjectId},
    scope::Scope,
};
use serde::{Deserialize, Serialize};

macro_rules! permissions {
    ($($(#[$doc:meta])+ $name:ident = $text:literal in $target:ident;)+) => {
        /// Something that can be allowed or denied, in a project or in a platform. The names are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Permission {$(
            $(#[$doc])+
            #[serde(rename = $text)]
            $name,
        )+}

        impl Permission {
            /// Every permission, in order of name.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The stable name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            /// Whether this is a permission in scopes such as `scope`: a project, or a platform.
            #[must_use]
            pub const fn applies_to(self, scope: Scope) -> bool {
                match self { $(Self::$name => <$target as sealed::Target>::IS_PLATFORM == matches!(scope, Scope::Platform(_))),+ }
            }
        }

        $(
            $(#[$doc])+
            ///
            /// A marker: names the permission in the type of an [`Authorized`](crate::authorizer::Authorized) proof.
            #[derive(Clone, Copy, Debug)]
            pub enum $name {}

            impl sealed::Marker for $name {}

            impl PermissionMarker for $name {
                const PERMISSION: Permission = Permission::$name;
                type Target = $target;
            }
        )+
    };
}

permissions! {
    /// Reading the audit trail of a project.
    AuditRead = "audit.read" in ProjectId;
    /// Deleting a connection.
    ConnectionDelete = "connection.delete" in ProjectId;
    /// Keeping connections for all projects or for one: those of the platform, and predefined ones.
    ConnectionProvision = "connection.provision" in PlatformId;
    /// Seeing which connections exist: name, type, placements and origins. No permission shows a credential.
    ConnectionRead = "connection.read" in ProjectId;
    /// Letting scripts have the secrets of a connection.
    ConnectionReveal = "connection.reveal" in ProjectId;
    /// Creating and replacing connections; what is written cannot be read back.
    ConnectionWrite = "connection.write" in ProjectId;
    /// Deleting a flow with all its versions.
    FlowDelete = "flow.delete" in ProjectId;
    /// Publishing, rolling back, enabling and disabling a flow.
    FlowPublish = "flow.publish" in ProjectId;
    /// Reading flows and their versions.
    FlowRead = "flow.read" in ProjectId;
    /// Creating flows and changing their drafts. Gives no right to read the credentials a flow uses.
    FlowWrite = "flow.write" in ProjectId;
    /// Rotating the root key and the keys of projects.
    KeyRotate = "key.rotate" in PlatformId;
    /// Reading the audit trail of the platform itself.
    PlatformAuditRead = "platform.audit.read" in PlatformId;
    /// Creating projects.
    ProjectCreate = "project.create" in PlatformId;
    /// Reading a project's settings.
    ProjectRead = "project.read" in ProjectId;
    /// Changing a project's share of the workers.
    ProjectShare = "project.share" in PlatformId;
    /// Changing a project's settings.
    ProjectWrite = "project.write" in ProjectId;
    /// Seeing how many jobs the queues of a project have.
    QueueRead = "queue.read" in ProjectId;
    /// Making dead letters of a queue wait again.
    QueueRedrive = "queue.redrive" in ProjectId;
    /// Ending a run before its time.
    RunCancel = "run.cancel" in ProjectId;
    /// Reading runs: status, inputs, outputs and logs, redacted.
    RunRead = "run.read" in ProjectId;
    /// Trying a run again that did not succeed.
    RunRetry = "run.retry" in ProjectId;
    /// Starting a run by hand.
    RunStart = "run.start" in ProjectId;
    /// Carrying out one step by itself, for real, with the connections it names.
    StepTest = "step.test" in ProjectId;
    /// Reading the key-value store of a project.
    StoreRead = "store.read" in ProjectId;
    /// Changing the key-value store of a project by hand.
    StoreWrite = "store.write" in ProjectId;
    /// Destroying the key of a data subject, and with it what runs hold of them. Cannot be undone.
    SubjectErase = "subject.erase" in ProjectId;
    /// Seeing which workers there are.
    WorkerRead = "worker.read" in PlatformId;
}

/// A type that names a [`Permission`]. Only the markers of this module implement it.
pub trait PermissionMarker: sealed::Marker {
    /// The permission.
    const PERMISSION: Permission;
    /// What it is a permission in: a [`ProjectId`] or a [`PlatformId`].
    type Target: sealed::Target;
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a permission")]
pub struct PermissionError;

impl FromStr for Permission {
    type Err = PermissionError;

    fn from_str(text: &str) -> Result<Self, PermissionError> {
        Self::ALL.iter().copied().find(|permission| permission.as_str() == text).ok_or(PermissionError)
    }
}

mod sealed {
    use ap_core::{
        id::{PlatformId, ProjectId},
        scope::Scope,
    };

    pub trait Marker {}

    pub trait Target: Copy + Into<Scope> {
        const IS_PLATFORM: bool;
    }

    impl Target for PlatformId {
        const IS_PLATFORM: bool = true;
    }

    impl Target for ProjectId {
        const IS_PLATFORM: bool = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_pinned() {
        let names: Vec<_> = Permission::ALL.iter().map(|permission| permission.as_str()).collect();
        assert_eq!(
            names,
            [
                "audit.read",
                "connection.delete",
                "connection.provision",
                "connection.read",
                "connection.reveal",
                "connection.write",
                "flow.delete",
                "flow.publish",
                "flow.read",
                "flow.write",
                "key.rotate",
                "platform.audit.read",
                "project.create",
                "project.read",
                "project.share",
                "project.write",
                "queue.read",
                "queue.redrive",
                "run.cancel",
                "run.read",
                "run.retry",
                "run.start",
                "step.test",
                "store.read",
                "store.write",
                "subject.erase",
                "worker.read",
            ]
        );
    }

    #[test]
    fn names_round_trip_in_both_spellings() {
        for permission in Permission::ALL {
            assert_eq!(permission.as_str().parse(), Ok(*permission));
            assert_eq!(serde_json::to_value(permission).expect("text"), permission.as_str());
        }
        assert_eq!("flow.Publish".parse::<Permission>(), Err(PermissionError));
    }

    #[test]
    fn markers_name_their_permission() {
        assert_eq!(FlowPublish::PERMISSION, Permission::FlowPublish);
        assert_eq!(ProjectCreate::PERMISSION, Permission::ProjectCreate);
    }
}
