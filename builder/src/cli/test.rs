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
use crate::pipeline::{Cast, Settings, load};
use crate::spec::Image;

/// Casts, boots, probes, prints the verdicts.
pub(crate) fn run(cli: &Cli, verb: &Test) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let image = load(&verb.casting.dir)?;
    let (emulator, made) = settings.healed(|| {
        let (_, casts) = cast_all(&settings, &image, &verb.casting)?;
        let emulator = settings.emulator(&image, &verb.emulating.qemu)?;
        let made = casts.into_iter().map(|cast| {
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
            anyhow::Ok((cast, disk))
        });
        anyhow::Ok((emulator, made.collect::<Result<Vec<_>, _>>()?))
    })?;
    if verb.image.is_some() && made.len() != 1 {
        return Err(BadInput(format!(
            "--image is one board's disk, and the specification names {} boards; choose with --board",
            made.len()
        ))
        .into());
    }
    let several = made.len() > 1;
    let mut tested = Vec::new();
    for (cast, disk) in &made {
        tested.push(subject(
            &settings,
            &image,
            cast,
            disk.as_ref(),
            verb,
            several,
        )?);
    }
    // Asked for its passphrase before the machine boots, not when everybody has gone for coffee.
    let key = named_signer(&verb.signing)?;
    let runs = all_runs(&settings, &tested, &emulator, verb)?;
    let mut reports = Vec::new();
    for runs in &runs {
        reports.push(repeated(runs).context("no run was made")?);
    }
    for ((cast, _), report) in made.iter().zip(&reports) {
        keep(&settings, &image, cast, report, key.as_deref())?;
    }
    tell(cli, verb, &tested, &runs, &reports)
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
    settings.keep_report(&cast.manifest, report)?;
    if let Some(key) = key {
        let lock = settings.read_lock(image)?.context("there is no lock")?;
        let att = settings.attest(image, &lock, cast, report, key)?;
        settings.progress.note(&format!(
            "attested {} by {}: {att}",
            cast.manifest,
            key.public().id()
        ));
    }
    Ok(())
}

/// One image to test, and where its report goes.
struct Tested {
    plan: Plan,
    folder: PathBuf,
    board: String,
}

fn subject(
    settings: &Settings,
    image: &Image,
    cast: &Cast,
    disk: Option<&Artifact>,
    verb: &Test,
    several: bool,
) -> anyhow::Result<Tested> {
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
    plan.run.seed = verb.seed;
    plan.run.shard = verb.shard;
    Ok(Tested {
        plan,
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
    tested: &[Tested],
    emulator: &Emulator,
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
            plans.push(plan);
        }
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..plans.len().min(usize::from(verb.jobs)) {
            scope.spawn(|| {
                while let Some((n, plan)) = {
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

/// Prints and writes what came of it.
fn tell(
    cli: &Cli,
    verb: &Test,
    tested: &[Tested],
    runs: &[Vec<BootReport>],
    reports: &[BootReport],
) -> anyhow::Result<Done> {
    for ((one, runs), report) in tested.iter().zip(runs).zip(reports) {
        if runs.len() > 1 {
            write_report(report, &one.folder)?;
        }
        if !cli.json {
            if tested.len() > 1 {
                print(&format!("board {}\n", one.board))?;
            }
            print(&verdicts(report, &one.folder))?;
        }
    }
    if let Some(path) = &verb.junit {
        std::fs::write(path, junit(reports))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let passed = reports.iter().all(|report| report.passed);
    if cli.json {
        print_json(&serde_json::json!({ "passed": passed, "reports": reports }))?;
    }
    Ok(if passed { Done::Good } else { Done::Red })
}

/// Boots for a person.
pub(crate) fn interactive(cli: &Cli, verb: &Run) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let image = load(&verb.casting.dir)?;
    let (emulator, cast, artifact) = settings.healed(|| {
        let (_, casts) = cast_all(&settings, &image, &verb.casting)?;
        let cast = casts.into_iter().next();
        let cast = cast.context("there is no board to run")?;
        let emulator = settings.emulator(&image, &verb.emulating.qemu)?;
        let raw = write(&settings, &image, &cast, OutputFormat::Raw, &verb.casting)?;
        anyhow::Ok((emulator, cast, raw))
    })?;
    let folder = artifact
        .path
        .with_file_name(format!("run-{}", cast.board.name));
    let mut plan = settings.plan(&image, &cast, &artifact, &folder);
    plan.publish.clone_from(&verb.publish);
    match settings.interactive(&plan, &emulator, &verb.emulating.accel)? {
        ExitKind::Died(reason) => anyhow::bail!("the machine died: {reason}"),
        ExitKind::PoweredOff | ExitKind::Asked | ExitKind::Killed => Ok(Done::Good),
    }
}
