//! Runs the guest's `init` once and writes what its memory then holds into the module.

use futures_executor::block_on;
use wasmtime::error::Context as _;
use wasmtime::{Caller, Config, Engine, Extern, Instance, Linker, Module, Result, Store, Val, bail, ensure};
use wasmtime_wizer::{InstanceState, SnapshotVal, Wizer};

/// Snapshots `guest` after `init`, and removes `init`.
pub fn take(guest: &[u8]) -> Result<Vec<u8>> {
    let mut wizer = Wizer::new();
    wizer.init_func("init");
    let (context, instrumented) = wizer.instrument(guest).context("instrumenting the guest")?;

    let engine = Engine::new(Config::new().max_wasm_stack(1 << 20))?;
    let module = Module::new(&engine, instrumented)?;
    let mut store = Store::new(&engine, String::new());
    let instance = linker(&engine)?.instantiate(&mut store, &module)?;
    let init = instance.get_typed_func::<(), ()>(&mut store, "init")?;
    let ran = init.call(&mut store, ());
    ensure!(ran.is_ok(), "the guest's `init` failed: {:?} {}", ran.err(), store.data());

    let mut state = Initialised { store, instance };
    block_on(wizer.snapshot(&context, &mut state)).context("writing the snapshot")
}

/// The imports as `init` may use them: a clock that stands still, so that every build is the same, and the report of a
/// prelude that failed.
fn linker(engine: &Engine) -> Result<Linker<String>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("ap", "now_us", || 0.0_f64)?;
    linker.func_wrap("ap", "console", |_level: u32, _text: u32, _length: u32| {})?;
    linker.func_wrap("ap", "call", |_operation: u32, _arguments: u32, _count: u32| -> Result<i32> {
        bail!("the prelude calls the host while it is loaded")
    })?;
    linker.func_wrap("ap", "take", |_target: u32| {})?;
    linker.func_wrap("ap", "start", |_id: u32, _operation: u32, _arguments: u32, _count: u32| -> Result<()> {
        bail!("the prelude calls the host while it is loaded")
    })?;
    linker.func_wrap("ap", "report", |mut caller: Caller<'_, String>, _part: u32, text: u32, length: u32| {
        let memory = caller.get_export("memory").and_then(Extern::into_memory);
        let text = memory.and_then(|memory| memory.data(&caller).get(text as usize..)?.get(..length as usize));
        let text = text.map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
        caller.data_mut().push_str(&text);
    })?;
    Ok(linker)
}

struct Initialised {
    store: Store<String>,
    instance: Instance,
}

impl InstanceState for Initialised {
    async fn global_get(&mut self, name: &str, _: wasmtime_wizer::ValType) -> SnapshotVal {
        let global = self.instance.get_global(&mut self.store, name).expect("the instrumented module exports it");
        match global.get(&mut self.store) {
            Val::I32(value) => SnapshotVal::I32(value),
            Val::I64(value) => SnapshotVal::I64(value),
            other => panic!("the guest has only integer globals, not {other:?}"),
        }
    }

    async fn memory_contents(&mut self, name: &str, contents: impl FnOnce(&[u8]) + Send) {
        let memory = self.instance.get_memory(&mut self.store, name).expect("the instrumented module exports it");
        contents(memory.data(&self.store));
    }
}
