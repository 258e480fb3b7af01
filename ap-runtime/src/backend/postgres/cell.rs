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
    store::{CELL_BATCH_BYTES, CellKey, CellStore, CellTable, ResealedCell, SealedCell, ValueScope, VersionState},
};

#[async_trait]
impl CellStore for PostgresBackend {
    async fn count_cells(&self, table: CellTable, current: KeyId, scope: Scope) -> Result<u64, StoreError> {
        let Some(owner) = Owner::of(table, scope) else { return Ok(0) };
        let (place, mut total, mut behind) = (Place::of(table), 0, None);
        loop {
            let until = self.look(place, &owner, behind).await?;
            let query = owner.bind(sqlx::query(AssertSqlSafe(place.count(behind, until))));
            let query = bind_range(query.bind(current.as_bytes().to_vec()), behind, until);
            total += self.row(query, |row| Columns::of(row).count()).await?.unwrap_or(0);
            if until.is_none() {
                return Ok(total);
            }
            behind = until;
        }
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
        let most = i64::try_from(CELL_BATCH_BYTES).unwrap_or(i64::MAX);
        let mut behind = after.map(|key| place.position(&key));
        loop {
            let until = self.look(place, &owner, behind).await?;
            let query = owner.bind(sqlx::query(AssertSqlSafe(place.select(behind, until))));
            let query = query.bind(current.as_bytes().to_vec()).bind(i64::from(limit)).bind(most);
            let cells = self.rows(bind_range(query, behind, until), |row| read_cell(row, table)).await?;
            if until.is_none() || !cells.is_empty() {
                return Ok(cells);
            }
            behind = until;
        }
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

impl PostgresBackend {
    /// How far one statement looks: the last row of as many as it may look at, `None` if there are no more than that. However large a
    /// tenant is, and however little of it is found, no statement takes longer than that.
    async fn look(
        &self,
        place: Place,
        owner: &Owner,
        behind: Option<Position>,
    ) -> Result<Option<Position>, StoreError> {
        let query = owner.bind(sqlx::query(AssertSqlSafe(place.look(behind)))).bind(LOOK - 1);
        self.row(bind_range(query, behind, None), |row| place.read_position(row)).await
    }
}

/// Where a row stands among those of its owner.
#[derive(Clone, Copy)]
enum Position {
    One(Id),
    Numbered(Id, i64),
    Two(Id, Id),
}

fn bind_range(
    mut query: Query<'_, Postgres, PgArguments>,
    behind: Option<Position>,
    until: Option<Position>,
) -> Query<'_, Postgres, PgArguments> {
    for position in behind.into_iter().chain(until) {
        query = match position {
            Position::One(first) => query.bind(first),
            Position::Numbered(first, second) => query.bind(first).bind(second),
            Position::Two(first, second) => query.bind(first).bind(second),
        };
    }
    query
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
            CellTable::Values => place("ap_values", &["flow", "version"]),
        }
    }

    fn count(self, behind: Option<Position>, until: Option<Position>) -> String {
        let Self { table, owner, sealed, only, .. } = self;
        let range = self.range(3, behind, until);
        format!(
            "SELECT count(*) FROM {table} WHERE {owner} = $1 AND {only} AND substring({sealed} FROM 3 FOR 16) <> $2{range}"
        )
    }

    /// Bounded by number first, then by bytes, of which the first row may have any number.
    fn select(self, behind: Option<Position>, until: Option<Position>) -> String {
        let Self { table, owner, bound, sealed, only, .. } = self;
        let order = self.order();
        let columns = [&[order.as_str()][..], bound, &[sealed]].concat().join(", ");
        let range = self.range(5, behind, until);
        format!(
            "SELECT {columns} FROM (SELECT *, sum(octet_length({sealed})) OVER (ORDER BY {order}) AS total FROM \
             (SELECT {columns} FROM {table} WHERE {owner} = $1 AND {only} AND substring({sealed} FROM 3 FOR 16) <> $2{range} \
             ORDER BY {order} LIMIT $3) AS found) AS page WHERE total - octet_length({sealed}) < $4 ORDER BY {order}"
        )
    }

    /// The row so far behind, whatever its key.
    fn look(self, behind: Option<Position>) -> String {
        let Self { table, owner, only, .. } = self;
        let (order, range) = (self.order(), self.range(3, behind, None));
        format!("SELECT {order} FROM {table} WHERE {owner} = $1 AND {only}{range} ORDER BY {order} OFFSET $2 LIMIT 1")
    }

    /// The columns that name a row.
    fn order(self) -> String {
        self.second.map_or_else(|| self.first.to_owned(), |(second, _)| format!("{}, {second}", self.first))
    }

    /// The condition of a range, whose arguments are counted from `next` on.
    fn range(self, next: usize, behind: Option<Position>, until: Option<Position>) -> String {
        let (order, width) = (self.order(), if self.second.is_some() { 2 } else { 1 });
        let bounds = [behind.map(|_| ">"), until.map(|_| "<=")].into_iter().flatten().enumerate();
        let condition = |(index, operator): (usize, &str)| {
            let first = next + index * width;
            let arguments: Vec<String> = (first..first + width).map(|number| format!("${number}")).collect();
            format!(" AND ({order}) {operator} ({})", arguments.join(", "))
        };
        bounds.map(condition).collect()
    }

    fn position(self, key: &CellKey) -> Position {
        let (first, second) = key.position();
        match (self.second, key) {
            (None, _) => Position::One(Id(first)),
            (Some(_), CellKey::Journal(_, seq)) => Position::Numbered(Id(first), signed(*seq)),
            (Some(_), _) => Position::Two(Id(first), Id(second)),
        }
    }

    fn read_position(self, row: &PgRow) -> sqlx::Result<Position> {
        let mut columns = Columns::of(row);
        let first = columns.value()?;
        Ok(match self.second {
            None => Position::One(first),
            Some((_, "bigint")) => Position::Numbered(first, columns.value()?),
            Some(_) => Position::Two(first, columns.value()?),
        })
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
        CellTable::Values => CellKey::Value(columns.id()?, ValueScope::from_flow(columns.id()?), columns.count()?),
    };
    Ok(SealedCell { key, sealed: columns.sealed()? })
}

fn signed_position(position: u128) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// As much of a cell as no other content shares: [`ap_crypto::envelope::HEADER_BYTES`].
const HEAD: usize = ap_crypto::envelope::HEADER_BYTES;
/// Rows that one statement looks at.
const LOOK: i64 = if cfg!(test) { 3 } else { 20_000 };

#[cfg(test)]
mod tests {
    use ap_core::{
        id::{FileId, ProjectId},
        store::Sealed,
        time::Timestamp,
    };
    use ap_crypto::{
        envelope,
        keyring::{KeyKind, WrappedKey},
    };
    use sqlx::Connection;

    use super::*;
    use crate::{
        backend::postgres::PostgresOptions,
        store::{FileRecord, FileStore, ProjectRecord, ProjectShare, ProjectStore},
    };

    const PROJECT: ProjectId = ProjectId::from_u128(1);
    const KEY: KeyId = KeyId::from_u128(7);

    fn under(key: KeyId) -> Sealed {
        let mut bytes = vec![0; envelope::OVERHEAD_BYTES];
        bytes[envelope::KEY_ID].copy_from_slice(key.as_bytes());
        Sealed::from_bytes(bytes.into())
    }

    /// Few cells among many rows: each statement looks at a few rows only, and what is found is the same.
    #[tokio::test]
    async fn what_is_found_does_not_depend_on_how_far_a_statement_looks() {
        let url = std::env::var("AP_TEST_POSTGRES_URL");
        let url = url.expect("`AP_TEST_POSTGRES_URL` is not set: run `cargo xtask test`");
        let schema = format!("cells_{}", std::process::id());
        let backend = PostgresBackend::open(PostgresOptions::from_url(&url).expect("a URL").with_schema(&schema));
        let backend = backend.await.expect("a backend");
        let created = Timestamp::EPOCH;
        let key = WrappedKey {
            id: KEY,
            scope: PROJECT.into(),
            kind: KeyKind::Data,
            parent: KEY,
            created,
            wrapped: under(KEY),
        };
        let project = ProjectRecord { id: PROJECT, created, share: ProjectShare::default(), sealed: under(KEY) };
        backend.create_project(project, key, &[]).await.expect("a project");
        let old = |number: u128| [5, 6, 12, 22].contains(&number);
        for number in 1..=22 {
            let sealed = under(if old(number) { KeyId::from_u128(1) } else { KEY });
            let file = FileRecord { id: FileId::from_u128(number), project: PROJECT, run: None, created, sealed };
            backend.write_file(file, &[]).await.expect("a file");
        }
        assert_eq!(backend.count_cells(CellTable::Files, KEY, PROJECT.into()).await.expect("a count"), 4);
        assert_eq!(
            backend.count_cells(CellTable::Files, KeyId::from_u128(1), PROJECT.into()).await.expect("a count"),
            18
        );
        let (mut found, mut behind) = (Vec::new(), None);
        loop {
            let page = backend.cells(CellTable::Files, KEY, behind.take(), 2, PROJECT.into()).await.expect("cells");
            assert!(page.len() <= 2);
            let Some(last) = page.last() else { break };
            behind = Some(last.key.clone());
            found.extend(page.iter().map(|cell| cell.key.position().0));
        }
        assert_eq!(found, [5, 6, 12, 22]);
        backend.close().await;
        let mut connection = sqlx::PgConnection::connect(&url).await.expect("a connection");
        let drop = format!("DROP SCHEMA \"{schema}\" CASCADE");
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await.expect("dropped");
    }
}
