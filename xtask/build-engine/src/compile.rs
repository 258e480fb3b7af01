//! C sources to one WebAssembly module, with clang and wasm-ld.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, thread};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// Compiles and links the guest, before its snapshot is taken.
pub fn guest(package: &Path, engine_dir: &Path, build_dir: &Path) -> Result<Vec<u8>> {
    let clang = tool("CLANG", "clang-19")?;
    let linker = tool("WASM_LD", "wasm-ld-19")?;
    let version = output(Command::new(&clang).arg("--version"))?;
    ensure!(version.contains(CLANG_VERSION), "the hash is that of clang {CLANG_VERSION}, but `{clang}` is {version}");

    let quickjs = quickjs_package(package)?;
    let prelude = build_dir.join("prelude.c");
    fs::write(&prelude, embed(read_prelude(&engine_dir.join("prelude"))?.as_bytes()))?;
    let engine = quickjs.join("quickjs/quickjs.c");
    let engine = fs::read_to_string(&engine).with_context(|| format!("reading {}", engine.display()))?;
    fs::write(build_dir.join("quickjs.c"), patch(engine)?)?;

    let mut sources =
        vec![engine_dir.join("guest.c"), engine_dir.join(MEMORY), prelude, quickjs.join("wasm-shim/shim.c")];
    sources.extend(["libregexp.c", "libunicode.c", "dtoa.c"].map(|name| quickjs.join("quickjs").join(name)));
    let objects = compile_all(&clang, &quickjs, &sources, build_dir)?;

    let wasm = build_dir.join("guest.wasm");
    let mut link = Command::new(linker);
    link.args(["--no-entry", "--gc-sections", "--strip-all", "--stack-first", "--initial-memory=2097152"])
        .arg("-z")
        .arg(format!("stack-size={STACK_SIZE}"))
        .args(objects)
        .arg(quickjs.join("vendor/wasi-libc/lib/libc.a"))
        .arg("-o")
        .arg(&wasm);
    output(&mut link)?;
    fs::read(&wasm).context("reading the linked guest")
}

fn compile_all(clang: &str, quickjs: &Path, sources: &[PathBuf], build_dir: &Path) -> Result<Vec<PathBuf>> {
    thread::scope(|scope| {
        let running: Vec<_> =
            sources.iter().map(|source| scope.spawn(move || compile_one(clang, quickjs, source, build_dir))).collect();
        running.into_iter().map(|one| one.join().expect("the compile thread does not panic")).collect()
    })
}

fn compile_one(clang: &str, quickjs: &Path, source: &Path, build_dir: &Path) -> Result<PathBuf> {
    let object = build_dir.join(source.file_stem().context("a source without a name")?).with_extension("o");
    let mut compile = Command::new(clang);
    compile
        .args(FLAGS)
        .args(if source.ends_with(MEMORY) { BULK_MEMORY } else { &[] })
        .arg(format!("-DSTACK_SIZE={STACK_SIZE}"))
        .arg("-isystem")
        .arg(quickjs.join("vendor/wasi-libc/include"))
        .arg("-I")
        .arg(build_dir) // the patched engine, before the one it was made of
        .arg("-I")
        .arg(quickjs.join("quickjs"))
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(&object);
    output(&mut compile)?;
    Ok(object)
}

/// The engine's source with every change of `PATCHES`.
fn patch(mut source: String) -> Result<String> {
    for (from, to) in PATCHES {
        let found = source.matches(from).count();
        ensure!(found == 1, "the engine's source has {found} places like `{from}`, and the patch is for one");
        source = source.replace(from, to);
    }
    Ok(source)
}

/// Where cargo unpacked the sources that `Cargo.lock` pins.
fn quickjs_package(package: &Path) -> Result<PathBuf> {
    let mut metadata = Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    metadata.args(["metadata", "--locked", "--format-version=1", "--manifest-path"]).arg(package.join("Cargo.toml"));
    let metadata: Value = serde_json::from_str(&output(&mut metadata)?).context("parsing `cargo metadata`")?;
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|found| found["name"] == "rquickjs-sys")
        .and_then(|found| Path::new(found["manifest_path"].as_str()?).parent().map(Path::to_owned))
        .context("`cargo metadata` does not list rquickjs-sys")
}

/// The files of the prelude in the order of their names, as the body of one function. They stand in a block, where two
/// functions of one name are an error.
fn read_prelude(directory: &Path) -> Result<String> {
    let listed = fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    let mut paths = listed.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "js"));
    paths.sort();
    ensure!(!paths.is_empty(), "no scripts in {}", directory.display());
    let mut script = String::from("(function (host) {\n\"use strict\";\n{\n");
    for path in paths {
        script += &fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    }
    Ok(script + "\nreturn platform;\n}\n})\n")
}

fn embed(prelude: &[u8]) -> String {
    let mut c = String::from("#include <stddef.h>\nchar prelude_js[] = {");
    for byte in prelude {
        let _ = write!(c, "{byte},"); // a `String` takes every write
    }
    let _ = writeln!(c, "0}};\nconst size_t prelude_js_length = {};", prelude.len());
    c
}

fn tool(variable: &str, default: &str) -> Result<String> {
    let name = env::var(variable).unwrap_or_else(|_| default.to_owned());
    output(Command::new(&name).arg("--version")).with_context(|| format!("`{name}` is needed; see the README"))?;
    Ok(name)
}

fn output(command: &mut Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    if !done.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&done.stderr));
    }
    String::from_utf8(done.stdout).with_context(|| format!("{command:?} printed no text"))
}

/// Another compiler builds another file; the committed hash is that of this one.
const CLANG_VERSION: &str = "19.1.7";

/// Bytes of the C stack inside the linear memory; QuickJS refuses deeper recursion `STACK_RESERVE` bytes before its end.
const STACK_SIZE: u32 = 512 * 1024;

/// What of the engine's own source is exchanged; each stands there once. `guest.c` says what the names mean.
const PATCHES: &[(&str, &str)] = &[
    (
        "#define JS_REF_COUNT(p) (js_rc(p)->ref_count)",
        "#define JS_REF_COUNT(p) (*(IS_IMMORTAL(p) ? &immortal_ref_count : &js_rc(p)->ref_count))",
    ),
    (
        "    s->line_start = s->buf_ptr;\n    s->mark = s->buf_ptr + min_int(1, input_len);\n    s->eol = s->buf_ptr;\n",
        "    s->line_start = s->buf_ptr + columns_before;\n    s->mark = s->buf_ptr + min_int(1, input_len);\n    s->eol = s->line_start;\n",
    ),
];

/// Copies and fills memory for all the others.
const MEMORY: &str = "memory.c";

/// Lets it use the instructions for that, and keeps the compiler from making its loops calls of itself.
const BULK_MEMORY: &[&str] = &["-mbulk-memory", "-fno-builtin"];

/// `EMSCRIPTEN` and the `FE_…` values select QuickJS's path for a WebAssembly without WASI; `__wasi__` must stay
/// undefined, since QuickJS then drops its own stack check. Warnings belong to the vendored sources.
const FLAGS: &[&str] = &[
    "--target=wasm32-unknown-unknown",
    "-O3",
    "-fno-ident",
    "-fno-strict-aliasing",
    "-ffunction-sections",
    "-fdata-sections",
    "-mnontrapping-fptoint",
    "-msign-ext",
    "-mmutable-globals",
    "-mmultivalue",
    "-D_GNU_SOURCE",
    "-DEMSCRIPTEN=1",
    "-DFE_DOWNWARD=0",
    "-DFE_UPWARD=0",
    "-DNDEBUG",
    "-DSTACK_RESERVE=65536",
    "-DGC_THRESHOLD=1048576",
    "-w",
];
