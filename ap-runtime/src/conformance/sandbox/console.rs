//! What a step writes to its console.

use super::{Bench, SandboxHarness};
use crate::sandbox::{ConsoleLevel, ConsoleLine};

/// Lines come in the order in which they were written, each at its level, its arguments separated by spaces.
pub async fn console_lines_keep_their_level_and_order(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let body = r#"
        console.debug('d', 1, null, undefined, true);
        console.info('two\nlines');
        console.log();
        console.warn('ä \u{1f600}', -1.5);
        await null;
        console.error('last', { key: ['deep value'] });
        return 1;
    "#;
    let output = bench.run_step(body).await.expect("an output");
    let lines: Vec<_> = output.console.iter().map(|line| (line.level, line.text.as_str())).collect();
    let expected = [
        (ConsoleLevel::Debug, "d 1 null undefined true"),
        (ConsoleLevel::Info, "two\nlines"),
        (ConsoleLevel::Log, ""),
        (ConsoleLevel::Warn, "ä \u{1f600} -1.5"),
    ];
    let [first @ .., last] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!(first, expected);
    // How objects are shown is the sandbox's own matter.
    assert!(last.0 == ConsoleLevel::Error && last.1.starts_with("last "), "{last:?}");
    assert!(last.1.contains("key") && last.1.contains("deep value"), "{last:?}");
    assert!(!output.console_truncated);
}

/// Console text is kept up to its limit; what comes later is dropped, that is said, and the step goes on.
pub async fn console_text_is_bounded(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    // "12345" and "678" cost six and four bytes.
    for (limit, kept, truncated) in [
        (0, [].as_slice(), true),
        (9, &["12345", "67"], true),
        (10, &["12345", "678"], false),
        (11, &["12345", "678"], false),
    ] {
        let mut request = bench.step("console.log('12345'); console.log('678'); return 'end';");
        request.limits = request.limits.with_console_bytes(limit).expect("an accepted limit");
        let output = bench.run(request).await.expect("an output");
        let lines: Vec<_> = output.console.iter().map(|line| line.text.as_str()).collect();
        assert_eq!((lines.as_slice(), output.console_truncated), (kept, truncated), "{limit}");
        assert_eq!(output.value, "end");
    }
    for body in ["for (let i = 0; i < 1000; i++) console.log('');", "console.log('é'.repeat(1e6));"] {
        let mut request = bench.step(body);
        request.limits = request.limits.with_console_bytes(100).expect("an accepted limit");
        let output = bench.run(request).await.expect("an output");
        let bytes: usize = output.console.iter().map(|line| line.text.len() + 1).sum();
        assert!((98..=100).contains(&bytes) && output.console_truncated, "{body}: {bytes}");
    }
}

/// Values that fail, loop or never end while they are shown harm their step alone.
pub async fn console_values_harm_nobody(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let body = r#"
        const cycle = {}; cycle.self = cycle;
        let deep = {}; for (let i = 0; i < 1e4; i++) deep = { deep };
        for (const value of [cycle, deep, Symbol('s'), 1n, () => 1, Object.create(null), new Proxy({}, { get() { throw 1; }, ownKeys() { throw 1; } }),
            { toJSON() { throw 1; } }, { get a() { throw 1; } }, { toString() { throw 1; } }, new Error('shown'), NaN])
            console.log(value);
        console.log('after');
        return 'end';
    "#;
    let output = bench.run_step(body).await.expect("an output");
    assert_eq!(output.value, "end");
    let after = ConsoleLine { level: ConsoleLevel::Log, text: "after".to_owned() };
    assert!(output.console.last() == Some(&after) || output.console_truncated, "{:?}", output.console);
}
