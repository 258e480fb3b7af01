//! A post: the place of one worker process. Whoever falls is replaced.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio_util::sync::CancellationToken;

use super::message::control;
use super::remote::RemoteThread;
use super::walls::{Landlock, Walls};
use super::wire::{Fields, Frame, Malformed, Wire, WireError};
use super::{ProcessOptions, VERSION, WORKER_ARGUMENT};
use crate::sandbox::scheduler::Slot;
use crate::sandbox::{SandboxStartError, wasm::SandboxCapacity};

/// Keeps one worker process running. Dropping it ends the process.
pub(super) struct Post {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A post, as threads that use its worker see it.
pub(super) struct Shared {
    options: ProcessOptions,
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    /// Nobody is there yet, or again.
    Vacant,
    Taken(Arc<Process>),
    Stopped,
}

/// One worker process.
pub(super) struct Process {
    child: Mutex<Child>,
    /// What it is to be told, and `None` once it has ended.
    words: mpsc::Sender<Option<Frame>>,
    /// A connection for each thread.
    links: Vec<Mutex<Wire>>,
    returning: Mutex<Returning>,
    /// Why it was stopped, if it was.
    stopped_for: Mutex<Option<String>>,
    /// How it ended.
    end: Mutex<Option<String>>,
    ended: Condvar,
    gone: CancellationToken,
    walls: Walls,
    grace: Duration,
    room: usize,
}

/// Steps that a worker was told to forget and has not yet: until then their instances are there.
struct Returning {
    slots: HashMap<u64, Slot<RemoteThread>>,
    /// When it last forgot one, or there was none.
    since: Instant,
}

/// What the threads that watch a process have of it.
struct Control {
    hear: Wire,
    speak: Wire,
    words: mpsc::Receiver<Option<Frame>>,
}

impl Post {
    /// Starts a worker process and a thread that watches it.
    pub(super) fn start(options: &ProcessOptions, name: String) -> Result<Self, SandboxStartError> {
        let shared =
            Arc::new(Shared { options: options.clone(), state: Mutex::new(State::Vacant), changed: Condvar::new() });
        let (report, reported) = mpsc::channel();
        let watching = Arc::clone(&shared);
        // The kernel ends a worker when the *thread* ends that started it: this one lives as long as the post.
        let thread = thread::Builder::new().name(name).spawn(move || watching.keep(&report));
        let post = Self { shared, thread: Some(thread.map_err(SandboxStartError::Thread)?) };
        let ended = || SandboxStartError::Worker { message: "its thread ended".to_owned() };
        reported.recv().map_err(|_| ended())??;
        Ok(post)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Ends the process. What it computes is lost.
    pub(super) fn stop(&self) {
        let before = std::mem::replace(&mut *self.shared.lock(), State::Stopped);
        self.shared.changed.notify_all();
        if let State::Taken(process) = before {
            process.kill("the sandbox was dropped");
        }
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it cannot panic
        }
    }
}

impl Shared {
    /// The worker, once there is one; `None` if there is none after a while.
    pub(super) fn process(&self) -> Option<Arc<Process>> {
        let until = Instant::now() + LONGEST_VACANCY;
        let mut state = self.lock();
        loop {
            match &*state {
                State::Taken(process) if !process.has_ended() => return Some(Arc::clone(process)),
                State::Stopped => return None,
                State::Taken(_) | State::Vacant => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The worker, if there is one now.
    pub(super) fn present(&self) -> Option<Arc<Process>> {
        if let State::Taken(process) = &*self.lock() { Some(Arc::clone(process)) } else { None }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts worker after worker. Reports how the first start went, and stays only if it went well.
    fn keep(&self, report: &mpsc::Sender<Result<(), SandboxStartError>>) {
        let mut report = Some(report);
        let mut failures = 0_u32;
        loop {
            let began = Instant::now();
            match Process::start(&self.options) {
                Ok((process, control)) => {
                    if !self.occupy(&process) {
                        process.kill("the sandbox was dropped");
                        process.watch(control);
                        return;
                    }
                    if let Some(report) = report.take() {
                        let _ = report.send(Ok(()));
                    }
                    process.watch(control);
                    let how = process.how_it_ended();
                    if !self.vacate() {
                        return;
                    }
                    tracing::warn!(how, lived = ?began.elapsed(), "a worker process of the code sandbox ended");
                }
                Err(error) => {
                    if let Some(report) = report.take() {
                        let _ = report.send(Err(error));
                        return;
                    }
                    tracing::error!(%error, "a worker process of the code sandbox could not be started again");
                }
            }
            failures = if began.elapsed() > LIVES_LONG { 0 } else { failures.saturating_add(1) };
            if !self.pause(failures) {
                return;
            }
        }
    }

    /// Whether the post was not stopped.
    fn occupy(&self, process: &Arc<Process>) -> bool {
        let mut state = self.lock();
        if matches!(*state, State::Stopped) {
            return false;
        }
        *state = State::Taken(Arc::clone(process));
        drop(state);
        self.changed.notify_all();
        true
    }

    fn vacate(&self) -> bool {
        let mut state = self.lock();
        if matches!(*state, State::Stopped) {
            return false;
        }
        *state = State::Vacant;
        true
    }

    /// Waits before the next start, the longer the more often workers ended at once. Whether the post was not stopped.
    fn pause(&self, failures: u32) -> bool {
        // The first is replaced at once.
        let wait = failures.checked_sub(2).map_or(Duration::ZERO, |doublings| {
            FIRST_PAUSE.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(LONGEST_PAUSE)
        });
        let until = Instant::now() + wait;
        let mut state = self.lock();
        loop {
            if matches!(*state, State::Stopped) {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Process {
    /// Starts a process and sees its walls up.
    fn start(options: &ProcessOptions) -> Result<(Arc<Self>, Control), SandboxStartError> {
        let until = Instant::now() + options.start_timeout;
        let (host, worker) = UnixStream::pair().map_err(|error| refused(&error))?;
        let mut command = Command::new(options.program.as_deref().unwrap_or("/proc/self/exe".as_ref()));
        command.arg0("ap-code-worker").arg(WORKER_ARGUMENT).env_clear().current_dir("/");
        command.stdin(OwnedFd::from(worker)).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| refused(&error))?;
        drop(command); // and with it the worker's end
        let set_up = set_up(host, options.capacity, until);
        match set_up {
            Ok((hear, links, (room, walls))) => {
                let speak = hear.stream().try_clone().map_err(|error| refused(&error));
                let speak = Wire::new(speak.inspect_err(|_| end(&mut child))?);
                let (words, queued) = mpsc::channel();
                let process = Self {
                    child: Mutex::new(child),
                    words,
                    links: links.into_iter().map(Mutex::new).collect(),
                    returning: Mutex::new(Returning { slots: HashMap::new(), since: Instant::now() }),
                    stopped_for: Mutex::default(),
                    end: Mutex::default(),
                    ended: Condvar::new(),
                    gone: CancellationToken::new(),
                    walls,
                    grace: options.grace,
                    room,
                };
                Ok((Arc::new(process), Control { hear, speak, words: queued }))
            }
            Err(message) => {
                end(&mut child);
                Err(SandboxStartError::Worker { message })
            }
        }
    }

    /// The connection to one of its threads.
    pub(super) fn link(&self, index: usize) -> Option<MutexGuard<'_, Wire>> {
        self.links.get(index).map(|link| link.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn walls(&self) -> Walls {
        self.walls
    }

    /// How long it may take to answer beyond what a step may.
    pub(super) fn grace(&self) -> Duration {
        self.grace
    }

    /// How many steps there is room for.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Ends when the process has ended.
    pub(super) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    pub(super) fn id(&self) -> u32 {
        lock(&self.child).id()
    }

    /// Interrupts what is computed under this number.
    pub(super) fn cancel(&self, id: u64) {
        self.tell(Frame::new(control::CANCEL).u64(id));
    }

    /// Ends a step that waits. Its place is free when the worker says so.
    pub(super) fn forget(&self, id: u64, slot: Slot<RemoteThread>) {
        lock(&self.returning).expect(id, slot);
        // Nobody would take the place back of a process that has ended by now.
        if self.gone.is_cancelled() {
            self.return_all();
            return;
        }
        self.tell(Frame::new(control::FORGET).u64(id));
    }

    /// Stops the process at once, unless it has ended: its number may be another's by then.
    pub(super) fn kill(&self, why: &str) {
        if lock(&self.end).is_some() {
            return;
        }
        lock(&self.stopped_for).get_or_insert_with(|| format!("it was stopped: {why}"));
        let _ = lock(&self.child).kill(); // it may have ended by itself
    }

    fn has_ended(&self) -> bool {
        lock(&self.end).is_some()
    }

    /// How the process ended; waits for that, if only for a while.
    pub(super) fn how_it_ended(&self) -> String {
        self.ended_within(LONGEST_END).unwrap_or_else(|| "its connection closed".to_owned())
    }

    /// How the process ended whose connection closed. One that only closed it is stopped.
    pub(super) fn how_it_left(&self) -> String {
        self.ended_within(LONGEST_FAREWELL).unwrap_or_else(|| {
            self.kill("it closed a connection");
            self.how_it_ended()
        })
    }

    fn ended_within(&self, longest: Duration) -> Option<String> {
        let waited = self.ended.wait_timeout_while(lock(&self.end), longest, |end| end.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Never waits: the caller can be anywhere.
    fn tell(&self, frame: Frame) {
        let _ = self.words.send(Some(frame)); // one that has ended hears nothing
    }

    /// Talks with the worker until it ends; then cleans up after it.
    fn watch(&self, control: Control) {
        let Control { mut hear, speak, words } = control;
        thread::scope(|scope| {
            let speaker = thread::Builder::new().name("ap-code-post-out".to_owned());
            let why = match speaker.spawn_scoped(scope, move || self.speak(speak, words)) {
                Ok(_) => self.hear(&mut hear),
                Err(error) => Some(format!("its thread could not start: {error}")),
            };
            if let Some(why) = why {
                self.kill(&why);
            }
            let mut child = lock(&self.child);
            let _ = child.kill(); // one that only closed its connection
            let status = child.wait();
            drop(child);
            let how = lock(&self.stopped_for).clone().unwrap_or_else(|| described(status));
            *lock(&self.end) = Some(how);
            self.ended.notify_all();
            self.gone.cancel();
            self.return_all();
            let _ = self.words.send(None);
        });
    }

    /// Reads what the worker says of itself until it ends. Why it has to, if that is not its own doing.
    fn hear(&self, wire: &mut Wire) -> Option<String> {
        loop {
            match wire.receive(MOST_CONTROL, None) {
                Ok(frame) => {
                    let mut fields = Fields::new(&frame);
                    match (fields.u8(), fields.u64()) {
                        (Ok(control::FORGOTTEN), Ok(id)) => {
                            let slot = lock(&self.returning).take(id);
                            drop(slot); // what waits for it takes locks of its own
                        }
                        _ => return Some("it said what no worker says".to_owned()),
                    }
                }
                Err(WireError::Closed) => return None,
                Err(error) => return Some(error.to_string()),
            }
        }
    }

    /// Tells the worker what there is to tell. One that does not listen, or keeps steps it was told to forget, is stopped; one
    /// that is slow with many of them is not.
    fn speak(&self, mut wire: Wire, words: mpsc::Receiver<Option<Frame>>) {
        let patience = self.grace.max(LEAST_PATIENCE);
        loop {
            let due = lock(&self.returning).since().map(|since| since + patience);
            let word = match due {
                Some(due) => words.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => words.recv().map_err(mpsc::RecvTimeoutError::from),
            };
            match word {
                Ok(Some(frame)) => {
                    if wire.send(frame, Some(Instant::now() + patience)).is_err() {
                        return self.kill("it did not listen");
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if lock(&self.returning).since().is_some_and(|since| since.elapsed() >= patience) {
                        return self.kill("it did not give up a step that nobody waits for");
                    }
                }
                Ok(None) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn return_all(&self) {
        let returned = std::mem::take(&mut lock(&self.returning).slots);
        drop(returned);
    }
}

impl Returning {
    fn expect(&mut self, id: u64, slot: Slot<RemoteThread>) {
        if self.slots.is_empty() {
            self.since = Instant::now();
        }
        self.slots.insert(id, slot);
    }

    fn take(&mut self, id: u64) -> Option<Slot<RemoteThread>> {
        let slot = self.slots.remove(&id)?;
        self.since = Instant::now();
        Some(slot)
    }

    /// Since when none was forgotten, if any is to be.
    fn since(&self) -> Option<Instant> {
        (!self.slots.is_empty()).then_some(self.since)
    }
}

type SetUp = (Wire, Vec<Wire>, (usize, Walls));

/// The conversation before the walls close.
fn set_up(host: UnixStream, capacity: SandboxCapacity, until: Instant) -> Result<SetUp, String> {
    let mut control = Wire::new(host);
    let hello = next(&mut control, until)?;
    let mut fields = Fields::new(&hello);
    match (fields.u8(), fields.text(MOST_CONTROL)) {
        (Ok(control::HELLO), Ok(version)) if version == VERSION => {}
        (Ok(control::HELLO), Ok(version)) => {
            return Err(format!("it is of version `{version}`, and the host of version `{VERSION}`"));
        }
        _ => return Err(why_refused(&hello)),
    }
    let pairs: Vec<_> = (0..capacity.threads)
        .map(|_| UnixStream::pair())
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let (links, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let sent: Vec<_> = theirs.iter().map(|socket| socket.as_fd()).collect();
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_THREADS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&sent)) {
        return Err("there are too many threads".to_owned());
    }
    let setup = Frame::new(control::SETUP).size(capacity.rules.live).into_bytes();
    let told = sendmsg(control.stream(), &[IoSlice::new(&setup)], &mut ancillary, SendFlags::NOSIGNAL);
    if told.map_err(|error| error.to_string())? != setup.len() {
        return Err("it did not listen".to_owned());
    }
    drop(theirs);
    let ready = next(&mut control, until)?;
    let ready = read_ready(&ready).map_err(|_| why_refused(&ready))?;
    let _ = control.stream().set_read_timeout(None); // from now on it speaks when it has to
    Ok((control, links.into_iter().map(Wire::new).collect(), ready))
}

fn next(control: &mut Wire, until: Instant) -> Result<Vec<u8>, String> {
    control.receive(MOST_CONTROL, Some(until)).map_err(|error| match error {
        WireError::Late => {
            "it did not report in time: does the program call `serve_if_worker` first in `main`?".to_owned()
        }
        WireError::Closed => {
            "it ended before it was ready: does the program call `serve_if_worker` first in `main`?".to_owned()
        }
        other => other.to_string(),
    })
}

fn read_ready(frame: &[u8]) -> Result<(usize, Walls), Malformed> {
    let mut fields = Fields::new(frame);
    if fields.u8()? != control::READY {
        return Err(Malformed);
    }
    let room = fields.size()?;
    let landlock = match fields.u8()? {
        0 => Landlock::Absent,
        1 => Landlock::Partial,
        2 => Landlock::Full,
        _ => return Err(Malformed),
    };
    let walls = Walls { landlock, namespaces: fields.flag()?, capabilities_dropped: fields.flag()? };
    fields.end()?;
    if room == 0 { Err(Malformed) } else { Ok((room, walls)) }
}

/// What a worker says that cannot start.
fn why_refused(frame: &[u8]) -> String {
    let mut fields = Fields::new(frame);
    match (fields.u8(), fields.text(MOST_CONTROL)) {
        (Ok(control::REFUSED), Ok(message)) => message.to_owned(),
        _ => "it said what no worker says".to_owned(),
    }
}

fn refused(error: &io::Error) -> SandboxStartError {
    SandboxStartError::Worker { message: error.to_string() }
}

fn end(child: &mut Child) {
    let _ = child.kill(); // it may have ended by itself
    let _ = child.wait();
}

fn described(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(signal @ SIGKILL), _) => {
                format!("signal {signal} killed it, as the system does when memory runs out")
            }
            (Some(signal @ SIGSYS), _) => {
                format!("signal {signal} killed it: it made a system call that no worker needs")
            }
            (Some(signal), _) => format!("signal {signal} killed it"),
            (None, code) => format!("it ended with status {}", code.unwrap_or_default()),
        },
        // Whoever else waits for the host's children was first.
        Err(_) => "it ended".to_owned(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("id", &self.id()).field("walls", &self.walls).finish_non_exhaustive()
    }
}

const SIGKILL: i32 = 9;
const SIGSYS: i32 = 31;

/// For how long a step waits for a worker that is being replaced.
const LONGEST_VACANCY: Duration = Duration::from_secs(5);
/// A worker that lived for longer did not end at once.
const LIVES_LONG: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long it may take from the end of a process's first connection to its own.
const LONGEST_FAREWELL: Duration = Duration::from_millis(500);
/// How long the system may take to end a process.
const LONGEST_END: Duration = Duration::from_secs(2);
/// A worker has more to do than to listen.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
const MOST_CONTROL: usize = 16 << 10;
const MOST_THREADS: usize = 128;
