//! A private Redis, or Valkey, that keeps nothing.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
};

use super::{Account, Server, command, find_program, free_port, password};

/// Where tests find it.
pub(super) const URL: &str = "AP_TEST_REDIS_URL";

/// A server with a password.
pub(super) struct Redis {
    _server: Server,
    port: u16,
    password: String,
}

impl Redis {
    /// The server's program.
    pub(super) fn find() -> Option<PathBuf> {
        find_program("redis-server", &[]).or_else(|| find_program("valkey-server", &[]))
    }

    /// Starts it; `directory` gets its log.
    pub(super) fn start(directory: &Path, account: Option<&Account>) -> Result<Self, String> {
        let program = Self::find().ok_or("`redis-server` is missing")?;
        let password = password();
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let port = free_port()?;
            match start(&program, directory, port, &password, account) {
                Ok(server) => return Ok(Self { _server: server, port, password }),
                // Perhaps somebody else took the port meanwhile.
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(super) fn variable(&self) -> (String, String) {
        (URL.to_owned(), format!("redis://default:{}@127.0.0.1:{}/", self.password, self.port))
    }
}

fn start(
    program: &Path,
    directory: &Path,
    port: u16,
    password: &str,
    account: Option<&Account>,
) -> Result<Server, String> {
    let log = directory.join("redis.log");
    let file = fs::File::create(&log).map_err(|error| format!("`{}`: {error}", log.display()))?;
    // Its configuration comes on standard input, so that the password is in nobody's list of processes.
    let mut redis = command(program, account, "TERM");
    redis.arg("-").current_dir(directory).stdin(Stdio::piped()).stdout(file).stderr(Stdio::null());
    let mut server = Server::start("redis-server", "TERM", redis)?;
    let settings = format!(
        "bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave \"\"\nappendonly no\ndaemonize no\ndir {}\n",
        directory.display()
    );
    // Closing the input ends the configuration.
    let mut input = server.child.stdin.take().ok_or("`redis-server` has no input")?;
    input.write_all(settings.as_bytes()).map_err(|error| format!("`redis-server` was not configured: {error}"))?;
    drop(input);
    let ready = |log: &Path| fs::read_to_string(log).is_ok_and(|log| log.contains("Ready to accept connections"));
    server.wait_until(&log, || ready(&log))?;
    Ok(server)
}

const ATTEMPTS: usize = 3;
