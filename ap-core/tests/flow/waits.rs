//! `$wait`, handlers and parallel branches: what can be read of steps that are not over, failed, or run side by side.

use serde_json::{Value, json};

use super::{at, check, check_errors, code, flow, reads, valid};

fn wait(name: &str) -> Value {
    json!({ "name": name, "type": "wait", "settings": { "mode": "webhook" } })
}

fn approval(name: &str) -> Value {
    json!({ "name": name, "type": "wait", "settings": { "mode": "approval", "approvers": ["ann", "bob"] } })
}

fn barrier(name: &str) -> Value {
    json!({ "name": name, "type": "wait", "settings": { "mode": "barrier", "parties": ["crm", "erp"] } })
}

fn each(steps: Value) -> Value {
    json!({ "name": "each", "type": "loop", "settings": { "items": "{{trigger.items}}", "steps": steps } })
}

fn choose(yes: Value, no: Value) -> Value {
    json!({ "name": "choose", "type": "branch", "settings": { "condition": "{{trigger.on}}", "ifTrue": yes, "ifFalse": no } })
}

fn parallel(one: Value, other: Value) -> Value {
    json!({ "name": "both", "type": "parallel", "settings": { "branches": [{ "steps": one }, { "steps": other }] } })
}

fn handled(mut step: Value, handler: Value) -> Value {
    step["onError"] = json!({ "steps": handler });
    step
}

const TOKEN: &str = "{{$wait.w.token}}";

#[test]
fn tokens_are_read_by_mode() {
    let read = |step: Value, template: &str| check(&flow(json!([reads("r", template), step])));
    let accepted = [
        (wait("w"), "{{$wait.w.token}} {{$wait.w.url}}"),
        (approval("w"), "{{$wait.w.approvers.ann.approve}} {{$wait.w.approvers.bob.reject}}"),
        (approval("w"), "{{$wait.w.approvers.ann.approveUrl}} {{$wait['w']['approvers']['ann'].rejectUrl}}"),
        (barrier("w"), "{{$wait.w.parties.crm.token}} {{$wait.w.parties.erp.url ?? 'none'}}"),
    ];
    for (step, template) in accepted {
        read(step, template).unwrap_or_else(|found| panic!("{template}: {found}"));
    }
    let refused = [
        (wait("w"), "{{$wait}}", "write a path such as"),
        (wait("w"), "{{$wait[0]}}", "write a path such as"),
        (wait("w"), "{{$wait.w}}", "write `$wait.w.token`"),
        (wait("w"), "{{$wait.w.tokn}}", "write `$wait.w.token`"),
        (wait("w"), "{{$wait.w.token.x}}", "write `$wait.w.token`"),
        (wait("w"), "{{$wait.w[0]}}", "write `$wait.w.token`"),
        (wait("w"), "{{$wait.w.parties.crm.token}}", "write `$wait.w.token`"),
        (approval("w"), "{{$wait.w.token}}", "write `$wait.w.approvers.ann.approve`"),
        (approval("w"), "{{$wait.w.parties.ann.approve}}", "write `$wait.w.approvers.ann.approve`"),
        (approval("w"), "{{$wait.w.approvers}}", "write `$wait.w.approvers.ann.approve`"),
        (approval("w"), "{{$wait.w.approvers.ann}}", "write `$wait.w.approvers.ann.approve`"),
        (approval("w"), "{{$wait.w.approvers.ann.token}}", "write `$wait.w.approvers.ann.approve`"),
        (approval("w"), "{{$wait.w.approvers.anne.approve}}", "did you mean `ann`?"),
        (approval("w"), "{{$wait.w.approvers.zoe_x.approve}}", "write one of its `approvers`"),
        (barrier("w"), "{{$wait.w.parties.crm.approve}}", "write `$wait.w.parties.crm.token`"),
        (barrier("waiting"), "{{$wait.waitin.parties.crm.token}}", "did you mean `waiting`?"),
        (wait("w"), "{{$wait.r.token}}", ""),
    ];
    for (step, template, fix) in refused {
        let found = read(step, template).expect_err(template);
        assert_eq!(super::brief(&found), [at("/steps/0/settings/body", "reference.wait")], "{template}");
        assert!(found.0[0].fix.contains(fix), "{template}: {found}");
    }
}

#[test]
fn tokens_are_read_before_the_wait_in_its_iteration_and_inside() {
    let before = || reads("r", TOKEN);
    for steps in [
        json!([before(), code("a"), wait("w")]),
        json!([choose(json!([before()]), json!([])), wait("w")]),
        json!([before(), choose(json!([wait("w")]), json!([code("a")]))]),
        json!([parallel(json!([before()]), json!([wait("w")]))]),
        json!([parallel(json!([wait("w")]), json!([before()]))]),
        json!([parallel(json!([choose(json!([before()]), json!([]))]), json!([wait("w")]))]),
        json!([each(json!([before(), wait("w")]))]),
        json!([each(json!([before()])), wait("w")]),
        json!([each(json!([choose(json!([before()]), json!([])), wait("w")]))]),
        json!([handled(code("a"), json!([before()])), wait("w")]),
        json!([handled(code("a"), json!([before(), wait("w")]))]),
        json!([before(), handled(code("a"), json!([wait("w")]))]),
        json!([before(), handled(each(json!([code("a")])), json!([wait("w")]))]),
    ] {
        valid(&flow(steps));
    }
}

#[test]
fn tokens_are_not_read_elsewhere() {
    let reader = || reads("r", TOKEN);
    for steps in [
        json!([wait("w"), reader()]),
        json!([choose(json!([wait("w")]), json!([])), reader()]),
        json!([choose(json!([wait("w")]), json!([reader()]))]),
        json!([choose(json!([reader()]), json!([wait("w")]))]),
        json!([parallel(json!([wait("w")]), json!([code("a")])), reader()]),
        json!([reader(), each(json!([wait("w")]))]),
        json!([each(json!([wait("w")])), reader()]),
        json!([each(json!([reader()])), each(json!([wait("w")]))]),
        json!([handled(wait("w"), json!([reader()]))]),
        json!([handled(code("a"), json!([wait("w")])), reader()]),
    ] {
        let mut steps = steps;
        // Two loops of one name would be an error of its own.
        if steps[1]["type"] == "loop" && steps[0]["type"] == "loop" {
            steps[1]["name"] = "other".into();
        }
        let found = check_errors(&flow(steps.clone()));
        assert!(matches!(found.as_slice(), [(_, "reference.wait")]), "{steps}: {found:?}");
    }
}

#[test]
fn answers_are_outputs() {
    valid(&flow(json!([approval("w"), reads("r", "{{steps.w.output.approved}}")])));
}

#[test]
fn failed_steps_are_read_by_their_handlers() {
    let handle = |template: &str| flow(json!([handled(code("a"), json!([reads("r", template)]))]));
    for accepted in
        ["{{steps.a.error.message}}", "{{steps.a.status}}", "{{steps.a?.output}}", "{{steps.a.output ?? 1}}"]
    {
        valid(&handle(accepted));
    }
    let place = "/steps/0/onError/steps/0/settings/body";
    assert_eq!(check_errors(&handle("{{steps.a.output}}")), [at(place, "reference.maybe")]);
    assert_eq!(check_errors(&handle("{{steps.a.input}}")), [at(place, "reference.path")]);
    assert_eq!(check_errors(&handle("{{steps.a}}")), [at(place, "reference.path")]);
    let after = |template: &str| flow(json!([handled(code("a"), json!([code("h")])), reads("r", template)]));
    valid(&after("{{steps.a.status}} {{steps.h?.output}}"));
    assert_eq!(check_errors(&after("{{steps.h.output}}")), [at("/steps/1/settings/body", "reference.maybe")]);
}

#[test]
fn handlers_of_loops_stand_outside_them() {
    let source = flow(json!([handled(each(json!([code("a")])), json!([reads("r", "{{item}}")]))]));
    assert_eq!(check_errors(&source), [at("/steps/0/onError/steps/0/settings/body", "reference.loop")]);
    let source = |template: &str| flow(json!([handled(each(json!([code("a")])), json!([reads("r", template)]))]));
    valid(&source("{{steps.a?.output}} {{steps.each.error}}"));
    assert_eq!(
        check_errors(&source("{{steps.a.output}}")),
        [at("/steps/0/onError/steps/0/settings/body", "reference.maybe")]
    );
}

#[test]
fn branches_side_by_side_do_not_see_each_other() {
    for template in ["{{steps.a.output}}", "{{steps.a?.output}}"] {
        for steps in [
            json!([parallel(json!([code("a")]), json!([reads("r", template)]))]),
            json!([parallel(json!([reads("r", template)]), json!([code("a")]))]),
        ] {
            let found = check_errors(&flow(steps));
            assert!(matches!(found.as_slice(), [(_, "reference.order")]), "{found:?}");
        }
    }
    let after = |template: &str| flow(json!([parallel(json!([code("a")]), json!([code("z")])), reads("r", template)]));
    valid(&after("{{steps.a?.output}} {{steps.both.output}}"));
    assert_eq!(check_errors(&after("{{steps.a.output}}")), [at("/steps/1/settings/body", "reference.maybe")]);
}

#[test]
fn every_template_of_every_word_is_looked_at() {
    let bad = "{{steps.typo.output}}";
    let source = flow(json!([
        { "type": "delay", "settings": { "delayMs": bad } },
        { "type": "delay", "settings": { "until": bad } },
        { "type": "queue.enqueue", "settings": { "queueName": "q", "data": { "a": bad } } },
        { "type": "router", "settings": { "branches": [
            { "condition": bad, "steps": [code("x")] },
            { "conditions": [[{ "firstValue": bad, "operator": "EXISTS" }]], "steps": [code("y")] },
        ] } },
        { "type": "subflow", "settings": { "flow": bad, "payload": [bad] } },
        { "type": "http", "settings": { "url": "x" }, "onError": { "steps": [reads("h", bad)] } },
    ]));
    let places = [
        "/steps/0/settings/delayMs",
        "/steps/1/settings/until",
        "/steps/2/settings/data/a",
        "/steps/3/settings/branches/0/condition",
        "/steps/3/settings/branches/1/conditions/0/0/firstValue",
        "/steps/4/settings/flow",
        "/steps/4/settings/payload/0",
        "/steps/5/onError/steps/0/settings/body",
    ];
    assert_eq!(check_errors(&source), places.map(|place| at(place, "reference.step")));
}
