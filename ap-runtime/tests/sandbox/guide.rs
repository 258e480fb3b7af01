//! Every code step of the guide, word for word: it runs, or says what it lacks.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use ap_core::capability::{HttpError, HttpRequest, HttpResponse};
use ap_runtime::sandbox::{CodeError, CodeHost, CodeOutput, NoCodeHost, StoreCall, StoreCallError};
use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::{SANDBOX, request};

/// The steps in the order of the guide.
const STEPS: &str = include_str!("../fixtures/guide_code.json");

/// Answers 429 first, then with what was asked.
#[derive(Debug, Default)]
struct Api {
    requests: AtomicUsize,
}

#[async_trait]
impl CodeHost for Api {
    async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let busy = request.url.ends_with("/busy") && self.requests.fetch_add(1, Ordering::SeqCst) == 0;
        let body = json!({ "method": request.method, "headers": request.headers });
        Ok(HttpResponse {
            status: if busy { 429 } else { 200 },
            headers: vec![("retry-after".to_owned(), "0".to_owned())],
            body: body.to_string().into(),
            redirected_to: None,
        })
    }

    fn key(&self, _: &str) -> Option<Result<SecretString, HttpError>> {
        None
    }

    fn mentions(&self, _: &[u8]) -> bool {
        false
    }

    fn placeholders(&self) -> Vec<String> {
        Vec::new()
    }

    async fn store(&self, call: StoreCall) -> Result<Option<String>, StoreCallError> {
        NoCodeHost.store(call).await
    }

    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

/// The step number `index` of the section, counted from 0.
fn source(section: &str, index: usize) -> String {
    let steps: Vec<Value> = serde_json::from_str(STEPS).unwrap();
    let mut of_section = steps.iter().filter(|step| step["section"].as_str().unwrap().contains(section));
    of_section.nth(index).unwrap_or_else(|| panic!("{section} {index}"))["code"].as_str().unwrap().to_owned()
}

async fn run(section: &str, index: usize, params: Value) -> Result<CodeOutput, CodeError> {
    let mut request = request(&source(section, index), &params.to_string());
    request.host = Arc::new(Api::default());
    SANDBOX.run(request).await
}

async fn value(section: &str, index: usize, params: Value) -> Value {
    run(section, index, params).await.unwrap_or_else(|error| panic!("{section} {index}: {error}")).value
}

async fn message(section: &str, index: usize, params: Value) -> String {
    match run(section, index, params).await {
        Err(CodeError::Thrown { message, .. } | CodeError::InvalidSource { message, .. }) => message,
        other => panic!("{section} {index}: {other:?}"),
    }
}

fn is_hex(value: &Value, length: usize) -> bool {
    value.as_str().is_some_and(|text| text.len() == length && text.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[tokio::test]
async fn signatures_are_checked() {
    let mac = "08e2e1e5e4a2f3a0"; // no signature of it
    let params = json!({ "body": { "a": 1 }, "headers": { "x-webhook-signature": mac }, "secret": "s3cr3t" });
    assert_eq!(message("2.2 HMAC", 0, params).await, "Invalid webhook signature");
    let step = "const crypto = require('crypto'); export const code = (p) => crypto.createHmac('sha256', p.secret).update(JSON.stringify(p.body)).digest('hex');";
    let body = json!({ "body": { "a": 1 }, "secret": "s3cr3t" });
    let mac = SANDBOX.run(request(step, &body.to_string())).await.unwrap().value;
    let params = json!({ "body": { "a": 1 }, "headers": { "x-webhook-signature": mac }, "secret": "s3cr3t" });
    assert_eq!(value("2.2 HMAC", 0, params).await, json!({ "a": 1 }));
}

#[tokio::test]
async fn data_is_masked_and_encrypted() {
    let user = json!({ "user": { "name": "Ann", "ssn": "123-45-6789", "creditCard": "4111111111111111" } });
    let output = run("Sensitive Data Handling", 0, user.clone()).await.unwrap();
    assert_eq!(output.value, user["user"]);
    assert!(output.console[0].text.contains("***-**-6789") && output.console[0].text.contains("[REDACTED]"));
    let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let params = json!({ "data": { "id": 1, "sensitiveField": "secret" }, "encryptionKey": key });
    let encrypted = value("Field-Level Encryption", 0, params).await;
    assert!(is_hex(&encrypted["sensitiveField"]["encrypted"], 32) && is_hex(&encrypted["sensitiveField"]["iv"], 32));
    let records = json!({ "records": [{ "id": 7, "email": "ann@example.org" }], "encryptionKey": key });
    let sent = value("7.5 Encrypted", 0, records).await;
    let plain = r#"{"id":7,"email":"ann@example.org"}"#;
    assert!(is_hex(&sent[0]["data"], 2 * plain.len()) && is_hex(&sent[0]["authTag"], 32), "{sent}");
}

#[tokio::test]
async fn requests_are_validated_and_watched() {
    let fresh = json!({ "body": { "id": 1, "event": "e", "timestamp": "2026-01-01T00:00:00Z" } });
    assert_eq!(value("Request Validation", 0, fresh).await, json!({ "valid": true }));
    let old = json!({ "body": { "id": 1, "event": "e", "timestamp": "2025-01-01T00:00:00Z" } });
    assert_eq!(message("Request Validation", 0, old).await, "Request too old (possible replay attack)");
    let recent = vec![json!({ "status": "FAILED", "source": "a" }); 11];
    let stats = json!({ "executionStats": { "errors": 5, "total": 10, "recent": recent }, "thresholds": {} });
    let alerts = value("Monitoring and Alerting", 0, stats).await;
    assert_eq!(alerts["alerts"].as_array().unwrap().len(), 2);
    let body = json!({ "request": { "body": { "email": " Ann@Example.org ", "name": "Ann" } } });
    assert_eq!(value("7.1 Secure API", 0, body).await["email"], "ann@example.org");
    let logged = json!({ "input": { "email": "ann@example.org" }, "response": { "status": 200 } });
    assert_eq!(value("7.1 Secure API", 1, logged).await["email"], "an***@example.org");
}

#[tokio::test]
async fn users_and_files_are_processed() {
    let login = json!({ "request": { "body": { "username": " Ann ", "password": "pw" } } });
    let hashed = value("7.3 Multi-Factor", 0, login).await;
    assert_eq!(hashed["username"], "ann");
    assert!(is_hex(&hashed["passwordHash"], 64));
    let user = json!({ "user": { "password_hash": "x" }, "providedHash": "x" });
    assert_eq!(value("7.3 Multi-Factor", 1, user).await["password_hash"], "x");
    assert_eq!(message("7.3 Multi-Factor", 1, json!({ "providedHash": "x" })).await, "Invalid credentials");
    let second = value("7.3 Multi-Factor", 2, json!({})).await;
    assert!((100_000..999_999).contains(&second["code"].as_str().unwrap().parse::<u32>().unwrap()));
    let session = value("7.3 Multi-Factor", 3, json!({ "userId": "u1" })).await;
    assert!(is_hex(&session["sessionToken"], 64) && session["createdAt"].is_string(), "{session}");
    let file = json!({ "request": { "file": { "name": "a.pdf", "type": "application/pdf", "size": 10 } } });
    let stored = value("7.4 Secure File", 0, file).await;
    assert!(stored["secureFilename"].as_str().unwrap().ends_with(".pdf"));
}

#[tokio::test]
async fn apis_are_called() {
    let params = json!({
        "data": { "name": "<Ann>", "email": "Ann@example.org" },
        "apiUrl": "https://api.example/users",
        "connections": { "api_token": "placeholder" },
    });
    let sent = value("Custom Code Best Practices", 0, params).await;
    assert_eq!(sent["method"], "POST");
    let headers = sent["headers"].to_string();
    assert!(headers.contains("Bearer placeholder"), "{headers}");
    let oauth = json!({ "connections": { "oauth": { "accessToken": "t", "expiresAt": "2030-01-01T00:00:00Z" } } });
    assert_eq!(value("OAuth Connection", 0, oauth).await, json!({ "valid": true }));
    let busy = json!({ "apiUrl": "https://api.example/busy", "apiKey": "k" });
    let output = run("API Rate Limit", 0, busy).await.unwrap();
    assert_eq!((&output.value["method"], output.console.len()), (&json!("GET"), 1));
}

#[tokio::test]
async fn what_a_step_lacks_is_named_with_what_to_use() {
    let cases = [
        ("Token Rotation Schedule", json!({ "expiresAt": "2026-01-02T00:00:00Z" }), "rotateToken"),
        ("HashiCorp Vault", json!({}), "node-vault"),
        ("AWS Secrets Manager", json!({}), "@aws-sdk/client-secrets-manager"),
        ("6.4 Webhook Rate", json!({}), "express-rate-limit"),
        ("7.2 Database", json!({ "connections": { "postgres_readonly": {} } }), "pg"),
    ];
    for (section, params, lacking) in cases {
        let message = message(section, 0, params).await;
        assert!(message.contains(lacking), "{section}: {message}");
    }
    let old = json!({ "item": { "id": 1, "email": "a" }, "connections": { "encryption_key": "k" } });
    let message_of_cipher = message("7.2 Database", 1, old).await;
    assert!(message_of_cipher.contains("createCipheriv"), "{message_of_cipher}");
    assert!(message("7.4 Secure File", 1, json!({ "file": {} })).await.contains("scanFile"));
    assert!(message("Security Benefits", 0, json!({})).await.contains("storeBackup"));
    let later = json!({ "expiresAt": "2030-01-01T00:00:00Z" });
    assert_eq!(value("Token Rotation Schedule", 0, later).await["rotated"], false);
}

#[test]
fn no_step_of_the_guide_is_left_out() {
    let steps: Vec<Value> = serde_json::from_str(STEPS).unwrap();
    assert_eq!(steps.len(), 24);
}
