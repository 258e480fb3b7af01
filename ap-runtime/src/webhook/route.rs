//! From the token in a webhook URL to everything needed to judge a request: flow, keys, resolved secrets.
//!
//! The cache is a hint. Acceptance checks enabled, published version and generation again, and a change of a connection
//! in this process forgets the project's endpoints at once; [`KNOWN_FOR`] bounds how long another process's change may
//! go unnoticed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ap_core::{
    connection::{Connection, ConnectionStatus, Field, Rotation},
    expr::{Key, Template},
    flow::{TriggerKind, ValidFlow, WebhookAuthentication, WebhookSettings},
    id::ProjectId,
    store::LookupHash,
    time::Timestamp,
};
use ap_crypto::{
    signature::{HmacSha256, SignatureEncoding},
    token::is_well_formed_token,
    vault::TenantKeys,
};
use http::HeaderName;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use super::{
    auth::{Authentication, Authentications},
    response::Rejection,
};
use crate::{kernel::Kernel, records, store::Route};

/// What every webhook token starts with.
pub(crate) const TOKEN_PREFIX: &str = "whk_";

/// One webhook of one published flow.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) route: Route,
    pub(super) version: ap_core::id::FlowVersionId,
    pub(super) flow: Arc<ValidFlow>,
    pub(super) keys: Arc<TenantKeys>,
    pub(super) authentication: Authentications,
    /// Requests of this webhook being received.
    pub(super) receiving: Semaphore,
}

impl Endpoint {
    /// Where the trigger says the delivery id stands.
    pub(super) fn dedupe_place(&self) -> Option<&str> {
        settings(&self.flow).and_then(|settings| settings.dedupe_key.as_deref())
    }
}

/// Endpoints by the hash of their token.
#[derive(Debug)]
pub(crate) struct Routes {
    kernel: Arc<Kernel>,
    cache: Mutex<Cache>,
}

/// Unknown tokens have a room of their own: whoever makes them up must not displace what is known.
#[derive(Debug, Default)]
struct Cache {
    known: BTreeMap<LookupHash, (Arc<Endpoint>, Timestamp)>,
    unknown: BTreeMap<LookupHash, Timestamp>,
    /// Rises whenever something is forgotten: what was read before that is not kept.
    forgotten: u64,
}

impl Routes {
    pub(crate) fn new(kernel: Arc<Kernel>) -> Self {
        Self { kernel, cache: Mutex::default() }
    }

    /// Finds the endpoint of a token.
    pub(super) async fn find(&self, token: &str) -> Result<Arc<Endpoint>, Rejection> {
        if !is_well_formed_token(TOKEN_PREFIX, token) {
            return Err(Rejection::NotFound);
        }
        let hash = token_hash(&self.kernel, token);
        let now = self.kernel.clock.now();
        let forgotten = {
            let cache = self.lock();
            match cache.known.get(&hash) {
                Some((endpoint, until)) if now < *until => return Ok(Arc::clone(endpoint)),
                _ if cache.unknown.get(&hash).is_some_and(|until| now < *until) => return Err(Rejection::NotFound),
                _ => cache.forgotten,
            }
        };
        let Some(route) = self.kernel.backend.route(hash).await.map_err(|error| internal(&error))? else {
            let mut cache = self.lock();
            if cache.unknown.len() >= UNKNOWN_CAPACITY {
                cache.unknown.clear();
            }
            cache.unknown.insert(hash, now.saturating_add(UNKNOWN_FOR));
            return Err(Rejection::NotFound);
        };
        let endpoint = Arc::new(self.load(route, hash).await?);
        let mut cache = self.lock();
        if cache.forgotten == forgotten {
            if cache.known.len() >= KNOWN_CAPACITY {
                cache.known.retain(|_, (_, until)| now < *until);
            }
            if cache.known.len() < KNOWN_CAPACITY {
                cache.known.insert(hash, (Arc::clone(&endpoint), now.saturating_add(KNOWN_FOR)));
            }
        }
        Ok(endpoint)
    }

    /// Forgets what is known of a project: one of its flows or connections changed.
    pub(crate) fn forget(&self, project: ProjectId) {
        let mut cache = self.lock();
        cache.forgotten += 1;
        cache.known.retain(|_, (endpoint, _)| endpoint.route.project != project);
        // A new token may be one that was asked for a moment ago.
        cache.unknown.clear();
    }

    /// Forgets what is known of a project when dropped: make it before a write, and the write is noticed even if the
    /// caller goes away before it is answered.
    pub(crate) fn forget_afterwards(self: &Arc<Self>, project: ProjectId) -> Forget {
        Forget { routes: Arc::clone(self), project }
    }

    async fn load(&self, route: Route, token: LookupHash) -> Result<Endpoint, Rejection> {
        let (true, Some(version)) = (route.enabled, route.published) else { return Err(Rejection::NotFound) };
        let keys = self.kernel.keyring.tenant(route.project.into()).await.map_err(|error| internal(&error))?;
        // What routes a request is clear in the store; what is sealed must say the same.
        let record = self.kernel.backend.flow(route.flow, route.project).await.map_err(|error| internal(&error))?;
        let detail = records::open_flow(&keys, &record).map_err(|error| internal(&error))?;
        if token_hash(&self.kernel, detail.webhook_token.expose_secret()) != token {
            return Err(internal(&"the stored route of a webhook is not the one that was sealed"));
        }
        let flow = self.kernel.flow_version(version, route.project).await.map_err(|error| internal(&error))?;
        let settings = settings(&flow).ok_or(Rejection::NotFound)?;
        let of = (route.project, &*keys);
        let current = self.resolve(&settings.authentication, of, Generation::Current, &mut None).await?;
        let mut until = None;
        let before = self.resolve(&settings.authentication, of, Generation::Retiring, &mut until).await;
        // One of before that is not to be had is no reason to keep everybody out.
        let retiring = before.ok().and_then(|before| Some((before, until?)));
        let authentication = Authentications { current, retiring };
        let receiving = Semaphore::new(MAX_RECEIVING_EACH);
        Ok(Endpoint { route, version, flow, keys, authentication, receiving })
    }

    async fn resolve(
        &self,
        authentication: &WebhookAuthentication,
        (project, keys): (ProjectId, &TenantKeys),
        generation: Generation,
        until: &mut Option<Timestamp>,
    ) -> Result<Authentication, Rejection> {
        if generation == Generation::Retiring && matches!(authentication, WebhookAuthentication::None) {
            return Ok(Authentication::None);
        }
        let header = |name: &str| HeaderName::from_bytes(name.as_bytes()).map_err(|error| internal(&error));
        Ok(match authentication {
            WebhookAuthentication::None => Authentication::None,
            WebhookAuthentication::Header { header_name, expected_value } => Authentication::Header {
                name: header(header_name)?,
                expected: self.secret(expected_value, project, keys, Wanted::Secret, (generation, until)).await?,
            },
            WebhookAuthentication::Basic { username, password } => Authentication::Basic {
                username: self.secret(username, project, keys, Wanted::AnyField, (generation, until)).await?,
                password: self.secret(password, project, keys, Wanted::Secret, (generation, until)).await?,
            },
            WebhookAuthentication::Hmac { header_name, secret, base64, prefix } => Authentication::Hmac {
                name: header(header_name)?,
                key: HmacSha256::new(&self.secret(secret, project, keys, Wanted::Secret, (generation, until)).await?)
                    .map_err(|error| internal(&error))?,
                encoding: if *base64 { SignatureEncoding::Base64 } else { SignatureEncoding::Hex },
                prefix: prefix.clone(),
            },
            // A way to authenticate that this version does not know: nobody gets in.
            _ => return Err(Rejection::Unauthenticated),
        })
    }

    /// The value a template of the trigger stands for: literal text, or a field of a connection.
    async fn secret(
        &self,
        template: &Template,
        project: ProjectId,
        keys: &TenantKeys,
        wanted: Wanted,
        (generation, until): (Generation, &mut Option<Timestamp>),
    ) -> Result<SecretString, Rejection> {
        if let (Some(serde_json::Value::String(text)), Wanted::AnyField) = (template.as_literal(), wanted) {
            return Ok(SecretString::from(text.clone()));
        }
        let names: Vec<&str> = template.as_path().map(member_names).unwrap_or_default();
        let (name, field) = match names.as_slice() {
            ["connections", name] => (*name, None),
            ["connections", name, field] => (*name, Some(*field)),
            _ => return Err(internal(&"the trigger's secret is no reference to a connection")),
        };
        let found = self.kernel.find_connection(keys, project, name).await.map_err(|error| internal(&error))?;
        let mut connection = found.ok_or_else(|| missing(name))?.connection;
        if generation == Generation::Retiring {
            let now = self.kernel.clock.now();
            if let Some(retires) = connection.rotation().and_then(Rotation::retires).filter(|retires| now < *retires) {
                *until = Some(until.map_or(retires, |until: Timestamp| until.min(retires)));
                connection = connection.with_retiring(now).ok_or_else(|| missing(name))?;
            }
        }
        let expired = connection.status(self.kernel.clock.now()) == ConnectionStatus::Expired;
        if expired || !connection.allows_piece("webhook") {
            tracing::warn!(
                connection = name,
                expired,
                "a webhook refuses everyone: its connection is not for it, or over"
            );
            return Err(Rejection::Unauthenticated);
        }
        let connection = match self.kernel.with_secrets(connection).await {
            Ok(connection) => connection,
            Err(unresolved) if unresolved.error.is_retryable() => return Err(internal(&unresolved)),
            Err(unresolved) => {
                tracing::warn!(connection = name, %unresolved, "a webhook refuses everyone");
                return Err(Rejection::Unauthenticated);
            }
        };
        field_of(&connection, field, wanted).ok_or_else(|| missing(name))
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Routes::forget_afterwards`].
#[must_use]
pub(crate) struct Forget {
    routes: Arc<Routes>,
    project: ProjectId,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.routes.forget(self.project);
    }
}

/// The hash under which a webhook token is stored.
pub(crate) fn token_hash(kernel: &Kernel, token: &str) -> LookupHash {
    kernel.keyring.platform_lookup_hash("webhook-token", &[token.as_bytes()])
}

fn settings(flow: &ValidFlow) -> Option<&WebhookSettings> {
    match &flow.trigger().kind {
        TriggerKind::Webhook(settings) => Some(settings),
        _ => None,
    }
}

fn member_names(path: &ap_core::expr::Path) -> Vec<&str> {
    let name = |segment: &ap_core::expr::Segment| match &segment.key {
        Key::Name(_) => true,
        Key::Index(_) => false,
    };
    if !path.segments.iter().all(name) {
        return Vec::new();
    }
    path.segments
        .iter()
        .filter_map(|segment| match &segment.key {
            Key::Name(name) => Some(name.as_str()),
            Key::Index(_) => None,
        })
        .collect()
}

/// Which of its secrets a connection is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Generation {
    Current,
    /// Those of before a rotation whose grace is not over, where there is one.
    Retiring,
}

/// What a field of a connection is to be used for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// A user name: clear fields and literals will do.
    AnyField,
    /// Something only the sender knows: what every reader of a run can see is not that.
    Secret,
}

fn field_of(connection: &Connection, field: Option<&str>, wanted: Wanted) -> Option<SecretString> {
    let copy = |secret: &SecretString| SecretString::from(secret.expose_secret().to_owned());
    let Some(name) = field else { return connection.value().single_secret().map(|(_, secret)| copy(secret)) };
    connection.value().fields().into_iter().find(|(other, _)| *other == name).and_then(|(_, field)| match field {
        Field::Clear(text) => (wanted == Wanted::AnyField).then(|| SecretString::from(text.to_owned())),
        Field::Secret(secret) => Some(copy(secret)),
    })
}

/// The owner has to mend this; the sender learns only that it is not let in.
fn missing(connection: &str) -> Rejection {
    tracing::warn!(connection, "a webhook refuses everyone: its connection, or the field it names, does not exist");
    Rejection::Unauthenticated
}

fn internal(error: &dyn std::fmt::Display) -> Rejection {
    tracing::error!(error = %error, "a webhook could not be looked up");
    Rejection::Internal
}

/// How long an endpoint is used without asking the store again.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// How long a token that leads nowhere is refused without asking the store again.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
/// Endpoints kept at most.
const KNOWN_CAPACITY: usize = 10_000;
/// Unknown tokens kept at most.
const UNKNOWN_CAPACITY: usize = 10_000;
/// Requests of one webhook being received at once; more are answered 503 before their body is read.
const MAX_RECEIVING_EACH: usize = 256;
