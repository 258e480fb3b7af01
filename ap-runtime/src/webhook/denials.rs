//! Refused requests, counted per flow, reason and minute: an attack must not write a row per request.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ap_auth::audit::AuditEvent;
use ap_core::id::{FlowId, ProjectId};

use crate::kernel::Kernel;

/// Counts since the last flush.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    counts: Mutex<BTreeMap<(ProjectId, FlowId, &'static str), u64>>,
}

impl Denials {
    /// Counts one refused request.
    pub(crate) fn count(&self, project: ProjectId, flow: FlowId, reason: &'static str) {
        let mut counts = self.lock();
        // Flows are known ones and reasons are ours, so the map is bounded by the number of flows; cap it all the same.
        if counts.len() < CAPACITY || counts.contains_key(&(project, flow, reason)) {
            *counts.entry((project, flow, reason)).or_default() += 1;
        }
    }

    /// Writes one audit record per flow and reason. What cannot be written stays counted.
    pub(crate) async fn flush(&self, kernel: &Kernel) {
        let counts = std::mem::take(&mut *self.lock());
        for ((project, flow, reason), count) in counts {
            let event = AuditEvent::webhook_denied(flow, reason, count, kernel.clock.now());
            let written = match kernel.audit_record(project.into(), &event).await {
                Ok(record) => kernel.backend.append_audit(&[record]).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                tracing::warn!(error = %error, "refused webhook requests could not be audited yet");
                *self.lock().entry((project, flow, reason)).or_default() += count;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(ProjectId, FlowId, &'static str), u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Flow and reason pairs counted at most.
const CAPACITY: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_per_flow_and_reason() {
        let denials = Denials::default();
        let (project, flow) = (ProjectId::from_u128(1), FlowId::from_u128(2));
        for _ in 0..3 {
            denials.count(project, flow, "not authenticated");
        }
        denials.count(project, flow, "body too large");
        assert_eq!(denials.lock().get(&(project, flow, "not authenticated")), Some(&3));
        assert_eq!(denials.lock().len(), 2);
    }
}
