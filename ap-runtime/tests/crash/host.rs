//! The host under test: a runtime on a store, its door behind a socket.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use ap_auth::{principal::Principal, role::Role};
use ap_core::{
    id::{ProjectId, UserId},
    piece::Piece,
};
use ap_crypto::{key::RootKey, provider::MemoryKeyProvider};
use ap_runtime::{
    config::WorkerOptions,
    egress::{
        guard::{EgressPolicy, Guard, SystemResolver},
        http::HttpEgress,
    },
    resume::ResumeDoor,
    runtime::{Runtime, RuntimeBuilder},
    session::{ProjectSession, Session},
    webhook::WebhookDoor,
};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::{
    flows::{self, CountingSandbox, Kind, PeerPiece, Places},
    peer::Peer,
    store::{Opened, Store},
    wire::{self, Message},
};

/// A runtime and its store.
#[derive(Debug)]
pub struct Host {
    opened: Opened,
    runtime: Runtime,
    /// Deliveries that were acknowledged before they were handled.
    early: TaskTracker,
}

/// What was set up before the first kill.
#[derive(Clone, Debug)]
pub struct Setup {
    pub project: ProjectId,
    /// The webhook path of each kind of flow.
    pub paths: BTreeMap<Kind, String>,
}

/// When a delivery is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// Once it is committed, as it must be.
    Committed,
    /// As soon as it arrives: the fault that the checks have to find.
    Early,
}

/// Creates the project and publishes the flows.
pub async fn set_up(store: &Store, peer: &Peer) -> Setup {
    let host = Host::open(store, peer.address()).await;
    let project = host.session(None).create_project("Crash").await.unwrap();
    let admin = host.admin(project);
    let mut paths = BTreeMap::new();
    let publish = async |source: Value| {
        let flow = admin.create_flow(source.to_string().as_bytes()).await.unwrap();
        admin.publish_flow(flow.id).await.unwrap();
        flow
    };
    let places = Places { peer: peer.address(), called: publish(flows::called()).await.id };
    for kind in Kind::ALL {
        let flow = publish(kind.source(&places)).await;
        let token = admin.webhook_token(flow.id).await.unwrap();
        paths.insert(kind, format!("/hooks/{}", token.expose_secret()));
    }
    host.close().await;
    Setup { project, paths }
}

impl Host {
    pub async fn open(store: &Store, peer: SocketAddr) -> Self {
        let opened = store.open().await;
        // Fewer than there are senders: some runs are accepted into the queue, and claimed from it.
        let worker = WorkerOptions::default().with_concurrency(10).unwrap().with_lease(Duration::from_secs(3)).unwrap();
        let here = EgressPolicy::new().allow_network("127.0.0.1/32".parse().unwrap()).unwrap();
        let keys = MemoryKeyProvider::new(
            RootKey::from_slice(b"the 32 bytes of a key for a test.".first_chunk::<32>().unwrap()).unwrap(),
        );
        let builder = Runtime::builder(opened.backend(), keys);
        let builder = opened.wakeup().await.into_iter().fold(builder, RuntimeBuilder::wakeup);
        let runtime = builder
            .pieces(ap_pieces::standard())
            .pieces([Arc::new(PeerPiece(peer)) as Arc<dyn Piece>])
            .sandbox(CountingSandbox)
            .egress(HttpEgress::builder(Guard::new(here, Arc::new(SystemResolver))).build().unwrap())
            .worker(worker)
            .build()
            .await
            .unwrap();
        Self { opened, runtime, early: TaskTracker::new() }
    }

    pub fn admin(&self, project: ProjectId) -> ProjectSession {
        self.session(Some(project)).project(project).unwrap()
    }

    fn session(&self, project: Option<ProjectId>) -> Session {
        let principal = Principal::user(UserId::from_u128(1)).with_role(self.runtime.platform(), Role::Admin);
        self.runtime.session(project.into_iter().fold(principal, |who, project| who.with_role(project, Role::Admin)))
    }

    /// Opens the door on a socket.
    pub async fn serve(&self, acknowledge: Acknowledge) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (doors, early) = ((self.runtime.webhooks(), self.runtime.resumes()), self.early.clone());
        tokio::spawn(wire::serve(listener, move |request| {
            let (handled, early) = (pass(doors.clone(), request), early.clone());
            async move {
                match acknowledge {
                    Acknowledge::Committed => handled.await,
                    Acknowledge::Early => {
                        early.spawn(handled);
                        Message::new("HTTP/1.1 202 Accepted", "{}")
                    }
                }
            }
        }));
        address
    }

    /// Ends in an orderly way.
    pub async fn close(self) {
        self.early.close();
        self.early.wait().await;
        self.runtime.shutdown(Duration::from_secs(10)).await;
        self.opened.close().await;
    }
}

/// Hands a request to its door.
async fn pass((webhooks, resumes): (WebhookDoor, ResumeDoor), message: Message) -> Message {
    let mut request = Request::post(message.target());
    for (name, value) in &message.headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::from(message.body))).unwrap();
    let response = match request.uri().path().starts_with("/resume/") {
        true => resumes.handle(request).await,
        false => webhooks.handle(request).await,
    };
    let (parts, body) = response.into_parts();
    let answer = Message::new(format!("HTTP/1.1 {}", parts.status), body.to_vec());
    parts.headers.iter().fold(answer, |answer, (name, value)| answer.with(name.as_str(), value.to_str().unwrap()))
}
