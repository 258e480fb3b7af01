//! One seed, one trace.

use ap_core::{id::RunId, store::PageRequest};
use ap_runtime::store::{AuditStore, RunStore};
use serde_json::json;

use super::support::World;

/// Everything a world wrote, sealed bytes included: nonces, ids and times all come from the seams.
fn trace(seed: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::new(seed).await;
        world.peer.fail_first.store(7, std::sync::atomic::Ordering::SeqCst);
        let (flow, _) = world
            .publish(json!([
                { "name": "act", "type": "fake.act", "settings": { "value": "{{trigger.n}}" },
                  "retry": { "maxAttempts": 3 }, "onError": "continue" },
                { "name": "look", "type": "code", "settings": { "sourceCode": { "code": "export const code = p => p" } } },
            ]))
            .await;
        let admin = world.admin();
        let mut runs: Vec<RunId> = Vec::new();
        for n in 0..10 {
            runs.push(admin.start_run(flow, json!({ "n": n })).await.unwrap());
        }
        let mut trace = Vec::new();
        for run in runs {
            admin.wait_for_run(run, std::time::Duration::from_secs(60)).await.unwrap();
            for entry in world.backend.journal(run, world.project).await.unwrap() {
                trace.push(format!("{run} {} {:?}", entry.seq, entry.sealed.as_bytes()));
            }
            trace.push(serde_json::to_string(&admin.run(run).await.unwrap()).unwrap());
        }
        let audit = world.backend.audit(world.project.into(), &PageRequest::first(500)).await.unwrap();
        trace.extend(audit.items.iter().map(|record| format!("{record:?} {:?}", record.body.as_bytes())));
        trace
    })
}

#[test]
fn one_seed_gives_one_trace_twice() {
    let (first, second) = (trace(42), trace(42));
    assert!(first.len() > 40);
    assert_eq!(first, second);
}

#[test]
fn another_seed_gives_another_trace() {
    assert_ne!(trace(42), trace(43));
}
