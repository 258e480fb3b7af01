//! What the figures were measured on.

use std::{
    fmt, fs,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

/// The machine, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Processors that this process may use.
    pub cores: usize,
    /// Name of the processor.
    pub cpu: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Type of the file system the databases are on.
    pub filesystem: String,
    /// How long appending 4 KiB and `fdatasync` take: median and 99th percentile.
    pub fsync: (Duration, Duration),
}

impl Environment {
    /// Looks at the machine and tries the disk under `directory`.
    ///
    /// # Errors
    /// If `directory` is in memory: nothing would be durable there.
    pub fn of(directory: &Path) -> Result<Self> {
        let filesystem = filesystem(directory)?;
        ensure!(
            !["tmpfs", "ramfs"].contains(&filesystem.as_str()),
            "`{}` is on {filesystem}, in memory; set CARGO_TARGET_DIR to a directory on a disk",
            directory.display()
        );
        let field = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpu = field("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: cpu.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()),
            kernel: field("/proc/sys/kernel/osrelease"),
            filesystem,
            fsync: fsync(directory)?,
        })
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, worst) = self.fsync;
        writeln!(f, "{} cores ({}), Linux {}", self.cores, self.cpu, self.kernel)?;
        write!(f, "databases on {}; 4 KiB + fdatasync: {median:.0?}, p99 {worst:.0?}", self.filesystem)
    }
}

/// The type of the file system that holds `directory`: that of the longest mount point above it.
fn filesystem(directory: &Path) -> Result<String> {
    let directory = directory.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mounts").context("mounted file systems cannot be listed")?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let holding = mounts.filter(|(point, _)| directory.starts_with(point)).max_by_key(|(point, _)| point.len());
    holding.map(|(_, kind)| kind.to_owned()).context("no mounted file system holds the directory")
}

fn fsync(directory: &Path) -> Result<(Duration, Duration)> {
    let mut file = tempfile::tempfile_in(directory)?;
    let mut times = Vec::with_capacity(FSYNCS);
    for _ in 0..FSYNCS {
        let start = Instant::now();
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |share: usize| times.get(FSYNCS * share / 100).copied().unwrap_or_default();
    Ok((at(50), at(99)))
}

/// How often the disk is tried.
const FSYNCS: usize = 200;
