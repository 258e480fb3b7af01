//! Sealed cells: what a rotation of a tenant's key walks over.

use ap_core::{id::KeyId, scope::Scope, store::StoreError};
use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Postgres, postgres::PgArguments, postgres::PgRow, query::Query};

use super::{
    PostgresBackend,
    link::{Failure, Transaction},
    project::outcome,
    value::{Columns, Id, corrupt, signed},
    writer::Operation,
};
use crate::{
    backend::{cell_head, check_cells},
    store::{CELL_BATCH_BYTES, CellKey, CellStore, CellTable, ResealedCell, SealedCell, VersionState},
};

#[async_trait]
impl CellStore for PostgresBackend {
    async fn count_cells(&self, table: CellTable, current: KeyId, scope: Scope) -> Result<u64, StoreError> {
        let Some(owner) = Owner::of(table, scope) else { return Ok(0) };
        let query = owner.bind(sqlx::query(AssertSqlSafe(Place::of(table).count())));
        let query = query.bind(current.as_bytes().to_vec());
        Ok(self.row(query, |row| Columns::of(row).count()).await?.unwrap_or(0))
    }

    async fn cells(
        &self,
        table: CellTable,
        current: KeyId,
        after: Option<CellKey>,
        limit: u32,
        scope: Scope,
    ) -> Result<Vec<SealedCell>, StoreError> {
        let Some(owner) = Owner::of(table, scope) else { return Ok(Vec::new()) };
        let place = Place::of(table);
        let query = owner.bind(sqlx::query(AssertSqlSafe(place.select(after.is_some()))));
        let most = i64::try_from(CELL_BATCH_BYTES).unwrap_or(i64::MAX);
        let mut query = query.bind(current.as_bytes().to_vec()).bind(i64::from(limit)).bind(most);
        if let Some(key) = after {
            let (first, second) = key.position();
            query = query.bind(Id(first));
            query = match (place.second, key) {
                (None, _) => query,
                (Some(_), CellKey::Journal(_, seq)) => query.bind(signed(seq)),
                (Some(_), _) => query.bind(Id(second)),
            };
        }
        self.rows(query, |row| read_cell(row, table)).await
    }

    async fn reseal_cells(&self, cells: &[ResealedCell], scope: Scope) -> Result<u64, StoreError> {
        let Some(table) = check_cells(cells)? else { return Ok(0) };
        let Some(owner) = Owner::of(table, scope) else { return Ok(0) };
        let mut cells = cells.to_vec();
        // In one order, so that two rotations do not wait for each other.
        cells.sort_by_key(|cell| cell.key.position());
        self.writer.write(Reseal { table, owner, cells }).await
    }
}

struct Reseal {
    table: CellTable,
    owner: Owner,
    cells: Vec<ResealedCell>,
}

#[async_trait]
impl Operation for Reseal {
    type Output = u64;

    fn bytes(&self) -> usize {
        self.cells.iter().map(|cell| cell.new.as_bytes().len()).sum()
    }

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<u64, Failure> {
        let place = Place::of(self.table);
        let position = |cell: &ResealedCell| cell.key.position();
        let first: Vec<Id> = self.cells.iter().map(|cell| Id(position(cell).0)).collect();
        let old: Vec<&[u8]> = self.cells.iter().map(|cell| cell_head(&cell.old)).collect();
        let new: Vec<&[u8]> = self.cells.iter().map(|cell| cell.new.as_bytes().as_ref()).collect();
        let query = self.owner.bind(sqlx::query(AssertSqlSafe(place.update()))).bind(first).bind(old).bind(new);
        let query = match (place.second, self.table) {
            (None, _) => query,
            (Some(_), CellTable::Journal) => {
                query.bind(self.cells.iter().map(|cell| signed_position(position(cell).1)).collect::<Vec<_>>())
            }
            (Some(_), _) => query.bind(self.cells.iter().map(|cell| Id(position(cell).1)).collect::<Vec<_>>()),
        };
        Ok(query.execute(&mut *transaction.connection).await?.rows_affected())
    }
}

/// The columns of a table that has sealed cells.
#[derive(Clone, Copy)]
struct Place {
    table: &'static str,
    /// Whose row it is.
    owner: &'static str,
    /// What names a row of its owner, and the type of the second column.
    first: &'static str,
    second: Option<(&'static str, &'static str)>,
    /// What else the seal is bound to.
    bound: &'static [&'static str],
    sealed: &'static str,
    /// Which rows have a cell at all.
    only: &'static str,
}

impl Place {
    const fn of(table: CellTable) -> Self {
        const fn place(table: &'static str, bound: &'static [&'static str]) -> Place {
            Place { table, owner: "project", first: "id", second: None, bound, sealed: "sealed", only: "true" }
        }
        match table {
            CellTable::Audit => Self { owner: "scope", ..place("ap_audit", &["at", "outcome", "action"]) },
            CellTable::Connections => Self { owner: "scope", ..place("ap_connections", &["revision"]) },
            CellTable::Files => place("ap_files", &[]),
            CellTable::FlowVersions => place("ap_flow_versions", &["flow", "number", "state", "revision"]),
            CellTable::Flows => place("ap_flows", &["revision"]),
            CellTable::Jobs => place("ap_jobs", &["queue"]),
            CellTable::Journal => Self { first: "run", second: Some(("seq", "bigint")), ..place("ap_journal", &[]) },
            CellTable::Projects => Self { owner: "id", ..place("ap_projects", &[]) },
            CellTable::SharedConnections => Self { first: "connection", ..place("ap_shared_connections", &[]) },
            CellTable::Signals => {
                Self { first: "run", second: Some(("id", "uuid")), only: "NOT taken", ..place("ap_signals", &["slot"]) }
            }
            CellTable::SubjectKeys => place("ap_subject_keys", &["subject", "created"]),
            CellTable::Triggers => {
                let place = place("ap_triggers", &["state_epoch"]);
                Self { first: "flow", sealed: "state", only: "state IS NOT NULL", ..place }
            }
        }
    }

    fn count(self) -> String {
        let Self { table, owner, sealed, only, .. } = self;
        format!(
            "SELECT count(*) FROM {table} WHERE {owner} = $1 AND {only} AND substring({sealed} FROM 3 FOR 16) <> $2"
        )
    }

    /// Bounded by number first, then by bytes, of which the first row may have any number.
    fn select(self, behind: bool) -> String {
        let Self { table, owner, first, second, bound, sealed, only } = self;
        let second = second.map(|(name, _)| name);
        let names: Vec<&str> = [Some(first), second].into_iter().flatten().collect();
        let order = names.join(", ");
        let columns = [&names, bound, &[sealed]].concat().join(", ");
        let behind = match (behind, second) {
            (false, _) => String::new(),
            (true, None) => format!(" AND {first} > $5"),
            (true, Some(_)) => format!(" AND ({order}) > ($5, $6)"),
        };
        format!(
            "SELECT {columns} FROM (SELECT *, sum(octet_length({sealed})) OVER (ORDER BY {order}) AS total FROM \
             (SELECT {columns} FROM {table} WHERE {owner} = $1 AND {only} AND substring({sealed} FROM 3 FOR 16) <> $2{behind} \
             ORDER BY {order} LIMIT $3) AS found) AS page WHERE total - octet_length({sealed}) < $4 ORDER BY {order}"
        )
    }

    fn update(self) -> String {
        let Self { table, owner, first, second, sealed, only, .. } = self;
        let (argument, column, condition) = match second {
            None => (String::new(), "", String::new()),
            Some((name, kind)) => (format!(", $5::{kind}[]"), ", second", format!(" AND row.{name} = cell.second")),
        };
        format!(
            "UPDATE {table} AS row SET {sealed} = cell.new \
             FROM unnest($2::uuid[], $3::bytea[], $4::bytea[]{argument}) AS cell (first, old, new{column}) \
             WHERE row.{owner} = $1 AND {only} AND row.{first} = cell.first{condition} \
             AND substring(row.{sealed} FROM 1 FOR {HEAD}) = cell.old"
        )
    }
}

/// The owner as a table's column has it.
#[derive(Clone)]
enum Owner {
    Id(Id),
    Scope(Vec<u8>),
}

impl Owner {
    /// `None` if no row there is of such a scope.
    fn of(table: CellTable, scope: Scope) -> Option<Self> {
        match (table, scope) {
            (CellTable::Audit | CellTable::Connections, scope) => Some(Self::Scope(scope.to_bytes().to_vec())),
            (_, Scope::Project(project)) => Some(Self::Id(project.into())),
            (_, Scope::Platform(_)) => None,
        }
    }

    fn bind<'q>(&self, query: Query<'q, Postgres, PgArguments>) -> Query<'q, Postgres, PgArguments> {
        match self {
            Self::Id(id) => query.bind(*id),
            Self::Scope(bytes) => query.bind(bytes.clone()),
        }
    }
}

fn read_cell(row: &PgRow, table: CellTable) -> sqlx::Result<SealedCell> {
    let mut columns = Columns::of(row);
    let key = match table {
        CellTable::Audit => CellKey::Audit {
            id: columns.id()?,
            at: columns.time()?,
            outcome: outcome(columns.value()?)?,
            action: columns.value()?,
        },
        CellTable::Connections => CellKey::Connection(columns.id()?, columns.revision()?),
        CellTable::Files => CellKey::File(columns.id()?),
        CellTable::FlowVersions => CellKey::FlowVersion {
            id: columns.id()?,
            flow: columns.id()?,
            number: columns.small()?,
            state: match columns.value()? {
                "DRAFT" => VersionState::Draft,
                "LOCKED" => VersionState::Locked,
                _ => return Err(corrupt("not a state of a flow version")),
            },
            revision: columns.revision()?,
        },
        CellTable::Flows => CellKey::Flow(columns.id()?, columns.revision()?),
        CellTable::Jobs => CellKey::Job(columns.id()?, columns.hash()?),
        CellTable::Journal => CellKey::Journal(columns.id()?, columns.count()?),
        CellTable::Projects => CellKey::Project(columns.id()?),
        CellTable::SharedConnections => CellKey::SharedConnection(columns.id()?),
        CellTable::Signals => CellKey::Signal(columns.id()?, columns.id()?, columns.hash()?),
        CellTable::SubjectKeys => CellKey::SubjectKey(columns.id()?, columns.hash()?, columns.time()?),
        CellTable::Triggers => CellKey::Trigger(columns.id()?, columns.count()?),
    };
    Ok(SealedCell { key, sealed: columns.sealed()? })
}

fn signed_position(position: u128) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// As much of a cell as no other content shares: [`ap_crypto::envelope::HEADER_BYTES`].
const HEAD: usize = ap_crypto::envelope::HEADER_BYTES;
