//! [`Principal`]: who acts, from where, and with which roles.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr, sync::Arc};

use ap_core::{id::UserId, scope::Scope};
use serde::{Deserialize, Serialize};

use crate::role::Role;

/// Someone who wants something done: an [`Actor`] with the roles the host grants for this session.
///
/// The SDK keeps no membership table: the host knows its users, and says so each time it opens a session.
#[derive(Clone, Debug)]
pub struct Principal {
    actor: Actor,
    roles: BTreeMap<Scope, Role>,
}

impl Principal {
    /// A principal without any role: everything is denied.
    #[must_use]
    pub const fn new(actor: Actor) -> Self {
        Self { actor, roles: BTreeMap::new() }
    }

    /// A user of the host.
    #[must_use]
    pub const fn user(id: UserId) -> Self {
        Self::new(Actor::new(Identity::User(id)))
    }

    /// A program of the host, by a name the host gives it. It needs roles like a user.
    pub fn service(name: impl Into<Arc<str>>) -> Self {
        Self::new(Actor::new(Identity::Service(name.into())))
    }

    /// Grants `role` in a project or platform; there is one role per scope, and the later grant replaces the earlier.
    ///
    /// A role in a platform says nothing about its projects.
    #[must_use]
    pub fn with_role(mut self, scope: impl Into<Scope>, role: Role) -> Self {
        self.roles.insert(scope.into(), role);
        self
    }

    /// Says from which address the request came, for the audit trail.
    #[must_use]
    pub fn with_ip(self, ip: IpAddr) -> Self {
        Self { actor: self.actor.with_ip(ip), ..self }
    }

    /// Says which user agent the request named, for the audit trail.
    #[must_use]
    pub fn with_user_agent(self, user_agent: impl Into<Arc<str>>) -> Self {
        Self { actor: self.actor.with_user_agent(user_agent), ..self }
    }

    /// Who acts, and from where.
    #[must_use]
    pub const fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The role granted in exactly this scope.
    #[must_use]
    pub fn role_in(&self, scope: Scope) -> Option<Role> {
        self.roles.get(&scope).copied()
    }
}

/// Who acts, and from where: what the audit trail keeps of a principal. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    identity: Identity,
    ip: Option<IpAddr>,
    user_agent: Option<Arc<str>>,
}

impl Actor {
    /// An actor of whom nothing but the identity is known.
    #[must_use]
    pub const fn new(identity: Identity) -> Self {
        Self { identity, ip: None, user_agent: None }
    }

    /// Says from which address the request came.
    #[must_use]
    pub fn with_ip(self, ip: IpAddr) -> Self {
        Self { ip: Some(ip), ..self }
    }

    /// Says which user agent the request named. It is the sender's word: cleaned and cut before it is kept.
    #[must_use]
    pub fn with_user_agent(self, user_agent: impl Into<Arc<str>>) -> Self {
        Self { user_agent: Some(user_agent.into()), ..self }
    }

    /// Who it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where the request came from, if known.
    #[must_use]
    pub const fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// The user agent the request named, as it was sent.
    #[must_use]
    pub fn user_agent(&self) -> Option<&str> {
        self.user_agent.as_deref()
    }
}

/// Who somebody is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", tag = "type", content = "id")]
#[non_exhaustive]
pub enum Identity {
    /// Whoever calls a webhook: known by address and user agent only. Never authorised to anything.
    Anonymous,
    /// The runtime itself, carrying runs out. It acts through no session, so it is never authorised to anything either.
    Engine,
    /// A program of the host, by name.
    Service(Arc<str>),
    /// A user of the host.
    User(UserId),
}

/// The text names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an identity")]
pub struct IdentityError;

/// Reads what [`Identity`] displays as.
impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        match (text, text.strip_prefix("service ")) {
            ("anonymous", _) => Ok(Self::Anonymous),
            ("engine", _) => Ok(Self::Engine),
            (_, Some(name)) => Ok(Self::Service(name.into())),
            (user, None) => user.parse().map(Self::User).map_err(|_| IdentityError),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Engine => f.write_str("engine"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::User(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use ap_core::id::{PlatformId, ProjectId};

    use super::*;

    #[test]
    fn a_role_counts_in_its_own_scope_only() {
        let principal = Principal::service("sync").with_role(ProjectId::from_u128(1), Role::Editor);
        assert_eq!(principal.role_in(ProjectId::from_u128(1).into()), Some(Role::Editor));
        assert_eq!(principal.role_in(ProjectId::from_u128(2).into()), None);
        assert_eq!(principal.role_in(PlatformId::from_u128(1).into()), None);
    }

    #[test]
    fn the_later_grant_replaces_the_earlier() {
        let project = ProjectId::from_u128(1);
        let principal = Principal::service("sync").with_role(project, Role::Admin).with_role(project, Role::Viewer);
        assert_eq!(principal.role_in(project.into()), Some(Role::Viewer));
    }
}
