//! The piece `email`: mail through the server that a connection names.

use std::sync::{Arc, LazyLock};

use ap_core::{
    capability::{MailAttachment, MailMessage},
    piece::{Action, ActionContext, ActionError, ActionSpec, Effect, Piece, Trigger},
    property::{AuthSchema, Properties, Property, PropertyKind},
    run::StepError,
};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    exchange::{connection, step_error, time_limit, timeout},
    input::{self, wrong},
};

/// The piece `email`.
#[derive(Clone, Copy, Debug)]
pub struct Email;

impl Piece for Email {
    fn name(&self) -> &str {
        "email"
    }

    fn display_name(&self) -> &str {
        "E-mail"
    }

    fn description(&self) -> &str {
        "Sends mail through an SMTP server."
    }

    fn auth(&self) -> Option<AuthSchema> {
        Some(AuthSchema {
            types: &["CUSTOM_AUTH"],
            required: true,
            description: "Clear fields `host`, `port`, `username` and perhaps `from` and `security`; a secret field `password`.",
        })
    }

    fn actions(&self) -> Vec<Arc<dyn Action>> {
        vec![Arc::new(Send)]
    }

    fn triggers(&self) -> Vec<Arc<dyn Trigger>> {
        Vec::new()
    }
}

/// `email.send`.
#[derive(Debug)]
struct Send;

static SEND: LazyLock<ActionSpec> = LazyLock::new(|| {
    let addresses = |name, display_name| Property::new(name, display_name, PropertyKind::Json);
    ActionSpec {
        name: "send",
        display_name: "Send",
        description: "Sends one message; its `messageId` and the server's `reply` come out.",
        properties: Properties::new([
            connection("The mail server, and as whom."),
            addresses("to", "To")
                .describe("Whom it is for: an address such as `Ann <ann@mail.example>`, or an array of them.")
                .required(),
            addresses("cc", "Copy").describe("Who gets a copy: an address or an array of them."),
            addresses("bcc", "Hidden copy").describe("Who gets a copy that nobody else sees: an address or an array of them."),
            Property::new("from", "From", PropertyKind::ShortText)
                .describe("Who it is from. Left out: the connection's `from` or `username`."),
            Property::new("replyTo", "Reply to", PropertyKind::ShortText).describe("Where answers go."),
            Property::new("subject", "Subject", PropertyKind::ShortText).describe("One line.").required(),
            Property::new("body", "Body", PropertyKind::LongText).describe("The message as plain text."),
            Property::new("html", "HTML", PropertyKind::LongText)
                .describe("The message as HTML; with `body` too, readers choose. Escape what comes from outside."),
            Property::new("attachments", "Attachments", PropertyKind::array(PropertyKind::Object)).describe(
                "Files, each with `filename`, perhaps `contentType`, and either `content` (text) or `contentBase64` (bytes).",
            ),
            timeout(),
        ]),
    }
});

#[async_trait]
impl Action for Send {
    fn spec(&self) -> &ActionSpec {
        &SEND
    }

    /// No mail server promises to drop a second copy.
    fn effect(&self, _: &Value) -> Effect {
        Effect::Once
    }

    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        let text = |name: &str| input.get(name).and_then(Value::as_str).map(str::to_owned);
        if input.get("body").is_none() && input.get("html").is_none() {
            return Err(wrong("body", "is missing: give `body`, `html` or both").into());
        }
        let attachments = input::items(&input, "attachments").iter().enumerate();
        let message = MailMessage {
            connection: input::text(&input, "connection").to_owned(),
            from: text("from"),
            to: addresses(&input, "to")?,
            cc: addresses(&input, "cc")?,
            bcc: addresses(&input, "bcc")?,
            reply_to: text("replyTo"),
            subject: input::text(&input, "subject").to_owned(),
            text: text("body"),
            html: text("html"),
            attachments: attachments.map(|(index, file)| attachment(index, file)).collect::<Result<_, _>>()?,
            idempotency_key: Some(context.idempotency_key.to_owned()),
            timeout: Some(time_limit(context, &input)),
        };
        let receipt = context.mail.send(message).await.map_err(|error| step_error(&error))?;
        Ok(json!({ "messageId": receipt.message_id, "reply": receipt.reply }))
    }
}

/// One address, several in an array, or none.
fn addresses(input: &Value, name: &str) -> Result<Vec<String>, StepError> {
    let problem = "must be an address, or an array of addresses";
    match input.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(address)) => Ok(vec![address.clone()]),
        Some(Value::Array(items)) => {
            let text = |item: &Value| item.as_str().map(str::to_owned).ok_or_else(|| wrong(name, problem));
            items.iter().map(text).collect()
        }
        Some(_) => Err(wrong(name, problem)),
    }
}

fn attachment(index: usize, file: &Value) -> Result<MailAttachment, StepError> {
    let refuse = |problem: &str| Err(wrong("attachments", format_args!("item {index} {problem}")));
    let member = |name: &str| file.get(name).and_then(Value::as_str);
    let known = ["filename", "contentType", "content", "contentBase64"];
    if let Some(other) = file.as_object().and_then(|file| file.keys().find(|name| !known.contains(&name.as_str()))) {
        return refuse(&format!("has an unknown member `{}`", other.escape_default()));
    }
    let Some(name) = member("filename") else { return refuse("needs a text `filename`") };
    let (content, default) = match (member("content"), member("contentBase64")) {
        (Some(text), None) => (text.as_bytes().to_vec(), "text/plain; charset=utf-8"),
        (None, Some(text)) => match STANDARD.decode(text) {
            Ok(bytes) => (bytes, "application/octet-stream"),
            Err(_) => return refuse("has a `contentBase64` that is no base64"),
        },
        _ => return refuse("needs either `content` or `contentBase64`, as text"),
    };
    let content_type = member("contentType").unwrap_or(default).to_owned();
    Ok(MailAttachment { name: name.to_owned(), content_type, content: content.into() })
}

#[cfg(test)]
mod tests {
    use ap_core::{
        capability::{ExchangeError, MailReceipt},
        run::StepErrorKind,
    };

    use super::*;
    use crate::testing::{KEY, Outside, action, check_settings, run_outside};

    #[test]
    fn what_the_guide_writes_is_refused_for_its_missing_connection_alone() {
        let mut settings = json!({
            "to": "{{steps.check_user_exists.output.email}}",
            "subject": "Your MFA Code",
            "body": "Your verification code is: {{steps.generate_mfa_code.output.code}}",
        });
        assert_eq!(check_settings(&Email, "send", settings.clone()), ["property.required"]);
        settings["connection"] = json!("{{connections.mail}}");
        assert_eq!(check_settings(&Email, "send", settings), [] as [&str; 0]);
    }

    #[tokio::test]
    async fn a_message_is_handed_over_as_it_is_written() {
        let outside = Outside::default();
        let receipt = || MailReceipt { message_id: "<1@mail.example>".to_owned(), reply: "queued".to_owned() };
        outside.receipt(Ok(receipt()));
        let input = json!({
            "connection": "apcred_mail", "to": ["a@mail.example", "B <b@mail.example>"], "cc": "c@mail.example",
            "from": "me@mail.example", "replyTo": "r@mail.example", "subject": "Hello", "body": "text", "html": "<b>text</b>",
            "attachments": [
                { "filename": "a.txt", "content": "é" },
                { "filename": "b.pdf", "contentType": "application/pdf", "contentBase64": "AP8=" },
            ],
        });
        let output = run_outside(&outside, &Email, "send", input).await.expect("sent");
        assert_eq!(output, json!({ "messageId": "<1@mail.example>", "reply": "queued" }));
        let sent = outside.message();
        assert_eq!((sent.to.len(), sent.cc.len(), sent.bcc.len(), sent.subject.as_str()), (2, 1, 0, "Hello"));
        assert_eq!((sent.from.as_deref(), sent.reply_to.as_deref()), (Some("me@mail.example"), Some("r@mail.example")));
        assert_eq!((sent.text.as_deref(), sent.html.as_deref()), (Some("text"), Some("<b>text</b>")));
        assert_eq!(sent.idempotency_key.as_deref(), Some(KEY));
        let files: Vec<_> =
            sent.attachments.iter().map(|file| (file.content_type.as_str(), &file.content[..])).collect();
        assert_eq!(files, [("text/plain; charset=utf-8", "é".as_bytes()), ("application/pdf", &[0, 255])]);
        outside.receipt(Err(ExchangeError::Interrupted { reason: "cut".to_owned() }));
        let input = json!({ "connection": "apcred_mail", "to": "a@mail.example", "subject": "s", "body": "b" });
        let failed = run_outside(&outside, &Email, "send", input).await.expect_err("cut");
        assert_eq!(failed.error.kind, StepErrorKind::Interrupted);
    }

    #[tokio::test]
    async fn settings_that_cannot_be_sent() {
        for wrong in [
            json!({ "to": 7, "subject": "s", "body": "b" }),
            json!({ "to": ["a@b.example", 7], "subject": "s", "body": "b" }),
            json!({ "to": "a@b.example", "subject": "s" }),
            json!({ "to": "a@b.example", "subject": "s", "body": "b", "attachments": [{ "content": "x" }] }),
            json!({ "to": "a@b.example", "subject": "s", "body": "b", "attachments": [{ "filename": "x" }] }),
            json!({ "to": "a@b.example", "subject": "s", "body": "b", "attachments": [{ "filename": "x", "contentBase64": "%" }] }),
            json!({ "to": "a@b.example", "subject": "s", "body": "b", "attachments": [{ "filename": "x", "content": "x", "path": "/etc/passwd" }] }),
        ] {
            let mut input = wrong.clone();
            input["connection"] = json!("apcred_mail");
            let refused = run_outside(&Outside::default(), &Email, "send", input).await.expect_err("refused");
            assert_eq!(refused.error.kind, StepErrorKind::Input, "{wrong}");
        }
        assert_eq!(action(&Email, "send").effect(&json!({})), Effect::Once);
    }
}
