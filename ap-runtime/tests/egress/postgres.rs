//! A real PostgreSQL.

use std::{sync::Arc, time::Duration};

use ap_core::capability::{ExchangeError, SqlClient, SqlStatement};
use ap_runtime::egress::{
    credential::{Place, RunCredentials},
    guard::Guard,
    sql::{RunSql, SqlEgress},
    trust::TrustRoots,
};
use serde_json::{Value, json};
use url::Url;

use super::support::{CANARY, Untouched, closed, loopback, placeholder, plain_loopback, run, run_bound};

/// The value of a variable that `cargo xtask test` sets.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("`{name}` is not set: put `cargo xtask services` before the command"))
}

/// The server of the tests, by a host name or address.
pub(crate) struct Server {
    host: String,
    port: String,
    user: String,
    pub(crate) password: String,
}

impl Server {
    pub(crate) fn of(variable_name: &str) -> Self {
        let url = Url::parse(&variable(variable_name)).expect("a URL");
        Self {
            host: url.host_str().expect("a host").to_owned(),
            port: url.port().expect("a port").to_string(),
            user: url.username().to_owned(),
            password: url.password().expect("a password").to_owned(),
        }
    }

    /// Clear fields of a connection without encryption.
    pub(crate) fn fields(&self) -> [(&str, &str); 5] {
        let (host, port, user) = (self.host.as_str(), self.port.as_str(), self.user.as_str());
        [("host", host), ("port", port), ("database", "postgres"), ("username", user), ("sslmode", "disable")]
    }

    fn credentials(&self, password: &str, more: &[(&str, &str)]) -> Arc<RunCredentials> {
        let clear =
            [("host", self.host.as_str()), ("port", &self.port), ("database", "postgres"), ("username", &self.user)];
        run(&[&clear[..], more].concat(), &[("password", password)])
    }
}

/// Over the plain connection that the test's policy allows.
fn sql() -> RunSql {
    let server = Server::of("AP_TEST_POSTGRES_URL");
    let credentials = server.credentials(&server.password, &[("sslmode", "disable")]);
    SqlEgress::builder(plain_loopback()).build().expect("built").for_run(credentials)
}

fn statement(text: &str, parameters: Value) -> SqlStatement {
    let Value::Array(parameters) = parameters else { panic!("an array") };
    SqlStatement { parameters, ..SqlStatement::new(placeholder(), text) }
}

async fn one(sql: &RunSql, text: &str, parameters: Value) -> Value {
    let rows = sql.query(statement(text, parameters)).await.unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(rows.len(), 1, "{text}");
    Value::Object(rows[0].clone())
}

/// A table that is dropped at the end.
pub(crate) async fn with_table(name: &str, columns: &str, test: impl AsyncFnOnce(&RunSql)) {
    let sql = sql();
    sql.execute(statement(&format!("DROP TABLE IF EXISTS {name}"), json!([]))).await.expect("dropped");
    sql.execute(statement(&format!("CREATE TABLE {name} ({columns})"), json!([]))).await.expect("created");
    test(&sql).await;
    sql.execute(statement(&format!("DROP TABLE {name}"), json!([]))).await.expect("dropped");
}

#[tokio::test]
async fn values_come_and_go_without_loss() {
    let sql = sql();
    for (cast, value, expected) in [
        ("bool", json!(true), json!(true)),
        ("int2", json!(-7), json!(-7)),
        ("int4", json!(2_147_483_647), json!(2_147_483_647)),
        ("int8", json!(9_007_199_254_740_991_i64), json!(9_007_199_254_740_991_i64)),
        ("int8", json!(i64::MAX), json!("9223372036854775807")),
        ("int8", json!("-9223372036854775808"), json!("-9223372036854775808")),
        ("float4", json!(0.1), json!(0.1)),
        ("float8", json!(1.797_693_134_862_315_7e308), json!(1.797_693_134_862_315_7e308)),
        ("float8", json!("NaN"), json!("NaN")),
        ("numeric", json!("12345678901234567890.0987654321000"), json!("12345678901234567890.0987654321000")),
        ("numeric", json!(-0.5), json!("-0.5")),
        ("numeric(30,10)", json!("1e-10"), json!("0.0000000001")),
        ("text", json!("a'\"\\é\n"), json!("a'\"\\é\n")),
        ("varchar(3)", json!("abc"), json!("abc")),
        ("uuid", json!("018f3c1a-0000-7000-8000-0123456789ab"), json!("018f3c1a-0000-7000-8000-0123456789ab")),
        ("bytea", json!("AAECAwT/"), json!("AAECAwT/")),
        ("json", json!({ "a": [1, null, "x"] }), json!({ "a": [1, null, "x"] })),
        ("jsonb", json!(["a", { "b": 1.5 }]), json!(["a", { "b": 1.5 }])),
        ("jsonb", json!("text"), json!("text")),
        ("timestamptz", json!("2026-01-02T03:04:05.678901+02:00"), json!("2026-01-02T01:04:05.678901Z")),
        ("timestamptz", json!("infinity"), json!("infinity")),
        ("timestamp", json!("2026-01-02T03:04:05"), json!("2026-01-02T03:04:05")),
        ("date", json!("2024-02-29"), json!("2024-02-29")),
        ("time", json!("23:59:59.5"), json!("23:59:59.5")),
        ("timetz", json!("01:02:03+05:30"), json!("01:02:03+05:30")),
        ("interval", json!("P1Y2M3DT4H5M6.7S"), json!("P1Y2M3DT4H5M6.7S")),
        ("inet", json!("10.0.0.1/8"), json!("10.0.0.1/8")),
        ("cidr", json!("2001:db8::/32"), json!("2001:db8::/32")),
        ("int4[]", json!([[1, 2], [3, null]]), json!([[1, 2], [3, null]])),
        ("text[]", json!(["a\"b", "{c,d}", "NULL", null, ""]), json!(["a\"b", "{c,d}", "NULL", null, ""])),
        ("uuid[]", json!([]), json!([])),
        ("numeric[]", json!(["1.50", 2]), json!(["1.50", "2"])),
        ("jsonb[]", json!([{ "a": 1 }, [2]]), json!([{ "a": 1 }, [2]])),
        ("text", json!(null), json!(null)),
    ] {
        let row = one(&sql, &format!("SELECT $1::{cast} AS v"), json!([value])).await;
        assert_eq!(row, json!({ "v": expected }), "{cast}");
    }
    let odd = sql.query(statement("SELECT point(1, 2) AS p", json!([]))).await.expect_err("no form in JSON");
    assert!(odd.to_string().contains("`p::text`"), "{odd}");
    let rounded = sql.query(statement("SELECT '{\"n\": 12345678901234567890}'::jsonb AS j", json!([]))).await;
    assert!(matches!(rounded, Err(ExchangeError::InvalidRequest { .. })), "{rounded:?}");
}

#[tokio::test]
async fn types_of_the_user_have_forms() {
    let sql = sql();
    for text in ["DROP DOMAIN IF EXISTS egress_small", "DROP TYPE IF EXISTS egress_mood"] {
        sql.execute(statement(text, json!([]))).await.expect("dropped");
    }
    sql.execute(statement("CREATE TYPE egress_mood AS ENUM ('fine', 'odd')", json!([]))).await.expect("created");
    sql.execute(statement("CREATE DOMAIN egress_small AS int CHECK (VALUE < 10)", json!([]))).await.expect("created");
    let row = one(
        &sql,
        "SELECT $1::egress_mood AS m, $2::egress_small AS s, $3::egress_mood[] AS l",
        json!(["odd", 3, ["fine"]]),
    );
    assert_eq!(row.await, json!({ "m": "odd", "s": 3, "l": ["fine"] }));
    for text in ["DROP DOMAIN egress_small", "DROP TYPE egress_mood"] {
        sql.execute(statement(text, json!([]))).await.expect("dropped");
    }
}

#[tokio::test]
async fn parameters_are_bound_and_never_text() {
    with_table("egress_bound", "id int PRIMARY KEY, v text", async |sql| {
        let evil = "'); DROP TABLE egress_bound; --";
        let insert = "INSERT INTO egress_bound VALUES ($1, $2), ($3, $4) RETURNING id, v";
        let done = sql.execute(statement(insert, json!([1, evil, 2, null]))).await.expect("inserted");
        assert_eq!(done.affected, 2);
        assert_eq!(Value::Object(done.rows[0].clone()), json!({ "id": 1, "v": evil }));
        let ids = statement("UPDATE egress_bound SET v = 'x' WHERE id = ANY($1)", json!([[1, 2, 3]]));
        assert_eq!(sql.execute(ids).await.expect("updated").affected, 2);
        for (text, parameters) in [
            ("SELECT 1 AS a; SELECT 2 AS b", json!([])),
            ("SELECT $1::int AS a", json!([])),
            ("SELECT $1::int AS a", json!([1, 2])),
            ("SELECT $1::int AS a", json!(["x"])),
            ("SELECT 1 AS a, 2 AS a", json!([])),
            ("COPY egress_bound TO STDOUT", json!([])),
            ("/* */ CoMmIt", json!([])),
        ] {
            assert!(sql.query(statement(text, parameters)).await.is_err(), "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_query_cannot_write() {
    with_table("egress_read", "id serial", async |sql| {
        for text in [
            "INSERT INTO egress_read DEFAULT VALUES RETURNING id",
            "WITH gone AS (DELETE FROM egress_read RETURNING id) SELECT * FROM gone",
            "SELECT nextval('egress_read_id_seq') AS n",
        ] {
            let refused = sql.query(statement(text, json!([]))).await.expect_err(text);
            assert!(matches!(&refused, ExchangeError::Rejected { code, .. } if code == "25006"), "{refused:?}");
        }
        // Nor where the host says so for all.
        let server = Server::of("AP_TEST_POSTGRES_URL");
        let reader = SqlEgress::builder(plain_loopback()).read_only().build().expect("built");
        let reader = reader.for_run(server.credentials(&server.password, &[("sslmode", "disable")]));
        let refused = reader.execute(statement("DELETE FROM egress_read", json!([]))).await;
        assert!(matches!(refused, Err(ExchangeError::Refused { .. })), "{refused:?}");
    })
    .await;
}

#[tokio::test]
async fn what_breaks_off_before_its_end_changes_nothing() {
    with_table("egress_cut", "id int", async |sql| {
        let cut = "WITH a AS (INSERT INTO egress_cut VALUES (1) RETURNING id) SELECT pg_terminate_backend(pg_backend_pid()) AS t FROM a";
        let broken = sql.execute(statement(cut, json!([]))).await.expect_err("cut");
        assert!(
            matches!(&broken, ExchangeError::Unreachable { .. })
                || matches!(&broken, ExchangeError::Rejected { transient: true, .. }),
            "{broken:?}"
        );
        let slow = "WITH a AS (INSERT INTO egress_cut VALUES (2) RETURNING id) SELECT pg_sleep(30) FROM a";
        let slow = SqlStatement { timeout: Duration::from_secs(3), ..statement(slow, json!([])) };
        let stopped = sql.execute(slow).await.expect_err("stopped");
        assert!(matches!(&stopped, ExchangeError::Rejected { code, transient: true, .. } if code == "57014"), "{stopped:?}");
        assert_eq!(one(sql, "SELECT count(*) AS c FROM egress_cut", json!([])).await, json!({ "c": 0 }));
    })
    .await;
}

#[tokio::test]
async fn results_are_limited_one_below_at_and_above() {
    let sql = sql();
    let ten = statement("SELECT i FROM generate_series(1, 10) AS s(i)", json!([]));
    for (max_rows, fits) in [(9, false), (10, true), (11, true)] {
        let read = sql.query(SqlStatement { max_rows, ..ten.clone() }).await;
        assert_eq!(read.map(|rows| rows.len()).ok(), fits.then_some(10), "{max_rows}");
    }
    let server = Server::of("AP_TEST_POSTGRES_URL");
    for (bytes, fits) in [(100, false), (101, true), (102, true)] {
        let egress = SqlEgress::builder(plain_loopback()).with_max_result_bytes(bytes).build().expect("built");
        let sql = egress.for_run(server.credentials(&server.password, &[("sslmode", "disable")]));
        // The name of the column counts too.
        let read = sql.query(statement("SELECT repeat('x', 100) AS v", json!([]))).await;
        assert_eq!(read.is_ok(), fits, "{bytes}: {read:?}");
    }
    // So large that it is not read to its end.
    let roots = TrustRoots::default().with_pem(std::fs::read(variable("AP_TEST_POSTGRES_CA")).expect("a file"));
    for (text, encrypted) in
        [("repeat('x', 200000)", false), ("repeat('x', 200000)", true), ("repeat('x', 66000)", true)]
    {
        let variable = if encrypted { "AP_TEST_POSTGRES_TLS_URL" } else { "AP_TEST_POSTGRES_URL" };
        let server = Server::of(variable);
        let builder = SqlEgress::builder(plain_loopback()).with_max_result_bytes(100).with_trust_roots(roots.clone());
        let more: &[(&str, &str)] = if encrypted { &[] } else { &[("sslmode", "disable")] };
        let sql = builder.build().expect("built").for_run(server.credentials(&server.password, more));
        let refused = sql.query(statement(&format!("SELECT {text} AS v"), json!([]))).await;
        assert_eq!(refused.err(), Some(ExchangeError::TooLarge { what: "the result in bytes", limit: 100 }), "{text}");
    }
}

#[tokio::test]
async fn credentials_do_not_come_back() {
    let server = Server::of("AP_TEST_POSTGRES_URL");
    let egress = SqlEgress::builder(plain_loopback()).build().expect("built");
    let more = [("sslmode", "disable")];
    let sql = egress.for_run(server.credentials(&server.password, &more));
    let echoed = one(
        &sql,
        "SELECT $1 AS text, encode(convert_to($1, 'UTF8'), 'hex') AS hex, jsonb_build_object($1, $1) AS j, ARRAY[$1] AS a",
        json!([server.password]),
    );
    let echoed = echoed.await.to_string();
    assert!(!echoed.contains(&server.password) && echoed.contains("‹redacted:peer›"), "{echoed}");
    for text in ["SELECT $1::text::int AS a", "SELECT 1 AS a WHERE $1::text::boolean"] {
        let error = sql.query(statement(text, json!([server.password]))).await.expect_err(text).to_string();
        assert!(!error.contains(&server.password) && error.contains("‹redacted:peer›"), "{error}");
    }
    let uses = sql.take_uses();
    assert!(uses.iter().all(|used| used.name == "peer"
        && used.place == Place::Login
        && used.origin.as_str().starts_with("postgres://")));
    assert_eq!(uses.len(), 3);
    // A password that is wrong is not shown either.
    let wrong = egress.for_run(server.credentials(CANARY, &more));
    let refused = wrong.query(statement("SELECT 1 AS a", json!([]))).await.expect_err("refused");
    assert!(matches!(refused, ExchangeError::Credential { .. }) && !refused.to_string().contains(CANARY), "{refused}");
    // Placeholders go nowhere.
    for misplaced in [
        statement(&format!("SELECT '{}' AS a", placeholder()), json!([])),
        statement("SELECT $1 AS a", json!([{ "x": placeholder() }])),
    ] {
        let refused = sql.query(misplaced).await;
        assert!(matches!(refused, Err(ExchangeError::Credential { .. })), "{refused:?}");
    }
    let unknown = sql.query(SqlStatement::new("apcred_none", "SELECT 1 AS a")).await;
    assert!(matches!(unknown, Err(ExchangeError::Credential { .. })), "{unknown:?}");
}

#[tokio::test]
async fn the_server_is_who_its_certificate_says() {
    let (named, unnamed) = (Server::of("AP_TEST_POSTGRES_TLS_URL"), Server::of("AP_TEST_POSTGRES_URL"));
    let roots = |name: &str| TrustRoots::default().with_pem(std::fs::read(variable(name)).expect("a file"));
    let (own, other) = (roots("AP_TEST_POSTGRES_CA"), roots("AP_TEST_POSTGRES_OTHER_CA"));
    let ask = async |server: &Server, guard: Guard, roots: TrustRoots, mode: &[(&str, &str)]| {
        let sql = SqlEgress::builder(guard).with_trust_roots(roots).build().expect("built");
        let sql = sql.for_run(server.credentials(&server.password, mode));
        sql.query(statement("SELECT ssl AS s FROM pg_stat_ssl WHERE pid = pg_backend_pid()", json!([]))).await
    };
    let rows = ask(&named, loopback(), own.clone(), &[]).await.expect("the right name and authority");
    assert_eq!(rows[0]["s"], json!(true));
    for (server, roots) in [(&named, other), (&named, TrustRoots::default()), (&unnamed, own.clone())] {
        let refused = ask(server, loopback(), roots, &[]).await;
        assert!(
            matches!(&refused, Err(ExchangeError::Unreachable { reason }) if reason.contains("TLS")),
            "{refused:?}"
        );
    }
    // Without encryption only where the host says so.
    let plain = [("sslmode", "disable")];
    let refused = ask(&unnamed, loopback(), own.clone(), &plain).await;
    assert!(matches!(refused, Err(ExchangeError::Credential { .. })), "{refused:?}");
    assert!(ask(&unnamed, plain_loopback(), own.clone(), &plain).await.is_ok());
    let weaker = ask(&named, loopback(), own, &[("sslmode", "require")]).await;
    assert!(matches!(weaker, Err(ExchangeError::Credential { .. })), "{weaker:?}");
}

#[tokio::test]
async fn refused_servers_get_no_packet() {
    let peer = Untouched::start().await;
    let port = peer.port.to_string();
    let fields =
        |host| [("host", host), ("port", port.as_str()), ("database", "x"), ("username", "u"), ("sslmode", "disable")];
    let ask = async |guard: Guard, credentials| {
        let sql = SqlEgress::builder(guard).build().expect("built").for_run(credentials);
        sql.query(statement("SELECT 1 AS a", json!([]))).await.expect_err("refused")
    };
    for host in ["127.0.0.1", "localhost", "::ffff:127.0.0.1", "127.1", "0x7f000001"] {
        let refused = ask(closed(), run(&fields(host), &[("password", CANARY)])).await;
        assert!(matches!(refused, ExchangeError::Refused { .. }), "{host}: {refused:?}");
    }
    // A connection that is bound elsewhere.
    let elsewhere = run_bound(&fields("127.0.0.1"), &[("password", CANARY)], vec![], &["postgres://db.example"]);
    let refused = ask(plain_loopback(), elsewhere).await;
    assert!(matches!(&refused, ExchangeError::Credential { reason } if reason.contains("not bound")), "{refused:?}");
    let http = run_bound(&fields("127.0.0.1"), &[("password", CANARY)], vec![], &[&format!("http://127.0.0.1:{port}")]);
    assert!(matches!(ask(plain_loopback(), http).await, ExchangeError::Credential { .. }));
    peer.check().await;
}
