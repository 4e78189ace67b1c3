//! What the firmware says of the machine: the identifying strings (/sys/class/dmi/id),
//! and the free strings of SMBIOS type 11 with systemd's credentials in them
//! (SMBIOS 3.7 sections 6.1 and 7.12; systemd.system-credentials(7)).

use std::path::Path;

use super::base64;
use super::found::Found;
use super::read_some;

/// Longest table.
const TABLE_MAX: usize = 1 << 21;
const OEM_STRINGS: u8 = 11;
const END: u8 = 127;
const PREFIX: &[u8] = b"io.systemd.credential";

/// The strings that tell clouds apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Dmi {
    pub(super) sys_vendor: String,
    pub(super) product_name: String,
    pub(super) product_uuid: String,
    pub(super) product_serial: String,
    pub(super) chassis_asset_tag: String,
    pub(super) bios_version: String,
}

impl Dmi {
    /// Reads them below `folder`; what is not there is empty.
    pub(super) fn read(folder: &Path) -> Dmi {
        let text = |name: &str| {
            let bytes = read_some(&folder.join(name), 4096).unwrap_or_default();
            String::from_utf8_lossy(&bytes).trim().to_owned()
        };
        Dmi {
            sys_vendor: text("sys_vendor"),
            product_name: text("product_name"),
            product_uuid: text("product_uuid"),
            product_serial: text("product_serial"),
            chassis_asset_tag: text("chassis_asset_tag"),
            bios_version: text("bios_version"),
        }
    }
}

/// The credentials in a machine's SMBIOS table.
///
/// # Errors
/// That there is no table, for people.
pub(super) fn credentials(table: &Path) -> Result<Found, String> {
    let bytes =
        read_some(table, TABLE_MAX).map_err(|error| format!("{}: {error}", table.display()))?;
    let mut found = Found::default();
    for text in oem_strings(&bytes) {
        take(text, &mut found);
    }
    Ok(found)
}

fn take(text: &[u8], found: &mut Found) {
    let Some(rest) = text.strip_prefix(PREFIX) else {
        return;
    };
    let (binary, rest) = match (rest.strip_prefix(b":"), rest.strip_prefix(b".binary:")) {
        (Some(rest), _) => (false, rest),
        (_, Some(rest)) => (true, rest),
        _ => return,
    };
    let Some(at) = rest.iter().position(|&byte| byte == b'=') else {
        return found.note("smbios: a credential without `=`".into());
    };
    let name = String::from_utf8_lossy(&rest[..at]).into_owned();
    let value = match binary {
        true => base64::decode(&rest[at + 1..]),
        false => Some(rest[at + 1..].to_vec()),
    };
    match value {
        Some(value) => found.credential(&name, value),
        None => found.note("smbios: a binary credential is no base64".into()),
    }
}

/// All strings of all structures of type 11.
///
/// ```text
/// type u8, length u8, handle u16, fields up to `length`, strings each with a NUL, one more NUL
/// ```
fn oem_strings(mut table: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let [kind, length, _, _, ..] = *table {
        let Some(mut rest) = table.get(usize::from(length.max(4))..) else {
            break;
        };
        // A structure without strings ends in two NULs, too.
        let mut any = false;
        loop {
            let Some(end) = rest.iter().position(|&byte| byte == 0) else {
                return all;
            };
            let text = &rest[..end];
            rest = &rest[end + 1..];
            if text.is_empty() {
                if !any {
                    rest = rest.strip_prefix(&[0]).unwrap_or(rest);
                }
                break;
            }
            any = true;
            if kind == OEM_STRINGS {
                all.push(text);
            }
        }
        if kind == END {
            break;
        }
        table = rest;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    fn table() -> Vec<u8> {
        let mut table = vec![1, 6, 0, 1, 1, 2];
        table.extend(b"Vendor\0Product\0\0");
        // No strings at all.
        table.extend([16, 5, 0, 2, 0, 0, 0]);
        table.extend([11, 5, 0, 3, 4]);
        table.extend(b"something else\0io.systemd.credential:db-password=s3=cret\0");
        table.extend(b"io.systemd.credential.binary:key=AAEC\0");
        table.extend(b"io.systemd.credential:../x=1\0\0");
        table.extend([127, 4, 0, 4, 0, 0]);
        table.extend([11, 5, 0, 5, 1]);
        table.extend(b"io.systemd.credential:behind=the end\0\0");
        table
    }

    fn all(table: &[u8]) -> Found {
        let mut found = Found::default();
        oem_strings(table)
            .into_iter()
            .for_each(|text| take(text, &mut found));
        found
    }

    #[test]
    fn credentials_are_found_among_the_rest() {
        let found = all(&table());
        assert_eq!(found.credentials["db-password"], b"s3=cret");
        assert_eq!(found.credentials["key"], [0, 1, 2]);
        assert_eq!((found.credentials.len(), found.odd.len()), (2, 1));
    }

    #[test]
    fn no_table_breaks_it() {
        for cut in 0..table().len() {
            all(&table()[..cut]);
        }
        all(&[11, 255, 0, 0]);
        fuzz(&[&table()], |bytes, _| {
            all(bytes);
        });
    }
}
