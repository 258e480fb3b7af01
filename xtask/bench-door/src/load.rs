//! The load generator: keep-alive HTTP/1.1 connections, each with one request under way, latency kept per request.
//!
//! It runs on one thread of the process that started the host, so that it takes as little as possible from the cores it
//! shares. Every answer is checked: status 200 and exactly the body that belongs to the request.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ap_core::id::RunId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::contender::{Contender, Message, order};

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) contender: Contender,
    pub(crate) port: u16,
    pub(crate) path: &'a str,
    pub(crate) clients: usize,
    /// How long requests are sent before they count.
    pub(crate) warm_up: Duration,
    /// How long requests count.
    pub(crate) duration: Duration,
}

/// What one measurement brought.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// Answers per second.
    pub(crate) rate: f64,
    /// Latencies of the answers that count, in microseconds, ascending.
    pub(crate) latencies: Vec<u32>,
    /// Runs that were acknowledged, warm-up included.
    pub(crate) runs: Vec<RunId>,
}

/// Measures.
///
/// # Errors
/// At the first wrong answer or broken connection.
pub(crate) fn measure(plan: &Plan<'_>) -> Result<Measured> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(drive(plan))
}

async fn drive(plan: &Plan<'_>) -> Result<Measured> {
    let exchange = Arc::new(Exchange {
        contender: plan.contender,
        head: format!(
            "POST {} HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: bench-door\r\ncontent-type: application/json\r\ncontent-length: ",
            plan.path
        ),
        request: order(),
        reply: plan.contender.reply(),
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, plan.port)),
        from: Instant::now() + plan.warm_up,
        until: Instant::now() + plan.warm_up + plan.duration,
    });
    let clients: Vec<_> =
        (0..plan.clients).map(|client| tokio::spawn(Arc::clone(&exchange).client(client as u64))).collect();
    let mut measured = Measured::default();
    for client in clients {
        let one = client.await.context("a client failed")??;
        measured.latencies.extend(one.latencies);
        measured.runs.extend(one.runs);
    }
    measured.rate = measured.latencies.len() as f64 / plan.duration.as_secs_f64();
    measured.latencies.sort_unstable();
    Ok(measured)
}

/// What all clients of a measurement have in common.
struct Exchange {
    contender: Contender,
    head: String,
    request: Message,
    reply: Message,
    address: SocketAddr,
    from: Instant,
    until: Instant,
}

impl Exchange {
    async fn client(self: Arc<Self>, client: u64) -> Result<Measured> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let mut measured = Measured::default();
        let (mut body, mut output, mut input, mut expected) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0.. {
            let number = client * 1_000_000_000 + round;
            body.clear();
            self.request.write(number, &mut body);
            output.clear();
            output.extend_from_slice(self.head.as_bytes());
            output.extend_from_slice(body.len().to_string().as_bytes());
            output.extend_from_slice(b"\r\n\r\n");
            output.extend_from_slice(&body);
            expected.clear();
            self.reply.write(number, &mut expected);

            let start = Instant::now();
            if start >= self.until {
                break;
            }
            stream.write_all(&output).await?;
            let answer = Answer::read(&mut stream, &mut input).await?;
            let end = Instant::now();
            self.check(&answer, &expected)?;
            if self.contender.makes_runs() {
                let run = answer.header("x-run-id").context("an answer names no run")?;
                measured.runs.push(run.parse()?);
            }
            // Answers are counted where they arrive: as many fall out at the end as come in at the start.
            if (self.from..self.until).contains(&end) {
                measured.latencies.push(u32::try_from((end - start).as_micros()).unwrap_or(u32::MAX));
            }
        }
        Ok(measured)
    }

    fn check(&self, answer: &Answer<'_>, expected: &[u8]) -> Result<()> {
        if answer.head.starts_with("HTTP/1.1 200 ") && answer.body == expected {
            return Ok(());
        }
        let (body, expected) = (String::from_utf8_lossy(answer.body), String::from_utf8_lossy(expected));
        bail!("{}: wrong answer\n{}{body}\nexpected 200 with\n{expected}", self.contender.name(), answer.head);
    }
}

/// One HTTP response.
struct Answer<'a> {
    head: &'a str,
    body: &'a [u8],
}

impl<'a> Answer<'a> {
    async fn read(stream: &mut TcpStream, buffer: &'a mut Vec<u8>) -> Result<Self> {
        buffer.clear();
        let (head, length) = loop {
            ensure!(buffer.len() < 64 << 10, "an answer has an endless head");
            ensure!(stream.read_buf(buffer).await? > 0, "the host hung up");
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = std::str::from_utf8(buffer.get(..end).unwrap_or_default())?;
                let length = header(head, "content-length").context("an answer has no content-length")?;
                break (end + 4, length.parse::<usize>()?);
            }
        };
        while buffer.len() < head + length {
            ensure!(stream.read_buf(buffer).await? > 0, "the host hung up");
        }
        let (head, body) = buffer.split_at_checked(head).unwrap_or_default();
        Ok(Self { head: std::str::from_utf8(head)?, body })
    }

    fn header(&self, name: &str) -> Option<&'a str> {
        header(self.head, name)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.split("\r\n").filter_map(|line| line.split_once(':'));
    fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_whatever_their_case() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nx-run-id: run_1\r\n\r\n";
        assert_eq!(header(head, "content-length"), Some("12"));
        assert_eq!(header(head, "X-Run-Id"), Some("run_1"));
        assert_eq!(header(head, "x-other"), None);
    }
}
