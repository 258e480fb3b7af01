//! The border to the guest: the imports it may call, and the numbers both sides share with `engine-js/guest.c`.

use wasmtime::{Caller, Engine, Extern, Linker, Result, bail, format_err};

use super::ConsoleLevel;
use super::calls::HostError;
use super::state::{Interrupt, StepState};

/// How a call of the guest ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Returned,
    Threw,
    InvalidSource,
    InvalidParams,
    /// Only the host can go on with the step.
    Waiting,
    NoFunction,
    NoValue,
}

/// What a call of `report` carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    Value,
    Name,
    Message,
    Stack,
    Bytecode,
}

impl Outcome {
    pub(crate) fn from_guest(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Returned,
            1 => Self::Threw,
            2 => Self::InvalidSource,
            3 => Self::InvalidParams,
            4 => Self::Waiting,
            5 => Self::NoFunction,
            6 => Self::NoValue,
            _ => return None,
        })
    }
}

impl Part {
    pub(crate) fn from_guest(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Value,
            1 => Self::Name,
            2 => Self::Message,
            3 => Self::Stack,
            4 => Self::Bytecode,
            _ => return None,
        })
    }
}

/// Everything a step can reach outside its memory.
pub(crate) fn linker(engine: &Engine) -> Result<Linker<StepState>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap(MODULE, "now_us", |caller: Caller<'_, StepState>| caller.data().now_us())?;
    linker.func_wrap(
        MODULE,
        "console",
        |mut caller: Caller<'_, StepState>, level: u32, text: u32, length: u32| -> Result<()> {
            let level = console_level(level).ok_or_else(|| format_err!("the guest logged at an unknown level"))?;
            let (memory, state) = guest_memory(&mut caller)?;
            state.console.log(level, range(memory, text, length)?);
            Ok(())
        },
    )?;
    linker.func_wrap(
        MODULE,
        "report",
        |mut caller: Caller<'_, StepState>, part: u32, start: u32, length: u32| -> Result<()> {
            let part = Part::from_guest(part).ok_or_else(|| format_err!("the guest reported an unknown part"))?;
            let (memory, state) = guest_memory(&mut caller)?;
            state.take_report(part, range(memory, start, length)?);
            Ok(())
        },
    )?;
    linker.func_wrap(
        MODULE,
        "call",
        |mut caller: Caller<'_, StepState>, operation: u32, start: u32, count: u32| -> Result<i32> {
            let (memory, state) = guest_memory(&mut caller)?;
            let arguments = arguments(memory, start, count)?;
            let answer = match &mut state.calls {
                Some(calls) => calls.call(operation, &arguments)?,
                None => Err(no_host().into_text()),
            };
            // Native work may have taken long.
            state.check_interrupt()?;
            let (bytes, failed) = match answer {
                Ok(reply) => (reply, false),
                Err(text) => (text, true),
            };
            let length = i32::try_from(bytes.len())?;
            state.reply = bytes;
            Ok(if failed { -1 - length } else { length })
        },
    )?;
    linker.func_wrap(MODULE, "take", |mut caller: Caller<'_, StepState>, target: u32| -> Result<()> {
        let Some(memory) = caller.get_export("memory").and_then(Extern::into_memory) else {
            bail!("the guest has no memory");
        };
        let reply = std::mem::take(&mut caller.data_mut().reply);
        memory.write(&mut caller, target as usize, &reply)?;
        Ok(())
    })?;
    linker.func_wrap(
        MODULE,
        "start",
        |mut caller: Caller<'_, StepState>, id: u32, operation: u32, start: u32, count: u32| -> Result<()> {
            let (memory, state) = guest_memory(&mut caller)?;
            let arguments = arguments(memory, start, count)?;
            state.calls.as_mut().ok_or(Interrupt::NoHost)?.start(id, operation, &arguments)?;
            Ok(())
        },
    )?;
    Ok(linker)
}

fn no_host() -> HostError {
    HostError::new("TypeError", Interrupt::NoHost.to_string())
}

/// The bytes of each argument of a host call.
pub(crate) fn arguments(memory: &[u8], start: u32, count: u32) -> Result<Vec<&[u8]>> {
    if count as usize > MAX_ARGUMENTS {
        bail!("the guest passed too many arguments");
    }
    let list = range(memory, start, count.saturating_mul(ARGUMENT_BYTES))?;
    let one = |pair: &[u8]| {
        let (start, length) = pair
            .split_first_chunk::<4>()
            .zip(pair.last_chunk::<4>())
            .map(|((start, _), length)| (u32::from_le_bytes(*start), u32::from_le_bytes(*length)))?;
        // Nothing may be nowhere.
        if length == 0 { Some((0, 0)) } else { Some((start, length)) }
    };
    list.chunks_exact(ARGUMENT_BYTES as usize)
        .map(|pair| {
            let (start, length) = one(pair).ok_or_else(|| format_err!("the guest passed half an argument"))?;
            range(memory, start, length)
        })
        .collect()
}

pub(crate) fn console_level(number: u32) -> Option<ConsoleLevel> {
    Some(match number {
        0 => ConsoleLevel::Debug,
        1 => ConsoleLevel::Info,
        2 => ConsoleLevel::Log,
        3 => ConsoleLevel::Warn,
        4 => ConsoleLevel::Error,
        _ => return None,
    })
}

fn guest_memory<'a>(caller: &'a mut Caller<'_, StepState>) -> Result<(&'a [u8], &'a mut StepState)> {
    let Some(memory) = caller.get_export("memory").and_then(Extern::into_memory) else {
        bail!("the guest has no memory");
    };
    let (bytes, state) = memory.data_and_store_mut(caller);
    Ok((bytes, state))
}

/// The bytes the guest points to, if they lie inside its memory.
fn range(memory: &[u8], start: u32, length: u32) -> Result<&[u8]> {
    let bytes = memory.get(start as usize..).and_then(|bytes| bytes.get(..length as usize));
    bytes.ok_or_else(|| format_err!("the guest passed a range outside its memory"))
}

const MODULE: &str = "ap";

/// Most arguments of a host call.
const MAX_ARGUMENTS: usize = 8;

/// `struct argument`: a pointer and a length.
const ARGUMENT_BYTES: u32 = 8;

#[cfg(test)]
mod tests {
    use wasmtime::ExternType;

    use super::*;
    use crate::sandbox::{engine::LoadedEngine, layout::Layout};

    #[test]
    fn a_range_must_lie_inside_the_memory() {
        let memory = [1, 2, 3, 4];
        assert_eq!(range(&memory, 1, 3).unwrap(), [2, 3, 4]);
        assert!(range(&memory, 4, 0).unwrap().is_empty());
        for (start, length) in [(0, 5), (1, 4), (4, 1), (5, 0), (u32::MAX, 2), (2, u32::MAX), (u32::MAX, u32::MAX)] {
            assert!(range(&memory, start, length).is_err(), "{start} {length}");
        }
    }

    #[test]
    fn unknown_numbers_are_refused() {
        assert_eq!((Outcome::from_guest(6), Outcome::from_guest(7)), (Some(Outcome::NoValue), None));
        assert_eq!((Part::from_guest(4), Part::from_guest(5)), (Some(Part::Bytecode), None));
        assert_eq!((console_level(4), console_level(5)), (Some(ConsoleLevel::Error), None));
    }

    #[test]
    fn arguments_must_lie_inside_the_memory() {
        let memory = |pairs: &[(u32, u32)]| {
            let pairs = pairs.iter().flat_map(|(start, length)| [start.to_le_bytes(), length.to_le_bytes()]);
            [b"abcd".to_vec(), pairs.flatten().collect()].concat()
        };
        let bytes = memory(&[(0, 4), (2, 1), (u32::MAX, 0)]);
        assert_eq!(arguments(&bytes, 4, 3).unwrap(), [&b"abcd"[..], b"c", b""]);
        assert!(arguments(&bytes, 4, 4).is_err(), "the list ends before");
        assert!(arguments(&bytes, u32::MAX, 1).is_err());
        assert!(arguments(&memory(&[(0, 4); 9]), 4, 9).is_err(), "too many");
        for (start, length) in [(3, u32::MAX), (u32::MAX, 1), (0, 1 << 20)] {
            assert!(arguments(&memory(&[(start, length)]), 4, 1).is_err(), "{start} {length}");
        }
    }

    #[test]
    fn the_guest_imports_six_functions_and_exports_what_the_host_calls() {
        let guest = LoadedEngine::load_as(Layout::Compact, 1).unwrap().guest;
        let imports: Vec<_> = guest.module().imports().map(|import| (import.module(), import.name())).collect();
        let functions = guest.module().imports().all(|import| matches!(import.ty(), ExternType::Func(_)));
        let mut sorted = imports.clone();
        sorted.sort_unstable();
        let expected = ["call", "console", "now_us", "report", "start", "take"].map(|name| ("ap", name));
        assert_eq!(sorted, expected);
        assert!(functions);
        let mut exports: Vec<_> = guest.module().exports().map(|export| export.name()).collect();
        exports.sort_unstable();
        assert_eq!(exports, ["alloc", "compile", "evaluate", "memory", "run", "settle"]);
    }
}
