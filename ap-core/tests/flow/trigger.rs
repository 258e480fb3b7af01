//! Triggers: webhook settings, schedules and polls.

use ap_core::flow::{CatchUp, Overlap, ScheduleSettings, TriggerKind, WebhookAuthentication, WebhookSettings};
use serde_json::{Value, json};

use super::{at, brief, check, check_errors, code, parse, parse_errors, valid};

fn started_by(trigger: Value) -> Value {
    json!({ "displayName": "Test", "triggers": [trigger], "steps": [code("only")] })
}

fn hook(settings: Value) -> Value {
    started_by(json!({ "name": "hook", "type": "webhook", "settings": settings }))
}

fn authenticated(authentication: Value) -> Value {
    hook(json!({ "authentication": authentication }))
}

fn webhook(flow: &Value) -> WebhookSettings {
    let definition = parse(flow);
    let TriggerKind::Webhook(webhook) = &definition.triggers()[0].kind else { panic!("a webhook") };
    webhook.clone()
}

#[test]
fn hmac_is_read_with_its_defaults() {
    let short = json!({ "type": "HMAC_SHA256", "headerName": "X-Signature", "secret": "{{connections.hook.secret}}" });
    let WebhookAuthentication::Hmac { header_name, base64, prefix, secret } =
        webhook(&authenticated(short)).authentication
    else {
        panic!("an HMAC")
    };
    assert_eq!((header_name.as_str(), base64, prefix.as_str()), ("X-Signature", false, ""));
    assert!(secret.as_path().is_some());
    let full = json!({ "type": "HMAC_SHA256", "headerName": "X-Signature", "secret": "{{connections.hook}}",
        "encoding": "base64", "prefix": "sha256=" });
    let full = webhook(&authenticated(full)).authentication;
    assert!(matches!(full, WebhookAuthentication::Hmac { base64: true, prefix, .. } if prefix == "sha256="));
}

#[test]
fn secrets_are_exactly_one_reference() {
    let secrets = [
        "hunter2",
        "",
        "Bearer {{connections.hook}}",
        "{{connections.hook}} ",
        "{{connections.a}}{{connections.b}}",
        "{{trigger.body.secret}}",
        "{{connections}}",
        "{{connections.a.b.c}}",
        "{{connections[0]}}",
        "{{connections.a?.b}}",
        "{{connections.a ?? 'hunter2'}}",
        "{{'hunter2'}}",
    ];
    for secret in secrets {
        for (member, mut authentication) in [
            ("expectedValue", json!({ "type": "HEADER", "headerName": "X-Key" })),
            ("password", json!({ "type": "BASIC_AUTH", "username": "me" })),
            ("secret", json!({ "type": "HMAC_SHA256", "headerName": "X-Key" })),
        ] {
            authentication[member] = secret.into();
            let place = at(&format!("/triggers/0/settings/authentication/{member}"), "trigger.secret.literal");
            assert_eq!(parse_errors(&authenticated(authentication)), [place], "{secret}");
        }
    }
}

#[test]
fn a_literal_secret_is_not_repeated() {
    let source = authenticated(json!({ "type": "HEADER", "headerName": "X-Key", "expectedValue": "hunter2" }));
    let found = check_failure(&source);
    assert!(!found.contains("hunter2"), "{found}");
}

fn check_failure(source: &Value) -> String {
    let found = ap_core::flow::FlowDefinition::from_value(source.clone(), &ap_core::flow::FlowLimits::default());
    format!("{:?}", found.expect_err("is refused"))
}

#[test]
fn user_names_are_literals_or_one_reference() {
    let with = |name: Value| {
        authenticated(json!({ "type": "BASIC_AUTH", "username": name, "password": "{{connections.pass}}" }))
    };
    for accepted in ["me", "Ä b", "{{connections.user}}", "{{connections.user.username}}"] {
        webhook(&with(accepted.into()));
    }
    for refused in ["", "a:b", "a\nb", "{{trigger.x}}", "x{{connections.user}}"] {
        let place = at("/triggers/0/settings/authentication/username", "trigger.username.invalid");
        assert_eq!(parse_errors(&with(refused.into())), [place], "{refused:?}");
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    let auth = "/triggers/0/settings/authentication";
    let cases = [
        (authenticated(json!({ "type": "OAUTH" })), format!("{auth}/type"), "trigger.authentication.type"),
        (authenticated(json!({})), auth.to_owned(), "member.required"),
        (authenticated(json!("NONE")), auth.to_owned(), "member.type"),
        (authenticated(json!({ "type": "NONE", "headerName": "x" })), format!("{auth}/headerName"), "member.unknown"),
        (
            authenticated(json!({ "type": "HEADER", "headerName": "a b", "expectedValue": "{{connections.a}}" })),
            format!("{auth}/headerName"),
            "trigger.header.invalid",
        ),
        (
            authenticated(json!({ "type": "HMAC_SHA256", "headerName": "a", "secret": "{{connections.a}}",
                "encoding": "hexx" })),
            format!("{auth}/encoding"),
            "option.range",
        ),
        (
            authenticated(json!({ "type": "HMAC_SHA256", "headerName": "a", "secret": "{{connections.a}}",
                "prefix": "x".repeat(65) })),
            format!("{auth}/prefix"),
            "option.range",
        ),
        (started_by(json!({ "type": "webhok" })), "/triggers/0/type".to_owned(), "trigger.type.invalid"),
        (
            started_by(json!({ "type": "manual", "settings": { "a": 1 } })),
            "/triggers/0/settings/a".to_owned(),
            "member.unknown",
        ),
        (started_by(json!({})), "/triggers/0".to_owned(), "member.required"),
        (json!({ "steps": [] }), String::new(), "member.required"),
        (json!({ "trigger": "manual", "triggers": [] }), "/trigger".to_owned(), "member.conflict"),
        (json!({ "triggers": {} }), "/triggers".to_owned(), "member.type"),
    ];
    for (source, place, rule) in cases {
        assert_eq!(parse_errors(&source), [(place, rule)], "{source}");
    }
}

#[test]
fn dedupe_keys_are_headers_or_pointers() {
    let with = |key: &str| hook(json!({ "authentication": { "type": "NONE" }, "dedupeKey": key }));
    let longest = format!("/{}", "a".repeat(255));
    for accepted in ["X-Delivery-Id", "/event/id", "/", "/a~1b/~0", longest.as_str()] {
        assert_eq!(webhook(&with(accepted)).dedupe_key.as_deref(), Some(accepted));
        assert_eq!(valid(&with(accepted)).warnings(), []);
    }
    for refused in ["", "a b", "/a~2", "/a~", "/~", &format!("{longest}a"), &"h".repeat(257)] {
        assert_eq!(parse_errors(&with(refused)), [at("/triggers/0/settings/dedupeKey", "trigger.dedupe.invalid")]);
    }
}

#[test]
fn handshakes_are_read_in_both_places() {
    let handshake = json!({ "strategy": "HEADER_PRESENT", "paramName": "x-hook" });
    let inside = hook(json!({ "authentication": { "type": "NONE" }, "handshakeConfiguration": handshake }));
    let beside = started_by(json!({ "type": "webhook", "settings": { "authentication": { "type": "NONE" } },
        "handshakeConfiguration": handshake }));
    for source in [inside, beside] {
        assert_eq!(webhook(&source).handshake.and_then(|handshake| handshake.parameter).as_deref(), Some("x-hook"));
        assert_eq!(check_errors(&source), [at("/triggers/0", "trigger.handshake.unavailable")]);
    }
    let none = hook(json!({ "authentication": { "type": "NONE" }, "handshakeConfiguration": { "strategy": "NONE" } }));
    assert_eq!(webhook(&none).handshake, None);
}

#[test]
fn a_flow_has_one_trigger_that_runs_today() {
    let manual = json!({ "type": "manual" });
    assert_eq!(valid(&started_by(manual.clone())).trigger().kind, TriggerKind::Manual);
    let none = json!({ "triggers": [], "steps": [code("only")] });
    assert_eq!(check_errors(&none), [at("/triggers", "trigger.required")]);
    let two = json!({ "triggers": [manual, manual], "steps": [code("only")] });
    assert_eq!(check_errors(&two), [at("/triggers/1", "trigger.several")]);
    let same = json!({ "triggers": [{ "name": "a", "type": "manual" }, { "name": "a", "type": "manual" }] });
    assert!(check_errors(&same).contains(&at("/triggers/1", "name.duplicate")));
    assert!(valid(&started_by(json!({ "type": "manual" }))).piece_trigger().is_none());
}

fn schedule(settings: Value) -> Value {
    started_by(json!({ "type": "schedule", "settings": settings }))
}

#[test]
fn schedules_are_read_with_their_defaults() {
    let read = |settings: Value| {
        let flow = valid(&schedule(settings));
        let TriggerKind::Schedule(schedule) = &flow.trigger().kind else { panic!("a schedule") };
        schedule.clone()
    };
    let plain = read(json!({ "cronExpression": "0 2 * * *" }));
    let expected = ScheduleSettings {
        cron_expression: Some("0 2 * * *".to_owned()),
        timezone: None,
        overlap: Overlap::Skip,
        catch_up: CatchUp::One,
    };
    assert_eq!(plain, expected);
    for (overlap, expected) in [("allow", Overlap::Allow), ("queue", Overlap::Queue), ("skip", Overlap::Skip)] {
        assert_eq!(read(json!({ "cronExpression": "x", "overlap": overlap })).overlap, expected);
    }
    for (catch_up, expected) in [("all", CatchUp::All), ("none", CatchUp::None), ("one", CatchUp::One)] {
        let full = read(json!({ "cronExpression": "x", "timezone": "Europe/Berlin", "catchUp": catch_up }));
        assert_eq!((full.catch_up, full.timezone.as_deref()), (expected, Some("Europe/Berlin")));
    }
}

#[test]
fn schedules_say_when() {
    let cases = [
        (started_by(json!({ "type": "schedule" })), "/triggers/0"),
        (schedule(json!({})), "/triggers/0/settings"),
        (schedule(json!({ "timezone": "UTC" })), "/triggers/0/settings"),
        (schedule(json!({ "cronExpression": " " })), "/triggers/0/settings/cronExpression"),
        (json!({ "trigger": "schedule", "steps": [code("only")] }), "/trigger"),
        (json!({ "trigger": "schedule", "settings": {}, "steps": [code("only")] }), "/settings"),
    ];
    for (source, place) in cases {
        assert_eq!(check_errors(&source), [at(place, "trigger.schedule.expression")], "{source}");
    }
}

#[test]
fn mistakes_in_schedules_are_told() {
    let cases = [
        (json!({ "cron": "0 2 * * *" }), "cron", "member.unknown"),
        (json!({ "cronExpression": 5 }), "cronExpression", "member.type"),
        (json!({ "timezone": 1 }), "timezone", "member.type"),
        (json!({ "overlap": "Skip" }), "overlap", "option.range"),
        (json!({ "overlap": false }), "overlap", "member.type"),
        (json!({ "catchUp": "last" }), "catchUp", "option.range"),
    ];
    for (settings, member, rule) in cases {
        let place = format!("/triggers/0/settings/{member}");
        assert_eq!(parse_errors(&schedule(settings)), [(place, rule)]);
    }
}

fn poll(kind: &str, settings: Value) -> Value {
    started_by(json!({ "type": kind, "settings": settings }))
}

#[test]
fn polls_are_read_and_found() {
    let mut source = poll("http.changed", json!({ "url": "{{connections.api.url}}" }));
    let read = |source: &Value| {
        let flow = valid(source);
        let TriggerKind::Piece(poll) = &flow.trigger().kind else { panic!("a poll") };
        assert_eq!((poll.piece.as_str(), poll.trigger.as_str()), ("http", "changed"));
        assert_eq!(flow.piece_trigger().map(|trigger| trigger.spec().name), Some("changed"));
        assert_eq!(flow.connections()[0].pointer, "/triggers/0/settings/url");
        poll.interval.as_millis()
    };
    assert_eq!(read(&source), 300_000);
    for accepted in [1_000_u64, 1_001, 86_399_999, 86_400_000] {
        source["triggers"][0]["pollIntervalMs"] = accepted.into();
        assert_eq!(read(&source), u128::from(accepted));
    }
    for refused in [json!(0), json!(999), json!(86_400_001), json!(-1000), json!(1e3 + 0.5)] {
        source["triggers"][0]["pollIntervalMs"] = refused;
        assert_eq!(parse_errors(&source), [at("/triggers/0/pollIntervalMs", "option.range")]);
    }
    source["triggers"][0]["pollIntervalMs"] = json!("5 min");
    assert_eq!(parse_errors(&source), [at("/triggers/0/pollIntervalMs", "member.type")]);
    let manual = started_by(json!({ "type": "manual", "pollIntervalMs": 5000 }));
    assert_eq!(parse_errors(&manual), [at("/triggers/0/pollIntervalMs", "member.unknown")]);
}

#[test]
fn polls_need_a_piece_a_trigger_and_its_settings() {
    let url = json!({ "url": "x" });
    let cases = [
        (poll("htp.changed", url.clone()), "/triggers/0/type", "piece.unknown", "did you mean `http`? pieces: http"),
        (
            poll("http.change", url.clone()),
            "/triggers/0/type",
            "trigger.unknown",
            "did you mean `changed`? triggers: changed, new_item",
        ),
        (poll("http.changed", json!({})), "/triggers/0/settings", "property.required", ""),
        (poll("http.changed", json!({ "url": "x", "a": 1 })), "/triggers/0/settings/a", "property.unknown", ""),
        (json!({ "trigger": "http.x", "settings": url, "steps": [code("only")] }), "/trigger", "trigger.unknown", ""),
    ];
    for (source, place, rule, fix) in cases {
        let found = check(&source).expect_err("is refused");
        assert_eq!(brief(&found), [at(place, rule)]);
        assert!(found.0[0].fix.contains(fix), "{found}");
    }
    for word in ["http.", ".changed", "Http.changed", "http.a.b"] {
        assert_eq!(parse_errors(&poll(word, json!({}))), [at("/triggers/0/type", "trigger.type.invalid")]);
    }
    assert_eq!(parse_errors(&poll("http.changed", json!([]))), [at("/triggers/0/settings", "member.type")]);
}

#[test]
fn polls_read_connections_only() {
    for template in ["{{trigger.body}}", "{{steps.only.output}}", "{{$now}}", "{{item}}", "{{nonsense}}"] {
        let source = poll("http.changed", json!({ "url": template }));
        assert_eq!(check_errors(&source), [at("/triggers/0/settings/url", "reference.poll")], "{template}");
    }
    let whole = poll("http.changed", json!({ "url": "{{connections.a.b.c}}" }));
    assert_eq!(check_errors(&whole), [at("/triggers/0/settings/url", "reference.connection")]);
}

#[test]
fn silence_about_authentication_is_warned_of() {
    let absent = [at("/triggers/0", "trigger.authentication.absent")];
    for silent in [started_by(json!({ "type": "webhook" })), hook(json!({}))] {
        let flow = check(&silent).expect("a warning is no error");
        assert_eq!(brief(&ap_core::flow::Diagnostics(flow.warnings().to_vec())), absent);
    }
    assert_eq!(valid(&authenticated(json!({ "type": "NONE" }))).warnings(), []);
}
