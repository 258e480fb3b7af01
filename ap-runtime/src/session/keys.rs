//! [`KeyAdmin`]: rotating keys, and seeing how far that is.

use std::fmt;

use ap_auth::{audit::AuditEvent, authorizer::Authorized, permission::KeyRotate};
use ap_core::{id::KeyId, scope::Scope};

use super::{Session, SessionError};
use crate::{
    kernel::Kernel,
    rotation::{self, KeyStatus, RootStatus, RotationOptions, RotationReport},
};

impl Session {
    /// What an administrator does with keys. Needs `key.rotate` on the platform; every further call is authorised by itself.
    ///
    /// # Errors
    /// [`SessionError::Denied`].
    pub fn keys(&self) -> Result<KeyAdmin, SessionError> {
        let admin = KeyAdmin { session: self.clone(), options: RotationOptions::default() };
        admin.authorize()?;
        Ok(admin)
    }
}

/// Rotates keys while everything goes on; see [`crate::rotation`] for how.
///
/// Every call can be repeated: a rotation that was cut off, by a crash or by dropping its future, is gone on with. Each step of one
/// is in the platform's audit trail, as `key.rotate`.
#[derive(Clone)]
pub struct KeyAdmin {
    session: Session,
    options: RotationOptions,
}

impl KeyAdmin {
    /// Goes about rotations in another way than by default.
    #[must_use]
    pub fn with_options(self, options: RotationOptions) -> Self {
        Self { options, ..self }
    }

    /// Gives a project, or the platform, a new key, seals everything anew and retires the old one. One that is under way, in this
    /// process or another, is gone on with.
    ///
    /// Takes as long as reading and writing all of the tenant's cells, and at least the grace twice.
    ///
    /// # Errors
    /// [`SessionError::Store`]: what was done stays, and another call goes on; [`SessionError::Vault`] if a stored key does not
    /// open; [`SessionError`] lists the rest.
    ///
    /// # Cancel safety
    /// Dropping the future leaves a rotation that is under way; everything can be read and written.
    pub async fn rotate(&self, tenant: impl Into<Scope> + Send) -> Result<RotationReport, SessionError> {
        let (proof, tenant) = (self.authorize()?, tenant.into());
        let events = |stage, key| self.event(&proof, Some(tenant), stage, key);
        Ok(rotation::rotate_tenant(self.kernel(), tenant, self.options, &events).await?)
    }

    /// Turns a rotation back that has not retired the old key yet: everything is brought back under it, and the new one is
    /// retired.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] if none is under way; else as [`KeyAdmin::rotate`].
    ///
    /// # Cancel safety
    /// As [`KeyAdmin::rotate`].
    pub async fn turn_back(&self, tenant: impl Into<Scope> + Send) -> Result<RotationReport, SessionError> {
        let (proof, tenant) = (self.authorize()?, tenant.into());
        let events = |stage, key| self.event(&proof, Some(tenant), stage, key);
        let report = rotation::turn_back(self.kernel(), tenant, self.options, &events).await?;
        report.ok_or_else(|| SessionError::InvalidArgument {
            reason: "no rotation is under way: the old key is retired, or there was none".to_owned(),
        })
    }

    /// How far the key of a project, or of the platform, is.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn status(&self, tenant: impl Into<Scope> + Send) -> Result<KeyStatus, SessionError> {
        let (_proof, tenant) = (self.authorize()?, tenant.into());
        Ok(rotation::status(self.kernel(), tenant).await?)
    }

    /// Projects, and the platform, whose rotation is under way or was cut off. Reads the whole key table.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn unfinished(&self) -> Result<Vec<Scope>, SessionError> {
        let _proof = self.authorize()?;
        Ok(rotation::unfinished(self.kernel()).await?)
    }

    /// Wraps every stored key under the root key that this runtime was built with; returns how many were under another. Those
    /// have to be given with [`previous_key`](crate::runtime::RuntimeBuilder::previous_key), and open nothing in this process
    /// afterwards.
    ///
    /// With several processes: first give all of them both keys, then build all of them on the new one, then call this, then
    /// take the old one away. Until then the way back is the same with the keys exchanged.
    ///
    /// # Errors
    /// [`SessionError::Vault`] if a key is wrapped under a root key that was not given; [`SessionError::Store`]: what was done
    /// stays, and another call goes on; [`SessionError`] lists the rest.
    ///
    /// # Cancel safety
    /// As [`KeyAdmin::rotate`].
    pub async fn rotate_root(&self) -> Result<u64, SessionError> {
        let proof = self.authorize()?;
        let events = |stage, key| self.event(&proof, None, stage, key);
        Ok(rotation::rotate_root(self.kernel(), &events).await?)
    }

    /// Which root keys the stored keys are wrapped under. Reads the whole key table.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn root_status(&self) -> Result<RootStatus, SessionError> {
        let _proof = self.authorize()?;
        Ok(rotation::root_status(self.kernel()).await?)
    }

    fn authorize(&self) -> Result<Authorized<KeyRotate, ()>, SessionError> {
        self.session.authorize::<KeyRotate, _>(self.session.parts.platform, ())
    }

    fn kernel(&self) -> &Kernel {
        &self.session.parts.kernel
    }

    fn event(
        &self,
        proof: &Authorized<KeyRotate, ()>,
        tenant: Option<Scope>,
        stage: &'static str,
        key: Option<KeyId>,
    ) -> AuditEvent {
        let event = AuditEvent::of(proof, self.kernel().clock.now()).with_detail("stage", stage);
        let event = event.with_detail("what", if tenant.is_some() { "tenant key" } else { "root key" });
        let event = tenant.into_iter().fold(event, AuditEvent::with_resource);
        key.into_iter().fold(event, |event, key| event.with_detail("key", key.to_string()))
    }
}

impl fmt::Debug for KeyAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyAdmin").field("options", &self.options).finish_non_exhaustive()
    }
}
