//! Queues, workers, and what part of the workers a project gets.

use std::time::Duration;

use ap_auth::{
    audit::AuditEvent,
    permission::{ProjectShare as ShareProject, QueueRead, QueueRedrive, WorkerRead},
};
use ap_core::id::ProjectId;

use super::{ProjectSession, Session, SessionError};
use crate::{
    records,
    store::{ProjectShare, QueueCounts, WorkerRecord},
};

impl Session {
    /// Sets what part of the workers a project gets. Needs `project.share` on the platform.
    ///
    /// This process keeps to it at once, others within ten seconds.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] for a weight outside 1 to 1,000 or a concurrency outside 1 to 100,000;
    /// [`SessionError`] lists the rest.
    pub async fn set_project_share(&self, id: ProjectId, share: ProjectShare) -> Result<(), SessionError> {
        let kernel = &self.parts.kernel;
        let proof = self.authorize::<ShareProject, _>(self.parts.platform, id)?;
        if !(1..=1_000).contains(&share.weight) {
            return Err(SessionError::InvalidArgument { reason: "a weight is from 1 to 1,000".to_owned() });
        }
        if share.concurrency.is_some_and(|runs| !(1..=100_000).contains(&runs)) {
            return Err(SessionError::InvalidArgument { reason: "a concurrency is from 1 to 100,000 runs".to_owned() });
        }
        let event = AuditEvent::of(&proof, kernel.clock.now()).with_detail("weight", u64::from(share.weight));
        let event = match share.concurrency {
            Some(runs) => event.with_detail("concurrency", u64::from(runs)),
            None => event,
        };
        kernel.backend.set_share(proof.resource(), share, &[kernel.audit_record(&event).await?]).await?;
        self.parts.worker.share_changed(proof.resource());
        Ok(())
    }

    /// What part of the workers a project gets. Needs `project.share` on the platform.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn project_share(&self, id: ProjectId) -> Result<ProjectShare, SessionError> {
        let proof = self.authorize::<ShareProject, _>(self.parts.platform, id)?;
        Ok(self.parts.kernel.backend.project(proof.resource()).await?.share)
    }

    /// The workers that are alive: they reported within the last two leases. Needs `worker.read` on the platform.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn workers(&self) -> Result<Vec<WorkerRecord>, SessionError> {
        let _proof = self.authorize::<WorkerRead, _>(self.parts.platform, ())?;
        let within: Duration = self.parts.kernel.worker_options.lease() * 2;
        Ok(self.parts.kernel.backend.workers(within).await?)
    }
}

impl ProjectSession {
    /// How many jobs a queue has. One that nobody ever used has none. Needs `queue.read`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn queue(&self, name: &str) -> Result<QueueCounts, SessionError> {
        let proof = self.authorize::<QueueRead, _>(())?;
        let keys = self.keys().await?;
        let queue = records::queue_hash(&keys, name);
        Ok(self.session.parts.kernel.backend.queue_counts(queue, proof.target()).await?)
    }

    /// Makes up to `limit` dead letters of a queue wait again, the oldest first; returns how many. Needs `queue.redrive`. They
    /// are worked off by the next `queue.process` step that runs.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] for a limit outside 1 to 10,000; [`SessionError`] lists the rest.
    pub async fn redrive_queue(&self, name: &str, limit: u32) -> Result<u64, SessionError> {
        let proof = self.authorize::<QueueRedrive, _>(())?;
        if !(1..=10_000).contains(&limit) {
            return Err(SessionError::InvalidArgument { reason: "a limit is from 1 to 10,000 jobs".to_owned() });
        }
        let kernel = &self.session.parts.kernel;
        let keys = self.keys().await?;
        let event = AuditEvent::of(&proof, kernel.clock.now())
            .with_detail("queue", name)
            .with_detail("limit", u64::from(limit));
        let (queue, audit) = (records::queue_hash(&keys, name), [kernel.seal_event(&keys, &event)?]);
        Ok(kernel.backend.redrive(queue, proof.target(), limit, &audit).await?)
    }
}
