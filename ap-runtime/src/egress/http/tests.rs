//! Against a peer on loopback that speaks HTTP/1.1 by hand, so it can misbehave.

mod limits;
mod redirects;
mod scrubbing;

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use ap_core::connection::Placement;
use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::egress::{
    credential::{
        RunConnection, Stands,
        tests::{CANARY, one, placeholder},
    },
    guard::Resolver,
};

/// What the peer does once it has read a request.
enum Act {
    Reply(Vec<u8>),
    /// Sends this and closes.
    BreakOff(Vec<u8>),
    /// Sends this over and over.
    Forever(Vec<u8>),
    /// Sends nothing and keeps the connection open.
    Hang,
}

struct Peer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Peer {
    async fn start(act: impl Fn(&str) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, act) = (Arc::clone(&requests), Arc::new(act));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&seen), Arc::clone(&act)));
            }
        });
        Self { address, requests }
    }

    fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("not poisoned").clone()
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<String>>>, act: Arc<impl Fn(&str) -> Act>) {
    while let Some(request) = read_request(&mut stream).await {
        seen.lock().expect("not poisoned").push(request.clone());
        match act(&request) {
            Act::Reply(reply) => stream.write_all(&reply).await.unwrap_or_default(),
            Act::BreakOff(part) => return stream.write_all(&part).await.unwrap_or_default(),
            Act::Forever(part) => while stream.write_all(&part).await.is_ok() {},
            Act::Hang => return std::future::pending().await,
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
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

fn ok(body: impl AsRef<[u8]>) -> Act {
    Act::Reply(reply("200 OK", "", body))
}

fn redirect(status: &str, location: &str) -> Act {
    Act::Reply(reply(status, &format!("location: {location}\r\n"), "moved"))
}

fn open_loopback() -> EgressPolicy {
    EgressPolicy::new().allow_network("127.0.0.0/8".parse().expect("net")).expect("narrow")
}

fn open_plain() -> EgressPolicy {
    open_loopback().allow_plain_http_credentials("127.0.0.1/32".parse().expect("net")).expect("inside")
}

/// One answer per look-up; the last repeats.
#[derive(Debug)]
struct Script(Vec<Vec<&'static str>>, AtomicUsize);

#[async_trait]
impl Resolver for Script {
    async fn resolve(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let turn = self.1.fetch_add(1, Ordering::SeqCst).min(self.0.len().saturating_sub(1));
        let answer = self.0.get(turn).ok_or(io::ErrorKind::NotFound)?;
        Ok(answer.iter().map(|text| SocketAddr::new(text.parse().expect("address"), port)).collect())
    }
}

fn egress(policy: EgressPolicy, answers: &[&[&'static str]]) -> HttpEgress {
    let script = Script(answers.iter().map(|answer| answer.to_vec()).collect(), AtomicUsize::new(0));
    HttpEgress::builder(Guard::new(policy, Arc::new(script))).build().expect("client")
}

fn anonymous(policy: EgressPolicy) -> RunHttp {
    egress(policy, &[]).for_run(Arc::default())
}

/// A run whose connection `api` is bound to the peer by bearer token.
fn with_token(policy: EgressPolicy, peer: &Peer) -> RunHttp {
    egress(policy, &[]).for_run(Arc::new(one(vec![], &peer.origin())))
}

fn with_credential(method: &str, url: String) -> HttpRequest {
    let mut request = HttpRequest::new(method, url);
    request.credential = Some(placeholder('w'));
    request
}

fn text(response: &HttpResponse) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

#[tokio::test]
async fn a_request_arrives_and_its_answer_comes_back() {
    let peer = Peer::start(|_| Act::Reply(reply("201 Created", "X-A: 1\r\nx-b: 2\r\n", "hello"))).await;
    let mut request = HttpRequest::new("POST", format!("{}/p?q=1#f", peer.origin()));
    request.headers =
        vec![("X-One".into(), "1".into()), ("X-One".into(), "2".into()), ("Accept-Encoding".into(), "br".into())];
    request.body = Some(Bytes::from_static(b"body"));
    let response = anonymous(open_loopback()).send(request).await.expect("sent");
    assert_eq!((response.status, text(&response)), (201, "hello".to_owned()));
    assert_eq!((response.header("x-a"), response.header("x-b")), (Some("1"), Some("2")));
    let seen = peer.requests().remove(0);
    assert!(seen.starts_with("POST /p?q=1 HTTP/1.1\r\n") && seen.ends_with("\r\n\r\nbody"), "{seen}");
    for line in ["x-one: 1", "x-one: 2", "content-length: 4", &format!("user-agent: {USER_AGENT}")] {
        assert!(seen.lines().any(|other| other.eq_ignore_ascii_case(line)), "{line} in {seen}");
    }
    assert_eq!(seen.to_ascii_lowercase().contains("accept-encoding: gzip"), cfg!(feature = "gzip"), "{seen}");
    for name in ["referer", "cookie", "br\r\n", "transfer-encoding"] {
        assert!(!seen.to_ascii_lowercase().contains(name), "{name} in {seen}");
    }
}

#[tokio::test]
async fn nothing_is_sent_to_what_the_host_did_not_allow() {
    let peer = Peer::start(|_| ok("secret of the network")).await;
    let port = peer.address.port();
    for (answers, host) in [
        (&[] as &[&[&'static str]], "127.0.0.1"),
        (&[], "[::ffff:127.0.0.1]"),
        (&[], "0x7f.1"),
        (&[], "localhost"),
        (&[&["127.0.0.1"]], "public.example"),
        (&[&["8.8.8.8", "127.0.0.1"]], "public.example"),
        (&[&["127.0.0.1", "8.8.8.8"]], "public.example"),
        (&[&["::ffff:127.0.0.1"]], "public.example"),
    ] {
        let client = egress(EgressPolicy::new(), answers).for_run(Arc::default());
        let error = client.send(HttpRequest::new("GET", format!("http://{host}:{port}/"))).await.expect_err(host);
        assert!(matches!(error, HttpError::Refused { .. }), "{host}: {error:?}");
        assert!(!error.to_string().contains("127."), "{error}");
    }
    assert!(peer.requests().is_empty());
}

#[tokio::test]
async fn a_rebound_name_is_judged_at_each_connection() {
    let peer = Peer::start(|_| Act::Reply(reply("200 OK", "connection: close\r\n", ""))).await;
    let url = format!("http://public.example:{}/", peer.address.port());
    let client =
        egress(open_loopback(), &[&["127.0.0.1"], &["10.0.0.1"], &["127.0.0.1", "10.0.0.1"]]).for_run(Arc::default());
    assert!(client.send(HttpRequest::new("GET", &url)).await.is_ok());
    for _ in 0..2 {
        assert!(matches!(client.send(HttpRequest::new("GET", &url)).await, Err(HttpError::Refused { .. })));
    }
    assert_eq!(peer.requests().len(), 1);
}

#[tokio::test]
async fn names_are_connected_to_at_their_checked_address() {
    let peer = Peer::start(|_| ok("")).await;
    let client = egress(open_loopback(), &[&["127.0.0.1"]]).for_run(Arc::default());
    client.send(HttpRequest::new("GET", format!("http://db:{}/", peer.address.port()))).await.expect("allowed");
    assert!(peer.requests()[0].contains(&format!("host: db:{}\r\n", peer.address.port())));
    let unknown = egress(open_loopback(), &[]).for_run(Arc::default());
    let error = unknown.send(HttpRequest::new("GET", "http://nowhere.example/")).await.expect_err("no such name");
    assert_eq!(error, HttpError::Unreachable { reason: "its name could not be resolved".to_owned() });
}

#[tokio::test]
async fn credentials_do_not_travel_over_plain_http_unless_allowed() {
    let peer = Peer::start(|_| ok("")).await;
    let port = peer.address.port();
    let own = |name: &str| {
        let mut request = HttpRequest::new("GET", peer.origin());
        request.headers = vec![(name.to_owned(), "own secret".to_owned())];
        request
    };
    let closed = with_token(open_loopback(), &peer);
    for request in [with_credential("GET", peer.origin()), own("Authorization"), own("Cookie")] {
        let error = closed.send(request).await.expect_err("plain HTTP");
        assert!(matches!(&error, HttpError::Credential { reason } if reason.contains("plain HTTP")), "{error:?}");
    }
    // By name: the resolver's answer decides, and a pooled connection of an anonymous request does not help.
    let url = format!("http://api.example:{port}");
    let named = egress(open_loopback(), &[&["127.0.0.1"]]).for_run(Arc::new(one(vec![], &url)));
    named.send(HttpRequest::new("GET", url.as_str())).await.expect("no credential");
    assert!(matches!(named.send(with_credential("GET", url.clone())).await, Err(HttpError::Credential { .. })));
    assert_eq!(peer.requests().len(), 1);

    let allowed = egress(open_plain(), &[&["127.0.0.1"]]).for_run(Arc::new(one(vec![], &url)));
    allowed.send(with_credential("GET", url)).await.expect("allowed");
    assert!(peer.requests()[1].contains(&format!("authorization: Bearer {CANARY}\r\n")));
}

#[tokio::test]
async fn failures_say_whether_anything_was_sent() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("address");
    let client = anonymous(open_loopback());
    let error = client.send(HttpRequest::new("POST", format!("http://{closed}/"))).await.expect_err("nobody listens");
    assert_eq!(error, HttpError::Unreachable { reason: "the connection was refused".to_owned() });
    let peer = Peer::start(|request| match request.split(' ').nth(1).unwrap_or_default() {
        "/mute" => Act::BreakOff(vec![]),
        "/head" => Act::BreakOff(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
        "/body" => Act::BreakOff(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec()),
        "/chunk" => Act::BreakOff(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab".to_vec()),
        _ => Act::BreakOff(b"SSH-2.0-nonsense\r\n\r\n".to_vec()),
    })
    .await;
    for path in ["/mute", "/head", "/body", "/chunk", "/other"] {
        let error = client.send(HttpRequest::new("POST", format!("{}{path}", peer.origin()))).await.expect_err(path);
        assert!(matches!(error, HttpError::Interrupted { .. }), "{path}: {error:?}");
        assert!(!error.to_string().contains("127."), "{error}");
    }
    // The peer answers a TLS greeting with plain text: the request itself never left.
    let greeting = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = greeting.local_addr().expect("address");
    tokio::spawn(async move {
        let (mut stream, _) = greeting.accept().await.expect("a client");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("written");
    });
    let error = client.send(HttpRequest::new("GET", format!("https://{address}/"))).await.expect_err("no TLS");
    assert!(matches!(error, HttpError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_request_is_sent_once() {
    let peer = Peer::start(|_| Act::BreakOff(vec![])).await;
    let client = anonymous(open_loopback());
    for method in ["GET", "POST"] {
        assert!(client.send(HttpRequest::new(method, peer.origin())).await.is_err());
    }
    assert_eq!(peer.requests().len(), 2);
}

#[tokio::test]
async fn malformed_requests_are_not_sent() {
    let peer = Peer::start(|_| ok("")).await;
    let client = anonymous(open_loopback());
    let mut requests = vec![
        HttpRequest::new("GE T", peer.origin()),
        HttpRequest::new("CONNECT", peer.origin()),
        HttpRequest::new("GET", format!("{}/a b", peer.origin())),
        HttpRequest::new("GET", format!("{}/\r\nX: y", peer.origin())),
        HttpRequest::new("GET", "not a URL"),
    ];
    for (name, value) in
        [("Host", "evil"), ("X", "a\r\nY: b"), ("X: y\r\nZ", "1"), ("Content-Length", "3"), ("Upgrade", "h2c")]
    {
        let mut request = HttpRequest::new("GET", peer.origin());
        request.headers = vec![(name.to_owned(), value.to_owned())];
        requests.push(request);
    }
    for request in requests {
        let error = client.send(request.clone()).await.expect_err("malformed");
        assert!(matches!(error, HttpError::InvalidRequest { .. }), "{} {}: {error:?}", request.method, request.url);
    }
    assert!(peer.requests().is_empty());
}

/// Runs itself in a child process, because the environment of this one is shared by all tests.
#[test]
fn proxies_of_the_environment_are_ignored() {
    const CHILD: &str = "AP_TEST_PROXY_CHILD";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    if std::env::var_os(CHILD).is_some() {
        return runtime.block_on(async {
            let peer = Peer::start(|_| ok("direct")).await;
            let response = anonymous(open_loopback()).send(HttpRequest::new("GET", peer.origin())).await;
            assert_eq!(text(&response.expect("direct")), "direct");
        });
    }
    runtime.block_on(async {
        let proxy = Peer::start(|_| ok("by the proxy")).await;
        let mut child = tokio::process::Command::new(std::env::current_exe().expect("this test"));
        child.args(["--exact", "egress::http::tests::proxies_of_the_environment_are_ignored"]).env(CHILD, "1");
        for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            child.env(name, proxy.origin());
        }
        let output = child.env_remove("NO_PROXY").env_remove("no_proxy").output().await.expect("started");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        assert!(proxy.requests().is_empty());
    });
}

#[tokio::test]
async fn nothing_shown_holds_the_credential() {
    let peer = Peer::start(|_| ok("")).await;
    let client = with_token(open_plain(), &peer);
    let request = with_credential("GET", peer.origin());
    let shown = format!("{request:?} {client:?} {:?}", client.send(request.clone()).await);
    assert!(!shown.contains("canary"), "{shown}");
    let mut elsewhere = HttpRequest::new("GET", format!("{}/{}", peer.origin(), placeholder('t')));
    elsewhere.credential = Some(placeholder('w'));
    let error = client.send(elsewhere).await.expect_err("in the path");
    assert!(error.to_string().contains("path") && !error.to_string().contains("canary"), "{error}");
}
