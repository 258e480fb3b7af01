//! Root keys and secrets from services, asked by real requests of peers on this machine.
#![cfg(all(feature = "vault", feature = "aws"))]
#![allow(
    missing_docs,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod secrets;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ap_core::time::Timestamp;
use ap_crypto::{
    error::KeyError,
    key::RootKey,
    provider::KeyProvider,
    sigv4::{Payload, RequestToSign, SigV4},
};
use ap_runtime::{
    clock::{Clock, TokioClock},
    egress::keys::{
        KeyServiceError,
        aws::{Aws, AwsCredentials},
        vault::{Vault, VaultToken},
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// A request as it came.
#[derive(Clone, Debug, Default)]
struct Seen {
    line: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// Answers every request alike, or one after the other, and remembers them.
struct Peer {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Peer {
    /// `answer`: the whole of it, head and body; empty: none, ever.
    async fn start(answer: String) -> Self {
        Self::serve(move |_| answer.clone()).await
    }

    /// One answer after the other.
    async fn script<const N: usize>(answers: [String; N]) -> Self {
        Self::serve(move |number| answers[number].clone()).await
    }

    async fn serve(answers: impl Fn(usize) -> String + Send + Sync + 'static) -> Self {
        let answers = Arc::new(answers);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (kept, answers) = (Arc::clone(&kept), Arc::clone(&answers));
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    let request = loop {
                        let mut chunk = [0; 4096];
                        let read = stream.read(&mut chunk).await.unwrap();
                        bytes.extend_from_slice(&chunk[..read]);
                        match whole(&bytes) {
                            Some(request) => break request,
                            None if read == 0 => return,
                            None => {}
                        }
                    };
                    let number = {
                        let mut kept = kept.lock().unwrap();
                        kept.push(request);
                        kept.len() - 1
                    };
                    let answer = answers(number);
                    if answer.is_empty() {
                        std::future::pending::<()>().await;
                    }
                    stream.write_all(answer.as_bytes()).await.unwrap();
                });
            }
        });
        Self { address, seen }
    }

    async fn json(status: &str, body: Value) -> Self {
        Self::start(answer(status, &body.to_string())).await
    }

    fn only(&self) -> Seen {
        let seen = self.seen.lock().unwrap();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn whole(bytes: &[u8]) -> Option<Seen> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n").map(str::to_owned);
    let line = lines.next().unwrap();
    let headers: BTreeMap<String, String> = lines
        .map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())).unwrap())
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let body = bytes.get(end + 4..end + 4 + length)?.to_vec();
    Some(Seen { line, headers, body })
}

fn bytes() -> Vec<u8> {
    (100..132).collect()
}

fn expected() -> RootKey {
    RootKey::from_slice(&bytes()).unwrap()
}

fn hex() -> String {
    bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

const TOKEN: &str = "hvs.canary-of-a-token";
const SECRET: &str = "wJalrXUtnFEMI/canary/EXAMPLEKEY";

fn vault(peer: &Peer) -> Vault {
    let vault = Vault::new(&peer.address, VaultToken::Given(TOKEN.into())).unwrap();
    vault.with_timeout(Duration::from_secs(1)).unwrap()
}

fn aws(peer: &Peer) -> Aws {
    let credentials = AwsCredentials::new("AKIDEXAMPLE", SECRET.into(), Some("canary-session".into()));
    let aws = Aws::new("eu-central-1", credentials).unwrap().with_endpoint(&peer.address).unwrap();
    aws.with_timeout(Duration::from_secs(1)).unwrap()
}

/// What an error says, with every source of it.
fn told(error: &KeyError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    for canary in [TOKEN, SECRET, "canary", &hex(), &STANDARD.encode(bytes())] {
        assert!(!text.contains(canary), "{text}");
    }
    text
}

async fn refused(provider: &dyn KeyProvider) -> String {
    told(&provider.root_key().await.unwrap_err())
}

#[tokio::test]
async fn vault_gives_a_field_of_a_secret() {
    for text in [hex(), format!("{}\n", hex()), STANDARD.encode(bytes())] {
        let answer = json!({ "data": { "data": { "root": text, "other": 1 }, "metadata": { "version": 3 } } });
        let peer = Peer::json("200 OK", answer).await;
        let provider = vault(&peer).with_namespace("team").kv("secret", "apps/flows", "root");
        assert!(provider.root_key().await.unwrap() == expected());
        let seen = peer.only();
        assert_eq!(seen.line, "GET /v1/secret/data/apps/flows HTTP/1.1");
        assert_eq!(seen.headers["x-vault-token"], TOKEN);
        assert_eq!(seen.headers["x-vault-namespace"], "team");
    }
}

#[tokio::test]
async fn vault_unwraps_by_transit() {
    let answer = json!({ "data": { "plaintext": STANDARD.encode(bytes()) } });
    let peer = Peer::json("200 OK", answer).await;
    let provider = vault(&peer).transit("transit", "flows", "vault:v1:wrapped");
    assert!(provider.root_key().await.unwrap() == expected());
    let seen = peer.only();
    assert_eq!(seen.line, "POST /v1/transit/decrypt/flows HTTP/1.1");
    assert_eq!(serde_json::from_slice::<Value>(&seen.body).unwrap(), json!({ "ciphertext": "vault:v1:wrapped" }));
}

#[tokio::test]
async fn a_token_in_a_file_is_read_with_each_question() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let peer = Peer::json("200 OK", json!({ "data": { "data": { "root": hex() } } })).await;
    let provider = Vault::new(&peer.address, VaultToken::File(path.clone())).unwrap().kv("secret", "a", "root");
    assert!(refused(&provider).await.contains("the token's file is missing"));
    for token in ["hvs.one\n", "hvs.two"] {
        std::fs::write(&path, token).unwrap();
        assert!(provider.root_key().await.unwrap() == expected());
        assert_eq!(peer.seen.lock().unwrap().last().unwrap().headers["x-vault-token"], token.trim_end());
    }
    for bad in ["", "\n", "two\nlines\n"] {
        std::fs::write(&path, bad).unwrap();
        assert!(refused(&provider).await.contains("the token is missing or malformed"), "{bad:?}");
    }
}

#[tokio::test]
async fn names_stay_in_their_place() {
    let peer = Peer::json("200 OK", json!({ "data": {} })).await;
    for (mount, path) in [("secret", "../sys/seal"), ("..", "a"), ("secret", "a//b"), ("", "a"), ("secret", ".")] {
        let text = refused(&vault(&peer).kv(mount, path, "root")).await;
        assert!(text.contains("missing or malformed"), "{text}");
    }
    assert!(peer.seen.lock().unwrap().is_empty());
    let _ = vault(&peer).kv("secret", "a?b#c%2e", "root").root_key().await.unwrap_err();
    assert_eq!(peer.only().line, "GET /v1/secret/data/a%3Fb%23c%252e HTTP/1.1");
}

#[tokio::test]
async fn kms_unwraps_and_the_request_is_signed() {
    let peer = Peer::json("200 OK", json!({ "KeyId": "k", "Plaintext": STANDARD.encode(bytes()) })).await;
    let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(at));
    let provider =
        aws(&peer).with_clock(clock).kms("d3JhcHBlZA==").with_key_id("alias/flows").with_context("app", "ap");
    assert!(provider.root_key().await.unwrap() == expected());
    let seen = peer.only();
    assert_eq!(seen.line, "POST / HTTP/1.1");
    assert_eq!(
        serde_json::from_slice::<Value>(&seen.body).unwrap(),
        json!({ "CiphertextBlob": "d3JhcHBlZA==", "KeyId": "alias/flows", "EncryptionContext": { "app": "ap" } })
    );
    assert_eq!(seen.headers["x-amz-target"], "TrentService.Decrypt");
    assert_eq!(seen.headers["x-amz-security-token"], "canary-session");
    // The service signs what it received, and compares.
    let (secret, session) = (SECRET.into(), "canary-session".into());
    let signer = SigV4::new("AKIDEXAMPLE", &secret, Some(&session), "eu-central-1", "kms").unwrap();
    let fields = ["host", "content-type", "x-amz-target"].map(|name| (name.to_owned(), seen.headers[name].clone()));
    let request =
        RequestToSign { method: "POST", path: "/", query: &[], headers: &fields, payload: Payload::Bytes(&seen.body) };
    let stamp = &seen.headers["x-amz-date"];
    assert!(stamp.starts_with("20260102T0304"), "{stamp}");
    let time = format!("2026-01-02T03:04:{}Z", &stamp[13..15]).parse().unwrap();
    let signed = signer.sign(&request, time).unwrap();
    assert_eq!(seen.headers["authorization"], signed.last().unwrap().1.expose_secret());
}

#[tokio::test]
async fn secrets_manager_gives_a_text_or_a_field_of_it() {
    let peer = Peer::json("200 OK", json!({ "Name": "flows", "SecretString": hex() })).await;
    assert!(aws(&peer).secret("flows").root_key().await.unwrap() == expected());
    let seen = peer.only();
    assert_eq!(serde_json::from_slice::<Value>(&seen.body).unwrap(), json!({ "SecretId": "flows" }));
    assert_eq!(seen.headers["x-amz-target"], "secretsmanager.GetSecretValue");
    assert!(seen.headers["authorization"].contains("/eu-central-1/secretsmanager/aws4_request"));
    let text = json!({ "root": STANDARD.encode(bytes()) }).to_string();
    let peer = Peer::json("200 OK", json!({ "SecretString": text })).await;
    assert!(aws(&peer).secret("flows").with_field("root").root_key().await.unwrap() == expected());
    assert!(refused(&aws(&peer).secret("flows").with_field("none")).await.contains("a text in field `none`"));
}

#[tokio::test]
async fn a_service_that_refuses_says_why_and_nothing_else() {
    for (status, hint) in [
        ("400 Bad Request", "look at the names"),
        ("403 Forbidden", "may not do this"),
        ("404 Not Found", "nothing of that name"),
        ("429 Too Many", "too often"),
        ("503 Sealed", "not well, or sealed"),
        ("204 No Content", "no answer of that service"),
    ] {
        let peer = Peer::start(answer(status, &format!(r#"{{"errors":["{TOKEN} {SECRET}"]}}"#))).await;
        for provider in [&vault(&peer).kv("secret", "a", "root") as &dyn KeyProvider, &aws(&peer).kms("AA==")] {
            let text = refused(provider).await;
            assert!(text.contains(hint), "{status}: {text}");
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Peer::json("200 OK", json!({ "data": { "data": { "root": hex() } } })).await;
    let head =
        format!("HTTP/1.1 307 Go\r\nlocation: {}/v1/secret/data/a\r\ncontent-length: 0\r\n\r\n", elsewhere.address);
    let peer = Peer::start(head).await;
    assert!(refused(&vault(&peer).kv("secret", "a", "root")).await.contains("307"));
    assert!(elsewhere.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn answers_that_are_no_keys_are_refused() {
    let large = json!({ "data": { "data": { "root": "x".repeat(100_000) } } });
    for body in [
        json!({}),
        json!({ "data": {} }),
        json!({ "data": { "data": null } }),
        json!({ "data": { "data": { "root": 7 } } }),
        json!({ "data": { "data": { "root": "canary" } } }),
        json!({ "data": { "data": { "root": hex()[..32] } } }),
        json!({ "data": { "plaintext": "canary!" }, "Plaintext": "canary!", "SecretString": "canary!" }),
        json!({ "data": { "plaintext": "AAAA" }, "Plaintext": "AAAA", "SecretString": "AAAA" }),
        json!([hex()]),
        large,
    ] {
        let peer = Peer::json("200 OK", body).await;
        refused(&vault(&peer).kv("secret", "a", "root")).await;
        refused(&vault(&peer).transit("transit", "a", "vault:v1:x")).await;
        refused(&aws(&peer).kms("AA==")).await;
        refused(&aws(&peer).secret("a")).await;
    }
    let peer = Peer::start("no HTTP at all\r\n\r\n".to_owned()).await;
    assert!(refused(&vault(&peer).kv("secret", "a", "root")).await.contains("cannot be reached"));
}

#[tokio::test]
async fn a_service_that_is_silent_or_gone_is_waited_for_within_bounds() {
    let peer = Peer::start(String::new()).await;
    let began = Instant::now();
    let error = vault(&peer).kv("secret", "a", "root").root_key().await.unwrap_err();
    assert!(told(&error).contains("cannot be reached") && error.is_retryable());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let vault = Vault::new(&format!("http://{gone}"), VaultToken::Given(TOKEN.into())).unwrap();
    assert!(refused(&vault.kv("secret", "a", "root")).await.contains("cannot be reached"));
}

#[test]
fn addresses_regions_and_limits_are_checked_and_nothing_secret_is_shown() {
    let token = || VaultToken::Given(TOKEN.into());
    assert!(matches!(Vault::new("http://vault.example:8200", token()), Err(KeyServiceError::Address { .. })));
    let vault = Vault::new("https://vault.example:8200", token()).unwrap();
    for (timeout, good) in [(999, false), (1_000, true), (60_000, true), (60_001, false)] {
        assert_eq!(vault.clone().with_timeout(Duration::from_millis(timeout)).is_ok(), good, "{timeout}");
    }
    let credentials = || AwsCredentials::new("AKIDEXAMPLE", SECRET.into(), Some("canary-session".into()));
    for bad in ["", "eu central", "eu.evil.example/", "EU", &"a".repeat(33)] {
        assert!(Aws::new(bad, credentials()).is_err(), "{bad}");
    }
    let aws = Aws::new("eu-central-1", credentials()).unwrap();
    assert!(aws.clone().with_endpoint("http://kms.example").is_err());
    let shown = format!("{vault:?} {aws:?} {:?} {:?}", vault.kv("a", "b", "c"), aws.kms("AA=="));
    assert!(!shown.contains("canary"), "{shown}");
}
