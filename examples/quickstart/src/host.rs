//! The host: a runtime on a SQLite file, and a socket with the webhook door behind it. What a SaaS backend would have.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use ap_crypto::provider::KeyFile;
use ap_runtime::{
    backend::sqlite::SqliteBackend,
    clock::SystemClock,
    egress::{
        guard::{EgressPolicy, Guard, SystemResolver},
        http::HttpEgress,
    },
    runtime::Runtime,
    sandbox::{SandboxCapacity, WasmSandbox},
    webhook::ClientAddress,
};
use axum::{
    Router,
    extract::{ConnectInfo, Request},
    middleware::{self, Next},
    response::Response,
};
use tokio::{net::TcpListener, task::JoinHandle};

/// Where the demonstration keeps its files.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    root: PathBuf,
}

impl Places {
    /// Creates the directories below `root`, for their owner only.
    pub(crate) fn create(root: &Path) -> anyhow::Result<Self> {
        let places = Self { root: root.to_owned() };
        for directory in [places.root.clone(), places.data(), places.keys()] {
            create_private(&directory).with_context(|| format!("cannot create `{}`", directory.display()))?;
        }
        Ok(places)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Everything in here may be copied by whoever makes backups.
    pub(crate) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.data().join("flows.db")
    }

    /// Apart from the data: whoever has both has everything. In production: another volume, or a key service.
    fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    pub(crate) fn root_key(&self) -> PathBuf {
        self.keys().join("root.key")
    }
}

/// A running host.
pub(crate) struct Host {
    pub(crate) runtime: Runtime,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    backend: Arc<SqliteBackend>,
    server: JoinHandle<()>,
}

impl Host {
    /// Opens the database, takes up what an earlier process left unfinished, and listens on a free port of this machine.
    pub(crate) async fn start(places: &Places) -> anyhow::Result<Self> {
        let backend = Arc::new(SqliteBackend::open(places.database(), Arc::new(SystemClock)).await?);
        let keys = KeyFile::open_or_create(places.root_key())?;
        let runtime = Runtime::builder(backend.clone(), keys)
            .pieces(ap_pieces::standard())
            .sandbox(WasmSandbox::start(SandboxCapacity::default())?)
            .egress(loopback_egress()?)
            .build()
            .await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let routes = Router::new()
            .route_service("/webhooks/{*rest}", runtime.webhooks())
            .layer(middleware::from_fn(client_address))
            .into_make_service_with_connect_info::<SocketAddr>();
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                eprintln!("the host stopped listening: {error}");
            }
        });
        Ok(Self { runtime, address, backend, server })
    }

    /// Ends in good order: unlike after a kill, nothing is left to recover.
    pub(crate) async fn stop(self) {
        self.server.abort();
        self.runtime.shutdown(Duration::from_secs(5)).await;
        self.backend.close().await;
    }
}

/// Flows may reach the public Internet only, unless the host opts a network in. Here the API is on this machine, and
/// speaks plain HTTP.
fn loopback_egress() -> anyhow::Result<HttpEgress> {
    let loopback = "127.0.0.0/8".parse()?;
    let policy = EgressPolicy::new().allow_network(loopback)?.allow_plain_http_credentials(loopback)?;
    Ok(HttpEgress::builder(Guard::new(policy, Arc::new(SystemResolver))).build()?)
}

/// Tells the door who calls, for the audit trail.
async fn client_address(ConnectInfo(peer): ConnectInfo<SocketAddr>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(ClientAddress(peer.ip()));
    next.run(request).await
}

fn create_private(directory: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}
