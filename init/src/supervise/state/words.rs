//! What a life and its driver say to each other: the policy, inputs and actions.

use std::fmt;
use std::time::Duration;

use slipform_init::contract::event::ServiceState;
use slipform_init::contract::machine::Restart;
use slipform_init::contract::service::{Kind, StartLimit};

use crate::supervise::escalate::Patience;

/// What machine.json says about the service's life.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// When to start again.
    pub(crate) restart: Restart,
    /// From the start of the process to ready.
    pub(crate) ready_timeout: Duration,
    /// From the stop signal to SIGKILL.
    pub(crate) stop_timeout: Duration,
    /// Daemon, oneshot or timer.
    pub(crate) kind: Kind,
    /// Starts in vain, and what then; none: it is tried for ever, at the capped pace.
    pub(crate) start_limit: Option<StartLimit>,
    /// Restarts for its health, and what then.
    pub(crate) patience: Option<Patience>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            restart: Restart::OnFailure,
            ready_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(10),
            kind: Kind::Daemon,
            start_limit: None,
            patience: None,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It exited.
    Status(i32),
    /// A signal killed it.
    Signal(i32),
}

impl End {
    /// Reads a status of waitpid(2).
    pub(crate) fn from_wait(status: i32) -> End {
        match status & 0x7f {
            0 => End::Status((status >> 8) & 0xff),
            signal => End::Signal(signal),
        }
    }

    pub(super) fn good(self) -> bool {
        self == End::Status(0)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            End::Status(status) => write!(f, "exit status {status}"),
            End::Signal(signal) => {
                let name = match signal {
                    libc::SIGHUP => "SIGHUP",
                    libc::SIGINT => "SIGINT",
                    libc::SIGILL => "SIGILL",
                    libc::SIGTRAP => "SIGTRAP",
                    libc::SIGABRT => "SIGABRT",
                    libc::SIGBUS => "SIGBUS",
                    libc::SIGFPE => "SIGFPE",
                    libc::SIGKILL => "SIGKILL",
                    libc::SIGSEGV => "SIGSEGV",
                    libc::SIGPIPE => "SIGPIPE",
                    libc::SIGTERM => "SIGTERM",
                    libc::SIGXCPU => "SIGXCPU",
                    libc::SIGXFSZ => "SIGXFSZ",
                    libc::SIGSYS => "SIGSYS",
                    _ => return write!(f, "killed by signal {signal}"),
                };
                write!(f, "killed by {name}")
            }
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// All services of `after` are ready.
    DepsReady,
    /// It can never start.
    Refused(String),
    /// The process is there, on its way to exec.
    Spawned(i32),
    /// exec went well.
    Execed,
    /// There is no process (any more): fork or a step up to exec failed.
    SpawnFailed(String),
    /// The process ended.
    Exited(End),
    /// It is ready.
    Ready,
    /// A program of `pre-start` ended well, and this process follows it.
    Followed(i32),
    /// It was ready, and its probes or its watchdog say that it is not well.
    Unhealthy(String),
    /// Time has passed; the text is what the readiness probe saw last, or empty.
    Tick(String),
    /// All services go down: this one is not started again, its turn to stop comes.
    NoRestart,
    /// It shall end for good.
    Stop,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start the process; answer with `Spawned` or `SpawnFailed`.
    Spawn,
    /// The stop signal to the process group.
    Terminate,
    /// SIGKILL to all that it started.
    Kill,
    /// The machine shall start again, for this reason.
    Reboot(String),
    /// Tell the world.
    Report {
        /// New state.
        state: ServiceState,
        /// Process, 0 if none.
        pid: i32,
        /// Why or how.
        detail: String,
    },
}
