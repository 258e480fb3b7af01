//! Sealed cells: what a rotation of a tenant's key walks over.

use ap_core::{
    id::{AuditId, ConnectionId, FileId, FlowId, FlowVersionId, JobId, KeyId, ProjectId, RunId, SignalId, ValueId},
    scope::Scope,
    store::StoreError,
};
use async_trait::async_trait;
use rusqlite::{params_from_iter, types::Value};

use super::{
    SqliteBackend, connect,
    project::outcome,
    row::{Columns, decode, uint},
    writer::{Failure, Operation, Transaction},
};
use crate::{
    backend::{cell_head, check_cells},
    store::{CELL_BATCH_BYTES, CellKey, CellStore, CellTable, ResealedCell, SealedCell, ValueScope, VersionState},
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
    /// The column of the cell in its table.
    column: &'static str,
    /// Where its rows are read from, and where the cell is there.
    from: &'static str,
    sealed: &'static str,
    /// Whose row it is.
    owner: &'static str,
    /// What names a row of its owner, in the order of listings.
    names: &'static [&'static str],
    /// What else the seal is bound to.
    bound: &'static [&'static str],
    /// Which row of the table has an owner, and names.
    row: &'static str,
    /// Which rows have a cell.
    only: &'static str,
}

impl Place {
    pub(super) const fn of(table: CellTable) -> Self {
        const ID: &[&str] = &["id"];
        const fn place(table: &'static str, bound: &'static [&'static str]) -> Place {
            let row = "project = ?2 AND id = ?3";
            let (column, sealed, from, names, only) = ("sealed", "sealed", table, ID, "");
            Place { table, column, from, sealed, owner: "project", names, bound, row, only }
        }
        match table {
            CellTable::Audit => Self {
                from: "ap_audit_ids AS place JOIN ap_audit AS cell ON cell.number = place.number",
                sealed: "cell.sealed",
                owner: "place.scope",
                names: &["place.id"],
                row: "number = (SELECT number FROM ap_audit_ids WHERE scope = ?2 AND id = ?3)",
                ..place("ap_audit", &["cell.at", "cell.outcome", "cell.action"])
            },
            CellTable::Connections => {
                Self { owner: "scope", row: "scope = ?2 AND id = ?3", ..place("ap_connections", &["revision"]) }
            }
            CellTable::Files => place("ap_files", &[]),
            CellTable::FlowVersions => place("ap_flow_versions", &["flow", "number", "state", "revision"]),
            CellTable::Flows => place("ap_flows", &["revision"]),
            CellTable::Jobs => place("ap_jobs", &["queue"]),
            CellTable::Journal => Self {
                from: "ap_runs AS run JOIN ap_journal AS cell ON cell.run = run.number",
                sealed: "cell.sealed",
                owner: "run.project",
                names: &["run.id", "cell.seq"],
                row: "run = (SELECT number FROM ap_runs WHERE project = ?2 AND id = ?3) AND seq = ?4",
                ..place("ap_journal", &[])
            },
            CellTable::Projects => Self { owner: "id", row: "id = ?2 AND id = ?3", ..place("ap_projects", &[]) },
            CellTable::SharedConnections => Self {
                names: &["connection"],
                row: "project = ?2 AND connection = ?3",
                ..place("ap_shared_connections", &[])
            },
            CellTable::Signals => Self {
                names: &["run", "id"],
                row: "project = ?2 AND run = ?3 AND id = ?4",
                ..place("ap_signals", &["slot"])
            },
            CellTable::SubjectKeys => {
                Self { only: "live = 1 AND", ..place("ap_subject_keys", &["subject", "created"]) }
            }
            CellTable::Triggers => Self {
                column: "state",
                sealed: "state",
                names: &["flow"],
                row: "project = ?2 AND flow = ?3",
                ..place("ap_triggers", &["state_epoch"])
            },
            CellTable::Values => place("ap_values", &["flow", "version"]),
        }
    }

    #[cfg(test)]
    pub(super) fn column(self) -> String {
        format!("{}.{}", self.table, self.column)
    }

    fn count(self) -> String {
        let Self { from, owner, sealed, only, .. } = self;
        format!("SELECT count(*) FROM {from} WHERE {only} {owner} = ?1 AND substr({sealed}, 3, 16) <> ?2")
    }

    pub(super) fn select(self) -> String {
        let Self { from, owner, names, bound, sealed, only, .. } = self;
        let columns = [names, bound, &[sealed]].concat().join(", ");
        let order = names.join(", ");
        let behind = match names {
            // The first part bounds what is looked at; that of both together, SQLite would test row by row.
            [first, second] => format!("{first} >= ?3 AND ({first} > ?3 OR {second} > ?4)"),
            names => names.iter().map(|name| format!("{name} > ?3")).collect(),
        };
        format!(
            "SELECT {columns} FROM {from} WHERE {only} {owner} = ?1 AND substr({sealed}, 3, 16) <> ?2 AND {behind} \
             ORDER BY {order} LIMIT ?{}",
            names.len() + 3
        )
    }

    fn update(self) -> String {
        let Self { table, column, names, row, .. } = self;
        format!("UPDATE {table} SET {column} = ?1 WHERE {row} AND substr({column}, 1, {HEAD}) = ?{}", names.len() + 3)
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
        CellTable::Audit => CellKey::Audit {
            id: columns.id(AuditId::from_slice)?,
            at: columns.time()?,
            outcome: outcome(columns.text()?)?,
            action: columns.text()?.to_owned(),
        },
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
        CellTable::SubjectKeys => CellKey::SubjectKey(columns.id(KeyId::from_slice)?, columns.hash()?, columns.time()?),
        CellTable::Triggers => CellKey::Trigger(columns.id(FlowId::from_slice)?, columns.uint()?),
        CellTable::Values => {
            let (id, flow) = (columns.id(ValueId::from_slice)?, columns.id(FlowId::from_slice)?);
            CellKey::Value(id, ValueScope::from_flow(flow), columns.uint()?)
        }
    })
}

/// As much of a cell as no other content shares: [`ap_crypto::envelope::HEADER_BYTES`].
const HEAD: usize = ap_crypto::envelope::HEADER_BYTES;
/// What a row takes beside its payload, roughly.
const ROW_BYTES: usize = 100;
