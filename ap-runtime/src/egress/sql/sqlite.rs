//! SQLite files in a directory that the host allows: for tests, and for hosts that keep small databases beside them.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ap_core::capability::{ExchangeError, SqlOutcome, SqlStatement};
use base64::{Engine, engine::general_purpose::STANDARD};
use rusqlite::{
    Batch, Connection, ErrorCode, OpenFlags,
    config::DbConfig,
    fallible_iterator::FallibleIterator,
    hooks::{AuthAction, AuthContext, Authorization},
    limits::Limit,
    types::{Value as Cell, ValueRef},
};
use serde_json::Value;

use super::{Access, Bounds, Files, Gathered, SqlRow, cell, check_columns};

/// Carries out one statement on a thread that may block.
pub(super) async fn run(
    files: &Files,
    file: &str,
    statement: &SqlStatement,
    access: Access,
    bounds: Bounds,
) -> Result<SqlOutcome, ExchangeError> {
    let path = path_of(&files.directory, file)?;
    let open = Open { path, access, max_value_bytes: bounds.max_bytes, max_file_bytes: files.max_bytes };
    let (text, parameters) = (statement.text.clone(), statement.parameters.clone());
    let stop = Arc::new(AtomicBool::new(false));
    // Whoever stops waiting, by the time limit or otherwise, stops the statement.
    let _stopping = StopOnDrop(Arc::clone(&stop));
    let work = tokio::task::spawn_blocking(move || carry_out(&open, &text, &parameters, bounds, stop));
    work.await
        .unwrap_or_else(|_| Err(ExchangeError::Interrupted { reason: "the database failed unexpectedly".to_owned() }))
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One file name: no way to another directory.
fn path_of(directory: &Path, file: &str) -> Result<PathBuf, ExchangeError> {
    let plain = file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if file.is_empty() || file.len() > 128 || file.starts_with('.') || !plain {
        let reason =
            "the connection's field `file` must be a file name of letters, digits, `.`, `_` and `-`".to_owned();
        return Err(ExchangeError::Refused { reason });
    }
    Ok(directory.join(file))
}

/// How a file is opened.
struct Open {
    path: PathBuf,
    access: Access,
    max_value_bytes: usize,
    max_file_bytes: u64,
}

fn carry_out(
    open: &Open,
    text: &str,
    parameters: &[Value],
    bounds: Bounds,
    stop: Arc<AtomicBool>,
) -> Result<SqlOutcome, ExchangeError> {
    let mut connection = open.connection(stop).map_err(|error| failed(&error))?;
    // Changes are counted before and after: the count of the last statement survives statements that change nothing.
    let begin = if open.access == Access::Read { "BEGIN" } else { "BEGIN IMMEDIATE" };
    connection.execute_batch(begin).map_err(|error| failed(&error))?;
    let before = connection.total_changes();
    // From here on nothing but the author's statement is prepared. After an error the connection is dropped, which undoes all.
    connection.authorizer(Some(authorize)).map_err(|error| failed(&error))?;
    let rows = rows_of(&connection, text, parameters, bounds)?;
    connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).map_err(|error| failed(&error))?;
    let affected = connection.total_changes().saturating_sub(before);
    connection.execute_batch("COMMIT").map_err(|error| failed(&error))?;
    Ok(SqlOutcome { affected, rows })
}

impl Open {
    fn connection(&self, stop: Arc<AtomicBool>) -> rusqlite::Result<Connection> {
        let mode = match self.access {
            Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
            Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
        };
        let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let mut connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        // No value of a result is made that is larger than the result may be. What is written may be larger than what is read.
        let longest = match self.access {
            Access::Read => i32::try_from(self.max_value_bytes).unwrap_or(MAX_VALUE_BYTES),
            Access::Write => MAX_VALUE_BYTES,
        };
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, longest.clamp(MIN_VALUE_BYTES, MAX_VALUE_BYTES))?;
        if self.access == Access::Write {
            let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
            let most = i64::try_from(self.max_file_bytes).unwrap_or(i64::MAX);
            let pages = (most / page.max(1)).clamp(1, MAX_PAGES);
            connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
        }
        connection.progress_handler(PROGRESS_STEPS, Some(move || stop.load(Ordering::Relaxed)))?;
        Ok(connection)
    }
}

/// Tables, their columns and functions; nothing of other files, temporary ones included, of settings, or of the transaction
/// around it.
fn authorize(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::Pragma { .. }
        | AuthAction::Transaction { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::CreateVtable { .. }
        | AuthAction::DropVtable { .. }
        | AuthAction::Unknown { .. } => Authorization::Deny,
        AuthAction::Function { function_name } if FORBIDDEN.contains(&function_name.to_ascii_lowercase().as_str()) => {
            Authorization::Deny
        }
        _ => Authorization::Allow,
    }
}

fn rows_of(
    connection: &Connection,
    text: &str,
    parameters: &[Value],
    bounds: Bounds,
) -> Result<Vec<SqlRow>, ExchangeError> {
    let invalid = |reason: String| ExchangeError::InvalidRequest { reason };
    let mut batch = Batch::new(connection, text);
    let Some(mut statement) = batch.next().map_err(|error| failed(&error))? else {
        return Err(invalid("the statement is empty".to_owned()));
    };
    if batch.next().map_err(|error| failed(&error))?.is_some() {
        return Err(invalid("there are several statements: each needs a step of its own".to_owned()));
    }
    let wanted = statement.parameter_count();
    let mut numbers = Vec::with_capacity(wanted);
    for index in 1..=wanted {
        let number = statement.parameter_name(index).map_or(Some(index), |name| name.get(1..)?.parse().ok());
        numbers.push(number.ok_or_else(|| invalid("parameters are written `$1`, `$2`, …".to_owned()))?);
    }
    let highest = numbers.iter().copied().max().unwrap_or(0);
    if highest != parameters.len() {
        let given = parameters.len();
        return Err(invalid(format!("the statement has {highest} parameters, and {given} are given")));
    }
    for (index, number) in (1..).zip(numbers) {
        let value = number.checked_sub(1).and_then(|at| parameters.get(at));
        let value = value.ok_or_else(|| invalid("parameters are written `$1`, `$2`, …".to_owned()))?;
        statement.raw_bind_parameter(index, bound(value, number)?).map_err(|error| failed(&error))?;
    }
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    check_columns(names.iter().map(String::as_str))?;
    let mut gathered = Gathered::new(bounds);
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().map_err(|error| failed(&error))? {
        let at = |index| row.get_ref(index).map_err(|error| failed(&error));
        let mut bytes = 0_usize;
        for (index, name) in names.iter().enumerate() {
            bytes = bytes.saturating_add(name.len()).saturating_add(size_of_cell(at(index)?));
        }
        // Before anything of it is copied.
        gathered.admit(bytes)?;
        let mut members = SqlRow::new();
        for (index, name) in names.iter().enumerate() {
            let value = value_of(at(index)?);
            let value = value.ok_or_else(|| invalid(format!("column `{name}` holds text that is no UTF-8")))?;
            members.insert(name.clone(), value);
        }
        gathered.rows.push(members);
    }
    Ok(gathered.rows)
}

fn bound(value: &Value, number: usize) -> Result<Cell, ExchangeError> {
    Ok(match value {
        Value::Null => Cell::Null,
        Value::Bool(flag) => Cell::Integer(i64::from(*flag)),
        Value::Number(whole) if whole.is_i64() => Cell::Integer(whole.as_i64().unwrap_or_default()),
        Value::Number(real) if real.is_f64() => Cell::Real(real.as_f64().unwrap_or_default()),
        Value::Number(_) => {
            let reason = format!("parameter ${number} is larger than SQLite's integers");
            return Err(ExchangeError::InvalidRequest { reason });
        }
        Value::String(text) => Cell::Text(text.clone()),
        other => Cell::Text(other.to_string()),
    })
}

/// How large the value of a cell is. Unit: bytes.
const fn size_of_cell(cell: ValueRef<'_>) -> usize {
    match cell {
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 8,
        ValueRef::Text(text) => text.len(),
        // In base64.
        ValueRef::Blob(bytes) => bytes.len().div_ceil(3).saturating_mul(4),
    }
}

fn value_of(cell: ValueRef<'_>) -> Option<Value> {
    Some(match cell {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => cell::whole(number),
        ValueRef::Real(number) => cell::float(number),
        ValueRef::Text(text) => Value::String(std::str::from_utf8(text).ok()?.to_owned()),
        ValueRef::Blob(bytes) => Value::String(STANDARD.encode(bytes)),
    })
}

/// Paths of this machine stay out of messages.
fn failed(error: &rusqlite::Error) -> ExchangeError {
    let code = error.sqlite_error_code();
    let reason = match (code, error) {
        (Some(ErrorCode::CannotOpen), _) => "there is no such database file".to_owned(),
        (Some(ErrorCode::TooBig), _) => "a value is larger than this host allows".to_owned(),
        (Some(ErrorCode::DiskFull), _) => {
            "the database file is as large as this host allows, or the disk is full".to_owned()
        }
        (Some(ErrorCode::OperationInterrupted), _) => "the statement took longer than the time allowed".to_owned(),
        (Some(ErrorCode::AuthorizationForStatementDenied), _) => {
            return ExchangeError::Refused { reason: "the statement does more than read and change tables".to_owned() };
        }
        (_, rusqlite::Error::SqliteFailure(_, Some(message))) => message.clone(),
        (_, rusqlite::Error::SqlInputError { msg, .. }) => msg.clone(),
        _ => "the database failed".to_owned(),
    };
    let transient =
        matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::OperationInterrupted));
    let code =
        error.sqlite_error().map_or_else(|| "SQLITE".to_owned(), |error| format!("SQLITE {}", error.extended_code));
    ExchangeError::Rejected { code, reason, transient }
}

const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// So that the tables of a file can be read, which are described in text. Unit: bytes.
const MIN_VALUE_BYTES: i32 = 64 << 10;
/// Unit: bytes.
const MAX_VALUE_BYTES: i32 = 16 << 20;
/// SQLite's own limit.
const MAX_PAGES: i64 = 4_294_967_294;
/// Steps of SQLite's machine between two looks at whether anybody still waits: well under a millisecond.
const PROGRESS_STEPS: i32 = 1_000;
/// Functions that reach files or load code, should the library be built with them.
const FORBIDDEN: [&str; 5] = ["edit", "fts3_tokenizer", "load_extension", "readfile", "writefile"];
