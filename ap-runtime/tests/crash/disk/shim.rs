//! The disk a child believes in: `shim.c`, compiled and preloaded, and the numbers it shares with the test.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// A disk below one directory.
#[derive(Debug)]
pub struct Disk {
    directory: PathBuf,
    steered: PathBuf,
    control: File,
}

/// Which calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    Writes = 1,
    Syncs = 2,
    Both = 3,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A write writes half of what it was given, and the next one finds no space. A sync fails as with `Io`.
    Half = 0,
    /// `EIO`.
    Io = 5,
    /// `ENOSPC`.
    NoSpace = 28,
}

/// What the disk counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub writes: u64,
    pub syncs: u64,
    pub failed: u64,
    /// Sectors that were written, and were not there after a power failure.
    pub taken_back: u64,
}

impl Disk {
    /// A disk for everything below `directory`, steered from outside of it.
    pub fn new(directory: &Path, steered: PathBuf) -> Self {
        let control = OpenOptions::new().read(true).write(true).create_new(true).open(&steered).unwrap();
        control.set_len(8 * WORDS).unwrap();
        Self { directory: directory.canonicalize().unwrap(), steered, control }
    }

    /// What a process needs in its environment.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", compiled().into()),
            (DIRECTORY, self.directory.clone().into()),
            ("AP_DISK_CONTROL", self.steered.clone().into()),
        ]
    }

    /// Lets the `nth` call from now on fail, and the `times - 1` behind it.
    pub fn fail(&self, nth: u64, calls: Calls, failure: Failure, times: u64) {
        self.set(FAIL_FOR, times);
        self.set(FAIL_WHICH, calls as u64);
        self.set(FAIL_HOW, failure as u64);
        self.set(FAIL_IN, nth);
    }

    /// Lets no call fail any more.
    pub fn heal(&self) {
        self.set(FAIL_IN, 0);
    }

    /// Lets the power fail as the `nth` call from now on begins; 0: not.
    pub fn power_off_in(&self, nth: u64, calls: Calls) {
        self.set(POWER_WHICH, calls as u64);
        self.set(POWER_OFF_IN, nth);
    }

    /// Picks the sectors that are written although nobody synced them; 0: none.
    pub fn tear(&self, seed: u64) {
        self.set(TORN_SEED, seed);
    }

    /// Makes every sync a lie.
    pub fn lie(&self) {
        self.set(LIE, 1);
    }

    pub fn counts(&self) -> Counts {
        Counts {
            writes: self.get(WRITES),
            syncs: self.get(SYNCS),
            failed: self.get(FAILED),
            taken_back: self.get(TAKEN_BACK),
        }
    }

    fn set(&self, word: u64, value: u64) {
        self.control.write_all_at(&value.to_ne_bytes(), 8 * word).unwrap();
    }

    fn get(&self, word: u64) -> u64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, 8 * word).unwrap();
        u64::from_ne_bytes(bytes)
    }
}

/// The compiled shim. A C compiler is there, for SQLite needs one.
fn compiled() -> &'static Path {
    static COMPILED: OnceLock<PathBuf> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let mut hasher = DefaultHasher::new();
        SOURCE.hash(&mut hasher);
        let library = directory.join(format!("disk-shim-{:016x}.so", hasher.finish()));
        if !library.exists() {
            let (source, unfinished) = (library.with_extension("c"), library.with_extension("unfinished"));
            std::fs::write(&source, SOURCE).unwrap();
            let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
            let options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-o"];
            let mut command = Command::new(compiler);
            let status = command.args(options).arg(&unfinished).arg(&source).args(["-ldl", "-lpthread"]).status();
            assert!(status.unwrap().success(), "the shim does not compile");
            std::fs::rename(unfinished, &library).unwrap();
        }
        library
    })
}

/// The directory the disk is for, in the environment of a child.
pub const DIRECTORY: &str = "AP_DISK_DIR";
/// The file that cuts the power when it is opened.
pub const POWER_OFF: &str = "power.off";
const SOURCE: &str = include_str!("shim.c");

// `enum word` of the shim.
const FAIL_IN: u64 = 0;
const FAIL_FOR: u64 = 1;
const FAIL_WHICH: u64 = 2;
const FAIL_HOW: u64 = 3;
const POWER_OFF_IN: u64 = 4;
const POWER_WHICH: u64 = 5;
const TORN_SEED: u64 = 6;
const LIE: u64 = 7;
const WRITES: u64 = 8;
const SYNCS: u64 = 9;
const FAILED: u64 = 10;
const TAKEN_BACK: u64 = 11;
const WORDS: u64 = 12;
