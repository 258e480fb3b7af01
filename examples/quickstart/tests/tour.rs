//! Runs the program as a newcomer would, and reads what it prints.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::Path, process::Command};

/// Runs the program and returns how it ended, what it printed and what it complained about.
fn quickstart(arguments: &[&Path]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_quickstart")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn every_promise_holds_twice_on_the_same_files() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let (code, printed, complaints) = quickstart(&[directory.path()]);
        assert_eq!((code, complaints.as_str()), (Some(0), ""), "{printed}");
        for expected in [
            "✓ signed: answered 201 {\"contact\":1}",
            "✓ the same delivery once more: the same run, the same answer",
            "✓ a wrong signature: answered 401, no run",
            "✓ the peer saw the right bearer token, once, and created 1 contact",
            "\"Authorization\":\"Bearer ‹crm.token›\"",
            "\"calledWith\":\"Bearer ‹redacted:crm›\"",
            "✓ the restarted host completed the run: SUCCEEDED",
            "✓ asked 2 times under one idempotency key, the peer created 1",
            "✓ both runs and the refused request are on record",
            "✓ the bearer token: 0 hits",
            "✓ the signing secret: 0 hits",
            "All promises held.",
        ] {
            assert!(printed.contains(expected), "`{expected}` is missing in\n{printed}");
        }
        let lines = printed.lines().count();
        assert!(lines <= 70, "{lines} lines are more than anyone reads\n{printed}");
        #[cfg(unix)]
        assert!(printed.contains("SIGKILL"), "{printed}");
    }
    assert!(directory.path().join("keys/root.key").exists());
    assert!(!directory.path().join("data/root.key").exists());
}

#[test]
fn a_failure_is_told_and_shows_in_the_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("keys")).unwrap();
    std::fs::write(directory.path().join("keys/root.key"), "no key").unwrap();
    let (code, printed, complaints) = quickstart(&[directory.path()]);
    assert_eq!(code, Some(1), "{printed}");
    assert!(complaints.contains("quickstart failed"), "{complaints}");
    assert!(!printed.contains("All promises held"), "{printed}");

    let (code, _, complaints) = quickstart(&[Path::new("--help")]);
    assert_eq!(code, Some(1));
    assert!(complaints.contains("usage: quickstart [DIRECTORY]"), "{complaints}");
}
