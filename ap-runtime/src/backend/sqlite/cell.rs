//! Sealed cells: what a rotation of a tenant's key walks over.

use ap_core::{
    id::{AuditId, ConnectionId, FileId, FlowId, FlowVersionId, JobId, KeyId, ProjectId, RunId, SignalId},
    scope::Scope,
    store::StoreError,
};
use async_trait::async_trait;
use rusqlite::{params_from_iter, types::Value};

use super::{
    SqliteBackend, connect,
    row::{Columns, decode, uint},
    writer::{Failure, Operation, Transaction},
};
use crate::{
    backend::{cell_head, check_cells},
    store::{CELL_BATCH_BYTES, CellKey, CellStore, CellTable, ResealedCell, SealedCell, VersionState},
};

#[async_trait]
impl CellStore for SqliteBackend {
    async fn count_cells(&self, table: CellTable, current: KeyId, scope: Scope) -> Result<u64, StoreError> {
        let Some(owner) = owner(table, scope) else { return Ok(0) };
        let place = Place::of(table);
        let arguments = [owner, Value::Blob(current.as_bytes().to_vec())];
        let count = move |open: &_| connect::row(open, &place.count(), arguments, |columns| columns.uint());
        Ok(self.readers.read(count).await?.unwrap_or(0))
    }

    async fn cells(
        &self,
        table: CellTable,
        current: KeyId,
        after: Option<CellKey>,
        limit: u32,
        scope: Scope,
    ) -> Result<Vec<SealedCell>, StoreError> {
        let Some(owner) = owner(table, scope) else { return Ok(Vec::new()) };
        let place = Place::of(table);
        let mut arguments = vec![owner, Value::Blob(current.as_bytes().to_vec())];
        match after {
            Some(key) => arguments.extend(place.position(&key)),
            // Every id is greater than no bytes at all.
            None => arguments.extend(place.names.iter().map(|_| Value::Blob(Vec::new()))),
        }
        arguments.push(Value::Integer(limit.into()));
        let read = move |open: &rusqlite::Connection| {
            let mut statement = open.prepare_cached(&place.select())?;
            let mut rows = statement.query(params_from_iter(arguments))?;
            let (mut cells, mut bytes) = (Vec::new(), 0);
            while bytes < CELL_BATCH_BYTES
                && let Some(row) = rows.next()?
            {
                let mut columns = Columns::of(row);
                let key = read_key(&mut columns, table)?;
                let sealed = columns.sealed()?;
                bytes += sealed.as_bytes().len();
                cells.push(SealedCell { key, sealed });
            }
            Ok(cells)
        };
        self.readers.read(read).await
    }

    async fn reseal_cells(&self, cells: &[ResealedCell], scope: Scope) -> Result<u64, StoreError> {
        let Some(table) = check_cells(cells)? else { return Ok(0) };
        let Some(owner) = owner(table, scope) else { return Ok(0) };
        self.writer.write(Reseal { place: Place::of(table), owner, cells: cells.to_vec() }).await
    }
}

struct Reseal {
    place: Place,
    owner: Value,
    cells: Vec<ResealedCell>,
}

impl Operation for Reseal {
    type Output = u64;

    fn bytes(&self) -> usize {
        self.cells.iter().map(|cell| cell.new.as_bytes().len() + ROW_BYTES).sum()
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<u64, Failure> {
        let sql = self.place.update();
        let mut statement = transaction.connection.prepare_cached(&sql)?;
        let mut replaced = 0;
        for cell in &self.cells {
            let mut arguments = vec![Value::Blob(cell.new.as_bytes().to_vec()), self.owner.clone()];
            arguments.extend(self.place.position(&cell.key));
            arguments.push(Value::Blob(cell_head(&cell.old).to_vec()));
            replaced += statement.execute(params_from_iter(arguments))? as u64;
        }
        Ok(replaced)
    }
}

/// The columns of a table that has sealed cells.
#[derive(Clone, Copy)]
pub(super) struct Place {
    table: &'static str,
    /// Whose row it is.
    owner: &'static str,
    /// What names a row of its owner, in the order of listings.
    names: &'static [&'static str],
    /// What else the seal is bound to.
    bound: &'static [&'static str],
    sealed: &'static str,
}

impl Place {
    pub(super) const fn of(table: CellTable) -> Self {
        const ID: &[&str] = &["id"];
        const fn place(table: &'static str, names: &'static [&'static str], bound: &'static [&'static str]) -> Place {
            Place { table, owner: "project", names, bound, sealed: "sealed" }
        }
        match table {
            CellTable::Audit => Self { owner: "scope", ..place("ap_audit", ID, &[]) },
            CellTable::Connections => Self { owner: "scope", ..place("ap_connections", ID, &["revision"]) },
            CellTable::Files => place("ap_files", ID, &[]),
            CellTable::FlowVersions => place("ap_flow_versions", ID, &["flow", "number", "state", "revision"]),
            CellTable::Flows => place("ap_flows", ID, &["revision"]),
            CellTable::Jobs => place("ap_jobs", ID, &["queue"]),
            CellTable::Journal => place("ap_journal", &["run", "seq"], &[]),
            CellTable::Projects => Self { owner: "id", ..place("ap_projects", ID, &[]) },
            CellTable::SharedConnections => place("ap_shared_connections", &["connection"], &[]),
            CellTable::Signals => place("ap_signals", &["run", "id"], &["slot"]),
            CellTable::Triggers => Self { sealed: "state", ..place("ap_triggers", &["flow"], &["state_epoch"]) },
        }
    }

    #[cfg(test)]
    pub(super) fn column(self) -> String {
        format!("{}.{}", self.table, self.sealed)
    }

    pub(super) fn count(self) -> String {
        let Self { table, owner, sealed, .. } = self;
        format!("SELECT count(*) FROM {table} WHERE {owner} = ? AND substr({sealed}, 3, 16) <> ?")
    }

    pub(super) fn select(self) -> String {
        let Self { table, owner, names, bound, sealed } = self;
        let columns = [names, bound, &[sealed]].concat().join(", ");
        let (order, marks) = (names.join(", "), vec!["?"; names.len()].join(", "));
        format!(
            "SELECT {columns} FROM {table} WHERE {owner} = ? AND substr({sealed}, 3, 16) <> ? \
             AND ({order}) > ({marks}) ORDER BY {order} LIMIT ?"
        )
    }

    pub(super) fn update(self) -> String {
        let Self { table, owner, names, sealed, .. } = self;
        let names: String = names.iter().map(|name| format!(" AND {name} = ?")).collect();
        format!("UPDATE {table} SET {sealed} = ? WHERE {owner} = ?{names} AND substr({sealed}, 1, {HEAD}) = ?")
    }

    /// The values of the columns that name a row.
    fn position(self, key: &CellKey) -> Vec<Value> {
        let id = |id: u128| Value::Blob(id.to_be_bytes().to_vec());
        let (first, second) = key.position();
        match (self.names.len(), key) {
            (1, _) => vec![id(first)],
            // Sequence numbers were read from such a column.
            (_, CellKey::Journal(_, seq)) => vec![id(first), Value::Integer(uint(*seq).unwrap_or(i64::MAX))],
            _ => vec![id(first), id(second)],
        }
    }
}

/// The owner as the table's column has it; `None` if no row there is of such a scope.
fn owner(table: CellTable, scope: Scope) -> Option<Value> {
    match (table, scope) {
        (CellTable::Audit | CellTable::Connections, scope) => Some(Value::Blob(scope.to_bytes().to_vec())),
        (_, Scope::Project(project)) => Some(Value::Blob(project.as_bytes().to_vec())),
        (_, Scope::Platform(_)) => None,
    }
}

fn read_key(columns: &mut Columns<'_>, table: CellTable) -> rusqlite::Result<CellKey> {
    Ok(match table {
        CellTable::Audit => CellKey::Audit(columns.id(AuditId::from_slice)?),
        CellTable::Connections => CellKey::Connection(columns.id(ConnectionId::from_slice)?, columns.revision()?),
        CellTable::Files => CellKey::File(columns.id(FileId::from_slice)?),
        CellTable::FlowVersions => CellKey::FlowVersion {
            id: columns.id(FlowVersionId::from_slice)?,
            flow: columns.id(FlowId::from_slice)?,
            number: columns.small()?,
            state: match columns.text()? {
                "DRAFT" => VersionState::Draft,
                "LOCKED" => VersionState::Locked,
                _ => return Err(decode("not a state of a flow version")),
            },
            revision: columns.revision()?,
        },
        CellTable::Flows => CellKey::Flow(columns.id(FlowId::from_slice)?, columns.revision()?),
        CellTable::Jobs => CellKey::Job(columns.id(JobId::from_slice)?, columns.hash()?),
        CellTable::Journal => CellKey::Journal(columns.id(RunId::from_slice)?, columns.uint()?),
        CellTable::Projects => CellKey::Project(columns.id(ProjectId::from_slice)?),
        CellTable::SharedConnections => CellKey::SharedConnection(columns.id(ConnectionId::from_slice)?),
        CellTable::Signals => {
            CellKey::Signal(columns.id(RunId::from_slice)?, columns.id(SignalId::from_slice)?, columns.hash()?)
        }
        CellTable::Triggers => CellKey::Trigger(columns.id(FlowId::from_slice)?, columns.uint()?),
    })
}

/// As much of a cell as no other content shares: [`ap_crypto::envelope::HEADER_BYTES`].
const HEAD: usize = ap_crypto::envelope::HEADER_BYTES;
/// What a row takes beside its payload, roughly.
const ROW_BYTES: usize = 100;
