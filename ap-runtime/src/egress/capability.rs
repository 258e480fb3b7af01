//! [`Egress`]: what pieces reach the outside through.

use std::{fmt, sync::Arc, time::Duration};

use ap_core::{
    capability::{HttpClient, KeyClient, MailClient, NoWayOut, ObjectClient, SqlClient},
    flow::AllowedHosts,
    piece::ActionContext,
    time::Timestamp,
};

use ap_crypto::entropy::Entropy;

use super::credential::RunCredentials;
#[cfg(feature = "http")]
use super::http::HttpEgress;
#[cfg(feature = "crypto")]
use super::key::RunKeys;
#[cfg(feature = "mail")]
use super::mail::MailEgress;
#[cfg(feature = "objects")]
use super::objects::ObjectEgress;
#[cfg(feature = "sql")]
use super::sql::SqlEgress;

/// What pieces reach the outside through: one layer per protocol, each given by the host or missing.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    #[cfg(feature = "http")]
    http: Option<HttpEgress>,
    #[cfg(feature = "mail")]
    mail: Option<MailEgress>,
    #[cfg(feature = "objects")]
    objects: Option<ObjectEgress>,
    #[cfg(feature = "sql")]
    sql: Option<SqlEgress>,
}

impl Egress {
    /// No way out: every request of a piece is refused.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            #[cfg(feature = "http")]
            http: None,
            #[cfg(feature = "mail")]
            mail: None,
            #[cfg(feature = "objects")]
            objects: None,
            #[cfg(feature = "sql")]
            sql: None,
        }
    }

    /// Adds object stores.
    #[cfg(feature = "objects")]
    #[must_use]
    pub fn with_objects(mut self, objects: ObjectEgress) -> Self {
        self.objects = Some(objects);
        self
    }

    /// Adds mail servers.
    #[cfg(feature = "mail")]
    #[must_use]
    pub fn with_mail(mut self, mail: MailEgress) -> Self {
        self.mail = Some(mail);
        self
    }

    /// Adds databases.
    #[cfg(feature = "sql")]
    #[must_use]
    pub fn with_sql(mut self, sql: SqlEgress) -> Self {
        self.sql = Some(sql);
        self
    }

    /// The capabilities of one attempt; its HTTP requests go to `hosts` alone, if the flow lists any.
    pub(crate) fn for_attempt(
        &self,
        credentials: &Arc<RunCredentials>,
        entropy: &Arc<dyn Entropy>,
        hosts: Option<&AllowedHosts>,
    ) -> AttemptEgress {
        let nothing = NoWayOut::new("this runtime has no way out");
        let mut ways = AttemptEgress::refusing(nothing);
        ways.objects = Box::new(NoWayOut::new("this runtime reaches no object store: the host gives it none"));
        ways.mail = Box::new(NoWayOut::new("this runtime sends no mail: the host gives it no mail server"));
        ways.sql = Box::new(NoWayOut::new("this runtime reaches no database: the host gives it none"));
        #[cfg(feature = "http")]
        if let Some(http) = &self.http {
            ways.http = Box::new(http.for_run(Arc::clone(credentials)).limited_to(hosts.cloned()));
        }
        #[cfg(feature = "mail")]
        if let Some(mail) = &self.mail {
            ways.mail = Box::new(mail.for_run(Arc::clone(credentials)));
        }
        #[cfg(feature = "objects")]
        if let Some(objects) = &self.objects {
            ways.objects = Box::new(objects.for_run(Arc::clone(credentials)));
        }
        #[cfg(feature = "sql")]
        if let Some(sql) = &self.sql {
            ways.sql = Box::new(sql.for_run(Arc::clone(credentials)));
        }
        ways.keys =
            Box::new(NoWayOut::new("this runtime uses no secrets as keys: it was built without feature `crypto`"));
        #[cfg(feature = "crypto")]
        {
            ways.keys = Box::new(RunKeys::new(Arc::clone(credentials), Arc::clone(entropy)));
        }
        let _ = (credentials, entropy, hosts);
        ways
    }

    /// The way to a token endpoint: as [`Egress::for_attempt`], and nothing of it may go unencrypted where credentials may not.
    pub(crate) fn for_tokens(&self, credentials: RunCredentials) -> Box<dyn HttpClient> {
        #[cfg(feature = "http")]
        if let Some(http) = &self.http {
            return Box::new(http.for_tokens(Arc::new(credentials)));
        }
        drop(credentials);
        Box::new(NoWayOut::new("this runtime has no way out"))
    }

    /// The capabilities of an action whose declared effect is none: they refuse every request.
    pub(crate) fn refusing() -> AttemptEgress {
        AttemptEgress::refusing(NoWayOut::new("this action declares that it does not act outside"))
    }

    /// Whether credentials are masked in what comes back; see
    /// [`DangerousHttpEgressBuilder`](super::http::DangerousHttpEgressBuilder).
    #[cfg_attr(not(feature = "http"), expect(clippy::unused_self, reason = "there is nothing to switch off"))]
    pub(crate) fn scrubs(&self) -> bool {
        #[cfg(feature = "http")]
        if let Some(http) = &self.http {
            return http.scrubs();
        }
        true
    }
}

/// The capabilities of one attempt, with the credentials of its run inside.
pub(crate) struct AttemptEgress {
    http: Box<dyn HttpClient>,
    sql: Box<dyn SqlClient>,
    mail: Box<dyn MailClient>,
    objects: Box<dyn ObjectClient>,
    keys: Box<dyn KeyClient>,
}

impl AttemptEgress {
    fn refusing(none: NoWayOut) -> Self {
        Self {
            http: Box::new(none),
            sql: Box::new(none),
            mail: Box::new(none),
            objects: Box::new(none),
            keys: Box::new(none),
        }
    }

    /// The way to any HTTP API.
    pub(crate) fn into_http(self) -> Box<dyn HttpClient> {
        self.http
    }

    /// What an action is given.
    pub(crate) fn context<'a>(
        &'a self,
        (idempotency_key, send_idempotency_key): (&'a str, bool),
        timeout: Duration,
        now: Timestamp,
    ) -> ActionContext<'a> {
        ActionContext {
            http: &*self.http,
            sql: &*self.sql,
            mail: &*self.mail,
            objects: &*self.objects,
            keys: &*self.keys,
            idempotency_key,
            send_idempotency_key,
            timeout,
            now,
        }
    }
}

impl fmt::Debug for AttemptEgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptEgress").finish_non_exhaustive()
    }
}

#[cfg(feature = "http")]
impl From<HttpEgress> for Egress {
    fn from(http: HttpEgress) -> Self {
        let mut egress = Self::none();
        egress.http = Some(http);
        egress
    }
}

#[cfg(test)]
mod tests {
    use ap_core::capability::{ExchangeError, HttpError, HttpRequest, MailMessage, ObjectTarget, SqlStatement};

    use super::*;

    #[tokio::test]
    async fn a_refused_request_says_why() {
        let acts = "this action declares that it does not act outside";
        let entropy: Arc<dyn Entropy> = Arc::new(ap_crypto::entropy::SystemEntropy);
        let none = Egress::none().for_attempt(&Arc::default(), &entropy, None);
        for (ways, expected) in [
            (Egress::refusing(), [acts; 4]),
            (
                none,
                [
                    "this runtime has no way out",
                    "this runtime reaches no database: the host gives it none",
                    "this runtime sends no mail: the host gives it no mail server",
                    "this runtime reaches no object store: the host gives it none",
                ],
            ),
        ] {
            let reasons = expected.map(str::to_owned);
            let refused = ways.http.send(HttpRequest::new("GET", "https://api.example/")).await;
            assert_eq!(refused.err(), Some(HttpError::Refused { reason: reasons[0].clone() }));
            let refusals = [
                ways.sql.query(SqlStatement::new("c", "SELECT 1")).await.err(),
                ways.mail.send(MailMessage::default()).await.err(),
                ways.objects.delete(ObjectTarget::new("c", "key")).await.err(),
            ];
            for (refused, reason) in refusals.into_iter().zip(reasons.into_iter().skip(1)) {
                assert_eq!(refused, Some(ExchangeError::Refused { reason }));
            }
        }
    }
}
