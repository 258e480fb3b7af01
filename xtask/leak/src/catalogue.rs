//! Flows that hand credentials, and what their peers say of them, from hand to hand.

use serde_json::{Value, json};

use crate::{
    durable::{manual, send},
    protocols::{self, Protocol},
    world::{LOGGED, Seen, World},
};

/// One flow.
pub struct Entry {
    pub protocol: Protocol,
    pub name: &'static str,
    pub source: Value,
    /// How many requests with credentials its peer gets.
    pub requests: usize,
    pub status: &'static str,
    /// Whether a mask must show where its peer repeated a credential.
    pub masked: bool,
}

fn entry(name: &'static str, requests: usize, status: &'static str, steps: Value) -> Entry {
    Entry { protocol: Protocol::Http, name, source: manual(steps), requests, status, masked: false }
}

fn succeeds(name: &'static str, requests: usize, steps: Value) -> Entry {
    entry(name, requests, "SUCCEEDED", steps)
}

/// A request whose credential the connection itself places.
fn placed(name: &str, connection: &str, form: &str) -> Value {
    json!({ "name": name, "type": "http.request", "settings": {
        "method": "POST", "url": format!("{{{{connections.api.url}}}}/any/{form}"),
        "connection": format!("{{{{connections.{connection}}}}}"), "body": { "note": "placed" } } })
}

fn code(name: &str, source: &str, input: Value) -> Value {
    json!({ "name": name, "type": "code", "settings": { "sourceCode": { "code": source }, "input": input } })
}

fn with(mut step: Value, key: &str, value: Value) -> Value {
    step[key] = value;
    step
}

fn with_cookie(mut step: Value) -> Value {
    step["settings"]["headers"] = json!({ "Cookie": "session=of-the-first-origin" });
    step
}

/// What `send` brought back.
const SAID: &str = "{{steps.send.output.body}}";

/// All of them; `elsewhere` is an origin that no connection names.
pub fn entries(elsewhere: &str) -> Vec<Entry> {
    let mut all = placements();
    all.extend(peers());
    all.extend(control());
    all.extend(pieces());
    all.extend(scripts());
    all.extend(refused(elsewhere));
    all
}

/// Each way a connection places its secret.
fn placements() -> Vec<Entry> {
    [
        ("basic, in a text", "basic", "Text"),
        ("basic, in the headers", "basic", "Headers"),
        ("basic, in JSON", "basic", "Json"),
    ]
    .into_iter()
    .chain([("a header, in base64", "keyed", "Base64"), ("a header, in chunks", "keyed", "Chunks")])
    .chain([("bearer, in hexadecimal", "api", "Hex"), ("body, in UTF-16", "odd", "Utf16Le")])
    .map(|(name, connection, form)| succeeds(name, 1, json!([placed("send", connection, form)])))
    .collect()
}

/// Peers that do not simply answer.
fn peers() -> Vec<Entry> {
    let read = code("read", LOGGED, json!({ "error": "{{steps.send.error.message}}" }));
    let quick = with(placed("send", "keyed", "Hang"), "timeout", json!(1_000));
    vec![
        succeeds("a redirect that repeats it", 2, json!([placed("send", "api", "Redirect")])),
        entry(
            "a redirect that carries it to another origin",
            1,
            "FAILED",
            json!([placed("send", "api", "RedirectAway")]),
        ),
        succeeds("a redirect to another origin", 1, json!([placed("send", "api", "RedirectElsewhere")])),
        // It would carry what the author wrote for the first one.
        succeeds(
            "a redirect to another origin, with a header of the author's",
            1,
            json!([with_cookie(placed("send", "api", "RedirectElsewhere"))]),
        ),
        entry(
            "a redirect to another origin, with a credential in the body",
            1,
            "FAILED",
            json!([send("send", "RedirectElsewhere", json!(1))]),
        ),
        entry("an answer that breaks off", 1, "FAILED", json!([placed("send", "api", "Cut")])),
        entry("an answer that never ends", 1, "FAILED", json!([quick])),
        succeeds(
            "an error page, read by the flow",
            1,
            json!([with(send("send", "ServerError", json!(1)), "onError", json!("continue")), read]),
        ),
        entry(
            "an error page, three times",
            3,
            "FAILED",
            json!([with(
                placed("send", "keyed", "ServerError"),
                "retry",
                json!({ "maxAttempts": 3, "backoff": { "initialMs": 10 } })
            )]),
        ),
        succeeds(
            "an error page, in the words of a handler",
            2,
            json!([with(
                send("send", "NotFound", json!(1)),
                "onError",
                json!({ "steps": [send("tell", "Text", json!("{{steps.send.error.message}}"))] })
            )]),
        ),
    ]
}

/// Scripts that send a credential themselves, and look at what comes back.
fn scripts() -> Vec<Entry> {
    let fetching = |name: &'static str, status: &'static str, form: &str, source: &str| {
        let input =
            json!({ "url": format!("{{{{connections.api.url}}}}/any/{form}"), "token": "{{connections.api.token}}" });
        let mut flow = entry(name, 1, status, json!([code("send", source, input)]));
        flow.source["allowedHosts"] = json!(["*"]);
        flow
    };
    let good = |name, form| fetching(name, "SUCCEEDED", form, FETCH);
    vec![
        good("a script that fetches, a text", "Text"),
        good("a script that fetches, the headers", "Headers"),
        good("a script that fetches, JSON", "Json"),
        good("a script that fetches, base64", "Base64By1"),
        good("a script that fetches, hexadecimal", "Hex"),
        good("a script that fetches, chunks", "Chunks"),
        good("a script that fetches, an error page", "NotFound"),
        good("a script that fetches, a redirect to another origin", "RedirectElsewhere"),
        fetching(
            "a script that throws what it fetched",
            "FAILED",
            "Text",
            &FETCH.replace("return seen", "throw new Error(JSON.stringify(seen))"),
        ),
        fetching(
            "a script that hashes what it fetched",
            "SUCCEEDED",
            "Text",
            &FETCH.replace(
                "return seen",
                "return { ...seen, hash: require('crypto').createHash('sha256').update(seen.text).digest('hex') }",
            ),
        ),
    ]
}

/// Asks with a placeholder, logs and returns all that comes back.
const FETCH: &str = "export const code = async (params) => {
  const response = await fetch(params.url, { method: 'POST', headers: { authorization: 'Bearer ' + params.token }, body: '{}' });
  const text = await response.text(), seen = { text, headers: [...response.headers], reversed: [...text].join('') };
  console.log(seen, text);
  return seen;
};";

/// Control words.
fn control() -> Vec<Entry> {
    let first = || send("send", "Text", json!(1));
    let inner = |name: &str| send(name, "Json", json!(SAID));
    vec![
        succeeds(
            "a loop over what came back",
            3,
            json!([first(), { "name": "each", "type": "loop", "settings": { "items": [SAID, SAID], "steps": [inner("inner")] } }]),
        ),
        succeeds(
            "a loop side by side",
            4,
            json!([first(), { "name": "each", "type": "loop", "settings": { "items": [1, 2, 3], "steps": [inner("inner")], "concurrency": 3 } }]),
        ),
        succeeds(
            "branches side by side",
            3,
            json!([first(), { "name": "both", "type": "parallel", "settings": { "branches": [
                { "name": "a", "steps": [inner("one")] }, { "name": "b", "steps": [inner("two")] }] } }]),
        ),
        succeeds(
            "a branch by what came back",
            2,
            json!([first(), { "name": "choose", "type": "branch", "settings": {
                "condition": [[{ "firstValue": SAID, "operator": "TEXT_EXACTLY_MATCHES", "secondValue": "no" }]], "ifTrue": [], "ifFalse": [inner("inner")] } }]),
        ),
        succeeds(
            "a router by what came back",
            2,
            json!([first(), { "name": "route", "type": "router", "settings": { "mode": "firstMatch",
                "branches": [{ "name": "a", "condition": [[{ "firstValue": SAID, "operator": "TEXT_DOES_NOT_CONTAIN", "secondValue": "no" }]], "steps": [inner("inner")] }], "fallback": [] } }]),
        ),
        succeeds(
            "a reply with what came back",
            1,
            json!([first(), { "name": "reply", "type": "respond", "settings": { "status": 200, "body": { "said": SAID } } }]),
        ),
        entry(
            "a failure with what came back",
            1,
            "FAILED",
            json!([first(), { "name": "fail", "type": "fail", "settings": { "message": format!("they said {SAID}") } }]),
        ),
    ]
}

/// Scripts and pure pieces.
fn pieces() -> Vec<Entry> {
    let first = |form: &str| send("send", form, json!(1));
    let thrown =
        "export const code = async (params) => { throw new Error('they said ' + params.said + params.token); };";
    let turned = "export const code = async (params) => { console.error(params.said); return [...params.said].reverse().join('').length; };";
    let said = json!({ "said": SAID, "token": "{{connections.api.token}}", "all": "{{connections.odd}}" });
    vec![
        succeeds(
            "an action that turns it round",
            1,
            json!([{ "name": "turn", "type": "canary.backwards", "settings": {
                "url": "{{connections.api.url}}/any/Text", "token": "{{connections.api.token}}" } }]),
        ),
        succeeds("a script that returns it", 1, json!([first("Text"), code("script", LOGGED, said.clone())])),
        entry("a script that throws it", 1, "FAILED", json!([first("Text"), code("script", thrown, said.clone())])),
        succeeds("a script that logs it", 1, json!([first("Percent"), code("script", turned, said)])),
        succeeds(
            "a text put together",
            1,
            json!([first("Text"), { "name": "join", "type": "text.concat", "settings": { "texts": [SAID, "{{connections.api.token}}", SAID], "separator": "-" } }]),
        ),
        succeeds(
            "a text taken apart",
            1,
            json!([first("Text"), { "name": "split", "type": "text.split", "settings": { "text": SAID, "separator": "|" } }]),
        ),
        succeeds(
            "JSON written and read",
            1,
            json!([first("Json"),
                { "name": "write", "type": "json.stringify", "settings": { "value": "{{steps.send.output}}" } },
                { "name": "read", "type": "json.parse", "settings": { "text": "{{steps.write.output}}" } }]),
        ),
        succeeds(
            "text around it in one template",
            1,
            json!([
                first("Base64Url"),
                code("script", LOGGED, json!({ "all": format!("<{SAID}>{{{{connections.api.token}}}}") }))
            ]),
        ),
        succeeds(
            "a value encrypted, and what came back decrypted",
            1,
            json!([first("Text"),
                { "name": "lock", "type": "crypto.encrypt", "settings": { "key": "{{connections.field}}", "value": { "said": SAID } } },
                { "name": "open", "type": "crypto.decrypt", "settings": { "key": "{{connections.field}}", "value": "{{steps.lock.output}}" } },
                { "name": "sign", "type": "crypto.hmac", "settings": { "key": "{{connections.field}}", "text": SAID } }]),
        ),
        entry(
            "a key as a value",
            0,
            "FAILED",
            json!([{ "name": "lock", "type": "crypto.encrypt", "settings": { "key": "{{connections.field}}", "value": "{{connections.field}}" } }]),
        ),
        succeeds(
            "more than the journal takes",
            1,
            json!([first("Large"), code("script", LOGGED, json!({ "length": 1 }))]),
        ),
    ]
}

/// Places that no connection allows.
fn refused(elsewhere: &str) -> Vec<Entry> {
    let to = |url: String, headers: Value, body: Value| json!([{ "name": "send", "type": "http.request", "settings": { "method": "POST", "url": url, "headers": headers, "body": body } }]);
    let (token, key) = ("{{connections.api.token}}", "{{connections.keyed.token}}");
    let here = "{{connections.api.url}}/any/Text";
    vec![
        entry("in the path", 0, "FAILED", to(format!("{{{{connections.api.url}}}}/any/{token}"), json!({}), json!({}))),
        entry("in the query", 0, "FAILED", to(format!("{here}?key={token}"), json!({}), json!({}))),
        entry("in a header of another name", 0, "FAILED", to(here.to_owned(), json!({ "X-Other": key }), json!({}))),
        entry("in the body", 0, "FAILED", to(here.to_owned(), json!({}), json!({ "auth": { "key": token } }))),
        entry(
            "to another origin",
            0,
            "FAILED",
            to(format!("{elsewhere}/any/Text"), json!({ "Authorization": format!("Bearer {token}") }), json!({})),
        ),
        entry(
            "inside another value",
            0,
            "FAILED",
            to(here.to_owned(), json!({ "X-Key": format!("key {key} of mine") }), json!({})),
        ),
    ]
}

impl World {
    /// Runs every flow of the catalogue; what each run shows.
    pub async fn run_catalogue(&self) -> Vec<(Entry, Seen)> {
        let mut all = Vec::new();
        let verified = |protocol| match protocol {
            Protocol::Http => self.peer.verified(),
            other => self.peers.verified(other),
        };
        for entry in entries(&self.peer.elsewhere()).into_iter().chain(protocols::entries(&self.peers.places)) {
            let before = verified(entry.protocol);
            let flow = self.publish(&entry.source).await;
            let seen = self.finished(flow, json!({ "note": self.payloads.manual })).await;
            let name = format!("{}: {}", entry.protocol.name(), entry.name);
            assert_eq!(seen.run["status"], entry.status, "{name}: {}", seen.run);
            assert_eq!(verified(entry.protocol) - before, entry.requests, "{name}: {}", seen.run);
            all.push((entry, seen));
        }
        assert_eq!(self.peer.strays(), [""; 0], "a credential went to an origin that has no right to it");
        all
    }
}
