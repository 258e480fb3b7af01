//! Stored runs: copies of a run that has ended, with ids and times of their own, until there are enough.

use std::path::Path;

use anyhow::{Context, Result};
use ap_core::scope::Scope;
use rusqlite::Connection;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row};

use crate::world::Tenant;

/// Brings a closed SQLite database to `stored` runs.
///
/// # Errors
/// If it cannot be written.
pub fn sqlite(database: &Path, tenants: &[Tenant], stored: usize) -> Result<()> {
    let connection = Connection::open(database)?;
    let there: i64 = connection.query_row("SELECT count(*) FROM ap_runs", (), |row| row.get(0))?;
    let missing = stored.saturating_sub(usize::try_from(there)?);
    let share = missing.div_ceil(tenants.len().max(1));
    if share == 0 {
        return Ok(());
    }
    // Nothing is measured here, and a crash only means starting again.
    connection.execute_batch(
        "PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -262144; \
         CREATE TEMP TABLE seed (n INTEGER PRIMARY KEY, id BLOB NOT NULL, at INTEGER NOT NULL)",
    )?;
    let columns = |table: &str| -> Result<Vec<String>> {
        let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?)")?;
        let names = statement.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>();
        // A run's number is given to it.
        Ok(names?.into_iter().filter(|name| name != "number").collect())
    };
    let mut copies: Vec<String> = copies(&columns("ap_runs")?, &columns("ap_journal")?, &columns("ap_audit")?)
        .map(|(table, columns, values, condition)| {
            format!("INSERT INTO {table} ({columns}) SELECT {values} FROM {table} AS t CROSS JOIN seed AS s WHERE {condition} ORDER BY s.n")
        })
        .to_vec();
    if let [_, journal, audit] = copies.as_mut_slice() {
        JOURNAL.clone_into(journal);
        AUDIT.clone_into(audit);
    }
    for (number, tenant) in tenants.iter().enumerate() {
        let transaction = connection.unchecked_transaction()?;
        connection.execute("DELETE FROM seed", ())?;
        {
            let mut insert = connection.prepare("INSERT INTO seed (n, id, at) VALUES (?, ?, ?)")?;
            let first: i64 = connection.query_row("SELECT min(created) FROM ap_runs", (), |row| row.get(0))?;
            for n in 0..share {
                let (id, at) = identity(number, n, share, first);
                insert.execute((i64::try_from(n)?, id, at))?;
            }
        }
        let template: Vec<u8> = connection
            .query_row(
                "SELECT id FROM ap_runs WHERE project = ? AND finished IS NOT NULL ORDER BY id DESC LIMIT 1",
                [&tenant.project],
                |row| row.get(0),
            )
            .context("a tenant has no run that has ended")?;
        let scope = scope(tenant)?;
        let audit: Vec<u8> = connection.query_row(
            "SELECT key.id FROM ap_audit_ids AS key JOIN ap_audit AS record ON record.number = key.number \
             WHERE key.scope = ? AND record.action = 'run.start' LIMIT 1",
            [&scope],
            |row| row.get(0),
        )?;
        let keys = [(&tenant.project, &template), (&tenant.project, &template), (&scope, &audit)];
        let behind: i64 = connection.query_row("SELECT max(number) FROM ap_audit", (), |row| row.get(0))?;
        for (sql, key) in copies.iter().zip(keys) {
            connection.execute(sql, key)?;
        }
        let ids = "INSERT INTO ap_audit_ids (scope, id, number) SELECT ?1, s.id, ?2 + 1 + s.n FROM seed AS s";
        connection.execute(ids, (&scope, behind))?;
        transaction.commit()?;
    }
    connection.execute_batch("ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(())
}

/// Brings a schema of PostgreSQL to `stored` runs.
///
/// # Errors
/// If it cannot be written.
pub async fn postgres(url: &str, schema: &str, tenants: &[Tenant], stored: usize) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    let setup = format!("SET search_path = {schema}; SET synchronous_commit = off");
    sqlx::raw_sql(AssertSqlSafe(setup)).execute(&mut connection).await?;
    let there: i64 = sqlx::query("SELECT count(*) FROM ap_runs").fetch_one(&mut connection).await?.try_get(0)?;
    let missing = stored.saturating_sub(usize::try_from(there)?);
    let share = missing.div_ceil(tenants.len().max(1));
    let mut columns = Vec::new();
    for table in ["ap_runs", "ap_journal", "ap_audit"] {
        let sql =
            "SELECT column_name::text FROM information_schema.columns WHERE table_schema = $1 AND table_name = $2";
        let rows = sqlx::query(sql).bind(schema).bind(table).fetch_all(&mut connection).await?;
        columns.push(rows.iter().map(|row| row.try_get(0)).collect::<sqlx::Result<Vec<String>>>()?);
    }
    let [runs, journal, audit] = &columns[..] else { anyhow::bail!("tables are missing") };
    let first: i64 = sqlx::query("SELECT min(created) FROM ap_runs").fetch_one(&mut connection).await?.try_get(0)?;
    let salt: i64 = there;
    for (number, tenant) in tenants.iter().enumerate().filter(|_| share > 0) {
        let ids = format!(
            "(SELECT n, {first} - {AGE} + n * {AGE} / {share} AS at, \
             (lpad(to_hex(({first} - {AGE} + n * {AGE} / {share}) / 1000), 12, '0') || '7' || \
             substr(md5(n || '-{number}-{salt}'), 1, 3) || '8' || substr(md5(n || '-{number}-{salt}'), 4, 15))::uuid AS id \
             FROM generate_series(0, {share} - 1) AS n) AS s"
        );
        let scope = scope(tenant)?;
        let template =
            "(SELECT id FROM ap_runs WHERE project = encode($1, 'hex')::uuid AND finished IS NOT NULL LIMIT 1)";
        let started = "(SELECT id FROM ap_audit WHERE scope = $1 AND action = 'run.start' LIMIT 1)";
        for (table, names, values, condition) in copies(runs, journal, audit) {
            let (key, owner, id) = match table {
                "ap_audit" => (&scope, "$1", started),
                _ => (&tenant.project, "encode($1, 'hex')::uuid", template),
            };
            let condition = condition.replace("?1", owner).replace("?2", id);
            let sql =
                format!("INSERT INTO {table} ({names}) SELECT {values} FROM {ids}, {table} AS t WHERE {condition}");
            sqlx::query(AssertSqlSafe(sql)).bind(key).execute(&mut connection).await?;
        }
    }
    for statement in ["VACUUM ANALYZE ap_runs, ap_journal, ap_audit", "CHECKPOINT"] {
        sqlx::raw_sql(statement).execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}

/// For each table that a run writes to: its name, its columns, where the copy's values come from, and which row is copied; `?1` is the project, `?2` the id of the row.
fn copies(runs: &[String], journal: &[String], audit: &[String]) -> [(&'static str, String, String, &'static str); 3] {
    let values = |columns: &[String], id: &str| {
        let value = |column: &String| match column.as_str() {
            column if column == id => "s.id".to_owned(),
            "created" | "finished" | "at" => "s.at".to_owned(),
            column => format!("t.{column}"),
        };
        columns.iter().map(value).collect::<Vec<_>>().join(", ")
    };
    [
        ("ap_runs", runs.join(", "), values(runs, "id"), "t.project = ?1 AND t.id = ?2"),
        ("ap_journal", journal.join(", "), values(journal, "run"), "t.project = ?1 AND t.run = ?2"),
        ("ap_audit", audit.join(", "), values(audit, "id"), "t.scope = ?1 AND t.id = ?2"),
    ]
}

/// A tenant's scope, as the audit trail has it.
fn scope(tenant: &Tenant) -> Result<Vec<u8>> {
    Ok(Scope::Project(tenant.id()?).to_bytes().to_vec())
}

/// An id as if it were made at its time, and the time: evenly over the days before `first`.
fn identity(tenant: usize, n: usize, share: usize, first: i64) -> (Vec<u8>, i64) {
    let at = first - AGE + (n as i64) * (AGE / (share as i64).max(1));
    let mut id = (at / 1_000).to_be_bytes().get(2..).unwrap_or_default().to_vec();
    // Not random, but as spread as if it were.
    let spread = ((tenant as u64) << 32 | n as u64).wrapping_add(first as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    id.extend([0x70, tenant as u8, 0x80, 0]);
    id.extend((spread ^ spread >> 29).to_be_bytes().get(..6).unwrap_or_default());
    (id, at)
}

/// Copies of a journal in SQLite: it knows runs by number.
const JOURNAL: &str = "INSERT INTO ap_journal (run, seq, sealed) SELECT run.number, entry.seq, entry.sealed FROM seed AS s \
    CROSS JOIN ap_runs AS run ON run.project = ?1 AND run.id = s.id \
    CROSS JOIN ap_journal AS entry ON entry.run = (SELECT number FROM ap_runs WHERE project = ?1 AND id = ?2) ORDER BY s.n, entry.seq";
/// Copies of an audit record in SQLite, behind those that are there; whose they are is told elsewhere.
const AUDIT: &str = "INSERT INTO ap_audit (at, action, outcome, sealed) \
    SELECT s.at, t.action, t.outcome, t.sealed FROM seed AS s CROSS JOIN ap_audit AS t \
    ON t.number = (SELECT number FROM ap_audit_ids WHERE scope = ?1 AND id = ?2) ORDER BY s.n";
/// How far back stored runs go, in microseconds: thirty days.
const AGE: i64 = 30 * 86_400_000_000;
