//! A machine that starts over the network: the firmware fetches the disk by HTTP (UEFI
//! Specification 2.10, section 24.7, "HTTP Boot") and starts it from memory, or iPXE in the
//! network card fetches a script, and what the script names.
//!
//! QEMU's DHCP tells iPXE where the script is, and knows nothing of HTTP Boot, so that
//! there a boot option names the URL, as on a machine whose operator has written it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::HarnessError;
use crate::plan::{Emulator, Plan};

/// The disk of a board whose firmware fetches it.
pub(crate) const HTTP_BOOT: &str = "http-boot";
/// The disk of a board that starts by iPXE.
pub(crate) const IPXE: &str = "netboot";
/// The host, as the guest sees it.
const HOST: &str = "10.0.2.2";
/// The firmware knows a disk by its name's end.
const DISK: &str = "/disk.img";
/// What iPXE is told to fetch.
const SCRIPT: &str = "/boot.ipxe";
/// The folder that QEMU serves by TFTP.
pub(super) const TFTP: &str = "tftp";
/// What a UEFI firmware fetches from there.
pub(super) const IPXE_EFI: &str = "ipxe.efi";
/// Longest request.
const REQUEST_MAX: u64 = 16 * 1024;
/// Longest wait for a guest that says nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a block of a tar.
const BLOCK: u64 = 512;
/// Most members that are served.
const MAX_MEMBERS: usize = 1000;

/// Whether the board's disk comes over the network.
pub(crate) fn is_network(disk: &str) -> bool {
    matches!(disk, HTTP_BOOT | IPXE)
}

/// For a board that starts so: serves the artifact. Its URL goes into the machine's
/// variables, which must be new, where the firmware asks for it.
pub(super) fn prepare(plan: &Plan, vars: &Path) -> Result<Option<Server>, HarnessError> {
    let server = match plan.emulation.disk.as_str() {
        HTTP_BOOT => Server::start(&plan.disk, Files::whole(&plan.disk), DISK)?,
        IPXE => return Server::start(&plan.disk, Files::members(&plan.disk), SCRIPT).map(Some),
        _ => return Ok(None),
    };
    let remedy = "set TMPDIR to a folder with room";
    let mut bytes = std::fs::read(vars).map_err(HarnessError::io("read", vars, remedy))?;
    if boot_from(&mut bytes, server.url()).is_none() {
        return Err(HarnessError::Plan {
            what: "disk".into(),
            value: format!("`{HTTP_BOOT}`"),
            rule: "it needs the firmware's variables as they come, without boot options".into(),
            remedy: "use the locked emulator, and no power cuts in the tests".into(),
        });
    }
    std::fs::write(vars, bytes).map_err(HarnessError::io("write", vars, remedy))?;
    Ok(Some(server))
}

/// What the firmware fetches by TFTP: iPXE, and beside it the script that iPXE looks for
/// first (iPXE, "Chainloading iPXE"), which names the server.
pub(super) fn lay_out(
    server: &Server,
    emulator: &Emulator,
    run: &Path,
) -> Result<(), HarnessError> {
    let Some(program) = &emulator.ipxe else {
        return Err(HarnessError::Plan {
            what: "disk".into(),
            value: format!("`{IPXE}`"),
            rule: "a UEFI machine that starts over the network needs iPXE, which this emulator has not".into(),
            remedy: "on x86_64 run `slipform lock --update`, or install the package `ipxe` for `--qemu host`; for Arm there is none yet, so test the disk".into(),
        });
    };
    let folder = run.join(TFTP);
    let remedy = "set TMPDIR to a folder with room";
    let failed = || HarnessError::io("write", &folder, remedy);
    std::fs::create_dir(&folder).map_err(failed())?;
    std::fs::copy(program, folder.join(IPXE_EFI)).map_err(failed())?;
    let script = format!("#!ipxe\ndhcp\nchain {}\n", server.url());
    std::fs::write(folder.join("autoexec.ipxe"), script).map_err(failed())
}

/// What is served: paths, and where in the artifact that is.
#[derive(Debug, Default)]
struct Files(BTreeMap<String, Range<u64>>);

impl Files {
    /// All of the file as a disk.
    fn whole(file: &Path) -> io::Result<Self> {
        let length = std::fs::metadata(file)?.len();
        Ok(Self([(DISK.to_owned(), 0..length)].into()))
    }

    /// The members of a tar.
    fn members(file: &Path) -> io::Result<Self> {
        let mut file = File::open(file)?;
        let mut files = Self::default();
        let mut at = 0;
        while files.0.len() < MAX_MEMBERS {
            let mut header = [0; BLOCK as usize];
            file.seek(SeekFrom::Start(at))?;
            if file.read_exact(&mut header).is_err() || header[0] == 0 {
                break;
            }
            let wrong = || io::Error::new(ErrorKind::InvalidData, "it is no tar of slipform's");
            let field = |range: Range<usize>| {
                let text = std::str::from_utf8(&header[range]).ok();
                text.map(|text| text.trim_end_matches(['\0', ' ']))
            };
            let name = field(0..100).ok_or_else(wrong)?;
            let size = field(124..136).and_then(|text| u64::from_str_radix(text, 8).ok());
            let start = at + BLOCK;
            let end = size.and_then(|size| start.checked_add(size));
            let end = end.ok_or_else(wrong)?;
            files.0.insert(format!("/{name}"), start..end);
            at = end.checked_next_multiple_of(BLOCK).ok_or_else(wrong)?;
        }
        Ok(files)
    }
}

/// Serves the artifact on 127.0.0.1 until it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    stop: Arc<AtomicBool>,
    url: String,
}

impl Server {
    /// Begins; the guest is to fetch `first`.
    fn start(disk: &Path, files: io::Result<Files>, first: &str) -> Result<Self, HarnessError> {
        let remedy = "check that it is what `slipform build` wrote";
        let files = files.map_err(HarnessError::io("serve", disk, remedy))?;
        let remedy = "allow this user to listen on 127.0.0.1";
        let failed = || HarnessError::io("listen on 127.0.0.1 to serve", disk, remedy);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed())?;
        let port = listener.local_addr().map_err(failed())?.port();
        listener.set_nonblocking(true).map_err(failed())?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let shared = Arc::new((disk.to_owned(), files));
        std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let shared = shared.clone();
                        std::thread::spawn(move || drop(serve(&stream, &shared.0, &shared.1)));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
            }
        });
        let url = format!("http://{HOST}:{port}{first}");
        Ok(Self { stop, url })
    }

    /// What the guest is to fetch.
    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Answers one request: all of a file, or what is said about it.
fn serve(mut stream: &TcpStream, disk: &Path, files: &Files) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.take(REQUEST_MAX)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next(), words.next());
    let method = method.filter(|method| matches!(*method, "GET" | "HEAD"));
    let range = path.and_then(|path| files.0.get(path));
    let (Some(method), Some(range)) = (method, range) else {
        return stream.write_all(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    };
    let mut file = File::open(disk)?;
    file.seek(SeekFrom::Start(range.start))?;
    let length = range.end - range.start;
    stream.write_all(
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\n")
            .as_bytes(),
    )?;
    if method == "GET" {
        io::copy(&mut file.take(length), &mut stream)?;
    }
    Ok(())
}

/// Variable store header behind the volume's, in bytes.
const STORE_HEADER: usize = 28;
/// Header of an authenticated variable, in bytes.
const HEADER: usize = 60;
/// EFI_GLOBAL_VARIABLE, as it lies in memory.
const GLOBAL: [u8; 16] = [
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c,
];

/// Adds a boot option for the URL, which comes first, to a template of variables that has
/// none; `None` if the template is not as EDK II makes them.
///
/// Layout: EDK II, MdeModulePkg/Include/Guid/VariableFormat.h.
pub(super) fn boot_from(variables: &mut [u8], url: &str) -> Option<()> {
    const ACTIVE: u32 = 1;
    const MESSAGING_URI: [u8; 2] = [3, 24];
    const END: [u8; 4] = [0x7f, 0xff, 4, 0];
    let node = u16::try_from(4 + url.len()).ok()?;
    let path = [
        &MESSAGING_URI[..],
        &node.to_le_bytes(),
        url.as_bytes(),
        &END,
    ]
    .concat();
    let option = [
        &ACTIVE.to_le_bytes()[..],
        &u16::try_from(path.len()).ok()?.to_le_bytes(),
        &utf16("HTTP"),
        &path,
    ]
    .concat();
    let length = variables.get(48..50)?;
    let mut at = usize::from(u16::from_le_bytes([length[0], length[1]])) + STORE_HEADER;
    for (name, data) in [("Boot0000", &option[..]), ("BootOrder", &[0, 0])] {
        let variable = variable(name, data)?;
        let place = variables.get_mut(at..at + variable.len())?;
        if place.iter().any(|byte| *byte != 0xff) {
            return None;
        }
        place.copy_from_slice(&variable);
        at = (at + variable.len()).next_multiple_of(4);
    }
    Some(())
}

/// A variable of the firmware's that services at boot and at run time see.
fn variable(name: &str, data: &[u8]) -> Option<Vec<u8>> {
    const START: u16 = 0x55aa;
    const ADDED: u8 = 0x3f;
    const ATTRIBUTES: u32 = 7;
    let name = utf16(name);
    let mut bytes = vec![0; HEADER];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &START.to_le_bytes());
    put(2, &[ADDED]);
    put(4, &ATTRIBUTES.to_le_bytes());
    put(36, &u32::try_from(name.len()).ok()?.to_le_bytes());
    put(40, &u32::try_from(data.len()).ok()?.to_le_bytes());
    put(44, &GLOBAL);
    bytes.extend(name);
    bytes.extend(data);
    Some(bytes)
}

fn utf16(text: &str) -> Vec<u8> {
    let units = text.encode_utf16().chain([0]);
    units.flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_option_goes_into_an_empty_store_and_nowhere_else() {
        let mut empty = vec![0xff; 1024];
        empty[48..50].copy_from_slice(&72u16.to_le_bytes());
        let mut variables = empty.clone();
        boot_from(&mut variables, "http://10.0.2.2:80/disk.img").unwrap();
        assert_eq!(variables[100..104], [0xaa, 0x55, 0x3f, 0]);
        // Boot0000: attributes, length of the path, its name; then the path.
        let data = 100 + HEADER + 2 * 9;
        assert_eq!(variables[data..data + 4], [1, 0, 0, 0]);
        assert_eq!(variables[data + 4..data + 6], [35, 0]);
        assert_eq!(variables[data + 16..data + 20], [3, 24, 31, 0]);
        assert_eq!(variables[data + 20..data + 27], *b"http://");
        // BootOrder follows at a multiple of four.
        let next = (data + 16 + 35_usize).next_multiple_of(4);
        assert_eq!(variables[next..next + 2], [0xaa, 0x55]);
        assert!(boot_from(&mut variables, "http://again").is_none());
        assert!(boot_from(&mut empty[..200], "http://no-room").is_none());
    }

    fn ask(server: &Server, request: &str) -> String {
        let port = server.url().split([':', '/']).nth(4).unwrap();
        let port = port.parse().unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn the_server_gives_the_disk_and_nothing_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"the disk").unwrap();
        let files = Files::whole(file.path());
        let server = Server::start(file.path(), files, DISK).unwrap();
        let ask = |request: &str| ask(&server, request);
        let head = ask("HEAD /disk.img HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(
            head.contains("Content-Length: 8\r\n") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
        assert!(ask("GET /disk.img HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nthe disk"));
        assert!(ask("GET /etc/passwd HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask("POST /disk.img HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn the_members_of_a_tar_are_served_each_by_its_name() {
        let member = |name: &str, content: &[u8]| {
            let mut block = [0; BLOCK as usize];
            block[..name.len()].copy_from_slice(name.as_bytes());
            let size = format!("{:011o}", content.len());
            block[124..135].copy_from_slice(size.as_bytes());
            let mut bytes = [&block[..], content].concat();
            bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
            bytes
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        let tar = [
            member("boot.ipxe", b"#!ipxe"),
            member("layers/a", &[b'x'; 600]),
            vec![0; 1024],
        ];
        std::fs::write(file.path(), tar.concat()).unwrap();
        let files = Files::members(file.path());
        let server = Server::start(file.path(), files, SCRIPT).unwrap();
        assert!(server.url().ends_with(SCRIPT));
        let script = ask(&server, "GET /boot.ipxe HTTP/1.1\r\n\r\n");
        assert!(script.ends_with("\r\n\r\n#!ipxe"), "{script}");
        let layer = ask(&server, "GET /layers/a HTTP/1.1\r\n\r\n");
        let (head, body) = layer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Content-Length: 600"), "{head}");
        assert_eq!(body, "x".repeat(600));
        assert!(ask(&server, "GET /layers HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        std::fs::write(file.path(), [b'x'; 600]).unwrap();
        assert!(Files::members(file.path()).is_err());
    }
}
