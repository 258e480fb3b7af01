//! Where a bucket of an object store is.

use url::{Host, Url};

/// The endpoint with the bucket in its host: `https://bucket.s3.eu-west-1.amazonaws.com`.
///
/// `None` if the bucket stands in the path: where `path_style` says so or, if it says nothing, everywhere but at Amazon; at an
/// address, which has no names below it; and for a bucket with a dot, since a wildcard certificate covers one label.
#[must_use]
pub fn bucket_endpoint(endpoint: &Url, bucket: &str, path_style: Option<bool>) -> Option<Url> {
    let Some(Host::Domain(host)) = endpoint.host() else { return None };
    let in_path = path_style.unwrap_or(!host.ends_with(".amazonaws.com"));
    let plain = !bucket.is_empty() && bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if in_path || !plain {
        return None;
    }
    let mut url = endpoint.clone();
    url.set_host(Some(&format!("{bucket}.{host}"))).ok()?;
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_the_host_where_it_has_names() {
        let found = |endpoint: &str, bucket: &str, path_style| {
            bucket_endpoint(&Url::parse(endpoint).expect("a URL"), bucket, path_style).map(String::from)
        };
        let amazon = "https://s3.eu-west-1.amazonaws.com";
        assert_eq!(found(amazon, "a-b", None).as_deref(), Some("https://a-b.s3.eu-west-1.amazonaws.com/"));
        assert_eq!(found("https://s3.example:8443", "a", Some(false)).as_deref(), Some("https://a.s3.example:8443/"));
        for (endpoint, bucket, path_style) in [
            (amazon, "a", Some(true)),
            (amazon, "a.b", None),
            (amazon, "a.b", Some(false)),
            (amazon, "", None),
            (amazon, "a@b", None),
            ("https://s3.example", "a", None),
            ("https://127.0.0.1", "a", Some(false)),
            ("https://[::1]", "a", Some(false)),
            ("https://amazonaws.com.example", "a", None),
        ] {
            assert_eq!(found(endpoint, bucket, path_style), None, "{endpoint} {bucket} {path_style:?}");
        }
    }
}
