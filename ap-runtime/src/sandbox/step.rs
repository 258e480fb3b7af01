//! One instance of the engine, and what is done with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::{Instance, Memory, ModuleExport, Result, Store, WasmParams, format_err};

use super::deadline::DeadlineTimer;
use super::engine::LoadedEngine;
use super::guest::Outcome;
use super::state::{Interrupt, StepState, trap};
use super::{CodeError, CodeOutput, CodeUnit, ConsoleLine, Metering, SourcePlace, output};

/// An instance with one step in it. Dropping it hands its memory back to the pool, cleaned.
pub(crate) struct Step {
    store: Store<StepState>,
    instance: Option<Instance>,
    cpu_left: Duration,
    fuel: Option<u64>,
    /// The guest did not come back from a turn: its memory is in no known state.
    broken: bool,
}

/// How a turn of a step ended.
pub(crate) enum Turn<O> {
    Ended(Result<O, CodeError>),
    /// It waits for the host.
    Waiting,
}

/// What a step returned and logged, as the guest wrote it.
pub(crate) struct Written {
    /// JSON that no one has read.
    pub(crate) value: Vec<u8>,
    pub(crate) console: Vec<ConsoleLine>,
    pub(crate) console_truncated: bool,
    pub(crate) fuel: Option<u64>,
}

impl Written {
    /// Reads the result.
    pub(crate) fn read(self) -> Result<CodeOutput, CodeError> {
        let Self { value, console, console_truncated, fuel } = self;
        output::parse(value).map(|value| CodeOutput { value, console, console_truncated, fuel })
    }
}

impl Turn<Written> {
    /// Reads the result of a step that has ended.
    pub(crate) fn read(self) -> Turn<CodeOutput> {
        match self {
            Self::Ended(written) => Turn::Ended(written.and_then(Written::read)),
            Self::Waiting => Turn::Waiting,
        }
    }
}

/// The thread a turn runs on.
pub(crate) struct Seat<'a> {
    pub(crate) timer: &'a DeadlineTimer,
    pub(crate) index: usize,
}

impl Step {
    pub(crate) fn new(engine: &LoadedEngine, state: StepState) -> Result<Self, CodeError> {
        let (cpu_left, metering) = (state.limits.cpu_time(), state.limits.metering());
        let mut store = Store::new(&engine.engine, state);
        store.limiter(|state| state);
        // Every advance of the epoch from here on makes the guest ask whether it must stop.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(StepState::on_epoch);
        let fuel = match metering {
            Metering::Clock => {
                if engine.on_fuel {
                    store.set_fuel(u64::MAX).map_err(|error| trap(&format!("{error:#}")))?;
                }
                None
            }
            Metering::Fuel(fuel) => {
                // The engine stops a guest that has used up everything; all of the fuel may be used.
                let fuel = fuel.saturating_add(1);
                store.set_fuel(fuel).map_err(|error| trap(&format!("{error:#}")))?;
                Some(fuel)
            }
        };
        Ok(Self { store, instance: None, cpu_left, fuel, broken: false })
    }

    /// The same step in an instance that nothing went wrong in, with what is left of its time and fuel.
    pub(crate) fn unbroken(self, engine: &LoadedEngine) -> Result<Self, CodeError> {
        if !self.broken {
            return Ok(self);
        }
        let (cpu_left, fuel) = (self.cpu_left, self.fuel.and_then(|_| self.store.get_fuel().ok()));
        // The old instance makes room first.
        let mut step = Self::new(engine, self.store.into_data().without_refusals())?;
        if let Some(fuel) = fuel {
            step.store.set_fuel(fuel).map_err(|error| trap(&format!("{error:#}")))?;
        }
        Ok(Self { cpu_left, ..step })
    }

    /// Compiles a unit to bytecode. Nothing of it runs. `translator` is the bytecode of what removes types.
    pub(crate) fn compile(
        &mut self,
        (engine, seat): (&LoadedEngine, &Seat<'_>),
        unit: &CodeUnit,
        translator: &[u8],
    ) -> Result<Arc<[u8]>, CodeError> {
        let (kind, source) = match unit {
            CodeUnit::Module { source, .. } => (0_u32, source),
            CodeUnit::Expression(text) => (1, text),
        };
        let outcome = self.turn(seat, |step| {
            let (start, lengths) = step.write_input(engine, [source.as_bytes(), translator])?;
            step.call(engine, engine.exports.compile, (kind, start, lengths[0], lengths[1]))
        })?;
        let state = self.store.data_mut();
        match outcome {
            Outcome::Returned => {
                let code = state.report.bytecode.take().ok_or_else(|| trap("the guest compiled to nothing"))?;
                Ok(code.into())
            }
            _ => Err(match unit {
                CodeUnit::Module { .. } => state.invalid_source(),
                CodeUnit::Expression(text) => of_expression(text, state.invalid_source()),
            }),
        }
    }

    /// Begins to run a compiled module.
    pub(crate) fn run(
        &mut self,
        (engine, seat): (&LoadedEngine, &Seat<'_>),
        code: &[u8],
        (params, context): (&[u8], &[u8]),
        seed: u64,
    ) -> Turn<Written> {
        let outcome = self.turn(seat, |step| {
            let (start, lengths) = step.write_input(engine, [code, params, context])?;
            step.call(engine, engine.exports.run, (start, lengths[0], lengths[1], lengths[2], seed))
        });
        self.finish_turn(outcome)
    }

    /// Ends a host call of the step and goes on with it.
    pub(crate) fn settle(
        &mut self,
        (engine, seat): (&LoadedEngine, &Seat<'_>),
        id: u32,
        (succeeded, answer): (bool, &[u8]),
    ) -> Turn<Written> {
        let outcome = self.turn(seat, |step| {
            let (start, lengths) = step.write_input(engine, [answer])?;
            step.call(engine, engine.exports.settle, (id, u32::from(succeeded), start, lengths[0]))
        });
        self.finish_turn(outcome)
    }

    /// Evaluates a compiled expression; more may follow in the same instance.
    pub(crate) fn evaluate(
        &mut self,
        (engine, seat): (&LoadedEngine, &Seat<'_>),
        code: &[u8],
        variables: &[u8],
        seed: u64,
    ) -> Result<Vec<u8>, CodeError> {
        let outcome = self.turn(seat, |step| {
            let (start, lengths) = step.write_input(engine, [code, variables])?;
            step.call(engine, engine.exports.evaluate, (start, lengths[0], lengths[1], seed))
        })?;
        let state = self.store.data_mut();
        match outcome {
            Outcome::Returned => state.value(),
            Outcome::NoValue => Err(CodeError::NoValue),
            Outcome::InvalidParams => Err(state.invalid_params()),
            Outcome::InvalidSource => Err(state.invalid_source()),
            Outcome::Threw | Outcome::Waiting | Outcome::NoFunction => Err(state.thrown()),
        }
    }

    /// Makes the instance, and all that an engine prepares for its first one.
    #[cfg(feature = "process-isolation")]
    pub(crate) fn prepare(mut self, engine: &LoadedEngine) -> Result<()> {
        self.instance(engine).map(|_| ())
    }

    pub(crate) fn state_mut(&mut self) -> &mut StepState {
        self.store.data_mut()
    }

    pub(crate) fn state(&self) -> &StepState {
        self.store.data()
    }

    /// Runs `work` in the guest, within what is left of the step's time.
    fn turn(&mut self, seat: &Seat<'_>, work: impl FnOnce(&mut Self) -> Result<u32>) -> Result<Outcome, CodeError> {
        let began = Instant::now();
        let ends = self.store.data_mut().begin_turn(self.cpu_left);
        let armed = seat.timer.arm(seat.index, ends);
        let ran = self.store.data().check_interrupt().map_err(wasmtime::Error::from).and_then(|()| work(self));
        drop(armed);
        self.store.data_mut().reply = Vec::new(); // one that nobody took
        self.cpu_left = self.cpu_left.saturating_sub(began.elapsed());
        let outcome = ran.and_then(|number| {
            Outcome::from_guest(number).ok_or_else(|| format_err!("the guest ended with an unknown outcome"))
        });
        outcome.map_err(|error| {
            self.broken = true;
            self.store.data().explain(&error)
        })
    }

    fn finish_turn(&mut self, outcome: Result<Outcome, CodeError>) -> Turn<Written> {
        let fuel = self.fuel.and_then(|fuel| Some((fuel, fuel.checked_sub(self.store.get_fuel().ok()?)?)));
        let state = self.store.data_mut();
        // The engine looks at its fuel here and there, the last time before the end.
        if let (Some((given, used)), Ok(_)) = (fuel, &outcome)
            && used == given
        {
            return Turn::Ended(Err(CodeError::FuelExhausted { limit: given.saturating_sub(1) }));
        }
        let fuel = fuel.map(|(_, used)| used);
        Turn::Ended(match outcome {
            Ok(Outcome::Waiting) => return Turn::Waiting,
            Ok(Outcome::Returned) => state.value().map(|value| Written {
                value,
                console: std::mem::take(&mut state.console.lines),
                console_truncated: state.console.truncated,
                fuel,
            }),
            Ok(Outcome::NoFunction) => {
                let message = "it must export a function named `code`, or one as default".to_owned();
                Err(CodeError::InvalidSource { message, place: None })
            }
            Ok(Outcome::InvalidParams) => Err(state.invalid_params()),
            Ok(Outcome::InvalidSource) => Err(state.invalid_source()),
            Ok(Outcome::Threw | Outcome::NoValue) => Err(state.thrown()),
            Err(error) => Err(error),
        })
    }

    /// Writes parts, each followed by a zero, into a buffer of the guest. Says where they start and how long each is.
    fn write_input<const PARTS: usize>(
        &mut self,
        engine: &LoadedEngine,
        parts: [&[u8]; PARTS],
    ) -> Result<(u32, [u32; PARTS])> {
        let total = parts.iter().fold(PARTS, |sum, part| sum.saturating_add(part.len()));
        if total > self.store.data().limits.memory_bytes() {
            return Err(Interrupt::InputTooLarge.into());
        }
        let start = self.call(engine, engine.exports.alloc, u32::try_from(total)?)?;
        if start == 0 {
            return Err(Interrupt::InputTooLarge.into());
        }
        let memory = self.memory(engine)?;
        let mut lengths = [0; PARTS];
        let mut offset = start as usize;
        for (part, length) in parts.into_iter().zip(&mut lengths) {
            *length = u32::try_from(part.len())?;
            for bytes in [part, &[0]] {
                memory.write(&mut self.store, offset, bytes)?;
                offset = offset.saturating_add(bytes.len());
            }
        }
        Ok((start, lengths))
    }

    fn call<P: WasmParams>(&mut self, engine: &LoadedEngine, export: ModuleExport, arguments: P) -> Result<u32> {
        let instance = self.instance(engine)?;
        let function = instance.get_module_export(&mut self.store, &export).and_then(wasmtime::Extern::into_func);
        let function = function.ok_or_else(|| format_err!("the guest lacks a function"))?;
        function.typed::<P, u32>(&self.store)?.call(&mut self.store, arguments)
    }

    fn memory(&mut self, engine: &LoadedEngine) -> Result<Memory> {
        let instance = self.instance(engine)?;
        let memory = instance.get_module_export(&mut self.store, &engine.exports.memory);
        memory.and_then(wasmtime::Extern::into_memory).ok_or_else(|| format_err!("the guest has no memory"))
    }

    /// The instance, made within the first turn.
    fn instance(&mut self, engine: &LoadedEngine) -> Result<Instance> {
        if let Some(instance) = self.instance {
            return Ok(instance);
        }
        let instance = engine.guest.instantiate(&mut self.store)?;
        self.instance = Some(instance);
        Ok(instance)
    }
}

/// The guest compiles an expression between brackets, the second on a line of its own: what goes wrong behind the text's last
/// line is a matter of its end.
fn of_expression(text: &str, error: CodeError) -> CodeError {
    let last = text.rsplit(['\n', '\r', '\u{2028}', '\u{2029}']).next().unwrap_or_default();
    let line_ends = text.replace("\r\n", "\n").matches(['\n', '\r', '\u{2028}', '\u{2029}']).count();
    let end = SourcePlace {
        line: u32::try_from(line_ends).unwrap_or(u32::MAX).saturating_add(1),
        column: u32::try_from(last.encode_utf16().count()).unwrap_or(u32::MAX).saturating_add(1),
    };
    match error {
        CodeError::InvalidSource { place: Some(place), .. } if place.line > end.line => {
            let message = "it is no whole expression: it ends too early, or closes a bracket that was not opened";
            CodeError::InvalidSource { message: message.to_owned(), place: Some(end) }
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use ap_core::time::Timestamp;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::sandbox::{CodeLanguage, CodeLimits, engine::Engines};

    #[test]
    fn a_place_in_the_brackets_around_an_expression_is_the_end_of_its_text() {
        let told = |text: &str, line: u32| {
            let place = Some(SourcePlace { line, column: 1 });
            let error = CodeError::InvalidSource { message: "unexpected token: ']'".to_owned(), place };
            match of_expression(text, error) {
                CodeError::InvalidSource { message, place: Some(place) } => (place.line, place.column, message),
                other => panic!("{other:?}"),
            }
        };
        for (text, line, end) in
            [("a(b(", 2, (1, 5)), ("a]", 2, (1, 3)), ("(1 +\r\n😀", 3, (2, 3)), ("a\u{2028}(\n", 4, (3, 1))]
        {
            let (line, column, message) = told(text, line);
            assert_eq!((line, column), end, "{text:?}");
            assert!(message.contains("no whole expression"), "{message}");
        }
        assert_eq!(told("(1 +\n]", 2), (2, 1, "unexpected token: ']'".to_owned()));
    }

    /// Bytecode comes from the compiler in the sandbox alone. Should that one be taken over, what it says is contained like
    /// everything else: it ends by its deadline, with no harm to the next step.
    #[test]
    fn malformed_bytecode_is_contained() {
        let engines = Arc::new(Engines::load(2, 1).unwrap());
        let (engine, timer) = (engines.timed(), DeadlineTimer::start(Arc::clone(&engines), 1).unwrap());
        let seat = Seat { timer: &timer, index: 0 };
        let limits = CodeLimits::default().with_timeout(Duration::from_millis(50)).unwrap();
        let step = |limits: &CodeLimits| {
            Step::new(engine, StepState::new(limits.clone(), Timestamp::from_micros(0), None, Arc::default())).unwrap()
        };
        let source = "const f = (x) => [x, `${x}`, /a+/.test(x), 1n, class A { #b = 1 }]; export const code = () => f('text').length;";
        let unit = CodeUnit::Module { source: source.into(), language: CodeLanguage::JavaScript };
        let good = step(&CodeLimits::default()).compile((engine, &seat), &unit, &[]).unwrap();
        let run = |code: &[u8], limits: &CodeLimits| match step(limits).run((engine, &seat), code, (b"{}", b"{}"), 1) {
            Turn::Ended(result) => result.map(|_| ()),
            Turn::Waiting => Err(CodeError::Unsettled),
        };
        let mut ended = 0;
        for round in 0..400_u32 {
            // Bytes exchanged, cut off, repeated, or all of them at random.
            let draw: [u8; 32] = Sha256::digest(round.to_le_bytes()).into();
            let at = usize::from(u16::from_le_bytes([draw[0], draw[1]])) % good.len();
            let mut code = good.to_vec();
            match round % 4 {
                0 => code[at] ^= draw[2] | 1,
                1 => code.truncate(at),
                2 => code.extend_from_within(at..),
                _ => code.iter_mut().skip(8).zip(draw.iter().cycle()).for_each(|(byte, noise)| *byte ^= noise),
            }
            let result = run(&code, &limits);
            assert!(!matches!(result, Err(CodeError::Busy | CodeError::Bug { .. })), "{result:?}");
            ended += u32::from(result.is_err());
        }
        assert!(ended > 200, "most of them fail");
        assert_eq!(run(&good, &CodeLimits::default()), Ok(()));
    }
}
