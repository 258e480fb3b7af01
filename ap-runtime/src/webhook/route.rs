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
    connection::{Connection, Field},
    expr::{Key, Template},
    flow::{TriggerKind, ValidFlow, WebhookAuthentication, WebhookSettings},
    id::ProjectId,
    store::{LookupHash, StoreError},
    time::Timestamp,
};
use ap_crypto::{
    signature::{HmacSha256, SignatureEncoding},
    token::is_well_formed_token,
    vault::TenantKeys,
};
use http::HeaderName;
use secrecy::{ExposeSecret, SecretString};

use super::{auth::Authentication, response::Rejection};
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
    pub(super) authentication: Authentication,
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
    cache: Mutex<BTreeMap<LookupHash, Cached>>,
}

#[derive(Debug)]
enum Cached {
    Known { endpoint: Arc<Endpoint>, until: Timestamp },
    Unknown { until: Timestamp },
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
        match self.lock().get(&hash) {
            Some(Cached::Known { endpoint, until }) if now < *until => return Ok(Arc::clone(endpoint)),
            Some(Cached::Unknown { until }) if now < *until => return Err(Rejection::NotFound),
            _ => {}
        }
        let Some(route) = self.kernel.backend.route(hash).await.map_err(|error| internal(&error))? else {
            self.remember(hash, Cached::Unknown { until: now.saturating_add(UNKNOWN_FOR) });
            return Err(Rejection::NotFound);
        };
        let endpoint = Arc::new(self.load(route).await?);
        let until = now.saturating_add(KNOWN_FOR);
        self.remember(hash, Cached::Known { endpoint: Arc::clone(&endpoint), until });
        Ok(endpoint)
    }

    /// Forgets what is known of a project: one of its flows or connections changed.
    pub(crate) fn forget(&self, project: ProjectId) {
        self.lock()
            .retain(|_, cached| !matches!(cached, Cached::Known { endpoint, .. } if endpoint.route.project == project));
    }

    async fn load(&self, route: Route) -> Result<Endpoint, Rejection> {
        let (true, Some(version)) = (route.enabled, route.published) else { return Err(Rejection::NotFound) };
        let keys = self.kernel.keyring.tenant(route.project.into()).await.map_err(|error| internal(&error))?;
        let flow = self.kernel.flow_version(version, route.project).await.map_err(|error| internal(&error))?;
        let settings = settings(&flow).ok_or(Rejection::NotFound)?;
        let authentication = self.resolve(&settings.authentication, route.project, &keys).await?;
        Ok(Endpoint { route, version, flow, keys, authentication })
    }

    async fn resolve(
        &self,
        authentication: &WebhookAuthentication,
        project: ProjectId,
        keys: &TenantKeys,
    ) -> Result<Authentication, Rejection> {
        let header = |name: &str| HeaderName::from_bytes(name.as_bytes()).map_err(|error| internal(&error));
        Ok(match authentication {
            WebhookAuthentication::None => Authentication::None,
            WebhookAuthentication::Header { header_name, expected_value } => Authentication::Header {
                name: header(header_name)?,
                expected: self.secret(expected_value, project, keys).await?,
            },
            WebhookAuthentication::Basic { username, password } => Authentication::Basic {
                username: self.secret(username, project, keys).await?,
                password: self.secret(password, project, keys).await?,
            },
            WebhookAuthentication::Hmac { header_name, secret, base64, prefix } => Authentication::Hmac {
                name: header(header_name)?,
                key: HmacSha256::new(&self.secret(secret, project, keys).await?).map_err(|error| internal(&error))?,
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
    ) -> Result<SecretString, Rejection> {
        if let Some(serde_json::Value::String(text)) = template.as_literal() {
            return Ok(SecretString::from(text.clone()));
        }
        let names: Vec<&str> = template.as_path().map(member_names).unwrap_or_default();
        let (name, field) = match names.as_slice() {
            ["connections", name] => (*name, None),
            ["connections", name, field] => (*name, Some(*field)),
            _ => return Err(internal(&"the trigger's secret is no reference to a connection")),
        };
        let record = match self.kernel.backend.connection(records::connection_name(keys, name), project).await {
            Ok(record) => record,
            Err(StoreError::NotFound { .. }) => return Err(missing(name)),
            Err(error) => return Err(internal(&error)),
        };
        let connection = records::open_connection(keys, &record).map_err(|error| internal(&error))?;
        field_of(&connection, field).ok_or_else(|| missing(name))
    }

    fn remember(&self, hash: LookupHash, cached: Cached) {
        let mut cache = self.lock();
        if cache.len() >= CAPACITY {
            let now = self.kernel.clock.now();
            cache.retain(|_, cached| match cached {
                Cached::Known { until, .. } | Cached::Unknown { until } => now < *until,
            });
        }
        if cache.len() < CAPACITY {
            cache.insert(hash, cached);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LookupHash, Cached>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
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

fn field_of(connection: &Connection, field: Option<&str>) -> Option<SecretString> {
    let copy = |secret: &SecretString| SecretString::from(secret.expose_secret().to_owned());
    let Some(wanted) = field else { return connection.value().single_secret().map(|(_, secret)| copy(secret)) };
    connection.value().fields().into_iter().find(|(name, _)| *name == wanted).map(|(_, field)| match field {
        Field::Clear(text) => SecretString::from(text.to_owned()),
        Field::Secret(secret) => copy(secret),
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
/// Tokens kept at most, known and unknown. Unit: tokens.
const CAPACITY: usize = 10_000;
