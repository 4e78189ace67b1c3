//! What a machine starts from over the network: a tar of what a web server gives it, with
//! a script for iPXE.
//!
//! Source: iPXE, "Scripting" and "initrd"; Linux, Documentation/driver-api/early-userspace/
//! buffer-format.rst (archives behind the initrd are unpacked beside it).
//!
//! ```text
//! | disk.json | boot.ipxe | vmlinuz | initrd | layers/GUID.cpio ... | rest |
//! ```
//!
//! Kernel and initrd are sections of the unified kernel image, and each layer lies in an
//! archive of its own, named by the beginning of its root hash: what did not change keeps
//! its name and its bytes. Nothing is there twice, for `rest` holds what else the disk has,
//! and `disk.json` where everything belongs: the archive is the disk, too.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::blocks::{Job, is_zero, unfit};
use super::ova::{BLOCK, header};
use super::reading::{
    BlockReader, Blocks, MAX_SIZE, Run, fill_at, fill_runs, invalid, read_at, require,
};
use crate::disk::{Window, esp, gpt};
use crate::filesystem::Initrd;
use crate::store::fault;
use crate::uki::{self, Section, SectionRange};

/// The first member, by which such a file is known.
pub(super) const MAP: &str = "disk.json";
const SCRIPT: &str = "boot.ipxe";
const KERNEL: &str = "vmlinuz";
const INITRD: &str = "initrd";
const REST: &str = "rest";
const LAYERS: &str = "layers";
/// Where init looks for layers in the initrd.
const CARRIED: &str = "carried";
/// Longest map.
const MAX_MAP: u64 = 16 << 20;
/// Most members that are read.
const MAX_MEMBERS: usize = 1000;
/// Longest command line, that of Linux on x86.
const MAX_CMDLINE: u64 = 2048;
/// An archive's file is shorter: its length has 32 bits.
const MAX_LAYER: u64 = u32::MAX as u64;
/// What ends an archive: a header with its name, in whole words.
const TRAILER: u64 = 124;
/// What is zero is found in such pieces.
const GRAIN: u64 = 4096;
/// Bytes that are read at a time.
const CHUNK: u64 = 1 << 20;

/// Where a disk's bytes are in the archive.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Map {
    version: u32,
    size: u64,
    sector_size: u32,
    pieces: Vec<Piece>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Piece {
    /// First byte on the disk.
    start: u64,
    length: u64,
    /// Where it lies, and behind how many bytes of that.
    member: String,
    offset: u64,
}

/// A member that is a part of the disk.
struct Part {
    name: String,
    range: Range<u64>,
    /// A layer's path in the initrd: it is wrapped in an archive.
    path: Option<String>,
}

impl Part {
    fn plain(name: &str, range: Range<u64>) -> Self {
        Self {
            name: name.to_owned(),
            range,
            path: None,
        }
    }

    const fn length(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Bytes of the member before the disk's own, and of all of it.
    fn frame(&self) -> io::Result<(u64, u64)> {
        let Some(path) = &self.path else {
            return Ok((0, self.length()));
        };
        // A header's length does not depend on what it says.
        let mut before = Vec::new();
        Initrd::new(&mut before)
            .file(path, 0o444, &[])
            .map_err(io::Error::other)?;
        let before = before.len() as u64;
        let all = (before + self.length()).next_multiple_of(4) + TRAILER;
        Ok((before, all.next_multiple_of(BLOCK)))
    }
}

/// Writes the disk to `file`.
pub(super) fn write(job: &mut Job<'_>, file: &File) -> io::Result<()> {
    let (parts, cmdline) = parts(job)?;
    let mut known: Vec<_> = parts.iter().map(|part| part.range.clone()).collect();
    known.sort_by_key(|range| range.start);
    let rest = rest(job, &known)?;
    let map = map(job, &parts, &rest)?;
    let script = script(&parts, &cmdline);

    let all: u64 = known.iter().chain(&rest).map(|r| r.end - r.start).sum();
    let task = job.progress.begin(&job.name, Some(all));
    let mut out = BufWriter::with_capacity(CHUNK as usize, file);
    for (name, bytes) in [(MAP, &map[..]), (SCRIPT, script.as_bytes())] {
        out.write_all(&header(name, bytes.len() as u64)?)?;
        out.write_all(bytes)?;
        pad(&mut out, bytes.len() as u64)?;
    }
    for part in &parts {
        fault::point();
        let (_, length) = part.frame()?;
        out.write_all(&header(&part.name, length)?)?;
        job.disk.seek(SeekFrom::Start(part.range.start))?;
        let mut content = job.disk.by_ref().take(part.length());
        match &part.path {
            None => {
                io::copy(&mut content, &mut out)?;
            }
            Some(path) => {
                let mut archive = Initrd::new(&mut out);
                archive
                    .file_from(path, 0o444, part.length(), &mut content)
                    .map_err(io::Error::other)?;
                archive.finish().map_err(io::Error::other)?;
            }
        }
        pad(&mut out, length)?;
        task.advance(part.length());
    }
    let length = rest.iter().map(|range| range.end - range.start).sum();
    out.write_all(&header(REST, length)?)?;
    for range in &rest {
        job.disk.seek(SeekFrom::Start(range.start))?;
        io::copy(
            &mut job.disk.by_ref().take(range.end - range.start),
            &mut out,
        )?;
    }
    pad(&mut out, length)?;
    task.advance(length);
    // Two empty blocks end the archive.
    out.write_all(&[0; 2 * BLOCK as usize])?;
    out.flush()
}

/// Fills the last block.
fn pad(out: &mut impl Write, length: u64) -> io::Result<()> {
    let missing = length.next_multiple_of(BLOCK) - length;
    out.write_all(&[0; BLOCK as usize][..missing as usize])
}

/// Kernel, initrd and layers, and the kernel's command line.
fn parts(job: &mut Job<'_>) -> io::Result<(Vec<Part>, String)> {
    let Some(table) = gpt::read(&mut job.disk)? else {
        return Err(lacks("partition table"));
    };
    let sector = u64::from(table.sector_size);
    let place = |partition: &gpt::Partition| {
        partition.first_lba * sector..(partition.last_lba + 1) * sector
    };
    let of_kind = |kind| table.partitions.iter().filter(move |p| p.type_guid == kind);
    let esp = of_kind(gpt::ESP_TYPE).next().map(place);
    let esp = esp.ok_or_else(|| lacks("EFI system partition"))?;
    let mut volume = Window::new(&mut job.disk, esp.start, esp.end - esp.start);
    let found = esp::find_boot_file(&mut volume)?;
    let (_, offset, size) = found.ok_or_else(|| lacks("unified kernel image"))?;
    let start = esp.start + offset;
    let mut file = Window::new(&mut job.disk, start, size);
    let sections = uki::read(&mut file)?;
    let section = |kind: Section| -> io::Result<&SectionRange> {
        let name = kind.name();
        let found = sections.iter().find(|section| section.name == name);
        let found = found.filter(|s| s.offset.saturating_add(s.size) <= size);
        found.ok_or_else(|| lacks(&format!("section {name} in its kernel image")))
    };
    let range =
        |section: &SectionRange| start + section.offset..start + section.offset + section.size;
    let mut parts = vec![
        Part::plain(KERNEL, range(section(Section::Linux)?)),
        Part::plain(INITRD, range(section(Section::Initrd)?)),
    ];
    let line = section(Section::Cmdline)?;
    let bytes = read_at(&mut file, line.offset, line.size.min(MAX_CMDLINE))?;
    let cmdline = one_line(&bytes)?;
    for partition in of_kind(gpt::LAYER_TYPE) {
        let guid = partition.guid.simple();
        let name = format!("{LAYERS}/{guid}.cpio");
        let range = place(partition);
        if range.end - range.start > MAX_LAYER {
            return Err(unfit(format!(
                "netboot takes layers below 4 GiB, and '{}' has {} bytes; divide it",
                partition.name,
                range.end - range.start
            )));
        }
        // Of two layers with the same content one is enough.
        if parts.iter().all(|part| part.name != name) {
            parts.push(Part {
                name,
                range,
                path: Some(format!("{CARRIED}/{guid}")),
            });
        }
    }
    let mut sorted: Vec<&Part> = parts.iter().collect();
    sorted.sort_by_key(|part| part.range.start);
    if sorted
        .windows(2)
        .any(|two| two[0].range.end > two[1].range.start)
    {
        return Err(lacks("order: its parts overlap"));
    }
    Ok((parts, cmdline))
}

fn lacks(what: &str) -> io::Error {
    unfit(format!(
        "netboot is made of a disk's kernel image and layers, and this disk has no {what}; build it with slipform"
    ))
}

/// The command line, which must be one that a script can say.
fn one_line(bytes: &[u8]) -> io::Result<String> {
    let line = String::from_utf8_lossy(bytes);
    let line = line.trim_end_matches(['\0', '\n', ' ']);
    let plain = line.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    if !plain
        || ["${", "||", "&&", " ;"]
            .iter()
            .any(|special| line.contains(special))
    {
        return Err(unfit(format!(
            "netboot's script cannot say the kernel command line {line:?}: only plain ASCII, no ${{, ||, && or a ; of its own; change [kernel] cmdline"
        )));
    }
    Ok(line.to_owned())
}

/// What lies between `known`, in order, and is not zero.
fn rest(job: &mut Job<'_>, known: &[Range<u64>]) -> io::Result<Vec<Range<u64>>> {
    let mut rest: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    for next in known
        .iter()
        .cloned()
        .chain(std::iter::once(job.size..job.size))
    {
        while at < next.start
            && let Some(data) = job.disk.data(at..next.start)?
        {
            // Where holes begin depends on the file system: whole grains do not.
            let start = (data.start - data.start % GRAIN).max(at);
            let end = (start - start % CHUNK + CHUNK).min(next.start);
            let bytes = read_at(&mut job.disk, start, end - start)?;
            let mut from = start;
            while from < end {
                let to = (from - from % GRAIN + GRAIN).min(end);
                if !is_zero(&bytes[(from - start) as usize..(to - start) as usize]) {
                    match rest.last_mut() {
                        Some(last) if last.end == from => last.end = to,
                        _ => rest.push(from..to),
                    }
                }
                from = to;
            }
            at = end;
        }
        at = next.end;
    }
    Ok(rest)
}

fn map(job: &Job<'_>, parts: &[Part], rest: &[Range<u64>]) -> io::Result<Vec<u8>> {
    let mut pieces = Vec::new();
    for part in parts {
        pieces.push(Piece {
            start: part.range.start,
            length: part.length(),
            member: part.name.clone(),
            offset: part.frame()?.0,
        });
    }
    let mut offset = 0;
    for range in rest {
        let length = range.end - range.start;
        pieces.push(Piece {
            start: range.start,
            length,
            member: REST.to_owned(),
            offset,
        });
        offset += length;
    }
    pieces.sort_by_key(|piece| piece.start);
    let map = Map {
        version: 1,
        size: job.size,
        sector_size: job.sector_size,
        pieces,
    };
    let mut json = serde_json::to_vec(&map).map_err(io::Error::other)?;
    json.push(b'\n');
    if json.len() as u64 > MAX_MAP {
        return Err(unfit(format!(
            "netboot's list of what lies where would have {} bytes, and takes {MAX_MAP}; build the disk with slipform",
            json.len()
        )));
    }
    Ok(json)
}

/// What iPXE does. Firmware with an EFI stub's kernel finds archives by name, all else in
/// their order.
fn script(parts: &[Part], cmdline: &str) -> String {
    let layers = parts.iter().filter(|part| part.path.is_some());
    let mut names = format!(" initrd={INITRD}");
    let mut loads = format!("initrd --name {INITRD} {INITRD}\n");
    for (index, part) in layers.enumerate() {
        names.push_str(&format!(" initrd=layer{index}"));
        loads.push_str(&format!("initrd --name layer{index} {}\n", part.name));
    }
    format!("#!ipxe\nkernel {KERNEL}{names} {cmdline}\n{loads}boot\n")
}

/// The disk in an archive.
#[derive(Debug)]
pub struct Members<R> {
    file: R,
    size: u64,
    runs: Vec<Run>,
}

/// The disk in an archive, as a file of its full size.
pub type NetbootReader<R> = BlockReader<Members<R>>;

impl<R: Read + Seek> NetbootReader<R> {
    /// Opens the disk in `file`.
    ///
    /// # Errors
    /// [`io::Error`] of the file, or of kind `InvalidData` with what is wrong.
    pub fn open(mut file: R) -> io::Result<Self> {
        let members = members(&mut file)?;
        let Some((_, place)) = members.first().filter(|(name, _)| name == MAP) else {
            return Err(invalid(format!("its first member is not {MAP}")));
        };
        let length = place.end - place.start;
        require(length <= MAX_MAP, MAP, length, "16 MiB at most")?;
        let json = read_at(&mut file, place.start, length)?;
        let map: Map = serde_json::from_slice(&json)
            .map_err(|error| invalid(format!("{MAP} is wrong: {error}")))?;
        require(map.version == 1, "version", map.version.into(), "1")?;
        require(
            map.size <= MAX_SIZE,
            "size",
            map.size,
            "an exbibyte at most",
        )?;
        let mut runs: Vec<Run> = Vec::new();
        for piece in &map.pieces {
            let place = members.iter().find(|(name, _)| *name == piece.member);
            let Some((_, place)) = place else {
                return Err(invalid(format!("there is no member {:?}", piece.member)));
            };
            let ends = |start: u64, limit: u64| {
                start
                    .checked_add(piece.length)
                    .is_some_and(|end| end <= limit)
            };
            let floor = runs.last().map_or(0, |last| last.start + last.length);
            require(
                piece.start >= floor && ends(piece.start, map.size),
                "start",
                piece.start,
                "behind the last piece and in the disk",
            )?;
            require(
                ends(piece.offset, place.end - place.start),
                "offset",
                piece.offset,
                "in its member",
            )?;
            runs.push(Run {
                start: piece.start,
                length: piece.length,
                from: place.start + piece.offset,
            });
        }
        Ok(Self::new(Members {
            file,
            size: map.size,
            runs,
        }))
    }
}

/// Names of the members, and where they lie.
fn members<R: Read + Seek>(file: &mut R) -> io::Result<Vec<(String, Range<u64>)>> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut members = Vec::new();
    let mut at = 0;
    while at < end {
        let bytes = read_at(file, at, BLOCK)?;
        if is_zero(&bytes) {
            break;
        }
        let header = tar::Header::from_byte_slice(&bytes);
        let start = at + BLOCK;
        let stop = start
            .checked_add(header.size()?)
            .filter(|stop| *stop <= end);
        let stop = stop.ok_or_else(|| invalid("a member leaves the archive".to_owned()))?;
        require(
            members.len() < MAX_MEMBERS,
            "the number of members",
            members.len() as u64 + 1,
            "1000 at most",
        )?;
        let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        members.push((name, start..stop));
        at = stop.next_multiple_of(BLOCK);
    }
    Ok(members)
}

impl<R: Read + Seek> Blocks for Members<R> {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u64 {
        CHUNK
    }

    fn fill(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let Self { file, runs, .. } = self;
        fill_runs(runs, at, buffer, |from, part| fill_at(file, from, part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layers_frame_is_the_archives() {
        for length in [0u64, 1, 511, 4096, 70_001] {
            let part = Part {
                name: "layers/ab.cpio".to_owned(),
                range: 10..10 + length,
                path: Some("carried/ab".to_owned()),
            };
            let content = vec![7; length as usize];
            let mut archive = Initrd::new(Vec::new());
            archive.file("carried/ab", 0o444, &content).unwrap();
            let bytes = archive.finish().unwrap();
            let (before, all) = part.frame().unwrap();
            assert_eq!(all, bytes.len() as u64, "{length}");
            let found = &bytes[before as usize..][..length as usize];
            assert!(found == content, "{length}");
        }
    }

    #[test]
    fn a_script_says_the_command_line_or_refuses_it() {
        let layer = |name: &str| Part {
            name: format!("layers/{name}.cpio"),
            range: 0..1,
            path: Some(format!("carried/{name}")),
        };
        let parts = [
            Part::plain(KERNEL, 0..1),
            Part::plain(INITRD, 0..1),
            layer("ab"),
            layer("cd"),
        ];
        assert_eq!(
            script(&parts, "console=ttyS0 quiet"),
            "#!ipxe\nkernel vmlinuz initrd=initrd initrd=layer0 initrd=layer1 console=ttyS0 quiet\n\
             initrd --name initrd initrd\ninitrd --name layer0 layers/ab.cpio\n\
             initrd --name layer1 layers/cd.cpio\nboot\n"
        );
        assert_eq!(one_line(b"a=b c\n\0").unwrap(), "a=b c");
        for bad in ["a ${x}", "a || b", "a && b", "a ; b", "a\nb", "\u{e4}"] {
            assert!(one_line(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
