//! What the guest of a code step reports: see `ap_runtime::sandbox::fuzzing::report`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ap_runtime::sandbox::fuzzing::report(data));
