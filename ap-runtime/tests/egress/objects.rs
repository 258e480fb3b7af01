//! An object store that checks signatures as Amazon does, and misbehaves when told to.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use ap_core::{
    capability::{ExchangeError, ObjectAccess, ObjectClient, ObjectListing, ObjectPresign, ObjectPut, ObjectTarget},
    time::Timestamp,
};
use ap_crypto::sigv4::{Payload, RequestToSign, SigV4};
use ap_runtime::{
    clock::{Clock, SystemClock},
    egress::{
        credential::{Place, RunCredentials},
        guard::Guard,
        http::HttpEgress,
        objects::{ObjectEgress, RunObjects},
    },
};
use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use url::form_urlencoded;

use super::support::{CANARY, Untouched, closed, placeholder, plain_loopback, run, run_bound};

/// What a store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Refuses, and repeats the key, as text of every kind.
    Echoes,
    /// Sends elsewhere.
    Redirects,
}

/// A request as it came.
struct Got {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, wanted: &str) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    fn parameter(&self, wanted: &str) -> Option<&str> {
        self.query.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    /// Whether it is signed with the key of the tests, in the head or in the query.
    fn is_genuine(&self) -> bool {
        let secret: SecretString = CANARY.into();
        let signer = SigV4::new("AKIDEXAMPLE", &secret, None, "eu-west-1", "s3").expect("a signer");
        let signed = |names: &str| -> Vec<(String, String)> {
            let names: Vec<_> = names.split(';').collect();
            let own = ["x-amz-date", "x-amz-content-sha256"];
            let chosen = self.headers.iter().filter(|(name, _)| names.contains(&name.as_str()));
            chosen.filter(|(name, _)| !own.contains(&name.as_str())).cloned().collect()
        };
        if let Some(signature) = self.parameter("X-Amz-Signature") {
            let query: Vec<_> = self.query.iter().filter(|(name, _)| !name.starts_with("X-Amz-")).cloned().collect();
            let headers = signed(self.parameter("X-Amz-SignedHeaders").expect("signed headers"));
            let (method, path) = (self.method.as_str(), self.path.as_str());
            let request = RequestToSign { method, path, query: &query, headers: &headers, payload: Payload::Unsigned };
            let expires = self.parameter("X-Amz-Expires").and_then(|text| text.parse().ok()).expect("a number");
            let expected = signer.presign(&request, time(self.parameter("X-Amz-Date").expect("a date")), expires);
            return expected.expect("signed").expose_secret().ends_with(signature);
        }
        let hash: String = Sha256::digest(&self.body).iter().map(|byte| format!("{byte:02x}")).collect();
        let Some(authorization) = self.header("authorization") else { return false };
        let names =
            authorization.split("SignedHeaders=").nth(1).and_then(|rest| rest.split(',').next()).expect("names");
        let headers = signed(names);
        let request = RequestToSign {
            method: &self.method,
            path: &self.path,
            query: &self.query,
            headers: &headers,
            payload: Payload::Bytes(&self.body),
        };
        let fields = signer.sign(&request, time(self.header("x-amz-date").expect("a date"))).expect("signed");
        let expected = fields.last().map(|(_, value)| value.expose_secret().to_owned());
        // Every field of Amazon's is signed, so none can be added on the way.
        let all = self
            .headers
            .iter()
            .filter(|(name, _)| name.starts_with("x-amz-"))
            .all(|(name, _)| names.contains(name.as_str()));
        all && self.header("x-amz-content-sha256") == Some(hash.as_str()) && expected.as_deref() == Some(authorization)
    }
}

/// `20150830T123600Z`.
fn time(text: &str) -> Timestamp {
    let part = |from: usize, to: usize| &text[from..to];
    format!("{}-{}-{}T{}:{}:{}Z", part(0, 4), part(4, 6), part(6, 8), part(9, 11), part(11, 13), part(13, 15))
        .parse()
        .expect("a time")
}

#[derive(Default)]
struct Kept {
    objects: BTreeMap<String, (Vec<u8>, String)>,
    requests: Vec<String>,
    last_headers: Vec<(String, String)>,
}

pub(crate) struct Store {
    port: u16,
    kept: Arc<Mutex<Kept>>,
}

impl Store {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let kept = Arc::new(Mutex::new(Kept::default()));
        let inside = Arc::clone(&kept);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&inside);
                tokio::spawn(async move { serve(stream, manner, &kept).await });
            }
        });
        Self { port, kept }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn credentials(&self) -> Arc<RunCredentials> {
        let endpoint = self.endpoint();
        let clear = [
            ("endpoint", endpoint.as_str()),
            ("region", "eu-west-1"),
            ("bucket", "own-bucket"),
            ("accessKeyId", "AKIDEXAMPLE"),
        ];
        run(&clear, &[("secretAccessKey", CANARY)])
    }

    fn objects(&self) -> RunObjects {
        objects(plain_loopback()).for_run(self.credentials())
    }

    fn requests(&self) -> Vec<String> {
        self.kept.lock().expect("not poisoned").requests.clone()
    }
}

fn objects(guard: Guard) -> ObjectEgress {
    ObjectEgress::new(HttpEgress::builder(guard).build().expect("built"))
}

async fn serve(mut stream: TcpStream, manner: Manner, kept: &Mutex<Kept>) {
    while let Some(got) = receive(&mut stream).await {
        let reply = answer(&got, manner, kept);
        if stream.write_all(&reply).await.is_err() {
            return;
        }
    }
}

async fn receive(stream: &mut TcpStream) -> Option<Got> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).expect("ASCII");
            let mut lines = head.lines();
            let mut first = lines.next()?.split(' ');
            let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
            let headers: Vec<_> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let length = headers
                .iter()
                .find(|(name, _)| name == "content-length")
                .and_then(|(_, length)| length.parse().ok())
                .unwrap_or(0);
            let body = &bytes[end + 4..];
            if body.len() >= length {
                let (path, query) = target.split_once('?').unwrap_or((&target, ""));
                let query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
                return Some(Got { method, path: path.to_owned(), query, headers, body: body[..length].to_vec() });
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(length) if length > 0 => bytes.extend_from_slice(&chunk[..length]),
            _ => return None,
        }
    }
}

fn reply(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn error(status: &str, code: &str, message: &str) -> Vec<u8> {
    reply(
        status,
        "content-type: application/xml\r\n",
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"),
    )
}

fn answer(got: &Got, manner: Manner, kept: &Mutex<Kept>) -> Vec<u8> {
    let mut kept = kept.lock().expect("not poisoned");
    kept.requests.push(format!("{} {}", got.method, got.path));
    kept.last_headers.clone_from(&got.headers);
    if !got.is_genuine() {
        return error("403 Forbidden", "SignatureDoesNotMatch", "not signed with that key");
    }
    match manner {
        Manner::Honest => {}
        Manner::Echoes => {
            let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
            return error(
                "403 Forbidden",
                "InvalidAccessKeyId",
                &format!("{CANARY} {hex} {}", CANARY.replace('+', "%2B")),
            );
        }
        Manner::Redirects => return reply("307 Temporary Redirect", "location: http://127.0.0.1:1/\r\n", ""),
    }
    let missing = || {
        if got.method == "HEAD" {
            reply("404 Not Found", "", "")
        } else {
            error("404 Not Found", "NoSuchKey", "no such key")
        }
    };
    match got.method.as_str() {
        "PUT" if got.header("if-none-match") == Some("*") && kept.objects.contains_key(&got.path) => {
            error("412 Precondition Failed", "PreconditionFailed", "it exists")
        }
        "PUT" => {
            let kind = got.header("content-type").unwrap_or_default().to_owned();
            kept.objects.insert(got.path.clone(), (got.body.clone(), kind));
            reply("200 OK", "etag: \"abc\"\r\n", "")
        }
        "GET" if got.parameter("list-type") == Some("2") => {
            let prefix = format!("{}{}", got.path, got.parameter("prefix").unwrap_or_default());
            let after = got.parameter("continuation-token").unwrap_or_default();
            let max: usize = got.parameter("max-keys").and_then(|max| max.parse().ok()).unwrap_or(1_000);
            let all: Vec<_> =
                kept.objects.iter().filter(|(path, _)| path.starts_with(&prefix) && path.as_str() > after).collect();
            let mut xml = String::from("<ListBucketResult>");
            for (path, (body, _)) in all.iter().take(max) {
                let key = path.strip_prefix(&got.path).unwrap_or_default();
                xml.push_str(&format!(
                    "<Contents><Key>{key}</Key><Size>{}</Size><ETag>&quot;abc&quot;</ETag></Contents>",
                    body.len()
                ));
            }
            let more = all.len() > max;
            let next = if more {
                format!("<NextContinuationToken>{}</NextContinuationToken>", all[max - 1].0)
            } else {
                String::new()
            };
            reply("200 OK", "", format!("{xml}<IsTruncated>{more}</IsTruncated>{next}</ListBucketResult>"))
        }
        "GET" | "HEAD" => match kept.objects.get(&got.path) {
            Some((body, kind)) => {
                let headers = format!("content-type: {kind}\r\netag: \"abc\"\r\n");
                let full = reply("200 OK", &headers, body);
                if got.method == "HEAD" { full[..full.len() - body.len()].to_vec() } else { full }
            }
            None => missing(),
        },
        "DELETE" => {
            kept.objects.remove(&got.path);
            reply("204 No Content", "", "")
        }
        _ => reply("405 Method Not Allowed", "", ""),
    }
}

fn target(key: &str) -> ObjectTarget {
    ObjectTarget::new(placeholder(), key)
}

#[tokio::test]
async fn objects_are_written_read_listed_and_deleted() {
    let store = Store::start(Manner::Honest).await;
    let objects = store.objects();
    let key = "ordner/a b+c~ü&=?#%.txt";
    let put = ObjectPut {
        content_type: Some("text/plain".to_owned()),
        encryption: Some("AES256".to_owned()),
        acl: Some("private".to_owned()),
        ..ObjectPut::new(target(key), Bytes::from_static(b"content"))
    };
    let info = objects.put(put.clone()).await.expect("written");
    assert_eq!(
        (info.bucket.as_str(), info.key.as_str(), info.size, info.etag.as_deref()),
        ("own-bucket", key, 7, Some("abc"))
    );
    let sent = store.kept.lock().expect("not poisoned").last_headers.clone();
    for (name, value) in
        [("x-amz-server-side-encryption", "AES256"), ("x-amz-acl", "private"), ("content-type", "text/plain")]
    {
        assert!(sent.contains(&(name.to_owned(), value.to_owned())), "{name}");
    }
    assert!(!format!("{sent:?}").contains(CANARY));
    assert_eq!(store.requests(), ["PUT /own-bucket/ordner/a%20b%2Bc~%C3%BC%26%3D%3F%23%25.txt"]);
    let body = objects.get(target(key), 7).await.expect("read");
    assert_eq!((&body.content[..], body.info.content_type.as_deref()), (&b"content"[..], Some("text/plain")));
    assert!(matches!(objects.get(target(key), 6).await, Err(ExchangeError::TooLarge { limit: 6, .. })));
    assert_eq!(objects.head(target(key)).await.expect("asked").map(|info| info.size), Some(7));
    let again = objects.put(ObjectPut { only_if_absent: true, ..put }).await.expect_err("it exists");
    assert!(
        matches!(&again, ExchangeError::Rejected { code, transient: false, .. } if code == "PreconditionFailed"),
        "{again:?}"
    );
    // To name it is to name no other.
    let own = ObjectTarget { bucket: Some("own-bucket".to_owned()), ..target("x") };
    objects.put(ObjectPut::new(own, Bytes::new())).await.expect("written");
    for number in 0..3 {
        objects.put(ObjectPut::new(target(&format!("n/{number}")), Bytes::from_static(b"x"))).await.expect("written");
    }
    let list = async |prefix: &str, limit, after| {
        let listing = ObjectListing {
            connection: placeholder(),
            bucket: None,
            prefix: prefix.to_owned(),
            limit,
            after,
            timeout: Duration::from_secs(5),
        };
        objects.list(listing).await.expect("listed")
    };
    let first = list("n/", 2, None).await;
    assert_eq!(first.entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["n/0", "n/1"]);
    let second = list("n/", 2, first.next.clone()).await;
    assert_eq!((second.entries.len(), second.entries[0].key.as_str(), second.next), (1, "n/2", None));
    assert_eq!(list("ordner/", 9, None).await.entries[0].key, key);
    for _ in 0..2 {
        objects.delete(target(key)).await.expect("deleted");
    }
    assert_eq!(objects.head(target(key)).await, Ok(None));
    let missing = objects.get(target(key), 10).await.expect_err("gone");
    assert!(matches!(&missing, ExchangeError::Rejected { code, .. } if code == "NoSuchKey"), "{missing:?}");
    let uses = objects.take_uses();
    assert!(uses.len() > 10 && uses.iter().all(|used| used.place == Place::Signature && used.name == "peer"));
}

#[tokio::test]
async fn presigned_urls_do_one_thing_for_a_while() {
    let store = Store::start(Manner::Honest).await;
    let objects = store.objects();
    objects.put(ObjectPut::new(target("a b"), Bytes::from_static(b"content"))).await.expect("written");
    let presign =
        |access, seconds| ObjectPresign { target: target("a b"), access, expires_in: Duration::from_secs(seconds) };
    let url = objects.presign(presign(ObjectAccess::Read, 60)).await.expect("signed");
    assert!(url.method == "GET" && !url.url.contains(CANARY));
    let left = url.expires.saturating_since(SystemClock.now());
    assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");
    let fetch = async |method: &str, url: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", store.port)).await.expect("connected");
        let target = url.strip_prefix(&format!("http://127.0.0.1:{}", store.port)).expect("the store's");
        let request = format!("{method} {target} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n\r\n", store.port);
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut reply = [0; 4096];
        let length = stream.read(&mut reply).await.expect("answered");
        String::from_utf8_lossy(&reply[..length]).into_owned()
    };
    assert!(fetch("GET", &url.url).await.ends_with("content"));
    for altered in [url.url.replace("Expires=60", "Expires=61"), url.url.replace("a%20b", "a%20c")] {
        assert!(fetch("GET", &altered).await.contains("403"), "{altered}");
    }
    assert!(fetch("PUT", &url.url).await.contains("403"));
    let write = objects.presign(presign(ObjectAccess::Write, 604_800)).await.expect("signed");
    assert!(fetch("PUT", &write.url).await.contains("200 OK"));
    for seconds in [0, 604_801] {
        assert!(objects.presign(presign(ObjectAccess::Read, seconds)).await.is_err(), "{seconds}");
    }
    // A URL would show a session token.
    let clear = [("region", "eu-west-1"), ("bucket", "own-bucket"), ("accessKeyId", "AKIDEXAMPLE")];
    let session = run(&clear, &[("secretAccessKey", CANARY), ("sessionToken", "session-canary")]);
    let egress = ObjectEgress::new(HttpEgress::builder(closed()).build().expect("built"));
    let refused = egress.for_run(session).presign(presign(ObjectAccess::Read, 60)).await;
    assert!(
        matches!(&refused, Err(ExchangeError::Credential { reason }) if reason.contains("session token")),
        "{refused:?}"
    );
    // At Amazon the bucket is part of the name.
    let url =
        egress.for_run(run(&clear, &[("secretAccessKey", CANARY)])).presign(presign(ObjectAccess::Read, 60)).await;
    assert!(
        url.expect("signed").url.starts_with("https://own-bucket.s3.eu-west-1.amazonaws.com/a%20b?X-Amz-Algorithm=")
    );
}

#[tokio::test]
async fn keys_do_not_come_back() {
    let store = Store::start(Manner::Echoes).await;
    let refused = store.objects().get(target("a"), 100).await.expect_err("refused");
    let text = refused.to_string();
    assert!(matches!(refused, ExchangeError::Credential { .. }), "{refused:?}");
    assert!(!text.contains(CANARY) && text.matches("‹redacted:peer›").count() == 3, "{text}");
    let store = Store::start(Manner::Redirects).await;
    let moved = store.objects().get(target("a"), 100).await.expect_err("refused");
    assert!(matches!(&moved, ExchangeError::Rejected { code, .. } if code == "307"), "{moved:?}");
    assert_eq!(store.requests().len(), 1, "not followed");
    // An object that holds the key comes back masked.
    let store = Store::start(Manner::Honest).await;
    let objects = store.objects();
    objects.put(ObjectPut::new(target("a"), Bytes::from(format!("key={CANARY}")))).await.expect("written");
    assert_eq!(&objects.get(target("a"), 100).await.expect("read").content[..], "key=‹redacted:peer›".as_bytes());
    for misplaced in
        [ObjectPut::new(target(&placeholder()), Bytes::new()), ObjectPut::new(target("b"), Bytes::from(placeholder()))]
    {
        let refused = objects.put(misplaced).await;
        assert!(matches!(refused, Err(ExchangeError::Credential { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn names_cannot_lead_elsewhere() {
    let store = Store::start(Manner::Honest).await;
    let objects = store.objects();
    for key in ["", "..", "a/../b", "./a", "a/.", &"x".repeat(1_025)] {
        assert!(matches!(objects.head(target(key)).await, Err(ExchangeError::InvalidRequest { .. })), "{key}");
    }
    // Whoever made the connection said which bucket it is for.
    let named = |bucket: &str| ObjectTarget { bucket: Some(bucket.to_owned()), ..target("a") };
    for bucket in ["other-bucket", "own-bucket.", "own-bucket/a", ""] {
        let refused = objects.head(named(bucket)).await;
        assert!(
            matches!(&refused, Err(ExchangeError::Credential { reason }) if reason.contains("for the bucket `own-bucket`")),
            "{bucket}: {refused:?}"
        );
    }
    let endpoint = store.endpoint();
    let clear = [("endpoint", endpoint.as_str()), ("region", "eu-west-1"), ("accessKeyId", "AKIDEXAMPLE")];
    let any = self::objects(plain_loopback()).for_run(run(&clear, &[("secretAccessKey", CANARY)]));
    for bucket in ["a/b", "..", "A", "a@b.example", ""] {
        assert!(matches!(any.head(named(bucket)).await, Err(ExchangeError::InvalidRequest { .. })), "{bucket}");
    }
    assert!(store.requests().is_empty());
    assert!(objects.head(target(&"x".repeat(1_024))).await.is_ok());
    for (acl, encryption) in [(Some("public-read"), None), (None, Some("none"))] {
        let put = ObjectPut {
            acl: acl.map(str::to_owned),
            encryption: encryption.map(str::to_owned),
            ..ObjectPut::new(target("a"), Bytes::new())
        };
        assert!(matches!(objects.put(put).await, Err(ExchangeError::InvalidRequest { .. })));
    }
}

#[tokio::test]
async fn refused_stores_get_no_packet() {
    let peer = Untouched::start().await;
    let endpoint = |host: &str| format!("http://{host}:{}", peer.port);
    let fields = |endpoint: &str, origins: &[&str]| {
        let clear = [("endpoint", endpoint), ("bucket", "own-bucket"), ("accessKeyId", "AKIDEXAMPLE")];
        run_bound(&clear, &[("secretAccessKey", CANARY)], vec![], origins)
    };
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "127.1"] {
        let asked = objects(closed()).for_run(fields(&endpoint(host), &[])).head(target("a")).await;
        assert!(matches!(asked, Err(ExchangeError::Refused { .. })), "{host}: {asked:?}");
    }
    let elsewhere = fields(&endpoint("127.0.0.1"), &["https://s3.example"]);
    let asked = objects(plain_loopback()).for_run(elsewhere).head(target("a")).await;
    assert!(matches!(&asked, Err(ExchangeError::Credential { reason }) if reason.contains("not bound")), "{asked:?}");
    // Unencrypted, where the host does not say so.
    let asked =
        objects(super::support::loopback()).for_run(fields(&endpoint("127.0.0.1"), &[])).head(target("a")).await;
    assert!(matches!(asked, Err(ExchangeError::Credential { .. })), "{asked:?}");
    peer.check().await;
}

#[tokio::test]
async fn keys_are_bound_to_where_the_bucket_is() {
    let egress = ObjectEgress::new(HttpEgress::builder(closed()).build().expect("built"));
    let presign = async |more: &[(&str, &str)], origins: &[&str]| {
        let clear = [&[("region", "eu-west-1"), ("accessKeyId", "AKIDEXAMPLE")], more].concat();
        let credentials = run_bound(&clear, &[("secretAccessKey", CANARY)], vec![], origins);
        let target = ObjectTarget { bucket: Some("own-bucket".to_owned()), ..target("a") };
        let presign = ObjectPresign { target, access: ObjectAccess::Read, expires_in: Duration::from_secs(60) };
        egress.for_run(credentials).presign(presign).await
    };
    let (amazon, own) = ("https://s3.eu-west-1.amazonaws.com", "https://own-bucket.s3.eu-west-1.amazonaws.com");
    for (more, origins, expected) in [
        (&[("bucket", "own-bucket")][..], &[][..], Some(own)),
        (&[("bucket", "own-bucket")], &[own], Some(own)),
        // Bound to the endpoint alone: the bucket is reached there.
        (&[("bucket", "own-bucket")], &[amazon], Some(amazon)),
        (&[], &[], Some(amazon)),
        (&[("bucket", "own-bucket"), ("forcePathStyle", "true")], &[], Some(amazon)),
        // Elsewhere than where it has to be.
        (&[("bucket", "own-bucket"), ("forcePathStyle", "false")], &[amazon], None),
        (&[("bucket", "own-bucket"), ("forcePathStyle", "true")], &[own], None),
        (&[("bucket", "own-bucket")], &["https://other-bucket.s3.eu-west-1.amazonaws.com"], None),
    ] {
        let url = presign(more, origins).await;
        match (&url, expected) {
            (Ok(url), Some(expected)) => {
                assert!(url.url.starts_with(&format!("{expected}/")), "{more:?} {origins:?}: {}", url.url);
            }
            (Err(ExchangeError::Credential { reason }), None) => assert!(reason.contains("not bound"), "{reason}"),
            _ => panic!("{more:?} {origins:?}: {url:?}"),
        }
    }
}
