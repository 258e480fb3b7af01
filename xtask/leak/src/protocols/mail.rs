//! Mail servers that repeat the log-in: as it came, decoded, and in every other form, in replies of one line and of several.

use std::sync::Arc;

use ap_core::connection::Connection;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{Places, Protocol, Witness, everything, fails, step, succeeds};
use crate::{asked::listen, catalogue::Entry, echo, secrets::Keys};

/// Where each server is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Ports {
    open: u16,
    asking: u16,
    closed: u16,
    rude: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Lets in whoever has the password (`AUTH PLAIN`).
    Open,
    /// The same, and asks for each part by itself (`AUTH LOGIN`).
    Asking,
    /// Lets nobody in.
    Closed,
    /// Does not even say hello.
    Rude,
}

pub(super) async fn start(keys: &Keys, witness: &Arc<Witness>) -> Ports {
    Ports {
        open: serve(keys, Manner::Open, Arc::clone(witness)).await,
        asking: serve(keys, Manner::Asking, Arc::clone(witness)).await,
        closed: serve(keys, Manner::Closed, Arc::clone(witness)).await,
        rude: serve(keys, Manner::Rude, Arc::clone(witness)).await,
    }
}

async fn serve(keys: &Keys, manner: Manner, witness: Arc<Witness>) -> u16 {
    let (listener, address) = listen().await;
    let password = keys.mail.expose_secret().to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (password, witness) = (password.clone(), Arc::clone(&witness));
            tokio::spawn(async move { converse(stream, manner, &password, &witness).await });
        }
    });
    address.port()
}

pub(super) fn connections(places: &Places, keys: &Keys) -> Vec<Connection> {
    let Ports { open, asking, closed, rude } = places.mail;
    [("mail", open), ("mail_asking", asking), ("mail_closed", closed), ("mail_rude", rude)]
        .map(|(name, port)| {
            let port = port.to_string();
            let clear = [("host", "127.0.0.1"), ("port", port.as_str()), ("username", USER), ("security", "none")];
            super::custom(name, &clear, &[("password", &keys.mail)], vec![])
        })
        .into()
}

pub(super) fn entries() -> Vec<Entry> {
    let send = |connection: &str, wish: &str| {
        step(
            "use",
            "email.send",
            json!({
            "connection": format!("{{{{connections.{connection}}}}}"), "to": format!("{wish}@one.example"),
            "subject": "Hello", "body": "Text." }),
        )
    };
    let good = |name, wish| succeeds(Protocol::Mail, name, send("mail", wish));
    let bad = |name, wish| fails(Protocol::Mail, name, send("mail", wish));
    let misplaced = json!({
        "connection": "{{connections.mail}}", "to": "ann@one.example", "subject": "Hello",
        "body": "with {{connections.mail.password}}" });
    vec![
        good("a reply to the message", "end"),
        good("a reply to the message, of several lines", "end-lines"),
        good("a reply that is cut where the password is", "end-long"),
        succeeds(Protocol::Mail, "a reply after a log-in in parts", send("mail_asking", "end")),
        bad("a refused recipient", "rcpt"),
        bad("a refused recipient, in several lines", "rcpt-lines"),
        bad("a refusal that is cut where the password is", "rcpt-long"),
        bad("refused data", "data"),
        bad("a refused message", "dot"),
        Entry { masked: false, ..bad("a reply that is none", "garbage") },
        fails(Protocol::Mail, "a refused log-in", send("mail_closed", "ann")),
        Entry { requests: 0, ..fails(Protocol::Mail, "a server that says no to hello", send("mail_rude", "ann")) },
        Entry {
            requests: 0,
            masked: false,
            ..fails(Protocol::Mail, "a password in a message", step("use", "email.send", misplaced))
        },
    ]
}

const USER: &str = "ada@mail.example";

async fn converse(stream: TcpStream, manner: Manner, password: &str, witness: &Witness) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let encoded = |text: &str| echo::base64(text.as_bytes(), echo::STANDARD);
    let all =
        format!("{} {} {}", everything(&[password]), encoded(&format!("\0{USER}\0{password}")), encoded(password));
    let lines = |code: u16| format!("{code}-{}\r\n{code} {password}", all.replace(" | ", &format!("\r\n{code}-")));
    let long = |code: u16| format!("{code} {}{password}", "x".repeat(485));
    let mut wish = String::new();
    stream.write_all(b"220 mail.example\r\n").await.ok()?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        let reply = match line.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" if manner == Manner::Rude => lines(550),
            "EHLO" if manner == Manner::Asking => "250-mail.example\r\n250 AUTH LOGIN".to_owned(),
            "EHLO" => format!("250-mail.example knows {all}\r\n250 AUTH PLAIN LOGIN"),
            "AUTH" if line == "AUTH LOGIN" => {
                stream.write_all(b"334 VXNlcm5hbWU6\r\n").await.ok()?;
                let mut said = [String::new(), String::new()];
                stream.read_line(&mut said[0]).await.ok()?;
                stream.write_all(format!("334 {all}\r\n").as_bytes()).await.ok()?;
                stream.read_line(&mut said[1]).await.ok()?;
                if said.map(|line| line.trim_end().to_owned()) == [encoded(USER), encoded(password)] {
                    witness.verify();
                }
                format!("235 {all}")
            }
            "AUTH" => {
                if line == format!("AUTH PLAIN {}", encoded(&format!("\0{USER}\0{password}"))) {
                    witness.verify();
                }
                if manner == Manner::Closed {
                    format!("535-not with {line}\r\n{}", lines(535))
                } else {
                    format!("235 {all}")
                }
            }
            "MAIL" => "250 ok".to_owned(),
            "RCPT" => {
                let named = line.split(['<', '@']).nth(1);
                wish = named.unwrap_or_default().to_owned();
                match wish.as_str() {
                    "rcpt" => format!("550 {all}"),
                    "rcpt-lines" => lines(451),
                    "rcpt-long" => long(550),
                    "garbage" => format!("{password} {all}"),
                    _ => "250 ok".to_owned(),
                }
            }
            "DATA" if wish == "data" => format!("554 {all}"),
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await.ok()?;
                let mut text = String::new();
                while !text.ends_with("\r\n.\r\n") {
                    if stream.read_line(&mut text).await.ok()? == 0 {
                        return None;
                    }
                }
                assert!(!text.contains(password), "a credential was sent by mail");
                match wish.as_str() {
                    "dot" => lines(554),
                    "end-lines" => lines(250),
                    "end-long" => long(250),
                    _ => format!("250 {all}"),
                }
            }
            _ => "221 bye".to_owned(),
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
    }
}
