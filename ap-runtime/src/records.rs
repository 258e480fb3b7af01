//! How each kind of record is sealed: one place for the contexts, so that sealing and opening name the same one.

use ap_core::{
    audit::AuditRecord,
    connection::Connection,
    id::{AuditId, ConnectionId, FileId, FlowId, JobId, ProjectId, RunId, SignalId},
    scope::Scope,
    store::{LookupHash, Revision, Sealed},
};
use ap_crypto::{
    connection::{decode_connection, encode_connection},
    entropy::Entropy,
    envelope::SealContext,
    error::VaultError,
    vault::TenantKeys,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::store::{ConnectionRecord, FlowRecord, FlowVersionRecord, ProjectRecord};

/// What is sealed of a flow.
pub(crate) struct FlowDetail {
    pub(crate) display_name: String,
    pub(crate) webhook_token: SecretString,
    /// How many versions the flow has had.
    pub(crate) versions: u32,
}

/// The sealed form of a [`FlowDetail`]; lives only while it is written or read.
#[derive(Serialize, Deserialize)]
struct FlowDetailWire<'a> {
    display_name: &'a str,
    webhook_token: &'a str,
    versions: u32,
}

pub(crate) fn seal_project(
    keys: &TenantKeys,
    id: ProjectId,
    display_name: &str,
    entropy: &dyn Entropy,
) -> Result<Sealed, VaultError> {
    keys.seal(&project(&id), display_name.as_bytes(), entropy)
}

pub(crate) fn open_project(keys: &TenantKeys, record: &ProjectRecord) -> Result<String, VaultError> {
    let plain = keys.open(&project(&record.id), &record.sealed)?;
    String::from_utf8(plain.to_vec()).map_err(|_| VaultError::Unopenable)
}

pub(crate) fn seal_flow(
    keys: &TenantKeys,
    (id, owner): (FlowId, ProjectId),
    revision: Revision,
    detail: &FlowDetail,
    entropy: &dyn Entropy,
) -> Result<Sealed, VaultError> {
    let wire = FlowDetailWire {
        display_name: &detail.display_name,
        webhook_token: detail.webhook_token.expose_secret(),
        versions: detail.versions,
    };
    let plain = Zeroizing::new(serde_json::to_vec(&wire).map_err(|_| VaultError::Unopenable)?);
    keys.seal(&flow(&id, owner, revision), &plain, entropy)
}

pub(crate) fn open_flow(keys: &TenantKeys, record: &FlowRecord) -> Result<FlowDetail, VaultError> {
    let plain = keys.open(&flow(&record.id, record.project, record.revision), &record.sealed)?;
    // Owned text in between, because names may hold escapes that cannot be borrowed.
    #[derive(Deserialize)]
    struct Owned {
        display_name: String,
        webhook_token: String,
        versions: u32,
    }
    let wire: Owned = serde_json::from_slice(&plain).map_err(|_| VaultError::Unopenable)?;
    Ok(FlowDetail {
        display_name: wire.display_name,
        webhook_token: wire.webhook_token.into(),
        versions: wire.versions,
    })
}

pub(crate) fn seal_flow_version(
    keys: &TenantKeys,
    record: &FlowVersionRecord,
    source: &[u8],
    entropy: &dyn Entropy,
) -> Result<Sealed, VaultError> {
    keys.seal(&flow_version(record, &version_key(record)), source, entropy)
}

pub(crate) fn open_flow_version(
    keys: &TenantKeys,
    record: &FlowVersionRecord,
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    keys.open(&flow_version(record, &version_key(record)), &record.sealed)
}

pub(crate) fn seal_connection(
    keys: &TenantKeys,
    (id, owner): (ConnectionId, ProjectId),
    revision: Revision,
    value: &Connection,
    entropy: &dyn Entropy,
) -> Result<Sealed, VaultError> {
    keys.seal(&connection(&id, owner, revision), &encode_connection(value)?, entropy)
}

/// Opens a connection that was looked up by name: the sealed name must be the one that was asked for, because the hash it
/// was found by is clear in the store.
pub(crate) fn open_connection(
    keys: &TenantKeys,
    record: &ConnectionRecord,
    name: &str,
) -> Result<Connection, VaultError> {
    let connection = open_listed_connection(keys, record)?;
    if connection.name() == name { Ok(connection) } else { Err(VaultError::Unopenable) }
}

/// Opens a connection from a listing.
pub(crate) fn open_listed_connection(keys: &TenantKeys, record: &ConnectionRecord) -> Result<Connection, VaultError> {
    decode_connection(&keys.open(&connection(&record.id, record.project, record.revision), &record.sealed)?)
}

pub(crate) fn seal_audit(
    keys: &TenantKeys,
    id: &AuditId,
    scope: Scope,
    body: &[u8],
    entropy: &dyn Entropy,
) -> Result<Sealed, VaultError> {
    keys.seal(&audit(id, scope), body, entropy)
}

pub(crate) fn open_audit(keys: &TenantKeys, record: &AuditRecord) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    keys.open(&audit(&record.id, record.scope), &record.body)
}

/// The hash under which a connection's name is looked up.
pub(crate) fn connection_name(keys: &TenantKeys, name: &str) -> LookupHash {
    keys.lookup_hash("connection-name", &[name.as_bytes()])
}

fn project(id: &ProjectId) -> SealContext<'_> {
    let scope = Scope::Project(*id);
    SealContext { scope, table: "projects", record: id.as_bytes(), field: "detail", version: 1, purpose: AT_REST }
}

fn flow(id: &FlowId, owner: ProjectId, revision: Revision) -> SealContext<'_> {
    let version = revision.0;
    SealContext {
        scope: owner.into(),
        table: "flows",
        record: id.as_bytes(),
        field: "detail",
        version,
        purpose: AT_REST,
    }
}

/// Id, flow, number and state: none of them can be changed in the store without the content refusing to open.
fn version_key(record: &FlowVersionRecord) -> Vec<u8> {
    let mut key = Vec::with_capacity(48);
    key.extend_from_slice(record.id.as_bytes());
    key.extend_from_slice(record.flow.as_bytes());
    key.extend_from_slice(&record.number.to_be_bytes());
    key.extend_from_slice(record.state.as_str().as_bytes());
    key
}

fn flow_version<'a>(record: &FlowVersionRecord, key: &'a [u8]) -> SealContext<'a> {
    let (scope, version) = (record.project.into(), record.revision.0);
    SealContext { scope, table: "flow_versions", record: key, field: "source", version, purpose: AT_REST }
}

fn connection(id: &ConnectionId, owner: ProjectId, revision: Revision) -> SealContext<'_> {
    let (scope, version) = (owner.into(), revision.0);
    SealContext { scope, table: "connections", record: id.as_bytes(), field: "value", version, purpose: AT_REST }
}

fn audit(id: &AuditId, scope: Scope) -> SealContext<'_> {
    SealContext { scope, table: "audit", record: id.as_bytes(), field: "body", version: 1, purpose: AT_REST }
}

/// The slot of a cancel: a run is canceled once.
pub(crate) fn cancel_slot(keys: &TenantKeys) -> LookupHash {
    keys.lookup_hash("signal", &[b"cancel"])
}

/// The slot of the end of a run that a `subflow` step waits for.
pub(crate) fn child_slot(keys: &TenantKeys, child: RunId) -> LookupHash {
    keys.lookup_hash("signal", &[b"child", child.as_bytes()])
}

/// The hash under which a queue is kept.
pub(crate) fn queue_hash(keys: &TenantKeys, name: &str) -> LookupHash {
    keys.lookup_hash("queue", &[name.as_bytes()])
}

/// The seal of a signal: bound to the run it is for.
pub(crate) fn signal(key: &[u8; 32], project: ProjectId) -> SealContext<'_> {
    let scope = project.into();
    SealContext { scope, table: "signals", record: key, field: "content", version: 1, purpose: AT_REST }
}

/// What a signal is sealed for: its run and itself.
pub(crate) fn signal_key(run: RunId, id: SignalId) -> [u8; 32] {
    let mut key = [0; 32];
    let (head, tail) = key.split_at_mut(16);
    head.copy_from_slice(run.as_bytes());
    tail.copy_from_slice(id.as_bytes());
    key
}

/// The hash under which the jobs of a queue are found.
pub(crate) fn queue_name(keys: &TenantKeys, name: &str) -> LookupHash {
    keys.lookup_hash("queue", &[name.as_bytes()])
}

/// The seal of a job of a queue.
pub(crate) fn job(id: &JobId, project: ProjectId) -> SealContext<'_> {
    let scope = project.into();
    SealContext { scope, table: "jobs", record: id.as_bytes(), field: "data", version: 1, purpose: AT_REST }
}

/// The seal of a file.
pub(crate) fn file(id: &FileId, project: ProjectId) -> SealContext<'_> {
    let scope = project.into();
    SealContext { scope, table: "files", record: id.as_bytes(), field: "content", version: 1, purpose: AT_REST }
}

/// The seal of what a poll goes on from; `epoch` is the trigger's when it was written.
pub(crate) fn trigger_state(flow: &FlowId, project: ProjectId, epoch: u64) -> SealContext<'_> {
    let (scope, version) = (project.into(), epoch);
    SealContext { scope, table: "triggers", record: flow.as_bytes(), field: "state", version, purpose: AT_REST }
}

const AT_REST: &str = "at-rest";
