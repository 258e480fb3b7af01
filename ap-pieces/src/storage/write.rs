//! `storage.upload` and `storage.delete`.

use std::sync::LazyLock;

use ap_core::{
    capability::ObjectPut,
    piece::{Action, ActionContext, ActionError, ActionSpec, Effect},
    property::{Properties, Property, PropertyKind},
    run::StepError,
};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{place, shown, target};
use crate::{
    exchange::{step_error, timeout},
    input::{self, wrong},
};

/// `storage.upload`.
#[derive(Debug)]
pub(super) struct Upload;

/// `storage.delete`.
#[derive(Debug)]
pub(super) struct Delete;

static UPLOAD: LazyLock<ActionSpec> = LazyLock::new(|| ActionSpec {
    name: "upload",
    display_name: "Upload",
    description: "Writes an object, in the place of one that is there; what is known of it comes out.",
    properties: Properties::new(
        place().into_iter().chain([
            Property::new("content", "Content", PropertyKind::Json)
                .describe("Text is written as it is, any other value as JSON.")
                .required(),
            Property::new("encoding", "Encoding", PropertyKind::StaticDropdown { options: &["text", "base64"] })
                .describe("Whether text is the content, or bytes as base64.")
                .default("text"),
            Property::new("contentType", "Media type", PropertyKind::ShortText).describe(
                "Left out: `application/json` for JSON, `text/plain` for text, `application/octet-stream` for bytes.",
            ),
            Property::new("encryption", "Encryption", PropertyKind::StaticDropdown { options: ENCRYPTIONS })
                .describe("By the store, with a key of its own or of its key service. Left out: as the bucket says."),
            Property::new("acl", "Access", PropertyKind::StaticDropdown { options: ACLS })
                .describe("Who else may read it. None makes it public: that is for the bucket's owner to say."),
            Property::new("overwrite", "Overwrite", PropertyKind::Checkbox)
                .describe("Whether an object that is there may be replaced.")
                .default(true),
            timeout(),
        ]),
    ),
});

static DELETE: LazyLock<ActionSpec> = LazyLock::new(|| ActionSpec {
    name: "delete",
    display_name: "Delete",
    description: "Deletes an object; one that is not there is deleted already.",
    properties: Properties::new(place().into_iter().chain([timeout()])),
});

const ENCRYPTIONS: &[&str] = &["AES256", "aws:kms", "aws:kms:dsse"];
const ACLS: &[&str] = &["private", "bucket-owner-read", "bucket-owner-full-control"];

#[async_trait]
impl Action for Upload {
    fn spec(&self) -> &ActionSpec {
        &UPLOAD
    }

    /// The same bytes in the same place; unless the first attempt makes the second fail.
    fn effect(&self, input: &Value) -> Effect {
        let overwrite = input.get("overwrite").and_then(Value::as_bool).unwrap_or(true);
        if overwrite { Effect::Repeatable } else { Effect::Once }
    }

    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        let target = target(context, &input);
        let text = |name: &str| input.get(name).and_then(Value::as_str).map(str::to_owned);
        let (content, default) = content(&input)?;
        let put = ObjectPut {
            content_type: Some(text("contentType").unwrap_or_else(|| default.to_owned())),
            encryption: text("encryption"),
            acl: text("acl"),
            only_if_absent: input.get("overwrite").and_then(Value::as_bool) == Some(false),
            ..ObjectPut::new(target, content.into())
        };
        let info = context.objects.put(put).await.map_err(|error| step_error(&error))?;
        Ok(shown(&info))
    }
}

/// The bytes, and what they are unless the flow says otherwise.
fn content(input: &Value) -> Result<(Vec<u8>, &'static str), StepError> {
    let base64 = input::text(input, "encoding") == "base64";
    match input.get("content") {
        Some(Value::String(text)) if base64 => {
            let bytes = STANDARD.decode(text).map_err(|_| wrong("content", "is no base64"))?;
            Ok((bytes, "application/octet-stream"))
        }
        Some(Value::String(text)) => Ok((text.clone().into_bytes(), "text/plain; charset=utf-8")),
        Some(_) if base64 => Err(wrong("content", "must be text, as `encoding` is `base64`")),
        Some(value) => Ok((value.to_string().into_bytes(), "application/json")),
        None => Err(wrong("content", "is required")),
    }
}

#[async_trait]
impl Action for Delete {
    fn spec(&self) -> &ActionSpec {
        &DELETE
    }

    fn effect(&self, _: &Value) -> Effect {
        Effect::Repeatable
    }

    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        context.objects.delete(target(context, &input)).await.map_err(|error| step_error(&error))?;
        Ok(json!({ "deleted": true }))
    }
}
