//! The services that tests need: private instances of PostgreSQL and Redis, on free ports of the loopback interface, in a
//! temporary directory, for as long as a [`Services`] lives.
//!
//! They are children of this process and end with it: dropping [`Services`] stops them, Ctrl-C reaches them as it reaches
//! this process, and where `setpriv` exists (Linux) the kernel ends them even when this process is killed.

mod certificate;
mod oidc;
mod postgres;
mod redis;

use std::{
    collections::hash_map::RandomState,
    fs,
    hash::{BuildHasher, Hasher},
    io::Read,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use self::{oidc::Oidc, postgres::Postgres, redis::Redis};

/// `cargo xtask services [command …]`: runs the command with the services and their variables, or keeps them up and prints
/// the variables.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let services = Services::start()?;
    let variables = services.variables();
    if let [program, arguments @ ..] = arguments {
        let status = Command::new(program)
            .args(arguments)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .status()
            .map_err(|error| format!("`{program}` did not start: {error}"))?;
        return if status.success() { Ok(()) } else { Err(format!("`{program}` failed: {status}")) };
    }
    for (name, value) in &variables {
        println!("export {name}='{value}'");
    }
    println!("# The services run until this is interrupted (Ctrl-C) or its input ends.");
    let mut ignored = [0; 64];
    while std::io::stdin().read(&mut ignored).map_err(|error| format!("the input cannot be read: {error}"))? > 0 {}
    Ok(())
}

/// Running services; dropping it stops them and deletes their directory.
pub(crate) struct Services {
    // In the order in which they are dropped: the directory goes last.
    postgres: Option<Postgres>,
    redis: Option<Redis>,
    oidc: Option<Oidc>,
    directory: Directory,
}

impl Services {
    /// Finds, or installs, and starts the services. One whose variable is set already is the caller's and is not started.
    pub(crate) fn start() -> Result<Self, String> {
        let started = Instant::now();
        let directory = Directory::create()?;
        let account = Account::find()?;
        let missing: Vec<&str> = [
            (given(postgres::URL).is_none() && Postgres::find().is_none()).then_some("postgresql"),
            (given(redis::URL).is_none() && Redis::find().is_none()).then_some("redis-server"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !missing.is_empty() {
            install(&missing)?;
        }
        directory.hand_to(account.as_ref())?;
        let postgres = match given(postgres::URL) {
            Some(_) => None,
            None => Some(Postgres::start(&directory.0, account.as_ref())?),
        };
        let redis = match given(redis::URL) {
            Some(_) => None,
            None => Some(Redis::start(&directory.0, account.as_ref())?),
        };
        println!("xtask: services are up after {} ms", started.elapsed().as_millis());
        Ok(Self { postgres, redis, oidc: None, directory })
    }

    /// Starts the certified OAuth provider as well. Where there is none, says so and goes on: its tests then say the same.
    pub(crate) fn with_provider(mut self, root: &Path) -> Self {
        if given(oidc::ISSUER).is_some() {
            return self;
        }
        match Oidc::start(root, &self.directory.0) {
            Ok(provider) => self.oidc = Some(provider),
            Err(reason) => println!("xtask: NOT RUN: tests against a certified OAuth provider ({reason})"),
        }
        self
    }

    /// The environment variables through which tests find the services.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let mut variables = Vec::new();
        variables.extend(self.postgres.iter().flat_map(Postgres::variables));
        variables.extend(self.redis.iter().map(Redis::variable));
        variables.extend(self.oidc.iter().map(Oidc::variable));
        variables
    }
}

/// A child process that is stopped when this is dropped.
struct Server {
    name: &'static str,
    /// What asks it to end at once but in order.
    signal: &'static str,
    child: Child,
}

impl Server {
    fn start(name: &'static str, signal: &'static str, mut command: Command) -> Result<Self, String> {
        let child = command.spawn().map_err(|error| format!("`{name}` did not start: {error}"))?;
        Ok(Self { name, signal, child })
    }

    /// Waits until `ready`, or until the process has ended.
    fn wait_until(&mut self, log: &Path, mut ready: impl FnMut() -> bool) -> Result<(), String> {
        let started = Instant::now();
        while !ready() {
            let ended = self.child.try_wait().map_err(|error| format!("`{}`: {error}", self.name))?;
            if ended.is_some() || started.elapsed() > START_TIMEOUT {
                let log = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("`{}` did not get ready:\n{log}", self.name));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let asked = Command::new("kill").args(["-s", self.signal, &self.child.id().to_string()]).status();
        let started = Instant::now();
        while asked.as_ref().is_ok_and(std::process::ExitStatus::success) && started.elapsed() < STOP_TIMEOUT {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(20)),
                _ => return,
            }
        }
        eprintln!("xtask: `{}` did not stop when asked and is killed", self.name);
        // Errors mean that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory of this process for what services keep.
struct Directory(PathBuf);

impl Directory {
    fn create() -> Result<Self, String> {
        let parent = std::env::temp_dir();
        remove_leftovers(&parent);
        let path = parent.join(format!("{DIRECTORY}{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("`{}` cannot be created: {error}", path.display()))?;
        Ok(Self(path))
    }

    fn hand_to(&self, account: Option<&Account>) -> Result<(), String> {
        let Some(account) = account else { return Ok(()) };
        succeed(Command::new("chown").arg(&account.0).arg(&self.0))?;
        Ok(())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("xtask: `{}` was not removed: {error}", self.0.display());
        }
    }
}

/// Directories of processes that were killed; where there is no `/proc`, nobody can tell and they stay.
fn remove_leftovers(parent: &Path) {
    if !Path::new("/proc/self").exists() {
        return;
    }
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(DIRECTORY)).and_then(|id| id.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            // An error means that it is somebody else's.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The account that services run under if this process is root's: PostgreSQL refuses to run as root.
struct Account(String);

impl Account {
    /// `None`: the services run as this process does.
    fn find() -> Result<Option<Self>, String> {
        if output(Command::new("id").arg("-u"))?.trim() != "0" {
            return Ok(None);
        }
        if find_program("setpriv", &[]).is_none() {
            return Err("`setpriv` (package util-linux) is needed to start services as root; \
                 or run this as an ordinary user"
                .to_owned());
        }
        let postgres = Command::new("id").arg("postgres").stdout(Stdio::null()).stderr(Stdio::null()).status();
        let name = if postgres.is_ok_and(|status| status.success()) { "postgres" } else { "nobody" };
        Ok(Some(Self(name.to_owned())))
    }
}

/// `program`, run by `account`, and ended with `signal` when this process ends.
fn command(program: &Path, account: Option<&Account>, signal: &str) -> Command {
    let Some(setpriv) = find_program("setpriv", &[]) else { return Command::new(program) };
    let mut command = Command::new(setpriv);
    if let Some(Account(name)) = account {
        command.args(["--reuid", name, "--regid", &group_of(name), "--clear-groups"]);
    }
    command.args(["--pdeathsig", signal]).arg(program);
    command
}

fn group_of(account: &str) -> String {
    let group = output(Command::new("id").args(["-g", account]));
    group.map_or_else(|_| account.to_owned(), |group| group.trim().to_owned())
}

/// Installs Debian packages if this process may.
fn install(packages: &[&str]) -> Result<(), String> {
    let names = packages.join(" ");
    let root = output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !root || find_program("apt-get", &[]).is_none() {
        return Err(format!(
            "missing: {names}. Install them (`sudo apt-get install {names}`, `brew install postgresql redis`), or set \
             `{}` and `{}` to instances of yours that may be written to",
            postgres::URL,
            redis::URL
        ));
    }
    println!("xtask: installing {names}");
    succeed(Command::new("apt-get").args(["update", "--quiet=2"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--quiet=2", "--no-install-recommends"]).args(packages);
    // The run level keeps the packages from starting services of their own.
    succeed(install.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1"))?;
    Ok(())
}

/// Where `program` is: on the path, or in one of `directories`.
fn find_program(program: &str, directories: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let known = ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from);
    let places = std::env::split_paths(&path).chain(directories.iter().cloned()).chain(known);
    places.map(|place| place.join(program)).find(|file| file.is_file())
}

/// The value of a variable that is set and not empty.
fn given(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

/// Runs `command` to its end; what it says is shown only if it fails.
fn succeed(command: &mut Command) -> Result<(), String> {
    output(command).map(drop)
}

fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("`{name}` did not start: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("`{name}` failed: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr)))
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| format!("no port is free: {error}"))
}

/// A password for an instance that lives for minutes: the standard library's hash keys are random.
fn password() -> String {
    (0..2).map(|_| format!("{:016x}", RandomState::new().build_hasher().finish())).collect()
}

const DIRECTORY: &str = "ap-services-";
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
