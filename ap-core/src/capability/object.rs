//! [`ObjectClient`]: objects in an object store.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use super::ExchangeError;
use crate::time::Timestamp;

/// Reads and writes objects of the S3-compatible store that a connection names.
#[async_trait]
pub trait ObjectClient: fmt::Debug + Send + Sync {
    /// Writes an object, in the place of the one that is there.
    ///
    /// # Errors
    /// [`ExchangeError`] says who must act.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; the object is the old or the new one.
    async fn put(&self, put: ObjectPut) -> Result<ObjectInfo, ExchangeError>;

    /// Reads an object of at most `max_bytes`.
    ///
    /// # Errors
    /// As [`ObjectClient::put`]; `NoSuchKey` if there is none.
    async fn get(&self, target: ObjectTarget, max_bytes: usize) -> Result<ObjectBody, ExchangeError>;

    /// What is known of an object without its bytes; `None` if there is none.
    ///
    /// # Errors
    /// As [`ObjectClient::put`].
    async fn head(&self, target: ObjectTarget) -> Result<Option<ObjectInfo>, ExchangeError>;

    /// Deletes an object; one that is not there is deleted already.
    ///
    /// # Errors
    /// As [`ObjectClient::put`].
    async fn delete(&self, target: ObjectTarget) -> Result<(), ExchangeError>;

    /// Names objects of a bucket, a page at a time.
    ///
    /// # Errors
    /// As [`ObjectClient::put`].
    async fn list(&self, listing: ObjectListing) -> Result<ObjectList, ExchangeError>;

    /// Makes a URL that does one thing with one object until it expires, whoever has it. Nothing is sent.
    ///
    /// # Errors
    /// As [`ObjectClient::put`]; a connection with a session token is refused, since the URL would show it.
    async fn presign(&self, presign: ObjectPresign) -> Result<PresignedUrl, ExchangeError>;
}

/// Which object.
#[derive(Clone)]
pub struct ObjectTarget {
    /// Placeholder text of the connection: which store, as whom.
    pub connection: String,
    /// The bucket. Default: the connection's own.
    pub bucket: Option<String>,
    /// The key: 1 to 1,024 bytes.
    pub key: String,
    /// Longest time for the exchange. Accepted: 1 ms to 10 min, clamped.
    pub timeout: Duration,
}

impl ObjectTarget {
    /// The object `key` in the connection's own bucket, within 30 s.
    pub fn new(connection: impl Into<String>, key: impl Into<String>) -> Self {
        Self { connection: connection.into(), bucket: None, key: key.into(), timeout: Duration::from_secs(30) }
    }
}

impl fmt::Debug for ObjectTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectTarget").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// An object to be written.
#[derive(Clone, Debug)]
pub struct ObjectPut {
    /// Where.
    pub target: ObjectTarget,
    /// The bytes.
    pub content: Bytes,
    /// Its media type. Default: `application/octet-stream`.
    pub content_type: Option<String>,
    /// Encryption by the store: `AES256` or `aws:kms`. Default: the bucket's own.
    pub encryption: Option<String>,
    /// A canned access list, such as `private`. Default: none is sent, so the bucket's own.
    pub acl: Option<String>,
    /// Whether an object that is there already is an error (`If-None-Match: *`). Default: false.
    pub only_if_absent: bool,
}

impl ObjectPut {
    /// Writes `content`, with the store's own defaults.
    #[must_use]
    pub const fn new(target: ObjectTarget, content: Bytes) -> Self {
        Self { target, content, content_type: None, encryption: None, acl: None, only_if_absent: false }
    }
}

/// What is known of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Its size. Unit: bytes.
    pub size: u64,
    /// Its media type, where the store says so.
    pub content_type: Option<String>,
    /// What changes with its content, without quotes, where the store says so.
    pub etag: Option<String>,
}

/// An object with its bytes.
#[derive(Clone)]
pub struct ObjectBody {
    /// What is known of it.
    pub info: ObjectInfo,
    /// The bytes, scrubbed.
    pub content: Bytes,
}

impl fmt::Debug for ObjectBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectBody").field("bytes", &self.content.len()).finish_non_exhaustive()
    }
}

/// Which objects are to be named.
#[derive(Clone)]
pub struct ObjectListing {
    /// Placeholder text of the connection.
    pub connection: String,
    /// The bucket. Default: the connection's own.
    pub bucket: Option<String>,
    /// What their keys start with; empty for all.
    pub prefix: String,
    /// Most keys. Accepted: 1 to 1,000, clamped.
    pub limit: u32,
    /// Where an earlier page ended.
    pub after: Option<String>,
    /// Longest time for the exchange. Accepted: 1 ms to 10 min, clamped.
    pub timeout: Duration,
}

impl fmt::Debug for ObjectListing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectListing").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// One page of objects, in order of key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectList {
    /// The objects.
    pub entries: Vec<ObjectEntry>,
    /// What to ask with for the next page, if there is one.
    pub next: Option<String>,
}

/// One object in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEntry {
    /// Its key.
    pub key: String,
    /// Its size. Unit: bytes.
    pub size: u64,
    /// What changes with its content, without quotes.
    pub etag: Option<String>,
    /// When it was written, as the store says it.
    pub modified: Option<String>,
}

/// A URL to be made.
#[derive(Clone, Debug)]
pub struct ObjectPresign {
    /// Which object; its timeout plays no part.
    pub target: ObjectTarget,
    /// What the URL does.
    pub access: ObjectAccess,
    /// How long it lasts. Accepted: 1 s to 7 days.
    pub expires_in: Duration,
}

/// What a presigned URL does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectAccess {
    /// `GET`: reads the object.
    Read,
    /// `PUT`: writes the object.
    Write,
}

/// A URL that is a credential for as long as it lasts.
#[derive(Clone, PartialEq, Eq)]
pub struct PresignedUrl {
    /// The URL.
    pub url: String,
    /// `GET` or `PUT`.
    pub method: &'static str,
    /// When it ends.
    pub expires: Timestamp,
}

impl fmt::Debug for PresignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresignedUrl")
            .field("method", &self.method)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}
