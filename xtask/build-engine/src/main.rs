//! Builds `ap-runtime/engine-js/engine.wasm`, the snapshot of the code sandbox, and the bytecode of what removes types. See this
//! package's README.

mod bytecode;
mod compile;
mod snapshot;

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use anyhow::{Context as _, Result, anyhow, bail};
use sha2::{Digest as _, Sha256};

fn main() -> Result<()> {
    let check = match env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => bail!("unknown argument `{other}`; the only one is `--check`"),
    };
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let engine_dir = package.join("../../ap-runtime/engine-js");
    let build_dir = tempfile::tempdir().context("making a build directory")?;

    let guest = compile::guest(package, &engine_dir, build_dir.path())?;
    println!("guest     {:>9} bytes  {}", guest.len(), sha256(&guest));
    let engine = snapshot::take(&guest).map_err(|error| anyhow!("{error:?}"))?;
    println!("snapshot  {:>9} bytes  {}", engine.len(), sha256(&engine));
    let bundle = fs::read_to_string(engine_dir.join("typescript/bundle.js")).context("reading the TypeScript bundle")?;
    let translator = bytecode::compile(&engine, &bundle).map_err(|error| anyhow!("{error:?}"))?;
    println!("translator{:>9} bytes  {}", translator.len(), sha256(&translator));

    let files = [("engine.wasm", engine), ("typescript.bin", translator)];
    let mut hashes = String::new();
    for (name, content) in &files {
        writeln!(hashes, "{}  {name}", sha256(content))?;
    }
    let hash_path = engine_dir.join("engine.sha256");
    if check {
        let committed = fs::read_to_string(&hash_path).context("reading the committed hashes")?;
        if committed != hashes {
            bail!("the committed engine is not what these sources build: committed {committed}, built {hashes}");
        }
        return Ok(());
    }
    for (name, content) in &files {
        fs::write(engine_dir.join(name), content).with_context(|| format!("writing {name}"))?;
    }
    fs::write(&hash_path, hashes).with_context(|| format!("writing {}", hash_path.display()))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // a `String` takes every write
        hex
    })
}
