//! Rules over source files.

use crate::sources::{self, Source};

/// Crates that only one room may name.
const ROOMS: &[(&str, &[&str])] = &[
    ("rusqlite", &["ap-runtime/src/backend/sqlite/", "ap-runtime/src/egress/sql/sqlite.rs"]),
    ("sqlx", &["ap-runtime/src/backend/"]),
    ("redis", &["ap-runtime/src/backend/"]),
    ("rustls", &["ap-runtime/src/backend/redis/", "ap-runtime/src/egress/tls.rs"]),
    ("tokio_rustls", &["ap-runtime/src/egress/"]),
    ("tokio_postgres", &["ap-runtime/src/egress/sql/"]),
    ("lettre", &["ap-runtime/src/egress/mail/"]),
    ("reqwest", &["ap-runtime/src/egress/"]),
    ("wasmtime", &["ap-runtime/src/sandbox/", "ap-runtime/build.rs"]),
    ("landlock", &["ap-runtime/src/sandbox/process/"]),
    ("nix", &["ap-runtime/src/sandbox/process/"]),
    ("rustix", &["ap-runtime/src/sandbox/process/"]),
    ("seccompiler", &["ap-runtime/src/sandbox/process/"]),
    ("getrandom", &["ap-crypto/src/entropy.rs"]),
];

/// The only files of the runtime that start tasks, threads or processes.
const SPAWNING: &[&str] = &[
    "ap-runtime/src/backend/postgres/wakeup.rs",
    "ap-runtime/src/backend/postgres/writer.rs",
    "ap-runtime/src/backend/redis/mod.rs",
    "ap-runtime/src/backend/sqlite/reader.rs",
    "ap-runtime/src/backend/sqlite/writer.rs",
    "ap-runtime/src/egress/sql/sqlite.rs",
    "ap-runtime/src/executor/worker.rs",
    "ap-runtime/src/oauth/renew.rs",
    "ap-runtime/src/sandbox/deadline.rs",
    "ap-runtime/src/sandbox/process/post.rs",
    "ap-runtime/src/sandbox/process/serve.rs",
    "ap-runtime/src/sandbox/worker.rs",
];

/// The only files of the published crates that ask the machine for the time.
const CLOCKS: &[&str] = &[
    "ap-runtime/src/clock.rs",
    "ap-runtime/src/conformance/wakeup.rs",
    "ap-runtime/src/sandbox/conduct.rs",
    "ap-runtime/src/sandbox/deadline.rs",
    "ap-runtime/src/sandbox/process/post.rs",
    "ap-runtime/src/sandbox/process/remote.rs",
    "ap-runtime/src/sandbox/process/wire.rs",
    "ap-runtime/src/sandbox/state.rs",
    "ap-runtime/src/sandbox/step.rs",
];

/// Programs in the guise of a test, which another test starts as a child process and kills.
const CHILDREN: &[&str] = &[
    "ap-runtime/src/sandbox/process/tests.rs",
    "ap-runtime/tests/crash/child.rs",
    "ap-runtime/tests/crash/rotation.rs",
    "ap-runtime/tests/oauth/processes.rs",
    "ap-runtime/tests/sandbox_process/workers.rs",
];

const UNSAFE_ROOM: &str = "ap-runtime/src/sandbox/";
const MOST_PRODUCTION_LINES: usize = 600;

fn outside_its_room(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_shipped()) {
        for (name, rooms) in ROOMS.iter().filter(|(_, rooms)| !rooms.iter().any(|room| source.path.starts_with(room))) {
            let lines = source.text.lines().filter(|line| !line.trim_start().starts_with("//"));
            found.extend(
                lines
                    .filter(|line| has_word(line, name))
                    .map(|line| format!("{}: only {} may name {name}: {}", source.path, rooms.join(", "), line.trim())),
            );
        }
    }
    found
}

/// Paths of shipped files, build scripts apart, with a production line that `wanted` holds of.
fn files_with(sources: &[Source], under: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let shipped = sources.iter().filter(|source| source.is_shipped() && source.path.contains("/src/"));
    let shipped = shipped.filter(|source| source.path.starts_with(under));
    shipped.filter(|source| source.code_lines().any(&wanted)).map(|source| source.path.clone()).collect()
}

fn starts_tasks(line: &str) -> bool {
    line.match_indices("spawn").any(|(at, _)| {
        let rest = line[at..].trim_start_matches(|letter: char| letter.is_alphanumeric() || letter == '_');
        !line[..at].ends_with(is_name) && rest.starts_with('(')
    })
}

fn asks_for_time(line: &str) -> bool {
    ["Instant::now", "SystemTime::now", "Utc::now", "Timestamp::now", "Zoned::now"]
        .iter()
        .any(|call| line.contains(call))
}

fn unsafe_code(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    let mut expected = 0;
    for source in sources.iter().filter(|source| source.path.starts_with("ap-") && source.path.ends_with(".rs")) {
        let excused = source.code_lines().filter(|line| line.contains("(unsafe_code")).collect::<Vec<_>>();
        for line in &excused {
            match line.trim() {
                line if line.starts_with("#[expect(") && source.path.starts_with(UNSAFE_ROOM) => expected += 1,
                "#![forbid(unsafe_code)]" | "#![deny(unsafe_code)]" => {}
                line => found.push(format!("{}: {line}", source.path)),
            }
        }
        let here = source.code_lines().filter(|line| has_word(line, "unsafe")).count();
        if here > 0 && !excused.iter().any(|line| line.contains("#[expect(")) {
            found.push(format!("{}: unsafe code without `#[expect(unsafe_code, reason = …)]`", source.path));
        }
    }
    if expected != 1 {
        found.push(format!("`#[expect(unsafe_code)]` stands {expected} times under {UNSAFE_ROOM}, not once"));
    }
    found
}

fn without_forbid(sources: &[Source]) -> Vec<String> {
    let heads = sources.iter().filter(|source| {
        source.path.starts_with("ap-") && source.path.matches('/').count() == 2 && source.path.ends_with("/src/lib.rs")
    });
    let lenient = heads.filter(|source| {
        let wanted =
            if source.path.starts_with("ap-runtime/") { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
        !source.text.lines().any(|line| line == wanted)
    });
    lenient.map(|source| format!("{}: unsafe code is not ruled out", source.path)).collect()
}

fn too_long(sources: &[Source]) -> Vec<String> {
    let rust = sources.iter().filter(|source| source.is_shipped() || source.path.contains("/src/"));
    let rust = rust.filter(|source| source.path.ends_with(".rs") && !source.path.ends_with("/tests.rs"));
    let long = rust.map(|source| (source, source.production_lines().count()));
    let long = long.filter(|(_, lines)| *lines > MOST_PRODUCTION_LINES);
    long.map(|(source, lines)| format!("{}: {lines} lines, more than {MOST_PRODUCTION_LINES}", source.path)).collect()
}

fn skipped_checks(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    // Put together here, so that this file does not find itself.
    let (attribute, fence) = (["#[", "ignore"].concat(), ["``", "`ignore"].concat());
    let (later, never) = (["todo", "!("].concat(), ["unimplemented", "!("].concat());
    for source in sources.iter().filter(|source| source.path.ends_with(".rs") || source.path.ends_with(".md")) {
        let child = CHILDREN.contains(&source.path.as_str());
        for (number, line) in (1..).zip(source.text.lines()) {
            if child && line.trim().starts_with(&[attribute.as_str(), " = \"started by "].concat()) {
                continue;
            }
            if [&attribute, &fence, &later, &never].iter().any(|bad| line.contains(bad.as_str())) {
                found.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    found
}

/// Places on somebody's machine, and notes to oneself.
fn private_matters(sources: &[Source]) -> Vec<String> {
    let words = [
        ["/ho", "me/"].concat(),
        ["/ro", "ot/"].concat(),
        ["/wo", "rk/"].concat(),
        ["/tmp/", "team"].concat(),
        ["/Us", "ers/"].concat(),
        ["FIX", "ME"].concat(),
        ["TO", "DO"].concat(),
        ["XX", "X:"].concat(),
    ];
    let mut found = Vec::new();
    for source in sources {
        for (number, line) in (1..).zip(source.text.lines()) {
            if let Some(word) = words.iter().find(|word| line.contains(word.as_str())) {
                found.push(format!("{}:{number}: `{word}` in: {}", source.path, line.trim()));
            }
        }
    }
    found
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_name) && !line[at + word.len()..].starts_with(is_name))
}

fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

#[track_caller]
fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn drivers_and_engines_are_named_in_their_rooms_only() {
    assert_none(&outside_its_room(&sources::all()));
    let bad = Source::new("ap-runtime/src/session/flows.rs", "use sqlx::Row;\n");
    assert_eq!(outside_its_room(&[bad]).len(), 1);
    let fine = [
        Source::new("ap-runtime/src/backend/sqlite/run.rs", "use rusqlite::Row;\n"),
        Source::new("ap-runtime/src/lib.rs", "//! no sqlx type gets out\npub mod my_sqlx;\n"),
    ];
    assert_none(&outside_its_room(&fine));
}

#[test]
fn tasks_and_threads_start_in_few_files() {
    assert_eq!(files_with(&sources::all(), "ap-", starts_tasks), SPAWNING);
    for line in ["tokio::spawn(async {})", "self.tasks.spawn(run())", "spawn_blocking(|| 1)", "thread::spawn(f)"] {
        assert!(starts_tasks(line), "{line}");
    }
    for line in ["let respawn = 1;", "respawn(1)", "use std::thread::spawn;", "spawned"] {
        assert!(!starts_tasks(line), "{line}");
    }
}

#[test]
fn the_time_is_asked_for_in_the_clock_and_the_sandbox() {
    assert_eq!(files_with(&sources::all(), "ap-", asks_for_time), CLOCKS);
    assert!(asks_for_time("let now = std::time::Instant::now();"));
    assert!(!asks_for_time("let now = clock.now();"));
}

#[test]
fn engine_and_executor_depend_on_no_hash_order() {
    let hashed = |line: &str| has_word(line, "HashMap") || has_word(line, "HashSet");
    for room in ["ap-runtime/src/engine/", "ap-runtime/src/executor/"] {
        assert_none(&files_with(&sources::all(), room, hashed));
    }
    let bad = Source::new("ap-runtime/src/engine/state.rs", "use std::collections::HashMap;\n");
    assert_eq!(files_with(&[bad], "ap-runtime/src/engine/", hashed).len(), 1);
}

#[test]
fn unsafe_code_is_excused_once() {
    let all = sources::all();
    assert_none(&unsafe_code(&all));
    assert_none(&without_forbid(&all));
    let once = "#[expect(unsafe_code, reason = \"…\")]\nfn f() { unsafe { g() } }\n";
    assert_none(&unsafe_code(&[Source::new("ap-runtime/src/sandbox/engine.rs", once)]));
    let twice = [Source::new("ap-runtime/src/sandbox/a.rs", once), Source::new("ap-runtime/src/sandbox/b.rs", once)];
    assert_eq!(unsafe_code(&twice).len(), 1);
    // In the wrong room, which also leaves the right one without.
    assert_eq!(unsafe_code(&[Source::new("ap-core/src/id.rs", once)]).len(), 2);
    let allowed = Source::new("ap-runtime/src/sandbox/a.rs", "#![allow(unsafe_code)]\n");
    assert_eq!(unsafe_code(&[allowed]).len(), 2);
    assert_eq!(without_forbid(&[Source::new("ap-core/src/lib.rs", "#![deny(unsafe_code)]\n")]).len(), 1);
}

#[test]
fn no_file_is_too_long() {
    assert_none(&too_long(&sources::all()));
    let file = |lines: usize| [Source::new("ap-core/src/a.rs", &"fn f() {}\n".repeat(lines))];
    assert_none(&too_long(&file(600)));
    assert_eq!(too_long(&file(601)).len(), 1);
}

#[test]
fn no_check_is_skipped() {
    assert_none(&skipped_checks(&sources::all()));
    let bad = ["    #[ign", "ore]\n", "/// ``", "`ignore\n", "to", "do!()\n"].concat();
    assert_eq!(skipped_checks(&[Source::new("ap-core/src/a.rs", &bad)]).len(), 3);
    let child = ["#[ign", "ore = \"started by the loop\"]\n"].concat();
    assert_none(&skipped_checks(&[Source::new(CHILDREN[0], &child)]));
    assert_eq!(skipped_checks(&[Source::new("ap-core/tests/a.rs", &child)]).len(), 1);
}

#[test]
fn the_project_speaks_of_itself() {
    assert_none(&private_matters(&sources::all()));
    let bad = ["// see /ho", "me/me/notes\n// TO", "DO later\n"].concat();
    assert_eq!(private_matters(&[Source::new("README.md", &bad)]).len(), 2);
}
