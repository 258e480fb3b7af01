//! [`Authorizer`]: may this principal do that here? And [`Authorized`], the proof that the answer was yes.

use std::{fmt, marker::PhantomData};

use ap_core::{
    id::{ConnectionId, FlowId, FlowVersionId, ProjectId, RunId},
    scope::Scope,
};

use crate::{
    permission::{Permission, PermissionMarker},
    principal::{Actor, Identity, Principal},
    role::Role,
};

/// Decides. Pure: the same request always gets the same decision, and what nothing allows is denied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Authorizer;

impl Authorizer {
    /// Decides, and says why.
    #[must_use]
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        let Request { principal, permission, scope } = *request;
        if !permission.applies_to(scope) {
            return Decision::Deny { reason: DenyReason::OtherLevel };
        }
        if matches!(principal.actor().identity(), Identity::Anonymous | Identity::Engine) {
            return Decision::Deny { reason: DenyReason::NoSession };
        }
        match principal.role_in(scope) {
            None => Decision::Deny { reason: DenyReason::NoRole { scope } },
            Some(role) if role.allows(permission) => Decision::Allow { reason: AllowReason { role, scope } },
            Some(role) => Decision::Deny { reason: DenyReason::RoleLacks { role, scope } },
        }
    }

    /// Decides, and turns a yes into the proof that acting methods ask for.
    ///
    /// `resource` is what will be acted on inside `target`, or `()`. That it lies in `target` is for the store to say: a
    /// record of another project does not exist.
    ///
    /// # Errors
    /// [`Denied`], from which an audit event can be made.
    ///
    /// # Examples
    /// ```
    /// use ap_auth::{authorizer::Authorizer, permission::{FlowPublish, FlowRead}, principal::Principal, role::Role};
    /// use ap_core::id::{FlowId, ProjectId, UserId};
    ///
    /// let (project, flow) = (ProjectId::from_u128(1), FlowId::from_u128(2));
    /// let viewer = Principal::user(UserId::from_u128(3)).with_role(project, Role::Viewer);
    /// assert!(Authorizer.authorize::<FlowRead, _>(&viewer, project, flow).is_ok());
    /// let denied = Authorizer.authorize::<FlowPublish, _>(&viewer, project, flow).unwrap_err();
    /// assert_eq!(
    ///     denied.to_string(),
    ///     "`flow.publish` is denied: role VIEWER in proj_00000000000000000000000001 does not include it"
    /// );
    /// ```
    pub fn authorize<P: PermissionMarker, R: Resource>(
        &self,
        principal: &Principal,
        target: P::Target,
        resource: R,
    ) -> Result<Authorized<P, R>, Denied> {
        let scope = target.into();
        let actor = principal.actor().clone();
        match self.decide(&Request { principal, permission: P::PERMISSION, scope }) {
            Decision::Allow { reason } => Ok(Authorized { actor, target, resource, reason, permission: PhantomData }),
            Decision::Deny { reason } => Err(Denied(Box::new(DeniedAttempt {
                actor,
                permission: P::PERMISSION,
                scope,
                resource: resource.id_text(),
                reason,
            }))),
        }
    }
}

/// A question to the authorizer.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who wants it.
    pub principal: &'a Principal,
    /// What.
    pub permission: Permission,
    /// Where.
    pub scope: Scope,
}

/// The answer. There will never be a third: a caller that handles these two handles all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed.
    Allow {
        /// What allowed it.
        reason: AllowReason,
    },
    /// Denied.
    Deny {
        /// What was missing.
        reason: DenyReason,
    },
}

/// The grant that allowed a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowReason {
    /// The role.
    pub role: Role,
    /// The scope it was granted in.
    pub scope: Scope,
}

/// Why a request was denied. Says nothing about whether the project exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DenyReason {
    /// The principal has no role there.
    NoRole {
        /// Where.
        scope: Scope,
    },
    /// An anonymous sender or the engine: neither acts through a session.
    NoSession,
    /// A permission of platforms was asked for in a project, or the other way round.
    OtherLevel,
    /// The principal's role does not include the permission.
    RoleLacks {
        /// The role.
        role: Role,
        /// The scope it was granted in.
        scope: Scope,
    },
}

/// Proof that the authorizer allowed `P` on `R`: acting methods take it, and take their ids from it.
///
/// Nobody else can make one:
/// ```compile_fail,E0451
/// use ap_auth::{authorizer::Authorized, permission::FlowPublish, principal::{Actor, Identity}};
/// use ap_core::id::ProjectId;
///
/// fn forge(proof: Authorized<FlowPublish>) -> Authorized<FlowPublish> {
///     Authorized { target: ProjectId::from_u128(7), ..proof }
/// }
/// ```
/// and a proof of one permission is no proof of another:
/// ```compile_fail,E0308
/// use ap_auth::{authorizer::Authorized, permission::{FlowPublish, FlowRead}};
///
/// fn promote(proof: Authorized<FlowRead>) -> Authorized<FlowPublish> {
///     proof
/// }
/// ```
pub struct Authorized<P: PermissionMarker, R = ()> {
    actor: Actor,
    target: P::Target,
    resource: R,
    reason: AllowReason,
    permission: PhantomData<fn() -> P>,
}

impl<P: PermissionMarker, R: Resource> Authorized<P, R> {
    /// Who is allowed, and from where they act.
    #[must_use]
    pub const fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The project, or for platform permissions the platform, in which it is allowed.
    #[must_use]
    pub const fn target(&self) -> P::Target {
        self.target
    }

    /// The same as a scope.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.target.into()
    }

    /// What it is allowed on.
    #[must_use]
    pub const fn resource(&self) -> R {
        self.resource
    }

    /// What is allowed.
    #[must_use]
    pub const fn permission(&self) -> Permission {
        P::PERMISSION
    }

    /// The grant that allowed it.
    #[must_use]
    pub const fn reason(&self) -> AllowReason {
        self.reason
    }
}

impl<P: PermissionMarker, R: Resource> fmt::Debug for Authorized<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorized")
            .field("permission", &P::PERMISSION)
            .field("scope", &self.scope())
            .field("resource", &self.resource.id_text())
            .field("actor", &self.actor.identity())
            .finish_non_exhaustive()
    }
}

/// What a permission is exercised on: the id of a record, or `()`.
pub trait Resource: Copy {
    /// The id as text, for the audit trail.
    fn id_text(&self) -> Option<String>;
}

impl Resource for () {
    fn id_text(&self) -> Option<String> {
        None
    }
}

macro_rules! resources {
    ($($id:ident),+) => {$(
        impl Resource for $id {
            fn id_text(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )+};
}

resources!(ConnectionId, FlowId, FlowVersionId, ProjectId, RunId);

/// The authorizer said no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is denied: {}", .0.permission, .0.reason)]
pub struct Denied(Box<DeniedAttempt>);

impl Denied {
    /// Who tried, and from where.
    #[must_use]
    pub fn actor(&self) -> &Actor {
        &self.0.actor
    }

    /// What was tried.
    #[must_use]
    pub fn permission(&self) -> Permission {
        self.0.permission
    }

    /// Where.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.0.scope
    }

    /// On what: the id as text, if there was one.
    #[must_use]
    pub fn resource(&self) -> Option<&str> {
        self.0.resource.as_deref()
    }

    /// Why it was denied.
    #[must_use]
    pub fn reason(&self) -> DenyReason {
        self.0.reason
    }
}

/// Boxed: an error travels through every `Result` of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DeniedAttempt {
    actor: Actor,
    permission: Permission,
    scope: Scope,
    resource: Option<String>,
    reason: DenyReason,
}

impl fmt::Display for AllowReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "role {} in {}", self.role, self.scope)
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRole { scope } => write!(f, "no role in {scope}"),
            Self::NoSession => f.write_str("anonymous senders and the engine act through no session"),
            Self::OtherLevel => f.write_str("it does not apply to this kind of scope"),
            Self::RoleLacks { role, scope } => write!(f, "role {role} in {scope} does not include it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use ap_core::id::{PlatformId, UserId};

    use super::*;
    use crate::permission::{FlowPublish, FlowRead, ProjectCreate};

    const PROJECT: ProjectId = ProjectId::from_u128(1);
    const PLATFORM: PlatformId = PlatformId::from_u128(1);

    /// Who has what: permission, level, then Admin, Editor, Viewer.
    const TABLE: [(&str, char, [bool; 3]); 27] = [
        ("audit.read", 'p', [true, false, false]),
        ("connection.delete", 'p', [true, false, false]),
        ("connection.provision", 'P', [true, false, false]),
        ("connection.read", 'p', [true, true, true]),
        ("connection.reveal", 'p', [true, false, false]),
        ("connection.write", 'p', [true, true, false]),
        ("flow.delete", 'p', [true, false, false]),
        ("flow.publish", 'p', [true, true, false]),
        ("flow.read", 'p', [true, true, true]),
        ("flow.write", 'p', [true, true, false]),
        ("key.rotate", 'P', [true, false, false]),
        ("platform.audit.read", 'P', [true, false, false]),
        ("project.create", 'P', [true, false, false]),
        ("project.read", 'p', [true, true, true]),
        ("project.share", 'P', [true, false, false]),
        ("project.write", 'p', [true, false, false]),
        ("queue.read", 'p', [true, true, true]),
        ("queue.redrive", 'p', [true, true, false]),
        ("run.cancel", 'p', [true, true, false]),
        ("run.read", 'p', [true, true, true]),
        ("run.retry", 'p', [true, true, false]),
        ("run.start", 'p', [true, true, false]),
        ("step.test", 'p', [true, true, false]),
        ("store.read", 'p', [true, true, true]),
        ("store.write", 'p', [true, true, false]),
        ("subject.erase", 'p', [true, false, false]),
        ("worker.read", 'P', [true, false, false]),
    ];

    fn user() -> Principal {
        Principal::user(UserId::from_u128(9))
    }

    fn allows(principal: &Principal, permission: Permission, scope: Scope) -> bool {
        matches!(Authorizer.decide(&Request { principal, permission, scope }), Decision::Allow { .. })
    }

    #[test]
    fn decisions_follow_the_table() {
        assert_eq!(TABLE.len(), Permission::ALL.len());
        let scopes = [
            Scope::Project(PROJECT),
            Scope::Project(ProjectId::from_u128(2)),
            Scope::Platform(PLATFORM),
            Scope::Platform(PlatformId::from_u128(2)),
        ];
        let mut checked = 0;
        for (name, level, roles) in TABLE {
            let permission = name.parse().expect("a permission");
            for (role, has) in Role::ALL.into_iter().zip(roles) {
                for granted in scopes {
                    for asked in scopes {
                        let level_fits = (level == 'P') == matches!(asked, Scope::Platform(_));
                        let expected = has && level_fits && granted == asked;
                        for principal in [user(), Principal::service("sync")] {
                            let principal = principal.with_role(granted, role);
                            assert_eq!(
                                allows(&principal, permission, asked),
                                expected,
                                "{role} {name} {granted} {asked}"
                            );
                            checked += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(checked, TABLE.len() * 3 * 4 * 4 * 2);
    }

    #[test]
    fn nothing_is_allowed_without_a_role() {
        for permission in Permission::ALL {
            for scope in [Scope::Project(PROJECT), Scope::Platform(PLATFORM)] {
                assert!(!allows(&user(), *permission, scope));
            }
        }
    }

    #[test]
    fn senders_and_the_engine_get_nothing_whatever_their_role() {
        for identity in [Identity::Anonymous, Identity::Engine] {
            let principal =
                Principal::new(Actor::new(identity)).with_role(PROJECT, Role::Admin).with_role(PLATFORM, Role::Admin);
            for permission in Permission::ALL {
                for scope in [Scope::Project(PROJECT), Scope::Platform(PLATFORM)] {
                    assert!(!allows(&principal, *permission, scope));
                }
            }
        }
    }

    #[test]
    fn reasons_name_what_decided() {
        let editor = user().with_role(PROJECT, Role::Editor);
        let reason = |principal: &Principal, permission, scope| match (Authorizer).decide(&Request {
            principal,
            permission,
            scope,
        }) {
            Decision::Allow { reason } => format!("allow: {reason}"),
            Decision::Deny { reason } => format!("deny: {reason}"),
        };
        assert_eq!(
            reason(&editor, Permission::FlowPublish, PROJECT.into()),
            format!("allow: role EDITOR in {PROJECT}")
        );
        assert_eq!(
            reason(&editor, Permission::AuditRead, PROJECT.into()),
            format!("deny: role EDITOR in {PROJECT} does not include it")
        );
        let other = ProjectId::from_u128(2);
        assert_eq!(reason(&editor, Permission::FlowRead, other.into()), format!("deny: no role in {other}"));
        assert_eq!(
            reason(&editor, Permission::ProjectCreate, PROJECT.into()),
            "deny: it does not apply to this kind of scope"
        );
    }

    #[test]
    fn a_proof_carries_who_where_and_on_what() {
        let editor = user().with_role(PROJECT, Role::Editor).with_user_agent("browser");
        let flow = FlowId::from_u128(5);
        let proof = Authorizer.authorize::<FlowPublish, _>(&editor, PROJECT, flow).expect("allowed");
        assert_eq!((proof.target(), proof.resource(), proof.permission()), (PROJECT, flow, Permission::FlowPublish));
        assert_eq!(proof.scope(), Scope::Project(PROJECT));
        assert_eq!(proof.actor(), editor.actor());
        assert_eq!(proof.reason(), AllowReason { role: Role::Editor, scope: PROJECT.into() });
    }

    #[test]
    fn a_platform_role_does_not_reach_into_projects() {
        let admin = user().with_role(PLATFORM, Role::Admin);
        assert!(Authorizer.authorize::<ProjectCreate, _>(&admin, PLATFORM, ()).is_ok());
        let denied = Authorizer.authorize::<FlowRead, _>(&admin, PROJECT, FlowId::from_u128(5)).expect_err("denied");
        assert_eq!(denied.reason(), DenyReason::NoRole { scope: PROJECT.into() });
        assert_eq!(denied.resource(), Some(FlowId::from_u128(5).to_string().as_str()));
    }
}
