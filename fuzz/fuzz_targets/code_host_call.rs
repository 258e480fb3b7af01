//! Host calls of a code step, as its guest's memory holds them: see `ap_runtime::sandbox::fuzzing::host_call`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ap_runtime::sandbox::fuzzing::host_call(data));
