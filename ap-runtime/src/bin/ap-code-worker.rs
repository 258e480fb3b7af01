//! A worker of the code sandbox for hosts whose own program is not to be started a second time: see
//! `ap_runtime::sandbox::process::ProcessOptions::with_program`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ap_runtime::sandbox::process::serve_if_worker();
    eprintln!("ap-code-worker is started by hosts of ap-runtime, and does nothing else");
    ExitCode::from(2)
}
