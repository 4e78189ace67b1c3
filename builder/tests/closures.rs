//! Real closures, compared with what apt itself says: Debian's own apt from
//! locked packages, over the very indexes that were resolved from.

// What was compared must be seen.
#![expect(clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use slipform::base::progress::Quiet;
use slipform::lock::catalog::{Catalog, Reading};
use slipform::lock::release::Clock;
use slipform::lock::solve::{Request, Stop, solve};
use slipform::lock::{Archive, SuiteSource, Wish, Wishes};
use slipform::pipeline::testing;
use slipform::pipeline::tools::Tools;
use slipform::sources::{Host, Mirrors};

/// What is compared: each line one set of wishes. apt takes some seconds for each, so that
/// one run compares every second one, and SLIPFORM_TESTS_NIGHTLY=1 all.
const SETS: &[&str] = &[
    "redis-server",
    "nginx",
    "webfs",
    "qemu-system-x86 ovmf",
    "python3",
    "openssh-server",
    "curl",
    "postgresql",
    "git",
    "apache2",
    "mariadb-server",
    "php-fpm php-mysql",
    "nodejs npm",
    "default-jre-headless",
    "ruby",
    "rustc cargo",
    "gcc",
    "build-essential",
    "docker.io",
    "podman",
    "haproxy",
    "bind9",
    "dnsmasq",
    "postfix",
    "exim4",
    "dovecot-imapd",
    "rabbitmq-server",
    "memcached",
    "prometheus",
    "telegraf",
    "rsyslog",
    "systemd",
    "sysvinit-core",
    "busybox",
    "emacs-nox",
    "ffmpeg",
    "firefox-esr",
    "gnome-core",
    "samba",
    "nfs-kernel-server",
    "nftables",
    "e2fsprogs dosfstools gdisk cryptsetup-bin qemu-utils mtools",
    "tzdata ca-certificates",
    "mail-transport-agent- nullmailer",
    "libapache2-mod-php",
    "gawk original-awk",
    "linux-image-cloud-amd64",
    "golang",
    "bash",
    "perl",
    "strongswan",
    "lua5.4",
];

#[test]
fn closures_are_those_of_apt() {
    let advice = |error: String| -> ! {
        panic!(
            "{error}; set {}=1 to pass over what needs the network",
            testing::OFFLINE
        )
    };
    if testing::is_offline() {
        testing::skipped("closures compared with apt: they need Debian's indexes");
        return;
    }
    let tools = testing::judges()
        .unwrap_or_else(|error| advice(error.to_string()))
        .unwrap();
    let (catalog, files) = read_archives().unwrap_or_else(|error| advice(error));
    let apt = Apt::new(tools, &files);
    let is_nightly = std::env::var_os("SLIPFORM_TESTS_NIGHTLY").is_some_and(|value| value == "1");
    let sets: Vec<&str> = SETS
        .iter()
        .copied()
        .step_by(if is_nightly { 1 } else { 2 })
        .collect();
    let next = AtomicUsize::new(0);
    let different = Mutex::new(Vec::new());
    let work = || {
        while let Some(set) = sets.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(how) = compare(set, &catalog, &apt) {
                different.lock().unwrap().push(format!("{set}: {how}"));
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    let different = different.into_inner().unwrap();
    println!(
        "{} of {} closures equal apt's",
        sets.len() - different.len(),
        sets.len()
    );
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// In what our closure of a set of wishes differs from apt's.
fn compare(set: &str, catalog: &Catalog, apt: &Apt) -> Option<String> {
    let names: Vec<&str> = set.split(' ').filter(|name| !name.ends_with('-')).collect();
    let (ours, theirs) = (closure(catalog, &names), apt.closure(&names));
    let equal = match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => ours == theirs && !ours.is_empty(),
        (ours, theirs) => ours.is_err() && theirs.is_err(),
    };
    (!equal).then(|| difference(&ours, &theirs))
}

/// An archive that remembers what was read of it, by suite and path.
struct Recording {
    mirrors: Mirrors,
    files: Mutex<Files>,
}

type Files = BTreeMap<(String, String), Vec<u8>>;

impl Archive for Recording {
    fn read(&self, suite: &SuiteSource, path: &str, limit: u64) -> Result<Option<Vec<u8>>, String> {
        let bytes = self.mirrors.read(suite, path, limit)?;
        if let Some(bytes) = &bytes {
            let name = (suite.dist.clone(), path.to_owned());
            self.files.lock().unwrap().insert(name, bytes.clone());
        }
        Ok(bytes)
    }
}

/// Debian 13 with updates and security as the mirror has it now, verified.
fn read_archives() -> Result<(Catalog, Files), String> {
    let wishes = Wishes {
        suite: "trixie".to_owned(),
        arch: "amd64".to_owned(),
        ..Wishes::default()
    };
    let archive = Recording {
        mirrors: Mirrors::new(Host::real(), None).map_err(|e| e.to_string())?,
        files: Mutex::default(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let reading = Reading {
        clock: Clock {
            now: now.as_secs().cast_signed(),
            allow_expired: wishes
                .sources()
                .iter()
                .any(|suite| archive.mirrors.allow_expired(suite)),
        },
        debian_keys: None,
    };
    let catalog =
        Catalog::load(&wishes, &archive, reading, &Quiet).map_err(|error| error.to_string())?;
    Ok((catalog, archive.files.into_inner().unwrap()))
}

type Closure = Result<BTreeSet<String>, String>;

fn closure(catalog: &Catalog, names: &[&str]) -> Closure {
    let wishes: Result<Vec<Wish>, _> = names.iter().map(|name| Wish::parse(name)).collect();
    let request = Request {
        wishes: &wishes.unwrap(),
        without: &[],
        local: &[],
        below: &[],
        keep: &HashMap::new(),
        priorities: &catalog.priorities(),
    };
    let index = &catalog.index;
    match solve(index, &request) {
        Ok(chosen) => Ok(chosen
            .iter()
            .map(|c| {
                format!(
                    "{} {}",
                    index.name_of(c.package),
                    index.version_of(c.package)
                )
            })
            .collect()),
        Err(Stop::Failed(problem)) => Err(problem),
        Err(Stop::Unkeep(_)) => Err("nothing was kept".to_owned()),
    }
}

fn difference(ours: &Closure, theirs: &Closure) -> String {
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            let more: Vec<_> = ours.difference(theirs).cloned().collect();
            let fewer: Vec<_> = theirs.difference(ours).cloned().collect();
            format!(
                "only here: [{}]; only apt: [{}]",
                more.join(", "),
                fewer.join(", ")
            )
        }
        (Err(problem), Ok(_)) => format!("apt can, we say: {problem}"),
        (Ok(_), Err(problem)) => format!("we can, apt says: {problem}"),
        (Err(_), Err(_)) => String::new(),
    }
}

/// Debian's apt with folders of its own: nothing installed, and the indexes that
/// were read here lie where it would have put them itself.
struct Apt {
    tools: Tools,
    folder: tempfile::TempDir,
}

/// What apt writes before the path in the names of its lists (its own escaping of
/// `http://mirror.test/debian`). Nobody is asked there: nothing is missing.
const PLACE: &str = "mirror.test_debian";

impl Apt {
    fn new(tools: Tools, files: &Files) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["etc", "lists/partial", "cache/archives/partial", "dpkg"] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        std::fs::write(at("dpkg/status"), "").unwrap();
        let suites: BTreeSet<&String> = files.keys().map(|(suite, _)| suite).collect();
        let sources = suites
            .iter()
            .map(|suite| format!("deb [arch=amd64] http://mirror.test/debian {suite} main\n"));
        std::fs::write(at("etc/sources.list"), sources.collect::<String>()).unwrap();
        for ((suite, path), bytes) in files {
            let (name, bytes) = if path.ends_with("/InRelease") {
                ("InRelease", bytes.clone())
            } else {
                // By its digest or by its name, whichever the mirror had.
                ("main_binary-amd64_Packages", unpacked(bytes))
            };
            let list = format!("lists/{PLACE}_dists_{suite}_{name}");
            std::fs::write(at(&list), bytes).unwrap();
        }
        assert_eq!(
            std::fs::read_dir(at("lists")).unwrap().count(),
            2 * suites.len() + 1
        );
        let config = config(folder.path());
        std::fs::write(at("apt.conf"), config).unwrap();
        let apt = Self { tools, folder };
        // Made once here; else each run reads all indexes again, which is most of its time.
        let made = apt.command("apt-cache").arg("gencaches").output().unwrap();
        assert!(made.status.success(), "{made:?}");
        apt
    }

    fn command(&self, name: &str) -> Command {
        let mut command: Command = self.tools.command(name).unwrap();
        command.env("APT_CONFIG", self.folder.path().join("apt.conf"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command("apt-get").args(arguments).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn closure(&self, names: &[&str]) -> Closure {
        let mut arguments = vec!["-s", "--no-install-recommends", "install"];
        arguments.extend(names);
        let text = self.run(&arguments)?;
        Ok(text
            .lines()
            .filter_map(|line| line.strip_prefix("Inst "))
            .map(|line| {
                let (name, rest) = line.split_once(" (").unwrap();
                let version = rest.split(' ').next().unwrap();
                format!("{name} {version}")
            })
            .collect())
    }
}

/// Every folder that apt knows lies in `folder`; nothing of the host is read.
fn config(folder: &Path) -> String {
    let folder: PathBuf = folder.canonicalize().unwrap();
    let folder = folder.display();
    format!(
        r#"Dir "{folder}";
Dir::Etc "{folder}/etc";
Dir::Etc::sourcelist "{folder}/etc/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/dpkg/status";
Dir::State::extended_states "{folder}/extended_states";
Dir::Cache "{folder}/cache";
Dir::Log "{folder}/log";
Dir::Bin::dpkg "/bin/false";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "";
APT::Get::AllowUnauthenticated "false";
Acquire::Languages "none";
"#
    )
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    if bytes.starts_with(b"\xfd7zXZ") {
        lzma_rust2::XzReader::new(bytes, true)
            .read_to_end(&mut plain)
            .unwrap();
    } else if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(bytes)
            .read_to_end(&mut plain)
            .unwrap();
    } else {
        plain.extend(bytes);
    }
    plain
}
