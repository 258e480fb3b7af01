//! Entries for the fuzz targets `code_host_call` and `code_output`: what the guest says, without a guest.
//!
//! Compiled for fuzzing and for tests only, which hold the targets' seeds to the same assertions.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "assertions of a fuzz target")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use ap_core::capability::{HttpError, HttpRequest, HttpResponse};
use ap_core::time::Timestamp;
use async_trait::async_trait;
use futures_util::FutureExt as _;
use secrecy::SecretString;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use wasmtime::ResourceLimiter as _;

use super::calls::{Border as _, HostAnswer, HostCalls, MOST_ERROR_BYTES, Started, Turns, Waited};
use super::guest::{self, Outcome, Part};
use super::state::StepState;
use super::{CodeError, CodeHost, CodeLimits, StoreAct, StoreCall, StoreCallError, output};

/// Host calls from arbitrary bytes: nothing panics, errors are short, and no reply has a secret in it.
///
/// A call is an operation, a count of arguments and these: a length in two bytes, and bytes. Some first bytes of an argument
/// stand for what no fuzzer guesses: 1 for the last reply, 2 and 3 for placeholders.
pub fn host_call(data: &[u8]) {
    let host = Arc::new(Secrets::of(data));
    let mut calls = HostCalls::new(Arc::clone(&host) as Arc<dyn CodeHost>, MOST_CALLS, &[7; 32]);
    let mut input = Input(data);
    let mut last = Vec::new();
    for id in 0..MOST_CALLS {
        let Some(operation) = input.byte() else { break };
        let count = usize::from(input.byte().unwrap_or_default()) % 10;
        let arguments: Vec<Vec<u8>> = (0..count).map(|_| argument(input.part(), &last)).collect();
        let memory = laid_out(&arguments);
        // What the guest's memory holds is read as the border reads it.
        let start = u32::try_from(memory.len() - count * 8).expect("small memory");
        let read = match guest::arguments(&memory, start, u32::try_from(count).expect("few")) {
            Ok(read) => read,
            Err(_) => {
                assert!(count > 8, "arguments inside the memory are read");
                continue;
            }
        };
        assert_eq!(read, arguments);
        if operation == KDF && !is_cheap(read.first().copied().unwrap_or_default()) {
            continue;
        }
        let Ok(answer) = calls.call(u32::from(operation), &read) else { continue };
        host.check(&answer);
        if operation == KDF && read.get(1).is_some_and(|password| *password == KEY.as_bytes()) {
            let handle =
                answer.as_ref().map_or(true, |reply| reply.starts_with(b"apcred_") && reply.len() == KEY.len());
            assert!(handle, "a key that was made from a secret came back");
        }
        last = answer.unwrap_or_default();
        let id = u32::try_from(id).expect("few calls");
        if calls.start(id, u32::from(operation), &read).is_ok() {
            perform(&mut calls, &host);
        }
    }
    // The border itself, on memory that nobody laid out.
    if let Some((numbers, memory)) = data.split_first_chunk::<8>() {
        let [start, count] =
            [&numbers[..4], &numbers[4..]].map(|half| u32::from_le_bytes(half.try_into().expect("four")));
        if let Ok(read) = guest::arguments(memory, start, count) {
            assert!(read.len() == count as usize && read.iter().all(|argument| argument.len() <= memory.len()));
        }
    }
}

/// What a guest reports, from arbitrary bytes: nothing panics, every text is bounded, and a value is what JSON says.
///
/// Bytes are a list of parts: a number, a length in two bytes, and bytes. Numbers below 8 are reports, below 16 console
/// lines, then a refused allocation and a new turn; the last number is the outcome.
pub fn report(data: &[u8]) {
    let limits = CodeLimits::default().with_output_bytes(4_096).and_then(|limits| limits.with_console_bytes(256));
    let limits = limits.expect("accepted limits");
    let calls = HostCalls::new(Arc::new(Secrets::of(data)), 1, &[7; 32]);
    let mut state = StepState::new(limits, Timestamp::from_micros(0), Some(Box::new(calls)), Arc::default());
    let mut input = Input(data);
    let mut outcome = None;
    let mut reported = None;
    while let Some(number) = input.byte() {
        let bytes = input.part();
        outcome = Outcome::from_guest(u32::from(number) % 8);
        match number {
            0..8 => {
                if let Some(part) = Part::from_guest(u32::from(number)) {
                    state.take_report(part, bytes);
                    if part == Part::Value {
                        reported = Some(bytes);
                    }
                }
            }
            8..16 => {
                if let Some(level) = guest::console_level(u32::from(number) - 8) {
                    state.console.log(level, bytes);
                }
            }
            16..24 => drop(state.memory_growing(0, usize::MAX, None)),
            _ => {
                state.begin_turn(Duration::from_secs(1));
                reported = None;
            }
        }
    }
    let error = match outcome {
        Some(Outcome::Returned) => match state.value().and_then(output::parse) {
            Ok(value) => return check_value(&value, reported.expect("it was reported")),
            Err(error) => error,
        },
        Some(Outcome::InvalidSource) => state.invalid_source(),
        Some(Outcome::InvalidParams) => state.invalid_params(),
        _ => state.thrown(),
    };
    check_error(&error);
    let console: usize = state.console.lines.iter().map(|line| line.text.len() + 1).sum();
    assert!(console <= 256);
}

fn check_value(value: &Value, reported: &[u8]) {
    assert!(reported.len() <= 4_096 && depth(value) <= output::MAX_DEPTH);
    if let (Ok(same), false) =
        (serde_json::from_slice::<Value>(reported), reported.windows(2).any(|pair| pair == b"\\u"))
    {
        assert_eq!(*value, same);
    }
    let again = serde_json::to_vec(value).expect("a value is text");
    assert_eq!(output::parse(again).as_ref(), Ok(value));
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

fn check_error(error: &CodeError) {
    if let CodeError::Thrown { name, message, stack, console, .. } = error {
        // Each may end in a mark that it was cut.
        assert!(name.len() <= 131 && message.len() <= 4_099 && stack.len() <= 8_196, "{error}");
        assert!(
            !stack.contains("ap:platform:") && console.iter().map(|line| line.text.len() + 1).sum::<usize>() <= 256
        );
    }
    assert!(error.to_string().len() <= 5_000);
}

/// Lays arguments out as the guest does: bytes, then a list of where each begins and how long it is.
fn laid_out(arguments: &[Vec<u8>]) -> Vec<u8> {
    let mut memory: Vec<u8> = arguments.concat();
    let mut at = 0;
    for argument in arguments {
        let pair = [at, argument.len()].map(|number| u32::try_from(number).expect("small memory").to_le_bytes());
        memory.extend(pair.concat());
        at += argument.len();
    }
    memory
}

fn argument(bytes: &[u8], last: &[u8]) -> Vec<u8> {
    match bytes {
        [1, rest @ ..] => [last, rest].concat(),
        [2, rest @ ..] => [KEY.as_bytes(), rest].concat(),
        [3, rest @ ..] => [FORBIDDEN.as_bytes(), rest].concat(),
        bytes => bytes.to_vec(),
    }
}

/// Whether a derivation takes microseconds: the bounds on costly ones are no matter of decoding.
fn is_cheap(options: &[u8]) -> bool {
    let Ok(options) = serde_json::from_slice::<Value>(options) else { return true };
    let small = |name: &str| options.get(name).and_then(Value::as_f64).is_none_or(|number| number.abs() <= 64.0);
    ["iterations", "N", "r", "p"].into_iter().all(small)
}

/// Carries out what was begun; nothing of the fuzz target's host waits.
fn perform(calls: &mut HostCalls, host: &Secrets) {
    for Started { id, call } in calls.take().0 {
        if !matches!(call, Waited::Timer(_)) {
            let is_fetch = matches!(call, Waited::Fetch(_));
            let answer = call.perform(host, &Turns::new(), Duration::from_secs(1)).now_or_never();
            let answer = answer.expect("its host does not wait");
            host.check(&answer);
            if let (Ok(reply), true) = (answer, is_fetch) {
                let (length, rest) = reply.split_first_chunk::<4>().expect("a length");
                let head = rest.get(..u32::from_le_bytes(*length) as usize).expect("a head");
                assert!(serde_json::from_slice::<Value>(head).is_ok());
            }
        }
        calls.ended(id);
    }
}

/// A host with secrets that follow from the input, so that no input has them in it.
#[derive(Debug)]
struct Secrets {
    hex: String,
    bytes: [u8; 32],
}

impl Secrets {
    fn of(data: &[u8]) -> Self {
        let bytes: [u8; 32] = Sha256::digest(data).into();
        let mut hex = String::new();
        for byte in bytes {
            let _ = write!(hex, "{byte:02x}");
        }
        Self { hex, bytes }
    }

    fn check(&self, answer: &HostAnswer) {
        let text = match answer {
            Ok(reply) => {
                assert!(reply.len() <= 18 << 20);
                reply.clone()
            }
            Err(text) => {
                assert!(text.len() <= MOST_ERROR_BYTES + 64, "an error of {} bytes", text.len());
                text.clone()
            }
        };
        let upper = self.hex.to_uppercase();
        let backwards: String = self.hex.chars().rev().collect();
        let forms =
            [&self.hex.as_bytes()[..16], &upper.as_bytes()[..16], &backwards.as_bytes()[..16], &self.bytes[..8]];
        for form in forms {
            assert!(!text.windows(form.len()).any(|window| window == form), "a secret came back");
        }
    }
}

#[async_trait]
impl CodeHost for Secrets {
    async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if request.method == "GET" {
            return Err(HttpError::Refused { reason: "no".to_owned() });
        }
        let body = request.body.unwrap_or_default();
        Ok(HttpResponse { status: 200, headers: request.headers, body, redirected_to: None })
    }

    fn key(&self, placeholder: &str) -> Option<Result<SecretString, HttpError>> {
        match placeholder {
            KEY => Some(Ok(self.hex.as_str().into())),
            FORBIDDEN => Some(Err(HttpError::Credential { reason: "no key".to_owned() })),
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
        match call.act {
            StoreAct::Get => Ok(Some(call.key)),
            StoreAct::Put(json) if json.len() > 64 => Err(StoreCallError::Limit { reason: json }),
            StoreAct::Put(_) | StoreAct::Delete => Ok(None),
        }
    }

    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

/// What is left of the input.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// As many bytes as the next two say, or as there are.
    fn part(&mut self) -> &'a [u8] {
        let length = [self.byte(), self.byte()].map(Option::unwrap_or_default);
        let (part, rest) = self.0.split_at(usize::from(u16::from_le_bytes(length)).min(self.0.len()));
        self.0 = rest;
        part
    }
}

const KEY: &str = "apcred_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const FORBIDDEN: &str = "apcred_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA";

const MOST_CALLS: usize = 12;
const KDF: u8 = 6;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
        let files = fs::read_dir(folder).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap());
        files.collect()
    }

    #[test]
    fn the_seeds_of_the_fuzz_targets_hold() {
        let (calls, reports) = (seeds("code_host_call"), seeds("code_output"));
        assert!(calls.len() >= 4 && reports.len() >= 4);
        calls.iter().for_each(|seed| host_call(seed));
        reports.iter().for_each(|seed| report(seed));
    }

    proptest! {
        #[test]
        fn arbitrary_calls_and_reports_hold(data in prop::collection::vec(any::<u8>(), 0..300)) {
            host_call(&data);
            report(&data);
        }
    }
}
