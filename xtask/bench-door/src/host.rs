//! The host under load: one process, one listening socket, the door and both floors behind the same HTTP stack.

use std::{
    io::{Read, Write},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result};
use ap_auth::{principal::Principal, role::Role};
use ap_core::id::UserId;
use ap_crypto::{entropy::SystemEntropy, provider::MemoryKeyProvider};
use ap_runtime::{
    backend::sqlite::SqliteBackend,
    clock::SystemClock,
    runtime::Runtime,
    sandbox::{SandboxCapacity, WasmSandbox},
    session::ProjectSession,
};
use axum::{
    Router,
    extract::{Path as Segments, State},
    http::StatusCode,
    routing::post,
    serve::ListenerExt,
};
use bench_base::floor::BareWriter;
use bytes::Bytes;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::contender;

/// What the host tells the process that started it, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Announcement {
    /// Where it listens, on the loopback address.
    pub(crate) port: u16,
    /// Path of the webhook of webhook → respond.
    pub(crate) respond: String,
    /// Path of the webhook of webhook → code → respond.
    pub(crate) code: String,
}

/// File name of the engine's database.
pub(crate) const DATABASE: &str = "engine.db";

/// Serves until it is killed or its standard input ends.
pub(crate) fn run(directory: &Path) -> Result<()> {
    std::thread::spawn(|| {
        // The process that started this one holds the other end, and never writes.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(directory))
}

async fn serve(directory: &Path) -> Result<()> {
    let backend = SqliteBackend::open(directory.join(DATABASE), Arc::new(SystemClock)).await?;
    let sandbox = WasmSandbox::start(SandboxCapacity::default())?;
    let keys = MemoryKeyProvider::generate(&SystemEntropy)?;
    let runtime = Runtime::builder(Arc::new(backend), keys).sandbox(sandbox).build().await?;
    let user = Principal::user(UserId::from_u128(1)).with_role(runtime.platform(), Role::Admin);
    let project = runtime.session(user.clone()).create_project("Benchmark").await?;
    let session = runtime.session(user.with_role(project, Role::Admin)).project(project)?;
    let respond = publish(&session, &contender::respond_flow()).await?;
    let code = publish(&session, &contender::code_flow()).await?;

    let writer = BareWriter::open(&directory.join("floor.db"))?;
    let app = Router::new()
        .route_service("/hooks/{token}/sync", runtime.webhooks())
        .route("/floor/http", post(echo))
        .route("/floor/commits/{accept}/{end}", post(commits))
        .with_state(writer);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let announcement = Announcement { port: listener.local_addr()?.port(), respond, code };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(&announcement)?)?;
    out.flush()?;
    drop(out);
    let listener = listener.tap_io(|stream| {
        // Small answers must not wait for the acknowledgement of earlier ones; a refusal only costs speed.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app).await.context("the listener failed")
}

async fn publish(session: &ProjectSession, source: &Value) -> Result<String> {
    let flow = session.create_flow(source.to_string().as_bytes()).await?;
    session.publish_flow(flow.id).await?;
    let token = session.webhook_token(flow.id).await?;
    Ok(format!("/hooks/{}/sync", token.expose_secret()))
}

async fn echo(body: Bytes) -> Bytes {
    body
}

/// Answers after two grouped commits of these many bytes.
async fn commits(
    State(writer): State<BareWriter>,
    Segments((accept, end)): Segments<(usize, usize)>,
    body: Bytes,
) -> Result<Bytes, StatusCode> {
    writer.write(accept).await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    writer.write(end).await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(body)
}
