//! An API that checks the credentials it gets, and gives them back in every way there is.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream, time};

use crate::{
    asked::{Asked, listen},
    echo::{self, Echo},
    search::Search,
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
    strays: Mutex<Vec<String>>,
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
            all: secrets.search(),
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

    /// The requests that carried a credential where it has no right to be: which, and where they went.
    pub fn strays(&self) -> Vec<String> {
        self.seen.strays.lock().unwrap().clone()
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
    /// Finds every credential there is.
    all: Search,
    elsewhere: SocketAddr,
}

async fn answer(mut stream: TcpStream, rights: Arc<Rights>, verified: Arc<AtomicUsize>, seen: Arc<Seen>) {
    let Some(request) = Received::read(&mut stream).await else { return };
    let shown = if request.asked.path().starts_with("/any/") {
        request.any(&rights)
    } else {
        let both = request.bearer() == rights.api && request.key() == rights.odd;
        both.then(|| vec![("api", request.bearer()), ("odd", request.key())])
    };
    let places = request.credentials(&rights);
    let declared: BTreeSet<&str> = shown.iter().flatten().map(|(name, _)| *name).collect();
    if !places.is_subset(&declared) {
        let stray = format!("{places:?} instead of {declared:?} in {}", request.asked.target);
        seen.strays.lock().unwrap().push(stray);
    }
    let Some(shown) = shown else {
        seen.refused.lock().unwrap().push(request.bearer());
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
        return;
    };
    verified.fetch_add(1, Ordering::SeqCst);
    let name = request.asked.wish().to_owned();
    let value = request.body.get("value").filter(|value| !value.is_null());
    seen.values.lock().unwrap().extend(value.cloned());
    let echoed: Vec<String> = shown.into_iter().map(|(_, shown)| shown).chain(value.map(Value::to_string)).collect();
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

/// Counts what it should not have got, and gives it back: credentials, and whatever an author wrote for another origin.
async fn answer_elsewhere(mut stream: TcpStream, rights: Arc<Rights>, seen: Arc<Seen>) {
    let Some(request) = Received::read(&mut stream).await else { return };
    let shown = request.any(&rights).unwrap_or_default();
    let personal = ["authorization", "cookie"].iter().any(|name| request.asked.field(name).is_some());
    let found = request.credentials(&rights);
    if personal || !found.is_empty() {
        seen.strays
            .lock()
            .unwrap()
            .push(format!("{found:?}, personal: {personal}, elsewhere: {}", request.asked.target));
    }
    let shown: Vec<&str> = shown.iter().map(|(_, shown)| shown.as_str()).collect();
    let _ = give_back(&mut stream, Echo::Text, &shown).await;
}

async fn redirect(stream: &mut TcpStream, location: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await
}

/// A request, and its body as JSON.
struct Received {
    asked: Asked,
    body: Value,
}

impl Received {
    async fn read(stream: &mut TcpStream) -> Option<Self> {
        let asked = Asked::read(stream).await?;
        let body = serde_json::from_slice(&asked.body).unwrap_or_default();
        Some(Self { asked, body })
    }

    fn bearer(&self) -> String {
        let field = self.asked.field("authorization").unwrap_or_default();
        field.strip_prefix("Bearer ").unwrap_or_default().to_owned()
    }

    /// The key in the query, or else in the body.
    fn key(&self) -> String {
        let in_query = self.asked.query().into_iter().find(|(name, _)| name == "key");
        let in_body = || self.body.pointer("/auth/key").and_then(Value::as_str).map(str::to_owned);
        in_query.map(|(_, key)| key).or_else(in_body).unwrap_or_default()
    }

    /// Every credential that it carries, if all that it carries are right and there is one.
    fn any(&self, rights: &Rights) -> Option<Vec<(&'static str, String)>> {
        let basic = self.asked.field("authorization").filter(|value| value.starts_with("Basic ")).unwrap_or_default();
        let pairs = [
            ("api", self.bearer(), &rights.api),
            ("odd", self.key(), &rights.odd),
            ("basic", basic.to_owned(), &rights.basic),
            ("keyed", self.asked.field("x-key").unwrap_or_default().to_owned(), &rights.header),
        ];
        let shown: Vec<_> = pairs.into_iter().filter(|(_, shown, _)| !shown.is_empty()).collect();
        let right = !shown.is_empty() && shown.iter().all(|(_, shown, right)| shown == *right);
        right.then(|| shown.into_iter().map(|(name, shown, _)| (name, shown)).collect())
    }

    /// The names of the credentials that stand anywhere in it but in its value: that is what a flow was told from outside.
    fn credentials<'r>(&self, rights: &'r Rights) -> BTreeSet<&'r str> {
        let mut body = self.body.clone();
        body.as_object_mut().map(|members| members.remove("value"));
        let mut all = format!("{}\n{body}\n", self.asked.target).into_bytes();
        // One place is declared whatever else stands there.
        for (_, value) in self.asked.fields.iter().filter(|(name, _)| name != "x-key") {
            all.extend_from_slice(value.as_bytes());
            all.push(b'\n');
        }
        let found = rights.all.places(&all).into_iter();
        found.filter_map(|(found, _)| found.split_once(" as ").map(|(name, _)| name)).collect()
    }
}

/// Answers with `secrets` in this form.
pub(crate) async fn give_back(stream: &mut TcpStream, echo: Echo, secrets: &[&str]) -> std::io::Result<()> {
    let forms: Vec<Vec<u8>> = secrets.iter().map(|secret| echo.write(secret)).collect();
    let body = match echo {
        Echo::Json => [b"{\"echo\":[\"", &*forms.join(&b"\",\""[..]), b"\"]}"].concat(),
        Echo::Gzip => gzip(&forms.join(&b" | "[..])),
        Echo::Headers => b"see the headers".to_vec(),
        // More than a journal takes: before, between and behind the echoes.
        Echo::Large => [&b""[..], &forms[0], &forms[forms.len() - 1], b""].join(&b"filling ".repeat(20 << 10)[..]),
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
