//! Device mapper: the three ioctls that make a read-only mapped device.
//!
//! Layouts and numbers: `include/uapi/linux/dm-ioctl.h`, interface version 4.
//! Every request is a `struct dm_ioctl`, and for a table a `struct dm_target_spec`
//! with its parameter text behind it. Buffers are built as plain bytes, so that
//! tests can look at them.

use std::fs::File;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd;

use super::check;

const DM_NAME_LEN: usize = 128;
const DM_UUID_LEN: usize = 129;
const TARGET_TYPE_LEN: usize = 16;

#[repr(C)]
struct DmIoctl {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; DM_NAME_LEN],
    uuid: [u8; DM_UUID_LEN],
    data: [u8; 7],
}

#[repr(C)]
struct DmTargetSpec {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; TARGET_TYPE_LEN],
}

const _: () = assert!(size_of::<DmIoctl>() == 312);
const _: () = assert!(offset_of!(DmIoctl, dev) == 40);
const _: () = assert!(offset_of!(DmIoctl, name) == 48);
const _: () = assert!(offset_of!(DmIoctl, uuid) == 176);
const _: () = assert!(size_of::<DmTargetSpec>() == 40);
const _: () = assert!(offset_of!(DmTargetSpec, target_type) == 24);

const HEADER: usize = size_of::<DmIoctl>();
const SPEC: usize = size_of::<DmTargetSpec>();

const READ_ONLY: u32 = 1;

/// The commands of this interface that init uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    DevCreate = 3,
    DevRemove = 4,
    DevSuspend = 6,
    TableLoad = 9,
}

impl Command {
    /// `_IOWR(DM_IOCTL, command, struct dm_ioctl)`.
    const fn request(self) -> libc::Ioctl {
        const READ_WRITE: u32 = 3;
        const DM_IOCTL: u32 = 0xfd;
        let number = (READ_WRITE << 30) | ((HEADER as u32) << 16) | (DM_IOCTL << 8) | self as u32;
        // musl takes an int, and the kernel looks at its 32 bits only.
        number as libc::Ioctl
    }
}

/// A device of one target.
#[derive(Debug)]
pub(crate) struct Device<'a> {
    /// Unique name below 128 bytes.
    pub(crate) name: &'a str,
    /// Unique id below 129 bytes.
    pub(crate) uuid: &'a str,
    /// Length in sectors of 512 bytes.
    pub(crate) sectors: u64,
    /// Target type below 16 bytes, such as `verity`.
    pub(crate) target: &'a str,
    /// The target's parameters.
    pub(crate) parameters: &'a str,
}

/// The open control device.
#[derive(Debug)]
pub(crate) struct Control {
    file: File,
}

impl Control {
    /// Opens `/dev/mapper/control`.
    pub(crate) fn open() -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .open("/dev/mapper/control")?;
        Ok(Self { file })
    }

    /// Makes a read-only device of one target and returns its minor number
    /// (`/dev/dm-N`). A device that cannot get its table is removed again.
    pub(crate) fn create(&self, device: &Device<'_>) -> io::Result<u32> {
        let mut buffer = request(device.name, Some(device.uuid), 0, &[])?;
        self.call(Command::DevCreate, &mut buffer)?;
        let minor = minor(&buffer);
        self.load(device).inspect_err(|_| {
            if let Ok(mut remove) = request(device.name, None, 0, &[]) {
                let _ = self.call(Command::DevRemove, &mut remove);
            }
        })?;
        Ok(minor)
    }

    fn load(&self, device: &Device<'_>) -> io::Result<()> {
        let mut buffer = request(device.name, None, READ_ONLY, &table(device)?)?;
        self.call(Command::TableLoad, &mut buffer)?;
        // "Suspend" without the suspend flag resumes: the loaded table becomes the live one.
        let mut buffer = request(device.name, None, READ_ONLY, &[])?;
        self.call(Command::DevSuspend, &mut buffer)
    }

    fn call(&self, command: Command, buffer: &mut [u8]) -> io::Result<()> {
        // SAFETY: `buffer` starts with a complete dm_ioctl whose data_size is the
        // buffer's own length, so the kernel reads and writes inside of it only.
        check(unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                command.request(),
                buffer.as_mut_ptr(),
            )
        })?;
        Ok(())
    }
}

fn put(buffer: &mut [u8], offset: usize, bytes: &[u8]) {
    buffer[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn bounded(text: &str, limit: usize, what: &str) -> io::Result<()> {
    // The field holds a terminating zero as well.
    if text.is_empty() || text.len() >= limit || text.contains('\0') {
        let why = format!(
            "device mapper {what} {text:?} must have 1 to {} bytes",
            limit - 1
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Ok(())
}

/// A `dm_ioctl` for the named device, with `payload` behind it.
fn request(name: &str, uuid: Option<&str>, flags: u32, payload: &[u8]) -> io::Result<Vec<u8>> {
    bounded(name, DM_NAME_LEN, "name")?;
    let size = HEADER + payload.len();
    let mut buffer = vec![0; size];
    let size = u32::try_from(size).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    put(
        &mut buffer,
        offset_of!(DmIoctl, version),
        &4u32.to_ne_bytes(),
    );
    put(
        &mut buffer,
        offset_of!(DmIoctl, data_size),
        &size.to_ne_bytes(),
    );
    put(
        &mut buffer,
        offset_of!(DmIoctl, data_start),
        &(HEADER as u32).to_ne_bytes(),
    );
    put(
        &mut buffer,
        offset_of!(DmIoctl, target_count),
        &u32::from(!payload.is_empty()).to_ne_bytes(),
    );
    put(
        &mut buffer,
        offset_of!(DmIoctl, flags),
        &flags.to_ne_bytes(),
    );
    put(&mut buffer, offset_of!(DmIoctl, name), name.as_bytes());
    if let Some(uuid) = uuid {
        bounded(uuid, DM_UUID_LEN, "uuid")?;
        put(&mut buffer, offset_of!(DmIoctl, uuid), uuid.as_bytes());
    }
    put(&mut buffer, HEADER, payload);
    Ok(buffer)
}

/// One `dm_target_spec` over the whole device, its parameters behind it,
/// terminated and padded to 8 bytes.
fn table(device: &Device<'_>) -> io::Result<Vec<u8>> {
    bounded(device.target, TARGET_TYPE_LEN, "target type")?;
    bounded(device.parameters, 4096, "parameter text")?;
    let mut buffer = vec![0; (SPEC + device.parameters.len() + 1).next_multiple_of(8)];
    let next = buffer.len() as u32;
    put(
        &mut buffer,
        offset_of!(DmTargetSpec, length),
        &device.sectors.to_ne_bytes(),
    );
    put(
        &mut buffer,
        offset_of!(DmTargetSpec, next),
        &next.to_ne_bytes(),
    );
    put(
        &mut buffer,
        offset_of!(DmTargetSpec, target_type),
        device.target.as_bytes(),
    );
    put(&mut buffer, SPEC, device.parameters.as_bytes());
    Ok(buffer)
}

/// The minor number out of an answer (`huge_encode_dev`, as `new_encode_dev`).
fn minor(answer: &[u8]) -> u32 {
    let at = offset_of!(DmIoctl, dev);
    let mut dev = [0; 8];
    dev.copy_from_slice(&answer[at..at + 8]);
    let dev = u64::from_ne_bytes(dev);
    ((dev & 0xff) | ((dev >> 12) & 0xf_ff00)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_numbers_are_those_of_the_kernel() {
        assert_eq!(Command::DevCreate.request(), 0xc138_fd03);
        assert_eq!(Command::DevRemove.request(), 0xc138_fd04);
        assert_eq!(Command::DevSuspend.request(), 0xc138_fd06);
        assert_eq!(Command::TableLoad.request(), 0xc138_fd09);
    }

    #[test]
    fn a_table_load_holds_header_target_and_parameters() {
        let device = Device {
            name: "slipform-0",
            uuid: "SLIPFORM-0",
            sectors: 4096,
            target: "verity",
            parameters: "1 8:1 8:1 4096 4096 512 513 sha256 aa bb",
        };
        let payload = table(&device).unwrap();
        assert_eq!(payload.len() % 8, 0);
        let buffer = request(device.name, None, READ_ONLY, &payload).unwrap();
        assert_eq!(buffer.len(), 312 + payload.len());
        assert_eq!(buffer[..4], 4u32.to_ne_bytes());
        assert_eq!(buffer[12..16], (buffer.len() as u32).to_ne_bytes());
        assert_eq!(buffer[16..20], 312u32.to_ne_bytes());
        assert_eq!(buffer[20..24], 1u32.to_ne_bytes());
        assert_eq!(buffer[28..32], READ_ONLY.to_ne_bytes());
        assert_eq!(&buffer[48..59], b"slipform-0\0");
        let target = &buffer[312..];
        assert_eq!(target[8..16], 4096u64.to_ne_bytes());
        assert_eq!(target[20..24], (payload.len() as u32).to_ne_bytes());
        assert_eq!(&target[24..31], b"verity\0");
        assert_eq!(&target[40..42], b"1 ");
        assert_eq!(payload[SPEC + device.parameters.len()], 0);
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        assert!(request(&"n".repeat(127), None, 0, &[]).is_ok());
        assert!(request(&"n".repeat(128), None, 0, &[]).is_err());
        assert!(request("", None, 0, &[]).is_err());
        assert!(request("a\0b", None, 0, &[]).is_err());
        assert!(request("n", Some(&"u".repeat(129)), 0, &[]).is_err());
    }

    #[test]
    fn minor_numbers_are_decoded() {
        for (dev, expected) in [
            (253_u64 << 8, 0),
            ((253 << 8) | 7, 7),
            ((253 << 8) | (1 << 20) | 2, 258),
        ] {
            let mut answer = vec![0; HEADER];
            put(&mut answer, offset_of!(DmIoctl, dev), &dev.to_ne_bytes());
            assert_eq!(minor(&answer), expected);
        }
    }
}
