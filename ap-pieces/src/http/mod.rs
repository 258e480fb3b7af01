//! The piece `http`: sends a request to any API.

mod request;
mod response;
mod retry_after;

use std::sync::{Arc, LazyLock};

use ap_core::{
    capability::HttpError,
    piece::{Action, ActionContext, ActionError, ActionSpec, Effect, Piece, Trigger},
    property::{AuthSchema, Properties, Property, PropertyKind},
    run::{StepError, StepErrorKind},
};
use async_trait::async_trait;
use serde_json::Value;

use crate::input;

/// The piece `http`.
#[derive(Clone, Copy, Debug)]
pub struct Http;

impl Piece for Http {
    fn name(&self) -> &str {
        "http"
    }

    fn display_name(&self) -> &str {
        "HTTP"
    }

    fn description(&self) -> &str {
        "Sends requests to any HTTP API."
    }

    fn auth(&self) -> Option<AuthSchema> {
        Some(AuthSchema {
            types: &["BASIC_AUTH", "CUSTOM_AUTH", "SECRET_TEXT"],
            required: false,
            description: "Applied to the request where the connection's placements say, and nowhere else.",
        })
    }

    fn actions(&self) -> Vec<Arc<dyn Action>> {
        vec![Arc::new(Request)]
    }

    fn triggers(&self) -> Vec<Arc<dyn Trigger>> {
        Vec::new()
    }
}

/// `http.request`.
#[derive(Debug)]
struct Request;

static REQUEST: LazyLock<ActionSpec> = LazyLock::new(|| {
    ActionSpec {
    name: "request",
    display_name: "Send request",
    description: "Sends an HTTP request; status, headers and body of the response come out. A status of 400 or more fails \
                  the step.",
    properties: Properties::new([
        Property::new("method", "Method", PropertyKind::StaticDropdown { options: METHODS })
            .describe("The request method (RFC 9110 §9).")
            .default("GET"),
        Property::new("url", "URL", PropertyKind::ShortText)
            .describe("Absolute `http` or `https` URL, without user name and password.")
            .required(),
        Property::new("headers", "Headers", PropertyKind::Object)
            .describe("Header fields by name; an array gives a field several times, null leaves it out."),
        Property::new("query", "Query parameters", PropertyKind::Object)
            .describe("Added to the URL's own; an array gives a parameter several times, null leaves it out."),
        Property::new("body", "Body", PropertyKind::Json).describe(
            "Text is sent as it is; any other value as JSON, with `content-type: application/json` unless given. Null \
             sends no body.",
        ),
        Property::new("timeout", "Timeout", PropertyKind::whole(1, 300_000)).describe(
            "Longest time for the exchange, redirects included. Unit: milliseconds. Never longer than the step's own limit.",
        ),
        Property::new("connection", "Connection", PropertyKind::Connection)
            .describe("The connection whose credentials are applied to the request."),
        Property::new("auth", "Connection", PropertyKind::Connection)
            .describe("Another name for `connection`; give one of them."),
        Property::new("ssl", "TLS", PropertyKind::Object).describe(
            "`minVersion`: `TLSv1.2` (default) or `TLSv1.3`. `verify` can only be true: certificates are always checked.",
        ),
    ]),
}
});

const METHODS: &[&str] = &["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];

#[async_trait]
impl Action for Request {
    fn spec(&self) -> &ActionSpec {
        &REQUEST
    }

    /// By the method: what RFC 9110 §9.2.2 calls idempotent may be repeated.
    fn effect(&self, input: &Value) -> Effect {
        match input::text(input, "method") {
            "" | "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" => Effect::Repeatable,
            _ => Effect::Once,
        }
    }

    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        let request = request::build(context, &input)?;
        let response = context.http.send(request).await.map_err(|error| step_error(&error))?;
        response::output(response, context.now)
    }
}

fn step_error(error: &HttpError) -> StepError {
    let kind = match error {
        HttpError::Credential { .. } => StepErrorKind::Connection,
        HttpError::Interrupted { .. } => StepErrorKind::Interrupted,
        HttpError::InvalidRequest { .. } => StepErrorKind::Input,
        HttpError::Refused { .. } => StepErrorKind::Refused,
        HttpError::ResponseTooLarge { .. } => StepErrorKind::Limit,
        HttpError::Timeout { .. } => StepErrorKind::Timeout,
        HttpError::Unreachable { .. } => StepErrorKind::OutcomeTransient,
        _ => StepErrorKind::Internal,
    };
    StepError::new(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ap_core::capability::HttpResponse;
    use serde_json::json;

    use super::*;
    use crate::testing::{KEY, Recorder, run_over};

    fn ok() -> Result<HttpResponse, HttpError> {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Ok(HttpResponse { status: 200, headers, body: b"{\"id\":7}".to_vec().into(), redirected_to: None })
    }

    #[tokio::test]
    async fn the_flow_of_the_guide_sends_what_it_says() {
        let http = Recorder::answering(ok());
        let input = json!({
            "method": "POST",
            "url": "https://api.example/v1?a=1",
            "headers": { "Authorization": "Bearer apcred_abc", "Content-Type": "application/json" },
            "query": { "n": [1, true], "none": null, "q": "ä b" },
            "body": { "email": "a@b.example" },
            "timeout": 30_000,
            "connection": "apcred_conn",
            "ssl": { "verify": true, "minVersion": "TLSv1.2" },
        });
        let output = run_over(&http, &Request, input, false).await.expect("sent");
        assert_eq!(
            output,
            json!({ "status": 200, "headers": { "content-type": "application/json" }, "body": { "id": 7 } })
        );
        let sent = http.only();
        assert_eq!(sent.method, "POST");
        assert_eq!(sent.url, "https://api.example/v1?a=1&n=1&n=true&q=%C3%A4+b");
        assert_eq!(
            sent.headers,
            [
                ("Authorization".to_owned(), "Bearer apcred_abc".to_owned()),
                ("Content-Type".to_owned(), "application/json".to_owned()),
            ]
        );
        assert_eq!(sent.body.as_deref(), Some(br#"{"email":"a@b.example"}"#.as_slice()));
        assert_eq!((sent.credential.as_deref(), sent.timeout), (Some("apcred_conn"), Duration::from_secs(30)));
        assert!(!sent.require_tls13);
    }

    #[test]
    fn settings_as_the_guide_writes_them_can_be_published() {
        let check = |settings: Value| match settings {
            Value::Object(settings) => REQUEST.properties.check_settings(&settings, "/steps/0/settings"),
            _ => panic!("an object"),
        };
        let settings = json!({
            "method": "POST",
            "url": "{{connections.external_api.url}}",
            "headers": { "Authorization": "Bearer {{connections.external_api.token}}" },
            "body": "{{steps.validate_input.output}}",
            "timeout": 30000,
            "connection": "{{connections.external_api}}",
            "ssl": { "verify": true, "minVersion": "TLSv1.2" },
        });
        assert_eq!(check(settings), []);
        let found = check(json!({ "methd": "POST", "timeout": 0 }));
        let rules: Vec<_> = found.iter().map(|found| (found.rule, found.pointer.as_str())).collect();
        assert_eq!(
            rules,
            [
                ("property.unknown", "/steps/0/settings/methd"),
                ("property.type", "/steps/0/settings/timeout"),
                ("property.required", "/steps/0/settings"),
            ]
        );
    }

    #[tokio::test]
    async fn the_idempotency_key_is_sent_when_the_flow_says_so() {
        let http = Recorder::answering(ok());
        run_over(&http, &Request, json!({ "url": "https://a.example" }), true).await.expect("sent");
        assert_eq!(http.only().headers, [("Idempotency-Key".to_owned(), KEY.to_owned())]);
        let http = Recorder::answering(ok());
        let own = json!({ "url": "https://a.example", "headers": { "idempotency-key": "mine" } });
        run_over(&http, &Request, own, true).await.expect("sent");
        assert_eq!(http.only().headers, [("idempotency-key".to_owned(), "mine".to_owned())]);
        let http = Recorder::answering(ok());
        run_over(&http, &Request, json!({ "url": "https://a.example" }), false).await.expect("sent");
        assert_eq!(http.only().headers, []);
    }

    #[test]
    fn methods_decide_whether_repeating_is_safe() {
        for (method, effect) in [
            ("GET", Effect::Repeatable),
            ("HEAD", Effect::Repeatable),
            ("OPTIONS", Effect::Repeatable),
            ("PUT", Effect::Repeatable),
            ("DELETE", Effect::Repeatable),
            ("POST", Effect::Once),
            ("PATCH", Effect::Once),
            ("BREW", Effect::Once),
        ] {
            assert_eq!(Request.effect(&json!({ "method": method })), effect, "{method}");
        }
        assert_eq!(Request.effect(&json!({})), Effect::Repeatable);
    }

    #[tokio::test]
    async fn failures_to_exchange_keep_their_meaning() {
        let reason = || "why".to_owned();
        for (error, kind) in [
            (HttpError::Credential { reason: reason() }, StepErrorKind::Connection),
            (HttpError::InvalidRequest { reason: reason() }, StepErrorKind::Input),
            (HttpError::Refused { reason: reason() }, StepErrorKind::Refused),
            (HttpError::ResponseTooLarge { limit_bytes: 1 }, StepErrorKind::Limit),
            (HttpError::Timeout { limit: Duration::from_millis(5) }, StepErrorKind::Timeout),
            (HttpError::Unreachable { reason: reason() }, StepErrorKind::OutcomeTransient),
            (HttpError::Interrupted { reason: reason() }, StepErrorKind::Interrupted),
        ] {
            let http = Recorder::answering(Err(error.clone()));
            let failed =
                run_over(&http, &Request, json!({ "url": "https://a.example" }), false).await.expect_err("fails");
            assert_eq!((failed.error.kind, failed.error.message), (kind, error.to_string()));
            assert_eq!(failed.retry_after, None);
        }
    }
}
