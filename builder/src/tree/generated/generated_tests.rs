//! The generated layer over small images.

use super::*;
use crate::tree::Tree;
use crate::tree::testing::{dump, entries, tree};

/// Layers of an image in the making.
pub(super) struct Image {
    entries: Vec<Entry>,
    accounts: Accounts,
}

impl Image {
    pub(super) fn new(lines: &[&str]) -> Self {
        Self {
            entries: entries(lines),
            accounts: Accounts::new(&[], []).unwrap(),
        }
    }

    pub(super) fn add(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// All entries as one layer.
    pub(super) fn tree(&self) -> Tree {
        build(self.entries.clone(), &[], &Below::default())
            .unwrap()
            .tree
    }

    pub(super) fn bytes(&self, content: &Content) -> Vec<u8> {
        read(content, 0, usize::MAX).unwrap()
    }

    pub(super) fn with<T>(&self, run: impl FnOnce(&GenerateInput<'_>) -> T) -> T {
        self.with_scratch(&[], run)
    }

    fn with_scratch<T>(
        &self,
        scratch: &[ScratchSpec],
        run: impl FnOnce(&GenerateInput<'_>) -> T,
    ) -> T {
        let tree = self.tree();
        let below = Below::new(&[("base", &tree)]);
        let read: ReadContent<'_> = &read;
        run(&GenerateInput {
            below: &below,
            accounts: &self.accounts,
            read,
            name: "hello",
            version: "1.0",
            scratch,
            state: None,
            tls: false,
        })
    }

    fn generated(&self) -> Vec<String> {
        dump(&self.with(|input| generate(input).unwrap()).tree)
    }
}

fn read(content: &Content, offset: u64, length: usize) -> Result<Vec<u8>, LayersError> {
    let Source::Bytes(bytes) = &content.source else {
        panic!("{content:?}")
    };
    let start = usize::try_from(offset).unwrap().min(bytes.len());
    Ok(bytes[start..start.saturating_add(length).min(bytes.len())].to_vec())
}

/// The bytes of a generated file.
pub(super) fn content_of(entry: &Entry) -> Vec<u8> {
    let Kind::File(content) = &entry.kind else {
        panic!("{entry:?}")
    };
    read(content, 0, usize::MAX).unwrap()
}

/// Without the content of the long files.
fn short(lines: Vec<String>) -> Vec<String> {
    lines
        .into_iter()
        .map(|line| line.split('=').next().unwrap().to_owned())
        .collect()
}

#[test]
fn golden_over_an_empty_image() {
    let image = Image::new(&[]);
    assert_eq!(
        short(image.generated()),
        [
            "d 0755 /dev",
            "d 0755 /etc",
            "f 0644 /etc/group",
            "f 0640 /etc/gshadow",
            "l /etc/hostname -> /run/slipform/hostname",
            "f 0644 /etc/hosts",
            "l /etc/machine-id -> /run/slipform/machine-id",
            "l /etc/mtab -> /proc/self/mounts",
            "f 0644 /etc/nsswitch.conf",
            "f 0644 /etc/os-release",
            "f 0644 /etc/passwd",
            "l /etc/resolv.conf -> /run/slipform/resolv.conf",
            "f 0640 /etc/shadow",
            "d 0755 /home",
            "d 0755 /media",
            "d 0755 /mnt",
            "d 0755 /opt",
            "d 0555 /proc",
            "d 0700 /root",
            "d 0755 /run",
            "d 0755 /srv",
            "d 0555 /sys",
            "d 1777 /tmp",
            "d 0755 /usr",
            "d 0755 /var",
            "d 0755 /var/cache",
            "d 0755 /var/lib",
            "l /var/lock -> /run/lock",
            "d 0755 /var/log",
            "d 0755 /var/mail",
            "l /var/run -> /run",
            "d 0755 /var/spool",
            "d 1777 /var/tmp",
        ]
    );
}

#[test]
fn what_layers_bring_stays_but_for_what_only_this_layer_may_say() {
    let image = Image::new(&[
        "d 0700 /home",
        "f /etc/hosts=mine",
        "f /etc/resolv.conf=nameserver 1.1.1.1",
        "f /etc/machine-id=fixed",
        "l /etc/os-release -> ../usr/lib/os-release",
        "f /usr/lib/os-release=Debian",
        "d /var/run/app",
        "f /srv/x",
    ]);
    let lines = image.generated();
    for kept in [
        "/home",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/usr/lib/os-release",
        "/var/run",
        "/srv",
    ] {
        assert!(
            !lines.iter().any(|l| l.split([' ', '=']).any(|w| w == kept)),
            "{kept}: {lines:?}"
        );
    }
    assert!(
        lines
            .iter()
            .any(|l| l == "l /etc/machine-id -> /run/slipform/machine-id")
    );
    assert!(
        lines
            .iter()
            .any(|l| l.starts_with("f 0644 /etc/os-release=NAME="))
    );
}

#[test]
fn accounts_of_a_layers_own_are_refused() {
    for path in ["etc/passwd", "etc/shadow", "etc/group", "etc/gshadow"] {
        let image = Image::new(&[&format!("f /{path}")]);
        let error = image.with(|input| generate(input).unwrap_err().to_string());
        assert!(
            error.contains("layer 'base'") && error.contains(path) && error.contains("`users`"),
            "{error}"
        );
    }
}

#[test]
fn a_file_where_a_folder_must_be_is_an_error() {
    let error = Image::new(&["f /tmp"]).with(|input| generate(input).unwrap_err().to_string());
    assert!(error.contains("/tmp is a file of layer 'base'"), "{error}");
}

#[test]
fn scratch_folders_are_made_where_they_are_missing() {
    let scratch = |path: &str| ScratchSpec {
        path: path.into(),
        size: 1,
        mode: 0o700,
        owner: None,
    };
    let image = Image::new(&["d 0750 /var/lib/here"]);
    let specs = [
        scratch("/var/lib/here"),
        scratch("/var/lib/new/deep"),
        scratch("/bin/x"),
    ];
    let lines = image.with_scratch(&specs, |input| dump(&generate(input).unwrap().tree));
    assert!(
        lines.contains(&"d 0755 /var/lib/new/deep".to_owned()),
        "{lines:?}"
    );
    assert!(lines.contains(&"d 0755 /usr/bin/x".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|l| l.ends_with("/here")));
}

#[test]
fn certificates_become_a_bundle_in_order() {
    let pem =
        |name: &str| format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----");
    let a = format!(
        "f /usr/share/ca-certificates/mozilla/A.crt={}\n\n",
        pem("A")
    );
    let b = format!("f /usr/share/ca-certificates/B.crt={}", pem("B"));
    let own = format!("f /usr/local/share/ca-certificates/own.crt={}", pem("own"));
    let image = Image::new(&[
        &own,
        &a,
        &b,
        "f /usr/share/ca-certificates/readme.txt=no",
        "d /etc/ssl/certs",
    ]);
    let entries = image.with(|input| certs::entries(input).unwrap());
    let bundle = String::from_utf8(content_of(&entries[0])).unwrap();
    assert_eq!(
        bundle,
        format!("{}\n{}\n{}\n", pem("B"), pem("A"), pem("own"))
    );
    assert_eq!(entries[0].path, "/etc/ssl/certs/ca-certificates.crt");
    let without = Image::new(&["d /etc/ssl/certs"]);
    let told = without.with(|input| {
        let wants = GenerateInput {
            tls: true,
            ..*input
        };
        (
            certs::entries(input).unwrap().len(),
            certs::entries(&wants).unwrap_err().to_string(),
        )
    });
    assert_eq!(told.0, 0);
    assert!(
        told.1.contains("add the package ca-certificates"),
        "{}",
        told.1
    );
    let brought = Image::new(&[&a, "f /etc/ssl/certs/ca-certificates.crt=mine"]);
    assert!(
        brought
            .with(|input| certs::entries(input).unwrap())
            .is_empty()
    );
    let der = Image::new(&["f /usr/share/ca-certificates/d.crt=0\x02"]);
    let error = der.with(|input| certs::entries(input).unwrap_err().to_string());
    assert!(error.contains("d.crt") && error.contains("PEM"), "{error}");
}

#[test]
fn the_generated_layer_depends_on_what_it_asked_and_on_nothing_else() {
    let generate_over = |tree: &Tree| {
        let below = Below::new(&[("base", tree)]);
        let accounts = Accounts::new(&[], []).unwrap();
        let read: ReadContent<'_> = &read;
        let input = GenerateInput {
            below: &below,
            accounts: &accounts,
            read,
            name: "n",
            version: "1",
            scratch: &[],
            state: None,
            tls: false,
        };
        (generate(&input).unwrap(), below.facts())
    };
    let base = tree(&[
        "l /lib -> usr/lib",
        "d /usr",
        "d /usr/lib",
        "f /usr/lib/libx.so=a",
        "d /opt",
        "f /opt/data=1",
    ]);
    let (built, facts) = generate_over(&base);
    let other = tree(&[
        "l /lib -> usr/lib",
        "d /usr",
        "d /usr/lib",
        "f /usr/lib/libx.so=a",
        "d /opt",
        "f /opt/data=2",
        "f /opt/more",
    ]);
    assert!(Below::new(&[("base", &other)]).still_true(&facts));
    assert_eq!(generate_over(&other).0, built);
    let changed = tree(&[
        "l /lib -> usr/lib",
        "d /usr",
        "d /usr/lib",
        "f /usr/lib/libx.so=b",
        "d /opt",
    ]);
    assert!(!Below::new(&[("base", &changed)]).still_true(&facts));
}
