//! What a step does outside itself goes through its host.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use ap_core::capability::{HttpError, HttpRequest, HttpResponse};
use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::json;

use super::{Bench, SandboxHarness, thrown};
use crate::sandbox::{CodeError, CodeHost, StoreAct, StoreCall, StoreCallError};

/// A host that knows two placeholders, and answers by the path it is asked for.
#[derive(Debug, Default)]
pub(super) struct Peer {
    seen: Mutex<Vec<HttpRequest>>,
    threads: Mutex<Vec<ThreadId>>,
    values: Mutex<BTreeMap<String, String>>,
    store_calls: AtomicU64,
    under_way: AtomicUsize,
}

/// Counts an exchange until it ends or is dropped.
struct UnderWay<'a>(&'a AtomicUsize);

impl Peer {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What was asked for, in order.
    pub(super) fn requests(&self) -> Vec<HttpRequest> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }

    fn threads(&self) -> Vec<ThreadId> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl CodeHost for Peer {
    async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let path = request.url.split('/').nth(3).unwrap_or_default().to_owned();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread::current().id());
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let _counted = UnderWay(&self.under_way);
        if path.starts_with("never") {
            std::future::pending::<()>().await;
        }
        if path == "refused" {
            return Err(HttpError::Refused { reason: "not on the list".to_owned() });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let headers = vec![
            ("content-type".to_owned(), "text/plain".to_owned()),
            ("set-cookie".to_owned(), "a=1".to_owned()),
            ("set-cookie".to_owned(), "b=2".to_owned()),
        ];
        Ok(HttpResponse {
            status: path.parse().unwrap_or(200),
            headers,
            body: format!("answer to {path} \0é").into(),
            redirected_to: None,
        })
    }

    fn key(&self, placeholder: &str) -> Option<Result<SecretString, HttpError>> {
        match placeholder {
            KEY => Some(Ok(SECRET.into())),
            FORBIDDEN => Some(Err(HttpError::Credential { reason: "this connection is no key".to_owned() })),
            _ => None,
        }
    }

    fn mentions(&self, bytes: &[u8]) -> bool {
        [KEY, FORBIDDEN].iter().any(|known| bytes.windows(known.len()).any(|window| window == known.as_bytes()))
    }

    fn placeholders(&self) -> Vec<String> {
        vec![KEY.to_owned(), FORBIDDEN.to_owned()]
    }

    async fn store(&self, call: StoreCall) -> Result<Option<String>, StoreCallError> {
        // The first take longest.
        let before = self.store_calls.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(8_u64.saturating_sub(2 * before))).await;
        if call.key == "full" {
            return Err(StoreCallError::Limit { reason: "there is no room: delete something".to_owned() });
        }
        let key = format!("{:?} {}", call.scope, call.key);
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        match call.act {
            StoreAct::Get => Ok(values.get(&key).cloned()),
            StoreAct::Put(json) => Ok(values.insert(key, json).and(None)),
            StoreAct::Delete => Ok(values.remove(&key).and(None)),
        }
    }

    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8> {
        let text = String::from_utf8_lossy(&bytes);
        if text.contains("canary") { text.replace("canary", "(masked)").into_bytes() } else { bytes }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A request of `fetch` reaches the host with its method, URL, headers and body, once.
pub async fn a_request_goes_to_the_host_as_it_was_made(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let peer = Peer::new();
    let mut request = bench.step(
        "await fetch('https://a.example/x?y=1', { method: 'POST', headers: { 'X-One': '1' }, body: 'text é' });
         await fetch('https://a.example/second', { redirect: 'manual' });
         await fetch('https://a.example/bytes', { method: 'PUT', body: new Uint8Array([0, 255]) });",
    );
    request.host = peer.clone();
    bench.run(request).await.expect("three answers");
    let seen = peer.requests();
    let [first, second, third] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!((first.method.as_str(), first.url.as_str()), ("POST", "https://a.example/x?y=1"));
    let header = first.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-one"));
    assert_eq!(header.map(|(_, value)| value.as_str()), Some("1"));
    assert_eq!(first.body.as_deref(), Some("text é".as_bytes()));
    assert_eq!((second.method.as_str(), second.body.as_deref(), second.max_redirects), ("GET", None, 0));
    assert_eq!(third.body.as_deref(), Some(&[0, 255][..]));
    assert!(seen.iter().all(|request| request.credential.is_none()), "a step names no credential but in its text");
}

/// Status, headers and body of an answer come back as the host gave them.
pub async fn an_answer_comes_back_as_it_was_given(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let mut request = bench.step(
        "const response = await fetch('https://a.example/404');
         return [response.status, response.ok, response.headers.get('content-type'), response.headers.getSetCookie(), await response.text()];",
    );
    request.host = Peer::new();
    let expected = json!([404, false, "text/plain", ["a=1", "b=2"], "answer to 404 \0é"]);
    assert_eq!(bench.run(request).await.map(|output| output.value), Ok(expected));
}

/// Requests may be under way together; each gets its own answer, and those that a host has no room for wait.
pub async fn requests_may_be_under_way_together(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let mut request = bench.step(
        "const all = await Promise.all(Array.from({ length: 50 }, (_, i) => fetch('https://a.example/' + (200 + i))));
         return all.every((response, i) => response.status === 200 + i);",
    );
    let peer = Peer::new();
    request.host = peer.clone();
    assert_eq!(bench.run(request).await.map(|output| output.value), Ok(json!(true)));
    assert_eq!((peer.requests().len(), peer.under_way()), (50, 0));
}

/// What the host refuses is a `TypeError` with the host's reason, which the step may catch.
pub async fn a_refusal_of_the_host_is_thrown(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let mut request = bench.step("await fetch('https://a.example/refused');");
    request.host = Peer::new();
    let (name, message) = thrown(bench.run(request).await, "a refused request");
    assert!(name == "TypeError" && message.contains("not on the list"), "{name}: {message}");
    // Without a host there is no way out.
    let (name, message) =
        thrown(bench.run_step("await fetch('https://a.example/');").await, "a request without a host");
    assert!(name == "TypeError" && message.contains("no way out"), "{name}: {message}");
    let caught = bench.value("return fetch('https://a.example/').catch(() => 'caught');").await;
    assert_eq!(caught, json!("caught"));
}

/// A request that the step aborts is dropped by the host's side.
pub async fn an_aborted_request_is_dropped(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let peer = Peer::new();
    let mut request = bench.step(
        "const stop = new AbortController();
         setTimeout(() => stop.abort(), 5);
         const name = await fetch('https://a.example/never', { signal: stop.signal }).catch((error) => error.name);
         await fetch('https://a.example/after');
         return name;",
    );
    request.host = peer.clone();
    assert_eq!(bench.run(request).await.map(|output| output.value), Ok(json!("AbortError")));
    assert_eq!(peer.under_way(), 0, "an aborted request went on");
}

/// The host's `fetch` is called by the thread that polls the step, inside its runtime.
pub async fn the_host_is_called_where_the_step_is_polled(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let peer = Peer::new();
    let mut request = bench.step("for (let i = 0; i < 3; i++) await fetch('https://a.example/' + i);");
    request.host = peer.clone();
    bench.run(request).await.expect("three answers");
    assert_eq!(peer.threads(), [thread::current().id(); 3]);
}

/// What a step does to its key-value store reaches the host in its order, whether it waits in between or not.
pub async fn calls_of_the_store_reach_the_host_in_order(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let peer = Peer::new();
    let mut request = bench.step(
        "const { store } = ctx, all = [];
         store.put('a', { n: [1] }); all.push(store.get('a')); store.put('a', 2, 'PROJECT'); store.delete('a');
         all.push(store.get('a'), store.get('a', 'FLOW'), store.get('a', 'PROJECT'), store.put('b', null));
         return Promise.all(all);",
    );
    request.host = peer.clone();
    let output = bench.run(request).await.map(|output| output.value);
    assert_eq!(output, Ok(json!([{ "n": [1] }, null, null, 2, null])));
    let kept = peer.values.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let expected = [("Flow b", "null"), ("Project a", "2")].map(|(key, json)| (key.to_owned(), json.to_owned()));
    assert_eq!(kept, BTreeMap::from(expected));
}

/// What the host's store refuses is an error with a code, which the step may catch; without a host there is no store.
pub async fn a_refusal_of_the_store_is_thrown(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let mut request = bench.step(
        "const said = async (call) => call.then(() => 'done', (error) => [error instanceof Error, error.code, error.message]);
         return [await said(ctx.store.put('full', 1)), (await said(ctx.store.put(params, 1)))[1], (await said(ctx.store.put('k', [params])))[1]];",
    );
    (request.host, request.params) = (Peer::new(), json!(KEY).to_string().into());
    let full = json!([true, "ERR_STORE_LIMIT", "there is no room: delete something"]);
    let output = bench.run(request).await.map(|output| output.value);
    assert_eq!(output, Ok(json!([full, "ERR_STORE_SECRET", "ERR_STORE_SECRET"])));
    let (_, message) = thrown(bench.run_step("await ctx.store.get('a');").await, "a store that is not there");
    assert!(message.contains("no store"), "{message}");
}

/// A placeholder is text to a step: it may show it, cut it and send it, and learns nothing of what it stands for.
pub async fn a_placeholder_is_text(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    let peer = Peer::new();
    let mut request = bench.step(
        "await fetch('https://a.example/', { headers: { authorization: 'Bearer ' + params } });
         return [params, params.length, params.slice(0, 9), [...params].reverse().length, Buffer.from(params).length];",
    );
    (request.host, request.params) = (peer.clone(), json!(KEY).to_string().into());
    let output = bench.run(request).await.map(|output| output.value);
    assert_eq!(output, Ok(json!([KEY, 50, "apcred_dp", 50, 50])));
    let sent = peer.requests();
    assert_eq!(
        sent[0].headers.iter().find(|(name, _)| name == "authorization").map(|(_, value)| value.clone()),
        Some(format!("Bearer {KEY}"))
    );
}

/// Where there is `crypto`, a placeholder is a key whose use gives what the secret gives, and it is refused as anything else.
pub async fn a_placeholder_is_a_key_and_nothing_else(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    if !harness.has_crypto() {
        let (..) = thrown(bench.run_step("require('crypto');").await, "a module that is not there");
        return;
    }
    let run = async |body: &str| {
        let mut request =
            bench.step(&format!("const c = require('crypto'), [key, forbidden, secret] = params; {body}"));
        (request.host, request.params) = (Peer::new(), json!([KEY, FORBIDDEN, SECRET]).to_string().into());
        let result = bench.run(request).await;
        assert!(!format!("{result:?}").contains(SECRET), "{body} told the secret");
        result
    };
    let same = run(
        "const of = (key) => c.createHmac('sha256', key).update('x').digest('hex'); return of(key) === of(secret);",
    )
    .await;
    assert_eq!(same.map(|output| output.value), Ok(json!(true)));
    for body in [
        "return c.createHash('sha256').update(key).digest('hex');",
        "return c.createHash('sha256').update('a' + key + 'b').digest('hex');",
        "return c.createHmac('sha256', 'mine').update(key).digest('hex');",
        "return c.pbkdf2Sync('mine', key, 1, 32, 'sha256').toString('hex');",
        "return c.timingSafeEqual(Buffer.from(key), Buffer.from(key));",
        "return c.createHmac('sha256', key + 'x').update('x').digest('hex');",
        "const e = c.createCipheriv('aes-256-gcm', Buffer.alloc(32), Buffer.alloc(12)); return e.update(key, 'utf8', 'hex') + e.final('hex');",
    ] {
        thrown(run(body).await, body);
    }
    let (_, message) =
        thrown(run("return c.createHmac('sha256', forbidden).update('x').digest('hex');").await, "a key that is none");
    assert!(message.contains("this connection is no key"), "{message}");
    for body in [
        "return [key, Buffer.from(key, 'latin1').toString('latin1'), [...Buffer.from(key, 'utf8')].join()];",
        "return c.pbkdf2Sync(key, 'salt', 1, 32, 'sha256').toString('latin1');",
        "return require('util').inspect([c.createHmac('sha256', key)], { showHidden: true });",
        "try { c.createHash('x').update(key).digest(); } catch (error) { return error.stack + Object.keys(error); }",
    ] {
        run(body).await.expect("text that tells nothing");
    }
}

/// What is decrypted with a key is masked by the host before the step sees it.
pub async fn what_a_key_decrypts_is_masked(harness: &impl SandboxHarness) {
    let bench = Bench::open(harness).await;
    if !harness.has_crypto() {
        return a_placeholder_is_a_key_and_nothing_else(harness).await; // it must say so
    }
    let mut request = bench.step(
        "const c = require('crypto'), key = c.scryptSync(params, 'salt-of-16-bytes', 32, { N: 1024 }), iv = Buffer.alloc(12);
         const e = c.createCipheriv('aes-256-gcm', key, iv), data = Buffer.concat([e.update('a canary sings'), e.final()]);
         const d = c.createDecipheriv('aes-256-gcm', key, iv); d.setAuthTag(e.getAuthTag());
         return d.update(data, null, 'utf8') + d.final('utf8');",
    );
    (request.host, request.params) = (Peer::new(), json!(KEY).to_string().into());
    assert_eq!(bench.run(request).await.map(|output| output.value), Ok(json!("a (masked) sings")));
    // What no secret has touched is the step's own.
    let mut request = bench.step(
        "const c = require('crypto'), key = Buffer.alloc(32), iv = Buffer.alloc(12);
         const e = c.createCipheriv('aes-256-gcm', key, iv), data = Buffer.concat([e.update('a canary sings'), e.final()]);
         const d = c.createDecipheriv('aes-256-gcm', key, iv); d.setAuthTag(e.getAuthTag());
         return (d.update(data, null, 'utf8') + d.final('utf8')).length > 0;",
    );
    request.host = Peer::new();
    assert_eq!(bench.run(request).await.map(|output| output.value), Ok(json!(true)));
    let refused: Result<_, CodeError> =
        bench.run_step("require('crypto').createDecipheriv('aes-256-gcm', Buffer.alloc(31), Buffer.alloc(12));").await;
    thrown(refused, "a key of a wrong length");
}

/// A placeholder, and what it stands for.
const KEY: &str = "apcred_dpLDrTVAu4A8Ags67mbNiIcSMjTqDG5xQ8Ct1z_0Me0";
const SECRET: &str = "correct horse battery staple 0042";
/// One whose connection is not for keys.
const FORBIDDEN: &str = "apcred_P8TM_nRYcOLA2Z9x8w_wZWyN7dQcwdfT03aw2-aF4vM";
