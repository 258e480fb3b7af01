//! What of the credentials is left in a host's memory.
//!
//! The host is a process of its own ([`host`]), so that those who search it do not find themselves. Its peers and the
//! search stay here.

pub mod host;
mod regions;

use std::{collections::BTreeMap, fmt::Write as _, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{ChildStdout, Command},
};

use self::regions::{Kind, Memory};
use crate::{peer::Peer, protocols::Peers, search::Search, secrets::Secrets};

/// Whether the host installs the allocator that wipes what is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocator {
    Wiping,
    Ordinary,
}

impl Allocator {
    const fn program(self) -> &'static str {
        match self {
            Self::Wiping => "leak-host",
            Self::Ordinary => "leak-host-unwiped",
        }
    }
}

/// What was found in a host's memory.
#[derive(Debug)]
pub struct Found {
    /// In the memory of a script that has placeholders.
    pub sandbox: usize,
    /// How many bytes those scripts hold.
    pub sandbox_bytes: u64,
    /// On the heap while runs are under way: that the search finds something.
    pub alive: usize,
    /// On the heap after everything was dropped, by form and by what stands before it.
    pub dropped: BTreeMap<String, usize>,
    /// How many bytes of heap there are then.
    pub heap_bytes: u64,
    /// On the stacks of threads that have ended.
    pub stacks: usize,
    /// How many bytes those have.
    pub stack_bytes: u64,
}

impl Found {
    pub fn print(&self, allocator: Allocator) {
        let Self { sandbox, sandbox_bytes, alive, heap_bytes, stacks, stack_bytes, .. } = self;
        println!("memory of a host, allocator: {allocator:?}");
        println!("  {sandbox:>4} hits in {sandbox_bytes:>12} bytes of a script's memory, while it runs");
        println!("  {alive:>4} hits on the heap while runs are under way: what is being sent");
        println!(
            "  {:>4} hits in {heap_bytes:>12} bytes of heap after all was dropped",
            self.dropped.values().sum::<usize>()
        );
        println!("  {stacks:>4} hits in {stack_bytes:>12} bytes of stacks of ended threads");
        for (origin, count) in &self.dropped {
            println!("       {count:>4} × {origin}");
        }
    }
}

/// Lets a host work, and searches it while it does and after it has dropped everything.
///
/// # Errors
/// If the host does not do its work, or its memory cannot be read.
pub async fn search(allocator: Allocator, programs: &Path) -> Result<Found> {
    let secrets = Secrets::generate();
    let peer = Peer::start(&secrets).await;
    let peers = Peers::start(&secrets, peer.elsewhere()).await;
    // What SQLite reads of a file, it keeps in memory that no allocator of Rust gives out or wipes.
    let unused = ["field", "hook", "signing", "file"];
    let forms = Search::new(secrets.credentials().into_iter().filter(|(name, _)| !unused.contains(name)));
    let directory = tempfile::tempdir()?;
    let program = programs.join(allocator.program());
    let mut host = Command::new(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{} does not start", program.display()))?;
    let pid = host.id().context("it has ended")?;
    let mut input = host.stdin.take().context("no input")?;
    let mut output = BufReader::new(host.stdout.take().context("no output")?).lines();
    let mut told = String::new();
    writeln!(told, "{}\n{}", directory.path().display(), peer.url())?;
    writeln!(told, "{}", serde_json::to_string(&peers.places)?)?;
    for (_, secret) in secrets.credentials() {
        writeln!(told, "{secret}")?;
    }
    input.write_all(told.as_bytes()).await?;

    expect(&mut output, host::SPINNING).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let memory = Memory::read(pid)?;
    let placeholder = |bytes: &&[u8]| bytes.windows(7).any(|window| window == b"apcred_");
    let sandbox = memory.of(Kind::Sandbox);
    ensure!(sandbox.iter().any(placeholder), "the script's memory was not found");
    let in_sandbox = sandbox.iter().map(|bytes| forms.count(bytes)).sum();
    let alive = memory.of(Kind::Heap).iter().map(|bytes| forms.count(bytes)).sum();
    ensure!(alive > 0, "nothing is found in a host that uses its credentials");

    input.write_all(b"\n").await?;
    expect(&mut output, host::DROPPED).await?;
    let memory = Memory::read(pid)?;
    let mut dropped = BTreeMap::new();
    for bytes in memory.of(Kind::Heap) {
        for (name, at) in forms.places(bytes) {
            *dropped.entry(format!("{name}, after `{}`", before(bytes, at))).or_default() += 1;
        }
    }
    let found = Found {
        sandbox: in_sandbox,
        sandbox_bytes: sandbox.iter().map(|bytes| bytes.len() as u64).sum(),
        alive,
        dropped,
        heap_bytes: memory.bytes(Kind::Heap),
        stacks: memory.of(Kind::Stack).iter().map(|bytes| forms.count(bytes)).sum(),
        stack_bytes: memory.bytes(Kind::Stack),
    };
    drop(input);
    host.wait().await?;
    Ok(found)
}

async fn expect(output: &mut Lines<BufReader<ChildStdout>>, line: &str) -> Result<()> {
    let said = tokio::time::timeout(Duration::from_secs(120), output.next_line())
        .await
        .context("the host does not go on")??;
    ensure!(said.as_deref() == Some(line), "the host said {said:?} instead of {line}");
    Ok(())
}

/// Up to 24 printable characters.
fn before(bytes: &[u8], at: usize) -> String {
    let start = at.saturating_sub(24);
    bytes[start..at].iter().map(|byte| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '.' }).collect()
}
