//! Who is let in, with what, and who must never hear it.

use slipform::base::Digest;
use slipform::remote::RemoteError;
use slipform::remote::testing::{
    Auth, Fault, FaultProxy, RegistryRules, Reply, Request, S3Rules, Server, TestRegistry, TestS3,
    Traits, conformance, put,
};
use std::sync::Arc;

use crate::open;

/// A home with docker's configuration for a registry.
fn home(registry: &str, user: &str, password: &str) -> (tempfile::TempDir, Vec<(String, String)>) {
    let folder = tempfile::tempdir().unwrap();
    let auth = slipform::base::base64::encode(format!("{user}:{password}").as_bytes());
    let text = format!(r#"{{"auths":{{"{registry}":{{"auth":"{auth}"}}}}}}"#);
    std::fs::write(folder.path().join("config.json"), text).unwrap();
    let path = folder.path().display().to_string();
    (folder, vec![("DOCKER_CONFIG".to_owned(), path)])
}

#[test]
fn basic_and_token_logins_do_all_that_is_promised() {
    for auth in [
        Auth::Basic("me".into(), "secret".into()),
        Auth::Token("me".into(), "secret".into(), 1_000),
        // Every token is spent after three requests: it is renewed on the way.
        Auth::Token("me".into(), "secret".into(), 3),
    ] {
        let registry = TestRegistry::new(RegistryRules {
            auth: auth.clone(),
            ..RegistryRules::default()
        });
        let (_home, env) = home(&registry.address().to_string(), "me", "secret");
        let traits = Traits {
            atomic: false,
            large: 200_000,
        };
        conformance(&|| open(&registry.uri("team/app"), &env), traits);
        assert!(
            registry.complaints().is_empty(),
            "{:?}",
            registry.complaints()
        );
    }
}

#[test]
fn a_wrong_login_is_one_clear_line() {
    for auth in [
        Auth::Basic("me".into(), "secret".into()),
        Auth::Token("me".into(), "secret".into(), 9),
    ] {
        let registry = TestRegistry::new(RegistryRules {
            auth,
            ..RegistryRules::default()
        });
        let (_home, env) = home(&registry.address().to_string(), "me", "hush-hush");
        for env in [&env[..], &[]] {
            let remote = open(&registry.uri("a"), env);
            for error in [
                put(&*remote, b"x").unwrap_err(),
                remote.has_blob(&Digest::of("x")).unwrap_err(),
                remote.tags().unwrap_err(),
            ] {
                assert!(
                    matches!(error, RemoteError::Refused { status: 401, .. }),
                    "{error}"
                );
                let text = format!("{error} {error:?} {remote:?}");
                assert!(
                    text.contains("log in") && !text.contains("hush-hush"),
                    "{text}"
                );
            }
        }
    }
    let store = TestS3::new(S3Rules::default());
    let mut env = store.variables(store.address());
    env[2].1 = "hush-hush".to_owned();
    let remote = open("s3://bucket/p", &env);
    let error = put(&*remote, b"x").unwrap_err();
    let text = format!("{error} {error:?} {remote:?}");
    let remedy = "SignatureDoesNotMatch; AWS_SECRET_ACCESS_KEY is not the one";
    assert!(text.contains(remedy), "{text}");
    assert!(!text.contains("hush-hush"), "{text}");
    env[1].1 = "nobody".to_owned();
    let remote = open("s3://bucket/p", &env);
    let text = put(&*remote, b"x").unwrap_err().to_string();
    assert!(
        text.contains("nobody there knows AWS_ACCESS_KEY_ID"),
        "{text}"
    );
    // An answer without a body does not say which.
    let text = remote.has_blob(&Digest::of("x")).unwrap_err().to_string();
    assert!(text.contains("is wrong, or lacks the right"), "{text}");
}

#[test]
fn a_login_does_not_follow_a_redirect() {
    // The storage complains about every login that it sees.
    let storage = TestRegistry::new(RegistryRules::default());
    let registry = TestRegistry::new(RegistryRules {
        auth: Auth::Basic("me".into(), "secret".into()),
        storage: Some(format!("http://{}", storage.address())),
        ..RegistryRules::default()
    });
    let (_home, env) = home(&registry.address().to_string(), "me", "secret");
    let remote = open(&registry.uri("a"), &env);
    let digest = storage.insert_blob(b"elsewhere");
    let mut back = Vec::new();
    remote.get_blob(&digest, 9, &mut back).unwrap();
    assert_eq!(back, b"elsewhere");
    assert!(
        storage.complaints().is_empty(),
        "{:?}",
        storage.complaints()
    );
}

#[test]
fn endless_and_foreign_redirects_are_not_followed() {
    let registry = TestRegistry::new(RegistryRules::default());
    let proxy = FaultProxy::new(registry.address());
    let remote = open(&format!("oci://{}/a", proxy.address()), &[]);
    for to in [
        "/v2/a/again",
        "http://192.0.2.1/x",
        "file:///etc/passwd",
        "http://[",
        "",
    ] {
        proxy.reset();
        proxy.fault_from(0, Fault::Redirect(to.to_owned()));
        let digest = Digest::of("x");
        assert!(remote.has_blob(&digest).is_err(), "{to}");
        assert!(
            remote.get_blob(&digest, 1, &mut Vec::new()).is_err(),
            "{to}"
        );
        assert!(put(&*remote, b"x").is_err(), "{to}");
        assert!(remote.tags().is_err(), "{to}");
        assert!(
            proxy.requests().len() < 40,
            "{to}: {}",
            proxy.requests().len()
        );
    }
}

/// A server whose every answer is this.
fn always(reply: Reply) -> Server {
    Server::start(Arc::new(move |_: &Request| reply.clone()))
}

#[test]
fn hostile_answers_are_bounded_errors() {
    let huge = "x".repeat(5 << 20);
    let replies = [
        Reply::status(200).body(huge.clone()),
        Reply::status(401).with("WWW-Authenticate", "Bearer realm=\"http://192.0.2.1/t\""),
        Reply::status(401).with("WWW-Authenticate", "Bearer realm=\"file:///etc/passwd\""),
        Reply::status(401).with("WWW-Authenticate", "Bearer"),
        Reply::status(401).with("WWW-Authenticate", huge[..9000].to_owned()),
        Reply::status(202).with("Location", "http://192.0.2.1/x"),
        Reply::status(202),
        Reply::status(200)
            .with("Link", "</v2/a/tags/list>; rel=\"next\"")
            .body("{\"tags\":[\"a\"]}"),
        Reply::status(200)
            .with("Link", "<http://192.0.2.1/>; rel=next")
            .body("{\"tags\":null}"),
        Reply::status(200)
            .body("<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"),
        Reply::status(206)
            .with("Content-Range", "bytes 9-1/0")
            .body("x"),
        Reply::status(999),
    ];
    for (n, reply) in replies.into_iter().enumerate() {
        let server = always(reply);
        let env = [
            (
                "AWS_ENDPOINT_URL".to_owned(),
                format!("http://{}", server.address()),
            ),
            ("AWS_ACCESS_KEY_ID".to_owned(), "k".to_owned()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), "s".to_owned()),
        ];
        for uri in [
            format!("oci://{}/a", server.address()),
            "s3://bucket/p".to_owned(),
        ] {
            let remote = open(&uri, &env);
            let digest = Digest::of("good");
            assert!(remote.manifest(&digest).is_err(), "{n} {uri}");
            assert!(
                remote.get_blob(&digest, 4, &mut Vec::new()).is_err(),
                "{n} {uri}"
            );
            assert!(remote.tagged("t").is_err(), "{n} {uri}");
            // These may succeed on an answer of 200; they must end.
            drop((
                remote.tags(),
                remote.referrers(&digest),
                put(&*remote, b"good"),
            ));
        }
    }
}

/// A container's keys open an object store as those of the environment do.
#[test]
fn a_containers_keys_open_an_object_store() {
    let store = TestS3::new(S3Rules::default());
    let lender = Server::start(Arc::new(|request: &Request| {
        if request.header("authorization") != "container" {
            return Reply::status(403);
        }
        Reply::status(200)
            .body(r#"{"AccessKeyId":"key","SecretAccessKey":"secret","Token":"session"}"#)
    }));
    let variables = |token: &str| {
        let mut all = store.variables(store.address());
        all.retain(|(name, _)| !name.contains("KEY"));
        let lender = format!("http://{}/role", lender.address());
        for (name, value) in [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", lender.as_str()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", token),
        ] {
            all.push((name.to_owned(), value.to_owned()));
        }
        all
    };
    let remote = open("s3://bucket/x", &variables("container"));
    let digest = put(&*remote, b"lent").unwrap();
    assert!(remote.has_blob(&digest).unwrap());
    let stranger = open("s3://bucket/x", &variables("stranger"));
    let error = stranger.has_blob(&digest).unwrap_err().to_string();
    assert!(
        error.contains("answers 403") && error.contains("AWS_PROFILE"),
        "{error}"
    );
}
