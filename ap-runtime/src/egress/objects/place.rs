//! Where a connection's object store is, and the URLs of its objects.

use ap_core::{
    capability::ExchangeError,
    connection::{Origin, bucket_endpoint},
};
use ap_crypto::sigv4::{SigV4, encoded_key};
use secrecy::SecretString;
use url::Url;

use crate::egress::{
    credential::{CredentialUse, Place},
    server::Opened,
};

/// A bucket of a store, and the keys to it.
pub(super) struct Store<'a> {
    opened: Opened<'a>,
    /// With the bucket in its host, unless that stands in the path.
    base: Url,
    region: &'a str,
    pub(super) bucket: String,
    path_style: bool,
    access_key_id: &'a str,
    secret: &'a SecretString,
    pub(super) session_token: Option<&'a SecretString>,
}

impl<'a> Store<'a> {
    /// Reads the fields of a connection, which must be bound to where its bucket is.
    pub(super) fn of(opened: Opened<'a>, bucket: Option<&str>) -> Result<(Self, CredentialUse), ExchangeError> {
        let region = opened.clear(&["region"])?.unwrap_or("us-east-1");
        let endpoint = match opened.clear(&["endpoint"])? {
            Some(endpoint) => endpoint.to_owned(),
            None => format!("https://s3.{region}.amazonaws.com"),
        };
        let endpoint = Url::parse(&endpoint).map_err(|_| opened.wrong("its field `endpoint` is no URL"))?;
        if endpoint.path() != "/" || endpoint.query().is_some() || endpoint.fragment().is_some() {
            return Err(opened.wrong("its `endpoint` must be `https://host` or `https://host:port`, without a path"));
        }
        let bucket = match (opened.clear(&["bucket"])?, bucket) {
            // Whoever made the connection said which bucket its keys are for.
            (Some(own), Some(bucket)) if own != bucket => {
                return Err(opened.wrong(&format!("it is for the bucket `{own}`, and the request names another one")));
            }
            (Some(bucket), _) | (None, Some(bucket)) => bucket,
            (None, None) => return Err(opened.wrong("neither it nor the request names a bucket")),
        };
        if !is_bucket(bucket) {
            let reason = "a bucket has 3 to 63 lower-case letters, digits, `-` and inner `.`".to_owned();
            return Err(ExchangeError::InvalidRequest { reason });
        }
        let asked = match opened.clear(&["forcePathStyle"])? {
            None => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(_) => return Err(opened.wrong("its field `forcePathStyle` must be `true` or `false`")),
        };
        let origin_of =
            |url: &Url| Origin::of_parsed(url).ok_or_else(|| opened.wrong("its `endpoint` must be an `https` URL"));
        let in_host = bucket_endpoint(&endpoint, bucket, asked);
        let own_origin = in_host.as_ref().map(origin_of).transpose()?;
        // Bound to the endpoint alone, it reaches the bucket there, unless that was ruled out.
        let (base, origin, path_style) = match (in_host, own_origin) {
            (Some(base), Some(origin)) if asked.is_some() || opened.is_bound_to(&origin) => (base, origin, false),
            _ => {
                let origin = origin_of(&endpoint)?;
                (endpoint, origin, true)
            }
        };
        let used = opened.bound_to(&origin, Place::Signature)?;
        let access_key_id = opened.required(&["accessKeyId"])?;
        let secret = opened.secret(&["secretAccessKey"]);
        let secret = secret.ok_or_else(|| opened.wrong("it needs a secret field `secretAccessKey`"))?;
        let session_token = opened.secret(&["sessionToken"]);
        let bucket = bucket.to_owned();
        Ok((Self { opened, base, region, bucket, path_style, access_key_id, secret, session_token }, used))
    }

    /// The name of the connection.
    pub(super) fn connection(&self) -> &'a str {
        self.opened.name()
    }

    pub(super) fn signer(&self) -> Result<SigV4<'_>, ExchangeError> {
        SigV4::new(self.access_key_id, self.secret, self.session_token, self.region, "s3")
            .map_err(|error| self.opened.wrong(&error.to_string()))
    }

    /// The URL of an object, or of the bucket.
    pub(super) fn url(&self, key: Option<&str>) -> Result<Url, ExchangeError> {
        let invalid = |reason: &str| ExchangeError::InvalidRequest { reason: reason.to_owned() };
        let key = key.map(|key| {
            // URLs have no place for these segments, however they are escaped: they would lead elsewhere.
            let dots = key.split('/').any(|segment| matches!(segment, "." | ".."));
            if key.is_empty() || key.len() > MAX_KEY_BYTES || dots {
                return Err(invalid("the key of an object has 1 to 1024 bytes, and no segment that is `.` or `..`"));
            }
            Ok(encoded_key(key))
        });
        let key = key.transpose()?.unwrap_or_default();
        let mut url = self.base.clone();
        let path = if self.path_style { format!("/{}/{key}", self.bucket) } else { format!("/{key}") };
        url.set_path(&path);
        if url.path() == path { Ok(url) } else { Err(invalid("the key of the object has no form in a URL")) }
    }

    pub(super) fn wrong(&self, problem: &str) -> ExchangeError {
        self.opened.wrong(problem)
    }
}

/// Amazon's rules for the names of buckets; other stores have no wider ones.
fn is_bucket(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = name.bytes().next().is_some_and(inner) && name.bytes().last().is_some_and(inner);
    let all = name.bytes().all(|byte| inner(byte) || byte == b'-' || byte == b'.');
    (3..=63).contains(&name.len()) && ends && all && !name.contains("..")
}

/// A key as it stands in a list with `encoding-type=url`.
pub(super) fn decoded(key: &str) -> String {
    let pair = format!("{}=", key.replace('&', "%26").replace('=', "%3D"));
    url::form_urlencoded::parse(pair.as_bytes()).next().map(|(key, _)| key.into_owned()).unwrap_or_default()
}

const MAX_KEY_BYTES: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_buckets_cannot_lead_elsewhere() {
        for name in ["abc", "a-b.c1", &"a".repeat(63)] {
            assert!(is_bucket(name), "{name}");
        }
        for name in ["", "ab", "Abc", "a/b", "a..b", ".abc", "abc-", "a b", "a@b", "é12", "a%2fb", &"a".repeat(64)] {
            assert!(!is_bucket(name), "{name}");
        }
    }

    #[test]
    fn keys_in_lists_are_decoded() {
        assert_eq!(decoded("a%2Fb+c%3D%26d"), "a/b c=&d");
        assert_eq!(decoded("plain"), "plain");
    }
}
