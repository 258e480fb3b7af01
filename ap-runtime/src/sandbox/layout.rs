//! How the guest's memory lies in the address space.
//!
//! Part of the build script too: machine code runs only in an engine configured as the compiler was.

use wasmtime::Config;

/// One way to lay out the guest's memory. The sandbox is compiled once for each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Layout {
    /// Reserves 4 GiB of addresses per instance, so that no access needs a bounds check.
    Roomy,
    /// Reserves only what a step may use, checks each access, and counts fuel: about half as fast on long computations. For
    /// steps whose fuel is limited, and for processes whose address space is.
    Compact,
}

impl Layout {
    /// Every layout.
    #[cfg_attr(not(test), allow(dead_code, reason = "read by the build script"))]
    pub(crate) const ALL: [Self; 2] = [Self::Roomy, Self::Compact];

    /// The name the build script gives to the machine code.
    #[cfg_attr(not(test), allow(dead_code, reason = "called by the build script"))]
    pub(crate) fn file_name(self) -> &'static str {
        match self {
            Self::Roomy => "engine.roomy.cwasm",
            Self::Compact => "engine.compact.cwasm",
        }
    }

    /// Sets everything that compiled code depends on.
    pub(crate) fn configure(self, config: &mut Config) {
        let (reservation, guard) = match self {
            Self::Roomy => (4 << 30, 32 << 20),
            Self::Compact => (MAX_MEMORY_BYTES as u64, 1 << 16),
        };
        config
            .epoch_interruption(true)
            .consume_fuel(self == Self::Compact)
            .memory_reservation(reservation)
            .memory_guard_size(guard)
            .memory_may_move(false)
            .memory_init_cow(true)
            .generate_address_map(false)
            .wasm_simd(false)
            .wasm_relaxed_simd(false)
            .wasm_multi_memory(false)
            .wasm_memory64(false)
            .wasm_tail_call(false)
            .wasm_extended_const(false);
    }
}

/// The most memory any step can be given.
pub(crate) const MAX_MEMORY_BYTES: usize = 64 << 20;
