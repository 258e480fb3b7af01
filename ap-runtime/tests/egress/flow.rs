//! One flow over every protocol, in a whole runtime.

use std::{sync::Arc, time::Duration};

use ap_auth::{principal::Principal, role::Role};
use ap_core::{
    connection::{Connection, ConnectionValue, FieldValue},
    id::UserId,
    run::{RunStatus, StepErrorKind},
    store::PageRequest,
};
use ap_crypto::{key::RootKey, provider::MemoryKeyProvider};
use ap_runtime::{
    backend::memory::MemoryBackend,
    clock::SystemClock,
    egress::{Egress, http::HttpEgress, mail::MailEgress, objects::ObjectEgress, sql::SqlEgress},
    engine::RunView,
    runtime::Runtime,
    session::ProjectSession,
};
use serde_json::{Value, json};

use super::{
    mail::{MailServer, Manner as MailManner},
    objects::{Manner as StoreManner, Store},
    postgres::{Server, with_table},
    support::{CANARY, plain_loopback},
};

async fn put(admin: &ProjectSession, name: &str, clear: &[(&str, &str)], secret: (&str, &str)) {
    let clear = clear.iter().map(|(name, text)| ((*name).to_owned(), FieldValue::Clear((*text).to_owned())));
    let secret = (secret.0.to_owned(), FieldValue::Secret(secret.1.into()));
    let value = ConnectionValue::CustomAuth { fields: clear.chain([secret]).collect() };
    let connection = Connection::new(name, value, vec![], vec![]).expect("a connection");
    admin.put_connection(&connection).await.expect("kept");
}

fn steps() -> Value {
    json!([
        { "name": "insert", "type": "database.insert", "settings": {
            "connection": "{{connections.db}}", "table": "egress_flow", "returning": ["id"],
            "data": { "name": "{{trigger.name}}", "size": 7, "at": "{{$now}}" },
        } },
        { "name": "read", "type": "database.query", "settings": {
            "connection": "{{connections.db}}", "result": "first",
            "query": "SELECT id, name, size, at IS NOT NULL AS dated FROM egress_flow WHERE name = $1",
            "parameters": ["{{trigger.name}}"],
        } },
        { "name": "store", "type": "storage.upload", "settings": {
            "connection": "{{connections.s3}}", "filename": "files/{{steps.read.output.name}}.json",
            "content": "{{steps.read.output}}", "encryption": "AES256", "acl": "private",
        } },
        { "name": "load", "type": "storage.download", "settings": {
            "connection": "{{connections.s3}}", "filename": "{{steps.store.output.filename}}",
        } },
        { "name": "mail", "type": "email.send", "settings": {
            "connection": "{{connections.mail}}", "to": "ann@one.example", "subject": "Stored",
            "body": "{{steps.load.output.content}}",
        } },
        // A connection for another protocol, and a credential where none may go.
        { "name": "stray", "type": "database.query", "onError": "continue", "settings": {
            "connection": "{{connections.mail}}", "query": "SELECT 1 AS one",
        } },
        { "name": "leak", "type": "email.send", "onError": "continue", "settings": {
            "connection": "{{connections.mail}}", "to": "ann@one.example", "subject": "s",
            "body": "the password is {{connections.db.password}}",
        } },
    ])
}

fn output(view: &RunView, name: &str) -> Value {
    let step = view.steps.iter().find(|step| step.path.as_str() == name).expect(name);
    step.output.clone().unwrap_or_else(|| panic!("{name}: {:?}", step.error))
}

#[tokio::test]
async fn one_flow_uses_every_protocol_and_the_audit_knows() {
    let (mail_server, store) = (MailServer::start(MailManner::Honest).await, Store::start(StoreManner::Honest).await);
    let database = Server::of("AP_TEST_POSTGRES_URL");
    let http = HttpEgress::builder(plain_loopback()).build().expect("built");
    let mail = MailEgress::builder(plain_loopback()).with_trust_roots(mail_server.roots()).build().expect("built");
    let sql = SqlEgress::builder(plain_loopback()).build().expect("built");
    let egress = Egress::from(http.clone()).with_objects(ObjectEgress::new(http)).with_mail(mail).with_sql(sql);
    let keys = MemoryKeyProvider::new(
        RootKey::from_slice(&std::array::from_fn::<u8, 32, _>(|index| index as u8)).expect("a key"),
    );
    let backend = Arc::new(MemoryBackend::new(Arc::new(SystemClock)));
    let runtime =
        Runtime::builder(backend, keys).pieces(ap_pieces::standard()).egress(egress).build().await.expect("built");
    let principal = Principal::user(UserId::from_u128(1)).with_role(runtime.platform(), Role::Admin);
    let project = runtime.session(principal.clone()).create_project("Test").await.expect("created");
    let admin = runtime.session(principal.with_role(project, Role::Admin)).project(project).expect("allowed");
    let (mail_port, endpoint) = (mail_server.port.to_string(), store.endpoint());
    put(&admin, "db", &database.fields(), ("password", &database.password)).await;
    let fields = [("host", "localhost"), ("port", mail_port.as_str()), ("username", "robot@mail.example")];
    put(&admin, "mail", &fields, ("password", CANARY)).await;
    let fields = [
        ("endpoint", endpoint.as_str()),
        ("region", "eu-west-1"),
        ("bucket", "own-bucket"),
        ("accessKeyId", "AKIDEXAMPLE"),
    ];
    put(&admin, "s3", &fields, ("secretAccessKey", CANARY)).await;
    let source = json!({ "displayName": "All", "triggers": [{ "name": "t", "type": "manual" }], "steps": steps() });
    let flow = admin.create_flow(source.to_string().as_bytes()).await.expect("valid");
    admin.publish_flow(flow.id).await.expect("published");
    with_table("egress_flow", "id serial, name text, size int8, at timestamptz", async |_| {
        let run = admin.start_run(flow.id, json!({ "name": "o'brien" })).await.expect("started");
        let status = admin.wait_for_run(run, Duration::from_secs(60)).await.expect("ended");
        let view = admin.run(run).await.expect("kept");
        assert_eq!(status, RunStatus::Succeeded, "{view:?}");
        assert_eq!(output(&view, "insert"), json!({ "affected": 1, "rows": [{ "id": 1 }] }));
        let row = json!({ "id": 1, "name": "o'brien", "size": 7, "dated": true });
        assert_eq!(output(&view, "read"), row);
        assert_eq!(output(&view, "store")["filename"], "files/o'brien.json");
        assert_eq!(output(&view, "load")["content"], row.to_string());
        assert_eq!(output(&view, "mail")["reply"], "2.0.0 queued as 4711");
        assert!(mail_server.lines().iter().any(|line| line.contains("o'brien")));
        let kind = |name: &str| {
            view.steps
                .iter()
                .find(|step| step.path.as_str() == name)
                .and_then(|step| step.error.as_ref())
                .map(|error| error.kind)
        };
        assert_eq!((kind("stray"), kind("leak")), (Some(StepErrorKind::Connection), Some(StepErrorKind::Connection)));
        let shown = format!("{view:?} {}", serde_json::to_string(&view).expect("JSON"));
        assert!(!shown.contains(CANARY) && !shown.contains(&database.password), "{shown}");
        assert!(
            !mail_server.lines().iter().any(|line| line.contains(&database.password) || line.contains("the password"))
        );
        // Whatever was to be used is known, whether it was or not: the two that were refused as well.
        let audit = admin.audit(&PageRequest::first(100)).await.expect("readable").items;
        let uses = audit.iter().filter(|event| event.action() == "connection.use").map(|event| format!("{event:?}"));
        let mut uses: Vec<_> = uses.collect();
        uses.sort();
        for (step, name) in [
            ("insert", "db"),
            ("read", "db"),
            ("store", "s3"),
            ("load", "s3"),
            ("mail", "mail"),
            ("stray", "mail"),
            ("leak", "db"),
            ("leak", "mail"),
        ] {
            assert!(uses.iter().any(|used| used.contains(step) && used.contains(name)), "{step} {name}: {uses:#?}");
        }
        assert_eq!(uses.len(), 8, "{uses:#?}");
    })
    .await;
}
