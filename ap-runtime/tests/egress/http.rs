//! Peers that speak TLS, and HTTP/2 over it.

use std::sync::{Arc, Mutex};

use ap_core::{
    capability::{HttpClient, HttpError, HttpRequest, HttpResponse},
    connection::Placement,
};
use ap_runtime::egress::{http::HttpEgress, trust::TrustRoots};
use bytes::Bytes;
use rustls::{
    SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::server::TlsStream;

use super::{
    certificate::Certificate,
    support::{CANARY, loopback, placeholder, run_bound},
};

/// Answers each request with what it said, over HTTP/2 where that was agreed on.
struct Peer {
    port: u16,
    certificate: Certificate,
    /// Of each request: version, and its key.
    seen: Arc<Mutex<Vec<(http::Version, String)>>>,
}

impl Peer {
    async fn start(versions: &[&'static SupportedProtocolVersion], protocols: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (certificate, seen) = (Certificate::make(), Arc::new(Mutex::new(Vec::new())));
        let acceptor = certificate.acceptor(versions, protocols);
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, log) = (acceptor.clone(), Arc::clone(&log));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        two(stream, &log).await;
                    } else {
                        one(stream, &log).await;
                    }
                });
            }
        });
        Self { port, certificate, seen }
    }

    async fn get(&self, host: &str, roots: TrustRoots, tls13: bool) -> Result<HttpResponse, HttpError> {
        let origin = format!("https://{host}:{}", self.port);
        let place = Placement::Header { name: "X-Key".to_owned(), field: "key".to_owned() };
        let credentials = run_bound(&[], &[("key", CANARY)], vec![place], &[&origin]);
        let egress = HttpEgress::builder(loopback()).with_trust_roots(roots).build().expect("built");
        let mut request = HttpRequest::new("GET", format!("{origin}/path"));
        request.credential = Some(placeholder());
        request.require_tls13 = tls13;
        egress.for_run(credentials).send(request).await
    }

    fn versions(&self) -> Vec<http::Version> {
        let seen = self.seen.lock().expect("not poisoned");
        assert!(seen.iter().all(|(_, key)| key == CANARY));
        seen.iter().map(|(version, _)| *version).collect()
    }
}

async fn two(stream: TlsStream<TcpStream>, seen: &Mutex<Vec<(http::Version, String)>>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let key = request.headers().get("x-key").and_then(|key| key.to_str().ok()).unwrap_or_default().to_owned();
        seen.lock().expect("not poisoned").push((request.version(), key.clone()));
        let response = http::Response::builder().header("x-echo", &key).body(()).expect("a response");
        if let Ok(mut body) = respond.send_response(response, false) {
            let _ = body.send_data(Bytes::from(format!("you sent {key}")), true);
        }
    }
}

async fn one(mut stream: TlsStream<TcpStream>, seen: &Mutex<Vec<(http::Version, String)>>) {
    let mut text = String::new();
    while !text.contains("\r\n\r\n") {
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk).await {
            Ok(length) if length > 0 => text.push_str(&String::from_utf8_lossy(&chunk[..length])),
            _ => return,
        }
    }
    let key = text.lines().find_map(|line| line.strip_prefix("x-key: ")).unwrap_or_default().to_owned();
    seen.lock().expect("not poisoned").push((http::Version::HTTP_11, key.clone()));
    let body = format!("you sent {key}");
    let reply = format!(
        "HTTP/1.1 200 OK\r\nx-echo: {key}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(reply.as_bytes()).await;
    let _ = stream.shutdown().await;
}

const MASKED: &str = "‹redacted:peer›";

fn assert_scrubbed(response: &HttpResponse) {
    assert_eq!(response.status, 200);
    assert_eq!(response.header("x-echo"), Some(MASKED));
    assert_eq!(&response.body[..], format!("you sent {MASKED}").as_bytes());
}

#[tokio::test]
async fn http2_and_http1_over_tls_are_scrubbed_alike() {
    let peer = Peer::start(rustls::ALL_VERSIONS, &["h2", "http/1.1"]).await;
    assert_scrubbed(&peer.get("localhost", peer.certificate.roots(), false).await.expect("answered"));
    assert_eq!(peer.versions(), [http::Version::HTTP_2]);
    let peer = Peer::start(rustls::ALL_VERSIONS, &["http/1.1"]).await;
    assert_scrubbed(&peer.get("localhost", peer.certificate.roots(), false).await.expect("answered"));
    assert_eq!(peer.versions(), [http::Version::HTTP_11]);
}

#[tokio::test]
async fn tls13_is_asked_for_and_promised() {
    for (versions, answers) in [(&[&TLS12][..], false), (&[&TLS13][..], true), (rustls::ALL_VERSIONS, true)] {
        let peer = Peer::start(versions, &["h2"]).await;
        let strict = peer.get("localhost", peer.certificate.roots(), true).await;
        match strict {
            Ok(response) => assert_scrubbed(&response),
            Err(HttpError::Unreachable { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
        assert_eq!(peer.versions().len(), usize::from(answers), "{versions:?}");
        // TLS 1.2 will do otherwise.
        peer.get("localhost", peer.certificate.roots(), false).await.expect("answered");
    }
    let plain = HttpRequest { require_tls13: true, ..HttpRequest::new("GET", "http://127.0.0.1:8080/") };
    let egress = HttpEgress::builder(loopback()).build().expect("built");
    let refused = egress.for_run(run_bound(&[("a", "b")], &[], vec![], &[])).send(plain).await;
    assert!(matches!(refused, Err(HttpError::InvalidRequest { .. })), "{refused:?}");
}

#[tokio::test]
async fn the_server_is_who_its_certificate_says() {
    let peer = Peer::start(rustls::ALL_VERSIONS, &["h2"]).await;
    for (host, roots) in [
        ("localhost", TrustRoots::none()),
        ("localhost", Certificate::make().roots()),
        ("127.0.0.1", peer.certificate.roots()),
    ] {
        let refused = peer.get(host, roots, false).await;
        assert!(matches!(refused, Err(HttpError::Unreachable { .. })), "{host}: {refused:?}");
    }
    assert!(peer.versions().is_empty());
    assert!(
        HttpEgress::builder(loopback())
            .with_trust_roots(
                TrustRoots::none().with_pem("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")
            )
            .build()
            .is_err()
    );
}
