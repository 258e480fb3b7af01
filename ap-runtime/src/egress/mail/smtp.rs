//! The conversation with a mail server (RFC 5321), with STARTTLS (RFC 3207) and AUTH (RFC 4954).
//!
//! What the server says before TLS does not count after it: bytes that came early are an attack, and end the exchange.

use std::fmt::Write as _;

use ap_core::capability::ExchangeError;
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::egress::server::Ordered;

/// One side of a conversation.
pub(super) struct Smtp<S> {
    stream: S,
    /// What came and was not read yet.
    buffer: Vec<u8>,
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Reply {
    code: u16,
    lines: Vec<String>,
}

/// What a server says it can do.
#[derive(Debug, Default)]
pub(super) struct Abilities {
    pub(super) starttls: bool,
    plain: bool,
    login: bool,
    /// Largest message; 0 for no limit that is said (RFC 1870).
    size: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Smtp<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The words with which a server begins.
    pub(super) async fn greeting(&mut self) -> Result<(), ExchangeError> {
        self.reply().await?.expect(220).map(drop)
    }

    pub(super) async fn hello(&mut self, name: &str) -> Result<Abilities, ExchangeError> {
        let reply = self.command(&format!("EHLO {name}")).await?.expect(250)?;
        let mut able = Abilities::default();
        for line in reply.lines.iter().skip(1) {
            let upper = line.to_ascii_uppercase();
            let mut words = upper.split([' ', '=']);
            match words.next() {
                Some("STARTTLS") => able.starttls = true,
                Some("AUTH") => words.for_each(|word| match word {
                    "PLAIN" => able.plain = true,
                    "LOGIN" => able.login = true,
                    _ => {}
                }),
                Some("SIZE") => able.size = words.next().and_then(|size| size.parse().ok()).unwrap_or_default(),
                _ => {}
            }
        }
        Ok(able)
    }

    /// Asks for TLS; gives the stream back on which to speak it.
    pub(super) async fn starttls(mut self) -> Result<S, ExchangeError> {
        self.command("STARTTLS").await?.expect(220)?;
        if !self.buffer.is_empty() {
            return Err(broken("the mail server sent text before TLS that would have been read after it"));
        }
        Ok(self.stream)
    }

    pub(super) async fn log_in(
        &mut self,
        able: &Abilities,
        username: &str,
        password: &SecretString,
    ) -> Result<(), ExchangeError> {
        let reply = if able.plain {
            let mut text = Zeroizing::new(Vec::with_capacity(username.len() + password.expose_secret().len() + 2));
            text.push(0);
            text.extend_from_slice(username.as_bytes());
            text.push(0);
            text.extend_from_slice(password.expose_secret().as_bytes());
            self.send_secret("AUTH PLAIN ", &text).await?;
            self.reply().await?
        } else if able.login {
            self.command("AUTH LOGIN").await?.expect(334)?;
            self.send_secret("", username.as_bytes()).await?;
            self.reply().await?.expect(334)?;
            self.send_secret("", password.expose_secret().as_bytes()).await?;
            self.reply().await?
        } else {
            let reason = "the mail server offers neither AUTH PLAIN nor AUTH LOGIN".to_owned();
            return Err(ExchangeError::Credential { reason });
        };
        if reply.code == 235 {
            return Ok(());
        }
        let refused = reply.rejected();
        // Other codes than of a wrong password: too many connections, a fault of the server.
        if matches!(reply.code, 500..=599) {
            return Err(ExchangeError::Credential { reason: format!("the mail server refused the log-in: {refused}") });
        }
        Err(refused)
    }

    /// Sends one message to all of `to`, or to nobody.
    pub(super) async fn send(
        &mut self,
        able: &Abilities,
        from: &str,
        to: &[String],
        message: &[u8],
        ordered: &Ordered,
    ) -> Result<String, ExchangeError> {
        let size = message.len() as u64;
        if able.size > 0 && size > able.size {
            let limit = usize::try_from(able.size).unwrap_or(usize::MAX);
            return Err(ExchangeError::TooLarge { what: "the message in bytes, to this mail server,", limit });
        }
        let announced = if able.size > 0 { format!(" SIZE={size}") } else { String::new() };
        self.command(&format!("MAIL FROM:<{from}>{announced}")).await?.expect(250)?;
        for address in to {
            let reply = self.command(&format!("RCPT TO:<{address}>")).await?;
            if !matches!(reply.code, 250 | 251) {
                return Err(reply.rejected());
            }
        }
        self.command("DATA").await?.expect(354)?;
        self.write(&stuffed(message)).await?;
        // From here on the server has all of it, and may act although its answer does not come.
        ordered.set();
        self.write(b".\r\n").await?;
        let reply = self.reply().await?.expect(250)?;
        Ok(reply.text())
    }

    /// Says goodbye; what becomes of it does not matter any more.
    pub(super) async fn quit(&mut self) {
        let _ = self.write(b"QUIT\r\n").await;
        let _ = self.stream.shutdown().await;
    }

    async fn command(&mut self, line: &str) -> Result<Reply, ExchangeError> {
        // Parts of it come from outside, and were checked: this is the last place to notice.
        if line.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(ExchangeError::InvalidRequest {
                reason: "a mail command holds a control character".to_owned(),
            });
        }
        self.write(format!("{line}\r\n").as_bytes()).await?;
        self.reply().await
    }

    async fn send_secret(&mut self, before: &str, secret: &[u8]) -> Result<(), ExchangeError> {
        let encoded = Zeroizing::new(STANDARD.encode(secret));
        let mut line = Zeroizing::new(Vec::with_capacity(before.len() + encoded.len() + 2));
        line.extend_from_slice(before.as_bytes());
        line.extend_from_slice(encoded.as_bytes());
        line.extend_from_slice(b"\r\n");
        self.write(&line).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), ExchangeError> {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        written.await.map_err(|_| broken("the mail server broke the exchange off"))
    }

    /// Reads one reply, of one line or several (RFC 5321 §4.2.1).
    async fn reply(&mut self) -> Result<Reply, ExchangeError> {
        let mut reply = Reply { code: 0, lines: Vec::new() };
        let mut bytes = 0;
        loop {
            let line = self.line().await?;
            bytes += line.len();
            let malformed = || broken("the mail server does not speak SMTP");
            if bytes > MAX_REPLY_BYTES {
                return Err(malformed());
            }
            let code = line.get(..3).filter(|code| code.iter().all(u8::is_ascii_digit)).ok_or_else(malformed)?;
            let code = code.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
            if !(200..600).contains(&code) || (reply.code != 0 && reply.code != code) {
                return Err(malformed());
            }
            reply.code = code;
            reply.lines.push(String::from_utf8_lossy(line.get(4..).unwrap_or_default()).into_owned());
            match line.get(3) {
                Some(b'-') => {}
                Some(b' ') | None => return Ok(reply),
                Some(_) => return Err(malformed()),
            }
        }
    }

    /// One line without its end.
    async fn line(&mut self) -> Result<Vec<u8>, ExchangeError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(line);
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(broken("the mail server does not speak SMTP"));
            }
            let mut chunk = [0; 1024];
            let read = self.stream.read(&mut chunk).await.unwrap_or(0);
            if read == 0 {
                return Err(broken("the mail server broke the exchange off"));
            }
            self.buffer.extend_from_slice(chunk.get(..read).unwrap_or_default());
        }
    }
}

impl Reply {
    fn expect(self, code: u16) -> Result<Self, ExchangeError> {
        if self.code == code { Ok(self) } else { Err(self.rejected()) }
    }

    fn rejected(&self) -> ExchangeError {
        let transient = (400..500).contains(&self.code);
        ExchangeError::Rejected { code: self.code.to_string(), reason: self.text(), transient }
    }

    /// All of it: whoever shortens it masks it first, or a part of a credential would stay.
    fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            let _ = write!(text, "{}{line}", if text.is_empty() { "" } else { " " });
        }
        text
    }
}

/// The message with its lines ended by CR LF and dots at their beginnings doubled (RFC 5321 §4.5.2).
fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 64 + 2);
    let text = message.strip_suffix(b"\n").map_or(message, |text| text.strip_suffix(b"\r").unwrap_or(text));
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.first() == Some(&b'.') {
            out.push(b'.');
        }
        // A CR by itself would be the end of a line to some servers (SMTP smuggling).
        out.extend(line.iter().filter(|byte| **byte != b'\r'));
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Whether anything was changed is for the caller to say.
fn broken(reason: &str) -> ExchangeError {
    ExchangeError::Interrupted { reason: reason.to_owned() }
}

/// RFC 5321 §4.5.3.1.5 asks for 512; some servers are wordy.
const MAX_LINE_BYTES: usize = 8 << 10;
const MAX_REPLY_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dots_and_bare_line_ends_cannot_end_a_message() {
        for (message, expected) in [
            ("", "\r\n"),
            ("a\r\n", "a\r\n"),
            ("a\nb", "a\r\nb\r\n"),
            (".\r\n.a\r\n..", "..\r\n..a\r\n...\r\n"),
            ("a\r.\rb\r\n", "a.b\r\n"),
            ("a\r\r\n.\r\n", "a\r\n..\r\n"),
            ("a\n.\nMAIL FROM:<x>", "a\r\n..\r\nMAIL FROM:<x>\r\n"),
        ] {
            assert_eq!(String::from_utf8(stuffed(message.as_bytes())).expect("ASCII"), expected, "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn no_message_holds_its_own_end(message: Vec<u8>) {
            let out = [b"\r\n", stuffed(&message).as_slice()].concat();
            prop_assert!(!out.windows(5).any(|window| window == b"\r\n.\r\n"));
            let lone = |at: usize| (out[at] == b'\r') != (out.get(at + 1) == Some(&b'\n'));
            prop_assert!(!(0..out.len()).any(lone));
        }
    }

    async fn reply(text: &[u8]) -> Result<Reply, ExchangeError> {
        let (mut server, client) = tokio::io::duplex(1 << 20);
        server.write_all(text).await.expect("room");
        drop(server);
        Smtp::new(client).reply().await
    }

    #[tokio::test]
    async fn replies_are_read_whole() {
        let found = reply(b"250-mail.example\r\n250-SIZE 100\r\n250 ok\r\n").await.expect("a reply");
        assert_eq!((found.code, found.lines.len()), (250, 3));
        assert_eq!(reply(b"220\n").await.expect("a reply").code, 220);
        for wrong in [
            &b""[..],
            b"250",
            b"250-a\r\n",
            b"250-a\r\n251 b\r\n",
            b"hello\r\n",
            b"25x a\r\n",
            b"100 a\r\n",
            b"600 a\r\n",
            b"250+a\r\n",
        ] {
            assert!(reply(wrong).await.is_err(), "{wrong:?}");
        }
        assert!(reply(&b"a".repeat(100_000)).await.is_err());
        assert!(reply(&b"250-a\r\n".repeat(20_000)).await.is_err());
    }
}
