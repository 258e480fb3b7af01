//! The border to the guest: the imports it may call, and the numbers both sides share with `engine-js/guest.c`.

use wasmtime::{Caller, Engine, Extern, Linker, Result, bail, format_err};

use super::ConsoleLevel;
use super::step::StepState;

/// How the guest's `run` ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Returned,
    Threw,
    InvalidSource,
    InvalidParams,
    Unsettled,
    NoFunction,
}

/// What a call of `report` carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    Value,
    Name,
    Message,
    Stack,
}

impl Outcome {
    pub(crate) fn from_guest(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Returned,
            1 => Self::Threw,
            2 => Self::InvalidSource,
            3 => Self::InvalidParams,
            4 => Self::Unsettled,
            5 => Self::NoFunction,
            _ => return None,
        })
    }
}

impl Part {
    fn from_guest(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Value,
            1 => Self::Name,
            2 => Self::Message,
            3 => Self::Stack,
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
            let (bytes, state) = guest_bytes(&mut caller, text, length)?;
            state.log(level, bytes);
            Ok(())
        },
    )?;
    linker.func_wrap(
        MODULE,
        "report",
        |mut caller: Caller<'_, StepState>, part: u32, text: u32, length: u32| -> Result<()> {
            let part = Part::from_guest(part).ok_or_else(|| format_err!("the guest reported an unknown part"))?;
            let (bytes, state) = guest_bytes(&mut caller, text, length)?;
            state.report(part, bytes);
            Ok(())
        },
    )?;
    Ok(linker)
}

fn console_level(number: u32) -> Option<ConsoleLevel> {
    Some(match number {
        0 => ConsoleLevel::Debug,
        1 => ConsoleLevel::Info,
        2 => ConsoleLevel::Log,
        3 => ConsoleLevel::Warn,
        4 => ConsoleLevel::Error,
        _ => return None,
    })
}

/// The bytes the guest points to, if they lie inside its memory.
fn guest_bytes<'a>(
    caller: &'a mut Caller<'_, StepState>,
    start: u32,
    length: u32,
) -> Result<(&'a [u8], &'a mut StepState)> {
    let Some(memory) = caller.get_export("memory").and_then(Extern::into_memory) else {
        bail!("the guest has no memory");
    };
    let (bytes, state) = memory.data_and_store_mut(caller);
    Ok((range(bytes, start, length)?, state))
}

fn range(memory: &[u8], start: u32, length: u32) -> Result<&[u8]> {
    let bytes = memory.get(start as usize..).and_then(|bytes| bytes.get(..length as usize));
    bytes.ok_or_else(|| format_err!("the guest passed a range outside its memory"))
}

const MODULE: &str = "ap";

#[cfg(test)]
mod tests {
    use wasmtime::ExternType;

    use super::*;
    use crate::sandbox::engine::LoadedEngine;

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
        assert_eq!((Outcome::from_guest(5), Outcome::from_guest(6)), (Some(Outcome::NoFunction), None));
        assert_eq!((Part::from_guest(3), Part::from_guest(4)), (Some(Part::Stack), None));
        assert_eq!((console_level(4), console_level(5)), (Some(ConsoleLevel::Error), None));
    }

    #[test]
    fn the_guest_imports_three_functions_and_exports_what_the_host_calls() {
        let guest = LoadedEngine::load(1).unwrap().guest;
        let imports: Vec<_> = guest.module().imports().map(|import| (import.module(), import.name())).collect();
        let functions = guest.module().imports().all(|import| matches!(import.ty(), ExternType::Func(_)));
        let mut sorted = imports.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [("ap", "console"), ("ap", "now_us"), ("ap", "report")]);
        assert!(functions);
        let mut exports: Vec<_> = guest.module().exports().map(|export| export.name()).collect();
        exports.sort_unstable();
        assert_eq!(exports, ["alloc", "memory", "run"]);
    }
}
