//! Renewing tokens, over all processes once.
//!
//! A lease says who asks the provider; the others use the old token as long as it is good, and wait a bounded time otherwise.
//! What is new is written over the revision it was made from, whoever holds the lease by then: to refuse it would lose the
//! only refresh token there is. What speaks against the grant is written by the holder of the last lease only.

use std::{sync::Arc, time::Duration};

use ap_auth::{
    audit::AuditEvent,
    principal::{Actor, Identity},
};
use ap_core::{
    audit::AuditOutcome,
    connection::{Connection, ConnectionFault, FaultReason, OAuth2, OAuthGrant, OAuthTokens, Renewal, Rotation},
    piece::ActionError,
    run::{StepError, StepErrorKind},
    scope::Scope,
    store::{Precondition, StoreError},
    time::Timestamp,
};
use ap_crypto::{error::VaultError, vault::TenantKeys};

use super::{client, request::TokenRequest, response::TokenFailure};
use crate::{credentials::Found, journal::RunError, kernel::Kernel, records, store::ConnectionRecord};

/// Why a connection has no good token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenewError {
    /// It was deleted meanwhile, or is no longer one that can be renewed.
    #[error("it was changed meanwhile")]
    Changed,
    /// The provider says no for good; the connection is in error.
    #[error("{0}")]
    Rejected(FaultReason),
    /// Somebody has to mend something else than the connection's grant.
    #[error("{0}")]
    Refused(String),
    /// Trying again may help.
    #[error("{reason}")]
    Transient {
        /// What happened.
        reason: String,
        /// When to try again.
        retry_after: Option<Duration>,
    },
    /// Keys or storage.
    #[error("it cannot be read or written now")]
    Store(#[source] RunError),
}

impl RenewError {
    /// What a step that uses the connection fails with.
    pub(crate) fn of_step(self, name: &str) -> ActionError {
        if let Self::Store(error) = &self {
            tracing::warn!(connection = name, %error, "the tokens of a connection cannot be renewed");
        }
        let (kind, retry_after) = match &self {
            Self::Rejected(_) | Self::Refused(_) => (StepErrorKind::Connection, None),
            Self::Transient { retry_after, .. } => (StepErrorKind::OutcomeTransient, *retry_after),
            Self::Changed | Self::Store(_) => (StepErrorKind::OutcomeTransient, None),
        };
        let message = match &self {
            Self::Rejected(reason) => format!("connection `{name}` cannot be used ({reason}): connect it again"),
            other => format!("the tokens of connection `{name}` cannot be renewed: {other}"),
        };
        ActionError { error: StepError::new(kind, message), retry_after }
    }
}

impl From<RunError> for RenewError {
    fn from(error: RunError) -> Self {
        Self::Store(error)
    }
}

impl From<StoreError> for RenewError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}

/// What is asked of the provider.
#[derive(Clone, Copy)]
enum Task {
    /// Tokens, if they are due.
    Renew,
    /// Whether it takes the client secret that was staged then.
    Verify(Timestamp),
}

/// What became of one look at the connection.
enum Turn {
    /// There is a token to use.
    Ready,
    /// Somebody else is at it, and the old token is over: look again.
    Wait,
    /// Something changed: look again at once.
    Again,
}

impl Kernel {
    /// Sees to it that the connection of `owner` has a token that can be used.
    ///
    /// # Errors
    /// [`RenewError`]; nothing was given up then but what the provider itself rejected.
    ///
    /// # Cancel safety
    /// Dropping the future gives up waiting and nothing else: whoever uses the connection may be out of time, but what the
    /// provider answers may be the only grant there is from then on.
    pub(crate) async fn renew_connection(self: &Arc<Self>, owner: Scope, name: &str) -> Result<(), RenewError> {
        let (kernel, name) = (Arc::clone(self), name.to_owned());
        let renewal = self.renewals.spawn(async move { kernel.take_turns(owner, &name, Task::Renew).await });
        renewal.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a renewal ended unexpectedly");
            Err(RenewError::Transient { reason: "it ended unexpectedly".to_owned(), retry_after: None })
        })
    }

    /// Finds out whether the provider takes the client secret that was staged at `since`, by asking it for tokens, and keeps those.
    ///
    /// # Errors
    /// [`RenewError`]: it was not found good. Nothing is changed then.
    ///
    /// # Cancel safety
    /// As [`Kernel::renew_connection`].
    pub(crate) async fn verify_client_secret(
        self: &Arc<Self>,
        owner: Scope,
        name: &str,
        since: Timestamp,
    ) -> Result<(), RenewError> {
        let (kernel, name) = (Arc::clone(self), name.to_owned());
        let verifying = self.renewals.spawn(async move { kernel.take_turns(owner, &name, Task::Verify(since)).await });
        verifying.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a check of a client secret ended unexpectedly");
            Err(RenewError::Transient { reason: "it ended unexpectedly".to_owned(), retry_after: None })
        })
    }

    /// Looks at the connection until it is ready, and no longer than others may keep it.
    async fn take_turns(&self, owner: Scope, name: &str, task: Task) -> Result<(), RenewError> {
        let keys = self.keyring.tenant(owner).await.map_err(RunError::from)?;
        let patience = self.clock.now().saturating_add(PATIENCE);
        let mut wait = FIRST_WAIT;
        loop {
            let found = self.own_connection(&keys, owner, name).await?;
            let turn = match task {
                Task::Renew => self.renew_once(&keys, found).await?,
                Task::Verify(since) => self.verify_once(&keys, found, since).await?,
            };
            match turn {
                Turn::Ready => return Ok(()),
                Turn::Again => {}
                Turn::Wait if self.clock.now() >= patience => {
                    let reason = "another process has been renewing them for too long".to_owned();
                    return Err(RenewError::Transient { reason, retry_after: Some(LONGEST_WAIT) });
                }
                Turn::Wait => {
                    self.clock.sleep_until(self.clock.now().saturating_add(wait)).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }

    async fn own_connection(&self, keys: &TenantKeys, owner: Scope, name: &str) -> Result<Found, RenewError> {
        let record = match self.backend.connection(records::connection_name(keys, name), owner).await {
            Ok(record) => record,
            Err(StoreError::NotFound { .. }) => return Err(RenewError::Changed),
            Err(error) => return Err(error.into()),
        };
        let connection = records::open_connection(keys, &record, name).map_err(RunError::from)?;
        Ok(Found { record, connection })
    }

    async fn renew_once(&self, keys: &Arc<TenantKeys>, found: Found) -> Result<Turn, RenewError> {
        let Found { record, connection } = found;
        if let Some(fault) = connection.fault() {
            return Err(RenewError::Rejected(fault.reason));
        }
        let oauth = connection.oauth().ok_or(RenewError::Changed)?;
        let still_good = match oauth.renewal(self.clock.now()) {
            Renewal::NotDue => return Ok(Turn::Ready),
            Renewal::Impossible => return Err(RenewError::Changed),
            Renewal::Due { still_good } => still_good,
        };
        let (id, owner, revision) = (record.id, record.owner, record.revision);
        let epoch = match self.backend.lease_connection(id, owner, revision, LEASE).await {
            Ok(Some(epoch)) => epoch,
            Ok(None) if still_good => return Ok(Turn::Ready),
            Ok(None) => return Ok(Turn::Wait),
            Err(StoreError::Conflict { .. }) => return Ok(Turn::Again),
            Err(StoreError::NotFound { .. }) => return Err(RenewError::Changed),
            // The old token will do; the next use tries again.
            Err(error) if error.is_retryable() && still_good => return Ok(Turn::Ready),
            Err(error) => return Err(error.into()),
        };
        let answer = match request_of(oauth) {
            Some(request) => client::ask(self, oauth, None, request).await,
            None => return Err(RenewError::Changed),
        };
        match answer {
            Ok(tokens) => self.keep(keys, (record, connection), tokens, &|connection| connection).await,
            Err(TokenFailure::Rejected(reason)) => self.reject(keys, (record, connection, epoch), reason).await,
            Err(failure) => self.let_go(keys, (&record, connection.name(), epoch), (failure, still_good)).await,
        }
    }

    async fn verify_once(&self, keys: &TenantKeys, found: Found, since: Timestamp) -> Result<Turn, RenewError> {
        let Found { record, connection } = found;
        let staged = match connection.rotation() {
            Some(Rotation::Staged { verified: Some(_), since: of, .. }) if *of == since => return Ok(Turn::Ready),
            Some(Rotation::Staged { secrets, since: of, .. }) if *of == since => {
                secrets.fields().find(|(name, _)| *name == "client_secret").map(|(_, value)| value)
            }
            _ => return Err(RenewError::Changed),
        };
        let oauth = connection.oauth().ok_or(RenewError::Changed)?;
        let request = request_of(oauth).ok_or_else(|| {
            let reason =
                "there is no refresh token to ask with: connect the connection first, or say that it does not matter";
            RenewError::Refused(reason.to_owned())
        })?;
        let (id, owner, revision) = (record.id, record.owner, record.revision);
        let epoch = match self.backend.lease_connection(id, owner, revision, LEASE).await {
            Ok(Some(epoch)) => epoch,
            Ok(None) => return Ok(Turn::Wait),
            Err(StoreError::Conflict { .. }) => return Ok(Turn::Again),
            Err(StoreError::NotFound { .. }) => return Err(RenewError::Changed),
            Err(error) => return Err(error.into()),
        };
        let failure = match client::ask(self, oauth, staged, request).await {
            Ok(tokens) => {
                let verified = |connection: Connection| connection.with_verified(since, self.clock.now());
                return self.keep(keys, (record, connection), tokens, &verified).await;
            }
            Err(failure) => failure,
        };
        // Whoever renews with the secret in use need not wait.
        if let Err(error) = self.backend.release_connection(id, owner, epoch, Duration::ZERO).await {
            tracing::warn!(connection = %id, %error, "the end of a check cannot be written");
        }
        Err(match failure {
            TokenFailure::Transient { reason, retry_after } => RenewError::Transient { reason, retry_after },
            other => RenewError::Refused(other.to_string()),
        })
    }

    /// Erases the secrets that were replaced and whose grace is over.
    pub(crate) async fn retire_secrets(&self) {
        loop {
            let due = match self.backend.due_connections(DUE_BATCH).await {
                Ok(due) => due,
                Err(error) => {
                    tracing::debug!(%error, "connections that are due are not known");
                    return;
                }
            };
            let full = due.len() == DUE_BATCH as usize;
            let mut failed = false;
            for record in due {
                let id = record.id;
                match self.retire_secret(record).await {
                    // Somebody else did it, or changed it: it is looked at again if it is still due.
                    Ok(()) | Err(RunError::Store(StoreError::Conflict { .. } | StoreError::NotFound { .. })) => {}
                    Err(error) => {
                        failed = true;
                        tracing::warn!(connection = %id, %error, "an old secret cannot be erased yet");
                    }
                }
            }
            if failed || !full {
                return;
            }
        }
    }

    async fn retire_secret(&self, record: ConnectionRecord) -> Result<(), RunError> {
        let keys = self.keyring.tenant(record.owner).await?;
        let connection = records::open_listed_connection(&keys, &record)?;
        let over = connection.rotation().and_then(Rotation::retires).is_some_and(|until| until <= self.clock.now());
        // What is sealed decides; the column only says when to look.
        let connection =
            if over { connection.with_rotation(None).map_err(|_| VaultError::Unopenable)? } else { connection };
        let event = AuditEvent::by(&Actor::new(Identity::Engine), "connection.retire", record.owner, self.clock.now())
            .with_resource(record.id)
            .with_detail("name", connection.name())
            .with_detail("rotation", if over { "retired" } else { "not due" });
        let audit = [self.seal_event(&keys, &event)?];
        let precondition = Precondition::Revision(record.revision);
        let next = self.resealed(&keys, record, &connection)?;
        Ok(self.backend.write_connection(next, precondition, &audit).await?)
    }

    /// Commits new tokens. They may be the only good ones, so the store is asked again and again while the lease lasts.
    async fn keep(
        &self,
        keys: &TenantKeys,
        (record, connection): (ConnectionRecord, Connection),
        tokens: OAuthTokens,
        besides: &(dyn Fn(Connection) -> Connection + Send + Sync),
    ) -> Result<Turn, RenewError> {
        // A connection has no other way to be copied.
        let encoded = ap_crypto::connection::encode_connection(&connection).map_err(RunError::from)?;
        let before = ap_crypto::connection::decode_connection(&encoded).map_err(RunError::from)?;
        let mut connection = besides(with_tokens(connection, tokens)?);
        let (mut record, until) = (record, self.clock.now().saturating_add(LEASE));
        let (mut wait, mut attempts) = (FIRST_WAIT, 0_u32);
        loop {
            let expires = connection.oauth().and_then(|oauth| oauth.tokens()).and_then(OAuthTokens::expires);
            let event = renewal_event(&record, connection.name(), self.clock.now());
            let event = expires.iter().fold(event, |event, at| event.with_detail("expires", at.to_string()));
            let audit = [self.seal_event(keys, &event)?];
            let precondition = Precondition::Revision(record.revision);
            let next = self.resealed(keys, record.clone(), &connection)?;
            match self.backend.write_connection(next.clone(), precondition, &audit).await {
                Ok(()) => return Ok(Turn::Ready),
                // Our own earlier attempt was written after all, or another wrote it: with the tokens that are used up by now,
                // if it was not about those. Then the new ones go onto what is there.
                Err(StoreError::Conflict { .. }) => {
                    let name = connection.name().to_owned();
                    let found = self.own_connection(keys, next.owner, &name).await?;
                    let untouched = match (tokens_of(&found.connection), tokens_of(&before)) {
                        (Some(there), Some(started)) => there.are_those_of(started),
                        _ => false,
                    };
                    if found.record.id != next.id || !untouched {
                        return Ok(Turn::Again);
                    }
                    let new =
                        found.connection.oauth().and_then(|oauth| connection.into_oauth()?.into_tokens_for(oauth));
                    let Some(new) = new else { return Ok(Turn::Again) };
                    connection = besides(with_tokens(found.connection, new)?);
                    record = found.record;
                    continue;
                }
                Err(StoreError::AlreadyExists { .. }) if attempts > 0 => return Ok(Turn::Again),
                Err(StoreError::NotFound { .. }) => return Err(RenewError::Changed),
                Err(error) if error.is_retryable() && self.clock.now() < until => {
                    tracing::warn!(connection = %next.id, %error, "new tokens cannot be kept yet; they are tried again");
                }
                Err(error) => {
                    tracing::error!(connection = %next.id, %error, "new tokens could not be kept");
                    return Err(error.into());
                }
            }
            attempts = attempts.saturating_add(1);
            self.clock.sleep_until(self.clock.now().saturating_add(wait)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Writes down that the provider rejected it, unless somebody else has changed the connection or taken the lease since.
    async fn reject(
        &self,
        keys: &TenantKeys,
        (record, connection, epoch): (ConnectionRecord, Connection, u64),
        reason: FaultReason,
    ) -> Result<Turn, RenewError> {
        let now = self.clock.now();
        let event = renewal_event(&record, connection.name(), now).with_outcome(AuditOutcome::Failure, reason);
        let audit = [self.seal_event(keys, &event)?];
        let connection = connection.with_fault(Some(ConnectionFault { at: now, reason }));
        let seen = record.revision;
        let next = self.resealed(keys, record, &connection)?;
        match self.backend.write_leased_connection(next, (seen, epoch), &audit).await {
            Ok(()) => Err(RenewError::Rejected(reason)),
            // Another won: what it got is good, whatever the provider says about what we had.
            Err(StoreError::Conflict { .. } | StoreError::Fenced) => Ok(Turn::Again),
            Err(StoreError::NotFound { .. }) => Err(RenewError::Changed),
            Err(error) => Err(error.into()),
        }
    }

    /// Nothing follows for the grant. Nobody asks again before the provider wants to be asked.
    async fn let_go(
        &self,
        keys: &TenantKeys,
        (record, name, epoch): (&ConnectionRecord, &str, u64),
        (failure, still_good): (TokenFailure, bool),
    ) -> Result<Turn, RenewError> {
        let now = self.clock.now();
        let event = renewal_event(record, name, now).with_outcome(AuditOutcome::Failure, &failure);
        let rest = match &failure {
            TokenFailure::Transient { retry_after, .. } => retry_after.unwrap_or(REST),
            _ => REST,
        };
        let audited = self.backend.append_audit(&[self.seal_event(keys, &event)?]).await;
        let released = self.backend.release_connection(record.id, record.owner, epoch, rest).await;
        if let Err(error) = audited.and(released) {
            tracing::warn!(connection = %record.id, %error, "the end of a renewal cannot be written");
        }
        tracing::warn!(connection = %record.id, %failure, "tokens could not be renewed");
        if still_good {
            return Ok(Turn::Ready);
        }
        Err(match failure {
            TokenFailure::Transient { reason, .. } => RenewError::Transient { reason, retry_after: Some(rest) },
            other => RenewError::Refused(other.to_string()),
        })
    }

    /// The record that follows `record`, with this content.
    pub(crate) fn resealed(
        &self,
        keys: &TenantKeys,
        record: ConnectionRecord,
        connection: &Connection,
    ) -> Result<ConnectionRecord, RunError> {
        let revision = record.revision.next();
        let ids = (record.id, record.owner);
        let sealed = records::seal_connection(keys, ids, revision, connection, &*self.entropy)?;
        let due = connection.rotation().and_then(Rotation::retires);
        Ok(ConnectionRecord { revision, updated: self.clock.now(), due, sealed, ..record })
    }
}

fn with_tokens(connection: Connection, tokens: OAuthTokens) -> Result<Connection, RenewError> {
    let changed = connection.map_oauth(|oauth| oauth.with_tokens(tokens));
    changed.map_err(|error| RenewError::Refused(error.to_string()))
}

fn tokens_of(connection: &Connection) -> Option<&OAuthTokens> {
    connection.oauth()?.tokens()
}

fn request_of(oauth: &OAuth2) -> Option<TokenRequest<'_>> {
    match oauth.app()?.grant {
        OAuthGrant::ClientCredentials => Some(TokenRequest::ClientCredentials),
        _ => Some(TokenRequest::Refresh { token: oauth.tokens()?.refresh()? }),
    }
}

fn renewal_event(record: &ConnectionRecord, name: &str, at: Timestamp) -> AuditEvent {
    AuditEvent::by(&Actor::new(Identity::Engine), "connection.renew", record.owner, at)
        .with_resource(record.id)
        .with_detail("name", name)
        .with_detail("revision", record.revision.0)
}

/// How long a holder may take: three times as long as the exchange, for the commit.
const LEASE: Duration = Duration::from_secs(60);
/// How long others wait for a holder whose old token is over.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections that are looked at at once.
const DUE_BATCH: u32 = 100;
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How long nobody asks a provider again that could not answer.
const REST: Duration = Duration::from_secs(2);
