//! Looks for secrets in the files of the database, the way a thief with a copy of the disk would.

use std::{fs, path::Path};

use anyhow::Context;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// Every file of a directory, read whole.
pub(crate) struct Disk {
    files: Vec<(String, Vec<u8>)>,
}

impl Disk {
    /// Reads the directory.
    pub(crate) fn read(directory: &Path) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let bytes = fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
            files.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes));
        }
        files.sort();
        Ok(Self { files })
    }

    /// Names and sizes.
    pub(crate) fn listing(&self) -> String {
        let files = self.files.iter().map(|(name, bytes)| format!("{name} ({} KiB)", bytes.len().div_ceil(1024)));
        files.collect::<Vec<_>>().join(", ")
    }

    /// In how many places a text stands, in any of its [`spellings`].
    pub(crate) fn hits(&self, text: &str) -> usize {
        let spellings = spellings(text);
        let found = self.files.iter().map(|(_, bytes)| {
            let places = (0..bytes.len()).filter_map(|at| bytes.get(at..));
            places.filter(|rest| spellings.iter().any(|spelling| rest.starts_with(spelling))).count()
        });
        found.sum()
    }
}

/// The bytes a text may hide behind: as it is, hexadecimal, UTF-16, and Base64 at each of the three positions at which it
/// can stand inside something longer.
fn spellings(text: &str) -> Vec<Vec<u8>> {
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut spellings = vec![
        text.as_bytes().to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
    ];
    for before in 0..3 {
        let message = [vec![0; before], text.as_bytes().to_vec()].concat();
        for alphabet in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            // Digits that also depend on the neighbours are left out: those of the bytes before, and the last.
            let digits: Vec<u8> = alphabet.encode(&message).into_bytes();
            let clean = (before * 8).div_ceil(6)..digits.len().saturating_sub(1);
            spellings.extend(digits.get(clean).map(<[u8]>::to_vec));
        }
    }
    spellings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_found_wherever_it_stands() {
        let secret = "crm_Th3-Secret_0f~the>tale?";
        let disk = |bytes: Vec<u8>| Disk { files: vec![("flows.db".to_owned(), bytes)] };
        for before in ["", "x", "xy", "xyz"] {
            for after in ["", "}", "}}"] {
                let whole = format!("{before}{secret}{after}");
                for hidden in [
                    whole.clone().into_bytes(),
                    STANDARD_NO_PAD.encode(&whole).into_bytes(),
                    URL_SAFE_NO_PAD.encode(&whole).into_bytes(),
                    whole.bytes().map(|byte| format!("{byte:02X}")).collect::<String>().into_bytes(),
                    whole.encode_utf16().flat_map(u16::to_le_bytes).collect(),
                ] {
                    assert!(disk(hidden.clone()).hits(secret) > 0, "{before} {after} {hidden:?}");
                }
            }
        }
        assert_eq!(disk(b"nothing of the kind".repeat(50)).hits(secret), 0);
    }
}
