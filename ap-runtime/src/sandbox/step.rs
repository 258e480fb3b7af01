//! One step in one instance.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ap_core::time::Timestamp;
use wasmtime::{Memory, ResourceLimiter, Result, Store, StoreContextMut, Trap, UpdateDeadline, format_err};

use super::engine::LoadedEngine;
use super::guest::{Outcome, Part};
use super::{CodeError, CodeLimits, CodeOutput, CodeRequest, ConsoleLevel, ConsoleLine, output};

/// An instance with one step in it. Dropping it hands its memory back to the pool, cleaned.
pub(crate) struct Step {
    store: Store<StepState>,
    request: CodeRequest,
}

/// The host's side of a step: what it may still use, and what it has said.
pub(crate) struct StepState {
    limits: CodeLimits,
    now_us: f64,
    deadline: Instant,
    cancelled: Arc<AtomicBool>,
    memory_refused: bool,
    value: Option<Vec<u8>>,
    value_too_large: bool,
    name: Option<String>,
    message: Option<String>,
    stack: Option<String>,
    console: Vec<ConsoleLine>,
    console_left: usize,
    console_truncated: bool,
}

/// Why the host stopped the guest.
#[derive(Debug, thiserror::Error)]
enum Interrupt {
    #[error("the step was cancelled")]
    Cancelled,
    #[error("the step's time is up")]
    Deadline,
    #[error("the step's input does not fit its memory")]
    InputTooLarge,
}

impl Step {
    pub(crate) fn new(
        engine: &LoadedEngine,
        request: CodeRequest,
        deadline: Instant,
        cancelled: Arc<AtomicBool>,
    ) -> Self {
        let mut store = Store::new(&engine.engine, StepState::new(&request, deadline, cancelled));
        store.limiter(|state| state);
        // Every advance of the epoch from here on makes the guest ask whether it must stop.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(StepState::on_epoch);
        Self { store, request }
    }

    /// Runs the step to its end. To be called once.
    pub(crate) fn run(&mut self, engine: &LoadedEngine) -> Result<CodeOutput, CodeError> {
        match self.call_guest(engine) {
            Ok(outcome) => self.finish(outcome),
            Err(error) => Err(self.store.data().explain(&error)),
        }
    }

    fn call_guest(&mut self, engine: &LoadedEngine) -> Result<Outcome> {
        let store = &mut self.store;
        store.data().check_interrupt()?;
        let (source, params) = (self.request.source.as_bytes(), &self.request.params[..]);
        let length = source.len().saturating_add(params.len()).saturating_add(2); // each ends with a zero
        if length > self.request.limits.memory_bytes() {
            return Err(Interrupt::InputTooLarge.into());
        }
        let guest = engine.guest.instantiate(&mut *store)?;
        let memory = guest.get_memory(&mut *store, "memory").ok_or_else(|| format_err!("the guest has no memory"))?;
        let alloc = guest.get_typed_func::<u32, u32>(&mut *store, "alloc")?;
        let run = guest.get_typed_func::<(u32, u32, u32, u64), u32>(&mut *store, "run")?;
        let start = alloc.call(&mut *store, u32::try_from(length)?)?;
        if start == 0 {
            return Err(Interrupt::InputTooLarge.into());
        }
        write_input(memory, store, start, [source, params])?;
        let arguments = (start, u32::try_from(source.len())?, u32::try_from(params.len())?, self.request.seed);
        let number = run.call(&mut *store, arguments)?;
        Outcome::from_guest(number).ok_or_else(|| format_err!("the guest ended with an unknown outcome"))
    }

    fn finish(&mut self, outcome: Outcome) -> Result<CodeOutput, CodeError> {
        let state = self.store.data_mut();
        match outcome {
            Outcome::Returned if state.value_too_large => {
                Err(CodeError::OutputTooLarge { limit_bytes: state.limits.output_bytes() })
            }
            Outcome::Returned => {
                let text = state.value.take().ok_or_else(|| trap("the guest returned nothing"))?;
                let value = output::parse(text)?;
                let console = std::mem::take(&mut state.console);
                Ok(CodeOutput { value, console, console_truncated: state.console_truncated })
            }
            Outcome::Unsettled => Err(CodeError::Unsettled),
            Outcome::NoFunction => {
                let message = "it must export a function named `code`, or one as default".to_owned();
                Err(CodeError::InvalidSource { message })
            }
            _ if state.ran_out_of_memory() => Err(CodeError::MemoryLimit { limit_bytes: state.limits.memory_bytes() }),
            Outcome::InvalidParams => {
                Err(CodeError::InvalidParams { message: state.message.take().unwrap_or_default() })
            }
            Outcome::InvalidSource => Err(CodeError::InvalidSource { message: state.located_message() }),
            Outcome::Threw => Err(CodeError::Thrown {
                name: state.name.take().unwrap_or_else(|| "Error".to_owned()),
                message: state.message.take().unwrap_or_default(),
                stack: state.stack.take().unwrap_or_default(),
                console: std::mem::take(&mut state.console),
            }),
        }
    }
}

impl StepState {
    fn new(request: &CodeRequest, deadline: Instant, cancelled: Arc<AtomicBool>) -> Self {
        let limits = request.limits.clone();
        Self {
            now_us: guest_clock(request.now),
            console_left: limits.console_bytes(),
            limits,
            deadline,
            cancelled,
            memory_refused: false,
            value: None,
            value_too_large: false,
            name: None,
            message: None,
            stack: None,
            console: Vec::new(),
            console_truncated: false,
        }
    }

    /// The time the guest sees; it stands still.
    pub(crate) fn now_us(&self) -> f64 {
        self.now_us
    }

    /// Keeps one part of the result, or notes that it is too large.
    pub(crate) fn report(&mut self, part: Part, bytes: &[u8]) {
        match part {
            Part::Value if bytes.len() > self.limits.output_bytes() => self.value_too_large = true,
            Part::Value => self.value = Some(bytes.to_vec()),
            Part::Name => self.name = Some(excerpt(bytes, NAME_BYTES)),
            Part::Message => self.message = Some(excerpt(bytes, MESSAGE_BYTES)),
            Part::Stack => self.stack = Some(excerpt(bytes, STACK_BYTES)),
        }
    }

    /// Keeps a console line, as much of it as still fits.
    pub(crate) fn log(&mut self, level: ConsoleLevel, bytes: &[u8]) {
        if self.console_truncated {
            return;
        }
        let Some(room) = self.console_left.checked_sub(1) else {
            self.console_truncated = true;
            return;
        };
        let (text, cut) = text_up_to(bytes, room);
        self.console_left = room.saturating_sub(text.len());
        self.console_truncated = cut;
        self.console.push(ConsoleLine { level, text });
    }

    fn on_epoch(store: StoreContextMut<'_, Self>) -> Result<UpdateDeadline> {
        store.data().check_interrupt()?;
        Ok(UpdateDeadline::Continue(1))
    }

    fn check_interrupt(&self) -> Result<(), Interrupt> {
        if self.cancelled.load(Ordering::SeqCst) {
            return Err(Interrupt::Cancelled);
        }
        if Instant::now() >= self.deadline {
            return Err(Interrupt::Deadline);
        }
        Ok(())
    }

    /// Says why the guest did not come back.
    fn explain(&self, error: &wasmtime::Error) -> CodeError {
        let out_of_memory = CodeError::MemoryLimit { limit_bytes: self.limits.memory_bytes() };
        match (error.downcast_ref::<Interrupt>(), error.downcast_ref::<Trap>()) {
            // Nobody waits for the outcome of a cancelled step.
            (Some(Interrupt::Deadline | Interrupt::Cancelled), _) => {
                CodeError::Timeout { limit: self.limits.timeout() }
            }
            (Some(Interrupt::InputTooLarge), _) => out_of_memory,
            (None, Some(Trap::StackOverflow)) => CodeError::StackExhausted,
            (None, Some(_)) if self.memory_refused => out_of_memory,
            _ => trap(&format!("{error:#}")),
        }
    }

    /// Whether what was thrown is the engine's own report of a refused allocation. Without memory it may have no message.
    fn ran_out_of_memory(&self) -> bool {
        self.memory_refused && self.message.as_deref().is_none_or(|message| message == "out of memory")
    }

    /// The message with the place the first stack line names: `unexpected token (line 3, column 7)`.
    fn located_message(&mut self) -> String {
        let message = self.message.take().unwrap_or_default();
        let place = self.stack.as_deref().and_then(|stack| {
            let (_, place) = stack.lines().next()?.rsplit_once("step.mjs:")?;
            place.trim_end_matches(')').split_once(':')
        });
        match place {
            Some((line, column)) => format!("{message} (line {line}, column {column})"),
            None => message,
        }
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

/// Source, zero, parameters, zero, from `start` on. Fails if that is not inside the guest's memory.
fn write_input(memory: Memory, store: &mut Store<StepState>, start: u32, parts: [&[u8]; 2]) -> Result<()> {
    let mut offset = start as usize;
    for bytes in parts.into_iter().flat_map(|part| [part, &[0]]) {
        memory.write(&mut *store, offset, bytes)?;
        offset = offset.saturating_add(bytes.len());
    }
    Ok(())
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

fn trap(message: &str) -> CodeError {
    CodeError::Trap { message: excerpt(message.as_bytes(), MESSAGE_BYTES) }
}

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
    fn the_clock_shows_whole_milliseconds_before_and_after_the_epoch() {
        assert_eq!(guest_clock(Timestamp::from_micros(1_999)), 1_000.0);
        assert_eq!(guest_clock(Timestamp::from_micros(-1)), -1_000.0);
        assert_eq!(guest_clock(Timestamp::from_micros(0)), 0.0);
    }
}
