//! docker's and podman's files, and helper programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn helper(&self, name: &str, script: &str) {
        let path = self.write(&format!("bin/docker-credential-{name}"), script);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn find(&self, env: &[(&str, &str)], repository: &str) -> Result<String, String> {
        let home = self.0.path().to_str().unwrap().to_owned();
        let path = format!("{home}/bin:/usr/bin:/bin");
        let mut all = vec![("HOME", home.as_str()), ("PATH", path.as_str())];
        all.extend(env);
        let host = Host::fake(self.0.path(), &all);
        let base = Uri::parse("https://r.example:5000/v2/x").unwrap();
        let logins = Logins::new(&host, &base, repository, None);
        match logins.find() {
            Ok(Some(Secret::Login(login))) => Ok(format!("{}/{}", login.user, login.password)),
            Ok(Some(Secret::Identity(token))) => Ok(format!("identity {token}")),
            Ok(Some(Secret::Token(token))) => Ok(format!("token {token}")),
            Ok(None) => Ok(String::new()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn auths(name: &str, user: &str) -> String {
    let auth = base64::encode(format!("{user}:pw").as_bytes());
    format!(r#"{{"auths":{{"{name}":{{"auth":"{auth}"}}}}}}"#)
}

#[test]
fn files_are_asked_in_their_order() {
    let bench = Bench::new();
    assert_eq!(bench.find(&[], "a/b").unwrap(), "");
    bench.write(
        ".config/containers/auth.json",
        &auths("r.example:5000", "containers"),
    );
    assert_eq!(bench.find(&[], "a/b").unwrap(), "containers/pw");
    bench.write(
        ".docker/config.json",
        &auths("https://r.example:5000/v1/", "docker"),
    );
    assert_eq!(bench.find(&[], "a/b").unwrap(), "docker/pw");
    let other = bench.write("other/config.json", &auths("r.example:5000", "other"));
    let folder = other.parent().unwrap().to_str().unwrap();
    assert_eq!(
        bench.find(&[("DOCKER_CONFIG", folder)], "a").unwrap(),
        "other/pw"
    );
    let file = bench.write("file.json", &auths("r.example:5000", "file"));
    let file = ("REGISTRY_AUTH_FILE", file.to_str().unwrap());
    assert_eq!(
        bench.find(&[file, ("DOCKER_CONFIG", folder)], "a").unwrap(),
        "file/pw"
    );
}

#[test]
fn a_login_is_for_its_host_and_repository_only() {
    let bench = Bench::new();
    for (name, found) in [
        ("r.example:5000/a", true),
        ("r.example:5000/a/b", true),
        ("r.example:5000/c", false),
        ("r.example", false),
        ("example:5000", false),
        ("https://r.example:5000", true),
    ] {
        bench.write(".docker/config.json", &auths(name, "me"));
        assert_eq!(!bench.find(&[], "a/b").unwrap().is_empty(), found, "{name}");
    }
}

#[test]
fn tokens_and_plain_entries() {
    let bench = Bench::new();
    for (entry, expected) in [
        (r#"{"identitytoken":"t"}"#, Ok("identity t")),
        (r#"{"registrytoken":"t"}"#, Ok("token t")),
        (r#"{"username":"u","password":"p"}"#, Ok("u/p")),
        (r#"{}"#, Ok("")),
        (r#"{"auth":"***"}"#, Err("log in again")),
        (r#"{"auth":"dXNlcg=="}"#, Err("log in again")),
        (
            r#"{"username":"u\n","password":"secret"}"#,
            Err("log in again"),
        ),
    ] {
        let text = format!(r#"{{"auths":{{"r.example:5000":{entry}}}}}"#);
        bench.write(".docker/config.json", &text);
        match (bench.find(&[], "a"), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(part)) => {
                assert!(found.contains(part) && !found.contains("secret"), "{found}");
            }
            other => panic!("{entry}: {other:?}"),
        }
    }
    bench.write(
        ".docker/config.json",
        r#"{"auths":{"r.example:5000":{"auth":"secret"#,
    );
    let error = bench.find(&[], "a").unwrap_err();
    assert!(
        error.contains("config.json") && !error.contains("secret"),
        "{error}"
    );
}

#[test]
fn helpers_are_asked_by_their_protocol() {
    let bench = Bench::new();
    bench.helper(
        "good",
        "#!/bin/sh\n[ \"$1\" = get ] && read host && echo \"{\\\"ServerURL\\\":\\\"$host\\\",\\\"Username\\\":\\\"u\\\",\\\"Secret\\\":\\\"for $host\\\"}\"\n",
    );
    bench.helper(
        "token",
        "#!/bin/sh\necho '{\"Username\":\"<token>\",\"Secret\":\"t\"}'\n",
    );
    bench.helper(
        "none",
        "#!/bin/sh\necho 'credentials not found in native keychain'; exit 1\n",
    );
    bench.helper("bad", "#!/bin/sh\necho secret; exit 1\n");
    bench.helper("odd", "#!/bin/sh\necho secret\n");
    for (config, expected) in [
        (
            r#"{"credHelpers":{"r.example:5000":"good"}}"#,
            Ok("u/for r.example:5000"),
        ),
        (r#"{"credsStore":"good"}"#, Ok("u/for r.example:5000")),
        (r#"{"credHelpers":{"elsewhere":"good"}}"#, Ok("")),
        (r#"{"credsStore":"token"}"#, Ok("identity t")),
        (r#"{"credsStore":"none"}"#, Ok("")),
        (
            r#"{"credsStore":"bad"}"#,
            Err("docker-credential-bad: it failed"),
        ),
        (r#"{"credsStore":"odd"}"#, Err("docker-credential-odd")),
        (r#"{"credsStore":"missing"}"#, Err("not in PATH")),
        (r#"{"credsStore":"../../bin/sh"}"#, Err("no helper's name")),
    ] {
        bench.write(".docker/config.json", config);
        match (bench.find(&[], "a"), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{config}"),
            (Err(found), Err(part)) => {
                assert!(found.contains(part) && !found.contains("secret"), "{found}");
            }
            other => panic!("{config}: {other:?}"),
        }
    }
}
