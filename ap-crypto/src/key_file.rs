//! [`KeyFile`]: a root key in a file of its own.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::{
    entropy::{SystemEntropy, random_array},
    error::KeyError,
    hex::{decode_hex, push_hex},
    key::RootKey,
    provider::KeyProvider,
};

/// A file holding the root key as 64 hex digits and a line feed, for its owner's eyes only.
///
/// # Security
/// Keep it apart from the database and its backups: together they are the data in the clear. On Unix a file that group
/// or others may read, change or execute is refused; other systems' access lists are not checked.
#[derive(Clone, Debug)]
pub struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    /// Checks the key at `path`, or creates a random one if there is no such file. The directory must exist.
    ///
    /// The file appears whole, with mode 0600, and is on disk with its directory entry before this returns. Processes
    /// that do this at the same time use the same key.
    ///
    /// # Errors
    /// [`KeyError::Permissions`], [`KeyError::FileFormat`], [`KeyError::Weak`], [`KeyError::File`],
    /// [`KeyError::Entropy`].
    pub fn open_or_create(path: impl Into<PathBuf>) -> Result<Self, KeyError> {
        let file = Self { path: path.into() };
        match file.read() {
            Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                file.create()?;
                file.read()?;
            }
            other => {
                other?;
            }
        }
        Ok(file)
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
        // One byte more than a key file may have, so that a longer one is noticed; no reallocation, no stray copy.
        let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES + 1));
        file.take(FILE_BYTES as u64 + 1).read_to_end(&mut text).map_err(failed)?;
        let digits = text.strip_suffix(b"\n").unwrap_or(&text);
        let mut key = Zeroizing::new([0; RootKey::BYTES]);
        if !decode_hex(digits, key.as_mut()) {
            return Err(KeyError::FileFormat { path: self.path.clone() });
        }
        RootKey::from_slice(key.as_ref())
    }

    /// Writes a complete file beside `path`, then links it to its name: the link fails if the name is taken, and nobody
    /// ever sees a part of a key.
    fn create(&self) -> Result<(), KeyError> {
        let failed = |source| KeyError::File { path: self.path.clone(), source };
        let mut key = Zeroizing::new([0; RootKey::BYTES]);
        crate::entropy::Entropy::fill(&SystemEntropy, key.as_mut())?;
        let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES));
        push_hex(key.as_ref(), &mut text);
        text.push('\n');

        let mut draft_name = self.path.file_name().unwrap_or_default().to_owned();
        let mut suffix = String::from(".draft-");
        push_hex(&random_array::<8>(&SystemEntropy)?, &mut suffix);
        draft_name.push(suffix);
        let draft = Draft { path: self.path.with_file_name(draft_name) };
        draft.write(text.as_bytes()).map_err(failed)?;
        match fs::hard_link(&draft.path, &self.path) {
            Ok(()) => {}
            Err(taken) if taken.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(failed(source)),
        }
        drop(draft);
        sync_directory(&self.path).map_err(failed)
    }

    #[cfg(unix)]
    fn check_permissions(&self, metadata: &fs::Metadata) -> Result<(), KeyError> {
        use std::os::unix::fs::PermissionsExt;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
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
impl KeyProvider for KeyFile {
    /// Reads and checks the file again: 65 bytes, at start-up only.
    async fn root_key(&self) -> Result<RootKey, KeyError> {
        self.read()
    }
}

/// A key file under a name that nobody looks for; removed when dropped.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn write(&self, content: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&self.path)?;
        file.write_all(content)?;
        file.sync_all()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(target: "ap_crypto", path = %self.path.display(), %error, "a draft of a key file is left over");
        }
    }
}

/// Makes the directory entry of `path` durable.
#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

/// Other systems have no way to sync a directory.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

const FILE_BYTES: usize = 2 * RootKey::BYTES + 1;

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use super::*;

    fn text_of(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    fn write_private(path: &Path, content: &str) {
        let _ = fs::remove_file(path);
        Draft::write(&std::mem::ManuallyDrop::new(Draft { path: path.to_owned() }), content.as_bytes()).unwrap();
    }

    #[test]
    fn a_new_key_is_kept_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root.key");
        let first = KeyFile::open_or_create(&path).unwrap().read().unwrap();
        let text = text_of(&path);
        assert!(text.len() == 65 && text.ends_with('\n'));
        assert!(KeyFile::open_or_create(&path).unwrap().read().unwrap() == first);
        assert_eq!(text_of(&path), text);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "a draft is left over");
        let other = KeyFile::open_or_create(directory.path().join("other.key")).unwrap();
        assert!(other.read().unwrap() != first);
    }

    #[cfg(unix)]
    #[test]
    fn a_new_file_is_private_and_an_open_one_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root.key");
        KeyFile::open_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let with_mode = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            KeyFile::open_or_create(&path)
        };
        for bit in [0o040, 0o020, 0o010, 0o004, 0o002, 0o001] {
            let error = with_mode(0o600 | bit).unwrap_err();
            assert!(error.to_string().contains(&format!("mode {:04o}", 0o600 | bit)), "{error}");
        }
        assert!(with_mode(0o600).is_ok());
        assert!(with_mode(0o400).is_ok());
    }

    #[test]
    fn processes_that_race_get_the_same_key() {
        let directory = tempfile::tempdir().unwrap();
        for round in 0..10 {
            let path = directory.path().join(format!("{round}.key"));
            let barrier = Barrier::new(6);
            let ids = thread::scope(|scope| {
                let racers: Vec<_> = (0..6)
                    .map(|_| {
                        scope.spawn(|| {
                            barrier.wait();
                            KeyFile::open_or_create(&path).unwrap().read().unwrap().id()
                        })
                    })
                    .collect();
                racers.into_iter().map(|racer| racer.join().unwrap()).collect::<Vec<_>>()
            });
            assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 10);
    }

    #[test]
    fn only_a_whole_key_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root.key");
        let digits = "c0ffee11".repeat(8);
        for good in [format!("{digits}\n"), digits.clone(), digits.to_uppercase()] {
            write_private(&path, &good);
            assert!(KeyFile::open_or_create(&path).is_ok(), "{good:?}");
        }
        let wrong = [
            String::new(),
            "\n".to_owned(),
            digits[..63].to_owned(),
            digits[..62].to_owned(),
            format!("{digits}0"),
            format!("{digits}00"),
            format!("{digits}\n\n"),
            format!("{digits}\r\n"),
            format!(" {digits}"),
            format!("{digits}\n{digits}\n"),
        ];
        for text in wrong {
            write_private(&path, &text);
            let error = KeyFile::open_or_create(&path).unwrap_err();
            assert!(matches!(error, KeyError::FileFormat { .. }), "{text:?}: {error}");
            assert!(!format!("{error} {error:?}").contains("c0ffee"));
            assert_eq!(text_of(&path), text, "a refused file must stay as it is");
        }
    }

    #[test]
    fn no_directory_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let error = KeyFile::open_or_create(directory.path().join("missing/root.key")).unwrap_err();
        assert!(matches!(error, KeyError::File { .. }));
        assert!(KeyFile::open_or_create(directory.path()).is_err());
    }
}
