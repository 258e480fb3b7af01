//! `wait`: webhooks, approvals, barriers, through the resume door.

use std::time::Duration;

use ap_core::run::{RunStatus, StepErrorKind};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::support::{World, call, output, pure, replays, step};

/// Sends an answer with a token.
async fn answer(world: &World, token: &str, body: &Value) -> StatusCode {
    let request: Request<Full<Bytes>> = Request::post(format!("/resume/{token}"))
        .header("content-type", "application/json")
        .body(Full::from(Bytes::from(body.to_string())))
        .unwrap();
    world.runtime.resumes().handle(request).await.status()
}

/// The value that the peer was sent by the step whose key ends so.
fn sent(world: &World, name: &str) -> Value {
    let log = world.peer.log.lock().unwrap();
    let found = log.iter().rev().find(|(key, ..)| key.ends_with(name));
    found.unwrap_or_else(|| panic!("`{name}` sent nothing")).1.clone()
}

fn token(world: &World, name: &str) -> String {
    sent(world, name).as_str().unwrap().to_owned()
}

fn send(name: &str, value: &str) -> Value {
    call(name, "act", json!({ "value": value }))
}

fn wait(name: &str, settings: Value) -> Value {
    json!({ "name": name, "type": "wait", "settings": settings })
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_what_its_one_caller_sends() {
    let world = World::new(1).await;
    let flow = world
        .publish_manual(json!([
            send("mail", "{{$wait.hold.token}}"),
            wait("hold", json!({ "mode": "webhook" })),
            pure("after", json!("{{steps.hold.output.answer}}")),
        ]))
        .await;
    let run = world.start(flow, json!({})).await;
    world.paused(run).await;
    let token = token(&world, "/mail");
    assert_eq!(answer(&world, &token, &json!({ "answer": 42 })).await, StatusCode::OK);
    assert_ne!(answer(&world, &token, &json!({ "answer": 43 })).await, StatusCode::OK, "a token works once");
    let view = world.ended(run).await;
    assert_eq!((view.status, output(&view, "after")), (RunStatus::Succeeded, json!(42)), "{:?}", view.error);
    assert_ne!(answer(&world, &token, &json!({})).await, StatusCode::OK, "the run is over");
    replays(world, run).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_before_the_wait_is_kept() {
    let world = World::new(2).await;
    let flow = world
        .publish_manual(json!([
            send("mail", "{{$wait.hold.token}}"),
            { "name": "nap", "type": "delay", "settings": { "delayMs": 60_000 } },
            wait("hold", json!({ "mode": "webhook" })),
        ]))
        .await;
    let run = world.start(flow, json!({})).await;
    world.paused(run).await;
    assert_eq!(answer(&world, &token(&world, "/mail"), &json!("early")).await, StatusCode::OK);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let world = world.crash(3, Duration::ZERO).await;
    let view = world.ended(run).await;
    assert_eq!((view.status, output(&view, "hold")), (RunStatus::Succeeded, json!("early")));
    assert!(view.finished.unwrap().saturating_since(view.accepted) < Duration::from_secs(62), "it did not wait");
    replays(world, run).await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_nobody_answers_fails_in_time_and_its_token_with_it() {
    let world = World::new(4).await;
    let mut hold = wait("hold", json!({ "mode": "webhook", "timeoutMs": 60_000 }));
    hold["onError"] = json!("continue");
    let flow = world
        .publish_manual(json!([
            send("mail", "{{$wait.hold.token}}"),
            hold,
            pure("after", json!("{{steps.hold.error.kind}}")),
            { "name": "nap", "type": "delay", "settings": { "delayMs": 60_000 } },
        ]))
        .await;
    let run = world.start(flow, json!({})).await;
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_ne!(answer(&world, &token(&world, "/mail"), &json!(1)).await, StatusCode::OK, "expired");
    let view = world.ended(run).await;
    assert_eq!((view.status, output(&view, "after")), (RunStatus::Succeeded, json!("timeout")), "{:?}", view.error);
    let took = step(&view, "hold").finished.unwrap().saturating_since(step(&view, "hold").started).as_millis();
    assert!((60_000..60_200).contains(&took), "{took}");
    replays(world, run).await;
}

#[tokio::test(start_paused = true)]
async fn a_forged_token_and_that_of_another_run_change_nothing() {
    let world = World::new(5).await;
    let flow = world
        .publish_manual(json!([
            send("mail", "{{$wait.hold.token}}"),
            wait("hold", json!({ "mode": "webhook", "timeoutMs": 60_000 }))
        ]))
        .await;
    let one = world.start(flow, json!({})).await;
    world.paused(one).await;
    let first = token(&world, "/mail");
    let two = world.start(flow, json!({})).await;
    world.paused(two).await;
    for at in [first.len() - 1, first.len() / 2, 10] {
        let mut forged = first.clone().into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        assert_ne!(answer(&world, &String::from_utf8(forged).unwrap(), &json!(1)).await, StatusCode::OK);
    }
    assert_eq!(answer(&world, &first, &json!("mine")).await, StatusCode::OK);
    assert_eq!(world.ended(one).await.status, RunStatus::Succeeded);
    let view = world.ended(two).await;
    assert_eq!(view.error.map(|error| error.kind), Some(StepErrorKind::Timeout));
}

fn approval(required: u32) -> Value {
    let of = |name: &str| json!({ "yes": format!("{{{{$wait.ask.approvers.{name}.approve}}}}"), "no": format!("{{{{$wait.ask.approvers.{name}.reject}}}}") });
    json!([
        call("mail", "act", json!({ "value": { "ann": of("ann"), "bob": of("bob"), "cy": of("cy") } })),
        wait(
            "ask",
            json!({ "mode": "approval", "approvers": ["ann", "bob", "cy"], "required": required, "timeoutMs": 600_000 })
        ),
        pure("after", json!("{{steps.ask.output.approved}}")),
    ])
}

async fn decide(answers: &[(&str, &str)]) -> Value {
    let world = World::new(6).await;
    let flow = world.publish_manual(approval(2)).await;
    let run = world.start(flow, json!({})).await;
    world.paused(run).await;
    let tokens = sent(&world, "/mail");
    for (index, (who, what)) in answers.iter().enumerate() {
        assert_eq!(world.view(run).await.finished, None, "too early, after {index}");
        assert_eq!(answer(&world, tokens[who][what].as_str().unwrap(), &json!({ "note": who })).await, StatusCode::OK);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let other = if *what == "yes" { "no" } else { "yes" };
        assert_ne!(
            answer(&world, tokens[who][other].as_str().unwrap(), &json!(1)).await,
            StatusCode::OK,
            "one word each"
        );
    }
    let view = world.ended(run).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    let decided = output(&view, "ask");
    replays(world, run).await;
    decided
}

#[tokio::test(start_paused = true)]
async fn two_of_three_approve_or_reject() {
    let approved = decide(&[("ann", "yes"), ("cy", "yes")]).await;
    assert_eq!(
        (&approved["approved"], &approved["approvals"], &approved["rejections"]),
        (&json!(true), &json!(["ann", "cy"]), &json!([]))
    );
    assert_eq!(approved["answers"]["cy"], json!({ "note": "cy" }));
    let mixed = decide(&[("bob", "no"), ("ann", "yes"), ("cy", "yes")]).await;
    assert_eq!((&mixed["approved"], &mixed["rejections"]), (&json!(true), &json!(["bob"])));
    let rejected = decide(&[("bob", "no"), ("ann", "no")]).await;
    assert_eq!((&rejected["approved"], &rejected["rejections"]), (&json!(false), &json!(["ann", "bob"])));
}

#[tokio::test(start_paused = true)]
async fn a_barrier_waits_for_its_parties() {
    let world = World::new(7).await;
    let flow = world
        .publish_manual(json!([
            call("mail", "act", json!({ "value": { "crm": "{{$wait.all.parties.crm.token}}", "erp": "{{$wait.all.parties.erp.token}}" } })),
            wait("all", json!({ "mode": "barrier", "parties": ["crm", "erp"] })),
            pure("after", json!("{{steps.all.output.parties.erp}}")),
        ]))
        .await;
    let run = world.start(flow, json!({})).await;
    world.paused(run).await;
    let tokens = sent(&world, "/mail");
    assert_eq!(answer(&world, tokens["erp"].as_str().unwrap(), &json!("e")).await, StatusCode::OK);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let world = replays(world, run).await;
    assert_eq!(world.paused(run).await.status, RunStatus::Paused);
    assert_eq!(answer(&world, tokens["crm"].as_str().unwrap(), &json!("c")).await, StatusCode::OK);
    let view = world.ended(run).await;
    assert_eq!(output(&view, "all"), json!({ "parties": { "crm": "c", "erp": "e" } }));
    assert_eq!(output(&view, "after"), json!("e"));
}

#[tokio::test(start_paused = true)]
async fn every_iteration_has_tokens_of_its_own() {
    for concurrency in [1, 3] {
        let world = World::new(8).await;
        let steps = json!([
            call("mail", "act", json!({ "value": { "who": "{{item}}", "token": "{{$wait.hold.token}}" } })),
            wait("hold", json!({ "mode": "webhook" })),
            pure("got", json!("{{item}}:{{steps.hold.output}}")),
        ]);
        let each = json!({ "name": "each", "type": "loop",
            "settings": { "items": ["a", "b", "c"], "steps": steps, "concurrency": concurrency } });
        let flow = world.publish_manual(json!([each])).await;
        let run = world.start(flow, json!({})).await;
        for _ in 0..3 {
            world.paused(run).await;
            let latest = world.peer.log.lock().unwrap().clone();
            let mut taken = 0;
            // Backwards, so that answers come in another order than the items.
            for (_, value, _) in latest.iter().rev().filter(|(key, ..)| key.ends_with("/mail")) {
                let status = answer(
                    &world,
                    value["token"].as_str().unwrap(),
                    &json!(format!("for {}", value["who"].as_str().unwrap())),
                )
                .await;
                taken += usize::from(status == StatusCode::OK);
            }
            assert_eq!(taken, concurrency as usize);
            tokio::time::sleep(Duration::from_secs(1)).await;
            if world.view(run).await.status.is_terminal() {
                break;
            }
        }
        let view = world.ended(run).await;
        assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
        for (index, item) in ["a", "b", "c"].iter().enumerate() {
            assert_eq!(output(&view, &format!("each:{index}/got")), json!(format!("{item}:for {item}")));
        }
        replays(world, run).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_who_looks_at_a_run_sees_a_token() {
    let world = World::new(9).await;
    let child = world
        .publish_manual(json!([
            call("mail", "act", json!({ "value": "{{trigger.token}}" })),
            { "name": "answer", "type": "respond", "settings": { "status": 200, "headers": { "x-token": "{{trigger.token}}" }, "body": { "as": "{{trigger.token}}" } } },
        ]))
        .await;
    let flow = world
        .publish_manual(json!([
            { "name": "other", "type": "subflow", "settings": { "flow": child.to_string(), "payload": { "token": "{{$wait.hold.token}}" } } },
            { "name": "script", "type": "code", "settings": { "sourceCode": { "code": "export const code = p => p" }, "input": { "t": "see {{$wait.hold.token}}." } } },
            wait("hold", json!({ "mode": "webhook", "timeoutMs": 60_000 })),
        ]))
        .await;
    let run = world.start(flow, json!({})).await;
    world.paused(run).await;
    let token = token(&world, "/mail");
    let all = world
        .admin()
        .runs(ap_runtime::store::RunFilter::default(), &ap_core::store::PageRequest::default())
        .await
        .unwrap()
        .items;
    assert_eq!(all.len(), 2);
    for record in all {
        let shown = serde_json::to_string(&world.view(record.id).await).unwrap();
        assert!(!shown.contains(&token), "{shown}");
        assert!(shown.contains("‹resume token›"), "{shown}");
    }
    assert_eq!(answer(&world, &token, &json!(1)).await, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_tried_again_keeps_the_answers_it_had() {
    let world = World::new(10).await;
    let flow = world.publish_manual(approval(2)).await;
    let run = world.start(flow, json!({})).await;
    world.paused(run).await;
    let tokens = sent(&world, "/mail");
    assert_eq!(answer(&world, tokens["ann"]["yes"].as_str().unwrap(), &json!("from ann")).await, StatusCode::OK);
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.admin().cancel_run(run, "by mistake").await.unwrap();
    assert_eq!(world.ended(run).await.status, RunStatus::Canceled);
    world.admin().retry_run(run, ap_runtime::session::RetryStrategy::FromFailedStep).await.unwrap();
    world.paused(run).await;
    assert_eq!(answer(&world, tokens["bob"]["yes"].as_str().unwrap(), &json!("from bob")).await, StatusCode::OK);
    let view = world.ended(run).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    assert_eq!(output(&view, "ask")["approvals"], json!(["ann", "bob"]));
    replays(world, run).await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_was_over_and_is_tried_again_keeps_the_answers_it_had() {
    let world = World::new(11).await;
    let mut steps = approval(2);
    steps[1]["settings"]["timeoutMs"] = json!(60_000);
    // The tokens are made by a step with a clock of its own: they outlive the first try.
    let flow = world.publish_manual(steps).await;
    let run = world.start(flow, json!({})).await;
    world.paused(run).await;
    let tokens = sent(&world, "/mail");
    assert_eq!(answer(&world, tokens["ann"]["yes"].as_str().unwrap(), &json!("from ann")).await, StatusCode::OK);
    let view = world.ended(run).await;
    assert_eq!(view.error.map(|error| error.kind), Some(StepErrorKind::Timeout));
    world.admin().retry_run(run, ap_runtime::session::RetryStrategy::FromFailedStep).await.unwrap();
    let view = world.ended(run).await;
    // Nobody else can answer any more, but what ann said still counts.
    assert!(view.error.unwrap().message.contains("1 of 3"), "it forgot an answer");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_used_works_no_more_when_the_run_is_tried_again() {
    let world = World::new(41).await;
    let flow = world
        .publish_manual(json!([
            send("mail", "{{$wait.hold.token}}"),
            send("other", "{{$wait.late.token}}"),
            wait("hold", json!({ "mode": "webhook" })),
            pure("said", json!("{{steps.hold.output}}")),
            call("bad", "act", json!({ "ms": 60_000, "value": 1 })),
            wait("late", json!({ "mode": "webhook" })),
        ]))
        .await;
    let run = world.start(flow, json!({})).await;
    world.paused(run).await;
    let (first, late) = (token(&world, "/mail"), token(&world, "/other"));
    assert_eq!(answer(&world, &first, &json!("first")).await, StatusCode::OK);
    world.calls(3).await;
    world.admin().cancel_run(run, "stop").await.unwrap();
    world.ended(run).await;
    world.admin().retry_run(run, ap_runtime::session::RetryStrategy::FromFailedStep).await.unwrap();
    assert_eq!(answer(&world, &first, &json!("second")).await, StatusCode::GONE, "one answer");
    assert_eq!(answer(&world, &late, &json!("late")).await, StatusCode::OK, "one that was not used works");
    let view = world.ended(run).await;
    assert_eq!(output(&view, "said"), json!("first"));
    assert!(world.admin().cancel_run(run, "again").await.is_err() || view.status.is_terminal());
}
