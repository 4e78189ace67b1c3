//! `slipform key`, and openssl and OpenSSH as judges of what it writes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{host_program, outcome, write};
use slipform::attest::testing::{attested, report};
use slipform::attest::{
    CommandSigner, KeyFile, Passphrase, PublicKey, Signer, Statement, TestResult,
};
use slipform::base::Digest;

/// The command with nothing of the host's but `PATH`.
fn key(home: &Path, args: &[&str], passphrase: Option<&str>) -> crate::common::Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipform"));
    command
        .arg("--quiet")
        .arg("key")
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .current_dir(home)
        .stdin(Stdio::null());
    if let Some(passphrase) = passphrase {
        command.env("SLIPFORM_PASSPHRASE", passphrase);
    }
    outcome(&mut command)
}

fn openssl(test: &str, args: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let program = host_program("openssl", test)?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {args:?}");
    Some(output.stdout)
}

#[test]
fn a_key_is_made_where_the_user_keeps_it_and_shown() {
    let home = tempfile::tempdir().unwrap();
    let made = key(home.path(), &["new", "--json"], Some("secret"))
        .good()
        .json();
    let path = home.path().join(".config/slipform/key.pem");
    assert_eq!(made["key"], path.to_str().unwrap());
    assert_eq!(made["encrypted"], true);
    let shown = key(home.path(), &["show", "--json"], None).good().json();
    assert_eq!(shown["id"], made["id"]);
    let text = key(home.path(), &["show"], None).good().stdout;
    let public = PublicKey::from_pem(&text, "shown").unwrap();
    assert_eq!(shown["id"], public.id().to_string());

    // Without its public half, the private one says it.
    fs::remove_file(path.with_extension("pub")).unwrap();
    let again = key(home.path(), &["show", "--json"], Some("secret"))
        .good()
        .json();
    assert_eq!(again["id"], made["id"]);
    key(home.path(), &["show"], Some("wrong"))
        .refused(2, &["key.pem", "passphrase is not the key's"]);
    key(home.path(), &["new"], Some("x")).refused(2, &["key.pem", "there already", "--out"]);
}

#[test]
fn what_cannot_be_made_is_told() {
    let home = tempfile::tempdir().unwrap();
    // No terminal: a session of its own would be needed to have none for sure, so say an empty one.
    key(home.path(), &["new", "--passphrase-fd", "0"], None).refused(2, &["passphrase", "empty"]);
    key(home.path(), &["new", "--passphrase-fd", "77"], None).refused(2, &["descriptor 77"]);
    key(
        home.path(),
        &["new", "--out", "x.pub", "--no-passphrase"],
        None,
    )
    .refused(2, &["x.pub", "key.pem"]);
    key(home.path(), &["show"], None).refused(1, &["open", "key.pem"]);
    key(home.path(), &["show", "--signer", "true"], None)
        .code
        .filter(|code| *code == 2)
        .unwrap();
    assert!(!home.path().join(".config").exists());
    let no_key = home.path().join("no.pem");
    write(&no_key, "nothing");
    fs::set_permissions(&no_key, fs::Permissions::from_mode(0o600)).unwrap();
    key(home.path(), &["show", "no.pem"], None).refused(2, &["no.pem", "openssl pkcs8"]);
}

#[test]
fn openssl_reads_our_keys_and_we_read_its() {
    const TEST: &str = "openssl_reads_our_keys_and_we_read_its";
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    key(
        home.path(),
        &["new", "--out", "locked.pem"],
        Some("se cret"),
    )
    .good();
    key(
        home.path(),
        &["new", "--out", "open.pem", "--no-passphrase"],
        None,
    )
    .good();
    for (name, pass) in [("locked", "pass:se cret"), ("open", "pass:")] {
        let args = [
            "pkey",
            "-in",
            &at(&format!("{name}.pem")),
            "-passin",
            pass,
            "-pubout",
        ];
        let Some(public) = openssl(TEST, &args, b"") else {
            return;
        };
        assert_eq!(
            public,
            fs::read(at(&format!("{name}.pub"))).unwrap(),
            "{name}"
        );
    }
    let new = [
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
        &at("theirs.pem"),
    ];
    openssl(
        TEST,
        &[&new[..], &["-aes256", "-pass", "pass:theirs"]].concat(),
        b"",
    );
    let public = [
        "pkey",
        "-in",
        &at("theirs.pem"),
        "-passin",
        "pass:theirs",
        "-pubout",
    ];
    let public = openssl(TEST, &public, b"").unwrap();
    let ours = key(home.path(), &["show", "theirs.pem"], Some("theirs")).good();
    assert!(ours.stdout.as_bytes().starts_with(&public));
    // Another curve is refused by name.
    openssl(
        TEST,
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-384",
            "-out",
            &at("p384.pem"),
        ],
        b"",
    );
    key(home.path(), &["show", "p384.pem"], None).refused(2, &["p384.pem", "P-256"]);
}

#[test]
fn openssl_verifies_our_signatures_and_signs_for_us() {
    const TEST: &str = "openssl_verifies_our_signatures_and_signs_for_us";
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    key(
        home.path(),
        &["new", "--out", "k.pem", "--no-passphrase"],
        None,
    )
    .good();
    let ours = KeyFile::load(Path::new(&at("k.pem")), || Passphrase::new("unused")).unwrap();
    write(Path::new(&at("signature")), ours.sign(b"message").unwrap());
    let verify = [
        "dgst",
        "-sha256",
        "-verify",
        &at("k.pub"),
        "-signature",
        &at("signature"),
    ];
    if openssl(TEST, &verify, b"message").is_none() {
        return;
    }
    // As a KMS would: by a command, in both forms.
    for (form, command) in [
        ("DER", format!("openssl dgst -sha256 -sign {}", at("k.pem"))),
        (
            "base64",
            format!(
                "openssl dgst -sha256 -sign {} | openssl base64",
                at("k.pem")
            ),
        ),
    ] {
        key(
            home.path(),
            &["show", "--signer", &command, "--key", "k.pub"],
            None,
        )
        .good();
        let signer = CommandSigner::new(&command, ours.public().clone());
        assert!(
            signer.public().verifies(b"x", &signer.sign(b"x").unwrap()),
            "{form}"
        );
    }
    key(
        home.path(),
        &["new", "--out", "other.pem", "--no-passphrase"],
        None,
    )
    .good();
    let command = format!("openssl dgst -sha256 -sign {}", at("k.pem"));
    key(
        home.path(),
        &["show", "--signer", &command, "--key", "other.pub"],
        None,
    )
    .refused(1, &["openssl dgst", "no signature of the key", "--key"]);

    // A whole envelope: openssl over the encoding that DSSE writes down.
    let image = Digest::of("image");
    let signed = attested(&report(&image, &image, 1, &["ready"]), &image, 7).unwrap();
    let trusted = slipform::attest::testing::key(7).public().clone();
    Statement::<TestResult>::verify(&signed.test, std::slice::from_ref(&trusted)).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&signed.test.to_bytes().unwrap()).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let decoded = |value: &serde_json::Value| {
        openssl(TEST, &["base64", "-d", "-A"], text(value).as_bytes()).unwrap()
    };
    let (kind, payload) = (text(&json["payloadType"]), decoded(&json["payload"]));
    let mut message = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    message.extend(payload);
    write(
        Path::new(&at("dsse.sig")),
        decoded(&json["signatures"][0]["sig"]),
    );
    write(Path::new(&at("dsse.pub")), trusted.to_pem());
    openssl(
        TEST,
        &[
            "dgst",
            "-sha256",
            "-verify",
            &at("dsse.pub"),
            "-signature",
            &at("dsse.sig"),
        ],
        &message,
    );
}

#[test]
fn openssh_names_the_key_as_envelopes_do() {
    let Some(program) = host_program("ssh-keygen", "openssh_names_the_key_as_envelopes_do") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let public = slipform::attest::testing::key(5).public().clone();
    let pem = folder.path().join("k.pub");
    write(&pem, public.to_pem());
    let run = |args: &[&str]| {
        let output = Command::new(&program).args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let ssh = folder.path().join("ssh.pub");
    write(
        &ssh,
        run(&["-i", "-m", "PKCS8", "-f", pem.to_str().unwrap()]),
    );
    let said = run(&["-l", "-E", "sha256", "-f", ssh.to_str().unwrap()]);
    assert!(said.contains(&public.fingerprint()), "{said}");
}
