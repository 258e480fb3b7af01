//! An API that checks the credentials it gets, and gives them back in every way there is.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time,
};

use crate::{echo::Echo, secrets::Secrets};

/// The API.
pub struct Peer {
    address: SocketAddr,
    verified: Arc<AtomicUsize>,
    seen: Arc<Seen>,
}

/// What the requests held.
#[derive(Default)]
struct Seen {
    /// What stood for a token in those it refused.
    refused: Mutex<Vec<String>>,
    /// The member `value` of the bodies of the others.
    values: Mutex<Vec<Value>>,
}

impl Peer {
    pub async fn start(secrets: &Secrets) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let verified = Arc::new(AtomicUsize::new(0));
        let (api, odd) = (secrets.api.clone(), secrets.odd.clone());
        let seen = Arc::new(Seen::default());
        tokio::spawn({
            let (verified, seen) = (Arc::clone(&verified), Arc::clone(&seen));
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let rights = (api.clone(), odd.clone());
                    tokio::spawn(answer(stream, rights, Arc::clone(&verified), Arc::clone(&seen)));
                }
            }
        });
        Self { address, verified, seen }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests carried the right credentials.
    pub fn verified(&self) -> usize {
        self.verified.load(Ordering::SeqCst)
    }

    /// The bearer tokens of the requests it refused.
    pub fn refused(&self) -> Vec<String> {
        self.seen.refused.lock().unwrap().clone()
    }

    /// The value that a flow sent last.
    pub fn last_value(&self) -> Value {
        self.seen.values.lock().unwrap().last().cloned().expect("nothing was sent")
    }
}

async fn answer(mut stream: TcpStream, (api, odd): (String, String), verified: Arc<AtomicUsize>, seen: Arc<Seen>) {
    let (target, bearer, body) = read(&mut stream).await;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let in_query = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "key");
    let body = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    let in_body = body.pointer("/auth/key").and_then(Value::as_str).map(str::to_owned);
    let key = in_query.map(|(_, key)| key.into_owned()).or(in_body).unwrap_or_default();
    if bearer != api || key != odd {
        seen.refused.lock().unwrap().push(bearer);
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
        return;
    }
    verified.fetch_add(1, Ordering::SeqCst);
    let echo = Echo::named(path.rsplit('/').next().unwrap_or_default());
    // The client hangs up when it does not like what it gets.
    let value = body.get("value").filter(|value| !value.is_null());
    seen.values.lock().unwrap().extend(value.cloned());
    let value = value.map(Value::to_string);
    let echoed = [Some(&bearer), Some(&key), value.as_ref()];
    let _ = give_back(&mut stream, echo, &echoed.into_iter().flatten().map(String::as_str).collect::<Vec<_>>()).await;
}

/// Request target, bearer token and body.
async fn read(stream: &mut TcpStream) -> (String, String, Vec<u8>) {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the request broke off");
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let field = |name: &str| {
        let mut fields = text.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let length = field("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = bytes[head + 4..].to_vec();
    while body.len() < length {
        assert!(stream.read_buf(&mut body).await.unwrap() > 0, "the body broke off");
    }
    let bearer = field("authorization").and_then(|value| value.strip_prefix("Bearer ").map(str::to_owned));
    (text.split(' ').nth(1).unwrap_or_default().to_owned(), bearer.unwrap_or_default(), body)
}

async fn give_back(stream: &mut TcpStream, echo: Echo, secrets: &[&str]) -> std::io::Result<()> {
    let forms: Vec<Vec<u8>> = secrets.iter().map(|secret| echo.write(secret)).collect();
    let body = match echo {
        Echo::Json => [b"{\"echo\":[\"", &*forms.join(&b"\",\""[..]), b"\"]}"].concat(),
        Echo::Gzip => gzip(&forms.join(&b" | "[..])),
        Echo::Headers => b"see the headers".to_vec(),
        // More than a journal takes: before, between and behind the echoes.
        Echo::Large => [&b""[..], &forms[0], &forms[1], b""].join(&b"filling ".repeat(20 << 10)[..]),
        // Of the same width, so that what follows stays aligned.
        Echo::Utf16Be | Echo::Utf16Le => forms.concat(),
        _ => forms.join(&b" | "[..]),
    };
    let status = match echo {
        Echo::NotFound => "404 Not Found",
        Echo::ServerError => "500 Internal Server Error",
        _ => "200 OK",
    };
    let content_type = match echo {
        Echo::Json => "application/json",
        Echo::Latin1 => "text/plain; charset=iso-8859-1",
        Echo::Utf16Be | Echo::Utf16Le => "text/plain; charset=utf-16",
        _ => "text/plain; charset=utf-8",
    };
    let mut head = format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\nconnection: close\r\n");
    match echo {
        Echo::Headers => {
            for (index, form) in forms.iter().enumerate() {
                head.push_str(&format!("x-echo-{index}: you sent {}\r\n", String::from_utf8_lossy(form)));
            }
        }
        Echo::Gzip => head.push_str("content-encoding: gzip\r\n"),
        _ => {}
    }
    if echo == Echo::Chunks {
        stream.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).await?;
        for part in body.chunks(7) {
            stream.write_all(&[format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()).await?;
            stream.flush().await?;
            time::sleep(Duration::from_millis(2)).await;
        }
        return stream.write_all(b"0\r\n\r\n").await;
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    stream.write_all(&[head.as_bytes(), &body].concat()).await
}

/// RFC 1952 around one block with the fixed codes of RFC 1951 §3.2.6: shorter than nothing, but not readable as it is.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut bits: Vec<bool> = vec![true, true, false];
    let mut code = |value: u32, length: u32| bits.extend((0..length).rev().map(|bit| value >> bit & 1 == 1));
    for byte in bytes {
        match *byte {
            low @ 0..=143 => code(0x30 + u32::from(low), 8),
            high => code(0x190 + u32::from(high) - 144, 9),
        }
    }
    code(0, 7);
    let packed = bits.chunks(8).map(|chunk| chunk.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    out.extend(packed.map(|byte: u8| byte));
    out.extend(crc32(bytes).to_le_bytes());
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xedb8_8320 * (crc & 1))))
}
