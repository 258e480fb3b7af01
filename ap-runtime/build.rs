//! Compiles the code sandbox from WebAssembly to machine code, so that no compiler becomes part of the program.
//!
//! Does nothing without the feature `code`.

use std::error::Error;

#[cfg(feature = "code")]
#[path = "src/sandbox/layout.rs"]
mod layout;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "code")]
    engine::compile()?;
    Ok(())
}

#[cfg(feature = "code")]
mod engine {
    use std::env;
    use std::error::Error;
    use std::fs;
    use std::path::Path;
    use std::thread;

    use wasmtime::{Config, Engine};

    use super::layout::Layout;

    pub(crate) fn compile() -> Result<(), Box<dyn Error>> {
        println!("cargo::rerun-if-changed={SNAPSHOT}");
        println!("cargo::rerun-if-changed=src/sandbox/layout.rs");
        let target = env::var("TARGET")?;
        let snapshot = fs::read(SNAPSHOT).map_err(|error| format!("{SNAPSHOT}: {error}"))?;
        let compiled = thread::scope(|scope| {
            let (target, snapshot) = (&target, &snapshot);
            let running = Layout::ALL.map(|layout| (layout, scope.spawn(move || precompile(layout, target, snapshot))));
            running.map(|(layout, thread)| (layout, thread.join()))
        });
        let out_dir = env::var("OUT_DIR")?;
        for (layout, machine_code) in compiled {
            let machine_code = machine_code.map_err(|_| "the compiler panicked")??;
            fs::write(Path::new(&out_dir).join(layout.file_name()), machine_code)?;
        }
        Ok(())
    }

    fn precompile(layout: Layout, target: &str, snapshot: &[u8]) -> Result<Vec<u8>, String> {
        let mut config = Config::new();
        layout.configure(&mut config);
        let compiled = config
            .target(target)
            .and_then(|config| Engine::new(config))
            .and_then(|engine| engine.precompile_module(snapshot));
        compiled.map_err(|error| format!("feature `code` cannot be built for {target}: {error:#}"))
    }

    const SNAPSHOT: &str = "engine-js/engine.wasm";
}
