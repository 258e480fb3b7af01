//! What is followed, and what is not carried along.

use super::*;

#[tokio::test]
async fn redirects_are_judged_counted_and_change_the_method() {
    let peer = Peer::start(|request| match request.split(' ').nth(1).unwrap_or_default() {
        "/301" => redirect("301 Moved", "/end"),
        "/302" => redirect("302 Found", "end"),
        "/303" => redirect("303 See Other", "/end"),
        "/307" => redirect("307 Temporary", "/end?x"),
        "/308" => redirect("308 Permanent", "//127.0.0.1/"),
        "/loop" => redirect("302 Found", "/loop"),
        "/private" => redirect("302 Found", "http://10.0.0.1/"),
        "/metadata" => redirect("307 Found", "http://169.254.169.254/latest/"),
        "/userinfo" => redirect("302 Found", "http://user:pw@127.0.0.1/"),
        "/file" => redirect("302 Found", "file:///etc/passwd"),
        "/bytes" => Act::Reply(b"HTTP/1.1 302 x\r\ncontent-length: 0\r\nlocation: /\xff\r\n\r\n".to_vec()),
        "/gone" => redirect("302 Found", "http://127.0.0.1:1/"),
        "/dead" => redirect("302 Found", "http://127.0.0.1:2/"),
        _ => ok("end"),
    })
    .await;
    let client = anonymous(open_loopback());
    let send = async |method: &str, path: &str| {
        let mut request = HttpRequest::new(method, format!("{}{path}", peer.origin()));
        request.body = (method == "POST").then(|| Bytes::from_static(b"{}"));
        request.headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        client.send(request).await
    };
    for (method, path, expected) in [
        ("POST", "/301", "GET /end HTTP"),
        ("POST", "/302", "GET /end HTTP"),
        ("POST", "/303", "GET /end HTTP"),
        ("PUT", "/303", "GET /end HTTP"),
        ("PUT", "/302", "PUT /end HTTP"),
        ("HEAD", "/303", "HEAD /end HTTP"),
        ("POST", "/307", "POST /end?x HTTP"),
        ("DELETE", "/307", "DELETE /end?x HTTP"),
    ] {
        let response = send(method, path).await.expect(path);
        assert_eq!(response.status, 200, "{method} {path}");
        let end = if path == "/307" { "/end?x" } else { "/end" };
        assert_eq!(response.redirected_to, Some(format!("{}{end}", peer.origin())), "{method} {path}");
        let last = peer.requests().pop().expect("seen");
        assert!(last.starts_with(expected), "{method} {path}: {last}");
        assert_eq!(last.ends_with("{}"), expected.starts_with("POST"), "{last}");
        assert_eq!(last.contains("content-type"), !expected.starts_with("GET"), "{last}");
    }
    for path in ["/private", "/metadata", "/userinfo", "/file", "/bytes", "/gone"] {
        let error = send("GET", path).await.expect_err(path);
        assert!(
            matches!(error, HttpError::Refused { .. }) && error.to_string().contains("redirect"),
            "{path}: {error:?}"
        );
    }
    assert!(matches!(send("GET", "/dead").await, Err(HttpError::Interrupted { .. })));
    let before = peer.requests().len();
    assert_eq!(send("GET", "/loop").await.expect("the last answer").status, 302);
    assert_eq!(peer.requests().len() - before, 6);
    let mut request = HttpRequest::new("GET", format!("{}/301", peer.origin()));
    request.max_redirects = 0;
    let itself = client.send(request).await.expect("the redirect");
    assert_eq!((itself.status, itself.header("location")), (301, Some("/end")));
    assert_eq!(itself.redirected_to, None);
}

#[tokio::test]
async fn the_place_of_a_response_shows_no_credential() {
    let peer = Peer::start(|request| match request.split(' ').nth(1).unwrap_or_default() {
        path if path.starts_with("/query") => redirect("302 Found", "/end?a=1"),
        path if path.starts_with("/echo") => redirect("302 Found", &format!("/end?again={CANARY}")),
        _ => ok("end"),
    })
    .await;
    let placement = Placement::Query { name: "key".to_owned(), field: "token".to_owned() };
    let client = egress(open_plain(), &[]).for_run(Arc::new(one(vec![placement], &peer.origin())));
    for (path, end) in [("/query", "/end?a=1"), ("/echo", "/end?again=‹redacted:api›")] {
        let response = client.send(with_credential("GET", format!("{}{path}", peer.origin()))).await.expect(path);
        assert!(peer.requests().pop().expect("seen").contains("key=canary%2FS3cr3t%2Bv4lue"));
        assert_eq!(response.redirected_to, Some(format!("{}{end}", peer.origin())));
    }
}

#[tokio::test]
async fn credentials_are_dropped_when_the_origin_changes() {
    let other = Peer::start(|_| ok("other")).await;
    let away = other.origin();
    let peer = Peer::start(move |request| match request.split(' ').nth(1).unwrap_or_default() {
        "/away" => redirect("307 Temporary", &format!("{away}/end")),
        "/same" => redirect("307 Temporary", "/end"),
        _ => ok("end"),
    })
    .await;
    let run = || {
        let header = Placement::Header { name: "X-Key".to_owned(), field: "token".to_owned() };
        egress(open_plain(), &[]).for_run(Arc::new(one(vec![header], &peer.origin())))
    };
    let same = run();
    same.send(with_credential("GET", format!("{}/same", peer.origin()))).await.expect("same origin");
    assert!(peer.requests().iter().all(|request| request.contains(CANARY)) && peer.requests().len() == 2);
    assert_eq!(same.take_uses().len(), 2);
    assert!(same.take_uses().is_empty());

    let client = run();
    let mut request = with_credential("GET", format!("{}/away", peer.origin()));
    request.headers = vec![
        ("Authorization".to_owned(), "Basic b3duOnNlY3JldA==".to_owned()),
        ("Cookie".to_owned(), "sid=1".to_owned()),
        ("X-Trace".to_owned(), "kept".to_owned()),
    ];
    client.send(request).await.expect("followed");
    assert_eq!(client.take_uses().len(), 1);
    let mut request = HttpRequest::new("GET", format!("{}/away", peer.origin()));
    request.headers = vec![("X-Key".to_owned(), placeholder('t')), ("X-Trace".to_owned(), "kept".to_owned())];
    client.send(request).await.expect("followed");
    assert_eq!(other.requests().len(), 2);
    for seen in other.requests() {
        assert!(seen.contains("x-trace: kept"), "{seen}");
        for gone in ["authorization", "cookie", "x-key", "apcred_", CANARY] {
            assert!(!seen.contains(gone), "{gone} in {seen}");
        }
    }
}

#[tokio::test]
async fn a_redirect_cannot_carry_the_credential_away() {
    let other = Peer::start(|_| ok("caught")).await;
    let away = other.origin();
    let peer = Peer::start(move |request| {
        let token = request.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).unwrap_or_default();
        let encoded: String = url::form_urlencoded::byte_serialize(token.as_bytes()).collect();
        match request.split(' ').nth(1).unwrap_or_default() {
            "/plain" => redirect("302 Found", &format!("{away}/?t={token}")),
            "/base64" => redirect("302 Found", &format!("{away}/?t={}", STANDARD.encode(token))),
            _ => redirect("302 Found", &format!("{away}/?t={encoded}")),
        }
    })
    .await;
    let client = with_token(open_plain(), &peer);
    for path in ["/plain", "/base64", "/percent"] {
        let error = client.send(with_credential("GET", format!("{}{path}", peer.origin()))).await.expect_err(path);
        assert!(matches!(error, HttpError::Credential { .. }), "{error:?}");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn a_body_with_a_credential_does_not_change_origin() {
    let other = Peer::start(|_| ok("caught")).await;
    let away = other.origin();
    let peer = Peer::start(move |_| redirect("308 Permanent", &away)).await;
    let placement = Placement::Body { pointer: "/token".to_owned(), field: "token".to_owned() };
    let client = egress(open_plain(), &[]).for_run(Arc::new(one(vec![placement], &peer.origin())));
    let mut request = HttpRequest::new("POST", peer.origin());
    request.body = Some(Bytes::from(format!(r#"{{"token":"{}"}}"#, placeholder('t'))));
    assert!(matches!(client.send(request).await, Err(HttpError::Credential { .. })));
    assert!(peer.requests()[0].contains(&format!(r#"{{"token":"{CANARY}"}}"#)));
    assert!(other.requests().is_empty());
}
