//! [`SqlClient`]: statements for a database.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::ExchangeError;

/// Sends single SQL statements to the database that a connection names.
///
/// Each statement is a transaction of its own: it happens wholly or not at all.
#[async_trait]
pub trait SqlClient: fmt::Debug + Send + Sync {
    /// Reads: the statement runs where nothing can be written, and its rows come back.
    ///
    /// # Errors
    /// [`ExchangeError`] says who must act.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; nothing was changed.
    async fn query(&self, statement: SqlStatement) -> Result<Vec<SqlRow>, ExchangeError>;

    /// Writes: says how many rows were touched, with the rows that a `RETURNING` clause gives.
    ///
    /// # Errors
    /// As [`SqlClient::query`]. Of all errors only [`ExchangeError::Interrupted`] and [`ExchangeError::Timeout`] leave open
    /// whether the statement was carried out.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; whether the statement was carried out is then unknown.
    async fn execute(&self, statement: SqlStatement) -> Result<SqlOutcome, ExchangeError>;
}

/// One row: values by the names of their columns.
///
/// What JSON has no form for comes as text that means the same: `numeric`, whole numbers beyond ±(2^53 − 1), UUIDs, times
/// (RFC 3339), intervals (ISO 8601); bytes as base64.
pub type SqlRow = Map<String, Value>;

/// One statement with its parameters. The text never holds a value: parameters are bound.
#[derive(Clone)]
pub struct SqlStatement {
    /// Placeholder text of the connection: which database, as whom.
    pub connection: String,
    /// The statement, with `$1`, `$2`, … where parameters go.
    pub text: String,
    /// The parameters in order. Text is read as the type that the statement expects; bytes are base64; JSON arrays become
    /// arrays, and any value becomes `json` where the statement expects that.
    pub parameters: Vec<Value>,
    /// Longest time for everything. Default: 30 s. Accepted: 1 ms to 10 min, clamped.
    pub timeout: Duration,
    /// Most rows; more is an error. Default: 1,000. The host's own limit applies on top.
    pub max_rows: usize,
}

impl SqlStatement {
    /// A statement without parameters and with the default limits.
    pub fn new(connection: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            connection: connection.into(),
            text: text.into(),
            parameters: Vec::new(),
            timeout: Duration::from_secs(30),
            max_rows: 1_000,
        }
    }
}

impl fmt::Debug for SqlStatement {
    /// Prints counts and limits: text and parameters may hold private data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStatement")
            .field("parameters", &self.parameters.len())
            .field("timeout", &self.timeout)
            .field("max_rows", &self.max_rows)
            .finish_non_exhaustive()
    }
}

/// What a writing statement did.
#[derive(Clone, PartialEq)]
pub struct SqlOutcome {
    /// How many rows were inserted, changed or deleted, as the database counts them.
    pub affected: u64,
    /// What a `RETURNING` clause gave.
    pub rows: Vec<SqlRow>,
}

impl fmt::Debug for SqlOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlOutcome").field("affected", &self.affected).field("rows", &self.rows.len()).finish()
    }
}
