//! Real closures, compared with what apt itself says.
//!
//! Needs an apt with indexes and an empty list of installed packages:
//! `SLIPFORM_APT_GET` is the `apt-get` to run, `SLIPFORM_APT_CONFIG` the
//! configuration that leads it to them, `SLIPFORM_APT_SETS` a file with other
//! sets to compare, one a line. Without the first two the test says so and ends.

// A test that is passed over, and what was compared, must be seen.
#![expect(clippy::print_stdout, clippy::print_stderr)]

use std::collections::{BTreeSet, HashMap};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;

use slipform::lock::Wish;
use slipform::lock::index::{Index, Origin};
use slipform::lock::solve::{Request, Stop, solve};

/// What is compared: each line one set of wishes.
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
    "golang",
    "rustc cargo",
    "build-essential",
    "docker.io",
    "podman",
    "haproxy",
    "varnish",
    "squid",
    "bind9",
    "dnsmasq",
    "postfix",
    "dovecot-imapd",
    "prosody",
    "rabbitmq-server",
    "memcached",
    "prometheus",
    "rsyslog",
    "systemd",
    "busybox",
    "emacs-nox",
    "ffmpeg",
    "imagemagick",
    "texlive-latex-base",
    "libreoffice",
    "firefox-esr",
    "gnome-core",
    "samba",
    "cups",
    "strongswan",
    "fail2ban",
    "certbot",
    "ansible",
    "wordpress",
    "e2fsprogs dosfstools gdisk cryptsetup-bin qemu-utils mtools",
    "tzdata ca-certificates",
    "libapache2-mod-php",
    "r-base",
    "gawk original-awk",
    "linux-image-cloud-amd64",
];

#[test]
fn closures_are_those_of_apt() {
    let (Some(apt), Some(config)) = (
        std::env::var_os("SLIPFORM_APT_GET"),
        std::env::var_os("SLIPFORM_APT_CONFIG"),
    ) else {
        eprintln!(
            "SKIPPED: closures compared with apt (SLIPFORM_APT_GET and SLIPFORM_APT_CONFIG are not set)"
        );
        return;
    };
    let apt = Apt {
        program: apt.into(),
        config: config.into(),
    };
    let index = apt.index();
    let sets = std::env::var("SLIPFORM_APT_SETS").ok();
    let sets: Vec<String> = match &sets {
        Some(file) => std::fs::read_to_string(file)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect(),
        None => SETS.iter().map(ToString::to_string).collect(),
    };
    let mut different = Vec::new();
    for set in &sets {
        let names: Vec<&str> = set.split(' ').collect();
        let (ours, theirs) = (closure(&index, &names), apt.closure(&names));
        let equal = match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => ours == theirs,
            (ours, theirs) => ours.is_err() && theirs.is_err(),
        };
        if !equal {
            different.push(format!("{set}: {}", difference(&ours, &theirs)));
        }
    }
    println!(
        "{} of {} closures equal apt's",
        sets.len() - different.len(),
        sets.len()
    );
    assert!(different.is_empty(), "{}", different.join("\n"));
}

type Closure = Result<BTreeSet<String>, String>;

fn closure(index: &Index, names: &[&str]) -> Closure {
    let wishes: Result<Vec<Wish>, _> = names.iter().map(|name| Wish::parse(name)).collect();
    let request = Request {
        wishes: &wishes.unwrap(),
        without: &[],
        local: &[],
        below: &[],
        keep: &HashMap::new(),
        priorities: &[500; 64],
    };
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

struct Apt {
    program: PathBuf,
    config: PathBuf,
}

impl Apt {
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.program)
            .env("APT_CONFIG", &self.config)
            .env("LC_ALL", "C")
            .args(arguments)
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// The indexes that apt reads, in its order.
    fn index(&self) -> Index {
        let format = "$(CREATED_BY) $(FILENAME)";
        let targets = self.run(&["indextargets", "--format", format]).unwrap();
        let mut index = Index::new("amd64");
        let files = targets
            .lines()
            .filter_map(|line| line.strip_prefix("Packages "));
        for (number, file) in files.filter(|file| Path::new(file).exists()).enumerate() {
            let input = BufReader::with_capacity(1 << 18, std::fs::File::open(file).unwrap());
            index
                .add_packages(input, u16::try_from(number).unwrap())
                .unwrap();
        }
        assert!(
            index
                .versions(index.find("libc6").unwrap())
                .iter()
                .any(|id| { matches!(index.package(*id).origin, Origin::Suite(_)) })
        );
        index
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
