//! Outputs too large for the journal are kept as files.

use std::{sync::atomic::Ordering, time::Duration};

use ap_core::run::RunStatus;
use serde_json::json;

use super::support::{World, call, output, pure, replays};

#[tokio::test(start_paused = true)]
async fn a_large_output_can_be_read_later_and_after_a_crash() {
    let world = World::new(1).await;
    let flow = world
        .publish_manual(json!([
            call("large", "act", json!({ "value": { "text": "{{trigger.text}}", "n": 7 } })),
            call("hang", "put", json!({ "value": 1 })),
            pure("after", json!("{{steps.large.output.n}}")),
            pure("copy", json!("{{steps.large.output.text}}")),
        ]))
        .await;
    let text = "y".repeat(300 << 10);
    world.peer.hang_from.store(1, Ordering::SeqCst);
    let run = world.start(flow, json!({ "text": text })).await;
    world.calls(2).await;
    world.peer.hang_from.store(u32::MAX, Ordering::SeqCst);
    let world = world.crash(2, Duration::ZERO).await;
    let view = world.ended(run).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    assert_eq!(output(&view, "after"), json!(7));
    assert_eq!(output(&view, "copy"), json!(text));
    assert_eq!(output(&view, "large")["text"], json!(text));
    replays(world, run).await;
}

#[tokio::test(start_paused = true)]
async fn large_outputs_do_not_fill_the_log_but_have_a_limit_of_their_own() {
    let world = World::new(3).await;
    let mut steps = vec![pure("first", json!("{{trigger.text}}"))];
    // Each doubles the one before: 3 MiB, then 6, 12, 24 and so on, with little in the log.
    for n in 1..4 {
        let before = if n == 1 { "first".to_owned() } else { format!("s{}", n - 1) };
        steps.push(json!({ "name": format!("s{n}"), "type": "fake.pure",
            "settings": { "value": format!("{{{{steps.{before}.output}}}}{{{{steps.{before}.output}}}}") } }));
    }
    let flow = world.publish_manual(json!(steps)).await;
    let view = world.run(flow, json!({ "text": "z".repeat(1 << 20) })).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    assert_eq!(output(&view, "s3").as_str().unwrap().len(), 8 << 20);
}
