//! OVA: a tar with an OVF descriptor, a streamOptimized VMDK and a manifest of
//! their digests.
//!
//! Source: DMTF DSP0243 1.1.0, sections 5 to 7. The descriptor must come first but
//! names the disk's length: its place is kept free, and it is written last.
//!
//! ```text
//! | NAME.ovf | NAME-disk1.vmdk | NAME.mf |
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use super::blocks::Job;
use super::ovf::{self, Appliance};
use super::reading::{BlockReader, Piece, Slice, be32, invalid, read_at};
use super::vmdk_reader::VmdkReader;
use super::vmdk_stream;
use crate::base::{Digest, DigestWriter};
use crate::store::fault;

/// Bytes of a tar block.
pub(super) const BLOCK: u64 = 512;
/// Members that are passed over in search of the disk.
const MAX_MEMBERS: usize = 100;
/// Longest name of an appliance: its members' names must fit into a tar header.
const MAX_NAME: usize = 80;

/// Writes the disk to `file`.
pub(super) fn write(job: &mut Job<'_>, file: &File) -> io::Result<()> {
    let stem = job.name.strip_suffix(".ova").unwrap_or(&job.name);
    let stem: String = stem
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(MAX_NAME)
        .collect();
    let disk_name = format!("{stem}-disk1.vmdk");
    let ovf_name = format!("{stem}.ovf");
    let mut appliance = Appliance {
        name: &stem,
        disk: &disk_name,
        capacity: job.size,
        disk_bytes: 0,
    };
    let length = ovf::descriptor(&appliance).len() as u64;
    let start = BLOCK + length.next_multiple_of(BLOCK);
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.seek(SeekFrom::Start(start + BLOCK))?;
    job.name.clone_from(&disk_name);
    let mut hashed = DigestWriter::new(&mut out);
    appliance.disk_bytes = vmdk_stream::stream(job, &mut hashed)?;
    let (disk_digest, _) = hashed.finish();
    let ovf = ovf::descriptor(&appliance);
    let manifest = format!(
        "SHA256({ovf_name})= {}\nSHA256({disk_name})= {}\n",
        Digest::of(&ovf).hex(),
        disk_digest.hex()
    );
    let padding = |length: usize| vec![0; length.next_multiple_of(BLOCK as usize) - length];
    out.write_all(&padding(appliance.disk_bytes as usize))?;
    out.write_all(&header(&format!("{stem}.mf"), manifest.len() as u64)?)?;
    out.write_all(manifest.as_bytes())?;
    out.write_all(&padding(manifest.len()))?;
    // Two empty blocks end the archive.
    out.write_all(&[0; 2 * BLOCK as usize])?;
    out.flush()?;
    file.write_all_at(&header(&disk_name, appliance.disk_bytes)?, start)?;
    file.write_all_at(ovf.as_bytes(), BLOCK)?;
    fault::point();
    file.write_all_at(&header(&ovf_name, ovf.len() as u64)?, 0)
}

/// The header of a member: mode 0644, of root, made at the epoch.
pub(super) fn header(name: &str, size: u64) -> io::Result<[u8; BLOCK as usize]> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// Opens the first disk in the archive `file`, as a file of its full size.
///
/// # Errors
/// [`io::Error`] of the file, or of kind `InvalidData` with what is wrong.
pub fn open_ova<R: Read + Seek>(mut file: R) -> io::Result<VmdkReader<BlockReader<Piece<R>>>> {
    let mut at = 0u64;
    for _ in 0..MAX_MEMBERS {
        let bytes = read_at(&mut file, at, BLOCK)?;
        let header = tar::Header::from_byte_slice(&bytes);
        if be32(&bytes, 0) == 0 {
            break;
        }
        let size = header.size()?;
        let path = header.path_bytes();
        if path.ends_with(b".vmdk") && header.entry_type().is_file() {
            let end = file.seek(SeekFrom::End(0))?;
            if (at + BLOCK).checked_add(size).is_none_or(|last| last > end) {
                return Err(invalid(format!(
                    "a disk of {size} bytes leaves the archive"
                )));
            }
            return VmdkReader::open(Slice::part(file, at + BLOCK, size));
        }
        let next = size.checked_next_multiple_of(BLOCK);
        at = next
            .and_then(|size| at.checked_add(BLOCK)?.checked_add(size))
            .ok_or_else(|| invalid(format!("a member of {size} bytes leaves the archive")))?;
    }
    Err(invalid("it has no member that ends with .vmdk".to_owned()))
}
