//! What is wrong with the guest: from lines, errors and ends to problems.

use slipform_init::contract::event::Phase;

use crate::console::{Kind, fatal};

use super::{BuiltIn, Cause, MAX_PROBLEMS, Problem, Watch};

impl Watch {
    /// Init's own errors. Some end the boot (init then says that it shuts down, or
    /// falls silent: see [`Watch::is_suspect`]), with others it goes on; all are red.
    pub(super) fn init_error(&mut self, phase: Phase, what: &str, why: &str) {
        // Init reads the kernel's log, too, and tells what it finds there.
        let kernel = (what == "kernel")
            .then(|| fatal::kernel_kind(why))
            .flatten();
        if let Some(kind) = kernel {
            if self.kernel_told.len() < MAX_PROBLEMS {
                self.kernel_told.push((why.to_owned(), self.stage));
            }
            return self.found(kind, why);
        }
        self.suspect = self.ready.is_none();
        self.push(Problem {
            check: BuiltIn::Init,
            cause: Cause::Init(phase),
            phase: format!("init: {}", phase.name()),
            line: format!("{what}: {why}"),
            deadly: false,
            minor: false,
        });
    }

    /// Init's last event before ready was an error: if nothing follows, it is dead.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// It was suspect for too long.
    pub(crate) fn condemn(&mut self) {
        let line = "init fell silent after its error".to_owned();
        self.add(BuiltIn::Ready, Cause::Ended, line, true);
    }

    pub(super) fn found(&mut self, kind: Kind, line: &str) {
        let check = match kind {
            Kind::Stall => {
                if self.notes.len() < MAX_PROBLEMS {
                    self.notes.push(line.to_owned());
                }
                return;
            }
            Kind::Firmware | Kind::Refused | Kind::Stub | Kind::Initramfs => BuiltIn::Ready,
            Kind::Panic | Kind::InitDied => BuiltIn::Panic,
            Kind::Oops => BuiltIn::Oops,
            Kind::Bug => BuiltIn::Bug,
            Kind::Warning => BuiltIn::Warning,
            Kind::Verity => BuiltIn::Verity,
            Kind::Io => BuiltIn::Io,
            Kind::OutOfMemory => BuiltIn::OutOfMemory,
            Kind::Segfault => BuiltIn::Segfault,
            Kind::HungTask => BuiltIn::HungTask,
        };
        self.push(Problem {
            check,
            cause: Cause::Console(kind),
            phase: self.stage.name(),
            line: line.to_owned(),
            deadly: kind.is_deadly(),
            minor: false,
        });
    }

    pub(super) fn garbage_line(&mut self) {
        if !self.has(BuiltIn::Report) {
            let garbage = self.garbage();
            self.push(Problem {
                check: BuiltIn::Report,
                cause: Cause::Report,
                phase: self.stage.name(),
                line: format!(
                    "a line of init's report is no record ({}): {}",
                    garbage.why, garbage.first
                ),
                deadly: false,
                minor: true,
            });
        }
    }

    pub(super) fn flood(&mut self, line: String) {
        if !self.is_dead() {
            self.add(BuiltIn::Report, Cause::Report, line, true);
        }
    }

    /// The machine ended unasked: the check that it fails depends on how far it was.
    pub(super) fn ended(&mut self, cause: Cause, line: String) {
        let check = if self.ready.is_some() {
            BuiltIn::PowerOff
        } else {
            BuiltIn::Ready
        };
        if !self
            .problems
            .iter()
            .any(|problem| problem.check == check && problem.deadly)
        {
            self.add(check, cause, line, true);
        }
    }

    pub(super) fn problem(&mut self, check: BuiltIn, cause: Cause, line: String) {
        self.add(check, cause, line, false);
    }

    pub(super) fn add(&mut self, check: BuiltIn, cause: Cause, line: String, deadly: bool) {
        let phase = match &cause {
            Cause::Service(name) => format!("service {name}"),
            _ => self.stage.name(),
        };
        self.push(Problem {
            check,
            cause,
            phase,
            line,
            deadly,
            minor: false,
        });
    }

    pub(super) fn push(&mut self, problem: Problem) {
        self.news.push(problem.line.clone());
        // A deadly one always finds room: the run must end.
        if self.problems.len() < MAX_PROBLEMS || problem.deadly && !self.is_dead() {
            self.problems.push(problem);
        }
    }

    pub(super) fn has(&self, check: BuiltIn) -> bool {
        self.problems.iter().any(|problem| problem.check == check)
    }
}
