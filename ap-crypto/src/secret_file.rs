//! [`SecretFile`]: a root key that somebody else put into a file: Docker, Kubernetes, systemd.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::{error::KeyError, key::RootKey, provider::KeyProvider};

/// A file that holds the root key and that this process only reads: 64 hex digits or base64 of exactly 32 bytes, and maybe one
/// line end. Links are followed, which Kubernetes makes its files of.
///
/// | Where it comes from | Path |
/// | --- | --- |
/// | Docker secret | `/run/secrets/<name>` |
/// | Kubernetes secret volume | wherever it is mounted; give it `defaultMode: 0400` |
/// | systemd credential | `$CREDENTIALS_DIRECTORY/<name>` |
///
/// # Security
/// On Unix a file that others may write or execute is refused, and one that others may read, unless it is below `/run/secrets`:
/// what Docker puts there is readable by everybody in the container, which is the process's own.
#[derive(Clone, Debug)]
pub struct SecretFile {
    path: PathBuf,
}

impl SecretFile {
    /// Will read `path`, each time a key is asked for.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where the key is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self) -> Result<RootKey, KeyError> {
        let failed = |source| KeyError::File { path: self.path.clone(), source };
        let file = File::open(&self.path).map_err(failed)?;
        self.check_permissions(&file.metadata().map_err(failed)?)?;
        // One byte more than any form may have, so that a longer one is noticed; no reallocation, no stray copy.
        let mut text = Zeroizing::new(Vec::with_capacity(MOST_BYTES + 1));
        file.take(MOST_BYTES as u64 + 1).read_to_end(&mut text).map_err(failed)?;
        let line = text.strip_suffix(b"\n").unwrap_or(&text);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        RootKey::from_text(line, &format!("file `{}`", self.path.display()))
    }

    #[cfg(unix)]
    fn check_permissions(&self, metadata: &fs::Metadata) -> Result<(), KeyError> {
        use std::os::unix::fs::PermissionsExt;
        let mode = metadata.permissions().mode() & 0o7777;
        let shown = SHOWN.iter().any(|directory| self.path.starts_with(directory));
        let refused = if shown { 0o033 } else { 0o077 };
        if mode & refused != 0 {
            return Err(KeyError::Permissions { path: self.path.clone(), mode });
        }
        Ok(())
    }

    #[cfg(not(unix))]
    fn check_permissions(&self, _: &fs::Metadata) -> Result<(), KeyError> {
        Ok(())
    }
}

#[async_trait]
impl KeyProvider for SecretFile {
    /// Reads and checks the file: at start-up only.
    async fn root_key(&self) -> Result<RootKey, KeyError> {
        self.read()
    }
}

/// Where secrets are readable by everybody in a container of their own.
#[cfg(unix)]
const SHOWN: [&str; 2] = ["/run/secrets", "/var/run/secrets"];
/// The longest form, hex, and a line end.
const MOST_BYTES: usize = 2 * RootKey::BYTES + 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn written(directory: &Path, text: &str) -> SecretFile {
        let path = directory.join("root-key");
        let _ = fs::remove_file(&path);
        fs::write(&path, text).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        }
        SecretFile::new(path)
    }

    #[test]
    fn every_form_is_read_with_and_without_a_line_end() {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let directory = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (100..132).collect();
        let mut hex = String::new();
        crate::hex::push_hex(&bytes, &mut hex);
        let expected = RootKey::from_slice(&bytes).unwrap();
        for text in [hex, STANDARD.encode(&bytes)] {
            for end in ["", "\n", "\r\n"] {
                assert!(
                    written(directory.path(), &format!("{text}{end}")).read().unwrap() == expected,
                    "{text}{end:?}"
                );
            }
            for end in ["\n\n", " ", "\n\r\n", "\0", "\nmore"] {
                let error = written(directory.path(), &format!("{text}{end}")).read().unwrap_err();
                assert!(matches!(error, KeyError::Format { .. }), "{end:?}: {error}");
                assert!(!format!("{error} {error:?}").contains(&text));
            }
        }
    }

    #[test]
    fn short_missing_and_long_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let short = written(directory.path(), &format!("{}\n", "0123456789abcdef".repeat(2))).read().unwrap_err();
        assert!(matches!(short, KeyError::Short { bits: 128, .. }), "{short}");
        assert!(written(directory.path(), &"ab".repeat(1_000)).read().is_err());
        assert!(matches!(SecretFile::new(directory.path().join("none")).read(), Err(KeyError::File { .. })));
        assert!(SecretFile::new(directory.path()).read().is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_open_files_refused() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let directory = tempfile::tempdir().unwrap();
        let file = written(directory.path(), &"c0ffee11".repeat(8));
        // As Kubernetes mounts it: a link to a link to a file.
        let (data, key) = (directory.path().join("..data"), directory.path().join("key"));
        symlink(directory.path(), &data).unwrap();
        symlink(data.join("root-key"), &key).unwrap();
        assert!(SecretFile::new(&key).read().unwrap() == file.read().unwrap());
        for bit in [0o040, 0o020, 0o010, 0o004, 0o002, 0o001] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(0o400 | bit)).unwrap();
            assert!(matches!(SecretFile::new(&key).read(), Err(KeyError::Permissions { .. })), "{bit:o}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_docker_mounts_may_be_readable_but_not_writable() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let file = written(directory.path(), "x");
        let judged = |mode| {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            SecretFile::new("/run/secrets/root-key").check_permissions(&fs::metadata(file.path()).unwrap())
        };
        assert!(judged(0o444).is_ok());
        for mode in [0o446, 0o464, 0o455] {
            assert!(judged(mode).is_err(), "{mode:o}");
        }
    }
}
