//! The process that is killed: this very test binary, started again to run one test that serves the door.

use std::{
    fs::File,
    io::Read,
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{ChildStdout, Command},
};

use crate::{
    disk::shim::{self, Disk},
    host::{Acknowledge, Host},
    store::Store,
};

/// The process that is killed.
#[derive(Debug)]
pub struct Child {
    process: tokio::process::Child,
    output: Lines<BufReader<ChildStdout>>,
}

/// How to start one.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    pub store: &'a Store,
    pub peer: SocketAddr,
    /// The disk it is to believe in, if not the machine's.
    pub disk: Option<&'a Disk>,
    pub acknowledge: Acknowledge,
}

impl Child {
    pub fn start(start: &Start<'_>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["child::the_process_that_is_killed", "--exact", "--ignored", "--nocapture"])
            .env(STORE, start.store.address())
            .env(PEER, start.peer.to_string())
            .env(EARLY, if start.acknowledge == Acknowledge::Early { "1" } else { "0" })
            // Its input ends with this process, and it with its input: no orphan is left behind.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(disk) = start.disk {
            // What it says of a disk that fails is not news.
            command.stderr(Stdio::null()).envs(disk.environment());
        }
        let mut process = command.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, output }
    }

    /// Waits until it serves; `None` if it ended before.
    pub async fn ready(&mut self) -> Option<SocketAddr> {
        let reading = async {
            while let Some(line) = self.output.next_line().await.unwrap() {
                // The test harness writes on the same line.
                if let Some((_, address)) = line.split_once(READY) {
                    return Some(address.trim().parse().unwrap());
                }
            }
            None
        };
        tokio::time::timeout(START, reading).await.expect("the process did not start in time")
    }

    /// `kill -9`.
    pub async fn kill(mut self) {
        let ended = self.process.try_wait().unwrap();
        assert!(ended.is_none(), "the process ended by itself: {ended:?}");
        self.process.kill().await.unwrap();
    }

    /// Lets it serve what it has, and end in an orderly way.
    pub async fn close(mut self) {
        drop(self.process.stdin.take());
        assert!(self.end().await.success(), "the process did not end well");
    }

    /// Cuts the power of its disk, which ends it.
    pub async fn power_off(mut self) {
        self.process.stdin.as_mut().unwrap().write_all(b"x").await.unwrap();
        self.powerless().await;
    }

    /// Waits until the power has failed.
    pub async fn powerless(self) {
        let ended = self.end().await;
        assert_eq!(ended.signal(), Some(9), "the process was not ended by its disk: {ended:?}");
    }

    /// Waits until it has ended.
    pub async fn end(mut self) -> ExitStatus {
        // `wait` would close its input, which ends it.
        let _input = self.process.stdin.take();
        tokio::time::timeout(START, self.process.wait()).await.expect("the process did not end in time").unwrap()
    }
}

#[test]
#[ignore = "started by the kill loop, which kills it"]
fn the_process_that_is_killed() {
    let (Ok(store), Ok(peer)) = (std::env::var(STORE), std::env::var(PEER)) else { return };
    let early = std::env::var(EARLY).is_ok_and(|early| early == "1");
    let acknowledge = if early { Acknowledge::Early } else { Acknowledge::Committed };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let host = Host::open(&Store::parse(&store), peer.parse().unwrap()).await;
        let address = host.serve(acknowledge).await;
        println!("{READY}{address}");
        let told = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
        if let (Ok(Ok(1)), Some(disk)) = (told, std::env::var_os(shim::DIRECTORY)) {
            let _ = File::open(PathBuf::from(disk).join(shim::POWER_OFF));
        }
        host.close().await;
    });
    std::process::exit(0);
}

const STORE: &str = "AP_CRASH_STORE";
const PEER: &str = "AP_CRASH_PEER";
const EARLY: &str = "AP_CRASH_EARLY";
const READY: &str = "serving on ";
/// Longest time a start, recovery included, or an end may take.
const START: Duration = Duration::from_secs(60);
