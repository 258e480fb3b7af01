//! A database that asks for the password as it is (PostgreSQL's protocol 3.0, of the documentation's chapter "Frontend/Backend
//! Protocol"), and repeats it in whatever it says; and a SQLite file that somebody wrote one into.

use std::{path::Path, sync::Arc};

use ap_core::connection::Connection;
use rusqlite::params;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Places, Protocol, Witness, everything, fails, percent, step, succeeds};
use crate::{asked::listen, catalogue::Entry, secrets::Keys};

pub(super) async fn start(keys: &Keys, witness: Arc<Witness>) -> u16 {
    let (listener, address) = listen().await;
    let password = keys.database.expose_secret().to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut talk = Talk { stream, password: password.clone(), witness: Arc::clone(&witness) };
            tokio::spawn(async move { talk.whole().await });
        }
    });
    address.port()
}

/// A file with a table in which the password of its own connection stands.
pub(super) fn make_file(directory: &Path, keys: &Keys) {
    let file = rusqlite::Connection::open(directory.join(FILE)).unwrap();
    let password = keys.file.expose_secret();
    file.execute_batch("CREATE TABLE notes (said TEXT, raw BLOB)").unwrap();
    file.execute("INSERT INTO notes VALUES (?1, ?2)", params![everything(&[password]), password.as_bytes()]).unwrap();
}

pub(super) fn connections(places: &Places, keys: &Keys) -> Vec<Connection> {
    let port = places.sql.to_string();
    let server = |name, database| {
        let clear = [
            ("host", "127.0.0.1"),
            ("port", port.as_str()),
            ("database", database),
            ("username", "ada"),
            ("sslmode", "disable"),
        ];
        super::custom(name, &clear, &[("password", &keys.database)], vec![])
    };
    vec![
        server("database", "app"),
        server("database_closed", CLOSED),
        super::custom("file", &[("file", FILE)], &[("password", &keys.file)], vec![]),
    ]
}

pub(super) fn entries() -> Vec<Entry> {
    let query = |connection: &str, text: &str| {
        let settings = json!({ "connection": format!("{{{{connections.{connection}}}}}"), "query": text });
        step("use", "database.query", settings)
    };
    let asks = |wish: &str| query("database", &format!("SELECT echo('{wish}')"));
    let writes = |wish: &str| {
        let settings =
            json!({ "connection": "{{connections.database}}", "query": format!("UPDATE t SET a = echo('{wish}')") });
        step("use", "database.execute", settings)
    };
    let file_error = json!({
        "connection": "{{connections.file}}", "query": "INSERT INTO notes SELECT json(said), raw FROM notes" });
    let file_error = step("use", "database.execute", file_error);
    let turned = json!({ "connection": "{{connections.database}}", "query": "SELECT echo('Rows')" });
    let turned = step("use", "canary.backwards", turned);
    let good = |name, used| succeeds(Protocol::Sql, name, used);
    let bad = |name, used| fails(Protocol::Sql, name, used);
    let of_file = |entry: Entry| Entry { requests: 0, ..entry };
    let unmasked = |entry: Entry| Entry { masked: false, ..entry };
    vec![
        good("rows of text", asks("Rows")),
        good("rows of JSON", asks("Json")),
        good("rows of bytes", asks("Bytes")),
        good("rows of arrays", asks("Array")),
        good("names of columns", asks("Columns")),
        good("what a statement that writes gives back", writes("Rows")),
        // In that form nobody finds a mask either.
        unmasked(good("rows that an action turns round", turned)),
        good("a notice, a status and a notification besides", asks("Notice")),
        bad("an error", asks("Error")),
        bad("an error instead of a plan", asks("Plan")),
        bad("the code of an error", asks("Code")),
        bad("an error of the commit", writes("Commit")),
        bad("a message that is cut where the password is", asks("Long")),
        bad("a refused log-in", query("database_closed", "SELECT 1 AS one")),
        unmasked(bad("an answer that breaks off", asks("Cut"))),
        unmasked(Entry {
            requests: 0,
            ..bad("a password in a statement", query("database", "SELECT '{{connections.database.password}}' AS one"))
        }),
        of_file(good("rows of a file", query("file", "SELECT said, hex(raw) AS hex, raw FROM notes"))),
        unmasked(of_file(bad("an error of a file", file_error))),
    ]
}

const FILE: &str = "notes.db";
/// The database that lets nobody in.
const CLOSED: &str = "closed";

/// One connection.
struct Talk {
    stream: TcpStream,
    password: String,
    witness: Arc<Witness>,
}

impl Talk {
    async fn whole(&mut self) -> Option<()> {
        let length = self.stream.read_i32().await.ok()?;
        let mut start = vec![0; usize::try_from(length).ok()? - 4];
        self.stream.read_exact(&mut start).await.ok()?;
        let closed = start.split(|byte| *byte == 0).any(|part| part == CLOSED.as_bytes());
        self.send(b'R', &3_i32.to_be_bytes()).await?;
        let (_, shown) = self.receive().await?;
        let known = shown.strip_suffix(b"\0") == Some(self.password.as_bytes());
        if known {
            self.witness.verify();
        }
        let all = everything(&[&self.password]);
        if closed || !known {
            return self.send(b'E', &error("28P01", &format!("not with {all}"), &all)).await;
        }
        self.send(b'R', &0_i32.to_be_bytes()).await?;
        for (name, value) in [("server_version", "16.0"), ("client_encoding", "UTF8"), ("echo", &all)] {
            self.send(b'S', format!("{name}\0{value}\0").as_bytes()).await?;
        }
        self.send(b'N', &error("01000", &all, &all)).await?;
        self.send(b'Z', b"I").await?;
        let mut wish = String::new();
        loop {
            let (kind, body) = self.receive().await?;
            let text = String::from_utf8_lossy(&body).into_owned();
            match kind {
                b'Q' if text.contains("COMMIT") && wish == "Commit" => {
                    self.send(b'E', &error("40001", &all, &all)).await?;
                    self.send(b'Z', b"I").await?;
                }
                b'Q' => {
                    for _ in text.split(';') {
                        self.send(b'C', b"SET\0").await?;
                    }
                    self.send(b'Z', b"T").await?;
                }
                b'P' => {
                    let found = text.split_once("echo('").and_then(|(_, rest)| rest.split_once("')"));
                    wish = found.map(|(wish, _)| wish.to_owned()).unwrap_or_default();
                    if wish == "Plan" {
                        self.send(b'E', &error("42601", &all, &all)).await?;
                    } else {
                        self.send(b'1', b"").await?;
                    }
                }
                b'D' if wish == "Plan" => {}
                b'D' => {
                    self.send(b't', &0_i16.to_be_bytes()).await?;
                    let columns = self.columns(&wish);
                    self.send(b'T', &columns).await?;
                }
                b'B' => self.send(b'2', b"").await?,
                b'E' => self.execute(&wish, &all).await?,
                b'C' => self.send(b'3', b"").await?,
                b'S' => self.send(b'Z', b"T").await?,
                b'X' => return None,
                _ => {}
            }
        }
    }

    async fn execute(&mut self, wish: &str, all: &str) -> Option<()> {
        let refusal = match wish {
            "Error" => Some(error("22012", &format!("cannot do that with {all}"), all)),
            "Code" => Some(error(&self.password, "as the code says", "")),
            // 500 characters are shown.
            "Long" => Some(error("22012", &format!("{}{}", "x".repeat(485), self.password), "")),
            _ => None,
        };
        if let Some(refusal) = refusal {
            return self.send(b'E', &refusal).await;
        }
        if wish == "Notice" {
            self.send(b'N', &error("01000", all, all)).await?;
            self.send(b'S', format!("TimeZone\0{all}\0").as_bytes()).await?;
            self.send(b'A', &[&7_i32.to_be_bytes()[..], format!("{all}\0{all}\0").as_bytes()].concat()).await?;
        }
        let password = self.password.clone().into_bytes();
        let value = match wish {
            "Bytes" => password.clone(),
            "Json" => json!({ "said": self.password, all: [self.password] }).to_string().into_bytes(),
            "Array" => {
                let head = [1, 0, TEXT, 1, 1, i32::try_from(password.len()).unwrap()].map(i32::to_be_bytes);
                [head.concat(), password.clone()].concat()
            }
            _ => all.as_bytes().to_vec(),
        };
        let mut row = 1_i16.to_be_bytes().to_vec();
        row.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
        row.extend(value);
        self.send(b'D', &row).await?;
        if wish == "Cut" {
            let _ = self.stream.write_all(&[&b"D\0\0\xff\xff"[..], &password].concat()).await;
            return None;
        }
        self.send(b'C', b"SELECT 1\0").await
    }

    /// What a row has: one column.
    fn columns(&self, wish: &str) -> Vec<u8> {
        let kind = match wish {
            "Json" => JSON,
            "Bytes" => BYTES,
            "Array" => TEXTS,
            _ => TEXT,
        };
        let name = if wish == "Columns" { format!("said {}", percent(&self.password)) } else { "said".to_owned() };
        let mut row = 1_i16.to_be_bytes().to_vec();
        row.extend(name.as_bytes());
        // Of no table; as long as it likes; binary.
        row.extend(
            [&[0; 7][..], &kind.to_be_bytes(), &(-1_i16).to_be_bytes(), &(-1_i32).to_be_bytes(), &1_i16.to_be_bytes()]
                .concat(),
        );
        row
    }

    async fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        let kind = self.stream.read_u8().await.ok()?;
        let length = self.stream.read_i32().await.ok()?;
        let mut body = vec![0; usize::try_from(length).ok()? - 4];
        self.stream.read_exact(&mut body).await.ok()?;
        Some((kind, body))
    }

    async fn send(&mut self, kind: u8, body: &[u8]) -> Option<()> {
        let length = i32::try_from(body.len() + 4).unwrap().to_be_bytes();
        self.stream.write_all(&[&[kind][..], &length, body].concat()).await.ok()
    }
}

fn error(code: &str, message: &str, detail: &str) -> Vec<u8> {
    format!("SERROR\0C{code}\0M{message}\0D{detail}\0H{detail}\0W{detail}\0\0").into_bytes()
}

/// The server's numbers for types.
const BYTES: i32 = 17;
const TEXT: i32 = 25;
const JSON: i32 = 114;
const TEXTS: i32 = 1009;
