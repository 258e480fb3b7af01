//! [`ObjectEgress`] and [`RunObjects`]: the object stores pieces get: S3, and what speaks like it.
//!
//! A connection for an object store has clear fields `accessKeyId`, perhaps `region` (`us-east-1`), `endpoint` (Amazon's for the
//! region), `bucket` (then no request may name another one) and `forcePathStyle`, and secret fields `secretAccessKey` and perhaps `sessionToken`. The keys sign requests
//! and are never sent; a session token is.

mod place;
mod xml;

use std::{fmt, sync::Arc, time::Duration};

use ap_core::{
    capability::{
        ExchangeError, HttpResponse, ObjectAccess, ObjectBody, ObjectClient, ObjectEntry, ObjectInfo, ObjectList,
        ObjectListing, ObjectPresign, ObjectPut, ObjectTarget, PresignedUrl,
    },
    time::Timestamp,
};
use ap_crypto::sigv4::{Payload, RequestToSign, SigV4Error, canonical_query};
use async_trait::async_trait;
use bytes::Bytes;
use secrecy::ExposeSecret;

use self::place::Store;
use super::{
    credential::{CredentialUse, RunCredentials},
    http::{HttpEgress, SignedRequest},
    server::{Opened, Uses, refuse_placeholders, scrub, shortened},
};
use crate::clock::{Clock, SystemClock};

/// Reads and writes objects for the runs of one runtime, over an [`HttpEgress`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ObjectEgress {
    http: HttpEgress,
    clock: Arc<dyn Clock>,
    max_object_bytes: usize,
}

impl ObjectEgress {
    /// A layer that sends through `http`: under its policy, with its trust roots.
    #[must_use]
    pub fn new(http: HttpEgress) -> Self {
        Self { http, clock: Arc::new(SystemClock), max_object_bytes: DEFAULT_MAX_OBJECT_BYTES }
    }

    /// Sets where the time of signatures comes from. Default: the machine's clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the largest object, written or read, whatever a request asks for. Unit: bytes. Default: 32 MiB.
    #[must_use]
    pub const fn with_max_object_bytes(mut self, max_object_bytes: usize) -> Self {
        self.max_object_bytes = max_object_bytes;
        self
    }

    /// The client of one attempt, with the credentials of its run.
    #[must_use]
    pub fn for_run(&self, credentials: Arc<RunCredentials>) -> RunObjects {
        RunObjects { egress: self.clone(), credentials, uses: Uses::default() }
    }
}

/// The object stores of one attempt of one run.
pub struct RunObjects {
    egress: ObjectEgress,
    credentials: Arc<RunCredentials>,
    uses: Uses,
}

/// One request to a store, before it is signed.
struct Ask<'a> {
    method: &'static str,
    key: Option<&'a str>,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    body: Option<Bytes>,
    timeout: Duration,
    max_bytes: usize,
}

impl<'a> Ask<'a> {
    const fn of(method: &'static str, key: Option<&'a str>, timeout: Duration) -> Self {
        Self { method, key, query: Vec::new(), headers: Vec::new(), body: None, timeout, max_bytes: MAX_ANSWER_BYTES }
    }
}

impl RunObjects {
    /// The credentials used since the last call, for the audit; also those of requests that failed later.
    #[must_use]
    pub fn take_uses(&self) -> Vec<CredentialUse> {
        self.uses.take()
    }

    /// Opens the store that a connection names, for a bucket.
    fn store(&self, connection: &str, bucket: Option<&str>, key: &str) -> Result<Store<'_>, ExchangeError> {
        refuse_placeholders(&self.credentials, "the name of an object", [key, bucket.unwrap_or_default()])?;
        let (store, used) = Store::of(Opened::of(&self.credentials, connection)?, bucket)?;
        self.uses.push(used);
        Ok(store)
    }

    async fn send(&self, store: &Store<'_>, ask: Ask<'_>) -> Result<HttpResponse, ExchangeError> {
        let url = store.url(ask.key)?;
        let mut headers = vec![("host".to_owned(), url.authority().to_owned())];
        headers.extend(ask.headers);
        let body = ask.body.clone().unwrap_or_default();
        let request = RequestToSign {
            method: ask.method,
            path: url.path(),
            query: &ask.query,
            headers: &headers,
            payload: Payload::Bytes(&body),
        };
        let signed = store.signer()?.sign(&request, self.egress.clock.now()).map_err(|error| unsigned(&error))?;
        let mut url = url;
        if !ask.query.is_empty() {
            url.set_query(Some(&canonical_query(&ask.query)));
        }
        headers.retain(|(name, _)| name != "host");
        let response = self.egress.http.send_signed(
            SignedRequest {
                connection: store.connection(),
                method: ask.method,
                url: url.as_str(),
                headers,
                signed,
                body: ask.body,
            },
            (ask.timeout, ask.max_bytes),
            &self.credentials,
        );
        let response = response.await?;
        if (200..300).contains(&response.status) { Ok(response) } else { Err(refusal(&response)) }
    }

    fn finish<T>(&self, outcome: Result<T, ExchangeError>) -> Result<T, ExchangeError> {
        outcome.map_err(|error| {
            let error = scrub(error, self.credentials.redactor());
            if matches!(error, ExchangeError::Refused { .. } | ExchangeError::Credential { .. }) {
                tracing::warn!(target: "ap_runtime::egress", %error, "a request to an object store was refused");
            }
            error
        })
    }

    async fn put_object(&self, put: ObjectPut) -> Result<ObjectInfo, ExchangeError> {
        let ObjectPut { target, content, content_type, encryption, acl, only_if_absent } = put;
        let limit = self.egress.max_object_bytes;
        if content.len() > limit {
            return Err(ExchangeError::TooLarge { what: "the object in bytes", limit });
        }
        if let Ok(text) = std::str::from_utf8(&content) {
            refuse_placeholders(&self.credentials, "the object", [text])?;
        }
        let content_type = content_type.unwrap_or_else(|| "application/octet-stream".to_owned());
        refuse_placeholders(&self.credentials, "the media type", [content_type.as_str()])?;
        if content_type.len() > 255 || !content_type.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(invalid(
                "the media type holds characters other than visible ASCII, or is longer than 255 bytes",
            ));
        }
        let store = self.store(&target.connection, target.bucket.as_deref(), &target.key)?;
        let mut headers = vec![("content-type".to_owned(), content_type.clone())];
        if let Some(encryption) = one_of("encryption", encryption, &ENCRYPTIONS)? {
            headers.push(("x-amz-server-side-encryption".to_owned(), encryption));
        }
        if let Some(acl) = one_of("acl", acl, &ACLS)? {
            headers.push(("x-amz-acl".to_owned(), acl));
        }
        if only_if_absent {
            headers.push(("if-none-match".to_owned(), "*".to_owned()));
        }
        let size = content.len() as u64;
        let ask = Ask::of("PUT", Some(&target.key), target.timeout);
        let response = self.send(&store, Ask { headers, body: Some(content), ..ask }).await?;
        let etag = etag_of(&response);
        Ok(ObjectInfo {
            bucket: store.bucket.to_owned(),
            key: target.key,
            size,
            content_type: Some(content_type),
            etag,
        })
    }

    async fn get_object(&self, target: ObjectTarget, max_bytes: usize) -> Result<ObjectBody, ExchangeError> {
        let store = self.store(&target.connection, target.bucket.as_deref(), &target.key)?;
        let max_bytes = max_bytes.min(self.egress.max_object_bytes);
        let ask = Ask::of("GET", Some(&target.key), target.timeout);
        let response = self.send(&store, Ask { max_bytes, ..ask }).await?;
        let size = response.body.len() as u64;
        let info = info_of(&response, &store, target.key, size);
        Ok(ObjectBody { info, content: response.body })
    }

    async fn head_object(&self, target: ObjectTarget) -> Result<Option<ObjectInfo>, ExchangeError> {
        let store = self.store(&target.connection, target.bucket.as_deref(), &target.key)?;
        match self.send(&store, Ask::of("HEAD", Some(&target.key), target.timeout)).await {
            Ok(response) => {
                let size = response.header("content-length").and_then(|size| size.parse().ok()).unwrap_or_default();
                Ok(Some(info_of(&response, &store, target.key, size)))
            }
            Err(ExchangeError::Rejected { code, .. }) if code == "404" => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn delete_object(&self, target: ObjectTarget) -> Result<(), ExchangeError> {
        let store = self.store(&target.connection, target.bucket.as_deref(), &target.key)?;
        match self.send(&store, Ask::of("DELETE", Some(&target.key), target.timeout)).await {
            Ok(_) => Ok(()),
            Err(ExchangeError::Rejected { code, .. }) if code == "NoSuchKey" => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn list_objects(&self, listing: ObjectListing) -> Result<ObjectList, ExchangeError> {
        let after = listing.after.as_deref().unwrap_or_default();
        refuse_placeholders(&self.credentials, "the place of a page", [after])?;
        let store = self.store(&listing.connection, listing.bucket.as_deref(), &listing.prefix)?;
        let limit = listing.limit.clamp(1, MAX_KEYS).to_string();
        // Keys may hold characters that XML cannot.
        let mut query = vec![("encoding-type", "url"), ("list-type", "2"), ("max-keys", limit.as_str())];
        if !listing.prefix.is_empty() {
            query.push(("prefix", &listing.prefix));
        }
        if !after.is_empty() {
            query.push(("continuation-token", after));
        }
        let query = query.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let response = self.send(&store, Ask { query, ..Ask::of("GET", None, listing.timeout) }).await?;
        let text = String::from_utf8_lossy(&response.body);
        let malformed = || ExchangeError::Interrupted { reason: "the store's list is malformed".to_owned() };
        let mut entries = Vec::new();
        for entry in xml::elements(&text, "Contents") {
            let key = xml::text(entry, "Key").ok_or_else(malformed)?;
            let size = xml::text(entry, "Size").and_then(|size| size.parse().ok()).ok_or_else(malformed)?;
            let etag = xml::text(entry, "ETag").map(|etag| etag.trim_matches('"').to_owned());
            entries.push(ObjectEntry {
                key: place::decoded(&key),
                size,
                etag,
                modified: xml::text(entry, "LastModified"),
            });
        }
        let more = xml::text(&text, "IsTruncated").is_some_and(|truncated| truncated == "true");
        Ok(ObjectList { entries, next: xml::text(&text, "NextContinuationToken").filter(|_| more) })
    }

    fn presigned(&self, presign: &ObjectPresign) -> Result<PresignedUrl, ExchangeError> {
        let target = &presign.target;
        let store = self.store(&target.connection, target.bucket.as_deref(), &target.key)?;
        if store.session_token.is_some() {
            return Err(store.wrong("a URL signed with a session token would show it"));
        }
        let mut url = store.url(Some(&target.key))?;
        self.egress.http.check_url(url.as_str())?;
        let method = match presign.access {
            ObjectAccess::Read => "GET",
            ObjectAccess::Write => "PUT",
        };
        let headers = [("host".to_owned(), url.authority().to_owned())];
        let path = url.path().to_owned();
        let request = RequestToSign { method, path: &path, query: &[], headers: &headers, payload: Payload::Unsigned };
        let now = self.egress.clock.now();
        let expires_s = u32::try_from(presign.expires_in.as_secs()).unwrap_or(u32::MAX);
        let query = store.signer()?.presign(&request, now, expires_s).map_err(|error| unsigned(&error))?;
        url.set_query(Some(query.expose_secret()));
        Ok(PresignedUrl { url: url.into(), method, expires: ends(now, expires_s) })
    }
}

#[async_trait]
impl ObjectClient for RunObjects {
    async fn put(&self, put: ObjectPut) -> Result<ObjectInfo, ExchangeError> {
        self.finish(self.put_object(put).await)
    }

    async fn get(&self, target: ObjectTarget, max_bytes: usize) -> Result<ObjectBody, ExchangeError> {
        self.finish(self.get_object(target, max_bytes).await)
    }

    async fn head(&self, target: ObjectTarget) -> Result<Option<ObjectInfo>, ExchangeError> {
        self.finish(self.head_object(target).await)
    }

    async fn delete(&self, target: ObjectTarget) -> Result<(), ExchangeError> {
        self.finish(self.delete_object(target).await)
    }

    async fn list(&self, listing: ObjectListing) -> Result<ObjectList, ExchangeError> {
        self.finish(self.list_objects(listing).await)
    }

    async fn presign(&self, presign: ObjectPresign) -> Result<PresignedUrl, ExchangeError> {
        self.finish(self.presigned(&presign))
    }
}

impl fmt::Debug for RunObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunObjects").field("egress", &self.egress).finish_non_exhaustive()
    }
}

/// What a store says when it refuses. The answer to a HEAD has no words.
fn refusal(response: &HttpResponse) -> ExchangeError {
    let text = String::from_utf8_lossy(&response.body);
    let code = xml::text(&text, "Code").unwrap_or_else(|| response.status.to_string());
    let said = xml::text(&text, "Message").unwrap_or_else(|| "it gives no reason".to_owned());
    let reason = shortened(&said);
    if LOG_IN.contains(&code.as_str()) {
        return ExchangeError::Credential {
            reason: format!("the object store refused the access key ({code}): {reason}"),
        };
    }
    if (300..400).contains(&response.status) {
        let reason = "the bucket is elsewhere: set the connection's `region` or `endpoint`".to_owned();
        return ExchangeError::Rejected { code, reason, transient: false };
    }
    let transient = matches!(response.status, 408 | 429 | 500..=599);
    ExchangeError::Rejected { code, reason, transient }
}

fn info_of(response: &HttpResponse, store: &Store<'_>, key: String, size: u64) -> ObjectInfo {
    let content_type = response.header("content-type").map(str::to_owned);
    ObjectInfo { bucket: store.bucket.to_owned(), key, size, content_type, etag: etag_of(response) }
}

fn etag_of(response: &HttpResponse) -> Option<String> {
    response.header("etag").map(|etag| etag.trim_matches('"').to_owned())
}

fn one_of(name: &str, value: Option<String>, allowed: &[&str]) -> Result<Option<String>, ExchangeError> {
    match value {
        Some(value) if !allowed.contains(&value.as_str()) => {
            Err(invalid(&format!("`{name}` must be one of {}", allowed.join(", "))))
        }
        value => Ok(value),
    }
}

fn ends(now: Timestamp, expires_s: u32) -> Timestamp {
    // The signature counts whole seconds.
    let whole = Timestamp::from_millis(now.as_millis().div_euclid(1_000) * 1_000);
    whole.saturating_add(Duration::from_secs(expires_s.into()))
}

fn unsigned(error: &SigV4Error) -> ExchangeError {
    invalid(&format!("the request cannot be signed: {error}"))
}

fn invalid(reason: &str) -> ExchangeError {
    ExchangeError::InvalidRequest { reason: reason.to_owned() }
}

const DEFAULT_MAX_OBJECT_BYTES: usize = 32 << 20;
/// Of everything that is no object: lists and errors.
const MAX_ANSWER_BYTES: usize = 8 << 20;
const MAX_KEYS: u32 = 1_000;
const ENCRYPTIONS: [&str; 3] = ["AES256", "aws:kms", "aws:kms:dsse"];
/// None that makes an object public: that is for the owner of the bucket to say, in its policy.
const ACLS: [&str; 3] = ["bucket-owner-full-control", "bucket-owner-read", "private"];
/// Codes that say that the key is at fault, not what it may do.
const LOG_IN: [&str; 5] =
    ["AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"];
