//! A branch condition: parsed, and evaluated against an empty world.
#![no_main]

use ap_core::{
    expr::{Environment, Lookup, Path},
    flow::BranchCondition,
};
use libfuzzer_sys::fuzz_target;

struct Nothing;

impl Environment for Nothing {
    fn lookup<'a>(&'a self, _: &Path) -> Lookup<'a> {
        Lookup::Missing { at: 0 }
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(value) = serde_json::from_slice(data) else { return };
    match BranchCondition::parse(&value, "/c") {
        Ok(condition) => {
            let (first, second) = (condition.evaluate(&Nothing), condition.evaluate(&Nothing));
            assert_eq!(format!("{first:?}"), format!("{second:?}"));
            for (pointer, _) in condition.templates() {
                assert!(pointer.is_empty() || pointer.starts_with('/'), "{pointer}");
            }
        }
        Err(findings) => assert!(!findings.is_empty() && findings.iter().all(|one| one.pointer.starts_with("/c"))),
    }
});
