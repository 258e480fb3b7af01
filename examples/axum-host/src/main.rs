//! The smallest real server around `ap-runtime`: webhooks, health, and an admin API behind a key. See the README.

use std::{alloc::System, env, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use ap_auth::{principal::Principal, role::Role};
use ap_core::{id::ProjectId, store::StoreError};
use ap_crypto::{provider::KeyFile, signature::constant_time_eq};
use ap_runtime::{
    backend::sqlite::SqliteBackend,
    clock::SystemClock,
    logs,
    runtime::Runtime,
    sandbox::{SandboxCapacity, WasmSandbox},
    session::SessionError,
    webhook::ClientAddress,
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use zeroizing_alloc::ZeroAlloc;

/// Wipes what is freed: also the buffers of libraries that a credential went through.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Whatever any library logs, it is written without the credentials of the runs under way.
    let log = || logs::masked(std::io::stdout());
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_ansi(false).with_writer(log).init();
    let admin_key = admin_key()?;
    let database = PathBuf::from(env::var_os("AP_DATABASE").unwrap_or_else(|| "data/flows.db".into()));
    let key_file = PathBuf::from(env::var_os("AP_KEY_FILE").unwrap_or_else(|| "keys/root.key".into()));
    let listen: SocketAddr = match env::var("AP_LISTEN") {
        Ok(text) => text.parse().context("`AP_LISTEN` must be an address such as `127.0.0.1:8080`")?,
        Err(_) => SocketAddr::from(([127, 0, 0, 1], 8080)),
    };
    for file in [&database, &key_file] {
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        directory.map(std::fs::create_dir_all).transpose().with_context(|| format!("no directory for {file:?}"))?;
    }
    let directories = [&database, &key_file].map(|file| file.parent().and_then(|parent| parent.canonicalize().ok()));
    ensure!(directories[0] != directories[1], "`AP_KEY_FILE` must not be kept beside `AP_DATABASE`");

    let backend = Arc::new(SqliteBackend::open(&database, Arc::new(SystemClock)).await?);
    let mut builder = Runtime::builder(backend.clone(), KeyFile::open_or_create(key_file)?)
        .pieces(ap_pieces::standard())
        .sandbox(WasmSandbox::start(SandboxCapacity::default())?);
    // Where those whom a run waits for reach the resume door.
    if let Ok(public) = env::var("AP_PUBLIC_URL") {
        builder = builder.resume_base_url(&format!("{}/resume", public.trim_end_matches('/')));
    }
    let runtime = builder.build().await?;
    let admin = Router::new()
        .route("/projects", post(create_project))
        .route("/projects/{project}/flows", post(publish_flow))
        .layer(DefaultBodyLimit::max(1 << 20))
        .layer(middleware::from_fn_with_state(Arc::new(admin_key), require_admin_key))
        .with_state(runtime.clone());
    let routes = Router::new()
        .route_service("/webhooks/{*rest}", runtime.webhooks())
        .route_service("/resume/{*rest}", runtime.resumes())
        .route("/healthz", get(|| async { "ok" }))
        .nest("/admin", admin)
        .layer(middleware::from_fn(client_address))
        .into_make_service_with_connect_info::<SocketAddr>();

    let listener = tokio::net::TcpListener::bind(listen).await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    // Any other end of the process is a crash, and loses nothing either.
    let stop = async { tokio::signal::ctrl_c().await.unwrap_or_else(|error| tracing::error!(%error, "no ctrl-c")) };
    axum::serve(listener, routes).with_graceful_shutdown(stop).await?;
    runtime.shutdown(Duration::from_secs(30)).await;
    backend.close().await;
    Ok(())
}

/// Reads the admin key, and refuses one that anybody could guess.
fn admin_key() -> anyhow::Result<SecretString> {
    let key = SecretString::from(env::var("ADMIN_API_KEY").context("`ADMIN_API_KEY` is not set")?);
    let text = key.expose_secret().to_ascii_lowercase();
    let sample = ["change-me", "changeme", "example", "sample", "your-"].iter().any(|word| text.contains(word));
    ensure!(text.len() >= 32 && !sample, "`ADMIN_API_KEY` is too short or a sample: use `openssl rand -hex 32`");
    Ok(key)
}

async fn require_admin_key(State(key): State<Arc<SecretString>>, request: Request, next: Next) -> Response {
    let given =
        request.headers().get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if given.is_some_and(|given| constant_time_eq(given, key.expose_secret().as_bytes())) {
        return next.run(request).await;
    }
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response()
}

/// Tells the webhook door who calls. Behind a proxy, take the address from the header your proxy sets.
async fn client_address(ConnectInfo(peer): ConnectInfo<SocketAddr>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(ClientAddress(peer.ip()));
    next.run(request).await
}

async fn create_project(
    State(runtime): State<Runtime>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let principal = Principal::service("admin").with_role(runtime.platform(), Role::Admin).with_ip(peer.ip());
    let name = body.get("name").and_then(Value::as_str).unwrap_or_default();
    let project = runtime.session(principal).create_project(name).await?;
    Ok((StatusCode::CREATED, Json(json!({ "project": project }))).into_response())
}

/// Stores and publishes the flow in the body; answers with the path of its webhook.
async fn publish_flow(
    State(runtime): State<Runtime>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(project): Path<ProjectId>,
    flow: Bytes,
) -> Result<Response, Failure> {
    let principal = Principal::service("admin").with_role(project, Role::Editor).with_ip(peer.ip());
    let project = runtime.session(principal).project(project)?;
    let flow = project.create_flow(&flow).await?;
    project.publish_flow(flow.id).await?;
    let token = project.webhook_token(flow.id).await?;
    let webhook = format!("/webhooks/{}", token.expose_secret());
    Ok((StatusCode::CREATED, Json(json!({ "flow": flow.id, "webhook": webhook }))).into_response())
}

/// A failed call, as an answer: the caller's faults with their reasons, ours without.
struct Failure(SessionError);

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match &self.0 {
            SessionError::Denied(_) => StatusCode::FORBIDDEN,
            SessionError::InvalidArgument { .. } | SessionError::InvalidFlow(_) => StatusCode::UNPROCESSABLE_ENTITY,
            SessionError::Store(StoreError::NotFound { .. }) => StatusCode::NOT_FOUND,
            error => {
                tracing::error!(%error, "an admin request failed");
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            }
        };
        (status, Json(json!({ "error": self.0.to_string() }))).into_response()
    }
}
