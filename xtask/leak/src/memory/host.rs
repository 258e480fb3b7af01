//! The host whose memory is searched.

use std::{
    fs::File,
    io::{Read, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ap_auth::{principal::Principal, role::Role};
use ap_core::{
    connection::{Connection, ConnectionValue, FieldValue, Origin, Placement},
    id::{ProjectId, UserId},
    piece::Piece,
};
use ap_crypto::{entropy::SystemEntropy, provider::MemoryKeyProvider};
use ap_runtime::{
    backend::sqlite::SqliteBackend,
    clock::SystemClock,
    runtime::Runtime,
    sandbox::{SandboxCapacity, WasmSandbox},
    session::ProjectSession,
};
use secrecy::SecretString;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    durable::{manual, send},
    items::Items,
    protocols::{self, Places},
    secrets::Keys,
    world,
};

/// Said while a script runs that has placeholders, and after flows that used the credentials.
pub const SPINNING: &str = "spinning";
/// Said when nothing is left but the process.
pub const DROPPED: &str = "dropped";

/// What it is told: where its database goes, its peer, its credentials.
struct Told {
    directory: PathBuf,
    url: String,
    api: SecretString,
    odd: SecretString,
    password: SecretString,
    header: SecretString,
    places: Places,
    keys: Keys,
}

/// Works, says [`SPINNING`], waits for a line, drops everything, says [`DROPPED`], and waits for the end of its input.
pub fn main() {
    // Not `std::io::stdin`, which keeps a buffer for as long as the process lives.
    let mut input = File::open("/dev/stdin").unwrap();
    let told = Told::read(&mut input);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(work(told, &mut input));
    runtime.shutdown_timeout(Duration::from_secs(5));
    say(DROPPED);
    let _ = input.read(&mut [0]);
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().unwrap();
}

impl Told {
    fn read(input: &mut File) -> Self {
        let directory = PathBuf::from(line(input).as_str());
        let url = line(input).as_str().to_owned();
        let places = serde_json::from_str(&line(input)).unwrap();
        let mut secret = || SecretString::from(line(input).as_str());
        let (api, odd, password, header) = (secret(), secret(), secret(), secret());
        // These three are of webhooks and for fields.
        secret();
        secret();
        secret();
        let keys = Keys::from(secret);
        Self { directory, url, api, odd, password, header, places, keys }
    }
}

fn line(input: &mut File) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(4096));
    let mut byte = [0];
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    while input.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        bytes.push(byte[0]);
    }
    text.push_str(std::str::from_utf8(&bytes).unwrap());
    text
}

async fn work(told: Told, input: &mut File) {
    let file = told.directory.join("flows.db");
    let backend = Arc::new(SqliteBackend::open(&file, Arc::new(SystemClock)).await.unwrap());
    let keys = MemoryKeyProvider::generate(&SystemEntropy).unwrap();
    let sandbox = WasmSandbox::start(SandboxCapacity::default()).unwrap();
    let canary: Arc<dyn Piece> = Arc::new(Items("an item".to_owned(), Arc::default()));
    let pieces = ap_pieces::standard().into_iter().chain([canary]);
    let builder = Runtime::builder(backend.clone(), keys).pieces(pieces).sandbox(sandbox);
    let runtime = builder.egress(world::egress(true, &told.places)).build().await.unwrap();
    let principal = |project: Option<ProjectId>| {
        let user = Principal::user(UserId::from_u128(1)).with_role(runtime.platform(), Role::Admin);
        runtime.session(project.into_iter().fold(user, |user, project| user.with_role(project, Role::Admin)))
    };
    let project = principal(None).create_project("Memory").await.unwrap();
    let admin = principal(Some(project)).project(project).unwrap();
    let entries = protocols::entries(&told.places);
    protocols::connect(&admin, &told.places, &told.keys).await;
    connect(&admin, told).await;
    for form in ["Text", "Json", "Base64", "Headers", "ServerError", "Chunks"] {
        finish(&admin, json!([send("send", form, json!(1))])).await;
    }
    for connection in ["api", "odd", "basic", "keyed"] {
        let step = json!({ "name": "send", "type": "http.request", "settings": {
            "method": "POST", "url": "{{connections.api.url}}/any/Text",
            "connection": format!("{{{{connections.{connection}}}}}"), "body": { "note": "placed" } } });
        finish(&admin, json!([step])).await;
    }
    for entry in entries {
        let flow = admin.create_flow(entry.source.to_string().as_bytes()).await.unwrap();
        admin.publish_flow(flow.id).await.unwrap();
        let run = admin.start_run(flow.id, json!({})).await.unwrap();
        assert!(admin.wait_for_run(run, Duration::from_secs(30)).await.unwrap().is_terminal());
    }
    // Runs until its time is over, with everything that a script can be given.
    let spin = json!({ "name": "spin", "type": "code", "settings": {
        "sourceCode": { "code": "export const code = async (params) => { globalThis.kept = JSON.stringify(params); while (true) {} };" },
        "input": { "api": "{{connections.api}}", "odd": "{{connections.odd}}", "said": "{{steps.send.output.body}}" } } });
    let flow = publish(&admin, json!([send("send", "Text", json!(1)), spin])).await;
    let run = admin.start_run(flow, json!({})).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    say(SPINNING);
    input.read_exact(&mut [0]).unwrap();
    admin.wait_for_run(run, Duration::from_secs(60)).await.unwrap();
    drop(admin);
    runtime.shutdown(Duration::from_secs(10)).await;
    drop(runtime);
    backend.close().await;
}

async fn connect(admin: &ProjectSession, told: Told) {
    let Told { url, api, odd, password, header, .. } = told;
    let custom = |field: &str, secret: SecretString| ConnectionValue::CustomAuth {
        fields: [("url".to_owned(), FieldValue::Clear(url.clone())), (field.to_owned(), FieldValue::Secret(secret))]
            .into(),
    };
    let body = vec![Placement::Body { pointer: "/auth/key".to_owned(), field: "key".to_owned() }];
    let keyed = vec![Placement::Header { name: "X-Key".to_owned(), field: "token".to_owned() }];
    let basic = ConnectionValue::BasicAuth { username: "ada".to_owned(), password };
    let origin = Origin::of_url(&url).unwrap();
    for (name, value, placements, origins) in [
        ("api", custom("token", api), vec![], vec![]),
        ("odd", custom("key", odd), body, vec![]),
        ("basic", basic, vec![], vec![origin]),
        ("keyed", custom("token", header), keyed, vec![]),
    ] {
        admin.put_connection(&Connection::new(name, value, placements, origins).unwrap()).await.unwrap();
    }
}

async fn publish(admin: &ProjectSession, steps: Value) -> ap_core::id::FlowId {
    let flow = admin.create_flow(manual(steps).to_string().as_bytes()).await.unwrap();
    admin.publish_flow(flow.id).await.unwrap();
    flow.id
}

async fn finish(admin: &ProjectSession, steps: Value) {
    let flow = publish(admin, steps).await;
    let run = admin.start_run(flow, json!({})).await.unwrap();
    assert!(admin.wait_for_run(run, Duration::from_secs(30)).await.unwrap().is_terminal());
}
