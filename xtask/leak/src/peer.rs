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

use crate::{
    echo::{self, Echo},
    secrets::Secrets,
};

/// The API.
pub struct Peer {
    address: SocketAddr,
    /// The same machine, another origin.
    elsewhere: SocketAddr,
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
    /// Credentials that came to an origin that has no right to any.
    strays: AtomicUsize,
}

impl Peer {
    pub async fn start(secrets: &Secrets) -> Self {
        let (listener, address) = listen().await;
        let (other, elsewhere) = listen().await;
        let verified = Arc::new(AtomicUsize::new(0));
        let seen = Arc::new(Seen::default());
        let rights = Arc::new(Rights {
            api: secrets.api.clone(),
            odd: secrets.odd.clone(),
            basic: format!("Basic {}", echo::base64(format!("ada:{}", secrets.password).as_bytes(), echo::STANDARD)),
            header: secrets.header.clone(),
            elsewhere,
        });
        tokio::spawn({
            let (verified, seen, rights) = (Arc::clone(&verified), Arc::clone(&seen), Arc::clone(&rights));
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(answer(stream, Arc::clone(&rights), Arc::clone(&verified), Arc::clone(&seen)));
                }
            }
        });
        tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                loop {
                    let (stream, _) = other.accept().await.unwrap();
                    tokio::spawn(answer_elsewhere(stream, Arc::clone(&rights), Arc::clone(&seen)));
                }
            }
        });
        Self { address, elsewhere, verified, seen }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// An origin that no connection names.
    pub fn elsewhere(&self) -> String {
        format!("http://{}", self.elsewhere)
    }

    /// How many requests carried a credential to the origin that has no right to any.
    pub fn strays(&self) -> usize {
        self.seen.strays.load(Ordering::SeqCst)
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

/// What a request may show.
struct Rights {
    api: String,
    odd: String,
    /// The whole field.
    basic: String,
    header: String,
    elsewhere: SocketAddr,
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn answer(mut stream: TcpStream, rights: Arc<Rights>, verified: Arc<AtomicUsize>, seen: Arc<Seen>) {
    let request = Received::read(&mut stream).await;
    let shown = if request.path().starts_with("/any/") {
        request.any(&rights)
    } else {
        (request.bearer() == rights.api && request.key() == rights.odd).then(|| vec![request.bearer(), request.key()])
    };
    let Some(shown) = shown else {
        seen.refused.lock().unwrap().push(request.bearer());
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
        return;
    };
    verified.fetch_add(1, Ordering::SeqCst);
    let name = request.path().rsplit('/').next().unwrap_or_default().to_owned();
    let value = request.body.get("value").filter(|value| !value.is_null());
    seen.values.lock().unwrap().extend(value.cloned());
    let echoed: Vec<String> = shown.into_iter().chain(value.map(Value::to_string)).collect();
    let echoed: Vec<&str> = echoed.iter().map(String::as_str).collect();
    // The client hangs up when it does not like what it gets.
    let _ = match name.as_str() {
        "Redirect" | "RedirectAway" => {
            let said = echo::percent(echoed[0], |byte| format!("%{byte:02X}"));
            let there = if name == "Redirect" { String::new() } else { format!("http://{}", rights.elsewhere) };
            redirect(&mut stream, &format!("{there}/any/Text?said={said}")).await
        }
        "RedirectElsewhere" => redirect(&mut stream, &format!("http://{}/any/Text", rights.elsewhere)).await,
        "Cut" => {
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: 9999\r\nx-said: {}\r\n\r\n",
                echo::percent(echoed[0], |byte| format!("%{byte:02X}"))
            );
            stream.write_all(&[head.as_bytes(), echoed.join(" ").as_bytes()].concat()).await
        }
        "Hang" => {
            let sent = stream
                .write_all(&[b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n", echoed.join(" ").as_bytes()].concat())
                .await;
            time::sleep(Duration::from_secs(20)).await;
            sent
        }
        _ => give_back(&mut stream, Echo::named(&name), &echoed).await,
    };
}

/// Counts what it should not have got, and gives it back.
async fn answer_elsewhere(mut stream: TcpStream, rights: Arc<Rights>, seen: Arc<Seen>) {
    let request = Received::read(&mut stream).await;
    let shown = request.any(&rights).unwrap_or_default();
    seen.strays.fetch_add(usize::from(!shown.is_empty()), Ordering::SeqCst);
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    let _ = give_back(&mut stream, Echo::Text, &shown).await;
}

async fn redirect(stream: &mut TcpStream, location: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await
}

/// A request.
struct Received {
    target: String,
    fields: Vec<(String, String)>,
    body: Value,
}

impl Received {
    async fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the request broke off");
        };
        let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
        let fields = text.lines().skip(1).filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut request = Self { target, fields, body: Value::Null };
        let length = request.field("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = bytes[head + 4..].to_vec();
        while body.len() < length {
            assert!(stream.read_buf(&mut body).await.unwrap() > 0, "the body broke off");
        }
        request.body = serde_json::from_slice(&body).unwrap_or_default();
        request
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    fn bearer(&self) -> String {
        let field = self.field("authorization").unwrap_or_default();
        field.strip_prefix("Bearer ").unwrap_or_default().to_owned()
    }

    /// The key in the query, or else in the body.
    fn key(&self) -> String {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let in_query = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "key");
        let in_body = || self.body.pointer("/auth/key").and_then(Value::as_str).map(str::to_owned);
        in_query.map(|(_, key)| key.into_owned()).or_else(in_body).unwrap_or_default()
    }

    /// Every credential that it carries, if all that it carries are right and there is one.
    fn any(&self, rights: &Rights) -> Option<Vec<String>> {
        let basic = self.field("authorization").filter(|value| value.starts_with("Basic ")).unwrap_or_default();
        let pairs = [
            (self.bearer(), &rights.api),
            (self.key(), &rights.odd),
            (basic.to_owned(), &rights.basic),
            (self.field("x-key").unwrap_or_default().to_owned(), &rights.header),
        ];
        let shown: Vec<_> = pairs.into_iter().filter(|(shown, _)| !shown.is_empty()).collect();
        let right = !shown.is_empty() && shown.iter().all(|(shown, right)| shown == *right);
        right.then(|| shown.into_iter().map(|(shown, _)| shown).collect())
    }
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
