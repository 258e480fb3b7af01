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
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::Clock,
    config::{RunLimits, ValueLimits, WebhookOptions, WorkerOptions},
    denials::Denials,
    egress::Egress,
    flow_cache::FlowCache,
    journal::RunError,
    oauth::provider::Providers,
    records,
    replies::ReplyHub,
    sandbox::CodeSandbox,
    secret::SecretSources,
    store::{Backend, RunChange, RunCommit},
    wakeup::Wakeup,
};

/// What every part of the runtime shares.
pub(crate) struct Kernel {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) pieces: PieceSet,
    pub(crate) sandbox: Option<Arc<dyn CodeSandbox>>,
    pub(crate) egress: Egress,
    pub(crate) secrets: SecretSources,
    pub(crate) providers: Providers,
    pub(crate) flow_limits: FlowLimits,
    pub(crate) run_limits: RunLimits,
    pub(crate) value_limits: ValueLimits,
    pub(crate) worker_options: WorkerOptions,
    pub(crate) webhook_options: WebhookOptions,
    pub(crate) flows: FlowCache,
    pub(crate) replies: Arc<ReplyHub>,
    pub(crate) denials: Denials,
    pub(crate) wakeup: Arc<dyn Wakeup>,
    /// Renewals of tokens under way: they outlive whoever asked for them.
    pub(crate) renewals: TaskTracker,
    /// Where the host's resume door is, without a slash at the end: what stands before a token.
    pub(crate) resume_base: Option<Arc<str>>,
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
        // It was judged under the host's limits when it was published; those may have changed since.
        let limits = FlowLimits::widest();
        let definition = FlowDefinition::parse_slice(&source, &limits).map_err(RunError::Flow)?;
        let flow = Arc::new(ValidFlow::check(definition, &self.pieces, &limits).map_err(RunError::Flow)?);
        self.flows.insert(version, project, &flow);
        Ok(flow)
    }

    /// Commits to a run, and tries again as long as the lease is held and the store is out of reach: losing the result of
    /// an effect that was performed would make its outcome unknown.
    ///
    /// A failed attempt may have been written all the same. Then the next one meets its own journal entry, or its own end,
    /// under the same lease: that is success.
    pub(crate) async fn commit(
        &self,
        commit: RunCommit,
        audit: &[AuditRecord],
        lost: &CancellationToken,
    ) -> Result<(), StoreError> {
        let (mut wait, mut attempt) = (Duration::from_millis(20), 0);
        loop {
            match self.backend.commit(commit.clone(), audit).await {
                Err(StoreError::AlreadyExists { entity: Entity::JournalEntry | Entity::AuditRecord })
                    if attempt > 0 =>
                {
                    return Ok(());
                }
                Err(StoreError::Fenced) if attempt > 0 && self.has_ended(&commit).await => return Ok(()),
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
            (attempt, wait) = (attempt + 1, (wait * 2).min(LONGEST_COMMIT_WAIT));
        }
    }

    /// Whether the run has ended exactly as `commit` ends it.
    async fn has_ended(&self, commit: &RunCommit) -> bool {
        let RunChange::End { status, at } = commit.change else { return false };
        let run = self.backend.run(commit.lease.run, commit.lease.project).await;
        run.is_ok_and(|run| run.status == status && run.finished == Some(at))
    }

    /// Ten bytes for an id.
    pub(crate) fn id_entropy(&self) -> Result<[u8; 10], EntropyError> {
        random_array(&*self.entropy)
    }

    pub(crate) fn random_u32(&self) -> Result<u32, EntropyError> {
        random_array(&*self.entropy).map(u32::from_le_bytes)
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

/// With waits of up to [`LONGEST_COMMIT_WAIT`] this is about ten minutes.
const COMMIT_RETRIES: u32 = 130;
const LONGEST_COMMIT_WAIT: Duration = Duration::from_secs(5);
