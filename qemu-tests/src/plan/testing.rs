//! A plan for unit tests.

use std::time::Duration;

use super::{BootPath, DiskFormat, Emulation, Plan, RunOptions};

/// A raw disk that starts by firmware, with nothing to check.
pub(crate) fn plan() -> Plan {
    Plan {
        name: "hello".into(),
        image: "sha256:00".into(),
        disk: "/img/hello.raw".into(),
        format: DiskFormat::Raw,
        sector_size: 512,
        emulation: Emulation {
            machine: "q35".into(),
            cpu: "Nehalem".into(),
            processors: 2,
            memory_mib: 256,
            disk: "virtio-blk".into(),
            network: "virtio-net".into(),
        },
        boot: BootPath::Firmware,
        also_bios: false,
        layers: Vec::new(),
        checks: Vec::new(),
        ready_limit: Duration::from_secs(30),
        allowances: Vec::new(),
        run: RunOptions::default(),
        publish: Vec::new(),
        state_disk: None,
        evidence: "/evidence".into(),
    }
}
