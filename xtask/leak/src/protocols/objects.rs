//! An object store that checks signatures, and gives back key, session token and signature in whatever it answers.

use std::sync::Arc;

use ap_core::{connection::Connection, time::Timestamp};
use ap_crypto::sigv4::{Payload, RequestToSign, SigV4};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::net::TcpStream;

use super::{Places, Protocol, Witness, entities, everything, fails, percent, read, step, succeeds};
use crate::{
    asked::{Asked, answer, listen},
    catalogue::Entry,
    durable::manual,
    secrets::Keys,
};

pub(super) async fn start(keys: &Keys, elsewhere: String, witness: Arc<Witness>) -> String {
    let (listener, address) = listen().await;
    let (key, session) = (keys.store.clone(), keys.session.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let store = Store { key: key.clone(), session: session.clone(), elsewhere: elsewhere.clone() };
            let witness = Arc::clone(&witness);
            tokio::spawn(async move { store.serve(stream, &witness).await });
        }
    });
    format!("http://{address}")
}

pub(super) fn connections(places: &Places, keys: &Keys) -> Vec<Connection> {
    let clear =
        [("endpoint", places.store.as_str()), ("region", REGION), ("bucket", "own-bucket"), ("accessKeyId", KEY_ID)];
    let session = [("secretAccessKey", &keys.store), ("sessionToken", &keys.session)];
    vec![
        super::custom("store", &clear, &session[..1], vec![]),
        super::custom("store_session", &clear, &session, vec![]),
    ]
}

pub(super) fn entries(places: &Places) -> Vec<Entry> {
    let of = |connection: &str, action: &str, wish: &str| {
        let settings = json!({ "connection": format!("{{{{connections.{connection}}}}}"), "filename": wish });
        step("use", &format!("storage.{action}"), settings)
    };
    let with = |mut step: serde_json::Value, key: &str, value: &str| {
        step["settings"][key] = json!(value);
        step
    };
    let download = |wish: &str| of("store_session", "download", wish);
    let upload = |wish: &str| with(of("store_session", "upload", wish), "content", "Text.");
    let list =
        |wish: &str| step("use", "storage.list", json!({ "connection": "{{connections.store}}", "prefix": wish }));
    let good = |name, used| succeeds(Protocol::Objects, name, used);
    let bad = |name, used| fails(Protocol::Objects, name, used);
    let presigned = json!([
        of("store", "presign", "shown"),
        step("get", "http.request", json!({ "method": "GET", "url": "{{steps.use.output.url}}" })),
        read(true),
    ]);
    let moved = |name, used| Entry { masked: false, ..bad(name, used) };
    let refused = |name, used| Entry { requests: 0, masked: false, ..bad(name, used) };
    vec![
        good("an object", download("body")),
        // Its masks are in base64 as well.
        Entry { masked: false, ..good("an object of bytes", with(download("body"), "encoding", "base64")) },
        good("the head of an answer", download("head")),
        good("the head of an answer to a write", upload("head")),
        good("names of objects", list("names")),
        good("names of objects, as references of XML", list("entities")),
        bad("an error", download("error")),
        bad("an error, as references of XML", download("entities")),
        bad("the code of an error", download("code")),
        bad("an error that is cut where the key is", download("long")),
        bad("an error to a write", upload("error")),
        bad("an error to a delete", of("store", "delete", "error")),
        bad("a log-in that is refused", download("log-in")),
        moved("an error that is no XML", download("page")),
        moved("a redirect", download("redirect")),
        moved("a redirect of a write", upload("redirect")),
        moved("an answer that breaks off", download("cut")),
        Entry {
            protocol: Protocol::Objects,
            name: "a presigned URL",
            source: manual(presigned),
            requests: 1,
            status: "SUCCEEDED",
            masked: true,
        },
        refused("a presigned URL that would show a session token", of("store_session", "presign", "shown")),
        refused("a key in an object", with(upload("x"), "content", "{{connections.store_session.secretAccessKey}}")),
        refused("a key in the name of an object", of("store", "download", "a/{{connections.store.secretAccessKey}}")),
        // The origin of the endpoint, and no other.
        refused(
            "an endpoint of another connection",
            step(
                "use",
                "storage.download",
                json!({
            "connection": "{{connections.database}}", "filename": places.store }),
            ),
        ),
    ]
}

const KEY_ID: &str = "AKIDCANARY";
const REGION: &str = "eu-west-1";

struct Store {
    key: SecretString,
    session: SecretString,
    elsewhere: String,
}

impl Store {
    async fn serve(&self, mut stream: TcpStream, witness: &Witness) {
        let Some(asked) = Asked::read(&mut stream).await else { return };
        let (key, session) = (self.key.expose_secret(), self.session.expose_secret());
        let shown =
            asked.query().into_iter().find(|(name, _)| name == "X-Amz-Signature").map(|(_, signature)| signature);
        let mut secrets = vec![key];
        // A peer knows what it is shown, and what that was made with.
        secrets.extend(asked.field("x-amz-security-token").map(|_| session));
        let authorization = asked.field("authorization").unwrap_or_default();
        let signature = authorization.rsplit('=').next().unwrap_or_default();
        if shown.is_some() {
            // Whoever asks for such a URL is given its signature.
            witness.verify();
        } else if self.expected(&asked).as_deref() == Some(authorization) {
            witness.verify();
            witness.keep(signature);
            secrets.extend([signature, authorization]);
        } else {
            return answer(&mut stream, "403 Forbidden", "", "that is not how it is signed").await;
        }
        let all = everything(&secrets);
        let listed = asked.query().into_iter().find(|(name, _)| name == "prefix").map(|(_, prefix)| prefix);
        let wish = listed.as_deref().unwrap_or_else(|| asked.wish());
        let error = |code: &str, message: &str| {
            format!(
                "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message><StringToSign>{all}</StringToSign></Error>"
            )
        };
        let list = |name: &str| {
            format!(
                "<ListBucketResult><Contents><Key>{name}</Key><Size>1</Size><ETag>{name}</ETag><LastModified>{name}</LastModified>\
                 </Contents><IsTruncated>true</IsTruncated><NextContinuationToken>{name}</NextContinuationToken></ListBucketResult>"
            )
        };
        let (status, fields, body) = match wish {
            "names" => (
                "200 OK",
                String::new(),
                list(&secrets.iter().map(|secret| percent(secret)).collect::<Vec<_>>().join("%20")),
            ),
            "entities" if listed.is_some() => ("200 OK", String::new(), list(&entities(&secrets.join(" ")))),
            "head" => {
                let fields = format!("etag: \"{}\"\r\ncontent-type: text/plain; of={signature}\r\n", percent(key));
                ("200 OK", fields, session.to_owned())
            }
            "error" => ("403 Forbidden", String::new(), error("AccessDenied", &all)),
            "entities" => ("403 Forbidden", String::new(), error("AccessDenied", &entities(&secrets.join(" ")))),
            "code" => ("403 Forbidden", String::new(), error(&percent(key), "as it says")),
            "long" => (
                "500 Internal Server Error",
                String::new(),
                error("Slow", &format!("{}{}", "x".repeat(485), percent(key))),
            ),
            "log-in" => ("403 Forbidden", String::new(), error("SignatureDoesNotMatch", &all)),
            "page" => ("500 Internal Server Error", format!("x-said: {}\r\n", percent(key)), all.clone()),
            "redirect" => {
                let fields = format!("location: {}/any/Text?said={}&by={signature}\r\n", self.elsewhere, percent(key));
                ("307 Temporary Redirect", fields, all.clone())
            }
            "cut" => ("200 OK", "content-length: 99999\r\n".to_owned(), all.clone()),
            _ => ("200 OK", "content-type: text/plain\r\n".to_owned(), all.clone()),
        };
        answer(&mut stream, status, &fields, body).await;
    }

    /// The field that the request must have.
    fn expected(&self, asked: &Asked) -> Option<String> {
        let session = asked.field("x-amz-security-token").map(|_| &self.session);
        let signer = SigV4::new(KEY_ID, &self.key, session, REGION, "s3").unwrap();
        let names = asked.field("authorization")?.split("SignedHeaders=").nth(1)?.split(',').next()?;
        let own = ["x-amz-date", "x-amz-content-sha256", "x-amz-security-token"];
        let headers = asked.fields.iter().filter(|(name, _)| names.split(';').any(|signed| signed == name));
        let headers: Vec<_> = headers.filter(|(name, _)| !own.contains(&name.as_str())).cloned().collect();
        let request = RequestToSign {
            method: &asked.method,
            path: asked.path(),
            query: &asked.query(),
            headers: &headers,
            payload: Payload::Bytes(&asked.body),
        };
        let fields = signer.sign(&request, time(asked.field("x-amz-date")?)).ok()?;
        fields.last().map(|(_, value)| value.expose_secret().to_owned())
    }
}

/// `20150830T123600Z`.
pub(super) fn time(text: &str) -> Timestamp {
    let part = |from: usize, to: usize| &text[from..to];
    let date = format!("{}-{}-{}", part(0, 4), part(4, 6), part(6, 8));
    format!("{date}T{}:{}:{}Z", part(9, 11), part(11, 13), part(13, 15)).parse().unwrap()
}
