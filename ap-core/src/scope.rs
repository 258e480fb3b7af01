//! [`Scope`]: whom a record belongs to.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{PlatformId, ProjectId};

/// Owner of a record, and the tenant its ciphertext is bound to.
///
/// Platform → project → folder → flow: a project is the tenant, and nothing of one project is visible from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type", content = "id")]
pub enum Scope {
    /// Belongs to the installation as a whole.
    Platform(PlatformId),
    /// Belongs to one project.
    Project(ProjectId),
}

impl Scope {
    /// The project, unless the record belongs to the platform.
    #[must_use]
    pub const fn project(self) -> Option<ProjectId> {
        match self {
            Self::Project(project) => Some(project),
            Self::Platform(_) => None,
        }
    }

    /// Seventeen bytes that no other scope has: what associated data and key columns use.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 17] {
        let (tag, id) = match &self {
            Self::Platform(id) => (b'P', id.as_bytes()),
            Self::Project(id) => (b'p', id.as_bytes()),
        };
        let mut bytes = [tag; 17];
        bytes.iter_mut().skip(1).zip(id).for_each(|(slot, byte)| *slot = *byte);
        bytes
    }
}

impl From<PlatformId> for Scope {
    fn from(platform: PlatformId) -> Self {
        Self::Platform(platform)
    }
}

impl From<ProjectId> for Scope {
    fn from(project: ProjectId) -> Self {
        Self::Project(project)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Platform(id) => id.fmt(f),
            Self::Project(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_the_same_number_differ() {
        let platform = Scope::Platform(PlatformId::from_u128(1));
        let project = Scope::Project(ProjectId::from_u128(1));
        assert_ne!(platform.to_bytes(), project.to_bytes());
        assert_eq!(project.to_bytes()[1..], *ProjectId::from_u128(1).as_bytes());
    }
}
