//! The numbers themselves: from the journal's counts and the services' cgroups, and behind
//! them those of the [machine](super::kernel).

use std::time::Duration;

use slipform_init::contract::event::{Phase, ServiceState};

use super::kernel::{self, Places, gauge, number, read};
use super::model::{Family, Kind};
use crate::ship::record::Identity;
use crate::ship::tally::Tally;

const STATES: [(ServiceState, &str); 7] = [
    (ServiceState::Waiting, "waiting"),
    (ServiceState::Started, "started"),
    (ServiceState::Ready, "ready"),
    (ServiceState::Exited, "exited"),
    (ServiceState::Backoff, "backoff"),
    (ServiceState::Failed, "failed"),
    (ServiceState::Stopped, "stopped"),
];

/// What is known beside the kernel's files.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) tally: &'a Tally,
    /// Records and bytes that wait in the spool.
    pub(crate) spooled: (u64, usize),
    pub(crate) since_boot: Duration,
}

/// Everything.
pub(crate) fn gather(places: &Places, facts: &Facts<'_>) -> Vec<Family> {
    let mut families = own(facts);
    families.extend(services(facts.tally));
    families.extend(cgroups(places, facts.tally));
    families.extend(logs(facts));
    families.extend(kernel::families(places));
    families
}

fn own(facts: &Facts<'_>) -> Vec<Family> {
    let identity = facts.identity;
    let mut image = Family::new("slipform_image_info", "The image, always 1.", Kind::Gauge);
    let labels = [
        ("image", &identity.image),
        ("version", &identity.version),
        ("digest", &identity.digest),
        ("boot", &identity.boot),
    ];
    image.add(
        labels.map(|(name, value)| (name, value.clone())).into(),
        1.0,
    );
    let mut phases = Family::new(
        "slipform_boot_phase_seconds",
        "When each phase of the boot began, in seconds since the kernel started.",
        Kind::Gauge,
    );
    for (phase, time) in Phase::ALL.iter().zip(facts.tally.phases) {
        if let Some(time) = time {
            phases.add(vec![("phase", phase.name().to_owned())], time.as_secs_f64());
        }
    }
    vec![
        image,
        gauge(
            "slipform_uptime_seconds",
            "Seconds since the kernel started.",
            facts.since_boot.as_secs_f64(),
        ),
        phases,
        Family::single(
            "slipform_verity_errors_total",
            "Complaints of dm-verity that the kernel told.",
            Kind::Counter,
            facts.tally.verity_errors as f64,
        ),
        Family::single(
            "slipform_errors_total",
            "Other errors of init's.",
            Kind::Counter,
            facts.tally.errors as f64,
        ),
    ]
}

fn services(tally: &Tally) -> Vec<Family> {
    let mut states = Family::new(
        "slipform_service_state",
        "1 for the state that a service is in, 0 for the others.",
        Kind::Gauge,
    );
    let mut restarts = Family::new(
        "slipform_service_restarts_total",
        "How often a service was started again.",
        Kind::Counter,
    );
    let mut lines = Family::new(
        "slipform_service_log_lines_total",
        "Lines that a service said.",
        Kind::Counter,
    );
    let mut dropped = Family::new(
        "slipform_service_log_lines_dropped_total",
        "Lines lost because a service wrote too fast.",
        Kind::Counter,
    );
    for service in &tally.services {
        let label = || ("service", service.name.clone());
        for (state, name) in STATES {
            let labels = vec![label(), ("state", name.to_owned())];
            states.add(labels, f64::from(u8::from(state == service.state)));
        }
        restarts.add(vec![label()], service.starts.saturating_sub(1) as f64);
        lines.add(vec![label()], service.lines as f64);
        dropped.add(vec![label()], service.dropped as f64);
    }
    vec![states, restarts, lines, dropped]
}

fn cgroups(places: &Places, tally: &Tally) -> Vec<Family> {
    let mut memory = Family::new(
        "slipform_service_memory_bytes",
        "Memory of a service's cgroup.",
        Kind::Gauge,
    );
    let mut peak = Family::new(
        "slipform_service_memory_peak_bytes",
        "The most memory that a service's cgroup had.",
        Kind::Gauge,
    );
    let mut processes = Family::new(
        "slipform_service_processes",
        "Processes and threads of a service.",
        Kind::Gauge,
    );
    let mut processor = Family::new(
        "slipform_service_cpu_seconds_total",
        "Processor time of a service.",
        Kind::Counter,
    );
    for service in &tally.services {
        if service.name.contains(['/', '.']) {
            continue;
        }
        let folder = places.sys.join("fs/cgroup").join(&service.name);
        let label = || vec![("service", service.name.clone())];
        for (file, family) in [
            ("memory.current", &mut memory),
            ("memory.peak", &mut peak),
            ("pids.current", &mut processes),
        ] {
            if let Some(value) = number(&folder.join(file)) {
                family.add(label(), value);
            }
        }
        let stat = read(&folder.join("cpu.stat")).unwrap_or_default();
        let micros = stat
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        if let Some(micros) = micros.and_then(|text| text.trim().parse::<f64>().ok()) {
            processor.add(label(), micros / 1e6);
        }
    }
    vec![memory, peak, processes, processor]
}

fn logs(facts: &Facts<'_>) -> Vec<Family> {
    let mut up = Family::new(
        "slipform_log_sink_up",
        "Whether a sink took what it was sent last.",
        Kind::Gauge,
    );
    let mut sent = Family::new(
        "slipform_log_records_sent_total",
        "Records that a sink has.",
        Kind::Counter,
    );
    let mut lost = Family::new(
        "slipform_log_records_lost_total",
        "Records that a sink never got.",
        Kind::Counter,
    );
    let mut failures = Family::new(
        "slipform_log_sink_failures_total",
        "Connections to a sink that failed.",
        Kind::Counter,
    );
    for sink in &facts.tally.sinks {
        let label = || vec![("sink", sink.name.clone())];
        up.add(label(), f64::from(u8::from(sink.up)));
        sent.add(label(), sink.sent as f64);
        lost.add(label(), sink.lost as f64);
        failures.add(label(), sink.failures as f64);
    }
    let (records, bytes) = facts.spooled;
    vec![
        up,
        sent,
        lost,
        failures,
        gauge(
            "slipform_log_spool_records",
            "Records that wait for a sink.",
            records as f64,
        ),
        gauge(
            "slipform_log_spool_bytes",
            "Memory of the records that wait for a sink.",
            bytes as f64,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::metrics::model::text;
    use crate::ship::record::testing::identity;
    use crate::ship::tally::{ServiceTally, SinkTally};

    fn tally() -> Tally {
        let mut tally = Tally {
            verity_errors: 2,
            ..Tally::default()
        };
        tally.phases[Phase::Running as usize] = Some(Duration::from_millis(2250));
        tally.services.push(ServiceTally {
            name: "web".to_owned(),
            state: ServiceState::Ready,
            starts: 3,
            lines: 9,
            dropped: 1,
            process: None,
            detail: String::new(),
            status: String::new(),
        });
        tally.sinks.push(SinkTally {
            name: "central".to_owned(),
            up: true,
            sent: 7,
            lost: 4,
            failures: 1,
        });
        tally
    }

    fn scene() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in [
            (
                "proc/meminfo",
                "MemTotal:        500000 kB\nMemFree: 1 kB\nMemAvailable:    2 kB\n",
            ),
            ("proc/self/status", "Name:\tinit\nVmRSS:\t    1000 kB\n"),
            ("proc/loadavg", "0.25 0.1 0.0 1/50 99\n"),
            ("proc/stat", "cpu  100 0 50 1000 5 0 1 0 0 0\ncpu0 1\n"),
            (
                "proc/net/dev",
                "Inter-|   Receive\n face |bytes\n    lo:  10  1  0  0 0 0 0 0  20  2  0  0 0 0 0 0\n\
                 eth0:100 11 1 2 0 0 0 0 200 22 3 4 0 0 0 0\n",
            ),
            (
                "proc/self/mountinfo",
                "1 1 0:1 / / ro - overlay x ro\n2 1 0:2 / /tmp rw,nosuid - tmpfs tmpfs rw\n3 1 0:3 / /a ro - tmpfs t rw\n",
            ),
            ("sys/block/vda/stat", "1 2 10 3 4 5 20 6 7 1500 8\n"),
            ("sys/block/dm-0/stat", "1 2 10 3 4 5 20 6 7 8 9\n"),
            ("sys/fs/cgroup/web/memory.current", "4096\n"),
            (
                "sys/fs/cgroup/web/cpu.stat",
                "usage_usec 1500000\nuser_usec 1\n",
            ),
            ("sys/fs/cgroup/web/pids.current", "max\n"),
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    fn all(places: &Places) -> String {
        let identity = identity();
        text(&gather(
            places,
            &Facts {
                identity: &identity,
                tally: &tally(),
                spooled: (3, 300),
                since_boot: Duration::from_secs(10),
            },
        ))
    }

    #[test]
    fn numbers_come_from_where_the_kernel_tells_them() {
        let folder = scene();
        let places = Places {
            proc: folder.path().join("proc"),
            sys: folder.path().join("sys"),
        };
        let text = all(&places);
        for line in [
            "slipform_uptime_seconds 10",
            "slipform_boot_phase_seconds{phase=\"running\"} 2.25",
            "slipform_verity_errors_total 2",
            "slipform_service_state{service=\"web\",state=\"ready\"} 1",
            "slipform_service_state{service=\"web\",state=\"failed\"} 0",
            "slipform_service_restarts_total{service=\"web\"} 2",
            "slipform_service_log_lines_dropped_total{service=\"web\"} 1",
            "slipform_service_memory_bytes{service=\"web\"} 4096",
            "slipform_service_cpu_seconds_total{service=\"web\"} 1.5",
            "slipform_log_records_lost_total{sink=\"central\"} 4",
            "slipform_log_spool_records 3",
            "slipform_memory_bytes 512000000",
            "slipform_memory_available_bytes 2048",
            "slipform_init_resident_bytes 1024000",
            "slipform_load1 0.25",
            "slipform_cpu_seconds_total{mode=\"idle\"} 10",
            "slipform_network_receive_bytes_total{interface=\"eth0\"} 100",
            "slipform_network_transmit_drops_total{interface=\"eth0\"} 4",
            "slipform_disk_read_bytes_total{device=\"vda\"} 5120",
            "slipform_disk_io_seconds_total{device=\"vda\"} 1.5",
        ] {
            assert!(
                text.lines().any(|got| got == line),
                "no {line:?} in\n{text}"
            );
        }
        assert!(text.contains("slipform_filesystem_size_bytes{mount=\"/tmp\",type=\"tmpfs\"} "));
        assert!(!text.contains("dm-0") && !text.contains("slipform_service_processes"));
    }

    #[test]
    fn without_any_file_there_is_still_something_to_tell() {
        let nowhere = Places {
            proc: "/nonexistent".into(),
            sys: "/nonexistent".into(),
        };
        assert!(all(&nowhere).contains("slipform_uptime_seconds 10\n"));
        assert!(all(&Places::default()).contains("slipform_init_resident_bytes "));
    }
}
