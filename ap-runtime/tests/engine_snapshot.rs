//! The committed JavaScript engine is the one whose hash is committed beside it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};

#[test]
fn the_committed_engine_has_the_committed_hash() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine-js");
    let engine = fs::read(directory.join("engine.wasm")).unwrap();
    let committed = fs::read_to_string(directory.join("engine.wasm.sha256")).unwrap();
    let mut line = String::new();
    for byte in Sha256::digest(&engine) {
        write!(line, "{byte:02x}").unwrap();
    }
    line.push_str("  engine.wasm\n");
    assert_eq!(line, committed, "run `cargo run --manifest-path xtask/build-engine/Cargo.toml`");
}
