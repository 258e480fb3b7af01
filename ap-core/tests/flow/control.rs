//! Control words that run other steps or wait: what they take, their ranges, and what a whole flow must hold of them.

use std::time::Duration;

use ap_core::flow::{DelayStep, Diagnostics, JoinPolicy, OnError, RouterMode, Step, StepKind, WaitMode};
use serde_json::{Value, json};

use super::{at, brief, check_errors, code, flow, one, parse, parse_errors, reads, valid};

fn warnings(source: &Value) -> Vec<(String, &'static str)> {
    brief(&Diagnostics(valid(source).warnings().to_vec()))
}

fn only(kind: &str, settings: Value) -> Step {
    parse(&one(kind, settings)).steps()[0].clone()
}

/// Settings of a step that hold a number, and where in them it stands.
type Numbered<'a> = (&'a str, &'a dyn Fn(Value) -> Value, &'a str, u64, u64);

#[test]
fn ranges_hold() {
    let branches = || json!([{ "steps": [code("a")] }]);
    let process = |name: &'static str| {
        move |value: Value| {
            let mut settings = json!({ "queueName": "q", "steps": [code("a")] });
            settings[name] = value;
            settings
        }
    };
    let (concurrent, between, retries) = (process("maxConcurrent"), process("delayBetweenJobs"), process("maxRetries"));
    let cases: [Numbered<'_>; 8] = [
        ("delay", &|value| json!({ "delayMs": value }), "delayMs", 0, 2_592_000_000),
        ("wait", &|value| json!({ "mode": "webhook", "timeoutMs": value }), "timeoutMs", 1_000, 2_592_000_000),
        ("loop", &|value| json!({ "items": [], "steps": [code("a")], "concurrency": value }), "concurrency", 1, 100),
        ("parallel", &|value| json!({ "branches": branches(), "maxConcurrency": value }), "maxConcurrency", 1, 100),
        ("queue.process", &concurrent, "maxConcurrent", 1, 1_000),
        ("queue.process", &between, "delayBetweenJobs", 0, 3_600_000),
        ("queue.process", &retries, "maxRetries", 0, 19),
        (
            "wait",
            &|value| {
                let names: Vec<_> = (0..32).map(|n| format!("p{n}")).collect();
                json!({ "mode": "barrier", "parties": names, "required": value })
            },
            "required",
            1,
            32,
        ),
    ];
    for (kind, settings, member, min, max) in cases {
        for accepted in [min, min + 1, max - 1, max] {
            valid(&one(kind, settings(accepted.into())));
        }
        let below = min.checked_sub(1).map(Value::from);
        let refused = below.into_iter().chain([json!(max + 1), json!(-1), json!(1.5), json!(1e300)]);
        for refused in refused {
            let place = format!("/steps/0/settings/{member}");
            assert_eq!(
                parse_errors(&one(kind, settings(refused.clone()))),
                [(place, "option.range")],
                "{kind} {refused}"
            );
        }
        for wrong in [json!(null), json!([1]), json!(true)] {
            let place = format!("/steps/0/settings/{member}");
            assert_eq!(parse_errors(&one(kind, settings(wrong))), [(place, "member.type")], "{kind}");
        }
    }
}

#[test]
fn lists_have_1_to_their_most() {
    let branches = |count: usize| json!((0..count).map(|_| json!({ "steps": [] })).collect::<Vec<_>>());
    let asked = |count: usize| {
        let branch = || json!({ "condition": "{{trigger.a}}", "steps": [] });
        json!((0..count).map(|_| branch()).collect::<Vec<_>>())
    };
    let names = |count: usize| json!((0..count).map(|n| format!("p{n}")).collect::<Vec<_>>());
    type Case<'a> = (&'a str, &'a dyn Fn(usize) -> Value, &'a str, usize);
    let cases: [Case<'_>; 4] = [
        ("parallel", &|count| json!({ "branches": branches(count) }), "branches", 100),
        ("router", &|count| json!({ "branches": asked(count) }), "branches", 100),
        ("wait", &|count| json!({ "mode": "approval", "approvers": names(count) }), "approvers", 32),
        ("wait", &|count| json!({ "mode": "barrier", "parties": names(count) }), "parties", 32),
    ];
    for (kind, settings, member, max) in cases {
        for accepted in [1, 2, max - 1, max] {
            valid(&one(kind, settings(accepted)));
        }
        for refused in [0, max + 1] {
            let place = format!("/steps/0/settings/{member}");
            assert_eq!(parse_errors(&one(kind, settings(refused))), [(place, "option.range")]);
        }
        let mut wrong = settings(1);
        wrong[member] = json!({});
        assert_eq!(parse_errors(&one(kind, wrong)), [(format!("/steps/0/settings/{member}"), "member.type")]);
    }
}

#[test]
fn delays_are_times_or_templates() {
    let delay = |settings: Value| match only("delay", settings).kind {
        StepKind::Delay(delay) => delay,
        other => panic!("{other:?}"),
    };
    for settings in [json!({ "delayMs": 60_000 }), json!({ "delayMs": "{{60000}}" })] {
        let DelayStep::For(time) = delay(settings) else { panic!("a time") };
        assert_eq!(time.as_literal(), Some(&json!(60_000)));
    }
    assert!(
        matches!(delay(json!({ "delayMs": "{{trigger.body.ms}}" })), DelayStep::For(time) if time.as_path().is_some())
    );
    let until = json!({ "until": "2030-01-02T03:04:05Z" });
    assert!(matches!(delay(until), DelayStep::Until(time) if time.as_literal().is_some()));
    assert!(matches!(delay(json!({ "until": "{{trigger.body.day}}T00:00:00Z" })), DelayStep::Until(_)));
    let refused = [
        (json!({}), "", "member.required"),
        (json!({ "delayMs": 1, "until": "2030-01-02T03:04:05Z" }), "/until", "member.conflict"),
        (json!({ "delayMs": "60000" }), "/delayMs", "member.type"),
        (json!({ "delayMs": "{{-5}}" }), "/delayMs", "option.range"),
        (json!({ "delayMs": "{{trigger" }), "/delayMs", "template.unclosed"),
        (json!({ "until": "tomorrow" }), "/until", "delay.until"),
        (json!({ "until": "2030-01-02T03:04:05" }), "/until", "delay.until"),
        (json!({ "until": "{{null}}" }), "/until", "delay.until"),
        (json!({ "until": 1_900_000_000 }), "/until", "member.type"),
        (json!({ "delayMs": 1, "delay": 1 }), "/delay", "member.unknown"),
    ];
    for (settings, member, rule) in refused {
        assert_eq!(parse_errors(&one("delay", settings)), [(format!("/steps/0/settings{member}"), rule)]);
    }
    assert_eq!(parse_errors(&flow(json!([{ "type": "delay" }]))), [at("/steps/0", "member.required")]);
}

#[test]
fn routers_read_both_spellings() {
    let conditions = json!([[{ "firstValue": "{{trigger.a}}", "operator": "TEXT_CONTAINS", "secondValue": "x" }]]);
    let ours = only(
        "router",
        json!({ "mode": "allMatch", "fallback": [code("none")], "branches": [
        { "name": "big one", "condition": conditions, "steps": [code("a")] },
        { "condition": "{{trigger.b}}", "steps": [] },
    ] }),
    );
    let theirs = only(
        "router",
        json!({ "executionType": "EXECUTE_ALL_MATCH", "branches": [
        { "branchName": "big one", "branchType": "CONDITION", "conditions": conditions, "steps": [code("a")] },
        { "conditions": "{{trigger.b}}", "steps": [] },
        { "branchName": "Otherwise", "branchType": "FALLBACK", "steps": [code("none")] },
    ] }),
    );
    let (StepKind::Router(ours), StepKind::Router(theirs)) = (&ours.kind, &theirs.kind) else { panic!("routers") };
    assert_eq!((ours.mode, theirs.mode), (RouterMode::All, RouterMode::All));
    let brief = |router: &ap_core::flow::RouterStep| {
        let branch = |branch: &ap_core::flow::RouterBranch| (branch.name.clone(), branch.condition.clone());
        router.branches.iter().map(branch).collect::<Vec<_>>()
    };
    assert_eq!(brief(ours), brief(theirs));
    assert_eq!((ours.branches[0].name.as_str(), ours.branches[1].name.as_str()), ("big one", "branch_2"));
    assert_eq!(ours.fallback[0].name, theirs.fallback[0].name);
    assert_eq!(theirs.fallback[0].pointer, "/steps/0/settings/branches/2/steps/0");
    for (settings, mode) in [
        (json!({}), RouterMode::First),
        (json!({ "mode": "firstMatch" }), RouterMode::First),
        (json!({ "executionType": "EXECUTE_FIRST_MATCH" }), RouterMode::First),
    ] {
        let mut settings = settings;
        settings["branches"] = json!([{ "condition": true, "steps": [code("a")] }]);
        assert!(matches!(only("router", settings).kind, StepKind::Router(router) if router.mode == mode));
    }
}

#[test]
fn mistakes_in_routers_are_told() {
    let on = || json!({ "condition": true, "steps": [code("a")] });
    let fallback = || json!({ "branchType": "FALLBACK", "steps": [code("b")] });
    let with = |name: &str, value: Value| {
        let mut branch = on();
        branch[name] = value;
        json!({ "branches": [branch] })
    };
    let cases = [
        (json!({}), "", "member.required"),
        (json!({ "branches": [on()], "mode": "first" }), "/mode", "option.range"),
        (
            json!({ "branches": [on()], "mode": "allMatch", "executionType": "EXECUTE_ALL_MATCH" }),
            "/executionType",
            "member.conflict",
        ),
        (json!({ "branches": [on()], "default": [] }), "/default", "member.unknown"),
        (json!({ "branches": [on()], "fallback": {} }), "/fallback", "member.type"),
        (json!({ "branches": [{ "steps": [] }] }), "/branches/0", "member.required"),
        (json!({ "branches": [{ "condition": true }] }), "/branches/0", "member.required"),
        (json!({ "branches": ["x"] }), "/branches/0", "member.type"),
        (with("conditions", json!([])), "/branches/0/conditions", "member.conflict"),
        (with("name", json!("")), "/branches/0/name", "name.length"),
        (with("name", json!(1)), "/branches/0/name", "member.type"),
        (with("branchType", json!("OTHER")), "/branches/0/branchType", "option.range"),
        (with("condition", json!(1)), "/branches/0/condition", "condition.type"),
        (with("steps", json!(1)), "/branches/0/steps", "member.type"),
        (json!({ "branches": [fallback(), on()] }), "/branches/0", "router.fallback"),
        (json!({ "branches": [on(), fallback(), fallback()] }), "/branches/1", "router.fallback"),
        (json!({ "branches": [fallback()] }), "/branches", "router.fallback"),
        (json!({ "branches": [on(), fallback()], "fallback": [] }), "/fallback", "member.conflict"),
    ];
    for (settings, member, rule) in cases {
        let source = one("router", settings);
        assert_eq!(parse_errors(&source), [(format!("/steps/0/settings{member}"), rule)], "{source}");
    }
}

#[test]
fn parallels_are_read_with_their_defaults() {
    let branches = json!([{ "name": "crm", "displayName": "CRM", "steps": [code("a")] }, { "steps": [code("b")] }]);
    let StepKind::Parallel(plain) = only("parallel", json!({ "branches": branches })).kind else {
        panic!("a parallel")
    };
    let names: Vec<_> = plain.branches.iter().map(|branch| branch.name.as_str()).collect();
    assert_eq!(
        (names.as_slice(), plain.max_concurrency, plain.on_failure),
        (&["crm", "branch_2"][..], 2, JoinPolicy::FailFast)
    );
    let full = json!({ "branches": branches, "maxConcurrency": 1, "onFailure": "collect" });
    let StepKind::Parallel(full) = only("parallel", full).kind else { panic!("a parallel") };
    assert_eq!((full.max_concurrency, full.on_failure), (1, JoinPolicy::Collect));
    let cases = [
        (json!({}), "", "member.required"),
        (json!({ "branches": branches, "onFailure": "failfast" }), "/onFailure", "option.range"),
        (json!({ "branches": [{ "name": "a b", "steps": [] }] }), "/branches/0/name", "name.invalid"),
        (json!({ "branches": [{ "name": "a" }] }), "/branches/0", "member.required"),
        (json!({ "branches": [{ "steps": [], "condition": true }] }), "/branches/0/condition", "member.unknown"),
        (json!({ "branches": [[]] }), "/branches/0", "member.type"),
    ];
    for (settings, member, rule) in cases {
        assert_eq!(parse_errors(&one("parallel", settings)), [(format!("/steps/0/settings{member}"), rule)]);
    }
}

#[test]
fn names_of_branches_are_unique_in_their_step() {
    let parallel = |one: &str, other: &str| {
        json!({ "type": "parallel", "settings": { "branches":
            [{ "name": one, "steps": [code(&format!("{one}1"))] }, { "name": other, "steps": [code(&format!("{other}2"))] }] } })
    };
    valid(&flow(json!([parallel("a", "b")])));
    assert_eq!(
        check_errors(&flow(json!([parallel("a", "a")]))),
        [at("/steps/0/settings/branches/1", "name.duplicate")]
    );
    let unnamed = json!({ "branches": [{ "name": "branch_2", "condition": true, "steps": [code("a")] },
        { "condition": true, "steps": [code("b")] }] });
    assert_eq!(check_errors(&one("router", unnamed)), [at("/steps/0/settings/branches/1", "name.duplicate")]);
}

#[test]
fn subflows_name_a_flow() {
    let id = "flow_00000000000000000000000007";
    let subflow = |settings: Value| match only("subflow", settings).kind {
        StepKind::Subflow(subflow) => subflow,
        other => panic!("{other:?}"),
    };
    let plain = subflow(json!({ "flow": id }));
    assert_eq!(
        (plain.flow.as_literal(), plain.payload.as_literal(), plain.wait),
        (Some(&json!(id)), Some(&json!({})), true)
    );
    assert!(!subflow(json!({ "flow": id, "mode": "async", "payload": ["{{trigger}}"] })).wait);
    assert!(subflow(json!({ "flow": id, "mode": "sync" })).wait);
    valid(&one("subflow", json!({ "flow": "{{trigger.body.flow}}", "timeout": 5 })));
    valid(&one("subflow", json!({ "flow": id })));
    for literal in ["", "my flow", "run_00000000000000000000000007", "flow_7"] {
        assert_eq!(
            check_errors(&one("subflow", json!({ "flow": literal }))),
            [at("/steps/0/settings/flow", "subflow.flow")]
        );
    }
    for (settings, member, rule) in [
        (json!({}), "", "member.required"),
        (json!({ "flow": { "id": id } }), "/flow", "member.type"),
        (json!({ "flow": id, "mode": "later" }), "/mode", "option.range"),
        (json!({ "flow": id, "input": {} }), "/input", "member.unknown"),
    ] {
        assert_eq!(parse_errors(&one("subflow", settings)), [(format!("/steps/0/settings{member}"), rule)]);
    }
}

#[test]
fn waits_are_read_with_their_defaults() {
    let wait = |settings: Value| match only("wait", settings).kind {
        StepKind::Wait(wait) => wait,
        other => panic!("{other:?}"),
    };
    let webhook = wait(json!({ "mode": "webhook" }));
    assert_eq!((&webhook.mode, webhook.timeout), (&WaitMode::Webhook, Duration::from_secs(7 * 86_400)));
    let approval = wait(json!({ "mode": "approval", "approvers": ["ann", "bob", "cy"], "required": 2 })).mode;
    assert!(matches!(approval, WaitMode::Approval { approvers, required: 2 } if approvers.len() == 3));
    let barrier = wait(json!({ "mode": "barrier", "parties": ["crm", "erp"] })).mode;
    assert!(matches!(barrier, WaitMode::Barrier { parties, required: 2 } if parties[1].as_str() == "erp"));
    let cases = [
        (json!({}), "", "member.required"),
        (json!({ "mode": "vote" }), "/mode", "option.range"),
        (json!({ "mode": "approval" }), "", "member.required"),
        (json!({ "mode": "barrier", "approvers": ["a"] }), "", "member.required"),
        (json!({ "mode": "webhook", "parties": ["a"] }), "/parties", "member.unknown"),
        (json!({ "mode": "barrier", "parties": ["a b"] }), "/parties/0", "name.invalid"),
        (json!({ "mode": "barrier", "parties": [1] }), "/parties/0", "member.type"),
    ];
    for (settings, member, rule) in cases {
        let found = parse_errors(&one("wait", settings));
        assert_eq!(found[0], (format!("/steps/0/settings{member}"), rule));
    }
}

#[test]
fn who_is_waited_for_is_named_once_and_can_answer() {
    let wait = |names: Value, required: u64| json!({ "mode": "approval", "approvers": names, "required": required });
    for required in [1, 2] {
        valid(&one("wait", wait(json!(["a", "b"]), required)));
    }
    assert_eq!(
        check_errors(&one("wait", wait(json!(["a", "b"]), 3))),
        [at("/steps/0/settings/required", "wait.required")]
    );
    assert_eq!(
        check_errors(&one("wait", wait(json!(["a", "b", "a"]), 2))),
        [at("/steps/0/settings/approvers/2", "wait.parties")]
    );
}

#[test]
fn words_take_the_options_that_mean_something() {
    let settings = [
        ("delay", json!({ "delayMs": 1 })),
        ("parallel", json!({ "branches": [{ "steps": [] }] })),
        ("router", json!({ "branches": [{ "condition": true, "steps": [] }] })),
        ("wait", json!({ "mode": "webhook" })),
        ("queue.enqueue", json!({ "queueName": "q", "data": 1 })),
        ("queue.process", json!({ "queueName": "q", "steps": [] })),
        ("subflow", json!({ "flow": "{{trigger.flow}}" })),
    ];
    for (word, settings) in settings {
        let with = |name: &str, value: Value| {
            let mut step = json!({ "type": word, "settings": settings });
            step[name] = value;
            flow(json!([step]))
        };
        assert_eq!(parse(&with("onError", json!("continue"))).steps()[0].options.on_error, OnError::Continue);
        assert!(parse(&with("skip", json!(true))).steps()[0].options.skip);
        for (name, value) in [("retry", json!({ "maxAttempts": 2 })), ("idempotencyKey", json!(true))] {
            assert_eq!(parse_errors(&with(name, value)), [(format!("/steps/0/{name}"), "option.inapplicable")]);
        }
        if word != "subflow" {
            assert_eq!(parse_errors(&with("timeout", json!(5))), [at("/steps/0/timeout", "option.inapplicable")]);
        }
    }
}

#[test]
fn steps_in_every_list_are_found_counted_and_named() {
    let lists = json!([
        { "name": "go", "type": "router", "settings": { "fallback": [code("f")],
            "branches": [{ "condition": true, "steps": [code("r")] }] },
            "onError": { "steps": [code("h"), { "type": "loop", "settings": { "items": [], "steps": [code("deep")] } }] } },
        { "name": "side", "type": "parallel", "settings": { "branches": [{ "steps": [code("p")] }, { "steps": [code("q")] }] } },
        { "name": "work", "type": "queue.process", "settings": { "queueName": "q", "steps": [code("j")] } },
    ]);
    let flow_of = valid(&flow(lists.clone()));
    for name in ["go", "f", "r", "h", "step_1", "deep", "side", "p", "q", "work", "j"] {
        assert_eq!(flow_of.step(name).map(|step| step.name.as_str()), Some(name));
    }
    for place in
        ["/0/onError/steps/0", "/0/settings/fallback/0", "/1/settings/branches/1/steps/0", "/2/settings/steps/0"]
    {
        let mut twice = lists.clone();
        twice.pointer_mut(place).expect("a step")["name"] = "go".into();
        let found = check_errors(&flow(twice));
        assert!(found.iter().any(|(_, rule)| *rule == "name.duplicate"), "{place}: {found:?}");
    }
    let many: Vec<_> = (0..98).map(|n| code(&format!("n{n}"))).collect();
    let handled = |handlers: Value| {
        let mut steps = many.clone();
        steps.push(json!({ "type": "delay", "settings": { "delayMs": 1 }, "onError": { "steps": handlers } }));
        flow(json!(steps))
    };
    valid(&handled(json!([code("h")])));
    assert_eq!(
        parse_errors(&handled(json!([code("h"), code("i")]))),
        [at("/steps/98/onError/steps/1", "flow.steps.limit")]
    );
}

#[test]
fn nesting_counts_handlers_and_branches() {
    let nest = |levels: usize| {
        let mut step = json!({ "type": "respond" });
        for level in 1..levels {
            step = match level % 4 {
                0 => json!({ "type": "delay", "settings": { "delayMs": 1 }, "onError": { "steps": [step] } }),
                1 => json!({ "type": "parallel", "settings": { "branches": [{ "steps": [step] }] } }),
                2 => json!({ "type": "router", "settings": { "branches": [{ "condition": true, "steps": [step] }] } }),
                _ => json!({ "type": "queue.process", "settings": { "queueName": "q", "action": step } }),
            };
        }
        flow(json!([step]))
    };
    valid(&nest(9));
    valid(&nest(10));
    let found = parse_errors(&nest(11));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1, "flow.nesting.limit");
}

#[test]
fn empty_lists_are_warned_of() {
    let empty = |place: &str| vec![at(place, "steps.empty")];
    let branch = "/steps/0/settings/branches/0";
    assert_eq!(warnings(&one("parallel", json!({ "branches": [{ "steps": [] }] }))), empty(branch));
    assert_eq!(warnings(&one("router", json!({ "branches": [{ "condition": true, "steps": [] }] }))), empty(branch));
    assert_eq!(warnings(&one("queue.process", json!({ "queueName": "q", "steps": [] }))), empty("/steps/0"));
    let handled = flow(json!([{ "type": "delay", "settings": { "delayMs": 1 }, "onError": { "steps": [] } }]));
    assert_eq!(warnings(&handled), empty("/steps/0"));
}

#[test]
fn ends_of_runs_are_seen_through_routers_and_parallels() {
    let fail = || json!({ "type": "fail", "settings": { "message": "x" } });
    let router = |steps: Value, fallback: Value| json!({ "type": "router", "settings": { "branches": [{ "condition": "{{trigger.a}}", "steps": steps }], "fallback": fallback } });
    let parallel = |policy: &str| {
        json!({ "type": "parallel", "settings": { "onFailure": policy,
            "branches": [{ "steps": [reads("b", "x")] }, { "steps": [fail()] }] } })
    };
    let unreachable = [at("/steps/1", "step.unreachable")];
    for end in [router(json!([fail()]), json!([fail()])), parallel("failFast")] {
        assert_eq!(warnings(&flow(json!([end, code("a")]))), unreachable);
    }
    let handled = |mut step: Value| {
        step["onError"] = "continue".into();
        step
    };
    let both = router(json!([fail()]), json!([fail()]));
    for open in [
        router(json!([fail()]), json!([])),
        router(json!([code("c")]), json!([fail()])),
        parallel("collect"),
        handled(both),
        handled(parallel("failFast")),
    ] {
        assert_eq!(warnings(&flow(json!([open, code("a")]))), []);
    }
}
