//! Steps that mean harm leave nothing behind.
//!
//! One test, alone in its process, so that the process's memory is that of the sandbox.
#![cfg(feature = "code")]
#![expect(clippy::unwrap_used, reason = "test support")]

mod attack;
mod scripts;

use std::sync::Arc;
use std::time::Duration;

use ap_core::{id::ProjectId, time::Timestamp};
use ap_runtime::sandbox::{
    CodeLanguage, CodeLimits, CodeRequest, CodeSandbox, NoCodeHost, SandboxCapacity, WasmSandbox,
};

use attack::{Class, NEIGHBOUR, Target, classes};

const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_123_456);

fn start(capacity: SandboxCapacity) -> Box<dyn CodeSandbox> {
    Box::new(WasmSandbox::start(capacity).unwrap())
}

fn request(source: &str, params: &str) -> CodeRequest {
    CodeRequest {
        project: ProjectId::from_u128(1),
        source: source.into(),
        language: CodeLanguage::JavaScript,
        params: params.to_owned().into(),
        context: r#"{"run":{"id":"run_1"},"step":{"name":"code"}}"#.into(),
        now: NOW,
        seed: [1; 32],
        limits: CodeLimits::default(),
        host: Arc::new(NoCodeHost),
    }
}

#[tokio::test]
async fn the_hostile_suite_is_contained_and_leaves_nothing_behind() {
    let target = Target::new(start(attack::capacity()));
    let classes = classes();
    let mut surprises = Vec::new();
    let mut calm = 0;
    // After the first round all that is kept for good is there: threads, instances, caches.
    for round in ["first", "second"] {
        for class in &classes {
            surprises.extend(target.run(class).await);
            target.still_works(class.name()).await;
            if round == "second" {
                let (before, after) = (calm, settled(calm));
                println!("{:>4} {:<32} {:>7} KiB resident", class.count(), class.name(), after / 1024);
                assert!(
                    after <= before / 10 * 11,
                    "{} left {} of {before} bytes more resident",
                    class.name(),
                    after - before
                );
            }
        }
        calm = settled(calm.max(resident()));
    }
    assert!(surprises.is_empty(), "{surprises:#?}");

    let count = |expressions| {
        let counted = classes.iter().filter(|class| (class.name() == "expressions") == expressions);
        counted.map(Class::count).sum::<usize>()
    };
    let (scripts, expressions) = (count(false), count(true));
    println!("{scripts} scripts, {expressions} expressions; slowest step beside them: {:?}", target.slowest());
    assert!(scripts >= 120 && expressions >= 30);
    assert!(target.slowest() < NEIGHBOUR, "another project's step took {:?}", target.slowest());
}

/// Bytes of this process in memory.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = pages.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Elsewhere nobody says so in one place.
#[cfg(not(target_os = "linux"))]
fn resident() -> usize {
    0
}

/// Resident bytes once instances are cleaned, which is not part of a caller's wait.
fn settled(calm: usize) -> usize {
    let mut least = resident();
    for _ in 0..50 {
        if least <= calm / 10 * 11 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        least = least.min(resident());
    }
    least
}
