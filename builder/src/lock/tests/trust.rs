//! Archives that must not be trusted, and those that only look odd.

use super::*;

#[test]
fn untrusted_archives_are_refused() {
    let archive = archive(&["a"]);
    let wishes = wishes(&[("app", &["a"])]);
    let sources = wishes.sources();
    let release = archive.path(&sources[0], "dists/trixie/InRelease");
    let good = fs::read_to_string(&release).unwrap();
    let dist = archive.path(&sources[0], "dists/trixie/main/binary-amd64");
    let key = archive.key();
    let error =
        |options: &ResolveOptions<'_>| resolve(&wishes, &archive, options, &Quiet).unwrap_err();

    let ours = ResolveOptions {
        debian_keys: None,
        ..options(&key)
    };
    assert!(
        matches!(error(&ours), LockError::Signature { .. }),
        "Debian's keys did not sign"
    );

    fs::write(&release, good.replace("Suite: stable", "Suite: stables")).unwrap();
    assert!(
        matches!(error(&options(&key)), LockError::Signature { .. }),
        "tampered InRelease"
    );

    let other = archive.path(&sources[1], "dists/trixie-updates/InRelease");
    fs::copy(other, &release).unwrap();
    assert!(
        matches!(error(&options(&key)), LockError::WrongSuite { .. }),
        "wrong suite"
    );

    fs::remove_file(&release).unwrap();
    assert!(
        matches!(error(&options(&key)), LockError::NoRelease { .. }),
        "no InRelease"
    );

    fs::write(&release, &good).unwrap();
    let late = ResolveOptions {
        now: NOW + VALID,
        ..options(&key)
    };
    assert!(matches!(error(&late), LockError::Expired { .. }), "expired");
    let told = ResolveOptions {
        allow_expired: true,
        ..late
    };
    assert!(resolve(&wishes, &archive, &told, &Quiet).is_ok());

    for entry in ["Packages.xz", "by-hash"] {
        // A good index under one of its two places is enough.
        assert!(
            resolve(&wishes, &archive, &options(&key), &Quiet).is_ok(),
            "{entry}"
        );
        let path = dist.join(entry);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            let mut bytes = fs::read(&path).unwrap();
            bytes[20] ^= 1;
            fs::write(path, bytes).unwrap();
        }
    }
    let tampered = error(&options(&key));
    assert!(matches!(tampered, LockError::Mismatch { .. }), "{tampered}");
    let short = fs::File::options()
        .write(true)
        .open(dist.join("Packages.xz"))
        .unwrap();
    short.set_len(10).unwrap();
    let truncated = error(&options(&key)).to_string();
    assert!(truncated.contains("10 came"), "{truncated}");
}

#[test]
fn a_mirror_in_the_middle_of_an_update_is_read_by_hash() {
    let archive = archive(&["a"]);
    let wishes = wishes(&[("app", &["a"])]);
    let plain = archive.path(
        &wishes.sources()[0],
        "dists/trixie/main/binary-amd64/Packages.xz",
    );
    fs::write(plain, b"of the next update").unwrap();
    assert!(resolve_all(&wishes, &archive).is_ok());
}

#[test]
fn an_index_that_unpacks_to_more_than_promised_is_refused() {
    let archive = archive(&["a"]);
    let wishes = wishes(&[("app", &["a"])]);
    let source = &wishes.sources()[0];
    let mut bomb =
        lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    std::io::Write::write_all(&mut bomb, &vec![b'\n'; 1 << 20]).unwrap();
    let bomb = bomb.finish().unwrap();
    let release = format!(
        "Codename: trixie\nDate: {}\nSHA256:\n {} {} main/binary-amd64/Packages.xz\n {} 1000 main/binary-amd64/Packages\n",
        date::format(SIGNED),
        Digest::of(&bomb).hex(),
        bomb.len(),
        "0".repeat(64),
    );
    let dist = archive.path(source, "dists/trixie");
    fs::write(dist.join("main/binary-amd64/Packages.xz"), &bomb).unwrap();
    fs::write(dist.join("InRelease"), archive.sign(&release, SIGNED)).unwrap();
    let message = resolve_all(&wishes, &archive).unwrap_err().to_string();
    assert!(
        message.contains("more than its Release promises"),
        "{message}"
    );
}

#[test]
fn further_sources_are_trusted_by_their_own_key_only() {
    let archive = archive(&["a"]);
    let mut wishes = wishes(&[("app", &["a"])]);
    let source = WishedSource::new(
        "extra",
        "http://x/debian",
        "trixie",
        archive.key().into_bytes(),
    );
    wishes.apt = vec![source.clone()];
    let lock = resolve_all(&wishes, &archive).unwrap();
    assert_eq!(lock.suites.len(), 4);
    // Of equal versions, that of the archive named first.
    assert_eq!(lock.layers[0].packages[0].suite, "trixie");

    let stranger = slipform_openpgp::testing::TestKey::new(9, 1_700_000_000).public();
    wishes.apt[0] = WishedSource::new("extra", "http://x/debian", "trixie", stranger.into_bytes());
    assert!(matches!(
        resolve_all(&wishes, &archive),
        Err(LockError::Signature { .. })
    ));
    wishes.apt[0].key_bytes = b"no key".to_vec();
    assert!(matches!(
        resolve_all(&wishes, &archive),
        Err(LockError::Key { .. })
    ));
    wishes.apt = vec![WishedSource {
        name: "trixie".to_owned(),
        ..source
    }];
    assert!(matches!(
        resolve_all(&wishes, &archive),
        Err(LockError::DoubleSource(_))
    ));
}
