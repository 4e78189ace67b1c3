//! The cost of a process: wall time, CPU time and peak memory with all of its
//! children, by GNU time (`wait4`), which needs no unsafe code here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use slipform::pipeline::tools::Tools;

/// What a process took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Seconds on the wall.
    pub(crate) wall: f64,
    /// Seconds of CPU, user and system, of it and its children.
    pub(crate) cpu: f64,
    /// The largest resident set of it or of one of its children, MiB.
    pub(crate) peak: f64,
}

/// Runs and measures.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    words: Vec<OsString>,
    file: PathBuf,
}

impl Stopwatch {
    pub(crate) fn new(tools: &Tools, folder: &Path) -> Self {
        Self {
            words: tools.words("time").expect("the tools have GNU time"),
            file: folder.join("cost"),
        }
    }

    /// Runs `program` to its end; it must succeed.
    pub(crate) fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &Path)],
    ) -> Cost {
        let mut command = Command::new(&self.words[0]);
        command
            .args(&self.words[1..])
            .args(["-f", "%U %S %M", "-o"])
            .arg(&self.file)
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null());
        let start = Instant::now();
        let output = command.output().unwrap();
        let wall = start.elapsed().as_secs_f64();
        assert!(
            output.status.success(),
            "{} {arguments:?} ended with {}:\n{}{}",
            program.display(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let text = std::fs::read_to_string(&self.file).unwrap();
        let figures: Vec<f64> = text
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        let [user, system, peak] = figures[..] else {
            panic!("GNU time said '{text}'");
        };
        Cost {
            wall,
            cpu: user + system,
            peak: peak / 1024.0,
        }
    }
}
