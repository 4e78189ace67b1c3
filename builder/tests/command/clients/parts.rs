//! Servers that others wrote, on ports of their own, until dropped.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::tools::{at_home, client, python};

/// How long a server may take until it listens: python starts slowly, and not alone.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server's process, in a folder of its own.
#[derive(Debug)]
struct Part {
    /// A shell that ends the server when its stdin closes: also when this process is killed.
    shell: Child,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Part {
    /// Starts `command`, whose stderr says where it listens, after the words `says`.
    fn start(command: &Command, folder: tempfile::TempDir, says: &str) -> Self {
        let log = folder.path().join("log");
        let mut shell = Command::new("/bin/sh");
        shell
            .arg("-c")
            .arg("\"$@\" </dev/null & server=$!; cat; kill -9 $server; wait $server")
            .arg("sh")
            .arg(command.get_program())
            .args(command.get_args());
        at_home(&mut shell, folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        let mut shell = shell.spawn().unwrap();
        let address = match wait(&log, says) {
            Ok(address) => address,
            Err(said) => {
                drop(shell.stdin.take());
                shell.wait().unwrap();
                panic!("{command:?} does not listen:\n{said}");
            }
        };
        Self {
            shell,
            folder,
            address,
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // One that is gone already is what is wanted.
        let _ = self.shell.wait();
    }
}

/// Waits until the log names an address and somebody is there; else what the log says.
fn wait(log: &Path, says: &str) -> Result<SocketAddr, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(log).unwrap();
        let address = text.split_once(says).and_then(|(_, rest)| {
            let word: String = rest
                .chars()
                .take_while(|c| c.is_ascii_digit() || ".:".contains(*c))
                .collect();
            word.parse::<SocketAddr>().ok()
        });
        match address {
            Some(address) if TcpStream::connect(address).is_ok() => return Ok(address),
            _ if Instant::now() > end => return Err(text),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Debian's docker-registry on an empty folder.
#[derive(Debug)]
pub(crate) struct Registry(Part);

impl Registry {
    /// `None`, said visibly, where it cannot be had.
    pub(crate) fn new() -> Option<Self> {
        let mut command = client("docker-registry")?;
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.yml");
        let root = folder.path().join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"127.0.0.1:0\"}}\n",
            root.display()
        );
        fs::write(&config, text).unwrap();
        command.arg("serve").arg(config);
        Some(Self(Part::start(&command, folder, "listening on ")))
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Where we publish to.
    pub(crate) fn uri(&self, repository: &str) -> String {
        format!("oci://{}", self.name(repository))
    }

    /// As other clients write it.
    pub(crate) fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.0.address)
    }

    /// A folder for clients: no configuration, and what they keep is gone with the test.
    pub(crate) fn home(&self) -> PathBuf {
        let home = self.0.folder.path().join("home");
        fs::create_dir_all(&home).unwrap();
        home
    }

    /// The file of a blob or manifest.
    pub(crate) fn blob(&self, hex: &str) -> PathBuf {
        self.blobs().join(&hex[..2]).join(hex).join("data")
    }

    /// Bytes of all blobs and manifests that it has.
    pub(crate) fn bytes(&self) -> u64 {
        let folders = fs::read_dir(self.blobs()).unwrap();
        let blobs = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
        let size = |path: PathBuf| fs::metadata(path.join("data")).map_or(0, |data| data.len());
        blobs.map(|blob| size(blob.unwrap().path())).sum()
    }

    fn blobs(&self) -> PathBuf {
        let blobs = "data/docker/registry/v2/blobs/sha256";
        self.0.folder.path().join(blobs)
    }
}

/// moto's object store, EC2 and what belongs to it, with a user, who may do everything, and a bucket; signatures are checked.
#[derive(Debug)]
pub(crate) struct Moto {
    part: Part,
    keys: (String, String),
}

/// What moto is asked with before it checks who asks: it takes the service from here.
const ANYBODY: &str = "AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=0";

impl Moto {
    /// `None`, said visibly, where it cannot be had.
    pub(crate) fn new() -> Option<Self> {
        let mut command = python()?;
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("serve.py");
        fs::write(&script, include_str!("serve.py")).unwrap();
        // What python compiles is kept (it halves the start), but not in the store.
        let cache = concat!("pycache_prefix=", env!("CARGO_TARGET_TMPDIR"), "/pycache");
        command.args(["-s", "-W", "ignore", "-X", cache]);
        command.arg(script).args(["-H", "127.0.0.1", "-p", "0"]);
        let part = Part::start(&command, folder, "Running on http://");
        let mut moto = Self {
            part,
            keys: Default::default(),
        };
        moto.prepare();
        Some(moto)
    }

    fn prepare(&mut self) {
        let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
        self.manage(&[("Action", "CreateUser"), ("UserName", "ann")]);
        self.manage(&[
            ("Action", "PutUserPolicy"),
            ("UserName", "ann"),
            ("PolicyName", "all"),
            ("PolicyDocument", policy),
        ]);
        let answer = self.manage(&[("Action", "CreateAccessKey"), ("UserName", "ann")]);
        let field = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>")).unwrap();
            rest.split('<').next().unwrap().to_owned()
        };
        self.keys = (field("AccessKeyId"), field("SecretAccessKey"));
        let bucket = format!("http://{}/bucket", self.part.address);
        let made = ureq::put(&bucket).send_empty().unwrap();
        assert_eq!(made.status(), 200);
        let on = format!("http://{}/moto-api/reset-auth", self.part.address);
        ureq::post(&on).send("0").unwrap();
    }

    fn manage(&self, form: &[(&str, &str)]) -> String {
        let uri = format!("http://{}/", self.part.address);
        let form = form.iter().copied().chain([("Version", "2010-05-08")]);
        let request = ureq::post(&uri).header("Authorization", ANYBODY);
        let mut answer = request.send_form(form).unwrap();
        answer.body_mut().read_to_string().unwrap()
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.part.address
    }

    /// The environment of a client that comes by way of `at`.
    pub(crate) fn variables(&self, at: SocketAddr) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", format!("http://{at}")),
            ("AWS_ACCESS_KEY_ID", self.keys.0.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.keys.1.clone()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}
