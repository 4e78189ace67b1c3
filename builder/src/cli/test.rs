//! `slipform test` and `slipform run`.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use slipform_qemu_tests::{BootReport, Emulator, ExitKind, Plan, junit, repeated, write_report};

use super::args::{Cli, Run, Test};
use super::build::{cast_all, write};
use super::key::named_signer;
use super::report::verdicts;
use super::{BadInput, Done, print, print_json, settings};
use crate::attest::Signer;
use crate::output::{Artifact, OutputFormat};
use crate::pipeline::{Cast, Settings, SweepRequest, Sweeps, load, tell_report};
use crate::spec::Image;

/// Casts, boots, probes, prints the verdicts.
pub(crate) fn run(cli: &Cli, verb: &Test) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let request = verb.sweeping.request(verb.seed, verb.jobs)?;
    if request.is_some() {
        sweepable(verb)?;
    }
    let image = load(&verb.casting.dir)?;
    let made = settings.healed(|| {
        let (_, casts) = cast_all(&settings, &image, &verb.casting)?;
        let made = casts.into_iter().map(|cast| {
            let emulator = settings.emulator(&image, cast.board.arch, &verb.emulating.qemu)?;
            let disk = match &verb.image {
                Some(_) => None,
                None => Some(write(
                    &settings,
                    &image,
                    &cast,
                    OutputFormat::Raw,
                    &verb.casting,
                )?),
            };
            anyhow::Ok((cast, disk, emulator))
        });
        made.collect::<Result<Vec<_>, _>>()
    })?;
    if verb.image.is_some() && made.len() != 1 {
        return Err(BadInput(format!(
            "--image is one board's disk, and the specification names {} boards; choose with --board",
            made.len()
        ))
        .into());
    }
    let several = made.len() > 1;
    if several && request.is_some() {
        return Err(BadInput(format!(
            "a sweep is of one board, and the specification names {}; choose with --board",
            made.len()
        ))
        .into());
    }
    let mut tested = Vec::new();
    for (cast, disk, emulator) in &made {
        let made = (cast, disk.as_ref(), emulator);
        let mut one = subject(&settings, &image, made, verb, several)?;
        let sweeping = request.as_ref().map(|request| request.seed);
        one.plan.run.seed = sweeping.or(verb.seed).unwrap_or(0);
        tested.push(one);
    }
    // Asked for its passphrase before the machine boots, not when everybody has gone for coffee.
    let key = named_signer(&verb.signing)?;
    if key.is_some() && image.is_debug() && !image.gate.accept_debug {
        return Err(BadInput(
            "--key: the image has a debug layer, and the gate takes none; test it without --key, or set `accept-debug = true` under [gate]".to_owned(),
        )
        .into());
    }
    let runs = all_runs(&settings, &tested, verb)?;
    let mut reports = tell(cli, &tested, &runs)?;
    let mut swept = Vec::new();
    if let Some(request) = request {
        let accel = &verb.emulating.accel;
        for (one, report) in tested.iter().zip(&mut reports) {
            swept.extend(sweep(&settings, one, report, accel, &request)?);
        }
        if !cli.json {
            for sweeps in &swept {
                print(&sweeps.text())?;
            }
        }
    }
    // With what the sweeps counted; a sweep that is red takes the green away.
    if swept.iter().all(Sweeps::passed) {
        for ((cast, ..), report) in made.iter().zip(&reports) {
            keep(&settings, &image, cast, report, key.as_deref())?;
        }
    }
    finish(cli, verb, &reports, &swept)
}

/// Keeps what a green run shows, for `publish`; signed at once if a key was named.
fn keep(
    settings: &Settings,
    image: &Image,
    cast: &Cast,
    report: &BootReport,
    key: Option<&dyn Signer>,
) -> anyhow::Result<()> {
    if !report.passed || report.image != cast.manifest.to_string() {
        return Ok(());
    }
    let lock = settings.read_lock(image)?.context("there is no lock")?;
    // What a cache said of its steps is done again here, or it is no evidence.
    settings.prove(image, &lock, cast)?;
    settings.keep_report(&cast.manifest, report)?;
    if let Some(key) = key {
        let att = settings.attest(image, &lock, cast, report, key)?;
        settings.progress.note(&format!(
            "attested {} by {}: {att}",
            cast.manifest,
            key.public().id()
        ));
    }
    Ok(())
}

/// A sweep is many boots of one disk that was cast just now, by its whole plan.
fn sweepable(verb: &Test) -> Result<(), BadInput> {
    let others = [
        (verb.direct, "--direct", "a sweep boots by firmware"),
        (verb.repeat > 1, "--repeat", "a sweep boots often by itself"),
        (verb.shard.is_some(), "--shard", "a sweep makes every check"),
        (
            verb.image.is_some(),
            "--image",
            "a sweep is of the disk that the specification casts",
        ),
    ];
    match others.into_iter().find(|(given, ..)| *given) {
        Some((_, option, why)) => Err(BadInput(format!("{why}; leave {option} out"))),
        None => Ok(()),
    }
}

/// The sweeps of a green image, and what its report keeps of them. What does not boot
/// as it is teaches nothing when it is changed.
fn sweep(
    settings: &Settings,
    one: &Tested<'_>,
    report: &mut BootReport,
    accel: &str,
    request: &SweepRequest,
) -> anyhow::Result<Option<Sweeps>> {
    if !report.passed {
        return Ok(None);
    }
    let request = SweepRequest {
        ready_seconds: report.ready_seconds,
        ..request.clone()
    };
    let sweeps = settings.sweep(&one.plan, one.emulator, accel, &request)?;
    tell_report(report, &sweeps, &one.folder)?;
    Ok(Some(sweeps))
}

/// One image to test, and where its report goes.
struct Tested<'a> {
    plan: Plan,
    emulator: &'a Emulator,
    folder: PathBuf,
    board: String,
}

fn subject<'a>(
    settings: &Settings,
    image: &Image,
    (cast, disk, emulator): (&Cast, Option<&Artifact>, &'a Emulator),
    verb: &Test,
    several: bool,
) -> anyhow::Result<Tested<'a>> {
    let board = cast.board.name.clone();
    let out = verb.casting.out.clone();
    let out = out.unwrap_or_else(|| image.dir.join("out"));
    let folder = match &verb.report {
        Some(folder) if several => folder.join(&board),
        Some(folder) => folder.clone(),
        None => out.join(format!("boot-{board}")),
    };
    let mut plan = match (disk, &verb.image) {
        (Some(artifact), _) => settings.plan(image, cast, artifact, &folder),
        (None, Some(file)) => given(settings, image, cast, file, &folder)?,
        (None, None) => anyhow::bail!("there is no disk to test"),
    };
    if verb.direct {
        plan.boot = settings.direct(cast, &folder)?;
    }
    plan.run.shard = verb.shard;
    Ok(Tested {
        plan,
        emulator,
        folder,
        board,
    })
}

/// A plan for a file that somebody brought. It bears the cast's identity only if it
/// is the cast's disk, byte for byte.
fn given(
    settings: &Settings,
    image: &Image,
    cast: &Cast,
    file: &Path,
    folder: &Path,
) -> anyhow::Result<Plan> {
    let file = file
        .canonicalize()
        .map_err(|error| BadInput(format!("--image {}: {error}", file.display())))?;
    let (format, differences) = settings.compare(cast, &file)?;
    let artifact = Artifact {
        bytes: std::fs::metadata(&file)
            .with_context(|| format!("cannot read {}", file.display()))?
            .len(),
        path: file,
        format,
    };
    let mut plan = settings.plan(image, cast, &artifact, folder);
    if !differences.is_empty() {
        let sum = settings.flat_sum(&artifact)?;
        settings.progress.note(&format!(
            "{} is another image than {} ({}):",
            artifact.path.display(),
            cast.manifest,
            cast.board.name
        ));
        for difference in &differences {
            settings.progress.note(&format!("  {difference}"));
        }
        plan.image = sum.to_string();
    }
    Ok(plan)
}

/// Every run of every image, in their order, `--jobs` at a time.
fn all_runs(
    settings: &Settings,
    tested: &[Tested<'_>],
    verb: &Test,
) -> anyhow::Result<Vec<Vec<BootReport>>> {
    let repeat = usize::from(verb.repeat);
    let mut plans = Vec::new();
    for one in tested {
        for run in 1..=repeat {
            let mut plan = one.plan.clone();
            if repeat > 1 {
                plan.evidence = one.folder.join(format!("run-{run}"));
            }
            plans.push((plan, one.emulator));
        }
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..plans.len().min(usize::from(verb.jobs)) {
            scope.spawn(|| {
                while let Some((n, (plan, emulator))) = {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    plans.get(n).map(|plan| (n, plan))
                } {
                    let result = settings.boot(plan, emulator, &verb.emulating.accel);
                    // A test that could not be made ends the others, too.
                    if result.is_err() {
                        next.store(plans.len(), Ordering::Relaxed);
                    }
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((n, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(n, _)| *n);
    let reports: Vec<BootReport> = done
        .into_iter()
        .map(|(_, result)| result)
        .collect::<Result<_, _>>()?;
    Ok(reports.chunks(repeat).map(<[BootReport]>::to_vec).collect())
}

/// Prints what came of each image, and makes one report of its runs.
fn tell(
    cli: &Cli,
    tested: &[Tested<'_>],
    runs: &[Vec<BootReport>],
) -> anyhow::Result<Vec<BootReport>> {
    let mut reports = Vec::new();
    for (one, runs) in tested.iter().zip(runs) {
        let report = repeated(runs).context("no run was made")?;
        if runs.len() > 1 {
            write_report(&report, &one.folder)?;
        }
        if !cli.json {
            if tested.len() > 1 {
                print(&format!("board {}\n", one.board))?;
            }
            print(&verdicts(&report, &one.folder))?;
        }
        reports.push(report);
    }
    Ok(reports)
}

/// What others read, and the verdict over everything.
fn finish(
    cli: &Cli,
    verb: &Test,
    reports: &[BootReport],
    swept: &[Sweeps],
) -> anyhow::Result<Done> {
    if let Some(path) = &verb.junit {
        std::fs::write(path, junit(reports))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let passed = reports.iter().all(|report| report.passed) && swept.iter().all(Sweeps::passed);
    if cli.json {
        let mut json = serde_json::json!({ "passed": passed, "reports": reports });
        if !swept.is_empty() {
            json["sweeps"] = serde_json::to_value(swept)?;
        }
        print_json(&json)?;
    }
    Ok(if passed { Done::Good } else { Done::Red })
}

/// Boots for a person.
pub(crate) fn interactive(cli: &Cli, verb: &Run) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let image = load(&verb.casting.dir)?;
    if verb.state.is_some() && image.state.is_none() {
        let text = "--state keeps what [state] names, and the specification has none; add [state] with its paths, or leave --state out";
        return Err(BadInput(text.to_owned()).into());
    }
    let own_disk = image.state.as_ref().and_then(|state| state.disk.clone());
    let (emulator, cast, artifact, kept) = settings.healed(|| {
        let (_, casts) = cast_all(&settings, &image, &verb.casting)?;
        let cast = casts.into_iter().next();
        let cast = cast.context("there is no board to run")?;
        let emulator = settings.emulator(&image, cast.board.arch, &verb.emulating.qemu)?;
        let kept = match (&verb.state, &own_disk) {
            (Some(file), None) => Some(settings.keeping(&cast, file)?),
            _ => None,
        };
        let raw = match &kept {
            Some(kept) => kept.artifact.clone(),
            None => write(&settings, &image, &cast, OutputFormat::Raw, &verb.casting)?,
        };
        anyhow::Ok((emulator, cast, raw, kept))
    })?;
    let folder = artifact
        .path
        .with_file_name(format!("run-{}", cast.board.name));
    let mut plan = settings.plan(&image, &cast, &artifact, &folder);
    plan.publish.clone_from(&verb.publish);
    plan.run.writes = kept.is_some();
    if let Some(disk) = &mut plan.state_disk {
        disk.file.clone_from(&verb.state);
    }
    let control = super::inside::control_dir(&settings);
    let accel = &verb.emulating.accel;
    match settings.interactive(&plan, &emulator, accel, Some(&control))? {
        ExitKind::Died(reason) => anyhow::bail!("the machine died: {reason}"),
        ExitKind::PoweredOff | ExitKind::Asked | ExitKind::Killed => Ok(Done::Good),
    }
}
