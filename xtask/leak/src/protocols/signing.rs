//! An API that checks signatures, and gives back the key and what was made with it.

use std::sync::Arc;

use ap_core::connection::{Connection, Placement};
use ap_crypto::{
    signature::HmacSha256,
    sigv4::{Payload, RequestToSign, SigV4},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{Places, Protocol, Witness, fails, objects::time, step, succeeds};
use crate::{
    asked::{Asked, listen},
    catalogue::Entry,
    durable::manual,
    echo::{self, Echo},
    peer::give_back,
    secrets::Keys,
};

pub(super) async fn start(keys: &Keys, elsewhere: String, witness: Arc<Witness>) -> String {
    let (listener, address) = listen().await;
    let keys = Arc::new((keys.mac.clone(), keys.issuer.clone(), keys.aws.clone(), keys.session.clone()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (mac, issuer, aws, session) = (*keys).clone();
            let peer = Signed { mac, issuer, aws, session, elsewhere: elsewhere.clone() };
            let witness = Arc::clone(&witness);
            tokio::spawn(async move { peer.serve(stream, &witness).await });
        }
    });
    format!("http://{address}")
}

pub(super) fn connections(places: &Places, keys: &Keys) -> Vec<Connection> {
    let placement = |placement: Value| vec![serde_json::from_value::<Placement>(placement).unwrap()];
    let with = |name: &str, secret: &[(&str, &SecretString)], placed: Value| {
        let clear = [("url", places.signed.as_str()), ("id", KEY_ID)];
        super::custom(name, &clear, secret, placement(placed))
    };
    let mac = |encoding: &str| json!({ "type": "hmac", "field": "key", "header": "X-Mac", "encoding": encoding, "prefix": "v1=" });
    let token = json!({ "type": "jwt", "field": "key", "issuer": "canary", "lifetimeS": 300 });
    let aws = json!({ "type": "sigV4", "accessKeyId": "id", "field": "key", "sessionToken": "session", "region": REGION, "service": SERVICE });
    vec![
        with("mac", &[("key", &keys.mac)], mac("hex")),
        with("mac_base64", &[("key", &keys.mac)], mac("base64")),
        with("issuer", &[("key", &keys.issuer)], token),
        with("aws", &[("key", &keys.aws), ("session", &keys.session)], aws),
    ]
}

pub(super) fn entries() -> Vec<Entry> {
    let asks = |connection: &str, wish: &str| {
        step(
            "use",
            "http.request",
            json!({
            "method": "POST", "url": format!("{{{{connections.{connection}.url}}}}/{wish}"),
            "connection": format!("{{{{connections.{connection}}}}}"), "body": { "note": "signed" } }),
        )
    };
    let good = |name, connection, wish| succeeds(Protocol::Signing, name, asks(connection, wish));
    let bad = |name, connection, wish| fails(Protocol::Signing, name, asks(connection, wish));
    let quiet = |entry: Entry| Entry { masked: false, ..entry };
    let twice = |entry: Entry| Entry { requests: 2, ..entry };
    // The first answer is a redirect to the same origin, so there are two signatures, and both come back.
    let retried = {
        let mut asked = asks("aws", "ServerError");
        asked["retry"] = json!({ "maxAttempts": 3, "backoff": { "initialMs": 10 } });
        let source = manual(json!([asked]));
        Entry {
            protocol: Protocol::Signing,
            name: "an error page to each of three attempts",
            source,
            requests: 3,
            status: "FAILED",
            masked: true,
        }
    };
    vec![
        good("a code in hexadecimal, in a text", "mac", "Text"),
        good("a code in hexadecimal, in base64", "mac", "Base64By1"),
        good("a code in hexadecimal, in the headers", "mac", "Headers"),
        good("a code in base64, in JSON", "mac_base64", "Json"),
        good("a code in base64, in percent encoding", "mac_base64", "Percent"),
        bad("a code in base64, on an error page", "mac_base64", "NotFound"),
        good("a token, in a text", "issuer", "Text"),
        good("a token, in base64", "issuer", "Base64Url"),
        good("a token, in chunks", "issuer", "Chunks"),
        good("a token, compressed", "issuer", "Gzip"),
        bad("a token, on an error page", "issuer", "ServerError"),
        quiet(bad("a token, in a redirect to another origin", "issuer", "RedirectAway")),
        good("a signature, in a text", "aws", "Text"),
        good("a signature, in hexadecimal", "aws", "Hex"),
        good("a signature, in JSON that is text", "aws", "JsonInText"),
        good("a signature, in much text", "aws", "Large"),
        bad("a signature, on an error page", "aws", "ServerError"),
        quiet(bad("a signature, in a redirect to another origin", "aws", "RedirectAway")),
        quiet(bad("a signature, in an answer that breaks off", "aws", "Cut")),
        twice(good("signatures, over a redirect", "aws", "Redirect")),
        retried,
    ]
}

const KEY_ID: &str = "AKIDCANARY";
const REGION: &str = "eu-west-1";
const SERVICE: &str = "canary";

struct Signed {
    mac: SecretString,
    issuer: SecretString,
    aws: SecretString,
    session: SecretString,
    elsewhere: String,
}

impl Signed {
    async fn serve(&self, mut stream: TcpStream, witness: &Witness) {
        let Some(asked) = Asked::read(&mut stream).await else { return };
        let Some((key, made)) = self.verified(&asked) else {
            return crate::asked::answer(&mut stream, "401 Unauthorized", "", "").await;
        };
        witness.verify();
        made.iter().for_each(|made| witness.keep(made));
        let session = asked.field("x-amz-security-token").map(|_| self.session.expose_secret());
        let mut secrets = vec![key];
        secrets.extend(session);
        secrets.extend(made.iter().map(String::as_str));
        let said = echo::percent(&made[0], |byte| format!("%{byte:02X}"));
        let _ = match asked.wish() {
            // The second request brings back what it was told.
            "Redirect" => redirect(&mut stream, &format!("/again/Text?said={said}")).await,
            "RedirectAway" => redirect(&mut stream, &format!("{}/any/Text?said={said}", self.elsewhere)).await,
            "Cut" => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 99999\r\nx-said: {said}\r\n\r\n");
                stream.write_all(&[head.as_bytes(), secrets.join(" ").as_bytes()].concat()).await
            }
            wish => {
                let told: Vec<_> = asked.query().into_iter().map(|(_, told)| told).collect();
                secrets.extend(told.iter().map(String::as_str));
                give_back(&mut stream, Echo::named(wish), &secrets).await
            }
        };
    }

    /// The key, and what was made with it: whatever of it is good by itself.
    fn verified(&self, asked: &Asked) -> Option<(&str, Vec<String>)> {
        let made = asked.field("authorization").unwrap_or_default();
        if let Some(code) = asked.field("x-mac").and_then(|field| field.strip_prefix("v1=")) {
            let key = self.mac.expose_secret();
            let expected = HmacSha256::new(&self.mac).unwrap().sign(&[&asked.body]);
            let hex: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
            let good = [hex, echo::base64(&expected, echo::STANDARD)].contains(&code.to_owned());
            return good.then(|| (key, vec![code.to_owned()]));
        }
        if let Some(token) = made.strip_prefix("Bearer ") {
            let (signed, signature) = token.rsplit_once('.')?;
            let expected = HmacSha256::new(&self.issuer).unwrap().sign(&[signed.as_bytes()]);
            let expected = echo::base64(&expected, echo::URL_SAFE);
            let good = expected.trim_end_matches('=') == signature;
            return good.then(|| (self.issuer.expose_secret(), vec![signature.to_owned(), token.to_owned()]));
        }
        let signer = SigV4::new(KEY_ID, &self.aws, Some(&self.session), REGION, SERVICE).unwrap();
        let names = made.split("SignedHeaders=").nth(1)?.split(',').next()?;
        let own = ["x-amz-date", "x-amz-security-token"];
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
        let good = fields.last().is_some_and(|(_, value)| value.expose_secret() == made);
        let signature = made.rsplit('=').next()?;
        good.then(|| (self.aws.expose_secret(), vec![signature.to_owned(), made.to_owned()]))
    }
}

async fn redirect(stream: &mut TcpStream, location: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await
}
