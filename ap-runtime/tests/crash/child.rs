//! The process that is killed: this very test binary, started again to run one test that serves the door.

use std::{io::Read, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{ChildStdout, Command},
};

use crate::host::Host;

/// The process that is killed.
#[derive(Debug)]
pub struct Child {
    process: tokio::process::Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Child {
    pub fn start(database: &Path, peer: SocketAddr) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["child::the_process_that_is_killed", "--exact", "--ignored", "--nocapture"])
            .env(DATABASE, database)
            .env(PEER, peer.to_string())
            // Its input ends with this process, and it with its input: no orphan is left behind.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, output }
    }

    /// Waits until it serves.
    pub async fn ready(&mut self) -> SocketAddr {
        let reading = async {
            while let Some(line) = self.output.next_line().await.unwrap() {
                // The test harness writes on the same line.
                if let Some((_, address)) = line.split_once(READY) {
                    return address.trim().parse().unwrap();
                }
            }
            panic!("the process ended by itself before it served");
        };
        tokio::time::timeout(START, reading).await.expect("the process did not start in time")
    }

    /// `kill -9`.
    pub async fn kill(mut self) {
        let ended = self.process.try_wait().unwrap();
        assert!(ended.is_none(), "the process ended by itself: {ended:?}");
        self.process.kill().await.unwrap();
    }
}

#[test]
#[ignore = "started by the kill loop, which kills it"]
fn the_process_that_is_killed() {
    let (Some(database), Ok(peer)) = (std::env::var_os(DATABASE), std::env::var(PEER)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let host = Host::open(Path::new(&database), peer.parse().unwrap()).await;
        let address = host.serve().await;
        println!("{READY}{address}");
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
    });
    // The parent is gone: nothing is left to prove.
    std::process::exit(0);
}

const DATABASE: &str = "AP_CRASH_DATABASE";
const PEER: &str = "AP_CRASH_PEER";
const READY: &str = "serving on ";
/// Longest time a start may take, recovery included.
const START: Duration = Duration::from_secs(60);
