//! The worker process: what it does from its first line to its end.

use std::collections::{HashMap, VecDeque};
use std::env;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;

use ap_core::time::Timestamp;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;

use super::message::{self, Begin, Evaluate, control, to_host, to_worker};
use super::walls::{self, Landlock};
use super::wire::{Fields, Frame, Malformed, Wire, WireError};
use super::{MOST_TO_WORKER, VERSION, WORKER_ARGUMENT};
use crate::sandbox::calls::{Border, HostAnswer, MOST_CALL_BYTES, Started};
use crate::sandbox::deadline::DeadlineTimer;
use crate::sandbox::engine::Engines;
use crate::sandbox::layout::MAX_MEMORY_BYTES;
use crate::sandbox::local::{ExpressionStart, LocalStep, StepStart, Thread, interrupt};
use crate::sandbox::state::{Interrupt, StepState};
use crate::sandbox::step::{Step, Turn, Written};
use crate::sandbox::{CodeError, CodeLimits, wasm::CACHE_BYTES, worker::THREAD_STACK};

/// Whether this process was started as a worker.
pub(super) fn is_worker() -> bool {
    let mut arguments = env::args_os().skip(1);
    arguments.next().as_deref() == Some(OsStr::new(WORKER_ARGUMENT)) && arguments.next().is_none()
}

/// Serves the host that started this process, until one of the two ends.
pub(super) fn serve() -> ! {
    let code = match connect() {
        Ok(mut control) => match work(&mut control) {
            Ok(()) => 0,
            Err(error) => {
                let _ = control.send(Frame::new(control::REFUSED).bytes(error.to_string().as_bytes()), None);
                1
            }
        },
        Err(error) => {
            eprintln!(
                "`{WORKER_ARGUMENT}` is how this program starts workers of its code sandbox, and not for use by hand: {error}"
            );
            2
        }
    };
    process::exit(code)
}

/// The connection to the host: the standard input, from the process that started this one.
fn connect() -> io::Result<Wire> {
    // Before the parent is looked at: it may end at any time.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let host = rustix::net::sockopt::socket_peercred(&input).map_err(|_| io::Error::other("no host is connected"))?;
    if Some(host.pid) != rustix::process::getppid() {
        return Err(io::Error::other("the host has ended"));
    }
    if env::vars_os().next().is_some() {
        return Err(io::Error::other("there is an environment"));
    }
    Ok(Wire::new(UnixStream::from(input)))
}

/// Everything a worker's threads share.
struct Shared {
    engines: Arc<Engines>,
    timer: Arc<DeadlineTimer>,
    live: Mutex<Live>,
}

/// What there is to interrupt and to go on with, by the host's numbers.
#[derive(Default)]
struct Live {
    running: HashMap<u64, Arc<AtomicBool>>,
    waiting: HashMap<u64, (LocalStep, Arc<AtomicBool>)>,
    /// Cancelled before they arrived, on another connection.
    early: VecDeque<u64>,
}

fn work(control: &mut Wire) -> io::Result<()> {
    if let Some(threads @ 2..) = walls::threads() {
        let message = format!(
            "the program had {threads} threads when it called `serve_if_worker`: call it first in `main`, before an \
             asynchronous runtime starts"
        );
        return Err(io::Error::other(message));
    }
    walls::close_inherited(&[control.stream().as_fd()])?;
    let hello = Frame::new(control::HELLO).bytes(VERSION.as_bytes());
    control.send(hello, None).map_err(io::Error::other)?;
    let (links, live) = receive_setup(control)?;
    let threads = links.len();
    // A thread may still clean the instance of a step that has ended, and compile beside the one it runs.
    let instances = |live: usize| u32::try_from(live + 2 * threads).unwrap_or(u32::MAX);
    let engines = Arc::new(
        Engines::load(instances(live), instances(1))
            .map_err(|error| io::Error::other(format!("the engine could not be loaded: {error:#}")))?,
    );
    prepare(&engines).map_err(|error| io::Error::other(format!("the engine could not be prepared: {error:#}")))?;
    let instances = engines.instances() as usize;
    let standing = walls::give_up_files_and_privileges()?;
    let timer = Arc::new(DeadlineTimer::start(Arc::clone(&engines), threads)?);
    let local = Thread::all(&engines, &timer, CACHE_BYTES, threads);
    let shared = Arc::new(Shared { engines, timer, live: Mutex::default() });
    // Every thread runs before the walls close, and none takes up work before.
    let (started, walled) = (Arc::new(Barrier::new(threads + 1)), Arc::new(Barrier::new(threads + 1)));
    for (local, link) in local.into_iter().zip(links) {
        let (shared, started, walled) = (Arc::clone(&shared), Arc::clone(&started), Arc::clone(&walled));
        thread::Builder::new().stack_size(THREAD_STACK).spawn(move || {
            started.wait();
            walled.wait();
            ThreadOfWorker { local, shared, link: Arc::new(Mutex::new(link)) }.serve();
        })?;
    }
    started.wait();
    let memories = (2 * instances * MAX_MEMORY_BYTES) as u64;
    walls::leave_only_computing(memories.saturating_add(OWN_BYTES))?;
    let room = u32::try_from(instances.saturating_sub(2 * threads)).unwrap_or(u32::MAX);
    let landlock = match standing.landlock {
        Landlock::Full => 2,
        Landlock::Partial => 1,
        Landlock::Absent => 0,
    };
    let ready = Frame::new(control::READY).u32(room).u8(landlock);
    let ready = ready.u8(u8::from(standing.namespaces)).u8(u8::from(standing.capabilities_dropped));
    control.send(ready, None).map_err(io::Error::other)?;
    walled.wait();
    shared.listen(control)
}

/// Makes a first instance of each engine: nothing can be loaded behind the walls.
fn prepare(engines: &Engines) -> wasmtime::Result<()> {
    for engine in [Some(engines.timed()), engines.metered()].into_iter().flatten() {
        let state = StepState::new(CodeLimits::default(), Timestamp::from_micros(0), None, Arc::default());
        Step::new(engine, state)?.prepare(engine)?;
    }
    Ok(())
}

/// How many steps may live, and the connections of the threads.
pub(super) fn receive_setup(control: &Wire) -> io::Result<(Vec<Wire>, usize)> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_THREADS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut room);
    let mut bytes = [0; SETUP_BYTES];
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let received = recvmsg(control.stream(), &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let sockets: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        })
        .flatten()
        .collect();
    let mut fields = Fields::new(bytes.get(SETUP_HEAD..received.bytes).unwrap_or_default());
    let setup = (fields.u8(), fields.size());
    let (Ok(control::SETUP), Ok(live)) = setup else { return Err(io::Error::other("the host's setup is malformed")) };
    if sockets.is_empty() {
        return Err(io::Error::other("the host gave no connections"));
    }
    Ok((sockets.into_iter().map(|socket| Wire::new(UnixStream::from(socket))).collect(), live))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the host's word about what it has given up, until it goes.
    fn listen(&self, control: &mut Wire) -> io::Result<()> {
        loop {
            let frame = match control.receive(MOST_CONTROL, None) {
                Ok(frame) => frame,
                // At once: ending a process properly takes calls that no worker has.
                Err(WireError::Closed) => process::exit(0),
                Err(error) => return Err(io::Error::other(error)),
            };
            let mut fields = Fields::new(&frame);
            match (fields.u8(), fields.u64()) {
                (Ok(control::CANCEL), Ok(id)) => self.cancel(id),
                (Ok(control::FORGET), Ok(id)) => {
                    let step = self.lock().waiting.remove(&id);
                    drop(step); // cleaning its instance takes a while, and nobody else has to wait for that
                    control.send(Frame::new(control::FORGOTTEN).u64(id), None).map_err(io::Error::other)?;
                }
                _ => return Err(io::Error::other("an unknown message")),
            }
        }
    }

    fn cancel(&self, id: u64) {
        let mut live = self.lock();
        if let Some(flag) = live.running.get(&id) {
            interrupt(flag, &self.engines, &self.timer);
        } else if let Some((_, flag)) = live.waiting.get(&id) {
            flag.store(true, Ordering::SeqCst); // it may be told to go on, by a word that is under way
        } else {
            live.early.push_back(id);
            if live.early.len() > MOST_EARLY {
                live.early.pop_front();
            }
        }
    }

    /// Notes that a thread computes under this number.
    fn begin(&self, id: u64) -> Arc<AtomicBool> {
        let mut live = self.lock();
        let flag = Arc::new(AtomicBool::new(live.early.contains(&id)));
        live.running.insert(id, Arc::clone(&flag));
        flag
    }

    fn end(&self, id: u64) {
        self.lock().running.remove(&id);
    }
}

/// One of the threads that compute.
struct ThreadOfWorker {
    local: Thread,
    shared: Arc<Shared>,
    link: Arc<Mutex<Wire>>,
}

/// Hands the guest's calls to the host.
struct Bridge {
    link: Arc<Mutex<Wire>>,
}

impl ThreadOfWorker {
    /// Does what the host asks for, one thing after the other. Without a host there is nothing left to do.
    fn serve(&self) {
        loop {
            let received = lock(&self.link).receive(MOST_TO_WORKER, None);
            let Ok(frame) = received else { process::exit(0) };
            let mut fields = Fields::new(&frame);
            let done = match fields.u8() {
                Ok(to_worker::BEGIN) => Begin::read(fields).map(|begin| self.begin(&begin)),
                Ok(to_worker::SETTLE) => self.settle(fields),
                Ok(to_worker::EVALUATE) => Evaluate::read(fields).map(|evaluate| self.evaluate(&evaluate)),
                Ok(to_worker::CHECK) => self.check(fields),
                _ => Err(Malformed),
            };
            if done.is_err() {
                process::exit(3); // the host learns that this process ended
            }
        }
    }

    fn begin(&self, begin: &Begin<'_>) {
        let flag = self.shared.begin(begin.id);
        let start = StepStart {
            params: begin.params,
            context: begin.context,
            now: begin.now,
            seed: begin.seed,
            limits: &begin.limits,
        };
        let compiled = self.compiled(|compiles| {
            self.local.compiled(begin.project, &begin.unit, (&begin.limits, &flag), || compiles(true))
        });
        let bridge = Box::new(Bridge { link: Arc::clone(&self.link) });
        let begun = compiled.and_then(|code| self.local.begin(&code, &start, bridge, &flag));
        match begun {
            Ok((turn, step)) => self.finish(begin.id, turn, (step, flag)),
            Err(error) => {
                self.shared.end(begin.id);
                self.send(message::ended(Frame::new(to_host::ENDED), &Err(error)));
            }
        }
    }

    fn settle(&self, mut fields: Fields<'_>) -> Result<(), Malformed> {
        let (id, call) = (fields.u64()?, fields.u32()?);
        let answer = message::read_answer(fields)?.ok_or(Malformed)?;
        let mut live = self.shared.lock();
        let (mut step, flag) = live.waiting.remove(&id).ok_or(Malformed)?;
        live.running.insert(id, Arc::clone(&flag));
        drop(live);
        step.set_border(Box::new(Bridge { link: Arc::clone(&self.link) }));
        let turn = self.local.settle(&mut step, call, &answer);
        self.finish(id, turn, (step, flag));
        Ok(())
    }

    /// Tells how a turn ended. Cleaning the instance is not part of the host's wait.
    fn finish(&self, id: u64, turn: Turn<Written>, step: (LocalStep, Arc<AtomicBool>)) {
        match turn {
            Turn::Ended(result) => {
                self.shared.end(id);
                self.send(message::ended(Frame::new(to_host::ENDED), &result));
            }
            Turn::Waiting => {
                let mut live = self.shared.lock();
                live.running.remove(&id);
                live.waiting.insert(id, step);
                drop(live);
                self.send(Frame::new(to_host::WAITING));
            }
        }
    }

    fn evaluate(&self, evaluate: &Evaluate<'_>) {
        let flag = self.shared.begin(evaluate.id);
        let start = ExpressionStart {
            project: evaluate.project,
            expressions: &evaluate.expressions,
            variables: evaluate.variables,
            now: evaluate.now,
            seed: evaluate.seed,
            limits: &evaluate.limits,
        };
        let results = self.local.evaluate(&start, &flag, |compiling| {
            self.send(Frame::new(if compiling { to_host::COMPILING } else { to_host::COMPUTING }));
            Ok(())
        });
        self.shared.end(evaluate.id);
        let (outcome, step) = match results {
            Ok((results, step)) => {
                for result in results {
                    self.send(message::result(Frame::new(to_host::EVALUATED), &result));
                }
                (Ok(Vec::new()), Some(step))
            }
            Err(error) => (Err(error), None),
        };
        self.send(message::result(Frame::new(to_host::ALL_EVALUATED), &outcome));
        drop(step); // cleaning the instance is not part of the host's wait
    }

    fn check(&self, mut fields: Fields<'_>) -> Result<(), Malformed> {
        let (id, project) = message::read_request(&mut fields)?;
        let unit = message::read_unit(&mut fields)?;
        fields.end()?;
        let flag = self.shared.begin(id);
        let compiled = self.compiled(|compiles| {
            self.local.compiled(project, &unit, (&CodeLimits::default(), &flag), || compiles(true))
        });
        self.shared.end(id);
        self.send(message::result(Frame::new(to_host::CHECKED), &compiled.map(|_| Vec::new())));
        Ok(())
    }

    /// Compiles, and tells the host when that begins and ends, if it has to be done at all.
    fn compiled(
        &self,
        compile: impl FnOnce(&dyn Fn(bool) -> Result<(), CodeError>) -> Result<Arc<[u8]>, CodeError>,
    ) -> Result<Arc<[u8]>, CodeError> {
        let began = AtomicBool::new(false);
        let compiled = compile(&|_| {
            began.store(true, Ordering::Relaxed);
            self.send(Frame::new(to_host::COMPILING));
            Ok(())
        });
        if began.into_inner() {
            self.send(Frame::new(to_host::COMPUTING));
        }
        compiled
    }

    fn send(&self, frame: Frame) {
        if lock(&self.link).send(frame, None).is_err() {
            process::exit(0);
        }
    }
}

impl Bridge {
    /// Asks the host. `None` if the step has to stop.
    fn ask(&self, frame: Frame) -> Option<HostAnswer> {
        let mut link = lock(&self.link);
        let answered = link.send(frame, None).and_then(|()| link.receive(MOST_TO_WORKER, None));
        let Ok(answer) = answered else { process::exit(0) };
        let mut fields = Fields::new(&answer);
        match (fields.u8(), message::read_answer(fields)) {
            (Ok(to_worker::ANSWER), Ok(answer)) => answer,
            _ => process::exit(3),
        }
    }
}

impl Border for Bridge {
    fn call(&mut self, operation: u32, arguments: &[&[u8]]) -> Result<HostAnswer, Interrupt> {
        let frame = message::call(Frame::new(to_host::CALL), operation, sendable(arguments));
        self.ask(frame).ok_or_else(stopped)
    }

    fn start(&mut self, id: u32, operation: u32, arguments: &[&[u8]]) -> Result<(), Interrupt> {
        let frame = message::call(Frame::new(to_host::START).u32(id), operation, sendable(arguments));
        self.ask(frame).map(|_| ()).ok_or_else(stopped)
    }

    fn take(&mut self) -> (Vec<Started>, Vec<u32>) {
        (Vec::new(), Vec::new())
    }

    fn ended(&mut self, _: u32) {}
}

/// The arguments, unless the host would refuse that many bytes.
fn sendable<'a, 'b>(arguments: &'a [&'b [u8]]) -> Option<&'a [&'b [u8]]> {
    (arguments.iter().map(|argument| argument.len()).sum::<usize>() <= MOST_CALL_BYTES).then_some(arguments)
}

/// The host has counted, and knows what it was.
fn stopped() -> Interrupt {
    Interrupt::HostCalls { what: "host calls", limit: 0 }
}

fn lock(link: &Mutex<Wire>) -> MutexGuard<'_, Wire> {
    link.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory for everything but instances: code, caches, stacks, messages. Unit: bytes.
const OWN_BYTES: u64 = 1 << 30;
const MOST_CONTROL: usize = 64;
const MOST_EARLY: usize = 1_024;
const MOST_THREADS: usize = 128;
/// Length, kind, number of live steps.
const SETUP_BYTES: usize = SETUP_HEAD + 1 + 4;
const SETUP_HEAD: usize = 4;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ap_core::id::ProjectId;

    use super::*;
    use crate::sandbox::{CodeLanguage, CodeUnit};

    #[test]
    fn a_step_that_was_cancelled_while_it_waited_ends_when_it_is_told_to_go_on() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut host = Wire::new(ours);
        let engines = Arc::new(Engines::load(4, 4).unwrap());
        let timer = Arc::new(DeadlineTimer::start(Arc::clone(&engines), 1).unwrap());
        let local = Thread::all(&engines, &timer, CACHE_BYTES, 1).remove(0);
        let shared = Arc::new(Shared { engines, timer, live: Mutex::default() });
        let link = Arc::new(Mutex::new(Wire::new(theirs)));
        let worker = ThreadOfWorker { local, shared: Arc::clone(&shared), link };
        thread::Builder::new().stack_size(THREAD_STACK).spawn(move || worker.serve()).unwrap();

        let source = "export const code = async () => {
            await new Promise((done) => setTimeout(done, 1));
            while (true) {}
        };";
        let unit = CodeUnit::Module { source: source.into(), language: CodeLanguage::JavaScript };
        let limits = CodeLimits::default().with_timeout(Duration::from_secs(120)).unwrap();
        let limits = limits.with_cpu_time(Duration::from_secs(120)).unwrap();
        let frame = message::unit(message::request(to_worker::BEGIN, 7, ProjectId::from_u128(1)), &unit);
        let frame = frame.bytes(b"{}").bytes(br#"{"run":{"id":"run_1"},"step":{"name":"code"}}"#);
        let until = Some(Instant::now() + Duration::from_secs(60));
        host.send(message::conditions(frame, Timestamp::from_micros(0), 1, &limits), until).unwrap();
        let mut timer = None;
        loop {
            let frame = host.receive(1 << 20, until).unwrap();
            let mut fields = Fields::new(&frame);
            match fields.u8().unwrap() {
                to_host::COMPILING | to_host::COMPUTING => {}
                to_host::START => {
                    timer = Some(fields.u32().unwrap());
                    host.send(message::answer(Frame::new(to_worker::ANSWER), &Ok(Vec::new())), until).unwrap();
                }
                to_host::WAITING => break,
                other => panic!("{other}"),
            }
        }
        // Both are under way when the word of the first arrives.
        shared.cancel(7);
        let settle = Frame::new(to_worker::SETTLE).u64(7).u32(timer.unwrap());
        host.send(message::answer(settle, &Ok(Vec::new())), until).unwrap();
        let ended = host.receive(1 << 20, until).unwrap();
        assert_eq!(ended.first(), Some(&to_host::ENDED));
        std::mem::forget(host); // a worker ends its process when its host has gone
    }
}
