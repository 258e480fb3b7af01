//! [`SandboxMode`]: where code runs, by the names others have for it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{CodeSandbox, SandboxCapacity, SandboxStartError, WasmSandbox};

/// Where code runs. There is no mode without a sandbox: whoever insists brings a [`CodeSandbox`] of their own.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SandboxMode {
    /// WebAssembly in the host's process: [`WasmSandbox`].
    #[default]
    InProcess,
    /// WebAssembly in processes of its own: `ProcessSandbox`, feature `process-isolation`, Linux.
    Process,
}

/// A name that is no mode of this sandbox.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxModeError {
    /// Code outside a sandbox reads the host's memory, keys among it.
    #[error("`UNSANDBOXED` is refused: code outside a sandbox can read the host's keys; use `SANDBOXED`")]
    Unsandboxed,
    /// No mode is called that.
    #[error(
        "`{name}` is no sandbox mode: use `SANDBOXED`, `SANDBOX_CODE_ONLY`, `SANDBOX_PROCESS` or `SANDBOX_CODE_AND_PROCESS`"
    )]
    Unknown {
        /// The name, up to 64 characters of it.
        name: String,
    },
}

impl SandboxMode {
    /// The mode's name in the reference product.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InProcess => "SANDBOX_CODE_ONLY",
            Self::Process => "SANDBOX_CODE_AND_PROCESS",
        }
    }

    /// Starts a sandbox of this mode, with `capacity` for the process or for each of two worker processes.
    ///
    /// # Errors
    /// [`SandboxStartError`] lists them; [`SandboxStartError::Unsupported`] if this program has no worker processes.
    pub fn start(self, capacity: SandboxCapacity) -> Result<Arc<dyn CodeSandbox>, SandboxStartError> {
        match self {
            Self::InProcess => Ok(Arc::new(WasmSandbox::start(capacity)?)),
            #[cfg(feature = "process-isolation")]
            Self::Process => {
                let options = super::process::ProcessOptions::default().with_capacity(capacity);
                Ok(Arc::new(super::process::ProcessSandbox::start(options)?))
            }
            #[cfg(not(feature = "process-isolation"))]
            Self::Process => Err(SandboxStartError::Unsupported),
        }
    }
}

/// Reads the values of the reference product's `AP_EXECUTION_MODE`, and `V8` of `AP_SANDBOX_TYPE`, in any case. Its modes with
/// a process of their own are [`SandboxMode::Process`]; `SANDBOXED` and `V8`, which the guide recommends together, and
/// `SANDBOX_CODE_ONLY` are [`SandboxMode::InProcess`].
impl FromStr for SandboxMode {
    type Err = SandboxModeError;

    fn from_str(name: &str) -> Result<Self, SandboxModeError> {
        match name.to_ascii_uppercase().as_str() {
            "SANDBOXED" | "SANDBOX_CODE_ONLY" | "V8" => Ok(Self::InProcess),
            "SANDBOX_PROCESS" | "SANDBOX_CODE_AND_PROCESS" => Ok(Self::Process),
            "UNSANDBOXED" => Err(SandboxModeError::Unsandboxed),
            _ => Err(SandboxModeError::Unknown { name: name.chars().take(64).collect() }),
        }
    }
}

impl fmt::Display for SandboxMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_reference_product_are_read_or_refused_with_a_reason() {
        for (name, mode) in [
            ("SANDBOXED", SandboxMode::InProcess),
            ("SANDBOX_CODE_ONLY", SandboxMode::InProcess),
            ("v8", SandboxMode::InProcess),
            ("SANDBOX_PROCESS", SandboxMode::Process),
            ("sandbox_code_and_process", SandboxMode::Process),
        ] {
            assert_eq!(name.parse(), Ok(mode), "{name}");
        }
        for mode in [SandboxMode::InProcess, SandboxMode::Process] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert_eq!("UNSANDBOXED".parse::<SandboxMode>(), Err(SandboxModeError::Unsandboxed));
        let long = "x".repeat(1_000);
        assert_eq!(long.parse::<SandboxMode>(), Err(SandboxModeError::Unknown { name: "x".repeat(64) }));
    }
}
