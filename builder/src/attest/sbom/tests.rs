//! The document as a whole.

use super::*;
use crate::attest::testing::package;

fn facts() -> SbomFacts {
    let file = |layer: &str, path: &str, package: Option<&str>| FileFacts {
        layer: layer.into(),
        path: path.into(),
        sha1: "da39a3ee5e6b4b0d3255bfef95601890afd80709".into(),
        sha256: Digest::of(path),
        package: package.map(str::to_owned),
    };
    let of = |name: &str, layer: Option<&str>| {
        PackageFacts {
        package: package(name),
        layer: layer.map(str::to_owned),
        maintainer: Some("A Team <team@example.org>".into()),
        homepage: Some("https://example.org/".into()),
        copyright: Some(
            "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: odd or GPL-2+\n"
                .into(),
        ),
    }
    };
    SbomFacts {
        name: "hello".into(),
        version: "1.0".into(),
        board: "qemu-x86_64".into(),
        image: Digest::of("image"),
        created: 1_789_199_741,
        builder: "0.1.0".into(),
        init: Digest::of("init"),
        layers: vec!["base".into(), "app".into(), "generated".into()],
        packages: vec![of("linux", None), of("libstdc++6", Some("base"))],
        files: vec![
            file("base", "usr/lib/libstdc++.so.6", Some("libstdc++6")),
            file("base", "usr/lib/empty", Some("libstdc++6")),
            file("app", "srv/www/index.html", None),
        ],
    }
}

#[test]
fn every_file_has_an_owner_and_every_package_a_place() {
    let Sbom(document) = Sbom::of(&facts());
    let find = |kind: &str, key: &str, value: &str| -> Value {
        let all = document[kind].as_array().unwrap();
        all.iter().find(|v| v[key] == value).unwrap().clone()
    };
    let owner = |file: &str| {
        let id = find("files", "fileName", file)["SPDXID"].clone();
        let relations = document["relationships"].as_array().unwrap();
        let of = relations.iter().find(|r| r["relatedSpdxElement"] == id);
        let above = of.unwrap()["spdxElementId"].as_str().unwrap().to_owned();
        find("packages", "SPDXID", &above)["name"].clone()
    };
    assert_eq!(owner("./usr/lib/libstdc++.so.6"), "libstdc++6");
    assert_eq!(owner("./srv/www/index.html"), "layer app");
    let library = find("packages", "name", "libstdc++6");
    assert_eq!(
        library["licenseDeclared"],
        "LicenseRef-Debian-odd OR GPL-2.0-or-later"
    );
    assert_eq!(library["supplier"], "Organization: Debian");
    assert_eq!(library["filesAnalyzed"], true);
    // printf da39…0709da39…0709 | sha1sum
    assert_eq!(
        library["packageVerificationCode"]["packageVerificationCodeValue"],
        "94e723dc305f28b58ba1aba04e14aade037baa95"
    );
    assert_eq!(
        library["externalRefs"][0]["referenceLocator"],
        "pkg:deb/debian/libstdc%2B%2B6@1:2.0-1?arch=amd64&distro=trixie"
    );
    assert_eq!(document["creationInfo"]["created"], "2026-09-12T07:55:41Z");
    let kernel = find("packages", "name", "linux");
    assert_eq!(kernel["filesAnalyzed"], false);
}

#[test]
fn ids_are_unique_and_clean_and_all_relations_lead_somewhere() {
    let Sbom(document) = Sbom::of(&facts());
    let mut ids = BTreeSet::from(["SPDXRef-DOCUMENT".to_owned()]);
    for kind in ["packages", "files"] {
        for element in document[kind].as_array().unwrap() {
            let id = element["SPDXID"].as_str().unwrap();
            let rest = id.strip_prefix("SPDXRef-").unwrap();
            assert!(
                rest.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
            );
            assert!(ids.insert(id.to_owned()), "{id}");
        }
    }
    for relation in document["relationships"].as_array().unwrap() {
        for end in ["spdxElementId", "relatedSpdxElement"] {
            assert!(ids.contains(relation[end].as_str().unwrap()), "{relation}");
        }
    }
}

#[test]
fn the_same_facts_make_the_same_bytes() {
    let bytes = |facts: &SbomFacts| serde_json::to_vec(&Sbom::of(facts)).unwrap();
    assert_eq!(bytes(&facts()), bytes(&facts()));
}

#[test]
fn maintainers_become_actors() {
    for (maintainer, expected) in [
        ("A B <a@b>", Some("Organization: A B (a@b)")),
        ("Team", Some("Organization: Team")),
        ("(x)", Some("Organization: x")),
        ("<a@b>", None),
        ("", None),
    ] {
        assert_eq!(originator(maintainer).as_deref(), expected, "{maintainer}");
    }
}
