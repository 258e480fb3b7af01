//! What a worker process gives up before it sees anything of a step, and for good.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, RulesetStatus,
    Scope,
};
use nix::{libc, sched::CloneFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as ArgLen, SeccompCmpOp as CmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Which walls stand around a worker process.
///
/// These always do, else no worker starts: a filter of system calls (seccomp) on every thread, which leaves a worker what
/// computing takes and its connections to the host; no new file descriptors, processes, privileges, files, core dumps or
/// executable memory; nothing of the host's environment and open files; death with the host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Walls {
    /// Whether Landlock refuses every file, port and signal as well.
    pub landlock: Landlock,
    /// Whether the worker has namespaces of its own for users, networks and shared memory: no interface, not even `lo`. Kernels
    /// may forbid that to processes without privileges.
    pub namespaces: bool,
    /// Whether the privileges of a host that runs as root were given up. Hosts without any have none to give up.
    pub capabilities_dropped: bool,
}

/// How much of Landlock the kernel enforces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Landlock {
    /// All of it: no file, no TCP port, no abstract socket and no signal outside. Since Linux 6.12.
    Full,
    /// What an older kernel knows of it.
    Partial,
    /// Nothing: the kernel lacks Landlock, or it is off.
    Absent,
}

/// Why a wall could not be put up.
#[derive(Debug, thiserror::Error)]
#[error("{wall}: {reason}")]
pub(super) struct WallError {
    wall: &'static str,
    reason: String,
}

/// Before threads start: they inherit what is given up here.
pub(super) fn give_up_files_and_privileges() -> Result<Walls, WallError> {
    // The host is worth more than a worker when memory runs out. Kernels without this file lose nothing else.
    let _ = fs::write("/proc/self/oom_score_adj", "800");
    let own = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    let namespaces = nix::sched::unshare(own).or_else(|_| nix::sched::unshare(own | CloneFlags::CLONE_NEWUSER)).is_ok();
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| wall("dumpable", error))?;
    rustix::thread::set_no_new_privs(true).map_err(|error| wall("no_new_privs", error))?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    let capabilities_dropped = rustix::thread::set_capabilities(None, sets).is_ok();
    let landlock = landlock().map_err(|error| wall("landlock", error))?;
    Ok(Walls { landlock, namespaces, capabilities_dropped })
}

/// When everything is loaded and every thread runs: only computing is left. `data_bytes` bounds the memory.
pub(super) fn leave_only_computing(data_bytes: u64) -> Result<(), WallError> {
    let zero =
        [Resource::Core, Resource::Fsize, Resource::Nofile, Resource::Nproc, Resource::Memlock, Resource::Msgqueue];
    for (resource, most) in zero.map(|resource| (resource, 0)).into_iter().chain([(Resource::Data, data_bytes)]) {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(|error| wall("resource limits", error))?;
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| wall("seccomp", error))?;
    let refused = filter(refused_calls(), SeccompAction::Allow, SeccompAction::Errno(libc::EACCES as u32), arch)?;
    let allowed = filter(allowed_calls()?, SeccompAction::KillProcess, SeccompAction::Allow, arch)?;
    for program in [refused, allowed] {
        seccompiler::apply_filter_all_threads(&program).map_err(|error| wall("seccomp", error))?;
    }
    Ok(())
}

/// Closes everything that was inherited, but what is kept.
pub(super) fn close_inherited(kept: &[BorrowedFd<'_>]) -> Result<(), WallError> {
    let is_kept = |number: i32| number <= 2 || kept.iter().any(|kept| kept.as_raw_fd() == number);
    let listed = fs::read_dir("/proc/self/fd").map_err(|error| wall("open files", error))?;
    let open: Vec<i32> = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in open.into_iter().filter(|number| !is_kept(*number)) {
        let _ = nix::unistd::close(number); // the listing itself is closed already
    }
    Ok(())
}

/// How many threads this process has, if that can be told.
pub(super) fn threads() -> Option<usize> {
    fs::read_dir("/proc/self/task").ok().map(Iterator::count)
}

fn landlock() -> Result<Landlock, landlock::RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))?
        .handle_access(AccessNet::from_all(ABI::V6))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Landlock::Full,
        RulesetStatus::PartiallyEnforced => Landlock::Partial,
        RulesetStatus::NotEnforced => Landlock::Absent,
    })
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn filter(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
    arch: TargetArch,
) -> Result<BpfProgram, WallError> {
    let filter = SeccompFilter::new(rules, otherwise, matched, arch);
    filter.and_then(BpfProgram::try_from).map_err(|error| wall("seccomp", error))
}

/// Calls that fail instead of ending the process: the libraries of a host look at files on their own account, allocators at
/// the number of processors for one, and go on without.
fn refused_calls() -> Rules {
    FILE_CALLS.iter().map(|number| (*number, Vec::new())).collect()
}

fn allowed_calls() -> Result<Rules, WallError> {
    // What fails by the other filter, or else would be the end.
    let plain = COMPUTING_CALLS.iter().chain(FILE_CALLS).map(|number| (*number, Vec::new()));
    let not_executable = condition(2, CmpOp::MaskedEq(libc::PROT_EXEC as u64), 0)?;
    let pagemap = condition(1, CmpOp::Eq, PAGEMAP_SCAN)?;
    let limited = [
        (libc::SYS_mmap, vec![not_executable.clone()]),
        (libc::SYS_mprotect, vec![not_executable]),
        (libc::SYS_ioctl, vec![pagemap]),
    ];
    Ok(plain.chain(limited).collect())
}

fn condition(argument: u8, operator: CmpOp, value: u64) -> Result<SeccompRule, WallError> {
    SeccompCondition::new(argument, ArgLen::Dword, operator, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| wall("seccomp", error))
}

fn wall(wall: &'static str, reason: impl ToString) -> WallError {
    WallError { wall, reason: reason.to_string() }
}

/// An I/O error that names the wall.
impl From<WallError> for io::Error {
    fn from(error: WallError) -> Self {
        Self::other(error.to_string())
    }
}

/// Memory, time, waiting, and reading and writing what is open: the connections to the host, and nothing else.
const COMPUTING_CALLS: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendto,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

#[cfg(target_arch = "x86_64")]
const FILE_CALLS: &[i64] = &[
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_newfstatat,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_stat,
    libc::SYS_statx,
];

#[cfg(target_arch = "aarch64")]
const FILE_CALLS: &[i64] =
    &[libc::SYS_faccessat, libc::SYS_newfstatat, libc::SYS_openat, libc::SYS_readlinkat, libc::SYS_statx];

/// `PAGEMAP_SCAN`, by which the engine finds the pages a step has written.
const PAGEMAP_SCAN: u64 = 0xC060_6610;
