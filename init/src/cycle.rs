//! The steady state: one loop over everything that waits, until the machine goes down.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use slipform_init::contract::event::{Command, Event, Phase};
use slipform_init::contract::machine::{Interface, METADATA_TIMEOUT_MS, Machine, Service};

use crate::early::Booted;
use crate::early::coldplug::Coldplug;
use crate::early::modules::Late;
use crate::inside::Inside;
use crate::layers::LayerReader;
use crate::metadata::{self, Found, Metadata};
use crate::metrics::Metrics;
use crate::net::{self, Dhcp, Time};
use crate::power::button::Buttons;
use crate::power::watchdog::Watchdog;
use crate::power::{self, Request, down};
use crate::report::Reporter;
use crate::report::kmsg::Kmsg;
use crate::ship::Shipper;
use crate::state::{self, look::Looker};
use crate::supervise::Supervisor;
use crate::sys::poll;
use crate::sys::signal::{self, Reaped, Signals};
use crate::sys::{clock, host};
use crate::turn::{Report, Turn, Watched};

/// Beyond what the services may take together to stop.
const STOP_MARGIN: Duration = Duration::from_secs(5);
/// How long a machine may not be called ready because of its late modules.
const LATE_LIMIT: Duration = Duration::from_secs(30);
/// However long services may take.
const STOP_MAX: Duration = Duration::from_secs(300);

/// Signals as a part of the loop.
struct SignalPart {
    signals: Signals,
    children: bool,
    request: Option<Request>,
}

impl Watched for SignalPart {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        out.push(poll::entry(self.signals.as_raw_fd(), libc::POLLIN));
    }

    fn ready(&mut self, _fd: RawFd, _turn: &mut Turn<'_>) {
        while let Some(number) = self.signals.next() {
            self.children |= number == libc::SIGCHLD;
            self.request = self.request.or_else(|| power::of_signal(number));
        }
    }

    fn deadline(&self) -> Option<Duration> {
        None
    }

    fn tick(&mut self, _turn: &mut Turn<'_>) {}
}

/// Where the machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// After boots that were not healthy: services start later.
    Holding {
        until: Duration,
    },
    Starting,
    Running,
    Stopping {
        request: Request,
        end: Duration,
    },
}

/// All parts.
pub(crate) struct Cycle {
    report: Reporter,
    kmsg: Kmsg,
    signals: SignalPart,
    buttons: Buttons,
    late: Late,
    coldplug: Option<Coldplug>,
    dhcp: Dhcp,
    time: Time,
    /// The machine got its name by metadata or a lease.
    named: bool,
    metadata: Metadata,
    supervisor: Supervisor,
    layers: LayerReader,
    watchdog: Watchdog,
    watchdog_seconds: u32,
    healthy_after: Duration,
    /// When this boot will have been a healthy one.
    healthy_at: Option<Duration>,
    looker: Looker,
    metrics: Option<Metrics>,
    inside: Inside,
    /// Last: it takes what the others have just said.
    shipper: Option<Shipper>,
    stop_limit: Duration,
    state: State,
}

impl Cycle {
    /// Network and services of a machine whose root is up.
    pub(crate) fn new(
        booted: Booted,
        signals: Signals,
        mut kmsg: Kmsg,
        mut report: Reporter,
    ) -> Self {
        let Booted {
            mut machine,
            watchdog,
            past,
            late,
            coldplug,
        } = booted;
        if report.settle_channel() {
            kmsg.follow(report.spool());
        }
        report.phase(Phase::Network);
        let seed = seed();
        let interfaces = std::mem::take(&mut machine.interfaces);
        let dhcp = network(&machine.name, seed, interfaces, &mut report);
        let servers = std::mem::take(&mut machine.time_servers);
        let time = Time::new(servers, machine.clock_floor, seed.rotate_left(17));
        let stop_limit = stop_limit(&machine);
        let slowdown = report.slowdown();
        for service in &mut machine.services {
            service.ready_timeout_ms = stretched(service.ready_timeout_ms, slowdown);
            service.watchdog_ms = stretched(service.watchdog_ms, slowdown);
            if let Some(health) = &mut service.health {
                health.timeout_ms = stretched(health.timeout_ms, slowdown);
            }
        }
        let metadata = metadata_of(&mut machine, slowdown);
        let layers = machine.layers.into_iter().map(|layer| layer.name);
        let layers = LayerReader::new(layers.collect());
        let spool = machine.state.as_ref().map(|_| state::spool());
        let kept = machine.state.map_or_else(Vec::new, |state| state.paths);
        let paths = kept.iter().map(|path| path.path.clone());
        let looker = Looker::new(paths.collect());
        let names = machine.services.iter().map(|service| service.name.clone());
        let inside = Inside::new(names.collect(), kept, machine.debug);
        let supervisor = Supervisor::new(machine.services);
        let healthy_after = Duration::from_secs(machine.health.healthy_seconds.into());
        let telemetry = machine.telemetry.unwrap_or_default();
        let identity = report.identity();
        let shipper = Shipper::new(
            &telemetry,
            report.spool(),
            identity.clone(),
            spool.as_deref(),
            &mut report,
        );
        let metrics = telemetry
            .metrics
            .map(|spec| Metrics::new(&spec, report.spool(), identity, &mut report));
        Self {
            report,
            kmsg,
            signals: SignalPart {
                signals,
                children: false,
                request: None,
            },
            buttons: Buttons::open(),
            late,
            coldplug,
            dhcp,
            time,
            named: false,
            metadata,
            supervisor,
            layers,
            watchdog,
            watchdog_seconds: machine.health.watchdog_seconds,
            healthy_after,
            healthy_at: None,
            looker,
            metrics,
            inside,
            shipper,
            stop_limit,
            state: State::Holding {
                until: clock::monotonic() + past.pause,
            },
        }
    }

    /// Runs until the machine is down.
    pub(crate) fn run(mut self) -> ! {
        // Booting took memory that nothing needs any more.
        host::trim_memory();
        self.report.phase(Phase::Services);
        let mut turn = Turn {
            now: clock::monotonic(),
            report: &mut self.report,
        };
        self.dhcp.start(&mut turn);
        self.time.start(&mut turn);
        self.metadata.start(&mut turn);
        let mut fds = Vec::new();
        // Services that wait for nothing run first.
        self.advance();
        self.begin_late();
        loop {
            // Before the machine calls itself ready: whoever hears that may press its button.
            self.take_late_devices();
            self.advance();
            self.identify();
            self.heed_leases();
            self.inside.advance(&mut self.report);
            self.wait(&mut fds);
            self.reap();
            if let Some(request) = self.request() {
                self.go_down(request);
            }
        }
    }

    /// Leaves a state whose end has come.
    fn advance(&mut self) {
        let now = clock::monotonic();
        match self.state {
            State::Holding { until } if now >= until => {
                self.state = State::Starting;
                self.supervisor.start(&mut Turn {
                    now,
                    report: &mut self.report,
                });
            }
            State::Running if self.healthy_at.is_some_and(|at| at <= now) => {
                self.healthy_at = None;
                power::mark::healthy(&mut self.report);
            }
            // Late modules, too: the power button is one.
            State::Starting if self.supervisor.all_ready() && self.late.is_over() => {
                self.state = State::Running;
                self.healthy_at = Some(now + self.healthy_after);
                self.report.event(Event::Ready {
                    rss_kib: resident_kib(),
                });
                self.report.phase(Phase::Running);
            }
            State::Stopping { request, end } => {
                let stopped = self.supervisor.stopped();
                if (stopped || now >= end) && self.flushed() {
                    self.watchdog.feed();
                    if request.action == crate::sys::power::Action::Halt {
                        self.watchdog.disarm();
                    }
                    // Whoever speaks TLS for init says goodbye, and has the time of the
                    // processes that no service owns.
                    (self.shipper, self.metrics) = (None, None);
                    down::finish(request, stopped, &mut self.report);
                }
            }
            _ => {}
        }
    }

    fn begin_late(&mut self) {
        let limit = LATE_LIMIT.mul_f64(self.report.slowdown());
        self.late.begin(clock::monotonic(), limit, &mut self.report);
    }

    /// Behind the last late module, the devices that they brought are taken.
    fn take_late_devices(&mut self) {
        let plugged = self.coldplug.as_mut().and_then(Coldplug::take_news);
        if let Some(plugged) = plugged {
            self.report.note(&plugged);
        }
        let Some(loaded) = self.late.take_finished() else {
            return;
        };
        self.report.note(&loaded);
        self.buttons = Buttons::open();
        if !self.watchdog.is_armed() {
            let slowdown = self.report.slowdown();
            self.watchdog = Watchdog::arm(self.watchdog_seconds, slowdown, &mut self.report);
        }
    }

    /// Hands on who the machine is, once that is known.
    fn identify(&mut self) {
        let Some(outcome) = self.metadata.take_outcome() else {
            return;
        };
        let mut turn = Turn {
            now: clock::monotonic(),
            report: &mut self.report,
        };
        self.named |= outcome.found.hostname.is_some();
        self.time.in_cloud(&outcome.sources, &mut turn);
        let files = metadata::Files::default();
        if !outcome.sources.is_empty() {
            files.write(&outcome, &mut turn);
        }
        let mounted = match self.supervisor.wants_credentials() {
            true => files.mount_credentials().map_err(|error| error.to_string()),
            false => Ok(()),
        };
        let answer = |service: &Service| {
            if let (Err(error), false) = (&mounted, service.credentials.is_empty()) {
                return Err(format!("mount {}: {error}", files.credentials.display()));
            }
            metadata::hand_over(service, &outcome.found, &files.credentials)?;
            environment(service, &outcome.found)
        };
        self.supervisor.identified(&answer, &mut turn);
    }

    /// What leases say beyond addresses: the time servers, and (where no source of metadata
    /// has one) the machine's name.
    fn heed_leases(&mut self) {
        let now = clock::monotonic();
        self.time.leased(&self.dhcp.time_servers(), now);
        if self.named || !self.metadata.is_over() {
            return;
        }
        if let Some(name) = self.dhcp.leased_name() {
            self.named = true;
            let mut turn = Turn {
                now,
                report: &mut self.report,
            };
            metadata::Files::default().name(name, &mut turn);
        }
    }

    /// Whether the sinks have what was said, or had their time.
    fn flushed(&mut self) -> bool {
        self.kmsg.drain(&mut self.report);
        let now = clock::monotonic();
        self.shipper.as_mut().is_none_or(|shipper| {
            shipper.flush(now);
            shipper.is_flushed(now)
        })
    }

    fn parts(&mut self) -> ([&mut dyn Watched; 14], &mut Reporter) {
        let parts: [&mut dyn Watched; 14] = [
            &mut self.signals,
            &mut self.kmsg,
            &mut self.buttons,
            &mut self.late,
            &mut self.coldplug,
            &mut self.dhcp,
            &mut self.time,
            &mut self.metadata,
            &mut self.supervisor,
            &mut self.layers,
            &mut self.watchdog,
            &mut self.looker,
            &mut self.metrics,
            &mut self.shipper,
        ];
        (parts, &mut self.report)
    }

    /// Waits once, and gives every part its turn.
    fn wait(&mut self, fds: &mut Vec<libc::pollfd>) {
        let end = match self.state {
            // Past it the sinks' own limits hold.
            State::Stopping { end, .. } => (clock::monotonic() < end).then_some(end),
            State::Holding { until } => Some(until),
            State::Running => self.healthy_at,
            State::Starting => None,
        };
        let answers = self.inside.deadline(&self.report);
        let (parts, report) = self.parts();
        fds.clear();
        report.fds(fds);
        let own = fds.len();
        let ends = parts.each_ref().map(|part| {
            part.fds(fds);
            fds.len()
        });
        let deadlines = parts.iter().filter_map(|part| part.deadline());
        let next = deadlines
            .chain(report.deadline())
            .chain(end)
            .chain(answers)
            .min();
        // At least a millisecond: a deadline that stays in the past must not eat the processor.
        let limit = next.map(|next| {
            next.saturating_sub(clock::monotonic())
                .max(Duration::from_millis(1))
        });
        if let Err(error) = poll::wait(fds, limit) {
            report.note(&format!("error: poll: {error}"));
            std::thread::sleep(Duration::from_millis(100));
            return;
        }
        let now = clock::monotonic();
        for ready in fds[..own].iter().filter(|entry| entry.revents != 0) {
            report.ready(ready.fd);
        }
        report.tick(now);
        let mut start = own;
        for (part, end) in parts.into_iter().zip(ends) {
            let mut turn = Turn {
                now,
                report: &mut *report,
            };
            for ready in fds[start..end].iter().filter(|entry| entry.revents != 0) {
                part.ready(ready.fd, &mut turn);
            }
            if part.deadline().is_some_and(|deadline| deadline <= now) {
                part.tick(&mut turn);
            }
            start = end;
        }
    }

    /// Takes all children that have ended: services, and orphans that PID 1 inherited.
    fn reap(&mut self) {
        if !std::mem::take(&mut self.signals.children) {
            return;
        }
        let mut turn = Turn {
            now: clock::monotonic(),
            report: &mut self.report,
        };
        while let Reaped::Child { pid, status } = signal::reap() {
            self.supervisor.child_ended(pid, status, &mut turn);
        }
        self.supervisor.tick(&mut turn);
        self.dhcp.tick(&mut turn);
    }

    /// Whoever asked first that the machine goes down.
    fn request(&mut self) -> Option<Request> {
        let button = self.buttons.take_pressed();
        let button = button.then_some(Request {
            action: crate::sys::power::Action::PowerOff,
            reason: "power button",
        });
        let command = self.report.take_command();
        match &command {
            Some(Command::ReadLayers) => self.layers.start(&mut self.report),
            Some(Command::StateFile { path, contains }) => {
                self.looker
                    .start(path.clone(), contains.clone(), &mut self.report);
            }
            _ => {}
        }
        let command = command.as_ref().and_then(power::of_command);
        let health = self.supervisor.take_reboot().then_some(power::UNHEALTHY);
        let asked = self.signals.request.take().or(button).or(command);
        asked.or(health)
    }

    fn go_down(&mut self, request: Request) {
        if matches!(self.state, State::Stopping { .. }) {
            self.report
                .note(&format!("{}: is already going down", request.reason));
            return;
        }
        let now = clock::monotonic();
        self.state = State::Stopping {
            request,
            end: now + self.stop_limit,
        };
        self.report.phase(Phase::Shutdown);
        self.report.event(Event::Shutdown {
            kind: power::action_name(request.action).to_owned(),
            reason: request.reason.to_owned(),
        });
        self.supervisor.stop(&mut Turn {
            now,
            report: &mut self.report,
        });
    }
}

/// Loopback, and the interfaces; a machine without either still runs its services.
fn network(name: &str, seed: u64, fixed: Vec<Interface>, report: &mut Reporter) -> Dhcp {
    if let Err(why) = net::loopback_up() {
        report.event(Event::Error {
            phase: Phase::Network,
            what: "bring up the loopback interface".to_owned(),
            why: why.to_string(),
        });
    }
    Dhcp::new(name, seed, fixed)
}

/// Only spreads requests of machines that boot together, and makes them hard to guess for
/// whoever does not see them: nothing secret, and nothing to wait for.
fn seed() -> u64 {
    let mut seed = [0; 8];
    let random = host::random(&mut seed).map_or(0, |()| u64::from_le_bytes(seed));
    random ^ u64::from(clock::since_boot().subsec_nanos())
}

/// The search for who the machine is; its times are those of a machine that is so much slower.
fn metadata_of(machine: &mut Machine, slowdown: f64) -> Metadata {
    let limit = machine.metadata_timeout_ms.unwrap_or(METADATA_TIMEOUT_MS);
    Metadata::new(
        std::mem::take(&mut machine.metadata),
        Duration::from_millis(stretched(limit, slowdown)),
        Metadata::ATTEMPT.mul_f64(slowdown),
    )
}

/// What a service wants to know of the machine in its environment.
fn environment(service: &Service, found: &Found) -> Result<Vec<(String, String)>, String> {
    let pairs = service.identity_env.iter().map(|(name, field)| {
        let value = found
            .field(*field)
            .ok_or_else(|| format!("{name} = {}: no source of metadata knows it", field.name()))?;
        Ok((name.clone(), value.to_owned()))
    });
    pairs.collect()
}

/// A time limit in milliseconds on a machine that is so much slower.
fn stretched(limit_ms: u64, slowdown: f64) -> u64 {
    Duration::from_millis(limit_ms)
        .mul_f64(slowdown)
        .as_millis()
        .try_into()
        .unwrap_or(limit_ms)
}

/// All services one after the other, and a margin.
fn stop_limit(machine: &Machine) -> Duration {
    let sum = machine.services.iter().fold(0u64, |sum, service| {
        sum.saturating_add(service.stop_timeout_ms)
    });
    Duration::from_millis(sum)
        .saturating_add(STOP_MARGIN)
        .min(STOP_MAX)
}

/// VmRSS of /proc/self/status.
fn resident_kib() -> u64 {
    let mut buffer = [0; 4096];
    let length = File::open("/proc/self/status")
        .and_then(|mut status| status.read(&mut buffer))
        .unwrap_or(0);
    vm_rss(&buffer[..length]).unwrap_or(0)
}

fn vm_rss(status: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_status() {
        assert_eq!(
            vm_rss(b"Name:\tinit\nVmHWM:\t 2000 kB\nVmRSS:\t    1234 kB\nRssAnon:\t 1 kB\n"),
            Some(1234)
        );
        assert_eq!(vm_rss(b"Name:\tinit\n"), None);
        assert!(resident_kib() > 100);
    }

    #[test]
    fn limits_are_stretched() {
        assert_eq!(stretched(30_000, 1.0), 30_000);
        assert_eq!(stretched(30_000, 8.5), 255_000);
    }
}
