//! Sizes and times.

use super::*;

#[tokio::test]
async fn sizes_are_limited() {
    let peer = Peer::start(|request| match request.split(' ').nth(1).unwrap_or_default() {
        "/chunked" => {
            let body = format!("3e8\r\n{}\r\n0\r\n\r\n", "x".repeat(1000));
            Act::Reply(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}").into_bytes())
        }
        "/endless" => Act::Forever(format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(10_000)).into_bytes()),
        "/head" => Act::Reply(reply("200 OK", &format!("x: {}\r\n", "h".repeat(70_000)), "")),
        "/head-endless" => Act::Forever(format!("HTTP/1.1 200 OK\r\nx: {}", "h".repeat(10_000)).into_bytes()),
        "/fields" => Act::Reply(reply("200 OK", &"x: y\r\n".repeat(101), "")),
        _ => ok("x".repeat(1000)),
    })
    .await;
    let client = anonymous(open_loopback());
    let send = async |path: &str, limit: usize| {
        let mut request = HttpRequest::new("GET", format!("{}{path}", peer.origin()));
        request.max_response_bytes = limit;
        client.send(request).await
    };
    for path in ["/sized", "/chunked"] {
        assert_eq!(send(path, 1001).await.expect(path).body.len(), 1000);
        assert_eq!(send(path, 1000).await.expect(path).body.len(), 1000);
        assert_eq!(send(path, 999).await.expect_err(path), HttpError::ResponseTooLarge { limit_bytes: 999 });
    }
    assert_eq!(send("/endless", 5000).await.expect_err("endless"), HttpError::ResponseTooLarge { limit_bytes: 5000 });
    assert!(matches!(send("/head", 5000).await, Err(HttpError::ResponseTooLarge { .. })));
    for path in ["/head-endless", "/fields"] {
        assert!(matches!(send(path, 5000).await, Err(HttpError::Interrupted { .. })), "{path}");
    }
    let guard = Guard::new(open_loopback(), Arc::new(Script(vec![], AtomicUsize::new(0))));
    let host = HttpEgress::builder(guard).with_max_response_bytes(999).build().expect("client");
    let error = host.for_run(Arc::default()).send(HttpRequest::new("GET", peer.origin())).await;
    assert_eq!(error.expect_err("the host's limit"), HttpError::ResponseTooLarge { limit_bytes: 999 });
}

#[tokio::test]
async fn time_is_limited_over_all_hops() {
    let peer = Peer::start(|request| match request.split(' ').nth(1).unwrap_or_default() {
        "/silent" => Act::Hang,
        "/then-silent" => redirect("302 Found", "/silent"),
        _ => Act::Reply(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec()),
    })
    .await;
    let client = anonymous(open_loopback());
    for path in ["/silent", "/then-silent", "/slow-body"] {
        let mut request = HttpRequest::new("GET", format!("{}{path}", peer.origin()));
        request.timeout = Duration::from_millis(150);
        let begun = Instant::now();
        let error = client.send(request).await.expect_err(path);
        assert_eq!(error, HttpError::Timeout { limit: Duration::from_millis(150) }, "{path}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{path}: {:?}", begun.elapsed());
    }
}
