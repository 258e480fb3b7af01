//! What a backend keeps, and the seams through which the runtime reaches it.
//!
//! One backend object implements every trait here, so that a change and its audit records, an acceptance and its run
//! share one transaction. Rules that hold for all of them:
//!
//! * **Isolation.** Every method a session can reach takes the project; a record of another project does not exist.
//! * **Atomicity.** A write happens wholly or not at all, also when its future is dropped half-way: a dropped future
//!   cancels nothing that was handed over.
//! * **Durability.** Once a write returns `Ok`, it survives `kill -9` (the memory backend excepted, and it says so).
//! * **Opacity.** Payloads are [`Sealed`](ap_core::store::Sealed); a backend returns them bit for bit and reads nothing but clear columns.
//! * **No blind write.** Mutable records are written under a [`Precondition`](ap_core::store::Precondition); a run is written under its lease's epoch.
//!   [`ValueExpect::Anything`] is the one exception, and means just that.
//! * **Audit.** Every mutating method commits the audit records it is given together with the change, or neither.
//!
//! [`SystemStore`] holds what crosses projects and is unreachable from a session; it returns the project with each row.

mod accept;
mod audit;
mod cell;
mod connection;
mod file;
mod flow;
mod project;
mod queue;
mod run;
mod subject;
mod system;
mod value;

use ap_crypto::keyring::KeyStore;

pub use self::{
    accept::{Accept, Accepted, Debounce, Dedupe, Gate, Pace, Route, RunControl},
    audit::AuditStore,
    cell::{CELL_BATCH_BYTES, CellKey, CellStore, CellTable, ResealedCell, SealedCell},
    connection::{ConnectionRecord, ConnectionStore, SharedConnection},
    file::{FileRecord, FileStore},
    flow::{
        ClaimedTrigger, FlowRecord, FlowStore, FlowVersionRecord, FlowWrite, TriggerChange, TriggerFire, VersionState,
    },
    project::{ProjectRecord, ProjectShare, ProjectStore},
    queue::{HeldJob, HeldJobs, JobEnd, JobRequest, NewJob, QueueCounts, QueueStore},
    run::{JournalEntry, Lease, RunChange, RunCommit, RunFilter, RunRecord, RunStore, SignalRecord, Signaled},
    subject::{ERASE_BATCH, Erasure, Residue, SubjectStore},
    system::{Beat, ClaimRequest, Claimed, SystemStore, WorkerRecord},
    value::{KeyValueStore, ValueChange, ValueExpect, ValueRecord, ValueScope, ValueUsage, ValueWrite},
};

/// Everything the runtime needs from its storage.
pub trait Backend:
    ProjectStore
    + FlowStore
    + ConnectionStore
    + RunStore
    + QueueStore
    + FileStore
    + KeyValueStore
    + AuditStore
    + SystemStore
    + KeyStore
    + CellStore
    + SubjectStore
{
}

impl<T> Backend for T where
    T: ProjectStore
        + FlowStore
        + ConnectionStore
        + RunStore
        + QueueStore
        + FileStore
        + KeyValueStore
        + AuditStore
        + SystemStore
        + KeyStore
        + CellStore
        + SubjectStore
{
}
