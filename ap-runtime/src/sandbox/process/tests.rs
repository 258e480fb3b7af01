//! Walls that stand, frames that lie, and workers that mean harm.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, io, net, process, thread};

use ap_core::time::Timestamp;
use proptest::prelude::*;

use super::message::{self, Begin, control, to_host, to_worker};
use super::walls::{self, Landlock};
use super::wire::{Fields, Frame, Wire, WireError};
use super::*;
use crate::sandbox::step::Written;
use crate::sandbox::{CodeLanguage, CodeLimits, ConsoleLevel, ConsoleLine, Metering, NoCodeHost, SourcePlace};

/// Starts one of the children below in a process of its own.
fn child(name: &str, variable: &str, value: &str) -> Output {
    let test = format!("sandbox::process::tests::{name}");
    let arguments = ["--exact", test.as_str(), "--ignored", "--nocapture", "--test-threads=1"];
    Command::new(env::current_exe().unwrap()).args(arguments).env(variable, value).output().unwrap()
}

fn refused<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Puts the walls up, and then does what is named. Reaching the end means that it was refused, or allowed where it should be.
#[test]
#[ignore = "started by `walls_leave_computing_and_nothing_else`"]
fn probe() {
    let name = env::var("AP_PROBE").unwrap();
    let (pair, parent) = (UnixStream::pair().unwrap(), rustix::process::getppid().unwrap());
    let standing = walls::give_up_files_and_privileges().unwrap();
    if name == "files before the filter" {
        let closed = refused(fs::File::open("/etc/passwd")) && refused(fs::read("/proc/self/environ"));
        println!("{}", if closed || standing.landlock == Landlock::Absent { "refused" } else { "opened" });
        process::exit(0);
    }
    walls::leave_only_computing(8 << 30).unwrap();
    let as_it_should = match name.as_str() {
        "computing" => {
            let block = vec![7_u8; 64 << 20];
            let map: HashMap<_, _> = (0..1_000).map(|number| (number, block[number])).collect();
            thread::sleep(Duration::from_millis(1));
            (&pair.0).write_all(b"through").unwrap();
            let mut read = [0; 7];
            (&pair.1).read_exact(&mut read).unwrap();
            map.len() == 1_000 && read == *b"through"
        }
        "open" => refused(fs::File::open("/etc/passwd")),
        "create" => refused(fs::File::create("/tmp/ap-code-worker-probe")),
        "environment" => refused(fs::read("/proc/self/environ")),
        "memory of the host" => refused(fs::File::open(format!("/proc/{parent}/mem"))),
        "socket" => net::UdpSocket::bind("127.0.0.1:0").is_err(),
        "connect" => net::TcpStream::connect("127.0.0.1:1").is_err(),
        "socket pair" => UnixStream::pair().is_err(),
        "exec" => Command::new("/bin/true").status().is_err(),
        "thread" => thread::Builder::new().spawn(|| {}).is_err(),
        "signal" => rustix::process::kill_process(parent, rustix::process::Signal::CONT).is_err(),
        "ptrace" => nix::sys::ptrace::traceme().is_err(),
        "duplicate" => pair.0.try_clone().is_err(),
        "other users" => nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).is_err(),
        "lifting a limit" => {
            let limit = rustix::process::Rlimit { current: Some(64), maximum: Some(64) };
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).is_err()
        }
        #[cfg(feature = "locked-memory")]
        "executable memory" => region::alloc(4_096, region::Protection::READ_WRITE_EXECUTE).is_err(),
        other => panic!("{other}"),
    };
    println!("{}", if as_it_should { "refused" } else { "opened" });
    process::exit(0);
}

#[test]
fn walls_leave_computing_and_nothing_else() {
    let ended = |name: &str| child("probe", "AP_PROBE", name);
    for name in ["files before the filter", "computing", "open", "create", "environment", "memory of the host"] {
        let output = ended(name);
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && printed.contains("refused"), "{name}: {output:?}");
    }
    let mut deadly = vec![
        "socket",
        "connect",
        "socket pair",
        "exec",
        "thread",
        "signal",
        "ptrace",
        "duplicate",
        "other users",
        "lifting a limit",
    ];
    if cfg!(feature = "locked-memory") {
        deadly.push("executable memory");
    }
    for name in deadly {
        let output = ended(name);
        assert_eq!(output.status.signal(), Some(31), "{name}: {output:?}");
    }
    assert!(!fs::exists("/tmp/ap-code-worker-probe").unwrap());
}

fn wires() -> (Wire, Wire) {
    let (one, other) = UnixStream::pair().unwrap();
    (Wire::new(one), Wire::new(other))
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(300))
}

#[test]
fn frames_arrive_whole_and_in_order_whatever_their_length() {
    let (mut host, mut worker) = wires();
    let lengths = [0, 1, 10, 16_379, 16_380, 16_381, 300_000, 5, 3 << 20];
    let writer = thread::spawn(move || {
        for length in lengths {
            worker.send(Frame::new(7).bytes(&vec![1; length]), None).unwrap();
        }
    });
    for length in lengths {
        let frame = host.receive(4 << 20, Some(Instant::now() + Duration::from_secs(20))).unwrap();
        let mut fields = Fields::new(&frame);
        assert_eq!((fields.u8(), fields.bytes().map(<[u8]>::len)), (Ok(7), Ok(length)));
    }
    writer.join().unwrap();
    assert!(matches!(host.receive(10, soon()), Err(WireError::Closed)));
}

#[test]
fn a_length_is_accepted_up_to_the_limit() {
    for (most, accepted) in [(9, false), (10, true), (11, true)] {
        let (mut host, mut worker) = wires();
        worker.send(Frame::new(1).bytes(&[0; 5]), None).unwrap();
        assert_eq!(host.receive(most, soon()).is_ok(), accepted, "{most}");
    }
    for head in [0_u32, 1 << 31, u32::MAX] {
        let (mut host, worker) = wires();
        worker.stream().write_all(&head.to_le_bytes()).unwrap();
        assert!(matches!(host.receive(1 << 20, soon()), Err(WireError::TooLong(_))), "{head}");
    }
}

#[test]
fn whoever_does_not_come_to_the_end_is_not_waited_for() {
    let (mut host, worker) = wires();
    let trickle = thread::spawn(move || {
        let frame = Frame::new(1).bytes(&[0; 1_000]).into_bytes();
        // A byte now and then, for longer than anybody waits.
        for byte in frame {
            if worker.stream().write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    let began = Instant::now();
    assert!(matches!(host.receive(1 << 20, soon()), Err(WireError::Late)));
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(host);
    trickle.join().unwrap();
    // One who does not read at all, and one who reads a little now and then.
    for (length, count) in [(64 << 20, 1), (1, 100_000)] {
        for reads in [false, true] {
            let (mut host, slow) = wires();
            let reader = thread::spawn(move || {
                let (mut bytes, until) = ([0; 64], Instant::now() + Duration::from_secs(1));
                while Instant::now() < until {
                    if reads {
                        let _ = slow.stream().read(&mut bytes);
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let (until, began) = (soon(), Instant::now());
            let sent = (0..count).try_for_each(|_| host.send(Frame::new(1).bytes(&vec![0; length]), until));
            assert!(matches!(sent, Err(WireError::Late)), "{length} {reads}: {sent:?}");
            assert!(began.elapsed() < Duration::from_secs(5), "{length} {reads}");
            drop(host);
            reader.join().unwrap();
        }
    }
}

fn limits() -> CodeLimits {
    let limits = CodeLimits::default().with_output_bytes(100).unwrap();
    limits.with_console_bytes(20).unwrap().with_metering(Metering::Fuel(1_000)).unwrap()
}

fn line(text: &str) -> ConsoleLine {
    ConsoleLine { level: ConsoleLevel::Warn, text: text.to_owned() }
}

/// Value, console and fuel.
type Said = (Vec<u8>, Vec<ConsoleLine>, Option<u64>);

fn through(result: &Result<Written, CodeError>) -> Option<Result<Said, CodeError>> {
    let bytes = message::ended(Frame::new(0), result).payload();
    let read = message::read_ended(Fields::new(bytes.get(1..)?), &limits()).ok()?;
    Some(read.map(|written| (written.value, written.console, written.fuel)))
}

#[test]
fn every_error_arrives_as_it_was_with_the_limits_of_the_request() {
    let limits = limits();
    let place = Some(SourcePlace { line: 3, column: 7 });
    let text = || "text".to_owned();
    for error in [
        CodeError::InvalidParams { message: text() },
        CodeError::CpuTime { limit: limits.cpu_time() },
        CodeError::FuelExhausted { limit: 1_000 },
        CodeError::HostCallLimit { what: "host calls", limit: limits.host_calls() },
        CodeError::InvalidSource { message: text(), place },
        CodeError::InvalidSource { message: text(), place: None },
        CodeError::NoValue,
        CodeError::MemoryLimit { limit_bytes: limits.memory_bytes() },
        CodeError::OutputTooDeep { limit: 100 },
        CodeError::OutputTooLarge { limit_bytes: 100 },
        CodeError::SourceTooLarge { limit_bytes: limits.source_bytes() },
        CodeError::StackExhausted,
        CodeError::Thrown { name: text(), message: text(), place, stack: text(), console: vec![line("a"), line("b")] },
        CodeError::Timeout { limit: limits.timeout() },
        CodeError::Unsettled,
        CodeError::Trap { message: text() },
        CodeError::Bug { message: text() },
    ] {
        assert_eq!(through(&Err(error.clone())), Some(Err(error)));
    }
    // Of a step that has begun nobody may say that it can begin again.
    for error in [CodeError::Busy, CodeError::WorkerLost { how: text() }] {
        assert!(matches!(through(&Err(error.clone())), Some(Err(CodeError::Bug { .. }))), "{error}");
    }
}

#[test]
fn what_a_worker_says_keeps_to_the_limits_or_is_refused() {
    let said = |value: usize, console: &[&str], fuel: u64| {
        let console = console.iter().map(|text| line(text)).collect();
        let written = Written { value: vec![b'1'; value], console, console_truncated: false, fuel: Some(fuel) };
        through(&Ok(written)).is_some()
    };
    for (value, accepted) in [(99, true), (100, true), (101, false)] {
        assert_eq!(said(value, &[], 1), accepted, "{value}");
    }
    // 20 bytes, one of them for each line.
    for (text, accepted) in [("12345678", true), ("123456789", true), ("1234567890", false)] {
        assert_eq!(said(1, &["123456789", text], 1), accepted, "{text}");
    }
    for (fuel, accepted) in [(999, true), (1_000, true), (1_001, false)] {
        assert_eq!(said(1, &[], fuel), accepted, "{fuel}");
    }
    let long = CodeError::Trap { message: "x".repeat(16 << 10) };
    assert_eq!(through(&Err(long.clone())), Some(Err(long)));
    assert_eq!(through(&Err(CodeError::Trap { message: "x".repeat((16 << 10) + 1) })), None);
    // Fuel where none is counted.
    let written = Written { value: Vec::new(), console: Vec::new(), console_truncated: false, fuel: Some(1) };
    let bytes = message::ended(Frame::new(0), &Ok(written)).payload();
    assert!(message::read_ended(Fields::new(&bytes[1..]), &CodeLimits::default()).is_err());
}

#[test]
fn calls_have_at_most_eight_arguments() {
    for (count, accepted) in [(0, true), (8, true), (9, false)] {
        let arguments = vec![&b"a"[..]; count];
        let bytes = message::call(Frame::new(0), 5, Some(&arguments)).payload();
        let read = message::read_call(Fields::new(&bytes[1..]));
        assert_eq!(read.ok(), accepted.then_some((5, Some(arguments))), "{count}");
    }
    let bytes = message::call(Frame::new(0), 5, None).payload();
    assert_eq!(message::read_call(Fields::new(&bytes[1..])), Ok((5, None)));
}

#[test]
fn a_request_arrives_as_it_was() {
    let project = ProjectId::from_u128(u128::MAX - 5);
    let unit = CodeUnit::Module { source: "export default 1".into(), language: CodeLanguage::TypeScript };
    let now = Timestamp::from_micros(-5);
    let frame = message::unit(message::request(0, 9, project), &unit).bytes(b"params").bytes(b"context");
    let bytes = message::conditions(frame, now, 11, &limits()).payload();
    let begin = Begin::read(Fields::new(&bytes[1..])).unwrap();
    assert_eq!((begin.id, begin.project, begin.params, begin.context), (9, project, &b"params"[..], &b"context"[..]));
    assert_eq!((begin.now, begin.seed), (now, 11));
    let expected = limits().with_host_calls(CodeLimits::default().host_calls()).unwrap();
    assert_eq!(begin.limits, expected);
    let CodeUnit::Module { source, language } = begin.unit else { panic!("another unit") };
    assert_eq!((&*source, language), ("export default 1", CodeLanguage::TypeScript));
}

#[test]
fn the_longest_messages_are_as_long_as_the_other_side_takes() {
    let limits = CodeLimits::default().with_output_bytes(16 << 20).unwrap().with_console_bytes(1 << 20).unwrap();
    assert!(
        limits.clone().with_output_bytes((16 << 20) + 1).is_err()
            && limits.clone().with_console_bytes((1 << 20) + 1).is_err()
    );
    // Empty lines take the most room on the way.
    let console = vec![line(""); limits.console_bytes()];
    let written = Written { value: vec![b' '; limits.output_bytes()], console, console_truncated: false, fuel: None };
    let ended = message::ended(Frame::new(to_host::ENDED), &Ok(written)).payload();
    assert!(ended.len() <= MOST_TO_HOST && message::read_ended(Fields::new(&ended[1..]), &limits).is_ok());
    let longest = vec![0; MOST_CALL_BYTES];
    let arguments: Vec<_> = [&longest[..]].into_iter().chain([&b""[..]; 7]).collect();
    let call = message::call(Frame::new(to_host::START).u32(1), 33, Some(&arguments)).payload();
    assert!(call.len() <= MOST_TO_HOST && message::read_call(Fields::new(&call[5..])).is_ok());

    let (memory, source) =
        (limits.memory_bytes(), "x".repeat(limits.with_source_bytes(1 << 20).unwrap().source_bytes()));
    assert_eq!(memory, MAX_MEMORY_BYTES);
    let answer = message::answer(Frame::new(to_worker::SETTLE).u64(1).u32(1), &Ok(vec![0; memory])).payload();
    let unit = CodeUnit::Module { source: source.into(), language: CodeLanguage::JavaScript };
    let begin = message::unit(message::request(to_worker::BEGIN, 1, ProjectId::from_u128(1)), &unit);
    let begin = begin.bytes(&vec![0; memory]).bytes(b"");
    let begin = message::conditions(begin, Timestamp::from_micros(0), 1, &CodeLimits::default()).payload();
    assert!(answer.len() <= MOST_TO_WORKER && begin.len() <= MOST_TO_WORKER);
}

proptest! {
    #[test]
    fn arbitrary_frames_never_panic_and_claim_no_memory(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for metering in [Metering::Clock, Metering::Fuel(1_000)] {
            let limits = limits().with_metering(metering).unwrap();
            if let Ok(Ok(written)) = message::read_ended(Fields::new(&bytes), &limits) {
                prop_assert!(written.value.len() <= 100 && written.console.len() <= 20);
            }
            let _ = message::read_result(Fields::new(&bytes), &limits);
        }
        let _ = message::read_call(Fields::new(&bytes));
        let _ = message::read_answer(Fields::new(&bytes));
    }

    #[test]
    fn values_and_console_come_through_unchanged(value in prop::collection::vec(any::<u8>(), 0..100), text in "[a-z]{0,9}") {
        let written = Written { value: value.clone(), console: vec![line(&text)], console_truncated: true, fuel: Some(5) };
        prop_assert_eq!(through(&Ok(written)), Some(Ok((value, vec![line(&text)], Some(5)))));
    }
}

/// Takes the part of a worker, up to the first step. Then it does what it is told.
#[test]
#[ignore = "started by `workers_that_mean_harm_harm_nobody`"]
fn hostile_worker() {
    use std::os::fd::AsFd as _;

    let behaviour = env::var("AP_BEHAVIOUR").unwrap();
    let input = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut connection = Wire::new(UnixStream::from(input));
    connection.send(Frame::new(control::HELLO).bytes(VERSION.as_bytes()), None).unwrap();
    let (mut links, _) = super::serve::receive_setup(&connection).unwrap();
    connection.send(Frame::new(control::READY).u32(8).u8(0).u8(0).u8(0), None).unwrap();
    let mut link = links.remove(0);
    link.receive(usize::MAX, None).unwrap();
    let console = vec![line(&"x".repeat(2 << 20))];
    let ended = |written| message::ended(Frame::new(to_host::ENDED), &Ok(written));
    let quiet = Written { value: b"1".to_vec(), console: Vec::new(), console_truncated: false, fuel: None };
    let raw = |bytes: &[u8]| link.stream().write_all(bytes).unwrap();
    let frames: Vec<Frame> = match behaviour.as_str() {
        "announces too much" => {
            raw(&u32::MAX.to_le_bytes());
            Vec::new()
        }
        "says nothing at all" => {
            raw(&[0; 4]);
            Vec::new()
        }
        "trickles" => {
            raw(&1_000_u32.to_le_bytes());
            while link.stream().write_all(&[to_host::ENDED]).is_ok() {
                thread::sleep(Duration::from_millis(30));
            }
            Vec::new()
        }
        "falls silent" | "closes a connection" => Vec::new(),
        "hangs up" => process::exit(0),
        "talks out of turn" => {
            connection.send(Frame::new(control::READY).u32(1), None).unwrap();
            Vec::new()
        }
        "invents kinds" => vec![Frame::new(99)],
        "compiles for ever" => (0..50).map(|_| Frame::new(to_host::COMPILING)).collect(),
        "compiles twice" => [to_host::COMPILING, to_host::COMPUTING].repeat(2).into_iter().map(Frame::new).collect(),
        "begins again and again" => {
            [[to_host::COMPILING].as_slice(), &[to_host::COMPUTING; 50]].concat().into_iter().map(Frame::new).collect()
        }
        "begins without a compiler" => vec![Frame::new(to_host::COMPUTING)],
        "asks while it compiles" => {
            vec![Frame::new(to_host::COMPILING), message::call(Frame::new(to_host::CALL), 9, Some(&[]))]
        }
        "gives results of another request" => vec![Frame::new(to_host::EVALUATED).u8(0).bytes(b"1")],
        "logs too much" => vec![ended(Written { console, ..quiet })],
        "returns too much" => vec![ended(Written { value: vec![b' '; 2 << 20], ..quiet })],
        "returns no JSON" => vec![ended(Written { value: b"{".to_vec(), ..quiet })],
        "invents fuel" => vec![ended(Written { fuel: Some(1), ..quiet })],
        "passes nine arguments" => vec![Frame::new(to_host::CALL).u32(9).u8(9)],
        "cuts a call short" => vec![Frame::new(to_host::CALL).u32(9).u8(1).u32(1 << 20)],
        "says it did not begin" => vec![Frame::new(to_host::ENDED).u8(1).u8(0)],
        "throws what is no text" => vec![Frame::new(to_host::ENDED).u8(1).u8(15).bytes(&[0xff, 0xfe])],
        "calls without end" => {
            (0..200).map(|_| message::call(Frame::new(to_host::CALL), 9, Some(&[b"https://a.example/"]))).collect()
        }
        // More answers than a socket holds.
        "asks and does not listen" => {
            (0..2_000).map(|_| message::call(Frame::new(to_host::CALL), 9, Some(&[b"https://a.example/"]))).collect()
        }
        "starts without end" => {
            (0..400).map(|id| message::call(Frame::new(to_host::START).u32(id), 32, Some(&[b"60000"]))).collect()
        }
        "asks for more than a step can hold" | "asks for more than a step can hold and goes on" => {
            let options = br#"{"algorithm":"aes-256-ctr"}"#;
            let data = vec![0; 5 << 20];
            let arguments = [&options[..], &[1; 32], &[2; 16], &[], &data, &[]];
            link.send(message::call(Frame::new(to_host::CALL), 5, Some(&arguments)), None).unwrap();
            assert_eq!(link.receive(usize::MAX, None).unwrap(), [to_worker::ANSWER, message::STOPPED]);
            let again = message::call(Frame::new(to_host::CALL), 9, Some(&[b"https://a.example/"]));
            let goes_on = behaviour.ends_with("on");
            vec![if goes_on { again } else { Frame::new(to_host::ENDED).u8(1).u8(4) }]
        }
        other => panic!("{other}"),
    };
    for frame in frames {
        if link.send(frame, None).is_err() {
            break;
        }
    }
    if behaviour == "closes a connection" {
        drop(link);
    }
    thread::sleep(Duration::from_secs(60)); // until it is stopped
}

#[tokio::test]
async fn workers_that_mean_harm_harm_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("worker");
    let test = env::current_exe().unwrap();
    let start = |behaviour: &str| {
        let script = format!(
            "#!/bin/sh\nexport AP_BEHAVIOUR='{behaviour}'\nexec '{}' --exact sandbox::process::tests::hostile_worker \
             --ignored --nocapture --test-threads=1\n",
            test.display()
        );
        // Under another name each time: a program that runs cannot be written.
        let program = program.with_extension(behaviour.replace(' ', "-"));
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let capacity = SandboxCapacity::default().with_threads(1).unwrap();
        let options = ProcessOptions::default().with_program(program).with_workers(1).unwrap().with_capacity(capacity);
        ProcessSandbox::start(options.with_grace(Duration::from_millis(200)).unwrap()).unwrap()
    };
    let request = CodeRequest {
        project: ProjectId::from_u128(1),
        source: "export const code = () => 1;".into(),
        language: CodeLanguage::JavaScript,
        params: "{}".into(),
        context: "{}".into(),
        now: Timestamp::from_micros(0),
        seed: [1; 32],
        limits: CodeLimits::default()
            .with_timeout(Duration::from_millis(300))
            .unwrap()
            .with_host_calls(100)
            .unwrap()
            .with_memory_bytes(4 << 20)
            .unwrap(),
        host: Arc::new(NoCodeHost),
    };
    for (behaviour, told) in [
        ("announces too much", "broke the rules"),
        ("says nothing at all", "broke the rules"),
        ("trickles", "time limit"),
        ("falls silent", "time limit"),
        ("hangs up", "status 0"),
        ("closes a connection", "it closed a connection"),
        ("talks out of turn", "said what no worker says"),
        ("invents kinds", "broke the rules"),
        ("compiles for ever", "broke the rules"),
        ("compiles twice", "broke the rules"),
        ("begins again and again", "broke the rules"),
        ("begins without a compiler", "broke the rules"),
        ("asks while it compiles", "broke the rules"),
        ("gives results of another request", "broke the rules"),
        ("logs too much", "broke the rules"),
        ("returns too much", "broke the rules"),
        ("returns no JSON", "invalid JSON"),
        ("invents fuel", "broke the rules"),
        ("passes nine arguments", "broke the rules"),
        ("cuts a call short", "broke the rules"),
        ("says it did not begin", "broke the rules"),
        ("throws what is no text", "broke the rules"),
        ("calls without end", "broke the rules"),
        ("starts without end", "broke the rules"),
        ("asks and does not listen", "time limit"),
        ("asks for more than a step can hold", "memory limit"),
        ("asks for more than a step can hold and goes on", "broke the rules"),
    ] {
        let sandbox = start(behaviour);
        let began = Instant::now();
        let mut request = request.clone();
        if behaviour == "asks and does not listen" {
            request.limits = request.limits.with_host_calls(100_000).unwrap();
        }
        let error = sandbox.run(request).await.unwrap_err().to_string();
        assert!(error.contains(told), "{behaviour}: {error}");
        assert!(began.elapsed() < Duration::from_secs(5), "{behaviour}: {:?}", began.elapsed());
    }
    let CodeRequest { project, now, seed, limits, .. } = request;
    let (expressions, variables) = (vec!["1".into()], "{}".into());
    let request = ExpressionRequest { project, expressions, variables, now, seed, limits };
    for behaviour in ["compiles twice", "begins again and again", "begins without a compiler"] {
        let error = start(behaviour).evaluate(request.clone()).await.unwrap_err().to_string();
        assert!(error.contains("broke the rules"), "{behaviour}: {error}");
    }
}
