//! The figures as people read them.

use std::fmt::Write as _;

use crate::measure::Cost;
use crate::median;

/// What the figures are hoped to be.
#[derive(Debug)]
pub(crate) struct Aims {
    app_faster: f64,
    nothing_seconds: f64,
    memory: f64,
    init_bytes: f64,
    init_memory: f64,
    hello: f64,
}

impl Default for Aims {
    fn default() -> Self {
        Self {
            app_faster: 10.0,
            nothing_seconds: 0.2,
            memory: 128.0,
            init_bytes: 2.0,
            init_memory: 2.0,
            hello: 40.0,
        }
    }
}

/// All rounds of both sides; `[ours, theirs]`.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    cold: [Vec<Cost>; 2],
    app: [Vec<Cost>; 2],
    nothing: Vec<Cost>,
    /// Bytes on the disk, and apparent ones.
    pub(crate) images: [(u64, u64); 2],
}

impl Figures {
    pub(crate) fn add(&mut self, cold: [Cost; 2], app: [Cost; 2], nothing: Cost) {
        for (all, cost) in self.cold.iter_mut().zip(cold) {
            all.push(cost);
        }
        for (all, cost) in self.app.iter_mut().zip(app) {
            all.push(cost);
        }
        self.nothing.push(nothing);
    }

    /// The table of medians with ratios.
    pub(crate) fn casts(&self, aims: &Aims) -> String {
        let [cold, app] = [&self.cold, &self.app].map(|sides| sides.each_ref().map(|c| median(c)));
        let nothing = median(&self.nothing);
        let mut text = format!(
            "medians of {}; peak = largest process; genimage = mke2fs -d, veritysetup, genimage\n\n\
             {:32} {:>8} {:>8} {:>9}\n",
            self.nothing.len(),
            "",
            "wall s",
            "CPU s",
            "peak MiB"
        );
        for (name, cost) in [
            ("cold: slipform", cold[0]),
            ("cold: genimage", cold[1]),
            ("only the app changed: slipform", app[0]),
            ("only the app changed: genimage", app[1]),
            ("nothing changed: slipform", nothing),
        ] {
            let Cost { wall, cpu, peak } = cost;
            line(
                &mut text,
                &format!("{name:32} {wall:8.2} {cpu:8.2} {peak:9.0}"),
            );
        }
        for (name, (allocated, apparent)) in ["slipform", "genimage"].iter().zip(self.images) {
            let (allocated, apparent) = (megabytes(allocated), megabytes(apparent));
            line(
                &mut text,
                &format!(
                    "disk of {name}: {allocated:.1} MB on the disk, {apparent:.1} MB apparent"
                ),
            );
        }
        text.push('\n');
        let peak = [cold[0], app[0], nothing]
            .iter()
            .map(|c| c.peak)
            .fold(0.0, f64::max);
        for (name, aim, met) in [
            (
                format!(
                    "cold, CPU of slipform by genimage's: {:.2}",
                    cold[0].cpu / cold[1].cpu
                ),
                "at most 1".to_owned(),
                cold[0].cpu <= cold[1].cpu,
            ),
            (
                format!(
                    "app only, times faster: {:.1} by CPU, {:.1} by the wall",
                    app[1].cpu / app[0].cpu,
                    app[1].wall / app[0].wall
                ),
                format!("at least {}", aims.app_faster),
                app[1].wall >= aims.app_faster * app[0].wall,
            ),
            (
                format!("nothing changed: {:.3} s", nothing.wall),
                format!("below {} s", aims.nothing_seconds),
                nothing.wall < aims.nothing_seconds,
            ),
            (
                format!("memory of slipform: {peak:.0} MiB"),
                format!("below {} MiB", aims.memory),
                peak < aims.memory,
            ),
        ] {
            line(&mut text, &judged(&name, &aim, met));
        }
        text
    }
}

/// What one boot of `hello` told.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) init_bytes: u64,
    /// Of the init that speaks TLS.
    pub(crate) tls_bytes: u64,
    pub(crate) rss_kib: u64,
    /// Seconds from init's first event to ready.
    pub(crate) start_to_ready: f64,
    /// Seconds from power-on to ready, firmware and kernel included.
    pub(crate) power_to_ready: f64,
    /// Bytes on the disk, and apparent ones.
    pub(crate) disk: (u64, u64),
}

/// Init's and hello's figures.
pub(crate) fn machine(machine: &Machine, aims: &Aims) -> String {
    let mut text = String::new();
    let size = megabytes(machine.init_bytes);
    let memory = machine.rss_kib as f64 * 1024.0 / 1e6;
    let hello = megabytes(machine.disk.0);
    for (name, aim, met) in [
        (
            format!(
                "init: {size:.2} MB (with TLS, for who asks for it: {:.2} MB)",
                megabytes(machine.tls_bytes)
            ),
            format!("below {} MB", aims.init_bytes),
            size < aims.init_bytes,
        ),
        (
            format!("init, resident at ready: {memory:.2} MB"),
            format!("below {} MB", aims.init_memory),
            memory < aims.init_memory,
        ),
        (
            format!(
                "hello's disk: {hello:.1} MB on the disk, {:.1} MB apparent",
                megabytes(machine.disk.1)
            ),
            format!("at most {} MB", aims.hello),
            hello <= aims.hello,
        ),
    ] {
        line(&mut text, &judged(&name, &aim, met));
    }
    line(
        &mut text,
        &format!(
            "hello, TCG: {:.2} s from the kernel's hand-over to ready, {:.1} s from power-on",
            machine.start_to_ready, machine.power_to_ready
        ),
    );
    text
}

fn judged(name: &str, aim: &str, met: bool) -> String {
    let word = if met { "met" } else { "MISSED" };
    format!("{name}  (aim: {aim}; {word})")
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}
