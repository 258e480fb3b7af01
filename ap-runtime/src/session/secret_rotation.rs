//! [`SecretRotation`]: a new secret for a connection, checked before it is used, and the old one for a while after.

use std::{sync::Arc, time::Duration};

use ap_auth::{
    audit::AuditEvent,
    permission::{ConnectionProvision, ConnectionReveal, ConnectionWrite},
    principal::Actor,
};
use ap_core::{
    audit::AuditOutcome,
    connection::{Connection, ConnectionError, NewSecrets, Rotation, RotationStatus},
    id::ProjectId,
    scope::Scope,
    time::Timestamp,
};
use ap_crypto::{
    connection::{decode_connection, encode_connection},
    vault::TenantKeys,
};

use super::{
    ProjectSession, Session, SessionError,
    connection_check::{Asked, Check},
    connections::{NOT_FOUND, check_references, refuse_predefined},
};
use crate::{
    config::{self, LimitError},
    credentials::Found,
    store::ConnectionRecord,
    webhook::Forget,
};

/// How a rotation goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretRotationOptions {
    grace: Duration,
    unverified: bool,
}

impl SecretRotationOptions {
    /// Sets how long the old secret is kept beside the new one: webhook doors let in who still has it, and the rotation can be
    /// rolled back. Then it is erased, within a minute.
    ///
    /// * Default: 1 h. Accepted: 0 s, which erases it at once, to 30 days. Source: guide §9.4.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_grace(mut self, grace: Duration) -> Result<Self, LimitError> {
        self.grace = config::in_range("grace of a rotation", grace, Duration::ZERO, MAX_GRACE)?;
        Ok(self)
    }

    /// Uses a new secret that was not found good: for what nobody can be asked about, such as the key with which others sign
    /// webhooks.
    ///
    /// # Security
    /// A wrong secret makes every run that uses the connection fail, until it is rolled back.
    #[must_use]
    pub const fn unverified(self) -> Self {
        Self { unverified: true, ..self }
    }
}

impl Default for SecretRotationOptions {
    fn default() -> Self {
        Self { grace: Duration::from_secs(3_600), unverified: false }
    }
}

impl ProjectSession {
    /// Changes the secrets of the project's connection of this name. Needs `connection.write`; for one that is revealed to code
    /// `connection.reveal` as well.
    #[must_use]
    pub fn secret_rotation(&self, name: &str) -> SecretRotation {
        SecretRotation::new(self.session.clone(), Whose::Project(self.clone()), name)
    }
}

impl Session {
    /// As [`ProjectSession::secret_rotation`], for a connection of the platform. Needs `connection.provision` on the platform.
    #[must_use]
    pub fn platform_secret_rotation(&self, name: &str) -> SecretRotation {
        SecretRotation::new(self.clone(), Whose::Platform, name)
    }

    /// As [`ProjectSession::secret_rotation`], for a predefined connection. Needs `connection.provision` on the platform.
    #[must_use]
    pub fn provisioned_secret_rotation(&self, project: ProjectId, name: &str) -> SecretRotation {
        SecretRotation::new(self.clone(), Whose::Predefined(project), name)
    }
}

/// Changes secrets of a connection without an instant in which none is good, and without one that nobody tried.
///
/// ```text
/// stage ─ verify ─ activate ─── grace ─── retired
///   └─ roll_back ─┘   └── roll_back ──┘
/// ```
///
/// * **Staged**: the new secret is sealed beside the old one, which stays in use.
/// * **Verified**: the new one was used as a run would use it: the connection's `validation` request was sent with it; of an
///   OAuth 2.0 client, the provider gave tokens for it. Otherwise nothing changes.
/// * **Activated**: requests use the new one from the next on. The old one is kept for the grace: senders of webhooks who have it
///   are let in, and one call brings it back. Then it is erased from the record.
///
/// While either lives both are masked in whatever a run that names the connection puts out. Every step is one write under the
/// connection's revision, with its audit record; [`ConnectionSummary::rotation`](super::ConnectionSummary::rotation) shows how far it
/// is. Replacing the connection ends a rotation, unless the new definition has the same secrets as the one in use.
///
/// # Examples
/// ```no_run
/// # async fn example(project: ap_runtime::session::ProjectSession) -> Result<(), Box<dyn std::error::Error>> {
/// use ap_core::connection::NewSecrets;
///
/// let new = NewSecrets::from_json(br#"{ "secret_text": "the-new-key", "expiresAt": "2031-01-01T00:00:00Z" }"#)?;
/// let status = project.secret_rotation("crm").rotate(new).await?;
/// println!("the old key is gone by {:?}", status.retires);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SecretRotation {
    session: Session,
    whose: Whose,
    name: String,
    options: SecretRotationOptions,
}

/// Whose connection it is, and under which right it is changed.
#[derive(Clone)]
enum Whose {
    Platform,
    Predefined(ProjectId),
    Project(ProjectSession),
}

/// Somebody who may, and what they may do it to.
struct Target {
    actor: Actor,
    action: &'static str,
    owner: Scope,
    keys: Arc<TenantKeys>,
    record: ConnectionRecord,
    connection: Connection,
    /// Doors of the project look again afterwards.
    _forget: Option<Forget>,
}

impl SecretRotation {
    fn new(session: Session, whose: Whose, name: &str) -> Self {
        Self { session, whose, name: name.to_owned(), options: SecretRotationOptions::default() }
    }

    /// Goes about it in another way than by default.
    #[must_use]
    pub fn with_options(self, options: SecretRotationOptions) -> Self {
        Self { options, ..self }
    }

    /// Stages, verifies and activates. If the new secrets are not found good, they are gone, and those in use stay.
    ///
    /// # Errors
    /// [`SessionError::Rotation`] says why the new secrets are not used; as each of the steps besides.
    ///
    /// # Cancel safety
    /// Dropped, it leaves a rotation that is as far as [`SecretRotation::status`] says, and can be gone on with or rolled back.
    pub async fn rotate(&self, new: NewSecrets) -> Result<RotationStatus, SessionError> {
        self.stage(new).await?;
        if !self.options.unverified
            && let Err(error) = self.verify().await
        {
            if let Err(other) = self.roll_back().await {
                tracing::warn!(connection = self.name, error = %other, "new secrets that are not good could not be taken out");
            }
            return Err(error);
        }
        self.activate().await
    }

    /// Puts new secrets beside those in use. Others that were staged are gone.
    ///
    /// # Errors
    /// [`SessionError::InvalidConnection`] names the field at fault; [`SessionError::InvalidArgument`] while old secrets retire:
    /// [`SecretRotation::retire`] or [`SecretRotation::roll_back`] first; [`StoreError::NotFound`](ap_core::store::StoreError::NotFound);
    /// [`StoreError::Conflict`](ap_core::store::StoreError::Conflict) if
    /// somebody else wrote the connection at the same time; [`SessionError`] lists the rest.
    pub async fn stage(&self, new: NewSecrets) -> Result<RotationStatus, SessionError> {
        let target = self.authorized().await?;
        if matches!(self.whose, Whose::Project(_)) && new.references().next().is_some() {
            // Whoever could name a secret of the host could send it somewhere.
            let reason =
                "only connections that the host writes may refer to its secrets: give the value itself".to_owned();
            return Err(SessionError::InvalidArgument { reason });
        }
        check_references(&self.session, new.references())?;
        if matches!(target.connection.rotation(), Some(Rotation::Retiring { .. })) {
            return Err(self.wrong("its old secrets are still retiring: `retire` them or `roll_back` first"));
        }
        let now = self.now();
        self.write(target, "staged", |connection| connection.staging(new, now)).await
    }

    /// Uses the staged secrets the way a run would, for nothing but to find out whether they are good.
    ///
    /// Of an OAuth 2.0 client tokens are asked for with the new secret, and kept, because a refresh token may be used up by that.
    ///
    /// # Errors
    /// [`SessionError::Rotation`] if they are not good, or it cannot be found out; nothing is changed then.
    /// [`SessionError::InvalidArgument`] if none are staged, or if there is nobody to ask; as [`SecretRotation::stage`] besides.
    pub async fn verify(&self) -> Result<RotationStatus, SessionError> {
        let target = self.authorized().await?;
        let Some(Rotation::Staged { since, .. }) = target.connection.rotation() else {
            return Err(self.wrong("no new secrets are staged: `stage` them first"));
        };
        let since = *since;
        let verified = if target.connection.oauth().is_some() {
            self.verify_client(&target, since).await
        } else {
            self.verify_by_request(&target).await?
        };
        if let Err(reason) = verified {
            let event = self.event(&target, "refused").with_outcome(AuditOutcome::Failure, &reason);
            let kernel = &self.session.parts.kernel;
            kernel.backend.append_audit(&[kernel.seal_event(&target.keys, &event)?]).await?;
            return Err(SessionError::Rotation { reason });
        }
        if target.connection.oauth().is_some() {
            // Written with the tokens that say so.
            let (event, kernel) = (self.event(&target, "verified"), &self.session.parts.kernel);
            kernel.backend.append_audit(&[kernel.seal_event(&target.keys, &event)?]).await?;
            return self.status().await?.ok_or_else(|| self.wrong("it was changed meanwhile: begin again"));
        }
        let now = self.now();
        self.write(target, "verified", |connection| Ok(connection.with_verified(since, now))).await
    }

    /// Makes the staged secrets those in use, and keeps the old ones for the grace. What the connection was in error for is
    /// forgotten.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] if none are staged, or if they were not found good, unless that is no matter
    /// ([`SecretRotationOptions::unverified`]); as [`SecretRotation::stage`] besides.
    pub async fn activate(&self) -> Result<RotationStatus, SessionError> {
        let target = self.authorized().await?;
        let Some(rotation @ Rotation::Staged { verified, .. }) = target.connection.rotation() else {
            return Err(self.wrong("no new secrets are staged: `stage` them first"));
        };
        if verified.is_none() && !self.options.unverified {
            return Err(
                self.wrong("its new secrets were not found good: `verify` them, or say that it does not matter")
            );
        }
        let (now, mut done) = (self.now(), rotation.status());
        let until = now.saturating_add(self.options.grace);
        // What is true if nothing is kept.
        (done.since, done.retires) = (now, Some(now));
        let written = self.change(target, "activated", |connection| connection.activated(now, until)).await?;
        Ok(written.unwrap_or(done))
    }

    /// Ends a rotation: staged secrets are gone; from retiring ones those of before are in use again, and the new ones are gone.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] if none is under way, or the old secrets are retired; as [`SecretRotation::stage`]
    /// besides.
    pub async fn roll_back(&self) -> Result<(), SessionError> {
        let target = self.authorized().await?;
        let now = self.now();
        match target.connection.rotation() {
            Some(Rotation::Retiring { until, .. }) if *until <= now => {
                return Err(self.wrong("its old secrets are retired: there is no way back"));
            }
            Some(_) => {}
            None => return Err(self.wrong("no rotation is under way")),
        }
        self.change(target, "rolled back", Connection::rolled_back).await.map(drop)
    }

    /// Ends the grace now: the old secrets are erased.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] if none are retiring; as [`SecretRotation::stage`] besides.
    pub async fn retire(&self) -> Result<(), SessionError> {
        let target = self.authorized().await?;
        if !matches!(target.connection.rotation(), Some(Rotation::Retiring { .. })) {
            return Err(self.wrong("no old secrets are retiring"));
        }
        self.change(target, "retired", |connection| connection.with_rotation(None)).await.map(drop)
    }

    /// How far it is; `None` if none is under way.
    ///
    /// # Errors
    /// As [`SecretRotation::stage`].
    pub async fn status(&self) -> Result<Option<RotationStatus>, SessionError> {
        Ok(self.authorized().await?.connection.rotation().map(Rotation::status))
    }

    async fn authorized(&self) -> Result<Target, SessionError> {
        let parts = &self.session.parts;
        let (actor, action, owner, forget) = match &self.whose {
            Whose::Project(project) => {
                let proof = project.authorize::<ConnectionWrite, _>(())?;
                let forget = parts.routes.forget_afterwards(proof.target());
                (proof.actor().clone(), WRITE, Scope::from(proof.target()), Some(forget))
            }
            Whose::Platform => {
                let proof = self.session.authorize::<ConnectionProvision, _>(parts.platform, ())?;
                (proof.actor().clone(), PROVISION, proof.scope(), None)
            }
            Whose::Predefined(project) => {
                let proof = self.session.authorize::<ConnectionProvision, _>(parts.platform, ())?;
                let forget = parts.routes.forget_afterwards(*project);
                (proof.actor().clone(), PROVISION, Scope::from(*project), Some(forget))
            }
        };
        let keys = parts.kernel.keyring.tenant(owner).await?;
        let Found { record, connection } = self.session.own(&keys, owner, &self.name).await?.ok_or(NOT_FOUND)?;
        match &self.whose {
            Whose::Project(project) => {
                refuse_predefined(&connection)?;
                if connection.terms().reveal_to_code {
                    let _reveal = project.authorize::<ConnectionReveal, _>(())?;
                }
            }
            Whose::Predefined(_) if !connection.terms().predefined => return Err(NOT_FOUND.into()),
            Whose::Predefined(_) | Whose::Platform => {}
        }
        Ok(Target { actor, action, owner, keys, record, connection, _forget: forget })
    }

    async fn verify_by_request(&self, target: &Target) -> Result<Result<(), String>, SessionError> {
        let Some(validation) = target.connection.terms().validation.clone() else {
            return Err(self.wrong(
                "it has no `validation` request, so nobody can be asked whether the new secrets are good: add one, or say that \
                 it does not matter",
            ));
        };
        // A connection has no other way to be copied.
        let candidate = decode_connection(&encode_connection(&target.connection)?)?.with_staged()?;
        let check = Check { owner: target.owner, keys: &target.keys, id: target.record.id };
        Ok(match check.ask(&self.session.parts.kernel, candidate, &validation).await? {
            Asked::Good => Ok(()),
            Asked::Bad(reason) => Err(format!("{reason}; nothing was changed")),
            Asked::Unknown(problem) => Err(format!("it cannot be found out whether they are good: {problem}")),
        })
    }

    async fn verify_client(&self, target: &Target, since: Timestamp) -> Result<(), String> {
        let verified = self.session.parts.kernel.verify_client_secret(target.owner, &self.name, since).await;
        verified.map_err(|error| error.to_string())
    }

    /// Writes the next revision, which has a rotation.
    async fn write(
        &self,
        target: Target,
        step: &str,
        change: impl FnOnce(Connection) -> Result<Connection, ConnectionError>,
    ) -> Result<RotationStatus, SessionError> {
        let status = self.change(target, step, change).await?;
        status.ok_or_else(|| self.wrong("it was changed meanwhile: begin again"))
    }

    async fn change(
        &self,
        target: Target,
        step: &str,
        change: impl FnOnce(Connection) -> Result<Connection, ConnectionError>,
    ) -> Result<Option<RotationStatus>, SessionError> {
        let event = self.event(&target, step);
        let connection = change(target.connection)?;
        let status = connection.rotation().map(Rotation::status);
        let event = match status.as_ref().and_then(|status| status.retires) {
            Some(retires) => event.with_detail("retires", retires.to_string()),
            None => event,
        };
        self.session.rewrite(&target.keys, target.record, &connection, event).await?;
        Ok(status)
    }

    fn event(&self, target: &Target, step: &str) -> AuditEvent {
        let event = AuditEvent::by(&target.actor, target.action, target.owner, self.now());
        event.with_detail("rotation", step).with_detail("name", self.name.as_str())
    }

    fn now(&self) -> Timestamp {
        self.session.parts.kernel.clock.now()
    }

    fn wrong(&self, reason: &str) -> SessionError {
        SessionError::InvalidArgument { reason: format!("connection `{}` cannot be rotated: {reason}", self.name) }
    }
}

const MAX_GRACE: Duration = Duration::from_secs(30 * 86_400);
const WRITE: &str = "connection.write";
const PROVISION: &str = "connection.provision";
