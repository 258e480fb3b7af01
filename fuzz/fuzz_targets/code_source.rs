//! Sources from authors: first byte the kind (`j` JavaScript, `t` TypeScript, `e` expression, anything else a template), then
//! the text. What is checked when a flow is published and what runs later must agree.
#![no_main]

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use ap_core::{expr::Template, id::ProjectId, time::Timestamp};
use ap_runtime::{
    conformance::block_on,
    sandbox::{
        CodeError, CodeLanguage, CodeLimits, CodeRequest, CodeSandbox as _, CodeUnit, ExpressionRequest, NoCodeHost,
        SandboxCapacity, WasmSandbox,
    },
};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

const PROJECT: ProjectId = ProjectId::from_u128(1);

static SANDBOX: LazyLock<WasmSandbox> = LazyLock::new(|| {
    let capacity = SandboxCapacity::default().with_threads(2).and_then(|capacity| capacity.with_live_steps(8));
    WasmSandbox::start(capacity.expect("an accepted capacity")).expect("it starts")
});

fn limits() -> CodeLimits {
    let limits = CodeLimits::default().with_timeout(Duration::from_millis(100));
    limits.and_then(|limits| limits.with_host_calls(50)).expect("accepted limits")
}

/// What an error may be, and how long.
fn check_error(error: &CodeError, text: &str) {
    assert!(!matches!(error, CodeError::Busy | CodeError::Bug { .. } | CodeError::Trap { .. }), "{error}: {text:?}");
    assert!(error.to_string().len() <= 6_000);
    if let CodeError::InvalidSource { place: Some(place), .. } = error {
        assert!(place.line as usize <= text.split(['\n', '\r', '\u{2028}', '\u{2029}']).count(), "{error}: {text:?}");
    }
}

/// Whether this says anything about the source: a limit does not.
fn judges(error: &CodeError) -> bool {
    use CodeError::{CpuTime, MemoryLimit, StackExhausted, Timeout};
    !matches!(error, Timeout { .. } | CpuTime { .. } | MemoryLimit { .. } | StackExhausted)
}

fn module(text: &str, language: CodeLanguage) {
    let unit = CodeUnit::Module { source: text.into(), language };
    let checked = block_on(SANDBOX.check(PROJECT, unit));
    let request = CodeRequest {
        project: PROJECT,
        source: text.into(),
        language,
        params: "{}".into(),
        context: "{}".into(),
        now: Timestamp::from_micros(0),
        seed: [1; 32],
        limits: limits(),
        host: Arc::new(NoCodeHost),
    };
    let ran = block_on(SANDBOX.run(request));
    match (&checked, &ran) {
        (Err(error), Ok(_)) => assert!(!judges(error), "it runs, though {error}: {text:?}"),
        (Err(refused), Err(ended)) => {
            check_error(refused, text);
            assert!(!judges(refused) || !judges(ended) || refused == ended, "{refused}; {ended}: {text:?}");
        }
        // It compiles, and fails for what it imports or exports, or when it runs.
        (Ok(()), Err(ended)) => check_error(ended, text),
        (Ok(()), Ok(_)) => {}
    }
}

fn expression(text: &str) -> bool {
    let checked = block_on(SANDBOX.check(PROJECT, CodeUnit::Expression(text.into())));
    let request = ExpressionRequest {
        project: PROJECT,
        expressions: vec![text.into(), "40 + 2".into()],
        variables: r#"{"trigger":{"body":[1,"two"]},"steps":{},"item":1,"index":0}"#.into(),
        now: Timestamp::from_micros(0),
        seed: [1; 32],
        limits: limits(),
    };
    let evaluated = block_on(SANDBOX.evaluate(request)).expect("it is evaluated");
    assert_eq!(evaluated.len(), 2);
    let invalid = matches!(evaluated[0], Err(CodeError::InvalidSource { .. }));
    match (&checked, &evaluated[0]) {
        (Err(refused), Err(ended)) => {
            check_error(refused, text);
            assert!(!judges(refused) || !judges(ended) || refused == ended, "{refused}; {ended}: {text:?}");
        }
        (Err(refused), Ok(_)) => assert!(!judges(refused), "it has a value, though {refused}: {text:?}"),
        (Ok(()), Err(ended)) => {
            check_error(ended, text);
            assert!(!invalid, "it was valid when it was checked: {ended}: {text:?}");
        }
        (Ok(()), Ok(_)) => {}
    }
    checked.is_ok()
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut rest = text.chars();
    match rest.next() {
        Some('j') => module(rest.as_str(), CodeLanguage::JavaScript),
        Some('t') => module(rest.as_str(), CodeLanguage::TypeScript),
        Some('e') => drop(expression(rest.as_str())),
        // What the scanner of templates takes for a script, the sandbox compiles or refuses when it is published.
        Some(_) => {
            let Ok(template) = Template::compile(&json!(rest.as_str())) else { return };
            template.scripts().for_each(|script| drop(expression(script.source())));
        }
        None => {}
    }
});
