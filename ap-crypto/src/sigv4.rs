//! AWS Signature Version 4: signing requests of S3, KMS and every service that speaks like them. Pure: no clock, no I/O.
//!
//! What is signed is what must be sent: put [`canonical_query`] on the wire as the query, and the fields that
//! [`SigV4::sign`] returns into the head.

use std::{fmt, fmt::Write};

use ap_core::time::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{hex::push_hex, signature::hmac_sha256};

/// Who signs, and for which service in which region.
///
/// # Examples
/// ```
/// use ap_crypto::sigv4::{Payload, RequestToSign, SigV4};
///
/// let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into();
/// let signer = SigV4::new("AKIDEXAMPLE", &secret, None, "us-east-1", "service")?;
/// let request = RequestToSign {
///     method: "GET",
///     path: "/",
///     query: &[],
///     headers: &[("host".to_owned(), "example.amazonaws.com".to_owned())],
///     payload: Payload::Bytes(b""),
/// };
/// let added = signer.sign(&request, "2015-08-30T12:36:00Z".parse()?)?;
/// assert_eq!(added[0].0, "x-amz-date");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct SigV4<'a> {
    access_key_id: &'a str,
    secret: &'a SecretString,
    session_token: Option<&'a SecretString>,
    region: &'a str,
    service: &'a str,
}

/// A request as it will be sent, but for what signing adds.
#[derive(Clone, Copy)]
pub struct RequestToSign<'a> {
    /// The method, in upper case.
    pub method: &'a str,
    /// The path as it stands in the request line, percent escapes and all.
    pub path: &'a str,
    /// Names and values of the query, decoded. Send them as [`canonical_query`] writes them.
    pub query: &'a [(String, String)],
    /// The fields to sign; `host` must be one, and every `x-amz-…` field must be. Names of any case.
    pub headers: &'a [(String, String)],
    /// The body.
    pub payload: Payload<'a>,
}

/// What of a body is signed.
#[derive(Clone, Copy)]
pub enum Payload<'a> {
    /// The hash of these bytes.
    Bytes(&'a [u8]),
    /// Nothing: S3 takes that over TLS, and in presigned URLs it is the rule.
    Unsigned,
}

/// A head field that signing adds: its name in lower case, and its value.
pub type SignedField = (&'static str, SecretString);

impl<'a> SigV4<'a> {
    /// Who signs: an access key, with the session token where it is a temporary one.
    ///
    /// # Errors
    /// [`SigV4Error::Scope`] if key id, region or service is empty or holds anything but visible ASCII without `/` and `,`.
    pub fn new(
        access_key_id: &'a str,
        secret: &'a SecretString,
        session_token: Option<&'a SecretString>,
        region: &'a str,
        service: &'a str,
    ) -> Result<Self, SigV4Error> {
        for (part, text) in [("access key id", access_key_id), ("region", region), ("service", service)] {
            let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b',');
            if text.is_empty() || text.len() > MAX_SCOPE_BYTES || !plain {
                return Err(SigV4Error::Scope { part });
            }
        }
        Ok(Self { access_key_id, secret, session_token, region, service })
    }

    /// The fields to add to the head: `x-amz-date`, for S3 `x-amz-content-sha256`, `x-amz-security-token` of a session, and
    /// `authorization` last. The request must not have them yet.
    ///
    /// # Errors
    /// [`SigV4Error`] says what the request lacks.
    pub fn sign(&self, request: &RequestToSign<'_>, at: Timestamp) -> Result<Vec<SignedField>, SigV4Error> {
        let time = Time::at(at)?;
        let hash = payload_hash(request.payload);
        let mut added: Vec<SignedField> = vec![("x-amz-date", time.full.clone().into())];
        if self.is_s3() {
            added.push(("x-amz-content-sha256", hash.clone().into()));
        }
        if let Some(token) = self.session_token {
            added.push(("x-amz-security-token", token.clone()));
        }
        let head = Head::of(request.headers, &added)?;
        let canonical = self.canonical(request, &canonical_query(request.query), &head, &hash);
        let signature = self.signature(&canonical, &time);
        let authorization = format!(
            "{ALGORITHM} Credential={}/{}, SignedHeaders={}, Signature={signature}",
            self.access_key_id,
            self.scope(&time),
            head.names
        );
        added.push(("authorization", authorization.into()));
        Ok(added)
    }

    /// The query of a URL that does what the request says for `expires_s` seconds, whoever has it; headers of the request
    /// must be sent along as they were signed.
    ///
    /// # Errors
    /// [`SigV4Error::Expiry`] for anything but 1 second to 7 days, or as [`SigV4::sign`].
    ///
    /// # Security
    /// Such a URL is a credential for as long as it lasts.
    pub fn presign(
        &self,
        request: &RequestToSign<'_>,
        at: Timestamp,
        expires_s: u32,
    ) -> Result<SecretString, SigV4Error> {
        if !(1..=MAX_EXPIRY_S).contains(&expires_s) {
            return Err(SigV4Error::Expiry);
        }
        let time = Time::at(at)?;
        let head = Head::of(request.headers, &[])?;
        let mut query = request.query.to_vec();
        if query.iter().any(|(name, _)| name.to_ascii_lowercase().starts_with("x-amz-")) {
            return Err(SigV4Error::Occupied);
        }
        let mut add = |name: &str, value: String| query.push((name.to_owned(), value));
        add("X-Amz-Algorithm", ALGORITHM.to_owned());
        add("X-Amz-Credential", format!("{}/{}", self.access_key_id, self.scope(&time)));
        add("X-Amz-Date", time.full.clone());
        add("X-Amz-Expires", expires_s.to_string());
        if let Some(token) = self.session_token {
            add("X-Amz-Security-Token", token.expose_secret().to_owned());
        }
        add("X-Amz-SignedHeaders", head.names.clone());
        let query = canonical_query(&query);
        let canonical = self.canonical(request, &query, &head, &payload_hash(request.payload));
        let signature = self.signature(&canonical, &time);
        Ok(format!("{query}&X-Amz-Signature={signature}").into())
    }

    fn is_s3(&self) -> bool {
        self.service == "s3"
    }

    fn scope(&self, time: &Time) -> String {
        format!("{}/{}/{}/aws4_request", time.date(), self.region, self.service)
    }

    fn canonical(&self, request: &RequestToSign<'_>, query: &str, head: &Head, hash: &str) -> Zeroizing<String> {
        let path = if self.is_s3() { encoded_once(request.path) } else { encoded_again(request.path) };
        let lines = [request.method, &path, query, &*head.lines, &head.names, hash];
        Zeroizing::new(lines.join("\n")) // measured first, so it does not grow
    }

    fn signature(&self, canonical: &str, time: &Time) -> String {
        let digest = hex(&Sha256::digest(canonical.as_bytes()));
        let to_sign = format!("{ALGORITHM}\n{}\n{}\n{digest}", time.full, self.scope(time));
        let mut secret = Zeroizing::new(Vec::with_capacity(self.secret.expose_secret().len() + 4));
        secret.extend_from_slice(b"AWS4");
        secret.extend_from_slice(self.secret.expose_secret().as_bytes());
        let mut key = Zeroizing::new(hmac_sha256(&secret, &[time.date().as_bytes()]));
        for part in [self.region, self.service, "aws4_request"] {
            key = Zeroizing::new(hmac_sha256(&*key, &[part.as_bytes()]));
        }
        hex(&hmac_sha256(&*key, &[to_sign.as_bytes()]))
    }
}

impl fmt::Debug for SigV4<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigV4").field("region", &self.region).field("service", &self.service).finish_non_exhaustive()
    }
}

impl fmt::Debug for RequestToSign<'_> {
    /// Prints method and sizes: the rest may hold private data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestToSign")
            .field("method", &self.method)
            .field("headers", &self.headers.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Payload::Bytes({} bytes)", bytes.len()),
            Self::Unsigned => f.write_str("Payload::Unsigned"),
        }
    }
}

/// Why a request cannot be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SigV4Error {
    /// A presigned URL that would last too long, or not at all.
    #[error("a presigned URL lasts 1 second to 7 days")]
    Expiry,
    /// There is no `host` field to sign.
    #[error("the request has no `host` field to sign")]
    Host,
    /// The request sets what signing sets.
    #[error("the request already sets a field or parameter that signing adds")]
    Occupied,
    /// A part of the credential's scope cannot be.
    #[error("the {part} must be 1 to 128 visible ASCII characters without `/` and `,`")]
    Scope {
        /// Which part.
        part: &'static str,
    },
    /// A time outside the years 0 to 9999.
    #[error("the time has no form in a signature")]
    Time,
}

/// The query with every name and value percent-encoded, in the order that is signed. Empty without parameters.
#[must_use]
pub fn canonical_query(parameters: &[(String, String)]) -> String {
    let mut pairs: Vec<_> =
        parameters.iter().map(|(name, value)| (encoded(name.as_bytes()), encoded(value.as_bytes()))).collect();
    pairs.sort();
    let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// One segment of a path, percent-encoded as S3 expects it: everything but RFC 3986's unreserved characters, and `/` kept.
#[must_use]
pub fn encoded_key(key: &str) -> String {
    let segments: Vec<_> = key.split('/').map(|segment| encoded(segment.as_bytes())).collect();
    segments.join("/")
}

/// `YYYYMMDDTHHMMSSZ`.
struct Time {
    full: String,
}

impl Time {
    fn at(at: Timestamp) -> Result<Self, SigV4Error> {
        let text = at.to_string();
        let seconds = text.split(['.', 'Z']).next().unwrap_or_default();
        let full: String = seconds.chars().filter(|char| !matches!(char, '-' | ':')).chain(['Z']).collect();
        // `-` also stands before years of another era.
        let fits = full.len() == "20150830T123600Z".len() && !text.starts_with('-');
        fits.then_some(Self { full }).ok_or(SigV4Error::Time)
    }

    fn date(&self) -> &str {
        self.full.split('T').next().unwrap_or_default()
    }
}

/// The signed fields: their lines, in which credentials may stand, and their names joined by `;`.
struct Head {
    lines: Zeroizing<String>,
    names: String,
}

impl Head {
    fn of(fields: &[(String, String)], added: &[SignedField]) -> Result<Self, SigV4Error> {
        let mut named: Vec<(String, Vec<Zeroizing<String>>)> = Vec::new();
        let own = fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), folded(value)));
        for (name, value) in own {
            if name == "authorization" || added.iter().any(|(taken, _)| *taken == name) {
                return Err(SigV4Error::Occupied);
            }
            match named.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => values.push(value),
                None => named.push((name, vec![value])),
            }
        }
        let added = added.iter().map(|(name, value)| ((*name).to_owned(), vec![folded(value.expose_secret())]));
        named.extend(added);
        named.sort_by(|(one, _), (other, _)| one.cmp(other));
        if !named.iter().any(|(name, _)| name == "host") {
            return Err(SigV4Error::Host);
        }
        let names: Vec<_> = named.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let parts = |values: &[Zeroizing<String>]| values.iter().map(|value| 1 + value.len()).sum::<usize>();
        let length = named.iter().map(|(name, values)| name.len() + parts(values) + 1).sum();
        let mut lines = Zeroizing::new(String::with_capacity(length));
        for (name, values) in &named {
            lines.push_str(name);
            for (index, value) in values.iter().enumerate() {
                lines.push(if index == 0 { ':' } else { ',' });
                lines.push_str(value);
            }
            lines.push('\n');
        }
        Ok(Self { lines, names })
    }
}

/// Without white space around, and runs of it inside as one space.
fn folded(value: &str) -> Zeroizing<String> {
    let words: Vec<_> = value.split_ascii_whitespace().collect();
    Zeroizing::new(words.join(" "))
}

fn payload_hash(payload: Payload<'_>) -> String {
    match payload {
        Payload::Bytes(bytes) => hex(&Sha256::digest(bytes)),
        Payload::Unsigned => "UNSIGNED-PAYLOAD".to_owned(),
    }
}

/// The path of any service but S3: without `.`, `..` and empty segments, and encoded once more than it is sent.
fn encoded_again(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    let directory = !kept.is_empty() && ["/", "/.", "/.."].iter().any(|end| path.ends_with(end));
    let encoded: Vec<_> = kept.into_iter().map(|segment| encoded(segment.as_bytes())).collect();
    format!("/{}{}", encoded.join("/"), if directory { "/" } else { "" })
}

/// S3's path: as it is sent, in the one spelling that is signed.
fn encoded_once(path: &str) -> String {
    let path = if path.is_empty() { "/" } else { path };
    let segments: Vec<_> = path.split('/').map(|segment| encoded(&percent_decoded(segment))).collect();
    segments.join("/")
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let pair = tail.first_chunk::<2>().filter(|_| *first == b'%');
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
        match pair.and_then(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)) {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// Everything but RFC 3986's unreserved characters as `%XX`.
fn encoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    push_hex(bytes, &mut text);
    text
}

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const MAX_EXPIRY_S: u32 = 7 * 24 * 3600;
const MAX_SCOPE_BYTES: usize = 128;

#[cfg(test)]
mod tests;
