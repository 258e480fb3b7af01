//! Runtimes that share a store, a clock that can be moved, and a connection to the provider.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use ap_auth::{principal::Principal, role::Role};
use ap_core::{
    connection::Connection,
    id::{ProjectId, UserId},
    store::PageRequest,
    time::Timestamp,
};
use ap_crypto::{key::RootKey, provider::MemoryKeyProvider};
use ap_runtime::{
    backend::memory::MemoryBackend,
    clock::{Clock, SystemClock},
    egress::{
        guard::{EgressPolicy, Guard, SystemResolver},
        http::HttpEgress,
    },
    runtime::{Runtime, RuntimeBuilder},
    session::{ConnectionSummary, ProjectSession, Session},
    store::Backend,
};
use async_trait::async_trait;

use super::provider::Provider;

/// The machine's clock, ahead by what a test says.
#[derive(Debug, Default)]
pub(crate) struct MovedClock(AtomicI64);

impl MovedClock {
    pub(crate) fn forward(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for MovedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.now().as_micros() + self.0.load(Ordering::SeqCst))
    }

    async fn sleep_until(&self, at: Timestamp) {
        tokio::time::sleep(at.saturating_since(self.now())).await;
    }
}

pub(crate) struct World {
    pub(crate) runtimes: Vec<Runtime>,
    pub(crate) clock: Arc<MovedClock>,
    pub(crate) provider: Provider,
    pub(crate) project: ProjectId,
}

impl World {
    /// Several runtimes over one store in memory.
    pub(crate) async fn new(runtimes: usize) -> Self {
        Self::with(runtimes, |builder| builder).await
    }

    /// The same, set up otherwise.
    pub(crate) async fn with(runtimes: usize, options: impl Fn(RuntimeBuilder) -> RuntimeBuilder) -> Self {
        let clock = Arc::new(MovedClock::default());
        let backend = Arc::new(MemoryBackend::new(Arc::clone(&clock) as Arc<dyn Clock>));
        Self::set_up(vec![backend as Arc<dyn Backend>; runtimes], clock, options).await
    }

    /// A runtime over each of these views of one store.
    #[cfg(feature = "postgres")]
    pub(crate) async fn over(backends: Vec<Arc<dyn Backend>>, clock: Arc<MovedClock>) -> Self {
        Self::set_up(backends, clock, |builder| builder).await
    }

    async fn set_up(
        backends: Vec<Arc<dyn Backend>>,
        clock: Arc<MovedClock>,
        options: impl Fn(RuntimeBuilder) -> RuntimeBuilder,
    ) -> Self {
        let mut runtimes = Vec::new();
        for backend in backends {
            let clock = Arc::clone(&clock) as Arc<dyn Clock>;
            runtimes.push(options(builder(backend, clock)).build().await.unwrap());
        }
        let project = platform_admin(&runtimes[0]).create_project("Test").await.unwrap();
        Self { runtimes, clock, provider: Provider::start().await, project }
    }

    /// The admin of the project, at the runtime of this number.
    pub(crate) fn admin_at(&self, runtime: usize) -> ProjectSession {
        let runtime = &self.runtimes[runtime % self.runtimes.len()];
        runtime.session(user(1).with_role(self.project, Role::Admin)).project(self.project).unwrap()
    }

    pub(crate) fn admin(&self) -> ProjectSession {
        self.admin_at(0)
    }

    /// A connection `api` with tokens that live an hour, and a page to ask whether they are good.
    pub(crate) async fn connect(&self) {
        let json =
            self.json(r#", "access_token": "access-token-0", "refresh_token": "refresh-token-0", "expires_in": 3600"#);
        self.put(&json).await;
    }

    pub(crate) fn json(&self, more: &str) -> String {
        let (token, authorize, me) =
            (self.provider.url("/token"), self.provider.url("/authorize"), self.provider.url("/me"));
        format!(
            r#"{{ "type": "OAUTH2", "value": {{ "client_id": "client", "client_secret": "canary-client-secret",
                "token_url": "{token}", "authorization_url": "{authorize}", "redirect_url": "https://host.example/callback"
                {more} }}, "origins": ["{me}"], "validation": {{ "url": "{me}" }} }}"#
        )
    }

    pub(crate) async fn put(&self, json: &str) {
        let connection = Connection::from_json("api", json.as_bytes(), None, self.clock.now()).unwrap();
        self.admin().put_connection(&connection).await.unwrap();
    }

    pub(crate) async fn summary(&self) -> ConnectionSummary {
        self.admin().connection("api").await.unwrap()
    }

    /// Outcomes of what the audit says under this action, oldest first.
    pub(crate) async fn audited(&self, action: &str) -> Vec<String> {
        let page = PageRequest::first(PageRequest::MAX_LIMIT);
        let events = self.admin().audit(&page).await.unwrap().items;
        let of = events.iter().filter(|event| event.action() == action);
        of.map(|event| format!("{:?} {}", event.outcome(), event.reason().unwrap_or_default())).collect()
    }
}

/// A runtime that reaches this machine.
fn builder(backend: Arc<dyn Backend>, clock: Arc<dyn Clock>) -> RuntimeBuilder {
    let here = "127.0.0.1/32".parse().unwrap();
    let policy = EgressPolicy::new().allow_network(here).unwrap().allow_plain_http_credentials(here).unwrap();
    let http = HttpEgress::builder(Guard::new(policy, Arc::new(SystemResolver))).build().unwrap();
    let runtime = Runtime::builder(backend, MemoryKeyProvider::new(root())).clock(clock);
    runtime.egress(http).pieces(ap_pieces::standard())
}

#[cfg(feature = "postgres")]
pub(crate) async fn runtime(backend: Arc<dyn Backend>, clock: Arc<dyn Clock>) -> Runtime {
    builder(backend, clock).build().await.unwrap()
}

pub(crate) fn user(number: u128) -> Principal {
    Principal::user(UserId::from_u128(number))
}

pub(crate) fn platform_admin(runtime: &Runtime) -> Session {
    runtime.session(user(1).with_role(runtime.platform(), Role::Admin))
}

fn root() -> RootKey {
    RootKey::from_slice(&std::array::from_fn::<u8, 32, _>(|index| index as u8)).unwrap()
}
