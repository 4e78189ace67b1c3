//! Keys: made, written, read, guarded.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::testing::key;
use super::*;
use crate::base::base64;

fn word(text: &str) -> Passphrase {
    Passphrase::new(text).unwrap()
}

fn never() -> Result<Passphrase, AttestError> {
    panic!("a key in the clear asks for nothing")
}

fn read(text: &str, passphrase: &str) -> Result<KeyFile, AttestError> {
    KeyFile::from_pem(text, Path::new("k.pem"), || Ok(word(passphrase)))
}

#[test]
fn an_encrypted_key_is_read_with_its_passphrase_only() {
    let made = KeyFile::generate().unwrap();
    let pem = made.to_pem(Some(&word("secret"))).unwrap();
    assert!(is_encrypted(&pem));
    let back = read(&pem, "secret").unwrap();
    assert_eq!(back.public(), made.public());
    let error = read(&pem, "Secret").unwrap_err().to_string();
    assert!(error.contains("passphrase is not the key's"), "{error}");
    assert!(made.public().verifies(b"x", &back.sign(b"x").unwrap()));
    assert!(!made.public().verifies(b"y", &back.sign(b"x").unwrap()));
    assert_ne!(KeyFile::generate().unwrap().public(), made.public());
    assert_ne!(
        *made.to_pem(Some(&word("secret"))).unwrap(),
        *pem,
        "salt and vector are new"
    );
}

#[test]
fn files_are_the_owners_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/key.pem");
    let made = key(1);
    let public = made.create(&path, None).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&path), mode(&public)), (0o600, 0o644));
    assert_eq!(public, folder.path().join("a/key.pub"));
    let before = fs::read(&path).unwrap();
    for gone in [None, Some(&path), Some(&public)] {
        if let Some(gone) = gone {
            fs::rename(gone, folder.path().join("aside")).unwrap();
        }
        let error = key(2).create(&path, None).unwrap_err().to_string();
        assert!(error.contains("it is there already"), "{error}");
        if let Some(gone) = gone {
            assert!(!gone.exists());
            fs::rename(folder.path().join("aside"), gone).unwrap();
        }
    }
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(KeyFile::load(&path, never).unwrap().public(), made.public());
    assert_eq!(PublicKey::load(&public).unwrap(), [made.public().clone()]);

    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = KeyFile::load(&path, never).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
}

#[test]
fn public_keys_one_or_several() {
    let (one, two) = (key(1), key(2));
    let both = format!(
        "# ours\n{}\n{}",
        one.public().to_pem(),
        two.public().to_pem()
    );
    let read = PublicKey::all_from_pem(&both, "x").unwrap();
    assert_eq!(read, [one.public().clone(), two.public().clone()]);
    assert!(PublicKey::from_pem(&both, "x").is_err());
    let private = one.to_pem(None).unwrap();
    let error = PublicKey::from_pem(&private, "x.pem")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("x.pem") && error.contains("private key"),
        "{error}"
    );
    for text in [
        "",
        "-----END PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    ] {
        assert!(PublicKey::from_pem(text, "x").is_err(), "{text}");
    }
}

#[test]
fn a_key_file_that_asks_for_too_much_is_not_read() {
    use pkcs8::pkcs5::{pbes2, scrypt};
    let encrypted = |parameters: pbes2::Parameters<'_>| {
        let info = pkcs8::EncryptedPrivateKeyInfo {
            encryption_algorithm: parameters.into(),
            encrypted_data: &[0; 32],
        };
        let document = pkcs8::der::SecretDocument::encode_msg(&info).unwrap();
        document
            .to_pem("ENCRYPTED PRIVATE KEY", pkcs8::der::pem::LineEnding::LF)
            .unwrap()
    };
    let (salt, iv) = ([0; 16], [0; 16]);
    let work = scrypt::Params::new(30, 8, 1, 32).unwrap();
    let heavy = [
        encrypted(pbes2::Parameters::scrypt_aes256cbc(work, &salt, &iv).unwrap()),
        encrypted(pbes2::Parameters::pbkdf2_sha256_aes256cbc(100_000_000, &salt, &iv).unwrap()),
    ];
    for text in heavy {
        let error = KeyFile::from_pem(&text, Path::new("k"), never)
            .unwrap_err()
            .to_string();
        assert!(error.contains("more work"), "{error}");
    }
}

#[test]
fn mutated_keys_do_not_panic() {
    let private = key(1).to_pem(None).unwrap();
    slipform_fuzz::fuzz(&[private.as_bytes()], |bytes, _| {
        let text = String::from_utf8_lossy(bytes);
        // Text that turns into an encrypted key is not worth its scrypt here.
        let _ = KeyFile::from_pem(&text, Path::new("k"), || Err(AttestError::NoPlace));
    });
    slipform_fuzz::fuzz(&[key(1).public().to_pem().as_bytes()], |bytes, _| {
        let _ = PublicKey::all_from_pem(&String::from_utf8_lossy(bytes), "x");
    });
    let locked = key(1).to_pem(Some(&word("x"))).unwrap();
    slipform_fuzz::fuzz(&[locked.as_bytes()], |bytes, _| {
        let text = String::from_utf8_lossy(bytes);
        let _ = KeyFile::from_pem(&text, Path::new("k"), || Err(AttestError::NoPlace));
    });
}

#[test]
fn passphrases_from_a_descriptor_end_at_the_line() {
    use std::os::fd::AsRawFd;
    let folder = tempfile::tempdir().unwrap();
    let get = |text: &str| {
        let path = folder.path().join("p");
        fs::write(&path, text).unwrap();
        let file = fs::File::open(&path).unwrap();
        let number = u32::try_from(file.as_raw_fd()).unwrap();
        PassphraseSource::Descriptor(number).get("k", true)
    };
    for text in ["secret", "secret\n", "secret\r\nmore"] {
        assert_eq!(get(text).unwrap().bytes(), b"secret");
    }
    for text in ["", "\n", &"x".repeat(5000)] {
        assert!(get(text).is_err());
    }
    assert!(PassphraseSource::Descriptor(9999).get("k", false).is_err());
    assert_eq!(format!("{:?}", word("secret")), "Passphrase(…)");
    let chosen = PassphraseSource::choose(Some(3), Some("x")).unwrap();
    assert!(matches!(chosen, PassphraseSource::Descriptor(3)));
}

#[test]
fn commands_that_sign_badly_are_caught() {
    let public = key(1).public().clone();
    let said = |command: &str| {
        let error = CommandSigner::new(command, public.clone()).sign(b"message");
        error.unwrap_err().to_string()
    };
    assert!(said("exit 3").contains("exit status: 3"));
    assert!(said("cat").contains("no signature of the key"));
    assert!(said("head -c 1000000 /dev/zero").contains("64 KiB"));
    assert!(said("true").contains("0 bytes"));
    let foreign = key(2).sign(b"message").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s");
    fs::write(&file, foreign).unwrap();
    assert!(said(&format!("cat {}", file.display())).contains("no signature of the key"));
    // Its own, as DER and as base64; one that does not read its input is none the worse.
    let own = key(1).sign(b"message").unwrap();
    for bytes in [
        own.clone(),
        format!("{}\n", base64::encode(&own)).into_bytes(),
    ] {
        fs::write(&file, bytes).unwrap();
        let signer = CommandSigner::new(format!("cat {}", file.display()), public.clone());
        assert_eq!(signer.sign(b"message").unwrap(), own);
    }
}

#[test]
fn trust_reads_all_files_and_its_own_only_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = |number: u8| {
        let path = folder.path().join(format!("{number}.pub"));
        fs::write(&path, key(number).public().to_pem()).unwrap();
        path
    };
    let (one, two, three) = (file(1), file(2), file(3));
    let list = format!("{}:{}", two.display(), three.display());
    let mut sources = TrustSources {
        own: Some(&one),
        ..TrustSources::default()
    };
    let own = Trust::load(&sources).unwrap();
    assert_eq!(own.keys(), [key(1).public().clone()]);
    sources.environment = Some(&list);
    let spec = [three.clone()];
    sources.spec = &spec;
    let keys = Trust::load(&sources).unwrap();
    assert_eq!(
        keys.keys(),
        [key(3).public().clone(), key(2).public().clone()]
    );
    let gone = [folder.path().join("gone.pub")];
    sources.given = &gone;
    assert!(
        Trust::load(&sources)
            .unwrap_err()
            .to_string()
            .contains("gone.pub")
    );
    let missing = TrustSources {
        own: Some(&gone[0]),
        ..TrustSources::default()
    };
    assert!(Trust::load(&missing).unwrap().keys().is_empty());
}
