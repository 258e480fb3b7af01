//! How long a step outlives its deadline.

use std::time::Duration;

use anyhow::Result;

use crate::{report::percentile, step::Bench};

/// Ways not to end.
pub const BODIES: [(&str, &str); 5] = [
    ("loop", "while (true);"),
    ("regular expression", "/^(a+)+$/.test('a'.repeat(40) + '!');"),
    ("sort", "const list = Array.from({ length: 2e5 }, (_, i) => (i * 7919) % 200003); while (true) list.sort().reverse();"),
    ("JSON", "const text = JSON.stringify(Array(2e5).fill({ a: 1 })); while (true) JSON.parse(text);"),
    ("bulk memory", "const big = new Uint8Array(24e6); while (true) { big.copyWithin(0, 1); big.fill(7); }"),
];

const LIMIT: Duration = Duration::from_millis(50);

/// One line: percentiles of how long after its deadline a step ended.
pub fn overshoot(bench: &Bench, name: &str, body: &str, runs: usize) -> Result<String> {
    let source = format!("export const code = async () => {{ {body} }};");
    let mut past = Vec::with_capacity(runs);
    for _ in 0..runs {
        past.push(bench.until_deadline(&source, LIMIT)?.saturating_sub(LIMIT));
    }
    past.sort_unstable();
    let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| percentile(&past, share) / 1e3);
    let reached = p50 <= 0.25 && p99 <= 2.0 && most <= 10.0;
    let verdict = if reached { "reached" } else { "MISSED" };
    Ok(format!("{name:20} p50 {p50:6.2}  p99 {p99:6.2}  most {most:6.2}   aim 0.25, 2, 10: {verdict}"))
}
