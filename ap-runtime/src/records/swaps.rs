//! Every sealed cell of a store, moved to every other place and changed in every byte: none opens.

use std::sync::Arc;

use ap_auth::principal::{Actor, Identity};
use ap_core::{
    connection::{ConnectionValue, Origin},
    id::{FlowVersionId, KeyId, PlatformId},
    run::RunStatus,
    store::Precondition,
};
use ap_crypto::{entropy::SystemEntropy, key::RootKey, keyring::Keyring, subject::SubjectKey};
use bytes::Bytes;

use super::*;
use crate::{
    backend::memory::MemoryBackend,
    clock::SystemClock,
    store::{
        Accept, AuditStore, CellStore, CellTable, ConnectionStore, FileRecord, FileStore, FlowStore, FlowWrite,
        JournalEntry, KeyValueStore, Lease, NewJob, ProjectShare, ProjectStore, RunChange, RunCommit, RunControl,
        RunRecord, RunStore, SealedCell, SignalRecord, SystemStore, TriggerChange, ValueChange, ValueExpect,
        ValueUsage, ValueWrite,
    },
};

const AT: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// A tenant and what it has stored.
struct Tenant {
    scope: Scope,
    keys: Arc<TenantKeys>,
    cells: Vec<SealedCell>,
}

impl Tenant {
    fn opens(&self, key: &CellKey, sealed: &Sealed) -> bool {
        let mut buffer = Vec::new();
        self.keys.open(&cell(key, self.scope, &mut buffer), sealed).is_ok()
    }
}

#[tokio::test]
async fn a_cell_that_is_moved_anywhere_else_does_not_open() {
    let tenants = tenants().await;
    let mut refused = 0;
    for from in &tenants {
        for moved in &from.cells {
            assert!(from.opens(&moved.key, &moved.sealed), "{:?} does not open where it belongs", moved.key);
            for to in &tenants {
                for place in &to.cells {
                    if (from.scope, &moved.key) != (to.scope, &place.key) {
                        assert!(!to.opens(&place.key, &moved.sealed), "{:?} opens as {:?}", moved.key, place.key);
                        // Nor with the keys of whoever sealed it.
                        let mut buffer = Vec::new();
                        let context = cell(&place.key, to.scope, &mut buffer);
                        assert!(from.keys.open(&context, &moved.sealed).is_err(), "{:?}", moved.key);
                        refused += 1;
                    }
                }
            }
        }
    }
    let count: usize = tenants.iter().map(|tenant| tenant.cells.len()).sum();
    assert_eq!(refused, count * (count - 1));
    assert!(count > 50, "only {count} cells");
}

#[tokio::test]
async fn a_cell_of_another_version_does_not_open() {
    for tenant in &tenants().await {
        for cell in &tenant.cells {
            let others: Vec<CellKey> = match cell.key.clone() {
                CellKey::Connection(id, revision) => {
                    near(revision.0).map(|to| CellKey::Connection(id, Revision(to))).into()
                }
                CellKey::Flow(id, revision) => near(revision.0).map(|to| CellKey::Flow(id, Revision(to))).into(),
                CellKey::FlowVersion { id, flow, number, state, revision } => {
                    let other = if state == VersionState::Draft { VersionState::Locked } else { VersionState::Draft };
                    let version = |number, state, revision| CellKey::FlowVersion { id, flow, number, state, revision };
                    let mut keys = near(revision.0).map(|to| version(number, state, Revision(to))).to_vec();
                    keys.extend([version(number + 1, state, revision), version(number, other, revision)]);
                    keys
                }
                CellKey::Job(id, _) => vec![CellKey::Job(id, LookupHash([77; 32]))],
                CellKey::Journal(run, seq) => near(seq).map(|to| CellKey::Journal(run, to)).into(),
                CellKey::Signal(run, id, _) => vec![CellKey::Signal(run, id, LookupHash([77; 32]))],
                CellKey::SubjectKey(id, subject, created) => vec![
                    CellKey::SubjectKey(id, LookupHash([77; 32]), created),
                    CellKey::SubjectKey(id, subject, Timestamp::EPOCH),
                ],
                CellKey::Trigger(flow, epoch) => near(epoch).map(|to| CellKey::Trigger(flow, to)).into(),
                CellKey::Audit { id, at, outcome, action } => {
                    let other =
                        |at, outcome, action: &str| CellKey::Audit { id, at, outcome, action: action.to_owned() };
                    vec![
                        other(Timestamp::EPOCH, outcome, &action),
                        other(at, AuditOutcome::Denied, &action),
                        other(at, outcome, "test.read"),
                    ]
                }
                CellKey::Value(id, scope, version) => {
                    let other = match scope {
                        ValueScope::Project => ValueScope::Flow(FlowId::from_u128(1)),
                        ValueScope::Flow(_) => ValueScope::Project,
                    };
                    let [after, before] = near(version);
                    vec![
                        CellKey::Value(id, scope, after),
                        CellKey::Value(id, scope, before),
                        CellKey::Value(id, other, version),
                    ]
                }
                CellKey::File(_) | CellKey::Project(_) | CellKey::SharedConnection(_) => Vec::new(),
            };
            for other in others {
                assert!(!tenant.opens(&other, &cell.sealed), "{:?} opens as {other:?}", cell.key);
            }
        }
    }
}

#[tokio::test]
async fn a_cell_that_is_changed_in_any_byte_does_not_open() {
    let mut refused = 0_usize;
    for tenant in &tenants().await {
        for cell in &tenant.cells {
            let whole = cell.sealed.as_bytes();
            for at in 0..whole.len() {
                let mut changed = whole.to_vec();
                changed[at] ^= 1 << (at % 8);
                assert!(!tenant.opens(&cell.key, &Sealed::from_bytes(changed.into())), "{:?}, byte {at}", cell.key);
                let cut = Sealed::from_bytes(whole.slice(..at));
                assert!(!tenant.opens(&cell.key, &cut), "{:?}, cut at {at}", cell.key);
                refused += 2;
            }
        }
    }
    assert!(refused > 10_000, "only {refused}");
}

/// The platform and two projects that have the same ids of everything.
async fn tenants() -> Vec<Tenant> {
    let backend = Arc::new(MemoryBackend::new(Arc::new(SystemClock)));
    let ring = Keyring::new(RootKey::generate(&SystemEntropy).expect("entropy"), Arc::clone(&backend) as _);
    let platform = Scope::Platform(PlatformId::from_u128(1));
    ring.open_platform(platform, AT, &SystemEntropy).await.expect("the platform's keys");
    let mut scopes = vec![platform];
    for number in 1..=2 {
        let project = ProjectId::from_u128(number);
        populate(&backend, &ring, project).await;
        scopes.push(project.into());
    }
    append_audit(&backend, &ring, platform).await;
    let mut tenants = Vec::new();
    for scope in scopes {
        let mut cells = Vec::new();
        for table in CellTable::ALL {
            let none = KeyId::from_u128(0);
            let found = backend.cells(table, none, None, 1_000, scope).await.expect("cells");
            let of_platform = matches!(table, CellTable::Audit | CellTable::Connections);
            assert_eq!(found.is_empty(), scope == platform && !of_platform, "{table:?} of {scope}");
            cells.extend(found);
        }
        tenants.push(Tenant { scope, keys: ring.tenant(scope).await.expect("keys"), cells });
    }
    tenants
}

async fn append_audit(backend: &MemoryBackend, ring: &Keyring, scope: Scope) {
    let keys = ring.tenant(scope).await.expect("keys");
    for number in 1..=3 {
        let event = AuditEvent::by(&Actor::new(Identity::Engine), "test.write", scope, AT);
        let body = event.to_record_body().expect("serialises");
        let record = seal_audit(&keys, AuditId::from_u128(number), &event, &body, &SystemEntropy).expect("sealed");
        backend.append_audit(&[record]).await.expect("appended");
    }
}

/// Two or three of everything, sealed as the runtime seals them.
async fn populate(backend: &MemoryBackend, ring: &Keyring, project: ProjectId) {
    let entropy = &SystemEntropy;
    let (row, keys) = ring
        .create_tenant_key(project.into(), KeyId::from_u128(1_000 + project.as_u128()), AT, entropy)
        .expect("a key");
    let sealed = seal_project(&keys, project, "Project", entropy).expect("sealed");
    let record = ProjectRecord { id: project, created: AT, share: ProjectShare::default(), sealed };
    backend.create_project(record, row, &[]).await.expect("a new project");
    append_audit(backend, ring, project.into()).await;
    for number in 1..=2 {
        let id = ConnectionId::from_u128(number);
        write_connection(backend, &keys, project.into(), number).await;
        if project.as_u128() == 1 {
            let platform = Scope::Platform(PlatformId::from_u128(1));
            write_connection(backend, &ring.tenant(platform).await.expect("keys"), platform, number).await;
        }
        let sealed = seal_shared_connection(&keys, (id, project), "connection", entropy).expect("sealed");
        let name = shared_connection_name(&keys, &format!("connection-{number}"));
        let shared = SharedConnection { connection: id, owner: PlatformId::from_u128(1), project, name, sealed };
        backend.share_connection(shared, &[]).await.expect("shared");
        let id = FileId::from_u128(number);
        let sealed = keys.seal(&file(&id, project), b"a large output", entropy).expect("sealed");
        backend.write_file(FileRecord { id, project, run: None, created: AT, sealed }, &[]).await.expect("written");
        write_value(backend, &keys, project, number).await;
        write_flow(backend, &keys, project, number).await;
        work(backend, (ring, &keys), project, number).await;
    }
}

async fn write_connection(backend: &MemoryBackend, keys: &TenantKeys, owner: Scope, number: u128) {
    let name = format!("connection-{number}");
    let value = ConnectionValue::SecretText { secret: "12345678".into() };
    let origin = Origin::of_url("https://api.example").expect("an origin");
    let connection = Connection::new(&name, value, vec![], vec![origin]).expect("a connection");
    let id = ConnectionId::from_u128(number);
    let sealed = seal_connection(keys, (id, owner), Revision::FIRST, &connection, &SystemEntropy).expect("sealed");
    let (name, revision) = (connection_name(keys, &name), Revision::FIRST);
    let record = ConnectionRecord { id, owner, name, created: AT, updated: AT, due: None, revision, sealed };
    backend.write_connection(record, Precondition::Absent, &[]).await.expect("written");
}

async fn write_value(backend: &MemoryBackend, keys: &TenantKeys, project: ProjectId, number: u128) {
    let flow = ValueScope::Flow(FlowId::from_u128(number));
    let mut changes = Vec::new();
    for (scope, version) in [(ValueScope::Project, 7), (flow, 7)] {
        // The same key everywhere.
        let id = value_id(keys, scope, &format!("key-{number}"));
        let sealed = Sealed::from_bytes(Bytes::new());
        let mut record = ValueRecord { id, project, scope, version, updated: AT, bytes: 1, sealed };
        let text = (&*format!("key-{number}"), "[1]");
        seal_value(keys, &mut record, text, &SystemEntropy).expect("sealed");
        assert_eq!(open_value(keys, &record, text.0).expect("opens"), text.1);
        assert!(open_value(keys, &record, "key-9").is_err(), "a value opens under another key");
        changes.push(ValueChange { id, expect: ValueExpect::Absent, write: ValueWrite::Put(record) });
    }
    let limit = ValueUsage { entries: 100, bytes: 1_000 };
    backend.change_values(&changes, project, limit, &[]).await.expect("written");
}

async fn write_flow(backend: &MemoryBackend, keys: &TenantKeys, project: ProjectId, number: u128) {
    let entropy = &SystemEntropy;
    let id = FlowId::from_u128(number);
    let detail = FlowDetail { display_name: "Flow".to_owned(), webhook_token: "token".into(), versions: 2 };
    let sealed = seal_flow(keys, (id, project), Revision::FIRST, &detail, entropy).expect("sealed");
    let version_id = |offset| FlowVersionId::from_u128(10 * number + offset);
    let flow = FlowRecord {
        id,
        project,
        created: AT,
        updated: AT,
        revision: Revision::FIRST,
        enabled: true,
        published: Some(version_id(1)),
        draft: Some(version_id(2)),
        webhook: LookupHash([u8::try_from(10 * number + project.as_u128()).expect("small"); 32]),
        generation: 1,
        sealed,
    };
    let versions = [(1, VersionState::Locked), (2, VersionState::Draft)].map(|(place, state)| {
        let sealed = Sealed::from_bytes(Bytes::new());
        let (id, revision) = (version_id(u128::from(place)), Revision::FIRST);
        let mut record =
            FlowVersionRecord { id, project, flow: flow.id, number: place, state, created: AT, revision, sealed };
        record.sealed = seal_flow_version(keys, &record, b"{}", entropy).expect("sealed");
        (record, Precondition::Absent)
    });
    let state = keys.seal(&trigger_state(&id, project, 0), b"cursor", entropy).expect("sealed");
    let trigger = TriggerChange::Set { due: AT, state: Some(state) };
    let write = FlowWrite { flow, precondition: Precondition::Absent, versions: versions.into(), trigger };
    backend.write_flow(write, &[]).await.expect("written");
}

/// A run with a journal, signals and jobs.
async fn work(backend: &MemoryBackend, (ring, keys): (&Keyring, &TenantKeys), project: ProjectId, number: u128) {
    let entropy = &SystemEntropy;
    let id = RunId::from_u128(number);
    let entry = |seq| {
        let mut buffer = Vec::new();
        let context = cell(&CellKey::Journal(id, seq), project.into(), &mut buffer);
        JournalEntry { seq, sealed: keys.seal(&context, b"events", entropy).expect("sealed") }
    };
    let (flow, version) = (FlowId::from_u128(number), FlowVersionId::from_u128(10 * number + 1));
    let (status, created) = (RunStatus::Queued, AT);
    let key = SubjectKey::generate(KeyId::from_u128(number), entropy).expect("a key");
    let subject = LookupHash([u8::try_from(number).expect("small"); 32]);
    let subject_key = Some(ring.wrap_subject_key((keys, &key), subject, AT, entropy).expect("wrapped"));
    let (parent, finished, subject) = (None, None, Some(key.id()));
    let run = RunRecord { id, project, flow, version, parent, status, created, finished, subject };
    let lease = Some(std::time::Duration::from_secs(60));
    let control = RunControl::default();
    let accept = Accept { run, generation: 1, dedupe: None, subject_key, control, entry: entry(0), lease };
    backend.accept(accept, &[]).await.expect("accepted");
    let mut commit =
        RunCommit::new(Lease { project, run: id, epoch: 1 }, RunChange::Stay).with_entries(vec![entry(1), entry(2)]);
    for offset in 1..=2 {
        let (id, queue) = (JobId::from_u128(10 * number + offset), LookupHash([3; 32]));
        let sealed = keys.seal(&job(&job_key(id, &queue), project), b"work", entropy).expect("sealed");
        commit.jobs.push(NewJob { id, queue, sealed });
    }
    backend.commit(commit, &[]).await.expect("committed");
    for offset in 1..=2 {
        let (signal_id, slot) = (SignalId::from_u128(offset), LookupHash([u8::try_from(offset).expect("small"); 32]));
        let sealed = keys.seal(&signal(&signal_key(id, signal_id, &slot), project), b"yes", entropy).expect("sealed");
        let record = SignalRecord { id: signal_id, project, run: id, slot, at: AT, sealed };
        backend.signal(record, &[]).await.expect("delivered");
    }
}

const fn near(version: u64) -> [u64; 2] {
    [version + 1, version.wrapping_sub(1)]
}
