//! Packages, good and hostile.

use super::*;
use crate::layers::testing::{Item, ar, deb, deb_with, gz, tar, xz};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn unpack_bytes(bytes: &[u8]) -> Result<UnpackedDeb, LayersError> {
    let (_dir, store) = store();
    let digest = store.put(bytes).unwrap();
    unpack(&store, &digest)
}

fn control_tar() -> Vec<u8> {
    tar(&[Item::file(
        "./control",
        "Package: t\nVersion: 1\nArchitecture: all\n",
    )])
}

fn refusal(members: &[(&str, &[u8])]) -> String {
    unpack_bytes(&ar(members)).unwrap_err().to_string()
}

#[test]
fn unpacks_every_compression_to_the_same_tar() {
    let (_dir, store) = store();
    let data = tar(&[Item::dir("./usr/"), Item::file("./usr/a", "hello")]);
    let control = control_tar();
    let zst = zstd::encode_all(&data[..], 3).unwrap();
    let all: [(&str, Vec<u8>); 4] = [
        ("data.tar", data.clone()),
        ("data.tar.gz", gz(&data)),
        ("data.tar.xz", xz(&data)),
        ("data.tar.zst", zst),
    ];
    for (name, packed) in all {
        let bytes = ar(&[
            ("debian-binary", b"2.0\n"),
            ("control.tar", &control),
            (name, &packed),
        ]);
        let unpacked = unpack(&store, &store.put(&bytes).unwrap()).unwrap();
        assert_eq!(
            (unpacked.name.as_str(), unpacked.version.as_str()),
            ("t", "1"),
            "{name}"
        );
        assert_eq!(
            (unpacked.tar, unpacked.size),
            (Digest::of(&data), data.len() as u64),
            "{name}"
        );
        assert_eq!(unpacked.entries(&store).unwrap().len(), 2);
    }
}

#[test]
fn keeps_conffiles_and_sysusers() {
    let control = BTreeMap::from([("conffiles", "/etc/a\nremove-on-upgrade /etc/b\n")]);
    let items = [
        Item::file("./usr/lib/sysusers.d/t.conf", "u t - \"T\"\n"),
        Item::file("./usr/lib/sysusers.d/README", "no"),
    ];
    let unpacked = unpack_bytes(&deb_with("t", &control, &items)).unwrap();
    assert_eq!(unpacked.conffiles, ["/etc/a", "/etc/b"]);
    assert_eq!(unpacked.sysusers.len(), 1);
    assert_eq!(
        unpacked.sysusers["/usr/lib/sysusers.d/t.conf"],
        "u t - \"T\"\n"
    );
    let json = serde_json::to_string(&unpacked).unwrap();
    assert_eq!(
        serde_json::from_str::<UnpackedDeb>(&json).unwrap(),
        unpacked
    );
}

#[test]
fn refuses_members_that_are_missing_unknown_or_in_another_order() {
    let (c, d) = (control_tar(), tar(&[]));
    let v: (&str, &[u8]) = ("debian-binary", b"2.0\n");
    let control: (&str, &[u8]) = ("control.tar", &c);
    let data: (&str, &[u8]) = ("data.tar", &d);
    assert!(refusal(&[]).contains("debian-binary"));
    assert!(refusal(&[control, data]).contains("debian-binary"));
    assert!(refusal(&[("debian-binary", b"3.0\n"), control, data]).contains("2.x"));
    assert!(refusal(&[v, data, control]).contains("where control.tar must be"));
    assert!(refusal(&[v, control]).contains("no data.tar"));
    assert!(refusal(&[v, control, data, ("more", b"")]).contains("unknown member"));
    assert!(refusal(&[v, control, ("data.tar.lzma", b"")]).contains("not known"));
    assert!(refusal(&[v, ("control.tar", &tar(&[])), data]).contains("no control file"));
    let signed = [
        v,
        ("_x", &b"a"[..]),
        control,
        ("_y", b""),
        data,
        ("_gpgorigin", b"sig"),
    ];
    assert!(unpack_bytes(&ar(&signed)).is_ok());
}

#[test]
fn a_package_that_unpacks_beyond_all_measure_is_refused() {
    // 300 MiB of zeros: gzip makes about 300 kB of them, zstd far less.
    let zeros = io::repeat(0).take(300 << 20);
    let bomb = zstd::encode_all(zeros, 1).unwrap();
    let message = refusal(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar", &control_tar()),
        ("data.tar.zst", &bomb),
    ]);
    assert!(message.contains("unpacked size"), "{message}");
    let message = refusal(&[("debian-binary", b"2.0\n"), ("control.tar.zst", &bomb)]);
    assert!(message.contains("control files"), "{message}");
}

#[test]
fn a_damaged_or_cut_stream_is_an_error_that_names_the_package() {
    let (_dir, store) = store();
    let whole = deb("t", &[Item::file("./a", vec![7; 5000])]);
    for length in (100..whole.len() - 1).step_by(37) {
        let digest = store.put(&whole[..length]).unwrap();
        assert!(unpack(&store, &digest).is_err(), "{length}");
    }
    let mut flipped = whole.clone();
    let at = whole.len() - 60;
    flipped[at] ^= 0x10;
    let error = unpack_bytes(&flipped).unwrap_err().to_string();
    assert!(error.contains("package t"), "{error}");
}

#[test]
fn a_hostile_archive_is_found_when_it_is_unpacked() {
    let error = unpack_bytes(&deb("t", &[Item::file("../x", "")])).unwrap_err();
    assert!(matches!(error, LayersError::Refused { .. }), "{error}");
}

#[test]
fn fuzz_mutated_packages() {
    let (_dir, store) = store();
    let data = tar(&[Item::file("./a", "b")]);
    let packed: [(&str, &[u8]); 2] = [
        ("control.tar.gz", &gz(&control_tar())),
        ("data.tar.xz", &xz(&data)),
    ];
    let plain: [(&str, &[u8]); 2] = [("control.tar", &control_tar()), ("data.tar", &data)];
    let seeds = [packed, plain]
        .map(|members| ar(&[&[("debian-binary", &b"2.0\n"[..])], &members[..]].concat()));
    slipform_fuzz::fuzz(&seeds, |bytes, _| {
        let digest = Digest::of(bytes);
        // Written past the store's own way in, which syncs and would cost most of the time.
        std::fs::write(store.path(&digest), bytes).unwrap();
        if let Ok(unpacked) = unpack(&store, &digest) {
            assert!(unpacked.entries(&store).is_ok());
        }
        std::fs::remove_file(store.path(&digest)).unwrap();
    });
}
