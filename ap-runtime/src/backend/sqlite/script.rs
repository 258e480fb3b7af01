//! [`Script`]: statements with their arguments, handed to SQLite in one go; [`Columns`]: reading a row back.
//!
//! The driver runs statements on a thread of its own, and each hand-over costs more than a small statement does. So the
//! writer hands over as many as it can. The arguments of consecutive statements are consecutive.

use ap_core::{
    audit::AuditRecord,
    id::IdError,
    store::{LookupHash, Revision, Sealed},
    time::Timestamp,
};
use futures_util::TryStreamExt;
use sqlx::{
    Arguments, AssertSqlSafe, Either, Encode, Executor, Row, Sqlite, Type,
    error::BoxDynError,
    sqlite::{SqliteArguments, SqliteRow},
};

/// One or more statements and their arguments, in order.
#[derive(Default)]
pub(super) struct Script {
    sql: String,
    arguments: SqliteArguments,
    statements: usize,
    failed: Option<BoxDynError>,
    once: bool,
}

impl Script {
    /// A script of one statement.
    pub(super) fn new(sql: &'static str) -> Self {
        let mut script = Self::default();
        script.then(sql);
        script
    }

    /// Says that this text rarely comes again, so that it need not stay prepared.
    pub(super) fn once(&mut self) {
        self.once = true;
    }

    /// How many statements there are.
    pub(super) const fn statements(&self) -> usize {
        self.statements
    }

    /// Adds one statement. Only constants of this crate ever become SQL.
    pub(super) fn then(&mut self, sql: &'static str) -> &mut Self {
        if self.statements > 0 {
            self.sql.push_str(";\n");
        }
        self.statements += 1;
        self.sql.push_str(sql);
        self
    }

    /// Extends the last statement.
    pub(super) fn with(&mut self, sql: &'static str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    /// Binds the next argument.
    pub(super) fn bind<'v, T: Encode<'v, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> &mut Self {
        if let Err(error) = self.arguments.add(value) {
            self.failed.get_or_insert(error);
        }
        self
    }

    /// Binds bytes, such as those of an id.
    pub(super) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.bind(value)
    }

    /// Binds a number that SQLite keeps as a signed one.
    pub(super) fn uint(&mut self, value: u64) -> &mut Self {
        match i64::try_from(value) {
            Ok(value) => self.bind(value),
            Err(error) => {
                self.failed.get_or_insert(error.into());
                self
            }
        }
    }

    /// Binds a time.
    pub(super) fn time(&mut self, value: Timestamp) -> &mut Self {
        self.bind(value.as_micros())
    }

    /// Binds ciphertext.
    pub(super) fn sealed(&mut self, value: &Sealed) -> &mut Self {
        self.bytes(value.as_bytes())
    }

    /// Adds an insert of each record, which happens if the statement before it changed exactly one row: so the first
    /// statement of a chain decides about all of it.
    pub(super) fn audit_after_change(&mut self, records: &[AuditRecord]) -> &mut Self {
        for record in records {
            self.then(INSERT_AUDIT).with(" WHERE changes() = 1");
            self.audit_values(record);
        }
        self
    }

    /// Adds an insert of each record.
    pub(super) fn audit(&mut self, records: &[AuditRecord]) -> &mut Self {
        for record in records {
            self.then(INSERT_AUDIT);
            self.audit_values(record);
        }
        self
    }

    fn audit_values(&mut self, record: &AuditRecord) {
        self.bytes(&record.scope.to_bytes()).bytes(record.id.as_bytes()).time(record.at).bind(record.action.as_str());
        self.bind(super::project::outcome_text(record.outcome)).sealed(&record.body);
    }

    /// Runs the statements and returns how many rows each changed.
    pub(super) async fn run(self, executor: impl Executor<'_, Database = Sqlite>) -> sqlx::Result<Vec<u64>> {
        if self.statements == 0 {
            return Ok(Vec::new());
        }
        let (query, statements) = self.into_query()?;
        let mut changes = Vec::with_capacity(statements);
        let mut results = executor.fetch_many(query);
        while let Some(result) = results.try_next().await? {
            if let Either::Left(done) = result {
                changes.push(done.rows_affected());
            }
        }
        Ok(changes)
    }

    /// Runs the statements and returns the rows.
    pub(super) async fn rows(self, executor: impl Executor<'_, Database = Sqlite>) -> sqlx::Result<Vec<SqliteRow>> {
        let (query, _) = self.into_query()?;
        executor.fetch_all(query).await
    }

    /// Runs the statement and returns its first row.
    pub(super) async fn row(self, executor: impl Executor<'_, Database = Sqlite>) -> sqlx::Result<Option<SqliteRow>> {
        let (query, _) = self.into_query()?;
        executor.fetch_optional(query).await
    }

    fn into_query(self) -> sqlx::Result<(sqlx::query::Query<'static, Sqlite, SqliteArguments>, usize)> {
        match self.failed {
            Some(error) => Err(sqlx::Error::Encode(error)),
            None => {
                let query = sqlx::query_with(AssertSqlSafe(self.sql), self.arguments);
                Ok((query.persistent(!self.once), self.statements))
            }
        }
    }
}

/// Reads the columns of a row from left to right.
pub(super) struct Columns<'r> {
    row: &'r SqliteRow,
    next: usize,
}

impl<'r> Columns<'r> {
    /// Starts at the first column.
    pub(super) const fn of(row: &'r SqliteRow) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn int(&mut self) -> sqlx::Result<i64> {
        self.row.try_get(self.step())
    }

    pub(super) fn maybe_int(&mut self) -> sqlx::Result<Option<i64>> {
        self.row.try_get(self.step())
    }

    pub(super) fn uint(&mut self) -> sqlx::Result<u64> {
        u64::try_from(self.int()?).map_err(decode)
    }

    pub(super) fn time(&mut self) -> sqlx::Result<Timestamp> {
        self.int().map(Timestamp::from_micros)
    }

    pub(super) fn revision(&mut self) -> sqlx::Result<Revision> {
        self.uint().map(Revision)
    }

    pub(super) fn bytes(&mut self) -> sqlx::Result<&'r [u8]> {
        self.row.try_get(self.step())
    }

    pub(super) fn text(&mut self) -> sqlx::Result<&'r str> {
        self.row.try_get(self.step())
    }

    pub(super) fn id<T>(&mut self, parse: impl FnOnce(&[u8]) -> Result<T, IdError>) -> sqlx::Result<T> {
        parse(self.bytes()?).map_err(decode)
    }

    pub(super) fn maybe_id<T>(&mut self, parse: impl FnOnce(&[u8]) -> Result<T, IdError>) -> sqlx::Result<Option<T>> {
        let bytes: Option<&[u8]> = self.row.try_get(self.step())?;
        bytes.map(parse).transpose().map_err(decode)
    }

    pub(super) fn hash(&mut self) -> sqlx::Result<LookupHash> {
        self.bytes()?.try_into().map(LookupHash).map_err(decode)
    }

    pub(super) fn sealed(&mut self) -> sqlx::Result<Sealed> {
        Ok(Sealed::from_bytes(bytes::Bytes::copy_from_slice(self.bytes()?)))
    }

    const fn step(&mut self) -> usize {
        let column = self.next;
        self.next += 1;
        column
    }
}

/// A stored value is not what its column holds.
pub(super) fn decode(error: impl Into<BoxDynError>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

const INSERT_AUDIT: &str = "INSERT INTO ap_audit (scope, id, at, action, outcome, sealed) SELECT ?, ?, ?, ?, ?, ?";
