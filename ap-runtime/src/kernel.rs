//! What every part of the runtime shares: seams, keys, pieces, limits, caches.

use std::{fmt, sync::Arc, time::Duration};

use ap_core::{
    audit::AuditRecord,
    flow::{FlowDefinition, FlowLimits, ValidFlow},
    id::{FlowVersionId, ProjectId},
    piece::PieceSet,
    store::{Entity, StoreError},
};
use ap_crypto::{
    entropy::{Entropy, EntropyError, random_array},
    keyring::Keyring,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config::{RunLimits, WebhookOptions, WorkerOptions},
    denials::Denials,
    egress::Egress,
    flow_cache::FlowCache,
    journal::RunError,
    records,
    replies::ReplyHub,
    sandbox::CodeSandbox,
    store::{Backend, RunCommit},
};

/// What every part of the runtime shares.
pub(crate) struct Kernel {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) keyring: Keyring,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) pieces: PieceSet,
    pub(crate) sandbox: Option<Arc<dyn CodeSandbox>>,
    pub(crate) egress: Egress,
    pub(crate) flow_limits: FlowLimits,
    pub(crate) run_limits: RunLimits,
    pub(crate) worker_options: WorkerOptions,
    pub(crate) webhook_options: WebhookOptions,
    pub(crate) flows: FlowCache,
    pub(crate) replies: Arc<ReplyHub>,
    pub(crate) denials: Denials,
}

impl Kernel {
    /// The locked version of a flow, checked against the pieces of this process.
    pub(crate) async fn flow_version(
        &self,
        version: FlowVersionId,
        project: ProjectId,
    ) -> Result<Arc<ValidFlow>, RunError> {
        if let Some(flow) = self.flows.get(version, project) {
            return Ok(flow);
        }
        let record = self.backend.flow_version(version, project).await?;
        let keys = self.keyring.tenant(project.into()).await?;
        let source = records::open_flow_version(&keys, &record)?;
        let definition = FlowDefinition::parse_slice(&source, &self.flow_limits).map_err(RunError::Flow)?;
        let flow = Arc::new(ValidFlow::check(definition, &self.pieces, &self.flow_limits).map_err(RunError::Flow)?);
        self.flows.insert(version, project, &flow);
        Ok(flow)
    }

    /// Commits to a run, and tries again for a while if the store is out of reach: losing the result of an effect that
    /// was performed would make its outcome unknown.
    ///
    /// A failed attempt may have been written all the same. Then the next one meets its own journal entry, under the same
    /// lease: that is success.
    pub(crate) async fn commit(
        &self,
        commit: RunCommit,
        audit: &[AuditRecord],
        lost: &CancellationToken,
    ) -> Result<(), StoreError> {
        let mut wait = Duration::from_millis(20);
        let mut attempt = 0;
        loop {
            match self.backend.commit(commit.clone(), audit).await {
                Err(StoreError::AlreadyExists { entity: Entity::JournalEntry }) if attempt > 0 => return Ok(()),
                Err(error) if error.is_retryable() && attempt < COMMIT_RETRIES => {
                    tracing::warn!(run = %commit.lease.run, error = %error, "a commit is tried again");
                }
                done => return done,
            }
            let until = self.clock.now().saturating_add(wait);
            tokio::select! {
                biased;
                () = lost.cancelled() => return Err(StoreError::Fenced),
                () = self.clock.sleep_until(until) => {}
            }
            (attempt, wait) = (attempt + 1, wait * 2);
        }
    }

    /// Ten bytes for an id.
    pub(crate) fn id_entropy(&self) -> Result<[u8; 10], EntropyError> {
        random_array(&*self.entropy)
    }

    pub(crate) fn random_u32(&self) -> Result<u32, EntropyError> {
        random_array(&*self.entropy).map(u32::from_le_bytes)
    }

    pub(crate) fn random_u64(&self) -> Result<u64, EntropyError> {
        random_array(&*self.entropy).map(u64::from_le_bytes)
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("backend", &self.backend)
            .field("worker", &self.worker_options)
            .finish_non_exhaustive()
    }
}

/// With doubling waits from 20 ms this is about 10 s.
const COMMIT_RETRIES: u32 = 9;
