//! How each kind of record is sealed: one place for the contexts, so that sealing and opening name the same one.

use ap_auth::audit::AuditEvent;
use ap_core::{
    audit::{AuditOutcome, AuditRecord},
    connection::Connection,
    id::{AuditId, ConnectionId, FileId, FlowId, FlowVersionId, JobId, ProjectId, RunId, SignalId, ValueId},
    scope::Scope,
    store::{LookupHash, Revision, Sealed},
    time::Timestamp,
};
use ap_crypto::{
    connection::{decode_connection, encode_connection},
    entropy::Entropy,
    envelope::SealContext,
    error::VaultError,
    subject::{wrapped_context, wrapped_record},
    vault::TenantKeys,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::store::{
    CellKey, ConnectionRecord, FlowRecord, FlowVersionRecord, ProjectRecord, SharedConnection, ValueRecord, ValueScope,
    VersionState,
};

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
    (id, owner): (ConnectionId, Scope),
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
    decode_connection(&keys.open(&connection(&record.id, record.owner, record.revision), &record.sealed)?)
}

/// Seals the body of `event`, bound to everything that its record says in clear.
pub(crate) fn seal_audit(
    keys: &TenantKeys,
    id: AuditId,
    event: &AuditEvent,
    body: &[u8],
    entropy: &dyn Entropy,
) -> Result<AuditRecord, VaultError> {
    let key = audit_key(id, event.at(), event.outcome(), event.action());
    Ok(event.to_record(id, keys.seal(&audit(&key, event.scope()), body, entropy)?))
}

pub(crate) fn open_audit(keys: &TenantKeys, record: &AuditRecord) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let key = audit_key(record.id, record.at, record.outcome, &record.action);
    keys.open(&audit(&key, record.scope), &record.body)
}

/// The hash under which a connection's name is looked up.
pub(crate) fn connection_name(keys: &TenantKeys, name: &str) -> LookupHash {
    keys.lookup_hash("connection-name", &[name.as_bytes()])
}

/// The hash under which a project finds a connection of the platform that it was given.
pub(crate) fn shared_connection_name(keys: &TenantKeys, name: &str) -> LookupHash {
    keys.lookup_hash("shared-connection-name", &[name.as_bytes()])
}

/// What says that `project` was given a connection of the platform, under the project's own keys.
pub(crate) fn seal_shared_connection(
    keys: &TenantKeys,
    (id, project): (ConnectionId, ProjectId),
    name: &str,
    entropy: &dyn Entropy,
) -> Result<Sealed, VaultError> {
    keys.seal(&shared_connection(&id, project), name.as_bytes(), entropy)
}

/// Opens a connection of the platform that a project was given: what says so must be the project's own, and both must name it
/// alike.
pub(crate) fn open_shared_connection(
    (keys, platform): (&TenantKeys, &TenantKeys),
    (shared, record): (&SharedConnection, &ConnectionRecord),
) -> Result<Connection, VaultError> {
    let name = keys.open(&shared_connection(&shared.connection, shared.project), &shared.sealed)?;
    let connection = open_listed_connection(platform, record)?;
    if connection.name().as_bytes() == name.as_slice() && record.id == shared.connection {
        Ok(connection)
    } else {
        Err(VaultError::Unopenable)
    }
}

fn shared_connection(id: &ConnectionId, project: ProjectId) -> SealContext<'_> {
    let scope = project.into();
    SealContext {
        scope,
        table: "shared_connections",
        record: id.as_bytes(),
        field: "name",
        version: 1,
        purpose: AT_REST,
    }
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
    version_parts(&record.id, &record.flow, record.number, record.state)
}

fn version_parts(id: &FlowVersionId, flow: &FlowId, number: u32, state: VersionState) -> Vec<u8> {
    let mut key = Vec::with_capacity(48);
    key.extend_from_slice(id.as_bytes());
    key.extend_from_slice(flow.as_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key.extend_from_slice(state.as_str().as_bytes());
    key
}

fn flow_version<'a>(record: &FlowVersionRecord, key: &'a [u8]) -> SealContext<'a> {
    let (scope, version) = (record.project.into(), record.revision.0);
    SealContext { scope, table: "flow_versions", record: key, field: "source", version, purpose: AT_REST }
}

fn connection(id: &ConnectionId, scope: Scope, revision: Revision) -> SealContext<'_> {
    let version = revision.0;
    SealContext { scope, table: "connections", record: id.as_bytes(), field: "value", version, purpose: AT_REST }
}

fn audit(key: &[u8], scope: Scope) -> SealContext<'_> {
    SealContext { scope, table: "audit", record: key, field: "body", version: 1, purpose: AT_REST }
}

/// What the body of an audit record is sealed for: id, time, outcome and action. None of them can be changed in the store
/// without the body refusing to open, so the body does not repeat them.
fn audit_key(id: AuditId, at: Timestamp, outcome: AuditOutcome, action: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(25 + action.len());
    key.extend_from_slice(id.as_bytes());
    key.extend_from_slice(&at.as_micros().to_be_bytes());
    key.push(match outcome {
        AuditOutcome::Denied => b'D',
        AuditOutcome::Failure => b'F',
        AuditOutcome::Success => b'S',
    });
    key.extend_from_slice(action.as_bytes());
    key
}

/// The place that a cell is sealed for; `buffer` keeps the parts of its name.
pub(crate) fn cell<'b>(key: &CellKey, scope: Scope, buffer: &'b mut Vec<u8>) -> SealContext<'b> {
    buffer.clear();
    let (table, field, version, purpose) = match key {
        CellKey::Audit { .. } => ("audit", "body", 1, AT_REST),
        CellKey::Connection(_, revision) => ("connections", "value", revision.0, AT_REST),
        CellKey::File(_) => ("files", "content", 1, AT_REST),
        CellKey::Flow(_, revision) => ("flows", "detail", revision.0, AT_REST),
        CellKey::FlowVersion { revision, .. } => ("flow_versions", "source", revision.0, AT_REST),
        CellKey::Job(..) => ("jobs", "data", 1, AT_REST),
        CellKey::Journal(_, seq) => ("run_journal", "events", *seq, "journal"),
        CellKey::Project(_) => ("projects", "detail", 1, AT_REST),
        CellKey::SharedConnection(_) => ("shared_connections", "name", 1, AT_REST),
        CellKey::Signal(..) => ("signals", "content", 1, AT_REST),
        CellKey::SubjectKey(id, subject, created) => {
            buffer.extend_from_slice(&wrapped_record(*id, subject));
            return wrapped_context(scope, buffer, *created);
        }
        CellKey::Trigger(_, epoch) => ("triggers", "state", *epoch, AT_REST),
        CellKey::Value(_, _, version) => ("values", "value", *version, AT_REST),
    };
    match key {
        CellKey::Audit { id, at, outcome, action } => {
            buffer.extend_from_slice(&audit_key(*id, *at, *outcome, action));
        }
        CellKey::Connection(id, _) | CellKey::SharedConnection(id) => buffer.extend_from_slice(id.as_bytes()),
        CellKey::File(id) => buffer.extend_from_slice(id.as_bytes()),
        CellKey::Flow(id, _) | CellKey::Trigger(id, _) => buffer.extend_from_slice(id.as_bytes()),
        CellKey::FlowVersion { id, flow, number, state, .. } => {
            buffer.extend_from_slice(&version_parts(id, flow, *number, *state));
        }
        CellKey::Job(id, queue) => buffer.extend_from_slice(&job_key(*id, queue)),
        CellKey::Journal(run, _) => buffer.extend_from_slice(run.as_bytes()),
        CellKey::Project(id) => buffer.extend_from_slice(id.as_bytes()),
        CellKey::Signal(run, id, slot) => buffer.extend_from_slice(&signal_key(*run, *id, slot)),
        CellKey::SubjectKey(..) => {}
        CellKey::Value(id, scope, _) => buffer.extend_from_slice(&value_key(*id, *scope)),
    }
    SealContext { scope, table, record: buffer, field, version, purpose }
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

/// The seal of a signal: bound to the run it is for and to what it is about.
pub(crate) fn signal(key: &[u8; 64], project: ProjectId) -> SealContext<'_> {
    let scope = project.into();
    SealContext { scope, table: "signals", record: key, field: "content", version: 1, purpose: AT_REST }
}

/// What a signal is sealed for: its run, itself and its slot. The slot says who answers, so nobody may change it in the store.
pub(crate) fn signal_key(run: RunId, id: SignalId, slot: &LookupHash) -> [u8; 64] {
    let mut key = [0; 64];
    let (ids, about) = key.split_at_mut(32);
    let (head, tail) = ids.split_at_mut(16);
    head.copy_from_slice(run.as_bytes());
    tail.copy_from_slice(id.as_bytes());
    about.copy_from_slice(&slot.0);
    key
}

/// The seal of a job: bound to its queue.
pub(crate) fn job(key: &[u8; 48], project: ProjectId) -> SealContext<'_> {
    let scope = project.into();
    SealContext { scope, table: "jobs", record: key, field: "data", version: 1, purpose: AT_REST }
}

/// What a job is sealed for: itself and its queue.
pub(crate) fn job_key(id: JobId, queue: &LookupHash) -> [u8; 48] {
    let mut key = [0; 48];
    let (head, tail) = key.split_at_mut(16);
    head.copy_from_slice(id.as_bytes());
    tail.copy_from_slice(&queue.0);
    key
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

/// What a value of the key-value store is found by: a keyed hash of whose it is and of its key.
pub(crate) fn value_id(keys: &TenantKeys, scope: ValueScope, key: &str) -> ValueId {
    let LookupHash(hash) = keys.lookup_hash("value", &[scope.to_flow().as_bytes(), key.as_bytes()]);
    // Half of it: enough that nobody finds two keys of one hash, who does not even know the key of the hashes.
    let head = hash.first_chunk::<16>().copied().unwrap_or_default();
    ValueId::from_u128(u128::from_be_bytes(head))
}

/// Seals a value together with its key; `record` says where it belongs, and gets the result.
pub(crate) fn seal_value(
    keys: &TenantKeys,
    record: &mut ValueRecord,
    (key, json): (&str, &str),
    entropy: &dyn Entropy,
) -> Result<(), VaultError> {
    let length = u16::try_from(key.len()).map_err(|_| VaultError::Unopenable)?;
    let mut plain = Zeroizing::new(Vec::with_capacity(VALUE_HEAD + key.len() + json.len()));
    plain.push(VALUE_FORMAT);
    plain.extend_from_slice(&length.to_be_bytes());
    plain.extend_from_slice(key.as_bytes());
    plain.extend_from_slice(json.as_bytes());
    let part = value_key(record.id, record.scope);
    record.sealed = keys.seal(&value(&part, record.project, record.version), &plain, entropy)?;
    Ok(())
}

/// Opens a value from a listing: its key, and its JSON.
pub(crate) fn open_listed_value(keys: &TenantKeys, record: &ValueRecord) -> Result<(String, String), VaultError> {
    let part = value_key(record.id, record.scope);
    let plain = keys.open(&value(&part, record.project, record.version), &record.sealed)?;
    let head = plain.split_first_chunk::<VALUE_HEAD>();
    let Some(([VALUE_FORMAT, high, low], rest)) = head else { return Err(VaultError::Unopenable) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let (key, json) = rest.split_at_checked(length).ok_or(VaultError::Unopenable)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| VaultError::Unopenable);
    Ok((text(key)?, text(json)?))
}

/// Opens a value that was looked up: the sealed key must be the one that was asked for, because what it was found by is clear
/// in the store.
pub(crate) fn open_value(keys: &TenantKeys, record: &ValueRecord, key: &str) -> Result<String, VaultError> {
    let (found, json) = open_listed_value(keys, record)?;
    if found == key { Ok(json) } else { Err(VaultError::Unopenable) }
}

fn value(key: &[u8; 32], project: ProjectId, version: u64) -> SealContext<'_> {
    let scope = project.into();
    SealContext { scope, table: "values", record: key, field: "value", version, purpose: AT_REST }
}

/// What a value is sealed for: itself and its flow, so that nobody can give it to another one in the store.
fn value_key(id: ValueId, scope: ValueScope) -> [u8; 32] {
    let mut key = [0; 32];
    let (head, tail) = key.split_at_mut(16);
    head.copy_from_slice(id.as_bytes());
    tail.copy_from_slice(scope.to_flow().as_bytes());
    key
}

const AT_REST: &str = "at-rest";
/// How a value is written down: this, the length of its key, the key, the JSON.
const VALUE_FORMAT: u8 = 1;
const VALUE_HEAD: usize = 3;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ap_auth::principal::{Actor, Identity};
    use ap_core::id::KeyId;
    use ap_crypto::{entropy::SystemEntropy, key::RootKey, keyring::Keyring};

    use super::*;
    use crate::{backend::memory::MemoryBackend, clock::SystemClock};

    const PROJECT: ProjectId = ProjectId::from_u128(1);

    fn keys() -> Arc<TenantKeys> {
        let root = RootKey::generate(&SystemEntropy).expect("entropy");
        let ring = Keyring::new(root, Arc::new(MemoryBackend::new(Arc::new(SystemClock))));
        ring.create_tenant_key(PROJECT.into(), KeyId::from_u128(1), Timestamp::EPOCH, &SystemEntropy).expect("a key").1
    }

    #[test]
    fn a_signal_opens_for_its_run_and_in_its_slot_only() {
        let keys = keys();
        let (run, id, slot) = (RunId::from_u128(2), SignalId::from_u128(3), LookupHash([4; 32]));
        let sealed = keys.seal(&signal(&signal_key(run, id, &slot), PROJECT), b"yes", &SystemEntropy).expect("sealed");
        let opens = |run, id, slot| keys.open(&signal(&signal_key(run, id, &slot), PROJECT), &sealed).is_ok();
        assert!(opens(run, id, slot));
        assert!(!opens(RunId::from_u128(9), id, slot));
        assert!(!opens(run, SignalId::from_u128(9), slot));
        assert!(!opens(run, id, LookupHash([9; 32])), "an answer counts for somebody else");
    }

    #[test]
    fn a_changed_clear_field_of_an_audit_record_is_noticed() {
        let keys = keys();
        let at = Timestamp::from_millis(1_767_323_045_000);
        let event = AuditEvent::by(&Actor::new(Identity::Engine), "flow.publish", PROJECT.into(), at)
            .with_resource(FlowId::from_u128(3));
        let body = event.to_record_body().expect("serialises");
        let honest = seal_audit(&keys, AuditId::from_u128(4), &event, &body, &SystemEntropy).expect("sealed");
        let opened = open_audit(&keys, &honest).expect("opened");
        assert_eq!(AuditEvent::from_record(&honest, &opened), Ok(event));
        for forged in [
            AuditRecord { id: AuditId::from_u128(5), ..honest.clone() },
            AuditRecord { scope: ProjectId::from_u128(2).into(), ..honest.clone() },
            AuditRecord { at: Timestamp::EPOCH, ..honest.clone() },
            AuditRecord { action: "flow.read".to_owned(), ..honest.clone() },
            AuditRecord { action: String::new(), ..honest.clone() },
            AuditRecord { outcome: AuditOutcome::Denied, ..honest.clone() },
            AuditRecord { outcome: AuditOutcome::Failure, ..honest },
        ] {
            assert!(matches!(open_audit(&keys, &forged), Err(VaultError::Unopenable)), "{forged:?}");
        }
    }

    #[test]
    fn a_job_opens_in_its_queue_only() {
        let keys = keys();
        let (id, queue) = (JobId::from_u128(2), LookupHash([3; 32]));
        let sealed = keys.seal(&job(&job_key(id, &queue), PROJECT), b"work", &SystemEntropy).expect("sealed");
        let opens = |id, queue| keys.open(&job(&job_key(id, &queue), PROJECT), &sealed).is_ok();
        assert!(opens(id, queue));
        assert!(!opens(JobId::from_u128(9), queue));
        assert!(!opens(id, LookupHash([9; 32])));
    }
}

#[cfg(test)]
mod swaps;
