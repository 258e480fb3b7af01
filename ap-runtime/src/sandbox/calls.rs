//! What a step may ask of its host: decoding the guest's calls, and carrying them out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use ap_core::capability::{HttpError, HttpRequest, HttpResponse};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::state::Interrupt;
use super::{CodeHost, StoreAct, StoreCall, StoreCallError, StoreScope, crypto::CryptoState, locator};

/// Who answers the calls of a step: its host, or in a worker process the one that started it.
pub(crate) trait Border: Send {
    /// Carries out a call whose answer the guest waits for.
    fn call(&mut self, operation: u32, arguments: &[&[u8]]) -> Result<HostAnswer, Interrupt>;

    /// Notes a call that ends later.
    fn start(&mut self, id: u32, operation: u32, arguments: &[&[u8]]) -> Result<(), Interrupt>;

    /// What was begun since the last time, and what is not waited for any more.
    fn take(&mut self) -> (Vec<Started>, Vec<u32>);

    /// Notes that a call has ended.
    fn ended(&mut self, id: u32);
}

/// What a call gives: the reply, or the text of an exception as the prelude reads it.
pub(crate) type HostAnswer = Result<Vec<u8>, Vec<u8>>;

/// The calls of one step.
pub(crate) struct HostCalls {
    crypto: CryptoState,
    limit: usize,
    made: usize,
    /// What is waited for, and how many bytes each call holds.
    under_way: HashMap<u32, usize>,
    started: Vec<Started>,
    cancelled: Vec<u32>,
}

/// A call that the step waits for.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) id: u32,
    pub(crate) call: Waited,
}

/// What is waited for.
#[derive(Debug)]
pub(crate) enum Waited {
    Timer(Duration),
    Fetch(HttpRequest),
    Store(StoreCall),
    /// A call that could not be read.
    Refused(HostError),
}

/// What an exception in the step says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct HostError {
    /// The class, or `code:` and a Node.js error code.
    pub(crate) name: &'static str,
    pub(crate) message: String,
}

impl HostError {
    /// What parsers quote of the step's own input is cut.
    pub(crate) fn new(name: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MOST_ERROR_BYTES {
            message.truncate(message.floor_char_boundary(MOST_ERROR_BYTES));
            message.push('…');
            message.shrink_to_fit();
        }
        Self { name, message }
    }

    /// As the prelude reads it.
    pub(crate) fn into_text(self) -> Vec<u8> {
        let Self { name, message } = self;
        format!("{name}\n{message}").into_bytes()
    }
}

impl HostCalls {
    pub(crate) fn new(host: Arc<dyn CodeHost>, limit: usize, seed: &[u8; 32]) -> Self {
        Self {
            crypto: CryptoState::new(host, seed),
            limit,
            made: 0,
            under_way: HashMap::new(),
            started: Vec::new(),
            cancelled: Vec::new(),
        }
    }

    /// Counts a call whose arguments did not get here, since they are too long.
    #[cfg(feature = "process-isolation")]
    pub(crate) fn refuse(&mut self) -> Result<HostAnswer, Interrupt> {
        self.count().map(|()| Err(too_long().into_text()))
    }

    /// As [`refuse`](Self::refuse), for a call that would end later.
    #[cfg(feature = "process-isolation")]
    pub(crate) fn refuse_start(&mut self, id: u32) -> Result<(), Interrupt> {
        self.count()?;
        self.note(id, 0, || Err(too_long()))
    }

    /// Notes that the step waits for a call from now on, whose arguments have so many bytes.
    fn note(
        &mut self,
        id: u32,
        bytes: usize,
        call: impl FnOnce() -> Result<Waited, HostError>,
    ) -> Result<(), Interrupt> {
        let held = self.under_way.values().sum::<usize>();
        let (call, bytes) = if held.saturating_add(bytes) > MOST_HELD_BYTES {
            (Waited::Refused(too_much_held()), 0)
        } else {
            (call().unwrap_or_else(Waited::Refused), bytes)
        };
        // The prelude gives every call a number of its own; a guest that does not gets no answer to the second.
        let Entry::Vacant(place) = self.under_way.entry(id) else { return Ok(()) };
        place.insert(bytes.max(LEAST_HELD_BYTES));
        if self.under_way.len() > MAX_UNDER_WAY {
            return Err(Interrupt::HostCalls { what: "host calls under way", limit: MAX_UNDER_WAY });
        }
        self.started.push(Started { id, call });
        Ok(())
    }

    /// Notes that the step does not wait for a call any more. What was not begun holds nothing from now on.
    fn cancel(&mut self, id: u32) {
        if self.under_way.remove(&id).is_none() {
            return;
        }
        let before = self.started.len();
        self.started.retain(|started| started.id != id);
        if self.started.len() == before {
            self.cancelled.push(id);
        }
    }

    /// A call of the key-value store. What stands for a secret does not get there: it would be worthless to whoever reads it, and
    /// the store no place to find out about it.
    fn store(&self, operation: u32, arguments: &[&[u8]]) -> Result<Waited, HostError> {
        if arguments.iter().any(|argument| self.crypto.mentions(argument)) {
            let message = "what stands for a connection's secret is not stored: it means nothing in another run. Use the \
                           connection where it is needed";
            return Err(HostError::new("code:ERR_STORE_SECRET", message));
        }
        let (act, key, scope) = match (operation, arguments) {
            (STORE_GET, [key, scope]) => (StoreAct::Get, key, scope),
            (STORE_PUT, [key, json, scope]) => (StoreAct::Put(whole_text(json)?), key, scope),
            (STORE_DELETE, [key, scope]) => (StoreAct::Delete, key, scope),
            _ => return Err(unknown()),
        };
        let scope = match *scope {
            b"FLOW" => StoreScope::Flow,
            b"PROJECT" => StoreScope::Project,
            _ => {
                let message = "the scope of a stored value is 'FLOW' or 'PROJECT'";
                return Err(HostError::new("code:ERR_INVALID_ARG_VALUE", message));
            }
        };
        Ok(Waited::Store(StoreCall { scope, key: whole_text(key)?, act }))
    }

    fn count(&mut self) -> Result<(), Interrupt> {
        self.made += 1;
        if self.made > self.limit {
            return Err(Interrupt::HostCalls { what: "host calls", limit: self.limit });
        }
        Ok(())
    }
}

impl Border for HostCalls {
    fn call(&mut self, operation: u32, arguments: &[&[u8]]) -> Result<HostAnswer, Interrupt> {
        self.count()?;
        if is_too_long(arguments) {
            return Ok(Err(too_long().into_text()));
        }
        let first = arguments.first().copied().unwrap_or_default();
        let second = arguments.get(1).copied().unwrap_or_default();
        let third = arguments.get(2).copied().unwrap_or_default();
        let answer = match operation {
            CANCEL => {
                if let Some(id) = text(first).and_then(|text| text.parse().ok()) {
                    self.cancel(id);
                }
                Ok(Vec::new())
            }
            URL => locator::parse(first, second),
            URL_SET => locator::set(first, second, third),
            _ if CryptoState::has(operation) => self.crypto.call(operation, arguments),
            _ => Err(unknown()),
        };
        Ok(answer.map_err(HostError::into_text))
    }

    fn start(&mut self, id: u32, operation: u32, arguments: &[&[u8]]) -> Result<(), Interrupt> {
        self.count()?;
        if is_too_long(arguments) {
            return self.note(id, 0, || Err(too_long()));
        }
        let first = arguments.first().copied().unwrap_or_default();
        let bytes = bytes_of(arguments);
        match operation {
            TIMER => self.note(id, 0, || timer(first)),
            FETCH => self.note(id, bytes, || fetch(first, arguments.get(1).copied())),
            STORE_GET..=STORE_DELETE => {
                let call = self.store(operation, arguments);
                self.note(id, bytes, || call)
            }
            _ => self.note(id, 0, || Err(unknown())),
        }
    }

    fn take(&mut self) -> (Vec<Started>, Vec<u32>) {
        (std::mem::take(&mut self.started), std::mem::take(&mut self.cancelled))
    }

    fn ended(&mut self, id: u32) {
        self.under_way.remove(&id);
    }
}

impl Waited {
    /// Carries the call out. `time_left` is that of the step.
    pub(crate) async fn perform(self, host: &dyn CodeHost, turns: &Turns, time_left: Duration) -> HostAnswer {
        let answer = match self {
            Self::Timer(delay) => {
                tokio::time::sleep(delay).await;
                Ok(Vec::new())
            }
            Self::Fetch(mut request) => {
                let _turn = turns.exchanges.acquire().await; // nobody closes it
                request.timeout = time_left;
                let url = request.url.clone();
                let answered = host.fetch(request).await;
                answered.map_err(|error| not_fetched(&error)).and_then(|response| encode_response(url, response))
            }
            Self::Store(call) => {
                // First come, first served: what a step does to its store happens in its order.
                let _turn = turns.store.acquire().await; // nobody closes it
                host.store(call).await.map(|json| json.unwrap_or_default().into_bytes()).map_err(not_stored)
            }
            Self::Refused(error) => Err(error),
        };
        answer.map_err(HostError::into_text)
    }
}

/// Who of a step's calls may go on.
pub(crate) struct Turns {
    exchanges: Semaphore,
    store: Semaphore,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self { exchanges: Semaphore::new(MAX_EXCHANGES), store: Semaphore::new(1) }
    }
}

/// What `fetch` asks for, without the body.
#[derive(Deserialize)]
struct FetchHead {
    url: String,
    method: String,
    headers: Vec<(String, String)>,
    #[serde(default)]
    redirect: Redirect,
}

#[derive(Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Redirect {
    #[default]
    Follow,
    Manual,
    Error,
}

/// What `fetch` answers with, without the body.
#[derive(Serialize)]
struct ResponseHead {
    url: String,
    redirected: bool,
    status: u16,
    headers: Vec<(String, String)>,
}

fn timer(delay: &[u8]) -> Result<Waited, HostError> {
    let delay = text(delay).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    let delay = if delay.is_finite() { delay.clamp(1.0, MAX_DELAY_MS) } else { 1.0 };
    Ok(Waited::Timer(Duration::from_secs_f64(delay / 1_000.0)))
}

fn fetch(head: &[u8], body: Option<&[u8]>) -> Result<Waited, HostError> {
    let head: FetchHead = serde_json::from_slice(head)
        .map_err(|error| HostError::new("TypeError", format!("the request cannot be read: {error}")))?;
    if head.headers.len() > MOST_HEADERS {
        return Err(HostError::new("TypeError", format!("a request has at most {MOST_HEADERS} headers")));
    }
    let mut request = HttpRequest::new(head.method, head.url);
    request.headers = head.headers;
    request.body = body.map(Bytes::copy_from_slice);
    if head.redirect != Redirect::Follow {
        request.max_redirects = 0;
    }
    Ok(Waited::Fetch(request))
}

fn not_fetched(error: &HttpError) -> HostError {
    HostError::new("TypeError", format!("fetch failed: {error}"))
}

fn not_stored(error: StoreCallError) -> HostError {
    let name = match error {
        StoreCallError::Invalid { .. } => "code:ERR_INVALID_ARG_VALUE",
        StoreCallError::Limit { .. } => "code:ERR_STORE_LIMIT",
        StoreCallError::Secret { .. } => "code:ERR_STORE_SECRET",
        StoreCallError::Unavailable { .. } => "code:ERR_STORE_UNAVAILABLE",
    };
    HostError::new(name, error.to_string())
}

fn whole_text(bytes: &[u8]) -> Result<String, HostError> {
    let text = text(bytes).ok_or_else(|| HostError::new("TypeError", "keys and values of the store are text"))?;
    Ok(text.to_owned())
}

/// The length of the head, the head, the body. `url` is that of the request.
fn encode_response(mut url: String, response: HttpResponse) -> Result<Vec<u8>, HostError> {
    let redirected = response.redirected_to.is_some();
    if let Some(last) = response.redirected_to {
        url = last;
    }
    // Fetch, "response.url": without the fragment.
    url.truncate(url.find('#').unwrap_or(url.len()));
    let headers = response.headers.into_iter().map(|(name, value)| (name, latin1(&value))).collect();
    let head = ResponseHead { url, redirected, status: response.status, headers };
    let head = serde_json::to_vec(&head).map_err(|error| HostError::new("TypeError", error.to_string()))?;
    let length = u32::try_from(head.len()).map_err(|error| HostError::new("TypeError", error.to_string()))?;
    Ok([&length.to_le_bytes()[..], &head, &response.body].concat())
}

/// A header value as the Web has it: in Latin-1 (Fetch, "header value"). Marks of masked secrets keep their form.
fn latin1(value: &str) -> String {
    let of = |char| match char {
        '‹' => '<',
        '›' => '>',
        '\0'..='\u{ff}' => char,
        _ => '?',
    };
    value.chars().map(of).collect()
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn bytes_of(arguments: &[&[u8]]) -> usize {
    arguments.iter().map(|argument| argument.len()).sum()
}

fn is_too_long(arguments: &[&[u8]]) -> bool {
    bytes_of(arguments) > MOST_CALL_BYTES
}

fn too_long() -> HostError {
    HostError::new("RangeError", format!("a host call takes at most {MOST_CALL_BYTES} bytes at once"))
}

fn too_much_held() -> HostError {
    let message = format!("requests that a step waits for hold at most {MOST_HELD_BYTES} bytes together");
    HostError::new("RangeError", message)
}

fn unknown() -> HostError {
    HostError::new("TypeError", "this sandbox does not have that operation")
}

/// Most that one call takes, all arguments together. Unit: bytes; 32 MiB.
pub(crate) const MOST_CALL_BYTES: usize = 32 << 20;

/// Most that the requests hold which a step waits for. Unit: bytes; 64 MiB, as much as the step itself.
const MOST_HELD_BYTES: usize = 64 << 20;

/// What a call counts for at the least, whose error may stand for it. Unit: bytes; 2 KiB.
const LEAST_HELD_BYTES: usize = MOST_ERROR_BYTES;

/// Most header fields of a request.
const MOST_HEADERS: usize = 256;

/// Most calls of a step that are under way at a time.
pub(crate) const MAX_UNDER_WAY: usize = 256;

/// Most requests of a step that are under way at a time, so that few answers are held; more wait for their turn.
const MAX_EXCHANGES: usize = 8;

/// The longest message of an exception. Unit: bytes.
pub(crate) const MOST_ERROR_BYTES: usize = 2 << 10;

/// The longest delay of a timer, as in browsers and Node.js: 2^31 - 1 ms.
const MAX_DELAY_MS: f64 = 2_147_483_647.0;

// The numbers are shared with the prelude.
const CANCEL: u32 = 1;
const URL: u32 = 9;
const URL_SET: u32 = 10;
const TIMER: u32 = 32;
const FETCH: u32 = 33;
const STORE_GET: u32 = 40;
const STORE_PUT: u32 = 41;
const STORE_DELETE: u32 = 42;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sandbox::NoCodeHost;

    fn calls(limit: usize) -> HostCalls {
        HostCalls::new(Arc::new(NoCodeHost), limit, &[7; 32])
    }

    #[test]
    fn calls_are_counted_and_those_under_way_as_well() {
        let mut few = calls(2);
        assert!(few.call(URL, &[b"https://a.example/"]).unwrap().is_ok());
        few.start(1, TIMER, &[b"5"]).unwrap();
        let error = few.call(URL, &[b"https://a.example/"]).unwrap_err();
        assert!(matches!(error, Interrupt::HostCalls { what: "host calls", limit: 2 }));
        let mut many = calls(10_000);
        for id in 0..256 {
            many.start(id, TIMER, &[b"5"]).unwrap();
        }
        assert!(matches!(many.start(256, TIMER, &[b"5"]), Err(Interrupt::HostCalls { limit: 256, .. })));
        let mut one_ends = calls(10_000);
        for id in 0..1_000 {
            one_ends.start(id, TIMER, &[b"5"]).unwrap();
            one_ends.ended(id);
        }
    }

    #[test]
    fn what_is_given_up_before_it_begins_is_held_no_longer() {
        let (mut calls, body) = (calls(10_000), vec![b'x'; 10 << 20]);
        let head = br#"{"url":"https://a.example/","method":"POST","headers":[]}"#;
        for id in 0..100 {
            calls.start(id, FETCH, &[head, &body]).unwrap();
            assert!(calls.call(CANCEL, &[id.to_string().as_bytes()]).unwrap().is_ok());
            assert!(calls.started.is_empty() && calls.cancelled.is_empty() && calls.under_way.is_empty());
        }
        for id in 0..20 {
            calls.start(id, FETCH, &[head, &body]).unwrap();
        }
        // The same number again, with other content.
        calls.start(3, FETCH, &[head, &body]).unwrap();
        let (started, _) = calls.take();
        let held = started.iter().filter(|started| matches!(started.call, Waited::Fetch(_))).count();
        assert_eq!((started.len(), held), (20, 6), "64 MiB hold six of these");
        // What has begun is given up by whoever carries it out.
        calls.call(CANCEL, &[b"3"]).unwrap().unwrap();
        calls.call(CANCEL, &[b"3"]).unwrap().unwrap();
        assert_eq!(calls.take().1, [3]);
    }

    #[test]
    fn whatever_a_request_is_made_of_counts() {
        let mut calls = calls(10_000);
        let long = "m".repeat(20 << 20);
        for (id, head) in [
            (0, format!(r#"{{"url":"https://a.example/","method":"{long}","headers":[]}}"#)),
            (1, format!(r#"{{"url":"https://a.example/","method":"GET","headers":[],"redirect":"{long}"}}"#)),
            (2, format!(r#"{{"url":"https://a.example/","method":"GET","headers":[["{long}",""]]}}"#)),
            (3, r#"{"url":"https://a.example/","method":"GET","headers":[]}"#.to_owned()),
        ] {
            calls.start(id, FETCH, &[head.as_bytes()]).unwrap();
        }
        let sizes: Vec<_> = (0..4).map(|id| calls.under_way[&id] >> 20).collect();
        assert_eq!(sizes, [20, 20, 20, 0]);
        let many = vec![r#"["a",""]"#; MOST_HEADERS + 1].join(",");
        let head = format!(r#"{{"url":"https://a.example/","method":"GET","headers":[{many}]}}"#);
        assert!(fetch(head.as_bytes(), None).is_err_and(|error| error.message.contains("256 headers")));
        let Waited::Refused(error) = &calls.take().0[1].call else { panic!("read") };
        assert!(error.message.len() <= MOST_ERROR_BYTES + 3);
    }

    #[test]
    fn delays_are_at_least_a_millisecond_and_finite() {
        let delay = |text: &str| match timer(text.as_bytes()) {
            Ok(Waited::Timer(delay)) => delay,
            other => panic!("{other:?}"),
        };
        for (text, expected) in [("0", 1), ("-5", 1), ("NaN", 1), ("inf", 1), ("", 1), ("x", 1), ("1500", 1_500)] {
            assert_eq!(delay(text), Duration::from_millis(expected), "{text}");
        }
        assert_eq!(delay("1e300"), Duration::from_millis(2_147_483_647));
    }

    #[test]
    fn header_values_are_latin_1_and_masks_stay_readable() {
        assert_eq!(latin1("a ‹redacted:crm› é €"), "a <redacted:crm> é ?");
        let headers = vec![("x".to_owned(), "‹redacted:crm›".to_owned())];
        let (head, body) = encoded(headers, None);
        assert_eq!((&head["headers"][0][1], &*body), (&serde_json::json!("<redacted:crm>"), &b"b"[..]));
    }

    #[test]
    fn a_response_says_where_it_came_from() {
        let (head, _) = encoded(Vec::new(), None);
        assert_eq!((&head["url"], &head["redirected"]), (&"https://a.example/?q".into(), &false.into()));
        let (head, _) = encoded(Vec::new(), Some("https://b.example/c#d".into()));
        assert_eq!((&head["url"], &head["redirected"]), (&"https://b.example/c".into(), &true.into()));
    }

    /// The head and the body of what `https://a.example/?q#f` answers.
    fn encoded(headers: Vec<(String, String)>, redirected_to: Option<String>) -> (serde_json::Value, Vec<u8>) {
        let response = HttpResponse { status: 200, headers, body: "b".into(), redirected_to };
        let answer = encode_response("https://a.example/?q#f".into(), response).unwrap();
        let (length, rest) = answer.split_first_chunk::<4>().unwrap();
        let (head, body) = rest.split_at(u32::from_le_bytes(*length) as usize);
        (serde_json::from_slice(head).unwrap(), body.to_vec())
    }

    #[test]
    fn requests_are_read_whole_or_refused() {
        let head = br#"{"url":"https://a.example/","method":"POST","headers":[["a","b"]],"redirect":"manual"}"#;
        let Ok(Waited::Fetch(request)) = fetch(head, Some(b"body")) else { panic!("refused") };
        assert_eq!((request.method.as_str(), request.url.as_str()), ("POST", "https://a.example/"));
        assert_eq!(request.headers, [("a".to_owned(), "b".to_owned())]);
        assert_eq!((request.body.as_deref(), request.max_redirects), (Some(&b"body"[..]), 0));
        for wrong in [&b""[..], b"{}", br#"{"url":1,"method":"GET","headers":[]}"#, b"\xff"] {
            assert!(fetch(wrong, None).is_err());
        }
    }

    #[test]
    fn calls_of_the_store_are_read_whole_or_refused() {
        let calls = calls(10);
        let Ok(Waited::Store(call)) = calls.store(STORE_PUT, &[b"k", b"[1]", b"PROJECT"]) else { panic!("refused") };
        assert_eq!((&*call.key, call.scope), ("k", StoreScope::Project));
        assert!(matches!(call.act, StoreAct::Put(json) if json == "[1]"));
        let Ok(Waited::Store(call)) = calls.store(STORE_GET, &[b"", b"FLOW"]) else { panic!("refused") };
        assert_eq!((&*call.key, call.scope), ("", StoreScope::Flow));
        let wrong: [(u32, &[&[u8]]); 6] = [
            (STORE_GET, &[]),
            (STORE_GET, &[b"k"]),
            (STORE_GET, &[b"k", b"flow"]),
            (STORE_GET, &[b"\xff", b"FLOW"]),
            (STORE_PUT, &[b"k", b"FLOW"]),
            (STORE_DELETE, &[b"k", b"1", b"FLOW"]),
        ];
        for (operation, arguments) in wrong {
            assert!(calls.store(operation, arguments).is_err(), "{operation} {arguments:?}");
        }
    }

    #[test]
    fn what_an_error_quotes_is_cut() {
        let head = format!(r#"{{"url":"","method":"","headers":[],"redirect":"{}"}}"#, "é".repeat(100_000));
        let text = fetch(head.as_bytes(), None).unwrap_err().into_text();
        assert!(text.len() < MOST_ERROR_BYTES + 20 && String::from_utf8(text).unwrap().ends_with("é…"));
        assert_eq!(HostError::new("Error", "short").into_text(), b"Error\nshort");
    }

    proptest! {
        #[test]
        fn arbitrary_calls_never_panic(
            operation in 0_u32..64,
            arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8),
        ) {
            let arguments: Vec<_> = arguments.iter().map(Vec::as_slice).collect();
            let mut calls = calls(10);
            let _ = calls.call(operation, &arguments);
            let _ = calls.start(1, operation, &arguments);
        }
    }
}
