//! The loop: choose, mutate, check, keep.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::Random;
use crate::mutate::mutant;
use crate::watch::Watch;

/// Bytes of all inputs that are kept.
const CORPUS_MAX: usize = 256 << 20;

/// When a run is over, and what an execution may cost.
pub(crate) struct Limits {
    pub(crate) time: Duration,
    /// Mutants that are tried even if the time is over.
    pub(crate) least: u64,
    pub(crate) most: u64,
    /// Longest execution.
    pub(crate) hang: Duration,
    /// Where each input is written before it is tried.
    pub(crate) last: Option<File>,
}

impl Limits {
    pub(crate) fn of_environment() -> Self {
        let seconds = std::env::var("SLIPFORM_FUZZ_SECONDS").ok();
        let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(1.0);
        let last = std::env::var_os("SLIPFORM_FUZZ_LAST");
        Self {
            time: Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(1)),
            least: 100,
            most: u64::MAX,
            // Unoptimised, beside other tests, on a busy machine: more patience.
            hang: Duration::from_secs(if cfg!(fuzz_coverage) { 10 } else { 60 }),
            last: last.map(|path| File::create(path).expect("SLIPFORM_FUZZ_LAST can be made")),
        }
    }
}

/// What tells whether an execution did something new.
pub(crate) trait Feedback {
    /// Right before an execution.
    fn begin(&mut self, input: &[u8]);
    /// Right after it: was there anything that none before did?
    fn is_new(&mut self) -> bool;
    /// How many places were reached so far.
    fn reached(&self) -> usize;
}

/// Nothing is known: only seeds are mutated.
#[cfg_attr(fuzz_coverage, allow(dead_code))]
pub(crate) struct Blind;

impl Feedback for Blind {
    fn begin(&mut self, _input: &[u8]) {}

    fn is_new(&mut self) -> bool {
        false
    }

    fn reached(&self) -> usize {
        0
    }
}

/// What a run came to.
pub(crate) struct Outcome {
    pub(crate) executions: u64,
    pub(crate) corpus: usize,
    pub(crate) reached: usize,
    /// What had been reached when two thirds of the time were over.
    pub(crate) reached_before: usize,
    /// When something new was reached last.
    pub(crate) newest: Duration,
    pub(crate) elapsed: Duration,
    pub(crate) cpu: Duration,
}

/// Tells the input if the check panics.
struct Telling<'a>(&'a [u8]);

impl Drop for Telling<'_> {
    #[expect(clippy::print_stderr)] // a failed test shows it
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("fuzz: this input panics ({} bytes): {hex}", self.0.len());
        }
    }
}

pub(crate) fn run<S: AsRef<[u8]>>(
    seeds: &[S],
    limits: &Limits,
    feedback: &mut impl Feedback,
    mut check: impl FnMut(&[u8], &mut Random),
) -> Outcome {
    let mut corpus: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.as_ref().to_vec()).collect();
    assert!(!corpus.is_empty(), "there is at least one seed");
    let longest = corpus.iter().map(Vec::len).max().unwrap_or(0);
    let longest = longest + longest.clamp(64, 4096);
    let mut kept: usize = corpus.iter().map(Vec::len).sum();
    let watch = Watch::start(limits.hang);
    let (begin, cpu) = (Instant::now(), cpu_time());
    let mut random = Random::new(1);
    let mut bytes = Vec::new();
    let (mut executions, mut before) = (0_u64, None);
    let mut newest = Duration::ZERO;
    loop {
        let seed = corpus
            .get(executions as usize)
            .filter(|_| executions < seeds.len() as u64);
        if let Some(seed) = seed {
            bytes.clone_from(seed);
        } else {
            mutant(&mut bytes, &corpus, longest, &mut random);
        }
        if let Some(file) = &limits.last {
            let written = file.write_all_at(&bytes, 0);
            written
                .and_then(|()| file.set_len(bytes.len() as u64))
                .expect("the input is written");
        }
        let mut own = Random::of(&bytes);
        let telling = Telling(&bytes);
        watch.begin(&bytes);
        feedback.begin(&bytes);
        check(&bytes, &mut own);
        let is_new = feedback.is_new();
        watch.end();
        drop(telling);
        executions += 1;
        let elapsed = begin.elapsed();
        if is_new {
            newest = elapsed;
            if executions > seeds.len() as u64 && kept + bytes.len() <= CORPUS_MAX {
                kept += bytes.len();
                corpus.push(bytes.clone());
            }
        }
        if before.is_none() && elapsed >= limits.time * 2 / 3 {
            before = Some(feedback.reached());
        }
        let mutants = executions.saturating_sub(seeds.len() as u64);
        if mutants >= limits.most || mutants >= limits.least && elapsed >= limits.time {
            break;
        }
    }
    Outcome {
        executions,
        corpus: corpus.len(),
        reached: feedback.reached(),
        reached_before: before.unwrap_or_default(),
        newest,
        elapsed: begin.elapsed(),
        cpu: cpu_time().saturating_sub(cpu),
    }
}

/// Of this thread, as the scheduler counts it.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Says it where `--nocapture` shows it.
#[expect(clippy::print_stdout)]
pub(crate) fn tell(name: &str, outcome: &Outcome) {
    println!(
        "fuzz {name}: {} executions, corpus {}, {} counters reached ({} in the last third, \
         the last thing new after {:.1} s), {:.1} s, {:.1} s of processor",
        outcome.executions,
        outcome.corpus,
        outcome.reached,
        outcome.reached - outcome.reached_before,
        outcome.newest.as_secs_f64(),
        outcome.elapsed.as_secs_f64(),
        outcome.cpu.as_secs_f64(),
    );
}
