//! The piece `storage`: objects of the store that a connection names.

mod write;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use ap_core::{
    capability::{ObjectAccess, ObjectInfo, ObjectListing, ObjectPresign, ObjectTarget},
    piece::{Action, ActionContext, ActionError, ActionSpec, Effect, Piece, Trigger},
    property::{AuthSchema, Properties, Property, PropertyKind},
    run::{StepError, StepErrorKind},
};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use self::write::{Delete, Upload};
use crate::{
    exchange::{connection, step_error, time_limit, timeout},
    input,
};

/// The piece `storage`.
#[derive(Clone, Copy, Debug)]
pub struct Storage;

impl Piece for Storage {
    fn name(&self) -> &str {
        "storage"
    }

    fn display_name(&self) -> &str {
        "Storage"
    }

    fn description(&self) -> &str {
        "Keeps files in S3 and object stores that speak like it."
    }

    fn auth(&self) -> Option<AuthSchema> {
        Some(AuthSchema {
            types: &["CUSTOM_AUTH"],
            required: true,
            description: "Clear fields `accessKeyId`, `region`, and perhaps `endpoint` and `bucket`; a secret field \
                          `secretAccessKey`.",
        })
    }

    fn actions(&self) -> Vec<Arc<dyn Action>> {
        vec![Arc::new(Upload), Arc::new(Download), Arc::new(Delete), Arc::new(Presign), Arc::new(List)]
    }

    fn triggers(&self) -> Vec<Arc<dyn Trigger>> {
        Vec::new()
    }
}

/// `storage.download`.
#[derive(Debug)]
struct Download;

/// `storage.presign`.
#[derive(Debug)]
struct Presign;

/// `storage.list`.
#[derive(Debug)]
struct List;

/// Which object: what all actions but `list` are told.
fn place() -> [Property; 3] {
    [
        connection("The object store, and as whom."),
        bucket(),
        Property::new("filename", "File name", PropertyKind::ShortText)
            .describe("The key of the object, such as `invoices/2026/7.pdf`.")
            .required(),
    ]
}

fn bucket() -> Property {
    Property::new("bucket", "Bucket", PropertyKind::ShortText)
        .describe("The bucket. Left out: the connection's field `bucket`.")
}

static DOWNLOAD: LazyLock<ActionSpec> = LazyLock::new(|| ActionSpec {
    name: "download",
    display_name: "Download",
    description: "Reads an object; its `content` comes out with what is known of it.",
    properties: Properties::new(
        place().into_iter().chain([
            Property::new("encoding", "Encoding", PropertyKind::StaticDropdown { options: &["text", "base64"] })
                .describe("How `content` is put out: as text in UTF-8, or bytes as base64.")
                .default("text"),
            Property::new("maxBytes", "Most bytes", PropertyKind::whole(1, MAX_DOWNLOAD_BYTES))
                .describe("A larger object is an error. Unit: bytes.")
                .default(MAX_DOWNLOAD_BYTES),
            timeout(),
        ]),
    ),
});

static PRESIGN: LazyLock<ActionSpec> = LazyLock::new(|| ActionSpec {
    name: "presign",
    display_name: "Presign",
    description: "Makes a URL by which whoever has it reads or writes one object until it expires.",
    properties: Properties::new(
        place().into_iter().chain([
            Property::new("access", "Access", PropertyKind::StaticDropdown { options: &["read", "write"] })
                .describe("`read` for GET, `write` for PUT.")
                .default("read"),
            Property::new("expiresIn", "Expires in", PropertyKind::whole(1, 604_800))
                .describe("How long the URL lasts. Unit: seconds.")
                .default(3_600),
        ]),
    ),
});

static LIST: LazyLock<ActionSpec> = LazyLock::new(|| ActionSpec {
    name: "list",
    display_name: "List",
    description: "Names objects of a bucket, a page at a time.",
    properties: Properties::new([
        connection("The object store, and as whom."),
        bucket(),
        Property::new("prefix", "Prefix", PropertyKind::ShortText).describe("What their keys start with."),
        Property::new("limit", "Limit", PropertyKind::whole(1, 1_000))
            .describe("Most objects of a page.")
            .default(1_000),
        Property::new("after", "After", PropertyKind::ShortText).describe("The `next` of an earlier page."),
        timeout(),
    ]),
});

/// The object that the settings name.
fn target(context: &ActionContext<'_>, input: &Value) -> ObjectTarget {
    let mut target = ObjectTarget::new(input::text(input, "connection"), input::text(input, "filename"));
    target.bucket = input.get("bucket").and_then(Value::as_str).map(str::to_owned);
    target.timeout = time_limit(context, input);
    target
}

fn shown(info: &ObjectInfo) -> Value {
    json!({
        "bucket": info.bucket,
        "filename": info.key,
        "size": info.size,
        "contentType": info.content_type,
        "etag": info.etag,
    })
}

#[async_trait]
impl Action for Download {
    fn spec(&self) -> &ActionSpec {
        &DOWNLOAD
    }

    fn effect(&self, _: &Value) -> Effect {
        Effect::Repeatable
    }

    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        let max_bytes = input.get("maxBytes").and_then(Value::as_u64).and_then(|max| usize::try_from(max).ok());
        let body = context.objects.get(target(context, &input), max_bytes.unwrap_or_default()).await;
        let body = body.map_err(|error| step_error(&error))?;
        let content = if input::text(&input, "encoding") == "base64" {
            STANDARD.encode(&body.content)
        } else {
            String::from_utf8(body.content.to_vec()).map_err(|_| {
                StepError::new(StepErrorKind::Input, "the object is no text in UTF-8: set `encoding` to `base64`")
            })?
        };
        input::check_size(content.len())?;
        let mut output = shown(&body.info);
        if let Some(members) = output.as_object_mut() {
            members.insert("content".to_owned(), content.into());
        }
        Ok(output)
    }
}

#[async_trait]
impl Action for Presign {
    fn spec(&self) -> &ActionSpec {
        &PRESIGN
    }

    fn effect(&self, _: &Value) -> Effect {
        Effect::Repeatable
    }

    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        let access = if input::text(&input, "access") == "write" { ObjectAccess::Write } else { ObjectAccess::Read };
        let expires_in = Duration::from_secs(input.get("expiresIn").and_then(Value::as_u64).unwrap_or_default());
        let presign = ObjectPresign { target: target(context, &input), access, expires_in };
        let url = context.objects.presign(presign).await.map_err(|error| step_error(&error))?;
        Ok(json!({ "url": url.url, "method": url.method, "expiresAt": url.expires.to_string() }))
    }
}

#[async_trait]
impl Action for List {
    fn spec(&self) -> &ActionSpec {
        &LIST
    }

    fn effect(&self, _: &Value) -> Effect {
        Effect::Repeatable
    }

    async fn run(&self, context: &ActionContext<'_>, input: Value) -> Result<Value, ActionError> {
        let text = |name: &str| input.get(name).and_then(Value::as_str).map(str::to_owned);
        let limit = input.get("limit").and_then(Value::as_u64).and_then(|limit| u32::try_from(limit).ok());
        let listing = ObjectListing {
            connection: input::text(&input, "connection").to_owned(),
            bucket: text("bucket"),
            prefix: text("prefix").unwrap_or_default(),
            limit: limit.unwrap_or(1_000),
            after: text("after"),
            timeout: time_limit(context, &input),
        };
        let list = context.objects.list(listing).await.map_err(|error| step_error(&error))?;
        let files = list.entries.iter().map(|entry| {
            json!({ "filename": entry.key, "size": entry.size, "etag": entry.etag, "modified": entry.modified })
        });
        let files: Vec<_> = files.collect();
        Ok(json!({ "files": files, "next": list.next }))
    }
}

/// As base64 it still fits what a step may put out.
const MAX_DOWNLOAD_BYTES: i32 = 7 << 20;

#[cfg(test)]
mod tests;
