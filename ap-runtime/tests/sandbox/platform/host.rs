//! The parts that a host answers: `fetch` and timers.

use std::sync::Arc;

use ap_core::capability::{HttpError, HttpRequest, HttpResponse};
use ap_runtime::sandbox::{CodeError, CodeHost, NoCodeHost, StoreCall, StoreCallError};
use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::{SANDBOX, request, step, thrown};

/// Answers with what it was asked, as JSON.
#[derive(Debug)]
struct Mirror;

#[async_trait]
impl CodeHost for Mirror {
    async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let path = request.url.split('/').nth(3).unwrap_or_default();
        if path == "never" {
            std::future::pending::<()>().await;
        }
        if path == "refused" {
            return Err(HttpError::Refused { reason: "not on the list".to_owned() });
        }
        let body = json!({
            "method": request.method,
            "url": request.url,
            "headers": request.headers,
            "body": request.body.as_deref().map(|body| body.iter().map(|&byte| char::from(byte)).collect::<String>()),
        });
        Ok(HttpResponse {
            status: path.parse().unwrap_or(200),
            headers: vec![
                ("content-type".to_owned(), "application/json".to_owned()),
                ("set-cookie".to_owned(), "a=1".to_owned()),
                ("set-cookie".to_owned(), "b=2".to_owned()),
            ],
            body: body.to_string().into(),
            redirected_to: (path == "moved").then(|| "https://api.example/here?a=1#b".to_owned()),
        })
    }

    fn key(&self, _: &str) -> Option<Result<SecretString, HttpError>> {
        None
    }

    fn mentions(&self, _: &[u8]) -> bool {
        false
    }

    fn placeholders(&self) -> Vec<String> {
        Vec::new()
    }

    async fn store(&self, call: StoreCall) -> Result<Option<String>, StoreCallError> {
        NoCodeHost.store(call).await
    }

    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

async fn run_with_mirror(body: &str) -> Result<Value, CodeError> {
    let mut request = request(&step(body), "{}");
    request.host = Arc::new(Mirror);
    SANDBOX.run(request).await.map(|output| output.value)
}

async fn gives(body: &str, expected: Value) {
    let result = run_with_mirror(body).await;
    assert_eq!(result.unwrap_or_else(|error| panic!("{error}: {body}")), expected, "{body}");
}

#[tokio::test]
async fn a_request_arrives_as_it_was_made() {
    gives(
        "const response = await fetch('https://a.example/x?y#z');
         return [response.status, response.ok, response.headers.getSetCookie(), response.bodyUsed, await response.json(), response.bodyUsed];",
        json!([200, true, ["a=1", "b=2"], false, {"method": "GET", "url": "https://a.example/x?y#z", "headers": [], "body": null}, true]),
    )
    .await;
    gives(
        "const response = await fetch('https://a.example/', { method: 'post', headers: { 'X-One': ' 1 ' }, body: JSON.stringify({ a: 'é' }) });
         return response.json();",
        json!({"method": "POST", "url": "https://a.example/", "headers": [["content-type", "text/plain;charset=UTF-8"], ["x-one", "1"]], "body": "{\"a\":\"Ã©\"}"}),
    )
    .await;
}

#[tokio::test]
async fn a_response_says_where_it_came_from() {
    for (path, expected) in
        [("x?y#z", json!(["https://a.example/x?y", false])), ("moved", json!(["https://api.example/here?a=1", true]))]
    {
        let body = format!(
            "const response = await fetch('https://a.example/{path}'), copy = response.clone();
             return [response, copy].map((one) => [one.url, one.redirected]);"
        );
        gives(&body, json!([expected, expected])).await;
    }
}

#[tokio::test]
async fn every_kind_of_body_is_sent() {
    for (body, sent, kind) in [
        ("'text'", "text", json!("text/plain;charset=UTF-8")),
        ("new Uint8Array([65, 255])", "A\u{ff}", json!(null)),
        ("new Uint16Array([0x4241]).buffer", "AB", json!(null)),
        ("new DataView(new Uint8Array([65, 66, 67]).buffer, 1)", "BC", json!(null)),
        ("Buffer.from('buffer')", "buffer", json!(null)),
        ("new URLSearchParams({ a: 'b c' })", "a=b+c", json!("application/x-www-form-urlencoded;charset=UTF-8")),
        ("new Blob(['blob'], { type: 'text/x' })", "blob", json!("text/x")),
        ("new String('object')", "object", json!("text/plain;charset=UTF-8")),
    ] {
        let code = format!(
            "const got = await (await fetch('https://a.example/', {{ method: 'PUT', body: {body} }})).json();
             return [got.body, new Headers(got.headers).get('content-type')];"
        );
        gives(&code, json!([sent, kind])).await;
    }
    gives(
        "const form = new FormData(); form.append('a', '1'); form.append('f', new Blob(['x']), 'n.txt');
         const got = await (await fetch('https://a.example/', { method: 'POST', body: form })).json();
         const boundary = /boundary=(.*)$/.exec(got.headers[0][1])[1];
         return got.body.replaceAll(boundary, 'B');",
        json!(
            "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"n.txt\"\r\nContent-Type: application/octet-stream\r\n\r\nx\r\n--B--\r\n"
        ),
    )
    .await;
}

#[tokio::test]
async fn the_body_of_a_response_is_sent_on() {
    let sent = "const got = await (await fetch('https://a.example/', init)).json(); return [got.body, got.headers, source.bodyUsed];";
    for source in [
        "new Response(new Uint8Array([65, 255]))",
        "new Request('https://b.example/', { method: 'PUT', body: 'A\\u00ff' })",
    ] {
        let code =
            format!("const source = {source}, init = {{ method: 'POST', body: source.body, duplex: 'half' }}; {sent}");
        let body = if source.contains("Uint8Array") { "A\u{ff}" } else { "A\u{c3}\u{bf}" };
        gives(&code, json!([body, [], true])).await;
    }
    gives(
        "const source = await fetch('https://a.example/x'); const copy = new Response(source.body); return (await copy.json()).url;",
        json!("https://a.example/x"),
    )
    .await;
    for (body, says) in [
        ("(async function* () { yield 'a'; })()", "read another stream first"),
        ("{ getReader() {} }", "read another stream first"),
        ("{ pipe() {} }", "read another stream first"),
        ("used.body", "already been read"),
        ("locked.body", "already been read"),
    ] {
        let code = format!(
            "const used = new Response('x'), locked = new Response('y'); await used.text(); locked.body.getReader();
             await fetch('https://a.example/', {{ method: 'POST', body: {body} }});"
        );
        let (name, message, _) = thrown_by(&code).await;
        assert!(name == "TypeError" && message.contains(says), "{body}: {name} {message}");
    }
}

#[tokio::test]
async fn a_length_that_is_given_must_be_right() {
    for init in [
        "{ method: 'POST', body: 'é', headers: { 'Content-Length': '2', a: 'b' } }",
        "{ headers: { 'content-length': 0, a: 'b' } }",
    ] {
        let code = format!(
            "const got = await (await fetch('https://a.example/', {init})).json(); return got.headers.map(([name]) => name);"
        );
        let expected = if init.contains("POST") { json!(["a", "content-type"]) } else { json!(["a"]) };
        gives(&code, expected).await;
    }
    for length in ["1", "2, 2", "02", "x"] {
        let (name, message, _) = thrown_by(&format!(
            "await fetch('https://a.example/', {{ method: 'POST', body: 'é', headers: {{ 'Content-Length': '{length}' }} }});"
        ))
        .await;
        assert!(name == "TypeError" && message.contains("the body has 2 bytes"), "{length}: {name} {message}");
    }
}

#[tokio::test]
async fn what_cannot_be_requested_is_refused_before_the_host_sees_it() {
    for wrong in [
        "'/relative'",
        "'https://user:password@a.example/'",
        "'https://a.example/', { method: 'a b' }",
        "'https://a.example/', { method: 'CONNECT' }",
        "'https://a.example/', { headers: { 'a b': 'c' } }",
        "'https://a.example/', { headers: { a: 'b\\nc: d' } }",
        "'https://a.example/', { redirect: 'maybe' }",
        "'https://a.example/', { body: 'of a GET' }",
        "'https://a.example/', { signal: 1 }",
    ] {
        let (name, ..) = thrown_by(&format!("await fetch({wrong});")).await;
        assert_eq!(name, "TypeError", "{wrong}");
    }
}

async fn thrown_by(body: &str) -> (String, String, String) {
    let mut request = request(&step(body), "{}");
    request.host = Arc::new(Mirror);
    thrown(SANDBOX.run(request).await)
}

#[tokio::test]
async fn a_refusal_of_the_host_is_a_type_error_with_its_reason() {
    let (name, message, _) = thrown_by("await fetch('https://a.example/refused');").await;
    assert_eq!(name, "TypeError");
    assert!(message.contains("not on the list"), "{message}");
}

#[tokio::test]
async fn a_redirect_is_an_error_where_that_was_asked_for() {
    gives("return (await fetch('https://a.example/302', { redirect: 'manual' })).status;", json!(302)).await;
    let (name, message, _) = thrown_by("await fetch('https://a.example/302', { redirect: 'error' });").await;
    assert_eq!(name, "TypeError");
    assert!(message.contains("redirect"), "{message}");
}

#[tokio::test]
async fn requests_can_be_aborted() {
    for (options, name) in [
        ("{ signal: AbortSignal.timeout(5) }", "TimeoutError"),
        ("{ timeout: 5 }", "TimeoutError"),
        ("{ signal: AbortSignal.abort() }", "AbortError"),
        ("{ signal: AbortSignal.any([new AbortController().signal, AbortSignal.timeout(5)]) }", "TimeoutError"),
    ] {
        let code = format!(
            "await fetch('https://a.example/never', {options}).catch((error) => {{ throw new Error(error.name); }});"
        );
        assert_eq!(thrown_by(&code).await.1, name, "{options}");
    }
    gives(
        "const stop = new AbortController(); setTimeout(() => stop.abort('enough'), 2);
         return fetch('https://a.example/never', { signal: stop.signal }).catch((reason) => reason);",
        json!("enough"),
    )
    .await;
}

#[tokio::test]
async fn more_requests_than_a_host_takes_at_a_time_wait_for_their_turn() {
    gives(
        "const all = await Promise.all(Array.from({ length: 400 }, (_, i) => fetch('https://a.example/' + (200 + i % 5))));
         return all.reduce((sum, response) => sum + response.status - 200, 0);",
        json!(800),
    )
    .await;
}

#[tokio::test]
async fn timers_run_in_the_order_of_their_times() {
    gives(
        "const ran = [];
         const done = new Promise((resolve) => setTimeout(resolve, 60));
         for (let i = 0; i < 300; i++) setTimeout(() => ran.push(i), 40 - Math.floor(i / 10));
         await done;
         const expected = Array.from({ length: 300 }, (_, i) => i).sort((a, b) => Math.floor(b / 10) - Math.floor(a / 10) || a - b);
         return ran.length === 300 && ran.every((value, i) => value === expected[i]);",
        json!(true),
    )
    .await;
    gives(
        "const ran = []; let n = 0;
         await new Promise((resolve) => {
           const cleared = setTimeout(() => ran.push('never'), 1); clearTimeout(cleared);
           const byNumber = setTimeout(() => ran.push('never'), 1); clearTimeout(+byNumber);
           setTimeout(() => { ran.push('one'); Promise.resolve().then(() => ran.push('microtask')); }, 1);
           setTimeout(() => ran.push('two'), 1);
           const interval = setInterval(() => { ran.push('tick'); if (++n === 2) { clearInterval(interval); resolve(); } }, 3);
         });
         return ran;",
        json!(["one", "microtask", "two", "tick", "tick"]),
    )
    .await;
}

#[tokio::test]
async fn the_clock_moves_by_what_was_waited() {
    gives(
        "const before = Date.now(); await new Promise((resolve) => setTimeout(resolve, 20));
         const waited = Date.now() - before; return waited >= 20 && waited < 2000;",
        json!(true),
    )
    .await;
}

#[tokio::test]
async fn a_thousand_timers_wait_at_most() {
    gives(
        "for (let i = 0; i < 1000; i++) setTimeout(() => {}, 1e6);
         try { setTimeout(() => {}, 1); } catch (error) { return error.code; }",
        json!("ERR_TOO_MANY_TIMERS"),
    )
    .await;
}

#[tokio::test]
async fn what_a_timer_throws_ends_the_step() {
    let (name, message, stack) =
        thrown_by("setTimeout(() => { throw new RangeError('late'); }, 1); await new Promise(() => {});").await;
    assert_eq!((name.as_str(), message.as_str()), ("RangeError", "late"));
    assert!(stack.starts_with("    at <anonymous> (step.mjs:"), "{stack}");
}
