//! Peers of every protocol but plain HTTP, which give back what they are shown, and flows that use them.

mod mail;
mod oauth;
mod objects;
mod signing;
mod sql;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use ap_core::connection::{Connection, ConnectionValue, FieldValue, Placement};
use ap_runtime::session::ProjectSession;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    catalogue::Entry,
    durable::manual,
    echo::{self, Echo},
    secrets::{Keys, Secrets},
    world::LOGGED,
};

/// How a flow reaches its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Http,
    Mail,
    OAuth,
    Objects,
    Signing,
    Sql,
}

impl Protocol {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Mail => "SMTP",
            Self::OAuth => "OAuth 2.0",
            Self::Objects => "S3",
            Self::Signing => "signed HTTP",
            Self::Sql => "SQL",
        }
    }
}

/// Where the peers are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Places {
    sql: u16,
    mail: mail::Ports,
    store: String,
    signed: String,
    tokens: String,
    /// Where the SQLite files are.
    pub files: PathBuf,
    /// An origin that no connection names.
    elsewhere: String,
}

/// All of them.
pub struct Peers {
    pub places: Places,
    witnesses: BTreeMap<Protocol, Arc<Witness>>,
    _files: tempfile::TempDir,
}

/// What a peer has seen.
#[derive(Default)]
struct Witness {
    /// Exchanges in which it was shown the right credentials.
    verified: AtomicUsize,
    /// What was made with a key, and is as good as it for a while.
    made: Mutex<Vec<String>>,
}

impl Witness {
    fn verify(&self) {
        self.verified.fetch_add(1, Ordering::SeqCst);
    }

    fn keep(&self, made: &str) {
        self.made.lock().unwrap().push(made.to_owned());
    }
}

impl Peers {
    pub async fn start(secrets: &Secrets, elsewhere: String) -> Self {
        let keys = &secrets.keys;
        let files = tempfile::tempdir().unwrap();
        let new = |protocol| (protocol, Arc::new(Witness::default()));
        let witnesses: BTreeMap<_, _> =
            [Protocol::Mail, Protocol::OAuth, Protocol::Objects, Protocol::Signing, Protocol::Sql].map(new).into();
        let of = |protocol: Protocol| Arc::clone(&witnesses[&protocol]);
        let places = Places {
            sql: sql::start(keys, of(Protocol::Sql)).await,
            mail: mail::start(keys, &of(Protocol::Mail)).await,
            store: objects::start(keys, elsewhere.clone(), of(Protocol::Objects)).await,
            signed: signing::start(keys, elsewhere.clone(), of(Protocol::Signing)).await,
            tokens: oauth::start(keys, elsewhere.clone(), of(Protocol::OAuth)).await,
            files: files.path().to_owned(),
            elsewhere,
        };
        sql::make_file(&places.files, keys);
        Self { places, witnesses, _files: files }
    }

    /// How many exchanges over this protocol showed the right credentials.
    pub fn verified(&self, protocol: Protocol) -> usize {
        self.witnesses.get(&protocol).map_or(0, |witness| witness.verified.load(Ordering::SeqCst))
    }

    /// Every signature and the like that was made so far.
    pub fn made(&self) -> Vec<String> {
        self.witnesses.values().flat_map(|witness| witness.made.lock().unwrap().clone()).collect()
    }
}

/// Makes the connections, and returns what `Debug` makes of them.
pub async fn connect(admin: &ProjectSession, places: &Places, keys: &Keys) -> String {
    let all = [
        sql::connections(places, keys),
        mail::connections(places, keys),
        objects::connections(places, keys),
        signing::connections(places, keys),
        oauth::connections(places, keys),
    ];
    let mut shown = String::new();
    for connection in all.into_iter().flatten() {
        admin.put_connection(&connection).await.unwrap();
        shown.push_str(&format!("{connection:?}"));
    }
    shown
}

/// Every flow.
pub fn entries(places: &Places) -> Vec<Entry> {
    [sql::entries(), mail::entries(), objects::entries(places), signing::entries(), oauth::entries(places)]
        .into_iter()
        .flatten()
        .collect()
}

fn custom(
    name: &str,
    clear: &[(&str, &str)],
    secret: &[(&str, &SecretString)],
    placements: Vec<Placement>,
) -> Connection {
    let clear = clear.iter().map(|(name, text)| ((*name).to_owned(), FieldValue::Clear((*text).to_owned())));
    let secret = secret.iter().map(|(name, secret)| ((*name).to_owned(), FieldValue::Secret((*secret).clone())));
    let value = ConnectionValue::CustomAuth { fields: clear.chain(secret).collect() };
    Connection::new(name, value, placements, vec![]).unwrap()
}

/// `secrets` in every form that is text, in one line.
fn everything(secrets: &[&str]) -> String {
    const FORMS: [Echo; 9] = [
        Echo::Base64,
        Echo::Base64By1,
        Echo::Base64By2,
        Echo::Base64Url,
        Echo::Hex,
        Echo::HexUpper,
        Echo::JsonInText,
        Echo::Percent,
        Echo::Text,
    ];
    let written = secrets.iter().flat_map(|secret| FORMS.map(|form| form.write(secret)));
    let written: Vec<String> = written.map(|bytes| String::from_utf8(bytes).unwrap()).collect();
    written.join(" | ")
}

/// Every character as a reference of XML.
fn entities(text: &str) -> String {
    text.chars().map(|char| format!("&#x{:x};", u32::from(char))).collect()
}

fn percent(text: &str) -> String {
    echo::percent(text, |byte| format!("%{byte:02X}"))
}

fn step(name: &str, kind: &str, settings: Value) -> Value {
    json!({ "name": name, "type": kind, "settings": settings })
}

/// A script that is given what a step put out, returns and logs it.
fn read(output: bool) -> Value {
    let input = if output {
        json!({ "all": "{{steps.use.output}}", "text": "<{{steps.use.output}}>" })
    } else {
        json!({ "error": "{{steps.use.error}}", "text": "they said {{steps.use.error.message}}" })
    };
    json!({ "name": "read", "type": "code", "settings": { "sourceCode": { "code": LOGGED }, "input": input } })
}

/// A flow whose step `use` succeeds, and whose output is read.
fn succeeds(protocol: Protocol, name: &'static str, used: Value) -> Entry {
    let source = manual(json!([used, read(true)]));
    Entry { protocol, name, source, requests: 1, status: "SUCCEEDED", masked: true }
}

/// A flow whose step `use` fails, and whose error is read.
fn fails(protocol: Protocol, name: &'static str, mut used: Value) -> Entry {
    used["onError"] = json!("continue");
    let source = manual(json!([used, read(false)]));
    Entry { protocol, name, source, requests: 1, status: "SUCCEEDED", masked: true }
}
