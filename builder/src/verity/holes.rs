//! Where a sparse file has data.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// The first range of data of `file` in `within`, or `None` when the rest is a
/// hole. File systems that know no holes are all data. The file's own position moves.
pub(crate) fn next_data(file: &File, within: Range<u64>) -> io::Result<Option<Range<u64>>> {
    if within.is_empty() {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(within.start)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(within)),
        Err(error) => return Err(error.into()),
    };
    if start >= within.end {
        return Ok(None);
    }
    let end = seek(file, SeekFrom::Hole(start)).map_err(io::Error::from)?;
    Ok(Some(start..end.min(within.end)))
}
