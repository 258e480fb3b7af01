//! A mail server that speaks SMTP, with STARTTLS or TLS, and misbehaves when told to.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ap_core::capability::{ExchangeError, MailAttachment, MailClient, MailMessage, MailReceipt};
use ap_runtime::egress::{
    credential::{Place, RunCredentials},
    guard::Guard,
    mail::{MailEgress, RunMail},
    trust::TrustRoots,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::{
    certificate::Certificate,
    support::{CANARY, Untouched, closed, loopback, placeholder, plain_loopback, run, run_bound},
};

/// Whose mailbox is full.
const FULL: &str = "full@one.example";

/// What a server does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Says the password behind so many characters, to the message and to the recipient [`FULL`].
    Says(usize),
    /// Offers no STARTTLS.
    Plain,
    /// Speaks TLS from the first byte.
    Implicit,
    /// Sends text before TLS that is meant to be read after it.
    Injects,
    /// Refuses the log-in, and repeats it.
    Echoes,
    /// Offers AUTH LOGIN alone.
    LoginOnly,
    /// Refuses recipients of this domain.
    Refuses(&'static str),
    /// Breaks off at this command.
    BreaksAt(&'static str),
    /// Takes the message and does not answer.
    Silent,
}

pub(crate) struct MailServer {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<String>>>,
    certificate: Certificate,
}

impl MailServer {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (seen, certificate) = (Arc::new(Mutex::new(Vec::new())), Certificate::make());
        let acceptor = certificate.acceptor(rustls::ALL_VERSIONS, &[]);
        let lines = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (manner, acceptor, lines) = (manner.clone(), acceptor.clone(), Arc::clone(&lines));
                tokio::spawn(async move { serve(stream, &manner, &acceptor, &lines).await });
            }
        });
        Self { port, seen, certificate }
    }

    pub(crate) fn roots(&self) -> TrustRoots {
        self.certificate.roots()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen.lock().expect("not poisoned").clone()
    }

    fn credentials(&self, more: &[(&str, &str)]) -> Arc<RunCredentials> {
        let port = self.port.to_string();
        let clear = [("host", "localhost"), ("port", port.as_str()), ("username", "robot@mail.example")];
        run(&[&clear[..], more].concat(), &[("password", CANARY)])
    }

    fn mail(&self, guard: Guard, more: &[(&str, &str)]) -> RunMail {
        let egress = MailEgress::builder(guard).with_trust_roots(self.certificate.roots()).build().expect("built");
        egress.for_run(self.credentials(more))
    }

    async fn send(
        &self,
        guard: Guard,
        more: &[(&str, &str)],
        message: MailMessage,
    ) -> Result<MailReceipt, ExchangeError> {
        self.mail(guard, more).send(message).await
    }
}

async fn serve(stream: TcpStream, manner: &Manner, acceptor: &TlsAcceptor, seen: &Mutex<Vec<String>>) {
    if *manner == Manner::Implicit {
        if let Ok(stream) = acceptor.accept(stream).await {
            converse(stream, manner, true, true, seen).await;
        }
        return;
    }
    let Some(stream) = converse(stream, manner, false, true, seen).await else { return };
    seen.lock().expect("not poisoned").push("TLS".to_owned());
    if let Ok(stream) = acceptor.accept(stream).await {
        converse(stream, manner, true, false, seen).await;
    }
}

/// Gives the stream back when it is to be encrypted.
async fn converse<S>(stream: S, manner: &Manner, tls: bool, greets: bool, seen: &Mutex<Vec<String>>) -> Option<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    if greets {
        stream.write_all(b"220 mail.example ESMTP\r\n").await.ok()?;
    }
    let mut in_data = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        seen.lock().expect("not poisoned").push(line.clone());
        let word = line.split([' ', ':']).next().unwrap_or_default();
        if matches!(manner, Manner::BreaksAt(at) if *at == word || (*at == "." && line == ".")) {
            return None;
        }
        let reply = match word {
            _ if in_data && line != "." => continue,
            _ if in_data => {
                in_data = false;
                if *manner == Manner::Silent {
                    std::future::pending::<()>().await;
                }
                match manner {
                    Manner::Says(at) => format!("250 {}{CANARY}", "x".repeat(*at)),
                    _ => "250 2.0.0 queued as 4711".to_owned(),
                }
            }
            "EHLO" if *manner == Manner::LoginOnly => "250-mail.example\r\n250-STARTTLS\r\n250 AUTH=LOGIN".to_owned(),
            "EHLO" if tls || *manner == Manner::Plain => {
                "250-mail.example\r\n250-SIZE 100000\r\n250 AUTH PLAIN LOGIN".to_owned()
            }
            "EHLO" => "250-mail.example\r\n250 STARTTLS".to_owned(),
            "STARTTLS" => {
                let more = if *manner == Manner::Injects { "250 injected\r\n" } else { "" };
                stream.write_all(format!("220 go ahead\r\n{more}").as_bytes()).await.ok()?;
                return Some(stream.into_inner());
            }
            "AUTH" if *manner == Manner::Echoes => {
                let sent = line.rsplit(' ').next().unwrap_or_default();
                let clear = STANDARD.decode(sent).unwrap_or_default();
                format!("535-5.7.8 not {}\r\n535 nor {sent}", String::from_utf8_lossy(&clear).replace('\0', " "))
            }
            "AUTH" if line == "AUTH LOGIN" => "334 VXNlcm5hbWU6".to_owned(),
            "AUTH" => "235 welcome".to_owned(),
            "RCPT" if matches!(manner, Manner::Refuses(domain) if line.contains(domain)) => {
                "550 5.1.1 no such user".to_owned()
            }
            "RCPT"
                if line.contains(FULL)
                    && let Manner::Says(at) = manner =>
            {
                format!("550 {}{CANARY}", "x".repeat(*at))
            }
            "MAIL" | "RCPT" => "250 ok".to_owned(),
            "DATA" => {
                in_data = true;
                "354 go on".to_owned()
            }
            "QUIT" => "221 bye".to_owned(),
            // Answers of AUTH LOGIN.
            other if STANDARD.decode(other).is_ok_and(|text| text == CANARY.as_bytes()) => "235 welcome".to_owned(),
            other if STANDARD.decode(other).is_ok() => "334 UGFzc3dvcmQ6".to_owned(),
            _ => "500 what".to_owned(),
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
    }
}

fn message() -> MailMessage {
    MailMessage {
        connection: placeholder(),
        to: vec!["Ann <ann@one.example>".to_owned()],
        bcc: vec!["bob@two.example".to_owned()],
        subject: "Your code".to_owned(),
        text: Some("It is 42.\n.\nbye".to_owned()),
        idempotency_key: Some("run/step".to_owned()),
        ..MailMessage::default()
    }
}

fn log_in() -> String {
    format!("AUTH PLAIN {}", STANDARD.encode(format!("\0robot@mail.example\0{CANARY}")))
}

#[tokio::test]
async fn mail_goes_out_over_starttls() {
    let server = MailServer::start(Manner::Honest).await;
    let mail = server.mail(loopback(), &[]);
    let content = Bytes::from_static(b"PDF");
    let attachments =
        vec![MailAttachment { name: "a.pdf".to_owned(), content_type: "application/pdf".to_owned(), content }];
    let receipt = mail.send(MailMessage { attachments, ..message() }).await.expect("sent");
    assert_eq!(receipt.reply, "2.0.0 queued as 4711");
    let lines = server.lines();
    let before: Vec<_> = lines.iter().take_while(|line| *line != "TLS").map(String::as_str).collect();
    assert_eq!(before, ["EHLO [127.0.0.1]", "STARTTLS"], "nothing else goes out unencrypted");
    let after: Vec<_> = lines.iter().skip(3).map(String::as_str).collect();
    assert_eq!(after[..2], ["EHLO [127.0.0.1]", &log_in()]);
    assert!(after[2].starts_with("MAIL FROM:<robot@mail.example> SIZE="), "{}", after[2]);
    assert_eq!(after[3..6], ["RCPT TO:<ann@one.example>", "RCPT TO:<bob@two.example>", "DATA"]);
    let text = after[6..].join("\n");
    assert!(text.contains("Subject: Your code") && text.contains("UERG") && text.contains("\n..\n"), "{text}");
    assert!(text.contains(&format!("Message-ID: {}", receipt.message_id)) && !text.contains("bob@"), "{text}");
    let uses = mail.take_uses();
    assert_eq!(uses.len(), 1);
    assert_eq!((uses[0].name.as_str(), &uses[0].place), ("peer", &Place::Login));
    assert_eq!(uses[0].origin.as_str(), format!("smtp://localhost:{}", server.port));
}

#[tokio::test]
async fn tls_from_the_first_byte_and_other_log_ins() {
    let server = MailServer::start(Manner::Implicit).await;
    server.send(loopback(), &[("security", "tls")], message()).await.expect("sent");
    assert_eq!(server.lines()[1], log_in());
    let server = MailServer::start(Manner::LoginOnly).await;
    server.send(loopback(), &[], message()).await.expect("sent");
    assert!(server.lines().contains(&"AUTH LOGIN".to_owned()));
    // Unencrypted, where the host says so.
    let server = MailServer::start(Manner::Plain).await;
    server.send(plain_loopback(), &[("security", "none")], message()).await.expect("sent");
    assert_eq!(server.lines()[1], log_in());
}

#[tokio::test]
async fn nothing_secret_goes_to_a_server_that_proves_nothing() {
    let credential = |outcome: Result<MailReceipt, ExchangeError>| match outcome.expect_err("refused") {
        ExchangeError::Credential { reason } | ExchangeError::Unreachable { reason } => reason,
        other => panic!("{other:?}"),
    };
    for (manner, more, expected) in [
        (Manner::Plain, &[][..], "offers no STARTTLS"),
        (Manner::Injects, &[], "before TLS"),
        (Manner::Honest, &[("security", "none")], "no encryption"),
        (Manner::Honest, &[("security", "maybe")], "must be `starttls`"),
    ] {
        let server = MailServer::start(manner.clone()).await;
        let reason = credential(server.send(loopback(), more, message()).await);
        assert!(reason.contains(expected), "{manner:?}: {reason}");
        assert!(
            server.lines().iter().all(|line| line.starts_with("EHLO") || line.starts_with("STARTTLS") || line == "TLS")
        );
    }
    // An authority nobody trusts.
    let server = MailServer::start(Manner::Honest).await;
    let egress = MailEgress::builder(loopback()).build().expect("built").for_run(server.credentials(&[]));
    assert!(credential(egress.send(message()).await).contains("TLS"));
    assert!(!server.lines().iter().any(|line| line.starts_with("AUTH")));
}

#[tokio::test]
async fn credentials_do_not_come_back() {
    let server = MailServer::start(Manner::Echoes).await;
    let refused = server.send(loopback(), &[], message()).await.expect_err("refused");
    let text = refused.to_string();
    assert!(matches!(refused, ExchangeError::Credential { .. }), "{refused:?}");
    assert!(text.contains("‹redacted:peer›") && !text.contains(CANARY), "{text}");
    assert!(!text.contains(&STANDARD.encode(format!("\0robot@mail.example\0{CANARY}"))), "{text}");
    for misplaced in [
        MailMessage { text: Some(format!("key: {}", placeholder())), ..message() },
        MailMessage { subject: placeholder(), ..message() },
        MailMessage {
            attachments: vec![MailAttachment {
                name: "a".to_owned(),
                content_type: "text/plain".to_owned(),
                content: Bytes::from(placeholder()),
            }],
            ..message()
        },
    ] {
        let refused = server.send(loopback(), &[], misplaced).await;
        assert!(matches!(refused, Err(ExchangeError::Credential { .. })), "{refused:?}");
    }
}

/// A reply is shown cut; the password is masked before, or its beginning would be shown.
#[tokio::test]
async fn a_credential_is_masked_before_a_reply_is_cut() {
    for at in [480, 495, 499] {
        let server = MailServer::start(Manner::Says(at)).await;
        let receipt = server.send(loopback(), &[], message()).await.expect("sent");
        let error = server.send(loopback(), &[], MailMessage { to: vec![FULL.to_owned()], ..message() }).await;
        let error = error.expect_err("refused").to_string();
        for said in [receipt.reply, error] {
            assert!(said.contains("xxxx") && !said.contains("xc"), "{at}: {said}");
        }
    }
}

#[tokio::test]
async fn it_is_known_whether_a_message_may_have_gone() {
    for (at, acted) in [("EHLO", false), ("AUTH", false), ("MAIL", false), ("DATA", false), (".", true)] {
        let server = MailServer::start(Manner::BreaksAt(at)).await;
        match server.send(loopback(), &[], message()).await.expect_err("broken off") {
            ExchangeError::Interrupted { .. } => assert!(acted, "{at}"),
            ExchangeError::Unreachable { .. } => assert!(!acted, "{at}"),
            other => panic!("{at}: {other:?}"),
        }
    }
    let server = MailServer::start(Manner::Silent).await;
    let limit = Duration::from_millis(300);
    let waiting = MailMessage { timeout: Some(limit), ..message() };
    assert_eq!(server.send(loopback(), &[], waiting).await.err(), Some(ExchangeError::Timeout { limit }));
    // All recipients, or none.
    let server = MailServer::start(Manner::Refuses("two.example")).await;
    let refused = server.send(loopback(), &[], message()).await.expect_err("refused");
    assert!(matches!(&refused, ExchangeError::Rejected { code, transient: false, .. } if code == "550"), "{refused:?}");
    assert!(!server.lines().contains(&"DATA".to_owned()));
    let large = MailMessage { text: Some("x ".repeat(60_000)), ..message() };
    let server = MailServer::start(Manner::Honest).await;
    let refused = server.send(loopback(), &[], large).await;
    assert!(matches!(refused, Err(ExchangeError::TooLarge { limit: 100_000, .. })), "{refused:?}");
}

#[tokio::test]
async fn refused_servers_get_no_packet() {
    let peer = Untouched::start().await;
    let port = peer.port.to_string();
    let fields = |host| [("host", host), ("port", port.as_str()), ("username", "u@mail.example"), ("security", "none")];
    for host in ["127.0.0.1", "localhost", "::ffff:127.0.0.1", "127.1"] {
        let mail =
            MailEgress::builder(closed()).build().expect("built").for_run(run(&fields(host), &[("password", CANARY)]));
        let refused = mail.send(message()).await;
        assert!(matches!(refused, Err(ExchangeError::Refused { .. })), "{host}: {refused:?}");
    }
    let elsewhere = run_bound(&fields("127.0.0.1"), &[("password", CANARY)], vec![], &["smtp://mail.example"]);
    let mail = MailEgress::builder(plain_loopback()).build().expect("built").for_run(elsewhere);
    let refused = mail.send(message()).await;
    assert!(matches!(refused, Err(ExchangeError::Credential { .. })), "{refused:?}");
    assert!(mail.take_uses().is_empty());
    peer.check().await;
}
