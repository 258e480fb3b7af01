//! A request as it came to a peer, and answers to it.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use url::form_urlencoded;

/// A port of this machine, and who listens there.
pub(crate) async fn listen() -> (TcpListener, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A request.
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    /// Reads one. `None` if nobody asks any more.
    pub(crate) async fn read(stream: &mut TcpStream) -> Option<Self> {
        let mut bytes = Vec::new();
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                assert!(bytes.is_empty(), "the request broke off");
                return None;
            }
        };
        let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
        let fields = text.lines().skip(1).filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        let mut first = text.split(' ');
        let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
        let mut asked = Self { method: method.to_owned(), target: target.to_owned(), fields, body: Vec::new() };
        let length = asked.field("content-length").map_or(0, |length| length.parse().unwrap());
        asked.body = bytes[head + 4..].to_vec();
        while asked.body.len() < length {
            assert!(stream.read_buf(&mut asked.body).await.unwrap() > 0, "the body broke off");
        }
        Some(asked)
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The last part of the path: what it is asked to do.
    pub(crate) fn wish(&self) -> &str {
        self.path().rsplit('/').next().unwrap_or_default()
    }

    pub(crate) fn query(&self) -> Vec<(String, String)> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }
}

/// Answers and hangs up. The client may have done so before, when it does not like what it gets.
pub(crate) async fn answer(stream: &mut TcpStream, status: &str, fields: &str, body: impl AsRef<[u8]>) {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{fields}\r\n", body.len());
    let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
}
