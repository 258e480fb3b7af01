//! Records for the tests: small numbers in, whole records out.

use ap_core::{
    id::{FlowId, FlowVersionId, KeyId, ProjectId, RunId},
    run::RunStatus,
    store::{LookupHash, Precondition, Revision, Sealed},
    time::Timestamp,
};
use ap_crypto::keyring::{KeyKind, WrappedKey};
use ap_runtime::store::{
    Accept, Backend, ClaimRequest, FlowRecord, FlowVersionRecord, FlowWrite, JournalEntry, ProjectRecord, ProjectShare,
    RunControl, RunRecord, TriggerChange, VersionState,
};

pub(crate) const PROJECT: ProjectId = ProjectId::from_u128(1);
pub(crate) const FLOW: FlowId = FlowId::from_u128(1);
pub(crate) const VERSION: FlowVersionId = FlowVersionId::from_u128(1);
const AT: Timestamp = Timestamp::from_millis(1_800_000_000_000);

pub(crate) fn hash(number: u8) -> LookupHash {
    LookupHash([number; 32])
}

fn sealed() -> Sealed {
    Sealed::from_bytes(bytes::Bytes::from_static(b"sealed"))
}

/// A project with a flow that takes runs.
pub(crate) async fn publish(backend: &dyn Backend) {
    let (id, parent) = (KeyId::from_u128(2), KeyId::from_u128(1));
    let key = WrappedKey { id, scope: PROJECT.into(), kind: KeyKind::Data, parent, created: AT, wrapped: sealed() };
    let project = ProjectRecord { id: PROJECT, created: AT, share: ProjectShare::default(), sealed: sealed() };
    backend.create_project(project, key, &[]).await.expect("a project");
    let flow = FlowRecord {
        id: FLOW,
        project: PROJECT,
        created: AT,
        updated: AT,
        revision: Revision::FIRST,
        enabled: true,
        published: Some(VERSION),
        draft: None,
        webhook: hash(1),
        generation: 1,
        sealed: sealed(),
    };
    let version = FlowVersionRecord {
        id: VERSION,
        project: PROJECT,
        flow: FLOW,
        number: 1,
        state: VersionState::Locked,
        created: AT,
        revision: Revision::FIRST,
        sealed: sealed(),
    };
    let versions = vec![(version, Precondition::Absent)];
    let write = FlowWrite { flow, precondition: Precondition::Absent, versions, trigger: TriggerChange::Keep };
    backend.write_flow(write, &[]).await.expect("a flow");
}

pub(crate) fn accept(number: u128) -> Accept {
    Accept {
        run: RunRecord {
            id: RunId::from_u128(number),
            project: PROJECT,
            flow: FLOW,
            version: VERSION,
            parent: None,
            status: RunStatus::Queued,
            created: AT,
            finished: None,
            subject: None,
        },
        generation: 1,
        dedupe: None,
        subject_key: None,
        control: RunControl::default(),
        entry: entry(0),
        lease: None,
    }
}

pub(crate) fn entry(seq: u64) -> JournalEntry {
    JournalEntry { seq, sealed: sealed() }
}

pub(crate) fn claim(limit: u32, total: u32) -> ClaimRequest {
    ClaimRequest { limit, lease: std::time::Duration::from_secs(30), per_project: u32::MAX, total }
}
