//! Stops a broker between two steps of its write-ahead log: the log's thread is followed from system call to system call.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::wait_until;

/// The log's thread, as the system names it.
const THREAD: &str = "wal-io";
/// System calls that are looked at before the thread is taken for one that does nothing.
const CALLS_MAX: u32 = 100_000;
/// How long a process may take to stop once it was told to.
const STOP_TIME: Duration = Duration::from_secs(10);

/// After which step of a group of records the broker stops, with the next one still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is something to write.
    Woken,
    /// It was written, and is not durable.
    Written,
    /// It is durable.
    Synced,
    /// The seal was read after that; nobody has been told yet.
    SealRead,
}

impl Step {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Woken, Self::Written, Self::Synced, Self::SealRead];

    /// The system call that ends the step.
    fn call(self) -> libc::c_long {
        match self {
            Self::Woken => libc::SYS_futex,
            Self::Written => libc::SYS_pwrite64,
            Self::Synced => libc::SYS_fdatasync,
            Self::SealRead => libc::SYS_pread64,
        }
    }
}

/// Stops the process, as SIGSTOP does, when its log has just done `step`. It must be writing. When this returns, all of
/// its threads have stopped.
///
/// # Errors
/// It has no such thread, may not be traced, or does no such thing.
pub fn stop_at(process: u32, step: Step) -> Result<()> {
    let process = Pid::from_raw(i32::try_from(process)?);
    let thread = thread_of(process)?;
    ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD).context("ptrace: may this process be traced?")?;
    ptrace::interrupt(thread)?;
    let followed = follow(process, thread, step);
    // With SIGSTOP pending for the process, the thread stops where it is.
    let detached = ptrace::detach(thread, None);
    followed.and_then(|()| Ok(detached?))?;
    await_stop(process)
}

/// The signal stops whichever thread takes it first, and the others a little later: on a busy machine they can serve
/// a client meanwhile.
fn await_stop(process: Pid) -> Result<()> {
    wait_until(STOP_TIME, &format!("process {process} has stopped"), || has_stopped(process).unwrap_or(false))
}

fn has_stopped(process: Pid) -> Result<bool> {
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may have ended since it was listed.
        let stat = std::fs::read_to_string(task?.path().join("stat")).unwrap_or_default();
        if stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('T')) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn thread_of(process: Pid) -> Result<Pid> {
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?;
        // A thread may have ended since it was listed.
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.trim_end() == THREAD {
            let id = task.file_name().to_string_lossy().parse()?;
            return Ok(Pid::from_raw(id));
        }
    }
    bail!("process {process} has no thread {THREAD}")
}

/// The system call that a thread is in.
fn call_of(process: Pid, thread: Pid) -> Option<libc::c_long> {
    let line = std::fs::read_to_string(format!("/proc/{process}/task/{thread}/syscall")).ok()?;
    line.split(' ').next()?.parse().ok()
}

fn follow(process: Pid, thread: Pid, step: Step) -> Result<()> {
    let mut entered = None;
    for _ in 0..CALLS_MAX {
        match waitpid(thread, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => bail!("the process ended"),
            WaitStatus::PtraceSyscall(_) if ptrace::syscall_info(thread)?.op == libc::PTRACE_SYSCALL_INFO_ENTRY => {
                entered = call_of(process, thread);
            }
            WaitStatus::PtraceSyscall(_) if entered.take() == Some(step.call()) => {
                kill(process, Signal::SIGSTOP)?;
                return Ok(());
            }
            _ => {}
        }
        ptrace::syscall(thread, None)?;
    }
    bail!("the log of process {process} was never {step:?}")
}
