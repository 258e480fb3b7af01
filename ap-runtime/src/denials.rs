//! What was refused, on its way to the audit trail: an attack must not write a row per request.
//!
//! What comes from outside is counted per door, flow and reason; denied calls are kept whole up to a bound. Both are written once
//! a minute and at shutdown.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ap_auth::{
    audit::AuditEvent,
    authorizer::Denied,
    principal::{Actor, Identity},
};
use ap_core::{
    audit::AuditOutcome,
    id::{FlowId, ProjectId},
    time::Timestamp,
};

use crate::kernel::Kernel;

/// Refusals since the last flush.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    counts: BTreeMap<(ProjectId, Subject, &'static str), u64>,
    calls: Vec<AuditEvent>,
    dropped: u64,
}

impl Denials {
    /// Counts one refused webhook request.
    pub(crate) fn webhook(&self, project: ProjectId, flow: FlowId, reason: &'static str) {
        self.count(project, Subject::Webhook(flow), reason);
    }

    /// Counts one resume token that did nothing.
    pub(crate) fn resume(&self, project: ProjectId, reason: &'static str) {
        self.count(project, Subject::Resume, reason);
    }

    /// Counts one firing of a flow's schedule or poll that came to nothing.
    pub(crate) fn trigger(&self, project: ProjectId, flow: FlowId, reason: &'static str) {
        self.count(project, Subject::Trigger(flow), reason);
    }

    fn count(&self, project: ProjectId, subject: Subject, reason: &'static str) {
        let mut pending = self.lock();
        // Subjects are known ones and reasons are ours, so the map is bounded by the number of flows; cap it all the same.
        if pending.counts.len() < CAPACITY || pending.counts.contains_key(&(project, subject, reason)) {
            *pending.counts.entry((project, subject, reason)).or_default() += 1;
        }
    }

    /// Keeps one denied call.
    pub(crate) fn call(&self, denied: &Denied, at: Timestamp) {
        let mut pending = self.lock();
        if pending.calls.len() < CAPACITY {
            pending.calls.push(AuditEvent::denied(denied, at));
        } else {
            pending.dropped += 1;
        }
    }

    /// Writes everything to the audit trail. What cannot be written is logged and let go: it must not grow for ever.
    pub(crate) async fn flush(&self, kernel: &Kernel) {
        let Pending { counts, calls, dropped } = std::mem::take(&mut *self.lock());
        if dropped > 0 {
            tracing::warn!(dropped, "denied calls were too many to audit one by one");
        }
        let now = kernel.clock.now();
        let counted = counts.into_iter().map(|((project, subject, reason), count)| {
            subject.event(project, now, count).with_outcome(subject.outcome(), reason)
        });
        let mut records = Vec::new();
        for event in calls.into_iter().chain(counted) {
            match kernel.audit_record(&event).await {
                Ok(record) => records.push(record),
                // A project that does not exist has no trail to write to.
                Err(error) => tracing::warn!(%error, scope = %event.scope(), "a refusal could not be audited"),
            }
        }
        for chunk in records.chunks(CHUNK) {
            if let Err(error) = kernel.backend.append_audit(chunk).await {
                tracing::error!(%error, refusals = chunk.len(), "refusals could not be audited");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What something was refused of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Resume,
    Trigger(FlowId),
    Webhook(FlowId),
}

impl Subject {
    fn event(self, project: ProjectId, at: Timestamp, count: u64) -> AuditEvent {
        let by = |identity, action| AuditEvent::by(&Actor::new(identity), action, project.into(), at);
        match self {
            Self::Resume => by(Identity::Anonymous, "run.resume.deny").with_detail("requests", count),
            Self::Trigger(flow) => by(Identity::Engine, "trigger.fail").with_resource(flow).with_detail("times", count),
            Self::Webhook(flow) => {
                by(Identity::Anonymous, "webhook.deny").with_resource(flow).with_detail("requests", count)
            }
        }
    }

    const fn outcome(self) -> AuditOutcome {
        match self {
            Self::Resume | Self::Webhook(_) => AuditOutcome::Denied,
            Self::Trigger(_) => AuditOutcome::Failure,
        }
    }
}

/// Records written in one transaction.
const CHUNK: usize = 500;
/// Entries kept at most, of each kind.
const CAPACITY: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhook_requests_are_counted_per_flow_and_reason() {
        let denials = Denials::default();
        let (project, flow) = (ProjectId::from_u128(1), FlowId::from_u128(2));
        for _ in 0..3 {
            denials.webhook(project, flow, "not authenticated");
        }
        denials.webhook(project, flow, "body too large");
        let pending = denials.lock();
        assert_eq!(pending.counts.get(&(project, Subject::Webhook(flow), "not authenticated")), Some(&3));
        assert_eq!(pending.counts.len(), 2);
    }
}
