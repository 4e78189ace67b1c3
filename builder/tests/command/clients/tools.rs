//! Other people's tools, from locked packages.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

use slipform::pipeline::PipelineError;
use slipform::pipeline::testing::{self, CLIENTS, OBJECT_STORE, OFFLINE, UNPACKING};
use slipform::pipeline::tools::Tools;

type Set = OnceLock<Option<Tools>>;

/// The command of `cosign`, `docker-registry` or `oras`. `None` where the tests may
/// not fetch and have it not: that is one visible line.
pub(crate) fn client(name: &str) -> Option<Command> {
    static CLIENT_TOOLS: Set = Set::new();
    let tools = CLIENT_TOOLS.get_or_init(|| had(testing::tools("clients", CLIENTS)));
    command(tools.as_ref()?, name)
}

/// `python3` with moto, as [`client`].
pub(crate) fn python() -> Option<Command> {
    static PYTHON: Set = Set::new();
    let tools = PYTHON.get_or_init(|| had(testing::tools("object-store", OBJECT_STORE)));
    command(tools.as_ref()?, "python3")
}

/// `skopeo`, which judges the local store, too; as [`client`].
pub(crate) fn skopeo() -> Option<Command> {
    static JUDGES: Set = Set::new();
    let tools = JUDGES.get_or_init(|| had(testing::judges()));
    command(tools.as_ref()?, "skopeo")
}

/// `umoci` or GNU `tar`, as [`client`].
pub(crate) fn unpacker(name: &str) -> Option<Command> {
    static UNPACKERS: Set = Set::new();
    let tools = UNPACKERS.get_or_init(|| had(testing::tools("unpackers", UNPACKING)));
    command(tools.as_ref()?, name)
}

fn had(tools: Result<Option<Tools>, PipelineError>) -> Option<Tools> {
    tools.unwrap_or_else(|error| {
        panic!("the tools cannot be had: {error}; set {OFFLINE}=1 to pass over what needs them")
    })
}

fn command(tools: &Tools, name: &str) -> Option<Command> {
    let command = tools.command(name);
    assert!(command.is_some(), "no package of the tools has {name}");
    command
}

/// A command that finds `home` and nothing else of this host's.
pub(crate) fn at_home<'a>(command: &'a mut Command, home: &Path) -> &'a mut Command {
    command
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", home)
        .env("DOCKER_CONFIG", home)
        .current_dir(home)
}

/// Runs a tool that must be content; gives its stdout.
#[track_caller]
pub(crate) fn content(command: &mut Command) -> Vec<u8> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?} ended with {status}:\n{said}");
    stdout
}

/// Runs a tool that must refuse by itself (no signal), for a reason with `word` in it.
#[track_caller]
pub(crate) fn refuses(command: &mut Command, word: &str) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(
        code.is_some_and(|code| code != 0),
        "{command:?}: {output:?}"
    );
    assert!(said.contains(word), "no '{word}' in: {said}");
}

/// Runs a tool that must be content and print JSON.
#[track_caller]
pub(crate) fn json(command: &mut Command) -> serde_json::Value {
    let bytes = content(command);
    serde_json::from_slice(&bytes)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&bytes)))
}
