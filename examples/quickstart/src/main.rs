//! A tour of the SDK in one program: a signed webhook starts a flow that calls an API with a credential it never sees; the
//! process is killed in the middle of it; nothing is lost, nothing doubled, nothing leaked.
//!
//! `cargo run -p quickstart [DIRECTORY]`. Ends with 0 if every promise held, with 1 and the reason if one did not.
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

mod crash;
mod disk;
mod flow;
mod host;
mod peer;
mod report;
mod sender;
mod story;

use std::{env, ffi::OsString, path::Path, process::ExitCode};

use anyhow::bail;

use crate::host::Places;

#[tokio::main]
async fn main() -> ExitCode {
    // Whatever any library logs, it is written without the credentials of the runs under way.
    let log = || ap_runtime::logs::masked(std::io::stderr());
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_ansi(false).with_writer(log).init();
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nquickstart failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    match arguments {
        [] => {
            let directory = tempfile::Builder::new().prefix("ap-quickstart-").tempdir()?;
            demonstrate(directory.path()).await?;
            println!("\nAll promises held. The files are gone; name a directory to keep them.");
        }
        [serve, directory] if serve == crash::SERVE => crash::serve(Path::new(directory)).await?,
        [directory] if !directory.as_encoded_bytes().starts_with(b"-") => {
            demonstrate(Path::new(directory)).await?;
            println!("\nAll promises held.");
        }
        _ => bail!("usage: quickstart [DIRECTORY]"),
    }
    Ok(())
}

async fn demonstrate(directory: &Path) -> anyhow::Result<()> {
    println!("ap-runtime: kill it, dump its database, attack its webhook.");
    story::tell(&Places::create(directory)?).await
}
