//! Steps: what each control word takes, and how mistakes are told.

use ap_core::flow::{CodeLanguage, FlowDefinition, FlowLimits, OnError, StepKind};
use serde_json::{Value, json};

use super::{at, code, flow, one, parse, parse_errors, reads, valid};

#[test]
fn every_control_word_parses() {
    let definition = parse(&flow(json!([
        code("script"),
        { "name": "each", "type": "loop", "settings": { "items": [1, 2], "steps": [code("inner")] } },
        { "name": "choose", "type": "branch", "settings": { "condition": "{{trigger.body}}",
            "ifTrue": [code("yes")], "ifFalse": [code("no")] } },
        { "name": "answer", "displayName": "Answer", "type": "respond", "settings": { "status": 201,
            "headers": { "x-a": "b" }, "body": { "a": "{{trigger.body}}" }, "stop": false } },
        { "name": "plain", "type": "respond" },
        { "name": "end", "type": "fail", "settings": { "message": "no: {{trigger.body}}" } },
    ])));
    let [script, each, choose, answer, plain, end] = definition.steps() else { panic!("six steps") };
    assert!(matches!(&script.kind, StepKind::Code(code) if code.input.is_none()));
    assert_eq!(each.children().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["inner"]);
    assert_eq!(choose.children().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["yes", "no"]);
    assert!(matches!(&answer.kind, StepKind::Respond(respond) if !respond.stop));
    let StepKind::Respond(plain) = &plain.kind else { panic!("a response") };
    assert_eq!(plain.status.as_literal(), Some(&json!(200)));
    assert_eq!(plain.headers.as_literal(), Some(&json!({})));
    assert_eq!(plain.body.as_literal(), Some(&Value::Null));
    assert!(matches!(end.kind, StepKind::Fail(_)));
}

#[test]
fn pieces_get_their_settings_without_the_options() {
    let definition = parse(&one(
        "http.request",
        json!({ "url": "{{connections.api.url}}", "timeout": 5, "onError": "continue", "skip": 3 }),
    ));
    let step = &definition.steps()[0];
    let StepKind::Piece(piece) = &step.kind else { panic!("a piece") };
    assert_eq!((piece.piece.as_str(), piece.action.as_deref()), ("http", Some("request")));
    assert_eq!(step.options.on_error, OnError::Continue);
    assert!(!step.options.skip, "`skip` in settings belongs to the piece");
    let bare = parse(&flow(json!([{ "type": "http" }])));
    let StepKind::Piece(piece) = &bare.steps()[0].kind else { panic!("a piece") };
    assert_eq!((piece.action.as_deref(), piece.input.as_literal()), (None, Some(&json!({}))));
}

#[test]
fn input_stands_beside_or_inside_settings() {
    let source = json!({ "sourceCode": { "code": "x" } });
    let beside = parse(&flow(json!([{ "type": "code", "settings": source, "input": { "a": "{{trigger.body}}" } }])));
    assert!(matches!(&beside.steps()[0].kind, StepKind::Code(code) if code.input.is_some()));
    let inside = parse(&one("code", json!({ "sourceCode": { "code": "x" }, "input": { "a": 1 } })));
    let StepKind::Code(inside) = &inside.steps()[0].kind else { panic!("code") };
    assert_eq!(inside.input.as_ref().and_then(|input| input.as_literal()), Some(&json!({ "a": 1 })));
    let twice = flow(json!([{ "type": "code", "input": {},
        "settings": { "sourceCode": { "code": "x" }, "input": {} } }]));
    assert_eq!(parse_errors(&twice), [at("/steps/0/input", "member.conflict")]);
    let text = one("code", json!({ "sourceCode": { "code": "x" }, "input": "{{trigger.body}}" }));
    assert_eq!(parse_errors(&text), [at("/steps/0/settings/input", "member.type")]);
}

#[test]
fn a_script_is_javascript_unless_it_says_otherwise_or_comes_from_the_reference_product() {
    let language = |settings: Value| match &parse(&one("code", settings)).steps()[0].kind {
        StepKind::Code(code) => code.language,
        other => panic!("{other:?}"),
    };
    let (plain, exported) = (json!({ "code": "x" }), json!({ "code": "x", "packageJson": "{}" }));
    assert_eq!(language(json!({ "sourceCode": plain })), CodeLanguage::JavaScript);
    assert_eq!(language(json!({ "sourceCode": plain, "language": "typescript" })), CodeLanguage::TypeScript);
    assert_eq!(language(json!({ "sourceCode": exported })), CodeLanguage::TypeScript);
    assert_eq!(language(json!({ "sourceCode": exported, "language": "javascript" })), CodeLanguage::JavaScript);
    let refused = parse_errors(&one("code", json!({ "sourceCode": plain, "language": "python" })));
    assert_eq!(refused, [at("/steps/0/settings/language", "option.range")]);
}

#[test]
fn package_files_that_ask_for_nothing_are_tolerated() {
    let with = |package: &str| one("code", json!({ "sourceCode": { "code": "x", "packageJson": package } }));
    for package in ["", "{}", r#"{"dependencies": {}}"#, r#"{"name": "x", "devDependencies": {}}"#] {
        parse(&with(package));
    }
    for package in [r#"{"dependencies": {"pg": "8"}}"#, r#"{"peerDependencies": ["x"]}"#, "[]", "{"] {
        let place = at("/steps/0/settings/sourceCode/packageJson", "code.dependencies");
        assert_eq!(parse_errors(&with(package)), [place], "{package}");
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    let code = |settings: Value| one("code", settings);
    let cases = [
        (one("loop", json!({ "items": 3, "steps": [] })), "/steps/0/settings/items", "member.type"),
        (one("loop", json!({ "items": "abc", "steps": [] })), "/steps/0/settings/items", "loop.items"),
        (one("loop", json!({ "items": [] })), "/steps/0/settings", "member.required"),
        (one("loop", json!({ "steps": [] })), "/steps/0/settings", "member.required"),
        (one("loop", json!({ "items": [], "steps": {} })), "/steps/0/settings/steps", "member.type"),
        (
            one("loop", json!({ "items": [], "steps": [], "action": { "type": "respond" } })),
            "/steps/0/settings/steps",
            "member.conflict",
        ),
        (one("branch", json!({ "ifTrue": [] })), "/steps/0/settings", "member.required"),
        (one("branch", json!({ "condition": "{{trigger}}", "ifTrue": 1 })), "/steps/0/settings/ifTrue", "member.type"),
        (one("branch", json!({ "condition": 1 })), "/steps/0/settings/condition", "condition.type"),
        (one("branch", json!({ "condition": "{{trigger" })), "/steps/0/settings/condition", "template.unclosed"),
        (one("respond", json!({ "body": ["{{trigger"] })), "/steps/0/settings/body/0", "template.unclosed"),
        (one("respond", json!({ "status": 99 })), "/steps/0/settings/status", "respond.status"),
        (one("respond", json!({ "status": 600 })), "/steps/0/settings/status", "respond.status"),
        (one("respond", json!({ "status": "200" })), "/steps/0/settings/status", "respond.status"),
        (one("respond", json!({ "headers": "a: b" })), "/steps/0/settings/headers", "respond.headers"),
        (one("respond", json!({ "headers": { "a": [] } })), "/steps/0/settings/headers", "respond.headers"),
        (one("respond", json!({ "stop": "yes" })), "/steps/0/settings/stop", "member.type"),
        (one("respond", json!([])), "/steps/0/settings", "member.type"),
        (one("fail", json!({})), "/steps/0/settings", "member.required"),
        (one("fail", json!({ "message": " " })), "/steps/0/settings/message", "fail.message"),
        (one("fail", json!({ "message": { "a": 1 } })), "/steps/0/settings/message", "member.type"),
        (code(json!({})), "/steps/0/settings", "member.required"),
        (code(json!({ "sourceCode": "x" })), "/steps/0/settings/sourceCode", "member.type"),
        (code(json!({ "sourceCode": { "code": "\n" } })), "/steps/0/settings/sourceCode/code", "code.empty"),
        (one("Http", json!({})), "/steps/0/type", "step.type.invalid"),
        (one("http.", json!({})), "/steps/0/type", "step.type.invalid"),
        (one("http.a.b", json!({})), "/steps/0/type", "step.type.invalid"),
        (one("http", json!([])), "/steps/0/settings", "member.type"),
        (flow(json!([{ "name": "1a", "type": "respond" }])), "/steps/0/name", "name.invalid"),
        (flow(json!([{ "name": "a-b", "type": "respond" }])), "/steps/0/name", "name.invalid"),
        (flow(json!([{ "name": "x".repeat(65), "type": "respond" }])), "/steps/0/name", "name.invalid"),
        (flow(json!([{ "name": null, "type": "respond" }])), "/steps/0/name", "member.type"),
        (flow(json!([{ "name": "a" }])), "/steps/0", "member.required"),
        (flow(json!([{ "displayName": "", "type": "respond" }])), "/steps/0/displayName", "name.length"),
        (flow(json!([[]])), "/steps/0", "member.type"),
        (flow(json!({})), "/steps", "member.type"),
    ];
    for (source, place, rule) in cases {
        assert_eq!(parse_errors(&source), [at(place, rule)], "{source}");
    }
}

#[test]
fn unknown_members_are_told_with_the_nearest_known_one() {
    let source = json!({ "displayNam": "x", "triggers": [{ "type": "manual", "setings": {} }],
        "steps": [{ "type": "respond", "settings": { "boddy": 1 }, "retires": 3 }], "a/b~c": 1 });
    let found = FlowDefinition::from_value(source, &FlowLimits::default()).expect_err("four typos");
    let told: Vec<_> = found.0.iter().map(|finding| (finding.pointer.as_str(), finding.fix.as_str())).collect();
    assert!(found.0.iter().all(|finding| finding.rule == "member.unknown"), "{found}");
    assert!(told.contains(&("/displayNam", "did you mean `displayName`?")), "{found}");
    assert!(told.contains(&("/triggers/0/setings", "did you mean `settings`?")), "{found}");
    assert!(told.contains(&("/steps/0/settings/boddy", "did you mean `body`?")), "{found}");
    assert!(told.iter().any(|(pointer, _)| *pointer == "/a~1b~0c"), "{found}");
    assert_eq!(told.len(), 5);
}

#[test]
fn all_findings_come_at_once_and_are_capped() {
    let found = parse_errors(&flow(json!([{ "type": "fail" }, { "type": 3 }, { "type": "loop", "settings": {} }])));
    assert_eq!(found.len(), 4);
    let many: Vec<_> = (0..90).map(|_| json!({ "type": "respond", "a": 1, "b": 2 })).collect();
    assert_eq!(parse_errors(&flow(json!(many))).len(), 100);
}

#[test]
fn missing_names_are_the_first_free_ones_in_order() {
    let step = || json!({ "type": "respond" });
    let definition = parse(&flow(json!([
        step(),
        { "type": "loop", "settings": { "items": [], "steps": [step(), { "name": "step_3", "type": "respond" }] } },
        { "name": "step_1", "type": "respond" },
        step(),
    ])));
    let names: Vec<_> = definition.steps().iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["step_2", "step_4", "step_1", "step_6"]);
    assert_eq!(
        definition.steps()[1].children().map(|step| step.name.as_str()).collect::<Vec<_>>(),
        ["step_5", "step_3"]
    );
    let taken = json!({ "triggers": [{ "type": "manual" }, { "name": "trigger", "type": "manual" }],
        "steps": [{ "name": "trigger_1", "type": "respond" }] });
    assert_eq!(parse(&taken).triggers()[0].name.as_str(), "trigger_2");
}

#[test]
fn named_steps_of_a_valid_flow_are_found() {
    let flow = valid(&flow(json!([
        { "name": "choose", "type": "branch", "settings": { "condition": "{{trigger.body}}", "ifTrue": [code("yes")],
            "ifFalse": [{ "name": "each", "type": "loop", "settings": { "items": [], "steps": [reads("deep", "x")] } }] } },
        code("last"),
    ])));
    for name in ["choose", "yes", "each", "deep", "last"] {
        assert_eq!(flow.step(name).map(|step| step.name.as_str()), Some(name));
    }
    assert!(flow.step("hook").is_none());
}

#[test]
fn exports_of_the_reference_product_are_named_as_such() {
    for export in [
        json!({ "displayName": "x", "schemaVersion": "22", "valid": true,
            "trigger": { "name": "trigger", "type": "PIECE_TRIGGER", "settings": {}, "nextAction": { "name": "step_1" } } }),
        json!({ "trigger": { "type": "EMPTY", "name": "trigger" } }),
    ] {
        assert_eq!(parse_errors(&export), [at("/trigger", "flow.format")]);
    }
    let template = json!({ "name": "x", "template": { "trigger": { "nextAction": null } } });
    assert_eq!(parse_errors(&template), [at("/template/trigger", "flow.format")]);
    for other in [json!({}), json!({ "name": "x" })] {
        assert_eq!(parse_errors(&other), [at("", "flow.format")]);
    }
    for other in [json!([]), json!(null), json!("flow")] {
        assert_eq!(parse_errors(&other), [at("", "member.type")]);
    }
}
