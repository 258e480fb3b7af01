//! What peers send back of a credential.

use ap_core::{
    connection::{Connection, ConnectionValue, FieldValue, Origin},
    id::ConnectionId,
};

use super::*;

fn echoes() -> Vec<(&'static str, Vec<u8>)> {
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    let percent: String = url::form_urlencoded::byte_serialize(CANARY.as_bytes()).collect();
    vec![
        ("raw", CANARY.as_bytes().to_vec()),
        ("base64", STANDARD.encode(CANARY).into_bytes()),
        ("base64 shifted", STANDARD.encode(format!("x{CANARY}")).into_bytes()),
        ("base64 shifted twice", STANDARD.encode(format!("xy{CANARY}yz")).into_bytes()),
        ("hex", hex.to_uppercase().into_bytes()),
        ("hex in lower case", hex.into_bytes()),
        ("percent", percent.into_bytes()),
        ("JSON", CANARY.replace('/', "\\/").into_bytes()),
        ("UTF-16", CANARY.encode_utf16().flat_map(u16::to_le_bytes).collect()),
    ]
}

#[tokio::test]
async fn an_echoed_credential_is_masked_in_body_and_headers() {
    for (form, echo) in echoes() {
        let body = [b"{\"echo\":\"", echo.as_slice(), b"\"}"].concat();
        let (sent, header) = (body.clone(), String::from_utf8_lossy(&echo).replace('\0', ""));
        let peer = Peer::start(move |_| Act::Reply(reply("400 Bad", &format!("x-echo: {header}\r\n"), &sent))).await;
        let guard = Guard::new(open_plain(), Arc::new(Script(vec![], AtomicUsize::new(0))));
        let safe = HttpEgress::builder(guard.clone()).build().expect("client");
        let bare = HttpEgress::builder(guard).dangerous().without_response_scrubbing().build().expect("client");
        let credentials = Arc::new(one(vec![], &peer.origin()));
        let send = async |egress: HttpEgress| {
            let client = egress.for_run(Arc::clone(&credentials));
            client.send(with_credential("GET", peer.origin())).await.expect("an answer")
        };
        let masked = send(safe).await;
        assert_eq!(masked.status, 400);
        assert!(text(&masked).contains("‹redacted:api›"), "{form}: {}", text(&masked));
        assert!(masked.header("x-echo").is_some_and(|value| value.contains("‹redacted:api›")), "{form}: {masked:?}");
        assert!(!credentials.redactor().contains(&masked.body), "{form}");
        // Without the scrubber the same assertions fail.
        let leaked = send(bare).await;
        assert_eq!(leaked.body, body, "{form}");
        assert!(credentials.redactor().contains(&leaked.body), "{form}");
    }
}

#[tokio::test]
async fn no_header_says_how_long_what_was_masked_is() {
    let peer = Peer::start(|request| {
        let (path, body) = (request.split(' ').nth(1).unwrap_or_default(), format!("<{CANARY}>"));
        let body = if path == "/echo" { body } else { "<nothing of it>".to_owned() };
        Act::Reply(reply("200 OK", &format!("content-range: bytes 0-{0}/{0}\r\n", body.len()), body.as_bytes()))
    })
    .await;
    let client = with_token(open_plain(), &peer);
    let send = async |path: &str| {
        let answer = client.send(with_credential("GET", format!("{}{path}", peer.origin()))).await.expect("an answer");
        let sizes = ["content-length", "content-range"].map(|name| answer.header(name).map(str::to_owned));
        (text(&answer), sizes)
    };
    assert_eq!(send("/echo").await, ("<‹redacted:api›>".to_owned(), [None, None]));
    let sizes = ["15", "bytes 0-15/15"].map(|size| Some(size.to_owned()));
    assert_eq!(send("/other").await, ("<nothing of it>".to_owned(), sizes));
}

/// A gzip file of one stored block (RFC 1951 §3.2.4, RFC 1952).
fn stored_gzip(body: &[u8]) -> Vec<u8> {
    let mut crc = u32::MAX;
    for byte in body {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let length = u16::try_from(body.len()).expect("one stored block");
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1];
    out.extend(length.to_le_bytes());
    out.extend((!length).to_le_bytes());
    out.extend_from_slice(body);
    out.extend((!crc).to_le_bytes());
    out.extend(u32::from(length).to_le_bytes());
    out
}

#[tokio::test]
async fn compressed_bodies_are_decoded_or_refused() {
    let peer = Peer::start(|request| {
        let coded =
            |coding: &str, body: Vec<u8>| Act::Reply(reply("200 OK", &format!("content-encoding: {coding}\r\n"), body));
        match request.split(' ').nth(1).unwrap_or_default() {
            "/gzip" => coded("gzip", stored_gzip(CANARY.as_bytes())),
            "/large" => coded("gzip", stored_gzip(&[b'x'; 2000])),
            "/head" => {
                Act::Reply(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 9999\r\n\r\n".to_vec())
            }
            "/identity" => coded("Identity", b"plain".to_vec()),
            "/broken" => coded("gzip", b"no gzip".to_vec()),
            "/twice" => coded("gzip, gzip", stored_gzip(&stored_gzip(CANARY.as_bytes()))),
            "/two-lines" => coded("gzip\r\ncontent-encoding: gzip", stored_gzip(&stored_gzip(CANARY.as_bytes()))),
            "/one-of-two" => coded("gzip\r\ncontent-encoding: br", stored_gzip(CANARY.as_bytes())),
            other => coded(other.trim_start_matches('/'), b"unreadable".to_vec()),
        }
    })
    .await;
    let client = with_token(open_plain(), &peer);
    let send = async |method: &str, path: &str| {
        let mut request = with_credential(method, format!("{}{path}", peer.origin()));
        request.max_response_bytes = 1999;
        client.send(request).await
    };
    assert_eq!(send("HEAD", "/head").await.expect("no body").status, 200);
    assert_eq!(text(&send("GET", "/identity").await.expect("plain")), "plain");
    if cfg!(feature = "gzip") {
        assert_eq!(text(&send("GET", "/gzip").await.expect("decoded")), "‹redacted:api›");
        let large = send("GET", "/large").await.expect_err("2000 bytes");
        assert_eq!(large, HttpError::ResponseTooLarge { limit_bytes: 1999 });
    } else {
        assert!(matches!(send("GET", "/gzip").await, Err(HttpError::Interrupted { .. })));
    }
    for path in
        ["/br", "/deflate", "/zstd", "/compress", "/x-unknown", "/twice", "/two-lines", "/one-of-two", "/broken"]
    {
        assert!(matches!(send("GET", path).await, Err(HttpError::Interrupted { .. })), "{path}");
    }
}

/// What was made with a key is good for whoever has it, as long as the peer takes it.
#[tokio::test]
async fn an_echoed_signature_is_masked() {
    let signing = [
        serde_json::json!({ "type": "hmac", "field": "token", "header": "X-Mac", "prefix": "v1=" }),
        serde_json::json!({ "type": "jwt", "field": "token", "issuer": "me" }),
        serde_json::json!({ "type": "sigV4", "accessKeyId": "id", "field": "token", "region": "r", "service": "s" }),
    ];
    // Given as a field of its own, in base64 and behind percent escapes.
    let peer = Peer::start(|request| {
        let field = |name: &str| {
            let line = request.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
            line.and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned())
        };
        let shown = field("x-mac: ").or_else(|| field("authorization: ")).expect("a signature");
        let signature = shown.rsplit(['=', '.']).find(|part| !part.is_empty()).expect("a signature").to_owned();
        let escaped: String = signature.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let location = format!("http://127.0.0.1:8080/?said={signature}");
        let body = format!("{shown} {} {escaped}", STANDARD.encode(&signature));
        if request.contains("/moved") {
            redirect("307 Moved", &location)
        } else {
            Act::Reply(reply("200 OK", &format!("x-said: {shown}\r\n"), body))
        }
    })
    .await;
    for placement in signing {
        let kind = placement["type"].clone();
        let placement = serde_json::from_value(placement).expect("a placement");
        let fields = [
            ("token", FieldValue::Secret("canary/S3cr3t+v4lue-of-32-bytes!".into())),
            ("id", FieldValue::Clear("AKIDEXAMPLE".to_owned())),
        ];
        let value = ConnectionValue::CustomAuth { fields: fields.map(|(name, field)| (name.to_owned(), field)).into() };
        let origins = vec![Origin::of_url(&peer.origin()).expect("an origin")];
        let connection = Connection::new("api", value, vec![placement], origins).expect("valid");
        let placeholders = vec![(placeholder('w'), Stands::Whole)];
        let bound = RunConnection { id: ConnectionId::from_u128(7), connection, placeholders };
        let credentials = Arc::new(RunCredentials::new(vec![bound]).expect("long"));
        let client = egress(open_plain(), &[]).for_run(credentials);
        let masked = client.send(with_credential("GET", format!("{}/", peer.origin()))).await.expect("an answer");
        let signature = peer.requests().pop().expect("asked");
        let signature = signature.lines().find(|line| {
            let line = line.to_ascii_lowercase();
            line.starts_with("x-mac: ") || line.starts_with("authorization: ")
        });
        let signature = signature.and_then(|line| line.rsplit(['=', '.']).next()).expect("a signature").to_owned();
        assert!(signature.len() > 30, "{kind}: {signature}");
        let said = format!("{} {}", text(&masked), masked.header("x-said").expect("said"));
        assert!(!said.contains(&signature), "{kind}: {said}");
        assert!(said.matches("‹redacted:api›").count() >= 4, "{kind}: {said}");
        // Nor does a redirect carry it away.
        let moved = client.send(with_credential("GET", format!("{}/moved", peer.origin()))).await;
        assert!(
            matches!(&moved, Err(HttpError::Credential { reason }) if reason.contains("to another origin")),
            "{kind}: {moved:?}"
        );
    }
}
