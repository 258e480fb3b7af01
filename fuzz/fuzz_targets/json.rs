//! JSON under the limits of a webhook payload.
#![no_main]

use ap_core::json::{JsonLimits, parse};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(value) = parse(data, &JsonLimits::payload()) else { return };
    let theirs: Value = serde_json::from_slice(data).expect("serde_json refuses what was accepted");
    assert_eq!(value, theirs);
    let printed = serde_json::to_vec(&value).expect("prints");
    assert_eq!(parse(&printed, &JsonLimits::payload().with_max_bytes(usize::MAX)), Ok(value));
});
