//! Just enough of the PE format: headers and section table of an EFI
//! application, and a plan for appending sections.
//!
//! Source: Microsoft, "PE Format", sections "COFF File Header", "Optional
//! Header" and "Section Table (Section Headers)".

/// Headers longer than this are refused.
pub const MAX_HEADERS: usize = 64 * 1024;
/// `IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`.
const READ_ONLY_DATA: u32 = 0x4000_0040;
/// Bytes of one entry of the section table.
const SECTION_HEADER: usize = 40;
/// More sections than the loader of Windows takes, and than any stub has.
const MAX_SECTIONS: u16 = 96;
/// Images are loaded below this; addresses are relative and 32 bits wide.
const MAX_IMAGE: u64 = 1 << 31;

/// Why a file is not a PE image that sections can be appended to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeError {
    /// The file ends inside of its headers.
    #[error("the file ends inside of its headers")]
    Short,
    /// A field with a value that it must not have.
    #[error("{field} is {value:#x}, but {rule}")]
    Field {
        /// Name as in the specification.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What it must hold.
        rule: &'static str,
    },
    /// No room in the headers for more sections.
    #[error("the headers have room for {room} more sections, but {wanted} are needed")]
    Room {
        /// How many fit.
        room: usize,
        /// How many are to be added.
        wanted: usize,
    },
    /// A section that is there already.
    #[error("there is a section {0} already; use a plain systemd-stub")]
    Duplicate(String),
    /// The result would be too large.
    #[error("the image would take {0} bytes in memory; 2 GiB is the limit")]
    TooLarge(u64),
}

/// One entry of the section table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionHeader {
    /// Name, padded with zero bytes.
    pub raw_name: [u8; 8],
    /// Bytes in memory.
    pub virtual_size: u32,
    /// Address relative to the image's start.
    pub virtual_address: u32,
    /// Bytes in the file.
    pub raw_size: u32,
    /// Offset in the file.
    pub raw_offset: u32,
}

impl SectionHeader {
    /// The name without padding.
    #[must_use]
    pub fn name(&self) -> String {
        let end = self.raw_name.iter().position(|b| *b == 0).unwrap_or(8);
        String::from_utf8_lossy(&self.raw_name[..end]).into_owned()
    }
}

/// The headers of a PE32+ image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pe {
    /// The sections, by ascending address.
    pub sections: Vec<SectionHeader>,
    coff: usize,
    optional: usize,
    table: usize,
    file_alignment: u32,
    section_alignment: u32,
    size_of_headers: u32,
    file_length: u64,
}

/// Where appended sections go, and the headers that say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The image's first bytes, as many as its headers, changed.
    pub headers: Vec<u8>,
    /// Offset in the file of each new section; ascending, each behind the one before.
    pub offsets: Vec<u64>,
    /// Length of the file with its last section padded.
    pub file_length: u64,
}

/// Reads little-endian fields; the end of the bytes is an error, never a panic.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], PeError> {
        let end = at.checked_add(N).ok_or(PeError::Short)?;
        let bytes = self.0.get(at..end).ok_or(PeError::Short)?;
        bytes.try_into().map_err(|_| PeError::Short)
    }
    fn u16(&self, at: usize) -> Result<u16, PeError> {
        self.bytes(at).map(u16::from_le_bytes)
    }
    fn u32(&self, at: usize) -> Result<u32, PeError> {
        self.bytes(at).map(u32::from_le_bytes)
    }
}

/// `Err` with the field's name, value and rule unless `holds`.
fn require(
    holds: bool,
    field: &'static str,
    value: impl Into<u64>,
    rule: &'static str,
) -> Result<(), PeError> {
    let value = value.into();
    if holds {
        Ok(())
    } else {
        Err(PeError::Field { field, value, rule })
    }
}

impl Pe {
    /// Reads the headers in `bytes`, the start of a file of `file_length` bytes.
    ///
    /// # Errors
    /// [`PeError`] for whatever is no well-formed, unsigned PE32+ image.
    pub fn parse(bytes: &[u8], file_length: u64) -> Result<Self, PeError> {
        let fields = Fields(bytes);
        require(
            fields.u16(0)? == 0x5a4d,
            "e_magic",
            fields.u16(0)?,
            "must be MZ",
        )?;
        let header = fields.u32(0x3c)?;
        require(header <= 4096, "e_lfanew", header, "must be 4096 at most")?;
        let header = header as usize;
        require(
            fields.u32(header)? == 0x4550,
            "Signature",
            fields.u32(header)?,
            "must be PE",
        )?;
        let coff = header + 4;
        let optional = coff + 20;
        let count = fields.u16(coff + 2)?;
        require(
            (1..=MAX_SECTIONS).contains(&count),
            "NumberOfSections",
            count,
            "must be 1 to 96",
        )?;
        let optional_size = fields.u16(coff + 16)?;
        require(
            optional_size >= 112,
            "SizeOfOptionalHeader",
            optional_size,
            "must be 112 at least",
        )?;
        require(
            fields.u16(optional)? == 0x20b,
            "Magic",
            fields.u16(optional)?,
            "must be 0x20b, PE32+",
        )?;
        let mut pe = Self {
            sections: Vec::new(),
            coff,
            optional,
            table: optional + usize::from(optional_size),
            section_alignment: fields.u32(optional + 32)?,
            file_alignment: fields.u32(optional + 36)?,
            size_of_headers: fields.u32(optional + 60)?,
            file_length,
        };
        pe.check_alignment()?;
        let signed =
            fields.u32(optional + 108)? > 4 && fields.u32(optional + 112 + 4 * 8 + 4)? != 0;
        require(
            !signed,
            "Certificate Table",
            1u8,
            "the image must not be signed yet",
        )?;
        for index in 0..usize::from(count) {
            let section = pe.read_section(&fields, index)?;
            pe.sections.push(section);
        }
        Ok(pe)
    }

    fn check_alignment(&self) -> Result<(), PeError> {
        let Self {
            file_alignment,
            section_alignment,
            size_of_headers,
            ..
        } = *self;
        let file_ok = file_alignment.is_power_of_two() && (16..=65536).contains(&file_alignment);
        require(
            file_ok,
            "FileAlignment",
            file_alignment,
            "must be a power of two from 16 to 65536",
        )?;
        let section_ok = section_alignment.is_power_of_two()
            && (file_alignment..=1 << 21).contains(&section_alignment);
        require(
            section_ok,
            "SectionAlignment",
            section_alignment,
            "must be a power of two, FileAlignment or more, 2 MiB at most",
        )?;
        let headers_ok = size_of_headers as usize <= MAX_HEADERS
            && u64::from(size_of_headers) <= self.file_length;
        require(
            headers_ok,
            "SizeOfHeaders",
            size_of_headers,
            "must lie inside of the file and be 64 KiB at most",
        )
    }

    fn read_section(&self, fields: &Fields<'_>, index: usize) -> Result<SectionHeader, PeError> {
        let at = self.table + index * SECTION_HEADER;
        require(
            at + SECTION_HEADER <= self.size_of_headers as usize,
            "SizeOfHeaders",
            self.size_of_headers,
            "must cover the section table",
        )?;
        let section = SectionHeader {
            raw_name: fields.bytes(at)?,
            virtual_size: fields.u32(at + 8)?,
            virtual_address: fields.u32(at + 12)?,
            raw_size: fields.u32(at + 16)?,
            raw_offset: fields.u32(at + 20)?,
        };
        let end = u64::from(section.raw_offset) + u64::from(section.raw_size);
        let inside = section.raw_size == 0 || end <= self.file_length;
        require(
            inside,
            "PointerToRawData",
            section.raw_offset,
            "the section must lie inside of the file",
        )?;
        let floor = self.sections.last().map_or_else(
            || u64::from(self.size_of_headers),
            SectionHeader::memory_end,
        );
        let above =
            u64::from(section.virtual_address) >= floor && section.memory_end() <= MAX_IMAGE;
        require(
            above,
            "VirtualAddress",
            section.virtual_address,
            "sections must follow one another below 2 GiB",
        )?;
        Ok(section)
    }

    /// Plans to append sections with these names and lengths. `headers` are
    /// the same bytes that [`Pe::parse`] read, at least `SizeOfHeaders` of them.
    ///
    /// # Errors
    /// [`PeError`] when the headers have no room, a name is taken or too long,
    /// or the image gets too large.
    pub fn append(&self, headers: &[u8], sections: &[(&str, u64)]) -> Result<Plan, PeError> {
        let mut headers = headers
            .get(..self.size_of_headers as usize)
            .ok_or(PeError::Short)?
            .to_vec();
        let used = self.table + self.sections.len() * SECTION_HEADER;
        let room = (headers.len() - used) / SECTION_HEADER;
        let total = self.sections.len() + sections.len();
        if sections.len() > room || total > usize::from(MAX_SECTIONS) {
            return Err(PeError::Room {
                room,
                wanted: sections.len(),
            });
        }
        let mut address = self.sections.last().map_or(0, SectionHeader::memory_end);
        let mut offset = self.file_length;
        let mut initialized = 0;
        let mut plan = Plan {
            headers: Vec::new(),
            offsets: Vec::new(),
            file_length: 0,
        };
        for (index, (name, size)) in sections.iter().enumerate() {
            if self.sections.iter().any(|section| section.name() == *name) {
                return Err(PeError::Duplicate((*name).to_owned()));
            }
            require(
                name.len() <= 8,
                "Name",
                name.len() as u64,
                "must have 8 bytes at most",
            )?;
            address = address.next_multiple_of(u64::from(self.section_alignment));
            offset = offset.next_multiple_of(u64::from(self.file_alignment));
            let raw_size = size.next_multiple_of(u64::from(self.file_alignment));
            let limit = |value: u64| match u32::try_from(value) {
                Ok(fits) if value <= MAX_IMAGE => Ok(fits),
                _ => Err(PeError::TooLarge(value)),
            };
            limit(address + size)?;
            let at = used + index * SECTION_HEADER;
            let entry = &mut headers[at..at + SECTION_HEADER];
            entry.fill(0);
            entry[..name.len()].copy_from_slice(name.as_bytes());
            entry[8..12].copy_from_slice(&limit(*size)?.to_le_bytes());
            entry[12..16].copy_from_slice(&limit(address)?.to_le_bytes());
            entry[16..20].copy_from_slice(&limit(raw_size)?.to_le_bytes());
            entry[20..24].copy_from_slice(&limit(offset)?.to_le_bytes());
            entry[36..40].copy_from_slice(&READ_ONLY_DATA.to_le_bytes());
            plan.offsets.push(offset);
            address += size;
            offset += raw_size;
            initialized += raw_size;
        }
        let image = address.next_multiple_of(u64::from(self.section_alignment));
        if image > MAX_IMAGE || offset > MAX_IMAGE {
            return Err(PeError::TooLarge(image.max(offset)));
        }
        self.patch(&mut headers, total as u16, image as u32, initialized as u32)?;
        plan.headers = headers;
        plan.file_length = offset;
        Ok(plan)
    }

    /// Sets what depends on all sections: their number, the size in memory, the
    /// size of initialised data, and a checksum of zero ("not computed": firmware
    /// checks none, and a signing tool writes its own).
    fn patch(&self, headers: &mut [u8], count: u16, image: u32, added: u32) -> Result<(), PeError> {
        let initialized = Fields(headers).u32(self.optional + 8)?.wrapping_add(added);
        let mut put =
            |at: usize, bytes: &[u8]| headers[at..at + bytes.len()].copy_from_slice(bytes);
        put(self.coff + 2, &count.to_le_bytes());
        put(self.optional + 8, &initialized.to_le_bytes());
        put(self.optional + 56, &image.to_le_bytes());
        put(self.optional + 64, &0u32.to_le_bytes());
        Ok(())
    }
}

impl SectionHeader {
    /// First address behind the section in memory.
    fn memory_end(&self) -> u64 {
        u64::from(self.virtual_address) + u64::from(self.virtual_size.max(self.raw_size))
    }
}
