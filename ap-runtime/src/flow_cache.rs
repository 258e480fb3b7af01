//! Checked flow versions, kept while they are in use. Locked versions never change, so nothing is ever invalidated.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ap_core::{
    flow::ValidFlow,
    id::{FlowVersionId, ProjectId},
};

/// Checked flow versions by id.
#[derive(Debug, Default)]
pub(crate) struct FlowCache {
    flows: Mutex<BTreeMap<FlowVersionId, (ProjectId, Arc<ValidFlow>)>>,
}

impl FlowCache {
    /// The version, if it is kept and belongs to the project.
    pub(crate) fn get(&self, version: FlowVersionId, project: ProjectId) -> Option<Arc<ValidFlow>> {
        self.lock().get(&version).filter(|(owner, _)| *owner == project).map(|(_, flow)| Arc::clone(flow))
    }

    /// Keeps a version. A full cache lets go of every version that no run uses.
    pub(crate) fn insert(&self, version: FlowVersionId, project: ProjectId, flow: &Arc<ValidFlow>) {
        let mut flows = self.lock();
        if flows.len() >= CAPACITY {
            flows.retain(|_, (_, flow)| Arc::strong_count(flow) > 1);
        }
        if flows.len() < CAPACITY {
            flows.insert(version, (project, Arc::clone(flow)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<FlowVersionId, (ProjectId, Arc<ValidFlow>)>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Versions kept at most. Unit: flow versions.
const CAPACITY: usize = 1_000;
