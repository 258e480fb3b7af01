//! A runtime on one of the backends, with tenants.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use ap_auth::{principal::Principal, role::Role};
use ap_core::{
    id::{ProjectId, UserId},
    piece::Piece,
};
use ap_crypto::{key::RootKey, provider::MemoryKeyProvider};
use ap_runtime::{
    backend::{
        memory::MemoryBackend,
        postgres::{PostgresBackend, PostgresOptions},
        sqlite::SqliteBackend,
    },
    clock::SystemClock,
    config::WorkerOptions,
    runtime::Runtime,
    session::ProjectSession,
    store::Backend,
    wakeup::Wakeup,
    webhook::WebhookDoor,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::piece::Stub;

/// Where records are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In this process.
    Memory,
    /// In this file.
    Sqlite(PathBuf),
    /// In this schema of this database.
    Postgres {
        /// The database's URL.
        url: String,
        /// The schema.
        schema: String,
    },
}

impl Place {
    /// Its name in the report.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite(_) => "SQLite",
            Self::Postgres { .. } => "PostgreSQL",
        }
    }
}

/// A running runtime and its backend.
#[derive(Debug)]
pub struct World {
    /// The runtime.
    pub runtime: Runtime,
    opened: Opened,
}

#[derive(Debug)]
enum Opened {
    Memory(Arc<MemoryBackend>),
    Sqlite(Arc<SqliteBackend>),
    Postgres(Arc<PostgresBackend>, Arc<dyn Wakeup>),
}

impl World {
    /// Opens the backend and starts a runtime on it. The root key is fixed: what is measured is no secret.
    ///
    /// # Errors
    /// If one of them does not start.
    pub async fn open(place: &Place, options: WorkerOptions) -> Result<Self> {
        let opened = match place {
            Place::Memory => Opened::Memory(Arc::new(MemoryBackend::new(Arc::new(SystemClock)))),
            Place::Sqlite(path) => Opened::Sqlite(Arc::new(SqliteBackend::open(path, Arc::new(SystemClock)).await?)),
            Place::Postgres { url, schema } => {
                let options = PostgresOptions::from_url(url)?.with_schema(schema);
                let backend = PostgresBackend::open(options).await?;
                let wakeup = backend.wakeup().await;
                Opened::Postgres(Arc::new(backend), wakeup)
            }
        };
        let key =
            MemoryKeyProvider::new(RootKey::from_slice(&std::array::from_fn::<u8, { RootKey::BYTES }, _>(|index| {
                index as u8
            }))?);
        let builder = match &opened {
            Opened::Memory(backend) => Runtime::builder(Arc::clone(backend) as Arc<dyn Backend>, key),
            Opened::Sqlite(backend) => Runtime::builder(Arc::clone(backend) as Arc<dyn Backend>, key),
            Opened::Postgres(backend, wakeup) => {
                Runtime::builder(Arc::clone(backend) as Arc<dyn Backend>, key).wakeup(Arc::clone(wakeup))
            }
        };
        let pieces = [Arc::new(Stub) as Arc<dyn Piece>];
        let runtime = builder.pieces(pieces).worker(options).build().await?;
        Ok(Self { runtime, opened })
    }

    /// Creates a tenant and publishes a flow for each of `sources`.
    ///
    /// # Errors
    /// If something is refused.
    pub async fn tenant(&self, sources: &[Value]) -> Result<Tenant> {
        let user = Principal::user(UserId::from_u128(1)).with_role(self.runtime.platform(), Role::Admin);
        let project = self.runtime.session(user.clone()).create_project("Benchmark").await?;
        let session = self.runtime.session(user.with_role(project, Role::Admin)).project(project)?;
        let mut hooks = Vec::new();
        for source in sources {
            hooks.push(publish(&session, source).await?);
        }
        Ok(Tenant { project: project.as_bytes().to_vec(), hooks })
    }

    /// The door.
    #[must_use]
    pub fn door(&self) -> WebhookDoor {
        self.runtime.webhooks()
    }

    /// Ends everything in order.
    pub async fn close(self) {
        self.runtime.shutdown(std::time::Duration::from_secs(5)).await;
        drop(self.runtime);
        match self.opened {
            Opened::Memory(_) => {}
            Opened::Sqlite(backend) => backend.close().await,
            Opened::Postgres(backend, _) => backend.close().await,
        }
    }
}

/// A project with its webhooks, in the order of the flows it was made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its id.
    pub project: Vec<u8>,
    /// Tokens of its webhooks.
    pub hooks: Vec<String>,
}

impl Tenant {
    /// Its id.
    ///
    /// # Errors
    /// If it is none.
    pub fn id(&self) -> Result<ProjectId> {
        Ok(ProjectId::from_slice(&self.project)?)
    }

    /// The path of the `index`-th webhook, answered with what the run replies.
    ///
    /// # Errors
    /// If there is no such webhook.
    pub fn path(&self, index: usize) -> Result<String> {
        Ok(format!("/{}/sync", self.hooks.get(index).context("there is no such webhook")?))
    }
}

async fn publish(session: &ProjectSession, source: &Value) -> Result<String> {
    let flow = session.create_flow(source.to_string().as_bytes()).await?;
    session.publish_flow(flow.id).await?;
    Ok(session.webhook_token(flow.id).await?.expose_secret().to_owned())
}

/// Hands one request to the door and returns its answer.
///
/// # Errors
/// If the request cannot be made.
pub async fn ask(door: &WebhookDoor, path: &str, body: Vec<u8>) -> Result<Response<Bytes>> {
    let request = Request::post(path).header("content-type", "application/json").header("user-agent", "bench");
    Ok(door.handle(request.body(Full::new(Bytes::from(body)))?).await)
}

/// As [`ask`], and the answer is 200.
///
/// # Errors
/// If it is not.
pub async fn run_to_its_end(door: &WebhookDoor, path: &str, body: Vec<u8>) -> Result<()> {
    let answer = ask(door, path, body).await?;
    let (status, body) = (answer.status(), String::from_utf8_lossy(answer.body()).into_owned());
    anyhow::ensure!(status == StatusCode::OK, "the door answered {status}: {body}");
    Ok(())
}
