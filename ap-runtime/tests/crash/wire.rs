//! As much of HTTP/1.1 as the peer, the host and the senders need: bodies with a length, one request after the other.

use std::{future::Future, io};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, ToSocketAddrs},
};

/// A request or a response.
#[derive(Debug, Default)]
pub struct Message {
    /// Request line or status line.
    pub start: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    pub fn new(start: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { start: start.into(), headers: Vec::new(), body: body.into() }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// The status of a response.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
    }

    /// The target of a request.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }
}

/// Sends one request on a connection of its own.
pub async fn exchange(address: impl ToSocketAddrs, request: &Message) -> io::Result<Message> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    write(&mut stream, request).await?;
    read(&mut stream).await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Answers requests for as long as the tokio runtime lives.
pub async fn serve<F, A>(listener: TcpListener, answer: F)
where
    F: Fn(Message) -> A + Clone + Send + 'static,
    A: Future<Output = Message> + Send,
{
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            while let Ok(Some(request)) = read(&mut stream).await {
                if write(&mut stream, &answer(request).await).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// `None` if the other side hung up between two messages.
async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Message>> {
    let Some(start) = line(stream).await? else { return Ok(None) };
    let mut message = Message::new(start, []);
    loop {
        let field = line(stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if field.is_empty() {
            break;
        }
        let (name, value) = field.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
        message.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = message.header("content-length").and_then(|length| length.parse().ok()).unwrap_or_default();
    message.body = vec![0; length];
    stream.read_exact(&mut message.body).await?;
    Ok(Some(message))
}

/// A line without its end; one that broke off is an error.
async fn line(stream: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    line.strip_suffix("\r\n").map(|line| Some(line.to_owned())).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

async fn write(stream: &mut BufReader<TcpStream>, message: &Message) -> io::Result<()> {
    let mut head = format!("{}\r\ncontent-length: {}\r\n", message.start, message.body.len());
    for (name, value) in &message.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(&[head.as_bytes(), &message.body].concat()).await?;
    stream.flush().await
}
