//! What a step cannot be cheaper than, and what it is instead of.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rquickjs::{Context as QuickJs, Runtime};
use wasmtime::{
    Config, Enabled, Engine, Func, InstanceAllocationStrategy, InstancePre, Linker, Module, PoolingAllocationConfig,
    Store,
};

/// The sandbox's own module with imports that do nothing.
pub struct Instance {
    engine: Engine,
    module: InstancePre<()>,
}

impl Instance {
    pub fn load() -> Result<Self> {
        let mut pool = PoolingAllocationConfig::default();
        pool.total_core_instances(4)
            .total_memories(4)
            .total_tables(4)
            .max_memory_size(64 << 20)
            .table_elements(2_000)
            .max_unused_warm_slots(4)
            .linear_memory_keep_resident(512 << 10)
            .table_keep_resident(16 << 10)
            .pagemap_scan(Enabled::Auto);
        let mut config = Config::new();
        config
            .epoch_interruption(true)
            .memory_init_cow(true)
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config).map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ap-runtime/engine-js/engine.wasm");
        let module = Module::from_file(&engine, path).map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let mut linker = Linker::new(&engine);
        linker.define_unknown_imports_as_traps(&module).map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let module = linker.instantiate_pre(&module).map_err(|error| anyhow::anyhow!("{error:#}"))?;
        Ok(Self { engine, module })
    }

    pub fn make(&self) -> Result<()> {
        let mut store = Store::new(&self.engine, ());
        store.set_epoch_deadline(1);
        let instance = self.module.instantiate(&mut store).map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let run: Option<Func> = instance.get_func(&mut store, "run");
        run.context("the engine can run steps").map(drop)
    }
}

/// QuickJS-ng as machine code in this process: no border at all.
#[derive(Clone, Copy)]
pub struct NativeQuickJs;

impl NativeQuickJs {
    pub fn trivial(self) -> Result<()> {
        let runtime = Runtime::new()?;
        let context = QuickJs::full(&runtime)?;
        let value: i32 = context.with(|context| context.eval("((params) => params.n + 1)({ n: 41 })"))?;
        ensure!(value == 42, "native QuickJS computed {value}");
        Ok(())
    }
}
