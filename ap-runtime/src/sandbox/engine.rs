//! The compiled engine, ready to make instances.

use std::sync::OnceLock;

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, InstancePre, Module, ModuleExport, PoolingAllocationConfig,
    Result, format_err,
};

use super::guest;
use super::layout::{Layout, MAX_MEMORY_BYTES};
use super::state::StepState;

/// The engine with its machine code loaded and its imports linked.
#[derive(Clone)]
pub(crate) struct LoadedEngine {
    pub(crate) engine: Engine,
    pub(crate) guest: InstancePre<StepState>,
    pub(crate) exports: Exports,
    /// Whether it runs on fuel, which then must be given.
    pub(crate) on_fuel: bool,
}

/// Where the guest's exports are.
#[derive(Clone, Copy)]
pub(crate) struct Exports {
    pub(crate) memory: ModuleExport,
    pub(crate) alloc: ModuleExport,
    pub(crate) compile: ModuleExport,
    pub(crate) run: ModuleExport,
    pub(crate) settle: ModuleExport,
    pub(crate) evaluate: ModuleExport,
}

/// The engine that every step uses, and the one that counts fuel, loaded when it is first wanted.
pub(crate) struct Engines {
    timed: LoadedEngine,
    metered: OnceLock<Option<LoadedEngine>>,
    instances: u32,
}

impl Engines {
    /// Loads the machine code with room for `instances` at a time, in the first layout the address space allows; where even
    /// that is too much, with room for fewer, but at least for `fewest`.
    pub(crate) fn load(instances: u32, fewest: u32) -> Result<Self> {
        let (mut layout, mut room) = (Layout::Roomy, instances);
        loop {
            let error = match LoadedEngine::load_as(layout, room) {
                Ok(timed) => return Ok(Self { timed, metered: OnceLock::new(), instances: room }),
                Err(error) => error,
            };
            match layout {
                Layout::Roomy => layout = Layout::Compact,
                _ if room > fewest => room = (room / 2).max(fewest),
                _ => return Err(error),
            }
            tracing::warn!(error = %format_args!("{error:#}"), room, "code sandbox falls back to bounds-checked memory");
        }
    }

    /// How many instances there can be at a time.
    pub(crate) fn instances(&self) -> u32 {
        self.instances
    }

    pub(crate) fn timed(&self) -> &LoadedEngine {
        &self.timed
    }

    /// The engine that counts fuel, if it can be loaded.
    pub(crate) fn metered(&self) -> Option<&LoadedEngine> {
        if self.timed.on_fuel {
            return Some(&self.timed);
        }
        let load = || match LoadedEngine::load_as(Layout::Compact, self.instances) {
            Ok(engine) => Some(engine),
            Err(error) => {
                tracing::error!(error = %format_args!("{error:#}"), "code sandbox cannot load the engine that counts fuel");
                None
            }
        };
        self.metered.get_or_init(load).as_ref()
    }

    /// Makes every running guest ask whether it must stop.
    pub(crate) fn increment_epoch(&self) {
        self.timed.engine.increment_epoch();
        if let Some(Some(metered)) = self.metered.get() {
            metered.engine.increment_epoch();
        }
    }
}

impl LoadedEngine {
    pub(crate) fn load_as(layout: Layout, instances: u32) -> Result<Self> {
        let engine = Engine::new(&config(layout, instances))?;
        let module = deserialize(&engine, layout)?;
        let export =
            |name: &str| module.get_export_index(name).ok_or_else(|| format_err!("the guest does not export `{name}`"));
        let exports = Exports {
            memory: export("memory")?,
            alloc: export("alloc")?,
            compile: export("compile")?,
            run: export("run")?,
            settle: export("settle")?,
            evaluate: export("evaluate")?,
        };
        let guest = guest::linker(&engine)?.instantiate_pre(&module)?;
        Ok(Self { engine, guest, exports, on_fuel: layout == Layout::Compact })
    }
}

fn config(layout: Layout, instances: u32) -> Config {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_core_instances(instances)
        .total_memories(instances)
        .total_tables(instances)
        .max_memory_size(MAX_MEMORY_BYTES)
        .table_elements(TABLE_ELEMENTS)
        .max_unused_warm_slots(instances.min(MAX_WARM_SLOTS))
        .linear_memory_keep_resident(MEMORY_KEEP_RESIDENT)
        .table_keep_resident(TABLE_KEEP_RESIDENT)
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    layout.configure(&mut config);
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .max_wasm_stack(MAX_WASM_STACK)
        .wasm_backtrace_max_frames(None);
    config
}

#[expect(unsafe_code, reason = "the bytes are machine code that this crate's build script compiled into the program")]
fn deserialize(engine: &Engine, layout: Layout) -> Result<Module> {
    // SAFETY: `deserialize` runs what it is given. These bytes come from `Engine::precompile_module` in the build script
    // and are part of this program, as trustworthy as the rest of it.
    unsafe { Module::deserialize(engine, machine_code(layout)) }
}

fn machine_code(layout: Layout) -> &'static [u8] {
    match layout {
        Layout::Roomy => include_bytes!(concat!(env!("OUT_DIR"), "/engine.roomy.cwasm")),
        Layout::Compact => include_bytes!(concat!(env!("OUT_DIR"), "/engine.compact.cwasm")),
    }
}

/// Native stack for compiled guest code. With the guest's own 512 KiB beside it, ordinary recursion ends as a JavaScript
/// `RangeError`, and only the engine's own recursion (its parsers) meets this limit.
pub(super) const MAX_WASM_STACK: usize = 2 << 20;

/// Memory of a finished instance that is cleaned in place instead of being given back; it bounds what idle slots hold.
const MEMORY_KEEP_RESIDENT: usize = 512 << 10;
const TABLE_KEEP_RESIDENT: usize = 16 << 10;

/// Finished instances whose memory stays mapped for the next ones; more than this many rarely finish at a time.
const MAX_WARM_SLOTS: u32 = 64;

/// The guest's one table holds its function pointers and cannot grow.
const TABLE_ELEMENTS: usize = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layout_loads_the_code_compiled_for_it_and_no_other() {
        for layout in Layout::ALL {
            LoadedEngine::load_as(layout, 1).unwrap();
            assert!(layout.file_name().contains(&format!("{layout:?}").to_lowercase()));
        }
        let roomy = Engine::new(&config(Layout::Roomy, 1)).unwrap();
        assert!(deserialize(&roomy, Layout::Compact).is_err());
    }

    #[test]
    fn the_largest_accepted_limit_is_the_size_of_a_slot() {
        assert_eq!(super::super::CodeLimits::default().memory_bytes(), MAX_MEMORY_BYTES);
        assert!(super::super::CodeLimits::default().with_memory_bytes(MAX_MEMORY_BYTES + 1).is_err());
    }
}
