//! The host's side of a step: what it may still use, and what it has said.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ap_core::time::Timestamp;
use wasmtime::{ResourceLimiter, Result, StoreContextMut, Trap, UpdateDeadline};

use super::calls::Border;
use super::guest::Part;
use super::{CodeError, CodeLimits, ConsoleLevel, ConsoleLine, Metering, SourcePlace};

/// The host's side of a step.
pub(crate) struct StepState {
    pub(crate) limits: CodeLimits,
    /// What the step may call; expressions and the compiler have none.
    pub(crate) calls: Option<Box<dyn Border>>,
    /// The reply that waits for `take`.
    pub(crate) reply: Vec<u8>,
    pub(crate) report: Report,
    pub(crate) console: Console,
    cancelled: Arc<AtomicBool>,
    began: Instant,
    now: Timestamp,
    /// When the turn under way must end.
    turn_ends: Instant,
    memory_refused: bool,
}

/// What the guest has reported.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) value: Option<Vec<u8>>,
    value_too_large: bool,
    name: Option<String>,
    message: Option<String>,
    stack: Option<String>,
    pub(crate) bytecode: Option<Vec<u8>>,
}

/// What the step wrote to `console`.
pub(crate) struct Console {
    pub(crate) lines: Vec<ConsoleLine>,
    pub(crate) truncated: bool,
    left: usize,
}

/// Why the host stopped the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Interrupt {
    #[error("the step was cancelled")]
    Cancelled,
    #[error("the step's time is up")]
    Deadline,
    #[error("the step called its host too often")]
    HostCalls { what: &'static str, limit: usize },
    #[error("the step's input does not fit its memory")]
    InputTooLarge,
    #[error("an expression computes, and can do nothing else")]
    NoHost,
}

impl StepState {
    /// A step that begins now.
    pub(crate) fn new(
        limits: CodeLimits,
        now: Timestamp,
        calls: Option<Box<dyn Border>>,
        cancelled: Arc<AtomicBool>,
    ) -> Self {
        let began = Instant::now();
        // An expression logs nothing.
        let console = Console::new(if calls.is_some() { limits.console_bytes() } else { 0 });
        Self {
            limits,
            calls,
            reply: Vec::new(),
            report: Report::default(),
            console,
            cancelled,
            began,
            now,
            turn_ends: began,
            memory_refused: false,
        }
    }

    /// The same for an instance that has not been refused memory yet.
    pub(crate) fn without_refusals(self) -> Self {
        Self { memory_refused: false, ..self }
    }

    /// When the step must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        self.began + self.limits.timeout()
    }

    /// Begins a turn that may use what is left of the computing time; says when it must end. Nothing is reported yet.
    pub(crate) fn begin_turn(&mut self, cpu_left: Duration) -> Instant {
        self.report = Report::default();
        self.turn_ends = self.deadline().min(Instant::now() + cpu_left);
        self.turn_ends
    }

    /// The time the guest sees, in microseconds since the Unix epoch: whole milliseconds, since nothing finer leaves the host.
    pub(crate) fn now_us(&self) -> f64 {
        guest_clock(self.now)
    }

    /// Moves the guest's clock on to what a wall clock would show.
    pub(crate) fn advance_clock(&mut self, at_begin: Timestamp) {
        self.now = self.now.max(at_begin.saturating_add(self.began.elapsed()));
    }

    pub(crate) fn on_epoch(store: StoreContextMut<'_, Self>) -> Result<UpdateDeadline> {
        store.data().check_interrupt()?;
        Ok(UpdateDeadline::Continue(1))
    }

    pub(crate) fn check_interrupt(&self) -> Result<(), Interrupt> {
        if self.cancelled.load(Ordering::SeqCst) {
            return Err(Interrupt::Cancelled);
        }
        if Instant::now() >= self.turn_ends {
            return Err(Interrupt::Deadline);
        }
        Ok(())
    }

    /// Keeps one part of what the guest reports, or notes that it is too large.
    pub(crate) fn take_report(&mut self, part: Part, bytes: &[u8]) {
        let report = &mut self.report;
        match part {
            Part::Value if bytes.len() > self.limits.output_bytes() => report.value_too_large = true,
            Part::Value => report.value = Some(bytes.to_vec()),
            Part::Name => report.name = Some(excerpt(bytes, NAME_BYTES)),
            Part::Message => report.message = Some(excerpt(bytes, MESSAGE_BYTES)),
            Part::Stack => report.stack = Some(without_platform(&excerpt(bytes, STACK_BYTES))),
            Part::Bytecode => report.bytecode = Some(bytes.to_vec()),
        }
    }

    /// Says why the guest did not come back.
    pub(crate) fn explain(&self, error: &wasmtime::Error) -> CodeError {
        let limits = &self.limits;
        match (error.downcast_ref::<Interrupt>(), error.downcast_ref::<Trap>()) {
            // Nobody waits for the outcome of a cancelled step.
            (Some(Interrupt::Deadline | Interrupt::Cancelled), _) if self.turn_ends < self.deadline() => {
                CodeError::CpuTime { limit: limits.cpu_time() }
            }
            (Some(Interrupt::Deadline | Interrupt::Cancelled), _) => CodeError::Timeout { limit: limits.timeout() },
            (Some(Interrupt::HostCalls { what, limit }), _) => CodeError::HostCallLimit { what, limit: *limit },
            (Some(Interrupt::InputTooLarge), _) => self.out_of_memory(),
            (Some(Interrupt::NoHost), _) => {
                let message = Interrupt::NoHost.to_string();
                let (name, stack) = ("TypeError".to_owned(), String::new());
                CodeError::Thrown { name, message, place: None, stack, console: Vec::new() }
            }
            (None, Some(Trap::StackOverflow)) => CodeError::StackExhausted,
            (None, Some(Trap::OutOfFuel)) => {
                let limit = if let Metering::Fuel(fuel) = limits.metering() { fuel } else { 0 };
                CodeError::FuelExhausted { limit }
            }
            (None, Some(_)) if self.memory_refused => self.out_of_memory(),
            _ => trap(&format!("{error:#}")),
        }
    }

    /// The value that the guest reported, or why there is none.
    pub(crate) fn value(&mut self) -> Result<Vec<u8>, CodeError> {
        if self.report.value_too_large {
            return Err(CodeError::OutputTooLarge { limit_bytes: self.limits.output_bytes() });
        }
        self.report.value.take().ok_or_else(|| trap("the guest returned nothing"))
    }

    /// What the guest reported of a source that does not compile.
    pub(crate) fn invalid_source(&mut self) -> CodeError {
        if self.ran_out_of_memory() {
            return self.out_of_memory();
        }
        let (message, place) = self.report.take_complaint();
        CodeError::InvalidSource { message, place }
    }

    /// What the guest reported of parameters that do not parse.
    pub(crate) fn invalid_params(&mut self) -> CodeError {
        if self.ran_out_of_memory() {
            return self.out_of_memory();
        }
        CodeError::InvalidParams { message: self.report.message.take().unwrap_or_default() }
    }

    /// What the guest reported as thrown.
    pub(crate) fn thrown(&mut self) -> CodeError {
        if self.ran_out_of_memory() {
            return self.out_of_memory();
        }
        let report = &mut self.report;
        let place = report.place_in_stack();
        CodeError::Thrown {
            name: report.name.take().unwrap_or_else(|| "Error".to_owned()),
            message: report.message.take().unwrap_or_default(),
            place,
            stack: report.stack.take().unwrap_or_default(),
            console: std::mem::take(&mut self.console.lines),
        }
    }

    fn out_of_memory(&self) -> CodeError {
        CodeError::MemoryLimit { limit_bytes: self.limits.memory_bytes() }
    }

    /// Whether what was thrown is the engine's own report of a refused allocation. Without memory it may have no message.
    fn ran_out_of_memory(&self) -> bool {
        let (name, text) = (self.report.name.as_deref(), self.report.message.as_deref());
        self.memory_refused
            && match (name, text) {
                (_, None | Some("out of memory")) => true,
                // Without memory for an error, the engine throws null; without memory for its message, it says so.
                (None, Some("null")) | (Some("InternalError"), Some("Invalid error message")) => true,
                _ => false,
            }
    }
}

impl Report {
    /// What is wrong with a source that does not compile, and where.
    fn take_complaint(&mut self) -> (String, Option<SourcePlace>) {
        let mut message = self.message.take().unwrap_or_default();
        // The stack of what removes types names its own places.
        if let Some((text, place)) = place_at_end(&message) {
            message.truncate(text);
            return (message, Some(place));
        }
        (message, self.place_in_stack())
    }

    /// The innermost place in the author's source that the stack names.
    fn place_in_stack(&self) -> Option<SourcePlace> {
        let place_in = |line: &str| {
            let (_, place) = SCRIPTS.iter().find_map(|script| line.rsplit_once(script))?;
            let (line, column) = place.trim_end_matches(')').split_once(':')?;
            Some(SourcePlace { line: line.parse().ok()?, column: column.parse().ok()? })
        };
        self.stack.as_deref()?.lines().find_map(place_in)
    }
}

impl Console {
    fn new(limit_bytes: usize) -> Self {
        Self { lines: Vec::new(), truncated: false, left: limit_bytes }
    }

    /// Keeps a console line, as much of it as still fits.
    pub(crate) fn log(&mut self, level: ConsoleLevel, bytes: &[u8]) {
        if self.truncated {
            return;
        }
        let Some(room) = self.left.checked_sub(1) else {
            self.truncated = true;
            return;
        };
        let (text, cut) = text_up_to(bytes, room);
        self.left = room.saturating_sub(text.len());
        self.truncated = cut;
        self.lines.push(ConsoleLine { level, text });
    }
}

impl ResourceLimiter for StepState {
    fn memory_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        let granted = desired <= self.limits.memory_bytes();
        self.memory_refused |= !granted;
        Ok(granted)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        Ok(current == 0 || desired <= current) // creation, and no growth after it
    }
}

/// Where what removes types says it stopped, as in `Unexpected token (3:14)`, and how long the text before that is.
fn place_at_end(message: &str) -> Option<(usize, SourcePlace)> {
    let (text, place) = message.strip_suffix(')')?.rsplit_once(" (")?;
    let (line, column) = place.split_once(':')?;
    Some((text.len(), SourcePlace { line: line.parse().ok()?, column: column.parse().ok()? }))
}

/// A stack without the frames of the prelude, which say nothing to an author.
fn without_platform(stack: &str) -> String {
    stack.lines().filter(|line| !line.contains(PLATFORM_SCRIPT)).fold(String::new(), |kept, line| kept + line + "\n")
}

/// Whole milliseconds, as JavaScript's own clock: nothing finer leaves the host.
fn guest_clock(now: Timestamp) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact far beyond the last date that JavaScript can show")]
    let millis = now.as_millis() as f64;
    millis * 1_000.0
}

fn excerpt(bytes: &[u8], limit: usize) -> String {
    let (mut text, cut) = text_up_to(bytes, limit);
    if cut {
        text.push('…');
    }
    text
}

/// At most `limit` bytes of text, ending between characters, and whether something was left out.
fn text_up_to(bytes: &[u8], limit: usize) -> (String, bool) {
    // One more character than fits, so that a character cut here is dropped below.
    let head = bytes.get(..limit.saturating_add(4)).unwrap_or(bytes);
    let mut text = String::from_utf8_lossy(head).into_owned();
    let end = text.floor_char_boundary(limit);
    let cut = end < text.len() || head.len() < bytes.len();
    text.truncate(end);
    (text, cut)
}

pub(crate) fn trap(message: &str) -> CodeError {
    CodeError::Trap { message: excerpt(message.as_bytes(), MESSAGE_BYTES) }
}

/// How stacks name the author's source: `STEP_SCRIPT` and `EXPRESSION_SCRIPT` of the guest.
const SCRIPTS: [&str; 2] = ["step.mjs:", "expression:"];

/// How stacks name the prelude.
const PLATFORM_SCRIPT: &str = "ap:platform:";

const NAME_BYTES: usize = 128;
const MESSAGE_BYTES: usize = 4 << 10;
const STACK_BYTES: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters_at_the_limit() {
        assert_eq!(text_up_to(b"abc", 3), ("abc".to_owned(), false));
        assert_eq!(text_up_to(b"abcd", 3), ("abc".to_owned(), true));
        assert_eq!(text_up_to("aä".as_bytes(), 3), ("aä".to_owned(), false));
        assert_eq!(text_up_to("aä".as_bytes(), 2), ("a".to_owned(), true));
        assert_eq!(text_up_to("€€€€".as_bytes(), 4), ("€".to_owned(), true));
        assert_eq!(text_up_to(b"a", 0), (String::new(), true));
        assert_eq!(text_up_to(b"", 0), (String::new(), false));
    }

    #[test]
    fn frames_of_the_platform_are_left_out() {
        let stack = "    at apply (native)\n    at alloc (ap:platform:1900:15)\n    at code (step.mjs:3:10)\n";
        assert_eq!(without_platform(stack), "    at apply (native)\n    at code (step.mjs:3:10)\n");
        assert_eq!(without_platform(""), "");
    }

    #[test]
    fn the_clock_shows_whole_milliseconds_before_and_after_the_epoch() {
        assert_eq!(guest_clock(Timestamp::from_micros(1_999)), 1_000.0);
        assert_eq!(guest_clock(Timestamp::from_micros(-1)), -1_000.0);
        assert_eq!(guest_clock(Timestamp::from_micros(0)), 0.0);
    }
}
