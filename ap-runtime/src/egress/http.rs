//! [`HttpEgress`] and [`RunHttp`]: the HTTP client pieces get. The only file that names the client library.

use std::{
    borrow::Cow,
    error::Error,
    fmt, io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ap_core::{
    capability::{HttpClient, HttpError, HttpRequest, HttpResponse},
    flow::AllowedHosts,
};
use ap_crypto::redact::Redactor;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, header};
use reqwest::{
    dns::{Addrs, Name, Resolve, Resolving},
    tls::Version,
};
use url::Host;

#[cfg(feature = "objects")]
use super::{
    credential::PreparedRequest,
    header::{parse_headers, parse_method},
    place::prefixed_value,
    sign::sigv4_signature,
};
use super::{
    credential::{CredentialUse, RunCredentials},
    guard::{EgressPolicy, Guard, Refusal, ResolveError},
    redirect::{FilledHop, Hop},
    trust::TrustRoots,
    url::CheckedUrl,
};
use crate::clock::{Clock, SystemClock};
#[cfg(feature = "objects")]
use ap_crypto::sigv4::SignedField;
#[cfg(feature = "objects")]
use secrecy::ExposeSecret;
use secrecy::SecretString;

/// Sends HTTP requests for the runs of one runtime. Cheap to clone; clones share the connection pool.
///
/// No proxy from the environment, no cookies, no `Referer`, no redirects but ours, no retries; TLS 1.2 or newer against
/// the platform's trust roots. Connections are made to checked addresses only, and pooled per policy.
#[derive(Clone)]
pub struct HttpEgress {
    shared: Arc<Shared>,
}

struct Shared {
    policy: EgressPolicy,
    /// Connects to whatever the policy allows.
    ordinary: reqwest::Client,
    /// For unencrypted requests that carry credentials: connects only where the policy allows those. A pool of its own.
    plain_credentials: reqwest::Client,
    /// For requests that accept nothing older than TLS 1.3.
    tls13: reqwest::Client,
    max_response_bytes: usize,
    scrub: bool,
    clock: Arc<dyn Clock>,
}

impl HttpEgress {
    /// Starts building a client that goes through `guard`.
    #[must_use]
    pub fn builder(guard: Guard) -> HttpEgressBuilder {
        HttpEgressBuilder {
            guard,
            clock: Arc::new(SystemClock),
            roots: TrustRoots::none(),
            max_response_bytes: DEFAULT_MAX_RESPONSE_BYTES,
            scrub: true,
        }
    }

    /// The client of one attempt, with the credentials of its run.
    #[must_use]
    pub fn for_run(&self, credentials: Arc<RunCredentials>) -> RunHttp {
        RunHttp { egress: self.clone(), credentials, uses: Mutex::default(), confidential: false, allowed: None }
    }

    /// The client for a token endpoint: every request of it counts as one that carries a credential.
    pub(crate) fn for_tokens(&self, credentials: Arc<RunCredentials>) -> RunHttp {
        RunHttp { confidential: true, ..self.for_run(credentials) }
    }

    /// Sends what another layer has made and signed. Redirects are not followed; the answer is scrubbed.
    #[cfg(feature = "objects")]
    pub(super) async fn send_signed(
        &self,
        request: SignedRequest<'_>,
        (timeout, max_bytes): (Duration, usize),
        credentials: &Arc<RunCredentials>,
    ) -> Result<HttpResponse, HttpError> {
        let limit = timeout.clamp(MIN_TIMEOUT, MAX_TIMEOUT);
        let run = self.for_run(Arc::clone(credentials));
        let outcome = tokio::time::timeout(limit, run.exchange_signed(request, max_bytes)).await;
        outcome.unwrap_or(Err(HttpError::Timeout { limit })).map_err(|error| scrub(error, credentials.redactor()))
    }

    /// Judges a URL as if it were to be sent to.
    #[cfg(feature = "objects")]
    pub(super) fn check_url(&self, url: &str) -> Result<(), HttpError> {
        Ok(CheckedUrl::parse(url, &self.shared.policy).map(drop)?)
    }

    /// Whether credentials are masked in responses.
    pub(crate) fn scrubs(&self) -> bool {
        self.shared.scrub
    }

    async fn dispatch(&self, filled: FilledHop) -> Result<reqwest::Response, HttpError> {
        let FilledHop { method, request, confidential, tls13, .. } = filled;
        let url = request.url.as_url().clone();
        let plain = url.scheme() != "https";
        if plain && tls13 {
            let reason = "TLS 1.3 was asked for, and the URL is not `https`".to_owned();
            return Err(HttpError::InvalidRequest { reason });
        }
        // An address in the URL was judged with it. A name is judged by the client's resolver, which is the guard.
        let literal = match url.host() {
            Some(Host::Ipv4(v4)) => Some(IpAddr::V4(v4)),
            Some(Host::Ipv6(v6)) => Some(IpAddr::V6(v6)),
            Some(Host::Domain(_)) | None => None,
        };
        let allowed = |address| self.shared.policy.allows_plain_http_credentials(address);
        if plain && confidential && literal.is_some_and(|address| !allowed(address)) {
            return Err(plain_credential());
        }
        let client = match (plain && confidential, tls13) {
            (true, _) => &self.shared.plain_credentials,
            (false, true) => &self.shared.tls13,
            (false, false) => &self.shared.ordinary,
        };
        let mut headers = request.headers;
        #[cfg(feature = "gzip")]
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        let mut builder = client.request(method, url).headers(headers);
        if let Some(body) = request.body {
            builder = builder.body(body);
        }
        builder.send().await.map_err(|error| error_of(&error))
    }
}

/// A request of another layer, ready to be sent but for its signature's place in the head.
#[cfg(feature = "objects")]
pub(super) struct SignedRequest<'a> {
    /// The name of the connection it is signed with.
    pub(super) connection: &'a str,
    pub(super) method: &'a str,
    pub(super) url: &'a str,
    pub(super) headers: Vec<(String, String)>,
    pub(super) signed: Vec<SignedField>,
    pub(super) body: Option<Bytes>,
}

impl fmt::Debug for HttpEgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpEgress")
            .field("policy", &self.shared.policy)
            .field("max_response_bytes", &self.shared.max_response_bytes)
            .field("scrub", &self.shared.scrub)
            .finish_non_exhaustive()
    }
}

/// Options of [`HttpEgress`].
#[derive(Clone, Debug)]
pub struct HttpEgressBuilder {
    guard: Guard,
    clock: Arc<dyn Clock>,
    roots: TrustRoots,
    max_response_bytes: usize,
    scrub: bool,
}

impl HttpEgressBuilder {
    /// Sets the largest response body, whatever a request asks for. Unit: bytes after decoding. Default: 32 MiB.
    #[must_use]
    pub const fn with_max_response_bytes(mut self, max_response_bytes: usize) -> Self {
        self.max_response_bytes = max_response_bytes;
        self
    }

    /// Sets where the time of signatures comes from. Default: the machine's clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets which authorities are trusted beside the machine's own. Default: none.
    #[must_use]
    pub fn with_trust_roots(mut self, roots: TrustRoots) -> Self {
        self.roots = roots;
        self
    }

    /// Opens the options that give a promise up.
    #[must_use]
    pub fn dangerous(self) -> DangerousHttpEgressBuilder {
        DangerousHttpEgressBuilder { builder: self }
    }

    /// Builds the client.
    ///
    /// # Errors
    /// [`HttpEgressError`] if TLS cannot be set up: a trust root that is no certificate, or none on this machine.
    pub fn build(self) -> Result<HttpEgress, HttpEgressError> {
        let mut roots = Vec::new();
        for pem in self.roots.pem() {
            roots.extend(reqwest::Certificate::from_pem_bundle(pem).map_err(HttpEgressError)?);
        }
        let client = |plain_credentials, oldest_tls| {
            let resolver = CheckedResolver { guard: self.guard.clone(), plain_credentials };
            let builder = reqwest::Client::builder();
            builder
                .dns_resolver(resolver)
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .tls_version_min(oldest_tls)
                .tls_certs_merge(roots.iter().cloned())
                .connect_timeout(CONNECT_TIMEOUT)
                .http1_max_headers(MAX_RESPONSE_FIELDS)
                .http2_max_header_list_size(MAX_RESPONSE_HEAD_BYTES)
                .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
                .build()
                .map_err(HttpEgressError)
        };
        Ok(HttpEgress {
            shared: Arc::new(Shared {
                policy: self.guard.policy().clone(),
                ordinary: client(false, Version::TLS_1_2)?,
                plain_credentials: client(true, Version::TLS_1_2)?,
                tls13: client(false, Version::TLS_1_3)?,
                max_response_bytes: self.max_response_bytes,
                scrub: self.scrub,
                clock: self.clock,
            }),
        })
    }
}

/// Options that give a promise up.
#[derive(Clone, Debug)]
pub struct DangerousHttpEgressBuilder {
    builder: HttpEgressBuilder,
}

impl DangerousHttpEgressBuilder {
    /// Hands responses to pieces as they came, credentials a peer echoes included. For tests that prove the scrubber
    /// matters; nothing else has a use for it.
    #[must_use]
    pub fn without_response_scrubbing(mut self) -> HttpEgressBuilder {
        self.builder.scrub = false;
        self.builder
    }
}

/// The HTTP client could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client could not be set up")]
pub struct HttpEgressError(#[source] reqwest::Error);

/// The HTTP client of one attempt of one run.
#[derive(Debug)]
pub struct RunHttp {
    egress: HttpEgress,
    credentials: Arc<RunCredentials>,
    uses: Mutex<Vec<CredentialUse>>,
    /// Whether every request carries a credential, wherever it stands.
    confidential: bool,
    /// Where requests may go, if the flow says so.
    allowed: Option<AllowedHosts>,
}

impl RunHttp {
    /// The credentials put into requests since the last call, for the audit; also those of requests that failed later.
    #[must_use]
    pub fn take_uses(&self) -> Vec<CredentialUse> {
        std::mem::take(&mut *self.uses.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets requests, redirects among them, go to these hosts alone.
    #[must_use]
    pub fn limited_to(mut self, hosts: Option<AllowedHosts>) -> Self {
        self.allowed = hosts;
        self
    }

    fn check_allowed(&self, url: &CheckedUrl) -> Result<(), HttpError> {
        let (Some(allowed), url) = (&self.allowed, url.as_url()) else { return Ok(()) };
        let default_port = if url.scheme() == "http" { 80 } else { 443 };
        let (host, port) = (url.host_str().unwrap_or_default(), url.port().unwrap_or(default_port));
        if allowed.permit(host, port, default_port) {
            return Ok(());
        }
        Err(HttpError::Refused { reason: "the host is not among the flow's `allowedHosts`: add it there".to_owned() })
    }

    /// As [`RunHttp::follow`]; what was signed on the way is in no error either.
    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let mut redactor = Cow::Borrowed(self.credentials.redactor());
        let outcome = self.follow(request, &mut redactor).await;
        outcome.map_err(|error| scrub(error, &redactor))
    }

    /// Sends `request`, and after it what redirects ask for. `redactor` learns the signatures that are made for it.
    async fn follow(&self, request: HttpRequest, redactor: &mut Cow<'_, Redactor>) -> Result<HttpResponse, HttpError> {
        let shared = &self.egress.shared;
        let limit_bytes = request.max_response_bytes.min(shared.max_response_bytes);
        let max_redirects = request.max_redirects;
        let mut hop = Hop::first(request, &shared.policy)?;
        loop {
            self.check_allowed(hop.url())?;
            let mut filled = hop.fill(&self.credentials, shared.clock.now())?;
            filled.confidential |= self.confidential;
            self.uses.lock().unwrap_or_else(PoisonError::into_inner).extend(filled.uses.iter().cloned());
            learn(redactor, &filled.request.signatures)?;
            let method = filled.method.clone();
            let number = hop.number();
            let response = self.egress.dispatch(filled).await.map_err(|error| after_redirects(error, number))?;
            check_head(response.headers())?;
            if hop.number() < max_redirects
                && let Some(next) =
                    hop.follow((response.status(), response.headers()), &shared.policy, &self.credentials, redactor)?
            {
                hop = next;
                continue;
            }
            let mut response = self.read(response, &method, limit_bytes, redactor).await?;
            let place = (hop.number() > 0).then(|| redactor.redact_str(hop.url().as_url().as_str()));
            response.redirected_to = place.map(Cow::into_owned);
            return Ok(response);
        }
    }

    #[cfg(feature = "objects")]
    async fn exchange_signed(&self, request: SignedRequest<'_>, max_bytes: usize) -> Result<HttpResponse, HttpError> {
        let url = CheckedUrl::parse(request.url, &self.egress.shared.policy)?;
        let (method, mut headers) = (parse_method(request.method)?, parse_headers(&request.headers)?);
        let signatures = vec![(request.connection.to_owned(), sigv4_signature(&request.signed).into())];
        let mut redactor = Cow::Borrowed(self.credentials.redactor());
        learn(&mut redactor, &signatures)?;
        for (name, value) in request.signed {
            let value = prefixed_value("", value.expose_secret());
            let value = value.map_err(|error| HttpError::InvalidRequest { reason: error.to_string() })?;
            headers.insert(name, value);
        }
        let at = self.egress.shared.clock.now();
        let (body, credential) = (request.body, None);
        let prepared = PreparedRequest { method: method.clone(), at, url, headers, body, credential, signatures };
        let filled =
            FilledHop { method: method.clone(), request: prepared, uses: Vec::new(), confidential: true, tls13: false };
        let response = self.egress.dispatch(filled).await?;
        check_head(response.headers())?;
        // What an error says has room, however small what was asked for may be.
        let max_bytes = if response.status().is_success() { max_bytes } else { max_bytes.max(MAX_ERROR_BYTES) };
        self.read(response, &method, max_bytes.min(self.egress.shared.max_response_bytes), &redactor).await
    }

    async fn read(
        &self,
        mut response: reqwest::Response,
        method: &Method,
        limit_bytes: usize,
        redactor: &Redactor,
    ) -> Result<HttpResponse, HttpError> {
        // The answer to a HEAD has no body, whatever it says of one.
        let encoded =
            |value: &&HeaderValue| method != Method::HEAD && !value.as_bytes().eq_ignore_ascii_case(b"identity");
        let codings: Vec<_> = response.headers().get_all(header::CONTENT_ENCODING).iter().filter(encoded).collect();
        // The client does not decode by itself: of several codings it would undo one and hide the others.
        let gzip = match codings.as_slice() {
            [] => false,
            [only] if cfg!(feature = "gzip") && only.as_bytes().eq_ignore_ascii_case(b"gzip") => true,
            _ => return Err(unsearchable()),
        };
        let too_large = HttpError::ResponseTooLarge { limit_bytes };
        let announced = response.content_length().filter(|_| method != Method::HEAD);
        if announced.is_some_and(|length| usize::try_from(length).is_ok_and(|length| length > limit_bytes)) {
            return Err(too_large);
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| error_of(&error))? {
            if chunk.len() > limit_bytes.saturating_sub(body.len()) {
                return Err(too_large);
            }
            body.extend_from_slice(&chunk);
        }
        if gzip {
            body = decoded(&body, limit_bytes)?;
            response.headers_mut().remove(header::CONTENT_ENCODING);
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        let redactor = if self.egress.shared.scrub { redactor } else { &Redactor::default() };
        let body = body.freeze();
        let body = match redactor.redact_bytes(&body) {
            Cow::Borrowed(_) => body.clone(),
            Cow::Owned(masked) => {
                // They would say how long what was masked is.
                response.headers_mut().remove(header::CONTENT_LENGTH);
                response.headers_mut().remove(header::CONTENT_RANGE);
                Bytes::from(masked)
            }
        };
        let headers = response.headers().iter().map(|(name, value)| {
            let value = redactor.redact_bytes(value.as_bytes());
            (redactor.redact_str(name.as_str()).into_owned(), String::from_utf8_lossy(&value).into_owned())
        });
        Ok(HttpResponse { status: response.status().as_u16(), headers: headers.collect(), body, redirected_to: None })
    }
}

#[async_trait]
impl HttpClient for RunHttp {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let limit = request.timeout.clamp(MIN_TIMEOUT, MAX_TIMEOUT);
        let outcome = tokio::time::timeout(limit, self.exchange(request)).await;
        let error = match outcome {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => error,
            Err(_) => HttpError::Timeout { limit },
        };
        if matches!(error, HttpError::Refused { .. } | HttpError::Credential { .. }) {
            tracing::warn!(target: "ap_runtime::egress", %error, "an outgoing request was refused");
        }
        Err(error)
    }
}

/// The guard as the client's resolver: the client connects to what this returns and to nothing else.
#[derive(Debug)]
struct CheckedResolver {
    guard: Guard,
    plain_credentials: bool,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, plain_credentials) = (self.guard.clone(), self.plain_credentials);
        Box::pin(async move {
            // Port 0: the client puts in that of the URL.
            let addresses = guard.resolve(name.as_str(), 0).await.map_err(LookupError::Resolve)?;
            let allowed = |address: IpAddr| guard.policy().allows_plain_http_credentials(address);
            if plain_credentials && !addresses.iter().all(|address| allowed(address.ip())) {
                return Err(LookupError::PlainCredential.into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// What [`CheckedResolver`] hands through the client library.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("a credential must not travel unencrypted to this network")]
    PlainCredential,
    #[error(transparent)]
    Resolve(ResolveError),
}

/// Lets `redactor` mask `signatures`, too.
fn learn(redactor: &mut Cow<'_, Redactor>, signatures: &[(String, SecretString)]) -> Result<(), HttpError> {
    if signatures.is_empty() {
        return Ok(());
    }
    let named = signatures.iter().map(|(name, signature)| (name.as_str(), signature));
    let more = redactor.with_secrets(named).map_err(|error| {
        let reason = format!("the signature could not be searched for in the answer: {error}");
        HttpError::Credential { reason }
    })?;
    *redactor = Cow::Owned(more);
    Ok(())
}

/// Masks what an error could repeat of a request: header names and the like are the author's, but cheap to search.
fn scrub(error: HttpError, redactor: &Redactor) -> HttpError {
    let mask = |reason: String| redactor.redact_str(&reason).into_owned();
    match error {
        HttpError::Credential { reason } => HttpError::Credential { reason: mask(reason) },
        HttpError::InvalidRequest { reason } => HttpError::InvalidRequest { reason: mask(reason) },
        HttpError::Refused { reason } => HttpError::Refused { reason: mask(reason) },
        HttpError::Unreachable { reason } => HttpError::Unreachable { reason: mask(reason) },
        HttpError::Interrupted { reason } => HttpError::Interrupted { reason: mask(reason) },
        other => other,
    }
}

/// Says who must act, in our words: those of the library name addresses and URLs.
fn error_of(error: &reqwest::Error) -> HttpError {
    let chain = || {
        std::iter::successors(Some(error as &(dyn Error + 'static)), |error: &&(dyn Error + 'static)| (*error).source())
    };
    if let Some(lookup) = chain().find_map(|error| error.downcast_ref::<LookupError>()) {
        return match lookup {
            LookupError::PlainCredential => plain_credential(),
            LookupError::Resolve(ResolveError::Refused(refusal)) => refused(*refusal),
            LookupError::Resolve(failed) => HttpError::Unreachable { reason: failed.to_string() },
        };
    }
    if error.is_builder() {
        return HttpError::InvalidRequest { reason: "the request cannot be written as HTTP".to_owned() };
    }
    if !error.is_connect() {
        return HttpError::Interrupted { reason: "the response broke off or is malformed".to_owned() };
    }
    let kind = chain().find_map(|error| error.downcast_ref::<io::Error>()).map(io::Error::kind);
    let reason = match kind {
        Some(io::ErrorKind::ConnectionRefused) => "the connection was refused",
        Some(io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => "the TLS handshake failed",
        _ if error.is_timeout() => "the connection was not made in time",
        _ => "the connection could not be made",
    };
    HttpError::Unreachable { reason: reason.to_owned() }
}

/// A name that is malformed is refused before; here every refusal is the policy's.
fn refused(refusal: Refusal) -> HttpError {
    HttpError::Refused { reason: refusal.to_string() }
}

fn plain_credential() -> HttpError {
    HttpError::Credential {
        reason: "the request would carry a credential over plain HTTP: use HTTPS, or let the host allow plain HTTP \
                 credentials for the peer's network"
            .to_owned(),
    }
}

/// Once one hop was sent, nothing is `Unreachable` any more.
fn after_redirects(error: HttpError, number: u8) -> HttpError {
    match error {
        HttpError::Unreachable { reason } if number > 0 => {
            HttpError::Interrupted { reason: format!("after a redirect, the peer could not be reached: {reason}") }
        }
        HttpError::Refused { reason } if number > 0 => {
            HttpError::Refused { reason: format!("the redirect is refused: {reason}") }
        }
        other => other,
    }
}

fn unsearchable() -> HttpError {
    let reason = "the body is compressed in a way that cannot be searched for credentials".to_owned();
    HttpError::Interrupted { reason }
}

/// Undoes gzip (RFC 1952), up to `limit_bytes`.
#[cfg(feature = "gzip")]
fn decoded(body: &[u8], limit_bytes: usize) -> Result<BytesMut, HttpError> {
    use std::io::Read;

    let mut bytes = Vec::new();
    let limit = u64::try_from(limit_bytes).unwrap_or(u64::MAX).saturating_add(1);
    let read = flate2::bufread::MultiGzDecoder::new(body).take(limit).read_to_end(&mut bytes);
    if bytes.len() > limit_bytes {
        return Err(HttpError::ResponseTooLarge { limit_bytes });
    }
    read.map_err(|_| HttpError::Interrupted { reason: "the response is no valid gzip".to_owned() })?;
    Ok(Bytes::from(bytes).into())
}

/// Nothing is accepted that would have to be decoded.
#[cfg(not(feature = "gzip"))]
fn decoded(_: &[u8], _: usize) -> Result<BytesMut, HttpError> {
    Err(unsearchable())
}

fn check_head(head: &HeaderMap) -> Result<(), HttpError> {
    let bytes: usize = head.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let limit_bytes = MAX_RESPONSE_HEAD_BYTES as usize;
    if bytes > limit_bytes { Err(HttpError::ResponseTooLarge { limit_bytes }) } else { Ok(()) }
}

const USER_AGENT: &str = concat!("ap-runtime/", env!("CARGO_PKG_VERSION"));
const DEFAULT_MAX_RESPONSE_BYTES: usize = 32 << 20;
#[cfg(feature = "objects")]
const MAX_ERROR_BYTES: usize = 64 << 10;
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_RESPONSE_FIELDS: usize = 100;
const MAX_RESPONSE_HEAD_BYTES: u32 = 64 << 10;
const MAX_IDLE_PER_HOST: usize = 32;

#[cfg(test)]
mod tests;
