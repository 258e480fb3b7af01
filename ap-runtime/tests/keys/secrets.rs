//! Secrets that connections refer to, asked for by real requests of peers on this machine.

use ap_runtime::secret::{SecretError, SecretResolver};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::*;

fn kv(fields: Value) -> Value {
    json!({ "data": { "data": fields, "metadata": { "version": 3 } } })
}

async fn found(resolver: &dyn SecretResolver, path: &str) -> String {
    resolver.resolve(path).await.unwrap_or_else(|error| panic!("{path}: {error}")).expose_secret().to_owned()
}

#[tokio::test]
async fn vault_gives_the_field_of_a_version() {
    let peer =
        Peer::json("200 OK", kv(json!({ "a": "other", "key": "-----BEGIN\n\"KEY\"-----\n\u{e9}", "n": 7 }))).await;
    let secrets = vault(&peer).secrets(["secret/data/flows", "kv/data"]);
    assert_eq!(found(&secrets, "secret/data/flows/crm#key").await, "-----BEGIN\n\"KEY\"-----\n\u{e9}");
    assert_eq!(found(&secrets, "kv/data/x?version=3#key").await, "-----BEGIN\n\"KEY\"-----\n\u{e9}");
    let lines: Vec<_> = peer.seen.lock().unwrap().iter().map(|seen| seen.line.clone()).collect();
    assert_eq!(lines, ["GET /v1/secret/data/flows/crm HTTP/1.1", "GET /v1/kv/data/x?version=3 HTTP/1.1"]);
    assert_eq!(peer.seen.lock().unwrap()[0].headers["x-vault-token"], TOKEN);
    for path in ["kv/data/x#n", "kv/data/x#none"] {
        assert_eq!(secrets.resolve(path).await.err(), Some(SecretError::Missing), "{path}");
    }
    let asked = peer.seen.lock().unwrap().len();
    for path in ["secret/data/flowsx/crm#key", "secret/data/other#key", "sys/data/x#key"] {
        assert_eq!(secrets.check(path), Err(SecretError::Denied), "{path}");
        assert_eq!(secrets.resolve(path).await.err(), Some(SecretError::Denied), "{path}");
    }
    for path in ["secret/flows/crm#key", "secret/data/flows/crm", "secret/data/flows/../../sys#key"] {
        let Err(SecretError::Malformed { fix }) = secrets.resolve(path).await else { panic!("{path}") };
        assert!(fix.contains("vault:secret/data/crm#token"), "{fix}");
    }
    assert_eq!(peer.seen.lock().unwrap().len(), asked, "asked for what is not allowed");
}

#[tokio::test]
async fn secrets_manager_gives_the_text_or_a_key_of_it() {
    let text = json!({ "token": "canary-\"token\"", "n": 1 }).to_string();
    let peer = Peer::json("200 OK", json!({ "Name": "prod/crm", "SecretString": text })).await;
    let secrets = aws(&peer).secrets(["prod", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:prod"]);
    assert_eq!(found(&secrets, "prod/crm#token").await, "canary-\"token\"");
    assert_eq!(found(&secrets, "prod").await, text);
    found(&secrets, "prod/crm?stage=AWSPREVIOUS#token").await;
    let arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:prod/crm-AbCdEf";
    found(&secrets, &format!("{arn}?version=1f-2#token")).await;
    let bodies: Vec<Value> =
        peer.seen.lock().unwrap().iter().map(|seen| serde_json::from_slice(&seen.body).unwrap()).collect();
    assert_eq!(
        bodies,
        [
            json!({ "SecretId": "prod/crm" }),
            json!({ "SecretId": "prod" }),
            json!({ "SecretId": "prod/crm", "VersionStage": "AWSPREVIOUS" }),
            json!({ "SecretId": arn, "VersionId": "1f-2" }),
        ]
    );
    for path in ["production", "dev", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod"] {
        assert_eq!(secrets.check(path), Err(SecretError::Denied), "{path}");
    }
    assert_eq!(secrets.resolve("prod#none").await.err(), Some(SecretError::Missing));
    assert!(matches!(secrets.check("prod#"), Err(SecretError::Malformed { .. })));
    let other = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod";
    assert_eq!(aws(&peer).secrets([other]).check(other), Err(SecretError::Denied), "a secret of another region");
    let binary = Peer::json("200 OK", json!({ "SecretBinary": "AAAA" })).await;
    assert_eq!(aws(&binary).secrets(["prod"]).resolve("prod").await.err(), Some(SecretError::Missing));
}

#[tokio::test]
async fn what_a_service_says_is_told_by_who_has_to_act() {
    for (status, error) in [
        ("403 Forbidden", SecretError::Denied),
        ("404 Not Found", SecretError::Missing),
        ("429 Too Many", SecretError::Unavailable),
        ("503 Sealed", SecretError::Unavailable),
    ] {
        let peer = Peer::start(answer(status, &format!(r#"{{"errors":["{TOKEN} {SECRET}"]}}"#))).await;
        let found = vault(&peer).secrets(["secret/data"]).resolve("secret/data/a#b").await;
        assert_eq!(found.err(), Some(error), "{status}");
    }
    for (kind, error) in [
        ("AccessDeniedException", SecretError::Denied),
        ("com.amazonaws.secretsmanager#ResourceNotFoundException", SecretError::Missing),
        ("ThrottlingException", SecretError::Unavailable),
        ("ExpiredTokenException", SecretError::Denied),
        ("SomethingElse", SecretError::Missing),
    ] {
        let peer = Peer::json("400 Bad Request", json!({ "__type": kind, "message": SECRET })).await;
        assert_eq!(aws(&peer).secrets(["a"]).resolve("a").await.err(), Some(error), "{kind}");
    }
    let silent = Peer::start(String::new()).await;
    let found = vault(&silent).secrets(["secret/data"]).resolve("secret/data/a#b").await;
    assert_eq!(found.err(), Some(SecretError::Unavailable));
}

#[tokio::test]
async fn a_role_logs_in_once_and_again_when_its_token_is_over_or_taken_back() {
    let good = answer("200 OK", &kv(json!({ "key": "canary-key" })).to_string());
    let refused = answer("403 Forbidden", r#"{"errors":["permission denied"]}"#);
    let login = |token: &str| {
        let body = json!({ "auth": { "client_token": token, "lease_duration": 3600 } });
        answer("200 OK", &body.to_string())
    };
    let script = [
        login("hvs.one"),
        good.clone(),
        good.clone(),
        // Taken back before its time: it logs in, and asks again.
        refused.clone(),
        login("hvs.two"),
        good.clone(),
        // Its time is over.
        login("hvs.three"),
        good,
        // Not let in at all: it does not go on for ever.
        refused.clone(),
        login("hvs.four"),
        refused,
    ];
    let peer = Peer::script(script).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "canary.service.account\n").unwrap();
    let token = VaultToken::Kubernetes { mount: "kubernetes".into(), role: "flows".into(), token_file: file };
    let clock = Arc::new(ap_runtime::conformance::ManualClock::at(Timestamp::from_millis(0)));
    let vault = Vault::new(&peer.address, token).unwrap().with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
    assert!(!format!("{vault:?}").contains("canary"));
    let secrets = vault.secrets(["secret/data"]);
    for _ in 0..3 {
        found(&secrets, "secret/data/a#key").await;
    }
    clock.advance(Duration::from_secs(2_400));
    found(&secrets, "secret/data/a#key").await;
    assert_eq!(secrets.resolve("secret/data/a#key").await.err(), Some(SecretError::Denied));
    let seen = peer.seen.lock().unwrap();
    let logins: Vec<_> = seen.iter().filter(|seen| seen.line.contains("/login")).collect();
    assert_eq!((seen.len(), logins.len()), (11, 4));
    assert_eq!(logins[0].line, "POST /v1/auth/kubernetes/login HTTP/1.1");
    let body: Value = serde_json::from_slice(&logins[0].body).unwrap();
    assert_eq!(body, json!({ "role": "flows", "jwt": "canary.service.account" }));
    let tokens: Vec<_> = seen.iter().filter_map(|seen| seen.headers.get("x-vault-token").cloned()).collect();
    assert_eq!(tokens, ["hvs.one", "hvs.one", "hvs.one", "hvs.two", "hvs.three", "hvs.three", "hvs.four"]);
}

#[tokio::test]
async fn a_role_id_logs_in_with_its_secret() {
    let login = answer("200 OK", &json!({ "auth": { "client_token": "hvs.one", "lease_duration": 0 } }).to_string());
    let good = answer("200 OK", &kv(json!({ "root": hex() })).to_string());
    let peer = Peer::script([login, good]).await;
    let secret_id = "canary-secret-id".into();
    let token = VaultToken::AppRole { mount: "approle".into(), role_id: "role".into(), secret_id };
    let vault = Vault::new(&peer.address, token).unwrap().with_namespace("team");
    assert!(!format!("{vault:?}").contains("canary"));
    assert!(vault.kv("secret", "a", "root").root_key().await.unwrap() == expected());
    let seen = peer.seen.lock().unwrap().clone();
    let body: Value = serde_json::from_slice(&seen[0].body).unwrap();
    assert_eq!(body, json!({ "role_id": "role", "secret_id": "canary-secret-id" }));
    assert_eq!(seen[0].headers["x-vault-namespace"], "team");
    let peer = Peer::json("200 OK", json!({ "auth": {} })).await;
    let token = VaultToken::AppRole { mount: "approle".into(), role_id: "r".into(), secret_id: "canary-id".into() };
    let vault = Vault::new(&peer.address, token).unwrap();
    assert!(refused(&vault.kv("secret", "a", "root")).await.contains("`auth.client_token`"));
}
