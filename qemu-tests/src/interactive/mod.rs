//! A machine for a person: its console in their terminal, its ports on their
//! loopback. Ctrl-] (or SIGINT, SIGTERM, SIGHUP) presses the power button, the
//! second time the plug is pulled; the terminal is put back on every way out.

mod terminal;

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use slipform_init::contract::event::Event;

use crate::accel::Accel;
use crate::control::Control;
use crate::error::HarnessError;
use crate::events::{EventReader, Item};
use crate::evidence::Evidence;
use crate::limits::Limits;
use crate::machine::args::Forward;
use crate::machine::hardware::Hardware;
use crate::machine::{Machine, Mode, Observation};
use crate::plan::{Emulator, Plan};
use crate::run::check_plan;
use terminal::Terminal;

/// Ctrl-].
const ESCAPE: u8 = 0x1d;
/// How long a key may wait.
const TICK: Duration = Duration::from_millis(10);

/// How an interactive run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitKind {
    /// The guest powered itself off.
    PoweredOff,
    /// It was asked to (Ctrl-], a signal), and did.
    Asked,
    /// It was asked to, and had to be killed.
    Killed,
    /// The emulator ended by itself: how, and its last words.
    Died(String),
}

/// Boots the plan's artifact on a throw-away overlay, with its console in the
/// terminal and `plan.publish` on 127.0.0.1, until it powers off or is ended.
///
/// Standard input that is no terminal is left alone: the console is only shown.
/// What is for the person goes to standard error, one line each, the ports as
/// `http://127.0.0.1:PORT -> guest PORT`. In the folder `control`, if there is one, others
/// can ask what the machine looks like inside ([`crate::control`]).
///
/// # Errors
/// The emulator does not start, a published port is taken, the terminal cannot be
/// switched.
pub fn run_interactive(
    plan: &Plan,
    emulator: &Emulator,
    accel: Accel,
    control: Option<&Path>,
) -> Result<ExitKind, HarnessError> {
    check_plan(plan)?;
    check_ports(plan)?;
    let limits = Limits::new(plan, &accel);
    let evidence = Evidence::create(&plan.evidence)?;
    let mode = Mode {
        forwards: plan
            .publish
            .iter()
            .map(|&(host, guest)| Forward { host, guest })
            .collect(),
        isolated: false,
        reboot_ends: false,
        kept: None,
        bios: false,
        metadata: None,
        start_limit: limits.start,
        hardware: Hardware::default(),
    };
    let signals = Signals::catch()?;
    let mut machine = Machine::start(plan, emulator, &accel, &mode, &evidence)?;
    // The machine is worth more than the way into it.
    let control = control.and_then(|dir| {
        let opened = Control::open(dir, &plan.name, &plan.image);
        opened.map_err(|error| say(&error.to_string())).ok()
    });
    let terminal = if io::stdin().is_terminal() {
        Some(Terminal::raw()?)
    } else {
        None
    };
    let mut session = Session {
        evidence,
        grace: limits.power_off,
        asked: None,
        killed: false,
        machine_end: None,
        reader: EventReader::endless(),
        control,
        power_on: Instant::now(),
    };
    session.greet(plan, &machine, terminal.is_some());
    machine.power_on()?;
    session.power_on = Instant::now();
    session.serve(&mut machine, terminal.as_ref(), &signals)
}

/// Two forwards cannot share a port.
fn check_ports(plan: &Plan) -> Result<(), HarnessError> {
    for (n, (host, guest)) in plan.publish.iter().enumerate() {
        let twice = plan.publish[..n]
            .iter()
            .any(|(other, same)| (host != &0 && host == other) || guest == same);
        if *guest == 0 || twice {
            return Err(HarnessError::Plan {
                what: "publish".into(),
                value: format!("{host}:{guest}"),
                rule: if twice {
                    "a host port and a guest port can be published once".into()
                } else {
                    "the guest port must be 1 to 65535".into()
                },
                remedy: "mend the --publish HOST:GUEST".into(),
            });
        }
    }
    Ok(())
}

/// One run in progress.
#[derive(Debug)]
struct Session {
    evidence: Evidence,
    /// From the power button to the plug.
    grace: Duration,
    asked: Option<Instant>,
    killed: bool,
    machine_end: Option<String>,
    reader: EventReader,
    control: Option<Control>,
    power_on: Instant,
}

impl Session {
    fn greet(&self, plan: &Plan, machine: &Machine, keys: bool) {
        for (host, guest) in &plan.publish {
            let host = if *host == 0 {
                machine.ports.get(guest)
            } else {
                Some(host)
            };
            if let Some(host) = host {
                say(&format!("http://127.0.0.1:{host} -> guest {guest}"));
            }
        }
        let end = if keys {
            "Ctrl-] powers it off, twice pulls the plug"
        } else {
            "SIGTERM powers it off"
        };
        say(&format!("starting {}; {end}", plan.name));
    }

    fn serve(
        &mut self,
        machine: &mut Machine,
        terminal: Option<&Terminal>,
        signals: &Signals,
    ) -> Result<ExitKind, HarnessError> {
        let mut status = None;
        while !(machine.is_over() || self.killed && status.is_some()) {
            match machine.next(TICK) {
                Some(Observation::Exited(how)) => status = Some(how),
                Some(observation) => self.observe(machine, observation)?,
                None => {}
            }
            if let Some(control) = &mut self.control {
                control.turn(&mut |line| machine.send_report(line));
            }
            if let Some(terminal) = terminal {
                self.keys(machine, terminal);
            }
            if signals.came() {
                self.ask(machine);
            }
            if self.asked.is_some_and(|since| since.elapsed() > self.grace) && !self.killed {
                say("it does not power off: pulling the plug");
                self.kill(machine);
            }
        }
        let status = status.unwrap_or_default();
        Ok(
            match (self.killed, self.asked, self.machine_end.as_deref()) {
                (true, ..) => ExitKind::Killed,
                (_, Some(_), _) => ExitKind::Asked,
                (_, _, Some("guest-shutdown")) => ExitKind::PoweredOff,
                (_, _, end) => ExitKind::Died(format!(
                    "{status}{}; {}",
                    end.map(|reason| format!(" ({reason})")).unwrap_or_default(),
                    self.evidence.stderr()
                )),
            },
        )
    }

    fn observe(
        &mut self,
        machine: &mut Machine,
        observation: Observation,
    ) -> Result<(), HarnessError> {
        match observation {
            Observation::Console(bytes) => {
                self.evidence.console(&bytes)?;
                let mut out = io::stdout();
                if out.write_all(&bytes).and_then(|()| out.flush()).is_err() && !self.killed {
                    // Nobody looks any more.
                    self.kill(machine);
                }
            }
            Observation::Report(bytes) => {
                let mut items = Vec::new();
                self.reader.feed(&bytes, &mut |item| items.push(item));
                for item in items {
                    if let Item::Record(record, line) = item {
                        self.heed(&record.event, &line)?;
                    }
                }
            }
            Observation::Monitor(event) if event.name == "SHUTDOWN" => {
                self.machine_end = Some(event.reason);
            }
            Observation::Monitor(_) | Observation::Closed | Observation::Exited(_) => {}
        }
        Ok(())
    }

    fn heed(&mut self, event: &Event, line: &str) -> Result<(), HarnessError> {
        match (event, &mut self.control) {
            // An answer is for who asked, and nothing that happened.
            (Event::Inside { query, item }, Some(control)) => {
                control.answer(*query, item);
                return Ok(());
            }
            (Event::Boot { .. }, Some(control)) => control.restarted(),
            (Event::Ready { .. }, _) => {
                let seconds = self.power_on.elapsed().as_secs_f64();
                say(&format!("ready after {seconds:.1} s"));
            }
            _ => {}
        }
        self.evidence.event(line)
    }

    fn keys(&mut self, machine: &mut Machine, terminal: &Terminal) {
        let Some(bytes) = terminal.read() else {
            // The terminal is gone.
            if self.asked.is_none() {
                self.ask(machine);
            }
            return;
        };
        for (n, part) in bytes.split(|&byte| byte == ESCAPE).enumerate() {
            if n > 0 {
                self.ask(machine);
            }
            if !part.is_empty() && machine.send_console(part).is_err() {
                // The guest ends; its status comes next.
                return;
            }
        }
    }

    /// The power button, then the plug.
    fn ask(&mut self, machine: &mut Machine) {
        if self.asked.is_some() {
            say("pulling the plug");
            return self.kill(machine);
        }
        self.asked = Some(Instant::now());
        say("powering off; again to pull the plug");
        if machine.press_power().is_err() {
            self.kill(machine);
        }
    }

    fn kill(&mut self, machine: &mut Machine) {
        self.killed = true;
        machine.kill();
    }
}

/// A line for the person, right in raw and in cooked mode.
fn say(line: &str) {
    let mut out = io::stderr();
    // Without a standard error there is nobody to tell.
    drop(out.write_all(format!("\rslipform: {line}\r\n").as_bytes()));
}

/// Signals that ask for the end, counted while this lives.
#[derive(Debug)]
struct Signals {
    came: Arc<AtomicBool>,
    ids: Vec<SigId>,
}

impl Signals {
    fn catch() -> Result<Self, HarnessError> {
        let mut signals = Self {
            came: Arc::new(AtomicBool::new(false)),
            ids: Vec::new(),
        };
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
            let id = signal_hook::flag::register(signal, Arc::clone(&signals.came)).map_err(
                |source| HarnessError::Terminal {
                    operation: "catch the signals of",
                    source,
                },
            )?;
            signals.ids.push(id);
        }
        Ok(signals)
    }

    fn came(&self) -> bool {
        self.came.swap(false, Ordering::Relaxed)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

/// Standard input as a descriptor.
fn input() -> impl AsFd {
    io::stdin()
}
