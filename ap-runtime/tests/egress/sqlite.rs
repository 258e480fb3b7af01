//! SQLite files.

use std::time::Duration;

use ap_core::capability::{ExchangeError, SqlClient, SqlStatement};
use ap_runtime::egress::sql::{RunSql, SqlEgress};
use serde_json::{Value, json};

use super::support::{closed, placeholder, run};

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let made = rusqlite::Connection::open(directory.path().join("a.db")).expect("a file");
        made.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v)").expect("a table");
        Self(directory)
    }

    fn sql(&self, file: &str) -> RunSql {
        let egress = SqlEgress::builder(closed()).with_sqlite_directory(self.0.path()).build().expect("built");
        egress.for_run(run(&[("file", file)], &[]))
    }
}

fn statement(text: &str, parameters: Value) -> SqlStatement {
    let Value::Array(parameters) = parameters else { panic!("an array") };
    SqlStatement { parameters, ..SqlStatement::new(placeholder(), text) }
}

#[tokio::test]
async fn statements_read_and_write_with_bound_parameters() {
    let directory = Directory::new();
    let sql = directory.sql("a.db");
    let values = json!([null, true, 7, 1.5, "a'; DROP TABLE t; --", [1], { "a": 1 }, 9_007_199_254_740_993_i64]);
    for (index, value) in values.as_array().expect("an array").iter().enumerate() {
        let insert = statement("INSERT INTO t VALUES ($1, $2) RETURNING id", json!([index, value]));
        let done = sql.execute(insert).await.expect("inserted");
        assert_eq!((done.affected, done.rows.len()), (1, 1));
    }
    let rows = sql.query(statement("SELECT v FROM t ORDER BY id", json!([]))).await.expect("read");
    let found: Vec<_> = rows.into_iter().map(|row| row["v"].clone()).collect();
    let expected = json!([null, 1, 7, 1.5, "a'; DROP TABLE t; --", "[1]", "{\"a\":1}", "9007199254740993"]);
    assert_eq!(Value::Array(found), expected);
    let done = sql.execute(statement("UPDATE t SET v = $2 WHERE id >= $1", json!([6, "x"]))).await.expect("updated");
    assert_eq!((done.affected, done.rows.len()), (2, 0));
    let blob = sql.query(statement("SELECT x'00ff' AS b, 9e999 AS f", json!([]))).await.expect("read");
    assert_eq!(Value::Object(blob[0].clone()), json!({ "b": "AP8=", "f": "Infinity" }));
    assert!(sql.take_uses().is_empty(), "there is no credential");
}

#[tokio::test]
async fn nothing_but_tables_is_reached() {
    let directory = Directory::new();
    let sql = directory.sql("a.db");
    for text in [
        "ATTACH 'b.db' AS b",
        "/**/ PRAGMA writable_schema = 1",
        "SELECT * FROM pragma_database_list",
        "SELECT load_extension('x')",
        "COMMIT",
        "VACUUM INTO 'b.db'",
        "CREATE VIRTUAL TABLE v USING fts5(a)",
        "SELECT 1; SELECT 2",
        "INSERT INTO sqlite_schema VALUES (1, 2, 3, 4, 5)",
        "SELECT 1 AS a, 2 AS a",
        "",
    ] {
        let refused = sql.execute(statement(text, json!([]))).await.expect_err(text);
        let refused = refused.to_string();
        assert!(!refused.contains(directory.0.path().to_str().expect("UTF-8")), "{refused}");
    }
    assert!(!directory.0.path().join("b.db").exists());
    let written = sql.query(statement("DELETE FROM t", json!([]))).await;
    assert!(matches!(written, Err(ExchangeError::Rejected { .. })), "{written:?}");
    for parameters in [json!([]), json!([1, 2]), json!([18_446_744_073_709_551_615_u64])] {
        let wrong = sql.query(statement("SELECT $1 AS a", parameters)).await;
        assert!(matches!(wrong, Err(ExchangeError::InvalidRequest { .. })), "{wrong:?}");
    }
}

#[tokio::test]
async fn files_outside_the_directory_are_refused() {
    let directory = Directory::new();
    let outside = directory.0.path().join("a.db");
    std::fs::create_dir(directory.0.path().join("inner")).expect("a directory");
    #[cfg(unix)]
    std::os::unix::fs::symlink(&outside, directory.0.path().join("inner/link.db")).expect("a link");
    let inner =
        SqlEgress::builder(closed()).with_sqlite_directory(directory.0.path().join("inner")).build().expect("built");
    for file in ["../a.db", "/etc/passwd", "", ".hidden", "link.db", "none.db", "file:a.db?mode=ro", "a b", "é"] {
        let fields = if file.is_empty() { [("file", " ")] } else { [("file", file)] };
        let sql = inner.for_run(run(&fields, &[]));
        assert!(sql.query(statement("SELECT 1 AS a", json!([]))).await.is_err(), "{file}");
    }
    let none = SqlEgress::builder(closed()).build().expect("built").for_run(run(&[("file", "a.db")], &[]));
    let refused = none.query(statement("SELECT 1 AS a", json!([]))).await;
    assert!(matches!(refused, Err(ExchangeError::Refused { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_statement_that_does_not_end_is_stopped() {
    let directory = Directory::new();
    let sql = directory.sql("a.db");
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS c FROM n";
    let limit = Duration::from_millis(50);
    let stopped = sql.query(SqlStatement { timeout: limit, ..statement(endless, json!([])) }).await;
    assert_eq!(stopped.err(), Some(ExchangeError::Timeout { limit }));
    // The thread that carried it out is free again: the file can be written.
    sql.execute(statement("INSERT INTO t VALUES (1, 1)", json!([]))).await.expect("written");
}

#[tokio::test]
async fn rows_are_limited_one_below_at_and_above() {
    let directory = Directory::new();
    let sql = directory.sql("a.db");
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10) SELECT i FROM n";
    for (max_rows, fits) in [(9, false), (10, true), (11, true)] {
        let read = sql.query(SqlStatement { max_rows, ..statement(rows, json!([])) }).await;
        match read {
            Ok(rows) => assert!(fits && rows.len() == 10),
            Err(error) => {
                assert_eq!(error, ExchangeError::TooLarge { what: "the number of rows", limit: 9 });
                assert!(!fits);
            }
        }
    }
}

#[tokio::test]
async fn values_are_limited_before_they_are_made() {
    let directory = Directory::new();
    let egress = SqlEgress::builder(closed()).with_sqlite_directory(directory.0.path()).with_max_result_bytes(100_000);
    let sql = egress.build().expect("built").for_run(run(&[("file", "a.db")], &[]));
    // The name of the column counts.
    for (text, fits) in [
        ("SELECT printf('%.*c', 99998, 'x') AS v", true),
        ("SELECT printf('%.*c', 99999, 'x') AS v", true),
        ("SELECT printf('%.*c', 100000, 'x') AS v", false),
        // In base64 it is a third larger.
        ("SELECT zeroblob(74997) AS v", true),
        ("SELECT zeroblob(75000) AS v", false),
    ] {
        let read = sql.query(statement(text, json!([]))).await;
        match read {
            Ok(_) => assert!(fits, "{text}"),
            Err(error) => {
                let counted = error == ExchangeError::TooLarge { what: "the result in bytes", limit: 100_000 };
                assert!(counted || error.to_string().contains("larger than this host allows"), "{text}: {error}");
                assert!(!fits, "{text}");
            }
        }
    }
    // Larger than a result may be: SQLite itself does not make it.
    for text in ["SELECT length(printf('%.*c', 100001, 'x')) AS v", "SELECT length(hex(zeroblob(60000))) AS v"] {
        let refused = sql.query(statement(text, json!([]))).await.expect_err(text);
        assert!(refused.to_string().contains("larger than this host allows"), "{refused}");
    }
    // What is written is bounded as well, by how large the file may become.
    let egress = SqlEgress::builder(closed()).with_sqlite_directory(directory.0.path());
    let egress = egress.with_max_sqlite_file_bytes(64 << 10).build().expect("built");
    let sql = egress.for_run(run(&[("file", "a.db")], &[]));
    let insert = |bytes: u32| statement("INSERT INTO t (v) VALUES (zeroblob($1))", json!([bytes]));
    sql.execute(insert(30_000)).await.expect("written");
    let refused = sql.execute(insert(40_000)).await.expect_err("too much");
    assert!(refused.to_string().contains("as large as this host allows"), "{refused}");
    assert!(std::fs::metadata(directory.0.path().join("a.db")).expect("a file").len() <= 64 << 10);
    sql.execute(insert(1)).await.expect("written");
    let temporary = sql.execute(statement("CREATE TEMP TABLE x AS SELECT 1 AS a", json!([]))).await;
    assert!(matches!(temporary, Err(ExchangeError::Refused { .. })), "{temporary:?}");
}
