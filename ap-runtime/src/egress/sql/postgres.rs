//! PostgreSQL: one statement, one connection, one transaction.

use std::{future::poll_fn, pin::pin, time::Duration};

use ap_core::{
    capability::{ExchangeError, SqlOutcome, SqlStatement},
    connection::Origin,
};
use futures_util::{
    TryStreamExt,
    future::{Either, select},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{
    Client, Config, Connection, Row, Statement,
    config::SslMode,
    error::DbError,
    tls::{NoTls, TlsConnect},
};
use url::Url;

use super::{
    Access, Bounds, Gathered, Shared,
    bind::Bound,
    bounded::{Allowance, Bounded},
    cell, check_columns,
    tls_stream::Encrypt,
};
use crate::egress::{
    credential::{CredentialUse, Place},
    server::{Opened, Ordered},
};

/// Where a connection leads, and as whom.
pub(super) struct Target<'a> {
    host: String,
    port: u16,
    database: String,
    username: &'a str,
    password: Option<&'a SecretString>,
    encrypted: bool,
}

impl<'a> Target<'a> {
    /// Reads the fields of a connection, which must be bound to the server they name.
    pub(super) fn of(opened: Opened<'a>) -> Result<(Self, CredentialUse), ExchangeError> {
        let url = opened.clear(&["url"])?;
        let url =
            url.map(|text| Url::parse(text).map_err(|_| opened.wrong("its field `url` is no URL"))).transpose()?;
        let (host, port, database) = match &url {
            Some(url) => {
                let host = url.host_str().filter(|_| matches!(url.scheme(), "postgres" | "postgresql"));
                let host = host.ok_or_else(|| opened.wrong("its `url` must be `postgres://host:port/database`"))?;
                let path = url.path().trim_start_matches('/');
                (host, url.port().unwrap_or(DEFAULT_PORT), (!path.is_empty()).then_some(path))
            }
            None => {
                let port = opened.clear(&["port"])?.map_or(Ok(DEFAULT_PORT), str::parse);
                let port = port.map_err(|_| opened.wrong("its field `port` must be a whole number up to 65535"))?;
                (opened.required(&["host"])?, port, None)
            }
        };
        let username = opened.required(&["username", "user"])?;
        let database = opened.clear(&["database"])?.or(database).unwrap_or(username).to_owned();
        let encrypted = match opened.clear(&["sslmode"])?.unwrap_or("verify-full") {
            "verify-full" => true,
            "disable" => false,
            _ => return Err(opened.wrong("its field `sslmode` must be `verify-full` or `disable`")),
        };
        let origin = Origin::of_server("postgres", host, port).map_err(|error| opened.wrong(&error.to_string()))?;
        let used = opened.bound_to(&origin, Place::Login)?;
        let password = opened.secret(&["password"]);
        Ok((Self { host: host.to_owned(), port, database, username, password, encrypted }, used))
    }

    pub(super) async fn run(
        &self,
        shared: &Shared,
        statement: &SqlStatement,
        access: Access,
        bounds: Bounds,
        ordered: &Ordered,
    ) -> Result<SqlOutcome, ExchangeError> {
        let stream = shared.guard.connect(&self.host, self.port, self.encrypted).await?;
        let allowance = Allowance::of(bounds);
        let job = Job { statement, access, bounds, ordered, allowance: allowance.clone() };
        if self.encrypted {
            let tls = Encrypt { tls: &shared.tls, host: &self.host, allowance };
            job.over(self.config(SslMode::Require), stream, tls).await
        } else {
            job.over(self.config(SslMode::Disable), Bounded::new(stream, allowance), NoTls).await
        }
    }

    fn config(&self, mode: SslMode) -> Config {
        let mut config = Config::new();
        config.user(self.username).dbname(&self.database).ssl_mode(mode).application_name("ap-runtime");
        if let Some(password) = self.password {
            config.password(password.expose_secret());
        }
        config
    }
}

/// One statement on its way.
struct Job<'a> {
    statement: &'a SqlStatement,
    access: Access,
    bounds: Bounds,
    ordered: &'a Ordered,
    allowance: Allowance,
}

impl Job<'_> {
    async fn over<S, T>(&self, config: Config, stream: S, tls: T) -> Result<SqlOutcome, ExchangeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        T: TlsConnect<S>,
    {
        let connected = config.connect_raw(stream, tls).await;
        let (client, connection) = connected.map_err(|error| self.failed(error))?;
        let driver = pin!(drive(connection));
        let work = pin!(self.carry_out(client));
        // Nobody else drives the connection. When it ends first, the work hears of it.
        match select(driver, work).await {
            Either::Left(((), work)) => work.await,
            Either::Right((outcome, driver)) => {
                // The client is gone, so the connection says goodbye and ends.
                let _ = tokio::time::timeout(GOODBYE, driver).await;
                outcome
            }
        }
    }

    async fn carry_out(&self, client: Client) -> Result<SqlOutcome, ExchangeError> {
        let failed = |error| self.failed(error);
        let begin = if self.access == Access::Read { "BEGIN READ ONLY" } else { "BEGIN" };
        // 0 would be no limit.
        let limit = self.bounds.timeout.as_millis().max(1);
        client
            .batch_execute(&format!(
                "{begin}; SET LOCAL statement_timeout = {limit}; SET LOCAL idle_in_transaction_session_timeout = {limit}; \
                 SET LOCAL client_min_messages = error"
            ))
            .await
            .map_err(failed)?;
        let prepared = client.prepare(&self.statement.text).await.map_err(failed)?;
        let bound = self.bound(&prepared)?;
        check_columns(prepared.columns().iter().map(|column| column.name()))?;
        let stream = client.query_raw(&prepared, bound.iter()).await.map_err(failed)?;
        let mut stream = pin!(stream);
        let mut gathered = Gathered::new(self.bounds);
        while let Some(row) = stream.as_mut().try_next().await.map_err(failed)? {
            let row = read(&row, &mut gathered)?;
            gathered.rows.push(row);
        }
        let affected = stream.rows_affected().unwrap_or_default();
        if self.access == Access::Write {
            self.ordered.set();
        }
        client.batch_execute("COMMIT").await.map_err(failed)?;
        Ok(SqlOutcome { affected, rows: gathered.rows })
    }

    fn bound(&self, prepared: &Statement) -> Result<Vec<Bound>, ExchangeError> {
        let (given, wanted) = (self.statement.parameters.len(), prepared.params().len());
        if given != wanted {
            let reason = format!("the statement has {wanted} parameters, and {given} are given");
            return Err(ExchangeError::InvalidRequest { reason });
        }
        let pairs = self.statement.parameters.iter().zip(prepared.params());
        pairs.zip(1..).map(|((value, kind), number)| Bound::new(value, kind, number)).collect()
    }

    fn failed(&self, error: tokio_postgres::Error) -> ExchangeError {
        if self.allowance.is_exceeded() && !self.ordered.is_set() {
            return ExchangeError::TooLarge { what: "the result in bytes", limit: self.bounds.max_bytes };
        }
        match error.as_db_error() {
            // After COMMIT only what is said of constraints and of serialisation undoes it: the rest may come from something
            // between us that lost the database.
            Some(refusal) => match refusal.code().code().get(..2) {
                Some("23" | "40") => rejected(refusal),
                _ if self.ordered.is_set() => self.ordered.lost("the database did not say whether it committed"),
                _ => rejected(refusal),
            },
            None => match error.into_source().map(|source| source.downcast::<ExchangeError>()) {
                // Of the TLS handshake.
                Some(Ok(ours)) => *ours,
                _ => self.ordered.lost("the database broke the exchange off"),
            },
        }
    }
}

/// What the server says, by the class of its code (PostgreSQL, appendix A). The transaction is undone.
fn rejected(error: &DbError) -> ExchangeError {
    let code = error.code().code().to_owned();
    let reason = error.message().to_owned();
    match code.get(..2) {
        Some("28") => {
            ExchangeError::Credential { reason: format!("the database refused the log-in ({code}): {reason}") }
        }
        Some(class) => {
            let transient = ["08", "40", "53", "57", "58"].contains(&class) || code == "55P03";
            ExchangeError::Rejected { code, reason, transient }
        }
        None => ExchangeError::Rejected { code, reason, transient: false },
    }
}

/// Keeps a connection going until it ends. What the server says beside is dropped: it may hold data.
async fn drive<S, T>(mut connection: Connection<S, T>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(_)) = poll_fn(|cx| connection.poll_message(cx)).await {}
}

fn read(row: &Row, gathered: &mut Gathered) -> Result<super::SqlRow, ExchangeError> {
    let mut cells = Vec::with_capacity(row.len());
    let mut bytes = 0_usize;
    for (index, column) in row.columns().iter().enumerate() {
        let raw: cell::Raw<'_> = row.try_get(index).map_err(|_| cell::unreadable(column.name(), column.type_()))?;
        bytes = bytes.saturating_add(column.name().len()).saturating_add(raw.0.map_or(0, <[u8]>::len));
        cells.push((column, raw));
    }
    gathered.admit(bytes)?;
    cells
        .into_iter()
        .map(|(column, raw)| Ok((column.name().to_owned(), cell::read(raw, column.name(), column.type_())?)))
        .collect()
}

const DEFAULT_PORT: u16 = 5432;
const GOODBYE: Duration = Duration::from_millis(100);
