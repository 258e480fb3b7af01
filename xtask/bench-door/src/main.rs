//! `cargo xtask bench door`: how fast webhooks become durable runs and answers, beside two floors on the same machine in
//! the same run.
//!
//! The host runs in a process of its own: a listening socket on the loopback address, axum on tokio's multi-threaded
//! runtime, SQLite on a disk. This process sends the load. Host, floors and load share the same cores. The contenders take
//! turns, several rounds long; the table has medians over rounds, and shares are taken within rounds. At the end the host
//! is killed the hard way, and every run it ever acknowledged must be in what is left of its database, whole.
#![expect(clippy::print_stdout, reason = "a command-line tool")]

mod contender;
mod host;
mod ledger;
mod load;
mod options;
mod report;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ap_core::id::RunId;
use bench_base::{environment::Environment, target_directory};

use self::{
    contender::Contender,
    host::Announcement,
    ledger::RowBytes,
    load::{Measured, Plan},
    options::Options,
    report::Report,
};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if_eq(HOST).is_some() {
        let directory = arguments.next().context("the host needs a directory")?;
        return host::run(Path::new(&directory));
    }
    bench(&Options::parse(arguments)?)
}

fn bench(options: &Options) -> Result<()> {
    let target = target_directory()?;
    let directory = tempfile::Builder::new().prefix("bench-door-").tempdir_in(&target)?;
    let machine = Environment::of(directory.path())?;
    println!("{machine}");
    println!(
        "{} clients, {} rounds of {:.1?} per line; load generator on the same cores\n",
        options.clients, options.rounds, options.slice
    );

    let mut host = Host::start(directory.path())?;
    let mut runs = Vec::new();
    let rows = calibrate(&host, options, directory.path(), &mut runs)?;
    let mut report = Report::default();
    for round in 1..=options.rounds {
        for contender in Contender::ALL {
            let measured = host.measure(contender, options, rows, options.slice)?;
            println!("  round {round}  {:<38}{:>10.0} req/s", contender.name(), measured.rate);
            report.add(contender, &measured);
            runs.extend(measured.runs);
        }
    }
    host.kill()?;

    println!("\n{}", report.table());
    let floor = report.lower_floor();
    println!("The lower floor is `{}`.", floor.name());
    println!("A run's two commits write {} and {} bytes of rows; so do the floor's.", rows.accept, rows.end);
    let database = directory.path().join(host::DATABASE);
    let audit = ledger::audit(&database, &runs)?;
    println!(
        "The host was killed the hard way: {} acknowledged runs, {} in its database, {} missing.",
        runs.len(),
        audit.stored,
        audit.missing
    );
    ensure!(audit.missing == 0, "acknowledged runs are lost");
    for contender in [Contender::Respond, Contender::Code] {
        let share = report.share(contender);
        let verdict = if share >= AIM { "reached" } else { "missed" };
        println!(
            "{}: {:.0} % of the lower floor; the aim of {:.0} % is {verdict}.",
            contender.name(),
            share * 100.0,
            AIM * 100.0
        );
    }
    Ok(())
}

/// Finds out what the rows of a run weigh, and warms the host up.
fn calibrate(host: &Host, options: &Options, directory: &Path, runs: &mut Vec<RunId>) -> Result<RowBytes> {
    let nothing = RowBytes { accept: 1, end: 1 };
    for contender in [Contender::Respond, Contender::Code] {
        runs.extend(host.measure(contender, options, nothing, WARM_UP)?.runs);
    }
    ledger::row_bytes(&directory.join(host::DATABASE))
}

/// The host's process; killed when dropped.
struct Host {
    process: Child,
    announcement: Announcement,
}

impl Host {
    fn start(directory: &Path) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(HOST)
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the host could not be started")?;
        let output = process.stdout.take().context("the host has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let announcement = serde_json::from_str(&line).context("the host did not come up")?;
        Ok(Self { process, announcement })
    }

    fn measure(&self, contender: Contender, options: &Options, rows: RowBytes, duration: Duration) -> Result<Measured> {
        let commits = format!("/floor/commits/{}/{}", rows.accept, rows.end);
        let path = match contender {
            Contender::BareHttp => "/floor/http",
            Contender::BareCommits => &commits,
            Contender::Respond => &self.announcement.respond,
            Contender::Code => &self.announcement.code,
        };
        let (port, clients) = (self.announcement.port, options.clients);
        load::measure(&Plan { contender, port, path, clients, warm_up: WARM_UP, duration })
    }

    /// As `kill -9` does.
    fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.kill();
    }
}

/// The argument that makes this program the host.
const HOST: &str = "host";
/// How long each measurement warms up.
const WARM_UP: Duration = Duration::from_millis(300);
/// The share of the lower floor that a run should reach.
const AIM: f64 = 0.4;
