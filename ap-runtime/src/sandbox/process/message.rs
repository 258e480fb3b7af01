//! What hosts and workers tell each other.
//!
//! A host is believed by its worker, which it made. A worker is not believed by its host: of what it says, limits, counts and
//! sizes are checked against the request again, and what breaks them is [`Malformed`].

use std::sync::Arc;
use std::time::Duration;

use ap_core::{id::ProjectId, time::Timestamp};

use super::wire::{Fields, Frame, Malformed};
use crate::sandbox::{
    CodeError, CodeLanguage, CodeLimits, CodeUnit, ConsoleLevel, ConsoleLine, Metering, SourcePlace, calls::HostAnswer,
    output::MAX_DEPTH, step::Written,
};

/// From host to worker, on the connection of one of its threads.
pub(super) mod to_worker {
    pub(in super::super) const CHECK: u8 = 1;
    pub(in super::super) const BEGIN: u8 = 2;
    pub(in super::super) const SETTLE: u8 = 3;
    pub(in super::super) const EVALUATE: u8 = 4;
    /// The answer to a call.
    pub(in super::super) const ANSWER: u8 = 5;
}

/// From worker to host, on the connection of one of its threads.
pub(super) mod to_host {
    pub(in super::super) const CALL: u8 = 1;
    pub(in super::super) const START: u8 = 2;
    /// A compiler begins, which has time of its own.
    pub(in super::super) const COMPILING: u8 = 3;
    /// It is done: from here on the step's own time counts.
    pub(in super::super) const COMPUTING: u8 = 4;
    pub(in super::super) const WAITING: u8 = 5;
    pub(in super::super) const ENDED: u8 = 6;
    pub(in super::super) const CHECKED: u8 = 7;
    /// One result of several.
    pub(in super::super) const EVALUATED: u8 = 8;
    /// No more results, or none at all.
    pub(in super::super) const ALL_EVALUATED: u8 = 9;
}

/// On the connection that a worker starts with.
pub(super) mod control {
    pub(in super::super) const HELLO: u8 = 1;
    pub(in super::super) const SETUP: u8 = 2;
    pub(in super::super) const READY: u8 = 3;
    pub(in super::super) const REFUSED: u8 = 4;
    /// Interrupts what is computed under this number.
    pub(in super::super) const CANCEL: u8 = 5;
    /// Ends a step that waits.
    pub(in super::super) const FORGET: u8 = 6;
    pub(in super::super) const FORGOTTEN: u8 = 7;
}

/// A step to begin, as the worker reads it.
pub(super) struct Begin<'a> {
    pub(super) id: u64,
    pub(super) project: ProjectId,
    pub(super) unit: CodeUnit,
    pub(super) params: &'a [u8],
    pub(super) context: &'a [u8],
    pub(super) now: Timestamp,
    pub(super) seed: u64,
    pub(super) limits: CodeLimits,
}

/// Expressions to evaluate, as the worker reads them.
pub(super) struct Evaluate<'a> {
    pub(super) id: u64,
    pub(super) project: ProjectId,
    pub(super) expressions: Vec<Arc<str>>,
    pub(super) variables: &'a [u8],
    pub(super) now: Timestamp,
    pub(super) seed: u64,
    pub(super) limits: CodeLimits,
}

/// The arguments of a call.
type Arguments<'a> = Vec<&'a [u8]>;

/// How a step was stopped from the host's side.
pub(super) const STOPPED: u8 = 2;

/// Instead of a number of arguments: they were too long together.
pub(super) const TOO_LONG: u8 = u8::MAX;

/// Most arguments of a call.
const MAX_ARGUMENTS: usize = 8;

/// What every request starts with.
pub(super) fn request(kind: u8, id: u64, project: ProjectId) -> Frame {
    let project = project.as_u128().to_le_bytes();
    Frame::new(kind).u64(id).bytes(&project)
}

pub(super) fn read_request(fields: &mut Fields<'_>) -> Result<(u64, ProjectId), Malformed> {
    let id = fields.u64()?;
    let project = fields.bytes()?.try_into().map_err(|_| Malformed)?;
    Ok((id, ProjectId::from_u128(u128::from_le_bytes(project))))
}

pub(super) fn unit(frame: Frame, unit: &CodeUnit) -> Frame {
    match unit {
        CodeUnit::Module { source, language } => {
            let language = match language {
                CodeLanguage::JavaScript => 0,
                CodeLanguage::TypeScript => 1,
            };
            frame.u8(language).bytes(source.as_bytes())
        }
        CodeUnit::Expression(text) => frame.u8(2).bytes(text.as_bytes()),
    }
}

pub(super) fn read_unit(fields: &mut Fields<'_>) -> Result<CodeUnit, Malformed> {
    let kind = fields.u8()?;
    let source: Arc<str> = fields.text(usize::MAX)?.into();
    Ok(match kind {
        0 => CodeUnit::Module { source, language: CodeLanguage::JavaScript },
        1 => CodeUnit::Module { source, language: CodeLanguage::TypeScript },
        2 => CodeUnit::Expression(source),
        _ => return Err(Malformed),
    })
}

/// Clock, seed and limits.
pub(super) fn conditions(frame: Frame, now: Timestamp, seed: u64, limits: &CodeLimits) -> Frame {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let frame = frame.u64(now.as_micros().cast_unsigned()).u64(seed);
    let frame = frame.u64(micros(limits.timeout())).u64(micros(limits.cpu_time()));
    let frame = frame.u64(if let Metering::Fuel(fuel) = limits.metering() { fuel } else { 0 });
    let sizes = [limits.memory_bytes(), limits.output_bytes(), limits.console_bytes(), limits.source_bytes()];
    sizes.into_iter().fold(frame, Frame::size)
}

pub(super) fn read_conditions(fields: &mut Fields<'_>) -> Result<(Timestamp, u64, CodeLimits), Malformed> {
    let (now, seed) = (Timestamp::from_micros(fields.u64()?.cast_signed()), fields.u64()?);
    let (timeout, cpu_time) = (Duration::from_micros(fields.u64()?), Duration::from_micros(fields.u64()?));
    let metering = match fields.u64()? {
        0 => Metering::Clock,
        fuel => Metering::Fuel(fuel),
    };
    let (memory, output, console, source) = (fields.size()?, fields.size()?, fields.size()?, fields.size()?);
    let limits = CodeLimits::default()
        .with_timeout(timeout)
        .and_then(|limits| limits.with_cpu_time(cpu_time))
        .and_then(|limits| limits.with_metering(metering))
        .and_then(|limits| limits.with_memory_bytes(memory))
        .and_then(|limits| limits.with_output_bytes(output))
        .and_then(|limits| limits.with_console_bytes(console))
        .and_then(|limits| limits.with_source_bytes(source));
    Ok((now, seed, limits.map_err(|_| Malformed)?))
}

impl<'a> Begin<'a> {
    pub(super) fn read(mut fields: Fields<'a>) -> Result<Self, Malformed> {
        let (id, project) = read_request(&mut fields)?;
        let unit = read_unit(&mut fields)?;
        let (params, context) = (fields.bytes()?, fields.bytes()?);
        let (now, seed, limits) = read_conditions(&mut fields)?;
        fields.end()?;
        Ok(Self { id, project, unit, params, context, now, seed, limits })
    }
}

impl<'a> Evaluate<'a> {
    pub(super) fn read(mut fields: Fields<'a>) -> Result<Self, Malformed> {
        let (id, project) = read_request(&mut fields)?;
        let count = fields.size()?;
        let mut expressions = Vec::new();
        for _ in 0..count {
            expressions.push(fields.text(usize::MAX)?.into());
        }
        let variables = fields.bytes()?;
        let (now, seed, limits) = read_conditions(&mut fields)?;
        fields.end()?;
        Ok(Self { id, project, expressions, variables, now, seed, limits })
    }
}

/// A call of the guest. `None` for arguments that are too long together.
pub(super) fn call(frame: Frame, operation: u32, arguments: Option<&[&[u8]]>) -> Frame {
    let frame = frame.u32(operation);
    match arguments {
        Some(arguments) => {
            let frame = frame.u8(u8::try_from(arguments.len()).unwrap_or(TOO_LONG));
            arguments.iter().fold(frame, |frame, argument| frame.bytes(argument))
        }
        None => frame.u8(TOO_LONG),
    }
}

/// The operation of a call and its arguments, if they are not too long.
pub(super) fn read_call(mut fields: Fields<'_>) -> Result<(u32, Option<Arguments<'_>>), Malformed> {
    let operation = fields.u32()?;
    let arguments = match fields.u8()? {
        TOO_LONG => None,
        count if usize::from(count) <= MAX_ARGUMENTS => {
            Some((0..count).map(|_| fields.bytes()).collect::<Result<Vec<_>, _>>()?)
        }
        _ => return Err(Malformed),
    };
    fields.end()?;
    Ok((operation, arguments))
}

/// How a host call ended.
pub(super) fn answer(frame: Frame, answer: &HostAnswer) -> Frame {
    match answer {
        Ok(reply) => frame.u8(0).bytes(reply),
        Err(text) => frame.u8(1).bytes(text),
    }
}

/// How a host call ended; `None` if that ends the step.
pub(super) fn read_answer(mut fields: Fields<'_>) -> Result<Option<HostAnswer>, Malformed> {
    let kind = fields.u8()?;
    let bytes = if kind == STOPPED { Vec::new() } else { fields.bytes()?.to_vec() };
    fields.end()?;
    Ok(match kind {
        0 => Some(Ok(bytes)),
        1 => Some(Err(bytes)),
        STOPPED => None,
        _ => return Err(Malformed),
    })
}

/// What a step returned, or why it did not.
pub(super) fn ended(frame: Frame, result: &Result<Written, CodeError>) -> Frame {
    match result {
        Ok(written) => {
            let frame = frame.u8(0).u64(written.fuel.unwrap_or_default()).u8(u8::from(written.console_truncated));
            console(frame, &written.console).bytes(&written.value)
        }
        Err(error) => failure(frame.u8(1), error),
    }
}

/// Reads what a step returned, which has to keep to its limits.
pub(super) fn read_ended(mut fields: Fields<'_>, limits: &CodeLimits) -> Result<Result<Written, CodeError>, Malformed> {
    if fields.flag()? {
        let error = read_failure(&mut fields, limits)?;
        fields.end()?;
        return Ok(Err(error));
    }
    let fuel = match (limits.metering(), fields.u64()?) {
        (Metering::Clock, 0) => None,
        (Metering::Fuel(most), fuel) if fuel <= most => Some(fuel),
        _ => return Err(Malformed),
    };
    let console_truncated = fields.flag()?;
    let console = read_console(&mut fields, limits.console_bytes())?;
    let value = fields.bytes()?;
    if value.len() > limits.output_bytes() {
        return Err(Malformed);
    }
    fields.end()?;
    Ok(Ok(Written { value: value.to_vec(), console, console_truncated, fuel }))
}

/// The result of one expression, or of compiling.
pub(super) fn result(frame: Frame, result: &Result<Vec<u8>, CodeError>) -> Frame {
    match result {
        Ok(value) => frame.u8(0).bytes(value),
        Err(error) => failure(frame.u8(1), error),
    }
}

pub(super) fn read_result(
    mut fields: Fields<'_>,
    limits: &CodeLimits,
) -> Result<Result<Vec<u8>, CodeError>, Malformed> {
    let result = if fields.flag()? { Err(read_failure(&mut fields, limits)?) } else { Ok(fields.bytes()?.to_vec()) };
    fields.end()?;
    if result.as_ref().is_ok_and(|value| value.len() > limits.output_bytes()) {
        return Err(Malformed);
    }
    Ok(result)
}

fn console(frame: Frame, lines: &[ConsoleLine]) -> Frame {
    let level = |level| match level {
        ConsoleLevel::Debug => 0,
        ConsoleLevel::Info => 1,
        ConsoleLevel::Log => 2,
        ConsoleLevel::Warn => 3,
        ConsoleLevel::Error => 4,
    };
    let frame = frame.size(lines.len());
    lines.iter().fold(frame, |frame, line| frame.u8(level(line.level)).bytes(line.text.as_bytes()))
}

fn read_console(fields: &mut Fields<'_>, most_bytes: usize) -> Result<Vec<ConsoleLine>, Malformed> {
    let count = fields.size()?;
    let mut left = most_bytes;
    let mut lines = Vec::new();
    for _ in 0..count {
        let level = match fields.u8()? {
            0 => ConsoleLevel::Debug,
            1 => ConsoleLevel::Info,
            2 => ConsoleLevel::Log,
            3 => ConsoleLevel::Warn,
            4 => ConsoleLevel::Error,
            _ => return Err(Malformed),
        };
        let text = fields.text(most_bytes)?;
        // As the sandbox counts them: a byte for each line.
        left = left.checked_sub(text.len() + 1).ok_or(Malformed)?;
        lines.push(ConsoleLine { level, text: text.to_owned() });
    }
    Ok(lines)
}

fn failure(frame: Frame, error: &CodeError) -> Frame {
    match error {
        CodeError::InvalidParams { message } => frame.u8(1).bytes(message.as_bytes()),
        CodeError::CpuTime { .. } => frame.u8(2),
        CodeError::FuelExhausted { .. } => frame.u8(3),
        CodeError::HostCallLimit { .. } => frame.u8(4),
        CodeError::InvalidSource { message, place: at } => place(frame.u8(5).bytes(message.as_bytes()), *at),
        CodeError::NoValue => frame.u8(6),
        CodeError::MemoryLimit { .. } => frame.u8(7),
        CodeError::OutputTooDeep { .. } => frame.u8(8),
        CodeError::OutputTooLarge { .. } => frame.u8(9),
        CodeError::SourceTooLarge { .. } => frame.u8(10),
        CodeError::StackExhausted => frame.u8(11),
        CodeError::Thrown { name, message, place: at, stack, console: lines } => {
            let frame = frame.u8(12).bytes(name.as_bytes()).bytes(message.as_bytes());
            console(place(frame, *at).bytes(stack.as_bytes()), lines)
        }
        CodeError::Timeout { .. } => frame.u8(13),
        CodeError::Unsettled => frame.u8(14),
        CodeError::Trap { message } => frame.u8(15).bytes(message.as_bytes()),
        CodeError::Bug { message } | CodeError::WorkerLost { how: message } => frame.u8(16).bytes(message.as_bytes()),
        // A worker can do everything, and what it was given has begun.
        CodeError::Unsupported { what } => frame.u8(16).bytes(what.as_bytes()),
        CodeError::Busy => frame.u8(16).bytes(b"a worker was busy"),
    }
}

/// Limits in an error are those of the request, whatever the worker says. It cannot say that a step has not begun or is to be
/// tried again: only its host knows that.
fn read_failure(fields: &mut Fields<'_>, limits: &CodeLimits) -> Result<CodeError, Malformed> {
    let text = |fields: &mut Fields<'_>| fields.text(MOST_TEXT_BYTES).map(str::to_owned);
    Ok(match fields.u8()? {
        1 => CodeError::InvalidParams { message: text(fields)? },
        2 => CodeError::CpuTime { limit: limits.cpu_time() },
        3 => match limits.metering() {
            Metering::Fuel(limit) => CodeError::FuelExhausted { limit },
            Metering::Clock => return Err(Malformed),
        },
        // The host counts the calls: it knows which limit it was, and puts it here.
        4 => CodeError::HostCallLimit { what: "host calls", limit: limits.host_calls() },
        5 => CodeError::InvalidSource { message: text(fields)?, place: read_place(fields)? },
        6 => CodeError::NoValue,
        7 => CodeError::MemoryLimit { limit_bytes: limits.memory_bytes() },
        8 => CodeError::OutputTooDeep { limit: MAX_DEPTH },
        9 => CodeError::OutputTooLarge { limit_bytes: limits.output_bytes() },
        10 => CodeError::SourceTooLarge { limit_bytes: limits.source_bytes() },
        11 => CodeError::StackExhausted,
        12 => CodeError::Thrown {
            name: text(fields)?,
            message: text(fields)?,
            place: read_place(fields)?,
            stack: text(fields)?,
            console: read_console(fields, limits.console_bytes())?,
        },
        13 => CodeError::Timeout { limit: limits.timeout() },
        14 => CodeError::Unsettled,
        15 => CodeError::Trap { message: text(fields)? },
        16 => CodeError::Bug { message: text(fields)? },
        _ => return Err(Malformed),
    })
}

fn place(frame: Frame, place: Option<SourcePlace>) -> Frame {
    let SourcePlace { line, column } = place.unwrap_or(SourcePlace { line: 0, column: 0 });
    frame.u8(u8::from(place.is_some())).u32(line).u32(column)
}

fn read_place(fields: &mut Fields<'_>) -> Result<Option<SourcePlace>, Malformed> {
    let (some, line, column) = (fields.flag()?, fields.u32()?, fields.u32()?);
    Ok(some.then_some(SourcePlace { line, column }))
}

/// Longest text of an error: names, messages and stacks are cut below.
const MOST_TEXT_BYTES: usize = 16 << 10;
