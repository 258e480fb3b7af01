//! The flow: signed webhook → check → HTTP request with a bearer token → log → respond.

use ap_core::connection::{Connection, ConnectionError, ConnectionValue, FieldValue};
use secrecy::SecretString;
use serde_json::{Value, json};

/// The header in which a sender signs its request, and what stands before the signature there.
pub(crate) const SIGNATURE_HEADER: &str = "X-Signature";
pub(crate) const SIGNATURE_PREFIX: &str = "sha256=";
/// The header that makes two requests one delivery.
pub(crate) const DELIVERY_HEADER: &str = "X-Delivery-Id";

/// The flow's JSON. It names connections; no credential is in it, and none can be put into it.
pub(crate) fn source() -> Value {
    json!({
        "displayName": "New contact",
        "triggers": [{
            "name": "new_contact",
            "type": "webhook",
            "settings": {
                "authentication": {
                    "type": "HMAC_SHA256",
                    "headerName": SIGNATURE_HEADER,
                    "prefix": SIGNATURE_PREFIX,
                    "secret": "{{connections.webhook_signing}}",
                },
                "dedupeKey": DELIVERY_HEADER,
            },
        }],
        "steps": [
            {
                "name": "check_contact",
                "type": "code",
                "settings": {
                    "sourceCode": { "code": include_str!("../flow/check_contact.js") },
                    "input": { "contact": "{{trigger.body}}" },
                },
            },
            {
                "name": "create_contact",
                "type": "http",
                "settings": {
                    "method": "POST",
                    "url": "{{connections.crm.url}}",
                    "headers": { "Authorization": "Bearer {{connections.crm.token}}" },
                    "body": "{{steps.check_contact.output}}",
                },
                "timeout": 30_000,
                "retry": { "maxAttempts": 3, "backoff": { "initialMs": 200 } },
                // The CRM honours `Idempotency-Key`: after a crash, asking again is safe.
                "idempotencyKey": true,
            },
            {
                "name": "log_result",
                "type": "code",
                "settings": {
                    "sourceCode": { "code": include_str!("../flow/log_result.js") },
                    "input": { "contact": "{{steps.check_contact.output}}", "response": "{{steps.create_contact.output}}" },
                },
            },
            {
                "name": "answer",
                "type": "respond",
                "settings": {
                    "status": 201,
                    "body": { "contact": "{{steps.create_contact.output.body.id}}" },
                },
            },
        ],
    })
}

/// The API the flow calls: flows may read `url`; of `token` they get a placeholder, which becomes the token inside the
/// request, in the `Authorization` header and towards `url`'s origin only.
pub(crate) fn crm(url: String, token: SecretString) -> Result<Connection, ConnectionError> {
    let fields = [("url".to_owned(), FieldValue::Clear(url)), ("token".to_owned(), FieldValue::Secret(token))].into();
    Connection::new("crm", ConnectionValue::CustomAuth { fields }, vec![], vec![])
}

/// The key with which senders sign.
pub(crate) fn webhook_signing(secret: SecretString) -> Result<Connection, ConnectionError> {
    Connection::new("webhook_signing", ConnectionValue::SecretText { secret }, vec![], vec![])
}
