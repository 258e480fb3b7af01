//! [`FileLock`]: one process, one backend at a time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
};

use super::error::SqliteOpenError;

/// The exclusive lock beside a database, held until dropped. The operating system frees it when the process ends.
#[derive(Debug)]
pub(super) struct FileLock {
    _file: File,
}

impl FileLock {
    /// Locks `<database>.lock`, creating it if needed.
    pub(super) fn acquire(database: &Path) -> Result<Self, SqliteOpenError> {
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let file = create_private(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(SqliteOpenError::InUse { path: database.to_owned(), lock: path }),
            Err(TryLockError::Error(source)) => Err(SqliteOpenError::Io { path, source }),
        }
    }
}

/// Opens a file for writing; if there is none, makes one that only its owner can read.
pub(super) fn create_private(path: &Path) -> Result<File, SqliteOpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|source| SqliteOpenError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_exclusive_until_dropped() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let database = directory.path().join("x.db");
        let first = FileLock::acquire(&database).expect("free");
        let second = FileLock::acquire(&database).expect_err("held");
        assert!(second.to_string().contains("x.db.lock"), "{second}");
        drop(first);
        FileLock::acquire(&database).expect("free again");
    }
}
