//! What was refused, on its way to the audit trail: an attack must not write a row per request.
//!
//! Refused webhook requests are counted per flow and reason, denied calls are kept whole up to a bound; both are written
//! once a minute and at shutdown.

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
    webhooks: BTreeMap<(ProjectId, FlowId, &'static str), u64>,
    calls: Vec<AuditEvent>,
    dropped: u64,
}

impl Denials {
    /// Counts one refused webhook request.
    pub(crate) fn webhook(&self, project: ProjectId, flow: FlowId, reason: &'static str) {
        let mut pending = self.lock();
        // Flows are known ones and reasons are ours, so the map is bounded by the number of flows; cap it all the same.
        if pending.webhooks.len() < CAPACITY || pending.webhooks.contains_key(&(project, flow, reason)) {
            *pending.webhooks.entry((project, flow, reason)).or_default() += 1;
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
        let Pending { webhooks, calls, dropped } = std::mem::take(&mut *self.lock());
        if dropped > 0 {
            tracing::warn!(dropped, "denied calls were too many to audit one by one");
        }
        let now = kernel.clock.now();
        let counted = webhooks.into_iter().map(|((project, flow, reason), count)| {
            AuditEvent::by(&Actor::new(Identity::Anonymous), "webhook.deny", project.into(), now)
                .with_resource(flow)
                .with_detail("requests", count)
                .with_outcome(AuditOutcome::Denied, reason)
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
        assert_eq!(pending.webhooks.get(&(project, flow, "not authenticated")), Some(&3));
        assert_eq!(pending.webhooks.len(), 2);
    }
}
