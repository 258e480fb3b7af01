//! The host under test: a runtime on one SQLite file, its door behind a socket.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use ap_auth::{principal::Principal, role::Role};
use ap_core::{
    id::{ProjectId, UserId},
    piece::Piece,
};
use ap_crypto::{key::RootKey, provider::MemoryKeyProvider};
use ap_runtime::{
    backend::sqlite::SqliteBackend,
    clock::SystemClock,
    config::WorkerOptions,
    runtime::Runtime,
    session::{ProjectSession, Session},
    webhook::WebhookDoor,
};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use secrecy::ExposeSecret;
use tokio::net::TcpListener;

use crate::{
    flows::{Kind, PeerPiece},
    peer::Peer,
    wire::{self, Message},
};

/// A runtime and its store.
#[derive(Debug)]
pub struct Host {
    backend: Arc<SqliteBackend>,
    runtime: Runtime,
}

/// What was set up before the first kill.
#[derive(Clone, Debug)]
pub struct Setup {
    pub project: ProjectId,
    /// The webhook path of each kind of flow.
    pub paths: BTreeMap<Kind, String>,
}

/// Creates the project and publishes the flows.
pub async fn set_up(database: &Path, peer: &Peer) -> Setup {
    let host = Host::open(database, peer.address()).await;
    let project = host.session(None).create_project("Crash").await.unwrap();
    let admin = host.admin(project);
    let mut paths = BTreeMap::new();
    for kind in Kind::ALL {
        let flow = admin.create_flow(kind.source().to_string().as_bytes()).await.unwrap();
        admin.publish_flow(flow.id).await.unwrap();
        let token = admin.webhook_token(flow.id).await.unwrap();
        paths.insert(kind, format!("/hooks/{}", token.expose_secret()));
    }
    host.close().await;
    Setup { project, paths }
}

impl Host {
    pub async fn open(database: &Path, peer: SocketAddr) -> Self {
        let backend = Arc::new(SqliteBackend::open(database, Arc::new(SystemClock)).await.unwrap());
        // Fewer than there are senders: some runs are accepted into the queue, and claimed from it.
        let worker = WorkerOptions::default().with_concurrency(10).unwrap().with_lease(Duration::from_secs(5)).unwrap();
        let keys = MemoryKeyProvider::new(
            RootKey::from_slice(b"the 32 bytes of a key for a test.".first_chunk::<32>().unwrap()).unwrap(),
        );
        let runtime = Runtime::builder(backend.clone(), keys)
            .pieces([Arc::new(PeerPiece(peer)) as Arc<dyn Piece>])
            .worker(worker)
            .build()
            .await
            .unwrap();
        Self { backend, runtime }
    }

    pub fn admin(&self, project: ProjectId) -> ProjectSession {
        self.session(Some(project)).project(project).unwrap()
    }

    fn session(&self, project: Option<ProjectId>) -> Session {
        let principal = Principal::user(UserId::from_u128(1)).with_role(self.runtime.platform(), Role::Admin);
        self.runtime.session(project.into_iter().fold(principal, |who, project| who.with_role(project, Role::Admin)))
    }

    /// Opens the door on a socket.
    pub async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = self.runtime.webhooks();
        tokio::spawn(wire::serve(listener, move |request| pass(door.clone(), request)));
        address
    }

    /// Ends in an orderly way.
    pub async fn close(self) {
        self.runtime.shutdown(Duration::from_secs(10)).await;
        self.backend.close().await;
    }
}

/// Hands a request to the door.
async fn pass(door: WebhookDoor, message: Message) -> Message {
    let mut request = Request::post(message.target());
    for (name, value) in &message.headers {
        request = request.header(name, value);
    }
    let response = door.handle(request.body(Full::new(Bytes::from(message.body))).unwrap()).await;
    let (parts, body) = response.into_parts();
    let answer = Message::new(format!("HTTP/1.1 {}", parts.status), body.to_vec());
    parts.headers.iter().fold(answer, |answer, (name, value)| answer.with(name.as_str(), value.to_str().unwrap()))
}
