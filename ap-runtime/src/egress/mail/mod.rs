//! [`MailEgress`] and [`RunMail`]: the mail servers pieces get.
//!
//! A connection for a mail server has clear fields `host`, `port` (587), perhaps `from` and `security`, and, where the server
//! asks for a log-in, `username` (clear) and `password` (secret); or a `url` `smtp://host:port` or `smtps://host:port`.
//! `security` is `starttls` (default; the server must offer it), `tls` (from the first byte; default on port 465), or
//! `none` in networks where the host allows plain credentials.

mod message;
mod smtp;

use std::{fmt, sync::Arc, time::Duration};

use ap_core::{
    capability::{ExchangeError, MailClient, MailMessage, MailReceipt},
    connection::Origin,
};
use async_trait::async_trait;
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncWrite};
use url::Url;

use self::{
    message::{MailLimits, Written},
    smtp::Smtp,
};
use super::{
    credential::{CredentialUse, Place, RunCredentials},
    guard::Guard,
    server::{Opened, Ordered, Uses, refuse_placeholders, scrub, shortened},
    tls::{TlsClient, TlsSetupError},
    trust::TrustRoots,
};
use crate::clock::{Clock, SystemClock};

/// Sends mail for the runs of one runtime. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MailEgress {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    guard: Guard,
    tls: TlsClient,
    clock: Arc<dyn Clock>,
    limits: MailLimits,
    hello: String,
}

impl MailEgress {
    /// Starts building a layer that goes through `guard`.
    #[must_use]
    pub fn builder(guard: Guard) -> MailEgressBuilder {
        MailEgressBuilder {
            guard,
            roots: TrustRoots::default(),
            clock: Arc::new(SystemClock),
            limits: MailLimits { max_recipients: DEFAULT_MAX_RECIPIENTS, max_bytes: DEFAULT_MAX_BYTES },
            hello: "[127.0.0.1]".to_owned(),
        }
    }

    /// The client of one attempt, with the credentials of its run.
    #[must_use]
    pub fn for_run(&self, credentials: Arc<RunCredentials>) -> RunMail {
        RunMail { egress: self.clone(), credentials, uses: Uses::default() }
    }
}

/// Options of [`MailEgress`].
#[derive(Clone, Debug)]
pub struct MailEgressBuilder {
    guard: Guard,
    roots: TrustRoots,
    clock: Arc<dyn Clock>,
    limits: MailLimits,
    hello: String,
}

impl MailEgressBuilder {
    /// Sets which authorities are trusted beside the machine's own. Default: none.
    #[must_use]
    pub fn with_trust_roots(mut self, roots: TrustRoots) -> Self {
        self.roots = roots;
        self
    }

    /// Sets where the date of messages comes from. Default: the machine's clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the most recipients of one message, copies included. Default: 100.
    #[must_use]
    pub const fn with_max_recipients(mut self, max_recipients: usize) -> Self {
        self.limits.max_recipients = max_recipients;
        self
    }

    /// Sets the largest message, attachments as they are encoded. Unit: bytes. Default: 25 MiB.
    #[must_use]
    pub const fn with_max_message_bytes(mut self, max_bytes: usize) -> Self {
        self.limits.max_bytes = max_bytes;
        self
    }

    /// Sets the name by which this machine introduces itself (RFC 5321 §4.1.1.1). Default: `[127.0.0.1]`.
    #[must_use]
    pub fn with_hello_name(mut self, name: impl Into<String>) -> Self {
        self.hello = name.into();
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    /// [`TlsSetupError`] if TLS cannot be set up.
    pub fn build(self) -> Result<MailEgress, TlsSetupError> {
        let tls = TlsClient::new(&self.roots)?;
        let Self { guard, clock, limits, hello, .. } = self;
        Ok(MailEgress { shared: Arc::new(Shared { guard, tls, clock, limits, hello }) })
    }
}

/// The mail servers of one attempt of one run.
pub struct RunMail {
    egress: MailEgress,
    credentials: Arc<RunCredentials>,
    uses: Uses,
}

impl RunMail {
    /// The credentials used since the last call, for the audit; also those of messages that failed later.
    #[must_use]
    pub fn take_uses(&self) -> Vec<CredentialUse> {
        self.uses.take()
    }

    async fn exchange(&self, message: &MailMessage, ordered: &Ordered) -> Result<MailReceipt, ExchangeError> {
        let shared = &self.egress.shared;
        let opened = Opened::of(&self.credentials, &message.connection)?;
        refuse_placeholders(&self.credentials, "the message", texts_of(message))?;
        let (server, used) = Server::of(opened)?;
        let written = message::write(message, server.from, shared.limits, shared.clock.now())?;
        self.uses.push(used);
        let encrypted = server.security != Security::None;
        let stream = shared.guard.connect(&server.host, server.port, encrypted).await?;
        let reply = match server.security {
            Security::None => server.converse(Smtp::new(stream), true, shared, &written, ordered).await,
            Security::Tls => {
                let stream = shared.tls.connect(&server.host, stream).await?;
                server.converse(Smtp::new(stream), true, shared, &written, ordered).await
            }
            Security::StartTls => {
                let mut plain = Smtp::new(stream);
                plain.greeting().await?;
                if !plain.hello(&shared.hello).await?.starttls {
                    return Err(opened.wrong("the mail server offers no STARTTLS, so nothing was sent to it"));
                }
                let stream = shared.tls.connect(&server.host, plain.starttls().await?).await?;
                server.converse(Smtp::new(stream), false, shared, &written, ordered).await
            }
        }?;
        Ok(MailReceipt { message_id: written.id, reply })
    }
}

#[async_trait]
impl MailClient for RunMail {
    async fn send(&self, message: MailMessage) -> Result<MailReceipt, ExchangeError> {
        let limit = message.timeout.unwrap_or(DEFAULT_TIMEOUT).clamp(MIN_TIMEOUT, MAX_TIMEOUT);
        let ordered = Ordered::default();
        let outcome = tokio::time::timeout(limit, self.exchange(&message, &ordered)).await;
        let error = match outcome {
            Ok(Ok(receipt)) => {
                let reply = shortened(&self.credentials.redactor().redact_str(&receipt.reply));
                return Ok(MailReceipt { reply, ..receipt });
            }
            Ok(Err(ExchangeError::Interrupted { reason })) => ordered.lost(&reason),
            Ok(Err(error)) => error,
            Err(_) => ExchangeError::Timeout { limit },
        };
        let error = scrub(error, self.credentials.redactor());
        if matches!(error, ExchangeError::Refused { .. } | ExchangeError::Credential { .. }) {
            tracing::warn!(target: "ap_runtime::egress", %error, "a message was refused");
        }
        Err(error)
    }
}

impl fmt::Debug for RunMail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunMail").field("egress", &self.egress).finish_non_exhaustive()
    }
}

/// Every text of a message that leaves.
fn texts_of(message: &MailMessage) -> impl Iterator<Item = &str> {
    let addresses = message.to.iter().chain(&message.cc).chain(&message.bcc);
    let options = [&message.from, &message.reply_to, &message.text, &message.html].into_iter().flatten();
    let names = message.attachments.iter().flat_map(|file| {
        [Some(file.name.as_str()), Some(&file.content_type), std::str::from_utf8(&file.content).ok()]
            .into_iter()
            .flatten()
    });
    addresses.chain(options).chain([&message.subject]).map(String::as_str).chain(names)
}

/// Where a connection leads, and as whom.
struct Server<'a> {
    host: String,
    port: u16,
    security: Security,
    login: Option<(&'a str, &'a SecretString)>,
    from: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Security {
    None,
    StartTls,
    Tls,
}

impl<'a> Server<'a> {
    /// Reads the fields of a connection, which must be bound to the server they name.
    fn of(opened: Opened<'a>) -> Result<(Self, CredentialUse), ExchangeError> {
        let url = opened.clear(&["url"])?;
        let url =
            url.map(|text| Url::parse(text).map_err(|_| opened.wrong("its field `url` is no URL"))).transpose()?;
        let (host, port, implicit) = match &url {
            Some(url) => {
                let implicit = url.scheme() == "smtps";
                let host = url.host_str().filter(|_| implicit || url.scheme() == "smtp");
                let host =
                    host.ok_or_else(|| opened.wrong("its `url` must be `smtp://host:port` or `smtps://host:port`"))?;
                (host, url.port().unwrap_or(if implicit { 465 } else { 587 }), implicit)
            }
            None => {
                let port = opened.clear(&["port"])?.map_or(Ok(587), str::parse);
                let port = port.map_err(|_| opened.wrong("its field `port` must be a whole number up to 65535"))?;
                (opened.required(&["host"])?, port, port == 465)
            }
        };
        let security = match opened.clear(&["security"])? {
            None if implicit => Security::Tls,
            None | Some("starttls") => Security::StartTls,
            Some("tls") => Security::Tls,
            Some("none") => Security::None,
            Some(_) => return Err(opened.wrong("its field `security` must be `starttls`, `tls` or `none`")),
        };
        // By what the connection is bound to: how the encryption begins is no other place.
        let scheme = if implicit { "smtps" } else { "smtp" };
        let origin = Origin::of_server(scheme, host, port).map_err(|error| opened.wrong(&error.to_string()))?;
        let used = opened.bound_to(&origin, Place::Login)?;
        let username = opened.clear(&["username", "user", "email"])?;
        let login = match (username, opened.secret(&["password"])) {
            (Some(username), Some(password)) => Some((username, password)),
            (None, Some(_)) => return Err(opened.wrong("it has a password and no clear field `username`")),
            (_, None) => None,
        };
        let from = opened.clear(&["from"])?.or(username.filter(|name| name.contains('@')));
        Ok((Self { host: host.to_owned(), port, security, login, from }, used))
    }

    async fn converse<S>(
        &self,
        mut smtp: Smtp<S>,
        greets: bool,
        shared: &Shared,
        written: &Written,
        ordered: &Ordered,
    ) -> Result<String, ExchangeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if greets {
            smtp.greeting().await?;
        }
        let able = smtp.hello(&shared.hello).await?;
        if let Some((username, password)) = self.login {
            smtp.log_in(&able, username, password).await?;
        }
        let sent = smtp.send(&able, &written.from, &written.to, &written.bytes, ordered).await;
        smtp.quit().await;
        sent
    }
}

const DEFAULT_MAX_RECIPIENTS: usize = 100;
const DEFAULT_MAX_BYTES: usize = 25 << 20;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
