//! Rules over the dependency graph, as `cargo tree` shows it.

use std::{collections::BTreeSet, process::Command};

use crate::sources;

/// What `cargo tree` prints; the lock file says which versions.
pub(crate) fn tree(arguments: &[&str]) -> String {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Colours, which CI asks for, would stand in what is read here.
    command.env("CARGO_TERM_COLOR", "never");
    command.args(["tree", "--locked", "--prefix", "none"]).args(arguments).current_dir(sources::root());
    let output = command.output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Names of the packages in a tree.
fn names(tree: &str) -> BTreeSet<&str> {
    tree.lines().filter_map(|line| line.split_whitespace().next()).collect()
}

/// Everything `package` builds with, all features on, development dependencies apart.
fn shipped(package: &str) -> String {
    tree(&["--package", package, "--all-features", "--edges", "normal,build"])
}

/// The packages of this workspace in a tree, the first line (its root) apart.
fn ours(tree: &str) -> BTreeSet<&str> {
    let root = tree.split_whitespace().next().unwrap_or_default();
    names(tree).into_iter().filter(|name| name.starts_with("ap-") && *name != root).collect()
}

/// Which of the `banned` packages a tree has.
fn having<'b>(tree: &str, banned: &[&'b str]) -> Vec<&'b str> {
    let names = names(tree);
    banned.iter().copied().filter(|name| names.contains(name)).collect()
}

/// Features of `package` in a tree printed with the format `{p} {f}`.
fn features<'t>(tree: &'t str, package: &str) -> BTreeSet<&'t str> {
    let lines = tree.lines().filter(|line| line.split_whitespace().next() == Some(package));
    lines.flat_map(|line| line.split_whitespace().nth(2).unwrap_or_default().split(',')).collect()
}

/// Network, storage, runtime and randomness: not for the model.
const IO: &[&str] =
    &["tokio", "rusqlite", "sqlx", "sqlx-core", "reqwest", "hyper", "mio", "socket2", "getrandom", "rand", "wasmtime"];
/// Cryptography that must not come in beside ours.
const CRYPTO: &[&str] = &["openssl", "openssl-sys", "native-tls", "ring", "rsa"];

const SAMPLE: &str = "ap-pieces v0.1.0 (/x)\nap-core v0.1.0 (/x)\ntokio v1.0.0\nuuid v1.0.0 std,v7\nuuid v1.0.0 (*)\n";

#[test]
fn arrows_point_one_way() {
    let arrows: [(&str, &[&str]); 5] = [
        ("ap-core", &[]),
        ("ap-crypto", &["ap-core"]),
        ("ap-auth", &["ap-core", "ap-crypto"]),
        ("ap-pieces", &["ap-core"]),
        ("ap-runtime", &["ap-auth", "ap-core", "ap-crypto"]),
    ];
    for (package, allowed) in arrows {
        assert_eq!(ours(&shipped(package)), BTreeSet::from_iter(allowed.iter().copied()), "{package}");
    }
    assert_eq!(ours(SAMPLE), BTreeSet::from(["ap-core"]));
    assert_eq!(ours("ap-runtime v0.1.0\nap-pieces v0.1.0\n"), BTreeSet::from(["ap-pieces"]));
}

#[test]
fn the_model_and_the_pieces_do_no_io() {
    for package in ["ap-core", "ap-pieces"] {
        assert!(having(&shipped(package), IO).is_empty(), "{package}: {:?}", having(&shipped(package), IO));
    }
    assert_eq!(having(SAMPLE, IO), ["tokio"]);
    assert!(having(&shipped("ap-runtime"), IO).len() > 3, "the names in the list are those cargo prints");
}

#[test]
fn no_second_cryptography_comes_in() {
    let all = tree(&["--workspace", "--all-features", "--edges", "normal,build"]);
    assert!(having(&all, CRYPTO).is_empty(), "{:?}", having(&all, CRYPTO));
    assert_eq!(having("ring v0.17.0\n", CRYPTO), ["ring"]);
}

#[test]
fn ids_bring_no_clock_and_no_randomness() {
    let own = |features: &BTreeSet<&str>| {
        features
            .iter()
            .any(|name| name.starts_with("rng") || (name.starts_with('v') && name[1..].parse::<u8>().is_ok()))
    };
    let shipped =
        tree(&["--package", "ap-runtime", "--all-features", "--edges", "normal,build", "--format", "{p} {f}"]);
    assert!(names(&shipped).contains("uuid"));
    assert!(!own(&features(&shipped, "uuid")), "{:?}", features(&shipped, "uuid"));
    assert!(own(&features(SAMPLE, "uuid")));
}
