//! The victim: this program once more, as a host in a process of its own, to be killed in the middle of its work.

use std::{env, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
};

use crate::host::{Host, Places};

/// The hidden argument: serve the directory that follows until killed.
pub(crate) const SERVE: &str = "--serve-until-killed";

/// A host in another process.
pub(crate) struct Victim {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    process: Child,
}

impl Victim {
    /// Starts it on the files of `places`.
    pub(crate) async fn start(places: &Places) -> anyhow::Result<Self> {
        let mut process = Command::new(env::current_exe()?)
            .arg(SERVE)
            .arg(places.root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = process.stdout.take().context("the second process has no output")?;
        let first_line = async { BufReader::new(output).lines().next_line().await };
        let line = tokio::time::timeout(PATIENCE, first_line).await.context("the second process did not start")??;
        let address = line.context("the second process ended at once")?.parse()?;
        Ok(Self { address, process })
    }

    /// Kills it: `SIGKILL` on Unix, which no process can catch or put off. Returns how it ended.
    pub(crate) async fn kill(mut self) -> anyhow::Result<String> {
        self.process.start_kill()?;
        let status = self.process.wait().await?;
        if status.code() == Some(0) {
            bail!("the second process ended by itself");
        }
        Ok(status.to_string())
    }
}

/// What the second process does: serve until it is killed, or until the first one is gone.
pub(crate) async fn serve(root: &Path) -> anyhow::Result<()> {
    let host = Host::start(&Places::create(root)?).await?;
    println!("{}", host.address);
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    host.stop().await;
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(60);
