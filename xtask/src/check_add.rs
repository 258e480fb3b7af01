//! `cargo xtask check-add`: what `cargo add ap-runtime` costs a host.
//!
//! Makes a crate outside the workspace that depends on `ap-runtime` by path, with the workspace's lock file so that the
//! versions are the tested ones, and builds it in a target directory of its own.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use crate::tool;

/// Checks default features and then `code`; with the argument `default` or `code` that alone.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let sets: &[FeatureSet] = match arguments {
        [] => &[DEFAULT, CODE],
        ["code"] => &[CODE],
        ["default"] => &[DEFAULT],
        _ => return Err("`check-add` takes `default`, `code` or nothing".to_owned()),
    };
    let mut reports = Vec::new();
    for set in sets {
        reports.push(measure(set)?);
    }
    for report in &reports {
        println!("{report}");
    }
    let over = sets.iter().zip(&reports).find(|(set, report)| set.most_crates.is_some_and(|most| report.crates > most));
    match over {
        Some((set, report)) => Err(format!("{} pulls in {} crates, more than allowed", set.name, report.crates)),
        None => Ok(()),
    }
}

/// A choice of features to look at.
struct FeatureSet {
    name: &'static str,
    /// The value of `features` in the manifest.
    features: &'static str,
    /// Most crates it may bring.
    most_crates: Option<usize>,
}

const DEFAULT: FeatureSet = FeatureSet { name: "default features", features: "", most_crates: Some(175) };
const CODE: FeatureSet = FeatureSet { name: "default features + code", features: "\"code\"", most_crates: None };
/// The target whose dependencies are counted, whatever machine this runs on.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What one feature set costs.
struct Report {
    name: &'static str,
    crates: usize,
    most_crates: Option<usize>,
    check_seconds: u64,
    build_seconds: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, crates, most_crates, check_seconds, build_seconds } = self;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let allowed = most_crates.map_or_else(String::new, |most| format!(" (at most {most})"));
        write!(
            f,
            "{name}: {crates} crates{allowed}, build dependencies counted; clean `cargo check` {check_seconds} s, \
             then `cargo build` {build_seconds} s, {cores} cores"
        )
    }
}

fn measure(set: &FeatureSet) -> Result<Report, String> {
    let probe = Probe::create(set)?;
    let tree = ["tree", "--color", "never", "--prefix", "none", "--edges", "normal,build", "--target", TARGET];
    let crates = count_crates(&tool::read(&mut tool::cargo(&probe.directory, &tree))?);
    let timed = |subcommand| -> Result<u64, String> {
        let started = Instant::now();
        let mut command = tool::cargo(&probe.directory, &[subcommand, "--quiet"]);
        tool::run(command.env("CARGO_TARGET_DIR", probe.directory.join("target")))?;
        Ok(started.elapsed().as_secs())
    };
    let (check_seconds, build_seconds) = (timed("check")?, timed("build")?);
    Ok(Report { name: set.name, crates, most_crates: set.most_crates, check_seconds, build_seconds })
}

/// How many packages a `cargo tree --prefix none` names, the first line (the probe itself) not counted.
fn count_crates(tree: &str) -> usize {
    let package = |line: &str| -> Option<(String, String)> {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    let own = tree.lines().next().and_then(package);
    let mut packages: BTreeSet<_> = tree.lines().filter_map(package).collect();
    if let Some(own) = own {
        packages.remove(&own);
    }
    packages.len()
}

/// A crate in a temporary directory; gone when dropped.
struct Probe {
    directory: PathBuf,
}

impl Probe {
    fn create(set: &FeatureSet) -> Result<Self, String> {
        let root = tool::root()?;
        let directory = std::env::temp_dir().join(format!("ap-check-add-{}", std::process::id()));
        let failed = |error: std::io::Error| format!("{} cannot be written: {error}", directory.display());
        fs::create_dir(&directory).map_err(failed)?;
        let probe = Self { directory: directory.clone() };
        fs::create_dir(directory.join("src")).map_err(failed)?;
        fs::write(directory.join("Cargo.toml"), manifest(&root, set)).map_err(failed)?;
        fs::write(directory.join("src").join("main.rs"), PROGRAM).map_err(failed)?;
        fs::copy(root.join("Cargo.lock"), directory.join("Cargo.lock")).map_err(failed)?;
        Ok(probe)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("xtask: {} is left behind: {error}", self.directory.display());
        }
    }
}

fn manifest(root: &Path, set: &FeatureSet) -> String {
    // A TOML literal string, so that backslashes of a path stay as they are.
    format!(
        "[package]\nname = \"probe\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         ap-runtime = {{ path = '{}', features = [{}] }}\n\n[workspace]\n",
        root.join("ap-runtime").display(),
        set.features
    )
}

/// Names what a host names first, so that the build shows more than that the crates compile side by side.
const PROGRAM: &str = "\
use ap_runtime::{backend::sqlite::SqliteBackend, runtime::Runtime, webhook::WebhookDoor};

fn main() {
    println!(\"{}\", size_of::<Runtime>() + size_of::<SqliteBackend>() + size_of::<WebhookDoor>());
}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_counted_once_and_the_probe_is_not() {
        let tree = "probe v0.0.0 (/tmp/probe)\nap-runtime v0.1.0 (/x)\nbase64 v0.22.1\nbase64 v0.23.1\n\
                    base64 v0.22.1 (*)\nserde_derive v1.0.0 (proc-macro)\nserde_derive v1.0.0 (proc-macro) (*)\n\n";
        assert_eq!(count_crates(tree), 4);
        assert_eq!(count_crates(""), 0);
    }

    #[test]
    fn the_manifest_stands_outside_any_workspace() {
        let text = manifest(Path::new("/somewhere"), &CODE);
        assert!(text.contains("path = '/somewhere/ap-runtime'") || text.contains(r"path = '/somewhere\ap-runtime'"));
        assert!(text.contains("features = [\"code\"]") && text.contains("[workspace]"));
    }
}
