//! One exchange with a token endpoint.

use std::time::Duration;

use ap_core::{
    capability::HttpRequest,
    connection::{
        ClientAuth, Connection, ConnectionValue, FieldValue, OAuth2, OAuthApp, OAuthTokens, Origin, Placement,
    },
    id::ConnectionId,
};
use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};

use super::{
    request::{TokenRequest, basic_part},
    response::{self, TokenFailure},
};
use crate::{
    egress::credential::{RunConnection, RunCredentials, Stands},
    kernel::Kernel,
    secret::Unresolved,
};

/// Asks the token endpoint of `oauth`'s client, with another secret than the one in use if one is given. Whatever happens to the future, the provider may have acted.
pub(crate) async fn ask(
    kernel: &Kernel,
    oauth: &OAuth2,
    another_secret: Option<&FieldValue>,
    request: TokenRequest<'_>,
) -> Result<OAuthTokens, TokenFailure> {
    let app = oauth.app().ok_or_else(|| TokenFailure::Refused("the connection has no client".to_owned()))?;
    let (given, reference) = match another_secret {
        Some(FieldValue::Reference(reference)) => (None, Some(reference)),
        Some(FieldValue::Secret(secret)) => (Some(secret), None),
        Some(FieldValue::Clear(_)) | None => (oauth.client_secret(), oauth.client_secret_from()),
    };
    let elsewhere = match reference {
        Some(reference) => Some(kernel.secrets.secret(&*kernel.clock, reference).await.map_err(not_to_be_had)?),
        None => None,
    };
    let client_secret = elsewhere.as_ref().or(given);
    let (credentials, credential) = client_in_header(app, client_secret)?;
    let mut http = HttpRequest::new("POST", app.token_url.as_str());
    http.headers = vec![
        ("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned()),
        ("Accept".to_owned(), "application/json".to_owned()),
    ];
    http.body = Some(Bytes::from_owner(request.form(app, client_secret)));
    http.credential = credential;
    (http.timeout, http.max_response_bytes, http.max_redirects) = (TIMEOUT, MAX_RESPONSE_BYTES, 0);
    let answer = kernel.egress.for_tokens(credentials).send(http).await.map_err(response::failed)?;
    // From when the answer came: nothing is called good for longer than it is by less than the time of the exchange.
    // What an earlier consent gave belongs to that one, and may be another account's.
    let previous = match request {
        TokenRequest::Code { .. } => None,
        _ => oauth.tokens(),
    };
    response::read(&answer, kernel.clock.now(), previous)
}

/// Nothing was sent then.
fn not_to_be_had(unresolved: Unresolved) -> TokenFailure {
    let reason = format!("the client's {unresolved}");
    if unresolved.error.is_retryable() {
        TokenFailure::Transient { reason, retry_after: None }
    } else {
        TokenFailure::Refused(reason)
    }
}

/// The client as HTTP Basic, bound to its token endpoint, if that is how it authenticates.
fn client_in_header(
    app: &OAuthApp,
    secret: Option<&SecretString>,
) -> Result<(RunCredentials, Option<String>), TokenFailure> {
    let Some(secret) = secret.filter(|_| app.client_auth == ClientAuth::Header) else {
        return Ok((RunCredentials::default(), None));
    };
    let refused =
        |_: &dyn std::error::Error| TokenFailure::Refused("the client cannot authenticate by HTTP Basic".to_owned());
    let password = SecretString::from(basic_part(secret.expose_secret()).as_str());
    let value = ConnectionValue::BasicAuth { username: basic_part(&app.client_id).to_string(), password };
    let origin = Origin::of_url(&app.token_url).map_err(|error| refused(&error))?;
    let connection = Connection::new("oauth-client", value, vec![Placement::Basic], vec![origin]);
    let connection = connection.map_err(|error| refused(&error))?;
    let placeholders = vec![(CLIENT.to_owned(), Stands::Whole)];
    let bound = RunConnection { id: ConnectionId::from_u128(0), connection, placeholders };
    let credentials = RunCredentials::new(vec![bound]).map_err(|error| refused(&error))?;
    Ok((credentials, Some(CLIENT.to_owned())))
}

/// Not the form of a placeholder, so nothing that is sent can hold it by chance.
const CLIENT: &str = "client of the token endpoint";
/// Longest exchange: well under a lease, so that a holder is done before it is replaced.
const TIMEOUT: Duration = Duration::from_secs(20);
const MAX_RESPONSE_BYTES: usize = 256 << 10;
