//! `cargo bench`: what a cast costs, beside what genimage's pipeline costs for the
//! same work, and what init costs on the machine.
//!
//! Every figure is of a whole process, from its start to its end, with all of its
//! children. The two sides take turns (A B A B), so that a busy machine is busy for
//! both. Aims are printed beside the figures; nothing here passes or fails.
//!
//! `cargo bench -- instructions` counts init's instructions and does nothing else.
//! `SLIPFORM_BENCH_QUICK=1` takes a quarter of the tree; what needs the network
//! (Debian's tools at the first run) is passed over visibly with
//! `SLIPFORM_TESTS_OFFLINE=1`.

#![expect(clippy::print_stdout, reason = "the figures are the result")]

mod genimage;
mod instructions;
mod machine;
mod measure;
mod slipform;
mod table;
mod workload;

use std::path::Path;
use std::time::Duration;

use ::slipform::pipeline::testing;

use crate::genimage::Genimage;
use crate::measure::{Cost, Stopwatch};
use crate::slipform::Slipform;
use crate::table::{Aims, Figures};
use crate::workload::Workload;

/// Rounds that count, after one that does not.
const ROUNDS: usize = 3;
/// A file's digest is remembered only when the file was at rest for a moment.
const REST: Duration = Duration::from_millis(200);

fn main() {
    // `cargo test --benches` has nothing to choose from here.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    if std::env::args().any(|argument| argument == "instructions") {
        let folder = tempfile::tempdir().unwrap();
        println!("{}", instructions::measure(folder.path()));
        return;
    }
    let quick = std::env::var_os("SLIPFORM_BENCH_QUICK").is_some_and(|value| value == "1");
    let tools = match testing::judges() {
        Ok(Some(tools)) => tools,
        Ok(None) => return,
        Err(error) => panic!(
            "the bench's tools cannot be had: {error}; set {}=1 to pass over it",
            testing::OFFLINE
        ),
    };
    let folder = tempfile::tempdir().unwrap();
    let workload = Workload::create(&folder.path().join("project"), quick);
    println!("{workload}");
    let watch = Stopwatch::new(&tools, folder.path());
    let ours = Slipform::prepare(folder.path(), &workload, &watch);
    let theirs = Genimage::prepare(folder.path(), &workload, &tools, &watch);
    let figures = casts(&workload, &ours, &theirs);
    println!("{}", figures.casts(&Aims::default()));
    println!("{}", machine::measure(folder.path(), &Aims::default()));
    println!("{}", instructions::measure(folder.path()));
}

/// All rounds of both sides.
fn casts(workload: &Workload, ours: &Slipform<'_>, theirs: &Genimage<'_>) -> Figures {
    let mut figures = Figures::default();
    for round in 0..=ROUNDS {
        let number = round as u64 + 1;
        workload.change_app(2 * number);
        std::thread::sleep(REST);
        ours.forget();
        theirs.forget();
        let cold = [ours.build(), theirs.build()];
        workload.change_app(2 * number + 1);
        std::thread::sleep(REST);
        let app = [ours.build(), theirs.build()];
        let nothing = ours.build();
        if round > 0 {
            figures.add(cold, app, nothing);
        }
    }
    figures.images = [room(&ours.disk()), room(&theirs.disk())];
    figures
}

/// Bytes of a file: those it takes on the disk, and those it seems to have.
fn room(path: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let meta = path.metadata().unwrap();
    (meta.blocks() * 512, meta.len())
}

/// The middle one of the costs, each figure for itself.
fn median(costs: &[Cost]) -> Cost {
    let middle = |figure: fn(&Cost) -> f64| {
        let mut all: Vec<f64> = costs.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Cost {
        wall: middle(|c| c.wall),
        cpu: middle(|c| c.cpu),
        peak: middle(|c| c.peak),
    }
}
