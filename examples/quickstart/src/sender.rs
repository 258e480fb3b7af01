//! The sender: signs a body and posts it over a real socket, as the service behind a webhook would.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use ap_crypto::signature::HmacSha256;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::flow::{DELIVERY_HEADER, SIGNATURE_HEADER, SIGNATURE_PREFIX};

/// One webhook message.
pub(crate) struct Delivery {
    pub(crate) id: &'static str,
    pub(crate) body: Value,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) run: Option<String>,
    pub(crate) body: String,
}

/// Posts to the flow's webhook. With `wait` the answer is what the run responds, without it the run's id.
pub(crate) async fn send(
    host: SocketAddr,
    token: &SecretString,
    key: &HmacSha256,
    delivery: &Delivery,
    wait: bool,
) -> anyhow::Result<Answer> {
    let body = delivery.body.to_string();
    let signature: String = key.sign(&[body.as_bytes()]).iter().map(|byte| format!("{byte:02x}")).collect();
    let request = format!(
        "POST /webhooks/{token}{sync} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: contact-form/1.0\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n{DELIVERY_HEADER}: {id}\r\n\
         {SIGNATURE_HEADER}: {SIGNATURE_PREFIX}{signature}\r\nConnection: close\r\n\r\n{body}",
        token = token.expose_secret(),
        sync = if wait { "/sync" } else { "" },
        length = body.len(),
        id = delivery.id,
    );
    let exchange = async {
        let mut socket = TcpStream::connect(host).await?;
        socket.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        socket.read_to_string(&mut response).await?;
        anyhow::Ok(response)
    };
    let response = tokio::time::timeout(PATIENCE, exchange).await.context("the host did not answer in time")??;
    parse(&response).with_context(|| format!("the host answered no HTTP: {response:?}"))
}

fn parse(response: &str) -> anyhow::Result<Answer> {
    let (head, body) = response.split_once("\r\n\r\n").context("no end of headers")?;
    let mut lines = head.lines();
    let mut status = lines.next().context("no status line")?.split(' ');
    ensure!(status.next() == Some("HTTP/1.1"), "another protocol");
    let status = status.next().context("no status")?.parse()?;
    let run = lines.filter_map(|line| line.split_once(": ")).find(|(name, _)| name.eq_ignore_ascii_case("x-run-id"));
    Ok(Answer { status, run: run.map(|(_, id)| id.to_owned()), body: body.to_owned() })
}

const PATIENCE: Duration = Duration::from_secs(20);
