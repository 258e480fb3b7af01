//! The engine's bytecode of the library that removes the types of TypeScript.

use wasmtime::error::Context as _;
use wasmtime::{Caller, Config, Engine, Extern, Linker, Module, Result, Store, bail, ensure};

/// Compiles the bundle with the engine itself, into the bytecode of an expression that gives a function from source to source.
pub fn compile(engine: &[u8], bundle: &str) -> Result<Vec<u8>> {
    let wasm = Engine::new(Config::new().max_wasm_stack(1 << 20))?;
    let module = Module::new(&wasm, engine)?;
    let mut store = Store::new(&wasm, Vec::new());
    let instance = linker(&wasm)?.instantiate(&mut store, &module)?;
    let memory = instance.get_memory(&mut store, "memory").context("the engine has a memory")?;
    let alloc = instance.get_typed_func::<u32, u32>(&mut store, "alloc")?;
    let compile = instance.get_typed_func::<(u32, u32, u32, u32), u32>(&mut store, "compile")?;

    let source = format!("(() => {{ {bundle}; return (source) => library.strip(source); }})()");
    let length = u32::try_from(source.len())?;
    let start = alloc.call(&mut store, length + 2)?;
    memory.write(&mut store, start as usize, format!("{source}\0\0").as_bytes())?;
    let outcome = compile.call(&mut store, (EXPRESSION, start, length, 0))?;
    ensure!(outcome == 0, "the bundle does not compile");
    ensure!(!store.data().is_empty(), "the engine gave no bytecode");
    Ok(store.into_data())
}

fn linker(engine: &Engine) -> Result<Linker<Vec<u8>>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("ap", "now_us", || 0.0_f64)?;
    linker.func_wrap("ap", "console", |_level: u32, _text: u32, _length: u32| {})?;
    linker.func_wrap("ap", "call", |_operation: u32, _arguments: u32, _count: u32| -> Result<i32> { bail!("no host") })?;
    linker.func_wrap("ap", "take", |_target: u32| {})?;
    linker.func_wrap("ap", "start", |_id: u32, _operation: u32, _arguments: u32, _count: u32| -> Result<()> {
        bail!("no host")
    })?;
    linker.func_wrap("ap", "report", |mut caller: Caller<'_, Vec<u8>>, part: u32, start: u32, length: u32| {
        let memory = caller.get_export("memory").and_then(Extern::into_memory);
        let bytes = memory.and_then(|memory| memory.data(&caller).get(start as usize..)?.get(..length as usize));
        if let (BYTECODE, Some(bytes)) = (part, bytes) {
            *caller.data_mut() = bytes.to_vec();
        }
    })?;
    Ok(linker)
}

/// `EXPRESSION` and `PART_BYTECODE` of `guest.c`.
const EXPRESSION: u32 = 1;
const BYTECODE: u32 = 4;
