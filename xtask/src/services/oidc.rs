//! A certified OpenID provider (the npm package `oidc-provider`), for the tests of OAuth 2.0 connections.
//!
//! It is the one service that may be missing: without Node.js, or where the package cannot be had, those tests say that they
//! did not run, and so does this.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Server, find_program, free_port};

/// The variable that leads to it.
pub(super) const ISSUER: &str = "AP_TEST_OIDC_ISSUER";

/// A running provider.
pub(super) struct Oidc {
    _server: Server,
    port: u16,
}

impl Oidc {
    /// Installs the package under `target`, once, and starts it. `Err` says why there is none.
    pub(super) fn start(root: &Path, directory: &Path) -> Result<Self, String> {
        let node = find_program("node", &[]).ok_or("Node.js is missing")?;
        let npm = find_program("npm", &[]).ok_or("npm is missing")?;
        let home = root.join("target").join("oidc");
        install(root, &home, &npm)?;
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let port = free_port()?;
            match start(&node, &home, directory, port) {
                Ok(server) => return Ok(Self { _server: server, port }),
                // Perhaps somebody else took the port meanwhile.
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(super) fn variable(&self) -> (String, String) {
        (ISSUER.to_owned(), format!("http://127.0.0.1:{}", self.port))
    }
}

fn install(root: &Path, home: &Path, npm: &Path) -> Result<(), String> {
    fs::create_dir_all(home).map_err(|error| format!("`{}`: {error}", home.display()))?;
    let source = root.join("xtask").join("oidc");
    let wanted = read(&source.join("package.json"))?;
    let fresh = fs::read_to_string(home.join("package.json")).is_ok_and(|there| there == wanted);
    copy(&source.join("provider.mjs"), &home.join("provider.mjs"))?;
    if fresh && home.join("node_modules").join("oidc-provider").is_dir() {
        return Ok(());
    }
    copy(&source.join("package.json"), &home.join("package.json"))?;
    let mut command = Command::new(npm);
    command.args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--fetch-retries=1"]);
    let output = command.current_dir(home).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("npm did not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    // Else the next start would take it for installed.
    let _ = fs::remove_file(home.join("package.json"));
    Err(format!("npm could not install `oidc-provider`: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn start(node: &Path, home: &Path, directory: &Path, port: u16) -> Result<Server, String> {
    let log = directory.join("oidc.log");
    let file = fs::File::create(&log).map_err(|error| format!("`{}`: {error}", log.display()))?;
    let errors = file.try_clone().map_err(|error| format!("`{}`: {error}", log.display()))?;
    let mut command = super::command(node, None, "TERM");
    command.arg("provider.mjs").arg(port.to_string()).current_dir(home);
    command.stdin(Stdio::null()).stdout(file).stderr(errors);
    let mut server = Server::start("oidc-provider", "TERM", command)?;
    server.wait_until(&log, || fs::read_to_string(&log).is_ok_and(|log| log.contains("ready at ")))?;
    Ok(server)
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("`{}`: {error}", path.display()))
}

fn copy(from: &PathBuf, to: &PathBuf) -> Result<(), String> {
    fs::copy(from, to).map(|_| ()).map_err(|error| format!("`{}`: {error}", from.display()))
}

/// Ports that are tried.
const ATTEMPTS: u32 = 5;
