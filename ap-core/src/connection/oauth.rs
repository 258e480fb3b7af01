//! OAuth 2.0 connections (RFC 6749): the client, its tokens, and when those are due for renewal.

use std::{collections::BTreeMap, fmt, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{Connection, ConnectionError, ConnectionValue, Origin, SecretReference};
use crate::{store::LookupHash, time::Timestamp};

/// A client of a provider, and the tokens it got.
///
/// Flows may see the access token's placeholder and the clear facts about it; refresh token and client secret are for the
/// token endpoint alone.
pub struct OAuth2 {
    app: Option<OAuthApp>,
    pub(super) client_secret: Option<SecretString>,
    pub(super) client_secret_from: Option<SecretReference>,
    tokens: Option<OAuthTokens>,
    pending: Option<PendingGrant>,
}

impl OAuth2 {
    /// A client that has no tokens yet: it is to be connected by its owner (authorization code), or gets one at its first use
    /// (client credentials). A public client has no secret.
    #[must_use]
    pub const fn client(app: OAuthApp, client_secret: Option<SecretString>) -> Self {
        Self { app: Some(app), client_secret, client_secret_from: None, tokens: None, pending: None }
    }

    /// Tokens that somebody else got, and nobody here can renew.
    #[must_use]
    pub const fn of_tokens(tokens: OAuthTokens) -> Self {
        Self { app: None, client_secret: None, client_secret_from: None, tokens: Some(tokens), pending: None }
    }

    /// With a secret that is kept elsewhere, and resolved whenever the token endpoint is asked; one that was given is forgotten.
    #[must_use]
    pub fn with_client_secret_from(self, reference: SecretReference) -> Self {
        Self { client_secret: None, client_secret_from: Some(reference), ..self }
    }

    /// With the secret that [`OAuth2::client_secret_from`] refers to, if `resolve` knows it.
    pub(super) fn with_resolved(self, resolve: impl Fn(&SecretReference) -> Option<SecretString>) -> Self {
        let found = self.client_secret_from.as_ref().and_then(resolve);
        Self { client_secret: found.or(self.client_secret), ..self }
    }

    /// With these tokens.
    #[must_use]
    pub fn with_tokens(self, tokens: OAuthTokens) -> Self {
        Self { tokens: Some(tokens), ..self }
    }

    /// Waiting for its owner to come back from the provider; `None` ends the wait.
    #[must_use]
    pub fn with_pending(self, pending: Option<PendingGrant>) -> Self {
        Self { pending, ..self }
    }

    /// Takes the tokens out, if they are those of the client of `other`: a new definition of the same client keeps its grant.
    #[must_use]
    pub fn into_tokens_for(self, other: &Self) -> Option<OAuthTokens> {
        let same = match (&self.app, &other.app) {
            (Some(one), Some(two)) => {
                (&one.client_id, &one.token_url, one.grant) == (&two.client_id, &two.token_url, two.grant)
            }
            _ => false,
        };
        self.tokens.filter(|_| same)
    }

    /// The client, unless only tokens are known.
    #[must_use]
    pub const fn app(&self) -> Option<&OAuthApp> {
        self.app.as_ref()
    }

    /// The client's secret, as far as it is known here.
    #[must_use]
    pub const fn client_secret(&self) -> Option<&SecretString> {
        self.client_secret.as_ref()
    }

    /// Where the client's secret is kept, if it is not kept here.
    #[must_use]
    pub const fn client_secret_from(&self) -> Option<&SecretReference> {
        self.client_secret_from.as_ref()
    }

    /// The tokens, once it is connected.
    #[must_use]
    pub const fn tokens(&self) -> Option<&OAuthTokens> {
        self.tokens.as_ref()
    }

    /// The authorization under way.
    #[must_use]
    pub const fn pending(&self) -> Option<&PendingGrant> {
        self.pending.as_ref()
    }

    /// What is to be done about the tokens at `now`.
    ///
    /// They are due from `min(15 min, lifetime / 2)` before their end on.
    #[must_use]
    pub fn renewal(&self, now: Timestamp) -> Renewal {
        let of_client = self.app.as_ref().is_some_and(|app| app.grant == OAuthGrant::ClientCredentials);
        let Some(tokens) = &self.tokens else {
            return if of_client { Renewal::Due { still_good: false } } else { Renewal::Impossible };
        };
        let Some(expires) = tokens.expires else { return Renewal::NotDue };
        let still_good = now < expires;
        if !of_client && (self.app.is_none() || tokens.refresh.is_none()) {
            return if still_good { Renewal::NotDue } else { Renewal::Impossible };
        }
        let window = WINDOW.min(expires.saturating_since(tokens.issued) / 2);
        if now < expires.saturating_sub(window) { Renewal::NotDue } else { Renewal::Due { still_good } }
    }

    /// Every secret but the access token: what no flow has even a placeholder for.
    pub fn hidden_secrets(&self) -> impl Iterator<Item = &SecretString> {
        let verifier = self.pending.as_ref().map(|pending| &pending.verifier);
        let refresh = self.tokens.as_ref().and_then(|tokens| tokens.refresh.as_ref());
        [self.client_secret.as_ref(), refresh, verifier].into_iter().flatten()
    }

    pub(super) fn check(&self) -> Result<(), ConnectionError> {
        if let Some(app) = &self.app {
            app.check()?;
            let secret = self.client_secret.is_some() || self.client_secret_from.is_some();
            if app.grant == OAuthGrant::ClientCredentials && !secret {
                return refuse("client_secret", "the client credentials grant needs it (RFC 6749 §4.4)");
            }
        }
        let access = self.tokens.iter().map(|tokens| ("access_token", &tokens.access));
        let refresh = self.tokens.iter().filter_map(|tokens| Some(("refresh_token", tokens.refresh.as_ref()?)));
        let client = self.client_secret.iter().map(|secret| ("client_secret", secret));
        for (field, secret) in access.chain(refresh).chain(client) {
            let text = secret.expose_secret();
            if !(super::MIN_SECRET_BYTES..=super::MAX_FIELD_BYTES).contains(&text.len()) {
                return refuse(field, "has 8 to 16384 bytes: shorter ones cannot be told from ordinary text in output");
            }
            // RFC 6749 appendix A: VSCHAR.
            if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
                return refuse(field, "has visible ASCII characters only (RFC 6749 appendix A)");
            }
        }
        if self.app.is_none() && self.tokens.as_ref().is_some_and(|tokens| tokens.refresh.is_some()) {
            return refuse(
                "refresh_token",
                "nobody could use it: give `tokenUrl` and `clientId` as well, or leave it out",
            );
        }
        Ok(())
    }
}

/// What is to be done about tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// They are to be renewed now.
    Due {
        /// Whether the access token may still be used meanwhile.
        still_good: bool,
    },
    /// There are none, or they are over, and only the owner can get new ones.
    Impossible,
    /// Nothing.
    NotDue,
}

/// A client at a provider. Nothing of it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OAuthApp {
    /// How it gets its tokens.
    #[serde(default)]
    pub grant: OAuthGrant,
    /// The id the provider gave it (RFC 6749 §2.2).
    pub client_id: String,
    /// How it authenticates at the token endpoint.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// Where its owner is sent; only for the authorization code grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_url: Option<String>,
    /// The token endpoint.
    pub token_url: String,
    /// Where the provider sends the owner back to: the host's callback, as registered (RFC 6749 §3.1.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_url: Option<String>,
    /// What is asked for, separated by spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The provider's issuer identifier: if it is given, the callback must name it (RFC 9207).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// More parameters of the authorization request, such as `prompt` or `access_type`; with the client credentials grant, of
    /// the token request, such as `audience`. At most 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

impl OAuthApp {
    fn check(&self) -> Result<(), ConnectionError> {
        let visible =
            |text: &str| (1..=MAX_TEXT).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !visible(&self.client_id) {
            return refuse("clientId", "has 1 to 2048 visible ASCII characters (RFC 6749 appendix A)");
        }
        if self.scope.as_ref().is_some_and(|scope| !visible(scope)) {
            return refuse("scope", "has 1 to 2048 visible ASCII characters (RFC 6749 §3.3)");
        }
        let code = self.grant == OAuthGrant::AuthorizationCode;
        let urls = [
            ("tokenUrl", Some(&self.token_url)),
            ("authorizationUrl", self.authorization_url.as_ref()),
            ("redirectUrl", self.redirect_url.as_ref()),
            ("issuer", self.issuer.as_ref()),
        ];
        for (name, url) in urls {
            let Some(url) = url else { continue };
            if url.len() > MAX_TEXT || url.contains('#') || !is_web(url) {
                return refuse(name, "is an absolute `https` URL without user information and fragment");
            }
        }
        if code && (self.authorization_url.is_none() != self.redirect_url.is_none()) {
            return refuse("redirectUrl", "`authorizationUrl` and `redirectUrl` belong together");
        }
        let reserved = |name: &String| RESERVED.contains(&name.as_str()) || !visible(name);
        if self.parameters.len() > MAX_PARAMETERS || self.parameters.keys().any(reserved) {
            return refuse("parameters", "are at most 16, and none that OAuth 2.0 itself sets");
        }
        if self.parameters.values().any(|value| value.len() > MAX_TEXT) {
            return refuse("parameters", "have values of at most 2048 bytes");
        }
        Ok(())
    }
}

/// How a client gets its tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OAuthGrant {
    /// Its owner consents, with PKCE (RFC 6749 §4.1, RFC 7636); refresh tokens renew (§6).
    #[default]
    AuthorizationCode,
    /// In its own name (RFC 6749 §4.4).
    ClientCredentials,
}

/// How a client authenticates at the token endpoint (RFC 6749 §2.3.1). Wire names are the reference product's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum ClientAuth {
    /// `client_id` and `client_secret` in the body.
    Body,
    /// HTTP Basic; what every provider must support.
    #[default]
    Header,
}

/// The tokens of one grant.
pub struct OAuthTokens {
    access: SecretString,
    refresh: Option<SecretString>,
    issued: Timestamp,
    expires: Option<Timestamp>,
    expires_text: String,
    token_type: String,
    scope: Option<String>,
}

impl OAuthTokens {
    /// Whether these are the very tokens of `other`.
    #[must_use]
    pub fn are_those_of(&self, other: &Self) -> bool {
        let same_refresh = match (&self.refresh, &other.refresh) {
            (Some(one), Some(two)) => one.expose_secret() == two.expose_secret(),
            (None, None) => true,
            _ => false,
        };
        same_refresh && self.issued == other.issued && self.access.expose_secret() == other.access.expose_secret()
    }

    /// A bearer token, got at `issued`.
    #[must_use]
    pub fn bearer(access: SecretString, issued: Timestamp) -> Self {
        let (expires_text, token_type) = (String::new(), "Bearer".to_owned());
        Self { access, refresh: None, issued, expires: None, expires_text, token_type, scope: None }
    }

    /// With this refresh token.
    #[must_use]
    pub fn with_refresh(self, refresh: Option<SecretString>) -> Self {
        Self { refresh, ..self }
    }

    /// Good until then; `None`: until somebody says otherwise.
    #[must_use]
    pub fn with_expiry(self, expires: Option<Timestamp>) -> Self {
        Self { expires, expires_text: expires.map(|at| at.to_string()).unwrap_or_default(), ..self }
    }

    /// Good for this, as the provider says.
    #[must_use]
    pub fn with_scope(self, scope: Option<String>) -> Self {
        Self { scope, ..self }
    }

    /// The access token.
    #[must_use]
    pub const fn access(&self) -> &SecretString {
        &self.access
    }

    /// The refresh token.
    #[must_use]
    pub const fn refresh(&self) -> Option<&SecretString> {
        self.refresh.as_ref()
    }

    /// When it was got.
    #[must_use]
    pub const fn issued(&self) -> Timestamp {
        self.issued
    }

    /// When the access token ends.
    #[must_use]
    pub const fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// [`OAuthTokens::expires`] as RFC 3339, or nothing.
    #[must_use]
    pub fn expires_text(&self) -> &str {
        &self.expires_text
    }

    /// Always `Bearer` (RFC 6750); what else a provider may give is refused.
    #[must_use]
    pub fn token_type(&self) -> &str {
        &self.token_type
    }

    /// What it is good for, if the provider said so.
    #[must_use]
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }
}

/// An owner on the way to the provider and back.
pub struct PendingGrant {
    /// Keyed hash of the `state` that must come back (RFC 6749 §10.12). Used once.
    pub state: LookupHash,
    /// PKCE's code verifier (RFC 7636 §4.1).
    pub verifier: SecretString,
    /// Who went; nobody else may come back in their place.
    pub principal: String,
    /// Until when the way back is open.
    pub expires: Timestamp,
}

impl Connection {
    /// The OAuth 2.0 part, if that is its type.
    #[must_use]
    pub const fn oauth(&self) -> Option<&OAuth2> {
        match &self.value {
            ConnectionValue::OAuth2(oauth) => Some(oauth),
            _ => None,
        }
    }

    /// Takes the OAuth 2.0 part out, if that is its type.
    #[must_use]
    pub fn into_oauth(self) -> Option<OAuth2> {
        match self.value {
            ConnectionValue::OAuth2(oauth) => Some(*oauth),
            _ => None,
        }
    }

    /// Whether `other` lets the same client's tokens go to the same places, for the same pieces and scripts. Names, and what
    /// the tokens are, do not matter.
    ///
    /// Who may write a definition is not who consented: only over one that is the same do tokens stay.
    #[must_use]
    pub fn is_same_definition(&self, other: &Self) -> bool {
        let (Some(one), Some(two)) = (self.oauth(), other.oauth()) else { return false };
        let secrets = match (&one.client_secret, &two.client_secret) {
            (Some(one), Some(two)) => one.expose_secret() == two.expose_secret(),
            (None, None) => true,
            _ => false,
        };
        // Where it is kept says which it is, whether it is known at the moment or not.
        let secrets = match (&one.client_secret_from, &two.client_secret_from) {
            (None, None) => secrets,
            (one, two) => one == two,
        };
        secrets
            && one.app == two.app
            && self.origins == other.origins
            && self.placements == other.placements
            && self.terms.pieces == other.terms.pieces
            && self.terms.reveal_to_code == other.terms.reveal_to_code
            && self.terms.validation == other.terms.validation
    }

    /// The same connection with its OAuth 2.0 part changed; others stay as they are.
    ///
    /// # Errors
    /// [`ConnectionError`] if a token is none that can be kept.
    pub fn map_oauth(self, change: impl FnOnce(OAuth2) -> OAuth2) -> Result<Self, ConnectionError> {
        let value = match self.value {
            ConnectionValue::OAuth2(oauth) => {
                let changed = change(*oauth);
                changed.check()?;
                ConnectionValue::OAuth2(Box::new(changed))
            }
            other => other,
        };
        Ok(Self { value, ..self })
    }
}

impl fmt::Debug for OAuth2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuth2")
            .field("app", &self.app)
            .field("connected", &self.tokens.is_some())
            .field("pending", &self.pending.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for OAuthTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthTokens")
            .field("issued", &self.issued)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PendingGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingGrant").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Whether a text is an absolute `http` or `https` URL without user information.
pub(super) fn is_web(url: &str) -> bool {
    url::Url::parse(url).is_ok_and(|url| Origin::of_parsed(&url).is_some())
}

fn refuse<T>(field: &str, reason: &str) -> Result<T, ConnectionError> {
    Err(ConnectionError::Field { field: field.to_owned(), reason: reason.to_owned() })
}

/// How long before their end tokens are renewed, unless they live shorter than twice as long.
const WINDOW: Duration = Duration::from_secs(15 * 60);
const MAX_TEXT: usize = 2048;
const MAX_PARAMETERS: usize = 16;
/// Parameters that are set by the grant itself (RFC 6749, RFC 7636).
const RESERVED: [&str; 12] = [
    "client_id",
    "client_secret",
    "code",
    "code_challenge",
    "code_challenge_method",
    "code_verifier",
    "grant_type",
    "redirect_uri",
    "refresh_token",
    "response_type",
    "scope",
    "state",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn app(grant: OAuthGrant) -> OAuthApp {
        OAuthApp {
            grant,
            client_id: "client".to_owned(),
            client_auth: ClientAuth::Header,
            authorization_url: Some("https://id.example/authorize".to_owned()),
            token_url: "https://id.example/token".to_owned(),
            redirect_url: Some("https://host.example/callback".to_owned()),
            scope: None,
            issuer: None,
            parameters: BTreeMap::new(),
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn tokens(lifetime: i64) -> OAuthTokens {
        OAuthTokens::bearer("canary-access".into(), at(0)).with_expiry(Some(at(lifetime)))
    }

    #[test]
    fn the_window_is_a_quarter_of_an_hour_or_half_the_lifetime() {
        let oauth = |lifetime| {
            let tokens = tokens(lifetime).with_refresh(Some("canary-refresh".into()));
            OAuth2::client(app(OAuthGrant::AuthorizationCode), None).with_tokens(tokens)
        };
        let hour = oauth(3_600);
        assert_eq!(hour.renewal(at(2_699)), Renewal::NotDue);
        assert_eq!(hour.renewal(at(2_700)), Renewal::Due { still_good: true });
        assert_eq!(hour.renewal(at(3_599)), Renewal::Due { still_good: true });
        assert_eq!(hour.renewal(at(3_600)), Renewal::Due { still_good: false });
        let short = oauth(60);
        assert_eq!(short.renewal(at(29)), Renewal::NotDue);
        assert_eq!(short.renewal(at(30)), Renewal::Due { still_good: true });
    }

    #[test]
    fn who_cannot_renew_uses_the_token_to_its_end() {
        let code = OAuth2::client(app(OAuthGrant::AuthorizationCode), None).with_tokens(tokens(60));
        assert_eq!((code.renewal(at(59)), code.renewal(at(60))), (Renewal::NotDue, Renewal::Impossible));
        let alone = OAuth2::of_tokens(tokens(60));
        assert_eq!((alone.renewal(at(59)), alone.renewal(at(60))), (Renewal::NotDue, Renewal::Impossible));
        let endless = OAuth2::of_tokens(OAuthTokens::bearer("canary-access".into(), at(0)));
        assert_eq!(endless.renewal(at(1_000_000_000)), Renewal::NotDue);
        assert_eq!(OAuth2::client(app(OAuthGrant::AuthorizationCode), None).renewal(at(0)), Renewal::Impossible);
        let client = OAuth2::client(app(OAuthGrant::ClientCredentials), Some("canary-client".into()));
        assert_eq!(client.renewal(at(0)), Renewal::Due { still_good: false });
        assert_eq!(client.with_tokens(tokens(60)).renewal(at(30)), Renewal::Due { still_good: true });
    }

    #[test]
    fn debug_shows_no_secret() {
        let tokens = tokens(60).with_refresh(Some("canary-refresh".into()));
        let pending = PendingGrant {
            state: LookupHash([1; 32]),
            verifier: "canary-verifier".into(),
            principal: "canary-principal".to_owned(),
            expires: at(1),
        };
        let shown = format!("{tokens:?} {pending:?}");
        let oauth = OAuth2::client(app(OAuthGrant::AuthorizationCode), Some("canary-client".into()));
        let oauth = oauth.with_tokens(tokens).with_pending(Some(pending));
        assert!(!format!("{shown} {oauth:?}").contains("canary"), "{shown} {oauth:?}");
        assert_eq!(oauth.hidden_secrets().count(), 3);
    }

    #[test]
    fn clients_that_cannot_work_are_refused() {
        type Change = fn(&mut OAuthApp);
        let wrong: [Change; 9] = [
            |app| app.client_id.clear(),
            |app| app.client_id = "cl\u{ef}ent".to_owned(),
            |app| app.token_url = "ftp://id.example".to_owned(),
            |app| app.token_url = "https://user:word@id.example".to_owned(),
            |app| app.token_url = "https://id.example/#here".to_owned(),
            |app| app.redirect_url = None,
            |app| app.scope = Some(String::new()),
            |app| drop(app.parameters.insert("state".to_owned(), "mine".to_owned())),
            |app| app.parameters = (0..17).map(|number| (format!("p{number}"), String::new())).collect(),
        ];
        assert!(OAuth2::client(app(OAuthGrant::AuthorizationCode), None).check().is_ok());
        for change in wrong {
            let mut app = app(OAuthGrant::AuthorizationCode);
            change(&mut app);
            assert!(OAuth2::client(app.clone(), None).check().is_err(), "{app:?}");
        }
        assert!(OAuth2::client(app(OAuthGrant::ClientCredentials), None).check().is_err());
        let orphan = OAuth2::of_tokens(tokens(60).with_refresh(Some("canary-refresh".into())));
        assert!(orphan.check().is_err());
        for token in ["short", "with\nbreak", "caf\u{e9}-caf\u{e9}"] {
            assert!(OAuth2::of_tokens(OAuthTokens::bearer(token.into(), at(0))).check().is_err(), "{token}");
        }
    }
}
