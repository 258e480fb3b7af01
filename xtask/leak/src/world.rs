//! A host with one flow: webhook → code → HTTP, with credentials on the way. What else it does is in `durable`.

use std::sync::{Arc, Mutex, atomic::AtomicUsize};

use ap_auth::{audit::AuditEvent, principal::Principal, role::Role};
use ap_core::{
    connection::{Connection, ConnectionTerms, ConnectionValue, FieldValue, Origin, Placement},
    id::{FlowId, ProjectId, RunId, UserId},
    piece::Piece,
    store::PageRequest,
};
use ap_crypto::{key::RootKey, provider::MemoryKeyProvider, signature::HmacSha256};
use ap_runtime::{
    egress::{
        Egress,
        guard::{EgressPolicy, Guard, SystemResolver},
        http::HttpEgress,
        mail::MailEgress,
        objects::ObjectEgress,
        sql::SqlEgress,
    },
    runtime::Runtime,
    sandbox::{SandboxCapacity, WasmSandbox},
    session::{ProjectSession, Session},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::{
    echo::Echo,
    items::Items,
    peer::Peer,
    protocols::{self, Peers, Places},
    secrets::{Payloads, Secrets},
    storage::Storage,
};

/// A host, its peer, and where its data lies.
pub struct World {
    pub peer: Peer,
    /// Those of other protocols.
    pub peers: Peers,
    pub storage: Storage,
    pub runtime: Runtime,
    pub payloads: Payloads,
    /// Resume tokens that were made.
    pub tokens: Mutex<Vec<String>>,
    /// How many polls there were.
    pub polls: Arc<AtomicUsize>,
    project: ProjectId,
    /// Flow and webhook path: with a header, and signed.
    pub flows: [(FlowId, String); 2],
    hook: String,
    signing: HmacSha256,
    /// The connections, as `Debug` shows them.
    shown: String,
}

/// What came of one delivery.
pub struct Seen {
    pub run: Value,
    pub body: Bytes,
    texts: Vec<(&'static str, String)>,
}

impl Seen {
    pub fn of(shown: &(impl serde::Serialize + std::fmt::Debug)) -> Self {
        let run = serde_json::to_value(shown).unwrap();
        let texts = vec![("JSON", run.to_string()), ("Debug", format!("{shown:?}"))];
        Self { run, body: Bytes::new(), texts }
    }

    pub fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.texts.iter().map(|(place, text)| (*place, text.as_str()))
    }
}

impl World {
    pub async fn open(secrets: &Secrets, scrub: bool, storage: Storage) -> Self {
        let peer = Peer::start(secrets).await;
        let peers = Peers::start(secrets, peer.elsewhere()).await;
        let keys = MemoryKeyProvider::new(RootKey::from_slice(&secrets.root).unwrap());
        let polls = Arc::new(AtomicUsize::new(0));
        let items: Arc<dyn Piece> = Arc::new(Items(secrets.payloads.item.clone(), Arc::clone(&polls)));
        let pieces = ap_pieces::standard().into_iter().chain([items]);
        let sandbox = WasmSandbox::start(SandboxCapacity::default()).unwrap();
        let mut builder = Runtime::builder(storage.backend(), keys)
            .pieces(pieces)
            .sandbox(sandbox)
            .egress(egress(scrub, &peers.places));
        if let Some(wakeup) = storage.wakeup().await {
            builder = builder.wakeup(wakeup);
        }
        let runtime = builder.build().await.unwrap();
        let project = session(&runtime, None).create_project("Canary").await.unwrap();
        let admin = session(&runtime, Some(project)).project(project).unwrap();
        let shown = put_connections(&admin, secrets, &peer).await
            + &protocols::connect(&admin, &peers.places, &secrets.keys).await;
        let header =
            json!({ "type": "HEADER", "headerName": "X-Hook-Secret", "expectedValue": "{{connections.hook}}" });
        let signed = json!({ "type": "HMAC_SHA256", "headerName": "X-Signature", "secret": "{{connections.signing}}" });
        let flows = [publish(&admin, &header).await, publish(&admin, &signed).await];
        let signing = HmacSha256::new(&secrets.signing.clone().into()).unwrap();
        let (payloads, hook, tokens) = (secrets.payloads.clone(), secrets.hook.clone(), Mutex::default());
        Self { peer, peers, storage, runtime, payloads, tokens, polls, project, flows, hook, signing, shown }
    }

    /// Sends one event and waits for the reply, and the end, of its run.
    pub async fn deliver(&self, echo: Echo) -> Seen {
        let body = json!({ "form": echo.name(), "note": self.payloads.event }).to_string();
        // Every other event goes through the signed webhook.
        let signed = echo as usize % 2 == 1;
        let (_, path) = &self.flows[usize::from(signed)];
        let request = Request::post(format!("{path}/sync")).header("content-type", "application/json");
        let request = if signed {
            let signature: String =
                self.signing.sign(&[body.as_bytes()]).iter().map(|byte| format!("{byte:02x}")).collect();
            request.header("x-signature", signature)
        } else {
            request.header("x-hook-secret", &self.hook)
        };
        let response = self.send(request.body(Full::new(Bytes::from(body))).unwrap()).await;
        let run: RunId = response.headers()["x-run-id"].to_str().unwrap().parse().unwrap();
        let mut seen = self.ended(run).await;
        seen.texts.push(("response", format!("{response:?}")));
        Seen { body: response.into_body(), ..seen }
    }

    /// A run that has ended, or ends soon.
    pub async fn ended(&self, run: RunId) -> Seen {
        let status = self.admin().wait_for_run(run, std::time::Duration::from_secs(30)).await.unwrap();
        assert!(status.is_terminal());
        self.seen(run).await
    }

    /// A run as it stands.
    pub async fn seen(&self, run: RunId) -> Seen {
        Seen::of(&self.admin().run(run).await.unwrap())
    }

    /// Makes the door and the session refuse things that have to do with secrets.
    pub async fn be_refused(&self, secrets: &Secrets) -> String {
        let (_, path) = &self.flows[0];
        for wrong in ["", &secrets.signing, &format!("{}x", secrets.hook)] {
            let request = Request::post(path).header("x-hook-secret", wrong).body(Full::new(Bytes::new())).unwrap();
            assert_eq!(self.send(request).await.status(), 401);
        }
        // `username` must not hold a colon; the placement names a field that is not there.
        let basic = |username: &str| ConnectionValue::BasicAuth {
            username: username.to_owned(),
            password: secrets.odd.as_str().into(),
        };
        let nowhere = vec![Placement::Bearer { field: "token".to_owned() }];
        let refused =
            [Connection::new("api", basic("a:b"), vec![], vec![]), Connection::new("api", basic("a"), nowhere, vec![])];
        refused.into_iter().map(|refused| refused.unwrap_err()).map(|error| format!("{error} {error:?}")).collect()
    }

    /// The whole audit trail.
    pub async fn audit(&self) -> Vec<AuditEvent> {
        let (mut page, mut events) = (PageRequest::first(PageRequest::MAX_LIMIT), Vec::new());
        loop {
            let found = self.admin().audit(&page).await.unwrap();
            events.extend(found.items);
            match found.next {
                Some(next) => page = page.after(next),
                None => return events,
            }
        }
    }

    /// What a host can print or show that is not of one run.
    pub async fn texts(&self) -> Vec<(&'static str, String)> {
        let admin = self.admin();
        let connections = admin.connections(&PageRequest::default()).await.unwrap().items;
        let audit = self.audit().await;
        let runs = admin.runs(ap_runtime::store::RunFilter::default(), &PageRequest::default()).await.unwrap();
        assert!(audit.iter().any(|event| event.action() == "connection.use"), "no use was audited");
        vec![
            ("audit trail", serde_json::to_string(&audit).unwrap()),
            ("Debug of the audit trail", format!("{audit:?}")),
            ("connections", serde_json::to_string(&connections).unwrap()),
            ("Debug of the connections", format!("{connections:?}")),
            ("Debug of a connection", self.shown.clone()),
            ("Debug of the signing key", format!("{:?}", self.signing)),
            ("Debug of the runs", format!("{runs:?}")),
            ("Debug of the runtime", format!("{:?}", self.runtime)),
            ("Debug of the backend", format!("{:?}", self.storage.backend())),
            ("Debug of the door", format!("{:?}", self.runtime.webhooks())),
            ("Debug of the session", format!("{admin:?}")),
        ]
    }

    /// How many flows there are, and how many runs have ended.
    pub async fn counts(&self) -> (usize, usize) {
        let (admin, mut page, mut runs) = (self.admin(), PageRequest::first(PageRequest::MAX_LIMIT), 0);
        let flows = admin.flows(&PageRequest::first(PageRequest::MAX_LIMIT)).await.unwrap().items.len();
        loop {
            let found = admin.runs(ap_runtime::store::RunFilter::default(), &page).await.unwrap();
            runs += found.items.iter().filter(|run| run.status.is_terminal()).count();
            match found.next {
                Some(next) => page = page.after(next),
                None => return (flows, runs),
            }
        }
    }

    /// Ends in an orderly way, and returns what is left in the store.
    pub async fn close(self) -> Vec<(String, Vec<u8>)> {
        self.runtime.shutdown(std::time::Duration::from_secs(10)).await;
        self.storage.close().await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        self.runtime.webhooks().handle(request).await
    }

    pub fn admin(&self) -> ProjectSession {
        session(&self.runtime, Some(self.project)).project(self.project).unwrap()
    }
}

fn session(runtime: &Runtime, project: Option<ProjectId>) -> Session {
    let principal = Principal::user(UserId::from_u128(1)).with_role(runtime.platform(), Role::Admin);
    runtime.session(project.into_iter().fold(principal, |who, project| who.with_role(project, Role::Admin)))
}

/// A way to every peer.
pub fn egress(scrub: bool, places: &Places) -> Egress {
    let here = "127.0.0.1/32".parse().unwrap();
    let policy = EgressPolicy::new().allow_network(here).unwrap().allow_plain_http_credentials(here).unwrap();
    let policy = policy.allow_plain_credentials(here).unwrap();
    let guard = Guard::new(policy, Arc::new(SystemResolver));
    let builder = HttpEgress::builder(guard.clone());
    let builder = if scrub { builder } else { builder.dangerous().without_response_scrubbing() };
    let http = builder.build().unwrap();
    let sql = SqlEgress::builder(guard.clone()).with_sqlite_directory(&places.files).build().unwrap();
    let mail = MailEgress::builder(guard).build().unwrap();
    Egress::from(http.clone()).with_objects(ObjectEgress::new(http)).with_mail(mail).with_sql(sql)
}

/// Returns what it was given, and logs it.
pub const LOGGED: &str =
    "export const code = async (params) => { console.log(JSON.stringify(params)); return params; };";

/// Returns what `Debug` makes of them.
async fn put_connections(admin: &ProjectSession, secrets: &Secrets, peer: &Peer) -> String {
    let mut shown = String::new();
    let custom = |field: &str, secret: &str| ConnectionValue::CustomAuth {
        fields: [
            ("url".to_owned(), FieldValue::Clear(peer.url())),
            (field.to_owned(), FieldValue::Secret(secret.into())),
        ]
        .into(),
    };
    let text = |secret: &str| ConnectionValue::SecretText { secret: secret.into() };
    let field = || "key".to_owned();
    let places = vec![
        Placement::Body { pointer: "/auth/key".to_owned(), field: field() },
        Placement::Query { name: "key".to_owned(), field: field() },
    ];
    let keyed = vec![Placement::Header { name: "X-Key".to_owned(), field: "token".to_owned() }];
    let basic = ConnectionValue::BasicAuth { username: "ada".to_owned(), password: secrets.password.as_str().into() };
    for (name, value, placements) in [
        ("api", custom("token", &secrets.api), vec![]),
        ("odd", custom("key", &secrets.odd), places),
        ("basic", basic, vec![]),
        ("keyed", custom("token", &secrets.header), keyed),
        ("field", text(&secrets.field), vec![]),
        ("hook", text(&secrets.hook), vec![]),
        ("signing", text(&secrets.signing), vec![]),
    ] {
        // A user name and a password do not say where they belong.
        let origins = if name == "basic" { vec![Origin::of_url(&peer.url()).unwrap()] } else { vec![] };
        let connection = Connection::new(name, value, placements, origins).unwrap();
        // Only what is said to be a key is one.
        let pieces = if name == "field" { vec!["crypto".to_owned()] } else { vec![] };
        let connection = connection.with_terms(ConnectionTerms { pieces, ..ConnectionTerms::default() }).unwrap();
        admin.put_connection(&connection).await.unwrap();
        shown.push_str(&format!("{connection:?}"));
    }
    shown
}

async fn publish(admin: &ProjectSession, authentication: &Value) -> (FlowId, String) {
    let bearer = json!({ "Authorization": "Bearer {{connections.api.token}}" });
    let url = "{{connections.api.url}}/echo/{{trigger.body.form}}";
    let source = json!({
        "displayName": "Canary",
        "triggers": [{ "name": "hook", "type": "webhook", "settings": { "authentication": authentication } }],
        "steps": [
            { "name": "prepare", "type": "code", "settings": {
                "sourceCode": { "code": LOGGED },
                "input": { "token": "{{connections.api.token}}", "whole": "{{connections.odd}}", "event": "{{trigger.body}}" },
            } },
            // Placed by the connection, and in the query; the error of a failed one stays in the run.
            { "name": "placed", "type": "http.request", "onError": "continue", "settings": {
                "method": "POST", "url": url, "connection": "{{connections.api}}",
                "query": { "key": "{{connections.odd.key}}" },
            } },
            // To an origin that has no right to it: refused, with an error that names it.
            { "name": "stray", "type": "http.request", "onError": "continue", "settings": {
                "method": "GET", "url": "http://127.0.0.1:8080/", "headers": bearer,
            } },
            // Last: what it brings back is the reply, or fails the run.
            { "name": "send", "type": "http.request", "settings": {
                "method": "POST", "url": url, "headers": bearer,
                "body": { "auth": { "key": "{{connections.odd.key}}" }, "event": "{{steps.prepare.output.event}}" },
            } },
        ],
    });
    let flow = admin.create_flow(source.to_string().as_bytes()).await.unwrap();
    admin.publish_flow(flow.id).await.unwrap();
    let token = admin.webhook_token(flow.id).await.unwrap();
    (flow.id, format!("/hooks/{}", token.expose_secret()))
}
