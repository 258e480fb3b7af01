//! A private PostgreSQL.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Account, Server, certificate::Certificates, command, find_program, free_port, password, succeed};

/// Where tests find the database.
pub(super) const URL: &str = "AP_TEST_POSTGRES_URL";

/// A server with settings as in production (`fsync` is on), a database of its own, passwords and TLS.
pub(super) struct Postgres {
    _server: Server,
    cluster: PathBuf,
    port: u16,
    password: String,
    certificates: Certificates,
}

impl Postgres {
    /// The directory of the newest PostgreSQL's programs.
    pub(super) fn find() -> Option<PathBuf> {
        let initdb = find_program("initdb", &places())?.canonicalize().ok()?;
        let directory = initdb.parent()?.to_owned();
        directory.join("postgres").is_file().then_some(directory)
    }

    /// Makes a cluster in `directory` and starts it.
    pub(super) fn start(directory: &Path, account: Option<&Account>) -> Result<Self, String> {
        let programs = Self::find().ok_or("PostgreSQL's `initdb` is missing")?;
        let certificates = Certificates::make(directory)?;
        let password = password();
        let password_file = directory.join("password");
        fs::write(&password_file, &password).map_err(|error| format!("`{}`: {error}", password_file.display()))?;
        if let Some(Account(name)) = account {
            let mut chown = Command::new("chown");
            succeed(chown.arg(name).args([&certificates.server_key, &certificates.server, &password_file]))?;
        }
        succeed(Command::new("chmod").arg("600").args([&certificates.server_key, &password_file]))?;
        let cluster = directory.join("postgres");
        let mut initdb = command(&programs.join("initdb"), account, "KILL");
        initdb.args(["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--username", USER]);
        initdb.arg("--pwfile").arg(&password_file).arg("--pgdata").arg(&cluster);
        succeed(initdb.current_dir(directory))?;
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let port = free_port()?;
            match start(&programs, directory, &cluster, port, account, &certificates) {
                Ok(server) => return Ok(Self { _server: server, cluster, port, password, certificates }),
                // Perhaps somebody else took the port meanwhile.
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(super) fn variables(&self) -> Vec<(String, String)> {
        let url = |host| format!("postgres://{USER}:{}@{host}:{}/postgres", self.password, self.port);
        let file = |path: &Path| path.display().to_string();
        vec![
            (URL.to_owned(), url("127.0.0.1")),
            // The name that the certificate is for.
            ("AP_TEST_POSTGRES_TLS_URL".to_owned(), url("localhost")),
            // For the search of everything that the server has on disk.
            ("AP_TEST_POSTGRES_DATA".to_owned(), file(&self.cluster)),
            ("AP_TEST_POSTGRES_CA".to_owned(), file(&self.certificates.authority)),
            ("AP_TEST_POSTGRES_OTHER_CA".to_owned(), file(&self.certificates.other_authority)),
        ]
    }
}

fn start(
    programs: &Path,
    directory: &Path,
    cluster: &Path,
    port: u16,
    account: Option<&Account>,
    certificates: &Certificates,
) -> Result<Server, String> {
    let log = directory.join("postgres.log");
    let file = fs::File::create(&log).map_err(|error| format!("`{}`: {error}", log.display()))?;
    // SIGINT is its order to end at once and in order; Ctrl-C sends the same.
    let mut postgres = command(&programs.join("postgres"), account, "INT");
    postgres.arg("-D").arg(cluster);
    let path = |path: &Path| path.display().to_string();
    for (name, value) in [
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", port.to_string()),
        ("unix_socket_directories", path(directory)),
        ("max_connections", MAX_CONNECTIONS.to_string()),
        ("ssl", "on".to_owned()),
        ("ssl_cert_file", path(&certificates.server)),
        ("ssl_key_file", path(&certificates.server_key)),
    ] {
        postgres.args(["-c", &format!("{name}={value}")]);
    }
    let output = file.try_clone().map_err(|error| format!("`{}`: {error}", log.display()))?;
    postgres.current_dir(directory).stdin(Stdio::null()).stdout(output).stderr(file);
    let mut server = Server::start("postgres", "INT", postgres)?;
    let ready = |log: &Path| {
        fs::read_to_string(log).is_ok_and(|log| log.contains("database system is ready to accept connections"))
    };
    server.wait_until(&log, || ready(&log))?;
    Ok(server)
}

/// Where packages put the programs that are not on the path, the newest release first.
fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr/local/opt", "postgresql"),
        ("/opt/homebrew/opt", "postgresql"),
        ("/usr", "pgsql-"),
    ] {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        places.extend(named.map(|entry| entry.path().join("bin")));
    }
    places.sort_by_key(|place| std::cmp::Reverse(release(place)));
    places
}

/// The number in a path such as `/usr/lib/postgresql/15/bin`.
fn release(place: &Path) -> u32 {
    let digits: String = place.display().to_string().chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_default()
}

/// The superuser of the cluster.
const USER: &str = "ap_test";
const ATTEMPTS: usize = 3;
/// Every test has a backend of its own.
const MAX_CONNECTIONS: u32 = 300;
