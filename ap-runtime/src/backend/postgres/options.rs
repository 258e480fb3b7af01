//! [`PostgresOptions`]: where the database is and how to use it.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::{
    error::PostgresOpenError,
    link::{Connector, Timeouts},
};
use crate::clock::Clock;

/// How the server proves who it is, and whether others can read along.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostgresTls {
    /// Encrypts, and takes any server. Somebody between the two can pose as it.
    Require,
    /// Encrypts, and checks who signed the server's certificate, but not for which host.
    VerifyCa,
    /// Encrypts, and checks who signed the server's certificate and for which host.
    VerifyFull,
}

/// Where the database is, and how to use it.
///
/// # Security
/// TLS is `VerifyFull` unless the host is this machine (`localhost`, a loopback address or a Unix socket), where there is none.
/// Going without it elsewhere is spelled [`dangerous`](Self::dangerous). Certificates of public authorities are trusted, and
/// those of [`root_certificate`](Self::root_certificate).
///
/// # Examples
/// ```
/// use ap_runtime::backend::postgres::PostgresOptions;
///
/// let options = PostgresOptions::from_url("postgres://ap:secret@db.example.com/flows")?.with_writers(4);
/// assert!(!format!("{options:?}").contains("secret"));
/// # Ok::<(), ap_runtime::backend::postgres::PostgresOpenError>(())
/// ```
#[derive(Clone)]
pub struct PostgresOptions {
    connect: PgConnectOptions,
    tls: Option<PostgresTls>,
    without_tls: bool,
    root_certificate: Option<PathBuf>,
    schema: String,
    pools: Pools,
    timeouts: Timeouts,
    clock: Option<Arc<dyn Clock>>,
}

/// How many connections.
#[derive(Clone, Copy, Debug)]
struct Pools {
    writers: u32,
    readers: u32,
}

impl PostgresOptions {
    /// The database of a URL such as `postgres://user:password@host:5432/database`. Its parameters `sslmode`
    /// (`require`, `verify-ca`, `verify-full`; `disable` for this machine only), `sslrootcert`, `sslcert` and `sslkey` are
    /// understood as libpq does. What the URL leaves out comes from libpq's variables, such as `PGUSER` and `PGPASSWORD`, and
    /// the password at last from its password file; `PGSSLMODE` is not looked at.
    ///
    /// # Errors
    /// [`PostgresOpenError::Option`] if it is no such URL.
    pub fn from_url(url: &str) -> Result<Self, PostgresOpenError> {
        let parsed = url::Url::parse(url).map_err(|_| refused("url", "it is not a URL"))?;
        if !["postgres", "postgresql"].contains(&parsed.scheme()) {
            return Err(refused("url", "its scheme is not `postgres`"));
        }
        // What the driver says of a URL may quote it.
        let connect = PgConnectOptions::from_str(url).map_err(|_| refused("url", "a part of it is not understood"))?;
        let mut options = Self::new(connect);
        let named = |key: &str| ["sslmode", "ssl-mode"].contains(&key);
        if let Some((_, mode)) = parsed.query_pairs().find(|(key, _)| named(key)) {
            match mode.as_ref() {
                "disable" if options.is_local() => {}
                "require" => options.tls = Some(PostgresTls::Require),
                "verify-ca" => options.tls = Some(PostgresTls::VerifyCa),
                "verify-full" => options.tls = Some(PostgresTls::VerifyFull),
                _ => {
                    return Err(refused(
                        "sslmode",
                        "it may be `require`, `verify-ca` or `verify-full` for other hosts",
                    ));
                }
            }
        }
        Ok(options)
    }

    /// The database of this name at `host`, which may be the directory of a Unix socket, as `user`. Without a password that
    /// of the variable `PGPASSWORD` is used, if there is one.
    #[must_use]
    pub fn from_parts(host: &str, port: u16, database: &str, user: &str, password: Option<&SecretString>) -> Self {
        let connect = PgConnectOptions::new_without_pgpass().port(port).database(database).username(user);
        let connect = if host.starts_with('/') { connect.socket(host) } else { connect.host(host) };
        Self::new(match password {
            Some(password) => connect.password(password.expose_secret()),
            None => connect,
        })
    }

    fn new(connect: PgConnectOptions) -> Self {
        Self {
            connect,
            tls: None,
            without_tls: false,
            root_certificate: None,
            schema: "ap_runtime".to_owned(),
            pools: Pools { writers: 3, readers: 4 },
            timeouts: Timeouts { connect: Duration::from_secs(5), statement: Duration::from_secs(5) },
            clock: None,
        }
    }

    /// Sets how the server proves who it is. Default: [`PostgresTls::VerifyFull`], but nothing on this machine.
    #[must_use]
    pub fn with_tls(self, tls: PostgresTls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Trusts the certificates in this PEM file, besides those of public authorities.
    #[must_use]
    pub fn root_certificate(self, file: impl Into<PathBuf>) -> Self {
        Self { root_certificate: Some(file.into()), ..self }
    }

    /// Sets the schema that all tables are in; it is created if it is not there. Default: `ap_runtime`. Accepted: 1 to 48
    /// characters, of lower-case letters, digits and `_`, no digit first, not starting with `pg_`.
    #[must_use]
    pub fn with_schema(self, schema: impl Into<String>) -> Self {
        Self { schema: schema.into(), ..self }
    }

    /// Sets how many connections write for runs; one more writes for everything else. Default: 3. Accepted: 1 to 16; others are
    /// clamped.
    #[must_use]
    pub fn with_writers(mut self, connections: u32) -> Self {
        self.pools.writers = connections.clamp(1, 16);
        self
    }

    /// Sets how many connections read at most. Default: 4. Accepted: 1 to 64; others are clamped.
    #[must_use]
    pub fn with_readers(mut self, connections: u32) -> Self {
        self.pools.readers = connections.clamp(1, 64);
        self
    }

    /// Sets how long connecting may take. Default: 5 s. Accepted: 100 ms to 8 s; others are clamped.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.connect = timeout.clamp(Duration::from_millis(100), Duration::from_secs(8));
        self
    }

    /// Sets how long the server works on one statement, or waits for a lock. Default: 5 s. Accepted: 100 ms to 8 s; others are
    /// clamped.
    #[must_use]
    pub fn with_statement_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.statement = timeout.clamp(Duration::from_millis(100), Duration::from_secs(8));
        self
    }

    /// Sets by what leases, deliveries and waits expire. Default: the server's clock, which is the same for every process.
    /// Another one is for tests.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// Options that give up a promise.
    #[must_use]
    pub const fn dangerous(self) -> DangerousPostgresOptions {
        DangerousPostgresOptions(self)
    }

    /// Whether the server is on this machine.
    fn is_local(&self) -> bool {
        let host = self.connect.get_host();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        self.connect.get_socket().is_some()
            || host.starts_with('/')
            || host == "localhost"
            || address.is_ok_and(|address| address.is_loopback())
    }

    pub(super) fn schema(&self) -> Result<&str, PostgresOpenError> {
        let schema = self.schema.as_str();
        let letters = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
        let fine = (1..=MAX_SCHEMA).contains(&schema.len())
            && schema.chars().all(letters)
            && !schema.starts_with(|first: char| first.is_ascii_digit())
            && !schema.starts_with("pg_");
        if fine { Ok(schema) } else { Err(refused("schema", "it is not a plain lower-case identifier")) }
    }

    pub(super) const fn writers(&self) -> u32 {
        self.pools.writers
    }

    pub(super) const fn readers(&self) -> u32 {
        self.pools.readers
    }

    pub(super) fn connector(&self) -> Result<Connector, PostgresOpenError> {
        let mode = match &self.tls {
            _ if self.without_tls => PgSslMode::Disable,
            None if self.is_local() => PgSslMode::Disable,
            None | Some(PostgresTls::VerifyFull) => PgSslMode::VerifyFull,
            Some(PostgresTls::VerifyCa) => PgSslMode::VerifyCa,
            Some(PostgresTls::Require) => PgSslMode::Require,
        };
        let mut connect = self.connect.clone().ssl_mode(mode);
        if let Some(file) = &self.root_certificate {
            connect = connect.ssl_root_cert(file);
        }
        Ok(Connector::new(connect, self.schema()?, self.timeouts, self.clock.clone()))
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("host", &self.connect.get_host())
            .field("port", &self.connect.get_port())
            .field("database", &self.connect.get_database())
            .field("schema", &self.schema)
            .field("tls", &self.tls)
            .field("pools", &self.pools)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

/// Options of [`PostgresOptions`] that give up a promise.
#[derive(Debug)]
pub struct DangerousPostgresOptions(PostgresOptions);

impl DangerousPostgresOptions {
    /// Goes without TLS, whatever the host.
    ///
    /// # Security
    /// Whoever sees the traffic reads the password's proof and everything in clear columns, and can change what is sent.
    #[must_use]
    pub fn without_tls(self) -> PostgresOptions {
        PostgresOptions { without_tls: true, ..self.0 }
    }
}

fn refused(option: &'static str, reason: &str) -> PostgresOpenError {
    PostgresOpenError::Option { option, reason: reason.to_owned() }
}

/// Longest name of a schema; names made from it must fit into PostgreSQL's 63 bytes.
const MAX_SCHEMA: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(options: &PostgresOptions) -> String {
        format!("{:?}", options.connector().expect("options").options().get_ssl_mode())
    }

    #[test]
    fn tls_is_verified_unless_the_host_is_this_machine() {
        for (url, expected) in [
            ("postgres://u:p@db.example.com/x", "VerifyFull"),
            ("postgres://u:p@10.0.0.1/x", "VerifyFull"),
            ("postgres://u:p@localhost.example.com/x", "VerifyFull"),
            ("postgres://u:p@localhost/x", "Disable"),
            ("postgres://u:p@127.0.0.1:5433/x", "Disable"),
            ("postgres://u:p@[::1]/x", "Disable"),
            ("postgres://u:p@%2Ftmp/x", "Disable"),
            ("postgres://u:p@db.example.com/x?sslmode=require", "Require"),
            ("postgres://u:p@localhost/x?sslmode=verify-ca", "VerifyCa"),
            ("postgres://u:p@localhost/x?sslmode=disable", "Disable"),
        ] {
            assert_eq!(mode(&PostgresOptions::from_url(url).expect(url)), expected, "{url}");
        }
        let remote = PostgresOptions::from_url("postgres://u:p@db.example.com/x").expect("a URL");
        assert_eq!(mode(&remote.dangerous().without_tls()), "Disable");
        let parts = PostgresOptions::from_parts("db.example.com", 5432, "x", "u", None);
        assert_eq!(mode(&parts), "VerifyFull");
    }

    #[test]
    fn what_would_fall_back_to_plain_text_is_refused() {
        for url in [
            "postgres://u:p@db.example.com/x?sslmode=disable",
            "postgres://u:p@db.example.com/x?sslmode=prefer",
            "postgres://u:p@localhost/x?sslmode=allow",
            "mysql://u:p@localhost/x",
            "no URL",
        ] {
            let error = PostgresOptions::from_url(url).expect_err(url);
            assert!(matches!(error, PostgresOpenError::Option { .. }), "{error:?}");
        }
    }

    #[test]
    fn schemas_are_plain_identifiers() {
        let schema = |name: &str| {
            let options = PostgresOptions::from_url("postgres://localhost/x").expect("a URL").with_schema(name);
            options.connector().is_ok()
        };
        for good in ["a", "ap_runtime", "_x1", "a".repeat(48).as_str()] {
            assert!(schema(good), "{good}");
        }
        for bad in ["", "1a", "A", "a-b", "a\"; DROP TABLE x; --", "pg_catalog", "ä", "a".repeat(49).as_str()] {
            assert!(!schema(bad), "{bad}");
        }
    }

    #[test]
    fn the_password_is_not_shown() {
        let options = PostgresOptions::from_url("postgres://u:canary@localhost/x").expect("a URL");
        assert!(!format!("{options:?}").contains("canary"));
        assert!(!format!("{:?}", options.connector().expect("options")).contains("canary"));
        let error = PostgresOptions::from_url("postgres://u:canary@localhost:99999999/x").expect_err("no port");
        assert!(!format!("{error:?} {error}").contains("canary"));
    }
}
