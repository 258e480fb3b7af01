//! [`SqlEgress`] and [`RunSql`]: the databases pieces get.
//!
//! A connection for a database has clear fields `host`, `port` (5432), `database` and `username` (or `user`), or a `url`
//! `postgres://host:port/database`, and a secret field `password`. It is spoken to over TLS with a certificate for its name;
//! `sslmode` may be `verify-full` (default), or `disable` in networks where the host allows plain credentials. A clear field
//! `file` names a SQLite database instead, in the directory that the host allows.
//!
//! Every statement has a connection and a transaction of its own.

mod bind;
mod bounded;
mod cell;
mod cell_time;
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
mod text;
mod tls_stream;

#[cfg(feature = "sqlite")]
use std::path::{Path, PathBuf};
use std::{fmt, sync::Arc, time::Duration};

use ap_core::capability::{ExchangeError, SqlClient, SqlOutcome, SqlRow, SqlStatement};
use async_trait::async_trait;
use serde_json::Value;

use super::{
    credential::{CredentialUse, RunCredentials},
    guard::Guard,
    server::{Opened, Ordered, Uses, refuse_placeholders, scrub},
    tls::{TlsClient, TlsSetupError},
    trust::TrustRoots,
};

/// Sends SQL statements for the runs of one runtime. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SqlEgress {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    guard: Guard,
    tls: TlsClient,
    limits: SqlLimits,
    #[cfg(feature = "sqlite")]
    files: Option<Files>,
}

/// The SQLite files that connections may name.
#[cfg(feature = "sqlite")]
#[derive(Clone, Debug)]
struct Files {
    directory: PathBuf,
    /// Unit: bytes.
    max_bytes: u64,
}

/// What a host allows, whatever a statement asks for.
#[derive(Clone, Copy, Debug)]
struct SqlLimits {
    max_rows: usize,
    max_result_bytes: usize,
    read_only: bool,
}

impl SqlEgress {
    /// Starts building a layer that goes through `guard`.
    #[must_use]
    pub fn builder(guard: Guard) -> SqlEgressBuilder {
        SqlEgressBuilder {
            guard,
            roots: TrustRoots::default(),
            limits: SqlLimits {
                max_rows: DEFAULT_MAX_ROWS,
                max_result_bytes: DEFAULT_MAX_RESULT_BYTES,
                read_only: false,
            },
            #[cfg(feature = "sqlite")]
            files: None,
        }
    }

    /// The client of one attempt, with the credentials of its run.
    #[must_use]
    pub fn for_run(&self, credentials: Arc<RunCredentials>) -> RunSql {
        RunSql { egress: self.clone(), credentials, uses: Uses::default() }
    }
}

/// Options of [`SqlEgress`].
#[derive(Clone, Debug)]
pub struct SqlEgressBuilder {
    guard: Guard,
    roots: TrustRoots,
    limits: SqlLimits,
    #[cfg(feature = "sqlite")]
    files: Option<Files>,
}

impl SqlEgressBuilder {
    /// Sets which authorities are trusted beside the machine's own. Default: none.
    #[must_use]
    pub fn with_trust_roots(mut self, roots: TrustRoots) -> Self {
        self.roots = roots;
        self
    }

    /// Sets the most rows that a statement may give, whatever it asks for. Default: 10,000.
    #[must_use]
    pub const fn with_max_rows(mut self, max_rows: usize) -> Self {
        self.limits.max_rows = max_rows;
        self
    }

    /// Sets the largest result. Unit: bytes as the database sends them, names of columns included. Default: 8 MiB.
    ///
    /// A message of PostgreSQL that announces more than this and 64 KiB is not read, and neither is a larger value of a SQLite
    /// file.
    #[must_use]
    pub const fn with_max_result_bytes(mut self, max_result_bytes: usize) -> Self {
        self.limits.max_result_bytes = max_result_bytes;
        self
    }

    /// Refuses every statement that could write. Default: statements may write, as far as the connection's user may.
    #[must_use]
    pub const fn read_only(mut self) -> Self {
        self.limits.read_only = true;
        self
    }

    /// Lets connections name SQLite files in `directory`, by file name alone. Default: none can be named.
    ///
    /// # Security
    /// Whoever may create a connection in any project reaches every file in `directory`.
    #[cfg(feature = "sqlite")]
    #[must_use]
    pub fn with_sqlite_directory(mut self, directory: impl AsRef<Path>) -> Self {
        let max_bytes = self.files.map_or(DEFAULT_MAX_FILE_BYTES, |files| files.max_bytes);
        self.files = Some(Files { directory: directory.as_ref().to_owned(), max_bytes });
        self
    }

    /// Sets how large a SQLite file may become, in the directory of [`SqlEgressBuilder::with_sqlite_directory`], which comes
    /// before this. Unit: bytes, in whole pages; a file that is larger already grows no more. Default: 1 GiB.
    #[cfg(feature = "sqlite")]
    #[must_use]
    pub fn with_max_sqlite_file_bytes(mut self, max_bytes: u64) -> Self {
        self.files = self.files.map(|files| Files { max_bytes, ..files });
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    /// [`TlsSetupError`] if TLS cannot be set up.
    pub fn build(self) -> Result<SqlEgress, TlsSetupError> {
        let tls = TlsClient::new(&self.roots)?;
        let shared = Shared {
            guard: self.guard,
            tls,
            limits: self.limits,
            #[cfg(feature = "sqlite")]
            files: self.files,
        };
        Ok(SqlEgress { shared: Arc::new(shared) })
    }
}

/// The databases of one attempt of one run.
pub struct RunSql {
    egress: SqlEgress,
    credentials: Arc<RunCredentials>,
    uses: Uses,
}

/// What a statement may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl RunSql {
    /// The credentials used since the last call, for the audit; also those of statements that failed later.
    #[must_use]
    pub fn take_uses(&self) -> Vec<CredentialUse> {
        self.uses.take()
    }

    async fn run(&self, statement: SqlStatement, access: Access) -> Result<SqlOutcome, ExchangeError> {
        let limit = statement.timeout.clamp(MIN_TIMEOUT, MAX_TIMEOUT);
        // The server's own limit comes first, and says that nothing was changed.
        let exchange = self.exchange(&statement, access, limit.saturating_sub(GRACE.min(limit / 4)));
        let outcome = tokio::time::timeout(limit, exchange).await;
        let outcome = outcome.unwrap_or(Err(ExchangeError::Timeout { limit }));
        let redactor = self.credentials.redactor();
        match outcome {
            Ok(SqlOutcome { affected, rows }) => {
                let clean = rows.into_iter().map(|row| match redactor.redact_json(Value::Object(row)) {
                    Value::Object(row) => row,
                    _ => SqlRow::new(),
                });
                Ok(SqlOutcome { affected, rows: clean.collect() })
            }
            Err(error) => {
                let error = scrub(error, redactor);
                if matches!(error, ExchangeError::Refused { .. } | ExchangeError::Credential { .. }) {
                    tracing::warn!(target: "ap_runtime::egress", %error, "a statement was refused");
                }
                Err(error)
            }
        }
    }

    async fn exchange(
        &self,
        statement: &SqlStatement,
        access: Access,
        limit: Duration,
    ) -> Result<SqlOutcome, ExchangeError> {
        let shared = &self.egress.shared;
        if access == Access::Write && shared.limits.read_only {
            let reason = "this host lets flows read databases only".to_owned();
            return Err(ExchangeError::Refused { reason });
        }
        let opened = Opened::of(&self.credentials, &statement.connection)?;
        refuse_placeholders(&self.credentials, "the statement", [statement.text.as_str()])?;
        for parameter in &statement.parameters {
            refuse_placeholders(&self.credentials, "a parameter", [parameter.to_string().as_str()])?;
        }
        text::check(&statement.text)?;
        if statement.parameters.len() > MAX_PARAMETERS {
            return Err(ExchangeError::TooLarge { what: "the number of parameters", limit: MAX_PARAMETERS });
        }
        let bounds = Bounds {
            max_rows: statement.max_rows.min(shared.limits.max_rows),
            max_bytes: shared.limits.max_result_bytes,
            timeout: limit,
        };
        if let Some(file) = opened.clear(&["file"])? {
            return self.file(file, statement, access, bounds).await;
        }
        let (target, used) = postgres::Target::of(opened)?;
        self.uses.push(used);
        let ordered = Ordered::default();
        target.run(shared, statement, access, bounds, &ordered).await
    }

    #[cfg(feature = "sqlite")]
    async fn file(
        &self,
        file: &str,
        statement: &SqlStatement,
        access: Access,
        bounds: Bounds,
    ) -> Result<SqlOutcome, ExchangeError> {
        let Some(files) = &self.egress.shared.files else { return Err(no_files()) };
        sqlite::run(files, file, statement, access, bounds).await
    }

    #[cfg(not(feature = "sqlite"))]
    #[expect(clippy::unused_async, clippy::unused_self, reason = "there are no files without the feature")]
    async fn file(&self, _: &str, _: &SqlStatement, _: Access, _: Bounds) -> Result<SqlOutcome, ExchangeError> {
        Err(no_files())
    }
}

#[async_trait]
impl SqlClient for RunSql {
    async fn query(&self, statement: SqlStatement) -> Result<Vec<SqlRow>, ExchangeError> {
        self.run(statement, Access::Read).await.map(|outcome| outcome.rows)
    }

    async fn execute(&self, statement: SqlStatement) -> Result<SqlOutcome, ExchangeError> {
        self.run(statement, Access::Write).await
    }
}

impl fmt::Debug for RunSql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunSql").field("egress", &self.egress).finish_non_exhaustive()
    }
}

/// What a result may be at most.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    max_rows: usize,
    max_bytes: usize,
    timeout: Duration,
}

/// Rows on their way in, within their bounds.
#[derive(Debug)]
struct Gathered {
    bounds: Bounds,
    rows: Vec<SqlRow>,
    bytes: usize,
}

impl Gathered {
    const fn new(bounds: Bounds) -> Self {
        Self { bounds, rows: Vec::new(), bytes: 0 }
    }

    /// Makes room for a row of `bytes` bytes.
    fn admit(&mut self, bytes: usize) -> Result<(), ExchangeError> {
        if self.rows.len() >= self.bounds.max_rows {
            return Err(ExchangeError::TooLarge { what: "the number of rows", limit: self.bounds.max_rows });
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.bounds.max_bytes {
            return Err(ExchangeError::TooLarge { what: "the result in bytes", limit: self.bounds.max_bytes });
        }
        Ok(())
    }
}

fn no_files() -> ExchangeError {
    ExchangeError::Refused { reason: "this host allows no database files".to_owned() }
}

/// Column names of one result; each must be there once, since a row is an object.
fn check_columns<'n>(names: impl Iterator<Item = &'n str>) -> Result<(), ExchangeError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            let reason = format!("the result has two columns `{name}`: give one of them another name with `AS`");
            return Err(ExchangeError::InvalidRequest { reason });
        }
    }
    Ok(())
}

const DEFAULT_MAX_ROWS: usize = 10_000;
const DEFAULT_MAX_RESULT_BYTES: usize = 8 << 20;
#[cfg(feature = "sqlite")]
const DEFAULT_MAX_FILE_BYTES: u64 = 1 << 30;
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
const GRACE: Duration = Duration::from_millis(500);
/// Those that PostgreSQL's protocol can count.
const MAX_PARAMETERS: usize = 32_767;
