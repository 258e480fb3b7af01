//! What the rows of runs weigh.

use std::path::Path;

use anyhow::Result;
use rusqlite::{Connection, OpenFlags};

use crate::flows::Flow;

/// Bytes of the rows that each commit of a run writes, on average, in a database where all runs that ended are of this flow.
/// Ids and hashes are counted at their length, numbers at eight bytes.
///
/// # Errors
/// If the database cannot be read, or there is no such run.
pub fn row_bytes(database: &Path, flow: Flow) -> Result<Vec<usize>> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let average = |sql: &str, arguments: &[i64]| -> Result<f64> {
        Ok(connection.query_row(sql, rusqlite::params_from_iter(arguments), |row| row.get(0))?)
    };
    let run = average("SELECT avg(16 * 4 + length(status) + 8 * 8) FROM ap_runs WHERE finished IS NOT NULL", &[])?;
    let audit = average(
        "SELECT avg(17 + 16 + 8 + length(action) + length(outcome) + length(sealed)) FROM ap_audit \
         WHERE action = 'run.start'",
        &[],
    )?;
    let last = i64::try_from(flow.commits())? - 1;
    let mut rows = Vec::new();
    for seq in 0..=last {
        // A run has as many entries as commits.
        let entry = average(
            "SELECT avg(16 * 2 + 8 + length(sealed)) FROM ap_journal AS entry WHERE seq = ?1 AND \
             (SELECT max(seq) FROM ap_journal AS other WHERE other.run = entry.run) = ?2",
            &[seq, last],
        )?;
        let also = match seq {
            0 => run + audit,
            _ if seq == last => run,
            _ => 0.0,
        };
        rows.push((entry + also).round() as usize);
    }
    Ok(rows)
}
