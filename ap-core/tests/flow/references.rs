//! References: what a template may read where it stands.

use serde_json::{Value, json};

use super::{at, check_errors, code, flow, reads, valid};

fn each(name: &str, body: Value) -> Value {
    json!({ "name": name, "type": "loop", "settings": { "items": "{{trigger.body.items}}", "steps": body } })
}

fn choose(name: &str, yes: Value, no: Value) -> Value {
    json!({ "name": name, "type": "branch",
        "settings": { "condition": "{{trigger.body.on}}", "ifTrue": yes, "ifFalse": no } })
}

fn skipped(mut step: Value) -> Value {
    step["skip"] = true.into();
    step
}

#[test]
fn every_root_is_readable_where_it_exists() {
    valid(&flow(json!([
        code("a"),
        reads("b", "{{trigger.headers.x-user-id}} {{trigger}} {{$now}} {{$run.id}} {{connections.api.url}}"),
        reads("c", "{{steps.a.output.x[0].y}} {{steps.a.status}} {{steps.a.error.message}}"),
        each(
            "d",
            json!([reads("e", "{{item.id}} {{item}} {{index}} {{steps.a.output}}"), reads("f", "{{steps.e.output}}")])
        ),
        choose("g", json!([reads("h", "{{steps.d.output}}"), reads("i", "{{steps.h.output}}")]), json!([])),
        reads("j", "{{steps.g.status}}"),
    ])));
}

#[test]
fn unreadable_paths_are_told() {
    let cases = [
        ("{{step.a.output}}", "reference.root"),
        ("{{a.output}}", "reference.root"),
        ("{{nonsense}}", "reference.root"),
        ("{{variables.X}}", "variable.unavailable"),
        ("{{item.id}}", "reference.loop"),
        ("{{index}}", "reference.loop"),
        ("{{$now.year}}", "reference.path"),
        ("{{$run}}", "reference.path"),
        ("{{$run.name}}", "reference.path"),
        ("{{$run.id.x}}", "reference.path"),
        ("{{steps}}", "reference.path"),
        ("{{steps[0]}}", "reference.path"),
        ("{{steps.a}}", "reference.path"),
        ("{{steps.a.result}}", "reference.path"),
        ("{{steps.a[0]}}", "reference.path"),
        ("{{steps.typo.output}}", "reference.step"),
        ("{{steps.typo?.output}}", "reference.step"),
        ("{{steps.b.output}}", "reference.inside"),
        ("{{steps.later.output}}", "reference.order"),
        ("{{steps.later?.output ?? 1}}", "reference.order"),
        ("{{connections}}", "reference.connection"),
        ("{{connections[0]}}", "reference.connection"),
        ("{{connections['a b']}}", "reference.connection"),
        ("{{connections.a[0]}}", "reference.connection"),
        ("{{connections.a.b.c}}", "reference.connection"),
    ];
    for (template, rule) in cases {
        // A step that reads itself is not over, either.
        let found = check_errors(&flow(json!([code("a"), reads("b", template), code("later")])));
        let rule = if rule == "reference.inside" { "reference.order" } else { rule };
        assert_eq!(found, [at("/steps/1/settings/body", rule)], "{template}");
    }
}

#[test]
fn fixes_name_what_was_meant() {
    let fix = |template: &str| {
        let found = super::check(&flow(json!([code("fetch_user"), reads("b", template)]))).expect_err("is refused");
        found.0[0].fix.clone()
    };
    assert_eq!(fix("{{fetch_user.output}}"), "steps are read as `steps.fetch_user.output`");
    assert_eq!(fix("{{trigge.body}}"), "did you mean `trigger`?");
    assert_eq!(fix("{{steps.fetch_usr.output}}"), "did you mean `fetch_user`?");
    assert_eq!(fix("{{steps.fetch_user.out}}"), "write `steps.fetch_user.output`");
}

#[test]
fn loops_and_branches_are_not_read_from_within() {
    for (outer, pointer) in [
        (each("outer", json!([reads("inner", "{{steps.outer.output}}")])), "/steps/0/settings/steps/0/settings/body"),
        (
            choose("outer", json!([]), json!([reads("inner", "{{steps.outer.output}}")])),
            "/steps/0/settings/ifFalse/0/settings/body",
        ),
    ] {
        assert_eq!(check_errors(&flow(json!([outer]))), [at(pointer, "reference.inside")]);
    }
}

#[test]
fn items_of_a_loop_do_not_see_its_own_item() {
    let mut outer = each("outer", json!([code("inner")]));
    outer["settings"]["items"] = "{{item.list}}".into();
    assert_eq!(check_errors(&flow(json!([outer]))), [at("/steps/0/settings/items", "reference.loop")]);
    valid(&flow(json!([each("around", json!([outer]))])));
}

#[test]
fn items_end_with_their_loop() {
    let after = flow(json!([each("outer", json!([code("inner")])), reads("after", "{{item}} {{index}}")]));
    assert_eq!(check_errors(&after), vec![at("/steps/1/settings/body", "reference.loop"); 2]);
}

#[test]
fn what_may_not_have_run_is_read_with_care() {
    let before = [
        each("over", json!([code("maybe")])),
        choose("over", json!([code("maybe")]), json!([])),
        choose("over", json!([]), json!([each("deeper", json!([code("maybe")]))])),
        skipped(code("maybe")),
        skipped(each("over", json!([code("maybe")]))),
    ];
    for step in before {
        let bare = flow(json!([step, reads("reader", "{{steps.maybe.output}}")]));
        assert_eq!(check_errors(&bare), [at("/steps/1/settings/body", "reference.maybe")]);
        for careful in ["{{steps.maybe?.output}}", "{{steps.maybe.output ?? 'none'}}"] {
            valid(&flow(json!([step, reads("reader", careful)])));
        }
    }
}

#[test]
fn branches_do_not_see_each_other() {
    for template in ["{{steps.yes.output}}", "{{steps.yes?.output}}"] {
        let source = flow(json!([choose("both", json!([code("yes")]), json!([reads("no", template)]))]));
        assert_eq!(check_errors(&source), [at("/steps/0/settings/ifFalse/0/settings/body", "reference.order")]);
    }
}

#[test]
fn every_template_of_every_step_is_looked_at() {
    let bad = "{{steps.typo.output}}";
    let source = flow(json!([
        { "type": "code", "settings": { "sourceCode": { "code": "x" } }, "input": { "a": [bad] } },
        { "type": "code", "settings": { "sourceCode": { "code": "x" }, "input": { "a/b": bad } } },
        { "type": "loop", "settings": { "items": bad, "steps": [code("x")] } },
        { "type": "branch", "settings": { "condition": bad, "ifTrue": [code("y")] } },
        { "type": "http", "settings": { "url": bad }, "idempotencyKey": bad },
        { "type": "http", "settings": { "url": bad, "idempotencyKey": bad } },
        { "type": "respond", "settings": { "status": bad, "headers": { "x-a": bad }, "body": bad } },
        { "type": "fail", "settings": { "message": bad } },
    ]));
    let places = [
        "/steps/0/input/a/0",
        "/steps/1/settings/input/a~1b",
        "/steps/2/settings/items",
        "/steps/3/settings/condition",
        "/steps/4/settings/url",
        "/steps/4/idempotencyKey",
        "/steps/5/settings/url",
        "/steps/5/settings/idempotencyKey",
        "/steps/6/settings/status",
        "/steps/6/settings/headers/x-a",
        "/steps/6/settings/body",
        "/steps/7/settings/message",
    ];
    assert_eq!(check_errors(&source), places.map(|place| at(place, "reference.step")));
}

#[test]
fn tokens_that_are_nothing_are_kept_and_bar_publishing() {
    let source = flow(json!([
        { "type": "code", "settings": { "sourceCode": { "code": "x" } },
            "input": { "a": "{{trigger.body.map(x => x}}", "b": "{{steps.typo.output}}" } },
    ]));
    let found = check_errors(&source);
    assert_eq!(found, [at("/steps/0/input/a", "template.expression"), at("/steps/0/input/b", "reference.step")]);
    for (word, settings, member) in [
        ("respond", json!({ "status": "{{(1}}" }), "status"),
        ("delay", json!({ "delayMs": "{{(1}}" }), "delayMs"),
        ("delay", json!({ "until": "{{(1}}" }), "until"),
        ("subflow", json!({ "flow": "{{(1}}" }), "flow"),
    ] {
        let place = format!("/steps/0/settings/{member}");
        assert_eq!(check_errors(&super::one(word, settings)), [(place, "template.expression")]);
    }
    let branch = |condition: Value| {
        flow(json!([{ "type": "branch", "settings": { "condition": condition, "ifTrue": [code("x")] } }]))
    };
    let condition = "/steps/0/settings/condition";
    assert_eq!(check_errors(&branch(json!("{{trigger.a > (1}}"))), [at(condition, "template.expression")]);
    let groups =
        json!([[{ "firstValue": "{{f(1]}}", "operator": "TEXT_CONTAINS", "secondValue": "{{steps.typo.output}}" }]]);
    let expected = [
        at(&format!("{condition}/0/0/firstValue"), "template.expression"),
        at(&format!("{condition}/0/0/secondValue"), "reference.step"),
    ];
    assert_eq!(check_errors(&branch(groups)), expected);
}

#[test]
fn expressions_stand_wherever_paths_do() {
    let source = flow(json!([
        reads("a", "{{1 + 1}}"),
        { "type": "loop", "settings": { "items": "{{trigger.body.list.filter(x => x.ok)}}", "steps": [
            reads("in_loop", "{{item.price * index}}"),
        ] } },
        { "type": "branch", "settings": { "condition": "{{steps.a.output.length > 1}}", "ifTrue": [reads("maybe", "x")] } },
        { "type": "router", "settings": { "branches": [
            { "name": "one", "condition": "{{steps.maybe?.output > 1}}", "steps": [reads("routed", "x")] },
        ] } },
        { "type": "delay", "settings": { "delayMs": "{{trigger.body.wait * 1000}}" } },
        { "type": "respond", "settings": { "status": "{{trigger.body.ok ? 200 : 400}}",
            "headers": "{{({ 'x-id': $run.id })}}", "body": { "at": "{{new Date($now).getTime()}}" } } },
    ]));
    let valid = valid(&source);
    let count = |name: &str| valid.scripts(&valid.step(name).expect("a step").name).len();
    assert_eq!((count("a"), count("in_loop"), count("routed")), (1, 1, 0));
    let places: Vec<_> =
        valid.steps().iter().flat_map(|step| valid.scripts(&step.name)).map(|used| &*used.pointer).collect();
    let expected = [
        "/steps/0/settings/body",
        "/steps/1/settings/items",
        "/steps/2/settings/condition",
        "/steps/3/settings/branches/0/condition",
        "/steps/4/settings/delayMs",
        "/steps/5/settings/status",
        "/steps/5/settings/headers",
        "/steps/5/settings/body/at",
    ];
    assert_eq!(places, expected);
}

#[test]
fn the_connections_of_a_step_are_those_its_own_templates_name() {
    let source = flow(json!([
        reads("whole", "{{connections.crm}}"),
        reads("backwards", "{{[...connections.crm.token].reverse().join('') + connections.mail.password}}"),
        { "name": "around", "type": "loop", "settings": { "items": "{{[connections.list.key]}}", "steps": [
            reads("inside", "{{connections.inner.key}}"),
        ] } },
        reads("none", "{{steps.whole.output}}"),
    ]));
    let valid = valid(&source);
    let of = |name: &str| {
        let used = valid.connections_of(&valid.step(name).expect("a step").name);
        used.iter().map(|used| (&*used.name, used.field.as_deref())).collect::<Vec<_>>()
    };
    assert_eq!(of("whole"), [("crm", None)]);
    assert_eq!(of("backwards"), [("crm", Some("token")), ("mail", Some("password"))]);
    assert_eq!(of("around"), [("list", Some("key"))]);
    assert_eq!(of("inside"), [("inner", Some("key"))]);
    assert_eq!(of("none"), []);
}

#[test]
fn what_expressions_read_must_be_there() {
    for (expression, rule) in [
        ("steps.typo.output + 1", "reference.step"),
        ("steps['typo']['output'] + 1", "reference.step"),
        ("steps.later.output + 1", "reference.order"),
        ("steps.own.output + 1", "reference.order"),
        ("steps.maybe.output + 1", "reference.maybe"),
        ("steps.maybe.output ?? 1 + 1", "reference.maybe"),
        ("steps[trigger.name]", "reference.path"),
        ("Object.keys(steps)", "reference.path"),
        ("steps.before.outptu + 1", "reference.path"),
        ("[steps.before]", "reference.path"),
        ("item.a + 1", "reference.loop"),
        ("[$run]", "reference.path"),
        ("$wait.before.token + 1", "reference.wait"),
        ("connections + 1", "reference.connection"),
        ("connections[trigger.name] + 1", "reference.connection"),
        ("connections.crm + connections.crm.token", "reference.connection"),
        ("variables.X + 1", "variable.unavailable"),
        ("triger.body + 1", "reference.root"),
        ("before.output + 1", "reference.root"),
    ] {
        let source = flow(json!([
            reads("before", "x"),
            { "type": "branch", "settings": { "condition": true, "ifTrue": [reads("maybe", "x")] } },
            reads("own", &format!("{{{{{expression}}}}}")),
            reads("later", "x"),
        ]));
        assert_eq!(check_errors(&source), [at("/steps/2/settings/body", rule)], "{expression}");
    }
    for expression in [
        "steps.before.output.length + 1",
        "steps.maybe?.output ?? 1 + 1",
        "trigger.list.map(item => item.id)",
        "'steps.typo.output' + 1",
        "$now.slice(0, 10)",
        "$run.id.length + 1",
        "connections.crm.token.length + 1",
        "'Bearer ' + connections.crm",
    ] {
        let source = flow(json!([
            reads("before", "x"),
            { "type": "branch", "settings": { "condition": true, "ifTrue": [reads("maybe", "x")] } },
            reads("own", &format!("{{{{{expression}}}}}")),
        ]));
        valid(&source);
    }
}

#[test]
fn a_handled_failure_is_read_with_care_in_expressions_too() {
    for (expression, rules) in [
        ("steps.a.output.id + 1", vec!["reference.maybe"]),
        ("steps.a.output?.id + 1", vec![]),
        ("(steps.a.output ?? 1) + 1", vec![]),
        ("steps.a.error.message + 1", vec![]),
    ] {
        let mut failing = reads("a", "x");
        failing["onError"] = json!({ "steps": [reads("b", &format!("{{{{{expression}}}}}"))] });
        let found = super::check(&flow(json!([failing]))).err().map(|found| found.0).unwrap_or_default();
        assert_eq!(found.iter().map(|finding| finding.rule).collect::<Vec<_>>(), rules, "{expression}");
    }
}

#[test]
fn nothing_is_evaluated_before_a_run() {
    let mut source = flow(json!([code("a")]));
    source["concurrency"] = json!({ "limit": 1, "key": "{{trigger.body.a + 1}}" });
    assert_eq!(check_errors(&source), [at("/concurrency/key", "reference.control")]);
}

#[test]
fn connections_that_expressions_use_are_listed() {
    let source = flow(json!([reads("a", "{{'Bearer ' + connections.crm.token}}"), reads("b", "{{connections.erp}}")]));
    let valid = valid(&source);
    let used: Vec<_> = valid.connections().iter().map(|used| (used.name.as_str(), used.field.as_deref())).collect();
    assert_eq!(used, [("crm", Some("token")), ("erp", None)]);
}

#[test]
fn uses_of_connections_are_listed() {
    let source = flow(json!([
        reads("a", "{{connections.one}} {{connections['two'].field}}"),
        each("b", json!([reads("c", "{{connections.three-x.url ?? connections.one}}")])),
    ]));
    let flow = valid(&source);
    let uses: Vec<_> = flow.connections().iter().map(|used| (used.name.as_str(), used.field.as_deref())).collect();
    assert_eq!(uses, [("one", None), ("two", Some("field")), ("three-x", Some("url")), ("one", None)]);
    assert_eq!(flow.connections()[2].pointer, "/steps/1/settings/steps/0/settings/body");
}
