//! What Node.js 20 answers, for each line of the cases in `tests/fixtures/platform`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{SANDBOX, request};

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../fixtures/platform/", $name))
    };
}

const PREAMBLE: &str = fixture!("preamble.js");

/// Where the platform answers otherwise on purpose; the README beside it says why.
const DIFFERENCES: &str = fixture!("differences.json");

async fn agrees_with_node(cases: &str, expected: &str) {
    let cases: Vec<&str> = cases.lines().filter(|line| !line.is_empty()).collect();
    let expected: Vec<String> = serde_json::from_str(expected).unwrap();
    assert_eq!(cases.len(), expected.len(), "run generate.mjs");
    let differences: BTreeMap<String, String> = serde_json::from_str(DIFFERENCES).unwrap();

    let lines: String = cases.iter().map(|case| format!("await show(async () => ({case}));\n")).collect();
    let source = format!("export const code = async () => {{\n{PREAMBLE}\n{lines}\nreturn shown;\n}};");
    let mut request = request(&source, "{}");
    request.limits = request.limits.with_timeout(Duration::from_secs(60)).unwrap();
    let shown: Vec<String> = serde_json::from_value(SANDBOX.run(request).await.unwrap().value).unwrap();
    assert_eq!(shown.len(), cases.len());
    let wrong: Vec<String> = cases
        .iter()
        .zip(&expected)
        .zip(&shown)
        .map(|((case, expected), shown)| (case, differences.get(*case).unwrap_or(expected), shown))
        .filter(|(_, expected, shown)| expected != shown)
        .map(|(case, expected, shown)| format!("{case}\n  expected {expected:?}\n  shown    {shown:?}"))
        .collect();
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[tokio::test]
async fn buffers_agree_with_node() {
    agrees_with_node(fixture!("buffer.txt"), fixture!("buffer.expected.json")).await;
}

#[tokio::test]
async fn cryptography_agrees_with_node() {
    agrees_with_node(fixture!("crypto.txt"), fixture!("crypto.expected.json")).await;
}

#[tokio::test]
async fn inspection_agrees_with_node() {
    agrees_with_node(fixture!("inspect.txt"), fixture!("inspect.expected.json")).await;
}

#[tokio::test]
async fn locale_functions_agree_with_node() {
    agrees_with_node(fixture!("intl.txt"), fixture!("intl.expected.json")).await;
}

#[tokio::test]
async fn modules_agree_with_node() {
    agrees_with_node(fixture!("modules.txt"), fixture!("modules.expected.json")).await;
}

#[tokio::test]
async fn web_interfaces_agree_with_node() {
    agrees_with_node(fixture!("web.txt"), fixture!("web.expected.json")).await;
}

/// Tables of the Web Platform Tests: `URLSearchParams`, forgiving base64, malformed UTF-8.
#[tokio::test]
async fn web_platform_tables_agree_with_node() {
    agrees_with_node(fixture!("wpt.txt"), fixture!("wpt.expected.json")).await;
}
