//! The flows of the guide: each parses, and publishing refuses exactly what does not run yet.

use ap_core::flow::{
    FlowDefinition, FlowLimits, StepKind, TriggerKind, ValidFlow, WebhookAuthentication, WebhookSettings,
};
use serde_json::Value;

use super::{at, brief, check_errors, parse, pieces, valid};

macro_rules! guide {
    ($name:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!("../guide/", $name, ".json"))).expect("the guide's JSON")
    };
}

#[test]
fn section_7_1_is_valid() {
    let flow = valid(&guide!("7_1"));
    assert_eq!(flow.display_name(), "Secure API Integration");
    assert_eq!(flow.warnings(), []);
    let names: Vec<_> = flow.steps().iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["validate_input", "call_external_api", "log_success"]);
    let call = flow.step("call_external_api").expect("the step");
    assert_eq!(call.options.retry.max_attempts, 4);
    assert_eq!(call.options.retry.initial_delay.as_millis(), 1_000);
    assert_eq!(call.options.timeout.map(|timeout| timeout.as_millis()), Some(30_000));
    assert_eq!(flow.action(&call.name).map(|action| action.spec().name), Some("request"));
    let uses: Vec<_> = flow
        .connections()
        .iter()
        .map(|used| (used.name.as_str(), used.field.as_deref(), used.pointer.as_str()))
        .collect();
    assert_eq!(
        uses,
        [
            ("api_secret", None, "/triggers/0/settings/authentication/expectedValue"),
            ("external_api", Some("token"), "/steps/1/settings/headers/Authorization"),
            ("external_api", Some("url"), "/steps/1/settings/url"),
        ]
    );
}

#[test]
fn section_7_2_is_valid() {
    let source = guide!("7_2");
    let flow = parse(&source);
    let StepKind::Loop(inner) = &flow.steps()[1].kind else { panic!("a loop") };
    assert_eq!(inner.steps[0].name.as_str(), "step_1");
    assert_eq!(inner.steps[0].pointer, "/steps/1/settings/action");
    valid(&source);
}

#[test]
fn section_7_3_names_the_missing_pieces() {
    let source = guide!("7_3");
    let refused = [at("/steps/1/type", "piece.unknown"), at("/steps/3/settings/ifTrue/1/type", "piece.unknown")];
    assert_eq!(check_errors(&source), refused);
}

#[test]
fn section_7_4_names_the_missing_pieces() {
    let refused = [at("/steps/2/type", "piece.unknown"), at("/steps/3/type", "piece.unknown")];
    assert_eq!(check_errors(&guide!("7_4")), refused);
}

#[test]
fn section_7_5_names_pieces_and_tls_settings() {
    let refused = [
        at("/steps/0/type", "piece.unknown"),
        at("/steps/2/settings/ssl", "property.unknown"),
        at("/steps/3/type", "piece.unknown"),
    ];
    assert_eq!(check_errors(&guide!("7_5")), refused);
}

#[test]
fn section_6_2_parses_without_names() {
    let source = guide!("6_2_rate_limited");
    let flow = parse(&source);
    assert_eq!(flow.display_name(), "Untitled flow");
    let names: Vec<_> = flow.steps().iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["step_1", "step_2"]);
    assert_eq!(flow.triggers()[0].name.as_str(), "trigger");
    // The snippet does not say when.
    assert_eq!(check_errors(&source), [at("/trigger", "trigger.schedule.expression")]);
}

#[test]
fn section_6_2_runs_as_shown_once_it_says_when() {
    let mut source = guide!("6_2_rate_limited");
    source["settings"] = serde_json::json!({ "cronExpression": "* * * * *" });
    let flow = valid(&source);
    assert_eq!(flow.warnings(), []);
    let [enqueue, process] = flow.steps() else { panic!("two steps") };
    let StepKind::Enqueue(enqueue) = &enqueue.kind else { panic!("{enqueue:?}") };
    assert_eq!(enqueue.queue, "api-requests");
    assert_eq!(enqueue.data.as_path().map(ToString::to_string).as_deref(), Some("trigger.items"));
    let StepKind::Process(process) = &process.kind else { panic!("{process:?}") };
    assert_eq!((process.queue.as_str(), process.max_concurrent, process.max_retries), ("api-requests", 5, 0));
    let [action] = process.steps.as_slice() else { panic!("one step") };
    assert_eq!((action.name.as_str(), action.pointer.as_str()), ("step_3", "/steps/1/settings/action"));
    let StepKind::Piece(piece) = &action.kind else { panic!("{action:?}") };
    assert_eq!((piece.piece.as_str(), piece.action.as_deref()), ("http", None));
    let read: Vec<_> = piece.input.references().map(|r| (r.pointer.clone(), r.path.to_string())).collect();
    assert_eq!(read, [("/body".to_owned(), "item.data".to_owned()), ("/url".to_owned(), "item.url".to_owned())]);
    assert_eq!(flow.action(&action.name).map(|action| action.spec().name), Some("request"));
}

#[test]
fn section_6_2_queue_is_no_flow() {
    let found = FlowDefinition::from_value(guide!("6_2_queue"), &FlowLimits::default()).expect_err("no flow");
    assert_eq!(brief(&found), [at("", "flow.format")]);
    assert!(found.0[0].fix.contains("`queue.process`"), "{found}");
    // What the fix says.
    let queue = &guide!("6_2_queue")["queue"];
    let mut settings = serde_json::json!({ "action": { "type": "respond" } });
    settings["queueName"] = queue["name"].clone();
    settings["mode"] = queue["mode"].clone();
    settings["settings"] = queue["settings"].clone();
    let flow = parse(&super::one("queue.process", settings));
    let StepKind::Process(process) = &flow.steps()[0].kind else { panic!("a queue.process") };
    assert_eq!((process.max_concurrent, process.max_retries, process.delay_between_jobs.as_millis()), (5, 3, 1_000));
}

fn webhook(source: Value) -> WebhookSettings {
    let flow = parse(&source);
    let [trigger] = flow.triggers() else { panic!("one trigger") };
    assert_eq!((trigger.pointer.as_str(), trigger.name.as_str()), ("", "trigger"));
    let TriggerKind::Webhook(webhook) = &trigger.kind else { panic!("a webhook") };
    webhook.clone()
}

#[test]
fn section_2_1_gives_each_authentication() {
    let header = webhook(guide!("2_1_header")).authentication;
    assert!(
        matches!(&header, WebhookAuthentication::Header { header_name, .. } if header_name == "X-Webhook-Secret"),
        "{header:?}"
    );
    let basic = webhook(guide!("2_1_basic")).authentication;
    let WebhookAuthentication::Basic { username, password } = &basic else { panic!("{basic:?}") };
    assert_eq!(username.as_literal(), Some(&Value::from("webhook_user")));
    assert!(password.as_path().is_some());
    assert_eq!(webhook(guide!("2_1_none")).authentication, WebhookAuthentication::None);
    for source in [guide!("2_1_header"), guide!("2_1_basic"), guide!("2_1_none")] {
        let flow = valid(&source);
        assert_eq!(flow.warnings().iter().map(|warning| warning.rule).collect::<Vec<_>>(), ["steps.empty"]);
    }
}

#[test]
fn section_2_3_parses_and_waits_for_handshakes() {
    let source = guide!("2_3_handshake");
    let handshake = webhook(source.clone()).handshake.expect("a handshake");
    assert_eq!(handshake.strategy, "CHALLENGE_RESPONSE");
    assert_eq!(handshake.parameter.as_deref(), Some("hub.challenge"));
    let found = ValidFlow::check(parse(&source), &pieces(), &FlowLimits::default()).expect_err("not yet");
    let expected =
        [at("", "trigger.handshake.unavailable"), at("", "trigger.authentication.absent"), at("/steps", "steps.empty")];
    assert_eq!(brief(&found), expected);
}

#[test]
fn sources_come_back_unchanged() {
    for source in
        [guide!("7_1"), guide!("7_2"), guide!("7_3"), guide!("7_4"), guide!("7_5"), guide!("6_2_rate_limited")]
    {
        let flow = parse(&source);
        assert_eq!(**flow.source(), source);
        let text = serde_json::to_vec(&source).expect("writes");
        assert_eq!(FlowDefinition::parse_slice(&text, &FlowLimits::default()), Ok(flow));
    }
}
