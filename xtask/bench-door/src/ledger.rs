//! Reading the engine's database from outside: what runs weigh, and whether every acknowledged one is there.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Result, ensure};
use ap_core::id::RunId;
use rusqlite::{Connection, OpenFlags};

/// Bytes of the rows that the two commits of a run write, on average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowBytes {
    /// Run, first journal entry, audit record.
    pub(crate) accept: usize,
    /// Last journal entry, and the run's row again.
    pub(crate) end: usize,
}

/// Measures the rows of the runs that are there.
pub(crate) fn row_bytes(database: &Path) -> Result<RowBytes> {
    let bytes = |average: f64| average.round() as usize;
    let measured = open(database)?.query_row(ROW_BYTES, (), |row| {
        let (run, first, last, audit) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        Ok((bytes(run), bytes(first), bytes(last), bytes(audit)))
    });
    let (run, first, last, audit) = measured?;
    Ok(RowBytes { accept: run + first + audit, end: run + last })
}

/// What the database says about the runs that were acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    /// Runs in the database.
    pub(crate) stored: usize,
    /// Acknowledged runs that are not there, did not succeed, or lack a journal entry or the audit record.
    pub(crate) missing: usize,
}

/// Compares the database, as a crash left it, with what was acknowledged.
pub(crate) fn audit(database: &Path, acknowledged: &[RunId]) -> Result<Audit> {
    let connection = open(database)?;
    let mut whole = BTreeSet::new();
    let mut stored = 0;
    let mut statement = connection.prepare(RUNS)?;
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        stored += 1;
        let (id, status, entries): (Vec<u8>, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if status == "SUCCEEDED" && entries == 2 {
            whole.insert(RunId::from_slice(&id)?);
        }
    }
    let sql = "SELECT count(*) FROM ap_audit WHERE action = 'run.start'";
    let audited: i64 = connection.query_row(sql, (), |row| row.get(0))?;
    ensure!(audited == i64::try_from(stored)?, "{stored} runs have {audited} audit records");
    let unique: BTreeSet<&RunId> = acknowledged.iter().collect();
    ensure!(unique.len() == acknowledged.len(), "two answers named the same run");
    let missing = unique.into_iter().filter(|run| !whole.contains(run)).count();
    Ok(Audit { stored, missing })
}

fn open(database: &Path) -> Result<Connection> {
    // It may have to take over what a crash left in the log.
    Ok(Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE)?)
}

/// Ids and hashes are counted at their length, numbers at eight bytes.
const ROW_BYTES: &str = "SELECT \
    (SELECT avg(16 * 4 + length(status) + 8 * 4) FROM ap_runs) AS run, \
    (SELECT avg(16 * 2 + 8 + length(sealed)) FROM ap_journal WHERE seq = 0) AS first, \
    (SELECT avg(16 * 2 + 8 + length(sealed)) FROM ap_journal WHERE seq = 1) AS last, \
    (SELECT avg(17 + 16 + 8 + length(action) + length(outcome) + length(sealed)) \
        FROM ap_audit WHERE action = 'run.start') AS audit";
const RUNS: &str = "SELECT run.id, run.status, \
    (SELECT count(*) FROM ap_journal AS entry WHERE entry.run = run.number) \
    FROM ap_runs AS run";
