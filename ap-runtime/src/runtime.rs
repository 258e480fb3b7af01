//! [`Runtime`]: the SDK in a host's process, and how to build one.

use std::{fmt, sync::Arc, time::Duration};

use ap_auth::{authorizer::Authorizer, principal::Principal};
use ap_core::{
    connection::Origin,
    flow::FlowLimits,
    id::{PlatformId, WorkerId},
    piece::{Piece, PieceSet},
    scope::Scope,
};
use ap_crypto::{
    entropy::{Entropy, EntropyError, SystemEntropy, random_array},
    error::KeyError,
    keyring::{KeyStore, Keyring},
    provider::KeyProvider,
};
use tokio_util::task::TaskTracker;

use crate::{
    clock::{Clock, SystemClock},
    config::{self, LimitError, RunLimits, ValueLimits, WebhookOptions, WorkerOptions},
    denials::Denials,
    egress::Egress,
    executor::Worker,
    flow_cache::FlowCache,
    kernel::Kernel,
    learn::LearningBackend,
    oauth::provider::Providers,
    replies::ReplyHub,
    resume::ResumeDoor,
    sandbox::CodeSandbox,
    secret::{KEPT_FOR, SecretResolver, SecretSources},
    session::Session,
    store::Backend,
    wakeup::{LocalWakeup, Wakeup},
    webhook::{Routes, WebhookDoor},
};

/// The engine at work in this process. Cheap to clone; every clone is the same runtime.
///
/// Runs that an earlier process left unfinished are taken up as soon as the runtime is built. Call
/// [`Runtime::shutdown`] before the process ends; without it nothing is lost either, only recovered later.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) parts: Arc<Parts>,
}

/// What sessions and the door share.
pub(crate) struct Parts {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) worker: Arc<Worker>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) authorizer: Authorizer,
    pub(crate) platform: PlatformId,
    door: WebhookDoor,
    resumes: ResumeDoor,
}

impl Runtime {
    /// Starts building a runtime on a backend and the source of the root key.
    ///
    /// The key must not be kept beside the database: whoever has both has everything.
    pub fn builder(backend: Arc<dyn Backend>, keys: impl KeyProvider) -> RuntimeBuilder {
        RuntimeBuilder {
            backend,
            keys: Box::new(keys),
            previous: Vec::new(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            pieces: Vec::new(),
            sandbox: None,
            egress: None,
            secrets: Vec::new(),
            secrets_kept_for: KEPT_FOR,
            providers: Vec::new(),
            flow_limits: FlowLimits::default(),
            run_limits: RunLimits::default(),
            value_limits: ValueLimits::default(),
            worker: WorkerOptions::default(),
            webhook: WebhookOptions::default(),
            wakeup: None,
            resume_base: None,
        }
    }

    /// Acts as `principal`: every call is authorised, and written down.
    #[must_use]
    pub fn session(&self, principal: Principal) -> Session {
        Session::new(Arc::clone(&self.parts), principal)
    }

    /// The door for webhook requests.
    #[must_use]
    pub fn webhooks(&self) -> WebhookDoor {
        self.parts.door.clone()
    }

    /// The door for those whom a run waits for.
    #[must_use]
    pub fn resumes(&self) -> ResumeDoor {
        self.parts.resumes.clone()
    }

    /// The platform this runtime serves; roles on it are granted to principals who create projects.
    #[must_use]
    pub fn platform(&self) -> PlatformId {
        self.parts.platform
    }

    /// Takes up no more runs and waits up to `grace` for those under way; the rest is recovered by the next process.
    ///
    /// Sessions and the door keep working; what they accept is queued.
    pub async fn shutdown(&self, grace: Duration) {
        self.parts.worker.shutdown(grace).await;
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("kernel", &self.parts.kernel).finish_non_exhaustive()
    }
}

/// Collects what a [`Runtime`] is made of. Every default is the safe one.
#[must_use = "a builder does nothing until `build` is called"]
pub struct RuntimeBuilder {
    backend: Arc<dyn Backend>,
    keys: Box<dyn KeyProvider>,
    previous: Vec<Box<dyn KeyProvider>>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    pieces: Vec<Arc<dyn Piece>>,
    sandbox: Option<Arc<dyn CodeSandbox>>,
    egress: Option<Egress>,
    secrets: Vec<Arc<dyn SecretResolver>>,
    secrets_kept_for: Duration,
    providers: Vec<(Origin, Origin)>,
    flow_limits: FlowLimits,
    run_limits: RunLimits,
    value_limits: ValueLimits,
    worker: WorkerOptions,
    webhook: WebhookOptions,
    wakeup: Option<Arc<dyn Wakeup>>,
    resume_base: Option<Arc<str>>,
}

impl RuntimeBuilder {
    /// Adds a root key that opens stored keys and wraps none: the one before, until
    /// [`KeyAdmin::rotate_root`](crate::session::KeyAdmin::rotate_root) is through, or the next one, in a process that is not to
    /// use it yet. At most [`Keyring::MAX_PREVIOUS_ROOTS`].
    pub fn previous_key(mut self, keys: impl KeyProvider) -> Self {
        self.previous.push(Box::new(keys));
        self
    }

    /// Adds pieces. Without any, flows have only the control steps.
    pub fn pieces(mut self, pieces: impl IntoIterator<Item = Arc<dyn Piece>>) -> Self {
        self.pieces.extend(pieces);
        self
    }

    /// Sets what runs `code` steps. Without it, flows with such steps cannot be published.
    pub fn sandbox(mut self, sandbox: impl CodeSandbox) -> Self {
        self.sandbox = Some(Arc::new(sandbox));
        self
    }

    /// Sets what pieces reach the network through. Default with feature `http`: globally reachable addresses only, see
    /// [`EgressPolicy`](crate::egress::guard::EgressPolicy); without the feature: nothing.
    pub fn egress(mut self, egress: impl Into<Egress>) -> Self {
        self.egress = Some(egress.into());
        self
    }

    /// Adds a source of secrets that connections of the platform and predefined ones may refer to, by its scheme. Default: none.
    pub fn secrets(mut self, resolver: impl SecretResolver) -> Self {
        self.secrets.push(Arc::new(resolver));
        self
    }

    /// Sets how long what a source of secrets said is used without asking again: how long a secret that was changed or taken back
    /// there may still be used.
    ///
    /// * Default: 60 s. Accepted: 10 s to 1 h.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn secrets_kept_for(mut self, time: Duration) -> Result<Self, LimitError> {
        let (least, most) = (Duration::from_secs(10), Duration::from_secs(3_600));
        self.secrets_kept_for = config::in_range("time secrets are kept for", time, least, most)?;
        Ok(self)
    }

    /// Says that a provider of OAuth 2.0 which sends owners to a page at `authorization` has its token endpoint at `token`. Needed
    /// only where both are not under one registered name, and not known to be one provider's, such as Google's.
    ///
    /// # Security
    /// Who writes a project's connection says where the codes of its owners' consent go. Without this they go to the provider of the
    /// page, or to the issuer that the callback names. Connections of the platform and predefined ones are not held to it.
    pub fn oauth_provider(mut self, authorization: Origin, token: Origin) -> Self {
        self.providers.push((authorization, token));
        self
    }

    /// Sets what a flow may consist of.
    pub fn flow_limits(mut self, limits: FlowLimits) -> Self {
        self.flow_limits = limits;
        self
    }

    /// Sets what a run may use.
    pub fn run_limits(mut self, limits: RunLimits) -> Self {
        self.run_limits = limits;
        self
    }

    /// Sets what the key-value store of a project may hold, and what one step may do with it. Give every process the same.
    pub fn value_limits(mut self, limits: ValueLimits) -> Self {
        self.value_limits = limits;
        self
    }

    /// Sets how this process executes runs.
    pub fn worker(mut self, options: WorkerOptions) -> Self {
        self.worker = options;
        self
    }

    /// Sets how the webhook door behaves.
    pub fn webhooks(mut self, options: WebhookOptions) -> Self {
        self.webhook = options;
        self
    }

    /// Sets how workers hint to each other that there is work. Default: within this process only, which is all that a
    /// backend of one process needs. With several, hints save up to half a lease of waiting; nothing depends on them.
    pub fn wakeup(mut self, wakeup: Arc<dyn Wakeup>) -> Self {
        self.wakeup = Some(wakeup);
        self
    }

    /// Says where the world reaches [`Runtime::resumes`]: `https://flows.example/resume`, and tokens follow after a slash.
    /// Default: nowhere; flows then have the tokens of `wait` steps, and no addresses.
    ///
    /// [`RuntimeBuilder::build`] refuses what is not an absolute `https` URL without user information, query and fragment.
    /// Plain `http` is for a host that is this machine: `localhost`, 127.0.0.0/8 or `::1`.
    ///
    /// # Security
    /// An address is the right to answer: on a plain connection whoever listens has it.
    pub fn resume_base_url(mut self, url: &str) -> Self {
        self.resume_base = Some(url.trim_end_matches('/').into());
        self
    }

    /// Sets where time comes from. Default: the machine's clock. Give the backend the same one.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets where randomness comes from. Default: the operating system. For tests and simulation only: every nonce and
    /// token comes from it.
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// Opens the keys, checks that they are the ones the backend's data is sealed under, and starts working.
    ///
    /// # Errors
    /// [`BuildError`] if the root key is not to be had, is not the right one, the backend fails, or an option cannot be.
    pub async fn build(self) -> Result<Runtime, BuildError> {
        if self.resume_base.as_deref().is_some_and(|base| !is_base_url(base)) {
            return Err(BuildError::ResumeBaseUrl);
        }
        let root = self.keys.root_key().await?;
        let mut previous = Vec::new();
        for provider in &self.previous {
            previous.push(provider.root_key().await?);
        }
        let keyring = Keyring::new(root, Arc::clone(&self.backend) as Arc<dyn KeyStore>).with_previous(previous)?;
        // Opening the platform's own keys shows at once whether the root key is the right one.
        let now = self.clock.now();
        keyring.open_platform(Scope::Platform(PLATFORM), now, &*self.entropy).await?;
        let keyring = Arc::new(keyring);
        let egress = match self.egress {
            Some(egress) => egress,
            None => default_egress()?,
        };
        let worker_id = WorkerId::from_parts(now, random_array(&*self.entropy)?);
        let wakeup = self.wakeup.unwrap_or_else(|| Arc::new(LocalWakeup::default()));
        let kernel = Arc::new(Kernel {
            backend: Arc::new(LearningBackend::new(self.backend, Arc::clone(&keyring))),
            keyring,
            clock: self.clock,
            entropy: self.entropy,
            pieces: PieceSet::new(self.pieces),
            sandbox: self.sandbox,
            egress,
            secrets: SecretSources::new(self.secrets, self.secrets_kept_for),
            providers: Providers::new(self.providers),
            flow_limits: self.flow_limits,
            run_limits: self.run_limits,
            value_limits: self.value_limits,
            worker_options: self.worker,
            webhook_options: self.webhook,
            flows: FlowCache::default(),
            replies: Arc::new(ReplyHub::new(Arc::clone(&wakeup))),
            denials: Denials::default(),
            wakeup,
            renewals: TaskTracker::new(),
            resume_base: self.resume_base,
        });
        let worker = Worker::start(Arc::clone(&kernel), worker_id);
        let routes = Arc::new(Routes::new(Arc::clone(&kernel)));
        let door = WebhookDoor::new(Arc::clone(&kernel), Arc::clone(&worker), Arc::clone(&routes));
        let resumes = ResumeDoor::new(Arc::clone(&kernel));
        let parts = Parts { kernel, worker, routes, authorizer: Authorizer, platform: PLATFORM, door, resumes };
        Ok(Runtime { parts: Arc::new(parts) })
    }
}

impl fmt::Debug for RuntimeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeBuilder").field("backend", &self.backend).finish_non_exhaustive()
    }
}

/// Why a runtime could not be built. For the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The HTTP client could not be set up.
    #[cfg(feature = "http")]
    #[error(transparent)]
    Egress(#[from] crate::egress::http::HttpEgressError),
    /// No randomness is to be had.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The root key is not to be had, or not the one the data is sealed under.
    #[error("the keys cannot be opened")]
    Keys(#[from] KeyError),
    /// The base URL of the resume door cannot be one.
    #[error(
        "the resume base URL must be an absolute `https` URL without user information, query and fragment; plain `http` is \
         for this machine only"
    )]
    ResumeBaseUrl,
}

fn is_base_url(text: &str) -> bool {
    let Ok(url) = url::Url::parse(text) else { return false };
    let safe = match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(url::Host::Domain(name))) => name == "localhost",
        ("http", Some(url::Host::Ipv4(address))) => address.is_loopback(),
        ("http", Some(url::Host::Ipv6(address))) => address.is_loopback(),
        _ => false,
    };
    let plain = url.username().is_empty() && url.password().is_none();
    safe && plain && url.query().is_none() && url.fragment().is_none()
}

#[cfg(feature = "http")]
fn default_egress() -> Result<Egress, BuildError> {
    use crate::egress::{
        guard::{EgressPolicy, Guard, SystemResolver},
        http::HttpEgress,
    };
    let guard = Guard::new(EgressPolicy::default(), Arc::new(SystemResolver));
    Ok(HttpEgress::builder(guard).build()?.into())
}

#[cfg(not(feature = "http"))]
#[expect(clippy::unnecessary_wraps, reason = "fails with feature `http`")]
fn default_egress() -> Result<Egress, BuildError> {
    Ok(Egress::none())
}

/// The platform a backend belongs to. One database serves one platform, so the id is fixed.
const PLATFORM: PlatformId = PlatformId::from_u128(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_the_resume_door_is_safe_to_hand_out() {
        for good in [
            "https://flows.example/resume",
            "https://flows.example:8443",
            "http://localhost:8080/resume",
            "http://127.0.0.1/resume",
            "http://[::1]:8080/resume",
        ] {
            assert!(is_base_url(good), "{good}");
        }
        for bad in [
            "http://flows.example/resume",
            "http://localhost.flows.example/resume",
            "http://10.0.0.1/resume",
            "https://user@flows.example/resume",
            "https://user:word@flows.example/resume",
            "https://:word@flows.example/resume",
            "https://flows.example/resume?a=1",
            "https://flows.example/resume#a",
            "ftp://flows.example",
            "/resume",
            "",
        ] {
            assert!(!is_base_url(bad), "{bad}");
        }
    }
}
