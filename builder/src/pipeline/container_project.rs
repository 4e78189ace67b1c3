//! A specification from a container's own configuration (image-spec, config.md): what it
//! runs, as whom, where, with which environment, and what it keeps.

use std::collections::{BTreeMap, BTreeSet};

use super::{PipelineError, Settings};
use crate::base::Arch;
use crate::layers::container::AccountFiles;
use crate::layers::container::documents::RunConfig;
use crate::layers::{Entry, Kind, LayersError};
use crate::spec::ContainerRule;
use crate::tree::generated::Accounts;

/// Where programs are looked for when the image does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What an engine lays over a container's files: an image's own are for nobody's eyes.
const ENGINES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
/// What is writable and forgotten anyhow.
const VOLATILE: [&str; 6] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/var/run"];
/// Ports below are for root and who has the capability; in a container they are for all.
const FIRST_FREE_PORT: u16 = 1024;
/// Numbers that images write for signals.
const SIGNALS: [(&str, &str); 7] = [
    ("1", "SIGHUP"),
    ("2", "SIGINT"),
    ("3", "SIGQUIT"),
    ("9", "SIGKILL"),
    ("10", "SIGUSR1"),
    ("12", "SIGUSR2"),
    ("15", "SIGTERM"),
];

/// What is looked up in a container's files.
#[derive(Debug, Default)]
struct Files {
    accounts: AccountFiles,
    paths: BTreeSet<String>,
    links: BTreeMap<String, String>,
}

impl Settings {
    /// The text of a specification that runs the container `rule` as the service `name`.
    ///
    /// # Errors
    /// [`PipelineError`] when the image cannot be had, or cannot be run.
    pub fn container_project(
        &self,
        name: &str,
        rule: &ContainerRule,
    ) -> Result<String, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        // One that is for another architecture alone runs on that one's boards.
        let mut found = self.whole_container(rule, Arch::TOOLS);
        let mut arch = Arch::TOOLS;
        for other in Arch::ALL {
            if matches!(
                &found,
                Err(PipelineError::Layers(LayersError::Container { .. }))
            ) && let Ok(whole) = self.whole_container(rule, other)
            {
                (found, arch) = (Ok(whole), other);
            }
        }
        let (run, unpacked) = found?;
        let entries = unpacked.entries(&self.store, &rule.written)?;
        let files = Files {
            accounts: AccountFiles::of(&entries, &self.store, &rule.written)?,
            ..looked_up(&entries)
        };
        let own = [("app".to_owned(), files.accounts.clone())];
        let accounts = Accounts::with_containers(&[], [], &own)?;
        let named = Named {
            name,
            image: &rule.written,
            arch,
        };
        text(&named, &run, &files, &accounts).map_err(|problem| {
            PipelineError::Layers(LayersError::Container {
                container: rule.written.clone(),
                problem,
            })
        })
    }
}

/// What the specification is called, and what it is of.
struct Named<'a> {
    name: &'a str,
    image: &'a str,
    arch: Arch,
}

fn looked_up(entries: &[Entry]) -> Files {
    let mut files = Files::default();
    for entry in entries {
        if let Kind::Symlink(target) = &entry.kind {
            files.links.insert(entry.path.clone(), target.clone());
        }
        files.paths.insert(entry.path.clone());
    }
    files
}

/// A basic string of TOML: JSON's escapes are among its own, and it has one more.
fn quote(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json.replace('\u{7f}', "\\u007f")
}

fn list<'a>(items: impl IntoIterator<Item = &'a String>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| quote(item)).collect();
    format!("[{}]", items.join(", "))
}

/// Puts the specification together; the error is problem and remedy.
fn text(
    named: &Named<'_>,
    run: &RunConfig,
    files: &Files,
    known: &Accounts,
) -> Result<String, String> {
    let env: BTreeMap<&str, &str> = run
        .env
        .iter()
        .flatten()
        .filter_map(|line| line.split_once('='))
        .collect();
    let workdir = match run.working_dir.as_deref() {
        None | Some("") => "/",
        Some(folder) => folder,
    };
    let exec = exec(run, files, &env, workdir)?;
    let account = account(run.user.as_deref().unwrap_or_default(), files, known)?;
    let (kept, mut made) = volumes(run, files);
    // An engine makes it where the image has none.
    if workdir != "/" && !files.paths.contains(workdir.trim_end_matches('/')) {
        made.push(workdir.trim_end_matches('/').to_owned());
    }
    let boards = match named.arch {
        Arch::TOOLS => String::new(),
        arch => format!("boards = [\"qemu-{}\"]\n", arch.name()),
    };
    let mut text = format!(
        "# What every key means: slipform schema image\nname = {}\nversion = \"0.1.0\"\n{boards}\n[[layer]]\nname = \"app\"\noci = {}\n",
        quote(named.name),
        quote(named.image)
    );
    text.push_str(&account.rules);
    let hidden = ENGINES.map(str::to_owned);
    let hidden: Vec<&String> = hidden
        .iter()
        .filter(|path| files.paths.contains(*path))
        .collect();
    if !hidden.is_empty() {
        text.push_str(&format!(
            "exclude = {}   # a container's engine brings its own\n",
            list(hidden)
        ));
    }
    if !made.is_empty() {
        let made: Vec<String> = made
            .iter()
            .map(|path| format!("{{ path = {} }}", quote(path)))
            .collect();
        text.push_str(&format!("dirs = [{}]\n", made.join(", ")));
    }
    text.push_str(&format!(
        "\n[[service]]\nname = {}\nexec = {}\n",
        quote(named.name),
        list(&exec)
    ));
    if !env.is_empty() {
        let env: Vec<String> = env
            .iter()
            .map(|(key, value)| format!("{} = {}", quote(key), quote(value)))
            .collect();
        text.push_str(&format!("env = {{ {} }}\n", env.join(", ")));
    }
    text.push_str(&account.service);
    if workdir != "/" {
        text.push_str(&format!("workdir = {}\n", quote(workdir)));
    }
    text.push_str(&stop_signal(run));
    text.push_str(&ports(run, account.is_root));
    if !kept.is_empty() {
        text.push_str(&format!(
            "\n[state]                       # its volumes; a [[scratch]] instead forgets at each boot\npaths = {}\n",
            list(&kept)
        ));
    }
    Ok(text)
}

/// Program and arguments, the program by its absolute path.
fn exec(
    run: &RunConfig,
    files: &Files,
    env: &BTreeMap<&str, &str>,
    workdir: &str,
) -> Result<Vec<String>, String> {
    let mut exec: Vec<String> = run
        .entrypoint
        .iter()
        .chain(&run.cmd)
        .flatten()
        .cloned()
        .collect();
    let Some(program) = exec.first_mut() else {
        return Err(
            "it has neither entrypoint nor command; write a [[service]] by hand".to_owned(),
        );
    };
    if program.starts_with('/') {
        return Ok(exec);
    }
    if program.contains('/') {
        *program = format!(
            "{}/{}",
            workdir.trim_end_matches('/'),
            program.trim_start_matches("./")
        );
        return Ok(exec);
    }
    let path = env.get("PATH").copied().unwrap_or(PATH);
    let found = path
        .split(':')
        .filter(|folder| folder.starts_with('/'))
        .find(|folder| {
            // `/bin` is a link to `usr/bin` in most images by now.
            let real = files
                .links
                .get(*folder)
                .map(|target| format!("/{}", target.trim_start_matches('/')));
            let there = |folder: &str| files.paths.contains(&format!("{folder}/{program}"));
            there(folder) || real.is_some_and(|real| there(&real))
        });
    let Some(folder) = found else {
        return Err(format!(
            "its program '{}' is in none of the folders of its PATH ({path}); write a [[service]] by hand",
            program.escape_debug()
        ));
    };
    *program = format!("{folder}/{program}");
    Ok(exec)
}

/// Who it runs as.
struct Account {
    /// Lines of the layer.
    rules: String,
    /// Lines of the service.
    service: String,
    is_root: bool,
}

/// A line of passwd or group that has this name or number.
fn line_of<'a>(text: Option<&'a str>, who: &str) -> Option<Vec<&'a str>> {
    let mut lines = text
        .unwrap_or_default()
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let column = usize::from(who.parse::<u32>().is_ok()) * 2;
    lines.find(|fields| fields.len() >= 3 && fields[column] == who)
}

/// `user`, `uid`, `user:group` or `uid:gid`, as the image has it in its own files.
fn account(written: &str, files: &Files, known: &Accounts) -> Result<Account, String> {
    let (who, group) = written
        .split_once(':')
        .map_or((written, None), |(who, group)| (who, Some(group)));
    let unknown = |what: &str, name: &str, file: &str| {
        format!(
            "its {what} '{}' is not in its {file}; write a [[service]] by hand",
            name.escape_debug()
        )
    };
    let who = if who.is_empty() { "0" } else { who };
    let line = line_of(files.accounts.passwd.as_deref(), who);
    let uid: u32 = match (&line, who.parse()) {
        (_, Ok(uid)) => uid,
        (Some(line), _) => line[2]
            .parse()
            .map_err(|_| unknown("user", who, "/etc/passwd"))?,
        (None, Err(_)) if who == "root" => 0,
        _ => return Err(unknown("user", who, "/etc/passwd")),
    };
    let gid: u32 = match group {
        Some(group) => match (
            group.parse(),
            line_of(files.accounts.group.as_deref(), group),
        ) {
            (Ok(gid), _) => gid,
            (_, Some(line)) => line[2]
                .parse()
                .map_err(|_| unknown("group", group, "/etc/group"))?,
            _ => return Err(unknown("group", group, "/etc/group")),
        },
        None => line
            .as_ref()
            .and_then(|line| line.get(3)?.parse().ok())
            .unwrap_or(0),
    };
    let mut account = Account {
        rules: String::new(),
        service: String::new(),
        is_root: uid == 0,
    };
    if (uid, gid) == (0, 0) {
        return Ok(account);
    }
    let own = ["app", "container", "app-1", "app-2"]
        .into_iter()
        .find(|name| known.user(name).is_none() && known.group(name).is_none());
    let own = own.unwrap_or("app");
    // Numbers are what counts. Who has a name in the image has it on the machine, too.
    let named = line.as_ref().map_or("", |line| line[0]);
    let group = known.group(named).filter(|group| group.gid == gid);
    let group = match group.or_else(|| known.groups().find(|group| group.gid == gid)) {
        Some(group) => group.name.clone(),
        None => {
            account.rules = format!("groups = [{{ name = \"{own}\", gid = {gid} }}]\n");
            own.to_owned()
        }
    };
    let user = known.user(named).filter(|user| user.uid == uid);
    let user = match user.or_else(|| known.users().find(|user| user.uid == uid)) {
        Some(user) => user.name.clone(),
        None => {
            account.rules.push_str(&format!(
                "users = [{{ name = \"{own}\", uid = {uid}, group = {} }}]\n",
                quote(&group)
            ));
            own.to_owned()
        }
    };
    account.service = format!("user = {}\ngroup = {}\n", quote(&user), quote(&group));
    Ok(account)
}

fn stop_signal(run: &RunConfig) -> String {
    let Some(signal) = run
        .stop_signal
        .as_deref()
        .filter(|signal| !signal.is_empty())
    else {
        return String::new();
    };
    let number = SIGNALS.iter().find(|(number, _)| *number == signal);
    let name = number.map_or_else(
        || format!("SIG{}", signal.trim_start_matches("SIG")),
        |(_, name)| (*name).to_owned(),
    );
    if SIGNALS.iter().any(|(_, known)| *known == name) || name == "SIGWINCH" {
        format!("stop-signal = {}\n", quote(&name))
    } else {
        format!(
            "# Its stop signal {} is none of slipform's; it gets SIGTERM.\n",
            quote(signal)
        )
    }
}

fn ports(run: &RunConfig, is_root: bool) -> String {
    let mut tcp = Vec::new();
    let mut low = false;
    for port in run.exposed_ports.iter().flat_map(BTreeMap::keys) {
        let (number, kind) = port.split_once('/').unwrap_or((port, "tcp"));
        let Ok(number) = number.parse::<u16>() else {
            continue;
        };
        low |= number < FIRST_FREE_PORT;
        if kind == "tcp" {
            tcp.push(number);
        }
    }
    tcp.sort_unstable();
    let mut text = String::new();
    if low && !is_root {
        text.push_str("capabilities = [\"CAP_NET_BIND_SERVICE\"]\n");
    }
    if let Some(port) = tcp.first() {
        text.push_str(&format!("ready = {{ tcp = \"127.0.0.1:{port}\" }}\n"));
    }
    text
}

/// Volumes that are kept, and those of them that are not in the image.
fn volumes(run: &RunConfig, files: &Files) -> (Vec<String>, Vec<String>) {
    let mut kept: Vec<String> = Vec::new();
    for path in run.volumes.iter().flat_map(BTreeMap::keys) {
        let path = path.trim_end_matches('/');
        let below = |folder: &str| {
            path.strip_prefix(folder)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let volatile = VOLATILE.iter().any(|folder| below(folder));
        if path.starts_with('/') && !volatile && !kept.iter().any(|folder| below(folder)) {
            kept.push(path.to_owned());
        }
    }
    let made = kept
        .iter()
        .filter(|path| !files.paths.contains(*path))
        .cloned()
        .collect();
    (kept, made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        let paths = ["/usr/bin/server", "/bin", "/data", "/etc/hosts"].map(str::to_owned);
        Files {
            accounts: AccountFiles {
                passwd: Some("root:x:0:0:root:/root:/bin/sh\nnginx:x:101:102:nginx:/var/cache/nginx:/sbin/nologin\nwww-data:x:82:82::/home/www:/bin/sh\n".to_owned()),
                group: Some("root:x:0:\nnginx:x:102:\nwww-data:x:82:\n".to_owned()),
            },
            paths: paths.into(),
            links: [("/bin".to_owned(), "usr/bin".to_owned())].into(),
        }
    }

    fn made(run: &str) -> Result<String, String> {
        let run: RunConfig = serde_json::from_str(run).unwrap();
        let own = [("app".to_owned(), files().accounts)];
        let known = Accounts::with_containers(&[], [], &own).unwrap();
        let named = Named {
            name: "web",
            image: "oci://h/app:1",
            arch: Arch::TOOLS,
        };
        text(&named, &run, &files(), &known)
    }

    #[test]
    fn everything_that_an_image_says_is_written() {
        let run = r#"{
            "Entrypoint": ["server"], "Cmd": ["-c", "say \"hi\"\n"], "Env": ["PATH=/sbin:/bin", "A=b=c", "broken"],
            "User": "nginx", "WorkingDir": "/srv", "StopSignal": "SIGQUIT",
            "ExposedPorts": {"8080/tcp": {}, "80/tcp": {}, "53/udp": {}},
            "Volumes": {"/data": {}, "/data/deep": {}, "/new/": {}, "/tmp/x": {}, "odd": {}}
        }"#;
        assert_eq!(
            made(run).unwrap(),
            r#"# What every key means: slipform schema image
name = "web"
version = "0.1.0"

[[layer]]
name = "app"
oci = "oci://h/app:1"
exclude = ["/etc/hosts"]   # a container's engine brings its own
dirs = [{ path = "/new" }, { path = "/srv" }]

[[service]]
name = "web"
exec = ["/bin/server", "-c", "say \"hi\"\n"]
env = { "A" = "b=c", "PATH" = "/sbin:/bin" }
user = "nginx"
group = "nginx"
workdir = "/srv"
stop-signal = "SIGQUIT"
capabilities = ["CAP_NET_BIND_SERVICE"]
ready = { tcp = "127.0.0.1:80" }

[state]                       # its volumes; a [[scratch]] instead forgets at each boot
paths = ["/data", "/new"]
"#
        );
    }

    #[test]
    fn users_come_by_name_and_number() {
        let run = |user: &str| made(&format!(r#"{{ "Cmd": ["/x"], "User": "{user}" }}"#));
        for (user, parts) in [
            ("", &[][..]),
            ("root", &[]),
            ("0:0", &[]),
            ("101", &["user = \"nginx\"\ngroup = \"nginx\""]),
            ("nginx:82", &["user = \"nginx\"\ngroup = \"www-data\""]),
            // Nobody there has the number: Docker's group is root's then.
            ("4321", &["name = \"app\", uid = 4321, group = \"root\""]),
            (
                "4321:4322",
                &["name = \"app\", gid = 4322", "uid = 4321, group = \"app\""],
            ),
            // It is another number in Debian: the image's counts, and is whose name it is.
            ("www-data", &["user = \"www-data\"\ngroup = \"www-data\""]),
            ("82:4", &["user = \"www-data\"\ngroup = \"adm\""]),
            ("33", &["name = \"app\", uid = 33, group = \"root\""]),
            ("65534:65534", &["user = \"nobody\"\ngroup = \"nogroup\""]),
        ] {
            let text = run(user).unwrap();
            assert_eq!(
                text.contains("user = "),
                !parts.is_empty(),
                "{user}: {text}"
            );
            for part in parts {
                assert!(text.contains(part), "{user}: {text}");
            }
        }
        for (user, word) in [
            ("nobody-here", "its user 'nobody-here'"),
            ("101:none", "its group 'none'"),
        ] {
            let error = run(user).unwrap_err();
            assert!(error.contains(word) && error.contains("by hand"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_run_is_said() {
        assert!(
            made("{}")
                .unwrap_err()
                .contains("neither entrypoint nor command")
        );
        assert!(
            made(r#"{ "Cmd": ["nowhere"] }"#)
                .unwrap_err()
                .contains("'nowhere'")
        );
        let odd =
            made(r#"{ "Cmd": ["./x"], "WorkingDir": "/w/", "StopSignal": "SIGRTMIN+3" }"#).unwrap();
        assert!(
            odd.contains("[\"/w/x\"]") && odd.contains("# Its stop signal"),
            "{odd}"
        );
    }
}
