//! What a published version means for runs that are under way.

use ap_auth::{authorizer::Authorized, permission::RunRead};
use ap_core::{
    flow::ValidFlow,
    id::{FlowVersionId, RunId},
    store::PageRequest,
};
use serde::Serialize;

use super::{FlowSummary, ProjectSession, SessionError};
use crate::{
    engine::compatibility,
    store::{RunFilter, RunRecord},
};

/// What became of publishing a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PublishReport {
    /// The flow.
    pub flow: FlowSummary,
    /// Its runs under way that an earlier version started, the oldest first. They stay with that version. Empty without
    /// `run.read`.
    pub live: Vec<LiveRun>,
    /// Whether there are more than [`PublishReport::MAX_LIVE`], they could not all be read, or the caller may not read
    /// them.
    pub incomplete: bool,
}

impl PublishReport {
    /// Runs under way that are looked at; of more the first.
    pub const MAX_LIVE: usize = 1_000;
}

/// A run under way, and whether the published version would change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LiveRun {
    /// The run.
    pub run: RunId,
    /// The version it is pinned to.
    pub version: FlowVersionId,
    /// Why the published version would not do for what it has begun; `None` if it would: it is compatible.
    pub pinned_because: Option<String>,
}

impl LiveRun {
    /// Whether everything the run has begun is the same in the published version.
    #[must_use]
    pub const fn is_compatible(&self) -> bool {
        self.pinned_because.is_none()
    }
}

impl ProjectSession {
    /// Looks at the runs under way. The flow is published already, so nothing here fails the call.
    pub(super) async fn report(&self, flow: FlowSummary, published: &ValidFlow) -> PublishReport {
        if !self.may_read_runs() {
            return PublishReport { flow, live: Vec::new(), incomplete: true };
        }
        let (mut live, mut incomplete) = (Vec::new(), false);
        let filter = RunFilter { flow: Some(flow.id), live: true, ..RunFilter::default() };
        let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
        'pages: loop {
            let Ok(found) = self.session.parts.kernel.backend.runs(filter, self.project, &page).await else {
                incomplete = true;
                break;
            };
            for run in found.items.iter().filter(|run| Some(run.version) != flow.published) {
                if live.len() == PublishReport::MAX_LIVE {
                    incomplete = true;
                    break 'pages;
                }
                let pinned_because = match self.compare(run, published).await {
                    Ok(different) => different,
                    Err(error) => {
                        tracing::warn!(run = %run.id, %error, "a live run could not be compared with the published version");
                        Some("the run cannot be read here".to_owned())
                    }
                };
                live.push(LiveRun { run: run.id, version: run.version, pinned_because });
            }
            match found.next {
                Some(next) => page = page.after(next),
                None => break,
            }
        }
        PublishReport { flow, live, incomplete }
    }

    /// Whether the caller may know of runs. One who may not asked for something else, so it is no denial to be recorded.
    fn may_read_runs(&self) -> bool {
        let parts = &self.session.parts;
        let authorized: Result<Authorized<RunRead, _>, _> =
            parts.authorizer.authorize(&self.session.principal, self.project, self.project);
        authorized.is_ok()
    }

    /// What would be different for the run.
    async fn compare(&self, run: &RunRecord, published: &ValidFlow) -> Result<Option<String>, SessionError> {
        let kernel = &self.session.parts.kernel;
        let keys = self.keys().await?;
        let pinned = kernel.flow_version(run.version, run.project).await?;
        let state = kernel.replay(run, &keys).await?;
        Ok(compatibility(&state, &pinned, published).err())
    }
}
