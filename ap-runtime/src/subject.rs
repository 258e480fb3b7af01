//! Data subjects: whose data a run holds, the keys that go with it, and what is left to say once they are destroyed.
//!
//! A run is about the subject that its flow names ([`FlowControl::subject`]), or that whoever starts it by hand does. Its journal,
//! its files and what it is told are sealed under the subject's key, and that under the tenant's. What it passes on is no longer
//! its own: jobs in queues, requests to others, audit records.
//!
//! No key of a subject is kept open: each run and each call reads it anew, and drops it when it is done. So there is nothing to be
//! forgotten elsewhere when one is destroyed, but in the hands of whoever executes a run of it, and those are taken from it.
//!
//! [`FlowControl::subject`]: ap_core::flow::FlowControl::subject

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use ap_core::{
    flow::ValidFlow,
    id::{KeyId, ProjectId},
    store::{Entity, LookupHash, Sealed, StoreError},
};
use ap_crypto::{
    entropy::Entropy,
    envelope::SealContext,
    error::VaultError,
    subject::{SubjectKey, WrappedSubjectKey},
    vault::TenantKeys,
};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    flow_control::{Origin, delivered},
    journal::RunError,
    kernel::Kernel,
    store::{ERASE_BATCH, Erasure},
    wakeup::Hint,
};

/// Longest name of a data subject. Unit: bytes.
pub const MAX_SUBJECT_BYTES: usize = 1_024;

/// What the payloads of one run are sealed under.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunKeys<'k> {
    pub(crate) tenant: &'k TenantKeys,
    pub(crate) subject: Option<&'k SubjectKey>,
}

impl<'k> RunKeys<'k> {
    pub(crate) const fn new(tenant: &'k TenantKeys, subject: Option<&'k SubjectKey>) -> Self {
        Self { tenant, subject }
    }

    pub(crate) fn seal(
        &self,
        context: &SealContext<'_>,
        plaintext: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Sealed, VaultError> {
        self.tenant.seal_for(self.subject, context, plaintext, entropy)
    }

    pub(crate) fn open(&self, context: &SealContext<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        self.tenant.open_for(self.subject, context, sealed)
    }
}

/// Whom a new run is about.
#[derive(Clone, Debug)]
pub(crate) struct RunSubject {
    pub(crate) key: Arc<SubjectKey>,
    /// The key as it is to be stored with the run, if the subject had none.
    pub(crate) new: Option<WrappedSubjectKey>,
}

impl RunSubject {
    /// The subject of a run that exists.
    pub(crate) const fn known(key: Arc<SubjectKey>) -> Self {
        Self { key, new: None }
    }
}

/// Keys that several runs of one transaction may share, by their subjects.
pub(crate) type SharedSubjects = BTreeMap<LookupHash, RunSubject>;

/// Checks the name of a data subject.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_subject(subject: &str) -> Result<(), String> {
    if (1..=MAX_SUBJECT_BYTES).contains(&subject.len()) {
        return Ok(());
    }
    Err(format!("a data subject is named by 1 to {MAX_SUBJECT_BYTES} bytes of text"))
}

/// Whom a run of `flow` that starts with `trigger` is about.
///
/// # Errors
/// Why that cannot be told, for a caller. What a poll or a schedule delivers must not be lost, and is about nobody then.
pub(crate) fn subject_of(flow: &ValidFlow, trigger: &Value, origin: Origin) -> Result<Option<String>, String> {
    let Some(template) = &flow.definition().control().subject else { return Ok(None) };
    let named = match template.resolve(&delivered(trigger)) {
        Ok(Value::Null) => return Ok(None),
        Ok(value) => match &value {
            Value::String(text) => Ok(Cow::Borrowed(text.as_str())),
            Value::Number(number) if number.is_i64() || number.is_u64() => Ok(Cow::Owned(number.to_string())),
            _ => Err("a data subject is named by text or a whole number".to_owned()),
        }
        .and_then(|text| check_subject(&text).map(|()| text.into_owned())),
        Err(error) => Err(error.to_string()),
    };
    match named {
        Ok(subject) => Ok(Some(subject)),
        Err(reason) if origin == Origin::Caller => Err(reason),
        Err(reason) => {
            tracing::warn!(reason, "the data subject of a run cannot be told; the run is about nobody");
            Ok(None)
        }
    }
}

/// The hash under which a subject is kept.
pub(crate) fn subject_hash(keys: &TenantKeys, subject: &str) -> LookupHash {
    keys.lookup_hash("data-subject", &[subject.as_bytes()])
}

/// Whether an acceptance was refused because a subject's key was added or destroyed in this instant: nothing was written, and
/// another try goes by what there is now.
pub(crate) const fn is_rekeyed(error: &StoreError) -> bool {
    matches!(error, StoreError::Conflict { entity: Entity::Subject, .. })
}

/// How often an acceptance is tried whose subject gets another key in this instant.
pub(crate) const REKEYED_TRIES: u32 = 5;

impl Kernel {
    /// The key for a new run about `subject`; one that `shared` has already is used again.
    pub(crate) async fn subject_for(
        &self,
        keys: &TenantKeys,
        project: ProjectId,
        subject: &str,
        shared: &mut SharedSubjects,
    ) -> Result<RunSubject, RunError> {
        let hash = subject_hash(keys, subject);
        if let Some(known) = shared.get(&hash) {
            return Ok(known.clone());
        }
        let found = match self.backend.subject_key(hash, project).await? {
            Some(stored) => RunSubject::known(Arc::new(self.keyring.unwrap_subject_key(keys, &stored)?)),
            None => {
                let now = self.clock.now();
                let key = SubjectKey::generate(KeyId::from_parts(now, self.id_entropy()?), &*self.entropy)?;
                let new = self.keyring.wrap_subject_key((keys, &key), hash, now, &*self.entropy)?;
                RunSubject { key: Arc::new(key), new: Some(new) }
            }
        };
        shared.insert(hash, found.clone());
        Ok(found)
    }

    /// The key that a run names.
    ///
    /// # Errors
    /// [`RunError::Erased`] if it was destroyed.
    pub(crate) async fn subject_of_run(
        &self,
        keys: &TenantKeys,
        project: ProjectId,
        subject: Option<KeyId>,
    ) -> Result<Option<Arc<SubjectKey>>, RunError> {
        let Some(id) = subject else { return Ok(None) };
        match self.backend.subject_key_by_id(id, project).await {
            Ok(stored) => Ok(Some(Arc::new(self.keyring.unwrap_subject_key(keys, &stored)?))),
            Err(StoreError::NotFound { .. }) => {
                Err(RunError::Erased { at: self.backend.erasure(id, project).await?.at })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Does what is left to do of an erasure: ends runs that have not ended, and sees to it that the store forgets the key.
    pub(crate) async fn finish_erasure(&self, erasure: &Erasure) -> Result<Erasure, StoreError> {
        let Erasure { key, project, .. } = *erasure;
        while self.backend.end_erased_runs(key, project).await? == u64::from(ERASE_BATCH) {}
        // Gates may be open now, and jobs back in their queues.
        self.wakeup.notify(Hint::Ready);
        self.backend.finish_erasure(key, project).await
    }

    /// Does what is left to do of erasures whose callers did not see them through.
    pub(crate) async fn finish_erasures(&self) {
        let found = match self.backend.unfinished_erasures(ERASURES_AT_ONCE).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "unfinished erasures cannot be looked for");
                return;
            }
        };
        for erasure in found {
            if let Err(error) = self.finish_erasure(&erasure).await {
                let (project, key) = (erasure.project, erasure.key);
                tracing::warn!(%project, %key, %error, "an erasure cannot be finished now; it is tried again");
            }
        }
    }
}

/// Erasures that one look finishes.
const ERASURES_AT_ONCE: u32 = 16;
