//! The committed JavaScript engine is the one whose hash is committed beside it, and so is the translator.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};

#[test]
fn the_committed_engine_has_the_committed_hash() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine-js");
    let committed = fs::read_to_string(directory.join("engine.sha256")).unwrap();
    let mut lines = String::new();
    for name in ["engine.wasm", "typescript.bin"] {
        for byte in Sha256::digest(fs::read(directory.join(name)).unwrap()) {
            write!(lines, "{byte:02x}").unwrap();
        }
        writeln!(lines, "  {name}").unwrap();
    }
    assert_eq!(lines, committed, "run `cargo xtask sandbox-guest`");
}
