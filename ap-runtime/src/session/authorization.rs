//! Connecting an OAuth 2.0 connection: its owner goes to the provider and comes back with a code.

use std::time::Duration;

use ap_auth::{
    audit::AuditEvent,
    authorizer::{Authorized, Resource},
    permission::{ConnectionProvision, ConnectionWrite, PermissionMarker},
};
use ap_core::{
    audit::AuditOutcome,
    connection::{OAuthGrant, PendingGrant},
    time::Timestamp,
};
use ap_crypto::{signature::constant_time_eq, vault::TenantKeys};

use super::{ProjectSession, Session, SessionError, connections::NOT_FOUND};
use crate::{
    credentials::Found,
    oauth::{client, request, request::TokenRequest, state, state::Callback},
};

/// Where to send the owner of a connection, and until when the way back is open.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthorizationStart {
    /// The provider's page. Send the owner's browser there, and nobody else's: who comes back must be who went.
    pub url: String,
    /// Until when [`ProjectSession::complete_authorization`] takes what the provider sends back.
    pub expires: Timestamp,
}

impl ProjectSession {
    /// Begins connecting an OAuth 2.0 connection of the authorization code grant. Needs `connection.write`. A predefined one is
    /// connected like any other: its definition is the host's, the consent its owner's.
    ///
    /// With PKCE S256 (RFC 7636); verifier and state are sealed with the connection. A second start replaces the first. The
    /// tokens that are there stay until new ones are committed.
    ///
    /// # Errors
    /// [`SessionError::InvalidArgument`] for a connection that is not connected this way; [`SessionError::InvalidConnection`] if its
    /// token endpoint is at another provider than its page; [`StoreError::NotFound`](ap_core::store::StoreError::NotFound); [`SessionError`] lists the rest.
    pub async fn authorize_connection(&self, name: &str) -> Result<AuthorizationStart, SessionError> {
        let proof = self.authorize::<ConnectionWrite, _>(())?;
        let keys = self.keys().await?;
        self.session.start_authorization(&proof, &keys, name).await
    }

    /// Takes what the provider sent the owner back with: the query of the callback as it came (RFC 6749 §4.1.2, RFC 9207), at
    /// most 16 KiB. Needs `connection.write`, and the principal who began. Returns the connection's name.
    ///
    /// The state is used up before the code is redeemed, so a callback counts once, over all processes.
    ///
    /// # Errors
    /// [`SessionError::Authorization`] says what failed; [`SessionError`] lists the rest.
    ///
    /// # Cancel safety
    /// Dropped half-way, the code may be redeemed and its tokens lost: the owner has to go again.
    pub async fn complete_authorization(&self, query: &str) -> Result<String, SessionError> {
        let proof = self.authorize::<ConnectionWrite, _>(())?;
        let keys = self.keys().await?;
        let _forget = self.session.parts.routes.forget_afterwards(proof.target());
        self.session.finish_authorization(&proof, &keys, query).await
    }
}

impl Session {
    /// As [`ProjectSession::authorize_connection`], for a connection of the platform. Needs `connection.provision`.
    ///
    /// # Errors
    /// As there.
    pub async fn authorize_platform_connection(&self, name: &str) -> Result<AuthorizationStart, SessionError> {
        let proof = self.authorize::<ConnectionProvision, _>(self.parts.platform, ())?;
        let keys = self.parts.kernel.keyring.tenant(proof.scope()).await?;
        self.start_authorization(&proof, &keys, name).await
    }

    /// As [`ProjectSession::complete_authorization`], for a connection of the platform. Needs `connection.provision`.
    ///
    /// # Errors
    /// As there.
    pub async fn complete_platform_authorization(&self, query: &str) -> Result<String, SessionError> {
        let proof = self.authorize::<ConnectionProvision, _>(self.parts.platform, ())?;
        let keys = self.parts.kernel.keyring.tenant(proof.scope()).await?;
        self.finish_authorization(&proof, &keys, query).await
    }

    async fn start_authorization<P: PermissionMarker, R: Resource>(
        &self,
        proof: &Authorized<P, R>,
        keys: &TenantKeys,
        name: &str,
    ) -> Result<AuthorizationStart, SessionError> {
        let kernel = &self.parts.kernel;
        let Found { record, connection } = self.own(keys, proof.scope(), name).await?.ok_or(NOT_FOUND)?;
        let wrong = || SessionError::InvalidArgument {
            reason: format!(
                "connection `{name}` is not connected by its owner: that takes type OAUTH2, the grant \
                 `authorization_code`, `authorizationUrl` and `redirectUrl`"
            ),
        };
        let app = connection.oauth().and_then(|oauth| oauth.app()).ok_or_else(wrong)?;
        if app.grant != OAuthGrant::AuthorizationCode {
            return Err(wrong());
        }
        // One that was stored before anybody asked.
        self.check_provider(proof.scope(), &connection)?;
        let text = state::seal(keys, proof.scope(), name, &*kernel.entropy)?;
        let verifier = state::verifier(&*kernel.entropy)?;
        let url = request::authorization_url(app, &text, &verifier).ok_or_else(wrong)?;
        let expires = kernel.clock.now().saturating_add(WAY_BACK);
        let (state, principal) = (state::hash(keys, &text), proof.actor().identity().to_string());
        let pending = PendingGrant { state, verifier, principal, expires };
        let connection = connection.map_oauth(|oauth| oauth.with_pending(Some(pending)))?;
        let event = AuditEvent::of(proof, kernel.clock.now()).with_detail("authorization", "begun");
        self.rewrite(keys, record, &connection, event).await?;
        Ok(AuthorizationStart { url, expires })
    }

    async fn finish_authorization<P: PermissionMarker, R: Resource>(
        &self,
        proof: &Authorized<P, R>,
        keys: &TenantKeys,
        query: &str,
    ) -> Result<String, SessionError> {
        let kernel = &self.parts.kernel;
        let failed = |reason: String| SessionError::Authorization { reason };
        let callback = Callback::parse(query).map_err(|reason| failed(reason.to_owned()))?;
        // One answer for whatever is wrong with the state.
        let unknown =
            || failed("this authorization is not known here, is over, or was used already: begin again".to_owned());
        let owner = proof.scope();
        if let Some(sealed) = state::envelope(&callback.state) {
            // Another process may have sealed it, under a key that is new.
            kernel.keyring.learn(owner, [&sealed]).await?;
        }
        let name = match state::open(keys, owner, &callback.state) {
            Some(name) => name,
            // It may have been sealed before a rotation that has retired its key: nobody seals a state anew.
            None => {
                let retired = kernel.keyring.with_retired(owner).await?;
                state::open(&retired, owner, &callback.state).ok_or_else(unknown)?
            }
        };
        let Found { record, connection } = self.own(keys, owner, &name).await?.ok_or_else(unknown)?;
        let oauth = connection.oauth().ok_or_else(unknown)?;
        let pending = oauth.pending().ok_or_else(unknown)?;
        let same_state = constant_time_eq(&state::hash(keys, &callback.state).0, &pending.state.0);
        let same_principal = pending.principal == proof.actor().identity().to_string();
        if !same_state || !same_principal || pending.expires <= kernel.clock.now() {
            return Err(unknown());
        }
        let verifier = pending.verifier.clone();
        let issuer = oauth.app().and_then(|app| app.issuer.clone());
        let outcome = match (&issuer, &callback.issuer) {
            // RFC 9207 §2.4: compared as text.
            (Some(expected), Some(given)) if expected == given => Ok(()),
            (Some(_), Some(_)) => Err("the callback comes from another issuer (RFC 9207)"),
            (Some(_), None) => Err("the callback does not say which issuer it comes from (RFC 9207)"),
            (None, _) => Ok(()),
        };
        let outcome = outcome.map_err(str::to_owned).and_then(|()| {
            // Only a word from the list is repeated: the provider, or whoever made the callback up, wrote it.
            callback.outcome.map_err(|code| match ERRORS.contains(&code.as_str()) {
                true => format!("the provider says `{code}`"),
                false => "the provider says no, for a reason that RFC 6749 does not know".to_owned(),
            })
        });
        let event = |word: &str| AuditEvent::of(proof, kernel.clock.now()).with_detail("authorization", word);
        let used_up = connection.map_oauth(|oauth| oauth.with_pending(None))?;
        let id = record.id;
        let event_of_return = match &outcome {
            Ok(_) => event("returned"),
            Err(reason) => event("returned").with_outcome(AuditOutcome::Failure, reason),
        };
        self.rewrite(keys, record, &used_up, event_of_return).await.map_err(|error| match error {
            // Another process was faster with the same callback.
            SessionError::Store(ap_core::store::StoreError::Conflict { .. }) => unknown(),
            other => other,
        })?;
        let code = outcome.map_err(failed)?;
        let oauth = used_up.oauth().ok_or_else(unknown)?;
        let request = TokenRequest::Code { code: &code, verifier: &verifier };
        let tokens = match client::ask(kernel, oauth, None, request).await {
            Ok(tokens) => tokens,
            Err(failure) => {
                let failure = failure.to_string();
                let event = event("redeemed").with_detail("name", name.as_str());
                let event = event.with_outcome(AuditOutcome::Failure, &failure);
                kernel.backend.append_audit(&[kernel.seal_event(keys, &event)?]).await?;
                return Err(failed(failure));
            }
        };
        // The code is spent: these tokens are kept, unless somebody has said meanwhile that they are to go elsewhere.
        let mut found = self.own(keys, owner, &name).await?.ok_or(NOT_FOUND)?;
        let mut tokens = Some(tokens);
        loop {
            if found.record.id != id || !found.connection.is_same_definition(&used_up) {
                return Err(failed("the connection was changed meanwhile: begin again".to_owned()));
            }
            let Some(new) = tokens.take() else { return Err(unknown()) };
            let connection = found.connection.map_oauth(|oauth| oauth.with_tokens(new))?.with_fault(None);
            match self.rewrite(keys, found.record, &connection, event("connected")).await {
                Ok(()) => return Ok(name),
                Err(SessionError::Store(ap_core::store::StoreError::Conflict { .. })) => {}
                Err(error) => return Err(error),
            }
            found = self.own(keys, owner, &name).await?.ok_or(NOT_FOUND)?;
            tokens = found.connection.oauth().and_then(|oauth| connection.into_oauth()?.into_tokens_for(oauth));
        }
    }
}

/// How long an owner may take at the provider.
const WAY_BACK: Duration = Duration::from_secs(600);
/// RFC 6749 §4.1.2.1, and OpenID Connect Core §3.1.2.6.
const ERRORS: [&str; 11] = [
    "access_denied",
    "account_selection_required",
    "consent_required",
    "interaction_required",
    "invalid_request",
    "invalid_scope",
    "login_required",
    "server_error",
    "temporarily_unavailable",
    "unauthorized_client",
    "unsupported_response_type",
];
