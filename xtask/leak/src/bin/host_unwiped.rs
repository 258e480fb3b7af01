//! The host whose memory is searched, with the ordinary allocator.
#![forbid(unsafe_code)]

fn main() {
    leak::memory::host::main();
}
