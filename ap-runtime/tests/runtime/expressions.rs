//! JavaScript in templates: evaluated before its step begins, once for each time it does.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use ap_core::{
    id::ProjectId,
    run::{RunStatus, StepErrorKind},
};
use ap_runtime::{
    engine::StepSample,
    sandbox::{CodeError, CodeLanguage, CodeOutput, CodeRequest, CodeSandbox, CodeUnit, ExpressionRequest},
    session::{RetryStrategy, SessionError, StepSource},
};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::support::{World, call, output, pure, replays, step};

/// Answers expressions from a table, and remembers what it was asked. `$` stands for the variables, what is not in the table
/// gives its own text.
#[derive(Clone, Debug, Default)]
struct Table {
    answers: Arc<BTreeMap<&'static str, Answer>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// What the scripts that were run are written in.
    languages: Arc<Mutex<Vec<CodeLanguage>>>,
}

/// Expressions that were asked for together, and their variables.
type Asked = (Vec<String>, Value);

#[derive(Clone, Debug)]
enum Answer {
    Fails,
    /// So does whatever is asked for together with it.
    FailsAll,
    /// It takes all the time there is: so does whatever is asked for behind it.
    TakesAll,
    Undefined,
    Value(Value),
    Variables,
}

impl Table {
    fn of(answers: impl IntoIterator<Item = (&'static str, Answer)>) -> Self {
        Self { answers: Arc::new(answers.into_iter().collect()), ..Self::default() }
    }

    fn asked(&self) -> Vec<Vec<String>> {
        self.asked.lock().unwrap().iter().map(|(expressions, _)| expressions.clone()).collect()
    }

    fn variables(&self) -> Vec<Value> {
        self.asked.lock().unwrap().iter().map(|(_, variables)| variables.clone()).collect()
    }
}

#[async_trait]
impl CodeSandbox for Table {
    async fn check(&self, _: ProjectId, unit: CodeUnit) -> Result<(), CodeError> {
        let (CodeUnit::Expression(text) | CodeUnit::Module { source: text, .. }) = unit;
        let wrong = || CodeError::InvalidSource { message: "expecting ')'".to_owned(), place: None };
        if text.contains("syntax") { Err(wrong()) } else { Ok(()) }
    }

    async fn run(&self, request: CodeRequest) -> Result<CodeOutput, CodeError> {
        self.languages.lock().unwrap().push(request.language);
        super::support::FakeSandbox.run(request).await
    }

    async fn evaluate(&self, request: ExpressionRequest) -> Result<Vec<Result<Value, CodeError>>, CodeError> {
        let variables: Value = serde_json::from_slice(&request.variables).unwrap();
        let texts: Vec<String> = request.expressions.iter().map(ToString::to_string).collect();
        self.asked.lock().unwrap().push((texts, variables.clone()));
        let mut left = true;
        let one = |text: &Arc<str>| match self.answers.get(&**text) {
            Some(Answer::TakesAll) => {
                left = false;
                Ok(Err(CodeError::Timeout { limit: Duration::from_secs(1) }))
            }
            _ if !left => Ok(Err(CodeError::Timeout { limit: Duration::from_secs(1) })),
            Some(Answer::Fails) => Ok(Err(CodeError::StackExhausted)),
            Some(Answer::FailsAll) => Err(CodeError::MemoryLimit { limit_bytes: 1 }),
            Some(Answer::Undefined) => Ok(Err(CodeError::NoValue)),
            Some(Answer::Value(value)) => Ok(Ok(value.clone())),
            Some(Answer::Variables) => Ok(Ok(variables.clone())),
            None => Ok(Ok(json!(**text))),
        };
        request.expressions.iter().map(one).collect()
    }
}

async fn world(seed: u64, table: &Table) -> World {
    World::with(seed, |builder| builder.sandbox(table.clone())).await
}

#[tokio::test(start_paused = true)]
async fn what_a_step_holds_is_evaluated_at_once_with_what_it_reads() {
    let table = Table::of([("trigger.a + 1", Answer::Value(json!(2))), ("[trigger.b.c, 1]", Answer::Variables)]);
    let world = world(1, &table).await;
    let settings = json!({ "typed": "{{trigger.a + 1}}", "text": "is {{ trigger.a + 1 }}!", "all": "{{[trigger.b.c, 1]}}",
        "path": "{{trigger.a}}" });
    let flow =
        world.publish_manual(json!([pure("only", settings), pure("next", json!("{{steps.only.output.typed}}"))])).await;
    let view = world.run(flow, json!({ "a": 1, "b": { "c": 3, "secret": 4 }, "d": 5 })).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    let read = json!({ "trigger": { "a": 1, "b": { "c": 3 } } });
    assert_eq!(output(&view, "only"), json!({ "typed": 2, "text": "is 2!", "all": read, "path": 1 }));
    assert_eq!(output(&view, "next"), json!(2));
    assert_eq!(table.asked(), [vec!["[trigger.b.c, 1]".to_owned(), "trigger.a + 1".to_owned()]]);
    assert_eq!(table.variables(), [read]);
    replays(world, view.id).await;
}

#[tokio::test(start_paused = true)]
async fn each_iteration_evaluates_anew() {
    let table = Table::of([("[item.id, index]", Answer::Variables)]);
    let world = world(3, &table).await;
    let flow = world
        .publish_manual(json!([{ "name": "each", "type": "loop",
            "settings": { "items": "{{trigger}}", "steps": [pure("inner", json!("{{[item.id, index]}}"))] } }]))
        .await;
    let view = world.run(flow, json!([{ "id": "a", "more": 1 }, { "id": "b" }])).await;
    assert_eq!(step(&view, "each:1/inner").output, Some(json!({ "item": { "id": "b" }, "index": 1 })));
    let of = |id: &str, index: u32| json!({ "item": { "id": id }, "index": index });
    assert_eq!(table.variables(), [of("a", 0), of("b", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_counts_where_it_is_resolved_and_names_the_expression() {
    let table = Table::of([
        ("trigger.bad + 1", Answer::Fails),
        ("trigger.none + 1", Answer::Undefined),
        ("trigger.good > 0", Answer::Value(json!(true))),
    ]);
    let world = world(4, &table).await;
    let condition = |text: &str| json!([[{ "firstValue": text, "operator": "EXISTS" }]]);
    let router = json!({ "name": "way", "type": "router", "settings": { "branches": [
        { "name": "first", "condition": "{{trigger.good > 0}}", "steps": [pure("taken", json!(1))] },
        { "name": "second", "condition": condition("{{trigger.bad + 1}}"), "steps": [pure("other", json!(2))] },
    ] } });
    let flow = world.publish_manual(json!([router])).await;
    let view = world.run(flow, json!({ "good": 1 })).await;
    assert_eq!(view.status, RunStatus::Succeeded, "an expression that is not looked at harms nobody: {:?}", view.error);

    for (expression, kind, said) in [
        ("trigger.bad + 1", StepErrorKind::Script, "`trigger.bad + 1` failed: the step exhausted its stack"),
        ("trigger.none + 1", StepErrorKind::Input, "`trigger.none + 1` gives no value"),
    ] {
        let flow = world.publish_manual(json!([pure("only", json!({ "k": format!("{{{{{expression}}}}}") }))])).await;
        let view = world.run(flow, json!({})).await;
        let error = view.error.expect("it failed");
        assert_eq!((error.kind, error.message.as_str()), (kind, said));
    }
    let exists = json!({ "name": "b", "type": "branch",
        "settings": { "condition": condition("{{trigger.none + 1}}"), "ifTrue": [pure("yes", json!(1))], "ifFalse": [pure("no", json!(2))] } });
    let flow = world.publish_manual(json!([exists])).await;
    assert_eq!(output(&world.run(flow, json!({})).await, "no"), json!(2));
}

#[tokio::test(start_paused = true)]
async fn an_expression_that_uses_everything_up_does_not_take_the_others_along() {
    // Whether what was evaluated before it is kept.
    for (hog, kept) in [(Answer::FailsAll, false), (Answer::TakesAll, true)] {
        let table = Table::of([("trigger.hog + 1", hog), ("trigger.good + 1", Answer::Value(json!(2)))]);
        let world = world(5, &table).await;
        let flow = world
            .publish_manual(json!([{ "name": "way", "type": "router", "settings": { "branches": [
                { "name": "a", "condition": "{{trigger.good + 1}}", "steps": [pure("taken", json!(1))] },
                { "name": "b", "condition": "{{trigger.hog + 1}}", "steps": [pure("other", json!(1))] },
            ] } }]))
            .await;
        let view = world.run(flow, json!({})).await;
        assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
        let (good, hog) = ("trigger.good + 1".to_owned(), "trigger.hog + 1".to_owned());
        let mut asked = vec![vec![good.clone(), hog.clone()], vec![good], vec![hog]];
        if kept {
            asked.remove(1);
        }
        assert_eq!(table.asked(), asked, "together, then by themselves");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_handled_and_not_retried() {
    let table = Table::of([("trigger.bad + 1", Answer::Fails)]);
    let world = world(6, &table).await;
    let mut failing = pure("failing", json!("{{trigger.bad + 1}}"));
    failing["retry"] = json!({ "maxAttempts": 3 });
    failing["onError"] = json!({ "steps": [pure("handled", json!("{{steps.failing.error.kind}}"))] });
    let flow = world.publish_manual(json!([failing])).await;
    let view = world.run(flow, json!({})).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    assert_eq!(output(&view, "handled"), json!("script"));
    assert_eq!(table.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn attempts_share_what_was_evaluated() {
    let table = Table::of([("trigger.a + 1", Answer::Value(json!(2)))]);
    let world = world(7, &table).await;
    let mut acting = call("acting", "put", json!({ "value": "{{trigger.a + 1}}" }));
    acting["retry"] = json!({ "maxAttempts": 3 });
    let flow = world.publish_manual(json!([acting])).await;
    world.peer.fail_first.store(2, Ordering::SeqCst);
    let view = world.run(flow, json!({ "a": 1 })).await;
    assert_eq!((view.status, output(&view, "acting")), (RunStatus::Succeeded, json!(2)));
    assert_eq!((step(&view, "acting").attempts, table.asked().len()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_evaluated_is_durable_with_what_follows_and_not_evaluated_again() {
    let table = Table::of([("trigger.text + 1", Answer::Variables)]);
    let world = world(8, &table).await;
    let flow = world
        .publish_manual(json!([
            pure("large", json!("{{trigger.text + 1}}")),
            call("hang", "put", json!({ "value": 1 })),
            pure("after", json!("{{steps.large.output.trigger.text}}")),
        ]))
        .await;
    // Large enough to be kept as a file.
    let text = "y".repeat(300 << 10);
    world.peer.hang_from.store(1, Ordering::SeqCst);
    let run = world.start(flow, json!({ "text": text })).await;
    world.calls(2).await;
    world.peer.hang_from.store(u32::MAX, Ordering::SeqCst);
    let world = world.crash(9, Duration::ZERO).await;
    let view = world.ended(run).await;
    assert_eq!(view.status, RunStatus::Succeeded, "{:?}", view.error);
    assert_eq!(output(&view, "after"), json!(text));
    assert_eq!(table.asked().len(), 1);
    replays(world, run).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_that_is_tried_again_evaluates_again() {
    let table = Table::of([("trigger.a + 1", Answer::Value(json!(2)))]);
    let world = world(10, &table).await;
    let flow = world.publish_manual(json!([call("acting", "put", json!({ "value": "{{trigger.a + 1}}" }))])).await;
    world.peer.fail_first.store(1, Ordering::SeqCst);
    let view = world.run(flow, json!({ "a": 1 })).await;
    assert_eq!(view.status, RunStatus::Failed);
    world.admin().retry_run(view.id, RetryStrategy::FromFailedStep).await.unwrap();
    assert_eq!(world.ended(view.id).await.status, RunStatus::Succeeded);
    assert_eq!(table.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_step_is_tested_with_its_expressions() {
    let table = Table::of([("item.n + steps.before.output", Answer::Variables), ("trigger.bad", Answer::Fails)]);
    let world = world(11, &table).await;
    let flow = world
        .publish_manual(json!([
            pure("before", json!(1)),
            { "name": "each", "type": "loop", "settings": { "items": [1], "steps": [
                pure("tested", json!("{{item.n + steps.before.output}}")),
                pure("bad", json!("{{[trigger.bad + 1][0]}}")),
            ] } },
        ]))
        .await;
    let sample = StepSample {
        outputs: [("before".to_owned(), json!(5))].into(),
        item: Some((json!({ "n": 1 }), 0)),
        ..StepSample::default()
    };
    let tested = world.admin().test_step(flow, StepSource::Published, "tested", sample).await.unwrap();
    let expected = json!({ "item": { "n": 1 }, "steps": { "before": { "output": 5 } } });
    assert_eq!((tested.output, tested.error), (Some(expected), None));
}

#[tokio::test(start_paused = true)]
async fn a_script_is_run_in_its_language() {
    let table = Table::default();
    let world = world(14, &table).await;
    let script = |name: &str, language: &str| {
        json!({ "name": name, "type": "code",
            "settings": { "language": language, "sourceCode": { "code": "export const code = p => p" } } })
    };
    let flow = world.publish_manual(json!([script("a", "javascript"), script("b", "typescript")])).await;
    assert_eq!(world.run(flow, json!({})).await.status, RunStatus::Succeeded);
    assert_eq!(*table.languages.lock().unwrap(), [CodeLanguage::JavaScript, CodeLanguage::TypeScript]);
}

#[tokio::test(start_paused = true)]
async fn syntax_is_checked_before_a_flow_is_published() {
    let world = world(12, &Table::default()).await;
    let script =
        |code: &str| json!({ "name": "script", "type": "code", "settings": { "sourceCode": { "code": code } } });
    let refused = async |steps: Value| {
        let source = json!({ "displayName": "T", "triggers": [{ "name": "t", "type": "manual" }], "steps": steps });
        let admin = world.admin();
        // A draft may be kept all the same.
        let flow = admin.create_flow(source.to_string().as_bytes()).await.unwrap();
        match admin.publish_flow(flow.id).await {
            Err(SessionError::InvalidFlow(found)) => {
                found.0.iter().map(|finding| (finding.pointer.clone(), finding.rule, finding.message.clone())).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    let found: Vec<_> = refused(json!([
        pure("a", json!(["{{trigger.syntax + 1}}", "{{trigger.fine + 1}}"])),
        { "name": "b", "type": "branch", "settings": { "condition": true, "ifTrue": [pure("c", json!("{{trigger.syntax + 1}}"))] } },
        script("syntax"),
    ]))
    .await;
    let message = "the source is not valid: expecting ')'".to_owned();
    let expected = [
        ("/steps/0/settings/value/0", "template.syntax"),
        ("/steps/1/settings/ifTrue/0/settings/value", "template.syntax"),
        ("/steps/2/settings/sourceCode/code", "step.code.syntax"),
    ];
    assert_eq!(found, expected.map(|(pointer, rule)| (pointer.to_owned(), rule, message.clone())));
}

#[tokio::test(start_paused = true)]
async fn without_a_sandbox_nothing_with_expressions_is_published() {
    let world = World::new(13).await;
    let keys = ap_crypto::provider::MemoryKeyProvider::new(super::support::root_key());
    let bare = ap_runtime::runtime::Runtime::builder(world.backend.clone(), keys)
        .clock(Arc::clone(&world.clock))
        .pieces([Arc::new(super::support::FakePiece(Arc::clone(&world.peer))) as Arc<dyn ap_core::piece::Piece>])
        .build()
        .await
        .unwrap();
    let admin = super::support::admin_session(&bare, Some(world.project)).project(world.project).unwrap();
    let source = json!({ "displayName": "T", "triggers": [{ "name": "t", "type": "manual" }],
        "steps": [pure("a", json!("{{1 + 1}}"))] });
    let flow = admin.create_flow(source.to_string().as_bytes()).await.unwrap();
    let Err(SessionError::InvalidFlow(found)) = admin.publish_flow(flow.id).await else { panic!("published") };
    assert_eq!((found.0[0].pointer.as_str(), found.0[0].rule), ("/steps/0/settings/value", "template.sandbox"));

    // Published where there is one, and started where there is none: the step fails and says why.
    world.admin().publish_flow(flow.id).await.unwrap();
    world.runtime.shutdown(Duration::ZERO).await;
    let run = admin.start_run(flow.id, json!({})).await.unwrap();
    admin.wait_for_run(run, Duration::from_secs(60)).await.unwrap();
    let error = admin.run(run).await.unwrap().error.expect("it failed");
    assert!(error.message.contains("`1 + 1` failed: this runtime was built without a code sandbox"), "{error}");
}
